"""The invariants of a rollout under random users, faults, kills, restarts and stale reads.

Every move that a decision makes is also held against the table in sluice.rollout.states, by the
world itself.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.worlds.rollout import SimWorld, digest_of, spec_for
from tests.worlds.sources import REFUNDS, away, empty, fine

from sluice.api.conditions import compute
from sluice.api.trustpolicy import TrustPolicySpec
from sluice.rollout.messages import annotate
from sluice.rollout.model import ResolveView, Trouble
from sluice.rollout.states import state_of

LETTERS = st.sampled_from("abcd")
ADDRESSES = LETTERS | st.sampled_from(["a-moved", "b-moved"])
ADMIT_D = TrustPolicySpec.model_validate(
    {"namespaces": ["default"], "admit": [{"packageDigest": digest_of("d"), "classes": ["Code"]}]}
)
WAYS_OUT = ("kubectl annotate", "TrustPolicy: namespaces")
MAX_STATUS = 32 * 1024
RATE = 400.0
SOURCES = {"away": away, "empty": empty, "fine": fine}
CHECKS = [
    {"name": "errors", "type": "ErrorRate"},
    {"name": "latency", "type": "Latency"},
    REFUNDS,
]


def _studied(ends: str) -> dict[str, Any]:
    """Blocks of a spec with an experiment that ends this way when it is not decided."""
    study = {"metric": "sales", "kind": "Conversion", "window": "1s", "maxDuration": "20s"}
    token = {"secretRef": {"name": "token"}}
    return {
        "traffic": {"unit": {"header": "X-User-Id"}},
        "experiment": {**study, "feedback": token, "onInconclusive": ends},
    }


class Rollouts(RuleBasedStateMachine):
    """One ModelDeployment's life."""

    def __init__(self) -> None:
        super().__init__()
        self.world = SimWorld(spec_for("a"))
        self.retried: set[str] = set()
        self.failed: set[str] = set()
        self.settled = False
        removing = self.world._remove

        def remove(name: str) -> None:
            for router in self.world.routers:
                assert name not in router.shares(), f"{name} is removed while it gets traffic"
                assert router.file.stable != name, f"{name} is removed while a file names it"
            removing(name)

        self.world._remove = remove  # type: ignore[method-assign]

    @initialize(
        bad=st.sets(LETTERS, max_size=2),
        gates=st.sets(LETTERS, max_size=1),
        on_fail=st.sampled_from(["Rollback", "Rollback", "Pause"]),
        strategy=st.sampled_from(["Canary", "Canary", "Canary", "GatesOnly"]),
        holdback=st.sampled_from([10, 10, 0]),
        metric=st.booleans(),
        start=st.sampled_from(
            ["Idle", "Mirroring", "Stepping", "Stepping", "Promoting", "Watching", "Next"]
        ),
        mirrored=st.booleans(),
        ends=st.sampled_from([None, None, "Hold", "Promote", "Rollback"]),
        quiet=st.sampled_from(["Wait", "PromoteByGates"]),
    )
    def models(
        self,
        bad: set[str],
        gates: set[str],
        on_fail: str,
        strategy: str,
        holdback: int,
        metric: bool,
        start: str,
        mirrored: bool,
        ends: str | None,
        quiet: str,
    ) -> None:
        """Which models are bad, how they are rolled out, and where the story begins."""
        self.world.errors = {digest_of(x): 0.3 for x in bad - {"a"}}
        self.world.broken_gate = {digest_of(x) for x in gates - {"a"}}
        rollout = self.world.spec["rollout"]
        watch = {**rollout["watch"], "holdback": holdback}
        first = [{"mirror": 100, "minRequests": 50, "minDuration": "4s"}]
        steps = [*(first if mirrored or start == "Mirroring" else []), *rollout["steps"]]
        changed = {**rollout, "onFail": on_fail, "strategy": strategy, "watch": watch}
        changed["onNoTraffic"] = quiet
        self.world.change(rollout={**changed, "steps": steps})
        self.world.mirror_speed = 0.5
        self.world.sources = {"refunds": fine}
        if metric:
            self.world.change(analysis={**self.world.spec["analysis"], "checks": CHECKS})
        if ends is not None and strategy == "Canary":
            self.world.change(**_studied(ends))
            self.world.conversions = {digest_of("b"): 0.3, digest_of("c"): 0.1}
            start = "Experimenting" if start == "Promoting" else start
        self.world.classes = {"d": "Code"}
        self.world.run(8)
        if start != "Idle":
            self.world.ask_for("b")
            self._until("Watching" if start == "Next" else start)
        if start == "Next":
            self.world.ask_for("c")
            self._until("Provisioning")

    def _until(self, state: str) -> None:
        for _ in range(60):
            if state_of(self.world.progress) == state:
                return
            self.world.run(1)

    # Users

    @rule(seconds=st.integers(1, 40))
    def time_passes(self, seconds: int) -> None:
        self.world.run(seconds)
        self.settled = all(r.up for r in self.world.routers)

    @rule(letter=ADDRESSES, seconds=st.sampled_from([0, 1, 2, 4, 8, 14, 30, 60]))
    def user_asks_for(self, letter: str, seconds: int) -> None:
        self._unsettle()
        self.world.ask_for(letter)
        if seconds:
            self.time_passes(seconds)

    @rule(verb=st.sampled_from(["abort", "pause", "resume"]), seconds=st.integers(0, 5))
    def user_commands(self, verb: str, seconds: int) -> None:
        self._unsettle()
        self.world.command(verb)
        if seconds:
            self.time_passes(seconds)

    @rule(verb=st.sampled_from(["promote", "promote-now", "retry"]), other=LETTERS | st.none())
    def user_names_a_digest(self, verb: str, other: str | None) -> None:
        """Mostly the digest that is on its way, sometimes another."""
        letter = other or self.world.letter
        if verb == "retry":
            self.retried.add(digest_of(letter))
        self.world.command(verb, letter)
        self.time_passes(2)

    @precondition(lambda self: self.world.progress.watch is not None)
    @rule(letter=LETTERS | st.none(), seconds=st.integers(1, 30))
    def the_promoted_model_degrades(self, letter: str | None, seconds: int) -> None:
        """Perhaps while the next candidate waits."""
        watching = self.world.progress.watch
        assert watching is not None
        if letter:
            self.user_asks_for(letter, 3)
        self.world.errors[self.world.revisions[watching.revision].package.digest] = 0.4
        self.time_passes(seconds)

    @precondition(lambda self: self.world.progress.watch is not None)
    @rule()
    def user_goes_back_to_previous(self) -> None:
        previous = self.world.revisions[self.world.roles.previous or ""]
        self.world.ask_for(previous.uri.rsplit("/", 1)[-1])
        self.time_passes(3)

    @rule(change=st.sampled_from(["replicas", "trust", "distrust", "heals"]), n=st.integers(0, 3))
    def something_else_changes(self, change: str, n: int) -> None:
        self._unsettle()
        if change == "replicas":
            self.world.change(replicas=n)
        elif change == "heals":
            self.world.errors.clear()
        else:
            self.world.policies = (ADMIT_D,) if change == "trust" else ()

    # Faults

    @rule(after=st.integers(0, 8), stale=st.sampled_from([0, 0, 1, 2, 4, 6]))
    def operator_is_killed(self, after: int, stale: int) -> None:
        """Or a second leader acts, for a moment, on what it saw some reconciles ago."""
        self._unsettle()
        self.world.pass_time(1)
        self.world.reconcile(kill_after=after if after < 8 else None, stale=stale)

    @rule(seconds=st.sampled_from([10, 100, 2000]))
    def operator_is_away(self, seconds: int) -> None:
        self.world.pass_time(seconds)
        self._unsettle()

    @rule(which=st.integers(0, 1), what=st.sampled_from(["restarts", "away", "back", "back"]))
    def routers_come_and_go(self, which: int, what: str) -> None:
        self._unsettle()
        if what == "restarts":
            self.world.routers[which].restart()
        else:
            self.world.routers[which].up = what == "back"

    @rule(what=st.sampled_from(["crash", "wait", "fine", "fine"]))
    def pods_of_the_candidate(self, what: str) -> None:
        rollout = self.world.progress.rollout
        self.world.crashing.clear()
        self.world.troubles.clear()
        if rollout is None or rollout.revision is None or what == "fine":
            return
        self.world.ready[rollout.revision] = 0
        if what == "crash":
            self.world.crashing.add(rollout.revision)
        else:
            self.world.troubles[rollout.revision] = Trouble("Pending", "no node has room")

    @rule(
        what=st.sampled_from(
            ["slow", "refuses", "away", "traffic stops", "nobody asks", "fine", "fine"]
        )
    )
    def jobs_and_evidence(self, what: str) -> None:
        world = self.world
        world.rate = 0.0 if what == "nobody asks" else RATE
        world.slow_jobs, world.stopped_traffic = what == "slow", what == "traffic stops"
        world.fetched = None
        if what in ("refuses", "away"):
            said = f"The package is corrupt. Another one: {annotate('iris', 'abort')}"
            world.fetched = ResolveView("Failed", None, "Corrupt", said, retryable=what == "away")

    @rule(what=st.sampled_from(["away", "empty", "fine"]), seconds=st.integers(0, 20))
    def a_metric_source(self, what: str, seconds: int) -> None:
        self.world.sources = {"refunds": SOURCES[what]}
        if seconds:
            self.time_passes(seconds)

    @rule()
    def evidence_is_lost(self) -> None:
        self.world.lose_evidence()
        self._unsettle()

    def _unsettle(self) -> None:
        self.settled = False

    @rule()
    def standing_still_comes_to_rest(self) -> None:
        """Without time or news, decisions reach a fixpoint: no write without change."""
        self._unsettle()
        for _ in range(12):
            self.world.reconcile()
        before = self.world.writes
        self.world.reconcile()
        assert self.world.writes == before, self.world.notes[-4:]

    # What always holds

    @invariant()
    def users_are_named_only_for_the_experiment_that_runs(self) -> None:
        named, progress = self.world.roles.experiment, self.world.progress
        if named and self.settled:
            rollout = progress.rollout
            assert rollout is not None and rollout.phase == "Experimenting"
            assert progress.experiment is not None and progress.experiment.id == named

    @invariant()
    def shares_are_whole(self) -> None:
        for router in self.world.routers:
            shares = router.shares()
            assert sum(shares.values()) in (0, 100), shares

    @invariant()
    def a_fail_stays(self) -> None:
        """Fail turns into something else only by retry."""
        now = {r.hash for r in self.world.revisions.values() if r.verdict.phase == "Failed"}
        for gone in self.failed - now:
            assert self.world.revisions[gone].package.digest in self.retried
        self.failed = now

    @invariant()
    def a_source_that_is_silent_condemns_nobody(self) -> None:
        """Both arms' refunds are alike whenever they can be read."""
        assert "refunds" not in {r.verdict.check for r in self.world.revisions.values()}

    @invariant()
    def quarantined_gets_nothing(self) -> None:
        if not self.settled:
            return
        digests = {
            r.package.digest
            for r in self.world.revisions.values()
            if r.verdict.phase == "Failed" and r.verdict.scope == "Package"
        }
        for router in self.world.routers:
            for revision in router.shares():
                digest = self.world.revisions[revision].package.digest
                assert digest not in digests, (revision, self.world.notes[-10:])

    @invariant()
    def by_gates_alone_only_where_that_was_chosen(self) -> None:
        rollout = self.world.progress.rollout
        if rollout is not None and rollout.by_gates:
            assert self.world.spec["rollout"]["onNoTraffic"] == "PromoteByGates"

    @invariant()
    def nobody_mirrors_beside_users(self) -> None:
        """A rollout's copies have ended before its candidate answers anybody."""
        assert not self.world.mirrored_beside_users, self.world.notes[-10:]

    @invariant()
    def a_paused_failure_gets_nothing(self) -> None:
        rollout = self.world.progress.rollout
        if self.settled and rollout is not None and rollout.paused_by_check:
            assert all(rollout.revision not in r.shares() for r in self.world.routers)

    @invariant()
    def roles_are_backed(self) -> None:
        """Who serves has pods, and nobody has two roles."""
        roles = self.world.roles
        named = [r for r in (roles.stable, roles.candidate, roles.previous) if r]
        assert len(named) == len(set(named)), roles
        if self.settled and roles.stable is not None:
            assert self.world.wanted.get(roles.stable) == self.world.parsed().replicas
        if self.settled and roles.previous is not None:
            assert self.world.wanted.get(roles.previous) == self.world.parsed().replicas

    @invariant()
    def weight_without_a_rollout_does_not_stay(self) -> None:
        if self.settled and self.world.progress.rollout is None:
            assert self.world.roles.weight == 0
            assert self.world.roles.candidate is None

    @invariant()
    def people_are_told(self) -> None:
        """Status is bounded; who must act finds out how."""
        status = self.world.status
        if not status:
            return
        assert len(str(status)) < MAX_STATUS
        for condition in self.world.conditions:
            assert len(condition.message) <= 512
            if condition.type == "Stalled" and condition.status == "True":
                assert any(way in condition.message for way in WAYS_OUT), condition
        metadata = {"generation": self.world.generation}
        if compute({"metadata": metadata, "status": status}) == "Current":
            assert self.world.condition("Ready").status == "True"

    def teardown(self) -> None:
        """Left alone, it converges, says where, and then writes nothing."""
        world = self.world
        world.crashing.clear()
        world.troubles.clear()
        world.stopped_traffic = world.slow_jobs = False
        world.rate = RATE
        world.fetched = None
        world.sources = {"refunds": fine}
        world.change(replicas=2)
        for router in world.routers:
            router.up = True
        world.annotations.clear()
        world.command("resume")
        world.run(900, every=2.0)
        ready = world.condition("Ready")
        desired = world.revision_of(world.letter)
        done = world.roles.stable == desired and ready.status == "True"
        stuck = world.condition("Stalled").status == "True" or ready.reason == "Held"
        assert done or stuck, (world.notes[-12:], world.conditions, world.status.get("step"))
        before = world.writes
        for _ in range(10):
            world.reconcile()
        if not world.progress.watch and not world.progress.rollout:
            assert world.writes == before


@pytest.mark.timeout(600)
class TestRollouts(Rollouts.TestCase):  # type: ignore[name-defined,misc]
    settings = settings(
        max_examples=120,
        stateful_step_count=25,
        suppress_health_check=list(HealthCheck),
    )
