//! A node that fills up in one go, and gives back what it no longer needs.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::{Cluster, wait_for};
use crate::azure::command::Write;
use crate::build::PROBE_IMAGE;

/// What a burst of pods cost.
#[derive(Debug)]
pub struct Burst {
    /// Pods that ran.
    pub pods: usize,
    /// Until all ran.
    pub took: Duration,
    /// Writes to the node's NIC meanwhile.
    pub writes: Vec<Write>,
    /// Addresses of ours on the NIC afterwards.
    pub attached: usize,
}

/// Takes one node to `count` pods more and waits until all run.
///
/// # Errors
/// If they do not run in time.
pub fn burst(cluster: &Cluster, node: &str, count: usize, deadline: Duration) -> Result<Burst> {
    let before = writes(cluster, node)?.len();
    let begun = Instant::now();
    cluster.apply(&workload(node, count))?;
    wait_for("the burst's pods", deadline, || {
        let pods = cluster.pods("app=burst")?.len();
        Ok(if pods == count { Ok(()) } else { Err(format!("{pods} of {count} ready")) })
    })?;
    let took = begun.elapsed();
    let writes = writes(cluster, node)?.split_off(before);
    Ok(Burst { pods: count, took, writes, attached: attached(cluster, node)? })
}

/// One whole release, from the request to Azure's confirmation, each with the time since the pods went.
#[derive(Debug, Default)]
pub struct Handshake {
    /// What was seen, in order.
    pub seen: Vec<(Duration, String)>,
    /// Addresses of ours on the NIC before and after.
    pub attached: (usize, usize),
}

/// Removes the burst's pods and watches until at least one release has gone the whole way.
///
/// # Errors
/// If no release ends in time.
pub fn give_back(cluster: &Cluster, node: &str, deadline: Duration) -> Result<Handshake> {
    let before = attached(cluster, node)?;
    let known = writes(cluster, node)?.len();
    let begun = Instant::now();
    cluster.kubectl(&["delete", "deployment", "burst", "--wait=false"])?;
    let mut handshake = Handshake { attached: (before, before), ..Handshake::default() };
    wait_for("a release to go the whole way", deadline, || {
        for event in progress(cluster, node, known)? {
            if !handshake.seen.iter().any(|(_, seen)| *seen == event) {
                handshake.seen.push((begun.elapsed(), event));
            }
        }
        let now = attached(cluster, node)?;
        handshake.attached.1 = now;
        let open = cluster.json(&["get", "avn", node])?["spec"]["release"].as_array().is_some_and(|open| !open.is_empty());
        Ok(if now < before && !open { Ok(()) } else { Err(format!("{now} of {before} addresses on the NIC; {:?}", handshake.seen.last())) })
    })?;
    Ok(handshake)
}

/// The stages of a release that the node's object and Azure show at this moment.
fn progress(cluster: &Cluster, node: &str, known: usize) -> Result<Vec<String>> {
    let object = cluster.json(&["get", "avn", node])?;
    let mut events = Vec::new();
    for release in object["spec"]["release"].as_array().into_iter().flatten() {
        let count = release["addresses"].as_array().map_or(0, Vec::len);
        events.push(format!("controller asks for {count} addresses (release {})", release["id"]));
    }
    for ack in object["status"]["agent"]["releaseAcks"].as_array().into_iter().flatten() {
        let count = ack["quarantined"].as_array().map_or(0, Vec::len);
        events.push(format!("agent has set {count} aside durably (release {})", ack["id"]));
    }
    let intent = &object["status"]["cloud"]["intent"];
    if intent["op"] == "Remove" {
        let count = intent["remove"].as_array().map_or(0, Vec::len);
        events.push(format!("controller intends to remove {count} (intent {})", intent["id"]));
    }
    for write in writes(cluster, node)?.into_iter().skip(known).filter(|write| !write.removed.is_empty()) {
        events.push(format!("Azure has removed {} in one write", write.removed.len()));
    }
    Ok(events)
}

fn writes(cluster: &Cluster, node: &str) -> Result<Vec<Write>> {
    let writes = cluster.azure(async |azure| azure.writes().await)?;
    Ok(writes.into_iter().filter(|write| write.node.as_deref() == Some(node)).collect())
}

fn attached(cluster: &Cluster, node: &str) -> Result<usize> {
    let nics = cluster.azure(async |azure| azure.nics().await)?;
    let nic = nics.into_iter().find(|nic| nic.node.as_deref() == Some(node)).context("the node has no NIC")?;
    Ok(nic.configurations.iter().filter(|config| config.name.starts_with("avn-")).count())
}

/// Pods of one node that do nothing.
pub fn workload(node: &str, count: usize) -> String {
    format!(
        "\
apiVersion: apps/v1
kind: Deployment
metadata: {{name: burst}}
spec:
  replicas: {count}
  selector: {{matchLabels: {{app: burst}}}}
  template:
    metadata: {{labels: {{app: burst}}}}
    spec:
      terminationGracePeriodSeconds: 0
      nodeSelector: {{kubernetes.io/hostname: {node}}}
      containers:
      - {{name: probe, image: {PROBE_IMAGE}, command: [/probe, sleep]}}
"
    )
}
