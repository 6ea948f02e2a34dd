//! Links, addresses, routes and neighbours of one network namespace, over one blocking `NETLINK_ROUTE` socket.
//! Nothing here decides: it carries out [`Change`]s and answers questions with plain values.

mod change;
mod encode;
mod numbers;
mod observe;
pub(crate) mod socket;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr};

use azure_vnet_plugin_core::wiring;
pub use azure_vnet_plugin_core::wiring::Mac;
use ipnet::{IpNet, Ipv4Net};
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
    /// Whether, as a port of a bridge, it sends frames back where they came from.
    pub hairpin: bool,
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

/// Which of the internet's protocols a table is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// That of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// The routing table that a command without a table means.
pub const MAIN_TABLE: u32 = 254;

/// A route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// Where to.
    pub destination: IpNet,
    /// What it does.
    pub kind: RouteKind,
    /// Through which link.
    pub link: Option<LinkIndex>,
    /// Through which neighbour.
    pub gateway: Option<IpAddr>,
    /// How far.
    pub scope: Scope,
    /// Lower wins.
    pub metric: u32,
    /// Routing table.
    pub table: u32,
    /// Who made it, by the kernel's numbers.
    pub protocol: u8,
}

/// `RTPROT_BOOT`: a route's maker where nothing else is said, as of `ip route`.
pub const PROTOCOL_BOOT: u8 = 3;

impl Route {
    /// `<destination> dev <link> scope link`.
    #[must_use]
    pub fn on_link(destination: impl Into<IpNet>, link: LinkIndex) -> Self {
        let destination = destination.into();
        Self {
            destination,
            kind: RouteKind::Unicast,
            link: Some(link),
            gateway: None,
            scope: Scope::Link,
            metric: 0,
            table: MAIN_TABLE,
            protocol: PROTOCOL_BOOT,
        }
    }

    /// `default via <gateway> dev <link>`.
    #[must_use]
    pub fn default_via(gateway: impl Into<IpAddr>, link: LinkIndex) -> Self {
        let gateway = gateway.into();
        Self { gateway: Some(gateway), scope: Scope::Universe, ..Self::on_link(wiring::everywhere(gateway), link) }
    }

    /// `unreachable <address>/32 metric <metric> proto 97`: what a pool address has while no pod has it (safety rule PK1).
    #[must_use]
    pub fn unreachable(address: Ipv4Addr, metric: u32) -> Self {
        Self {
            destination: Ipv4Net::from(address).into(),
            kind: RouteKind::Unreachable,
            link: None,
            gateway: None,
            scope: Scope::Universe,
            metric,
            table: MAIN_TABLE,
            protocol: wiring::UNREACHABLE_PROTOCOL,
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

/// An address on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// The link.
    pub link: LinkIndex,
    /// The address.
    pub address: IpAddr,
    /// Length of its prefix.
    pub prefix_len: u8,
}

/// An entry of the neighbour table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Neighbour {
    /// The link.
    pub link: LinkIndex,
    /// The neighbour.
    pub address: IpAddr,
    /// Its hardware address, where known.
    pub mac: Option<Mac>,
    /// Whether it was entered for good.
    pub permanent: bool,
}

/// Whether a message tells of anything.
#[cfg(test)]
pub(crate) fn read(message: &socket::Message<'_>) -> bool {
    let body = message.body;
    let of_tables = [observe::address(body).is_ok(), observe::route(body).is_ok(), observe::neighbour(body).is_ok()];
    let of_moves = [observe::movable_address(body).is_ok(), observe::movable_route(body).is_ok()];
    observe::link(body).is_ok() || of_tables.contains(&true) || of_moves.contains(&true)
}
