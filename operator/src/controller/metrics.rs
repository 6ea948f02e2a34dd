//! What the controller counts.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

/// Shared by all passes; cloning shares.
#[derive(Clone)]
pub struct Metrics {
    /// 1 while this process leads.
    pub leader: Gauge,
    /// Passes over nodes, by how they ended.
    pub passes: Family<Outcome, Counter>,
    /// Writes to NICs, by direction and how they ended.
    pub writes: Family<WriteOutcome, Counter>,
    /// NICs that were read since this process began to lead.
    pub read_nics: Gauge,
    /// Addresses over all nodes, by state.
    pub addresses: Family<AddressState, Gauge>,
    /// Addresses that vanished from NICs though wanted.
    pub lost: Counter,
    /// Addresses missing to targets, over all nodes.
    pub deficit: Gauge,
    /// Addresses left in a subnet.
    pub subnet_free: Family<SubnetName, Gauge>,
    /// Addresses that a subnet lacks.
    pub subnet_needs: Family<SubnetName, Gauge>,
    /// Seconds until a subnet is empty.
    pub subnet_eta: Family<SubnetName, Gauge>,
    /// Events told, by reason.
    pub told: Family<Reason, Counter>,
    /// Nodes, by what is to be said of them; one may be in several states.
    pub nodes: Family<NodeState, Gauge>,
    /// Age of the oldest write that is announced and not over.
    pub oldest_intent: Gauge,
    /// Addresses that two nodes have at once.
    pub doubles: Gauge,
    /// How long it took from the decision for more addresses to their publishing.
    pub fills: Histogram,
}

/// What is to be said of a node.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct NodeState {
    /// matched, ready, `in_deficit`, `at_capacity`, refused, `agent_silent` or `other_version`.
    pub state: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            leader: Gauge::default(),
            passes: Family::default(),
            writes: Family::default(),
            read_nics: Gauge::default(),
            addresses: Family::default(),
            lost: Counter::default(),
            deficit: Gauge::default(),
            subnet_free: Family::default(),
            subnet_needs: Family::default(),
            subnet_eta: Family::default(),
            told: Family::default(),
            nodes: Family::default(),
            oldest_intent: Gauge::default(),
            doubles: Gauge::default(),
            fills: Histogram::new([1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 960.0]),
        }
    }
}

/// A subnet, by the name of its object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SubnetName {
    /// The name.
    pub subnet: String,
}

/// Why an event was told.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Reason {
    /// One word.
    pub reason: &'static str,
}

/// How a pass ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Outcome {
    /// ok, failed or abandoned.
    pub outcome: &'static str,
}

/// How a write ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct WriteOutcome {
    /// add or remove.
    pub direction: &'static str,
    /// ok, or the reason of the failure.
    pub outcome: &'static str,
}

/// State of an address.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct AddressState {
    /// attached, used, free, cooling, releasing or lost.
    pub state: &'static str,
}

impl Metrics {
    /// Adds them to a registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("leader", "1 while this process leads", self.leader.clone());
        registry.register("reconciles", "Passes over nodes, by how they ended", self.passes.clone());
        registry.register("nic_writes", "Writes to NICs, by direction and how they ended", self.writes.clone());
        registry.register("read_nics", "NICs that were read since this process began to lead", self.read_nics.clone());
        registry.register("pool_addresses", "Addresses over all nodes, by state", self.addresses.clone());
        registry.register("lost_addresses", "Addresses that vanished from NICs though wanted", self.lost.clone());
        registry.register("subnet_free_addresses", "Addresses left in a subnet, by Azure's count", self.subnet_free.clone());
        registry.register(
            "subnet_needed_addresses",
            "Addresses missing to nodes beyond what the subnet has left",
            self.subnet_needs.clone(),
        );
        registry.register(
            "subnet_exhaustion_eta_seconds",
            "Time until the subnet is empty if use goes on growing; absent if it does not",
            self.subnet_eta.clone(),
        );
        registry.register("pool_events", "Events told of nodes' pools, by reason", self.told.clone());
        registry.register("nodes", "Nodes by state; one may be in several", self.nodes.clone());
        registry.register(
            "oldest_intent_seconds",
            "Age of the oldest write to a NIC that is announced and not over; 0 if there is none",
            self.oldest_intent.clone(),
        );
        registry.register("duplicate_addresses", "Addresses that pods of two nodes may use at once", self.doubles.clone());
        registry.register(
            "fill_duration_seconds",
            "Time from the decision for more addresses to their publishing to the node",
            self.fills.clone(),
        );
        registry.register("pool_deficit", "Addresses missing to targets, over all nodes", self.deficit.clone());
    }
}
