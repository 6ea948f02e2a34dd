//! What must never be, told from one look at Azure and all nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use azure_vnet_plugin_core::attachment::Attachment;
use azure_vnet_plugin_core::wiring::Alias;

/// One node as it was read: first its store, then its links.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// The store's leases and whose they are.
    pub leased: BTreeMap<Ipv4Addr, Attachment>,
    /// The pool's addresses.
    pub pool: BTreeSet<Ipv4Addr>,
    /// What the labels of the node's own links say.
    pub linked: Vec<Alias>,
}

/// Everything of one look, nodes by name.
#[derive(Debug, Clone, Default)]
pub struct Look {
    /// Nodes that could be read before Azure was asked.
    pub before: BTreeMap<String, Seen>,
    /// What is attached to each node's NIC.
    pub attached: BTreeMap<String, BTreeSet<Ipv4Addr>>,
    /// Nodes that could be read after it.
    pub after: BTreeMap<String, Seen>,
}

impl Look {
    /// Each violation in words. Only what stood before and after Azure was asked is compared with it and with one another, as nothing is
    /// read at one moment.
    pub fn violations(&self) -> Vec<String> {
        let mut found = self.in_two_places("leased", |seen| seen.leased.keys().copied().collect());
        found.extend(self.in_two_places("in the pool", |seen| seen.pool.iter().copied().collect()));
        found.extend(self.in_two_places("on a pod's link", |seen| seen.linked.iter().filter_map(address).collect()));
        for (node, after) in &self.after {
            let Some(before) = self.before.get(node) else { continue };
            let attached = self.attached.get(node).cloned().unwrap_or_default();
            let stays = after.leased.keys().filter(|leased| before.leased.contains_key(leased));
            found.extend(
                stays.filter(|leased| !attached.contains(leased)).map(|leased| format!("{leased} is leased on {node} and not on its NIC")),
            );
            let links = before.linked.iter().filter(|link| after.linked.contains(link));
            let bare = links.filter(|link| address(link).is_some_and(|address| after.leased.get(&address) != Some(&link.attachment)));
            found.extend(bare.map(|link| format!("{} of {node} has {} without a lease", link.attachment, link.address)));
        }
        found
    }

    /// How many leases of a node whose NIC is known were compared.
    pub fn leases(&self) -> usize {
        let known = self.after.iter().filter(|(node, _)| self.attached.contains_key(*node));
        known.map(|(_, seen)| seen.leased.len()).sum()
    }

    /// How many links of pods were compared.
    pub fn links(&self) -> usize {
        self.after.values().map(|seen| seen.linked.len()).sum()
    }

    fn in_two_places(&self, what: &str, addresses: impl Fn(&Seen) -> Vec<Ipv4Addr>) -> Vec<String> {
        let mut places: BTreeMap<Ipv4Addr, Vec<&str>> = BTreeMap::new();
        for (node, seen) in &self.after {
            for address in addresses(seen) {
                places.entry(address).or_default().push(node);
            }
        }
        let doubles = places.into_iter().filter(|(_, nodes)| nodes.len() > 1);
        doubles.map(|(address, nodes)| format!("{address} is {what} on {}", nodes.join(" and "))).collect()
    }
}

fn address(link: &Alias) -> Option<Ipv4Addr> {
    match link.address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEN: Ipv4Addr = Ipv4Addr::new(10, 240, 0, 10);

    fn pod(container: &str) -> Attachment {
        Attachment { container: container.parse().unwrap(), if_name: "eth0".parse().unwrap() }
    }

    fn node(container: &str) -> Seen {
        let link = Alias { attachment: pod(container), address: TEN.into() };
        Seen { leased: [(TEN, pod(container))].into(), pool: [TEN].into(), linked: vec![link] }
    }

    fn look(nodes: &[(&str, Seen)]) -> Look {
        let nodes: BTreeMap<String, Seen> = nodes.iter().map(|(name, seen)| ((*name).to_owned(), seen.clone())).collect();
        let attached = nodes.keys().map(|name| (name.clone(), BTreeSet::from([TEN]))).collect();
        Look { before: nodes.clone(), attached, after: nodes }
    }

    #[test]
    fn a_pod_with_a_lease_on_its_nodes_nic_is_as_it_should_be() {
        let look = look(&[("n1", node("a")), ("n2", Seen::default())]);
        assert_eq!((look.violations(), look.leases(), look.links()), (Vec::new(), 1, 1));
    }

    #[test]
    fn one_address_on_two_nodes_is_seen_in_stores_pools_and_links() {
        let found = look(&[("n1", node("a")), ("n2", node("b"))]).violations();
        let expected = ["leased", "in the pool", "on a pod's link"].map(|what| format!("{TEN} is {what} on n1 and n2"));
        assert_eq!(found, expected);
    }

    #[test]
    fn two_pods_of_one_node_with_one_address_are_seen() {
        let mut twice = node("a");
        twice.linked.push(Alias { attachment: pod("b"), address: TEN.into() });
        let found = look(&[("n1", twice)]).violations();
        assert_eq!(found, [format!("{TEN} is on a pod's link on n1 and n1"), format!("b/eth0 of n1 has {TEN} without a lease")]);
    }

    #[test]
    fn a_lease_whose_address_left_the_nic_is_seen_once_it_stood_all_the_while() {
        let mut look = look(&[("n1", node("a"))]);
        look.attached.insert("n1".to_owned(), BTreeSet::new());
        assert_eq!(look.violations(), [format!("{TEN} is leased on n1 and not on its NIC")]);
        look.before.insert("n1".to_owned(), Seen::default());
        assert_eq!(look.violations(), Vec::<String>::new(), "the lease may have come after Azure was asked");
    }
}
