"""The stage: a local cluster, the operator from its chart, a load that never stops, and a camera.

Called by ``story``.  Every command that a user would type is echoed.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from kubernetes import client, config

from sluice.local import binaries
from sluice.local.cluster import LocalCluster

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build" / "demo"
NAME = "flights"
NAMESPACE = "default"
T = TypeVar("T")

DIM, BOLD, RESET = ("\033[2m", "\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "", "")


class StageError(Exception):
    """The story did not go as it must."""


class Camera(threading.Thread):
    """Looks at the ModelDeployment twice a second and keeps what it sees."""

    def __init__(self, kubeconfig: Path) -> None:
        super().__init__(daemon=True)
        self._api = client.CustomObjectsApi(config.new_client_from_config(str(kubeconfig)))
        self._ended = threading.Event()
        self.frames: list[dict[str, Any]] = []

    def run(self) -> None:
        while not self._ended.wait(0.5):
            frame = self.look()
            if frame is not None:
                self.frames.append({"at": time.time(), "status": frame})

    def look(self) -> dict[str, Any] | None:
        """The status now; None while there is none."""
        try:
            found = self._api.get_namespaced_custom_object(
                "sluice.dev", "v1alpha1", NAMESPACE, "modeldeployments", NAME, _request_timeout=5
            )
        except (client.ApiException, OSError):
            return None
        status = dict(found.get("status") or {})
        status["generation"] = found["metadata"]["generation"]
        return status

    def stop(self) -> None:
        self._ended.set()
        self.join(timeout=5)


class Stage:
    """Sets up, echoes commands, waits, and cleans up whatever happens."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.cluster = LocalCluster(WORK / "cluster", "demo")
        self.began = time.time()
        self.load: subprocess.Popen[bytes] | None = None
        self.noise = WORK / "noise"
        self.december = WORK / "december"
        self.load_log = WORK / "load.jsonl"
        self.camera: Camera | None = None
        self.names: dict[str, str] = {}

    # Setting up

    def prepare(self) -> None:
        """Starts the cluster and installs the operator from the chart."""
        WORK.mkdir(parents=True, exist_ok=True)
        for cue in (self.noise, self.december):
            cue.unlink(missing_ok=True)
        self.cluster.down(purge=True)
        self.say("A real control plane on this machine")
        print(f"  {self.cluster.up(say=self._progress)}")
        os.environ["KUBECONFIG"] = str(self.cluster.kubeconfig)
        self.say("The operator, from its Helm chart")
        self.run(
            "helm", "install", "sluice", "charts/sluice", "-n", "sluice-system",
            "--create-namespace", "--wait", "--timeout", "90s", quiet=True,
        )  # fmt: skip
        self.camera = Camera(Path(self.cluster.kubeconfig))
        self.camera.start()

    def close(self, keep: bool) -> None:
        """Ends what was started."""
        if self.load is not None:
            self._end_load(self.load)
        if self.camera is not None:
            self.camera.stop()
        if not keep:
            self.cluster.down(purge=True)

    def start_load(self, path: str = "/predict", log: Path | None = None, host: str = NAME) -> Any:
        """A steady stream of real rows."""
        url = f"http://{host}.{NAMESPACE}.svc.cluster.local{path}"
        argv = [
            sys.executable, "-m", "demo.load", url,
            str(WORK / "rows.jsonl"), str(WORK / "december.jsonl"),
            "--rate", str(self.rate), "--noise-file", str(self.noise),
            "--later-file", str(self.december),
        ]  # fmt: skip
        out = (log or self.load_log).open("wb")
        process = subprocess.Popen(self.cluster.enter(argv), stdout=out, cwd=ROOT)
        if log is None:
            self.load = process
        return process

    def end_load(self, process: Any) -> None:
        """Stops a stream and lets it write its totals."""
        self._end_load(process)

    def _end_load(self, process: subprocess.Popen[bytes]) -> None:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()

    # Acting

    def say(self, text: str) -> None:
        """A chapter's line."""
        print(f"\n{BOLD}[{time.time() - self.began:5.0f} s] {text}{RESET}", flush=True)

    def note(self, text: str) -> None:
        """A line of what happens."""
        print(f"  {DIM}{time.time() - self.began:5.0f} s{RESET}  {text}", flush=True)

    def _progress(self, text: str) -> None:
        print(f"  {DIM}{text}{RESET}", flush=True)

    def run(
        self, *argv: str, stdin: str | None = None, quiet: bool = False, cwd: Path = ROOT
    ) -> str:
        """Runs a command as a user would, echoed."""
        print(f"  $ {shlex.join(argv)}", flush=True)
        program = binaries.path(argv[0]) if argv[0] in ("helm", "kubectl") else argv[0]
        done = subprocess.run(
            [str(program), *argv[1:]], input=stdin, cwd=cwd, text=True, capture_output=True
        )
        if done.returncode:
            raise StageError(f"{shlex.join(argv)} failed: {done.stderr.strip() or done.stdout}")
        if not quiet and done.stdout.strip():
            print("".join(f"    {line}\n" for line in done.stdout.strip().splitlines()), end="")
        return done.stdout

    def kubectl(self, *argv: str, stdin: str | None = None) -> str:
        """kubectl without an echo, for looking."""
        done = subprocess.run(
            [str(binaries.path("kubectl")), *argv], input=stdin, text=True, capture_output=True
        )
        return done.stdout

    # Seeing

    def status(self) -> dict[str, Any]:
        """The status as last seen."""
        assert self.camera is not None
        return self.camera.frames[-1]["status"] if self.camera.frames else {}

    def wait(self, what: str, check: Callable[[dict[str, Any]], T | None], seconds: float) -> T:
        """Shows the live view until ``check`` answers."""
        shown = ""
        shown_at = 0.0
        end = time.time() + seconds
        while time.time() < end:
            status = self.status()
            found = check(status) if status else None
            line = live_line(status, self.totals(), self.names)
            news = line.split("requests")[0].rsplit("|", 1)[0] != shown
            age = time.time() - shown_at
            if age > 6.0 or (news and age > 1.0) or found:
                self.note(line)
                shown, shown_at = line.split("requests")[0].rsplit("|", 1)[0], time.time()
            if found:
                return found
            time.sleep(0.2)
        raise StageError(
            f"{what} was not seen within {seconds:.0f} s: {json.dumps(self.status())[:1500]}"
        )

    def totals(self, log: Path | None = None) -> dict[str, Any]:
        """The load's totals so far."""
        try:
            lines = (log or self.load_log).read_bytes().rsplit(b"\n", 2)
            return dict(json.loads(lines[-2])) if len(lines) > 1 else {}
        except (OSError, ValueError):
            return {}


