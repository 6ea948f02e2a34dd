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
    /// First and last address of every run of held ones: the next free one is found without a walk.
    runs: BTreeMap<u32, u32>,
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
        if self.held.insert(address, self.history.len()).is_none() {
            self.join(u32::from(address));
        }
        self.history.push(Tenure { address, nic: nic.into(), config: config.into(), from_millis: millis(now), to_millis: None });
    }

    pub fn release(&mut self, address: Ipv4Addr, now: Duration) {
        if let Some(tenure) = self.held.remove(&address).and_then(|index| self.history.get_mut(index)) {
            tenure.to_millis = Some(millis(now));
            self.split(u32::from(address));
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

    /// How many addresses of a range are held.
    pub fn count(&self, first: Ipv4Addr, last: Ipv4Addr) -> usize {
        self.held.range(first..=last).count()
    }

    /// The lowest address from `address` on that nobody holds.
    pub fn next_free(&self, address: u32) -> u32 {
        match self.runs.range(..=address).next_back() {
            Some((_, &end)) if end >= address => end.saturating_add(1),
            _ => address,
        }
    }

    fn join(&mut self, address: u32) {
        let (mut start, mut end) = (address, address);
        if let Some((&before, &last)) = self.runs.range(..address).next_back()
            && last.checked_add(1) == Some(address)
        {
            start = before;
        }
        if let Some(after) = address.checked_add(1).and_then(|next| self.runs.remove(&next)) {
            end = after;
        }
        self.runs.insert(start, end);
    }

    fn split(&mut self, address: u32) {
        let Some((&start, &end)) = self.runs.range(..=address).next_back() else { return };
        self.runs.remove(&start);
        if start < address {
            self.runs.insert(start, address.saturating_sub(1));
        }
        if address < end {
            self.runs.insert(address.saturating_add(1), end);
        }
    }
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_free_address_is_found_after_any_order_of_holding_and_releasing() {
        let mut ledger = Ledger::default();
        let mut seed = 1u32;
        for _ in 0..5000 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let address = Ipv4Addr::from(0x0af0_0000 + (seed >> 16) % 64);
            if ledger.is_held(address) {
                ledger.release(address, Duration::ZERO);
            } else {
                ledger.hold(address, "nic", "config", Duration::ZERO);
            }
            let walked = (0x0af0_0000..0x0af0_0041u32).find(|candidate| !ledger.is_held(Ipv4Addr::from(*candidate)));
            assert_eq!(Some(ledger.next_free(0x0af0_0000)), walked);
        }
        assert!(ledger.violations().is_empty());
    }

    #[test]
    fn an_address_given_twice_is_a_violation() {
        let mut ledger = Ledger::default();
        let address = Ipv4Addr::new(10, 240, 0, 7);
        ledger.hold(address, "one", "avn-1", Duration::ZERO);
        ledger.hold(address, "two", "avn-1", Duration::ZERO);
        ledger.attach(address, "one");
        ledger.attach(address, "two");
        assert_eq!(ledger.violations().len(), 2);
    }
}
