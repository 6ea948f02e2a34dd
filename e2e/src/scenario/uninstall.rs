//! Taking the product out again: what helm or kubectl do, and whether anything is left on the nodes, at the API server and in Azure.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use super::{Cluster, wait_for};
use crate::lab::Node;
use crate::lab::api;

/// `helm uninstall`.
///
/// # Errors
/// In helm's words, with those of the hook.
pub fn helm(cluster: &Cluster, arguments: &[&str]) -> Result<String> {
    let outcome = cluster.lab.helm(&[&["uninstall", "azure-vnet", "--namespace", "kube-system"], arguments].concat());
    outcome.or_else(|error| {
        let said = cluster.kubectl(&["-n", "kube-system", "logs", "job/azure-vnet-uninstall", "--tail=20"]).unwrap_or_default();
        bail!("{error:#}\n{said}")
    })
}

/// Drains all nodes, so that no pod has an address any more.
///
/// # Errors
/// If pods do not go.
pub fn drain_all(cluster: &Cluster) -> Result<()> {
    // Its budget keeps the last controller from being evicted while no node is left for another.
    let others = ["--pod-selector=app.kubernetes.io/name!=azure-vnet"];
    cluster.lab.nodes().iter().try_for_each(|node| cluster.drain(node.name(), &others))
}

/// What is left of the product, a line each; `addresses` says whether those on the NICs count.
///
/// # Errors
/// If it cannot be looked for.
pub fn left(cluster: &Cluster, addresses: bool) -> Result<Vec<String>> {
    let mut left = vec![];
    for node in cluster.lab.nodes() {
        left.extend(left_on(&node)?.into_iter().map(|what| format!("{}: {what}", node.name())));
    }
    left.extend(left_at_api_server(cluster)?);
    if addresses {
        for nic in cluster.azure(async |azure| azure.nics().await)? {
            let ours = nic.configurations.iter().filter(|config| config.name.starts_with("avn-")).count();
            left.extend((ours > 0).then(|| format!("{ours} IP configurations on {}", nic.id)));
        }
    }
    Ok(left)
}

fn left_on(node: &Node) -> Result<Vec<String>> {
    let mut left = vec![];
    for program in ["iptables-nft-save", "iptables-legacy-save"] {
        let rules = node.exec(&[program])?;
        left.extend(rules.lines().filter(|line| line.contains("AZURE-VNET")).map(|line| format!("{program}: {line}")));
    }
    left.extend(node.exec(&["ip", "-4", "route", "show"])?.lines().filter(|line| line.starts_with("unreachable")).map(str::to_owned));
    left.extend(node.exec(&["ip", "-brief", "link"])?.lines().filter(|line| line.starts_with("azv")).map(str::to_owned));
    for folder in ["/etc/cni/net.d", "/opt/cni/bin", "/var/lib/azure-vnet", "/run/azure-vnet", "/var/log"] {
        let path = node.host_path(folder).context("the node is off")?;
        let Ok(entries) = std::fs::read_dir(&path) else { continue };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        // What the folder of logs has of others is theirs: the kubelet's links to the logs of our pods go with these.
        let is_ours =
            |name: &String| folder.ends_with("azure-vnet") || name.starts_with("azure-vnet") || name.ends_with("azure-vnet.conflist");
        left.extend(names.filter(is_ours).map(|name| format!("{folder}/{name}")));
    }
    Ok(left)
}

/// The kernel's settings that an agent may change, of all nodes.
///
/// # Errors
/// If a node is off.
pub fn settings(cluster: &Cluster) -> Result<Vec<String>> {
    let mut all = vec![];
    for node in cluster.lab.nodes() {
        for name in ["ip_forward", "conf/all/rp_filter", "conf/eth0/rp_filter"] {
            // Of the node's own namespace: seen from here the file would be this process's.
            let value = node.exec(&["cat", &format!("/proc/sys/net/ipv4/{name}")])?;
            all.push(format!("{} {name} {}", node.name(), value.trim()));
        }
    }
    Ok(all)
}

fn left_at_api_server(cluster: &Cluster) -> Result<Vec<String>> {
    let kinds = "deployments,daemonsets,jobs,pods,configmaps,serviceaccounts,roles,rolebindings,poddisruptionbudgets,leases";
    let own = cluster.kubectl(&["-n", "kube-system", "get", kinds, "-o", "name"])?;
    let whole = cluster.kubectl(&["get", "avn,avs,clusterroles,clusterrolebindings,validatingadmissionpolicies", "-o", "name"])?;
    let named = own.lines().chain(whole.lines()).filter(|line| line.contains("azure-vnet"));
    let mut left: Vec<String> = named.map(str::to_owned).collect();
    let nodes = cluster.read(api::NODES)?;
    for node in nodes["items"].as_array().into_iter().flatten() {
        let taints = node["spec"]["taints"].as_array().into_iter().flatten().filter_map(|taint| taint["key"].as_str());
        let ours = taints.filter(|key| key.starts_with("azure-vnet.dev/"));
        left.extend(ours.map(|key| format!("taint {key} on {}", node["metadata"]["name"])));
    }
    Ok(left)
}

/// Waits until nothing is left: what runs ends a moment after its owner is gone.
///
/// # Errors
/// Names what is left.
pub fn nothing_left(cluster: &Cluster, addresses: bool) -> Result<()> {
    wait_for("nothing to be left", Duration::from_secs(40), || {
        let left = left(cluster, addresses)?;
        Ok(if left.is_empty() { Ok(()) } else { Err(left.join("; ")) })
    })
}

/// How many addresses of ours are on all NICs.
///
/// # Errors
/// If Azure cannot be asked.
pub fn attached(cluster: &Cluster) -> Result<BTreeSet<std::net::Ipv4Addr>> {
    let nics = cluster.azure(async |azure| azure.nics().await)?;
    let all = nics.iter().flat_map(|nic| &nic.configurations).filter(|config| config.name.starts_with("avn-"));
    Ok(all.filter_map(|config| config.address).collect())
}

/// That the attempt was refused and changed nothing.
///
/// # Errors
/// If it was carried out, or refused in other words.
pub fn refused(outcome: Result<String>, words: &str) -> Result<()> {
    let error = outcome.err().context("it was carried out")?;
    ensure!(format!("{error:#}").contains(words), "refused in other words: {error:#}");
    Ok(())
}
