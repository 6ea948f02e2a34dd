//! Names, as pods look them up: by `CoreDNS` before the cluster, by Azure's resolver behind it, and by a cache on the node's link-local
//! address.
//!
//! The cache is `CoreDNS` with the rules and addresses of node-local DNS, which takes the cluster resolver's address on its node as well.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};

use super::{Cluster, Pod, wait_for};
use crate::build::{COREDNS_IMAGE, Cache, PROBE_IMAGE, coredns, coredns_image};
use crate::lab::{Node, api, plan};

/// The cluster's resolver, by the kubelets' configuration.
const RESOLVER: &str = "10.96.0.10";
/// Where node-local DNS listens.
const LOCAL: &str = "169.254.20.10";
/// Every name below it has the address that Azure's resolver was asked from.
const AZURE_SAW: &str = "who.azure.test";
/// Every name below it has the address that the node's cache was asked from; nobody else knows it.
const CACHE_SAW: &str = "who.cache.test";
/// The Service of [`super::start_pods`], one without an address of its own before the same pods, and the API server's.
const SERVICE: &str = "web";
const HEADLESS: &str = "web-each";
const FULL: &str = "kubernetes.default.svc.cluster.local";
const SOON: Duration = Duration::from_mins(1);

/// What a pod was told of each name.
type Told = BTreeMap<&'static str, Result<Vec<Ipv4Addr>, String>>;

/// Starts `CoreDNS` on the first node and looks names up from a pod of every node: a Service's, one whose addresses are the pods', and one that
/// Azure answers, which saw the address of `CoreDNS`'s pod.
///
/// # Errors
/// Names the first that is told wrongly.
pub fn names(cluster: &Cluster, pods: &[Pod]) -> Result<()> {
    let resolver = resolver(cluster)?.address;
    for pod in one_of_each_node(pods) {
        as_expected(cluster, &pod.name, &expected(cluster, pods, resolver)?)?;
    }
    Ok(())
}

/// Starts `CoreDNS` on the first node, and Azure's resolver in the fabric, which answers every question about `azure.test` with the asker's
/// address.
///
/// # Errors
/// If `CoreDNS` cannot be built, or does not come to be ready.
pub fn resolver(cluster: &Cluster) -> Result<Pod> {
    let cache = Cache::open()?;
    cluster.lab.bring_image(&coredns_image(&cache)?)?;
    let azure = cluster.lab.write_file("Corefile.azure", &answers_who_asks("azure.test", plan::WIRESERVER))?;
    cluster.lab.start_in_fabric("azure-dns", &coredns(&cache)?, &["-conf", &azure.to_string_lossy()])?;
    cluster.apply(&cluster_resolver("n1"))?;
    wait_for("CoreDNS", SOON, || Ok(cluster.system_pods("k8s-app=kube-dns")?.pop().ok_or_else(|| "not ready".into())))
}

/// Puts a cache on a node, and looks the same names up from a pod there that has been running, and from one that asks the cache by its own
/// address: the cache sees the pod's address, and Azure the node's. Pods of other nodes notice nothing.
///
/// # Errors
/// Names the first that is told wrongly.
pub fn names_by_a_cache(cluster: &Cluster, pods: &[Pod], node: &Node) -> Result<()> {
    take_addresses(node)?;
    cluster.apply(&local_cache(node.name()))?;
    cluster.kubectl(&["-n", "kube-system", "rollout", "status", "deployment/node-local-dns", "--timeout=60s"])?;
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/asks-locally", "--timeout=60s"])?;
    let here = pods.iter().find(|pod| pod.node == node.name()).context("a pod on the cache's node")?;
    let asks = cluster.pods("app=asks-locally")?.into_iter().next().context("the pod that asks the cache")?;
    for pod in [here, &asks] {
        let mut expected = expected(cluster, pods, node.address())?;
        expected.insert(CACHE_SAW, vec![pod.address]);
        as_expected(cluster, &pod.name, &expected)?;
    }
    let elsewhere = pods.iter().find(|pod| pod.node != node.name()).context("a pod on another node")?;
    // It is told the cluster's names: that it is not told the cache's is then no sign of a resolver that answers nothing.
    let mut expected = expected(cluster, pods, node.address())?;
    expected.remove(AZURE_SAW);
    as_expected(cluster, &elsewhere.name, &expected)?;
    let told = told(cluster, &elsewhere.name, &[CACHE_SAW])?;
    ensure!(told.values().all(Result::is_err), "{} asks the cache of another node: {told:?}", elsewhere.name);
    Ok(())
}

