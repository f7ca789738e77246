"""The invariants of a rollout under random users, faults, kills and restarts."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from sluice.rollout.model import Progress
from tests.worlds.rollout import SimWorld, digest_of, spec_for

LETTERS = st.sampled_from("abcd")
VERBS = st.sampled_from(["abort", "pause", "resume", "promote", "promote-now", "retry"])


class Rollouts(RuleBasedStateMachine):
    """One ModelDeployment's life."""

    def __init__(self) -> None:
        super().__init__()
        self.world = SimWorld(spec_for("a"))
        self.world.rate = 400.0
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

    @initialize(bad=st.sets(LETTERS, max_size=2), gates=st.sets(LETTERS, max_size=1))
    def models(self, bad: set[str], gates: set[str]) -> None:
        self.world.errors = {digest_of(x): 0.3 for x in bad - {"a"}}
        self.world.broken_gate = {digest_of(x) for x in gates - {"a"}}

    @rule(seconds=st.integers(1, 40))
    def time_passes(self, seconds: int) -> None:
        self.world.run(seconds)
        self.settled = all(r.up for r in self.world.routers)

    @rule(letter=LETTERS)
    def user_asks_for(self, letter: str) -> None:
        self.world.ask_for(letter)
        self.settled = False

    @rule(verb=VERBS, letter=LETTERS)
    def user_commands(self, verb: str, letter: str) -> None:
        digest = digest_of(letter).removeprefix("sha256:")[:12]
        value = digest if verb in ("promote", "promote-now", "retry") else "now"
        if verb == "retry":
            self.retried.add(digest_of(letter))
        self.world.annotations[f"sluice.dev/{verb}"] = value
        self.settled = False

    @rule(after=st.integers(0, 8), seconds=st.integers(0, 5))
    def operator_is_killed(self, after: int, seconds: int) -> None:
        self.world.pass_time(seconds)
        self.world.reconcile(kill_after=after)
        self.settled = False

    @rule(seconds=st.integers(10, 2000))
    def operator_is_away(self, seconds: int) -> None:
        self.world.pass_time(seconds)
        self.settled = False

    @rule(which=st.integers(0, 1))
    def router_restarts(self, which: int) -> None:
        self.world.routers[which].restart()
        self.settled = False

    @rule(which=st.integers(0, 1), up=st.booleans())
    def router_is_reachable(self, which: int, up: bool) -> None:
        self.world.routers[which].up = up
        self.settled = False

    @rule(letter=LETTERS, crash=st.booleans())
    def pods_crash(self, letter: str, crash: bool) -> None:
        revision = self.world.revision_of(letter)
        if revision is not None and letter != "a":
            (self.world.crashing.add if crash else self.world.crashing.discard)(revision)

    @rule()
    def evidence_is_lost(self) -> None:
        roles = self.world.roles.model_copy(update={"weight": 0, "candidate": None})
        self.world.progress = Progress(roles=roles)
        self.settled = False

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
    def roles_are_backed(self) -> None:
        """Who serves has pods, and nobody has two roles."""
        roles = self.world.roles
        named = [r for r in (roles.stable, roles.candidate, roles.previous) if r]
        assert len(named) == len(set(named)), roles
        if self.settled and roles.stable is not None:
            assert self.world.wanted.get(roles.stable) == 2

    def teardown(self) -> None:
        """Left alone, it converges, says where, and then writes nothing."""
        world = self.world
        world.crashing.clear()
        for router in world.routers:
            router.up = True
        world.annotations.clear()
        world.annotations["sluice.dev/resume"] = "now"
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
        max_examples=40,
        stateful_step_count=25,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
