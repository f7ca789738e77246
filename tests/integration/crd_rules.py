"""What the tests of the CRDs share: an API server by plain HTTP, smallest objects, pairs of values.

Called by test_api_*.py; the fixture ``crd_server`` in conftest.py installs the CRDs.
"""

from __future__ import annotations

import base64
import copy
import json
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sluice.api.kinds import MODEL_DEPLOYMENT, Kind
from sluice.api.meta import API_VERSION

DIGEST = "sha256:" + "9f" * 32

MODEL, SERVING, GATES = "spec.model", "spec.serving", "spec.validation"
ROLLOUT, ANALYSIS = "spec.rollout", "spec.analysis"
ERRORS = {"name": "errors", "type": "ErrorRate"}


class Server:
    """The API server by plain HTTP: a dry run with strict fields takes milliseconds."""

    def __init__(self, kubeconfig: Path) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self.url = cluster["server"]
        authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        self.tls = ssl.create_default_context(cadata=authority)
        pair = kubeconfig.parent / "api-server-test.pem"
        pair.touch(0o600)
        pair.write_bytes(
            base64.b64decode(user["client-certificate-data"])
            + base64.b64decode(user["client-key-data"])
        )
        self.tls.load_cert_chain(pair)
        pair.unlink()

    def call(
        self, method: str, path: str, body: Any = None, kind: str = "application/json"
    ) -> tuple[int, dict[str, Any]]:
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": kind, "Accept": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, context=self.tls, timeout=30) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            body = error.read()
            # A path that is not served yet is answered in plain text.
            said = body.decode(errors="replace")
            return error.code, json.loads(body) if said.startswith("{") else {"message": said}

    def try_create(self, kind: Kind, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        place = path_of(kind, "default")
        return self.call("POST", f"{place}?dryRun=All&fieldValidation=Strict", body)


def path_of(kind: Kind, namespace: str) -> str:
    inside = f"namespaces/{namespace}/" if kind.scope == "Namespaced" else ""
    return f"/apis/{API_VERSION}/{inside}{kind.plural}"


def minimal(kind: Kind) -> dict[str, Any]:
    """The smallest object of ``kind`` that is accepted."""
    spec: dict[str, Any] = {
        "ModelDeployment": {"model": {"uri": "s3://models/iris"}},
        "ModelRevision": {
            "deployment": "iris",
            "source": "0123456789",
            "uri": "s3://models/iris",
            "package": {"digest": DIGEST},
            "runtimeImage": "sluice:1",
            "hashVersion": 1,
            "identity": {"digest": DIGEST, "env": [{"name": "A"}]},
            "podTemplate": {"spec": {"containers": [{"name": "model"}]}},
        },
        "TrustPolicy": {"namespaces": ["dev"], "admit": [{"packageDigest": DIGEST}]},
    }[kind.kind]
    return {
        "apiVersion": API_VERSION,
        "kind": kind.kind,
        "metadata": {"name": "iris"},
        "spec": copy.deepcopy(spec),
    }


def put(body: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """``body`` with ``value`` at the dotted ``path``."""
    *parents, last = path.split(".")
    place = body
    for parent in parents:
        place = place.setdefault(parent, {})
    place[last] = value
    return body


@dataclass(frozen=True)
class Case:
    """``bad`` at ``at`` is refused with a message that contains ``says``; ``good`` is accepted."""

    at: str
    bad: Any
    good: Any
    says: str
    names: str = ""
    kind: Kind = MODEL_DEPLOYMENT

    @property
    def field(self) -> str:
        """The field that the refusal must name."""
        return self.names or self.at

    def __str__(self) -> str:
        return f"{self.kind.short}-{self.at.rpartition('.')[2]}-{str(self.bad)[:40]}"


def assert_told_apart(server: Server, case: Case) -> None:
    """``case.bad`` is refused with field and rule, and its twin accepted."""
    status, answer = server.try_create(case.kind, put(minimal(case.kind), case.at, case.bad))
    assert status == 422, answer
    causes = answer["details"]["causes"]
    hits = [cause for cause in causes if case.says.lower() in cause["message"].lower()]
    assert hits, f"no cause says {case.says!r}: {causes}"
    assert case.field in {cause["field"] for cause in hits}, hits

    status, answer = server.try_create(case.kind, put(minimal(case.kind), case.at, case.good))
    assert status == 201, answer
    for part, model in case.kind.parts.items():  # What is stored must be readable.
        model.model_validate(answer.get(part, {}))
