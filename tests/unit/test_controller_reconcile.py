"""A reconcile beside an API server that takes no writes: users are looked at all the same."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web
from tests.unit.controller_world import OWNER
from tests.unit.test_kube_client import against

from sluice.api.meta import API_VERSION
from sluice.controller import reconcile as reconcile_module
from sluice.controller.engine import KINDS, Context
from sluice.controller.metrics import Metrics
from sluice.controller.reconcile import UNWRITTEN_RETRY, Reconciler
from sluice.controller.records import evidence_map
from sluice.controller.settings import Settings
from sluice.kube.client import KubeClient
from sluice.kube.errors import UnavailableError
from sluice.kube.events import EventRecorder
from sluice.kube.queue import KeyedQueue
from sluice.kube.store import Store
from sluice.objects.common import Obj
from sluice.rollout.model import Progress, RolloutProgress, WatchProgress

LIMIT = 0.3
HELD = 3.0
FIRST = "POST /api/v1/namespaces/shop/configmaps"
KEY = (OWNER.namespace, OWNER.name)


class Api:
    """Takes Secrets, which certificates are, and answers everything else too late."""

    def __init__(self) -> None:
        self.held: list[str] = []

    async def answer(self, request: web.Request) -> web.Response:
        if "/secrets" not in request.path:
            self.held.append(f"{request.method} {request.path}")
            await asyncio.sleep(HELD)
        if request.method == "GET":
            return web.json_response({"kind": "Status", "reason": "NotFound"}, status=404)
        return web.json_response(await request.json(), status=201)


def reconciled(api: Api, progress: Progress) -> float | None:
    """What one reconcile of a ModelDeployment with ``progress`` gives."""
    out = []

    async def use(client: KubeClient) -> None:
        store = Store(KINDS)
        store.put("ModelDeployment", model_deployment())
        store.put("ConfigMap", stored(evidence_map(OWNER, progress)))
        reconciler = Reconciler(context(client, store))
        try:
            out.append(await reconciler.reconcile(KEY))
        finally:
            await reconciler.close()

    against(api.answer, use)
    return out[0]


def model_deployment() -> Obj:
    meta = {"name": OWNER.name, "namespace": OWNER.namespace, "generation": 1}
    return {
        "apiVersion": API_VERSION,
        "kind": "ModelDeployment",
        "metadata": {**meta, "uid": OWNER.uid, "resourceVersion": "1"},
        "spec": {"model": {"uri": "s3://models/iris"}},
    }


def stored(obj: Obj) -> Obj:
    meta = {**obj["metadata"], "uid": f"uid-{obj['kind']}", "resourceVersion": "2"}
    return {**obj, "metadata": meta}


def context(client: KubeClient, store: Store) -> Context:
    return Context(
        settings=Settings(),
        client=client,
        store=store,
        queue=KeyedQueue(),
        events=EventRecorder(client),
        metrics=Metrics(),
        is_leader=lambda: True,
    )


CANARY = Progress(rollout=RolloutProgress(id="1", source="s", phase="Resolving"))
WATCH = Progress(watch=WatchProgress(revision="new", previous="old"))


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconcile_module, "APPLY_SECONDS", LIMIT)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("progress", [CANARY, WATCH], ids=["canary", "watch"])
def test_writing_the_routers_objects_does_not_keep_us_from_a_look(
    progress: Progress, caplog: pytest.LogCaptureFixture
) -> None:
    api = Api()
    after = reconciled(api, progress)
    assert api.held == [FIRST, "PATCH /api/v1/namespaces/shop/configmaps/iris-evidence"]
    objects, look = caplog.messages
    assert "the router's objects may differ" in objects
    assert f"within {LIMIT:g} s" in objects
    assert "what was decided is not written down" in look
    assert after == UNWRITTEN_RETRY


@pytest.mark.usefixtures("short")
def test_without_anybody_to_look_at_it_is_an_error() -> None:
    api = Api()
    with pytest.raises(UnavailableError, match=rf"within {LIMIT:g} s"):
        reconciled(api, Progress())
    assert api.held == [FIRST]
