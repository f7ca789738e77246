"""The keyed work queue: coalescing, one in flight per key, backoff, due times, two priorities.

``KeyedQueue`` is a plain data structure with an injected clock: every rule is in it and nothing
waits.  ``Workers`` runs it on asyncio.  Filled by the feed, drained by ``controller``.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from enum import IntEnum
from typing import Generic, Protocol, TypeVar

log = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)

_LOW_EVERY = 8
"""Of this many keys taken, one is of low priority when any waits: resyncs never starve."""


class Priority(IntEnum):
    """What a person or the cluster changed goes before what is only looked at again."""

    CHANGE = 0
    RESYNC = 1


class QueueMetrics(Protocol):
    """The workqueue's measurements, under the names that controller-runtime gave them."""

    def added(self) -> None: ...

    def depth(self, depth: int) -> None: ...

    def started(self, waited: float) -> None: ...

    def finished(self, worked: float) -> None: ...

    def retried(self) -> None: ...


class _NoMetrics:
    def added(self) -> None: ...

    def depth(self, depth: int) -> None: ...

    def started(self, waited: float) -> None: ...

    def finished(self, worked: float) -> None: ...

    def retried(self) -> None: ...


class KeyedQueue(Generic[K]):
    """A key is waiting at most once, is worked on at most once at a time, and is never lost.

    ``add`` during the work on a key makes it wait again after ``done``.  Taking a key clears its
    due time: whoever works on it says anew when to look again.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        base: float = 0.5,
        cap: float = 120.0,
        jitter: Callable[[], float] = random.random,
        metrics: QueueMetrics | None = None,
    ) -> None:
        self._clock = clock
        self._base, self._cap, self._jitter = base, cap, jitter
        self._metrics: QueueMetrics = metrics or _NoMetrics()
        self._ready: tuple[deque[K], deque[K]] = (deque(), deque())
        self._waiting: dict[K, tuple[Priority, float]] = {}
        self._in_flight: dict[K, float] = {}
        self._again: dict[K, Priority] = {}
        self._due: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._sequence = 0
        self._failures: dict[K, int] = {}
        self._taken = 0
        self.wake: Callable[[], None] = lambda: None

    # Filling

    def add(self, key: K, priority: Priority = Priority.CHANGE) -> None:
        """Wait for a worker; a key that already waits is not added twice, but may be promoted."""
        self._metrics.added()
        if key in self._in_flight:
            self._again[key] = min(priority, self._again.get(key, priority))
            return
        known = self._waiting.get(key)
        if known is None:
            self._waiting[key] = (priority, self._clock())
        elif priority < known[0]:
            self._waiting[key] = (priority, known[1])
        else:
            return
        self._ready[priority].append(key)
        self._metrics.depth(len(self._waiting))
        self.wake()

    def add_after(self, key: K, seconds: float) -> None:
        """Wait for a worker in ``seconds``; of several due times the earliest wins."""
        if seconds <= 0:
            self.add(key, Priority.RESYNC)
            return
        due = self._clock() + seconds
        if due >= self._due.get(key, float("inf")):
            return
        self._due[key] = due
        self._sequence += 1
        heapq.heappush(self._heap, (due, self._sequence, key))
        self.wake()

    def retry(self, key: K) -> float:
        """After a failure: wait for the key's own backoff.  Returns the seconds."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        delay = min(self._cap, self._base * 2.0 ** min(failures, 32))
        delay *= 0.75 + 0.5 * self._jitter()
        self._metrics.retried()
        self.add_after(key, delay)
        return delay

    def forget(self, key: K) -> None:
        """After a success: the next failure starts at the shortest backoff."""
        self._failures.pop(key, None)

    def failures(self, key: K) -> int:
        """How many failures in a row ``key`` has had."""
        return self._failures.get(key, 0)

    # Draining

    def take(self) -> K | None:
        """The next key to work on, or None when none is due.  Every taken key needs ``done``."""
        self._release_due()
        self._taken += 1
        order = (1, 0) if self._taken % _LOW_EVERY == 0 else (0, 1)
        for level in order:
            ready = self._ready[level]
            while ready:
                key = ready.popleft()
                known = self._waiting.get(key)
                if known is None or known[0] != level:
                    continue  # It was promoted, or taken under its other priority.
                return self._start(key, known[1])
        self._taken -= 1
        return None

    def _start(self, key: K, added: float) -> K:
        now = self._clock()
        del self._waiting[key]
        self._due.pop(key, None)
        self._in_flight[key] = now
        self._metrics.depth(len(self._waiting))
        self._metrics.started(now - added)
        return key

    def done(self, key: K) -> None:
        """The work on ``key`` ended, well or not."""
        started = self._in_flight.pop(key)
        self._metrics.finished(self._clock() - started)
        again = self._again.pop(key, None)
        if again is not None:
            self.add(key, again)

    def next_due(self) -> float | None:
        """Seconds until the earliest due time; 0 when a key waits; None when nothing ever will."""
        if self._waiting:
            return 0.0
        self._drop_stale()
        return max(0.0, self._heap[0][0] - self._clock()) if self._heap else None

    def _release_due(self) -> None:
        now = self._clock()
        self._drop_stale()
        while self._heap and self._heap[0][0] <= now:
            _, _, key = heapq.heappop(self._heap)
            del self._due[key]
            self.add(key, Priority.RESYNC)
            self._drop_stale()

    def _drop_stale(self) -> None:
        while self._heap and self._due.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def in_flight(self) -> int:
        """How many keys are being worked on."""
        return len(self._in_flight)

    def longest_running(self) -> float:
        """Seconds that the oldest work in flight has taken so far."""
        return max((self._clock() - s for s in self._in_flight.values()), default=0.0)

    def unfinished(self) -> float:
        """Seconds of work in flight, summed."""
        now = self._clock()
        return sum(now - s for s in self._in_flight.values())


