//! The controller's clock. It goes on evenly from when it was set: a time of day that jumps would make what was just read look older than what
//! was just written, or an intent look over that is not.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;

/// How far the time of day may be from an even clock. Below the minute that an intent lives for at least, and more than a time server corrects in
/// passing.
const APART: Duration = Duration::from_secs(20);

/// Time of day as of when it was set, and how long ago that was.
#[derive(Debug)]
pub struct Clock {
    set: Mutex<Set>,
}

#[derive(Clone, Copy, Debug)]
struct Set {
    to: Timestamp,
    at: Instant,
}

impl Clock {
    /// One that starts at this moment.
    #[must_use]
    pub fn start() -> Self {
        Self::set_to(Timestamp::now())
    }

    pub(super) fn set_to(to: Timestamp) -> Self {
        Self { set: Mutex::new(Set { to, at: Instant::now() }) }
    }

    /// Now.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        let Set { to, at } = *self.set.lock().unwrap_or_else(PoisonError::into_inner);
        to.saturating_add(at.elapsed()).unwrap_or(to)
    }

    /// Whether a time has surely not come yet: neither by this clock, which stands still while the machine sleeps, nor by the time of day.
    #[must_use]
    pub fn is_before(&self, end: Timestamp) -> bool {
        self.now() < end && Timestamp::now() < end
    }

    /// Whether the time of day went another way: by this clock an intent would begin so long ago, or so far ahead, that it could never be sent.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.now().duration_since(Timestamp::now()).unsigned_abs() > APART
    }

    /// Goes on from the time of day. What was measured before cannot be compared with what will be.
    pub fn set(&self) {
        *self.set.lock().unwrap_or_else(PoisonError::into_inner) = Set { to: Timestamp::now(), at: Instant::now() };
    }

    /// Goes wrong by that much, as over a sleep of the machine.
    #[cfg(test)]
    pub fn fall_behind(&self, by: Duration) {
        let mut set = self.set.lock().unwrap();
        set.to = set.to.saturating_sub(by).unwrap();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    #[test]
    fn a_time_counts_as_over_by_either_clock() {
        let clock = Clock::start();
        let later = clock.now().saturating_add(HOUR).unwrap();
        assert!(clock.is_before(later));
        assert!(!Clock::set_to(later).is_before(later));
        let behind = Clock::set_to(Timestamp::UNIX_EPOCH);
        assert!(!behind.is_before(clock.now()), "the time of day counts too");
    }

    #[test]
    fn a_clock_that_fell_behind_or_ran_ahead_is_set_anew() {
        let clock = Clock::start();
        assert!(!clock.is_off());
        clock.fall_behind(Duration::from_secs(30));
        assert!(clock.is_off(), "half of the shortest intent's time would be gone before it is sent");
        clock.fall_behind(HOUR);
        assert!(clock.is_off() && Clock::set_to(Timestamp::now().saturating_add(HOUR).unwrap()).is_off());
        clock.set();
        assert!(!clock.is_off());
    }
}
