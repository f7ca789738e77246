"""Libraries inside a package: collected, verified, unpacked for one process, and really used."""

from __future__ import annotations

import importlib
import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from tests.tools.wheels import installed_wheel, write_wheel
from tests.unit import package_support
from tests.unit import runtime_support as support

import sluice
from sluice.errors import InvalidInputError, PackageError
from sluice.package import wheels
from sluice.package.environment import check_environment, lock
from sluice.package.load import open_package
from sluice.package.manifest import Environment, Manifest
from sluice.package.save import Saved

SOURCE = b'''
import numpy as np


class Tiny:
    """Says how far x is above VERSION; no other library knows it."""

    classes_ = np.array([0, 1])
    n_features_in_ = 1

    def predict_proba(self, x):
        yes = 1 / (1 + np.exp(ABOVE - np.asarray(x, dtype=float)[:, 0]))
        return np.column_stack([1 - yes, yes])

    def predict(self, x):
        return (self.predict_proba(x)[:, 1] >= 0.5).astype(int)
'''


def tiny(above: float) -> dict[str, bytes]:
    return {"tinymodel.py": SOURCE + f"\n\nABOVE = {above}\n".encode()}


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """tinymodel 1.0 as if it were installed, for whoever packages; a folder with its wheel."""
    folder = tmp_path / "wheelhouse"
    wheel = write_wheel(folder, "tinymodel", "1.0", tiny(0.0))
    for line in lock({"joblib": ""}).splitlines():
        installed_wheel(folder, line.partition("==")[0])
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # of servers that are killed
    monkeypatch.delitem(sys.modules, "tinymodel", raising=False)
    return folder


def packaged(tmp_path: Path, library: Path | None, **more: Any) -> Saved:
    model = importlib.import_module("tinymodel").Tiny()
    x = np.linspace(-2, 2, 20).reshape(-1, 1)
    try:
        return sluice.save(model, x, out=tmp_path / "package", wheels=library, **more)
    finally:
        sys.modules.pop("tinymodel")


def elsewhere(tmp_path: Path, version: str, above: float) -> dict[str, str]:
    """An environment in which the image has another tinymodel."""
    wheel = write_wheel(tmp_path / "other", "tinymodel", version, tiny(above))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "image")
    return {"PYTHONPATH": f"operator:{tmp_path / 'image'}"}


def score(server: support.Server, x: float) -> float:
    status, answer = server.post("/predict", [[x]])
    assert status == 200, answer
    return float(answer["predictions"][0]["score"])


def test_served_where_nobody_installed_the_library(library: Path, tmp_path: Path) -> None:
    saved = packaged(tmp_path, library)
    listed = {f.path for f in saved.manifest.files if f.path.startswith("wheels/")}
    assert listed == {f"wheels/{w.name}" for w in library.glob("*.whl")} and len(listed) >= 2
    absent = subprocess.run([sys.executable, "-c", "import tinymodel"], capture_output=True)
    assert absent.returncode == 1
    with support.serving(saved.path, "--allow-code") as server:
        assert score(server, 1.0) == pytest.approx(1 / (1 + np.exp(-1.0)))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    ran = subprocess.run(
        [sys.executable, "-m", "sluice.cli", "validate", str(saved.path), "--allow-code", "--json"],
        capture_output=True,
        text=True,
        env={**support.os.environ, "PYTHONPATH": "operator", "TMPDIR": str(scratch)},
        cwd=Path(__file__).parents[2],
    )
    assert ran.returncode == 0, ran.stderr + ran.stdout
    assert list(scratch.iterdir()) == [], "nothing is left behind"


def test_the_packages_version_goes_before_the_images(library: Path, tmp_path: Path) -> None:
    saved = packaged(tmp_path, library)
    with support.serving(
        saved.path, "--allow-code", env=elsewhere(tmp_path, "2.0", 99.0)
    ) as server:
        assert score(server, 0.0) == pytest.approx(0.5)


def test_without_wheels_it_is_refused_before_any_load(library: Path, tmp_path: Path) -> None:
    saved = packaged(tmp_path, None)
    failure = support.Server(saved.path, "--allow-code")
    _, err = failure.process.communicate(timeout=support.DEADLINE)
    assert "EnvironmentMismatch: tinymodel needs 1.0.*, image has none" in err
    assert "--wheels" in err


