//! `cargo xtask sweep`, and what sweeps report in the other commands that run them.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use tempfile::NamedTempFile;

use crate::{
    bench::{self, Figure},
    build::{cargo, require_packages},
    suite::shipped_plugins,
};

/// What can be struck.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Sweep {
    /// ADD, in every mode and without an agent.
    Add,
    /// DEL.
    Del,
    /// CHECK.
    Check,
    /// GC.
    Gc,
    /// The first ADD of bridge and tunnel mode, which moves the host's addresses; and messages of the kernel that do not arrive.
    Network,
}

impl Sweep {
    /// Which kernel tests they are.
    fn tests(self) -> &'static str {
        match self {
            Self::Add => "sweep::add_",
            Self::Del => "sweep::del_",
            Self::Check => "sweep::check_",
            Self::Gc => "sweep::gc_",
            Self::Network => "bridge_sweep::",
        }
    }
}

/// Runs the sweeps that are named, or all of them, sampled or whole.
///
/// # Errors
/// If something is left behind after a kill or a failed call.
pub fn run(names: &[Sweep], all: bool, json: bool) -> Result<()> {
    require_packages()?;
    let report = Report::new()?;
    let mut sweep = cargo();
    sweep.args(["test", "--package", "azure-vnet-plugin", "--test", "kernel", "--"]);
    let chosen = Sweep::value_variants().iter().filter(|sweep| names.is_empty() || names.contains(sweep));
    sweep.args(chosen.map(|sweep| sweep.tests()));
    sweep.envs([shipped_plugins()?]).env(Report::VARIABLE, report.0.path());
    if all {
        sweep.env("AZURE_VNET_SWEEP", "all");
    }
    let output = std::io::stderr();
    let status = sweep.stdout(output).status().context("cannot run cargo")?;
    bench::print(&report.figures()?, json)?;
    ensure!(status.success(), "the sweep failed ({status})");
    Ok(())
}

/// Where the kernel tests write what their sweeps struck, one figure a line.
pub struct Report(pub NamedTempFile);

impl Report {
    /// The variable that names it to the tests.
    pub const VARIABLE: &'static str = "AZURE_VNET_SWEEP_REPORT";

    /// An empty one.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn new() -> Result<Self> {
        Ok(Self(NamedTempFile::new().context("cannot make a file for the report")?))
    }

    /// What was struck so far, by what.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn figures(&self) -> Result<Vec<Figure>> {
        let text = fs::read_to_string(self.0.path()).context("cannot read the report")?;
        let mut figures = text.lines().map(serde_json::from_str).collect::<Result<Vec<Figure>, _>>()?;
        figures.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(figures)
    }
}
