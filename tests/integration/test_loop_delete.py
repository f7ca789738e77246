"""Deleting at every phase, with and without an operator, and applying a quarantined model again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.integration.loop import PATHS, Loop, loop_in, rows
from tests.integration.routers import deaf, routers

from sluice.local.cluster import LocalCluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

SMALL: dict[str, Any] = {"replicas": 1, "traffic": {"routerReplicas": 1}}
NOWHERE = "s3://models/nothing"
NO_SECRET = {"credentialsRef": {"name": "nobody-made-this"}}
STEP = {"weight": 20, "minRequests": 50, "minDuration": "1h"}
WATCH = {"duration": "1h", "holdback": 10}
FIRST = ("Resolving", "Validating", "Provisioning")
LATER = ("Stepping", "Watching", "Stable")


@pytest.fixture
def loop(cluster: LocalCluster, namespace: str, kubectl: Callable[..., str]) -> Iterator[Loop]:
    with loop_in(cluster, namespace, kubectl) as made:
        yield made


def test_deleting_leaves_nothing_at_any_phase(loop: Loop) -> None:
    first, second = loop.package("v1", bias=0.1), loop.package("v2", bias=0.2)
    loop.start()
    names = {(phase, way): f"{phase.lower()}-{way}" for phase in FIRST + LATER for way in WAYS}
    for (phase, _), name in names.items():
        loop.apply(NOWHERE if phase == "Resolving" else first, name, **held(phase))
    loop.until(lambda: all(loop.serves("v1", n) for n in of(names, LATER)), 120, "v1 serves")
    for way in WAYS:
        gates_only = {"strategy": "GatesOnly", "steps": None, "watch": WATCH}
        loop.apply(second, names["Watching", way], rollout=gates_only, **SMALL)
        loop.apply(second, names["Stepping", way], rollout={"steps": [STEP]}, **SMALL)
    for (phase, _), name in names.items():
        wanted = "" if phase == "Stable" else phase
        loop.until(lambda n=name, w=wanted: loop.phase(n) == w, 90, f"{name} is there")  # type: ignore[misc]
    said = loop.condition("Ready", "resolving-up")["message"]
    assert "nobody-made-this" in said, said
    loop.until(lambda: "cpu" in loop.condition("Ready", "provisioning-up")["message"], 20, "cpu")
    quarantine(loop, names["Stepping", "up"])

    for name in of(names, FIRST + LATER, "up"):
        loop.kubectl("-n", loop.namespace, "delete", "mdep", name, "--wait=false")
    loop.kill()
    for name in of(names, FIRST + LATER, "down"):
        loop.kubectl("-n", loop.namespace, "delete", "mdep", name, "--wait=false")
    everything = of(names, FIRST + LATER, *WAYS)
    loop.until(lambda: not left(loop, everything), 90, "the collector takes what is owned")
    assert loop.list("ModelDeployment") == []
    assert left(loop, ["stepping-down"], "ModelRevision"), "records wait for the operator"
    loop.start()
    kept = {f"ModelRevision/stepping-up-rev-{loop.revision('v2', 'stepping-up')}"}
    loop.until(lambda: left(loop, everything, "ModelRevision") == kept, 60, "only the quarantined")

    again(loop, "stepping-up", first, second)


def test_deleting_while_traffic_is_taken_back_leaves_the_record_only(loop: Loop) -> None:
    first, second = loop.package("v1", bias=0.1), loop.package("v2", bias=0.2)
    loop.start()
    for name in WAYS:
        loop.apply(first, name, replicas=1)
    loop.until(lambda: all(loop.serves("v1", n) for n in WAYS), 120, "v1 serves")
    for name in WAYS:
        loop.apply(second, name, replicas=1, rollout={"steps": [STEP]})
    loop.until(lambda: all(loop.phase(n) == "Stepping" for n in WAYS), 60, "canaries")
    addresses = [a for name in WAYS for a, _ in routers(loop, name).values()]
    assert len(addresses) == 4

    # Deaf routers are replaced one at a time, so there is time enough to meet the phase.
    with deaf(loop, *addresses):
        loop.kubectl("-n", loop.namespace, "annotate", "mdep", *WAYS, "sluice.dev/abort=now")
        loop.until(lambda: all(loop.phase(n) == "RollingBack" for n in WAYS), 20, "taken back")
        loop.kubectl("-n", loop.namespace, "delete", "mdep", "up", "--wait=false")
        loop.until(lambda: loop.mdep("up") == {}, 20, "nothing holds it back")
        assert loop.phase("down") == "RollingBack"
        loop.kill()
        loop.kubectl("-n", loop.namespace, "delete", "mdep", "down", "--wait=false")
    loop.until(lambda: not left(loop, [*WAYS]), 90, "the collector takes what is owned")
    loop.start()
    kept = {f"ModelRevision/{name}-rev-{loop.revision('v2', name)}" for name in WAYS}
    loop.until(lambda: left(loop, [*WAYS], "ModelRevision") == kept, 60, "only the quarantined")


WAYS = ("up", "down")


def of(names: dict[tuple[str, str], str], phases: tuple[str, ...], *ways: str) -> list[str]:
    """Names by phase and way."""
    return [n for (phase, way), n in names.items() if phase in phases and way in (ways or WAYS)]


def held(phase: str) -> dict[str, Any]:
    """Changes of the spec under which a first revision stays in ``phase``."""
    if phase == "Resolving":
        return {**SMALL, "model": NO_SECRET}
    if phase == "Validating":
        data = {"uri": NOWHERE, **NO_SECRET}
        checks = [{"metric": "rocAuc", "min": 0.5}]
        return {**SMALL, "validation": {"quality": {"dataset": data, "checks": checks}}}
    if phase == "Provisioning":
        return {**SMALL, "serving": {"resources": {"requests": {"cpu": "1000"}}}}
    return SMALL


def quarantine(loop: Loop, name: str) -> None:
    """A person aborts the candidate."""
    loop.kubectl("-n", loop.namespace, "annotate", f"mdep/{name}", "sluice.dev/abort=now")
    loop.until(
        lambda: loop.condition("Stalled", name).get("reason") == "RevisionQuarantined", 30, "abort"
    )


def left(loop: Loop, names: list[str], *kinds: str) -> set[str]:
    """What still belongs to ``names``, of ``kinds`` or of all but records."""
    found = set()
    for kind in kinds or [k for k in PATHS if k != "ModelRevision"]:
        for each in loop.list(kind):
            labels = each["metadata"].get("labels", {})
            if labels.get("sluice.dev/deployment", each["metadata"]["name"]) in names:
                found.add(f"{kind}/{each['metadata']['name']}")
    return found


def again(loop: Loop, name: str, first: str, second: str) -> None:
    """Deleting and applying does not launder a bad model: 0 requests."""
    loop.apply(first, name, **SMALL)
    loop.until(lambda: loop.serves("v1", name), 60, "v1 serves again")
    bad = loop.revision("v2", name)
    users = loop.users(rows(), rate=50, name=name)
    loop.apply(second, name, **SMALL)
    reason = "RevisionQuarantined"
    loop.until(lambda: loop.condition("Stalled", name).get("reason") == reason, 30, "refused")
    before = users.ok()
    loop.until(lambda: users.ok() > before + 100, 20, "users are served")
    assert users.got(bad) == 0
    assert not [p for p in loop.list("Pod") if bad in p["metadata"]["name"]]
    said = loop.condition("Stalled", name)["message"]
    assert f"sluice.dev/retry={loop.digests['v2'][7:19]}" in said, said
    users.stop()
