//! The network of bridged pods, as values: which link is the uplink, what its bridge is to be, and the steps between what is and that.
//! Nothing here touches a kernel. No step destroys a bridge or takes an uplink out of one.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, Ipv4Addr},
};

use ipnet::IpNet;

use crate::{
    attachment::{IfName, NameError},
    frames::{Chain, Frames, Rule},
    unbridge::MADE,
    wiring::{HOST_LINK_PREFIX, Mac},
};

/// What the name of a bridge starts with where the configuration names none.
const BRIDGE_PREFIX: &str = "azure";
const ALIAS_PREFIX: &str = "azure-vnet:bridge ";
const BRIDGE: &str = "bridge";

/// What a configuration says of the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkWish {
    /// `master`.
    pub master: Option<IfName>,
    /// `bridge`.
    pub bridge: Option<IfName>,
    /// Whether the uplink's port is to send frames back by itself (with `disableHairpinOnHostInterface` it stays as it is).
    pub uplink_hairpin: bool,
    /// `ipsToRouteViaHost`.
    pub via_host: Vec<IpAddr>,
    /// Where the pods' frames go.
    pub frames: Frames,
}

/// A link of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostLink {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its kind, where it has one.
    pub kind: Option<String>,
    /// Its hardware address.
    pub mac: Option<Mac>,
    /// Largest packet.
    pub mtu: u32,
    /// What it is a port of.
    pub controller: Option<u32>,
    /// Whether it is up.
    pub up: bool,
    /// Whether its port has hairpin.
    pub hairpin: bool,
    /// Its alias.
    pub alias: Option<String>,
    /// Its device group.
    pub group: u32,
}

/// An address or route of the host in the kernel's own words: to be moved, it is sent back with another link's number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Movable {
    /// The link.
    pub link: u32,
    /// Address with its prefix, or the route's destination.
    pub network: IpNet,
    /// Whether it leads through a gateway, whose way must be there first.
    pub has_gateway: bool,
    /// The kernel's words.
    pub words: Vec<u8>,
}

/// The host as far as it matters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// Links: the uplink and bridge among them.
    pub links: Vec<HostLink>,
    /// Addresses that others can reach.
    pub addresses: Vec<Movable>,
    /// Routes through the uplink that no address brought.
    pub routes: Vec<Movable>,
}

/// Why a network cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// No link fits.
    #[error("Failed to find the master interface: no link has an address in {0}")]
    NoMaster(IpNet),
    /// The named link is not there.
    #[error("failed to find host interface {0}")]
    NoSuchLink(IfName),
    /// A bridge without one uplink.
    #[error("bridge {0} has no port that is its one uplink")]
    NoUplink(String),
    /// The uplink belongs to something else.
    #[error("{0} belongs to another link that is no bridge: name that one as master")]
    Controlled(String),
    /// The bridge's name is taken.
    #[error("{0} exists and is no bridge")]
    NoBridge(IfName),
    /// The uplink has no hardware address of the common kind.
    #[error("{0} has no hardware address")]
    NoMac(String),
    /// A name that is none.
    #[error("{0}")]
    Name(#[from] NameError),
}

/// The two links that a network is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// The uplink's name.
    pub uplink: IfName,
    /// The uplink's number.
    pub uplink_index: u32,
    /// The uplink's hardware address, and so the bridge's.
    pub mac: Mac,
    /// Largest packet.
    pub mtu: u32,
    /// The bridge's name.
    pub bridge: IfName,
    /// The bridge's number, once it is there.
    pub bridge_index: Option<u32>,
}

/// One step towards a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkStep {
    /// Makes the bridge, with a hardware address that ports do not change.
    CreateBridge,
    /// Pins the hardware address of a bridge that is there.
    PinMac,
    /// Gives the bridge the uplink's largest packet: else the host would have the smallest of all pods'.
    PinMtu,
    /// Sets a link up.
    SetUp(Which),
    /// Lets the host's name servers count for the bridge, as they did for the uplink: before the move, after which the uplink's do not.
    Resolvers,
    /// The move, which is one message to the kernel and so done or not done: addresses and routes to the bridge, the uplink into it, its
    /// addresses away.
    Move(Move),
    /// Lets the uplink's port send frames back by itself. It is never turned off: of configurations that share a bridge one may need it.
    Hairpin,
    /// Notes on the bridge which link is its uplink.
    Label,
}

