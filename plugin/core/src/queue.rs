//! The order in which free addresses are given: the one longest free first (safety rule ST14). A hint that costs no look at the leases:
//! whether an address is free is for its own file to say, and a queue that is lost is made anew from the files.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use crate::lease::Entry;

const MAGIC: [u8; 4] = *b"avq1";
/// Magic, checksum of what follows, stamp, number of addresses.
const HEAD: usize = 16;
/// More addresses than any machine can have.
const MOST: usize = 1024;

/// Free addresses, the one longest free first, for pools of one membership.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FreeQueue {
    stamp: u32,
    addresses: Vec<Ipv4Addr>,
}

/// Tells one set of addresses from another.
#[must_use]
pub fn stamp(addresses: impl Iterator<Item = Ipv4Addr>) -> u32 {
    let octets: Vec<_> = addresses.map(|address| address.octets()).collect();
    crc32fast::hash(octets.as_flattened())
}

impl FreeQueue {
    /// The longest that a printed queue gets.
    pub const LONGEST: usize = HEAD + MOST * 4;

    /// Reads a queue, whatever follows it. What cannot be understood is the empty queue.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Self {
        let parse = || {
            let (magic, rest) = bytes.split_first_chunk()?;
            let (sum, rest) = rest.split_first_chunk()?;
            let (_, sized) = rest.split_first_chunk::<4>()?;
            let count = usize::try_from(u32::from_be_bytes(*sized.first_chunk()?)).ok().filter(|count| *count <= MOST)?;
            let body = rest.get(..8 + count * 4)?;
            if *magic != MAGIC || u32::from_be_bytes(*sum) != crc32fast::hash(body) {
                return None;
            }
            let (stamp, body) = body.split_first_chunk()?;
            let (addresses, []) = body.get(4..)?.as_chunks::<4>() else { return None };
            Some(Self { stamp: u32::from_be_bytes(*stamp), addresses: addresses.iter().copied().map(Ipv4Addr::from).collect() })
        };
        parse().unwrap_or_default()
    }

    /// Prints the queue.
    #[must_use]
    pub fn print(&self) -> Vec<u8> {
        let Self { stamp, addresses } = self;
        let addresses = addresses.get(..MOST).unwrap_or(addresses);
        let count = u32::try_from(addresses.len()).unwrap_or_default();
        let words: Vec<_> =
            [*stamp, count].into_iter().chain(addresses.iter().map(|address| address.to_bits())).map(u32::to_be_bytes).collect();
        let body = words.as_flattened();
        [MAGIC.as_slice(), &crc32fast::hash(body).to_be_bytes(), body].concat()
    }

    /// Whether the queue was made for addresses of this stamp.
    #[must_use]
    pub fn is_of(&self, stamp: u32) -> bool {
        self.stamp == stamp && !self.addresses.is_empty()
    }

    /// The addresses in the order in which they are to be given.
    #[must_use]
    pub fn addresses(&self) -> &[Ipv4Addr] {
        &self.addresses
    }

    /// Makes the queue anew for these addresses, by what their files say: those that nobody had, then those that the old queue had, in its
    /// order, then those that rest, in the order in which their rests began.
    #[must_use]
    pub fn renewed(&self, addresses: &BTreeSet<Ipv4Addr>, entries: &[(Ipv4Addr, Entry)]) -> Self {
        let mut taken = BTreeSet::new();
        let mut resting = BTreeMap::new();
        for (address, entry) in entries {
            match entry {
                Entry::Cooling(rest) => _ = resting.insert((rest.since, *address), *address),
                Entry::Leased(_) | Entry::Quarantined(_) | Entry::Unreadable(_) => {}
            }
            taken.insert(*address);
        }
        let is_open = |address: &&Ipv4Addr| addresses.contains(address) && !taken.contains(address);
        let known: Vec<Ipv4Addr> = self.addresses.iter().filter(is_open).copied().collect();
        let seen: BTreeSet<_> = known.iter().copied().collect();
        let new = addresses.iter().filter(is_open).filter(|address| !seen.contains(address)).copied();
        let mut all: Vec<_> = new.chain(known).collect();
        all.extend(resting.into_values().filter(|address| addresses.contains(address)));
        Self { stamp: stamp(addresses.iter().copied()), addresses: all }
    }

    /// Takes an address out.
    pub fn remove(&mut self, address: Ipv4Addr) {
        self.addresses.retain(|other| *other != address);
    }

    /// Puts an address last: its rest begins.
    pub fn push_last(&mut self, address: Ipv4Addr) {
        self.remove(address);
        self.addresses.push(address);
    }

    /// Puts an address first: it was taken and not used.
    pub fn push_first(&mut self, address: Ipv4Addr) {
        self.remove(address);
        self.addresses.insert(0, address);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::{boot::BootTime, lease::Cooling};

    fn address(last: u8) -> Ipv4Addr {
        [10, 240, 0, last].into()
    }

    fn rest(last: u8, since: u64) -> (Ipv4Addr, Entry) {
        let rest = Cooling { address: address(last), previous: None, boot: "b1".parse().unwrap(), since: BootTime::from_millis(since) };
        assert!(!rest.has_ended(&rest.boot, rest.since, Duration::from_secs(1)));
        (address(last), Entry::Cooling(rest))
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(stamp: u32, addresses in proptest::collection::vec(any::<u32>(), 0..300)) {
            let queue = FreeQueue { stamp, addresses: addresses.into_iter().map(Ipv4Addr::from).collect() };
            let mut bytes = queue.print();
            prop_assert_eq!(&FreeQueue::parse(&bytes), &queue);
            bytes.extend(b"what a longer queue left");
            prop_assert_eq!(FreeQueue::parse(&bytes), queue);
        }

        #[test]
        fn random_bytes_are_an_empty_queue(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            prop_assert_eq!(FreeQueue::parse(&bytes), FreeQueue::default());
        }

        #[test]
        fn st14_a_renewed_queue_has_every_address_that_no_one_has_once(
            old in proptest::collection::vec(1..=u8::MAX, 0..50),
            pool in proptest::collection::btree_set(1..=u8::MAX, 1..100),
            rests in proptest::collection::btree_map(1..=u8::MAX, 0..5_u64, 0..20),
        ) {
            let mut queue = FreeQueue::default();
            for last in old {
                queue.push_last(address(last));
            }
            let pool: BTreeSet<_> = pool.into_iter().map(address).collect();
            let entries: Vec<_> = rests.into_iter().map(|(last, since)| rest(last, since)).collect();
            let renewed = queue.renewed(&pool, &entries);
            prop_assert!(renewed.is_of(stamp(pool.iter().copied())));
            let mut sorted = renewed.addresses().to_vec();
            sorted.sort_unstable();
            prop_assert_eq!(sorted, pool.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn st14_the_address_longest_free_comes_first() {
        let pool: BTreeSet<_> = (1..=6).map(address).collect();
        let mut queue = FreeQueue::default();
        queue.push_last(address(5));
        queue.push_last(address(4));
        queue.push_last(address(99));
        let renewed = queue.renewed(&pool, &[rest(1, 30), rest(2, 20)]);
        assert_eq!(renewed.addresses(), [3, 6, 5, 4, 2, 1].map(address));
    }
}
