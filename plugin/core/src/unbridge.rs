//! Taking the network of bridged pods back, as values: the uplink gets its addresses and routes again, and the bridge goes. The same plan
//! completes what was begun. Nothing here touches a kernel, and nothing is planned while pods are on the bridge.

use std::{collections::BTreeSet, fmt, net::IpAddr};

use ipnet::IpNet;

use crate::{
    attachment::IfName,
    bridge::{Host, HostLink, Movable},
};

/// The device group of the bridges that these plugins made: only those are taken away unasked.
pub const MADE: u32 = u32::from_be_bytes(*b"azvb");

/// What there is to know of one bridge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Around {
    /// Links, addresses, and the routes through the bridge.
    pub host: Host,
    /// What the bridge has an entry for that was made for good: pods, which may be gone.
    pub entries: BTreeSet<IpAddr>,
}

/// One step back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StepBack {
    /// The move back, which is one message to the kernel and so done or not done: the uplink out of the bridge, addresses and routes to it.
    Move(MoveBack),
    /// Sets the uplink up.
    SetUp,
    /// Deletes the bridge.
    Delete,
}

/// What is to be moved back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MoveBack {
    /// Whether the uplink is a port of the bridge.
    pub release: bool,
    /// Addresses that the uplink lacks.
    pub add_addresses: Vec<Movable>,
    /// Routes, those without a gateway first.
    pub routes: Vec<Movable>,
    /// Addresses of the bridge.
    pub remove_addresses: Vec<Movable>,
}

/// The way back of one bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WayBack {
    /// The uplink's number; none where the bridge has neither uplink nor addresses.
    pub uplink: Option<u32>,
    /// The steps.
    pub steps: Vec<StepBack>,
}

/// Why a bridge stays.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stays {
    /// Pods are on it.
    #[error("bridge {bridge} has pods: {}", ports.join(", "))]
    InUse {
        /// The bridge.
        bridge: String,
        /// The ports.
        ports: Vec<String>,
    },
    /// It has addresses, and nobody knows where they belong.
    #[error("bridge {0} has addresses and no port that is its one uplink")]
    NoUplink(String),
    /// It was there before, or another program made it.
    #[error("bridge {0} was not made by azure-vnet: name it to take it away")]
    NotOurs(String),
}

/// The bridges to be taken away: those that these plugins made or used, or the one that is named.
pub fn bridges<'a>(host: &'a Host, named: Option<&'a IfName>) -> impl Iterator<Item = &'a HostLink> {
    let is_meant = move |link: &&HostLink| match named {
        Some(name) => link.name == name.as_str(),
        None => link.group == MADE || link.alias.as_deref().is_some_and(|alias| crate::bridge::uplink_in(alias).is_some()),
    };
    host.links.iter().filter(|link| link.is_bridge()).filter(is_meant)
}

/// The steps that are left.
///
/// # Errors
/// The bridge has to stay.
pub fn plan(bridge: &HostLink, around: &Around, named: bool) -> Result<WayBack, Stays> {
    let host = &around.host;
    let name = || bridge.name.clone();
    let uplink = host.uplink_of(bridge);
    if bridge.group != MADE && !named {
        return Err(Stays::NotOurs(name()));
    }
    vacant(bridge, uplink.map_or(0, |uplink| uplink.index), &host.links)?;
    let Some(uplink) = uplink else {
        let has_addresses = host.addresses.iter().any(|address| address.link == bridge.index);
        return if has_addresses { Err(Stays::NoUplink(name())) } else { Ok(WayBack { uplink: None, steps: vec![StepBack::Delete] }) };
    };
    // The kernel takes no route through a link that is down.
    let mut steps: Vec<StepBack> = (!uplink.up).then_some(StepBack::SetUp).into_iter().collect();
    steps.extend(moving(bridge, uplink, around).map(StepBack::Move));
    steps.push(StepBack::Delete);
    Ok(WayBack { uplink: Some(uplink.index), steps })
}

/// Whether a bridge has no port but its uplink.
///
/// # Errors
/// It has: pods.
pub fn vacant(bridge: &HostLink, uplink: u32, links: &[HostLink]) -> Result<(), Stays> {
    let pods = links.iter().filter(|link| link.controller == Some(bridge.index) && link.index != uplink);
    let ports: Vec<String> = pods.map(|link| link.name.clone()).collect();
    if ports.is_empty() { Ok(()) } else { Err(Stays::InUse { bridge: bridge.name.clone(), ports }) }
}

