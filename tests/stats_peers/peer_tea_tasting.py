"""tea-tasting's numbers: run by tests.stats_peers in its own environment."""

import json
import sys

from tea_tasting import Mean, RatioOfMeans, SampleRatio
from tea_tasting.aggr import Aggregates


def aggregates(arm):
    n = arm["n"]
    y, x = arm["y"] / n, arm["x"] / n
    return Aggregates(
        count_=n,
        mean_={"y": y, "x": x},
        var_={"y": (arm["yy"] - n * y * y) / (n - 1), "x": (arm["xx"] - n * x * x) / (n - 1)},
        cov_={("x", "y"): (arm["xy"] - n * x * y) / (n - 1)},
    )


given = json.load(sys.stdin)
stable, candidate = (aggregates(arm) for arm in given["pairs"])
found = {}
for name, metric in (("ratio", RatioOfMeans("y", "x")), ("CUPED", Mean("y", "x"))):
    result = metric.analyze_aggregates(stable, candidate)
    found[f"{name}: effect"] = result.effect_size
    found[f"{name}: standard error"] = result.effect_size / result.statistic
for case in ("fair", "skewed"):
    arms = {arm: Aggregates(count_=n) for arm, n in enumerate(given[case])}
    result = SampleRatio(1.0).analyze(arms, 0, 1)
    name = f"sample ratio {case}: mismatch at {given['srm_alpha']:g} (1 = yes)"
    found[name] = float(result.pvalue < given["srm_alpha"])
json.dump(found, sys.stdout)
