//! Who holds which address, who held it when, and what the fabric lets through: the global check that an address belongs to one NIC at most.
//! It is told what happened and takes part in no decision.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use super::command::Tenure;

#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Address → index of its open tenure.
    held: BTreeMap<Ipv4Addr, usize>,
    history: Vec<Tenure>,
    /// Address → id of the NIC that the fabric gives its packets to.
    attached: BTreeMap<Ipv4Addr, String>,
    violations: Vec<String>,
}

impl Ledger {
    pub fn is_held(&self, address: Ipv4Addr) -> bool {
        self.held.contains_key(&address)
    }

    pub fn holder(&self, address: Ipv4Addr) -> Option<&Tenure> {
        self.held.get(&address).and_then(|&index| self.history.get(index))
    }

    pub fn hold(&mut self, address: Ipv4Addr, nic: &str, config: &str, now: Duration) {
        if let Some(other) = self.holder(address) {
            self.violations.push(format!("{address} was given to {nic} ({config}) while {} ({}) holds it", other.nic, other.config));
        }
        self.held.insert(address, self.history.len());
        self.history.push(Tenure { address, nic: nic.into(), config: config.into(), from_millis: millis(now), to_millis: None });
    }

    pub fn release(&mut self, address: Ipv4Addr, now: Duration) {
        if let Some(tenure) = self.held.remove(&address).and_then(|index| self.history.get_mut(index)) {
            tenure.to_millis = Some(millis(now));
        }
    }

    pub fn attach(&mut self, address: Ipv4Addr, nic: &str) {
        if let Some(other) = self.attached.insert(address, nic.into()).filter(|other| other != nic) {
            self.violations.push(format!("{address} was attached to {nic} while it was attached to {other}"));
        }
    }

    pub fn detach(&mut self, address: Ipv4Addr, nic: &str) {
        if self.attached.get(&address).is_some_and(|holder| holder == nic) {
            self.attached.remove(&address);
        }
    }

    pub fn history(&self) -> &[Tenure] {
        &self.history
    }

    pub fn violations(&self) -> &[String] {
        &self.violations
    }

    /// Addresses held within a range, in order.
    pub fn held_from(&self, first: Ipv4Addr, last: Ipv4Addr) -> impl Iterator<Item = Ipv4Addr> + '_ {
        self.held.range(first..=last).map(|(&address, _)| address)
    }
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
