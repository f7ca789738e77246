"""The units of experiments that run: read from pods at each look, kept in memory and in a log.

Called by looks, which puts what is returned into the progress, and by apply, which writes the log
before it commits that progress.  The commit says how much of the log counts, so a crash between the
two leaves a tail that nobody reads; the same records are then taken from the pods again.  What is
in memory is only a copy: whenever it is not exactly what was committed, it is read anew.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import aiohttp

from sluice.api.meta import units_name
from sluice.controller.ensure import NameConflictError
from sluice.controller.metrics_read import MetricReader
from sluice.evidence.counters import ServingPod
from sluice.evidence.journals import Journals, read_journals
from sluice.evidence.metric import VERSION, Subject
from sluice.evidence.units_store import CANDIDATE, STABLE, Stratum, UnitsError, UnitStore
from sluice.kube.client import KubeClient
from sluice.kube.errors import KubeError, NotFoundError
from sluice.kube.store import Key
from sluice.objects.common import Owner
from sluice.objects.units import MOST_BYTES, PART_BYTES, owned_by, part_of, parts, units_map
from sluice.rollout import judge_experiment as judging
from sluice.rollout.judge_experiment import ExperimentLook
from sluice.rollout.looking import Arms
from sluice.rollout.model import ExperimentProgress
from sluice.rollout.plan import CheckPlan, ExperimentPlan
from sluice.stats.counts import Counts
from sluice.stats.look import Look, Means, MetricLook
from sluice.stats.units import Pairs

FEWEST_TOGETHER = 50
"""Units that are compared with each other; fewer wait for the next, unless none will come."""
REMEMBERED = 1000
READ_SECONDS = 5.0
"""Guardrails on the same look wait for the experiment's log."""


@dataclass
class Units:
    """One experiment's store, and the part of its log that is not full yet."""

    id: str
    store: UnitStore
    log_bytes: int = 0
    log_crc: int = 0
    tail: bytes = b""
    uids: dict[int, str] = field(default_factory=dict)
    sealed: int = 0

    def follows(self, running: ExperimentProgress) -> bool:
        """Whether this is what was committed."""
        mine = (self.id, self.log_bytes, self.log_crc)
        return mine == (running.id, running.log_bytes, running.log_crc)

    def append(self, more: bytes) -> None:
        """Remembers what the log has grown by."""
        self.tail += more
        self.log_bytes += len(more)
        self.log_crc = zlib.crc32(more, self.log_crc)


@dataclass(frozen=True)
class UnitsLog:
    """What is to be written before the commit: ``tail`` is the log from part ``first`` on."""

    units: Units
    first: int
    tail: bytes


