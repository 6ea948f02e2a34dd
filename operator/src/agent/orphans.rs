//! Leases whose pod is gone: who lacks them, since when, and what the kernel still shows (safety rule CM4). The verdict itself is the node store's.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    time::Duration,
};

use azure_vnet_plugin_core::{
    gc::{self, Claim, LinkWitness, NetnsWitness, Verdict, Witnesses},
    lease::{Entry, Lease},
};

/// A pod of the API server's list, by all that a lease may know it by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// UIDs.
    pub uids: BTreeSet<String>,
    /// Namespaces and names.
    pub names: BTreeSet<(String, String)>,
}

impl Listed {
    fn knows(&self, lease: &Lease) -> bool {
        let Some(pod) = &lease.pod else { return false };
        match &pod.uid {
            Some(uid) => self.uids.contains(uid.as_str()),
            None => self.names.contains(&(pod.namespace.clone(), pod.name.clone())),
        }
    }
}

/// What the kernel shows of one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace {
    /// At the lease's namespace path.
    pub netns: NetnsWitness,
    /// The link with the lease's alias; for an unreadable entry, any sign of its address.
    pub link: LinkWitness,
}

/// What is to be done with an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// It goes to cooling.
    Free(Ipv4Addr, Entry),
    /// Its host link is removed; what follows is decided anew.
    RemoveLink(Ipv4Addr, Lease),
}

/// How long an entry without anybody who claims it is no more than a pod on its way out.
const LASTING: Duration = Duration::from_mins(1);

/// Since when each entry has been without anybody who claims it.
#[derive(Debug, Default)]
pub struct Orphans(BTreeMap<Ipv4Addr, Watch>);

#[derive(Debug)]
struct Watch {
    entry: Entry,
    since: Duration,
    answers: u32,
}

impl Orphans {
    /// Whether a list of the API server's is needed: the watch does not show some lease's pod, or a record tells no pod.
    #[must_use]
    pub fn wants_list(entries: &[(Ipv4Addr, Entry)], watched: &Listed) -> bool {
        entries.iter().any(|(_, entry)| match entry {
            Entry::Leased(lease) => !watched.knows(lease),
            Entry::Unreadable(_) => true,
            Entry::Cooling(_) | Entry::Quarantined(_) => false,
        })
    }

    /// Judges by a list that was just read from the API server itself, never by a cache: each call is one answer of it.
    pub fn judge(
        &mut self,
        now: Duration,
        entries: &[(Ipv4Addr, Entry)],
        listed: &Listed,
        trace: &mut dyn FnMut(Ipv4Addr, &Entry) -> Trace,
    ) -> Vec<Action> {
        let suspects: Vec<_> = entries.iter().filter(|(_, entry)| is_suspect(entry, listed)).collect();
        self.0.retain(|address, watch| suspects.iter().any(|(suspect, entry)| suspect == address && *entry == watch.entry));
        suspects.into_iter().filter_map(|(address, entry)| self.judge_one(now, *address, entry, trace(*address, entry))).collect()
    }

    /// How many of the entries have been without anybody who claims them for a minute.
    #[must_use]
    pub fn lasting(&self, now: Duration, entries: &[(Ipv4Addr, Entry)]) -> usize {
        let lasts = |address: &Ipv4Addr, entry: &Entry| {
            self.0.get(address).is_some_and(|watch| watch.entry == *entry && now >= watch.since + LASTING)
        };
        entries.iter().filter(|(address, entry)| lasts(address, entry)).count()
    }

    fn judge_one(&mut self, now: Duration, address: Ipv4Addr, entry: &Entry, trace: Trace) -> Option<Action> {
        let watch = self.0.entry(address).or_insert_with(|| Watch { entry: entry.clone(), since: now, answers: 0 });
        watch.answers += 1;
        if is_rebuilt(entry) && trace.link != LinkWitness::Gone {
            watch.since = now;
        }
        let age = now.saturating_sub(watch.since);
        match entry {
            Entry::Leased(lease) => match witnesses(lease, watch.answers, age, trace).verdict() {
                Verdict::Keep => None,
                Verdict::Free => Some(Action::Free(address, entry.clone())),
                Verdict::RemoveLinkFirst => Some(Action::RemoveLink(address, lease.clone())),
            },
            Entry::Unreadable(_) if trace.link != LinkWitness::Gone => {
                watch.since = now;
                None
            }
            Entry::Unreadable(_) => gc::may_cool_unreadable(age).then(|| Action::Free(address, entry.clone())),
            Entry::Cooling(_) | Entry::Quarantined(_) => None,
        }
    }
}