/// One of the two links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The uplink.
    Uplink,
    /// The bridge.
    Bridge,
}

/// What is to be moved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Move {
    /// Addresses that the bridge lacks.
    pub add_addresses: Vec<Movable>,
    /// Routes, those without a gateway first.
    pub routes: Vec<Movable>,
    /// Whether the uplink is to be put into the bridge.
    pub enslave: bool,
    /// Addresses that the uplink is not to have any more.
    pub remove_addresses: Vec<Movable>,
}

impl Network {
    /// Chooses uplink and bridge. A bridge that is there, whoever made it, is taken as it is; none is ever another's uplink. An uplink that was taken
    /// out of its bridge goes back into it, whatever name a bridge is to have by now: host and pods have their addresses there.
    ///
    /// # Errors
    /// See [`NetworkError`].
    pub fn choose(wish: &NetworkWish, subnet: IpNet, host: &Host) -> Result<Self, NetworkError> {
        let uplink = match &wish.master {
            Some(name) => host.link(name.as_str()).ok_or_else(|| NetworkError::NoSuchLink(name.clone()))?,
            None => host.bearer(subnet).ok_or(NetworkError::NoMaster(subnet))?,
        };
        let uplink =
            if uplink.is_bridge() { host.uplink_of(uplink).ok_or_else(|| NetworkError::NoUplink(uplink.name.clone()))? } else { uplink };
        let attached = uplink.controller.map(|index| host.links.iter().find(|link| link.index == index && link.is_bridge()));
        let (bridge, bridge_index) = match attached {
            Some(Some(bridge)) => (bridge.name.parse()?, Some(bridge.index)),
            Some(None) => return Err(NetworkError::Controlled(uplink.name.clone())),
            None => {
                let name: IfName = wish.bridge.clone().map_or_else(|| format!("{BRIDGE_PREFIX}{}", uplink.index).parse(), Ok)?;
                match (host.bridge_left_by(uplink, &name), host.link(name.as_str())) {
                    (Some(left), _) => (left.name.parse()?, Some(left.index)),
                    (None, Some(link)) if link.is_bridge() => (name, Some(link.index)),
                    (None, Some(_)) => return Err(NetworkError::NoBridge(name)),
                    (None, None) => (name, None),
                }
            }
        };
        let mac = uplink.mac.ok_or_else(|| NetworkError::NoMac(uplink.name.clone()))?;
        Ok(Self { uplink: uplink.name.parse()?, uplink_index: uplink.index, mac, mtu: uplink.mtu, bridge, bridge_index })
    }

    /// The steps that are left.
    #[must_use]
    pub fn plan(&self, wish: &NetworkWish, host: &Host) -> Vec<NetworkStep> {
        let bridge = self.bridge_index.and_then(|index| host.links.iter().find(|link| link.index == index));
        let uplink = host.links.iter().find(|link| link.index == self.uplink_index);
        let mut steps = Vec::new();
        match bridge {
            None => steps.extend([NetworkStep::CreateBridge, NetworkStep::PinMtu, NetworkStep::SetUp(Which::Bridge)]),
            Some(bridge) => {
                steps.extend((bridge.mac != Some(self.mac)).then_some(NetworkStep::PinMac));
                steps.extend((bridge.group == MADE && bridge.mtu != self.mtu).then_some(NetworkStep::PinMtu));
                steps.extend((!bridge.up).then_some(NetworkStep::SetUp(Which::Bridge)));
            }
        }
        let labelled = bridge.is_some_and(|bridge| bridge.alias.as_deref() == Some(self.alias().as_str()));
        steps.extend((!labelled).then_some(NetworkStep::Resolvers));
        steps.extend(self.moving(host).map(NetworkStep::Move));
        let (up, hairpin) = uplink.map_or((false, false), |uplink| (uplink.up, uplink.hairpin));
        steps.extend((!up).then_some(NetworkStep::SetUp(Which::Uplink)));
        steps.extend((wish.uplink_hairpin && !hairpin).then_some(NetworkStep::Hairpin));
        steps.extend((!labelled).then_some(NetworkStep::Label));
        steps
    }

