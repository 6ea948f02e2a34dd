//! Makes the steps of a wiring that come after the pair of links: those of one side in one send, and each noted that was made.

use std::net::IpAddr;

use azure_vnet_plugin_core::{
    frames::{ObservedRule, RulePlan},
    wiring::{self, Step, Way, Wiring},
};
use ipnet::IpNet;

use super::{Made, Sides, WireError, is_gone};
use crate::{
    kernel_use::{self, Found},
    netlink::{Address, Change, Errno, LinkIndex, Netlink, Route, Scope},
};

/// The number of the loopback link in every namespace.
const LOOPBACK: LinkIndex = 1;

/// An entry replaces another's, so it is sent once the exclusive route says that the address is nobody else's (safety rule ST4).
pub(super) fn make_host(host: &mut Netlink, wiring: &Wiring, made: &mut Made, missing: &[Step]) -> Result<(), WireError> {
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
        Err(WireError::Make { step: Step::HostRoute(address), source: Errno::EXIST, .. }) => {
            replace_stale(host, wiring, made, missing, address)
        }
        result => result,
    }
}

/// The exclusive route was refused: if what is there is a dead link's, it gives way; else the address is in use, also where a look-up shows
/// nothing, which is what it shows of a route that refuses packets (safety rule ST4). A route that was not `missing` is this pod's own.
fn replace_stale(host: &mut Netlink, wiring: &Wiring, made: &mut Made, missing: &[Step], address: IpAddr) -> Result<(), WireError> {
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
    let left = routes.filter(|(step, _)| missing.contains(step) && !made.steps.contains(step));
    let changes: Vec<_> = left.map(|(step, address)| (step, vec![Change::AddRoute(host_route(wiring, made.host, address))])).collect();
    match send(host, wiring, changes, &mut made.steps) {
        Err(WireError::Make { step: Step::HostRoute(refused), source: Errno::EXIST, .. }) if refused == address => {
            Err(in_use(format!("{address} has a route of its own")))
        }
        Err(WireError::Make { step: Step::HostRoute(next), source: Errno::EXIST, .. }) => replace_stale(host, wiring, made, missing, next),
        result => result,
    }
}

pub(super) fn make_rules(sides: &mut Sides<'_>, wiring: &Wiring, made: &mut Made, missing: &[Step]) -> Result<(), WireError> {
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

pub(super) fn make_pod(sides: &mut Sides<'_>, wiring: &Wiring, made: &mut Made, missing: &[Step]) -> Result<(), WireError> {
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

pub(super) fn make_error(step: Step, wiring: &Wiring, source: Errno) -> WireError {
    WireError::Make { step, link: wiring.host_link.to_string(), source }
}

/// The link through which the host reaches the pod.
pub(super) fn near_link(wiring: &Wiring, link: LinkIndex) -> LinkIndex {
    match &wiring.way {
        Way::Routed => link,
        Way::Bridged(bridged) => bridged.bridge,
    }
}

pub(super) fn host_route(wiring: &Wiring, link: LinkIndex, address: IpAddr) -> Route {
    Route::on_link(IpNet::from(address), near_link(wiring, link))
}

pub(super) fn pod_address(address: IpNet, link: LinkIndex) -> Address {
    Address { link, address: address.addr(), prefix_len: address.prefix_len() }
}

/// Routes through a pod's further interfaces come after those of the first, and do not meet one another.
pub(super) fn pod_route(wiring: &Wiring, to: IpNet, via: Option<IpAddr>, link: LinkIndex) -> Route {
    /// What IPv6 gives a route without a metric.
    const AFTER_ALL: u32 = 1024;
    let metric = if wiring.attachment.if_name.as_str() == wiring::POD_INTERFACE { 0 } else { AFTER_ALL.saturating_add(link) };
    let on_link = Route { metric, ..Route::on_link(to, link) };
    match via {
        Some(gateway) => Route { gateway: Some(gateway), scope: Scope::Universe, ..on_link },
        None => on_link,
    }
}
