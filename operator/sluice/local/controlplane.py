"""The command lines of the real Kubernetes components.  Pure; called by the supervisor."""

from __future__ import annotations

from sluice.local.settings import NODE_NAME, Settings

# Address families in 127/8 are refused in Endpoints and EndpointSlices, for ever and with an
# event each time: in mode rewrite the controllers that would write them stay off.
_NO_ENDPOINTS = (
    "--controllers=*,-endpoints-controller,-endpointslice-controller,"
    "-endpointslice-mirroring-controller"
)
_EAGER = ("--kube-api-qps=500", "--kube-api-burst=500")


def etcd(s: Settings) -> list[str]:
    """The store.  Without fsync: a process that dies loses nothing, only a power cut may."""
    client = f"http://{s.host_ip}:{s.etcd_port}"
    peer = f"http://{s.host_ip}:{s.etcd_peer_port}"
    return [
        s.programs["etcd"],
        "--name=local",
        f"--data-dir={s.state}/etcd",
        "--unsafe-no-fsync",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=local={peer}",
        "--log-level=warn",
    ]


def apiserver(s: Settings) -> list[str]:
    """kube-apiserver with RBAC; people and components authenticate by client certificate."""
    pki = s.pki_dir
    loopback = s.host_ip.startswith("127.")
    return [
        s.programs["kube-apiserver"],
        f"--etcd-servers=http://{s.host_ip}:{s.etcd_port}",
        f"--bind-address={s.host_ip}",
        f"--secure-port={s.secure_port}",
        f"--advertise-address={s.host_ip}",
        # "cannot use public IP 127.0.0.1 with endpoint reconciler"
        *(["--endpoint-reconciler-type=none"] if loopback else []),
        f"--service-cluster-ip-range={s.service_network}",
        "--authorization-mode=RBAC",
        f"--client-ca-file={pki}/ca.crt",
        f"--tls-cert-file={pki}/apiserver.crt",
        f"--tls-private-key-file={pki}/apiserver.key",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-key-file={pki}/service-account.pub",
        f"--service-account-signing-key-file={pki}/service-account.key",
        f"--kubelet-certificate-authority={pki}/ca.crt",
        f"--kubelet-client-certificate={pki}/kubelet-client.crt",
        f"--kubelet-client-key={pki}/kubelet-client.key",
        "--kubelet-preferred-address-types=InternalIP",
        "--default-not-ready-toleration-seconds=30",
        "--default-unreachable-toleration-seconds=30",
        "--event-ttl=1h",
        "--profiling=false",
    ]


def controller_manager(s: Settings) -> list[str]:
    """kube-controller-manager; the higher client rates take 5 s off the start."""
    return [
        s.programs["kube-controller-manager"],
        f"--kubeconfig={s.pki_dir}/controller-manager.kubeconfig",
        "--secure-port=0",
        "--leader-elect=false",
        "--use-service-account-credentials=true",
        f"--service-account-private-key-file={s.pki_dir}/service-account.key",
        f"--root-ca-file={s.pki_dir}/ca.crt",
        "--profiling=false",
        *_EAGER,
        *([_NO_ENDPOINTS] if s.mode == "rewrite" else []),
    ]


def scheduler(s: Settings) -> list[str]:
    """kube-scheduler."""
    return [
        s.programs["kube-scheduler"],
        f"--kubeconfig={s.pki_dir}/scheduler.kubeconfig",
        "--secure-port=0",
        "--leader-elect=false",
        "--profiling=false",
        *_EAGER,
    ]


def proxy(s: Settings) -> list[str]:
    """kube-proxy (mode net only); what flags cannot say is in the file beside it."""
    return [s.programs["kube-proxy"], f"--config={s.run_dir}/kube-proxy.yaml"]


def proxy_config(s: Settings) -> str:
    """The file that ``proxy`` names."""
    return f"""apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clusterCIDR: {s.pod_network}
nftables: {{minSyncPeriod: 100ms}}
hostnameOverride: {NODE_NAME}
clientConnection: {{kubeconfig: "{s.pki_dir}/proxy.kubeconfig"}}
conntrack: {{maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}}
bindAddress: {s.host_ip}
healthzBindAddress: {s.host_ip}:10256
metricsBindAddress: {s.host_ip}:10249
"""
