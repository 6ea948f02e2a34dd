//! A machine's NIC as Azure describes it, kept as the JSON tree that was read, and the body of the next write.
//! Only `ipConfigurations` named `avn-<slot>` are ours; everything else goes back exactly as it came.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::Arc,
};

use azure_vnet_crds::node::{Plan, SlotAddress};
use serde_json::{Map, Value, json};

use crate::arm::{Document, ResourceId, Write};

/// IP configurations that one NIC (and all NICs of one machine) may have.
pub const LIMIT: u16 = 256;

/// What a NIC shows, without the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// The NIC.
    pub id: ResourceId,
    /// Lower case with colons.
    pub mac: String,
    /// Subnet of the primary IP configuration, and so of all.
    pub subnet: ResourceId,
    /// The machine's own address.
    pub primary: Ipv4Addr,
    /// Our IP configurations by slot.
    pub slots: BTreeMap<u8, Slot>,
    /// IP configurations that are not ours, the primary included, over all NICs that count.
    pub foreign: u16,
    /// Whether Azure is still working on it.
    pub state: State,
}

/// One IP configuration of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// Provisioned, with its address.
    Attached(Ipv4Addr),
    /// On its way: named without an address yet, or no longer wanted and not gone yet.
    Provisioning,
    /// Azure failed to provision it.
    Failed,
    /// Azure failed to take it away: still there with its address, and no longer in the machine's model, so that the next write ends it.
    Dropped(Ipv4Addr),
}

/// Whether Azure is still working on a NIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing is under way.
    Settled,
    /// An operation is under way.
    Moving,
    /// No operation is under way, but model and NIC do not name the same IP configurations (the NIC lags, or the last operation failed half way).
    Lagging,
}

impl View {
    /// Our IP configurations that carry an address.
    pub fn attached(&self) -> impl Iterator<Item = SlotAddress> + '_ {
        self.slots.iter().filter_map(|(&slot, state)| match state {
            Slot::Attached(address) => Some(SlotAddress { slot, address: *address }),
            Slot::Provisioning | Slot::Failed | Slot::Dropped(_) => None,
        })
    }
    /// Our IP configurations that the next write takes away, whatever else it does.
    pub fn dropped(&self) -> impl Iterator<Item = SlotAddress> + '_ {
        self.slots.iter().filter_map(|(&slot, state)| match state {
            Slot::Dropped(address) => Some(SlotAddress { slot, address: *address }),
            Slot::Attached(_) | Slot::Provisioning | Slot::Failed => None,
        })
    }
    /// The address in a slot.
    #[must_use]
    pub fn address(&self, slot: u8) -> Option<Ipv4Addr> {
        match self.slots.get(&slot)? {
            Slot::Attached(address) => Some(*address),
            Slot::Provisioning | Slot::Failed | Slot::Dropped(_) => None,
        }
    }
    /// How many IP configurations of ours fit beside the others.
    #[must_use]
    pub fn room(&self) -> u16 {
        LIMIT.saturating_sub(self.foreign).min(255)
    }
}

/// All that one write does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Slots to add.
    pub add: BTreeSet<u8>,
    /// Slots to remove, with the addresses they must still have.
    pub remove: BTreeSet<SlotAddress>,
}

/// Why a document is not understood. Nothing is ever written to such a NIC.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{subject} has no usable {field}")]
pub struct ShapeError {
    subject: String,
    field: &'static str,
}

/// Why a write is not sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The NIC shows the effect already.
    #[error("nothing is left to write")]
    Done,
    /// Another writer replaced what is to be removed (safety rule RE2).
    #[error("slot {0} no longer has the address that was set aside")]
    AddressChanged(u8),
    /// Azure allows no more.
    #[error("the NIC would have more than {LIMIT} IP configurations")]
    Limit,
    /// Without it a request that is late could undo what came after it (I12).
    #[error("Azure gave no etag to make the write conditional on")]
    NoEtag,
    /// The body differs from what was read in more than our own IP configurations: a defect.
    #[error("the guard refuses the body: {0}")]
    Guard(&'static str),
}

/// A NIC as read, ready to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct Nic {
    view: Arc<View>,
    /// Large, and never changed: shared by all copies.
    source: Arc<Source>,
}

#[derive(Clone, Debug, PartialEq)]
enum Source {
    Whole { tree: Value, etag: Option<String> },
    Instance { id: ResourceId, location: String, profile: Value, nic: String, etag: Option<String> },
}

impl Nic {
    /// Reads a stand-alone or Flexible NIC.
    ///
    /// # Errors
    /// When a field that decides is missing or of another shape.
    pub fn whole(document: Document) -> Result<Self, ShapeError> {
        let Document { body, etag } = document;
        let parsed = Resource::parse(&body)?;
        let etag = etag.or_else(|| text(&body, "/etag").map(str::to_owned));
        let slots = parsed.slots()?;
        let foreign = count(parsed.configurations.len() - slots.len());
        let state = if is_final(parsed.state) { State::Settled } else { State::Moving };
        let view = Arc::new(parsed.view(slots, foreign, state)?);
        Ok(Self { view, source: Arc::new(Source::Whole { tree: body, etag }) })
    }

