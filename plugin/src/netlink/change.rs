//! What can be changed, and its message.

use std::{
    fmt,
    net::IpAddr,
    os::fd::{AsRawFd, BorrowedFd},
};

use super::{
    Address, Family, LinkIndex, Mac, NetlinkError, Route, RouteKind, Scope,
    encode::{self, Attributes, Messages, NESTED},
    numbers::{
        ADDRESS_ADDRESS, ADDRESS_FLAGS, ADDRESS_LABEL, ADDRESS_LOCAL, ADDRESS_NO_PREFIX_ROUTE, ADDRESS_NODAD, DELETE_ADDRESS, DELETE_LINK,
        DELETE_NEIGHBOUR, DELETE_ROUTE, IF_ALIAS, IF_CONTROLLER, IF_FAMILIES, IF_GROUP, IF_INFO, IF_MAC, IF_MTU, IF_NAME, IF_NETNS,
        IF_RX_QUEUES, IF_TX_QUEUES, INFO_DATA, INFO_KIND, INFO_PORT_DATA, INFO_PORT_KIND, NEIGHBOUR_ADDRESS, NEIGHBOUR_MAC,
        NEIGHBOUR_PERMANENT, NEW_ADDRESS, NEW_LINK, NEW_NEIGHBOUR, NEW_ROUTE, PORT_HAIRPIN, PROXY_ARP, ROUTE_CACHE, ROUTE_DESTINATION,
        ROUTE_GATEWAY, ROUTE_LINK, ROUTE_METRIC, ROUTE_ONLINK, ROUTE_TABLE, SET_LINK, V4_SWITCHES, VETH_PEER,
    },
    socket::whole_attributes,
};

const REPLACE: u16 = 0x100;
const EXCLUSIVE: u16 = 0x200;
const CREATE: u16 = 0x400;

