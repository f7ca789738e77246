"""The sandbox: what a hostile model tries in a real server, and the filter, instruction by
instruction, on both architectures.
"""

from __future__ import annotations

import json
import os
import platform
import re
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.tools.hostile import CORPUS
from tests.unit import runtime_support as support
from tests.unit import sandbox_attempts
from tests.unit.runtime_support import DEADLINE, Built, Server, serving

from sluice.jobs.gates import Bench, CannotJudgeError
from sluice.jobs.validate import Plan, validate
from sluice.jobs.worker import judge
from sluice.package.manifest import FileEntry, Input, Manifest, ModelFile, Output, canonical_json
from sluice.runtime.sandbox import kernel, program, syscalls
from sluice.runtime.sandbox.confine import NoSandboxError, Sandbox

EPERM, ENOSYS, EROFS = 1, 38, 30
READS = {"token", "listing", "listing of the root", "environment of the parent"}
"""What only Landlock refuses."""
ALLOW, ERRNO = 0x7FFF0000, 0x00050000


# The program, run by hand.


def run_filter(steps: bytes, architecture: int, number: int, *arguments: int) -> int | None:
    """What the kernel would do with a call: None when it is allowed, else the error."""
    audit = (0xC000003E, 0xC00000B7)[architecture]
    values = [*arguments, 0, 0, 0, 0, 0, 0][:6]
    data = struct.pack("<IIQ6Q", number & 0xFFFFFFFF, audit, 0, *(v % 2**64 for v in values))
    return _run(steps, data)


def _run(steps: bytes, data: bytes) -> int | None:
    at, register = 0, 0
    while True:
        code, then, otherwise, value = struct.unpack_from("<HBBI", steps, 8 * at)
        at += 1
        if code == 0x20:
            (register,) = struct.unpack_from("<I", data, value)
        elif code == 0x54:
            register &= value
        elif code == 0x06:
            assert value == ALLOW or value & 0xFFFF0000 == ERRNO
            return None if value == ALLOW else value & 0xFFFF
        else:
            true = {
                0x15: register == value, 0x25: register > value, 0x45: bool(register & value)
            }[code]  # fmt: skip
            at += then if true else otherwise


@pytest.fixture(params=["x86_64", "aarch64"])
def architecture(request: pytest.FixtureRequest) -> int:
    return program.ARCHITECTURES[request.param]


@pytest.fixture
def steps(architecture: int) -> bytes:
    return program.build(architecture, 1234)


def test_every_listed_call_is_refused_and_no_other(architecture: int, steps: bytes) -> None:
    assert len(steps) // 8 < 4096
    expected: dict[int, int] = {}
    for table, error in (
        (syscalls.NETWORK, EPERM),
        (syscalls.PROCESSES, EPERM),
        (syscalls.KERNEL, EPERM),
        (syscalls.WRITING, EROFS),
        (syscalls.HIDDEN, ENOSYS),
    ):
        expected |= {n[architecture]: error for n in table.values() if n[architecture] is not None}
    looked_at = {n[architecture] for n in syscalls.LOOKED_AT.values()}
    assert not looked_at & set(expected)
    for number in range(600):
        if number in looked_at:
            continue
        known = number <= syscalls.LAST_KNOWN
        wanted = expected.get(number) if known else ENOSYS
        assert run_filter(steps, architecture, number) == wanted, number


def test_other_architectures_and_x32_are_refused(architecture: int, steps: bytes) -> None:
    for number in (0, 39, 41):
        assert run_filter(steps, architecture, 0x40000000 | number) == ENOSYS
        for audit in (0x40000003, 0x40000028, 0xC00000B7, 0xC000003E):
            if audit != (0xC000003E, 0xC00000B7)[architecture]:
                assert _run(steps, struct.pack("<IIQ6Q", number, audit, *[0] * 7)) == EPERM
    assert run_filter(steps, architecture, -1) == ENOSYS


BIG = 1 << 32
THREAD = 0x003D0F00
"""What glibc and musl start threads with."""


