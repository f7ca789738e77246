"""The client against a scripted HTTP server: what is repeated, what is not, how tokens rotate."""

from __future__ import annotations

import asyncio
import datetime as dt
import itertools
import json
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from sluice.errors import InvalidInputError
from sluice.kube import connection as connection_module
from sluice.kube.client import KubeClient, RetryPolicy, _lines
from sluice.kube.connection import Connection, TokenSource, load_connection
from sluice.kube.errors import (
    ConflictError,
    GoneError,
    InvalidObjectError,
    UnavailableError,
    from_response,
)
from sluice.kube.resources import RESOURCES, resource

Answer = web.Response | web.StreamResponse
Script = Callable[[web.Request], Coroutine[Any, Any, Answer]]
FAST = RetryPolicy(attempts=4, base=0.001, cap=0.01)


def object_of(name: str = "a") -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "n"}}


def against(script: Script, use: Callable[[KubeClient], Coroutine[Any, Any, None]]) -> None:
    """Runs ``use`` with a client of a server that answers by ``script``."""

    async def scenario() -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", script)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
        where = Connection(f"http://127.0.0.1:{port}", True, None, "default")
        async with KubeClient(where, retries=FAST) as client:
            await use(client)
        await runner.cleanup()

    asyncio.run(scenario())


def failing(times: int, status: int, **headers: str) -> tuple[Script, list[str]]:
    seen: list[str] = []

    async def script(request: web.Request) -> Answer:
        seen.append(request.method)
        if len(seen) <= times:
            return web.json_response({"message": "busy"}, status=status, headers=headers)
        return web.json_response(object_of())

    return script, seen


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_what_may_arrive_twice_is_repeated(status: int) -> None:
    script, seen = failing(2, status)

    async def use(client: KubeClient) -> None:
        assert (await client.apply(object_of(), uid="u"))["kind"] == "ConfigMap"

    against(script, use)
    assert seen == ["PATCH"] * 3


def test_a_creation_is_not_repeated_after_the_server_may_have_done_it() -> None:
    script, seen = failing(1, 503)

    async def use(client: KubeClient) -> None:
        with pytest.raises(UnavailableError, match="create ConfigMap n/a: busy"):
            await client.create(object_of())

    against(script, use)
    assert seen == ["POST"]


def test_a_creation_that_was_turned_away_is_repeated() -> None:
    script, seen = failing(2, 429, **{"Retry-After": "0"})

    async def use(client: KubeClient) -> None:
        await client.create(object_of())

    against(script, use)
    assert seen == ["POST"] * 3


def test_repeating_ends() -> None:
    script, seen = failing(99, 503)

    async def use(client: KubeClient) -> None:
        with pytest.raises(UnavailableError) as last:
            await client.get("ConfigMap", "n", "a")
        assert last.value.status == 503

    against(script, use)
    assert len(seen) == FAST.attempts


def test_a_servers_wish_to_wait_is_obeyed_within_bounds() -> None:
    policy = RetryPolicy(base=0.2, cap=5.0, random=lambda: 1.0)
    assert [policy.delay(n, None) for n in range(6)] == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0]
    assert policy.delay(0, 7.0) == 7.0
    assert policy.delay(0, 3600.0) == 30.0


def test_a_refusal_is_not_repeated() -> None:
    script, seen = failing(1, 422)

    async def use(client: KubeClient) -> None:
        with pytest.raises(InvalidObjectError):
            await client.apply(object_of(), uid="u")

    against(script, use)
    assert seen == ["PATCH"]


def test_errors_tell_conflicts_apart() -> None:
    def reason(status: int, **body: Any) -> str:
        error = from_response(status, {"message": "m", **body}, "apply X")
        assert isinstance(error, ConflictError)
        return error.reason

    fields = {"causes": [{"reason": "FieldManagerConflict", "field": ".spec"}]}
    immutable = {"causes": [{"field": "metadata.uid"}]}
    assert reason(409, reason="AlreadyExists") == "AlreadyExists"
    assert reason(409, reason="Conflict", details=fields) == "FieldConflict"
    assert reason(409, message="uid mismatch: the provided object specified uid 1") == "UidMismatch"
    assert reason(409, message="the object has been modified") == "Conflict"
    assert reason(422, reason="Invalid", details=immutable) == "UidMismatch"


def test_a_watch_passes_events_on_and_turns_errors_into_exceptions() -> None:
    lines = [
        {"type": "ADDED", "object": object_of()},
        {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "7"}}},
        {"type": "ERROR", "object": {"code": 410, "message": "too old"}},
    ]

    async def script(request: web.Request) -> Answer:
        assert request.query["allowWatchBookmarks"] == "true"
        assert request.query["resourceVersion"] == "5"
        text = "".join(json.dumps(line) + "\n" for line in lines)
        return web.Response(text=text, content_type="application/json")

    async def use(client: KubeClient) -> None:
        seen = []
        with pytest.raises(GoneError):
            async for event, _ in client.watch("ConfigMap", "n", "5"):
                seen.append(event)
        assert seen == ["ADDED", "BOOKMARK"]

    against(script, use)


def test_a_silent_watch_ends() -> None:
    async def script(request: web.Request) -> Answer:
        answer = web.StreamResponse()
        await answer.prepare(request)
        await asyncio.Event().wait()
        return answer

    async def use(client: KubeClient) -> None:
        with pytest.raises(UnavailableError, match="watch configmaps"):
            async for _ in client.watch("ConfigMap", None, "1", silence=0.05):
                pass

    against(script, use)


