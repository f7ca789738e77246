"""A revision's objects: who holds credentials, who may write, and selectors that never change."""

from __future__ import annotations

from typing import Any

from sluice.api.model import Model
from sluice.api.serving import Serving
from sluice.api.validation import Validation
from sluice.jobs.fetch import Limits
from sluice.objects.common import Owner
from sluice.objects.fetching import SLOWEST, fetch_seconds, fetcher
from sluice.objects.jobs import gates_job, resolve_job
from sluice.objects.revision import (
    deployment,
    disruption_budget,
    mirror_settings,
    placed,
    pod_template,
    services,
    settings_map,
)
from sluice.runtime.aim import read_aim

OWNER = Owner("iris", "default", "u-1")
DIGEST = "sha256:" + "ab" * 32


def template(*, allow_code: bool = False, **serving: Any) -> dict[str, Any]:
    return pod_template(
        name="iris",
        namespace="default",
        revision="0123456789",
        uri="s3://models/iris",
        secret="s3-read",
        digest=DIGEST,
        allow_code=allow_code,
        image="sluice:1",
        serving=Serving.model_validate(serving),
    )


def test_only_the_fetching_container_holds_credentials() -> None:
    spec = template()["spec"]
    (fetch,), (model,) = spec["initContainers"], spec["containers"]
    assert fetch["envFrom"] == [{"secretRef": {"name": "s3-read"}}]
    assert "envFrom" not in model
    assert spec["automountServiceAccountToken"] is False
    mounts = {m["mountPath"]: m.get("readOnly", False) for m in model["volumeMounts"]}
    assert mounts["/model"] is True
    assert f"--digest={DIGEST}" in model["args"]


def test_a_docker_secret_reaches_only_the_container_that_pulls() -> None:
    args = {"args": ["--to", "/model"], "mounts": []}
    pulled = fetcher("fetch", "i", "oci://r/iris:v1", secret="s", **args)
    wanted = {"name": "s", "key": ".dockerconfigjson", "optional": True}
    found = {e["name"]: e.get("valueFrom", {}).get("secretKeyRef") for e in pulled["env"]}
    assert found["SLUICE_DOCKER_CONFIG"] == wanted
    for uri, secret in (("oci://r/iris:v1", None), ("s3://m/iris", "s")):
        names = {e["name"] for e in fetcher("fetch", "i", uri, secret=secret, **args)["env"]}
        assert "SLUICE_DOCKER_CONFIG" not in names


def test_a_large_package_gets_the_time_that_fetching_it_takes() -> None:
    assert Limits().slowest == SLOWEST, "as long as `sluice fetch` itself waits"
    small = deployment(OWNER, "r", template(), 1_000_000)["spec"]["progressDeadlineSeconds"]
    large = deployment(OWNER, "r", template(), 4 * 1024**3)["spec"]["progressDeadlineSeconds"]
    assert (small, large) == (600, 600 + 2048)
    model = Model(uri="oci://r/iris:v1")
    job = resolve_job(OWNER, "s", model, "i")["spec"]
    assert job["activeDeadlineSeconds"] >= fetch_seconds(Limits().max_bytes)
    gates = gates_job(
        OWNER,
        "r",
        image="i",
        candidate=(model.uri, DIGEST, None),
        stable=None,
        validation=Validation(),
        allow_code=False,
        size=4 * 1024**3,
    )
    assert gates["spec"]["activeDeadlineSeconds"] == 1800 + 2048


def test_every_container_is_restricted() -> None:
    spec = template()["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    for container in [*spec["initContainers"], *spec["containers"]]:
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"] is True
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}


def test_code_has_a_bound_on_its_memory_whether_or_not_one_is_said() -> None:
    (model,) = template(allow_code=True)["spec"]["containers"]
    assert model["resources"]["limits"] == {"memory": "2Gi"}
    assert "--allow-code" in model["args"]
    assert not [a for a in model["args"] if a.startswith("--dangerously")]
    said = {"limits": {"memory": "8Gi"}}
    (model,) = template(allow_code=True, resources=said)["spec"]["containers"]
    assert model["resources"] == said
    (model,) = template()["spec"]["containers"]
    assert "limits" not in model["resources"]


