//! Azure's limits as arithmetic: token buckets fed by Azure's headers, gates that `Retry-After` closes, a circuit breaker.
//! Pure: `now` comes in, nothing sleeps. Numbers are Azure's published limits; a share of each is never ours.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use azure_vnet_operator_core::arm::Urgency;

/// A budget that requests share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// GET of anything, counted by Resource Manager itself.
    ArmRead,
    /// PUT of anything, counted by Resource Manager itself.
    ArmWrite,
    /// GET of the Network provider.
    NetworkRead,
    /// PUT of the Network provider.
    NetworkWrite,
    /// GET of the Compute provider.
    ComputeRead,
    /// PUT of the Compute provider.
    ComputeWrite,
    /// GET of a Compute operation's state.
    ComputePoll,
}

impl Class {
    /// Every class.
    pub const ALL: [Self; 7] =
        [Self::ArmRead, Self::ArmWrite, Self::NetworkRead, Self::NetworkWrite, Self::ComputeRead, Self::ComputeWrite, Self::ComputePoll];

    /// Name in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ArmRead => "arm_read",
            Self::ArmWrite => "arm_write",
            Self::NetworkRead => "network_read",
            Self::NetworkWrite => "network_write",
            Self::ComputeRead => "compute_read",
            Self::ComputeWrite => "compute_write",
            Self::ComputePoll => "compute_poll",
        }
    }

    /// Azure's limit. The Network provider counts 1,000 writes and 10,000 reads in any 5 minutes: a burst of a tenth plus the
    /// refill of 5 minutes stays within that, wherever the window lies. The others are buckets at Azure as well.
    fn rate(self) -> Rate {
        match self {
            Self::ArmRead => Rate { per_minute: 1500, burst: 250 },
            Self::ArmWrite => Rate { per_minute: 600, burst: 200 },
            Self::NetworkRead => Rate { per_minute: 1800, burst: 1000 },
            Self::NetworkWrite => Rate { per_minute: 180, burst: 100 },
            Self::ComputeRead => Rate { per_minute: 2000, burst: 6000 },
            Self::ComputeWrite => Rate { per_minute: 500, burst: 1500 },
            Self::ComputePoll => Rate { per_minute: 5000, burst: 15000 },
        }
    }
}

/// One machine's own limits at the Compute provider.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Machine {
    /// Reads of the machine with this key.
    Read(String),
    /// Writes of the machine with this key.
    Write(String),
}

impl Machine {
    fn rate(&self) -> Rate {
        match self {
            Self::Read(_) => Rate { per_minute: 12, burst: 36 },
            Self::Write(_) => Rate { per_minute: 4, burst: 12 },
        }
    }
}

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
    /// Ask again then. Azure asked for it, or the breaker is open.
    Closed(Instant),
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
    Unavailable,
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
        if let Some(until) = self.closed_until(charge, now) {
            return Admission::Closed(until);
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
            Outcome::Unavailable => self.breaker.failed(now),
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

    fn closed_until(&self, charge: &Charge, now: Instant) -> Option<Instant> {
        charge.classes.iter().filter_map(|&class| self.gate(class, now)).chain(self.breaker.closed_until(now)).max()
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

/// `percent` of a count, rounded down.
fn share(count: u32, percent: u32) -> u32 {
    count / 100 * percent + count % 100 * percent / 100
}

/// A limit of Azure's: tokens that come back in a minute, and how many gather.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rate {
    per_minute: u32,
    burst: u32,
}

/// A token bucket, kept as the moment when it will be full: exact, and without fractions.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    rate: Rate,
    /// None: it never was used.
    full_at: Option<Instant>,
    gate: Option<Instant>,
    strikes: u32,
}

impl Bucket {
    fn new(rate: Rate) -> Self {
        Self { rate, full_at: None, gate: None, strikes: 0 }
    }

    /// Time for one token of our share.
    fn interval(&self, percent: u32) -> Duration {
        Duration::from_mins(100) / self.rate.per_minute / (100 - percent)
    }

