//! The node store under `/run/azure-vnet`: files, locks and hard links that give an address to one attachment at a time.
//! What a file means and when an address is free is decided in the core crate; this module carries it out. It never touches the network.

mod keeper;

use std::{
    collections::BTreeSet,
    io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::Duration,
};

use azure_vnet_plugin_core::{
    RecordError,
    attachment::{Attachment, IfName, Mode, NetnsPath, NetworkName, PodRef, PodUid},
    boot::{BootId, BootTime},
    lease::{Entry, Lease},
    pool::Pool,
};

pub use keeper::{Adoption, Keeper, KeeperError, KernelLease, Quarantining, Rebuilt, Restored, Swept};

/// How long a command waits for the store's lock or for another command on the same attachment.
pub const LOCK_WAIT: Duration = Duration::from_secs(10);

/// The store, as plugins use it.
#[derive(Clone, Debug)]
pub struct Store {
    folder: PathBuf,
    boot: BootId,
}

/// What the kernel says of a candidate (safety rule ST4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KernelUse {
    /// No trace of it that would be in a pod's way.
    Free,
    /// Someone uses it: what, in words for the log.
    Used(String),
}

/// What ADD asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseRequest {
    /// Container and interface.
    pub attachment: Attachment,
    /// The pod, where named.
    pub pod: Option<PodRef>,
    /// The network.
    pub network: NetworkName,
    /// The wiring.
    pub mode: Mode,
    /// Name of the host's end.
    pub host_link: IfName,
    /// The pod's namespace.
    pub netns: NetnsPath,
    /// `SO_NETNS_COOKIE` of it.
    pub netns_cookie: Option<u64>,
    /// This address or none.
    pub requested: Option<Ipv4Addr>,
    /// Not these: found in use while wiring.
    pub avoid: BTreeSet<Ipv4Addr>,
}

/// A lease, and the pool it came from.
#[derive(Debug)]
pub struct Granted<'a> {
    /// The lease.
    pub held: Held<'a>,
    /// Prefix, gateway, MTU.
    pub pool: Pool,
}

/// Whether this process made the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It did.
    Created,
    /// It was there.
    Found,
}

/// A lease on whose inode this process has the flock (safety rule CM1).
#[derive(Debug)]
pub struct Held<'a> {
    store: &'a Store,
    lease: Lease,
    origin: Origin,
}

/// How cooling or freeing ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freed {
    /// The address cools.
    Cooling,
    /// The record is not the one that was decided on: nothing was done.
    Changed,
}

/// The addresses by state; expired cooling counts as free (safety rule UP5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// In the pool.
    pub total: usize,
    /// With a pod.
    pub leased: usize,
    /// Resting.
    pub cooling: usize,
    /// Set aside.
    pub quarantined: usize,
    /// Occupied by unreadable records.
    pub unreadable: usize,
    /// Pool addresses that a pod could get.
    pub free: usize,
}

/// A file operation that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {}", path.display())]
pub struct FileError {
    /// What was tried.
    pub operation: &'static str,
    /// On what.
    pub path: PathBuf,
    /// Why not.
    pub source: io::Error,
}

impl FileError {
    /// Whether the file system has no room or is read-only.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self.source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::ReadOnlyFilesystem)
    }
}

/// Why there is no pool to lease from; STATUS fails with the same (code 50), ADD with code 11.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// No seal: after a boot, before the agent has started, or the folder was lost.
    #[error("the node store {} is not sealed in this boot", folder.display())]
    NotSealed {
        /// The store.
        folder: PathBuf,
    },
    /// Seal or pool of a former boot, or of another store.
    #[error("{} belongs to another boot or another store", path.display())]
    OtherBoot {
        /// The seal or the pool.
        path: PathBuf,
    },
    /// Sealed without a pool.
    #[error("the node store {} has no pool", folder.display())]
    NoPool {
        /// The store.
        folder: PathBuf,
    },
    /// Seal or pool cannot be understood.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The seal or the pool.
        path: PathBuf,
        /// What is wrong with it.
        source: RecordError,
    },
    /// Seal or pool cannot be opened.
    #[error(transparent)]
    File(FileError),
}

/// Why there is no lease.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// No pool counts at the moment.
    #[error(transparent)]
    Pool(PoolError),
    /// All addresses are taken.
    #[error(
        "no address is free: of {} in the pool {} are leased, {} cooling, {} set aside for release, {} unreadable, {in_kernel} used otherwise on this host",
        counts.total, counts.leased, counts.cooling, counts.quarantined, counts.unreadable
    )]
    Exhausted {
        /// By state.
        counts: Counts,
        /// Skipped because the kernel uses them.
        in_kernel: usize,
    },
    /// The requested address is not in the pool.
    #[error("the requested address {address} is not in this node's pool")]
    RequestedForeign {
        /// It.
        address: Ipv4Addr,
    },
    /// The requested address is not free.
    #[error("the requested address {address} is not free: {by}")]
    RequestedTaken {
        /// It.
        address: Ipv4Addr,
        /// Its state.
        by: String,
    },
    /// The attachment has another address than the one it requests.
    #[error("the attachment has {has} already, and requests {address}")]
    RequestedOther {
        /// The requested one.
        address: Ipv4Addr,
        /// The one it has.
        has: Ipv4Addr,
    },
    /// The lease was replaced while it was being wired (safety rule ST3).
    #[error("the lease of {address} was replaced by another process while the pod was being wired")]
    Lost {
        /// Its address.
        address: Ipv4Addr,
    },
    /// Another process has the lock.
    #[error("{} is locked by another process for more than {} s", path.display(), LOCK_WAIT.as_secs())]
    Busy {
        /// Store's lock or lease.
        path: PathBuf,
    },
    /// The file system has no room, or is read-only.
    #[error("the node store's file system takes no more files")]
    Full(#[source] FileError),
    /// A file operation failed.
    #[error(transparent)]
    File(FileError),
}

