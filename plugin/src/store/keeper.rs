//! The agent's side of the node store: what survives a boot, the order in which addresses enter and leave the pool, and the seal.

use std::{
    collections::BTreeSet,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use azure_vnet_plugin_core::{
    RecordError,
    attachment::{Attachment, IfName, Mode, NetnsPath, NetworkName, PodRef},
    boot::{BootId, StoreId},
    lease::{Entry, Quarantine},
    pool::{Pool, PoolFacts, Regression, SealOwner, SlotAddress},
};

use super::{FileError, HoldError, KernelUse, Store};

/// The store with its durable folder. One process at a time has it.
#[derive(Debug)]
pub struct Keeper {
    store: Store,
    id: StoreId,
}

/// A revision to adopt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adoption {
    /// Object, revision, subnet.
    pub facts: PoolFacts,
    /// All addresses of the revision.
    pub addresses: Vec<SlotAddress>,
    /// Those of them that pods may have now (safety rules RE5 and RE6).
    pub offered: BTreeSet<Ipv4Addr>,
    /// Addresses of releases and of open remove-intents: set aside before the pool is in place (safety rule ST8).
    pub hold: Vec<Quarantine>,
}

/// A pod's link as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelLease {
    /// Address, from the link's alias.
    pub address: Ipv4Addr,
    /// Container and interface, from the link's alias.
    pub attachment: Attachment,
    /// The link.
    pub host_link: IfName,
    /// The pod, where known.
    pub pod: Option<PodRef>,
    /// The network that the conflist names.
    pub network: NetworkName,
    /// The conflist's mode.
    pub mode: Mode,
    /// The namespace, where known.
    pub netns: Option<NetnsPath>,
}

/// What became of one link of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rebuilt {
    /// Its lease was there.
    Known(Ipv4Addr),
    /// Its lease was made.
    Made(Ipv4Addr),
    /// Its address has another record, left as it was.
    Conflict(Ipv4Addr, Entry),
}

/// How setting aside ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Quarantining {
    /// Both records are in place: it may be acknowledged.
    Done,
    /// In use; nothing of it is left.
    Refused(String),
}

/// Quarantine after a start (safety rule ST6).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Both records in place.
    pub quarantined: Vec<Quarantine>,
    /// Met a lease or a use in the kernel: not set aside any more.
    pub refused: Vec<Quarantine>,
}

/// What a sweep removed or mended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Leases and cooling of former boots.
    pub void: usize,
    /// Cooling that has ended.
    pub cooled: usize,
    /// Temporary files, stale index entries and notes.
    pub litter: usize,
    /// Index entries that were missing.
    pub indexed: usize,
}

/// Why the agent's step failed.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// Older than what was adopted (safety rule RE3).
    #[error(transparent)]
    Regressed(Regression),
    /// A durable record cannot be understood.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The record.
        path: PathBuf,
        /// What is wrong with it.
        source: RecordError,
    },
    /// A seal needs a pool of this boot.
    #[error("the node store has no pool of this boot to seal")]
    NoPool,
    /// The folder was replaced under its mount (safety rule ST12).
    #[error("the node store's folder {} was replaced; it has to be mounted again", folder.display())]
    Replaced {
        /// The folder.
        folder: PathBuf,
    },
    /// Another agent is at work on this store.
    #[error("another process keeps the store in {}", folder.display())]
    Kept {
        /// The durable folder.
        folder: PathBuf,
    },
    /// Lock or file.
    #[error(transparent)]
    Hold(HoldError),
    /// A file operation failed.
    #[error(transparent)]
    File(FileError),
}

impl Keeper {
    /// Opens both folders, making what is missing; a durable folder without an id gets a random one (safety rule ST9).
    ///
    /// # Errors
    /// See [`KeeperError`].
    pub fn open(run: &Path, durable: &Path, boot: BootId) -> Result<Self, KeeperError> {
        unimplemented!("{} {} {boot}", run.display(), durable.display())
    }

    /// The plugins' view.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The durable folder's id.
    #[must_use]
    pub fn id(&self) -> &StoreId {
        &self.id
    }

    /// What was adopted last, in this boot or an earlier one.
    ///
    /// # Errors
    /// See [`KeeperError`].
    pub fn adopted(&self) -> Result<Option<Pool>, KeeperError> {
        unimplemented!()
    }

    /// Removes what former boots, dead processes and ended rests left, and mends the index. At start, then every some seconds.
    ///
    /// # Errors
    /// See [`KeeperError`].
    pub fn sweep(&self) -> Result<Swept, KeeperError> {
        unimplemented!()
    }

    /// Makes the leases of pods that are there (safety rule ST3). Before sealing.
    ///
    /// # Errors
    /// See [`KeeperError`].
    pub fn rebuild_from_kernel(&self, links: &[KernelLease]) -> Result<Vec<Rebuilt>, KeeperError> {
        unimplemented!("{links:?}")
    }

    /// Completes or drops what is half set aside (safety rule ST6). After the rebuild, before the first adoption.
    ///
    /// # Errors
    /// See [`KeeperError`].
    pub fn restore_after_start(&self, kernel: &mut dyn FnMut(Ipv4Addr) -> KernelUse) -> Result<Restored, KeeperError> {
        unimplemented!("{:?}", kernel(Ipv4Addr::LOCALHOST))
    }

    /// Adopts a revision, in the order of safety rules ST7 and ST8, and drops the markers of addresses that left it. Answers what plugins see.
    ///
    /// # Errors
    /// See [`KeeperError`].
    pub fn adopt(&self, adoption: &Adoption) -> Result<Pool, KeeperError> {
        unimplemented!("{adoption:?}")
    }

    /// Says that the store is whole.
    ///
    /// # Errors
    /// See [`KeeperError`].
    pub fn seal(&self, owner: SealOwner) -> Result<(), KeeperError> {
        unimplemented!("{owner}")
    }

    /// Takes the seal back: no ADD until the next.
    ///
    /// # Errors
    /// See [`KeeperError`].
    pub fn unseal(&self) -> Result<(), KeeperError> {
        unimplemented!()
    }

    /// Whether ADD may lease.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        unimplemented!()
    }

    /// Sets an address aside, in the order of safety rule ST6. Repeating it is harmless.
    ///
    /// # Errors
    /// See [`KeeperError`]; it may be half done, which a repetition or a start mends.
    pub fn quarantine(&self, marker: &Quarantine, kernel: &mut dyn FnMut(Ipv4Addr) -> KernelUse) -> Result<Quarantining, KeeperError> {
        unimplemented!("{marker:?} {:?}", kernel(Ipv4Addr::LOCALHOST))
    }

    /// Takes an address back into use: durable marker, then run marker (safety rule ST7). The next adoption offers it.
    ///
    /// # Errors
    /// See [`KeeperError`].
    pub fn withdraw(&self, slot: SlotAddress) -> Result<(), KeeperError> {
        unimplemented!("{slot}")
    }

    /// All addresses of which both records are in place: what may be acknowledged.
    ///
    /// # Errors
    /// See [`KeeperError`].
    pub fn quarantined(&self) -> Result<Vec<Quarantine>, KeeperError> {
        unimplemented!()
    }

    /// Whether both folders are the ones that were opened.
    ///
    /// # Errors
    /// See [`KeeperError`].
    pub fn health(&self) -> Result<(), KeeperError> {
        unimplemented!()
    }
}
