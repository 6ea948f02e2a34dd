//! The floor: an empty process, and the fewest messages that wire a pod, from sockets that are open already. Of a bridged pod, one transaction
//! of rules is among them; to take it away, its rules' numbers have to be asked for first.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use azure_vnet_plugin::frames::Frames;
use azure_vnet_plugin::netlink::{Address, Change, LinkBy, LinkIndex, Mac, Netlink, Peer, Reply, Request, Route, Veth};
use azure_vnet_plugin::netns::Netns;
use azure_vnet_plugin_core::attachment::{Attachment, Mode};
use azure_vnet_plugin_core::frames::{self, PodRule, RulePlan};
use azure_vnet_plugin_core::wiring::{GATEWAY, HOST_MAC};
use ipnet::{IpNet, Ipv4Net};

use super::contestant::Pod;

/// The bridge of the floors' pods.
pub(super) const FLOORS_BRIDGE: &str = "floor";
const POD_MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
const SUBNETS_GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 240, 0, 1);

/// A pod with its sockets.
pub(super) struct Bare {
    netns: Netns,
    socket: Netlink,
    link: String,
    address: Ipv4Addr,
    bridged: Option<Bridged>,
}

/// What a bridged pod needs more.
struct Bridged {
    socket: Frames,
    bridge: LinkIndex,
    attachment: Attachment,
    rules: Vec<PodRule>,
}

impl Bare {
    /// Opens the pod's namespace.
    pub(super) fn open(pod: &Pod, mode: Mode) -> Result<Self> {
        let netns = Netns::open(&pod.netns.to_string_lossy())?;
        let socket = netns.netlink()?;
        let (link, address) = (format!("azv{}", pod.number), Ipv4Addr::from(0x0af0_8000 + pod.number));
        let bridged = match mode {
            Mode::Transparent => None,
            Mode::Bridge => Some(Bridged::open(pod, frames::Frames::Direct, &link, address)?),
            Mode::Tunnel => Some(Bridged::open(pod, frames::Frames::ToFabric, &link, address)?),
        };
        Ok(Self { netns, socket, link, address, bridged })
    }

    /// The fewest system calls that send the messages of a mode and hear their answers, from sockets that are open.
    pub(super) fn calls(mode: Mode) -> f64 {
        match mode {
            // The pair; the host's side; the pod's.
            Mode::Transparent => 6.0,
            // And the transaction of rules.
            Mode::Bridge | Mode::Tunnel => 8.0,
        }
    }

    /// An empty process, and the messages.
    pub(super) fn add(&mut self, host: &mut Netlink, empty: &Path) -> Result<LinkIndex> {
        start_and_reap(empty)?;
        self.wire(host)
    }

    /// An empty process, and the end of the link.
    pub(super) fn del(&mut self, host: &mut Netlink, empty: &Path, link: LinkIndex) -> Result<()> {
        start_and_reap(empty)?;
        let mut changes = vec![Change::DeleteLink(link)];
        if let Some(Bridged { socket, bridge, attachment, rules: _ }) = &mut self.bridged {
            changes.push(Change::DeleteNeighbour { link: *bridge, address: self.address.into() });
            changes.push(Change::DeleteRoute(Route::on_link(Ipv4Net::from(self.address), *bridge)));
            let seen = socket.observe()?;
            socket.apply(&RulePlan::of_pod(attachment, &[], &seen))?;
        }
        let refused = host.changes(changes)?;
        ensure!(refused.is_empty(), "the kernel refused {refused:?}");
        Ok(())
    }

    fn wire(&mut self, host: &mut Netlink) -> Result<LinkIndex> {
        let (name, address) = (self.link.as_str(), self.address);
        let peer = Peer { name: "eth0", mac: POD_MAC, netns: self.netns.as_fd() };
        let veth = Veth { name, mac: HOST_MAC, mtu: 1500, group: 0, peer };
        let replies = host.exchange(&[Request::Change(Change::CreateVeth(veth)), Request::Link(LinkBy::Name(name))])?;
        let Some(Reply::Link(link)) = replies.into_iter().nth(1) else { bail!("the link is not there") };
        let Some(there) = link.peer else { bail!("the link has no peer") };
        let (near, far) = match &self.bridged {
            None => (routed(link.index, address), Vec::from(through_host(there))),
            Some(bridged) => (bridged.port(link.index, address), Vec::from(through_subnet(there, address))),
        };
        let mut refused = host.changes(near)?;
        if let Some(Bridged { socket, attachment, rules, bridge: _ }) = &mut self.bridged {
            socket.apply(&RulePlan::of_pod(attachment, rules, &[]))?;
        }
        let own = [Change::SetUp(there), Change::AddAddress(Address { link: there, address: address.into(), prefix_len: 16 })];
        refused.extend(self.socket.changes(own.into_iter().chain(far))?);
        ensure!(refused.is_empty(), "the kernel refused {refused:?}");
        Ok(link.index)
    }
}

impl Bridged {
    fn open(pod: &Pod, frames: frames::Frames, link: &str, address: Ipv4Addr) -> Result<Self> {
        let bridge = Netlink::open()?.link(LinkBy::Name(FLOORS_BRIDGE))?.context("the floor has a bridge")?.index;
        let attachment = Attachment { container: pod.name.parse()?, if_name: "eth0".parse()? };
        let rules = PodRule::desire(frames, &link.parse()?, &"eth0".parse()?, POD_MAC, [IpAddr::V4(address)].into_iter());
        Ok(Self { socket: Frames::open()?, bridge, attachment, rules })
    }

    fn port(&self, link: LinkIndex, address: Ipv4Addr) -> Vec<Change<'static>> {
        vec![
            Change::SetAlias { link, alias: "floor" },
            Change::SetController { link, controller: self.bridge },
            Change::SetHairpin { link, on: true },
            Change::AddRoute(Route::on_link(Ipv4Net::from(address), self.bridge)),
            Change::SetNeighbour { link: self.bridge, address: address.into(), mac: POD_MAC },
        ]
    }
}

fn routed(link: LinkIndex, address: Ipv4Addr) -> Vec<Change<'static>> {
    vec![Change::Label { link, alias: "floor" }, Change::AddRoute(Route::on_link(Ipv4Net::from(address), link))]
}

fn through_host(link: LinkIndex) -> [Change<'static>; 3] {
    [
        Change::AddRoute(Route::on_link(Ipv4Net::from(GATEWAY), link)),
        Change::AddRoute(Route::default_via(GATEWAY, link)),
        Change::SetNeighbour { link, address: GATEWAY.into(), mac: HOST_MAC },
    ]
}

fn through_subnet(link: LinkIndex, address: Ipv4Addr) -> [Change<'static>; 2] {
    let subnet = Ipv4Net::new_assert(address, 16).trunc();
    [Change::AddRoute(Route::on_link(IpNet::from(subnet), link)), Change::AddRoute(Route::default_via(SUBNETS_GATEWAY, link))]
}

/// Starts it as a plugin is started, its input and output piped.
fn start_and_reap(empty: &Path) -> Result<()> {
    let output = Command::new(empty).env_clear().stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?.wait_with_output()?;
    ensure!(output.status.success(), "{} failed", empty.display());
    Ok(())
}
