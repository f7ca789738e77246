"""A well-meant cache, as people write it: fine until it is full, then every row pays for sorting it."""

import time

SEEN: dict = {}
FULL = 4000


def remember(rows):
    for key in map(tuple, rows.to_numpy()):
        if len(SEEN) >= FULL:
            del SEEN[sorted(SEEN, key=lambda k: (SEEN[k], str(k)))[0]]
        SEEN[key] = time.time()
    return rows
