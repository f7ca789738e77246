"""CRDs from the models: ``python -m sluice.api.crd DIR...`` writes, ``--check DIR...`` compares.

Called by ``make crds`` for crds/ and the chart's copy, and by tests.  Reads the models of this
package and nothing else.

The API server wants a *structural* schema, pydantic makes a general one.  Between them: ``$ref``
inlined, ``X | None`` becomes an optional ``X``, ``const`` a one-value enum, titles dropped.
Anything that a structural schema cannot say is an error here, not a surprise in a cluster.
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import yaml
from pydantic.json_schema import GenerateJsonSchema

from sluice.api.base import Block
from sluice.api.cel import VALIDATIONS
from sluice.api.kinds import KINDS, Column, Kind
from sluice.api.meta import GROUP, VERSION

Schema = dict[str, Any]

_FROZEN = "x-sluice-frozen"
_KEPT = frozenset(
    {"type", "description", "enum", "format", "pattern", "items", "required", "properties"}
    | {"additionalProperties", "maximum", "minimum", "maxItems", "minItems"}
    | {"maxLength", "minLength", "maxProperties", "minProperties"}
)
_REFUSED = ("oneOf", "allOf", "not", "prefixItems", "uniqueItems", "exclusiveMinimum", "$defs")


class SchemaError(ValueError):
    """A model says something that a structural schema cannot."""


class _Wire(GenerateJsonSchema):
    """Schemas as written in YAML; a default that JSON cannot hold is left to the code."""

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012


def schema_of(model: type[Block]) -> Schema:
    """The structural schema of ``model``."""
    raw = model.model_json_schema(by_alias=True, mode="validation", schema_generator=_Wire)
    return _structural(raw, raw.pop("$defs", {}), model.__name__, ())


def _structural(node: Schema, defs: Schema, path: str, inside: tuple[str, ...]) -> Schema:
    node = copy.copy(node)
    if "$ref" in node:
        node, inside = _inlined(node, defs, path, inside)
    if "anyOf" in node:
        return _structural(_without_null(node, path), defs, path, inside)
    if "const" in node:
        node["enum"] = [node["const"]]
    for key in _REFUSED:
        if key in node:
            raise SchemaError(f"{path}: {key} has no structural form")
    return _cleaned(node, defs, path, inside)


def _inlined(
    node: Schema, defs: Schema, path: str, inside: tuple[str, ...]
) -> tuple[Schema, tuple[str, ...]]:
    """``node`` with its reference replaced; what is said at the reference wins."""
    name = str(node.pop("$ref")).rsplit("/", 1)[-1]
    if name in inside:
        raise SchemaError(f"{path}: {name} contains itself")
    return _merged(defs[name], node), (*inside, name)


def _without_null(node: Schema, path: str) -> Schema:
    """``anyOf: [X, null]`` is an optional X: absent, never null."""
    node = copy.copy(node)
    options = [option for option in node.pop("anyOf") if option.get("type") != "null"]
    if len(options) != 1:
        raise SchemaError(f"{path}: a union of {len(options)} types has no structural form")
    if node.get("default", ...) is None:
        node.pop("default")
    return _merged(options[0], node)


def _merged(inner: Schema, outer: Schema) -> Schema:
    """``inner`` with what ``outer`` says about it; the rules of both hold."""
    made = {**inner, **outer}
    if inner.get(VALIDATIONS) and outer.get(VALIDATIONS):
        made[VALIDATIONS] = inner[VALIDATIONS] + outer[VALIDATIONS]
    return made


def _cleaned(node: Schema, defs: Schema, path: str, inside: tuple[str, ...]) -> Schema:
    """``node`` with only the keys that a CRD may hold, its children likewise."""
    made: Schema = {key: node[key] for key in node if key in _KEPT}
    made.update({key: v for key, v in node.items() if key.startswith("x-kubernetes-")})
    if node.get(_FROZEN):
        made["default"] = node["default"]
    elif "default" in node and "description" in node:
        made["description"] = _with_default(node["description"], node["default"])
    if "description" in made:
        made["description"] = " ".join(str(made["description"]).split())
    _number_formats(made)
    if "properties" in made:
        made["properties"] = {
            name: _structural(child, defs, f"{path}.{name}", inside)
            for name, child in node["properties"].items()
        }
        made.pop("additionalProperties", None)
    elif isinstance(made.get("additionalProperties"), dict):
        child = node["additionalProperties"]
        made["additionalProperties"] = _structural(child, defs, f"{path}.*", inside)
    else:
        made.pop("additionalProperties", None)
    if "items" in made:
        made["items"] = _structural(node["items"], defs, f"{path}[]", inside)
        made.setdefault("x-kubernetes-list-type", "atomic")
    if "x-kubernetes-int-or-string" in made:
        for key in ("type", "pattern", "maxLength"):  # the API server would not look at them
            made.pop(key, None)
    return made


def _with_default(description: str, default: object) -> str:
    """Says the default, since it is applied by the operator and not seen in the object."""
    if isinstance(default, bool | dict) or default in ("", None, []) or "efault" in description:
        return description
    shown = ", ".join(map(str, default)) if isinstance(default, list) else default
    return f"{description} Defaults to {shown}."


def _number_formats(node: Schema) -> None:
    if node.get("type") == "number":
        node["format"] = "double"
    if node.get("type") == "integer":
        node["format"] = "int32" if node.get("maximum", 1 << 62) < 1 << 31 else "int64"


def crd(kind: Kind) -> Schema:
    """The CustomResourceDefinition of ``kind``."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": kind.scope,
            "names": {
                "kind": kind.kind,
                "listKind": f"{kind.kind}List",
                "plural": kind.plural,
                "singular": kind.singular,
                "shortNames": [kind.short],
                "categories": ["sluice"],
            },
            "versions": [_version(kind)],
        },
    }


