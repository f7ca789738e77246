"""The router's objects and files, without a cluster; HAProxy itself checks the syntax."""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.router_lab import NAMESPACE, NOW, authority

from sluice.objects.haproxy_config import RouterShape, config_files, servers_for
from sluice.objects.router import RouterSpec, router_objects, selector, shape_hash
from sluice.objects.router_plan import SlotTarget, Weights, unset_target
from sluice.traffic import pki

STABLE = SlotTarget("0123456789", "iris-rev-0123456789-pods.shop.svc.cluster.local", "10.96.0.7")
SPEC = RouterSpec("iris", "shop", "b", STABLE, roles={"stable": "0123456789"})


GOLDEN = Path(__file__).with_name("golden") / "haproxy.cfg"


def by_kind(spec: RouterSpec) -> dict[str, dict]:
    return {o["kind"]: o for o in router_objects(spec)}


def test_a_router_is_a_config_map_a_deployment_a_service_and_a_budget() -> None:
    objects = by_kind(SPEC)
    assert {k: o["metadata"]["name"] for k, o in objects.items()} == {
        "ConfigMap": "iris-router",
        "Deployment": "iris-router",
        "Service": "iris",
        "PodDisruptionBudget": "iris-router",
    }
    assert "PodDisruptionBudget" not in by_kind(replace(SPEC, replicas=1))
    port = objects["Service"]["spec"]["ports"][0]
    assert (port["port"], port["targetPort"]) == (80, 8080)
    assert objects["Service"]["spec"]["selector"] == selector("iris")
    assert all(o["metadata"]["namespace"] == "shop" for o in objects.values())


