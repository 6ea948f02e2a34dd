//! How many addresses a node's pods need, and which leases nobody needs any more.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    time::Duration,
};

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
pub struct Held {
    /// The pod of each lease, by UID; `None` for a lease that names none.
    pub leases: Vec<Option<String>>,
    /// Addresses that rest after use.
    pub cooling: usize,
    /// UIDs of pods whose ADD failed within the last minute.
    pub want: BTreeSet<String>,
}

/// Pods that need an address (bound, not finished, not on the host's network; one that is being deleted only while it holds a lease), leases
/// without such a pod, resting addresses, and failed ADDs of pods not seen yet. Addresses that are set aside are counted apart.
#[must_use]
pub fn demand(pods: &[Pod], held: &Held) -> u16 {
    let leased: BTreeSet<&str> = held.leases.iter().filter_map(Option::as_deref).collect();
    let needs = |pod: &&Pod| !pod.host_network && !pod.finished && (!pod.terminating || leased.contains(pod.uid.as_str()));
    let needing: BTreeSet<&str> = pods.iter().filter(needs).map(|pod| pod.uid.as_str()).collect();
    let all: BTreeSet<&str> = pods.iter().map(|pod| pod.uid.as_str()).collect();
    let orphans = held.leases.iter().filter(|uid| uid.as_deref().is_none_or(|uid| !needing.contains(uid))).count();
    let unseen = held.want.iter().filter(|uid| !all.contains(uid.as_str()) && !leased.contains(uid.as_str())).count();
    u16::try_from(needing.len() + orphans + held.cooling + unseen).unwrap_or(u16::MAX)
}

/// How often, and how far apart, the API server must lack a pod before its lease may be freed (safety rule CM4).
const BETWEEN_LISTS: Duration = Duration::from_mins(1);
/// How long something that neither the API server nor a pod explains is left alone.
const UNEXPLAINED: Duration = Duration::from_mins(10);

/// What the kernel shows of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trace {
    /// No host link of this attachment, and no network namespace at its path.
    Gone,
    /// A namespace at its path or a host link, or what cannot be told.
    Present,
}

/// A lease as the orphan search sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suspect {
    /// The leased address.
    pub address: Ipv4Addr,
    /// Tells this lease from a later one of the same address.
    pub owner: String,
    /// The pod that it names.
    pub pod: Option<String>,
    /// What the kernel shows.
    pub trace: Trace,
}

/// What is to become of a lease that nobody needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It cools.
    Free(Suspect),
    /// Its host link is removed first, then it cools.
    RemoveLinkAndFree(Suspect),
}

/// Since when each lease has been without a pod, over lists of the API server's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Orphans(BTreeMap<(Ipv4Addr, String), Since>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Since {
    missing: Duration,
    lists: u32,
}

impl Orphans {
    /// Whether any of these leases wants a list of the API server's pods: those whose pod the watch does not show.
    #[must_use]
    pub fn wants_list(&self, suspects: &[Suspect], watched: &BTreeSet<String>) -> bool {
        suspects.iter().any(|suspect| suspect.pod.as_ref().is_none_or(|uid| !watched.contains(uid)))
    }

    /// Judges every lease by a list that was just read from the API server itself (never by a cache).
    pub fn judge(&mut self, now: Duration, suspects: &[Suspect], pods: &BTreeSet<String>) -> Vec<Verdict> {
        let missing: Vec<&Suspect> = suspects.iter().filter(|suspect| suspect.pod.as_ref().is_none_or(|uid| !pods.contains(uid))).collect();
        let keys: BTreeSet<_> = missing.iter().map(|suspect| key(suspect)).collect();
        self.0.retain(|key, _| keys.contains(key));
        missing.into_iter().filter_map(|suspect| self.judge_one(now, suspect)).collect()
    }

    fn judge_one(&mut self, now: Duration, suspect: &Suspect) -> Option<Verdict> {
        let since = self.0.entry(key(suspect)).or_insert(Since { missing: now, lists: 0 });
        since.lists += 1;
        let age = now.saturating_sub(since.missing);
        let twice = since.lists >= 2 && age >= BETWEEN_LISTS;
        match (suspect.trace, suspect.pod.is_some()) {
            (Trace::Gone, true) if twice => Some(Verdict::Free(suspect.clone())),
            (Trace::Gone, false) if twice && age >= UNEXPLAINED => Some(Verdict::Free(suspect.clone())),
            (Trace::Present, true) if twice && age >= UNEXPLAINED => Some(Verdict::RemoveLinkAndFree(suspect.clone())),
            (Trace::Gone | Trace::Present, _) => None,
        }
    }
}

