//! Compares what was read, node by node, and what nodes must not share.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    time::Duration,
};

use azure_vnet_crds::{
    AzureVnetNode,
    node::{Agent, Cloud},
};
use jiff::Timestamp;

use super::{
    cloud,
    node::{self, Facts},
    pods,
    report::{Finding, Kind, Looked, Report, Source, Unseen, plain},
};
use crate::{
    blocks,
    look::{Cluster, Machine},
    policy::Policy,
    provider::ProviderId,
};

/// Where the config is gone.
const GRACE: Duration = Duration::from_mins(6);

/// A pod of the API server, as far as leases know it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The UID by which the runtime knows it; of a static pod, not that of the object that mirrors it.
    pub uid: String,
    /// Its node.
    pub node: String,
    /// Its address, once it has one.
    pub address: Option<Ipv4Addr>,
    /// Whether it shares the node's network.
    pub host_network: bool,
    /// Whether it has run to its end.
    pub finished: bool,
    /// Whether it is being deleted.
    pub terminating: bool,
}

impl Pod {
    /// `namespace/name`.
    #[must_use]
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Whether it uses an address of its own, and goes on doing so.
    pub(super) fn has_address(&self) -> bool {
        self.address.is_some() && !self.host_network && !self.finished && !self.terminating
    }
}

/// All that was read.
#[derive(Clone, Copy, Debug)]
pub struct Sources<'a> {
    /// Objects and Nodes.
    pub cluster: &'a Cluster,
    /// Pods as they were before the nodes were looked at, and after: what one of both shows only came or went meanwhile.
    pub pods: [&'a [Pod]; 2],
    /// The nodes to compare, each with its own word or why it has none.
    pub nodes: &'a BTreeMap<String, Result<node::Report, String>>,
}

/// One node, by everybody's word.
pub(super) struct Side<'a> {
    pub name: &'a str,
    pub at: Timestamp,
    pub machine: Option<&'a Machine>,
    pub object: &'a AzureVnetNode,
    pub cloud: Cloud,
    pub agent: Agent,
    /// How long a write may still land after its end.
    pub grace: Duration,
    pub node: Option<Seen<'a>>,
    /// Its pods that both lists have, unchanged.
    pub pods: Vec<&'a Pod>,
    /// Its pods that either list has.
    pub known: Vec<&'a Pod>,
}

/// What the node said of itself.
#[derive(Clone, Copy)]
pub(super) struct Seen<'a> {
    pub report: &'a node::Report,
    pub facts: &'a Facts,
}

impl Side<'_> {
    pub fn finding(&self, kind: Kind, address: Option<Ipv4Addr>, who: impl Into<String>, what: impl Into<String>) -> Finding {
        Finding::new(self.name, kind, address, &who.into(), &what.into())
    }

    /// Whether the object lists it for pods.
    pub fn lists(&self, address: Ipv4Addr) -> bool {
        self.object.spec.addresses.iter().any(|at| at.contains(address))
    }

    /// Whether the NIC has lost it.
    pub fn lost(&self, address: Ipv4Addr) -> bool {
        self.object.spec.lost.iter().any(|at| at.contains(address))
    }

    pub fn uid(&self) -> &str {
        self.object.metadata.uid.as_deref().unwrap_or_default()
    }
}

/// Which nodes to look at: those that were asked for, else every one that has a pool or should have one.
///
/// # Errors
/// One that was asked for is not there.
pub fn choose(cluster: &Cluster, wanted: &[String]) -> Result<BTreeSet<String>, String> {
    if let Some(nobody) = wanted.iter().find(|name| cluster.machine(name).is_none() && cluster.pool(name).is_none()) {
        return Err(format!("there is no node {nobody}"));
    }
    if !wanted.is_empty() {
        return Ok(wanted.iter().cloned().collect());
    }
    // Azure has no NIC for a virtual kubelet's node.
    let is_served = |machine: &&Machine| cluster.config(machine).is_some() && machine.provider_id.parse::<ProviderId>().is_ok();
    let served = cluster.machines.iter().filter(is_served).map(|machine| machine.name.clone());
    Ok(served.chain(cluster.pools.iter().filter_map(|pool| pool.metadata.name.clone())).collect())
}

/// Compares. The order of findings is that of their [`Kind`]s, the gravest first.
#[must_use]
pub fn compare(sources: &Sources<'_>) -> Report {
    let mut report = Report { at: sources.cluster.at, ..Report::default() };
    for (name, look) in sources.nodes {
        one(sources, name, look, &mut report);
    }
    report.findings.extend(shared(sources));
    let key = |finding: &Finding| (finding.kind, finding.node.clone(), finding.address, finding.who.clone());
    report.findings.sort_by_key(key);
    report.unseen.sort();
    report
}

