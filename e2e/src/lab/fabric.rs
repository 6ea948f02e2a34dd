//! Azure's network between machines, as a router: every ARP answered by one hardware address, a route for each address that a NIC has,
//! and nothing let through whose source is not an address of the NIC it comes from (strict reverse path filter).

use std::net::Ipv4Addr;

use anyhow::Result;

use super::plan::{API_SERVER, ARM, FABRIC_MAC, GATEWAY, IMDS, Machine, OUTSIDERS, Outsider, WIRESERVER, machines};
use super::run::{ip, run, write};
use crate::azure::{Fabric, NicRef};

/// Carries out what the emulated cloud says of NICs' addresses.
pub struct Router;

impl Fabric for Router {
    fn attach(&self, nic: &NicRef, address: Ipv4Addr) {
        // A machine that is off has no cable: its addresses are plugged in when it starts.
        let _ = plug(&nic.node, &nic.mac.to_string(), address);
    }

    fn detach(&self, nic: &NicRef, address: Ipv4Addr) {
        let cable = cable(&nic.node);
        let _ = ip(&format!("route del {address}/32 dev {cable}"));
        let _ = ip(&format!("neigh del {address} dev {cable}"));
    }
}

/// Lets an address through to a machine: delivered to its NIC's hardware address, whoever holds it there (safety rule PK6).
///
/// # Errors
/// If the machine has no cable.
pub fn plug(node: &str, mac: &str, address: Ipv4Addr) -> Result<()> {
    let cable = cable(node);
    ip(&format!("neigh replace {address} lladdr {mac} dev {cable} nud permanent"))?;
    ip(&format!("route replace {address}/32 dev {cable}"))
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
pub fn set_up() -> Result<()> {
    ip("link set lo up")?;
    for address in [API_SERVER, ARM, GATEWAY, WIRESERVER, IMDS] {
        ip(&format!("address add {address}/32 dev lo"))?;
    }
    for (name, value) in [("ip_forward", "1"), ("conf/all/rp_filter", "0"), ("conf/default/rp_filter", "1")] {
        write(format!("/proc/sys/net/ipv4/{name}"), value)?;
    }
    for outsider in OUTSIDERS {
        connect(outsider)?;
    }
    only_machines_reach_the_internet()
}

/// Lays a cable between the fabric and a namespace.
///
/// # Errors
/// If the kernel refuses.
pub fn lay_cable(machine: &Machine) -> Result<()> {
    let (node, cable) = (&machine.name, cable(&machine.name));
    ip(&format!("link add {cable} address {FABRIC_MAC} type veth peer name eth0 address {} netns {node}", machine.mac))?;
    write(format!("/proc/sys/net/ipv4/neigh/{cable}/proxy_delay"), "0")?;
    write(format!("/proc/sys/net/ipv4/conf/{cable}/proxy_arp"), "1")?;
    ip(&format!("link set {cable} up"))?;
    plug(node, &machine.mac, machine.address)?;
    ip(&format!("-n {node} link set lo up"))?;
    ip(&format!("-n {node} address add {}/16 dev eth0", machine.address))?;
    ip(&format!("-n {node} link set eth0 up"))?;
    ip(&format!("-n {node} route add default via {GATEWAY}"))
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
fn only_machines_reach_the_internet() -> Result<()> {
    let cable = cable("internet");
    for machine in machines() {
        run("iptables-nft", &["-A", "FORWARD", "-o", &cable, "-s", &machine.address.to_string(), "-j", "ACCEPT"])?;
    }
    run("iptables-nft", &["-A", "FORWARD", "-o", &cable, "-j", "DROP"]).map(|_| ())
}
