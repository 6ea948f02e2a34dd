//! What the API server's pods say of a node's addresses, against its store and its kernel.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use jiff::Timestamp;

use super::{
    compare::{Pod, Seen, Side},
    node::{self, PodName, Record, State},
    report::{Finding, Kind, Source},
};

/// What differs; of one address the gravest alone, which explains the others.
pub fn findings(side: &Side<'_>) -> Vec<Finding> {
    let with_address = || side.pods.iter().filter(|pod| pod.has_address());
    let mut found: Vec<Finding> = with_address().filter_map(|pod| by_object(side, pod, pod.address?)).collect();
    if let Some(seen) = side.node {
        found.extend(of_node(side, seen));
        found.extend(with_address().filter_map(|pod| by_store(side, seen, pod, pod.address?)));
        found.extend(seen.facts.records.iter().filter_map(|record| of_lease(side, seen, record)));
    }
    found.sort_by_key(|found| (found.address, found.kind));
    found.dedup_by(|lighter, graver| lighter.address.is_some() && lighter.address == graver.address);
    found
}

/// An address that the object does not give to pods.
fn by_object(side: &Side<'_>, pod: &Pod, address: Ipv4Addr) -> Option<Finding> {
    let spec = &side.object.spec;
    let has = |finding: Finding| finding.says(Source::ApiServer, Some(side.at), format!("{} runs with {address}", pod.full_name()));
    if side.lost(address) {
        let what = "the pod has it, the NIC does not any more";
        let says = format!("{address} is lost, revision {}", spec.revision);
        return Some(has(side.finding(Kind::LostInUse, Some(address), pod.full_name(), what)).says(
            Source::Controller,
            Some(side.at),
            says,
        ));
    }
    let in_subnet = spec.node.subnet_prefix.parse().is_ok_and(|subnet: Ipv4Net| subnet.contains(&address));
    let offered = side.node.is_some_and(|seen| offers(seen, address));
    if spec.revision == 0 || side.lists(address) || offered || !in_subnet {
        return None;
    }
    let says = format!("{address} is none of its addresses, revision {}", spec.revision);
    let what = format!("the pod has it, and it is no address of {}", side.name);
    Some(has(side.finding(Kind::NoAddressOfNode, Some(address), pod.full_name(), what)).says(Source::Controller, Some(side.at), says))
}

fn offers(seen: Seen<'_>, address: Ipv4Addr) -> bool {
    seen.facts.pool.as_ref().is_some_and(|pool| pool.addresses.iter().any(|at| at.address == address))
}

/// What store and kernel differ on, by the node's own word.
fn of_node(side: &Side<'_>, seen: Seen<'_>) -> Vec<Finding> {
    let Seen { report, facts } = seen;
    let finding = |found: &node::Finding| {
        let node::Finding { kind, address, attachment, what } = found;
        let record = facts.records.iter().find(|record| Some(record.address) == *address);
        // The pods' side tells more of a lease whose pod the API server does not have.
        if *kind == node::Kind::LeaseWithoutLink && record.is_some_and(|record| lacks_pod(side, record)) {
            return None;
        }
        let leased_to = record.and_then(|record| record.pod.as_ref()).map(|pod| format!("{}/{}", pod.namespace, pod.name));
        let runs_with = || side.pods.iter().find(|pod| pod.has_address() && pod.address == *address).map(|pod| pod.full_name());
        let who = leased_to.or_else(runs_with).unwrap_or_else(|| attachment.clone());
        let kernel = if *kind == node::Kind::NoPool { vec![] } else { links_of(seen, *address) };
        let store = address.map_or_else(|| what.clone(), |address| store_says(record, address));
        let finding = side.finding(Kind::from(*kind), *address, who, what.clone()).says(Source::Store, report.at, store);
        Some(kernel.into_iter().fold(finding, |finding, says| finding.says(Source::Kernel, report.at, says)))
    };
    report.findings.iter().filter_map(finding).collect()
}

