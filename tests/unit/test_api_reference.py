"""docs/api.md is made from the models, and says everything that they say."""

from __future__ import annotations

from pathlib import Path

from sluice.api import reference
from sluice.api.conditions import TYPES
from sluice.api.meta import COMMANDS

DOCS = Path(__file__).parents[2] / "docs" / "api.md"


def test_the_committed_page_is_current() -> None:
    assert reference.main(["--check", str(DOCS)]) == 0


def test_the_page_names_fields_rules_conditions_and_commands() -> None:
    page = reference.page()
    for wanted in ("`spec.rollout.steps[].weight`", "weights must rise", *TYPES, *COMMANDS):
        assert wanted in page


def test_every_row_has_three_cells() -> None:
    rows = [line for line in reference.page().splitlines() if line.startswith("| ")]
    odd = [row for row in rows if row.replace("\\|", "").count("|") not in (3, 4)]
    assert odd == []


def test_check_fails_on_an_old_page(tmp_path: Path) -> None:
    old = tmp_path / "api.md"
    assert reference.main(["--check", str(old)]) == 1
    old.write_text("old")
    assert reference.main(["--check", str(old)]) == 1
    assert reference.main([str(old)]) == 0
    assert reference.main(["--check", str(old)]) == 0
