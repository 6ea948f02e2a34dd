//! Carries out the wiring of one pod, in two sends to the host's kernel and one to the pod's, for a bridged pod one more for its rules; observes
//! it; takes it back.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    os::fd::AsFd,
};

use azure_vnet_plugin_core::{
    attachment::{Attachment, PodRef},
    frames::{ObservedRule, RulePlan},
    wiring::{self, HOST_MAC, HostEnd, Marks, Observed, Owner, PodEnd, Step, Takeover, Way, Wiring},
};
use ipnet::IpNet;

use crate::{
    bridge,
    frames::Frames,
    kernel_use::{self, Found},
    netlink::{
        Address, Change, Errno, Family, Link, LinkBy, LinkIndex, MAIN_TABLE, Netlink, NetlinkError, Peer, Reply, Request, Route, RouteKind,
        Scope, Veth,
    },
    netns::{Netns, NetnsError},
};

/// The number of the loopback link in every namespace.
const LOOPBACK: LinkIndex = 1;

/// Why a pod is not wired.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The kernel could not be asked.
    #[error("cannot observe the wiring of {link}")]
    Observe {
        /// The host's end.
        link: String,
        /// Why.
        #[source]
        source: NetlinkError,
    },
    /// A step failed.
    #[error("cannot make {step} ({link})")]
    Make {
        /// The step.
        step: Step,
        /// The host's end.
        link: String,
        /// The kernel's reason.
        #[source]
        source: Errno,
    },
    /// The pod has an interface of that name.
    #[error("interface {name} exists in the pod's namespace already")]
    PodLinkExists {
        /// Its name.
        name: String,
    },
    /// The link's name is taken.
    #[error("{0}")]
    Refused(String),
    /// Someone uses the address (safety rule ST4).
    #[error("address {address} is in use: {by}")]
    AddressInUse {
        /// The address.
        address: IpAddr,
        /// By what.
        by: String,
    },
    /// The rules for a bridged pod's frames.
    #[error("cannot make the rules for the frames of {link}")]
    Rules {
        /// The host's end.
        link: String,
        /// Why.
        #[source]
        source: NetlinkError,
    },
    /// IPv6 is off in the pod and cannot be turned on.
    #[error("cannot turn IPv6 on")]
    Ipv6(#[source] NetnsError),
    /// Taken back, but not wholly.
    #[error("cannot take back what was made: {left}")]
    Undo {
        /// What is left.
        left: String,
        /// Why it was to be taken back.
        #[source]
        source: Box<WireError>,
    },
}

/// Sockets of both sides, and the pod's namespace.
#[derive(Debug)]
pub struct Sides<'a> {
    /// The host.
    pub host: &'a mut Netlink,
    /// The pod.
    pub pod: &'a mut Netlink,
    /// The pod's namespace.
    pub netns: &'a Netns,
    /// Rules for frames, where the pod is bridged.
    pub frames: Option<FrameSide<'a>>,
}

/// The host's rules for frames.
#[derive(Debug)]
pub struct FrameSide<'a> {
    /// The socket to them.
    pub socket: &'a mut Frames,
    /// Whether the attachment had its address before, so that some of them may be there.
    pub may_be_there: bool,
}

/// What one run made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// The steps, in order.
    pub steps: Vec<Step>,
    host: LinkIndex,
    pod: LinkIndex,
}

/// The pod and lease of the attachment that a link in the way belongs to.
pub type Holder = (Attachment, Option<PodRef>);

/// Makes what is missing of a wiring. On failure everything that this call made is taken back.
///
/// # Errors
/// See [`WireError`].
pub fn make(
    sides: &mut Sides<'_>,
    wiring: &Wiring,
    pod: Option<&PodRef>,
    holder: impl Fn(&Owner) -> Option<Holder>,
) -> Result<Made, WireError> {
    let (made, missing) = match create_pair(sides, wiring)? {
        Some(made) => (made, all_but_the_pair(wiring)),
        None => settle_clash(sides, wiring, pod, &holder)?,
    };
    complete(sides, wiring, made, &missing)
}

