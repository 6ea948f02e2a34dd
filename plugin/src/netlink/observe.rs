//! Questions to the kernel, and its answers as plain values.

#![expect(clippy::wildcard_enum_match_arm, reason = "the kernel tells, and may come to tell, much more than is asked for here")]

use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;
use netlink_packet_core::Parseable;
use netlink_packet_route::{
    AddressFamily,
    address::{AddressAttribute, AddressMessage},
    link::{AfSpecInet, AfSpecUnspec, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteScope, RouteType},
};

use super::{Address, Link, LinkBy, Mac, Neighbour, NetlinkError, Route, RouteKind, Scope};

pub(super) const GET_LINK: u16 = 18;
pub(super) const GET_ADDRESS: u16 = 22;
pub(super) const GET_ROUTE: u16 = 26;
pub(super) const GET_NEIGHBOUR: u16 = 30;

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

pub(super) fn route_to(address: Ipv4Addr) -> RouteMessage {
    let mut message = all_routes();
    message.header.destination_prefix_length = 32;
    // The entry that decides, so that a host's own route can be told from its subnet's.
    message.header.flags = RouteFlags::FibMatch;
    message.attributes.push(RouteAttribute::Destination(RouteAddress::Inet(address)));
    message
}

pub(super) fn all_routes() -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message
}

pub(super) fn all_addresses() -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message
}

pub(super) fn all_neighbours() -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Inet;
    message
}

pub(super) fn link(body: &[u8]) -> Result<Link, NetlinkError> {
    let message = LinkMessage::parse(body).map_err(|_| NetlinkError::Malformed("link"))?;
    let flags = message.header.flags;
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        alias: None,
        group: 0,
        kind: None,
        mac: None,
        mtu: 0,
        peer: None,
        controller: None,
        up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::LowerUp),
        proxy_arp: None,
    };
    for attribute in message.attributes {
        read_link_attribute(&mut link, attribute);
    }
    Ok(link)
}

fn read_link_attribute(link: &mut Link, attribute: LinkAttribute) {
    match attribute {
        LinkAttribute::IfName(name) => link.name = name,
        LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
        LinkAttribute::Group(group) => link.group = group,
        LinkAttribute::Mtu(mtu) => link.mtu = mtu,
        LinkAttribute::Address(bytes) => link.mac = mac(&bytes),
        LinkAttribute::Link(peer) => link.peer = Some(peer),
        LinkAttribute::Controller(index) => link.controller = Some(index),
        LinkAttribute::LinkInfo(infos) => {
            link.kind = infos.into_iter().find_map(|info| match info {
                LinkInfo::Kind(kind) => Some(kind.to_string()),
                _ => None,
            });
        }
        LinkAttribute::AfSpecUnspec(families) => {
            link.proxy_arp = families.into_iter().find_map(|family| match family {
                AfSpecUnspec::Inet(specs) => specs.into_iter().find_map(|spec| match spec {
                    AfSpecInet::DevConf(conf) => Some(conf.proxy_arp != 0),
                    _ => None,
                }),
                _ => None,
            });
        }
        _ => {}
    }
}

pub(super) fn route(body: &[u8]) -> Result<Route, NetlinkError> {
    let malformed = NetlinkError::Malformed("route");
    let Ok(message) = RouteMessage::parse(body) else { return Err(malformed) };
    let header = message.header;
    let mut destination = Ipv4Addr::UNSPECIFIED;
    let mut route = Route {
        destination: Ipv4Net::default(),
        kind: route_kind(header.kind),
        link: None,
        gateway: None,
        scope: scope(header.scope),
        metric: 0,
        table: u32::from(header.table),
    };
    for attribute in message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => destination = address,
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => route.gateway = Some(address),
            RouteAttribute::Oif(link) => route.link = Some(link),
            RouteAttribute::Priority(metric) => route.metric = metric,
            RouteAttribute::Table(table) => route.table = table,
            _ => {}
        }
    }
    route.destination = Ipv4Net::new(destination, header.destination_prefix_length).map_err(|_| malformed)?;
    Ok(route)
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
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
        _ => None,
    });
    Ok(local.map(|address| Address { link: message.header.index, address, prefix_len: message.header.prefix_len }))
}

pub(super) fn neighbour(body: &[u8]) -> Result<Option<Neighbour>, NetlinkError> {
    let message = NeighbourMessage::parse(body).map_err(|_| NetlinkError::Malformed("neighbour"))?;
    let (mut destination, mut lladdr) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => destination = Some(*address),
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
