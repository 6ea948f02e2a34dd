//! What the controller counts.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// Shared by all passes; cloning shares.
#[derive(Clone, Default)]
pub struct Metrics {
    /// 1 while this process leads.
    pub leader: Gauge,
    /// Passes over nodes, by how they ended.
    pub passes: Family<Outcome, Counter>,
    /// Writes to NICs, by direction and how they ended.
    pub writes: Family<WriteOutcome, Counter>,
    /// Addresses over all nodes, by state.
    pub addresses: Family<AddressState, Gauge>,
    /// Addresses that vanished from NICs though wanted.
    pub lost: Counter,
    /// Addresses missing to targets, over all nodes.
    pub deficit: Gauge,
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
        registry.register("pool_addresses", "Addresses over all nodes, by state", self.addresses.clone());
        registry.register("lost_addresses", "Addresses that vanished from NICs though wanted", self.lost.clone());
        registry.register("pool_deficit", "Addresses missing to targets, over all nodes", self.deficit.clone());
    }
}
