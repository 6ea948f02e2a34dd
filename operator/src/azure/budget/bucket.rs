//! One limit as a token bucket.

use std::time::{Duration, Instant};

/// A limit of Azure's: tokens that come back in a minute, and how many gather.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rate {
    pub(super) per_minute: u32,
    pub(super) burst: u32,
}

/// A token bucket, kept as the moment when it will be full: exact, and without fractions.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    pub(super) rate: Rate,
    /// None: it never was used.
    full_at: Option<Instant>,
    pub(super) gate: Option<Instant>,
    pub(super) strikes: u32,
}

impl Bucket {
    pub(super) fn new(rate: Rate) -> Self {
        Self { rate, full_at: None, gate: None, strikes: 0 }
    }

    /// Time for one token of our share.
    fn interval(&self, percent: u32) -> Duration {
        Duration::from_mins(100) / self.rate.per_minute / (100 - percent)
    }

    pub(super) fn full_at(&self, now: Instant) -> Instant {
        self.full_at.map_or(now, |at| at.max(now))
    }

    pub(super) fn burst(&self, percent: u32) -> u32 {
        (self.rate.burst - share(self.rate.burst, percent)).max(1)
    }

    /// When `count` tokens are there. More than fit are there as late as if they did.
    pub(super) fn available_at(&self, count: u32, percent: u32, now: Instant) -> Instant {
        let interval = self.interval(percent);
        let full = self.full_at(now);
        let spare = interval * self.burst(percent);
        (full + interval * count).checked_sub(spare).unwrap_or(now).max(now)
    }

    pub(super) fn level(&self, percent: u32, now: Instant) -> u32 {
        let missing = self.full_at(now).duration_since(now).as_nanos().div_ceil(self.interval(percent).as_nanos().max(1));
        self.burst(percent).saturating_sub(u32::try_from(missing).unwrap_or(u32::MAX))
    }

    pub(super) fn take(&mut self, percent: u32, now: Instant) {
        self.full_at = Some(self.full_at(now) + self.interval(percent));
    }

    /// Holds no more than `usable`. Inside the reserve the next token takes four times as long: others go first.
    pub(super) fn cap(&mut self, usable: u32, percent: u32, now: Instant) {
        let burst = self.burst(percent);
        let slow = if usable == 0 { 3 } else { 0 };
        let missing = burst.saturating_sub(usable).saturating_add(slow);
        if missing > slow || usable == 0 {
            self.full_at = Some(self.full_at(now).max(now + self.interval(percent) * missing));
        }
    }

    pub(super) fn close(&mut self, retry_after: Option<Duration>, percent: u32, now: Instant) {
        let wait = retry_after.unwrap_or_else(|| Duration::from_secs(5 << self.strikes.min(6)).min(Duration::from_mins(5)));
        self.strikes = self.strikes.saturating_add(1);
        // Azure's longest published wait is 20 minutes; a header beyond an hour is a mistake.
        let gate = now + wait.min(Duration::from_hours(1));
        self.gate = Some(self.gate.map_or(gate, |old| old.max(gate)));
        let burst = self.burst(percent);
        self.full_at = Some(self.full_at(now).max(gate + self.interval(percent) * (burst - 1)));
    }
}

/// `percent` of a count, rounded down.
pub(super) fn share(count: u32, percent: u32) -> u32 {
    count / 100 * percent + count % 100 * percent / 100
}
