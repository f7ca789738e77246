"""What a person asks for by annotation.  Executed once, answered in ``status.lastCommand``.

``abort`` beats everything and latches: the digest is quarantined until ``retry`` names it.
``promote``, ``promote-now`` and ``retry`` must name the digest they are meant for.
"""

from __future__ import annotations

from collections.abc import Callable

from sluice.api.meta import COMMANDS, DIGEST_BOUND_COMMANDS, command_annotation
from sluice.api.status import LastCommand
from sluice.rollout import judge as judging
from sluice.rollout import ledger
from sluice.rollout.draft import Draft
from sluice.rollout.model import JUDGED, Failure
from sluice.rollout.plan import Plan
from sluice.rollout.times import rfc3339
from sluice.rollout.watch import end, take_back

MIN_DIGEST = 12


def obey(draft: Draft) -> None:
    """Executes every annotation that has not been executed, abort first."""
    pending = {
        verb: draft.i.annotations[command_annotation(verb)][:128]
        for verb in COMMANDS
        if command_annotation(verb) in draft.i.annotations
    }
    executed = {v: x for v, x in draft.progress.executed.items() if pending.get(v) == x}
    for verb, value in pending.items():
        draft.executed.append(verb)
        if executed.get(verb) == value:
            continue
        result = _VERBS[verb](draft, value)
        executed[verb] = value
        draft.set_progress(
            last_command=LastCommand(
                op=verb, value=value, result=result[:512], at=rfc3339(draft.i.now)
            )
        )
        draft.note("Command", f"{verb}: {result}")
    if executed != draft.progress.executed:
        draft.set_progress(executed=executed)


def _abort(draft: Draft, value: str) -> str:
    rollout = draft.rollout
    if rollout is not None and rollout.failure is not None and not rollout.withdrawn:
        return f"Candidate {rollout.revision} is being taken back already."
    failure = Failure(
        check="abort",
        reason="Aborted",
        message="Aborted by a person.",
        scope="Package",
        detected=draft.i.now,
    )
    if rollout is not None and rollout.revision is not None:
        draft.set_rollout(
            event="abort",
            failure=failure,
            phase="RollingBack",
            since=draft.i.now,
            withdrawn=False,
        )
        also = f" The watch of {draft.watch.revision} goes on." if draft.watch is not None else ""
        return f"Candidate {rollout.revision} is taken back and quarantined.{also}"
    if draft.watch is not None:
        revision = draft.watch.revision
        take_back(draft, failure, event="abort")
        return f"Promotion of {revision} is undone."
    if rollout is not None:
        return "Nothing to abort yet: the package is still being resolved; change spec.model.uri."
    return "Nothing to abort: no rollout and no watch is in flight."


def _pause(draft: Draft, value: str) -> str:
    if draft.rollout is None:
        return "Nothing to pause: no rollout is in flight."
    if draft.rollout.failure is not None:
        return "Nothing to pause: the candidate is being taken back."
    draft.set_rollout(paused="by a person")
    return "Paused; guardrails stay on. Go on with sluice.dev/resume=now."


def _resume(draft: Draft, value: str) -> str:
    if draft.rollout is None or not draft.rollout.paused:
        return "Nothing to resume."
    _go_on(draft)
    return "Resumed."


def _promote(draft: Draft, value: str) -> str:
    if _names_the_watched(draft, value):
        return _end_watch(draft)
    refusal = _not_the_candidate(draft, value)
    if refusal:
        return refusal
    _go_on(draft)
    draft.set_rollout(pass_step=True)
    return "This step counts as passed; guardrails stay on."


def _promote_now(draft: Draft, value: str) -> str:
    if _names_the_watched(draft, value):
        return _end_watch(draft)
    refusal = _not_the_candidate(draft, value)
    if refusal:
        return refusal
    _go_on(draft)
    draft.set_rollout(pass_step=True, skip_steps=True)
    return "Remaining steps are skipped; guardrails stay on."


def _retry(draft: Draft, value: str) -> str:
    if not _long_enough(value):
        return f"Name the digest: at least {MIN_DIGEST} hex digits."
    hits = [r for r in draft.i.revisions.values() if _matches(r.package.digest, value)]
    if not hits and _refused(draft, value):
        draft.drop_resolve = True
        return "The package is fetched again, and with it its signature."
    if not hits:
        return f"No revision has a package digest that starts with {value}."
    rollout = draft.rollout
    if rollout is not None and rollout.failure is not None:
        return f"Candidate {rollout.revision} is being taken back; retry when that is done."
    named = rollout is not None and rollout.revision in {r.hash for r in hits}
    if named and draft.i.gates.state == "Broken":
        draft.drop_gates = True
        return "The gates run again."
    held = [r.hash for r in hits if draft.verdict(r.hash).phase in ("Failed", "Withdrawn")]
    if not held:
        return "Nothing to retry: that package is not quarantined."
    for revision in held:
        draft.set_verdict(revision, ledger.retried(draft.verdict(revision), draft.i.now))
    draft.set_progress(event="retry", outcome=None)
    draft.drop_resolve = draft.drop_gates = True
    return "The quarantine is lifted; the package starts again at its gates."


def _refused(draft: Draft, value: str) -> bool:
    """Whether ``value`` names the package that was found but is not admitted."""
    outcome, package = draft.progress.outcome, draft.i.resolve.package
    if outcome is None or package is None:
        return False
    return outcome.reason == "NotTrusted" and _matches(package.digest, value)


def _go_on(draft: Draft) -> None:
    """Ends a pause.  Evidence that paused the rollout by itself is not used twice."""
    rollout = draft.rollout
    assert rollout is not None
    if rollout.paused_by_check:
        plan = Plan.from_json(rollout.plan)
        anew = judging.begin_step(plan, judging.new_state(plan, "canary"), rollout.step)
        draft.set_progress(judge=anew, snapshot={}, metrics={}, pod_minutes={})
        draft.judgement = None
    draft.set_rollout(paused="", paused_by_check=False)


def _names_the_watched(draft: Draft, value: str) -> bool:
    record = draft.revision(draft.watch.revision) if draft.watch is not None else None
    return record is not None and _long_enough(value) and _matches(record.package.digest, value)


def _end_watch(draft: Draft) -> str:
    assert draft.watch is not None
    revision = draft.watch.revision
    end(draft, event="promote")
    return f"The watch of {revision} ends here."


def _not_the_candidate(draft: Draft, value: str) -> str:
    rollout = draft.rollout
    if rollout is None or rollout.revision is None:
        return "No candidate is in flight."
    if not _long_enough(value):
        return f"Name the candidate's digest: at least {MIN_DIGEST} hex digits."
    record = draft.revision(rollout.revision)
    if record is None or not _matches(record.package.digest, value):
        return f"{value} is not the candidate's digest; nothing was done."
    if rollout.phase not in JUDGED:
        return f"The candidate is {rollout.phase}; there is no step to pass yet."
    return ""


def _long_enough(value: str) -> bool:
    return len(value.removeprefix("sha256:")) >= MIN_DIGEST


def _matches(digest: str, value: str) -> bool:
    return digest.removeprefix("sha256:").startswith(value.removeprefix("sha256:"))


_VERBS: dict[str, Callable[[Draft, str], str]] = {
    "abort": _abort,
    "pause": _pause,
    "resume": _resume,
    "promote": _promote,
    "promote-now": _promote_now,
    "retry": _retry,
}
assert set(_VERBS) == set(COMMANDS)
assert set(DIGEST_BOUND_COMMANDS) <= set(_VERBS)
