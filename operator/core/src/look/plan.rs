//! `plan`: what the controller would do with each node, by the configs that are there or by others that one thinks of applying.

use std::fmt;

use azure_vnet_crds::{
    AzureVnetNode,
    config::Mode,
    node::{PoolSource, SlotAddress, Unit},
};
use serde::Serialize;

use super::{Cluster, Machine, Table, name, node::deed, policy};
use crate::{
    first_fill::{self, Fill, First},
    policy::{Policy, Pool},
    size::{self, Need},
};

/// IP configurations that a NIC carries.
const NIC_LIMIT: u16 = 256;

/// What would be done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Plans {
    /// Each node, in the order of names.
    pub nodes: Vec<PlanRow>,
    /// Addresses that would be attached, over all.
    pub attach: u32,
    /// Addresses that would go back, over all.
    pub give_back: u32,
    /// Writes to NICs that this takes, at least.
    pub writes: u32,
}

/// What would be done with one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PlanRow {
    /// The node.
    pub node: String,
    /// The config that counts.
    pub config: String,
    /// What its pods need.
    pub demand: u16,
    /// What it has, without what goes back already.
    pub holds: u16,
    /// What it should have.
    pub target: u16,
    /// Attached or given back.
    pub change: i32,
    /// In words.
    pub why: String,
}

/// Plans every node by the configs in `cluster`.
#[must_use]
pub fn plan(cluster: &Cluster) -> Plans {
    let mut machines: Vec<&Machine> = cluster.machines.iter().collect();
    machines.sort_by(|a, b| a.name.cmp(&b.name));
    let mut plans = Plans { nodes: machines.into_iter().map(|machine| row(cluster, machine)).collect(), ..Plans::default() };
    for row in &plans.nodes {
        plans.attach += u32::try_from(row.change).unwrap_or(0);
        plans.give_back += u32::try_from(-row.change).unwrap_or(0);
        plans.writes += u32::from(row.change != 0);
    }
    plans
}

fn row(cluster: &Cluster, machine: &Machine) -> PlanRow {
    let blank = |config: &str, why: String| PlanRow {
        node: machine.name.clone(),
        config: config.to_owned(),
        demand: 0,
        holds: 0,
        target: 0,
        change: 0,
        why,
    };
    let Some(config) = cluster.config(machine) else {
        return blank(
            "-",
            super::nodes(cluster).into_iter().find(|row| row.name == machine.name).map(|row| row.reason).unwrap_or_default(),
        );
    };
    let (policy, refused) = match policy(config, machine) {
        Ok(found) => found,
        Err(error) => return blank(name(&config.metadata), error.to_string()),
    };
    let fresh = AzureVnetNode::default();
    let pool = cluster.pool(&machine.name);
    let row = sized(cluster, machine, &policy, pool.unwrap_or(&fresh), pool.is_some());
    let sent = if policy.mode == Mode::Plan && row.change != 0 { "not sent, mode is Plan: " } else { "" };
    let by = if policy.effective.pool.source == PoolSource::Annotation { ", by the Node's annotation" } else { "" };
    let refused = refused.map(|refused| format!("; {refused}")).unwrap_or_default();
    PlanRow { why: format!("{sent}{}{by}{refused}", row.why), ..row }
}

