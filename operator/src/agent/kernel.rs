//! The host's links and routes, as far as the agent reads and keeps them. It runs in the host's network namespace and enters no other.

mod lost;

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
    path::Path,
};

use azure_vnet_plugin::{
    bridge::{self, BridgeError, ModesThere},
    kernel_use::{self, Found},
    netlink::{Change, Errno, Family, Link, LinkIndex, Lookup, MAIN_TABLE, Netlink, NetlinkError, PROTOCOL_BOOT, Route, RouteKind},
    store::{KernelLease, KernelUse, Store},
    strays::{RulesSeen, StraysError},
    unbridge::{self, Undone},
};
use azure_vnet_plugin_core::{
    attachment::{Attachment, IfName, Mode, NetworkName},
    gc::{LinkWitness, NetnsWitness},
    lease::{Entry, Lease},
    unbridge::Stays,
    wiring::{Alias, UNREACHABLE_METRIC, UNREACHABLE_PROTOCOL},
};
use ipnet::{IpNet, Ipv4Net};
use rustix::fs::FsWord;

use super::{problems::chain, unmarked::Former};

/// Magic number of the kernel's file system of namespaces.
const NSFS_MAGIC: FsWord = 0x6e73_6673;
/// Where runtimes keep the namespaces of pods.
const NETNS: &str = "/run/netns";

/// Why the kernel could not be read or changed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation}")]
pub struct KernelError {
    operation: &'static str,
    source: NetlinkError,
}

fn failed(operation: &'static str) -> impl FnOnce(NetlinkError) -> KernelError {
    move |source| KernelError { operation, source }
}

/// The host's network namespace.
#[derive(Debug)]
pub struct Kernel(Netlink);

/// One of our pod links.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodLink {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: IfName,
    /// Whose it is, and its address.
    pub alias: Alias,
    /// The bridge that it is a port of.
    pub controller: Option<LinkIndex>,
}

#[derive(Clone, Debug)]
struct Nic {
    mac: String,
    name: String,
    mtu: u32,
    index: LinkIndex,
}

/// Kinds of links that stand on another one, and may have its hardware address.
const ON_ANOTHER: [&str; 5] = ["vlan", "macvlan", "macvtap", "ipvlan", "ipvtap"];

fn nic(link: &Link) -> Option<Nic> {
    if link.kind.as_deref().is_some_and(|kind| ON_ANOTHER.contains(&kind)) {
        return None;
    }
    Some(Nic { mac: link.mac?.to_string(), name: link.name.clone(), mtu: link.mtu, index: link.index })
}

/// What the agent looks at, read at one time.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Our pod links.
    pub pods: Vec<PodLink>,
    /// Whether a bridge of these plugins has lost its uplink.
    astray: bool,
    /// All links with a hardware address, without those that belong to another link (the second path of an accelerated NIC has its MAC) or stand on one.
    nics: Vec<Nic>,
    routes: Vec<Route>,
}

impl Kernel {
    /// Opens the calling thread's namespace.
    ///
    /// # Errors
    /// The kernel gives no socket.
    pub fn open() -> Result<Self, KernelError> {
        Netlink::open().map(Self).map_err(failed("talk to the kernel about links and routes"))
    }

