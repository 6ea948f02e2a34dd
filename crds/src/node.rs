//! `AzureVnetNode`: what controller and agent tell one another of one node. Machine-owned.
//!
//! The controller writes `spec`, `status.cloud` and its conditions; the agent writes `status.agent` and its conditions.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use crate::slot::{SlotAddress, SlotAddressError, Unit};
use crate::{
    config::{CniSpec, Exhaustion, HostSpec, MasqueradeSpec, Mode},
    schema,
};

/// The pool of one node: what the controller put on its NIC and what the agent has taken over.
#[expect(clippy::duplicated_attributes, reason = "several columns have the same priority")]
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[kube(group = "azure-vnet.dev", version = "v1alpha1", kind = "AzureVnetNode", plural = "azurevnetnodes", shortname = "avn")]
#[kube(doc = "The pool of one node: what the controller put on its NIC and what the agent has taken over. Nobody else writes it.")]
#[kube(status = "AzureVnetNodeStatus", derive = "Default", derive = "PartialEq", category = "azure-vnet")]
#[kube(printcolumn(name = "Config", type_ = "string", json_path = ".spec.config.name"))]
#[kube(printcolumn(name = "Kind", type_ = "string", json_path = ".spec.node.kind"))]
#[kube(printcolumn(name = "Demand", type_ = "integer", json_path = ".status.agent.demand"))]
#[kube(printcolumn(name = "Target", type_ = "integer", json_path = ".status.cloud.target"))]
#[kube(printcolumn(name = "Attached", type_ = "integer", json_path = ".status.cloud.attached"))]
#[kube(printcolumn(name = "Free", type_ = "integer", json_path = ".status.agent.counts.free"))]
#[kube(printcolumn(name = "Cooling", type_ = "integer", json_path = ".status.agent.counts.cooling"))]
#[kube(printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"))]
#[kube(printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"))]
#[kube(printcolumn(name = "Revision", type_ = "integer", json_path = ".spec.revision", priority = "1"))]
#[kube(printcolumn(name = "Adopted", type_ = "integer", json_path = ".status.agent.revisionAdopted", priority = "1"))]
#[kube(printcolumn(name = "Quarantined", type_ = "integer", json_path = ".status.agent.counts.quarantined", priority = "1"))]
#[kube(printcolumn(name = "Primary", type_ = "string", json_path = ".spec.node.primaryAddress", priority = "1"))]
#[kube(printcolumn(name = "Error", type_ = "string", json_path = ".status.cloud.lastError.code", priority = "1"))]
#[kube(printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"))]
#[schemars(transform = schema::written_by_machines)]
#[serde(rename_all = "camelCase", default)]
pub struct AzureVnetNodeSpec {
    /// The machine and its NIC.
    pub node: Machine,
    /// Grows by one with every change that the agent must adopt.
    #[schemars(extend("x-kubernetes-validations" = schema::rules([
        ("self >= oldSelf", "an agent adopts no lower revision: only ever raise it"),
    ])))]
    pub revision: u64,
    /// The config in force.
    pub config: ConfigRef,
    /// That config's values for this node.
    pub effective: Effective,
    /// What pods may use.
    #[schemars(length(max = 255), extend("x-kubernetes-list-type" = "atomic"))]
    pub addresses: Vec<SlotAddress>,
    /// What the agent is asked to set aside for giving back.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic", "x-kubernetes-validations" = schema::rules([
        ("self.all(x, self.exists_one(y, y.id == x.id))", "two releases have the same id: take the next one of the sequence"),
    ])))]
    pub release: Vec<Release>,
    /// Vanished from the NIC though wanted; pods that hold them carry no traffic.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 512), extend("x-kubernetes-list-type" = "atomic"))]
    pub lost: Vec<SlotAddress>,
}

/// The machine and its NIC.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Machine {
    /// UID of the Node object.
    #[schemars(length(max = 64), extend("x-kubernetes-validations" = schema::rules([
        ("oldSelf == '' || self == oldSelf", "another Node has this name: delete this object, the controller makes a new one"),
    ])))]
    pub uid: String,
    /// Boot id that the kubelet reported.
    #[serde(rename = "bootID")]
    #[schemars(length(max = 64))]
    pub boot_id: String,
    /// The Node's provider id.
    #[serde(rename = "providerID")]
    #[schemars(length(max = 512))]
    pub provider_id: String,
    /// How its NIC is written.
    pub kind: MachineKind,
    /// Azure resource id of the NIC.
    #[serde(rename = "nicID")]
    #[schemars(length(max = 512))]
    pub nic_id: String,
    /// The NIC's MAC, lower case with colons.
    #[schemars(length(max = 17))]
    pub mac: String,
    /// Azure resource id of the NIC's subnet.
    #[serde(rename = "subnetID")]
    #[schemars(length(max = 512))]
    pub subnet_id: String,
    /// The subnet's prefix that the primary address lies in.
    #[schemars(length(max = 43))]
    pub subnet_prefix: String,
    /// The node's own address on that NIC.
    #[schemars(length(max = 39))]
    pub primary_address: String,
    /// Address spaces of the VNET and of its connected peers.
    #[serde(rename = "vnetCIDRs")]
    #[schemars(length(max = 256), inner(length(max = 43)), extend("x-kubernetes-list-type" = "atomic"))]
    pub vnet_cidrs: Vec<String>,
}

