//! ADD: an address, then the wiring, then the answer; on failure none of them. The same ADD again completes what is half made.

use std::{
    collections::BTreeMap,
    mem,
    net::{IpAddr, Ipv4Addr},
    path::Path,
};

use azure_vnet_plugin_core::{
    answer::{Answer, Dns, Interface},
    attachment::{IfName, Mode},
    bridge::{Network, NetworkStep, NetworkWish},
    conf::{Ipam, Role},
    error::{CniError, Code, chain},
    frames,
    ipam::OwnIpam,
    lease::{Entry, Lease},
    request::Add,
    wiring::{self, Bridged, HOST_MAC, Owner, Way, Wiring},
};
use ipnet::{IpNet, Ipv4Net};
use serde_json::Map;

use super::{Done, Run, del, errors, write_json};
use crate::{
    bridge::{self, Ready},
    frames::Frames,
    kernel_use,
    netlink::{LinkBy, Lookup, Netlink},
    netns::Netns,
    resolvers::Pending,
    source,
    store::{Granted, Held, LeaseRequest, Origin},
    switch,
    wire::{self, FrameSide, Holder, Made, Sides, WireError},
};

/// What a link has where nothing says otherwise.
const DEFAULT_MTU: u32 = 1500;

impl Run<'_> {
    pub(super) fn add(&self, add: &Add) -> Result<Done, CniError> {
        let host_link = wiring::host_link(add.conf.mode, &add.conf.name, &add.attachment, add.pod.as_ref())
            .map_err(|error| CniError::because(Code::InvalidEnvironment, &error))?;
        let mut host = Netlink::open().map_err(|error| errors::netlink(&error))?;
        let netns = Netns::beside(&host, add.netns.as_str()).map_err(|error| errors::netns(&error))?;
        let (pod, cookie) = netns.netlink_and_cookie().map_err(|error| errors::netns(&error))?;
        match (self.role, &add.conf.ipam) {
            (Role::Ipam, Ipam::Own(own)) => self.lease_only(add, own, host_link, cookie, &mut host),
            (Role::Network, Ipam::Own(own)) => self.add_own(add, own, host_link, cookie, &mut Ends { host, pod, netns }),
            (Role::Network | Role::Ipam, Ipam::Delegated(name)) => self.add_delegated(add, name, host_link, &mut Ends { host, pod, netns }),
        }
    }

    /// `azure-vnet-ipam`: the address alone.
    fn lease_only(&self, add: &Add, own: &OwnIpam, host_link: IfName, cookie: Option<u64>, host: &mut Netlink) -> Result<Done, CniError> {
        let mut granted = self.lease(add, own, &request(add, own, host_link, cookie), host)?;
        let (address, skipped) = (granted.held.lease().address, mem::take(&mut granted.skipped));
        let answered = answer_of(&granted).and_then(|given| {
            granted.confirm().map_err(|error| errors::lease(&error, own.source))?;
            reply(add, &whole(add, given.answer, None), address.into())
        });
        answered.map(|done| done.skipping(&skipped)).map_err(|error| rolled_back(granted.held, error))
    }

    fn add_own(&self, add: &Add, own: &OwnIpam, host_link: IfName, cookie: Option<u64>, ends: &mut Ends) -> Result<Done, CniError> {
        let (mut request, mut skipped) = (request(add, own, host_link, cookie), Vec::new());
        loop {
            let mut granted = self.lease(add, own, &request, &mut ends.host)?;
            skipped.append(&mut granted.skipped);
            match self.attempt(add, own, granted, ends)? {
                Attempt::Done(done) => return Ok(done.skipping(&skipped)),
                Attempt::InUse(address, by) => {
                    request.avoid.insert(address, by.clone());
                    skipped.push(by);
                }
            }
        }
    }

    /// Wires the pod with one address, and answers. On failure the address and the wiring are taken back.
    fn attempt(&self, add: &Add, own: &OwnIpam, granted: Granted<'_>, ends: &mut Ends) -> Result<Attempt, CniError> {
        let answer = match answer_of(&granted) {
            Ok(answer) => answer,
            Err(error) => return Err(rolled_back(granted.held, error)),
        };
        let host_link = granted.held.lease().host_link.clone();
        let (mtu, is_known) = (granted.pool.mtu, granted.held.origin() != Origin::Created);
        let before = Before { mtu, is_known, notes: &self.paths.store };
        let mut prepared = match prepare(add, &mut ends.host, &answer.answer, host_link, &before) {
            Ok(prepared) => prepared,
            Err(error) => return Err(rolled_back(granted.held, error)),
        };
        let warning = prepared.warning.take();
        let (wiring, mut sides) = prepared.sides(ends);
        let made = match self.wire(add, &mut sides, &wiring) {
            Ok(made) => made,
            // Safety rule ST4: another address, where this one was not given before.
            Err(WireError::AddressInUse { by, .. }) if granted.held.origin() == Origin::Created && own.requested.is_none() => {
                granted.held.reject().map_err(|error| errors::hold(&error))?;
                return Ok(Attempt::InUse(answer.address.addr(), by));
            }
            Err(error) => return Err(given_up(granted.held, &error, errors::wire(&add.attachment, &error))),
        };
        // The lease is held until the answer is out (safety rule CM1).
        let answered = granted
            .confirm()
            .map_err(|error| errors::lease(&error, own.source))
            .and_then(|()| reply(add, &whole(add, answer.answer, Some(&wiring)), answer.address.addr().into()));
        answered.map(|done| Attempt::Done(Done { warning, ..done })).map_err(|error| {
            let undone = unwired(&mut sides, &wiring, &made, &error);
            given_up(granted.held, &undone, CniError { msg: chain(&undone), ..error })
        })
    }

    fn add_delegated(&self, add: &Add, name: &str, host_link: IfName, ends: &mut Ends) -> Result<Done, CniError> {
        let delegate = self.delegate(name);
        let given = delegate.add()?;
        self.wire_delegated(add, name, given, host_link, ends).map_err(|Unwired { error, is_undone }| {
            // What is wired, by an ADD before this one too, has its address until DEL ends both (safety rule CM2).
            if !is_undone || del::by_alias(&mut ends.host, &add.attachment).map_or(true, |links| !links.is_empty()) {
                return error;
            }
            match delegate.tell("DEL") {
                Ok(()) => error,
                Err(left) => CniError { msg: format!("{}; and the address was not given back: {}", error.msg, left.msg), ..error },
            }
        })
    }

    fn wire_delegated(&self, add: &Add, name: &str, given: Answer, host_link: IfName, ends: &mut Ends) -> Result<Done, Unwired> {
        let nothing_made = |error| Unwired { error, is_undone: true };
        let Some(first) = given.ips.first().map(|ip| ip.address.addr()) else {
            return Err(nothing_made(CniError::new(Code::Failed, format!("IPAM plugin {name} gave no address"))));
        };
        let before = Before { mtu: None, is_known: true, notes: &self.paths.store };
        let mut prepared = prepare(add, &mut ends.host, &given, host_link, &before).map_err(nothing_made)?;
        let warning = prepared.warning.take();
        let (wiring, mut sides) = prepared.sides(ends);
        let made = self
            .wire(add, &mut sides, &wiring)
            .map_err(|cause| Unwired { error: errors::wire(&add.attachment, &cause), is_undone: is_undone(&cause) })?;
        reply(add, &whole(add, given, Some(&wiring)), first).map(|done| Done { warning, ..done }).map_err(|error| {
            let cause = unwired(&mut sides, &wiring, &made, &error);
            Unwired { error: CniError { msg: chain(&cause), ..error }, is_undone: is_undone(&cause) }
        })
    }

    fn lease(&self, add: &Add, own: &OwnIpam, request: &LeaseRequest, host: &mut Netlink) -> Result<Granted<'_>, CniError> {
        let machine = self.machine(own);
        if let Some(machine) = &machine {
            self.learns_later.set(machine.prepare(host, &add.conf.name).map_err(|error| errors::source(&error))?);
        }
        let mut granted = self.store.lease(request, &mut |address| kernel_use::observe(host, address.into()));
        if let (Err(error), Some(machine)) = (&granted, &machine)
            && error.may_be_news()
            && machine.renew(host).map_err(|error| errors::source(&error))?
        {
            granted = self.store.lease(request, &mut |address| kernel_use::observe(host, address.into()));
        }
        granted.map_err(|error| {
            if let (true, Some(uid)) = (error.is_demand(), add.pod.as_ref().and_then(|pod| pod.uid.as_ref())) {
                // Demand that no lease shows (safety rule UP5); a node that cannot note it has worse trouble, which the answer names.
                let _ = self.store.want(uid);
            }
            errors::lease(&error, own.source)
        })
    }

    fn wire(&self, add: &Add, sides: &mut Sides<'_>, wiring: &Wiring) -> Result<Made, WireError> {
        wire::make(sides, wiring, add.pod.as_ref(), |owner| self.holder(owner, wiring))
    }

    /// The lease of a link that is in the way.
    fn holder(&self, owner: &Owner, wiring: &Wiring) -> Option<Holder> {
        let leases = || self.store.list().unwrap_or_default().into_iter().filter_map(|(_, entry)| leased(entry));
        let lease = match owner {
            Owner::Other(attachment) => leases().find(|lease| lease.attachment == *attachment),
            Owner::Unlabelled => leases().find(|lease| lease.host_link == wiring.host_link && lease.attachment != wiring.attachment),
            Owner::This | Owner::Foreign => None,
        };
        lease.map(|lease| (lease.attachment, lease.pod))
    }
}

