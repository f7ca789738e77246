"""The instance's own user, network, mount, PID and IPC namespaces.

``decide`` (called by ``up``) tries everything the mode needs in a throw-away child and says why
when something is refused; ``isolate`` (called by the supervisor) does it for good.  Standard
library only: ``isolate`` needs a single-threaded process.
"""

from __future__ import annotations

import ipaddress
import os
import platform
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

from sluice.local import linux, netlink
from sluice.local.settings import CLUSTER_DOMAIN, Mode, Settings, python_path


def decide(wanted: str, nft: str | None) -> tuple[Mode, bool, str]:
    """(mode, own user namespace?, why) for ``wanted`` = auto, net or rewrite."""
    if wanted == "rewrite":
        return "rewrite", False, "as asked"
    reason = "the program nft is missing (Debian/Ubuntu: apt-get install nftables)"
    if nft is not None:
        reason = _too_old(nft, platform.release()) or _probe(nft, user_namespace=True)
        if not reason:
            return "net", True, "own user, network, mount and PID namespaces"
        refused = "refused" in reason
        if refused and os.geteuid() == 0 and not _probe(nft, user_namespace=False):
            return "net", False, f"own network, mount and PID namespaces as root ({reason})"
    return "rewrite", False, reason


def _too_old(nft: str, kernel: str) -> str:
    """What kube-proxy's nftables mode asks for: nft 1.0.1 and Linux 5.13."""
    shown = subprocess.run([nft, "--version"], capture_output=True, text=True, check=False).stdout
    for name, text, least in (("nft", shown, (1, 0, 1)), ("Linux", kernel, (5, 13, 0))):
        found = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
        if found and tuple(int(n or 0) for n in found.groups()) < least:
            return f"{name} {found[0]} is too old, {'.'.join(map(str, least))} is needed"
    return ""


def _probe(nft: str, *, user_namespace: bool) -> str:
    """Empty when everything works, else one phrase."""
    argv = [sys.executable, "-m", "sluice.local.namespace", nft, "user" if user_namespace else ""]
    env = {**os.environ, "PYTHONPATH": python_path()}
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=20, env=env, check=False
        )
    except subprocess.TimeoutExpired:
        return "creating namespaces did not finish within 20 s"
    if done.returncode == 0:
        return ""
    lines = (done.stderr or done.stdout).strip().splitlines()
    return lines[-1] if lines else f"creating namespaces failed ({done.returncode})"


def isolate(*, user_namespace: bool) -> int:
    """Leave the host's namespaces and fork: 0 in the child (PID 1), its PID in the parent."""
    uid, gid = os.geteuid(), os.getegid()
    flags = linux.CLONE_NEWNS | linux.CLONE_NEWNET | linux.CLONE_NEWPID | linux.CLONE_NEWIPC
    if user_namespace:
        linux.unshare(flags | linux.CLONE_NEWUSER)
        linux.map_own_user(uid, gid)
    else:
        linux.unshare(flags)
    child = os.fork()
    if child == 0:
        linux.mount("none", "/", None, linux.MS_REC | linux.MS_PRIVATE)
        linux.mount("proc", "/proc", "proc", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC)
    return child


def configure_network(settings: Settings) -> None:
    """Inside: the node's address, and a route that brings Service addresses to nftables.

    Pods are routed, not bridged: each has a link of its own and a route to it, so all they send
    passes the node's nftables and their own addresses are seen at the other end.
    """
    loopback = socket.if_nametoindex("lo")
    services = ipaddress.ip_network(settings.service_network)
    host = settings.host_ip
    with netlink.Netlink() as link:
        link.set_up(loopback)
        link.add_address(loopback, host, 32)
        # Only this range: a default route on lo would make every look-up of a name hang.
        link.add_route(loopback, to=str(services[0]), prefix=services.prefixlen, source=host)
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")


def use_cluster_dns(settings: Settings) -> None:
    """Inside: programs started by ``enter`` resolve Services like pods do."""
    own = settings.run_dir / "resolv.conf"
    own.write_text(resolv_conf(settings.host_ip, "default"))
    target = Path("/etc/resolv.conf").resolve()
    if target.exists():
        linux.mount(str(own), str(target), None, linux.MS_BIND)


def resolv_conf(server: str, namespace: str) -> str:
    """What the kubelet writes for dnsPolicy ClusterFirst."""
    search = f"{namespace}.svc.{CLUSTER_DOMAIN} svc.{CLUSTER_DOMAIN} {CLUSTER_DOMAIN}"
    return f"nameserver {server}\nsearch {search}\noptions ndots:5\n"


def _try_everything(nft: str) -> None:
    """Inside a throw-away namespace: each thing that mode net will need."""
    with netlink.Netlink() as link, Path("/proc/self/ns/net").open() as here:
        link.add_veth("v0", "v1", netlink.mac_of("198.18.0.16"), here.fileno())
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    rules = (
        "add table ip t; add chain ip t c { type nat hook prerouting priority 0; };"
        "add rule ip t c ip daddr 198.19.0.1 dnat to 198.18.0.1"
    )
    done = subprocess.run([nft, rules], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"nft is refused: {done.stderr.strip().splitlines()[0]}")
    linux.mount("tmpfs", "/tmp", "tmpfs", 0)  # noqa: S108 - in a private mount namespace


def _main() -> int:
    nft, user = sys.argv[1], bool(sys.argv[2])
    try:
        child = isolate(user_namespace=user)
    except OSError as error:
        kind = "user namespaces are" if user else "creating namespaces is"
        print(f"{kind} refused here ({error.strerror})", file=sys.stderr)
        return 1
    if child:
        signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGKILL))
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) and 1
    try:
        _try_everything(nft)
    except OSError as error:
        print(f"network namespaces do not work here ({error})", file=sys.stderr)
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    sys.exit(_main())
