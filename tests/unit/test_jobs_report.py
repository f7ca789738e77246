"""A report always fits a termination message, and always stays readable."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from sluice.errors import PackageError, SourceError
from sluice.jobs import report as reports

TEXT = st.text(st.characters(codec="utf-8"), max_size=6000)


@settings(max_examples=60)
@given(
    st.lists(
        st.fixed_dictionaries(
            {"name": st.sampled_from(["smoke", "golden"]), "verdict": st.just("Fail"), "m": TEXT}
        ),
        max_size=5,
    ),
    st.lists(TEXT, max_size=40),
)
def test_it_fits(gates: list[dict[str, Any]], imports: list[str]) -> None:
    data = reports.encode({"ok": False, "gates": gates, "package": {"imports": imports}})
    assert len(data) <= reports.LIMIT
    read = json.loads(data)
    assert [g["verdict"] for g in read["gates"]] == ["Fail"] * len(gates)
    assert read["ok"] is False


def test_what_fits_is_not_changed() -> None:
    report = {"ok": True, "gates": [{"name": "smoke", "verdict": "Pass", "message": "ü" * 500}]}
    assert json.loads(reports.encode(report)) == report


def test_failures() -> None:
    busy = reports.failure(
        SourceError("No answer.", hint="Wait.", reason="Timeout", retryable=True)
    )
    assert busy == {
        "ok": False,
        "reason": "Timeout",
        "message": "No answer. Wait.",
        "retryable": True,
    }
    assert reports.failure(PackageError("Broken.", reason="Corrupt"))["retryable"] is False
    assert len(reports.failure(PackageError("x" * 5000))["message"]) == reports.MAX_MESSAGE


def test_a_report_that_cannot_be_written_hides_nothing(tmp_path: Path) -> None:
    assert reports.write({"ok": True}, tmp_path / "no" / "such" / "place") == b'{"ok":true}'
    (tmp_path / "log").write_text("older and longer than the report")
    reports.write({"ok": True}, tmp_path / "log")
    assert (tmp_path / "log").read_bytes() == b'{"ok":true}'


def test_a_signature_is_never_cut() -> None:
    package = {"signature": "s" * 2816, "imports": ["x" * 70] * 20, "digest": "d" * 71, "name": "n"}
    read = json.loads(reports.encode({"ok": True, "package": package}))["package"]
    assert (read["signature"], read["digest"]) == ("s" * 2816, "d" * 71)
    assert 0 < len(read["imports"]) < 20
