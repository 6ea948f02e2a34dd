//! What becomes of the one open intent (crash safety of writes to the NIC).

use std::time::Duration;

use azure_vnet_crds::node::{Cloud, Intent, IntentOp};
use jiff::Timestamp;

use super::{Attempt, later, since};
use crate::{
    arm::{Class, Error, Trace},
    nic::{Change, Slot, State, View},
};

/// What to do about an open intent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settled {
    /// Read the NIC now.
    Read,
    /// Nothing before this has passed.
    Wait(Duration),
    /// Send it, again or for the first time: the same slots (I11).
    Send,
    /// It is over. Whether the NIC shows all of it.
    Close {
        /// Whether it does.
        complete: bool,
    },
}

/// Who opened an intent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// This controller, in this term.
    This,
    /// Another term: a request of which nothing is known may still land.
    Earlier,
    /// Somebody; it was closed since, and came back with an older state of the API server. It never acts again (safety rule RE1).
    Closed,
}

/// What the verdict on an intent rests on.
#[derive(Clone, Copy, Debug)]
pub struct Case<'a> {
    /// The intent.
    pub intent: &'a Intent,
    /// The NIC.
    pub view: &'a View,
    /// When its read began.
    pub read_at: Timestamp,
    /// When that read's answer came.
    pub read_ended: Timestamp,
    /// Who opened it.
    pub origin: Origin,
    /// When this controller saw it first.
    pub seen: Timestamp,
    /// Whether a request of this term for it may still land.
    pub unknown: bool,
    /// The last request for it, if it was this process's.
    pub last: Option<&'a Attempt>,
    /// How long a late write may land after its end.
    pub grace: Duration,
    /// Whether this controller is about to end.
    pub leaving: bool,
    /// Now.
    pub now: Timestamp,
}

/// Pace of reading while waiting: often at first.
const PACE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(30));
/// How long a success may stay invisible before it is sent again.
const INVISIBLE: Duration = Duration::from_mins(1);

impl Case<'_> {
    /// Judges.
    pub fn settle(&self) -> Settled {
        let Self { intent, view, now, .. } = *self;
        if self.leaving && self.is_unsent_removal() {
            // A successor would not know that nothing was sent, and watch it for as long as something could be.
            return Settled::Close { complete: false };
        }
        let (ended, quiet_since) = (self.ended(), self.quiet_since());
        if !self.is_read_since() {
            return Settled::Read;
        }
        let complete = complete(intent, view);
        match view.state {
            State::Settled if complete => Settled::Close { complete: true },
            State::Moving => self.watch(quiet_since),
            State::Settled | State::Lagging if now >= ended => self.expired(ended, complete),
            State::Lagging if since(quiet_since, now) < INVISIBLE => self.watch(quiet_since),
            // An earlier term's removal is not repeated: after a restored API server, what it names may be a pod's again (safety rule RE1).
            State::Settled | State::Lagging => match (self.origin, intent.op) {
                (Origin::This, _) | (Origin::Earlier, IntentOp::Add) => self.retry(quiet_since),
                (Origin::Earlier, IntentOp::Remove) | (Origin::Closed, _) => self.watch_until(quiet_since, ended),
            },
        }
    }

    /// When it was opened: before it was seen, whatever the clock of who opened it said.
    fn begun(&self) -> Timestamp {
        begun(self.intent).min(self.seen)
    }

    /// When it ends. It lives as long as it says, by whatever clock.
    pub fn ended(&self) -> Timestamp {
        let ahead = since(self.begun(), begun(self.intent));
        ends(self.intent).checked_sub(ahead).unwrap_or(Timestamp::MIN)
    }

    /// Since when nothing was sent for it, as far as this controller knows.
    fn quiet_since(&self) -> Timestamp {
        self.last.map_or(self.begun(), |last| last.at.max(self.begun()))
    }

    /// Whether the NIC was read after all that is known to have been sent for it.
    pub fn is_read_since(&self) -> bool {
        self.read_at > self.quiet_since()
    }

    /// Whether a request may still land of which nobody will tell this controller.
    fn may_land(&self) -> bool {
        self.unknown || self.origin != Origin::This
    }

    /// The NIC does not show it, and it may be sent: the same slots, on the condition that nobody wrote since the read (I11, I12). A request of an
    /// earlier term rests on the same condition: whichever comes first makes the other fail.
    fn retry(&self, quiet_since: Timestamp) -> Settled {
        if self.leaving && self.is_failed_removal() {
            return Settled::Close { complete: false };
        }
        match self.last.map(|last| (last, &last.result)) {
            Some((_, Ok(()))) if since(quiet_since, self.now) < INVISIBLE => self.watch(quiet_since),
            None | Some((_, Ok(()))) => Settled::Send,
            Some((_, Err(error))) if is_final(error) && !self.may_land() => Settled::Close { complete: false },
            Some((last, Err(error))) => match back_off(error, last.failures).checked_sub(since(last.at, self.now)) {
                Some(rest) if !rest.is_zero() => Settled::Wait(rest),
                Some(_) | None => Settled::Send,
            },
        }
    }

    /// Whether it is a removal of which nothing left a trace: there is nothing to look at.
    fn is_unsent_removal(&self) -> bool {
        let traceless = |last: &Attempt| last.result.as_ref().is_err_and(|error| error.trace == Trace::None);
        self.intent.op == IntentOp::Remove && !self.may_land() && self.last.is_none_or(traceless)
    }

    /// Whether it is a removal whose last request ended in vain.
    fn is_failed_removal(&self) -> bool {
        self.intent.op == IntentOp::Remove && !self.may_land() && self.last.is_some_and(|last| last.result.is_err())
    }

    /// Its time is over: whoever may still have a request under way gets the grace (I6).
    fn expired(&self, ended: Timestamp, complete: bool) -> Settled {
        if !self.may_land() {
            return Settled::Close { complete };
        }
        let safe = later(ended, self.grace);
        if self.now < safe {
            return self.watch_until(ended, safe);
        }
        if self.read_at < safe { Settled::Read } else { Settled::Close { complete } }
    }

    fn watch(&self, quiet_since: Timestamp) -> Settled {
        let pace = (since(quiet_since, self.now) / 2).clamp(PACE.0, PACE.1);
        match pace.checked_sub(since(self.read_ended, self.now)) {
            Some(rest) if !rest.is_zero() => Settled::Wait(rest),
            Some(_) | None => Settled::Read,
        }
    }

    fn watch_until(&self, quiet_since: Timestamp, until: Timestamp) -> Settled {
        match self.watch(quiet_since) {
            Settled::Wait(rest) => Settled::Wait(rest.min(since(self.now, until)).max(Duration::from_secs(1))),
            other @ (Settled::Read | Settled::Send | Settled::Close { .. }) => other,
        }
    }
}