fn links_of(seen: Seen<'_>, address: Option<Ipv4Addr>) -> Vec<String> {
    let links = seen.facts.links.iter().filter(|link| Some(link.address) == address);
    let says: Vec<String> = links.map(|link| format!("{} is the link of {}", link.name, link.attachment)).collect();
    if says.is_empty() { vec!["no link of it".into()] } else { says }
}

fn store_says(record: Option<&Record>, address: Ipv4Addr) -> String {
    match record.map(|record| (record.state, &record.pod)) {
        None => format!("no record of {address}"),
        Some((State::Leased, Some(pod))) => format!("{address} is leased to {}/{}", pod.namespace, pod.name),
        Some((State::Leased, None)) => format!("{address} is leased, to no pod by name"),
        Some((State::Cooling, _)) => format!("{address} rests after use"),
        Some((State::Quarantined, _)) => format!("{address} is set aside for giving back"),
        Some((State::Unreadable, _)) => format!("the record of {address} cannot be read"),
    }
}

/// A pod whose address the store does not say it has; only of addresses that are the node's.
fn by_store(side: &Side<'_>, seen: Seen<'_>, pod: &Pod, address: Ipv4Addr) -> Option<Finding> {
    if !side.lists(address) && !offers(seen, address) {
        return None;
    }
    let record = seen.facts.records.iter().find(|record| record.address == address);
    let (kind, what) = match record.map(|record| (record.state, &record.pod)) {
        Some((State::Leased, None)) => return None,
        Some((State::Leased, Some(named))) if is_named(pod, named) => return None,
        Some((State::Leased, Some(named))) => {
            (Kind::TwoOwners, format!("the pod has it, and its lease names {}/{}", named.namespace, named.name))
        }
        Some((State::Cooling | State::Quarantined | State::Unreadable, _)) | None => {
            (Kind::PodWithoutLease, "the pod has it, the store has no lease".to_owned())
        }
    };
    let finding = side.finding(kind, Some(address), pod.full_name(), what);
    let finding = finding.says(Source::ApiServer, Some(side.at), format!("{} runs with {address}", pod.full_name()));
    Some(finding.says(Source::Store, seen.report.at, store_says(record, address)))
}

/// A lease whose pod the API server has not had, neither before the node was looked at nor after.
fn of_lease(side: &Side<'_>, seen: Seen<'_>, record: &Record) -> Option<Finding> {
    let pod = record.pod.as_ref().filter(|_| lacks_pod(side, record))?;
    let address = record.address;
    let who = format!("{}/{}", pod.namespace, pod.name);
    let lacks = format!("no pod {who}{}", pod.uid.as_ref().map(|uid| format!(" with UID {uid}")).unwrap_or_default());
    let own = seen.report.findings.iter().find(|found| found.address == Some(address) && found.kind == node::Kind::LeaseWithoutLink);
    let kernel: Vec<String> = own.map_or_else(|| links_of(seen, Some(address)), |found| vec![found.what.clone()]);
    let at: Option<Timestamp> = seen.report.at;
    let finding = side.finding(Kind::LeaseWithoutPod, Some(address), who, "leased to a pod that the API server does not have");
    let finding = finding.says(Source::Store, at, store_says(Some(record), address)).says(
        Source::ApiServer,
        Some(side.at),
        format!("{lacks} on {}", side.name),
    );
    Some(kernel.into_iter().fold(finding, |finding, says| finding.says(Source::Kernel, at, says)))
}

fn lacks_pod(side: &Side<'_>, record: &Record) -> bool {
    record.state == State::Leased && record.pod.as_ref().is_some_and(|named| !side.known.iter().any(|pod| is_named(pod, named)))
}

/// By UID, where the runtime told it.
fn is_named(pod: &Pod, named: &PodName) -> bool {
    match &named.uid {
        Some(uid) => pod.uid == *uid,
        None => pod.namespace == named.namespace && pod.name == named.name,
    }
}
