"""sluice.json: canonical bytes, strict reading, refusals that name the field."""

from __future__ import annotations

import json

import pytest

from sluice.errors import PackageError
from sluice.package.manifest import (
    MAX_MANIFEST_BYTES,
    FileEntry,
    Input,
    Manifest,
    ModelFile,
    Output,
    canonical_json,
    decode,
    digest_of,
    encode,
)


def manifest() -> Manifest:
    return Manifest(
        name="iris",
        task="classification",
        model=ModelFile(file="model.onnx", format="onnx", trust_class="Data"),
        inputs=(Input(name="größe", type="float", min=0.0, max=1.5),),
        output=Output(labels=("no", "yes"), positive="yes"),
        files=(FileEntry(path="model.onnx", sha256="0" * 64, size=3),),
    )


def changed(**fields: object) -> bytes:
    plain = json.loads(encode(manifest()))
    plain.update(fields)
    return json.dumps(plain).encode()


def test_bytes_are_canonical_and_read_back() -> None:
    raw = encode(manifest())
    assert decode(raw) == manifest()
    assert encode(decode(raw)) == raw
    assert raw.endswith(b"}\n") and b": " not in raw and "größe".encode() in raw
    assert list(json.loads(raw)) == sorted(json.loads(raw))
    assert b":null" not in raw


def test_the_digest_is_of_the_bytes() -> None:
    assert digest_of(b"") == (
        "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    )


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "cannot be read"),
        (b"[]", "Expected `object`"),
        (b"\xff\xfe", "cannot be read"),
        (encode(manifest())[:-40], "truncated"),
        (b"[" * 100_000, "cannot be read"),
        (b'{"inputs":' + b"[" * 100_000, "cannot be read"),
        (changed(surprise=1), "surprise"),
        (changed(name=7), "$.name"),
        (changed(name="../x"), "$.name"),
        (changed(task="clustering"), "$.task"),
        (changed(inputs=[]), "$.inputs"),
        (changed(inputs=[{"name": "a", "type": "datetime"}]), "$.inputs[0].type"),
        (changed(inputs=[{"name": "a", "type": "int"}] * 2), "twice in inputs"),
        (changed(inputs=[{"name": "a", "type": "int", "min": "0"}]), "$.inputs[0].min"),
        (changed(model={"file": "m", "format": "exe", "class": "Data"}), "$.model.format"),
        (changed(model={"file": "m", "format": "onnx", "class": "Data"}), "not in files"),
        (changed(output={"labels": ["a", "b"], "positive": "c"}), "neither of them"),
        (changed(output={}), "without output.labels"),
        (changed(output={"labels": ["a", "b"], "positive": "a", "threshold": None}), "threshold"),
        (changed(preprocess="features:pre"), "not of class Code"),
        (changed(preprocess="os.system"), "$.preprocess"),
        (encode(manifest()).replace(b"0.5", b"NaN"), "cannot be read"),
        (encode(manifest()).replace(b'"size":3', b'"size":-3'), "size"),
        (encode(manifest()).replace(b'"size":3', b'"size":1e999'), "size"),
    ],
)
def test_bad_content_is_corrupt_and_named(raw: bytes, says: str) -> None:
    with pytest.raises(PackageError) as error:
        decode(raw)
    assert error.value.reason == "Corrupt"
    assert says in str(error.value)


@pytest.mark.parametrize(
    "path", ["../x", "/etc/passwd", "a/../../b", "./a", "a//b", "a\\b", "a\0b", "sluice.json"]
)
def test_a_path_cannot_leave_the_package(path: str) -> None:
    with pytest.raises(PackageError) as error:
        decode(changed(files=[{"path": path, "sha256": "0" * 64, "size": 1}]))
    assert error.value.reason == "Corrupt"


def test_a_newer_schema_is_told_apart_from_damage() -> None:
    with pytest.raises(PackageError) as error:
        decode(changed(schemaVersion=2))
    assert error.value.reason == "UnknownFormat"
    assert "newer Sluice" in str(error.value)


def test_a_huge_manifest_is_not_parsed() -> None:
    with pytest.raises(PackageError) as error:
        decode(b" " * (MAX_MANIFEST_BYTES + 1))
    assert error.value.reason == "TooLarge"


def test_no_number_that_json_does_not_have_is_ever_written() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"x": float("nan")})
