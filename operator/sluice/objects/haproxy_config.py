"""The text of the router's configuration: haproxy.cfg, its three maps and the script it loads.

Pure; called by ``objects.router``.  docs/router.md explains every choice.  What is **not** in the
file is the point of it: only stable's slot has an address, so a router that restarts, for whatever
reason and with nobody watching, sends every request to stable.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from sluice.api.meta import (
    HEADER_BUCKET,
    HEADER_REVISION,
    HEADER_UNIT,
    PORT_ROUTER_ADMIN,
    PORT_SERVING,
)
from sluice.objects.router_plan import (
    PLAN_KEY,
    SLOTS,
    SPLIT_RESOLUTION,
    SlotTarget,
    Weights,
    unset_target,
)

CONFIG_DIR = "/etc/sluice-router"
TLS_DIR = "/etc/sluice-router-tls"
RUN_DIR = "/run/sluice-router"
PORT_HEALTH = 8081
STOP_SECONDS = 25
"""A router that is told to stop waits this long for requests, and for clients to move away."""

RETRIES = 3
"""Retries of one request, inside its slot.  ``evidence.arms`` counts failures with it."""

UNIT_BUCKETS = 500
UNSET_ADDRESS = "192.0.2.1"
"""TEST-NET: where a slot's ClusterIP server points while it is off."""

CLIENT_CERT_NAME = "sluice-operator"
TOKEN_ENV = "SLUICE_FEEDBACK_TOKEN"  # noqa: S105 - the name of a variable, not a secret
SHORTEST_TOKEN = 16
PREDICT_TABLE = "arms"


@dataclass(frozen=True)
class RouterShape:
    """What a router can only learn by restarting; its hash is part of the pod template.

    ``feedback`` is the Secret and its key that hold the token of ``/feedback``; absent, there is no
    such path.  ``dns`` is ``ADDRESS:PORT``; absent, the pod's resolv.conf is used.
    ``servers_per_slot`` bounds the pods of a revision that get traffic.
    """

    unit_header: str | None = None
    unit_cookie: str | None = None
    feedback: tuple[str, str] | None = None
    dns: str | None = None
    servers_per_slot: int = 32
    max_body_bytes: int = 8 << 20
    cluster_domain: str = "cluster.local"
    bind: str = "${POD_IP}"
    port: int = PORT_SERVING
    health_port: int = PORT_HEALTH
    admin_port: int = PORT_ROUTER_ADMIN
    config_dir: str = CONFIG_DIR
    tls_dir: str = TLS_DIR
    run_dir: str = RUN_DIR
    serving_port: int = PORT_SERVING
    service_port: int = 80
    max_connections: int = 8000
    check_interval_ms: int = 1000


def servers_for(replicas: int) -> int:
    """Servers a slot needs for a revision of ``replicas`` pods and those that replace them.

    In powers of two, so that scaling seldom replaces routers.
    """
    servers = 32
    while servers < replicas + replicas // 4:
        servers *= 2
    return servers


def map_path(shape: RouterShape, name: str) -> str:
    """The path of a map, which is also its name on the runtime API."""
    return f"{shape.config_dir}/{name}.map"


def config_files(
    shape: RouterShape, stable_slot: str, stable: SlotTarget, roles: Mapping[str, object]
) -> dict[str, str]:
    """Every file of the router's ConfigMap."""
    targets = {slot: unset_target(shape.cluster_domain) for slot in SLOTS} | {stable_slot: stable}
    plan = Weights(stable_slot).encode()
    return {
        "haproxy.cfg": haproxy_cfg(shape, stable_slot, stable),
        "mounted.lua": _mounted_lua(shape),
        "weights.map": f"{PLAN_KEY} {plan}\n",
        "revisions.map": "".join(f"{s} {targets[s].revision}\n" for s in SLOTS),
        "timeouts.map": "".join(f"{s} {targets[s].timeout_ms}\n" for s in SLOTS),
        "roles.json": json.dumps(roles, sort_keys=True, separators=(",", ":")) + "\n",
    }


