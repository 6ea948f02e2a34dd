//! `AzureVnetConfig`: what users write.

use std::net::Ipv4Addr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema;

/// How the nodes it selects get VNET addresses for their pods.
#[expect(clippy::duplicated_attributes, reason = "several columns have the same priority")]
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[kube(group = "azure-vnet.dev", version = "v1alpha1", kind = "AzureVnetConfig", plural = "azurevnetconfigs", shortname = "avc")]
#[kube(doc = "How the nodes it selects get VNET addresses for their pods. Users write it; the controller answers in its status.")]
#[kube(status = "AzureVnetConfigStatus", derive = "Default", derive = "PartialEq", category = "azure-vnet")]
#[kube(printcolumn(name = "Mode", type_ = "string", json_path = ".spec.mode"))]
#[kube(printcolumn(name = "Prio", type_ = "integer", json_path = ".spec.priority"))]
#[kube(printcolumn(name = "Nodes", type_ = "integer", json_path = ".status.nodes.matched"))]
#[kube(printcolumn(name = "Ready", type_ = "integer", json_path = ".status.nodes.ready"))]
#[kube(printcolumn(name = "Used", type_ = "integer", json_path = ".status.addresses.used"))]
#[kube(printcolumn(name = "Free", type_ = "integer", json_path = ".status.addresses.free"))]
#[kube(printcolumn(name = "Attached", type_ = "integer", json_path = ".status.addresses.attached", priority = "1"))]
#[kube(printcolumn(name = "Deficit", type_ = "integer", json_path = ".status.nodes.inDeficit", priority = "1"))]
#[kube(printcolumn(name = "Releasing", type_ = "integer", json_path = ".status.addresses.releasing", priority = "1"))]
#[kube(printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason", priority = "1"))]
#[kube(printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"))]
#[kube(validation = Rule::new("self.metadata.name.size() <= 63").message("the name is also used as a label's value: choose one of at most 63 characters"))]
#[schemars(transform = schema::written_by_users)]
#[serde(rename_all = "camelCase", default)]
pub struct AzureVnetConfigSpec {
    /// Enforce writes to Azure. Plan writes nothing to Azure, and shows in `status.cloud.plan` of each `AzureVnetNode` what would be sent. Paused
    /// writes nothing either: nodes keep the addresses they have, pods still start while these last.
    pub mode: Mode,
    /// Where several configs select a node, the one with the highest priority (0-1000) counts; among equals the older object.
    #[schemars(range(max = 1000))]
    pub priority: u16,
    /// Which nodes, by their labels; empty selects all Linux nodes.
    #[schemars(schema_with = "schema::label_selector", extend("default" = {}))]
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
    /// How nodes are held back until they are ready.
    pub readiness: ReadinessSpec,
}

/// What the controller may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum Mode {
    /// Writes to Azure.
    #[default]
    Enforce,
    /// Writes nothing to Azure, and shows what would be written.
    Plan,
    /// Writes nothing to Azure; nodes keep what they have.
    Paused,
}

