//! What can be changed, and its message.

use std::{
    fmt,
    net::IpAddr,
    os::fd::{AsRawFd, BorrowedFd},
};

use netlink_packet_core::{DefaultNla, Emitable, Parseable};
use netlink_packet_route::{
    address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope},
    link::{
        AfSpecInet, AfSpecUnspec, InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth, LinkAttribute, LinkFlags,
        LinkInfo, LinkMessage,
    },
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteScope, RouteType},
};

use super::{Address, LinkIndex, Mac, Route, RouteKind, Scope, observe::family};

const REQUEST: u16 = 0x1;
const REPLACE: u16 = 0x100;
const EXCLUSIVE: u16 = 0x200;
const CREATE: u16 = 0x400;
/// An attribute that is made of attributes.
const NESTED: u16 = 0x8000;

/// Of each end of a pair. The kernel would make one of each kind for every processor, all with folders and events of their own; without a queueing
/// discipline nothing waits in them, and senders take no lock.
const QUEUES: u32 = 1;

const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const SET_LINK: u16 = 19;
const NEW_ADDRESS: u16 = 20;
const DELETE_ADDRESS: u16 = 21;
const NEW_ROUTE: u16 = 24;
const DELETE_ROUTE: u16 = 25;
const NEW_NEIGHBOUR: u16 = 28;
const DELETE_NEIGHBOUR: u16 = 29;

/// A pair of links to be made, both ends down.
#[derive(Clone, Debug)]
pub struct Veth<'a> {
    /// Name of this end.
    pub name: &'a str,
    /// Hardware address of this end.
    pub mac: Mac,
    /// Largest packet, at both ends.
    pub mtu: u32,
    /// Device group of this end.
    pub group: u32,
    /// The other end.
    pub peer: Peer<'a>,
}

/// The other end of a pair, which is made in another namespace.
#[derive(Clone, Debug)]
pub struct Peer<'a> {
    /// Its name there.
    pub name: &'a str,
    /// Its hardware address.
    pub mac: Mac,
    /// The namespace.
    pub netns: BorrowedFd<'a>,
}

/// One change of the namespace. Nothing that exists is replaced unless the name says so.
#[derive(Clone, Debug)]
pub enum Change<'a> {
    /// Makes a pair; fails if either name is taken.
    CreateVeth(Veth<'a>),
    /// Deletes a link, with its routes, addresses, neighbours, and its peer.
    DeleteLink(LinkIndex),
    /// Sets a link up.
    SetUp(LinkIndex),
    /// Writes a link's alias, sets it up, and lets it answer ARP for others.
    Label {
        /// The link.
        link: LinkIndex,
        /// The alias, at most 255 bytes.
        alias: &'a str,
    },
    /// Writes a link's alias and sets it up.
    SetAlias {
        /// The link.
        link: LinkIndex,
        /// The alias, at most 255 bytes.
        alias: &'a str,
    },
    /// Makes a bridge, which keeps this hardware address whatever ports it gets.
    CreateBridge {
        /// Its name.
        name: &'a str,
        /// Its hardware address.
        mac: Mac,
        /// Largest packet.
        mtu: u32,
        /// Its device group.
        group: u32,
    },
    /// Sets a link's hardware address, for a bridge for good.
    SetMac {
        /// The link.
        link: LinkIndex,
        /// The address.
        mac: Mac,
    },
    /// Makes a link a port of a bridge, or with 0 of none.
    SetController {
        /// The link.
        link: LinkIndex,
        /// The bridge.
        controller: LinkIndex,
    },
    /// Whether frames may leave by the port that they came by.
    SetHairpin {
        /// The port.
        link: LinkIndex,
        /// Whether.
        on: bool,
    },
    /// Adds an address in the kernel's own words to another link.
    CopyAddress {
        /// The other link.
        link: LinkIndex,
        /// The words.
        words: &'a [u8],
    },
    /// Removes an address in the kernel's own words.
    DeleteCopied {
        /// The link.
        link: LinkIndex,
        /// The words.
        words: &'a [u8],
    },
    /// Leads a route in the kernel's own words through another link, in place of the one that is there.
    CopyRoute {
        /// The other link.
        link: LinkIndex,
        /// The words.
        words: &'a [u8],
    },
    /// Adds an address without the route that its prefix would bring.
    AddAddress(Address),
    /// Removes an address.
    DeleteAddress(Address),
    /// Adds a route; fails if one of that destination, table and metric exists.
    AddRoute(Route),
    /// Adds a route in place of any other of that destination, table and metric.
    ReplaceRoute(Route),
    /// Removes a route of the maker that it names.
    DeleteRoute(Route),
    /// Enters a neighbour for good, in place of what was learned of it.
    SetNeighbour {
        /// The link.
        link: LinkIndex,
        /// The neighbour.
        address: IpAddr,
        /// Its hardware address.
        mac: Mac,
    },
    /// Removes a neighbour.
    DeleteNeighbour {
        /// The link.
        link: LinkIndex,
        /// The neighbour.
        address: IpAddr,
    },
}

