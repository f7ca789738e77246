"""Links, addresses and routes by rtnetlink, so that a pod's network costs no subprocess.

Called by the namespace set-up and by the launcher.  Standard library only.
"""

from __future__ import annotations

import os
import socket
import struct
from types import TracebackType

_NEWLINK, _NEWADDR, _NEWROUTE = 16, 20, 24
_REQUEST, _ACK, _CREATE, _EXCL = 1, 4, 0x400, 0x200
_IFF_UP = 1
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_LINKINFO, _IFLA_NET_NS_FD = 1, 3, 18, 28
_INFO_KIND, _INFO_DATA, _VETH_PEER = 1, 2, 1
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PREFSRC = 1, 4, 5, 7
_NLMSG_ERROR = 2


def _attr(kind: int, value: bytes) -> bytes:
    length = 4 + len(value)
    return struct.pack("=HH", length, kind) + value + b"\0" * (-length % 4)


def _ifinfo(index: int = 0, up: bool = False) -> bytes:
    flag = _IFF_UP if up else 0
    return struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, flag, flag)


def _name(name: str) -> bytes:
    return name.encode() + b"\0"


def _mac(address: str) -> bytes:
    return bytes.fromhex(address.replace(":", ""))


def mac_of(ip: str) -> str:
    """A MAC address that follows from the IP, so that a reused IP never meets a stale ARP entry."""
    return ":".join(f"{b:02x}" for b in b"\x02\x42" + socket.inet_aton(ip))


class Netlink:
    """A socket to the kernel's network configuration, in the namespace where it was made."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.bind((0, 0))
        self._sequence = 0

    def __enter__(self) -> Netlink:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()

    def _call(self, kind: int, body: bytes, flags: int = 0) -> None:
        self._sequence += 1
        header = struct.pack(
            "=IHHII", 16 + len(body), kind, _REQUEST | _ACK | flags, self._sequence, 0
        )
        self._socket.send(header + body)
        answer = self._socket.recv(65536)
        (answered,) = struct.unpack_from("=H", answer, 4)
        (code,) = struct.unpack_from("=i", answer, 16)
        if answered == _NLMSG_ERROR and code:
            raise OSError(-code, f"rtnetlink {kind}: {os.strerror(-code)}")

    def add_veth(self, name: str, peer: str, peer_mac: str, peer_ns: int) -> None:
        """A pair of links: ``name`` here, up; ``peer`` in the namespace ``peer_ns``."""
        other = (
            _ifinfo()
            + _attr(_IFLA_IFNAME, _name(peer))
            + _attr(_IFLA_ADDRESS, _mac(peer_mac))
            + _attr(_IFLA_NET_NS_FD, struct.pack("=I", peer_ns))
        )
        info = _attr(_INFO_KIND, b"veth") + _attr(_INFO_DATA, _attr(_VETH_PEER, other))
        body = _ifinfo(up=True) + _attr(_IFLA_IFNAME, _name(name)) + _attr(_IFLA_LINKINFO, info)
        self._call(_NEWLINK, body, _CREATE | _EXCL)

    def set_up(self, index: int) -> None:
        """Bring a link up."""
        self._call(_NEWLINK, _ifinfo(index, up=True))

    def add_address(self, index: int, ip: str, prefix: int) -> None:
        """Give a link an IPv4 address."""
        raw = socket.inet_aton(ip)
        body = struct.pack("=BBBBI", socket.AF_INET, prefix, 0, 0, index)
        body += _attr(_IFA_LOCAL, raw) + _attr(_IFA_ADDRESS, raw)
        self._call(_NEWADDR, body, _CREATE | _EXCL)

    def add_route(
        self,
        index: int,
        *,
        to: str | None = None,
        prefix: int = 0,
        via: str | None = None,
        source: str | None = None,
    ) -> None:
        """Route ``to/prefix`` (default: everything) through a link, by a gateway if given."""
        table, boot, unicast = 254, 3, 1
        scope = 0 if via else 253
        body = struct.pack(
            "=BBBBBBBBI", socket.AF_INET, prefix, 0, 0, table, boot, scope, unicast, 0
        )
        for kind, address in ((_RTA_DST, to), (_RTA_GATEWAY, via), (_RTA_PREFSRC, source)):
            if address is not None:
                body += _attr(kind, socket.inet_aton(address))
        body += _attr(_RTA_OIF, struct.pack("=I", index))
        self._call(_NEWROUTE, body, _CREATE | _EXCL)
