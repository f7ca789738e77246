"""The client, the feed, the lease and the events against a real API server."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any

import pytest
from tests.integration.kube_api_server import TENANT, ApiServer
from tests.tools.ports import free_port

from sluice.kube.client import KubeClient
from sluice.kube.errors import (
    ConflictError,
    ForbiddenError,
    InvalidObjectError,
    NotFoundError,
    UnavailableError,
)
from sluice.kube.events import EventRecorder
from sluice.kube.feed import Informer
from sluice.kube.lease import LeaseElector, LeaseTimes
from sluice.kube.resources import Object
from sluice.kube.store import Change, Store

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]


@pytest.fixture
def space(server: ApiServer) -> str:
    return server.namespace(f"t-{uuid.uuid4().hex[:8]}")


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scenario)


async def until(condition: Callable[[], bool], what: str, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        await asyncio.sleep(0.02)


def config_map(namespace: str, name: str, **data: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "namespace": namespace,
            "name": name,
            "labels": {"sluice.dev/managed": "true", "sluice.dev/deployment": "iris"},
        },
        "data": data,
    }


def deployment(namespace: str, name: str) -> Object:
    return {
        "apiVersion": "sluice.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {"model": {"uri": "s3://models/iris"}},
    }


def test_create_then_apply_with_the_uid_changes_only_our_fields(
    server: ApiServer, space: str
) -> None:
    async def scenario() -> None:
        async with KubeClient.connect(server.kubeconfig()) as client:
            made = await client.create(config_map(space, "a", x="1"))
            uid = made["metadata"]["uid"]
            await client.patch_merge(
                "ConfigMap", space, "a", {"data": {"theirs": "1"}}, field_manager="someone"
            )
            changed = await client.apply(config_map(space, "a", x="2"), uid=uid)
            assert changed["data"] == {"x": "2", "theirs": "1"}
            again = await client.apply(config_map(space, "a", x="2"), uid=uid)
            assert again["metadata"]["resourceVersion"] == changed["metadata"]["resourceVersion"]

    run(scenario())


def test_a_name_that_someone_else_took_is_a_conflict_and_left_untouched(
    server: ApiServer, space: str
) -> None:
    async def scenario() -> None:
        async with KubeClient.connect(server.kubeconfig()) as client:
            theirs = await client.create(config_map(space, "a", x="theirs"), field_manager="user")
            with pytest.raises(ConflictError) as taken:
                await client.create(config_map(space, "a", x="ours"))
            assert taken.value.reason == "AlreadyExists"
            with pytest.raises(ConflictError) as other:
                await client.apply(config_map(space, "a", x="ours"), uid=str(uuid.uuid4()))
            assert other.value.reason == "UidMismatch"
            assert "left alone" in str(other.value)
            assert await client.get("ConfigMap", space, "a") == theirs
            parent = await client.create(deployment(space, "iris"), field_manager="user")
            with pytest.raises(ConflictError) as custom:
                await client.apply(deployment(space, "iris"), uid=str(uuid.uuid4()))
            assert custom.value.reason == "UidMismatch"
            assert await client.get("ModelDeployment", space, "iris") == parent

    run(scenario())


def test_an_apply_onto_an_object_that_is_gone_does_not_create_it(
    server: ApiServer, space: str
) -> None:
    async def scenario() -> None:
        async with KubeClient.connect(server.kubeconfig()) as client:
            made = await client.create(config_map(space, "a", x="1"))
            uid = made["metadata"]["uid"]
            assert await client.delete("ConfigMap", space, "a", uid=uid)
            with pytest.raises(ConflictError):
                await client.apply(config_map(space, "a", x="2"), uid=uid)
            with pytest.raises((ConflictError, NotFoundError)):
                await client.patch_status("ModelDeployment", space, "iris", {}, uid=uid)
            assert await client.find("ConfigMap", space, "a") is None

    run(scenario())


def test_a_field_of_another_manager_is_a_conflict_without_force(
    server: ApiServer, space: str
) -> None:
    async def scenario() -> None:
        async with KubeClient.connect(server.kubeconfig()) as client:
            made = await client.create(config_map(space, "a", x="1"), field_manager="user")
            uid = made["metadata"]["uid"]
            with pytest.raises(ConflictError) as refused:
                await client.apply(config_map(space, "a", x="2"), uid=uid, force=False)
            assert refused.value.reason == "FieldConflict"
            forced = await client.apply(config_map(space, "a", x="2"), uid=uid)
            assert forced["data"]["x"] == "2"

    run(scenario())


def test_delete_minds_the_uid(server: ApiServer, space: str) -> None:
    async def scenario() -> None:
        async with KubeClient.connect(server.kubeconfig()) as client:
            await client.create(config_map(space, "a"))
            with pytest.raises(ConflictError) as other:
                await client.delete("ConfigMap", space, "a", uid=str(uuid.uuid4()))
            assert other.value.reason == "UidMismatch"
            assert await client.delete("ConfigMap", space, "a")
            assert not await client.delete("ConfigMap", space, "a")

    run(scenario())


def test_status_is_written_by_its_own_manager_and_never_the_spec(
    server: ApiServer, space: str
) -> None:
    async def scenario() -> None:
        async with KubeClient.connect(server.kubeconfig()) as client:
            made = await client.create(deployment(space, "iris"), field_manager="user")
            uid = made["metadata"]["uid"]
            written = await client.patch_status(
                "ModelDeployment", space, "iris", {"observedGeneration": 1}, uid=uid
            )
            assert written["status"]["observedGeneration"] == 1
            assert written["spec"] == made["spec"]
            assert written["metadata"]["generation"] == made["metadata"]["generation"]
            managers = {m["manager"]: m for m in written["metadata"]["managedFields"]}
            assert set(managers["sluice-status"]["fieldsV1"]) == {"f:status"}

    run(scenario())


def test_a_status_computed_from_an_older_object_is_refused_and_a_recreated_one_is_noticed(
    server: ApiServer, space: str
) -> None:
    async def scenario() -> None:
        async with KubeClient.connect(server.kubeconfig()) as client:
            made = await client.create(deployment(space, "iris"), field_manager="user")
            version = made["metadata"]["resourceVersion"]
            note = {"metadata": {"annotations": {"sluice.dev/abort": "now"}}}
            await client.patch_merge("ModelDeployment", space, "iris", note)
            with pytest.raises(ConflictError) as stale:
                await client.patch_status(
                    "ModelDeployment", space, "iris", {"replicas": 1}, resource_version=version
                )
            assert stale.value.reason == "Conflict"
            with pytest.raises(ConflictError) as recreated:
                await client.patch_status(
                    "ModelDeployment", space, "iris", {"replicas": 1}, uid=str(uuid.uuid4())
                )
            assert recreated.value.reason == "UidMismatch"

    run(scenario())


def test_patches_merge_json_and_conditional(server: ApiServer, space: str) -> None:
    async def scenario() -> None:
        async with KubeClient.connect(server.kubeconfig()) as client:
            made = await client.create(config_map(space, "a", x="1"))
            stale = {"metadata": {"resourceVersion": made["metadata"]["resourceVersion"]}}
            await client.patch_json(
                "ConfigMap",
                space,
                "a",
                [
                    {"op": "test", "path": "/data/x", "value": "1"},
                    {"op": "replace", "path": "/data/x", "value": "2"},
                ],
            )
            with pytest.raises(ConflictError) as moved:
                await client.patch_merge("ConfigMap", space, "a", stale | {"data": {"x": "3"}})
            assert moved.value.reason == "Conflict"
            assert (await client.get("ConfigMap", space, "a"))["data"] == {"x": "2"}

    run(scenario())


def test_lists_come_in_pages_and_know_their_kind(server: ApiServer, space: str) -> None:
    async def scenario() -> None:
        async with KubeClient.connect(server.kubeconfig()) as client:
            for n in range(7):
                await client.create(config_map(space, f"c{n}"))
            sizes = [len(p.items) async for p in client.pages("ConfigMap", space, page_size=3)]
            assert sizes == [3, 3, 1]
            whole = await client.list("ConfigMap", space, label_selector="sluice.dev/managed=true")
            assert {o["kind"] for o in whole.items} == {"ConfigMap"}
            assert len(whole.items) == 7
            assert whole.resource_version

    run(scenario())


def test_refusals_are_sentences_that_name_the_object(server: ApiServer, space: str) -> None:
    async def scenario() -> None:
        async with KubeClient.connect(server.kubeconfig()) as client:
            with pytest.raises(NotFoundError, match="read ConfigMap nothing"):
                await client.get("ConfigMap", space, "nothing")
            broken = deployment(space, "iris")
            broken["spec"] = {"model": {}}
            with pytest.raises(InvalidObjectError, match=f"create ModelDeployment {space}/iris"):
                await client.create(broken)
            assert await client.served("sluice.dev", "v1alpha1") >= {"modeldeployments"}
            assert await client.served("nobody.example", "v1") == set()
        async with KubeClient.connect(server.kubeconfig(TENANT)) as tenant:
            with pytest.raises(ForbiddenError, match="list trustpolicies"):
                await tenant.list("TrustPolicy")

    run(scenario())


def test_a_server_that_is_away_is_waited_for_and_then_named(tmp_path: Path) -> None:
    nowhere = ApiServer(tmp_path)
    nowhere.url = f"https://127.0.0.1:{free_port()}"

    async def scenario() -> None:
        seen: list[int] = []
        config = nowhere.kubeconfig()
        async with KubeClient.connect(config, observe=lambda *a: seen.append(a[2])) as client:
            with pytest.raises(UnavailableError, match="did not answer when asked to read"):
                await client.get("ConfigMap", "default", "a")
            assert seen == [0] * 5

    run(scenario())


class Feed:
    """A store with one informer, and what it told."""

    def __init__(self, client: KubeClient, kind: str, namespace: str, **options: Any) -> None:
        self.store = Store([kind])
        self.told: list[tuple[str, str]] = []
        self.informer = Informer(
            client, self.store, kind, self._tell, namespace=namespace, **options
        )

    def _tell(self, changes: Iterable[Change], _: Object | None) -> None:
        self.told += [(c.type, c.name) for c in changes]

    async def __aenter__(self) -> Feed:
        self.task = asyncio.create_task(self.informer.run())
        await asyncio.wait_for(self.informer.synced.wait(), 20)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])


def test_the_feed_follows_creations_changes_and_deletions(server: ApiServer, space: str) -> None:
    async def scenario() -> None:
        async with KubeClient.connect(server.kubeconfig()) as client:
            await client.create(config_map(space, "before"))
            async with Feed(client, "ConfigMap", space) as feed:
                client.on_write = feed.store.wrote
                assert feed.told == [("Added", "before")]
                made = await client.create(config_map(space, "a", x="y" * 300_000))
                await until(lambda: ("Added", "a") in feed.told, "the creation")
                await client.apply(config_map(space, "a", x="2"), uid=made["metadata"]["uid"])
                await until(lambda: ("Modified", "a") in feed.told, "the change")
                await client.delete("ConfigMap", space, "a")
                await until(lambda: ("Deleted", "a") in feed.told, "the deletion")
                assert feed.store.caught_up((space, "iris"))
                assert feed.informer.relists == 1

    run(scenario())


def test_the_feed_survives_the_api_servers_restart_and_notices_what_was_deleted_meanwhile(
    server: ApiServer, space: str
) -> None:
    """Deleted through a second API server while the feed's own connection is cut."""

    async def scenario() -> None:
        async with KubeClient.connect(server.kubeconfig()) as client:
            await client.create(config_map(space, "stays"))
            await client.create(config_map(space, "goes"))
            async with Feed(client, "ConfigMap", space) as feed:
                await asyncio.to_thread(server.stop_api)
                await until(lambda: feed.informer.failures >= 2, "two failed attempts")
                assert feed.informer.age() < 30
                await asyncio.to_thread(server.start_api)
                path = f"/api/v1/namespaces/{space}/configmaps/goes"
                assert (await asyncio.to_thread(server.call, "DELETE", path))[0] == 200
                await until(lambda: ("Deleted", "goes") in feed.told, "the deletion", 40)
                made = await client.create(config_map(space, "new"))
                assert made
                await until(lambda: ("Added", "new") in feed.told, "life after the outage")
                assert feed.store.has("ConfigMap", space, "stays")

    run(scenario())