fn reply(add: &Add, answer: &Answer, address: IpAddr) -> Result<Done, CniError> {
    write_json(&answer.print(add.conf.version)).map_err(|error| CniError::new(Code::Io, format!("cannot write the answer: {error}")))?;
    let pod = add.pod.as_ref().map_or_else(|| " a container".to_owned(), |pod| format!(" pod {pod}"));
    Ok(Done::with(address, format!("leased to{pod} in network {}", add.conf.name)))
}

fn request(add: &Add, own: &OwnIpam, host_link: IfName, netns_cookie: Option<u64>) -> LeaseRequest {
    LeaseRequest {
        attachment: add.attachment.clone(),
        pod: add.pod.clone(),
        network: add.conf.name.clone(),
        mode: add.conf.mode,
        host_link,
        netns: add.netns.clone(),
        netns_cookie,
        requested: own.requested,
        supply: source::supply(own),
        avoid: BTreeMap::new(),
    }
}

/// How one try with one address ended.
enum Attempt {
    Done(Done),
    /// By what, in words.
    InUse(Ipv4Addr, String),
}

/// Why a pod with another plugin's address is not wired.
struct Unwired {
    error: CniError,
    is_undone: bool,
}

/// The answer that an address from the pool makes.
struct Given {
    address: Ipv4Net,
    answer: Answer,
}

