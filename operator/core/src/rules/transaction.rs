//! From what is there to what should be, as one transaction.

use std::fmt::Write as _;

use super::{Chains, Table, chains::Place};

/// One `iptables-restore --noflush` transaction; empty when nothing differs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What the restore program reads.
    pub restore: String,
    /// What differs, for people: `nat/AZURE-VNET-MASQ`.
    pub differs: Vec<String>,
}

impl Plan {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.restore.is_empty()
    }
}

/// Plans from what is there to what should be. Only tables that differ are written; each is one commit of the kernel, so no packet sees half of it.
#[must_use]
pub fn plan(observed: &Chains, desired: &Chains) -> Plan {
    let mut plan = Plan::default();
    for table in Table::ALL {
        let mut written = changed(table, observed, desired);
        let jumps = jumps(table, observed);
        let former = removal(table, table.former(), observed);
        if written.is_empty() && jumps.is_empty() && former.is_empty() {
            continue;
        }
        plan.differs.extend(written.iter().map(|(chain, _)| format!("{}/{chain}", table.name())));
        if !jumps.is_empty() {
            plan.differs.push(format!("{}/{}", table.name(), table.base()));
        }
        plan.differs.extend(former.chains.iter().map(|chain| format!("{}/{chain}", table.name())));
        written.extend(former.chains.iter().map(|chain| (*chain, &[][..])));
        write_table(&mut plan.restore, table, &written, &[jumps, former.lines].concat());
    }
    plan
}

fn changed<'a>(table: Table, observed: &Chains, desired: &'a Chains) -> Vec<(&'static str, &'a [String])> {
    let wanted = table.chains().iter().filter_map(|chain| desired.get(table, chain).map(|rules| (*chain, rules)));
    wanted.filter(|(chain, rules)| observed.get(table, chain) != Some(*rules)).collect()
}

/// Makes the jump stand exactly once. Its place is chosen when it is made and not fought over later.
fn jumps(table: Table, observed: &Chains) -> Vec<String> {
    let (chain, place) = table.jump();
    let jump = format!("-j {chain}");
    let present = observed.get(table, table.base()).unwrap_or_default();
    match (present.iter().filter(|rule| **rule == jump).count(), place) {
        (0, Place::First) => vec![format!("-I {} 1 {jump}", table.base())],
        (0, Place::Last) => vec![format!("-A {} {jump}", table.base())],
        (count, _) => vec![format!("-D {} {jump}", table.base()); count.saturating_sub(1)],
    }
}

/// How chains and the jumps to them go.
struct Removal {
    chains: Vec<&'static str>,
    lines: Vec<String>,
}

impl Removal {
    fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }
}

fn removal(table: Table, chains: &[&'static str], observed: &Chains) -> Removal {
    let present = observed.get(table, table.base()).unwrap_or_default();
    let is_jump = |rule: &&String| chains.iter().any(|chain| **rule == format!("-j {chain}"));
    let jumps = present.iter().filter(is_jump).map(|rule| format!("-D {} {rule}", table.base()));
    let chains: Vec<_> = chains.iter().filter(|chain| observed.get(table, chain).is_some()).copied().collect();
    let lines = jumps.chain(chains.iter().map(|chain| format!("-X {chain}"))).collect();
    Removal { chains, lines }
}

/// Plans towards nothing of ours: for the back end that the node does not use, and for uninstalling.
#[must_use]
pub fn withdraw(observed: &Chains) -> Plan {
    let mut plan = Plan::default();
    for table in Table::ALL {
        let Removal { chains, lines } = removal(table, &[table.chains(), table.former()].concat(), observed);
        if lines.is_empty() {
            continue;
        }
        plan.differs.extend(chains.iter().map(|chain| format!("{}/{chain}", table.name())));
        let emptied: Vec<_> = chains.iter().map(|chain| (*chain, &[][..])).collect();
        write_table(&mut plan.restore, table, &emptied, &lines);
    }
    plan
}

/// A chain's declaration empties it under `--noflush`; every other chain stays as it is.
fn write_table(out: &mut String, table: Table, chains: &[(&str, &[String])], lines: &[String]) {
    let written = (|| {
        writeln!(out, "*{}", table.name())?;
        for (chain, _) in chains {
            writeln!(out, ":{chain} - [0:0]")?;
        }
        for (chain, rules) in chains {
            for rule in *rules {
                writeln!(out, "-A {chain} {rule}")?;
            }
        }
        for line in lines {
            writeln!(out, "{line}")?;
        }
        writeln!(out, "COMMIT")
    })();
    debug_assert!(written.is_ok(), "writing to a string does not fail");
}