    /// Reads links and routes.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub fn view(&mut self) -> Result<View, KernelError> {
        let links = self.0.links().map_err(failed("read the host's links"))?;
        let routes = self.0.routes(Family::V4, MAIN_TABLE).map_err(failed("read the host's routes"))?;
        let nics = links.iter().filter(|link| link.controller.is_none()).filter_map(nic);
        let (nics, pods) = (nics.collect(), links.iter().filter_map(pod_link).collect());
        Ok(View { nics, pods, routes, astray: !bridge::astray(links).is_empty() })
    }

    /// Whether anything in the kernel still uses an address: a pod's link, a route of its own, a neighbour entered for good (safety rule ST6).
    /// What cannot be read is unknown.
    pub fn in_use(&mut self, address: Ipv4Addr) -> KernelUse {
        let found = self.view().map_err(|error| chain(&error)).and_then(|view| match self.any_sign(&view, address) {
            LinkWitness::Present => Ok(true),
            LinkWitness::Gone => self.neighbour(address),
            LinkWitness::Unknown => Err("the route could not be looked up".into()),
        });
        match found {
            Ok(false) => KernelUse::Free,
            Ok(true) => KernelUse::Used("a link, a route or a neighbour of this host has it".into()),
            Err(why) => KernelUse::Unknown(why),
        }
    }

    fn neighbour(&mut self, address: Ipv4Addr) -> Result<bool, String> {
        let neighbours = self.0.neighbours(Family::V4).map_err(|error| chain(&error))?;
        Ok(neighbours.iter().any(|neighbour| neighbour.permanent && neighbour.address == IpAddr::V4(address)))
    }

    /// Marks the unreachable routes of these addresses as ours that a version made which marked none: they look as if somebody had typed them.
    ///
    /// # Errors
    /// The kernel refuses one.
    pub fn claim_unreachable(&mut self, view: &View, former: &Former) -> Result<(), KernelError> {
        let unmarked = view.unreachable(PROTOCOL_BOOT).into_iter().filter(|address| former.has(*address));
        let changes: Vec<Change<'_>> = unmarked.map(|address| Change::ReplaceRoute(marked(address))).collect();
        self.changes("mark the routes of unleased addresses", &changes)
    }

    /// Makes the unreachable routes of ours exactly those of these addresses (safety rule PK1). Answers how many differed.
    ///
    /// Of one address the kernel has one such route, so that an unmarked one of these is ours from here on.
    ///
    /// # Errors
    /// The kernel refuses one.
    pub fn converge_unreachable(&mut self, view: &View, addresses: &BTreeSet<Ipv4Addr>) -> Result<usize, KernelError> {
        let (ours, unmarked) = (view.unreachable(UNREACHABLE_PROTOCOL), view.unreachable(PROTOCOL_BOOT));
        let (marks, missing): (BTreeSet<Ipv4Addr>, BTreeSet<Ipv4Addr>) =
            addresses.difference(&ours).copied().partition(|address| unmarked.contains(address));
        let marks = marks.into_iter().map(|address| Change::ReplaceRoute(marked(address)));
        let missing = missing.into_iter().map(|address| Change::AddRoute(marked(address)));
        let surplus = ours.difference(addresses).map(|address| Change::DeleteRoute(marked(*address)));
        let changes: Vec<Change<'_>> = marks.chain(missing).chain(surplus).collect();
        self.changes("keep unleased addresses unreachable", &changes)?;
        Ok(changes.len())
    }

    /// Bridges with addresses of their own, which lead to networks behind this host; not one that the host itself goes out by.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub fn bridges_of_networks(&mut self) -> Result<Vec<String>, KernelError> {
        let mut bridges = self.0.links().map_err(failed("read the host's links"))?;
        bridges.retain(|link| link.kind.as_deref() == Some("bridge"));
        let addresses = self.0.addresses(Family::V4).map_err(failed("read the host's addresses"))?;
        let routes = self.0.routes(Family::V4, MAIN_TABLE).map_err(failed("read the host's routes"))?;
        let has_address = |link: LinkIndex| addresses.iter().any(|address| address.link == link);
        let leads_out = |link: LinkIndex| routes.iter().any(|route| route.destination.prefix_len() == 0 && route.link == Some(link));
        bridges.retain(|bridge| has_address(bridge.index) && !leads_out(bridge.index));
        Ok(bridges.into_iter().map(|bridge| bridge.name).collect())
    }

    /// The bridges of these plugins that cannot be taken away yet, or never unasked.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub fn bridges_that_stay(&mut self) -> Result<Vec<Stays>, BridgeError> {
        Ok(unbridge::plan(&mut self.0, None)?.into_iter().filter_map(|planned| planned.way.err()).collect())
    }

    /// Settles the networks of bridged pods that other programs changed under them ([`bridge::mend`]). Answers the bridges. `proc_sys_net` is
    /// where the kernel's switches can be written.
    ///
    /// # Errors
    /// See [`BridgeError`].
    pub fn mend_bridges(&mut self, view: &View, proc_sys_net: &Path) -> Result<Vec<Result<IfName, BridgeError>>, BridgeError> {
        if view.astray { bridge::mend(&mut self.0, proc_sys_net) } else { Ok(Vec::new()) }
    }

    /// Takes the network of bridged pods back: the uplink gets its addresses and routes again.
    ///
    /// # Errors
    /// See [`BridgeError`].
    pub fn undo_bridges(&mut self) -> Result<Undone, BridgeError> {
        unbridge::undo(&mut self.0, None)
    }

    /// Gives the pod of a lease, whose link is there, its host route again: exclusively, and never where the address is used otherwise (safety rule
    /// ST4). A bridged pod's route leads through its bridge, and not to its link. Answers why not, where it may not.
    ///
    /// # Errors
    /// The kernel does not answer, or refuses it.
    pub fn mend_route(&mut self, view: &View, lease: &Lease) -> Result<Option<String>, KernelError> {
        let address = lease.address;
        let links: Vec<&PodLink> = view.pods.iter().filter(|pod| pod.alias.address == IpAddr::V4(address)).collect();
        let [pod] = links.as_slice() else { return Ok(Some(format!("{} links have {address}", links.len()))) };
        if pod.alias.attachment != lease.attachment {
            return Ok(Some(format!("{} is the link of {}", pod.name, pod.alias.attachment)));
        }
        match (lease.mode, pod.controller) {
            (Mode::Transparent, None) => {}
            (Mode::Transparent, Some(_)) => return Ok(Some(format!("{} is a port of a bridge, which its route leads through", pod.name))),
            (mode @ (Mode::Bridge | Mode::Tunnel), _) => {
                return Ok(Some(format!("the pod is in {mode} mode: its route leads through the bridge; delete the pod")));
            }
        }
        match kernel_use::found(&mut self.0, address.into()).map_err(failed("look an address up"))? {
            Found::Nothing => {}
            Found::Used(by) => return Ok(Some(by)),
            Found::Stale(_) => return Ok(Some(format!("{address} is routed through a link that is gone or dead"))),
        }
        // A look-up shows nothing of a route that drops packets, and ours would win over one of any metric.
        if view.has_other_route(address) {
            return Ok(Some(format!("{address} has a route of its own, which is none of the agent's")));
        }
        let route = Change::AddRoute(Route::on_link(Ipv4Net::from(address), pod.index));
        self.0.change(route).map_err(failed("give a pod its route again"))?;
        Ok(None)
    }

    /// Deletes the host link of a lease that nobody claims.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn delete_link(&mut self, view: &View, lease: &Lease) -> Result<(), KernelError> {
        let ours = view.pods.iter().filter(|pod| pod.alias.attachment == lease.attachment);
        let changes: Vec<Change<'_>> = ours.map(|pod| Change::DeleteLink(pod.index)).collect();
        self.changes("delete the link of a pod that is gone", &changes)
    }

    /// Removes what of a bridged pod outlives its links: routes, neighbours, rules. Whether nothing of it stays.
    pub fn forget(&mut self, entry: &Entry) -> bool {
        match entry {
            Entry::Leased(lease) => bridge::forget_pod(&mut self.0, &lease.attachment, &[lease.address.into()]).is_ok(),
            Entry::Cooling(_) | Entry::Quarantined(_) | Entry::Unreadable(_) => true,
        }
    }

    /// Removes what bridged pods left that are not among the `known` ones.
    ///
    /// # Errors
    /// See [`StraysError`].
    pub fn forget_strays(&mut self, rules: RulesSeen, known: &BTreeSet<Attachment>, store: &Store) -> Result<(), StraysError> {
        rules.forget_all_but(known, store, &mut self.0)
    }

    /// What the kernel shows of an entry (safety rule CM4).
    pub fn trace(&mut self, view: &View, address: Ipv4Addr, entry: &Entry) -> (NetnsWitness, LinkWitness) {
        match entry {
            Entry::Leased(lease) => {
                let present = view.pods.iter().any(|pod| pod.alias.attachment == lease.attachment);
                (netns(lease, Path::new(NETNS)), if present { LinkWitness::Present } else { LinkWitness::Gone })
            }
            Entry::Cooling(_) | Entry::Quarantined(_) | Entry::Unreadable(_) => (NetnsWitness::Unknown, self.any_sign(view, address)),
        }
    }

    /// Why a pod may still have the address of an entry, also where another plugin wired it and its link has no mark of ours. `namespaces` is
    /// the folder of pods' namespaces; where there is none, nothing is known of them.
    pub fn sign_of_pod(&mut self, address: Ipv4Addr, entry: &Entry, namespaces: &Path) -> Option<String> {
        let lease = match entry {
            Entry::Leased(lease) => Some(lease),
            Entry::Unreadable(_) => None,
            Entry::Cooling(_) | Entry::Quarantined(_) => return None,
        };
        match kernel_use::observe(&mut self.0, address.into()) {
            KernelUse::Free => {}
            KernelUse::Used(what) | KernelUse::Unknown(what) => return Some(what),
        }
        // A lease that was made from a link of ours had nothing but that link to speak for it.
        let lease = lease.filter(|lease| lease.netns.is_some())?;
        let witness = if namespaces.is_dir() { netns(lease, namespaces) } else { NetnsWitness::Unknown };
        match witness {
            NetnsWitness::Same | NetnsWitness::Another => Some("its pod's network namespace is there".into()),
            NetnsWitness::Unknown => Some("whether its pod's network namespace is there cannot be seen".into()),
            NetnsWitness::Gone => None,
        }
    }

    fn any_sign(&mut self, view: &View, address: Ipv4Addr) -> LinkWitness {
        if view.pods.iter().any(|pod| pod.alias.address == IpAddr::V4(address)) {
            return LinkWitness::Present;
        }
        match self.0.route_to(address) {
            Ok(Lookup::Route(route)) if route.kind == RouteKind::Local || route.destination == IpNet::from(IpAddr::V4(address)) => {
                LinkWitness::Present
            }
            Ok(Lookup::Route(_) | Lookup::Nowhere) => LinkWitness::Gone,
            Err(_) => LinkWitness::Unknown,
        }
    }

    /// What exists already, or is gone already, is as it should be.
    fn changes(&mut self, operation: &'static str, changes: &[Change<'_>]) -> Result<(), KernelError> {
        let refused = self.0.changes(changes.iter().cloned()).map_err(failed(operation))?;
        let real = refused.into_iter().find(|(_, errno)| !matches!(*errno, Errno::EXIST | Errno::SRCH | Errno::NODEV));
        let Some((at, errno)) = real else { return Ok(()) };
        let what = changes.get(at).map(ToString::to_string).unwrap_or_default();
        Err(failed(operation)(NetlinkError::Refused { what, errno }))
    }
}

