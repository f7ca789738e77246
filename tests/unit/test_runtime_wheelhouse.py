"""A package's own wheels and the sandbox together: unpacked before the walls, read only behind
them, and gone with the server, however it ends.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from packaging.tags import sys_tags
from tests.tools.wheels import write_wheel
from tests.unit import runtime_support as support
from tests.unit.runtime_support import DEADLINE, Server, serving
from tests.unit.test_runtime_sandbox import EPERM, EROFS, child, has_landlock

from sluice.errors import PackageError
from sluice.package.manifest import FileEntry, Input, Manifest, ModelFile, Output, canonical_json
from sluice.runtime.wheelhouse import wheelhouse_for

REPOSITORY = Path(__file__).parents[2]
EACCES = 13

OWN = b"""
import json
import sys
from pathlib import Path

import numpy as np
import xxlimited

HERE = Path(__file__).parent
TRIED = [
    lambda: (HERE / "new.py").write_text("x"),
    lambda: Path(__file__).write_text("x"),
    lambda: Path(__file__).unlink(),
    lambda: HERE.rename(HERE.parent / "other"),
    lambda: (HERE.parent / ".in-use").write_text("x"),
    lambda: HERE.chmod(0o777),
]


def outcome(attempt):
    try:
        attempt()
    except OSError as error:
        return error.errno


class Own:
    classes_ = np.array(["no", "yes"])

    def __init__(self):
        found = [xxlimited.__file__, [outcome(attempt) for attempt in TRIED]]
        print("FOUND", json.dumps(found), file=sys.stderr)

    def predict_proba(self, frame):
        yes = (np.asarray(frame, dtype=float)[:, 0] > 0).astype(float)
        return np.column_stack([1 - yes, yes])
