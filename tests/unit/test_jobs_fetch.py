"""Fetching a package: exactly what its ``sluice.json`` lists, or nothing."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.tools.packages import code_package, linear_package
from tests.tools.s3server import S3Server, s3_server
from tests.tools.webserver import Handler, Request, files, self_signed, web_server

from sluice.cli.push import _notes
from sluice.errors import PackageError, SluiceError, SourceError
from sluice.jobs.fetch import Fetched, Limits, fetch, fetch_file, resolve
from sluice.jobs.push import push
from sluice.signature import read_bundle, unpacked
from sluice.sources import parse
from sluice.sources.transfer import _Meter

OPERATOR = Path(__file__).parents[2] / "operator"
QUICK = Limits(attempts=2, first_wait=0.01)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    linear_package(tmp_path / "package")
    return tmp_path / "package"


def digest_of(package: Path) -> str:
    return "sha256:" + hashlib.sha256((package / "sluice.json").read_bytes()).hexdigest()


def content(directory: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(directory)): p.read_bytes()
        for p in directory.rglob("*")
        if p.is_file() and p.name != ".sluice-fetch"
    }


def refused(
    uri: str, to: Path, kind: type[SluiceError] = SluiceError, **options: Any
) -> SluiceError:
    with pytest.raises(kind) as error:
        fetch(uri, to, **{"limits": QUICK, **options})
    left = list(to.parent.glob(".sluice-fetch*")) + list(to.glob(".sluice-fetch-*"))
    assert left == [], "a failed fetch leaves nothing behind"
    assert error.value.message.endswith(".") and error.value.hint
    return error.value


def test_a_directory(package: Path, tmp_path: Path) -> None:
    (package / "notes.txt").write_text("not listed, so not fetched")
    done = fetch(str(package), tmp_path / "got")
    assert done == Fetched(tmp_path / "got", digest_of(package), done.size, mutable=True)
    assert content(tmp_path / "got").keys() == {"sluice.json", "model.onnx", "golden.json"}
    report = resolve(done)
    assert (report["class"], report["format"], report["name"]) == ("Data", "onnx", "linear")
    assert report["mutableSource"] is True
    assert (tmp_path / "got").stat().st_mode & 0o777 == 0o755, "another user serves it"


def test_the_address_of_the_manifest_is_the_packages(package: Path, tmp_path: Path) -> None:
    done = fetch(f"file://{package}/sluice.json", tmp_path / "got")
    assert done.digest == digest_of(package)


def test_a_pinned_package_is_not_fetched_twice(package: Path, tmp_path: Path) -> None:
    digest = digest_of(package)
    fetch(str(package), tmp_path / "got", digest=digest)
    before = (tmp_path / "got" / "model.onnx").stat().st_ino
    lines: list[str] = []
    done = fetch("s3://not/asked", tmp_path / "got", digest=digest, progress=lines.append)
    assert not done.mutable and "already holds" in lines[0]
    assert (tmp_path / "got" / "model.onnx").stat().st_ino == before
    # One rotten byte and it is fetched again.
    (tmp_path / "got" / "model.onnx").write_bytes(b"X" + (package / "model.onnx").read_bytes()[1:])
    fetch(str(package), tmp_path / "got", digest=digest)
    assert content(tmp_path / "got") == content(package)


def test_an_earlier_fetch_is_replaced_also_where_it_is_a_mount(
    package: Path, tmp_path: Path
) -> None:
    to = tmp_path / "volume"
    to.mkdir()
    (to / "lost+found").mkdir()
    inode = to.stat().st_ino
    fetch(str(package), to)
    (to / "stale").mkdir()
    (to / "stale" / "x").write_text("x")
    (to / ".sluice-fetch-killed").mkdir()
    linear_package(tmp_path / "other", bias=1.0)
    fetch(str(tmp_path / "other"), to)
    assert content(to) == content(tmp_path / "other")
    assert to.stat().st_ino == inode
    assert sorted(p.name for p in to.iterdir() if p.is_dir()) == ["lost+found"]


def test_somebodys_files_are_never_replaced(package: Path, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("years")
    (tmp_path / "file").write_text("x")
    for to in (tmp_path / "home", tmp_path / "file"):
        assert refused(str(package), to).reason == "CannotWrite"
    own = content(package)
    linear_package(tmp_path / "other", bias=1.0)
    assert refused(str(tmp_path / "other"), package).reason == "CannotWrite"
    assert content(package) == own
    assert (tmp_path / "home" / "thesis.txt").read_text() == "years"


def test_where_nothing_may_be_written(package: Path) -> None:
    with pytest.raises(SourceError) as error:
        fetch(str(package), Path("/proc/nowhere/got"))
    assert error.value.reason == "CannotWrite"


def test_digests(package: Path, tmp_path: Path) -> None:
    wrong = "sha256:" + "0" * 64
    error = refused(str(package), tmp_path / "got", PackageError, digest=wrong)
    assert error.reason == "DigestMismatch" and digest_of(package) in error.message
    pushed = push(package, f"file://{tmp_path}/store")
    error = refused(pushed.uri, tmp_path / "got", PackageError, digest=wrong)
    assert error.reason == "DigestMismatch"
    done = fetch(pushed.uri, tmp_path / "got")
    assert not done.mutable and done.digest == pushed.digest
    # Somebody wrote other bytes under a content address.
    linear_package(tmp_path / "other", bias=1.0)
    place = Path(pushed.uri.removeprefix("file://"))
    (place / "sluice.json").write_bytes((tmp_path / "other" / "sluice.json").read_bytes())
    assert refused(pushed.uri, tmp_path / "got2").reason == "DigestMismatch"


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:-1]), "Truncated"),
        (lambda p: p.write_bytes(b""), "Truncated"),
        (lambda p: p.write_bytes(p.read_bytes() + b"x"), "Corrupt"),
        (lambda p: p.write_bytes(p.read_bytes()[:-1] + b"x"), "Corrupt"),
        (lambda p: p.unlink(), "Missing"),
        (lambda p: (p.unlink(), p.mkdir()), "Missing"),
        (lambda p: (p.unlink(), p.symlink_to("/etc/hostname")), "Corrupt"),
        (lambda p: (p.unlink(), os.mkfifo(p)), "Corrupt"),
    ],
)
def test_a_damaged_file(
    damage: Callable[[Path], object], reason: str, package: Path, tmp_path: Path
) -> None:
    damage(package / "model.onnx")
    error = refused(str(package), tmp_path / "got")
    assert error.reason == reason and "model.onnx" in error.message
    assert not (tmp_path / "got").exists()
    assert not getattr(error, "retryable", False)


def manifest_with(package: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((package / "sluice.json").read_text())
    change(manifest)
    (package / "sluice.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "path",
    [
        "../outside",
        "/etc/passwd",
        "a/../../x",
        "a//b",
        "./x",
        "a\\b",
        "sluice.json",
        "x\0y",
        "",
        ".",
    ],
)
def test_a_hostile_path(path: str, package: Path, tmp_path: Path) -> None:
    manifest_with(package, lambda m: m["files"][0].update(path=path))
    assert refused(str(package), tmp_path / "got", PackageError).reason == "Corrupt"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["package"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not json",
        "[]",
        '{"schemaVersion":1}',
        '{"name": NaN}',
        "[" * 100_000,
        "<html>login</html>",
        "\ufeff{}",
    ],
)
def test_a_manifest_that_is_none(text: str, package: Path, tmp_path: Path) -> None:
    (package / "sluice.json").write_text(text)
    assert refused(str(package), tmp_path / "got", PackageError).reason == "Corrupt"


def test_nan_in_a_manifest(package: Path, tmp_path: Path) -> None:
    raw = (package / "sluice.json").read_text().replace('"threshold":0.5', '"threshold":NaN')
    (package / "sluice.json").write_text(raw)
    assert refused(str(package), tmp_path / "got", PackageError).reason == "Corrupt"


def test_files_that_collide(package: Path, tmp_path: Path) -> None:
    def nest(manifest: dict[str, Any]) -> None:
        manifest["files"].append({**manifest["files"][0], "path": "model.onnx/x"})

    manifest_with(package, nest)
    assert refused(str(package), tmp_path / "got").reason in ("Missing", "Corrupt", "CannotWrite")


def test_too_large(package: Path, tmp_path: Path) -> None:
    small = Limits(max_bytes=1000, attempts=1)
    assert refused(str(package), tmp_path / "got", limits=small).reason == "TooLarge"
    tiny = Limits(max_bytes=100, attempts=1)
    assert refused(str(package), tmp_path / "got", limits=tiny).reason == "TooLarge"
    manifest_with(package, lambda m: m["files"][0].update(size=1 << 50))
    assert refused(str(package), tmp_path / "got").reason == "TooLarge"
    huge = Limits(max_bytes=1 << 60, attempts=1)
    assert refused(str(package), tmp_path / "got", limits=huge).reason == "CannotWrite"
    (package / "sluice.json").write_bytes(b" " * (5 << 20))
    assert refused(str(package), tmp_path / "got").reason == "TooLarge"


def test_bare_files(package: Path, tmp_path: Path) -> None:
    done = fetch(f"{package}/model.onnx", tmp_path / "got")
    data = (package / "model.onnx").read_bytes()
    assert done.digest == "sha256:" + hashlib.sha256(data).hexdigest()
    report = resolve(done)
    assert (report["format"], report["class"]) == ("onnx", "Data")
    assert report["digest"] == done.digest
    again = fetch(f"{package}/model.onnx", tmp_path / "got", digest=done.digest)
    assert again.digest == done.digest and not again.mutable
    wrong = "sha256:" + "0" * 64
    assert refused(f"{package}/model.onnx", tmp_path / "2", digest=wrong).reason == (
        "DigestMismatch"
    )
    pushed = push(package / "model.onnx", f"file://{tmp_path}/store")
    assert pushed.uri.endswith("/model.onnx")
    assert fetch(pushed.uri, tmp_path / "3") == Fetched(
        tmp_path / "3", done.digest, done.size, mutable=False
    )


class _Marker:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (self.path,))


@pytest.mark.parametrize("name", ["model.pkl", "model.onnx", "weights"])
def test_code_is_never_loaded(name: str, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    (tmp_path / name).write_bytes(pickle.dumps(_Marker(str(marker))))
    done = fetch(str(tmp_path / name), tmp_path / "got")
    with pytest.raises(PackageError) as error:
        resolve(done)
    assert error.value.reason == "BareCodeFile"
    assert not marker.exists()


def test_a_package_of_code_is_described_and_not_loaded(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    code_package(tmp_path / "p", f"open({str(marker)!r}, 'w')\ndef prepare(f): return f\n")
    report = resolve(fetch(str(tmp_path / "p"), tmp_path / "got"))
    assert (report["class"], report["format"]) == ("Code", "joblib")
    assert not marker.exists()


def test_a_manifest_that_lies_about_the_class(tmp_path: Path) -> None:
    code_package(tmp_path / "p", "def prepare(f): return f\n")

    def lie(manifest: dict[str, Any]) -> None:
        manifest["model"].update({"class": "Data", "format": "onnx"})
        del manifest["preprocess"], manifest["code"]

    manifest_with(tmp_path / "p", lie)
    with pytest.raises(PackageError) as error:
        resolve(fetch(str(tmp_path / "p"), tmp_path / "got"))
    assert error.value.reason == "ClassMismatch"


def test_missing(tmp_path: Path) -> None:
    error = refused(f"file://{tmp_path}/nope", tmp_path / "got", SourceError)
    assert error.reason == "Missing"
    assert "neither sluice.json nor MLmodel below it, nor a file" in error.message
    (tmp_path / "empty").mkdir()
    assert refused(f"file://{tmp_path}/empty", tmp_path / "got").reason == "Missing"


def test_a_claim(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICE_PVC_ROOT", str(tmp_path))
    assert fetch("pvc://package", tmp_path / "got").digest == digest_of(package)
    assert refused("pvc://other/x", tmp_path / "2").reason == "Missing"


def test_http(package: Path, tmp_path: Path) -> None:
    with web_server(files(package.parent)) as server:
        done = fetch(f"{server.url}/package/", tmp_path / "got", limits=QUICK)
        assert content(tmp_path / "got") == content(package)
        assert done.mutable
        bare = fetch(f"{server.url}/package/model.onnx?sig=hush", tmp_path / "2", limits=QUICK)
        assert [p.name for p in (tmp_path / "2").glob("*.onnx")] == ["model.onnx"]
        assert bare.digest.startswith("sha256:")
        error = refused(f"{server.url}/other", tmp_path / "3")
    assert error.reason == "Missing"


def test_a_signed_address_of_one_file(package: Path, tmp_path: Path) -> None:
    """The server refuses any other path under the same signature."""
    data = (package / "model.onnx").read_bytes()

    def handler(request: Request) -> None:
        signed = request.path.startswith("/model.onnx?")
        request.reply(data if signed else b"", 200 if signed else 403)

    with web_server(handler) as server:
        fetch(f"{server.url}/model.onnx?signature=x", tmp_path / "got", limits=QUICK)
        assert refused(f"{server.url}/private", tmp_path / "2").reason == "AccessDenied"


def hostile(package: Path, answer: Handler) -> Handler:
    """Serve ``sluice.json`` honestly and everything else by ``answer``."""
    manifest = (package / "sluice.json").read_bytes()

    def handler(request: Request) -> None:
        if request.path.endswith("/sluice.json"):
            request.reply(manifest)
        else:
            answer(request)

    return handler


@pytest.mark.parametrize(
    ("answer", "reason", "retryable"),
    [
        (lambda r: r.reply(b"short"), "Truncated", False),
        (lambda r: r.reply(b"x" * 100_000), "Corrupt", False),
        (lambda r: r.reply(b"x", length=300), "Truncated", True),
        (lambda r: r.reply(b"", 404), "Missing", False),
        (lambda r: r.reply(b"", 500), "Unreachable", True),
        (lambda r: r.reply(b"", 302, {"Location": r.path}), "Unreachable", False),
        (lambda r: r.reply(b"", 403), "AccessDenied", False),
    ],
)
def test_a_hostile_server(
    answer: Handler, reason: str, retryable: bool, package: Path, tmp_path: Path
) -> None:
    with web_server(hostile(package, answer)) as server:
        error = refused(f"{server.url}/p", tmp_path / "got")
    assert (error.reason, getattr(error, "retryable", False)) == (reason, retryable)


def test_a_slow_server_runs_into_the_time_limit(package: Path, tmp_path: Path) -> None:
    release = threading.Event()

    def drip(request: Request) -> None:
        request.send_response(200)
        request.send_header("Content-Length", "402")
        request.end_headers()
        while not release.wait(0.05):
            try:
                request.wfile.write(b"x")
            except ConnectionError:
                return

    with web_server(hostile(package, drip)) as server:
        limits = Limits(seconds=0.5, attempts=1)
        error = refused(f"{server.url}/p", tmp_path / "got", SourceError, limits=limits)
        release.set()
    assert error.reason == "Timeout" and getattr(error, "retryable", False)


def test_data_files(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("a,b\n1,2\n")
    done = fetch_file(str(tmp_path / "d.csv"), tmp_path / "new" / "data")
    assert (tmp_path / "new" / "data").read_text() == "a,b\n1,2\n"
    fetch_file(str(tmp_path / "d.csv"), tmp_path / "new" / "data", digest=done.digest)
    with pytest.raises(PackageError):
        fetch_file(str(tmp_path / "d.csv"), tmp_path / "3", digest="sha256:" + "0" * 64)
    assert not (tmp_path / "3").exists()
    with pytest.raises(SourceError):
        fetch_file(str(tmp_path / "d.csv"), tmp_path / "new")


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with s3_server(workdir=tmp_path_factory.mktemp("s3")) as running:
        running.make_bucket("models")
        yield running


def test_push_and_fetch_by_s3(
    s3: S3Server, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3.environ.items():
        monkeypatch.setenv(name, value)
    pushed = push(package, "s3://models/team/iris/")
    assert pushed.uri == f"s3://models/team/iris/sha256-{pushed.digest[7:]}"
    assert pushed.uploaded == 3
    assert push(package, "s3://models/team/iris").uploaded == 0
    done = fetch(pushed.uri, tmp_path / "got")
    assert content(tmp_path / "got") == content(package) and not done.mutable

    key = f"team/iris/sha256-{pushed.digest[7:]}/model.onnx"
    rotten = s3.object_path("models", key)
    rotten.write_bytes(b"X" + rotten.read_bytes()[1:])
    error = refused(pushed.uri, tmp_path / "2", PackageError)
    assert error.reason == "Corrupt" and "--force" in error.hint
    assert push(package, "s3://models/team/iris", force=True).uploaded == 3
    fetch(pushed.uri, tmp_path / "2")

    rotten.unlink()
    assert refused(pushed.uri, tmp_path / "3", PackageError).reason == "Missing"
    assert push(package, "s3://models/team/iris").uploaded == 3, "a lost file is noticed"
    bare = push(package / "model.onnx", "s3://models/bare")
    assert push(package / "model.onnx", "s3://models/bare").uploaded == 0
    assert fetch(bare.uri, tmp_path / "4").digest == bare.digest


def test_push_has_patience_and_needs_no_right_to_read(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that is busy at first, and lets these credentials write only."""
    busy = iter([503, 200])
    stored: list[str] = []

    def put(request: Request) -> None:
        request.rfile.read(int(request.headers["Content-Length"]))
        status = next(busy, 200)
        if status == 200:
            stored.append(request.path.rpartition("/")[2])
        request.reply(b"", status, {"ETag": '"1"'})

    def handler(request: Request) -> None:
        if request.command == "PUT":
            put(request)
        else:
            request.reply(b"", 403)

    with web_server(handler) as store:
        monkeypatch.setenv("AWS_ENDPOINT_URL", store.url)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
            monkeypatch.setenv(name, "x")
        assert push(package, "s3://models/iris").uploaded == 3
    assert stored == ["golden.json", "model.onnx", "sluice.json"]


