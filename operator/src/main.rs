//! `azure-vnet-operator`: parses, builds the world, runs one part of the operator, and says how it ended. Called `kubectl-azure_vnet`, it is
//! kubectl's plugin.

use std::{io::Write as _, path::Path, process::ExitCode};

use azure_vnet_operator::{
    cli::{self, Cli, Command},
    tool,
};
use clap::Parser;

fn main() -> ExitCode {
    // Two TLS libraries in one process must agree on their cryptography; nobody else may choose.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        return told(&anyhow::anyhow!("another cryptography provider is installed already"));
    }
    let called = std::env::args_os().next().unwrap_or_default();
    if Path::new(&called).file_stem().is_some_and(|name| name == tool::PLUGIN) {
        return ended(tool::run(tool::Cli::parse().command), told);
    }
    let cli = Cli::parse();
    if let Command::Node(_) | Command::Cluster(_) | Command::Probe(_) = cli.command {
        return ended(cli::run(cli.command), told);
    }
    if let Err(error) = cli.log.install() {
        return told(&error);
    }
    ended(cli::run(cli.command), logged)
}

fn ended(result: anyhow::Result<()>, failed: fn(&anyhow::Error) -> ExitCode) -> ExitCode {
    result.map_or_else(|error| failed(&error), |()| ExitCode::SUCCESS)
}

fn logged(error: &anyhow::Error) -> ExitCode {
    tracing::error!("{error:#}");
    ExitCode::FAILURE
}

/// To a person at a terminal.
fn told(error: &anyhow::Error) -> ExitCode {
    let _nobody_reads = writeln!(std::io::stderr(), "error: {error:#}");
    ExitCode::from(tool::exit_code(error))
}
