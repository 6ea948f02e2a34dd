//! Questions to the kernel, and its answers as plain values.

#![expect(clippy::wildcard_enum_match_arm, reason = "the kernel tells, and may come to tell, much more than is asked for here")]

use std::net::IpAddr;

use azure_vnet_plugin_core::bridge::Movable;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netlink_packet_core::Parseable;
use netlink_packet_route::{
    AddressFamily,
    address::{AddressAttribute, AddressMessage, AddressScope},
    link::{LinkAttribute, LinkExtentMask, LinkMessage},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteScope, RouteType},
};

use super::{Address, Family, Link, LinkBy, Mac, Neighbour, NetlinkError, Route, RouteKind, Scope, socket::attributes};

pub(super) const GET_LINK: u16 = 18;
pub(super) const GET_ADDRESS: u16 = 22;
pub(super) const GET_ROUTE: u16 = 26;
pub(super) const GET_NEIGHBOUR: u16 = 30;

/// The table of what is delivered here, which follows from the addresses.
const LOCAL_TABLE: u32 = 255;

pub(super) fn one_link(by: LinkBy<'_>) -> LinkMessage {
    let mut message = all_links();
    match by {
        LinkBy::Index(index) => message.header.index = index,
        LinkBy::Name(name) => message.attributes.push(LinkAttribute::IfName(name.to_owned())),
    }
    message
}

pub(super) fn all_links() -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    message
}

pub(super) fn route_to(address: IpAddr) -> RouteMessage {
    let mut message = all_routes(Family::of(address));
    message.header.destination_prefix_length = if address.is_ipv4() { 32 } else { 128 };
    // The entry that decides, so that a host's own route can be told from its subnet's.
    message.header.flags = RouteFlags::FibMatch;
    message.attributes.push(RouteAttribute::Destination(match address {
        IpAddr::V4(address) => RouteAddress::Inet(address),
        IpAddr::V6(address) => RouteAddress::Inet6(address),
    }));
    message
}

pub(super) fn all_routes(family: Family) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = number(family);
    message
}

pub(super) fn all_addresses(family: Family) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = number(family);
    message
}

pub(super) fn all_neighbours(family: Family) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = number(family);
    message
}

/// The family of an address, as the kernel numbers it.
pub(super) fn family(address: IpAddr) -> AddressFamily {
    number(Family::of(address))
}

fn number(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}

/// What is used of the kernel's description of a link, which is of a hundred facts.
pub(super) fn link(body: &[u8]) -> Result<Link, NetlinkError> {
    const UP: u32 = 0x1;
    const LOWER_UP: u32 = 0x1_0000;
    let malformed = NetlinkError::Malformed("link");
    let Some((&[_, _, _, _, i0, i1, i2, i3, f0, f1, f2, f3, _, _, _, _], facts)) = body.split_first_chunk::<16>() else {
        return Err(malformed);
    };
    let flags = u32::from_ne_bytes([f0, f1, f2, f3]);
    let mut link = Link {
        index: u32::from_ne_bytes([i0, i1, i2, i3]),
        name: String::new(),
        alias: None,
        group: 0,
        kind: None,
        mac: None,
        mtu: 0,
        peer: None,
        controller: None,
        hairpin: false,
        up: flags & UP != 0,
        carrier: flags & LOWER_UP != 0,
        proxy_arp: None,
    };
    for (kind, value) in attributes(facts) {
        match kind {
            1 => link.mac = mac(value),
            3 => link.name = text(value),
            4 => link.mtu = number_in(value).unwrap_or_default(),
            5 => link.peer = number_in(value),
            10 => link.controller = number_in(value),
            18 => read_kind(&mut link, value),
            20 => link.alias = Some(text(value)),
            26 => link.proxy_arp = proxy_arp(value),
            27 => link.group = number_in(value).unwrap_or_default(),
            _ => {}
        }
    }
    Ok(link)
}

/// `IFLA_LINKINFO`: what kind of link it is, and as a port of what.
fn read_kind(link: &mut Link, facts: &[u8]) {
    const KIND: u16 = 1;
    const PORT_KIND: u16 = 4;
    const PORT_FACTS: u16 = 5;
    const HAIRPIN: u16 = 4;
    let mut of_bridge = false;
    for (kind, value) in attributes(facts) {
        match kind {
            KIND => link.kind = Some(text(value)),
            PORT_KIND => of_bridge = text(value) == "bridge",
            PORT_FACTS if of_bridge => link.hairpin = attributes(value).any(|(kind, value)| kind == HAIRPIN && value == [1]),
            _ => {}
        }
    }
}

/// `IFLA_AF_SPEC`, of IPv4 `IFLA_INET_CONF`: the switches, of which the third is this.
fn proxy_arp(families: &[u8]) -> Option<bool> {
    const V4: u16 = 2;
    const SWITCHES: u16 = 1;
    let (_, facts) = attributes(families).find(|(family, _)| *family == V4)?;
    let (_, switches) = attributes(facts).find(|(kind, _)| *kind == SWITCHES)?;
    number_in(switches.get(8..)?).map(|switch| switch != 0)
}

