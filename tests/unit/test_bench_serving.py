"""The comparison of model servers: what it checks, counts and says.  Nothing here measures."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.bench.serving import environments, measure, models, plot, summary
from tests.bench.serving.measure import Cell, Seen
from tests.bench.serving.servers import ALL, BARE, EXPERT, KSERVE, OURS, QUICK, TUTORIAL, Launch
from tests.unit import runtime_support as support

BY_NAME = {server.name: server for server in ALL}
CELL = Cell(1000, 500.0, 1.0, 4.0, 20.0, 0.9, 0.2)
SEEN = Seen(0.3, 0.2, 50.0, 1, {16: CELL})


def times(cpu: float, rate: float = 1.0, p99: float = 1.0) -> Seen:
    """A server that costs so many times the CPU of ours."""
    cell = replace(CELL, cpu=CELL.cpu * cpu, rate=CELL.rate / rate, p99=CELL.p99 * p99)
    return replace(SEEN, cells={16: cell})


@pytest.fixture(scope="module")
def iris(tmp_path_factory: pytest.TempPathFactory) -> models.Model:
    return models.build("iris", tmp_path_factory.mktemp("models") / "iris")


@pytest.fixture(scope="module")
def port(iris: models.Model) -> Iterator[int]:
    with support.serving(iris.folder / "full", "--deployment", "m") as running:
        yield running.port


# Environments.


@pytest.mark.parametrize("peer", sorted(p.name for p in environments.PEERS.iterdir()))
def test_every_requirement_of_a_peer_is_pinned_with_hashes_and_names_no_address(peer: str) -> None:
    text = (environments.PEERS / peer / "requirements.txt").read_text()
    entries = re.split(r"\n(?=\S)", text.strip())
    assert all(re.match(r"[\w.-]+(\[[\w,]+\])?==\S+ ", entry) for entry in entries)
    assert all("--hash=sha256:" in entry for entry in entries)
    assert "://" not in text


def test_every_peer_has_its_version_in_its_title() -> None:
    for server in ALL:
        assert bool(server.version) == (server.environment is not None)
        assert server.version in summary.TITLES[server.name]


def test_another_pinned_file_is_another_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environments, "PEERS", tmp_path)
    pinned = tmp_path / "x" / "requirements.txt"
    pinned.parent.mkdir()
    pinned.write_text("a==1")
    first = environments.folder("x")
    pinned.write_text("a==2")
    assert environments.folder("x") != first


def test_what_cannot_be_installed_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "PEERS", tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pinned = tmp_path / "x" / "requirements.txt"
    pinned.parent.mkdir()
    pinned.write_text("no-hash==1.0\n")
    with pytest.raises(environments.NotInstalled, match="hash"):
        environments.python("x")
    assert not (environments.folder("x") / environments.DONE).exists()


# Answers.


def test_right_answers_pass_and_a_wrong_one_takes_the_numbers_away(
    iris: models.Model, port: int
) -> None:
    server = BY_NAME[OURS]
    measure.check(server, iris, port)
    lied = replace(iris, answers=[(iris.answers[0] + 1) % 3, *iris.answers[1:]])
    with pytest.raises(measure.Failed, match="wrong answer"):
        measure.check(server, lied, port)
    with pytest.raises(measure.Failed, match="404"):
        measure.check(replace(server, path="/v1/models/other:predict"), iris, port)


def test_a_server_that_ends_is_a_failure_with_its_last_words(
    iris: models.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "SERVER_CORE", "0")
    ends = replace(
        BY_NAME[OURS], command=lambda _: [sys.executable, "-c", "raise SystemExit('no licence')"]
    )
    with pytest.raises(measure.Failed, match="exited 1: no licence"):
        measure.run(ends, Path(sys.executable), iris, tmp_path / "x", (16,), 1)


def test_every_server_is_asked_for_the_row_it_is_given(iris: models.Model, tmp_path: Path) -> None:
    row = iris.rows[0]
    for server in ALL:
        assert all(str(value) in server.payload(iris, row) for value in row)
        command = server.command(Launch(Path("python"), iris, 8123, tmp_path))
        told = " ".join(command) + "".join(p.read_text() for p in tmp_path.glob("*.json"))
        assert "8123" in told


def test_the_bare_package_is_the_same_model_without_a_profile(iris: models.Model) -> None:
    full, bare = (iris.folder / name for name in ("full", "bare"))
    assert (full / "model.onnx").read_bytes() == (bare / "model.onnx").read_bytes()
    assert {p.name for p in full.iterdir()} - {p.name for p in bare.iterdir()} == {models.PROFILE}


# What is said.


def test_the_median_of_rounds_is_taken_number_by_number() -> None:
    one = summary.middle([times(1.0, p99=9.0), times(3.0, p99=1.0), times(2.0, p99=2.0)])
    assert (one.cells[16].cpu, one.cells[16].p99, one.cells[16].rate) == (40.0, 8.0, 500.0)


def test_a_promise_is_kept_or_not_by_cpu_a_request() -> None:
    found = {
        ("iris", OURS): SEEN,
        ("iris", BARE): times(0.4),
        ("iris", KSERVE): times(30.0, rate=2.0, p99=8.0),
        ("iris", EXPERT): times(2.0, rate=9.0),
        ("forest", OURS): SEEN,
        ("forest", KSERVE): times(99.0),
    }
    rows = {row.what: row for row in summary.promises(found)}
    said = {what.rpartition("to ")[2]: row.verdict for what, row in rows.items()}
    assert rows["features, CPU a request"].verdict == "not yet"
    assert rows["p99 at 16 connections"].verdict == "ok"
    assert said[summary.TITLES[EXPERT]] == "not yet"
    forest = next(row for what, row in rows.items() if what.startswith("100-tree"))
    assert forest.verdict == "not yet"
    assert forest.share == pytest.approx(100 / 99)
    kserve = next(row for what, row in rows.items() if what.startswith("iris") and "KServe" in what)
    assert (kserve.share, kserve.measured) == (
        pytest.approx(0.5),
        "30.0x by CPU a request, 2.0x by requests/s",
    )


def test_what_was_not_measured_is_not_promised() -> None:
    assert summary.promises({("iris", KSERVE): SEEN}) == []
    assert "2.0x" not in summary.table({("iris", KSERVE): times(2.0)}, (16,))


def test_the_table_and_the_picture_have_every_server(tmp_path: Path) -> None:
    found = {("iris", name): times(k + 1.0) for k, name in enumerate(QUICK)}
    text = summary.table(found, (16,))
    assert all(summary.TITLES[name] in text for name in QUICK)
    assert "3.0x/1.0x" in text
    assert plot.write(tmp_path / "p.svg", found)
    assert summary.TITLES[TUTORIAL] in (tmp_path / "p.svg").read_text()


def test_a_load_generator_at_its_limit_is_said() -> None:
    busy = replace(CELL, load_busy=0.97)
    assert "THE LIMIT" in summary.generator({("iris", OURS): replace(SEEN, cells={16: busy})})
    assert "never the limit" in summary.generator({("iris", OURS): SEEN})
