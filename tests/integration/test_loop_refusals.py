"""What may not run does not: bad packages, code nobody admitted, names of others; and then silence.

One namespace, one operator, several ModelDeployments side by side.
"""

from __future__ import annotations

import json
import pickle
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from tests.integration.loop import PATHS, Loop, loop_in
from tests.tools.packages import write_package

from sluice.local.cluster import LocalCluster
from sluice.package.manifest import Input, ModelFile, Output, canonical_json

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

IDLE_SECONDS = 60
"""Instead of the five minutes of the promise; longer than every interval here but one."""
MARK = "this pickle was loaded"
SMALL: dict[str, Any] = {"replicas": 1, "traffic": {"routerReplicas": 1}}


@pytest.fixture
def loop(cluster: LocalCluster, namespace: str, kubectl: Callable[..., str]) -> Iterator[Loop]:
    with loop_in(cluster, namespace, kubectl) as made:
        yield made
        kubectl("delete", "trustpolicy", namespace, "--ignore-not-found")


def marked_pickle(marker: Path) -> tuple[bytes, list[float]]:
    """A working model whose loading leaves a mark; and its scores of ``a`` = 0, 1, 2."""
    x = np.array([[0.0], [1.0], [2.0], [3.0]])
    model = LogisticRegression().fit(x, [0, 0, 1, 1])
    leave = (
        f"import sys\nprint({MARK!r}, file=sys.stderr, flush=True)\n"
        f"try: open({str(marker)!r}, 'a')\nexcept OSError: pass\n"
    )
    # exec(leave), its result dropped, then the model.
    first = b"cbuiltins\nexec\n(V" + leave.replace("\n", "\\u000a").encode() + b"\ntR0"
    scores = model.predict_proba(x[:3])[:, 1]
    return first + pickle.dumps(model, protocol=2)[2:], [float(s) for s in scores]


def code_package(directory: Path, marker: Path) -> str:
    """The marked pickle as a package of class Code; its digest."""
    data, scores = marked_pickle(marker)
    golden = [
        {"row": {"a": float(i)}, "score": s, "label": int(s >= 0.5)} for i, s in enumerate(scores)
    ]
    return write_package(
        directory,
        {"model.pkl": data, "golden.json": canonical_json(golden)},
        name="marked",
        task="classification",
        model=ModelFile(file="model.pkl", format="pickle", trust_class="Code"),
        inputs=(Input(name="a", type="float", nullable=False, min=0.0, max=3.0),),
        output=Output(labels=(0, 1), positive=1),
        imports=("builtins.exec", "sklearn.linear_model"),
    )


def foreign(kind: str, name: str) -> dict[str, Any]:
    """Somebody else's object."""
    meta = {"name": name, "labels": {"team": "other"}}
    if kind == "ConfigMap":
        return {"apiVersion": "v1", "kind": kind, "metadata": meta, "data": {"mine": "yes"}}
    if kind == "Service":
        spec: Any = {"selector": {"app": "other"}, "ports": [{"port": 80}]}
        return {"apiVersion": "v1", "kind": kind, "metadata": meta, "spec": spec}
    labels = {"app": "other"}
    pod = {"containers": [{"name": "x", "image": "python", "command": ["python", "-V"]}]}
    template = {"metadata": {"labels": labels}, "spec": pod}
    spec = {"replicas": 0, "selector": {"matchLabels": labels}, "template": template}
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": meta, "spec": spec}


def refused(loop: Loop, name: str, *reasons: str) -> str:
    """Wait until ``name`` is Stalled for one of ``reasons``; the sentence."""

    def stalled() -> bool:
        found = loop.condition("Stalled", name)
        return found.get("status") == "True" and found.get("reason") in reasons

    loop.until(stalled, 60, f"{name} is refused as {reasons}: {loop.condition('Stalled', name)}")
    assert loop.condition("Ready", name)["status"] == "False"
    return str(loop.condition("Stalled", name)["message"])


def test_what_may_not_run_is_named_and_touches_nothing(loop: Loop) -> None:
    taken = [("Service", "svc"), ("ConfigMap", "map-evidence"), ("Deployment", "dep-router")]
    loop.put(*(foreign(kind, name) for kind, name in taken))
    before = {name: version(loop, kind, name) for kind, name in taken}
    good = loop.package("v1", bias=0.1)
    loop.start()
    loop.apply(good, "stable", **SMALL)
    for name in ("svc", "map", "dep"):
        loop.apply(good, name, **SMALL)
    code = loop.directory / "code"
    marker = loop.directory / "marker"
    loop.directory.chmod(0o777)
    digest = code_package(code, marker)
    loop.apply(f"file://{code}", "code", **SMALL)

    said = refused(loop, "code", "NotTrusted")
    assert "TrustPolicy" in said and digest in said, said
    for name in ("svc", "map", "dep"):
        said = refused(loop, name, "NameConflict")
        assert "left untouched" in said, said
    assert {name: version(loop, kind, name) for kind, name in taken} == before
    loop.until(lambda: loop.serves("v1", "stable"), 60, "v1 serves")

    assert not marker.exists(), "nobody may load it"
    assert MARK not in logs(loop, "code"), "nobody may load it"
    admit(loop, digest)
    bad_packages(loop)
    crashing(loop)
    damaged(loop)
    loop.until(lambda: loop.condition("Ready", "stable"), 10, "stable is still there")
    assert loop.status("stable")["stable"]["digest"] == loop.digests["v1"]

    loop.digests["code"] = digest
    loop.until(lambda: loop.serves("code", "code"), 60, "an admitted pickle serves")
    assert MARK in logs(loop, "code"), "the mark is real: loading leaves it"
    assert not marker.exists(), "and yet a pod can write nowhere"
    idle(loop)


