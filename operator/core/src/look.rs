//! What people see of a cluster: the objects of the API server, read together, and what they mean.
//!
//! Each question is a function from a [`Cluster`] to a value that can be printed as text or serialised. Nothing here asks anybody: who looks needs
//! no rights in Azure, since all that matters stands in the objects.

mod cluster;
mod connectivity;
mod explain;
mod node;
mod plan;
mod preflight;
mod read;
mod redact;
mod text;
mod why;

use std::{collections::BTreeMap, net::Ipv4Addr};

use azure_vnet_crds::{AzureVnetConfig, AzureVnetNode, AzureVnetSubnet};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde::Serialize;

use crate::{
    policy::{Invalid, Policy, Refused},
    size,
};

pub use cluster::{ConfigRow, Overview, Problem, SubnetRow, overview};
pub use connectivity::{Asked, Connectivity, Failure, Goal, Heard, Outcome, Probe, Way, choose_nodes, connectivity};
pub use explain::{ExplainError, Explanation, Sees, Target, explain};
pub use node::{NodeRow, NodeView, Rows, carried, node, nodes};
pub use plan::{PlanRow, Plans, plan};
pub use preflight::{Check, Preflight, Verdict, preflight};
pub use redact::{Redaction, redact};
pub use text::{Bar, Table, ago};
pub use why::{State, Step, Why, WhyError, why};

/// A moment of a cluster, as the API server showed it.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    /// When it was read.
    pub at: Timestamp,
    /// `v1.33.2`; empty if not asked.
    pub version: String,
    /// Every config.
    pub configs: Vec<AzureVnetConfig>,
    /// Every node's pool.
    pub pools: Vec<AzureVnetNode>,
    /// Every subnet that nodes are in, as the controller counts it.
    pub subnets: Vec<AzureVnetSubnet>,
    /// Every Node.
    pub machines: Vec<Machine>,
    /// Pods, all or those that were asked for.
    pub pods: Vec<Pod>,
    /// Services, all or those that were asked for.
    pub services: Vec<Service>,
    /// Events about our kinds and about pods that were asked for, oldest first.
    pub events: Vec<Event>,
}

/// A Node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Machine {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// What the cloud provider calls it.
    #[serde(rename = "providerID")]
    pub provider_id: String,
    /// `linux` or `windows`.
    pub os: String,
    /// Status of the condition Ready: True, False or Unknown.
    pub ready: String,
    /// What that condition says.
    pub ready_message: String,
    /// Whether it takes no new pods.
    pub cordoned: bool,
    /// Keys of its taints.
    pub taints: Vec<String>,
    /// What its annotation `azure-vnet.dev/pool-override` says of its pool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool_override: Option<String>,
    /// Whether its annotation `azure-vnet.dev/unmanaged` keeps the controller off.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub unmanaged: bool,
    /// Pods that the kubelet accepts.
    pub max_pods: u16,
    /// The kubelet's version.
    pub kubelet: String,
    /// The container runtime.
    pub runtime: String,
    /// When it joined.
    pub created: Option<Timestamp>,
}

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its node, once it is bound.
    pub node: Option<String>,
    /// Its address, once it has one.
    pub address: Option<Ipv4Addr>,
    /// Whether it shares the node's network.
    pub host_network: bool,
    /// Pending, Running, Succeeded, Failed or Unknown.
    pub phase: String,
    /// Whether it is being deleted.
    pub terminating: bool,
    /// Whether it is Ready.
    pub ready: bool,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// When it was bound to its node.
    pub bound: Option<Timestamp>,
    /// When its network stood.
    pub networked: Option<Timestamp>,
}

/// A Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Service {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its cluster address; none for a headless one.
    pub address: Option<Ipv4Addr>,
}

/// An event.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// When it was last seen.
    pub at: Option<Timestamp>,
    /// Whether it is a warning.
    pub warning: bool,
    /// One word.
    pub reason: String,
    /// What happened.
    pub message: String,
    /// Kind of the object that it speaks of.
    pub kind: String,
    /// Namespace of that object, if it has one.
    pub namespace: String,
    /// Name of that object.
    pub name: String,
    /// How often.
    pub count: i32,
}

impl Cluster {
    /// The pool of a node.
    #[must_use]
    pub fn pool(&self, node: &str) -> Option<&AzureVnetNode> {
        self.pools.iter().find(|pool| pool.metadata.name.as_deref() == Some(node))
    }