def test_a_full_list_notices_what_no_event_told(server: ApiServer, space: str) -> None:
    async def scenario() -> None:
        async with KubeClient.connect(server.kubeconfig()) as client:
            await client.create(config_map(space, "a"))
            async with Feed(client, "ConfigMap", space, relist_seconds=1.0) as feed:
                ghost = config_map(space, "ghost")
                ghost["metadata"] |= {"uid": "ghost", "resourceVersion": "1"}
                feed.store.apply_event("ConfigMap", "ADDED", ghost)
                await until(lambda: ("Deleted", "ghost") in feed.told, "the ghost's end")
                assert feed.store.has("ConfigMap", space, "a")

    run(scenario())


def test_a_feed_survives_a_fault_in_what_it_feeds(server: ApiServer, space: str) -> None:
    async def scenario() -> None:
        async with (
            KubeClient.connect(server.kubeconfig()) as client,
            Feed(client, "ConfigMap", space) as feed,
        ):
            told, feed.told = feed.told, None  # type: ignore[assignment]
            await client.create(config_map(space, "a"))
            await until(lambda: feed.informer.failures > 0, "the fault")
            feed.told = told
            await client.create(config_map(space, "b"))
            await until(lambda: ("Added", "b") in feed.told, "life after the fault")
            assert feed.store.has("ConfigMap", space, "a")

    run(scenario())