fn is_suspect(entry: &Entry, listed: &Listed) -> bool {
    match entry {
        Entry::Leased(lease) => !listed.knows(lease),
        Entry::Unreadable(_) => true,
        Entry::Cooling(_) | Entry::Quarantined(_) => false,
    }
}

/// Whether the entry is a lease that was made from a pod's link: it names neither pod nor namespace.
fn is_rebuilt(entry: &Entry) -> bool {
    matches!(entry, Entry::Leased(lease) if lease.pod.is_none() && lease.netns.is_none())
}

fn witnesses(lease: &Lease, answers: u32, age: Duration, trace: Trace) -> Witnesses {
    let claim = if answers >= 2 { Claim::ApiLackedItTwice { apart: age } } else { Claim::Unanswered };
    let Trace { netns, link } = trace;
    // A container that is no pod is not in the API server's list while it lives: only the kernel can speak against it. A lease that was
    // made from a link has nothing but that link to speak for it.
    let rebuilt_and_gone = lease.pod.is_none() && lease.netns.is_none() && link == LinkWitness::Gone;
    let unclaimed_for = if lease.pod.is_some() || rebuilt_and_gone { age } else { Duration::ZERO };
    Witnesses { claim, netns, link, unclaimed_for }
}

#[cfg(test)]
mod tests {
    use azure_vnet_plugin_core::{
        RecordError,
        attachment::{Attachment, Mode, PodRef},
        boot::BootTime,
        lease::Unreadable,
    };

    use super::*;

    const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const GONE: Trace = Trace { netns: NetnsWitness::Gone, link: LinkWitness::Gone };
    const ALIVE: Trace = Trace { netns: NetnsWitness::Same, link: LinkWitness::Present };

    fn lease(container: &str, uid: Option<&str>) -> (Ipv4Addr, Entry) {
        let pod = uid.map(|uid| PodRef { namespace: "default".into(), name: "web-0".into(), uid: Some(uid.parse().unwrap()) });
        let lease = Lease {
            address: ADDRESS,
            attachment: Attachment { container: container.parse().unwrap(), if_name: "eth0".parse().unwrap() },
            pod,
            network: "azure-vnet".parse().unwrap(),
            mode: Mode::Transparent,
            host_link: "azv0d7763386da".parse().unwrap(),
            netns: Some("/run/netns/a".parse().unwrap()),
            netns_cookie: None,
            boot: "b".parse().unwrap(),
            since: BootTime::from_millis(1),
        };
        (ADDRESS, Entry::Leased(lease))
    }

    fn judge(orphans: &mut Orphans, seconds: u64, entry: &(Ipv4Addr, Entry), listed: &[&str], trace: Trace) -> Vec<Action> {
        let listed = Listed { uids: listed.iter().map(|uid| (*uid).to_owned()).collect(), names: BTreeSet::new() };
        orphans.judge(Duration::from_secs(seconds), std::slice::from_ref(entry), &listed, &mut |_, _| trace)
    }

    #[test]
    fn cm4_a_lease_is_freed_after_two_lists_a_minute_apart_and_only_without_a_trace() {
        let (mut orphans, entry) = (Orphans::default(), lease("c1", Some("a")));
        assert_eq!(judge(&mut orphans, 0, &entry, &[], GONE), []);
        assert_eq!(judge(&mut orphans, 59, &entry, &[], GONE), []);
        assert_eq!(judge(&mut orphans, 60, &entry, &[], ALIVE), []);
        assert_eq!(judge(&mut orphans, 61, &entry, &[], GONE), [Action::Free(ADDRESS, entry.1.clone())]);
    }

