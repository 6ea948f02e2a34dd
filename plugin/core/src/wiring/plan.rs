//! The one planner of all modes: a mode says only what is wanted. The steps are what the kernel does not show of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use ipnet::IpNet;

use super::{Alias, HOST_MAC, Mac, Owner, everywhere, gateway};
use crate::{
    attachment::{Attachment, IfName},
    frames::{Frames, PodRule},
};

/// What the wiring of one pod is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wiring {
    /// Whose it is.
    pub attachment: Attachment,
    /// Name of the host's end.
    pub host_link: IfName,
    /// Hardware address of the pod's end.
    pub mac: Mac,
    /// The addresses, with the length of their subnets' prefixes.
    pub addresses: Vec<IpNet>,
    /// Largest packet, at both ends.
    pub mtu: u32,
    /// How packets go between the pod and the rest.
    pub way: Way,
}

/// How packets go between a pod and the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// The host routes them.
    Routed,
    /// A bridge passes them on.
    Bridged(Bridged),
}

/// A pod's place on a bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bridged {
    /// The bridge, by its number.
    pub bridge: u32,
    /// The uplink, by its name.
    pub uplink: IfName,
    /// Where the pod's frames go.
    pub frames: Frames,
    /// The routes that the pod gets: where to and through whom.
    pub routes: Vec<(IpNet, Option<IpAddr>)>,
}

impl Wiring {
    /// What the host's end says of itself.
    #[must_use]
    pub fn alias(&self) -> Alias {
        let mut addresses = self.addresses.iter().map(IpNet::addr);
        let address = addresses.clone().find(IpAddr::is_ipv4).or_else(|| addresses.next());
        Alias { attachment: self.attachment.clone(), address: address.unwrap_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED)) }
    }

    /// The rules that a bridged pod has.
    #[must_use]
    pub fn rules(&self) -> Vec<PodRule> {
        match &self.way {
            Way::Routed => Vec::new(),
            Way::Bridged(bridged) => {
                let hosts = self.addresses.iter().map(IpNet::addr);
                PodRule::desire(bridged.frames, &self.host_link, &bridged.uplink, self.mac, hosts)
            }
        }
    }

    /// All steps, in the order in which they are made.
    #[must_use]
    pub fn steps(&self) -> Vec<Step> {
        let hosts = || self.addresses.iter().map(IpNet::addr);
        let mut steps = vec![Step::Pair, Step::Label];
        if let Way::Bridged(_) = self.way {
            steps.push(Step::Port);
        }
        steps.extend(hosts().map(Step::HostRoute));
        if let Way::Bridged(_) = self.way {
            steps.extend(hosts().map(Step::HostNeighbour));
            steps.push(Step::Rules);
        }
        steps.push(Step::PodUp);
        steps.extend(self.addresses.iter().copied().map(Step::Address));
        steps.extend(self.pod_routes().into_iter().map(|(destination, gateway)| Step::PodRoute(destination, gateway)));
        if self.way == Way::Routed {
            steps.extend(self.gateways().into_iter().map(|gateway| Step::PodNeighbour(gateway, HOST_MAC)));
        }
        steps
    }

    /// The steps that are left; none if the kernel shows all of it.
    #[must_use]
    pub fn plan(&self, observed: &Observed) -> Vec<Step> {
        self.steps().into_iter().filter(|step| !self.shows(observed, *step)).collect()
    }

    /// Whether the kernel shows the outcome of a step. Hardware addresses and packet sizes are not compared: later plugins may set them
    /// (safety rule CM5).
    fn shows(&self, observed: &Observed, step: Step) -> bool {
        let (Some(host), Some(pod)) = (&observed.host, &observed.pod) else { return false };
        if host.owner != Owner::This || host.peer != Some(pod.index) || pod.peer != Some(host.index) {
            return false;
        }
        match step {
            Step::Pair => true,
            Step::Label => host.up && host.alias.as_ref() == Some(&self.alias()) && (host.proxy_arp || self.way != Way::Routed),
            Step::Port => host.hairpin && matches!(&self.way, Way::Bridged(bridged) if host.controller == Some(bridged.bridge)),
            Step::HostRoute(address) => host.routes.contains(&address),
            Step::HostNeighbour(address) => host.neighbours.get(&address).is_some_and(|mac| Some(*mac) == pod.mac || *mac == self.mac),
            Step::Rules => host.has_rules,
            Step::PodUp => pod.up,
            Step::Address(address) => pod.addresses.contains(&(address.addr(), address.prefix_len())),
            Step::PodRoute(destination, gateway) => pod.routes.contains(&(destination, gateway)),
            // The kernel drops all neighbours of a link whose hardware address is changed; proxy ARP answers in the entry's place.
            Step::PodNeighbour(address, _) => pod.mac != Some(self.mac) || pod.neighbours.get(&address).copied() == host.mac,
        }
    }

    fn pod_routes(&self) -> Vec<(IpNet, Option<IpAddr>)> {
        match &self.way {
            Way::Bridged(bridged) => {
                // The addresses bring none of their own.
                let subnets: BTreeSet<IpNet> = self.addresses.iter().map(IpNet::trunc).filter(|subnet| !is_single(subnet)).collect();
                subnets.into_iter().map(|subnet| (subnet, None)).chain(bridged.routes.iter().copied()).collect()
            }
            Way::Routed => {
                let routes = |gateway: IpAddr| [(IpNet::from(gateway), None), (everywhere(gateway), Some(gateway))];
                self.gateways().into_iter().flat_map(routes).collect()
            }
        }
    }

    fn gateways(&self) -> BTreeSet<IpAddr> {
        self.addresses.iter().map(|address| gateway(address.addr())).collect()
    }
}

