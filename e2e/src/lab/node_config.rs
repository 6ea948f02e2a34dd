//! What a node's programs are configured with. Each line that looks odd has its reason in a comment.

use super::options::LabOptions;
use super::plan::Machine;

/// containerd 2: no snapshotters but overlayfs, and nothing that this machine's capabilities forbid (`restrict_oom_score_adj`).
pub const CONTAINERD: &str = r#"version = 3
oom_score = 0
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.blockfile", "io.containerd.snapshotter.v1.erofs", "io.containerd.tracing.processor.v1.otlp", "io.containerd.nri.v1.nri"]
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "lab.test/pause:1"
[plugins."io.containerd.cri.v1.runtime"]
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["/opt/cni/bin"]
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
      SystemdCgroup = false
"#;

/// The kubelet: cgroup v1 is refused by default since 1.35, `/usr` is read-only, and a full disk of the machine must not evict pods.
pub const KUBELET: &str = r#"apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
cgroupDriver: cgroupfs
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: /kube/pki/ca.crt}}
authorization: {mode: Webhook}
clusterDNS: [10.96.0.10]
clusterDomain: cluster.local
resolvConf: /etc/resolv.conf
volumePluginDir: /var/lib/kubelet/plugins-exec
failSwapOn: false
oomScoreAdj: 0
evictionHard: {memory.available: 100Mi, nodefs.available: "0%", nodefs.inodesFree: "0%", imagefs.available: "0%", imagefs.inodesFree: "0%"}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
serializeImagePulls: false
nodeLeaseDurationSeconds: 10
kubeAPIQPS: 200
kubeAPIBurst: 400
"#;

/// kube-proxy: the four zeros, because `nf_conntrack_max` is writable only in the machine's first network namespace.
#[must_use]
pub fn kube_proxy(node: &str, options: &LabOptions) -> String {
    let (mode, cluster_cidr) = (options.kube_proxy.name(), options.cluster_cidr);
    format!(
        "\
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: {mode}
clientConnection: {{kubeconfig: /kube/pki/proxy.kubeconfig}}
clusterCIDR: {cluster_cidr}
hostnameOverride: {node}
oomScoreAdj: 0
conntrack: {{maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}}
healthzBindAddress: 127.0.0.1:10256
metricsBindAddress: 127.0.0.1:10249
"
    )
}

/// As the original ships it.
pub const ORIGINAL_CONFLIST: &str = r#"{"cniVersion":"0.3.0","name":"azure","plugins":[
 {"type":"azure-vnet","mode":"transparent","ipsToRouteViaHost":["169.254.20.10"],"ipam":{"type":"azure-vnet-ipam"}},
 {"type":"portmap","capabilities":{"portMappings":true},"snat":true}]}
"#;

/// The reference plugins, to try the lab itself. Debian's speak CNI 1.0.0 at most.
#[must_use]
pub fn bridge_conflist(machine: &Machine) -> String {
    let third = machine.address.octets()[3];
    format!(
        r#"{{"cniVersion":"1.0.0","name":"lab","plugins":[
 {{"type":"bridge","bridge":"cni0","isGateway":true,"ipMasq":false,"hairpinMode":true,"ipam":{{"type":"host-local","ranges":[[{{"subnet":"10.244.{third}.0/24"}}]],"routes":[{{"dst":"0.0.0.0/0"}}]}}}},
 {{"type":"portmap","capabilities":{{"portMappings":true}}}}]}}
"#
    )
}
