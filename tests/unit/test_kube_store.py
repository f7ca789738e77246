"""The cache: what it keeps, what it finds, what it remembers of its own writes."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from sluice.kube.store import EXPECTATION_SECONDS, Change, Store, older

KEY = ("team", "iris")


def config_map(
    name: str, version: int, *, uid: str = "", owner: str = "iris", namespace: str = "team"
) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": uid or f"uid-{name}",
            "resourceVersion": str(version),
            "labels": {"sluice.dev/deployment": owner} if owner else {},
            "managedFields": [{"manager": "x"}],
        },
        "data": {"v": str(version)},
    }


def make() -> Store:
    return Store(["ModelDeployment", "ModelRevision", "ConfigMap", "Pod"])


def test_objects_are_found_by_name_and_by_owner_without_field_managers() -> None:
    store = make()
    change = store.apply_event("ConfigMap", "ADDED", config_map("b", 2))
    store.apply_event("ConfigMap", "ADDED", config_map("a", 1))
    store.apply_event("ConfigMap", "ADDED", config_map("c", 3, owner="other"))
    assert change == Change("Added", "ConfigMap", "team", "b", "iris")
    assert change.key == KEY
    assert [o["metadata"]["name"] for o in store.owned("ConfigMap", KEY)] == ["a", "b"]
    found = store.get("ConfigMap", "team", "a")
    assert found is not None
    assert "managedFields" not in found["metadata"]


def test_every_reader_gets_a_copy() -> None:
    store = make()
    store.apply_event("ConfigMap", "ADDED", config_map("a", 1))
    first = store.get("ConfigMap", "team", "a")
    assert first is not None
    first["data"]["v"] = "changed by a reader"
    again = store.get("ConfigMap", "team", "a")
    assert again is not None
    assert again["data"]["v"] == "1"


def test_an_older_or_repeated_event_tells_nothing_new() -> None:
    store = make()
    store.apply_event("ConfigMap", "ADDED", config_map("a", 10))
    assert store.apply_event("ConfigMap", "MODIFIED", config_map("a", 10)) is None
    assert store.apply_event("ConfigMap", "MODIFIED", config_map("a", 9)) is None
    assert older("9", "10")
    assert not older("10", "9")


def test_a_relist_tells_what_was_deleted_during_the_gap() -> None:
    store = make()
    for name in "abc":
        store.apply_event("ConfigMap", "ADDED", config_map(name, 1))
    changes = store.replace("ConfigMap", [config_map("a", 1), config_map("b", 5)], version="7")
    assert [(c.type, c.name) for c in changes] == [("Modified", "b"), ("Deleted", "c")]


def test_a_relist_of_one_namespace_leaves_the_others_alone() -> None:
    store = make()
    store.apply_event("ConfigMap", "ADDED", config_map("a", 1))
    store.apply_event("ConfigMap", "ADDED", config_map("a", 1, namespace="two", uid="u2"))
    changes = store.replace("ConfigMap", [], namespace="team")
    assert [(c.namespace, c.name) for c in changes] == [("team", "a")]
    assert store.has("ConfigMap", "two", "a")


def test_a_slow_list_neither_removes_what_is_newer_nor_raises_the_dead() -> None:
    store = make()
    store.apply_event("ConfigMap", "ADDED", config_map("dead", 3))
    store.apply_event("ConfigMap", "DELETED", config_map("dead", 6))
    store.apply_event("ConfigMap", "ADDED", config_map("new", 8))
    assert store.replace("ConfigMap", [config_map("dead", 3)], version="5") == []
    assert store.has("ConfigMap", "team", "new")
    assert not store.has("ConfigMap", "team", "dead")


def test_a_recreated_object_replaces_the_old_one_and_a_late_delete_does_not_hit_it() -> None:
    store = make()
    store.apply_event("ConfigMap", "ADDED", config_map("a", 3, uid="old"))
    store.apply_event("ConfigMap", "ADDED", config_map("a", 9, uid="new"))
    assert store.apply_event("ConfigMap", "DELETED", config_map("a", 5, uid="old")) is None
    assert store.has("ConfigMap", "team", "a")


def test_an_object_that_changes_its_label_changes_its_owner() -> None:
    store = make()
    store.apply_event("ConfigMap", "ADDED", config_map("a", 1))
    store.apply_event("ConfigMap", "MODIFIED", config_map("a", 2, owner="other"))
    assert store.owned("ConfigMap", KEY) == []
    assert len(store.owned("ConfigMap", ("team", "other"))) == 1


def test_a_key_is_behind_until_the_feed_shows_its_own_last_write() -> None:
    store = make()
    store.wrote(config_map("a", 10))
    assert not store.caught_up(KEY)
    assert store.caught_up(("team", "other"))
    store.apply_event("ConfigMap", "ADDED", config_map("a", 9))
    assert not store.caught_up(KEY)
    store.apply_event("ConfigMap", "MODIFIED", config_map("a", 10))
    assert store.caught_up(KEY)


def test_a_write_that_changed_nothing_is_not_waited_for() -> None:
    store = make()
    store.apply_event("ConfigMap", "ADDED", config_map("a", 10))
    store.wrote(config_map("a", 10))
    assert store.caught_up(KEY)


def test_a_write_whose_event_came_first_is_not_waited_for() -> None:
    store = make()
    store.apply_event("ConfigMap", "ADDED", config_map("a", 12))
    store.wrote(config_map("a", 11))
    assert store.caught_up(KEY)


def test_a_write_is_settled_by_the_objects_deletion() -> None:
    store = make()
    store.apply_event("ConfigMap", "ADDED", config_map("a", 1))
    store.wrote(config_map("a", 5))
    store.apply_event("ConfigMap", "DELETED", config_map("a", 7))
    assert store.caught_up(KEY)


def test_a_late_event_of_the_object_before_does_not_settle_a_creation() -> None:
    store = make()
    store.apply_event("ConfigMap", "ADDED", config_map("a", 1, uid="old"))
    store.wrote(config_map("a", 9, uid="new"))
    store.apply_event("ConfigMap", "DELETED", config_map("a", 7, uid="old"))
    assert not store.caught_up(KEY)
    store.apply_event("ConfigMap", "ADDED", config_map("a", 9, uid="new"))
    assert store.caught_up(KEY)


def test_an_own_delete_is_waited_for_until_it_shows() -> None:
    store = make()
    obj = config_map("a", 1)
    store.apply_event("ConfigMap", "ADDED", obj)
    store.deleted(obj)
    assert not store.caught_up(KEY)
    going = config_map("a", 2)
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    store.apply_event("ConfigMap", "MODIFIED", going)
    assert store.caught_up(KEY)


def test_a_write_that_never_shows_is_waited_for_a_minute_only() -> None:
    now = 0.0
    store = Store(["ConfigMap"], clock=lambda: now)
    store.wrote(config_map("a", 10))
    now = EXPECTATION_SECONDS - 1
    assert not store.caught_up(KEY)
    now = EXPECTATION_SECONDS + 1
    assert store.caught_up(KEY)


def test_kinds_that_are_not_fed_are_not_waited_for() -> None:
    store = Store(["Pod"])
    store.wrote(config_map("a", 10))
    assert store.caught_up(KEY)


def test_pods_keep_what_is_read_and_lose_the_rest() -> None:
    store = make()
    pod = config_map("p", 1)
    pod["kind"] = "Pod"
    pod["spec"] = {
        "nodeName": "n1",
        "volumes": [{"name": "v"}],
        "containers": [{"name": "server", "image": "i", "env": [{"name": "A"}]}],
    }
    pod["status"] = {"podIP": "10.0.0.1"}
    store.apply_event("Pod", "ADDED", pod)
    kept = store.get("Pod", "team", "p")
    assert kept is not None
    assert kept["spec"] == {"nodeName": "n1", "containers": [{"name": "server", "image": "i"}]}
    assert kept["status"] == {"podIP": "10.0.0.1"}


def test_a_deployment_is_known_while_it_or_one_of_its_revisions_exists() -> None:
    store = make()
    parent = {"kind": "ModelDeployment", "metadata": {"name": "iris", "namespace": "team"}}
    store.apply_event("ModelDeployment", "ADDED", parent)
    revision = config_map("iris-rev-1", 1) | {"kind": "ModelRevision"}
    store.apply_event("ModelRevision", "ADDED", revision)
    store.apply_event("ModelDeployment", "DELETED", parent)
    assert store.deployments() == [KEY]
    store.apply_event("ModelRevision", "DELETED", revision)
    assert store.deployments() == []


_STEP = st.tuples(st.sampled_from("abcd"), st.sampled_from(["put", "delete"]))


@given(history=st.lists(_STEP, max_size=40), gap=st.integers(0, 40), order=st.randoms())
def test_whatever_was_missed_a_relist_ends_equal_to_the_server(
    history: list[tuple[str, str]], gap: int, order: Any
) -> None:
    server: dict[str, dict[str, Any]] = {}
    events: list[tuple[str, dict[str, Any]]] = []
    for version, (name, what) in enumerate(history, start=1):
        if what == "put":
            uid = server[name]["metadata"]["uid"] if name in server else f"{name}-{version}"
            obj = config_map(name, version, uid=uid)
            events.append(("MODIFIED" if name in server else "ADDED", obj))
            server[name] = obj
        elif name in server:
            gone = config_map(name, version, uid=server.pop(name)["metadata"]["uid"])
            events.append(("DELETED", gone))
    heard = events[:gap]
    order.shuffle(heard)  # Late and repeated events do no harm either.
    store = make()
    for event, obj in heard:
        store.apply_event("ConfigMap", event, obj)
    store.replace("ConfigMap", server.values(), version=str(len(history)))
    cached = {o["metadata"]["name"]: o["metadata"]["uid"] for o in store.each("ConfigMap")}
    assert cached == {name: obj["metadata"]["uid"] for name, obj in server.items()}
    owned = {o["metadata"]["name"] for o in store.owned("ConfigMap", KEY)}
    assert owned == set(server)


def test_state_changes_with_every_object_of_the_deployment_and_with_no_other() -> None:
    store = Store(["ConfigMap", "TrustPolicy"])
    seen = {store.state(KEY)}
    policy = {"kind": "TrustPolicy", "metadata": {"name": "p", "uid": "p", "resourceVersion": "7"}}
    changes: list[tuple[str, str, dict[str, Any]]] = [
        ("ConfigMap", "ADDED", config_map("a", 1)),
        ("ConfigMap", "ADDED", config_map("b", 2)),
        ("ConfigMap", "MODIFIED", config_map("a", 3)),
        ("TrustPolicy", "ADDED", policy),
        ("ConfigMap", "DELETED", config_map("b", 2)),
        ("TrustPolicy", "DELETED", policy),
    ]
    for count, (kind, event, obj) in enumerate(changes, 1):
        store.apply_event(kind, event, obj)
        seen.add(store.state(KEY))
        assert len(seen) == count + 1
    store.apply_event("ConfigMap", "ADDED", config_map("c", 9, owner="other"))
    store.apply_event("ConfigMap", "ADDED", config_map("a", 3))
    assert store.state(KEY) in seen
    store.apply_event("ConfigMap", "DELETED", config_map("a", 3))
    store.apply_event("ConfigMap", "ADDED", config_map("a", 12, uid="again"))
    assert store.state(KEY) not in seen


def test_what_was_agreed_holds_for_one_version_only() -> None:
    store = make()
    store.apply_event("ConfigMap", "ADDED", config_map("a", 1))
    read = store.get("ConfigMap", "team", "a")
    assert read is not None
    store.agree(read, "d1")
    assert store.agrees("ConfigMap", "team", "a", "d1")
    assert not store.agrees("ConfigMap", "team", "a", "d2")
    assert not store.agrees("ConfigMap", "team", "b", "d1")
    store.apply_event("ConfigMap", "MODIFIED", config_map("a", 2))
    assert not store.agrees("ConfigMap", "team", "a", "d1")
    store.agree(read, "d1")  # It was read before the change.
    assert not store.agrees("ConfigMap", "team", "a", "d1")


def parent(version: int, **metadata: Any) -> dict[str, Any]:
    about = {"namespace": "team", "name": "iris", "uid": "u", "generation": 1}
    return {
        "kind": "ModelDeployment",
        "metadata": {**about, "resourceVersion": str(version), **metadata},
        "status": {"n": version},
    }


def test_only_the_status_that_we_wrote_is_an_echo() -> None:
    store = make()
    store.apply_event("ModelDeployment", "ADDED", parent(1))
    for version, written, changed, echo in [
        (2, 2, {}, True),
        (3, 2, {}, False),  # Somebody else's write.
        (5, 5, {"generation": 2}, False),  # Their change came together with our status.
        (7, 7, {"generation": 2, "annotations": {"sluice.dev/abort": "now"}}, False),
        (8, 8, {"generation": 2, "annotations": {"sluice.dev/abort": "now"}}, True),
    ]:
        store.wrote(parent(written, **changed))
        change = store.apply_event("ModelDeployment", "MODIFIED", parent(version, **changed))
        assert change is not None
        assert change.echo is echo, version
    store.apply_event("ConfigMap", "ADDED", config_map("a", 10))
    store.wrote(config_map("a", 11))
    change = store.apply_event("ConfigMap", "MODIFIED", config_map("a", 11))
    assert change is not None
    assert not change.echo
