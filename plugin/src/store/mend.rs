//! Making a store whole: leases from the kernel's links, and what dead processes left. For the agent, and for plugins where there is none.

use std::{
    collections::BTreeSet,
    fs::File,
    io::Read as _,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use azure_vnet_plugin_core::{
    attachment::{Attachment, AttachmentHash, IfName, Mode, NetnsPath, NetworkName, PodRef},
    boot::StoreId,
    lease::{Entry, Lease},
    pool::{SealOwner, Sealed},
};

use super::{FileError, Freed, HoldError, KeeperError, Lock, Store, files};

/// No record, hence occupied, for people to read.
const OCCUPIED: &str = "in a container that was there when the store was made; GC frees the address once it is gone\n";

/// No record, hence occupied, while the way to the address is taken away.
const LEFT: &str = "left by a bridged pod whose lease was lost, to rest once the kernel has nothing of it\n";

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

/// What became of one link of the kernel, or of a record of a former boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rebuilt {
    /// Its lease was there.
    Known(Ipv4Addr),
    /// Its lease was made.
    Made(Ipv4Addr),
    /// Its address has another record, left as it was.
    Conflict(Ipv4Addr, Box<Entry>),
    /// No link: a lease or a rest of a former boot, removed.
    Void(Ipv4Addr),
}

/// What a sweep removed or mended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Cooling that has ended.
    pub cooled: usize,
    /// Temporary files, stale index entries and notes.
    pub litter: usize,
    /// Index entries that were missing.
    pub indexed: usize,
}

impl Store {
    /// Makes the folders that the store lacks. One that has lost its leases is no longer whole: it loses its seal first, so that nothing is leased
    /// from it before it was rebuilt (safety rule ST3). Answers what was missing of a sealed one.
    ///
    /// # Errors
    /// See [`HoldError`].
    pub fn make_folders(&self) -> Result<Option<PathBuf>, HoldError> {
        files::make_folder(&self.folder)?;
        let lost = self.unseal_if_incomplete()?;
        for folder in ["lease", "by", "want"] {
            files::make_folder(&self.folder.join(folder))?;
        }
        Ok(lost)
    }

    fn unseal_if_incomplete(&self) -> Result<Option<PathBuf>, HoldError> {
        if self.missing_part()?.is_none() || files::inode(&self.seal_path())?.is_none() {
            return Ok(None);
        }
        let _lock = self.lock()?;
        // Another process may have made it whole meanwhile, and sealed it.
        let lost = self.missing_part()?;
        if lost.is_some() {
            files::remove(&self.seal_path())?;
        }
        Ok(lost)
    }

    /// Says that the store is whole where no agent does (safety rule ST3), after making the leases of pods that are there, and occupying
    /// addresses that are `in_use` by no one knows whom. Answers who says so: a seal of this boot stays as it is.
    ///
    /// # Errors
    /// See [`KeeperError`].
    pub fn seal_without_agent(&self, links: &[KernelLease], in_use: &BTreeSet<Ipv4Addr>) -> Result<SealOwner, KeeperError> {
        self.make_folders()?;
        let lock = self.lock()?;
        if let Ok(sealed) = self.seal() {
            return Ok(sealed.owner);
        }
        self.sweep_index(&lock, &mut Swept::default())?;
        self.rebuild(&lock, links)?;
        for address in in_use {
            files::link_new(&self.folder, &self.lease_path(*address), OCCUPIED)?;
        }
        let sealed = Sealed { store: StoreId::from_random(random()?), boot: self.boot.clone(), owner: SealOwner::Plugin };
        files::replace(&self.folder, &self.folder.join("sealed"), &sealed.print())?;
        Ok(sealed.owner)
    }

    /// Sends an address that a pod left without a lease to its rest, after `take_away` has taken what the kernel has of it, while nobody can get
    /// it. Where it cannot, the address stays occupied; one that rests, rests anew. Of an address that is leased or set aside, nothing is taken.
    /// Whether nothing of that pod's is in the way of others: it is gone, or the address is leased, and who leased it found it free.
    ///
    /// # Errors
    /// See [`HoldError`].
    pub fn clear(&self, address: Ipv4Addr, take_away: &mut dyn FnMut() -> bool) -> Result<bool, HoldError> {
        // Without a store nobody leases.
        let Some(lock) = self.lock_if_there()? else { return Ok(take_away()) };
        match self.read(address)? {
            Some(Entry::Cooling(_)) => files::replace(&self.folder, &self.lease_path(address), LEFT)?,
            Some(Entry::Leased(_) | Entry::Quarantined(_) | Entry::Unreadable(_)) => {}
            None => _ = files::link_new(&self.folder, &self.lease_path(address), LEFT)?,
        }
        drop(lock);
        let freed = self.free_if(address, &Entry::read(address, LEFT.as_bytes()), take_away)?;
        Ok(freed == Freed::Cooling || matches!(self.read(address)?, Some(Entry::Leased(_))))
    }

