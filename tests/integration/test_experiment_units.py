"""The units of an experiment outlive the operator: a real API server, a real model server."""

from __future__ import annotations

import asyncio
import base64
import socket
import sys
import time
import uuid
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.integration.kube_api_server import ApiServer

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))

import runtime_support as support
from runtime_support import Server, serving

from sluice.api.modeldeployment import ModelDeploymentSpec
from sluice.controller import experiments as experiments_module
from sluice.controller.ensure import NameConflictError
from sluice.controller.experiments import Experiments, Units, UnitsLog
from sluice.evidence.counters import ServingPod
from sluice.evidence.units_store import Exposure, UnitStore
from sluice.kube.client import KubeClient
from sluice.objects.common import Owner
from sluice.objects.units import PART_BYTES, units_map
from sluice.rollout import judge_experiment as judging
from sluice.rollout.looking import Arms
from sluice.rollout.model import ExperimentProgress
from sluice.rollout.plan import ExperimentPlan, Plan, analysis_plan
from sluice.stats.look import ArmLook, Look

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def pods(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Server]]:
    """A server of each arm."""
    built = support.build_iris(tmp_path_factory.mktemp("iris"))
    with (
        serving(built.path, "--revision", "old") as old,
        serving(built.path, "--revision", "new") as new,
    ):
        for one in (old, new):
            one.row = built.rows[0]  # type: ignore[attr-defined]
        yield old, new


def plan() -> Plan:
    spec: dict[str, Any] = {
        "model": {"uri": "s3://models/a"},
        "traffic": {"unit": {"header": "X-User-Id"}},
        "experiment": {
            "metric": "conversion",
            "kind": "Conversion",
            "window": "1s",
            "feedback": {"secretRef": {"name": "f"}},
        },
    }
    return analysis_plan(ModelDeploymentSpec.model_validate(spec))


class Bench:
    """One ModelDeployment's experiment with what a look needs; ``looks`` counts them."""

    def __init__(self, client: KubeClient, namespace: str, pods: tuple[Server, Server]) -> None:
        self.client = client
        self.owner = Owner("iris", namespace, str(uuid.uuid4()))
        self.pods, self.plan = pods, plan()
        self.id = uuid.uuid4().hex[:10]
        self.looks = 0

    @property
    def asked(self) -> ExperimentPlan:
        assert self.plan.experiment is not None
        return self.plan.experiment

    def begun(self) -> ExperimentProgress:
        now = time.time() - 5.0
        state = judging.new_state(self.asked)
        return ExperimentProgress(id=self.id, since=now, known=now, closed=now, judge=state)

    def ask(self, arm: int, *units: int) -> None:
        server = self.pods[arm]
        for unit in units:
            row = server.row  # type: ignore[attr-defined]
            assert server.post("/predict", row, X_Sluice_Unit=f"{self.id}:{unit}")[0] == 200

    def buy(self, arm: int, *units: int) -> None:
        for unit in units:
            header = f"{self.id}:{unit}"
            assert self.pods[arm].post("/feedback", {"value": 1}, X_Sluice_Unit=header)[0] == 202

    async def look(
        self, experiments: Experiments, running: ExperimentProgress, later: float = 5.0
    ) -> tuple[ExperimentProgress, UnitsLog | None]:
        self.looks += 1
        serving_pods = [
            ServingPod(f"uid-{name}", name, name, "127.0.0.1", server.admin_port)
            for name, server in zip(("old", "new"), self.pods, strict=True)
        ]
        async with aiohttp.ClientSession() as session:
            return await experiments.look(
                session, self.owner, running, Arms("old", "new", 50, self.plan), serving_pods,
                Look(self.looks, 1.0, 50, ArmLook(), ArmLook()), time.time() + later,
            )  # fmt: skip

    async def committed(
        self, experiments: Experiments, running: ExperimentProgress, later: float = 5.0
    ) -> ExperimentProgress:
        after, log = await self.look(experiments, running, later)
        if log is not None:
            await experiments.write(self.owner, log)
        return ExperimentProgress.model_validate_json(after.model_dump_json(by_alias=True))

    async def part(self, number: int = 0) -> dict[str, Any] | None:
        return await self.client.find("ConfigMap", self.owner.namespace, f"iris-exp-{number}")


def bench(
    server: ApiServer,
    pods: tuple[Server, Server],
    body: Callable[[Bench], Coroutine[Any, Any, None]],
) -> None:
    namespace = server.namespace(f"t-{uuid.uuid4().hex[:8]}")

    async def run() -> None:
        async with KubeClient.connect(server.kubeconfig()) as client:
            await body(Bench(client, namespace, pods))

    asyncio.run(run())


def test_a_new_process_reads_what_the_old_one_knew(server: ApiServer, pods: Any) -> None:
    async def body(b: Bench) -> None:
        # Each buys right after it asked: a purchase counts for a second.
        for unit in range(60):
            b.ask(0, unit)
            b.buy(0, *[unit][: unit < 10])
            b.ask(1, 100 + unit)
            b.buy(1, *[100 + unit][: unit < 30])
        first = await b.committed(Experiments(b.client), b.begun(), later=2.5)
        assert first.judge["exposed"] == [60, 60]
        assert first.judge["arms"] == [[60, 10.0, 0.0], [60, 30.0, 0.0]]

        await asyncio.sleep(2.0)  # What comes now comes after what was known then.
        b.ask(1, *range(200, 260), 100)
        b.ask(0, 200)
        again = await b.committed(Experiments(b.client), first)
        assert again.judge["exposed"] == [60, 120]
        assert again.judge["crossed"] == 1
        assert again.judge["arms"][1][:2] == [119, 30.0]
        assert again.open_units == 0
        found = await b.part()
        assert found is not None
        assert len(base64.b64decode(found["binaryData"]["units"])) == again.log_bytes

    bench(server, pods, body)


