"""Where programs come from: PATH, cache, download with checksum, and what is said otherwise."""

from __future__ import annotations

import functools
import hashlib
import http.server
import io
import os
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sluice.local import binaries, namespace
from sluice.local.errors import LocalError, MissingProgramError
from sluice.local.settings import ETCD_VERSION, KUBERNETES_VERSION, state_dir

NAME = "kube-scheduler"


@pytest.fixture(autouse=True)
def own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache, an empty PATH, nothing remembered about the network."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    monkeypatch.setattr(binaries, "_unreachable", [])


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A release server on loopback; the directory that it serves."""
    root = tmp_path / "mirror"
    root.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(root))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        monkeypatch.setenv("SLUICE_LOCAL_KUBERNETES_MIRROR", url)
        monkeypatch.setenv("SLUICE_LOCAL_ETCD_MIRROR", url)
        yield root
        server.shutdown()


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{text}'\n")
    path.chmod(0o755)
    return path


def quiet(_: str) -> None:
    pass


def test_path_in_the_pinned_minor_version_is_used(tmp_path: Path) -> None:
    here = program(tmp_path / "path" / NAME, "Kubernetes v1.37.9")
    assert binaries.ensure((NAME,), quiet) == {NAME: str(here)}


def test_other_version_on_path_is_not_used(tmp_path: Path) -> None:
    program(tmp_path / "path" / NAME, "Kubernetes v1.30.1")
    with pytest.raises(MissingProgramError, match=NAME):
        binaries.path(NAME)


def test_assets_directory_comes_before_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / "path" / NAME, "Kubernetes v1.37.9")
    assets = program(tmp_path / "assets" / NAME, "Kubernetes v1.37.2")
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path / "assets"))
    assert binaries.path(NAME) == assets


def _publish(root: Path, content: bytes, digest: str | None = None) -> None:
    place = root / f"v{KUBERNETES_VERSION}/bin/linux/{binaries._ARCH}"
    place.mkdir(parents=True)
    (place / NAME).write_bytes(content)
    (place / f"{NAME}.sha256").write_text(digest or hashlib.sha256(content).hexdigest())


def test_download_with_checksum_goes_into_the_cache(mirror: Path) -> None:
    _publish(mirror, b"#!/bin/sh\n")
    said: list[str] = []
    found = Path(binaries.ensure((NAME,), said.append)[NAME])
    assert found == binaries.cache_dir() / NAME
    assert os.access(found, os.X_OK)
    assert any("downloading" in s for s in said)
    assert binaries.path(NAME) == found
    assert [p.name for p in binaries.cache_dir().iterdir() if p.name.startswith(".part")] == []


def test_wrong_checksum_is_refused_and_leaves_nothing(mirror: Path) -> None:
    _publish(mirror, b"tampered", "0" * 64)
    with pytest.raises(LocalError, match="checksum"):
        binaries.ensure((NAME,), quiet)
    assert [p.name for p in binaries.cache_dir().iterdir()] == [".lock"]


def test_etcd_is_taken_out_of_its_archive(mirror: Path) -> None:
    place = mirror / f"v{ETCD_VERSION}"
    place.mkdir()
    archive = place / f"etcd-v{ETCD_VERSION}-linux-{binaries._ARCH}.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        member = tarfile.TarInfo(f"{archive.name.removesuffix('.tar.gz')}/etcd")
        member.size = 4
        tar.addfile(member, io.BytesIO(b"etcd"))
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    (place / "SHA256SUMS").write_text(f"{'0' * 64}  other.tar.gz\n{digest}  {archive.name}\n")
    assert Path(binaries.ensure(("etcd",), quiet)["etcd"]).read_bytes() == b"etcd"


def test_unreachable_server_is_asked_once_and_then_it_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The build is a stand-in for Go that writes what it is asked to write."""
    monkeypatch.setenv("SLUICE_LOCAL_KUBERNETES_MIRROR", "http://127.0.0.1:1")
    go = tmp_path / "path" / "go"
    program(go, "")
    go.write_text(
        "#!/bin/sh\n[ $1 = env ] && { echo go1.26.1; exit; }\n"
        'set -e\n[ -e go.mod ]\nwhile [ "$1" != -o ]; do shift; done\n: > "$2"\n'
    )
    monkeypatch.setenv("PATH", f"{tmp_path / 'path'}:/usr/bin:/bin")
    said: list[str] = []
    names = (NAME, "kube-proxy")
    found = binaries.ensure(names, said.append)
    assert all(Path(p).parent == binaries.cache_dir() for p in found.values())
    assert len([s for s in said if "cannot be reached" in s]) == 1
    assert len([s for s in said if s.startswith("building")]) == 2


def test_failed_build_says_what_the_compiler_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLUICE_LOCAL_DOWNLOAD", "never")
    go = program(tmp_path / "path" / "go", "")
    go.write_text("#!/bin/sh\necho go1.26.1\n[ $1 = env ] || { echo no space left; exit 1; } >&2\n")
    with pytest.raises(MissingProgramError, match="no space left") as caught:
        binaries.ensure((NAME,), quiet)
    assert "KUBEBUILDER_ASSETS" in caught.value.hint


def test_every_missing_program_comes_with_a_way_out() -> None:
    with pytest.raises(MissingProgramError) as caught:
        binaries.path("etcd")
    assert "binaries ensure etcd" in caught.value.hint


def test_pinned_modules_are_in_the_package() -> None:
    modules = Path(binaries.__file__).parent / "gomod"
    kubernetes = (modules / "kubernetes" / "go.mod").read_text()
    assert f"k8s.io/kubernetes v{KUBERNETES_VERSION}" in kubernetes
    assert f"go.etcd.io/etcd/server/v3 v{ETCD_VERSION}" in (modules / "etcd/go.mod").read_text()
    for module in ("kubernetes", "etcd"):
        assert (modules / module / "go.sum").stat().st_size > 10_000


def test_without_nft_the_reason_names_the_package() -> None:
    mode, _, why = namespace.decide("auto", None)
    assert mode == "rewrite"
    assert "nftables" in why


@pytest.mark.parametrize("name", ["", "Upper", "a/b", "-x", "a" * 41, ".."])
def test_instance_names_are_checked(name: str) -> None:
    with pytest.raises(LocalError, match="cannot name"):
        state_dir(name)


def test_old_nft_and_old_kernels_are_named(tmp_path: Path) -> None:
    old = str(program(tmp_path / "nft-old", "nftables v0.9.8 (E.D.S.)"))
    new = str(program(tmp_path / "nft-new", "nftables v1.0.6 (Lester Gooch #5)"))
    assert namespace._too_old(old, "6.1.0") == "nft 0.9.8 is too old, 1.0.1 is needed"
    assert namespace._too_old(new, "5.10.0-21") == "Linux 5.10.0 is too old, 5.13.0 is needed"
    assert namespace._too_old(new, "5.15.0-91-generic") == ""
