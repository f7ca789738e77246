"""Why pods are not ready, in words; and when that is the model's fault."""

from __future__ import annotations

import pytest
from tests.unit.controller_world import container, ended, pod, running

from sluice.controller.pods import trouble, view

CRASH = container({"waiting": {"reason": "CrashLoopBackOff"}}, restarts=1, last=ended(3, "boom"))


def test_a_quota_is_named_when_there_is_no_pod() -> None:
    said = "exceeded quota: small"
    failure = {"type": "ReplicaFailure", "status": "True", "message": said}
    deployment = {"spec": {"replicas": 2}, "status": {"conditions": [failure]}}
    found = view(deployment, [])
    assert found.trouble is not None
    assert said in found.trouble.message
    assert not found.trouble.models_fault


def test_a_missing_secret_is_named() -> None:
    state = {
        "waiting": {"reason": "CreateContainerConfigError", "message": 'secret "s3" not found'}
    }
    found = trouble([pod("a", inits=(container(state, name="fetch"),), phase="Pending")])
    assert found is not None
    assert (found.kind, found.models_fault) == ("Pending", False)
    assert 'secret "s3" not found' in found.message


def test_an_image_that_cannot_be_pulled_is_no_fault_of_the_model() -> None:
    state = {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}
    found = trouble([pod("a", container(state)), pod("b", container(state))])
    assert found is not None
    assert (found.kind, found.models_fault) == ("Image", False)


@pytest.mark.parametrize(("crashing", "fault"), [(1, False), (2, True)])
def test_a_crash_is_the_models_fault_on_two_pods(crashing: int, fault: bool) -> None:
    pods = [pod(f"p{i}", CRASH if i < crashing else container(running())) for i in range(3)]
    found = trouble(pods)
    assert found is not None
    assert (found.kind, found.models_fault) == ("Crash", fault)
    assert "exits with code 3" in found.message
    assert "boom" in found.message


def test_a_pod_that_cannot_be_scheduled_says_why() -> None:
    why = {"type": "PodScheduled", "status": "False", "message": "0/1 nodes: Insufficient cpu"}
    found = trouble([pod("a", phase="Pending", conditions=(why,))])
    assert found is not None
    assert "Insufficient cpu" in found.message


def test_failed_fetching_is_said_in_the_fetchers_words() -> None:
    init = container(ended(4, "the bucket does not answer"), name="fetch")
    found = trouble([pod("a", inits=(init,), phase="Pending")])
    assert found is not None
    assert (found.kind, found.models_fault) == ("Fetch", False)
    assert "the bucket does not answer" in found.message


def test_pods_on_their_way_out_do_not_count() -> None:
    leaving = pod("a", CRASH, ready=True, going=True)
    found = view({"spec": {"replicas": 1}}, [leaving, pod("b", container(running()), ready=True)])
    assert (found.ready, found.trouble) == (1, None)
