"""``/openapi.json``: every path of the serving port, with the model's own fields.

Called by the server once, when the package is loaded; pure.  Examples are the package's own golden
rows.  What JSON Schema cannot say (columns of one length, tensors whose data fit their shape) is in
the descriptions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from sluice.package.load import Package
from sluice.package.manifest import Input, Manifest
from sluice.runtime.describe import example_row
from sluice.runtime.inputs import MAX_ROWS
from sluice.runtime.protocols import binary, v2
from sluice.runtime.served import Settings
from sluice.version import __version__

Schema = dict[str, Any]

_LARGEST = 1.7976931348623157e308
_FIELDS: dict[str, Schema] = {
    "float": {"type": "number", "minimum": -_LARGEST, "maximum": _LARGEST},
    "int": {
        "type": "integer",
        "minimum": msgspec.Raw(b"-%d" % 2**1023),
        "maximum": msgspec.Raw(b"%d" % 2**1023),
    },
    "bool": {"type": "boolean"},
    "string": {"type": "string"},
}
_TEXT: Schema = {"type": "string"}
_MANY = {"minItems": 1, "maxItems": MAX_ROWS}

_WRONG = {
    "400": "The body does not fit the model's fields, or this is no HTTP/1.1",
    "404": "Another model's name or version",
    "408": "The request did not come within the time limit",
    "413": "Too large, or too many rows",
    "414": "The URL is too long",
    "415": "Not JSON, and not tensors in bytes",
    "417": "Expect knows only 100-continue",
    "431": "The headers are too large",
    "500": "The model failed",
    "503": "Busy, loading, shutting down or another revision; see Retry-After",
    "504": "The model took too long",
}
_WRONG_GET = ("400", "405", "408", "414", "417", "431", "503")
_METHOD = {"405": "Another method; see Allow"}


def document(manifest: Manifest, settings: Settings, package: Package) -> bytes:
    """The OpenAPI document of this server."""
    rows = [dict(example.row) for example in package.golden()[:3]]
    rows = rows or [example_row(manifest, package)]
    version = settings.revision or "1"
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {
                "title": settings.deployment,
                "version": version,
                "description": f"{manifest.task} served by Sluice {__version__}.",
            },
            "paths": {
                **_predict_path(rows),
                **_v1_paths(settings.deployment, manifest, rows),
                **_v2_paths(settings.deployment, version, manifest, rows),
                **_other_paths(),
            },
            "components": {"schemas": _schemas(manifest), "headers": _HEADERS},
        }
    )


# Paths.


def _predict_path(rows: Sequence[Mapping[str, Any]]) -> Schema:
    body = {"anyOf": [_ref("Row"), {"type": "array", "items": _ref("Row"), **_MANY}]}
    body["anyOf"].append(_ref("Columns"))
    columns = {name: [row.get(name) for row in rows] for name in rows[0]}
    examples = {"row": rows[0], "rows": rows, "columns": columns}
    answers = {"200": _answered("Answered", _ref("Predictions"))}
    return {"/predict": {"post": _post("Predict by feature name", body, examples, answers)}}


def _v1_paths(name: str, manifest: Manifest, rows: Sequence[Mapping[str, Any]]) -> Schema:
    width = len(manifest.inputs)
    in_order = {
        "type": "array",
        "prefixItems": [_field(spec) for spec in manifest.inputs],
        "minItems": width,
        "maxItems": width,
    }
    listed = {"type": "array", "items": {"anyOf": [_ref("Row"), in_order]}, **_MANY}
    other = _object({"inputs": listed}, ["inputs"]) | {"not": {"required": ["instances"]}}
    body = {"anyOf": [_object({"instances": listed}, ["instances"]), other]}
    examples = {
        "objects": {"instances": rows},
        "lists": {"instances": [list(row.values()) for row in rows]},
    }
    answers = {"200": _answered("Answered", _ref("V1Predictions"))}
    ready = _object({"name": _TEXT, "ready": {"type": "boolean"}}, ["name", "ready"])
    models = _object({"models": {"type": "array", "items": _TEXT}}, ["models"])
    return {
        "/v1/models": {"get": _get("The models of this server", models)},
        f"/v1/models/{name}": {"get": _get("Whether the model is ready", ready, unready=ready)},
        f"/v1/models/{name}:predict": {
            "post": _post("Predict, V1", body, examples, answers, error="PlainError")
        },
    }


def _v2_paths(
    name: str, version: str, manifest: Manifest, rows: Sequence[Mapping[str, Any]]
) -> Schema:
    yes = {"type": "boolean"}
    live, ready = _object({"live": yes}, ["live"]), _object({"ready": yes, "live": yes}, ["ready"])
    model_ready = _object({"name": _TEXT, "ready": yes}, ["name", "ready"])
    server = _object(
        {"name": _TEXT, "version": _TEXT, "extensions": {"type": "array", "items": _TEXT}},
        ["name", "version", "extensions"],
    )
    paths: Schema = {
        "/v2": {"get": _get("The server, V2", server)},
        "/v2/health/live": {"get": _get("Whether the server lives", live)},
        "/v2/health/ready": {"get": _get("Whether it is ready", ready, unready=ready)},
    }
    for base in (f"/v2/models/{name}", f"/v2/models/{name}/versions/{version}"):
        paths |= {
            base: {"get": _get("Inputs and outputs of the model", _ref("ModelMetadata"))},
            f"{base}/ready": {
                "get": _get("Whether the model is ready", model_ready, unready=model_ready)
            },
            f"{base}/infer": {"post": _infer(manifest, rows)},
        }
    return paths


def _infer(manifest: Manifest, rows: Sequence[Mapping[str, Any]]) -> Schema:
    tensors = [
        {
            "name": spec.name,
            "shape": [len(rows)],
            "datatype": v2.DATATYPES[spec.type],
            "data": [row.get(spec.name) for row in rows],
        }
        for spec in manifest.inputs
    ]
    answer = _answered("Answered", _ref("InferResponse"))
    answer["content"][binary.CONTENT_TYPE.decode()] = {"schema": _BYTES}
    operation = _post(
        "Predict, Open Inference Protocol V2",
        _ref("InferRequest"),
        {"tensors": {"inputs": tensors}},
        {"200": answer},
        error="PlainError",
    )
    operation["requestBody"]["content"][binary.CONTENT_TYPE.decode()] = {"schema": _BYTES}
    operation["parameters"] = [
        {
            "name": "Inference-Header-Content-Length",
            "in": "header",
            "required": False,
            "description": "With tensors in bytes: the length of the JSON part before them",
            "schema": {"type": "integer", "minimum": 0},
        }
    ]
    return operation


def _other_paths() -> Schema:
    one = _object(
        {
            "value": {"type": "number", "minimum": -1e12, "maximum": 1e12},
            "denominator": {"type": "number", "minimum": 0, "maximum": 1e12},
            "eventId": {"type": "string", "maxLength": 128},
        },
        ["value"],
    ) | {"additionalProperties": False}
    many = {"type": "array", "items": one, "minItems": 1, "maxItems": 1000}
    accepted = _object({"accepted": {"type": "integer"}}, ["accepted"])
    feedback = _post(
        "What came of a unit, while an experiment runs",
        {"anyOf": [one, many]},
        {"one": {"value": 1}},
        {"202": _answered("Written down, when an experiment runs", accepted)},
    )
    probes = {"/livez": "Alive", "/readyz": "Ready for traffic", "/startupz": "Loaded"}
    return {
        "/feedback": {"post": feedback},
        "/": {"get": _get("Liveness as V1 asks for it", _object({"status": _TEXT}, ["status"]))},
        **{path: {"get": _page(what, "text/plain")} for path, what in probes.items()},
        "/docs": {"get": _page("This model for people", "text/html")},
        "/openapi.json": {"get": _get("This document", {"type": "object"})},
    }


# Operations.


def _post(
    summary: str,
    body: Schema,
    examples: Mapping[str, Any],
    answers: Schema,
    *,
    error: str = "Error",
) -> Schema:
    named = {name: {"value": value} for name, value in examples.items()}
    content = {"application/json": {"schema": body, "examples": named}}
    wrong = {status: _answered(text, _ref(error)) for status, text in {**_METHOD, **_WRONG}.items()}
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": content},
        "responses": answers | wrong,
    }


def _get(summary: str, answer: Schema, *, unready: Schema | None = None) -> Schema:
    responses = {"200": _answered(summary, answer)} | _wrong_get()
    if unready is not None:
        either = {"anyOf": [unready, _ref("AnyError")]}
        responses["503"] = _answered("Not ready", either)
    return {"summary": summary, "responses": responses}


def _page(summary: str, kind: str) -> Schema:
    content = {kind: {"schema": _TEXT}}
    answer = {"description": summary, "headers": _ANSWER_HEADERS, "content": content}
    unready = {"description": f"Not: {summary}", "headers": _ANSWER_HEADERS,
               "content": content | _json(_ref("AnyError"))}  # fmt: skip
    return {"summary": summary, "responses": _wrong_get() | {"200": answer, "503": unready}}


def _wrong_get() -> Schema:
    said = {**_METHOD, **_WRONG}
    return {status: _answered(said[status], _ref("AnyError")) for status in _WRONG_GET}


def _answered(description: str, schema: Schema) -> Schema:
    return {"description": description, "headers": _ANSWER_HEADERS, "content": _json(schema)}


def _json(schema: Schema) -> Schema:
    return {"application/json": {"schema": schema}}


_HEADERS: Schema = {
    "Revision": {
        "description": "Which revision answered",
        "required": True,
        "schema": _TEXT,
    }
}
_ANSWER_HEADERS = {"X-Sluice-Revision": {"$ref": "#/components/headers/Revision"}}
_BYTES: Schema = {
    "description": "JSON, and behind it the tensors, little endian, in its order",
    "type": "string",
    "format": "binary",
}


# Schemas.


def _schemas(manifest: Manifest) -> Schema:
    fields = {spec.name: _field(spec) for spec in manifest.inputs}
    required = [spec.name for spec in manifest.inputs if spec.required]
    error = _object({"code": _TEXT, "message": _TEXT, "field": _TEXT}, ["code", "message"])
    # A row with no known field was meant for another model.
    some = {} if required else {"anyOf": [{"required": [spec.name]} for spec in manifest.inputs]}
    lists = {name: {"type": "array", "items": field, **_MANY} for name, field in fields.items()}
    return {
        "Row": _object(fields, required) | some,
        "Columns": _object(lists, required or list(lists)[:1])
        | {"description": "All lists have one length"},
        "Predictions": _predictions(manifest),
        "V1Predictions": _object(
            {"predictions": {"type": "array", "items": _prediction(manifest)}}, ["predictions"]
        ),
        **_tensor_schemas(),
        "Error": _object({"error": error}, ["error"]),
        "PlainError": _object({"error": _TEXT}, ["error"]),
        "AnyError": {"anyOf": [_ref("Error"), _ref("PlainError")]},
    }


def _tensor_schemas() -> Schema:
    shape = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
    shape |= {"maxItems": 3}
    data = {"type": "array", "description": "As many values as the shape multiplies out to"}
    parameters = {"type": "object"}
    named = {"name": _TEXT, "shape": shape, "datatype": {"enum": sorted(v2.KNOWN)}}
    wanted = _object({"name": _TEXT, "parameters": parameters}, ["name"])
    about = _object(
        {**named, "shape": {"type": "array", "items": {"type": "integer"}}}, list(named)
    )
    sent = _object({**named, "data": data, "parameters": parameters}, list(named))
    return {
        "Tensor": sent,
        "InferRequest": _object(
            {
                "id": _TEXT,
                "inputs": {"type": "array", "items": _ref("Tensor"), "minItems": 1},
                "outputs": {"type": "array", "items": wanted},
                "parameters": parameters,
            },
            ["inputs"],
        ),
        "InferResponse": _object(
            {
                "model_name": _TEXT,
                "model_version": _TEXT,
                "id": _TEXT,
                "outputs": {"type": "array", "items": sent},
            },
            ["model_name", "model_version", "id", "outputs"],
        ),
        "ModelMetadata": _object(
            {
                "name": _TEXT,
                "versions": {"type": "array", "items": _TEXT},
                "platform": _TEXT,
                "inputs": {"type": "array", "items": about},
                "outputs": {"type": "array", "items": about},
            },
            ["name", "versions", "platform", "inputs", "outputs"],
        ),
    }


def _object(properties: Schema, required: Sequence[str] = ()) -> Schema:
    schema: Schema = {"type": "object", "properties": properties}
    return schema | ({"required": list(required)} if required else {})


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _field(spec: Input) -> Schema:
    schema = dict(_FIELDS[spec.type])
    if spec.nullable:
        schema["type"] = [schema["type"], "null"]
    notes = []
    if spec.min is not None and spec.max is not None:
        notes.append(f"reference data: {spec.min:g} to {spec.max:g}")
    if spec.categories:
        notes.append("seen in training: " + ", ".join(spec.categories[:20]))
    if notes:
        schema["description"] = "; ".join(notes) + " (other values are accepted and counted)"
    return schema


def _prediction(manifest: Manifest) -> Schema:
    labels = manifest.output.labels
    return {"type": "number"} if labels is None else {"enum": list(labels)}


def _predictions(manifest: Manifest) -> Schema:
    item: Schema = {"score": {"type": "number"}, "eventId": _TEXT}
    required = ["score", "eventId"]
    if manifest.output.labels is not None:
        item["label"] = _prediction(manifest)
        item["scores"] = {"type": "object", "additionalProperties": {"type": "number"}}
        required.append("label")
    answers = {"type": "array", "items": _object(item, required)}
    return _object({"predictions": answers, "revision": _TEXT}, ["predictions", "revision"])
