//! The agent's side of the node store: what survives a boot, the order in which addresses enter and leave the pool, and the seal.

use std::{
    collections::BTreeSet,
    fs::File,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::Duration,
};

use azure_vnet_plugin_core::{
    boot::{BootId, StoreId},
    lease::{Entry, Quarantine},
    memory::Remembered,
    pool::{Pool, PoolFacts, SealOwner, Sealed, SlotAddress, StoreRecord},
};

use super::{
    KeeperError, KernelLease, Rebuilt, Store, Swept, files,
    marker::{DurableMarker, Replacing},
    mend,
};

/// The store with its durable folder. One process at a time has it.
#[derive(Debug)]
pub struct Keeper {
    pub(super) store: Store,
    pub(super) durable: PathBuf,
    id: StoreId,
    remembered: Remembered,
    run_folder: File,
    durable_folder: File,
    _lock: File,
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

impl Adoption {
    /// Whether the revision still has the slot with that address (safety rule RE2).
    fn lists(&self, slot: SlotAddress) -> bool {
        self.slots().any(|listed| listed == slot)
    }

    fn slots(&self) -> impl Iterator<Item = SlotAddress> {
        self.addresses.iter().copied().chain(self.hold.iter().map(|marker| marker.slot))
    }
}

/// How long a program that was being started when its keeper ended may still hold the lock, before it becomes what was started.
const STRAY: Duration = Duration::from_millis(500);

impl Keeper {
    /// Opens both folders, making what is missing; a durable folder without an id gets a random one (safety rule ST9). So does one whose
    /// records are damaged: what it promised cannot be known any more, and a new id makes every acknowledgement void.
    ///
    /// # Errors
    /// See [`KeeperError`].
    pub fn open(run: &Path, durable: &Path, boot: BootId) -> Result<Self, KeeperError> {
        for folder in [durable, &durable.join("quarantine")] {
            files::make_folder(folder)?;
        }
        files::sync_parent(durable)?;
        files::sync_parent(&durable.join("quarantine"))?;
        let path = durable.join("lock");
        let lock = files::open_or_create(&path)?;
        if !files::wait_for(&lock, &path, STRAY)? {
            return Err(KeeperError::Kept { folder: durable.to_owned() });
        }
        let store = Store::at(run, boot.clone());
        store.make_folders()?;
        let id = identify(durable)?;
        // A hint: what cannot be read is nothing.
        let remembered = files::read(&durable.join("remembered"))?.and_then(|bytes| Remembered::parse(&bytes).ok());
        let remembered = remembered.unwrap_or_else(|| Remembered::none(boot.clone())).in_boot(boot);
        let (run_folder, durable_folder) = (files::open_folder(run)?, files::open_folder(durable)?);
        Ok(Self { store, durable: durable.to_owned(), id, remembered, run_folder, durable_folder, _lock: lock })
    }

    /// Makes the folders that plugins need and that are gone. Answers which of a sealed store held leases: it lost its seal with them, and is to be
    /// made whole as at a start (safety rule ST3).
    ///
    /// # Errors
    /// See [`KeeperError`].
    pub fn make_folders(&self) -> Result<Option<PathBuf>, KeeperError> {
        Ok(self.store.make_folders()?)
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
        let path = self.durable.join("pool");
        let Some(bytes) = files::read(&path)? else { return Ok(None) };
        Pool::parse(&bytes).map(Some).map_err(|source| KeeperError::Unreadable { path, source })
    }

    /// Removes what dead processes and ended rests left, and mends the index. At start, then every some seconds.
    ///
    /// # Errors
    /// See [`KeeperError`].
    pub fn sweep(&self) -> Result<Swept, KeeperError> {
        let lock = self.store.lock()?;
        let mut swept = self.store.sweep(&lock)?;
        swept.litter += mend::sweep_litter(&lock, &self.durable)?;
        Ok(swept)
    }

    /// Makes the leases of pods that are there (safety rule ST3), and removes what a former boot left without a link (safety rule ST12: a
    /// foreign boot id alone proves nothing). `links` are all of ours that the kernel has; none is a valid answer. Before sealing.
    ///
    /// # Errors
    /// See [`KeeperError`].
    pub fn rebuild_from_kernel(&self, links: &[KernelLease]) -> Result<Vec<Rebuilt>, KeeperError> {
        let lock = self.store.lock()?;
        self.store.rebuild(&lock, links)
    }

    /// Adopts a revision, in the order of safety rules ST7 and ST8, and drops the markers of addresses that left it. Answers what plugins see.
    ///
    /// # Errors
    /// See [`KeeperError`].
    pub fn adopt(&self, adoption: &Adoption) -> Result<Pool, KeeperError> {
        let pool = Pool::new(self.store.boot.clone(), self.id.clone(), adoption.facts.clone(), adoption.addresses.iter().copied());
        let adopted = self.adopted()?;
        pool.may_follow(adopted.as_ref()).map_err(KeeperError::Regressed)?;
        for marker in &adoption.hold {
            // Whoever has the address keeps it; the pool leaves it out, and `quarantine` says why it is refused.
            let _ = self.place_marker(marker, Replacing::Free)?;
        }
        if adopted.as_ref() != Some(&pool) {
            files::replace_durably(&self.durable, &self.durable.join("pool"), &pool.print())?;
        }
        let offer = self.offer(&pool, adoption)?;
        for (address, marker) in self.durable_markers()? {
            let is_listed = match marker {
                DurableMarker::Whole(marker) => adoption.lists(marker.slot),
                DurableMarker::Unreadable => adoption.slots().any(|slot| slot.address == address),
            };
            if !is_listed {
                files::remove_durably(&self.marker_path(address))?;
            }
        }
        Ok(offer)
    }

