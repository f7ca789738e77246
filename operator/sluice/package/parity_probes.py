"""The rows on which a converted model and its original are compared.

Called by the parity gate and by ``make parity``; calls numpy.  Reference rows are varied as clients
vary them, then come the values where two implementations part: zeros, negatives, what a double
holds at most and at least, infinities, missing and unseen values, and both sides of every jump.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from sluice.package.examples import count, spread, take, without_value
from sluice.package.features import MISSING_TEXT, Columns
from sluice.package.manifest import Input
from sluice.package.scoring import Array

UNSEEN = "\u2063unseen category"
PROBED_COLUMNS = 32
JUMPS = 4
_LARGE = 1e150
"""Where several columns are extreme at once; above it the order of a sum decides its overflow."""

_MAX, _TINY, _MAX32 = np.finfo(float).max, np.nextafter(0.0, 1.0), float(np.finfo(np.float32).max)
_POSITIVE = [
    *(0.0, 1.0, 0.5, 2.0, _TINY, np.finfo(float).tiny, 1e-300, 1e-45, 1e-38, 1e-20, 1e-9, 1e-3),
    *(10.0, 1e3, 1e6, 2.0**24 + 1, 1e9, 2.0**53 - 1, 2.0**53, 1e20),
    *(_MAX32, np.nextafter(_MAX32, np.inf), 3.4028235677973365e38, 3.4028235677973366e38),
    *(3.5e38, 1e77, 1e102, _LARGE, 1e154, 1e300, 1e308, _MAX, np.inf),
]
_WHOLE = [
    0.0,
    1.0,
    2.0,
    3.0,
    13.0,
    255.0,
    256.0,
    1e6,
    2.0**24 + 1,
    2.0**31,
    2.0**53,
    2.0**63,
    1e300,
]
FLOATS = np.array([s * v for v in _POSITIVE for s in (1.0, -1.0)] + [np.nan])
INTS = np.array([s * v for v in _WHOLE for s in (1.0, -1.0)] + [np.nan])
BOOLS = np.array([0.0, 1.0, np.nan])

Ask = Callable[[Columns], Array | None]
"""The scores of a model, or None when it refuses."""


def blocks(
    base: Columns, inputs: tuple[Input, ...], nullable: set[str], ask: Ask, seed: int = 20130101
) -> Iterator[tuple[str, Columns]]:
    """Named blocks of rows around ``base``; ``ask`` tells where the scores jump."""
    random = np.random.default_rng(seed)
    yield "reference rows", base
    yield "jittered rows", {s.name: _jitter(s, base[s.name], random) for s in inputs}
    yield "rows spread over the range", {s.name: _uniform(s, base[s.name], random) for s in inputs}
    shuffled = {s.name: random.permutation(base[s.name]) for s in inputs}
    yield "rows of shuffled columns", shuffled
    few = take(base, spread(count(base), 16))
    for spec in inputs:
        if spec.name in nullable:
            yield f"rows without {spec.name!r}", without_value(few, spec.name)
    if nullable:
        holes = {
            s.name: _holes(base[s.name], random) if s.name in nullable else base[s.name]
            for s in inputs
        }
        yield "rows with random missing values", holes
    yield from _extremes(base, inputs, random)
    chosen = [i for i in _some(inputs) if i.type == "float"]
    if chosen:
        yield "rows on both sides of a jump", _jumps(base, chosen, ask, random)


def _extremes(
    base: Columns, inputs: tuple[Input, ...], random: np.random.Generator
) -> Iterator[tuple[str, Columns]]:
    """Every extreme value in one column at a time, then in several columns at once."""
    values = {spec.name: _extreme_values(spec, base[spec.name]) for spec in inputs}
    for spec in _some(inputs):
        rows = random.integers(0, count(base), len(values[spec.name]))
        yield f"extreme values of {spec.name!r}", {**take(base, rows), spec.name: values[spec.name]}
    together = take(base, random.integers(0, count(base), max(64, count(base) // 8)))
    for spec in inputs:
        mild = [v for v in values[spec.name].tolist() if isinstance(v, str) or _mild(v)]
        drawn = random.choice(np.array(mild, dtype=together[spec.name].dtype), count(together))
        drawn = _unlike(drawn, random)
        chosen = random.random(count(together)) < random.choice([0.2, 0.9])
        together[spec.name] = np.where(chosen, drawn, together[spec.name])
    yield "extreme values of several columns", together


def _unlike(drawn: Array, random: np.random.Generator) -> Array:
    """Huge numbers that do not cancel: of what an exact cancellation leaves, order decides too."""
    if drawn.dtype == object:
        return drawn
    huge = np.abs(drawn) > 2.0**53
    return np.where(huge, drawn * random.uniform(0.5, 1.0, len(drawn)), drawn)


def _mild(value: float | None) -> bool:
    return value is not None and abs(value) <= _LARGE


def _extreme_values(spec: Input, seen: Array) -> Array:
    if spec.type != "string":
        return {"float": FLOATS, "int": INTS, "bool": BOOLS}[spec.type]
    known = [v for v in seen.tolist() if v][:3] or ["a"]
    twisted = [f"{v}{c}" for v in known for c in (" ", "\0", "\u0301", v)]
    twisted += [w for v in known for w in (v.upper(), v.lower(), v[:-1], f" {v}")]
    odd = [UNSEEN, "", " ", "nan", "None", "0", "\U0001f600", MISSING_TEXT, "x" * 100_000, None]
    values = np.empty(len(twisted) + len(odd), dtype=object)
    values[:] = [*twisted, *odd]
    return values


def _some(inputs: tuple[Input, ...]) -> list[Input]:
    return [inputs[i] for i in spread(len(inputs), PROBED_COLUMNS)]


def _jumps(base: Columns, inputs: list[Input], ask: Ask, random: np.random.Generator) -> Columns:
    """Neighbouring doubles where the scores change most, found by halving intervals.

    In a tree's input this is a threshold, seen through whatever steps come before it.
    """
    column = np.repeat(np.arange(len(inputs)), JUMPS)
    rows = take(base, random.integers(0, count(base), len(column)))
    low, high = np.zeros(len(column)), np.ones(len(column))
    for index, spec in enumerate(inputs):
        low[column == index], high[column == index] = _intervals(base[spec.name], random)

    def at(values: Array) -> Columns:
        return {
            **rows,
            **{
                spec.name: np.where(column == index, values, rows[spec.name])
                for index, spec in enumerate(inputs)
            },
        }

    low, high = _narrow(low, high, lambda values: ask(at(values)))
    sides = [low, high, np.nextafter(low, -np.inf), np.nextafter(high, np.inf)]
    beside = [at(values) for values in sides]
    return {name: np.concatenate([b[name] for b in beside]) for name in base}


def _intervals(values: Array, random: np.random.Generator) -> Array:
    """Lower and upper ends: the whole range, then between values drawn from the column."""
    known = values[np.isfinite(values)]
    if not len(known):
        return np.zeros((2, JUMPS))
    drawn = np.sort(random.choice(known, (JUMPS - 1, 2)))
    return np.vstack([[known.min(), known.max()], drawn]).T


def _narrow(low: Array, high: Array, ask: Callable[[Array], Array | None]) -> tuple[Array, Array]:
    """Halve every interval until its ends are neighbours, towards the larger change."""
    first, last = ask(low), ask(high)
    for _ in range(64):
        middle = low + (high - low) / 2
        here = ask(middle)
        if first is None or last is None or here is None:
            break
        left = _change(first, here) >= _change(here, last)
        low, high = np.where(left, low, middle), np.where(left, middle, high)
        first = np.where(_as_column(left, first), first, here)
        last = np.where(_as_column(left, last), here, last)
    return low, high


def _change(a: Array, b: Array) -> Array:
    return np.asarray(np.nan_to_num(np.abs(a - b)).reshape(len(a), -1).sum(axis=1))


def _as_column(chosen: Array, like: Array) -> Array:
    return chosen.reshape(-1, *[1] * (like.ndim - 1))


def _jitter(spec: Input, values: Array, random: np.random.Generator) -> Array:
    if spec.type == "float":
        finite = values[np.isfinite(values)]
        scale = float(finite.std()) if len(finite) else 0.0
        return values + random.normal(0.0, 0.01 * scale + 1e-12, size=len(values))
    if spec.type == "int":
        return values + random.integers(-1, 2, size=len(values))
    return values


def _uniform(spec: Input, values: Array, random: np.random.Generator) -> Array:
    if spec.type == "string" or spec.min is None or spec.max is None:
        return random.permutation(values)
    margin = 0.1 * (spec.max - spec.min)
    drawn = random.uniform(spec.min - margin, spec.max + margin, size=len(values))
    filled = np.rint(drawn) if spec.type == "int" else drawn
    return np.where(np.isnan(values), values, filled)


def _holes(values: Array, random: np.random.Generator) -> Array:
    holes = values.copy()
    holes[random.random(len(values)) < 0.3] = None if values.dtype == object else np.nan
    return holes
