"""Wheels made on the spot: one of some source, or one of what is installed here.

write_wheel(folder, "tinymodel", "1.0", {"tinymodel.py": b"..."})
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path


def write_wheel(
    folder: Path, name: str, version: str, files: Mapping[str, bytes], tag: str = "py3-none-any"
) -> Path:
    """A wheel with ``files``; its path."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    content = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n".encode(),
    }
    record = "".join(f"{path},,\n" for path in [*content, f"{info}/RECORD"])
    wheel = folder / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in {**content, f"{info}/RECORD": record.encode()}.items():
            archive.writestr(path, data)
    return wheel


def installed_wheel(folder: Path, name: str) -> Path:
    """A wheel of a pure distribution that is installed here."""
    distribution = metadata.distribution(name)
    files = {
        str(file): Path(str(file.locate())).read_bytes()
        for file in distribution.files or []
        if file.suffix == ".py" and ".." not in file.parts and "test" not in file.parts
    }
    return write_wheel(folder, name, distribution.version, files)
