//! What operators do to a cluster while its pods go on: other versions of the product, nodes that are drained and rebooted, controllers that die.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::failover::Leader;
use super::load::{self, Load};
use super::{Checker, Cluster, Pod, wait_for, wait_ready};
use crate::build::{EARLIER_IMAGE, EARLIER_MARK, OPERATOR_IMAGE, checkout};
use crate::lab::api;
use crate::lab::{Lab, LabOptions};
use crate::scenario;

/// Large enough for what a driver's addresses rest: five a second for ten seconds.
pub const ROOMY: &str = "\
apiVersion: azure-vnet.dev/v1alpha1
kind: AzureVnetConfig
metadata:
  name: default
spec:
  pool:
    min: 96
    minFree: 8
    batch: 16
    max: 160
    coolDown: 10s
    release: {after: 10m, batch: 16, jitterPercent: 0, calm: 20s, probation: 30s}
  masquerade:
    nonMasqueradeCIDRs: [10.50.0.0/16]
";

/// The tag of the earlier version's image.
#[must_use]
pub fn earlier_tag() -> &'static str {
    EARLIER_IMAGE.rsplit_once(':').map_or("", |(_, tag)| tag)
}

fn tag() -> &'static str {
    OPERATOR_IMAGE.rsplit_once(':').map_or("", |(_, tag)| tag)
}

/// From the earlier version to this one, as docs/upgrade.md says: definitions first, then the chart.
///
/// # Errors
/// If the nodes do not get this version's plugins in time.
pub fn upgrade(cluster: &Cluster) -> Result<()> {
    let crds = checkout().join("charts/azure-vnet/crds");
    cluster.kubectl(&["apply", "--server-side", "-f", &crds.to_string_lossy()])?;
    let chart = checkout().join("charts/azure-vnet");
    let set = format!("image.tag={}", tag());
    let chart = chart.to_string_lossy();
    cluster.lab.helm(&["upgrade", "azure-vnet", &chart, "--namespace", "kube-system", "--reuse-values", "--set", &set])?;
    cluster.rolled_out()?;
    plugins_are(cluster, false)
}

/// Back to the earlier version.
///
/// # Errors
/// If the nodes do not get its plugins in time.
pub fn roll_back(cluster: &Cluster) -> Result<()> {
    cluster.lab.helm(&["rollback", "azure-vnet", "--namespace", "kube-system"])?;
    cluster.rolled_out()?;
    plugins_are(cluster, true)
}

/// Whether every node has the plugins of the earlier version, or those of this one.
///
/// # Errors
/// Names the node that has others.
pub fn plugins_are(cluster: &Cluster, earlier: bool) -> Result<()> {
    for node in cluster.lab.nodes() {
        for name in ["azure-vnet", "azure-vnet-ipam"] {
            let path = node.host_path(&format!("/opt/cni/bin/{name}")).context("the node is off")?;
            let is_earlier = std::fs::read(&path).with_context(|| format!("{} lacks {name}", node.name()))?.ends_with(EARLIER_MARK);
            ensure!(is_earlier == earlier, "{name} on {} is of the other version", node.name());
        }
    }
    Ok(())
}

/// Cordons, drains, reboots and uncordons so many nodes, one after another.
///
/// # Errors
/// If one does not come back in time.
pub fn renew_nodes(cluster: &Cluster, count: usize) -> Result<()> {
    for node in cluster.lab.nodes().iter().take(count) {
        let name = node.name();
        cluster.drain(name, &[])?;
        let boot = boot_of(cluster, name)?;
        cluster.lab.reboot(name)?;
        wait_for("the booted node to be ready", Duration::from_secs(90), || {
            let object = cluster.read(&format!("{}/{name}", api::NODES))?;
            let ready =
                object["status"]["conditions"].as_array().into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True");
            let is_another = object["status"]["nodeInfo"]["bootID"] != boot;
            Ok(if ready && is_another { Ok(()) } else { Err(format!("ready: {ready}, another boot: {is_another}")) })
        })?;
        cluster.kubectl(&["uncordon", name])?;
    }
    wait_ready(cluster, Duration::from_mins(1))
}