    /// Reads an instance of a Uniform scale set: its model (what is wanted) and its NICs (what is there).
    ///
    /// # Errors
    /// When a field that decides is missing or of another shape.
    pub fn instance(model: &Document, nics: &Document) -> Result<Self, ShapeError> {
        let subject = text(&model.body, "/id").unwrap_or("the instance");
        let missing = |field| ShapeError { subject: subject.to_owned(), field };
        let id: ResourceId = subject.parse().map_err(|_| missing("id"))?;
        let location = text(&model.body, "/location").ok_or_else(|| missing("location"))?.to_owned();
        let profile =
            model.body.pointer("/properties/networkProfileConfiguration").ok_or_else(|| missing("networkProfileConfiguration"))?.clone();
        let listed = nics.body.get("value").and_then(Value::as_array).ok_or_else(|| missing("networkInterfaces"))?;
        let listed = listed.iter().map(Resource::parse).collect::<Result<Vec<_>, _>>()?;
        let nic = listed.iter().find(|nic| nic.primary || listed.len() == 1).ok_or_else(|| missing("primary NIC"))?;
        let wanted = interface(&profile, nic.name).ok_or_else(|| missing("configuration of its primary NIC"))?;
        let wanted = names(wanted).ok_or_else(|| missing("ipConfigurations"))?;

        let mut slots = nic.slots()?;
        let model_state = text(&model.body, "/properties/provisioningState").unwrap_or_default();
        let ended_badly = is_bad(model_state);
        // What one of them lacks is under way, or was left half done: the next write makes it what the model says, so its address is nobody's.
        let named: BTreeSet<u8> = wanted.iter().filter_map(|name| slot_of(name)).collect();
        let shown: BTreeSet<u8> = slots.keys().copied().collect();
        for &slot in named.symmetric_difference(&shown) {
            let state = match slots.get(&slot) {
                _ if !ended_badly => Slot::Provisioning,
                Some(Slot::Attached(address)) => Slot::Dropped(*address),
                Some(Slot::Provisioning | Slot::Failed | Slot::Dropped(_)) | None => Slot::Failed,
            };
            slots.insert(slot, state);
        }
        let lags = named != shown || nic.configurations.iter().any(|c| !wanted.contains(c.name));
        let state = match (is_final(model_state) && is_final(nic.state), lags) {
            (false, _) => State::Moving,
            (true, true) if ended_badly => State::Settled,
            (true, true) => State::Lagging,
            (true, false) => State::Settled,
        };
        let total: usize = listed.iter().map(|nic| nic.configurations.len()).sum();
        let ours_shown = nic.configurations.iter().filter(|c| slot_of(c.name).is_some()).count();
        let view = Arc::new(nic.view(slots, count(total - ours_shown), state)?);
        let etag = text(&model.body, "/etag").map(str::to_owned).or_else(|| model.etag.clone());
        let source = Arc::new(Source::Instance { id, location, profile, nic: nic.name.to_owned(), etag });
        Ok(Self { view, source })
    }

    /// What it shows.
    #[must_use]
    pub fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// What its owner said of it: all of a NIC, of an instance its network profile.
    #[must_use]
    pub fn tree(&self) -> &Value {
        match &*self.source {
            Source::Whole { tree, .. } => tree,
            Source::Instance { profile, .. } => profile,
        }
    }

    /// Builds the one write that carries a change, checked by the guard.
    ///
    /// # Errors
    /// When nothing is left to do, when the NIC no longer shows what the change was decided on, or when the guard objects.
    pub fn write(&self, change: &Change) -> Result<Write, Refusal> {
        let change = self.remaining(change)?;
        let (Source::Whole { etag, .. } | Source::Instance { etag, .. }) = &*self.source;
        if etag.is_none() {
            return Err(Refusal::NoEtag);
        }
        match &*self.source {
            Source::Whole { tree, etag } => {
                let body = whole_body(tree, &change).ok_or(Refusal::Guard("no ipConfigurations"))?;
                guard(tree, &body, "/properties/ipConfigurations", &change)?;
                Ok(Write::Nic { id: self.view.id.clone(), etag: etag.clone(), body })
            }
            Source::Instance { id, location, profile, nic, etag } => {
                let (after, pointer) = profile_body(profile, nic, &change).ok_or(Refusal::Guard("no ipConfigurations"))?;
                guard(profile, &after, &pointer, &change)?;
                let mut body = only("properties", only("networkProfileConfiguration", after));
                body.as_object_mut().map(|fields| fields.insert("location".into(), json!(location)));
                Ok(Write::Instance { id: id.clone(), etag: etag.clone(), body })
            }
        }
    }

