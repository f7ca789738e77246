"""The demo is a test: every promise of the story, read from what it wrote."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.load
@pytest.mark.timeout(900)
def test_the_story_holds() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "demo"], cwd=ROOT, capture_output=True, text=True, timeout=880
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    told = json.loads((ROOT / "build" / "demo.json").read_text())
    revisions = told["revisions"]
    assert told["requests"]["failed_by_routing"] == 0
    assert told["requests"]["total"] > 10_000
    assert revisions["v2"]["verdict"] == "Passed"
    assert {n for n, v in revisions.items() if v["verdict"] == "Failed"} == {
        "v3", "v4", "v4-strict", "v4-again", "v5", "v2-slow",
    }  # fmt: skip
    assert revisions["v3"]["requests"] == revisions["v4-again"]["requests"] == 0
    assert told["rollback"]["detect_seconds"] <= 20
    assert told["rollback"]["zero_seconds"] <= 5
    assert told["watch_rollback"]["pods_started"] == 0
    assert told["counterfactual"]["failed_by_model"] > told["requests"]["failed_by_model"]
    page = (ROOT / "build" / "demo.html").read_text()
    assert "<svg" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
