//! One node, brought from what is observed to what the object asks for, step after step, as often as anything happens.
//!
//! It runs on one thread at a time and may block: files, netlink, iptables. It asks no one over the network: what the API server and the node's
//! metadata say is handed in.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::Ipv4Addr,
    time::Duration,
};

use azure_vnet_crds::node::SlotAddress;
use azure_vnet_operator_core::{
    adoption::{Probation, Sightings, Source},
    conflist::NETWORK,
    demand::Pod,
    withheld::Withheld,
    witness::Witness,
};
use azure_vnet_plugin::{
    store::{Adoption, Keeper, KeeperError, Rebuilt},
    strays::RulesSeen,
};
use azure_vnet_plugin_core::{attachment::PodRef, boot::BootId, lease::Entry};
use jiff::Timestamp;
use tracing::{info, warn};

use super::{
    Options,
    clocks::Clocks,
    host::{Host, Look},
    kernel::{Kernel, KernelError, View},
    memory::Memory,
    object::Object,
    orphans::{self, Orphans},
    problems::{News, Problems, Report, Topic, chain},
    unmarked::{self, Former},
};

/// One answer of the node's metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Who answered.
    pub source: Source,
    /// When it was asked, since boot.
    pub asked: Duration,
    /// The machine, where it was told.
    pub vm_id: Option<String>,
    /// Addresses by the NIC's MAC, in lower case with colons; `*` where it was not told.
    pub shown: Vec<(String, Vec<Ipv4Addr>)>,
}

/// What has been observed outside.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The node's object, if it exists and could be read.
    pub object: Option<Object>,
    /// The node's pods, once known.
    pub pods: Option<Vec<Pod>>,
    /// The same, as leases may know them.
    pub watched: Option<orphans::Listed>,
    /// The pods that the API server itself listed since the last time.
    pub listed: Option<orphans::Listed>,
    /// The metadata's answers since the last time.
    pub answers: Vec<Answer>,
    /// Whether the object was just asked for anew, past the watch.
    pub reread: bool,
    /// How closely to look.
    pub look: Look,
}

/// What the API server itself is to be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Want {
    /// The node's pods: a lease has none that the watch shows.
    Pods,
    /// The node's object: the watch's copy is not to be relied on.
    Object,
}

/// An address whose host route was removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CutOff {
    /// Which.
    pub address: Ipv4Addr,
    /// The pod that has it, where its lease tells.
    pub pod: Option<PodRef>,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// To be reported, if the node has an object and its pods are known.
    pub report: Option<Report>,
    /// Whether pods can start.
    pub ready: bool,
    /// Attached addresses that pods do not get, since the node's metadata does not show them.
    pub withheld: usize,
    /// Pods whose ADD found no free address within the last minute, and that have none yet.
    pub waiting: usize,
    /// Addresses held for pods that the API server has lacked for a minute.
    pub leaked: usize,
    /// Whether answers of the metadata are being waited for.
    pub waits_for_metadata: bool,
    /// In how long something becomes due by time alone.
    pub due: Option<Duration>,
    /// What the API server itself is to be asked for, past the watches.
    pub wants: BTreeSet<Want>,
    /// Addresses whose host route was removed since the NIC lost them (safety rule RE7).
    pub cut_off: Vec<CutOff>,
    /// What is to be told once, beyond the conditions.
    pub news: Vec<News>,
}

/// The node.
#[derive(Debug)]
pub struct Node {
    pub(super) options: Options,
    pub(super) boot: BootId,
    pub(super) keeper: Keeper,
    pub(super) kernel: Kernel,
    pub(super) host: Host,
    pub(super) memory: Option<Memory>,
    pub(super) vm_id: String,
    pub(super) sightings: Sightings,
    pub(super) withheld: Withheld,
    pub(super) witness: Witness,
    pub(super) probation: Probation<Timestamp>,
    pub(super) refused: BTreeSet<(u64, SlotAddress)>,
    /// Addresses that pods do not get and that could not be set aside, with what uses them.
    pub(super) stuck: BTreeMap<SlotAddress, String>,
    pub(super) orphans: Orphans,
    /// The last pod of each address, by UID, as far as it was seen with a lease.
    pub(super) holders: BTreeMap<Ipv4Addr, String>,
    /// What the store was last brought to.
    pub(super) adoption: Option<Adoption>,
    pub(super) restored: bool,
    pub(super) clocks: Clocks,
    pub(super) said: Problems,
}

