"""``sluice image``: a build context whose commands work, with no line by a package's author."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tests.tools.packages import linear_package, write_package
from tests.tools.wheels import write_wheel

from sluice.cli import group
from sluice.errors import SluiceError
from sluice.package.manifest import Environment, Input, ModelFile, Output

PICKLE = b"\x80\x04]\x94."


def package(path: Path, lock: str, files: dict[str, bytes] | None = None) -> Path:
    write_package(
        path,
        {"model.pkl": PICKLE, "requirements.lock": lock.encode(), **(files or {})},
        name="flights",
        task="classification",
        model=ModelFile(file="model.pkl", format="pickle", trust_class="Code"),
        inputs=(Input(name="a", type="float"),),
        output=Output(labels=(0, 1), positive=1),
        environment=Environment(python="3.11", requires={"tinymodel": "1.0"}),
    )
    return path


def image(*arguments: Any) -> Result:
    return CliRunner().invoke(group, ["image", *map(str, arguments)])


def refused(*arguments: Any) -> SluiceError:
    error = image(*arguments).exception
    assert isinstance(error, SluiceError), repr(error)
    return error


def test_the_context_pins_what_the_package_was_made_with(tmp_path: Path) -> None:
    made = package(tmp_path / "p", "joblib==1.6.0\nscikit-learn==1.9.1\n")
    shown = image(made, "--base", "registry.example:5000/sluice:0.1.0")
    assert shown.exit_code == 0 and "2 requirements" in shown.output, shown.output
    out = tmp_path / "p-image"
    assert sorted(p.name for p in out.iterdir()) == ["Dockerfile", "requirements.txt"]
    assert (out / "requirements.txt").read_text() == "joblib==1.6.0\nscikit-learn==1.9.1\n"
    lines = (out / "Dockerfile").read_text().splitlines()
    assert "ARG BASE=registry.example:5000/sluice:0.1.0" in lines
    assert lines[-1] == "USER 65532:65532"
    assert "exists" in refused(made).message


def test_its_commands_install_the_packages_wheels_without_a_network(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path, "tinymodel", "1.0", {"tinymodel.py": b"ANSWER = 42\n"})
    made = package(
        tmp_path / "p",
        "numpy==2.3.0\ntinymodel==1.0\n",
        {f"wheels/{wheel.name}": wheel.read_bytes()},
    )
    out = tmp_path / "out"
    assert image(made, "--out", out).exit_code == 0
    runs = re.findall(r"^RUN (.*)$", (out / "Dockerfile").read_text(), re.M)
    assert len(runs) == 2
    here = sys.version_info[:2] == (3, 11)
    assert subprocess.run([sys.executable, *shlex.split(runs[0])[1:]]).returncode == (not here)
    install = shlex.split(runs[1].partition(" && ")[0].replace("/context", str(out)))
    place = tmp_path / "site"
    ran = subprocess.run(
        [sys.executable, *install[1:], "--target", str(place)], capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    assert [d.metadata["Name"] for d in metadata.distributions(path=[str(place)])] == ["tinymodel"]
    assert (place / "tinymodel.py").read_text() == "ANSWER = 42\n"
    (out / "wheels" / wheel.name).write_bytes(wheel.read_bytes() + b"!")
    ran = subprocess.run(
        [sys.executable, *install[1:], "--target", str(tmp_path / "no")],
        capture_output=True,
        text=True,
    )
    assert ran.returncode != 0 and "HASHES" in ran.stderr


def test_data_needs_no_image(tmp_path: Path) -> None:
    linear_package(tmp_path / "p")
    assert refused(tmp_path / "p").reason == "NothingNeeded"


@pytest.mark.parametrize(
    "lock",
    [
        "",
        "--index-url=evil\n",
        "a==1\n-r /etc/passwd\n",
        "a==1 ; x\n",
        "a==1\\\n",
        "a>=1\n",
        "\xff\n",
    ],
)
def test_a_hostile_lock_becomes_no_line_of_a_build(lock: str, tmp_path: Path) -> None:
    error = refused(package(tmp_path / "p", lock))
    assert error.reason == "Corrupt"
    assert [p.name for p in tmp_path.iterdir()] == ["p"]


def test_a_base_that_is_no_image_and_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    made = package(tmp_path / "p", "joblib==1.6.0\n")
    assert "not the name of an image" in refused(made, "--base", "x\nRUN evil").message
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refused(made, "--out", tmp_path / "file" / "x").message
