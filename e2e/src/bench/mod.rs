//! `cargo xtask bench`: how far the product is from what the kernel itself needs, measured in one run, printed as medians and ratios.
//!
//! Numbers are reported, never asserted: they depend on the machine and on what else it does.

mod figure;
mod memory;
mod plugin;

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use crate::build::{Cache, Operator, plugins, product, progress, require_packages};
use crate::lab::xtask;
use crate::scale::{self, Size};
pub use figure::Figure;

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Bench {
    /// ADD and DEL of the plugin against an empty process and the bare netlink messages.
    Plugin,
    /// Resident memory of controller and agents in a lab at rest, and the sizes of the executables.
    Memory,
    /// A fleet of Nodes that are objects only: how fast the controller fills it, and what that costs.
    Scale,
}

/// Measures what is named, or everything.
///
/// # Errors
/// If something cannot be built or measured.
pub fn run(names: &[Bench], size: Size, json: bool) -> Result<()> {
    require_packages()?;
    let cache = Cache::open()?;
    for bench in Bench::value_variants().iter().filter(|bench| names.is_empty() || names.contains(bench)) {
        match bench {
            Bench::Plugin => in_namespaces(&plugins(&cache)?, json)?,
            Bench::Memory => print(&memory::measure(&product(&cache, Operator::Quick)?.bin)?, json)?,
            Bench::Scale => print(&scale::measure(size, Operator::Shipped)?, json)?,
        }
    }
    Ok(())
}

/// Measures the plugin in namespaces of its own, which end with the process that is started here.
fn in_namespaces(bin: &std::path::Path, json: bool) -> Result<()> {
    progress("measuring the plugins in namespaces of their own");
    let mut inside = Command::new("unshare");
    inside.args(["--net", "--mount", "--propagation", "private"]).arg(xtask()?).arg("bench-inside").arg(bin);
    if json {
        inside.arg("--json");
    }
    let status = inside.process_group(0).status().context("cannot run unshare")?;
    if !status.success() {
        bail!("the measurement failed ({status})");
    }
    Ok(())
}

/// The part that runs in namespaces of its own.
///
/// # Errors
/// If the kernel refuses, or a plugin fails.
pub fn inside(bin: &std::path::Path, json: bool) -> Result<()> {
    print(&plugin::measure(bin)?, json)
}

/// Prints figures, for people or as one JSON object a line.
///
/// # Errors
/// If nobody reads on.
pub fn print(figures: &[Figure], json: bool) -> Result<()> {
    let mut out = std::io::stdout();
    for figure in figures {
        let line = if json { serde_json::to_string(figure)? } else { figure.to_string() };
        writeln!(out, "{line}")?;
    }
    Ok(())
}
