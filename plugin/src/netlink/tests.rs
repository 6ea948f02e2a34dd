//! Messages are written as the library of the kernel's messages writes them, and read as it reads them.

use std::{
    net::IpAddr,
    os::fd::{AsFd as _, AsRawFd as _},
};

use netlink_packet_core::{DefaultNla, Emitable, Parseable as _};
use netlink_packet_route::{
    AddressFamily,
    address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope},
    link::{
        AfSpecInet, AfSpecUnspec, InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth, LinkAttribute, LinkExtentMask,
        LinkFlags, LinkInfo, LinkMessage,
    },
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteScope, RouteType},
};

use super::{
    Address, Change, Family, LinkBy, LinkIndex, Mac, Neighbour, Peer, Route, RouteKind, Scope, Veth, change,
    encode::{self, Messages, NESTED},
    numbers::{
        DELETE_ADDRESS, DELETE_LINK, DELETE_NEIGHBOUR, DELETE_ROUTE, GET_ADDRESS, GET_LINK, GET_NEIGHBOUR, GET_ROUTE, NEW_ADDRESS,
        NEW_LINK, NEW_NEIGHBOUR, NEW_ROUTE, PROXY_ARP, SET_LINK, V4_SWITCHES,
    },
    observe,
};

const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const REPLACE: u16 = 0x100;
const EXCLUSIVE: u16 = 0x200;
const CREATE: u16 = 0x400;
const DUMP: u16 = 0x300;
const QUEUES: u32 = 1;
const MAC: Mac = Mac([2, 0x61, 3, 4, 5, 6]);

#[test]
fn every_change_is_written_as_the_library_writes_it() {
    let here = std::fs::File::open("/proc/self/ns/net").unwrap();
    let peer = Peer { name: "eth0", mac: Mac([2, 0x61, 1, 2, 3, 4]), netns: here.as_fd() };
    let (v4, v6): ([IpAddr; 2], [IpAddr; 2]) =
        (["10.240.0.9", "169.254.1.1"].map(|text| text.parse().unwrap()), ["fd00::9", "fe80::1"].map(|text| text.parse().unwrap()));
    let mut changes = vec![
        Change::CreateVeth(Veth { name: "azv0d7763386da", mac: MAC, mtu: 1500, group: 77, peer }),
        Change::DeleteLink(5),
        Change::SetUp(5),
        Change::Label { link: 5, alias: "azure-vnet:abc/eth0 10.240.0.9" },
        Change::SetAlias { link: 5, alias: "abc" },
        Change::CreateBridge { name: "azure0", mac: MAC, mtu: 9000, group: 1 },
        Change::SetMac { link: 5, mac: MAC },
        Change::SetMtu { link: 5, mtu: 9000 },
        Change::SetController { link: 5, controller: 9 },
        Change::SetHairpin { link: 5, on: true },
        Change::SetHairpin { link: 5, on: false },
    ];
    for [address, gateway] in [v4, v6] {
        let routes = [
            Route::on_link(address, 5),
            Route::default_via(gateway, 5),
            Route { metric: 1024, table: 70_000, scope: Scope::Host, kind: RouteKind::Local, ..Route::on_link(address, 5) },
            Route { kind: RouteKind::Other(6), link: None, protocol: 97, ..Route::on_link(address, 5) },
            Route::unreachable([10, 240, 0, 9].into(), 4096),
        ];
        changes.extend(
            routes
                .iter()
                .cloned()
                .flat_map(|route| [Change::AddRoute(route.clone()), Change::ReplaceRoute(route.clone()), Change::DeleteRoute(route)]),
        );
        let address_on = Address { link: 5, address, prefix_len: 16 };
        changes.extend([Change::AddAddress(address_on), Change::DeleteAddress(address_on)]);
        changes.extend([Change::SetNeighbour { link: 5, address, mac: MAC }, Change::DeleteNeighbour { link: 5, address }]);
    }
    let (address, route) = (told_address(), told_route());
    changes.extend([
        Change::CopyAddress { link: 9, words: &address },
        Change::DeleteCopied { link: 9, words: &address },
        Change::CopyRoute { link: 9, words: &route },
    ]);
    for (number, change) in (1..).zip(&changes) {
        for asks in [0, ACK] {
            let mut out = Messages::after(number - 1);
            change::write(&mut out, change, asks).unwrap();
            let (kind, flags, body) = of_library(change);
            assert_eq!((message(kind, flags | asks, number, body.as_ref()), number), (out.bytes, out.number), "{change}");
        }
    }
}

