"""What a hostile model would try.  This very file is the source in a package of class Code.

When it is imported it tries everything and prints the outcomes to standard error as one line of
JSON behind ATTEMPTS.  ``None`` is an attempt that succeeded, else it is the error.
"""

import contextlib
import ctypes
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np

LIBC = ctypes.CDLL(None, use_errno=True)


class Odd:
    """Says x > 0."""

    classes_ = np.array(["no", "yes"])

    def predict_proba(self, frame):
        p = (np.asarray(frame, dtype=float)[:, 0] > 0).astype(float)
        return np.column_stack([1 - p, p])


class Denied(Exception):
    """An attempt that says no without raising."""


def by_number(number, *arguments):
    answer = LIBC.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments))
    if answer < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return answer


def connect(port):
    with socket.create_connection(("127.0.0.1", port), 5):
        pass


def in_thread(function):
    raised = []

    def run():
        try:
            function()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]


def fork():
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


def system(command):
    if os.system(command) != 0:
        raise Denied("os.system")


def spawn(command):
    os.waitpid(os.posix_spawn(command[0], command, os.environ), 0)


def start_process():
    process = multiprocessing.get_context("fork").Process(target=int)
    process.start()
    process.join()


def datagram(name):
    one, two = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with one, two:
        one.sendto(b"x", name)


def inject():
    """A line for the shell behind the terminal; without a terminal another error comes first."""
    if LIBC.ioctl(0, 0x5412, ctypes.c_char_p(b"\n")) != 0:
        raise OSError(ctypes.get_errno(), "TIOCSTI")


def ring():
    settings = ctypes.create_string_buffer(120)
    os.close(by_number(425, 1, ctypes.addressof(settings)))


def attempts(home, port, marker):
    parent = os.getppid()
    secret, theirs, made = home / "secret", home / "theirs", str(marker)
    return {
        "connect": lambda: connect(port),
        "connect from a thread": lambda: in_thread(lambda: connect(port)),
        "inet": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM).close(),
        "inet6": lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).close(),
        "unix": lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM).close(),
        "netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close(),
        "name resolution": lambda: socket.getaddrinfo("localhost", port),
        "datagram to a name": lambda: datagram(str(home / "datagrams")),
        "fork": fork,
        "system": lambda: system(f"mkdir {made}"),
        "subprocess": lambda: subprocess.run(["/bin/mkdir", made + "4"], check=True),
        "posix_spawn": lambda: spawn(["/bin/mkdir", made + "5"]),
        "multiprocessing": start_process,
        "signal": lambda: os.kill(parent, 0),
        "memory of the parent": lambda: Path(f"/proc/{parent}/mem").open("r+b").close(),
        "environment of the parent": lambda: Path(f"/proc/{parent}/environ").read_bytes(),
        "write": lambda: Path(made + "1").write_text("x"),
        "mkdir": lambda: Path(made + "2").mkdir(),
        "symlink": lambda: Path(made + "3").symlink_to("/"),
        "temporary file": lambda: tempfile.TemporaryFile().close(),
        "shared memory": lambda: Path("/dev/shm", f"attempt-{port}").write_text("x"),
        "append": lambda: theirs.open("a").close(),
        "truncate": lambda: os.truncate(theirs, 0),
        "chmod": lambda: theirs.chmod(0o600),
        "times": lambda: os.utime(theirs),
        "rename": lambda: theirs.rename(home / "renamed"),
        "unlink": lambda: (home / "renamed").unlink(),
        "token": lambda: (secret / "token").read_text(),
        "listing": lambda: list(secret.iterdir()),
        "listing of the root": lambda: list(Path("/root").iterdir()),
        "memfd": lambda: os.close(os.memfd_create("x")),
        "TIOCSTI": inject,
        "io_uring": ring,
    }


def outcome(attempt):
    try:
        attempt()
    except BaseException as error:
        return f"{type(error).__name__} {getattr(error, 'errno', None)}"
    return None


def refused_numbers():
    """Every number that the filter refuses, called with nonsense."""
    from sluice.runtime.sandbox import program, syscalls

    column = program.ARCHITECTURES[os.uname().machine]
    tables = syscalls.NETWORK | syscalls.PROCESSES | syscalls.KERNEL
    found = {}
    for name, numbers in (tables | syscalls.WRITING | syscalls.HIDDEN).items():
        if numbers[column] is not None:
            found[name] = outcome(lambda number=numbers[column]: by_number(number, *[-1] * 6))
    for number in (467, 600, 0x40000000 | 41, 0x40000000 | 39, 512, 0x7FFFFFFF):
        found[hex(number)] = outcome(lambda number=number: by_number(number, *[-1] * 6))
    return found


def report():
    home = Path(os.environ["ATTEMPTS_HOME"])
    port, marker = int(os.environ["ATTEMPTS_PORT"]), home / "marker"
    found = {name: outcome(a) for name, a in attempts(home, port, marker).items()}
    if os.environ["ATTEMPTS_NUMBERS"] == "1":
        found |= refused_numbers()
    print("ATTEMPTS", json.dumps(found), file=sys.stderr, flush=True)


if "ATTEMPTS_HOME" in os.environ:
    with contextlib.suppress(BrokenPipeError):
        report()
