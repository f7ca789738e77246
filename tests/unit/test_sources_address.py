"""Addresses: what is understood, what is refused, and that secrets are never shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.errors import SourceError
from sluice.sources import parse
from sluice.sources.address import SCHEMES
from sluice.sources.local import local_path

HEX = "9f" * 32


@pytest.mark.parametrize(
    ("text", "scheme", "host", "path"),
    [
        ("file:///models/iris", "file", "", "/models/iris"),
        ("file://localhost/a%20b", "file", "", "/a b"),
        ("pvc://claim/models/iris", "pvc", "claim", "/models/iris"),
        ("pvc://claim", "pvc", "claim", "/"),
        ("s3://bucket/a/b/", "s3", "bucket", "/a/b"),
        ("https://host:8443/x/y", "https", "host:8443", "/x/y"),
        ("http://[::1]:80/x", "http", "[::1]:80", "/x"),
        ("gs://bucket/a/b", "gs", "bucket", "/a/b"),
        ("az://container/a/b/", "az", "container", "/a/b"),
        ("oci://reg:5000/team/iris", "oci", "reg:5000", "/team/iris"),
        ("hf://org/repo@v1/dir/m.onnx", "hf", "org", "/repo@v1/dir/m.onnx"),
        ("mlflow://models/churn@champion", "mlflow", "models", "/churn@champion"),
    ],
)
def test_understood(text: str, scheme: str, host: str, path: str) -> None:
    address = parse(text)
    assert (address.scheme, address.host, address.path) == (scheme, host, path)


def test_a_plain_path_is_a_file(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(str(tmp_path))
    assert parse("models/iris").path == f"{tmp_path}/models/iris"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("gcs://bucket/x", "UnsupportedScheme"),
        ("ftp://host/x", "UnsupportedScheme"),
        ("javascript://x", "UnsupportedScheme"),
        ("file://host/path", "InvalidAddress"),
        ("file:///a%00b", "InvalidAddress"),
        ("file:///a?b", "InvalidAddress"),
        ("a\0b", "InvalidAddress"),
        ("pvc:///path", "InvalidAddress"),
        ("pvc://UPPER/path", "InvalidAddress"),
        ("pvc://claim/../../etc/passwd", "InvalidAddress"),
        ("pvc://claim/%2e%2e/etc", "InvalidAddress"),
        ("s3:///key", "InvalidAddress"),
        ("s3://bucket/a/../b", "InvalidAddress"),
        ("s3://bucket/a//b", "InvalidAddress"),
        ("s3://bucket/a?versionId=1", "InvalidAddress"),
        ("gs:///key", "InvalidAddress"),
        ("gs://bucket/a/../b", "InvalidAddress"),
        ("az:///key", "InvalidAddress"),
        ("az://container/a//b", "InvalidAddress"),
        ("oci://registry", "InvalidAddress"),
        ("oci:///team/iris", "InvalidAddress"),
        ("oci://registry/UPPER", "InvalidAddress"),
        ("oci://registry/a/../b", "InvalidAddress"),
        ("oci://registry/iris:", "InvalidAddress"),
        ("oci://registry/iris@sha256:9f", "InvalidAddress"),
        ("oci://registry/iris:v1?x", "InvalidAddress"),
        ("oci://user:secret@registry/iris", "InvalidAddress"),
        ("hf://org", "InvalidAddress"),
        ("hf://org/repo/../other/m.onnx", "InvalidAddress"),
        ("hf://org/repo/%2e%2e/m.onnx", "InvalidAddress"),
        ("hf://org/repo@/m", "InvalidAddress"),
        ("hf://or%20g/repo/m", "InvalidAddress"),
        ("mlflow://models/churn", "InvalidAddress"),
        ("mlflow://runs/churn@champion", "InvalidAddress"),
        ("mlflow://models/churn/latest", "InvalidAddress"),
        ("mlflow://models/a/b/3", "InvalidAddress"),
        ("https://user:secret@host/x", "InvalidAddress"),
        ("http://host:port/x", "InvalidAddress"),
        ("http:///x", "InvalidAddress"),
        ("http://host/a b", "InvalidAddress"),
        ("http://host/a\nb", "InvalidAddress"),
        ("http://host/a\\b", "InvalidAddress"),
        ("http://host/" + "a" * 3000, "InvalidAddress"),
        ("http://[::1/x", "InvalidAddress"),
    ],
)
def test_refused(text: str, reason: str) -> None:
    with pytest.raises(SourceError) as refused:
        parse(text)
    assert refused.value.reason == reason
    assert not refused.value.retryable
    assert "secret" not in str(refused.value)


def test_signatures_are_not_shown() -> None:
    address = parse("https://host/model.onnx?X-Amz-Signature=abc")
    assert address.shown == "https://host/model.onnx?…"
    assert address.child("sluice.json").uri == (
        "https://host/model.onnx/sluice.json?X-Amz-Signature=abc"
    )
    assert address.name == "model.onnx"


@pytest.mark.parametrize(
    ("text", "digest"),
    [
        (f"s3://b/iris/sha256-{HEX}", f"sha256:{HEX}"),
        (f"s3://b/iris/sha256-{HEX}/model.onnx", f"sha256:{HEX}"),
        (f"https://h/sha256-{HEX}?sig=1", f"sha256:{HEX}"),
        (f"oci://r/iris:sluice-{HEX}", f"sha256:{HEX}"),
        (f"oci://r/iris:sluice-{HEX}@sha256:{'ab' * 32}", f"sha256:{HEX}"),
        (f"oci://r/iris@sha256:{HEX}", None),
        ("s3://b/iris/sha256-9f", None),
        (f"s3://b/iris/xsha256-{HEX}", None),
        (f"s3://b/iris?sha256-{HEX}", None),
        ("s3://b/iris", None),
    ],
)
def test_content_address(text: str, digest: str | None) -> None:
    if "s3://b/iris?" in text:
        with pytest.raises(SourceError):
            parse(text)
        return
    assert parse(text).content_digest == digest


@given(
    st.sampled_from(
        [
            "",
            "file://",
            "pvc://",
            "http://",
            "https://",
            "s3://",
            "gs://",
            "oci://r/",
            "hf://o/",
            "mlflow://models/",
        ]
    ),
    st.text(max_size=60),
    st.booleans(),
)
def test_any_text_is_understood_or_refused(scheme: str, text: str, secret: bool) -> None:
    query = "?sig=hush-hush" if secret else ""
    try:
        address = parse(f"{scheme}{text}{query}")
    except SourceError as error:
        assert error.reason in ("InvalidAddress", "UnsupportedScheme") and error.hint
        assert "hush-hush" not in str(error)
        return
    assert address.scheme in SCHEMES
    if address.scheme in ("http", "https"):
        assert "hush-hush" not in address.shown
        assert parse(address.uri) == address
    if address.scheme not in ("http", "https", "file"):
        assert ".." not in address.path.split("/")
    if address.scheme == "oci":
        assert address.artifact.reference and address.name
    if address.scheme == "hf":
        assert address.hub_file.repository.startswith("o/")
    if address.scheme == "mlflow":
        assert address.registered.alias or address.registered.version


def test_names_are_quoted_only_for_http() -> None:
    assert parse("http://h/p").child("a b/ü.json").path == "/p/a%20b/%C3%BC.json"
    assert parse("s3://h/p").child("a b/ü.json").path == "/p/a b/ü.json"


def test_a_claim_is_a_mount() -> None:
    assert str(local_path(parse("pvc://claim/x/y"), {})) == "/pvc/claim/x/y"
    assert str(local_path(parse("pvc://claim/x"), {"SLUICE_PVC_ROOT": "/v"})) == "/v/claim/x"


@pytest.mark.parametrize(
    ("text", "immutable"),
    [
        (f"oci://r/iris@sha256:{HEX}", True),
        ("oci://r/iris:v1", False),
        (f"hf://o/iris@{'1f' * 20}/m.onnx", True),
        ("hf://o/iris@main/m.onnx", False),
        (f"s3://b/sha256-{HEX}", True),
        ("mlflow://models/churn/3", False),
    ],
)
def test_what_nobody_can_change(text: str, immutable: bool) -> None:
    assert parse(text).immutable is immutable


def test_what_an_artifact_is_asked_by() -> None:
    pinned = parse(f"oci://r/team/iris:v1@sha256:{HEX}")
    assert pinned.artifact.reference == f"sha256:{HEX}" and pinned.name == "iris"
    assert parse("oci://r/iris").artifact.reference == "latest"
    assert parse("oci://r/iris:v1").artifact.reference == "v1"
    assert parse("hf://o/r/m.onnx").hub_file.revision == "main"
    assert parse("mlflow://models/a%20b@c").registered.name == "a b"
