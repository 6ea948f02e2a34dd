//! The body of a write: what was read, without what goes and with what is added; and the guard that compares both.

use std::collections::BTreeSet;

use azure_vnet_crds::node::Unit;
use serde_json::{Map, Value, json};

use super::{
    LIMIT, Refusal, name_of,
    resource::{array_at, name, only},
    slot_of,
};

/// The field that makes an address a block.
pub(super) const PREFIX_LENGTH: &str = "privateIPAddressPrefixLength";

/// What is left to do of a change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edit {
    /// Slots to append.
    pub add: BTreeSet<u8>,
    /// What each of them is to carry.
    pub unit: Unit,
    /// Slots to drop; what is appended as well is made anew.
    pub gone: BTreeSet<u8>,
}

/// The body for a whole NIC.
pub(super) fn whole_body(tree: &Value, change: &Edit) -> Option<Value> {
    let mut after = tree.clone();
    let list = after.pointer_mut("/properties/ipConfigurations")?.as_array_mut()?;
    edit(list, change, true)?;
    Some(after)
}

/// The network profile of an instance, and where in it the list is.
pub(super) fn profile_body(profile: &Value, nic: &str, change: &Edit) -> Option<(Value, String)> {
    let mut after = profile.clone();
    let interfaces = after.get_mut("networkInterfaceConfigurations")?.as_array_mut()?;
    let index = interfaces.iter().position(|i| name(i).is_some_and(|name| name.eq_ignore_ascii_case(nic)))?;
    let list = interfaces.get_mut(index)?.pointer_mut("/properties/ipConfigurations")?.as_array_mut()?;
    edit(list, change, false)?;
    Some((after, format!("/networkInterfaceConfigurations/{index}/properties/ipConfigurations")))
}

/// Drops and appends our entries, leaving all others where they are.
fn edit(list: &mut Vec<Value>, change: &Edit, whole: bool) -> Option<()> {
    let primary = primary_of(list)?;
    let added: Vec<Value> = change.add.iter().map(|&slot| fresh(slot, change.unit, primary, whole)).collect::<Option<_>>()?;
    list.retain(|entry| !is_gone(entry, &change.gone));
    list.extend(added);
    Some(())
}

fn is_gone(entry: &Value, gone: &BTreeSet<u8>) -> bool {
    name(entry).and_then(slot_of).is_some_and(|slot| gone.contains(&slot))
}

/// A new IP configuration: subnet and application security groups as the primary's (Azure demands both alike on all), no load balancer.
fn fresh(slot: u8, unit: Unit, primary: &Value, whole: bool) -> Option<Value> {
    let from = primary.get("properties")?;
    let mut properties = Map::new();
    properties.insert("primary".into(), json!(false));
    properties.insert("subnet".into(), only("id", from.pointer("/subnet/id")?.clone()));
    properties.insert("privateIPAddressVersion".into(), json!("IPv4"));
    if whole {
        properties.insert("privateIPAllocationMethod".into(), json!("Dynamic"));
    }
    if !unit.is_address() {
        properties.insert(PREFIX_LENGTH.into(), json!(unit.prefix_len()));
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
pub(super) fn guard(before: &Value, after: &Value, pointer: &str, change: &Edit) -> Result<(), Refusal> {
    let refuse = |why| Err(Refusal::Guard(why));
    let (Some(old), Some(new)) = (array_at(before, pointer), array_at(after, pointer)) else {
        return refuse("no ipConfigurations");
    };
    let path: Vec<&str> = pointer.split('/').skip(1).collect();
    if !same_beside(before, after, &path) {
        return refuse("a field outside ipConfigurations differs");
    }
    let kept: Vec<&Value> = old.iter().filter(|entry| !is_gone(entry, &change.gone)).collect();
    if kept.len() + change.gone.len() != old.len() {
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
    let length = (!change.unit.is_address()).then(|| json!(change.unit.prefix_len()));
    if added.iter().any(|entry| entry.get("properties").and_then(|properties| properties.get(PREFIX_LENGTH)) != length.as_ref()) {
        return refuse("an addition is of another size than intended");
    }
    let before: BTreeSet<Option<&str>> = same.iter().map(name).collect();
    if added.iter().any(|entry| before.contains(&name(entry))) {
        return refuse("an addition is there already");
    }
    if new.len() > old.len().max(usize::from(LIMIT)) { Err(Refusal::Limit) } else { Ok(()) }
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
