"""The jobs: resolving a source, and the gates of a candidate."""

from __future__ import annotations

import json

from sluice.api.model import Model
from sluice.api.validation import Validation
from sluice.objects.common import (
    CODE_GATES_MEMORY,
    POD_SECURITY,
    Obj,
    Owner,
    container,
    labels,
    metadata,
)
from sluice.objects.fetching import claim_volumes, fetch_seconds, fetcher

DEADLINE_SECONDS = 1800
RESOLVE_SECONDS = DEADLINE_SECONDS + fetch_seconds(5 * 1024**3)
"""Nobody knows yet how large the package is: the largest that `sluice fetch` takes."""
KEEP_SECONDS = 3600
WORK = "/sluice/work"


def resolve_name(deployment: str, source: str) -> str:
    """The job that looks at a source's manifest."""
    return f"{deployment}-resolve-{source}"


def gates_name(deployment: str, revision: str) -> str:
    """The job that runs the gates of a revision."""
    return f"{deployment}-gates-{revision}"


def resolve_job(owner: Owner, source: str, model: Model, image: str) -> Obj:
    """Reads the manifest at ``model.uri`` and reports it by termination message."""
    args = ["--to", f"{WORK}/package", "--resolve"]
    if model.digest:
        args += ["--digest", model.digest]
    secret = model.credentials_ref.name if model.credentials_ref else None
    fetch = fetcher(
        "resolve", image, model.uri, args, [{"name": "work", "mountPath": WORK}], secret
    )
    return _job(
        owner,
        resolve_name(owner.name, source),
        "resolve",
        None,
        [],
        fetch,
        claim_volumes(model.uri),
        RESOLVE_SECONDS,
    )


def gates_job(
    owner: Owner,
    revision: str,
    *,
    image: str,
    candidate: tuple[str, str, str | None],
    stable: tuple[str, str, str | None] | None,
    validation: Validation,
    allow_code: bool,
    bounded: bool = False,
    size: int = 0,
) -> Obj:
    """Runs the gates.  ``candidate`` and ``stable`` are (uri, digest, Secret with credentials),
    ``size`` is that of both packages in bytes.

    ``bounded``: the deployment says itself how much memory its model may use, so nothing is
    presumed here.

    Model, code and data stay separate: one init container per source holds that source's
    credentials, the validating container holds none.
    """
    mounts: list[Obj] = [{"name": "work", "mountPath": WORK}]
    uris = [candidate[0]]
    inits = [_fetch("candidate", image, candidate, mounts)]
    args = ["validate", f"{WORK}/candidate", "--gates", gates_json(validation, stable is None)]
    if stable is not None:
        uris.append(stable[0])
        inits.append(_fetch("stable", image, stable, mounts))
        args += ["--stable", f"{WORK}/stable"]
    if validation.quality is not None and not _smoke_only(validation, stable is None):
        dataset = validation.quality.dataset
        uris.append(dataset.uri)
        secret = dataset.credentials_ref.name if dataset.credentials_ref else None
        data_args = ["--data", "--to", f"{WORK}/data"]
        if dataset.digest:
            data_args += ["--digest", dataset.digest]
        inits.append(fetcher("data", image, dataset.uri, data_args, mounts, secret))
        args += ["--dataset", f"{WORK}/data"]
    if allow_code:
        args.append("--allow-code")
    presumed = allow_code and not bounded
    main = container(
        "gates",
        image,
        args,
        resources={"limits": {"memory": CODE_GATES_MEMORY}} if presumed else {},
        volumeMounts=[*mounts, {"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108
    )
    return _job(
        owner,
        gates_name(owner.name, revision),
        "gates",
        revision,
        inits,
        main,
        claim_volumes(*uris),
        DEADLINE_SECONDS + fetch_seconds(size),
    )


def gates_json(validation: Validation, first: bool) -> str:
    """The gates to run as ``sluice validate --gates`` reads them."""
    written = validation.model_dump(by_alias=True, exclude_none=True)
    initial = written.pop("initial", "Required")
    if first and initial == "SmokeOnly":
        written = {"initial": initial}  # `sluice validate` adds schema and golden otherwise
    written.setdefault("smoke", {})
    if not (first and initial == "SmokeOnly"):
        written.setdefault("schema", {})
        written.setdefault("golden", {})
    return json.dumps(written, sort_keys=True, separators=(",", ":"))


def _smoke_only(validation: Validation, first: bool) -> bool:
    return first and validation.initial == "SmokeOnly"


def _fetch(name: str, image: str, source: tuple[str, str, str | None], mounts: list[Obj]) -> Obj:
    uri, digest, secret = source
    return fetcher(name, image, uri, ["--to", f"{WORK}/{name}", "--digest", digest], mounts, secret)


def _job(
    owner: Owner,
    name: str,
    component: str,
    revision: str | None,
    inits: list[Obj],
    main: Obj,
    volumes: list[Obj],
    deadline: int,
) -> Obj:
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata(owner, name, component, revision),
        "spec": {
            "backoffLimit": 0,
            "activeDeadlineSeconds": deadline,
            "ttlSecondsAfterFinished": KEEP_SECONDS,
            "template": {
                "metadata": {
                    "labels": {
                        **labels(owner.name, component, revision),
                        "sluice.dev/job": name,
                    }
                },
                "spec": {
                    "restartPolicy": "Never",
                    "automountServiceAccountToken": False,
                    "enableServiceLinks": False,
                    "securityContext": POD_SECURITY,
                    "initContainers": inits,
                    "containers": [main],
                    "volumes": [
                        {"name": "work", "emptyDir": {}},
                        {"name": "tmp", "emptyDir": {}},
                        *volumes,
                    ],
                },
            },
        },
    }
