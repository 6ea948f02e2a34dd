//! Where an attachment's address may come from: the agent's pool, or what a plugin learned of the machine (safety rules ST3 and ST5).

use std::{collections::BTreeSet, fs::File, io::ErrorKind, net::Ipv4Addr, os::unix::fs::FileExt as _, path::PathBuf, time::Duration};

use azure_vnet_plugin_core::{
    pool::{Pool, SealOwner, Sealed},
    queue,
    source::{Learned, Wanted, pace::Attempt},
};

use super::{FileError, HoldError, PoolError, Store, files};
use crate::small::Seen;

/// No note of an attempt is longer.
const ATTEMPT_LENGTH: usize = 128;

/// Which pools may serve a request. The default is the agent's alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Supply {
    /// Whether what a plugin learned serves where no agent has sealed the store in this boot.
    pub learned: bool,
    /// Of which subnet.
    pub wanted: Wanted,
}

/// A pool, and the files that it was read from, so that a second look need not read them again.
#[derive(Debug)]
pub(super) struct Offer {
    pub(super) pool: Pool,
    pub(super) seal: Seal,
    learned: Option<Learned>,
    source: (PathBuf, Seen),
}

/// The word of this boot that the store is whole, as it was found.
#[derive(Debug)]
pub(super) struct Seal {
    pub(super) sealed: Sealed,
    seen: Seen,
}

/// The right to ask the machine's own services, which one process at a time has.
#[derive(Debug)]
pub struct Query(File);

impl Offer {
    /// Stands for the addresses that free ones are queued for: those of all subnets, so that two networks share one queue.
    pub(super) fn stamp(&self) -> u32 {
        match &self.learned {
            Some(learned) => match learned.subnets.as_slice() {
                // Of one they are in order as they are.
                [only] => queue::stamp(only.addresses.iter().copied()),
                _ => queue::stamp(learned.addresses().into_iter()),
            },
            None => queue::stamp(self.pool.addresses().iter().map(|slot| slot.address)),
        }
    }

    /// These addresses.
    pub(super) fn addresses(&self) -> BTreeSet<Ipv4Addr> {
        match &self.learned {
            Some(learned) => learned.addresses(),
            None => self.pool.addresses().iter().map(|slot| slot.address).collect(),
        }
    }
}

impl Store {
    /// Who says that the store is whole in this boot.
    ///
    /// # Errors
    /// See [`PoolError`].
    pub fn seal(&self) -> Result<Sealed, PoolError> {
        Ok(self.find_seal()?.sealed)
    }

    /// The pool that an agent put in place in this boot, whether or not it counts.
    ///
    /// # Errors
    /// The file is there and cannot be opened.
    pub fn placed(&self) -> Result<Option<Pool>, FileError> {
        let pool = files::read(&self.folder.join("pool"))?.and_then(|bytes| Pool::parse(&bytes).ok());
        Ok(pool.filter(|pool| pool.boot == self.boot))
    }

    /// What a plugin learned in this boot. It is a cache: what cannot be read was not learned.
    ///
    /// # Errors
    /// The file is there and cannot be opened.
    pub fn learned(&self) -> Result<Option<Learned>, FileError> {
        let learned = files::read(&self.folder.join("pool.azure"))?.and_then(|bytes| Learned::parse(&bytes).ok());
        Ok(learned.filter(|learned| learned.boot == self.boot))
    }

    /// Keeps what was learned, unless an agent keeps the store or the answer to a later question is there (safety rule ST5).
    ///
    /// # Errors
    /// See [`HoldError`].
    pub fn learn(&self, learned: &Learned) -> Result<(), HoldError> {
        let Some(_lock) = self.lock_if_there()? else { return Ok(()) };
        let is_kept = self.seal().is_ok_and(|sealed| sealed.owner == SealOwner::Agent);
        let is_old = self.learned()?.is_some_and(|known| known.asked >= learned.asked);
        if is_kept || is_old {
            return Ok(());
        }
        Ok(files::replace(&self.folder, &self.folder.join("pool.azure"), &learned.print())?)
    }

    /// The question that was asked last.
    #[must_use]
    pub fn last_attempt(&self) -> Option<Attempt> {
        Attempt::parse(&files::read(&self.folder.join("query")).ok()??)
    }

    /// Takes the right to ask, if no one has it: another lock than the leases' (safety rule ST5).
    ///
    /// # Errors
    /// The file cannot be made or locked.
    pub fn query(&self) -> Result<Option<Query>, FileError> {
        let path = self.folder.join("query");
        let file = files::open_or_create(&path)?;
        Ok(files::wait_for(&file, &path, Duration::ZERO)?.then_some(Query(file)))
    }

    /// Whether there is a pool to lease from, with free addresses or without, and a place for leases.
    ///
    /// # Errors
    /// See [`PoolError`].
    pub fn has_pool(&self, supply: &Supply) -> Result<(), PoolError> {
        let owner = self.offer(supply)?.seal.sealed.owner;
        match self.missing_part().map_err(PoolError::File)? {
            None => Ok(()),
            Some(path) => {
                let source = FileError { operation: "find", path, source: ErrorKind::NotFound.into() };
                Err(PoolError::Incomplete { folder: self.folder.clone(), owner, source })
            }
        }
    }

