//! Azure's network between machines, as a router: every ARP answered by one hardware address, a route for each address that a NIC has,
//! and nothing let through whose source is not an address of the NIC it comes from (strict reverse path filter).

use std::net::Ipv4Addr;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, ensure};
use azure_vnet_plugin::netlink::{Change, LinkBy, Mac as KernelMac, Netlink, Route};
use ipnet::Ipv4Net;

use super::plan::{API_SERVER, ARM, FABRIC_MAC, GATEWAY, IMDS, Machine, OUTSIDERS, Outsider, VNET, WIRESERVER};
use super::run::{ip, run, write};
use crate::azure::{Fabric, Mac, NicRef};

/// Carries out what the emulated cloud says of NICs' addresses. It starts no process: the lab's first one reaps whatever ends.
pub struct Router(Mutex<Netlink>);

impl Router {
    /// Works in the calling thread's network namespace.
    ///
    /// # Errors
    /// If the kernel gives no socket.
    pub fn open() -> Result<Self> {
        Ok(Self(Mutex::new(Netlink::open()?)))
    }
}

impl Fabric for Router {
    fn attach(&self, nic: &NicRef, address: Ipv4Addr) {
        // A machine that is off has no cable: its addresses are plugged in when it starts.
        let mut netlink = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = plug_by(&mut netlink, &nic.node, nic.mac, address);
    }

    fn detach(&self, nic: &NicRef, address: Ipv4Addr) {
        let mut netlink = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(Some(link)) = netlink.link(LinkBy::Name(&cable(&nic.node))) {
            let route = Change::DeleteRoute(Route::on_link(ipnet::Ipv4Net::from(address), link.index));
            let _ = netlink.changes([route, Change::DeleteNeighbour { link: link.index, address: address.into() }]);
        }
    }
}

/// Lets an address through to a machine: delivered to its NIC's hardware address, whoever holds it there (safety rule PK6).
///
/// # Errors
/// If the machine has no cable.
pub fn plug(node: &str, mac: Mac, address: Ipv4Addr) -> Result<()> {
    plug_by(&mut Netlink::open()?, node, mac, address)
}

fn plug_by(netlink: &mut Netlink, node: &str, mac: Mac, address: Ipv4Addr) -> Result<()> {
    let link = netlink.link(LinkBy::Name(&cable(node)))?.with_context(|| format!("{node} has no cable"))?.index;
    let mac = KernelMac(mac.0);
    let route = Change::ReplaceRoute(Route::on_link(ipnet::Ipv4Net::from(address), link));
    let refused = netlink.changes([Change::SetNeighbour { link, address: address.into(), mac }, route])?;
    ensure!(refused.is_empty(), "the fabric cannot deliver {address} to {node}: {refused:?}");
    Ok(())
}

/// The fabric's end of a machine's cable.
#[must_use]
pub fn cable(node: &str) -> String {
    format!("p-{node}")
}

/// Sets up the fabric's own namespace: its addresses, forwarding, and the hosts outside the VNET.
///
/// # Errors
/// If the kernel refuses.
pub fn set_up(machines: &[Machine]) -> Result<()> {
    ip("link set lo up")?;
    for address in [API_SERVER, ARM, GATEWAY, WIRESERVER, IMDS] {
        ip(&format!("address add {address}/32 dev lo"))?;
    }
    for (name, value) in [
        ("ip_forward", "1"),
        ("conf/all/rp_filter", "0"),
        ("conf/default/rp_filter", "1"),
        ("conf/all/send_redirects", "0"),
        ("conf/default/send_redirects", "0"),
    ] {
        write(format!("/proc/sys/net/ipv4/{name}"), value)?;
    }
    answer_for_the_whole_network()?;
    for outsider in OUTSIDERS {
        connect(outsider)?;
    }
    only_machines_reach_the_internet(machines)
}

/// Lays a cable between the fabric and a namespace.
///
/// # Errors
/// If the kernel refuses.
pub fn lay_cable(machine: &Machine, subnet: Ipv4Net) -> Result<()> {
    let (node, cable) = (&machine.name, cable(&machine.name));
    ip(&format!("link add {cable} address {FABRIC_MAC} type veth peer name eth0 address {} netns {node}", machine.mac))?;
    write(format!("/proc/sys/net/ipv4/neigh/{cable}/proxy_delay"), "0")?;
    // The second: also for addresses of the NIC that asks.
    for name in ["proxy_arp", "proxy_arp_pvlan"] {
        write(format!("/proc/sys/net/ipv4/conf/{cable}/{name}"), "1")?;
    }
    ip(&format!("link set {cable} up"))?;
    plug(node, machine.mac, machine.address)?;
    ip(&format!("-n {node} link set lo up"))?;
    ip(&format!("-n {node} address add {}/{} dev eth0", machine.address, subnet.prefix_len()))?;
    ip(&format!("-n {node} link set eth0 up"))?;
    ip(&format!("-n {node} route add default via {GATEWAY}"))
}

/// Azure answers ARP for addresses that nobody has, too. A kernel does so for what it has a route to: here to a cable that ends nowhere, which
/// also is the way of everything sent to such an address. No packet comes from there, so the reverse path filter stops such sources as before.
fn answer_for_the_whole_network() -> Result<()> {
    ip("link add nowhere type veth peer name nowhere-end")?;
    for end in ["nowhere-end", "nowhere"] {
        ip(&format!("link set {end} arp off up"))?;
    }
    ip(&format!("route add {VNET} dev nowhere"))
}

fn connect(outsider: &Outsider) -> Result<()> {
    let Outsider { name, address, prefix, gateway } = outsider;
    let cable = cable(name);
    ip(&format!("netns add {name}"))?;
    ip(&format!("link add {cable} type veth peer name eth0 netns {name}"))?;
    ip(&format!("address add {gateway}/{prefix} dev {cable}"))?;
    ip(&format!("link set {cable} up"))?;
    ip(&format!("-n {name} link set lo up"))?;
    ip(&format!("-n {name} address add {address}/{prefix} dev eth0"))?;
    ip(&format!("-n {name} link set eth0 up"))?;
    ip(&format!("-n {name} route add default via {gateway}"))
}

/// A pod's address has no public one behind it: the internet sees machines' own addresses or nothing.
fn only_machines_reach_the_internet(machines: &[Machine]) -> Result<()> {
    let cable = cable("internet");
    for machine in machines {
        run("iptables-nft", &["-A", "FORWARD", "-o", &cable, "-s", &machine.address.to_string(), "-j", "ACCEPT"])?;
    }
    run("iptables-nft", &["-A", "FORWARD", "-o", &cable, "-j", "DROP"]).map(|_| ())
}