fn one_of_each_node(pods: &[Pod]) -> impl Iterator<Item = &Pod> {
    pods.iter().map(|pod| (&pod.node, pod)).collect::<BTreeMap<_, _>>().into_values()
}

fn expected(cluster: &Cluster, pods: &[Pod], asks_azure: Ipv4Addr) -> Result<BTreeMap<&'static str, Vec<Ipv4Addr>>> {
    let service = cluster.read(&format!("{}/{SERVICE}", api::SERVICES))?;
    let service = service["spec"]["clusterIP"].as_str().context("the service has no address")?.parse()?;
    let mut each: Vec<Ipv4Addr> = pods.iter().map(|pod| pod.address).collect();
    each.sort_unstable();
    Ok([(SERVICE, vec![service]), (HEADLESS, each), (FULL, vec![plan::SERVICE_OF_API.parse()?]), (AZURE_SAW, vec![asks_azure])].into())
}

/// A Service made just now may take kube-proxy and `CoreDNS` a moment.
fn as_expected(cluster: &Cluster, pod: &str, expected: &BTreeMap<&'static str, Vec<Ipv4Addr>>) -> Result<()> {
    let names: Vec<&'static str> = expected.keys().copied().collect();
    let whole: Told = expected.iter().map(|(name, addresses)| (*name, Ok(addresses.clone()))).collect();
    wait_for(&format!("{pod} to be told {expected:?}"), Duration::from_secs(20), || {
        let told = told(cluster, pod, &names)?;
        Ok(if told == whole { Ok(()) } else { Err(format!("{told:?}")) })
    })
}

fn told(cluster: &Cluster, pod: &str, names: &[&'static str]) -> Result<Told> {
    let said = cluster.kubectl(&[&["exec", pod, "--", "/probe", "resolve"], names].concat())?;
    let lines: Vec<&str> = said.lines().collect();
    ensure!(lines.len() == names.len(), "{pod} was asked for {names:?} and answered:\n{said}");
    names.iter().copied().zip(lines).map(|(name, line)| Ok((name, addresses(line)?))).collect()
}

fn addresses(line: &str) -> Result<Result<Vec<Ipv4Addr>, String>> {
    match line.strip_prefix("- ") {
        Some(why) => Ok(Err(why.to_owned())),
        None => line.split(' ').map(|word| word.parse().map_err(|_| anyhow!("{line:?} is no addresses"))).collect::<Result<_>>().map(Ok),
    }
}

/// What node-local DNS does to its node: an interface with the addresses that it serves, and no tracking of what is sent to them or from them. The
/// interface is a bridge without ports, for kernels without the dummy driver.
fn take_addresses(node: &Node) -> Result<()> {
    let mut lines = vec!["set -e".to_owned(), "ip link add nodelocaldns type bridge".to_owned(), "ip link set nodelocaldns up".to_owned()];
    for address in [LOCAL, RESOLVER] {
        lines.push(format!("ip address add {address}/32 dev nodelocaldns"));
        for protocol in ["udp", "tcp"] {
            for (chain, way) in [("PREROUTING", "-d {} --dport 53"), ("OUTPUT", "-d {} --dport 53"), ("OUTPUT", "-s {} --sport 53")] {
                let way = way.replace("{}", address);
                lines.push(format!("iptables -w -t raw -I {chain} -p {protocol} {way} -j CT --notrack"));
            }
            lines.push(format!("iptables -w -I INPUT -p {protocol} -d {address} --dport 53 -j ACCEPT"));
            lines.push(format!("iptables -w -I OUTPUT -p {protocol} -s {address} --sport 53 -j ACCEPT"));
        }
    }
    node.exec(&["sh", "-c", &lines.join("\n")]).map(drop)
}

/// A zone whose every name has the address of whoever asks.
fn answers_who_asks(zone: &str, address: &str) -> String {
    format!(
        "\
{zone}:53 {{
    bind {address}
    template IN A {{
        answer \"{{{{ .Name }}}} 0 IN A {{{{ .Remote }}}}\"
    }}
    template ANY ANY {{
        rcode NOERROR
    }}
}}
"
    )
}

