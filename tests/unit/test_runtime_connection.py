"""Time limits and back-pressure of a connection, on real sockets with short limits."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from sluice.runtime.connection import MAX_PIPELINED, Port, Timeouts
from sluice.runtime.http import TEXT, BadRequest, Request, Response
from sluice.runtime.served import Exchange

GET = b"GET /%d HTTP/1.1\r\n\r\n"


class App:
    """Answers /N with N bytes; /0 is answered when told."""

    def __init__(self) -> None:
        self.held: list[Exchange] = []
        self.most = 0
        self._arrived = asyncio.Event()

    async def holds(self, count: int) -> None:
        """Wait until so many requests are held."""
        async with asyncio.timeout(5):
            while len(self.held) < count:
                self._arrived.clear()
                await self._arrived.wait()

    def handle(self, request: Request, exchange: Exchange) -> None:
        size = int(request.path[1:])
        if size:
            exchange.answer(Response(200, b"x" * size, TEXT))
            return
        self.held.append(exchange)
        self.most = max(self.most, len(self.held))
        self._arrived.set()

    def refuse(self, bad: BadRequest) -> Response:
        return Response(bad.status, bad.message.encode(), TEXT)


@contextlib.asynccontextmanager
async def listening(app: App, timeouts: Timeouts) -> AsyncIterator[tuple[Port, int]]:
    port = Port(app, b"", timeouts=timeouts)
    server = await asyncio.get_running_loop().create_server(port.protocol, "127.0.0.1", 0)

    async def sweep() -> None:
        while True:
            await asyncio.sleep(0.02)
            port.sweep()

    sweeper = asyncio.create_task(sweep())
    try:
        yield port, server.sockets[0].getsockname()[1]
    finally:
        sweeper.cancel()
        server.close()
        port.abort_all()


def run(test: Callable[[], Awaitable[Any]]) -> Any:
    async def limited() -> Any:
        async with asyncio.timeout(20):
            return await test()

    return asyncio.run(limited())


def test_idle_connections_are_closed_and_busy_ones_are_not() -> None:
    async def scenario() -> None:
        app = App()
        async with listening(app, Timeouts(read=0.2, idle=0.2)) as (_, number):
            idle, _ = await asyncio.open_connection("127.0.0.1", number)
            busy, writer = await asyncio.open_connection("127.0.0.1", number)
            writer.write(GET % 0)
            assert await idle.read() == b""
            app.held[0].answer(Response(204))
            assert (await busy.readline()).startswith(b"HTTP/1.1 204")

    run(scenario)


def test_a_request_in_slow_pieces_gets_408() -> None:
    async def scenario() -> bytes:
        async with listening(App(), Timeouts(read=0.2)) as (_, number):
            reader, writer = await asyncio.open_connection("127.0.0.1", number)
            for byte in b"GET /1 HTTP":
                writer.write(bytes([byte]))
                await asyncio.sleep(0.01)
            return await reader.read()

    assert run(scenario).startswith(b"HTTP/1.1 408 ")


def test_a_client_that_does_not_read_is_cut_off() -> None:
    async def scenario() -> None:
        async with listening(App(), Timeouts(write=0.2)) as (port, number):
            reader, writer = await asyncio.open_connection("127.0.0.1", number, limit=1024)
            writer.write(GET % 50_000_000)
            await reader.readline()
            with contextlib.suppress(ConnectionResetError):
                while port.connections:
                    await asyncio.sleep(0.01)
                    writer.write(b"")
            assert not port.connections

    run(scenario)


def test_one_clients_pipeline_does_not_fill_the_queue() -> None:
    async def scenario() -> None:
        app = App()
        async with listening(app, Timeouts()) as (_, number):
            reader, writer = await asyncio.open_connection("127.0.0.1", number)
            writer.write(GET % 0 * 300)
            answered = 0
            while answered < 300:
                await asyncio.sleep(0)
                while app.held:
                    app.held.pop(0).answer(Response(204))
                    answered += 1
            assert app.most <= MAX_PIPELINED
            data = b""
            while data.count(b"HTTP/1.1 204") < 300:
                data += await reader.read(65536)

    run(scenario)


def test_answers_wait_for_their_turn() -> None:
    async def scenario() -> bytes:
        app = App()
        async with listening(app, Timeouts()) as (_, number):
            reader, writer = await asyncio.open_connection("127.0.0.1", number)
            writer.write(GET % 0 + GET % 0 + GET % 3)
            writer.write_eof()
            await app.holds(2)
            app.held[1].answer(Response(200, b"second", TEXT))
            await asyncio.sleep(0.05)
            app.held[0].answer(Response(200, b"first", TEXT))
            return await reader.read()

    data = run(scenario)
    assert data.index(b"first") < data.index(b"second") < data.index(b"xxx")


def test_a_closing_port_says_close_on_every_answer() -> None:
    async def scenario() -> bytes:
        async with listening(App(), Timeouts()) as (port, number):
            reader, writer = await asyncio.open_connection("127.0.0.1", number)
            port.closing = True
            writer.write(GET % 1)
            return await reader.read()

    assert b"connection: close" in run(scenario)


def test_who_goes_away_is_told_once() -> None:
    async def scenario() -> int:
        app = App()
        gone: list[int] = []
        told = asyncio.Event()
        async with listening(app, Timeouts()) as (_, number):
            _, writer = await asyncio.open_connection("127.0.0.1", number)
            writer.write(GET % 0)
            await app.holds(1)
            app.held[0].on_gone = lambda: (gone.append(1), told.set())[0]
            writer.transport.abort()
            async with asyncio.timeout(5):
                await told.wait()
            app.held[0].answer(Response(204))
            await asyncio.sleep(0.01)
        return len(gone)

    assert run(scenario) == 1


def test_large_uploads_together_have_a_limit_and_the_room_is_given_back() -> None:
    async def scenario() -> None:
        async with listening(App(), Timeouts()) as (port, number):
            port.max_buffered = 100_000
            head = b"POST /1 HTTP/1.1\r\nContent-Length: 80000\r\n\r\n"
            first, one = await asyncio.open_connection("127.0.0.1", number)
            one.write(head + b"x" * 70_000)
            async with asyncio.timeout(5):
                while port.buffered < 70_000:  # noqa: ASYNC110 - a counter, not an event
                    await asyncio.sleep(0.001)
            second, two = await asyncio.open_connection("127.0.0.1", number)
            two.write(head + b"x" * 70_000)
            assert (await second.read()).startswith(b"HTTP/1.1 503 ")
            one.write(b"x" * 10_000)
            assert (await first.readline()).startswith(b"HTTP/1.1 200 ")
            assert port.buffered == 0

    run(scenario)


def test_what_follows_a_request_and_is_none_is_refused_once() -> None:
    async def scenario() -> tuple[bytes, list[str]]:
        escaped: list[str] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: escaped.append(str(context)))
        async with listening(App(), Timeouts()) as (_, number):
            reader, writer = await asyncio.open_connection("127.0.0.1", number)
            writer.write(GET % 1 + b'"')
            answers = await reader.read()
            # Still read for a moment, and never answered.
            writer.write(GET % 1)
            await asyncio.sleep(0.05)
            writer.close()
            return answers, escaped

    answers, escaped = run(scenario)
    assert answers.count(b"HTTP/1.1 200 ") == 1 and answers.count(b"HTTP/1.1 400 ") == 1
    assert not escaped


def test_a_long_pipeline_is_answered_whole_and_lets_others_in_between() -> None:
    async def scenario() -> int:
        async with listening(App(), Timeouts()) as (_, number):
            reader, writer = await asyncio.open_connection("127.0.0.1", number)
            writer.write(GET % 1 * 20_000)
            other, asks = await asyncio.open_connection("127.0.0.1", number)
            asks.write(GET % 2)
            answers = await reader.read(1000)
            assert (await other.readline()).startswith(b"HTTP/1.1 200 ")
            # The other one has its answer long before the pipeline is through.
            assert answers.count(b"HTTP/1.1") < 100
            writer.write(b"GET /3 HTTP/1.1\r\nConnection: close\r\n\r\n")
            return (answers + await reader.read()).count(b"HTTP/1.1 200 ")

    assert run(scenario) == 20_001


def test_answers_that_nobody_reads_stop_the_pipeline() -> None:
    async def scenario() -> None:
        app = App()
        async with listening(app, Timeouts(write=5)) as (port, number):
            port.max_unread = 20_000_000
            writers = []
            for _ in range(8):
                _, writer = await asyncio.open_connection("127.0.0.1", number, limit=1024)
                writer.write(GET % 9_000_000 * 50)
                writers.append(writer)
            # Each was written one answer, more than the sockets took; then there was no more room.
            async with asyncio.timeout(10):
                while len(port.connections) == 8:  # noqa: ASYNC110 - a set, not an event
                    await asyncio.sleep(0.01)
            assert port.unread <= port.max_unread

    run(scenario)


def test_at_the_limit_who_has_been_silent_for_longest_makes_room() -> None:
    async def scenario() -> None:
        app = App()
        async with listening(app, Timeouts()) as (port, number):
            port.max_connections = 3
            asked, writer = await asyncio.open_connection("127.0.0.1", number)
            silent, _ = await asyncio.open_connection("127.0.0.1", number)
            writer.write(GET % 1)
            assert (await asked.readline()).startswith(b"HTTP/1.1 200 ")
            await asyncio.open_connection("127.0.0.1", number)
            _, last = await asyncio.open_connection("127.0.0.1", number)
            with contextlib.suppress(ConnectionResetError):
                assert await silent.read() == b""
            writer.write(GET % 0)
            last.write(GET % 0)
            await app.holds(2)
            assert len(port.connections) <= 3

    run(scenario)


def test_who_has_been_answered_meanwhile_is_not_the_oldest_any_more() -> None:
    async def scenario() -> None:
        async with listening(App(), Timeouts()) as (port, number):
            port.max_connections = 4
            opened = [await asyncio.open_connection("127.0.0.1", number) for _ in range(4)]
            fifth = await asyncio.open_connection("127.0.0.1", number)  # in place of the first
            reader, writer = opened[1]
            writer.write(GET % 1)
            assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
            sixth = await asyncio.open_connection("127.0.0.1", number)
            with contextlib.suppress(ConnectionResetError):
                assert await opened[2][0].read() == b""
            assert len(port.connections) == 4
            assert not any(r.at_eof() for r, _ in (opened[1], fifth, sixth))

    run(scenario)


def test_when_all_are_being_answered_nobody_else_is_let_in() -> None:
    async def scenario() -> None:
        app = App()
        async with listening(app, Timeouts()) as (port, number):
            port.max_connections = 1
            reader, writer = await asyncio.open_connection("127.0.0.1", number)
            writer.write(GET % 0)
            await app.holds(1)
            refused, _ = await asyncio.open_connection("127.0.0.1", number)
            with contextlib.suppress(ConnectionResetError):
                assert await refused.read() == b""
            app.held[0].answer(Response(204))
            assert (await reader.readline()).startswith(b"HTTP/1.1 204 ")

    run(scenario)
