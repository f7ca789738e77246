"""An MLflow tracking server: models it logged, fetched by alias and by version."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from tests.sources_peers.expect import refused
from tests.tools import goserver
from tests.tools.peers import environment, run
from tests.tools.ports import free_port

from sluice.jobs.fetch import Limits, fetch, resolve

PINNED = Path(__file__).with_name("mlflow.txt")
SCRIPT = Path(__file__).with_name("log_models.py")
QUICK = Limits(attempts=2, first_wait=0.01)
SILENT = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}


def checks(home: Path) -> Iterator[tuple[str, str | None]]:
    """Each check with None, or why it failed."""
    python = str(environment(PINNED))
    port = free_port()
    argv = [python, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    argv += ["--backend-store-uri", f"sqlite:///{home}/mlflow.db", "--workers", "1"]
    argv += ["--artifacts-destination", str(home / "artifacts")]
    with goserver.running(
        argv, host="127.0.0.1", port=port, home=home, environ=SILENT, seconds=120
    ):
        server = f"http://127.0.0.1:{port}"
        os.environ.update(SILENT)
        run([python, str(SCRIPT), server], 300)
        os.environ["MLFLOW_TRACKING_URI"] = server
        yield from _journey(home)


def _journey(home: Path) -> Iterator[tuple[str, str | None]]:
    for which in ("iris%20onnx@champion", "iris%20onnx/1"):
        done = fetch(f"mlflow://models/{which}", home / which, limits=QUICK)
        found = resolve(done)
        wanted = ("onnx", "Data")
        said = (found["format"], found["class"])
        yield f"{which}: an ONNX model is served", None if said == wanted else str(found)
    for name, reason in (("pickled", "BareCodeFile"), ("function", "BareCodeFile")):
        done = fetch(f"mlflow://models/{name}@champion", home / name, limits=QUICK)
        yield f"{name}: a pickle is refused", refused(reason, lambda d=done: resolve(d))

    def ask(which: str) -> object:
        return fetch(f"mlflow://models/{which}", home / "refused", limits=QUICK)

    for which in ("nobody@champion", "pickled@nobody", "pickled/7"):
        yield f"{which}: is not there", refused("Missing", lambda w=which: ask(w))