def test_a_look_that_was_not_committed_is_taken_again_and_counts_once(
    server: ApiServer, pods: Any
) -> None:
    async def body(b: Bench) -> None:
        experiments = Experiments(b.client)
        first = await b.committed(experiments, b.begun(), later=0.0)
        b.ask(0, *range(50))
        _, log = await b.look(experiments, first)
        assert log is not None
        await experiments.write(b.owner, log)  # ... and killed before the commit.
        b.ask(1, *range(100, 150))
        for process in (experiments, Experiments(b.client)):
            after = await b.committed(process, first)
            assert after.judge["exposed"] == [50, 50]
        last = await b.committed(Experiments(b.client), after)
        assert last.judge["exposed"] == [50, 50]
        assert last.log_bytes == after.log_bytes

    bench(server, pods, body)


@pytest.mark.parametrize("how", ["gone", "changed", "of another experiment", "not base64"])
def test_a_damaged_log_is_said_and_nothing_is_made_up(
    server: ApiServer, pods: Any, how: str
) -> None:
    async def body(b: Bench) -> None:
        b.ask(0, *range(50))
        running = await b.committed(Experiments(b.client), b.begun())
        namespace, name = b.owner.namespace, "iris-exp-0"
        if how == "gone":
            await b.client.delete("ConfigMap", namespace, name)
        else:
            patch: dict[str, Any] = {
                "binaryData": {"units": base64.b64encode(b"\0" * 650).decode()}
            }
            if how == "of another experiment":
                patch = {"metadata": {"annotations": {"sluice.dev/experiment": "other"}}}
            if how == "not base64":
                patch = {"binaryData": None, "data": {"units": "!"}}
            await b.client.patch_merge("ConfigMap", namespace, name, patch)
        after, log = await b.look(Experiments(b.client), running)
        assert log is None
        assert "The experiment begins again" in after.damaged
        assert after.judge == running.judge

    bench(server, pods, body)


def test_somebody_elses_object_is_left_alone(server: ApiServer, pods: Any) -> None:
    async def body(b: Bench) -> None:
        other = Owner("iris", b.owner.namespace, str(uuid.uuid4()))
        await b.client.create(units_map(other, 0, b.id, b"theirs"))
        b.ask(0, *range(50))
        experiments = Experiments(b.client)
        _, log = await b.look(experiments, b.begun())
        assert log is not None
        with pytest.raises(NameConflictError, match="iris-exp-0"):
            await experiments.write(b.owner, log)
        await experiments.remove(b.owner, 1)
        found = await b.part()
        assert found is not None
        assert base64.b64decode(found["binaryData"]["units"]) == b"theirs"

    bench(server, pods, body)


def test_a_long_log_is_in_parts_and_full_ones_never_change(server: ApiServer, pods: Any) -> None:
    async def body(b: Bench) -> None:
        experiments, running = Experiments(b.client), b.begun()
        store = UnitStore("Conversion", since=running.since, window=1.0)
        units = Units(b.id, store)
        for start in range(0, 60_000, 15_000):
            first, tail = units.log_bytes // PART_BYTES, units.tail
            rows = [Exposure(n, n % 2, running.since + 1) for n in range(start, start + 15_000)]
            more = store.add(rows, [])
            units.append(more)
            await experiments.write(b.owner, UnitsLog(units, first, tail + more))
        found = [await b.part(number) for number in range(4)]
        assert [part is not None for part in found] == [True, True, True, False]
        assert [part.get("immutable", False) for part in found[:3] if part] == [True, True, False]
        kept = replace_log(running, units)
        after, _ = await b.look(Experiments(b.client), kept)
        assert after.damaged == ""
        assert after.judge["exposed"] == [30_000, 30_000]
        await experiments.remove(b.owner, 3)
        assert [await b.part(number) for number in range(3)] == [None, None, None]

    bench(server, pods, body)


def replace_log(running: ExperimentProgress, units: Units) -> ExperimentProgress:
    """As committed after ``units`` were written."""
    return running.model_copy(update={"log_bytes": units.log_bytes, "log_crc": units.log_crc})


@pytest.mark.parametrize("how", ["refuses", "hangs"])
def test_an_api_server_that_is_away_stops_nothing_but_the_look(
    server: ApiServer, pods: Any, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiments_module, "READ_SECONDS", 1.0)

    async def body(b: Bench) -> None:
        b.ask(0, *range(50))
        running = await b.committed(Experiments(b.client), b.begun())
        with socket.create_server(("127.0.0.1", 0)) as silent:
            port = 1 if how == "refuses" else silent.getsockname()[1]
            nowhere = server.kubeconfig(url=f"https://127.0.0.1:{port}")
            async with KubeClient.connect(nowhere) as client:
                after, log = await b.look(Experiments(client), running)
        assert log is None
        assert "cannot be read" in after.message
        assert after.damaged == ""
        assert after.judge == running.judge

    bench(server, pods, body)