Work = Callable[[K], Awaitable[float | None]]
"""Works on one key; returns the seconds after which to look again, or None."""


class Workers(Generic[K]):
    """Drains a queue with at most ``count`` keys at a time, while ``allowed`` says so.

    One dispatcher wakes up per addition or due time; a task lives only as long as its key.
    """

    def __init__(
        self,
        queue: KeyedQueue[K],
        work: Work[K],
        *,
        count: int = 16,
        allowed: Callable[[], bool] = lambda: True,
        on_error: Callable[[K, Exception, float], None] | None = None,
        on_result: Callable[[K, str], None] | None = None,
    ) -> None:
        self._queue = queue
        self._work = work
        self._count = count
        self._allowed = allowed
        self._on_error = on_error or _log_error
        self._on_result = on_result or (lambda key, result: None)
        self._dispatcher: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._signal = asyncio.Event()
        queue.wake = self._signal.set

    def start(self) -> None:
        """Starts taking keys; those that waited meanwhile are taken at once."""
        if self._dispatcher is None:
            self._dispatcher = asyncio.create_task(self._dispatch(), name="dispatcher")

    async def stop(self, grace: float = 0.0) -> None:
        """Takes no more keys; work in flight gets ``grace`` seconds, then it is cancelled."""
        if self._dispatcher is not None:
            self._dispatcher.cancel()
            await asyncio.wait([self._dispatcher])
            self._dispatcher = None
        tasks = set(self._tasks)
        if tasks and grace > 0:
            _, tasks = await asyncio.wait(tasks, timeout=grace)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _dispatch(self) -> None:
        while True:
            self._signal.clear()
            allowed = self._allowed()
            while allowed and len(self._tasks) < self._count:
                key = self._queue.take()
                if key is None:
                    break
                task = asyncio.create_task(self._handle(key), name=f"work on {key}")
                self._tasks.add(task)
                task.add_done_callback(self._ended)
            full = len(self._tasks) >= self._count
            due = None if full else self._queue.next_due() if allowed else 1.0
            try:
                async with asyncio.timeout(due):
                    await self._signal.wait()
            except TimeoutError:
                continue

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._signal.set()

    async def _handle(self, key: K) -> None:
        try:
            again = await self._work(key)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                self._queue.add(key)  # Not lost: the next leader, or the next start, takes it.
                raise
            self._failed(key, RuntimeError("a task that the work waited for was cancelled"))
        except Exception as error:
            self._failed(key, error)
        else:
            self._queue.forget(key)
            if again is not None:
                self._queue.add_after(key, again)
            self._on_result(key, "success" if again is None else "requeue_after")
        finally:
            self._queue.done(key)

    def _failed(self, key: K, error: Exception) -> None:
        delay = self._queue.retry(key)
        self._on_error(key, error, delay)
        self._on_result(key, "error")


def _log_error(key: object, error: Exception, delay: float) -> None:
    log.error("Work on %s failed; again in %.1f s: %s", key, delay, error, exc_info=error)
