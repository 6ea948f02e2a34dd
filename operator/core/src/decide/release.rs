//! Giving addresses back: which requests still stand, and which are acknowledged (safety rules RE1, RE2, ST9).

use std::collections::BTreeSet;

use azure_vnet_crds::node::{Intent, Release, ReleaseAck, SlotAddress};

use super::{Memory, Observed};
use crate::nic::View;

/// The releases that still stand. One of another term, of another store or of an id that was closed is withdrawn; from the others goes what the
/// agent refused and what the NIC shows otherwise.
pub fn judge(observed: &Observed, releases: &[Release], view: &View, memory: &Memory) -> Vec<Release> {
    let stands = |release: &&Release| {
        let store = memory.releases.get(&release.id).filter(|_| release.nonce == observed.me.nonce);
        store.is_some_and(|store| observed.agent().is_none_or(|agent| agent.store_id == *store))
    };
    let rest = |release: &Release| {
        let mut release = release.clone();
        if let Some(ack) = ack(observed, &release) {
            let same = |at: &SlotAddress| view.address(at.slot) == Some(at.address);
            release.addresses.retain(|at| !ack.refused.contains(at) && (same(at) || !ack.quarantined.contains(at)));
        }
        release
    };
    releases.iter().filter(stands).map(rest).filter(|release| !release.addresses.is_empty()).collect()
}

/// What the agent refused to set aside.
pub fn refused(observed: &Observed, releases: &[Release]) -> BTreeSet<SlotAddress> {
    releases.iter().filter_map(|release| ack(observed, release)).flat_map(|ack| ack.refused.iter().copied()).collect()
}

/// The first release that the agent set aside in whole, as the NIC shows it.
pub fn acknowledged(observed: &Observed, releases: &[Release], view: &View) -> Option<(u64, Vec<SlotAddress>)> {
    let whole = |release: &&Release| {
        let asked: BTreeSet<_> = release.addresses.iter().collect();
        let done: BTreeSet<_> = ack(observed, release).into_iter().flat_map(|ack| &ack.quarantined).collect();
        asked.is_subset(&done) && asked.iter().all(|at| view.address(at.slot) == Some(at.address))
    };
    releases.iter().find(whole).map(|release| (release.id, release.addresses.clone()))
}

/// Whether the agent's word of this moment still allows the removal that another term recorded.
pub fn still_acknowledged(observed: &Observed, releases: &[Release], intent: &Intent) -> bool {
    let Some(agent) = observed.agent() else { return false };
    let Some(release) = releases.iter().find(|release| Some(release.id) == intent.release_id) else { return false };
    let same = |ack: &&ReleaseAck| ack.id == release.id && ack.nonce == release.nonce;
    agent.release_acks.iter().find(same).is_some_and(|ack| intent.remove.iter().all(|at| ack.quarantined.contains(at)))
}

/// The agent's answer to a release: of this object, boot and term.
fn ack<'a>(observed: &'a Observed, release: &Release) -> Option<&'a ReleaseAck> {
    let agent = observed.agent()?;
    agent.release_acks.iter().find(|ack| ack.id == release.id && ack.nonce == release.nonce && release.nonce == observed.me.nonce)
}
