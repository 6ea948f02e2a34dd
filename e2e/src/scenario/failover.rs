//! A leader that dies, or loses the API server, in the middle of a write to a NIC; another one goes on.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::{Cluster, wait_for};
use crate::azure::command::{Class, Effect, Fault, RetryAfter};
use crate::build::PROBE_IMAGE;
use crate::lab::Node;
use crate::lab::api;

/// What strikes the leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blow {
    /// Its process is killed.
    Kill,
    /// It does not reach the API server any more, Azure it does.
    Cut,
}

/// When it strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Azure has accepted the write, and its operation outlasts the leader's term.
    InFlight,
    /// The write is intended and has not been accepted: Azure asked the leader to wait.
    Unsent,
}

/// What was seen of one fail-over, each with the time since the blow.
#[derive(Debug)]
pub struct Failover {
    /// Another controller holds the lease.
    pub led: Duration,
    /// It has published what the dead leader intended.
    pub published: Duration,
    /// The pods that waited for it run.
    pub ran: Duration,
}

/// Azure's operation lasts longer than a successor waits for the lease.
const OPERATION: Duration = Duration::from_secs(18);
/// Azure tells the leader to wait for longer than a leader that is cut off may write.
const WAIT: u64 = 14;
const PODS: usize = 6;
/// How its process is started.
const CONTROLLER: &[&str] = &["/usr/bin/azure-vnet-operator", "controller"];

/// Lets a node grow by a round's pods, strikes the leader at the moment, and waits until another has finished what it began.
///
/// # Errors
/// If nobody takes over in time, or addresses were lost.
pub fn failover(cluster: &Cluster, round: usize, node: &str, blow: Blow, moment: Moment) -> Result<Failover> {
    let leader = Leader::of(cluster)?;
    let revision = revision(cluster, node)?;
    begin_growth(cluster, round, node, moment)?;
    leader.strike(cluster, blow)?;
    let begun = Instant::now();
    let since = |deadline| Duration::from_secs(deadline).saturating_sub(begun.elapsed());
    wait_for("another controller to lead", since(60), || {
        let holder = holder(cluster)?;
        Ok(if holder == leader.identity { Err(format!("{holder} still holds the lease")) } else { Ok(()) })
    })?;
    let led = begun.elapsed();
    wait_for("the growth to be published", since(120), || {
        let now = self::revision(cluster, node)?;
        Ok(if now > revision { Ok(()) } else { Err(format!("still revision {now}")) })
    })?;
    let published = begun.elapsed();
    wait_for("the pods of the growth", since(180), || {
        let ready = cluster.pods(&format!("app=grow-{round}"))?.len();
        Ok(if ready == PODS { Ok(()) } else { Err(format!("{ready} of {PODS} ready")) })
    })?;
    let ran = begun.elapsed();
    leader.heal(blow)?;
    cluster.kubectl(&["-n", "kube-system", "rollout", "status", "deployment/azure-vnet-controller", "--timeout=90s"])?;
    nothing_lost(cluster)?;
    Ok(Failover { led, published, ran })
}

/// Starts pods for which the node has no addresses, and waits until the write to its NIC is as far as the moment says.
fn begin_growth(cluster: &Cluster, round: usize, node: &str, moment: Moment) -> Result<()> {
    let calls = cluster.azure(async |azure| azure.calls(0).await)?.len();
    let effect = match moment {
        Moment::InFlight => Effect::SlowOperation { millis: u64::try_from(OPERATION.as_millis())? },
        Moment::Unsent => Effect::Throttle { retry_after: RetryAfter::Seconds(WAIT) },
    };
    let (class, path) = written(cluster, node)?;
    let fault = Fault { path: Some(path.clone()), ..Fault::next(class, effect) };
    cluster.azure(async |azure| azure.inject(fault).await)?;
    cluster.apply(&workload(round, node))?;
    let accepted = moment == Moment::InFlight;
    wait_for("a write to the NIC", Duration::from_mins(1), || {
        let calls = cluster.azure(async |azure| azure.calls(u64::try_from(calls)?).await)?;
        let own = calls.iter().filter(|call| call.class == class && call.path.contains(&path));
        let there = own.map(|call| call.status).any(|status| if accepted { status < 300 } else { status == 429 });
        Ok(if there { Ok(()) } else { Err(format!("{} calls, none of them it", calls.len())) })
    })
}

/// What is written for a node's NIC: the instance of a scale set of uniform orchestration, else the NIC.
fn written(cluster: &Cluster, node: &str) -> Result<(Class, String)> {
    let nics = cluster.azure(async |azure| azure.nics().await)?;
    let nic = nics.into_iter().find(|nic| nic.node.as_deref() == Some(node)).context("the node has no NIC")?;
    Ok(match nic.id.split_once("/networkInterfaces/") {
        Some((instance, _)) if instance.contains("/virtualMachines/") => (Class::ComputeWrite, instance.to_owned()),
        _ => (Class::NetworkWrite, nic.id),
    })
}

