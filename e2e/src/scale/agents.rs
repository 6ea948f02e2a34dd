//! Agents of nodes that are objects only: they adopt what is published, set aside what they are asked to, and report demand, as the real one does.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use azure_vnet_crds::{
    AGENT_MANAGER, AzureVnetNode,
    node::{Agent, Imds, ReleaseAck, StoreCounts},
};
use serde_json::json;
use tokio::sync::{Notify, Semaphore};

use crate::{
    build::progress,
    lab::api::{Api, VNET_NODES},
};

/// Reports under way at once.
const PARALLEL: usize = 16;

/// How long an agent waits after a report that failed.
const PAUSE: Duration = Duration::from_secs(1);

/// What is known of one node's pool.
#[derive(Clone, Debug, Default)]
pub struct Pool {
    /// UID of the object.
    pub uid: String,
    /// The newest revision seen.
    pub revision: u64,
    /// Addresses that are published.
    pub addresses: Vec<String>,
    /// What is asked to be set aside.
    pub release: Vec<ReleaseAck>,
    /// What the node's pods need.
    pub demand: u16,
    /// When the API server had last taken a report with a higher demand.
    pub asked: Option<Instant>,
    reported: Option<Agent>,
}

/// All agents.
#[derive(Default)]
pub struct Agents {
    pools: Mutex<BTreeMap<String, Pool>>,
    changed: Notify,
}

impl Agents {
    /// Follows all pools and answers for ever.
    ///
    /// # Errors
    /// If the API server cannot be followed.
    pub async fn run(self: Arc<Self>, api: Arc<Api>) -> Result<()> {
        let places = Arc::new(Semaphore::new(PARALLEL));
        let follow = async {
            loop {
                api.watch(VNET_NODES, |event| self.see(&event)).await?;
            }
        };
        let answer = async {
            loop {
                self.changed.notified().await;
                for name in self.due() {
                    let place = Arc::clone(&places).acquire_owned().await?;
                    let (agents, api) = (Arc::clone(&self), Arc::clone(&api));
                    tokio::spawn(async move {
                        let _place = place;
                        if let Err(error) = agents.report(&api, &name).await {
                            progress(&format!("{name}'s agent: {error:#}"));
                            tokio::time::sleep(PAUSE).await;
                            agents.changed.notify_one();
                        }
                    });
                }
            }
        };
        tokio::select! {
            ended = follow => ended,
            ended = answer => ended,
        }
    }

    /// Sets what a node's pods need.
    pub fn demand(&self, name: &str, demand: u16) {
        if let Some(pool) = self.lock().get_mut(name) {
            pool.demand = demand;
        }
        self.changed.notify_one();
    }

    /// Every agent forgets what it reported, as one does that starts.
    pub fn begin_anew(&self) {
        for pool in self.lock().values_mut() {
            pool.reported = None;
        }
        self.changed.notify_one();
    }

    /// Whether no agent has anything new to say.
    pub fn all_reported(&self) -> bool {
        self.due().is_empty()
    }

    /// A look at all pools.
    pub fn pools(&self) -> BTreeMap<String, Pool> {
        self.lock().clone()
    }

    fn see(&self, event: &serde_json::Value) -> Result<()> {
        let object: AzureVnetNode = serde_json::from_value(event.get("object").cloned().context("an event has an object")?)?;
        let name = object.metadata.name.unwrap_or_default();
        let mut pools = self.lock();
        if event.get("type").is_some_and(|kind| kind == "DELETED") {
            pools.remove(&name);
            return Ok(());
        }
        let pool = pools.entry(name).or_default();
        pool.uid = object.metadata.uid.unwrap_or_default();
        pool.revision = object.spec.revision;
        pool.addresses = object.spec.addresses.iter().map(|at| at.address.to_string()).collect();
        let ack = |release: azure_vnet_crds::node::Release| ReleaseAck {
            id: release.id,
            nonce: release.nonce,
            quarantined: release.addresses,
            refused: vec![],
        };
        pool.release = object.spec.release.into_iter().map(ack).collect();
        drop(pools);
        self.changed.notify_one();
        Ok(())
    }

    fn due(&self) -> Vec<String> {
        self.lock().iter().filter(|(_, pool)| pool.reported.as_ref() != Some(&pool.report())).map(|(name, _)| name.clone()).collect()
    }

    async fn report(&self, api: &Api, name: &str) -> Result<()> {
        let Some((report, before)) = self.take(name) else { return Ok(()) };
        let patch = json!({
            "apiVersion": "azure-vnet.dev/v1alpha1", "kind": "AzureVnetNode", "metadata": {"name": name}, "status": {"agent": report},
        });
        let result = api.apply(&format!("{VNET_NODES}/{name}/status"), AGENT_MANAGER, &patch).await;
        if let Some(pool) = self.lock().get_mut(name) {
            match &result {
                Ok(_) if report.demand > before => pool.asked = Some(Instant::now()),
                Ok(_) => {}
                Err(_) => pool.reported = None,
            }
        }
        result.map(drop)
    }

    /// The report that is due, noted as made, and the demand before it.
    fn take(&self, name: &str) -> Option<(Agent, u16)> {
        let mut pools = self.lock();
        let pool = pools.get_mut(name)?;
        let report = pool.report();
        let before = pool.reported.replace(report.clone());
        (before.as_ref() != Some(&report)).then(|| (report, before.map_or(0, |before| before.demand)))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Pool>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pool {
    fn report(&self) -> Agent {
        let count = |length: usize| u16::try_from(length).unwrap_or(u16::MAX);
        let aside = count(self.release.iter().map(|ack| ack.quarantined.len()).sum());
        let offered = count(self.addresses.len()).saturating_sub(aside);
        let assigned = self.demand.min(offered);
        let counts = StoreCounts { assigned, quarantined: aside, free: offered - assigned, ..StoreCounts::default() };
        Agent {
            object_uid: self.uid.clone(),
            boot_id: super::BOOT.into(),
            store_id: "store".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            revision_adopted: self.revision,
            demand: self.demand,
            counts,
            release_acks: self.release.clone(),
            imds: Some(Imds { missing: 0, others: 1 }),
            ready: true,
            ..Agent::default()
        }
    }
}