@pytest.mark.parametrize(
    ("version", "above", "any_minor", "reason"),
    [
        ("1.1", 0.0, False, "EnvironmentMismatch"),
        ("1.1", 0.0, True, ""),
        ("1.1", 0.5, True, "GoldenMismatch"),
        ("2.0", 0.0, True, "EnvironmentMismatch"),
    ],
)
def test_another_minor_version_is_refused_unless_allowed_and_then_judged_by_golden(
    version: str, above: float, any_minor: bool, reason: str, library: Path, tmp_path: Path
) -> None:
    saved = packaged(tmp_path, None, any_minor=any_minor)
    env = elsewhere(tmp_path, version, above)
    if not reason:
        with support.serving(saved.path, "--allow-code", env=env) as server:
            assert score(server, 0.0) == pytest.approx(0.5)
        return
    failure = support.Server(saved.path, "--allow-code", env=env)
    _, err = failure.process.communicate(timeout=support.DEADLINE)
    assert err.startswith(f"{reason}: "), err


def test_wheels_of_another_platform_are_said_to_be(library: Path, tmp_path: Path) -> None:
    (library / "tinymodel-1.0-py3-none-any.whl").unlink()
    write_wheel(library, "tinymodel", "1.0", tiny(0.0), "cp311-cp311-win32")
    saved = packaged(tmp_path, library)
    assert any(
        "only where these fit: tinymodel-1.0-cp311-cp311-win32.whl" in n for n in saved.notes
    )
    failure = support.Server(saved.path, "--allow-code")
    _, err = failure.process.communicate(timeout=support.DEADLINE)
    assert "image has none and none of tinymodel-1.0-cp311-cp311-win32.whl fits its platform" in err


def test_any_minor_needs_golden_examples(library: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="only be allowed with golden"):
        packaged(tmp_path, None, any_minor=True, golden=0)
    saved = packaged(tmp_path, None)
    by_hand = msgspec.structs.replace(
        saved.manifest,
        environment=Environment(requires={"numpy": "2.999.0", "joblib": "1.0.0"}, minor="Any"),
    )
    check_environment(by_hand)
    other = msgspec.structs.replace(by_hand.environment, requires={"msgspec": "0.1.0"})
    by_hand = msgspec.structs.replace(by_hand, environment=other)
    check_environment(by_hand)
    bare = tuple(f for f in saved.manifest.files if f.path != "golden.json")
    with pytest.raises(PackageError, match="msgspec needs"):
        check_environment(msgspec.structs.replace(by_hand, files=bare))


def test_a_missing_wheel_is_named_with_the_line_that_fetches_it(
    library: Path, tmp_path: Path
) -> None:
    write_wheel(library, "tinymodel", "1.1", tiny(0.0))
    (library / "tinymodel-1.0-py3-none-any.whl").unlink()
    with pytest.raises(InvalidInputError) as error:
        packaged(tmp_path, library)
    assert "no wheel for tinymodel==1.0." in error.value.message
    assert "pip download --no-deps" in error.value.hint and "tinymodel==1.0" in error.value.hint
    with pytest.raises(InvalidInputError, match="no wheel for joblib"):
        wheels.collect(tmp_path / "nowhere", "joblib==1.5.0\n")


def test_a_model_that_is_data_takes_none(tmp_path: Path) -> None:
    model, frame, label = package_support.linear()
    saved = sluice.save(model, frame, label, tmp_path / "p", wheels=tmp_path)
    assert saved.manifest.wheels == () and any("takes no wheels" in n for n in saved.notes)


def test_a_wheel_in_a_data_package_is_never_unpacked(tmp_path: Path) -> None:
    from tests.tools.packages import linear_package

    evil = write_wheel(tmp_path, "msgspec", "9.9", {"msgspec.py": b"raise SystemExit(7)"})
    linear_package(tmp_path / "p", extra={"wheels/msgspec-9.9-py3-none-any.whl": evil.read_bytes()})
    assert open_package(tmp_path / "p").manifest.wheels == ()
    with support.serving(tmp_path / "p", env={"TMPDIR": str(tmp_path)}):
        assert list(tmp_path.glob("sluice-wheels-*")) == []


def test_each_platform_takes_its_own_and_none_is_no_wheel() -> None:
    tag = next(t for t in wheels.sys_tags() if t.platform != "any")
    own = f"wheels/x-1.0-{tag.interpreter}-{tag.abi}-{tag.platform}.whl"
    other = "wheels/x-1.0-cp27-cp27m-win32.whl"
    anywhere = "wheels/x-1.0-py3-none-any.whl"
    assert wheels.usable([anywhere, other, own]) == {"x": ("1.0", own)}
    assert wheels.usable([other, anywhere]) == {"x": ("1.0", anywhere)}
    assert wheels.usable([other]) == {}
    assert wheels.usable(["wheels/numpy-2.0-py3-none-any.whl"]) == {}
    with pytest.raises(PackageError, match="not a wheel"):
        wheels.usable(["wheels/nonsense.whl"])


