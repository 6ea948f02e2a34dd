//! The report of a cluster: what differs, by whose word, what it means and who mends it; and what could not be looked at.

use std::{collections::BTreeSet, fmt, net::Ipv4Addr};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::node;
use crate::look::ago;

/// What was looked at in a cluster, and where those who know it differ.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// When the API server's objects were read.
    pub at: Timestamp,
    /// What was looked at.
    pub nodes: Vec<Looked>,
    /// The differences; none where all that was seen agrees.
    pub findings: Vec<Finding>,
    /// What could not be looked at: nothing is known of it.
    pub unseen: Vec<Unseen>,
    /// What the second of two looks alone found: it may be over the next moment, or stay. Not told by a version before this one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub once: Vec<Finding>,
}

/// One node that was looked at, and when each last knew what it says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Looked {
    /// Its name.
    pub node: String,
    /// Its running boot, by its own word.
    #[serde(rename = "bootID")]
    pub boot_id: Option<String>,
    /// When the controller last read its NIC.
    pub nic_read: Option<Timestamp>,
    /// When its store and kernel were read, by its own clock.
    pub node_read: Option<Timestamp>,
}

/// Something that nobody could say.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Unseen {
    /// Of which node.
    pub node: String,
    /// Whose word is missing.
    pub source: Source,
    /// Why.
    pub why: String,
}

/// Who says something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Source {
    /// Azure's NIC, as the controller last read it.
    Azure,
    /// The controller, in the node's `AzureVnetNode`.
    Controller,
    /// The node's agent, in the same object.
    Agent,
    /// The node's store.
    Store,
    /// The node's kernel.
    Kernel,
    /// The API server's pods and Nodes.
    ApiServer,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Azure => "Azure",
            Self::Controller => "the controller",
            Self::Agent => "the agent",
            Self::Store => "the node's store",
            Self::Kernel => "the node's kernel",
            Self::ApiServer => "the API server",
        })
    }
}

/// One's word, and of when it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Witness {
    /// Who.
    pub source: Source,
    /// Of when; none where that is not told.
    pub at: Option<Timestamp>,
    /// What.
    pub says: String,
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// On which node.
    pub node: String,
    /// Which one.
    pub kind: Kind,
    /// Of which address.
    pub address: Option<Ipv4Addr>,
    /// Of whom: a pod, or `container/interface`.
    pub who: String,
    /// In words.
    pub what: String,
    /// Who says what.
    pub witnesses: Vec<Witness>,
    /// What follows from it.
    pub means: String,
    /// Who mends it, and how.
    pub remedy: String,
}

impl Finding {
    pub(super) fn new(node: &str, kind: Kind, address: Option<Ipv4Addr>, who: &str, what: &str) -> Self {
        let (means, remedy) = (kind.means().to_owned(), kind.remedy().to_owned());
        Self { node: node.to_owned(), kind, address, who: plain(who), what: plain(what), witnesses: vec![], means, remedy }
    }

    pub(super) fn says(mut self, source: Source, at: Option<Timestamp>, says: impl Into<String>) -> Self {
        self.witnesses.push(Witness { source, at, says: plain(&says.into()) });
        self
    }

    /// What is found, and of whom, in a line.
    fn title(&self) -> String {
        let address = self.address.map(|address| format!(" {address}")).unwrap_or_default();
        let who = if self.who.is_empty() { String::new() } else { format!(" of {}", self.who) };
        format!("{}: {:?}{address}{who}", self.node, self.kind)
    }

    /// Whether both say the same of the same, whenever.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let of = |finding: &Self| (finding.kind, finding.address);
        self.node == other.node && of(self) == of(other) && self.who == other.who && self.what == other.what
    }

    /// Whether both are about the same address of a node, or, where there is none, of one kind: what is said of it may have changed.
    pub(super) fn is_about_the_same(&self, other: &Self) -> bool {
        self.node == other.node && self.address == other.address && (self.address.is_some() || self.kind == other.kind)
    }
}

