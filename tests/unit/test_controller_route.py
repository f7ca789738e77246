"""A router's shape, shares and pods; and less traffic, also on a router that is on its way out."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.unit.controller_world import container, pod, running, world
from tests.unit.router_lab import router_lab

from sluice.controller.ensure import Ensurer
from sluice.controller.observe import World
from sluice.controller.route import Router, _shares, addresses_of, shape_of, started_at
from sluice.objects.haproxy_config import config_files, servers_for
from sluice.objects.router_plan import Weights, unset_target
from sluice.rollout.model import Roles
from sluice.traffic.observation import PodObservation, RouterObservation
from sluice.traffic.router import RouterPod

NO_ENSURER: Any = None
ROLES = Roles(
    slots={"a": "old", "b": "new", "c": None}, stable="old", candidate="new", weight=20, salt="s"
)


def router(of: World, client: Any = None) -> Router:
    ensurer: Ensurer = NO_ENSURER
    return Router(of, client, ensurer, shape_of(of, ""), "haproxy")


def router_pod(name: str, **options: Any) -> dict[str, Any]:
    return pod(name, container(running(), name="haproxy"), ready=True, **options)


def test_scaling_seldom_replaces_routers_and_shrinking_never() -> None:
    few = shape_of(world(spec={"replicas": 25}), "")
    assert few == shape_of(world(spec={"replicas": 2}), "")
    assert shape_of(world(spec={"replicas": 27}), "").servers_per_slot == 64
    many = shape_of(world(spec={"replicas": 100}), "")
    assert many.servers_per_slot == servers_for(100) == 128
    files = config_files(many, "a", unset_target(), {})
    present = {"iris-router": {"data": dict(files)}}
    assert shape_of(world(spec={"replicas": 2}, config_maps=present), "") == many


def test_a_candidates_weight_is_of_what_the_holdback_leaves() -> None:
    roles = ROLES.model_copy(update={"previous": "older", "holdback": 10})
    slots = {"a": "old", "b": "new", "c": "older"}
    weights = Weights("a", "b", 20, "c", 10, "s", "h")
    assert _shares(weights, slots, roles) == (20, 10)
    assert round(weights.share("b")) == 18


def test_routers_name_users_only_while_an_experiment_has_a_candidate() -> None:
    studied = ROLES.model_copy(update={"experiment": "e-1"})
    assert router(world()).weights(studied).experiment == "e-1"
    assert router(world()).weights(ROLES).experiment is None
    gone = studied.model_copy(update={"weight": 0})
    assert router(world()).weights(gone).experiment is None


def test_feedback_is_open_only_with_a_secret_for_it() -> None:
    assert shape_of(world(), "").feedback is None
    study = {"metric": "sales", "kind": "Mean", "feedback": {"secretRef": {"name": "mine"}}}
    assert shape_of(world(spec={"experiment": study}), "").feedback == ("mine", "token")
    query = {"secretRef": {"key": "dwh"}, "query": "SELECT :start, :end"}
    counted = {"metric": "sales", "kind": "Mean", "sql": query}
    assert shape_of(world(spec={"experiment": counted}), "").feedback is None


def test_a_router_that_still_sends_to_another_candidate_is_seen() -> None:
    weights = Weights("a", "c", 50)
    assert _shares(weights, {"a": "old", "b": "new", "c": "gone"}, ROLES) == (0, 0)
    flipped = Weights("b")
    assert _shares(flipped, {"a": "old", "b": "new"}, ROLES) == (100, 0), "it is stable there"


def test_pods_that_run_stay_or_leave() -> None:
    waiting = pod("waiting", container({"waiting": {}}, name="haproxy"))
    pods = [router_pod("stays"), router_pod("leaves", going=True), waiting]
    of = router(world(router_pods=pods))
    assert [p.name for p in of.pods()] == ["stays"]
    assert [p.name for p in of.pods(leaving=True)] == ["leaves"]
    assert started_at(waiting) is None


def seen(name: str, weights: Weights) -> PodObservation:
    return PodObservation(
        RouterPod("shop", name, f"uid-{name}", "10.0.0.1"), "", 1, weights, {}, {}
    )


def test_one_deaf_router_at_a_time_is_replaced() -> None:
    pods = [router_pod("deaf"), router_pod("other"), router_pod("good")]
    of = router(world(router_pods=pods))
    right = of.weights(ROLES)
    of.observation = RouterObservation((seen("good", right), seen("other", Weights("a", "b", 90))))
    now = time.time()
    first = of.replaceable(ROLES, now)
    assert first is not None
    assert first["metadata"]["name"] == "deaf"
    for restless in (router_pod("first", going=True), _starting()):
        of.world.router_pods.append(restless)
        assert of.replaceable(ROLES, now) is None, "another one is on its way"
        of.world.router_pods.remove(restless)
    of.observation = RouterObservation(tuple(seen(p, right) for p in ("deaf", "other", "good")))
    assert of.replaceable(ROLES, now) is None, "all follow"


def _starting() -> dict[str, Any]:
    since = datetime.now(UTC).isoformat()
    return pod("new", container(running(since), name="haproxy"))


def test_a_router_that_leaves_is_told_too(tmp_path: Path) -> None:
    async def run() -> None:
        async with router_lab(tmp_path) as lab:
            old, new = await lab.revision("old"), await lab.revision("new")
            await lab.start("a", old)
            await lab.point("b", new)
            leaving = router_pod("router-0", going=True, address=lab.pod.address)
            of = router(world(router_pods=[leaving]), lab.client())
            of.shape = lab.shape
            raised = of.weights(ROLES)
            assert (await lab.client().set_weights([lab.pod], raised)).ok
            await of.shed(ROLES.model_copy(update={"weight": 0}))
            assert (await lab.read()).pods[0].weights.carrying() == {"a"}

    asyncio.run(run())


def test_copies_go_to_the_service_or_to_ready_pods_where_it_leads_nowhere() -> None:
    pods = [
        pod("one", container(running()), ready=True),
        pod("two", container(running()), ready=True, address="fd00::2"),
        pod("late", container(running()), address="10.0.0.3"),
        pod("gone", container(running()), ready=True, going=True, address="10.0.0.4"),
    ]

    def at(address: str | None) -> list[str]:
        service = {"spec": {"clusterIP": address}}
        seen = world(pods={"abc": pods}, services={"iris-rev-abc": service} if address else {})
        return addresses_of(seen, "abc")

    assert at("10.96.0.7") == ["10.96.0.7:80"]
    assert at("fd00::7") == ["[fd00::7]:80"]
    assert at(None) == at("127.0.0.9") == ["10.0.0.1:8080", "[fd00::2]:8080"]
