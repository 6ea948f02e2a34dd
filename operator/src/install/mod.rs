//! The installer: puts the plugins into the node's plugin folder, and proves that each runs there. It touches nothing else on the node.

mod file;
pub mod version;

use std::path::PathBuf;

use anyhow::Context;
use tracing::info;

pub(crate) use file::{Done, Existing, InstallError, install};

/// Our own plugins: always brought to this image's version.
pub(crate) const OURS: [&str; 2] = ["azure-vnet", "azure-vnet-ipam"];

/// Puts the plugins into the node's plugin folder.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Folder with the plugins of this image
    #[arg(long, default_value = "/opt/azure-vnet/bin", env = "AZURE_VNET_INSTALL_FROM")]
    pub from: PathBuf,
    /// The node's plugin folder
    #[arg(long, default_value = "/host/opt/cni/bin", env = "AZURE_VNET_INSTALL_TO")]
    pub to: PathBuf,
}

/// Brings our own plugins up to date and adds the reference plugins that are missing; a reference plugin that the node has stays.
///
/// # Errors
/// When a plugin cannot be written or does not run where it was put. What was there before stays then.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let Options { from, to } = options;
    file::sweep(to).with_context(|| format!("cannot look into the plugin folder {}", to.display()))?;
    for name in OURS {
        let done = file::install(from, to, name, file::Existing::Replace).with_context(|| format!("cannot install {name}"))?;
        info!(plugin = name, %done, "installed");
    }
    for name in file::others(from, &OURS).with_context(|| format!("cannot look into {}", from.display()))? {
        let done = file::install(from, to, &name, file::Existing::Keep).with_context(|| format!("cannot install {name}"))?;
        info!(plugin = name, %done, "installed");
    }
    Ok(())
}