/// Takes back what a run made.
///
/// # Errors
/// Something is left; the cause that is passed becomes the source.
pub fn undo(sides: &mut Sides<'_>, wiring: &Wiring, made: &Made, cause: WireError) -> WireError {
    let (mut left, mut entries) = (Vec::new(), BTreeSet::new());
    for step in Step::to_undo(&made.steps) {
        let (socket, change) = match step {
            Step::Pair => (&mut *sides.host, Change::DeleteLink(made.host)),
            Step::Port => (&mut *sides.host, Change::SetController { link: made.host, controller: 0 }),
            // It leads DEL to the entry that stays.
            Step::HostRoute(address) if entries.contains(&address) => continue,
            Step::HostRoute(address) => (&mut *sides.host, Change::DeleteRoute(host_route(wiring, made.host, address))),
            Step::HostNeighbour(address) => (&mut *sides.host, Change::DeleteNeighbour { link: near_link(wiring, made.host), address }),
            Step::Rules => {
                left.extend(forget_rules(sides, &wiring.attachment).err().map(|error| azure_vnet_plugin_core::error::chain(&error)));
                continue;
            }
            Step::Address(address) => (&mut *sides.pod, Change::DeleteAddress(pod_address(address, made.pod))),
            Step::PodRoute(to, via) => (&mut *sides.pod, Change::DeleteRoute(pod_route(wiring, to, via, made.pod))),
            Step::PodNeighbour(address, _) => (&mut *sides.pod, Change::DeleteNeighbour { link: made.pod, address }),
            Step::Label | Step::PodUp => continue,
        };
        match socket.change(change) {
            Ok(()) => {}
            Err(error) if error.errno().is_some_and(is_gone) => {}
            Err(error) => {
                left.push(azure_vnet_plugin_core::error::chain(&error));
                if let Step::HostNeighbour(address) = step {
                    entries.insert(address);
                }
            }
        }
    }
    // With its pair goes all that the pod has on the bridge, also what was made while the kernel's answer was lost.
    if let (Way::Bridged(_), true) = (&wiring.way, made.steps.contains(&Step::Pair)) {
        let addresses: Vec<IpAddr> = wiring.addresses.iter().map(IpNet::addr).collect();
        let forgotten = bridge::forget_pod(sides.host, &wiring.attachment, &addresses);
        left.extend(forgotten.err().map(|error| azure_vnet_plugin_core::error::chain(&error)));
    }
    if left.is_empty() { cause } else { WireError::Undo { left: left.join("; "), source: Box::new(cause) } }
}

/// Shows the wiring as it is, given the rules for frames that there are.
///
/// # Errors
/// The kernel cannot be asked.
pub fn observe(host: &mut Netlink, pod: Option<&mut Netlink>, rules: &[ObservedRule], wiring: &Wiring) -> Result<Observed, WireError> {
    let failed = |source| WireError::Observe { link: wiring.host_link.to_string(), source };
    let host_end = match host.link(LinkBy::Name(wiring.host_link.as_str())).map_err(failed)? {
        Some(link) => Some(host_end(host, &link, rules, wiring).map_err(failed)?),
        None => None,
    };
    let pod_end = pod.map(|pod| pod_end(pod, wiring)).transpose().map_err(failed)?.flatten();
    Ok(Observed { host: host_end, pod: pod_end })
}

/// Whose a link is.
#[must_use]
pub fn owner(link: &Link, attachment: &Attachment) -> Owner {
    Marks { alias: link.alias.as_deref(), group: link.group, mac: link.mac }.owner(attachment)
}

/// Creates the pair, its far end inside the pod at once. `None` if a link of the host's name is there. On failure none is left.
fn create_pair(sides: &mut Sides<'_>, wiring: &Wiring) -> Result<Option<Made>, WireError> {
    send_pair(sides, wiring).inspect_err(|_| remove_unseen(sides.host, wiring))
}

