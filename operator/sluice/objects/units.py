"""ConfigMaps that hold the log of an experiment's units, part by part.

Not labelled like other children: no cache keeps megabytes that are read once, after a restart.
They go when the experiment ends, or with their ModelDeployment.
"""

from __future__ import annotations

import base64

from sluice.api.meta import LABEL_COMPONENT, units_name
from sluice.objects.common import Obj, Owner

PART_BYTES = 256 << 10
ANNOTATION_EXPERIMENT = "sluice.dev/experiment"
MOST_BYTES = 64 * PART_BYTES
"""A log that reaches this takes no more: 16 MiB of a cluster's store for one experiment."""


def parts(log_bytes: int) -> int:
    """How many ConfigMaps a log of this length is in."""
    return -(-log_bytes // PART_BYTES)


def units_map(owner: Owner, number: int, experiment: str, part: bytes) -> Obj:
    """Part ``number`` of the log, counted from 0."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": units_name(owner.name, number),
            "namespace": owner.namespace,
            "labels": {LABEL_COMPONENT: "units"},
            "annotations": {ANNOTATION_EXPERIMENT: experiment},
            "ownerReferences": [owner.reference()],
        },
        "binaryData": {"units": base64.b64encode(part).decode()},
    }


def owned_by(config_map: Obj, owner: Owner) -> bool:
    """Whether it is ours: somebody else's object under our name is left alone."""
    owners = config_map["metadata"].get("ownerReferences") or []
    return any(reference.get("uid") == owner.uid for reference in owners)


def part_of(config_map: Obj, experiment: str) -> bytes | None:
    """The bytes of a part; None when it is not one of this experiment's."""
    named = (config_map["metadata"].get("annotations") or {}).get(ANNOTATION_EXPERIMENT)
    packed = (config_map.get("binaryData") or {}).get("units")
    if named != experiment or not isinstance(packed, str):
        return None
    try:
        return base64.b64decode(packed, validate=True)
    except ValueError:
        return None