/// `CoreDNS` as the cluster's resolver, as it is deployed everywhere.
fn cluster_resolver(node: &str) -> String {
    format!(
        "\
apiVersion: v1
kind: ServiceAccount
metadata: {{name: coredns, namespace: kube-system}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {{name: \"system:coredns\"}}
rules:
- {{apiGroups: [\"\"], resources: [endpoints, services, pods, namespaces], verbs: [list, watch]}}
- {{apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{name: \"system:coredns\"}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: \"system:coredns\"}}
subjects: [{{kind: ServiceAccount, name: coredns, namespace: kube-system}}]
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: coredns, namespace: kube-system}}
data:
  Corefile: |
    .:53 {{
      errors
      ready
      kubernetes cluster.local in-addr.arpa ip6.arpa {{
        pods insecure
        ttl 5
      }}
      forward . /etc/resolv.conf
    }}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: coredns, namespace: kube-system}}
spec:
  selector: {{matchLabels: {{k8s-app: kube-dns}}}}
  template:
    metadata: {{labels: {{k8s-app: kube-dns}}}}
    spec:
      serviceAccountName: coredns
      dnsPolicy: Default
      nodeSelector: {{kubernetes.io/hostname: {node}}}
      terminationGracePeriodSeconds: 1
      containers:
      - name: coredns
        image: {COREDNS_IMAGE}
        args: [-conf, /etc/coredns/Corefile]
        volumeMounts: [{{name: corefile, mountPath: /etc/coredns}}]
        readinessProbe: {{httpGet: {{path: /ready, port: 8181}}, periodSeconds: 1}}
      volumes: [{{name: corefile, configMap: {{name: coredns}}}}]
---
{}---
{}---
apiVersion: v1
kind: Service
metadata: {{name: {HEADLESS}}}
spec: {{clusterIP: None, selector: {{app: web}}}}
",
        service("kube-dns", RESOLVER),
        service("kube-dns-upstream", UPSTREAM)
    )
}

/// The resolver's other address, for a cache that has taken the first.
const UPSTREAM: &str = "10.96.0.11";

fn service(name: &str, address: &str) -> String {
    format!(
        "\
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: kube-system}}
spec:
  clusterIP: {address}
  selector: {{k8s-app: kube-dns}}
  ports: [{{name: dns, port: 53, protocol: UDP}}, {{name: dns-tcp, port: 53, protocol: TCP}}]
"
    )
}

/// The cache on one node, and a pod there that asks it by its own address, as those do whose kubelet has it for `clusterDNS`.
fn local_cache(node: &str) -> String {
    let own_zone = answers_who_asks("cache.test", &format!("{LOCAL} {RESOLVER}")).replace('\n', "\n    ");
    format!(
        "\
apiVersion: v1
kind: ConfigMap
metadata: {{name: node-local-dns, namespace: kube-system}}
data:
  Corefile: |
    cluster.local:53 in-addr.arpa:53 {{
      errors
      bind {LOCAL} {RESOLVER}
      cache 5
      ready {LOCAL}:8181
      forward . {UPSTREAM} {{
        force_tcp
      }}
    }}
    .:53 {{
      errors
      bind {LOCAL} {RESOLVER}
      forward . /etc/resolv.conf
    }}
    {own_zone}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: node-local-dns, namespace: kube-system}}
spec:
  selector: {{matchLabels: {{k8s-app: node-local-dns}}}}
  template:
    metadata: {{labels: {{k8s-app: node-local-dns}}}}
    spec:
      hostNetwork: true
      dnsPolicy: Default
      nodeSelector: {{kubernetes.io/hostname: {node}}}
      terminationGracePeriodSeconds: 1
      containers:
      - name: coredns
        image: {COREDNS_IMAGE}
        args: [-conf, /etc/coredns/Corefile]
        volumeMounts: [{{name: corefile, mountPath: /etc/coredns}}]
        readinessProbe: {{httpGet: {{host: {LOCAL}, path: /ready, port: 8181}}, periodSeconds: 1}}
      volumes: [{{name: corefile, configMap: {{name: node-local-dns}}}}]
---
apiVersion: v1
kind: Pod
metadata: {{name: asks-locally, labels: {{app: asks-locally}}}}
spec:
  terminationGracePeriodSeconds: 0
  nodeSelector: {{kubernetes.io/hostname: {node}}}
  dnsPolicy: None
  dnsConfig:
    nameservers: [{LOCAL}]
    searches: [default.svc.cluster.local, svc.cluster.local, cluster.local]
    options: [{{name: ndots, value: \"5\"}}]
  containers:
  - {{name: probe, image: {PROBE_IMAGE}, command: [/probe, sleep]}}
"
    )
}
