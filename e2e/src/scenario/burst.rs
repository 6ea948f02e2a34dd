//! A node that fills up in one go, and gives back what it no longer needs.

use std::fmt;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::Value;

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

/// What was seen of a node's releases since its pods went.
#[derive(Debug, Default)]
pub struct Handshake {
    /// Each stage and when, in order.
    pub seen: Vec<(Duration, Stage)>,
    /// Addresses of ours on the NIC, at most and in the end.
    pub attached: (usize, usize),
}

/// A stage of a release: with its number, and of how many addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The controller asks for addresses.
    Asked(u64, usize),
    /// The agent has set them aside durably.
    SetAside(u64, usize),
    /// The controller has noted that it takes them off the NIC.
    Intended(u64, usize),
    /// Azure has done so; the number is that of the write.
    Removed(u64, usize),
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asked(release, count) => write!(f, "controller asks for {count} addresses (release {release})"),
            Self::SetAside(release, count) => write!(f, "agent has set {count} aside durably (release {release})"),
            Self::Intended(intent, count) => write!(f, "controller intends to remove {count} (intent {intent})"),
            Self::Removed(_, count) => write!(f, "Azure has removed {count} in one write"),
        }
    }
}

impl Handshake {
    fn see(&mut self, begun: Instant, stages: impl IntoIterator<Item = Stage>) {
        for stage in stages {
            if !self.seen.iter().any(|(_, seen)| *seen == stage) {
                self.seen.push((begun.elapsed(), stage));
            }
        }
    }

    /// Whether one release was seen in each of its stages.
    fn is_whole(&self) -> bool {
        let stages: Vec<Stage> = self.seen.iter().map(|(_, stage)| *stage).collect();
        let was_set_aside =
            |release| stages.iter().any(|stage| matches!(stage, Stage::SetAside(of, count) if *of == release && *count > 0));
        stages.iter().any(|stage| matches!(stage, Stage::Asked(release, _) if was_set_aside(*release)))
            && stages.iter().any(|stage| matches!(stage, Stage::Intended(..)))
            && stages.iter().any(|stage| matches!(stage, Stage::Removed(..)))
    }
}

/// Removes the burst's pods and watches every state of the node's object, until a release has gone the whole way and none is open.
///
/// # Errors
/// If no release ends in time, or a stage was not seen.
pub fn give_back(cluster: &Cluster, node: &str, deadline: Duration) -> Result<Handshake> {
    let before = attached(cluster, node)?;
    let known = writes(cluster, node)?.len();
    let objects = Watch::start(cluster, node)?;
    let begun = Instant::now();
    cluster.kubectl(&["delete", "deployment", "burst", "--wait=false"])?;
    let mut handshake = Handshake { attached: (before, before), ..Handshake::default() };
    let mut open = false;
    wait_for("a release to go the whole way", deadline, || {
        for object in objects.states.try_iter() {
            handshake.see(begun, stages(&object));
            open = object["spec"]["release"].as_array().is_some_and(|open| !open.is_empty());
        }
        let removals = writes(cluster, node)?.into_iter().zip(0..).skip(known).filter(|(write, _)| !write.removed.is_empty());
        handshake.see(begun, removals.map(|(write, number)| Stage::Removed(number, write.removed.len())));
        let now = attached(cluster, node)?;
        handshake.attached = (handshake.attached.0.max(now), now);
        let done = now < before && !open && handshake.is_whole();
        Ok(if done { Ok(()) } else { Err(format!("{now} of {before} addresses on the NIC; {:?}", handshake.seen)) })
    })?;
    Ok(handshake)
}

/// The states of a node's object, each as the API server tells it.
struct Watch {
    kubectl: Child,
    states: Receiver<Value>,
}

impl Watch {
    fn start(cluster: &Cluster, node: &str) -> Result<Self> {
        let mut command = cluster.lab.client("kubectl");
        command.args(["get", "avn", node, "--watch", "--output=json"]).stdin(Stdio::null()).process_group(0);
        let mut kubectl = command.stdout(Stdio::piped()).spawn()?;
        let stdout = kubectl.stdout.take().context("kubectl has an output")?;
        let (tell, states) = mpsc::channel();
        thread::spawn(move || {
            for state in serde_json::Deserializer::from_reader(stdout).into_iter::<Value>().map_while(Result::ok) {
                if tell.send(state).is_err() {
                    return;
                }
            }
        });
        Ok(Self { kubectl, states })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.kubectl.kill();
        let _ = self.kubectl.wait();
    }
}

/// The stages of a release that a node's object shows.
fn stages(object: &Value) -> Vec<Stage> {
    let count = |list: &Value| list.as_array().map_or(0, Vec::len);
    let id = |of: &Value| of["id"].as_u64().unwrap_or_default();
    let asked = object["spec"]["release"].as_array().into_iter().flatten();
    let mut stages: Vec<Stage> = asked.map(|release| Stage::Asked(id(release), count(&release["addresses"]))).collect();
    let acks = object["status"]["agent"]["releaseAcks"].as_array().into_iter().flatten();
    stages.extend(acks.map(|ack| Stage::SetAside(id(ack), count(&ack["quarantined"]))));
    let intent = &object["status"]["cloud"]["intent"];
    if intent["op"] == "Remove" {
        stages.push(Stage::Intended(id(intent), count(&intent["remove"])));
    }
    stages
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
