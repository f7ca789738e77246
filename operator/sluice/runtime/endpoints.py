"""What each path of the serving and the admin port answers.

Called by ``connection.py`` with a parsed request and an exchange to answer.  Prediction requests go
to ``predictions.py``; everything else is answered here, at once, whatever the model is doing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from sluice.runtime import feedback, metrics
from sluice.runtime.answer_headers import TRACE, Marked, Origins, trace
from sluice.runtime.counters import Outcome
from sluice.runtime.http import HTML, TEXT, BadRequest, Request, Response
from sluice.runtime.predictions import Predictions, error_response
from sluice.runtime.problems import Problem, unavailable
from sluice.runtime.protocols.v2 import V2Protocol
from sluice.runtime.served import Exchange, Model, Status
from sluice.version import __version__

Handler = Callable[[], Response]


def answer_get(request: Request, handler: Handler | None, hint: str) -> Response:
    """Ask a GET handler, or say why not."""
    if handler is None:
        raise Problem(404, "NotFound", f"there is nothing at {request.path[:200]!r}; {hint}")
    if request.method not in ("GET", "HEAD"):
        raise _method_not_allowed("GET", request.method, b"GET, HEAD")
    return handler()


def _method_not_allowed(expected: str, got: str, allow: bytes) -> Problem:
    return Problem(
        405,
        "MethodNotAllowed",
        f"expected {expected}, got {got}",
        headers=((b"allow", allow),),
    )


def _route(path: str) -> str | None:
    """The protocol of a prediction path."""
    if path == "/predict":
        return "predict"
    if path.startswith("/v1/models/") and path.endswith(":predict"):
        return "v1"
    if path.startswith("/v2/models/") and path.endswith("/infer"):
        return "v2"
    return None


def _family(path: str) -> str:
    """Whose error format a path speaks."""
    return "v1" if path.startswith(("/v1", "/v2")) else "predict"


class ServingApp:
    """The serving port."""

    def __init__(
        self, predictions: Predictions, status: Status, origins: Sequence[str] = ()
    ) -> None:
        self._predictions = predictions
        self._status = status
        self._origins = Origins(origins) if origins else None
        self._gets = self._static_paths()

    def handle(self, request: Request, exchange: Exchange) -> None:
        """Answer ``request`` now or later."""
        route = _route(request.path)
        if TRACE in request.headers or self._origins is not None:
            exchange = self._marked(request, exchange)
        if route is not None and request.method == "POST":
            self._predictions.start(route, request, exchange)
            return
        try:
            asked_first = self._origins and self._origins.preflight(request)
            if asked_first:
                exchange.answer(asked_first)
                return
            if route is not None or (request.path == feedback.PATH and request.method != "POST"):
                raise _method_not_allowed("POST", request.method, b"POST")
            if request.path == feedback.PATH:
                exchange.answer(feedback.take(request, self._predictions.journal))
                return
            handler = self._gets.get(request.path) or self._model_path(request.path)
            response = answer_get(request, handler, "try POST /predict or GET /docs")
        except Problem as problem:
            response = error_response(problem, _family(request.path))
        exchange.answer(response)

    def _marked(self, request: Request, exchange: Exchange) -> Exchange:
        headers = trace(request.headers)
        if self._origins is not None:
            headers += self._origins.headers(request)
        return Marked(exchange, headers) if headers else exchange

    def refuse(self, bad: BadRequest) -> Response:
        """The answer to bytes that are no request we can read."""
        if bad.status == 503:
            self._predictions.counters.finished(Outcome.SHED, -1, None)
            return error_response(unavailable("Overloaded", bad.message), _family(bad.path))
        if _route(bad.path) is not None:
            self._predictions.counters.finished(Outcome.CLIENT_ERROR, -1, None)
        problem = Problem(bad.status, "BadRequest", bad.message)
        return error_response(problem, _family(bad.path))

    def _static_paths(self) -> dict[str, Handler]:
        return {
            "/": lambda: Response(200, b'{"status":"alive"}'),  # KServe's V1 liveness
            "/livez": lambda: _health(self._predictions.stuck()),
            "/readyz": lambda: _health(self._status.not_ready()),
            "/startupz": lambda: _health(
                None if self._status.loaded else "the model is being loaded"
            ),
            "/docs": lambda: Response(200, self._loaded().docs, HTML),
            "/openapi.json": lambda: Response(200, self._loaded().openapi),
            "/v1/models": lambda: Response(200, self._loaded().v1.models()),
            "/v2": lambda: Response(200, V2Protocol.server(__version__)),
            "/v2/": lambda: Response(200, V2Protocol.server(__version__)),
            "/v2/health/live": lambda: Response(200, V2Protocol.health("live", True)),
            "/v2/health/ready": lambda: self._if_ready(lambda r: V2Protocol.health("ready", r)),
        }

    def _model_path(self, path: str) -> Handler | None:
        parts = path.strip("/").split("/")
        if parts[:2] == ["v1", "models"] and len(parts) == 3:
            self._predictions.check_name(parts[2])
            return lambda: self._if_ready(lambda r: self._loaded().v1.metadata(ready=r))
        if parts[:2] == ["v2", "models"] and len(parts) >= 3:
            rest = self._predictions.rest_of_v2(path)
            if not rest:
                return lambda: Response(200, self._loaded().v2.metadata())
            if rest == ["ready"]:
                return lambda: self._if_ready(lambda r: self._loaded().v2.ready(ready=r))
        return None

    def _if_ready(self, body: Callable[[bool], bytes]) -> Response:
        ready = self._status.not_ready() is None
        return Response(200 if ready else 503, body(ready))

    def _loaded(self) -> Model:
        model = self._predictions.model
        if model is None:
            raise unavailable("NotReady", "the model is being loaded; try again")
        return model


class AdminApp:
    """The operator's port: counters, metrics, the journal, and readiness once more."""

    def __init__(self, predictions: Predictions, status: Status) -> None:
        self._counters = predictions.counters
        self._mirror = predictions.mirror
        self._journal = predictions.journal
        self._status = status
        self._gets: dict[str, Handler] = {
            "/counters": self._json,
            "/metrics": self._metrics,
            "/readyz": lambda: _health(self._status.not_ready()),
        }

    def handle(self, request: Request, exchange: Exchange) -> None:
        """Answer at once."""
        try:
            handler = self._gets.get(request.path)
            if request.path == "/journal":
                handler = partial(self._records, request.query)
            response = answer_get(request, handler, "try GET /metrics or GET /counters")
        except Problem as problem:
            response = error_response(problem, "predict")
        exchange.answer(response)

    def refuse(self, bad: BadRequest) -> Response:
        """The answer to bytes that are no request we can read."""
        return error_response(Problem(bad.status, "BadRequest", bad.message), "predict")

    def _json(self) -> Response:
        return Response(200, msgspec.json.encode(self._document()))

    def _document(self) -> dict[str, Any]:
        return {**self._counters.as_json(), "mirror": self._mirror.as_json()}

    def _records(self, query: str) -> Response:
        asked = dict(parse_qsl(query))
        since = asked.get("since", "0")
        if not (since.isascii() and since.isdigit()) or len(since) > 18:
            raise Problem(400, "BadRequest", f"expected since=NUMBER, got {since[:40]!r}")
        page = self._journal.page(asked.get("experiment", ""), int(since))
        return Response(200, msgspec.json.encode(page))

    def _metrics(self) -> Response:
        ready = self._status.not_ready() is None
        text = metrics.exposition(self._counters, self._mirror, ready=ready)
        return Response(200, text, metrics.CONTENT_TYPE)


def _health(missing: str | None) -> Response:
    if missing is None:
        return Response(200, b"ok\n", TEXT)
    return Response(503, f"no: {missing}\n".encode(), TEXT)
