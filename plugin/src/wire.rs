//! Carries out the wiring of one pod, in two sends to the host's kernel and one to the pod's; observes it; takes it back.

use std::{net::Ipv4Addr, os::fd::AsFd};

use azure_vnet_plugin_core::{
    attachment::{Attachment, PodRef},
    wiring::{self, GATEWAY, HOST_MAC, HostEnd, Inverse, Marks, Observed, Owner, PodEnd, Step, Takeover, Wiring},
};
use ipnet::Ipv4Net;

use crate::{
    kernel_use::{self, Found},
    netlink::{
        Address, Change, Errno, Link, LinkBy, LinkIndex, MAIN_TABLE, Netlink, NetlinkError, Peer, Reply, Request, Route, RouteKind, Veth,
    },
    netns::Netns,
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
        address: Ipv4Addr,
        /// By what.
        by: String,
    },
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
    let (made, missing) = match create_pair(sides, wiring).inspect_err(|_| remove_unseen(sides.host, wiring))? {
        Some(made) => (made, Step::ALL.into_iter().filter(|step| *step != Step::Pair).collect()),
        None => settle_clash(sides, wiring, pod, &holder)?,
    };
    complete(sides, wiring, made, &missing)
}

/// Takes back what a run made.
///
/// # Errors
/// Something is left; the cause that is passed becomes the source.
pub fn undo(sides: &mut Sides<'_>, wiring: &Wiring, made: &Made, cause: WireError) -> WireError {
    let mut left = Vec::new();
    for inverse in Step::inverses(&made.steps) {
        let (socket, change) = match inverse {
            Inverse::DeletePair => (&mut *sides.host, Change::DeleteLink(made.host)),
            Inverse::DeleteHostRoute => (&mut *sides.host, Change::DeleteRoute(host_route(wiring, made.host))),
            Inverse::DeleteAddress => (&mut *sides.pod, Change::DeleteAddress(pod_address(wiring, made.pod))),
            Inverse::DeleteGatewayRoute => (&mut *sides.pod, Change::DeleteRoute(Route::on_link(GATEWAY.into(), made.pod))),
            Inverse::DeleteDefaultRoute => (&mut *sides.pod, Change::DeleteRoute(Route::default_via(GATEWAY, made.pod))),
            Inverse::DeleteGatewayNeighbour => (&mut *sides.pod, Change::DeleteNeighbour { link: made.pod, address: GATEWAY }),
            Inverse::Nothing => continue,
        };
        match socket.change(change) {
            Ok(()) => {}
            Err(error) if error.errno().is_some_and(is_gone) => {}
            Err(error) => left.push(azure_vnet_plugin_core::error::chain(&error)),
        }
    }
    if left.is_empty() { cause } else { WireError::Undo { left: left.join("; "), source: Box::new(cause) } }
}

/// Shows the wiring as it is.
///
/// # Errors
/// The kernel cannot be asked.
pub fn observe(host: &mut Netlink, pod: Option<&mut Netlink>, wiring: &Wiring) -> Result<Observed, WireError> {
    let failed = |source| WireError::Observe { link: wiring.host_link.to_string(), source };
    let host_end = match host.link(LinkBy::Name(wiring.host_link.as_str())).map_err(failed)? {
        Some(link) => {
            let routed = kernel_use::link_of(host, wiring.address.addr()).map_err(failed)?;
            Some(host_end(&link, routed, &wiring.attachment))
        }
        None => None,
    };
    let pod_end = pod.map(|pod| pod_end(pod, wiring.attachment.if_name.as_str())).transpose().map_err(failed)?.flatten();
    Ok(Observed { host: host_end, pod: pod_end })
}

/// Whose a link is.
#[must_use]
pub fn owner(link: &Link, attachment: &Attachment) -> Owner {
    Marks { alias: link.alias.as_deref(), group: link.group, mac: link.mac }.owner(attachment)
}

