"""What HAProxy's runtime API prints, as values.  Pure; called by ``traffic.router``."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass

_TABLE_ROW = re.compile(r"\bkey=(\S+) .*?\bhttp_req_cnt=(\d+)")
_RUNNING = "2"
_OUT_OF_SERVICE = 0x3B
"""Maintenance and drain bits of the admin state.  0x04 says that the file had the server disabled,
0x40 that its name was set at run time; neither says anything about now."""

_UNSET = "-"


@dataclass(frozen=True)
class ServerRow:
    """A line of ``show servers state``."""

    name: str
    address: str | None
    up: bool
    host: str | None
    port: int


def parse_map(text: str) -> dict[str, str]:
    """``show map``: key to value."""
    rows = (line.split(None, 2) for line in text.splitlines() if line.strip())
    return {row[1]: row[2].strip() for row in rows if len(row) == 3}


def parse_stat(text: str) -> dict[str, dict[str, str]]:
    """``show stat`` limited to back ends: name to columns."""
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines or not lines[0].startswith("# "):
        raise ValueError("show stat printed no header")
    lines[0] = lines[0][2:]
    return {row["pxname"]: row for row in csv.DictReader(lines)}


def parse_servers(text: str) -> dict[str, list[ServerRow]]:
    """``show servers state``: back end to its servers."""
    lines = [line for line in text.splitlines() if line.strip()]
    header = next((line for line in lines if line.startswith("# ")), None)
    if header is None:
        raise ValueError("show servers state printed no header")
    columns = header[2:].split()
    servers: dict[str, list[ServerRow]] = {}
    for line in lines:
        cells = line.split(" ")
        if line.startswith("#") or len(cells) != len(columns):
            continue
        row = dict(zip(columns, cells, strict=True))
        servers.setdefault(row["be_name"], []).append(_server(row))
    return servers


def _server(row: dict[str, str]) -> ServerRow:
    return ServerRow(
        name=row["srv_name"],
        address=None if row["srv_addr"] == _UNSET else row["srv_addr"],
        up=row["srv_op_state"] == _RUNNING and not int(row["srv_admin_state"]) & _OUT_OF_SERVICE,
        host=None if row["srv_fqdn"] == _UNSET else row["srv_fqdn"],
        port=int(row["srv_port"]),
    )


def parse_table(text: str) -> dict[str, int]:
    """``show table``: key to the number of tracked requests."""
    return {match[1]: int(match[2]) for match in _TABLE_ROW.finditer(text)}


def parse_words(text: str, separator: str) -> dict[str, str]:
    """Lines of a name, ``separator`` and a value."""
    rows = (line.split(separator, 1) for line in text.splitlines())
    return {row[0].strip(): row[1].strip() for row in rows if len(row) == 2}
