"""Opening a package: every byte verified before anything is loaded, nothing outside it read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.unit import package_support as support

import sluice
from sluice.errors import PackageError
from sluice.package.load import open_package, wrap_bare
from sluice.package.manifest import MANIFEST_NAME, decode, digest_of, encode


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model, frame, label = support.linear()
    out = tmp_path_factory.mktemp("made") / "package"
    sluice.save(model, frame, label, out)
    return out


@pytest.fixture
def package(made: Path, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(made, tmp_path / "package"))


def reason(path: Path, **options: object) -> str:
    with pytest.raises(PackageError) as error:
        open_package(path, **options)  # type: ignore[arg-type]
    assert str(error.value).count("\n") == 0
    return error.value.reason


def test_a_whole_package_opens_with_its_parts(package: Path) -> None:
    opened = open_package(package)
    assert opened.digest == digest_of((package / MANIFEST_NAME).read_bytes())
    assert opened.manifest.model.trust_class == "Data"
    assert 10 <= len(opened.golden()) <= 100
    assert set((opened.profile() or {})["features"]) == {"a", "b", "c"}
    assert open_package(package, opened.digest).digest == opened.digest


def test_the_bytes_that_were_verified_are_the_bytes_that_are_given(package: Path) -> None:
    opened = open_package(package)
    before = opened.model_bytes
    (package / "model.onnx").write_bytes(b"something else")
    assert opened.model_bytes == before
    opened.release()
    assert not opened.has("model.onnx") and opened.golden()


def test_another_digest_is_refused(package: Path) -> None:
    with pytest.raises(PackageError) as error:
        open_package(package, "sha256:" + "1" * 64)
    assert error.value.reason == "DigestMismatch"
    assert digest_of((package / MANIFEST_NAME).read_bytes()) in str(error.value)


def test_damage_is_named(package: Path) -> None:
    model = package / "model.onnx"
    data = model.read_bytes()
    model.write_bytes(data[:-1])
    assert reason(package) == "Truncated"
    model.write_bytes(data + b"x")
    assert reason(package) == "Corrupt"
    model.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    assert reason(package) == "Corrupt"
    model.unlink()
    assert reason(package) == "Missing"
    (package / MANIFEST_NAME).unlink()
    assert reason(package) == "Missing"
    assert reason(package / "nowhere") == "Missing"


def test_a_size_limit_is_kept(package: Path) -> None:
    assert reason(package, max_bytes=100) == "TooLarge"
    assert reason(package / "model.onnx", max_bytes=100) == "TooLarge"


def test_links_and_devices_are_not_followed(package: Path, tmp_path: Path) -> None:
    model = package / "model.onnx"
    outside = tmp_path / "outside.onnx"
    model.rename(outside)
    model.symlink_to(outside)
    assert reason(package) == "Corrupt"
    model.unlink()
    os.mkfifo(model)
    assert reason(package) == "Corrupt"
    model.unlink()
    model.mkdir()
    assert reason(package) == "Corrupt"


def test_a_link_to_the_whole_package_is_fine(package: Path, tmp_path: Path) -> None:
    link = tmp_path / "current"
    link.symlink_to(package)
    assert open_package(link).manifest.name == "model"


def test_files_beside_the_listed_ones_are_never_read(package: Path) -> None:
    (package / "extra.pkl").symlink_to("/dev/zero")
    assert not open_package(package).has("extra.pkl")


def test_the_manifest_cannot_lie_about_what_the_file_is(tmp_path: Path) -> None:
    """A pickle called Data would otherwise skip the trust decision."""
    model, frame, label = support.linear()
    saved = sluice.save(model, frame, label, tmp_path / "p", convert=False)
    assert saved.manifest.model.trust_class == "Code"
    support.rewrite(saved.path, '"class":"Code"', '"class":"Data"')
    assert reason(saved.path) == "ClassMismatch"
    support.rewrite(saved.path, '"format":"joblib"', '"format":"onnx"')
    assert reason(saved.path) == "ClassMismatch"


def test_code_beside_a_data_model_is_refused(package: Path) -> None:
    manifest = decode((package / MANIFEST_NAME).read_bytes())
    text = encode(manifest).replace(b'"conversion"', b'"code":["golden.json"],"conversion"')
    (package / MANIFEST_NAME).write_bytes(text)
    assert reason(package) == "Corrupt"


def test_the_environment_is_checked_before_any_load(tmp_path: Path) -> None:
    model, frame, label = support.linear()
    saved = sluice.save(model, frame, label, tmp_path / "p", convert=False)
    version = saved.manifest.environment.requires["scikit-learn"]
    support.rewrite(saved.path, f'"scikit-learn":"{version}"', '"scikit-learn":"1.5.2"')
    with pytest.raises(PackageError) as error:
        open_package(saved.path)
    assert error.value.reason == "EnvironmentMismatch"
    has = ".".join(version.split(".")[:2])
    assert f"EnvironmentMismatch: scikit-learn needs 1.5.*, image has {has}." in str(error.value)
    assert open_package(saved.path, check_environment=False).manifest.model.format == "joblib"
    support.rewrite(saved.path, '"scikit-learn":"1.5.2"', '"no-such-library":"3.1"')
    with pytest.raises(PackageError, match=r"no-such-library needs 3\.1\.\*, image has none"):
        open_package(saved.path)


def test_a_bare_onnx_file_says_its_own_schema(package: Path, tmp_path: Path) -> None:
    bare = tmp_path / "churn model.onnx"
    (package / "model.onnx").rename(bare)
    opened = open_package(bare, digest_of(bare.read_bytes()))
    assert opened.bare and opened.manifest.name == "churn-model"
    assert [i.name for i in opened.manifest.inputs] == ["x0", "x1", "x2"]
    assert opened.manifest.output.labels == (0, 1)
    assert decode(encode(opened.manifest)) == opened.manifest
    folder = tmp_path / "only"
    folder.mkdir()
    bare.rename(folder / bare.name)
    assert open_package(folder).digest == opened.digest


def test_a_bare_code_file_is_listed_and_refused(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    file = tmp_path / "model.onnx"  # the name does not matter
    file.write_bytes(support.hostile(marker))
    with pytest.raises(PackageError) as error:
        wrap_bare(file)
    assert error.value.reason == "BareCodeFile"
    text = str(error.value)
    assert "posix.mkdir" in text and "sluice package" in text and "sluice trust request" in text
    assert not marker.exists()


def test_what_is_no_model_at_all_is_said(tmp_path: Path) -> None:
    file = tmp_path / "m"
    for data in (b"", b"hello", b"\x08\x07\x12", bytes(range(7, 256)) * 9):
        file.write_bytes(data)
        assert reason(file) == "UnknownFormat"
