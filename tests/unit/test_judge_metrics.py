"""Metric and Threshold: each source's evidence, silence that neither fails nor passes, dry runs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.looks import Behaviour, look, plan_of

from sluice.rollout import judge as judging
from sluice.rollout.judge import Judgement, State
from sluice.rollout.judge_results import CheckResult
from sluice.rollout.plan import Plan
from sluice.stats.counts import Counts
from sluice.stats.look import ArmLook, Look, Means, MetricData, MetricLook, Values
from sluice.stats.means import Moments

FINE = Behaviour(errors=0.001)
ERRORS = {"name": "errors", "type": "ErrorRate"}
URL = "http://prometheus.monitoring:9090"
EVENTS = {
    "url": URL,
    "events": 'refunds{revision="{{revision}}"}[{{interval}}]',
    "total": 'orders{revision="{{revision}}"}[{{interval}}]',
}
GAUGE = {"url": URL, "query": 'mean{revision="{{revision}}"}'}
SQL = {"secretRef": {"key": "dwh"}, "query": "SELECT ... :start ... :end"}

Source = Callable[[np.random.Generator], MetricLook]


def metric(**changes: Any) -> dict[str, Any]:
    check = {"name": "refunds", "type": "Metric", "direction": "Lower", "prometheus": EVENTS}
    return {k: v for k, v in {**check, **changes}.items() if v is not None}


def threshold(**changes: Any) -> dict[str, Any]:
    return {"name": "limit", "type": "Threshold", **changes}


def planned(*checks: dict[str, Any]) -> Plan:
    return plan_of(analysis={"checks": [ERRORS, *checks]})


def shares(stable: float, candidate: float, n: int = 400) -> Source:
    """Events among ``n`` things of each arm."""

    def source(rng: np.random.Generator) -> MetricLook:
        return MetricLook(
            Counts(n, int(rng.binomial(n, stable)), n, int(rng.binomial(n, candidate)))
        )

    return source


def moments(stable: float, candidate: float, n: int = 400) -> Source:
    """Outcomes around a mean, with a spread of a tenth of 10."""

    def of(rng: np.random.Generator, mean: float) -> Moments:
        values = rng.normal(mean, 1.0, n)
        return Moments(n, float(values.sum()), float((values**2).sum()))

    return lambda rng: MetricLook(Means(of(rng, stable), of(rng, candidate)))


def values(stable: float, candidate: float) -> Source:
    """One number a look, with a spread of a twentieth of 10."""
    return lambda rng: MetricLook(
        Values(float(rng.normal(stable, 0.5)), float(rng.normal(candidate, 0.5)))
    )


def gone(_: np.random.Generator) -> MetricLook:
    return MetricLook(problem="Prometheus http://p cannot be reached.", error=True)


def empty(_: np.random.Generator) -> MetricLook:
    return MetricLook(problem="No data for the candidate.")


def took(
    plan: Plan,
    sources: Mapping[str, Source],
    *,
    looks: int = 60,
    state: State | None = None,
    step: int = 2,
    seed: int = 0,
    stable: Behaviour = FINE,
    candidate: Behaviour = FINE,
) -> tuple[State, Judgement]:
    """Looks until an alarm, or so many."""
    rng = np.random.default_rng(seed)
    if state is None:
        state = judging.begin_step(plan, judging.new_state(plan, "canary"), step)
    verdict = judging.judge(plan, state)
    for _ in range(looks):
        seen = look(
            rng, state["last"] + 1, weight=50, stable=stable, candidate=candidate, rate=200.0
        )
        read = {name: source(rng) for name, source in sources.items()}
        state = judging.absorb(plan, state, replace(seen, metrics=read))
        verdict = judging.judge(plan, state)
        if verdict.alarm is not None:
            break
    return json.loads(json.dumps(state)), verdict


def result(verdict: Judgement, name: str = "refunds") -> CheckResult:
    return next(c for c in verdict.checks if c.name == name)


WORSE = [
    pytest.param(metric(), shares(0.05, 0.12), "refunds 1", id="events, lower is better"),
    pytest.param(
        metric(direction="Higher"), shares(0.2, 0.1), "refunds ", id="events, higher is better"
    ),
    pytest.param(
        metric(prometheus=None, sql=SQL), moments(10.0, 12.0), "refunds 11.9", id="means, lower"
    ),
    pytest.param(
        metric(prometheus=None, sql=SQL, direction="Higher"), moments(10.0, 8.0), "refunds 7.9",
        id="means, higher",
    ),
    pytest.param(metric(prometheus=GAUGE), values(10.0, 13.0), "refunds 1", id="values, lower"),
    pytest.param(
        metric(prometheus=GAUGE, direction="Higher"), values(10.0, 8.0), "refunds ",
        id="values, higher",
    ),
    pytest.param(
        metric(compare="Limit", direction=None, max=0.08), shares(0.05, 0.12), "refunds 1",
        id="events, limit",
    ),
    pytest.param(
        metric(compare="Limit", direction=None, min=0.15), shares(0.2, 0.1), "refunds ",
        id="events, lower limit",
    ),
    pytest.param(
        metric(prometheus=None, sql=SQL, compare="Limit", direction=None, max=11),
        moments(10.0, 12.0), "refunds 11.9", id="means, limit",
    ),
    pytest.param(
        metric(prometheus=GAUGE, compare="Limit", direction=None, max=11), values(10.0, 13.0),
        "refunds 1", id="values, limit",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("check", "source", "said"), WORSE)
def test_what_is_worse_takes_the_package_back(
    check: dict[str, Any], source: Source, said: str
) -> None:
    _, verdict = took(planned(check), {"refunds": source})
    assert verdict.alarm is not None
    assert (verdict.alarm.name, verdict.alarm.type) == ("refunds", "Metric")
    assert (verdict.alarm.verdict, verdict.alarm.scope) == ("Fail", "Package")
    assert said in verdict.alarm.message and "stable" in verdict.alarm.message
    assert verdict.worst == "refunds"


EQUAL = [
    pytest.param(metric(), shares(0.05, 0.05), id="events"),
    pytest.param(metric(direction="Higher"), shares(0.2, 0.2), id="events, higher is better"),
    pytest.param(metric(prometheus=None, sql=SQL), moments(10.0, 10.0), id="means"),
    pytest.param(metric(prometheus=GAUGE), values(10.0, 10.0), id="values"),
    pytest.param(
        metric(compare="Limit", direction=None, max=0.08), shares(0.05, 0.05), id="events, limit"
    ),
    pytest.param(
        metric(prometheus=GAUGE, compare="Limit", direction=None, max=11), values(10.0, 10.0),
        id="values, limit",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("check", "source"), EQUAL)
def test_what_is_equal_passes(check: dict[str, Any], source: Source) -> None:
    _, verdict = took(planned(check), {"refunds": source}, looks=700)
    assert verdict.alarm is None and verdict.hold is None
    assert result(verdict).verdict == "Pass"
    assert verdict.promotion == "Pass", verdict.missing


@pytest.mark.parametrize(("check", "source"), [
    pytest.param(metric(), shares(0.12, 0.05), id="events"),
    pytest.param(metric(direction="Higher"), shares(0.1, 0.2), id="events, higher is better"),
    pytest.param(metric(prometheus=None, sql=SQL), moments(12.0, 10.0), id="means"),
    pytest.param(metric(prometheus=GAUGE), values(13.0, 10.0), id="values"),
])  # fmt: skip
def test_what_is_better_is_no_failure(check: dict[str, Any], source: Source) -> None:
    _, verdict = took(planned(check), {"refunds": source})
    assert verdict.alarm is None
    evidence = result(verdict).log10_evidence
    assert evidence is not None and evidence < 0


@pytest.mark.parametrize(("check", "source"), [
    pytest.param(
        metric(compare="Limit", direction=None, max=0.08), shares(0.3, 0.3), id="events"
    ),
    pytest.param(
        metric(prometheus=None, sql=SQL, compare="Limit", direction=None, max=11),
        moments(15.0, 15.0), id="means",
    ),
    pytest.param(
        metric(prometheus=GAUGE, compare="Limit", direction=None, max=11), values(15.0, 15.0),
        id="values",
    ),
])  # fmt: skip
def test_a_shared_outage_passes_no_limit(check: dict[str, Any], source: Source) -> None:
    _, verdict = took(planned(check), {"refunds": source})
    assert verdict.alarm is None and verdict.hold is None


def test_a_first_look_however_bad_fails_nothing() -> None:
    for check in (metric(), metric(compare="Limit", direction=None, max=0.08)):
        _, verdict = took(planned(check), {"refunds": shares(0.0, 1.0, n=99)}, looks=1)
        assert verdict.alarm is None
        assert "99 of 100 counted by refunds" in verdict.missing
        assert result(verdict).verdict == "Inconclusive"


def test_a_mean_at_or_below_zero_is_not_compared_by_a_factor() -> None:
    plan = planned(metric(prometheus=None, sql=SQL))
    _, verdict = took(plan, {"refunds": moments(-10.0, -9.0)})
    assert verdict.alarm is None
    assert "not above 0" in result(verdict).message


def test_effects_are_shown_as_people_read_them() -> None:
    _, rates = took(planned(metric()), {"refunds": shares(0.05, 0.05)}, looks=30)
    shown = result(rates)
    assert shown.effect is not None and shown.low is not None and shown.high is not None
    assert shown.low < 1.0 < shown.high
    assert (shown.stable_n, shown.candidate_n, shown.margin) == (12000, 12000, 1.2)
    _, more = took(planned(metric(direction="Higher")), {"refunds": shares(0.2, 0.3)}, looks=30)
    better = result(more)
    assert better.low is not None and better.high is not None and better.effect is not None
    assert 1.3 < better.low < better.effect < better.high
    plan = planned(metric(prometheus=None, sql=SQL))
    _, sums = took(plan, {"refunds": moments(10.0, 10.0)}, looks=30)
    means = result(sums)
    assert means.low is not None and means.high is not None and means.low < 0.0 < means.high
    assert means.stable_value == pytest.approx(10.0, abs=0.1) and means.margin == 1.1


# -- thresholds on our own values


def test_a_threshold_on_errors_is_a_share_of_requests() -> None:
    plan = planned(threshold(value="ClientErrorRate", max=0.05))
    _, verdict = took(plan, {}, candidate=Behaviour(client_errors=0.1))
    assert verdict.alarm is not None
    assert (verdict.alarm.name, verdict.alarm.type) == ("limit", "Threshold")
    assert (verdict.alarm.scope, verdict.alarm.margin) == ("Package", 0.05)
    both = Behaviour(client_errors=0.1)
    _, shared = took(plan, {}, stable=both, candidate=both)
    assert shared.alarm is None


def test_a_threshold_on_latency_condemns_the_revision() -> None:
    plan = planned(threshold(value="LatencyP90", max=0.05))
    _, verdict = took(plan, {}, candidate=Behaviour(median=0.04))
    assert verdict.alarm is not None and verdict.alarm.scope == "Revision"
    assert "slower than 50.0 ms" in verdict.alarm.message
    _, fine = took(plan, {}, looks=20)
    assert fine.alarm is None and result(fine, "limit").verdict == "Pass"


# -- modes


def test_a_dry_run_is_shown_and_never_acts() -> None:
    plan = planned(metric(mode="DryRun"), threshold(value="ErrorRate", max=1e-6, mode="DryRun"))
    _, verdict = took(plan, {"refunds": shares(0.05, 0.5)}, looks=700)
    assert verdict.alarm is None and verdict.hold is None
    assert verdict.promotion == "Pass", verdict.missing
    shown = result(verdict)
    assert shown.log10_evidence is not None and shown.log10_evidence > 100
    assert shown.message.endswith("Dry run: it does not act.")


def test_a_dry_run_takes_nothing_from_the_others() -> None:
    def evidence(*checks: dict[str, Any]) -> str:
        _, verdict = took(planned(*checks), {}, looks=3)
        return result(verdict, "errors").message

    assert "of 200." in evidence() and "of 200." in evidence(metric(mode="DryRun"))
    assert "of 200." in evidence(threshold(value="ErrorRate", max=0.5, mode="DryRun"))
    assert "of 222." in evidence(threshold(value="ErrorRate", max=0.5))
    assert "of 400." in evidence(metric())


def test_hold_asks_for_a_person() -> None:
    plan = planned(metric(onFail="Hold"), {"name": "slow", "type": "Latency"})
    _, verdict = took(plan, {"refunds": shares(0.05, 0.3)})
    assert verdict.alarm is None and verdict.hold is not None
    assert verdict.hold.name == "refunds" and verdict.promotion == "Wait"


# -- silence


@pytest.mark.parametrize(
    ("silent", "field", "error"), [(gone, "onProviderError", True), (empty, "onNoData", False)]
)
def test_silence_neither_fails_nor_passes_and_ends_by_itself(
    silent: Source, field: str, error: bool
) -> None:
    plan = planned(metric())
    state, before = took(plan, {"refunds": shares(0.05, 0.05)}, looks=700)
    assert before.promotion == "Pass" and before.silent == []
    state, verdict = took(plan, {"refunds": silent}, looks=5, state=state, seed=1)
    assert verdict.alarm is None and verdict.hold is None and verdict.promotion == "Wait"
    (quiet,) = verdict.silent
    assert (quiet.check, quiet.looks, quiet.error, quiet.holds) == ("refunds", 5, error, True)
    assert any(text.startswith("refunds: ") for text in verdict.missing)
    assert result(verdict).verdict == "NoData"
    assert result(verdict).message.startswith("Nothing at the last 5 looks: ")
    assert result(verdict).candidate_n == result(before).candidate_n
    _, after = took(plan, {"refunds": shares(0.05, 0.05)}, looks=1, state=state, seed=2)
    assert after.promotion == "Pass" and after.silent == []

    ignoring = planned(metric(**{field: "Ignore"}))
    _, ignored = took(ignoring, {"refunds": silent}, looks=5, state=state, seed=3)
    assert ignored.promotion == "Pass" and ignored.silent == []


def test_a_source_that_never_gave_anything_holds_promotion() -> None:
    _, verdict = took(planned(metric()), {"refunds": gone}, looks=700)
    assert verdict.alarm is None and verdict.promotion == "Wait"
    assert result(verdict).verdict == "NoData"
    for name in ("onNoData", "onProviderError"):
        silent = gone if name == "onProviderError" else empty
        _, other = took(planned(metric(**{name: "Ignore"})), {"refunds": silent}, looks=1)
        waits = [text for text in other.missing if "refunds" in text]
        # An error that is ignored is still no sample.
        assert waits == ([] if name == "onNoData" else ["0 of 100 counted by refunds"])


def test_a_look_in_which_nothing_was_asked_is_no_silence() -> None:
    state, _ = took(planned(metric()), {"refunds": shares(0.05, 0.05)}, looks=3)
    _, verdict = took(planned(metric()), {}, looks=3, state=state, seed=1)
    assert verdict.silent == [] and result(verdict).verdict == "Pass"


def test_weights_of_the_guardrails_do_not_move_with_the_data() -> None:
    plan = planned(metric())
    _, with_data = took(plan, {"refunds": shares(0.05, 0.05)}, looks=1)
    _, without = took(plan, {"refunds": gone}, looks=1)
    for verdict in (with_data, without):
        assert "of 400." in result(verdict, "errors").message


def test_other_guardrails_go_on_while_a_source_is_silent() -> None:
    _, verdict = took(
        planned(metric()), {"refunds": gone}, candidate=Behaviour(errors=0.3), looks=10
    )
    assert verdict.alarm is not None and verdict.alarm.name == "errors"


def test_another_kind_of_data_is_an_error_and_not_mixed_in() -> None:
    plan = planned(metric(prometheus=None, sql=SQL))
    state, before = took(plan, {"refunds": moments(10.0, 10.0)}, looks=2)
    _, verdict = took(plan, {"refunds": shares(0.1, 0.1)}, looks=1, state=state)
    assert result(verdict).candidate_n == result(before).candidate_n == 800
    assert verdict.silent[0].error
    assert "gives counts where it gave means" in verdict.silent[0].said


NUMBERS = st.floats(allow_nan=True, allow_infinity=True) | st.sampled_from(
    [0.0, 1e-320, 1e-150, 1e99, 1e101, -1e99, 1e308]
)
COUNT = st.integers(0, 1 << 53) | st.integers(0, 100)
COUNTED = st.builds(
    lambda n, x, m, y: Counts(n, min(n, x), m, min(m, y)), COUNT, COUNT, COUNT, COUNT
)
ANY = (
    COUNTED
    | st.builds(Values, NUMBERS, NUMBERS)
    | st.builds(
        lambda n, m, a, b: Means(Moments(n, a, b), Moments(m, b, a)),
        *(st.integers(-5, 1 << 60), st.integers(0, 1 << 54), NUMBERS, NUMBERS),
    )
)


@pytest.mark.parametrize(
    "check",
    [
        metric(),
        metric(direction="Higher", margin=10),
        metric(compare="Limit", direction=None, max=0.5),
        metric(prometheus=GAUGE),
        metric(prometheus=GAUGE, direction="Higher", margin=10),
        metric(prometheus=GAUGE, compare="Limit", direction=None, max=1e12),
        metric(prometheus=None, sql=SQL),
        metric(prometheus=None, sql=SQL, compare="Limit", direction=None, min=-1e12),
    ],
    ids=str,
)
@settings(max_examples=40)
@given(data=st.lists(ANY, min_size=1, max_size=6))
def test_no_number_of_a_source_stops_the_judging(
    check: dict[str, Any], data: list[MetricData]
) -> None:
    plan = planned(check)
    state = judging.begin_step(plan, judging.new_state(plan, "canary"), 0)
    for number, one in enumerate([*data, *([data[0]] * 40)]):
        seen = Look(number, 1.0, 5, ArmLook(n=10), ArmLook(n=10), {"refunds": MetricLook(one)})
        state = judging.absorb(plan, state, seen)
    json.dumps(state, allow_nan=False)
    verdict = judging.judge(plan, state)
    assert len(result(verdict).message) > 10


def test_events_that_come_in_bursts_are_no_evidence() -> None:
    """In one look of five an arm's rate is five times as high."""

    def bursts(rng: np.random.Generator) -> MetricLook:
        share = 0.1 if rng.random() < 0.2 else 0.02
        other = 0.1 if rng.random() < 0.2 else 0.02
        return shares(share, other, n=200)(rng)

    false = 0
    for seed in range(20):
        _, verdict = took(planned(metric()), {"refunds": bursts}, looks=60, seed=seed)
        false += verdict.alarm is not None
    assert false <= 1


