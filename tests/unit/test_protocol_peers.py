"""`make protocol-peers` fails when a check fails or a client is missing, and says which."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from tests.protocol_peers import __main__ as peers
from tests.tools.peers import Missing, run


def test_a_check_that_fails_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    outcomes = {"good": None, "infer in bytes": "AssertionError: off by 1"}
    monkeypatch.setattr(peers, "answers", lambda peer, given: outcomes)
    assert peers.asked("kserve", {}) == 1
    printed = capsys.readouterr().out.splitlines()
    assert "infer in bytes" in printed[1] and "FAILED: AssertionError: off by 1" in printed[1]
    assert printed[-1].split() == ["kserve", "1", "of", "2", "passed"]


def test_a_client_that_asked_nothing_did_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "answers", lambda peer, given: {})
    assert peers.asked("kserve", {}) == 1


def test_a_client_that_cannot_be_installed_is_said_to_be_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def gone(peer: str, given: object) -> dict[str, str | None]:
        raise Missing("no matching distribution")

    monkeypatch.setattr(peers, "answers", gone)
    assert peers.asked("tritonclient", {}) == 1
    assert "NOT ASKED: no matching distribution" in capsys.readouterr().out


def test_what_a_check_raises_is_its_outcome() -> None:
    script = (
        "from checks import check, main, near\n"
        "check('same')(lambda given: near(given, [1, 2]))\n"
        "check('off')(lambda given: near(given, [1, 3]))\n"
        "check('short')(lambda given: near(given, [1]))\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=peers.HERE,
        input="[1, 2]",
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert json.loads(done.stdout) == {
        "same": None,
        "off": "AssertionError: off by 1",
        "short": "AssertionError: 2 values for 1",
    }


def test_a_client_that_ends_badly_is_missing() -> None:
    with pytest.raises(Missing, match="out of luck"):
        run([sys.executable, "-c", "import sys; sys.exit('out of luck')"], 60)


@pytest.mark.parametrize("peer", peers.PEERS)
def test_every_requirement_is_pinned_with_hashes(peer: str) -> None:
    lines = (peers.HERE / f"{peer}.txt").read_text(encoding="utf-8").splitlines()
    pins = [k for k, line in enumerate(lines) if "==" in line.split(";")[0]]
    assert pins and all("--hash=sha256:" in lines[k + 1] for k in pins)