/// Sizing of a node's pool. Either a floating pool (`min`, `minFree`, `batch`, `max`) or a fixed one (`ipAddressCount`).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = schema::rules([
    (
        "!has(self.ipAddressCount) || !(has(self.min) || has(self.minFree) || has(self.batch) || has(self.max))",
        "ipAddressCount fixes the size of the pool: remove min, minFree, batch and max, or remove ipAddressCount",
    ),
    (
        "!has(self.ipAddressCount) || !has(self.initial)",
        "ipAddressCount is what a node holds from the start: remove initial, or remove ipAddressCount",
    ),
    (
        "!has(self.initial) || type(self.initial) != int || self.initial <= (has(self.max) ? self.max : 110)",
        "initial must not exceed max (110 when not set): lower initial or raise max",
    ),
    (
        "!has(self.min) || self.min <= (has(self.max) ? self.max : 110)",
        "min must not exceed max (110 when not set): lower min or raise max",
    ),
    (
        "has(self.ipAddressCount) || (has(self.minFree) ? self.minFree : 8) <= (has(self.max) ? self.max : 110)",
        "minFree (8 when not set) must not exceed max (110 when not set): lower minFree or raise max",
    ),
    (
        "has(self.ipAddressCount) || (has(self.batch) ? self.batch : 4) <= (has(self.max) ? self.max : 110)",
        "batch (4 when not set) must not exceed max (110 when not set): lower batch or raise max",
    ),
    (
        "!self.release.after.matches('^([0-9]{1,4}h)?([0-9]{1,5}m)?([0-9]{1,6}s)?$') || self.release.after == '' \
         || !self.coolDown.matches('^([0-9]{1,4}h)?([0-9]{1,5}m)?([0-9]{1,6}s)?$') || self.coolDown == '' \
         || duration(self.release.after) >= duration(self.coolDown) + duration('20s')",
        "release.after must be at least coolDown and 20s: raise release.after or shorten coolDown",
    ),
])))]
pub struct PoolSpec {
    /// What is attached to the NIC: Address for single addresses; Block28 for aligned /28 prefixes, whose 16 addresses count as one IP configuration, so that
    /// a node needs fewer writes to Azure. Sizes count addresses all the same, in whole blocks: `max: 110` gives 112. Blocks are a preview in Azure for which
    /// the subscription must be registered, and instances of Uniform scale sets take none; a node that gets none gets single addresses, and its
    /// condition `NicWritable` says why. What a node has stays when this is changed, until it is too much. Auto means Address.
    pub unit: PoolUnit,
    /// Fixed pre-allocation: all addresses of the node including its own (1-256), so that pods get one less. Excludes `min`, `minFree`,
    /// `batch` and `max`.
    #[schemars(extend("nullable" = false, "x-kubernetes-validations" = schema::rules([
        ("self >= 1 && self <= 256", "a NIC carries its own address and at most 255 more: use 1 to 256"),
    ])))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_address_count: Option<u16>,
    /// Addresses that a node always holds, used or not. 0 when not set.
    #[schemars(extend("nullable" = false))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<u16>,
    /// Addresses kept free above demand, at least 1: what the next pods start with while Azure attaches more. 8 when not set.
    #[schemars(extend("nullable" = false, "x-kubernetes-validations" = schema::rules([
        ("self >= 1", "with no address kept free, a node that is full could never ask for more: use 1 or more"),
    ])))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_free: Option<u16>,
    /// The pool's size is a multiple of this: a larger batch means fewer writes to Azure and more idle addresses. 4 when not set.
    #[schemars(extend("nullable" = false, "x-kubernetes-validations" = schema::rules([
        ("self >= 1", "the pool grows by batch: use 1 or more"),
    ])))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<u16>,
    /// Addresses that a node never exceeds, its own not counted (1-255). 110 when not set.
    #[schemars(extend("nullable" = false, "x-kubernetes-validations" = schema::rules([
        ("self >= 1 && self <= 255", "a NIC carries its own address and at most 255 more: use 1 to 255"),
    ])))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<u16>,
    /// What a node holds at least while it is new, for ten minutes (0-255, at most `max`), or Auto: enough for the pods that the nodes of its pool
    /// needed at once in their first two minutes, as 95% of them did. Auto when not set.
    #[schemars(schema_with = "schema::initial")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initial: Option<Initial>,
    /// How long a freed address rests before another pod gets it (10s-1h), so that late packets meet nobody.
    #[schemars(length(max = 16), extend("nullable" = false, "x-kubernetes-validations" = schema::period("10s", "1h")))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cool_down: Option<String>,
    /// Giving idle addresses back to the subnet.
    pub release: ReleaseSpec,
    /// Prefixes whose addresses pods never get, even where Azure attached them. A single address ends in /32.
    #[schemars(schema_with = "schema::prefixes", extend("default" = []))]
    pub reserved: Vec<String>,
}

impl Default for PoolSpec {
    fn default() -> Self {
        Self {
            unit: PoolUnit::Auto,
            ip_address_count: None,
            min: None,
            min_free: None,
            batch: None,
            max: None,
            initial: None,
            cool_down: Some("45s".into()),
            release: ReleaseSpec::default(),
            reserved: vec![],
        }
    }
}

/// What is attached to NICs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum PoolUnit {
    /// Single addresses.
    #[default]
    Auto,
    /// Single addresses.
    Address,
    /// Aligned /28 prefixes, where the NIC takes them.
    Block28,
}

/// What a new node holds at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(untagged)]
pub enum Initial {
    /// Learned from the nodes of its pool.
    Auto(Auto),
    /// So many.
    Count(u16),
}

/// The word for what is found out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub enum Auto {
    /// In no other spelling.
    #[default]
    Auto,
}

/// A Node's own word about its pool, in the annotation [`crate::POOL_OVERRIDE`]: fields that replace the config's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct PoolOverride {
    /// See [`PoolSpec::ip_address_count`].
    pub ip_address_count: Option<u16>,
    /// See [`PoolSpec::min`].
    pub min: Option<u16>,
    /// See [`PoolSpec::min_free`].
    pub min_free: Option<u16>,
    /// See [`PoolSpec::batch`].
    pub batch: Option<u16>,
    /// See [`PoolSpec::max`].
    pub max: Option<u16>,
}

