//! Azure's limits as arithmetic: token buckets fed by Azure's headers, gates that `Retry-After` closes, a circuit breaker.
//! Pure: `now` comes in, nothing sleeps. Numbers are Azure's published limits; a share of each is never ours.

mod breaker;
mod bucket;
mod class;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use azure_vnet_operator_core::arm::Urgency;

use breaker::Breaker;
use bucket::{Bucket, share};
pub use class::{Class, Machine};

/// What one request draws on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charge {
    /// Shared budgets.
    pub classes: &'static [Class],
    /// The machine's own budget.
    pub machine: Option<Machine>,
    /// Whom it goes before.
    pub urgency: Urgency,
}

/// The answer to a request for leave to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Send now; the tokens are taken.
    Go,
    /// Ask again then. Azure asked for it.
    Closed(Instant),
    /// Ask again then. Azure does not answer.
    Silent(Instant),
    /// Ask again then; enough tokens for everybody ahead will be there.
    Queue(Instant),
}

/// How a request ended, as far as budgets care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Answered, in whatever way that is neither of the others.
    Answered,
    /// 429 that speaks of quantity.
    Throttled {
        /// As Azure asks.
        retry_after: Option<Duration>,
        /// Who waits.
        reach: Reach,
    },
    /// No answer, or 5xx.
    Unavailable {
        /// As Azure asks.
        retry_after: Option<Duration>,
    },
}

/// Whose requests a refusal is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Those of one provider in one subscription.
    Provider,
    /// All in the subscription: Resource Manager itself counts.
    Subscription,
    /// All in every subscription of the tenant.
    Tenant,
}

/// What is left according to Azure.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remaining {
    /// Resource Manager's count for this kind of request.
    pub arm: Option<u32>,
    /// The provider's counts by policy.
    pub policies: Vec<(String, u32)>,
}

/// What is left of a class.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Level {
    /// Of which subscription.
    pub subscription: String,
    /// Its name in metrics.
    pub class: &'static str,
    /// Requests that may be sent at once, beyond the reserve.
    pub left: u32,
    /// The same when none were sent for a while.
    pub burst: u32,
    /// For how long Azure asks to wait.
    pub closed: Option<Duration>,
}

/// All budgets of one identity in one subscription.
#[derive(Debug)]
pub struct Budget {
    reserve_percent: u32,
    classes: BTreeMap<Class, Bucket>,
    machines: BTreeMap<Machine, Bucket>,
    peaks: BTreeMap<String, u32>,
    waiting: BTreeSet<Ticket>,
    next: u64,
    breaker: Breaker,
}

/// A request's place in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket {
    urgency: std::cmp::Reverse<Urgency>,
    number: u64,
    classes: &'static [Class],
}

/// Machines whose buckets are remembered; a full bucket is forgotten first.
const MAX_MACHINES: usize = 16_384;
/// Policies whose highest count is remembered.
const MAX_POLICIES: usize = 128;

impl Budget {
    /// Full budgets, of which `reserve_percent` (at most 90) is left to others.
    #[must_use]
    pub fn new(reserve_percent: u8) -> Self {
        Self {
            reserve_percent: reserve(reserve_percent),
            classes: Class::ALL.into_iter().map(|class| (class, Bucket::new(class.rate()))).collect(),
            machines: BTreeMap::new(),
            peaks: BTreeMap::new(),
            waiting: BTreeSet::new(),
            next: 0,
            breaker: Breaker::default(),
        }
    }

    /// Changes the share that is left to others.
    pub fn set_reserve(&mut self, percent: u8) {
        self.reserve_percent = reserve(percent);
    }

    /// Queues a request; [`Budget::leave`] must follow, whatever becomes of it.
    pub fn enter(&mut self, charge: &Charge) -> Ticket {
        self.next += 1;
        let ticket = Ticket { urgency: std::cmp::Reverse(charge.urgency), number: self.next, classes: charge.classes };
        self.waiting.insert(ticket);
        ticket
    }

    /// Takes a request out of the queue.
    pub fn leave(&mut self, ticket: &Ticket) {
        self.waiting.remove(ticket);
    }

    /// Decides whether the request may be sent now, and takes its tokens if so.
    pub fn admit(&mut self, ticket: &Ticket, charge: &Charge, now: Instant) -> Admission {
        let closed = charge.classes.iter().filter_map(|&class| self.gate(class, now)).max();
        match (closed, self.breaker.closed_until(now)) {
            (closed, Some(silent)) if closed.is_none_or(|closed| closed < silent) => return Admission::Silent(silent),
            (Some(closed), _) => return Admission::Closed(closed),
            (None, _) => {}
        }
        let at = self.ready_at(ticket, charge, now);
        if at > now {
            return Admission::Queue(at);
        }
        self.take(charge, now);
        self.breaker.probe(now);
        Admission::Go
    }

    /// Learns from how a request ended.
    pub fn learn(&mut self, charge: &Charge, outcome: Outcome, remaining: &Remaining, now: Instant) {
        match outcome {
            Outcome::Answered => {
                self.breaker.answered();
                self.each_class(charge, |bucket, _| bucket.strikes = 0);
                self.heed(charge, remaining, now);
            }
            Outcome::Unavailable { retry_after } => self.breaker.failed(retry_after, now),
            Outcome::Throttled { retry_after, reach } => {
                self.breaker.answered();
                self.close(charge, retry_after, reach, now);
            }
        }
    }