def condition(status: dict[str, Any], kind: str) -> dict[str, Any]:
    """A condition, empty when absent."""
    for entry in status.get("conditions") or []:
        if entry["type"] == kind:
            return dict(entry)
    return {}


def live_line(status: dict[str, Any], totals: dict[str, Any], names: dict[str, str]) -> str:
    """Weights, the worst check with both values and its evidence, requests."""
    causes = totals.get("causes", {})
    routing = sum(n for c, n in causes.items() if c.startswith(("routing", "connection")))
    requests = f"{sum(causes.values()):>6,} requests, {routing} failed by routing"
    candidate, previous = status.get("candidate"), status.get("previous")
    if candidate:
        weight = candidate["weight"].get("observed", 0)
        name = names.get(candidate["digest"], candidate["digest"][7:15])
        where = f"{name} at {weight:>2} %"
    elif previous:
        where = f"watch, {previous['weight'].get('observed', 0)} % held back"
    else:
        where = "stable alone"
    worst = next(
        (c for c in status.get("checks") or [] if c["name"] == status.get("worstCheck")), None
    )
    check = ""
    if worst and worst["candidate"].get("value") is not None:
        s, c = worst["stable"].get("value"), worst["candidate"]["value"]
        before = f"{s:.3g}" if s is not None else "?"
        check = f" | {worst['name']} {before} vs {c:.3g}, evidence {status.get('worstEvidence')}"
    gates = " ".join(
        f"{g['name']}{'✓' if g['verdict'] == 'Pass' else '✗'}" for g in status.get("gates") or []
    )
    reason = condition(status, "Ready").get("reason", "")
    return f"{where} | {reason} | {requests}{check}{' | ' + gates if candidate and gates else ''}"
