"""A small world for ``decide``: records, routers with memory and files, pods, jobs and a clock.

Decisions are applied write by write in the order of ``sluice.controller.apply``; a test may cut the
writes short (a kill), restart routers, serve stale reads or let an operator sleep.
"""

from __future__ import annotations

import copy
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from sluice.api.modeldeployment import ModelDeploymentSpec
from sluice.api.modelrevision import PackageInfo, Verdict
from sluice.api.status import Condition, GateStatus
from sluice.api.trustpolicy import TrustPolicySpec
from sluice.controller.apply import sheds
from sluice.rollout import judge_experiment
from sluice.rollout.decide import decide
from sluice.rollout.identity import source_hash
from sluice.rollout.looking import Arms, absorbed, arms, copies, due
from sluice.rollout.model import (
    Decision,
    GatesView,
    Inputs,
    MirrorOrder,
    MirrorSeen,
    PodsView,
    Progress,
    ResolveView,
    Revision,
    Roles,
    RouterView,
    Trouble,
)
from sluice.rollout.states import prove
from sluice.stats.look import ArmLook, Cell, Look, MetricLook, MirrorLook
from sluice.stats.units import Pairs

BASE = {
    "rollout": {
        "steps": [
            {"weight": 5, "minRequests": 50, "minDuration": "5s"},
            {"weight": 25, "minRequests": 50, "minDuration": "5s"},
            {"weight": 50, "minRequests": 50, "minDuration": "5s"},
        ],
        "watch": {"duration": "60s", "holdback": 10, "minRequests": 100},
    },
    "analysis": {"interval": "2s"},
}


def digest_of(letter: str) -> str:
    """A package digest for the model called ``letter``."""
    return "sha256:" + (f"{ord(letter):02x}" * 32)


def spec_for(letter: str, **changes: Any) -> dict[str, Any]:
    """A spec that asks for the model called ``letter``."""
    return {**BASE, "model": {"uri": f"s3://models/{letter}"}, **changes}


class ConflictError(Exception):
    """The API server refuses a write: somebody else wrote in between."""


def _spread(n: int) -> dict[int, int]:
    """``n`` answers with latencies over some 40 bins."""
    bins = Counter(200 + (7 * i) % 41 for i in range(n))
    return dict(bins)


@dataclass
class RouterPod:
    """A router: what its memory does now, and what it would read after a restart."""

    memory: Roles = field(default_factory=Roles)
    file: Roles = field(default_factory=Roles)
    pointed: set[str] = field(default_factory=set)
    up: bool = True

    def restart(self) -> None:
        self.memory = Roles(stable=self.file.stable, slots=self.file.slots)
        self.pointed = {self.file.stable} if self.file.stable else set()

    def shares(self) -> dict[str, int]:
        out = {}
        m = self.memory
        if m.stable:
            out[m.stable] = 100 - m.weight - m.holdback
        if m.candidate and m.weight:
            out[m.candidate] = m.weight
        if m.previous and m.holdback:
            out[m.previous] = m.holdback
        return {r: s for r, s in out.items() if s > 0}


