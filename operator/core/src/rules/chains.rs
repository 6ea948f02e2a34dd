//! The tables and chains that we touch, and what they hold.

use std::collections::BTreeMap;

use super::{EGRESS, FORWARD, GUARD, MASQ};

/// An iptables table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// `mangle`.
    Mangle,
    /// `nat`.
    Nat,
    /// `filter`.
    Filter,
}

impl Table {
    /// All that we touch, in the order in which they are written: what is closed to pods comes before what is opened to them.
    pub const ALL: [Self; 3] = [Self::Mangle, Self::Nat, Self::Filter];

    /// Its name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mangle => "mangle",
            Self::Nat => "nat",
            Self::Filter => "filter",
        }
    }

    /// Our chains in it.
    #[must_use]
    pub const fn chains(self) -> &'static [&'static str] {
        match self {
            Self::Mangle => &[GUARD],
            Self::Nat => &[MASQ, EGRESS],
            Self::Filter => &[FORWARD],
        }
    }

    /// Chains in it that earlier versions of the agent had, and that go.
    #[must_use]
    pub const fn former(self) -> &'static [&'static str] {
        match self {
            Self::Mangle | Self::Nat => &[],
            Self::Filter => &[GUARD],
        }
    }

    /// The kernel's chain that jumps to ours.
    #[must_use]
    pub const fn base(self) -> &'static str {
        match self {
            Self::Nat => "POSTROUTING",
            Self::Mangle | Self::Filter => "FORWARD",
        }
    }

    /// Every chain in it that is read.
    pub fn read(self) -> impl Iterator<Item = &'static str> {
        [self.base()].into_iter().chain(self.chains().iter().copied()).chain(self.former().iter().copied())
    }

    /// Our chain that the base chain jumps to, and where the jump stands when it is made. The guard is in a table of its own: an ACCEPT ends only
    /// the chains of its own table, and in `filter` network policy engines and kube-proxy accept on top, in whatever order they came. It is in
    /// FORWARD and not in PREROUTING since destinations of services are known only then, and what the host itself sends does not pass there.
    pub(super) const fn jump(self) -> (&'static str, Place) {
        match self {
            Self::Mangle => (GUARD, Place::First),
            Self::Nat => (MASQ, Place::Last),
            Self::Filter => (FORWARD, Place::Last),
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
        for chain in table.read() {
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
