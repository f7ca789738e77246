"""`make stats-peers` fails when a peer is missing or a number is off, and says which."""

from __future__ import annotations

import sys

import pytest
from tests.stats_peers import __main__ as peers
from tests.stats_peers import cases


def test_a_number_that_is_off_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = cases.savvi()
    theirs = {row.name: row.ours for row in rows}
    monkeypatch.setattr(peers, "answers", lambda peer: theirs)
    assert peers.compared("savvi") == 0
    theirs[rows[0].name] += 2 * rows[0].tolerance
    theirs[rows[1].name] = float("nan")
    capsys.readouterr()
    assert peers.compared("savvi") == 2
    marked = [line for line in capsys.readouterr().out.splitlines() if "OFF" in line]
    assert rows[0].name in marked[0] and rows[1].name in marked[1]


def test_a_peer_that_cannot_be_run_is_said_to_be_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing = [sys.executable, "-c", "import sys; sys.exit('no matching distribution')"]
    monkeypatch.setattr(peers, "environment", lambda peer: peers.run(failing, 60))
    assert peers.compared("gbstats") == 1
    assert "NOT COMPARED: no matching distribution" in capsys.readouterr().out


@pytest.mark.parametrize("peer", cases.PEERS)
def test_every_requirement_is_pinned_with_hashes(peer: str) -> None:
    lines = (peers.HERE / f"{peer}.txt").read_text(encoding="utf-8").splitlines()
    pins = [k for k, line in enumerate(lines) if "==" in line.split(";")[0]]
    assert pins and all("--hash=sha256:" in lines[k + 1] for k in pins)
    assert all("://" not in line for line in lines)
