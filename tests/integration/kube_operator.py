"""An operator process with a tiny reconciler, for the tests of the shell: one ConfigMap a parent.

``python kube_operator.py KUBECONFIG HEALTH_PORT METRICS_PORT [NAMESPACE ...]``
"""

from __future__ import annotations

import os
import sys

from sluice.controller.engine import Context
from sluice.controller.settings import Settings
from sluice.controller.shell import run_operator
from sluice.kube.lease import LeaseTimes
from sluice.kube.resources import Object
from sluice.kube.store import Key

MODEL_LIBRARIES = ("sklearn", "joblib", "onnx", "onnxruntime", "pandas", "pyarrow", "kubernetes")

FAST_LEASE = LeaseTimes(duration=6.0, renew_deadline=5.0, retry=1.0)


class Mirror:
    """Writes what it saw into ``NAME-seen``."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def reconcile(self, key: Key) -> float | None:
        store, client = self._context.store, self._context.client
        namespace, name = key
        parent = store.get("ModelDeployment", namespace, name)
        seen = store.get("ConfigMap", namespace, f"{name}-seen")
        if parent is None:
            if seen is not None:
                await client.delete("ConfigMap", namespace, f"{name}-seen")
                store.deleted(seen)
            return None
        wanted: Object = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "namespace": namespace,
                "name": f"{name}-seen",
                "labels": {"sluice.dev/managed": "true", "sluice.dev/deployment": name},
            },
            "data": {
                "uri": parent["spec"]["model"]["uri"],
                "trust": str(store.trust_readable),
                "policies": str(store.count("TrustPolicy")),
                "by": self._context.settings.lease_name + str(os.getpid()),
                "loaded": ",".join(m for m in MODEL_LIBRARIES if m in sys.modules),
            },
        }
        if seen is None:
            await client.create(wanted)
            self._context.events.emit(parent, "Seen", "The parent was seen.")
        elif seen["data"] != wanted["data"]:
            await client.apply(wanted, uid=seen["metadata"]["uid"])
        return None

    async def close(self) -> None:
        """Nothing is kept open."""


def main() -> None:
    kubeconfig, health, metrics, *namespaces = sys.argv[1:]
    settings = Settings(
        kubeconfig=kubeconfig,
        namespaces=tuple(namespaces),
        host="127.0.0.1",
        health_port=int(health),
        metrics_port=int(metrics),
        relist_seconds=float(os.environ.get("RELIST", "300")),
        lease_namespace="default" if not namespaces else namespaces[0],
        lease_times=LeaseTimes() if "SLOW_LEASE" in os.environ else FAST_LEASE,
        log_format="json",
        operator_class=os.environ.get("CLASS", ""),
    )
    run_operator(settings, Mirror)


if __name__ == "__main__":
    main()
