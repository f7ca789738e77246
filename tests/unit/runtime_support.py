"""Packages and a real server process for the runtime's tests."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import io
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import msgspec
import numpy as np
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tests.tools.ports import free_port

from sluice.package.code import run_sources
from sluice.package.manifest import (
    Environment,
    FileEntry,
    Input,
    Manifest,
    ModelFile,
    Output,
    canonical_json,
    decode,
    digest_of,
    encode,
)

DEADLINE = 30.0


@dataclass
class Built:
    """A package on disk and the scikit-learn model it was made from."""

    path: Path
    digest: str
    model: Any
    rows: list[dict[str, Any]]
    matrix: np.ndarray[Any, Any]


def write_package(path: Path, manifest: Manifest, files: dict[str, bytes]) -> str:
    """Write ``files`` and a ``sluice.json`` that lists them; returns the digest."""
    path.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (path / name).write_bytes(data)
    entries = tuple(
        FileEntry(path=name, sha256=hashlib.sha256(data).hexdigest(), size=len(data))
        for name, data in sorted(files.items())
    )
    raw = encode(msgspec.structs.replace(manifest, files=entries))
    (path / "sluice.json").write_bytes(raw)
    return digest_of(raw)


def onnx_bytes(model: Any, width: int) -> bytes:
    """``model`` as float64 ONNX with one matrix input."""
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import DoubleTensorType

    options = {id(model): {"zipmap": False}} if hasattr(model, "classes_") else None
    graph = convert_sklearn(
        model, initial_types=[("x", DoubleTensorType([None, width]))], options=options
    )
    return bytes(graph.SerializeToString())


def joblib_bytes(model: Any) -> bytes:
    """``model`` as a joblib file."""
    buffer = io.BytesIO()
    joblib.dump(model, buffer)
    return buffer.getvalue()


def golden(model: Any, rows: list[dict[str, Any]], matrix: Any, labels: Any) -> bytes:
    """Golden examples as the packager writes them."""
    if labels is None:
        values = model.predict(matrix)
        examples = [
            {"row": row, "score": float(value)} for row, value in zip(rows, values, strict=True)
        ]
    else:
        scores = model.predict_proba(matrix)
        answers = model.predict(matrix).tolist()
        column = (lambda s: s[1]) if len(labels) == 2 else (lambda s: s.max())
        examples = [
            {"row": row, "score": float(column(s)), "label": labels[a]}
            for row, s, a in zip(rows, scores, answers, strict=True)
        ]
    return canonical_json(examples)


def profile(matrix: Any, names: list[str], scores: Any) -> bytes:
    """A reference profile with quantile bins."""
    quantiles = np.linspace(0, 1, 41)[1:-1]
    features = {
        name: {"edges": sorted(set(np.quantile(matrix[:, i], quantiles).tolist()))}
        for i, name in enumerate(names)
    }
    edges = np.linspace(0, 1, 21)[1:-1].tolist()
    counts = np.bincount(np.searchsorted(edges, scores, side="right"), minlength=20).tolist()
    return canonical_json({"features": features, "scores": {"edges": edges, "counts": counts}})


def build_iris(path: Path, *, form: str = "onnx") -> Built:
    """Three labels, four floats."""
    data = load_iris()
    labels = tuple(str(name) for name in data.target_names)
    return _classifier(path, data, labels, "iris", form)


def build_cancer(path: Path, *, form: str = "onnx") -> Built:
    """Two labels, thirty floats."""
    return _classifier(path, load_breast_cancer(), ("malignant", "benign"), "cancer", form)


def _classifier(path: Path, data: Any, labels: tuple[str, ...], name: str, form: str) -> Built:
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    model.fit(data.data, data.target)
    names = [str(n) for n in data.feature_names]
    rows = [dict(zip(names, map(float, row), strict=True)) for row in data.data]
    scores = model.predict_proba(data.data)
    shown = scores[:, 1] if len(labels) == 2 else scores.max(axis=1)
    files = {
        "golden.json": golden(model, rows[::15], data.data[::15], labels),
        "profile.json": profile(data.data, names, shown),
    }
    file = "model.onnx" if form == "onnx" else "model.joblib"
    files[file] = onnx_bytes(model, len(names)) if form == "onnx" else joblib_bytes(model)
    manifest = Manifest(
        name=name,
        task="classification",
        model=ModelFile(
            file=file,
            format=form,
            trust_class="Data" if form == "onnx" else "Code",  # type: ignore[arg-type]
        ),
        layout="Matrix",
        inputs=tuple(
            Input(
                name=n,
                type="float",
                min=float(data.data[:, i].min()),
                max=float(data.data[:, i].max()),
            )
            for i, n in enumerate(names)
        ),
        output=Output(labels=labels, positive=labels[1] if len(labels) == 2 else None),
        files=(FileEntry(path="x", sha256="0" * 64, size=0),),
    )
    digest = write_package(path, manifest, files)
    return Built(path, digest, model, rows, data.data)


def build_regression(path: Path) -> Built:
    """One value from two numbers."""
    rng = np.random.default_rng(7)
    matrix = rng.normal(size=(60, 2))
    model = LinearRegression().fit(matrix, matrix @ [2.0, -1.0] + 3)
    names = ["a", "b"]
    rows = [dict(zip(names, map(float, row), strict=True)) for row in matrix]
    files = {"golden.json": golden(model, rows[:5], matrix[:5], None),
             "model.onnx": onnx_bytes(model, 2)}  # fmt: skip
    manifest = Manifest(
        name="line",
        task="regression",
        model=ModelFile(file="model.onnx", format="onnx", trust_class="Data"),
        layout="Matrix",
        inputs=tuple(Input(name=n, type="float") for n in names),
        output=Output(score_name="value"),
        files=(FileEntry(path="x", sha256="0" * 64, size=0),),
    )
    return Built(path, write_package(path, manifest, files), model, rows, matrix)


ODD_SOURCE = b'''
import time
import numpy as np


class Odd:
    """Sleeps x - 100 ms when x > 100, raises at 13 and 14, answers NaN at 7, else says x > 0.

    Keeps x - 50 megabytes for ever when x is between 50 and 100.
    """

    classes_ = np.array(["no", "yes"])

    def __init__(self, delay):
        self.delay = delay
        self.kept = []

    def predict_proba(self, frame):
        x = np.asarray(frame, dtype=float)[:, 0]
        if ((x > 50) & (x <= 100)).any():
            self.kept.append(np.ones(int((x[x <= 100].max() - 50) * 131072)))
        time.sleep(self.delay + max(0.0, float(np.nanmax(x)) - 100) / 1000)
        if (x == 13).any():
            raise ArithmeticError("thirteen")
        if (x == 14).any():
            raise SystemExit(14)
        p = np.where(x == 7, np.nan, (x > 0).astype(float))
        return np.column_stack([1 - p, p])
'''


def build_odd(path: Path, *, delay: float = 0.0) -> Built:
    """A model of class Code that misbehaves when asked to."""
    run_sources({"odd.py": ODD_SOURCE}, None)
    model = sys.modules["odd"].Odd(delay)
    examples = [{"row": {"x": 1.0}, "score": 1.0, "label": "yes"}]
    files = {
        "golden.json": canonical_json(examples),
        "model.pkl": pickle.dumps(model),
        "odd.py": ODD_SOURCE,
    }
    manifest = Manifest(
        name="odd",
        task="classification",
        model=ModelFile(file="model.pkl", format="pickle", trust_class="Code"),
        layout="Matrix",
        inputs=(Input(name="x", type="float", nullable=True),),
        output=Output(labels=("no", "yes"), positive="yes"),
        code=("odd.py",),
        imports=("odd.Odd",),
        files=(FileEntry(path="x", sha256="0" * 64, size=0),),
    )
    return Built(path, write_package(path, manifest, files), model, [{"x": 1.0}], np.ones((1, 1)))


AIM: dict[str, Any] = {
    "schema": 1,
    "id": "r1",
    "revision": "new",
    "addresses": ["10.0.0.7:80"],
    "percent": 100,
}
"""A mirror file of the operator's."""


