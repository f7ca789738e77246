"""The operator's process: what it notices, what it survives, how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from tests.integration.kube_api_server import ADMIN, TENANT, ApiServer
from tests.tools.ports import free_port

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

PROGRAM = Path(__file__).with_name("kube_operator.py")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def space(server: ApiServer) -> str:
    return server.namespace(f"t-{uuid.uuid4().hex[:8]}")


class Operator:
    """One process."""

    def __init__(self, kubeconfig: str, log: Path, *namespaces: str, **environment: str) -> None:
        self.health, self.metrics = free_port(), free_port()
        self.log = log
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    str(PROGRAM),
                    kubeconfig,
                    str(self.health),
                    str(self.metrics),
                    *namespaces,
                ],
                env={**os.environ, "PYTHONPATH": f"{ROOT / 'operator'}:{ROOT}", **environment},
                stdout=out,
                stderr=subprocess.STDOUT,
            )

    def ask(self, path: str, port: int = 0) -> tuple[int, str]:
        url = f"http://127.0.0.1:{port or self.health}{path}"
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def ready(self) -> bool:
        return self.ask("/readyz")[0] == 200

    def leads(self) -> bool:
        return "leadership: leads" in self.ask("/readyz")[1]

    def samples(self) -> dict[str, float]:
        text = self.ask("/metrics", self.metrics)[1]
        lines = [line for line in text.splitlines() if line and not line.startswith("#")]
        return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines}

    def writes(self) -> float:
        """Requests that could have changed anything, the lease's own aside."""
        return sum(
            value
            for name, value in self.samples().items()
            if name.startswith("rest_client_requests_total")
            and 'kind="Lease"' not in name
            and ('method="GET"' not in name and 'method="WATCH"' not in name)
        )

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Operator]]:
    running: list[Operator] = []

    def begin(kubeconfig: str, *namespaces: str, **environment: str) -> Operator:
        log = tmp_path / f"operator-{len(running)}.log"
        running.append(Operator(kubeconfig, log, *namespaces, **environment))
        return running[-1]

    yield begin
    for operator in running:
        operator.end(signal.SIGKILL)
        print(operator.log.read_text()[-4000:])


def until(condition: Callable[[], Any], what: str, seconds: float = 30.0) -> Any:
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.1)


def put(
    server: ApiServer, space: str, name: str, uri: str = "s3://models/a", **labels: str
) -> None:
    body = {
        "apiVersion": "sluice.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": name, "labels": labels},
        "spec": {"model": {"uri": "s3://models/a"}},
    }
    path = f"/apis/sluice.dev/v1alpha1/namespaces/{space}/modeldeployments"
    status, answer = server.call("POST", path, body)
    assert status == 201, answer


def delete(server: ApiServer, space: str, name: str) -> None:
    path = f"/apis/sluice.dev/v1alpha1/namespaces/{space}/modeldeployments/{name}"
    assert server.call("DELETE", path)[0] == 200


def seen(server: ApiServer, space: str, name: str) -> dict[str, str] | None:
    status, body = server.call("GET", f"/api/v1/namespaces/{space}/configmaps/{name}-seen")
    return body["data"] if status == 200 else None


def holder(server: ApiServer) -> str:
    """Who has the lease; empty when it was released."""
    path = "/apis/coordination.k8s.io/v1/namespaces/default/leases/sluice-operator"
    return str(server.call("GET", path)[1]["spec"].get("holderIdentity", ""))


