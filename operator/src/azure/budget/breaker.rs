//! What holds requests back while nothing answers.

use std::time::{Duration, Instant};

/// Stops calling what does not answer: after five failures in a row one probe at a time, further and further apart.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Breaker {
    failures: u32,
    until: Option<Instant>,
    /// The latest that an answer named since it tripped.
    named: Option<Instant>,
}

impl Breaker {
    const THRESHOLD: u32 = 5;
    const PROBE: Duration = Duration::from_secs(30);
    /// No answer holds others back for longer, whatever it names.
    const LONGEST: Duration = Duration::from_hours(1);

    pub(super) fn closed_until(&self, now: Instant) -> Option<Instant> {
        self.until.filter(|&until| until > now)
    }

    /// Whether it is tripped: since then nothing answered.
    pub(super) fn is_tripped(&self) -> bool {
        self.until.is_some()
    }

    /// While it is tripped, whoever goes holds the others back until an answer comes.
    pub(super) fn probe(&mut self, now: Instant) {
        if self.until.is_some() {
            self.until = Some(now + Self::PROBE);
        }
    }

    pub(super) fn answered(&mut self) {
        *self = Self::default();
    }

    /// One failure says nothing of other requests; several in a row do, and then also how long they are to wait: until the latest that any of them names.
    pub(super) fn failed(&mut self, retry_after: Option<Duration>, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        if let Some(beyond) = self.failures.checked_sub(Self::THRESHOLD) {
            let rest = Duration::from_secs(5 << beyond.min(4)).min(Duration::from_mins(1));
            self.named = self.named.max(retry_after.map(|wait| now + wait.min(Self::LONGEST)));
            self.until = Some(now + rest).max(self.named);
        }
    }
}