def point(file: Path, port: int, **changes: Any) -> None:
    """Mirror to a port of this machine, or to nobody: as kubelet does, another file takes the
    name."""
    fresh = file.with_suffix(".new")
    said = {**AIM, "addresses": [f"127.0.0.1:{port}"], **changes} if port else {}
    fresh.write_text(json.dumps(said))
    fresh.replace(file)


class Server:
    """A real ``sluice serve`` process on loopback."""

    def __init__(
        self,
        package: Path,
        *arguments: str,
        env: dict[str, str] | None = None,
        python: tuple[str, ...] = ("-m", "sluice.cli"),
        prefix: tuple[str, ...] = (),
    ) -> None:
        self.port, self.admin_port = free_port(), free_port()
        command = [*prefix, sys.executable, *python, "serve", str(package)]
        self.process = subprocess.Popen(
            [*command, "--port", str(self.port), "--admin-port", str(self.admin_port), *arguments],
            env={**os.environ, "PYTHONPATH": "operator", "PYTHONUNBUFFERED": "1", **(env or {})},
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
        *,
        admin: bool = False,
    ) -> tuple[int, dict[str, str], Any]:
        """One request on its own connection: status, headers (lower case), body."""
        connection = http.client.HTTPConnection(
            "127.0.0.1", self.admin_port if admin else self.port, timeout=DEADLINE
        )
        try:
            data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
            connection.request(method, path, data, headers or {})
            response = connection.getresponse()
            raw = response.read()
            names = {k.lower(): v for k, v in response.getheaders()}
            if names.get("content-type", "").startswith("application/json"):
                return response.status, names, json.loads(raw)
            return response.status, names, raw.decode()
        finally:
            connection.close()

    def post(self, path: str, body: Any, **headers: str) -> tuple[int, Any]:
        """Status and body of a POST."""
        named = {k.replace("_", "-"): v for k, v in headers.items()}
        status, _, answer = self.request("POST", path, body, named)
        return status, answer

    def counters(self) -> dict[str, Any]:
        """The document on /counters."""
        return self.request("GET", "/counters", admin=True)[2]

    def wait_status(self, path: str, status: int) -> None:
        """Poll until ``path`` answers ``status``."""
        deadline = time.monotonic() + DEADLINE
        last: Any = None
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                last = self.request("GET", path)
                if last[0] == status:
                    return
            if self.process.poll() is not None:
                out, err = self.process.communicate()
                raise AssertionError(f"server exited {self.process.returncode}: {out}{err}")
            time.sleep(0.02)
        raise AssertionError(f"{path} did not answer {status}; last {last}")

    def stop(self, number: int = signal.SIGINT) -> tuple[int, str, str]:
        """Signal the process and wait for its end."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        out, err = self.process.communicate(timeout=DEADLINE)
        return self.process.returncode, out, err


@contextlib.contextmanager
def serving(
    package: Path, *arguments: str, ready: bool = True, env: dict[str, str] | None = None
) -> Iterator[Server]:
    """A server that is ready, ended afterwards."""
    server = Server(package, *arguments, env=env)
    try:
        if ready:
            server.wait_status("/readyz", 200)
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
        server.process.communicate()


def read_manifest(path: Path) -> Manifest:
    """The manifest of a package on disk."""
    return decode((path / "sluice.json").read_bytes())


def with_requirement(manifest: Manifest, name: str, version: str) -> Manifest:
    """The manifest with another environment."""
    return msgspec.structs.replace(manifest, environment=Environment(requires={name: version}))