def haproxy_cfg(shape: RouterShape, stable_slot: str, stable: SlotTarget) -> str:
    """haproxy.cfg with everything on ``stable_slot``."""
    sections = [
        _global(shape),
        _defaults(),
        _resolvers(shape),
        _admin(shape),
        _health(shape),
        _users(shape, stable_slot),
        _table(),
    ]
    for slot in SLOTS:
        target = stable if slot == stable_slot else unset_target(shape.cluster_domain)
        sections.append(_slot(shape, slot, target))
    return "\n".join(sections)


def _global(shape: RouterShape) -> str:
    # One thread: 30,000 requests a second are more than a ModelDeployment's router sees, and
    # least-connections and the counters are then exact.
    return f"""\
# Written by the Sluice operator; docs/router.md explains it.
# Weights are not here: they live in the router's memory, and a restarted router serves stable only.
global
  nbthread 1
  maxconn {shape.max_connections}
  no strict-limits
  hard-stop-after {STOP_SECONDS}s
  tune.bufsize 32768
  ssl-default-bind-options ssl-min-ver TLSv1.2
  stats socket {shape.run_dir}/admin.sock mode 600 level admin
  stats timeout 30s
  lua-load {shape.config_dir}/mounted.lua
"""


def _defaults() -> str:
    errors = "\n".join(
        f"  http-error status {status} content-type application/json "
        f'string \'{{"error":"{text}"}}\' hdr Retry-After 1'
        for status, text in (
            (502, "The model server closed the connection without an answer."),
            (503, "No model server is ready to answer."),
            (504, "The model server did not answer in time."),
        )
    )
    return f"""\
defaults
  mode http
  timeout client 60s
  timeout connect 1s
  timeout queue 1s
  timeout server 60s
  timeout http-request 10s
  timeout http-keep-alive 60s
  timeout check 2s
{errors}
"""


def _resolvers(shape: RouterShape) -> str:
    # Without DNS the pods that are known are kept: their own checks say who answers.
    source = f"nameserver cluster {shape.dns}" if shape.dns else "parse-resolv-conf"
    return f"""\
resolvers kube
  {source}
  accepted_payload_size 8192
  timeout resolve 500ms
  timeout retry 300ms
  resolve_retries 2
  hold valid 500ms
  hold nx 500ms
  hold obsolete 500ms
  hold timeout 1d
  hold refused 1d
  hold other 1d
"""


def _admin(shape: RouterShape) -> str:
    # "ssl ... verify required" on a stats socket is accepted and does nothing, so TLS ends here and
    # the unix socket is behind it.  Router certificates are signed by the same CA: the subject is
    # checked too, so that one router's key does not open another router.
    return f"""\
frontend admin
  mode tcp
  timeout client 1m
  bind {shape.bind}:{shape.admin_port} ssl crt {shape.tls_dir}/router.pem \
ca-file {shape.tls_dir}/ca.pem verify required
  tcp-request content reject unless {{ ssl_c_s_dn(cn) -m str {CLIENT_CERT_NAME} }}
  default_backend admin-socket

backend admin-socket
  mode tcp
  timeout server 1m
  server self unix@{shape.run_dir}/admin.sock
"""


def _health(shape: RouterShape) -> str:
    # A ClusterIP server is always up; without one, a router that has not resolved a pod yet is not
    # ready, so a restart sends nobody into an empty slot.
    plan = f"str({PLAN_KEY}),map_str({map_path(shape, 'weights')})"
    return f"""\
frontend health
  bind {shape.bind}:{shape.health_port}
  monitor-uri /healthz
  monitor fail if {{ {plan},field(1,:),nbsrv lt 1 }}
  http-request return status 404
"""


