//! Which failures have one cause, and where to look for it.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{Goal, Outcome, Probe, Way};

/// What is wrong, by its likely cause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// What does not work.
    pub what: String,
    /// Where its cause may be.
    pub look_at: String,
    /// How many ways it concerns.
    pub ways: usize,
}

/// A likely cause; those that explain the most come first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Cause {
    /// Another pod has its address.
    Stranger(String),
    /// Neither reached nor reaching.
    CutOff(String),
    /// Reached by nobody.
    Deaf(String),
    /// Reaching nobody.
    Mute(String),
    /// The address is changed on the way.
    Translated(String),
    /// Within a node.
    Within(String),
    /// From a node to another.
    Between(String, String),
    /// A place.
    Place(Goal),
}

pub(super) fn failures(probes: &[Probe], ways: &[Way]) -> Vec<Failure> {
    let absent = probes.iter().filter_map(|probe| {
        let why = probe.absent.as_ref()?;
        Some(Failure { what: format!("{} on {} took no part: {why}", probe.pod, probe.node), look_at: of_absent(&probe.node), ways: 0 })
    });
    let mute = silent(ways.iter().map(|way| (way.from.as_str(), way.outcome)));
    // Who reaches nothing says nothing about others.
    let asked = ways.iter().filter(|way| !mute.contains(way.from.as_str()));
    let deaf = silent(asked.filter_map(|way| if let Goal::Pod(to) = &way.to { Some((to.as_str(), way.outcome)) } else { None }));
    let mut causes: BTreeMap<Cause, Vec<&Way>> = BTreeMap::new();
    for way in ways.iter().filter(|way| way.outcome != Outcome::Reached) {
        causes.entry(cause(probes, &mute, &deaf, way)).or_default().push(way);
    }
    let found = causes.iter().map(|(cause, ways)| Failure { what: what(cause, ways), look_at: look_at(cause, probes), ways: ways.len() });
    absent.chain(found).collect()
}

/// `mute` reach nothing, and nothing reaches the `deaf`.
fn cause(probes: &[Probe], mute: &BTreeSet<&str>, deaf: &BTreeSet<&str>, way: &Way) -> Cause {
    let (is_mute, is_deaf) = (|pod: &str| mute.contains(pod), |pod: &str| deaf.contains(pod));
    match way.outcome {
        Outcome::Stranger => return Cause::Stranger(way.to.to_string()),
        Outcome::WrongSource => return Cause::Translated(node_of(probes, &way.from).to_owned()),
        Outcome::Reached | Outcome::NotReached => {}
    }
    if is_mute(&way.from) {
        return if is_deaf(&way.from) { Cause::CutOff(way.from.clone()) } else { Cause::Mute(way.from.clone()) };
    }
    let Goal::Pod(to) = &way.to else { return Cause::Place(way.to.clone()) };
    if is_deaf(to) {
        return if is_mute(to) { Cause::CutOff(to.clone()) } else { Cause::Deaf(to.clone()) };
    }
    let (from, to) = (node_of(probes, &way.from), node_of(probes, to));
    if from == to { Cause::Within(from.to_owned()) } else { Cause::Between(from.to_owned(), to.to_owned()) }
}

fn node_of<'a>(probes: &'a [Probe], pod: &str) -> &'a str {
    probes.iter().find(|probe| probe.pod == pod).map_or("", |probe| &probe.node)
}

/// Those of whose ways none is open.
fn silent<'a>(ways: impl Iterator<Item = (&'a str, Outcome)>) -> BTreeSet<&'a str> {
    let mut reached: BTreeMap<&str, bool> = BTreeMap::new();
    for (pod, outcome) in ways {
        *reached.entry(pod).or_default() |= outcome != Outcome::NotReached;
    }
    reached.into_iter().filter(|(_, reached)| !reached).map(|(pod, _)| pod).collect()
}

fn what(cause: &Cause, ways: &[&Way]) -> String {
    let said = ways.first().and_then(|way| way.wrong.as_deref()).unwrap_or_default();
    let askers = || ways.iter().map(|way| way.from.as_str()).collect::<Vec<_>>().join(", ");
    match cause {
        Cause::Stranger(_) | Cause::Translated(_) => said.to_owned(),
        Cause::CutOff(pod) => format!("{pod} is cut off: it reaches nothing, and nothing reaches it: {said}"),
        Cause::Deaf(pod) => format!("nothing reaches {pod}: {said}"),
        Cause::Mute(pod) => format!("{pod} reaches nothing: {said}"),
        Cause::Within(node) => format!("pods of {node} do not reach each other: {said}"),
        Cause::Between(from, to) => format!("from {from} to {to} nothing comes through: {said}"),
        Cause::Place(goal) => format!("no answer from {goal} to {}: {said}", askers()),
    }
}

fn of_absent(node: &str) -> String {
    format!("`kubectl azure-vnet node {node}`, and the events of the pod's namespace")
}

fn look_at(cause: &Cause, probes: &[Probe]) -> String {
    match cause {
        Cause::Stranger(_) => "two pods may have one address: `azure-vnet-operator node fsck` on their nodes; delete both pods".into(),
        Cause::CutOff(pod) => {
            let node = node_of(probes, pod);
            format!(
                "its route or its address on the NIC: `azure-vnet-operator node fsck` on {node}, `kubectl azure-vnet node {node}`; \
                 then network policies that choose the pod"
            )
        }
        Cause::Deaf(pod) => {
            let node = node_of(probes, pod);
            format!(
                "network policies that keep others off it; the subnet's security rules for incoming packets; whether the NIC has its \
                 address: `kubectl azure-vnet node {node}`"
            )
        }
        Cause::Mute(_) => "network policies that keep it in; the subnet's security rules for outgoing packets, and its route table".into(),
        Cause::Translated(node) => format!(
            "rules on {node} that come before ours (condition RulesInSync, `kubectl azure-vnet node {node}`); \
             `kubectl azure-vnet explain POD DESTINATION` for a pod of it says which address should be seen"
        ),
        Cause::Within(node) => format!("network policies, and rules of others on {node}: `kubectl azure-vnet node {node}`"),
        Cause::Between(..) => {
            "the subnets' security rules and route tables in Azure: they apply to pods' addresses as to machines'; network policies".into()
        }
        Cause::Place(Goal::Service) => {
            "kube-proxy on these nodes; its clusterCIDR must hold the pods: `kubectl azure-vnet preflight`".into()
        }
        Cause::Place(Goal::ApiServer) => {
            "kube-proxy on these nodes; whether the API server lets the nodes' VNET in; network policies for outgoing packets".into()
        }
        Cause::Place(Goal::Dns) => {
            "the pods behind the Service kube-dns: `kubectl --namespace kube-system get pods --selector k8s-app=kube-dns`; network policies"
                .into()
        }
        Cause::Place(Goal::Pod(_) | Goal::Place(_)) => {
            "`kubectl azure-vnet explain POD DESTINATION` says whose address it sees; it must let that in, and have a route back".into()
        }
    }
}