impl fmt::Display for Change<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateVeth(veth) => write!(f, "create link {} with {} in the pod's namespace", veth.name, veth.peer.name),
            Self::DeleteLink(link) => write!(f, "delete link {link}"),
            Self::SetUp(link) => write!(f, "set link {link} up"),
            Self::Label { link, .. } | Self::SetAlias { link, .. } => write!(f, "label link {link}"),
            Self::CreateBridge { name, .. } => write!(f, "create bridge {name}"),
            Self::SetMac { link, mac } => write!(f, "set the hardware address of link {link} to {mac}"),
            Self::SetController { link, controller } => write!(f, "make link {link} a port of {controller}"),
            Self::SetHairpin { link, .. } => write!(f, "set the hairpin mode of port {link}"),
            Self::CopyAddress { link, .. } => write!(f, "move an address to link {link}"),
            Self::DeleteCopied { link, .. } => write!(f, "remove a moved address from link {link}"),
            Self::CopyRoute { link, .. } => write!(f, "move a route to link {link}"),
            Self::AddAddress(address) => write!(f, "add {}/{} to link {}", address.address, address.prefix_len, address.link),
            Self::DeleteAddress(address) => write!(f, "remove {}/{} from link {}", address.address, address.prefix_len, address.link),
            Self::AddRoute(route) => write!(f, "add the route to {}", route.destination),
            Self::ReplaceRoute(route) => write!(f, "replace the route to {}", route.destination),
            Self::DeleteRoute(route) => write!(f, "remove the route to {}", route.destination),
            Self::SetNeighbour { link, address, .. } => write!(f, "enter neighbour {address} of link {link}"),
            Self::DeleteNeighbour { link, address } => write!(f, "remove neighbour {address} of link {link}"),
        }
    }
}

/// Message type, flags and body of a change.
pub(super) fn encode(change: &Change<'_>) -> (u16, u16, Box<dyn Emitable>) {
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
    // `IFLA_INET_CONF` with one of the two dozen switches: the library looks through them all for each size and each value.
    const SWITCHES: u16 = 1 | NESTED;
    const PROXY_ARP: u16 = 3;
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
    message.header.family = family(address.address);
    message.header.prefix_len = address.prefix_len;
    message.header.scope = AddressScope::Universe;
    message.header.index = address.link;
    message.attributes = vec![
        AddressAttribute::Local(address.address),
        AddressAttribute::Address(address.address),
        // Nobody else has it: no time is lost with asking whether somebody does, which only IPv6 would.
        AddressAttribute::Flags(AddressFlags::Noprefixroute | AddressFlags::Nodad),
    ];
    message
}

fn route_message(route: &Route) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(route.destination.addr());
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
    message.header.family = family(address);
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
