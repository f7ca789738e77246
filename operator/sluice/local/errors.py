"""What can go wrong with the local cluster; raised everywhere in this room, shown by the CLI."""

from __future__ import annotations

from sluice.errors import SluiceError


class LocalError(SluiceError):
    """The local cluster cannot do what was asked; the message says why and what to do."""

    reason = "LocalCluster"


class MissingProgramError(LocalError):
    """A program that the local cluster needs could not be found, fetched or built."""

    reason = "MissingProgram"