fn send_pair(sides: &mut Sides<'_>, wiring: &Wiring) -> Result<Option<Made>, WireError> {
    let (name, if_name) = (wiring.host_link.as_str(), wiring.attachment.if_name.as_str());
    let veth = Veth {
        name,
        mac: HOST_MAC,
        mtu: wiring.mtu,
        group: wiring::link_mark(&wiring.attachment),
        peer: Peer { name: if_name, mac: wiring.mac, netns: sides.netns.as_fd() },
    };
    let failed = |source| WireError::Observe { link: name.to_owned(), source };
    let requests = [Request::Change(Change::CreateVeth(veth)), Request::Link(LinkBy::Name(name))];
    let mut replies = sides.host.exchange(&requests).map_err(failed)?.into_iter();
    match (replies.next(), replies.next()) {
        (Some(Reply::Done), Some(Reply::Link(link))) => {
            let pod = link.peer.unwrap_or_default();
            Ok(Some(Made { steps: vec![Step::Pair], host: link.index, pod }))
        }
        (Some(Reply::Refused(Errno::EXIST)), Some(Reply::Link(_))) => Ok(None),
        (Some(Reply::Refused(Errno::EXIST)), _) => Err(WireError::PodLinkExists { name: if_name.to_owned() }),
        // The second: made, and gone at once, for the pod's namespace went away.
        (Some(Reply::Refused(errno)), _) | (_, Some(Reply::Refused(errno))) => Err(make_error(Step::Pair, wiring, errno)),
        (_, _) => Err(failed(NetlinkError::Malformed("no link in the answer"))),
    }
}

/// Removes a pair that was made while the kernel's answer was lost: one of this attachment's that was never labelled.
fn remove_unseen(host: &mut Netlink, wiring: &Wiring) {
    if let Ok(Some(link)) = host.link(LinkBy::Name(wiring.host_link.as_str()))
        && link.alias.is_none()
        && owner(&link, &wiring.attachment) == Owner::This
    {
        // What cannot be removed now, DEL removes by its mark.
        let _ = delete(host, link.index);
    }
}

/// A link of the wanted name is there: completes it, replaces it, or refuses.
fn settle_clash(
    sides: &mut Sides<'_>,
    wiring: &Wiring,
    pod: Option<&PodRef>,
    holder: &impl Fn(&Owner) -> Option<Holder>,
) -> Result<(Made, Vec<Step>), WireError> {
    let rules_failed = |source| WireError::Rules { link: wiring.host_link.to_string(), source };
    let rules = sides.frames.as_mut().map_or(Ok(Vec::new()), |frames| frames.socket.observe()).map_err(rules_failed)?;
    let observed = observe(sides.host, Some(sides.pod), &rules, wiring)?;
    let lease = observed.host.as_ref().and_then(|host| holder(&host.owner));
    let lease = lease.as_ref().map(|(attachment, pod)| (attachment, pod.as_ref()));
    match (Takeover::decide(&observed, pod, lease, wiring), &observed.host) {
        (Takeover::Refuse(why), _) => Err(WireError::Refused(why)),
        (Takeover::Complete, Some(host)) => {
            let pod = observed.pod.as_ref().map(|pod| pod.index).unwrap_or_default();
            Ok((Made { steps: Vec::new(), host: host.index, pod }, wiring.plan(&observed)))
        }
        (Takeover::Renew | Takeover::TakeOver | Takeover::Complete, host) => {
            if let Some(host) = host {
                let failed = |source| WireError::Observe { link: wiring.host_link.to_string(), source };
                // What a bridge has of another address does not go with the link. It goes first: without the link the address may be
                // taken for free, and be another's by then.
                let _rules = match (&wiring.way, &host.alias) {
                    (Way::Bridged(_), Some(alias)) => {
                        Some(bridge::forget_pod(sides.host, &wiring.attachment, &[alias.address]).map_err(failed)?)
                    }
                    (Way::Bridged(_) | Way::Routed, _) => None,
                };
                delete(sides.host, host.index).map_err(failed)?;
            }
            let made = create_pair(sides, wiring)?
                .ok_or_else(|| WireError::Refused(format!("link {} was made anew by another process", wiring.host_link)))?;
            Ok((made, all_but_the_pair(wiring)))
        }
    }
}