    /// Writes down which pod has which address, for the next boot (safety rule ST13); `pods` are those that the node has, once known. Now and
    /// then: nothing waits for it. Whether the pool in place has something to forget: it is put in place anew by the next adoption.
    ///
    /// # Errors
    /// See [`KeeperError`].
    pub fn remember(&mut self, entries: &[(Ipv4Addr, Entry)], pods: Option<&BTreeSet<String>>) -> Result<bool, KeeperError> {
        let remembered = self.remembered.looked(entries, pods);
        if remembered == self.remembered {
            return Ok(false);
        }
        files::replace_durably(&self.durable, &self.durable.join("remembered"), &remembered.print())?;
        let is_less = remembered.former() != self.remembered.former();
        self.remembered = remembered;
        Ok(is_less)
    }

    /// Says that the store is whole.
    ///
    /// # Errors
    /// See [`KeeperError`].
    pub fn seal(&self, owner: SealOwner) -> Result<(), KeeperError> {
        self.health()?;
        let _lock = self.store.lock()?;
        let pool = files::read(&self.store.folder.join("pool"))?.and_then(|bytes| Pool::parse(&bytes).ok());
        if !pool.is_some_and(|pool| pool.boot == self.store.boot && pool.store == self.id) {
            return Err(KeeperError::NoPool);
        }
        let sealed = Sealed { store: self.id.clone(), boot: self.store.boot.clone(), owner };
        Ok(files::replace(&self.store.folder, &self.store.folder.join("sealed"), &sealed.print())?)
    }

    /// Takes the seal back: no ADD until the next.
    ///
    /// # Errors
    /// See [`KeeperError`].
    pub fn unseal(&self) -> Result<(), KeeperError> {
        let _lock = self.store.lock()?;
        files::remove(&self.store.folder.join("sealed"))?;
        Ok(())
    }

    /// Whether ADD may lease.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        self.store.pool().is_ok_and(|pool| pool.store == self.id)
    }

    /// Whether both folders are the ones that were opened (safety rule ST12).
    ///
    /// # Errors
    /// See [`KeeperError`].
    pub fn health(&self) -> Result<(), KeeperError> {
        for (file, folder) in [(&self.run_folder, &self.store.folder), (&self.durable_folder, &self.durable)] {
            if !files::is_linked(file, folder)? || files::inode(folder)? != Some(files::inode_of(file, folder)?) {
                return Err(KeeperError::Replaced { folder: folder.clone() });
            }
        }
        Ok(())
    }

    /// Under one lock: puts the pool in place without what is set aside, then drops the run markers of addresses that left.
    fn offer(&self, pool: &Pool, adoption: &Adoption) -> Result<Pool, KeeperError> {
        let _lock = self.store.lock()?;
        let run = self.run_markers()?;
        let mut withheld: BTreeSet<Ipv4Addr> = adoption.hold.iter().map(|marker| marker.slot.address).collect();
        withheld.extend(run.iter().map(|marker| marker.slot).filter(|slot| adoption.lists(*slot)).map(|slot| slot.address));
        for (address, marker) in self.durable_markers()? {
            match marker {
                DurableMarker::Whole(marker) if !adoption.lists(marker.slot) => {}
                DurableMarker::Whole(_) | DurableMarker::Unreadable => _ = withheld.insert(address),
            }
        }
        let offer = pool.offering(&adoption.offered, &withheld).remembering(self.remembered.former());
        files::replace(&self.store.folder, &self.store.folder.join("pool"), &offer.print())?;
        for marker in run.iter().filter(|marker| !adoption.lists(marker.slot)) {
            files::remove(&self.store.lease_path(marker.slot.address))?;
        }
        Ok(offer)
    }
}

/// Reads the folder's id, or gives it one where it has none that can be relied on.
fn identify(durable: &Path) -> Result<StoreId, KeeperError> {
    let (id, pool) = (durable.join("id"), durable.join("pool"));
    let known = files::read(&id)?.and_then(|bytes| StoreRecord::parse(&bytes).ok());
    let is_damaged = files::read(&pool)?.is_some_and(|bytes| Pool::parse(&bytes).is_err());
    match known {
        Some(StoreRecord { store }) if !is_damaged => Ok(store),
        Some(_) | None => {
            let store = StoreId::from_random(mend::random()?);
            files::replace_durably(durable, &id, &StoreRecord { store: store.clone() }.print())?;
            if is_damaged {
                files::remove_durably(&pool)?;
            }
            Ok(store)
        }
    }
}