fn answer_of(granted: &Granted<'_>) -> Result<Given, CniError> {
    let (pool, address) = (&granted.pool, granted.held.lease().address);
    let address = Ipv4Net::new(address, pool.prefix.prefix_len()).map_err(|error| CniError::because(Code::Failed, &error))?;
    Ok(Given { address, answer: Answer::of_pool(address, pool.gateway) })
}

/// Sockets of both sides, and the pod's namespace.
struct Ends {
    host: Netlink,
    pod: Netlink,
    netns: Netns,
}

/// What is to be made, and with what.
struct Prepared {
    wiring: Wiring,
    frames: Option<Frames>,
    /// Whether the attachment had its address before.
    is_known: bool,
    /// What could not be done for the network, and is no reason to fail.
    warning: Option<String>,
}

impl Prepared {
    fn sides<'a>(&'a mut self, ends: &'a mut Ends) -> (Wiring, Sides<'a>) {
        let Ends { host, pod, netns } = ends;
        let may_be_there = self.is_known;
        let frames = self.frames.as_mut().map(|socket| FrameSide { socket, may_be_there });
        (self.wiring.clone(), Sides { host, pod, netns, frames })
    }
}

/// What is known before the wiring is.
struct Before<'a> {
    /// The pool's packet size.
    mtu: Option<u32>,
    /// Whether the attachment had its address before; of an address of another plugin nobody knows.
    is_known: bool,
    /// Where it is noted what is left to later commands.
    notes: &'a Path,
}

/// Decides how the pod is wired for a result; for a bridged one the network is there afterwards.
fn prepare(add: &Add, host: &mut Netlink, given: &Answer, host_link: IfName, before: &Before<'_>) -> Result<Prepared, CniError> {
    let Before { mtu, is_known, notes } = *before;
    let conf = &add.conf;
    let addresses: Vec<IpNet> = given.ips.iter().map(|ip| ip.address).collect();
    let mac = conf.network.mac.unwrap_or_else(|| wiring::pod_mac(&add.attachment));
    let wiring = |way, mtu| Wiring { attachment: add.attachment.clone(), host_link, mac, addresses: addresses.clone(), mtu, way };
    let frames = match conf.mode {
        Mode::Transparent => {
            if addresses.iter().any(|address| address.addr().is_ipv6()) {
                switch::forward_ipv6().map_err(|error| CniError::because(Code::Failed, &error))?;
            }
            let mtu = mtu.unwrap_or_else(|| uplink_mtu(host, add, given));
            return Ok(Prepared { wiring: wiring(Way::Routed, mtu), frames: None, is_known, warning: None });
        }
        Mode::Bridge => frames::Frames::Direct,
        Mode::Tunnel => frames::Frames::ToFabric,
    };
    let wish = NetworkWish {
        master: conf.master.clone(),
        bridge: conf.network.bridge.clone(),
        uplink_hairpin: !conf.network.no_uplink_hairpin,
        via_host: conf.ips_to_route_via_host.clone(),
        frames,
    };
    let subnet = addresses.iter().find(|address| address.addr().is_ipv4()).or_else(|| addresses.first()).copied().unwrap_or_default();
    let mut socket = Frames::open().map_err(|error| errors::netlink(&error))?;
    let ready = bridge::ensure(host, &mut socket, &wish, subnet).map_err(|error| errors::bridge(&error))?;
    let warning = name_servers(&ready, notes);
    let way = Way::Bridged(Bridged { bridge: ready.bridge, uplink: ready.network.uplink, frames, routes: routes(given) });
    let wiring = wiring(way, mtu.unwrap_or(ready.network.mtu));
    Ok(Prepared { wiring, frames: Some(socket), is_known, warning })
}

