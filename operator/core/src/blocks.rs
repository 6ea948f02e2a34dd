//! The agent's side of blocks. A node's store knows single addresses only, each with the slot that it belongs to: here a block is taken apart into
//! them. What goes back, and what the node's metadata shows, is a block as a whole.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use azure_vnet_crds::{
    AzureVnetNodeSpec,
    node::{Release, SlotAddress},
};

/// The same spec with each address by itself. All 16 of a block are for pods: those that Azure keeps for itself in a subnet, the first four and the last,
/// are never part of one.
#[must_use]
pub fn apart(spec: AzureVnetNodeSpec) -> AzureVnetNodeSpec {
    let AzureVnetNodeSpec { node, revision, config, effective, addresses, release, lost } = spec;
    let release = release.into_iter().map(|release| Release { addresses: each(&release.addresses), ..release }).collect();
    AzureVnetNodeSpec { node, revision, config, effective, addresses: each(&addresses), release, lost: each(&lost) }
}

/// Each address by itself.
#[must_use]
pub fn each(list: &[SlotAddress]) -> Vec<SlotAddress> {
    list.iter().flat_map(|at| at.each()).collect()
}

/// Each address of those that are blocks.
#[must_use]
pub fn of_blocks(list: &[SlotAddress]) -> BTreeSet<Ipv4Addr> {
    list.iter().filter(|at| !at.unit.is_address()).flat_map(|at| at.each()).map(|at| at.address).collect()
}

/// What an answer of the node's metadata shows: Azure does not document how a block appears there, and attaches it as a whole, so that its first address
/// shows all of them. Another alone shows nothing of it: it may have been a single one before the block came, or have come as one into what was a block.
#[must_use]
pub fn shown(list: &[SlotAddress], shown: BTreeSet<Ipv4Addr>) -> BTreeSet<Ipv4Addr> {
    let (there, away): (Vec<SlotAddress>, Vec<SlotAddress>) =
        list.iter().filter(|at| !at.unit.is_address()).partition(|at| shown.contains(&at.address));
    let others = shown.into_iter().filter(|address| !away.iter().any(|block| block.contains(*address)));
    others.chain(there.iter().flat_map(|at| at.each()).map(|at| at.address)).collect()
}

/// Each address that is listed by itself.
#[must_use]
pub fn singles(list: &[SlotAddress]) -> BTreeSet<Ipv4Addr> {
    list.iter().filter(|at| at.unit.is_address()).map(|at| at.address).collect()
}

/// Of addresses that are to be set aside, with their release's id, those of blocks of which any has a record in the node's store: a block goes back as a
/// whole or not at all, and nothing of it need rest for that.
#[must_use]
pub fn in_use(asked: &[(u64, SlotAddress)], recorded: &BTreeSet<Ipv4Addr>) -> BTreeSet<(u64, SlotAddress)> {
    let alike = |(id, at): (u64, SlotAddress)| asked.iter().filter(move |(other, with)| *other == id && with.slot == at.slot);
    let is_held = |(_, at): &(u64, SlotAddress)| recorded.contains(&at.address);
    let held = asked.iter().filter(|one| alike(**one).count() > 1 && alike(**one).any(is_held));
    held.copied().collect()
}

/// Addresses of releases that are of blocks of which any was refused. They are no longer offered, as all of a release (safety rule ST8), but nobody waits for
/// their markers.
#[must_use]
pub fn held_back(releases: &[Release], refused: &BTreeSet<(u64, SlotAddress)>) -> BTreeSet<SlotAddress> {
    let of_release = |release: &Release| {
        let alike = |slot: u8| release.addresses.iter().filter(move |at| at.slot == slot);
        let is_held = |at: &&SlotAddress| alike(at.slot).count() > 1 && alike(at.slot).any(|at| refused.contains(&(release.id, *at)));
        release.addresses.iter().filter(is_held).copied().collect::<Vec<_>>()
    };
    releases.iter().flat_map(of_release).collect()
}