fn boot_of(cluster: &Cluster, node: &str) -> Result<serde_json::Value> {
    Ok(cluster.read(&format!("{}/{node}", api::NODES))?["status"]["nodeInfo"]["bootID"].clone())
}

/// Kills the controller that leads, and waits until another does.
///
/// # Errors
/// If nobody takes over.
pub fn kill_leader(cluster: &Cluster) -> Result<()> {
    // One that has just been replaced has given the lease up.
    let leader = wait_for("a leader", Duration::from_secs(30), || Ok(Leader::of(cluster).map_err(|error| error.to_string())))?;
    leader.kill()?;
    wait_for("another controller to lead", Duration::from_mins(1), || {
        Ok(if leader.leads(cluster)? { Err("the dead one's lease has not ended".to_owned()) } else { Ok(()) })
    })
}

/// How much is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// An upgrade, a rollback, a dead controller and one renewed node.
    Short,
    /// So many rounds of it, each with all nodes and two dead controllers.
    Rounds(u32),
}

/// Does it in one lab, with everything that is counted; `tell` gets a line for each step.
///
/// # Errors
/// At the first fault.
pub fn run(extent: Extent, tell: &mut dyn FnMut(&str)) -> Result<load::Counts> {
    let lab = Lab::up(&LabOptions { earlier: true, ..LabOptions::default() })?;
    let cluster = Cluster::new(&lab)?;
    let checker = Checker::start(&lab);
    scenario::install(&cluster, &["--set", &format!("image.tag={}", earlier_tag())])?;
    scenario::configure(&cluster, ROOMY)?;
    wait_ready(&cluster, Duration::from_mins(2))?;
    plugins_are(&cluster, true)?;
    filled(&cluster)?;
    let pods = scenario::start_pods(&cluster, Duration::from_mins(2))?;
    let load = Load::start(&cluster)?;
    let (rounds, nodes) = match extent {
        Extent::Short => (1, 1),
        Extent::Rounds(rounds) => (rounds, cluster.lab.nodes().len()),
    };
    for round in 1..=rounds {
        let begun = Instant::now();
        let mut step =
            |what: &str, load: &Load| tell(&format!("round {round}, {:.0} s: {what}; {}", begun.elapsed().as_secs_f64(), load.counts()));
        upgrade(&cluster)?;
        step("upgraded", &load);
        roll_back(&cluster)?;
        step("rolled back", &load);
        if round == 1 {
            same_pods(&cluster, &pods)?;
        }
        kill_leader(&cluster)?;
        step("killed the leader", &load);
        renew_nodes(&cluster, nodes)?;
        step("drained and rebooted nodes", &load);
        if extent != Extent::Short {
            kill_leader(&cluster)?;
            step("killed the leader", &load);
        }
    }
    let counts = load.finish(&cluster)?;
    tell(&counts.to_string());
    load::check(&counts)?;
    let looks = checker.finish()?;
    tell(&format!("in {looks} looks at Azure and all stores no address was in two places"));
    lab.down()?;
    Ok(counts)
}

/// Waits until the pools are as large as the config says: the driver begins at full speed.
fn filled(cluster: &Cluster) -> Result<()> {
    wait_for("the pools to be filled", Duration::from_mins(2), || {
        let pools = cluster.read(api::VNET_NODES)?;
        let adopted = |pool: &serde_json::Value| pool["status"]["agent"]["counts"]["free"].as_u64().unwrap_or_default();
        let free: Vec<u64> = pools["items"].as_array().into_iter().flatten().map(adopted).collect();
        Ok(if free.len() == cluster.lab.nodes().len() && free.iter().all(|free| *free >= 90) { Ok(()) } else { Err(format!("{free:?}")) })
    })
}

/// The product's upgrades restart nothing.
fn same_pods(cluster: &Cluster, before: &[Pod]) -> Result<()> {
    let now = cluster.pods("app=web")?;
    let key = |pods: &[Pod]| -> Vec<(String, std::net::Ipv4Addr)> { pods.iter().map(|pod| (pod.name.clone(), pod.address)).collect() };
    ensure!(key(before) == key(&now), "pods changed over an upgrade: {before:?} {now:?}");
    Ok(())
}