def test_a_parent_is_seen_followed_and_forgotten_and_the_process_ends_in_order(
    server: ApiServer, space: str, start: Callable[..., Operator]
) -> None:
    put(server, space, "early")
    operator = start(server.kubeconfig())
    until(operator.ready, "ready")
    early = until(lambda: seen(server, space, "early"), "the parent that was there before")
    assert early["trust"] == "True"
    assert early["loaded"] == "", "the operator's process loads no model library"
    put(server, space, "late")
    until(lambda: seen(server, space, "late"), "the parent that came later")
    path = f"/api/v1/namespaces/{space}/configmaps/late-seen"
    server.call("DELETE", path)
    until(lambda: seen(server, space, "late"), "the child that someone deleted")
    delete(server, space, "late")
    until(lambda: seen(server, space, "late") is None, "the end of the deleted parent's child")

    settled = until(lambda: _steady(operator), "no more writes")
    assert operator.ask("/livez")[0] == 200
    samples = operator.samples()
    assert samples['leader_election_master_status{name="sluice-operator"}'] == 1
    assert samples['workqueue_depth{name="modeldeployment"}'] == 0
    assert samples["process_resident_memory_bytes"] < 90e6
    assert operator.writes() == settled

    parent = server.call(
        "GET", f"/apis/sluice.dev/v1alpha1/namespaces/{space}/modeldeployments/early"
    )[1]
    assert "annotations" not in parent["metadata"], "kopf writes nothing on objects"
    assert "finalizers" not in parent["metadata"]
    delete(server, space, "early")
    until(lambda: seen(server, space, "early") is None, "the last child's end")

    assert operator.end() == 0
    assert holder(server) == ""
    for line in operator.log.read_text().splitlines():
        assert isinstance(json.loads(line), dict)


def _steady(operator: Operator) -> float:
    before = operator.writes()
    time.sleep(1.5)
    return before if operator.writes() == before else 0.0


def test_an_api_server_that_is_away_does_not_end_the_process(
    server: ApiServer, space: str, start: Callable[..., Operator]
) -> None:
    operator = start(server.kubeconfig())
    put(server, space, "before")
    until(lambda: seen(server, space, "before"), "the first parent")
    server.stop_api()
    try:
        until(lambda: not operator.leads(), "leadership given up without renewal")
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline:
            assert operator.process.poll() is None
            assert operator.ask("/livez")[0] == 200
            time.sleep(0.5)
    finally:
        server.start_api()
    until(operator.leads, "leadership again", 60)
    put(server, space, "after")
    until(lambda: seen(server, space, "after"), "life after the outage", 60)
    assert operator.end() == 0


def test_another_instance_takes_over_from_one_that_stops_and_from_one_that_is_killed(
    server: ApiServer, space: str, start: Callable[..., Operator]
) -> None:
    one = start(server.kubeconfig())
    until(one.leads, "the first leads")
    two = start(server.kubeconfig())
    until(two.ready, "the second has its caches filled")
    assert not two.leads()
    put(server, space, "a")
    assert until(lambda: seen(server, space, "a"), "work by the first")["by"].endswith(
        str(one.process.pid)
    )
    held = holder(server)
    assert one.end() == 0
    assert holder(server) != held, "nobody waits for the expiry"
    until(two.leads, "the second leads")
    three = start(server.kubeconfig())
    until(three.ready, "the third has its caches filled")
    two.end(signal.SIGKILL)
    until(three.leads, "the third leads after the lease ran out")
    put(server, space, "b")
    assert until(lambda: seen(server, space, "b"), "work by the third")["by"].endswith(
        str(three.process.pid)
    )


def test_an_install_for_two_namespaces_works_without_any_cluster_role(
    server: ApiServer, start: Callable[..., Operator]
) -> None:
    operator = start(server.kubeconfig(TENANT), "tenant-a", "tenant-b")
    until(operator.ready, "ready")
    put(server, "tenant-a", "mine")
    put(server, "tenant-b", "mine")
    put(server, server.namespace("not-mine"), "other")
    for space in ("tenant-a", "tenant-b"):
        found = until(lambda space=space: seen(server, space, "mine"), f"the parent in {space}")
        assert found["trust"] == "False"
    assert seen(server, "not-mine", "other") is None
    assert operator.end() == 0