class Experiments:
    """The stores of this process, one per ModelDeployment that experiments."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client
        self._units: dict[Key, Units] = {}

    async def look(
        self,
        session: aiohttp.ClientSession,
        owner: Owner,
        running: ExperimentProgress,
        found: Arms,
        pods: Sequence[ServingPod],
        look: Look,
        now: float,
    ) -> tuple[ExperimentProgress, UnitsLog | None]:
        """The experiment with one more look in it, and what its log has grown by.

        When the log cannot be read for now, nothing changes; when it never will be, ``damaged``
        says so and the experiment begins again.
        """
        asked = found.plan.experiment
        assert asked is not None
        try:
            async with asyncio.timeout(READ_SECONDS):
                units = await self._held(owner, running, asked)
        except UnitsError as error:
            return running.model_copy(update={"damaged": str(error)[:512]}), None
        except (KubeError, TimeoutError) as error:
            why = error.message if isinstance(error, KubeError) else "the API server is too slow."
            said = f"The units of the experiment cannot be read: {why}"
            return running.model_copy(update={"message": said[:300]}), None
        journals = await read_journals(
            session,
            {found.stable: STABLE, found.candidate: CANDIDATE},
            pods,
            running.id,
            running.cursors,
            now=now,
            since=running.since,
        )
        return _with(running, asked, units, journals, look, found.weight)

    async def _held(
        self, owner: Owner, running: ExperimentProgress, asked: ExperimentPlan
    ) -> Units:
        key = (owner.namespace, owner.name)
        units = self._units.get(key)
        if units is None or not units.follows(running):
            units = await self._read(owner, running, asked)
            self._remember(key, units)
        return units

    def _remember(self, key: Key, units: Units) -> None:
        self._units.pop(key, None)
        while len(self._units) >= REMEMBERED:
            del self._units[next(iter(self._units))]
        self._units[key] = units

    async def _read(
        self, owner: Owner, running: ExperimentProgress, asked: ExperimentPlan
    ) -> Units:
        """The store as the committed part of the log has it."""
        log, uids = b"", {}
        for number in range(parts(running.log_bytes)):
            name = units_name(owner.name, number)
            found = await self._client.find("ConfigMap", owner.namespace, name)
            part = part_of(found, running.id) if found is not None else None
            if found is None or part is None:
                raise UnitsError(
                    f"ConfigMap {name}, a part of the experiment's units, is gone.",
                    hint="The experiment begins again.",
                )
            uids[number] = str(found["metadata"]["uid"])
            log += part
        log = log[: running.log_bytes]
        if len(log) < running.log_bytes or zlib.crc32(log) != running.log_crc:
            raise UnitsError(
                "The log of the experiment's units is not what was committed.",
                hint="The experiment begins again.",
            )
        store = UnitStore(
            asked.kind, since=running.since, window=asked.window_seconds, most=asked.max_units
        )
        store.load(log)
        full = len(log) // PART_BYTES
        return Units(
            running.id, store, len(log), running.log_crc, log[full * PART_BYTES :], uids, full
        )

    def forget(self, key: Key) -> None:
        """The ModelDeployment is gone, and its log with it."""
        self._units.pop(key, None)

    # Called by apply

    async def write(self, owner: Owner, log: UnitsLog) -> None:
        """Writes the parts of the log that have changed.  Raises NameConflictError, KubeError."""
        units = log.units
        pieces = [log.tail[at : at + PART_BYTES] for at in range(0, len(log.tail), PART_BYTES)]
        for number, piece in enumerate(pieces, log.first):
            wanted = units_map(owner, number, units.id, piece)
            uid = units.uids.get(number) or await self._present(owner, number, units.id)
            if uid is None:
                stored = await self._client.create(wanted)
            else:
                stored = await self._client.apply(wanted, uid=uid)
            units.uids[number] = str(stored["metadata"]["uid"])
        for number in range(units.sealed, log.first):
            # Committed before this look, and full: nobody may change it any more.
            name = units_name(owner.name, number)
            await self._client.patch_merge("ConfigMap", owner.namespace, name, {"immutable": True})
        units.sealed = max(units.sealed, log.first)
        units.tail = pieces[-1] if len(pieces[-1]) < PART_BYTES else b""

    async def _present(self, owner: Owner, number: int, experiment: str) -> str | None:
        """The uid of our own ConfigMap under the name; one of an older experiment goes."""
        name = units_name(owner.name, number)
        present = await self._client.find("ConfigMap", owner.namespace, name)
        if present is None:
            return None
        if not owned_by(present, owner):
            raise NameConflictError(
                f"ConfigMap {name} exists and is not ours; it is left untouched.",
                hint=f"Rename the ModelDeployment, or delete configmap/{name}.",
            )
        uid = str(present["metadata"]["uid"])
        if not present.get("immutable") and part_of(present, experiment) is not None:
            return uid
        await self._client.delete("ConfigMap", owner.namespace, name, uid=uid)
        return None

    async def remove(self, owner: Owner, count: int) -> None:
        """Removes the parts of an experiment that is over."""
        for number in range(count):
            name = units_name(owner.name, number)
            present = await self._client.find("ConfigMap", owner.namespace, name)
            if present is not None and owned_by(present, owner):
                try:
                    uid = str(present["metadata"]["uid"])
                    await self._client.delete("ConfigMap", owner.namespace, name, uid=uid)
                except NotFoundError:
                    continue
        self.forget((owner.namespace, owner.name))


async def counted_elsewhere(
    reader: MetricReader,
    subject: Subject,
    running: ExperimentProgress,
    found: Arms,
    look: Look,
    now: float,
) -> ExperimentProgress:
    """The experiment with one more look in it, when a database or Prometheus counts the arms."""
    asked = found.plan.experiment
    assert asked is not None
    assert asked.source is not None
    name = asked.metric
    check = CheckPlan(name, "Metric", 1.0, None, "Show", source=asked.source)
    states = running.source
    if not states and asked.source.kind == "Sql":
        # Windows that close earlier are of units that came before the experiment, at other weights.
        states = {name: {"version": VERSION, "until": running.since + asked.window_seconds}}
    read = await reader.read(replace(found.plan, checks=(check,)), subject, states, now)
    update: dict[str, object] = {"source": read.states, "message": ""}
    if name in read.looks:
        arms, problem = _arms(asked, read.looks[name])
        update["message"] = problem[:300]
        if arms is not None:
            one = ExperimentLook(look.id, look.seconds, found.weight, (arms[0].n, arms[1].n), *arms)
            update["judge"] = judging.absorb(asked, running.judge, one)
    return running.model_copy(update=update)


def _arms(asked: ExperimentPlan, look: MetricLook) -> tuple[tuple[Pairs, Pairs] | None, str]:
    """A source's answer as sums over units, and what is wrong with it."""
    data = look.data
    if data is None:
        return None, look.problem
    if isinstance(data, Counts) and asked.kind == "Conversion":
        counted = ((data.stable_n, data.stable_x), (data.candidate_n, data.candidate_x))
        stable, candidate = (Pairs(n, x, x, 0.0, 0.0, 0.0) for n, x in counted)
        return (stable, candidate), look.problem
    if isinstance(data, Means) and asked.kind == "Mean":
        moments = (data.stable, data.candidate)
        stable, candidate = (Pairs(m.n, m.total, m.squares, 0.0, 0.0, 0.0) for m in moments)
        return (stable, candidate), look.problem
    wanted = "n and events" if asked.kind == "Conversion" else "n, sum and sumsq"
    return None, f"A {asked.kind} needs a query with the columns {wanted}."


