"""What evidence needs to know of routers, by shape: ``traffic.observation`` has these, and more.

Types only.  Evidence and traffic are neighbours that do not import each other; the controller hands
what the one has read to the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from sluice.errors import SluiceError
from sluice.objects.router_plan import Weights


class RouterName(Protocol):
    """A router pod."""

    @property
    def uid(self) -> str: ...
    @property
    def name(self) -> str: ...


class SlotCounts(Protocol):
    """A slot's cumulative counts: assigned predictions, final failures, failed attempts."""

    @property
    def predictions(self) -> int: ...
    @property
    def failed(self) -> int: ...
    @property
    def retried(self) -> int: ...


class RouterReading(Protocol):
    """One router that answered."""

    @property
    def pod(self) -> RouterName: ...
    @property
    def boot(self) -> str: ...
    @property
    def weights(self) -> Weights: ...
    @property
    def counters(self) -> Mapping[str, SlotCounts]: ...


class RouterReadings(Protocol):
    """All routers that were asked; errors by pod uid."""

    @property
    def pods(self) -> Sequence[RouterReading]: ...
    @property
    def errors(self) -> Mapping[str, SluiceError]: ...
