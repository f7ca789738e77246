"""`sluice judge FILE` checks a verdict by hand."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result

from sluice.cli.judge import command
from sluice.errors import InvalidInputError, SluiceError

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
    difference = {"difference", "difference_low", "difference_high"}
    assert set(last) == difference | {
        "look",
        "log10_evidence",
        "estimate",
        "low",
        "high",
        "verdict",
    }
    assert 0.0 < last["difference_low"] < last["difference"] < last["difference_high"] < 0.2
    assert last["difference"] == pytest.approx(3 / 50 - 1 / 450)


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
    first, *_, final = result.output.splitlines()
    assert "odds ratio" in first and "difference [low, high]" in first
    assert len(result.output.splitlines()) == 3
    assert "+5.78 pp [" in final and final.count(" pp") == 3
    srm = "look,arm,units\n1,stable,9\n1,candidate,9\n"
    assert "difference" not in judge(tmp_path, srm, "--kind", "srm", "--weight", "0.5").output


def test_an_end_that_nothing_is_known_of_is_a_dash(tmp_path: Path) -> None:
    table = judge(tmp_path, HEADER + "1,stable,a,5,0\n1,candidate,b,5,0\n").output
    assert "[-, -]" in table


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("look,arm,n\n", "no column events"),
        (HEADER, "has no rows"),
        (HEADER + "1,stable,a,10,11\n", "line 2: 11 events of 10 requests"),
        (HEADER + "1,other,a,10,1\n", "arm 'other'"),
        (HEADER + "1,stable,a,ten,1\n", "whole numbers"),
        (HEADER + "1,stable,a,nan,1\n", "whole numbers"),
        (HEADER + "1,stable\n", "2 cells under 5 columns"),
        (HEADER + "1,stable,a,10,1,7\n", "6 cells under 5 columns"),
        (HEADER + "1,stable,a,-10,1\n", "n -10 is negative"),
        (HEADER + "1,stable,a,1e3,1\n", "whole numbers"),
        (HEADER + f"1,stable,a,{'9' * 13},1\n", "n is beyond 1e+12"),
        (HEADER + f"1,stable,a,{'9' * 5000},1\n", "whole numbers"),
        ("", "no column look, arm, n, events"),
        ("look,arm,n,events,n\n1,stable,5,1,5\n", "more than one column 'n'"),
        (HEADER + '1,stable,"a,10,1\n', "not a CSV file"),
    ],
)
def test_what_cannot_be_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    result = judge(tmp_path, text)
    assert isinstance(result.exception, InvalidInputError)
    assert message in str(result.exception)


MEANS = "look,arm,pod,n,sum,sumsq\n"


def units_rows(candidate_mean: float, looks: int = 20) -> str:
    """Outcomes with a standard deviation of 1 around 10 and ``candidate_mean``."""
    return MEANS + "".join(
        f"{k},{arm},{pod},100,{100 * mean},{100 * (mean * mean + 1)}\n"
        for k in range(looks)
        for arm, mean in (("stable", 10.0), ("candidate", candidate_mean))
        for pod in "ab"
    )


def last(result: Result) -> dict[str, object]:
    assert result.exit_code == 0, result.exception
    row = json.loads(result.output)["looks"][-1]
    assert isinstance(row, dict)
    return row


@pytest.mark.parametrize(
    ("candidate", "options", "verdict"),
    [
        (9.5, (), "Fail"),
        (9.5, ("--margin", "0.9"), "Inconclusive"),
        (8.5, ("--margin", "0.9"), "Fail"),
        (10.5, (), "Inconclusive"),
        (10.5, ("--sided", "two"), "Fail"),
        (10.5, ("--better", "lower"), "Fail"),
        (10.5, ("--better", "lower", "--margin", "1.1"), "Inconclusive"),
        (11.5, ("--better", "lower", "--margin", "1.1"), "Fail"),
    ],
)
def test_means_are_judged_in_the_direction_that_is_worse(
    tmp_path: Path, candidate: float, options: tuple[str, ...], verdict: str
) -> None:
    row = last(judge(tmp_path, units_rows(candidate), "--kind", "means", "--json", *options))
    assert row["verdict"] == verdict
    assert row["estimate"] == pytest.approx(candidate - 10.0)
    assert row["low"] < candidate - 10.0 < row["high"]  # type: ignore[operator]
    assert set(row) == {"look", "log10_evidence", "estimate", "low", "high", "verdict"}


def test_means_say_nothing_before_enough_units(tmp_path: Path) -> None:
    row = last(judge(tmp_path, units_rows(1.0, looks=2), "--kind", "means", "--json"))
    assert (row["log10_evidence"], row["low"], row["verdict"]) == (0.0, None, "Inconclusive")
    table = judge(tmp_path, units_rows(1.0, looks=2), "--kind", "means").output
    assert "difference" in table.splitlines()[0] and " - " in table


def test_units_are_compared_with_the_weight_of_the_option_or_of_each_look(tmp_path: Path) -> None:
    even = "look,arm,units\n" + "".join(f"{k},stable,900\n{k},candidate,100\n" for k in range(9))
    row = last(judge(tmp_path, even, "--kind", "srm", "--weight", "0.1", "--json"))
    assert (row["verdict"], row["estimate"]) == ("Inconclusive", pytest.approx(0.1))
    row = last(judge(tmp_path, even, "--kind", "srm", "--weight", "0.12", "--json"))
    assert row["verdict"] == "Fail" and row["high"] < 0.12  # type: ignore[operator]
    ramp = "look,arm,units,weight\n" + "".join(
        f"{k},stable,{1000 - 100 * k},{k / 10}\n{k},candidate,{100 * k},{k / 10}\n"
        for k in range(1, 9)
    )
    row = last(judge(tmp_path, ramp, "--kind", "srm", "--json"))
    assert row["verdict"] == "Inconclusive" and row["log10_evidence"] < 0  # type: ignore[operator]


SRM = "look,arm,units,weight\n"


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("means", HEADER + "1,stable,a,10,1\n", "no column sum, sumsq"),
        ("means", "look,arm,n,sum,sumsq\n1,stable,5,nan,9\n", "line 2: sum 'nan'"),
        ("means", "look,arm,n,sum,sumsq\n1,stable,5,1,-inf\n", "sumsq '-inf'"),
        ("means", "look,arm,n,sum,sumsq\n1,stable,5,x,9\n", "sum must be a number"),
        ("means", "look,arm,n,sum,sumsq\n1,stable,5,1e200,1e300\n", "below 1e+100"),
        ("means", "look,arm,n,sum,sumsq\n1,candidate,5,10,19\n", "line 2: candidate: the sum of"),
        ("means", "look,arm,n,sum,sumsq\n1,candidate,0,10,19\n", "no units"),
        ("means", "look,arm,n,sum,sumsq\n", "has no rows"),
        ("srm", "look,arm,units\n1,stable,5\n", "no column weight"),
        ("srm", SRM + "1,stable,5,0\n", "weight 0.0 must be"),
        ("srm", SRM + "1,stable,5,1.5\n", "weight 1.5 must be"),
        ("srm", SRM + "1,stable,5,nan\n", "weight 'nan'"),
        ("srm", SRM + "1,stable,5,.5\n", "look 1: no row of candidate"),
        ("srm", SRM + "1,stable,5,.5\n1,candidate,5,.4\n", "weights [0.4, 0.5]"),
        ("srm", SRM + "1,stable,-5,.5\n", "negative"),
        ("srm", SRM + "1,stable,5.5,.5\n", "whole numbers"),
    ],
)
def test_files_of_other_kinds_are_checked_as_well(
    tmp_path: Path, kind: str, text: str, message: str
) -> None:
    result = judge(tmp_path, text, "--kind", kind)
    assert isinstance(result.exception, InvalidInputError), result.exception
    assert message in str(result.exception)


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        (
            "means",
            MEANS + "1,stable,a,5,1,9e99\n1,candidate,a,1,1,1\n" * 20,
            "is not a number below",
        ),
        ("srm", SRM + f"1,stable,{10**12},.5\n1,candidate,1,.5\n" * 2, "not a number of units"),
        (
            "srm",
            SRM
            + "".join(
                f"{k},stable,1,{k / 2000}\n{k},candidate,1,{k / 2000}\n" for k in range(1, 200)
            ),
            "more than 100 different weights",
        ),
    ],
)
def test_rows_that_cannot_be_together_are_refused(
    tmp_path: Path, kind: str, text: str, message: str
) -> None:
    result = judge(tmp_path, text, "--kind", kind)
    assert isinstance(result.exception, InvalidInputError), result.exception
    assert message in str(result.exception)


@pytest.mark.parametrize("content", [bytes(range(256)), b"\xff\xfel\x00o\x00", b"\x00" * 99])
@pytest.mark.parametrize("kind", ["counts", "means", "srm"])
def test_what_is_not_text_is_refused(tmp_path: Path, content: bytes, kind: str) -> None:
    file = tmp_path / "looks.csv"
    file.write_bytes(content)
    result = CliRunner().invoke(command, [str(file), "--kind", kind])
    assert isinstance(result.exception, InvalidInputError), result.exception


def test_spreadsheet_files_are_read(tmp_path: Path) -> None:
    text = "\ufeff" + rows(3).replace("\n", "\r\n").replace(",", ", ") + "\r\n"
    assert judge(tmp_path, text, "--json").output == judge(tmp_path, rows(3), "--json").output


def test_huge_numbers_are_judged(tmp_path: Path) -> None:
    counts = "look,arm,n,events\n1,stable,1000000000,9000000\n1,candidate,1000000000,9900000\n"
    assert last(judge(tmp_path, counts, "--json"))["verdict"] == "Fail"
    means = (
        "look,arm,n,sum,sumsq\n1,stable,1000000000,1e15,2e21\n1,candidate,1000000000,9e14,2e21\n"
    )
    row = last(judge(tmp_path, means, "--kind", "means", "--json"))
    assert row["verdict"] == "Fail" and math.isfinite(row["log10_evidence"])  # type: ignore[arg-type]
    units = "look,arm,units\n1,stable,1000000000\n1,candidate,1000100000\n"
    row = last(judge(tmp_path, units, "--kind", "srm", "--weight", "0.5", "--json"))
    assert row["low"] < row["estimate"] < row["high"]  # type: ignore[operator]


def test_a_look_without_one_arm_changes_nothing(tmp_path: Path) -> None:
    for kind, text, more in (
        ("counts", rows(3), "99,stable,a,450,9\n"),
        ("means", units_rows(9.9), "99,candidate,a,100,5000,500000\n"),
    ):
        full = last(judge(tmp_path, text, "--kind", kind, "--json"))
        assert last(judge(tmp_path, text + more, "--kind", kind, "--json")) == {**full, "look": 99}


@pytest.mark.parametrize(
    ("kind", "option"),
    [
        ("srm", "--margin=2"),
        ("srm", "--sided=two"),
        ("counts", "--better=lower"),
        ("means", "--weight=.5"),
        ("counts", "--prior=100"),
    ],
)
def test_options_that_say_nothing_are_refused(tmp_path: Path, kind: str, option: str) -> None:
    result = judge(tmp_path, rows(3), "--kind", kind, option)
    assert isinstance(result.exception, InvalidInputError)
    assert "says nothing about" in str(result.exception)


@pytest.mark.parametrize(
    ("kind", "option"),
    [
        (kind, f"--{name}={value}")
        for kind, name in (
            ("counts", "margin"),
            ("counts", "alpha"),
            ("srm", "weight"),
            ("srm", "prior"),
        )
        for value in ("0", "-1", "nan", "inf", "1e9")
    ],
)
def test_options_out_of_range_are_refused(tmp_path: Path, kind: str, option: str) -> None:
    result = judge(tmp_path, rows(3) if kind == "counts" else ratio_rows(), "--kind", kind, option)
    assert result.exit_code == 2, result.output
    assert option[2:7].split("=")[0] in result.output


def ratio_rows() -> str:
    return "look,arm,units\n" + "".join(f"{k},stable,500\n{k},candidate,430\n" for k in range(9))


PICTURES = [
    ("counts", rows(3), "odds ratio of events"),
    ("means", units_rows(9.5), "difference of means"),
    ("srm", ratio_rows(), "planned share"),
]


@pytest.mark.parametrize(("kind", "text", "words"), PICTURES)
def test_a_picture_has_effect_band_margin_and_evidence(
    tmp_path: Path, kind: str, text: str, words: str
) -> None:
    weight = ("--weight", "0.5") if kind == "srm" else ()
    drawn = []
    for name in ("a.svg", "b.svg", "c.png"):
        target = tmp_path / name
        result = judge(tmp_path, text, "--kind", kind, "--plot", str(target), *weight)
        assert result.exit_code == 0, result.exception
        drawn.append(target.read_bytes())
    said = " ".join(e.text or "" for e in ElementTree.fromstring(drawn[0]).iter() if e.text)
    for part in (words, "confidence sequence (may be looked at any time)", "enough at", "look"):
        assert part in said
    assert "looks.csv: fails since look" in said
    assert drawn[0] == drawn[1], "the same numbers make the same file"
    assert drawn[2].startswith(b"\x89PNG")


@pytest.mark.parametrize("size", ["1e15", "-1e15", "1e40"])
def test_any_means_can_be_drawn(tmp_path: Path, size: str) -> None:
    text = MEANS + f"1,stable,a,9000,{size},1e90\n1,candidate,a,9000,5,9e99\n"
    target = tmp_path / "picture.png"
    result = judge(tmp_path, text, "--kind", "means", "--plot", str(target))
    assert result.exit_code == 0, result.exception
    constant = MEANS + f"1,stable,a,1,{size},1e90\n1,candidate,a,9000,9000,9000\n" * 9
    assert judge(tmp_path, constant, "--kind", "means", "--plot", str(target)).exit_code == 0


@pytest.mark.parametrize(
    "text",
    [
        HEADER + "1,stable,a,10,1\n",
        HEADER + "1,stable,a,10,0\n1,candidate,a,10,10\n",
        HEADER + "-999999999999,stable,a,10,0\n999999999999,candidate,a,10,0\n",
        HEADER + f"1,stable,a,{10**12},1\n1,candidate,a,{10**12},{10**12}\n",
    ],
)
def test_any_file_that_can_be_judged_can_be_drawn(tmp_path: Path, text: str) -> None:
    target = tmp_path / "picture.png"
    result = judge(tmp_path, text, "--plot", str(target))
    assert result.exit_code == 0, result.exception
    assert target.stat().st_size > 1000


def test_a_file_name_is_no_formula(tmp_path: Path) -> None:
    file = tmp_path / "$x_{$.csv"
    file.write_text(rows(3), encoding="utf-8")
    target = tmp_path / "picture.svg"
    result = CliRunner().invoke(command, [str(file), "--plot", str(target)])
    assert result.exit_code == 0, result.exception
    assert "$x_{$.csv" in target.read_text(encoding="utf-8")


def test_pictures_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    for target, message in (("a.pdf", "neither .svg nor .png"), ("no/a.svg", "cannot be written")):
        result = judge(tmp_path, rows(3), "--plot", str(tmp_path / target))
        assert isinstance(result.exception, InvalidInputError)
        assert message in str(result.exception)


def test_without_matplotlib_the_error_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = judge(tmp_path, rows(3), "--plot", str(tmp_path / "a.svg"))
    assert isinstance(result.exception, SluiceError)
    assert "pip install 'sluice-operator[plot]'" in str(result.exception)
    assert judge(tmp_path, rows(3)).exit_code == 0


def test_matplotlib_is_not_loaded_without_a_picture(tmp_path: Path) -> None:
    file = tmp_path / "looks.csv"
    file.write_text(rows(3), encoding="utf-8")
    code = (
        "import sys\nfrom sluice.cli.judge import command\n"
        f"command([{str(file)!r}], standalone_mode=False)\n"
        "assert 'matplotlib' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