/// Of each end of a pair. The kernel would make one of each kind for every processor, all with folders and events of their own; without a queueing
/// discipline nothing waits in them, and senders take no lock.
const QUEUES: u32 = 1;

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
    /// Sets the size of a link's largest packet.
    SetMtu {
        /// The link.
        link: LinkIndex,
        /// In bytes.
        mtu: u32,
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
            Self::SetMtu { link, mtu } => write!(f, "set the MTU of link {link} to {mtu}"),
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

/// Writes the message of a change.
pub(super) fn write(out: &mut Messages, change: &Change<'_>, asks: u16) -> Result<(), NetlinkError> {
    match change {
        Change::CreateVeth(veth) => out.push(NEW_LINK, CREATE | EXCLUSIVE | asks, &encode::link(0), |link| write_veth(link, veth)),
        Change::DeleteLink(index) => out.push(DELETE_LINK, asks, &encode::link(*index), |_| {}),
        Change::SetUp(index) => out.push(SET_LINK, asks, &encode::link_up(*index), |_| {}),
        Change::Label { link, alias } => out.push(SET_LINK, asks, &encode::link_up(*link), |link| write_label(link, alias)),
        Change::SetAlias { link, alias } => out.push(SET_LINK, asks, &encode::link_up(*link), |link| link.text(IF_ALIAS, alias)),
        Change::CreateBridge { name, mac, mtu, group } => out.push(NEW_LINK, CREATE | EXCLUSIVE | asks, &encode::link(0), |link| {
            link.text(IF_NAME, name);
            link.number(IF_MTU, *mtu);
            link.bytes(IF_MAC, &mac.0);
            link.number(IF_GROUP, *group);
            link.nested(IF_INFO, &[], |info| info.text(INFO_KIND, "bridge"));
        }),
        Change::SetMac { link, mac } => out.push(SET_LINK, asks, &encode::link(*link), |link| link.bytes(IF_MAC, &mac.0)),
        Change::SetMtu { link, mtu } => out.push(SET_LINK, asks, &encode::link(*link), |link| link.number(IF_MTU, *mtu)),
        Change::SetController { link, controller } => {
            out.push(SET_LINK, asks, &encode::link(*link), |link| link.number(IF_CONTROLLER, *controller))
        }
        Change::SetHairpin { link, on } => out.push(NEW_LINK, asks, &encode::link(*link), |link| write_hairpin(link, *on)),
        Change::CopyAddress { link, words } => write_copied_address(out, NEW_ADDRESS, CREATE | REPLACE | asks, *link, words),
        Change::DeleteCopied { link, words } => write_copied_address(out, DELETE_ADDRESS, asks, *link, words),
        Change::CopyRoute { link, words } => write_copied_route(out, CREATE | REPLACE | asks, *link, words),
        Change::AddAddress(address) => write_address(out, NEW_ADDRESS, CREATE | EXCLUSIVE | asks, *address),
        Change::DeleteAddress(address) => write_address(out, DELETE_ADDRESS, asks, *address),
        Change::AddRoute(route) => write_route(out, NEW_ROUTE, CREATE | EXCLUSIVE | asks, route),
        Change::ReplaceRoute(route) => write_route(out, NEW_ROUTE, CREATE | REPLACE | asks, route),
        Change::DeleteRoute(route) => write_route(out, DELETE_ROUTE, asks, route),
        Change::SetNeighbour { link, address, mac } => {
            write_neighbour(out, NEW_NEIGHBOUR, CREATE | REPLACE | asks, *link, *address, Some(*mac))
        }
        Change::DeleteNeighbour { link, address } => write_neighbour(out, DELETE_NEIGHBOUR, asks, *link, *address, None),
    }
}

fn write_veth(link: &mut Attributes<'_>, veth: &Veth<'_>) {
    let Veth { name, mac, mtu, group, peer } = veth;
    write_end(link, name, *mac, *mtu);
    link.number(IF_GROUP, *group);
    link.nested(IF_INFO, &[], |info| {
        info.text(INFO_KIND, "veth");
        info.nested(INFO_DATA, &[], |data| {
            data.nested(VETH_PEER, &encode::link(0), |link| {
                write_end(link, peer.name, peer.mac, *mtu);
                link.bytes(IF_NETNS, &peer.netns.as_raw_fd().to_ne_bytes());
            });
        });
    });
}

/// What either end of a pair has.
fn write_end(link: &mut Attributes<'_>, name: &str, mac: Mac, mtu: u32) {
    link.text(IF_NAME, name);
    link.number(IF_MTU, mtu);
    link.bytes(IF_MAC, &mac.0);
    link.number(IF_TX_QUEUES, QUEUES);
    link.number(IF_RX_QUEUES, QUEUES);
}

fn write_label(link: &mut Attributes<'_>, alias: &str) {
    link.text(IF_ALIAS, alias);
    link.nested(IF_FAMILIES, &[], |families| {
        families.nested(u16::from(encode::number(Family::V4)), &[], |v4| {
            v4.nested(V4_SWITCHES | NESTED, &[], |switches| switches.number(PROXY_ARP, 1));
        });
    });
}

fn write_hairpin(link: &mut Attributes<'_>, on: bool) {
    link.nested(IF_INFO, &[], |info| {
        info.text(INFO_PORT_KIND, "bridge");
        info.nested(INFO_PORT_DATA, &[], |port| port.bytes(PORT_HAIRPIN, &[u8::from(on)]));
    });
}

/// What the kernel told of an address, for another link. The label would name the old link; nobody need be asked whether the address is free.
fn write_copied_address(out: &mut Messages, kind: u16, how: u16, link: LinkIndex, words: &[u8]) -> Result<(), NetlinkError> {
    let ([first, _], words) = split_words::<2>(words)?;
    out.push(kind, how, &[first, link.to_ne_bytes()], |copy| {
        for (kind, attribute) in whole_attributes(words) {
            match (kind, attribute.get(4..).and_then(<[u8]>::first_chunk)) {
                (ADDRESS_LABEL, _) => {}
                (ADDRESS_FLAGS, Some(flags)) => copy.number(ADDRESS_FLAGS, u32::from_ne_bytes(*flags) | ADDRESS_NODAD),
                _ => copy.copy(attribute),
            }
        }
    })
}

fn write_copied_route(out: &mut Messages, how: u16, link: LinkIndex, words: &[u8]) -> Result<(), NetlinkError> {
    let ([first, second, flags], words) = split_words::<3>(words)?;
    // What the kernel only tells, and takes no orders about.
    let flags = u32::from_ne_bytes(flags) & ROUTE_ONLINK;
    out.push(NEW_ROUTE, how, &[first, second, flags.to_ne_bytes()], |copy| {
        for (kind, attribute) in whole_attributes(words) {
            if !matches!(kind, ROUTE_LINK | ROUTE_CACHE) {
                copy.copy(attribute);
            }
        }
        copy.number(ROUTE_LINK, link);
    })
}

/// The structure that words of the kernel's begin with, and the attributes after it.
fn split_words<const N: usize>(words: &[u8]) -> Result<([[u8; 4]; N], &[u8]), NetlinkError> {
    let split = || {
        let (structure, rest) = words.split_at_checked(4 * N)?;
        Some((*structure.as_chunks().0.first_chunk()?, rest))
    };
    split().ok_or(NetlinkError::Malformed("words"))
}

fn write_address(out: &mut Messages, kind: u16, how: u16, address: Address) -> Result<(), NetlinkError> {
    let Address { link, address, prefix_len } = address;
    let first = [encode::number(Family::of(address)), prefix_len, 0, encode::scope(Scope::Universe)];
    out.push(kind, how, &[first, link.to_ne_bytes()], |of_link| {
        of_link.address(ADDRESS_LOCAL, address);
        of_link.address(ADDRESS_ADDRESS, address);
        // Nobody else has it: no time is lost with asking whether somebody does, which only IPv6 would.
        of_link.number(ADDRESS_FLAGS, ADDRESS_NO_PREFIX_ROUTE | ADDRESS_NODAD);
    })
}

fn write_route(out: &mut Messages, kind: u16, how: u16, route: &Route) -> Result<(), NetlinkError> {
    let Route { destination, kind: does, link, gateway, scope, metric, table, protocol } = route;
    let first = [encode::number(Family::of(destination.addr())), destination.prefix_len(), 0, 0];
    let second = [u8::try_from(*table).unwrap_or_default(), *protocol, encode::scope(*scope), encode::route_kind(*does)];
    out.push(kind, how, &[first, second, [0; 4]], |route| {
        if destination.prefix_len() > 0 {
            route.address(ROUTE_DESTINATION, destination.addr());
        }
        if u8::try_from(*table).is_err() {
            route.number(ROUTE_TABLE, *table);
        }
        if let Some(gateway) = gateway {
            route.address(ROUTE_GATEWAY, *gateway);
        }
        if let Some(link) = link {
            route.number(ROUTE_LINK, *link);
        }
        if *metric > 0 {
            route.number(ROUTE_METRIC, *metric);
        }
    })
}

fn write_neighbour(
    out: &mut Messages,
    kind: u16,
    how: u16,
    link: LinkIndex,
    address: IpAddr,
    mac: Option<Mac>,
) -> Result<(), NetlinkError> {
    let [state0, state1] = NEIGHBOUR_PERMANENT.to_ne_bytes();
    let structure =
        [[encode::number(Family::of(address)), 0, 0, 0], link.to_ne_bytes(), [state0, state1, 0, encode::route_kind(RouteKind::Unicast)]];
    out.push(kind, how, &structure, |neighbour| {
        neighbour.address(NEIGHBOUR_ADDRESS, address);
        if let Some(mac) = mac {
            neighbour.bytes(NEIGHBOUR_MAC, &mac.0);
        }
    })
}
