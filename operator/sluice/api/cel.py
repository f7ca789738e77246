"""The rules that the API server itself checks, and how a model carries them.

Called by the models of this package; the generator copies the result into the CRD.  A rule has a
message that says must or must not and shows what to write instead, the field it is about and a
reason, so that a refused ``kubectl apply`` needs no manual.
"""

from __future__ import annotations

from typing import Any, Literal

Reason = Literal[
    "FieldValueInvalid", "FieldValueForbidden", "FieldValueRequired", "FieldValueDuplicate"
]

VALIDATIONS = "x-kubernetes-validations"


def must(
    rule: str, message: str, *, field: str = "", reason: Reason = "FieldValueInvalid"
) -> dict[str, str]:
    """One CEL rule.  ``field`` is a path below the object, such as ``.minDuration``."""
    made = {"rule": rule, "message": message, "reason": reason}
    if field:
        made["fieldPath"] = field
    return made


def rules(*made: dict[str, str], **more: Any) -> dict[str, Any]:
    """``json_schema_extra`` with ``made`` and whatever else the schema needs."""
    return {**more, VALIDATIONS: list(made)}


def count(*fields: str) -> str:
    """CEL: how many of ``fields`` are set."""
    return " + ".join(f"(has(self.{name}) ? 1 : 0)" for name in fields)


def within(low: str, high: str, example: str) -> dict[str, str]:
    """A duration between ``low`` and ``high``."""
    return must(
        f"duration(self) >= duration('{low}') && duration(self) <= duration('{high}')",
        f"must be between {low} and {high}, for example {example}",
    )


def keyed(*keys: str) -> dict[str, Any]:
    """A list whose items are told apart by ``keys``: server-side apply merges them one by one."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)}


SET: dict[str, Any] = {"x-kubernetes-list-type": "set"}
ATOMIC: dict[str, Any] = {"x-kubernetes-list-type": "atomic"}
OPAQUE: dict[str, Any] = {"x-kubernetes-preserve-unknown-fields": True}
FROZEN: dict[str, Any] = {"x-sluice-frozen": True}
"""Writes the field's default into stored objects.  Without it a default stays in the code, where a
later version may change it without rewriting what users stored."""