def _users(shape: RouterShape, stable_slot: str) -> str:
    plan = (
        f'str({PLAN_KEY}),map_str({map_path(shape, "weights")},"{Weights(stable_slot).encode()}")'
    )
    alone = Weights(stable_slot).encode().removeprefix(stable_slot)
    top = SPLIT_RESOLUTION
    return f"""\
frontend users
  bind {shape.bind}:{shape.port}
  option http-keep-alive
  # A router that stops answers one more request on each connection, and says that it closes.
  option idle-close-on-response

  # Headers of ours are never taken from outside.
  http-request del-header x-sluice- -m beg

  # What the world may reach.  Metrics and counters are on another port of the runtime as well.
  http-request set-var(txn.plan) {plan}
  http-request set-var(txn.stable) var(txn.plan),field(1,:)
  # A router that stops cannot be steered any more.
  http-request set-var(txn.plan) var(txn.stable),concat({alone}) if {{ stopping }}
  http-request return status 200 content-type text/plain string ok if {{ path /livez }}
  http-request return status 200 content-type text/plain string ok \
if {{ path /readyz /v2/health/live /v2/health/ready }} {{ var(txn.stable),nbsrv gt 0 }}
  http-request return status 503 content-type text/plain string no-server hdr Retry-After 1 \
if {{ path /readyz /v2/health/live /v2/health/ready }}
  acl predicts path /predict
  acl predicts path_reg ^/v1/models/[^/]+:predict$
  acl predicts path_reg ^/v2/models/[^/]+(/versions/[^/]+)?/infer$
  acl described path /docs /openapi.json /v1/models /v2
  acl described path_beg /v1/models/ /v2/models/
  acl feedback path /feedback
  http-request return status 404 content-type application/json \
string '{{"error":"No such path. Try POST /predict, /v1/models, /v2 or /docs."}}' \
unless predicts or described{" or feedback" if shape.feedback else ""}
{_feedback(shape)}  http-request return status 413 content-type application/json \
string '{{"error":"The body is larger than {shape.max_body_bytes} bytes."}}' \
if {{ req.hdr_val(content-length) gt {shape.max_body_bytes} }}
  # A request that is whole can be tried again on another pod.
  http-request wait-for-body time 10s if METH_POST

  # Who is asking: empty or absent means that each request is assigned at random.
{_unit(shape)}
  acl known var(txn.unit),length gt 0
  http-request set-var(txn.hash) var(txn.plan),field(6,:),concat(:,txn.unit),xxh32,\
mod({top}) if known
  http-request set-var(txn.hold) var(txn.plan),field(7,:),concat(:,txn.unit),xxh32,\
mod({top}) if known
  http-request set-var(txn.bucket) str(bucket),concat(:,txn.unit),xxh32,\
mod({UNIT_BUCKETS}) if known
  http-request set-var(txn.hash) rand({top}) unless known
  http-request set-var(txn.hold) rand({top}) unless known
  http-request set-var(txn.bucket) rand({UNIT_BUCKETS}) unless known

  # The split.  Below the weight: candidate.  In the top of its own range: holdback, which wins.
  http-request set-var(txn.slot) var(txn.stable)
  http-request set-var(txn.edge) var(txn.plan),field(3,:),mul({top // 100})
  http-request set-var(txn.slot) var(txn.plan),field(2,:) if {{ var(txn.hash),sub(txn.edge) lt 0 }}
  http-request set-var(txn.edge) var(txn.plan),field(5,:),mul({top // 100})
  http-request set-var(txn.slot) var(txn.plan),field(4,:) \
if {{ var(txn.hold),add(txn.edge) ge {top} }}
  http-request set-header {HEADER_BUCKET} %[var(txn.bucket)]
  # While an experiment runs: its name and the unit, as a hash that this name is the key of.
  http-request set-var(txn.exp) var(txn.plan),field(8,:)
  acl studied var(txn.exp),length gt 0
  http-request set-var(txn.unit64) var(txn.exp),concat(:,txn.unit),xxh64 if known studied
  http-request set-header {HEADER_UNIT} %[var(txn.exp)]:%[var(txn.unit64)] if known studied
  http-request track-sc0 var(txn.slot) table {PREDICT_TABLE} if predicts METH_POST
  use_backend %[var(txn.slot)]
  default_backend {stable_slot}
"""


