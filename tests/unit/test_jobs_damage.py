"""Whatever is damaged on the way: the very package that was published arrives, or nothing does."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.tools.packages import linear_package

from sluice.errors import SluiceError
from sluice.jobs.fetch import Limits, fetch, resolve
from sluice.package.load import open_package

FILES = ("sluice.json", "model.onnx", "golden.json")
QUICK = Limits(attempts=1)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], str]:
    package = tmp_path_factory.mktemp("published") / "p"
    digest = linear_package(package)
    return {name: (package / name).read_bytes() for name in FILES}, digest


damages = st.tuples(
    st.sampled_from(FILES),
    st.sampled_from(["flip", "cut", "grow", "insert", "remove"]),
    st.integers(0, 10**6),
    st.integers(1, 255),
)


def damaged(data: bytes, how: str, where: int, byte: int) -> bytes | None:
    at = where % len(data)
    return {
        "flip": data[:at] + bytes([data[at] ^ byte]) + data[at + 1 :],
        "cut": data[:at],
        "grow": data + bytes([byte]) * (where % 100 + 1),
        "insert": data[:at] + bytes([byte]) + data[at:],
        "remove": None,
    }[how]


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(damages, min_size=1, max_size=3), st.booleans())
def test_all_or_nothing(
    published: tuple[dict[str, bytes], str], what: list[tuple[str, str, int, int]], pinned: bool
) -> None:
    files, digest = published
    now: dict[str, bytes | None] = dict(files)
    for name, how, where, byte in what:
        data = now[name]
        now[name] = damaged(data, how, where, byte) if data else None
    with tempfile.TemporaryDirectory() as scratch:
        source, to = Path(scratch, "source"), Path(scratch, "to")
        source.mkdir()
        for name, data in now.items():
            if data is not None:
                (source / name).write_bytes(data)
        try:
            done = fetch(str(source), to, digest=digest if pinned else None, limits=QUICK)
        except SluiceError as error:
            assert error.message and error.hint and error.reason != "Error"
            assert sorted(p.name for p in Path(scratch).iterdir()) == ["source"]
            return
        if pinned:
            assert {name: (to / name).read_bytes() for name in FILES} == files
            return
        # Not pinned, and another valid package: then it is that one, whole.
        assert open_package(to, done.digest).digest == done.digest
        assert resolve(done)["class"] == "Data"
