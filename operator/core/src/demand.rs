//! How many addresses a node's pods need.

use std::{borrow::Borrow, collections::BTreeSet};

/// A pod that the API server has bound to this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its UID.
    pub uid: String,
    /// Whether it shares the node's network.
    pub host_network: bool,
    /// Whether it has run to its end.
    pub finished: bool,
    /// Whether it is being deleted.
    pub terminating: bool,
}

/// What the node holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held<'a> {
    /// The pod of each lease, by UID; `None` for a lease that names none.
    pub leases: Vec<Option<&'a str>>,
    /// The last pod of each address that rests after use, by UID; `None` where it is not known.
    pub resting: Vec<Option<&'a str>>,
    /// UIDs of pods whose ADD failed within the last minute.
    pub want: BTreeSet<&'a str>,
}

/// Pods that need an address (bound, not finished, not on the host's network; one that is being deleted only while it holds a lease), leases
/// without such a pod, resting addresses, and failed ADDs of pods not seen yet. A pod whose address rests, and that has no other and asked for none, is
/// at its end before the API server says so, or between two sandboxes: it needs none beside the one that rests. Addresses that are set aside are
/// counted apart.
#[must_use]
pub fn demand<P: Borrow<Pod>>(pods: &[P], held: &Held<'_>) -> u16 {
    let leased = Uids::of(held.leases.iter().copied().flatten());
    let resting = Uids::of(held.resting.iter().copied().flatten());
    let asks = |pod: &Pod| !pod.terminating && (!resting.contains(&pod.uid) || held.want.contains(pod.uid.as_str()));
    let needs = |pod: &&Pod| !pod.host_network && !pod.finished && (leased.contains(&pod.uid) || asks(pod));
    let needing = Uids::of(pods.iter().map(Borrow::borrow).filter(needs).map(|pod| pod.uid.as_str()));
    let orphans = held.leases.iter().filter(|uid| uid.is_none_or(|uid| !needing.contains(uid))).count();
    let bound = Uids::of(pods.iter().filter(|_| !held.want.is_empty()).map(|pod| pod.borrow().uid.as_str()));
    let unseen = held.want.iter().filter(|uid| !leased.contains(uid) && !bound.contains(uid)).count();
    u16::try_from(needing.0.len() + orphans + held.resting.len() + unseen).unwrap_or(u16::MAX)
}

/// Some UIDs in their order, each once.
struct Uids<'a>(Vec<&'a str>);

impl<'a> Uids<'a> {
    fn of(uids: impl Iterator<Item = &'a str>) -> Self {
        let mut uids: Vec<&str> = uids.collect();
        uids.sort_unstable();
        uids.dedup();
        Self(uids)
    }

    fn contains(&self, uid: &str) -> bool {
        self.0.binary_search(&uid).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str) -> Pod {
        Pod { uid: uid.into(), host_network: false, finished: false, terminating: false }
    }

    #[test]
    fn demand_counts_each_need_once() {
        let pods = [
            pod("waiting"),
            pod("running"),
            Pod { host_network: true, ..pod("host") },
            Pod { finished: true, ..pod("done") },
            Pod { terminating: true, ..pod("leaving") },
            Pod { terminating: true, ..pod("left") },
        ];
        let leases = ["running", "leaving", "deleted", "done"].map(Some).into_iter().chain([None]).collect();
        let want = ["waiting", "unseen"].into();
        // waiting, running, leaving; leases of deleted, of done and of none; two resting; unseen.
        assert_eq!(demand(&pods, &Held { leases, resting: vec![None, None], want }), 9);
    }

    #[test]
    fn a_pod_that_is_being_deleted_needs_nothing_beside_what_it_holds_or_gave_up() {
        let uids = ["a", "b", "c"];
        let some = |uids: &[&'static str]| uids.iter().copied().map(Some).collect::<Vec<_>>();
        let running = uids.map(pod);
        let leaving = uids.map(|uid| Pod { terminating: true, ..pod(uid) });
        for given_up in 0..=3 {
            let held = Held { leases: some(&uids[given_up..]), resting: some(&uids[..given_up]), want: BTreeSet::new() };
            assert_eq!(demand(&running, &held), 3, "{given_up} gave theirs up before the watch showed it");
            assert_eq!(demand(&leaving, &held), 3, "{given_up} gave theirs up");
        }
        let again = Held { resting: some(&uids), want: ["b"].into(), ..Held::default() };
        assert_eq!(demand(&running, &again), 4, "b asked for another one in vain");
        let both = Held { leases: some(&["b"]), resting: some(&["b"]), ..Held::default() };
        assert_eq!(demand(&[pod("b")], &both), 2, "b has another one");
    }
}