    /// Tokens of a class that are ours to take now.
    #[must_use]
    pub fn level(&self, class: Class, now: Instant) -> u32 {
        self.classes.get(&class).map_or(0, |bucket| bucket.level(self.reserve_percent, now))
    }

    /// Every class, as people see it.
    #[must_use]
    pub fn levels(&self, subscription: &str, now: Instant) -> Vec<Level> {
        let level = |class: Class| Level {
            subscription: subscription.to_owned(),
            class: class.name(),
            left: self.level(class, now),
            burst: self.classes.get(&class).map_or(0, |bucket| bucket.burst(self.reserve_percent)),
            closed: self.gate(class, now).map(|gate| gate.duration_since(now)),
        };
        Class::ALL.map(level).into()
    }

    /// Until when a class is closed, if it is.
    #[must_use]
    pub fn gate(&self, class: Class, now: Instant) -> Option<Instant> {
        self.classes.get(&class).and_then(|bucket| bucket.gate).filter(|&gate| gate > now)
    }

    /// Whether Azure has stopped to answer: several requests in a row had no answer, or a failing one, and none since had another.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.breaker.is_tripped()
    }

    /// When there is a token for this request and for each one ahead of it that shares a class.
    fn ready_at(&self, ticket: &Ticket, charge: &Charge, now: Instant) -> Instant {
        let percent = self.reserve_percent;
        let shared = charge.classes.iter().filter_map(|class| {
            let ahead = self.waiting.range(..*ticket).filter(|other| other.classes.contains(class)).count();
            Some(self.classes.get(class)?.available_at(u32::try_from(ahead).unwrap_or(u32::MAX).saturating_add(1), percent, now))
        });
        let own = charge.machine.as_ref().and_then(|machine| self.machines.get(machine)).map(|bucket| bucket.available_at(1, percent, now));
        shared.chain(own).max().unwrap_or(now)
    }

    fn take(&mut self, charge: &Charge, now: Instant) {
        let percent = self.reserve_percent;
        self.each_class(charge, |bucket, _| bucket.take(percent, now));
        let Some(machine) = &charge.machine else { return };
        if self.machines.len() >= MAX_MACHINES && !self.machines.contains_key(machine) {
            self.machines.retain(|_, bucket| bucket.full_at(now) > now);
        }
        self.machines.entry(machine.clone()).or_insert_with(|| Bucket::new(machine.rate())).take(percent, now);
    }

    fn each_class(&mut self, charge: &Charge, mut act: impl FnMut(&mut Bucket, Class)) {
        for &class in charge.classes {
            if let Some(bucket) = self.classes.get_mut(&class) {
                act(bucket, class);
            }
        }
    }

    /// A call before `Retry-After` is refused and renews the wait, so the whole class waits. Afterwards it begins empty.
    fn close(&mut self, charge: &Charge, retry_after: Option<Duration>, reach: Reach, now: Instant) {
        let percent = self.reserve_percent;
        self.each_class(charge, |bucket, class| {
            let shared = matches!(class, Class::ArmRead | Class::ArmWrite);
            if shared == (reach != Reach::Provider) {
                bucket.close(retry_after, percent, now);
            }
        });
    }

    /// Lowers our count to what Azure says is left beyond the reserve.
    fn heed(&mut self, charge: &Charge, remaining: &Remaining, now: Instant) {
        let percent = self.reserve_percent;
        let policies: Vec<u32> = remaining.policies.iter().filter_map(|(policy, left)| self.usable(policy, *left)).collect();
        self.each_class(charge, |bucket, class| match class {
            Class::ArmRead | Class::ArmWrite => {
                if let Some(left) = remaining.arm {
                    bucket.cap(left.saturating_sub(share(bucket.rate.burst, percent)), percent, now);
                }
            }
            Class::NetworkRead | Class::NetworkWrite | Class::ComputeRead | Class::ComputeWrite | Class::ComputePoll => {
                // Of several policies the roomiest is the subscription's, the tightest the machine's.
                if let Some(&usable) = policies.iter().max() {
                    bucket.cap(usable, percent, now);
                }
            }
        });
        let machine = charge.machine.as_ref().and_then(|machine| self.machines.get_mut(machine));
        if let (Some(bucket), Some(&usable)) = (machine, policies.iter().min()) {
            bucket.cap(usable, percent, now);
        }
    }

    /// What a policy leaves beyond the reserve, which is taken of the highest count ever seen of it.
    fn usable(&mut self, policy: &str, left: u32) -> Option<u32> {
        if !self.peaks.contains_key(policy) {
            if self.peaks.len() >= MAX_POLICIES {
                return None;
            }
            self.peaks.insert(policy.to_owned(), left);
        }
        let peak = self.peaks.get_mut(policy)?;
        *peak = left.max(*peak);
        Some(left.saturating_sub(share(*peak, self.reserve_percent)))
    }
}

fn reserve(percent: u8) -> u32 {
    u32::from(percent.min(90))
}
