//! GC: frees what the runtime does not list and the kernel does not show (safety rule CM4). Links are left to DEL and the agent.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use azure_vnet_plugin_core::{
    attachment::{Attachment, Mode},
    conf::{NodeConf, Role},
    error::{CniError, Code, chain},
    gc::{self, Claim, LinkWitness, NetnsWitness, Verdict, Witnesses},
    lease::{Entry, Lease},
    wiring::{self, Alias},
};

use super::{Done, Run, errors};
use crate::{
    bridge, kernel_use,
    netlink::{Link, Netlink},
    netns::{Netns, NetnsError},
    source::{self, NamespacesError},
    store::{Freed, KernelUse},
    strays::RulesSeen,
};

impl Run<'_> {
    pub(super) fn gc(&self, conf: &NodeConf) -> Result<Done, CniError> {
        let listed = self.store.list().map_err(|error| errors::file(&error))?;
        let (unreadable, listed): (Vec<_>, Vec<_>) = listed.into_iter().partition(|(_, entry)| matches!(entry, Entry::Unreadable(_)));
        // The list is of this network only: leases of another are none of its business.
        let unlisted = listed.into_iter().filter_map(|(address, entry)| match &entry {
            Entry::Leased(lease) if lease.network == conf.name && !conf.valid.contains(&lease.attachment) => {
                Some((address, lease.clone(), entry))
            }
            Entry::Leased(_) | Entry::Cooling(_) | Entry::Quarantined(_) | Entry::Unreadable(_) => None,
        });
        let unlisted: Vec<_> = unlisted.collect();
        let links = if unlisted.is_empty() { Links::default() } else { Links::observe()? };
        let (mut freed, mut kept, mut failed) = (0_usize, 0_usize, Vec::new());
        let leases = unlisted.iter().map(|(address, lease, entry)| (address, self.free_unlisted(&links, *address, lease, entry)));
        let others = unreadable.iter().map(|(address, entry)| (address, self.cool_unreadable(*address, entry)));
        for (address, result) in leases.chain(others) {
            match result {
                Ok(true) => freed += 1,
                Ok(false) => kept += 1,
                Err(Stays::Now(why)) => failed.push(format!("{address}: {why}")),
                Err(Stays::Astray(error)) => return Err(errors::netns(&error)),
            }
        }
        if self.role == Role::Network {
            self.forget_strays(conf).unwrap_or_else(|error| failed.push(error));
        }
        self.store.sweep_without_agent().unwrap_or_else(|error| failed.push(errors::hold(&error).msg));
        if let (Role::Network, Some(delegate)) = (self.role, &conf.delegate) {
            self.delegate(delegate).tell("GC").unwrap_or_else(|error| failed.push(error.msg));
        }
        if failed.is_empty() {
            return Ok(Done::that(format!("{freed} freed, {kept} kept that the runtime does not list")));
        }
        Err(CniError::new(Code::TryAgain, format!("cannot free all that is unused: {}", failed.join("; "))))
    }
}

impl Run<'_> {
    /// Removes rules and ways of bridged pods that the runtime does not list, that have no lease, and whose links are gone, as are those of pods with
    /// addresses of other IPAM plugins whose namespaces went without a DEL.
    fn forget_strays(&self, conf: &NodeConf) -> Result<(), String> {
        // Before links and leases are looked at: a pod has these first, and its rules then. What those that were freed had is gone.
        let seen = RulesSeen::now().map_err(|error| chain(&error))?;
        if seen.are_none() {
            return Ok(());
        }
        let leased = self.store.list().map_err(|error| chain(&error))?.into_iter().filter_map(|(_, entry)| match entry {
            Entry::Leased(lease) => Some(lease.attachment),
            Entry::Cooling(_) | Entry::Quarantined(_) | Entry::Unreadable(_) => None,
        });
        let mut host = Netlink::open().map_err(|error| chain(&error))?;
        let linked = host.links().map_err(|error| chain(&error))?.into_iter().filter_map(|link| alias(&link));
        let known = leased.chain(linked.map(|alias| alias.attachment)).chain(conf.valid.iter().cloned()).collect();
        seen.forget_all_but(&known, &self.store, &mut host).map_err(|error| chain(&error))
    }
}

/// Why an address stays that might be free.
enum Stays {
    /// Why not now.
    Now(String),
    /// No other can be judged either: this thread sees another namespace than the host's.
    Astray(NetnsError),
}

impl From<NamespacesError> for Stays {
    fn from(error: NamespacesError) -> Self {
        match error {
            NamespacesError::Netns(error @ NetnsError::Astray { .. }) => Self::Astray(error),
            NamespacesError::Folder { .. } | NamespacesError::Netns(_) | NamespacesError::Addresses { .. } => Self::Now(chain(&error)),
        }
    }
}

