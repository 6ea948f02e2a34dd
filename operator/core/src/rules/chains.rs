//! The tables and chains that we touch, and what they hold.

use std::collections::BTreeMap;

use super::{EGRESS, FORWARD, GUARD, MASQ};

/// An iptables table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// `nat`.
    Nat,
    /// `filter`.
    Filter,
}

impl Table {
    /// All that we touch.
    pub const ALL: [Self; 2] = [Self::Nat, Self::Filter];

    /// Its name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nat => "nat",
            Self::Filter => "filter",
        }
    }

    /// Our chains in it.
    #[must_use]
    pub const fn chains(self) -> &'static [&'static str] {
        match self {
            Self::Nat => &[MASQ, EGRESS],
            Self::Filter => &[GUARD, FORWARD],
        }
    }

    /// The kernel's chain that jumps to ours.
    #[must_use]
    pub const fn base(self) -> &'static str {
        match self {
            Self::Nat => "POSTROUTING",
            Self::Filter => "FORWARD",
        }
    }

    /// Our chains that the base chain jumps to. The guard stands first, since a rule that accepts before it (kube-proxy accepts what it
    /// marked) would open the wireserver; the others stand last and leave room for everybody else's.
    pub(super) const fn jumps(self) -> &'static [(&'static str, Place)] {
        match self {
            Self::Nat => &[(MASQ, Place::Last)],
            Self::Filter => &[(GUARD, Place::First), (FORWARD, Place::Last)],
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    First,
    Last,
}

/// Chains by table and name, each a list of rules as `iptables -S` prints them, without `-A <chain>`. A chain that does not exist is not in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chains(pub(super) BTreeMap<(Table, String), Vec<String>>);

impl Chains {
    /// Records what `iptables -S <chain>` printed.
    pub fn record(&mut self, table: Table, chain: &str, printed: &str) {
        let prefix = format!("-A {chain} ");
        let rules = printed.lines().filter_map(|line| line.trim_end().strip_prefix(&prefix)).map(str::to_owned).collect();
        self.0.insert((table, chain.to_owned()), rules);
    }

    /// Records what `iptables-save` printed of a table, as far as it is ours or jumps to ours.
    pub fn record_table(&mut self, table: Table, saved: &str) {
        for chain in std::iter::once(&table.base()).chain(table.chains()) {
            let declared = format!(":{chain} ");
            if saved.lines().any(|line| line.starts_with(&declared)) {
                self.record(table, chain, saved);
            }
        }
    }

    /// The rules of a chain, `None` when there is no such chain.
    #[must_use]
    pub fn get(&self, table: Table, chain: &str) -> Option<&[String]> {
        self.0.get(&(table, chain.to_owned())).map(Vec::as_slice)
    }

    pub(super) fn set(&mut self, table: Table, chain: &str, rules: Vec<String>) {
        self.0.insert((table, chain.to_owned()), rules);
    }
}