def _with(
    running: ExperimentProgress,
    asked: ExperimentPlan,
    units: Units,
    journals: Journals,
    look: Look,
    weight: int,
) -> tuple[ExperimentProgress, UnitsLog | None]:
    store, seen = units.store, units.store.seen
    first, tail = units.log_bytes // PART_BYTES, units.tail
    not_counted, unkept = seen.not_counted, seen.unkept
    more = store.add(journals.exposures, journals.outcomes, MOST_BYTES - units.log_bytes)
    units.append(more)
    known = max(running.known, journals.until)
    closed, stratum = _closed(asked, store, running.closed, known)
    lost = running.lost + journals.lost + seen.unkept - unkept
    before = running.judge["exposed"]
    state = judging.absorb(
        asked,
        running.judge,
        ExperimentLook(
            id=look.id,
            seconds=look.seconds,
            weight=weight,
            exposed=(seen.exposed[STABLE] - before[0], seen.exposed[CANDIDATE] - before[1]),
            stable=stratum.stable if stratum else judging.NO_PAIRS,
            candidate=stratum.candidate if stratum else judging.NO_PAIRS,
            crossed=seen.crossed,
            lost=lost,
        ),
    )
    after = running.model_copy(
        update={
            "judge": state,
            "cursors": journals.cursors,
            "known": known,
            "closed": closed,
            "log_bytes": units.log_bytes,
            "log_crc": units.log_crc,
            "open_units": store.open(closed),
            "not_counted": running.not_counted + seen.not_counted - not_counted,
            "lost": lost,
            "message": journals.message[:300],
        }
    )
    return after, UnitsLog(units, first, tail + more) if more else None


def _closed(
    asked: ExperimentPlan, store: UnitStore, closed: float, known: float
) -> tuple[float, Stratum | None]:
    """Up to when windows are compared now, and the sums of those that have closed since."""
    due = store.due(closed, known)
    last = len(store) >= asked.max_units and store.open(known) == 0
    if due == 0 or (due < FEWEST_TOGETHER and not last):
        return closed, None
    return known, store.close(closed, known)