/// Deletes a link; one that is gone is no error.
///
/// # Errors
/// The kernel refuses.
pub fn delete(host: &mut Netlink, link: LinkIndex) -> Result<(), NetlinkError> {
    match host.change(Change::DeleteLink(link)) {
        Err(error) if error.errno().is_some_and(is_gone) => Ok(()),
        result => result,
    }
}

fn all_but_the_pair(wiring: &Wiring) -> Vec<Step> {
    wiring.steps().into_iter().filter(|step| *step != Step::Pair).collect()
}

fn complete(sides: &mut Sides<'_>, wiring: &Wiring, mut made: Made, missing: &[Step]) -> Result<Made, WireError> {
    let result = make_host(sides.host, wiring, &mut made, missing)
        .and_then(|()| make_rules(sides, wiring, &mut made, missing))
        .and_then(|()| make_pod(sides, wiring, &mut made, missing));
    match result {
        Ok(()) => Ok(made),
        Err(cause) => Err(undo(sides, wiring, &made, cause)),
    }
}

/// An entry replaces another's, so it is sent once the exclusive route says that the address is nobody else's (safety rule ST4).
fn make_host(host: &mut Netlink, wiring: &Wiring, made: &mut Made, missing: &[Step]) -> Result<(), WireError> {
    let (entries, others): (Vec<Step>, Vec<Step>) = missing.iter().partition(|step| matches!(step, Step::HostNeighbour(_)));
    send_host(host, wiring, made, &others)?;
    // Where the kernel's answer is lost, they may be there.
    send_host(host, wiring, made, &entries).inspect_err(|_| made.steps.extend(entries))
}

fn send_host(host: &mut Netlink, wiring: &Wiring, made: &mut Made, missing: &[Step]) -> Result<(), WireError> {
    let alias = wiring.alias().to_string();
    let link = made.host;
    let changes = missing.iter().filter_map(|step| {
        let changes = match step {
            Step::Label if wiring.way == Way::Routed => vec![Change::Label { link, alias: &alias }],
            Step::Label => vec![Change::SetAlias { link, alias: &alias }],
            Step::Port => {
                vec![Change::SetController { link, controller: near_link(wiring, link) }, Change::SetHairpin { link, on: true }]
            }
            Step::HostRoute(address) => vec![Change::AddRoute(host_route(wiring, link, *address))],
            Step::HostNeighbour(address) => {
                vec![Change::SetNeighbour { link: near_link(wiring, link), address: *address, mac: wiring.mac }]
            }
            Step::Pair | Step::Rules | Step::PodUp | Step::Address(_) | Step::PodRoute(..) | Step::PodNeighbour(..) => return None,
        };
        Some((*step, changes))
    });
    match send(host, wiring, changes.collect(), &mut made.steps) {
        Err(WireError::Make { step: Step::HostRoute(address), source: Errno::EXIST, .. }) => replace_stale(host, wiring, made, address),
        result => result,
    }
}

/// The exclusive route was refused: if what is there is a dead link's, it gives way; else the address is in use.
fn replace_stale(host: &mut Netlink, wiring: &Wiring, made: &mut Made, address: IpAddr) -> Result<(), WireError> {
    let failed = |source| WireError::Observe { link: wiring.host_link.to_string(), source };
    let in_use = |by| WireError::AddressInUse { address, by };
    match kernel_use::found(host, address).map_err(failed)? {
        Found::Used(by) => return Err(in_use(by)),
        Found::Stale(stale) => host.change(Change::DeleteRoute(stale)).or_else(|error| match error.errno() {
            Some(errno) if is_gone(errno) => Ok(()),
            Some(_) | None => Err(failed(error)),
        })?,
        Found::Nothing => {}
    }
    let routes = wiring.addresses.iter().map(|address| (Step::HostRoute(address.addr()), address.addr()));
    let missing = routes.filter(|(step, _)| !made.steps.contains(step)).collect::<Vec<_>>().into_iter();
    let changes = missing.map(|(step, address)| (step, vec![Change::AddRoute(host_route(wiring, made.host, address))]));
    send(host, wiring, changes.collect(), &mut made.steps)
}