    /// The rules of the network, which are the same for all pods on its bridge: what the host's own is comes first, before any pod's rule.
    #[must_use]
    pub fn rules(&self, host: &Host) -> Vec<(Chain, Option<IpAddr>, Rule)> {
        let own = |link: u32| Some(link) == self.bridge_index || link == self.uplink_index;
        let addresses = host.addresses.iter().filter(|address| own(address.link)).map(|address| address.network.addr());
        let addresses: BTreeSet<IpAddr> = addresses.collect();
        let uplink = || self.uplink.clone();
        let answer = |address: Ipv4Addr| Rule::AnswerArp { pods_only: false, address, mac: self.mac };
        let mut rules: Vec<Rule> = addresses.iter().copied().filter_map(v4).map(answer).collect();
        rules.push(Rule::SpreadArpReplies { uplink: uplink() });
        rules.extend(addresses.iter().copied().map(|address| Rule::ToHost { address }));
        let mut all: Vec<_> = rules.into_iter().map(|rule| (Chain::Network, None, rule)).collect();
        all.push((Chain::Out, None, Rule::FromUplink { uplink: uplink(), mac: self.mac }));
        all
    }

    /// The rules that a configuration asks for. They stay when another configuration does not: pods of the first may be there.
    #[must_use]
    pub fn asked(wish: &NetworkWish) -> Vec<(Chain, Option<IpAddr>, Rule)> {
        let to_host = |address: &IpAddr| (Chain::Network, None, Rule::ToHost { address: *address });
        let mut all: Vec<_> = wish.via_host.iter().map(to_host).collect();
        match wish.frames {
            Frames::Direct => {}
            Frames::ToFabric => all.push((Chain::Services, None, Rule::MasqueradeServices)),
        }
        all
    }

    /// What the bridge says of itself.
    #[must_use]
    pub fn alias(&self) -> String {
        format!("{ALIAS_PREFIX}{}", self.uplink)
    }

    fn moving(&self, host: &Host) -> Option<Move> {
        let of = |link| host.addresses.iter().filter(move |address| Some(address.link) == link);
        let there: Vec<IpNet> = of(self.bridge_index).map(|address| address.network).collect();
        let on_uplink: Vec<Movable> = of(Some(self.uplink_index)).cloned().collect();
        let mut routes: Vec<Movable> = host.routes.iter().filter(|route| route.link == self.uplink_index).cloned().collect();
        routes.sort_by_key(|route| route.has_gateway);
        let enslaved = host.links.iter().any(|link| link.index == self.uplink_index && link.controller.is_some());
        let moving = Move {
            add_addresses: on_uplink.iter().filter(|address| !there.contains(&address.network)).cloned().collect(),
            routes,
            enslave: !enslaved,
            remove_addresses: on_uplink,
        };
        (moving != Move::default()).then_some(moving)
    }
}

/// The rules that lead to our chains.
#[must_use]
pub fn table_rules() -> Vec<(Chain, Option<IpAddr>, Rule)> {
    let jump = |from, to| (from, None, Rule::Jump(to));
    vec![jump(Chain::Arriving, Chain::Network), jump(Chain::Arriving, Chain::Pods), jump(Chain::Leaving, Chain::Out)]
}

/// The networks that changed under their pods: a bridge that its alias makes one of these plugins, and the uplink that this names. It was taken out
/// (it still has the bridge's hardware address and is no port of anything), or has another largest packet than the bridge that the plugins made.
/// A bridge of others without a pod is theirs to change.
#[must_use]
pub fn astray(links: &[HostLink]) -> Vec<NetworkWish> {
    let wish = |bridge: &HostLink| {
        let has_pods = || links.iter().any(|link| link.controller == Some(bridge.index) && link.name.starts_with(HOST_LINK_PREFIX));
        let is_left = |uplink: &HostLink| bridge.is_left_by(uplink) && (bridge.group == MADE || has_pods());
        let differs = |uplink: &HostLink| bridge.is_of(uplink) && bridge.group == MADE && bridge.mtu != uplink.mtu;
        let uplink = links.iter().find(|link| is_left(link) || differs(link))?;
        Some(NetworkWish {
            master: Some(uplink.name.parse().ok()?),
            bridge: Some(bridge.name.parse().ok()?),
            uplink_hairpin: true,
            via_host: Vec::new(),
            frames: Frames::Direct,
        })
    };
    links.iter().filter_map(wish).collect()
}

