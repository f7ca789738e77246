"""Cluster DNS: Services and pods by name, answered from the node's own tables.

``answer`` is pure.  The node is the only one, so its pods are all there are; a headless Service
lists the ready ones at the moment of the question (TTL 1).
"""

from __future__ import annotations

import asyncio
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from dnslib import AAAA, CNAME, QTYPE, RCODE, RR, SRV, A, DNSHeader, DNSQuestion, DNSRecord

from sluice.local.settings import CLUSTER_DOMAIN

_TTL = 1
_UDP_LIMIT = 8192


@dataclass(frozen=True)
class Endpoint:
    """A pod as DNS sees it."""

    namespace: str
    name: str
    ip: str
    ready: bool
    labels: dict[str, str] = field(default_factory=dict)
    hostname: str = ""
    subdomain: str = ""
    ports: dict[str, int] = field(default_factory=dict)


@dataclass
class Zone:
    """The tables that questions are answered from."""

    services: dict[tuple[str, str], dict[str, Any]]
    endpoints: Callable[[], list[Endpoint]]
    virtual_ips: bool = True  # False where nothing answers at a ClusterIP: give pods instead

    def ready_endpoints(self, service: dict[str, Any]) -> list[Endpoint]:
        """The pods behind a Service."""
        meta, spec = service["metadata"], service["spec"]
        selector = (spec.get("selector") or {}).items()
        if not selector:
            return []
        every = spec.get("publishNotReadyAddresses", False)
        return [
            e
            for e in self.endpoints()
            if e.namespace == meta["namespace"]
            and e.ip
            and (e.ready or every)
            and selector <= e.labels.items()
        ]

    def addresses(self, labels: list[str]) -> list[str] | None:
        """IPs for the labels left of the cluster domain; None when there is no such name."""
        if len(labels) == 3 and labels[2] == "pod":
            return [labels[0].replace("-", ".")]
        if len(labels) not in (3, 4) or labels[-1] != "svc":
            return None
        service = self.services.get((labels[-2], labels[-3]))
        if service is None:
            return None
        ip = service["spec"].get("clusterIP")
        headless = ip in (None, "None", "")
        if not headless and self.virtual_ips:
            return [str(ip)] if len(labels) == 3 else None
        found = self.ready_endpoints(service)
        if len(labels) == 4:
            found = [
                e
                for e in found
                if labels[0] == (e.hostname if e.subdomain == labels[1] else "")
                or labels[0] == e.ip.replace(".", "-")
            ]
        # A headless Service without ready pods has no name, as with CoreDNS.
        return [e.ip for e in found] or None


def answer(zone: Zone, raw: bytes, limit: int | None = _UDP_LIMIT) -> bytes:
    """The packed reply to a packed question."""
    question = DNSRecord.parse(raw)
    reply = question.reply()
    name = str(question.q.qname).rstrip(".").lower()
    if name.endswith("." + CLUSTER_DOMAIN):
        _answer_name(zone, question, reply, name.removesuffix("." + CLUSTER_DOMAIN).split("."))
    elif name == "localhost":
        if question.q.qtype == QTYPE.A:
            reply.add_answer(RR(question.q.qname, QTYPE.A, ttl=60, rdata=A("127.0.0.1")))
        elif question.q.qtype == QTYPE.AAAA:
            reply.add_answer(RR(question.q.qname, QTYPE.AAAA, ttl=60, rdata=AAAA("::1")))
    else:
        reply.header.rcode = RCODE.NXDOMAIN
    # The EDNS record comes back, so that big answers stay in one datagram.
    edns = [r for r in question.ar if r.rtype == QTYPE.OPT]
    reply.ar = edns
    packed = bytes(reply.pack())
    size = min(limit, edns[0].edns_len if edns else 512) if limit else None
    return packed if size is None or len(packed) <= size else bytes(reply.truncate().pack())


