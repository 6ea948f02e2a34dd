//! The clock by which leases and rests count: through suspension, anew with each boot, and set by no one.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// `CLOCK_BOOTTIME`. By the C library, which finds the kernel's function for clocks once: what reads the log's times has it find it already.
pub(crate) fn since_boot() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default()
}
