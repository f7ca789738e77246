"""A business metric in the loop, from a real Prometheus and a real PostgreSQL: both go away, come
back, and take a bad model back.

METRICS_AWAY_SECONDS says for how long they are away; the design's promise is 600.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.loop import CHECKS, Loop, Process, loop_in, rows
from tests.tools.postgres import PostgresServer, postgres_server

from sluice.local.cluster import LocalCluster

AWAY_SECONDS = float(os.environ.get("METRICS_AWAY_SECONDS", "20"))
FINE, BAD = 0.02, 0.5

pytestmark = [pytest.mark.cluster, pytest.mark.load, pytest.mark.timeout(300 + 2 * AWAY_SECONDS)]

SQL = """
SELECT revision, count(*) AS n, count(*) FILTER (WHERE refunded) AS events
FROM orders WHERE at >= :start AND at < :end AND revision IN (:stable, :candidate)
GROUP BY revision
"""


class Shop:
    """A shop in the cluster's network, told through a file what to do."""

    def __init__(self, loop: Loop, database: PostgresServer) -> None:
        self.directory, self.database = loop.directory, database
        self.wishes: dict[str, Any] = {"refunds": {}, "away": False}
        self.tell()
        socket = database.log.parent / f".s.PGSQL.{database.port}"
        relay = f"postgresql://sluice:{database.password}@/sluice?host={socket.parent}"
        argv = ["-m", "tests.tools.shop", str(loop.directory), str(socket)]
        output = loop.directory / "shop.log"
        loop.processes.append(
            Process(loop.cluster, [*argv, f"{relay}&port={database.port}"], output)
        )
        ports = loop.directory / "ports.json"
        loop.until(ports.exists, 30, "the shop opens")
        self.ports: dict[str, int] = json.loads(ports.read_text())

    def tell(self) -> None:
        """Writes the wishes whole."""
        fresh = self.directory / "shop.new"
        fresh.write_text(json.dumps(self.wishes))
        fresh.replace(self.directory / "shop.json")

    def sell(self, revision: str, refunds: float = FINE) -> None:
        """Sells by this revision, too, from now on."""
        self.wishes["refunds"][revision] = refunds
        self.tell()

    def go_away(self, *, away: bool) -> None:
        """Prometheus hangs and the database refuses, or no longer."""
        self.wishes["away"] = away
        self.tell()

    @property
    def checks(self) -> list[dict[str, Any]]:
        """One check of each source."""
        series = '{revision="{{revision}}"}[{{interval}}]'
        counted = {
            "url": f"http://127.0.0.1:{self.ports['prometheus']}",
            "events": f"sum(increase(refunds_total{series}))",
            "total": f"sum(increase(orders_total{series}))",
        }
        rows_of = {"secretRef": {"key": "dwh"}, "query": SQL, "delay": "1s"}
        lower = {"type": "Metric", "direction": "Lower"}
        return [
            *CHECKS,
            {"name": "refunds", **lower, "prometheus": counted},
            {"name": "returns", **lower, "sql": rows_of},
        ]

    @property
    def secret(self) -> dict[str, Any]:
        """What the operator may read."""
        port, password = self.ports["database"], self.database.password
        url = f"postgresql://sluice:{password}@127.0.0.1:{port}/sluice?sslmode=disable"
        meta = {"name": "sluice-metrics"}
        return {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "stringData": {"dwh": url}}


@pytest.fixture
def loop(cluster: LocalCluster, namespace: str, kubectl: Callable[..., str]) -> Iterator[Loop]:
    with loop_in(cluster, namespace, kubectl) as made:
        yield made


@pytest.fixture(scope="module")
def database() -> Iterator[PostgresServer]:
    with postgres_server() as running:
        yield running


def check(loop: Loop, name: str) -> dict[str, Any]:
    found = (c for c in loop.status().get("checks", []) if c["name"] == name)
    return next(found, {})


def counted(loop: Loop, name: str) -> bool:
    return int(check(loop, name).get("candidate", {}).get("count", 0)) >= 100


def unhealthy(loop: Loop) -> str:
    """What AnalysisHealthy says when it is False."""
    condition = loop.condition("AnalysisHealthy")
    return str(condition["message"]) if condition.get("status") == "False" else ""


def test_sources_go_away_and_come_back_and_a_bad_model_is_taken_back(
    loop: Loop, database: PostgresServer
) -> None:
    shop = Shop(loop, database)
    steps = [{"weight": 50, "minRequests": 50, "minDuration": "30s"}]
    blocks = {
        "analysis": {"interval": "1s", "checks": shop.checks},
        "rollout": {"steps": steps, "watch": {"duration": "2s", "holdback": 10, "minRequests": 20}},
    }
    v1, v2, v3 = (loop.package(name, bias=0.1 * i) for i, name in enumerate(("v1", "v2", "v3")))
    loop.put(shop.secret)
    loop.start()
    loop.apply(v1, **blocks)
    loop.until(lambda: loop.serves("v1"), 60, "v1 serves")
    shop.sell(loop.revision("v1"))
    users = loop.users(rows(), rate=100)

    loop.apply(v2, **blocks)
    loop.until(lambda: loop.revision("v2"), 60, "v2 is resolved")
    shop.sell(loop.revision("v2"))
    for name in ("refunds", "returns"):
        loop.until(lambda name=name: counted(loop, name), 60, f"{name} is counted")  # type: ignore[misc]
    _frozen_while_away(loop, shop)
    loop.until(lambda: loop.serves("v2"), 120, "v2 is promoted")
    assert "lastRollback" not in loop.status()

    loop.apply(v3, **blocks)
    bad = loop.until(lambda: loop.revision("v3"), 60, "v3 is resolved")
    loop.until(lambda: users.got(bad) > 0, 60, "v3 answers users")
    shop.sell(bad, BAD)
    loop.until(
        lambda: loop.condition("Stalled").get("reason") == "RevisionQuarantined", 60, "taken back"
    )
    last = loop.status()["lastRollback"]
    assert (last["from"], last["to"]) == (bad, loop.revision("v2"))
    assert last["check"] in ("refunds", "returns")
    assert f"{last['check']} " in last["reason"] and "counted" in last["reason"]
    assert database.password not in (Path(loop.directory) / "operator.log").read_text()


def _frozen_while_away(loop: Loop, shop: Shop) -> None:
    """Nothing is aborted and nothing promoted, however long; the condition says why."""
    shop.go_away(away=True)
    loop.until(lambda: unhealthy(loop), 20, "AnalysisHealthy is False")

    def frozen() -> bool:
        status = loop.status()
        weight = status.get("candidate", {}).get("weight", {}).get("desired")
        return weight == 50 and loop.phase() == "Stepping" and "lastRollback" not in status

    loop.stays(frozen, AWAY_SECONDS, "the weight is frozen")
    loop.until(lambda: _names_both(unhealthy(loop)), 20, "both sources are named")
    assert loop.condition("AnalysisHealthy")["reason"] == "MetricUnreadable"
    assert "read again" in loop.status()["step"]["summary"]
    shop.go_away(away=False)
    loop.until(lambda: loop.is_true("AnalysisHealthy"), 60, "AnalysisHealthy is True again")


def _names_both(said: str) -> bool:
    """Both in one sentence: they are judged in the same look."""
    hangs = "refunds: " in said and "did not answer within" in said
    return hangs and "returns: PostgreSQL 127.0.0.1" in said
