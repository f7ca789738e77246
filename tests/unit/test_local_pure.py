"""The parts of the process node that decide without doing: each rule is the kubelet's."""

from __future__ import annotations

import io
import itertools
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from dnslib import QTYPE, RCODE, DNSQuestion, DNSRecord

from sluice.local.node import dns, environment, images, kubelet_api, portforward, probes, status
from sluice.local.node.container import rewrite
from sluice.local.node.spdy_dictionary import DICTIONARY
from sluice.local.node.volumes import write_atomically
from sluice.local.settings import Settings

POD: dict[str, Any] = {
    "metadata": {
        "name": "p-0",
        "namespace": "ns",
        "uid": "u",
        "labels": {"app": "web", "b": 'say "hi"'},
        "annotations": {"a/b": "c"},
    },
    "spec": {"nodeName": "local", "serviceAccountName": "sa", "containers": []},
}


# -- environment


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("$(A)-$(A)", "1-1"),
        ("$$(A)", "$(A)"),
        ("$(MISSING)", "$(MISSING)"),
        ("$A ${A} $", "$A ${A} $"),
    ],
)
def test_expand(text: str, expanded: str) -> None:
    assert environment.expand(text, {"A": "1"}) == expanded


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata.name", "p-0"),
        ("metadata.labels['app']", "web"),
        ("metadata.annotations['a/b']", "c"),
        ("metadata.labels", 'app="web"\nb="say \\"hi\\""'),
        ("status.podIP", "10.0.0.1"),
        ("spec.serviceAccountName", "sa"),
    ],
)
def test_field_references(path: str, value: str) -> None:
    assert environment.field_value(POD, "10.0.0.1", "10.0.0.254", path) == value


def test_unknown_field_is_a_configuration_error() -> None:
    with pytest.raises(environment.ConfigError, match=r"status\.mood"):
        environment.field_value(POD, "", "", "status.mood")


@pytest.mark.parametrize(
    ("text", "number"),
    [("250m", 0.25), ("2", 2), ("1Ki", 1024), ("1.5Gi", 1.5 * 2**30), ("2M", 2e6), (3, 3)],
)
def test_quantity(text: str | int, number: float) -> None:
    assert environment.quantity(text) == number


def test_resource_references_round_up_and_fall_back_to_the_node() -> None:
    containers = [{"name": "c", "resources": {"limits": {"cpu": "1500m", "memory": "1Gi"}}}]
    value = environment.resource_value
    node = {"cpu": "8", "memory": "64Gi"}
    assert value(containers, "c", {"resource": "limits.cpu"}, node) == "2"
    assert value(containers, "c", {"resource": "limits.memory", "divisor": "1Mi"}, node) == "1024"
    assert value([{"name": "c"}], "c", {"resource": "limits.cpu"}, node) == "8"
    assert value([{"name": "c"}], "c", {"resource": "requests.cpu"}, node) == "0"


def test_rewrite_replaces_whole_path_prefixes_only() -> None:
    mounts: Any = [
        {"source": "/s/a", "target": "/etc/app", "read_only": True},
        {"source": "/s/b", "target": "/etc/app/sub", "read_only": True},
    ]
    argv, env = rewrite(
        ["--file=/etc/app/x", "/etc/app/sub/y", "/etc/apple", "/opt/etc/app"],
        {"DIR": "/etc/app:/tmp", "PATH": "/etc/app"},
        mounts,
    )
    assert argv == ["--file=/s/a/x", "/s/b/y", "/etc/apple", "/opt/etc/app"]
    assert env == {"DIR": "/s/a:/tmp", "PATH": "/etc/app"}


# -- images


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("haproxy:3.2", "haproxy"),
        ("docker.io/library/haproxy@sha256:abc", "library/haproxy"),
        ("localhost:5000/team/sluice:1", "team/sluice"),
        ("ghcr.io/x/sluice:1@sha256:ab", "x/sluice"),
        ("team/app", "team/app"),
    ],
)
def test_repository_of_an_image(image: str, name: str) -> None:
    assert images.repository(image) == name


def test_image_table(tmp_path: Path) -> None:
    settings = Settings("t", tmp_path, "net", True, 1, programs={"haproxy": "/opt/haproxy"})
    table = images.Images(settings)
    assert table.find("ghcr.io/x/sluice:1").argv[-2:] == ("-m", "sluice.cli")
    assert table.find("haproxy").argv == ("/opt/haproxy",)
    assert table.find("busybox").argv == ()
    images.add(tmp_path, "busybox", ["/bin/echo", "hi"])
    assert table.find("busybox:1.36").argv == ("/bin/echo", "hi")


# -- status


def _container(**state: Any) -> status.ContainerState:
    return status.ContainerState("c", "i", state=state)


