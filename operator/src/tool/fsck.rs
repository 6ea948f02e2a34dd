//! What differs between a node's store and its kernel, and what of it may be mended from a report: pure, on what was read.
//!
//! A lease is freed by nobody here: that takes the runtime's or the API server's word beside the kernel's (safety rule CM4), which GC and the
//! agent have and a person at a node has not.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, Ipv4Addr},
};

use azure_vnet_operator_core::look::Table;
use azure_vnet_plugin_core::{attachment::Attachment, gc::NetnsWitness, lease::Entry, pool::Pool};
use serde::{Deserialize, Serialize};

use crate::agent::kernel::PodLink;

/// What was read at one time.
pub struct Seen<'a> {
    /// The store's records.
    pub entries: &'a [(Ipv4Addr, Entry)],
    /// Our links in the kernel.
    pub links: &'a [PodLink],
    /// Addresses with a route through a link of ours, and that link.
    pub routes: &'a [(Ipv4Addr, u32)],
    /// The pool, if it counts.
    pub pool: Option<&'a Pool>,
    /// What the kernel shows of each lease's namespace.
    pub netns: &'a dyn Fn(&Entry) -> NetnsWitness,
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
    /// A record that cannot be read.
    Unreadable,
    /// A lease of an address that is no longer in the pool.
    OutsidePool,
}

impl Kind {
    /// Who mends it, and how.
    fn remedy(self) -> &'static str {
        match self {
            Self::NoPool => "the agent (or standalone) seals the store: see its log",
            Self::LinkWithoutLease => "--repair makes the lease; the agent does so when it seals the store anew",
            Self::TwoOwners => "delete both pods; nothing is changed by itself while either lives",
            Self::LeaseWithoutLink => {
                "freed by GC, or by the agent once the API server has no such pod either; delete the pod if there is one"
            }
            Self::LinkWithoutRoute => "delete the pod; if the NIC lost its address, this is how its traffic was cut off",
            Self::Unreadable => "rests by itself after ten minutes without a trace in the kernel",
            Self::OutsidePool => "delete the pod if the address is lost; otherwise it goes back when the pod ends",
        }
    }

    fn is_mendable(self) -> bool {
        match self {
            Self::LinkWithoutLease => true,
            Self::NoPool | Self::TwoOwners | Self::LeaseWithoutLink | Self::LinkWithoutRoute | Self::Unreadable | Self::OutsidePool => {
                false
            }
        }
    }
}

/// What differs; empty when store and kernel agree.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The boot that it speaks of.
    #[serde(rename = "bootID")]
    pub boot_id: String,
    /// Records looked at.
    pub records: usize,
    /// Links looked at.
    pub links: usize,
    /// The differences.
    pub findings: Vec<Finding>,
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
    Report { boot_id, records: seen.entries.len(), links: seen.links.len(), findings }
}

/// What a report allows to mend: of the same boot, found then and found now.
pub fn mendable(report: &Report, now: &Report) -> BTreeSet<Ipv4Addr> {
    if report.boot_id != now.boot_id {
        return BTreeSet::new();
    }
    let still = |finding: &&Finding| finding.kind.is_mendable() && now.findings.contains(finding);
    report.findings.iter().filter(still).filter_map(|finding| finding.address).collect()
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
            // A bridged pod's route leads through its bridge.
            let routed = link.controller.is_some() || seen.routes.iter().any(|(to, through)| *to == address && *through == link.index);
            (!routed).then(|| finding(Kind::LinkWithoutRoute, address, Some(owner), format!("{name} is there, the route to it is not")))
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

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { boot_id: _, records, links, findings } = self;
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

#[cfg(test)]
mod tests {
    use azure_vnet_plugin_core::{
        attachment::Mode,
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
    fn only_what_was_reported_and_is_still_so_is_mended() {
        let before = report(&[lease(2, "b")], &[link(1, "a"), link(3, "c")]);
        let still = report(&[lease(2, "b")], &[link(1, "a"), link(4, "d")]);
        assert_eq!(mendable(&before, &still), [address(1)].into());
        let other_boot = Report { boot_id: "next".into(), ..still.clone() };
        assert_eq!(mendable(&before, &other_boot), [].into());
        assert_eq!(mendable(&Report::default(), &still), [].into());
    }
}