def _answer_name(zone: Zone, question: DNSRecord, reply: DNSRecord, labels: list[str]) -> None:
    if labels[0].startswith("_") and len(labels) == 5:
        _answer_srv(zone, question, reply, labels)
        return
    service = zone.services.get((labels[-2], labels[-3])) if len(labels) == 3 else None
    if service and service["spec"].get("type") == "ExternalName":
        target = service["spec"]["externalName"]
        reply.add_answer(RR(question.q.qname, QTYPE.CNAME, ttl=_TTL, rdata=CNAME(target)))
        return
    ips = zone.addresses(labels)
    if ips is None:
        reply.header.rcode = RCODE.NXDOMAIN
    elif question.q.qtype == QTYPE.A:
        for ip in random.sample(ips, len(ips)):
            reply.add_answer(RR(question.q.qname, QTYPE.A, ttl=_TTL, rdata=A(ip)))


def _answer_srv(zone: Zone, question: DNSRecord, reply: DNSRecord, labels: list[str]) -> None:
    """``_port._tcp.service.namespace.svc``."""
    port_name, _, name, namespace, _ = labels
    service = zone.services.get((namespace, name))
    ports = service["spec"].get("ports", []) if service else []
    port = next((p for p in ports if p.get("name") == port_name[1:]), None)
    if service is None or port is None:
        reply.header.rcode = RCODE.NXDOMAIN
        return
    base = f"{name}.{namespace}.svc.{CLUSTER_DOMAIN}"
    if service["spec"].get("clusterIP") not in (None, "None", ""):
        targets = [(base, port["port"])]
    else:
        wanted = port.get("targetPort", port["port"])
        targets = [
            (f"{e.ip.replace('.', '-')}.{base}", e.ports.get(str(wanted), wanted))
            for e in zone.ready_endpoints(service)
        ]
    for target, number in targets:
        rdata = SRV(0, 100, int(number), target)
        reply.add_answer(RR(question.q.qname, QTYPE.SRV, ttl=_TTL, rdata=rdata))


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, zone: Zone) -> None:
        self._zone = zone

    def connection_made(self, transport: Any) -> None:
        self._transport: asyncio.DatagramTransport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        try:
            self._transport.sendto(answer(self._zone, data), addr)
        except Exception:
            # A packet that is no question must not end the node.
            header = DNSHeader(rcode=RCODE.FORMERR)
            header.id = int.from_bytes(data[:2], "big")
            self._transport.sendto(bytes(DNSRecord(header).pack()), addr)


async def serve(zone: Zone, ip: str, port: int) -> None:
    """Answer on UDP and TCP."""

    async def stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                (size,) = struct.unpack(">H", await reader.readexactly(2))
                packed = answer(zone, await reader.readexactly(size), limit=None)
                writer.write(struct.pack(">H", len(packed)) + packed)
        except (asyncio.IncompleteReadError, OSError, ValueError):
            writer.close()

    loop = asyncio.get_running_loop()
    await loop.create_datagram_endpoint(lambda: _Datagrams(zone), local_addr=(ip, port))
    await asyncio.start_server(stream, ip, port)


async def lookup(name: str, server: tuple[str, int]) -> str:
    """One address for a name, asked of our own server; OSError when there is none."""
    loop = asyncio.get_running_loop()
    got: asyncio.Future[bytes] = loop.create_future()

    class _Once(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
            if not got.done():
                got.set_result(data)

        def error_received(self, exc: Exception) -> None:
            if not got.done():
                got.set_exception(exc)

    transport, _ = await loop.create_datagram_endpoint(_Once, remote_addr=server)
    try:
        transport.sendto(bytes(DNSRecord(q=DNSQuestion(name)).pack()))
        async with asyncio.timeout(3):
            reply = DNSRecord.parse(await got)
    finally:
        transport.close()
    ips = [str(r.rdata) for r in reply.rr if r.rtype == QTYPE.A]
    if not ips:
        raise OSError(f"no pod or Service answers to the name {name}")
    return ips[0]