def _ended(code: int) -> status.ContainerState:
    return _container(terminated={"exitCode": code})


@pytest.mark.parametrize(
    ("containers", "policy", "phase"),
    [
        ([_container(waiting={})], "Always", "Pending"),
        ([_container(running={})], "Always", "Running"),
        ([_ended(0), _container(running={})], "Never", "Running"),
        ([_ended(0), _ended(0)], "Never", "Succeeded"),
        ([_ended(0), _ended(0)], "OnFailure", "Succeeded"),
        ([_ended(0), _ended(1)], "Never", "Failed"),
        ([_ended(1)], "OnFailure", "Running"),
        ([_ended(0)], "Always", "Running"),
    ],
)
def test_phase(containers: list[status.ContainerState], policy: str, phase: str) -> None:
    found = status.phase(containers, initialized=True, init_failed=False, policy=policy)
    assert found == phase


def test_phase_while_and_after_init_containers() -> None:
    waiting = [_container(waiting={})]
    before = status.phase(waiting, initialized=False, init_failed=False, policy="Always")
    failed = status.phase(waiting, initialized=False, init_failed=True, policy="Never")
    assert (before, failed) == ("Pending", "Failed")


def test_readiness_gate_holds_ready_back_and_is_named() -> None:
    gated: dict[str, Any] = {
        "metadata": {"generation": 1},
        "spec": {"readinessGates": [{"conditionType": "x/y"}]},
        "status": {"conditions": [{"type": "ContainersReady", "status": "True"}]},
    }

    def conditions() -> dict[str, Any]:
        report = status.conditions(
            gated, phase="Running", initialized=True, sandbox=True, containers_ready=True
        )
        return {c["type"]: c for c in report}

    held = conditions()
    assert held["ContainersReady"]["status"] == "True"
    assert held["Ready"]["reason"] == "ReadinessGatesNotReady"
    assert "x/y" in held["Ready"]["message"]
    gated["status"]["conditions"].append({"type": "x/y", "status": "True"})
    assert conditions()["Ready"]["status"] == "True"


def test_transition_time_changes_only_with_the_status() -> None:
    then = "2020-01-01T00:00:00Z"
    known = [{"type": "Ready", "status": "True", "lastTransitionTime": then}]
    pod = {"metadata": {}, "spec": {}, "status": {"conditions": known}}

    def ready(holds: bool) -> dict[str, Any]:
        return status.conditions(
            pod, phase="Running", initialized=True, sandbox=True, containers_ready=holds
        )[-1]

    assert ready(True)["lastTransitionTime"] == then
    assert ready(False)["lastTransitionTime"] != then


# -- probes


def test_thresholds_count_results_in_a_row() -> None:
    verdict = probes.Verdict({"successThreshold": 2, "failureThreshold": 3})
    seen = [verdict.see(c == "+") for c in "+-+ +---+".replace(" ", "")]
    assert seen == [None, None, None, True, None, None, False, None]


def test_port_names() -> None:
    container = {"ports": [{"name": "http", "containerPort": 8080}]}
    assert [probes.port_number(container, p) for p in (1, "2", "http")] == [1, 2, 8080]
    with pytest.raises(ValueError, match="nope"):
        probes.port_number(container, "nope")


# -- DNS


def _service(name: str, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "ns"}, "spec": spec}


def _zone(**more: Any) -> dns.Zone:
    services = {
        ("ns", "web"): _service("web", clusterIP="198.19.0.7", selector={"app": "web"}),
        ("ns", "pods"): _service(
            "pods",
            clusterIP="None",
            selector={"app": "web"},
            ports=[{"name": "http", "port": 80, "targetPort": "web"}],
        ),
        ("ns", "out"): _service("out", type="ExternalName", externalName="example.com"),
    }
    pods = [
        dns.Endpoint("ns", "a", "198.18.0.1", True, {"app": "web"}, "a", "pods", {"web": 8080}),
        dns.Endpoint("ns", "b", "198.18.0.2", False, {"app": "web"}, "b", "pods"),
        dns.Endpoint("other", "c", "198.18.0.3", True, {"app": "web"}),
    ]
    return dns.Zone(services, lambda: pods, **more)


def _ask(name: str, kind: str = "A", zone: dns.Zone | None = None) -> DNSRecord:
    question = DNSRecord(q=DNSQuestion(name, getattr(QTYPE, kind)))
    return DNSRecord.parse(dns.answer(zone or _zone(), bytes(question.pack())))


@pytest.mark.parametrize(
    ("name", "addresses"),
    [
        ("web.ns.svc.cluster.local", ["198.19.0.7"]),
        ("WEB.ns.svc.cluster.local.", ["198.19.0.7"]),
        ("pods.ns.svc.cluster.local", ["198.18.0.1"]),
        ("a.pods.ns.svc.cluster.local", ["198.18.0.1"]),
        ("198-18-0-9.ns.pod.cluster.local", ["198.18.0.9"]),
        ("localhost", ["127.0.0.1"]),
    ],
)
def test_addresses(name: str, addresses: list[str]) -> None:
    assert [str(r.rdata) for r in _ask(name).rr] == addresses


