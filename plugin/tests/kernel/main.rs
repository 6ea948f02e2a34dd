//! The plugins against the real kernel, run as a runtime runs them, each test on a node of its own: network and mount namespaces that end with it.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::unused_self,
    reason = "a test stops at the first surprise, and its node is the subject of what it does"
)]

mod addresses;
#[cfg(target_arch = "x86_64")]
mod bridge_sweep;
mod bridged;
mod chain;
mod commands;
mod fabric;
mod faults;
mod folder;
mod foreign;
mod guards;
mod mixed;
mod modes;
mod node;
mod services;
#[cfg(target_arch = "x86_64")]
mod setting;
mod sources;
mod store;
#[cfg(target_arch = "x86_64")]
mod strike;
#[cfg(target_arch = "x86_64")]
mod sweep;
mod undo;
mod upgrade;
mod ways;
#[cfg(target_arch = "x86_64")]
mod witnesses;
