"""The model as this process serves it, and what the process knows of itself.

Called by the endpoints, the predictions and the server; pure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from sluice.runtime.batching import Batcher
from sluice.runtime.http import Response
from sluice.runtime.protocols.predict import PredictProtocol
from sluice.runtime.protocols.v1 import V1Protocol
from sluice.runtime.protocols.v2 import V2Protocol


class Exchange(Protocol):
    """One request's place in its connection."""

    started: float
    on_gone: Callable[[], None] | None
    """Called once when the client goes away before the answer."""

    def answer(self, response: Response) -> None:
        """Give the answer; answers leave in the order of the requests."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a process is told about itself."""

    deployment: str
    revision: str
    timeout: float = 2.0
    max_in_flight: int = 256


class Status:
    """Whether this process is ready, and if not, what is missing, for people."""

    def __init__(self) -> None:
        self.loaded = False
        self.draining = False
        self.refusing = False
        """The second part of draining: requests that still come are told to go elsewhere."""
        self.verdict_missing: Callable[[], str | None] = lambda: None

    def not_ready(self) -> str | None:
        """None when ready."""
        if self.draining:
            return "this server is shutting down"
        if not self.loaded:
            return "the model is being loaded"
        return self.verdict_missing()


@dataclass(slots=True)
class Model:
    """A loaded model with all that answers for it."""

    batcher: Batcher
    predict: PredictProtocol
    v1: V1Protocol
    v2: V2Protocol
    docs: bytes
    openapi: bytes
