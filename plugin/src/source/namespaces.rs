//! Who has which address, by the namespaces themselves: where the store is made anew, they are the only witnesses of containers that
//! `azure-vnet-ipam` served under another interface plugin, and they tell where our own pods live.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr},
};

use azure_vnet_plugin_core::attachment::NetnsPath;

use crate::{
    netlink::{Address, Family},
    netns::Netns,
};

/// Where runtimes pin the namespaces of their containers.
const FOLDERS: [&str; 2] = ["/run/netns", "/var/run/docker/netns"];

/// The addresses inside all namespaces that can be entered, and which they are in.
#[must_use]
pub fn namespaces() -> BTreeMap<Ipv4Addr, NetnsPath> {
    let entries = FOLDERS.iter().flat_map(|folder| fs::read_dir(folder).into_iter().flatten());
    let paths = entries.filter_map(|entry| entry.ok()?.path().into_os_string().into_string().ok()?.parse::<NetnsPath>().ok());
    paths
        .filter_map(|path| Some((inside(&path)?, path)))
        .flat_map(|(addresses, path)| addresses.into_iter().map(move |at| (at, path.clone())))
        .collect()
}

/// None for what is no namespace, or gone.
fn inside(path: &NetnsPath) -> Option<Vec<Ipv4Addr>> {
    let addresses = Netns::open(path.as_str()).ok()?.netlink().ok()?.addresses(Family::V4).ok()?;
    let v4 = |address: Address| if let IpAddr::V4(address) = address.address { Some(address) } else { None };
    Some(addresses.into_iter().filter_map(v4).collect())
}
