//! What the node's IMDS shows, against what its object lists: a word on the NIC that costs none of Azure's requests. It proves nothing, since it may be
//! old: the agent only counts, and the controller reads the NIC where the two differ.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    time::Duration,
};

use azure_vnet_crds::node::Imds;

/// Until then what differs is on its way: the agent hears of a change from the object and from IMDS at different times.
const ON_ITS_WAY: Duration = Duration::from_secs(90);
/// An answer that is older says nothing of this moment. IMDS is asked every minute.
const OLD: Duration = Duration::from_mins(3);

/// IMDS's last answer, and what of it differs from the list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Witness {
    /// When it came, and the addresses of the NIC.
    answer: Option<(Duration, BTreeSet<Ipv4Addr>)>,
    /// From when on each difference counts; none before the first comparison.
    counts_from: Option<BTreeMap<Ipv4Addr, Duration>>,
}

impl Witness {
    /// Takes note of an answer that speaks of the NIC.
    pub fn answered(&mut self, now: Duration, shown: BTreeSet<Ipv4Addr>) {
        self.answer = Some((now, shown));
    }

    /// Takes note that the last answer was given again.
    pub fn repeated(&mut self, now: Duration) {
        if let Some((at, _)) = &mut self.answer {
            *at = now;
        }
    }

    /// Whether there is no answer of late.
    #[must_use]
    pub fn is_silent(&self, now: Duration) -> bool {
        self.answer.as_ref().is_none_or(|(at, _)| *at + OLD <= now)
    }

    /// Whether time alone changes nothing but by silence.
    #[must_use]
    pub fn is_steady(&self, now: Duration) -> bool {
        self.counts_from.iter().flatten().all(|(_, from)| *from <= now)
    }

    /// Compares. Of what is listed, `hidden` was shown before: that it is not shown any more counts at once. What is not listed counts at once in the first
    /// comparison, which has seen none of it come.
    pub fn compare(&mut self, now: Duration, listed: &BTreeSet<Ipv4Addr>, hidden: &BTreeSet<Ipv4Addr>) -> Option<Imds> {
        if self.is_silent(now) {
            *self = Self::default();
        }
        let (_, shown) = self.answer.as_ref()?;
        let known = self.counts_from.as_ref();
        let later = |address: &Ipv4Addr| known.and_then(|known| known.get(address)).copied().unwrap_or(now + ON_ITS_WAY);
        let missing: BTreeMap<Ipv4Addr, Duration> =
            listed.difference(shown).map(|address| (*address, if hidden.contains(address) { now } else { later(address) })).collect();
        let others: BTreeMap<Ipv4Addr, Duration> =
            shown.difference(listed).map(|address| (*address, if known.is_none() { now } else { later(address) })).collect();
        let counted =
            |of: &BTreeMap<Ipv4Addr, Duration>| u16::try_from(of.values().filter(|from| **from <= now).count()).unwrap_or(u16::MAX);
        let told = Imds { missing: counted(&missing), others: counted(&others) };
        self.counts_from = Some(missing.into_iter().chain(others).collect());
        Some(told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn addresses(hosts: &[u8]) -> BTreeSet<Ipv4Addr> {
        hosts.iter().map(|host| Ipv4Addr::new(10, 0, 0, *host)).collect()
    }

    const fn told(missing: u16, others: u16) -> Imds {
        Imds { missing, others }
    }

    #[test]
    fn what_imds_showed_and_shows_no_more_is_told_at_once_and_what_it_never_showed_once_it_lasts() {
        let mut witness = Witness::default();
        witness.answered(secs(0), addresses(&[4, 5]));
        let mut compare = |now, hidden: &[u8]| {
            witness.repeated(secs(now));
            witness.compare(secs(now), &addresses(&[5, 6, 7]), &addresses(hidden))
        };
        assert_eq!(compare(0, &[]), Some(told(0, 1)), "6 and 7 are on their way");
        assert_eq!(compare(30, &[6]), Some(told(1, 1)));
        assert_eq!(compare(90, &[6]), Some(told(2, 1)));
    }

    #[test]
    fn what_comes_beside_the_list_is_told_once_it_lasts_and_not_if_it_is_listed_by_then() {
        let mut witness = Witness::default();
        witness.answered(secs(0), addresses(&[4, 9]));
        assert_eq!(witness.compare(secs(0), &addresses(&[]), &addresses(&[])), Some(told(0, 2)), "nobody saw these come");
        witness.answered(secs(100), addresses(&[4, 9, 5, 6]));
        assert_eq!(witness.compare(secs(100), &addresses(&[]), &addresses(&[])), Some(told(0, 2)));
        assert!(!witness.is_steady(secs(100)) && witness.is_steady(secs(190)));
        assert_eq!(witness.compare(secs(190), &addresses(&[5]), &addresses(&[])), Some(told(0, 3)), "5 is listed, 6 is not");
        witness.answered(secs(200), addresses(&[4, 5]));
        assert_eq!(witness.compare(secs(200), &addresses(&[5]), &addresses(&[])), Some(told(0, 1)));
    }

    #[test]
    fn re5_silence_says_nothing_and_what_comes_after_it_is_a_first_answer() {
        let mut witness = Witness::default();
        assert_eq!((witness.compare(secs(0), &addresses(&[5]), &addresses(&[])), witness.is_silent(secs(0))), (None, true));
        witness.answered(secs(0), addresses(&[4, 5]));
        assert_eq!(witness.compare(secs(179), &addresses(&[5]), &addresses(&[])), Some(told(0, 1)));
        assert_eq!((witness.compare(secs(180), &addresses(&[5]), &addresses(&[])), witness.is_silent(secs(180))), (None, true));
        witness.answered(secs(400), addresses(&[4, 5, 6]));
        assert_eq!(witness.compare(secs(400), &addresses(&[5]), &addresses(&[])), Some(told(0, 2)));
    }
}
