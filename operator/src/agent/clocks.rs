//! The node's clocks: whether time passed as it should have since the last look.

use std::time::{Duration, SystemTime};

use rustix::time::{ClockId, clock_gettime};
use tracing::warn;

/// How far the clocks may part between two looks: more means that the machine was restored from a snapshot (safety rule ST13).
const JUMP: Duration = Duration::from_mins(1);

/// Time since boot, which no change of the wall clock touches.
#[must_use]
pub fn since_boot() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    let (seconds, nanos) = (u64::try_from(now.tv_sec).unwrap_or_default(), u32::try_from(now.tv_nsec).unwrap_or_default());
    Duration::new(seconds, nanos)
}

/// Time since boot and time of day, as they were at the last look.
#[derive(Debug, Default)]
pub struct Clocks {
    last: Option<(Duration, SystemTime)>,
    parted: Option<Duration>,
    /// The clocks parted, and no witness has spoken since.
    pub distrusted: bool,
}

impl Clocks {
    /// Takes a look. Answers whether the clocks parted since the last one.
    pub fn look(&mut self, boot: Duration, real: SystemTime) -> bool {
        let Some((last_boot, last_real)) = self.last.replace((boot, real)) else { return false };
        let passed = boot.saturating_sub(last_boot);
        let parted = match real.duration_since(last_real) {
            Ok(shown) => shown.abs_diff(passed) > JUMP,
            Err(backwards) => backwards.duration() + passed > JUMP,
        };
        if parted {
            warn!(?passed, "the clocks parted: the pool is withheld until this node's IMDS confirms it");
            self.distrusted = true;
            self.parted = Some(boot);
        }
        parted
    }

    /// Whether what was asked for then may have been answered before the clocks parted: it witnesses nothing.
    #[must_use]
    pub fn parted_after(&self, asked: Duration) -> bool {
        self.parted.is_some_and(|parted| asked < parted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn st13_a_jump_of_more_than_a_minute_is_noticed_in_either_direction() {
        const fn secs(seconds: u64) -> Duration {
            Duration::from_secs(seconds)
        }
        let real = SystemTime::UNIX_EPOCH + secs(1_000_000);
        for (after, parted) in
            [(real + secs(70), false), (real + secs(71), true), (real, false), (real - secs(50), false), (real - secs(51), true)]
        {
            let mut clocks = Clocks::default();
            assert!(!clocks.look(secs(1000), real));
            assert_eq!(clocks.look(secs(1010), after), parted, "{after:?}");
            assert_eq!((clocks.distrusted, clocks.parted_after(secs(1009))), (parted, parted));
            assert!(!clocks.parted_after(secs(1010)));
        }
    }
}
