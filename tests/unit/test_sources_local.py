"""Local files and claims: regular files only, and none outside the volume."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest

from sluice.errors import SourceError
from sluice.sources import Budget, copy_to_file, open_destination, open_source, parse
from sluice.sources.base import SELF


def read(uri: str, name: str, target: Path) -> bytes:
    async def run() -> None:
        await copy_to_file(open_source(parse(uri)), name, target, Budget(1 << 30))

    asyncio.run(run())
    return target.read_bytes()


def refused(uri: str, name: str, target: Path) -> str:
    with pytest.raises(SourceError) as error:
        read(uri, name, target)
    assert not error.value.retryable
    return error.value.reason


def test_reads_a_file_and_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "x").write_bytes(b"x" * 3_000_000)
    assert read(f"file://{tmp_path}/d", "x", tmp_path / "1") == b"x" * 3_000_000
    assert read(f"file://{tmp_path}/d/x", SELF, tmp_path / "2") == b"x" * 3_000_000


def test_missing_and_not_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
    (tmp_path / "loop").symlink_to("loop")
    assert refused(f"file://{tmp_path}", "nope", tmp_path / "1") == "Missing"
    assert refused(f"file://{tmp_path}", "loop", tmp_path / "2") == "Missing"
    assert refused(f"file://{tmp_path}", SELF, tmp_path / "3") == "Missing"
    assert refused(f"file://{tmp_path}", "pipe", tmp_path / "4") == "Corrupt"
    assert refused(f"file://{tmp_path}", "x" * 300, tmp_path / "5") == "Missing"
    assert refused("file:///dev/zero", SELF, tmp_path / "6") == "Corrupt"


def test_a_package_ends_at_its_directory(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s")
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "out").symlink_to("../secret")
    (tmp_path / "p" / "real").write_text("r")
    (tmp_path / "p" / "in").symlink_to("real")
    (tmp_path / "link").symlink_to("p")
    assert refused(f"file://{tmp_path}/p", "out", tmp_path / "1") == "Corrupt"
    # As a ConfigMap volume has it: links that stay inside.
    assert read(f"file://{tmp_path}/p", "in", tmp_path / "2") == b"r"
    # A link that the user named is followed: `current -> 2026-11`.
    assert read(f"file://{tmp_path}/link", "real", tmp_path / "3") == b"r"


def test_a_volume_cannot_point_out_of_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLUICE_PVC_ROOT", str(tmp_path / "pvc"))
    volume = tmp_path / "pvc" / "claim"
    (volume / "models").mkdir(parents=True)
    (tmp_path / "token").write_text("t")
    (volume / "models" / "steal").symlink_to(tmp_path / "token")
    (volume / "models" / "dir").symlink_to(tmp_path)
    (volume / "models" / "ok").symlink_to("../other")
    (volume / "other").write_text("o")
    assert refused("pvc://claim/models/steal", SELF, tmp_path / "1") == "Corrupt"
    assert refused("pvc://claim/models/dir", "token", tmp_path / "2") == "Corrupt"
    assert read("pvc://claim/models/ok", SELF, tmp_path / "3") == b"o"


def test_an_unreadable_file_is_denied(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        # Root reads everything: a directory of another kind of machine stands for it.
        assert refused("file:///proc/1/mem", SELF, tmp_path / "1") in ("Corrupt", "AccessDenied")
        return
    (tmp_path / "x").write_text("x")
    (tmp_path / "x").chmod(0)
    assert refused(f"file://{tmp_path}/x", SELF, tmp_path / "1") == "AccessDenied"


def test_too_large_is_known_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "big").open("wb") as stream:
        stream.truncate(1 << 40)

    async def run() -> None:
        source = open_source(parse(str(tmp_path / "big")))
        await copy_to_file(source, SELF, tmp_path / "t", Budget(1 << 20))

    with pytest.raises(SourceError) as error:
        asyncio.run(run())
    assert error.value.reason == "TooLarge"
    assert (tmp_path / "t").stat().st_size == 0


def test_writing(tmp_path: Path) -> None:
    (tmp_path / "from").write_bytes(b"abc")
    destination = open_destination(parse(f"file://{tmp_path}/to"))

    async def run() -> None:
        assert await destination.read("a/b", 10) is None
        assert await destination.size("a/b") is None
        await destination.write("a/b", tmp_path / "from")
        assert await destination.read("a/b", 2) == b"ab"
        assert await destination.size("a/b") == 3
        await destination.close()

    asyncio.run(run())
    assert [p.name for p in (tmp_path / "to" / "a").iterdir()] == ["b"]


def test_only_s3_and_directories_can_be_written() -> None:
    for uri in ("http://h/x", "pvc://claim/x"):
        with pytest.raises(SourceError) as error:
            open_destination(parse(uri))
        assert error.value.reason == "UnsupportedScheme"
