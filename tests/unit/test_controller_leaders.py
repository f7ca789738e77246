"""Two leaders for a moment: who acts on old news asks before it tells routers anything."""

from __future__ import annotations

import pytest
from aiohttp import web
from tests.unit.controller_world import world
from tests.unit.test_kube_client import against

from sluice.controller.apply import still_true
from sluice.kube.client import KubeClient
from sluice.kube.errors import ConflictError
from sluice.objects.common import Obj


def evidence(version: str) -> Obj:
    meta = {"name": "iris-evidence", "namespace": "shop", "resourceVersion": version}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta}


KNOWN = world(config_maps={"iris-evidence": evidence("7")})


async def version_7(_: web.Request) -> web.Response:
    return web.json_response(evidence("7"))


async def version_8(_: web.Request) -> web.Response:
    return web.json_response(evidence("8"))


async def away(_: web.Request) -> web.Response:
    return web.json_response({"kind": "Status"}, status=503)


def test_what_has_not_changed_may_be_told() -> None:
    async def use(client: KubeClient) -> None:
        await still_true(client, KNOWN)

    against(version_7, use)


def test_what_another_leader_has_changed_is_not_told() -> None:
    async def use(client: KubeClient) -> None:
        with pytest.raises(ConflictError, match="iris-evidence has changed"):
            await still_true(client, KNOWN)
        with pytest.raises(ConflictError):
            await still_true(client, world())

    against(version_8, use)


def test_without_an_api_server_routers_are_still_told() -> None:
    async def use(client: KubeClient) -> None:
        await still_true(client, KNOWN)

    against(away, use)
