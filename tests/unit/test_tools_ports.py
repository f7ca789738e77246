"""Port numbers for the tests' own servers: nobody else's, and each once."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

from tests.tools.ports import free_port

GIVES = (
    "from tests.tools.ports import free_port; print(*(free_port() for _ in range(150))); input()"
)


def test_processes_that_run_at_once_and_one_process_twice_get_different_numbers() -> None:
    others = [
        subprocess.Popen(
            [sys.executable, "-c", GIVES],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    given = [free_port() for _ in range(150)]
    for other in others:
        assert other.stdout is not None
        given += map(int, other.stdout.readline().split())
    for other in others:
        other.communicate("\n", timeout=30)
    assert len(set(given)) == len(given) == 600


def test_a_number_that_is_listened_on_is_left_out() -> None:
    with socket.create_server(("127.9.9.9", free_port() + 1)) as taken:
        assert taken.getsockname()[1] not in {free_port() for _ in range(110)}
