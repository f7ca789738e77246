"""What a server sent, cut and parsed by code that is not ours, and held to what it promised.

Called by the fuzzer and the abuse report; calls llhttp's parser of responses and a strict JSON
decoder.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import httptools
import msgspec

_HEAD = re.compile(
    rb"HTTP/1\.1 ([1-5]\d\d) [A-Za-z' -]+\r\n((?:[a-z0-9-]+: [^\r\n\x00]*\r\n)*)\r\n"
)


class Malformed(Exception):
    """Bytes that no client may ever get."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One response."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes

    @property
    def closes(self) -> bool:
        """Whether it said that the connection ends."""
        return self.headers.get(b"connection") == b"close"


class _Complete:
    def __init__(self) -> None:
        self.done = False

    def on_message_complete(self) -> None:
        self.done = True


def replies(sent: bytes, methods: Sequence[str]) -> list[Reply]:
    """The final responses among ``sent``; ``methods`` are those of the requests, in order.

    Raises Malformed for anything that is not a whole, well-formed response with strict JSON.
    """
    found: list[Reply] = []
    at = 0
    while at < len(sent):
        head = _HEAD.match(sent, at)
        if head is None:
            raise Malformed(f"no head of a response: {sent[at : at + 120]!r}")
        status = int(head[1])
        if status < 200:
            at = head.end()
            continue
        if found and found[-1].closes:
            raise Malformed("a response follows one that closes the connection")
        headers = dict(line.split(b": ", 1) for line in head[2].split(b"\r\n")[:-1])
        bodiless = len(found) < len(methods) and methods[len(found)] == "HEAD"
        end = head.end() + (0 if bodiless else int(headers[b"content-length"]))
        if end > len(sent):
            raise Malformed("a response is shorter than its content-length")
        reply = Reply(status, headers, sent[head.end() : end])
        if not bodiless:
            _check_http(sent[at:end])
            _check_body(reply)
        found.append(reply)
        at = end
    return found


def _check_http(raw: bytes) -> None:
    seen = _Complete()
    try:
        httptools.HttpResponseParser(seen).feed_data(raw)
    except httptools.HttpParserError as error:
        raise Malformed(f"{error}: {raw[:200]!r}") from None
    if not seen.done:
        raise Malformed(f"not one whole response: {raw[:200]!r}")


def _check_body(reply: Reply) -> None:
    kind, body = reply.headers[b"content-type"], reply.body
    if kind == b"application/octet-stream":
        length = int(reply.headers[b"inference-header-content-length"])
        document = _strict(body[:length])
        sizes = [
            o["parameters"]["binary_data_size"] for o in document["outputs"] if "data" not in o
        ]
        if sum(sizes) != len(body) - length:
            raise Malformed("the sizes of the tensors are not those of the bytes")
    elif kind == b"application/json":
        document = _strict(body)
        if reply.status >= 400 and not document.get("error"):
            raise Malformed(f"an error that does not say what is wrong: {body[:200]!r}")


def _strict(body: bytes) -> dict[str, object]:
    try:
        document: dict[str, object] = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Malformed(f"{error}: {body[:200]!r}") from None
    return document
