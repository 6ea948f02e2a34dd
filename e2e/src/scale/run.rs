//! One run: its phases, and what must hold at its end.

mod failover;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;
use tokio::task::{JoinHandle, JoinSet};

use super::{
    BOOT, InsideArguments, Size,
    agents::{Agents, Pool},
    measure::{Usage, complaints, counters, latencies, nics, number, percentile, requests, seconds, writes},
    place::Place,
    print,
};
use crate::{
    azure::{MachineSeed, Seed},
    bench::Figure,
    build::progress,
    lab::api::{Api, NODES},
};

/// Addresses that a node without pods holds.
const IDLE: usize = 16;
/// Addresses that a node may hold.
const MOST: usize = 110;
const CONFIG: &str = "\
apiVersion: azure-vnet.dev/v1alpha1
kind: AzureVnetConfig
metadata: {name: default}
spec:
  pool: {minFree: 16, batch: 16, max: 110}
";
/// The controllers that a run begins with and the port of each one's metrics, and those that an upgrade puts in their place.
const OLD: [(&str, u16); 2] = [("one", 9402), ("two", 9412)];
const NEW: [(&str, u16); 2] = [("three", 9422), ("four", 9432)];
/// Passes over nodes that came to a good end, as a controller counts them.
const PASSES: &str = "azure_vnet_reconciles_total{outcome=\"ok\"}";
/// NICs that a leader has read, by passes that are over.
const READ_NICS: &str = "azure_vnet_read_nics";
/// Requests to the API server under way at once.
const PARALLEL: usize = 16;
const DEADLINE: Duration = Duration::from_mins(20);
/// Between two looks at what is waited for.
const PAUSE: Duration = Duration::from_millis(200);

/// The part that runs in namespaces of its own.
///
/// # Errors
/// As [`super::measure`].
pub fn inside(arguments: &InsideArguments) -> Result<()> {
    // Another part of this process may have installed it.
    let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    print(&runtime.block_on(Fleet::run(arguments))?)
}

struct Fleet {
    place: Place,
    agents: Arc<Agents>,
    seed: Seed,
    figures: Vec<Figure>,
    /// The agents, who never end.
    running: JoinHandle<()>,
}

impl Fleet {
    async fn run(arguments: &InsideArguments) -> Result<Vec<Figure>> {
        let InsideArguments { operator, folder, size: Size { nodes, subscriptions, churn, failovers } } = arguments;
        let vms = nodes.div_ceil(10);
        let seed = Seed::fleet(nodes - vms, vms).spread(*subscriptions);
        let mut place = Place::start(folder, &seed).await?;
        place.apply(CONFIG)?;
        for (name, port) in OLD {
            place.start_controller(operator, name, port)?;
        }
        let api = Arc::clone(&place.api);
        let agents = Arc::new(Agents::default());
        let running = Arc::clone(&agents).run(Arc::clone(&api));
        let running = tokio::spawn(async move {
            if let Err(error) = running.await {
                progress(&format!("the agents ended: {error:#}"));
            }
        });
        let mut fleet = Self { place, agents, running, seed, figures: vec![] };
        fleet.await_leader().await?;
        fleet.phase("cold fill", async |fleet| fleet.fill().await).await?;
        fleet.phase("rest", async |fleet| fleet.rest().await).await?;
        fleet.phase("churn", async |fleet| fleet.churn(Duration::from_secs(*churn)).await).await?;
        fleet.phase("upgrade", async |fleet| fleet.upgrade(operator).await).await?;
        fleet.fail_over(operator, *failovers).await?;
        fleet.judge()?;
        let addresses = fleet.agents.pools().values().map(|pool| pool.addresses.len()).sum::<usize>();
        fleet.figures.push(Figure::plain("addresses at the end, each once", number(u64::try_from(addresses)?), ""));
        Ok(fleet.figures)
    }

