//! How an attachment gets an address: a candidate under the lock, the kernel's word outside of it, and the link under the lock again.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::ErrorKind,
    net::Ipv4Addr,
    os::unix::fs::FileExt as _,
    path::Path,
    time::Duration,
};

use azure_vnet_plugin_core::{
    attachment::{Attachment, IfName, Mode, NetnsPath, NetworkName, PodRef},
    lease::{Entry, Lease},
    pool::Pool,
    queue::FreeQueue,
};

use super::{
    FileError, Held, LeaseError, Lock, Origin, PoolError, Store, Supply, files,
    supply::{Offer, Seal},
};
use crate::small;

/// Addresses that others took between choosing and linking, before ADD gives up: far more than there are addresses.
const MOST_LOSSES: usize = 1024;
/// What the kernel says of a candidate (safety rule ST4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KernelUse {
    /// No trace of it that would be in a pod's way.
    Free,
    /// Someone uses it: what, in words for the log.
    Used(String),
    /// The kernel did not answer: nothing is given, and nothing given up, on that.
    Unknown(String),
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
    /// Which pools may serve it.
    pub supply: Supply,
    /// Not these: found in use while wiring, by what, in words.
    pub avoid: BTreeMap<Ipv4Addr, String>,
}

/// A lease, and the pool it came from.
#[derive(Debug)]
pub struct Granted<'a> {
    /// The lease.
    pub held: Held<'a>,
    /// Prefix, gateway, MTU.
    pub pool: Pool,
    /// What was skipped for it and why, in words for the log (safety rule ST4).
    pub skipped: Vec<String>,
    pub(super) seal: Seal,
}

/// Addresses that are not to be given, and who uses them, in words.
type Skip = BTreeMap<Ipv4Addr, String>;

/// How far a search of the queue goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Patience {
    UntilOneRests,
    All,
}

/// What became of a candidate under the lock.
enum Commit<'a> {
    Granted(Box<Granted<'a>>),
    Taken,
    AlreadyHeld,
}

