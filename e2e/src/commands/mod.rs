//! The command line of `cargo xtask`.

mod generate;
mod lab;
mod sim;
pub(crate) mod sweep;

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory as _, Parser, Subcommand};

use crate::build::Architecture;
use crate::scenario::{original, rolling};

/// Builds, shows, tests and measures azure-vnet on this machine.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows the main job: pods on three real nodes get addresses of an emulated Azure VNET. Needs root.
    Demo {
        /// Leave the lab up afterwards (`cargo xtask lab down` ends it).
        #[arg(long)]
        keep: bool,
    },
    /// Runs every check and test, and prints one summary. Kernel and end-to-end tests need root.
    Test,
    /// Brings up, drives and takes down a real Kubernetes of three nodes in an emulated Azure. Needs root.
    Lab {
        #[command(subcommand)]
        command: lab::LabCommand,
    },
    /// Measures the product against what the kernel itself needs; prints medians and ratios. Needs root.
    Bench {
        /// What to measure; everything if none is named.
        names: Vec<crate::bench::Bench>,
        /// How large `scale` is.
        #[command(flatten)]
        size: crate::scale::Size,
        /// One JSON object a line: name, value, unit, floor, ratio.
        #[arg(long)]
        json: bool,
    },
    /// Kills the plugins at their system calls, makes these fail, looks at what is left, and counts the blows. Needs root.
    Sweep {
        /// What to strike; everything if none is named.
        names: Vec<sweep::Sweep>,
        /// Strike every system call that changes something in every way, not a sample of it.
        #[arg(long)]
        all: bool,
        /// One JSON object a line: name, value, unit.
        #[arg(long)]
        json: bool,
    },
    /// Upgrades, changes modes, rolls back, drains, reboots, kills and takes over from the original while pods come and go, and counts what fails. Needs root.
    Soak {
        /// How many rounds of all of it, of about four minutes each.
        #[arg(long, default_value_t = 5)]
        rounds: u32,
    },
    /// Runs the sig-network specs of Kubernetes' own test suite in a lab with the product. Needs root.
    Conformance(crate::conformance::Arguments),
    /// Simulates controllers, agents, Azure and the API server on one virtual clock, with every fault that a seed brings.
    Sim(sim::SimArguments),
    /// Builds the Dockerfile on this machine, without a registry of images, and compares it with the image that the lab runs. Needs root.
    Image,
    /// Writes what is published: the plugins' archives, the operator's for this machine's architecture, their checksums, and an SPDX document of every
    /// locked crate. May need root, as what compiles
    /// for another architecture is installed.
    Dist {
        /// The folder; target/dist if none is given.
        #[arg(long)]
        output: Option<std::path::PathBuf>,
        /// The version in the files' names; the workspace's, with a v, if none is given.
        #[arg(long)]
        version: Option<String>,
        /// For what processors; all if none is named.
        #[arg(long, value_delimiter = ',')]
        architecture: Vec<Architecture>,
    },
    /// Writes the generated files: CRDs, the chart's schema, docs/fields.md, manifests/.
    Generate,
    /// The part of `bench` that runs in namespaces of its own.
    #[command(hide = true)]
    BenchInside {
        /// The folder of the plugins.
        bin: std::path::PathBuf,
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// The part of `bench scale` that runs in namespaces of its own.
    #[command(hide = true)]
    ScaleInside(crate::scale::InsideArguments),
    /// What a program that had labs becomes when it is interrupted.
    #[command(hide = true)]
    LabInterrupted,
    /// The lab's first process.
    #[command(hide = true)]
    LabInit(lab::InitArguments),
    /// Switches a node of the lab on.
    #[command(hide = true)]
    LabNode(lab::NodeArguments),
    /// A node's first process.
    #[command(hide = true)]
    LabNodeInit(lab::NodeArguments),
}

/// What there is on the command line.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// Parses the command line, does what it says, and maps the outcome to an exit code.
#[must_use]
pub fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            crate::lab::give_way();
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Demo { keep } => crate::demo::run(keep),
        Command::Test => crate::suite::run(),
        Command::Lab { command } => lab::run(command),
        Command::Bench { names, size, json } => crate::bench::run(&names, size, json),
        Command::ScaleInside(arguments) => crate::scale::inside(&arguments),
        Command::BenchInside { bin, json } => crate::bench::inside(&bin, json),
        Command::Sweep { names, all, json } => sweep::run(&names, all, json),
        Command::Soak { rounds } => soak(rounds),
        Command::Conformance(arguments) => crate::conformance::run(&arguments),
        Command::Sim(arguments) => sim::run(&arguments),
        Command::Image => crate::dist::image::run(),
        Command::Dist { output, version, architecture } => {
            let architectures = if architecture.is_empty() { Architecture::ALL.to_vec() } else { architecture };
            dist(&output.unwrap_or_else(crate::dist::default_folder), version.as_deref(), &architectures)
        }
        Command::Generate => generate::run(),
        Command::LabInterrupted => crate::lab::interrupted(),
        Command::LabInit(arguments) => match lab::init(&arguments)? {},
        Command::LabNode(arguments) => match lab::node(&arguments)? {},
        Command::LabNodeInit(arguments) => match lab::node_init(&arguments)? {},
    }
}

fn soak(rounds: u32) -> Result<()> {
    let mut tell = |line: &str| _ = writeln!(std::io::stdout(), "{line}");
    rolling::run(rounds, &mut tell)?;
    original::run(rounds, &mut tell)
}

fn dist(folder: &std::path::Path, version: Option<&str>, architectures: &[Architecture]) -> Result<()> {
    for path in crate::dist::run(folder, version, architectures, Some(crate::build::Operator::Shipped))? {
        writeln!(std::io::stdout(), "{}", path.display())?;
    }
    Ok(())
}
