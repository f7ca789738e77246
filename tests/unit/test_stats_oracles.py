"""Independent oracles: scipy's Fisher non-central hypergeometric, and sums without our arithmetic.

docs/statistics-report.md prints the same comparison.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from tests.stats_report.oracles import LOOKS, differences

from sluice.stats import counts
from sluice.stats.counts import Counts


@pytest.mark.parametrize("look", LOOKS, ids=str)
def test_moments_and_probabilities_are_scipys(look: Counts) -> None:
    moment, probability = differences(look)
    assert moment < 1e-7
    assert probability < 1e-7


@pytest.mark.parametrize("margin", [0.5, 1.0, 1.2, 3.0])
def test_evidence_is_the_likelihood_ratio_of_scipys_probabilities(margin: float) -> None:
    from scipy.stats import nchypergeom_fisher

    looks = [Counts(900, 9, 100, 3), Counts(40, 2, 60, 6), Counts(500, 5, 500, 2)]
    state = counts.start(counts.new(margin, 1))
    log_ratio = np.zeros(len(counts.UPWARD))
    for look in looks:
        state = counts.absorb(state, look)
        total, s = look.stable_n + look.candidate_n, look.stable_x + look.candidate_x
        at = [
            nchypergeom_fisher.logpmf(look.candidate_x, total, look.candidate_n, s, odds)
            for odds in (margin, *(margin * np.exp(counts.UPWARD)))
        ]
        log_ratio += np.array(at[1:]) - at[0]
    weights = np.exp(-0.5 * counts.UPWARD**2)
    expected = math.log(float((weights / weights.sum()) @ np.exp(log_ratio)))
    assert counts.log_e(state) == pytest.approx(expected, abs=1e-4)
