"""Packages in a registry, against a real one: CNCF Distribution."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from tests.tools.packages import linear_package
from tests.tools.registryserver import PASSWORD, USER, Registry, registry_server
from tests.tools.webserver import Request, self_signed, web_server

from sluice.errors import SluiceError, SourceError
from sluice.jobs.fetch import Fetched, Limits, fetch
from sluice.jobs.push import push
from sluice.sources import parse
from sluice.sources.docker_config import login
from sluice.sources.oci import ARTIFACT_TYPE, read_manifest
from sluice.sources.oci_registry import OciRegistry, _plain_http

QUICK = Limits(attempts=2, first_wait=0.01)
ABOUT = parse("oci://registry.example/team/iris:v1")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("registries")


@pytest.fixture(scope="module")
def package(home: Path) -> Path:
    linear_package(home / "package")
    return home / "package"


@pytest.fixture(scope="module")
def registry(home: Path) -> Iterator[Registry]:
    with registry_server(home) as running:
        yield running


@pytest.fixture(scope="module")
def guarded(home: Path, package: Path) -> Iterator[Registry]:
    with registry_server(home, login=True) as running:
        yield running


@pytest.fixture(autouse=True)
def _nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("SLUICE_DOCKER_CONFIG", "SLUICE_REGISTRY_TOKEN", "SLUICE_REGISTRY_USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "no-such-directory"))


def content(directory: Path) -> dict[str, bytes]:
    files = (p for p in directory.rglob("*") if p.is_file() and p.name != ".sluice-fetch")
    return {str(p.relative_to(directory)): p.read_bytes() for p in files}


def refused(uri: str, to: Path, **options: Any) -> SluiceError:
    with pytest.raises(SluiceError) as error:
        fetch(uri, to, limits=QUICK, **options)
    assert PASSWORD not in str(error.value) and error.value.hint
    return error.value


def manifest_of(uri: str) -> Any:
    async def ask() -> bytes:
        registry = OciRegistry(parse(uri))
        try:
            return await registry.manifest(parse(uri).artifact.reference)
        finally:
            await registry.close()

    return json.loads(asyncio.run(ask()))


def test_there_and_back(registry: Registry, package: Path, tmp_path: Path) -> None:
    done = push(package, f"oci://{registry.host}/team/iris")
    value = done.digest.removeprefix("sha256:")
    pattern = rf"oci://{registry.host}/team/iris:sluice-{value}@sha256:[0-9a-f]{{64}}"
    assert re.fullmatch(pattern, done.uri) and done.uploaded == 4
    got = fetch(done.uri, tmp_path / "got")
    assert got == Fetched(tmp_path / "got", done.digest, got.size, mutable=False)
    assert content(tmp_path / "got") == content(package)
    again = push(package, f"oci://{registry.host}/team/iris")
    assert (again.uri, again.uploaded) == (done.uri, 0)
    elsewhere = push(package, f"oci://{registry.host}/other:v1", force=True)
    assert elsewhere.uri.endswith(done.uri.rpartition("@")[2]), "the same files, the same digest"


def test_what_other_tools_find_there(registry: Registry, package: Path) -> None:
    done = push(package, f"oci://{registry.host}/modelpack")
    manifest = manifest_of(done.uri)
    assert manifest["artifactType"] == ARTIFACT_TYPE
    first = manifest["layers"][0]
    assert first["digest"] == done.digest, "the layer of sluice.json is the package's digest"
    named = {layer["annotations"]["org.cncf.model.filepath"]: layer for layer in manifest["layers"]}
    assert named["model.onnx"]["mediaType"] == "application/vnd.cncf.model.weight.v1.raw"
    assert named["model.onnx"]["annotations"]["org.opencontainers.image.title"] == "model.onnx"
    config = json.loads(registry.blob(manifest["config"]["digest"]).read_bytes())
    assert config["modelfs"]["diffIds"] == [layer["digest"] for layer in manifest["layers"]]


def test_a_tag_can_move_and_says_so(registry: Registry, package: Path, tmp_path: Path) -> None:
    uri = f"oci://{registry.host}/moving:v1"
    first = push(package, uri)
    assert fetch(uri, tmp_path / "1").mutable
    linear_package(tmp_path / "other", name="other")
    said: list[str] = []
    second = push(tmp_path / "other", uri, progress=said.append)
    assert any("named sha256:" in line and "before" in line for line in said)
    assert fetch(uri, tmp_path / "2").digest == second.digest
    assert fetch(first.uri, tmp_path / "3").digest == first.digest, "a digest never moves"
    assert refused(uri, tmp_path / "4", digest=first.digest).reason == "DigestMismatch"


def test_a_bare_model(registry: Registry, package: Path, tmp_path: Path) -> None:
    done = push(package / "model.onnx", f"oci://{registry.host}/bare:v1")
    fetch(done.uri, tmp_path / "got")
    assert list(content(tmp_path / "got")) == ["model.onnx"]


def test_parts_of_an_upload(registry: Registry, tmp_path: Path) -> None:
    data = hashlib.shake_128(b"parts").digest(100_001)
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    (tmp_path / "file").write_bytes(data)
    (tmp_path / "empty").write_bytes(b"")

    async def upload() -> bool:
        client = OciRegistry(parse(f"oci://{registry.host}/parts"), upload_part=30_000)
        try:
            await client.put_blob(digest, tmp_path / "file")
            await client.put_blob(f"sha256:{hashlib.sha256(b'').hexdigest()}", tmp_path / "empty")
            wrong = f"sha256:{'0' * 64}"
            with pytest.raises(SourceError):
                await client.put_blob(wrong, tmp_path / "file")
            return await client.has_blob(digest) and not await client.has_blob(wrong)
        finally:
            await client.close()

    assert asyncio.run(upload())
    assert registry.blob(digest).read_bytes() == data


def test_nothing_there(registry: Registry, package: Path, tmp_path: Path) -> None:
    error = refused(f"oci://{registry.host}/nobody/knows:v1", tmp_path / "1")
    assert (error.reason, getattr(error, "retryable", None)) == ("Missing", False)
    with pytest.raises(SourceError) as wrong:
        push(package, f"oci://{registry.host}/x@sha256:{'0' * 64}")
    assert wrong.value.reason == "InvalidAddress"


def test_rotten_bytes(registry: Registry, tmp_path: Path) -> None:
    linear_package(tmp_path / "package", name="rotten")
    done = push(tmp_path / "package", f"oci://{registry.host}/rotten:v1")
    files = {
        layer["annotations"]["org.cncf.model.filepath"]: registry.blob(layer["digest"])
        for layer in manifest_of(done.uri)["layers"]
    }
    sound = files["model.onnx"].read_bytes()
    files["model.onnx"].write_bytes(b"evil" + sound[4:])
    assert refused(done.uri, tmp_path / "1").reason == "Corrupt"
    files["model.onnx"].write_bytes(sound)
    listed = files["sluice.json"].read_bytes()
    files["sluice.json"].write_bytes(listed.replace(b'"rotten"', b'"ROTTEN"'))
    # Without `digest` in the address, the pinned artifact alone must notice.
    by_digest = f"oci://{registry.host}/rotten@{done.uri.rpartition('@')[2]}"
    assert refused(by_digest, tmp_path / "2").reason == "Corrupt"


def test_a_name_and_a_password(
    guarded: Registry, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"oci://{guarded.host}/iris:v1"
    monkeypatch.setenv("SLUICE_REGISTRY_USERNAME", USER)
    monkeypatch.setenv("SLUICE_REGISTRY_PASSWORD", PASSWORD)
    push(package, uri)
    fetch(uri, tmp_path / "1")
    monkeypatch.setenv("SLUICE_REGISTRY_PASSWORD", "wrong")
    error = refused(uri, tmp_path / "2")
    assert error.reason == "AccessDenied" and "wrong" not in str(error)
    monkeypatch.delenv("SLUICE_REGISTRY_USERNAME")
    assert refused(uri, tmp_path / "3").reason == "AccessDenied"
    written = {"auths": {guarded.host: {"username": USER, "password": PASSWORD}}}
    monkeypatch.setenv("SLUICE_DOCKER_CONFIG", json.dumps(written))
    fetch(uri, tmp_path / "4")


def test_a_token_server(
    home: Path, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the big registries do it: a token for this repository and this action, from elsewhere."""
    issuer = Issuer(home)
    with (
        web_server(issuer.answer) as tokens,
        registry_server(home, token=issuer.configuration(f"{tokens.url}/token")) as registry,
    ):
        uri = f"oci://{registry.host}/team/iris:v1"
        monkeypatch.setenv("SLUICE_REGISTRY_USERNAME", USER)
        monkeypatch.setenv("SLUICE_REGISTRY_PASSWORD", PASSWORD)
        push(package, uri)
        monkeypatch.delenv("SLUICE_REGISTRY_USERNAME")
        fetch(uri, tmp_path / "anonymous")
        assert issuer.asked[-1]["scope"] == ["repository:team/iris:pull"]
        with pytest.raises(SourceError) as error:
            push(package, f"oci://{registry.host}/team/iris:v2", force=True)
        assert error.value.reason == "AccessDenied"
        monkeypatch.setenv("SLUICE_REGISTRY_USERNAME", USER)
        monkeypatch.setenv("SLUICE_REGISTRY_PASSWORD", "wrong")
        assert refused(uri, tmp_path / "wrong").reason == "AccessDenied"


