//! What a user does with the product, step by step, on a running lab. The demo prints these steps; the end-to-end tests assert them.
//!
//! A step drives the cluster only as a user can: `kubectl`, `helm`, and programs in pods. What Azure thinks is read from the emulator.

#![expect(clippy::indexing_slicing, reason = "a JSON value read by key is null where the key is missing; it never panics")]

pub mod blocks;
mod burst;
mod checker;
mod cluster;
pub mod connected;
pub mod differ;
mod failover;
pub mod flows;
mod install;
mod killer;
pub mod load;
pub mod migrate;
mod modes;
mod names;
pub mod original;
mod planned;
mod quarantine;
mod reach;
mod rights;
pub mod rolling;
mod services;
mod store;
mod survive;
pub mod told;
pub mod uninstall;
mod wrong;

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

pub use burst::{Burst, Handshake, Stage, burst, give_back};
pub use checker::Checker;
pub use cluster::{Cluster, Pod};
pub use failover::{Blow, Failover, Moment, failover};
pub use install::{CONFIG, configure, install, install_chart, upgrade, wait_ready, without_network};
pub use names::{names, names_by_a_cache, resolver};
pub use planned::{Planned, enforce, planned};
pub use quarantine::{SetAside, config_of_a_small_node, reboot_with_addresses_set_aside};
pub use reach::{HOST_PORT, INTERNET, Matrix, PEER, reach, start_pods};
pub use rights::{Deed, Rights, rights};
pub use services::services;
pub use survive::{reboot, start_and_stop_without_daemons};
pub use wrong::{wrong_configs, wrong_nodes};

/// Waits until `observe` yields a value, or fails with what it last saw.
///
/// # Errors
/// If the deadline passes first, or `observe` itself fails for good.
pub fn wait_for<T>(what: &str, deadline: Duration, mut observe: impl FnMut() -> Result<Result<T, String>>) -> Result<T> {
    let end = Instant::now() + deadline;
    loop {
        match observe()? {
            Ok(value) => return Ok(value),
            Err(seen) if Instant::now() >= end => bail!("waited {} s for {what}; last seen: {seen}", deadline.as_secs()),
            Err(_) => poll_pause(),
        }
    }
}

/// The pause between two looks at a condition.
fn poll_pause() {
    std::thread::sleep(Duration::from_millis(250));
}
