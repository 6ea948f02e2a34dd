//! `connectivity`: who reaches whom and by which address, from what probes in pods were answered; and what to look at where one is not.

mod blame;
mod nodes;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::Ipv4Addr,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Cluster, Sees, Table, explain::sees};
pub use blame::Failure;
pub use nodes::choose_nodes;

/// A pod that asks and answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Probe {
    /// `namespace/name`.
    pub pod: String,
    /// Its node.
    pub node: String,
    /// Its address, if it came to one.
    pub address: Option<Ipv4Addr>,
    /// Why it takes no part.
    pub absent: Option<String>,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Goal {
    /// The probe of this pod.
    Pod(String),
    /// Any probe, by a Service before all of them.
    Service,
    /// The API server, by its Service.
    ApiServer,
    /// The cluster's DNS, for the API server's name.
    Dns,
    /// What the user named.
    Place(String),
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(name) | Self::Place(name) => f.write_str(name),
            Self::Service => f.write_str("Service"),
            Self::ApiServer => f.write_str("API server"),
            Self::Dns => f.write_str("DNS"),
        }
    }
}

/// What a probe heard, as it says it: one JSON object a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "heard")]
pub enum Heard {
    /// Another probe answered.
    Probe {
        /// Its pod.
        name: String,
        /// The asking side's address as that one saw it.
        sees: Ipv4Addr,
        /// How long it took.
        micros: u64,
    },
    /// Something took the connection, or answered the question.
    Something {
        /// How long it took.
        micros: u64,
    },
    /// Nothing.
    Nothing {
        /// What came in its place.
        why: String,
    },
}

/// One question, and what was heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The asking pod.
    pub from: String,
    /// What it asked for.
    pub to: Goal,
    /// Where.
    pub target: String,
    /// What it heard.
    pub heard: Heard,
}

/// One way through the network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Way {
    /// The asking pod.
    pub from: String,
    /// What it asked for.
    pub to: Goal,
    /// Where.
    pub target: String,
    /// How that went.
    pub outcome: Outcome,
    /// The asking side's address as the other side saw it, if that said so.
    pub seen: Option<Ipv4Addr>,
    /// How long the answer took.
    pub micros: Option<u64>,
    /// What is wrong, in words.
    pub wrong: Option<String>,
}

/// How a question went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// As it should.
    Reached,
    /// The other side saw an address that the rules do not make.
    WrongSource,
    /// Another one answered.
    Stranger,
    /// No answer.
    NotReached,
}

/// Who reaches whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Connectivity {
    /// When the cluster was read.
    pub at: Timestamp,
    /// Who took part, and who was to.
    pub probes: Vec<Probe>,
    /// Every question.
    pub ways: Vec<Way>,
    /// What is wrong, by its likely cause.
    pub failures: Vec<Failure>,
    /// What was not asked, and why.
    pub notes: Vec<String>,
}

/// Judges what was heard.
#[must_use]
pub fn connectivity(cluster: &Cluster, probes: Vec<Probe>, asked: Vec<Asked>, notes: Vec<String>) -> Connectivity {
    let ways: Vec<Way> = asked.into_iter().map(|asked| judge(cluster, &probes, asked)).collect();
    let failures = blame::failures(&probes, &ways);
    Connectivity { at: cluster.at, probes, ways, failures, notes }
}

impl Connectivity {
    /// Whether all was asked and went as it should.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.failures.is_empty() && !self.ways.is_empty()
    }
}

fn judge(cluster: &Cluster, probes: &[Probe], asked: Asked) -> Way {
    let Asked { from, to, target, heard } = asked;
    let (mut outcome, mut wrong) = (Outcome::Reached, None);
    let (seen, micros) = match &heard {
        Heard::Probe { name, sees, micros } => {
            (outcome, wrong) = answered(cluster, probes, &from, &to, name, *sees);
            (Some(*sees), Some(*micros))
        }
        Heard::Something { micros } => {
            if let Goal::Pod(_) | Goal::Service = to {
                (outcome, wrong) = (Outcome::Stranger, Some("what answers is no probe".to_owned()));
            }
            (None, Some(*micros))
        }
        Heard::Nothing { why } => {
            (outcome, wrong) = (Outcome::NotReached, Some(why.clone()));
            (None, None)
        }
    };
    Way { from, to, target, outcome, seen, micros, wrong }
}