def test_selectors_agree_and_leave_job_pods_out() -> None:
    made = deployment(OWNER, "0123456789", template())
    wanted = made["spec"]["selector"]["matchLabels"]
    assert wanted["sluice.dev/component"] == "model"
    assert [s["spec"]["selector"] for s in services(OWNER, "0123456789")] == [wanted, wanted]
    budget = disruption_budget(OWNER, "0123456789")
    assert budget["spec"]["selector"]["matchLabels"] == wanted
    assert budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
    assert wanted.items() <= made["spec"]["template"]["metadata"]["labels"].items()


def test_readiness_waits_for_the_verdict_one_way_or_the_other() -> None:
    native, probe = template()["spec"], template(readinessGate="Probe")["spec"]
    assert native["readinessGates"] == [{"conditionType": "sluice.dev/validated"}]
    assert "readinessGates" not in probe
    assert any(a.startswith("--verdict-file=") for a in probe["containers"][0]["args"])


def test_placement_never_overrides_our_labels() -> None:
    pod = Serving.model_validate(
        {"pod": {"labels": {"sluice.dev/revision": "x", "team": "a"}, "nodeSelector": {"k": "v"}}}
    ).pod
    made = placed(template(), pod)
    assert made["metadata"]["labels"]["sluice.dev/revision"] == "0123456789"
    assert made["metadata"]["labels"]["team"] == "a"
    assert made["spec"]["nodeSelector"] == {"k": "v"}
    assert "nodeSelector" not in template()["spec"], "placement is not part of the record"


AIM: dict[str, Any] = {
    "rollout": "r1",
    "revision": "abc",
    "addresses": ["10.0.0.9:80"],
    "percent": 100,
    "tolerance": 0.01,
    "timeout": 2.0,
}


def test_pods_read_their_settings_while_they_run_and_start_without_them() -> None:
    spec = template()["spec"]
    volume = next(v for v in spec["volumes"] if v["name"] == "settings")
    assert volume["configMap"] == {"name": "iris-rev-0123456789-settings", "optional": True}
    (model,) = spec["containers"]
    mount = next(m for m in model["volumeMounts"] if m["name"] == "settings")
    assert mount["readOnly"] is True
    assert f"--mirror-file={mount['mountPath']}/mirror.json" in model["args"]
    assert settings_map(OWNER, "0123456789", {})["metadata"]["name"] == volume["configMap"]["name"]


def test_the_runtime_reads_what_is_written_for_it() -> None:
    written = settings_map(OWNER, "0123456789", mirror_settings(**AIM))["data"]["mirror.json"]
    aim = read_aim(written.encode())
    assert aim is not None
    assert (aim.id, aim.revision, aim.percent) == ("r1", "abc", 100)
    assert aim.places() == [("10.0.0.9", 80)]
    assert aim.timeout == 3.0, "the candidate's own 504 arrives"
    assert read_aim(settings_map(OWNER, "0123456789", {})["data"]["mirror.json"].encode()) is None


def test_settings_are_the_same_bytes_for_the_same_wish() -> None:
    """Or pods would read, and the operator write, for nothing."""
    turned = {**AIM, "addresses": ["10.0.0.9:80", "10.0.0.1:80"]}
    again = {**AIM, "addresses": ["10.0.0.1:80", "10.0.0.9:80"]}
    assert mirror_settings(**turned) == mirror_settings(**again)
    assert len(mirror_settings(**{**AIM, "addresses": ["10.0.0.1:80"] * 500})["addresses"]) == 64


def test_nobody_is_mirrored_to_while_nobody_is_there() -> None:
    assert mirror_settings(**{**AIM, "addresses": []}) == {}
