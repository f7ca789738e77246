"""Reading what metric checks compare: all sources at once, in bounded time, once a look.

Called by looks; calls evidence.prometheus and evidence.sql, and reads the Secret ``sluice-metrics``
of the ModelDeployment's namespace when a check names one of its keys.  What goes wrong with one
source is that check's problem in this look, never the look's.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import aiohttp

from sluice.api.meta import METRICS_SECRET
from sluice.errors import SluiceError
from sluice.evidence import metric, prometheus, sql
from sluice.evidence.metric import MetricError, Pair, Subject
from sluice.evidence.prometheus import PrometheusServer
from sluice.evidence.sql import Database
from sluice.kube.client import KubeClient
from sluice.kube.errors import ForbiddenError, KubeError
from sluice.rollout.plan import CheckPlan, Plan, SourcePlan
from sluice.stats.counts import Counts
from sluice.stats.look import Means, MetricLook, Values
from sluice.stats.means import Moments

log = logging.getLogger(__name__)

States = dict[str, Any]

LONGEST_READ = 5.0
SHORTEST_READ = 0.5
READ_SHARE = 0.3
"""Part of an interval that sources may take: guardrails on the same look wait for them."""

FIRST_SCRAPES = 150.0
"""Seconds in which an increase may still lack the two scrapes that it takes: that is no silence."""

SECRET_SECONDS = 30.0
REMEMBERED_SECRETS = 1000


@dataclass(frozen=True)
class MetricsRead:
    """What sources gave, by check, and how far each is read: committed with the look."""

    looks: dict[str, MetricLook]
    states: States


@dataclass(frozen=True)
class _Ask:
    """What every source of a look is asked with.  ``ends`` is the event loop's time."""

    subject: Subject
    now: float
    interval: float
    deadline: float
    ends: float
    secret: dict[str, str] | MetricError = field(repr=False)

    def value(self, key: str) -> str:
        """The Secret's value under ``key``; nothing for no key."""
        if not key:
            return ""
        if isinstance(self.secret, MetricError):
            raise self.secret
        if not self.secret.get(key):
            raise _bad_secret(f"has no key {key}, or nothing under it")
        return self.secret[key]


def begin(plan: Plan, now: float) -> States:
    """Where reading begins when the weights have just changed: nothing before ``now`` counts."""
    return {c.name: _begun(c.source, now) for c in plan.checks if c.source is not None}


def _begun(source: SourcePlan, now: float) -> Any:
    if source.kind == "Sql":
        return {"version": metric.VERSION, "until": now}
    return metric.begin(now) if source.events else {}


def _readable(source: SourcePlan | None, state: Any) -> bool:
    """Whether a state says how far a source is read: another version's does not."""
    if source is None or not isinstance(state, dict):
        return False
    if source.kind == "Prometheus" and not source.events:
        return True
    try:
        if source.kind == "Prometheus":
            metric.count(state, Pair(None, None))
            return math.isfinite(state["since"])
        return state["version"] == metric.VERSION and math.isfinite(state["until"])
    except (MetricError, KeyError, TypeError):
        return False


