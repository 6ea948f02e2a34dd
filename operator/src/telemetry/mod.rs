//! Metrics, health and logs of the long-running parts.
//! Health speaks of this process only: neither Azure nor the API server can make it fail.

#[cfg(test)]
mod chart;
mod log;
mod process;
mod server;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

pub use log::{LogFormat, LogOptions};
use prometheus_client::{encoding::text, registry::Registry};
pub use server::{serve, serve_router};
use tokio::time::Instant;

/// Metrics and health, shared by all.
#[derive(Clone)]
pub struct Telemetry {
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    registry: Registry,
    beats: BTreeMap<String, Heart>,
    ready: bool,
}

struct Heart {
    last: Instant,
    within: Duration,
}

impl Default for Telemetry {
    fn default() -> Self {
        let mut registry = Registry::default();
        process::register(&mut registry);
        Self { shared: Arc::new(Mutex::new(Shared { registry, beats: BTreeMap::new(), ready: false })) }
    }
}

impl Telemetry {
    /// Adds metrics; their names get the prefix `azure_vnet_`.
    pub fn register(&self, add: impl FnOnce(&mut Registry)) {
        add(self.lock().registry.sub_registry_with_prefix("azure_vnet"));
    }

    /// Watches a loop: it is taken for hung when its beat stays away for longer than `within`.
    #[must_use]
    pub fn beat(&self, name: &str, within: Duration) -> Beat {
        self.lock().beats.insert(name.to_owned(), Heart { last: Instant::now(), within });
        Beat { telemetry: self.clone(), name: name.to_owned() }
    }

    /// Says whether this process does its work.
    pub fn set_ready(&self, ready: bool) {
        self.lock().ready = ready;
    }

    /// All metrics in `OpenMetrics` text.
    #[must_use]
    pub fn metrics(&self) -> String {
        let mut body = String::new();
        match text::encode(&mut body, &self.lock().registry) {
            Ok(()) => body,
            Err(std::fmt::Error) => String::new(),
        }
    }

    /// Loops whose beat stays away.
    #[must_use]
    pub fn hung(&self, now: Instant) -> Vec<String> {
        let hung = |heart: &Heart| now.saturating_duration_since(heart.last) > heart.within;
        self.lock().beats.iter().filter(|(_, heart)| hung(heart)).map(|(name, _)| name.clone()).collect()
    }

    /// What was last said of readiness.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.lock().ready
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The pulse of one loop. A loop that ends drops it, and is no longer watched.
pub struct Beat {
    telemetry: Telemetry,
    name: String,
}

impl Beat {
    /// Says that the loop goes round.
    pub fn ok(&self) {
        if let Some(heart) = self.telemetry.lock().beats.get_mut(&self.name) {
            heart.last = Instant::now();
        }
    }
}

impl Drop for Beat {
    fn drop(&mut self) {
        self.telemetry.lock().beats.remove(&self.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_hangs_is_named() {
        let telemetry = Telemetry::default();
        let beat = telemetry.beat("reconcile", Duration::from_mins(1));
        let _other = telemetry.beat("status", Duration::from_mins(10));
        tokio::time::advance(Duration::from_secs(61)).await;
        assert_eq!(telemetry.hung(Instant::now()), ["reconcile"]);
        beat.ok();
        assert!(telemetry.hung(Instant::now()).is_empty());
        drop(beat);
        tokio::time::advance(Duration::from_secs(61)).await;
        assert!(telemetry.hung(Instant::now()).is_empty(), "who ended is not watched");
    }

    #[test]
    fn metrics_have_our_prefix_and_the_process_has_its_own() {
        let telemetry = Telemetry::default();
        let counter = prometheus_client::metrics::counter::Counter::<u64>::default();
        telemetry.register(|registry| registry.register("things", "Things", counter.clone()));
        counter.inc();
        let text = telemetry.metrics();
        assert!(text.contains("azure_vnet_things_total 1\n"), "{text}");
        assert!(text.contains("\nprocess_resident_memory_bytes "), "{text}");
    }
}
