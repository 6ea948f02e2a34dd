//! Questions to the kernel, and its answers as plain values.

use std::net::IpAddr;

use azure_vnet_plugin_core::bridge::Movable;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{
    Address, Family, Link, LinkBy, Mac, Neighbour, NetlinkError, Route, RouteKind, Scope,
    encode::{self, Messages},
    numbers::{
        ADDRESS_ADDRESS, ADDRESS_LOCAL, GET_ADDRESS, GET_LINK, GET_NEIGHBOUR, GET_ROUTE, IF_ALIAS, IF_CONTROLLER, IF_FAMILIES, IF_GROUP,
        IF_INFO, IF_MAC, IF_MTU, IF_NAME, IF_PEER, IF_WANTED, INFO_KIND, INFO_PORT_DATA, INFO_PORT_KIND, NEIGHBOUR_ADDRESS, NEIGHBOUR_MAC,
        NEIGHBOUR_PERMANENT, PORT_HAIRPIN, PROXY_ARP, ROUTE_CLONED, ROUTE_DESTINATION, ROUTE_GATEWAY, ROUTE_LINK, ROUTE_MATCH,
        ROUTE_METRIC, ROUTE_OF_KERNEL, ROUTE_TABLE, ROUTE_VIA, V4_SWITCHES,
    },
    socket::{are_whole, attributes},
};

/// The table of what is delivered here, which follows from the addresses.
const LOCAL_TABLE: u32 = 255;
/// `RTEXT_FILTER_SKIP_STATS`
const WITHOUT_STATISTICS: u32 = 8;

pub(super) fn ask_link(out: &mut Messages, by: LinkBy<'_>) -> Result<(), NetlinkError> {
    let (index, name) = match by {
        LinkBy::Index(index) => (index, None),
        LinkBy::Name(name) => (0, Some(name)),
    };
    out.push(GET_LINK, 0, &encode::link(index), |link| {
        link.number(IF_WANTED, WITHOUT_STATISTICS);
        if let Some(name) = name {
            link.text(IF_NAME, name);
        }
    })
}

pub(super) fn ask_links(out: &mut Messages, how: u16) -> Result<(), NetlinkError> {
    out.push(GET_LINK, how, &encode::link(0), |links| links.number(IF_WANTED, WITHOUT_STATISTICS))
}

/// Asks for the entry that decides, so that a host's own route can be told from its subnet's.
pub(super) fn ask_route_to(out: &mut Messages, address: IpAddr) -> Result<(), NetlinkError> {
    let first = [encode::number(Family::of(address)), if address.is_ipv4() { 32 } else { 128 }, 0, 0];
    out.push(GET_ROUTE, 0, &[first, [0; 4], ROUTE_MATCH.to_ne_bytes()], |route| route.address(ROUTE_DESTINATION, address))
}

pub(super) fn ask_routes(out: &mut Messages, how: u16, family: Family) -> Result<(), NetlinkError> {
    out.push(GET_ROUTE, how, &encode::all_of::<3>(family), |_| {})
}

pub(super) fn ask_addresses(out: &mut Messages, how: u16, family: Family) -> Result<(), NetlinkError> {
    out.push(GET_ADDRESS, how, &encode::all_of::<2>(family), |_| {})
}

pub(super) fn ask_neighbours(out: &mut Messages, how: u16, family: Family) -> Result<(), NetlinkError> {
    out.push(GET_NEIGHBOUR, how, &encode::all_of::<3>(family), |_| {})
}

