"""The whole server without sockets: real connections, endpoints, batches and a real package.

Called by the fuzzer; calls the runtime.  A transport in memory takes the place of the socket, so a
string goes through everything that a client's bytes go through, and many are predicted together.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from sklearn.tree import DecisionTreeClassifier
from tests.fuzz.replies import Malformed, Reply, replies
from tests.fuzz.strings import FORBIDDEN, Sent
from tests.fuzz.words import MODEL

from sluice.package.save import save
from sluice.runtime.connection import Connection, Port
from sluice.runtime.counters import Counters, Outcome
from sluice.runtime.endpoints import ServingApp
from sluice.runtime.http import BadRequest, Request, Response
from sluice.runtime.journal import Journal
from sluice.runtime.options import Options
from sluice.runtime.predictions import Predictions
from sluice.runtime.problems import Problem
from sluice.runtime.protocols.grpc_messages import MESSAGES
from sluice.runtime.sandbox.confine import Sandbox
from sluice.runtime.served import Exchange, Settings, Status
from sluice.runtime.server import load, model_of

LARGE = 4096
"""An answer of this many bytes fills the socket until the client reads."""

TURNS = 100_000
"""Turns of the loop after which an answer is not coming."""


def build_package(out: Path) -> list[dict[str, Any]]:
    """Save a cheap model with inputs of every type; some complete rows of its data."""
    rng = np.random.default_rng(0)
    count = 400
    frame = pd.DataFrame(
        {
            "age": rng.integers(18, 90, count),
            "income": rng.normal(5e4, 1e4, count),
            "plan": rng.choice(["basic", "pro", "max"], count),
            "active": rng.random(count) < 0.5,
        }
    )
    rows: list[dict[str, Any]] = frame[:8].to_dict("records")
    frame["income"] = frame["income"].mask(rng.random(count) < 0.1)
    label = np.where((frame.age > 50) ^ (frame.plan == "pro"), "leaves", "stays")
    model = make_pipeline(
        make_column_transformer(
            (OneHotEncoder(handle_unknown="ignore"), ["plan"]),
            (SimpleImputer(), ["income"]),
            remainder="passthrough",
        ),
        DecisionTreeClassifier(max_depth=6, random_state=0),
    )
    save(model.fit(frame, label), frame, label, out, name=MODEL, positive="leaves")
    return rows


class Failure(Exception):
    """What must never happen, and the string that made it happen."""

    def __init__(self, what: str, sent: Sent) -> None:
        super().__init__(what)
        self.what = what
        self.sent = sent


class _Wire(asyncio.Transport):
    """A socket that is a list of bytes."""

    def __init__(self, lose: Callable[[], None]) -> None:
        super().__init__()
        self.sent: list[bytes] = []
        self.paused = False
        self.connection: Connection | None = None
        self._closing = False
        self._half_closed = False
        self._full = False
        self._lose = lose

    def write(self, data: Any) -> None:
        if self._closing or self._half_closed:
            raise RuntimeError("written after the end")  # as a real one does
        self.sent.append(bytes(data))
        if len(data) > LARGE and not self._full:
            self._full = True
            self.protocol().pause_writing()

    def drain(self) -> None:
        """The client has read what was sent."""
        if self._full:
            self._full = False
            self.protocol().resume_writing()

    def protocol(self) -> Connection:
        """The connection that writes here."""
        assert self.connection is not None
        return self.connection

    def get_write_buffer_size(self) -> int:
        return LARGE if self._full else 0

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self._half_closed = True

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._lose()

    def abort(self) -> None:
        self.close()

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


class _Watched:
    """The serving app, and what it was asked."""

    def __init__(self, app: ServingApp) -> None:
        self._app = app
        self.methods: list[str] = []
        self.paths: list[str] = []
        self.refused = 0

    def handle(self, request: Request, exchange: Exchange) -> None:
        self.methods.append(request.method)
        self.paths.append(request.path)
        self._app.handle(request, exchange)

    def refuse(self, bad: BadRequest) -> Response:
        self.refused += 1
        return self._app.refuse(bad)


@dataclass(slots=True)
class _Talk:
    """One connection, from its first byte to its last."""

    sent: Sent
    app: _Watched
    port: Port
    connection: Connection
    wire: _Wire
    ended: bool = False


@dataclass(slots=True)
class _Call:
    """A request that came over gRPC."""

    started: float = field(default_factory=time.monotonic)
    on_gone: Callable[[], None] | None = None
    response: Response | None = None

    def answer(self, response: Response) -> None:
        self.response = response


class Target:
    """A loaded package that answers strings."""

    def __init__(self, package: Path) -> None:
        options = Options(package=package)
        loaded = load(options, Sandbox())
        settings = Settings(MODEL, "v2", timeout=600.0, max_in_flight=1_000_000)
        self.counters = Counters(revision="v2", deployment=MODEL)
        self.counters.use_profile(loaded.package.manifest, loaded.package.profile())
        self._status = Status()
        self._status.loaded = True
        self.predictions = Predictions(settings, self._status, self.counters)
        self.predictions.use(settings, model_of(loaded, settings))
        # As bounded as the real one, but full soon, so that memory has no reason to grow.
        self.predictions.journal = Journal(
            self.counters.boot, time.time, most_records=1000, most_units=1000
        )
        self._app = ServingApp(self.predictions, self._status, ("https://example.com",))
        self._escaped: list[str] = []

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Whatever escapes into the event loop is a failure; to be entered on the loop."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: self._escaped.append(str(context)))
        yield
        loop.set_exception_handler(None)

    async def answer(self, block: Sequence[Sent]) -> list[list[Reply]]:
        """The replies to each string; raises Failure."""
        talks = [self._open(sent) for sent in block if sent.kind != "grpc"]
        calls = [(sent, self._called(sent)) for sent in block if sent.kind == "grpc"]
        for talk in talks:
            await self._say(talk)
        await self._settle(block, talks)
        for sent, call in calls:
            self._check_call(sent, call)
        heard = iter([self._end(talk) for talk in talks])
        return [[] if sent.kind == "grpc" else next(heard) for sent in block]

    def _open(self, sent: Sent) -> _Talk:
        app = _Watched(self._app)
        port = Port(app, b"x-sluice-revision: v2\r\n")
        connection = Connection(port)
        talk = _Talk(sent, app, port, connection, _Wire(lambda: self._lost(talk)))
        talk.wire.connection = connection
        connection.connection_made(talk.wire)
        return talk

    def _lost(self, talk: _Talk) -> None:
        if not talk.ended:
            talk.ended = True
            asyncio.get_running_loop().call_soon(talk.connection.connection_lost, None)

    async def _say(self, talk: _Talk) -> None:
        try:
            for piece in talk.sent.pieces():
                if talk.wire.paused:
                    await self._settle([talk.sent], [talk])
                if talk.ended:
                    return
                talk.connection.data_received(piece)
            if talk.sent.hangs_up and not talk.ended and not talk.connection.eof_received():
                talk.wire.close()
        except Exception as error:
            raise Failure(f"escaped: {type(error).__name__}: {error}", talk.sent) from error

    async def _settle(self, block: Sequence[Sent], talks: Sequence[_Talk]) -> None:
        """Until everything has been read and answered."""
        for _ in range(TURNS):
            await asyncio.sleep(0)
            busy = [talk for talk in talks if talk.wire.paused and not talk.ended]
            for talk in busy:
                talk.wire.drain()
            if not busy and not self.counters.in_flight:
                break
        else:
            raise Failure("no answer", block[0])
        await asyncio.sleep(0)
        if self._escaped:
            what, self._escaped = self._escaped[0], []
            raise Failure(f"escaped into the loop: {what}", block[0])

    def _end(self, talk: _Talk) -> list[Reply]:
        sent, app = talk.sent, talk.app
        try:
            found = replies(b"".join(talk.wire.sent), app.methods)
        except (Malformed, KeyError, ValueError, AttributeError) as error:
            raise Failure(f"malformed: {error!r}", sent) from error
        if not talk.ended:
            talk.ended = True
            talk.connection.connection_lost(None)
        asked = len(app.methods) + app.refused
        closed = sent.hangs_up or (found and found[-1].closes)
        if len(found) > asked or (len(found) < asked and not closed):
            raise Failure(f"{len(found)} replies to {asked} requests", sent)
        if talk.port.buffered or talk.port.connections:
            raise Failure("the connection left something behind", sent)
        self._check_statuses(sent, app, found)
        return found

    def _check_statuses(self, sent: Sent, app: _Watched, found: Sequence[Reply]) -> None:
        worst = max((reply.status for reply in found), default=0)
        named = b"x-sluice-revision" in sent.data.lower()
        if worst >= 500 and not (worst == 503 and named):
            raise Failure(f"status {worst}", sent)
        hidden = any(path.startswith(FORBIDDEN.decode()) for path in app.paths)
        if hidden and sent.kind != "http":
            raise Failure("a body was taken for a request", sent)

    # gRPC.

    def _called(self, sent: Sent) -> _Call | None:
        from google.protobuf.message import DecodeError

        from sluice.runtime.grpc_port import to_http

        try:
            request = to_http(MESSAGES["ModelInferRequest"].FromString(sent.data), ())
        except (DecodeError, Problem):
            return None
        except Exception as error:
            raise Failure(f"escaped: {type(error).__name__}: {error}", sent) from error
        call = _Call()
        self.predictions.start("v2", request, call)
        return call

    def _check_call(self, sent: Sent, call: _Call | None) -> None:
        from sluice.runtime.grpc_port import from_http

        if call is None:
            return
        response = call.response
        if response is None or response.status >= 500:
            raise Failure(f"gRPC: {response}", sent)
        if response.status == 200:
            try:
                from_http(response, raw=True)
                from_http(response, raw=False)
            except Exception as error:
                raise Failure(f"escaped: {type(error).__name__}: {error}", sent) from error

    def check_counters(self) -> None:
        """Nothing is in flight, and every request ended once."""
        counters = self.counters
        assert counters.in_flight == 0, counters.in_flight
        assert counters.outcomes[Outcome.MODEL_ERROR] == 0, counters.model_errors_by_class