fn one(sources: &Sources<'_>, name: &str, look: &Result<node::Report, String>, report: &mut Report) {
    let unseen = |source, why: &str| Unseen { node: name.to_owned(), source, why: plain(why) };
    let object = sources.cluster.pool(name);
    let nic_read = object.and_then(|object| object.status.as_ref()?.cloud.as_ref()?.last_read_at.as_ref()).map(|at| at.0);
    report.nodes.push(Looked {
        node: name.to_owned(),
        boot_id: look.as_ref().ok().map(|node| node.boot_id.clone()),
        nic_read,
        node_read: look.as_ref().ok().and_then(|node| node.at),
    });
    let node = match look {
        Ok(node) => {
            let seen = node.facts.as_ref().map(|facts| Seen { report: node, facts });
            if seen.is_none() {
                report.unseen.push(unseen(Source::Store, "the agent's version does not tell what the store holds: upgrade it"));
            }
            seen
        }
        Err(why) => {
            report.unseen.extend([Source::Store, Source::Kernel].map(|source| unseen(source, why)));
            None
        }
    };
    let Some(object) = object else {
        report.unseen.push(unseen(Source::Controller, "it has no AzureVnetNode: kubectl azure-vnet preflight says why"));
        return;
    };
    let status = object.status.clone().unwrap_or_default();
    if status.agent.is_none() {
        report.unseen.push(unseen(Source::Agent, "it has not reported to the AzureVnetNode yet"));
    }
    let [before, after] = sources.pods;
    let of_node = |pod: &&Pod| pod.node == name;
    let side = Side {
        name,
        at: sources.cluster.at,
        machine: sources.cluster.machine(name),
        object,
        cloud: status.cloud.unwrap_or_default(),
        agent: status.agent.unwrap_or_default(),
        grace: grace(sources.cluster, object),
        node,
        pods: before.iter().filter(of_node).filter(|pod| after.contains(pod)).collect(),
        known: before.iter().chain(after).filter(of_node).collect(),
    };
    report.unseen.extend(cloud::unseen(&side));
    report.findings.extend(cloud::findings(&side));
    report.findings.extend(pods::findings(&side));
}

fn grace(cluster: &Cluster, object: &AzureVnetNode) -> Duration {
    let config = cluster.configs.iter().find(|config| config.metadata.name.as_deref() == Some(&object.spec.config.name));
    config.and_then(|config| Policy::of(config).ok()).map_or(GRACE, |policy| policy.grace)
}

/// What two pods, or two nodes, both claim. Each claimant of a chosen node has its finding.
fn shared(sources: &Sources<'_>) -> Vec<Finding> {
    let [before, after] = sources.pods;
    let mut pods = Claims::new();
    for pod in before.iter().filter(|pod| pod.has_address() && after.contains(pod)) {
        if let Some(address) = pod.address {
            pods.entry(address).or_default().insert((pod.node.clone(), pod.full_name()));
        }
    }
    let mut listed = Claims::new();
    for object in &sources.cluster.pools {
        let name = object.metadata.name.clone().unwrap_or_default();
        for at in blocks::each(&object.spec.addresses) {
            listed.entry(at.address).or_default().insert((name.clone(), format!("slot {} of {name}", at.slot)));
        }
    }
    let pods = claimed_twice(sources, &pods, Kind::TwoPods, Source::ApiServer);
    pods.into_iter().chain(claimed_twice(sources, &listed, Kind::TwoNodes, Source::Controller)).collect()
}

/// Who claims each address: its node, and its name.
type Claims = BTreeMap<Ipv4Addr, BTreeSet<(String, String)>>;

fn claimed_twice(sources: &Sources<'_>, by_address: &Claims, kind: Kind, source: Source) -> Vec<Finding> {
    let (mut found, at) = (vec![], Some(sources.cluster.at));
    for (address, claims) in by_address.iter().filter(|(_, claims)| claims.len() > 1) {
        for (node, who) in claims.iter().filter(|(node, _)| sources.nodes.contains_key(node)) {
            let others: Vec<&str> = claims.iter().filter(|(_, other)| other != who).map(|(_, other)| other.as_str()).collect();
            let what = format!("{} has it as well", others.join(", "));
            let says = format!("{address} is that of {who} and {}", others.join(", "));
            found.push(Finding::new(node, kind, Some(*address), who, &what).says(source, at, says));
        }
    }
    found
}