/// Without what a terminal would obey: a node that is not itself any more may say anything.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Kinds of differences, the gravest first: those that can give an address to two pods, those that cut pods off, those that cost addresses or time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// Two pods of the API server have one address.
    TwoPods,
    /// Two nodes' objects list one address.
    TwoNodes,
    /// Lease and link, or lease and pod, name different owners.
    TwoOwners,
    /// A pod's link without a lease.
    LinkWithoutLease,
    /// A pod that runs without a lease.
    PodWithoutLease,
    /// The store offers an address that the object does not list under the same revision, or lists as lost.
    PoolDiffers,
    /// The object speaks of another machine than the Node.
    OtherMachine,
    /// What the agent reported is not of this boot, store or object.
    OtherReport,
    /// A pod has an address that the NIC has lost.
    LostInUse,
    /// A pod has an address of the subnet that is none of its node's.
    NoAddressOfNode,
    /// A lease of a pod that the API server does not have, whatever else is wrong with it.
    LeaseWithoutPod,
    /// A pod's link without its route.
    LinkWithoutRoute,
    /// A bridged pod's link without its bridge, or without its route through that.
    BridgedWithoutRoute,
    /// A lease whose link is gone, of a pod that is there or that nobody named.
    LeaseWithoutLink,
    /// A lease of an address that is no longer in the pool.
    OutsidePool,
    /// A record of the store that cannot be read.
    Unreadable,
    /// No pool counts on the node.
    NoPool,
    /// Attached addresses that the node's metadata does not show.
    Withheld,
    /// The agent does not believe the object.
    Regressed,
    /// The store has an older revision than the object.
    RevisionBehind,
    /// Azure has another number of our IP configurations than the object lists.
    AzureDiffers,
    /// A write to the NIC that is open beyond its end.
    WriteOverdue,
}

impl From<node::Kind> for Kind {
    fn from(kind: node::Kind) -> Self {
        match kind {
            node::Kind::NoPool => Self::NoPool,
            node::Kind::LinkWithoutLease => Self::LinkWithoutLease,
            node::Kind::TwoOwners => Self::TwoOwners,
            node::Kind::LeaseWithoutLink => Self::LeaseWithoutLink,
            node::Kind::LinkWithoutRoute => Self::LinkWithoutRoute,
            node::Kind::BridgedWithoutRoute => Self::BridgedWithoutRoute,
            node::Kind::Unreadable => Self::Unreadable,
            node::Kind::OutsidePool => Self::OutsidePool,
        }
    }
}

