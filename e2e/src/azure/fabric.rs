//! What the emulated cloud tells the packet fabric. It knows nothing of how packets are moved.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A hardware address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Returns the form of ARM: `00-0D-3A-00-00-01`.
    #[must_use]
    pub fn dashed(self) -> String {
        self.0.map(|byte| format!("{byte:02X}")).join("-")
    }

    /// Returns the form of IMDS and the wireserver: `000D3A000001`.
    #[must_use]
    pub fn bare(self) -> String {
        self.0.map(|byte| format!("{byte:02X}")).concat()
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.map(|byte| format!("{byte:02x}")).join(":"))
    }
}

impl FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes: Result<Vec<u8>, _> = text.split([':', '-']).map(|part| u8::from_str_radix(part, 16)).collect();
        let bytes = bytes.map_err(|error| format!("{text}: {error}"))?;
        <[u8; 6]>::try_from(bytes).map(Self).map_err(|_| format!("{text}: a hardware address has six bytes"))
    }
}

impl Serialize for Mac {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A NIC as the fabric knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NicRef {
    /// The resource id.
    pub id: String,
    /// The name of the node (the machine's computer name).
    pub node: String,
    /// The hardware address that packets for the NIC's addresses are sent to.
    pub mac: Mac,
    /// The address of the primary configuration: the node's own.
    pub primary: Ipv4Addr,
}

/// Lets packets of an address through to a NIC, and stops them.
///
/// Called from one task in the order in which things happened, the primary address included; an address is detached from its former NIC before it
/// is attached to another. A call should return within milliseconds.
pub trait Fabric: Send + Sync {
    /// Lets packets from and to `address` through.
    fn attach(&self, nic: &NicRef, address: Ipv4Addr);
    /// Stops packets from and to `address`.
    fn detach(&self, nic: &NicRef, address: Ipv4Addr);
}

/// A fabric that moves no packets, for tests of the API alone.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoFabric;

impl Fabric for NoFabric {
    fn attach(&self, _nic: &NicRef, _address: Ipv4Addr) {}
    fn detach(&self, _nic: &NicRef, _address: Ipv4Addr) {}
}
