//! `AzureVnetConfig`: what users write.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the nodes it selects get VNET addresses for their pods.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[kube(group = "azure-vnet.dev", version = "v1alpha1", kind = "AzureVnetConfig", plural = "azurevnetconfigs", shortname = "avc")]
#[kube(status = "AzureVnetConfigStatus", derive = "Default", derive = "PartialEq")]
#[serde(rename_all = "camelCase", default)]
pub struct AzureVnetConfigSpec {
    /// Enforce writes to Azure; Paused writes nothing and keeps what is there.
    pub mode: Mode,
    /// The highest priority that matches a node wins; among equals the older object.
    pub priority: u16,
    /// Which nodes; empty selects all Linux nodes.
    pub node_selector: LabelSelector,
    /// How many addresses a node holds.
    pub pool: PoolSpec,
    /// What leaves with the node's address instead of the pod's.
    pub masquerade: MasqueradeSpec,
    /// What the agent enforces on the host.
    pub host: HostSpec,
    /// The CNI configuration that the agent writes.
    pub cni: CniSpec,
    /// How the controller uses Azure Resource Manager.
    pub arm: ArmSpec,
    /// Taints.
    pub readiness: ReadinessSpec,
}

/// What the controller may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum Mode {
    /// Writes to Azure.
    #[default]
    Enforce,
    /// Writes nothing to Azure; nodes keep what they have.
    Paused,
}

/// Sizing of a node's pool. Either a floating pool (`min`, `minFree`, `batch`, `max`) or a fixed one (`ipAddressCount`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PoolSpec {
    /// Fixed pre-allocation: addresses of the node including its own (1-256), so the pool is one less. Excludes min, minFree, batch and max.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_address_count: Option<u16>,
    /// Never fewer than these.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<u16>,
    /// Addresses kept free above demand (at least 1). 8 when nothing is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_free: Option<u16>,
    /// The pool grows and shrinks in multiples of this. 4 when nothing is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<u16>,
    /// Never more than these (at most 255). 110 when nothing is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<u16>,
    /// How long a freed address rests before another pod gets it, as a Go duration. 45s when nothing is set.
    pub cool_down: Option<String>,
    /// Giving idle addresses back.
    pub release: ReleaseSpec,
    /// Addresses (CIDRs) that pods never get.
    pub reserved: Vec<String>,
}

/// Giving idle addresses back to the subnet.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ReleaseSpec {
    /// Whether idle addresses are given back at all.
    pub enabled: bool,
    /// How long a surplus of at least one batch must have lasted.
    pub after: String,
    /// At most this many addresses in one release.
    pub batch: u16,
    /// Spread of `after` over the nodes, in percent.
    pub jitter_percent: u8,
    /// No release within this time of a deficit, of a cordon, or of the node's first fill.
    pub calm: String,
    /// A withdrawn or expired release keeps its addresses from pods for this long (safety rule RE8).
    pub probation: String,
}

impl Default for ReleaseSpec {
    fn default() -> Self {
        Self { enabled: true, after: "10m".into(), batch: 5, jitter_percent: 20, calm: "10m".into(), probation: "10m".into() }
    }
}

/// Masquerading of pod traffic.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MasqueradeSpec {
    /// VNet: all but the VNET's own and peered spaces; Custom: only `masqueradeCIDRs`; Disabled: nothing.
    pub mode: MasqueradeMode,
    /// Destinations that see the pod's address, besides the VNET's own address space.
    #[serde(rename = "nonMasqueradeCIDRs")]
    pub non_masquerade_cidrs: Vec<String>,
    /// Destinations that see the node's address even inside the VNET.
    #[serde(rename = "masqueradeCIDRs")]
    pub masquerade_cidrs: Vec<String>,
    /// Whether source ports are chosen at random (`--random-fully`).
    pub random_fully: bool,
    /// Which iptables the rules go through; Auto takes what the node already uses.
    pub backend: Backend,
}

impl Default for MasqueradeSpec {
    fn default() -> Self {
        Self {
            mode: MasqueradeMode::VNet,
            non_masquerade_cidrs: vec![],
            masquerade_cidrs: vec![],
            random_fully: true,
            backend: Backend::Auto,
        }
    }
}

/// Which destinations see the node's address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum MasqueradeMode {
    /// All but the VNET's own and peered spaces.
    #[default]
    VNet,
    /// Only `masqueradeCIDRs`.
    Custom,
    /// None.
    Disabled,
}

