"""The loop of the fuzzer: a block of strings, its answers, what can be learnt from them.

Called by ``make fuzz`` and by its slice among the unit tests.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence

from tests.fuzz.replies import Reply
from tests.fuzz.strings import Sent, Strings
from tests.fuzz.target import Failure, Target

BLOCK = 64
CUT_AGAIN = 16
"""Of so many strings one is sent again in one piece, and must get the same answers."""

LONGEST_SAME = 8 * 1024
"""What is beyond a limit and wrong as well is refused for one or the other, as its pieces come."""

_PARTICULAR = re.compile(rb"'[^']*'|\"[^\"]*\"|\d+|0x[0-9a-f]+")


async def fuzz(
    target: Target, strings: Strings, kinds: Sequence[str], count: int
) -> AsyncIterator[tuple[int, list[str]]]:
    """How many strings have been sent, and the statuses that the last ones got; raises Failure."""
    done = 0
    while done < count:
        block = strings.block(kinds, min(BLOCK, count - done))
        try:
            answers = await target.answer(block)
        except Failure as failure:
            raise await the_one(target, block, failure) from failure
        for sent, found in zip(block, answers, strict=True):
            strings.learn(sent, _signature(found))
        await _send_whole(target, block[::CUT_AGAIN], answers[::CUT_AGAIN])
        done += len(block)
        yield done, [str(reply.status) for found in answers for reply in found]


async def the_one(target: Target, block: Sequence[Sent], failure: Failure) -> Failure:
    """The failure of one string alone; what only a whole block does is left with its first."""
    for sent in block:
        try:
            await answer_alone(target, sent)
        except Failure as alone:
            return alone
    return failure


async def answer_alone(target: Target, sent: Sent) -> None:
    """Send one string, as it is and in one piece; raises Failure."""
    await _send_whole(target, [sent], await target.answer([sent]))


async def _send_whole(
    target: Target, block: Sequence[Sent], answers: Sequence[Sequence[Reply]]
) -> None:
    cut = [
        (sent, found)
        for sent, found in zip(block, answers, strict=True)
        if sent.cuts and not sent.hangs_up and len(sent.data) < LONGEST_SAME
    ]
    if not cut:
        return
    whole = await target.answer([Sent(sent.kind, sent.data) for sent, _ in cut])
    for (sent, found), other in zip(cut, whole, strict=True):
        if [r.status for r in found] != [r.status for r in other]:
            raise Failure(f"cut: {[r.status for r in found]}, whole: {[r.status for r in other]}",
                          sent)  # fmt: skip


def _signature(found: Sequence[Reply]) -> tuple[object, ...]:
    """What was answered, without the numbers and names in it."""
    return tuple(
        (r.status, _PARTICULAR.sub(b"", r.body[:240]) if r.status >= 400 else b"")
        for r in found[:4]
    )
