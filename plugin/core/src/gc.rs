//! When a lease whose pod seems gone may be freed (safety rule CM4). Witnesses come as values; nothing is observed here.

use std::time::Duration;

/// Apart by at least this much, two answers of the API server count as two.
pub const API_ANSWERS_APART: Duration = Duration::from_mins(1);
/// How long a namespace or a damaged record may be claimed by no one before the agent acts.
pub const UNCLAIMED: Duration = Duration::from_mins(10);

/// What those who start pods say of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Runtime or API server knows it.
    Known,
    /// The runtime's list of valid attachments (GC) lacks it.
    RuntimeLacksIt,
    /// The API server's pods of this node lacked it twice, this much apart.
    ApiLackedItTwice {
        /// Between the two answers.
        apart: Duration,
    },
    /// No answer, or one only.
    Unanswered,
}

/// What stands at the lease's namespace path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetnsWitness {
    /// Nothing, or no namespace.
    Gone,
    /// Another namespace than the lease's, by cookie.
    Another,
    /// The lease's own.
    Same,
    /// It could not be told, or the lease has no path or cookie to compare.
    Unknown,
}

/// Whether the host's end of the lease's link, with the lease's alias, is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkWitness {
    /// No link of that alias.
    Gone,
    /// It is there.
    Present,
    /// It could not be told.
    Unknown,
}

/// All that is known of one lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Witnesses {
    /// Runtime or API server.
    pub claim: Claim,
    /// Its namespace.
    pub netns: NetnsWitness,
    /// Its host link.
    pub link: LinkWitness,
    /// Since when nothing but the namespace or link speaks for it; zero where this is not followed (GC).
    pub unclaimed_for: Duration,
}

/// What to do with a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Leave it.
    Keep,
    /// To cooling.
    Free,
    /// Delete its host link first, then decide anew.
    RemoveLinkFirst,
}

impl Witnesses {
    /// Decides. One witness is never enough: neither a list that lacks the pod nor a namespace that is gone.
    #[must_use]
    pub fn verdict(self) -> Verdict {
        let Self { claim, netns, link, unclaimed_for } = self;
        let lacked = match claim {
            Claim::Known | Claim::Unanswered => false,
            Claim::RuntimeLacksIt => true,
            Claim::ApiLackedItTwice { apart } => apart >= API_ANSWERS_APART,
        };
        if !lacked {
            return Verdict::Keep;
        }
        let netns_gone = match netns {
            NetnsWitness::Gone | NetnsWitness::Another => true,
            NetnsWitness::Same | NetnsWitness::Unknown => false,
        };
        let is_overdue = unclaimed_for >= UNCLAIMED;
        match link {
            LinkWitness::Present if is_overdue => Verdict::RemoveLinkFirst,
            LinkWitness::Gone if netns_gone || is_overdue => Verdict::Free,
            LinkWitness::Present | LinkWitness::Gone | LinkWitness::Unknown => Verdict::Keep,
        }
    }
}

/// Whether an unreadable record may go to cooling: the kernel has shown no trace of its address for long enough.
#[must_use]
pub fn may_cool_unreadable(without_trace_for: Duration) -> bool {
    without_trace_for >= UNCLAIMED
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLAIMS: [Claim; 5] = [
        Claim::Known,
        Claim::RuntimeLacksIt,
        Claim::ApiLackedItTwice { apart: API_ANSWERS_APART },
        Claim::ApiLackedItTwice { apart: Duration::from_secs(59) },
        Claim::Unanswered,
    ];
    const NAMESPACES: [NetnsWitness; 4] = [NetnsWitness::Gone, NetnsWitness::Another, NetnsWitness::Same, NetnsWitness::Unknown];
    const LINKS: [LinkWitness; 3] = [LinkWitness::Gone, LinkWitness::Present, LinkWitness::Unknown];

    #[test]
    fn cm4_a_lease_is_freed_only_by_a_list_that_lacks_it_and_a_kernel_that_has_no_trace_of_it() {
        let unclaimed_for = Duration::ZERO;
        let mut freed = Vec::new();
        for claim in CLAIMS {
            for netns in NAMESPACES {
                for link in LINKS {
                    match (Witnesses { claim, netns, link, unclaimed_for }).verdict() {
                        Verdict::Free => freed.push((claim, netns, link)),
                        Verdict::Keep => {}
                        Verdict::RemoveLinkFirst => panic!("{claim:?} {netns:?} {link:?}"),
                    }
                }
            }
        }
        let mut expected = Vec::new();
        for claim in [Claim::RuntimeLacksIt, Claim::ApiLackedItTwice { apart: API_ANSWERS_APART }] {
            expected.extend([NetnsWitness::Gone, NetnsWitness::Another].map(|netns| (claim, netns, LinkWitness::Gone)));
        }
        assert_eq!(freed, expected);
    }

    #[test]
    fn cm4_an_unclaimed_namespace_loses_its_link_first() {
        let claim = Claim::ApiLackedItTwice { apart: API_ANSWERS_APART };
        let of = |link, unclaimed_for| Witnesses { claim, netns: NetnsWitness::Same, link, unclaimed_for }.verdict();
        assert_eq!(of(LinkWitness::Present, Duration::from_secs(599)), Verdict::Keep);
        assert_eq!(of(LinkWitness::Present, UNCLAIMED), Verdict::RemoveLinkFirst);
        assert_eq!(of(LinkWitness::Gone, UNCLAIMED), Verdict::Free);
        assert_eq!(of(LinkWitness::Unknown, UNCLAIMED), Verdict::Keep);
        assert!(!may_cool_unreadable(Duration::from_secs(599)));
        assert!(may_cool_unreadable(UNCLAIMED));
    }
}
