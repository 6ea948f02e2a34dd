//! `nodes` and `node`: pools, one a line, and one in full.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::Ipv4Addr,
};

use azure_vnet_crds::{
    AzureVnetNode, UNMANAGED,
    node::{CloudError, Intent, IntentOp, Release, SlotAddress, Unit},
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde::Serialize;

use super::{
    Bar, Cluster, Counts, Event, Machine, Table, condition, is_good, last_segment, name,
    text::{plural, when},
};
use crate::provider::ProviderId;

/// One node on one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeRow {
    /// Its name.
    pub name: String,
    /// The config that counts; none for a node that is not served.
    pub config: Option<String>,
    /// `VmssUniform`, `VmssFlex` or VM.
    pub kind: String,
    /// Its addresses.
    pub counts: Counts,
    /// What its pods need.
    pub demand: u32,
    /// Whether pods can start.
    pub ready: bool,
    /// Why, or why not.
    pub reason: String,
}

/// Several nodes, as a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Rows(pub Vec<NodeRow>);

impl fmt::Display for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        table(self.0.iter()).fmt(f)
    }
}

/// One node in full.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeView {
    /// When it was read.
    pub at: Timestamp,
    /// The line of `nodes`.
    pub row: NodeRow,
    /// The Node.
    pub machine: Option<Machine>,
    /// Azure resource id of its NIC.
    #[serde(rename = "nicID")]
    pub nic_id: String,
    /// Azure resource id of its subnet.
    #[serde(rename = "subnetID")]
    pub subnet_id: String,
    /// The node's own address.
    pub primary: String,
    /// What the controller published, and what the agent has of it.
    pub revision: (u64, u64),
    /// When the NIC was last read.
    pub last_read: Option<Timestamp>,
    /// Each address with the pod that has it.
    pub addresses: Vec<AddressRow>,
    /// The write under way.
    pub intent: Option<Intent>,
    /// What is to go back to the subnet.
    pub release: Vec<Release>,
    /// Vanished addresses.
    pub lost: Vec<SlotAddress>,
    /// The last failure in Azure.
    pub last_error: Option<CloudError>,
    /// As they stand.
    pub conditions: Vec<Condition>,
    /// What happened, oldest first.
    pub events: Vec<Event>,
}

/// One address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AddressRow {
    /// Slot and address.
    pub slot: SlotAddress,
    /// The pod that has it, of a block those that have any of it, by the API server: `namespace/name`.
    pub pod: Option<String>,
}

/// Every Node, in the order of names.
#[must_use]
pub fn nodes(cluster: &Cluster) -> Vec<NodeRow> {
    let pools: BTreeMap<&str, &AzureVnetNode> = cluster.pools.iter().map(|pool| (name(&pool.metadata), pool)).collect();
    let machines: BTreeSet<&str> = cluster.machines.iter().map(|machine| machine.name.as_str()).collect();
    let there = cluster.machines.iter().map(|machine| row(cluster, machine, pools.get(machine.name.as_str()).copied()));
    let gone = pools.iter().filter(|(name, _)| !machines.contains(*name)).map(|(_, pool)| gone(pool));
    let mut rows: Vec<NodeRow> = there.chain(gone).collect();
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    rows
}

/// One node; `None` where neither a Node nor a pool has the name.
#[must_use]
pub fn node(cluster: &Cluster, wanted: &str) -> Option<NodeView> {
    let row = match (cluster.machine(wanted), cluster.pool(wanted)) {
        (Some(machine), pool) => row(cluster, machine, pool),
        (None, Some(pool)) => gone(pool),
        (None, None) => return None,
    };
    let pool = cluster.pool(wanted).cloned().unwrap_or_else(|| AzureVnetNode::new(wanted, azure_vnet_crds::AzureVnetNodeSpec::default()));
    let AzureVnetNode { spec, status, .. } = pool;
    let status = status.unwrap_or_default();
    let (cloud, agent) = (status.cloud.unwrap_or_default(), status.agent.unwrap_or_default());
    let holder = |at: &SlotAddress| {
        let is_inside = |address: Option<Ipv4Addr>| address.is_some_and(|address| at.contains(address));
        let has = |pod: &&super::Pod| !pod.host_network && is_inside(pod.address) && pod.phase != "Succeeded" && pod.phase != "Failed";
        let names: Vec<String> = cluster.pods.iter().filter(has).map(|pod| format!("{}/{}", pod.namespace, pod.name)).collect();
        (!names.is_empty()).then(|| names.join(", "))
    };
    Some(NodeView {
        at: cluster.at,
        row,
        machine: cluster.machine(wanted).cloned(),
        nic_id: spec.node.nic_id,
        subnet_id: spec.node.subnet_id,
        primary: spec.node.primary_address,
        revision: (spec.revision, agent.revision_adopted),
        last_read: cloud.last_read_at.map(|at| at.0),
        addresses: spec.addresses.iter().map(|at| AddressRow { slot: *at, pod: holder(at) }).collect(),
        intent: cloud.intent,
        release: spec.release,
        lost: spec.lost,
        last_error: cloud.last_error,
        conditions: status.conditions,
        events: cluster.events.iter().filter(|event| event.name == wanted && event.kind != "Pod").cloned().collect(),
    })
}

/// A pool whose Node is not there any more.
fn gone(pool: &AzureVnetNode) -> NodeRow {
    NodeRow { reason: "the Node is gone".into(), ready: false, ..served(pool) }
}

fn row(cluster: &Cluster, machine: &Machine, pool: Option<&AzureVnetNode>) -> NodeRow {
    match pool {
        Some(pool) => served(pool),
        None => NodeRow {
            name: machine.name.clone(),
            config: None,
            kind: String::new(),
            counts: Counts::default(),
            demand: 0,
            ready: false,
            reason: unserved(cluster, machine),
        },
    }
}

