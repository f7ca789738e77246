"""The servers that are compared: how each is started, asked and read.

Called by ``tests.bench.serving``.  Each is started as its own documentation says, with one worker
where it asks how many, and is sent the shortest form that it documents.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.serving.environments import PEERS
from tests.bench.serving.models import Model
from tests.tools.ports import free_port

from sluice.local.settings import python_path

OURS = "sluice"
BARE = "sluice-bare"
ORIGINAL = "sluice-sklearn"
TUTORIAL = "fastapi-tutorial"
EXPERT = "fastapi-expert"
KSERVE = "kserve"
ROOT = Path(__file__).parents[3]
MLSERVER = "mlserver-tuned"
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Launch:
    """What a server is started with."""

    python: Path
    """The interpreter of its environment."""
    model: Model
    port: int
    folder: Path
    """Its own and empty: working directory, settings, what it likes to write."""


@dataclass(frozen=True)
class Server:
    """One column of the comparison."""

    name: str
    title: str
    environment: str | None
    """The folder in ``peers``; None is the environment of this process."""
    distribution: str
    path: str
    command: Callable[[Launch], list[str]]
    body: Callable[[Model, list[float]], Any]
    """The request for one row, before JSON."""
    answer: Callable[[Any], int]
    """The label in an answer."""
    variables: Callable[[Launch], Mapping[str, str]] = lambda _: {}
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def version(self) -> str:
        """As pinned."""
        if self.environment is None:
            return ""
        pinned = (PEERS / self.environment / "requirements.txt").read_text()
        found = re.search(rf"^{re.escape(self.distribution)}==([^\s;]+)", pinned, re.MULTILINE)
        return found.group(1) if found else ""

    def payload(self, model: Model, row: list[float]) -> str:
        """The body as sent."""
        return json.dumps(self.body(model, row), separators=(",", ":"))


def _instances(_: Model, row: list[float]) -> Any:
    return {"instances": [row]}


def _first(answer: Any) -> int:
    return int(answer["predictions"][0])


def _sluice(package: str, *more: str, program: str = "sluice.cli") -> Callable[[Launch], list[str]]:
    """As the pod of a revision starts it."""

    def command(launch: Launch) -> list[str]:
        admin = free_port()
        return [
            sys.executable, "-m", program, "serve", str(launch.model.folder / package),
            "--port", str(launch.port), "--admin-port", str(admin),
            "--deployment", "m", "--revision", "r1", *more,
        ]  # fmt: skip

    return command


def _own(_: Launch) -> Mapping[str, str]:
    return {"PYTHONPATH": os.pathsep.join((python_path(), str(ROOT)))}


def _script(name: str) -> str:
    return str(PEERS / name)


def _kserve(launch: Launch) -> list[str]:
    grpc = free_port()
    return [
        str(launch.python), _script("kserve/server.py"), "--model_name", "m",
        "--http_port", str(launch.port), "--grpc_port", str(grpc),
        "--model_file", str(launch.model.folder / "model.joblib"),
    ]  # fmt: skip


def _mlserver(
    settings: Mapping[str, Any], model: Mapping[str, Any]
) -> Callable[[Launch], list[str]]:
    def command(launch: Launch) -> list[str]:
        grpc, metrics = free_port(), free_port()
        ports = {"http_port": launch.port, "grpc_port": grpc, "metrics_port": metrics}
        about = {
            "name": "m",
            "implementation": "mlserver_sklearn.SKLearnModel",
            "parameters": {"uri": str(launch.model.folder / "model.joblib")},
        }
        written = {
            "settings.json": {"host": "127.0.0.1", "debug": False, **ports, **settings},
            "model-settings.json": {**about, **model},
        }
        for name, document in written.items():
            (launch.folder / name).write_text(json.dumps(document))
        return [str(launch.python.with_name("mlserver")), "start", str(launch.folder)]

    return command


def _tensor(model: Model, row: list[float]) -> Any:
    shape = [1, len(row)]
    return {"inputs": [{"name": "predict", "shape": shape, "datatype": "FP64", "data": row}]}


def _bento(launch: Launch) -> list[str]:
    return [
        str(launch.python.with_name("bentoml")), "serve", "service:Sklearn",
        "--working-dir", _script("bentoml"), "--host", "127.0.0.1", "--port", str(launch.port),
    ]  # fmt: skip


def _model_file(launch: Launch) -> Mapping[str, str]:
    return {"MODEL_FILE": str(launch.model.folder / "model.joblib")}


def _onnx_file(launch: Launch) -> Mapping[str, str]:
    return {"MODEL_FILE": str(launch.model.folder / "model.onnx")}


def _bento_variables(launch: Launch) -> Mapping[str, str]:
    return {**_model_file(launch), "BENTOML_HOME": str(launch.folder), "BENTOML_DO_NOT_TRACK": "1"}


def _lit(launch: Launch) -> list[str]:
    model = str(launch.model.folder / "model.joblib")
    return [str(launch.python), _script("litserve/server.py"), model, str(launch.port)]


def _tutorial(launch: Launch) -> list[str]:
    return [
        str(launch.python.with_name("fastapi")), "run", _script("fastapi_tutorial/app.py"),
        "--host", "127.0.0.1", "--port", str(launch.port),
    ]  # fmt: skip


def _expert(launch: Launch) -> list[str]:
    return [
        str(launch.python.with_name("uvicorn")), "app:app", "--app-dir", _script("fastapi_expert"),
        "--host", "127.0.0.1", "--port", str(launch.port), "--no-access-log",
    ]  # fmt: skip


V1, V2 = "/v1/models/m:predict", "/v2/models/m/infer"
ROUTED = {"X-Sluice-Bucket": "137", "X-Request-Id": "7f3c2a9e01"}
"""What our router adds to a request."""

ALL = (
    Server(
        OURS, "Sluice, all features", None, "", V1, _sluice("full"), _instances, _first, _own,
        ROUTED,
    ),
    Server(
        BARE, "Sluice, no features", None, "", V1,
        _sluice("bare", program="tests.bench.serving.bare"), _instances, _first, _own,
    ),
    Server(
        ORIGINAL, "Sluice, scikit-learn itself", None, "", V1, _sluice("original", "--allow-code"),
        _instances, _first, _own, ROUTED,
    ),
    Server(
        EXPERT, "FastAPI + ONNX, expert", "fastapi_expert", "fastapi", "/predict", _expert,
        _instances, _first, _onnx_file,
    ),
    Server(
        TUTORIAL, "FastAPI, tutorial", "fastapi_tutorial", "fastapi", "/predict", _tutorial,
        lambda model, row: dict(zip(model.names, row, strict=True)),
        lambda answer: int(answer["prediction"]), _model_file,
    ),
    Server(KSERVE, "KServe", "kserve", "kserve", V1, _kserve, _instances, _first),
    Server(
        "mlserver", "MLServer", "mlserver", "mlserver", V2, _mlserver({}, {}), _tensor,
        lambda answer: int(answer["outputs"][0]["data"][0]),
    ),
    Server(
        MLSERVER, "MLServer, tuned", "mlserver", "mlserver", V2,
        _mlserver({"parallel_workers": 0}, {"max_batch_size": 64, "max_batch_time": 0.002}),
        _tensor, lambda answer: int(answer["outputs"][0]["data"][0]),
    ),
    Server(
        "litserve", "LitServe", "litserve", "litserve", "/predict", _lit,
        lambda model, row: {"input": [row]}, lambda answer: int(answer["output"][0]),
    ),
    Server(
        "bentoml", "BentoML", "bentoml", "bentoml", "/predict", _bento,
        lambda model, row: {"rows": [row]}, lambda answer: int(answer[0]), _bento_variables,
    ),
)  # fmt: skip

QUICK = (OURS, BARE, TUTORIAL)


def environment_of(server: Server, launch: Launch) -> dict[str, str]:
    """Variables of the process: this one's, without its own Python path."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    return {**inherited, **ONE_THREAD, **server.variables(launch), "PYTHONUNBUFFERED": "1"}