#[test]
fn every_question_is_written_as_the_library_writes_it() {
    fn written(ask: impl FnOnce(&mut Messages) -> Result<(), super::NetlinkError>) -> Vec<u8> {
        let mut out = Messages::after(6);
        ask(&mut out).unwrap();
        out.bytes
    }
    let links = || with(0, LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    assert_eq!(written(|out| observe::ask_links(out, DUMP)), message(GET_LINK, DUMP, 7, &links()));
    let mut one = links();
    one.header.index = 5;
    assert_eq!(written(|out| observe::ask_link(out, LinkBy::Index(5))), message(GET_LINK, 0, 7, &one));
    let mut one = links();
    one.attributes.push(LinkAttribute::IfName("azv1".to_owned()));
    assert_eq!(written(|out| observe::ask_link(out, LinkBy::Name("azv1"))), message(GET_LINK, 0, 7, &one));
    for address in ["10.240.0.9", "fd00::9"].map(|text| text.parse::<IpAddr>().unwrap()) {
        let family = Family::of(address);
        let number = AddressFamily::from(encode::number(family));
        let mut routes = RouteMessage::default();
        routes.header.address_family = number;
        assert_eq!(written(|out| observe::ask_routes(out, DUMP, family)), message(GET_ROUTE, DUMP, 7, &routes));
        routes.header.destination_prefix_length = if address.is_ipv4() { 32 } else { 128 };
        routes.header.flags = RouteFlags::FibMatch;
        routes.attributes.push(RouteAttribute::Destination(route_address(address)));
        assert_eq!(written(|out| observe::ask_route_to(out, address)), message(GET_ROUTE, 0, 7, &routes));
        let mut addresses = AddressMessage::default();
        addresses.header.family = number;
        assert_eq!(written(|out| observe::ask_addresses(out, DUMP, family)), message(GET_ADDRESS, DUMP, 7, &addresses));
        let mut neighbours = NeighbourMessage::default();
        neighbours.header.family = number;
        assert_eq!(written(|out| observe::ask_neighbours(out, DUMP, family)), message(GET_NEIGHBOUR, DUMP, 7, &neighbours));
    }
}

#[test]
fn what_the_library_writes_is_read() {
    for (address, gateway) in [("10.240.0.9", "10.240.0.1"), ("fd00::9", "fe80::1")] {
        let (address, gateway): (IpAddr, IpAddr) = (address.parse().unwrap(), gateway.parse().unwrap());
        for kind in [RouteKind::Unicast, RouteKind::Local, RouteKind::Unreachable, RouteKind::Other(6)] {
            for scope in [Scope::Universe, Scope::Link, Scope::Host] {
                let route = Route { kind, scope, gateway: Some(gateway), metric: 3, table: 254, ..Route::on_link(address, 5) };
                assert_eq!(observe::route(&body_of(&route_message(&route))).unwrap(), route);
            }
        }
        let far = Route { table: 70_000, ..Route::default_via(gateway, 5) };
        assert_eq!(observe::route(&body_of(&route_message(&far))).unwrap(), far);
        let on = Address { link: 5, address, prefix_len: 24 };
        assert_eq!(observe::address(&body_of(&address_message(on))).unwrap(), Some(on));
        let there = Neighbour { link: 5, address, mac: Some(MAC), permanent: true };
        let mut told = neighbour_message(5, address, Some(MAC));
        assert_eq!(observe::neighbour(&body_of(&told)).unwrap(), Some(there));
        told.header.state = NeighbourState::Reachable;
        assert_eq!(observe::neighbour(&body_of(&told)).unwrap(), Some(Neighbour { permanent: false, ..there }));
    }
    for short in 0..8 {
        assert!(observe::address(&[2; 12][..short]).is_err() && observe::route(&[2; 12][..short]).is_err());
        assert!(observe::neighbour(&[2; 12][..short]).is_err() && observe::movable_address(&[2; 12][..short]).is_err());
    }
}

/// A route without its destination or link would let a used address pass for free.
#[test]
fn st4_what_is_cut_short_or_of_another_size_is_no_answer() {
    let told = told_route();
    assert!(observe::route(&told).is_ok());
    for end in 12..told.len() {
        // Between two attributes nothing tells that there were more; the kernel's own length does, which the transport compares.
        let whole = super::socket::are_whole(&told[12..end]);
        assert_eq!(observe::route(&told[..end]).is_ok(), whole && end > 12, "{end} of {}", told.len());
    }
    for at in [12, 20] {
        for size in [0_u8, 3, 6, 200] {
            let mut other = told.clone();
            other[at] = size;
            assert!(observe::route(&other).is_err(), "the attribute at {at} with {size} bytes");
        }
    }
    let without = [&told[..12], &told[20..]].concat();
    assert!(observe::route(&without).is_err(), "a prefix length without a prefix");
}

#[test]
fn what_others_can_reach_is_moved_and_the_kernel_s_own_is_not() {
    let address = |scope: AddressScope| {
        let mut told = AddressMessage::parse(told_address().as_slice()).unwrap();
        told.header.scope = scope;
        observe::movable_address(&body_of(&told)).unwrap()
    };
    assert_eq!(address(AddressScope::Universe).unwrap().network, "10.240.0.4/16".parse().unwrap());
    assert_eq!((address(AddressScope::Link).map(|moved| moved.link), address(AddressScope::Host)), (Some(3), None));
    let route = |protocol: RouteProtocol, table: u8| {
        let mut told = RouteMessage::parse(told_route().as_slice()).unwrap();
        (told.header.protocol, told.header.table) = (protocol, table);
        observe::movable_route(&body_of(&told)).unwrap()
    };
    let moved = route(RouteProtocol::Dhcp, 254).unwrap();
    assert_eq!((moved.link, moved.network, moved.has_gateway), (3, "10.0.0.0/8".parse().unwrap(), true));
    assert_eq!((route(RouteProtocol::Kernel, 254), route(RouteProtocol::Dhcp, 255)), (None, None));
    let mut redirected = RouteMessage::parse(told_route().as_slice()).unwrap();
    redirected.header.flags |= RouteFlags::Cloned;
    assert_eq!(observe::movable_route(&body_of(&redirected)).unwrap(), None, "what a router told of one destination");
}

/// An address as a kernel tells of it.
fn told_address() -> Vec<u8> {
    let mut told = AddressMessage::default();
    told.header.family = AddressFamily::Inet;
    told.header.prefix_len = 16;
    told.header.index = 3;
    let address = [10, 240, 0, 4].into();
    told.attributes = vec![
        AddressAttribute::Address(address),
        AddressAttribute::Local(address),
        AddressAttribute::Label("eth0".to_owned()),
        AddressAttribute::Flags(AddressFlags::Permanent),
        AddressAttribute::Other(DefaultNla::new(11, vec![7])),
    ];
    body_of(&told)
}

/// A route as a kernel tells of it.
fn told_route() -> Vec<u8> {
    let mut told = route_message(&Route::on_link("10.0.0.0/8".parse::<ipnet::IpNet>().unwrap(), 3));
    told.header.protocol = RouteProtocol::Dhcp;
    told.header.flags = RouteFlags::Onlink | RouteFlags::FibMatch;
    told.attributes.push(RouteAttribute::Gateway(RouteAddress::Inet([10, 240, 0, 1].into())));
    told.attributes.push(RouteAttribute::PrefSource(RouteAddress::Inet([10, 240, 0, 4].into())));
    body_of(&told)
}

fn body_of(message: &dyn Emitable) -> Vec<u8> {
    let mut body = vec![0; message.buffer_len()];
    message.emit(&mut body);
    body
}

fn message(kind: u16, flags: u16, number: u32, body: &dyn Emitable) -> Vec<u8> {
    let mut body = body_of(body);
    let len = u32::try_from(16 + body.len()).unwrap();
    body.resize(body.len().next_multiple_of(4), 0);
    let halves = [kind, flags | REQUEST].map(u16::to_ne_bytes).concat();
    [len.to_ne_bytes().to_vec(), halves, number.to_ne_bytes().to_vec(), vec![0; 4], body].concat()
}

/// Message type, flags and body of a change.
fn of_library(change: &Change<'_>) -> (u16, u16, Box<dyn Emitable>) {
    match change {
        Change::CreateVeth(veth) => (NEW_LINK, REQUEST | CREATE | EXCLUSIVE, Box::new(veth_message(veth))),
        Change::DeleteLink(index) => (DELETE_LINK, REQUEST, Box::new(link_message(*index))),
        Change::SetUp(index) => (SET_LINK, REQUEST, Box::new(up(link_message(*index)))),
        Change::Label { link, alias } => (SET_LINK, REQUEST, Box::new(label_message(*link, alias))),
        Change::SetAlias { link, alias } => (SET_LINK, REQUEST, Box::new(up(with(*link, LinkAttribute::IfAlias((*alias).to_owned()))))),
        Change::CreateBridge { name, mac, mtu, group } => {
            (NEW_LINK, REQUEST | CREATE | EXCLUSIVE, Box::new(bridge_message(name, *mac, *mtu, *group)))
        }
        Change::SetMac { link, mac } => (SET_LINK, REQUEST, Box::new(with(*link, LinkAttribute::Address(mac.0.to_vec())))),
        Change::SetMtu { link, mtu } => (SET_LINK, REQUEST, Box::new(with(*link, LinkAttribute::Mtu(*mtu)))),
        Change::SetController { link, controller } => (SET_LINK, REQUEST, Box::new(with(*link, LinkAttribute::Controller(*controller)))),
        Change::SetHairpin { link, on } => (NEW_LINK, REQUEST, Box::new(with(*link, hairpin(*on)))),
        Change::CopyAddress { link, words } => (NEW_ADDRESS, REQUEST | CREATE | REPLACE, copied_address(*link, words)),
        Change::DeleteCopied { link, words } => (DELETE_ADDRESS, REQUEST, copied_address(*link, words)),
        Change::CopyRoute { link, words } => (NEW_ROUTE, REQUEST | CREATE | REPLACE, copied_route(*link, words)),
        Change::AddAddress(address) => (NEW_ADDRESS, REQUEST | CREATE | EXCLUSIVE, Box::new(address_message(*address))),
        Change::DeleteAddress(address) => (DELETE_ADDRESS, REQUEST, Box::new(address_message(*address))),
        Change::AddRoute(route) => (NEW_ROUTE, REQUEST | CREATE | EXCLUSIVE, Box::new(route_message(route))),
        Change::ReplaceRoute(route) => (NEW_ROUTE, REQUEST | CREATE | REPLACE, Box::new(route_message(route))),
        Change::DeleteRoute(route) => (DELETE_ROUTE, REQUEST, Box::new(route_message(route))),
        Change::SetNeighbour { link, address, mac } => {
            (NEW_NEIGHBOUR, REQUEST | CREATE | REPLACE, Box::new(neighbour_message(*link, *address, Some(*mac))))
        }
        Change::DeleteNeighbour { link, address } => (DELETE_NEIGHBOUR, REQUEST, Box::new(neighbour_message(*link, *address, None))),
    }
}

fn link_message(index: LinkIndex) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message
}