/// Why a lease cannot be looked at or given up.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// Another process has the lock.
    #[error("{} is locked by another process for more than {} s", path.display(), LOCK_WAIT.as_secs())]
    Busy {
        /// Store's lock or lease.
        path: PathBuf,
    },
    /// A file operation failed.
    #[error(transparent)]
    File(FileError),
}

impl Store {
    /// The store in `folder`, as seen in this boot. Touches nothing.
    #[must_use]
    pub fn at(folder: &Path, boot: BootId) -> Self {
        Self { folder: folder.to_owned(), boot }
    }

    /// The boot.
    #[must_use]
    pub fn boot(&self) -> &BootId {
        &self.boot
    }

    /// Gives the attachment the lease that it has, else a new one. `kernel` is asked outside the lock (safety rule ST4).
    ///
    /// # Errors
    /// See [`LeaseError`].
    pub fn lease(&self, request: &LeaseRequest, kernel: &mut dyn FnMut(Ipv4Addr) -> KernelUse) -> Result<Granted<'_>, LeaseError> {
        unimplemented!("{request:?} {:?}", kernel(Ipv4Addr::LOCALHOST))
    }

    /// Finds and holds the attachment's lease, waiting for a command that holds it (safety rule CM1).
    ///
    /// # Errors
    /// See [`HoldError`].
    pub fn find(&self, attachment: &Attachment) -> Result<Option<Held<'_>>, HoldError> {
        unimplemented!("{attachment}")
    }

    /// The state of one address; `None` where it has no file.
    ///
    /// # Errors
    /// The file is there and cannot be read.
    pub fn read(&self, address: Ipv4Addr) -> Result<Option<Entry>, FileError> {
        unimplemented!("{address}")
    }

    /// All addresses that have a file. A store that is not there has none.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn list(&self) -> Result<Vec<(Ipv4Addr, Entry)>, FileError> {
        unimplemented!()
    }

    /// The pool, if it counts: sealed, of this boot and this store.
    ///
    /// # Errors
    /// See [`PoolError`].
    pub fn pool(&self) -> Result<Pool, PoolError> {
        unimplemented!()
    }

    /// Notes that a pod found no address (safety rule UP5).
    ///
    /// # Errors
    /// The note cannot be written.
    pub fn want(&self, pod: &PodUid) -> Result<(), FileError> {
        unimplemented!("{pod}")
    }

    /// Pods that found no address in the last 60 s.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn wants(&self) -> Result<Vec<PodUid>, FileError> {
        unimplemented!()
    }

    /// The addresses by state. Without a pool, `total` and `free` are 0.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn counts(&self) -> Result<Counts, FileError> {
        unimplemented!()
    }

    /// Sends a lease or an unreadable record to cooling if, under the locks, it is still the `seen` one (GC, agent; safety rules ST1 and CM4).
    ///
    /// # Errors
    /// See [`HoldError`].
    pub fn free_if(&self, address: Ipv4Addr, seen: &Entry) -> Result<Freed, HoldError> {
        unimplemented!("{address} {seen}")
    }

    /// `CLOCK_BOOTTIME`.
    #[must_use]
    pub fn now(&self) -> BootTime {
        unimplemented!()
    }
}

impl Held<'_> {
    /// The lease.
    #[must_use]
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// Whether this process made it.
    #[must_use]
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// The last act before ADD answers: the address still is this lease's, and the store still is sealed (safety rule ST3).
    ///
    /// # Errors
    /// It is not: undo the wiring, roll back, answer code 11.
    pub fn confirm(&self) -> Result<(), LeaseError> {
        unimplemented!("{:?}", self.store)
    }

    /// Frees the address at once if this process made the lease and no one replaced it; else does nothing (safety rule CM1).
    ///
    /// # Errors
    /// See [`HoldError`].
    pub fn rollback(self) -> Result<(), HoldError> {
        unimplemented!()
    }

    /// Sends the address to cooling, after the kernel's part is gone (safety rule CM2).
    ///
    /// # Errors
    /// See [`HoldError`]; the lease stands.
    pub fn cool(self) -> Result<Freed, HoldError> {
        unimplemented!()
    }
}
