//! `cargo xtask lab`.

use std::convert::Infallible;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};

use crate::lab::{self, Lab, LabOptions, plan};

/// What can be done with a lab.
#[derive(Debug, Subcommand)]
pub enum LabCommand {
    /// Brings a lab up and leaves it up.
    Up(LabOptions),
    /// Takes the lab down.
    Down,
    /// Says what is up.
    Status,
    /// Runs kubectl against the lab.
    #[command(trailing_var_arg = true, disable_help_flag = true)]
    Kubectl {
        /// What kubectl is to do.
        #[arg(allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Runs helm against the lab.
    #[command(trailing_var_arg = true, disable_help_flag = true)]
    Helm {
        /// What helm is to do.
        #[arg(allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Opens a shell in a node.
    Shell {
        /// The node: n1, n2 and so on.
        node: String,
    },
    /// Runs a program in a node.
    #[command(trailing_var_arg = true)]
    Exec {
        /// The node: n1, n2 and so on.
        node: String,
        /// The program and its arguments.
        #[arg(allow_hyphen_values = true, required = true)]
        program: Vec<String>,
    },
    /// Powers a node off and on again.
    Reboot {
        /// The node: n1, n2 and so on.
        node: String,
    },
}

/// Arguments of the lab's first process.
#[derive(Debug, Args)]
pub struct InitArguments {
    /// The lab's folder.
    state: PathBuf,
}

/// Arguments of the processes that make a node.
#[derive(Debug, Args)]
pub struct NodeArguments {
    /// The lab's folder.
    state: PathBuf,
    /// The node.
    node: String,
}

/// Does what the command line says.
///
/// # Errors
/// If there is no lab, or the program it runs fails.
pub fn run(command: LabCommand) -> Result<()> {
    match command {
        LabCommand::Up(options) => up(options),
        LabCommand::Down => found()?.down(),
        LabCommand::Status => status(),
        LabCommand::Kubectl { arguments } => become_program(found()?.client("kubectl").args(arguments)),
        LabCommand::Helm { arguments } => become_program(found()?.client("helm").args(arguments)),
        LabCommand::Shell { node } => become_program(enter(&node)?.arg("/bin/bash")),
        LabCommand::Exec { node, program } => become_program(enter(&node)?.args(program)),
        LabCommand::Reboot { node } => found()?.reboot(&node),
    }
}

fn up(options: LabOptions) -> Result<()> {
    if Lab::find()?.is_some() {
        bail!("a lab is up already: `cargo xtask lab down` ends it");
    }
    let lab = Lab::up(&LabOptions { detached: true, ..options })?;
    writeln!(std::io::stdout(), "up; its folder, with logs: {}\ntry `cargo xtask lab kubectl get nodes`", lab.folder().display())?;
    Ok(())
}

fn status() -> Result<()> {
    let mut out = std::io::stdout();
    match Lab::find()? {
        None => writeln!(out, "no lab is up")?,
        Some(lab) => writeln!(out, "{}\n{}", lab.folder().display(), lab.kubectl(&["get", "nodes", "-o", "wide"])?)?,
    }
    Ok(())
}

fn found() -> Result<Lab> {
    Lab::find()?.context("no lab is up: `cargo xtask lab up` or `cargo xtask demo --keep` start one")
}

fn enter(node: &str) -> Result<Command> {
    found()?.node(node).with_context(|| format!("no node is called {node}"))?.enter()
}

fn become_program(command: &mut Command) -> Result<()> {
    Err(command.exec()).with_context(|| format!("cannot run {command:?}"))
}

/// Runs the lab's first process.
///
/// # Errors
/// If a part of the lab cannot be started.
pub fn init(arguments: &InitArguments) -> Result<Infallible> {
    lab::lab_init(&arguments.state)
}

/// Switches a node on.
///
/// # Errors
/// If it cannot be started, or goes off.
pub fn node(arguments: &NodeArguments) -> Result<Infallible> {
    let options = LabOptions::load(&arguments.state)?;
    lab::node_up(&arguments.state, &machine(&options, &arguments.node)?, &options)
}

/// Becomes a node's first process.
///
/// # Errors
/// If the node cannot be made.
pub fn node_init(arguments: &NodeArguments) -> Result<Infallible> {
    let options = LabOptions::load(&arguments.state)?;
    lab::node_init(&arguments.state, &machine(&options, &arguments.node)?, &options)
}

fn machine(options: &LabOptions, name: &str) -> Result<plan::Machine> {
    plan::machines(options.nodes).into_iter().find(|machine| machine.name == name).with_context(|| format!("no node is called {name}"))
}
