//! The controller's clock. It goes on evenly from the process's start: a time of day that jumps would make what was just read look older than what
//! was just written, or an intent look over that is not.

use std::time::Instant;

use jiff::Timestamp;

/// Time of day as of the start, and how long ago that was.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    began: Timestamp,
    since: Instant,
}

impl Clock {
    /// One that starts at this moment.
    #[must_use]
    pub fn start() -> Self {
        Self { began: Timestamp::now(), since: Instant::now() }
    }

    /// Now.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.began.saturating_add(self.since.elapsed()).unwrap_or(self.began)
    }

    /// Whether a time has surely not come yet: neither by this clock, which stands still while the machine sleeps, nor by the time of day.
    #[must_use]
    pub fn is_before(&self, end: Timestamp) -> bool {
        self.now() < end && Timestamp::now() < end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_counts_as_over_by_either_clock() {
        let clock = Clock::start();
        let later = clock.now().saturating_add(std::time::Duration::from_hours(1)).unwrap();
        assert!(clock.is_before(later));
        let ahead = Clock { began: later, ..clock };
        assert!(!ahead.is_before(later));
        let behind = Clock { began: Timestamp::UNIX_EPOCH, ..clock };
        assert!(!behind.is_before(clock.began), "the time of day counts too");
    }
}