/// Why a Node has no pool.
fn unserved(cluster: &Cluster, machine: &Machine) -> String {
    if machine.os == "windows" {
        return "Windows is not served".into();
    }
    if let Err(error) = machine.provider_id.parse::<ProviderId>() {
        return error.to_string();
    }
    if machine.unmanaged {
        return format!("its annotation {UNMANAGED} keeps the controller off");
    }
    match cluster.config(machine) {
        None => "no config selects it".into(),
        Some(config) => format!("waits for the controller, by config {}", name(&config.metadata)),
    }
}

fn served(pool: &AzureVnetNode) -> NodeRow {
    let status = pool.status.clone().unwrap_or_default();
    let ready = condition(&status.conditions, "Ready");
    NodeRow {
        name: name(&pool.metadata).to_owned(),
        config: Some(pool.spec.config.name.clone()),
        kind: serde_json::to_value(pool.spec.node.kind).ok().and_then(|kind| kind.as_str().map(str::to_owned)).unwrap_or_default(),
        counts: Counts::of(pool),
        demand: status.agent.map_or(0, |agent| agent.demand.into()),
        ready: ready.is_some_and(|ready| ready.status == "True"),
        reason: ready.map_or_else(|| "nothing reported yet".into(), |ready| ready.reason.clone()),
    }
}

/// One line a node.
pub(super) fn table<'a>(rows: impl Iterator<Item = &'a NodeRow>) -> Table {
    let mut table = Table::new(&["NODE", "POOL", "USED", "RESTING", "FREE", "TARGET", "READY", "REASON"]);
    for row in rows {
        let Counts { attached, target, used, free, cooling, leaving, lost: _ } = row.counts;
        let bar = Bar { used, resting: cooling + leaving, of: attached.max(used + cooling + leaving), width: 20 };
        let resting = (cooling + leaving).to_string();
        let ready = if row.ready { "yes" } else { "no" };
        table.row([
            row.name.clone(),
            bar.to_string(),
            used.to_string(),
            resting,
            free.to_string(),
            target.to_string(),
            ready.into(),
            row.reason.clone(),
        ]);
    }
    table
}

/// What a write does, in words.
pub(super) fn deed(intent: &Intent) -> String {
    match intent.op {
        IntentOp::Add => format!("adds {}", plural(intent.add.len() * usize::from(intent.unit.size()), "address")),
        IntentOp::Remove => format!("removes {}", list(&intent.remove)),
    }
}

fn list(slots: &[SlotAddress]) -> String {
    slots.iter().map(|at| carried(*at)).collect::<Vec<_>>().join(", ")
}

/// The address of a slot, or its block.
#[must_use]
pub fn carried(at: SlotAddress) -> String {
    match at.unit {
        Unit::Address => at.address.to_string(),
        Unit::Block28 => format!("{}/{}", at.address, at.unit.prefix_len()),
    }
}

impl fmt::Display for NodeView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", table(std::iter::once(&self.row)))?;
        if let Some(config) = &self.row.config {
            let mut facts = Table::default();
            facts.row(["config".into(), config.clone()]);
            facts.row(["NIC".into(), format!("{} ({})", last_segment(&self.nic_id), self.row.kind)]);
            facts.row(["subnet".into(), last_segment(&self.subnet_id).into()]);
            facts.row(["own address".into(), self.primary.clone()]);
            facts.row(["demand".into(), self.row.demand.to_string()]);
            facts.row(["revision".into(), format!("{} published, {} adopted by the agent", self.revision.0, self.revision.1)]);
            facts.row(["NIC last read".into(), when(self.last_read, self.at)]);
            write!(f, "{facts}")?;
        }
        if let Some(intent) = &self.intent {
            let (sent, until) = (intent.created_at.as_ref().map(|at| at.0), intent.not_after.as_ref().map(|at| at.0.to_string()));
            writeln!(
                f,
                "\nunder way: write {} {} ({}; by {}; nothing is sent after {})",
                intent.id,
                deed(intent),
                when(sent, self.at),
                intent.leader,
                until.unwrap_or_default()
            )?;
        }
        for release in &self.release {
            writeln!(f, "\nto be given back (release {}): {}", release.id, list(&release.addresses))?;
        }
        if !self.lost.is_empty() {
            writeln!(f, "\n✗ vanished from the NIC: {}: delete the pods that have them", list(&self.lost))?;
        }
        if let Some(error) = &self.last_error {
            let at = when(error.at.as_ref().map(|at| at.0), self.at);
            writeln!(f, "\n✗ Azure said {} ({at}): {}\n  {}", error.code, error.message, error.action)?;
        }
        for found in self.conditions.iter().filter(|found| !is_good(found)) {
            writeln!(f, "\n✗ {} {}: {}", found.type_, found.reason, found.message)?;
        }
        if !self.addresses.is_empty() {
            let mut table = Table::new(&["SLOT", "ADDRESS", "IP CONFIGURATION", "POD"]);
            for row in &self.addresses {
                let SlotAddress { slot, address: _, unit: _ } = row.slot;
                table.row([slot.to_string(), carried(row.slot), format!("avn-{slot}"), row.pod.clone().unwrap_or_else(|| "-".into())]);
            }
            write!(f, "\n{table}")?;
        }
        for event in &self.events {
            let sign = if event.warning { "✗" } else { "·" };
            write!(f, "\n{sign} {} {}: {}", when(event.at, self.at), event.reason, event.message)?;
        }
        if self.events.is_empty() { Ok(()) } else { writeln!(f) }
    }
}
