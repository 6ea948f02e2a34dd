//! What is set aside for a release, what of it comes back, and what may be acknowledged (safety rules ST6, RE2, RE8).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use azure_vnet_crds::{
    AzureVnetNodeSpec,
    node::{Release, ReleaseAck, SlotAddress},
};

/// What is to be done about addresses that are set aside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReleasePlan {
    /// To set aside, with the release's id.
    pub quarantine: Vec<(u64, SlotAddress)>,
    /// To give back to pods: listed as ordinary, and their probation is over.
    pub withdraw: Vec<SlotAddress>,
}

/// Addresses that are set aside although the object lists them as ordinary (safety rule RE8).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Probation<Read>(BTreeMap<SlotAddress, Stage<Read>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage<Read> {
    /// A late write may still land.
    Resting { since: Duration },
    /// A NIC read later than the one named here settles it; an older one may come back with the API server's state.
    AwaitingRead { after: Read },
}

/// What [`Probation::pass`] looks at.
#[derive(Clone, Copy, Debug)]
pub struct Pass<Read> {
    /// Now.
    pub now: Duration,
    /// How long a probation lasts.
    pub period: Duration,
    /// When the controller last read the NIC, by its own word.
    pub last_read: Option<Read>,
}

impl<Read: Copy + Ord> Probation<Read> {
    /// Moves every address that is set aside and ordinary one step on; yields those whose probation is over.
    pub fn pass(&mut self, ordinary: &BTreeSet<SlotAddress>, pass: Pass<Read>) -> Vec<SlotAddress> {
        self.0.retain(|at, _| ordinary.contains(at));
        let mut over = vec![];
        for at in ordinary {
            let stage = self.0.entry(*at).or_insert(Stage::Resting { since: pass.now });
            match *stage {
                Stage::Resting { since } if since + pass.period <= pass.now => {
                    if let Some(after) = pass.last_read {
                        *stage = Stage::AwaitingRead { after };
                    }
                }
                Stage::AwaitingRead { after } if pass.last_read.is_some_and(|last| last > after) => over.push(*at),
                Stage::Resting { .. } | Stage::AwaitingRead { .. } => {}
            }
        }
        over
    }
}

/// What the node has set aside.
#[derive(Clone, Copy, Debug)]
pub struct Held<'a> {
    /// With both records: what may be acknowledged.
    pub quarantined: &'a BTreeSet<SlotAddress>,
    /// With either record: what pods do not get.
    pub set_aside: &'a BTreeSet<SlotAddress>,
}

/// Decides what becomes of addresses that are, or are asked to be, set aside; those that left the list are forgotten by adopting it. `refused` are those that a pod held when they were asked for:
/// the answer to a release does not change afterwards.
#[must_use]
pub fn releases<Read: Copy + Ord>(
    spec: &AzureVnetNodeSpec,
    removing: &[SlotAddress],
    held: Held<'_>,
    refused: &BTreeSet<(u64, SlotAddress)>,
    probation: (&mut Probation<Read>, Pass<Read>),
) -> ReleasePlan {
    let Held { quarantined, set_aside } = held;
    let (probation, pass) = probation;
    if spec.release.is_empty() && set_aside.is_empty() {
        probation.0.clear();
        return ReleasePlan::default();
    }
    let asked: Vec<(u64, SlotAddress)> =
        spec.release.iter().flat_map(|release| release.addresses.iter().map(|at| (release.id, *at))).collect();
    let leaving: BTreeSet<SlotAddress> = asked.iter().map(|(_, at)| *at).chain(removing.iter().copied()).collect();
    let listed: BTreeSet<SlotAddress> = spec.addresses.iter().copied().collect();
    let ordinary = set_aside.iter().filter(|at| !leaving.contains(at) && listed.contains(at)).copied().collect();
    ReleasePlan {
        quarantine: asked
            .into_iter()
            .filter(|(id, at)| listed.contains(at) && !quarantined.contains(at) && !is_refused(refused, *id, *at))
            .collect(),
        withdraw: probation.pass(&ordinary, pass),
    }
}

