//! The watch over what must never be: one address in two places. It looks at the emulated Azure and at every node's store and links all the
//! while.

mod compare;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use azure_vnet_plugin::store::Store;
use azure_vnet_plugin_core::lease::Entry;

use crate::azure::AdminClient;
use crate::azure::command::ConfigState;
use crate::lab::{Lab, Node};
use compare::{Look, Seen};

/// Looks until it is finished or dropped.
pub struct Checker {
    shared: Arc<Shared>,
    nodes: usize,
    thread: Option<JoinHandle<Result<()>>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    book: Mutex<Book>,
}

/// What was seen so far, and that anything was.
#[derive(Default)]
struct Book {
    looks: u64,
    nodes: BTreeSet<String>,
    leases: usize,
    links: usize,
    found: BTreeSet<String>,
}

impl Checker {
    /// Begins to watch a lab.
    #[must_use]
    pub fn start(lab: &Lab) -> Self {
        let (nodes, azure) = (lab.nodes(), lab.azure());
        let shared = Arc::<Shared>::default();
        let watched = Arc::clone(&shared);
        Self { shared, nodes: nodes.len(), thread: Some(thread::spawn(move || watch(&watched, &azure, &nodes))) }
    }

    /// Takes a last look, and fails if anything was found, or if there was anything that it never got to see; answers how often it looked.
    ///
    /// # Errors
    /// Lists what was found, or what was not seen.
    pub fn finish(mut self) -> Result<u64> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().ok_or_else(|| anyhow!("the checker has finished already"))?;
        thread.join().map_err(|_| anyhow!("the checker panicked"))??;
        let book = self.shared.book.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(book.found.is_empty(), "addresses were not safe:\n  {}", book.found.iter().cloned().collect::<Vec<_>>().join("\n  "));
        ensure!(book.nodes.len() == self.nodes, "the checker read the stores of {:?}, of {} nodes", book.nodes, self.nodes);
        ensure!(book.leases > 0 && book.links > 0, "the checker saw {} leases and {} links of pods", book.leases, book.links);
        Ok(book.looks)
    }
}

impl Drop for Checker {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

/// A look may fail while a node reboots; the last one, after all is done, may not.
fn watch(shared: &Shared, azure: &AdminClient, nodes: &[Node]) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    loop {
        let last = shared.stop.load(Ordering::Relaxed);
        match runtime.block_on(look(azure, nodes)) {
            Ok((look, found)) => shared.book.lock().unwrap_or_else(PoisonError::into_inner).enter(&look, found),
            Err(error) if last => return Err(error.context("the checker's last look")),
            Err(_) => {}
        }
        if last {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(200));
    }
}

impl Book {
    fn enter(&mut self, look: &Look, found: Vec<String>) {
        self.looks += 1;
        self.nodes.extend(look.after.keys().cloned());
        self.leases = self.leases.max(look.leases());
        self.links = self.links.max(look.links());
        self.found.extend(found);
    }
}

async fn look(azure: &AdminClient, nodes: &[Node]) -> Result<(Look, Vec<String>)> {
    let before = read_nodes(nodes);
    let nics = azure.nics().await?;
    let after = read_nodes(nodes);
    let mut attached: BTreeMap<String, BTreeSet<_>> = BTreeMap::new();
    for nic in nics {
        let Some(node) = nic.node else { continue };
        attached.entry(node).or_default().extend(nic.configurations.iter().flat_map(ConfigState::addresses));
    }
    let look = Look { before, attached, after };
    let mut found = look.violations();
    found.extend(azure.violations().await?);
    found.extend(azure.disturbances().await?);
    Ok((look, found))
}

/// The nodes that are on and have a pool.
fn read_nodes(nodes: &[Node]) -> BTreeMap<String, Seen> {
    nodes.iter().filter_map(|node| Some((node.name().to_owned(), read_node(&node.host_path("/")?)?))).collect()
}

fn read_node(root: &Path) -> Option<Seen> {
    let boot = std::fs::read_to_string(root.join("proc/sys/kernel/random/boot_id")).ok()?.parse().ok()?;
    let store = Store::at(&root.join("run/azure-vnet"), boot);
    let mut leased = BTreeMap::new();
    for (address, entry) in store.list().ok()? {
        if let Entry::Leased(lease) = entry {
            leased.insert(address, lease.attachment);
        }
    }
    let pool = store.pool().ok()?.addresses().iter().map(|slot| slot.address).collect();
    let links = std::fs::read_dir(root.join("sys/class/net")).ok()?.flatten();
    let labels = links.filter_map(|link| std::fs::read_to_string(link.path().join("ifalias")).ok());
    let linked = labels.filter_map(|label| label.trim().parse().ok()).collect();
    Some(Seen { leased, pool, linked })
}