def archive(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as made:
        for name, data in files.items():
            made.writestr(name, data)
    return buffer.getvalue()


def link() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        info = zipfile.ZipInfo("x.py")
        info.external_attr = 0o120777 << 16
        made.writestr(info, "/etc/passwd")
    return buffer.getvalue()


def lying(data: bytes) -> bytes:
    """One byte of the content is wrong: its CRC no longer fits."""
    place = data.index(b"hello")
    return data[:place] + b"j" + data[place + 1 :]


def damaged(data: bytes) -> bytes:
    """The compressed stream of the first entry is overwritten."""
    place = data.index(b"x.py") + 8
    return data[:place] + b"\xff" * 20 + data[place + 20 :]


def stored() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as made:
        made.writestr("x.py", b"hello")
    return buffer.getvalue()


HOSTILE: dict[str, Callable[[], bytes]] = {
    "no zip": lambda: b"PK\x03\x04 nothing",
    "empty": lambda: b"",
    "cut": lambda: archive(**{"x.py": b"hello" * 100})[:-30],
    "up": lambda: archive(**{"../x.py": b""}),
    "absolute": lambda: archive(**{"/tmp/x.py": b""}),
    "backslash": lambda: archive(**{"a\\..\\x.py": b""}),
    "data up": lambda: archive(**{"x-1.0.data/purelib/../../../x.py": b""}),
    "link": link,
    "wrong stream": lambda: damaged(archive(**{"x.py": bytes(range(256)) * 40})),
    "wrong crc": lambda: lying(stored()),
    "a file and a folder": lambda: archive(**{"x": b"", "x/y.py": b""}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_wheels_write_nothing_outside(name: str, tmp_path: Path) -> None:
    (tmp_path / "p" / "wheels").mkdir(parents=True)
    package = package_with(tmp_path / "p", HOSTILE[name]())
    place = tmp_path / "place"
    place.mkdir()
    with pytest.raises(PackageError) as error:
        wheels.unpack(package, place)
    assert error.value.reason in ("Corrupt", "CannotWrite")
    assert [p for p in tmp_path.rglob("x.py") if place not in p.parents] == []


def test_a_bomb_is_refused_by_what_it_says_it_unpacks_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = package_with(tmp_path / "p", archive(**{"x.py": b"0" * 2_000_000}))
    monkeypatch.setattr(wheels, "MAX_EXPANDED_BYTES", 1_000_000)
    with pytest.raises(PackageError) as error:
        wheels.unpack(package, tmp_path)
    assert error.value.reason == "TooLarge"


def test_what_is_already_imported_is_not_replaced_by_half(tmp_path: Path) -> None:
    package = package_with(tmp_path / "p", archive(**{"yaml/__init__.py": b""}))
    import yaml  # noqa: F401 - some module that is imported

    wheels.unpack(package, tmp_path / "place")
    before = list(sys.path)
    with pytest.raises(PackageError) as error:
        wheels.install(package, [wheels.Unpacked(str(tmp_path / "place"), package.digest)])
    assert sys.path == before
    assert error.value.reason == "EnvironmentMismatch" and "yaml" in error.value.message


def test_a_wheel_that_changed_after_it_was_verified(tmp_path: Path) -> None:
    package = package_with(tmp_path / "p", archive(**{"x.py": b"good"}))
    file = package.path / "wheels" / "x-1.0-py3-none-any.whl"
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    with pytest.raises(PackageError) as error:
        wheels.unpack(package, tmp_path)
    assert error.value.reason == "Corrupt"


def test_only_what_was_unpacked_from_this_package_is_installed(tmp_path: Path) -> None:
    package = package_with(tmp_path / "p", archive(**{"x.py": b"good"}))
    before = list(sys.path)
    other = wheels.Unpacked(str(tmp_path), f"sha256:{'0' * 64}")
    refused = wheels.Unpacked(str(tmp_path), package.digest, ("TooLarge", "It is large.", "Less."))
    for unpacked, reason in ([], "DigestMismatch"), ([other], "DigestMismatch"), (
        [other, refused], "TooLarge"
    ):  # fmt: skip
        with pytest.raises(PackageError) as error:
            wheels.install(package, unpacked)
        assert error.value.reason == reason
    assert str(error.value) == "It is large. Less."
    assert sys.path == before


def package_with(path: Path, wheel: bytes) -> Any:
    from tests.tools.packages import code_package

    code_package(path, "def prepare(frame):\n    return frame\n")
    manifest = json.loads((path / "sluice.json").read_bytes())
    (path / "wheels").mkdir(exist_ok=True)
    name = "wheels/x-1.0-py3-none-any.whl"
    (path / name).write_bytes(wheel)
    import hashlib

    entry = {"path": name, "sha256": hashlib.sha256(wheel).hexdigest(), "size": len(wheel)}
    manifest["files"].append(entry)
    (path / "sluice.json").write_text(json.dumps(manifest))
    package = open_package(path)
    assert isinstance(package.manifest, Manifest) and package.manifest.wheels == (name,)
    return package
