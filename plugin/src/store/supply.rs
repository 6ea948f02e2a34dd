//! Where an attachment's address may come from: the agent's pool, or what a plugin learned of the machine (safety rules ST3 and ST5).

use std::{collections::BTreeSet, fs::File, net::Ipv4Addr, os::unix::fs::FileExt as _, time::Duration};

use azure_vnet_plugin_core::{
    pool::{Pool, SealOwner, Sealed},
    queue,
    source::{Learned, Wanted, pace::Attempt},
};

use super::{FileError, HoldError, PoolError, Store, files};

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

/// A pool, and what it was read from.
#[derive(Debug)]
pub(super) struct Offer {
    pub(super) pool: Pool,
    learned: Option<Learned>,
    raw: Raw,
}

/// What lay in the folder, byte for byte, so that a second look costs no second parse.
#[derive(Debug, PartialEq, Eq)]
struct Raw {
    sealed: Option<Vec<u8>>,
    pool: Option<Vec<u8>>,
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
        self.seal_of(files::read(&self.folder.join("sealed")).map_err(PoolError::File)?.as_deref())
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

    /// Whether there is a pool to lease from, with free addresses or without.
    ///
    /// # Errors
    /// See [`PoolError`].
    pub fn has_pool(&self, supply: &Supply) -> Result<(), PoolError> {
        self.offer(supply).map(drop)
    }

    pub(super) fn offer(&self, supply: &Supply) -> Result<Offer, PoolError> {
        self.offer_of(self.raw(supply).map_err(PoolError::File)?, supply, None)
    }

    /// The offer for an attachment that has this address.
    pub(super) fn offer_around(&self, address: Ipv4Addr, supply: &Supply) -> Result<Offer, PoolError> {
        self.offer_of(self.raw(supply).map_err(PoolError::File)?, supply, Some(address))
    }

    /// The same offer if nothing has changed since it was made.
    pub(super) fn offer_again(&self, offer: Offer, supply: &Supply) -> Result<Offer, PoolError> {
        let raw = self.raw(supply).map_err(PoolError::File)?;
        if raw == offer.raw { Ok(offer) } else { self.offer_of(raw, supply, None) }
    }

    fn raw(&self, supply: &Supply) -> Result<Raw, FileError> {
        let sealed = files::read(&self.folder.join("sealed"))?;
        let is_learned = supply.learned && !self.seal_of(sealed.as_deref()).is_ok_and(|sealed| sealed.owner == SealOwner::Agent);
        let name = if is_learned { "pool.azure" } else { "pool" };
        Ok(Raw { sealed, pool: files::read(&self.folder.join(name))? })
    }

    fn offer_of(&self, raw: Raw, supply: &Supply, around: Option<Ipv4Addr>) -> Result<Offer, PoolError> {
        let sealed = self.seal_of(raw.sealed.as_deref())?;
        let bytes = raw.pool.as_ref();
        match sealed.owner {
            SealOwner::Agent => {
                let pool = self.agents_pool(&sealed, bytes)?;
                match supply.wanted.prefix {
                    Some(prefix) if around.is_none() && prefix.trunc() != pool.prefix.trunc() => {
                        Err(PoolError::NoSubnet { wanted: supply.wanted.clone(), has: pool.prefix.to_string() })
                    }
                    Some(_) | None => Ok(Offer { pool, learned: None, raw }),
                }
            }
            SealOwner::Plugin if supply.learned => {
                let learned = bytes.and_then(|bytes| Learned::parse(bytes).ok()).filter(|learned| learned.boot == self.boot);
                let learned = learned.ok_or_else(|| PoolError::NoPool { folder: self.folder.clone() })?;
                let subnet = around.and_then(|address| learned.subnet_of(address)).or_else(|| learned.subnet(&supply.wanted));
                let subnet = subnet.ok_or_else(|| PoolError::NoSubnet { wanted: supply.wanted.clone(), has: subnets(&learned) })?;
                let pool = learned.pool(subnet, sealed.store);
                Ok(Offer { pool, learned: Some(learned), raw })
            }
            SealOwner::Plugin => Err(self.not_sealed()),
        }
    }

    fn agents_pool(&self, sealed: &Sealed, bytes: Option<&Vec<u8>>) -> Result<Pool, PoolError> {
        let path = self.folder.join("pool");
        let bytes = bytes.ok_or_else(|| PoolError::NoPool { folder: self.folder.clone() })?;
        let pool = Pool::parse(bytes).map_err(|source| PoolError::Unreadable { path: path.clone(), source })?;
        if pool.boot != self.boot || pool.store != sealed.store {
            return Err(PoolError::OtherBoot { path });
        }
        Ok(pool)
    }

    pub(super) fn seal_of(&self, bytes: Option<&[u8]>) -> Result<Sealed, PoolError> {
        let path = self.folder.join("sealed");
        let bytes = bytes.ok_or_else(|| self.not_sealed())?;
        let sealed = Sealed::parse(bytes).map_err(|source| PoolError::Unreadable { path: path.clone(), source })?;
        if sealed.boot == self.boot { Ok(sealed) } else { Err(PoolError::OtherBoot { path }) }
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
