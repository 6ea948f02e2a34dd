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
        registry.register("pool_deficit", "Addresses missing to targets, over all nodes", self.deficit.clone());
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_metric_is_documented() {
        // A family without a value yet is not encoded: the names are those that the sources register.
        let sources = [include_str!("metrics.rs"), include_str!("../azure/meter.rs"), include_str!("../agent/metrics.rs")];
        let registered = sources
            .iter()
            .filter_map(|source| source.split("mod tests").next())
            .flat_map(|source| source.split("registry.register(").skip(1));
        let names: Vec<&str> = registered.filter_map(|call| call.trim_start().strip_prefix('"')?.split('"').next()).collect();
        let document = include_str!("../../../docs/metrics.md");
        assert!(names.len() > 12, "{names:?}");
        for name in names {
            assert!(document.contains(&format!("`azure_vnet_{name}")), "{name} is not in docs/metrics.md");
        }
    }
}