"""


def own_package(
    tmp_path: Path, *, padding: int = 0, spoil: Callable[[bytes], bytes] = lambda wheel: wheel
) -> Path:
    """A package whose model's class is in its own wheel, beside a compiled module."""
    compiled = importlib.util.find_spec("xxlimited")
    assert compiled is not None and compiled.origin is not None
    binary = Path(compiled.origin)
    tag = str(next(iter(sys_tags())))
    files = {"own.py": OWN, binary.name: binary.read_bytes(), "padding": bytes(padding)}
    wheel = write_wheel(tmp_path / "house", "own", "1.0", files, tag)
    manifest = Manifest(
        name="own",
        task="classification",
        model=ModelFile(file="model.pkl", format="pickle", trust_class="Code"),
        layout="Matrix",
        inputs=(Input(name="x", type="float"),),
        output=Output(labels=("no", "yes"), positive="yes"),
        imports=("own.Own",),
        files=(FileEntry(path="x", sha256="0" * 64, size=0),),
    )
    path = tmp_path / "package"
    (path / "wheels").mkdir(parents=True)
    support.write_package(
        path,
        manifest,
        {
            "golden.json": canonical_json([{"row": {"x": 1.0}, "score": 1.0, "label": "yes"}]),
            "model.pkl": b"\x80\x02cown\nOwn\n)R.",
            f"wheels/{wheel.name}": spoil(wheel.read_bytes()),
        },
    )
    return path


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """The server's temporary directory."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    return scratch


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert holds()


def empty(folder: Path) -> bool:
    return not list(folder.iterdir())


def children(server: Server) -> list[int]:
    listed = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text()
    return [int(pid) for pid in listed.split()]


def served(package: Path, scratch: Path, *flags: str) -> tuple[str, list[int | None]]:
    """Where the compiled module was found, and what came of each attempt to change something."""
    with serving(package, "--allow-code", *flags, env={"TMPDIR": str(scratch)}) as server:
        [place] = scratch.iterdir()
        assert stat.S_IMODE(place.stat().st_mode) == 0o700
        answer = server.post("/predict", [{"x": 2.0}, {"x": -2.0}])[1]
        assert [p["label"] for p in answer["predictions"]] == ["yes", "no"]
        code, _, err = server.stop()
        assert code == 0, err
    until(lambda: empty(scratch))
    [found] = re.findall(r"^FOUND (.*)$", err, re.MULTILINE)
    compiled, outcomes = json.loads(found)
    return compiled, outcomes


def test_own_libraries_compiled_ones_too_are_served_and_cannot_be_changed(
    tmp_path: Path, scratch: Path
) -> None:
    compiled, outcomes = served(own_package(tmp_path), scratch)
    assert compiled.startswith(str(scratch / "sluice-wheels-"))
    assert outcomes == [EROFS] * 6


def test_without_the_sandbox_they_come_the_same_way(tmp_path: Path, scratch: Path) -> None:
    """And the attempts above succeed, so that the test could fail."""
    package = own_package(tmp_path)
    compiled, outcomes = served(package, scratch, "--dangerously-without-sandbox")
    assert compiled.startswith(str(scratch / "sluice-wheels-"))
    assert outcomes[:4] == [None] * 4


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_when_the_server_ends(
    number: signal.Signals, tmp_path: Path, scratch: Path
) -> None:
    package = own_package(tmp_path)
    with serving(package, "--allow-code", env={"TMPDIR": str(scratch)}) as server:
        [janitor] = children(server)
        status = Path(f"/proc/{janitor}/status").read_text()
        kilobytes = re.search(r"RssAnon:\s+(\d+) kB", status)
        assert kilobytes is not None and int(kilobytes[1]) < 8_000
        server.stop(number)
    until(lambda: empty(scratch))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_when_it_ends_while_wheels_are_unpacked(
    number: signal.Signals, tmp_path: Path, scratch: Path
) -> None:
    package = own_package(tmp_path, padding=200_000_000)
    server = Server(package, "--allow-code", env={"TMPDIR": str(scratch)})
    until(lambda: bool(list(scratch.glob("*/modules"))))
    server.stop(number)
    until(lambda: empty(scratch))


def test_what_a_container_left_is_removed_and_what_a_living_one_uses_is_not(
    tmp_path: Path, scratch: Path
) -> None:
    """With a container its janitor dies too."""
    package = own_package(tmp_path)
    by_hand = scratch / "sluice-wheels-by-hand"
    by_hand.mkdir()
    env = {"TMPDIR": str(scratch)}

    def left() -> set[str]:
        return {p.name for p in scratch.iterdir()} - {by_hand.name}

    with serving(package, "--allow-code", env=env) as living:
        [kept] = left()
        with serving(package, "--allow-code", env=env) as other:
            [killed] = left() - {kept}
            for janitor in children(other):
                os.kill(janitor, signal.SIGKILL)
        assert left() == {kept, killed}
        with serving(package, "--allow-code", env=env) as third:
            assert kept in left() and killed not in left() and len(left()) == 2
            third.stop(signal.SIGTERM)
        until(lambda: left() == {kept})
        assert living.post("/predict", [{"x": 2.0}])[0] == 200


def spoilt(wheel: bytes) -> bytes:
    """The compressed stream of own.py is overwritten."""
    place = wheel.index(b"own.py") + 20
    return wheel[:place] + b"\xff" * 20 + wheel[place + 20 :]


def validated(package: Path, scratch: Path, cwd: Path = REPOSITORY) -> tuple[int, str, str]:
    path = os.pathsep.join([str(REPOSITORY / "operator"), str(REPOSITORY)])
    flags = ["--allow-code", "--json"]
    ran = subprocess.run(
        [sys.executable, "-P", "-m", "sluice.cli", "validate", str(package), *flags],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "TMPDIR": str(scratch)},
        cwd=cwd,
        check=False,
    )
    return ran.returncode, ran.stdout, ran.stderr


def test_a_damaged_wheel_is_the_last_word_and_fails_its_gate(tmp_path: Path, scratch: Path) -> None:
    package, log = own_package(tmp_path, spoil=spoilt), tmp_path / "log"
    env = {"TMPDIR": str(scratch), "SLUICE_TERMINATION_LOG": str(log)}
    server = Server(package, "--allow-code", env=env)
    _, err = server.process.communicate(timeout=DEADLINE)
    assert server.process.returncode == 3
    assert err.startswith("Corrupt: wheels/own-1.0-") and "is not a wheel that can be used" in err
    assert log.read_text() == err.strip()
    until(lambda: empty(scratch))
    code, out, err = validated(package, scratch)
    assert code == 3, err
    gates = {gate["name"]: gate for gate in json.loads(out)["gates"]}
    assert gates["smoke"]["verdict"] == "Fail"
    assert "is not a wheel that can be used" in gates["smoke"]["message"]
    assert empty(scratch)


def test_gates_use_them_and_leave_nothing(tmp_path: Path, scratch: Path) -> None:
    package = own_package(tmp_path)
    code, out, err = validated(package, scratch)
    assert code == 0, err + out
    [found] = re.findall(r"^FOUND (.*)$", err, re.MULTILINE)
    assert json.loads(found)[1] == [EROFS] * 6
    assert empty(scratch)


def test_modules_in_the_folder_one_works_in_are_not_imported(tmp_path: Path, scratch: Path) -> None:
    """A package's own folder, most likely; its files would run outside of all walls."""
    package = own_package(tmp_path)
    canary = tmp_path / "canary"
    (package / "json.py").write_text(f"open({str(canary)!r}, 'w')\nraise SystemExit(7)\n")
    code, out, err = validated(Path(), scratch, cwd=package)
    assert code == 0, err + out
    assert not canary.exists()


