//! Addresses that are set aside for giving back: a run marker that plugins meet, and a durable one that outlives the boot (safety rule ST6).

use std::{collections::BTreeSet, net::Ipv4Addr, path::PathBuf};

use azure_vnet_plugin_core::{
    lease::{Entry, Quarantine},
    pool::SlotAddress,
};

use super::{FileError, Keeper, KeeperError, KernelUse, files};

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
    /// Run record or durable marker cannot be read: not offered until withdrawn or set aside again, and nothing to acknowledge.
    pub unreadable: Vec<Ipv4Addr>,
}

/// What a run marker may take the place of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Replacing {
    /// Nothing, or a rest that has ended.
    Free,
    /// A rest too: the address was set aside before this boot or this process.
    Rest,
}

/// A durable marker as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum DurableMarker {
    Whole(Quarantine),
    Unreadable,
}

impl Keeper {
    /// Completes or drops what is half set aside (safety rule ST6). After the rebuild, before the first adoption.
    ///
    /// # Errors
    /// See [`KeeperError`].
    pub fn restore_after_start(&self, kernel: &mut dyn FnMut(Ipv4Addr) -> KernelUse) -> Result<Restored, KeeperError> {
        let mut restored = Restored::default();
        let run = self.run_markers()?;
        let held: BTreeSet<Ipv4Addr> = run.iter().map(|marker| marker.slot.address).collect();
        let mut markers = run;
        for (address, marker) in self.durable_markers()? {
            match marker {
                DurableMarker::Whole(marker) if !held.contains(&address) => markers.push(marker),
                DurableMarker::Whole(_) => {}
                DurableMarker::Unreadable => restored.unreadable.push(address),
            }
        }
        for marker in markers {
            let address = marker.slot.address;
            if matches!(self.store.read(address)?, Some(Entry::Unreadable(_))) {
                // It may be the run marker itself: the durable one stays until someone says whose the address is.
                restored.unreadable.push(address);
                continue;
            }
            match self.complete(&marker, Replacing::Rest, kernel)? {
                Quarantining::Done => restored.quarantined.push(marker),
                Quarantining::Refused(_) => restored.refused.push(marker),
            }
        }
        Ok(restored)
    }

    /// Sets an address aside that is all of its slot, in the order of safety rule ST6. Repeating it is harmless.
    ///
    /// # Errors
    /// See [`KeeperError`]; it may be half done, which a repetition or a start mends.
    pub fn quarantine(&self, marker: &Quarantine, kernel: &mut dyn FnMut(Ipv4Addr) -> KernelUse) -> Result<Quarantining, KeeperError> {
        self.quarantine_of(marker, &BTreeSet::from([marker.slot]), kernel)
    }

    /// The same of a slot with several addresses, of which the adopted pool may lack some: `whole` is all that the release names of the slot.
    ///
    /// # Errors
    /// As [`Keeper::quarantine`].
    pub fn quarantine_of(
        &self,
        marker: &Quarantine,
        whole: &BTreeSet<SlotAddress>,
        kernel: &mut dyn FnMut(Ipv4Addr) -> KernelUse,
    ) -> Result<Quarantining, KeeperError> {
        if let Some(why) = self.contradiction(marker.slot, whole)? {
            return Ok(Quarantining::Refused(why));
        }
        self.complete(marker, Replacing::Free, kernel)
    }

    /// Takes an address back into use: durable marker, then run marker (safety rule ST7). The next adoption offers it.
    ///
    /// # Errors
    /// See [`KeeperError`].
    pub fn withdraw(&self, slot: SlotAddress) -> Result<(), KeeperError> {
        let durable = self.durable_marker(slot.address)?;
        match durable {
            Some(DurableMarker::Whole(marker)) if marker.slot != slot => {}
            Some(DurableMarker::Whole(_) | DurableMarker::Unreadable) => _ = files::remove_durably(&self.marker_path(slot.address))?,
            None => {}
        }
        self.remove_run_marker(slot)
    }

    /// All addresses of which both records are in place: what may be acknowledged.
    ///
    /// # Errors
    /// See [`KeeperError`].
    pub fn quarantined(&self) -> Result<Vec<Quarantine>, KeeperError> {
        let mut both = Vec::new();
        for marker in self.run_markers()? {
            if self.durable_marker(marker.slot.address)? == Some(DurableMarker::Whole(marker.clone())) {
                both.push(marker);
            }
        }
        Ok(both)
    }

    /// Every slot with either record: what pods do not get until it is withdrawn (safety rule RE8). A durable marker that cannot be read
    /// counts for the slot that the adopted pool has with its address.
    ///
    /// # Errors
    /// See [`KeeperError`].
    pub fn set_aside(&self) -> Result<BTreeSet<SlotAddress>, KeeperError> {
        let mut slots: BTreeSet<SlotAddress> = self.run_markers()?.into_iter().map(|marker| marker.slot).collect();
        let adopted = self.adopted()?;
        slots.extend(self.durable_markers()?.into_iter().filter_map(|(address, marker)| match marker {
            DurableMarker::Whole(marker) => Some(marker.slot),
            DurableMarker::Unreadable => adopted.as_ref()?.find(address),
        }));
        Ok(slots)
    }