impl Bridged {
    /// The routes of a pod whose result names gateways and routes: a route without a gateway takes that of its family.
    #[must_use]
    pub fn routes_of(gateways: &[IpAddr], routes: &[(IpNet, Option<IpAddr>)]) -> Vec<(IpNet, Option<IpAddr>)> {
        let of_family = |like: IpAddr| gateways.iter().copied().find(|gateway| gateway.is_ipv4() == like.is_ipv4());
        let mut all: Vec<_> = routes.iter().map(|(to, via)| (*to, via.or_else(|| of_family(to.addr())))).collect();
        // A result without routes means the gateway for all else: the first of each family, since the kernel takes one.
        if all.is_empty() {
            let first = gateways.iter().filter(|gateway| of_family(**gateway) == Some(**gateway));
            let defaults: BTreeMap<IpNet, IpAddr> = first.map(|gateway| (everywhere(*gateway), *gateway)).collect();
            all.extend(defaults.into_iter().map(|(to, via)| (to, Some(via))));
        }
        all
    }
}

fn is_single(subnet: &IpNet) -> bool {
    subnet.prefix_len() == subnet.max_prefix_len()
}

/// A pod's wiring as the kernel shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// The link of the wanted name on the host.
    pub host: Option<HostEnd>,
    /// The link of the wanted name in the pod.
    pub pod: Option<PodEnd>,
}

/// The host's end.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is one flag of the kernel")]
pub struct HostEnd {
    /// Its number.
    pub index: u32,
    /// Whose it is.
    pub owner: Owner,
    /// Its alias, if ours.
    pub alias: Option<Alias>,
    /// Number of its peer.
    pub peer: Option<u32>,
    /// Its hardware address.
    pub mac: Option<Mac>,
    /// Whether it is up.
    pub up: bool,
    /// Whether it answers ARP for others.
    pub proxy_arp: bool,
    /// The bridge that it is a port of.
    pub controller: Option<u32>,
    /// Whether frames may leave by the port that they came by.
    pub hairpin: bool,
    /// Addresses of the pod with a route of their own to it.
    pub routes: BTreeSet<IpAddr>,
    /// Hardware addresses entered for good for addresses of the pod.
    pub neighbours: BTreeMap<IpAddr, Mac>,
    /// Whether the rules for its frames are there.
    pub has_rules: bool,
}

/// The pod's end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodEnd {
    /// Its number.
    pub index: u32,
    /// Number of its peer.
    pub peer: Option<u32>,
    /// Its hardware address.
    pub mac: Option<Mac>,
    /// Whether it is up.
    pub up: bool,
    /// Its addresses and their prefix lengths.
    pub addresses: BTreeSet<(IpAddr, u8)>,
    /// Routes through it.
    pub routes: BTreeSet<(IpNet, Option<IpAddr>)>,
    /// Hardware addresses entered for good.
    pub neighbours: BTreeMap<IpAddr, Mac>,
}