/// What to say of addresses that pods do not get, since they are reserved or lost, and that do not go back either, with what uses them; nothing where
/// there are none.
#[must_use]
pub fn stuck(published: &[SlotAddress], stuck: &BTreeMap<SlotAddress, String>) -> Option<String> {
    let whole =
        |at: &SlotAddress| published.iter().find(|whole| whole.slot == at.slot && whole.contains(at.address)).copied().unwrap_or(*at);
    let parts: Vec<String> = stuck.iter().map(|(at, why)| format!("{} because of {} ({why})", whole(at), at.address)).collect();
    (!parts.is_empty()).then(|| {
        format!(
            "asked for back, and kept: {}. Pods do not get these addresses, as they are in pool.reserved or lost, and something else on the node uses them: \
             end that use, and what is kept goes back the next time",
            parts.join("; ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SlotAddress {
        text.parse().unwrap()
    }

    fn addresses(texts: &[&str]) -> BTreeSet<Ipv4Addr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn blocks_are_taken_apart_wherever_a_spec_has_addresses() {
        let release = Release { id: 3, nonce: "n".into(), addresses: vec![at("7/10.0.0.16/28")] };
        let spec = AzureVnetNodeSpec {
            addresses: vec![at("1/10.0.0.4"), at("7/10.0.0.16/28")],
            release: vec![release],
            lost: vec![at("9/10.0.0.32/28")],
            ..AzureVnetNodeSpec::default()
        };
        let plain = apart(spec.clone());
        assert_eq!((plain.addresses.len(), plain.release[0].addresses.len(), plain.lost.len()), (17, 16, 16));
        assert_eq!((plain.addresses[16], plain.release[0].id), (at("7/10.0.0.31"), 3));
        assert_eq!(of_blocks(&spec.addresses).len(), 16);
        assert_eq!(apart(plain.clone()), plain);
    }

    #[test]
    fn re5_the_first_address_of_a_block_shows_it_and_another_nothing() {
        let listed = [at("1/10.0.0.4"), at("7/10.0.0.16/28"), at("8/10.0.0.32/28")];
        let seen = shown(&listed, addresses(&["10.0.0.16", "10.0.0.40", "10.9.9.9"]));
        assert_eq!(seen.len(), 17);
        let has = |text: &str| seen.contains(&text.parse().unwrap());
        assert!(has("10.0.0.31") && !has("10.0.0.32") && !has("10.0.0.40") && has("10.9.9.9"));
    }

    #[test]
    fn a_block_with_one_address_in_use_is_held_back_as_a_whole_and_single_ones_are_asked_for_one_by_one() {
        let asked: Vec<(u64, SlotAddress)> =
            each(&[at("1/10.0.0.4"), at("7/10.0.0.16/28"), at("8/10.0.0.32/28")]).into_iter().map(|at| (5, at)).collect();
        let held = in_use(&asked, &addresses(&["10.0.0.4", "10.0.0.20"]));
        assert_eq!((held.len(), held.iter().all(|(id, at)| (*id, at.slot) == (5, 7))), (16, true));
        let release = Release { id: 5, nonce: "n".into(), addresses: asked.iter().map(|(_, at)| *at).collect() };
        let refused = BTreeSet::from([(5, at("1/10.0.0.4")), (5, at("7/10.0.0.20")), (6, at("8/10.0.0.32"))]);
        assert_eq!(held_back(&[release], &refused), each(&[at("7/10.0.0.16/28")]).into_iter().collect());
    }
    #[test]
    fn what_does_not_go_back_though_no_pod_has_it_is_told_with_its_block() {
        assert_eq!(stuck(&[], &BTreeMap::new()), None);
        let text = stuck(&[at("7/10.0.0.16/28")], &BTreeMap::from([(at("7/10.0.0.20"), "the host has it".into())])).unwrap();
        assert!(
            text.starts_with("asked for back, and kept: 7/10.0.0.16/28 because of 10.0.0.20 (the host has it). Pods do not get"),
            "{text}"
        );
    }
}
