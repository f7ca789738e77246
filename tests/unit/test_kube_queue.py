"""The keyed queue: its rules one by one, then all of them against random use."""

from __future__ import annotations

import asyncio
import time

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sluice.kube.queue import KeyedQueue, Priority, Workers


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def make(clock: Clock | None = None) -> tuple[KeyedQueue[str], Clock]:
    clock = clock or Clock()
    return KeyedQueue(clock=clock, jitter=lambda: 0.5), clock


def test_many_additions_of_a_key_are_one_piece_of_work() -> None:
    queue, _ = make()
    for _ in range(5):
        queue.add("a")
    assert queue.take() == "a"
    assert queue.take() is None


def test_a_key_is_worked_on_once_at_a_time_and_again_when_it_was_added_meanwhile() -> None:
    queue, _ = make()
    queue.add("a")
    assert queue.take() == "a"
    queue.add("a")
    assert queue.take() is None
    queue.done("a")
    assert queue.take() == "a"
    queue.done("a")
    assert queue.take() is None


def test_changes_go_before_resyncs_but_never_starve_them() -> None:
    queue, _ = make()
    queue.add("resync", Priority.RESYNC)
    for n in range(20):
        queue.add(f"change-{n}")
    order = [queue.take() for _ in range(21)]
    assert order[0] == "change-0"
    assert "resync" in order[:8]


def test_a_waiting_resync_is_promoted_by_a_change() -> None:
    queue, _ = make()
    queue.add("first", Priority.RESYNC)
    queue.add("second", Priority.RESYNC)
    queue.add("second")
    assert [queue.take(), queue.take(), queue.take()] == ["second", "first", None]


def test_of_several_due_times_the_earliest_wins() -> None:
    queue, clock = make()
    queue.add_after("a", 30)
    queue.add_after("a", 10)
    queue.add_after("a", 20)
    assert queue.next_due() == 10
    clock.now += 10
    assert queue.take() == "a"
    queue.done("a")
    clock.now += 100
    assert queue.take() is None
    assert queue.next_due() is None


def test_work_on_a_key_clears_its_due_time() -> None:
    queue, clock = make()
    queue.add_after("a", 10)
    queue.add("a")
    assert queue.take() == "a"
    queue.add_after("a", 50)
    queue.done("a")
    clock.now += 10
    assert queue.take() is None
    clock.now += 40
    assert queue.take() == "a"


def test_backoff_doubles_up_to_a_cap_and_success_forgets_it() -> None:
    queue, _ = make()
    delays = [queue.retry("a") for _ in range(12)]
    assert delays[:4] == [0.5, 1.0, 2.0, 4.0]
    assert delays[-1] == 120.0
    assert queue.retry("b") == 0.5
    queue.forget("a")
    assert queue.retry("a") == 0.5


def test_backoff_is_spread_by_jitter() -> None:
    low = KeyedQueue[str](jitter=lambda: 0.0).retry("a")
    high = KeyedQueue[str](jitter=lambda: 1.0).retry("a")
    assert (low, high) == (0.375, 0.625)


class QueueMachine(RuleBasedStateMachine):
    """Against a naive model: sets of what must be worked on."""

    keys = st.sampled_from("abcde")

    def __init__(self) -> None:
        super().__init__()
        self.queue, self.clock = make()
        self.wanted: set[str] = set()
        self.running: set[str] = set()
        self.again: set[str] = set()
        self.due: dict[str, float] = {}

    @rule(key=keys, priority=st.sampled_from(Priority))
    def add(self, key: str, priority: Priority) -> None:
        self.queue.add(key, priority)
        (self.again if key in self.running else self.wanted).add(key)

    @rule(key=keys, seconds=st.floats(0.1, 100))
    def add_after(self, key: str, seconds: float) -> None:
        self.queue.add_after(key, seconds)
        due = self.clock.now + seconds
        self.due[key] = min(due, self.due.get(key, due))

    @rule(seconds=st.floats(0, 60))
    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def take(self) -> None:
        for key, due in list(self.due.items()):
            if due <= self.clock.now:
                del self.due[key]
                (self.again if key in self.running else self.wanted).add(key)
        key = self.queue.take()
        if key is None:
            assert not self.wanted
            return
        assert key in self.wanted
        assert key not in self.running
        self.wanted.remove(key)
        self.due.pop(key, None)
        self.running.add(key)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def done(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.running)))
        self.queue.done(key)
        self.running.remove(key)
        if key in self.again:
            self.again.remove(key)
            self.wanted.add(key)

    @invariant()
    def counts_agree(self) -> None:
        assert len(self.queue) == len(self.wanted)
        assert self.queue.in_flight == len(self.running)

    @invariant()
    def a_wake_up_is_never_missed(self) -> None:
        due = self.queue.next_due()
        if self.wanted:
            assert due == 0.0
        elif self.due:
            assert due is not None
            assert due <= max(0.0, min(self.due.values()) - self.clock.now) + 1e-6
        else:
            assert due is None


