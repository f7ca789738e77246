"""What HAProxy's runtime API prints, as values.  Pure; called by ``traffic.router``."""

from __future__ import annotations

import csv
import operator
import re
from typing import NamedTuple

_TABLE_ROW = re.compile(r"\bkey=(\S+) .*?\bhttp_req_cnt=(\d+)")
_UPTIME = re.compile(r"^Uptime_sec:\s*(\d+)", re.MULTILINE)
_RUNNING = "2"
_OUT_OF_SERVICE = 0x3B
"""Maintenance and drain bits of the admin state.  0x04 says that the file had the server disabled,
0x40 that its name was set at run time; neither says anything about now."""

_UNSET = "-"

_SERVER_COLUMNS = (
    "be_name",
    "srv_name",
    "srv_addr",
    "srv_op_state",
    "srv_admin_state",
    "srv_fqdn",
    "srv_port",
)


class ServerRow(NamedTuple):
    """A line of ``show servers state``; a tuple, because a look makes a hundred of them."""

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
    pick = operator.itemgetter(*(columns.index(name) for name in _SERVER_COLUMNS))
    width = len(columns)
    servers: dict[str, list[ServerRow]] = {}
    for line in lines:
        cells = line.split(" ")
        if len(cells) != width or line.startswith("#"):
            continue
        backend, name, address, state, admin, host, port = pick(cells)
        row = ServerRow(
            name,
            None if address == _UNSET else address,
            state == _RUNNING and not int(admin) & _OUT_OF_SERVICE,
            None if host == _UNSET else host,
            int(port),
        )
        servers.setdefault(backend, []).append(row)
    return servers


def parse_table(text: str) -> dict[str, int]:
    """``show table``: key to the number of tracked requests."""
    return {match[1]: int(match[2]) for match in _TABLE_ROW.finditer(text)}


def parse_uptime(text: str) -> int:
    """``show info``: seconds since the process started."""
    found = _UPTIME.search(text)
    if found is None:
        raise ValueError("show info printed no Uptime_sec")
    return int(found[1])


def parse_words(text: str, separator: str) -> dict[str, str]:
    """Lines of a name, ``separator`` and a value."""
    rows = (line.split(separator, 1) for line in text.splitlines())
    return {row[0].strip(): row[1].strip() for row in rows if len(row) == 2}
