//! `kubectl azure-vnet fsck` on a running cluster: all agree, then three words are made to differ, each is named, and what may be mended is.

use std::fs;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use azure_vnet_plugin_core::attachment::{Attachment, Mode, PodRef};
use azure_vnet_plugin_core::boot::BootTime;
use azure_vnet_plugin_core::lease::{Entry, Lease};
use serde_json::Value;

use super::{Cluster, Pod, store, wait_for};
use crate::lab::{Node, api};

/// The pod that nobody has started.
const NOBODY: &str = "nobody";

/// Runs the command; its exit code, and what it says.
///
/// # Errors
/// If it prints no JSON.
pub fn fsck(cluster: &Cluster, arguments: &[&str]) -> Result<(Option<i32>, Value)> {
    let output = cluster.lab.client("kubectl").args(["azure-vnet", "fsck", "--output", "json"]).args(arguments).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    let view = serde_json::from_slice(&output.stdout).with_context(|| format!("fsck printed no JSON, and said: {said}"))?;
    Ok((output.status.code(), view))
}

/// Waits until all of the cluster is seen and agrees.
///
/// # Errors
/// If it does not in time; the error holds the last report.
pub fn all_agree(cluster: &Cluster, deadline: Duration) -> Result<()> {
    wait_for("all to agree on every address", deadline, || {
        let (code, view) = fsck(cluster, &[])?;
        let nodes = view["nodes"].as_array().map_or(0, Vec::len);
        Ok(if code == Some(0) && nodes == cluster.lab.nodes().len() { Ok(()) } else { Err(format!("{code:?}: {view:#}")) })
    })
}

/// Takes a pod's route away, and makes a lease of a pod that there is not: both are named, the route is mended from the report, and the lease is left
/// to the agent, which has the second witness (safety rule CM4) and frees it.
///
/// # Errors
/// If either is not named, the repair says what is not so, or the lease stays.
pub fn a_route_and_a_lease(cluster: &Cluster, pod: &Pod, deadline: Duration) -> Result<()> {
    let node = cluster.lab.node(&pod.node).context("the pod's node")?;
    let free = unused(cluster, &node)?;
    let address = pod.address.to_string();
    lease_to_nobody(&node, free)?;
    node.exec(&["ip", "route", "del", &address])?;
    let (code, report) = fsck(cluster, &[])?;
    let expected = [("leaseWithoutPod", free.to_string()), ("linkWithoutRoute", address.clone())];
    ensure!(code == Some(1) && kinds(&report) == expected, "{expected:?} in {code:?}: {report:#}");
    let (witnesses, who) = (&report["findings"][0]["witnesses"], &report["findings"][1]["who"]);
    let cited: Vec<&Value> = witnesses.as_array().into_iter().flatten().map(|witness| &witness["source"]).collect();
    ensure!(cited == ["store", "apiServer", "kernel"] && *who == format!("default/{}", pod.name), "{report:#}");

    let (_, repairs) = repaired(cluster, &report)?;
    let ends: Vec<(&Value, &Value)> = results(&repairs).map(|result| (&result["address"], &result["end"])).collect();
    ensure!(ends.len() == 2 && *ends[1].0 == address && *ends[1].1 == "repaired", "{repairs:#}");
    ensure!(*ends[0].1 == "left" || *ends[0].1 == "over", "only the agent frees it: {repairs:#}");
    ensure!(node.exec(&["ip", "route", "get", &address])?.contains("azv"), "the route is there");
    all_agree(cluster, deadline)
}

