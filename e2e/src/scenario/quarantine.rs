//! A node that reboots while addresses of it are set aside: nobody gets them, and the release goes on to its end.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use azure_vnet_plugin_core::lease::Entry;
use serde_json::Value;

use super::burst::{burst, workload};
use super::failover::Leader;
use super::install::CONFIG;
use super::{Cluster, store, wait_for};
use crate::azure::command::{Class, Effect, Fault, RetryAfter};
use crate::lab::Node;
use crate::lab::api;

/// How long Azure asks the controller to wait, again and again, until the node has booted.
const WAIT: u64 = 5;
/// More than the release's batch: a smaller surplus is kept.
const PODS: usize = 24;
/// What they need with `minFree`; the node may have no more, so that no growth follows theirs.
const MAX: usize = PODS + 4;

/// What was set aside over a reboot.
#[derive(Debug)]
pub struct SetAside {
    /// The addresses.
    pub addresses: BTreeSet<Ipv4Addr>,
    /// How often the node's store was looked at between its new boot and the removal.
    pub looks: u64,
}

/// The config under which [`reboot_with_addresses_set_aside`] can be seen.
#[must_use]
pub fn config_of_a_small_node() -> String {
    CONFIG.replace("after: 70s", "after: 30s").replace("max: 100", &format!("max: {MAX}"))
}

/// Has addresses of one of the nodes acknowledged for giving back, reboots it, and presses for addresses until they are gone.
///
/// It takes the first of the nodes on which the leader does not run: a removal of a leader that went down with its node is not carried on
/// but watched for a quarter of an hour.
///
/// # Errors
/// If the leader runs on all of the nodes, the agent does not set any aside, a pod gets one of them, or the release does not end.
pub fn reboot_with_addresses_set_aside(cluster: &Cluster, nodes: &[&str], deadline: Duration) -> Result<SetAside> {
    let leader = Leader::of(cluster)?;
    let other = nodes.iter().find(|name| **name != leader.node.name()).context("the leader runs on each of the nodes")?;
    let node = &cluster.lab.node(other).context("no such node")?;
    burst(cluster, node.name(), PODS, deadline)?;
    let addresses = held_back_removal(cluster, node, deadline)?;
    ensure!(!addresses.is_empty(), "a removal is intended only of what was acknowledged");
    ensure!(addresses.is_subset(&set_aside(node)?), "what was acknowledged is set aside");
    cluster.lab.reboot(node.name())?;
    cluster.apply(&workload(node.name(), PODS))?;
    let looks = nobody_gets_them(cluster, node, &addresses, deadline)?;
    Ok(SetAside { addresses, looks })
}

/// Ends the burst, and waits until the controller intends a removal and Azure has asked it to wait. Azure does so from before there can be a
/// removal, and from when the growth is over: it would wait as well.
fn held_back_removal(cluster: &Cluster, node: &Node, deadline: Duration) -> Result<BTreeSet<Ipv4Addr>> {
    let object = || cluster.read(&format!("{}/{}", api::VNET_NODES, node.name()));
    wait_for("the node's growth to be over", deadline, || {
        let cloud = object()?["status"]["cloud"].clone();
        let over = cloud["attached"] == MAX && cloud["intent"].is_null();
        Ok(if over { Ok(()) } else { Err(cloud.to_string()) })
    })?;
    let effect = Effect::Throttle { retry_after: RetryAfter::Seconds(WAIT) };
    let fault = Fault { times: u32::MAX, ..Fault::next(Class::NetworkWrite, effect) };
    cluster.azure(async |azure| azure.inject(fault).await)?;
    cluster.kubectl(&["delete", "deployment", "burst", "--wait=false"])?;
    wait_for("Azure to refuse a removal for now", deadline, || {
        let refused = cluster.azure(async |azure| azure.faults().await)?.iter().any(|fault| fault.times < u32::MAX);
        let (cloud, release) = (object()?["status"]["cloud"].clone(), object()?["spec"]["release"].clone());
        let intended = cloud["intent"]["op"] == "Remove";
        Ok(if refused && intended { Ok(()) } else { Err(format!("refused: {refused}, asked for {release}, {cloud}")) })
    })?;
    Ok(acknowledged(&object()?))
}

/// Looks until Azure has taken the last of them off the NIC, which it does once the booted node was seen to hold all of them back.
fn nobody_gets_them(cluster: &Cluster, node: &Node, addresses: &BTreeSet<Ipv4Addr>, deadline: Duration) -> Result<u64> {
    let mut looks = 0;
    let mut look = || {
        // Azure may give an address anew once it is off the NIC, and only then.
        let attached = still_attached(cluster, addresses)?;
        let entries = store::entries(node).unwrap_or_default();
        let leased = entries.iter().filter(|(_, entry)| matches!(entry, Entry::Leased(_))).map(|(address, _)| *address);
        let given: BTreeSet<Ipv4Addr> = leased.filter(|address| attached.contains(address)).collect();
        ensure!(given.is_empty(), "pods got {given:?}, which was set aside before the reboot");
        looks += 1;
        Ok(attached)
    };
    wait_for("the booted node to hold back what was set aside", deadline, || {
        let (attached, aside) = (look()?, set_aside(node).unwrap_or_default());
        ensure!(attached == *addresses, "the release went on although Azure refused it: {attached:?}");
        Ok(if addresses.is_subset(&aside) { Ok(()) } else { Err(format!("{aside:?}")) })
    })?;
    cluster.azure(async |azure| azure.clear_faults().await)?;
    wait_for("the release to end", deadline, || {
        let attached = look()?;
        Ok(if attached.is_empty() { Ok(()) } else { Err(format!("{attached:?} are on the NIC")) })
    })?;
    Ok(looks)
}

/// Those that have been on the NIC without a break since they were set aside.
fn still_attached(cluster: &Cluster, addresses: &BTreeSet<Ipv4Addr>) -> Result<BTreeSet<Ipv4Addr>> {
    let history = cluster.azure(async |azure| azure.history().await)?;
    let ended: BTreeSet<Ipv4Addr> = history.iter().filter(|tenure| tenure.to_millis.is_some()).map(|tenure| tenure.address).collect();
    Ok(addresses.difference(&ended).copied().collect())
}

fn acknowledged(object: &Value) -> BTreeSet<Ipv4Addr> {
    let acks = object["status"]["agent"]["releaseAcks"].as_array().into_iter().flatten();
    let slots = acks.flat_map(|ack| ack["quarantined"].as_array().into_iter().flatten());
    slots.filter_map(|slot| slot.as_str()?.split_once('/')?.1.parse().ok()).collect()
}

fn set_aside(node: &Node) -> Result<BTreeSet<Ipv4Addr>> {
    let entries = store::entries(node).context("the node's store")?;
    Ok(entries.into_iter().filter(|(_, entry)| matches!(entry, Entry::Quarantined(_))).map(|(address, _)| address).collect())
}
