//! `azure-vnet-operator`: parses, builds the world, runs one part of the operator, and says how it ended.

use std::process::ExitCode;

use azure_vnet_operator::cli::{self, Cli};
use clap::Parser;

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Err(error) = cli.log.install() {
        return failed(&error);
    }
    // Two TLS libraries in one process must agree on their cryptography; nobody else may choose.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        return failed(&anyhow::anyhow!("another cryptography provider is installed already"));
    }
    match cli::run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn failed(error: &anyhow::Error) -> ExitCode {
    tracing::error!("{error:#}");
    ExitCode::FAILURE
}
