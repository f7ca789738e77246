"""A container's root directory, built for real in a throw-away namespace."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import sluice

TRY = subprocess.run(["sh", "-c", "unshare -Urmpf true"], capture_output=True, check=False)
pytestmark = pytest.mark.skipif(
    TRY.returncode != 0, reason=f"user namespaces are refused here: {TRY.stderr!r}"
)

PROGRAM = """
import json, os, sys
from sluice.local import linux
from sluice.local.node import rootfs
root, cwd, refuse_overlay, script = json.loads(sys.argv[1])
linux.mount("proc", "/proc", "proc", 0)
if refuse_overlay:
    mount = linux.mount
    def without_overlay(source, target, fstype, flags, data=None):
        if fstype == "overlay":
            raise OSError(1, "refused")
        mount(source, target, fstype, flags, data)
    linux.mount = without_overlay
rootfs.enter(root, cwd)
os.execv("/bin/sh", ["sh", "-c", script])
"""


@pytest.fixture
def inside(tmp_path: Path):
    """Run a shell script in a root directory with the given mounts; its output."""

    def run(
        script: str,
        mounts: dict[str, str],
        *,
        cwd: str = "/",
        overlay: bool = True,
        visible: tuple[str, ...] = (),
        **more: bool,
    ) -> str:
        base = tmp_path / "base"
        base.mkdir(exist_ok=True)
        root = {
            "base": str(base),
            "mounts": [
                {"source": s, "target": t.removesuffix(":ro"), "read_only": t.endswith(":ro")}
                for t, s in mounts.items()
            ],
            "visible": list(visible),
            "read_only": more.get("read_only", False),
        }
        request = json.dumps([root, cwd, not overlay, script])
        done = subprocess.run(
            ["unshare", "-Urmpf", sys.executable, "-c", PROGRAM, request],
            env={**os.environ, "PYTHONPATH": str(Path(sluice.__file__).parents[1])},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.mark.parametrize("overlay", [True, False], ids=["overlay", "mirror"])
def test_mount_points_that_the_host_does_not_have(inside, tmp_path: Path, overlay: bool) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config/a").write_text("config")
    (tmp_path / "resolv").write_text("own resolver")
    mounts = {
        "/etc/no-such-app:ro": str(tmp_path / "config"),
        "/etc/resolv.conf:ro": str(tmp_path / "resolv"),
        "/models/deep/down": str(tmp_path / "config"),
        "/var/run/secrets/x:ro": str(tmp_path / "config"),
    }
    script = (
        "cat /etc/no-such-app/a /etc/resolv.conf /run/secrets/x/a; test -e /etc/passwd && echo !;"
        "echo new > /models/deep/down/b; touch /etc/no-such-app/b 2>/dev/null || echo refused"
    )
    assert inside(script, mounts, overlay=overlay) == "configown resolverconfig!\nrefused\n"
    assert (tmp_path / "config/b").read_text() == "new\n"
    assert not Path("/etc/no-such-app").exists()
    assert not Path("/models").exists()


def test_host_is_read_only_and_scratch_is_private(inside) -> None:
    script = (
        "touch /usr/x 2>/dev/null || echo usr; touch /tmp/private && ls /tmp;"
        "echo hello > /dev/null; head -c1 /dev/urandom | wc -c; readlink /dev/stdin; pwd"
    )
    said = inside(script, {}, cwd="/work-that-is-made/for-me").split("\n")
    assert said == ["usr", "private", "1", "/proc/self/fd/0", "/work-that-is-made/for-me", ""]
    assert not Path("/tmp/private").exists()


def test_read_only_root_leaves_volumes_writable(inside, tmp_path: Path) -> None:
    script = "for d in / /tmp /run /v /etc; do touch $d/x 2>/dev/null && echo $d; done; true"
    mounts = {"/v": str(tmp_path), "/etc/no-such-app": str(tmp_path)}
    assert inside(script, mounts, read_only=True) == "/v\n"


def test_a_volume_within_a_volume(inside, tmp_path: Path) -> None:
    for name in ("outer", "inner"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    mounts = {"/data/sub": str(tmp_path / "inner"), "/data": str(tmp_path / "outer")}
    assert inside("cat /data/file /data/sub/file", mounts) == "outerinner"


def test_programs_below_tmp_are_seen_also_under_a_volume_at_tmp(inside, tmp_path: Path) -> None:
    home, scratch = tmp_path / "home", tmp_path / "scratch"
    home.mkdir()
    scratch.mkdir()
    (home / "model").write_text("here")
    script = f"cat {home}/model; echo x > /tmp/own; (echo y > {home}/no) 2>/dev/null || echo -ro"
    for mounts in ({}, {"/tmp": str(scratch)}):
        assert inside(script, mounts, visible=(str(home),)).strip() == "here-ro"
    assert (scratch / "own").read_text() == "x\n"
    assert not (home / "no").exists()
