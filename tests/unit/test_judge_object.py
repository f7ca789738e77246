"""`sluice judge` on a saved ModelDeployment computes what the operator computed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from tests.unit.looks import Behaviour, look, plan_of

from sluice.api.status import EvidenceStatus
from sluice.cli.judge import command
from sluice.errors import InvalidInputError, SluiceError
from sluice.rollout import judge as judging
from sluice.rollout import judge_trail as trail
from sluice.rollout.checks import shown_checks
from sluice.stats import watch

Obj = dict[str, Any]


def saved(looks: int, *, errors: float, phase: judging.Phase = "canary") -> Obj:
    """The object of a rollout that has gone through two steps, or of a watch."""
    plan, rng = plan_of(), np.random.default_rng(7)
    state = judging.new_state(plan, phase, planned_looks=100)
    for number in range(looks):
        if phase == "canary":
            state = judging.begin_step(plan, state, 1 if number < looks // 2 else 2)
        behaviours = Behaviour(errors=0.02, client_errors=0.05), Behaviour(errors=errors)
        seen = look(rng, number, weight=50, stable=behaviours[0], candidate=behaviours[1])
        state = judging.absorb(plan, state, seen)
    judgement = judging.judge(plan, state)
    evidence = EvidenceStatus(
        revision="abc",
        phase="Canary" if phase == "canary" else "Watch",
        planned_starts=100 if phase == "watch" else len(plan.steps),
        log10_need=judgement.log10_need,
        summed_looks=trail.summed(state["trail"]),
        looks=trail.csv(state["trail"], judging.replayable(plan)),
    )
    checks = [c.model_dump(by_alias=True, exclude_none=True) for c in shown_checks(judgement)]
    status = {"checks": checks, "evidence": evidence.model_dump(by_alias=True, exclude_none=True)}
    return {"apiVersion": "sluice.dev/v1alpha1", "kind": "ModelDeployment", "status": status}


def run(tmp_path: Path, found: object, *options: str) -> Any:
    file = tmp_path / "iris.yaml"
    file.write_text(found if isinstance(found, str) else yaml.safe_dump(found))
    result = CliRunner().invoke(command, [str(file), *options])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return json.loads(result.output)["looks"] if "--json" in options else result.output


def said(found: Obj, check: str) -> float:
    row = next(c for c in found["status"]["checks"] if c["name"] == check)
    return float(row["log10Evidence"])


@pytest.mark.parametrize("phase", ["canary", "watch"])
@pytest.mark.parametrize("check", ["errors", "client-errors"])
def test_the_same_evidence_comes_out(tmp_path: Path, phase: judging.Phase, check: str) -> None:
    assert watch.planned_starts(100) >= 30
    found = saved(30, errors=0.1, phase=phase)
    rows = run(tmp_path, found, "--check", check, "--json")
    assert len(rows) == 30
    assert rows[-1]["log10_evidence"] == pytest.approx(said(found, check), abs=1e-4)


def test_the_worst_check_is_judged_unless_one_is_named(tmp_path: Path) -> None:
    text = run(tmp_path, saved(30, errors=0.2))
    assert text.splitlines()[-1].startswith("errors, revision abc: the operator says ")
    assert " Fail" in text.splitlines()[-2]


def test_old_looks_share_rows_and_little_changes(tmp_path: Path) -> None:
    found = saved(300, errors=0.028)
    rows = run(tmp_path, found, "--check", "errors", "--json")
    assert len(rows) == trail.MOST
    assert rows[-1]["log10_evidence"] == pytest.approx(said(found, "errors"), abs=0.25)
    assert "old looks share rows" in run(tmp_path, found)
    assert len(found["status"]["evidence"]["looks"]) < 9000


def test_the_sums_of_a_trail_are_exact() -> None:
    rng, rows = np.random.default_rng(1), []
    total = np.zeros(6, dtype=int)
    for number in range(500):
        seen = look(rng, number, weight=10, stable=Behaviour(errors=0.1), candidate=Behaviour())
        rows = trail.added(rows, seen, starts=1 + number // 100)
        total += [seen.stable.n, 0, seen.stable.model_errors, seen.candidate.n, 0, 0]
    assert np.array(rows)[:, 3:].sum(axis=0).tolist() == total.tolist()
    assert sum(row[1] for row in rows) == 500
    assert [row[0] for row in rows] == sorted({row[0] for row in rows})


def test_many_checks_with_long_names_fit_into_a_status() -> None:
    row = [10**6, 1, 30, 10**9, 10**7, 10**6, 10**9, 10**7, 10**6]
    rows = [[row[0] + i, *row[1:]] for i in range(trail.MOST)]
    for checks in (1, 5, 16):
        events = {f"{i:03}".ljust(63, "x"): 1 + i % 2 for i in range(checks)}
        kept, text = trail.written(rows, events)
        assert EvidenceStatus(revision="r", phase="Canary", planned_starts=1, looks=text)
        assert sum(kept_row[3] for kept_row in kept) == trail.MOST * 10**9
        assert text.count("\n") == 1 + 2 * checks * len(kept)
    assert trail.written([row], events)[0] == [row]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "Pod"}, "not a ModelDeployment"),
        ({"status": {}}, "nothing has been compared"),
        ({"status": {"evidence": {"looks": 5}}}, "not what the operator writes"),
        ({"status": {"evidence": [1]}}, "not what the operator writes"),
        ({"items": [], "kind": "List"}, "does not hold one object"),
    ],
)
def test_what_is_not_one_judged_object_is_refused(
    tmp_path: Path, change: Obj, message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        run(tmp_path, {**saved(3, errors=0.1), **change})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind: [", "neither YAML nor CSV"),
        ("{" * 5000, "neither YAML nor CSV"),
        ("kind: \x00", "neither YAML nor CSV"),
        ("# " + "x" * (4 << 20), "larger than"),
    ],
)
def test_hostile_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        run(tmp_path, text)


def test_hostile_looks_are_refused(tmp_path: Path) -> None:
    found = saved(3, errors=0.1)
    looks = found["status"]["evidence"]["looks"]
    for bad in (looks.replace("stable", "other"), looks + "9,errors,1,stable,-1,0\n", "", "\0"):
        found["status"]["evidence"]["looks"] = bad
        with pytest.raises(SluiceError):
            run(tmp_path, found)


def test_options_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="carries counts only"):
        run(tmp_path, saved(3, errors=0.1), "--kind", "means")
    with pytest.raises(InvalidInputError, match="no looks of check 'latency'"):
        run(tmp_path, saved(3, errors=0.1), "--check", "latency")
    with pytest.raises(InvalidInputError, match="--check is for a ModelDeployment"):
        run(tmp_path, "look,arm,n,events\n1,stable,1,0\n", "--check", "errors")
