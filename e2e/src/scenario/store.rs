//! A node's store of leases, read from outside.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, anyhow};
use azure_vnet_plugin::store::Store;
use azure_vnet_plugin_core::lease::Entry;

use crate::lab::Node;

/// Every address of the store and what holds it.
///
/// # Errors
/// If the node is off or has no store.
pub fn entries(node: &Node) -> Result<Vec<(Ipv4Addr, Entry)>> {
    let folder = node.host_path("/run/azure-vnet").context("the node is off")?;
    let boot_id = node.host_path("/proc/sys/kernel/random/boot_id").context("the node is off")?;
    let boot = std::fs::read_to_string(boot_id)?.parse().map_err(|_| anyhow!("the node's boot id cannot be read"))?;
    Ok(Store::at(&folder, boot).list()?)
}
