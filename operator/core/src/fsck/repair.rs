//! What can be mended from a report, and what came of it. Every finding is looked at anew right before, left alone unless it is still the same, and
//! called repaired only where a look afterwards does not find it any more.

use std::{collections::BTreeSet, fmt, net::Ipv4Addr};

use jiff::Timestamp;
use serde::Serialize;

use super::report::{Finding, Kind, Report};

/// What is done about a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Repair {
    /// The node gives the pod its route again, where nobody else has one to the address (safety rule ST4).
    Route,
    /// The agent is started anew: it makes the leases of pods that are there before it seals the store (safety rule ST3).
    RestartAgent,
}

impl Kind {
    /// What can be done about it by who only looks on; nothing that frees an address or writes to Azure.
    #[must_use]
    pub fn repair(self) -> Option<Repair> {
        match self {
            Self::LinkWithoutRoute => Some(Repair::Route),
            Self::LinkWithoutLease => Some(Repair::RestartAgent),
            Self::TwoPods
            | Self::TwoNodes
            | Self::TwoOwners
            | Self::PodWithoutLease
            | Self::PoolDiffers
            | Self::OtherMachine
            | Self::OtherReport
            | Self::LostInUse
            | Self::NoAddressOfNode
            | Self::LeaseWithoutPod
            | Self::LeaseWithoutLink
            | Self::OutsidePool
            | Self::Unreadable
            | Self::NoPool
            | Self::Withheld
            | Self::Regressed
            | Self::RevisionBehind
            | Self::AzureDiffers
            | Self::WriteOverdue => None,
        }
    }
}

/// What a fresh look says of a finding of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Now {
    /// It is still so, and can be mended.
    Mendable(Repair),
    /// It is still so, and others mend it.
    Others,
    /// Something else is wrong there now.
    Another(Kind),
    /// It is over.
    Over,
    /// The node has booted since.
    OtherBoot,
    /// The node could not be looked at.
    Unseen,
}

/// Looks up what is so now of each finding of a report, on these nodes, or on all if none is named.
#[must_use]
pub fn plan(report: &Report, nodes: &[String], now: &Report) -> Vec<(Finding, Now)> {
    let chosen = report.findings.iter().filter(|found| nodes.is_empty() || nodes.contains(&found.node));
    chosen.map(|found| (found.clone(), of(found, report, now))).collect()
}

fn of(found: &Finding, report: &Report, now: &Report) -> Now {
    let boot = |of: &Report| of.nodes.iter().find(|looked| looked.node == found.node).and_then(|looked| looked.boot_id.clone());
    let Some(running) = boot(now) else { return Now::Unseen };
    if boot(report).is_some_and(|reported| reported != running) {
        return Now::OtherBoot;
    }
    if !now.findings.iter().any(|other| other.is_same(found)) {
        return not_the_same(found, now);
    }
    found.kind.repair().map_or(Now::Others, Now::Mendable)
}

fn not_the_same(found: &Finding, now: &Report) -> Now {
    now.findings.iter().find(|other| other.is_about_the_same(found)).map_or(Now::Over, |other| Now::Another(other.kind))
}

/// The addresses of a node whose finding is to be mended so.
#[must_use]
pub fn to_mend(plan: &[(Finding, Now)], node: &str, repair: Repair) -> BTreeSet<Ipv4Addr> {
    let these = plan.iter().filter(|(found, now)| found.node == node && *now == Now::Mendable(repair));
    these.filter_map(|(found, _)| found.address).collect()
}

/// The nodes with something to mend so.
#[must_use]
pub fn nodes_to_mend(plan: &[(Finding, Now)], repair: Repair) -> BTreeSet<String> {
    plan.iter().filter(|(_, now)| *now == Now::Mendable(repair)).map(|(found, _)| found.node.clone()).collect()
}

/// How the repair of one finding ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Mended {
    /// On which node.
    pub node: String,
    /// Which finding.
    pub kind: Kind,
    /// Of which address.
    pub address: Option<Ipv4Addr>,
    /// Of whom.
    pub who: String,
    /// How.
    pub end: End,
    /// In words.
    pub says: String,
}

/// How the repair of a finding ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum End {
    /// It was mended: a look afterwards does not find it.
    Repaired,
    /// It was over before anything was done.
    Over,
    /// Nothing was done about it: it is others' to mend, or is not what the report says.
    Left,
    /// It was to be mended, and a look afterwards finds it, or could not look.
    Failed,
}

/// What came of a repair.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Repairs {
    /// When it was looked at afterwards.
    pub at: Timestamp,
    /// Each finding of the report.
    pub results: Vec<Mended>,
    /// What is there now.
    pub left: Report,
}

/// Says what came of each finding of a plan, by a look `before` anything was done and one afterwards. `said` is what went wrong on a node meanwhile.
#[must_use]
pub fn results(plan: &[(Finding, Now)], before: &Report, left: Report, said: impl Fn(&str) -> Option<String>) -> Repairs {
    let result = |(found, now): &(Finding, Now)| {
        let (end, says) = end(found, *now, of(found, before, &left), said(&found.node));
        let Finding { node, kind, address, who, .. } = found.clone();
        Mended { node, kind, address, who, end, says }
    };
    Repairs { at: left.at, results: plan.iter().map(result).collect(), left }
}

fn end(found: &Finding, before: Now, after: Now, said: Option<String>) -> (End, String) {
    let repair = match before {
        Now::Mendable(repair) => repair,
        Now::Others => return (End::Left, found.kind.remedy().to_owned()),
        Now::Another(kind) => return (End::Left, format!("it is {kind:?} now: {}", kind.remedy())),
        Now::Over => return (End::Over, "it was over before anything was done".to_owned()),
        Now::OtherBoot => return (End::Left, "the node has booted since: make a new report".to_owned()),
        Now::Unseen => return (End::Left, "the node could not be looked at".to_owned()),
    };
    let done = match repair {
        Repair::Route => "the node made the route",
        Repair::RestartAgent => "the agent was started anew",
    };
    let because = said.map(|said| format!(": {said}")).unwrap_or_default();
    match after {
        Now::Over => (End::Repaired, format!("{done}, and it is found no more")),
        Now::Unseen => (End::Failed, format!("whether it is over could not be seen{because}")),
        Now::Another(kind) => (End::Failed, format!("it is {kind:?} now{because}")),
        Now::OtherBoot => (End::Failed, format!("the node has booted meanwhile{because}")),
        Now::Mendable(_) | Now::Others => (End::Failed, format!("it is still found{because}")),
    }
}

impl fmt::Display for Repairs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Mended { node, kind, address, who, end, says } in &self.results {
            let sign = match end {
                End::Repaired | End::Over => '✓',
                End::Left => '·',
                End::Failed => '✗',
            };
            let address = address.map(|address| format!(" {address}")).unwrap_or_default();
            let who = if who.is_empty() { String::new() } else { format!(" of {who}") };
            writeln!(f, "{sign} {node}: {kind:?}{address}{who}: {says}")?;
        }
        write!(f, "\nNow:\n{}", self.left)
    }
}