@pytest.mark.parametrize(
    ("name", "arguments", "error"),
    [
        ("clone", (THREAD,), None),
        ("clone", (0x11,), EPERM),
        ("clone", (0x01200011,), EPERM),
        ("clone", (0x4111,), EPERM),
        ("clone", (THREAD | 0x10000000,), EPERM),
        ("clone", (THREAD | 0x40000000,), EPERM),
        ("kill", (1234, 9), None),
        ("kill", (1, 9), EPERM),
        ("kill", (0, 9), EPERM),
        ("kill", (-1, 9), EPERM),
        ("kill", (-1234, 9), EPERM),
        ("tgkill", (1234, 1240, 6), None),
        ("tgkill", (1, 1, 6), EPERM),
        ("prlimit64", (0, 7), None),
        ("prlimit64", (1234, 7), None),
        ("prlimit64", (1, 7), EPERM),
        ("sendto", (3, 8, 1, 0x4000, 0, 0), None),
        ("sendto", (3, 8, 1, 0, 8, 16), EPERM),
        ("sendto", (3, 8, 1, 0, BIG, 16), EPERM),
        ("sendto", (3, 8, 1, 0x20000000, 0, 0), EPERM),
        ("sendmsg", (3, 8, 0x4000), None),
        ("sendmsg", (3, 8, 0x20004000), EPERM),
        ("sendmmsg", (3, 8, 1, 0x4000), None),
        ("sendmmsg", (3, 8, 1, 0x20000000), EPERM),
        ("socketpair", (1, 0x80801, 0), None),
        ("socketpair", (1, 2, 0), EPERM),
        ("socketpair", (1, 0x80802, 0), EPERM),
        ("socketpair", (2, 1, 0), EPERM),
        ("fcntl", (3, 1), None),
        ("fcntl", (3, 4), None),
        ("fcntl", (3, 8), EPERM),
        ("fcntl", (3, 10), EPERM),
        ("fcntl", (3, 15), EPERM),
        ("ioctl", (0, 0x5401), None),
        ("ioctl", (0, 0x5412), EPERM),
        ("ioctl", (0, BIG | 0x5412), EPERM),
        ("ioctl", (0, 0x541C), EPERM),
        ("ioctl", (0, 0x8901), EPERM),
        ("openat", (-100, 8, 0x80000), None),
        ("openat", (-100, 8, 0x90000), None),
        ("openat", (-100, 8, 0x80001), EROFS),
        ("openat", (-100, 8, 2), EROFS),
        ("openat", (-100, 8, 0x40), EROFS),
        ("openat", (-100, 8, 0x200), EROFS),
        ("openat", (-100, 8, 0x410000), EROFS),
    ],
)
def test_arguments_decide(
    name: str, arguments: tuple[int, ...], error: int | None, architecture: int, steps: bytes
) -> None:
    number = syscalls.LOOKED_AT[name][architecture]
    assert number is not None
    assert run_filter(steps, architecture, number, *arguments) == error


def test_the_first_program_refuses_rings_only(architecture: int) -> None:
    steps = program.without_rings(architecture)
    refused = [n for n in range(600) if run_filter(steps, architecture, n) is not None]
    assert refused == [425]
    assert run_filter(steps, architecture, 425) == ENOSYS


def test_one_that_makes_files_differs_by_four_calls(architecture: int, steps: bytes) -> None:
    making = program.build(architecture, 1234, makes_files=True)
    writing = (0, 0x80241, 0x80241)  # O_WRONLY, O_CREAT, O_TRUNC, wherever the flags are
    names = {n[architecture]: name for n_ in (syscalls.WRITING, syscalls.LOOKED_AT)
             for name, n in n_.items()}  # fmt: skip
    differs = {
        names[number]
        for number in range(600)
        if run_filter(steps, architecture, number, *writing)
        != run_filter(making, architecture, number, *writing)
    }
    only_x86 = {"open", "mkdir"} if architecture == program.X86_64 else set()
    assert differs == {"openat", "mkdirat"} | only_x86


DESCRIPTORS = """
import os
from sluice.runtime.sandbox import kernel
opened = [os.open("/dev/null", os.O_RDONLY) for _ in range(8)]
kernel.close_all_but([-1, 2, opened[1], opened[2], opened[5]])
left = []
for descriptor in [0, 1, 2, *opened]:
    try:
        os.fstat(descriptor)
        left.append(descriptor)
    except OSError:
        pass
assert left == [0, 1, 2, opened[1], opened[2], opened[5]], left
kernel.close_all_but([])
try:
    os.fstat(opened[5])
except OSError:
    print("closed")
"""


def test_only_what_is_kept_stays_open() -> None:
    done = child(DESCRIPTORS)
    assert done.stdout == "closed\n", done.stderr