def _unit(shape: RouterShape) -> str:
    if shape.unit_header:
        return f"  http-request set-var(txn.unit) req.fhdr({shape.unit_header})"
    if shape.unit_cookie:
        return f"  http-request set-var(txn.unit) req.cook({shape.unit_cookie})"
    return '  http-request set-var(txn.unit) str("")'


def _feedback(shape: RouterShape) -> str:
    if shape.feedback is None:
        return ""
    # An empty or short token opens nothing: the Secret may be missing, and users are served still.
    return f"""\
  http-request set-var(txn.token) env({TOKEN_ENV}) if feedback
  acl token_set var(txn.token),length ge {SHORTEST_TOKEN}
  acl token_given http_auth_bearer,secure_memcmp(txn.token) -m bool
  http-request return status 401 content-type application/json \
string '{{"error":"/feedback needs the header Authorization: Bearer TOKEN."}}' \
hdr WWW-Authenticate Bearer if feedback !token_set or feedback !token_given
  http-request del-header authorization if feedback
"""


def _table() -> str:
    # Counts prediction requests by the slot they were assigned to; docs and listings are not in it.
    return f"""\
backend {PREDICT_TABLE}
  stick-table type string len 8 size 16 store http_req_cnt
"""


def _slot(shape: RouterShape, slot: str, target: SlotTarget) -> str:
    # The log tells servers that come and go; requests are logged by front ends, which have none.
    port, inter = shape.service_port, shape.check_interval_ms
    vip = f"{target.cluster_ip}:{port}" if target.cluster_ip else f"{UNSET_ADDRESS}:{port} disabled"
    return f"""\
backend {slot}
  log stdout format raw daemon notice
  balance leastconn
  option redispatch 1
  retries {RETRIES}
  retry-on conn-failure empty-response response-timeout 503
  http-request set-timeout server str({slot}),map_str_int({map_path(shape, "timeouts")},3000)
  http-request set-header {HEADER_REVISION} %[str({slot}),map_str({map_path(shape, "revisions")},-)]
  option httpchk
  http-check send meth GET uri /readyz ver HTTP/1.1 hdr Host sluice
  http-check expect status 200
  # DNS and checks end with a stop; the ClusterIP still knows who serves.
  use-server vip if {{ stopping }}
  server-template s 1-{shape.servers_per_slot} {target.host}:{shape.serving_port} \
check inter {inter}ms fastinter {inter // 4}ms rise 1 fall 2 \
resolvers kube resolve-prefer ipv4 init-addr none
  server vip {vip} backup max-reuse 50
"""


def _mounted_lua(shape: RouterShape) -> str:
    # The mounted ConfigMap lags behind its object.  Before anything relies on what a restarted
    # router would read, the operator asks every router what its file says now.
    return f"""\
local function random_id()
  local file = io.open("/dev/urandom", "rb")
  local bytes = file:read(8)
  file:close()
  return (bytes:gsub(".", function(byte) return string.format("%02x", byte:byte()) end))
end

local boot = random_id()

local function content(name)
  local file = io.open("{shape.config_dir}/" .. name, "r")
  if not file then return "" end
  local text = file:read("a")
  file:close()
  return (text:gsub("%s+$", ""))
end

core.register_cli({{"show", "sluice"}}, "show sluice : boot id, mounted files", function(applet)
  applet:send("boot " .. boot .. "\\n")
  applet:send("weights " .. content("weights.map") .. "\\n")
  applet:send("roles " .. content("roles.json") .. "\\n")
  local token = os.getenv("{TOKEN_ENV}") or ""
  applet:send("feedback " .. (#token < {SHORTEST_TOKEN} and "shut" or "open") .. "\\n")
end)
"""