    /// A folder of leases, or of what leads to them, that is not there: what the store knew of pods is lost with it.
    ///
    /// # Errors
    /// It cannot be looked for.
    pub fn missing_part(&self) -> Result<Option<PathBuf>, FileError> {
        for path in [self.folder.join("lease"), self.folder.join("by")] {
            if files::inode(&path)?.is_none() {
                return Ok(Some(path));
            }
        }
        Ok(None)
    }

    pub(super) fn offer(&self, supply: &Supply) -> Result<Offer, PoolError> {
        self.offer_for(None, supply)
    }

    /// The offer for an attachment that has this address.
    pub(super) fn offer_around(&self, address: Ipv4Addr, supply: &Supply) -> Result<Offer, PoolError> {
        self.offer_for(Some(address), supply)
    }

    /// The same offer if nothing has changed since it was made.
    pub(super) fn offer_again(&self, offer: Offer, supply: &Supply) -> Result<Offer, PoolError> {
        if self.is_as_offered(&offer)? { Ok(offer) } else { self.offer(supply) }
    }

    /// Whether neither seal nor pool were replaced since the offer was made.
    pub(super) fn is_as_offered(&self, offer: &Offer) -> Result<bool, PoolError> {
        let (path, seen) = &offer.source;
        Ok(self.is_sealed_as(&offer.seal)? && files::is_seen_at(seen, path).map_err(PoolError::File)?)
    }

    /// Whether the seal is the one that was found.
    pub(super) fn is_sealed_as(&self, seal: &Seal) -> Result<bool, PoolError> {
        files::is_seen_at(&seal.seen, &self.seal_path()).map_err(PoolError::File)
    }

    fn offer_for(&self, around: Option<Ipv4Addr>, supply: &Supply) -> Result<Offer, PoolError> {
        let seal = self.find_seal()?;
        match seal.sealed.owner {
            SealOwner::Agent => {
                let source = self.find_pool("pool")?;
                let pool = self.agents_pool(&seal.sealed, &source)?;
                match supply.wanted.prefix {
                    Some(prefix) if around.is_none() && prefix.trunc() != pool.prefix.trunc() => {
                        Err(PoolError::NoSubnet { wanted: supply.wanted.clone(), has: pool.prefix.to_string() })
                    }
                    Some(_) | None => Ok(Offer { pool, seal, learned: None, source }),
                }
            }
            SealOwner::Plugin if supply.learned => {
                let source = self.find_pool("pool.azure")?;
                let learned = Learned::parse(&source.1.bytes).ok().filter(|learned| learned.boot == self.boot);
                let learned = learned.ok_or_else(|| self.no_pool())?;
                let subnet = around.and_then(|address| learned.subnet_of(address)).or_else(|| learned.subnet(&supply.wanted));
                let subnet = subnet.ok_or_else(|| PoolError::NoSubnet { wanted: supply.wanted.clone(), has: subnets(&learned) })?;
                let pool = learned.pool(subnet, seal.sealed.store.clone());
                Ok(Offer { pool, seal, learned: Some(learned), source })
            }
            SealOwner::Plugin => Err(self.not_sealed()),
        }
    }

    fn find_pool(&self, name: &str) -> Result<(PathBuf, Seen), PoolError> {
        let path = self.folder.join(name);
        let seen = files::see(&path).map_err(PoolError::File)?.ok_or_else(|| self.no_pool())?;
        Ok((path, seen))
    }

    /// The seal of this boot.
    pub(super) fn find_seal(&self) -> Result<Seal, PoolError> {
        let path = self.seal_path();
        let seen = files::see(&path).map_err(PoolError::File)?.ok_or_else(|| self.not_sealed())?;
        let sealed = Sealed::parse(&seen.bytes).map_err(|source| PoolError::Unreadable { path: path.clone(), source })?;
        if sealed.boot == self.boot { Ok(Seal { sealed, seen }) } else { Err(PoolError::OtherBoot { path }) }
    }

    fn agents_pool(&self, sealed: &Sealed, (path, seen): &(PathBuf, Seen)) -> Result<Pool, PoolError> {
        let pool = Pool::parse(&seen.bytes).map_err(|source| PoolError::Unreadable { path: path.clone(), source })?;
        if pool.boot != self.boot || pool.store != sealed.store {
            return Err(PoolError::OtherBoot { path: path.clone() });
        }
        Ok(pool)
    }

    pub(super) fn seal_path(&self) -> PathBuf {
        self.folder.join("sealed")
    }

    fn no_pool(&self) -> PoolError {
        PoolError::NoPool { folder: self.folder.clone() }
    }

    pub(super) fn not_sealed(&self) -> PoolError {
        PoolError::NotSealed { folder: self.folder.clone() }
    }
}

impl Query {
    /// The question that was asked last.
    #[must_use]
    pub fn last_attempt(&self) -> Option<Attempt> {
        let mut bytes = [0; ATTEMPT_LENGTH];
        let length = self.0.read_at(&mut bytes, 0).ok()?;
        Attempt::parse(bytes.get(..length)?)
    }

    /// Notes a question. What cannot be noted holds no later one back.
    pub fn note(&self, attempt: &Attempt) {
        let _ = self.0.write_all_at(attempt.print().as_bytes(), 0);
    }
}

fn subnets(learned: &Learned) -> String {
    let list = learned.subnets.iter().map(|subnet| format!("{} of {}", subnet.prefix, subnet.link));
    let list = list.collect::<Vec<_>>().join(", ");
    if list.is_empty() { "none".to_owned() } else { list }
}