/// Giving idle addresses back to the subnet.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ReleaseSpec {
    /// Whether idle addresses are given back at all.
    pub enabled: bool,
    /// How long a surplus of at least one batch must have lasted before addresses are given back. At least `coolDown` and 20s.
    #[schemars(length(max = 16), extend("x-kubernetes-validations" = schema::period("30s", "168h")))]
    pub after: String,
    /// At most this many addresses go back at once (1-64).
    #[schemars(extend("x-kubernetes-validations" = schema::rules([
        ("self >= 1 && self <= 64", "use 1 to 64; to give nothing back set enabled: false"),
    ])))]
    pub batch: u16,
    /// Spread of `after` over the nodes, in percent (0-100), so that they do not all write to Azure at once.
    #[schemars(extend("x-kubernetes-validations" = schema::rules([
        ("self >= 0 && self <= 100", "a share in percent: use 0 to 100"),
    ])))]
    pub jitter_percent: u8,
    /// Nothing goes back within this time of a shortage, of a cordon, of the node's first fill, or of a change of the controller's leader (0s-24h).
    #[schemars(length(max = 16), extend("x-kubernetes-validations" = schema::period("0s", "24h")))]
    pub calm: String,
    /// How long a node's agent may take to set idle addresses aside before the request is called off (10s-24h).
    #[schemars(length(max = 16), extend("x-kubernetes-validations" = schema::period("10s", "24h")))]
    pub deadline: String,
    /// How long pods do not get an address whose giving back was withdrawn (1s-24h).
    #[schemars(length(max = 16), extend("x-kubernetes-validations" = schema::period("1s", "24h")))]
    pub probation: String,
}

impl Default for ReleaseSpec {
    fn default() -> Self {
        Self {
            enabled: true,
            after: "10m".into(),
            batch: 5,
            jitter_percent: 20,
            calm: "10m".into(),
            deadline: "10m".into(),
            probation: "10m".into(),
        }
    }
}

/// Masquerading of pod traffic: which destinations see the node's address instead of the pod's.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = schema::rules([
    (
        "self.mode != 'Custom' || self.masqueradeCIDRs.size() > 0",
        "mode Custom masquerades masqueradeCIDRs and nothing else: list at least one, or use mode Disabled",
    ),
    (
        "self.mode != 'Disabled' || (self.masqueradeCIDRs.size() == 0 && self.nonMasqueradeCIDRs.size() == 0)",
        "mode Disabled masquerades nothing: remove masqueradeCIDRs and nonMasqueradeCIDRs, or use mode VNet or Custom",
    ),
    (
        "self.masqueradeCIDRs.all(x, !(x in self.nonMasqueradeCIDRs))",
        "a prefix is in masqueradeCIDRs and in nonMasqueradeCIDRs: remove it from one of them",
    ),
])))]
pub struct MasqueradeSpec {
    /// `VNet`: all destinations but the address spaces of the VNET and of its peers. Custom: only `masqueradeCIDRs`. Disabled: none.
    pub mode: MasqueradeMode,
    /// Whether the address spaces of connected peers of the VNET count like its own.
    pub discover_peerings: bool,
    /// Destinations that see the pod's own address, besides the VNET and its peers; networks behind a VPN gateway, say.
    #[schemars(schema_with = "schema::prefixes", extend("default" = []))]
    #[serde(rename = "nonMasqueradeCIDRs")]
    pub non_masquerade_cidrs: Vec<String>,
    /// Destinations that see the node's address even inside the VNET.
    #[schemars(schema_with = "schema::prefixes", extend("default" = []))]
    #[serde(rename = "masqueradeCIDRs")]
    pub masquerade_cidrs: Vec<String>,
    /// Whether masqueraded connections get random source ports, which avoids collisions under load.
    pub random_fully: bool,
    /// Which iptables the rules go through: Nft, Legacy, or Auto for what the node already uses.
    pub backend: Backend,
}

