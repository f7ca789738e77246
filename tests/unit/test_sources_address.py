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
        ("gs://bucket/x", "UnsupportedScheme"),
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
    st.sampled_from(["", "file://", "pvc://", "http://", "https://", "s3://", "gs://"]),
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
    if address.scheme == "s3":
        assert ".." not in address.path.split("/")


def test_names_are_quoted_only_for_http() -> None:
    assert parse("http://h/p").child("a b/ü.json").path == "/p/a%20b/%C3%BC.json"
    assert parse("s3://h/p").child("a b/ü.json").path == "/p/a b/ü.json"


def test_a_claim_is_a_mount() -> None:
    assert str(local_path(parse("pvc://claim/x/y"), {})) == "/pvc/claim/x/y"
    assert str(local_path(parse("pvc://claim/x"), {"SLUICE_PVC_ROOT": "/v"})) == "/v/claim/x"
