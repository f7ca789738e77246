"""What a look costs: `PYTHONPATH=operator:. python tests/bench/bench_stats.py`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import numpy as np
from tests.unit.looks import Behaviour, look, plan_of

from sluice.rollout import judge as judging
from sluice.stats.look import ArmLook, Look


def cpu_ms(work: Callable[[], object], times: int = 200) -> float:
    begun = time.process_time()
    for _ in range(times):
        work()
    return 1000.0 * (time.process_time() - begun) / times


def main() -> None:
    plan = plan_of()
    rng = np.random.default_rng(0)
    how = Behaviour(errors=0.005, client_errors=0.02, scores=(0.05,) * 20)
    state = judging.begin_step(plan, judging.new_state(plan, "canary"), 2)
    for number in range(30):
        seen = look(rng, number, weight=50, stable=how, candidate=how, seconds=10.0)
        state = judging.absorb(plan, state, seen)
    usual = look(rng, 1000, weight=50, stable=how, candidate=how, seconds=10.0)
    huge_arm = ArmLook(
        n=10**9,
        client_errors=10**7,
        model_errors=10**6,
        latency=dict.fromkeys(range(200, 300), 10**6),
        scores=(10**6,) * 20,
        score_reference=(10**6,) * 20,
        load_per_pod=1e8,
    )
    huge = Look(1000, 10.0, 50, huge_arm, huge_arm)
    for name, seen in (("1,000 requests", usual), ("10^9 requests", huge)):
        after = judging.absorb(plan, state, seen)
        absorbed = cpu_ms(lambda seen=seen: judging.absorb(plan, state, seen))  # type: ignore[misc]
        judged = cpu_ms(lambda after=after: judging.judge(plan, after))  # type: ignore[misc]
        size = len(json.dumps(after)) / 1024
        print(
            f"look of {name}: absorb {absorbed:.2f} ms, judge {judged:.2f} ms CPU "
            f"({len(plan.checks)} checks), state {size:.0f} kB"
        )


if __name__ == "__main__":
    main()
