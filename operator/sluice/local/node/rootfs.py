"""A container's root directory: the host's programs read-only, everything else its own.

Called by the launcher in a fresh mount namespace, after the fork and before the exec, so there is
no subprocess and nothing to clean up: the kernel drops the mounts with the last process.
Standard library only.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from sluice.local import linux

_OLD, _NEW, _LAYERS = "/old", "/new", "/layers"
_PRIVATE = ("dev", "proc", "tmp", "run")
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")


class Mount(TypedDict):
    """A volume (or file) at its real mountPath."""

    source: str
    target: str
    read_only: bool


class Root(TypedDict):
    """What the agent asks for."""

    base: str  # any existing directory; the tmpfs that holds the mounts is laid over it
    mounts: list[Mount]
    visible: list[str]  # host paths that must stay visible although below /tmp or /run
    read_only: bool


def enter(root: Root, cwd: str) -> None:
    """Become a process whose root directory is the container's."""
    linux.mount("none", "/", None, linux.MS_REC | linux.MS_PRIVATE)
    sources = [os.path.realpath(m["source"]) for m in root["mounts"]]
    linux.mount("tmpfs", root["base"], "tmpfs", 0, "mode=755")
    for name in (_OLD, _NEW, _LAYERS):
        Path(root["base"] + name).mkdir()
    linux.pivot_root(root["base"], root["base"] + _OLD)
    os.chdir("/")
    linux.mount("tmpfs", _NEW, "tmpfs", 0, "mode=755")
    _bind_host()
    _private_directories()
    for path in root["visible"]:
        _show(path)
    order = sorted(zip(sources, root["mounts"], strict=True), key=lambda p: len(p[1]["target"]))
    _make_room([mount["target"] for _, mount in order])
    for source, mount in order:
        _bind_volume(source, mount)
    for path in root["visible"]:
        with contextlib.suppress(OSError):  # A read-only volume over it wins.
            _show(path)  # Again: a volume at /tmp hides what was shown there.
    inside = _resolve(cwd)
    if not Path(inside).exists():  # a runtime creates the working directory
        _make_room([cwd])
        _create(inside, directory=True)
    if root["read_only"]:
        _remount_read_only({_resolve(mount["target"]) for mount in root["mounts"]})
    os.chdir(_NEW)
    linux.pivot_root(".", ".")
    linux.unmount(".")
    os.chdir(cwd)


def _bind_host() -> None:
    for entry in os.scandir(_OLD):
        target = f"{_NEW}/{entry.name}"
        if entry.is_symlink():
            Path(target).symlink_to(Path(entry.path).readlink())
        elif entry.is_dir() and entry.name not in _PRIVATE:
            Path(target).mkdir()
            linux.mount(entry.path, target, None, linux.MS_BIND | linux.MS_REC)
            # A mount below may be locked in a way that refuses even this; it stays as it is.
            with contextlib.suppress(OSError):
                linux.make_read_only(target)


def _private_directories() -> None:
    for name in _PRIVATE:
        Path(f"{_NEW}/{name}").mkdir(exist_ok=True)
    hidden = linux.MS_NOSUID | linux.MS_NODEV
    linux.mount("proc", f"{_NEW}/proc", "proc", hidden | linux.MS_NOEXEC)
    linux.mount("tmpfs", f"{_NEW}/tmp", "tmpfs", hidden, "mode=1777")  # noqa: S108
    linux.mount("tmpfs", f"{_NEW}/run", "tmpfs", hidden, "mode=755")
    dev = f"{_NEW}/dev"
    linux.mount("tmpfs", dev, "tmpfs", linux.MS_NOSUID, "mode=755")
    for name in _DEVICES:
        if Path(f"{_OLD}/dev/{name}").exists():
            Path(f"{dev}/{name}").touch()
            linux.mount(f"{_OLD}/dev/{name}", f"{dev}/{name}", None, linux.MS_BIND)
    for name in ("shm", "pts"):
        Path(f"{dev}/{name}").mkdir()
    linux.mount("tmpfs", f"{dev}/shm", "tmpfs", hidden, "mode=1777")
    linux.mount("devpts", f"{dev}/pts", "devpts", 0, "newinstance,ptmxmode=0666,mode=620")
    for link, target in (
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ):
        Path(f"{dev}/{link}").symlink_to(target)


