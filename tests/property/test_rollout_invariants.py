"""The invariants of a rollout under random users, faults, kills, restarts and stale reads.

Every move that a decision makes is also held against the table in sluice.rollout.states, by the
world itself.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.worlds.rollout import SimWorld, digest_of, spec_for

from sluice.api.conditions import compute
from sluice.rollout.model import Trouble

LETTERS = st.sampled_from("abcd")
VERBS = st.sampled_from(["abort", "pause", "resume", "promote", "promote-now", "retry"])
MAX_STATUS = 32 * 1024


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
        strategy=st.sampled_from(["Canary", "Canary", "GatesOnly"]),
        holdback=st.sampled_from([10, 10, 0]),
    )
    def models(
        self, bad: set[str], gates: set[str], on_fail: str, strategy: str, holdback: int
    ) -> None:
        self.world.errors = {digest_of(x): 0.3 for x in bad - {"a"}}
        self.world.broken_gate = {digest_of(x) for x in gates - {"a"}}
        rollout = self.world.spec["rollout"]
        watch = {**rollout["watch"], "holdback": holdback}
        self.world.change(
            rollout={**rollout, "onFail": on_fail, "strategy": strategy, "watch": watch}
        )

    # Time and users

    @rule(seconds=st.integers(1, 40))
    def time_passes(self, seconds: int) -> None:
        self.world.run(seconds)
        self.settled = all(r.up for r in self.world.routers)

    @rule(letter=LETTERS, seconds=st.integers(0, 70))
    def user_asks_for(self, letter: str, seconds: int) -> None:
        self.world.ask_for(letter)
        self.time_passes(seconds) if seconds else self._unsettle()

    @rule(verb=VERBS, letter=LETTERS)
    def user_commands(self, verb: str, letter: str) -> None:
        if verb == "retry":
            self.retried.add(digest_of(letter))
        bound = verb in ("promote", "promote-now", "retry")
        self.world.command(verb, letter if bound else None)
        self._unsettle()

    @precondition(lambda self: self.world.progress.rollout is not None)
    @rule(verb=st.sampled_from(["promote", "promote-now"]))
    def user_promotes_the_candidate(self, verb: str) -> None:
        self.world.command(verb, self.world.letter)
        self.time_passes(4)

    @precondition(lambda self: self.world.progress.watch is not None)
    @rule(seconds=st.integers(1, 30))
    def the_promoted_model_degrades(self, seconds: int) -> None:
        watching = self.world.progress.watch
        assert watching is not None
        self.world.errors[self.world.revisions[watching.revision].package.digest] = 0.4
        self.time_passes(seconds)

    @rule(replicas=st.sampled_from([0, 1, 2, 3]))
    def user_scales(self, replicas: int) -> None:
        self.world.change(replicas=replicas)
        self._unsettle()

    # Faults

    @rule(after=st.integers(0, 8), seconds=st.integers(0, 5))
    def operator_is_killed(self, after: int, seconds: int) -> None:
        self.world.pass_time(seconds)
        self.world.reconcile(kill_after=after)
        self._unsettle()

    @rule(stale=st.integers(1, 6), seconds=st.integers(0, 3))
    def a_second_leader_acts_on_old_news(self, stale: int, seconds: int) -> None:
        self.world.pass_time(seconds)
        self.world.reconcile(stale=stale)
        self._unsettle()

    @rule(seconds=st.integers(10, 2000))
    def operator_is_away(self, seconds: int) -> None:
        self.world.pass_time(seconds)
        self._unsettle()

    @rule(which=st.integers(0, 1))
    def router_restarts(self, which: int) -> None:
        self.world.routers[which].restart()
        self._unsettle()

    @rule(which=st.integers(0, 1), up=st.booleans())
    def router_is_reachable(self, which: int, up: bool) -> None:
        self.world.routers[which].up = up
        self._unsettle()

    @rule(letter=LETTERS, crash=st.booleans())
    def pods_crash(self, letter: str, crash: bool) -> None:
        revision = self.world.revision_of(letter)
        if revision is not None and letter != "a":
            (self.world.crashing.add if crash else self.world.crashing.discard)(revision)

    @rule(letter=LETTERS, stuck=st.booleans())
    def pods_wait(self, letter: str, stuck: bool) -> None:
        revision = self.world.revision_of(letter)
        if revision is not None and stuck:
            self.world.troubles[revision] = Trouble("Pending", "no node has room")
        elif revision is not None:
            self.world.troubles.pop(revision, None)

    @rule(stopped=st.booleans())
    def evidence_stops(self, stopped: bool) -> None:
        self.world.stopped_traffic = stopped

    @rule()
    def evidence_is_lost(self) -> None:
        self.world.lose_evidence()
        self._unsettle()

    def _unsettle(self) -> None:
        self.settled = False

    # What always holds

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
                assert "kubectl annotate" in condition.message, condition
        metadata = {"generation": self.world.generation}
        if compute({"metadata": metadata, "status": status}) == "Current":
            assert self.world.condition("Ready").status == "True"

    def teardown(self) -> None:
        """Left alone, it converges, says where, and then writes nothing."""
        world = self.world
        world.crashing.clear()
        world.troubles.clear()
        world.stopped_traffic = False
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
        max_examples=80,
        stateful_step_count=25,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
