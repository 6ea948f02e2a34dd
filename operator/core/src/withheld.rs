//! Listed addresses that pods do not get although nothing takes them away: since when, and what to say of it once it lasts.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    time::Duration,
};

/// Until then an address is on its way: every one that is attached waits for the node's metadata for a moment.
const ON_ITS_WAY: Duration = Duration::from_secs(90);
/// How many addresses a message names.
const NAMED: usize = 5;

/// Why pods do not get an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// IMDS showed it, and shows it no more (safety rule RE5).
    TakenBack,
    /// The node's metadata has not shown it (safety rule RE6).
    NotShown,
    /// Nothing of this boot confirms it (safety rule RE5).
    Unconfirmed,
}

impl Why {
    fn text(self) -> &'static str {
        match self {
            Self::TakenBack => "this node's IMDS showed them and shows them no more",
            Self::NotShown => "this node's IMDS does not show them",
            Self::Unconfirmed => "nothing has confirmed them since the boot",
        }
    }
}

/// What is withheld, and since when.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Withheld(BTreeMap<Ipv4Addr, (Duration, Why)>);

impl Withheld {
    /// Takes note of what is withheld now.
    pub fn look(&mut self, now: Duration, withheld: &BTreeMap<Ipv4Addr, Why>) {
        self.0.retain(|address, _| withheld.contains_key(address));
        for (address, why) in withheld {
            self.0.entry(*address).or_insert((now, *why)).1 = *why;
        }
    }

    /// Those worth telling: what was taken back at once, the others once they are no longer on their way.
    #[must_use]
    pub fn lasting(&self, now: Duration) -> BTreeMap<Ipv4Addr, Why> {
        let lasts = |since: Duration, why: Why| match why {
            Why::TakenBack => true,
            Why::NotShown | Why::Unconfirmed => since + ON_ITS_WAY <= now,
        };
        self.0.iter().filter(|(_, (since, why))| lasts(*since, *why)).map(|(address, (_, why))| (*address, *why)).collect()
    }
}

/// What to say of them; nothing where there are none.
#[must_use]
pub fn message(withheld: &BTreeMap<Ipv4Addr, Why>) -> Option<String> {
    let reasons: BTreeSet<Why> = withheld.values().copied().collect();
    let part = |why: Why| {
        let all: Vec<String> = withheld.iter().filter(|(_, other)| **other == why).map(|(address, _)| address.to_string()).collect();
        let named = all.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
        let rest = if all.len() > NAMED { format!(" and {} more", all.len() - NAMED) } else { String::new() };
        format!("{named}{rest} ({})", why.text())
    };
    let parts = reasons.into_iter().map(part).collect::<Vec<_>>().join("; ");
    (!withheld.is_empty()).then(|| {
        format!(
            "{} attached addresses are withheld from pods: {parts}. Compare the NIC in Azure with what its machine's IMDS answers; an address that the \
             NIC has lost is reported as lost, one that it has comes back by itself once IMDS shows it",
            withheld.len()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn address(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 0, last)
    }

    #[test]
    fn re6_an_address_on_its_way_is_no_news_and_re5_one_that_was_taken_back_is_at_once() {
        let mut withheld = Withheld::default();
        let both = BTreeMap::from([(address(5), Why::NotShown), (address(6), Why::TakenBack)]);
        withheld.look(secs(100), &both);
        assert_eq!(withheld.lasting(secs(100)), BTreeMap::from([(address(6), Why::TakenBack)]));
        withheld.look(secs(150), &both);
        assert_eq!(withheld.lasting(secs(190)), both, "the time counts from the first look");
        withheld.look(secs(200), &BTreeMap::new());
        assert_eq!(withheld, Withheld::default());
    }

    #[test]
    fn the_message_says_how_many_which_and_why() {
        assert_eq!(message(&BTreeMap::new()), None);
        let many = (1..=7).map(|last| (address(last), Why::NotShown)).chain([(address(9), Why::TakenBack)]).collect();
        let text = message(&many).unwrap();
        assert!(text.starts_with("8 attached addresses are withheld from pods: 10.0.0.9 (this node's IMDS showed them"), "{text}");
        assert!(
            text.contains("10.0.0.1, 10.0.0.2, 10.0.0.3, 10.0.0.4, 10.0.0.5 and 2 more (this node's IMDS does not show them)"),
            "{text}"
        );
    }
}
