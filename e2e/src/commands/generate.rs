//! `cargo xtask generate`.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::build::{Cache, Tools, cargo, checkout};

/// Writes CRDs, the chart's schema and the manifests anew.
///
/// # Errors
/// If a generator fails.
pub fn run() -> Result<()> {
    let helm = Tools::ensure(&Cache::open()?)?.path("helm")?.to_owned();
    let mut crds = cargo();
    crds.args(["run", "--quiet", "--package", "azure-vnet-crds", "--example", "generate"]);
    let mut manifests = Command::new(checkout().join("manifests/render.sh"));
    manifests.env("HELM", helm);
    for command in [&mut crds, &mut manifests] {
        let status = command.current_dir(checkout()).status().with_context(|| format!("cannot run {command:?}"))?;
        ensure!(status.success(), "{command:?} failed ({status})");
    }
    Ok(())
}
