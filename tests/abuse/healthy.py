"""A client that behaves: a prediction every few milliseconds, each answer checked.

    python -m tests.abuse.healthy PORT

It asks until its standard input ends, then prints what it saw as JSON.  Every tenth request goes
over a connection of its own, with one to /livez.  It is a process of its own, so that what attacks
the server does not slow it down.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

EVERY = 0.01
PATIENCE = 10.0
BODY = b'{"age":44,"income":51000.0,"plan":"pro","active":false}'
ANSWER = "leaves"


class Client:
    """Asks one after the other."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._connection = self._connected()
        self.seconds: list[float] = []
        self.alive: list[float] = []
        self.failures: list[str] = []

    def _connected(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)

    def ask(self, number: int) -> None:
        """One request; a new connection for every tenth and after a failure."""
        began = time.monotonic()
        try:
            if number % 10 == 0:
                self._connection.close()
                self._connection = self._connected()
                self._check("GET", "/livez", None, b"ok\n")
                self.alive.append(time.monotonic() - began)
                began = time.monotonic()
            document = json.loads(self._check("POST", "/predict", BODY))
            if document["predictions"][0]["label"] != ANSWER:
                raise ValueError(f"a wrong answer: {document}")
            self.seconds.append(time.monotonic() - began)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.failures.append(f"{type(error).__name__}: {error}"[:200])
            self._connection.close()

    def _check(
        self, method: str, path: str, body: bytes | None, expected: bytes | None = None
    ) -> bytes:
        self._connection.request(method, path, body)
        response = self._connection.getresponse()
        raw = response.read()
        if response.status != 200 or (expected is not None and raw != expected):
            raise ValueError(f"status {response.status}: {raw[:100]!r}")
        return raw


class Seen:
    """What a healthy client saw."""

    def __init__(self, said: dict[str, Any]) -> None:
        self.seconds: list[float] = sorted(said["seconds"])
        self.alive: list[float] = sorted(said["alive"])
        self.failures: list[str] = said["failures"]

    @property
    def asked(self) -> int:
        """How often it asked."""
        return len(self.seconds) + len(self.failures)

    def milliseconds(self, share: float) -> float:
        """The time that this share of its answers took at most."""
        return self.seconds[int(share * (len(self.seconds) - 1))] * 1e3 if self.seconds else 0.0


@contextlib.contextmanager
def asking(port: int) -> Iterator[list[Seen]]:
    """A healthy client while the block runs; then what it saw is in the list."""
    command = [sys.executable, "-m", "tests.abuse.healthy", str(port)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    seen: list[Seen] = []
    try:
        yield seen
        said, _ = process.communicate(timeout=PATIENCE + 10)
        seen.append(Seen(json.loads(said)))
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def main() -> int:
    """Ask until standard input ends."""
    client, ended = Client(int(sys.argv[1])), threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    number = 0
    while not ended.wait(EVERY):
        client.ask(number)
        number += 1
    said = {"seconds": client.seconds, "alive": client.alive, "failures": client.failures}
    print(json.dumps(said))
    return 0


if __name__ == "__main__":
    sys.exit(main())