fn up(mut message: LinkMessage) -> LinkMessage {
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message
}

fn veth_message(veth: &Veth<'_>) -> LinkMessage {
    let mut peer = LinkMessage::default();
    peer.attributes = vec![
        LinkAttribute::IfName(veth.peer.name.to_owned()),
        LinkAttribute::Mtu(veth.mtu),
        LinkAttribute::Address(veth.peer.mac.0.to_vec()),
        LinkAttribute::NumTxQueues(QUEUES),
        LinkAttribute::NumRxQueues(QUEUES),
        LinkAttribute::NetNsFd(veth.peer.netns.as_raw_fd()),
    ];
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(veth.name.to_owned()),
        LinkAttribute::Mtu(veth.mtu),
        LinkAttribute::Address(veth.mac.0.to_vec()),
        LinkAttribute::NumTxQueues(QUEUES),
        LinkAttribute::NumRxQueues(QUEUES),
        LinkAttribute::Group(veth.group),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth), LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer)))]),
    ];
    message
}

fn with(link: LinkIndex, attribute: LinkAttribute) -> LinkMessage {
    let mut message = link_message(link);
    message.attributes = vec![attribute];
    message
}

fn bridge_message(name: &str, mac: Mac, mtu: u32, group: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::Mtu(mtu),
        LinkAttribute::Address(mac.0.to_vec()),
        LinkAttribute::Group(group),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]),
    ];
    message
}

