//! The node's iptables rules as values: what our own chains should hold, and the one restore transaction that gets there.
//!
//! It knows the text that `iptables -S` prints and `iptables-restore` reads, and runs neither. Nothing outside the chains
//! named here is ever named in a plan, but for the jumps into them.
//!
//! Pool addresses are matched as the fewest exact prefixes that hold them and nothing else: `FORWARD` sees every packet, an
//! ipset needs a binary that the node may lack, and an interface match (`azv+`) would also accept forged sources.

mod chains;
mod desired;
mod others;
mod policy;
mod program;
#[cfg(test)]
mod tests;
mod transaction;

use std::net::Ipv4Addr;

pub use chains::{Chains, Table};
pub use desired::{aggregate, desire};
pub use others::{foreign, hidden_by_others};
pub use policy::{Forward, Masquerade, Policy, Ports, parse_nets};
pub use program::{Evidence, Program, choose, evidence};
pub use transaction::{Plan, plan, withdraw};

/// Chain of `nat` that picks the pool's packets.
pub const MASQ: &str = "AZURE-VNET-MASQ";
/// Chain of `nat` that decides by destination.
pub const EGRESS: &str = "AZURE-VNET-EGRESS";
/// Chain of `filter` that accepts forwarded pod traffic.
pub const FORWARD: &str = "AZURE-VNET-FORWARD";
/// Chain of `mangle` that keeps pods off the host agent's ports of the wireserver.
pub const GUARD: &str = "AZURE-VNET-GUARD";
/// Azure's wireserver, which is also DNS for pods and the source of load balancer probes.
pub const WIRESERVER: Ipv4Addr = Ipv4Addr::new(168, 63, 129, 16);
/// Azure's instance metadata service, which answers a machine's primary address only.
pub const IMDS: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
