"""Tick batching: requests parsed in one turn of the event loop are predicted together.

Called by the endpoints; calls the predictor.  There is no timer, so a lone request waits for
nothing.  A model whose warm-up took more than a millisecond runs on one worker thread: health stays
live, and the queue fills while it runs.  When a batch raises, its requests are tried one by one, so
a bad one fails alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from sluice.package.features import Columns
from sluice.package.scoring import Answer
from sluice.runtime.inputs import RowReader, Rows, too_large
from sluice.runtime.predictor import Predictor

MAX_BATCH_ROWS = 64
INLINE_ROWS = 256
"""A batch with more rows than this goes to the worker thread even when one row is quick."""

SLOW_INLINE = 0.01
"""Three batches in a row that take longer than this move the model off the loop."""


@dataclass(slots=True)
class Answered:
    """What one request got from the model."""

    answer: Answer
    columns: Columns
    non_finite: int
    """Rows whose scores may not be given out."""


Result = Answered | BaseException


@dataclass(slots=True, eq=False)
class Job:
    """One request's rows, and whom to tell.  ``cancelled`` when nobody waits any more."""

    rows: Rows
    done: Callable[[Result], None]
    cancelled: bool = False


class Batcher:
    """Collects jobs and runs them, at most one batch at a time."""

    def __init__(
        self,
        predictor: Predictor,
        reader: RowReader,
        *,
        off_loop: bool,
        max_batch_rows: int = MAX_BATCH_ROWS,
    ) -> None:
        self._predictor = predictor
        self._reader = reader
        self._off_loop = off_loop
        self._max_rows = max_batch_rows
        self._queue: list[Job] = []
        self._busy = False
        self._running = False
        self._running_since = 0.0
        self._slow_in_a_row = 0
        self._worker: ThreadPoolExecutor | None = None

    def submit(self, job: Job) -> None:
        """Queue a job; it runs at the end of this turn, or after the batch that is running."""
        self._queue.append(job)
        if not self._busy:
            self._busy = True
            asyncio.get_running_loop().call_soon(self._run)

    def cancel(self, job: Job) -> None:
        """Nobody waits for this job any more; when it has not begun, it never will."""
        job.cancelled = True
        if job in self._queue:
            self._queue.remove(job)

    def stuck_for(self) -> float:
        """Seconds that the batch on the worker thread has been running; 0 when there is none."""
        return time.monotonic() - self._running_since if self._running else 0.0

    def may_wait(self, rows: int) -> bool:
        """Whether a job of so many rows may run on the worker, where it can miss its deadline."""
        return self._off_loop or rows > INLINE_ROWS or self._running

    def close(self) -> None:
        """Let the worker thread end."""
        if self._worker is not None:
            self._worker.shutdown(wait=False, cancel_futures=True)

    def _run(self) -> None:
        jobs = self._take()
        if not jobs:
            self._busy = False
            return
        rows = sum(job.rows.count for job in jobs)
        if self._off_loop or rows > INLINE_ROWS:
            self._start_worker(jobs)
            return
        began = time.perf_counter()
        results = run_batch(self._predictor, self._reader, jobs)
        self._judge_speed(time.perf_counter() - began)
        self._deliver(jobs, results)

    def _judge_speed(self, seconds: float) -> None:
        """A model that turns out slow must not hold up health for ever."""
        self._slow_in_a_row = self._slow_in_a_row + 1 if seconds > SLOW_INLINE else 0
        if self._slow_in_a_row >= 3:
            self._off_loop = True

    def _take(self) -> list[Job]:
        """The next jobs, in order, up to the row limit; always at least one."""
        queue, taken, rows = self._queue, 0, 0
        for job in queue:
            if taken and rows + job.rows.count > self._max_rows:
                break
            taken += 1
            rows += 0 if job.cancelled else job.rows.count
        jobs = [job for job in queue[:taken] if not job.cancelled]
        del queue[:taken]
        return jobs if jobs or not queue else self._take()

    def _start_worker(self, jobs: list[Job]) -> None:
        if self._worker is None:
            self._worker = ThreadPoolExecutor(1, thread_name_prefix="predict")
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._worker, run_batch, self._predictor, self._reader, jobs)
        self._running, self._running_since = True, time.monotonic()
        future.add_done_callback(lambda done: self._finish(jobs, done.result()))

    def _finish(self, jobs: list[Job], results: Sequence[Result]) -> None:
        self._running = False
        self._deliver(jobs, results)

    def _deliver(self, jobs: list[Job], results: Sequence[Result]) -> None:
        if self._queue:
            asyncio.get_running_loop().call_soon(self._run)
        else:
            self._busy = False
        for job, result in zip(jobs, results, strict=True):
            job.done(result)


def run_batch(predictor: Predictor, reader: RowReader, jobs: Sequence[Job]) -> list[Result]:
    """Predict the rows of all jobs in one call; one by one when that raises."""
    columns: Columns = {}
    try:
        columns = reader.columns([job.rows for job in jobs])
        answer = predictor.predict(columns)
    except (Exception, SystemExit) as error:
        # Whatever a model raises is the model's failure, and is counted; it may not end the server.
        if len(jobs) == 1:
            return [too_large(columns) or error]
        return [run_batch(predictor, reader, [job])[0] for job in jobs]
    finite = answer.finite
    sound = bool(finite.all())
    if len(jobs) == 1:
        return [_checked(Answered(answer, columns, _count_false(finite, sound)))]
    results: list[Result] = []
    start = 0
    for job in jobs:
        part = slice(start, start + job.rows.count)
        start = part.stop
        own = Answered(
            Answer(
                answer.scores[part],
                None if answer.labels is None else answer.labels[part],
                None if answer.matrix is None else answer.matrix[part],
            ),
            {name: values[part] for name, values in columns.items()},
            _count_false(finite[part], sound),
        )
        results.append(_checked(own))
    return results


def _checked(answered: Answered) -> Result:
    """The sender's mistake, where a score is not finite because of what was sent."""
    return (too_large(answered.columns) if answered.non_finite else None) or answered


def _count_false(finite: np.ndarray[Any, Any], sound: bool) -> int:
    """How many are not finite; looked at only when the batch is not sound as a whole."""
    return 0 if sound else int(np.count_nonzero(~finite))
