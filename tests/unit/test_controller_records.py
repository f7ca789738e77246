"""Records: what is forgotten, what cannot be read, and what people are told then."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.unit.controller_world import OWNER, revision

from sluice.api.meta import LABEL_OPERATOR_CLASS
from sluice.api.modelrevision import PackageInfo
from sluice.controller.history import forgettable, left
from sluice.controller.records import progress_of, revision_object, revision_of
from sluice.controller.stalled import stalled
from sluice.errors import InvalidInputError
from sluice.rollout.model import NewRevision, Revision

NOW = datetime(2026, 6, 1, tzinfo=UTC)


def ago(**time: float) -> str:
    return (NOW - timedelta(**time)).isoformat().replace("+00:00", "Z")


def gone(*revisions: Revision, history: int = 2, **changes: Any) -> list[str]:
    options = {"kept": set(), "source": "", "now": NOW.timestamp(), **changes}
    return forgettable(revisions, history=history, **options)


def test_only_the_newest_passed_ones_are_remembered() -> None:
    old = [revision(f"r{day}", at=ago(days=day)) for day in range(1, 6)]
    assert gone(*old) == ["r5", "r4", "r3"]
    assert gone(*old, kept={"r5"}) == ["r4", "r3"]
    assert gone(*old, source="source-r4") == ["r5", "r3"]


def test_broken_builds_do_not_push_out_what_can_be_gone_back_to() -> None:
    passed = [revision(f"p{day}", at=ago(days=40 + day)) for day in range(2)]
    builds = [revision(f"b{day}", "Validated", at=ago(days=day)) for day in range(4)]
    assert gone(*passed, *builds) == ["b3", "b2"]


def test_a_quarantine_lasts_thirty_days() -> None:
    young = revision("young", "Failed", at=ago(days=29))
    assert gone(young, revision("old", "Failed", at=ago(days=31)), history=1) == ["old"]
    assert left(young, NOW.timestamp()) == pytest.approx(86400)


def test_an_unreadable_time_is_never_long_ago() -> None:
    assert gone(revision("odd", "Failed", at="soon", created="never")) == []


def test_the_class_of_the_operator_is_on_the_record() -> None:
    package = PackageInfo(digest="sha256:" + "0" * 64)
    new = NewRevision("abc", "src", "s3://m", package, "sluice", {})
    assert LABEL_OPERATOR_CLASS not in revision_object(OWNER, new, {})["metadata"]["labels"]
    made = revision_object(OWNER, new, {}, "blue")
    assert made["metadata"]["labels"][LABEL_OPERATOR_CLASS] == "blue"


def test_a_record_that_cannot_be_read_is_named() -> None:
    with pytest.raises(InvalidInputError, match="ModelRevision iris-rev-1 ") as caught:
        revision_of({"metadata": {"name": "iris-rev-1"}, "spec": {"deployment": "iris"}})
    assert caught.value.reason == "RecordUnreadable"
    config = {"metadata": {"name": "iris-evidence"}, "data": {"progress.json": "{"}}
    with pytest.raises(InvalidInputError, match="iris-evidence"):
        progress_of(config)


def test_what_cannot_be_read_is_stalled_and_the_rest_stays() -> None:
    before = {
        "observedGeneration": 1,
        "url": "http://iris",
        "conditions": [
            {"type": "Available", "status": "True", "lastTransitionTime": "then"},
            {"type": "Stalled", "status": "False", "lastTransitionTime": "then"},
        ],
    }
    mdep = {"metadata": {"generation": 2}, "status": before}
    error = InvalidInputError("spec.mode: unknown.", hint="Upgrade.", reason="InvalidSpec")
    status = stalled(mdep, error, NOW.timestamp())
    rows = {c["type"]: c for c in status["conditions"]}
    assert status["url"] == "http://iris"
    assert status["observedGeneration"] == 2
    assert rows["Available"]["lastTransitionTime"] == "then"
    assert (rows["Stalled"]["status"], rows["Stalled"]["reason"]) == ("True", "InvalidSpec")
    assert rows["Ready"]["message"] == "spec.mode: unknown. Upgrade."
    again = stalled({**mdep, "status": status}, error, NOW.timestamp() + 60)
    assert again == status, "said once"
