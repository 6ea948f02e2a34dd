//! Who has which address, by the namespaces themselves: where the store is made anew, they are the only witnesses of containers that
//! `azure-vnet-ipam` served under another interface plugin, and they tell where our own pods live. A witness that cannot be heard has not
//! said that it knows nothing (safety rules ST3 and CM4).

use std::{
    collections::BTreeMap,
    fs, io,
    net::{IpAddr, Ipv4Addr},
};

use azure_vnet_plugin_core::attachment::NetnsPath;

use crate::{
    netlink::{Address, Family, NetlinkError},
    netns::{Netns, NetnsError},
};

/// Where runtimes pin the namespaces of their containers.
const FOLDERS: [&str; 2] = ["/run/netns", "/var/run/docker/netns"];

/// Why it is not known who has which address.
#[derive(Debug, thiserror::Error)]
pub enum NamespacesError {
    /// The folder cannot be read.
    #[error("cannot list the namespaces in {folder}")]
    Folder {
        /// It.
        folder: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// One cannot be entered, or not be left.
    #[error(transparent)]
    Netns(NetnsError),
    /// The kernel does not tell the addresses in one.
    #[error("cannot read the addresses in the namespace at {path}")]
    Addresses {
        /// Its path.
        path: NetnsPath,
        /// Why.
        #[source]
        source: NetlinkError,
    },
}

/// The addresses inside all namespaces, and which they are in.
///
/// # Errors
/// One cannot be looked into: any address may be in it.
pub fn namespaces() -> Result<BTreeMap<Ipv4Addr, NetnsPath>, NamespacesError> {
    let mut found = BTreeMap::new();
    for folder in FOLDERS {
        for path in paths(folder).map_err(|source| NamespacesError::Folder { folder, source })? {
            found.extend(inside(&path)?.into_iter().map(|address| (address, path.clone())));
        }
    }
    Ok(found)
}

/// What has no path that can be written in a configuration is no namespace that these plugins were called for.
fn paths(folder: &str) -> io::Result<Vec<NetnsPath>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        paths.extend(entry?.path().into_os_string().into_string().ok().and_then(|path| path.parse().ok()));
    }
    Ok(paths)
}

/// None in what is no namespace, or gone, or the host's own.
fn inside(path: &NetnsPath) -> Result<Vec<Ipv4Addr>, NamespacesError> {
    let mut netlink = match Netns::open(path.as_str()).and_then(|netns| netns.netlink()) {
        Err(NetnsError::Gone { .. } | NetnsError::NotOne { .. } | NetnsError::Own { .. }) => return Ok(Vec::new()),
        netlink => netlink.map_err(NamespacesError::Netns)?,
    };
    let addresses = netlink.addresses(Family::V4).map_err(|source| NamespacesError::Addresses { path: path.clone(), source })?;
    let v4 = |address: Address| if let IpAddr::V4(address) = address.address { Some(address) } else { None };
    Ok(addresses.into_iter().filter_map(v4).collect())
}