def test_a_garbled_watch_is_an_unavailable_server() -> None:
    async def script(_: web.Request) -> Answer:
        return web.Response(text='{"type": "ADD\n', content_type="application/json")

    async def use(client: KubeClient) -> None:
        with pytest.raises(UnavailableError):
            async for _ in client.watch("ConfigMap", None, "1"):
                pass

    against(script, use)


@given(
    lines=st.lists(st.binary(min_size=1, max_size=30).filter(lambda b: b"\n" not in b)),
    cuts=st.lists(st.integers(0, 400)),
)
def test_lines_survive_any_cut_of_the_stream(lines: list[bytes], cuts: list[int]) -> None:
    whole = b"".join(line + b"\n" for line in lines)
    edges = sorted({0, len(whole), *(c for c in cuts if c < len(whole))})

    async def chunks() -> AsyncIterator[bytes]:
        for start, end in itertools.pairwise(edges):
            yield whole[start:end]

    async def scenario() -> list[bytes]:
        return [line async for line in _lines(chunks())]

    assert asyncio.run(scenario()) == lines


def test_a_rotated_token_is_read_again_after_a_401(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("old\n")
    seen: list[str] = []

    async def script(request: web.Request) -> Answer:
        seen.append(request.headers["Authorization"])
        if seen[-1] != "Bearer new":
            return web.json_response({}, status=401)
        return web.json_response(object_of())

    async def scenario() -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", script)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        source = TokenSource(lambda: token.read_text().strip())
        assert await source.token() == "old"
        token.write_text("new\n")
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with KubeClient(Connection(url, True, source, "default")) as client:
            await client.get("ConfigMap", "n", "a")
            await client.get("ConfigMap", "n", "a")
        await runner.cleanup()

    asyncio.run(scenario())
    assert seen == ["Bearer old", "Bearer new", "Bearer new"]


def kubeconfig(path: Path, user: dict[str, Any], **cluster: Any) -> str:
    config = {
        "current-context": "one",
        "contexts": [
            {"name": "one", "context": {"cluster": "c", "user": "u", "namespace": "team"}},
            {"name": "two", "context": {"cluster": "missing", "user": "u"}},
        ],
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1/", **cluster}}],
        "users": [{"name": "u", "user": user}],
    }
    file = path / "config"
    file.write_text(yaml.safe_dump(config))
    return str(file)


def test_a_kubeconfig_with_a_token_file(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("secret\n")
    found = load_connection(kubeconfig(tmp_path, {"tokenFile": "t"}))
    assert found.server == "https://127.0.0.1:1"
    assert found.namespace == "team"
    assert found.tokens is not None
    assert asyncio.run(found.tokens.token()) == "secret"


def test_a_kubeconfig_that_does_not_verify_says_so_to_ssl(tmp_path: Path) -> None:
    lax = load_connection(kubeconfig(tmp_path, {}, **{"insecure-skip-tls-verify": True}))
    assert isinstance(lax.ssl, ssl.SSLContext)
    assert lax.ssl.verify_mode == ssl.CERT_NONE
    strict = load_connection(kubeconfig(tmp_path, {}))
    assert isinstance(strict.ssl, ssl.SSLContext)
    assert strict.ssl.verify_mode == ssl.CERT_REQUIRED


def test_an_exec_plugin_is_run_and_its_token_used(tmp_path: Path) -> None:
    plugin = tmp_path / "plugin"
    credential = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": {"token": "from-plugin"},
    }
    plugin.write_text(f"#!/bin/sh\ncat <<'END'\n{json.dumps(credential)}\nEND\n")
    plugin.chmod(0o755)
    user = {
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": str(plugin),
            "interactiveMode": "Never",
        }
    }
    found = load_connection(kubeconfig(tmp_path, user))
    assert found.tokens is not None
    assert asyncio.run(found.tokens.token()) == "from-plugin"


def test_a_missing_context_or_file_is_named(tmp_path: Path) -> None:
    config = kubeconfig(tmp_path, {})
    with pytest.raises(InvalidInputError, match="names no cluster 'missing'"):
        load_connection(config, "two")
    with pytest.raises(InvalidInputError, match="names no context 'three'"):
        load_connection(config, "three")
    with pytest.raises(InvalidInputError, match="does not exist"):
        load_connection(str(tmp_path / "nothing"))


def authority() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ca")])
    start = dt.datetime(2020, 1, 1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + dt.timedelta(days=36500))
        .add_extension(x509.BasicConstraints(True, None), True)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


def test_in_a_cluster_the_pods_account_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("pod-token")
    (tmp_path / "namespace").write_text("sluice-system")
    (tmp_path / "ca.crt").write_bytes(authority())
    monkeypatch.setattr(connection_module, "SERVICE_ACCOUNT", tmp_path)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    monkeypatch.delenv("KUBECONFIG", raising=False)
    found = load_connection()
    assert found.server == "https://[fd00::1]:443"
    assert found.namespace == "sluice-system"
    assert found.tokens is not None
    assert asyncio.run(found.tokens.token()) == "pod-token"


def test_paths_of_kinds() -> None:
    assert resource("Pod").path("n", "p", "log") == "/api/v1/namespaces/n/pods/p/log"
    assert resource("Deployment").path() == "/apis/apps/v1/deployments"
    policy = "/apis/sluice.dev/v1alpha1/trustpolicies/t"
    assert resource("TrustPolicy").path("ignored", "t") == policy
    assert all(kind == row.kind for kind, row in RESOURCES.items())
    with pytest.raises(InvalidInputError, match="'Potato'"):
        resource("Potato")