# A hostile model in a real server.


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """What the model must not reach."""
    home = tmp_path / "home"
    (home / "secret").mkdir(parents=True)
    (home / "secret" / "token").write_text("hush")
    (home / "theirs").write_text("precious")
    return home


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        yield listening


def build(path: Path, source: bytes, create: str) -> Built:
    """A package of class Code whose pickle calls ``create`` in the module ``attempts``."""
    manifest = Manifest(
        name="hostile",
        task="classification",
        model=ModelFile(file="model.pkl", format="pickle", trust_class="Code"),
        layout="Matrix",
        inputs=(Input(name="x", type="float"),),
        output=Output(labels=("no", "yes"), positive="yes"),
        code=("attempts.py",),
        imports=(f"attempts.{create}",),
        files=(FileEntry(path="x", sha256="0" * 64, size=0),),
    )
    files = {
        "attempts.py": source,
        "golden.json": canonical_json([{"row": {"x": 1.0}, "score": 1.0, "label": "yes"}]),
        "model.pkl": b"\x80\x02cattempts\n%s\n)R." % create.encode(),
    }
    return Built(path, support.write_package(path, manifest, files), None, [], None)


def tried(
    tmp_path: Path, home: Path, listener: socket.socket, *flags: str, numbers: bool
) -> dict[str, str | None]:
    """The outcomes of all attempts in a server that serves all the same."""
    source = Path(sandbox_attempts.__file__).read_bytes()
    package = build(tmp_path / "package", source, "Odd")
    env = {
        "ATTEMPTS_HOME": str(home),
        "ATTEMPTS_PORT": str(listener.getsockname()[1]),
        "ATTEMPTS_NUMBERS": str(int(numbers)),
    }
    with serving(package.path, "--allow-code", *flags, env=env) as server:
        answer = server.post("/predict", [{"x": 2.0}, {"x": -2.0}])[1]
        assert [p["label"] for p in answer["predictions"]] == ["yes", "no"]
        children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
        assert not children.read_text()
        assert server.counters()["ok"] == 1
        code, _, err = server.stop()
        assert code == 0, err
    found = re.findall(r"^ATTEMPTS (.*)$", err, re.MULTILINE)
    assert len(found) == 1, err
    return dict(json.loads(found[0]))


def shared(listener: socket.socket) -> Path:
    """The file that the model tries to make in shared memory."""
    return Path(f"/dev/shm/attempt-{listener.getsockname()[1]}")


def has_landlock() -> bool:
    try:
        return kernel.system_call(syscalls.LANDLOCK_CREATE, None, 0, 1) > 0
    except OSError:
        return False


def accepted(listener: socket.socket) -> int:
    count = 0
    while True:
        try:
            listener.accept()[0].close()
        except BlockingIOError:
            return count
        count += 1


def test_a_hostile_model_reaches_nothing(
    tmp_path: Path, home: Path, listener: socket.socket
) -> None:
    outcomes = tried(tmp_path, home, listener, numbers=True)
    assert len(outcomes) > 100
    reached = {name for name, error in outcomes.items() if error is None}
    assert reached <= (set() if has_landlock() else READS)
    assert accepted(listener) == 0
    assert sorted(p.name for p in home.iterdir()) == ["secret", "theirs"]
    assert (home / "theirs").read_text() == "precious"
    assert not shared(listener).exists()
    column = program.ARCHITECTURES[platform.machine()]
    for name, numbers in (syscalls.NETWORK | syscalls.PROCESSES | syscalls.KERNEL).items():
        if numbers[column] is not None:
            assert outcomes[name] == f"PermissionError {EPERM}", name
    for name, numbers in syscalls.WRITING.items():
        if numbers[column] is not None:
            assert outcomes[name] == f"OSError {EROFS}", name
    for name in (*syscalls.HIDDEN, *(n for n in outcomes if n.startswith("0x"))):
        assert outcomes[name] == f"OSError {ENOSYS}", name


def test_without_the_sandbox_it_reaches_all_that(
    tmp_path: Path, home: Path, listener: socket.socket
) -> None:
    """So that the test above could fail."""
    flag = "--dangerously-without-sandbox"
    outcomes = tried(tmp_path, home, listener, flag, numbers=False)
    shared(listener).unlink()
    beyond = {"TIOCSTI", "datagram to a name", "listing of the root", "io_uring"}
    assert {name for name, error in outcomes.items() if error is not None} <= beyond
    assert accepted(listener) == 2
    assert (home / "marker").is_dir()