class Issuer:
    """A token server: anybody may pull, the reader may push."""

    def __init__(self, home: Path) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._keys = home / "jwks.json"
        numbers = self._key.public_key().public_numbers()
        x, y = (_base64(n.to_bytes(32, "big")) for n in (numbers.x, numbers.y))
        key = {"kty": "EC", "crv": "P-256", "kid": "k", "alg": "ES256", "x": x, "y": y}
        self._keys.write_text(json.dumps({"keys": [key]}))
        self.asked: list[dict[str, list[str]]] = []

    def configuration(self, realm: str) -> dict[str, str]:
        return {"realm": realm, "service": "s", "issuer": "i", "jwks": str(self._keys)}

    def answer(self, request: Request) -> None:
        asked = parse_qs(urlsplit(request.path).query)
        self.asked.append(asked)
        said = request.headers.get("Authorization", "")
        if said and base64.b64decode(said.removeprefix("Basic ")) != b"reader:" + PASSWORD.encode():
            request.reply(b"{}", 401)
            return
        _, repository, actions = asked["scope"][0].split(":")
        allowed = [a for a in actions.split(",") if a == "pull" or said]
        access = [{"type": "repository", "name": repository, "actions": allowed}]
        now = int(time.time())
        times = {"exp": now + 60, "nbf": now - 60, "iat": now - 60}
        claims = {"iss": "i", "sub": "", "aud": "s", "jti": "1", "access": access, **times}
        request.reply(json.dumps({"token": self._signed(claims)}).encode())

    def _signed(self, claims: dict[str, Any]) -> str:
        head = {"typ": "JWT", "alg": "ES256", "kid": "k"}
        text = ".".join(_base64(json.dumps(part).encode()) for part in (head, claims))
        r, s = decode_dss_signature(self._key.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{text}.{_base64(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def test_tls(home: Path, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = self_signed(tmp_path / "certificate.pem")
    with registry_server(home, certificate=certificate) as registry:
        uri = f"oci://{registry.host}/iris:v1"
        monkeypatch.setenv("SLUICE_OCI_PLAIN_HTTP", "false")
        with pytest.raises(SourceError) as error:
            push(package, uri)
        assert "certificate" in error.value.message and "SLUICE_CA_" in error.value.hint
        monkeypatch.setenv("SLUICE_CA_CERTIFICATES", certificate.read_text())
        fetch(push(package, uri).uri, tmp_path / "got")
        monkeypatch.setenv("SLUICE_CA_CERTIFICATES", "no certificate")
        assert "no PEM certificate" in refused(uri, tmp_path / "2").message


def test_resumes_where_it_ended(package: Path, tmp_path: Path) -> None:
    data = hashlib.shake_128(b"blob").digest(3_000_000)
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    asked: list[str | None] = []

    def handler(request: Request) -> None:
        if "/manifests/" in request.path:
            request.reply(_manifest(("model.onnx", digest, len(data))))
            return
        wanted = request.headers.get("Range")
        asked.append(wanted)
        if wanted is None:
            request.reply(data[:2_500_000], 200, length=len(data))
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-"))
        part = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
        request.reply(data[start:], 206, part)

    with web_server(handler) as flaky:
        host = flaky.url.removeprefix("http://")
        fetch(f"oci://{host}/iris:v1", tmp_path / "got", limits=QUICK)
    assert (tmp_path / "got/model.onnx").read_bytes() == data
    assert asked[0] is None and asked[1] is not None


def _manifest(*layers: tuple[str, str, int], **more: Any) -> bytes:
    weight = "application/vnd.cncf.model.weight.v1.raw"
    written = [
        {"mediaType": weight, "digest": d, "size": s, "annotations": {"org.cncf.model.filepath": p}}
        for p, d, s in layers
    ]
    return json.dumps({"schemaVersion": 2, "layers": written, **more}).encode()


SOME = f"sha256:{'1' * 64}"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"[" * 100_000,
        b'{"layers": 1}',
        b'{"layers": [1]}',
        b'{"layers": []}',
        b'{"layers": [{"mediaType": 1, "digest": "x", "size": 1}]}',
        b'{"layers": [{"mediaType": "x", "digest": "x", "size": NaN}]}',
        b'{"layers": [{"mediaType": "x", "digest": "x", "size": 1, "annotations": []}]}',
        json.dumps({"layers": [None] * 5_000}).encode(),
        _manifest(("../../etc/cron.d/x", SOME, 1)),
        _manifest(("/etc/passwd", SOME, 1)),
        _manifest(("a\\b", SOME, 1)),
        _manifest(("", SOME, 1)),
        _manifest(("a" * 2_000, SOME, 1)),
        _manifest(("a", "sha256:../../x", 1)),
        _manifest(("a", "md5:" + "1" * 64, 1)),
        _manifest(("a", SOME, 1), ("a", SOME, 1)),
        _manifest(manifests=[]),
        json.dumps({"mediaType": "application/vnd.oci.image.index.v1+json"}).encode(),
        json.dumps(
            {
                "layers": [
                    {
                        "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                        "digest": SOME,
                        "size": 1,
                        "annotations": {"org.opencontainers.image.title": "x"},
                    }
                ]
            }
        ).encode(),
    ],
)
def test_a_manifest_that_cannot_be_used(data: bytes) -> None:
    with pytest.raises(SourceError) as error:
        read_manifest(ABOUT, data)
    assert error.value.reason == "Corrupt" and not error.value.retryable and error.value.hint


def test_a_manifest_without_end(tmp_path: Path) -> None:
    with web_server(lambda request: request.reply(b" " * 5_000_000)) as server:
        host = server.url.removeprefix("http://")
        assert refused(f"oci://{host}/iris:v1", tmp_path / "1").reason == "TooLarge"


def test_a_challenge_that_leads_astray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials go to the token server that is named, so what is named must be https."""
    monkeypatch.setenv("SLUICE_REGISTRY_USERNAME", USER)
    monkeypatch.setenv("SLUICE_REGISTRY_PASSWORD", PASSWORD)
    for realm in ("file:///etc/passwd", "nonsense", "", "ftp://x/y"):
        header = {"WWW-Authenticate": f'Bearer realm="{realm}",service="s"'}
        with web_server(lambda request, h=header: request.reply(b"", 401, h)) as server:
            host = server.url.removeprefix("http://")
            assert refused(f"oci://{host}/iris:v1", tmp_path / "1").reason in (
                "AccessDenied",
                "InvalidAddress",
                "UnsupportedScheme",
            )


@pytest.mark.parametrize(
    ("host", "plain"),
    [
        ("127.0.0.1:5000", True),
        ("localhost:5000", True),
        ("[::1]:5000", True),
        ("registry.example", False),
        ("10.0.0.1:5000", False),
        ("localhost.example", False),
    ],
)
def test_plain_http_only_to_this_machine(
    host: str, plain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SLUICE_OCI_PLAIN_HTTP", raising=False)
    assert _plain_http(host) is plain
    monkeypatch.setenv("SLUICE_OCI_PLAIN_HTTP", "true")
    assert _plain_http(host)


def test_the_most_specific_entry_of_a_docker_configuration() -> None:
    def auth(text: str) -> dict[str, str]:
        return {"auth": base64.b64encode(text.encode()).decode()}

    written = {
        "auths": {
            "r.example": auth("host:1"),
            "https://r.example/team": auth("team:2:3"),
            "https://index.docker.io/v1/": auth("hub:4"),
            "empty.example": {},
        }
    }
    environ = {"SLUICE_DOCKER_CONFIG": json.dumps(written)}
    assert login("r.example", "other/iris", environ).user == "host"
    team = login("r.example", "team/iris", environ)
    assert (team.user, team.password) == ("team", "2:3") and "2:3" not in repr(team)
    assert login("docker.io", "library/iris", environ).user == "hub"
    assert login("empty.example", "iris", environ).user == ""
    assert login("nobody.example", "iris", environ).user == ""


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "[" * 100_000,
        '{"auths": 1}',
        '{"auths": {"r.example": 1}}',
        '{"auths": {"r.example": {"auth": "?"}}}',
        '{"auths": {"r.example": {"auth": "aGk="}}}',
        '{"auths": {"r.example": {"identitytoken": "hush-hush"}}}',
        " " * 2_000_000,
    ],
)
def test_a_docker_configuration_that_cannot_be_used(text: str) -> None:
    with pytest.raises(SourceError) as error:
        login("r.example", "iris", {"SLUICE_DOCKER_CONFIG": text})
    assert error.value.reason == "AccessDenied" and PASSWORD not in str(error.value)