impl Default for MasqueradeSpec {
    fn default() -> Self {
        Self {
            mode: MasqueradeMode::VNet,
            discover_peerings: true,
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
    /// iptables over nftables.
    Nft,
    /// The legacy kernel interface.
    Legacy,
}

/// What the agent enforces on the host.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HostSpec {
    /// Whether the agent keeps `net.ipv4.ip_forward` at 1; without it no packet reaches a pod.
    pub ip_forward: Enforcement,
    /// Reverse path filter of the node's NIC: Strict (1), Loose (2, for nodes with several NICs), or Ignore to leave it alone.
    pub rp_filter: RpFilter,
    /// Whether the agent accepts the pods' forwarded packets in a chain of its own, where the host drops by default.
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
    /// File name under /etc/cni/net.d. The runtime takes the first file in lexical order. Cannot be changed later.
    #[schemars(length(max = 64), extend("x-kubernetes-validations" = schema::rules([
        (
            "self.matches('^[0-9]{2}-[a-z0-9.-]+[.]conflist$')",
            "not a usable file name: use two digits, a dash, a name of a-z, 0-9, dots and dashes, and .conflist, as in 10-azure-vnet.conflist",
        ),
        (
            "self == oldSelf",
            "nodes would be left with two files: confName cannot be changed; delete the config, and create it anew with the other name",
        ),
    ])))]
    pub conf_name: String,
    /// CNI version of the file: Auto, 0.3.0, 0.3.1, 0.4.0, 1.0.0 or 1.1.0. Auto takes the newest up to 1.0.0 that every plugin of the chain speaks.
    #[schemars(extend("enum" = ["Auto", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]))]
    pub cni_version: String,
    /// How pods are wired to the node. Transparent: routed, one veth pair a pod. Bridge: by a bridge that takes over the node's addresses. Tunnel: by such
    /// a bridge, and pods of one node reach one another through Azure's network. After a change new pods have the new mode; those that are there keep theirs.
    pub mode: WiringMode,
    /// The node's uplink, as in eth0; empty finds the NIC by its MAC address.
    #[schemars(length(max = 15), extend("x-kubernetes-validations" = schema::rules([
        (
            "self.matches('^[^/:[:space:]]*$') && self != '.' && self != '..'",
            "not the name of a network interface: use a name as ip link shows it, as in eth0, or leave it empty",
        ),
    ])))]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub master: String,
    /// In modes Bridge and Tunnel, the bridge's name, as in azure0; empty means azure and the number of the uplink. A bridge that the uplink is a port of
    /// already stays.
    #[schemars(length(max = 15), extend("x-kubernetes-validations" = schema::rules([
        (
            "self.matches('^[^/:[:space:]]*$') && self != '.' && self != '..' && !self.startsWith('azv')",
            "not the name of a bridge: use a name as ip link shows it that does not start with azv, as in azure0, or leave it empty",
        ),
    ])))]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub bridge: String,
    /// In modes Bridge and Tunnel, addresses that the node answers its pods itself, beside those of its NIC: that of node-local DNS. Where node-local DNS
    /// takes the address of the cluster's resolver as well, as with kube-proxy in iptables mode, name both.
    #[schemars(schema_with = "schema::addresses", extend("default" = ["169.254.20.10"]))]
    pub ips_to_route_via_host: Vec<Ipv4Addr>,
    /// How much the plugins write into their logs on the node: Error, Warning, Info (a line for every command) or Debug.
    pub log_level: LogLevel,
    /// MTU of the pods' interfaces (1280-9000); 0 copies the NIC's.
    #[schemars(range(max = 65535), extend("x-kubernetes-validations" = schema::rules([
        ("self == 0 || (self >= 1280 && self <= 9000)", "use 1280 to 9000, or 0 for the MTU of the node's NIC"),
    ])))]
    pub mtu: u32,
    /// Plugins that run after azure-vnet, at most 8, each as it stands in a conflist. Their executables must be on the node: the image brings
    /// portmap, bandwidth and tuning.
    #[schemars(schema_with = "schema::chain")]
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
            bridge: String::new(),
            ips_to_route_via_host: vec![NODE_LOCAL_DNS],
            log_level: LogLevel::Info,
            mtu: 0,
            chain,
        }
    }
}

/// Where node-local DNS listens as a rule: <https://kubernetes.io/docs/tasks/administer-cluster/nodelocaldns/>.
const NODE_LOCAL_DNS: Ipv4Addr = Ipv4Addr::new(169, 254, 20, 10);

/// How much the plugins write into their logs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum LogLevel {
    /// Failures.
    Error,
    /// What could not be done, and was no reason to fail.
    Warning,
    /// A line for every command.
    #[default]
    Info,
    /// With all variables of the command.
    Debug,
}

/// How pods are wired.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum WiringMode {
    /// Routed, one veth a pod.
    #[default]
    Transparent,
    /// On a bridge with the node's NIC.
    Bridge,
    /// On such a bridge, which passes everything on to Azure's network.
    Tunnel,
}

