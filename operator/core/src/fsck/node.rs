//! What a node says of itself: what its store and kernel hold, and where these differ. The node makes it, `node fsck` prints it, and
//! `kubectl azure-vnet fsck` reads it from the agent's pod.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::Ipv4Addr,
};

use azure_vnet_crds::node::SlotAddress;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::look::Table;

/// Where store and kernel differ, and what both hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The boot that it speaks of.
    #[serde(rename = "bootID")]
    pub boot_id: String,
    /// When it was read, by the node's clock; a version before this one does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// Records looked at.
    pub records: usize,
    /// Links looked at.
    pub links: usize,
    /// The differences; none where store and kernel agree.
    pub findings: Vec<Finding>,
    /// What they hold; a version before this one does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facts: Option<Facts>,
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// Which one.
    pub kind: Kind,
    /// Of which address.
    pub address: Option<Ipv4Addr>,
    /// Of whom: `container/interface`.
    pub attachment: String,
    /// In words.
    pub what: String,
}

/// Kinds of differences.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// No pool counts: ADD refuses.
    NoPool,
    /// A pod's link without a lease: the address could be given again.
    LinkWithoutLease,
    /// Lease and link name different owners.
    TwoOwners,
    /// A lease whose link is gone.
    LeaseWithoutLink,
    /// A pod's link without its route: no packet reaches it.
    LinkWithoutRoute,
    /// A bridged pod's link that is a port of no bridge, or whose route through its bridge is gone.
    BridgedWithoutRoute,
    /// A record that cannot be read.
    Unreadable,
    /// A lease of an address that is no longer in the pool.
    OutsidePool,
}

impl Kind {
    /// Who mends it, and how, as seen on the node.
    #[must_use]
    pub fn remedy(self) -> &'static str {
        match self {
            Self::NoPool => "the agent (or standalone) seals the store: see its log",
            Self::LinkWithoutLease => "--repair makes the lease; the agent does so when it starts",
            Self::TwoOwners => "delete both pods; nothing is changed by itself while either lives",
            Self::LeaseWithoutLink => {
                "freed by GC, or by the agent once the API server has no such pod either; delete the pod if there is one"
            }
            Self::LinkWithoutRoute => {
                "--repair makes the route, if the pool has the address; if the NIC lost it, this is how its traffic was cut off"
            }
            Self::BridgedWithoutRoute => {
                "delete the pod: its successor gets a way; if the NIC lost the address, this is how its traffic was cut off"
            }
            Self::Unreadable => "rests by itself after ten minutes without a trace in the kernel",
            Self::OutsidePool => "delete the pod if the address is lost; otherwise it goes back when the pod ends",
        }
    }
}

/// What store and kernel of a node hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Facts {
    /// Random id of the durable folder that the store's seal names; none while it is not sealed.
    #[serde(rename = "storeID")]
    pub store_id: Option<String>,
    /// The pool, if it counts.
    pub pool: Option<Pool>,
    /// Every address that has a record.
    pub records: Vec<Record>,
    /// Every pod's link.
    pub links: Vec<Link>,
}

/// What pods may use, as the agent handed it over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pool {
    /// UID of the `AzureVnetNode` that it comes from.
    #[serde(rename = "objectUID")]
    pub object_uid: String,
    /// That object's revision.
    pub revision: u64,
    /// The addresses.
    pub addresses: Vec<SlotAddress>,
}

/// One record of the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Its address.
    pub address: Ipv4Addr,
    /// What it says.
    pub state: State,
    /// The pod of a lease, where the runtime named one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodName>,
}

/// What a record says of its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum State {
    /// A pod has it.
    Leased,
    /// It rests after use.
    Cooling,
    /// It is set aside for giving back.
    Quarantined,
    /// Nothing that can be read: it is occupied.
    Unreadable,
}

/// A pod as the runtime named it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID; older runtimes do not tell it.
    pub uid: Option<String>,
}

/// The host's end of a pod's link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Link {
    /// Its name.
    pub name: String,
    /// The address that its mark names.
    pub address: Ipv4Addr,
    /// Whose it is: `container/interface`.
    pub attachment: String,
}

/// What of a node is to be mended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Addresses whose pods are there and have no lease.
    pub leases: BTreeSet<Ipv4Addr>,
    /// Addresses whose pods have no route, and whose they are: `container/interface`.
    pub routes: BTreeMap<Ipv4Addr, String>,
}

/// What a report allows to mend: of the same boot, found then and found now. A route only to an address of the pool: of one that the NIC has lost it
/// was taken on purpose (safety rule RE7).
#[must_use]
pub fn mendable(report: &Report, now: &Report) -> Plan {
    let mut plan = Plan::default();
    let still = |finding: &&Finding| report.boot_id == now.boot_id && now.findings.contains(finding);
    for finding in report.findings.iter().filter(still) {
        match finding.kind {
            Kind::LinkWithoutLease => plan.leases.extend(finding.address),
            Kind::LinkWithoutRoute => {
                let offered = finding.address.filter(|address| offers(now, *address));
                plan.routes.extend(offered.map(|address| (address, finding.attachment.clone())));
            }
            Kind::NoPool | Kind::TwoOwners | Kind::LeaseWithoutLink | Kind::BridgedWithoutRoute | Kind::Unreadable | Kind::OutsidePool => {}
        }
    }
    plan
}

fn offers(report: &Report, address: Ipv4Addr) -> bool {
    let pool = report.facts.as_ref().and_then(|facts| facts.pool.as_ref());
    pool.is_some_and(|pool| pool.addresses.iter().any(|at| at.address == address))
}

/// What a node mended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mended {
    /// Leases that were made for pods that are there.
    pub leases: Vec<Ipv4Addr>,
    /// Routes that were made for pods that are there.
    pub routes: Vec<Ipv4Addr>,
    /// What was to be mended, and could not be.
    pub refused: Vec<Refused>,
    /// Rests of dead processes that were removed.
    pub litter: usize,
    /// What still differs.
    pub left: Report,
}

/// What was to be mended, and could not be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refused {
    /// The address whose route it is; none where it is about the store.
    pub address: Option<Ipv4Addr>,
    /// Why.
    pub why: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(address) => write!(f, "no route to {address}: {}", self.why),
            None => f.write_str(&self.why),
        }
    }
}

impl Mended {
    /// Why an address did not get its route.
    pub(super) fn refusal(&self, address: Ipv4Addr) -> Option<&str> {
        self.refused.iter().find(|refused| refused.address == Some(address)).map(|refused| refused.why.as_str())
    }
}

impl fmt::Display for Mended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for address in &self.leases {
            writeln!(f, "✓ made the lease of {address}")?;
        }
        for address in &self.routes {
            writeln!(f, "✓ made the route to {address}")?;
        }
        for refused in &self.refused {
            writeln!(f, "✗ {refused}")?;
        }
        write!(f, "✓ removed {} rests of dead processes\n{}", self.litter, self.left)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { boot_id: _, at: _, records, links, findings, facts: _ } = self;
        if findings.is_empty() {
            return writeln!(f, "✓ store and kernel agree: {records} records, {links} links");
        }
        let mut table = Table::new(&["FINDING", "ADDRESS", "WHO", "WHAT", "REMEDY"]);
        for found in findings {
            let address = found.address.map(|address| address.to_string()).unwrap_or_default();
            let Finding { kind, attachment, what, .. } = found;
            table.row([format!("{kind:?}"), address, attachment.clone(), what.clone(), kind.remedy().into()]);
        }
        write!(f, "{table}\n{} found in {records} records and {links} links\n", findings.len())
    }
}