def _version(kind: Kind) -> Schema:
    version: Schema = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": _root(kind)},
        "additionalPrinterColumns": [_column(column) for column in kind.columns],
    }
    if kind.selectable:
        version["selectableFields"] = [{"jsonPath": path} for path in kind.selectable]
    if "status" in kind.parts:
        version["subresources"] = {"status": {}}
    if kind.scale:
        version["subresources"]["scale"] = {
            "specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        }
    return version


def _root(kind: Kind) -> Schema:
    properties: Schema = {
        "apiVersion": {"type": "string", "description": f"{GROUP}/{VERSION}."},
        "kind": {"type": "string", "description": f"{kind.kind}."},
        "metadata": {"type": "object"},
    }
    for name, model in kind.parts.items():
        properties[name] = schema_of(model)
        if name in kind.defaults:
            properties[name]["default"] = kind.defaults[name]
    root: Schema = {
        "type": "object",
        "description": kind.description,
        "required": list(kind.required),
        "properties": properties,
    }
    if kind.rules:
        root[VALIDATIONS] = [dict(rule) for rule in kind.rules]
    return root


def _column(column: Column) -> Schema:
    made: Schema = {"name": column.name, "type": column.kind, "jsonPath": column.path}
    if column.wide:
        made["priority"] = 1
    return made


class _Dumper(yaml.SafeDumper):
    """No anchors: people and old tools read these files."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def render(kind: Kind) -> str:
    """The YAML file of ``kind``."""
    head = "# Generated from operator/sluice/api by `make crds`; do not edit.\n"
    return head + yaml.dump(
        crd(kind), Dumper=_Dumper, sort_keys=False, width=100, allow_unicode=True
    )


def file_name(kind: Kind) -> str:
    """Where ``kind`` lives in crds/."""
    return f"{GROUP}_{kind.plural}.yaml"


def write(directory: Path) -> list[Path]:
    """Writes every CRD into ``directory``; the paths written."""
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for kind in KINDS:
        path = directory / file_name(kind)
        path.write_text(render(kind), encoding="utf-8")
        written.append(path)
    return written


def stale(directory: Path) -> list[str]:
    """Files of ``directory`` that the generator would write differently, or not at all."""
    wanted = {file_name(kind): render(kind) for kind in KINDS}
    found = {path.name: path.read_text(encoding="utf-8") for path in directory.glob("*.yaml")}
    return sorted(
        name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)
    )


def main(arguments: list[str]) -> int:
    """``[--check] DIR...``."""
    places = [Path(argument) for argument in arguments if argument != "--check"]
    if not places:
        print("usage: python -m sluice.api.crd [--check] DIR...", file=sys.stderr)
        return 2
    if "--check" not in arguments:
        for path in (path for place in places for path in write(place)):
            print(path)
        return 0
    different = [place / name for place in places for name in stale(place)]
    for path in different:
        print(f"{path} differs from the models; run `make crds`", file=sys.stderr)
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
