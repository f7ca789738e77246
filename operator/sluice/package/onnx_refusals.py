"""Where scikit-learn refuses a value, the graph's score is not a number.

Called by the graph builder; calls nothing.  Nearly every scikit-learn step looks at what it gets
(``check_array``) and raises for an infinity, many for a missing value too.  A graph cannot raise,
and a later step may turn the value back into a number: a sigmoid makes 1 of an infinite decision.
So each exporter says what its step refuses, and only what no later step refuses is computed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Refusal:
    """Infinities in ``tensor`` (``width`` columns) are refused; with ``missing`` NaN as well."""

    tensor: str
    width: int
    missing: bool


class Refusals:
    """What the steps refuse, and which tensors pass a refused value on."""

    def __init__(self) -> None:
        self._asked: dict[Refusal, None] = {}
        self._passed_on: dict[str, list[tuple[str, bool]]] = defaultdict(list)

    def ask(self, tensor: str, width: int, *, missing: bool) -> None:
        """The step that takes ``tensor`` refuses infinities, and with ``missing`` NaN as well."""
        self._asked[Refusal(tensor, width, missing)] = None

    def pass_on(self, before: Sequence[str], after: str, *, missing: bool = True) -> None:
        """An infinity in one of ``before`` is one in ``after``; with ``missing`` a NaN too."""
        for tensor in before:
            self._passed_on[tensor].append((after, missing))

    def needed(self) -> list[Refusal]:
        """The refusals that no other one implies, in the order in which they were asked."""
        return [r for r in self._asked if not self._implied(r)]

    def _implied(self, refusal: Refusal) -> bool:
        open_ends, seen = [refusal.tensor], {refusal.tensor}
        while open_ends:
            tensor = open_ends.pop()
            if self._refused_at(tensor, refusal):
                return True
            for after, keeps_missing in self._passed_on[tensor]:
                if after not in seen and (keeps_missing or not refusal.missing):
                    seen.add(after)
                    open_ends.append(after)
        return False

    def _refused_at(self, tensor: str, refusal: Refusal) -> bool:
        """Another refusal there is at least as strict; of two alike the other step's counts."""
        return any(
            other.tensor == tensor and other != refusal and other.missing >= refusal.missing
            for other in self._asked
        )