impl Store {
    /// Gives the attachment the lease that it has, else a new one. `kernel` is asked outside the lock (safety rule ST4).
    ///
    /// # Errors
    /// See [`LeaseError`].
    pub fn lease(&self, request: &LeaseRequest, kernel: &mut dyn FnMut(Ipv4Addr) -> KernelUse) -> Result<Granted<'_>, LeaseError> {
        let mut skip = request.avoid.clone();
        let mut skipped = Vec::new();
        for _ in 0..MOST_LOSSES {
            if let Some(granted) = self.granted_before(request)? {
                return Ok(granted);
            }
            let (address, offer) = self.choose(request, &skip)?;
            match kernel(address) {
                KernelUse::Free => {}
                KernelUse::Used(by) if request.requested.is_some() => return Err(LeaseError::RequestedTaken { address, by }),
                KernelUse::Used(by) => {
                    skip.insert(address, by.clone());
                    skipped.push(by);
                    continue;
                }
                KernelUse::Unknown(why) => {
                    if let Ok(Some(lock)) = self.lock_if_there() {
                        lock.requeue(|queue| queue.push_first(address));
                    }
                    return Err(LeaseError::Kernel { address, why });
                }
            }
            match self.commit(request, address, offer)? {
                Commit::Granted(granted) => return Ok(Granted { skipped, ..*granted }),
                Commit::Taken | Commit::AlreadyHeld => {}
            }
        }
        Err(LeaseError::Outrun { tries: MOST_LOSSES })
    }

    fn granted_before(&self, request: &LeaseRequest) -> Result<Option<Granted<'_>>, LeaseError> {
        let Some(held) = self.find(&request.attachment)?.filter(|held| held.lease().boot == self.boot) else { return Ok(None) };
        match request.requested {
            Some(address) if address != held.lease().address => Err(LeaseError::RequestedOther { address, has: held.lease().address }),
            Some(_) | None => {
                let Offer { pool, seal, .. } = self.offer_around(held.lease().address, &request.supply)?;
                Ok(Some(Granted { held, pool, skipped: Vec::new(), seal }))
            }
        }
    }

    /// Picks an address, and takes it out of the queue, so that the next caller looks at another. The pool is read before the lock is taken: what
    /// changes meanwhile is seen when the address is linked (safety rule ST2).
    fn choose(&self, request: &LeaseRequest, skip: &Skip) -> Result<(Ipv4Addr, Offer), LeaseError> {
        self.choose_from(self.offer(&request.supply)?, request, skip)
    }

    /// Picks of an offer that was read a moment ago. Where it is to be refused, and the pool was replaced since, that one decides.
    pub(super) fn choose_from(&self, mut offer: Offer, request: &LeaseRequest, skip: &Skip) -> Result<(Ipv4Addr, Offer), LeaseError> {
        let lock = self.lock_if_there()?.ok_or_else(|| self.not_sealed())?;
        let mut found = self.candidate(&lock, &offer, request, skip);
        if !matches!(found, Ok(Some(_))) && !self.is_as_offered(&offer)? {
            offer = self.offer(&request.supply)?;
            found = self.candidate(&lock, &offer, request, skip);
        }
        drop(lock);
        match found? {
            Some(address) => Ok((address, offer)),
            None => {
                Err(LeaseError::Exhausted { counts: self.census_in(Some(&offer.pool))?.counts, in_use: skip.values().cloned().collect() })
            }
        }
    }

    /// The requested address, else the one longest free by the store; none if none is free.
    fn candidate(&self, lock: &Lock, offer: &Offer, request: &LeaseRequest, skip: &Skip) -> Result<Option<Ipv4Addr>, LeaseError> {
        let Some(address) = request.requested else { return Ok(self.preferred(lock, offer, request, skip)?) };
        let pool = &offer.pool;
        if pool.find(address).is_none() {
            return Err(LeaseError::RequestedForeign { address });
        }
        if let Some(entry) = self.read(address)?.filter(|entry| !entry.is_free(&self.boot, self.now(), pool.cool_down)) {
            return Err(LeaseError::RequestedTaken { address, by: entry.to_string() });
        }
        lock.requeue(|queue| queue.remove(address));
        Ok(Some(address))
    }

    /// Takes what the pod had before the boot, else the address longest free, those that other pods had before the boot last (safety rule ST13).
    fn preferred(&self, lock: &Lock, offer: &Offer, request: &LeaseRequest, skip: &Skip) -> Result<Option<Ipv4Addr>, FileError> {
        let pool = &offer.pool;
        let last: BTreeSet<Ipv4Addr> = pool.remembered().collect();
        let is_skipped = |address: &Ipv4Addr| skip.contains_key(address);
        if last.is_empty() {
            return self.longest_free(lock, offer, &is_skipped);
        }
        let own = request.pod.as_ref().and_then(|pod| pod.uid.as_ref()).and_then(|uid| pool.remembered_of(uid));
        if let Some(own) = own.filter(|own| !is_skipped(own))
            && self.is_free(own, pool)?
        {
            lock.requeue(|queue| queue.remove(own));
            return Ok(Some(own));
        }
        match self.longest_free(lock, offer, &|address| is_skipped(address) || last.contains(address))? {
            Some(address) => Ok(Some(address)),
            None => self.longest_free(lock, offer, &is_skipped),
        }
    }

    /// Takes the address longest free out of the queue. Only a queue of another pool, or one that has none, costs a look at all leases.
    fn longest_free(&self, lock: &Lock, offer: &Offer, is_skipped: &dyn Fn(&Ipv4Addr) -> bool) -> Result<Option<Ipv4Addr>, FileError> {
        let mut queue = lock.queue();
        let mut first = None;
        if queue.is_of(offer.stamp()) {
            first = self.first_free(&queue, &offer.pool, is_skipped, Patience::UntilOneRests)?;
        }
        if first.is_none() {
            queue = queue.renewed(&offer.addresses(), &self.list()?);
            first = self.first_free(&queue, &offer.pool, is_skipped, Patience::All)?;
        }
        if let Some(address) = first {
            queue.remove(address);
            lock.set_queue(&queue);
        }
        Ok(first)
    }

    fn first_free(
        &self,
        queue: &FreeQueue,
        pool: &Pool,
        is_skipped: &dyn Fn(&Ipv4Addr) -> bool,
        patience: Patience,
    ) -> Result<Option<Ipv4Addr>, FileError> {
        for address in queue.addresses().iter().copied().filter(|address| !is_skipped(address) && pool.find(*address).is_some()) {
            match self.read(address)? {
                None => return Ok(Some(address)),
                Some(entry) if entry.is_free(&self.boot, self.now(), pool.cool_down) => return Ok(Some(address)),
                // The queue is in the order of rests: who comes later rests longer.
                Some(Entry::Cooling(_)) if patience == Patience::UntilOneRests => return Ok(None),
                Some(_) => {}
            }
        }
        Ok(None)
    }

    /// Makes the lease if, under the lock, the pool still has the address and nobody else has it (safety rules ST1 and ST2).
    fn commit(&self, request: &LeaseRequest, address: Ipv4Addr, offer: Offer) -> Result<Commit<'_>, LeaseError> {
        let lease = self.lease_for(request, address);
        let lock = self.lock_if_there()?.ok_or_else(|| self.not_sealed())?;
        let Offer { pool, seal, .. } = self.offer_again(offer, &request.supply)?;
        if pool.find(address).is_none() || !self.is_free(address, &pool)? {
            return Ok(Commit::Taken);
        }
        if self.indexed(&request.attachment)?.is_some_and(|lease| lease.boot == self.boot) {
            return Ok(Commit::AlreadyHeld);
        }
        let record = lease.print();
        let made = self.place(&lock, &lease, &record).map_err(|error| self.vanished(error))?;
        Ok(made.map_or(Commit::Taken, |file| {
            let held = Held::new(self, lease, record.into_bytes(), file, Origin::Created);
            Commit::Granted(Box::new(Granted { held, pool, skipped: Vec::new(), seal }))
        }))
    }

    /// The store, or a folder of it, may go under the lock.
    fn vanished(&self, error: FileError) -> LeaseError {
        if error.source.kind() != ErrorKind::NotFound {
            return error.into();
        }
        match self.find_seal() {
            Ok(seal) => PoolError::Incomplete { folder: self.folder.clone(), owner: seal.sealed.owner, source: error }.into(),
            Err(gone) => gone.into(),
        }
    }

    /// Puts a lease in place of nothing, or of a record that its caller found to be free. The index comes first: a lease that no
    /// index leads to would be lost to DEL, while an index without its lease is nothing. `None` where the address is taken after all.
    pub(super) fn place(&self, _: &Lock, lease: &Lease, record: &str) -> Result<Option<File>, FileError> {
        let (path, index) = (self.lease_path(lease.address), self.index_path_of(&lease.attachment));
        let (file, new) = files::create_new(&self.folder, record)?;
        let placed = Self::place_new(&file, [&new, &index, &path]);
        if !matches!(placed, Ok(true)) {
            let _ = files::remove(&new);
            let _ = self.remove_index(lease.attachment.hash(), &file);
        }
        Ok(placed?.then_some(file))
    }

    fn place_new(file: &File, [new, index, path]: [&Path; 3]) -> Result<bool, FileError> {
        files::wait_for(file, new, Duration::ZERO)?;
        files::rename(new, index)?;
        if files::link(index, path)? {
            return Ok(true);
        }
        files::remove(path)?;
        files::link(index, path)
    }

    fn is_free(&self, address: Ipv4Addr, pool: &Pool) -> Result<bool, FileError> {
        Ok(self.read(address)?.is_none_or(|entry: Entry| entry.is_free(&self.boot, self.now(), pool.cool_down)))
    }

    fn lease_for(&self, request: &LeaseRequest, address: Ipv4Addr) -> Lease {
        let LeaseRequest { attachment, pod, network, mode, host_link, netns, netns_cookie, requested: _, supply: _, avoid: _ } = request;
        Lease {
            address,
            attachment: attachment.clone(),
            pod: pod.clone(),
            network: network.clone(),
            mode: *mode,
            host_link: host_link.clone(),
            netns: Some(netns.clone()),
            netns_cookie: *netns_cookie,
            boot: self.boot.clone(),
            since: self.now(),
        }
    }
}

impl Lock {
    /// The free addresses in their order (safety rule ST14). A hint: what cannot be read is empty.
    fn queue(&self) -> FreeQueue {
        FreeQueue::parse(&small::read_whole(&self.0, FreeQueue::LONGEST, FreeQueue::LONGEST).unwrap_or_default())
    }

    fn set_queue(&self, queue: &FreeQueue) {
        let _ = self.0.write_all_at(&queue.print(), 0);
    }

    /// Puts an address at its place in the order.
    pub(super) fn requeue(&self, put: impl FnOnce(&mut FreeQueue)) {
        let mut queue = self.queue();
        put(&mut queue);
        self.set_queue(&queue);
    }
}
