//! Root file systems put together of Debian's packages, for images whose makers would take them from a registry of images.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::packages;
use crate::lab::finish;

/// The release that the Dockerfile builds on.
const RELEASE: &str = "bookworm";
/// What nobody reads there.
const LEFT_OUT: &[&str] = &["doc", "man", "locale"];

/// A root file system to be made.
#[derive(Debug)]
pub(super) struct Debian<'a> {
    /// What mmdebstrap brings besides: `extract` unpacks the packages and runs nothing of them, `apt` makes a system that installs more.
    pub variant: &'a str,
    /// Its packages.
    pub packages: &'a [&'a str],
    /// What mmdebstrap does to it at last.
    pub hooks: Vec<String>,
}

impl Debian<'_> {
    /// Writes it as a tar without device nodes, which whoever runs it mounts afresh.
    ///
    /// # Errors
    /// If the packages cannot be had.
    pub(super) fn write(&self, tar: &Path) -> Result<()> {
        packages::require_program("mmdebstrap", "mmdebstrap")?;
        let mut mmdebstrap = Command::new("mmdebstrap");
        mmdebstrap.args(["--quiet", "--mode=root", "--format=tar", "--skip=output/dev", "--aptopt=APT::Install-Recommends \"false\""]);
        mmdebstrap.args(LEFT_OUT.iter().map(|folder| format!("--dpkgopt=path-exclude=/usr/share/{folder}/*")));
        mmdebstrap.args(self.hooks.iter().map(|hook| format!("--customize-hook={hook}")));
        mmdebstrap.arg(format!("--variant={}", self.variant)).arg(format!("--include={}", self.packages.join(",")));
        finish(mmdebstrap.arg(RELEASE).arg(tar)).map(drop)
    }
}
