"""A well-meant cache, as people write it: fine until it is full, then every call pays for sorting it."""

import time

SEEN: dict = {}
FULL = 6000


def remember(rows):
    if len(SEEN) >= FULL:
        oldest = sorted(SEEN, key=lambda k: (SEEN[k], str(k[:6])))[0]
        del SEEN[oldest]
    SEEN[(*rows.iloc[0], time.perf_counter())] = time.time()
    return rows
