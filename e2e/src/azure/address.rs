//! Which addresses of a subnet are free, and which a write gets. The ledger says what is held; nothing is changed here.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::cloud::Cloud;
use super::error::ArmError;
use super::ledger::Ledger;
use super::resource::{Subnet, range_of};
use super::wanted::Wanted;

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
    subnet.prefixes.iter().copied().filter_map(range).map(|(first, last)| ledger.count(first, last)).sum()
}

/// The lowest `count` free addresses: what was freed last may be given at once.
pub(super) fn lowest(subnet: &Subnet, ledger: &Ledger, count: usize) -> Result<Vec<Ipv4Addr>, Refusal> {
    lowest_beside(subnet, ledger, &BTreeSet::new(), count)
}

/// The same without those that are taken by the same write.
fn lowest_beside(subnet: &Subnet, ledger: &Ledger, taken: &BTreeSet<Ipv4Addr>, count: usize) -> Result<Vec<Ipv4Addr>, Refusal> {
    let mut free = Vec::with_capacity(count);
    for (first, last) in subnet.prefixes.iter().copied().filter_map(range) {
        let mut next = ledger.next_free(u32::from(first));
        while free.len() < count && next <= u32::from(last) {
            free.extend(Some(Ipv4Addr::from(next)).filter(|address| !taken.contains(address)));
            next = ledger.next_free(next.saturating_add(1));
        }
    }
    if free.len() < count { Err(Refusal::Full) } else { Ok(free) }
}

/// The lowest `count` blocks of 16 addresses of which none is held, each by its first: aligned, and without what a subnet keeps for itself.
pub(super) fn lowest_blocks(subnet: &Subnet, ledger: &Ledger, taken: &BTreeSet<Ipv4Addr>, count: usize) -> Result<Vec<Ipv4Addr>, Refusal> {
    let inside =
        |(first, last): (Ipv4Addr, Ipv4Addr)| (u32::from(first).div_ceil(16)..=u32::from(last) / 16).map(move |block| (block * 16, last));
    let fits = |(first, last): &(u32, Ipv4Addr)| first.saturating_add(15) <= u32::from(*last);
    let all = subnet.prefixes.iter().copied().filter_map(range).flat_map(inside).filter(fits).map(|(first, _)| Ipv4Addr::from(first));
    let is_free = |first: &Ipv4Addr| range_of(*first, true).all(|address| !ledger.is_held(address) && !taken.contains(&address));
    let free: Vec<Ipv4Addr> = all.filter(is_free).take(count).collect();
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

impl Cloud {
    /// Addresses for the dynamic configurations that have none yet, last one first.
    pub fn choose_addresses(&self, wanted: &[Wanted], key: &str) -> Result<Vec<Ipv4Addr>, ArmError> {
        let nic = self.nics.get(key);
        let known = |name: &str| nic.and_then(|nic| nic.configs.iter().find(|config| config.name.eq_ignore_ascii_case(name)));
        let is_kept = |want: &&Wanted| known(&want.name).is_some_and(|config| config.is_block() == want.block);
        let fresh: Vec<&Wanted> = wanted.iter().filter(|want| want.address.is_none() && !is_kept(want)).collect();
        let (blocks, singles): (Vec<&Wanted>, Vec<&Wanted>) = fresh.iter().partition(|want| want.block);
        let Some(subnet) = wanted.first().and_then(|want| self.subnet(&want.subnet)) else { return Ok(Vec::new()) };
        let fixed = wanted.iter().filter_map(|want| want.address.map(|address| (want, address)));
        let mut taken = BTreeSet::new();
        for (want, address) in fixed.filter(|(want, address)| known(&want.name).is_none_or(|config| config.address != Some(*address))) {
            for address in range_of(address, want.block) {
                check(subnet, &self.ledger, address).map_err(|refusal| self.refused(&refusal, want, address, &subnet.id))?;
                taken.insert(address);
            }
        }
        let full = |_| ArmError::subnet_is_full(&subnet.id, &subnet.prefix_text(), fresh.len());
        let blocks = lowest_blocks(subnet, &self.ledger, &taken, blocks.len()).map_err(full)?;
        taken.extend(blocks.iter().flat_map(|first| range_of(*first, true)));
        let mut singles = lowest_beside(subnet, &self.ledger, &taken, singles.len()).map_err(full)?.into_iter();
        let mut blocks = blocks.into_iter();
        let addresses: Vec<Ipv4Addr> = fresh.iter().filter_map(|want| if want.block { blocks.next() } else { singles.next() }).collect();
        Ok(addresses.into_iter().rev().collect())
    }

    fn refused(&self, refusal: &Refusal, want: &Wanted, address: Ipv4Addr, subnet: &str) -> ArmError {
        match refusal {
            Refusal::Full => ArmError::subnet_is_full(subnet, "", 1),
            Refusal::Held => {
                let holder = self.ledger.holder(address).map(|tenure| format!("{}/ipConfigurations/{}", tenure.nic, tenure.config));
                let message = format!(
                    "IP configuration {} is using the private IP address {address} which is already allocated to resource {}.",
                    want.id,
                    holder.unwrap_or_default()
                );
                ArmError::network(400, "PrivateIPAddressIsAllocated", message)
            }
            Refusal::Reserved => {
                let message = format!("Private static IP address {address} falls within reserved IP range of subnet prefix of {subnet}.");
                ArmError::network(400, "PrivateIPAddressInReservedRange", message)
            }
            Refusal::Outside => {
                let message = format!("Private static IP address {address} does not belong to the range of subnet prefix of {subnet}.");
                ArmError::network(400, "PrivateIPAddressNotInSubnet", message)
            }
        }
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
