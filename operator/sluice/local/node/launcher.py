"""The small process that forks containers: namespaces, mounts and exec without subprocesses.

Started once by the agent (``launch.Launcher``), which sends requests over a socket pair and gets
answers and exit notices back.  It is single-threaded and imports the standard library only, so a
fork costs about a millisecond and is safe.  In mode net every pod has a network namespace and
every container its own PID, mount, UTS and IPC namespaces; in mode rewrite only a session.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import socket
import sys
from typing import Any, NoReturn

from sluice.local import linux, netlink
from sluice.local.node import rootfs

_KINDS = (
    ("net", linux.CLONE_NEWNET),
    ("pid", linux.CLONE_NEWPID),
    ("uts", linux.CLONE_NEWUTS),
    ("ipc", linux.CLONE_NEWIPC),
    ("mnt", linux.CLONE_NEWNS),
)


class Launcher:
    """Carries out the agent's requests, one after the other."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._own_net = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._own_pid = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self._sandboxes: dict[str, int] = {}
        self._children: set[int] = set()
        self._wakeup, wake = socket.socketpair()
        self._wakeup.setblocking(False)
        wake.setblocking(False)
        self._wake = wake
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def run(self) -> None:
        """Until the agent closes the channel; then every container ends with us."""
        while True:
            ready, _, _ = select.select([self._channel, self._wakeup], [], [])
            if self._wakeup in ready:
                with contextlib.suppress(BlockingIOError):
                    self._wakeup.recv(4096)
                self._reap()
            if self._channel in ready and not self._serve():
                break
        for pid in self._children:
            self._kill(pid, signal.SIGKILL)

    def _serve(self) -> bool:
        try:
            raw, descriptors, _, _ = socket.recv_fds(self._channel, 1 << 18, 8)
        except ConnectionError:
            return False
        if not raw:
            return False
        request = json.loads(raw)
        if request.get("long"):
            with os.fdopen(descriptors.pop(), "rb") as body:
                request = json.load(body)
        try:
            answer = getattr(self, f"_do_{request['op']}")(request, descriptors) or {}
        except Exception as error:
            answer = {"error": str(error) or repr(error)}
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        self._channel.send(json.dumps({"id": request["id"], **answer}).encode())
        return True

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._children.discard(pid)
            code = os.waitstatus_to_exitcode(status)
            self._channel.send(json.dumps({"exit": pid, "code": code}).encode())

    # -- pods' networks

    def _do_sandbox(self, request: dict[str, Any], _: list[int]) -> None:
        """A network namespace with one address, routed by the node; a descriptor keeps it."""
        uid, ip = request["uid"], request["ip"]
        linux.unshare(linux.CLONE_NEWNET)
        try:
            inner = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            with netlink.Netlink() as link:
                linux.setns(self._own_net, linux.CLONE_NEWNET)
                with netlink.Netlink() as outer:
                    outer.add_veth(request["link"], "eth0", netlink.mac_of(ip), inner)
                    index = socket.if_nametoindex(request["link"])
                    outer.add_route(index, to=ip, prefix=32)
                linux.setns(inner, linux.CLONE_NEWNET)
                link.set_up(socket.if_nametoindex("lo"))
                index = socket.if_nametoindex("eth0")
                link.add_address(index, ip, 32)
                link.set_up(index)
                link.add_route(index, to=request["gateway"], prefix=32)
                link.add_route(index, via=request["gateway"])
        finally:
            linux.setns(self._own_net, linux.CLONE_NEWNET)
        self._sandboxes[uid] = inner

    def _do_drop(self, request: dict[str, Any], _: list[int]) -> None:
        """Forget a pod's network; the kernel removes it with its last process."""
        descriptor = self._sandboxes.pop(request["uid"], None)
        if descriptor is not None:
            os.close(descriptor)

    # -- processes

    def _do_start(self, request: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
        """A container's main process, PID 1 of its own world in mode net."""
        isolated = request["root"] is not None

        def prepare() -> None:
            if not isolated:
                os.chdir(request["cwd"])
                return
            sandbox = self._sandboxes.get(request["uid"])
            if sandbox is not None:
                linux.setns(sandbox, linux.CLONE_NEWNET)
            linux.unshare(linux.CLONE_NEWNS | linux.CLONE_NEWUTS | linux.CLONE_NEWIPC)
            linux.set_hostname(request["hostname"])
            rootfs.enter(request["root"], request["cwd"])

        if not isolated:
            return self._fork(request, descriptors, prepare)
        linux.unshare(linux.CLONE_NEWPID)
        try:
            return self._fork(request, descriptors, prepare)
        finally:
            linux.setns(self._own_pid, linux.CLONE_NEWPID)

    def _do_exec(self, request: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
        """Another process in a running container."""
        pid = request["pid"]
        if pid not in self._children:
            raise ProcessLookupError("the container is not running")
        if not request["isolated"]:
            return self._fork(request, descriptors, lambda: os.chdir(request["cwd"]))
        spaces = {k: os.open(f"/proc/{pid}/ns/{k}", os.O_RDONLY | os.O_CLOEXEC) for k, _ in _KINDS}

        def prepare() -> None:
            for name, kind in _KINDS:
                if name != "pid":
                    linux.setns(spaces[name], kind)
            os.chdir(request["cwd"])

        linux.setns(spaces["pid"], linux.CLONE_NEWPID)
        try:
            return self._fork(request, descriptors, prepare)
        finally:
            linux.setns(self._own_pid, linux.CLONE_NEWPID)
            for descriptor in spaces.values():
                os.close(descriptor)

    def _do_kill(self, request: dict[str, Any], _: list[int]) -> None:
        """A signal to a child; to its whole group where no PID namespace ends the others."""
        if request["pid"] in self._children:
            self._kill(request["pid"], request["signal"], group=request["group"])

    @staticmethod
    def _kill(pid: int, number: int, *, group: bool = False) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            (os.killpg if group else os.kill)(pid, number)

    def _fork(
        self, request: dict[str, Any], descriptors: list[int], prepare: Any
    ) -> dict[str, Any]:
        """Fork, prepare, exec; an error on the way comes back as text."""
        report, out = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0:
            self._become(request, descriptors, prepare, out)
        os.close(out)
        with os.fdopen(report, "rb") as pipe:
            problem = pipe.read().decode(errors="replace")
        if problem:
            os.waitpid(pid, 0)
            return {"error": problem}
        self._children.add(pid)
        return {"pid": pid}

    @staticmethod
    def _become(request: dict[str, Any], fds: list[int], prepare: Any, out: int) -> NoReturn:
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setsid()
            linux.die_with_parent(signal.SIGKILL)
            prepare()
            if request.get("tty"):
                import fcntl
                import termios

                fcntl.ioctl(fds[0], termios.TIOCSCTTY, 0)
            for number in range(3):
                os.dup2(fds[number], number)
            hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            os.umask(0o022)
            os.execvpe(request["argv"][0], request["argv"], request["env"])  # noqa: S606
        except BaseException as error:
            text = error.strerror if isinstance(error, FileNotFoundError) else str(error)
            os.write(out, (text or repr(error)).encode()[:4000])
        os._exit(127)


def main() -> None:
    """``python -m sluice.local.node.launcher FD``."""
    linux.die_with_parent(signal.SIGKILL)
    # Ctrl-C and friends are the agent's business.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    channel = socket.socket(fileno=int(sys.argv[1]))
    Launcher(channel).run()


if __name__ == "__main__":
    main()
