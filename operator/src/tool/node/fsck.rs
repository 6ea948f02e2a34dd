//! What differs between a node's store and its kernel, on what was read of both.
//!
//! A lease is freed by nobody here: that takes the runtime's or the API server's word beside the kernel's (safety rule CM4), which GC and the
//! agent have and a person at a node has not.

use std::net::{IpAddr, Ipv4Addr};

use azure_vnet_crds::node::SlotAddress;
use azure_vnet_operator_core::fsck::node::{self, Facts, Finding, Kind, PodName, Record, Report, State};
use azure_vnet_plugin_core::{
    attachment::{Attachment, Mode, PodRef},
    gc::NetnsWitness,
    lease::Entry,
    pool::Pool,
};

use crate::agent::kernel::PodLink;

/// What was read at one time.
pub struct Seen<'a> {
    /// The store's records.
    pub entries: &'a [(Ipv4Addr, Entry)],
    /// Our links in the kernel.
    pub links: &'a [PodLink],
    /// Addresses with a route of their own through a link of ours, or through the bridge of one; and that link, or bridge.
    pub routes: &'a [(Ipv4Addr, u32)],
    /// The pool, if it counts.
    pub pool: Option<&'a Pool>,
    /// What the kernel shows of each lease's namespace.
    pub netns: &'a dyn Fn(&Entry) -> NetnsWitness,
}

/// Compares store and kernel.
pub fn compare(boot_id: String, seen: &Seen<'_>) -> Report {
    let mut findings = vec![];
    if seen.pool.is_none() {
        findings.push(Finding { kind: Kind::NoPool, address: None, attachment: String::new(), what: "no pool counts in this boot".into() });
    }
    for link in seen.links {
        findings.extend(of_link(link, seen));
    }
    for (address, entry) in seen.entries {
        findings.extend(of_entry(*address, entry, seen));
    }
    findings.sort();
    Report { boot_id, at: None, records: seen.entries.len(), links: seen.links.len(), findings, facts: None }
}

/// What store and kernel hold, for who compares it with what others say. `store_id` is the one that the seal names.
pub fn facts(store_id: Option<String>, seen: &Seen<'_>) -> Facts {
    let pool = seen.pool.map(|pool| node::Pool {
        object_uid: pool.object_uid.clone(),
        revision: pool.revision,
        addresses: pool.addresses().iter().map(|at| SlotAddress::single(at.slot, at.address)).collect(),
    });
    let link = |link: &PodLink| match link.alias.address {
        IpAddr::V4(address) => Some(node::Link { name: link.name.to_string(), address, attachment: link.alias.attachment.to_string() }),
        IpAddr::V6(_) => None,
    };
    Facts {
        store_id,
        pool,
        records: seen.entries.iter().map(|(address, entry)| record(*address, entry)).collect(),
        links: seen.links.iter().filter_map(link).collect(),
    }
}

fn record(address: Ipv4Addr, entry: &Entry) -> Record {
    let (state, pod) = match entry {
        Entry::Leased(lease) => (State::Leased, lease.pod.as_ref()),
        Entry::Cooling(_) => (State::Cooling, None),
        Entry::Quarantined(_) => (State::Quarantined, None),
        Entry::Unreadable(_) => (State::Unreadable, None),
    };
    let named =
        |pod: &PodRef| PodName { namespace: pod.namespace.clone(), name: pod.name.clone(), uid: pod.uid.as_ref().map(ToString::to_string) };
    Record { address, state, pod: pod.map(named) }
}

fn finding(kind: Kind, address: Ipv4Addr, of: Option<&Attachment>, what: String) -> Finding {
    Finding { kind, address: Some(address), attachment: of.map(ToString::to_string).unwrap_or_default(), what }
}

fn of_link(link: &PodLink, seen: &Seen<'_>) -> Option<Finding> {
    // The store is of IPv4.
    let (IpAddr::V4(address), owner) = (link.alias.address, &link.alias.attachment) else { return None };
    let entry = seen.entries.iter().find(|(at, _)| *at == address).map(|(_, entry)| entry);
    let name = &link.name;
    match entry {
        Some(Entry::Leased(lease)) if lease.attachment == *owner => {
            let (kind, what) = lacks_route(lease.mode, link, address, seen)?;
            Some(finding(kind, address, Some(owner), what))
        }
        Some(Entry::Leased(lease)) => {
            let what = format!("{name} says that {owner} has it, the store that {} has", lease.attachment);
            Some(finding(Kind::TwoOwners, address, Some(owner), what))
        }
        Some(Entry::Cooling(_) | Entry::Quarantined(_) | Entry::Unreadable(_)) | None => {
            Some(finding(Kind::LinkWithoutLease, address, Some(owner), format!("{name} has it, the store has no lease")))
        }
    }
}