/// The uplink that a bridge's alias names.
#[must_use]
pub fn uplink_in(alias: &str) -> Option<&str> {
    alias.strip_prefix(ALIAS_PREFIX)
}

impl HostLink {
    /// Whether it is a bridge.
    #[must_use]
    pub fn is_bridge(&self) -> bool {
        self.kind.as_deref() == Some(BRIDGE)
    }

    /// Whether it is a bridge that names this link as its uplink.
    fn names(&self, uplink: &Self) -> bool {
        self.is_bridge() && self.alias.as_deref().and_then(uplink_in) == Some(uplink.name.as_str())
    }

    /// Whether it is a bridge that names this link as its uplink, and has it.
    fn is_of(&self, uplink: &Self) -> bool {
        self.names(uplink) && uplink.controller == Some(self.index)
    }

    /// Whether it is a bridge that names this link as its uplink, and the link is the same still, and a port of nothing.
    fn is_left_by(&self, uplink: &Self) -> bool {
        self.names(uplink) && uplink.controller.is_none() && uplink.mac.is_some() && uplink.mac == self.mac
    }
}

impl Host {
    fn link(&self, name: &str) -> Option<&HostLink> {
        self.links.iter().find(|link| link.name == name)
    }

    /// The link with an address of exactly this subnet; a bridge before a port of it.
    fn bearer(&self, subnet: IpNet) -> Option<&HostLink> {
        let bears = |link: &HostLink| self.addresses.iter().any(|a| a.link == link.index && a.network.trunc() == subnet.trunc());
        let mut bearers = self.links.iter().filter(|link| !link.name.starts_with(HOST_LINK_PREFIX) && bears(link));
        bearers.clone().find(|link| link.is_bridge()).or_else(|| bearers.next())
    }

    /// The bridge that an uplink was taken out of; of several the one of this name.
    fn bridge_left_by(&self, uplink: &HostLink, name: &IfName) -> Option<&HostLink> {
        let mut left = self.links.iter().filter(|link| link.is_left_by(uplink));
        left.clone().find(|link| link.name == name.as_str()).or_else(|| left.next())
    }

    /// The link that a bridge has for its uplink: the one that its alias names, else its only port that is no pod's.
    pub(crate) fn uplink_of(&self, bridge: &HostLink) -> Option<&HostLink> {
        let named = bridge.alias.as_deref().and_then(uplink_in).and_then(|name| self.link(name));
        let mut ports = self.links.iter().filter(|link| link.controller == Some(bridge.index) && !link.name.starts_with(HOST_LINK_PREFIX));
        let only = ports.next().filter(|_| ports.next().is_none());
        named.or(only)
    }
}

impl fmt::Display for NetworkStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CreateBridge => "make the bridge",
            Self::PinMac => "pin the bridge's hardware address",
            Self::PinMtu => "pin the bridge's largest packet",
            Self::SetUp(Which::Uplink) => "set the uplink up",
            Self::SetUp(Which::Bridge) => "set the bridge up",
            Self::Resolvers => "take the uplink's name servers over",
            Self::Move(_) => "move the host's addresses and routes to the bridge",
            Self::Hairpin => "set the hairpin mode of the uplink's port",
            Self::Label => "label the bridge",
        })
    }
}

