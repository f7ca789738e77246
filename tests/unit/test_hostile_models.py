"""Hostile model files: none runs, and each is refused for what it is, on every way a user takes.

The files are ``tests/tools/hostile.py``; each would make a canary.
"""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tests.tools.hostile import CORPUS, Hostile
from tests.tools.packages import linear_onnx, write_package
from tests.unit import package_support as support

from sluice.cli import group
from sluice.errors import PackageError, SluiceError
from sluice.package.manifest import Input, ModelFile, Output
from sluice.runtime.options import Options
from sluice.runtime.sandbox.confine import Sandbox
from sluice.runtime.server import load

REASONS = {"BareCodeFile", "Corrupt", "UnknownFormat", "UnsafeModel", "TooLarge", "NotTrusted"}
MEMORY = 384 * 1024**2
"""Of address space: what Python maps, and less than any bomb would take."""

every = pytest.mark.parametrize("hostile", CORPUS, ids=lambda h: h.name.replace(" ", "_"))


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


@pytest.fixture
def file(hostile: Hostile, tmp_path: Path, canary: Path) -> Path:
    folder = tmp_path / "given"
    folder.mkdir()
    path = folder / hostile.filename
    path.write_bytes(hostile.make(canary))
    (folder / "link.bin").symlink_to("/etc/hostname")
    return path


def sluice(*args: object) -> Result:
    return CliRunner().invoke(group, [str(a) for a in args])


def test_there_are_enough_of_them() -> None:
    names = [hostile.name for hostile in CORPUS]
    assert len(set(names)) == len(names) >= 70


@pytest.mark.parametrize(
    "hostile", [h for h in CORPUS if h.runs], ids=lambda h: h.name.replace(" ", "_")
)
def test_it_is_alive(hostile: Hostile, canary: Path) -> None:
    """A careless loader runs it, so that the tests below could fail."""
    assert hostile.runs is not None
    hostile.runs(hostile.make(canary))
    assert canary.exists()


@every
def test_inspect_names_it_and_does_not_load_it(hostile: Hostile, file: Path, canary: Path) -> None:
    result = sluice("inspect", file)
    assert result.exit_code == 3
    assert re.search(hostile.says, result.stdout), result.stdout
    assert all(line.isprintable() for line in result.stdout.splitlines())
    report = json.loads(sluice("inspect", "--json", file).stdout)
    assert report["problems"][0]["reason"] in REASONS
    assert not canary.exists()


@every
def test_package_refuses_it(hostile: Hostile, file: Path, canary: Path, tmp_path: Path) -> None:
    frame, _ = support.table(rows=5)
    frame.to_csv(tmp_path / "rows.csv", index=False)
    out = tmp_path / "out"
    result = sluice("package", file, "--examples", tmp_path / "rows.csv", "--out", out)
    assert isinstance(result.exception, SluiceError), result.output
    assert result.exception.reason in REASONS | {"MissingDistribution"}
    assert str(result.exception).isprintable()
    assert not canary.exists() and not out.exists()


@every
def test_the_runtime_and_the_gates_refuse_it_bare(
    hostile: Hostile, file: Path, canary: Path
) -> None:
    """Also when code is allowed: a bare file says nothing that could be trusted."""
    with pytest.raises(PackageError) as refused:
        load(Options(package=file, allow_code=True), Sandbox())
    assert refused.value.reason in REASONS
    assert str(refused.value).isprintable()
    result = sluice("validate", file, "--allow-code")
    assert result.exit_code == 3
    assert refused.value.message in result.output
    assert not canary.exists()


@every
@pytest.mark.parametrize("claim", ["onnx Data", "joblib Data", "joblib Code", "pickle Code"])
def test_the_runtime_and_the_gates_refuse_it_in_a_package(
    claim: str, hostile: Hostile, canary: Path, tmp_path: Path
) -> None:
    """Whatever its manifest says of it."""
    kind, trust_class = claim.split()
    write_package(
        tmp_path / "p",
        {"model": hostile.make(canary)},
        name="m",
        task="classification",
        model=ModelFile(file="model", format=kind, trust_class=trust_class),  # type: ignore[arg-type]
        inputs=(Input(name="a", type="float"),),
        output=Output(labels=(0, 1), positive=1),
    )
    with pytest.raises(PackageError) as refused:
        load(Options(package=tmp_path / "p"), Sandbox())
    assert refused.value.reason in REASONS | {"ClassMismatch", "Untrusted"}
    result = sluice("validate", tmp_path / "p")
    assert result.exit_code == 3
    assert refused.value.message in result.output
    assert not canary.exists()


