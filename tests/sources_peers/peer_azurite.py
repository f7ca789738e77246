"""Azurite, Microsoft's emulator of Azure Blob Storage: a package there and back."""

from __future__ import annotations

import base64
import email.utils
import hashlib
import hmac
import os
import secrets
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tests.sources_peers.expect import refused, same
from tests.tools import goserver
from tests.tools.packages import linear_package
from tests.tools.peers import CACHE, Missing, run
from tests.tools.ports import free_port

from sluice.jobs.fetch import Limits, fetch
from sluice.jobs.push import push

HERE = Path(__file__).parent / "azurite"
ACCOUNT = "account"
QUICK = Limits(attempts=2, first_wait=0.01)


def checks(home: Path) -> Iterator[tuple[str, str | None]]:
    """Each check with None, or why it failed."""
    key = base64.b64encode(secrets.token_bytes(64)).decode()
    port = free_port()
    argv = ["node", str(_installed()), "--location", str(home), "--blobPort", str(port)]
    argv += ["--skipApiVersionCheck", "--disableTelemetry", "--silent"]
    accounts = {"AZURITE_ACCOUNTS": f"{ACCOUNT}:{key}"}
    with goserver.running(argv, host="127.0.0.1", port=port, home=home, environ=accounts):
        endpoint = f"http://127.0.0.1:{port}/{ACCOUNT}"
        _make_container(endpoint, "models", key)
        os.environ["AZURE_STORAGE_ENDPOINT"] = endpoint
        os.environ["AZURE_STORAGE_ACCOUNT_NAME"] = ACCOUNT
        os.environ["AZURE_STORAGE_ACCOUNT_KEY"] = key
        yield from _journey(home, key)


def _journey(home: Path, key: str) -> Iterator[tuple[str, str | None]]:
    package = home / "package"
    linear_package(package)
    done = push(package, "az://models/iris")
    fetch(done.uri, home / "got", limits=QUICK)
    yield "a package there and back", same(package / "model.onnx", home / "got/model.onnx")
    again = push(package, "az://models/iris").uploaded
    yield "pushing again changes nothing", None if again == 0 else f"{again} files written"
    bare = push(package / "model.onnx", "az://models/bare")
    fetch(bare.uri, home / "bare", limits=QUICK)
    yield "a bare model", same(package / "model.onnx", home / "bare/model.onnx")

    def ask(uri: str) -> object:
        return fetch(uri, home / "refused", limits=QUICK)

    yield "nothing there", refused("Missing", lambda: ask("az://models/nope"))
    yield "no such container", refused("Missing", lambda: ask("az://nowhere/iris"))
    os.environ["AZURE_STORAGE_ACCOUNT_KEY"] = base64.b64encode(b"x" * 64).decode()
    yield "a wrong key", refused("AccessDenied", lambda: ask(done.uri), key)
    del os.environ["AZURE_STORAGE_ACCOUNT_KEY"]
    yield "nobody's request to a private container", refused("AccessDenied", lambda: ask(done.uri))


def _installed() -> Path:
    """The program, installed once for its lock file."""
    digest = hashlib.sha256((HERE / "package-lock.json").read_bytes()).hexdigest()[:12]
    place = CACHE / "sources-peers" / f"azurite-{digest}"
    program = place / "node_modules/azurite/dist/src/blob/main.js"
    if not program.is_file():
        npm = shutil.which("npm")
        if npm is None:
            raise Missing("npm is not installed")
        place.mkdir(parents=True, exist_ok=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / name, place)
        quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        run([npm, "--prefix", str(place), "ci", *quiet], 600)
    return program


def _make_container(endpoint: str, name: str, key: str) -> None:
    """Create a container; our source only fills them.  Signed as Azure's shared keys are."""
    date = email.utils.formatdate(usegmt=True)
    version = "2021-08-06"
    signed = (
        "PUT" + "\n" * 12 + f"x-ms-date:{date}\nx-ms-version:{version}\n"
        f"/{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container"
    )
    mac = hmac.new(base64.b64decode(key), signed.encode(), hashlib.sha256).digest()
    headers = {
        "x-ms-date": date,
        "x-ms-version": version,
        "Authorization": f"SharedKey {ACCOUNT}:{base64.b64encode(mac).decode()}",
        "Content-Type": "",
    }
    address = f"{endpoint}/{name}?restype=container"
    urllib.request.urlopen(
        urllib.request.Request(address, data=b"", headers=headers, method="PUT")
    ).close()
