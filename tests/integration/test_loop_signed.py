"""A signed pickle serves where its signer is trusted, and a denied key takes nothing that serves.

One namespace, one operator, one ModelDeployment.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from sklearn.linear_model import LogisticRegression
from tests.integration.loop import Loop, loop_in
from tests.tools.packages import write_package

from sluice.local.cluster import LocalCluster
from sluice.package.manifest import Input, ModelFile, Output, canonical_json
from sluice.package.signing import sign_package
from sluice.signature import key_digest, pem_of

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

SMALL: dict[str, Any] = {"replicas": 1, "traffic": {"routerReplicas": 1}}
KEY = ec.generate_private_key(ec.SECP256R1())
PEM = pem_of(KEY.public_key())


@pytest.fixture
def loop(cluster: LocalCluster, namespace: str, kubectl: Callable[..., str]) -> Iterator[Loop]:
    with loop_in(cluster, namespace, kubectl) as made:
        yield made
        kubectl("delete", "trustpolicy", namespace, "--ignore-not-found")


def code_package(directory: Path, name: str) -> str:
    """A pickled model; its digest."""
    x = np.array([[0.0], [1.0], [2.0], [3.0]])
    model = LogisticRegression().fit(x, [0, 0, 1, 1])
    scores = model.predict_proba(x[:3])[:, 1]
    golden = [
        {"row": {"a": float(i)}, "score": float(s), "label": int(s >= 0.5)}
        for i, s in enumerate(scores)
    ]
    return write_package(
        directory,
        {"model.pkl": pickle.dumps(model), "golden.json": canonical_json(golden)},
        name=name,
        task="classification",
        model=ModelFile(file="model.pkl", format="pickle", trust_class="Code"),
        inputs=(Input(name="a", type="float", nullable=False, min=0.0, max=3.0),),
        output=Output(labels=(0, 1), positive=1),
        imports=("sklearn.linear_model",),
    )


def policy(loop: Loop, **more: Any) -> dict[str, Any]:
    line = {"signer": {"name": "ml-platform", "publicKey": PEM}, "classes": ["Code"]}
    return {
        "apiVersion": "sluice.dev/v1alpha1",
        "kind": "TrustPolicy",
        "metadata": {"name": loop.namespace},
        "spec": {"namespaces": [loop.namespace], "admit": [line], **more},
    }


def test_what_the_admitted_key_signed_serves_and_nothing_else(loop: Loop) -> None:
    loop.put(policy(loop))
    loop.directory.chmod(0o755)
    package = loop.directory / "code"
    loop.digests["code"] = code_package(package, "code")
    sign_package(package, ec.generate_private_key(ec.SECP256R1()))
    loop.start()
    loop.apply(f"file://{package}", **SMALL)

    def stalled(said: str) -> bool:
        return said in loop.condition("Stalled").get("message", "")

    loop.until(lambda: stalled("not signed by a key that is admitted"), 30, "a stranger's key")
    assert loop.list("ModelRevision") == []

    sign_package(package, KEY)
    retry = f"sluice.dev/retry={loop.digests['code']}"
    loop.kubectl("-n", loop.namespace, "annotate", "mdep/iris", retry)
    loop.until(lambda: loop.serves("code"), 60, "the signed pickle serves")
    trusted = loop.condition("CodeTrusted")
    assert trusted["reason"] == "TrustSigner" and "ml-platform" in trusted["message"], trusted

    loop.put(policy(loop, deny=[{"keyDigest": key_digest(PEM), "reason": "leaked"}]))
    loop.until(lambda: loop.condition("CodeTrusted")["status"] == "False", 20, "it is withdrawn")
    assert loop.is_true("Available"), "what serves goes on serving"
    loop.digests["next"] = code_package(loop.directory / "next", "next")
    sign_package(loop.directory / "next", KEY)
    loop.apply(f"file://{loop.directory / 'next'}", **SMALL)
    loop.until(lambda: loop.condition("Stalled").get("reason") == "NotTrusted", 30, "refused")
    assert loop.status()["stable"]["digest"] == loop.digests["code"]
