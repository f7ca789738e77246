"""What a look costs the statistics: `make bench ONLY=stats`."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from tests.bench.rows import Row, at_most
from tests.unit.looks import Behaviour, look, plan_of

from sluice.rollout import judge as judging
from sluice.stats.look import ArmLook, Look

CHECKS = [
    {"name": "errors", "type": "ErrorRate"},
    {"name": "client-errors", "type": "ClientErrorRate"},
    {"name": "latency", "type": "Latency"},
    {"name": "shift", "type": "PredictionShift", "max": 0.2},
    {"name": "client-errors-for-a-person", "type": "ClientErrorRate", "onFail": "Hold"},
]
IN_FLIGHT = 1000
INTERVAL = 10.0


def cpu_ms(work: Callable[[], object], times: int = 200) -> float:
    begun = time.process_time()
    for _ in range(times):
        work()
    return 1000.0 * (time.process_time() - begun) / times


def run(quick: bool) -> list[Row]:
    """A decision of five checks at ordinary and at absurd counts, and a thousand deployments."""
    plan = plan_of(analysis={"checks": CHECKS})
    rng = np.random.default_rng(0)
    how = Behaviour(errors=0.005, client_errors=0.02, scores=(0.05,) * 20)
    state = judging.begin_step(plan, judging.new_state(plan, "canary"), 2)
    for number in range(30):
        seen = look(rng, number, weight=50, stable=how, candidate=how, seconds=10.0)
        state = judging.absorb(plan, state, seen)
    usual = look(rng, 1000, weight=50, stable=how, candidate=how, seconds=10.0)
    huge = Look(1000, 10.0, 50, _huge_arm(), _huge_arm())
    rows = []
    for name, seen in (("1,000 requests a look", usual), ("10^9 requests a look", huge)):
        after = judging.absorb(plan, state, seen)
        times = 50 if quick else 200
        absorbed = cpu_ms(lambda seen=seen: judging.absorb(plan, state, seen), times)  # type: ignore[misc]
        judged = cpu_ms(lambda after=after: judging.judge(plan, after), times)  # type: ignore[misc]
        said = f"{absorbed + judged:.2f} ms ({len(plan.checks)} checks)"
        rows.append(at_most(f"decision, {name}", "<= 1 ms", 1.0, absorbed + judged, said))
        if seen is usual:
            core = IN_FLIGHT / INTERVAL * (absorbed + judged) / 1000.0
            said = f"{100 * core:.0f} % of a core"
            what = f"statistics of {IN_FLIGHT:,} deployments, a look each {INTERVAL:g} s"
            rows.append(at_most(what, "<= 25 % of a core", 0.25, core, said))
    return rows


def _huge_arm() -> ArmLook:
    return ArmLook(
        n=10**9,
        client_errors=10**7,
        model_errors=10**6,
        latency=dict.fromkeys(range(200, 300), 10**6),
        scores=(10**6,) * 20,
        score_reference=(10**6,) * 20,
        load_per_pod=1e8,
    )
