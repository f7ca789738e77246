"""Experiments whose units a database counts, on a real PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import asyncpg
import pytest
from tests.tools.postgres import PostgresServer, postgres_server
from tests.unit.looks import plan_of
from tests.unit.test_controller_metrics_read import SUBJECT, Api, reading

from sluice.controller.experiments import counted_elsewhere
from sluice.controller.metrics_read import MetricReader
from sluice.rollout import judge_experiment as judging
from sluice.rollout.looking import Arms
from sluice.rollout.model import ExperimentProgress
from sluice.rollout.plan import Plan
from sluice.stats.look import ArmLook, Look

BEGAN = 1_800_000_000.0
WINDOW = 60.0
RATE = """
SELECT revision, count(*) AS n, count(*) FILTER (WHERE bought) AS events
FROM shoppers WHERE closed >= :start AND closed < :end GROUP BY revision
"""
MEAN = """
SELECT revision, count(*) AS n, sum(spent) AS sum, sum(spent * spent) AS sumsq
FROM shoppers WHERE closed >= :start AND closed < :end GROUP BY revision
"""


@pytest.fixture(scope="module")
def database() -> Iterator[PostgresServer]:
    """Shoppers whose windows closed a second apart, from a minute before the experiment on."""
    with postgres_server() as running:
        asyncio.run(_fill(running))
        yield running


async def _fill(server: PostgresServer) -> None:
    connection = await asyncpg.connect(server.url())
    await connection.execute(
        "CREATE TABLE shoppers (revision text, closed timestamptz, bought boolean, spent float8)"
    )
    await connection.execute(
        "INSERT INTO shoppers SELECT CASE n % 2 WHEN 0 THEN 'aaa' ELSE 'bbb' END, "
        "to_timestamp($1 + n / 10.0), n % 10 < (CASE n % 2 WHEN 0 THEN 5 ELSE 9 END), n % 7 "
        "FROM generate_series(-600, 5999) n",
        BEGAN,
    )
    await connection.close()


def plan(query: str = RATE, kind: str = "Conversion") -> Plan:
    return plan_of(
        traffic={"unit": {"header": "X-User-Id"}},
        experiment={
            "metric": "conversion",
            "kind": kind,
            "window": "60s",
            "sql": {"secretRef": {"key": "dwh"}, "query": query, "delay": "10s"},
        },
    )


def looks(database: PostgresServer, made: Plan, *ends: float) -> ExperimentProgress:
    """The experiment after looks at these seconds since it began."""
    assert made.experiment is not None
    running = ExperimentProgress(id="e", since=BEGAN, judge=judging.new_state(made.experiment))
    out = [running]

    async def use(reader: MetricReader) -> None:
        for number, end in enumerate(ends):
            look = Look(number, 10.0, 50, ArmLook(), ArmLook())
            arms = Arms("aaa", "bbb", 50, made)
            after = await counted_elsewhere(reader, SUBJECT, out[-1], arms, look, BEGAN + end)
            out.append(ExperimentProgress.model_validate_json(after.model_dump_json()))

    reading(Api({"dwh": database.url()}), use)
    return out[-1]


def test_windows_of_units_from_before_the_experiment_are_not_read(
    database: PostgresServer,
) -> None:
    running = looks(database, plan(), 30.0, 60.0, 69.0)
    assert running.judge["exposed"] == [0, 0]
    running = looks(database, plan(), 30.0, 60.0, 69.0, 80.0)
    assert running.judge["exposed"] == [50, 50]


def test_units_of_both_arms_are_compared_and_each_is_counted_once(
    database: PostgresServer,
) -> None:
    made = plan()
    running = looks(database, made, *range(0, 700, 70))
    assert made.experiment is not None
    found = judging.judge(made.experiment, running.judge)
    assert found.exposed == found.closed == (2700, 2700)
    assert (found.stable_value, found.candidate_value) == (0.6, 0.8)
    assert found.verdict == "Superior"
    assert found.log10_sample_ratio < 0


def test_means_come_with_their_squares(database: PostgresServer) -> None:
    made = plan(MEAN, "Mean")
    running = looks(database, made, *range(0, 700, 70))
    assert made.experiment is not None
    found = judging.judge(made.experiment, running.judge)
    assert found.closed == (2700, 2700)
    assert found.stable_value == pytest.approx(3.0, abs=0.1)
    assert found.verdict == "Inconclusive"


def test_a_query_of_the_wrong_kind_says_what_is_wanted(database: PostgresServer) -> None:
    running = looks(database, plan(RATE, "Mean"), 0.0, 100.0)
    assert running.message == "A Mean needs a query with the columns n, sum and sumsq."
    assert running.judge["exposed"] == [0, 0]


def test_a_database_that_is_away_is_said_and_nothing_is_lost(database: PostgresServer) -> None:
    made = plan()
    assert made.experiment is not None
    assert made.experiment.source is not None
    nowhere = replace(made.experiment.source, address_key="away")
    lost = replace(made, experiment=replace(made.experiment, source=nowhere))
    running = looks(database, lost, 0.0, 100.0)
    assert "has no key away" in running.message
    assert running.judge["exposed"] == [0, 0]


def test_counts_that_are_no_units_have_no_ratio_and_weaker_evidence() -> None:
    """From Prometheus: the same counts say less, and a skewed split says nothing."""
    asked = plan().experiment
    assert asked is not None
    assert asked.source is not None
    things = replace(asked, source=replace(asked.source, kind="Prometheus"))
    found: dict[str, Any] = {}
    for name, one in (("units", asked), ("things", things)):
        state = judging.absorb(
            one,
            judging.new_state(one),
            judging.ExperimentLook(
                0, 10.0, 50, (3000, 1000), judging.Pairs(3000, 600.0, 600.0, 0.0, 0.0, 0.0),
                judging.Pairs(1000, 240.0, 240.0, 0.0, 0.0, 0.0),
            ),
        )  # fmt: skip
        found[name] = judging.judge(one, state)
    assert found["units"].verdict == "Untrusted"
    assert found["things"].verdict != "Untrusted"
    assert found["things"].log10_evidence < found["units"].log10_evidence
