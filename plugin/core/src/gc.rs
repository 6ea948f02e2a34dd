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
            LinkWitness::Unknown => Verdict::Keep,
            LinkWitness::Present if is_overdue => Verdict::RemoveLinkFirst,
            LinkWitness::Present => Verdict::Keep,
            LinkWitness::Gone if netns_gone || is_overdue => Verdict::Free,
            LinkWitness::Gone => Verdict::Keep,
        }
    }
}

/// Whether an unreadable record may go to cooling: the kernel has shown no trace of its address for long enough.
#[must_use]
pub fn may_cool_unreadable(without_trace_for: Duration) -> bool {
    without_trace_for >= UNCLAIMED
}