/// What could not be done for the host's name servers: noted where it was tried just now, else tried again where it was noted.
fn name_servers(ready: &Ready, notes: &Path) -> Option<String> {
    let Network { bridge, uplink, .. } = &ready.network;
    let pending = Pending::of(notes, bridge.as_str());
    if ready.warning.is_some() {
        pending.note();
        return ready.warning.clone();
    }
    let tried = pending.try_again(uplink.as_str(), bridge.as_str());
    tried.err().map(|error| format!("cannot {}: {}", NetworkStep::Resolvers, chain(&error)))
}

/// The routes that a result gives a bridged pod.
pub(super) fn routes(given: &Answer) -> Vec<(IpNet, Option<IpAddr>)> {
    let gateways: Vec<IpAddr> = given.ips.iter().filter_map(|ip| ip.gateway).collect();
    let routes: Vec<_> = given.routes.iter().map(|route| (route.destination, route.gateway)).collect();
    Bridged::routes_of(&gateways, &routes)
}

/// The whole answer: the links, what plugins before this one answered, and the resolvers that were asked for.
fn whole(add: &Add, given: Answer, wiring: Option<&Wiring>) -> Answer {
    let mut answer = match wiring {
        Some(wiring) => given.on(interfaces(add, wiring), add.conf.prev_result.as_ref()),
        None => given,
    };
    if let Some(dns) = &add.conf.network.dns {
        answer.dns = dns.clone();
    } else if add.conf.dns != Dns::default() {
        answer.dns = add.conf.dns.clone();
    }
    answer
}

fn interfaces(add: &Add, wiring: &Wiring) -> Vec<Interface> {
    let mtu = Some(wiring.mtu);
    let (name, sandbox) = (add.attachment.if_name.to_string(), Some(add.netns.to_string()));
    vec![
        Interface { name, mac: Some(wiring.mac.to_string()), mtu, sandbox, more: Map::new() },
        Interface { name: wiring.host_link.to_string(), mac: Some(HOST_MAC.to_string()), mtu, ..Interface::default() },
    ]
}

/// MTU of the named uplink, else of the link through which the gateway is reached.
fn uplink_mtu(host: &mut Netlink, add: &Add, given: &Answer) -> u32 {
    let link = match &add.conf.master {
        Some(master) => host.link(LinkBy::Name(master.as_str())).ok().flatten(),
        None => match given.ips.first().map_or(Ok(Lookup::Nowhere), |ip| host.route_to(ip.gateway.unwrap_or(ip.address.addr()))) {
            Ok(Lookup::Route(route)) => route.link.and_then(|link| host.link(LinkBy::Index(link)).ok().flatten()),
            Ok(Lookup::Nowhere) | Err(_) => None,
        },
    };
    link.map_or(DEFAULT_MTU, |link| link.mtu)
}

/// Takes the wiring back, for a reason that goes on being the answer.
fn unwired(sides: &mut Sides<'_>, wiring: &Wiring, made: &Made, reason: &CniError) -> WireError {
    wire::undo(sides, wiring, made, WireError::Refused(reason.msg.clone()))
}

/// Ends the lease of a pod that is not wired, unless something of the wiring stays: then so does the lease, until DEL ends both (safety rule CM2).
fn given_up(held: Held<'_>, cause: &WireError, error: CniError) -> CniError {
    if is_undone(cause) { rolled_back(held, error) } else { error }
}

/// Whether all that was made is taken back.
fn is_undone(cause: &WireError) -> bool {
    !matches!(cause, WireError::Undo { .. })
}

fn rolled_back(held: Held<'_>, error: CniError) -> CniError {
    match held.rollback() {
        Ok(()) => error,
        Err(left) => CniError { msg: format!("{}; and the lease stays: {}", error.msg, errors::hold(&left).msg), ..error },
    }
}

fn leased(entry: Entry) -> Option<Lease> {
    match entry {
        Entry::Leased(lease) => Some(lease),
        Entry::Cooling(_) | Entry::Quarantined(_) | Entry::Unreadable(_) => None,
    }
}