def test_each_step_wants_its_own_sample() -> None:
    plan = planned(metric(minSample=500))
    state, _ = took(plan, {"refunds": shares(0.05, 0.05)}, looks=5, step=0)
    state = judging.begin_step(plan, state, 1)
    verdict = judging.judge(plan, state)
    assert "0 of 500 counted by refunds" in verdict.missing
    assert result(verdict).candidate_n == 2000


def test_evidence_of_earlier_steps_is_kept() -> None:
    plan = planned(metric())
    state = judging.begin_step(plan, judging.new_state(plan, "canary"), 0)
    for step in range(3):
        state = judging.begin_step(plan, state, step)
    _, verdict = took(plan, {"refunds": shares(0.05, 0.3)}, state=state)
    assert verdict.alarm is not None


def test_the_watch_judges_metrics_too() -> None:
    plan = planned(metric())
    state = judging.new_state(plan, "watch")
    _, verdict = took(plan, {"refunds": shares(0.05, 0.2)}, state=state)
    assert verdict.alarm is not None and verdict.alarm.name == "refunds"


def test_a_metric_that_says_nothing_of_itself_is_refused() -> None:
    with pytest.raises(ValueError, match="says why"):
        MetricLook()


def test_false_alarms_of_equal_arms_stay_below_alpha() -> None:
    """Three sources at once, in a rollout that spends ten times the usual alpha."""
    checks = [
        metric(name="rate"),
        metric(name="mean", prometheus=None, sql=SQL),
        metric(name="value", prometheus=GAUGE),
    ]
    plan = plan_of(analysis={"checks": [ERRORS, *checks], "alpha": 0.1})
    sources = {
        "rate": shares(0.05, 0.05, n=40),
        "mean": moments(10.0, 10.0, n=40),
        "value": values(10.0, 10.0),
    }
    margins = {"margin": 1.0}
    tight = plan_of(
        analysis={"checks": [ERRORS, *({**c, **margins} for c in checks)], "alpha": 0.1}
    )
    assert [c.margin for c in plan.checks[1:]] == [1.2, 1.1, 1.1]
    false = 0
    for seed in range(60):
        _, verdict = took(tight, sources, looks=80, seed=seed)
        false += verdict.alarm is not None
    assert false <= 0.05 * 60


def data_of(looked: MetricLook) -> MetricData:
    assert looked.data is not None
    return looked.data


def test_a_look_carries_what_was_read() -> None:
    rng = np.random.default_rng(0)
    seen: Look = replace(
        look(rng, 0, weight=50, stable=FINE, candidate=FINE),
        metrics={"refunds": shares(0.5, 0.5)(rng)},
    )
    assert isinstance(data_of(seen.metrics["refunds"]), Counts)
    assert math.isfinite(seen.seconds)
