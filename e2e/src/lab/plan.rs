//! The lab's fixed facts: names and addresses. Everything that two of its parts must agree on stands here.

use std::net::Ipv4Addr;

use crate::azure::Mac;
use crate::azure::seed::{MachineSeed, Seed};

/// Address of the API server, on the fabric's loopback.
pub const API_SERVER: &str = "10.250.0.10";
/// First address of the Services: the API server as pods see it.
pub const SERVICE_OF_API: &str = "10.96.0.1";
/// Services' addresses.
pub const SERVICES: &str = "10.96.0.0/16";
/// Azure Resource Manager and the sign-in service, on the fabric's loopback.
pub const ARM: &str = "10.250.0.20";
/// The virtual network: what the fabric answers ARP for.
pub const VNET: &str = "10.240.0.0/16";
/// What every node's default route names.
pub const GATEWAY: &str = "10.240.0.1";
/// The wireserver.
pub const WIRESERVER: &str = "168.63.129.16";
/// The metadata service.
pub const IMDS: &str = "169.254.169.254";
/// The hardware address that Azure's network answers ARP with.
pub const FABRIC_MAC: &str = "12:34:56:78:9a:bc";
/// cgroup v1 hierarchies that a node gets its own part of.
pub const HIERARCHIES: &[&str] = &["cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "systemd"];

/// A host outside the VNET: its name, its address with prefix, and its gateway.
pub struct Outsider {
    /// Name of its network namespace.
    pub name: &'static str,
    /// Its address.
    pub address: &'static str,
    /// Prefix length of its network.
    pub prefix: u8,
    /// The fabric's address there.
    pub gateway: &'static str,
}

/// The peered VNET's host and the internet's.
pub const OUTSIDERS: &[Outsider] = &[
    Outsider { name: "peer", address: "10.50.0.10", prefix: 16, gateway: "10.50.0.1" },
    Outsider { name: "internet", address: "203.0.113.10", prefix: 24, gateway: "203.0.113.1" },
];

/// A node: an Azure machine with a kubelet.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Its name.
    pub name: String,
    /// Its own address.
    pub address: Ipv4Addr,
    /// Hardware address of its NIC.
    pub mac: Mac,
    /// What the kubelet says of it.
    pub provider_id: String,
}

/// The machines of a lab's cloud, in order.
#[must_use]
pub fn machines(count: u8) -> Vec<Machine> {
    Seed::lab_of(count).machines.iter().filter_map(machine).collect()
}

fn machine(seed: &MachineSeed) -> Option<Machine> {
    let provider_id = seed.provider_id();
    Some(Machine { name: seed.node.clone(), address: seed.address?, mac: seed.mac, provider_id })
}