def test_a_manifest_that_hides_its_wheels_is_refused(tmp_path: Path, scratch: Path) -> None:
    package = own_package(tmp_path)
    manifest = package / "sluice.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"wheels/', b'"\\u0077heels/'))
    server = Server(package, "--allow-code", env={"TMPDIR": str(scratch)})
    _, err = server.process.communicate(timeout=DEADLINE)
    assert server.process.returncode == 3
    assert err.startswith("DigestMismatch: The wheels of")
    assert empty(scratch)


CONFINED = """
import sys
from pathlib import Path
from sluice.runtime.sandbox.confine import Sandbox
place, other = map(Path, sys.argv[1:])
sandbox = Sandbox.begin([], kept=(), writable=place)
sandbox.close()
assert not sandbox.missing
(place / "a" / "b").mkdir(parents=True)
(place / "a" / "b" / "c.py").write_text("x")
for attempt in (
    lambda: (other / "c.py").write_text("x"),
    lambda: (other / "a").mkdir(),
    lambda: (place / "a" / "b" / "c.py").chmod(0o755),
    lambda: (place / "a" / "b" / "c.py").unlink(),
    lambda: __import__("socket").socket(),
    lambda: __import__("os").fork(),
):
    try:
        attempt()
        print("done", end=" ")
    except OSError as error:
        print(error.errno, end=" ")
"""


def test_whoever_unpacks_makes_files_there_and_does_nothing_else(tmp_path: Path) -> None:
    place, other = tmp_path / "place", tmp_path / "other"
    place.mkdir()
    other.mkdir()
    done = child(CONFINED, place, other)
    assert done.returncode == 0, done.stderr
    outside = [str(EACCES)] * 2 if has_landlock() else ["done"] * 2
    assert done.stdout.split() == [*outside, *[str(EROFS)] * 2, *[str(EPERM)] * 2]
    assert (place / "a" / "b" / "c.py").read_text() == "x"


def test_without_room_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = own_package(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(PackageError, match="No such file or directory") as error:
        wheelhouse_for(package, seconds=DEADLINE)
    assert error.value.reason == "CannotWrite"


def test_what_takes_too_long_is_given_up(
    tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = own_package(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    with pytest.raises(PackageError, match="not unpacked after") as error:
        wheelhouse_for(package, seconds=0.001)
    assert error.value.reason == "LoadTimeout"


def test_no_process_is_started_for_whoever_brings_none(tmp_path: Path) -> None:
    assert wheelhouse_for(tmp_path / "nowhere", seconds=DEADLINE) is None
    (tmp_path / "sluice.json").mkdir()
    assert wheelhouse_for(tmp_path, seconds=DEADLINE) is None
    (tmp_path / "model.onnx").write_bytes(b'"wheels/')
    assert wheelhouse_for(tmp_path / "model.onnx", seconds=DEADLINE) is None


def test_what_is_wrong_with_the_package_is_said_by_whoever_opens_it(
    tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = own_package(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    (package / "model.pkl").write_bytes(b"")
    house = wheelhouse_for(package, seconds=DEADLINE)
    assert house is not None and house.unpacked.digest == ""
    house.remove()
    assert empty(scratch)
