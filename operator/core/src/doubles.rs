//! Addresses that two nodes have at once, as their objects say. There should never be one.

use std::{collections::BTreeMap, net::Ipv4Addr};

use azure_vnet_crds::{AzureVnetNode, node::SlotAddress};

/// How many addresses more than one node's pods may use. An address on its way back to Azure is left out: it may be another node's before its
/// former one has read that it is gone; so may those of a node that is going, as its machine may be gone already. Address spaces of several VNETs
/// may overlap: only nodes of one subnet are compared.
#[must_use]
pub fn count<'a>(pools: impl Iterator<Item = &'a AzureVnetNode>) -> usize {
    let mut subnets: BTreeMap<String, u32> = BTreeMap::new();
    let mut all: Vec<(u32, Ipv4Addr)> = vec![];
    for pool in pools.filter(|pool| pool.metadata.deletion_timestamp.is_none()) {
        let next = u32::try_from(subnets.len()).unwrap_or(u32::MAX);
        let subnet = *subnets.entry(pool.spec.node.subnet_id.to_ascii_lowercase()).or_insert(next);
        let leaving: Vec<SlotAddress> = leaving(pool).collect();
        let kept = pool.spec.addresses.iter().filter(|at| !leaving.iter().any(|leaving| leaving.covers(**at)));
        all.extend(kept.flat_map(|at| at.each()).map(|at| (subnet, at.address)));
    }
    all.sort_unstable();
    all.chunk_by(|one, other| one == other).filter(|same| same.len() > 1).count()
}

fn leaving(pool: &AzureVnetNode) -> impl Iterator<Item = SlotAddress> {
    let intent = pool.status.as_ref().and_then(|status| status.cloud.as_ref()?.intent.as_ref());
    let removed = intent.into_iter().flat_map(|intent| &intent.remove);
    pool.spec.release.iter().flat_map(|release| &release.addresses).chain(removed).copied()
}

#[cfg(test)]
mod tests {
    use azure_vnet_crds::{
        AzureVnetNodeSpec, AzureVnetNodeStatus,
        node::{Cloud, Intent, Release},
    };

    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

    fn pool(subnet: &str, addresses: &[&str]) -> AzureVnetNode {
        let mut spec = AzureVnetNodeSpec { addresses: list(addresses), ..AzureVnetNodeSpec::default() };
        spec.node.subnet_id = subnet.into();
        AzureVnetNode::new("n", spec)
    }

    fn list(addresses: &[&str]) -> Vec<SlotAddress> {
        addresses.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn an_address_of_two_nodes_of_one_subnet_is_counted_once_whatever_carries_it() {
        let (a, b, c) = (pool("/S", &["1/10.0.0.5", "2/10.0.0.6"]), pool("/s", &["1/10.0.0.5"]), pool("/s", &["3/10.0.0.0/28"]));
        assert_eq!(count([&a, &b].into_iter()), 1);
        assert_eq!(count([&a, &b, &c].into_iter()), 2);
        assert_eq!(count([&a, &pool("/other", &["1/10.0.0.5"])].into_iter()), 0);
    }

    #[test]
    fn an_address_on_its_way_back_may_be_anothers_already() {
        let (mut a, b) = (pool("/s", &["1/10.0.0.5", "2/10.0.0.6"]), pool("/s", &["1/10.0.0.5", "2/10.0.0.6"]));
        let mut going = b.clone();
        going.metadata.deletion_timestamp = Some(Time(jiff::Timestamp::UNIX_EPOCH));
        assert_eq!(count([&b, &going].into_iter()), 0);
        a.spec.release = vec![Release { addresses: list(&["1/10.0.0.5"]), ..Release::default() }];
        assert_eq!(count([&a, &b].into_iter()), 1);
        let intent = Some(Intent { remove: list(&["2/10.0.0.6"]), ..Intent::default() });
        a.status = Some(AzureVnetNodeStatus { cloud: Some(Cloud { intent, ..Cloud::default() }), ..AzureVnetNodeStatus::default() });
        assert_eq!(count([&a, &b].into_iter()), 0);
    }
}
