"""The candidate accepts what stable accepts, so that no client breaks when it is promoted."""

from __future__ import annotations

from sluice.jobs.gates.bench import Bench, GateFailedError, answer, first_line
from sluice.jobs.gates.profiles import moved
from sluice.package.features import RowError
from sluice.package.manifest import Input, Manifest

_WIDER = {("int", "float")}
"""Retyping that accepts everything the old type accepted."""


def run(bench: Bench) -> str:
    stable = bench.stable
    if stable is None:
        return "the first revision: nothing to compare with"
    allow = bench.gates.get("schema", {}).get("breaking", "Refuse") == "Allow"
    broken = breaking(stable.manifest, bench.manifest)
    if broken and not allow:
        raise GateFailedError(
            f"{'; '.join(broken)}. Clients of stable would break; "
            "spec.validation.schema.breaking: Allow lets it pass"
        )
    answered = _stable_examples(bench, allow)
    parts = [f"{len(bench.manifest.inputs)} inputs, " + ("compatible" if not broken else "changed")]
    parts += [f"allowed: {'; '.join(broken)}"] if broken else []
    parts += [answered] if answered else []
    parts += notes(stable.manifest, bench.manifest)
    parts += moved(stable.profile(), bench.candidate.profile())
    return "; ".join(parts)


def breaking(stable: Manifest, candidate: Manifest) -> list[str]:
    """What a client of stable would stumble over, one phrase each."""
    old, new = ({spec.name: spec for spec in m.inputs} for m in (stable, candidate))
    gone = [spec for name, spec in old.items() if name not in new]
    added = [spec for name, spec in new.items() if name not in old]
    found = []
    for spec in gone:
        twin = _renamed(spec, added)
        if twin is not None:
            added.remove(twin)
            found.append(f"input {spec.name!r} seems to be renamed to {twin.name!r}")
        else:
            found.append(f"input {spec.name!r} is removed")
    found += [f"input {spec.name!r} is new and required" for spec in added if spec.required]
    for name in old.keys() & new.keys():
        found += _narrowed(old[name], new[name])
    return sorted(found) + _output(stable, candidate)


def _renamed(spec: Input, added: list[Input]) -> Input | None:
    """A new input that is in every other respect the one that is gone."""
    same = [
        other
        for other in added
        if (other.type, other.min, other.max, other.categories)
        == (spec.type, spec.min, spec.max, spec.categories)
    ]
    return same[0] if len(same) == 1 and (spec.categories or spec.min is not None) else None


def _narrowed(old: Input, new: Input) -> list[str]:
    found = []
    if old.type != new.type and (old.type, new.type) not in _WIDER:
        found.append(f"input {old.name!r} is {new.type}, was {old.type}")
    if old.nullable and not new.nullable:
        found.append(f"input {old.name!r} may no longer be null")
    if new.required and not old.required:
        found.append(f"input {old.name!r} is now required")
    return found


def _output(stable: Manifest, candidate: Manifest) -> list[str]:
    if stable.task != candidate.task:
        return [f"the task is {candidate.task}, was {stable.task}"]
    old, new = stable.output.labels or (), candidate.output.labels or ()
    if set(map(repr, old)) != set(map(repr, new)):
        return [f"the labels are {_list(map(repr, new))}, were {_list(map(repr, old))}"]
    if stable.binary and stable.output.positive != candidate.output.positive:
        return [f"score is that of {candidate.output.positive!r}, was {stable.output.positive!r}"]
    return []


def notes(stable: Manifest, candidate: Manifest) -> list[str]:
    """What breaks no client but is worth a look."""
    old = {spec.name: spec for spec in stable.inputs}
    found = []
    for spec in candidate.inputs:
        before = old.get(spec.name)
        if before is None:
            found.append(f"input {spec.name!r} is new (optional)")
        elif before.categories and spec.categories:
            lost = sorted(set(before.categories) - set(spec.categories))
            if lost:
                found.append(f"{spec.name!r} no longer knows {_list(map(repr, lost))}")
    if stable.output.threshold != candidate.output.threshold:
        found.append(
            f"the threshold is {candidate.output.threshold:g}, was {stable.output.threshold:g}"
        )
    return found


def _stable_examples(bench: Bench, allow: bool) -> str:
    """Stable's own examples, put to the candidate as a client would."""
    assert bench.stable is not None
    rows = [dict(example.row) for example in bench.stable.golden()]
    if not rows:
        return ""
    try:
        answer(bench.predictor, rows)
    except RowError as error:
        if allow:
            return "stable's examples no longer fit the schema"
        raise GateFailedError(f"an example of stable is refused: {error.message}") from error
    except GateFailedError as error:
        raise GateFailedError(f"of stable's examples, {error}") from error
    except Exception as error:
        raise GateFailedError(f"stable's examples make it raise {first_line(error)}") from error
    return f"stable's {len(rows)} examples are answered"


def _list(names: object) -> str:
    items = list(names)  # type: ignore[call-overload]
    shown = ", ".join(items[:5])
    return f"{shown} and {len(items) - 5} more" if len(items) > 5 else shown
