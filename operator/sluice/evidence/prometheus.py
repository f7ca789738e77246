"""Values and counts from a Prometheus server, or one that answers like it.

Called by the controller once a look; calls aiohttp with the session it is given.  Neither the
server nor what it measured is trusted: one number a question, checked, or an error that names the
server.  No series, or NaN (a rate of nothing: 0/0), is *no data* and comes back as None; an
infinite value is an error, because something was divided by nothing that was there.

``at`` is the operator's clock: with the same ``at`` all answers of a look are of one moment.
Prometheus looks back five minutes for the last sample, so a value can be that old.
"""

from __future__ import annotations

import asyncio
import functools
import json
import math
import re
import ssl
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from sluice.api.query import render
from sluice.evidence.counters import MAX_COUNT
from sluice.evidence.metric import (
    INVALID,
    REFUSED,
    UNREACHABLE,
    MetricError,
    Pair,
    Subject,
    Totals,
)

MAX_BYTES = 1 << 20
_SHOWN = 300
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
_HEADER_VALUE = re.compile(r"[\x20-\x7e]{0,8192}")
_HEADER_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,63}")


@dataclass(frozen=True)
class PrometheusServer:
    """Where to ask.  ``token`` and ``headers`` come from a Secret and are never shown.

    ``ca`` are certificates (PEM) to trust instead of the system's.
    """

    url: str
    token: str = field(default="", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    ca: str = field(default="", repr=False)

    @property
    def label(self) -> str:
        """The server in a message: no path, no user, no password."""
        parts = urlsplit(self.url)
        return f"Prometheus {parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def late(server: PrometheusServer, deadline: float) -> MetricError:
    """What is said when ``server`` gave no answer within ``deadline`` seconds."""
    return _error(server, f"did not answer within {deadline:g} s", UNREACHABLE)


async def read_value(
    session: aiohttp.ClientSession,
    server: PrometheusServer,
    query: str,
    *,
    at: float,
    deadline: float = 5.0,
) -> float | None:
    """The one value of ``query`` at ``at`` (seconds since 1970); None when there is no data.

    MetricError when there is no answer within ``deadline`` seconds, or one that cannot be used.
    """
    url, headers, tls = f"{_checked_url(server)}/api/v1/query", _headers(server), _tls(server)
    asked = {"query": query, "time": f"{at:.3f}", "timeout": f"{deadline * 1000:.0f}ms"}
    try:
        async with (
            asyncio.timeout(deadline),
            session.post(
                url, data=asked, headers=headers, ssl=tls, allow_redirects=False
            ) as response,
        ):
            _check_answered(server, response)
            body = await _bounded(response, server)
            return _value(server, response.status, body)
    except TimeoutError as error:
        raise late(server, deadline) from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise _error(server, f"cannot be reached ({_short(error)})", UNREACHABLE) from error


async def read_values(
    session: aiohttp.ClientSession,
    server: PrometheusServer,
    query: str,
    subject: Subject,
    *,
    interval: float,
    at: float,
    deadline: float = 5.0,
) -> Pair[float | None]:
    """A gauge of each arm: ``query`` with that arm's ``{{revision}}``.

    ``interval``: seconds for ``{{interval}}``.  Raises as ``read_value`` does, and
    InvalidInputError as ``render`` does.
    """
    texts = [render(query, _names(subject, r, interval)) for r in _arms(subject)]
    stable, candidate = await _all(
        *(read_value(session, server, text, at=at, deadline=deadline) for text in texts)
    )
    return Pair(stable, candidate)


async def read_totals(
    session: aiohttp.ClientSession,
    server: PrometheusServer,
    events: str,
    total: str,
    subject: Subject,
    *,
    interval: float,
    at: float,
    deadline: float = 5.0,
) -> Pair[Totals | None]:
    """Running totals of each arm, for ``metric.count``; ``interval``: seconds since the anchor.

    An arm without a total has no data; without events it has none of those.  Raises as
    ``read_values`` does, and MetricError for a total that cannot be one.
    """
    texts = [
        render(query, _names(subject, r, interval))
        for r in _arms(subject)
        for query in (total, events)
    ]
    answers = await _all(
        *(read_value(session, server, text, at=at, deadline=deadline) for text in texts)
    )
    for text, answer in zip(texts, answers, strict=True):
        if answer is not None and not 0 <= answer <= MAX_COUNT:
            raise _error(server, f"answered {answer:g} to {_shown(text)}, not a count", INVALID)
    return Pair(_totals(*answers[:2]), _totals(*answers[2:]))


def _totals(total: float | None, events: float | None) -> Totals | None:
    return None if total is None else Totals(total, events or 0.0)


def _arms(subject: Subject) -> tuple[str, str]:
    return subject.revisions.stable, subject.revisions.candidate


def _names(subject: Subject, revision: str, interval: float) -> dict[str, str]:
    return {
        "revision": revision,
        "namespace": subject.namespace,
        "name": subject.name,
        "interval": f"{max(1, int(interval))}s",
    }


async def _all(*questions: Coroutine[Any, Any, float | None]) -> list[float | None]:
    """All at once; none is still under way when the first error is raised."""
    answers = await asyncio.gather(*questions, return_exceptions=True)
    values: list[float | None] = []
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
        values.append(answer)
    return values


# -- asking


def _checked_url(server: PrometheusServer) -> str:
    try:
        parts = urlsplit(server.url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        raise _bad_setting("The address of Prometheus is not a URL.") from None
    if not good or parts.query or parts.fragment or "@" in parts.netloc or _odd(server.url):
        raise _bad_setting("The address of Prometheus has more or less than a host and a path.")
    return server.url.rstrip("/")


def _odd(url: str) -> bool:
    return not url.isprintable() or " " in url


def _headers(server: PrometheusServer) -> dict[str, str]:
    headers = {name: value.strip() for name, value in server.headers.items()}
    if server.token.strip():
        headers["Authorization"] = f"Bearer {server.token.strip()}"
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            raise _bad_setting(f"The token or a header for {server.label} is not one line of text.")
    return headers


def _tls(server: PrometheusServer) -> ssl.SSLContext | bool:
    return _trusting(server.ca, server.label) if server.ca else True


@functools.lru_cache(maxsize=32)
def _trusting(ca: str, label: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cadata=ca)
    except (ssl.SSLError, ValueError):
        raise _bad_setting(f"The certificates to trust {label} by are not PEM.") from None


def _bad_setting(message: str) -> MetricError:
    return MetricError(
        message,
        hint="The address is like http://prometheus.monitoring:9090; what is secret is in a "
        "Secret, one value a key.",
        reason=REFUSED,
    )


# -- understanding the answer


def _check_answered(server: PrometheusServer, response: aiohttp.ClientResponse) -> None:
    if 300 <= response.status < 400:
        target = _shown(response.headers.get("Location", "nowhere"))
        raise _error(
            server,
            f"redirects to {target}, which is not followed",
            REFUSED,
            "Write the final address, so that nobody else is sent the token.",
        )
    if response.status in (401, 403):
        raise _error(
            server,
            f"does not accept who asks (status {response.status})",
            REFUSED,
            "Check the token in the Secret.",
        )


async def _bounded(response: aiohttp.ClientResponse, server: PrometheusServer) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_chunked(1 << 16):
        body += chunk
        if len(body) > MAX_BYTES:
            raise _error(
                server,
                f"sent more than {MAX_BYTES} bytes",
                INVALID,
                "Aggregate to one series, for example sum(...).",
            )
    return bytes(body)


def _value(server: PrometheusServer, status: int, body: bytes) -> float | None:
    try:
        document = json.loads(body)
        outcome = document["status"]
        if outcome == "error":
            kind, text = _shown(document["errorType"]), _shown(document["error"])
        elif outcome != "success":
            raise ValueError(f"status {outcome!r}")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise _error(
            server,
            f"answered {status} with something that is not a Prometheus answer",
            INVALID if status == 200 else UNREACHABLE,
            "Check the address: /api/v1/query is added to it.",
        ) from error
    if outcome == "error":
        reason = REFUSED if kind in ("bad_data", "execution") else UNREACHABLE
        raise _error(server, f"answered {kind}: {text}", reason, "Try the query in its own page.")
    try:
        return _one_number(server, document)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        detail = f"lacks {error}" if isinstance(error, KeyError) else _short(error)
        raise _error(server, f"sent an answer that cannot be used: {detail}", INVALID) from error


def _one_number(server: PrometheusServer, document: Mapping[str, Any]) -> float | None:
    if document.get("warnings"):
        # Some of the data was not there to be counted: half an answer is not evidence.
        raise ValueError(f"it warns: {_shown(document['warnings'])}")
    data = document["data"]
    kind, result = data["resultType"], data["result"]
    if kind == "scalar":
        return _number(result)
    if kind != "vector":
        raise ValueError(f"it is a {_shown(kind)}; a query must give a number, not text or ranges")
    if not isinstance(result, list):
        raise ValueError("its vector is not a list")
    if len(result) > 1:
        series = " and ".join(_series(item) for item in result[:2])
        raise _error(
            server,
            f"answered {len(result)} series, among them {series}",
            INVALID,
            "Aggregate to one, for example sum(...) or max(...), or select one by its labels.",
        )
    if not result:
        return None
    if "histogram" in result[0]:
        raise ValueError("it is a histogram; use, for example, histogram_quantile(0.95, ...)")
    return _number(result[0]["value"])


def _series(item: Mapping[str, Any]) -> str:
    labels = ", ".join(f'{name}="{value}"' for name, value in item["metric"].items())
    return f"{{{_shown(labels, 100)}}}"


def _number(sample: Any) -> float | None:
    if not isinstance(sample, list) or len(sample) != 2 or not isinstance(sample[1], str):
        raise ValueError(f"{_shown(sample, 60)} is not a sample")
    text = sample[1]
    if text == "NaN":
        return None
    if text.lstrip("+-") == "Inf":
        raise ValueError(f"its value is {text}: something is divided by zero")
    if len(text) > 400 or not _NUMBER.fullmatch(text) or not math.isfinite(float(text)):
        raise ValueError(f"its value is {_shown(text, 60)}, not a number")
    return float(text)


def _shown(value: Any, longest: int = _SHOWN) -> str:
    """What a server sent, fit for one line of a message."""
    text = "".join(c if c.isprintable() else " " for c in str(value)[: longest + 1])
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def _short(error: BaseException) -> str:
    return _shown(str(error) or type(error).__name__)


def _error(server: PrometheusServer, what: str, reason: str, hint: str = "") -> MetricError:
    return MetricError(
        f"{server.label} {what}.",
        hint=hint or "The metric is asked for again at the next look.",
        reason=reason,
    )