/// One step of the wiring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// The pair of links, its far end in the pod, its near end up.
    Pair,
    /// The near end's alias and, where the host routes, proxy ARP.
    Label,
    /// The near end as a port of the bridge, with hairpin.
    Port,
    /// The host's route to the pod, added exclusively: the last guard against an address that is in use (safety rule ST4).
    HostRoute(IpAddr),
    /// The pod's hardware address, entered for good on the bridge.
    HostNeighbour(IpAddr),
    /// The rules for the pod's frames.
    Rules,
    /// The far end, up.
    PodUp,
    /// An address of the pod.
    Address(IpNet),
    /// A route of the pod.
    PodRoute(IpNet, Option<IpAddr>),
    /// The gateway's hardware address.
    PodNeighbour(IpAddr, Mac),
}

impl Step {
    /// Those to take back of a list of steps, last first; with the pair all on the links goes.
    #[must_use]
    pub fn to_undo(steps: &[Self]) -> Vec<Self> {
        let pair = steps.contains(&Self::Pair);
        let stays = |step: &&Self| match step {
            // A link of ours that is labelled and up without the rest carries nothing and is in no one's way.
            Self::Label | Self::PodUp => false,
            // On the bridge or beside it: none of it goes with the links. Where the host routes, that a route is gone is no error.
            Self::Pair | Self::HostRoute(_) | Self::HostNeighbour(_) | Self::Rules => true,
            Self::Port | Self::Address(_) | Self::PodRoute(..) | Self::PodNeighbour(..) => !pair,
        };
        steps.iter().rev().filter(stays).copied().collect()
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pair => f.write_str("the pair of links"),
            Self::Label => f.write_str("the host link's alias and proxy ARP"),
            Self::Port => f.write_str("the host link's place on the bridge"),
            Self::HostRoute(address) => write!(f, "the host's route to the pod, {address}"),
            Self::HostNeighbour(address) => write!(f, "the bridge's entry for the pod, {address}"),
            Self::Rules => f.write_str("the rules for the pod's frames"),
            Self::PodUp => f.write_str("the pod's link being up"),
            Self::Address(address) => write!(f, "the pod's address, {address}"),
            Self::PodRoute(destination, None) => write!(f, "the pod's route to {destination}"),
            Self::PodRoute(destination, Some(gateway)) if destination.prefix_len() == 0 => {
                write!(f, "the pod's default route via {gateway}")
            }
            Self::PodRoute(destination, Some(gateway)) => write!(f, "the pod's route to {destination} via {gateway}"),
            Self::PodNeighbour(address, _) => write!(f, "the pod's entry for its gateway, {address}"),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wiring::{HOST_MAC, pod_mac};

    pub(in crate::wiring) fn attachment(container: &str) -> Attachment {
        Attachment { container: container.parse().unwrap(), if_name: "eth0".parse().unwrap() }
    }

    pub(in crate::wiring) fn routed(addresses: &[&str]) -> Wiring {
        let attachment = attachment("abc");
        Wiring {
            mac: pod_mac(&attachment),
            host_link: "azv0d7763386da".parse().unwrap(),
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            mtu: 1500,
            way: Way::Routed,
            attachment,
        }
    }

    fn bridged(frames: Frames, addresses: &[&str]) -> Wiring {
        let gateways = ["10.240.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        let gateways = &gateways[..addresses.len()];
        let way = Way::Bridged(Bridged { bridge: 3, uplink: "eth0".parse().unwrap(), frames, routes: Bridged::routes_of(gateways, &[]) });
        Wiring { way, ..routed(addresses) }
    }

    fn all() -> Vec<Wiring> {
        let (one, both) = (["10.240.0.9/16"], ["10.240.0.9/16", "fd00::9/64"]);
        let mut all = vec![routed(&one), routed(&both)];
        for frames in [Frames::Direct, Frames::ToFabric] {
            all.extend([bridged(frames, &one), bridged(frames, &both)]);
        }
        all
    }

    /// What the kernel shows after these steps.
    pub(in crate::wiring) fn after(steps: &BTreeSet<Step>, wiring: &Wiring) -> Observed {
        if !steps.contains(&Step::Pair) {
            return Observed::default();
        }
        let has = |step| steps.contains(&step);
        let mut host = HostEnd {
            index: 7,
            owner: Owner::This,
            alias: has(Step::Label).then(|| wiring.alias()),
            peer: Some(2),
            mac: Some(HOST_MAC),
            up: true,
            proxy_arp: has(Step::Label) && wiring.way == Way::Routed,
            controller: has(Step::Port).then_some(3),
            hairpin: has(Step::Port),
            routes: BTreeSet::new(),
            neighbours: BTreeMap::new(),
            has_rules: has(Step::Rules),
        };
        let mut pod = PodEnd { index: 2, peer: Some(7), mac: Some(wiring.mac), up: has(Step::PodUp), ..PodEnd::default() };
        for step in steps {
            match *step {
                Step::HostRoute(address) => drop(host.routes.insert(address)),
                Step::HostNeighbour(address) => drop(host.neighbours.insert(address, wiring.mac)),
                Step::Address(address) => drop(pod.addresses.insert((address.addr(), address.prefix_len()))),
                Step::PodRoute(to, via) => drop(pod.routes.insert((to, via))),
                Step::PodNeighbour(address, mac) => drop(pod.neighbours.insert(address, mac)),
                Step::Pair | Step::Label | Step::Port | Step::Rules | Step::PodUp => {}
            }
        }
        Observed { host: Some(host), pod: Some(pod) }
    }

    proptest! {
        #[test]
        fn the_plan_completes_whatever_was_made_and_then_is_empty(wiring in proptest::sample::select(all()), made: u32) {
            let steps = wiring.steps();
            let made: BTreeSet<Step> = steps.iter().enumerate().filter(|(at, _)| made >> at & 1 == 1).map(|(_, step)| *step).collect();
            let plan = wiring.plan(&after(&made, &wiring));
            let kept = if made.contains(&Step::Pair) { made } else { BTreeSet::new() };
            let whole: BTreeSet<Step> = kept.into_iter().chain(plan).collect();
            prop_assert_eq!(whole.len(), steps.len());
            prop_assert!(wiring.plan(&after(&whole, &wiring)).is_empty());
        }
    }

    #[test]
    fn a_mode_says_only_what_is_wanted() {
        let text = |wiring: &Wiring| wiring.steps().iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        let transparent = "the pair of links
the host link's alias and proxy ARP
the host's route to the pod, 10.240.0.9
the pod's link being up
the pod's address, 10.240.0.9/16
the pod's route to 169.254.1.1/32
the pod's default route via 169.254.1.1
the pod's entry for its gateway, 169.254.1.1";
        assert_eq!(text(&routed(&["10.240.0.9/16"])), transparent);
        let bridge = "the pair of links
the host link's alias and proxy ARP
the host link's place on the bridge
the host's route to the pod, 10.240.0.9
the bridge's entry for the pod, 10.240.0.9
the rules for the pod's frames
the pod's link being up
the pod's address, 10.240.0.9/16
the pod's route to 10.240.0.0/16
the pod's default route via 10.240.0.1";
        for frames in [Frames::Direct, Frames::ToFabric] {
            assert_eq!(text(&bridged(frames, &["10.240.0.9/16"])), bridge);
        }
    }

    #[test]
    fn steps_are_taken_back_last_first_and_the_pair_takes_what_is_on_it() {
        let wiring = bridged(Frames::ToFabric, &["10.240.0.9/16"]);
        let address: IpAddr = [10, 240, 0, 9].into();
        let undone = Step::to_undo(&wiring.steps());
        assert_eq!(undone, [Step::Rules, Step::HostNeighbour(address), Step::HostRoute(address), Step::Pair]);
        let half = [Step::Label, Step::HostRoute(address), Step::Address(wiring.addresses[0])];
        assert_eq!(Step::to_undo(&half), [Step::Address(wiring.addresses[0]), Step::HostRoute(address)]);
    }

    #[test]
    fn a_result_without_routes_means_the_gateway_for_all_else() {
        let gateway: IpAddr = [10, 240, 0, 1].into();
        let (all, some): (IpNet, IpNet) = ("0.0.0.0/0".parse().unwrap(), "10.1.0.0/16".parse().unwrap());
        assert_eq!(Bridged::routes_of(&[gateway], &[]), [(all, Some(gateway))]);
        assert_eq!(Bridged::routes_of(&[gateway], &[(some, None)]), [(some, Some(gateway))]);
        assert_eq!(Bridged::routes_of(&[], &[(some, None)]), [(some, None)]);
    }
}