/// The controller that leads, and where it runs.
pub(super) struct Leader {
    identity: String,
    pub(super) node: Node,
}

impl Leader {
    pub(super) fn of(cluster: &Cluster) -> Result<Self> {
        let identity = holder(cluster)?;
        let (pod, _) = identity.rsplit_once('_').context("the lease's holder names its pod")?;
        let pod = cluster.read(&format!("{}/{pod}", api::SYSTEM_PODS))?;
        let node = pod["spec"]["nodeName"].as_str().and_then(|node| cluster.lab.node(node)).context("the leader's pod has a node")?;
        Ok(Self { identity, node })
    }

    pub(super) fn kill(&self) -> Result<()> {
        self.node.kill(CONTROLLER)
    }

    /// Whether another holds the lease.
    pub(super) fn is_followed(&self, cluster: &Cluster) -> bool {
        holder(cluster).is_ok_and(|holder| holder != self.identity)
    }

    /// The cut drops what the controller's own user sends to the API server: the node's kubelet and agent keep reaching it.
    fn strike(&self, cluster: &Cluster, blow: Blow) -> Result<()> {
        match blow {
            Blow::Kill => self.kill(),
            Blow::Cut => {
                let deployment = cluster.read(api::CONTROLLER)?;
                let user = &deployment["spec"]["template"]["spec"]["securityContext"]["runAsUser"];
                let rule = format!(
                    "table ip cut {{\nchain out {{\ntype filter hook output priority 0;\nmeta skuid {user} ip daddr {} drop\n}}\n}}",
                    crate::lab::plan::API_SERVER
                );
                self.node.exec(&["nft", &rule]).map(|_| ())
            }
        }
    }

    fn heal(&self, blow: Blow) -> Result<()> {
        match blow {
            Blow::Kill => Ok(()),
            Blow::Cut => self.node.exec(&["nft", "delete", "table", "ip", "cut"]).map(|_| ()),
        }
    }
}

fn holder(cluster: &Cluster) -> Result<String> {
    let lease = cluster.read(api::LEASE)?;
    lease["spec"]["holderIdentity"].as_str().filter(|holder| !holder.is_empty()).map(str::to_owned).context("nobody leads")
}

fn revision(cluster: &Cluster, node: &str) -> Result<u64> {
    cluster.read(&format!("{}/{node}", api::VNET_NODES))?["spec"]["revision"].as_u64().context("the node's object has a revision")
}

/// Every configuration of ours that ever was on a NIC still is there, and is published; nothing else is.
fn nothing_lost(cluster: &Cluster) -> Result<()> {
    let history = cluster.azure(async |azure| azure.history().await)?;
    let ended: Vec<_> = history.iter().filter(|tenure| tenure.config.starts_with("avn-") && tenure.to_millis.is_some()).collect();
    ensure!(ended.is_empty(), "configurations were dropped: {ended:?}");
    wait_for("NICs and objects to agree", Duration::from_mins(1), || {
        for nic in cluster.azure(async |azure| azure.nics().await)? {
            let Some(node) = nic.node else { continue };
            let ours = nic.configurations.iter().filter(|config| config.name.starts_with("avn-"));
            let attached: BTreeSet<Ipv4Addr> = ours.filter_map(|config| config.address).collect();
            let object = cluster.read(&format!("{}/{node}", api::VNET_NODES))?;
            let published = object["spec"]["addresses"].as_array().into_iter().flatten();
            let published: BTreeSet<Ipv4Addr> = published.filter_map(|slot| slot.as_str()?.split_once('/')?.1.parse().ok()).collect();
            if attached != published || !object["status"]["cloud"]["intent"].is_null() {
                return Ok(Err(format!("{node}: on the NIC {attached:?}, published {published:?}")));
            }
        }
        Ok(Ok(()))
    })
}

fn workload(round: usize, node: &str) -> String {
    format!(
        "\
apiVersion: apps/v1
kind: Deployment
metadata: {{name: grow-{round}}}
spec:
  replicas: {PODS}
  selector: {{matchLabels: {{app: grow-{round}}}}}
  template:
    metadata: {{labels: {{app: grow-{round}}}}}
    spec:
      terminationGracePeriodSeconds: 0
      nodeSelector: {{kubernetes.io/hostname: {node}}}
      containers:
      - {{name: probe, image: {PROBE_IMAGE}, command: [/probe, sleep]}}
"
    )
}
