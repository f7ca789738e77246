"""savvi's numbers: run by tests.stats_peers in its own environment."""

import json
import math
import sys

import numpy as np
from savvi.multinomial import Multinomial

given = json.load(sys.stdin)
found = {}
for case, shares in (("even", [0.5, 0.5]), ("tenth", [0.9, 0.1])):
    test = Multinomial(given["alpha"], np.array(shares), k=given["concentration"])
    test.update(np.array(given[case]))
    low, high = test.calculate_conf_int()[1]
    found[f"sample ratio {case}: log evidence"] = math.log(test.odds)
    found[f"sample ratio {case}: lower end of the share"] = float(low)
    found[f"sample ratio {case}: upper end of the share"] = float(high)
json.dump(found, sys.stdout)
