//! Carries out the network of bridged pods: observes the host's links, addresses and routes, makes what is missing, and observes again.
//! Nothing here takes a bridge away or an uplink out of one, but for a move that the kernel refused in its middle.

use std::{
    collections::BTreeSet,
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use azure_vnet_plugin_core::{
    attachment::{Attachment, IfName, Mode},
    bridge::{self, Host, HostLink, Move, Network, NetworkError, NetworkStep, NetworkWish, Which},
    error::chain,
    frames::{self, Holder, ObservedRule, RulePlan},
    unbridge,
};
use ipnet::IpNet;

use crate::{
    frames::Frames,
    lock,
    netlink::{Change, Errno, Family, Link, LinkBy, LinkIndex, Lookup, Netlink, NetlinkError, Route},
    resolvers,
    store::LOCK_WAIT,
    switch::{self, SwitchError},
};

/// The namespace that the calling thread is in: locked while its network is changed, whichever folders a process sees.
const OWN_NAMESPACE: &str = "/proc/thread-self/ns/net";
/// How often what was made is looked at again: what the first pass cannot do for want of a link's number, the second does.
const PASSES: usize = 4;

/// Why there is no network for a bridged pod.
#[derive(Debug, thiserror::Error)]
pub enum BridgeError {
    /// The configuration and the host do not fit.
    #[error("{0}")]
    Network(#[from] NetworkError),
    /// The bridge is not to be taken away.
    #[error("{0}")]
    Stays(#[from] unbridge::Stays),
    /// The kernel could not be asked.
    #[error("cannot observe the host's network")]
    Observe(#[source] NetlinkError),
    /// A step failed.
    #[error("cannot {step}")]
    Step {
        /// The step.
        step: String,
        /// Why.
        #[source]
        source: NetlinkError,
    },
    /// The move failed in its middle, and was taken back, but not wholly.
    #[error("cannot {step}, and what was moved is not all back: {left}")]
    Stuck {
        /// The step.
        step: String,
        /// What is not back.
        left: String,
    },
    /// Rules for frames.
    #[error("cannot make the rules of bridge {bridge}")]
    Rules {
        /// The bridge.
        bridge: IfName,
        /// Why.
        #[source]
        source: NetlinkError,
    },
    /// Rules for frames, when they are to go.
    #[error("cannot remove the rules of bridges")]
    Unruled(#[source] NetlinkError),
    /// A switch of the kernel.
    #[error("cannot set a switch of the kernel")]
    Switch(#[source] SwitchError),
    /// The kernel's bridges do not know the rules of IPv4.
    #[error("bridges do not call iptables: {path} is missing; load the kernel module br_netfilter")]
    NoNetfilter {
        /// The switch.
        path: PathBuf,
    },
    /// The lock.
    #[error("cannot lock the host's network")]
    Lock(#[source] io::Error),
    /// Another process has the lock.
    #[error("the host's network is locked by another process for more than {} s", LOCK_WAIT.as_secs())]
    Busy,
    /// Something else changes it as fast as it is made.
    #[error("the network of bridge {bridge} does not come to rest, another program changes it: cannot {lacks} for good")]
    Unsettled {
        /// Its bridge.
        bridge: IfName,
        /// What was last done, and undone.
        lacks: String,
    },
}

/// A network that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// Its links.
    pub network: Network,
    /// The bridge's number.
    pub bridge: LinkIndex,
    /// What could not be done, and is no reason to fail.
    pub warning: Option<String>,
}

/// Makes what is missing of the network for pods of a subnet, and answers it. Of several processes one does so at a time.
///
/// # Errors
/// See [`BridgeError`].
pub fn ensure(host: &mut Netlink, frames: &mut Frames, wish: &NetworkWish, subnet: IpNet) -> Result<Ready, BridgeError> {
    let net = Path::new(switch::NET);
    if let Pass::Ready(ready) = look(host, frames, wish, subnet, net)? {
        return Ok(*ready);
    }
    let _lock = locked()?;
    settle(host, frames, wish, subnet, net)
}

/// Settles the networks that changed under their pods, as the next bridged pod's ADD does: puts uplinks that were taken out of their bridges back, with
/// what addresses and routes they got since, and lets bridges take what packets their uplinks take. Answers the bridges. `net` is where the kernel's switches can be written: `/proc/sys/net`, which in a container may be mounted elsewhere.
///
/// # Errors
/// See [`BridgeError`].
pub fn mend(host: &mut Netlink, net: &Path) -> Result<Vec<Result<IfName, BridgeError>>, BridgeError> {
    let _lock = locked()?;
    let mut frames = Frames::open().map_err(BridgeError::Observe)?;
    // Looked at under the lock, which whoever takes a bridge away has too.
    let wishes = astray(host.links().map_err(BridgeError::Observe)?);
    let mut settled = |wish| settle(host, &mut frames, wish, IpNet::default(), net).map(|ready| ready.network.bridge);
    Ok(wishes.iter().map(&mut settled).collect())
}

/// The networks that changed under their pods.
#[must_use]
pub fn astray(links: Vec<Link>) -> Vec<NetworkWish> {
    bridge::astray(&links.into_iter().map(host_link).collect::<Vec<_>>())
}

/// Makes what is missing, until nothing is. Its caller has the lock.
fn settle(host: &mut Netlink, frames: &mut Frames, wish: &NetworkWish, subnet: IpNet, net: &Path) -> Result<Ready, BridgeError> {
    let (mut unsettled, mut warning) = (BridgeError::Lock(io::ErrorKind::Other.into()), None);
    for _ in 0..PASSES {
        match look(host, frames, wish, subnet, net)? {
            Pass::Ready(ready) => return Ok(Ready { warning, ..*ready }),
            Pass::Lacking { network, seen, steps } => {
                // First: a host whose bridges can not is left as it is.
                enforce(net)?;
                for step in &steps {
                    if *step == NetworkStep::Resolvers {
                        let result = resolvers::take_over(network.uplink.as_str(), network.bridge.as_str());
                        warning = result.err().map(|error| format!("cannot {step}: {}", chain(&error)));
                    } else {
                        carry_out(host, &network, &seen, step)?;
                    }
                }
                settle_rules(frames, wish, &network, &seen)?;
                let lacks = lacks(&steps);
                unsettled = BridgeError::Unsettled { bridge: network.bridge, lacks };
            }
        }
    }
    Err(unsettled)
}

/// What was to be done, in words. Where no step is left, it was the rules or the kernel's switch.
fn lacks(steps: &[NetworkStep]) -> String {
    match steps {
        [] => "keep the rules of its network and bridges calling iptables".to_owned(),
        steps => steps.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}

/// The lock of the host's network, held until it is dropped.
pub(crate) fn locked() -> Result<fs::File, BridgeError> {
    let namespace = fs::File::open(OWN_NAMESPACE).map_err(BridgeError::Lock)?;
    if lock::wait_for(&namespace, LOCK_WAIT).map_err(BridgeError::Lock)? { Ok(namespace) } else { Err(BridgeError::Busy) }
}

/// What was forgotten of a pod. Its end waits for a grace period, in which the kernel ends what was deleted of rules: who deletes links
/// meanwhile waits once.
#[derive(Debug)]
pub struct Forgotten {
    /// How many rules.
    pub rules: usize,
    _socket: Option<Frames>,
}

/// What of a bridged pod stays when its links are gone: routes, the bridge's entries, rules. Removes it, for these addresses and for those that
/// the rules name, unless another pod has the address.
///
/// # Errors
/// The kernel refuses.
pub fn forget_pod(host: &mut Netlink, attachment: &Attachment, known: &[IpAddr]) -> Result<Forgotten, NetlinkError> {
    let mut frames = Frames::open_if_any()?;
    let rules = frames.as_mut().map_or(Ok(Vec::new()), Frames::observe)?;
    let tag = Holder::Pod(attachment.clone()).tag();
    let own = |rule: &&ObservedRule| rule.comment.tag == tag;
    let named = rules.iter().filter(own).filter_map(|rule| rule.comment.address);
    // The newest pod's rules stand first: what a former pod left for the address does not make it that pod's.
    let taken =
        |address: &IpAddr| rules.iter().find(|rule| rule.comment.address == Some(*address)).is_some_and(|first| first.comment.tag != tag);
    let addresses: BTreeSet<IpAddr> = named.chain(known.iter().copied()).filter(|address| !taken(address)).collect();
    for address in addresses {
        if let Some(way) = Way::to(host, address)? {
            way.remove(host)?;
        }
    }
    let count = rules.iter().filter(own).count();
    if let (Some(frames), true) = (&mut frames, count > 0) {
        frames.settle(|seen| RulePlan::of_pod(attachment, &[], seen))?;
    }
    Ok(Forgotten { rules: count, _socket: frames })
}

/// Route and entry of an address that a bridge of these plugins leads to. Others may have taken the route away, or led it elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    address: IpAddr,
    link: LinkIndex,
    route: Option<Route>,
}

impl Way {
    /// The way to an address. Whose it is its caller knows.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub fn to(host: &mut Netlink, address: IpAddr) -> Result<Option<Self>, NetlinkError> {
        if let Lookup::Route(route) = host.route_to(address)?
            && let (true, Some(link)) = (route.destination == IpNet::from(address), route.link)
            && is_ours(host, link)?
        {
            return Ok(Some(Self { address, link, route: Some(route) }));
        }
        let entries = host.neighbours(Family::of(address))?.into_iter().filter(|entry| entry.permanent && entry.address == address);
        for entry in entries {
            if is_ours(host, entry.link)? {
                return Ok(Some(Self { address, link: entry.link, route: None }));
            }
        }
        Ok(None)
    }

    /// Removes it.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn remove(self, host: &mut Netlink) -> Result<(), NetlinkError> {
        let Self { address, link, route } = self;
        // The route leads to the entry.
        gone(host.change(Change::DeleteNeighbour { link, address }))?;
        route.map_or(Ok(()), |route| gone(host.change(Change::DeleteRoute(route))))
    }
}

fn is_ours(host: &mut Netlink, bridge: LinkIndex) -> Result<bool, NetlinkError> {
    Ok(host.link(LinkBy::Index(bridge))?.is_some_and(|link| uplink_of(&link).is_some()))
}

/// How pods that are there are wired, by their links and rules. The rules are read once, and only if a pod is bridged.
#[derive(Debug, Default)]
pub struct ModesThere {
    rules: Option<Vec<ObservedRule>>,
}

impl ModesThere {
    /// That of the pod of a link. Where the kernel does not tell its rules, a bridged pod is one of bridge mode, whose DEL is the same.
    pub fn of(&mut self, attachment: &Attachment, host_link: &IfName, controller: Option<LinkIndex>) -> Mode {
        if controller.is_none() {
            return Mode::Transparent;
        }
        let observe =
            || Frames::open_if_any().and_then(|frames| frames.map_or(Ok(Vec::new()), |mut frames| frames.observe())).unwrap_or_default();
        match frames::Frames::of_pod(attachment, host_link, self.rules.get_or_insert_with(observe)) {
            frames::Frames::Direct => Mode::Bridge,
            frames::Frames::ToFabric => Mode::Tunnel,
        }
    }
}

/// The place of a pod that is there: the bridge that its link is a port of, and that one's uplink.
///
/// # Errors
/// The kernel does not answer.
pub fn place_of(host: &mut Netlink, host_link: &IfName) -> Result<Option<(LinkIndex, IfName)>, NetlinkError> {
    let Some(controller) = host.link(LinkBy::Name(host_link.as_str()))?.and_then(|link| link.controller) else { return Ok(None) };
    Ok(host.link(LinkBy::Index(controller))?.as_ref().and_then(uplink_of).map(|uplink| (controller, uplink)))
}

/// The uplink of a bridge that these plugins made or took; none of any other link.
#[must_use]
pub fn uplink_of(link: &Link) -> Option<IfName> {
    link.alias.as_deref().and_then(bridge::uplink_in).and_then(|name| name.parse().ok())
}

fn gone(result: Result<(), NetlinkError>) -> Result<(), NetlinkError> {
    match result {
        Err(error) if matches!(error.errno(), Some(Errno::NOENT | Errno::SRCH | Errno::NODEV)) => Ok(()),
        result => result,
    }
}

enum Pass {
    Ready(Box<Ready>),
    Lacking { network: Network, seen: Host, steps: Vec<NetworkStep> },
}

fn look(host: &mut Netlink, frames: &mut Frames, wish: &NetworkWish, subnet: IpNet, net: &Path) -> Result<Pass, BridgeError> {
    let mut seen = observe(host, wish, subnet).map_err(BridgeError::Observe)?;
    let network = Network::choose(wish, subnet, &seen)?;
    seen.routes = stray_routes(host, &network, &seen).map_err(BridgeError::Observe)?;
    let steps = network.plan(wish, &seen);
    let (true, Some(bridge), true) = (steps.is_empty(), network.bridge_index, switch::bridges_call_iptables(net)) else {
        return Ok(Pass::Lacking { network, seen, steps });
    };
    let rules = frames.observe_networks().map_err(|source| BridgeError::Rules { bridge: network.bridge.clone(), source })?;
    if rules_plan(wish, &network, &seen, &rules).is_empty() {
        return Ok(Pass::Ready(Box::new(Ready { network, bridge, warning: None })));
    }
    Ok(Pass::Lacking { network, seen, steps })
}

/// The links that can matter: asked for one by one, as a node has one for each pod; all of them only to look through another's bridge, or for the one
/// that an uplink was taken out of.
fn observe(host: &mut Netlink, wish: &NetworkWish, subnet: IpNet) -> Result<Host, NetlinkError> {
    let addresses = host.movable_addresses()?;
    let mut links: Vec<HostLink> = Vec::new();
    let mut wanted: Vec<LinkBy<'_>> =
        addresses.iter().filter(|a| a.network.trunc() == subnet.trunc()).map(|a| LinkBy::Index(a.link)).collect();
    wanted.extend([&wish.master, &wish.bridge].into_iter().flatten().map(|name| LinkBy::Name(name.as_str())));
    for by in wanted {
        add(&mut links, host.link(by)?);
    }
    // What the links found lead to: the bridge that one is a port of, the uplink that a bridge names.
    let mut at = 0;
    while let Some(link) = links.get(at).cloned() {
        let uplink = link.alias.as_deref().and_then(bridge::uplink_in);
        let is_loose = !link.is_bridge() && link.controller.is_none();
        if link.is_bridge() && uplink.is_none() || is_loose {
            let all = host.links()?;
            return Ok(Host { links: all.into_iter().map(host_link).collect(), addresses, routes: Vec::new() });
        }
        if let Some(name) = uplink {
            add(&mut links, host.link(LinkBy::Name(name))?);
        }
        if let Some(index) = link.controller {
            add(&mut links, host.link(LinkBy::Index(index))?);
        }
        at += 1;
    }
    Ok(Host { links, addresses, routes: Vec::new() })
}

fn add(links: &mut Vec<HostLink>, link: Option<Link>) {
    let Some(link) = link.map(host_link) else { return };
    if links.iter().all(|there| there.index != link.index) {
        links.push(link);
    }
}

pub(crate) fn host_link(link: Link) -> HostLink {
    let Link { index, name, alias, kind, mac, mtu, controller, hairpin, up, group, peer: _, carrier: _, proxy_arp: _ } = link;
    HostLink { index, name, kind, mac, mtu, controller, up, hairpin, alias, group }
}

/// Routes through the uplink: only looked for where it has not been moved, since with the pods' the table is long.
fn stray_routes(host: &mut Netlink, network: &Network, seen: &Host) -> Result<Vec<bridge::Movable>, NetlinkError> {
    let is_moved =
        seen.links.iter().any(|link| Some(link.index) == network.bridge_index && link.alias.as_deref() == Some(&network.alias()))
            && seen.links.iter().any(|link| link.index == network.uplink_index && link.controller == network.bridge_index)
            && seen.addresses.iter().all(|address| address.link != network.uplink_index);
    if is_moved { Ok(Vec::new()) } else { host.movable_routes(network.uplink_index) }
}

fn carry_out(host: &mut Netlink, network: &Network, seen: &Host, step: &NetworkStep) -> Result<(), BridgeError> {
    let failed = |source| BridgeError::Step { step: format!("{step} ({}, {})", network.bridge, network.uplink), source };
    if *step == NetworkStep::CreateBridge {
        // The kernel goes by a bridge's ports until the size is changed: it is made with another one than it is to have.
        let mtu = network.mtu.saturating_sub(1);
        let create = Change::CreateBridge { name: network.bridge.as_str(), mac: network.mac, mtu, group: unbridge::MADE };
        host.change(create).map_err(failed)?;
        switch::ignore_router_advertisements(network.bridge.as_str()).map_err(BridgeError::Switch)?;
    }
    let Some(bridge) = host.link(LinkBy::Name(network.bridge.as_str())).map_err(failed)?.map(|link| link.index) else {
        return Err(failed(NetlinkError::Malformed("the bridge is gone")));
    };
    let uplink = network.uplink_index;
    match step {
        NetworkStep::CreateBridge | NetworkStep::Resolvers => Ok(()),
        NetworkStep::PinMac => host.change(Change::SetMac { link: bridge, mac: network.mac }),
        NetworkStep::PinMtu => host.change(Change::SetMtu { link: bridge, mtu: network.mtu }),
        NetworkStep::SetUp(Which::Bridge) => host.change(Change::SetUp(bridge)),
        NetworkStep::SetUp(Which::Uplink) => host.change(Change::SetUp(uplink)),
        NetworkStep::Hairpin => host.change(Change::SetHairpin { link: uplink, on: true }),
        NetworkStep::Label => host.change(Change::SetAlias { link: bridge, alias: &network.alias() }),
        NetworkStep::Move(moving) => return relocate(host, network, seen, bridge, moving),
    }
    .map_err(failed)
}

/// The whole move in one message: a process that is killed has done all of it or nothing. Refused in its middle, it is taken back.
fn relocate(host: &mut Netlink, network: &Network, seen: &Host, bridge: LinkIndex, moving: &Move) -> Result<(), BridgeError> {
    let uplink = network.uplink_index;
    let Move { add_addresses, routes, enslave, remove_addresses } = moving;
    let mut changes: Vec<Change<'_>> =
        add_addresses.iter().map(|address| Change::CopyAddress { link: bridge, words: &address.words }).collect();
    changes.extend(routes.iter().map(|route| Change::CopyRoute { link: bridge, words: &route.words }));
    changes.extend(enslave.then_some(Change::SetController { link: uplink, controller: bridge }));
    changes.extend(remove_addresses.iter().map(|address| Change::DeleteCopied { link: uplink, words: &address.words }));
    let before = seen.links.iter().find(|link| link.index == uplink).and_then(|link| link.controller).unwrap_or_default();
    let mut back = vec![Change::SetController { link: uplink, controller: before }];
    back.extend(remove_addresses.iter().map(|address| Change::CopyAddress { link: uplink, words: &address.words }));
    back.extend(routes.iter().map(|route| Change::CopyRoute { link: uplink, words: &route.words }));
    back.extend(add_addresses.iter().map(|address| Change::DeleteCopied { link: bridge, words: &address.words }));
    let step = NetworkStep::Move(moving.clone());
    all_or_back(host, &format!("{step} ({}, {})", network.bridge, network.uplink), &changes, &back)
}

/// Sends changes in one message, and those that take them back where the kernel refuses one.
pub(crate) fn all_or_back(host: &mut Netlink, step: &str, changes: &[Change<'_>], back: &[Change<'_>]) -> Result<(), BridgeError> {
    let failed = |source| BridgeError::Step { step: step.to_owned(), source };
    let refused = host.changes(changes.iter().cloned()).map_err(failed)?;
    let Some((at, errno)) = refused.into_iter().find(|(_, errno)| !matches!(*errno, Errno::EXIST | Errno::ADDRNOTAVAIL)) else {
        return Ok(());
    };
    let what = changes.get(at).map(ToString::to_string).unwrap_or_default();
    let cause = failed(NetlinkError::Refused { what, errno });
    match take_back(host, back) {
        Ok(()) => Err(cause),
        Err(left) => Err(BridgeError::Stuck { step: chain(&cause), left }),
    }
}

fn take_back(host: &mut Netlink, back: &[Change<'_>]) -> Result<(), String> {
    let refused = host.changes(back.iter().cloned()).map_err(|error| chain(&error))?;
    let left: Vec<String> =
        refused.into_iter().filter_map(|(at, errno)| back.get(at).map(|change| format!("cannot {change}: {errno}"))).collect();
    if left.is_empty() { Ok(()) } else { Err(left.join("; ")) }
}

/// What is lacking of the rules, and what is in their place, to be changed together.
fn rules_plan(wish: &NetworkWish, network: &Network, seen: &Host, rules: &[ObservedRule]) -> RulePlan {
    let bridge = || network.bridge.clone();
    let plans = [
        RulePlan::towards(&Holder::Table, &bridge::table_rules(), rules),
        RulePlan::towards(&Holder::Network(bridge()), &network.rules(seen), rules),
        RulePlan::including(&Holder::Asked(bridge()), &Network::asked(wish), rules),
    ];
    plans.into_iter().fold(RulePlan::default(), |mut all, RulePlan { delete, add }| {
        all.delete.extend(delete);
        all.add.extend(add);
        all
    })
}

pub(crate) fn settle_rules(frames: &mut Frames, wish: &NetworkWish, network: &Network, seen: &Host) -> Result<(), BridgeError> {
    let plan = |rules: &[ObservedRule]| rules_plan(wish, network, seen, rules);
    frames.settle(plan).map_err(|source| BridgeError::Rules { bridge: network.bridge.clone(), source })
}

fn enforce(net: &Path) -> Result<(), BridgeError> {
    switch::let_bridges_call_iptables(net).map_err(|error| {
        let is_missing = error.source.kind() == io::ErrorKind::NotFound;
        if is_missing { BridgeError::NoNetfilter { path: error.path } } else { BridgeError::Switch(error) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_come_to_rest_is_named_also_where_no_step_is_left() {
        let said = |steps: &[NetworkStep]| {
            BridgeError::Unsettled { bridge: "azure0".parse().unwrap(), lacks: lacks(steps) }
                .to_string()
                .split_once("cannot ")
                .unwrap()
                .1
                .to_owned()
        };
        assert_eq!(said(&[]), "keep the rules of its network and bridges calling iptables for good");
        assert_eq!(
            said(&[NetworkStep::Hairpin, NetworkStep::PinMac]),
            format!("{}, {} for good", NetworkStep::Hairpin, NetworkStep::PinMac)
        );
    }
}
