//! The kernel's numbers of messages and attributes, as far as they are used here.
//! <https://man7.org/linux/man-pages/man7/rtnetlink.7.html>, `include/uapi/linux/{rtnetlink,if_link,if_addr,neighbour,veth}.h`

pub(super) const NEW_LINK: u16 = 16;
pub(super) const DELETE_LINK: u16 = 17;
pub(super) const GET_LINK: u16 = 18;
pub(super) const SET_LINK: u16 = 19;
pub(super) const NEW_ADDRESS: u16 = 20;
pub(super) const DELETE_ADDRESS: u16 = 21;
pub(super) const GET_ADDRESS: u16 = 22;
pub(super) const NEW_ROUTE: u16 = 24;
pub(super) const DELETE_ROUTE: u16 = 25;
pub(super) const GET_ROUTE: u16 = 26;
pub(super) const NEW_NEIGHBOUR: u16 = 28;
pub(super) const DELETE_NEIGHBOUR: u16 = 29;
pub(super) const GET_NEIGHBOUR: u16 = 30;

/// `IFLA_…`, of links.
pub(super) const IF_MAC: u16 = 1;
pub(super) const IF_NAME: u16 = 3;
pub(super) const IF_MTU: u16 = 4;
pub(super) const IF_PEER: u16 = 5;
pub(super) const IF_CONTROLLER: u16 = 10;
pub(super) const IF_INFO: u16 = 18;
pub(super) const IF_ALIAS: u16 = 20;
pub(super) const IF_FAMILIES: u16 = 26;
pub(super) const IF_GROUP: u16 = 27;
pub(super) const IF_NETNS: u16 = 28;
pub(super) const IF_WANTED: u16 = 29;
pub(super) const IF_TX_QUEUES: u16 = 31;
pub(super) const IF_RX_QUEUES: u16 = 32;

/// `IFLA_INFO_…`: what kind of link it is, and as a port of what.
pub(super) const INFO_KIND: u16 = 1;
pub(super) const INFO_DATA: u16 = 2;
pub(super) const INFO_PORT_KIND: u16 = 4;
pub(super) const INFO_PORT_DATA: u16 = 5;
/// `VETH_INFO_PEER`
pub(super) const VETH_PEER: u16 = 1;
/// `IFLA_BRPORT_MODE`
pub(super) const PORT_HAIRPIN: u16 = 4;
/// `IFLA_INET_CONF`, a list of switches, of which one is `IPV4_DEVCONF_PROXY_ARP`.
pub(super) const V4_SWITCHES: u16 = 1;
pub(super) const PROXY_ARP: u16 = 3;

/// `IFA_…`, of addresses.
pub(super) const ADDRESS_ADDRESS: u16 = 1;
pub(super) const ADDRESS_LOCAL: u16 = 2;
pub(super) const ADDRESS_LABEL: u16 = 3;
pub(super) const ADDRESS_FLAGS: u16 = 8;
/// `IFA_F_…`
pub(super) const ADDRESS_NODAD: u32 = 0x02;
pub(super) const ADDRESS_NO_PREFIX_ROUTE: u32 = 0x200;

/// `RTA_…`, of routes.
pub(super) const ROUTE_DESTINATION: u16 = 1;
pub(super) const ROUTE_LINK: u16 = 4;
pub(super) const ROUTE_GATEWAY: u16 = 5;
pub(super) const ROUTE_METRIC: u16 = 6;
pub(super) const ROUTE_CACHE: u16 = 12;
pub(super) const ROUTE_TABLE: u16 = 15;
pub(super) const ROUTE_VIA: u16 = 18;
/// `RTNH_F_ONLINK`
pub(super) const ROUTE_ONLINK: u32 = 4;
/// `RTM_F_CLONED`: an exception to a route, as a redirect or a smaller packet size on the way makes one.
pub(super) const ROUTE_CLONED: u32 = 0x200;
/// `RTM_F_FIB_MATCH`
pub(super) const ROUTE_MATCH: u32 = 0x2000;
/// `RTPROT_KERNEL`
pub(super) const ROUTE_OF_KERNEL: u8 = 2;

/// `NDA_…`, of neighbours.
pub(super) const NEIGHBOUR_ADDRESS: u16 = 1;
pub(super) const NEIGHBOUR_MAC: u16 = 2;
/// `NUD_PERMANENT`
pub(super) const NEIGHBOUR_PERMANENT: u16 = 0x80;
