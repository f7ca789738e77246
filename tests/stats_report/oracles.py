"""Our arithmetic beside scipy's: Fisher's non-central hypergeometric, look by look.

The largest difference of log E[theta^X] and of log probabilities over the odds ratios of both
grids.  Also used by tests/unit/test_stats_oracles.py.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from scipy.special import logsumexp
from scipy.stats import hypergeom, nchypergeom_fisher
from tests.stats_report.rows import Cell, Row

from sluice.stats import counts
from sluice.stats.counts import Counts

TABLE = "Independent oracles"
MOST = 1e-7
LOOKS = (
    Counts(900, 9, 100, 3),
    Counts(50, 1, 50, 4),
    Counts(10, 8, 30, 20),
    Counts(9_900, 50, 100, 5),
    Counts(5_000, 25, 5_000, 70),
    Counts(100_000, 120, 100_000, 160),
)
ODDS = (-3.0, -0.5, 0.0, 0.2, 1.0, 3.0)


def differences(look: Counts) -> tuple[float, float]:
    """Largest differences from scipy: log moments, log probabilities."""
    total, s = look.stable_n + look.candidate_n, look.stable_x + look.candidate_x
    x = np.arange(max(0, s - look.stable_n), min(s, look.candidate_n) + 1)
    log_pmf = hypergeom.logpmf(x, total, look.candidate_n, s)
    mine = counts.log_moment(look, np.array(ODDS))
    scipys = [logsumexp(log_pmf + odds * x) for odds in ODDS]
    moment = float(np.abs(mine - scipys).max())
    probabilities = [
        counts.log_pmf(look, odds)
        - nchypergeom_fisher.logpmf(look.candidate_x, total, look.candidate_n, s, np.exp(odds))
        for odds in ODDS
    ]
    return moment, float(np.abs(probabilities).max())


def against_scipy(rng: np.random.Generator, runs: int, *, look: Counts) -> list[Row]:
    """One look; nothing is drawn."""
    moment, probability = differences(look)
    case = (
        f"{look.stable_x:,} of {look.stable_n:,} against "
        f"{look.candidate_x:,} of {look.candidate_n:,}"
    )
    cells = {
        "log moment, from scipy's hypergeom": f"{moment:.0e}",
        "log probability, from scipy's nchypergeom_fisher": f"{probability:.0e}",
        "claim": f"<= {MOST:.0e}",
    }
    return [Row(case, cells, max(moment, probability) <= MOST)]


def cells() -> list[Cell]:
    """Every look that is compared."""
    return [Cell(TABLE, str(look), partial(against_scipy, look=look)) for look in LOOKS]