def test_an_unverified_package_is_not_pushed(package: Path, tmp_path: Path) -> None:
    (package / "model.onnx").write_bytes(b"x")
    with pytest.raises(PackageError):
        push(package, f"file://{tmp_path}/store")
    assert not (tmp_path / "store").exists()


def sluice(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sluice.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": str(OPERATOR), **environ},
    )


def test_the_command_reports_as_the_operator_reads_it(package: Path, tmp_path: Path) -> None:
    log = tmp_path / "termination-log"
    ran = sluice(
        "fetch", str(package), "--to", str(tmp_path / "got"), "--resolve",
        SLUICE_TERMINATION_LOG=str(log),
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == json.loads(log.read_text())
    assert json.loads(log.read_text())["package"]["digest"] == digest_of(package)
    assert "Fetching" in ran.stderr


@pytest.mark.parametrize(
    ("uri", "code", "reason"),
    [
        ("/nowhere/at/all", 3, "Missing"),
        ("ftp://host/x", 3, "UnsupportedScheme"),
    ],
)
def test_the_commands_exit_codes(uri: str, code: int, reason: str, tmp_path: Path) -> None:
    report = tmp_path / "r.json"
    ran = sluice("fetch", uri, "--to", str(tmp_path / "got"), "--resolve", "--report", str(report))
    assert ran.returncode == code
    said = json.loads(report.read_text())
    assert said == json.loads(ran.stdout)
    assert (said["ok"], said["reason"], said["retryable"]) == (False, reason, False)
    assert said["message"] and "Traceback" not in ran.stderr


def test_a_server_in_trouble_is_worth_another_try(tmp_path: Path) -> None:
    with web_server(lambda r: r.reply(b"", 503, {"Retry-After": "0"})) as server:
        ran = sluice("fetch", f"{server.url}/p", "--to", str(tmp_path / "got"), "--resolve")
    assert ran.returncode == 4
    assert json.loads(ran.stdout)["retryable"] is True


def test_https_with_an_authority_of_ones_own(package: Path, tmp_path: Path) -> None:
    certificate = self_signed(tmp_path / "server.pem")
    data = (package / "model.onnx").read_bytes()
    stamp = {"Last-Modified": "Tue, 24 Nov 2026 05:00:00 GMT", "ETag": '"1"'}

    def handler(request: Request) -> None:
        if request.path.startswith("/down"):
            request.reply(b"", 302, {"Location": "http://127.0.0.1:1/x"})
        else:
            found = request.path.endswith("/model.onnx")
            request.reply(data if found else b"", 200 if found else 404, stamp)

    with web_server(handler, certificate) as server:
        keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "r"}
        environ = {**keys, "AWS_ENDPOINT_URL": server.url}
        for number, uri in enumerate((f"{server.url}/model.onnx", "s3://models/model.onnx")):
            to = str(tmp_path / f"got{number}")
            ran = sluice("fetch", uri, "--to", to, "--resolve", **environ)
            assert ran.returncode == 3
            assert "certificate" in json.loads(ran.stdout)["message"]
            trusted = {**environ, "SSL_CERT_FILE": str(certificate)}
            ran = sluice("fetch", uri, "--to", to, "--resolve", **trusted)
            assert ran.returncode == 0, ran.stderr
        ran = sluice("fetch", f"{server.url}/down", "--to", to + "x", "--resolve", **trusted)
        assert "from https to http" in json.loads(ran.stdout)["message"]