impl Kind {
    /// What follows from it.
    #[must_use]
    pub fn means(self) -> &'static str {
        match self {
            Self::TwoPods | Self::TwoNodes | Self::TwoOwners => "two may use one address: packets of one reach the other, or nobody",
            Self::LinkWithoutLease | Self::PodWithoutLease => {
                "the store does not know that the address is in use: only the kernel keeps it from another pod"
            }
            Self::PoolDiffers => "a pod may be given an address that is not the node's",
            Self::OtherMachine => "the object belongs to a machine of the same name that is gone: its addresses are another NIC's",
            Self::OtherReport => "what the object says of the node is of another boot, disk or object",
            Self::LostInUse => "the pod carries no traffic: somebody took its address off the NIC",
            Self::NoAddressOfNode => "Azure delivers nothing for it to this node, and drops what the pod sends",
            Self::LinkWithoutRoute | Self::LeaseWithoutLink => "no packet reaches the pod, if there is one",
            Self::BridgedWithoutRoute => "packets of this host, or all, do not reach the pod: its probes may fail",
            Self::LeaseWithoutPod | Self::Unreadable => "the address is occupied, and no pod is known to use it",
            Self::OutsidePool => "the pod keeps an address that others do not get any more",
            Self::NoPool => "no pod can start on the node",
            Self::Withheld => "pods do not get these addresses: they may carry no traffic yet, or no more",
            Self::Regressed => "the API server's data is older than the node: the node goes on with what it has",
            Self::RevisionBehind => "new addresses reach no pod, and what is to go back is not set aside",
            Self::AzureDiffers => "the object is not what is on the NIC",
            Self::WriteOverdue => "nothing else is written to this NIC meanwhile",
        }
    }

    /// Who mends it, and how.
    #[must_use]
    pub fn remedy(self) -> &'static str {
        match self {
            Self::TwoPods | Self::TwoOwners => "delete both pods; nothing is changed by itself while either lives",
            Self::TwoNodes => {
                "see both NICs in Azure; the node whose NIC does not have it needs its object deleted: the controller makes a new one"
            }
            Self::LinkWithoutLease => "--repair restarts the node's agent, which makes the lease before it seals the store",
            Self::PodWithoutLease => "delete the pod: the next one gets an address of the pool",
            Self::PoolDiffers => "restart the node's agent (delete its pod); if that does not help, keep its log, and drain the node",
            Self::OtherMachine => "delete the AzureVnetNode: the controller makes a new one",
            Self::OtherReport => "see the agent's log: it reports once it can write its object",
            Self::LostInUse => "delete the pod; Azure's activity log shows who changed the NIC",
            Self::NoAddressOfNode => {
                "delete the pod; if its address comes back, another network plugin gave it: see /etc/cni/net.d on the node"
            }
            Self::LinkWithoutRoute => "--repair makes the route; or delete the pod: its successor gets one",
            Self::BridgedWithoutRoute => "delete the pod: its successor gets a way",
            Self::LeaseWithoutLink => "delete the pod if there is one; the agent frees the address once nothing speaks for it any more",
            Self::LeaseWithoutPod => {
                "nothing: the agent frees the address once the API server has lacked the pod twice, a minute apart, and the kernel shows nothing of it"
            }
            Self::OutsidePool => "nothing: it goes back when the pod ends",
            Self::Unreadable => "nothing: it rests by itself after ten minutes without a trace in the kernel",
            Self::NoPool => "see the conditions PoolAdopted and StoreHealthy of the AzureVnetNode, and the agent's log",
            Self::Withheld => "if the NIC in Azure has them all the same, reapply the machine's state, or replace the node",
            Self::Regressed => {
                "nothing: the controller answers with a higher revision once it has read the NIC; see its log if it does not"
            }
            Self::RevisionBehind => "see the condition PoolAdopted of the AzureVnetNode, and the agent's log",
            Self::AzureDiffers => "nothing: the controller publishes what it reads; see its log, and who else writes the NIC, if it stays",
            Self::WriteOverdue => "see whether a controller leads, and its log: the next one reads the NIC and closes it",
        }
    }
}

impl Kind {
    /// Whether it may be there unseen while this one's word is missing.
    pub(super) fn needs(self, source: Source) -> bool {
        match source {
            Source::Azure => self == Self::AzureDiffers,
            Source::Agent => [Self::OtherReport, Self::Withheld, Self::Regressed].contains(&self),
            // Without the object or the store hardly anything is compared; without the Node, nobody knows which machine that is.
            Source::Controller | Source::Store | Source::Kernel | Source::ApiServer => true,
        }
    }
}

/// How a look ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All was seen, and agrees.
    Clean,
    /// Something differs.
    Differs,
    /// Nothing that was seen differs, and not all was seen; or no node was looked at.
    Incomplete,
}

