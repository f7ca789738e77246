"""Byte strings that a client might send: valid ones, bent by a grammar or at random, and noise.

Called by the fuzzer; calls nothing of the server.  All of it follows from one seed.  A seed of a
body is a list of tokens, so that a mutation may replace a number by a hostile one and leave the
rest valid; what made the server say something new is kept and bent further.
"""

from __future__ import annotations

import itertools
import json
import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from tests.fuzz.words import GETS, HEADERS, MODEL, VALUES

KINDS = {"http": 30, "noise": 3, "predict": 20, "v1": 12, "v2": 15, "binary": 15, "grpc": 5}
"""Kinds of strings, and how many of a hundred are of each."""

KEPT = 256
"""Of each kind, how many strings that were answered in a new way are bent further."""

FORBIDDEN = b"/smuggled"
"""The path of requests that stand inside the body of another one, or behind an ambiguous length."""

_TOKEN = re.compile(rb'-?\d[\d.eE+-]*|"(?:[^"\\]|\\.)*"|true|false|null|[\[\]{},:]')
_PUNCTUATION = frozenset([b"[", b"]", b"{", b"}", b",", b":"])
_ROUTES = {
    "predict": "/predict",
    "v1": f"/v1/models/{MODEL}:predict",
    "v2": f"/v2/models/{MODEL}/infer",
    "binary": f"/v2/models/{MODEL}/infer",
}


@dataclass(frozen=True, slots=True)
class Sent:
    """What a client sends: the bytes, where they are cut, whether it hangs up at once."""

    kind: str
    data: bytes
    cuts: tuple[int, ...] = ()
    hangs_up: bool = False

    def pieces(self) -> list[bytes]:
        """The bytes as they arrive."""
        edges = [0, *self.cuts, len(self.data)]
        return [self.data[a:b] for a, b in itertools.pairwise(edges)]