    fn full_at(&self, now: Instant) -> Instant {
        self.full_at.map_or(now, |at| at.max(now))
    }

    fn burst(&self, percent: u32) -> u32 {
        (self.rate.burst - share(self.rate.burst, percent)).max(1)
    }

    /// When `count` tokens are there. More than fit are there as late as if they did.
    fn available_at(&self, count: u32, percent: u32, now: Instant) -> Instant {
        let interval = self.interval(percent);
        let full = self.full_at(now);
        let spare = interval * self.burst(percent);
        (full + interval * count).checked_sub(spare).unwrap_or(now).max(now)
    }

    fn level(&self, percent: u32, now: Instant) -> u32 {
        let missing = self.full_at(now).duration_since(now).as_nanos().div_ceil(self.interval(percent).as_nanos().max(1));
        self.burst(percent).saturating_sub(u32::try_from(missing).unwrap_or(u32::MAX))
    }

    fn take(&mut self, percent: u32, now: Instant) {
        self.full_at = Some(self.full_at(now) + self.interval(percent));
    }

    /// Holds no more than `usable`. Inside the reserve the next token takes four times as long: others go first.
    fn cap(&mut self, usable: u32, percent: u32, now: Instant) {
        let burst = self.burst(percent);
        let slow = if usable == 0 { 3 } else { 0 };
        let missing = burst.saturating_sub(usable).saturating_add(slow);
        if missing > slow || usable == 0 {
            self.full_at = Some(self.full_at(now).max(now + self.interval(percent) * missing));
        }
    }

    fn close(&mut self, retry_after: Option<Duration>, percent: u32, now: Instant) {
        let wait = retry_after.unwrap_or_else(|| Duration::from_secs(5 << self.strikes.min(6)).min(Duration::from_mins(5)));
        self.strikes = self.strikes.saturating_add(1);
        // Azure's longest published wait is 20 minutes; a header beyond an hour is a mistake.
        let gate = now + wait.min(Duration::from_hours(1));
        self.gate = Some(self.gate.map_or(gate, |old| old.max(gate)));
        let burst = self.burst(percent);
        self.full_at = Some(self.full_at(now).max(gate + self.interval(percent) * (burst - 1)));
    }
}

/// Stops calling what does not answer: after five failures in a row one probe at a time, further and further apart.
#[derive(Clone, Copy, Debug, Default)]
struct Breaker {
    failures: u32,
    until: Option<Instant>,
}

impl Breaker {
    const THRESHOLD: u32 = 5;
    const PROBE: Duration = Duration::from_secs(30);

    fn closed_until(&self, now: Instant) -> Option<Instant> {
        self.until.filter(|&until| until > now)
    }

    /// While it is tripped, whoever goes holds the others back until an answer comes.
    fn probe(&mut self, now: Instant) {
        if self.until.is_some() {
            self.until = Some(now + Self::PROBE);
        }
    }

    fn answered(&mut self) {
        *self = Self::default();
    }

