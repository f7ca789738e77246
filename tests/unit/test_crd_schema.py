"""The generated CRDs: structural, bounded, described, and what the repository has committed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from pydantic import Field

from sluice.api import crd as generator
from sluice.api.base import Block
from sluice.api.cel import VALIDATIONS
from sluice.api.crd import SchemaError, crd, render, schema_of, stale, write
from sluice.api.kinds import KINDS, MODEL_DEPLOYMENT, MODEL_REVISION, Kind

ROOT = Path(__file__).parents[2]
YAML_1_1_BOOLEANS = {"y", "n", "yes", "no", "on", "off", "true", "false"}


def version(kind: Kind) -> dict[str, Any]:
    (only,) = crd(kind)["spec"]["versions"]
    return dict(only)


def nodes(kind: Kind) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema of ``kind`` below the parts we write, with its path."""

    def walk(node: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
        yield path, node
        for name, child in node.get("properties", {}).items():
            yield from walk(child, f"{path}.{name}")
        if "items" in node:
            yield from walk(node["items"], f"{path}[]")
        if "additionalProperties" in node:
            yield from walk(node["additionalProperties"], f"{path}.*")

    for part in kind.parts:
        yield from walk(version(kind)["schema"]["openAPIV3Schema"]["properties"][part], part)


ALL = [pytest.param(kind, id=kind.kind) for kind in KINDS]


@pytest.mark.parametrize("directory", ["crds", "charts/sluice/files/crds"])
def test_committed_files_are_what_the_models_say(directory: str) -> None:
    assert stale(ROOT / directory) == []


@pytest.mark.parametrize("kind", ALL)
def test_a_crd_is_small_enough_for_plain_kubectl_apply(kind: Kind) -> None:
    assert len(render(kind)) < 200_000
    assert len(json.dumps(crd(kind))) < 200_000


@pytest.mark.parametrize("kind", ALL)
def test_every_field_is_described(kind: Kind) -> None:
    bare = [
        path
        for path, node in nodes(kind)
        if not path.endswith(("[]", ".*")) and not node.get("description", "").endswith((".", ")"))
    ]
    assert bare == []


@pytest.mark.parametrize("kind", ALL)
def test_everything_is_bounded(kind: Kind) -> None:
    loose = []
    for path, node in nodes(kind):
        if node.get("x-kubernetes-preserve-unknown-fields") or "enum" in node:
            continue
        wanted = {"string": ["maxLength"], "array": ["maxItems"],
                  "integer": ["minimum", "maximum"]}.get(node.get("type", ""), [])  # fmt: skip
        if "additionalProperties" in node:
            wanted = ["maxProperties"]
        if node.get("type") == "number" and path.startswith("spec"):
            wanted = ["minimum", "maximum"]
        loose += [f"{path}: {key}" for key in wanted if key not in node]
    assert loose == []


@pytest.mark.parametrize("kind", ALL)
def test_fractional_bounds_have_a_rule(kind: Kind) -> None:
    """The API server compares a whole number with the bound's whole part: 0 passes 0.0001."""
    for path, node in nodes(kind):
        bounds = [node[k] for k in ("minimum", "maximum") if k in node]
        if any(bound != int(bound) for bound in bounds):
            assert node.get(VALIDATIONS), path


@pytest.mark.parametrize("kind", ALL)
def test_no_key_or_enum_is_a_boolean_in_yaml_1_1(kind: Kind) -> None:
    words = {path.rsplit(".", 1)[-1] for path, _ in nodes(kind)}
    words |= {value for _, node in nodes(kind) for value in node.get("enum", [])}
    assert {word for word in words if word.lower() in YAML_1_1_BOOLEANS} - {
        "True",
        "False",
    } == set()


@pytest.mark.parametrize("kind", ALL)
def test_every_rule_says_what_must_be_and_shows_it(kind: Kind) -> None:
    root = version(kind)["schema"]["openAPIV3Schema"]
    found = [rule for _, node in nodes(kind) for rule in node.get(VALIDATIONS, [])]
    for rule in found + root.get(VALIDATIONS, []):
        assert "must" in rule["message"], rule
        assert rule["reason"].startswith("FieldValue"), rule
        shows = ("for example", "write", "delete")
        assert any(word in rule["message"] for word in shows), rule["message"]


@pytest.mark.parametrize("kind", ALL)
def test_keys_of_list_maps_are_required(kind: Kind) -> None:
    for path, node in nodes(kind):
        for key in node.get("x-kubernetes-list-map-keys", []):
            assert key in node["items"]["required"], path


@pytest.mark.parametrize("kind", ALL)
def test_only_what_must_be_frozen_is_defaulted_into_stored_objects(kind: Kind) -> None:
    defaults = {path: node["default"] for path, node in nodes(kind) if "default" in node}
    expected = {"spec.replicas": 2, "status": {"observedGeneration": -1}}
    assert defaults == (expected if kind is MODEL_DEPLOYMENT else {})


def test_columns_are_the_ones_people_look_for() -> None:
    columns = version(MODEL_DEPLOYMENT)["additionalPrinterColumns"]
    assert [c["name"] for c in columns if "priority" not in c] == [
        "READY", "STABLE", "CANDIDATE", "WEIGHT", "REASON", "AGE",
    ]  # fmt: skip
    assert [c["name"] for c in columns if "priority" in c] == [
        "URL", "STEP", "WORST-CHECK", "EVIDENCE", "VALIDATED",
    ]  # fmt: skip
    names = [c["name"] for c in version(MODEL_REVISION)["additionalPrinterColumns"]]
    assert names[:5] == ["DEPLOYMENT", "DIGEST", "VERDICT", "REASON", "AGE"]


@pytest.mark.parametrize("kind", ALL)
def test_columns_and_selectors_name_fields_that_exist(kind: Kind) -> None:
    known = {f".{path}" for path, _ in nodes(kind)} | {".metadata.creationTimestamp"}
    paths = [c["jsonPath"] for c in version(kind)["additionalPrinterColumns"]]
    paths += [s["jsonPath"] for s in version(kind).get("selectableFields", [])]
    for path in paths:
        plain = path.replace("[*]", "[]").split("[?")[0]
        assert plain in known, path


def test_status_at_its_largest_stays_below_32_kb() -> None:
    """By the bounds of the schema, with a sentence of 160 letters where 512 are allowed."""

    def size(node: dict[str, Any]) -> int:
        if "properties" in node:
            return sum(len(name) + 4 + size(child) for name, child in node["properties"].items())
        if node.get("type") == "array":
            return int(node["maxItems"]) * (size(node["items"]) + 1)
        return min(int(node.get("maxLength", 12)), 160) + 2

    assert size(schema_of(MODEL_DEPLOYMENT.parts["status"])) < 32 * 1024


def test_check_names_the_file_that_differs(tmp_path: Path, capsys: Any) -> None:
    write(tmp_path)
    assert generator.main(["--check", str(tmp_path)]) == 0
    first = sorted(tmp_path.iterdir())[0]
    first.write_text(first.read_text().replace("Percent", "percent"))
    (tmp_path / "left-over.yaml").write_text("{}")
    assert generator.main(["--check", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert first.name in said
    assert "left-over.yaml" in said
    assert "make crds" in said


def test_files_are_plain_yaml_without_anchors() -> None:
    for kind in KINDS:
        text = render(kind)
        assert yaml.safe_load(text) == crd(kind)
        assert "&id" not in text


class Leaf(Block):
    """A leaf."""

    kind: Literal["A"] = Field(description="Kind.")
    size: int | None = Field(default=None, ge=1, le=5, description="Size.")


class Tree(Block):
    """A tree."""

    leaf: Leaf | None = Field(default=None, description="The leaf.")
    leaves: Annotated[list[Leaf], Field(max_length=3)] = Field(
        default_factory=list, description="More."
    )
    wait: str = Field(default="1s", max_length=9, description="Time.")


def test_optional_blocks_constants_and_defaults_become_structural() -> None:
    assert schema_of(Tree) == {
        "type": "object",
        "description": "A tree.",
        "properties": {
            "leaf": {
                "type": "object",
                "description": "The leaf.",
                "required": ["kind"],
                "properties": {
                    "kind": {"type": "string", "enum": ["A"], "description": "Kind."},
                    "size": {
                        "type": "integer", "format": "int32", "minimum": 1, "maximum": 5,
                        "description": "Size.",
                    },
                },
            },
            "leaves": {
                "type": "array",
                "description": "More.",
                "maxItems": 3,
                "x-kubernetes-list-type": "atomic",
                "items": schema_of(Leaf),
            },
            "wait": {"type": "string", "maxLength": 9, "description": "Time. Defaults to 1s."},
        },
    }  # fmt: skip


class Union(Block):
    """Two things at once."""

    either: int | str = Field(description="One or the other.")


class Nested(Block):
    """Contains itself."""

    inner: Nested | None = Field(default=None, description="Again.")


class Exclusive(Block):
    """An open bound."""

    size: float = Field(gt=0, description="Size.")


@pytest.mark.parametrize(
    ("model", "says"),
    [(Union, "union"), (Nested, "contains itself"), (Exclusive, "exclusiveMinimum")],
)
def test_what_has_no_structural_form_is_an_error(model: type[Block], says: str) -> None:
    with pytest.raises(SchemaError, match=says):
        schema_of(model)