impl Report {
    /// How it ended.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match (self.findings.is_empty(), self.unseen.is_empty() && self.once.is_empty() && !self.nodes.is_empty()) {
            (false, _) => Outcome::Differs,
            (true, false) => Outcome::Incomplete,
            (true, true) => Outcome::Clean,
        }
    }

    /// The nodes that something differs on, of which a second look is worth while: pods come and go between one word and the other.
    #[must_use]
    pub fn suspects(&self) -> BTreeSet<String> {
        self.findings.iter().map(|finding| finding.node.clone()).collect()
    }

    /// The nodes that a repair by this report looks at: those that are named, else those that it found something on, be it once, or did not see.
    ///
    /// # Errors
    /// One that is named is not in it.
    pub fn to_repair(&self, wanted: &[String]) -> Result<BTreeSet<String>, String> {
        let unsure = self.unseen.iter().map(|unseen| unseen.node.clone()).chain(self.once.iter().map(|found| found.node.clone()));
        let looked: BTreeSet<&str> = self.nodes.iter().map(|looked| looked.node.as_str()).collect();
        if let Some(nobody) = wanted.iter().find(|name| !looked.contains(name.as_str())) {
            return Err(format!("the report does not speak of node {nobody}: its name is another, or it was not looked at"));
        }
        Ok(if wanted.is_empty() { self.suspects().into_iter().chain(unsure).collect() } else { wanted.iter().cloned().collect() })
    }

    /// The report of nobody's word, since nobody could be asked of these nodes at that time, and why.
    #[must_use]
    pub fn of_nothing(at: Timestamp, nodes: BTreeSet<String>, why: &str) -> Self {
        let unseen = nodes.into_iter().map(|node| Unseen { node, source: Source::ApiServer, why: plain(why) });
        Self { at, unseen: unseen.collect(), ..Self::default() }
    }

    /// This report, with what a second look at its [`suspects`](Self::suspects) found as well, in the second's words. What the second alone found is
    /// set apart, and what either could not see stays unseen: of these there were no two looks.
    #[must_use]
    pub fn confirmed(self, second: Self) -> Self {
        let again = self.suspects();
        let (first, unseen_first) = (self.findings, self.unseen);
        let once = self.nodes.into_iter().filter(|looked| !again.contains(&looked.node));
        let mut nodes: Vec<Looked> = once.chain(second.nodes).collect();
        nodes.sort_by(|a, b| a.node.cmp(&b.node));
        let (findings, once) = second.findings.into_iter().partition(|found| first.iter().any(|before| before.is_about_the_same(found)));
        // The same may be put in other words, as an error or a time: it is told once.
        let of = |unseen: &Unseen| (unseen.node.clone(), unseen.source);
        let told: BTreeSet<_> = second.unseen.iter().map(of).collect();
        let mut unseen: Vec<Unseen> = unseen_first.into_iter().filter(|before| !told.contains(&of(before))).chain(second.unseen).collect();
        unseen.sort();
        Self { at: second.at, nodes, findings, unseen, once }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for found in &self.findings {
            write!(f, "{found}")?;
            for Witness { source, at, says } in &found.witnesses {
                let at = at.map(|at| format!("  ({} ago)", ago(at, self.at))).unwrap_or_default();
                writeln!(f, "    {source} says: {says}{at}")?;
            }
            writeln!(f)?;
        }
        for Unseen { node, source, why } in &self.unseen {
            writeln!(f, "? {node}: {source} could not be asked: {why}")?;
        }
        for found in &self.once {
            writeln!(f, "? {}: found at the second look alone; look again", found.title())?;
        }
        let (found, nodes, unseen) = (self.findings.len(), self.nodes.len(), self.unseen.len() + self.once.len());
        match self.outcome() {
            Outcome::Clean => writeln!(f, "✓ all agree on {nodes} nodes: Azure as last read, objects, agents, stores, kernels and pods"),
            Outcome::Differs if unseen == 0 => writeln!(f, "✗ {found} found on {nodes} nodes"),
            Outcome::Differs => writeln!(f, "✗ {found} found on {nodes} nodes, and {unseen} not seen or seen once"),
            Outcome::Incomplete if nodes == 0 => writeln!(f, "? no node was looked at"),
            Outcome::Incomplete => writeln!(f, "? nothing differs in what was seen of {nodes} nodes; {unseen} not seen or seen once"),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node: _, kind: _, address: _, who: _, what, witnesses: _, means, remedy } = self;
        writeln!(f, "✗ {}\n  {what}\n    means: {means}\n    remedy: {remedy}", self.title())
    }
}
