//! What the agent counts.

use prometheus_client::{metrics::gauge::Gauge, registry::Registry};

/// Of one node; cloning shares.
#[derive(Clone, Default)]
pub struct Metrics {
    /// Attached addresses that pods do not get, since the node's metadata does not show them.
    pub withheld: Gauge,
}

impl Metrics {
    /// Adds them to a registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "withheld_addresses",
            "Attached addresses that pods do not get, since the node's metadata does not show them",
            self.withheld.clone(),
        );
    }
}