fn make_rules(sides: &mut Sides<'_>, wiring: &Wiring, made: &mut Made, missing: &[Step]) -> Result<(), WireError> {
    let (true, Some(frames)) = (missing.contains(&Step::Rules), &mut sides.frames) else { return Ok(()) };
    let failed = |source| WireError::Rules { link: wiring.host_link.to_string(), source };
    let wanted = wiring.rules();
    let plan = |seen: &[ObservedRule]| RulePlan::of_pod(&wiring.attachment, &wanted, seen);
    // Of a new pod there are none, and to look through those of all pods takes longer than all else here.
    let result = if frames.may_be_there { frames.socket.settle(plan) } else { frames.socket.apply(&plan(&[])) };
    result.map_err(failed)?;
    made.steps.push(Step::Rules);
    Ok(())
}

fn forget_rules(sides: &mut Sides<'_>, attachment: &Attachment) -> Result<(), NetlinkError> {
    match &mut sides.frames {
        Some(frames) => frames.socket.settle(|seen| RulePlan::of_pod(attachment, &[], seen)),
        None => Ok(()),
    }
}

fn make_pod(sides: &mut Sides<'_>, wiring: &Wiring, made: &mut Made, missing: &[Step]) -> Result<(), WireError> {
    let link = made.pod;
    if wiring.addresses.iter().any(|address| address.addr().is_ipv6()) && !missing.is_empty() {
        sides.netns.enable_ipv6().map_err(WireError::Ipv6)?;
    }
    let changes = missing.iter().filter_map(|step| {
        let changes = match step {
            Step::Pair | Step::Label | Step::Port | Step::HostRoute(_) | Step::HostNeighbour(_) | Step::Rules => return None,
            Step::PodUp => vec![Change::SetUp(LOOPBACK), Change::SetUp(link)],
            Step::Address(address) => vec![Change::AddAddress(pod_address(*address, link))],
            Step::PodRoute(to, via) => vec![Change::AddRoute(pod_route(wiring, *to, *via, link))],
            Step::PodNeighbour(address, mac) => vec![Change::SetNeighbour { link, address: *address, mac: *mac }],
        };
        Some((*step, changes))
    });
    send(sides.pod, wiring, changes.collect(), &mut made.steps)
}

