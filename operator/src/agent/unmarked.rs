//! Unreachable routes of versions that did not mark theirs: which of those that look alike are ours (safety rule PK1).
//!
//! In the kernel nothing tells them from what somebody typed. What does is where they lead: to addresses that this node's pool had.

use std::{collections::BTreeSet, fs, io, net::Ipv4Addr};

use azure_vnet_plugin::store::{FileError, Store};
use ipnet::Ipv4Net;

use super::memory::Memory;

/// In the node store's folder: it ends with the boot, as the routes do.
const NOTE: &str = "routes-marked";

/// The addresses to which an earlier version may have refused packets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Former {
    /// Of the pool last adopted.
    remembered: BTreeSet<Ipv4Addr>,
    /// The subnet of the pool that this boot has, as long as no version has marked its routes in it: what earlier revisions listed, nobody
    /// remembers.
    subnet: Option<Ipv4Net>,
}

impl Former {
    /// Looks at what is written down. A store that no agent has used in this boot has no such routes.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn find(memory: Option<&Memory>, store: Option<&Store>) -> Result<Self, FileError> {
        let unmarked = store.filter(|store| !store.folder().join(NOTE).exists());
        let pool = unmarked.map(Store::placed).transpose()?.flatten();
        Ok(Self { remembered: memory.map(Memory::addresses).unwrap_or_default(), subnet: pool.map(|pool| pool.prefix.trunc()) })
    }

    /// Whether an address is one of them.
    #[must_use]
    pub fn has(&self, address: Ipv4Addr) -> bool {
        self.remembered.contains(&address) || self.subnet.is_some_and(|subnet| subnet.contains(&address))
    }
}

/// Notes that routes of this boot are marked from here on: what looks like an earlier version's and leads to no address of the pool is another's.
///
/// # Errors
/// The file cannot be made.
pub fn note_marked(store: &Store) -> io::Result<()> {
    fs::write(store.folder().join(NOTE), "")
}
