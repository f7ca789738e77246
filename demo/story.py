"""The story: v1 serves; one better model gets there by itself, six mistakes do not.

Each chapter is what a team would do: change one line and apply.  Called by ``__main__``.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from demo.stage import NAME, NAMESPACE, WORK, Stage, StageError, condition
from sluice.package.manifest import digest_of

STEPS = [
    {"weight": 5, "minRequests": 100, "minDuration": "10s"},
    {"weight": 25, "minRequests": 250, "minDuration": "10s"},
    {"weight": 50, "minRequests": 1000, "minDuration": "10s"},
]
WATCH = {"duration": "20s", "holdback": 10, "minRequests": 1000}
NOISE_SECONDS = 15
CHECKS = [
    {"name": "errors", "type": "ErrorRate"},
    {"name": "rejects", "type": "ClientErrorRate"},
    {"name": "latency", "type": "Latency", "margin": 1.5},
    # Real days differ more from the year before them than the default tolerates (PSI 0.25).
    {"name": "shift", "type": "PredictionShift", "max": 1.0},
]
LONG_WATCH = {"duration": "3m", "holdback": 10, "minRequests": 1000}


@dataclass(frozen=True)
class Reaction:
    """When a revision was judged and when it had lost its traffic."""

    name: str
    detected: float
    zero: float
    since: float | None

    def seconds(self, totals: dict[str, Any], revision: str) -> dict[str, float]:
        """From the 20th failing request to the verdict, and from there to weight 0.

        A verdict that came earlier is counted from the first failing request; ``since`` replaces
        both.  ``totals`` are the load's at its end: it reports once a second.
        """
        first = totals["first"].get(revision, self.detected)
        twentieth = totals["twentieth"].get(revision, self.detected)
        began = twentieth if twentieth < self.detected else first
        if self.since is not None:
            began = self.since
        counts = totals["byRevision"].get(revision, {})
        return {
            "failures": sum(n for c, n in counts.items() if c.startswith("model")),
            "detect_seconds": round(max(0.0, self.detected - began), 2),
            "zero_seconds": round(max(0.0, self.zero - self.detected), 2),
        }


@dataclass
class Told:
    """What the story found out, for the summary, the page and the JSON."""

    digests: dict[str, str] = field(default_factory=dict)
    verdicts: dict[str, dict[str, Any]] = field(default_factory=dict)
    chapters: list[tuple[float, str]] = field(default_factory=list)
    reactions: list[Reaction] = field(default_factory=list)
    pods_started: int = 0
    rollback: dict[str, float] = field(default_factory=dict)
    watch_rollback: dict[str, float] = field(default_factory=dict)
    counterfactual: dict[str, Any] = field(default_factory=dict)
    noise_requests: int = 0
    hashes: dict[str, str] = field(default_factory=dict)

    def received(self, name: str, totals: dict[str, Any]) -> int:
        """User requests that the revision of a variant answered."""
        counts = totals.get("byRevision", {}).get(self.hashes.get(name, ""), {})
        return int(sum(counts.values()))


class Story:
    """Tells it on a stage."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.told = Told()
        self.generation = 0

    def tell(self) -> Told:
        """Every chapter in order."""
        self._train()
        self.first()
        self.wrong_scaler()
        self.better()
        self.missing_pressure("v4", "5xx: its schema says values may be missing")
        self.missing_pressure("v4-strict", "4xx: its schema says they may not", breaking="Allow")
        self.again()
        self.wrong_unit()
        self.slow_later()
        self.counterfactual()
        return self.told

    # Chapters

    def _train(self) -> None:
        stage = self.stage
        self._chapter("From a notebook to a package: train.py, 15 lines, real flights of 2013")
        print((Path(__file__).parent / "train.py").read_text().replace("\n", "\n    ").rstrip())
        stage.run("python", "../../demo/train.py", cwd=WORK)
        stage.run("sh", "-c", "sha256sum model.joblib > model.sha256", cwd=WORK)
        trusted = "sha256:" + (WORK / "model.sha256").read_text().split()[0]
        stage.run(
            "sluice", "package", "model.joblib", "--examples", "examples.parquet",
            "--name", "flights", "--out", "v1", "--trust-file", trusted, cwd=WORK,
        )  # fmt: skip
        stage.note("the other variants of the story, packaged by sluice.save in demo/variants.py")
        stage.run("python", "../../demo/variants.py", cwd=WORK, quiet=True)
        for path in sorted(WORK.glob("v*/sluice.json")):
            self.told.digests[path.parent.name] = digest_of(path.read_bytes())
        named = reversed(self.told.digests.items())  # v4-again is v4.
        stage.names = {digest: name for name, digest in named}

    def first(self) -> None:
        """v1: gated, then serves."""
        self._chapter("v1 knows the timetable and the weather: the first deployment")
        self._apply("v1")
        self._until("v1 serves", lambda s: self._stable(s, "v1"), 90)
        self.stage.start_load()
        self._wait_for_traffic()
        self._verdict("v1", "Passed", "first to serve")

    def wrong_scaler(self) -> None:
        """v3: stopped at the quality gate."""
        self._chapter("v3 carries the scaler of another training run: the quality gate")
        self._apply("v3")
        self._until("v3 is refused", lambda s: self._quarantined(s), 60)
        self._verdict("v3", "Failed", condition(self.stage.status(), "Stalled")["message"])

    def better(self) -> None:
        """v2: promoted in spite of a broken client and a killed operator."""
        stage = self.stage
        self._chapter("v2 also knows how late the flight left: 5, 25, 50, 90 %")
        self._apply("v2")
        self._until("v2 gets traffic", lambda s: self._weight(s) == 5, 60)
        stage.note("a broken client begins to send 10 % malformed requests, to both arms")
        stage.noise.touch()
        time.sleep(NOISE_SECONDS)
        stage.noise.unlink(missing_ok=True)
        stage.note("the broken client is fixed")
        self._until("v2 at 25 %", lambda s: self._weight(s) == 25, 150)
        stage.note("the operator is killed")
        holder = stage.kubectl(
            "-n", "sluice-system", "get", "lease", "sluice-operator",
            "-o", "jsonpath={.spec.holderIdentity}",
        )  # fmt: skip
        stage.run(
            "kubectl", "-n", "sluice-system", "delete", "pod", holder.rsplit("_", 1)[0],
            "--grace-period=0", "--force",
        )  # fmt: skip
        self._until("v2 is promoted", lambda s: self._stable(s, "v2"), 240)
        self._verdict("v2", "Passed", "promoted in place, previous kept warm")
        self.told.noise_requests = stage.totals().get("causes", {}).get("noise", 0)
        self._until("the watch of v2 ends", lambda s: "previous" not in s, 90)

    def missing_pressure(self, name: str, how: str, **schema: str) -> None:
        """v4: fine on the rows it was validated on, not on live ones."""
        self._chapter(f"{name} was trained and validated after dropna() ({how})")
        before = self._rollbacks()
        self._apply(name, schema=schema or None)
        self._until(f"{name} is taken back", lambda s: self._rolled_back(s, before), 150)
        self._until("nobody is sent there", lambda s: self._zero(s), 20)
        self._verdict(name, "Failed", condition(self.stage.status(), "Stalled")["message"])
        if name == "v4":
            self.told.reactions.append(self._reaction(name))

    def again(self) -> None:
        """The same bytes from another build: refused."""
        self._chapter("v4 again: CI rebuilds the same bytes under another name")
        before = self._received("v4")
        self._apply("v4-again")
        self._until("it is refused", lambda s: self._quarantined(s) and self._current(s), 60)
        time.sleep(2)
        self.told.verdicts["v4-again"] = {
            "verdict": "Failed",
            "requests": self._received("v4") - before,
            "reason": condition(self.stage.status(), "Stalled")["message"],
        }

    def wrong_unit(self) -> None:
        """v5: fast, confident and wrong; held for a person, who aborts."""
        stage = self.stage
        self._chapter("v5 was trained on delays in hours; requests say minutes; no gate knows")
        self._apply("v5", quality=False)
        self._until(
            "v5 is held",
            lambda s: self._current(s) and condition(s, "Ready").get("reason") == "Held",
            120,
        )
        stage.note(stage.status()["step"]["summary"])
        before = self._rollbacks()
        stage.run("kubectl", "annotate", f"mdep/{NAME}", "sluice.dev/abort=now")
        self._until("v5 is taken back", lambda s: self._rolled_back(s, before), 30)
        self._verdict("v5", "Failed", "held by PredictionShift, aborted by a person")

    def slow_later(self) -> None:
        """v2-slow: degrades only after promotion; the watch brings previous back."""
        stage = self.stage
        self._chapter("v2-slow has a correction for December that nobody has timed; it is November")
        self._apply("v2-slow", watch=LONG_WATCH)
        self._until("v2-slow is promoted", lambda s: self._stable(s, "v2-slow"), 240)
        pods = self._pod_names()
        before = self._rollbacks()
        december = time.time()
        stage.december.touch()
        stage.note("December begins")
        self._until("the watch takes it back", lambda s: self._rolled_back(s, before), 150)
        self._until("nobody is sent there", lambda s: self._zero(s), 20)
        self._verdict("v2-slow", "Failed", condition(stage.status(), "Stalled")["message"])
        self.told.reactions.append(self._reaction("v2-slow", december))
        self.told.pods_started = len(self._pod_names() - pods)

    def counterfactual(self) -> None:
        """The same v4 through a plain Deployment: what users would have seen."""
        stage = self.stage
        self._chapter("The counterfactual: the same v4 by a plain rolling update")
        for obj in plain_objects(str(WORK / "v2")):
            stage.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(obj))
        stage.run("kubectl", "rollout", "status", "deployment/plain", "--timeout=60s", quiet=True)
        log = WORK / "plain.jsonl"
        load = stage.start_load(log=log, host="plain")
        time.sleep(3)
        patch = yaml.safe_dump(plain_objects(str(WORK / "v4"))[0])
        print("  $ kubectl apply -f plain.yaml    # v4")
        stage.kubectl("apply", "-f", "-", stdin=patch)
        stage.run("kubectl", "rollout", "status", "deployment/plain", "--timeout=60s", quiet=True)
        time.sleep(15)
        stage.end_load(load)
        causes = stage.totals(log).get("causes", {})
        failed = sum(n for c, n in causes.items() if c.startswith("model"))
        routing = sum(n for c, n in causes.items() if c.startswith(("routing", "connection")))
        self.told.counterfactual = {
            "seconds": 15,
            "requests": sum(causes.values()),
            "failed_by_model": failed,
            "failed_by_routing": routing,
            "note": "and it goes on until somebody notices",
        }
        stage.kubectl("delete", "deployment,service", "plain", "--wait=false")

    # Doing

    def _chapter(self, text: str) -> None:
        self.stage.say(text)
        self.told.chapters.append((time.time(), text))

    def _apply(self, name: str, **changes: Any) -> None:
        text = manifest(name, self.told.digests[name], **changes)
        (WORK / f"{name}.yaml").write_text(text)
        self.stage.run("kubectl", "apply", "-f", f"build/demo/{name}.yaml")
        found = self.stage.kubectl("get", "mdep", NAME, "-o", "jsonpath={.metadata.generation}")
        self.generation = int(found)

    def _until(self, what: str, check: Any, seconds: float) -> None:
        self.stage.wait(what, check, seconds)

    def _wait_for_traffic(self) -> None:
        end = time.time() + 20
        while self.stage.totals().get("causes", {}).get("ok", 0) < 10:
            if time.time() > end:
                raise StageError(f"The load gets no answers: {self.stage.totals()}")
            time.sleep(0.3)

    # Seeing

    def _stable(self, status: dict[str, Any], name: str) -> bool:
        return bool(
            status.get("stable", {}).get("digest") == self.told.digests[name]
            and "candidate" not in status
        )

    def _current(self, status: dict[str, Any]) -> bool:
        return int(status.get("observedGeneration", -1)) >= self.generation

    def _quarantined(self, status: dict[str, Any]) -> bool:
        stalled = condition(status, "Stalled")
        return stalled.get("status") == "True" and self._current(status)

    def _weight(self, status: dict[str, Any]) -> int:
        return int(status.get("candidate", {}).get("weight", {}).get("observed") or 0)

    def _rollbacks(self) -> str:
        return str(self.stage.status().get("lastRollback", {}).get("detectedAt", ""))

    def _rolled_back(self, status: dict[str, Any], before: str) -> bool:
        return status.get("lastRollback", {}).get("detectedAt", "") not in ("", before)

    def _zero(self, status: dict[str, Any]) -> bool:
        return bool(status.get("lastRollback", {}).get("trafficZeroAt")) and self._quarantined(
            status
        )

    def _revision(self, name: str) -> str:
        for entry in self.stage.status().get("revisions", []):
            if entry["digest"] == self.told.digests[name]:
                return str(entry["revision"])
        return ""

    def _received(self, name: str) -> int:
        self.told.hashes[name] = self._revision(name)
        return self.told.received(name, self.stage.totals())

    def _verdict(self, name: str, verdict: str, reason: str) -> None:
        self.told.verdicts[name] = {
            "verdict": verdict,
            "requests": self._received(name),
            "reason": reason,
        }

    def _reaction(self, name: str, since: float | None = None) -> Reaction:
        last = self.stage.status()["lastRollback"]
        return Reaction(
            name, seconds_of(last["detectedAt"]), seconds_of(last["trafficZeroAt"]), since
        )

    def _pod_names(self) -> set[str]:
        names = self.stage.kubectl(
            "get", "pods", "-l", "sluice.dev/component=model", "-o",
            "jsonpath={range .items[*]}{.metadata.name} {end}",
        )  # fmt: skip
        return set(names.split())