fn answered(cluster: &Cluster, probes: &[Probe], from: &str, to: &Goal, name: &str, seen: Ipv4Addr) -> (Outcome, Option<String>) {
    let find = |pod: &str| probes.iter().find(|probe| probe.pod == pod);
    match to {
        Goal::Pod(wanted) if name != wanted => {
            return (Outcome::Stranger, Some(format!("{name} answers at the address of {wanted}")));
        }
        Goal::Service if find(name).is_none() => {
            return (Outcome::Stranger, Some(format!("{name} answers for the Service of the probes")));
        }
        // The node gives a pod that reaches itself through a Service an address of its own.
        Goal::Service if name == from => return (Outcome::Reached, None),
        Goal::Pod(_) | Goal::Service => {}
        Goal::ApiServer | Goal::Dns | Goal::Place(_) => return (Outcome::Reached, None),
    }
    let expected = find(from).zip(find(name)).and_then(|(from, to)| source(cluster, from, to.address?));
    match expected {
        Some(expected) if expected != seen => (Outcome::WrongSource, Some(format!("{name} saw {seen} in place of {expected}"))),
        _ => (Outcome::Reached, None),
    }
}

/// The address that the other side should see, where the pod's node is served.
fn source(cluster: &Cluster, from: &Probe, to: Ipv4Addr) -> Option<Ipv4Addr> {
    let pool = cluster.pool(&from.node)?;
    match sees(pool, to) {
        Sees::Pod => from.address,
        Sees::Node => pool.spec.node.primary_address.parse().ok(),
    }
}

impl fmt::Display for Connectivity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let asking: Vec<&Probe> = self.probes.iter().filter(|probe| probe.absent.is_none()).collect();
        write!(f, "{}", self.matrix(&asking))?;
        if !asking.is_empty() {
            writeln!(f, "\n✓ reached   ≠ reached, not as it should be   ✗ not reached   · itself")?;
        }
        for Failure { what, look_at, ways } in &self.failures {
            let count = if *ways > 1 { format!(" ({ways} ways)") } else { String::new() };
            writeln!(f, "\n✗ {what}{count}\n  look at: {look_at}")?;
        }
        if self.passed() {
            writeln!(f, "\n✓ all {} ways are open, by the address that they should have", self.ways.len())?;
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "\nnote: {note}"))
    }
}

impl Connectivity {
    fn matrix(&self, asking: &[&Probe]) -> Table {
        let places: BTreeSet<&Goal> = self.ways.iter().map(|way| &way.to).filter(|to| !matches!(to, Goal::Pod(_))).collect();
        let outcomes: BTreeMap<(&str, &Goal), Outcome> = self.ways.iter().map(|way| ((way.from.as_str(), &way.to), way.outcome)).collect();
        let mut table = Table::default();
        let head = ["FROM", "ON NODE", "ADDRESS"].map(str::to_owned).into_iter();
        let numbers = (1..=asking.len()).map(|number| number.to_string());
        table.row(head.chain(numbers).chain(places.iter().map(ToString::to_string)));
        let namespaces: BTreeSet<&str> = asking.iter().filter_map(|probe| Some(probe.pod.split_once('/')?.0)).collect();
        for (index, from) in asking.iter().enumerate() {
            let address = from.address.map(|address| address.to_string()).unwrap_or_default();
            // A namespace that all of them are in says nothing.
            let short = if namespaces.len() == 1 { from.pod.rsplit('/').next() } else { None };
            let name = format!("{} {}", index + 1, short.unwrap_or(&from.pod));
            let sign = |to: &Goal| outcomes.get(&(from.pod.as_str(), to)).map_or("", |outcome| outcome.sign());
            let pods = asking.iter().map(|to| if from.pod == to.pod { "·" } else { sign(&Goal::Pod(to.pod.clone())) });
            let places = places.iter().map(|to| sign(to));
            table.row([name, from.node.clone(), address].into_iter().chain(pods.chain(places).map(str::to_owned)));
        }
        table
    }
}

impl Outcome {
    fn sign(self) -> &'static str {
        match self {
            Self::Reached => "✓",
            Self::WrongSource | Self::Stranger => "≠",
            Self::NotReached => "✗",
        }
    }
}

#[cfg(test)]
mod tests;
