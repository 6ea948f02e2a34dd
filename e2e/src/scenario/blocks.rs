//! Blocks of addresses: pods get them, and after a change of the unit back those that nobody uses go, while the pods of others live on.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use azure_vnet_crds::node::{SlotAddress, Unit};
use serde_json::Value;

use super::burst::{burst, workload};
use super::install::CONFIG;
use super::{Cluster, Pod, wait_for};
use crate::azure::Settings;
use crate::lab::api;

/// More than one block carries.
const PODS: usize = 24;
/// Pods that live on, in one block.
const STAY: usize = 3;

/// What came and went.
#[derive(Debug)]
pub struct Blocks {
    /// Blocks of the node while its config asked for them.
    pub came: Vec<SlotAddress>,
    /// Pods that had an address of one.
    pub pods: usize,
    /// What is left of them: those of which a pod has an address.
    pub left: Vec<SlotAddress>,
}

/// Has a node on a Flexible scale set, or a stand-alone one, come to blocks by its config, fills two of them, and goes back to single addresses while some
/// pods of one block stay. `uniform` is a node whose kind takes none.
///
/// # Errors
/// If no pod gets an address of a block, one carries no traffic, an idle block stays or the other goes, or the uniform node does not say why it has none.
pub fn there_and_back(cluster: &Cluster, (node, uniform): (&str, &str), reached: &Pod, deadline: Duration) -> Result<Blocks> {
    cluster.azure(async |azure| {
        let settings = Settings { prefix_blocks: true, ..azure.settings().await? };
        azure.configure(settings).await
    })?;
    ask_for(cluster, "Block28")?;
    burst(cluster, node, PODS, deadline)?;
    let came = wait_for("blocks", deadline, || {
        let found = blocks(cluster, node)?;
        Ok(if found.len() > 1 { Ok(found) } else { Err(format!("{found:?}")) })
    })?;
    let pods = by_block(&came, cluster.pods("app=burst")?);
    let (kept, inside) = pods.iter().max_by_key(|(_, pods)| pods.len()).context("no pod has an address of a block")?;
    ensure!(inside.len() >= STAY, "{STAY} pods of one block are needed: {pods:?}");
    let staying: Vec<&Pod> = inside.iter().take(STAY).collect();
    carries_traffic(cluster, &staying, reached)?;
    let why = || Ok(condition(&cluster.read(&format!("{}/{uniform}", api::VNET_NODES))?, "NicWritable"));
    wait_for("the uniform node to say why it has none", deadline, || {
        why().map(|why| if why == "BlocksUnsupported" { Ok(()) } else { Err(why) })
    })?;

    ask_for(cluster, "Address")?;
    for pod in &staying {
        cluster.kubectl(&["annotate", "pod", &pod.name, "controller.kubernetes.io/pod-deletion-cost=1000"])?;
    }
    cluster.apply(&workload(node, STAY))?;
    let left = wait_for("the idle blocks to go back", deadline, || {
        let found = blocks(cluster, node)?;
        ensure!(found.contains(kept), "the block with pods went: {found:?}");
        Ok(if found == [*kept] { Ok(found) } else { Err(format!("{found:?}")) })
    })?;
    let now = cluster.pods("app=burst")?;
    let lives = |pod: &&Pod| now.iter().any(|other| (&other.name, other.address) == (&pod.name, pod.address));
    ensure!(staying.iter().all(lives) && now.len() == STAY, "pods live on with their addresses: {now:?}");
    carries_traffic(cluster, &staying, reached)?;
    let on_nic = cluster.azure(async |azure| azure.nics().await)?.into_iter().filter(|nic| nic.node.as_deref() == Some(node));
    let on_nic: Vec<_> = on_nic.flat_map(|nic| nic.configurations).filter(|config| config.block).collect();
    ensure!(on_nic.len() == 1, "as Azure sees it: {on_nic:?}");
    Ok(Blocks { came, pods: pods.values().map(Vec::len).sum(), left })
}

fn ask_for(cluster: &Cluster, unit: &str) -> Result<()> {
    let config = CONFIG.replace("after: 70s", "after: 30s").replace("  pool:\n", &format!("  pool:\n    unit: {unit}\n"));
    cluster.apply(&config).map(|_| ())
}

fn blocks(cluster: &Cluster, node: &str) -> Result<Vec<SlotAddress>> {
    let object = cluster.read(&format!("{}/{node}", api::VNET_NODES))?;
    let all: Vec<SlotAddress> = serde_json::from_value(object["spec"]["addresses"].clone())?;
    Ok(all.into_iter().filter(|at| at.unit == Unit::Block28).collect())
}

/// Pods by the block that their address is of.
fn by_block(blocks: &[SlotAddress], pods: Vec<Pod>) -> BTreeMap<SlotAddress, Vec<Pod>> {
    let mut found: BTreeMap<SlotAddress, Vec<Pod>> = BTreeMap::new();
    for pod in pods {
        if let Some(block) = blocks.iter().find(|block| block.contains(pod.address)) {
            found.entry(*block).or_default().push(pod);
        }
    }
    found
}

fn carries_traffic(cluster: &Cluster, pods: &[&Pod], reached: &Pod) -> Result<()> {
    let target = vec![format!("{}:8080", reached.address)];
    for pod in pods {
        let answers = cluster.ask(&pod.name, &target)?;
        ensure!(answers.iter().all(Result::is_ok), "{} with {}: {answers:?}", pod.name, pod.address);
    }
    Ok(())
}

fn condition(object: &Value, kind: &str) -> String {
    let all = object["status"]["conditions"].as_array().into_iter().flatten();
    all.filter(|condition| condition["type"] == kind).filter_map(|condition| condition["reason"].as_str()).collect()
}
