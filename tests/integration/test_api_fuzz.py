"""Random objects made from the schema: what the API server accepts the operator can read, and what
the operator writes as status the API server keeps, every field of it.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.integration.crd_rules import Server, minimal

from sluice.api.crd import crd
from sluice.api.duration import DURATION_PATTERN
from sluice.api.kinds import KINDS, MODEL_DEPLOYMENT, Kind
from sluice.api.meta import API_VERSION

pytestmark = pytest.mark.cluster

SAMPLES = {
    "uri": [
        "s3://models/iris",
        "pvc://claim/iris",
        "file:///models/ä",
        "https://h:1/a?b=%20",
        "gs://m/i",
        "az://m/i",
        "oci://r:1/a:v1",
        "hf://o/r@v1/m.onnx",
        "mlflow://models/a@b",
    ],
    "unknown": ["", " ", "a", "ß", "x" * 63, "1", "a/b", "line\nbreak", "null", "5m"],
}


TIMES = st.just("2026-01-01T00:00:00Z")


def values(name: str, schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Mostly legal values of ``schema``; the API server decides."""
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "x-kubernetes-int-or-string" in schema:
        return st.one_of(st.integers(0, 9), st.sampled_from(["250m", "0.5", "1Gi", "2"]))
    kind = schema["type"]
    if kind == "integer":
        return st.integers(schema["minimum"], schema["maximum"])
    if kind == "number":
        low, high = schema.get("minimum", -9.0), schema.get("maximum", 9.0)
        return st.one_of(
            st.floats(low, high, allow_nan=False), st.sampled_from([low, high, int(high)])
        )
    if kind == "boolean":
        return st.booleans()
    if kind == "array":
        most = min(3, schema.get("maxItems", 3))
        return st.lists(values(name, schema["items"]), min_size=1, max_size=most)
    if kind == "object":
        return objects(schema)
    if schema.get("format") == "date-time":
        return TIMES
    if schema.get("pattern") == DURATION_PATTERN:
        return st.sampled_from(["1ms", "50ms", "1s", "10s", "1m30s", "2m", "1h", "24h", "0s"])
    if name == "uri":
        return st.sampled_from(SAMPLES["uri"])
    if "pattern" in schema:
        text = st.from_regex(schema["pattern"].replace("$", "\\Z"))
        return text.filter(lambda t: len(t) <= schema["maxLength"])
    low, high = schema.get("minLength", 0), schema["maxLength"]
    return st.sampled_from([t for t in SAMPLES["unknown"] if low <= len(t) <= high])


def objects(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Objects with their required fields and some of the others."""
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        return st.dictionaries(st.sampled_from(["a", "b"]), st.integers(0, 9), max_size=2)
    if "additionalProperties" in schema:
        keys = st.sampled_from(["team", "example.com/team", "a.b", "bad key", "x" * 64])
        return st.dictionaries(keys, values("", schema["additionalProperties"]), max_size=2)
    required = set(schema.get("required", []))
    fields = {name: values(name, child) for name, child in schema["properties"].items()}
    return st.fixed_dictionaries(
        {n: s for n, s in fields.items() if n in required},
        optional={n: s for n, s in fields.items() if n not in required},
    )


def specs(kind: Kind) -> st.SearchStrategy[Any]:
    """A minimal spec with one or two of its parts replaced by random ones."""
    version = crd(kind)["spec"]["versions"][0]
    parts = version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    base = minimal(kind)["spec"]
    return st.lists(st.sampled_from(sorted(parts)), min_size=1, max_size=2, unique=True).flatmap(
        lambda chosen: st.fixed_dictionaries(
            {n: st.just(v) for n, v in base.items() if n not in chosen}
            | {n: values(n, parts[n]) for n in chosen}
        )
    )


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_what_is_accepted_can_be_read(crd_server: Server, kind: Kind) -> None:
    seen: Counter[int] = Counter()

    @settings(
        max_examples=200 if kind is MODEL_DEPLOYMENT else 60,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(specs(kind))
    def attempt(spec: dict[str, Any]) -> None:
        body = {
            "apiVersion": API_VERSION,
            "kind": kind.kind,
            "metadata": {"name": "fuzz"},
            "spec": spec,
        }
        status, answer = crd_server.try_create(kind, body)
        seen[status] += 1
        assert status in (201, 422), answer
        if status == 201:
            kind.parts["spec"].model_validate(answer["spec"])

    attempt()
    assert seen[201] >= 15, f"too few were accepted to say anything: {seen}"


def test_status_is_kept_as_written(crd_server: Server, namespace: str) -> None:
    place = f"/apis/{API_VERSION}/namespaces/{namespace}/modeldeployments"
    status, answer = crd_server.call("POST", place, minimal(MODEL_DEPLOYMENT))
    assert status == 201, answer
    model = MODEL_DEPLOYMENT.parts["status"]
    version = crd(MODEL_DEPLOYMENT)["spec"]["versions"][0]
    schema = version["schema"]["openAPIV3Schema"]["properties"]["status"]

    @settings(max_examples=100, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(objects(schema))
    def attempt(drawn: dict[str, Any]) -> None:
        kinds = [c["type"] for c in drawn.get("conditions", [])]
        if len(kinds) != len(set(kinds)):
            return
        written = model.model_validate(drawn).model_dump(by_alias=True, exclude_none=True)
        status, answer = crd_server.call(
            "PUT",
            f"{place}/iris/status?dryRun=All&fieldValidation=Strict",
            {**minimal(MODEL_DEPLOYMENT), "status": written, "metadata": answer_metadata},
        )
        assert status == 200, answer
        assert answer["status"] == written

    answer_metadata = {"name": "iris", "resourceVersion": answer["metadata"]["resourceVersion"]}
    attempt()
