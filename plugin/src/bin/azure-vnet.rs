//! `azure-vnet`: attaches containers to the VNET.

use std::process::ExitCode;

use azure_vnet_plugin::command::{self, Paths};
use azure_vnet_plugin_core::conf::Role;
use dlmalloc::GlobalDlmalloc;

/// Takes memory from the kernel in few pieces: musl's own allocator maps and unmaps pages all through a run of a millisecond.
#[global_allocator]
static ALLOCATOR: GlobalDlmalloc = GlobalDlmalloc;

fn main() -> ExitCode {
    command::main(Role::Network, &Paths::of_node(Role::Network))
}