impl View {
    /// The name of the node's NIC, by its MAC.
    #[must_use]
    pub fn nic(&self, mac: &str) -> Option<&str> {
        self.find(mac).map(|nic| nic.name.as_str())
    }

    /// The MTU of the node's NIC.
    #[must_use]
    pub fn mtu(&self, mac: &str) -> Option<u32> {
        self.find(mac).map(|nic| nic.mtu)
    }

    /// The prefix on the node's NIC that an address lies in.
    #[must_use]
    pub fn prefix(&self, mac: &str, address: Ipv4Addr) -> Option<Ipv4Net> {
        // Where pods are bridged, a bridge has the addresses, with the NIC's hardware address.
        let nics = self.nics.iter().filter(|nic| nic.mac.eq_ignore_ascii_case(mac));
        let links: BTreeSet<u32> = nics.map(|nic| nic.index).collect();
        let connected = |route: &Route| match route.destination {
            IpNet::V4(destination) => {
                let is_connected = route.link.is_some_and(|link| links.contains(&link)) && route.gateway.is_none();
                let is_subnet = (1..32).contains(&destination.prefix_len()) && destination.contains(&address);
                (is_connected && is_subnet).then_some(destination)
            }
            IpNet::V6(_) => None,
        };
        self.routes.iter().find_map(connected)
    }

