//! Learns which addresses this machine has for pods, where no agent keeps its pool: from the host agent, the instance metadata service, or
//! a file. Whatever it learns lies in the store as a cache, and whoever finds the cache fit asks no one (safety rules ST3 and ST5).

mod http;
pub mod later;
mod namespaces;
mod original;
mod original_network;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::Ipv4Addr,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    thread,
    time::{Duration, Instant, SystemTime},
};

use azure_vnet_plugin_core::{
    attachment::{Attachment, IfName, NameError, NetnsPath, NetworkName},
    boot::BootTime,
    error::chain,
    ipam::{OwnIpam, Services, Source},
    lease::Entry,
    pool::SealOwner,
    source::{
        HostLink, Interface, Learned, Origin,
        endpoint::Endpoint,
        file, imds,
        pace::{Attempt, Refresh},
        wireserver,
    },
    wiring::{Alias, HOST_LINK_PREFIX},
};

pub use http::{GetError, get};
pub use namespaces::{NamespacesError, namespaces};
pub use original::StateFiles;

use crate::{
    bridge::ModesThere,
    netlink::{Link, Netlink, NetlinkError},
    store::{FileError, HoldError, KeeperError, KernelLease, PoolError, Query, Store, Supply},
    strays::RulesSeen,
};

/// How long each service is waited for where there is nothing to give without its answer.
const NEEDED: Duration = Duration::from_secs(2);
/// How long all of them are waited for where the cache is old but serves: a healthy one answers in less.
const SERVED: Duration = Duration::from_millis(50);
/// How long a process without a cache waits for the one that asks.
const OTHERS: Duration = Duration::from_secs(6);
/// Between two looks at whether it has; longer each time.
const PAUSE: Duration = Duration::from_millis(1);
const MOST_PAUSE: Duration = Duration::from_millis(16);

