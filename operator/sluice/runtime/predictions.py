"""The life of a prediction request: admitted, parsed, predicted, answered, counted once.

Called by ``endpoints.py``; calls the protocols, the batcher and the counters.  Every request ends
in exactly one :class:`Outcome`; a request meant for another revision is only ``misdirected``.
A client that goes away is counted in ``disconnects``, its waiting time goes into the latency
histogram, and the outcome is still counted when the model has answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
import time
from collections.abc import Callable
from functools import partial

from sluice.package.scoring import Answer
from sluice.runtime.batching import Answered, Job, Result
from sluice.runtime.counters import BUCKETS, Counters, Outcome
from sluice.runtime.feedback import HEADER_UNIT
from sluice.runtime.http import Request, Response
from sluice.runtime.inputs import Rows
from sluice.runtime.journal import Journal
from sluice.runtime.mirror import HEADER_MIRROR, Mirror, render_copy_answer
from sluice.runtime.problems import Problem, unavailable
from sluice.runtime.protocols import binary
from sluice.runtime.protocols.predict import PredictProtocol
from sluice.runtime.protocols.v1 import V1Protocol
from sluice.runtime.served import Exchange, Model, Settings, Status

HEADER_REVISION = b"x-sluice-revision"
HEADER_BUCKET = b"x-sluice-bucket"

_JSON_TYPES = {
    "",  # tritonclient sends none
    "application/json",
    "text/json",
    "application/x-www-form-urlencoded",  # what `curl -d` says of any body
}

_BINARY_TYPE = binary.CONTENT_TYPE.decode()

STUCK_SECONDS = 60.0

INLINE_BODY = 256 * 1024
"""Larger bodies are parsed on a thread, so that health and small requests stay quick."""

Render = Callable[[Answer], Response]


class Predictions:
    """All prediction requests of a process."""

    def __init__(self, settings: Settings, status: Status, counters: Counters) -> None:
        self.settings = settings
        self.status = status
        self.counters = counters
        self.journal = Journal(counters.boot, time.time)
        self.model: Model | None = None
        self.last_request = 0.0
        self.mirror = Mirror(counters.boot[:8])
        self.copies_wait: Callable[[], None] = lambda: None
        """Called when there is a copy to send."""
        self._revision = settings.revision.encode()
        self._event_prefix = counters.boot[:8]
        self._event_numbers = itertools.count(1)
        self._logged: set[str] = set()

    def use(self, settings: Settings, model: Model) -> None:
        """Start to answer."""
        self.settings = settings
        self._revision = settings.revision.encode()
        self.model = model

    @property
    def version(self) -> str:
        """The model's version in V2."""
        return self.settings.revision or "1"

    def start(self, route: str, request: Request, exchange: Exchange) -> None:
        """Take a request; its exchange is answered now or later."""
        copied_from = request.headers.get(HEADER_MIRROR)
        if copied_from is None:
            self.last_request = exchange.started
        meant = request.headers.get(HEADER_REVISION)
        if meant is not None and meant != self._revision and self._revision:
            self.counters.misdirected += copied_from is None
            problem = unavailable(
                "Misdirected", "this server serves another revision; try again", retry_after=0
            )
            refused = error_response(problem, route)
            # A router that was pointed elsewhere would go on sending through this connection.
            refused.last = True
            exchange.answer(refused)
            return
        if copied_from is not None:
            _Mirrored(self, route, exchange, copied_from.decode("latin-1")).start(request)
            return
        unit = request.headers.get(HEADER_UNIT)
        if unit is not None:
            # Whatever becomes of the request: a failure is part of what the arm does to a unit.
            self.journal.exposed(unit)
        bucket = _bucket(request.headers)
        copy_id = self.mirror.chosen_id(request.headers) if self.mirror.aim is not None else None
        if copy_id is not None:
            _Copied(self, route, exchange, bucket, copy_id).start(request)
        else:
            _InFlight(self, route, exchange, bucket).start(request)

    def stuck(self) -> str | None:
        """What a liveness probe should restart the process for: a model that does not return."""
        seconds = self.model.batcher.stuck_for() if self.model is not None else 0.0
        if seconds > max(STUCK_SECONDS, 10 * self.settings.timeout):
            return f"the model has not returned for {seconds:.0f} s"
        return None

    def admit(self) -> Model:
        """The model, or 503 with Retry-After."""
        if self.status.refusing:
            raise unavailable("Draining", "this server is shutting down; try again")
        if self.model is None:
            raise unavailable("NotReady", "the model is being loaded; try again")
        if self.counters.in_flight >= self.settings.max_in_flight:
            raise unavailable(
                "Overloaded",
                f"{self.settings.max_in_flight} requests are in flight already; try again",
            )
        return self.model

    def parse(self, model: Model, route: str, request: Request) -> tuple[Rows, Render]:
        """Rows of a request, and how to render its answer."""
        content_type = request.content_type
        json_length = request.headers.get(binary.HEADER_LENGTH) if route == "v2" else None
        known = content_type in _JSON_TYPES or content_type.endswith("+json")
        if not known and (json_length is None or content_type != _BINARY_TYPE):
            raise Problem(
                415,
                "UnsupportedMediaType",
                f"expected Content-Type application/json, got {content_type[:60]!r}",
            )
        encoding = request.headers.get(b"content-encoding", b"identity")
        if encoding.lower() != b"identity":
            raise Problem(
                415,
                "UnsupportedMediaType",
                f"expected a body without Content-Encoding, got {encoding[:60].decode('latin-1')}",
            )
        if route == "v1":
            self.check_name(request.path[len("/v1/models/") : -len(":predict")])
            return model.v1.parse(request.body), lambda answer: _json(model.v1.render(answer))
        if route == "v2":
            if self.rest_of_v2(request.path) != ["infer"]:
                raise Problem(404, "NotFound", f"there is nothing at {request.path[:200]!r}")
            infer, rows = model.v2.parse(request.body, json_length)
            return rows, lambda answer: model.v2.render(infer, answer)
        protocol = model.predict
        rows = protocol.parse(request.body)
        return rows, lambda answer: _json(protocol.render(answer, self._events(rows.count)))

    def check_name(self, name: str) -> None:
        """404 unless ``name`` is the deployment's."""
        if self.model is None:
            raise unavailable("NotReady", "the model is being loaded; try again")
        mine = self.settings.deployment
        if name != mine:
            raise Problem(404, "UnknownModel", f"expected the model {mine!r}, got {name[:60]!r}")

    def rest_of_v2(self, path: str) -> list[str]:
        """What follows ``/v2/models/NAME[/versions/V]``; 404 for another name or version."""
        parts = path.strip("/").split("/")
        self.check_name(parts[2])
        rest = parts[3:]
        if rest[:1] == ["versions"] and len(rest) >= 2:
            if rest[1] != self.version:
                raise Problem(
                    404,
                    "UnknownVersion",
                    f"expected the version {self.version!r}, got {rest[1][:60]!r}",
                )
            return rest[2:]
        return rest

    def log_model_error(self, error: BaseException) -> None:
        """Once per class: enough to find the cause, not one line a request."""
        name = type(error).__name__
        if name not in self._logged and len(self._logged) < 32:
            self._logged.add(name)
            first = (str(error).strip().splitlines() or [""])[0][:300]
            with contextlib.suppress(OSError):  # a full disk must not cost an answer
                print(f"model error {name}: {first} (further ones are counted)", file=sys.stderr)

    def copy(self, request: Request, copy_id: str, outcome: Outcome, answer: Answer | None) -> None:
        """A chosen request has been answered: the candidate gets a copy, after this turn."""
        if self.mirror.offer(request, copy_id, outcome, answer):
            self.copies_wait()

    def _events(self, count: int) -> list[str]:
        prefix, numbers = self._event_prefix, self._event_numbers
        return [f"{prefix}-{next(numbers):x}" for _ in range(count)]


