"""Over-dispersion: by how much failures come in clusters instead of one by one.

phi = sum (x - n p)^2 / sum n p over cells.  Two kinds of cells (reference/statistics.md, section
4): pods inside one look (bursts on single pods) and unit buckets (users with their own failure
rate, when the split is sticky).  The log-likelihood is divided by the larger of both over both
arms.  Latency has no cells by pod; there, jumps from look to look tell stalls from regressions.
Simulated, not proven.

Called by sluice.rollout.judge.  The state is plain JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sluice.stats.counts import Counts
from sluice.stats.logs import Numbers
from sluice.stats.look import Cell

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
State = dict[str, Any]
AnyNumber = Any
"""A number or an array of them: plain arithmetic, which costs a single look no array."""

ARMS = ("stable", "candidate")
PRIOR_CELLS = 5.0
"""Pods of a few looks say little: phi begins as if this many failures had shown none."""

PRIOR_LOOKS = 10.0
CHANCE = 1.3
"""Look-to-look dispersion below this is what even events show by chance."""

MOST_STEADY = 3.0
"""A model slower than that needs no help, and stalls that look like one get none."""

TINY = 1e-12
STICKY_FLOOR = 2.0
"""At promotion: users with lasting failure rates hide inside few events (promotion.md, 2)."""


def new_pods() -> State:
    """Sums of one metric over pods and looks, by arm: squares, what independent failures would
    have given, and free cells."""
    return {"squares": [0.0, 0.0], "expected": [0.0, 0.0], "free": [0, 0]}


Pods = Sequence[tuple[int, int]]
"""(requests, events) of each pod in one look."""


def absorb_pods(state: State, arms: Sequence[Pods]) -> State:
    """One look's pods of stable and candidate."""
    return absorb_pods_each([state], [arms])[0]


def absorb_pods_each(states: Sequence[State], looks: Sequence[Sequence[Pods]]) -> list[State]:
    """Several metrics of one look, computed together."""
    # A state of the version before has other sums; pods are measured anew then.
    had = [state if "squares" in state else new_pods() for state in states]
    told = [[pods if any(x for _, x in pods) else () for pods in arms] for arms in looks]
    most = max((len(pods) for arms in told for pods in arms), default=0)
    if most == 0:
        return had
    cells = np.zeros((len(told), len(ARMS), most, 2), dtype=np.int64)
    for metric, arms in enumerate(told):
        for arm, pods in enumerate(arms):
            if pods:
                cells[metric, arm, : len(pods)] = pods
    sums = [more.tolist() for more in pod_sums(cells[..., 0], cells[..., 1])]
    return [_summed(state, [more[i] for more in sums]) for i, state in enumerate(had)]


def _summed(had: State, more: list[list[float]]) -> State:
    return {
        name: [round(a + b, 6) for a, b in zip(had[name], arms, strict=True)]
        for name, arms in zip(("squares", "expected", "free"), more, strict=True)
    }


def pod_sums(n: Ints, x: Ints) -> tuple[Floats, Floats, Ints]:
    """Squares, their expectation and free cells of one look: (..., pods) give (...).

    Expectations are summed before anything is divided: a mean of squares over expectation by look
    would drown one burst in a hundred quiet looks, and the burst is what alarms.
    """
    events = x.sum(axis=-1)
    share = n / np.maximum(n.sum(axis=-1, keepdims=True), 1)
    squares: Floats = ((x - events[..., None] * share) ** 2).sum(axis=-1)
    expected: Floats = events * (1.0 - (share**2).sum(axis=-1))
    free = np.where(events > 0, np.maximum((n > 0).sum(axis=-1) - 1, 0), 0)
    return squares, expected, free


def phi_of_pods(state: State) -> tuple[float, float]:
    """Dispersion between the pods of stable and of the candidate; 1 while it could be chance."""
    if "squares" not in state:
        return 1.0, 1.0
    arms = zip(state["squares"], state["expected"], state["free"], strict=True)
    stable, candidate = (pod_phi(*sums) for sums in arms)
    return stable, candidate


def pod_phi(squares: AnyNumber, expected: AnyNumber, free: AnyNumber) -> AnyNumber:
    """The same from sums over looks: of one arm, or arrays of any shape."""
    phi = (squares + PRIOR_CELLS) / (expected + PRIOR_CELLS)
    # One standard error of a mean of squares: even pods differ that much by themselves.
    surely = phi > 1.0 + (2.0 / (free + PRIOR_CELLS)) ** 0.5
    return 1.0 + (phi - 1.0) * surely


def phi_of_alarm(stable: Numbers, candidate: Numbers, ratio: Numbers) -> Floats:
    """Dispersion that an alarm must survive: the candidate's, and what stable's says of it.

    A rate that differs between pods adds variance with the square of their requests, so phi - 1
    grows with them: with ``ratio`` candidate requests for each of stable's, stable's excess counts
    by that part.  Bursts on stable's pods never raise an alarm, so it counts once at most.
    """
    carried = 1.0 + np.subtract(stable, 1.0) * np.minimum(1.0, ratio)
    larger: Floats = np.maximum(candidate, carried)
    return larger