def _show(path: str) -> None:
    top = path.split("/")[1]
    if top not in ("tmp", "run") or Path(_NEW + path).exists():
        return
    source = Path(_OLD + path)
    if source.is_dir():
        Path(_NEW + path).mkdir(parents=True)
        linux.mount(str(source), _NEW + path, None, linux.MS_BIND | linux.MS_REC)
        with contextlib.suppress(OSError):
            linux.make_read_only(_NEW + path)


def _make_room(targets: list[str]) -> None:
    """Before the first volume is bound: writable layers where a mount point is missing.

    A layer over /etc would hide what is already bound below /etc, so layers come first.
    """
    for index, target in enumerate(targets):
        inside_another = any(target.startswith(other + "/") for other in targets[:index])
        place = _resolve(target)
        top = place.removeprefix(_NEW + "/").split("/")[0]
        on_host = Path(_OLD, top).is_dir() and top not in _PRIVATE
        if on_host and not inside_another and not Path(place).exists():
            _copy_on_write(top)


def _bind_volume(source: str, mount: Mount) -> None:
    outside = _OLD + source
    is_directory = Path(outside).is_dir()
    target = _resolve(mount["target"])
    if not Path(target).exists():
        _create(target, directory=is_directory)
    linux.mount(outside, target, None, linux.MS_BIND | linux.MS_REC)
    if mount["read_only"]:
        linux.make_read_only(target)


def _resolve(path: str) -> str:
    """The place under the new root that ``path`` names, its symbolic links followed there."""
    parts = [p for p in path.split("/") if p not in ("", ".")][::-1]
    done: list[str] = []
    for _ in range(255):
        if not parts:
            break
        part = parts.pop()
        if part == "..":
            done = done[:-1]
            continue
        here = Path(_NEW, *done, part)
        if here.is_symlink():
            link = str(here.readlink())
            done = [] if link.startswith("/") else done
            parts.extend(p for p in link.split("/")[::-1] if p not in ("", "."))
        else:
            done.append(part)
    return str(Path(_NEW, *done))


def _create(target: str, *, directory: bool) -> None:
    if directory:
        Path(target).mkdir(parents=True, exist_ok=True)
    else:
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        Path(target).touch()


def _copy_on_write(top: str) -> None:
    """Lay a private, writable layer over one top directory; the host's is not touched."""
    upper, work = f"{_LAYERS}/{top}/upper", f"{_LAYERS}/{top}/work"
    if Path(upper).exists():
        return
    for path in (upper, work):
        Path(path).mkdir(parents=True)
    options = f"lowerdir={_OLD}/{top},upperdir={upper},workdir={work}"
    try:
        linux.mount("overlay", f"{_NEW}/{top}", "overlay", 0, options)
    except OSError:
        _mirror(f"{_OLD}/{top}", f"{_NEW}/{top}")


def _mirror(source: str, target: str) -> None:
    """Where overlays are refused: an empty directory with every entry of the host's bound in."""
    linux.mount("tmpfs", target, "tmpfs", 0, "mode=755")
    for entry in os.scandir(source):
        here = f"{target}/{entry.name}"
        if entry.is_symlink():
            Path(here).symlink_to(Path(entry.path).readlink())
            continue
        if entry.is_dir():
            Path(here).mkdir()
        else:
            Path(here).touch()
        linux.mount(entry.path, here, None, linux.MS_BIND | linux.MS_REC)
        with contextlib.suppress(OSError):
            linux.make_read_only(here)


def _remount_read_only(volumes: set[str]) -> None:
    """readOnlyRootFilesystem: the layers of the image, not the volumes nor the kernel's own.

    A volume over one of these directories hides it; remounting would make the volume read-only.
    """
    flags = linux.MS_REMOUNT | linux.MS_BIND | linux.MS_RDONLY
    private: Sequence[str] = ("", "/tmp", "/run")  # noqa: S108
    for name in private:
        if _NEW + name in volumes:
            continue
        with contextlib.suppress(OSError):
            extra = linux.MS_NOSUID | linux.MS_NODEV if name else 0
            linux.mount("none", _NEW + name, None, flags | extra)
    for layer in Path(_LAYERS).iterdir():
        if f"{_NEW}/{layer.name}" in volumes:
            continue
        with contextlib.suppress(OSError):
            linux.mount("none", f"{_NEW}/{layer.name}", None, flags)