    /// The addresses to which whoever has this protocol's number refuses packets as this agent does.
    fn unreachable(&self, protocol: u8) -> BTreeSet<Ipv4Addr> {
        self.routes.iter().filter(|route| route.protocol == protocol).filter_map(unreachable).collect()
    }

    /// Whether an address has a route of its own beside the one that refuses packets to it (safety rule PK1).
    fn has_other_route(&self, address: Ipv4Addr) -> bool {
        let is_of = |route: &Route| route.destination == IpNet::from(IpAddr::V4(address));
        self.routes.iter().any(|route| is_of(route) && unreachable(route).is_none())
    }

    fn find(&self, mac: &str) -> Option<&Nic> {
        self.nics.iter().find(|nic| nic.mac.eq_ignore_ascii_case(mac) && !nic.name.starts_with("azv"))
    }

    /// The routes to one address through a link of ours, or the bridge of one, with that link's or bridge's number.
    #[must_use]
    pub fn host_routes(&self) -> Vec<(Ipv4Addr, u32)> {
        let through = |route: &Route| {
            let link = route.link.filter(|link| self.pods.iter().any(|pod| pod.index == *link || pod.controller == Some(*link)))?;
            v4(route.destination.addr()).filter(|_| route.destination.prefix_len() == 32).map(|address| (address, link))
        };
        self.routes.iter().filter_map(through).collect()
    }