    /// Says what the write that carries a change would send, without sending it.
    ///
    /// # Errors
    /// As [`Nic::write`].
    pub fn preview(&self, change: &Change) -> Result<Plan, Refusal> {
        let write = self.write(change)?;
        let body = write.body();
        let list = match &*self.source {
            Source::Whole { .. } => array_at(body, "/properties/ipConfigurations"),
            Source::Instance { nic, .. } => {
                let profile = body.pointer("/properties/networkProfileConfiguration");
                profile.and_then(|profile| array_at(interface(profile, nic)?, "/properties/ipConfigurations"))
            }
        };
        let added = |entry: &&Value| name(entry).and_then(slot_of).is_some_and(|slot| change.add.contains(&slot));
        let added: Vec<&Value> = list.into_iter().flatten().filter(added).collect();
        Ok(Plan {
            request: format!("PUT {}", write.path()),
            if_match: write.etag().unwrap_or_default().to_owned(),
            add: added.iter().filter_map(|entry| name(entry).map(str::to_owned)).collect(),
            properties: added.last().and_then(|entry| entry.get("properties")).map(Value::to_string).unwrap_or_default(),
            remove: change.remove.iter().copied().collect(),
        })
    }

    /// What of a change the NIC does not show yet.
    fn remaining(&self, change: &Change) -> Result<Change, Refusal> {
        let Change { add, remove } = change;
        let view = &self.view;
        let mut left = Change::default();
        let named = self.named();
        let stands = |slot: u8| named.contains(&slot);
        // A slot that Azure failed to provision is sent again as it stands, and so is a model whose removal the NIC does not show: that is what repairs it.
        let failed = |slot: &u8| stands(*slot) && matches!(view.slots.get(slot), Some(Slot::Failed));
        let mut repairs = add.iter().any(failed);
        left.add = add.iter().copied().filter(|slot| !stands(*slot)).collect();
        for entry in remove {
            match view.slots.get(&entry.slot) {
                None => {}
                Some(_) if !stands(entry.slot) => repairs = true,
                Some(Slot::Attached(address)) if *address == entry.address => {
                    left.remove.insert(*entry);
                }
                Some(Slot::Attached(_) | Slot::Provisioning | Slot::Failed | Slot::Dropped(_)) => {
                    return Err(Refusal::AddressChanged(entry.slot));
                }
            }
        }
        if left == Change::default() && !repairs {
            return Err(Refusal::Done);
        }
        if named.len() + left.add.len() > left.remove.len() + usize::from(view.room()) {
            return Err(Refusal::Limit);
        }
        Ok(left)
    }

    /// Slots that a body built from it names before any change.
    fn named(&self) -> BTreeSet<u8> {
        let list = match &*self.source {
            Source::Whole { tree, .. } => array_at(tree, "/properties/ipConfigurations"),
            Source::Instance { profile, nic, .. } => interface(profile, nic).and_then(|nic| array_at(nic, "/properties/ipConfigurations")),
        };
        list.into_iter().flatten().filter_map(|entry| name(entry).and_then(slot_of)).collect()
    }
}

/// The name of a slot's IP configuration.
#[must_use]
pub fn name_of(slot: u8) -> String {
    format!("avn-{slot}")
}

/// The slot that an IP configuration's name stands for, if it is ours.
#[must_use]
pub fn slot_of(name: &str) -> Option<u8> {
    let number = name.strip_prefix("avn-")?;
    // As it is written by name_of: no sign, no zero before it.
    number.starts_with(|first: char| first.is_ascii_digit() && first != '0').then(|| number.parse().ok())?
}

fn whole_body(tree: &Value, change: &Change) -> Option<Value> {
    let mut after = tree.clone();
    let list = after.pointer_mut("/properties/ipConfigurations")?.as_array_mut()?;
    edit(list, change, true)?;
    Some(after)
}

fn profile_body(profile: &Value, nic: &str, change: &Change) -> Option<(Value, String)> {
    let mut after = profile.clone();
    let interfaces = after.get_mut("networkInterfaceConfigurations")?.as_array_mut()?;
    let index = interfaces.iter().position(|i| name(i).is_some_and(|name| name.eq_ignore_ascii_case(nic)))?;
    let list = interfaces.get_mut(index)?.pointer_mut("/properties/ipConfigurations")?.as_array_mut()?;
    edit(list, change, false)?;
    Some((after, format!("/networkInterfaceConfigurations/{index}/properties/ipConfigurations")))
}

/// Drops and appends our entries, leaving all others where they are.
fn edit(list: &mut Vec<Value>, change: &Change, whole: bool) -> Option<()> {
    let primary = primary_of(list)?;
    let added: Vec<Value> = change.add.iter().map(|&slot| fresh(slot, primary, whole)).collect::<Option<_>>()?;
    let gone = removed_by(change);
    list.retain(|entry| !is_gone(entry, &gone));
    list.extend(added);
    Some(())
}

/// Slots that a change removes.
fn removed_by(change: &Change) -> BTreeSet<u8> {
    change.remove.iter().map(|entry| entry.slot).collect()
}

fn is_gone(entry: &Value, gone: &BTreeSet<u8>) -> bool {
    name(entry).and_then(slot_of).is_some_and(|slot| gone.contains(&slot))
}

