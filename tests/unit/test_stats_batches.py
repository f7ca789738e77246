"""One state or a thousand: the arrays of a simulation and the JSON states of the judge agree."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tests.stats_report.engines import Latency, OddsRatio, Seen
from tests.stats_report.promotion import Risk
from tests.unit.looks import plan_of

from sluice.stats import bounded_risk, counts, dispersion, latency
from sluice.stats.counts import Counts
from sluice.stats.moments import EXACT_SUPPORT, Grid, log_moments

LOOKS = [
    Counts(900, 9, 100, 3),
    Counts(0, 0, 5, 1),
    Counts(10, 0, 10, 0),
    Counts(50, 50, 3, 3),
    Counts(5000, 2600, 4000, 1900),
    Counts(10**9, 10**6, 10**8, 10**5),
]


def _columns(looks: list[Counts]) -> Seen:
    rows = [(c.stable_n, c.stable_x, c.candidate_n, c.candidate_x) for c in looks]
    return Seen(*np.array(rows, dtype=np.int64).T)


def test_looks_absorbed_together_are_the_looks_absorbed_one_by_one() -> None:
    states = [counts.start(counts.new(margin, 3)) for margin in (1.0, 1.2, 1.2, 10.0, 1.2, 1.0)]
    together = counts.absorb_each(states, LOOKS)
    alone = [counts.absorb(state, look) for state, look in zip(states, LOOKS, strict=True)]
    for a, b in zip(together, alone, strict=True):
        assert {k: v for k, v in a.items() if k not in ("up", "both")} == {
            k: v for k, v in b.items() if k not in ("up", "both")
        }
        assert np.array(a["up"]) == pytest.approx(np.array(b["up"]), abs=2e-5)
        assert np.array(a["both"]) == pytest.approx(np.array(b["both"]), abs=2e-5)
    assert counts.log_e_each(together, [1.0] * 6) == pytest.approx(
        [counts.log_e(state) for state in alone], abs=1e-4
    )


def test_runs_of_a_simulation_have_the_evidence_of_the_judges_states() -> None:
    engine = OddsRatio(len(LOOKS), 1.2, 4, dispersions=True)
    states = [counts.new(1.2, 4) for _ in LOOKS]
    phi = np.array([1.0, 1.3, 2.0, 2.5, 9.0, 1000.0])
    for shift in range(3):
        engine.begin()
        looks = LOOKS[shift:] + LOOKS[:shift]
        engine.absorb(_columns(looks))
        states = [
            counts.absorb(counts.start(state), look)
            for state, look in zip(states, looks, strict=True)
        ]
    expected = [counts.log_e(state, p) for state, p in zip(states, phi.tolist(), strict=True)]
    assert engine.log_e(phi).tolist() == pytest.approx(expected, abs=1e-3)


def test_a_ladder_has_the_risk_of_the_judges_states() -> None:
    step = plan_of().steps[1]
    p0 = np.array([1e-6, 0.005, 0.02, 0.2])
    risk = Risk(len(p0))
    risk.begin(np.arange(4), step, np.full(4, step.risk), p0)
    states = [bounded_risk.new(step.risk, step.ratio, p0=p, share=0.25) for p in p0.tolist()]
    for looks in (LOOKS[:4], LOOKS[2:]):
        risk.absorb(_columns(looks))
        states = [bounded_risk.absorb(s, look) for s, look in zip(states, looks, strict=True)]
    expected = [bounded_risk.log_e(state) for state in states]
    assert risk.log_e().tolist() == pytest.approx(expected, rel=1e-6, abs=1e-4)


def test_simulated_histograms_have_the_evidence_of_the_judges_states() -> None:
    rng = np.random.default_rng(3)
    engine, promotion = Latency(3, 1.1, 1), Latency(3, 1.1, 1, reverse=True)
    states = [latency.start(latency.new(1)) for _ in range(3)]
    passes = [latency.new_promotion() for _ in range(3)]
    tolerance = latency.tolerance_of("comparable", 1.1)
    engine.begin()
    promotion.begin()
    for _ in range(12):
        arms = [rng.poisson(0.4, size=(3, latency.LATENCY_BINS)) for _ in range(2)]
        arms[1][:, :300] //= 2
        engine.absorb(*arms)
        promotion.absorb(*arms)
        for run in range(3):
            stable, candidate = (
                {int(i): int(arm[run, i]) for i in np.flatnonzero(arm[run])} for arm in arms
            )
            seen = latency.measured(states[run], stable, candidate, tolerance)
            passes[run] = latency.absorb_promotion(passes[run], seen, tolerance)
            states[run] = latency.absorb(states[run], stable, candidate, tolerance)
    expected = [latency.log_e(state) for state in states]
    assert engine.log_e().tolist() == pytest.approx(expected, abs=1e-2)
    for run in range(3):
        each = latency.log_e_promotion(passes[run])
        assert promotion.log_es()[run].tolist() == pytest.approx(each, abs=1e-2)


def test_sums_over_pods_and_buckets_of_many_runs_are_those_of_one() -> None:
    rng = np.random.default_rng(4)
    n = rng.integers(0, 40, size=(20, 2, 3))
    x = rng.binomial(n, 0.2)
    squares, expected, free = dispersion.pod_sums(n, x)
    phis = dispersion.pod_phi(squares, expected, free)
    for run in range(20):
        arms = [list(zip(n[run, a].tolist(), x[run, a].tolist(), strict=True)) for a in (0, 1)]
        state = dispersion.absorb_pods(dispersion.new_pods(), arms)
        assert dispersion.phi_of_pods(state) == pytest.approx(tuple(phis[run]), abs=1e-4)


@pytest.mark.parametrize("size", [127, 128, EXACT_SUPPORT, EXACT_SUPPORT + 1])
@pytest.mark.parametrize("tilt", [0.0, 0.2, 2.3])
def test_blocks_and_the_saddlepoint_meet(size: int, tilt: float) -> None:
    grid = Grid(np.linspace(-4.0, 4.0, 9))
    s, n_a, n_b = size, 4 * size, 2 * size
    i = np.arange(0, size)
    steps = np.log((n_b - i) * (s - i) / ((i + 1.0) * (n_a - s + i + 1.0))) + tilt
    weights = np.concatenate(([0.0], np.cumsum(steps)))
    terms = weights + grid.log_theta[:, None] * np.arange(size + 1)
    oracle = np.logaddexp.reduce(terms, axis=1) - np.logaddexp.reduce(weights)
    mine = log_moments(n_a, n_b, s, [(grid, tilt)])[0]
    assert mine == pytest.approx(oracle, abs=1e-9 if size <= EXACT_SUPPORT else 6e-5)


def test_a_grid_that_cannot_be_summed_is_refused() -> None:
    with pytest.raises(ValueError, match="beyond 4"):
        Grid(np.array([0.0, 4.5]))
    assert math.isfinite(float(Grid(np.array([4.0])).powers[-1, 0]))
