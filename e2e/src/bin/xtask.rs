//! `cargo xtask`: everything that is done with this repository, by one program.

use std::process::ExitCode;

fn main() -> ExitCode {
    azure_vnet_e2e::commands::main()
}
