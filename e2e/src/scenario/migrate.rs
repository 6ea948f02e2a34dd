//! Nodes that change from another plugin to this project, one at a time, and back, as docs/migrate.md says.

use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use azure_vnet_plugin_core::lease::Entry;

use super::{Cluster, Pod, store, uninstall, wait_for};
use crate::build::{OPERATOR_IMAGE, PROBE_IMAGE};
use crate::lab::{Node, api};

/// Where a runtime looks for configurations.
const CONFIGURATIONS: &str = "/etc/cni/net.d";
/// What the operator installs over.
const PLUGINS: [&str; 2] = ["/opt/cni/bin/azure-vnet", "/opt/cni/bin/azure-vnet-ipam"];
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

/// What another plugin has on a node, by path.
pub type Files = Vec<(String, Vec<u8>)>;

/// Takes a node over: cordon, drain, the other's configuration away, label, reboot, uncordon. Answers what the way back takes.
///
/// # Errors
/// If the node does not get ready, or its pod no address of ours.
pub fn take_over(cluster: &Cluster, name: &str) -> Result<Files> {
    let node = cluster.lab.node(name).context("no such node")?;
    cluster.drain(name, &[])?;
    let files = files(&node)?;
    for (path, _) in files.iter().filter(|(path, _)| path.starts_with(CONFIGURATIONS)) {
        std::fs::remove_file(node.host_path(path).context("the node is off")?)?;
    }
    cluster.kubectl(&["label", "node", name, "azure-vnet=yes"])?;
    cluster.lab.reboot(name)?;
    cluster.kubectl(&["uncordon", name])?;
    await_address(cluster, name, true)?;
    Ok(files)
}

fn files(node: &Node) -> Result<Files> {
    let folder = node.host_path(CONFIGURATIONS).context("the node is off")?;
    let names = std::fs::read_dir(folder)?.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let lists = names.map(|name| format!("{CONFIGURATIONS}/{name}"));
    let mut files = vec![];
    for path in lists.chain(PLUGINS.map(str::to_owned)) {
        match std::fs::read(node.host_path(&path).context("the node is off")?) {
            Ok(content) => files.push((path, content)),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("cannot read {path}")),
        }
    }
    Ok(files)
}

/// Gives a node back: drain, unlabel, restore it, the other's files back, reboot, uncordon.
///
/// # Errors
/// If anything of ours is left on it, or its pod has no address of the other plugin.
pub fn give_back(cluster: &Cluster, name: &str, files: &Files) -> Result<()> {
    let node = cluster.lab.node(name).context("no such node")?;
    cluster.drain(name, &[])?;
    // A set's own pod stays through a drain, and would keep its address.
    cluster.kubectl(&["taint", "node", name, "azure-vnet.dev/leaving=:NoExecute"])?;
    cluster.kubectl(&["label", "node", name, "azure-vnet-"])?;
    wait_for("the pods of the node to be gone", SOON, || {
        let pods = cluster.read(&format!("{}?fieldSelector=spec.nodeName={name}", api::ALL_PODS))?;
        let left: Vec<&str> = pods["items"].as_array().into_iter().flatten().filter_map(|pod| pod["metadata"]["name"].as_str()).collect();
        let left: Vec<&&str> = left.iter().filter(|pod| pod.starts_with(MOVER) || pod.starts_with("azure-vnet-agent")).collect();
        // A pod without a grace period is gone at the API server before its DEL.
        let leased = store::entries(&node)?.into_iter().filter(|(_, entry)| matches!(entry, Entry::Leased(_))).count();
        Ok(if left.is_empty() && leased == 0 { Ok(()) } else { Err(format!("{left:?}, {leased} leases")) })
    })?;
    restore(cluster, name)?;
    cluster.kubectl(&["taint", "node", name, "azure-vnet.dev/leaving-"])?;
    for (path, content) in files {
        let there = node.host_path(path).context("the node is off")?;
        std::fs::write(&there, content)?;
        let mode = if path.starts_with(CONFIGURATIONS) { 0o644 } else { 0o755 };
        std::fs::set_permissions(&there, std::fs::Permissions::from_mode(mode))?;
    }
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

/// Until the node's pod has an address that this project attached, or one that it did not.
fn await_address(cluster: &Cluster, node: &str, ours: bool) -> Result<()> {
    wait_for("the node's pod to have an address of its new network", SOON, || {
        let attached = uninstall::attached(cluster)?;
        let pods = cluster.pods(&format!("app={MOVER}"))?;
        let address = pods.iter().find(|pod| pod.node == node).map(|pod| pod.address);
        let is_there = address.is_some_and(|address| attached.contains(&address) == ours);
        Ok(if is_there { Ok(()) } else { Err(format!("{address:?}")) })
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