def test_router_pods_run_as_nobody_in_particular() -> None:
    pod = by_kind(SPEC)["Deployment"]["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    config = by_kind(SPEC)["ConfigMap"]["data"]["haproxy.cfg"]
    assert not {"user", "group", "chroot", "daemon"} & {line.strip() for line in config.split("\n")}


def test_a_router_that_stops_is_not_killed_before_it_ends_by_itself() -> None:
    pod = by_kind(SPEC)["Deployment"]["spec"]["template"]["spec"]
    leaves = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    config = by_kind(SPEC)["ConfigMap"]["data"]["haproxy.cfg"]
    stops = re.search(r"^  hard-stop-after (\d+)s$", config, re.MULTILINE)
    assert stops is not None
    assert pod["terminationGracePeriodSeconds"] >= leaves + int(stops[1]) + 5


def test_moving_stable_to_another_slot_restarts_no_router() -> None:
    before, after = by_kind(SPEC), by_kind(replace(SPEC, stable_slot="c", roles={"stable": "x"}))
    assert before["Deployment"] == after["Deployment"]
    assert before["ConfigMap"]["data"] != after["ConfigMap"]["data"]


def test_a_change_that_running_routers_cannot_follow_replaces_them() -> None:
    changed = replace(SPEC, shape=RouterShape(unit_header="X-User-Id"))
    assert by_kind(SPEC)["Deployment"] != by_kind(changed)["Deployment"]
    assert shape_hash(SPEC.shape) == shape_hash(RouterShape())


def test_the_token_of_feedback_is_in_the_environment_and_in_no_file() -> None:
    spec = replace(SPEC, shape=RouterShape(feedback=("mine", "token")))
    objects = by_kind(spec)
    env = objects["Deployment"]["spec"]["template"]["spec"]["containers"][0]["env"]
    source = {"secretKeyRef": {"name": "mine", "key": "token", "optional": True}}
    assert {"name": "SLUICE_FEEDBACK_TOKEN", "valueFrom": source} in env
    config = objects["ConfigMap"]["data"]["haproxy.cfg"]
    assert "env(SLUICE_FEEDBACK_TOKEN)" in config
    plain = by_kind(SPEC)
    assert "SLUICE_FEEDBACK_TOKEN" not in plain["ConfigMap"]["data"]["haproxy.cfg"]
    assert plain["Deployment"] != objects["Deployment"], "running routers cannot learn of it"


def test_the_files_name_stable_only() -> None:
    files = by_kind(SPEC)["ConfigMap"]["data"]
    assert files["weights.map"] == "plan b:-:0:-:0:0:0\n"
    assert files["revisions.map"] == "a -\nb 0123456789\nc -\n"
    assert json.loads(files["roles.json"]) == {"stable": "0123456789"}
    assert files["haproxy.cfg"].count(STABLE.host) == 1
    assert files["haproxy.cfg"].count("10.96.0.7") == 1


def test_the_whole_file_is_reviewed_like_code() -> None:
    """After a change that is meant, run this file once with SLUICE_UPDATE_GOLDEN=1."""
    shape = RouterShape(unit_header="X-User-Id")
    text = by_kind(replace(SPEC, shape=shape))["ConfigMap"]["data"]["haproxy.cfg"]
    if os.environ.get("SLUICE_UPDATE_GOLDEN"):
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()


@pytest.mark.parametrize(
    "shape",
    [
        RouterShape(),
        RouterShape(unit_header="X-User-Id", dns="10.96.0.10:53"),
        RouterShape(unit_cookie="session", servers_per_slot=500),
        RouterShape(unit_header="X-User-Id", feedback=("mine", "token")),
    ],
    ids=["random", "header", "cookie", "feedback"],
)
@pytest.mark.parametrize("target", [STABLE, replace(STABLE, cluster_ip=None), unset_target()])
def test_haproxy_accepts_the_file(tmp_path: Path, shape: RouterShape, target: SlotTarget) -> None:
    shape = replace(
        shape, config_dir=str(tmp_path), tls_dir=str(tmp_path), run_dir=str(tmp_path / "r")
    )
    for name, text in config_files(shape, "a", target, {}).items():
        (tmp_path / name).write_text(text)
    (tmp_path / "router.pem").write_text(pki.new_router(authority(), NAMESPACE, NOW).pem)
    (tmp_path / "ca.pem").write_text(authority().certificate)
    done = subprocess.run(
        ["haproxy", "-c", "-f", str(tmp_path / "haproxy.cfg")],
        env={**os.environ, "POD_IP": "127.0.0.1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr, done.stderr


def test_scaling_seldom_replaces_routers() -> None:
    assert [servers_for(n) for n in (0, 2, 25, 26, 51, 52, 500)] == [32, 32, 32, 32, 64, 128, 1024]
    assert all(servers_for(n) >= n + n // 4 for n in range(501))


def test_a_plan_is_read_back_as_it_was_written() -> None:
    plan = Weights("a", "b", 25, "c", 10, "5f3a", "77aa")
    assert Weights.decode(plan.encode()) == plan
    assert Weights.decode(Weights("b").encode()) == Weights("b")
    studied = replace(plan, experiment="5f3a-1")
    assert studied.encode() == "a:b:25:c:10:5f3a:77aa:5f3a-1"
    assert Weights.decode(studied.encode()) == studied
    with pytest.raises(ValueError, match="seven or eight fields"):
        Weights.decode("a:b:25")


def test_shares_add_up_and_say_who_carries_traffic() -> None:
    plan = Weights("a", "b", 50, "c", 10)
    assert [plan.share(s) for s in "abc"] == [45.0, 45.0, 10.0]
    assert plan.carrying() == {"a", "b", "c"}
    assert Weights("a", "b", 0).carrying() == {"a"}
    assert plan.without("b").carrying() == {"a", "c"}
    assert plan.without("c").share("a") == 50.0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"stable": "d"}, "not one of the slots"),
        ({"stable": "a", "weight": 5}, "needs a candidate"),
        ({"stable": "a", "candidate": "a", "weight": 5}, "other than stable"),
        ({"stable": "a", "candidate": "b", "weight": 101}, "not a percentage"),
        ({"stable": "a", "holdback_percent": 10}, "needs the slot"),
        ({"stable": "a", "salt": "x:y"}, "not letters and digits"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(arguments: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Weights(**arguments)