/// What is used of the kernel's description of a link, which is of a hundred facts.
pub(super) fn link(body: &[u8]) -> Result<Link, NetlinkError> {
    const UP: u32 = 0x1;
    const LOWER_UP: u32 = 0x1_0000;
    let malformed = NetlinkError::Malformed("link");
    let Some((&[_, _, _, _, i0, i1, i2, i3, f0, f1, f2, f3, _, _, _, _], facts)) = body.split_first_chunk::<16>() else {
        return Err(malformed);
    };
    if !are_whole(facts) {
        return Err(malformed);
    }
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
            IF_MAC => link.mac = mac(value),
            IF_NAME => link.name = text(value),
            IF_MTU => link.mtu = number_in(value).unwrap_or_default(),
            IF_PEER => link.peer = number_in(value),
            IF_CONTROLLER => link.controller = number_in(value),
            IF_INFO => read_kind(&mut link, value),
            IF_ALIAS => link.alias = Some(text(value)),
            IF_FAMILIES => link.proxy_arp = proxy_arp(value),
            IF_GROUP => link.group = number_in(value).unwrap_or_default(),
            _ => {}
        }
    }
    Ok(link)
}

/// `IFLA_LINKINFO`: what kind of link it is, and as a port of what.
fn read_kind(link: &mut Link, facts: &[u8]) {
    let mut of_bridge = false;
    for (kind, value) in attributes(facts) {
        match kind {
            INFO_KIND => link.kind = Some(text(value)),
            INFO_PORT_KIND => of_bridge = text(value) == "bridge",
            INFO_PORT_DATA if of_bridge => link.hairpin = attributes(value).any(|(kind, value)| kind == PORT_HAIRPIN && value == [1]),
            _ => {}
        }
    }
}

/// `IFLA_AF_SPEC`, of IPv4 `IFLA_INET_CONF`: the switches, of which the third is this.
fn proxy_arp(families: &[u8]) -> Option<bool> {
    let v4 = u16::from(encode::number(Family::V4));
    let (_, facts) = attributes(families).find(|(family, _)| *family == v4)?;
    let (_, switches) = attributes(facts).find(|(kind, _)| *kind == V4_SWITCHES)?;
    number_in(switches.get(4 * (usize::from(PROXY_ARP) - 1)..)?).map(|switch| switch != 0)
}

fn number_in(value: &[u8]) -> Option<u32> {
    value.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned()
}

pub(super) fn route(body: &[u8]) -> Result<Route, NetlinkError> {
    let malformed = || NetlinkError::Malformed("route");
    let Some((&[family, prefix_len, _, _, table, protocol, scope, kind, _, _, _, _], facts)) = body.split_first_chunk::<12>() else {
        return Err(malformed());
    };
    let everywhere = if is_v6(family) { IpNet::V6(Ipv6Net::default()) } else { IpNet::V4(Ipv4Net::default()) };
    let mut destination = (prefix_len == 0).then_some(everywhere.addr());
    let mut route = Route {
        destination: everywhere,
        kind: route_kind(kind),
        link: None,
        gateway: None,
        scope: scope_of(scope),
        metric: 0,
        table: u32::from(table),
        protocol,
    };
    for (kind, value) in attributes(facts) {
        match kind {
            ROUTE_DESTINATION => destination = ip(value),
            ROUTE_GATEWAY => route.gateway = Some(ip(value).ok_or_else(malformed)?),
            ROUTE_LINK => route.link = Some(number_in(value).ok_or_else(malformed)?),
            ROUTE_METRIC => route.metric = number_in(value).unwrap_or_default(),
            ROUTE_TABLE => route.table = number_in(value).unwrap_or(route.table),
            _ => {}
        }
    }
    // A route that is read for another would let an address pass for free (safety rule ST4).
    let destination = destination.filter(|_| are_whole(facts)).ok_or_else(malformed)?;
    route.destination = IpNet::new(destination, prefix_len).map_err(|_| malformed())?;
    Ok(route)
}

fn is_v6(family: u8) -> bool {
    family == encode::number(Family::V6)
}

fn route_kind(number: u8) -> RouteKind {
    let known = [RouteKind::Unicast, RouteKind::Local, RouteKind::Unreachable];
    known.into_iter().find(|kind| encode::route_kind(*kind) == number).unwrap_or(RouteKind::Other(number))
}