def test_tensors_are_taken_from_the_verified_bytes_only(tmp_path: Path) -> None:
    """Files of the package that are not kept in memory cannot stand for files of the machine."""
    hostile = next(h for h in CORPUS if h.name == "tensors behind a link")
    model = hostile.make(tmp_path / "canary")
    fields = {
        "name": "m",
        "task": "classification",
        "inputs": (Input(name="x0", type="float"), Input(name="x1", type="float")),
        "layout": "Matrix",
        "output": Output(labels=(0, 1), positive=1),
        "model": ModelFile(file="model.onnx", format="onnx", trust_class="Data"),
    }
    files = {"model.onnx": model, "link.bin": bytes(16)}
    write_package(tmp_path / "listed", files, **fields)
    loaded = load(Options(package=tmp_path / "listed"), Sandbox())
    assert loaded.predictor.engine.startswith("onnxruntime")
    original = ModelFile(file="link.bin", format="joblib", trust_class="Code")
    write_package(tmp_path / "original", files, original=original, **fields)
    with pytest.raises(PackageError, match=r"'link\.bin', which is not listed") as refused:
        load(Options(package=tmp_path / "original"), Sandbox())
    assert refused.value.reason == "UnsafeModel"


def test_a_link_in_the_place_of_listed_tensors_is_not_followed(tmp_path: Path) -> None:
    model = linear_onnx({"a": 1.0}, 0.0)
    write_package(
        tmp_path / "p",
        {"model.onnx": model, "w.bin": bytes(16)},
        name="m",
        task="classification",
        model=ModelFile(file="model.onnx", format="onnx", trust_class="Data"),
        inputs=(Input(name="a", type="float"),),
        output=Output(labels=(0, 1), positive=1),
    )
    (tmp_path / "p" / "w.bin").rename(tmp_path / "w.bin")
    (tmp_path / "p" / "w.bin").symlink_to(tmp_path / "w.bin")
    with pytest.raises(PackageError, match=r"w\.bin is a symbolic link"):
        load(Options(package=tmp_path / "p"), Sandbox())


def test_bytes_that_are_also_another_format_load_as_what_was_looked_at(tmp_path: Path) -> None:
    """A producer whose name makes ONNX Runtime take the file for its own format."""
    model = linear_onnx({"a": 1.0}, 0.0)
    both = b"\x12\x84\x80\x00ORTM" + model
    write_package(
        tmp_path / "p",
        {"model.onnx": both},
        name="m",
        task="classification",
        model=ModelFile(file="model.onnx", format="onnx", trust_class="Data"),
        inputs=(Input(name="a", type="float"),),
        output=Output(labels=(0, 1), positive=1),
    )
    with pytest.raises(PackageError, match="ORT") as refused:
        load(Options(package=tmp_path / "p"), Sandbox())
    assert refused.value.reason == "UnknownFormat"


@pytest.mark.parametrize(
    "hostile", [h for h in CORPUS if "bomb" in h.name or "giga" in h.name], ids=lambda h: h.name
)
def test_a_bomb_does_not_take_the_memory(hostile: Hostile, file: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))

    done = subprocess.run(
        [sys.executable, "-m", "sluice.cli", "inspect", str(file)],
        capture_output=True,
        text=True,
        preexec_fn=limit,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert re.search(hostile.says, done.stdout)


@pytest.mark.parametrize("name", ["reduce, protocol 4", "joblib by zlib", "torch archive"])
def test_the_server_ends_with_the_reason(name: str, tmp_path: Path, canary: Path) -> None:
    """The whole command: it listens, looks, refuses, says why and exits 3."""
    hostile = next(h for h in CORPUS if h.name == name)
    path = tmp_path / hostile.filename
    path.write_bytes(hostile.make(canary))
    done = subprocess.run(
        [sys.executable, "-m", "sluice.cli", "serve", str(path), "--allow-code",
         "--port", "0", "--admin-port", "0"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode == 3
    assert re.search(r"(BareCodeFile|UnknownFormat): model\.", done.stderr)
    assert not canary.exists()