    /// Links the run marker, unless someone has the address. Answers the reason where someone has.
    pub(super) fn place_marker(&self, marker: &Quarantine, replacing: Replacing) -> Result<Option<String>, KeeperError> {
        let address = marker.slot.address;
        let lock = self.store.lock()?;
        let (there, path) = (self.store.read(address)?, self.store.lease_path(address));
        if let Some(entry) = &there
            && !self.may_replace(entry, marker, replacing)
        {
            return Ok(Some(entry.to_string()));
        }
        let is_placed = match there {
            // A removal that outlives its release says nothing new about who asked.
            Some(Entry::Quarantined(there)) if there == *marker || (marker.release.id == 0 && there.slot == marker.slot) => true,
            Some(_) => files::replace(&self.store.folder, &path, &marker.print()).map(|()| true)?,
            None => files::link_new(&self.store.folder, &path, &marker.print())?,
        };
        drop(lock);
        Ok((!is_placed).then(|| "its record appeared while the store was locked".to_owned()))
    }

    fn may_replace(&self, there: &Entry, marker: &Quarantine, replacing: Replacing) -> bool {
        match there {
            Entry::Quarantined(there) => there.slot.address == marker.slot.address,
            Entry::Cooling(_) if replacing == Replacing::Rest => true,
            Entry::Cooling(rest) => self.store.pool().is_ok_and(|pool| rest.has_ended(&self.store.boot, self.store.now(), pool.cool_down)),
            Entry::Leased(_) | Entry::Unreadable(_) => false,
        }
    }

    /// The markers that plugins meet.
    pub(super) fn run_markers(&self) -> Result<Vec<Quarantine>, FileError> {
        let marker = |(_, entry)| match entry {
            Entry::Quarantined(marker) => Some(marker),
            Entry::Leased(_) | Entry::Cooling(_) | Entry::Unreadable(_) => None,
        };
        Ok(self.store.list()?.into_iter().filter_map(marker).collect())
    }

    /// The markers that outlive a boot, by address.
    pub(super) fn durable_markers(&self) -> Result<Vec<(Ipv4Addr, DurableMarker)>, FileError> {
        let mut markers = Vec::new();
        for name in files::names(&self.durable.join("quarantine"))? {
            let Ok(address) = name.parse() else { continue };
            markers.extend(self.durable_marker(address)?.map(|marker| (address, marker)));
        }
        Ok(markers)
    }

    pub(super) fn marker_path(&self, address: Ipv4Addr) -> PathBuf {
        self.durable.join(format!("quarantine/{address}"))
    }

    fn durable_marker(&self, address: Ipv4Addr) -> Result<Option<DurableMarker>, FileError> {
        let Some(bytes) = files::read(&self.marker_path(address))? else { return Ok(None) };
        match Entry::read(address, &bytes) {
            Entry::Quarantined(marker) => Ok(Some(DurableMarker::Whole(marker))),
            Entry::Leased(_) | Entry::Cooling(_) | Entry::Unreadable(_) => Ok(Some(DurableMarker::Unreadable)),
        }
    }

    /// Run marker, kernel, durable marker; or neither.
    fn complete(
        &self,
        marker: &Quarantine,
        replacing: Replacing,
        kernel: &mut dyn FnMut(Ipv4Addr) -> KernelUse,
    ) -> Result<Quarantining, KeeperError> {
        let address = marker.slot.address;
        let refusal = match self.place_marker(marker, replacing)? {
            Some(why) => Some(why),
            None => match kernel(address) {
                KernelUse::Free => None,
                KernelUse::Used(by) => Some(by),
                KernelUse::Unknown(why) => return Err(KeeperError::Kernel { address, why }),
            },
        };
        if let Some(why) = refusal {
            files::remove_durably(&self.marker_path(address))?;
            self.remove_run_marker(marker.slot)?;
            return Ok(Quarantining::Refused(why));
        }
        if self.durable_marker(address)? != Some(DurableMarker::Whole(marker.clone())) {
            files::replace_durably(&self.durable, &self.marker_path(address), &marker.print())?;
        }
        Ok(Quarantining::Done)
    }

    fn remove_run_marker(&self, slot: SlotAddress) -> Result<(), KeeperError> {
        let lock = self.store.lock()?;
        if let Some(Entry::Quarantined(there)) = self.store.read(slot.address)?
            && there.slot == slot
        {
            files::remove(&self.store.lease_path(slot.address))?;
        }
        drop(lock);
        Ok(())
    }

    /// Whether the adopted pool knows the slot by an address that the release does not name, or the address by another slot (safety rule RE2).
    fn contradiction(&self, slot: SlotAddress, whole: &BTreeSet<SlotAddress>) -> Result<Option<String>, KeeperError> {
        let Some(adopted) = self.adopted()?.filter(|adopted| adopted.find(slot.address) != Some(slot)) else { return Ok(None) };
        let differs = |known: &SlotAddress| known.address == slot.address || (known.slot == slot.slot && !whole.contains(known));
        let other = adopted.addresses().iter().find(|known| differs(known));
        Ok(other.map(|known| format!("the adopted pool has {known}, and the release names {slot}")))
    }
}
