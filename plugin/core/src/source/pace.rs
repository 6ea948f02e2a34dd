//! When a service of the machine's own may be asked again: rarely, and the more rarely the longer it has been silent.

use std::time::Duration;

use crate::boot::{BootId, BootTime};

/// Between two questions where the configuration does not say.
pub const DEFAULT_INTERVAL: Duration = Duration::from_secs(10);
/// Failures after which the pauses grow no more.
const MOST_DOUBLINGS: u32 = 5;

/// So many intervals after the last answer, what was learned is asked for anew before it is used: a service that answered then mostly does now.
const SERVES_FOR: u32 = 6;

/// What is done about what was learned some time ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refresh {
    /// Nothing: it is young, or was asked for a moment ago.
    No,
    /// It is used as it is, and asked for later, when nobody waits.
    Later,
    /// It is asked for before it is used.
    First,
}

impl Refresh {
    /// Decides: what was learned is of the question `asked` then, in this `boot`, and the `last` question may have had no answer.
    #[must_use]
    pub fn of(asked: BootTime, last: Option<&Attempt>, boot: &BootId, now: BootTime, interval: Duration) -> Self {
        match last.filter(|attempt| attempt.boot == *boot) {
            Some(attempt) if !attempt.is_over(boot, now, interval) => Self::No,
            // For who was silent nobody waits again.
            Some(attempt) if attempt.failures > 0 => Self::Later,
            Some(_) | None if now.since(asked) < interval.saturating_mul(SERVES_FOR) => Self::Later,
            Some(_) | None => Self::First,
        }
    }
}

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
    fn nobody_waits_while_what_was_learned_serves() {
        let (boot, at) = ("b1".parse::<BootId>().unwrap(), |seconds: u64| BootTime::from_millis(seconds * 1_000));
        let attempt = |sent, failures| Attempt { boot: boot.clone(), sent: at(sent), failures };
        let refresh = |asked, last: Option<Attempt>, now| Refresh::of(at(asked), last.as_ref(), &boot, at(now), DEFAULT_INTERVAL);
        assert_eq!(refresh(100, Some(attempt(100, 0)), 109), Refresh::No);
        assert_eq!(refresh(100, Some(attempt(100, 0)), 110), Refresh::Later);
        assert_eq!(refresh(100, Some(attempt(100, 0)), 159), Refresh::Later);
        assert_eq!(refresh(100, Some(attempt(100, 0)), 160), Refresh::First, "unheard of for a minute");
        assert_eq!(refresh(100, Some(attempt(160, 1)), 179), Refresh::No, "the pause after a failure");
        assert_eq!(refresh(100, Some(attempt(160, 1)), 9_999), Refresh::Later, "it was silent");
        assert_eq!((refresh(100, None, 110), refresh(100, None, 160)), (Refresh::Later, Refresh::First));
        let before = Attempt { boot: "b0".parse().unwrap(), ..attempt(160, 9) };
        assert_eq!(refresh(100, Some(before), 160), Refresh::First, "another boot's silence tells nothing");
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
