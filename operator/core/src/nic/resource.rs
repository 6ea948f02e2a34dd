//! A NIC resource as the Network provider shows it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use azure_vnet_crds::node::Unit;
use serde_json::{Map, Value};

use super::{ShapeError, Slot, State, View, body::PREFIX_LENGTH, slot_of};
use crate::arm::ResourceId;

/// The resource.
pub(super) struct Resource<'a> {
    pub id: ResourceId,
    pub name: &'a str,
    pub mac: String,
    pub primary: bool,
    pub state: &'a str,
    pub configurations: Vec<Configuration<'a>>,
}

/// One of its IP configurations.
pub(super) struct Configuration<'a> {
    pub name: &'a str,
    /// Of a block the first.
    address: Option<Ipv4Addr>,
    /// What it carries; none where that is nothing that we could have asked for, as IPv6 is.
    unit: Option<Unit>,
    primary: bool,
    subnet: Option<&'a str>,
    state: &'a str,
}

impl<'a> Resource<'a> {
    pub fn parse(body: &'a Value) -> Result<Self, ShapeError> {
        let subject = text(body, "/id").unwrap_or("the NIC");
        let missing = |field| ShapeError { subject: subject.to_owned(), field };
        let list = array_at(body, "/properties/ipConfigurations").ok_or_else(|| missing("ipConfigurations"))?;
        let configurations: Vec<_> =
            list.iter().map(Configuration::parse).collect::<Option<_>>().ok_or_else(|| missing("ipConfigurations"))?;
        let unique: BTreeSet<String> = configurations.iter().map(|c| c.name.to_ascii_lowercase()).collect();
        if unique.len() != configurations.len() {
            return Err(missing("unique names of ipConfigurations"));
        }
        Ok(Self {
            id: subject.parse().map_err(|_| missing("id"))?,
            name: text(body, "/name").ok_or_else(|| missing("name"))?,
            mac: text(body, "/properties/macAddress").unwrap_or_default().replace('-', ":").to_ascii_lowercase(),
            primary: body.pointer("/properties/primary") == Some(&Value::Bool(true)),
            state: text(body, "/properties/provisioningState").unwrap_or_default(),
            configurations,
        })
    }

    pub fn slots(&self) -> Result<BTreeMap<u8, Slot>, ShapeError> {
        let mut slots = BTreeMap::new();
        for c in &self.configurations {
            let Some(slot) = slot_of(c.name) else { continue };
            let Some(unit) = c.unit.filter(|_| !c.primary) else {
                return Err(ShapeError {
                    subject: format!("{}/ipConfigurations/{}", self.id, c.name),
                    field: "shape of an address of ours",
                });
            };
            let state = match c.address {
                Some(address) if c.state.eq_ignore_ascii_case("Succeeded") => Slot::Attached(address, unit),
                _ if is_bad(c.state) => Slot::Failed(unit),
                _ => Slot::Provisioning(unit),
            };
            slots.insert(slot, state);
        }
        Ok(slots)
    }

    pub fn view(&self, slots: BTreeMap<u8, Slot>, foreign: u16, state: State) -> Result<View, ShapeError> {
        let missing = |field| ShapeError { subject: self.id.to_string(), field };
        let foreign_ones = || self.configurations.iter().filter(|c| slot_of(c.name).is_none());
        let primary =
            foreign_ones().find(|c| c.primary).or_else(|| foreign_ones().next()).ok_or_else(|| missing("primary IP configuration"))?;
        Ok(View {
            id: self.id.clone(),
            mac: self.mac.clone(),
            subnet: primary.subnet.and_then(|id| id.parse().ok()).ok_or_else(|| missing("subnet"))?,
            primary: primary.address.ok_or_else(|| missing("primary address"))?,
            slots,
            foreign,
            foreign_ipv4: count(foreign_ones().filter(|c| c.unit.is_some()).count()),
            state,
        })
    }
}