def test_a_version_that_is_too_old_costs_a_new_list(server: ApiServer, space: str) -> None:
    async def scenario() -> None:
        from sluice.kube.errors import GoneError

        async with KubeClient.connect(server.kubeconfig()) as client:
            with pytest.raises(GoneError):
                async for _ in client.watch("ConfigMap", space, "1", seconds=2):
                    pass

    run(scenario())


def test_a_kind_that_may_not_be_read_counts_as_absent(server: ApiServer) -> None:
    async def scenario() -> None:
        readable: list[bool] = []
        async with (
            KubeClient.connect(server.kubeconfig(TENANT)) as tenant,
            Feed(tenant, "TrustPolicy", "", on_readable=readable.append) as feed,
        ):
            assert readable == [False]
            assert feed.store.count("TrustPolicy") == 0

    run(scenario())


FAST = LeaseTimes(duration=6.0, renew_deadline=5.0, retry=1.0)


class Candidate:
    """An instance that would lead."""

    def __init__(self, client: KubeClient, namespace: str, name: str) -> None:
        self.leading = False
        self.log: list[str] = []
        self.elector = LeaseElector(
            client,
            namespace,
            "test",
            started=self._started,
            stopped=self._stopped,
            identity=name,
            times=FAST,
        )
        self.task = asyncio.create_task(self.elector.run())

    async def _started(self) -> None:
        self.leading = True
        self.log.append("started")

    async def _stopped(self) -> None:
        self.leading = False
        self.log.append("stopped")

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])


