"""Requests of one turn are predicted together, off the loop when slow, and fail one by one."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from sluice.package.manifest import FileEntry, Input, Manifest, ModelFile, Output
from sluice.runtime.batching import INLINE_ROWS, Answered, Batcher, Job, Result
from sluice.runtime.inputs import RowReader, Rows
from sluice.runtime.predictor import Predictor

MANIFEST = Manifest(
    name="double",
    task="regression",
    model=ModelFile(file="m", format="onnx", trust_class="Data"),
    inputs=(Input(name="x", type="float"),),
    output=Output(),
    files=(FileEntry(path="m", sha256="0" * 64, size=0),),
)


class Doubler:
    """Twice x; refuses 13; remembers how it was called."""

    def __init__(self, delay: float = 0.0) -> None:
        self.delay = delay
        self.batches: list[int] = []
        self.threads: set[int] = set()

    def raw(self, columns: dict[str, np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
        x = columns["x"]
        self.batches.append(len(x))
        self.threads.add(threading.get_ident())
        time.sleep(self.delay)
        if (x == 13).any():
            raise ValueError("thirteen")
        return 2 * x


Results = list["asyncio.Future[Result]"]


def run(scenario: Callable[[Batcher, Results], Any], doubler: Doubler, **options: Any) -> Any:
    reader = RowReader(MANIFEST.inputs)

    async def main() -> list[Result]:
        batcher = Batcher(Predictor(MANIFEST, doubler, "test"), reader, **options)
        results: Results = []
        await scenario(batcher, results)
        async with asyncio.timeout(10):
            answers = [await result for result in results]
        batcher.close()
        return answers

    return asyncio.run(main())


def submit(batcher: Batcher, results: Results, *values: float) -> Job:
    future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
    results.append(future)
    job = Job(Rows(len(values), tuples=[(value,) for value in values]), future.set_result)
    batcher.submit(job)
    return job


def scores(result: Result) -> list[float]:
    assert isinstance(result, Answered)
    return list(result.answer.scores)


async def three(batcher: Batcher, results: Results) -> None:
    submit(batcher, results, 1)
    submit(batcher, results, 2, 3)
    submit(batcher, results, 4)


def test_one_turn_is_one_call_and_everyone_gets_their_own_rows() -> None:
    doubler = Doubler()
    results = run(three, doubler, off_loop=False)
    assert [scores(r) for r in results] == [[2], [4, 6], [8]]
    assert doubler.batches == [4]
    assert doubler.threads == {threading.get_ident()}
    assert [r.columns["x"].tolist() for r in results] == [[1], [2, 3], [4]]


def test_a_slow_model_runs_on_one_other_thread() -> None:
    doubler = Doubler()
    results = run(three, doubler, off_loop=True)
    assert [scores(r) for r in results] == [[2], [4, 6], [8]]
    assert len(doubler.threads) == 1
    assert doubler.threads != {threading.get_ident()}


def test_a_bad_request_fails_alone() -> None:
    async def scenario(batcher: Batcher, results: Results) -> None:
        for value in (1, 13, 2):
            submit(batcher, results, value)

    for off_loop in (False, True):
        results = run(scenario, Doubler(), off_loop=off_loop)
        assert scores(results[0]) == [2]
        assert isinstance(results[1], ValueError)
        assert scores(results[2]) == [4]


def test_batches_are_bounded_in_rows_and_keep_order() -> None:
    async def scenario(batcher: Batcher, results: Results) -> None:
        for value in range(10):
            submit(batcher, results, value, value)

    doubler = Doubler()
    results = run(scenario, doubler, off_loop=False, max_batch_rows=6)
    assert [scores(r)[0] for r in results] == [2 * v for v in range(10)]
    assert doubler.batches == [6, 6, 6, 2]


def test_many_rows_go_off_the_loop_even_when_a_row_is_quick() -> None:
    async def scenario(batcher: Batcher, results: Results) -> None:
        submit(batcher, results, *range(INLINE_ROWS + 1))

    doubler = Doubler()
    run(scenario, doubler, off_loop=False)
    assert doubler.threads != {threading.get_ident()}


def test_a_cancelled_job_is_not_predicted() -> None:
    async def scenario(batcher: Batcher, results: Results) -> None:
        submit(batcher, results, 1).cancelled = True
        submit(batcher, results, 2)
        results[0].set_result(ValueError("nobody waits"))

    doubler = Doubler()
    results = run(scenario, doubler, off_loop=False)
    assert scores(results[1]) == [4]
    assert doubler.batches == [1]


def test_a_model_that_turns_out_slow_leaves_the_loop() -> None:
    async def scenario(batcher: Batcher, results: Results) -> None:
        for value in range(5):
            submit(batcher, results, value)
            await results[-1]

    doubler = Doubler(delay=0.02)
    run(scenario, doubler, off_loop=False)
    assert len(doubler.threads) == 2