/// Whether a slot is not to be set aside for a release: of a block nothing is, once any of it was refused.
fn is_refused(refused: &BTreeSet<(u64, SlotAddress)>, id: u64, at: SlotAddress) -> bool {
    refused.iter().any(|(of, known)| *of == id && known.slot == at.slot)
}

/// What may be acknowledged: releases of which every address is durably set aside, or was refused. A release that names something else than the
/// list does (safety rule RE2) is refused for that address. `spec` is as it was published: of a block each address has to be set aside.
#[must_use]
pub fn acks(spec: &AzureVnetNodeSpec, quarantined: &BTreeSet<SlotAddress>, refused: &BTreeSet<(u64, SlotAddress)>) -> Vec<ReleaseAck> {
    let judge = |release: &Release| {
        let (done, rest): (Vec<_>, Vec<_>) =
            release.addresses.iter().copied().partition(|at| at.each().all(|at| quarantined.contains(&at)));
        let is_refused = |at: &SlotAddress| at.each().any(|at| refused.contains(&(release.id, at)));
        let settled = rest.iter().all(|at| is_refused(at) || !spec.addresses.contains(at));
        settled.then(|| ReleaseAck { id: release.id, nonce: release.nonce.clone(), quarantined: done, refused: rest })
    };
    spec.release.iter().filter_map(judge).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adoption::fixture::{all, at, release, secs, spec};

    fn pass(now: u64, last_read: u64) -> Pass<u64> {
        Pass { now: secs(now), period: secs(600), last_read: Some(last_read) }
    }

    #[test]
    fn re8_a_withdrawn_address_rests_and_then_waits_for_a_read() {
        let spec = spec(2, &["1/10.0.0.1"]);
        let held = all(&["1/10.0.0.1"]).into_iter().collect();
        let mut probation = Probation::default();
        let mut withdrawn = |now, read| {
            releases(
                &spec,
                &[],
                Held { quarantined: &BTreeSet::new(), set_aside: &held },
                &BTreeSet::new(),
                (&mut probation, pass(now, read)),
            )
            .withdraw
        };
        assert_eq!(withdrawn(0, 1), []);
        assert_eq!(withdrawn(599, 2), []);
        assert_eq!(withdrawn(600, 3), [], "that read may be older than the end of the probation");
        assert_eq!(withdrawn(700, 3), []);
        assert_eq!(withdrawn(700, 2), [], "an older state of the object came back");
        assert_eq!(withdrawn(701, 4), all(&["1/10.0.0.1"]));
    }

    #[test]
    fn a_release_is_asked_for_once() {
        let mut spec = spec(2, &["1/10.0.0.1", "2/10.0.0.2", "3/10.0.0.3"]);
        spec.release = vec![release(5, &["1/10.0.0.1", "2/10.0.0.2", "3/10.0.0.3"])];
        let quarantined = all(&["1/10.0.0.1", "9/10.0.0.9", "8/10.0.0.8"]).into_iter().collect();
        let refused = BTreeSet::from([(5, at("2/10.0.0.2"))]);
        let plan = releases(
            &spec,
            &all(&["8/10.0.0.8"]),
            Held { quarantined: &quarantined, set_aside: &quarantined },
            &refused,
            (&mut Probation::default(), pass(0, 0)),
        );
        let expected = ReleasePlan { quarantine: vec![(5, at("3/10.0.0.3"))], withdraw: vec![] };
        assert_eq!(plan, expected);
    }

    #[test]
    fn re2_an_ack_names_what_is_set_aside_and_waits_until_all_is_settled() {
        let mut spec = spec(2, &["1/10.0.0.1", "2/10.0.0.2"]);
        spec.release = vec![release(5, &["1/10.0.0.1", "2/10.0.0.2", "2/10.0.0.9"])];
        let quarantined = all(&["1/10.0.0.1"]).into_iter().collect();
        assert_eq!(acks(&spec, &quarantined, &BTreeSet::new()), []);
        let acked = acks(&spec, &quarantined, &BTreeSet::from([(5, at("2/10.0.0.2"))]));
        let refused = all(&["2/10.0.0.2", "2/10.0.0.9"]);
        assert_eq!(acked, [ReleaseAck { id: 5, nonce: "n5".into(), quarantined: all(&["1/10.0.0.1"]), refused }]);
    }
}