/// How a machine's NIC is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum MachineKind {
    /// Not resolved yet.
    #[default]
    Unknown,
    /// Instance of a Uniform scale set: through the instance.
    VmssUniform,
    /// Member of a Flexible scale set: the NIC itself.
    VmssFlex,
    /// Stand-alone VM: the NIC itself.
    #[serde(rename = "VM")]
    Vm,
}

/// A config by name and generation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ConfigRef {
    /// Its name.
    #[schemars(length(max = 253))]
    pub name: String,
    /// The generation that was merged.
    pub generation: i64,
}

/// The values in force for a node.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = schema::copied)]
pub struct Effective {
    /// How many addresses the node holds.
    pub pool: PoolNumbers,
    /// What the controller may do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// What only the controller goes by, for when no config says it any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub controller: Option<ForController>,
    /// How long a freed address rests, in seconds.
    pub cool_down_seconds: u64,
    /// How long a withdrawn release keeps its addresses from pods, in seconds.
    pub probation_seconds: u64,
    /// Masquerading.
    pub masquerade: MasqueradeSpec,
    /// Host settings.
    pub host: HostSpec,
    /// CNI configuration.
    pub cni: CniSpec,
    /// Addresses that pods never get.
    #[schemars(length(max = 64), inner(length(max = 43)), extend("x-kubernetes-list-type" = "atomic"))]
    pub reserved: Vec<String>,
}

/// What only the controller goes by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ForController {
    /// How long a write to the NIC may take, in seconds.
    #[serde(rename = "intentTTLSeconds", skip_serializing_if = "Option::is_none")]
    pub intent_ttl_seconds: Option<u64>,
    /// How long after that a late write may still land, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_seconds: Option<u64>,
    /// What marks the node when it has no addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exhaustion: Option<Exhaustion>,
}

/// How many addresses a node holds, resolved.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PoolNumbers {
    /// Always so many; the others do not count then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fixed: Option<u16>,
    /// At least.
    pub min: u16,
    /// Free above demand.
    pub min_free: u16,
    /// In multiples of.
    pub batch: u16,
    /// At most.
    pub max: u16,
    /// Where the numbers come from.
    pub source: PoolSource,
}

/// Where a node's numbers come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum PoolSource {
    /// The config alone.
    #[default]
    Config,
    /// The config, and the Node's annotation `azure-vnet.dev/pool-override`.
    Annotation,
}

/// One request to set addresses aside. Acknowledged only with the same id and nonce (safety rule RE1).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Release {
    /// Grows; a closed id never acts again.
    pub id: u64,
    /// Drawn by this controller in this term.
    #[schemars(length(max = 64))]
    pub nonce: String,
    /// Slot and address of each (safety rule RE2).
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "atomic"))]
    pub addresses: Vec<SlotAddress>,
}

/// Status of a node's pool.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = schema::written_by_machines)]
pub struct AzureVnetNodeStatus {
    /// Written by the controller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cloud: Option<Cloud>,
    /// Written by the agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<Agent>,
    /// Of the controller: Ready, `InDeficit`, `AtCapacity`, `NicWritable`, `AgentAlive`. Of the agent: `PoolAdopted`, `StoreHealthy`, `RulesInSync`, `ConflistInPlace`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}

/// What the controller last saw and is doing in Azure.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Cloud {
    /// Addresses on IP configurations of ours.
    pub attached: u16,
    /// What the sizing asks for.
    pub target: u16,
    /// IP configurations of others (the node's own included).
    pub foreign: u16,
    /// When the NIC was last read that had all of `spec.addresses`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_read_at: Option<Time>,
    /// The one write in flight; written before it is sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub intent: Option<Intent>,
    /// Before this, nothing was to be published: of a NIC that had our names when this object was made (safety rule RE4).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub publish_from: Option<Time>,
    /// What mode Plan would send.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<Plan>,
    /// The highest intent or release id ever used on this object.
    pub last_id: u64,
    /// Since when a surplus of at least one batch has lasted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub surplus_since: Option<Time>,
    /// The most that pods needed at once in the first two minutes of this node's service, if it was new then; 0 is a need as well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_need: Option<u16>,
    /// The last failure, with what to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<CloudError>,
}