@dataclass
class SimWorld:
    """Everything outside the decision."""

    spec: dict[str, Any]
    now: float = 1_000_000.0
    generation: int = 1
    annotations: dict[str, str] = field(default_factory=dict)
    revisions: dict[str, Revision] = field(default_factory=dict)
    progress: Progress = field(default_factory=Progress)
    routers: list[RouterPod] = field(default_factory=lambda: [RouterPod(), RouterPod()])
    wanted: dict[str, int] = field(default_factory=dict)
    ready: dict[str, int] = field(default_factory=dict)
    conditions: tuple[Condition, ...] = ()
    status: dict[str, Any] = field(default_factory=dict)
    policies: tuple[TrustPolicySpec, ...] = ()
    resolved: bool = False
    gates_for: str | None = None
    rate: float = 400.0
    errors: dict[str, float] = field(default_factory=dict)
    differs: dict[str, float] = field(default_factory=dict)
    """Digest -> share of answers that differ from stable's."""
    mirror_files: dict[str, MirrorOrder | None] = field(default_factory=dict)
    mirrors: dict[str, list[MirrorOrder | None]] = field(default_factory=dict)
    """Revision -> what each of its two pods has read."""
    mirror_speed: float = 1.0
    """Chance a second that a pod reads its file again."""
    copied: Counter[str] = field(default_factory=Counter)
    """Revision -> copies it answered."""
    mirrored_beside_users: bool = False
    conversions: dict[str, float] = field(default_factory=dict)
    feedback_shut: bool = False
    """Share of converting units by package digest, in an experiment."""
    routed_share: float | None = None
    """Share of requests that the candidate really gets in its steps; None: as its weight says."""
    bad_pods: dict[str, list[str]] = field(default_factory=dict)
    """Digest -> pods that fail whatever they get, one after the other: the next one begins when
    the one before has been replaced.  Their siblings are as ``errors`` says."""
    replaced: list[str] = field(default_factory=list)
    split: float | None = None
    """Share of units that the candidate really gets; None: as planned."""
    broken_gate: set[str] = field(default_factory=set)
    crashing: set[str] = field(default_factory=set)
    classes: dict[str, str] = field(default_factory=dict)
    signatures: dict[str, str] = field(default_factory=dict)
    reported: str = ""
    """The signature that the resolving job found when it ran."""
    writes: int = 0
    notes: list[str] = field(default_factory=list)
    got_traffic: set[str] = field(default_factory=set)
    rng: random.Random = field(default_factory=lambda: random.Random(7))
    deleting: bool = False
    requeue: float | None = None
    image: str = "sluice:1"
    policies_readable: bool = True
    conflicts: tuple[str, ...] = ()
    fetched: ResolveView | None = None
    gate_report: GatesView | None = None
    troubles: dict[str, Trouble] = field(default_factory=dict)
    stopped_traffic: bool = False
    sources: dict[str, Callable[[], MetricLook]] = field(default_factory=dict)
    """What the source of a metric check gives at a look."""
    slow_jobs: bool = False
    version: int = 0
    copied_roles: Roles = field(default_factory=Roles)
    past: list[SimWorld] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    """Every event of a move, in order."""

    # What the decision sees

    @property
    def letter(self) -> str:
        return str(self.spec["model"]["uri"]).rsplit("/", 1)[-1][0]

    def revision_of(self, letter: str) -> str | None:
        """The newest revision of the model called ``letter``."""
        found = [r.hash for r in self.revisions.values() if r.package.digest == digest_of(letter)]
        return found[-1] if found else None

    @property
    def roles(self) -> Roles:
        return self.progress.roles or Roles()

    def parsed(self) -> ModelDeploymentSpec:
        return ModelDeploymentSpec.model_validate(self.spec)

    def view(self) -> RouterView:
        up = [r for r in self.routers if r.up]
        roles = self.roles
        weights = [r.shares().get(roles.candidate or "-", 0) for r in up]
        held = [r.shares().get(roles.previous or "-", 0) for r in up]
        stables = {r.memory.stable for r in up}
        pointed = set.intersection(*(r.pointed for r in up)) if up else set()
        listed = {r for r in pointed if self.ready.get(r, 0) > 0}
        return RouterView(
            pods=len(self.routers),
            reachable=len(up),
            ready=len(up),
            stable=stables.pop() if len(stables) == 1 else None,
            weight_low=min(weights, default=None),
            weight_high=max(weights, default=None),
            holdback_low=min(held, default=None),
            holdback_high=max(held, default=None),
            pointed=frozenset(listed),
            carrying=frozenset(s for r in up for s in r.shares()),
            feedback_shut=self.feedback_shut,
        )

    def inputs(self) -> Inputs:
        spec = self.parsed()
        return Inputs(
            name="iris",
            namespace="default",
            generation=self.generation,
            spec=spec,
            deleting=self.deleting,
            annotations=dict(self.annotations),
            conditions=self.conditions,
            revisions=dict(self.revisions),
            roles=self.roles,
            progress=self.progress,
            pods={r: self._pods(r) for r in self.wanted},
            router=self.view(),
            resolve=self._resolve(),
            gates=self._gates(),
            policies=self.policies,
            policies_readable=self.policies_readable,
            default_image=self.image,
            url="http://iris",
            now=self.now,
            conflicts=self.conflicts,
        )

    def _pods(self, revision: str) -> PodsView:
        wanted, ready = self.wanted[revision], self.ready.get(revision, 0)
        trouble = self.troubles.get(revision)
        if ready < wanted and trouble is None:
            crash = revision in self.crashing
            trouble = Trouble("Crash" if crash else "Pending", "exit 1", models_fault=crash)
        return PodsView(wanted=wanted, ready=ready, exists=True, trouble=trouble)

    def _resolve(self) -> ResolveView:
        if not self.resolved:
            return ResolveView()
        if self.slow_jobs:
            return ResolveView("Running")
        if self.fetched is not None:
            return self.fetched
        kind: Any = self.classes.get(self.letter, "Data")
        package = PackageInfo.model_validate(
            {
                "digest": digest_of(self.letter),
                "format": "onnx",
                "class": kind,
                "signature": self.reported,
            }
        )
        return ResolveView("Succeeded", package=package)

    def _gates(self) -> GatesView:
        rollout = self.progress.rollout
        if self.gates_for is None or rollout is None or self.gates_for != rollout.revision:
            return GatesView()
        if self.slow_jobs:
            return GatesView("Running")
        if self.gate_report is not None:
            return self.gate_report
        bad = self.revisions[self.gates_for].package.digest in self.broken_gate
        gate = GateStatus(name="quality", verdict="Fail" if bad else "Pass", message="rocAuc 0.5")
        return GatesView("Done", gates=(gate,))

    # What happens outside

    def ask_for(self, letter: str) -> None:
        """The user changes the model's address: the first letter is the model."""
        self.change(model={"uri": f"s3://models/{letter}"})
        self.resolved = False

    def change(self, **blocks: Any) -> None:
        """The user changes blocks of the spec."""
        self.spec = {**self.spec, **blocks}
        self.generation += 1

    def command(self, verb: str, letter: str | None = None, value: str = "now") -> None:
        """The user annotates; ``letter`` names the model that the command is meant for."""
        named = digest_of(letter).removeprefix("sha256:")[:12] if letter else value
        self.annotations[f"sluice.dev/{verb}"] = named

    def lose_evidence(self) -> None:
        """The evidence ConfigMap is deleted; the router's still says who serves."""
        self.progress = Progress(roles=self.copied_roles)
        self.version += 1

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        for router in self.routers:
            self.got_traffic |= set(router.shares()) if router.up else set()
        self._read_mirror_files()
        for revision, wanted in self.wanted.items():
            if revision in self.crashing or revision in self.troubles:
                self.ready[revision] = 0
            else:
                self.ready[revision] = wanted

    def _read_mirror_files(self) -> None:
        served = {s for r in self.routers for s in r.shares() if r.up}
        for revision, wanted in self.mirror_files.items():
            pods = self.mirrors.setdefault(revision, [None, None])
            for number in range(len(pods)):
                if self.rng.random() < self.mirror_speed:
                    pods[number] = wanted
            now = self.progress.rollout.id if self.progress.rollout is not None else ""
            copied = {p.candidate for p in pods if p is not None and p.rollout == now}
            self.mirrored_beside_users |= bool(copied & served)

    def _copies(self) -> Progress | None:
        """The progress with a look at copies in it; None when nothing is mirrored."""
        found = copies(self.progress, self.roles)
        if found is None or not due(self.progress, 2.0, self.now):
            return None
        pods = self.mirrors.get(found.stable, [None, None])
        on = [p for p in pods if p is not None and p.candidate == found.candidate]
        seen = MirrorSeen(
            at=self.now, pods=2, answered=2, mirroring=len(on), quiet=pods.count(None)
        )
        after = self.progress.model_copy(update={"look_at": self.now, "mirror_seen": seen})
        key = {"mirror": [found.rollout, found.candidate]}
        if self.progress.snapshot != key or not on:
            return after.model_copy(update={"snapshot": key})
        traffic = 0.0 if self.stopped_traffic else self.rate * 2.0
        n = int(traffic * sum(p.percent for p in on) / 200)
        self.copied[found.candidate] += n
        stable, candidate = (self._arm(r, n) for r in (found.stable, found.candidate))
        good = max(0, n - stable.model_errors - candidate.model_errors)
        rate = self.differs.get(self.revisions[found.candidate].package.digest, 0.0)
        other = sum(self.rng.random() < rate for _ in range(good)) if rate else 0
        look = Look(
            id=self.progress.looks,
            seconds=2.0,
            weight=0,
            stable=replace(stable, latency={}, load_per_pod=0.0),
            candidate=replace(candidate, latency={}, load_per_pod=0.0),
            mirror=MirrorLook(compared=good, disagreed=other),
        )
        return absorbed(after, found.plan, look)

    def look(self) -> Progress:
        """The progress with a look in it, when one is due; not committed yet."""
        mirrored = self._copies()
        if mirrored is not None:
            return mirrored
        found = arms(self.progress, self.roles, self.view())
        interval = 2.0
        if self.stopped_traffic or found is None or not due(self.progress, interval, self.now):
            return self.progress
        key = {"weights": [found.stable, found.candidate, found.weight]}
        if self.progress.snapshot != key:
            return self.progress.model_copy(update={"snapshot": key, "look_at": self.now})
        total = self.rate * interval
        share = found.weight / 100
        if self.routed_share is not None and self.progress.rollout is not None:
            share = self.routed_share
        look = Look(
            id=self.progress.looks,
            seconds=interval,
            weight=found.weight,
            stable=self._arm(found.stable, int(total * (1 - share))),
            candidate=self._arm(found.candidate, int(total * share)),
            metrics={name: source() for name, source in self.sources.items()},
        )
        empty = 0 if look.candidate.n else self.progress.empty_looks + 1
        said = "The candidate got no request." if empty else ""
        after = absorbed(self.progress, found.plan, look).model_copy(
            update={"look_at": self.now, "empty_looks": empty, "analysis_error": said}
        )
        return self._units(after, found, look)

    def _units(self, progress: Progress, found: Arms, look: Look) -> Progress:
        """Units come, and convert or not, at once: windows are the store's and not the decision's.

        Each is a tenth of a request.
        """
        running, rollout = progress.experiment, progress.rollout
        studied = rollout is not None and rollout.phase == "Experimenting"
        plan = found.plan.experiment
        if running is None or plan is None or not studied or running.damaged:
            return progress
        total = (look.stable.n + look.candidate.n) // 10
        share = found.weight / 100 if self.split is None else self.split
        candidate = sum(self.rng.random() < share for _ in range(total))
        arms = [self._converted(found.stable, total - candidate)]
        arms.append(self._converted(found.candidate, candidate))
        state = judge_experiment.absorb(
            plan,
            running.judge,
            judge_experiment.ExperimentLook(
                look.id, look.seconds, found.weight, (arms[0].n, arms[1].n), *arms
            ),
        )
        size = running.log_bytes + 13 * total
        changed = running.model_copy(update={"judge": state, "log_bytes": size})
        return progress.model_copy(update={"experiment": changed})

    def _converted(self, revision: str, n: int) -> Pairs:
        rate = self.conversions.get(self.revisions[revision].package.digest, 0.2)
        y = float(sum(self.rng.random() < rate for _ in range(n)))
        return Pairs(n, y, y, 0.0, 0.0, 0.0)

    def _arm(self, revision: str, n: int) -> ArmLook:
        p = self.errors.get(self.revisions[revision].package.digest, 0.0)
        bad = sum(self.rng.random() < p for _ in range(n)) if p else 0
        pods: tuple[tuple[str, Cell], ...] = (("good", (n, 0, bad)),)
        failing = self.bad_pods.get(self.revisions[revision].package.digest)
        if failing:
            half, bad = n // 2, bad // 2
            pods = ((failing[0], (half, 0, half)), ("good", (n - half, 0, bad)))
            bad += half
        return ArmLook(
            n=n,
            model_errors=bad,
            latency=_spread(max(0, n - bad)),
            pods=tuple(cell for _, cell in pods),
            pod_names=tuple(name for name, _ in pods),
            buckets=self._buckets(n, bad) if "unit" in self.spec.get("traffic", {}) else {},
            load_per_pod=100.0,
        )

    def _buckets(self, n: int, bad: int) -> dict[int, Cell]:
        """Requests of sticky users over half of the buckets, failures among them at random."""
        rows = Counter(self.rng.randrange(250) for _ in range(n))
        failed = Counter(self.rng.sample(list(rows.elements()), bad))
        return {b: (count, 0, failed[b]) for b, count in rows.items()}

    # Reconciling

    def reconcile(self, kill_after: int | None = None, stale: int = 0) -> Decision:
        """Observe, look, decide, apply; ``kill_after`` writes the process dies.

        ``stale``: everything from the cache is that many reconciles old, as a second leader's for a
        moment; routers are asked directly.
        """
        seen = self._seen(stale)
        committed = seen.progress
        seen.progress = seen.look()
        decision = decide(seen.inputs())
        for move in decision.moves:
            prove(move)
        for number, write in enumerate(self._writes(decision, committed, seen.version)):
            if kill_after is not None and number >= kill_after:
                return decision
            try:
                write()
            except ConflictError:
                return decision
            self.writes += 1
        self.events += [m.event for m in decision.moves]
        self.notes += [f"{n.reason}: {n.message}" for n in decision.notes]
        self.requeue = decision.requeue
        return decision

    def _seen(self, stale: int) -> SimWorld:
        """What a process sees: its cache, and routers as they are."""
        now = copy.copy(self)
        now.past = []
        for name in ("revisions", "annotations", "wanted", "ready"):
            setattr(now, name, dict(getattr(self, name)))
        self.past = [*self.past[-8:], now]
        seen = copy.copy(self.past[max(0, len(self.past) - 1 - stale)])
        seen.routers, seen.ready, seen.now, seen.rng = self.routers, self.ready, self.now, self.rng
        return seen

    def _replace(self, name: str) -> None:
        """A pod is deleted; another one takes its place."""
        self.replaced.append(name)
        for failing in self.bad_pods.values():
            if name in failing:
                failing.remove(name)

    def _current(self, version: int) -> None:
        if version != self.version:
            raise ConflictError

    def _writes(
        self, decision: Decision, before: Progress, version: int
    ) -> list[Callable[[], None]]:
        roles_before = before.roles or Roles()
        out: list[Callable[[], None]] = []
        if sheds(roles_before, decision.roles):
            out.append(lambda: self._follow(decision.roles))
        new = decision.new_revision
        if new is not None and new.hash not in self.revisions:
            out.append(lambda: self._create(new))
        for name, verdict in decision.verdicts.items():
            out.append(partial(self._verdict, name, verdict))
        progress = decision.progress.model_copy(update={"roles": decision.roles})
        if progress != before:
            out.append(lambda: self._commit(progress, version))
        elif version != self.version:
            return out  # Nothing to commit, but what follows is not true of the present version.
        for name, count in decision.replicas.items():
            if self.wanted.get(name) != count and name in {*self.revisions, new and new.hash}:
                out.append(partial(self._scale, name, count))
        for name in decision.replicas:
            order = decision.mirror
            wanted = order if order is not None and order.stable == name else None
            if self.mirror_files.get(name) != wanted:
                out.append(partial(self._write_mirror_file, name, wanted))
        if decision.resolve and not self.resolved:
            out.append(self._run_resolve)
        kept = decision.progress.outcome is not None and not decision.drop_resolve
        if self.resolved and not decision.resolve and not kept:
            out.append(lambda: setattr(self, "resolved", False))  # The job is removed.
        if decision.gates and self.gates_for != decision.gates:
            out.append(lambda: setattr(self, "gates_for", decision.gates))
        if (
            any(
                r.file.slots != decision.roles.slots or r.file.stable != decision.roles.stable
                for r in self.routers
            )
            or self._copied(decision.roles) != self.copied_roles
        ):
            out.append(lambda: self._write_file(decision.roles))
        if self._differs(decision.roles):
            out.append(lambda: self._follow(decision.roles))
        out += [partial(self._remove, name) for name in decision.retire]
        out += [partial(self._replace, name) for name in decision.replace - set(self.replaced)]
        out += [partial(self._forget, verb) for verb in decision.executed]
        status = dict(decision.status)
        if status != self.status:
            out.append(lambda: self._set_status(status))
        return out

    def _run_resolve(self) -> None:
        self.resolved = True
        self.reported = self.signatures.get(self.letter, "")

    def _create(self, new: Any) -> None:
        self.revisions[new.hash] = Revision(
            hash=new.hash,
            source=new.source,
            uri=new.uri,
            package=new.package,
            runtime_image=new.runtime_image,
            identity=new.identity,
            hash_version=1,
            verdict=Verdict(),
            created=f"{self.now:020.3f}",
            deployment="iris",
        )

    def _verdict(self, name: str, verdict: Verdict) -> None:
        if name not in self.revisions:
            return
        before = self.revisions[name].verdict
        if before.phase == "Failed" != verdict.phase and verdict.retries <= before.retries:
            raise ConflictError  # The rule of the ModelRevision's CRD.
        self.revisions[name] = replace(self.revisions[name], verdict=verdict)

    def _commit(self, progress: Progress, version: int) -> None:
        self._current(version)
        self.version += 1
        self.progress = Progress.model_validate_json(progress.model_dump_json(by_alias=True))

    def _write_mirror_file(self, name: str, order: MirrorOrder | None) -> None:
        self.mirror_files[name] = order

    def _scale(self, name: str, count: int) -> None:
        self.wanted[name] = count
        self.ready.setdefault(name, 0)

    def _remove(self, name: str) -> None:
        self.wanted.pop(name, None)
        self.mirror_files.pop(name, None)
        self.mirrors.pop(name, None)
        self.ready.pop(name, None)

    def _forget(self, verb: str) -> None:
        self.annotations.pop(f"sluice.dev/{verb}", None)

    def _copied(self, roles: Roles) -> Roles:
        return roles.model_copy(update={"left": {}})

    def _write_file(self, roles: Roles) -> None:
        self.copied_roles = self._copied(roles)
        for router in self.routers:
            router.file = Roles(stable=roles.stable, slots=roles.slots)

    def _set_status(self, status: dict[str, Any]) -> None:
        self.status = status
        self.conditions = tuple(Condition.model_validate(c) for c in status["conditions"])

    def _differs(self, roles: Roles) -> bool:
        return any(self._target(r, roles) != (r.memory, r.pointed) for r in self.routers if r.up)

    def _target(self, router: RouterPod, roles: Roles) -> tuple[Roles, set[str]]:
        pointed = {r for r in roles.slots.values() if r}
        if roles.stable is None:
            return router.memory, pointed
        weight = roles.weight if roles.candidate in pointed else 0
        if weight > router.memory.weight and not self.ready.get(roles.candidate or "", 0):
            weight = router.memory.weight
        memory = Roles(
            stable=roles.stable,
            candidate=roles.candidate if weight else None,
            weight=weight,
            previous=roles.previous if roles.holdback else None,
            holdback=roles.holdback,
            slots=roles.slots,
        )
        return memory, pointed

    def _follow(self, roles: Roles) -> None:
        for router in self.routers:
            if router.up:
                router.memory, router.pointed = self._target(router, roles)

    # For tests

    def run(self, seconds: float, every: float = 1.0) -> None:
        """Lets time pass, reconciling as often as asked."""
        end = self.now + seconds
        while self.now < end:
            self.pass_time(every)
            self.reconcile()

    def condition(self, kind: str) -> Condition:
        return next(c for c in self.conditions if c.type == kind)

    def source(self) -> str:
        return source_hash(self.parsed().model)
