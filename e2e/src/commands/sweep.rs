//! `cargo xtask sweep`.

use anyhow::{Context as _, Result, ensure};

use crate::build::{cargo, require_packages};
use crate::suite::shipped_plugins;

/// Runs the sweep over all commands, sampled or whole.
///
/// # Errors
/// If something is left behind after a kill or a failed call.
pub fn run(all: bool) -> Result<()> {
    require_packages()?;
    let mut sweep = cargo();
    sweep.args(["test", "--package", "azure-vnet-plugin", "--test", "kernel", "--", "--nocapture", "sweep::"]);
    sweep.envs([shipped_plugins()?]);
    if all {
        sweep.env("AZURE_VNET_SWEEP", "all");
    }
    let status = sweep.status().context("cannot run cargo")?;
    ensure!(status.success(), "the sweep failed ({status})");
    Ok(())
}
