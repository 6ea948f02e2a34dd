//! What can be mended from a report, and what came of it. Every finding is looked at anew right before, left alone unless it is still the same, and
//! called repaired only where a look afterwards does not find it any more.

use std::{fmt, net::Ipv4Addr};

use jiff::Timestamp;
use serde::Serialize;

use super::report::{Finding, Kind, Outcome, Report};

const OVER: &str = "it was over before anything was done";

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
            | Self::BridgedWithoutRoute
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
    /// Somebody who would know could not be asked.
    Unseen,
}

/// What is so `now` of a finding of a `report`. Over is only what all could say that would know, and mendable only what nothing graver is found of: a
/// route leads packets to a pod whose address may be another's.
pub(super) fn of(found: &Finding, report: &Report, now: &Report) -> Now {
    let boot = |of: &Report| of.nodes.iter().find(|looked| looked.node == found.node).and_then(|looked| looked.boot_id.clone());
    let is_found = now.findings.iter().any(|other| other.is_same(found));
    let repair = found.kind.repair();
    if is_found && repair.is_none() {
        return Now::Others;
    }
    let Some(running) = boot(now) else { return Now::Unseen };
    if boot(report).is_some_and(|reported| reported != running) {
        return Now::OtherBoot;
    }
    if let (true, Some(repair)) = (is_found, repair) {
        let is_graver = |other: &&Finding| other.kind < found.kind && other.address.is_some() && other.is_about_the_same(found);
        return now.findings.iter().find(is_graver).map_or(Now::Mendable(repair), |graver| Now::Another(graver.kind));
    }
    if let Some(other) = now.findings.iter().find(|other| other.is_about_the_same(found)) {
        return Now::Another(other.kind);
    }
    let is_hidden = now.unseen.iter().any(|unseen| unseen.node == found.node && found.kind.needs(unseen.source));
    let is_back = now.once.iter().any(|other| other.is_about_the_same(found));
    if is_hidden || is_back { Now::Unseen } else { Now::Over }
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
    /// It was to be mended, and that was refused or failed, or a look afterwards finds it, or could not look.
    Failed,
}

/// What was done about a finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Done {
    /// Nothing, or not yet.
    Nothing,
    /// All that can be done.
    All,
    /// It was refused, went wrong, or was not tried, and why.
    Failed(String),
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

impl Repairs {
    /// How it ended: as the look afterwards, but never clean where something could not be mended.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        let has_failed = self.results.iter().any(|result| result.end == End::Failed);
        match self.left.outcome() {
            Outcome::Clean if has_failed => Outcome::Differs,
            outcome @ (Outcome::Clean | Outcome::Differs | Outcome::Incomplete) => outcome,
        }
    }
}

/// How a repair ended, by what was so `before` anything was done, what was done, and what is so after it; and that in words.
pub(super) fn end(kind: Kind, before: Now, done: Done, after: Now) -> (End, String) {
    let repair = match before {
        Now::Mendable(repair) => repair,
        Now::Over if after == Now::Over => return (End::Over, OVER.to_owned()),
        Now::Over => return (End::Left, format!("{OVER}, and then {}", left(kind, after))),
        Now::Others | Now::Another(_) | Now::OtherBoot | Now::Unseen => return (End::Left, left(kind, before)),
    };
    let did = match repair {
        Repair::Route => "the node made the route",
        Repair::RestartAgent => "the agent was started anew",
    };
    let because = if let Done::Failed(why) = &done { format!(": {why}") } else { String::new() };
    match (after, done) {
        (Now::Over, Done::All) => (End::Repaired, format!("{did}, and it is found no more")),
        (Now::Over, Done::Nothing) => (End::Over, OVER.to_owned()),
        (Now::Over, Done::Failed(why)) => (End::Failed, format!("it is found no more, but: {why}")),
        (Now::Unseen, _) => (End::Failed, format!("whether it is over could not be seen{because}")),
        (Now::Another(kind), _) => (End::Failed, format!("it is {kind:?} now{because}")),
        (Now::OtherBoot, _) => (End::Failed, format!("the node has booted meanwhile{because}")),
        (Now::Mendable(_) | Now::Others, _) => (End::Failed, format!("it is still found{because}")),
    }
}

/// Why nothing is done about a finding.
fn left(kind: Kind, now: Now) -> String {
    match now {
        Now::Mendable(_) => "it was found again: make a new report".to_owned(),
        Now::Others => kind.remedy().to_owned(),
        Now::Another(kind) => format!("it is {kind:?} now: {}", kind.remedy()),
        Now::Over => OVER.to_owned(),
        Now::OtherBoot => "the node has booted since: make a new report".to_owned(),
        Now::Unseen => "whether it is still so could not be seen".to_owned(),
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