    /// The pods' links as leases, for a store that has lost its own.
    #[must_use]
    pub fn leases(&self, network: &NetworkName) -> Vec<KernelLease> {
        let mut modes = ModesThere::default();
        let lease = |pod: &PodLink| {
            Some(KernelLease {
                address: v4(pod.alias.address)?,
                attachment: Attachment::clone(&pod.alias.attachment),
                host_link: pod.name.clone(),
                pod: None,
                network: network.clone(),
                mode: modes.of(&pod.alias.attachment, &pod.name, pod.controller),
                netns: None,
            })
        };
        self.pods.iter().filter_map(lease).collect()
    }
}

fn pod_link(link: &Link) -> Option<PodLink> {
    let alias = link.alias.as_ref()?.parse().ok()?;
    Some(PodLink { index: link.index, name: link.name.parse().ok()?, alias, controller: link.controller })
}

/// The route that refuses packets to an address, with our mark.
fn marked(address: Ipv4Addr) -> Route {
    Route::unreachable(address, UNREACHABLE_METRIC)
}

/// The address that such a route refuses packets to, whoever made it.
fn unreachable(route: &Route) -> Option<Ipv4Addr> {
    let is_one = route.kind == RouteKind::Unreachable && route.metric == UNREACHABLE_METRIC && route.destination.prefix_len() == 32;
    v4(route.destination.addr()).filter(|_| is_one)
}

fn v4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

/// Whether the lease's namespace is still at its path. The agent may not enter namespaces, so one that is there counts as the lease's own, and
/// one outside of the folder that it can see, in `folder`, cannot be told.
fn netns(lease: &Lease, folder: &Path) -> NetnsWitness {
    let Some(path) = &lease.netns else { return NetnsWitness::Unknown };
    let path = path.as_str();
    let path = path.strip_prefix("/var").filter(|rest| rest.starts_with("/run/")).unwrap_or(path);
    let Some(name) = path.strip_prefix("/run/netns/") else { return NetnsWitness::Unknown };
    match rustix::fs::statfs(folder.join(name)) {
        Ok(found) if found.f_type == NSFS_MAGIC => NetnsWitness::Same,
        // An unmounted namespace leaves a plain file.
        Ok(_) | Err(Errno::NOENT) => NetnsWitness::Gone,
        Err(_) => NetnsWitness::Unknown,
    }
}