    async fn await_leader(&self) -> Result<(String, u32)> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            match self.place.leader().await {
                Ok(leader) => return Ok(leader),
                Err(error) if Instant::now() >= deadline => return Err(error.context("no controller leads")),
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    /// Runs a phase and notes what it cost.
    async fn phase(&mut self, name: &str, run: impl AsyncFnOnce(&mut Self) -> Result<()>) -> Result<()> {
        progress(name);
        let (_, leader) = self.place.leader().await?;
        let (usage, counts, written, begun) = (Usage::of(leader)?, counters(&self.place)?, self.place.controller_writes()?, Instant::now());
        if let Err(error) = run(self).await {
            let log = self.place.leader().await.map(|(name, _)| self.place.log(&name)).unwrap_or_default();
            return Err(error.context(format!("{name}; the leader's log ends with\n{log}")));
        }
        let time = seconds(begun.elapsed());
        let mut figures = vec![Figure::plain(format!("{name}: time"), time, "s")];
        let (_, now) = self.place.leader().await?;
        // A successor has used what it used since it began.
        let earlier = if now == leader { usage } else { usage.of_another() };
        figures.extend(Usage::of(now)?.figures(name, &earlier));
        figures.extend(requests(name, &counts, &counters(&self.place)?));
        let writes = number(self.place.controller_writes()? - written);
        figures.push(Figure::plain(format!("{name}: the controller's writes to the API server"), writes / time.max(0.01), "1/s"));
        self.figures.extend(figures);
        Ok(())
    }

    /// All nodes join within moments.
    async fn fill(&mut self) -> Result<()> {
        let api = &self.place.api;
        let join = |machine: &MachineSeed| join(Arc::clone(api), machine.node.clone(), machine.provider_id());
        all(self.seed.machines.iter().map(join)).await?;
        let count = self.seed.machines.len();
        self.until("every node's addresses", async |fleet| {
            let pools = fleet.agents.pools();
            Ok(pools.len() == count && pools.values().all(|pool| pool.addresses.len() >= IDLE))
        })
        .await
    }

    /// Nothing changes but what nobody looks at, and the leader looks at every node again.
    async fn rest(&mut self) -> Result<()> {
        self.until("every agent's report", async |fleet| Ok(fleet.agents.all_reported())).await?;
        let before = writes(&self.place)?.len();
        let (leader, _) = self.place.leader().await?;
        let passes = self.place.metric(&leader, PASSES).await?;
        let api = &self.place.api;
        all(self.seed.machines.iter().map(|machine| touch(Arc::clone(api), machine.node.clone()))).await?;
        let passes = passes + u64::try_from(self.seed.machines.len())?;
        self.until("a pass over every node", async |fleet| Ok(fleet.place.metric(&leader, PASSES).await? >= passes)).await?;
        let after = writes(&self.place)?.len();
        ensure!(before == after, "{} writes to Azure though nothing changed", after - before);
        Ok(())
    }

    /// The demand of one node in a hundred goes up each second, and comes down again at the end.
    async fn churn(&mut self, time: Duration) -> Result<()> {
        let begun = Instant::now();
        let names: Vec<String> = self.agents.pools().into_keys().collect();
        let at_once = names.len().div_ceil(100);
        let mut grown = BTreeSet::new();
        for (round, chunk) in names.chunks(at_once).enumerate() {
            if begun.elapsed() >= time {
                break;
            }
            for name in chunk {
                self.agents.demand(name, 12);
                grown.insert(name.clone());
            }
            let next = begun + Duration::from_secs(u64::try_from(round)? + 1);
            tokio::time::sleep_until(next.into()).await;
        }
        self.until("the growth of each", async |fleet| {
            let pools = fleet.agents.pools();
            Ok(grown.iter().all(|name| pools.get(name).is_some_and(|pool| pool.addresses.len() >= 2 * IDLE)))
        })
        .await?;
        let found = latencies(&self.place, &self.agents.pools(), &writes(&self.place)?, begun);
        ensure!(found.len() == grown.len(), "{} of {} decisions were seen", found.len(), grown.len());
        for percent in [50, 99] {
            let time = number(u64::try_from(percentile(&found, percent).as_millis())?);
            self.figures.push(Figure::plain(format!("churn: from demand to the write at Azure, {percent} of 100"), time, "ms"));
        }
        Ok(())
    }

    /// Controllers are replaced one by one, as a Deployment does it, every agent begins anew, and the new leader reads every NIC.
    async fn upgrade(&mut self, operator: &Path) -> Result<()> {
        let before = writes(&self.place)?.len();
        for ((old, _), (new, port)) in OLD.into_iter().zip(NEW) {
            self.place.start_controller(operator, new, port)?;
            self.place.stop(old)?;
            self.await_leader().await?;
        }
        self.agents.begin_anew();
        self.until("every agent's report", async |fleet| Ok(fleet.agents.all_reported())).await?;
        // Whatever it decides on what it reads, it has done when the pass is over.
        let nics = u64::try_from(self.seed.machines.len())?;
        self.until("the new leader's look at every NIC", async |fleet| {
            let (leader, _) = fleet.place.leader().await?;
            Ok(fleet.place.metric(&leader, READ_NICS).await? >= nics)
        })
        .await?;
        let after = writes(&self.place)?.len();
        ensure!(before == after, "{} writes to Azure though only programs changed", after - before);
        Ok(())
    }

    /// No address twice, none lost, and every object says what its NIC has.
    fn judge(&self) -> Result<()> {
        let complaints = complaints(&self.place)?;
        ensure!(complaints.is_empty(), "the emulated Azure complains: {complaints:?}");
        let pools = self.agents.pools();
        let mut owners: BTreeMap<&str, &str> = BTreeMap::new();
        for (name, Pool { addresses, .. }) in &pools {
            for address in addresses {
                if let Some(other) = owners.insert(address, name) {
                    bail!("{address} is published for {other} and for {name}");
                }
            }
        }
        let mut attached = 0;
        for nic in nics(&self.place)? {
            let ours = nic.configurations.iter().filter(|config| config.name.starts_with("avn-")).filter_map(|config| config.address);
            for address in ours {
                attached += 1;
                ensure!(
                    owners.get(address.to_string().as_str()).copied() == nic.node.as_deref(),
                    "{address} of {:?} is not published",
                    nic.node
                );
            }
        }
        ensure!(attached == owners.len(), "{} addresses are published, {attached} are on NICs", owners.len());
        Ok(())
    }

    async fn until(&self, what: &str, so: impl AsyncFn(&Self) -> Result<bool>) -> Result<()> {
        let deadline = Instant::now() + DEADLINE;
        while !so(self).await? {
            if Instant::now() >= deadline {
                bail!("waited {} s for {what}", DEADLINE.as_secs());
            }
            ensure!(!self.running.is_finished(), "the agents ended");
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }
}

/// Runs all of them, some at a time.
async fn all(requests: impl Iterator<Item = impl Future<Output = Result<()>> + Send + 'static>) -> Result<()> {
    let mut running = JoinSet::new();
    for request in requests {
        running.spawn(request);
        if running.len() >= PARALLEL {
            running.join_next().await.context("one runs")???;
        }
    }
    while let Some(ended) = running.join_next().await {
        ended??;
    }
    Ok(())
}

/// Somebody changes a Node in what nobody looks at.
async fn touch(api: Arc<Api>, name: String) -> Result<()> {
    let change = json!({"metadata": {"annotations": {"example.com/seen": "yes"}}});
    api.merge(&format!("{NODES}/{name}"), &change).await.map(drop)
}

/// A kubelet registers: `NotReady`, for it has no CNI yet.
async fn join(api: Arc<Api>, name: String, provider: String) -> Result<()> {
    let node = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"kubernetes.io/os": "linux"}}, "spec": {"providerID": provider},
        "status": {
            "conditions": [{"type": "Ready", "status": "False", "reason": "KubeletNotReady", "message": "cni plugin not initialized"}],
            "nodeInfo": {
                "bootID": BOOT, "machineID": "", "systemUUID": "", "kernelVersion": "", "osImage": "", "containerRuntimeVersion": "",
                "kubeletVersion": "", "kubeProxyVersion": "", "operatingSystem": "linux", "architecture": "amd64",
            },
        },
    });
    api.create(NODES, &node).await.map(drop)
}