    #[test]
    fn cm4_a_pod_that_is_listed_again_or_another_lease_starts_the_count_anew() {
        let (mut orphans, entry) = (Orphans::default(), lease("c1", Some("a")));
        judge(&mut orphans, 0, &entry, &[], GONE);
        assert_eq!(judge(&mut orphans, 70, &entry, &["a"], GONE), []);
        assert_eq!(judge(&mut orphans, 80, &entry, &[], GONE), []);
        assert_eq!(judge(&mut orphans, 200, &lease("c2", Some("a")), &[], GONE), []);
    }

    #[test]
    fn cm4_a_namespace_that_nobody_knows_is_taken_down_link_first_after_ten_minutes() {
        let (mut orphans, entry) = (Orphans::default(), lease("c1", Some("a")));
        judge(&mut orphans, 0, &entry, &[], ALIVE);
        assert_eq!(judge(&mut orphans, 599, &entry, &[], ALIVE), []);
        let actions = judge(&mut orphans, 600, &entry, &[], ALIVE);
        assert!(matches!(actions.as_slice(), [Action::RemoveLink(ADDRESS, _)]), "{actions:?}");
    }

    #[test]
    fn cm4_a_container_that_is_no_pod_is_never_taken_down_while_it_lives() {
        let (mut orphans, entry) = (Orphans::default(), lease("c1", None));
        judge(&mut orphans, 0, &entry, &[], ALIVE);
        assert_eq!(judge(&mut orphans, 9999, &entry, &[], ALIVE), []);
        assert_eq!(judge(&mut orphans, 10_000, &entry, &[], GONE), [Action::Free(ADDRESS, entry.1.clone())]);
    }

    #[test]
    fn cm4_a_lease_made_from_a_link_ends_ten_minutes_after_that_link() {
        let (address, mut entry) = lease("c1", None);
        if let Entry::Leased(lease) = &mut entry {
            lease.netns = None;
        }
        let (mut orphans, entry) = (Orphans::default(), (address, entry));
        let unknown = |link| Trace { netns: NetnsWitness::Unknown, link };
        judge(&mut orphans, 0, &entry, &[], unknown(LinkWitness::Present));
        assert_eq!(judge(&mut orphans, 900, &entry, &[], unknown(LinkWitness::Present)), []);
        assert_eq!(judge(&mut orphans, 1400, &entry, &[], unknown(LinkWitness::Gone)), []);
        assert_eq!(judge(&mut orphans, 1500, &entry, &[], unknown(LinkWitness::Gone)), [Action::Free(ADDRESS, entry.1.clone())]);
    }

    #[test]
    fn cm4_an_unreadable_lease_cools_after_ten_minutes_without_a_trace() {
        let entry = (ADDRESS, Entry::Unreadable(Unreadable::new(RecordError::Foreign, b"x")));
        let mut orphans = Orphans::default();
        assert_eq!(judge(&mut orphans, 0, &entry, &[], GONE), []);
        assert_eq!(judge(&mut orphans, 300, &entry, &[], ALIVE), [], "a trace starts the ten minutes anew");
        assert_eq!(judge(&mut orphans, 899, &entry, &[], GONE), []);
        assert_eq!(judge(&mut orphans, 900, &entry, &[], GONE), [Action::Free(ADDRESS, entry.1.clone())]);
    }

    #[test]
    fn what_nobody_claims_for_a_minute_counts_as_leaked_until_it_is_freed() {
        let (mut orphans, entry) = (Orphans::default(), lease("c1", Some("a")));
        let (here, second) = (std::slice::from_ref(&entry), Duration::from_secs);
        judge(&mut orphans, 0, &entry, &[], ALIVE);
        assert_eq!([59, 60].map(|now| orphans.lasting(second(now), here)), [0, 1]);
        assert_eq!((orphans.lasting(second(60), &[]), orphans.lasting(second(60), &[lease("c2", Some("a"))])), (0, 0), "that one is gone");
        judge(&mut orphans, 70, &entry, &["a"], ALIVE);
        assert_eq!(orphans.lasting(second(200), here), 0, "its pod is there again");
    }

    #[test]
    fn a_list_is_asked_for_only_when_the_watch_lacks_a_leases_pod() {
        let watched = Listed { uids: ["a".to_owned()].into(), names: BTreeSet::new() };
        assert!(!Orphans::wants_list(&[lease("c1", Some("a"))], &watched));
        assert!(Orphans::wants_list(&[lease("c1", Some("b"))], &watched));
    }
}
