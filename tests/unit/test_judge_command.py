"""`sluice judge FILE` checks a verdict by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sluice.cli.judge import command
from sluice.errors import InvalidInputError

HEADER = "look,arm,pod,n,events\n"


def judge(tmp_path: Path, text: str, *options: str) -> Result:
    file = tmp_path / "looks.csv"
    file.write_text(text, encoding="utf-8")
    return CliRunner().invoke(command, [str(file), *options])


def rows(candidate_events: int, looks: int = 10) -> str:
    return HEADER + "".join(
        f"{k},stable,a,450,1\n{k},candidate,b,30,{candidate_events}\n{k},candidate,c,20,0\n"
        for k in range(looks)
    )


def test_a_worse_candidate_fails_and_stays_failed(tmp_path: Path) -> None:
    result = judge(tmp_path, rows(3), "--json")
    assert result.exit_code == 0, result.output
    looks = json.loads(result.output)["looks"]
    assert [r["look"] for r in looks] == list(range(10))
    last = looks[-1]
    assert last["verdict"] == "Fail" and last["log10_evidence"] > 1.3
    assert last["low"] > 1.0 and last["low"] < last["estimate"]
    assert set(last) == {"look", "log10_evidence", "estimate", "low", "high", "verdict"}


def test_pods_are_added_up(tmp_path: Path) -> None:
    split = judge(tmp_path, rows(3), "--json").output
    whole = HEADER + "".join(
        f"{k},candidate,b,50,3\n{k},stable,a,450,1\n" for k in reversed(range(10))
    )
    assert judge(tmp_path, whole, "--json").output == split


def test_a_better_candidate_is_a_difference_only_when_asked_two_sided(tmp_path: Path) -> None:
    better = HEADER + "".join(f"{k},stable,a,500,20\n{k},candidate,b,500,1\n" for k in range(10))
    one = json.loads(judge(tmp_path, better, "--json").output)["looks"][-1]
    two = json.loads(judge(tmp_path, better, "--json", "--sided", "two").output)["looks"][-1]
    assert (one["verdict"], two["verdict"]) == ("Inconclusive", "Fail")


def test_the_table_is_for_people(tmp_path: Path) -> None:
    result = judge(tmp_path, rows(3, looks=2), "--margin", "1.2")
    assert "odds ratio" in result.output.splitlines()[0]
    assert len(result.output.splitlines()) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("look,arm,n\n", "no column events"),
        (HEADER, "has no rows"),
        (HEADER + "1,stable,a,10,11\n", "line 2: 11 events of 10 requests"),
        (HEADER + "1,other,a,10,1\n", "arm 'other'"),
        (HEADER + "1,stable,a,ten,1\n", "whole numbers"),
        (HEADER + "1,stable,a,nan,1\n", "whole numbers"),
        (HEADER + "1,stable\n", "whole numbers"),
    ],
)
def test_what_cannot_be_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    result = judge(tmp_path, text)
    assert isinstance(result.exception, InvalidInputError)
    assert message in str(result.exception)