/// How the controller uses Azure Resource Manager.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ArmSpec {
    /// Share of Azure's request limits that is left to others in the subscription, in percent (10-90).
    #[schemars(extend("x-kubernetes-validations" = schema::rules([
        ("self >= 10 && self <= 90", "others need requests too, and so do we: use 10 to 90"),
    ])))]
    pub reserve_percent: u8,
    /// How long a write to a NIC may take before it counts as failed (1m-1h).
    #[serde(rename = "intentTTL")]
    #[schemars(length(max = 16), extend("x-kubernetes-validations" = schema::period("1m", "1h")))]
    pub intent_ttl: String,
    /// How long to wait after that before acting on the NIC again, for a late write may still land (10s-1h).
    #[schemars(length(max = 16), extend("x-kubernetes-validations" = schema::period("10s", "1h")))]
    pub grace: String,
}

impl Default for ArmSpec {
    fn default() -> Self {
        Self { reserve_percent: 40, intent_ttl: "10m".into(), grace: "6m".into() }
    }
}

/// How nodes are held back until they are ready.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ReadinessSpec {
    /// Key of the start-up taint, which you put on new nodes and the controller removes once the agent is ready. Cannot be changed later.
    #[schemars(length(max = 317), extend("x-kubernetes-validations" = schema::rules([
        (
            "self.matches('^([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$')",
            "not the key of a taint: use a name with an optional domain before it, as in azure-vnet.dev/agent-not-ready",
        ),
        (
            "self != 'azure-vnet.dev/no-addresses'",
            "azure-vnet.dev/no-addresses marks nodes that are out of addresses: use another key, as in azure-vnet.dev/agent-not-ready",
        ),
        (
            "self == oldSelf",
            "nodes would keep the old taint for ever: startupTaint cannot be changed; delete the config, and create it anew with the other key",
        ),
    ])))]
    pub startup_taint: String,
    /// What marks a node that has no address left and can get none, at its capacity or in a full subnet, for 30 seconds: the taint
    /// `azure-vnet.dev/no-addresses`, so that new pods go elsewhere, or conditions only.
    pub exhaustion: Exhaustion,
}

impl Default for ReadinessSpec {
    fn default() -> Self {
        Self { startup_taint: crate::STARTUP_TAINT.into(), exhaustion: Exhaustion::Taint }
    }
}

/// What marks a node without addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum Exhaustion {
    /// `azure-vnet.dev/no-addresses:NoSchedule`, besides conditions.
    #[default]
    Taint,
    /// Conditions of its `AzureVnetNode`.
    ConditionOnly,
}

/// What the controller says of a config.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = schema::written_by_machines)]
pub struct AzureVnetConfigStatus {
    /// The generation that this status speaks of.
    pub observed_generation: i64,
    /// Nodes by state.
    pub nodes: NodeCounts,
    /// Addresses over all its nodes.
    pub addresses: AddressCounts,
    /// What about the nodes' networks, and about rights in Azure, is in the way.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), extend("x-kubernetes-list-type" = "atomic"))]
    pub preflight: Vec<PreflightFinding>,
    /// What was learned of new nodes, by node pool; what `pool.initial` Auto goes by.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "atomic"))]
    pub learned: Vec<Learned>,
    /// What mode Plan would write.
    #[serde(skip_serializing_if = "PlanCounts::is_empty")]
    pub plan: PlanCounts,
    /// Ready, `ConfigValid`, `CredentialsValid`, `PermissionsOk`, `PeeringsKnown`, `PreflightPassed`, Throttled, `SubnetExhausted`, Degraded.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
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

/// Something about a network, or about rights in Azure, that is, or will be, in the way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PreflightFinding {
    /// One word.
    #[schemars(length(max = 64))]
    pub reason: String,
    /// What was found, and the remedy.
    #[schemars(length(max = 4096))]
    pub message: String,
    /// The action that is not allowed, as role definitions spell it.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 256))]
    pub action: String,
    /// The resource that it is about.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    pub scope: String,
    /// A built-in role that has the action.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 64))]
    pub role: String,
}

/// What the nodes of one pool needed when they were new.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Learned {
    /// The node pool, by the label `kubernetes.azure.com/agentpool`, `agentpool` or `karpenter.sh/nodepool`; empty for nodes without any.
    #[schemars(length(max = 63))]
    pub pool: String,
    /// Nodes that this rests on.
    pub nodes: u32,
    /// Addresses that 95% of them needed at most, at once, in their first two minutes.
    pub needed: u16,
}

/// What mode Plan would write, over a set of nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PlanCounts {
    /// Nodes whose NIC would be written.
    pub nodes: u32,
    /// Addresses that would be attached.
    pub add: u32,
    /// Addresses that would be given back.
    pub remove: u32,
}

impl PlanCounts {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
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