class _InFlight:
    """One request from admission to its outcome."""

    __slots__ = ("_bucket", "_ended", "_exchange", "_gone", "_job", "_owner", "_render", "_route",
                 "_timer")  # fmt: skip

    def __init__(self, owner: Predictions, route: str, exchange: Exchange, bucket: int) -> None:
        self._owner = owner
        self._route = route
        self._exchange = exchange
        self._bucket = bucket
        self._gone = False
        self._ended = False
        self._job: Job | None = None
        self._render: Render | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self, request: Request) -> None:
        owner = self._owner
        try:
            model = owner.admit()
        except Problem as problem:
            self._count(Outcome.SHED, None, 0)
            self._exchange.answer(error_response(problem, self._route))
            return
        owner.counters.in_flight += 1
        self._exchange.on_gone = self._client_gone
        if len(request.body) <= INLINE_BODY:
            self._submit(model, partial(owner.parse, model, self._route, request))
            return
        loop = asyncio.get_running_loop()
        parsing = loop.run_in_executor(None, owner.parse, model, self._route, request)
        parsing.add_done_callback(lambda parsed: self._submit(model, parsed.result))

    def _submit(self, model: Model, parsed: Callable[[], tuple[Rows, Render]]) -> None:
        owner = self._owner
        try:
            rows, self._render = parsed()
        except Problem as problem:
            self._end(Outcome.CLIENT_ERROR, error_response(problem, self._route))
            return
        except Exception as error:  # our fault, and then it must be seen and not end a connection
            self._model_error(error)
            return
        self._parsed(rows)
        self._job = Job(rows, self._done)
        model.batcher.submit(self._job)
        if model.batcher.may_wait(rows.count):
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(owner.settings.timeout, self._deadline)

    def _done(self, result: Result) -> None:
        if self._ended:
            return
        if isinstance(result, Problem):
            self._end(Outcome.CLIENT_ERROR, error_response(result, self._route))
        elif isinstance(result, BaseException):
            self._model_error(result)
        elif result.non_finite:
            self._not_finite(result.non_finite)
            self._model_error(NonFiniteScore("the model answered a score that is not finite"))
        else:
            self._answered(result)

    def _answered(self, result: Answered) -> None:
        elapsed = time.monotonic() - self._exchange.started
        if elapsed > self._owner.settings.timeout:
            self._deadline()
            return
        try:
            response = self._response(result.answer)
        except (TypeError, ValueError) as error:  # an answer that JSON cannot hold
            self._model_error(error)
            return
        self._observe(result)
        self._end(Outcome.OK, response, rows=len(result.answer.scores))

    def _model_error(self, error: BaseException) -> None:
        name = type(error).__name__
        self._name_error(name)
        self._owner.log_model_error(error)
        problem = Problem(500, "ModelError", f"the model failed on this request with {name}")
        self._end(Outcome.MODEL_ERROR, error_response(problem, self._route))

    def _deadline(self) -> None:
        if self._job is not None and self._owner.model is not None:
            self._owner.model.batcher.cancel(self._job)
        seconds = self._owner.settings.timeout
        problem = Problem(504, "Timeout", f"the model did not answer within {seconds:g} s")
        self._end(Outcome.TIMEOUT, error_response(problem, self._route))

    def _client_gone(self) -> None:
        if not self._ended:
            self._gone = True
            self._disconnected(time.monotonic() - self._exchange.started)

    def _end(self, outcome: Outcome, response: Response, rows: int = 0) -> None:
        if self._ended:
            return
        self._ended = True
        if self._timer is not None:
            self._timer.cancel()
        self._owner.counters.in_flight -= 1
        answered = outcome is Outcome.OK and not self._gone
        seconds = time.monotonic() - self._exchange.started if answered else None
        self._count(outcome, seconds, rows)
        self._exchange.answer(response)

    # What a user's request leaves in the counters; a copy leaves nothing of this.

    def _response(self, answer: Answer) -> Response:
        assert self._render is not None
        return self._render(answer)

    def _count(self, outcome: Outcome, seconds: float | None, rows: int) -> None:
        self._owner.counters.finished(outcome, self._bucket, seconds, rows)

    def _parsed(self, rows: Rows) -> None:
        self._owner.counters.unknown_fields += rows.unknown_fields

    def _observe(self, result: Answered) -> None:
        self._owner.counters.observe_rows(result.columns, result.answer.scores)

    def _not_finite(self, rows: int) -> None:
        self._owner.counters.non_finite += rows

    def _name_error(self, name: str) -> None:
        self._owner.counters.model_error(name)

    def _disconnected(self, seconds: float) -> None:
        counters = self._owner.counters
        counters.disconnects += 1
        counters.observe_latency(seconds)


