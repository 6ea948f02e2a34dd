//! IP configurations of ours, as controller and agent name them: slot, address, and how many addresses it stands for.

use std::{borrow::Cow, fmt, net::Ipv4Addr, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How many addresses one IP configuration carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize, JsonSchema)]
pub enum Unit {
    /// One.
    #[default]
    Address,
    /// The 16 addresses of an aligned /28, all of which pods may use.
    Block28,
}

impl Unit {
    /// Addresses.
    #[must_use]
    pub const fn size(self) -> u16 {
        match self {
            Self::Address => 1,
            Self::Block28 => 16,
        }
    }

    /// A number of addresses, rounded up to whole units.
    #[must_use]
    pub const fn whole(self, addresses: u16) -> u16 {
        addresses.div_ceil(self.size()).saturating_mul(self.size())
    }

    /// Length of the prefix, in bits.
    #[must_use]
    pub const fn prefix_len(self) -> u8 {
        match self {
            Self::Address => 32,
            Self::Block28 => 28,
        }
    }

    /// The first address of the one that an address lies in.
    #[must_use]
    pub const fn first(self, address: Ipv4Addr) -> Ipv4Addr {
        match self {
            Self::Address => address,
            Self::Block28 => Ipv4Addr::from_bits(address.to_bits() & !0xf),
        }
    }

    /// Whether it is the usual one, which is not written down.
    #[must_use]
    pub fn is_address(&self) -> bool {
        *self == Self::Address
    }
}

/// One IP configuration of ours: its slot, which names it (`avn-<slot>`), and what it carries. Written `slot/address`, a block `slot/address/28` with the
/// block's first address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotAddress {
    /// 1 to 255.
    pub slot: u8,
    /// The VNET address that Azure gave it; of a block the first.
    pub address: Ipv4Addr,
    /// How many it carries.
    pub unit: Unit,
}

impl SlotAddress {
    /// A slot with one address.
    #[must_use]
    pub const fn single(slot: u8, address: Ipv4Addr) -> Self {
        Self { slot, address, unit: Unit::Address }
    }

    /// A slot with what of this unit an address lies in.
    #[must_use]
    pub const fn of(slot: u8, address: Ipv4Addr, unit: Unit) -> Self {
        Self { slot, address: unit.first(address), unit }
    }

    /// Its addresses, each by itself with the slot that it belongs to.
    pub fn each(self) -> impl Iterator<Item = Self> {
        let Self { slot, address, unit } = self;
        (0..u32::from(unit.size())).map(move |number| Self::single(slot, Ipv4Addr::from_bits(address.to_bits() | number)))
    }

    /// Whether an address is one of its.
    #[must_use]
    pub fn contains(self, address: Ipv4Addr) -> bool {
        self.unit.first(address) == self.address
    }

    /// Whether it is the same slot and has all addresses of the other.
    #[must_use]
    pub fn covers(self, other: Self) -> bool {
        self.slot == other.slot && self.contains(other.address) && self.unit.size() >= other.unit.size()
    }

    /// Whether both have an address in common.
    #[must_use]
    pub fn meets(self, other: Self) -> bool {
        self.contains(other.address) || other.contains(self.address)
    }
}

impl fmt::Display for SlotAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { slot, address, unit } = self;
        match unit {
            Unit::Address => write!(f, "{slot}/{address}"),
            Unit::Block28 => write!(f, "{slot}/{address}/{}", unit.prefix_len()),
        }
    }
}

/// Why a text is no [`SlotAddress`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not slot/address, with a slot from 1 to 255, as in 3/10.1.4.7, or in 4/10.1.4.16/28 for a block")]
pub struct SlotAddressError(String);

impl FromStr for SlotAddress {
    type Err = SlotAddressError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || SlotAddressError(text.to_owned());
        let (slot, rest) = text.split_once('/').ok_or_else(error)?;
        let slot = slot.parse().ok().filter(|&slot| slot > 0).ok_or_else(error)?;
        let (address, unit) = match rest.split_once('/') {
            None => (rest, Unit::Address),
            Some((address, "28")) => (address, Unit::Block28),
            Some(_) => return Err(error()),
        };
        let address = address.parse().map_err(|_| error())?;
        let at = Self::of(slot, address, unit);
        (at.address == address).then_some(at).ok_or_else(error)
    }
}

impl Serialize for SlotAddress {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SlotAddress {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for SlotAddress {
    fn schema_name() -> Cow<'static, str> {
        "SlotAddress".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "maxLength": 22, "pattern": r"^[1-9][0-9]{0,2}/[0-9.]{7,15}(/28)?$"})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_written_with_its_address_or_its_block() {
        for text in ["3/10.1.4.7", "255/255.255.255.255", "4/10.1.4.16/28", "1/10.1.4.0/28"] {
            assert_eq!(text.parse::<SlotAddress>().unwrap().to_string(), text);
        }
        for text in ["0/10.1.4.7", "256/10.1.4.7", "3", "3/10.1.4", "3/10.1.4.7/28", "3/10.1.4.16/27", "3/10.1.4.7/32", "3/10.1.4.16/28/"] {
            assert!(text.parse::<SlotAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_block_is_its_sixteen_addresses() {
        let block: SlotAddress = "4/10.1.4.16/28".parse().unwrap();
        let each: Vec<String> = block.each().map(|at| at.to_string()).collect();
        assert_eq!((each.len(), each[0].as_str(), each[15].as_str()), (16, "4/10.1.4.16", "4/10.1.4.31"));
        let inside = |text: &str| block.contains(text.parse().unwrap());
        assert_eq!(["10.1.4.15", "10.1.4.16", "10.1.4.31", "10.1.4.32"].map(inside), [false, true, true, false]);
        assert_eq!(SlotAddress::of(4, "10.1.4.21".parse().unwrap(), Unit::Block28), block);
        let single: SlotAddress = "9/10.1.4.21".parse().unwrap();
        assert!(block.meets(single) && single.meets(block) && !single.meets("9/10.1.4.22".parse().unwrap()));
        assert_eq!(single.each().collect::<Vec<_>>(), [single]);
        let covers = |text: &str| block.covers(text.parse().unwrap());
        assert_eq!(["4/10.1.4.21", "4/10.1.4.16/28", "9/10.1.4.21", "4/10.1.4.32"].map(covers), [true, true, false, false]);
        assert!(!SlotAddress::single(4, block.address).covers(block));
    }
}
