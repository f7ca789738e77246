"""Durable records: ModelRevisions and the two ConfigMaps, to and from their objects.

Called by observe and apply.  A record that cannot be read is an error naming it, never a guess.
"""

from __future__ import annotations

import json
from typing import TypeVar

from pydantic import ValidationError

from sluice.api.meta import (
    API_VERSION,
    LABEL_OPERATOR_CLASS,
    evidence_name,
    revision_name,
)
from sluice.api.modelrevision import RevisionSpec, Verdict
from sluice.errors import InvalidInputError
from sluice.objects.common import Obj, Owner, metadata
from sluice.rollout.identity import HASH_VERSION
from sluice.rollout.model import NewRevision, Progress, Revision, Roles

ROLES_KEY = "roles.json"
PROGRESS_KEY = "progress.json"

Record = TypeVar("Record", Roles, Progress)


def revision_of(obj: Obj) -> Revision:
    """A ModelRevision as the decision reads it."""
    name = str(obj["metadata"]["name"])
    try:
        spec = RevisionSpec.model_validate(obj["spec"])
        verdict = Verdict.model_validate(obj.get("verdict") or {})
    except ValidationError as error:
        raise InvalidInputError(
            f"ModelRevision {name} cannot be read: {error.errors()[0]['msg']}.",
            hint="This operator may be older than the record; upgrade it.",
            reason="RecordUnreadable",
        ) from error
    return Revision(
        hash=name.rsplit("-", 1)[-1],
        source=spec.source,
        uri=spec.uri,
        package=spec.package,
        runtime_image=spec.runtime_image,
        identity=spec.identity,
        hash_version=spec.hash_version,
        verdict=verdict,
        created=str(obj["metadata"].get("creationTimestamp") or ""),
        deployment=spec.deployment,
    )


def revision_object(owner: Owner, new: NewRevision, template: Obj, operator_class: str = "") -> Obj:
    """A new ModelRevision.  Labels, not an owner: quarantined ones outlive their owner."""
    spec = RevisionSpec(
        deployment=owner.name,
        source=new.source,
        uri=new.uri,
        package=new.package,
        runtime_image=new.runtime_image,
        hash_version=HASH_VERSION,
        identity=new.identity,
        pod_template=template,
    )
    name = revision_name(owner.name, new.hash)
    meta = metadata(owner, name, "revision", new.hash, owned=False)
    if operator_class:
        meta["labels"][LABEL_OPERATOR_CLASS] = operator_class
    return {
        "apiVersion": API_VERSION,
        "kind": "ModelRevision",
        "metadata": meta,
        "spec": spec.model_dump(by_alias=True, exclude_none=True),
        "verdict": Verdict().model_dump(by_alias=True, exclude_none=True),
    }


def roles_of(config_map: Obj | None) -> Roles:
    """The roles; nobody has one when the ConfigMap does not exist yet."""
    if config_map is None or ROLES_KEY not in config_map.get("data", {}):
        return Roles()
    return _read(Roles, config_map, ROLES_KEY)


def progress_of(config_map: Obj | None) -> Progress:
    """The progress and the statistics."""
    if config_map is None or PROGRESS_KEY not in config_map.get("data", {}):
        return Progress()
    return _read(Progress, config_map, PROGRESS_KEY)


def evidence_map(owner: Owner, progress: Progress) -> Obj:
    """The ConfigMap whose write commits a look."""
    body = json.dumps(
        progress.model_dump(by_alias=True, exclude_none=True, mode="json"),
        separators=(",", ":"),
    )
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(owner, evidence_name(owner.name), "evidence"),
        "data": {PROGRESS_KEY: body},
    }


def _read(model: type[Record], config_map: Obj, key: str) -> Record:
    name = config_map["metadata"]["name"]
    try:
        return model.model_validate_json(config_map["data"][key])
    except ValidationError as error:
        raise InvalidInputError(
            f"ConfigMap {name} key {key} cannot be read: {error.errors()[0]['msg']}.",
            hint=f"Restore it from a backup, or delete {name} to start from what serves now.",
            reason="RecordUnreadable",
        ) from error
