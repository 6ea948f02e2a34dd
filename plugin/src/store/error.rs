//! Why the store's operations fail, by what their callers can do about it.

use std::{io, net::Ipv4Addr, path::PathBuf};

use azure_vnet_plugin_core::{
    RecordError,
    pool::{Regression, SealOwner},
    source::Wanted,
};

use super::{Counts, LOCK_WAIT};

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
    /// Sealed, and a folder of it is gone.
    #[error("the node store {} is sealed, and part of it is missing", folder.display())]
    Incomplete {
        /// The store.
        folder: PathBuf,
        /// Who sealed it, and makes it whole again.
        owner: SealOwner,
        /// What could not be done.
        source: FileError,
    },
    /// Sealed without a pool.
    #[error("the node store {} has no pool", folder.display())]
    NoPool {
        /// The store.
        folder: PathBuf,
    },
    /// The configuration asks for a subnet that the pool is not of.
    #[error("this node has no {wanted}; it has {has}")]
    NoSubnet {
        /// What the configuration asks for.
        wanted: Wanted,
        /// What there is.
        has: String,
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

impl PoolError {
    /// Whether a later version of this program made what cannot be read: it is not to be replaced.
    #[must_use]
    pub fn is_of_a_later_version(&self) -> bool {
        matches!(self, Self::Unreadable { source: RecordError::Version(_), .. })
    }
}

/// Why there is no lease.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// No pool counts at the moment.
    #[error(transparent)]
    Pool(PoolError),
    /// All addresses are taken.
    #[error(
        "no address is free: of {} in the pool {} are leased, {} cooling, {} set aside for release, {} unreadable, {} used otherwise on this host{}",
        counts.total, counts.leased, counts.cooling, counts.quarantined, counts.unreadable, in_use.len(), named(in_use)
    )]
    Exhausted {
        /// By state.
        counts: Counts,
        /// Skipped because the kernel uses them, or found in use while wiring: by what, in words.
        in_use: Vec<String>,
    },
    /// The kernel did not say whether it uses an address: more addresses would not help.
    #[error("the kernel does not say whether {address} is in use: {why}")]
    Kernel {
        /// The address.
        address: Ipv4Addr,
        /// What it answered.
        why: String,
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
    /// Others took every address before it was this attachment's.
    #[error("other processes were faster with each of {tries} addresses")]
    Outrun {
        /// How many were tried.
        tries: usize,
    },
    /// The file system has no room, or is read-only.
    #[error("the node store's file system takes no more files")]
    Full(#[source] FileError),
    /// A file operation failed.
    #[error(transparent)]
    File(FileError),
}

/// The first few of what is in use, to be found and mended.
fn named(in_use: &[String]) -> String {
    const MOST: usize = 3;
    let first: Vec<&str> = in_use.iter().take(MOST).map(String::as_str).collect();
    match (first.as_slice(), in_use.len().saturating_sub(MOST)) {
        ([], _) => String::new(),
        (first, 0) => format!(" ({})", first.join(", ")),
        (first, more) => format!(" ({}, and {more} more)", first.join(", ")),
    }
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
    /// The kernel did not say whether it uses an address: both records stay as they are.
    #[error("the kernel does not say whether {address} is in use: {why}")]
    Kernel {
        /// The address.
        address: Ipv4Addr,
        /// What it answered.
        why: String,
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
    /// A file appeared in the store without the lock.
    #[error("the record of {address} appeared while the store was locked")]
    Raced {
        /// Its address.
        address: Ipv4Addr,
    },
    /// Lock or file.
    #[error(transparent)]
    Hold(HoldError),
    /// A file operation failed.
    #[error(transparent)]
    File(FileError),
}

impl From<HoldError> for KeeperError {
    fn from(error: HoldError) -> Self {
        Self::Hold(error)
    }
}

impl From<FileError> for KeeperError {
    fn from(error: FileError) -> Self {
        Self::File(error)
    }
}

impl From<HoldError> for LeaseError {
    fn from(error: HoldError) -> Self {
        match error {
            HoldError::Busy { path } => Self::Busy { path },
            HoldError::File(error) => error.into(),
        }
    }
}

impl From<FileError> for LeaseError {
    fn from(error: FileError) -> Self {
        if error.is_full() { Self::Full(error) } else { Self::File(error) }
    }
}

impl From<PoolError> for LeaseError {
    fn from(error: PoolError) -> Self {
        Self::Pool(error)
    }
}

impl From<FileError> for HoldError {
    fn from(error: FileError) -> Self {
        Self::File(error)
    }
}

impl LeaseError {
    /// Whether an address that the machine got meanwhile could serve.
    #[must_use]
    pub fn may_be_news(&self) -> bool {
        match self {
            Self::Exhausted { .. } | Self::RequestedForeign { .. } | Self::Pool(PoolError::NoSubnet { .. }) => true,
            Self::Pool(_)
            | Self::Kernel { .. }
            | Self::RequestedTaken { .. }
            | Self::RequestedOther { .. }
            | Self::Lost { .. }
            | Self::Busy { .. }
            | Self::Outrun { .. }
            | Self::Full(_)
            | Self::File(_) => false,
        }
    }

    /// Whether the pod's demand should be noted with [`Store::want`]: the pool is too small, or not there yet.
    #[must_use]
    pub fn is_demand(&self) -> bool {
        match self {
            Self::Exhausted { .. }
            | Self::Pool(
                PoolError::NotSealed { .. } | PoolError::Incomplete { .. } | PoolError::NoPool { .. } | PoolError::OtherBoot { .. },
            ) => true,
            Self::Pool(PoolError::NoSubnet { .. } | PoolError::Unreadable { .. } | PoolError::File(_))
            | Self::Kernel { .. }
            | Self::RequestedForeign { .. }
            | Self::RequestedTaken { .. }
            | Self::RequestedOther { .. }
            | Self::Lost { .. }
            | Self::Busy { .. }
            | Self::Outrun { .. }
            | Self::Full(_)
            | Self::File(_) => false,
        }
    }
}
