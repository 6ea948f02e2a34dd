//! Shows a wiring as the kernel has it, at both ends.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use azure_vnet_plugin_core::{
    frames::{ObservedRule, RulePlan},
    wiring::{self, HostEnd, Observed, PodEnd, Way, Wiring},
};
use ipnet::IpNet;

use super::{WireError, owner, steps::near_link};
use crate::{
    kernel_use,
    netlink::{Family, Link, LinkBy, LinkIndex, MAIN_TABLE, Netlink, NetlinkError, RouteKind},
};

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

fn families(wiring: &Wiring) -> BTreeSet<Family> {
    wiring.addresses.iter().map(|address| Family::of(address.addr())).collect()
}
