//! The floor: an empty process, and the fewest messages that wire a pod, from sockets that are open already.

use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, bail, ensure};
use azure_vnet_plugin::netlink::{Address, Change, LinkBy, LinkIndex, Mac, Netlink, Peer, Reply, Request, Route, Veth};
use azure_vnet_plugin::netns::Netns;
use azure_vnet_plugin_core::wiring::{GATEWAY, HOST_MAC};
use ipnet::Ipv4Net;

use super::contestant::Pod;

/// A pod with its socket.
pub(super) struct Bare {
    netns: Netns,
    socket: Netlink,
    link: String,
    address: Ipv4Addr,
}

impl Bare {
    /// Opens the pod's namespace.
    pub(super) fn open(pod: &Pod) -> Result<Self> {
        let netns = Netns::open(&pod.netns.to_string_lossy())?;
        let socket = netns.netlink()?;
        Ok(Self { netns, socket, link: format!("azv{}", pod.number), address: Ipv4Addr::from(0x0af0_8000 + pod.number) })
    }

    /// An empty process, and the messages.
    pub(super) fn add(&mut self, host: &mut Netlink, empty: &Path) -> Result<LinkIndex> {
        start_and_reap(empty)?;
        self.wire(host)
    }

    fn wire(&mut self, host: &mut Netlink) -> Result<LinkIndex> {
        let Self { netns, socket: pod, link: name, address } = self;
        let (name, address) = (name.as_str(), *address);
        let peer = Peer { name: "eth0", mac: Mac([2, 0, 0, 0, 0, 1]), netns: netns.as_fd() };
        let veth = Veth { name, mac: HOST_MAC, mtu: 1500, group: 0, peer };
        let replies = host.exchange(&[Request::Change(Change::CreateVeth(veth)), Request::Link(LinkBy::Name(name))])?;
        let Some(Reply::Link(link)) = replies.into_iter().nth(1) else { bail!("the link is not there") };
        let Some(there) = link.peer else { bail!("the link has no peer") };
        let label = Change::Label { link: link.index, alias: "floor" };
        let mut refused = host.changes([label, Change::AddRoute(Route::on_link(Ipv4Net::from(address), link.index))])?;
        refused.extend(pod.changes([
            Change::SetUp(there),
            Change::AddAddress(Address { link: there, address: address.into(), prefix_len: 16 }),
            Change::AddRoute(Route::on_link(Ipv4Net::from(GATEWAY), there)),
            Change::AddRoute(Route::default_via(GATEWAY, there)),
            Change::SetNeighbour { link: there, address: GATEWAY.into(), mac: HOST_MAC },
        ])?);
        ensure!(refused.is_empty(), "the kernel refused {refused:?}");
        Ok(link.index)
    }
}

/// An empty process, and the end of the link.
pub(super) fn del(host: &mut Netlink, empty: &Path, link: LinkIndex) -> Result<()> {
    start_and_reap(empty)?;
    Ok(host.change(Change::DeleteLink(link))?)
}

/// Starts it as a plugin is started, its input and output piped.
fn start_and_reap(empty: &Path) -> Result<()> {
    let output = Command::new(empty).env_clear().stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?.wait_with_output()?;
    ensure!(output.status.success(), "{} failed", empty.display());
    Ok(())
}
