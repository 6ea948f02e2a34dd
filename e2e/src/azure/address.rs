//! Which addresses of a subnet are free. Pure: the ledger says what is held.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::ledger::Ledger;
use super::resource::Subnet;

/// Why a subnet gives no address.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Full,
    Held,
    Reserved,
    Outside,
}

/// The usable size: each prefix lacks its first four addresses and its last.
pub(super) fn usable(subnet: &Subnet) -> usize {
    subnet.prefixes.iter().copied().filter_map(range).map(|(first, last)| size(first, last)).sum()
}

pub(super) fn used(subnet: &Subnet, ledger: &Ledger) -> usize {
    subnet.prefixes.iter().copied().filter_map(range).map(|(first, last)| ledger.held_from(first, last).count()).sum()
}

/// The lowest `count` free addresses: what was freed last may be given at once.
pub(super) fn lowest(subnet: &Subnet, ledger: &Ledger, count: usize) -> Result<Vec<Ipv4Addr>, Refusal> {
    let mut free = Vec::with_capacity(count);
    for (first, last) in subnet.prefixes.iter().copied().filter_map(range) {
        let mut held = ledger.held_from(first, last).peekable();
        let mut next = u32::from(first);
        while free.len() < count && next <= u32::from(last) {
            let address = Ipv4Addr::from(next);
            if held.next_if_eq(&address).is_none() {
                free.push(address);
            }
            next = next.saturating_add(1);
        }
    }
    if free.len() < count { Err(Refusal::Full) } else { Ok(free) }
}

/// Whether `address` may be asked for.
pub(super) fn check(subnet: &Subnet, ledger: &Ledger, address: Ipv4Addr) -> Result<(), Refusal> {
    let Some(prefix) = subnet.prefixes.iter().find(|prefix| prefix.contains(&address)) else {
        return Err(Refusal::Outside);
    };
    match range(*prefix) {
        Some((first, last)) if (first..=last).contains(&address) => {
            if ledger.is_held(address) {
                Err(Refusal::Held)
            } else {
                Ok(())
            }
        }
        _ => Err(Refusal::Reserved),
    }
}

fn range(prefix: Ipv4Net) -> Option<(Ipv4Addr, Ipv4Addr)> {
    let first = u32::from(prefix.network()).checked_add(4)?;
    let last = u32::from(prefix.broadcast()).checked_sub(1)?;
    (first <= last).then(|| (Ipv4Addr::from(first), Ipv4Addr::from(last)))
}

fn size(first: Ipv4Addr, last: Ipv4Addr) -> usize {
    usize::try_from(u32::from(last).saturating_sub(u32::from(first)).saturating_add(1)).unwrap_or(usize::MAX)
}
