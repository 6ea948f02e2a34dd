//! Nodes that change from another plugin's bridge to the VNET, one at a time, and back, as docs/migrate.md says.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::{Cluster, Pod, wait_for};
use crate::build::{OPERATOR_IMAGE, PROBE_IMAGE};
use crate::lab::api;

/// The other plugin's configuration.
const OTHER: &str = "/etc/cni/net.d/10-bridge.conflist";
/// The set whose pods move.
pub const MOVER: &str = "mover";
const SOON: Duration = Duration::from_secs(90);

/// A config that selects no node yet, of the values that agents are installed with.
pub const CONFIG: &str = "\
apiVersion: azure-vnet.dev/v1alpha1
kind: AzureVnetConfig
metadata: {name: default}
spec:
  nodeSelector: {matchLabels: {azure-vnet: \"yes\"}}
  pool: {min: 6, minFree: 2, batch: 4, max: 40, coolDown: 10s}
  masquerade: {nonMasqueradeCIDRs: [10.244.0.0/16]}
";

/// The values beside it.
pub const VALUES: [&str; 2] = ["--set-string", "agent.nodeSelector.azure-vnet=yes"];

/// One pod on each node, of a set with this name.
///
/// # Errors
/// If they do not run in time.
pub fn start_pods(cluster: &Cluster, name: &str) -> Result<Vec<Pod>> {
    cluster.apply(&daemon_set(name))?;
    pods(cluster, name)
}

/// The pods of a set, once each node has one.
///
/// # Errors
/// If one does not run in time.
pub fn pods(cluster: &Cluster, name: &str) -> Result<Vec<Pod>> {
    let count = cluster.lab.nodes().len();
    wait_for("a pod on each node", SOON, || {
        let pods = cluster.pods(&format!("app={name}"))?;
        Ok(if pods.len() == count { Ok(pods) } else { Err(format!("{} of {count}", pods.len())) })
    })
}

/// Every pod reaches every other, whichever plugin made its network.
///
/// # Errors
/// Names the first pair that does not.
pub fn all_reach_all(cluster: &Cluster, pods: &[Pod]) -> Result<()> {
    let targets: Vec<String> = pods.iter().map(|pod| format!("{}:8080", pod.address)).collect();
    for pod in pods {
        let answers = cluster.ask(&pod.name, &targets)?;
        ensure!(answers.iter().all(Result::is_ok), "{} ({} on {}): {answers:?}", pod.name, pod.address, pod.node);
    }
    Ok(())
}

/// Takes a node over: cordon, drain, the other's configuration away, label, reboot, uncordon. Answers that configuration.
///
/// # Errors
/// If the node does not get ready, or its pod no address of the VNET.
pub fn take_over(cluster: &Cluster, name: &str) -> Result<String> {
    let node = cluster.lab.node(name).context("no such node")?;
    cluster.drain(name, &[])?;
    let file = node.host_path(OTHER).context("the node is off")?;
    let other = std::fs::read_to_string(&file)?;
    std::fs::remove_file(&file)?;
    cluster.kubectl(&["label", "node", name, "azure-vnet=yes"])?;
    cluster.lab.reboot(name)?;
    cluster.kubectl(&["uncordon", name])?;
    await_address(cluster, name, true)?;
    Ok(other)
}

/// Gives a node back: drain, unlabel, restore it, the other's configuration back, reboot, uncordon.
///
/// # Errors
/// If anything of ours is left on it, or its pod has no address of the other plugin.
pub fn give_back(cluster: &Cluster, name: &str, other: &str) -> Result<()> {
    let node = cluster.lab.node(name).context("no such node")?;
    cluster.drain(name, &[])?;
    // A set's own pod stays through a drain, and would keep its address.
    cluster.kubectl(&["taint", "node", name, "azure-vnet.dev/leaving=:NoExecute"])?;
    cluster.kubectl(&["label", "node", name, "azure-vnet-"])?;
    wait_for("the pods of the node to be gone", SOON, || {
        let pods = cluster.read(&format!("{}?fieldSelector=spec.nodeName={name}", api::ALL_PODS))?;
        let left: Vec<&str> = pods["items"].as_array().into_iter().flatten().filter_map(|pod| pod["metadata"]["name"].as_str()).collect();
        let left: Vec<&&str> = left.iter().filter(|pod| pod.starts_with(MOVER) || pod.starts_with("azure-vnet-agent")).collect();
        Ok(if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) })
    })?;
    restore(cluster, name)?;
    cluster.kubectl(&["taint", "node", name, "azure-vnet.dev/leaving-"])?;
    std::fs::write(node.host_path(OTHER).context("the node is off")?, other)?;
    cluster.lab.reboot(name)?;
    cluster.kubectl(&["uncordon", name])?;
    await_address(cluster, name, false)
}

/// `kubectl debug node/…`, as the documents have it.
///
/// # Errors
/// If it does not end well.
pub fn restore(cluster: &Cluster, node: &str) -> Result<()> {
    let created = cluster.kubectl(&[
        "debug",
        &format!("node/{node}"),
        &format!("--image={OPERATOR_IMAGE}"),
        "--profile=sysadmin",
        "--env=XTABLES_LOCKFILE=/host/run/xtables.lock",
        "--",
        "/usr/bin/azure-vnet-operator",
        "restore",
        "--boot-id-file=/host/proc/sys/kernel/random/boot_id",
        "--run-dir=/host/run/azure-vnet",
        "--state-dir=/host/var/lib/azure-vnet",
        "--cni-bin-dir=/host/opt/cni/bin",
        "--cni-conf-dir=/host/etc/cni/net.d",
        "--log-dir=/host/var/log",
        "--netns-dir=/host/run/netns",
    ])?;
    let pod = created.split_whitespace().find(|word| word.starts_with("node-debugger-")).context("kubectl names the pod")?.to_owned();
    wait_for("the node to be restored", SOON, || {
        let phase = cluster.read(&format!("{}/{pod}", api::PODS))?["status"]["phase"].as_str().unwrap_or_default().to_owned();
        let said = || cluster.kubectl(&["logs", &pod]).unwrap_or_default();
        ensure!(phase != "Failed", "it was not restored: {}", said());
        Ok(if phase == "Succeeded" { Ok(()) } else { Err(phase) })
    })?;
    cluster.kubectl(&["delete", "pod", &pod, "--wait=false"]).map(drop)
}

fn await_address(cluster: &Cluster, node: &str, of_vnet: bool) -> Result<()> {
    wait_for("the node's pod to have an address of its new network", SOON, || {
        let pods = cluster.pods(&format!("app={MOVER}"))?;
        let address = pods.iter().find(|pod| pod.node == node).map(|pod| pod.address);
        let is_of_vnet = |address: Ipv4Addr| address.octets()[..2] == [10, 240];
        Ok(if address.map(is_of_vnet) == Some(of_vnet) { Ok(()) } else { Err(format!("{address:?}")) })
    })
}

fn daemon_set(name: &str) -> String {
    format!(
        "\
apiVersion: apps/v1
kind: DaemonSet
metadata: {{name: {name}}}
spec:
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: probe
        image: {PROBE_IMAGE}
        command: [/probe, serve, \"8080\"]
        env: [{{name: NODE_NAME, valueFrom: {{fieldRef: {{fieldPath: spec.nodeName}}}}}}]
"
    )
}
