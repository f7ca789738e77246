"""The operator's process without a cluster: settings, probes, metrics, what gets imported."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from click.testing import CliRunner

from sluice.api.meta import GROUP, VERSION
from sluice.controller.engine import Context, Engine
from sluice.controller.health import Finding, Health, Server, metrics_application
from sluice.controller.metrics import Metrics, QueueMeter
from sluice.controller.settings import Settings
from sluice.controller.shell import kopf_settings
from sluice.errors import InvalidInputError, SluiceError
from sluice.kube.client import KubeClient
from sluice.kube.connection import Connection
from sluice.kube.queue import KeyedQueue
from sluice.kube.store import Key

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"metrics_port": 70000}, "not a port"),
        ({"metrics_port": 9000, "health_port": 9000}, "cannot share port 9000"),
        ({"workers": 0}, "At least one worker"),
    ],
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInputError, match=said) as refused:
        Settings(**wrong)
    assert refused.value.hint


def test_scopes_and_classes() -> None:
    assert Settings().scopes() == (None,)
    assert Settings(namespaces=("a", "b", "a")).scopes() == ("a", "b")
    assert Settings().deployment_selector() == "!sluice.dev/operator-class"
    assert Settings(operator_class="x").deployment_selector() == "sluice.dev/operator-class=x"


def test_kopf_writes_nothing_and_never_gives_up_on_a_connection() -> None:
    configured = kopf_settings(Settings())
    assert configured.peering.standalone
    assert not configured.posting.enabled
    backoffs = iter(configured.networking.error_backoffs)  # type: ignore[arg-type]
    waits = [next(backoffs) for _ in range(200)]
    assert max(waits) < 25
    assert configured.persistence.diffbase_storage.fetch(body={}) is None  # type: ignore[arg-type]


def test_the_command_explains_itself_without_loading_the_operator() -> None:
    from sluice.cli.operator import command

    shown = CliRunner().invoke(command, ["--help"])
    assert shown.exit_code == 0
    for flag in (
        "--namespace",
        "--runtime-image",
        "--router-image",
        "--operator-class",
        "--metrics-port",
        "--health-port",
        "--lease-name",
        "--lease-namespace",
        "--no-lease",
        "--dns-nameserver",
        "--log-format",
        "--verbose",
    ):
        assert flag in shown.output


def test_the_operator_imports_no_model_library_and_no_heavy_client() -> None:
    """In a process of its own: everything that ``sluice operator`` imports before it runs."""
    code = (
        "import sys, json; import sluice.controller.reconcile, sluice.controller.shell; "
        "names = [m.split('.') for m in sys.modules]; "
        "print(json.dumps(sorted({'.'.join(n[:depth]) for n in names for depth in (1, 2)})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(ROOT / "operator"), "PATH": ""},
    )
    loaded = set(json.loads(done.stdout))
    models = {"sklearn", "joblib", "onnx", "onnxruntime", "skl2onnx", "pandas", "pyarrow", "torch"}
    assert not loaded & models
    assert not loaded & {"kubernetes", "kubernetes_asyncio", "pykube", "uvloop"}
    # 50 MB and 0.4 s; scipy.special has what the statistics need.
    assert not loaded & {"scipy.stats", "scipy.optimize", "scipy.linalg", "scipy.sparse"}
    assert "kopf" in loaded


def test_metrics_are_prometheus_text_with_the_known_names() -> None:
    metrics = Metrics()
    meter = QueueMeter(metrics)
    queue: KeyedQueue[str] = KeyedQueue(metrics=meter)
    queue.add("a")
    queue.take()
    queue.done("a")
    queue.retry("a")
    metrics.observe_request("GET", "Pod", 200)
    metrics.weight_observed.set(5, "team", "iris", 'odd"rev\n', "candidate")
    metrics.rollback_reaction.observe(3.0)
    text = metrics.render()
    for line in (
        'workqueue_adds_total{name="modeldeployment"} 1',
        'workqueue_depth{name="modeldeployment"} 0',
        'workqueue_retries_total{name="modeldeployment"} 1',
        'workqueue_work_duration_seconds_count{name="modeldeployment"} 1',
        'controller_runtime_reconcile_time_seconds_count{controller="modeldeployment"} 1',
        'rest_client_requests_total{code="200",method="GET",kind="Pod"} 1',
        'sluice_rollback_reaction_seconds_bucket{le="2"} 0',
        'sluice_rollback_reaction_seconds_bucket{le="5"} 1',
        'sluice_rollback_reaction_seconds_bucket{le="+Inf"} 1',
        "sluice_rollback_reaction_seconds_sum 3",
    ):
        assert line in text.splitlines(), line
    assert 'revision="odd\\"rev\\n"' in text
    names = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(names) == len(set(names))
    assert "process_resident_memory_bytes" in names


def test_the_text_is_what_prometheus_own_parser_reads() -> None:
    from prometheus_client.parser import text_string_to_metric_families

    metrics = Metrics()
    metrics.check_value.set(0.25, "team", "iris", "abc", "errors")
    metrics.decision_lag.observe(0.5)
    families = {f.name: f for f in text_string_to_metric_families(metrics.render())}
    sample = families["sluice_check_value"].samples[0]
    assert sample.labels == {
        "namespace": "team",
        "name": "iris",
        "revision": "abc",
        "check": "errors",
    }
    assert sample.value == 0.25
    assert families["sluice_decision_lag_seconds"].type == "histogram"


def test_a_deleted_deployments_series_go() -> None:
    metrics = Metrics()
    metrics.check_value.set(1, "team", "iris", "abc", "errors")
    metrics.check_value.set(1, "team", "other", "abc", "errors")
    metrics.forget("team", "iris")
    assert list(metrics.check_value.values) == [("team", "other", "abc", "errors")]


def test_probes_answer_with_their_findings() -> None:
    async def scenario() -> None:
        metrics = Metrics()
        health = Health(metrics)
        server = Server(health.application(), "127.0.0.1", 0)
        scrapes = Server(
            metrics_application(metrics, lambda: metrics.leader.set(1, "x")), "127.0.0.1", 0
        )
        await server.start()
        await scrapes.start()
        async with aiohttp.ClientSession() as session:

            async def ask(path: str, port: int = server.port) -> tuple[int, str]:
                async with session.get(f"http://127.0.0.1:{port}{path}") as answer:
                    return answer.status, await answer.text()

            assert await ask("/readyz") == (503, "[-] shell: starting\n")
            assert (await ask("/livez"))[0] == 200
            health.ready = lambda: [Finding("feed of Pod", True)]
            assert await ask("/readyz") == (200, "[+] feed of Pod\n")
            health.alive = lambda: [Finding("feed of Pod", False, "stuck")]
            assert (await ask("/livez"))[0] == 503
            status, text = await ask("/metrics", scrapes.port)
            assert status == 200
            assert 'leader_election_master_status{name="x"} 1' in text
        await server.stop()
        await scrapes.stop()

    asyncio.run(scenario())


def test_a_late_loop_is_not_alive() -> None:
    health = Health(Metrics(), _beat_at=time.monotonic() - 60)
    assert [f.ok for f in health.live_findings()] == [False]


class Recording:
    """Fails as told, then succeeds."""

    def __init__(self, failures: list[Exception]) -> None:
        self.keys: list[Key] = []
        self._failures = failures

    async def reconcile(self, key: Key) -> float | None:
        self.keys.append(key)
        if self._failures:
            raise self._failures.pop(0)
        return None

    async def close(self) -> None:
        """Nothing is kept open."""


def parent(name: str, version: int = 1) -> dict[str, Any]:
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "ModelDeployment",
        "metadata": {
            "name": name,
            "namespace": "team",
            "uid": f"uid-{name}",
            "resourceVersion": str(version),
        },
        "spec": {},
    }


def engine_with(reconciler: Recording, **options: Any) -> Engine:
    client = KubeClient(Connection("http://127.0.0.1:9", True, None, "default"))
    seen: list[Context] = []

    def factory(context: Context) -> Recording:
        seen.append(context)
        return reconciler

    engine = Engine(Settings(**options), factory, client, Metrics())
    assert seen == [engine.context]
    return engine


def test_events_become_keys_of_the_parent_they_belong_to() -> None:
    async def scenario() -> None:
        engine = engine_with(Recording([]))
        engine.feed_parent("ADDED", parent("iris"))
        assert engine.queue.take() == ("team", "iris")
        engine.queue.done(("team", "iris"))
        engine.feed_parent("MODIFIED", parent("iris"))
        assert engine.queue.take() is None, "an event without news is no work"
        policy = {
            "kind": "TrustPolicy",
            "metadata": {"name": "p", "uid": "p", "resourceVersion": "5"},
            "spec": {"namespaces": ["team"]},
        }
        change = engine.store.apply_event("TrustPolicy", "ADDED", policy)
        assert change is not None
        engine._changed([change], policy)
        assert engine.queue.take() == ("team", "iris")
        engine.queue.done(("team", "iris"))
        gone = engine.store.apply_event("TrustPolicy", "DELETED", policy)
        assert gone is not None
        engine._changed([gone], policy)
        assert engine.queue.take() == ("team", "iris"), "a policy that goes matters, too"

    asyncio.run(scenario())


def test_children_of_another_installs_parents_are_no_work() -> None:
    async def scenario() -> None:
        engine = engine_with(Recording([]), operator_class="blue")
        child = parent("x")
        child["kind"] = "ConfigMap"
        child["metadata"]["labels"] = {"sluice.dev/deployment": "green"}
        change = engine.store.apply_event("ConfigMap", "ADDED", child)
        assert change is not None
        engine._changed([change], child)
        assert engine.queue.take() is None

    asyncio.run(scenario())


def test_a_key_is_not_reconciled_before_the_cache_shows_its_own_writes() -> None:
    async def scenario() -> None:
        reconciler = Recording([])
        engine = engine_with(reconciler)
        engine.feed_parent("ADDED", parent("iris"))
        engine.store.wrote(parent("iris", 7))
        assert await engine._work(("team", "iris")) == 1.0
        assert reconciler.keys == []
        engine.feed_parent("MODIFIED", parent("iris", 7))
        again = await engine._work(("team", "iris"))
        assert reconciler.keys == [("team", "iris")]
        assert again is not None
        assert 700 < again < 1100, "looked at again now and then, even when nothing asks for it"

    asyncio.run(scenario())


def test_what_a_person_can_act_on_is_one_line_and_the_rest_has_a_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario() -> None:
        engine = engine_with(Recording([]))
        engine._failed(("team", "iris"), SluiceError("It is broken.", hint="Mend it."), 1.0)
        engine._failed(("team", "iris"), ValueError("surprise"), 1.0)

    asyncio.run(scenario())
    known, unknown = caplog.records
    assert known.getMessage() == "team/iris: It is broken. Mend it. Again in 1.0 s."
    assert known.exc_info is None
    assert unknown.exc_info is not None