/// When an intent was opened, by its own word.
fn begun(intent: &Intent) -> Timestamp {
    intent.created_at.as_ref().map_or(Timestamp::UNIX_EPOCH, |at| at.0)
}

/// When an intent ends, by its own word. One without an end ended when it began.
fn ends(intent: &Intent) -> Timestamp {
    intent.not_after.as_ref().map_or_else(|| begun(intent), |at| at.0)
}

/// Whether the NIC shows all of an intent.
fn complete(intent: &Intent, view: &View) -> bool {
    match intent.op {
        IntentOp::Add => intent.add.iter().all(|slot| matches!(view.slots.get(slot), Some(Slot::Attached(..)))),
        IntentOp::Remove => intent.remove.iter().all(|at| match view.slots.get(&at.slot) {
            None => true,
            Some(Slot::Attached(..)) => !view.shows(*at),
            Some(Slot::Provisioning(_) | Slot::Failed(_) | Slot::Dropped(..)) => false,
        }),
    }
}

/// The write that an intent stands for.
pub fn change(intent: &Intent) -> Change {
    match intent.op {
        IntentOp::Add => Change { add: intent.add.iter().copied().collect(), unit: intent.unit, ..Change::default() },
        IntentOp::Remove => Change { remove: intent.remove.iter().copied().collect(), ..Change::default() },
    }
}

/// Whether sending the same again would be of no use.
fn is_final(error: &Error) -> bool {
    let class = match &error.class {
        Class::Throttled { .. } | Class::Busy { .. } | Class::Stale | Class::Superseded | Class::Unavailable { .. } | Class::NotSent => {
            false
        }
        Class::Gone
        | Class::Forbidden { .. }
        | Class::Locked
        | Class::Unauthenticated
        | Class::SubnetFull
        | Class::Rejected
        | Class::Failed => true,
    };
    match error.trace {
        Trace::Unknown => false,
        Trace::None | Trace::Ended => class,
    }
}

/// How long to leave a node alone after a failure.
pub fn back_off(error: &Error, failures: u32) -> Duration {
    let (first, most) = match &error.class {
        Class::Stale | Class::Superseded | Class::NotSent => (1, 60),
        Class::Throttled { .. } | Class::Busy { .. } | Class::Unavailable { .. } => (5, 120),
        Class::Failed => (15, 300),
        // Who asks next, and when, is for all nodes of the subnet together ([`crate::full`]).
        Class::SubnetFull => (30, 30),
        Class::Forbidden { .. } | Class::Locked => (300, 600),
        Class::Unauthenticated | Class::Gone | Class::Rejected => (30, 600),
    };
    let doubled = Duration::from_secs(first) * 2_u32.saturating_pow(failures.saturating_sub(1).min(10));
    doubled.min(Duration::from_secs(most)).max(error.retry_after().unwrap_or_default())
}

/// Whether the finalizer of an object may go that is being deleted since a time: no intent is open whose write may still land (safety rule RE4). None is
/// opened after that time: one from ahead of this clock was dated by another, and lives as long as it says.
#[must_use]
pub fn may_vanish(cloud: Option<&Cloud>, deleted: Timestamp, grace: Duration, now: Timestamp) -> bool {
    let Some(intent) = cloud.and_then(|cloud| cloud.intent.as_ref()) else { return true };
    let lives = since(begun(intent), ends(intent));
    let ended = if begun(intent) > now { ends(intent).min(later(deleted, lives)) } else { ends(intent) };
    now >= later(ended, grace)
}