class Strings:
    """Strings for a model with these rows, one block after the other."""

    def __init__(self, rows: Sequence[dict[str, Any]], seed: int) -> None:
        self._rng = Random(seed)
        bodies = _bodies(rows)
        self._tokens = {kind: [_TOKEN.findall(b) for b in found] for kind, found in bodies.items()}
        self._tails = _tails(rows)
        self._http = _connections(bodies)
        self._calls = [_message(rows)]
        self._kept: dict[str, list[bytes]] = {kind: [] for kind in KINDS}
        self._seen: set[tuple[Any, ...]] = set()
        self._makers: dict[str, Callable[[], bytes]] = {
            "http": self._connection,
            "noise": self._noise,
            "binary": self._tensors,
            "grpc": self._call,
            **{kind: self._json_request(kind) for kind in ("predict", "v1", "v2")},
        }

    def block(self, kinds: Sequence[str], count: int) -> list[Sent]:
        """The next ``count`` strings."""
        weights = [KINDS[kind] for kind in kinds]
        return [self._sent(kind) for kind in self._rng.choices(kinds, weights, k=count)]

    def learn(self, sent: Sent, signature: tuple[Any, ...]) -> None:
        """Keep a string that was answered as none before."""
        key = (sent.kind, *signature)
        if key in self._seen or len(sent.data) > 4096:
            return
        kept = self._kept[sent.kind]
        if len(kept) < KEPT:
            self._seen.add(key)
            kept.append(sent.data)

    def _sent(self, kind: str) -> Sent:
        rng, kept = self._rng, self._kept[kind]
        if kept and rng.random() < 0.15:
            data = self._bend(rng.choice(kept), HEADERS if kind in ("http", "noise") else VALUES)
        else:
            data = self._makers[kind]()
        if kind == "grpc":
            return Sent(kind, data)
        cuts: tuple[int, ...] = ()
        if rng.random() < 0.5 and len(data) > 1:
            places = {self._below(len(data)) for _ in range(1 + self._below(5))} - {0}
            cuts = tuple(sorted(places))
        elif rng.random() < 0.01 and len(data) < 600:
            cuts = tuple(range(1, len(data)))
        return Sent(kind, data, cuts, rng.random() < 0.05)

    def _below(self, limit: int) -> int:
        return int(self._rng.random() * limit)

    # Whole connections.

    def _connection(self) -> bytes:
        rng = self._rng
        parts = [rng.choice(self._http) for _ in range(1 + self._below(3))]
        roll = rng.random()
        if roll < 0.002:
            parts *= 1 + self._below(60)
        data = b"".join(parts)
        if roll > 0.998:
            data = self._huge(data)
        return data if rng.random() < 0.1 else self._bend(data, HEADERS)

    def _huge(self, data: bytes) -> bytes:
        """A header, a URL or many headers beyond every limit, or close to one."""
        size = self._rng.choice([8_000, 9_000, 31_000, 33_000, 300_000])
        what = self._rng.choice([b"X: %s\r\n", b"%s: 1\r\n", b"/%s"])
        at = data.find(b" " if what.startswith(b"/") else b"\r\n") + what.startswith(b"/")
        if self._rng.random() < 0.3:
            return data[: at + 2] + b"a: b\r\n" * (size // 100) + data[at + 2 :]
        return data[: at + 2] + what % (b"a" * size) + data[at + 2 :]

    def _noise(self) -> bytes:
        rng = self._rng
        size = 1 + self._below(80 if rng.random() < 0.95 else 5000)
        return rng.randbytes(size)

    # Bodies.

    def _json_request(self, kind: str) -> Callable[[], bytes]:
        head = f"POST {_ROUTES[kind]} HTTP/1.1\r\nHost: a\r\n".encode()

        def make() -> bytes:
            body = self._body(kind)
            return b"%sContent-Length: %d\r\n\r\n%s" % (head, len(body), body)

        return make

    def _body(self, kind: str) -> bytes:
        rng = self._rng
        roll = rng.random()
        if roll < 0.03:
            return self._noise()
        tokens = list(rng.choice(self._tokens[kind]))
        for _ in range(0 if roll < 0.1 else 1 if roll < 0.6 else 2 + self._below(3)):
            self._bend_tokens(tokens)
        body = b"".join(tokens)
        return self._bend(body, VALUES) if roll > 0.9 else body

    def _bend_tokens(self, tokens: list[bytes]) -> None:
        if not tokens:
            return
        roll, at = self._rng.random(), self._below(len(tokens))
        if roll < 0.6:
            while tokens[at] in _PUNCTUATION and self._rng.random() < 0.9:
                at = self._below(len(tokens))
            tokens[at] = self._rng.choice(VALUES)
        elif roll < 0.75:
            tokens[at] = self._rng.choice(tokens)
        elif roll < 0.85:
            del tokens[at : at + 1 + self._below(4)]
        elif roll < 0.95:
            tokens[at:at] = tokens[at : at + 1 + self._below(8)]
        else:
            tokens[at:at] = tokens[at : at + 2] * self._below(300)

    def _tensors(self) -> bytes:
        rng = self._rng
        which = self._below(len(self._tails))
        tokens = list(self._tokens["binary"][which])
        tail = self._tails[which]
        roll = rng.random()
        for _ in range(self._below(3)):
            self._bend_tokens(tokens)
        if roll < 0.5:
            tail = self._bend(tail, [b"\xff" * 4, b"\x00" * 8, b"\x00\x00\xf0\x7f", b"\xff" * 8])
        document = b"".join(tokens)
        length: bytes = b"%d" % len(document)
        if roll > 0.9:
            length = rng.choice([b"%d" % (len(document) + self._below(5) - 2), b"+1", b"-1", b"1_0",
                                 b"9" * 30, b"", b"0", b"\xb2"])  # fmt: skip
        return b"".join(
            (
                f"POST {_ROUTES['binary']} HTTP/1.1\r\nContent-Type: application/octet-stream\r\n"
                f"Inference-Header-Content-Length: ".encode(),
                length,
                b"\r\nContent-Length: %d\r\n\r\n" % (len(document) + len(tail)),
                document,
                tail,
            )
        )

    def _call(self) -> bytes:
        return self._bend(
            self._rng.choice(self._calls), [b"\xff" * 9 + b"\x01", b"\x0a\xff", b"\x08"]
        )

    # Any bytes.

    def _bend(self, data: bytes, words: Sequence[bytes]) -> bytes:
        rng = self._rng
        for _ in range(1 + self._below(3)):
            roll = rng.random()
            at = self._below(len(data) + 1)
            if roll < 0.35:
                data = data[:at] + rng.choice(words) + data[at:]
            elif roll < 0.55:
                data = data[:at] + bytes((self._below(256),)) + data[at + 1 :]
            elif roll < 0.7:
                data = data[:at] + data[at + 1 + self._below(16) :]
            elif roll < 0.8:
                data = data[:at] + data[max(0, at - self._below(40)) :]
            elif roll < 0.9:
                data = data[:at] + rng.choice(words) + data[at + self._below(12) :]
            else:
                data = data[:at]
        return data


def _bodies(rows: Sequence[dict[str, Any]]) -> dict[str, list[bytes]]:
    first, few = rows[0], list(rows[:3])
    names = list(first)
    lists = [list(row.values()) for row in few]
    tensors = [
        {"name": n, "shape": [3], "datatype": _datatype(first[n]), "data": [r[n] for r in few]}
        for n in names
    ]
    nested = [{**t, "shape": [3, 1], "data": [[v] for v in t["data"]]} for t in tensors]
    wanted = [{"name": "score"}, {"name": "label", "parameters": {"binary_data": True}}]
    documents: dict[str, list[Any]] = {
        "predict": [first, few, {n: [r[n] for r in few] for n in names}, {**first, "other": 1}],
        "v1": [{"instances": lists}, {"instances": few}, {"inputs": lists[:1]}],
        "v2": [
            {"inputs": tensors},
            {"id": "7", "inputs": nested, "outputs": wanted},
            {"inputs": tensors, "parameters": {"binary_data_output": True}},
        ],
        "binary": [_binary_document(rows), {**_binary_document(rows), "outputs": wanted}],
    }
    return {k: [json.dumps(d).encode() for d in found] for k, found in documents.items()}


def _datatype(value: Any) -> str:
    kinds = {bool: "BOOL", int: "INT64", float: "FP64", str: "BYTES"}
    return kinds[type(value)]


def _tensor_bytes(row: dict[str, Any]) -> list[bytes]:
    return [_one_tensor(value) for value in row.values()]


def _one_tensor(value: Any) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", len(value)) + value.encode()
    return struct.pack({bool: "<?", int: "<q", float: "<d"}[type(value)], value)


def _binary_document(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "inputs": [
            {"name": name, "shape": [1], "datatype": _datatype(value),
             "parameters": {"binary_data_size": len(_one_tensor(value))}}
            for name, value in rows[0].items()
        ]
    }  # fmt: skip


def _tails(rows: Sequence[dict[str, Any]]) -> list[bytes]:
    """What follows each of the documents of kind binary."""
    return [b"".join(_tensor_bytes(rows[0]))] * 2


def _message(rows: Sequence[dict[str, Any]]) -> bytes:
    """A serialised ``ModelInferRequest``."""
    from sluice.runtime.protocols.grpc_messages import MESSAGES

    message = MESSAGES["ModelInferRequest"](model_name=MODEL, model_version="v2", id="7")
    for name, value in rows[0].items():
        message.inputs.add(name=name, datatype=_datatype(value), shape=[1])
        message.raw_input_contents.append(_one_tensor(value))
    return bytes(message.SerializeToString())


def _connections(bodies: dict[str, list[bytes]]) -> list[bytes]:
    body = bodies["predict"][0]
    post = b"POST /predict HTTP/1.1\r\nHost: a\r\n"
    hidden = b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n" % FORBIDDEN
    length = b"Content-Length: %d\r\n" % len(body)
    chunked = b"Transfer-Encoding: chunked\r\n"
    half = len(body) // 2
    chunks = b"%x\r\n%s\r\n%x;x=y\r\n%s\r\n0\r\nTrailer: 1\r\n\r\n" % (
        half, body[:half], len(body) - half, body[half:],
    )  # fmt: skip
    made = [f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode() for path in GETS]
    made += [b"HEAD /docs HTTP/1.1\r\nHost: a\r\n\r\n", b"GET / HTTP/1.0\r\n\r\n"]
    made += [
        b"OPTIONS /predict HTTP/1.1\r\nOrigin: https://example.com\r\n"
        b"Access-Control-Request-Method: POST\r\n\r\n",
        b'POST /feedback HTTP/1.1\r\nX-Sluice-Unit: e:12\r\nContent-Length: 11\r\n\r\n{"value":1}',
        post + length + b"\r\n" + body,
        post + chunked + b"\r\n" + chunks,
        post + length + b"Expect: 100-continue\r\n\r\n" + body,
        post + length + b"Connection: close\r\n\r\n" + body,
    ]
    ambiguous = [
        length + chunked,
        chunked + length,
        length + length,
        b"Content-Length: 1\r\n" + length,
    ]
    made += [post + lines + b"\r\n" + b"0\r\n\r\n" + hidden for lines in ambiguous]
    inside = b"Content-Length: %d\r\n\r\n%s" % (len(hidden), hidden)
    return [*made, post + inside]
