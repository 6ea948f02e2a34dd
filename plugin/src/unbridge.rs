//! Takes the network of bridged pods back, for an uninstallation: observes, carries the plan out, and removes the rules that no bridge needs
//! any more. A process that is killed leaves a host that is connected; the same again completes it.

use std::collections::BTreeSet;

use azure_vnet_plugin_core::{
    attachment::IfName,
    bridge::{Host, HostLink},
    frames::{Chain, ObservedRule, RulePlan},
    unbridge::{self, Around, MoveBack, Stays, StepBack, WayBack},
};

use crate::{
    bridge::{BridgeError, all_or_back, host_link, locked},
    frames::Frames,
    netlink::{Change, Family, LinkIndex, Netlink, NetlinkError},
};

/// A bridge and its way back, or why it stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// The bridge.
    pub bridge: HostLink,
    /// The steps that are left.
    pub way: Result<WayBack, Stays>,
}

/// What was taken back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Undone {
    /// The steps, each with its bridge.
    pub steps: Vec<(String, StepBack)>,
    /// Bridges that stay, and why.
    pub stay: Vec<Stays>,
    /// Rules that were removed.
    pub rules: usize,
}

/// Plans the way back of each bridge that these plugins made, or of the one that is named.
///
/// # Errors
/// The kernel does not answer.
pub fn plan(host: &mut Netlink, named: Option<&IfName>) -> Result<Vec<Planned>, BridgeError> {
    let observe = |host: &mut Netlink| -> Result<Vec<Planned>, NetlinkError> {
        let links = host.links()?.into_iter().map(host_link).collect();
        let seen = Host { links, addresses: host.movable_addresses()?, routes: Vec::new() };
        let bridges: Vec<HostLink> = unbridge::bridges(&seen, named).cloned().collect();
        let planned = |bridge: HostLink| {
            let routes = host.movable_routes(bridge.index)?;
            let around = Around { host: Host { routes, ..seen.clone() }, entries: entries(host, bridge.index)? };
            Ok(Planned { way: unbridge::plan(&bridge, &around, named.is_some()), bridge })
        };
        bridges.into_iter().map(planned).collect()
    };
    observe(host).map_err(BridgeError::Observe)
}

/// Takes back what can be.
///
/// # Errors
/// See [`BridgeError`].
pub fn undo(host: &mut Netlink, named: Option<&IfName>) -> Result<Undone, BridgeError> {
    let _lock = locked()?;
    let mut undone = Undone::default();
    for Planned { bridge, way } in plan(host, named)? {
        match way {
            Ok(way) => {
                for step in &way.steps {
                    match carry_out(host, &bridge, way.uplink.unwrap_or_default(), step) {
                        Ok(()) => undone.steps.push((bridge.name.clone(), step.clone())),
                        Err(BridgeError::Stays(stays)) => {
                            undone.stay.push(stays);
                            break;
                        }
                        Err(error) => return Err(error),
                    }
                }
            }
            Err(stays) => undone.stay.push(stays),
        }
    }
    // Rules of a bridge that stays are its pods'.
    if plan(host, None)?.is_empty() {
        undone.rules = forget_rules().map_err(BridgeError::Unruled)?;
    }
    Ok(undone)
}

/// One step. A bridge that pods have come to since the plan was made stays: theirs wait for no lock where the network is there.
///
/// # Errors
/// See [`BridgeError`].
pub fn carry_out(host: &mut Netlink, bridge: &HostLink, uplink: LinkIndex, step: &StepBack) -> Result<(), BridgeError> {
    let what = || format!("{step} ({})", bridge.name);
    let failed = |source| BridgeError::Step { step: what(), source };
    match step {
        StepBack::Move(moving) => move_back(host, bridge.index, uplink, moving, &what()),
        StepBack::SetUp => host.change(Change::SetUp(uplink)).map_err(failed),
        StepBack::Delete => {
            let links: Vec<HostLink> = host.links().map_err(failed)?.into_iter().map(host_link).collect();
            unbridge::vacant(bridge, uplink, &links)?;
            host.change(Change::DeleteLink(bridge.index)).map_err(failed)
        }
    }
}

/// The whole move in one message, as that to the bridge.
fn move_back(host: &mut Netlink, bridge: LinkIndex, uplink: LinkIndex, moving: &MoveBack, what: &str) -> Result<(), BridgeError> {
    let MoveBack { release, add_addresses, routes, remove_addresses } = moving;
    let controller = |controller| release.then_some(Change::SetController { link: uplink, controller });
    let mut changes: Vec<Change<'_>> = controller(0).into_iter().collect();
    changes.extend(add_addresses.iter().map(|address| Change::CopyAddress { link: uplink, words: &address.words }));
    changes.extend(routes.iter().map(|route| Change::CopyRoute { link: uplink, words: &route.words }));
    changes.extend(remove_addresses.iter().map(|address| Change::DeleteCopied { link: bridge, words: &address.words }));
    let mut back: Vec<Change<'_>> =
        remove_addresses.iter().map(|address| Change::CopyAddress { link: bridge, words: &address.words }).collect();
    back.extend(routes.iter().map(|route| Change::CopyRoute { link: bridge, words: &route.words }));
    back.extend(controller(bridge));
    back.extend(add_addresses.iter().map(|address| Change::DeleteCopied { link: uplink, words: &address.words }));
    all_or_back(host, what, &changes, &back)
}

fn entries(host: &mut Netlink, bridge: LinkIndex) -> Result<BTreeSet<std::net::IpAddr>, NetlinkError> {
    let mut all = BTreeSet::new();
    for family in [Family::V4, Family::V6] {
        let of_bridge = host.neighbours(family)?.into_iter().filter(|entry| entry.link == bridge && entry.permanent);
        all.extend(of_bridge.map(|entry| entry.address));
    }
    Ok(all)
}

/// Removes our rules, chains and table. Answers how many rules.
fn forget_rules() -> Result<usize, NetlinkError> {
    let Some(mut frames) = Frames::open_if_any()? else { return Ok(0) };
    let count = frames.observe()?.len();
    let all = |seen: &[ObservedRule]| RulePlan { delete: seen.iter().map(|rule| (rule.chain, rule.handle)).collect(), add: Vec::new() };
    frames.settle(all)?;
    for chain in Chain::ALL.into_iter().filter(|chain| !chain.is_the_kernels()) {
        frames.remove_chain(chain)?;
    }
    Ok(count)
}