fn v4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 4]);

    fn link(index: u32, name: &str, kind: Option<&str>, controller: Option<u32>) -> HostLink {
        HostLink {
            index,
            name: name.into(),
            kind: kind.map(str::to_owned),
            mac: Some(MAC),
            mtu: 1500,
            controller,
            up: true,
            hairpin: controller.is_some(),
            alias: None,
            group: 0,
        }
    }

    fn at(link: u32, network: &str, has_gateway: bool) -> Movable {
        Movable { link, network: network.parse().unwrap(), has_gateway, words: network.as_bytes().to_vec() }
    }

    fn wish(frames: Frames) -> NetworkWish {
        NetworkWish {
            master: None,
            bridge: None,
            uplink_hairpin: true,
            via_host: vec![[169, 254, 20, 10].into(), "fd00:20::10".parse().unwrap()],
            frames,
        }
    }

    fn subnet() -> IpNet {
        "10.240.1.7/16".parse().unwrap()
    }

    fn fresh() -> Host {
        Host {
            links: vec![link(1, "lo", None, None), link(2, "eth0", None, None), link(9, "azv1", Some("veth"), None)],
            addresses: vec![at(2, "10.240.0.4/16", false), at(2, "fd00::4/64", false)],
            routes: vec![at(2, "0.0.0.0/0", true), at(2, "10.250.0.0/16", false), at(7, "10.251.0.0/16", false)],
        }
    }

    /// What a step makes of the host.
    fn carry_out(host: &mut Host, network: &Network, step: &NetworkStep) {
        let bridge = network.bridge_index.unwrap_or(20);
        match step {
            NetworkStep::CreateBridge => {
                let there = link(bridge, network.bridge.as_str(), Some("bridge"), None);
                host.links.push(HostLink { mtu: network.mtu - 1, group: MADE, ..there });
            }
            NetworkStep::Move(moving) => {
                host.addresses.extend(moving.add_addresses.iter().map(|address| Movable { link: bridge, ..address.clone() }));
                host.addresses.retain(|address| !moving.remove_addresses.contains(address));
                host.routes.iter_mut().filter(|route| moving.routes.contains(route)).for_each(|route| route.link = bridge);
            }
            NetworkStep::PinMac
            | NetworkStep::PinMtu
            | NetworkStep::SetUp(_)
            | NetworkStep::Resolvers
            | NetworkStep::Hairpin
            | NetworkStep::Label => {}
        }
        for there in &mut host.links {
            let (is_bridge, is_uplink) = (there.index == bridge, there.index == network.uplink_index);
            match step {
                NetworkStep::Move(moving) if moving.enslave && is_uplink => there.controller = Some(bridge),
                NetworkStep::PinMac if is_bridge => there.mac = Some(network.mac),
                NetworkStep::PinMtu if is_bridge => there.mtu = network.mtu,
                NetworkStep::SetUp(Which::Bridge) => there.up |= is_bridge,
                NetworkStep::SetUp(Which::Uplink) => there.up |= is_uplink,
                NetworkStep::Hairpin if is_uplink => there.hairpin = true,
                NetworkStep::Label if is_bridge => there.alias = Some(network.alias()),
                NetworkStep::CreateBridge
                | NetworkStep::PinMac
                | NetworkStep::PinMtu
                | NetworkStep::Resolvers
                | NetworkStep::Move(_)
                | NetworkStep::Hairpin
                | NetworkStep::Label => {}
            }
        }
    }

    #[test]
    fn whichever_step_was_the_last_the_rest_of_the_plan_completes_it() {
        let wish = wish(Frames::ToFabric);
        let whole = Network::choose(&wish, subnet(), &fresh()).unwrap().plan(&wish, &fresh());
        for done in 0..=whole.len() {
            let mut host = fresh();
            for step in &whole[..done] {
                let network = Network::choose(&wish, subnet(), &host).unwrap();
                carry_out(&mut host, &network, step);
            }
            let network = Network::choose(&wish, subnet(), &host).unwrap();
            for step in network.plan(&wish, &host) {
                carry_out(&mut host, &network, &step);
            }
            let network = Network::choose(&wish, subnet(), &host).unwrap();
            assert_eq!(
                (network.plan(&wish, &host), network.bridge.as_str(), network.uplink.as_str()),
                (vec![], "azure2", "eth0"),
                "{done}"
            );
            assert!(host.addresses.iter().all(|address| address.link == 20));
            assert_eq!(host.routes.iter().map(|route| route.link).collect::<Vec<_>>(), [20, 20, 7]);
        }
    }

    #[test]
    fn a_second_configuration_of_a_bridge_takes_no_hairpin_from_the_first() {
        let (first, mut host) = (wish(Frames::Direct), fresh());
        for _ in 0..2 {
            let network = Network::choose(&first, subnet(), &host).unwrap();
            for step in network.plan(&first, &host) {
                carry_out(&mut host, &network, &step);
            }
        }
        let second = NetworkWish { uplink_hairpin: false, ..first };
        assert_eq!(Network::choose(&second, subnet(), &host).unwrap().plan(&second, &host), []);
    }

    #[test]
    fn an_uplink_is_put_back_into_the_bridge_that_names_it_and_into_no_other() {
        let labelled = || HostLink { alias: Some(format!("{ALIAS_PREFIX}eth0")), group: MADE, ..link(5, "azure2", Some("bridge"), None) };
        let names = |links: &[HostLink]| {
            let name = |name: Option<IfName>| name.unwrap().to_string();
            astray(links).into_iter().map(|wish| (name(wish.master), name(wish.bridge))).collect::<Vec<_>>()
        };
        assert_eq!(names(&[link(2, "eth0", None, None), labelled()]), [("eth0".to_owned(), "azure2".to_owned())]);
        for (uplink, why) in [
            (link(2, "eth0", None, Some(5)), "it is in it"),
            (link(2, "eth0", None, Some(6)), "somebody put it elsewhere"),
            (HostLink { mac: Some(Mac([2, 0, 0, 0, 0, 9])), ..link(2, "eth0", None, None) }, "another NIC has its name"),
            (link(2, "eth1", None, None), "it is gone"),
        ] {
            assert_eq!(names(&[uplink, labelled()]), [], "{why}");
        }
        assert_eq!(names(&[link(2, "eth0", None, None), HostLink { alias: None, ..labelled() }]), [], "another program's bridge");
        let adopted = || HostLink { group: 0, ..labelled() };
        assert_eq!(names(&[link(2, "eth0", None, None), adopted()]), [], "another program's, and no pod is on it");
        assert_eq!(names(&[link(2, "eth0", None, None), adopted(), link(9, "azv1", Some("veth"), Some(5))]).len(), 1, "a pod is on it");
        let smaller = || HostLink { mtu: 1400, ..link(2, "eth0", None, Some(5)) };
        assert_eq!(names(&[smaller(), labelled()]).len(), 1, "the uplink takes smaller packets than its bridge");
        assert_eq!(names(&[smaller(), adopted()]), [], "how another program's bridge is, is its own affair");
    }

    #[test]
    fn an_uplink_out_of_its_bridge_goes_back_into_it_whatever_name_a_configuration_gives_bridges() {
        let host = |bridge: &str, mac: Mac, alias: Option<&str>, own: u32| {
            let left = HostLink { mac: Some(mac), alias: alias.map(str::to_owned), ..link(5, bridge, Some("bridge"), None) };
            let links = vec![link(2, "eth0", None, None), left, link(9, "azv1", Some("veth"), Some(5))];
            Host { links, addresses: vec![at(own, "10.240.0.4/16", false)], routes: vec![at(own, "0.0.0.0/0", true)] }
        };
        let named = |bridge: Option<&str>| NetworkWish {
            master: Some("eth0".parse().unwrap()),
            bridge: bridge.map(|name| name.parse().unwrap()),
            ..wish(Frames::Direct)
        };
        let ours = Some("azure-vnet:bridge eth0");
        for (bridge, wish) in [("azure2", named(Some("later"))), ("azure0", named(None)), ("azure0", wish(Frames::Direct))] {
            // The bridge has its address still, or the link has one anew.
            for own in [2, 5] {
                let mut host = host(bridge, MAC, ours, own);
                let network = Network::choose(&wish, subnet(), &host).unwrap();
                assert_eq!((network.uplink.as_str(), network.bridge.as_str(), network.bridge_index), ("eth0", bridge, Some(5)));
                for step in network.plan(&wish, &host) {
                    carry_out(&mut host, &network, &step);
                }
                assert_eq!((host.links[0].controller, host.addresses[0].link, host.routes[0].link), (Some(5), 5, 5));
            }
        }
        let another = Mac([2, 0, 0, 0, 0, 9]);
        for (host, why) in [
            (host("azure0", MAC, None, 2), "another program's bridge"),
            (host("azure0", MAC, Some("azure-vnet:bridge eth1"), 2), "another uplink's"),
            (host("azure0", another, ours, 2), "another NIC has the uplink's name"),
        ] {
            let network = Network::choose(&named(Some("later")), subnet(), &host).unwrap();
            assert_eq!((network.bridge.as_str(), network.bridge_index), ("later", None), "{why}");
        }
        let mut two = host("azure0", MAC, ours, 2);
        two.links.push(HostLink { index: 6, name: "later".into(), ..two.links[1].clone() });
        assert_eq!(
            Network::choose(&named(Some("later")), subnet(), &two).unwrap().bridge_index,
            Some(6),
            "of two the one that is asked for"
        );
    }

    #[test]
    fn routes_without_a_gateway_are_moved_first() {
        let host = fresh();
        let network = Network::choose(&wish(Frames::Direct), subnet(), &host).unwrap();
        let moving = network.moving(&host).unwrap();
        assert_eq!(moving.routes, [at(2, "10.250.0.0/16", false), at(2, "0.0.0.0/0", true)]);
    }

    #[test]
    fn a_bridge_is_never_an_uplink_and_one_that_is_there_is_kept() {
        let mut host = fresh();
        host.links = vec![link(2, "eth0", None, Some(5)), link(5, "azure0", Some("bridge"), None), link(9, "azv1", Some("veth"), Some(5))];
        host.addresses = vec![at(5, "10.240.0.4/16", false)];
        let named = |master: Option<&str>, bridge: Option<&str>| NetworkWish {
            master: master.map(|name| name.parse().unwrap()),
            bridge: bridge.map(|name| name.parse().unwrap()),
            ..wish(Frames::Direct)
        };
        for wish in [named(None, None), named(Some("azure0"), None), named(Some("eth0"), Some("other")), named(None, Some("azure0"))] {
            let network = Network::choose(&wish, subnet(), &host).unwrap();
            assert_eq!((network.uplink.as_str(), network.bridge.as_str(), network.bridge_index), ("eth0", "azure0", Some(5)));
        }
        host.links[0].controller = None;
        let no_uplink = Network::choose(&named(None, None), subnet(), &host);
        assert_eq!(no_uplink, Err(NetworkError::NoUplink("azure0".into())));
        host.links[1].alias = Some(format!("{ALIAS_PREFIX}eth0"));
        assert!(Network::choose(&named(None, Some("azure0")), subnet(), &host).is_ok(), "the bridge says which its uplink was");
        host.links.push(link(6, "bond0", Some("bond"), None));
        host.links[0].controller = Some(6);
        assert_eq!(Network::choose(&named(Some("eth0"), None), subnet(), &host), Err(NetworkError::Controlled("eth0".into())));
        assert_eq!(
            Network::choose(&named(None, None), "10.9.0.0/16".parse().unwrap(), &host),
            Err(NetworkError::NoMaster("10.9.0.0/16".parse().unwrap()))
        );
    }

    #[test]
    fn pk3_what_is_the_hosts_comes_before_any_pods_rule() {
        let host = fresh();
        for frames in [Frames::Direct, Frames::ToFabric] {
            let network = Network::choose(&wish(frames), subnet(), &host).unwrap();
            let text = |rules: Vec<(Chain, Option<IpAddr>, Rule)>| {
                rules.into_iter().map(|(chain, _, rule)| format!("{} {rule}", chain.as_str())).collect::<Vec<String>>()
            };
            let expected = [
                "AZURE-VNET -p ARP --arp-op Request --arp-ip-dst 10.240.0.4 -j arpreply --arpreply-mac 02:00:00:00:00:04 --arpreply-target DROP",
                "AZURE-VNET -p ARP -i eth0 --arp-op Reply -j dnat --to-dst ff:ff:ff:ff:ff:ff --dnat-target ACCEPT",
                "AZURE-VNET -p IPv4 -i az+ --ip-dst 10.240.0.4 -j redirect --redirect-target ACCEPT",
                "AZURE-VNET -p IPv6 -i az+ --ip6-dst fd00::4 -j redirect --redirect-target ACCEPT",
                "AZURE-VNET-OUT -s Unicast -o eth0 -j snat --to-src 02:00:00:00:00:04 --snat-arp --snat-target ACCEPT",
            ];
            assert_eq!(text(network.rules(&host)), expected);
            let local = "AZURE-VNET -p IPv4 -i az+ --ip-dst 169.254.20.10 -j redirect --redirect-target ACCEPT";
            let local_too = "AZURE-VNET -p IPv6 -i az+ --ip6-dst fd00:20::10 -j redirect --redirect-target ACCEPT";
            let services =
                "services -m conntrack --ctstate DNAT -m physdev --physdev-is-bridged --physdev-in az+ --physdev-out az+ -j MASQUERADE";
            let expected = match frames {
                Frames::Direct => vec![local, local_too],
                Frames::ToFabric => vec![local, local_too, services],
            };
            assert_eq!(text(Network::asked(&wish(frames))), expected);
        }
    }
}
