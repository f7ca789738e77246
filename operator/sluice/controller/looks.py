"""Taking looks: reading counters of routers and pods, and the sources of metric checks, once an
interval, into the statistics.

Called by reconcile.  What it returns is not committed yet; apply commits it together with what was
decided from it, so that a crash neither loses nor repeats a look.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass, replace

import aiohttp

from sluice.api.duration import seconds
from sluice.api.meta import PORT_ADMIN
from sluice.controller.experiments import Experiments, UnitsLog, counted_elsewhere
from sluice.controller.metrics_read import MetricReader, begin
from sluice.controller.observe import World
from sluice.controller.pods import is_ready
from sluice.controller.route import Router
from sluice.errors import SluiceError
from sluice.evidence.counters import ServingPod, read_counters
from sluice.evidence.metric import Pair, Subject
from sluice.evidence.mirror import MirrorReading, build_mirror_look
from sluice.evidence.pod_minutes import Counted, count
from sluice.evidence.snapshot import Arm, Reading, build_look
from sluice.kube.client import KubeClient
from sluice.rollout import judge_experiment
from sluice.rollout.looking import Arms, Copies, absorbed, arms, copies, due
from sluice.rollout.model import MirrorSeen, Progress, Quiet, RouterView
from sluice.stats.look import Look

WARM_UP_SECONDS = 30.0
WARM_UP_LOOKS = 3
PARTIAL = "Until all answer, nothing is promoted; alarms stay on."
LONGEST = 2
"""Intervals that a look counts for at most, however long nobody looked."""


@dataclass(frozen=True)
class Looked:
    """The world with a look in its progress, and the progress that is committed so far.

    ``units`` is what an experiment's log has grown by: to be written before the commit.
    """

    world: World
    committed: Progress
    units: UnitsLog | None = None


class Looker:
    """Takes looks; keeps nothing between them but connections and copies of what is written."""

    def __init__(self, client: KubeClient, experiments: Experiments) -> None:
        self._metrics = MetricReader(client)
        self._experiments = experiments
        self._session: aiohttp.ClientSession | None = None

    async def look(
        self, world: World, router: Router, view: RouterView, now: float, *, committed: Progress
    ) -> Looked:
        """Adds a look to the progress when one is due and something can be compared.

        ``committed`` is what is written down of it; the world's may be ahead of that.  Units are
        not: what is written of them is what the log is continued from.
        """
        world = replace(
            world,
            progress=world.progress.model_copy(update={"experiment": committed.experiment}),
        )
        interval = seconds(world.spec.analysis.interval)
        found = arms(world.progress, world.roles, view)
        mirrored = copies(world.progress, world.roles)
        if not due(world.progress, interval, now):
            return Looked(world, committed)
        if mirrored is not None:
            progress = await self._take_copies(world, mirrored, interval, now)
            return Looked(replace(world, progress=progress), committed)
        if found is None:
            return Looked(_without(world, view, now), committed)
        progress, units = await self._take(world, router, found, interval, now)
        return Looked(replace(world, progress=progress), committed, units)

    async def _take(
        self, world: World, router: Router, found: Arms, interval: float, now: float
    ) -> tuple[Progress, UnitsLog | None]:
        progress = world.progress
        slots = world.roles
        stable, candidate = slots.slot_of(found.stable), slots.slot_of(found.candidate)
        assert stable is not None
        assert candidate is not None
        counters, read = await asyncio.gather(
            read_counters(self._http(), _pods(world, found.stable, found.candidate)),
            self._metrics.read(found.plan, _subject(world, found), progress.metrics, now),
        )
        pods = count(
            progress.pod_minutes,
            {r: world.pods.get(r, []) for r in (found.stable, found.candidate)},
            now,
        )
        try:
            reading = build_look(
                progress.snapshot or None,
                router.observation,
                counters,
                stable=Arm(stable, found.stable),
                candidate=Arm(candidate, found.candidate),
                weights=router.weights(world.roles),
                look_id=progress.looks,
                now=now,
                warmup=min(WARM_UP_SECONDS, WARM_UP_LOOKS * interval),
            )
        except (SluiceError, ValueError) as error:
            return _not_taken(progress, error, now), None
        progress = progress.model_copy(
            update={"look_at": now, "snapshot": reading.snapshot, "pod_minutes": pods.state}
        )
        if reading.look is None:
            # What sources counted until now belongs to other weights.
            return progress.model_copy(update={"metrics": begin(found.plan, now)}), None
        seconds_seen = min(reading.look.seconds, LONGEST * interval)
        look = replace(reading.look, seconds=seconds_seen, metrics=read.looks)
        look = _with_minutes(look, pods, found)
        said = _said(reading)
        progress = progress.model_copy(
            update={
                "empty_looks": progress.empty_looks + 1 if said else 0,
                "analysis_error": said[:512],
                "partial": bool(reading.message),
                "metrics": read.states,
            }
        )
        return await self._experiment(world, absorbed(progress, found.plan, look), found, look, now)

    async def _experiment(
        self, world: World, progress: Progress, found: Arms, look: Look, now: float
    ) -> tuple[Progress, UnitsLog | None]:
        """The progress with what units did, when an experiment runs."""
        rollout, running = progress.rollout, progress.experiment
        studied = rollout is not None and rollout.phase == "Experimenting"
        if running is None or running.damaged or not studied or found.plan.experiment is None:
            return progress, None
        if running.judge.get("v") != judge_experiment.VERSION:
            return progress, None
        if found.plan.experiment.source is not None:
            after = await counted_elsewhere(
                self._metrics, _subject(world, found), running, found, look, now
            )
            return progress.model_copy(update={"experiment": after}), None
        after, units = await self._experiments.look(
            self._http(),
            world.owner,
            running,
            found,
            _pods(world, found.stable, found.candidate),
            look,
            now,
        )
        return progress.model_copy(update={"experiment": after}), units

    async def _take_copies(
        self, world: World, found: Copies, interval: float, now: float
    ) -> Progress:
        progress = world.progress
        counters = await read_counters(self._http(), _pods(world, found.stable, ready=True))
        try:
            reading = build_mirror_look(
                progress.snapshot or None,
                counters,
                candidate=found.candidate,
                rollout=found.rollout,
                look_id=progress.looks,
                now=now,
            )
        except (SluiceError, ValueError) as error:
            return _not_taken(progress, error, now)
        progress = progress.model_copy(
            update={
                "look_at": now,
                "snapshot": reading.snapshot,
                "mirror_seen": MirrorSeen(at=now, **asdict(reading.followed)),
            }
        )
        if reading.look is None:
            return progress
        look = replace(reading.look, seconds=min(reading.look.seconds, LONGEST * interval))
        said = _said_of_copies(reading)
        progress = progress.model_copy(
            update={
                "empty_looks": progress.empty_looks + 1 if said else 0,
                "analysis_error": said[:512],
                "partial": bool(reading.message),
            }
        )
        return absorbed(progress, found.plan, look)

    def _http(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=64))
        return self._session

    async def close(self) -> None:
        """Closes the connections to pods and sources."""
        await self._metrics.close()
        if self._session is not None:
            await self._session.close()
            self._session = None


def _not_taken(progress: Progress, error: Exception, now: float) -> Progress:
    """The progress after a look that could not be taken: nothing is lost but time."""
    return progress.model_copy(
        update={
            "look_at": now,
            "empty_looks": progress.empty_looks + 1,
            "quiet": Quiet(),
            "analysis_error": str(error)[:512],
        }
    )


def _said_of_copies(reading: MirrorReading) -> str:
    """The same for a look at copies."""
    assert reading.look is not None
    if reading.message:
        return f"{reading.message} {PARTIAL}"
    return "" if reading.look.candidate.n else "The candidate answered no copy."


def _with_minutes(look: Look, pods: Counted, found: Arms) -> Look:
    return replace(
        look,
        stable=replace(look.stable, minutes=pods.minutes[found.stable]),
        candidate=replace(look.candidate, minutes=pods.minutes[found.candidate]),
    )


def _subject(world: World, found: Arms) -> Subject:
    owner = world.owner
    return Subject(owner.namespace, owner.name, Pair(found.stable, found.candidate))


def _said(reading: Reading) -> str:
    """What is wrong with a look that was taken; empty for a good one."""
    assert reading.look is not None
    if reading.message:
        return f"{reading.message} {PARTIAL}"
    return "" if reading.look.candidate.n else "The candidate got no request."


def _without(world: World, view: RouterView, now: float) -> World:
    """Says so when routers cannot be read while something should be compared."""
    progress = world.progress
    if not progress.judge or view.complete or (progress.rollout is None and progress.watch is None):
        return world
    changed = progress.model_copy(
        update={
            "look_at": now,
            "empty_looks": progress.empty_looks + 1,
            "quiet": Quiet(),
            "analysis_error": (view.message or "No router can be read.")[:512],
        }
    )
    return replace(world, progress=changed)


def _pods(world: World, *revisions: str, ready: bool = False) -> list[ServingPod]:
    """Pods that have an address; with ``ready`` only those that users may reach."""
    out = []
    for revision in revisions:
        for pod in world.pods.get(revision, []):
            if ready and not is_ready(pod):
                continue
            status = pod.get("status", {})
            address = status.get("podIP")
            # One that has ended, such as an evicted one, would be waited for until it is deleted.
            if address and status.get("phase") not in ("Failed", "Succeeded"):
                meta = pod["metadata"]
                out.append(ServingPod(meta["uid"], meta["name"], revision, address, PORT_ADMIN))
    return out
