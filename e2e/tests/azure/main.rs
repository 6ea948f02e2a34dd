//! The emulated Azure keeps the promises of the real one: what a client of ARM, IMDS and the wireserver may rely on, and what it must fear.
#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that meets something else than it expects shall fail"
)]

mod access;
mod cloud;
mod fault;
mod instance;
mod machine;
mod nic;
mod subscriptions;