/// What the way to a leased pod lacks, by the lease's mode: a link may have been put on a bridge, or taken from it, since.
fn lacks_route(mode: Mode, link: &PodLink, address: Ipv4Addr, seen: &Seen<'_>) -> Option<(Kind, String)> {
    let name = &link.name;
    let leads = |near| seen.routes.contains(&(address, near));
    match (mode, link.controller) {
        (Mode::Transparent, _) => {
            (!leads(link.index)).then(|| (Kind::LinkWithoutRoute, format!("{name} is there, the route to it is not")))
        }
        (Mode::Bridge | Mode::Tunnel, None) => Some((Kind::BridgedWithoutRoute, format!("{name} is there, and is a port of no bridge"))),
        (Mode::Bridge | Mode::Tunnel, Some(bridge)) => {
            (!leads(bridge)).then(|| (Kind::BridgedWithoutRoute, format!("{name} is there, the route through its bridge is not")))
        }
    }
}

fn of_entry(address: Ipv4Addr, entry: &Entry, seen: &Seen<'_>) -> Vec<Finding> {
    match entry {
        Entry::Leased(lease) => {
            let mut found = vec![];
            if !seen.links.iter().any(|link| link.alias.attachment == lease.attachment) {
                let netns = match (seen.netns)(entry) {
                    NetnsWitness::Same => "its namespace is there",
                    NetnsWitness::Gone => "its namespace is gone",
                    NetnsWitness::Another => "its namespace is another one now",
                    NetnsWitness::Unknown => "its namespace cannot be told",
                };
                let what = format!("link {} is gone; {netns}", lease.host_link);
                found.push(finding(Kind::LeaseWithoutLink, address, Some(&lease.attachment), what));
            }
            if seen.pool.is_some_and(|pool| pool.find(address).is_none()) {
                found.push(finding(Kind::OutsidePool, address, Some(&lease.attachment), "leased, and not in the pool".into()));
            }
            found
        }
        Entry::Unreadable(unreadable) => vec![finding(Kind::Unreadable, address, None, unreadable.why.to_string())],
        Entry::Cooling(_) | Entry::Quarantined(_) => vec![],
    }
}

#[cfg(test)]
mod tests {
    use azure_vnet_operator_core::fsck::node::{Plan, mendable};
    use azure_vnet_plugin_core::{
        boot::BootTime,
        lease::{Cooling, Lease},
    };

    use super::*;

