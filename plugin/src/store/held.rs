//! A lease in the hands of one process, and the ways in which it ends.

use std::{fs::File, io::ErrorKind, net::Ipv4Addr, path::Path};

use azure_vnet_plugin_core::{
    attachment::{Attachment, AttachmentHash},
    lease::{Cooling, Entry, Lease},
    queue::FreeQueue,
};

use super::{FileError, Freed, Granted, HoldError, LeaseError, Lock, Store, files};

/// Whether this process made the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It did.
    Created,
    /// It was there.
    Found,
}

/// A lease on whose inode this process has the flock (safety rule CM1), until this value is dropped.
#[derive(Debug)]
pub struct Held<'a> {
    store: &'a Store,
    lease: Lease,
    /// The lease as its file has it.
    record: Vec<u8>,
    file: File,
    origin: Origin,
}

impl Store {
    /// Finds and holds the attachment's lease, waiting for a command that holds it (safety rule CM1).
    ///
    /// # Errors
    /// See [`HoldError`].
    pub fn find(&self, attachment: &Attachment) -> Result<Option<Held<'_>>, HoldError> {
        let path = self.index_path_of(attachment);
        loop {
            let Some(file) = files::open(&path)? else { return Ok(None) };
            if !files::wait_for(&file, &path, self.patience)? {
                return Err(HoldError::Busy { path });
            }
            if !self.is_at(&file, &path)? {
                continue;
            }
            if let Some((lease, record)) = self.lease_in(&file, attachment)? {
                return Ok(Some(Held::new(self, lease, record, file, Origin::Found)));
            }
            // Left by a process that died between index and lease: its flock is ours, so no one will complete it.
            let _lock = self.lock_if_there()?;
            self.remove_index(attachment.hash(), &file)?;
            return Ok(None);
        }
    }

    /// Sends a lease or an unreadable record to cooling if, under the locks, it is still the `seen` one (GC, agent; safety rules ST1 and CM4).
    /// `still_gone` is asked once the record's own lock is held: what the kernel showed before may have been a command that held it.
    ///
    /// # Errors
    /// See [`HoldError`].
    pub fn free_if(&self, address: Ipv4Addr, seen: &Entry, still_gone: &mut dyn FnMut() -> bool) -> Result<Freed, HoldError> {
        let previous = match seen {
            Entry::Leased(lease) => Some(lease.attachment.hash()),
            Entry::Unreadable(_) => None,
            Entry::Cooling(_) | Entry::Quarantined(_) => return Ok(Freed::Changed),
        };
        let path = self.lease_path(address);
        let file = match files::open(&path) {
            // A stranger's folder is no record, and stays.
            Err(error) if error.source.kind() == ErrorKind::IsADirectory => return Ok(Freed::Changed),
            file => file?,
        };
        let Some(file) = file else { return Ok(Freed::Changed) };
        if !files::wait_for(&file, &path, self.patience)? {
            return Err(HoldError::Busy { path });
        }
        // Before the kernel is asked, which may also take from it what is left: of another's address nothing is to go.
        if self.read(address)?.as_ref() != Some(seen) || !still_gone() {
            return Ok(Freed::Changed);
        }
        let Some(lock) = self.lock_if_there()? else { return Ok(Freed::Changed) };
        if !self.is_at(&file, &path)? || self.read(address)?.as_ref() != Some(seen) {
            return Ok(Freed::Changed);
        }
        self.cool_down(&lock, address, previous, &file)?;
        Ok(Freed::Cooling)
    }

    /// The attachment's lease by the index.
    pub(super) fn indexed(&self, attachment: &Attachment) -> Result<Option<Lease>, FileError> {
        match files::open(&self.index_path_of(attachment))? {
            Some(file) => Ok(self.lease_in(&file, attachment)?.map(|(lease, _)| lease)),
            None => Ok(None),
        }
    }

    /// The attachment's lease and its record, if `file` is one. The address's own name decides: an index that leads to anything else is of the past.
    fn lease_in(&self, file: &File, attachment: &Attachment) -> Result<Option<(Lease, Vec<u8>)>, FileError> {
        let bytes = files::read_whole(file, &self.index_path_of(attachment))?;
        let Ok(Entry::Leased(lease)) = Entry::parse(&bytes) else { return Ok(None) };
        let is_current = lease.attachment == *attachment && self.is_at(file, &self.lease_path(lease.address))?;
        Ok(is_current.then_some((lease, bytes)))
    }

    /// Whether `file` is what `path` names.
    pub(super) fn is_at(&self, file: &File, path: &Path) -> Result<bool, FileError> {
        debug_assert!(path.starts_with(&self.folder));
        Ok(files::inode(path)? == Some(files::inode_of(file, path)?))
    }

    /// Removes an index entry if it leads to `file`.
    pub(super) fn remove_index(&self, hash: AttachmentHash, file: &File) -> Result<(), FileError> {
        let index = self.index_path(hash);
        if self.is_at(file, &index)? {
            files::remove(&index)?;
        }
        Ok(())
    }

    /// Replaces the record in `file` by a rest, in one step. On a full file system the rest is written over it.
    fn cool_down(&self, lock: &Lock, address: Ipv4Addr, previous: Option<AttachmentHash>, file: &File) -> Result<(), FileError> {
        let path = self.lease_path(address);
        let rest = Cooling { address, previous, boot: self.boot.clone(), since: self.now() }.print();
        match files::replace(&self.folder, &path, &rest) {
            Ok(()) => {}
            Err(error) if error.is_full() => files::overwrite(file, &path, &rest)?,
            Err(error) => return Err(error),
        }
        lock.requeue(|queue| queue.push_last(address));
        match previous {
            Some(hash) => self.remove_index(hash, file),
            None => Ok(()),
        }
    }

    /// A store that is gone has nothing to lock.
    pub(super) fn lock_if_there(&self) -> Result<Option<Lock>, HoldError> {
        match self.lock() {
            Ok(lock) => Ok(Some(lock)),
            Err(HoldError::File(error)) if error.source.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Granted<'_> {
    /// The last act before ADD answers: the address still is this lease's, and the store still is sealed (safety rule ST3).
    ///
    /// # Errors
    /// It is not: undo the wiring, roll back, answer code 11.
    pub fn confirm(&self) -> Result<(), LeaseError> {
        let Held { store, lease, .. } = &self.held;
        if !store.is_sealed_as(&self.seal)? {
            store.find_seal()?;
        }
        if self.held.is_mine()? { Ok(()) } else { Err(LeaseError::Lost { address: lease.address }) }
    }
}

impl<'a> Held<'a> {
    pub(super) fn new(store: &'a Store, lease: Lease, record: Vec<u8>, file: File, origin: Origin) -> Self {
        Self { store, lease, record, file, origin }
    }

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

    /// Frees the address at once if this process made the lease and no one replaced it; else does nothing (safety rule CM1).
    ///
    /// # Errors
    /// See [`HoldError`].
    pub fn rollback(self) -> Result<(), HoldError> {
        match self.origin {
            Origin::Found => Ok(()),
            Origin::Created => self.remove(FreeQueue::push_first),
        }
    }

    /// As [`Self::rollback`], of an address that turned out to be in use: like one that a look-up shows in use, it comes back to the order of
    /// the free ones when that is made anew.
    ///
    /// # Errors
    /// See [`HoldError`].
    pub fn reject(self) -> Result<(), HoldError> {
        match self.origin {
            Origin::Found => Ok(()),
            Origin::Created => self.remove(|_, _| {}),
        }
    }

    /// Sends the address to cooling, after the kernel's part is gone (safety rule CM2).
    ///
    /// # Errors
    /// See [`HoldError`]; the lease stands.
    pub fn cool(self) -> Result<Freed, HoldError> {
        let Some(lock) = self.store.lock_if_there()? else { return Ok(Freed::Changed) };
        let hash = self.lease.attachment.hash();
        if !self.is_mine()? {
            self.store.remove_index(hash, &self.file)?;
            return Ok(Freed::Changed);
        }
        self.store.cool_down(&lock, self.lease.address, Some(hash), &self.file)?;
        Ok(Freed::Cooling)
    }

    fn remove(self, requeue: impl FnOnce(&mut FreeQueue, Ipv4Addr)) -> Result<(), HoldError> {
        let Some(lock) = self.store.lock_if_there()? else { return Ok(()) };
        if self.is_mine()? {
            files::remove(&self.store.lease_path(self.lease.address))?;
            lock.requeue(|queue| requeue(queue, self.lease.address));
        }
        Ok(self.store.remove_index(self.lease.attachment.hash(), &self.file)?)
    }

    /// Whether the address's name still leads to the file that this process holds, and that file still says what it said.
    fn is_mine(&self) -> Result<bool, FileError> {
        let path = self.store.lease_path(self.lease.address);
        if !self.store.is_at(&self.file, &path)? {
            return Ok(false);
        }
        Ok(files::read_whole(&self.file, &path)? == self.record)
    }
}