def test_told_to_stop_it_leaves_nothing_behind(package: Path, tmp_path: Path) -> None:
    asked, release = threading.Event(), threading.Event()

    def hang(request: Request) -> None:
        asked.set()
        release.wait(30)

    with web_server(hostile(package, hang)) as server:
        process = subprocess.Popen(
            [sys.executable, "-m", "sluice.cli", "fetch", f"{server.url}/p", "--to", "got"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(OPERATOR)},
            stderr=subprocess.DEVNULL,
        )
        assert asked.wait(30)
        process.terminate()
        assert process.wait(10) == 143
        release.set()
    assert [p.name for p in tmp_path.iterdir()] == ["package"]


def test_usage(tmp_path: Path) -> None:
    ran = sluice("fetch", "x", "--to", str(tmp_path / "t"), "--digest", "sha256:12")
    assert ran.returncode == 2 and "64 hex digits" in ran.stderr
    ran = sluice("fetch", "x", "--to", str(tmp_path / "t"), "--timeout", "7d")
    assert ran.returncode == 2 and "not a duration" in ran.stderr


def signed(package: Path) -> bytes:
    """Sign with a new key; the signature's bytes."""
    from cryptography.hazmat.primitives.asymmetric import ec

    from sluice.package.signing import sign_package

    sign_package(package, ec.generate_private_key(ec.SECP256R1()))
    return (package / "model.sig").read_bytes()