/// A write to a NIC that is not sent, since the mode is Plan. All that the body holds besides is sent back as it was read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Plan {
    /// Method, path and query.
    #[schemars(length(max = 1200))]
    pub request: String,
    /// The header `If-Match`.
    #[schemars(length(max = 256))]
    pub if_match: String,
    /// Names of the IP configurations that the body adds.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 255), inner(length(max = 80)), extend("x-kubernetes-list-type" = "atomic"))]
    pub add: Vec<String>,
    /// The `properties` of each of them, as JSON.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 16384))]
    pub properties: String,
    /// What the body leaves out, once the agent has set it aside.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 255), extend("x-kubernetes-list-type" = "atomic"))]
    pub remove: Vec<SlotAddress>,
}

/// A write to a NIC, recorded before it is sent.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = schema::rules([
    (
        "!has(self.createdAt) || !has(self.notAfter) || self.createdAt == null || self.notAfter == null || self.notAfter > self.createdAt",
        "an intent ends after it begins: set notAfter to createdAt and the config's intentTTL",
    ),
])))]
pub struct Intent {
    /// From the same sequence as release ids.
    pub id: u64,
    /// What it does.
    pub op: IntentOp,
    /// Slots to add; addresses are not known yet.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 255), extend("x-kubernetes-list-type" = "atomic"))]
    pub add: Vec<u8>,
    /// What each of them is to carry; single addresses where it is not said.
    #[serde(skip_serializing_if = "Unit::is_address")]
    pub unit: Unit,
    /// Slots and addresses to remove (safety rule RE2).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 255), extend("x-kubernetes-list-type" = "atomic"))]
    pub remove: Vec<SlotAddress>,
    /// The release whose acknowledgement allowed the removal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub release_id: Option<u64>,
    /// Identity of the leader that wrote it.
    #[schemars(length(max = 253))]
    pub leader: String,
    /// When it was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_at: Option<Time>,
    /// Nothing is sent for it after this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_after: Option<Time>,
}

/// Direction of a write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum IntentOp {
    /// More addresses.
    #[default]
    Add,
    /// Fewer.
    Remove,
}

/// A failure in Azure, for the reader of `kubectl describe`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CloudError {
    /// Azure's code.
    #[schemars(length(max = 256))]
    pub code: String,
    /// What failed on what.
    #[schemars(length(max = 4096))]
    pub message: String,
    /// What to do.
    #[schemars(length(max = 1024))]
    pub action: String,
    /// When.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<Time>,
    /// The next try.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Time>,
}

/// What the agent reports.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Agent {
    /// UID of the `AzureVnetNode` object that it has adopted.
    #[serde(rename = "objectUID")]
    #[schemars(length(max = 64))]
    pub object_uid: String,
    /// The running boot.
    #[serde(rename = "bootID")]
    #[schemars(length(max = 64))]
    pub boot_id: String,
    /// Random id of the node's durable folder (safety rule ST9).
    #[serde(rename = "storeID")]
    #[schemars(length(max = 64))]
    pub store_id: String,
    /// The agent's version.
    #[schemars(length(max = 64))]
    pub version: String,
    /// The highest revision that it has adopted (safety rule RE3).
    pub revision_adopted: u64,
    /// Pods bound to the node that need an address, plus leases without a pod, cooling and waiting ADDs.
    pub demand: u16,
    /// The node's addresses by state.
    pub counts: StoreCounts,
    /// What the machine's own metadata service (IMDS) shows of the NIC, against what is listed here; absent while it is silent. A word from there costs
    /// none of Azure's requests: where both agree, the controller seldom reads the NIC; where they differ, at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub imds: Option<Imds>,
    /// Lost addresses that pods still hold, of blocks each by itself.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 512), extend("x-kubernetes-list-type" = "atomic"))]
    pub lost_in_use: Vec<SlotAddress>,
    /// Releases that are durably set aside.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub release_acks: Vec<ReleaseAck>,
    /// Whether the conflist is in place.
    pub ready: bool,
}

/// How IMDS differs from the revision that the agent has adopted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Imds {
    /// Listed addresses that it does not show any more, or has not shown for 90 seconds, of blocks each by itself.
    pub missing: u16,
    /// Addresses of the NIC that it shows and that are not listed, for 90 seconds: the node's own is one of them.
    pub others: u16,
}

/// The node's addresses by state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct StoreCounts {
    /// Held by pods.
    pub assigned: u16,
    /// Resting after use.
    pub cooling: u16,
    /// Set aside for giving back.
    pub quarantined: u16,
    /// Free for pods.
    pub free: u16,
}

/// The agent's word that addresses are durably set aside.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ReleaseAck {
    /// The release's id.
    pub id: u64,
    /// The release's nonce.
    #[schemars(length(max = 64))]
    pub nonce: String,
    /// Set aside: no pod has or can get them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "atomic"))]
    pub quarantined: Vec<SlotAddress>,
    /// In use meanwhile, not set aside.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "atomic"))]
    pub refused: Vec<SlotAddress>,
}
