//! CHECK: the kernel against the lease and the result of ADD, never against the configuration of the day (safety rule CM5).

use std::net::Ipv4Addr;

use azure_vnet_plugin_core::{
    answer::Answer,
    attachment::{IfName, Mode},
    conf::{Ipam, Role},
    error::{CniError, Code},
    frames::{self, Frames as FramesGo},
    request::Add,
    wiring::{self, Bridged, Way, Wiring},
};
use ipnet::IpNet;

use super::{Done, Run, add::routes, del::by_alias, errors, subject};
use crate::{
    bridge::{self, ModesThere},
    frames::Frames,
    netlink::Netlink,
    netns::Netns,
    wire,
};

/// What ADD settled of an attachment.
struct Settled {
    address: Option<Ipv4Addr>,
    host_link: IfName,
    mode: Mode,
}

impl Run<'_> {
    pub(super) fn check(&self, check: &Add) -> Result<Done, CniError> {
        let lease = match &check.conf.ipam {
            Ipam::Own(_) => self.leased(check)?,
            Ipam::Delegated(name) => {
                self.delegate(name).tell("CHECK")?;
                None
            }
        };
        match self.role {
            Role::Ipam => Ok(Done::that("the address is leased")),
            Role::Network => check_wiring(check, lease),
        }
    }

    /// Address, host link and mode by the lease; none with the store lost, when the kernel alone is to agree with the result.
    fn leased(&self, check: &Add) -> Result<Option<Settled>, CniError> {
        if let Some(held) = self.store.find(&check.attachment).map_err(|error| errors::hold(&error))? {
            let lease = held.lease();
            return Ok(Some(Settled { address: Some(lease.address), host_link: lease.host_link.clone(), mode: lease.mode }));
        }
        if self.store.seal().is_err() && self.role == Role::Network {
            return Ok(None);
        }
        Err(CniError::new(Code::UnknownContainer, format!("{} has no lease", subject(&check.attachment))))
    }
}

fn check_wiring(check: &Add, lease: Option<Settled>) -> Result<Done, CniError> {
    let previous = check.conf.prev_result.as_ref().ok_or_else(|| {
        CniError::new(Code::InvalidConfig, "required prevResult missing").with_details("CHECK gets the result of ADD as prevResult")
    })?;
    let addresses: Vec<IpNet> = previous.addresses_on(check.attachment.if_name.as_str()).iter().map(|ip| ip.address).collect();
    let settled = match lease {
        Some(settled) => settled,
        None => wired(check)?,
    };
    let lacks = |what: String| Err(CniError::new(Code::InvalidConfig, format!("prevResult lacks {what}")));
    match settled.address {
        Some(address) if addresses.iter().all(|network| network.addr() != address) => {
            return lacks(format!("{address}, which the lease has"));
        }
        None if addresses.is_empty() => return lacks(format!("an address of {}", check.attachment.if_name)),
        Some(_) | None => {}
    }
    let text = addresses.iter().map(|address| address.addr().to_string()).collect::<Vec<_>>().join(", ");
    let missing = missing(check, previous, settled, addresses.clone())?;
    if missing.is_empty() {
        return Ok(addresses.first().map_or_else(Done::default, |address| Done::with(address.addr(), "is wired")));
    }
    Err(CniError::new(Code::Failed, format!("{} with {text} lacks {}", subject(&check.attachment), missing.join(", "))))
}

/// Host link and mode of a pod without a lease, by its link's label: today's configuration may be another (safety rule CM5). Where no link has it,
/// what the configuration asks for is what lacks.
fn wired(check: &Add) -> Result<Settled, CniError> {
    let mut host = Netlink::open().map_err(|error| errors::netlink(&error))?;
    let labelled = by_alias(&mut host, &check.attachment).map_err(|error| errors::netlink(&error))?;
    let there = labelled.into_iter().find_map(|link| Some((link.name.parse().ok()?, link.controller)));
    if let Some((host_link, controller)) = there {
        let mode = ModesThere::default().of(&check.attachment, &host_link, controller);
        return Ok(Settled { address: None, host_link, mode });
    }
    let mode = check.conf.mode;
    let host_link = wiring::host_link(mode, &check.conf.name, &check.attachment, check.pod.as_ref());
    let host_link = host_link.map_err(|error| CniError::because(Code::InvalidEnvironment, &error))?;
    Ok(Settled { address: None, host_link, mode })
}

/// What the kernel does not show, in words.
fn missing(check: &Add, previous: &Answer, settled: Settled, addresses: Vec<IpNet>) -> Result<Vec<String>, CniError> {
    let netlink = |error| errors::netlink(&error);
    let mut host = Netlink::open().map_err(netlink)?;
    let netns = Netns::beside(&host, check.netns.as_str()).map_err(|error| errors::netns(&error))?;
    let mut pod = netns.netlink().map_err(|error| errors::netns(&error))?;
    let (mut rules, mut way) = (Vec::new(), Way::Routed);
    let frames = match settled.mode {
        Mode::Transparent => None,
        Mode::Bridge => Some(FramesGo::Direct),
        Mode::Tunnel => Some(FramesGo::ToFabric),
    };
    if let Some(frames) = frames {
        let Some((bridge, uplink)) = bridge::place_of(&mut host, &settled.host_link).map_err(netlink)? else {
            return Ok(vec![format!("link {} on a bridge of azure-vnet", settled.host_link)]);
        };
        rules = Frames::open().and_then(|mut frames| frames.observe()).map_err(netlink)?;
        way = Way::Bridged(Bridged { bridge, uplink, frames, routes: routes(previous) });
    }
    let mac = frames::mac_of_pod(&check.attachment, &rules).or(check.conf.network.mac);
    let mac = mac.unwrap_or_else(|| wiring::pod_mac(&check.attachment));
    let wiring = Wiring { attachment: check.attachment.clone(), host_link: settled.host_link, mac, addresses, mtu: 0, way };
    let observed = wire::observe(&mut host, Some(&mut pod), &rules, &wiring).map_err(|error| errors::wire(&check.attachment, &error))?;
    Ok(wiring.plan(&observed).iter().map(ToString::to_string).collect())
}
