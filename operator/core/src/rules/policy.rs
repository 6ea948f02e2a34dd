//! What the rules depend on: the pool, the address spaces that keep a pod's source, and the users' wishes.

use std::{collections::BTreeSet, net::Ipv4Addr};

use azure_vnet_crds::config::{MasqueradeMode, MasqueradeSpec};
use ipnet::Ipv4Net;

/// What the rules depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Every address that a pod may have as its source.
    pub pool: BTreeSet<Ipv4Addr>,
    /// Address spaces of the VNET and its peers.
    pub vnet: Vec<Ipv4Net>,
    /// Which destinations see the node's address.
    pub masquerade: Masquerade,
    /// Whether forwarded pod traffic is accepted.
    pub forward: Forward,
}

/// Which destinations see the node's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Masquerade {
    /// None.
    Disabled,
    /// Those listed, and IMDS.
    Only {
        /// Destinations that see the node's address.
        to: Vec<Ipv4Net>,
        /// How source ports are chosen.
        ports: Ports,
    },
    /// All outside the VNET.
    OutsideVnet {
        /// Destinations that see the node's address even inside the VNET.
        to: Vec<Ipv4Net>,
        /// Further destinations that see the pod's address.
        not_to: Vec<Ipv4Net>,
        /// How source ports are chosen.
        ports: Ports,
    },
}

/// How a masqueraded connection's source port is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ports {
    /// Kept where possible.
    Kept,
    /// At random, which avoids lost packets when many connections race for one port.
    Random,
}

/// Whether forwarded pod traffic is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forward {
    /// In our own chain.
    Accept,
    /// Left to others.
    Leave,
}

impl Masquerade {
    /// Reads the users' words; what is no IPv4 prefix comes back beside it.
    #[must_use]
    pub fn parse(spec: &MasqueradeSpec) -> (Self, Vec<String>) {
        let MasqueradeSpec { mode, non_masquerade_cidrs, masquerade_cidrs, random_fully, backend: _, discover_peerings: _ } = spec;
        let (to, mut refused) = parse_nets(masquerade_cidrs);
        let (not_to, refused_not_to) = parse_nets(non_masquerade_cidrs);
        refused.extend(refused_not_to);
        let ports = if *random_fully { Ports::Random } else { Ports::Kept };
        let parsed = match mode {
            MasqueradeMode::Disabled => Self::Disabled,
            MasqueradeMode::Custom => Self::Only { to, ports },
            MasqueradeMode::VNet => Self::OutsideVnet { to, not_to, ports },
        };
        (parsed, refused)
    }
}

/// Parses prefixes; what is none comes back as the second list.
#[must_use]
pub fn parse_nets(texts: &[String]) -> (Vec<Ipv4Net>, Vec<String>) {
    let (mut nets, mut refused) = (vec![], vec![]);
    for text in texts {
        match text.parse::<Ipv4Net>() {
            Ok(net) => nets.push(net.trunc()),
            Err(_) => refused.push(text.clone()),
        }
    }
    (nets, refused)
}
