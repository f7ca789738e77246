"""The gates: what they let through, what they stop, and that no model takes the report with it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
from tests.tools.packages import code_package, linear_package, linear_score, write_package

from sluice.errors import PackageError
from sluice.jobs.gates import Bench, CannotJudgeError
from sluice.jobs.validate import GateResult, Plan, Validation, read_gates, report, validate
from sluice.jobs.worker import judge
from sluice.package.manifest import Input, Output, decode

OPERATOR = Path(__file__).parents[2] / "operator"
WEIGHTS = {"a": 1.0, "b": -2.0}


def run(candidate: Path, stable: Path | None = None, **options: Any) -> dict[str, GateResult]:
    result = validate(Plan(candidate, stable, **options))
    assert not result.not_run
    return {gate.name: gate for gate in result.gates}


def failed(gates: dict[str, GateResult]) -> list[str]:
    return [name for name, gate in gates.items() if not gate.passed]


@pytest.fixture
def v1(tmp_path: Path) -> Path:
    linear_package(tmp_path / "v1")
    return tmp_path / "v1"


# smoke, golden, latency


def test_a_good_package(v1: Path) -> None:
    gates = run(v1, gates={"latency": {"p99": "1s", "requests": 50}})
    assert list(gates) == ["smoke", "schema", "golden", "latency"]
    assert failed(gates) == []
    assert "batch = rows" in gates["smoke"].message
    assert "p50" in gates["latency"].message and "p99" in gates["latency"].message


def test_without_examples(tmp_path: Path) -> None:
    linear_package(tmp_path / "p", golden=[])
    gates = run(tmp_path / "p")
    assert failed(gates) == []
    assert "made up" in gates["smoke"].message
    assert "no examples" in gates["golden"].message


def test_a_bare_onnx_file(v1: Path) -> None:
    assert failed(run(v1 / "model.onnx")) == []


def test_examples_that_are_answered_otherwise(tmp_path: Path) -> None:
    right = [linear_score(WEIGHTS, 0.0)({"a": i / 10, "b": (i + 1) / 10}) for i in range(8)]
    wrong = [score + (3e-7 if i == 5 else 0.0) for i, score in enumerate(right)]
    linear_package(tmp_path / "p", golden_scores=wrong)
    gates = run(tmp_path / "p")
    assert failed(gates) == ["golden"]
    assert "1 of 8" in gates["golden"].message and "row 5" in gates["golden"].message
    assert failed(run(tmp_path / "p", gates={"golden": {"tolerance": 1e-6}})) == []


def test_a_label_that_is_answered_otherwise(tmp_path: Path) -> None:
    row = {"a": 1.0, "b": 0.0}
    score = linear_score(WEIGHTS, 0.0)(row)
    linear_package(tmp_path / "p", golden=[row], golden_scores=[score], threshold=score)
    at_the_threshold = run(tmp_path / "p", gates={"golden": {"tolerance": 1e-6}})
    assert failed(at_the_threshold) == []
    golden = tmp_path / "p" / "golden.json"
    swapped = golden.read_bytes().replace(b'"label":1', b'"label":0')
    files = {"model.onnx": (tmp_path / "p" / "model.onnx").read_bytes(), "golden.json": swapped}
    manifest = decode((tmp_path / "p" / "sluice.json").read_bytes())
    keep = {n: getattr(manifest, n) for n in ("name", "task", "model", "inputs")}
    write_package(tmp_path / "tie", files, output=manifest.output, **keep)
    assert failed(run(tmp_path / "tie", gates={"golden": {"tolerance": 1e-6}})) == []
    output = Output(labels=(0, 1), positive=1, threshold=0.3)
    write_package(tmp_path / "off", files, output=output, **keep)
    message = run(tmp_path / "off")["golden"].message
    assert message == "recorded example 0 has label 1, recorded 0"


def test_a_score_that_is_no_number(tmp_path: Path) -> None:
    golden = [{"a": 0.1, "b": 0.2}, {"a": None, "b": 0.2}]
    linear_package(tmp_path / "p", impute=False, golden=golden)
    gates = run(tmp_path / "p")
    assert failed(gates) == ["smoke", "golden"]
    assert "row 1 is nan, not a finite number (1 of 2 rows)" in gates["smoke"].message


def test_too_slow(v1: Path) -> None:
    gates = run(v1, gates={"latency": {"p99": "0ms", "requests": 50}})
    assert failed(gates) == ["latency"] and "above the limit of 0 ms" in gates["latency"].message


# misbehaving code


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise KeyError('pressure')", "it raises KeyError: 'pressure'"),
        ("raise SystemExit(0)", "it raises SystemExit"),
        ("bytearray(1 << 60)", "it raises MemoryError"),
        ("import random; frame = frame + random.random()", "asked twice, row 0 scores"),
        ("frame = frame + len(frame)", "alone"),
        ("frame = frame.iloc[1:]", "it raises WrongShapeError"),
        ("frame = None", "it raises"),
    ],
)
@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
def test_code_that_misbehaves(body: str, message: str, tmp_path: Path) -> None:
    """In this process, for speed: what the worker makes of it."""
    code_package(tmp_path / "p", f"def prepare(frame):\n    {body}\n    return frame\n")
    told = judge(Bench(tmp_path / "p", allow_code=True), "smoke")
    assert told["verdict"] == "Fail" and message in told["message"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("import os; os.closerange(3, 100); os._exit(0)", "ended itself (exit code 0)"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "crashed (SIGSEGV)"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "most likely out of memory"),
        ("import time; time.sleep(600)", "did not finish within"),
    ],
)
def test_code_that_takes_its_process_along(body: str, message: str, tmp_path: Path) -> None:
    code_package(tmp_path / "p", f"def prepare(frame):\n    {body}\n    return frame\n")
    result = validate(
        Plan(tmp_path / "p", allow_code=True, gate_seconds=4 if "sleep" in body else 60)
    )
    assert not result.ok and result.not_run == ["schema", "golden"]
    assert message in result.gates[0].message


def test_a_crash_in_a_later_gate_costs_only_that_gate(tmp_path: Path) -> None:
    source = """
