//! Links, addresses, routes and neighbours of one network namespace, over one blocking `NETLINK_ROUTE` socket.
//! IPv4 only, and nothing here decides: it carries out [`Change`]s and answers questions with plain values.

mod change;
mod observe;
mod socket;

use std::net::Ipv4Addr;

pub use azure_vnet_plugin_core::wiring::Mac;
use ipnet::Ipv4Net;
pub use rustix::io::Errno;

pub use self::{
    change::{Change, Peer, Veth},
    socket::{Netlink, NetlinkError, Reply, Request},
};

/// A link's number in its namespace.
pub type LinkIndex = u32;

/// How a link is named in a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkBy<'a> {
    /// By its number.
    Index(LinkIndex),
    /// By its name.
    Name(&'a str),
}

/// A link as the kernel shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub index: LinkIndex,
    /// Its name.
    pub name: String,
    /// What was written to it, if anything.
    pub alias: Option<String>,
    /// Device group; 0 unless someone set one.
    pub group: u32,
    /// `veth`, `dummy`, …; none for physical ones.
    pub kind: Option<String>,
    /// Hardware address, where it is one of six bytes.
    pub mac: Option<Mac>,
    /// Largest packet.
    pub mtu: u32,
    /// The other end of a pair, in whichever namespace that is.
    pub peer: Option<LinkIndex>,
    /// Bridge or bond that it belongs to.
    pub controller: Option<LinkIndex>,
    /// Set up by the administrator (`IFF_UP`).
    pub up: bool,
    /// Has a carrier (`IFF_LOWER_UP`); a veth has none while its peer is down.
    pub carrier: bool,
    /// Whether it answers ARP for others, where the kernel told.
    pub proxy_arp: Option<bool>,
}

/// What a route does with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteKind {
    /// Sends it on.
    Unicast,
    /// Delivers it here.
    Local,
    /// Refuses it with `EHOSTUNREACH`.
    Unreachable,
    /// Another of the kernel's kinds, by number.
    Other(u8),
}

/// How far a route's destination is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Anywhere.
    Universe,
    /// On the link.
    Link,
    /// This host.
    Host,
}

/// The routing table that a command without a table means.
pub const MAIN_TABLE: u32 = 254;

/// A route of IPv4.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// Where to.
    pub destination: Ipv4Net,
    /// What it does.
    pub kind: RouteKind,
    /// Through which link.
    pub link: Option<LinkIndex>,
    /// Through which neighbour.
    pub gateway: Option<Ipv4Addr>,
    /// How far.
    pub scope: Scope,
    /// Lower wins.
    pub metric: u32,
    /// Routing table.
    pub table: u32,
}

impl Route {
    /// `<destination> dev <link> scope link`.
    #[must_use]
    pub fn on_link(destination: Ipv4Net, link: LinkIndex) -> Self {
        Self { destination, kind: RouteKind::Unicast, link: Some(link), gateway: None, scope: Scope::Link, metric: 0, table: MAIN_TABLE }
    }

    /// `default via <gateway> dev <link>`.
    #[must_use]
    pub fn default_via(gateway: Ipv4Addr, link: LinkIndex) -> Self {
        Self { gateway: Some(gateway), scope: Scope::Universe, ..Self::on_link(Ipv4Net::default(), link) }
    }

    /// `unreachable <address>/32 metric <metric>`: what a pool address has while no pod has it (safety rule PK1).
    #[must_use]
    pub fn unreachable(address: Ipv4Addr, metric: u32) -> Self {
        Self {
            destination: Ipv4Net::from(address),
            kind: RouteKind::Unreachable,
            link: None,
            gateway: None,
            scope: Scope::Universe,
            metric,
            table: MAIN_TABLE,
        }
    }
}

/// Where the kernel would send a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// By this entry of its tables.
    Route(Route),
    /// Nowhere: no route, or one that refuses.
    Nowhere,
}

/// An address of IPv4 on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// The link.
    pub link: LinkIndex,
    /// The address.
    pub address: Ipv4Addr,
    /// Length of its prefix.
    pub prefix_len: u8,
}

/// An entry of the neighbour table of IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Neighbour {
    /// The link.
    pub link: LinkIndex,
    /// The neighbour.
    pub address: Ipv4Addr,
    /// Its hardware address, where known.
    pub mac: Option<Mac>,
    /// Whether it was entered for good.
    pub permanent: bool,
}