@pytest.mark.parametrize("file", ["reduce, protocol 4", "joblib by zlib"])
def test_a_hostile_file_that_was_admitted_ends_the_server_and_makes_nothing(
    file: str, tmp_path: Path
) -> None:
    package, canary = admitted(file, tmp_path)
    server = Server(package, "--allow-code")
    _, err = server.process.communicate(timeout=DEADLINE)
    assert server.process.returncode == 3
    assert "Read-only file system" in err
    assert not canary.exists()


def admitted(name: str, folder: Path) -> tuple[Path, Path]:
    """A package around a hostile file that says the truth about it, and the file's canary."""
    hostile = next(h for h in CORPUS if h.name == name)
    path = folder / re.sub(r"\W", "_", name)
    kind = "joblib" if hostile.filename.endswith("joblib") else "pickle"
    manifest = Manifest(
        name="m",
        task="classification",
        model=ModelFile(file="model", format=kind, trust_class="Code"),  # type: ignore[arg-type]
        inputs=(Input(name="a", type="float"),),
        output=Output(labels=(0, 1), positive=1),
        files=(FileEntry(path="x", sha256="0" * 64, size=0),),
    )
    canary = folder / "canaries" / path.name
    canary.parent.mkdir(exist_ok=True)
    support.write_package(path, manifest, {"model": hostile.make(canary)})
    return path, canary


LOAD_ALL = """
import json, sys
from pathlib import Path
from sluice.runtime.sandbox.confine import Sandbox
folder = Path(sys.argv[1])
sandbox = Sandbox.begin([folder], kept=())
from sluice.errors import SluiceError
from sluice.runtime.options import Options
from sluice.runtime.server import load
sandbox.prepare_libraries()
sandbox.close()
assert not sandbox.missing
said = {}
for package in sorted(folder.glob("*/sluice.json")):
    try:
        load(Options(package=package.parent, allow_code=True), sandbox)
        said[package.parent.name] = "loaded"
    except SluiceError as error:
        said[package.parent.name] = f"{error.reason}: {error}"
children = Path("/proc/self/task").glob("*/children")
print(json.dumps([said, "".join(c.read_text() for c in children)]))
"""


