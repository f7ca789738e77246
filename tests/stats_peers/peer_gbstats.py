"""GrowthBook's numbers: run by tests.stats_peers in gbstats' own environment."""

import json
import math
import sys

from gbstats.frequentist.tests import (
    FrequentistConfig,
    SequentialConfig,
    SequentialTwoSidedTTest,
    TwoSidedTTest,
)
from gbstats.models.statistics import ProportionStatistic, SampleMeanStatistic
from gbstats.utils import check_srm

given = json.load(sys.stdin)
found = {}
arms = {
    "means": [SampleMeanStatistic(a["n"], a["y"], a["yy"]) for a in given["pairs"]],
    "rates": [ProportionStatistic(n, x) for n, x in given["rates"]],
}
how = {"difference_type": "absolute", "alpha": given["alpha"]}
for name, (stable, candidate) in arms.items():
    config = SequentialConfig(sequential_tuning_parameter=given["tuned_for"], **how)
    test = SequentialTwoSidedTTest(stable, candidate, config)
    low, high = test.confidence_interval
    methods = (" (Engine M)", " (exact)") if name == "rates" else ("",)
    for method in methods:
        found[f"{name}: sequential, lower end{method}"] = low
        found[f"{name}: sequential, upper end{method}"] = high
    found[f"{name}: sequential, log evidence"] = -math.log(test.p_value)
    fixed = TwoSidedTTest(stable, candidate, FrequentistConfig(**how))
    found[f"{name}: standard error (t test)"] = math.sqrt(fixed.variance)
for case in ("fair", "skewed"):
    p = check_srm(given[case], [0.5, 0.5])
    name = f"sample ratio {case}: mismatch at {given['srm_alpha']:g} (1 = yes)"
    found[name] = float(p < given["srm_alpha"])
json.dump(found, sys.stdout)
