//! GC: frees what the runtime does not list and the kernel does not show (safety rule CM4). Links are left to DEL and the agent.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use azure_vnet_plugin_core::{
    attachment::{Attachment, Mode},
    conf::{NodeConf, Role},
    error::{CniError, Code},
    gc::{self, Claim, LinkWitness, NetnsWitness, Verdict, Witnesses},
    lease::{Entry, Lease},
    wiring::{self, Alias},
};

use super::{Done, Run, errors};
use crate::{
    bridge, kernel_use,
    netlink::{Link, Netlink},
    netns::{Netns, NetnsError},
    source,
    store::{Freed, KernelUse},
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
        for (address, lease, entry) in &unlisted {
            match links.witnesses(lease).verdict() {
                Verdict::Free => match self.store.free_if(*address, entry, &mut || still_free(lease) && nothing_stays(lease)) {
                    Ok(Freed::Cooling) => freed += 1,
                    Ok(Freed::Changed) => kept += 1,
                    Err(error) => failed.push(format!("{address}: {}", errors::hold(&error).msg)),
                },
                Verdict::Keep | Verdict::RemoveLinkFirst => kept += 1,
            }
        }
        for (address, entry) in &unreadable {
            match self.cool_unreadable(*address, entry) {
                Ok(is_freed) => freed += usize::from(is_freed),
                Err(error) => failed.push(format!("{address}: {}", error.msg)),
            }
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
    /// Sends an unreadable record to cooling that has lain there for long and of whose address the kernel has no trace.
    fn cool_unreadable(&self, address: Ipv4Addr, entry: &Entry) -> Result<bool, CniError> {
        let age = self.store.age(address).map_err(|error| errors::file(&error))?;
        if !age.is_some_and(gc::may_cool_unreadable) || !has_no_trace(address) {
            return Ok(false);
        }
        let freed = self.store.free_if(address, entry, &mut || has_no_trace(address)).map_err(|error| errors::hold(&error))?;
        Ok(freed == Freed::Cooling)
    }
}

/// Whether no route, no link's label and no namespace has the address; without the kernel's answer one might.
fn has_no_trace(address: Ipv4Addr) -> bool {
    let Ok(mut host) = Netlink::open() else { return false };
    let alias = |link: &Link| link.alias.as_deref().and_then(|alias| alias.parse::<Alias>().ok());
    kernel_use::observe(&mut host, address.into()) == KernelUse::Free
        && host.links().is_ok_and(|links| !links.iter().filter_map(alias).any(|alias| alias.address == IpAddr::V4(address)))
        && !source::namespaces().contains_key(&address)
}

/// The verdict by what the kernel shows at this moment; without its answer nothing is free.
fn still_free(lease: &Lease) -> bool {
    Links::observe().is_ok_and(|links| links.witnesses(lease).verdict() == Verdict::Free)
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

    fn witnesses(&self, lease: &Lease) -> Witnesses {
        let there = self.labelled.contains(&lease.attachment) || self.marks.contains(&wiring::link_mark(&lease.attachment));
        Witnesses {
            claim: Claim::RuntimeLacksIt,
            netns: netns_of(lease),
            link: if there { LinkWitness::Present } else { LinkWitness::Gone },
            unclaimed_for: Duration::ZERO,
        }
    }
}

/// Whether the lease's namespace is there: by its cookie, since a path may outlive or be given again.
fn netns_of(lease: &Lease) -> NetnsWitness {
    let Some(path) = &lease.netns else { return NetnsWitness::Unknown };
    match Netns::open(path.as_str()) {
        Ok(netns) => match (netns.cookie(), lease.netns_cookie) {
            (Some(there), Some(then)) if there == then => NetnsWitness::Same,
            (Some(_), Some(_)) => NetnsWitness::Another,
            (None, _) | (_, None) => NetnsWitness::Unknown,
        },
        Err(NetnsError::Gone { .. } | NetnsError::NotOne { .. }) => NetnsWitness::Gone,
        Err(NetnsError::Own { .. }) => NetnsWitness::Another,
        Err(NetnsError::Open { .. } | NetnsError::Enter { .. } | NetnsError::Ipv6 { .. } | NetnsError::Socket { .. }) => {
            NetnsWitness::Unknown
        }
    }
}