def new_jumps() -> State:
    """Look-to-look jumps of the candidate's share of the events."""
    return {"last": None, "sum": 0.0, "n": 0}


def absorb_jumps(state: State, counts: Counts) -> State:
    """One more look.

    z is the candidate's share of the events, standardised as hypergeometric.  Half the mean square
    of successive differences (von Neumann) is its dispersion whatever its mean: a stall of one pod
    jumps, a regression stays.
    """
    if not counts.informative:
        return state
    z = round(share_z(counts.stable_n, counts.stable_x, counts.candidate_n, counts.candidate_x), 5)
    if state["last"] is None:
        return {**state, "last": z}
    jump = 0.5 * (z - state["last"]) ** 2
    return {"last": z, "sum": round(state["sum"] + jump, 5), "n": state["n"] + 1}


def share_z(
    stable_n: AnyNumber, stable_x: AnyNumber, candidate_n: AnyNumber, candidate_x: AnyNumber
) -> AnyNumber:
    """The candidate's share of the events of an informative look, standardised: one or an array."""
    total, events = stable_n + candidate_n, stable_x + candidate_x
    share = candidate_n / total
    variance = events * share * (1.0 - share) * (total - events) / (total - 1)
    z: AnyNumber = (candidate_x - events * share) / variance**0.5
    return z


def phi_of_jumps(state: State, n: Sequence[int], x: Sequence[int]) -> float:
    """Dispersion between looks, at least 1; 1 while it could be chance.

    ``n`` and ``x``: requests and events of (stable, candidate) over all looks.
    """
    return float(jumps_phi(state["sum"], state["n"], steady_variance(*n, *x)))


def jumps_phi(total: AnyNumber, n: AnyNumber, steady: AnyNumber) -> Floats:
    """The same from sums of half squared jumps and their number, of any shape."""
    phi = (total / steady + PRIOR_LOOKS) / (n + PRIOR_LOOKS)
    return np.where(phi > CHANCE, phi, 1.0)


def steady_variance(
    stable_n: AnyNumber, candidate_n: AnyNumber, stable_x: AnyNumber, candidate_x: AnyNumber
) -> AnyNumber:
    """Variance of z while the candidate's share of the events is steady, but not its share of
    requests: a slow model has more events to vary, and that is no dispersion.

    q (1 - q) / (w (1 - w)) with q and w the candidate's shares of events and requests so far.
    """
    w = candidate_n / np.maximum(stable_n + candidate_n, 1)
    q = candidate_x / np.maximum(stable_x + candidate_x, 1)
    variance = q * (1.0 - q) / np.maximum(w * (1.0 - w), TINY)
    return np.minimum(np.maximum(variance, 1.0), MOST_STEADY)


def new_buckets() -> State:
    """Requests, client errors and model errors of each unit bucket, by arm."""
    return {arm: {} for arm in ARMS}


def absorb_buckets(
    state: State, stable: Mapping[int, Cell], candidate: Mapping[int, Cell]
) -> State:
    """One look's buckets, added."""
    result: State = {}
    for arm, cells in (("stable", stable), ("candidate", candidate)):
        # Keys are strings: the state is JSON.
        sums = dict(state[arm])
        for bucket, cell in cells.items():
            had = sums.get(str(bucket), (0, 0, 0))
            sums[str(bucket)] = [a + b for a, b in zip(had, cell, strict=True)]
        result[arm] = sums
    return result


def phi_of_buckets(state: State, position: int) -> float:
    """The larger of both arms' dispersions between unit buckets, at least 1.

    ``position`` is the event's place in a cell: 1 for client errors, 2 for model errors.
    """
    arms = [np.array([(0, 0), *((c[0], c[position]) for c in state[arm].values())]) for arm in ARMS]
    return max(float(bucket_phi(cells[:, 0], cells[:, 1])) for cells in arms)


def bucket_phi(n: Ints, x: Ints) -> Floats:
    """Dispersion of sums by bucket, at least 1: (..., buckets) give (...)."""
    total, events = n.sum(axis=-1), x.sum(axis=-1)
    cells = (n > 0).sum(axis=-1)
    expected = n * (events / np.maximum(total, 1))[..., None]
    squares = ((x - expected) ** 2).sum(axis=-1) / np.maximum(events, 1)
    phi: Floats = np.maximum(1.0, squares * cells / np.maximum(cells - 1, 1))
    return phi


def largest_bucket(state: State, position: int) -> tuple[int, int]:
    """Events in stable and in the candidate of the bucket with most candidate events."""
    cells = state["candidate"]
    if not cells:
        return 0, 0
    key = max(cells, key=lambda k: (cells[k][position], k))
    stable = state["stable"].get(key, (0, 0, 0))
    return int(stable[position]), int(cells[key][position])


def distinct_units(state: State) -> int:
    """Buckets with a candidate request: never more than the distinct candidate units."""
    return sum(1 for cell in state["candidate"].values() if cell[0] > 0)