def test_a_class_keeps_two_installs_apart(
    server: ApiServer, space: str, start: Callable[..., Operator]
) -> None:
    operator = start(server.kubeconfig(), CLASS="blue")
    until(operator.leads, "it leads")
    put(server, space, "plain")
    put(server, space, "green", **{"sluice.dev/operator-class": "green"})
    put(server, space, "blue", **{"sluice.dev/operator-class": "blue"})
    until(lambda: seen(server, space, "blue"), "its own parent")
    assert seen(server, space, "plain") is None
    assert seen(server, space, "green") is None


class Meddler:
    """A reverse proxy to the API server that can cut watches short or put errors into them."""

    def __init__(self, server: ApiServer) -> None:
        self.server = server
        self.port = free_port()
        self.cut = False
        self.poison: list[bytes] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._up = threading.Event()
        self._open: set[asyncio.Task[Any]] = set()

    def start(self) -> None:
        self._thread.start()
        assert self._up.wait(10)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def disconnect(self) -> None:
        """Every open request ends at once; new ones fail while ``cut``."""
        self.cut = True
        for task in list(self._open):
            self._loop.call_soon_threadsafe(task.cancel)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._begin())
        self._up.set()
        self._loop.run_forever()
        self._loop.run_until_complete(self._end())

    async def _begin(self) -> None:
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=False))
        app = web.Application(client_max_size=2**24)
        app.router.add_route("*", "/{path:.*}", self._forward)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()

    async def _end(self) -> None:
        await self._session.close()
        await self._runner.cleanup()

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        if self.cut:
            return web.Response(status=503)
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            headers = {
                k: v for k, v in request.headers.items() if k in ("Content-Type", "Authorization")
            }
            async with self._session.request(
                request.method,
                self.server.url + request.path_qs,
                data=await request.read() or None,
                headers=headers,
            ) as upstream:
                answer = web.StreamResponse(status=upstream.status)
                answer.content_type = upstream.content_type
                await answer.prepare(request)
                watched = "watch" in request.query and "modeldeployments" in request.path
                if watched and self.poison:
                    await answer.write(self.poison.pop())
                async for chunk in upstream.content.iter_any():
                    await answer.write(chunk)
                await answer.write_eof()
                return answer
        finally:
            self._open.discard(task)


@pytest.fixture
def meddler(server: ApiServer) -> Iterator[Meddler]:
    proxy = Meddler(server)
    proxy.start()
    yield proxy
    proxy.stop()


def test_a_parent_deleted_while_the_line_was_cut_is_noticed(
    server: ApiServer, space: str, start: Callable[..., Operator], meddler: Meddler
) -> None:
    config = server.kubeconfig(ADMIN, url=f"http://127.0.0.1:{meddler.port}")
    operator = start(config, RELIST="3")
    put(server, space, "stays")
    put(server, space, "goes")
    for name in ("stays", "goes"):
        until(lambda name=name: seen(server, space, name), f"the parent that {name}")
    meddler.disconnect()
    delete(server, space, "goes")
    time.sleep(2)
    assert seen(server, space, "goes") is not None
    meddler.cut = False
    until(lambda: seen(server, space, "goes") is None, "the deletion in the gap", 60)
    assert seen(server, space, "stays") is not None
    assert operator.process.poll() is None


def test_an_error_inside_kopfs_stream_does_not_end_the_process(
    server: ApiServer, space: str, start: Callable[..., Operator], meddler: Meddler
) -> None:
    status = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": "etcdserver: leader changed",
        "reason": "InternalError",
        "code": 500,
    }
    meddler.poison.append(json.dumps({"type": "ERROR", "object": status}).encode() + b"\n")
    operator = start(server.kubeconfig(ADMIN, url=f"http://127.0.0.1:{meddler.port}"))
    until(lambda: "starts again" in operator.log.read_text(), "kopf giving up")
    until(operator.leads, "leadership again", 60)
    put(server, space, "after")
    until(lambda: seen(server, space, "after"), "life after the error", 60)
    assert operator.end() == 0
