"""A revision's objects: who holds credentials, who may write, and selectors that never change."""

from __future__ import annotations

from typing import Any

from sluice.api.modeldeployment import Serving
from sluice.objects.common import Owner
from sluice.objects.revision import (
    deployment,
    disruption_budget,
    placed,
    pod_template,
    services,
)

OWNER = Owner("iris", "default", "u-1")
DIGEST = "sha256:" + "ab" * 32


def template(**serving: Any) -> dict[str, Any]:
    return pod_template(
        name="iris",
        namespace="default",
        revision="0123456789",
        uri="s3://models/iris",
        secret="s3-read",
        digest=DIGEST,
        allow_code=False,
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


def test_every_container_is_restricted() -> None:
    spec = template()["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    for container in [*spec["initContainers"], *spec["containers"]]:
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"] is True
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}


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