    fn failed(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        if let Some(beyond) = self.failures.checked_sub(Self::THRESHOLD) {
            self.until = Some(now + Duration::from_secs(5 << beyond.min(4)).min(Duration::from_mins(1)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NIC: &[Class] = &[Class::ArmWrite, Class::NetworkWrite];
    const INSTANCE: &[Class] = &[Class::ArmWrite, Class::ComputeWrite];
    const READ: &[Class] = &[Class::ArmRead, Class::NetworkRead];

    fn charge(classes: &'static [Class]) -> Charge {
        Charge { classes, machine: None, urgency: Urgency::Fill }
    }

    fn admit(budget: &mut Budget, charge: &Charge, now: Instant) -> Admission {
        let ticket = budget.enter(charge);
        let admission = budget.admit(&ticket, charge, now);
        budget.leave(&ticket);
        admission
    }

    /// How many of endless requests pass within a time.
    fn passed(budget: &mut Budget, charge: &Charge, start: Instant, time: Duration) -> u32 {
        let mut now = start;
        let mut count = 0;
        loop {
            match admit(budget, charge, now) {
                Admission::Go => count += 1,
                Admission::Closed(at) | Admission::Queue(at) => now = at,
            }
            if now >= start + time {
                return count;
            }
        }
    }

    #[test]
    fn five_minutes_of_nic_writes_stay_under_azures_limit_and_leave_the_reserve() {
        let start = Instant::now();
        for (percent, most) in [(0, 1000), (40, 600), (90, 100)] {
            let count = passed(&mut Budget::new(percent), &charge(NIC), start, Duration::from_mins(5));
            assert!(count <= most && count > most - most / 50, "{percent} %: {count}");
        }
    }

    #[test]
    fn one_machine_gets_its_own_few_writes() {
        let start = Instant::now();
        let mut budget = Budget::new(0);
        let one = Charge { machine: Some(Machine::Write("a".into())), ..charge(INSTANCE) };
        assert_eq!(passed(&mut budget, &one, start, Duration::from_mins(1)), 12 + 3);
        let other = Charge { machine: Some(Machine::Write("b".into())), ..charge(INSTANCE) };
        assert_eq!(admit(&mut budget, &other, start + Duration::from_mins(1)), Admission::Go);
    }

    #[test]
    fn retry_after_closes_the_class_to_the_second_and_no_other() {
        let now = Instant::now();
        let mut budget = Budget::new(40);
        let throttled = Outcome::Throttled { retry_after: Some(Duration::from_mins(20)), reach: Reach::Provider };
        budget.learn(&charge(NIC), throttled, &Remaining::default(), now);
        let gate = now + Duration::from_mins(20);
        assert_eq!(admit(&mut budget, &charge(NIC), now), Admission::Closed(gate));
        assert_eq!(admit(&mut budget, &charge(NIC), gate.checked_sub(Duration::from_nanos(1)).unwrap()), Admission::Closed(gate));
        assert_eq!(admit(&mut budget, &charge(READ), now), Admission::Go, "a3: reads go on");
        assert_eq!(admit(&mut budget, &charge(INSTANCE), now), Admission::Go);
        assert_eq!(admit(&mut budget, &charge(NIC), gate), Admission::Go);
        assert!(matches!(admit(&mut budget, &charge(NIC), gate), Admission::Queue(_)), "it begins empty");
    }

    #[test]
    fn a_subscription_wide_throttle_closes_every_provider() {
        let now = Instant::now();
        let mut budget = Budget::new(0);
        let throttled = Outcome::Throttled { retry_after: Some(Duration::from_secs(6)), reach: Reach::Subscription };
        budget.learn(&charge(NIC), throttled, &Remaining::default(), now);
        assert!(matches!(admit(&mut budget, &charge(INSTANCE), now), Admission::Closed(_)));
        assert_eq!(admit(&mut budget, &charge(READ), now), Admission::Go);
    }

    #[test]
    fn without_a_header_the_wait_doubles_to_five_minutes_and_an_answer_ends_that() {
        let mut now = Instant::now();
        let mut budget = Budget::new(0);
        let mut waits = vec![];
        for _ in 0..9 {
            let outcome = Outcome::Throttled { retry_after: None, reach: Reach::Provider };
            budget.learn(&charge(NIC), outcome, &Remaining::default(), now);
            let Admission::Closed(until) = admit(&mut budget, &charge(NIC), now) else { panic!("open") };
            waits.push((until - now).as_secs());
            now = until;
        }
        assert_eq!(waits, [5, 10, 20, 40, 80, 160, 300, 300, 300]);
        budget.learn(&charge(NIC), Outcome::Answered, &Remaining::default(), now);
        budget.learn(&charge(NIC), Outcome::Throttled { retry_after: None, reach: Reach::Provider }, &Remaining::default(), now);
        assert_eq!(admit(&mut budget, &charge(NIC), now), Admission::Closed(now + Duration::from_secs(5)));
    }

    #[test]
    fn a28_what_others_use_up_slows_us_before_the_reserve() {
        let now = Instant::now();
        let mut budget = Budget::new(40);
        let write = charge(NIC);
        let left = |count| Remaining { arm: Some(count), policies: vec![] };
        assert_eq!(budget.level(Class::ArmWrite, now), 120);
        budget.learn(&write, Outcome::Answered, &left(199), now);
        assert_eq!(budget.level(Class::ArmWrite, now), 119);
        budget.learn(&write, Outcome::Answered, &left(90), now);
        assert_eq!(budget.level(Class::ArmWrite, now), 10);
        budget.learn(&write, Outcome::Answered, &left(80), now);
        let interval = Duration::from_mins(1) / 360;
        let Admission::Queue(at) = admit(&mut budget, &write, now) else { panic!("not queued") };
        assert_eq!((at - now).as_micros(), (interval * 4).as_micros());
        // The roomier header of an old subscription changes nothing.
        let mut fresh = Budget::new(40);
        fresh.learn(&write, Outcome::Answered, &left(11_999), now);
        assert_eq!(fresh.level(Class::ArmWrite, now), 120);
    }

    #[test]
    fn provider_policies_cap_class_and_machine() {
        let now = Instant::now();
        let mut budget = Budget::new(0);
        let write = Charge { machine: Some(Machine::Write("a".into())), ..charge(INSTANCE) };
        assert_eq!(admit(&mut budget, &write, now), Admission::Go);
        let policies = |own, all| Remaining { arm: None, policies: vec![("p/own".into(), own), ("p/all".into(), all)] };
        budget.learn(&write, Outcome::Answered, &policies(1, 50), now);
        assert_eq!(budget.level(Class::ComputeWrite, now), 50);
        assert_eq!(admit(&mut budget, &write, now), Admission::Go);
        assert!(matches!(admit(&mut budget, &write, now), Admission::Queue(_)));
    }

    #[test]
    fn the_urgent_go_first_and_equals_in_order() {
        let now = Instant::now();
        let mut budget = Budget::new(90);
        let fill = charge(NIC);
        while admit(&mut budget, &fill, now) == Admission::Go {}
        let starving = Charge { urgency: Urgency::Starving, ..charge(NIC) };
        let (first, second, late) = (budget.enter(&fill), budget.enter(&fill), budget.enter(&starving));
        let Admission::Queue(at) = budget.admit(&late, &starving, now) else { panic!("a token") };
        assert!(matches!(budget.admit(&first, &fill, at), Admission::Queue(_)));
        assert_eq!(budget.admit(&late, &starving, at), Admission::Go);
        budget.leave(&late);
        let Admission::Queue(at) = budget.admit(&first, &fill, at) else { panic!("a token") };
        assert!(matches!(budget.admit(&second, &fill, at), Admission::Queue(_)));
        assert_eq!(budget.admit(&first, &fill, at), Admission::Go);
    }

    #[test]
    fn a_silent_endpoint_is_probed_one_at_a_time() {
        let now = Instant::now();
        let mut budget = Budget::new(0);
        for _ in 0..5 {
            assert_eq!(admit(&mut budget, &charge(READ), now), Admission::Go);
            budget.learn(&charge(READ), Outcome::Unavailable, &Remaining::default(), now);
        }
        let Admission::Closed(probe) = admit(&mut budget, &charge(NIC), now) else { panic!("open") };
        assert_eq!((probe - now).as_secs(), 5);
        assert_eq!(admit(&mut budget, &charge(READ), probe), Admission::Go);
        assert!(matches!(admit(&mut budget, &charge(READ), probe), Admission::Closed(_)), "one probe");
        budget.learn(&charge(READ), Outcome::Answered, &Remaining::default(), probe);
        assert_eq!(admit(&mut budget, &charge(READ), probe), Admission::Go);
    }
}