/// Why nothing was learned.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Neither service answered.
    #[error("this machine's addresses are not known: {why}")]
    Silent {
        /// What became of each question.
        why: String,
    },
    /// Another process asks and does not come to an end.
    #[error("another process has been asking for this machine's addresses for more than {} s", OTHERS.as_secs())]
    Busy,
    /// An endpoint in the environment.
    #[error("{variable}: {why}")]
    Endpoint {
        /// The variable.
        variable: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The file of interfaces.
    #[error("cannot read {}: {why}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// The folder of addresses that are not for pods.
    #[error("cannot read which addresses are promised back, in {}", path.display())]
    SetAside {
        /// The folder.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The namespaces of containers.
    #[error("cannot see which addresses containers have")]
    Namespaces(#[source] NamespacesError),
    /// The lock of the original plugins' commands.
    #[error("cannot wait for the end of a command of the original plugins ({})", path.display())]
    Original {
        /// The lock.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The kernel's links.
    #[error("cannot read this machine's links")]
    Links(#[source] NetlinkError),
    /// The seal is of a kind that must not be replaced.
    #[error(transparent)]
    Seal(PoolError),
    /// The store could not be sealed.
    #[error("cannot seal the node store")]
    Sealing(#[source] KeeperError),
    /// The store's files.
    #[error(transparent)]
    Store(HoldError),
}

impl From<FileError> for SourceError {
    fn from(error: FileError) -> Self {
        Self::Store(error.into())
    }
}

/// What the machine itself says of its addresses.
#[derive(Debug)]
pub struct Machine<'a> {
    store: &'a Store,
    own: &'a OwnIpam,
    places: &'a Places,
}

/// The files that tell of addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// The file of interfaces (`mas`, `fileIpam`).
    pub interfaces: PathBuf,
    /// The folder that names addresses which are not for pods: an agent of an earlier boot promised to give them back.
    pub set_aside: PathBuf,
    /// The state of the original plugins.
    pub original: StateFiles,
}

/// How much an answer is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// Nothing can be given without.
    Must,
    /// The cache is old and serves; it is an answer of this one.
    Served(Origin),
}

/// The pools that a configuration lets an attachment have an address of.
#[must_use]
pub fn supply(own: &OwnIpam) -> Supply {
    Supply { learned: own.source != Source::Pool, wanted: own.wanted.clone() }
}

impl<'a> Machine<'a> {
    /// The machine, unless the configuration wants the agent's pool only.
    #[must_use]
    pub fn of(store: &'a Store, own: &'a OwnIpam, places: &'a Places) -> Option<Self> {
        (own.source != Source::Pool).then_some(Self { store, own, places })
    }

    /// Sees to a sealed store that knows of addresses. Where an agent keeps the store, that is all of it; one that lost its leases, and that no
    /// agent keeps, is made whole anew. Answers whether what is known is to be asked for when nobody waits any more ([`Machine::claim`]).
    ///
    /// # Errors
    /// See [`SourceError`].
    pub fn prepare(&self, host: &mut Netlink, network: &NetworkName) -> Result<bool, SourceError> {
        match self.store.seal() {
            Ok(sealed) if sealed.owner == SealOwner::Agent => return Ok(false),
            Ok(_) if self.store.missing_part()?.is_none() => return self.freshen(host, self.store.now(), None),
            Err(error) if error.is_of_a_later_version() => return Err(SourceError::Seal(error)),
            Err(PoolError::File(error)) => return Err(error.into()),
            Ok(_) | Err(_) => {}
        }
        self.store.make_folders().map_err(SourceError::Store)?;
        self.freshen(host, self.store.now(), None)?;
        self.seal(host, network).map(|()| false)
    }

    /// Asks anew, if that is due, since the cache has nothing free. Answers whether there is news.
    ///
    /// # Errors
    /// See [`SourceError`].
    pub fn renew(&self, host: &mut Netlink) -> Result<bool, SourceError> {
        if !self.store.seal().is_ok_and(|sealed| sealed.owner == SealOwner::Plugin) {
            return Ok(false);
        }
        let before = self.store.learned()?;
        self.freshen(host, self.store.now(), Some(Need::Must))?;
        let after = self.store.learned()?;
        Ok(match (before, after) {
            (Some(before), Some(after)) => !before.agrees(&after),
            (None, after) => after.is_some(),
            (Some(_), None) => false,
        })
    }

    /// Makes the store whole by what the kernel shows (safety rule ST3), which is asked before the lock is taken (safety rule ST2). Nothing is
    /// leased in between: there is no seal.
    fn seal(&self, host: &mut Netlink, network: &NetworkName) -> Result<(), SourceError> {
        let original = &self.places.original;
        let _at_rest = original.at_rest().map_err(|source| SourceError::Original { path: original.lock.clone(), source })?;
        let rules = RulesSeen::now();
        let links = host.links().map_err(SourceError::Links)?;
        let mut leases = original.leases(host, network, self.store.now()).map_err(SourceError::Links)?;
        let namespaces = namespaces().map_err(SourceError::Namespaces)?;
        let mut modes = ModesThere::default();
        leases.extend(links.iter().filter_map(|link| kernel_lease(link, network, &mut modes, &namespaces)));
        let learned = self.store.learned()?.map(|learned| learned.addresses()).unwrap_or_default();
        let in_use = namespaces.into_keys().filter(|address| learned.contains(address)).collect();
        self.store.seal_without_agent(&leases, &in_use).map_err(SourceError::Sealing)?;
        original.set_aside();
        // What bridged pods left whose leases were lost, and of which nobody will be told to forget it. It is in no new pod's way: where it
        // cannot be told or removed, it stays.
        if let (Ok(rules), Ok(known)) = (rules, self.known(&links)) {
            let _ = rules.forget_all_but(&known, self.store, host);
        }
        Ok(())
    }

    /// The attachments that a link or a lease of any network speaks for.
    fn known(&self, links: &[Link]) -> Result<BTreeSet<Attachment>, FileError> {
        let leased = self.store.list()?.into_iter().filter_map(|(_, entry)| match entry {
            Entry::Leased(lease) => Some(lease.attachment),
            Entry::Cooling(_) | Entry::Quarantined(_) | Entry::Unreadable(_) => None,
        });
        let linked = links.iter().filter_map(|link| Some(link.alias.as_deref()?.parse::<Alias>().ok()?.attachment));
        Ok(leased.chain(linked).collect())
    }

    /// Whether there is something to ask for later.
    fn freshen(&self, host: &mut Netlink, now: BootTime, need: Option<Need>) -> Result<bool, SourceError> {
        match self.own.source {
            Source::Pool => Ok(false),
            Source::File if need.is_none() && self.is_as_read(now)? => Ok(false),
            Source::File => self.read_file(host, now).map(|()| false),
            Source::Azure(services) => self.freshen_by_query(host, services, now, need),
        }
    }

    /// Whether the file is the one that was read a moment ago: then it need not be compared with the machine's links, which are many.
    fn is_as_read(&self, now: BootTime) -> Result<bool, SourceError> {
        /// What the clocks of files and of the boot may differ by meanwhile.
        const TOLERANCE: Duration = Duration::from_secs(1);
        let Some(known) = self.store.learned()?.filter(|learned| learned.origin == Origin::File) else { return Ok(false) };
        let since = now.since(known.asked);
        // Not when it was written: one that was written earlier may have been put in its place since.
        let placed = fs::metadata(&self.places.interfaces).ok().and_then(|meta| u64::try_from(meta.ctime()).ok());
        let age = placed.and_then(|placed| SystemTime::now().duration_since(SystemTime::UNIX_EPOCH + Duration::from_secs(placed)).ok());
        Ok(since < self.own.query_interval && age.is_some_and(|age| age > since + TOLERANCE))
    }

    fn read_file(&self, host: &mut Netlink, now: BootTime) -> Result<(), SourceError> {
        let failed = |why: String| SourceError::File { path: self.places.interfaces.clone(), why };
        let content = fs::read(&self.places.interfaces).map_err(|error: io::Error| failed(error.to_string()))?;
        let interfaces = file::parse(&content).map_err(|error| failed(error.to_string()))?;
        self.keep(host, &interfaces, Origin::File, now)
    }

    fn freshen_by_query(&self, host: &mut Netlink, services: Services, now: BootTime, need: Option<Need>) -> Result<bool, SourceError> {
        let known = self.store.learned()?.filter(|learned| learned.origin != Origin::File);
        let has_cache = known.is_some();
        if has_cache {
            match self.refresh(known.as_ref(), self.store.last_attempt().as_ref()) {
                Refresh::No => return Ok(false),
                Refresh::Later if need.is_none() => return Ok(true),
                Refresh::Later | Refresh::First => {}
            }
        }
        let need = need.unwrap_or(known.map_or(Need::Must, |learned| Need::Served(learned.origin)));
        let query = match self.store.query()? {
            Some(query) => query,
            None if has_cache => return Ok(false),
            None => match self.wait_for_others()? {
                Some(query) => query,
                None => return Ok(false),
            },
        };
        // Who had the right before may have asked just now.
        let is_over = |attempt: Attempt| attempt.is_over(self.store.boot(), now, self.own.query_interval);
        if self.store.learned()?.is_some() && has_cache && !query.last_attempt().is_none_or(is_over) {
            return Ok(false);
        }
        match self.ask(host, &query, services, need) {
            Err(SourceError::Silent { .. }) if has_cache => Ok(false),
            result => result.map(|()| false),
        }
    }

    /// Whether and when to ask anew for what a service told.
    fn refresh(&self, known: Option<&Learned>, last: Option<&Attempt>) -> Refresh {
        let of = |known: &Learned| Refresh::of(known.asked, last, self.store.boot(), self.store.now(), self.own.query_interval);
        known.map_or(Refresh::First, of)
    }

    /// Waits, without a cache, for what the process that asks will have learned; the right to ask, if that process failed.
    fn wait_for_others(&self) -> Result<Option<Query>, SourceError> {
        let deadline = Instant::now() + OTHERS;
        let mut pause = PAUSE;
        while Instant::now() < deadline {
            thread::sleep(pause);
            pause = (pause * 2).min(MOST_PAUSE);
            if self.store.learned()?.is_some() {
                return Ok(None);
            }
            if let Some(query) = self.store.query()? {
                return Ok(if self.store.learned()?.is_some() { None } else { Some(query) });
            }
        }
        Err(SourceError::Busy)
    }

    /// The host agent, and the instance metadata service where it has no answer; the other way round where that one answered last, and time
    /// is short.
    fn ask(&self, host: &mut Netlink, query: &Query, services: Services, need: Need) -> Result<(), SourceError> {
        let order = match need {
            Need::Must | Need::Served(Origin::Wireserver | Origin::File) => [Origin::Wireserver, Origin::Imds],
            Need::Served(Origin::Imds) => [Origin::Imds, Origin::Wireserver],
        };
        let sent = self.store.now();
        let before = query.last_attempt().filter(|attempt| attempt.boot == *self.store.boot());
        let note = |failures| query.note(&Attempt { boot: self.store.boot().clone(), sent, failures });
        note(before.map_or(0, |attempt| attempt.failures).saturating_add(1));
        let deadline = Instant::now() + SERVED;
        let mut why = Vec::new();
        for origin in order {
            let patience = match need {
                Need::Must => NEEDED,
                Need::Served(_) => deadline.saturating_duration_since(Instant::now()),
            };
            match question(origin, services, patience)? {
                Ok(interfaces) => {
                    note(0);
                    return self.keep(host, &interfaces, origin, sent);
                }
                Err(error) => why.push(format!("{origin}: {error}")),
            }
        }
        Err(SourceError::Silent { why: why.join("; ") })
    }

    fn keep(&self, host: &mut Netlink, interfaces: &[Interface], origin: Origin, asked: BootTime) -> Result<(), SourceError> {
        let links: Vec<_> = host.links().map_err(SourceError::Links)?.iter().filter_map(host_link).collect();
        let mut learned = Learned::of(interfaces, &links, origin, self.store.boot().clone(), asked);
        learned.withhold(&self.set_aside()?);
        let known = self.store.learned()?;
        // Of a file that was just written many read; what is the same need not be written again so soon.
        let is_recent = |known: &Learned| asked.since(known.asked) < self.own.query_interval;
        if origin == Origin::File && known.is_some_and(|known| known.agrees(&learned) && is_recent(&known)) {
            return Ok(());
        }
        self.store.learn(&learned).map_err(SourceError::Store)
    }

    fn set_aside(&self) -> Result<BTreeSet<Ipv4Addr>, SourceError> {
        let path = &self.places.set_aside;
        let failed = |source| SourceError::SetAside { path: path.clone(), source };
        let entries = match fs::read_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
            entries => entries.map_err(failed)?,
        };
        let mut addresses = BTreeSet::new();
        for entry in entries {
            let name = entry.map_err(failed)?.file_name();
            addresses.extend(name.to_str().and_then(|name| name.parse::<Ipv4Addr>().ok()));
        }
        Ok(addresses)
    }
}

/// Asks one of the services. A service that has no answer is no error of its caller's.
fn question(origin: Origin, services: Services, patience: Duration) -> Result<Result<Vec<Interface>, String>, SourceError> {
    let endpoint = |configured: Option<Endpoint>, variable, default| configured.map_or_else(|| from_environment(variable, default), Ok);
    Ok(match origin {
        Origin::Wireserver => {
            let endpoint = endpoint(services.wireserver, "AZURE_WIRESERVER_ENDPOINT", Endpoint::WIRESERVER)?;
            let answer = http::get(endpoint, wireserver::QUESTION, patience).map_err(|error| chain(&error));
            answer.and_then(|body| wireserver::parse(&body).map_err(|error| format!("{endpoint}: {error}")))
        }
        Origin::Imds => {
            let endpoint = endpoint(services.imds, "AZURE_IMDS_ENDPOINT", Endpoint::IMDS)?;
            let answer = http::get(endpoint, imds::QUESTION, patience).map_err(|error| chain(&error));
            answer.and_then(|body| imds::parse(&body).map_err(|error| format!("{endpoint}: {error}")))
        }
        Origin::File => Ok(Vec::new()),
    })
}

fn from_environment(variable: &'static str, default: Endpoint) -> Result<Endpoint, SourceError> {
    match std::env::var(variable) {
        Ok(text) if !text.is_empty() => text.parse().map_err(|error: NameError| SourceError::Endpoint { variable, why: error.to_string() }),
        Ok(_) | Err(_) => Ok(default),
    }
}

/// A link that could be an interface of Azure's: neither ours, nor a bridge, nor the loopback.
fn host_link(link: &Link) -> Option<HostLink> {
    let name: IfName = link.name.parse().ok()?;
    let is_other = link.kind.as_deref() == Some("bridge") || link.name.starts_with(HOST_LINK_PREFIX) || link.name == "lo";
    (!is_other).then_some(HostLink { index: link.index, name, mac: link.mac?, controller: link.controller })
}

/// The lease that a pod's link stands for, by its alias (safety rule CM6). With its namespace GC has its second witness.
fn kernel_lease(
    link: &Link,
    network: &NetworkName,
    modes: &mut ModesThere,
    namespaces: &BTreeMap<Ipv4Addr, NetnsPath>,
) -> Option<KernelLease> {
    let Alias { attachment, address } = link.alias.as_deref()?.parse().ok()?;
    let std::net::IpAddr::V4(address) = address else { return None };
    let (host_link, netns): (IfName, _) = (link.name.parse().ok()?, namespaces.get(&address).cloned());
    // How the pod is wired the kernel shows, whatever the configuration of the day says.
    let mode = modes.of(&attachment, &host_link, link.controller);
    Some(KernelLease { address, attachment, host_link, pod: None, network: network.clone(), mode, netns })
}