impl Run<'_> {
    fn free_unlisted(&self, links: &Links, address: Ipv4Addr, lease: &Lease, entry: &Entry) -> Result<bool, Stays> {
        match links.witnesses(lease).map_err(Stays::Astray)?.verdict() {
            Verdict::Free => self.free_if(address, entry, || Ok(still_free(lease).map_err(Stays::Astray)? && nothing_stays(lease))),
            Verdict::Keep | Verdict::RemoveLinkFirst => Ok(false),
        }
    }

    /// Sends an unreadable record to cooling that has lain there for long and of whose address the kernel has no trace.
    fn cool_unreadable(&self, address: Ipv4Addr, entry: &Entry) -> Result<bool, Stays> {
        let age = self.store.age(address).map_err(|error| Stays::Now(errors::file(&error).msg))?;
        if !age.is_some_and(gc::may_cool_unreadable) || !has_no_trace(address)? {
            return Ok(false);
        }
        self.free_if(address, entry, || Ok(has_no_trace(address)?))
    }

    /// Frees an address if it still is gone once its record is locked; what cannot be told keeps it.
    fn free_if(&self, address: Ipv4Addr, entry: &Entry, mut still_gone: impl FnMut() -> Result<bool, Stays>) -> Result<bool, Stays> {
        let mut stays = None;
        let mut is_gone = || match still_gone() {
            Ok(is_gone) => is_gone,
            Err(why) => {
                stays = Some(why);
                false
            }
        };
        let freed = self.store.free_if(address, entry, &mut is_gone).map_err(|error| Stays::Now(errors::hold(&error).msg))?;
        stays.map_or(Ok(freed == Freed::Cooling), Err)
    }
}

/// Whether no route, no link's label and no namespace has the address; without the kernel's answer one might.
fn has_no_trace(address: Ipv4Addr) -> Result<bool, NamespacesError> {
    let Ok(mut host) = Netlink::open() else { return Ok(false) };
    let is_free = kernel_use::observe(&mut host, address.into()) == KernelUse::Free
        && host.links().is_ok_and(|links| !links.iter().filter_map(alias).any(|alias| alias.address == IpAddr::V4(address)));
    Ok(is_free && !source::namespaces()?.contains_key(&address))
}

fn alias(link: &Link) -> Option<Alias> {
    link.alias.as_deref()?.parse().ok()
}

/// The verdict by what the kernel shows at this moment; without its answer nothing is free.
fn still_free(lease: &Lease) -> Result<bool, NetnsError> {
    let Ok(links) = Links::observe() else { return Ok(false) };
    Ok(links.witnesses(lease)?.verdict() == Verdict::Free)
}

/// Removes what of a bridged pod outlives its links; an address of which something stays is not free.
fn nothing_stays(lease: &Lease) -> bool {
    let forget = |mut host: Netlink| bridge::forget_pod(&mut host, &lease.attachment, &[lease.address.into()]);
    match lease.mode {
        Mode::Bridge | Mode::Tunnel => Netlink::open().and_then(forget).is_ok(),
        Mode::Transparent => true,
    }
}

/// Whose links of ours there are.
#[derive(Debug, Default)]
struct Links {
    labelled: BTreeSet<Attachment>,
    marks: BTreeSet<u32>,
}

impl Links {
    fn observe() -> Result<Self, CniError> {
        let links = Netlink::open().and_then(|mut host| host.links()).map_err(|error| errors::netlink(&error))?;
        let mut all = Self::default();
        for link in links {
            match link.alias.as_deref().map(str::parse::<Alias>) {
                Some(Ok(alias)) => drop(all.labelled.insert(alias.attachment)),
                Some(Err(_)) => {}
                None => drop(all.marks.insert(link.group)),
            }
        }
        Ok(all)
    }

    /// An error only where the thread cannot come back to the host's namespace.
    fn witnesses(&self, lease: &Lease) -> Result<Witnesses, NetnsError> {
        let there = self.labelled.contains(&lease.attachment) || self.marks.contains(&wiring::link_mark(&lease.attachment));
        Ok(Witnesses {
            claim: Claim::RuntimeLacksIt,
            netns: netns_of(lease)?,
            link: if there { LinkWitness::Present } else { LinkWitness::Gone },
            unclaimed_for: Duration::ZERO,
        })
    }
}

/// Whether the lease's namespace is there: by its cookie, since a path may outlive or be given again.
fn netns_of(lease: &Lease) -> Result<NetnsWitness, NetnsError> {
    let Some(path) = &lease.netns else { return Ok(NetnsWitness::Unknown) };
    match Netns::open(path.as_str()).and_then(|netns| netns.cookie()) {
        Ok(there) => Ok(match (there, lease.netns_cookie) {
            (Some(there), Some(then)) if there == then => NetnsWitness::Same,
            (Some(_), Some(_)) => NetnsWitness::Another,
            (None, _) | (_, None) => NetnsWitness::Unknown,
        }),
        Err(NetnsError::Gone { .. } | NetnsError::NotOne { .. }) => Ok(NetnsWitness::Gone),
        Err(NetnsError::Own { .. }) => Ok(NetnsWitness::Another),
        Err(NetnsError::Open { .. } | NetnsError::Enter { .. } | NetnsError::Ipv6 { .. } | NetnsError::Socket { .. }) => {
            Ok(NetnsWitness::Unknown)
        }
        Err(error @ NetnsError::Astray { .. }) => Err(error),
    }
}
