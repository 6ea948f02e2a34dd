//! `azure-vnet`: attaches containers to the VNET.

use std::process::ExitCode;

use azure_vnet_plugin::command::{self, Paths};
use azure_vnet_plugin_core::conf::Role;

fn main() -> ExitCode {
    command::main(Role::Network, &Paths::of_node(Role::Network))
}