    /// Removes what dead processes left in a store that no agent keeps.
    ///
    /// # Errors
    /// See [`HoldError`].
    pub fn sweep_without_agent(&self) -> Result<(), HoldError> {
        let Some(lock) = self.lock_if_there()? else { return Ok(()) };
        if self.seal().is_ok_and(|sealed| sealed.owner == SealOwner::Plugin) {
            self.sweep(&lock)?;
        }
        Ok(())
    }

    /// Makes the leases of the links, and removes what a former boot left without one.
    pub(super) fn rebuild(&self, lock: &Lock, links: &[KernelLease]) -> Result<Vec<Rebuilt>, KeeperError> {
        let mut rebuilt = links.iter().map(|link| self.rebuild_one(lock, link)).collect::<Result<Vec<_>, _>>()?;
        for (address, entry) in self.list()? {
            if entry.is_void(&self.boot) {
                files::remove(&self.lease_path(address))?;
                rebuilt.push(Rebuilt::Void(address));
            }
        }
        Ok(rebuilt)
    }

    pub(super) fn sweep(&self, lock: &Lock) -> Result<Swept, FileError> {
        let mut swept = Swept::default();
        self.sweep_entries(lock, &mut swept)?;
        self.sweep_index(lock, &mut swept)?;
        swept.litter += sweep_litter(lock, &self.folder)?;
        let folder = self.folder.join("want");
        for name in files::names(&folder)? {
            if !self.is_wanted(&name)? {
                swept.litter += usize::from(files::remove(&folder.join(name))?);
            }
        }
        Ok(swept)
    }

    fn sweep_entries(&self, _: &Lock, swept: &mut Swept) -> Result<(), FileError> {
        let Ok(pool) = self.pool() else { return Ok(()) };
        for (address, entry) in self.list()? {
            if entry.is_free(&self.boot, self.now(), pool.cool_down) {
                swept.cooled += usize::from(files::remove(&self.lease_path(address))?);
            }
        }
        Ok(())
    }

    fn sweep_index(&self, _: &Lock, swept: &mut Swept) -> Result<(), FileError> {
        let mut wanted = BTreeSet::new();
        for (address, entry) in self.list()? {
            let Entry::Leased(lease) = entry else { continue };
            let (path, index) = (self.lease_path(address), self.index_path_of(&lease.attachment));
            let inode = files::inode(&path)?;
            wanted.insert(lease.attachment.hash());
            if files::inode(&index)? != inode {
                files::remove(&index)?;
                files::link(&path, &index)?;
                swept.indexed += 1;
            }
        }
        let folder = self.folder.join("by");
        for name in files::names(&folder)? {
            if !name.parse::<AttachmentHash>().is_ok_and(|hash| wanted.contains(&hash)) {
                swept.litter += usize::from(files::remove(&folder.join(name))?);
            }
        }
        Ok(())
    }

    fn rebuild_one(&self, lock: &Lock, link: &KernelLease) -> Result<Rebuilt, KeeperError> {
        let KernelLease { address, attachment, host_link, pod, network, mode, netns } = link.clone();
        let lease = Lease {
            address,
            attachment,
            pod,
            network,
            mode,
            host_link,
            netns,
            netns_cookie: None,
            boot: self.boot.clone(),
            since: self.now(),
        };
        let elsewhere = self.indexed(&lease.attachment)?.filter(|other| other.boot == lease.boot && other.address != address);
        if let Some(other) = elsewhere {
            return Ok(Rebuilt::Conflict(address, Box::new(Entry::Leased(other))));
        }
        match self.read(address)? {
            Some(entry) if entry.is_void(&lease.boot) => {}
            Some(Entry::Leased(known)) if known.attachment == lease.attachment => return Ok(Rebuilt::Known(address)),
            Some(entry @ (Entry::Leased(_) | Entry::Quarantined(_))) => return Ok(Rebuilt::Conflict(address, Box::new(entry))),
            Some(Entry::Cooling(_) | Entry::Unreadable(_)) | None => {}
        }
        match self.place(lock, &lease, &lease.print())? {
            Some(_) => Ok(Rebuilt::Made(address)),
            None => Err(KeeperError::Raced { address }),
        }
    }
}

/// Removes files that were never put in place: whoever made them under the lock is dead.
pub(super) fn sweep_litter(_: &Lock, folder: &Path) -> Result<usize, FileError> {
    let mut removed = 0;
    for name in files::names(folder)?.iter().filter(|name| name.starts_with(files::NEW)) {
        removed += usize::from(files::remove(&folder.join(name))?);
    }
    Ok(removed)
}

pub(super) fn random() -> Result<[u8; 16], FileError> {
    let path = Path::new("/dev/urandom");
    let mut bytes = [0; 16];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut bytes));
    read.map_err(|source| FileError { operation: "read", path: path.to_owned(), source })?;
    Ok(bytes)
}
