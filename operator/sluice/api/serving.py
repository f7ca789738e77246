"""Serving: the pods that answer, what they get and where they run.

Read by sluice.api.modeldeployment (spec.serving), sluice.objects and sluice.rollout.identity.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from sluice.api.base import Block, ObjectName, Quantity
from sluice.api.cel import keyed, must, rules, within
from sluice.api.duration import Duration

_KEY = "^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"
_VALUE = "^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$"
_RESERVED = (
    "^(([-a-z0-9.]+[.])?sluice[.]dev/|argocd[.]argoproj[.]io/|([-a-z0-9]+[.])*helm[.]sh/|"
    "([-a-z0-9]+[.])*fluxcd[.]io/|app[.]kubernetes[.]io/(instance|managed-by)$|pod-template-hash$)"
)

_KEYS_VALID = must(
    f"self.all(k, k.size() <= 317 && k.matches('{_KEY}'))",
    "keys must be Kubernetes label keys, for example team or example.com/team",
)
_VALUES_VALID = must(
    f"self.all(k, self[k].matches('{_VALUE}'))",
    "values must be Kubernetes label values: letters, digits, '-', '_' and '.', for example gold",
)
_NOT_RESERVED = must(
    f"self.all(k, !k.matches('{_RESERVED}'))",
    "keys must not be ones that Sluice, Argo CD, Flux or Helm own (sluice.dev/..., "
    "argocd.argoproj.io/..., app.kubernetes.io/instance); use your own prefix, "
    "for example example.com/team",
    reason="FieldValueForbidden",
)

_LabelValues = dict[str, Annotated[str, Field(max_length=63)]]
NodeSelector = Annotated[
    _LabelValues, Field(max_length=16, json_schema_extra=rules(_KEYS_VALID, _VALUES_VALID))
]
LabelMap = Annotated[
    _LabelValues,
    Field(max_length=16, json_schema_extra=rules(_KEYS_VALID, _VALUES_VALID, _NOT_RESERVED)),
]
AnnotationMap = Annotated[
    dict[str, Annotated[str, Field(max_length=1024)]],
    Field(max_length=16, json_schema_extra=rules(_KEYS_VALID, _NOT_RESERVED)),
]


class ResourceList(Block):
    """Amounts of compute."""

    cpu: Quantity | None = Field(default=None, description="CPU, for example 250m or 2.")
    memory: Quantity | None = Field(default=None, description="Memory, for example 256Mi.")


def _fits(resource: str) -> dict[str, str]:
    return must(
        f"!has(self.requests) || !has(self.requests.{resource}) || !has(self.limits) || "
        f"!has(self.limits.{resource}) || quantity(string(self.requests.{resource}))"
        f".compareTo(quantity(string(self.limits.{resource}))) <= 0",
        f"requests.{resource} must not exceed limits.{resource}; raise the limit or lower the "
        "request, for example requests 256Mi and limits 512Mi",
        field=f".requests.{resource}",
    )


class Resources(Block):
    """What a serving pod asks for and may use."""

    model_config = ConfigDict(json_schema_extra=rules(_fits("cpu"), _fits("memory")))

    requests: ResourceList | None = Field(
        default=None, description="What each pod is given for certain; scheduling counts it."
    )
    limits: ResourceList | None = Field(
        default=None,
        description="What each pod may not exceed; over the memory limit it is killed.",
    )


class Toleration(Block):
    """A node taint that pods accept."""

    key: str | None = Field(default=None, max_length=253, description="Taint key; absent: any.")
    operator: Literal["Exists", "Equal"] | None = Field(
        default=None, description="Exists: any value. Equal: the value below. Default Equal."
    )
    value: str | None = Field(default=None, max_length=63, description="Taint value, for Equal.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="Taint effect; absent: any."
    )


class EnvVar(Block):
    """An environment variable of the model's container."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            must(
                "!self.name.startsWith('SLUICE_')",
                "name must not begin with SLUICE_, which the runtime uses itself; "
                "for example MODEL_MODE",
                field=".name",
                reason="FieldValueForbidden",
            )
        )
    )

    name: str = Field(
        min_length=1,
        max_length=128,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="Variable name; SLUICE_ names are the runtime's own.",
    )
    value: str = Field(
        default="",
        max_length=4096,
        description="Variable value. Part of the revision: not the place for a secret.",
    )


class PodOverrides(Block):
    """Placement and decoration of serving pods. Not part of a revision's identity."""

    node_selector: NodeSelector | None = Field(
        default=None, description="Labels that a node must have to run a serving pod."
    )
    tolerations: Annotated[list[Toleration], Field(max_length=16)] | None = Field(
        default=None, description="Node taints that serving pods accept."
    )
    labels: LabelMap | None = Field(
        default=None, description="Labels added to serving pods, for example for a mesh or costs."
    )
    annotations: AnnotationMap | None = Field(
        default=None, description="Annotations added to serving pods."
    )
    service_account_name: ObjectName | None = Field(
        default=None,
        description="ServiceAccount of serving pods; no token is mounted either way.",
    )


class Runtime(Block):
    """The program that serves the package."""

    image: str | None = Field(
        default=None,
        min_length=1,
        max_length=512,
        pattern=r"^[a-z0-9][A-Za-z0-9._:/@-]*$",
        description="Runtime image. Absent: the one the operator was installed with. "
        "It is part of the revision, so an operator upgrade never changes running models.",
    )


class Serving(Block):
    """How pods serve the model."""

    resources: Resources | None = Field(default=None, description="Compute of each serving pod.")
    timeout: Duration = Field(
        default="2s",
        description="A request that takes longer is answered 504; 10ms to 10m.",
        json_schema_extra=rules(within("10ms", "10m", "2s")),
    )
    readiness_gate: Literal["Native", "Probe"] = Field(
        default="Native",
        description="Native: pods become Ready when the operator marks them validated. "
        "Probe: /readyz waits for the verdict itself, so that a replacement pod needs no operator.",
    )
    runtime: Runtime | None = Field(
        default=None, description="The program that serves the package."
    )
    env: Annotated[list[EnvVar], Field(max_length=64)] | None = Field(
        default=None,
        description="Environment of the model's container. Part of the revision.",
        json_schema_extra=keyed("name"),
    )
    pod: PodOverrides | None = Field(
        default=None,
        description="Placement and decoration of serving pods. Changing it makes no new revision.",
    )
