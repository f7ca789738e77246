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
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
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
from sluice.kube.errors import ForbiddenError
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

SECRET_SECONDS = 30.0
REMEMBERED_SECRETS = 1000


@dataclass(frozen=True)
class MetricsRead:
    """What sources gave, by check, and how far each is read: committed with the look."""

    looks: dict[str, MetricLook]
    states: States


def begin(plan: Plan, now: float) -> States:
    """Where reading begins when the weights have just changed: nothing before ``now`` counts."""
    return {c.name: _begun(c.source, now) for c in plan.checks if c.source is not None}


def _begun(source: SourcePlan, now: float) -> Any:
    if source.kind == "Sql":
        return {"version": metric.VERSION, "until": now}
    return metric.begin(now) if source.events else {}


class MetricReader:
    """Reads sources; keeps connections, and Secrets for half a minute."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client
        self._session: aiohttp.ClientSession | None = None
        self._secrets: OrderedDict[str, tuple[float, dict[str, str]]] = OrderedDict()

    async def read(
        self, plan: Plan, subject: Subject, states: Mapping[str, Any], now: float
    ) -> MetricsRead:
        """Every source that has been begun; one that has not begins now.

        Takes at most READ_SHARE of the plan's interval, and never raises for a source.
        """
        begun = begin(plan, now)
        asked = [c for c in plan.checks if c.source is not None and c.name in states]
        deadline = min(LONGEST_READ, max(SHORTEST_READ, READ_SHARE * plan.interval_seconds))
        answers = await asyncio.gather(
            *(self._one(plan, c, subject, states[c.name], now, deadline) for c in asked)
        )
        looks, after = {}, {**begun, **{name: states[name] for name in begun if name in states}}
        for check, (look, state) in zip(asked, answers, strict=True):
            after[check.name] = state
            if look is not None:
                looks[check.name] = look
        return MetricsRead(looks, after)

    async def close(self) -> None:
        """Closes connections to sources."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _one(
        self,
        plan: Plan,
        check: CheckPlan,
        subject: Subject,
        state: Any,
        now: float,
        deadline: float,
    ) -> tuple[MetricLook | None, Any]:
        source = check.source
        assert source is not None
        try:
            async with asyncio.timeout(deadline):
                secret = await self._secret(subject.namespace, source)
                if source.kind == "Sql":
                    return await _read_sql(source, secret, subject, state, now, deadline)
                server = _server(source, secret)
                if source.events:
                    return await self._counts(server, source, subject, state, now, deadline)
                interval = plan.interval_seconds
                return await self._values(server, source, subject, interval, now, deadline), state
        except TimeoutError:
            said = f"The source did not answer within {deadline:g} s."
            return MetricLook(problem=said, error=True), state
        except SluiceError as error:
            return MetricLook(problem=str(error), error=True), state
        except Exception as error:
            # Whatever a source does, the other checks of this look are judged.
            log.exception("%s/%s: check %s", subject.namespace, subject.name, check.name)
            said = f"Reading failed: {type(error).__name__}."
            return MetricLook(problem=said, error=True), state

    async def _counts(
        self,
        server: PrometheusServer,
        source: SourcePlan,
        subject: Subject,
        state: Any,
        now: float,
        deadline: float,
    ) -> tuple[MetricLook, Any]:
        since = _number(state, "since")
        totals = await prometheus.read_totals(
            self._http(),
            server,
            source.events,
            source.total,
            subject,
            interval=now - since,
            at=now,
            deadline=deadline,
        )
        counted = metric.count(state, totals)
        stable, candidate = counted.counts.stable, counted.counts.candidate
        data = Counts(stable.n, stable.events, candidate.n, candidate.events)
        missing = _missing(totals.stable is None, totals.candidate is None)
        return MetricLook(data, problem=missing), counted.state

    async def _values(
        self,
        server: PrometheusServer,
        source: SourcePlan,
        subject: Subject,
        interval: float,
        now: float,
        deadline: float,
    ) -> MetricLook:
        values = await prometheus.read_values(
            self._http(), server, source.query, subject, interval=interval, at=now,
            deadline=deadline,
        )  # fmt: skip
        if values.stable is None or values.candidate is None:
            return MetricLook(problem=_missing(values.stable is None, values.candidate is None))
        return MetricLook(Values(values.stable, values.candidate))

    async def _secret(self, namespace: str, source: SourcePlan) -> dict[str, str]:
        """The Secret's values that the source needs, by key."""
        if not source.keys:
            return {}
        at, values = self._secrets.get(namespace, (0.0, {}))
        if time.monotonic() - at > SECRET_SECONDS or not set(source.keys) <= set(values):
            values = await self._fetch(namespace)
            self._secrets[namespace] = (time.monotonic(), values)
            while len(self._secrets) > REMEMBERED_SECRETS:
                self._secrets.popitem(last=False)
        missing = [key for key in source.keys if not values.get(key)]
        if missing:
            raise _bad_secret(f"has no key {missing[0]}, or nothing under it")
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


async def _read_sql(
    source: SourcePlan,
    secret: Mapping[str, str],
    subject: Subject,
    state: Any,
    now: float,
    deadline: float,
) -> tuple[MetricLook | None, Any]:
    start, end = _number(state, "until"), now - source.delay
    if end <= start:
        return None, state
    database = Database(secret[source.address_key], ca=secret.get(source.ca_key, ""))
    arms = await sql.read_arms(
        database,
        source.query,
        subject.revisions,
        start=datetime.fromtimestamp(start, UTC),
        end=datetime.fromtimestamp(end, UTC),
        deadline=deadline,
    )
    return _arms(arms), {"version": metric.VERSION, "until": end}


def _arms(arms: Pair[metric.Counts] | Pair[Moments]) -> MetricLook:
    stable, candidate = arms.stable, arms.candidate
    missing = _missing(stable.n == 0, candidate.n == 0)
    if isinstance(stable, Moments) and isinstance(candidate, Moments):
        return MetricLook(Means(stable, candidate), problem=missing)
    assert isinstance(stable, metric.Counts)
    assert isinstance(candidate, metric.Counts)
    return MetricLook(
        Counts(stable.n, stable.events, candidate.n, candidate.events), problem=missing
    )


def _server(source: SourcePlan, secret: Mapping[str, str]) -> PrometheusServer:
    return PrometheusServer(
        source.url,
        token=secret.get(source.token_key, ""),
        headers={"X-Scope-OrgID": source.tenant} if source.tenant else {},
        ca=secret.get(source.ca_key, ""),
    )


def _missing(stable: bool, candidate: bool) -> str:
    if not stable and not candidate:
        return ""
    who = "either arm" if stable and candidate else "stable" if stable else "the candidate"
    return f"No data for {who}."


def _number(state: Any, name: str) -> float:
    try:
        return float(state[name])
    except (KeyError, TypeError, ValueError):
        raise MetricError("How far the source was read is not known.") from None


def _bad_secret(what: str) -> MetricError:
    return MetricError(
        f"The Secret {METRICS_SECRET} {what}.",
        hint="It is a Secret of this namespace; a check names the keys it needs.",
        reason="MetricSecretUnreadable",
    )
