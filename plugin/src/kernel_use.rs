//! What the kernel says of an address that a pod might get (safety rule ST4).

use std::net::IpAddr;

use azure_vnet_plugin_core::wiring::{Alias, HOST_LINK_PREFIX};
use ipnet::IpNet;

use crate::{
    bridge,
    netlink::{Link, LinkBy, LinkIndex, Lookup, Netlink, NetlinkError, Route, RouteKind},
    store::KernelUse,
};

/// Looks a candidate up. No address is given on a kernel's silence.
#[must_use]
pub fn observe(host: &mut Netlink, address: IpAddr) -> KernelUse {
    match found(host, address) {
        Ok(Found::Nothing | Found::Stale(_)) => KernelUse::Free,
        Ok(Found::Used(what)) => KernelUse::Used(what),
        Err(error) => KernelUse::Unknown(azure_vnet_plugin_core::error::chain(&error)),
    }
}

/// What stands in the way of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing, or the way of its whole subnet.
    Nothing,
    /// A route of its own through a link of ours that is gone or dead.
    Stale(Route),
    /// Someone uses it: what, in words.
    Used(String),
}

/// Looks an address up.
///
/// # Errors
/// The kernel cannot be asked.
pub fn found(host: &mut Netlink, address: IpAddr) -> Result<Found, NetlinkError> {
    let Lookup::Route(route) = host.route_to(address)? else { return Ok(Found::Nothing) };
    if route.kind == RouteKind::Local {
        return Ok(Found::Used(format!("{address} is the host's own")));
    }
    let own_route = route.destination == IpNet::from(address);
    let Some(index) = route.link else {
        return Ok(if own_route { Found::Used(format!("{address} has a route of its own")) } else { Found::Nothing });
    };
    if !own_route && route.destination.prefix_len() == 0 {
        // The default route: through the uplink, which is no pod's.
        return Ok(Found::Nothing);
    }
    match host.link(LinkBy::Index(index))? {
        Some(link) if own_route && bridge::uplink_of(&link).is_some() => {
            let pods = host.links()?.into_iter().filter(|link| link.controller == Some(index));
            // The route of a bridged pod does not go with its link.
            let pod = pods.into_iter().find(|link| alias(link).is_some_and(|alias| alias.address == address));
            Ok(pod.map_or(Found::Stale(route.clone()), |pod| judge(address, route, own_route, Some(pod))))
        }
        link => Ok(judge(address, route, own_route, link)),
    }
}

fn alias(link: &Link) -> Option<Alias> {
    link.alias.as_deref().and_then(|alias| alias.parse().ok())
}

/// The link through which a route to exactly this address leads, if there is such a route.
///
/// # Errors
/// The kernel cannot be asked.
pub fn link_of(host: &mut Netlink, address: IpAddr) -> Result<Option<LinkIndex>, NetlinkError> {
    Ok(match host.route_to(address)? {
        Lookup::Route(route) if route.kind == RouteKind::Unicast && route.destination == IpNet::from(address) => route.link,
        Lookup::Route(_) | Lookup::Nowhere => None,
    })
}

fn judge(address: IpAddr, route: Route, own_route: bool, link: Option<Link>) -> Found {
    let Some(link) = link else { return if own_route { Found::Stale(route) } else { Found::Nothing } };
    let dead = !link.up || !link.carrier;
    match alias(&link) {
        Some(_) if own_route && dead => Found::Stale(route),
        Some(alias) => Found::Used(format!("{address} is routed to {} through {}", alias.attachment, link.name)),
        None if own_route || link.name.starts_with(HOST_LINK_PREFIX) => Found::Used(format!("{address} is routed through {}", link.name)),
        None => Found::Nothing,
    }
}
