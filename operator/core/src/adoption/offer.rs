//! Which of the listed addresses pods may have.

use std::{collections::BTreeSet, net::Ipv4Addr, time::Duration};

use azure_vnet_crds::{AzureVnetNodeSpec, node::SlotAddress};
use ipnet::Ipv4Net;

use super::Sightings;

/// Which of a node's addresses pods may have, and which they may not although they are listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// For pods.
    pub offered: BTreeSet<SlotAddress>,
    /// To be set aside before anything is offered: in a release or in an open removal (safety rule ST8).
    pub set_aside: BTreeSet<SlotAddress>,
}

/// Every address that the spec gives to this node's pods at all: not lost, not reserved, not the node's own.
#[must_use]
pub fn listed(spec: &AzureVnetNodeSpec) -> BTreeSet<SlotAddress> {
    let reserved: Vec<Ipv4Net> = spec.effective.reserved.iter().filter_map(|net| net.parse().ok()).collect();
    let primary: Option<Ipv4Addr> = spec.node.primary_address.parse().ok();
    let usable = |at: &&SlotAddress| {
        !spec.lost.iter().any(|lost| lost.address == at.address)
            && !reserved.iter().any(|net| net.contains(&at.address))
            && primary != Some(at.address)
    };
    spec.addresses.iter().filter(usable).copied().collect()
}

/// Decides what of the [`listed`] is offered. `removing` is what an open intent removes. A release or removal excludes what shares its slot or its address,
/// since either may be what is meant (safety rules ST8, RE2).
#[must_use]
pub fn offer(
    spec: &AzureVnetNodeSpec,
    listed: &BTreeSet<SlotAddress>,
    removing: &[SlotAddress],
    sightings: &Sightings,
    now: Duration,
) -> Offer {
    let leaving: BTreeSet<SlotAddress> = spec.release.iter().flat_map(|release| &release.addresses).chain(removing).copied().collect();
    let leaves = |at: &SlotAddress| leaving.iter().any(|leaving| leaving.slot == at.slot || leaving.address == at.address);
    let stays = listed.iter().copied().filter(|at| !leaves(at));
    let offered = stays.filter(|at| sightings.offerable(now, at.address)).collect();
    // What pods do not get anyway is set aside with the rest of its block.
    Offer { offered, set_aside: spec.addresses.iter().copied().filter(leaves).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adoption::{
        Listed,
        fixture::{all, offered, release, secs, spec},
    };

    #[test]
    fn st8_nothing_that_leaves_is_offered_by_slot_or_by_address() {
        let mut spec = spec(1, &["1/10.0.0.1", "2/10.0.0.2", "3/10.0.0.3", "4/10.0.0.4", "5/10.0.0.5", "6/10.0.0.6", "7/10.0.0.7"]);
        spec.release = vec![release(1, &["2/10.0.0.2"]), release(2, &["3/10.0.0.9", "7/10.0.0.7"])];
        spec.lost = all(&["5/10.0.0.5"]);
        spec.effective.reserved = vec!["10.0.0.6/32".into(), "10.0.0.7/32".into()];
        let known: BTreeSet<_> = spec.addresses.iter().map(|at| at.address).collect();
        let mut sightings = Sightings::default();
        sightings.list(secs(0), Listed::ByObject, &known, &offered(&known));
        let offer = offer(&spec, &listed(&spec), &all(&["9/10.0.0.4"]), &sightings, secs(0));
        assert_eq!(offer.offered, all(&["1/10.0.0.1"]).into_iter().collect());
        assert_eq!(offer.set_aside, all(&["2/10.0.0.2", "3/10.0.0.3", "4/10.0.0.4", "7/10.0.0.7"]).into_iter().collect());
    }
}