/// Takes a pod's lease away: it is named, and the repair starts the agent anew, which makes it again.
///
/// # Errors
/// If it is not named, or is not there again.
pub fn a_forgotten_lease(cluster: &Cluster, pod: &Pod, deadline: Duration) -> Result<()> {
    let node = cluster.lab.node(&pod.node).context("the pod's node")?;
    let path = node.host_path(&format!("/run/azure-vnet/lease/{}", pod.address)).context("the node is off")?;
    fs::remove_file(&path)?;
    let (code, report) = fsck(cluster, &[&pod.node])?;
    ensure!(code == Some(1) && kinds(&report) == [("linkWithoutLease", pod.address.to_string())], "{code:?}: {report:#}");
    let (code, repairs) = repaired(cluster, &report)?;
    // The cluster goes on meanwhile: what only one of the last looks saw may be news on its way.
    let news = repairs["left"]["once"].as_array().is_some_and(|once| !once.is_empty());
    let ended = code == Some(if news { 2 } else { 0 });
    ensure!(results(&repairs).all(|result| result["end"] == "repaired") && ended, "{code:?}: {repairs:#}");
    ensure!(path.exists(), "its lease is there again");
    all_agree(cluster, deadline)
}

/// A node whose agent is not there is not called clean.
///
/// # Errors
/// If it is.
pub fn nothing_unseen_is_clean(cluster: &Cluster, node: &str) -> Result<()> {
    let (code, report) = fsck(cluster, &[node, "--namespace", "default"])?;
    let sources: Vec<&Value> = report["unseen"].as_array().into_iter().flatten().map(|unseen| &unseen["source"]).collect();
    ensure!(code == Some(2) && sources == ["store", "kernel"], "{code:?}: {report:#}");
    Ok(())
}

fn repaired(cluster: &Cluster, report: &Value) -> Result<(Option<i32>, Value)> {
    let file = cluster.lab.write_file("fsck.json", &report.to_string())?;
    fsck(cluster, &["--repair", &file.to_string_lossy()])
}

fn results(repairs: &Value) -> impl Iterator<Item = &Value> {
    repairs["results"].as_array().into_iter().flatten()
}

fn kinds(report: &Value) -> Vec<(&str, String)> {
    let text = |found: &Value, field: &str| found[field].as_str().unwrap_or_default().to_owned();
    let found = report["findings"].as_array().into_iter().flatten();
    found.map(|found| (found["kind"].as_str().unwrap_or_default(), text(found, "address"))).collect()
}

/// An address of the node's pool without a record.
fn unused(cluster: &Cluster, node: &Node) -> Result<Ipv4Addr> {
    let object = cluster.read(&format!("{}/{}", api::VNET_NODES, node.name()))?;
    let held: Vec<Ipv4Addr> = store::entries(node)?.into_iter().map(|(address, _)| address).collect();
    let listed = object["spec"]["addresses"].as_array().into_iter().flatten();
    let mut listed = listed.filter_map(|at| at.as_str()?.split_once('/')?.1.parse().ok());
    listed.find(|address| !held.contains(address)).with_context(|| format!("{} has no free address", node.name()))
}

fn lease_to_nobody(node: &Node, address: Ipv4Addr) -> Result<()> {
    let boot = fs::read_to_string(node.host_path("/proc/sys/kernel/random/boot_id").context("the node is off")?)?;
    let lease = Lease {
        address,
        attachment: Attachment { container: NOBODY.parse()?, if_name: "eth0".parse()? },
        pod: Some(PodRef { namespace: "default".into(), name: NOBODY.into(), uid: Some(NOBODY.parse()?) }),
        network: "azure-vnet".parse()?,
        mode: Mode::Transparent,
        host_link: "azv00000nobody".parse()?,
        netns: Some("/run/netns/nobody".parse()?),
        netns_cookie: None,
        boot: boot.trim().parse()?,
        since: BootTime::from_millis(1),
    };
    // Put in place by a link, as plugins do: nobody reads a half of it.
    let folder = node.host_path("/run/azure-vnet").context("the node is off")?;
    let draft = folder.join("nobody");
    fs::write(&draft, lease.print())?;
    fs::hard_link(&draft, folder.join(format!("lease/{address}")))?;
    fs::remove_file(&draft)?;
    ensure!(store::entries(node)?.iter().any(|(at, entry)| *at == address && matches!(entry, Entry::Leased(_))), "a lease that is read");
    Ok(())
}
