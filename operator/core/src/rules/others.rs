//! Rules of others in the kernel's own chains, which we name and leave alone.

use std::{collections::BTreeSet, net::Ipv4Addr};

use ipnet::Ipv4Net;

use super::{Chains, Table, WIRESERVER};

/// Rules of others that come before ours and decide about pods' packets in their place. They stay: whose they are is not for us to know.
#[must_use]
pub fn foreign(observed: &Chains, pool: &BTreeSet<Ipv4Addr>) -> Vec<String> {
    let decides = |table: Table, rule: &Foreign<'_>| match (table, rule.target) {
        (Table::Mangle, "ACCEPT" | "RETURN") => rule.opens_wireserver(pool),
        (Table::Nat, "MASQUERADE" | "SNAT" | "NETMAP" | "ACCEPT" | "IP-MASQ-AGENT")
        | (Table::Filter, "DROP" | "REJECT")
        | (Table::Mangle, "DROP") => rule.concerns(pool),
        (Table::Nat | Table::Filter | Table::Mangle, _) => false,
    };
    let mut found = vec![];
    for table in Table::ALL {
        let (ours, _) = table.jump();
        let ours = format!("-j {ours}");
        let before = observed.get(table, table.base()).unwrap_or_default().iter().take_while(|rule| **rule != ours);
        let decisive = before.filter(|text| Foreign::read(text).is_some_and(|rule| decides(table, &rule)));
        found.extend(decisive.map(|rule| format!("{}/{}: {rule}", table.name(), table.base())));
    }
    found
}

/// What matters of another's rule.
struct Foreign<'a> {
    target: &'a str,
    source: Option<Ipv4Net>,
    destination: Option<Ipv4Net>,
    protocol: Option<&'a str>,
}

impl<'a> Foreign<'a> {
    /// Reads a rule; `None` for one that asks for more than addresses, as a mark or a state: whom it means cannot be told.
    fn read(rule: &'a str) -> Option<Self> {
        let words: Vec<&str> = rule.split(' ').collect();
        let is_narrow = words.windows(2).any(|pair| matches!(pair, ["-m", "mark" | "conntrack" | "state" | "set" | "addrtype"]));
        let value = |flag: &str| {
            let at = words.iter().position(|word| *word == flag)?;
            let is_negated = at.checked_sub(1).and_then(|at| words.get(at)).is_some_and(|word| *word == "!");
            words.get(at + 1).copied().filter(|_| !is_negated)
        };
        let net = |flag: &str| value(flag).and_then(|text| text.parse().ok());
        let target = value("-j").filter(|_| !is_narrow)?;
        Some(Self { target, source: net("-s"), destination: net("-d"), protocol: value("-p") })
    }

    /// Whether it is about pods: rules for a single other destination are somebody's intention.
    fn concerns(&self, pool: &BTreeSet<Ipv4Addr>) -> bool {
        let holds = |net: &Option<Ipv4Net>| net.is_none_or(|net| pool.iter().any(|address| net.contains(address)));
        holds(&self.source) && holds(&self.destination)
    }

    /// Whether it lets pods pass to the host agent, before our guard has seen them.
    fn opens_wireserver(&self, pool: &BTreeSet<Ipv4Addr>) -> bool {
        let from_pods = self.source.is_none_or(|net| pool.iter().any(|address| net.contains(address)));
        let to_wireserver = self.destination.is_none_or(|net| net.contains(&WIRESERVER));
        from_pods && to_wireserver && self.protocol.is_none_or(|protocol| protocol == "tcp")
    }
}

/// Rules of others that hide what is forwarded behind the node: as Docker and whoever shares a way out make them. kube-proxy's are not among
/// them, which stand in chains of its own and are there on every node.
#[must_use]
pub fn hidden_by_others(observed: &Chains) -> Vec<String> {
    let hides = |rule: &&String| ["-j MASQUERADE", "-j SNAT"].iter().any(|target| rule.contains(target));
    let rules = observed.get(Table::Nat, Table::Nat.base()).unwrap_or_default().iter().filter(hides);
    rules.map(|rule| format!("{} {rule}", Table::Nat.base())).collect()
}
