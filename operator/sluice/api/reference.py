"""docs/api.md from the models: ``python -m sluice.api.reference [--check] FILE``.

Called by ``make crds`` and by tests.  Walks the schemas that the CRD generator makes, so the page
says what ``kubectl explain`` says, and what the API server refuses, in one place.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from sluice.api.cel import VALIDATIONS
from sluice.api.conditions import REASONS, TYPES
from sluice.api.crd import Schema, schema_of
from sluice.api.kinds import KINDS, Kind
from sluice.api.meta import API_VERSION, COMMANDS, DIGEST_BOUND_COMMANDS

_HEAD = f"""# API reference

Generated from `operator/sluice/api` by `make crds`; do not edit.
Group and version: `{API_VERSION}`.
The same text is in the cluster: `kubectl explain mdep.spec.rollout.steps`.

Durations are written `500ms`, `30s`, `10m`, `168h` or `1h30m`. A default is applied by the operator
and not written into the object, but for `replicas`. **Bold** fields must be set.
"""


_ON_COMMANDS = """
`kubectl annotate mdep/iris sluice.dev/abort=now` stops a rollout at once. The answer is in
`status.lastCommand`; the annotation is taken away once the command is carried out, so the same line
works the next time.
"""


def page() -> str:
    """The whole page."""
    parts = [_HEAD, *(_kind(kind) for kind in KINDS), _conditions(), _commands()]
    return "\n".join(parts)


def _kind(kind: Kind) -> str:
    lines = [f"## {kind.kind}", "", f"{kind.description}", ""]
    lines += [f"`kubectl get {kind.short}`, {kind.scope.lower()}.", ""]
    for name, model in kind.parts.items():
        schema = schema_of(model)
        lines += [f"### {kind.kind} `{name}`", "", str(schema["description"]), ""]
        lines += ["| field | type | meaning |", "|---|---|---|", *_rows(schema, name), ""]
    refusals = [f"- {rule['message']}." for rule in kind.rules]
    for name, model in kind.parts.items():
        refusals += [f"- `{path}`: {text}." for path, text in _rules(schema_of(model), name)]
    if refusals:
        lines += [f"### What the API server refuses of a {kind.kind}", "", *refusals, ""]
    return "\n".join(lines)


def _rows(schema: Schema, path: str) -> Iterator[str]:
    required = schema.get("required", [])
    for name, child in schema.get("properties", {}).items():
        here = f"{path}.{name}"
        shown = f"**`{here}`**" if name in required else f"`{here}`"
        text = str(child.get("description", "")).replace("|", "\\|")
        yield f"| {shown} | {_type(child)} | {text} |"
        yield from _rows(child, here)
        yield from _rows(child.get("items", {}), f"{here}[]")


def _type(schema: Schema) -> str:
    if "x-kubernetes-int-or-string" in schema:
        return "quantity"
    if "enum" in schema:
        return " \\| ".join(f"`{value}`" for value in schema["enum"])
    if schema["type"] == "array":
        return f"list of {_type(schema['items'])}"
    if schema["type"] == "object" and "additionalProperties" in schema:
        return f"map of {_type(schema['additionalProperties'])}"
    return str(schema["type"]) + _bounds(schema)


def _bounds(schema: Schema) -> str:
    if "minimum" not in schema and "maximum" not in schema:
        return ""
    return f", {_number(schema.get('minimum'))} to {_number(schema.get('maximum'))}"


def _number(value: float | None) -> str:
    return "any" if value is None else f"{value:g}" if value < 1e6 else f"{value:.3g}"


def _rules(schema: Schema, path: str) -> Iterator[tuple[str, str]]:
    """Each rule once, at the first place where it holds."""
    seen: set[str] = set()

    def walk(node: Schema, here: str) -> Iterator[tuple[str, str]]:
        for rule in node.get(VALIDATIONS, []):
            if rule["message"] not in seen:
                seen.add(rule["message"])
                yield here + rule.get("fieldPath", ""), rule["message"]
        for name, child in node.get("properties", {}).items():
            yield from walk(child, f"{here}.{name}")
        if "items" in node:
            yield from walk(node["items"], f"{here}[]")

    yield from walk(schema, path)


def _conditions() -> str:
    lines = ["## Conditions of a ModelDeployment", "", "| type | meaning |", "|---|---|"]
    lines += [f"| `{kind}` | {meaning} |" for kind, meaning in TYPES.items()]
    lines += ["", "| reason | meaning |", "|---|---|"]
    lines += [f"| `{reason}` | {meaning} |" for reason, meaning in sorted(REASONS.items())]
    return "\n".join([*lines, ""])


def _commands() -> str:
    lines = ["## Commands", "", "| annotation | value |", "|---|---|"]
    for verb in COMMANDS:
        bound = verb in DIGEST_BOUND_COMMANDS
        value = "the candidate's package digest, or its first 12 hex digits" if bound else "any"
        lines.append(f"| `sluice.dev/{verb}` | {value} |")
    lines += ["", *_ON_COMMANDS.strip().splitlines()]
    return "\n".join([*lines, ""])


def main(arguments: list[str]) -> int:
    """``[--check] FILE``."""
    places = [Path(argument) for argument in arguments if argument != "--check"]
    if len(places) != 1:
        print("usage: python -m sluice.api.reference [--check] FILE", file=sys.stderr)
        return 2
    place = places[0]
    if "--check" not in arguments:
        place.write_text(page(), encoding="utf-8")
        print(place)
        return 0
    if place.exists() and place.read_text(encoding="utf-8") == page():
        return 0
    print(f"{place} differs from the models; run `make crds`", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