fn hairpin(on: bool) -> LinkAttribute {
    let port = InfoPortData::BridgePort(vec![InfoBridgePort::HairpinMode(on)]);
    LinkAttribute::LinkInfo(vec![LinkInfo::PortKind(InfoPortKind::Bridge), LinkInfo::PortData(port)])
}

/// What the kernel told of an address, for another link. The label would name the old link; nobody need be asked whether the address is free.
fn copied_address(link: LinkIndex, words: &[u8]) -> Box<dyn Emitable> {
    let mut message = AddressMessage::parse(words).unwrap_or_default();
    message.header.index = link;
    message.attributes.retain(|attribute| !matches!(attribute, AddressAttribute::Label(_)));
    for attribute in &mut message.attributes {
        if let AddressAttribute::Flags(flags) = attribute {
            *flags |= AddressFlags::Nodad;
        }
    }
    Box::new(message)
}

fn copied_route(link: LinkIndex, words: &[u8]) -> Box<dyn Emitable> {
    let mut message = RouteMessage::parse(words).unwrap_or_default();
    // What the kernel only tells, and takes no orders about.
    message.header.flags &= RouteFlags::Onlink;
    message.attributes.retain(|attribute| !matches!(attribute, RouteAttribute::Oif(_) | RouteAttribute::CacheInfo(_)));
    message.attributes.push(RouteAttribute::Oif(link));
    Box::new(message)
}