fn sized(cluster: &Cluster, machine: &Machine, policy: &Policy, pool: &AzureVnetNode, known: bool) -> PlanRow {
    let status = pool.status.clone().unwrap_or_default();
    let (cloud, agent) = (status.cloud.unwrap_or_default(), status.agent.unwrap_or_default());
    let leaving: Vec<SlotAddress> = pool.spec.release.iter().flat_map(|release| release.addresses.clone()).collect();
    let stays: Vec<SlotAddress> = pool.spec.addresses.iter().filter(|at| !leaving.contains(at)).copied().collect();
    let leaving = size::addresses(&leaving);
    let used = size::used(&agent, pool.spec.revision, leaving).saturating_add(size::kept_from_pods(&pool.spec));
    let exhausted = cloud.last_error.as_ref().is_some_and(|error| error.code.starts_with("SubnetIsFull"));
    let unit = if exhausted { Unit::Address } else { policy.unit_on(pool.spec.node.kind) };
    let slots = u16::try_from(pool.spec.addresses.len()).unwrap_or(u16::MAX);
    let room = size::room(NIC_LIMIT.saturating_sub(cloud.foreign.max(1)).min(255), slots, size::addresses(&pool.spec.addresses), unit);
    let holding = cloud.attached.saturating_sub(leaving);
    let free = cluster.subnet(&pool.spec.node.subnet_id).and_then(|subnet| subnet.status.as_ref()?.free);
    let need = Need { used, room, exhausted, cordoned: machine.cordoned, holding, free, unit };
    let (target, usual) = policy.pool.sizes(first(cluster, machine, policy, pool), need);
    let holds = holding;
    let (wanted, over) = (policy.unit_on(pool.spec.node.kind), holds.saturating_sub(target));
    let (surplus, least) = size::surplus(stays.iter().map(|at| at.unit), over, wanted, policy.pool.step(exhausted));
    let difference = i32::from(target) - i32::from(holds);
    let idle = difference < 0;
    let (change, why) = if policy.mode == Mode::Paused {
        (0, "Paused: nothing is written to Azure".to_owned())
    } else if machine.ready == "Unknown" {
        (0, "the kubelet does not answer: nothing is done".to_owned())
    } else if let Some(intent) = &cloud.intent {
        (0, format!("waits for write {}, which {}", intent.id, deed(intent)))
    } else if difference > 0 {
        let asked = if known { "attaches at once" } else { "a new node: attaches at once" };
        (difference, format!("{asked}, in one write"))
    } else if surplus > 0 && surplus >= least && policy.release.enabled && !machine.cordoned {
        let batch = size::addresses(&size::candidates(stays, wanted, surplus, policy.release.batch));
        let after = policy.release.after.as_secs() / 60;
        (-i32::from(batch), format!("gives back {batch} of {surplus} once idle for {after} min, the agent's word given"))
    } else if idle && !policy.release.enabled {
        (0, "idle addresses stay: pool.release.enabled is false".to_owned())
    } else if cloud.last_error.is_some() && holds < target {
        (0, "waits for the next try".to_owned())
    } else {
        (0, "as it should be".to_owned())
    };
    let newness = if target > usual { ", with what a new node is filled with beforehand" } else { "" };
    let bounded = match policy.pool {
        Pool::Floating { max, .. } if target == max && used >= max => ", at pool.max",
        Pool::Fixed(_) | Pool::Floating { .. } => "",
    };
    PlanRow {
        node: machine.name.clone(),
        config: policy.config.name.clone(),
        demand: agent.demand,
        holds,
        target,
        change,
        why: format!("{why}{newness}{bounded}"),
    }
}

/// What is held beforehand while the node is new. How many it was first filled with is known to the controller alone: as many as it has, or more.
fn first(cluster: &Cluster, machine: &Machine, policy: &Policy, pool: &AzureVnetNode) -> Option<First> {
    first_fill::left(machine.created?, cluster.at)?;
    let target = pool.status.as_ref().and_then(|status| status.cloud.as_ref()).map(|cloud| cloud.target.max(cloud.attached));
    Some(policy.first.at(if pool.spec.revision == 0 { Fill::Due } else { Fill::Begun(target) }))
}

impl fmt::Display for Plans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new(&["NODE", "CONFIG", "DEMAND", "HOLDS", "TARGET", "CHANGE", "WHY"]);
        for row in &self.nodes {
            let PlanRow { node, config, demand, holds, target, change, why } = row.clone();
            let change = if change == 0 { "-".to_owned() } else { format!("{change:+}") };
            table.row([node, config, demand.to_string(), holds.to_string(), target.to_string(), change, why]);
        }
        let Self { attach, give_back, writes, nodes: _ } = self;
        write!(f, "{table}\nto attach: {attach}, to give back: {give_back}, writes to NICs: {writes}\n")
    }
}