def child(source: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """A Python process of its own: there is no way back out of a sandbox."""
    return subprocess.run(
        [sys.executable, "-c", source, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=2 * DEADLINE,
        env={**os.environ, "PYTHONPATH": "operator"},
        cwd=Path(__file__).parents[2],
        check=False,
    )


def test_no_hostile_file_acts_when_it_was_admitted(tmp_path: Path) -> None:
    """All of the corpus, each as what it would be admitted as."""
    files = [h.name for h in CORPUS if "bomb" not in h.name and "giga" not in h.name]
    canaries = [admitted(name, tmp_path)[1] for name in files]
    done = child(LOAD_ALL, tmp_path)
    assert done.returncode == 0, done.stderr
    said, children = json.loads(done.stdout)
    assert len(said) == len(files)
    assert [c.name for c in canaries if c.exists()] == []
    assert children == ""
    reached = [name for name, text in said.items() if not text.startswith("ClassMismatch")]
    assert sum("Read-only file system" in said[name] for name in reached) >= 30


# What must go on working.

LOCKS = """
import multiprocessing, threading
from pathlib import Path
from sluice.runtime.sandbox.confine import Sandbox
sandbox = Sandbox.begin([], kept=())
sandbox.prepare_libraries()
sandbox.close()
assert not sandbox.missing
context = multiprocessing.get_context()
with context.Lock() as lock, context.RLock():
    pass
lock = context.Lock()
assert lock.acquire() and not lock.acquire(False) and not lock.acquire(True, 0.01)
assert not lock.acquire(True, -1)
threading.Timer(0.01, lock.release).start()
assert lock.acquire(True, 30)
lock.release()
recursive = context.RLock()
assert recursive.acquire() and recursive.acquire()
counted = context.Semaphore(2)
assert counted.acquire() and counted.acquire() and not counted.acquire(False)
try:
    context.BoundedSemaphore(1).release()
except ValueError:
    print("released too often")
"""


def test_locks_between_processes_are_locks_between_threads() -> None:
    done = child(LOCKS)
    assert done.stdout == "released too often\n", done.stderr


FOREST = b"""
import numpy as np
from joblib import effective_n_jobs, parallel_config
from sklearn.ensemble import RandomForestClassifier


class Forest:
    classes_ = np.array(["no", "yes"])

    def __init__(self):
        rows = np.linspace(-1, 1, 80).reshape(-1, 1)
        self.forest = RandomForestClassifier(20, n_jobs=2, random_state=0)
        self.forest.fit(rows, rows[:, 0] > 0)
        with parallel_config(backend="threading"):
            assert effective_n_jobs(2) == 2

    def predict_proba(self, frame):
        return self.forest.predict_proba(np.asarray(frame, dtype=float))
"""

THREADS = """
import json, sys
from pathlib import Path
from sluice.runtime.sandbox.confine import Sandbox
sandbox = Sandbox.begin([Path(sys.argv[1])], kept=())
import numpy as np
import onnxruntime

sandbox.close()
assert not sandbox.missing
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 3
options.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
before = len(list(Path("/proc/self/task").iterdir()))
session = onnxruntime.InferenceSession((Path(sys.argv[1]) / "model.onnx").read_bytes(), options)
rows = np.random.default_rng(0).normal(size=(5000, 4))
answers = session.run(None, {"x": rows})
assert len(answers[0]) == 5000
assert (np.ones((900, 900)) @ np.ones((900, 900)) == 900).all()
print(len(list(Path("/proc/self/task").iterdir())) - before)
"""


def test_joblibs_threads_run(tmp_path: Path) -> None:
    built = build(tmp_path / "p", FOREST, "Forest")
    with serving(built.path, "--allow-code") as server:
        answer = server.post("/predict", [{"x": 0.9}, {"x": -0.9}])[1]
        assert [p["label"] for p in answer["predictions"]] == ["yes", "no"]
        code, out, err = server.stop()
        assert (code, err) == (0, "")
        assert "sandbox: no connections out, no processes, no writing" in out


def test_onnx_runtimes_threads_run(tmp_path: Path) -> None:
    built = support.build_iris(tmp_path / "p")
    done = child(THREADS, built.path)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 2


@pytest.mark.parametrize("without", [False, True])
def test_the_gates_are_behind_the_same_walls(
    without: bool,
    tmp_path: Path,
    home: Path,
    listener: socket.socket,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    package = build(tmp_path / "package", Path(sandbox_attempts.__file__).read_bytes(), "Odd")
    monkeypatch.setenv("ATTEMPTS_HOME", str(home))
    monkeypatch.setenv("ATTEMPTS_PORT", str(listener.getsockname()[1]))
    monkeypatch.setenv("ATTEMPTS_NUMBERS", "0")
    gates = {"latency": {"p99": "60s", "requests": 20}}
    result = validate(Plan(package.path, allow_code=True, without_sandbox=without, gates=gates))
    assert result.ok, result
    err = capfd.readouterr().err
    found = re.findall(r"^ATTEMPTS (.*)$", err, re.MULTILINE)
    reached = {name for name, error in json.loads(found[0]).items() if error is None}
    if without:
        shared(listener).unlink()
        assert "WARNING: --dangerously-without-sandbox" in err
        assert {"connect", "fork", "system", "write", "token"} <= reached
        return
    assert reached <= (set() if has_landlock() else READS)
    assert accepted(listener) == 0
    assert sorted(p.name for p in home.iterdir()) == ["secret", "theirs"]


def test_the_gates_do_not_judge_code_without_walls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = build(tmp_path / "package", Path(sandbox_attempts.__file__).read_bytes(), "Odd")

    def no_sandbox() -> None:
        raise CannotJudgeError("The package is code.", reason="NoSandbox")

    bench = Bench(package.path, allow_code=True, admit_code=no_sandbox)
    assert judge(bench, "smoke") == {"cannot": ["NoSandbox", "The package is code.", ""]}
    assert not bench.loaded
    data = support.build_iris(tmp_path / "iris")
    assert judge(Bench(data.path, allow_code=True, admit_code=no_sandbox), "smoke")["verdict"]


# Where the walls are not whole.

HALF = """
import sys
from pathlib import Path
from sluice.runtime.sandbox import files
from sluice.runtime.sandbox.confine import Sandbox

def restrict(readable, writable):
    raise OSError(38, "Function not implemented")

files.restrict = restrict
sandbox = Sandbox.begin([], kept=())
sandbox.close()
sandbox.admit_code()
Path(sys.argv[1]).read_text()
try:
    Path(sys.argv[1]).write_text("x")
except OSError as error:
    print(error.errno)
"""


def test_without_landlock_it_says_so_and_writing_is_refused_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("precious")
    done = child(HALF, tmp_path / "theirs")
    assert done.returncode == 0, done.stderr
    assert "no Landlock (Function not implemented): the model can read" in done.stderr
    assert done.stdout.strip() == str(EROFS)
    assert (tmp_path / "theirs").read_text() == "precious"


RING = """
from sluice.runtime.sandbox import kernel
from sluice.runtime.sandbox.confine import Sandbox
import ctypes
kernel.system_call(425, 1, ctypes.create_string_buffer(120))
sandbox = Sandbox()
sandbox.close()
try:
    sandbox.admit_code()
except Exception as error:
    print(error.reason, error)
"""


def test_a_ring_that_is_open_already_is_no_sandbox() -> None:
    done = child(RING)
    assert "NoSandbox The package is code" in done.stdout, done.stderr
    assert "io_uring" in done.stdout


@pytest.mark.parametrize(("system", "machine"), [("darwin", "arm64"), ("linux", "riscv64")])
def test_elsewhere_code_is_not_served(
    system: str, machine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    sandbox = Sandbox.begin([], kept=())
    sandbox.close()
    with pytest.raises(NoSandboxError, match="--dangerously-without-sandbox runs it as you"):
        sandbox.admit_code()


def test_whoever_wants_none_is_warned(capsys: pytest.CaptureFixture[str]) -> None:
    sandbox = Sandbox.none()
    sandbox.close()
    sandbox.admit_code()
    assert "WARNING: --dangerously-without-sandbox: the model's code" in capsys.readouterr().err


def test_a_package_that_never_loads_is_given_up(tmp_path: Path) -> None:
    built = build(tmp_path / "p", b"import time\ntime.sleep(600)", "Odd")
    log = tmp_path / "log"
    server = Server(built.path, "--allow-code", "--load-timeout", "2s",
                    env={"SLUICE_TERMINATION_LOG": str(log)})  # fmt: skip
    _, err = server.process.communicate(timeout=DEADLINE)
    assert server.process.returncode == 3
    assert err.startswith("LoadTimeout: The package is not loaded after 2 s.")
    assert log.read_text() == err.strip()


def test_threads_that_a_model_leaves_behind_do_not_hold_a_start_that_failed(
    tmp_path: Path,
) -> None:
    source = (
        b"import threading, time\nthreading.Thread(target=time.sleep, args=(600,)).start()\n1/0"
    )
    built = build(tmp_path / "p", source, "Odd")
    server = Server(built.path, "--allow-code")
    _, err = server.process.communicate(timeout=DEADLINE)
    assert server.process.returncode == 3
    assert "ZeroDivisionError" in err


# The process that connects.

DIAL = """
import asyncio, json, sys
from pathlib import Path
from sluice.runtime.sandbox import connector
file, allowed, other = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
from sluice.runtime.dial import Dialler
channel = connector.start(file)
mine = Dialler(channel)

async def dial(port):
    try:
        with await mine.connect(("127.0.0.1", port)) as made:
            made.setblocking(False)
            await asyncio.get_running_loop().sock_sendall(made, b"hello")
            return "connected"
    except OSError as error:
        return str(error)

async def main():
    said = [await dial(allowed), await dial(other)]
    file.write_text("{}")
    said.append(await dial(allowed))
    channel.send(b"nonsense")
    said.append(await dial(allowed))
    print(json.dumps(said))

asyncio.run(main())
"""


def test_connections_are_made_to_the_mirror_files_addresses_only(
    tmp_path: Path, listener: socket.socket
) -> None:
    file, port = tmp_path / "mirror.json", listener.getsockname()[1]
    support.point(file, port)
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.setblocking(False)
        done = child(DIAL, file, port, other.getsockname()[1])
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)
        assert said[:3] == ["connected", "no connection", "no connection"]
        assert said[3] != "connected"
        assert accepted(other) == 0
    connection = listener.accept()[0]
    connection.setblocking(True)
    assert connection.recv(10) == b"hello"
    connection.close()
