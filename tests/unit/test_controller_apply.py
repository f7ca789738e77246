"""When less traffic goes first, since when routers owe us a rollback, whose credentials fetch."""

from __future__ import annotations

import pytest
from tests.unit.controller_world import OWNER, container, pod, running, world

from sluice.api.serving import Serving
from sluice.api.status import LastRollback
from sluice.api.validation import Validation
from sluice.controller.apply import doomed, secret_of, sheds, unconfirmed_since
from sluice.controller.looks import _pods, _said, _said_of_copies
from sluice.evidence.mirror import Followed, MirrorReading
from sluice.evidence.snapshot import Reading
from sluice.objects.common import Obj
from sluice.objects.jobs import gates_job
from sluice.objects.revision import pod_template
from sluice.rollout.model import Failure, Progress, Roles, RolloutProgress
from sluice.stats.look import ArmLook, Look

BASE = Roles(stable="old", candidate="new", weight=20)
WATCH = Roles(stable="new", previous="old", holdback=10)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (BASE, BASE.model_copy(update={"weight": 0}), True),
        (BASE, BASE.model_copy(update={"weight": 50}), False),
        (BASE, BASE, False),
        (BASE, Roles(stable="new", previous="old", holdback=10), False),
        (WATCH, Roles(stable="old"), True),
        (WATCH, Roles(stable="new"), False),
    ],
)
def test_only_taking_back_goes_to_routers_first(
    before: Roles, after: Roles, expected: bool
) -> None:
    assert sheds(before, after) is expected


def test_only_pods_that_are_named_and_stay_are_deleted() -> None:
    pods = {"old": [pod("a")], "new": [pod("b"), pod("c"), pod("d", going=True)]}
    assert doomed(pods, {"b", "d", "gone"}) == [pods["new"][0]]
    assert doomed(pods, frozenset()) == []


def test_since_when_routers_owe_a_confirmation() -> None:
    at = "2026-01-01T00:00:00.500Z"
    owed = LastRollback(from_="new", to="old", check="errors", reason="bad", detected_at=at)
    assert unconfirmed_since(Progress()) is None
    assert unconfirmed_since(Progress(last_rollback=owed)) == 1767225600.5
    settled = owed.model_copy(update={"traffic_zero_at": at})
    assert unconfirmed_since(Progress(last_rollback=settled)) is None
    failure = Failure(check="both", reason="Withdrawn", message="m", detected=7.0)
    going = RolloutProgress(
        id="1", source="s", revision="new", phase="RollingBack", failure=failure, withdrawn=True
    )
    assert unconfirmed_since(Progress(last_rollback=settled, rollout=going)) == 7.0


def recorded(secret: str | None) -> Obj:
    template = pod_template(
        name="iris",
        namespace="shop",
        revision="abc",
        uri="s3://models/iris",
        secret=secret,
        digest="sha256:" + "0" * 64,
        allow_code=False,
        image="sluice",
        serving=Serving(),
    )
    return {"spec": {"podTemplate": template}}


def test_each_revision_is_fetched_with_the_secret_that_it_was_recorded_with() -> None:
    old, new = secret_of(recorded("s3-old")), secret_of(recorded("s3-new"))
    assert (old, new) == ("s3-old", "s3-new")
    assert secret_of(recorded(None)) is None
    assert secret_of(None) is None
    job = gates_job(
        OWNER,
        "abc",
        image="sluice",
        candidate=("s3://models/iris", "sha256:" + "0" * 64, new),
        stable=("s3://models/iris", "sha256:" + "1" * 64, old),
        validation=Validation(),
        allow_code=False,
    )
    inits = job["spec"]["template"]["spec"]["initContainers"]
    secrets = {c["name"]: c["envFrom"][0]["secretRef"]["name"] for c in inits}
    assert secrets == {"candidate": "s3-new", "stable": "s3-old"}


@pytest.mark.parametrize(
    ("code", "bounded", "limits"),
    [(True, False, {"memory": "4Gi"}), (True, True, None), (False, False, None)],
)
def test_gates_of_code_have_a_bound_unless_one_is_said(
    code: bool, bounded: bool, limits: dict[str, str] | None
) -> None:
    job = gates_job(
        OWNER,
        "abc",
        image="sluice",
        candidate=("s3://models/iris", "sha256:" + "0" * 64, None),
        stable=None,
        validation=Validation(),
        allow_code=code,
        bounded=bounded,
    )
    (gates,) = job["spec"]["template"]["spec"]["containers"]
    assert gates["resources"].get("limits") == limits


def test_pods_that_have_ended_are_not_waited_for() -> None:
    pods = {
        "old": [pod("a"), pod("evicted", phase="Failed"), pod("young", address="")],
        "new": [pod("b", going=True)],
    }
    assert [p.name for p in _pods(world(pods=pods), "old", "new")] == ["a", "b"]


def test_what_is_said_of_a_look() -> None:
    good = Look(1, 1.0, 20, ArmLook(n=8), ArmLook(n=2))
    assert _said(Reading(good, {}, "")) == ""
    empty = Look(1, 1.0, 20, ArmLook(n=8), ArmLook())
    assert "no request" in _said(Reading(empty, {}, ""))
    partial = _said(Reading(good, {}, "Pod p does not answer."))
    assert partial.startswith("Pod p does not answer.")
    assert "nothing is promoted" in partial


def test_a_look_at_copies_says_what_is_wrong_with_it() -> None:
    followed = Followed(2, 2, 2, 0, "")

    def read(n: int, message: str = "") -> str:
        look = Look(1, 10.0, 0, ArmLook(n), ArmLook(n))
        return _said_of_copies(MirrorReading(look, {}, followed, message))

    assert read(7) == ""
    assert read(0) == "The candidate answered no copy."
    assert read(7, "Pod a is away.").startswith("Pod a is away. Until all answer")


def test_only_pods_that_users_reach_are_asked_what_they_copied() -> None:
    pods = [
        pod("one", container(running()), ready=True),
        pod("late", container(running()), address="10.0.0.3"),
        pod("gone", container(running()), ready=True, going=True, address="10.0.0.4"),
    ]
    seen = world(pods={"old": pods})
    assert [p.name for p in _pods(seen, "old", ready=True)] == ["one"]
    assert [p.name for p in _pods(seen, "old")] == ["one", "late", "gone"]
