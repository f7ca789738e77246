"""Names that clusters see: group, labels, annotations, field managers."""

from __future__ import annotations

from typing import Final

GROUP = "sluice.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

LABEL_MANAGED = "sluice.dev/managed"
LABEL_DEPLOYMENT = "sluice.dev/deployment"
LABEL_REVISION = "sluice.dev/revision"
LABEL_COMPONENT = "sluice.dev/component"
LABEL_OPERATOR_CLASS = "sluice.dev/operator-class"

POD_READINESS_GATE = "sluice.dev/validated"

COMMANDS = ("abort", "pause", "resume", "promote", "promote-now", "retry")
"""Verbs a person may annotate: ``kubectl annotate mdep/NAME sluice.dev/VERB=VALUE``."""

DIGEST_BOUND_COMMANDS = ("promote", "promote-now", "retry")
"""Commands whose value must be the candidate's package digest (or a prefix of at least 12 hex)."""

MANAGER_CHILDREN = "sluice-operator"
MANAGER_STATUS = "sluice-status"
MANAGER_REPLICAS = "sluice-replicas"
MANAGER_VERDICT = "sluice-verdict"

PORT_SERVING = 8080
PORT_ADMIN = 9090
PORT_ROUTER_ADMIN = 9999

HEADER_REVISION = "X-Sluice-Revision"
HEADER_BUCKET = "X-Sluice-Bucket"
HEADER_UNIT = "X-Sluice-Unit"
"""``EXPERIMENT:HASH`` of the unit, while an experiment runs."""

METRICS_SECRET: Final = "sluice-metrics"  # noqa: S105  a name, no secret
"""The one Secret of a user's namespace that the operator itself may read: what metric sources ask
for.  Its name is fixed, so that the right to read it can be given by name."""

MAX_NAME = 40


def command_annotation(verb: str) -> str:
    """The annotation key of a command, for example ``sluice.dev/abort``."""
    return f"{GROUP}/{verb}"


def service_name(deployment: str) -> str:
    """The Service users call."""
    return deployment


def router_name(deployment: str) -> str:
    """The router's Deployment, Service and ConfigMap."""
    return f"{deployment}-router"


def evidence_name(deployment: str) -> str:
    """The ConfigMap that holds the statistics and the rollout's progress."""
    return f"{deployment}-evidence"


def units_name(deployment: str, number: int) -> str:
    """A ConfigMap with a part of the log of an experiment's units."""
    return f"{deployment}-exp-{number}"


def revision_name(deployment: str, revision: str) -> str:
    """A revision's ModelRevision, Deployment and ClusterIP Service."""
    return f"{deployment}-rev-{revision}"


def headless_name(deployment: str, revision: str) -> str:
    """A revision's headless Service, which the router resolves."""
    return f"{deployment}-rev-{revision}-pods"
