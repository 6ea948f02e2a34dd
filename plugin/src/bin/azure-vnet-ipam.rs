//! `azure-vnet-ipam`: leases addresses of the node's pool.

use std::process::ExitCode;

use azure_vnet_plugin::command::{self, Paths};
use azure_vnet_plugin_core::conf::Role;

fn main() -> ExitCode {
    command::main(Role::Ipam, &Paths::of_node(Role::Ipam))
}