/// A new IP configuration: subnet and application security groups as the primary's (Azure demands both alike on all), no load balancer.
fn fresh(slot: u8, primary: &Value, whole: bool) -> Option<Value> {
    let from = primary.get("properties")?;
    let mut properties = Map::new();
    properties.insert("primary".into(), json!(false));
    properties.insert("subnet".into(), only("id", from.pointer("/subnet/id")?.clone()));
    properties.insert("privateIPAddressVersion".into(), json!("IPv4"));
    if whole {
        properties.insert("privateIPAllocationMethod".into(), json!("Dynamic"));
    }
    if let Some(groups) = from.get("applicationSecurityGroups").and_then(Value::as_array) {
        let ids: Vec<Value> = groups.iter().filter_map(|g| g.get("id")).map(|id| only("id", id.clone())).collect();
        properties.insert("applicationSecurityGroups".into(), Value::Array(ids));
    }
    let mut entry = only("properties", Value::Object(properties));
    entry.as_object_mut()?.insert("name".into(), json!(name_of(slot)));
    Some(entry)
}

fn primary_of(list: &[Value]) -> Option<&Value> {
    let foreign = || list.iter().filter(|entry| name(entry).is_some_and(|name| slot_of(name).is_none()));
    let marked = foreign().find(|entry| entry.pointer("/properties/primary") == Some(&Value::Bool(true)));
    marked.or_else(|| foreign().next())
}

/// Compares a body with what was read: outside the list at `pointer` nothing differs; inside, only named additions and removals of ours do.
///
/// # Errors
/// When anything else differs. That is a defect of ours: the body must not be sent.
pub fn guard(before: &Value, after: &Value, pointer: &str, change: &Change) -> Result<(), Refusal> {
    let refuse = |why| Err(Refusal::Guard(why));
    let (Some(old), Some(new)) = (array_at(before, pointer), array_at(after, pointer)) else {
        return refuse("no ipConfigurations");
    };
    let path: Vec<&str> = pointer.split('/').skip(1).collect();
    if !same_beside(before, after, &path) {
        return refuse("a field outside ipConfigurations differs");
    }
    let gone = removed_by(change);
    let kept: Vec<&Value> = old.iter().filter(|entry| !is_gone(entry, &gone)).collect();
    if kept.len() + gone.len() != old.len() {
        return refuse("an IP configuration to remove is not there once");
    }
    let Some((same, added)) = new.split_at_checked(kept.len()) else {
        return refuse("an IP configuration is missing");
    };
    if !same.iter().eq(kept) {
        return refuse("an IP configuration that stays differs");
    }
    let Some(primary) = primary_of(old) else { return refuse("no primary IP configuration") };
    if !new.contains(primary) {
        return refuse("the primary IP configuration is touched");
    }
    if !added.iter().map(|entry| name(entry).and_then(slot_of)).eq(change.add.iter().copied().map(Some))
        || added.iter().any(|a| a.pointer("/properties/primary") != Some(&Value::Bool(false)))
    {
        return refuse("an addition is not the one intended");
    }
    let before: BTreeSet<Option<&str>> = old.iter().map(name).collect();
    if added.iter().any(|entry| before.contains(&name(entry))) {
        return refuse("an addition is there already");
    }
    if new.len() > usize::from(LIMIT) { Err(Refusal::Limit) } else { Ok(()) }
}

/// Whether two trees are the same but for what lies at a path.
fn same_beside(one: &Value, other: &Value, path: &[&str]) -> bool {
    let Some((first, rest)) = path.split_first() else { return true };
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            let same = |(key, value): (&String, &Value)| {
                other.get(key).is_some_and(|other| if key == first { same_beside(value, other, rest) } else { value == other })
            };
            one.len() == other.len() && one.iter().all(same)
        }
        (Value::Array(one), Value::Array(other)) => {
            let number = first.parse::<usize>().ok();
            let same = |(at, (one, other)): (usize, (&Value, &Value))| {
                if Some(at) == number { same_beside(one, other, rest) } else { one == other }
            };
            one.len() == other.len() && one.iter().zip(other).enumerate().all(same)
        }
        (one, other) => one == other,
    }
}

/// A NIC resource as the Network provider shows it.
struct Resource<'a> {
    id: ResourceId,
    name: &'a str,
    mac: String,
    primary: bool,
    state: &'a str,
    configurations: Vec<Configuration<'a>>,
}

struct Configuration<'a> {
    name: &'a str,
    address: Option<Ipv4Addr>,
    primary: bool,
    subnet: Option<&'a str>,
    state: &'a str,
    plain: bool,
}

impl<'a> Resource<'a> {
    fn parse(body: &'a Value) -> Result<Self, ShapeError> {
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

    fn slots(&self) -> Result<BTreeMap<u8, Slot>, ShapeError> {
        let mut slots = BTreeMap::new();
        for c in &self.configurations {
            let Some(slot) = slot_of(c.name) else { continue };
            if c.primary || !c.plain {
                return Err(ShapeError {
                    subject: format!("{}/ipConfigurations/{}", self.id, c.name),
                    field: "shape of an address of ours",
                });
            }
            let state = match c.address {
                Some(address) if c.state.eq_ignore_ascii_case("Succeeded") => Slot::Attached(address),
                _ if is_bad(c.state) => Slot::Failed,
                _ => Slot::Provisioning,
            };
            slots.insert(slot, state);
        }
        Ok(slots)
    }

    fn view(&self, slots: BTreeMap<u8, Slot>, foreign: u16, state: State) -> Result<View, ShapeError> {
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
            state,
        })
    }
}

