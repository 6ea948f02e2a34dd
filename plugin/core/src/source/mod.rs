//! What a machine's own services say of its addresses, without any agent: parsers of their answers, and what pods may use of it.
//! Asking them is the shell's.

pub mod endpoint;
pub mod file;
pub mod http;
pub mod imds;
mod learned;
pub mod pace;
pub mod wireserver;

use std::{net::Ipv4Addr, str::FromStr};

use ipnet::Ipv4Net;

pub use learned::{Learned, LearnedSubnet, Origin, Wanted};

use crate::{
    attachment::{IfName, NameError},
    wiring::Mac,
};

/// A network interface card as a source describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Which link of this machine it is.
    pub mac: MacPattern,
    /// Whether it is the machine's primary one.
    pub primary: bool,
    /// Its subnets.
    pub subnets: Vec<Subnet>,
}

/// A subnet of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// Its prefix.
    pub prefix: Ipv4Net,
    /// The interface's addresses in it.
    pub addresses: Vec<Address>,
}

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The address.
    pub address: Ipv4Addr,
    /// Whether it is the machine's own rather than one for pods.
    pub primary: bool,
}

/// How a source names a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MacPattern {
    /// The first of the machine's.
    Any,
    /// The one with this hardware address.
    Is(Mac),
}

impl FromStr for MacPattern {
    type Err = NameError;
    /// Reads 12 hex digits in any case, with or without separators, or `*`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.trim() == "*" {
            return Ok(Self::Any);
        }
        let digits: Vec<u8> = text.trim().bytes().filter(|byte| !matches!(byte, b':' | b'-')).collect();
        let value = |digit: u8| char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let bytes: Option<Vec<u8>> =
            digits.chunks(2).map(|pair| pair.iter().try_fold(0, |byte, digit| Some(byte << 4 | value(*digit)?))).collect();
        let mac = bytes.filter(|_| digits.len() == 12).and_then(|bytes| bytes.try_into().ok());
        mac.map(|mac| Self::Is(Mac(mac))).ok_or_else(|| NameError::of("hardware address", text, "it has 12 hex digits, or is \"*\""))
    }
}

/// A link of this machine that could be an interface of Azure's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostLink {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: IfName,
    /// Its hardware address.
    pub mac: Mac,
    /// The link that it belongs to.
    pub controller: Option<u32>,
}

/// The link of an interface. Where several have its hardware address (an accelerated card has two paths), it is the one that the others
/// belong to; belonging to a bridge takes nothing away.
#[must_use]
pub fn link_of(pattern: MacPattern, links: &[HostLink]) -> Option<&HostLink> {
    let MacPattern::Is(mac) = pattern else { return links.first() };
    let same = || links.iter().filter(move |link| link.mac == mac);
    same().find(|link| !same().any(|other| link.controller == Some(other.index)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_addresses_are_read_in_any_spelling() {
        let mac = MacPattern::Is(Mac([0x00, 0x0d, 0x3a, 0x51, 0xc4, 0x90]));
        for text in ["000D3A51C490", "000d3a51c490", "00:0d:3A:51:c4:90", "00-0D-3A-51-C4-90", " 000D3A51C490 "] {
            assert_eq!(text.parse(), Ok(mac), "{text}");
        }
        assert_eq!("*".parse(), Ok(MacPattern::Any));
        for text in ["", "000D3A51C49", "000D3A51C4900", "000D3A51C49G", "é00D3A51C49"] {
            assert!(text.parse::<MacPattern>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_second_path_of_an_accelerated_card_is_not_the_interface() {
        let mac = Mac([2, 0, 0, 0, 0, 1]);
        let link = |index, name: &str, controller| HostLink { index, name: name.parse().unwrap(), mac, controller };
        let name = |links: &[HostLink]| link_of(MacPattern::Is(mac), links).map(|link| link.name.to_string());
        assert_eq!(name(&[link(3, "enP1", Some(2)), link(2, "eth0", None)]), Some("eth0".into()));
        assert_eq!(name(&[link(3, "enP1", Some(2)), link(2, "eth0", Some(9))]), Some("eth0".into()), "in a bridge");
        assert_eq!(name(&[]), None);
        assert_eq!(link_of(MacPattern::Any, &[link(2, "eth0", None)]).map(|link| link.index), Some(2));
    }
}
