"""A Git repository applied in a loop sees no difference, whatever the operator does meanwhile."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from click.testing import CliRunner
from tests.integration.loop import QUICK, Loop, Obj, loop_in, merged, not_by_the_model, rows

from sluice.cli.judge import command as judge
from sluice.local.cluster import LocalCluster

pytestmark = [pytest.mark.cluster, pytest.mark.load, pytest.mark.timeout(300)]

GIT = "argocd"
APPLY = ("apply", "--server-side", f"--field-manager={GIT}", "-o", "json", "-f", "-")
OURS = ("labels", "annotations", "ownerReferences", "finalizers", "generation")


@pytest.fixture
def loop(cluster: LocalCluster, namespace: str, kubectl: Callable[..., str]) -> Iterator[Loop]:
    with loop_in(cluster, namespace, kubectl) as made:
        yield made


class Repository:
    """What lies in Git, and a controller that applies it each second and compares."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self.manifest: Obj = {
            "apiVersion": "sluice.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {
                "name": "iris",
                "namespace": loop.namespace,
                "labels": {"app.kubernetes.io/instance": "models"},
                "annotations": {"argocd.argoproj.io/tracking-id": "models:sluice.dev/x:y"},
            },
        }
        self.phases: set[str] = set()

    def commit(self, uri: str) -> None:
        """A new model in Git, synchronised once."""
        model = {"model": {"uri": uri}}
        # Each phase lasts longer than a slow synchronisation.
        steps = [{"weight": 50, "minRequests": 50, "minDuration": "5s"}]
        rollout = {"steps": steps, "watch": {"duration": "10s"}}
        self.manifest["spec"] = merged(QUICK, {**model, "rollout": rollout})
        self._kubectl(*APPLY)

    def _kubectl(self, *arguments: str) -> Obj:
        text = json.dumps(self.manifest)
        return dict(json.loads(self._loop.kubectl(*arguments, stdin=text)))

    def sync(self) -> None:
        """No difference by a dry run; then applied anyway, which changes nothing either."""
        live = wish(self._loop.mdep())
        assert wish(self._kubectl(*APPLY, "--dry-run=server")) == live
        assert wish(self._kubectl(*APPLY)) == live
        found = self._loop.mdep()
        writers = {
            entry["manager"]: sorted(entry["fieldsV1"])
            for entry in found["metadata"]["managedFields"]
            if set(entry["fieldsV1"]) - {"f:status"}
        }
        assert writers == {GIT: ["f:metadata", "f:spec"]}
        self.phases.add(self._loop.phase())

    def until(self, check: Callable[[], bool], seconds: float, what: str) -> None:
        """Synchronises each second until it is so."""
        end = time.monotonic() + seconds
        while not check():
            assert time.monotonic() < end, f"{what}: not in time.\n{self._loop.describe()}"
            next_second = time.monotonic() + 1
            self.sync()
            time.sleep(max(0.0, next_second - time.monotonic()))
        self.sync()


def wish(found: Obj) -> Obj:
    """What somebody asked for, and how often it changed."""
    return {
        "spec": found["spec"],
        "metadata": {key: found["metadata"].get(key) for key in OURS},
    }


def test_git_sees_no_difference_through_a_promotion_and_a_rollback(
    loop: Loop, kubectl: Callable[..., str]
) -> None:
    first, better = loop.package("v1", bias=0.1), loop.package("v2", bias=0.15)
    worse = loop.package("v3", bias=0.2, impute=False)
    repository = Repository(loop)
    loop.start()
    repository.commit(first)
    repository.until(lambda: loop.serves("v1"), 60, "v1 serves")
    users = loop.users(rows(missing=0.25), rate=80)

    repository.commit(better)
    repository.until(lambda: loop.serves("v2") and not loop.phase(), 90, "v2 is promoted")
    assert {"Stepping", "Watching"} <= repository.phases

    repository.commit(worse)
    repository.until(lambda: loop.is_true("Stalled"), 90, "v3 is taken back")
    repository.until(lambda: not loop.phase(), 30, "the rollback ends")
    assert loop.condition("Stalled")["reason"] == "RevisionQuarantined"
    assert loop.status()["stable"]["digest"] == loop.digests["v2"]
    bad = loop.revision("v3")
    loop.until(lambda: users.got(bad) > 0, 10, "users say that v3 answered them")
    assert not_by_the_model(users.stop()) == {}

    _judged_again(loop)

    # The tool that people use says so too.
    text = json.dumps(repository.manifest)
    kubectl("diff", "--server-side", f"--field-manager={GIT}", "-f", "-", stdin=text)


def _judged_again(loop: Loop) -> None:
    """The saved object gives ``sluice judge`` the evidence that the operator had."""
    file, status = loop.directory / "iris.json", loop.status()
    file.write_text(json.dumps(loop.mdep()))
    found = next(c for c in status["checks"] if c["name"] == "errors")
    argv = [str(file), "--check", "errors", "--json"]
    result = CliRunner().invoke(judge, argv, catch_exceptions=False)
    last = json.loads(result.output)["looks"][-1]
    assert last["log10_evidence"] == pytest.approx(found["log10Evidence"], abs=1e-3)


def test_a_command_is_no_difference_for_git(loop: Loop, kubectl: Callable[..., str]) -> None:
    repository = Repository(loop)
    loop.start()
    repository.commit(loop.package("v1", bias=0.1))
    repository.until(lambda: loop.serves("v1"), 60, "v1 serves")
    kubectl("annotate", "mdep/iris", "sluice.dev/pause=now", "-n", loop.namespace)

    def answered() -> bool:
        last: Any = loop.status().get("lastCommand") or {}
        return last.get("op") == "pause"

    loop.until(answered, 20, "the command is answered")
    annotations = dict(loop.mdep()["metadata"]["annotations"])
    text = json.dumps(repository.manifest)
    kubectl("diff", "--server-side", f"--field-manager={GIT}", "-f", "-", stdin=text)
    applied = json.loads(kubectl(*APPLY, stdin=text))
    assert applied["metadata"]["annotations"] == annotations