import os
calls = 0
def prepare(frame):
    global calls
    calls += 1
    if calls == 7:  # smoke asks six times: a batch twice and four rows
        os._exit(9)
    return frame
"""
    code_package(tmp_path / "p", source)
    gates = run(tmp_path / "p", allow_code=True, gates={"latency": {"p99": "60s", "requests": 50}})
    assert failed(gates) == ["golden", "latency"]
    assert "exit code 9" in gates["golden"].message


@pytest.mark.parametrize(
    "source", ["raise ImportError('no module named pressure')", "def prepare(:", "x = 1"]
)
def test_code_that_cannot_be_loaded(source: str, tmp_path: Path) -> None:
    code_package(tmp_path / "p", source)
    told = judge(Bench(tmp_path / "p", allow_code=True), "smoke")
    assert told["verdict"] == "Fail" and told["loaded"] is False


def test_without_a_loaded_model_no_other_gate_runs(tmp_path: Path) -> None:
    code_package(tmp_path / "p", "raise ImportError('no module named pressure')")
    result = validate(Plan(tmp_path / "p", allow_code=True))
    assert not result.loaded and not result.ok
    assert result.not_run == ["schema", "golden"]
    assert [(g.name, g.passed) for g in result.gates] == [("smoke", False)]


def test_code_is_not_loaded_without_consent(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    code_package(tmp_path / "p", f"open({str(marker)!r}, 'w')\ndef prepare(f): return f\n")
    with pytest.raises(PackageError) as error:
        validate(Plan(tmp_path / "p"))
    assert error.value.reason == "Untrusted"
    assert not marker.exists()


def test_a_damaged_package_is_no_verdict(v1: Path) -> None:
    (v1 / "model.onnx").write_bytes(b"x")
    with pytest.raises(PackageError):
        validate(Plan(v1))


# schema

A = Input(name="a", type="float", nullable=True, min=-1.0, max=1.0)
B = Input(name="b", type="float", nullable=True, min=-5.0, max=1.0)
C = Input(name="c", type="float", nullable=False, min=0.0, max=9.0)


def variant(base: Input, **changes: Any) -> Input:
    fields = {name: getattr(base, name) for name in base.__struct_fields__}
    return Input(**{**fields, **changes})


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ([A, B, C], "input 'c' is new and required"),
        ([A], "input 'b' is removed"),
        ([A, variant(B, name="bb")], "'b' seems to be renamed to 'bb'"),
        ([A, variant(B, type="string")], "input 'b' is string, was float"),
        ([A, variant(B, type="int")], "input 'b' is int, was float"),
        ([A, variant(B, nullable=False)], "input 'b' may no longer be null"),
    ],
)
def test_what_would_break_clients(inputs: list[Input], words: str, tmp_path: Path) -> None:
    linear_package(tmp_path / "v1", inputs=[A, B])
    weights = {i.name: 1.0 for i in inputs if i.type != "string"} or {"a": 1.0}
    golden = [{i.name: "x" if i.type == "string" else 1 for i in inputs}]
    linear_package(tmp_path / "v2", inputs=inputs, weights=weights, golden=golden)
    gates = run(tmp_path / "v2", tmp_path / "v1")
    assert "schema" in failed(gates)
    assert words in gates["schema"].message
    allowed = run(tmp_path / "v2", tmp_path / "v1", gates={"schema": {"breaking": "Allow"}})
    assert "schema" not in failed(allowed)
    assert words in allowed["schema"].message


def test_what_breaks_nobody(tmp_path: Path) -> None:
    linear_package(tmp_path / "v1", inputs=[variant(A, type="int", nullable=False), B],
                   golden=[{"a": 1, "b": 0.5}])  # fmt: skip
    wider = [A, B, variant(C, required=False, nullable=True)]
    linear_package(
        tmp_path / "v2", inputs=wider, weights={"a": 1.0, "b": 1.0, "c": 1.0}, threshold=0.4,
        golden=[{"a": 1, "b": 0.5, "c": 1}],
    )  # fmt: skip
    message = run(tmp_path / "v2", tmp_path / "v1")["schema"].message
    assert "input 'c' is new (optional)" in message
    assert "the threshold is 0.4, was 0.5" in message
    assert "stable's 1 examples are answered" in message


def test_other_labels(tmp_path: Path) -> None:
    linear_package(tmp_path / "v1", labels=("no", "yes"))
    linear_package(tmp_path / "v2", labels=("no", "maybe"))
    linear_package(tmp_path / "v3", labels=("yes", "no"))
    assert "the labels are" in run(tmp_path / "v2", tmp_path / "v1")["schema"].message
    assert "score is that of 'no'" in run(tmp_path / "v3", tmp_path / "v1")["schema"].message


def test_stables_examples_must_be_answered(tmp_path: Path) -> None:
    linear_package(tmp_path / "v1", golden=[{"a": None, "b": 1.0}])
    linear_package(tmp_path / "v2", impute=False, golden=[{"a": 1.0, "b": 1.0}])
    gates = run(tmp_path / "v2", tmp_path / "v1")
    assert failed(gates) == ["schema"]
    assert "of stable's examples, the score of row 0 is nan" in gates["schema"].message


def test_a_stable_that_is_gone_is_not_the_candidates_fault(v1: Path, tmp_path: Path) -> None:
    with pytest.raises(CannotJudgeError) as error:
        validate(Plan(v1, tmp_path / "nowhere"))
    assert error.value.reason == "StableUnavailable"


# quality


def dataset(path: Path, rows: int = 4000, missing: float = 0.0, **columns: Any) -> Path:
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=rows), rng.normal(size=rows)
    label = (rng.random(rows) < 1 / (1 + np.exp(-(a - 2 * b)))).astype(int)
    gaps = [None if m < missing else v for m, v in zip(rng.random(rows), a.tolist(), strict=True)]
    table = {"a": pa.array(gaps, pa.float64()), "b": b, "label": label, **columns}
    write = pa_csv.write_csv if path.suffix == ".csv" else pq.write_table
    write(pa.table(table), path)
    return path


def quality(*checks: dict[str, Any], **data: Any) -> dict[str, Any]:
    uri = "file:///fetched/before"
    return {"quality": {"dataset": {"uri": uri, **data}, "checks": list(checks)}}


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_good_enough(suffix: str, v1: Path, tmp_path: Path) -> None:
    data = dataset(tmp_path / f"d{suffix}", missing=0.1)
    gates = run(v1, gates=quality({"metric": "rocAuc", "min": 0.8}), dataset=data)
    assert failed(gates) == [], gates["quality"].message
    assert "on 4,000 rows" in gates["quality"].message


def test_not_good_enough(v1: Path, tmp_path: Path) -> None:
    data = dataset(tmp_path / "d.parquet")
    checks = quality({"metric": "rocAuc", "min": 0.99}, {"metric": "logLoss", "max": 0.9})
    gates = run(v1, gates=checks, dataset=data)
    assert failed(gates) == ["quality"]
    assert "(below 0.99)" in gates["quality"].message
    assert "(at most 0.9)" in gates["quality"].message


def test_worse_than_stable_on_the_same_rows(v1: Path, tmp_path: Path) -> None:
    linear_package(tmp_path / "v2", weights={"a": -1.0, "b": -2.0})
    data = dataset(tmp_path / "d.parquet", missing=0.1)
    metrics = ("rocAuc", "accuracy", "f1", "logLoss")
    gates = quality(*({"metric": metric, "maxDropVsStable": 0.01} for metric in metrics))
    worse = run(tmp_path / "v2", v1, gates=gates, dataset=data)
    assert failed(worse) == ["quality"]
    assert worse["quality"].message.count("worse, more than 0.01") == len(metrics)
    assert failed(run(v1, tmp_path / "v2", gates=gates, dataset=data)) == []
    assert failed(run(v1, v1, gates=gates, dataset=data)) == []
    first = run(tmp_path / "v2", gates=gates, dataset=data)
    assert failed(first) == []
    assert first["quality"].message.count("no stable to compare with") == len(metrics)


def test_a_model_that_cannot_take_missing_values(v1: Path, tmp_path: Path) -> None:
    """Trained after dropna(): every row counts, so this is found before any user finds it."""
    data = dataset(tmp_path / "d.parquet", missing=0.1)
    gates = quality({"metric": "rocAuc", "min": 0.5})
    linear_package(tmp_path / "nan", impute=False)
    message = run(tmp_path / "nan", gates=gates, dataset=data)["quality"].message
    assert "of 4,000 rows are not answered" in message and "not a finite number" in message
    strict = [variant(A, nullable=False), B]
    linear_package(tmp_path / "strict", inputs=strict)
    message = run(tmp_path / "strict", gates=gates, dataset=data)["quality"].message
    assert "field 'a': expected a number (not nullable), got null" in message
    both = quality({"metric": "rocAuc", "min": 0.5, "maxDropVsStable": 0.01})
    message = run(tmp_path / "nan", v1, gates=both, dataset=data)["quality"].message
    assert "rows that stable answers are not answered" in message
    gates_ = run(tmp_path / "nan", tmp_path / "strict", gates=both, dataset=data)
    assert failed(gates_) == [], "stable cannot answer them either"
    assert "that neither model answers left out" in gates_["quality"].message


def test_code_that_raises_on_some_rows(tmp_path: Path) -> None:
    source = "def prepare(frame):\n    assert (frame.a < 2.5).all(), 'too big'\n    return frame\n"
    code_package(tmp_path / "p", source)
    data = dataset(tmp_path / "d.parquet", rows=1000)
    gates = run(
        tmp_path / "p", allow_code=True, dataset=data,
        gates=quality({"metric": "accuracy", "min": 0.5}),
    )  # fmt: skip
    assert "it raises AssertionError: too big" in gates["quality"].message


@pytest.mark.parametrize(
    ("labels", "column"),
    [
        ((0, 1), [True, False]),
        ((0, 1), [1.0, 0.0]),
        ((False, True), [1, 0]),
        (("no", "yes"), ["yes", "no"]),
        (("0", "1"), [1, 0]),
    ],
)
def test_labels_as_files_hold_them(
    labels: tuple[Any, ...], column: list[Any], tmp_path: Path
) -> None:
    linear_package(tmp_path / "p", labels=labels)
    table = pa.table({"a": [9.0, -9.0] * 20, "b": [0.0] * 40, "late": column * 20})
    pq.write_table(table, tmp_path / "d.parquet")
    gates = run(
        tmp_path / "p", dataset=tmp_path / "d.parquet",
        gates=quality({"metric": "accuracy", "min": 1.0}, label="late"),
    )  # fmt: skip
    assert failed(gates) == [], gates["quality"].message


@pytest.mark.parametrize(
    ("prepare", "gates", "reason"),
    [
        (lambda p: p.write_bytes(b"PAR1 but no more"), {}, "DatasetUnreadable"),
        (lambda p: p.write_text(""), {}, "DatasetUnreadable"),
        (lambda p: p.write_text("a,b\n1,2\n"), {}, "DatasetUnreadable"),
        (lambda p: p.write_text("a,b,label\n1,2,\n"), {}, "DatasetUnreadable"),
        (lambda p: p.write_text("a,b,label\n1,2,perhaps\n"), {}, "DatasetUnreadable"),
        (lambda p: p.write_text("a,b,label\n1,2,1\n"), {"metric": "rocAuc"}, "DatasetUnreadable"),
        (lambda p: p.write_text("a,b,label\n1,2,1\n"), {"metric": "rmse"}, "InvalidGates"),
        (lambda p: None, {}, "DatasetUnreadable"),
    ],
)
def test_a_dataset_that_is_none_is_no_verdict(
    prepare: Any, gates: dict[str, Any], reason: str, v1: Path, tmp_path: Path
) -> None:
    prepare(tmp_path / "d")
    check = {"metric": "accuracy", "min": 0.5, **gates}
    with pytest.raises(CannotJudgeError) as error:
        validate(Plan(v1, gates=quality(check), dataset=tmp_path / "d"))
    assert error.value.reason == reason and error.value.hint


def test_the_dataset_is_the_one_that_was_named(v1: Path, tmp_path: Path) -> None:
    data = dataset(tmp_path / "d.parquet", rows=100)
    right = "sha256:" + hashlib.sha256(data.read_bytes()).hexdigest()
    check = {"metric": "accuracy", "min": 0.0}
    assert failed(run(v1, gates=quality(check, digest=right), dataset=data)) == []
    with pytest.raises(CannotJudgeError) as error:
        validate(Plan(v1, gates=quality(check, digest="sha256:" + "0" * 64), dataset=data))
    assert error.value.reason == "DigestMismatch"


def test_rows_are_bounded_and_unlabelled_ones_left_out(v1: Path, tmp_path: Path) -> None:
    label = pa.array([None, 1, 0, 1] * 1000)
    data = dataset(tmp_path / "d.parquet", label=label)
    gates = quality({"metric": "accuracy", "min": 0.0})
    message = run(v1, gates=gates, dataset=data, max_rows=1000)["quality"].message
    assert "on the first 750 rows (250 without a label left out)" in message


def test_a_failure_outranks_what_cannot_be_judged(tmp_path: Path) -> None:
    linear_package(tmp_path / "p", golden_scores=[0.5] * 8)
    gates = quality({"metric": "accuracy", "min": 0.5})
    result = validate(Plan(tmp_path / "p", gates=gates, dataset=tmp_path / "nowhere"))
    assert [g.name for g in result.gates if not g.passed] == ["golden"]
    assert result.not_run == ["quality"] and not result.ok


def test_stable_takes_a_column_that_the_candidate_dropped(tmp_path: Path) -> None:
    linear_package(tmp_path / "v1")
    linear_package(tmp_path / "v2", weights={"b": -2.0})
    checks = quality({"metric": "rocAuc", "maxDropVsStable": 0.001})
    data = dataset(tmp_path / "d.csv", noise=pa.array(["x"] * 4000))
    gates = run(tmp_path / "v2", tmp_path / "v1", gates=checks, dataset=data)
    assert failed(gates) == ["schema", "quality"]
    assert "worse, more than 0.001" in gates["quality"].message


# reports and commands


def test_the_report_is_what_the_operator_reads() -> None:
    result = Validation([GateResult("smoke", True, "fine"), GateResult("golden", False, "off")],
                        True, [])  # fmt: skip
    assert report(result) == {
        "ok": False,
        "gates": [
            {"name": "smoke", "verdict": "Pass", "message": "fine"},
            {"name": "golden", "verdict": "Fail", "message": "off"},
        ],
    }


def test_gates_as_the_api_checks_them(tmp_path: Path) -> None:
    (tmp_path / "g.json").write_text('{"golden": {"tolerance": 0.001}}')
    assert read_gates(str(tmp_path / "g.json"))["golden"] == {"tolerance": 0.001}
    assert read_gates("{}") == {"initial": "Required"}
    check = '{"dataset": {"uri": "s3://b/k"}, "checks": [{"metric": "f1", "minn": 1}]}'
    bad_types = '{"golden": {"tolerance": "x"}}'
    nowhere = str(tmp_path / "nope")
    for bad in (f'{{"quality": {check}}}', '{"smok": {}}', bad_types, "{", nowhere):
        with pytest.raises(CannotJudgeError) as error:
            read_gates(bad)
        assert error.value.reason == "InvalidGates"


def test_the_first_revision_may_be_smoked_only(v1: Path) -> None:
    only = read_gates('{"initial": "SmokeOnly", "latency": {"p99": "1ms"}}')
    assert Plan(v1, gates=only).run == ["smoke"]
    assert Plan(v1, v1, gates=only).run == ["smoke", "schema", "golden", "latency"]


def sluice(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sluice.cli", "validate", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": str(OPERATOR), **environ},
    )


def test_the_command(v1: Path, tmp_path: Path) -> None:
    log = tmp_path / "termination-log"
    ran = sluice(str(v1), SLUICE_TERMINATION_LOG=str(log))
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("✓") == 3 and "3 of 3 gates passed." in ran.stdout
    assert json.loads(log.read_text())["ok"] is True

    linear_package(tmp_path / "bad", golden_scores=[0.5] * 8)
    ran = sluice(str(tmp_path / "bad"), "--stable", str(v1), "--json")
    assert ran.returncode == 1
    said = json.loads(ran.stdout)
    assert [g["verdict"] for g in said["gates"]] == ["Pass", "Pass", "Fail"]

    ran = sluice(str(tmp_path / "nowhere"), "--json")
    assert ran.returncode == 3
    assert json.loads(ran.stdout)["gates"] == [] and json.loads(ran.stdout)["reason"] == "Missing"
    assert "Traceback" not in ran.stderr

    assert sluice(str(v1), "--gates", "{").returncode == 2
    assert sluice(str(v1), "--gate-timeout", "soon").returncode == 2


def test_told_to_stop_it_takes_the_model_along(tmp_path: Path) -> None:
    source = (
        "import os, sys, time\nprint(os.getpid(), file=sys.stderr, flush=True)\ntime.sleep(600)"
    )
    code_package(tmp_path / "p", source)
    process = subprocess.Popen(
        [sys.executable, "-m", "sluice.cli", "validate", str(tmp_path / "p"), "--allow-code"],
        env={**os.environ, "PYTHONPATH": str(OPERATOR)},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    model = process.stderr.readline().strip()
    process.terminate()
    assert process.wait(20) == 143
    process.stderr.close()
    assert not Path("/proc", model).exists()


def test_the_commands_output_is_safe_from_the_model(tmp_path: Path) -> None:
    source = (
        "import os, sys\n"
        "print('noise on load', flush=True); os.write(1, b'more noise\\n')\n"
        "assert not [n for n in os.environ if n.startswith('AWS_')], 'sees credentials'\n"
        "def prepare(frame):\n"
        "    print('noise'); sys.stdout.flush(); return frame\n"
    )
    code_package(tmp_path / "p", source)
    ran = sluice(str(tmp_path / "p"), "--allow-code", "--json", AWS_SECRET_ACCESS_KEY="hush")
    assert ran.returncode == 0, ran.stdout
    assert json.loads(ran.stdout)["ok"] is True
    assert "noise on load" in ran.stderr
    ran = sluice(str(tmp_path / "p"), "--json")
    assert ran.returncode == 3 and json.loads(ran.stdout)["reason"] == "Untrusted"
