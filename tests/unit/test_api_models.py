"""Durations, addresses and quantities as people write them, and what the models make of them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sluice.api.duration import human, seconds
from sluice.api.modeldeployment import ModelDeploymentSpec
from sluice.api.modelrevision import RevisionSpec
from sluice.api.serving import ResourceList
from sluice.api.status import (
    CheckStatus,
    Condition,
    GateStatus,
    ModelDeploymentStatus,
    Role,
    Weight,
)
from sluice.api.trustpolicy import TrustPolicySpec


@pytest.mark.parametrize(
    ("text", "value"),
    [("2s", 2), ("500ms", 0.5), ("1h30m", 5400), ("168h", 604800), ("0s", 0), ("1m1s1ms", 61.001)],
)
def test_durations_are_read_as_gateway_api_writes_them(text: str, value: float) -> None:
    assert seconds(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "7d", "1.5h", "-1s", "10", "1 h", "1h\n", "1h1m1s1ms1h"])
def test_other_durations_are_not_guessed_at(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        seconds(text)


@given(st.lists(st.tuples(st.integers(0, 99999), st.sampled_from(["h", "m", "s", "ms"])),
                min_size=1, max_size=4))  # fmt: skip
def test_a_duration_is_the_sum_of_its_parts(parts: list[tuple[int, str]]) -> None:
    unit = {"h": 3600, "m": 60, "s": 1, "ms": 0.001}
    total = sum(n * unit[u] for n, u in parts)
    assert seconds("".join(f"{n}{u}" for n, u in parts)) == pytest.approx(total)


def test_durations_for_people() -> None:
    assert [human(v) for v in (45, 720, 12600, 276480)] == [
        "45 s",
        "12 min",
        "3.5 h",
        "3.2 days",
    ]


def test_the_smallest_spec_has_a_safe_default_for_everything() -> None:
    spec = ModelDeploymentSpec.model_validate({"model": {"uri": "s3://models/iris"}})
    assert spec.replicas == 2
    assert spec.rollout.strategy == "Canary"
    assert spec.rollout.on_fail == "Rollback"
    assert spec.rollout.on_inconclusive == "Hold"
    assert seconds(spec.analysis.interval) == 10
    assert spec.validation.initial == "Required"


def test_fields_of_a_newer_version_are_ignored_on_read() -> None:
    spec = ModelDeploymentSpec.model_validate(
        {"model": {"uri": "s3://m/i", "track": {"channel": "prod"}}, "canary": {}}
    )
    assert spec.model.uri == "s3://m/i"


def test_an_integer_quantity_is_the_text_it_stands_for() -> None:
    whole, text = (ResourceList.model_validate({"cpu": cpu}) for cpu in (2, "2"))
    assert whole == text
    assert whole.cpu == "2"


@pytest.mark.parametrize("cpu", [True, 0.5, "two", "1 Gi", ""])
def test_what_is_no_quantity_is_refused(cpu: object) -> None:
    with pytest.raises(ValidationError):
        ResourceList.model_validate({"cpu": cpu})


def test_every_model_is_frozen() -> None:
    spec = ModelDeploymentSpec.model_validate({"model": {"uri": "s3://m/i"}})
    with pytest.raises(ValidationError):
        spec.replicas = 3  # type: ignore[misc]


def test_status_is_written_as_the_schema_names_it() -> None:
    role = Role(revision="ab12", digest="sha256:0", weight=Weight(desired=5), ready="2/2")
    condition = Condition(
        type="Ready", status="Unknown", reason="Observing", last_transition_time="t"
    )
    written = ModelDeploymentStatus(
        observed_generation=3, candidate=role, conditions=[condition]
    ).model_dump(by_alias=True, exclude_none=True)
    assert written["observedGeneration"] == 3
    assert written["candidate"]["weight"] == {"desired": 5}
    assert "stable" not in written
    assert written["conditions"][0]["lastTransitionTime"] == "t"


def test_a_trust_line_admits_both_classes_unless_told() -> None:
    policy = TrustPolicySpec.model_validate({"namespaces": ["dev"], "admit": [{"anyDigest": True}]})
    assert set(policy.admit[0].classes) == {"Code", "Restricted"}


def test_a_record_keeps_what_it_does_not_understand() -> None:
    template = {"spec": {"containers": [{"name": "model", "new": {"field": 1}}]}}
    record = RevisionSpec.model_validate(
        {
            "deployment": "iris",
            "source": "0",
            "uri": "s3://m/i",
            "package": {"digest": "sha256:" + "0" * 64},
            "runtimeImage": "sluice:1",
            "hashVersion": 1,
            "identity": {"later": True},
            "podTemplate": template,
        }
    )
    assert record.model_dump(by_alias=True)["podTemplate"] == template


def test_numbers_that_json_cannot_hold_are_absent_from_status() -> None:
    check = CheckStatus(
        name="errors", verdict="NoData", low=-math.inf, high=math.inf, effect=math.nan
    )
    written = check.model_dump(by_alias=True, exclude_none=True)
    assert not {"low", "high", "effect"} & written.keys()


def test_a_long_sentence_is_cut_and_says_so() -> None:
    gate = GateStatus(name="smoke", verdict="Fail", message="x" * 600)
    assert len(gate.message) == 512
    assert gate.message.endswith("x…")