impl<'a> Configuration<'a> {
    fn parse(entry: &'a Value) -> Option<Self> {
        let properties = entry.get("properties").filter(|p| p.is_object())?;
        let address = properties.get("privateIPAddress").and_then(Value::as_str).filter(|a| !a.is_empty());
        let parsed = address.map(str::parse::<Ipv4Addr>);
        let version = properties.get("privateIPAddressVersion").and_then(Value::as_str);
        let block = properties.get("privateIPAddressPrefixLength").is_some_and(|l| !l.is_null() && *l != json!(32));
        Some(Self {
            name: name(entry).filter(|n| !n.is_empty())?,
            primary: properties.get("primary") == Some(&Value::Bool(true)),
            subnet: text(properties, "/subnet/id"),
            // Absent on list answers of some versions: present with an address is provisioned.
            state: properties.get("provisioningState").and_then(Value::as_str).unwrap_or("Succeeded"),
            plain: version.is_none_or(|v| v == "IPv4") && !block && parsed.as_ref().is_none_or(Result::is_ok),
            address: parsed.and_then(Result::ok),
        })
    }
}

fn interface<'a>(profile: &'a Value, nic: &str) -> Option<&'a Value> {
    let interfaces = profile.get("networkInterfaceConfigurations")?.as_array()?;
    interfaces.iter().find(|i| name(i).is_some_and(|name| name.eq_ignore_ascii_case(nic)))
}

fn names(interface: &Value) -> Option<BTreeSet<&str>> {
    let list = array_at(interface, "/properties/ipConfigurations")?;
    list.iter().map(|entry| entry.get("name")?.as_str()).collect()
}

fn is_final(state: &str) -> bool {
    state.eq_ignore_ascii_case("Succeeded") || is_bad(state)
}

/// Azure spells a cancelled operation both ways; nothing is under way after it.
fn is_bad(state: &str) -> bool {
    ["Failed", "Canceled", "Cancelled"].iter().any(|bad| state.eq_ignore_ascii_case(bad))
}

fn array_at<'a>(tree: &'a Value, pointer: &str) -> Option<&'a Vec<Value>> {
    tree.pointer(pointer)?.as_array()
}

fn text<'a>(tree: &'a Value, pointer: &str) -> Option<&'a str> {
    tree.pointer(pointer)?.as_str()
}

/// Its `name`.
fn name(entry: &Value) -> Option<&str> {
    entry.get("name")?.as_str()
}

/// A tree of one field, which is moved and not copied.
fn only(field: &str, value: Value) -> Value {
    Value::Object(Map::from_iter([(field.to_owned(), value)]))
}

