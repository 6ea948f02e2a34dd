//! The node store under `/run/azure-vnet`: files, locks and hard links that give an address to one attachment at a time.
//! What a file means and when an address is free is decided in the core crate; this module carries it out. It never touches the network.

mod error;
mod files;
mod grant;
mod held;
mod keeper;
mod marker;
mod mend;
mod supply;
#[cfg(test)]
mod tests;

use std::{
    fs::File,
    io::ErrorKind,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use azure_vnet_plugin_core::{
    attachment::{Attachment, AttachmentHash, PodUid},
    boot::{BootId, BootTime},
    lease::Entry,
    pool::Pool,
};

use crate::clock;

pub use error::{FileError, HoldError, KeeperError, LeaseError, PoolError};
pub use grant::{Granted, KernelUse, LeaseRequest};
pub use held::{Held, Origin};
pub use keeper::{Adoption, Keeper};
pub use marker::{Quarantining, Restored};
pub use mend::{KernelLease, Rebuilt, Swept};
pub use supply::{Query, Supply};

/// How long a command waits for the store's lock or for another command on the same attachment.
pub const LOCK_WAIT: Duration = Duration::from_secs(10);

/// The store, as plugins use it.
#[derive(Clone, Debug)]
pub struct Store {
    folder: PathBuf,
    boot: BootId,
    patience: Duration,
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

/// What one look at the store showed.
#[derive(Clone, Debug)]
pub struct Census {
    /// Every address with a record.
    pub entries: Vec<(Ipv4Addr, Entry)>,
    /// Their number by state.
    pub counts: Counts,
    /// Addresses whose rest has not ended.
    pub resting: Vec<Ipv4Addr>,
}

/// How long a note of a pod without an address counts (safety rule UP5).
const WANTED: Duration = Duration::from_mins(1);

/// The store's flock. Whoever has it may replace and remove names (safety rule ST1).
#[derive(Debug)]
struct Lock(File);

impl Store {
    /// The store in `folder`, as seen in this boot. Touches nothing.
    #[must_use]
    pub fn at(folder: &Path, boot: BootId) -> Self {
        Self { folder: folder.to_owned(), boot, patience: LOCK_WAIT }
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The boot.
    #[must_use]
    pub fn boot(&self) -> &BootId {
        &self.boot
    }

    /// The state of one address; `None` where it has no file.
    ///
    /// # Errors
    /// The file is there and cannot be read.
    pub fn read(&self, address: Ipv4Addr) -> Result<Option<Entry>, FileError> {
        match files::read(&self.lease_path(address)) {
            // Whatever a stranger put there, it occupies the address.
            Err(error) if error.source.kind() == ErrorKind::IsADirectory => Ok(Some(Entry::read(address, &[]))),
            bytes => Ok(bytes?.map(|bytes| Entry::read(address, &bytes))),
        }
    }

    /// For how long an address's file has been as it is; `None` where it has no file.
    ///
    /// # Errors
    /// The file is there and cannot be looked at.
    pub fn age(&self, address: Ipv4Addr) -> Result<Option<Duration>, FileError> {
        let written = files::written(&self.lease_path(address))?;
        Ok(written.map(|written| SystemTime::now().duration_since(written).unwrap_or_default()))
    }

    /// All addresses that have a file, ascending. A store that is not there has none.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn list(&self) -> Result<Vec<(Ipv4Addr, Entry)>, FileError> {
        let mut entries = Vec::new();
        for name in files::names(&self.folder.join("lease"))? {
            let Ok(address) = name.parse() else { continue };
            entries.extend(self.read(address)?.map(|entry| (address, entry)));
        }
        entries.sort_unstable_by_key(|(address, _)| *address);
        Ok(entries)
    }

    /// The agent's pool, if it counts: sealed, of this boot and this store.
    ///
    /// # Errors
    /// See [`PoolError`].
    pub fn pool(&self) -> Result<Pool, PoolError> {
        Ok(self.offer(&Supply::default())?.pool)
    }

    /// Notes that a pod found no address (safety rule UP5). A store that is not there takes no notes.
    ///
    /// # Errors
    /// The note cannot be written.
    pub fn want(&self, pod: &PodUid) -> Result<(), FileError> {
        files::note(&self.folder.join("want").join(pod.as_str()), &format!("{} {}\n", self.boot, self.now().as_millis()))
    }

    /// Pods that found no address in the last 60 s and still have none.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn wants(&self) -> Result<Vec<PodUid>, FileError> {
        let held: Vec<PodUid> = self.list()?.into_iter().filter_map(|(_, entry)| pod_of(entry)).collect();
        let mut wants = Vec::new();
        for name in files::names(&self.folder.join("want"))? {
            let Ok(pod) = name.parse() else { continue };
            if self.is_wanted(&name)? && !held.contains(&pod) {
                wants.push(pod);
            }
        }
        Ok(wants)
    }

    /// The addresses by state. Without a pool, `total` and `free` are 0.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn counts(&self) -> Result<Counts, FileError> {
        Ok(self.census()?.counts)
    }

    /// The addresses and their number by state, of one look: commands go on meanwhile, and one address must not count twice.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn census(&self) -> Result<Census, FileError> {
        self.census_in(self.pool().ok().as_ref())
    }

    fn census_in(&self, pool: Option<&Pool>) -> Result<Census, FileError> {
        let cool_down = pool.map_or(Duration::MAX, |pool| pool.cool_down);
        let now = self.now();
        let mut counts = Counts::default();
        let (mut taken, mut resting) = (0, Vec::new());
        let entries = self.list()?;
        for (address, entry) in &entries {
            let is_free = entry.is_free(&self.boot, now, cool_down);
            match entry {
                Entry::Leased(_) => counts.leased += 1,
                Entry::Cooling(_) if is_free => {}
                Entry::Cooling(_) => {
                    counts.cooling += 1;
                    resting.push(*address);
                }
                Entry::Quarantined(_) => counts.quarantined += 1,
                Entry::Unreadable(_) => counts.unreadable += 1,
            }
            taken += usize::from(!is_free && pool.is_some_and(|pool| pool.find(*address).is_some()));
        }
        counts.total = pool.map_or(0, |pool| pool.addresses().len());
        counts.free = counts.total.saturating_sub(taken);
        Ok(Census { entries, counts, resting })
    }

    /// `CLOCK_BOOTTIME`.
    #[must_use]
    pub fn now(&self) -> BootTime {
        BootTime::from_millis(u64::try_from(clock::since_boot().as_millis()).unwrap_or_default())
    }

    fn lease_path(&self, address: Ipv4Addr) -> PathBuf {
        self.folder.join(format!("lease/{address}"))
    }

    fn index_path(&self, hash: AttachmentHash) -> PathBuf {
        self.folder.join(format!("by/{hash}"))
    }

    fn index_path_of(&self, attachment: &Attachment) -> PathBuf {
        self.index_path(attachment.hash())
    }

    /// Takes the lock. Where its file was replaced meanwhile, takes the one that is in place (safety rule ST1).
    fn lock(&self) -> Result<Lock, HoldError> {
        let path = self.folder.join("lock");
        loop {
            let file = files::open_or_create(&path).map_err(HoldError::File)?;
            if !files::wait_for(&file, &path, self.patience).map_err(HoldError::File)? {
                return Err(HoldError::Busy { path });
            }
            let mine = files::inode_of(&file, &path).map_err(HoldError::File)?;
            if files::inode(&path).map_err(HoldError::File)? == Some(mine) {
                return Ok(Lock(file));
            }
        }
    }

    fn is_wanted(&self, name: &str) -> Result<bool, FileError> {
        let note = files::read(&self.folder.join("want").join(name))?.and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default();
        let Some((boot, at)) = note.trim_end().split_once(' ') else { return Ok(false) };
        let Ok(at) = at.parse().map(BootTime::from_millis) else { return Ok(false) };
        let now = self.now();
        Ok(boot == self.boot.as_str() && now >= at && now.since(at) < WANTED)
    }
}

fn pod_of(entry: Entry) -> Option<PodUid> {
    match entry {
        Entry::Leased(lease) => lease.pod?.uid,
        Entry::Cooling(_) | Entry::Quarantined(_) | Entry::Unreadable(_) => None,
    }
}
