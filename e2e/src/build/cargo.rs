//! Cargo, as a shell would run it.

use std::process::Command;

use super::checkout;

/// `cargo` in the checkout.
///
/// Without what the cargo that runs us says of our own package: build scripts that watch those variables (`ring`'s does) would run
/// again, and all that stands on them would be built anew at each change between a shell's cargo and ours.
#[must_use]
pub fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for name in std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()).filter(|name| is_of_a_package(name)) {
        cargo.env_remove(name);
    }
    cargo.current_dir(checkout());
    cargo
}

/// What makes it run the simulator; what follows are the simulator's own arguments.
pub const SIMULATE: &[&str] =
    &["run", "--quiet", "--profile", "sim", "--package", "azure-vnet-operator-core", "--example", "simulate", "--"];

fn is_of_a_package(name: &str) -> bool {
    ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY"].iter().any(|prefix| name.starts_with(prefix))
}
