"""What jobs report, and what it means when they do not."""

from __future__ import annotations

import json

from tests.unit.controller_world import container, ended, pod

from sluice.controller.reports import finished_at, gates_view, resolve_view
from sluice.objects.common import Obj


def job(*conditions: str) -> Obj:
    at = "2026-01-01T00:00:00Z"
    rows = [{"type": c, "status": "True", "lastTransitionTime": at} for c in conditions]
    return {"metadata": {"name": "iris-gates-1"}, "status": {"conditions": rows}}


def test_a_job_without_a_pod_says_where_to_look() -> None:
    for found in (resolve_view(job(), []), gates_view(job(), [])):
        assert found.state == "Running"
        assert "kubectl describe job/iris-gates-1" in found.message


def test_a_job_that_waits_for_a_secret_says_so() -> None:
    state = {"waiting": {"reason": "CreateContainerConfigError", "message": 'secret "s3" missing'}}
    waiting = pod("p", container(state, name="resolve"), phase="Pending")
    assert 'secret "s3" missing' in resolve_view(job(), [waiting]).message


def test_a_report_decides_whether_to_try_again() -> None:
    for retryable in (True, False):
        said = json.dumps({"ok": False, "reason": "X", "message": "m", "retryable": retryable})
        done = pod("p", container(ended(3, said), name="resolve"), phase="Failed")
        found = resolve_view(job("Failed"), [done])
        assert (found.state, found.reason, found.retryable) == ("Failed", "X", retryable)


def test_no_report_is_a_failure_that_may_pass() -> None:
    found = resolve_view(job("Failed"), [])
    assert (found.state, found.retryable) == ("Failed", True)
    killed = pod("p", container(ended(137, "", "OOMKilled"), name="gates"), phase="Failed")
    assert gates_view(job("Failed"), [killed]).state == "Broken"


def test_something_else_than_a_report_is_never_a_pass() -> None:
    for text in ("all good", '{"ok": true}', '{"gates": [{"verdict": 7}]}', "[]"):
        done = pod("p", container(ended(0, text), name="gates"), phase="Succeeded")
        assert gates_view(job("Complete"), [done]).state == "Broken", text
        done = pod("p", container(ended(0, text), name="resolve"), phase="Succeeded")
        assert resolve_view(job("Complete"), [done]).state == "Failed", text


def test_when_a_job_ended() -> None:
    assert finished_at(job()) is None
    assert finished_at(job("Failed")) == 1767225600.0
