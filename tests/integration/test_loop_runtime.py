"""Runtimes that cannot live: named with exit code, taken back only when it is the model's fault."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.integration.loop import Loop, loop_in, rows

from sluice.local.cluster import LocalCluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

SMALL: dict[str, Any] = {"replicas": 1, "traffic": {"routerReplicas": 1}}


@pytest.fixture
def loop(cluster: LocalCluster, namespace: str, kubectl: Callable[..., str]) -> Iterator[Loop]:
    with loop_in(cluster, namespace, kubectl) as made:
        yield made


def test_out_of_memory_is_the_revisions_and_waiting_is_nobodys(loop: Loop) -> None:
    good, other = loop.package("p1"), loop.package("p2", bias=0.1)
    loop.start()
    loop.apply(good, **SMALL)
    loop.until(lambda: loop.serves("p1"), 60, "p1 serves")
    users = loop.users(rows())

    starved = {"serving": {"resources": {"limits": {"memory": "20Mi"}}}}
    loop.apply(other, **SMALL, **starved)
    loop.until(lambda: loop.is_true("Stalled"), 90, "a pod without memory is taken back")
    said = loop.condition("Stalled")
    assert said["reason"] == "RevisionQuarantined", said
    assert "out of memory" in said["message"], said
    assert "137" in said["message"], said

    # More memory is another revision of the same package, and the package itself was not at fault.
    greedy = {"serving": {"resources": {"requests": {"cpu": "900"}}}}
    waits = {"rollout": {"progressDeadline": "15s"}}
    loop.apply(other, **SMALL, **greedy, **waits)
    loop.until(lambda: loop.is_true("Stalled"), 90, "a pod that no node can take is named")
    said = loop.condition("Stalled")
    assert said["reason"] == "ProgressDeadlineExceeded", said
    assert "cpu" in said["message"].lower(), said

    loop.apply(other, **SMALL)
    loop.until(lambda: loop.serves("p2"), 120, "with room it is promoted")
    totals = users.stop()
    assert not any(c.startswith(("routing", "connection")) for c in totals["causes"]), totals
