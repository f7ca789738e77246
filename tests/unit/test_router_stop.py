"""A real HAProxy that is told to stop while clients keep connections to it."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import replace
from pathlib import Path

from tests.unit.router_lab import Lab, Server, router_lab

from sluice.api.meta import HEADER_REVISION, HEADER_UNIT
from sluice.objects.router_plan import Weights

CLIENTS = 16
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def answers_of_a_router_that_stops(root: Path, plan: Weights) -> tuple[list[str], Lab]:
    """One answer on each of many kept connections, asked for after the router was told to stop."""

    async def run() -> tuple[list[str], Lab]:
        async with router_lab(root) as lab:
            await lab.start("a", await lab.revision("old"))
            await lab.point("b", await lab.revision("new"))
            assert (await lab.client().set_weights([lab.pod], plan)).ok
            connections = await kept(lab)
            await stop(lab)
            answers = [await predict(c, number) for number, c in enumerate(connections)]
            # The last client has been told to go, so nothing keeps it any longer.
            assert lab.process is not None
            assert await asyncio.wait_for(lab.process.wait(), 20) == 0
            for _, writer in connections:
                writer.close()
            return answers, lab

    return asyncio.run(run())


async def kept(lab: Lab) -> list[Connection]:
    """Connections that have had an answer each."""
    connections = [
        await asyncio.open_connection("127.0.0.1", lab.shape.port) for _ in range(CLIENTS)
    ]
    for number, connection in enumerate(connections):
        assert "200" in await predict(connection, number)
    return connections


async def stop(lab: Lab) -> None:
    """Returns when nobody new is let in, which is the first thing that a stop does."""
    assert lab.process is not None
    lab.process.send_signal(signal.SIGUSR1)
    for _ in range(200):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", lab.shape.port)
            writer.close()
        except ConnectionRefusedError:
            return
        except ConnectionResetError:
            pass  # It stopped to listen just then.
        await asyncio.sleep(0.05)
    raise AssertionError("the router still listens")


async def predict(connection: Connection, user: int) -> str:
    """The answer's head and body; nothing when the connection was closed instead."""
    reader, writer = connection
    head = f"POST /predict HTTP/1.1\r\nHost: x\r\nX-User-Id: u{user}\r\nContent-Length: 2\r\n\r\n"
    try:
        writer.write(head.encode() + b"{}")
        answer = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(answer.partition("content-length: ")[2].partition("\r\n")[0])
        return answer + (await reader.readexactly(length)).decode()
    except (asyncio.IncompleteReadError, ConnectionError):
        return ""


def test_a_kept_connection_has_one_more_answer_which_says_that_it_closes(tmp_path: Path) -> None:
    answers, _ = answers_of_a_router_that_stops(tmp_path, Weights("a"))
    assert all(answer.startswith("http/1.1 200 ") for answer in answers), answers
    assert all("\r\nconnection: close\r\n" in answer for answer in answers), answers


def test_a_router_that_stops_sends_to_stable_only(tmp_path: Path) -> None:
    """It does not hear of a rollback any more, and its users are of no experiment."""
    plan = Weights("a", "b", 90, salt="s1", experiment="exp1")
    answers, lab = answers_of_a_router_that_stops(tmp_path, plan)
    (old,), (new,) = lab.of("old"), lab.of("new")
    assert new.predictions > 0
    assert {answer[-3:] for answer in answers} == {"old"}
    studied = [h for h in (*old.headers, *new.headers) if HEADER_UNIT.lower() in h]
    assert len(studied) == CLIENTS, "one request of each user: the one before the stop"
    assert old.headers[-1][HEADER_REVISION.lower()] == "old"


def test_a_router_that_stops_asks_pods_that_came_afterwards(tmp_path: Path) -> None:
    """It does not hear of them by DNS any more."""

    async def run() -> list[str]:
        async with router_lab(tmp_path) as lab:
            target = await lab.revision("old", 2)
            service = Server("old", "127.77.98.9", lab.shape.service_port)
            await lab.start("a", replace(target, cluster_ip=service.address))
            connections = await kept(lab)
            await stop(lab)
            for pod in lab.servers:
                await pod.stop()
            await service.start()
            lab.servers.append(service)
            answers = [await predict(c, number) for number, c in enumerate(connections)]
            for _, writer in connections:
                writer.close()
            return answers

    answers = asyncio.run(run())
    assert all(answer.startswith("http/1.1 200 ") for answer in answers), answers