fn number_in(value: &[u8]) -> Option<u32> {
    value.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned()
}

pub(super) fn route(body: &[u8]) -> Result<Route, NetlinkError> {
    let malformed = NetlinkError::Malformed("route");
    let Ok(message) = RouteMessage::parse(body) else { return Err(malformed) };
    let header = message.header;
    let everywhere = match header.address_family {
        AddressFamily::Inet6 => IpNet::V6(Ipv6Net::default()),
        _ => IpNet::V4(Ipv4Net::default()),
    };
    let mut destination = everywhere.addr();
    let mut route = Route {
        destination: everywhere,
        kind: route_kind(header.kind),
        link: None,
        gateway: None,
        scope: scope(header.scope),
        metric: 0,
        table: u32::from(header.table),
        protocol: header.protocol.into(),
    };
    for attribute in message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = plain(&address).unwrap_or(destination),
            RouteAttribute::Gateway(address) => route.gateway = plain(&address),
            RouteAttribute::Oif(link) => route.link = Some(link),
            RouteAttribute::Priority(metric) => route.metric = metric,
            RouteAttribute::Table(table) => route.table = table,
            _ => {}
        }
    }
    route.destination = IpNet::new(destination, header.destination_prefix_length).map_err(|_| malformed)?;
    Ok(route)
}

fn plain(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

fn route_kind(kind: RouteType) -> RouteKind {
    match kind {
        RouteType::Unicast => RouteKind::Unicast,
        RouteType::Local => RouteKind::Local,
        RouteType::Unreachable => RouteKind::Unreachable,
        other => RouteKind::Other(other.into()),
    }
}

fn scope(scope: RouteScope) -> Scope {
    match scope {
        RouteScope::Link => Scope::Link,
        RouteScope::Host => Scope::Host,
        _ => Scope::Universe,
    }
}

pub(super) fn address(body: &[u8]) -> Result<Option<Address>, NetlinkError> {
    let message = AddressMessage::parse(body).map_err(|_| NetlinkError::Malformed("address"))?;
    let (mut local, mut address) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(own) => local = Some(*own),
            AddressAttribute::Address(of_link) => address = Some(*of_link),
            _ => {}
        }
    }
    // Without a far end, IPv6 tells the link's own address only as this.
    Ok(local.or(address).map(|address| Address { link: message.header.index, address, prefix_len: message.header.prefix_len }))
}

/// An address that others can reach, to be moved to another link as it is.
pub(super) fn movable_address(body: &[u8]) -> Result<Option<Movable>, NetlinkError> {
    let message = AddressMessage::parse(body).map_err(|_| NetlinkError::Malformed("address"))?;
    let reachable = match message.header.family {
        AddressFamily::Inet => message.header.scope != AddressScope::Host,
        _ => message.header.scope == AddressScope::Universe,
    };
    let Some(address) = address(body)?.filter(|_| reachable) else { return Ok(None) };
    let network = IpNet::new(address.address, address.prefix_len).map_err(|_| NetlinkError::Malformed("address"))?;
    Ok(Some(Movable { link: address.link, network, has_gateway: false, words: body.to_vec() }))
}

/// A route that no address brought and no local table has, to be led through another link as it is.
pub(super) fn movable_route(body: &[u8]) -> Result<Option<Movable>, NetlinkError> {
    let message = RouteMessage::parse(body).map_err(|_| NetlinkError::Malformed("route"))?;
    let route = route(body)?;
    let movable = message.header.protocol != RouteProtocol::Kernel && route.kind == RouteKind::Unicast && route.table != LOCAL_TABLE;
    let Some(link) = route.link.filter(|_| movable) else { return Ok(None) };
    let has_gateway = message.attributes.iter().any(|attribute| matches!(attribute, RouteAttribute::Gateway(_) | RouteAttribute::Via(_)));
    Ok(Some(Movable { link, network: route.destination, has_gateway, words: body.to_vec() }))
}

pub(super) fn neighbour(body: &[u8]) -> Result<Option<Neighbour>, NetlinkError> {
    let message = NeighbourMessage::parse(body).map_err(|_| NetlinkError::Malformed("neighbour"))?;
    let (mut destination, mut lladdr) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => destination = Some((*address).into()),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => destination = Some((*address).into()),
            NeighbourAttribute::LinkLayerAddress(bytes) => lladdr = mac(bytes),
            _ => {}
        }
    }
    let permanent = message.header.state == NeighbourState::Permanent;
    Ok(destination.map(|address| Neighbour { link: message.header.ifindex, address, mac: lladdr, permanent }))
}

fn mac(bytes: &[u8]) -> Option<Mac> {
    bytes.try_into().ok().map(Mac)
}
