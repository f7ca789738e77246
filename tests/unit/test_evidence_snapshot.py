"""Looks from cumulative counters: resets, deaths, births, and every failure counted once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluice.evidence.arms import ArmDelta, ArmTotals
from sluice.evidence.counters import EvidenceError, PodCounters, PodReading, ServingPod
from sluice.evidence.snapshot import Arm, Reading, build_look
from sluice.objects.haproxy_config import RETRIES
from sluice.objects.router_plan import SLOTS, Weights
from sluice.stats.look import Look
from sluice.traffic.admin import RouterError, RouterPod
from sluice.traffic.observation import (
    PodObservation,
    RouterObservation,
    SlotCounters,
    SlotState,
)

STABLE, CANDIDATE = Arm("a", "old"), Arm("b", "new")
PLAN = Weights("a", "b", 5)


def router(
    a: SlotCounters = SlotCounters(),  # noqa: B008 - immutable
    b: SlotCounters = SlotCounters(),  # noqa: B008
    *,
    uid: str = "r0",
    boot: str = "boot",
    plan: Weights = PLAN,
) -> PodObservation:
    slots = {s: SlotState("-", frozenset()) for s in SLOTS}
    counters = {"a": a, "b": b, "c": SlotCounters()}
    return PodObservation(RouterPod("shop", uid, uid, "10.0.0.9"), boot, 500, plan, slots, counters)


def routers(*pods: PodObservation, **errors: str) -> RouterObservation:
    return RouterObservation(pods, {uid: RouterError(text) for uid, text in errors.items()})


def pod(uid: str = "p-new", revision: str = "new", **counts: Any) -> PodReading:
    counters = PodCounters(boot="b1", age=1000.0, revision=revision)
    return PodReading(
        ServingPod(uid, uid, revision, "10.0.0.1"),
        replace(counters, **counts) if counts else counters,
    )


def silent(uid: str = "p-new", revision: str = "new") -> PodReading:
    where = ServingPod(uid, uid, revision, "10.0.0.1")
    return PodReading(where, error=EvidenceError(f"Pod {uid} does not answer."))


def take(
    previous: Mapping[str, Any] | None,
    seen: RouterObservation,
    readings: list[PodReading],
    now: float = 10.0,
    **options: Any,
) -> Reading:
    reading = build_look(
        previous, seen, readings, stable=STABLE, candidate=CANDIDATE, weights=PLAN, look_id=1,
        now=now, **options,
    )  # fmt: skip
    # What is committed is JSON: later looks start from what was read back.
    return reading._replace(snapshot=json.loads(json.dumps(reading.snapshot)))


def first(seen: RouterObservation | None = None, *readings: PodReading) -> dict[str, Any]:
    begun = take(None, seen or routers(router()), list(readings), now=0.0)
    assert begun.look is None and "first reading" in begun.message
    return begun.snapshot


def look_of(reading: Reading) -> Look:
    assert reading.look is not None, reading.message
    return reading.look


def test_a_look_is_the_difference_summed_over_pods_and_routers() -> None:
    before = first(
        routers(router(SlotCounters(1000, 1000), uid="r0"), router(uid="r1")),
        pod("p1", requests=50, client_errors=5, buckets={7: (50, 5, 0)}),
        pod("p2", requests=10),
    )
    after = routers(
        router(SlotCounters(1080, 1080), SlotCounters(9, 9), uid="r0"),
        router(SlotCounters(20, 20), SlotCounters(3, 3, s5xx=1), uid="r1"),
    )
    reading = take(
        before,
        after,
        [
            pod("p1", requests=58, client_errors=6, model_errors=1, buckets={7: (58, 6, 1)}),
            pod("p2", requests=14, buckets={1: (4, 0, 0)}),
        ],
    )
    look = look_of(reading)
    assert reading.message == ""
    assert (look.seconds, look.weight) == (10.0, 5)
    assert look.stable.n == 100
    new = look.candidate
    assert (new.n, new.client_errors, new.model_errors) == (12, 1, 1)
    assert new.pods == ((8, 1, 1), (4, 0, 0))
    assert new.buckets == {1: (4, 0, 0), 7: (8, 1, 1)}
    again = look_of(take(reading.snapshot, after, [pod("p1", requests=58, client_errors=6,
        model_errors=1, buckets={7: (58, 6, 1)}), pod("p2", requests=14,
        buckets={1: (4, 0, 0)})], now=20.0))  # fmt: skip
    assert again.stable.n == again.candidate.n == again.candidate.client_errors == 0


def test_a_repeated_look_from_the_same_snapshot_is_the_same() -> None:
    before = first(None, pod(requests=5))
    seen, readings = routers(router(b=SlotCounters(4, 4))), [pod(requests=9)]
    assert take(before, seen, readings) == take(before, seen, readings)


def test_a_pod_born_since_the_last_look_counts_from_zero() -> None:
    before = first(None)
    born = pod(requests=8, client_errors=2, age=6.0)
    look = look_of(take(before, routers(router(b=SlotCounters(8, 8))), [born]))
    assert look.candidate.client_errors == 2
    assert look.candidate.pods == ((8, 2, 0),)


def test_an_older_pod_seen_for_the_first_time_counts_from_now_on() -> None:
    before = first(None)
    old = pod(requests=800, client_errors=20, age=3600.0)
    reading = take(before, routers(router(b=SlotCounters(8, 8))), [old])
    assert look_of(reading).candidate.client_errors == 0
    later = pod(requests=808, client_errors=21, age=3610.0)
    look = look_of(take(reading.snapshot, routers(router(b=SlotCounters(16, 16))), [later], 20.0))
    assert look.candidate.client_errors == 1


def test_a_restarted_container_counts_from_zero() -> None:
    before = first(None, pod(requests=100, client_errors=9))
    restarted = pod(requests=4, client_errors=1, boot="b2", age=2.0)
    look = look_of(take(before, routers(router(b=SlotCounters(8, 8))), [restarted]))
    assert look.candidate.pods == ((4, 1, 0),)


def test_a_dead_pod_is_forgotten_and_what_the_router_saw_of_it_stays() -> None:
    before = first(None, pod("p1", requests=100), pod("p2", requests=100))
    seen = routers(router(b=SlotCounters(30, 30, s5xx=3, retries=9, redispatches=9)))
    reading = take(before, seen, [pod("p2", requests=110)])
    assert look_of(reading).candidate.n == 30
    assert look_of(reading).candidate.model_errors == 3
    assert set(reading.snapshot["pods"]) == {"p2"}


def test_a_pod_that_does_not_answer_is_counted_later_and_the_look_says_so() -> None:
    before = first(None, pod(requests=10, client_errors=1))
    partial = take(before, routers(router(b=SlotCounters(5, 5))), [silent()])
    assert look_of(partial).candidate.n == 5
    assert "p-new does not answer" in partial.message
    whole = take(
        partial.snapshot,
        routers(router(b=SlotCounters(11, 11))),
        [pod(requests=21, client_errors=4)],
        now=20.0,
    )
    assert whole.message == ""
    assert look_of(whole).candidate.pods == ((11, 3, 0),)


def test_a_router_that_does_not_answer_is_counted_later() -> None:
    before = first(routers(router(uid="r0"), router(uid="r1")))
    partial = take(before, routers(router(b=SlotCounters(3, 3), uid="r0"), r1="r1 is silent."), [])
    assert look_of(partial).candidate.n == 3
    assert partial.message == "r1 is silent."
    both = routers(router(b=SlotCounters(5, 5), uid="r0"), router(b=SlotCounters(40, 40), uid="r1"))
    assert look_of(take(partial.snapshot, both, [], now=20.0)).candidate.n == 42


def test_no_router_at_all_is_an_error_not_an_empty_look() -> None:
    with pytest.raises(EvidenceError, match="No router can be read: r0 is silent"):
        take(first(None), routers(r0="r0 is silent."), [])
    with pytest.raises(EvidenceError, match="there is none"):
        take(None, routers(), [])


@pytest.mark.parametrize(
    ("after", "source"),
    [
        ({"requests": 9}, "request counter of pod p-new went from 10 to 9"),
        ({"requests": 12, "client_errors": 1}, "client error counter of pod p-new"),
        ({"requests": 12, "latency": {5: 1}}, "latency bin 5 counter of pod p-new"),
        ({"requests": 12, "scores": (1, 0)}, "scores counter of pod p-new"),
        ({"requests": 12, "scores": (9, 9, 9)}, "score bins counter of pod p-new"),
        ({"requests": 12, "buckets": {3: (1, 0, 0)}}, "bucket 3 counter of pod p-new"),
    ],
)
def test_a_counter_that_goes_down_names_its_source(after: dict[str, Any], source: str) -> None:
    kept = {"client_errors": 2, "latency": {5: 2}, "scores": (2, 2), "buckets": {3: (2, 0, 0)}}
    before = first(None, pod(requests=10, **kept))
    with pytest.raises(EvidenceError) as caught:
        take(before, routers(router()), [pod(**(kept | after))])
    assert source in caught.value.message
    assert caught.value.reason == "CountersWentBackwards"
    assert take(before, routers(router()), [pod(requests=10, **kept)]).look is not None


def test_a_routers_counter_that_goes_down_names_the_router() -> None:
    before = first(routers(router(SlotCounters(100, 100))))
    with pytest.raises(EvidenceError, match="predictions of slot a counter of router r0"):
        take(before, routers(router(SlotCounters(99, 99))), [])


def test_haproxys_32_bit_counter_may_wrap() -> None:
    before = first(routers(router(SlotCounters((1 << 32) - 5, 0))))
    assert look_of(take(before, routers(router(SlotCounters(7, 0))), [])).stable.n == 12


def test_a_weight_change_costs_the_look_it_happens_in() -> None:
    low = replace(PLAN, weight=1)
    before = first(routers(router(plan=low)))
    assert take(before, routers(router(plan=low, b=SlotCounters(3, 3))), []).message.startswith(
        "The routers do not all have the weights"
    )
    settling = take(before, routers(router(b=SlotCounters(5, 5))), [])
    assert settling.look is None
    assert settling.message.startswith("The weights were changed")
    look = look_of(take(settling.snapshot, routers(router(b=SlotCounters(9, 9))), [], now=20.0))
    assert look.candidate.n == 4


@pytest.mark.parametrize("again", [{"boot": "other"}, {"uid": "r9"}])
def test_a_router_that_restarted_costs_the_look_it_happens_in(again: dict[str, str]) -> None:
    before = first(None)
    skipped = take(before, routers(router(b=SlotCounters(5, 5), **again)), [])  # type: ignore[arg-type]
    assert skipped.look is None
    assert "started since the last reading" in skipped.message
    after = routers(router(b=SlotCounters(6, 6), **again))  # type: ignore[arg-type]
    assert look_of(take(skipped.snapshot, after, [], now=20.0)).candidate.n == 1


def test_another_candidate_starts_anew() -> None:
    before = first(None, pod(requests=10))
    other = build_look(
        before, routers(router()), [], stable=STABLE, candidate=Arm("b", "newer"), weights=PLAN,
        look_id=2, now=10.0,
    )  # fmt: skip
    assert other.look is None
    assert other.snapshot["totals"]["candidate"]["assigned"] == 0


def test_the_latency_of_a_young_pod_is_dropped_once() -> None:
    seen = [routers(router(b=SlotCounters(10 * i, 10 * i))) for i in range(6)]
    before = first(None)
    young = pod(requests=10, latency={300: 10}, age=5.0)
    one = take(before, seen[1], [young])
    assert look_of(one).candidate.latency == {}
    assert look_of(one).candidate.load_per_pod == 0.0
    warm = pod(requests=20, latency={300: 10, 10: 10}, age=35.0)
    two = take(one.snapshot, seen[2], [warm], now=40.0)
    assert look_of(two).candidate.latency == {}, "the pod was young when this interval began"
    three = take(
        two.snapshot, seen[3], [pod(requests=30, latency={300: 10, 10: 20}, age=45.0)], now=50.0
    )
    assert look_of(three).candidate.latency == {10: 10}
    assert look_of(three).candidate.load_per_pod == 10.0
    restarted = pod(requests=7, latency={290: 7}, boot="b2", age=3.0)
    four = take(three.snapshot, seen[4], [restarted], now=60.0)
    assert look_of(four).candidate.latency == {290: 7}, "a restart does not excuse slowness"


def test_scores_and_their_profile_are_summed() -> None:
    profile = {"score_reference": (50, 50)}
    before = first(None, pod("p1", scores=(1, 1), **profile))
    look = look_of(
        take(
            before,
            routers(router(b=SlotCounters(9, 9))),
            [
                pod("p1", requests=5, scores=(3, 4), non_finite=1, **profile),
                pod("p2", requests=4, scores=(0, 4), age=5.0, **profile),
            ],
        )
    )
    assert look.candidate.scores == (2, 7)
    assert look.candidate.score_reference == (50, 50)
    assert look.candidate.non_finite == 1


def test_a_snapshot_of_twenty_busy_pods_fits_a_config_map() -> None:
    readings = [
        pod(
            f"uid-{i:036d}",
            requests=10**7,
            latency={b: 10**6 * i + 977 * b for b in range(350)},
            scores=tuple(range(10**6, 10**6 + 21)),
            buckets={b: (20_000 + 37 * b + i, 19 * b % 97, b % 13) for b in range(500)},
        )
        for i in range(20)
    ]
    snapshot = first(None, *readings)
    assert len(json.dumps(snapshot)) < 200_000
    assert look_of(take(snapshot, routers(router()), readings)).candidate.pods == ((0, 0, 0),) * 20


def test_a_snapshot_of_another_version_is_a_first_reading() -> None:
    before = first(None) | {"version": 99}
    assert "first reading" in take(before, routers(router()), []).message


def test_a_damaged_snapshot_says_what_to_do() -> None:
    before = first(None, pod(requests=1))
    before["pods"]["p-new"]["packed"] = "!!"
    with pytest.raises(EvidenceError, match="snapshot is damaged") as caught:
        take(before, routers(router()), [])
    assert "evidence ConfigMap" in caught.value.hint


INTERVAL = st.lists(
    st.tuples(st.integers(0, 4), st.booleans(), st.booleans()), min_size=4, max_size=4
)
"""For each of four pods: requests refused, whether it answers the reading, whether it restarts."""


@settings(max_examples=150)
@given(st.lists(INTERVAL, max_size=8), st.integers(0, 3))
def test_pods_that_come_restart_and_go_silent_lose_no_error(
    intervals: list[list[tuple[int, bool, bool]]], born_later: int
) -> None:
    counts, boots, births = [0] * 4, [0] * 4, [0.0 if i >= born_later else 15.0 for i in range(4)]
    seen, total, told, silent_before = SlotCounters(), 0, 0, [False] * 4
    snapshot = first(None, *(pod(f"p{i}", boot="p0") for i in range(born_later, 4)))
    for step, events in enumerate([*intervals, [(0, True, False)] * 4], start=1):
        now, readings = 10.0 * step, []
        for i, (refused, answers, restarts) in enumerate(events):
            if births[i] > now:
                continue
            if restarts and not silent_before[i]:
                # What a process had counted since it was last read dies with it; here, nothing.
                counts[i], boots[i] = 0, boots[i] + 1
            counts[i], total = counts[i] + refused, total + refused
            seen = replace(seen, predictions=seen.predictions + refused)
            # A pod that was never read while it was new cannot be told from an old one.
            answers = answers or births[i] > now - 10.0
            silent_before[i] = not answers
            counters = {"requests": counts[i], "client_errors": counts[i], "boot": f"p{boots[i]}"}
            age = now - births[i]
            readings.append(pod(f"p{i}", **counters, age=age) if answers else silent(f"p{i}"))
        reading = take(snapshot, routers(router(b=seen)), readings, now=now)
        snapshot, told = reading.snapshot, told + look_of(reading).candidate.client_errors
    assert told <= total
    rest = snapshot["totals"]["candidate"]
    assert rest["client_errors"] == total
    assert rest["told_client"] == told


# What a failure is


@pytest.mark.parametrize(
    ("delta", "failures"),
    [
        (ArmDelta(10), 0),
        # Ten answered 500 by the pod: seen by both, counted once.
        (ArmDelta(10, failed=10, pod_errors=10), 10),
        # One of two pods refuses or resets: the retry repairs it, the pod's counters know nothing.
        (ArmDelta(10, retried=5), 5),
        # Every attempt fails: four attempts are one failed request.
        (ArmDelta(10, failed=10, retried=30), 10),
        # Two failed for good after all retries, three were saved.
        (ArmDelta(10, failed=2, retried=9), 5),
        # Two 500s, which are not retried, and three saved.
        (ArmDelta(10, failed=2, pod_errors=2, retried=3), 5),
        # The client left before the pod's 504: HAProxy never saw a 5xx.
        (ArmDelta(10, pod_errors=4), 4),
        # No server at all: no attempt was made.
        (ArmDelta(10, failed=10, retried=0), 10),
    ],
)
def test_each_failed_request_is_one_failure(delta: ArmDelta, failures: int) -> None:
    totals = ArmTotals().add(delta)
    assert totals.failures == failures
    assert totals.tell(10)[2] == failures


def test_a_failure_in_one_reading_and_its_request_in_the_next_are_told_together() -> None:
    totals, client, model = ArmTotals().add(ArmDelta(0, pod_errors=1, client_errors=2)).tell(0)
    assert (client, model) == (0, 0)
    totals, client, model = totals.add(ArmDelta(3, failed=1)).tell(3)
    assert (client, model) == (2, 1)


REQUEST = st.sampled_from(["ok", "client", "500", "saved", "exhausted"])


def _delta_of(kind: str) -> ArmDelta:
    return {
        "ok": ArmDelta(1),
        "client": ArmDelta(1, client_errors=1),
        "500": ArmDelta(1, failed=1, pod_errors=1),
        "saved": ArmDelta(1, retried=1),
        "exhausted": ArmDelta(1, failed=1, retried=RETRIES),
    }[kind]


def _sum(deltas: list[ArmDelta]) -> ArmDelta:
    names = ArmDelta.__dataclass_fields__
    return ArmDelta(**{name: sum(getattr(d, name) for d in deltas) for name in names})


@settings(max_examples=200)
@given(st.lists(st.lists(REQUEST, max_size=20), max_size=8))
def test_read_together_every_failed_request_is_told_once(intervals: list[list[str]]) -> None:
    totals = ArmTotals()
    for kinds in intervals:
        totals, client, model = totals.add(_sum([_delta_of(k) for k in kinds])).tell(len(kinds))
        assert client == kinds.count("client")
        assert model == sum(k not in ("ok", "client") for k in kinds)


@settings(max_examples=200)
@given(st.lists(st.lists(REQUEST, max_size=20), max_size=8), st.data())
def test_read_apart_nothing_is_lost_and_errors_never_exceed_requests(
    intervals: list[list[str]], data: st.DataObject
) -> None:
    totals, told, late = ArmTotals(), 0, ArmDelta()
    for kinds in intervals:
        seen = _sum([*(_delta_of(k) for k in kinds), late])
        # A request that was being retried when the routers were read fails in the next look.
        held = data.draw(st.integers(0, seen.failed))
        late = ArmDelta(failed=held)
        now = replace(seen, failed=seen.failed - held)
        totals, client, model = totals.add(now).tell(len(kinds))
        assert client + model <= len(kinds)
        told += model
    kinds = [k for interval in intervals for k in interval]
    totals, _, model = totals.add(late).tell(len(kinds))
    bad = sum(k not in ("ok", "client") for k in kinds)
    assert totals.failures == bad
    assert told + model >= bad


def cpu_look(before: dict[str, Any], counters: PodReading) -> tuple[int, float]:
    look = take(before, routers(router()), [counters], now=20.0).look
    assert look is not None
    return look.candidate.cpu


def test_cpu_seconds_are_of_warm_pods_and_of_the_interval() -> None:
    before = first(None, pod(requests=100, cpu_seconds=50.0))
    assert cpu_look(before, pod(requests=300, cpu_seconds=52.5)) == (200, 2.5)
    assert cpu_look(before, pod(boot="b2", age=5.0, requests=300, cpu_seconds=9.0)) == (0, 0.0)
    assert cpu_look(before, pod(requests=300, cpu_seconds=1.0)) == (200, 0.0), "a clock went back"


def test_a_snapshot_from_before_cpu_seconds_goes_on() -> None:
    before = first(None, pod(requests=100, cpu_seconds=50.0))
    del before["pods"]["p-new"]["cpu"]
    assert cpu_look(before, pod(requests=300, cpu_seconds=52.5)) == (0, 0.0)