    fn address(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 0, last)
    }

    fn attachment(name: &str) -> Attachment {
        Attachment { container: name.parse().unwrap(), if_name: "eth0".parse().unwrap() }
    }

    fn lease(last: u8, name: &str) -> (Ipv4Addr, Entry) {
        let lease = Lease {
            address: address(last),
            attachment: attachment(name),
            pod: None,
            network: "azure-vnet".parse().unwrap(),
            mode: Mode::Transparent,
            host_link: format!("azv{last}").parse().unwrap(),
            netns: None,
            netns_cookie: None,
            boot: "boot".parse().unwrap(),
            since: BootTime::from_millis(1),
        };
        (address(last), Entry::Leased(lease))
    }

    fn link(last: u8, name: &str) -> PodLink {
        let alias = format!("azure-vnet:{}/eth0 {}", name, address(last)).parse().unwrap();
        PodLink { index: u32::from(last), name: format!("azv{last}").parse().unwrap(), alias, controller: None }
    }

    fn kinds(entries: &[(Ipv4Addr, Entry)], links: &[PodLink]) -> Vec<(Kind, Option<Ipv4Addr>)> {
        report(entries, links).findings.iter().map(|found| (found.kind, found.address)).filter(|(kind, _)| *kind != Kind::NoPool).collect()
    }

    fn report(entries: &[(Ipv4Addr, Entry)], links: &[PodLink]) -> Report {
        let routes: Vec<_> = links
            .iter()
            .filter(|link| link.index != 9)
            .filter_map(|link| if let IpAddr::V4(address) = link.alias.address { Some((address, link.index)) } else { None })
            .collect();
        let seen = Seen { entries, links, routes: &routes, pool: None, netns: &|_| NetnsWitness::Gone };
        compare("boot".into(), &seen)
    }

    #[test]
    fn store_and_kernel_that_agree_differ_in_nothing() {
        assert_eq!(kinds(&[lease(1, "a")], &[link(1, "a")]), []);
        let cooling = Cooling { address: address(2), previous: None, boot: "boot".parse().unwrap(), since: BootTime::from_millis(1) };
        assert_eq!(kinds(&[(address(2), Entry::Cooling(cooling))], &[]), []);
    }

    #[test]
    fn every_difference_is_named_with_its_remedy() {
        assert_eq!(kinds(&[lease(1, "a")], &[]), [(Kind::LeaseWithoutLink, Some(address(1)))]);
        assert_eq!(kinds(&[], &[link(1, "a")]), [(Kind::LinkWithoutLease, Some(address(1)))]);
        assert_eq!(kinds(&[lease(9, "a")], &[link(9, "a")]), [(Kind::LinkWithoutRoute, Some(address(9)))]);
        let both = kinds(&[lease(1, "a")], &[link(1, "b")]);
        assert_eq!(both, [(Kind::TwoOwners, Some(address(1))), (Kind::LeaseWithoutLink, Some(address(1)))]);
        let damaged = Entry::read(address(3), b"x");
        assert_eq!(kinds(&[(address(3), damaged)], &[]), [(Kind::Unreadable, Some(address(3)))]);
        let text = report(&[lease(1, "a")], &[]).to_string();
        assert!(text.contains("its namespace is gone") && text.contains("GC"), "{text}");
    }

    #[test]
    fn a_bridged_pod_has_its_route_through_its_bridge_and_another_through_its_link() {
        const BRIDGE: u32 = 50;
        let lacks = |mode: Mode, controller: Option<u32>, routes: &[(Ipv4Addr, u32)]| {
            let (at, mut entry) = lease(1, "a");
            if let Entry::Leased(lease) = &mut entry {
                lease.mode = mode;
            }
            let links = [PodLink { controller, ..link(1, "a") }];
            let pool = None;
            let seen = Seen { entries: &[(at, entry)], links: &links, routes, pool, netns: &|_| NetnsWitness::Gone };
            compare("boot".into(), &seen).findings.iter().map(|found| found.kind).find(|kind| *kind != Kind::NoPool)
        };
        let (by_link, by_bridge, others) = ([(address(1), 1)], [(address(1), BRIDGE)], [(address(2), BRIDGE)]);
        for mode in [Mode::Bridge, Mode::Tunnel] {
            assert_eq!(lacks(mode, Some(BRIDGE), &by_bridge), None);
            for routes in [&by_link, &others] {
                assert_eq!(lacks(mode, Some(BRIDGE), routes), Some(Kind::BridgedWithoutRoute));
            }
            assert_eq!(lacks(mode, None, &by_bridge), Some(Kind::BridgedWithoutRoute), "it has left its bridge");
        }
        assert_eq!(lacks(Mode::Transparent, None, &by_link), None);
        for controller in [None, Some(BRIDGE)] {
            assert_eq!(lacks(Mode::Transparent, controller, &by_bridge), Some(Kind::LinkWithoutRoute));
        }
        assert!(!Kind::BridgedWithoutRoute.remedy().contains("--repair"));
    }

    #[test]
    fn what_store_and_kernel_hold_is_told_with_the_pod_of_each_lease() {
        let (at, mut entry) = lease(1, "a");
        if let Entry::Leased(lease) = &mut entry {
            lease.pod = Some(PodRef { namespace: "shop".into(), name: "web-0".into(), uid: Some("u".parse().unwrap()) });
        }
        let entries = [(at, entry), (address(2), Entry::read(address(2), b"x"))];
        let links = [link(1, "a")];
        let seen = Seen { entries: &entries, links: &links, routes: &[], pool: None, netns: &|_| NetnsWitness::Gone };
        let told = facts(Some("store".into()), &seen);
        let pod = PodName { namespace: "shop".into(), name: "web-0".into(), uid: Some("u".into()) };
        let records = [
            Record { address: address(1), state: State::Leased, pod: Some(pod) },
            Record { address: address(2), state: State::Unreadable, pod: None },
        ];
        let links = vec![node::Link { name: "azv1".into(), address: address(1), attachment: "a/eth0".into() }];
        assert_eq!(told, Facts { store_id: Some("store".into()), pool: None, records: records.into(), links });
    }

    #[test]
    fn only_what_was_reported_and_is_still_so_is_mended() {
        let before = report(&[lease(2, "b")], &[link(1, "a"), link(3, "c")]);
        let still = report(&[lease(2, "b")], &[link(1, "a"), link(4, "d")]);
        let plan = |leases: &[Ipv4Addr], routes: &[Ipv4Addr]| Plan {
            leases: leases.iter().copied().collect(),
            routes: routes.iter().map(|address| (*address, "a/eth0".to_owned())).collect(),
        };
        assert_eq!(mendable(&before, &still), plan(&[address(1)], &[]));
        let other_boot = Report { boot_id: "next".into(), ..still.clone() };
        assert_eq!(mendable(&before, &other_boot), Plan::default());
        assert_eq!(mendable(&Report::default(), &still), Plan::default());
        // A route only where the pool has the address: the NIC has lost others.
        let cut_off = report(&[lease(9, "a")], &[link(9, "a")]);
        assert_eq!(mendable(&cut_off, &cut_off), Plan::default());
        let pool = node::Pool { addresses: vec!["4/10.0.0.9".parse().unwrap()], ..node::Pool::default() };
        let offered = Report { facts: Some(Facts { pool: Some(pool), ..Facts::default() }), ..cut_off.clone() };
        assert_eq!(mendable(&cut_off, &offered), plan(&[], &[address(9)]));
    }
}