class MetricReader:
    """Reads sources; keeps connections, and Secrets for half a minute."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client
        self._session: aiohttp.ClientSession | None = None
        self._secrets: OrderedDict[str, tuple[float, dict[str, str]]] = OrderedDict()

    async def read(
        self, plan: Plan, subject: Subject, states: Mapping[str, Any], now: float
    ) -> MetricsRead:
        """Every source that has been begun; one that has not, or not by us, begins now.

        Takes at most READ_SHARE of the plan's interval, and never raises for a source.
        """
        begun = begin(plan, now)
        checks = [c for c in plan.checks if _readable(c.source, states.get(c.name))]
        if not checks:
            return MetricsRead({}, begun)
        allowed = min(LONGEST_READ, max(SHORTEST_READ, READ_SHARE * plan.interval_seconds))
        ends = asyncio.get_running_loop().time() + allowed
        secret = await self._secret(subject.namespace, checks, ends)
        ask = _Ask(subject, now, plan.interval_seconds, allowed, ends, secret)
        answers = await asyncio.gather(*(self._one(ask, c, states[c.name]) for c in checks))
        looks = {c.name: look for c, (look, _) in zip(checks, answers, strict=True) if look}
        after = {c.name: state for c, (_, state) in zip(checks, answers, strict=True)}
        return MetricsRead(looks, {**begun, **after})

    async def close(self) -> None:
        """Closes connections to sources."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _one(self, ask: _Ask, check: CheckPlan, state: Any) -> tuple[MetricLook | None, Any]:
        """What one source gave, and how far it is read; without an answer, no further."""
        source = check.source
        assert source is not None
        try:
            async with asyncio.timeout_at(ask.ends):
                if source.kind == "Sql":
                    return await _read_sql(source, ask, state)
                if source.events:
                    return await self._counts(source, ask, state)
                return await self._values(source, ask), state
        except TimeoutError:
            said = str(_late(source, ask))
        except SluiceError as error:
            said = str(error)
        except Exception as error:
            # Whatever a source does, the other checks of this look are judged.
            log.exception("%s/%s: check %s", ask.subject.namespace, ask.subject.name, check.name)
            said = f"Reading failed: {type(error).__name__}."
        return MetricLook(problem=said, error=True), state

    async def _counts(
        self, source: SourcePlan, ask: _Ask, state: Any
    ) -> tuple[MetricLook | None, Any]:
        totals = await prometheus.read_totals(
            self._http(),
            _server(source, ask),
            source.events,
            source.total,
            ask.subject,
            interval=ask.now - state["since"],
            at=ask.now,
            deadline=ask.deadline,
        )
        counts, after = metric.count(state, totals)
        nothing = after["stable"] == after["candidate"] == [0, 0]
        if totals == Pair(None, None) and nothing and ask.now - state["since"] < FIRST_SCRAPES:
            return None, state
        missing = _missing(totals.stable is None, totals.candidate is None)
        return MetricLook(_look_counts(counts), problem=missing), after

    async def _values(self, source: SourcePlan, ask: _Ask) -> MetricLook:
        values = await prometheus.read_values(
            self._http(),
            _server(source, ask),
            source.query,
            ask.subject,
            interval=ask.interval,
            at=ask.now,
            deadline=ask.deadline,
        )
        if values.stable is None or values.candidate is None:
            return MetricLook(problem=_missing(values.stable is None, values.candidate is None))
        return MetricLook(Values(values.stable, values.candidate))

    async def _secret(
        self, namespace: str, checks: list[CheckPlan], ends: float
    ) -> dict[str, str] | MetricError:
        """The Secret's values by key, at most SECRET_SECONDS old; an error is the checks' own."""
        keys = {key for c in checks if c.source is not None for key in c.source.keys}
        if not keys:
            return {}
        at, values = self._secrets.get(namespace, (-SECRET_SECONDS, {}))
        if time.monotonic() - at < SECRET_SECONDS and keys <= set(values):
            return values
        try:
            async with asyncio.timeout_at(ends):
                values = await self._fetch(namespace)
        except MetricError as error:
            return error
        except (TimeoutError, KubeError) as error:
            return _bad_secret(f"could not be read ({type(error).__name__})")
        self._secrets[namespace] = (time.monotonic(), values)
        while len(self._secrets) > REMEMBERED_SECRETS:
            self._secrets.popitem(last=False)
        return values

    async def _fetch(self, namespace: str) -> dict[str, str]:
        try:
            found = await self._client.find("Secret", namespace, METRICS_SECRET)
        except ForbiddenError:
            raise _bad_secret("may not be read by the operator: update its role") from None
        if found is None:
            raise _bad_secret("does not exist")
        try:
            data = found.get("data") or {}
            return {k: base64.b64decode(v, validate=True).decode() for k, v in data.items()}
        except (binascii.Error, UnicodeDecodeError, TypeError, AttributeError):
            raise _bad_secret("holds something that is not text") from None

    def _http(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=64))
        return self._session


async def _read_sql(source: SourcePlan, ask: _Ask, state: Any) -> tuple[MetricLook | None, Any]:
    """The window that has been closed for long enough; before there is one, nothing is asked."""
    start, end = state["until"], ask.now - source.delay
    if end <= start:
        return None, state
    arms = await sql.read_arms(
        _database(source, ask),
        source.query,
        ask.subject.revisions,
        start=datetime.fromtimestamp(start, UTC),
        end=datetime.fromtimestamp(end, UTC),
        deadline=ask.deadline,
    )
    return _arms(arms), {"version": metric.VERSION, "until": end}


def _arms(arms: Pair[metric.Counts] | Pair[Moments]) -> MetricLook:
    stable, candidate = arms.stable, arms.candidate
    missing = _missing(stable.n == 0, candidate.n == 0)
    if isinstance(stable, Moments) and isinstance(candidate, Moments):
        return MetricLook(Means(stable, candidate), problem=missing)
    assert isinstance(stable, metric.Counts)
    assert isinstance(candidate, metric.Counts)
    return MetricLook(_look_counts(Pair(stable, candidate)), problem=missing)


def _look_counts(counts: Pair[metric.Counts]) -> Counts:
    stable, candidate = counts.stable, counts.candidate
    return Counts(stable.n, stable.events, candidate.n, candidate.events)


def _late(source: SourcePlan, ask: _Ask) -> MetricError:
    """What the source itself would have said: a look's end may come before its own deadline."""
    if source.kind == "Sql":
        return sql.late(_database(source, ask), ask.deadline)
    return prometheus.late(_server(source, ask), ask.deadline)


def _database(source: SourcePlan, ask: _Ask) -> Database:
    return Database(ask.value(source.address_key), ca=ask.value(source.ca_key))


def _server(source: SourcePlan, ask: _Ask) -> PrometheusServer:
    return PrometheusServer(
        source.url,
        token=ask.value(source.token_key),
        headers={"X-Scope-OrgID": source.tenant} if source.tenant else {},
        ca=ask.value(source.ca_key),
    )


def _missing(stable: bool, candidate: bool) -> str:
    if not stable and not candidate:
        return ""
    who = "either arm" if stable and candidate else "stable" if stable else "the candidate"
    return f"No data for {who}."


def _bad_secret(what: str) -> MetricError:
    return MetricError(
        f"The Secret {METRICS_SECRET} {what}.",
        hint="It is a Secret of this namespace; a check names the keys it needs.",
        reason="MetricSecretUnreadable",
    )