fn label_message(link: LinkIndex, alias: &str) -> LinkMessage {
    const SWITCHES: u16 = V4_SWITCHES | NESTED;
    let on = [8_u16.to_ne_bytes(), PROXY_ARP.to_ne_bytes()].as_flattened().iter().copied().chain(1_u32.to_ne_bytes()).collect();
    let mut message = up(link_message(link));
    message.attributes = vec![
        LinkAttribute::IfAlias(alias.to_owned()),
        LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet(vec![AfSpecInet::Other(DefaultNla::new(SWITCHES, on))])]),
    ];
    message
}

fn address_message(address: Address) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::from(encode::number(Family::of(address.address)));
    message.header.prefix_len = address.prefix_len;
    message.header.scope = AddressScope::Universe;
    message.header.index = address.link;
    message.attributes = vec![
        AddressAttribute::Local(address.address),
        AddressAttribute::Address(address.address),
        AddressAttribute::Flags(AddressFlags::Noprefixroute | AddressFlags::Nodad),
    ];
    message
}

fn route_message(route: &Route) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::from(encode::number(Family::of(route.destination.addr())));
    message.header.destination_prefix_length = route.destination.prefix_len();
    message.header.table = u8::try_from(route.table).unwrap_or_default();
    message.header.protocol = RouteProtocol::from(route.protocol);
    message.header.scope = match route.scope {
        Scope::Universe => RouteScope::Universe,
        Scope::Link => RouteScope::Link,
        Scope::Host => RouteScope::Host,
    };
    message.header.kind = match route.kind {
        RouteKind::Unicast => RouteType::Unicast,
        RouteKind::Local => RouteType::Local,
        RouteKind::Unreachable => RouteType::Unreachable,
        RouteKind::Other(kind) => RouteType::from(kind),
    };
    if route.destination.prefix_len() > 0 {
        message.attributes.push(RouteAttribute::Destination(route_address(route.destination.addr())));
    }
    if u8::try_from(route.table).is_err() {
        message.attributes.push(RouteAttribute::Table(route.table));
    }
    message.attributes.extend(route.gateway.map(|gateway| RouteAttribute::Gateway(route_address(gateway))));
    message.attributes.extend(route.link.map(RouteAttribute::Oif));
    if route.metric > 0 {
        message.attributes.push(RouteAttribute::Priority(route.metric));
    }
    message
}

fn neighbour_message(link: LinkIndex, address: IpAddr, mac: Option<Mac>) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::from(encode::number(Family::of(address)));
    message.header.ifindex = link;
    message.header.state = NeighbourState::Permanent;
    message.header.kind = RouteType::Unicast;
    message.attributes.push(NeighbourAttribute::Destination(match address {
        IpAddr::V4(address) => NeighbourAddress::Inet(address),
        IpAddr::V6(address) => NeighbourAddress::Inet6(address),
    }));
    message.attributes.extend(mac.map(|mac| NeighbourAttribute::LinkLayerAddress(mac.0.to_vec())));
    message
}

fn route_address(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(address) => RouteAddress::Inet(address),
        IpAddr::V6(address) => RouteAddress::Inet6(address),
    }
}