/// Creates the pair, its far end inside the pod at once. `None` if a link of the host's name is there.
fn create_pair(sides: &mut Sides<'_>, wiring: &Wiring) -> Result<Option<Made>, WireError> {
    let (name, if_name) = (wiring.host_link.as_str(), wiring.attachment.if_name.as_str());
    let veth = Veth {
        name,
        mac: HOST_MAC,
        mtu: wiring.mtu,
        group: wiring::link_mark(&wiring.attachment),
        peer: Peer { name: if_name, mac: wiring::pod_mac(&wiring.attachment), netns: sides.netns.as_fd() },
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
    let observed = observe(sides.host, Some(sides.pod), wiring)?;
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
                delete(sides.host, host.index).map_err(|source| WireError::Observe { link: wiring.host_link.to_string(), source })?;
            }
            let made = create_pair(sides, wiring)?
                .ok_or_else(|| WireError::Refused(format!("link {} was made anew by another process", wiring.host_link)))?;
            Ok((made, Step::ALL.into_iter().filter(|step| *step != Step::Pair).collect()))
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

fn complete(sides: &mut Sides<'_>, wiring: &Wiring, mut made: Made, missing: &[Step]) -> Result<Made, WireError> {
    match make_host(sides.host, wiring, &mut made, missing).and_then(|()| make_pod(sides.pod, wiring, &mut made, missing)) {
        Ok(()) => Ok(made),
        Err(cause) => Err(undo(sides, wiring, &made, cause)),
    }
}

fn make_host(host: &mut Netlink, wiring: &Wiring, made: &mut Made, missing: &[Step]) -> Result<(), WireError> {
    let alias = wiring.alias().to_string();
    let route = host_route(wiring, made.host);
    let changes = missing.iter().filter_map(|step| match step {
        Step::Label => Some((*step, vec![Change::Label { link: made.host, alias: &alias }])),
        Step::HostRoute => Some((*step, vec![Change::AddRoute(route.clone())])),
        Step::Pair | Step::PodUp | Step::Address | Step::GatewayRoute | Step::DefaultRoute | Step::GatewayNeighbour => None,
    });
    match send(host, wiring, changes.collect(), &mut made.steps) {
        Err(WireError::Make { step: Step::HostRoute, source: Errno::EXIST, .. }) => replace_stale(host, wiring, made, route),
        result => result,
    }
}

/// The exclusive route was refused: if what is there is a dead link's, it gives way; else the address is in use.
fn replace_stale(host: &mut Netlink, wiring: &Wiring, made: &mut Made, route: Route) -> Result<(), WireError> {
    let address = wiring.address.addr();
    let failed = |source| WireError::Observe { link: wiring.host_link.to_string(), source };
    match kernel_use::found(host, address).map_err(failed)? {
        Found::Used(by) => return Err(WireError::AddressInUse { address, by }),
        Found::Stale(stale) => host.change(Change::DeleteRoute(stale)).or_else(|error| match error.errno() {
            Some(errno) if is_gone(errno) => Ok(()),
            Some(_) | None => Err(failed(error)),
        })?,
        Found::Nothing => {}
    }
    send(host, wiring, vec![(Step::HostRoute, vec![Change::AddRoute(route)])], &mut made.steps)
}

fn make_pod(pod: &mut Netlink, wiring: &Wiring, made: &mut Made, missing: &[Step]) -> Result<(), WireError> {
    let link = made.pod;
    let changes = missing.iter().filter_map(|step| {
        let changes = match step {
            Step::Pair | Step::Label | Step::HostRoute => return None,
            Step::PodUp => vec![Change::SetUp(LOOPBACK), Change::SetUp(link)],
            Step::Address => vec![Change::AddAddress(pod_address(wiring, link))],
            Step::GatewayRoute => vec![Change::AddRoute(Route::on_link(GATEWAY.into(), link))],
            Step::DefaultRoute => vec![Change::AddRoute(Route::default_via(GATEWAY, link))],
            Step::GatewayNeighbour => vec![Change::SetNeighbour { link, address: GATEWAY, mac: HOST_MAC }],
        };
        Some((*step, changes))
    });
    send(pod, wiring, changes.collect(), &mut made.steps)
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

fn host_route(wiring: &Wiring, link: LinkIndex) -> Route {
    Route::on_link(Ipv4Net::from(wiring.address.addr()), link)
}

fn pod_address(wiring: &Wiring, link: LinkIndex) -> Address {
    Address { link, address: wiring.address.addr(), prefix_len: wiring.address.prefix_len() }
}

fn host_end(link: &Link, routed: Option<LinkIndex>, attachment: &Attachment) -> HostEnd {
    HostEnd {
        index: link.index,
        owner: owner(link, attachment),
        alias: link.alias.as_deref().and_then(|alias| alias.parse().ok()),
        peer: link.peer,
        mac: link.mac,
        up: link.up,
        proxy_arp: link.proxy_arp == Some(true),
        has_route: routed == Some(link.index),
    }
}

fn pod_end(pod: &mut Netlink, name: &str) -> Result<Option<PodEnd>, NetlinkError> {
    let Some(link) = pod.link(LinkBy::Name(name))? else { return Ok(None) };
    let here = link.index;
    let addresses = pod.addresses()?.into_iter().filter(|address| address.link == here).map(|a| (a.address, a.prefix_len)).collect();
    let routes = pod.routes(MAIN_TABLE)?.into_iter().filter(|route| route.link == Some(here) && route.kind == RouteKind::Unicast);
    let gateway = pod.neighbours()?.into_iter().find(|n| n.link == here && n.address == GATEWAY && n.permanent);
    Ok(Some(PodEnd {
        index: here,
        peer: link.peer,
        mac: link.mac,
        up: link.up,
        addresses,
        routes: routes.map(|route| (route.destination, route.gateway)).collect(),
        gateway_mac: gateway.and_then(|neighbour| neighbour.mac),
    }))
}

/// What the kernel answers about what is no longer there.
fn is_gone(errno: Errno) -> bool {
    matches!(errno, Errno::NODEV | Errno::NXIO | Errno::SRCH | Errno::NOENT | Errno::ADDRNOTAVAIL)
}