    /// A Node by name.
    #[must_use]
    pub fn machine(&self, node: &str) -> Option<&Machine> {
        self.machines.iter().find(|machine| machine.name == node)
    }

    /// A pod by namespace and name.
    #[must_use]
    pub fn pod(&self, namespace: &str, name: &str) -> Option<&Pod> {
        self.pods.iter().find(|pod| pod.namespace == namespace && pod.name == name)
    }

    /// The config that counts for a node; none for one with Windows, or with an annotation that keeps the controller off.
    #[must_use]
    pub fn config(&self, machine: &Machine) -> Option<&AzureVnetConfig> {
        crate::policy::choose(&self.configs, &machine.labels).filter(|_| machine.os != "windows" && !machine.unmanaged)
    }

    /// A subnet by its Azure resource id, whose case says nothing.
    #[must_use]
    pub fn subnet(&self, id: &str) -> Option<&AzureVnetSubnet> {
        self.subnets.iter().find(|subnet| subnet.spec.subnet_id.eq_ignore_ascii_case(id))
    }

    /// What Azure lets one use of a subnet: by Azure's count, else by the prefix that one of its nodes has; none where neither is known.
    fn size_of(&self, subnet: &str, prefix: &str) -> Option<u32> {
        let counted = self.subnet(subnet).and_then(|subnet| subnet.status.as_ref()?.limit);
        counted.or_else(|| prefix.parse().ok().map(crate::network::usable))
    }
}

/// What a config asks of a node, with what was learned of its kin and the Node's own word about its pool; and why that word does not count, if it does not.
fn policy(config: &AzureVnetConfig, machine: &Machine) -> Result<(Policy, Option<Refused>), Invalid> {
    let policy = Policy::of(config)?.for_kin(config, &machine.labels);
    Ok(match machine.pool_override.as_ref().map(|text| policy.overridden(config, text)) {
        Some(Ok(overridden)) => (overridden, None),
        Some(Err(refused)) => (policy, Some(refused)),
        None => (policy, None),
    })
}

/// One number of each state of the addresses of a node, or of several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// On the NIC.
    pub attached: u32,
    /// What the sizing asks for.
    pub target: u32,
    /// Held by pods.
    pub used: u32,
    /// Free for pods.
    pub free: u32,
    /// Resting after use.
    pub cooling: u32,
    /// On their way back to the subnet.
    pub leaving: u32,
    /// Vanished from the NIC though wanted.
    pub lost: u32,
}

impl Counts {
    fn of(pool: &AzureVnetNode) -> Self {
        let status = pool.status.as_ref();
        let cloud = status.and_then(|status| status.cloud.as_ref());
        let store = status.and_then(|status| status.agent.as_ref()).map(|agent| agent.counts.clone()).unwrap_or_default();
        Self {
            attached: cloud.map_or(0, |cloud| cloud.attached.into()),
            target: cloud.map_or(0, |cloud| cloud.target.into()),
            used: store.assigned.into(),
            free: store.free.into(),
            cooling: store.cooling.into(),
            leaving: store.quarantined.into(),
            lost: size::addresses(&pool.spec.lost).into(),
        }
    }

    fn add(self, other: Self) -> Self {
        Self {
            attached: self.attached + other.attached,
            target: self.target + other.target,
            used: self.used + other.used,
            free: self.free + other.free,
            cooling: self.cooling + other.cooling,
            leaving: self.leaving + other.leaving,
            lost: self.lost + other.lost,
        }
    }
}

fn number(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn name(metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> &str {
    metadata.name.as_deref().unwrap_or_default()
}

/// Which status of a condition is the good one.
fn is_good(condition: &Condition) -> bool {
    let bad_when_true = ["InDeficit", "AtCapacity", "Throttled", "SubnetExhausted", "Degraded", "Exhausted", "Low"];
    match condition.status.as_str() {
        "True" => !bad_when_true.contains(&condition.type_.as_str()),
        "False" => bad_when_true.contains(&condition.type_.as_str()),
        _ => false,
    }
}

fn condition<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == kind)
}

/// The last segment of an Azure resource id.
pub(crate) fn last_segment(id: &str) -> &str {
    id.rsplit('/').next().unwrap_or_default()
}
