//! When a service of the machine's own may be asked again: rarely, and the more rarely the longer it has been silent.

use std::time::Duration;

use crate::boot::{BootId, BootTime};

/// Between two questions where the configuration does not say.
pub const DEFAULT_INTERVAL: Duration = Duration::from_secs(10);
/// Failures after which the pauses grow no more.
const MOST_DOUBLINGS: u32 = 5;

/// The question that was asked last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// In which boot.
    pub boot: BootId,
    /// When.
    pub sent: BootTime,
    /// Failed ones in a row, this one included.
    pub failures: u32,
}

impl Attempt {
    /// Prints the attempt.
    #[must_use]
    pub fn print(&self) -> String {
        let Self { boot, sent, failures } = self;
        format!("{boot} {} {failures}\n", sent.as_millis())
    }

    /// Reads an attempt. What cannot be understood is none: it would only have held a question back.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let line = std::str::from_utf8(bytes).ok()?.split('\n').next()?;
        let mut words = line.split(' ');
        let boot = words.next()?.parse().ok()?;
        let sent = BootTime::from_millis(words.next()?.parse().ok()?);
        Some(Self { boot, sent, failures: words.next()?.parse().ok()? })
    }

    /// Whether the next question is due.
    #[must_use]
    pub fn is_over(&self, boot: &BootId, now: BootTime, interval: Duration) -> bool {
        let pause = interval.saturating_mul(1 << self.failures.min(MOST_DOUBLINGS));
        self.boot != *boot || now < self.sent || now.since(self.sent) >= pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pauses_grow_with_failures_and_end() {
        let attempt = |failures| Attempt { boot: "b1".parse().unwrap(), sent: BootTime::from_millis(1_000), failures };
        let over = |failures, now| attempt(failures).is_over(&"b1".parse().unwrap(), BootTime::from_millis(now), DEFAULT_INTERVAL);
        assert!(!over(0, 10_999) && over(0, 11_000));
        assert!(!over(1, 20_999) && over(1, 21_000));
        assert!(!over(99, 320_999) && over(99, 321_000));
        assert!(over(0, 999), "a clock that went back says nothing");
        assert!(attempt(0).is_over(&"b2".parse().unwrap(), BootTime::from_millis(1_000), DEFAULT_INTERVAL));
    }

    #[test]
    fn what_is_printed_is_read_back() {
        let attempt = Attempt { boot: "b1".parse().unwrap(), sent: BootTime::from_millis(7), failures: 3 };
        assert_eq!(Attempt::parse(format!("{}rest of a longer one", attempt.print()).as_bytes()), Some(attempt));
        for bytes in [b"".as_slice(), b"\xff", b"b1 x 3", b"b1 1", b"/ 1 1"] {
            assert_eq!(Attempt::parse(bytes), None);
        }
    }
}