/// Sends the changes of several steps at once, notes the steps that were made, and reports the first that was not.
fn send(socket: &mut Netlink, wiring: &Wiring, steps: Vec<(Step, Vec<Change<'_>>)>, made: &mut Vec<Step>) -> Result<(), WireError> {
    let owners: Vec<Step> = steps.iter().flat_map(|(step, changes)| changes.iter().map(|_| *step)).collect();
    let refused = socket
        .changes(steps.into_iter().flat_map(|(_, changes)| changes))
        .map_err(|source| WireError::Observe { link: wiring.host_link.to_string(), source })?;
    let failed = |step: Step| refused.iter().find(|(at, _)| owners.get(*at) == Some(&step)).map(|(_, errno)| *errno);
    let mut first = None;
    let mut steps = owners.clone();
    steps.dedup();
    for step in steps {
        match failed(step) {
            None => made.push(step),
            Some(errno) => first = first.or(Some((step, errno))),
        }
    }
    first.map_or(Ok(()), |(step, errno)| Err(make_error(step, wiring, errno)))
}

fn make_error(step: Step, wiring: &Wiring, source: Errno) -> WireError {
    WireError::Make { step, link: wiring.host_link.to_string(), source }
}

/// The link through which the host reaches the pod.
fn near_link(wiring: &Wiring, link: LinkIndex) -> LinkIndex {
    match &wiring.way {
        Way::Routed => link,
        Way::Bridged(bridged) => bridged.bridge,
    }
}

fn host_route(wiring: &Wiring, link: LinkIndex, address: IpAddr) -> Route {
    Route::on_link(IpNet::from(address), near_link(wiring, link))
}

fn pod_address(address: IpNet, link: LinkIndex) -> Address {
    Address { link, address: address.addr(), prefix_len: address.prefix_len() }
}

/// Routes through a pod's further interfaces come after those of the first, and do not meet one another.
fn pod_route(wiring: &Wiring, to: IpNet, via: Option<IpAddr>, link: LinkIndex) -> Route {
    /// What IPv6 gives a route without a metric.
    const AFTER_ALL: u32 = 1024;
    let metric = if wiring.attachment.if_name.as_str() == wiring::POD_INTERFACE { 0 } else { AFTER_ALL.saturating_add(link) };
    let on_link = Route { metric, ..Route::on_link(to, link) };
    match via {
        Some(gateway) => Route { gateway: Some(gateway), scope: Scope::Universe, ..on_link },
        None => on_link,
    }
}

fn families(wiring: &Wiring) -> BTreeSet<Family> {
    wiring.addresses.iter().map(|address| Family::of(address.addr())).collect()
}

fn host_end(host: &mut Netlink, link: &Link, rules: &[ObservedRule], wiring: &Wiring) -> Result<HostEnd, NetlinkError> {
    let near = near_link(wiring, link.index);
    let (mut routes, mut neighbours) = (BTreeSet::new(), BTreeMap::new());
    for address in wiring.addresses.iter().map(IpNet::addr) {
        routes.extend((kernel_use::link_of(host, address)? == Some(near)).then_some(address));
    }
    if wiring.way != Way::Routed {
        for family in families(wiring) {
            neighbours.extend(permanent(host, family, near)?);
        }
    }
    Ok(HostEnd {
        index: link.index,
        owner: owner(link, &wiring.attachment),
        alias: link.alias.as_deref().and_then(|alias| alias.parse().ok()),
        peer: link.peer,
        mac: link.mac,
        up: link.up,
        proxy_arp: link.proxy_arp == Some(true),
        controller: link.controller,
        hairpin: link.hairpin,
        routes,
        neighbours,
        has_rules: RulePlan::is_met(&wiring.attachment, &wiring.rules(), rules),
    })
}

fn pod_end(pod: &mut Netlink, wiring: &Wiring) -> Result<Option<PodEnd>, NetlinkError> {
    let Some(link) = pod.link(LinkBy::Name(wiring.attachment.if_name.as_str()))? else { return Ok(None) };
    let here = link.index;
    let mut end = PodEnd { index: here, peer: link.peer, mac: link.mac, up: link.up, ..PodEnd::default() };
    for family in families(wiring) {
        let addresses = pod.addresses(family)?.into_iter().filter(|address| address.link == here);
        end.addresses.extend(addresses.map(|a| (a.address, a.prefix_len)));
        let routes = pod.routes(family, MAIN_TABLE)?.into_iter();
        let routes = routes.filter(|route| route.link == Some(here) && route.kind == RouteKind::Unicast);
        end.routes.extend(routes.map(|route| (route.destination, route.gateway)));
        end.neighbours.extend(permanent(pod, family, here)?);
    }
    Ok(Some(end))
}

/// Hardware addresses that were entered for good on a link.
fn permanent(socket: &mut Netlink, family: Family, link: LinkIndex) -> Result<Vec<(IpAddr, wiring::Mac)>, NetlinkError> {
    let all = socket.neighbours(family)?.into_iter().filter(|n| n.link == link && n.permanent);
    Ok(all.filter_map(|n| Some((n.address, n.mac?))).collect())
}

/// What the kernel answers about what is no longer there.
fn is_gone(errno: Errno) -> bool {
    matches!(errno, Errno::NODEV | Errno::NXIO | Errno::SRCH | Errno::NOENT | Errno::ADDRNOTAVAIL)
}