class _Copied(_InFlight):
    """A user's request on a process that mirrors: offered for copying once it is answered."""

    __slots__ = ("_answer", "_id", "_request")

    def __init__(
        self, owner: Predictions, route: str, exchange: Exchange, bucket: int, copy_id: str
    ) -> None:
        super().__init__(owner, route, exchange, bucket)
        self._id = copy_id
        self._answer: Answer | None = None

    def start(self, request: Request) -> None:
        self._request = request
        super().start(request)

    def _observe(self, result: Answered) -> None:
        self._answer = result.answer
        super()._observe(result)

    def _end(self, outcome: Outcome, response: Response, rows: int = 0) -> None:
        if self._ended:
            return
        super()._end(outcome, response, rows)
        self._owner.copy(self._request, self._id, outcome, self._answer)


class _Mirrored(_InFlight):
    """A copy that another revision sent: no user waits, and no user's counter hears of it."""

    __slots__ = ("_id",)

    def __init__(self, owner: Predictions, route: str, exchange: Exchange, copy_id: str) -> None:
        super().__init__(owner, route, exchange, -1)
        self._id = copy_id

    def _response(self, answer: Answer) -> Response:
        return _json(render_copy_answer(self._id, answer))

    def _count(self, outcome: Outcome, seconds: float | None, rows: int) -> None:
        self._owner.counters.copies.finished(outcome, seconds)

    def _parsed(self, rows: Rows) -> None:
        pass

    def _observe(self, result: Answered) -> None:
        pass

    def _not_finite(self, rows: int) -> None:
        self._owner.counters.copies.non_finite += rows

    def _name_error(self, name: str) -> None:
        pass

    def _disconnected(self, seconds: float) -> None:
        pass


class NonFiniteScore(Exception):  # noqa: N818 - its name is what modelErrorsByClass shows
    """NaN or infinity is a model error, never a label."""


def error_response(problem: Problem, route: str) -> Response:
    """The answer in the words of the protocol that was asked."""
    encode = PredictProtocol.error if route == "predict" else V1Protocol.error
    return Response(problem.status, encode(problem), headers=problem.headers)


def _json(body: bytes) -> Response:
    return Response(200, body)


def _bucket(headers: dict[bytes, bytes]) -> int:
    """The unit bucket that the router gave, or -1."""
    raw = headers.get(HEADER_BUCKET, b"")
    if raw.isdigit() and len(raw) <= 3 and int(raw) < BUCKETS:
        return int(raw)
    return -1
