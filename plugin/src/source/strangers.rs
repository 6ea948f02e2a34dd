//! Addresses of containers whose links say nothing: those that `azure-vnet-ipam` served under another interface plugin. When the store is made
//! anew, their namespaces are the only witnesses.

use std::{collections::BTreeSet, fs, net::Ipv4Addr, path::PathBuf};

use crate::netns::Netns;

/// Where runtimes pin the namespaces of their containers.
const FOLDERS: [&str; 2] = ["/run/netns", "/var/run/docker/netns"];

/// The addresses inside all namespaces that can be entered.
#[must_use]
pub fn addresses() -> BTreeSet<Ipv4Addr> {
    let paths = FOLDERS.iter().flat_map(|folder| fs::read_dir(folder).into_iter().flatten()).filter_map(|entry| Some(entry.ok()?.path()));
    paths.filter_map(inside).flatten().collect()
}

/// None for what is no namespace, or gone.
fn inside(path: PathBuf) -> Option<Vec<Ipv4Addr>> {
    let addresses = Netns::open(&path.into_os_string().into_string().ok()?).ok()?.netlink().ok()?.addresses().ok()?;
    Some(addresses.into_iter().map(|address| address.address).collect())
}