TestQueueMachine = QueueMachine.TestCase
TestQueueMachine.settings = settings(max_examples=60, stateful_step_count=60)


async def until(condition: object, seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "the condition never held"
        await asyncio.sleep(0.005)


def test_workers_bound_concurrency_and_lose_no_key() -> None:
    async def scenario() -> None:
        queue: KeyedQueue[int] = KeyedQueue()
        running: set[int] = set()
        seen: list[int] = []
        most = 0

        async def work(key: int) -> None:
            nonlocal most
            assert key not in running
            running.add(key)
            most = max(most, len(running))
            await asyncio.sleep(0.001)
            running.discard(key)
            seen.append(key)

        workers = Workers(queue, work, count=3)
        for key in range(30):
            queue.add(key)
        workers.start()
        await until(lambda: len(seen) == 30)
        assert most == 3
        queue.add(7)
        await until(lambda: len(seen) == 31)
        await workers.stop()

    asyncio.run(scenario())


def test_failed_work_is_tried_again_and_its_success_ends_the_backoff() -> None:
    async def scenario() -> None:
        queue: KeyedQueue[str] = KeyedQueue(base=0.01)
        attempts: list[str] = []
        errors: list[Exception] = []

        async def work(key: str) -> None:
            attempts.append(key)
            if len(attempts) < 3:
                raise ValueError("not yet")

        workers = Workers(queue, work, on_error=lambda _key, error, _delay: errors.append(error))
        workers.start()
        queue.add("a")
        await until(lambda: len(attempts) == 3 and queue.failures("a") == 0)
        assert [str(e) for e in errors] == ["not yet", "not yet"]
        await workers.stop()

    asyncio.run(scenario())


def test_a_returned_time_brings_the_key_back() -> None:
    async def scenario() -> None:
        queue: KeyedQueue[str] = KeyedQueue()
        seen: list[float] = []

        async def work(_: str) -> float | None:
            seen.append(time.monotonic())
            return 0.05 if len(seen) == 1 else None

        workers = Workers(queue, work)
        workers.start()
        queue.add("a")
        await until(lambda: len(seen) == 2)
        assert seen[1] - seen[0] >= 0.05
        assert queue.next_due() is None
        await workers.stop()

    asyncio.run(scenario())


def test_nothing_is_taken_while_it_is_not_allowed() -> None:
    async def scenario() -> None:
        queue: KeyedQueue[str] = KeyedQueue()
        seen: list[str] = []
        allowed = False

        async def work(key: str) -> None:
            seen.append(key)

        workers = Workers(queue, work, allowed=lambda: allowed)
        workers.start()
        queue.add("a")
        for _ in range(20):
            await asyncio.sleep(0)
        assert seen == []
        allowed = True
        queue.add("b")
        await until(lambda: sorted(seen) == ["a", "b"])
        await workers.stop()

    asyncio.run(scenario())


def test_work_that_is_cancelled_by_a_stop_is_not_lost() -> None:
    async def scenario() -> None:
        queue: KeyedQueue[str] = KeyedQueue()
        began = asyncio.Event()

        async def work(_: str) -> None:
            began.set()
            await asyncio.Event().wait()

        workers = Workers(queue, work)
        workers.start()
        queue.add("a")
        await began.wait()
        await workers.stop()
        assert queue.in_flight == 0
        assert queue.take() == "a"

    asyncio.run(scenario())


def test_a_cancelled_helper_task_is_a_failure_and_not_the_end_of_a_worker() -> None:
    async def scenario() -> None:
        queue: KeyedQueue[str] = KeyedQueue(base=0.01)
        seen = 0

        async def work(_: str) -> None:
            nonlocal seen
            seen += 1
            if seen == 1:
                helper = asyncio.create_task(asyncio.Event().wait())
                asyncio.get_running_loop().call_soon(helper.cancel)
                await helper

        workers = Workers(queue, work)
        workers.start()
        queue.add("a")
        await until(lambda: seen == 2)
        await workers.stop()

    asyncio.run(scenario())