def test_a_signature_travels_with_its_package_and_is_reported(
    package: Path, tmp_path: Path
) -> None:
    bundle = signed(package)
    pushed = push(package, str(tmp_path / "store"))
    assert pushed.uploaded == len(content(package))
    with web_server(files(package)) as server:
        for number, uri in enumerate((pushed.uri, server.url)):
            done = fetch(uri, tmp_path / f"got{number}", limits=QUICK)
            assert content(done.path) == content(package)
            report = resolve(done)
            assert unpacked(report["signature"]) == read_bundle(bundle)
            assert "signatureProblem" not in report


def test_a_signature_travels_by_s3_also_with_credentials_that_may_not_list(
    s3: S3Server, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3.environ.items():
        monkeypatch.setenv(name, value)
    first = push(package, "s3://models/signed")
    fetch(first.uri, tmp_path / "unsigned")
    assert not (tmp_path / "unsigned" / "model.sig").exists()
    bundle = signed(package)
    assert push(package, "s3://models/signed").uploaded == 1
    fetch(first.uri, tmp_path / "got", limits=QUICK)
    assert (tmp_path / "got" / "model.sig").read_bytes() == bundle
    calm = files(package)

    def secretive(request: Request) -> None:
        if request.path.endswith("model.sig"):
            request.reply(status=403)
        else:
            calm(request)

    with web_server(secretive) as server:
        done = fetch(server.url, tmp_path / "private", limits=QUICK)
    assert "signature" not in resolve(done)


def test_a_signature_is_published_alone_and_replaced(package: Path, tmp_path: Path) -> None:
    first = push(package, str(tmp_path / "store"))
    for _ in range(2):
        bundle = signed(package)
        again = push(package, str(tmp_path / "store"))
        assert (again.uri, again.uploaded) == (first.uri, 1)
        assert (Path(first.uri.removeprefix("file://")) / "model.sig").read_bytes() == bundle
    assert push(package, str(tmp_path / "store")).uploaded == 0
    (package / "model.sig").write_text("{}")
    with pytest.raises(PackageError) as error:
        push(package, str(tmp_path / "store"))
    assert error.value.reason == "SignatureInvalid"


@pytest.mark.parametrize(
    ("bundle", "problem"),
    [(b"<html>", "cannot be read"), (b"", "cannot be read"), (b"x" * (2 << 20), None)],
    ids=["a page", "empty", "huge"],
)
def test_what_is_no_signature_stops_no_package(
    bundle: bytes, problem: str | None, package: Path, tmp_path: Path
) -> None:
    (package / "model.sig").write_bytes(bundle)
    report = resolve(fetch(str(package), tmp_path / "got"))
    assert "signature" not in report
    assert ("signatureProblem" in report) == (problem is not None)
    assert problem is None or problem in report["signatureProblem"]


def test_a_signature_over_more_files_than_a_report_holds_is_said_to_be(tmp_path: Path) -> None:
    extra = {f"wheels/{i:064x}.whl": b"%d" % i for i in range(60)}
    linear_package(tmp_path / "package", extra=extra)
    signed(tmp_path / "package")
    report = resolve(fetch(str(tmp_path / "package"), tmp_path / "got"))
    assert "more files" in report["signatureProblem"] and "signature" not in report


def test_a_server_that_stumbles_over_the_signature_is_asked_again(
    package: Path, tmp_path: Path
) -> None:
    signed(package)
    calm = files(package)
    stumbles = iter([True, False])

    def handle(request: Request) -> None:
        if request.path.endswith("model.sig") and next(stumbles):
            request.reply(status=503)
        else:
            calm(request)

    with web_server(handle) as server:
        done = fetch(server.url, tmp_path / "got", limits=QUICK, signature_matters=True)
    assert content(done.path) == content(package)
    assert next(stumbles, None) is None


def test_a_pod_that_starts_does_not_wait_for_a_signature(package: Path, tmp_path: Path) -> None:
    signed(package)
    calm = files(package)
    asked: list[str] = []

    def broken(request: Request) -> None:
        if request.path.endswith("model.sig"):
            asked.append(request.path)
            request.reply(status=503)
        else:
            calm(request)

    lines: list[str] = []
    with web_server(broken) as server:
        digest = digest_of(package)
        fetch(server.url, tmp_path / "got", digest=digest, limits=QUICK, progress=lines.append)
        assert len(asked) == 1 and any("model.sig is left out" in line for line in lines)
        error = refused(server.url, tmp_path / "again", SourceError, signature_matters=True)
        assert error.reason == "Unreachable"
    assert set(content(tmp_path / "got")) == set(content(package)) - {"model.sig"}


def test_a_large_package_gets_more_time_unless_a_limit_was_given(
    package: Path, tmp_path: Path
) -> None:
    def slow(request: Request) -> None:
        if not request.path.endswith("sluice.json"):
            threading.Event().wait(1.0)
        files(package)(request)

    with web_server(slow) as server:
        patient = Limits(attempts=1, seconds=1.5, slowest=10.0)
        assert fetch(f"{server.url}/", tmp_path / "1", limits=patient).size > 10
        strict = Limits(attempts=1, seconds=1.5, slowest=float("inf"))
        error = refused(f"{server.url}/", tmp_path / "2", SourceError, limits=strict)
    assert error.reason == "Timeout" and "--timeout" in error.hint


def test_a_line_of_progress() -> None:
    meter = _Meter(parse("s3://b/model.onnx"), 4 * 1024**3, print, begun_at=1024**3)
    assert meter.line(2 * 1024**3, 10.0) == (
        "model.onnx: 2.0 GiB of 4.0 GiB, 102.4 MiB/s, 20 s to go"
    )
    unknown = _Meter(parse("s3://b/model.onnx"), None, print)
    assert unknown.line(1024, 0.0) == "model.onnx: 1.0 KiB, 1000.0 KiB/s"
    assert _Meter(parse("s3://b/m"), 9, print).line(0, 5.0) == "m: 0 B of 9 B, 0 B/s"


@pytest.mark.parametrize(("shelf", "words"), [("/tmp/x", "may be gone"), ("/srv/x", "each pod")])
def test_what_push_says_of_a_directory(shelf: str, words: str) -> None:
    said = "\n".join(_notes(f"file://{shelf}/sha256-9f"))
    assert words in said and "together with `uri`" in said


def test_the_push_command(package: Path, tmp_path: Path) -> None:
    ran = sluice("push", str(package), str(tmp_path / "shelf"))
    assert ran.returncode == 0, ran.stderr
    assert "digest: sha256:" in ran.stdout and "DigestMismatch" in ran.stdout
    refusal = sluice("push", str(package), "hf://acme/iris/x")
    assert refusal.returncode != 0 and "oci://REGISTRY" in refusal.stderr


@pytest.mark.parametrize("room", [200, 600, 1_500_000])
def test_a_disk_that_fills_up(room: int, tmp_path: Path) -> None:
    """A limit on file size stands in for the disk: writing fails at the same two places, in the
    middle of a large file and when the last bytes of a small one leave the buffer."""
    linear_package(tmp_path / "package", extra={"large.bin": bytes(3_000_000)})
    script = (
        "import resource, runpy, sys; "
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, {room})); "
        "runpy.run_module('sluice.cli', run_name='__main__')"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, "fetch", "package", "--to", "got"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(OPERATOR)},
    )
    assert ran.returncode == 3 and "cannot be written" in ran.stderr
    assert "sizeLimit" in ran.stderr and "Traceback" not in ran.stderr
    assert not (tmp_path / "got").exists()
