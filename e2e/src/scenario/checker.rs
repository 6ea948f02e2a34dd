//! The watch over what must never be: one address in two places. It looks at the emulated Azure and at every node's store all the while.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use azure_vnet_plugin::store::Store;
use azure_vnet_plugin_core::boot::BootId;
use azure_vnet_plugin_core::lease::Entry;

use crate::azure::AdminClient;
use crate::lab::Lab;

/// Looks until it is finished or dropped.
pub struct Checker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<()>>>,
}

struct Shared {
    stop: AtomicBool,
    looks: AtomicU64,
    found: Mutex<BTreeSet<String>>,
}

/// Where a node's store is at the moment; none while the node is off.
type StoreFolder = Box<dyn Fn() -> Option<PathBuf> + Send>;

impl Checker {
    /// Begins to watch a lab.
    #[must_use]
    pub fn start(lab: &Lab) -> Self {
        let nodes: Vec<(String, StoreFolder)> = lab.nodes().into_iter().map(|node| (node.name().to_owned(), store_folder(&node))).collect();
        let azure = lab.azure();
        let shared = Arc::new(Shared { stop: AtomicBool::new(false), looks: AtomicU64::new(0), found: Mutex::default() });
        let watched = Arc::clone(&shared);
        let thread = thread::spawn(move || watch(&watched, &azure, &nodes));
        Self { shared, thread: Some(thread) }
    }

    /// Stops, and fails if anything was found; answers how often it looked.
    ///
    /// # Errors
    /// Lists what was found.
    pub fn finish(mut self) -> Result<u64> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().ok_or_else(|| anyhow!("the checker has finished already"))?;
        thread.join().map_err(|_| anyhow!("the checker panicked"))??;
        let found = self.shared.found.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(found.is_empty(), "addresses were not safe:\n  {}", found.iter().cloned().collect::<Vec<_>>().join("\n  "));
        let looks = self.shared.looks.load(Ordering::Relaxed);
        ensure!(looks > 0, "the checker never got to look");
        Ok(looks)
    }
}

impl Drop for Checker {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

fn store_folder(node: &crate::lab::Node) -> StoreFolder {
    let node = node.clone();
    Box::new(move || node.host_path("/run/azure-vnet").filter(|folder| folder.join("pool").exists()))
}

fn watch(shared: &Shared, azure: &AdminClient, nodes: &[(String, StoreFolder)]) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    while !shared.stop.load(Ordering::Relaxed) {
        if let Ok(found) = runtime.block_on(look(azure, nodes)) {
            shared.looks.fetch_add(1, Ordering::Relaxed);
            shared.found.lock().unwrap_or_else(PoisonError::into_inner).extend(found);
        }
        thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// One look. Leases are read before and after Azure is asked: only what stood in both can be compared with it.
async fn look(azure: &AdminClient, nodes: &[(String, StoreFolder)]) -> Result<Vec<String>> {
    let before = read_stores(nodes);
    let nics = azure.nics().await?;
    let after = read_stores(nodes);
    let mut found = azure.violations().await?;
    found.extend(azure.disturbances().await?);
    found.extend(shared_addresses("leased", after.iter().map(|(node, store)| (node, &store.leased))));
    found.extend(shared_addresses("in the pool", after.iter().map(|(node, store)| (node, &store.pool))));
    for (node, store) in &after {
        let Some(earlier) = before.get(node) else { continue };
        let attached: BTreeSet<Ipv4Addr> = nics
            .iter()
            .filter(|nic| nic.node.as_ref() == Some(node))
            .flat_map(|nic| nic.configurations.iter().filter_map(|config| config.address))
            .collect();
        let held = store.leased.intersection(&earlier.leased);
        found.extend(held.filter(|held| !attached.contains(held)).map(|held| format!("{held} is leased on {node} and not on its NIC")));
    }
    Ok(found)
}

/// Addresses of one node's store.
#[derive(Default)]
struct Seen {
    leased: BTreeSet<Ipv4Addr>,
    pool: BTreeSet<Ipv4Addr>,
}

fn read_stores(nodes: &[(String, StoreFolder)]) -> BTreeMap<String, Seen> {
    nodes.iter().filter_map(|(name, folder)| Some((name.clone(), read_store(&folder()?)?))).collect()
}

fn read_store(folder: &Path) -> Option<Seen> {
    let boot = sealed_boot(folder)?;
    let store = Store::at(folder, boot);
    let leased =
        store.list().ok()?.into_iter().filter(|(_, entry)| matches!(entry, Entry::Leased(_))).map(|(address, _)| address).collect();
    let pool = store.pool().ok()?.addresses().iter().map(|slot| slot.address).collect();
    Some(Seen { leased, pool })
}

/// The boot that the store was sealed in, by the node's own boot id file.
fn sealed_boot(folder: &Path) -> Option<BootId> {
    let root = folder.parent()?.parent()?;
    std::fs::read_to_string(root.join("proc/sys/kernel/random/boot_id")).ok()?.parse().ok()
}

fn shared_addresses<'a>(what: &str, nodes: impl Iterator<Item = (&'a String, &'a BTreeSet<Ipv4Addr>)>) -> Vec<String> {
    let mut owners: BTreeMap<Ipv4Addr, Vec<&str>> = BTreeMap::new();
    for (node, addresses) in nodes {
        for address in addresses {
            owners.entry(*address).or_default().push(node);
        }
    }
    let shared = owners.into_iter().filter(|(_, nodes)| nodes.len() > 1);
    shared.map(|(address, nodes)| format!("{address} is {what} on {}", nodes.join(" and "))).collect()
}