/// Why there is no agent on this node, or no longer.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The boot id cannot be read.
    #[error("cannot read the node's boot id from {path}")]
    BootId {
        /// Where it should be.
        path: String,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The store cannot be opened, or was replaced (safety rule ST12).
    #[error("the node store cannot be used")]
    Store(#[source] KeeperError),
    /// The kernel cannot be asked.
    #[error("the kernel cannot be asked")]
    Kernel(#[source] KernelError),
}

impl Node {
    /// Opens store and kernel.
    ///
    /// # Errors
    /// See [`NodeError`].
    pub fn open(options: Options) -> Result<Self, NodeError> {
        let boot = boot_id(&options)?;
        let keeper = Keeper::open(&options.run_dir, &options.state_dir, boot.clone()).map_err(NodeError::Store)?;
        let memory = Memory::load(&options.state_dir);
        info!(boot = %boot, store = %keeper.id(), remembers = memory.as_ref().map(|memory| memory.spec.revision), "opened the node store");
        Ok(Self {
            boot,
            keeper,
            kernel: Kernel::open().map_err(NodeError::Kernel)?,
            host: Host::default(),
            vm_id: memory.as_ref().map(|memory| memory.vm_id.clone()).unwrap_or_default(),
            memory,
            sightings: Sightings::default(),
            withheld: Withheld::default(),
            witness: Witness::default(),
            probation: Probation::default(),
            refused: BTreeSet::new(),
            stuck: BTreeMap::new(),
            orphans: Orphans::default(),
            holders: BTreeMap::new(),
            adoption: None,
            restored: false,
            clocks: Clocks::default(),
            said: Problems::default(),
            options,
        })
    }

    /// Looks, plans, acts. Whatever fails is reported and tried again the next time.
    ///
    /// # Errors
    /// Only when the store was replaced under the agent, which then has to be started anew.
    pub fn reconcile(&mut self, seen: &Seen) -> Result<Outcome, NodeError> {
        self.keeper.health().map_err(NodeError::Store)?;
        let mut problems = Problems::default();
        let mut outcome = Outcome::default();
        let view = problems.check(Topic::RulesInSync, "KernelUnreadable", self.kernel.view());
        if let Some(view) = view
            && problems.check(Topic::StoreHealthy, "RestoreFailed", self.restore(&view)).is_some()
        {
            match self.basis(seen, &mut problems) {
                Some(basis) => self.follow(seen, &view, basis, &mut problems, &mut outcome),
                None => problems.note(Topic::PoolAdopted, "NoObject", "waits for the controller to publish this node's pool".into()),
            }
        }
        outcome.news = self.finish(seen, problems);
        Ok(outcome)
    }

    /// Once for every store that is not sealed: leases from the kernel, then quarantine from disk, before anything is offered (safety rules ST3, ST6).
    fn restore(&mut self, view: &View) -> Result<(), KeeperError> {
        if let Some(lost) = self.keeper.make_folders()? {
            warn!(lost = %lost.display(), "the node store lost leases, and is made whole by what the kernel shows");
        }
        if self.restored && self.keeper.is_sealed() {
            return Ok(());
        }
        self.adoption = None;
        self.keeper.sweep()?;
        let network = NETWORK.parse().ok();
        let links = network.map(|network| view.leases(&network)).unwrap_or_default();
        for rebuilt in self.keeper.rebuild_from_kernel(&links)? {
            match rebuilt {
                Rebuilt::Known(_) => {}
                Rebuilt::Made(address) => info!(%address, "made the lease of a pod that is there"),
                Rebuilt::Void(address) => info!(%address, "forgot a record of a former boot"),
                Rebuilt::Conflict(address, entry) => warn!(%address, %entry, "a pod's link and the node store differ on an address"),
            }
        }
        if let Err(error) = self.forget_strays() {
            warn!(%error, "cannot look for what bridged pods left");
        }
        if let Err(error) = self.mark_routes(view) {
            warn!(%error, "cannot mark the routes of an earlier version");
        }
        let kernel = &mut self.kernel;
        let restored = self.keeper.restore_after_start(&mut |address| kernel.in_use(address))?;
        if !restored.quarantined.is_empty() || !restored.refused.is_empty() || !restored.unreadable.is_empty() {
            let (set_aside, in_use, unreadable) = (restored.quarantined.len(), restored.refused.len(), restored.unreadable.len());
            info!(set_aside, in_use, unreadable, "restored what is set aside");
        }
        self.restored = true;
        Ok(())
    }

    /// Takes over what a version made in this boot that did not mark its routes (safety rule PK1).
    fn mark_routes(&mut self, view: &View) -> Result<(), String> {
        let store = self.keeper.store();
        let former = Former::find(self.memory.as_ref(), Some(store)).map_err(|error| chain(&error))?;
        self.kernel.claim_unreachable(view, &former).map_err(|error| chain(&error))?;
        unmarked::note_marked(store).map_err(|error| chain(&error))
    }

    /// Removes what bridged pods left that neither a link nor a lease speaks for: their leases were lost, and no DEL will come (safety rule CM4).
    /// The rules are looked at first: a pod has its link and its lease before it has rules.
    fn forget_strays(&mut self) -> Result<(), String> {
        let rules = RulesSeen::now().map_err(|error| chain(&error))?;
        if rules.are_none() {
            return Ok(());
        }
        let linked = self.kernel.view().map_err(|error| chain(&error))?.pods.into_iter().map(|pod| pod.alias.attachment);
        let records = self.keeper.store().list().map_err(|error| chain(&error))?.into_iter();
        let leased = records.filter_map(|(_, entry)| match entry {
            Entry::Leased(lease) => Some(lease.attachment),
            Entry::Cooling(_) | Entry::Quarantined(_) | Entry::Unreadable(_) => None,
        });
        let known = linked.chain(leased).collect();
        self.kernel.forget_strays(rules, &known, self.keeper.store()).map_err(|error| chain(&error))
    }
}

fn boot_id(options: &Options) -> Result<BootId, NodeError> {
    let failed = |source| NodeError::BootId { path: options.boot_id_file.display().to_string(), source };
    let text = fs::read_to_string(&options.boot_id_file).map_err(|error| failed(error.into()))?;
    text.parse().map_err(|error| failed(Box::new(error)))
}
