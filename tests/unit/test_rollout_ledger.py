"""The ledger: a Fail is left only by retry, and quarantine is by package or by revision."""

from __future__ import annotations

import pytest
from tests.worlds.rollout import digest_of

from sluice.api.modelrevision import PackageInfo, Verdict
from sluice.rollout import ledger
from sluice.rollout.model import Failure, Revision

NOW = 1_000_000.0
FAILED = ledger.failed(Failure(check="errors", reason="x", message="Worse."), Verdict(), NOW)


def record(name: str, letter: str, verdict: Verdict) -> Revision:
    return Revision(
        hash=name,
        source="s",
        uri="s3://m",
        package=PackageInfo(digest=digest_of(letter)),
        runtime_image="sluice:1",
        identity={},
        hash_version=1,
        verdict=verdict,
        created="",
        deployment="iris",
    )


@pytest.mark.parametrize(
    "after",
    [
        ledger.validated(FAILED, NOW),
        ledger.passed(FAILED, NOW),
        ledger.withdrawn(FAILED, "x", NOW),
    ],
)
def test_nothing_but_retry_leaves_a_fail(after: Verdict) -> None:
    assert after == FAILED


def test_retry_counts_itself_so_that_the_api_server_lets_it_through() -> None:
    after = ledger.retried(FAILED, NOW)
    assert (after.phase, after.scope, after.attempts) == ("New", None, 0)
    assert after.retries == FAILED.retries + 1


def test_a_package_failure_forbids_every_revision_with_these_bytes() -> None:
    bad = record("r1", "b", FAILED)
    assert ledger.quarantine(digest_of("b"), "r2", [bad]) is bad
    assert ledger.quarantine(digest_of("b"), None, [bad]) is bad
    assert ledger.quarantine(digest_of("c"), "r2", [bad]) is None


def test_a_revision_failure_forbids_this_revision_only() -> None:
    bad = record("r1", "b", FAILED.model_copy(update={"scope": "Revision"}))
    assert ledger.quarantine(digest_of("b"), "r1", [bad]) is bad
    assert ledger.quarantine(digest_of("b"), "r2", [bad]) is None


def test_validated_does_not_weaken_passed() -> None:
    passed = ledger.passed(Verdict(), NOW)
    assert ledger.validated(passed, NOW) == passed


def test_a_promotion_forgets_withdrawn_attempts() -> None:
    tried = ledger.withdrawn(Verdict(), "Both arms fail.", NOW)
    assert tried.attempts == 1
    assert ledger.passed(tried, NOW).attempts == 0


def test_the_wait_doubles_and_the_third_time_asks_a_person() -> None:
    verdict, waits, terminal = Verdict(), [], []
    for _ in range(3):
        verdict = ledger.withdrawn(verdict, "Both arms fail.", NOW)
        outcome = ledger.withdrawn_outcome("iris", "s", record("r", "b", verdict), NOW)
        waits.append(outcome.retry_at - NOW)
        terminal.append(outcome.terminal)
    assert waits == [60.0, 120.0, 240.0]
    assert terminal == [False, False, True]
    assert "tried again" not in outcome.message
    assert "sluice.dev/retry=626262626262" in outcome.message


def test_the_quarantine_message_keeps_the_command_whatever_was_said() -> None:
    long = FAILED.model_copy(update={"message": "m" * 512})
    message = ledger.quarantine_message("iris", record("r", "b", long))
    assert len(message) <= 512
    assert message.endswith("kubectl annotate mdep/iris sluice.dev/retry=626262626262")