@pytest.mark.parametrize(
    "name",
    ["no.ns.svc.cluster.local", "b.pods.ns.svc.cluster.local", "example.com", "cluster.local"],
)
def test_names_that_do_not_exist(name: str) -> None:
    assert _ask(name).header.rcode == RCODE.NXDOMAIN


def test_no_ipv6_is_an_empty_answer_not_a_missing_name() -> None:
    reply = _ask("web.ns.svc.cluster.local", "AAAA")
    assert (reply.header.rcode, reply.rr) == (RCODE.NOERROR, [])


def test_srv_and_external_name() -> None:
    (record,) = _ask("_http._tcp.pods.ns.svc.cluster.local", "SRV").rr
    assert record.rdata.port == 8080
    (record,) = _ask("out.ns.svc.cluster.local").rr
    assert str(record.rdata) == "example.com."


def test_pods_answer_where_no_cluster_ip_does() -> None:
    reply = _ask("web.ns.svc.cluster.local", zone=_zone(virtual_ips=False))
    assert [str(r.rdata) for r in reply.rr] == ["198.18.0.1"]


# -- volumes


def test_files_change_all_at_once_and_only_when_different(tmp_path: Path) -> None:
    target = tmp_path / "v"
    assert write_atomically(target, {"a": (b"1", 0o644), "sub/b": (b"2", 0o600)})
    assert (target / "sub/b").read_bytes() == b"2"
    assert (target / "sub/b").stat().st_mode & 0o777 == 0o600
    version = (target / "..data").readlink()
    assert not write_atomically(target, {"a": (b"1", 0o644), "sub/b": (b"2", 0o600)})
    assert (target / "..data").readlink() == version
    assert write_atomically(target, {"a": (b"3", 0o644)})
    assert sorted(p.name for p in target.iterdir() if not p.name.startswith("..2")) == [
        "..data",
        "a",
    ]
    assert (target / "a").read_bytes() == b"3"
    assert len(list(target.glob("..2*"))) == 1


# -- the kubelet's API


@pytest.mark.parametrize(("lines", "rest"), [(0, ""), (1, "c"), (2, "b\nc"), (9, "a\nb\nc")])
def test_tail_of_a_log(lines: int, rest: str) -> None:
    log = io.BytesIO(b"a\nb\nc")
    log.seek(kubelet_api.tail_offset(log, lines))
    assert log.read().decode() == rest


def test_exit_codes_as_kubectl_reads_them() -> None:
    assert kubelet_api.exec_status(0)["status"] == "Success"
    causes = kubelet_api.exec_status(-9)["details"]["causes"]
    assert causes == [{"reason": "ExitCode", "message": "137"}]


def _syn_stream(deflate: Any, stream: int, headers: dict[str, str]) -> bytes:
    block = struct.pack(">I", len(headers))
    for text in itertools.chain(*headers.items()):
        block += struct.pack(">I", len(text)) + text.encode()
    packed = deflate.compress(block) + deflate.flush(zlib.Z_SYNC_FLUSH)
    payload = struct.pack(">IIH", stream, 0, 0) + packed
    return struct.pack(">HHI", 0x8003, 1, len(payload)) + payload


def test_port_forward_frames_survive_any_cut() -> None:
    deflate = zlib.compressobj(zdict=DICTIONARY)
    sent = _syn_stream(deflate, 1, {"streamtype": "error", "port": "80", "requestid": "0"})
    sent += _syn_stream(deflate, 3, {"streamtype": "data", "port": "80", "requestid": "0"})
    sent += portforward.Frames.data(3, b"hello", fin=True)
    sent += portforward.Frames.ping(struct.pack(">I", 7))
    for size in (1, 5, len(sent)):
        frames, seen = portforward.Frames(), []
        for start in range(0, len(sent), size):
            seen += list(frames.feed(sent[start : start + size]))
        assert [f.kind for f in seen] == ["open", "open", "data", "ping"]
        assert seen[1].headers == {"streamtype": "data", "port": "80", "requestid": "0"}
        assert (seen[2].data, seen[2].fin) == (b"hello", True)


# -- settings


def test_settings_come_back_as_written(tmp_path: Path) -> None:
    settings = Settings("t", tmp_path, "rewrite", False, 1234)
    settings.save()
    assert Settings.load(tmp_path) == settings
    assert json.loads((tmp_path / "instance.json").read_text())["api_port"] == 1234
    assert settings.pod_network.startswith("127.")
    assert settings.pod_network != settings.service_network