fn scope_of(number: u8) -> Scope {
    [Scope::Link, Scope::Host].into_iter().find(|scope| encode::scope(*scope) == number).unwrap_or(Scope::Universe)
}

pub(super) fn address(body: &[u8]) -> Result<Option<Address>, NetlinkError> {
    let Some((&[_, prefix_len, _, _, i0, i1, i2, i3], facts)) = body.split_first_chunk::<8>() else {
        return Err(NetlinkError::Malformed("address"));
    };
    let (mut local, mut address) = (None, None);
    for (kind, value) in attributes(facts) {
        match kind {
            ADDRESS_LOCAL => local = ip(value),
            ADDRESS_ADDRESS => address = ip(value),
            _ => {}
        }
    }
    if !are_whole(facts) {
        return Err(NetlinkError::Malformed("address"));
    }
    // Without a far end, IPv6 tells the link's own address only as this.
    Ok(local.or(address).map(|address| Address { link: u32::from_ne_bytes([i0, i1, i2, i3]), address, prefix_len }))
}

/// An address that others can reach, to be moved to another link as it is.
pub(super) fn movable_address(body: &[u8]) -> Result<Option<Movable>, NetlinkError> {
    let Some(&[family, _, _, scope]) = body.first_chunk() else { return Err(NetlinkError::Malformed("address")) };
    let is_reachable = if is_v6(family) { scope == encode::scope(Scope::Universe) } else { scope != encode::scope(Scope::Host) };
    let Some(address) = address(body)?.filter(|_| is_reachable) else { return Ok(None) };
    let network = IpNet::new(address.address, address.prefix_len).map_err(|_| NetlinkError::Malformed("address"))?;
    Ok(Some(Movable { link: address.link, network, has_gateway: false, words: body.to_vec() }))
}

/// A route that no address brought, no local table has, and nobody on the way told the kernel, to be led through another link as it is.
pub(super) fn movable_route(body: &[u8]) -> Result<Option<Movable>, NetlinkError> {
    let route = route(body)?;
    let is_told = body.get(8..).and_then(number_in).is_some_and(|flags| flags & ROUTE_CLONED != 0);
    let movable = !is_told && route.protocol != ROUTE_OF_KERNEL && route.kind == RouteKind::Unicast && route.table != LOCAL_TABLE;
    let Some(link) = route.link.filter(|_| movable) else { return Ok(None) };
    let has_gateway = attributes(body.get(12..).unwrap_or_default()).any(|(kind, _)| matches!(kind, ROUTE_GATEWAY | ROUTE_VIA));
    Ok(Some(Movable { link, network: route.destination, has_gateway, words: body.to_vec() }))
}

pub(super) fn neighbour(body: &[u8]) -> Result<Option<Neighbour>, NetlinkError> {
    let Some((&[_, _, _, _, i0, i1, i2, i3, s0, s1, _, _], facts)) = body.split_first_chunk::<12>() else {
        return Err(NetlinkError::Malformed("neighbour"));
    };
    let (mut destination, mut lladdr) = (None, None);
    for (kind, value) in attributes(facts) {
        match kind {
            NEIGHBOUR_ADDRESS => destination = ip(value),
            NEIGHBOUR_MAC => lladdr = mac(value),
            _ => {}
        }
    }
    if !are_whole(facts) {
        return Err(NetlinkError::Malformed("neighbour"));
    }
    let (link, permanent) = (u32::from_ne_bytes([i0, i1, i2, i3]), u16::from_ne_bytes([s0, s1]) == NEIGHBOUR_PERMANENT);
    Ok(destination.map(|address| Neighbour { link, address, mac: lladdr, permanent }))
}

/// An address of either family, which its length tells.
fn ip(value: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(value).map(IpAddr::from).or_else(|_| <[u8; 16]>::try_from(value).map(IpAddr::from)).ok()
}

fn mac(bytes: &[u8]) -> Option<Mac> {
    bytes.try_into().ok().map(Mac)
}