/// Which iptables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum Backend {
    /// What the node already uses.
    #[default]
    Auto,
    /// iptables over nf_tables.
    Nft,
    /// The legacy kernel interface.
    Legacy,
}

/// What the agent enforces on the host.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HostSpec {
    /// Whether the agent keeps `net.ipv4.ip_forward` at 1.
    pub ip_forward: Enforcement,
    /// Reverse path filter on the node's NIC: Strict (1), Loose (2), or left alone.
    pub rp_filter: RpFilter,
    /// Whether the agent accepts forwarded pod traffic in its own chain.
    pub forward_accept: Enforcement,
}

impl Default for HostSpec {
    fn default() -> Self {
        Self { ip_forward: Enforcement::Enforce, rp_filter: RpFilter::Strict, forward_accept: Enforcement::Enforce }
    }
}

/// Whether the agent enforces something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum Enforcement {
    /// Set, and mended when it drifts.
    #[default]
    Enforce,
    /// Left alone.
    Ignore,
}

/// Reverse path filter on the NIC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum RpFilter {
    /// 1: what Azure's images have; stops spoofed sources.
    #[default]
    Strict,
    /// 2: for nodes with several NICs.
    Loose,
    /// Left alone.
    Ignore,
}

/// The CNI configuration that the agent writes.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CniSpec {
    /// File name under /etc/cni/net.d; cannot be changed later.
    pub conf_name: String,
    /// CNI version of the file; Auto takes the newest that the node's runtime is known to accept.
    pub cni_version: String,
    /// How pods are wired.
    pub mode: WiringMode,
    /// The node's uplink; empty finds the NIC by its MAC.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub master: String,
    /// MTU of pods; 0 copies the NIC's.
    pub mtu: u32,
    /// Plugins that run after ours, as they stand in a conflist.
    pub chain: Vec<serde_json::Map<String, serde_json::Value>>,
}

impl Default for CniSpec {
    fn default() -> Self {
        let portmap = serde_json::json!({"type": "portmap", "capabilities": {"portMappings": true}, "snat": true});
        let chain = portmap.as_object().cloned().into_iter().collect();
        Self {
            conf_name: "10-azure-vnet.conflist".into(),
            cni_version: "Auto".into(),
            mode: WiringMode::Transparent,
            master: String::new(),
            mtu: 0,
            chain,
        }
    }
}

/// How pods are wired.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum WiringMode {
    /// Routed, one veth a pod.
    #[default]
    Transparent,
}

/// How the controller uses Azure Resource Manager.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ArmSpec {
    /// Share of every budget that is left to others, in percent.
    pub reserve_percent: u8,
    /// How long a write may take to land before it counts as lost.
    pub intent_ttl: String,
    /// Further wait after that before anybody else acts on the NIC.
    pub grace: String,
}

impl Default for ArmSpec {
    fn default() -> Self {
        Self { reserve_percent: 40, intent_ttl: "10m".into(), grace: "6m".into() }
    }
}

/// Taints.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ReadinessSpec {
    /// Key of the start-up taint that the controller removes once the agent is ready.
    pub startup_taint: String,
}

impl Default for ReadinessSpec {
    fn default() -> Self {
        Self { startup_taint: crate::STARTUP_TAINT.into() }
    }
}

/// What the controller says of a config.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AzureVnetConfigStatus {
    /// The generation that this status speaks of.
    pub observed_generation: i64,
    /// Nodes by state.
    pub nodes: NodeCounts,
    /// Addresses over all its nodes.
    pub addresses: AddressCounts,
    /// Ready, ConfigValid, CredentialsValid, PermissionsOk, Throttled, SubnetExhausted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// Nodes by state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeCounts {
    /// Selected by this config.
    pub matched: u32,
    /// Whose agent has adopted a pool.
    pub ready: u32,
    /// With fewer addresses than their target.
    pub in_deficit: u32,
    /// At their cap.
    pub at_capacity: u32,
    /// Not managed, with the reason in the node's own object.
    pub refused: u32,
}

/// Addresses over a set of nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AddressCounts {
    /// On NICs.
    pub attached: u32,
    /// Held by pods.
    pub used: u32,
    /// Free for pods.
    pub free: u32,
    /// Resting after use.
    pub cooling: u32,
    /// On their way back to the subnet.
    pub releasing: u32,
    /// Vanished from a NIC though wanted.
    pub lost: u32,
}