def test_one_leads_and_a_graceful_stop_hands_over_at_once(server: ApiServer, space: str) -> None:
    async def scenario() -> None:
        async with KubeClient.connect(server.kubeconfig()) as client:
            one = Candidate(client, space, "one")
            await until(lambda: one.leading, "the first leads")
            two = Candidate(client, space, "two")
            await asyncio.sleep(2 * FAST.duration)
            assert one.elector.is_leader()
            assert not two.leading
            await one.stop()
            assert one.log == ["started", "stopped"]
            lease = await client.get("Lease", space, "test")
            assert lease["spec"]["holderIdentity"] != "one", "nobody waits for the expiry"
            await until(lambda: two.leading, "the second leads")
            lease = await client.get("Lease", space, "test")
            assert lease["spec"]["holderIdentity"] == "two"
            assert lease["spec"]["leaseTransitions"] == 2
            await two.stop()

    run(scenario())


def test_a_renewal_under_way_does_not_keep_a_stopped_leader_in_office(
    server: ApiServer, space: str
) -> None:
    async def scenario() -> None:
        async with KubeClient.connect(server.kubeconfig()) as client:
            one = Candidate(client, space, "one")
            await until(lambda: one.leading, "it leads")
            # As a renewal whose answer never came.
            stored = {"spec": {"leaseDurationSeconds": 4}}
            await client.patch_merge("Lease", space, "test", stored)
            await one.stop()
            lease = await client.get("Lease", space, "test")
            assert lease["spec"].get("holderIdentity", "") == ""

    run(scenario())