fn count(n: usize) -> u16 {
    u16::try_from(n).unwrap_or(u16::MAX)
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    const SUBNET: &str = "/subscriptions/s/resourceGroups/net/providers/Microsoft.Network/virtualNetworks/v/subnets/nodes";

    pub(crate) fn configuration(name: &str, address: Ipv4Addr, primary: bool) -> Value {
        json!({"name": name, "etag": "W/\"x\"", "properties": {"provisioningState": "Succeeded", "privateIPAddress": address, "privateIPAllocationMethod": "Dynamic",
            "subnet": {"id": SUBNET}, "primary": primary, "privateIPAddressVersion": "IPv4",
            "applicationSecurityGroups": [{"id": "/subscriptions/s/asg"}], "loadBalancerBackendAddressPools": [{"id": "/subscriptions/s/lb"}]}})
    }

    fn tree(ours: &[(u8, u8)], foreign: u8) -> Value {
        let mut list = vec![configuration("ipconfig1", Ipv4Addr::new(10, 0, 0, 4), true)];
        list.extend((0..foreign).map(|n| configuration(&format!("other{n}"), Ipv4Addr::new(10, 0, 9, n), false)));
        list.extend(ours.iter().map(|&(slot, host)| configuration(&name_of(slot), Ipv4Addr::new(10, 0, 1, host), false)));
        json!({"name": "nic", "id": "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/networkInterfaces/nic", "location": "westeurope", "etag": "W/\"1\"",
            "kind": "Regular", "tags": {"a": "b"}, "properties": {"provisioningState": "Succeeded", "macAddress": "00-0D-3A-00-00-01", "primary": true,
            "allowPort25Out": true, "ipConfigurations": list, "networkSecurityGroup": {"id": "/subscriptions/s/nsg"}}})
    }

    fn nic(tree: &Value) -> Nic {
        Nic::whole(Document { body: tree.clone(), etag: None }).unwrap()
    }

    fn entry(slot: u8, host: u8) -> SlotAddress {
        SlotAddress { slot, address: Ipv4Addr::new(10, 0, 1, host) }
    }

    #[test]
    fn an_addition_copies_subnet_and_security_groups_and_no_load_balancer() {
        let before = tree(&[(1, 1)], 0);
        let write = nic(&before).write(&Change { add: [2].into(), remove: [].into() }).unwrap();
        let added = write.body().pointer("/properties/ipConfigurations/2").unwrap();
        assert_eq!(
            added,
            &json!({"name": "avn-2", "properties": {"primary": false, "subnet": {"id": SUBNET}, "privateIPAddressVersion": "IPv4",
                "privateIPAllocationMethod": "Dynamic", "applicationSecurityGroups": [{"id": "/subscriptions/s/asg"}]}})
        );
        assert_eq!(write.etag(), Some("W/\"1\""));
        assert_eq!(nic(&before).view().mac, "00:0d:3a:00:00:01");
    }

    #[test]
    fn a_preview_says_what_the_body_adds_and_leaves_out() {
        let whole = nic(&tree(&[(1, 1), (3, 3)], 0));
        let change = Change { add: [2, 4].into(), remove: [entry(3, 3)].into() };
        let plan = whole.preview(&change).unwrap();
        let added = whole.write(&change).unwrap().body().pointer("/properties/ipConfigurations/2/properties").unwrap().to_string();
        assert_eq!(plan.request, format!("PUT {}?api-version={}", whole.view().id, crate::arm::NETWORK_API));
        assert_eq!((plan.add, plan.properties, plan.if_match), (vec!["avn-2".to_owned(), "avn-4".to_owned()], added, "W/\"1\"".to_owned()));
        assert_eq!(plan.remove, [entry(3, 3)]);

        let (model, nics) = instance_documents(&["ip1", "avn-3"], &[("ip1", 0), ("avn-3", 3)], "Succeeded");
        let plan = Nic::instance(&model, &nics).unwrap().preview(&change).unwrap();
        assert!(plan.request.contains("/virtualMachineScaleSets/ss/virtualMachines/0?") && plan.properties.contains(SUBNET), "{plan:?}");
        assert_eq!((plan.add.len(), plan.if_match.as_str()), (2, "\"1\""));
    }

    #[test]
    fn re2_a_slot_with_another_address_is_not_removed() {
        let nic = nic(&tree(&[(9, 7)], 0));
        assert_eq!(nic.write(&Change { add: [].into(), remove: [entry(9, 8)].into() }), Err(Refusal::AddressChanged(9)));
        assert!(nic.write(&Change { add: [].into(), remove: [entry(9, 7)].into() }).is_ok());
    }

    #[test]
    fn repeating_a_write_whose_effect_shows_is_refused() {
        let nic = nic(&tree(&[(1, 1)], 0));
        assert_eq!(nic.write(&Change { add: [1].into(), remove: [entry(4, 4)].into() }), Err(Refusal::Done));
    }

    #[test]
    fn i8_the_two_hundred_and_fifty_seventh_is_refused() {
        let ours: Vec<(u8, u8)> = (1..=200).map(|n| (n, n)).collect();
        let nic = nic(&tree(&ours, 54));
        assert_eq!(nic.view().room(), 201);
        assert!(nic.write(&Change { add: [201].into(), remove: [].into() }).is_ok());
        assert_eq!(nic.write(&Change { add: [201, 202].into(), remove: [].into() }), Err(Refusal::Limit));
    }

    #[test]
    fn a_shape_that_is_not_understood_is_never_written() {
        let mut primary_is_ours = tree(&[(1, 1)], 0);
        *primary_is_ours.pointer_mut("/properties/ipConfigurations/1/properties/primary").unwrap() = json!(true);
        let mut block = tree(&[(1, 1)], 0);
        *block.pointer_mut("/properties/ipConfigurations/1/properties/privateIPAddress").unwrap() = json!("10.0.1.16/28");
        let mut twice = tree(&[(1, 1)], 0);
        *twice.pointer_mut("/properties/ipConfigurations/1/name").unwrap() = json!("IPConfig1");
        for body in [
            primary_is_ours,
            block,
            twice,
            json!({}),
            json!({"id": "/subscriptions/s", "name": "n", "properties": {"ipConfigurations": [{}]}}),
        ] {
            assert!(Nic::whole(Document { body, etag: None }).is_err());
        }
    }

    #[test]
    fn names_with_our_prefix_that_are_no_slot_are_foreign() {
        assert_eq!(
            ["avn-1", "avn-255", "avn-0", "avn-256", "avn-01", "AVN-1", "avn-", "x"].map(slot_of),
            [Some(1), Some(255), None, None, None, None, None, None]
        );
    }

    fn instance_documents(model: &[&str], shown: &[(&str, u8)], state: &str) -> (Document, Document) {
        let id = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/virtualMachineScaleSets/ss/virtualMachines/0";
        let list: Vec<Value> = model
            .iter()
            .map(|name| json!({"name": name, "properties": {"subnet": {"id": SUBNET}, "privateIPAddressVersion": "IPv4"}}))
            .collect();
        let model = json!({"id": id, "name": "ss_0", "location": "westeurope", "etag": "\"1\"", "properties": {"provisioningState": state, "storageProfile": {"imageReference": {"id": "x"}},
            "networkProfileConfiguration": {"networkInterfaceConfigurations": [{"name": "nic1", "properties": {"primary": true, "ipConfigurations": list}}]}}});
        let shown: Vec<Value> = shown.iter().map(|&(name, host)| configuration(name, Ipv4Addr::new(10, 0, 1, host), host == 0)).collect();
        let nics = json!({"value": [{"name": "nic1", "id": format!("{id}/networkInterfaces/nic1"), "properties": {"provisioningState": "Succeeded", "primary": true, "macAddress": "00-0D", "ipConfigurations": shown}}]});
        (Document { body: model, etag: None }, Document { body: nics, etag: None })
    }

    #[test]
    fn an_instance_is_written_with_its_network_profile_only() {
        let (model, nics) = instance_documents(&["ip1", "avn-3"], &[("ip1", 0), ("avn-3", 3)], "Succeeded");
        let nic = Nic::instance(&model, &nics).unwrap();
        let write = nic.write(&Change { add: [1, 2].into(), remove: [entry(3, 3)].into() }).unwrap();
        let Write::Instance { etag, body, .. } = &write else { panic!("an instance is written through itself") };
        assert_eq!(etag.as_deref(), Some("\"1\""));
        assert_eq!(body.as_object().unwrap().keys().collect::<Vec<_>>(), ["location", "properties"]);
        assert_eq!(body["properties"].as_object().unwrap().keys().collect::<Vec<_>>(), ["networkProfileConfiguration"]);
        let list =
            body.pointer("/properties/networkProfileConfiguration/networkInterfaceConfigurations/0/properties/ipConfigurations").unwrap();
        let names: Vec<_> = list.as_array().unwrap().iter().map(|e| e["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["ip1", "avn-1", "avn-2"]);
        assert_eq!(list[1]["properties"].get("privateIPAllocationMethod"), None);
    }

    #[test]
    fn an_instance_whose_nic_lags_its_model_is_not_settled() {
        let state = |model: &[&str], shown: &[(&str, u8)], provisioning| {
            let (model, nics) = instance_documents(model, shown, provisioning);
            let nic = Nic::instance(&model, &nics).unwrap();
            (nic.view().state, nic.view().slots.clone())
        };
        assert_eq!(state(&["ip1", "avn-1"], &[("ip1", 0)], "Succeeded"), (State::Lagging, [(1, Slot::Provisioning)].into()));
        assert_eq!(state(&["ip1", "avn-1"], &[("ip1", 0)], "Updating").0, State::Moving);
        assert_eq!(state(&["ip1", "avn-1"], &[("ip1", 0)], "Failed"), (State::Settled, [(1, Slot::Failed)].into()));
        assert_eq!(state(&["ip1"], &[("ip1", 0), ("avn-1", 1)], "Succeeded").0, State::Lagging);
        assert_eq!(state(&["ip1"], &[("ip1", 0)], "Succeeded").0, State::Settled);
    }

    #[test]
    fn what_was_cancelled_is_over() {
        for word in ["Canceled", "Cancelled", "canceled"] {
            let mut whole = tree(&[(1, 1)], 0);
            *whole.pointer_mut("/properties/provisioningState").unwrap() = json!(word);
            *whole.pointer_mut("/properties/ipConfigurations/1/properties/provisioningState").unwrap() = json!(word);
            let whole = nic(&whole);
            assert_eq!((whole.view().state, whole.view().slots.clone()), (State::Settled, [(1, Slot::Failed)].into()));
            assert!(whole.write(&Change { add: [1].into(), ..Change::default() }).is_ok(), "to send it again repairs it");
            let (model, nics) = instance_documents(&["ip1", "avn-1"], &[("ip1", 0)], word);
            let instance = Nic::instance(&model, &nics).unwrap();
            assert_eq!((instance.view().state, instance.view().slots.clone()), (State::Settled, [(1, Slot::Failed)].into()));
        }
    }

    #[test]
    fn a_removal_that_failed_half_way_leaves_nothing_that_pods_may_use() {
        let (model, nics) = instance_documents(&["ip1", "avn-3"], &[("ip1", 0), ("avn-3", 3), ("avn-9", 9)], "Failed");
        let nic = Nic::instance(&model, &nics).unwrap();
        assert_eq!((nic.view().state, nic.view().attached().collect()), (State::Settled, vec![entry(3, 3)]));
        assert_eq!(nic.view().dropped().collect::<Vec<_>>(), [entry(9, 9)]);
        let names = |change: &Change| {
            let write = nic.write(change).unwrap();
            let profile = write.body().pointer("/properties/networkProfileConfiguration").unwrap();
            names(interface(profile, "nic1").unwrap()).unwrap().into_iter().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(names(&Change { remove: [entry(9, 9)].into(), ..Change::default() }), ["avn-3", "ip1"], "the same again finishes it");
        assert_eq!(names(&Change { add: [4].into(), ..Change::default() }), ["avn-3", "avn-4", "ip1"]);
        assert_eq!(names(&Change { add: [9].into(), ..Change::default() }), ["avn-3", "avn-9", "ip1"], "the slot may be asked for anew");
    }

    #[test]
    fn published_examples_are_read() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../e2e/azure-examples/arm/");
        let body = |name: &str| {
            let text = std::fs::read_to_string(format!("{folder}{name}")).unwrap();
            serde_json::from_str::<Value>(&text).unwrap().pointer("/responses/200/body").unwrap().clone()
        };
        let nic = Nic::whole(Document { body: body("NetworkInterfaceGet.2025-05-01.json"), etag: None }).unwrap();
        assert_eq!((nic.view().foreign, nic.view().mac.as_str()), (2, "00:0d:3a:1b:c7:21"));
        let mut model = body("GetVirtualMachineScaleSetVMWithUserData.2021-07-01.json");
        let text = model.to_string().replace(['{', '}'], "|").contains("subscription-id");
        assert!(text, "the example's placeholders are not ids");
        model = serde_json::from_str(&model.to_string().replace("{subscription-id}", "s").replace("{vmss-name}", "ss")).unwrap();
        let mut nics = body("VmssVmNetworkInterfaceList.2021-05-01.json");
        *nics.pointer_mut("/value/0/name").unwrap() = json!("vmsstestnetconfig5415");
        let nic = Nic::instance(&Document { body: model, etag: None }, &Document { body: nics, etag: None }).unwrap();
        assert_eq!(nic.view().primary, Ipv4Addr::new(10, 0, 0, 5));
    }

    #[derive(Clone, Copy, Debug)]
    enum Fate {
        Kept,
        Removed,
        Added,
        Absent,
    }

    proptest! {
        /// I2, I3: whatever is asked, a body that passes differs from what was read in the asked slots only, and applying it yields exactly that.
        #[test]
        fn i2_i3_a_body_differs_only_in_the_slots_of_the_change(
            fates in proptest::collection::btree_map(1u8..=255, prop_oneof![Just(Fate::Kept), Just(Fate::Removed), Just(Fate::Added), Just(Fate::Absent)], 0..60),
            foreign in 0u8..20,
        ) {
            let of = |wanted: &[u8]| fates.iter().filter(|(_, f)| wanted.contains(&match f { Fate::Kept => 0, Fate::Removed => 1, Fate::Added => 2, Fate::Absent => 3 })).map(|(&s, _)| s).collect::<Vec<u8>>();
            let before = tree(&of(&[0, 1]).iter().map(|&s| (s, s)).collect::<Vec<_>>(), foreign);
            let change = Change { add: of(&[2]).into_iter().collect(), remove: of(&[1]).iter().map(|&s| entry(s, s)).collect() };
            match nic(&before).write(&change) {
                Err(refusal) => prop_assert!(refusal == Refusal::Done && change == Change::default()),
                Ok(write) => {
                    let after = nic(write.body());
                    let mut expected = of(&[0, 2]);
                    expected.sort_unstable();
                    prop_assert_eq!(after.view().slots.keys().copied().collect::<Vec<_>>(), expected);
                    prop_assert_eq!(after.view().foreign, u16::from(foreign) + 1);
                    let mut strangers = (before.clone(), write.body().clone());
                    for tree in [&mut strangers.0, &mut strangers.1] {
                        tree.pointer_mut("/properties/ipConfigurations").unwrap().as_array_mut().unwrap().retain(|e| slot_of(e["name"].as_str().unwrap()).is_none());
                    }
                    prop_assert_eq!(strangers.0, strangers.1);
                }
            }
        }

        /// I3: the guard notices any single edit of what is not ours.
        #[test]
        fn i3_the_guard_notices_every_foreign_edit(edit in 0usize..8) {
            let before = tree(&[(1, 1), (2, 2)], 2);
            let mut after = before.clone();
            let list = "/properties/ipConfigurations";
            match edit {
                0 => *after.pointer_mut("/tags/a").unwrap() = json!("c"),
                1 => { after.pointer_mut("/properties").unwrap().as_object_mut().unwrap().remove("networkSecurityGroup"); }
                2 => { after.pointer_mut(list).unwrap().as_array_mut().unwrap().remove(0); }
                3 => { after.pointer_mut(list).unwrap().as_array_mut().unwrap().remove(1); }
                4 => { after.pointer_mut(list).unwrap().as_array_mut().unwrap().remove(3); }
                5 => *after.pointer_mut(&format!("{list}/0/properties/privateIPAddress")).unwrap() = json!("10.0.0.9"),
                6 => after.pointer_mut(list).unwrap().as_array_mut().unwrap().push(configuration("avn-9", Ipv4Addr::LOCALHOST, false)),
                _ => *after.pointer_mut(&format!("{list}/0/properties/primary")).unwrap() = json!(false),
            }
            prop_assert!(guard(&before, &after, list, &Change::default()).is_err());
            prop_assert!(guard(&before, &before, list, &Change::default()).is_ok());
        }
    }
}
