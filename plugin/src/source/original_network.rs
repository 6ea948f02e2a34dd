//! The network that the original plugins made for bridged pods. Pods that are there get what ours have on their bridge, so that CHECK and DEL
//! know it; then the original's rules go, which would lead the packets of an address's next pod astray. The bridge stays: it has the host's
//! addresses, and the next ADD takes it as it is.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    path::Path,
    time::{Duration, Instant},
};

use azure_vnet_plugin_core::{
    attachment::Mode,
    bridge::{Host, HostLink, Network, NetworkError, NetworkWish},
    frames::{Frames, RulePlan},
    original::{Endpoint, rules},
    wiring::{Bridged, Way, Wiring},
};
use ipnet::IpNet;

use crate::{
    bridge::{self, BridgeError},
    frames::Frames as Rules,
    netlink::{Change, Netlink, Route},
    program::{self, ProgramError},
    resolvers,
};

/// How long the original's rules may take to go, which are two for each pod.
const PATIENCE: Duration = Duration::from_secs(20);
/// The program of each back end, and what shows that it is in use.
const BACK_ENDS: [(&str, Option<&str>); 2] = [("ebtables-nft", None), ("ebtables-legacy", Some("/sys/module/ebtable_nat"))];
/// What the names of the original's ports begin with.
const PORTS: &str = "azv";
/// What either may be called where there is one only.
const EBTABLES: &str = "ebtables";

/// Takes over the pods that are there. Where that cannot be, on a kernel without `nf_tables` for bridges say, the original's rules stay too.
pub(super) fn take_over(host: &mut Netlink, pods: &[Endpoint]) {
    if pods_get_ours(host, pods).unwrap_or(false) {
        let until = Instant::now() + PATIENCE;
        for (program, witness) in BACK_ENDS {
            if witness.is_none_or(|witness| Path::new(witness).exists()) {
                // What stays comes after our rules, or goes with a reboot.
                let _ = remove_rules(program, until);
            }
        }
    }
}

/// Answers whether all of them have.
fn pods_get_ours(host: &mut Netlink, pods: &[Endpoint]) -> Result<bool, BridgeError> {
    // Two first ADDs would each find none of ours, and both add them.
    let _lock = bridge::locked()?;
    let Some(mut rules) = Rules::open_if_any().map_err(BridgeError::Observe)? else { return Ok(pods.is_empty()) };
    let links = host.links().map_err(BridgeError::Observe)?.into_iter().map(bridge::host_link).collect();
    let seen = Host { links, addresses: host.movable_addresses().map_err(BridgeError::Observe)?, routes: Vec::new() };
    let (mut all, mut bridges) = (!has_unknown_pods(&seen, pods), BTreeSet::new());
    for pod in pods {
        let Some((bridge, wiring, network)) = place(&seen, pod)? else {
            all = false;
            continue;
        };
        if bridges.insert(bridge.index) {
            network_gets_ours(host, &mut rules, &seen, pod.mode, &network)?;
        }
        let plan = |there: &[_]| RulePlan::of_pod(&pod.attachment, &wiring.rules(), there);
        rules.settle(plan).map_err(|source| BridgeError::Rules { bridge: network.bridge.clone(), source })?;
        let (link, address) = (bridge.index, IpAddr::V4(pod.address));
        // A route that is there already was made by a command before this one.
        let route = Change::AddRoute(Route::on_link(IpNet::from(address), link));
        host.changes([route, Change::SetNeighbour { link, address, mac: wiring.mac }]).map_err(BridgeError::Observe)?;
    }
    Ok(all)
}

/// Whether a bridge has a port of the original's that no record tells of: its pod lives by the original's rules.
fn has_unknown_pods(seen: &Host, pods: &[Endpoint]) -> bool {
    let is_port = |link: &&HostLink| link.controller.is_some() && link.alias.is_none() && link.name.starts_with(PORTS);
    let is_known = |link: &HostLink| pods.iter().any(|pod| pod.host_link.as_ref().is_some_and(|name| link.name == name.as_str()));
    seen.links.iter().filter(is_port).any(|link| !is_known(link))
}

/// The bridge that a pod is on, and what its wiring would be if it were one of ours.
fn place<'a>(seen: &'a Host, pod: &Endpoint) -> Result<Option<(&'a HostLink, Wiring, Network)>, BridgeError> {
    let link = seen.links.iter().find(|link| pod.host_link.as_ref().is_some_and(|name| link.name == name.as_str()));
    let bridge = link.and_then(|link| seen.links.iter().find(|bridge| link.controller == Some(bridge.index) && bridge.is_bridge()));
    let (Some(host_link), Some(bridge), Some(mac)) = (pod.host_link.clone(), bridge, pod.mac) else { return Ok(None) };
    let address = IpNet::from(IpAddr::V4(pod.address));
    let network = Network::choose(&wish(bridge, pod.mode)?, address, seen)?;
    let bridged = Bridged { bridge: bridge.index, uplink: network.uplink.clone(), frames: frames_of(pod.mode), routes: Vec::new() };
    let (attachment, way) = (pod.attachment.clone(), Way::Bridged(bridged));
    Ok(Some((bridge, Wiring { attachment, host_link, mac, addresses: vec![address], mtu: network.mtu, way }, network)))
}

/// The bridge gets our rules, and last the label by which DEL knows it.
fn network_gets_ours(host: &mut Netlink, rules: &mut Rules, seen: &Host, mode: Mode, network: &Network) -> Result<(), BridgeError> {
    let Some(bridge) = seen.links.iter().find(|link| Some(link.index) == network.bridge_index) else { return Ok(()) };
    bridge::settle_rules(rules, &wish(bridge, mode)?, network, seen)?;
    // As for any bridge that gets its label: names are no reason to fail.
    let _ = resolvers::take_over(network.uplink.as_str(), network.bridge.as_str());
    host.change(Change::SetAlias { link: bridge.index, alias: &network.alias() }).map_err(BridgeError::Observe)
}

fn wish(bridge: &HostLink, mode: Mode) -> Result<NetworkWish, BridgeError> {
    let master = Some(bridge.name.parse().map_err(NetworkError::Name)?);
    Ok(NetworkWish { master, bridge: None, uplink_hairpin: true, via_host: Vec::new(), frames: frames_of(mode) })
}

fn frames_of(mode: Mode) -> Frames {
    match mode {
        Mode::Tunnel => Frames::ToFabric,
        Mode::Bridge | Mode::Transparent => Frames::Direct,
    }
}

fn remove_rules(program: &str, until: Instant) -> Result<(), ProgramError> {
    let list = |program: &str| program::run(program, &["-t", "nat", "-L", "--Lmac2"], until);
    let (program, listing) = match list(program) {
        Err(ProgramError::Run { .. }) => (EBTABLES, list(EBTABLES)?),
        listing => (program, listing?),
    };
    for rule in rules::rules(&listing) {
        let arguments: Vec<&str> = ["-t", "nat", "-D"].into_iter().chain(rule).collect();
        match program::run(program, &arguments, until) {
            // Another command may have removed it.
            Ok(_) | Err(ProgramError::Failed { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