def test_a_leader_that_cannot_renew_stops_before_another_may_start(
    server: ApiServer, space: str
) -> None:
    async def scenario() -> None:
        async with (
            KubeClient.connect(server.kubeconfig()) as first,
            KubeClient.connect(server.kubeconfig()) as second,
        ):
            one = Candidate(first, space, "one")
            await until(lambda: one.leading, "the first leads")
            two = Candidate(second, space, "two")
            # Cut off: its requests go to a port where nobody listens.
            import dataclasses

            first.connection = dataclasses.replace(first.connection, server="https://127.0.0.1:9")
            while not two.leading:
                assert not (one.elector.is_leader() and two.elector.is_leader())
                await asyncio.sleep(0.02)
            assert one.log == ["started", "stopped"]
            assert not one.elector.is_leader()
            await one.stop()
            await two.stop()

    run(scenario())


def test_a_lease_that_may_not_be_had_is_said(
    server: ApiServer, space: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with KubeClient.connect(server.kubeconfig(TENANT)) as tenant:
            one = Candidate(tenant, space, "one")
            await until(lambda: bool(caplog.records), "a warning")
            assert "is not had" in caplog.text
            assert "cannot get resource" in caplog.text
            assert not one.leading
            await one.stop()

    run(scenario())


def test_events_are_shown_once_and_counted(server: ApiServer, space: str) -> None:
    async def scenario() -> None:
        now = 0.0
        async with KubeClient.connect(server.kubeconfig()) as client:
            obj = await client.create(deployment(space, "iris"))
            recorder = EventRecorder(client, clock=lambda: now)
            recorder.emit(obj, "Promoted", "The candidate serves. " + "é" * 2000)
            recorder.emit(obj, "RolledBack", "Errors.", kind="Warning", action="Rollback")
            recorder.emit(obj, "RolledBack", "Errors.", kind="Warning", action="Rollback")
            now = 61.0
            recorder.emit(obj, "RolledBack", "Errors.", kind="Warning", action="Rollback")
            await recorder.drain()
            found = {e["reason"]: e for e in (await client.list("Event", space)).items}
            assert set(found) == {"Promoted", "RolledBack"}
            assert len(found["Promoted"]["note"].encode()) <= 1024
            back = found["RolledBack"]
            assert back["series"]["count"] == 3
            assert back["type"] == "Warning"
            assert back["regarding"]["name"] == "iris"
            assert recorder.dropped == 0

    run(scenario())