fn moving(bridge: &HostLink, uplink: &HostLink, around: &Around) -> Option<MoveBack> {
    let of = |link: u32| around.host.addresses.iter().filter(move |address| address.link == link);
    let there: Vec<IpNet> = of(uplink.index).map(|address| address.network).collect();
    let on_bridge: Vec<Movable> = of(bridge.index).cloned().collect();
    // A pod that went without a DEL leaves its route, which is no route of the uplink's.
    let is_pods = |route: &Movable| route.network == IpNet::from(route.network.addr()) && around.entries.contains(&route.network.addr());
    let mut routes: Vec<Movable> =
        around.host.routes.iter().filter(|route| route.link == bridge.index && !is_pods(route)).cloned().collect();
    routes.sort_by_key(|route| route.has_gateway);
    let moving = MoveBack {
        release: uplink.controller == Some(bridge.index),
        add_addresses: on_bridge.iter().filter(|address| !there.contains(&address.network)).cloned().collect(),
        routes,
        remove_addresses: on_bridge,
    };
    (moving != MoveBack::default()).then_some(moving)
}

impl fmt::Display for StepBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Move(_) => "move the host's addresses and routes back to the uplink",
            Self::SetUp => "set the uplink up",
            Self::Delete => "delete the bridge",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wiring::Mac;

    fn link(index: u32, name: &str, kind: Option<&str>, controller: Option<u32>) -> HostLink {
        HostLink {
            index,
            name: name.into(),
            kind: kind.map(str::to_owned),
            mac: Some(Mac([2, 0, 0, 0, 0, 4])),
            mtu: 1500,
            controller,
            up: true,
            hairpin: false,
            alias: None,
            group: 0,
        }
    }

    fn at(link: u32, network: &str, has_gateway: bool) -> Movable {
        Movable { link, network: network.parse().unwrap(), has_gateway, words: network.as_bytes().to_vec() }
    }

    fn bridged() -> Around {
        let mut bridge = link(5, "azure2", Some("bridge"), None);
        (bridge.group, bridge.alias) = (MADE, Some("azure-vnet:bridge eth0".into()));
        let host = Host {
            links: vec![link(1, "lo", None, None), link(2, "eth0", None, Some(5)), bridge],
            addresses: vec![at(5, "10.240.0.4/16", false), at(5, "fd00::4/64", false)],
            routes: vec![
                at(5, "0.0.0.0/0", true),
                at(5, "10.240.0.1/32", false),
                at(5, "10.240.1.7/32", false),
                at(9, "10.9.0.0/16", false),
            ],
        };
        Around { host, entries: [[10, 240, 1, 7].into()].into() }
    }

    fn way(around: &Around) -> Result<WayBack, Stays> {
        plan(bridges(&around.host, None).next().unwrap(), around, false)
    }

    #[test]
    fn the_uplink_gets_all_back_but_what_was_a_pods() {
        let WayBack { uplink, steps } = way(&bridged()).unwrap();
        let moving = MoveBack {
            release: true,
            add_addresses: bridged().host.addresses,
            routes: vec![at(5, "10.240.0.1/32", false), at(5, "0.0.0.0/0", true)],
            remove_addresses: bridged().host.addresses,
        };
        assert_eq!((uplink, steps), (Some(2), vec![StepBack::Move(moving), StepBack::Delete]));
    }

    #[test]
    fn what_was_begun_is_completed() {
        let mut around = bridged();
        around.host.links[1].controller = None;
        around.host.addresses.iter_mut().for_each(|address| address.link = 2);
        around.host.routes.clear();
        assert_eq!(way(&around).unwrap().steps, [StepBack::Delete]);
        around.host.links[1].up = false;
        assert_eq!(way(&around).unwrap().steps, [StepBack::SetUp, StepBack::Delete]);
    }

    #[test]
    fn a_bridge_with_pods_or_of_others_or_without_an_uplink_stays() {
        let mut around = bridged();
        around.host.links.push(link(9, "azv1", Some("veth"), Some(5)));
        assert_eq!(way(&around), Err(Stays::InUse { bridge: "azure2".into(), ports: vec!["azv1".into()] }));
        around.host.links[2].group = 0;
        assert_eq!(way(&around), Err(Stays::NotOurs("azure2".into())), "whatever else is on it");
        around = bridged();
        around.host.links[2].group = 0;
        assert_eq!(way(&around), Err(Stays::NotOurs("azure2".into())));
        assert!(plan(&around.host.links[2], &around, true).is_ok(), "who names it means it");
        around.host.links[2].alias = None;
        assert_eq!(bridges(&around.host, None).count(), 0);
        around.host.links[1].controller = None;
        assert_eq!(plan(&around.host.links[2], &around, true), Err(Stays::NoUplink("azure2".into())));
        around.host.addresses.clear();
        assert_eq!(plan(&around.host.links[2], &around, true).unwrap().steps, [StepBack::Delete]);
    }
}