def seconds_of(stamp: str) -> float:
    """An RFC 3339 time as seconds since the epoch."""
    return datetime.fromisoformat(stamp.replace("Z", "+00:00")).timestamp()


def manifest(
    name: str,
    digest: str,
    *,
    quality: bool = True,
    schema: dict[str, str] | None = None,
    watch: dict[str, Any] | None = None,
) -> str:
    """The ModelDeployment that asks for a variant.  The steps are shorter than the defaults."""
    validation: dict[str, Any] = {"golden": {"tolerance": 1e-9}}
    if quality:
        validation["quality"] = {
            "dataset": {"uri": f"file://{WORK}/holdout.parquet", "label": "late"},
            "checks": [
                {"metric": "rocAuc", "min": 0.6},
                {"metric": "logLoss", "maxDropVsStable": 0.05},
            ],
        }
    if schema:
        validation["schema"] = schema
    spec = {
        "replicas": 2,
        "model": {"uri": f"file://{WORK}/{name}", "digest": digest},
        "validation": validation,
        "traffic": {"unit": {"header": "X-User-Id"}},
        "rollout": {"steps": STEPS, "watch": watch or WATCH},
        "analysis": {"interval": "1s", "checks": CHECKS},
    }
    return yaml.safe_dump(
        {
            "apiVersion": "sluice.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": NAME, "namespace": NAMESPACE},
            "spec": spec,
        },
        sort_keys=False,
    )


def plain_objects(package: str) -> list[dict[str, Any]]:
    """What a team without Sluice would apply: a Deployment and a Service."""
    labels = {"app": "plain"}
    return [
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "plain", "namespace": NAMESPACE},
            "spec": {
                "replicas": 2,
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {
                        "containers": [
                            {
                                "name": "model",
                                "image": "sluice",
                                "args": [
                                    "serve", package, "--host=$(POD_IP)", "--port=8080",
                                    "--admin-port=9090", "--revision=plain",
                                ],
                                "env": [
                                    {
                                        "name": "POD_IP",
                                        "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}},
                                    }
                                ],
                                "readinessProbe": {
                                    "httpGet": {"path": "/readyz", "port": 8080},
                                    "periodSeconds": 1,
                                },
                                "lifecycle": {"preStop": {"sleep": {"seconds": 3}}},
                            }
                        ]
                    },
                },
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "plain", "namespace": NAMESPACE},
            "spec": {"selector": labels, "ports": [{"port": 80, "targetPort": 8080}]},
        },
    ]  # fmt: skip
