"""The mirror file: where the operator wants copies of requests to go.

Called by ``mirror.py``, by ``mirror_sender.py`` and by the process that connects for it, which need
not carry numpy for that.
"""

from __future__ import annotations

import ipaddress
from typing import Annotated

import msgspec

from sluice.runtime.watched import WatchedFile

SCHEMA = 1
MAX_FILE = 16 * 1024

_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=63)]
_Address = Annotated[str, msgspec.Meta(max_length=64)]

Place = tuple[str, int]
"""Host by number, and port."""


class Aim(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Where copies go, as the operator writes it into the mounted file.

    ``addresses``: ``host:port`` by number, asked in turn.  ``percent`` of requests are copied.
    ``tolerance``: relative difference from which two values of a regression disagree.  ``timeout``:
    seconds after which a copy has failed.  ``id`` is the rollout's: counts begin anew with it.
    """

    schema: Annotated[int, msgspec.Meta(ge=SCHEMA, le=SCHEMA)]
    id: _Text
    revision: _Text
    addresses: Annotated[list[_Address], msgspec.Meta(min_length=1, max_length=64)]
    percent: Annotated[int, msgspec.Meta(ge=1, le=100)]
    tolerance: Annotated[float, msgspec.Meta(ge=0.0, le=10.0)] = 0.01
    timeout: Annotated[float, msgspec.Meta(gt=0.0, le=3600.0)] = 3.0

    def places(self) -> list[Place]:
        """(host, port) of every address."""
        return [_place(address) for address in self.addresses]


def read_aim(data: bytes) -> Aim | None:
    """The aim in the file's bytes; None when it is empty.  ValueError says what is wrong."""
    if not data.strip() or data.strip() == b"{}":
        return None
    try:
        aim = msgspec.json.decode(data, type=Aim)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(str(error)[:200]) from None
    aim.places()
    return aim


def places_in(file: WatchedFile) -> list[Place]:
    """Where copies may go now; nowhere, when the file is none."""
    try:
        aim = read_aim(file.read())
    except (OSError, ValueError):
        return []
    return aim.places() if aim is not None else []


def _place(address: str) -> Place:
    host, _, port = address.rpartition(":")
    try:
        ipaddress.ip_address(host.strip("[]"))
        number = int(port)
    except ValueError:
        raise ValueError(f"expected an address such as 10.0.0.7:80, got {address!r}") from None
    if not 0 < number < 65536:
        raise ValueError(f"{address!r} has no port between 1 and 65535")
    return host.strip("[]"), number