def version(loop: Loop, kind: str, name: str) -> tuple[str, str]:
    """(uid, generation or data) of an object: whether somebody changed it."""
    found = next(o for o in loop.list(kind) if o["metadata"]["name"] == name)
    meta = found["metadata"]
    body = found.get("data") or found["spec"]
    return meta["uid"], f"{sorted(meta['labels'])} {body}"


def bad_packages(loop: Loop) -> None:
    """Missing, truncated, wrong digest: one sentence each, stable untouched."""
    loop.apply(f"file://{loop.directory}/nothing", "stable", **SMALL)
    said = refused(loop, "stable", "Missing")
    assert f"{loop.directory}/nothing" in said, said
    assert loop.is_true("Available", "stable")
    cut = loop.package("cut", bias=0.4)
    path = loop.directory / "cut" / "model.onnx"
    path.write_bytes(path.read_bytes()[:100])
    loop.apply(cut, "stable", **SMALL)
    said = refused(loop, "stable", "Truncated", "Corrupt", "GatesCannotRun")
    assert "model.onnx" in said, said
    assert loop.is_true("Available", "stable")
    other = loop.package("other", bias=0.5)
    wrong = {"digest": "sha256:" + "0" * 64}
    loop.apply(other, "stable", model=wrong, **SMALL)
    said = refused(loop, "stable", "DigestMismatch")
    assert "0000" in said and loop.digests["other"][:20] in said, said
    assert loop.is_true("Available", "stable")


def crashing(loop: Loop) -> None:
    """A runtime that cannot start: exit code and last words are named."""
    loop.apply(
        loop.package("crash", bias=0.6),
        "stable",
        **{**SMALL, "replicas": 2},
        serving={"env": [{"name": "PYTHONHOME", "value": "/nowhere"}]},
    )
    said = refused(loop, "stable", "RevisionQuarantined")
    assert "exits with code 1" in said and "encodings" in said, said


def damaged(loop: Loop) -> None:
    """Evidence that cannot be read stops nothing but the operator; without it, it begins anew."""
    name = "stable-evidence"
    patch = json.dumps({"data": {"progress.json": "{"}})
    loop.kubectl("-n", loop.namespace, "patch", "cm", name, "--type=merge", "-p", patch)
    said = refused(loop, "stable", "RecordUnreadable")
    assert name in said, said
    assert loop.is_true("Available", "stable")
    loop.kubectl("-n", loop.namespace, "delete", "cm", name)
    loop.until(lambda: "quarantined" in loop.condition("Stalled", "stable")["message"], 30, "anew")


def logs(loop: Loop, name: str) -> str:
    """What every pod of ``name`` has said."""
    select = ("-l", f"sluice.dev/deployment={name}")
    return loop.kubectl("-n", loop.namespace, "logs", *select, "--all-containers", "--tail=-1")


def admit(loop: Loop, digest: str) -> None:
    loop.put(
        {
            "apiVersion": "sluice.dev/v1alpha1",
            "kind": "TrustPolicy",
            "metadata": {"name": loop.namespace},
            "spec": {
                "namespaces": [loop.namespace],
                "admit": [{"packageDigest": digest, "classes": ["Code"]}],
            },
        }
    )


def idle(loop: Loop) -> None:
    """Ten forced reconciles and a minute: no object gets another version."""
    quiet = ("svc", "map", "dep", "stable", "code")
    loop.until(lambda: settled(loop), 120, "old pods and jobs are gone")
    before = versions(loop)
    for turn in range(10):
        for name in quiet:
            loop.put(poke(name, turn))
        time.sleep(0.2)
    time.sleep(IDLE_SECONDS)
    after = versions(loop)
    assert after == before, {k: (before.get(k), v) for k, v in after.items() if before.get(k) != v}


def settled(loop: Loop) -> bool:
    """Nothing has changed for a while."""
    first = versions(loop)
    time.sleep(6)
    return versions(loop) == first


def versions(loop: Loop) -> dict[str, str]:
    """Every object's version, but for those that the test pokes with."""
    return {
        f"{kind}/{o['metadata']['name']}": o["metadata"]["resourceVersion"]
        for kind in PATHS
        for o in loop.list(kind)
        if not o["metadata"]["name"].startswith("poke-")
    }


def poke(name: str, turn: int) -> dict[str, Any]:
    """An object that belongs to ``name``: every change of it makes the operator look again."""
    labels = {"sluice.dev/managed": "true", "sluice.dev/deployment": name}
    meta = {"name": f"poke-{name}", "labels": labels}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"n": str(turn)}}