impl<'a> Configuration<'a> {
    fn parse(entry: &'a Value) -> Option<Self> {
        let properties = entry.get("properties").filter(|p| p.is_object())?;
        let address = properties.get("privateIPAddress").and_then(Value::as_str).filter(|a| !a.is_empty());
        let version = properties.get("privateIPAddressVersion").and_then(Value::as_str);
        let name = name(entry).filter(|n| !n.is_empty())?;
        let length = properties.get(PREFIX_LENGTH).filter(|length| !length.is_null());
        // What others have, and the machine itself, is taken as it is written.
        let as_written = || Some((address.and_then(|address| address.parse().ok()), Unit::Address));
        let carried = if slot_of(name).is_some() { carried(address, length) } else { as_written() };
        Some(Self {
            name,
            primary: properties.get("primary") == Some(&Value::Bool(true)),
            subnet: text(properties, "/subnet/id"),
            // Absent on list answers of some versions: present with an address is provisioned.
            state: properties.get("provisioningState").and_then(Value::as_str).unwrap_or("Succeeded"),
            address: carried.and_then(|(address, _)| address),
            unit: carried.filter(|_| version.is_none_or(|v| v == "IPv4")).map(|(_, unit)| unit),
        })
    }
}

/// What an IP configuration carries: Azure writes a block as `10.0.1.16/28` with the length beside it, and is said to answer with a bare address as well.
fn carried(address: Option<&str>, length: Option<&Value>) -> Option<(Option<Ipv4Addr>, Unit)> {
    let units = [Unit::Address, Unit::Block28];
    let unit_of = |text: &str| units.into_iter().find(|unit| unit.prefix_len().to_string() == text);
    let (address, suffix) = match address.map(|address| address.split_once('/').map_or((address, None), |(a, l)| (a, Some(l)))) {
        Some((address, suffix)) => (Some(address.parse::<Ipv4Addr>().ok()?), suffix),
        None => (None, None),
    };
    let unit = match (length.map(|length| unit_of(&length.to_string())), suffix.map(unit_of)) {
        (None, None) => Unit::Address,
        (Some(one), None) | (None, Some(one)) => one?,
        (Some(one), Some(other)) => one.filter(|_| one == other)?,
    };
    Some((address.map(|address| unit.first(address)), unit))
}

pub(super) fn interface<'a>(profile: &'a Value, nic: &str) -> Option<&'a Value> {
    let interfaces = profile.get("networkInterfaceConfigurations")?.as_array()?;
    interfaces.iter().find(|i| name(i).is_some_and(|name| name.eq_ignore_ascii_case(nic)))
}

pub(super) fn names(interface: &Value) -> Option<BTreeSet<&str>> {
    let list = array_at(interface, "/properties/ipConfigurations")?;
    list.iter().map(|entry| entry.get("name")?.as_str()).collect()
}

pub(super) fn is_final(state: &str) -> bool {
    state.eq_ignore_ascii_case("Succeeded") || is_bad(state)
}

/// Azure spells a cancelled operation both ways; nothing is under way after it.
pub(super) fn is_bad(state: &str) -> bool {
    ["Failed", "Canceled", "Cancelled"].iter().any(|bad| state.eq_ignore_ascii_case(bad))
}

pub(super) fn array_at<'a>(tree: &'a Value, pointer: &str) -> Option<&'a Vec<Value>> {
    tree.pointer(pointer)?.as_array()
}

pub(super) fn text<'a>(tree: &'a Value, pointer: &str) -> Option<&'a str> {
    tree.pointer(pointer)?.as_str()
}

/// Its `name`.
pub(super) fn name(entry: &Value) -> Option<&str> {
    entry.get("name")?.as_str()
}

/// A tree of one field, which is moved and not copied.
pub(super) fn only(field: &str, value: Value) -> Value {
    Value::Object(Map::from_iter([(field.to_owned(), value)]))
}

pub(super) fn count(n: usize) -> u16 {
    u16::try_from(n).unwrap_or(u16::MAX)
}