fn key(suspect: &Suspect) -> (Ipv4Addr, String) {
    (suspect.address, suspect.owner.clone())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn pod(uid: &str) -> Pod {
        Pod { uid: uid.into(), host_network: false, finished: false, terminating: false }
    }

    fn suspect(pod: Option<&str>, trace: Trace) -> Suspect {
        Suspect { address: "10.0.0.1".parse().unwrap(), owner: "c1/eth0".into(), pod: pod.map(Into::into), trace }
    }

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
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
        let leases = ["running", "leaving", "deleted", "done"].map(|uid| Some(uid.to_owned())).into_iter().chain([None]).collect();
        let want = ["waiting", "unseen"].map(Into::into).into();
        // waiting, running, leaving; leases of deleted, of done and of none; two resting; unseen.
        assert_eq!(demand(&pods, &Held { leases, cooling: 2, want }), 9);
    }

    #[test]
    fn cm4_a_lease_is_freed_after_two_lists_a_minute_apart_and_only_without_a_trace() {
        let mut orphans = Orphans::default();
        let gone = [suspect(Some("a"), Trace::Gone)];
        assert_eq!(orphans.judge(secs(0), &gone, &BTreeSet::new()), []);
        assert_eq!(orphans.judge(secs(59), &gone, &BTreeSet::new()), []);
        assert_eq!(orphans.judge(secs(60), &[suspect(Some("a"), Trace::Present)], &BTreeSet::new()), []);
        assert_eq!(orphans.judge(secs(61), &gone, &BTreeSet::new()), [Verdict::Free(suspect(Some("a"), Trace::Gone))]);
    }

    #[test]
    fn cm4_a_pod_that_is_listed_again_starts_the_count_anew() {
        let mut orphans = Orphans::default();
        let gone = [suspect(Some("a"), Trace::Gone)];
        orphans.judge(secs(0), &gone, &BTreeSet::new());
        assert_eq!(orphans.judge(secs(70), &gone, &["a".to_owned()].into()), []);
        assert_eq!(orphans.judge(secs(80), &gone, &BTreeSet::new()), []);
    }

    #[test]
    fn cm4_another_owner_of_the_same_address_starts_the_count_anew() {
        let mut orphans = Orphans::default();
        orphans.judge(secs(0), &[suspect(Some("a"), Trace::Gone)], &BTreeSet::new());
        let other = Suspect { owner: "c2/eth0".into(), ..suspect(Some("a"), Trace::Gone) };
        assert_eq!(orphans.judge(secs(100), &[other], &BTreeSet::new()), []);
    }

    #[test]
    fn cm4_a_namespace_that_nobody_knows_is_taken_down_link_first_after_ten_minutes() {
        let mut orphans = Orphans::default();
        let present = [suspect(Some("a"), Trace::Present)];
        orphans.judge(secs(0), &present, &BTreeSet::new());
        assert_eq!(orphans.judge(secs(599), &present, &BTreeSet::new()), []);
        let expected = [Verdict::RemoveLinkAndFree(suspect(Some("a"), Trace::Present))];
        assert_eq!(orphans.judge(secs(600), &present, &BTreeSet::new()), expected);
    }

    #[test]
    fn a_lease_that_names_no_pod_is_freed_after_ten_minutes_without_a_trace_and_never_with_one() {
        let mut orphans = Orphans::default();
        let gone = [suspect(None, Trace::Gone)];
        orphans.judge(secs(0), &gone, &BTreeSet::new());
        assert_eq!(orphans.judge(secs(599), &gone, &BTreeSet::new()), []);
        assert_eq!(orphans.judge(secs(600), &gone, &BTreeSet::new()), [Verdict::Free(suspect(None, Trace::Gone))]);
        assert_eq!(orphans.judge(secs(9999), &[suspect(None, Trace::Present)], &BTreeSet::new()), []);
    }
}
