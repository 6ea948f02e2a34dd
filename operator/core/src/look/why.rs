//! `why`: how a pod came to its address, or what it waits for, one step after the other.

use std::fmt;

use azure_vnet_crds::{
    AzureVnetNode,
    config::Mode,
    node::{Agent, Cloud, Intent, IntentOp},
};
use jiff::Timestamp;
use serde::Serialize;

use super::{Cluster, Event, Pod, condition, last_segment, name, node::deed, text::when};
use crate::nic;

/// How a pod came to its address, or what it waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Why {
    /// When it was read.
    pub at: Timestamp,
    /// The pod.
    pub pod: Pod,
    /// In one sentence.
    pub verdict: String,
    /// In the order in which they come.
    pub steps: Vec<Step>,
    /// Of the pod, and those of its node's pool that name its IP configuration, oldest first.
    pub events: Vec<Event>,
}

/// One step on the way of an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// Whether it is done.
    pub state: State,
    /// What it is about.
    pub what: String,
    /// When it was done.
    pub at: Option<Timestamp>,
    /// What to do where it is stuck.
    pub remedy: String,
}

/// Of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum State {
    /// Done.
    Done,
    /// Under way.
    Waits,
    /// Stuck.
    Stuck,
}

/// Why nothing can be said.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WhyError {
    /// No such pod.
    #[error("there is no pod {namespace}/{name}: name its namespace with --namespace, or as NAMESPACE/NAME")]
    NoPod {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

/// Follows one pod.
///
/// # Errors
/// When there is no such pod.
pub fn why(cluster: &Cluster, namespace: &str, pod_name: &str) -> Result<Why, WhyError> {
    let no_pod = || WhyError::NoPod { namespace: namespace.to_owned(), name: pod_name.to_owned() };
    let pod = cluster.pod(namespace, pod_name).ok_or_else(no_pod)?;
    let mut steps = vec![];
    let verdict = follow(cluster, pod, &mut steps);
    let of_pod = |event: &Event| event.kind == "Pod" && event.namespace == pod.namespace && event.name == pod.name;
    let events = cluster.events.iter().filter(|event| of_pod(event) || attached(cluster, pod, event)).cloned().collect();
    Ok(Why { at: cluster.at, pod: pod.clone(), verdict, steps, events })
}

/// Whether an event tells of the write that brought the pod's IP configuration. The API server keeps events for an hour.
fn attached(cluster: &Cluster, pod: &Pod, event: &Event) -> bool {
    let Some((node, address)) = pod.node.as_ref().zip(pod.address).filter(|_| !pod.host_network) else { return false };
    if event.kind != "AzureVnetNode" || event.name != *node || event.reason != "AddressesAttached" {
        return false;
    }
    let mut slots = cluster.pool(node).into_iter().flat_map(|pool| &pool.spec.addresses).filter(|at| at.contains(address));
    slots.any(|at| nic::tells_of(&event.message, at.slot))
}

fn done(what: String, at: Option<Timestamp>) -> Step {
    Step { state: State::Done, what, at, remedy: String::new() }
}

fn waits(what: impl Into<String>, remedy: impl Into<String>) -> Step {
    Step { state: State::Waits, what: what.into(), at: None, remedy: remedy.into() }
}

fn stuck(what: impl Into<String>, remedy: impl Into<String>) -> Step {
    Step { state: State::Stuck, what: what.into(), at: None, remedy: remedy.into() }
}

/// Adds the steps and returns the verdict, at the first step that is not done.
fn follow(cluster: &Cluster, pod: &Pod, steps: &mut Vec<Step>) -> String {
    let Some(node) = &pod.node else {
        steps.push(stuck("no node has been chosen for it", "kubectl describe pod says what the scheduler found"));
        return "it is not bound to a node, so no address was asked for".into();
    };
    steps.push(done(format!("bound to {node}"), pod.bound.or(pod.created)));
    if pod.host_network {
        return "it shares the node's network and has the node's own address".into();
    }
    let Some(pool) = cluster.pool(node) else {
        let row = super::nodes(cluster).into_iter().find(|row| row.name == *node);
        let reason = row.map_or_else(|| "there is no such Node".into(), |row| row.reason);
        steps.push(stuck(format!("{node} has no pool: {reason}"), "kubectl azure-vnet preflight looks at the whole cluster"));
        return "its node is not served".into();
    };
    serving(cluster, pool, steps);
    match pod.address {
        Some(address) if is_over(pod) => format!("it has run to its end; {address}, which it had, rests or is another pod's"),
        Some(address) => has(cluster, pod, pool, address, steps),
        None => waiting(pod, pool, steps),
    }
}

fn serving(cluster: &Cluster, pool: &AzureVnetNode, steps: &mut Vec<Step>) {
    let config = &pool.spec.config;
    let mode = cluster.configs.iter().find(|found| name(&found.metadata) == config.name).map(|found| found.spec.mode);
    let text = format!("served by config {}, generation {}", config.name, config.generation);
    steps.push(match mode {
        Some(Mode::Paused) => waits(format!("{text}, which is Paused"), "nothing is written to Azure while spec.mode is Paused"),
        Some(Mode::Plan) => waits(format!("{text}, whose mode is Plan"), "nothing is written to Azure while spec.mode is Plan"),
        Some(Mode::Enforce) => done(text, None),
        None => stuck(format!("{text}, which is gone"), "apply an AzureVnetConfig that selects the node"),
    });
}

fn has(cluster: &Cluster, pod: &Pod, pool: &AzureVnetNode, address: std::net::Ipv4Addr, steps: &mut Vec<Step>) -> String {
    let (cloud, agent) = status(pool);
    let slot = |list: &[azure_vnet_crds::node::SlotAddress]| list.iter().find(|at| at.contains(address)).map(|at| at.slot);
    let nic = last_segment(&pool.spec.node.nic_id);
    if let Some(slot) = slot(&pool.spec.lost) {
        steps.push(stuck(
            format!("{address} was slot {slot}, IP configuration avn-{slot}, and vanished from NIC {nic}"),
            "delete the pod: the next one gets another address; Azure's activity log shows who changed the NIC",
        ));
        return format!("it has {address}, which the NIC has lost: it carries no traffic");
    }
    let Some(slot) = slot(&pool.spec.addresses) else {
        steps.push(stuck(
            format!("{address} is in no pool of {}", name(&pool.metadata)),
            "another network plugin may have given it: look at /etc/cni/net.d on the node",
        ));
        return format!("it has {address}, which is none of ours");
    };
    steps.push(done(format!("{address} is slot {slot}: IP configuration avn-{slot} of NIC {nic}"), None));
    let read = cloud.last_read_at.as_ref().map(|at| at.0);
    steps.push(done("the NIC was last read".into(), read));
    let adopted = agent.revision_adopted;
    let published = pool.spec.revision;
    if adopted >= published {
        steps.push(done(format!("the agent has adopted revision {adopted}, the newest"), None));
    } else {
        steps.push(waits(format!("the agent has adopted revision {adopted} of {published}"), "see the agent's conditions"));
    }
    steps.push(leased(cluster, pod, &agent, address));
    let leaving = pool.spec.release.iter().find(|release| release.addresses.iter().any(|at| at.contains(address)));
    if let Some(release) = leaving {
        steps.push(waits(
            format!("release {} asked for it before the pod had it: the agent refuses it", release.id),
            "nothing to do: the controller withdraws",
        ));
    }
    under_way(cloud.intent.as_ref(), steps);
    format!("it has {address}, slot {slot} of {nic}")
}

/// What is known of the lease from afar: the kubelet's word for the address, and the agent's count.
fn leased(cluster: &Cluster, pod: &Pod, agent: &Agent, address: std::net::Ipv4Addr) -> Step {
    let since = pod.networked.or(pod.bound);
    let lease = format!("its lease is /run/azure-vnet/lease/{address} on the node, for UID {}", pod.uid);
    // The agent's count follows within seconds.
    if agent.counts.assigned == 0 && since.is_some_and(|since| cluster.at.duration_since(since).as_secs() > 60) {
        let what = format!("the kubelet says that it has {address}; the agent counts no lease at all, where {lease}");
        return stuck(what, "azure-vnet-operator node fsck on the node, or kubectl azure-vnet fsck NODE, compares store and kernel");
    }
    done(format!("the kubelet says that it has {address}; {lease}"), since)
}

fn is_over(pod: &Pod) -> bool {
    pod.phase == "Succeeded" || pod.phase == "Failed"
}

fn waiting(pod: &Pod, pool: &AzureVnetNode, steps: &mut Vec<Step>) -> String {
    if is_over(pod) {
        return "it has run to its end and needs no address".into();
    }
    let (cloud, agent) = status(pool);
    let node = name(&pool.metadata);
    let conditions = pool.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let mut blocked = None;
    for kind in ["PoolAdopted", "StoreHealthy", "RulesInSync", "ConflistInPlace"] {
        if let Some(found) = condition(conditions, kind).filter(|found| found.status == "False") {
            let since = Some(found.last_transition_time.0);
            steps.push(Step {
                at: since,
                ..stuck(format!("{kind} {}: {}", found.reason, found.message), "see the agent's log on that node")
            });
            blocked.get_or_insert("its node's agent is not ready");
        }
    }
    under_way(cloud.intent.as_ref(), steps);
    if let Some(error) = &cloud.last_error {
        let retry = error.retry_at.as_ref().map(|at| format!("; tried again at {}", at.0)).unwrap_or_default();
        let at = error.at.as_ref().map(|at| at.0);
        steps.push(Step { at, ..stuck(format!("Azure said {}: {}{retry}", error.code, error.message), error.action.clone()) });
    }
    if let Some(blocked) = blocked {
        return blocked.into();
    }
    let free = agent.counts.free;
    if free > 0 {
        let what = format!("{free} addresses are free on {node}: the runtime has not asked yet, or was refused");
        steps.push(waits(what, "the pod's events say what the plugin answered; tail /var/log/azure-vnet.log on the node"));
        return "an address is free for it; its network is not set up yet".into();
    }
    let full = condition(conditions, "AtCapacity").filter(|found| found.status == "True");
    if let Some(found) = full {
        steps.push(stuck(format!("the pool of {node} is at its most: {} attached", cloud.attached), found.message.clone()));
        return "its node may hold no more addresses".into();
    }
    let resting = agent.counts.cooling;
    let what = format!(
        "no address of {node} is free: {} used, {resting} resting; {} of {} attached",
        agent.counts.assigned, cloud.attached, cloud.target
    );
    steps.push(waits(what, "the failed attempt counts as demand: the controller attaches more"));
    match (&cloud.intent, &cloud.last_error) {
        (Some(intent), _) if intent.op == IntentOp::Add => "it waits for addresses that are being attached".into(),
        (_, Some(error)) => format!("it waits for addresses, and Azure refuses: {}", error.code),
        (_, None) => "it waits for an address to be attached, or to have rested".into(),
    }
}

fn under_way(intent: Option<&Intent>, steps: &mut Vec<Step>) {
    let Some(intent) = intent else { return };
    let until = intent.not_after.as_ref().map(|at| at.0.to_string()).unwrap_or_default();
    let slots: Vec<String> = intent.add.iter().map(|slot| format!("avn-{slot}")).collect();
    let slots = if slots.is_empty() { String::new() } else { format!(" ({})", slots.join(", ")) };
    steps.push(Step {
        at: intent.created_at.as_ref().map(|at| at.0),
        ..waits(
            format!("write {} {}{slots}, by {}", intent.id, deed(intent), intent.leader),
            format!("nothing is sent for it after {until}"),
        )
    });
}

fn status(pool: &AzureVnetNode) -> (Cloud, Agent) {
    let status = pool.status.clone().unwrap_or_default();
    (status.cloud.unwrap_or_default(), status.agent.unwrap_or_default())
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "pod {}/{}: {}\n", self.pod.namespace, self.pod.name, self.verdict)?;
        for step in &self.steps {
            let sign = match step.state {
                State::Done => '✓',
                State::Waits => '…',
                State::Stuck => '✗',
            };
            let at = step.at.map(|at| format!("  ({})", when(Some(at), self.at))).unwrap_or_default();
            writeln!(f, "{sign} {}{at}", step.what)?;
            if !step.remedy.is_empty() {
                writeln!(f, "  {}", step.remedy)?;
            }
        }
        for event in &self.events {
            writeln!(f, "\n· {} {}: {}", when(event.at, self.at), event.reason, event.message)?;
        }
        Ok(())
    }
}
