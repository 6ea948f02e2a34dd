//! A machine's NIC as Azure describes it, kept as the JSON text that was read, and the body of the next write.
//! Only `ipConfigurations` named `avn-<slot>` are ours; everything else goes back exactly as it came.

mod body;
mod packed;
mod resource;
mod runs;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::Arc,
};

use azure_vnet_crds::node::{Plan, SlotAddress, Unit};
use serde_json::{Value, json};

pub use self::runs::{runs, tells_of};
use self::{
    body::{Edit, guard, profile_body, whole_body},
    packed::Packed,
    resource::{Resource, array_at, count, interface, is_bad, is_final, name, names, only, text},
};
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
    /// Those of them on this NIC that are of IPv4, which is what IMDS is compared by.
    pub foreign_ipv4: u16,
    /// Whether Azure is still working on it.
    pub state: State,
}

/// One IP configuration of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// Provisioned, with its address, of a block the first.
    Attached(Ipv4Addr, Unit),
    /// On its way: named without an address yet, or no longer wanted and not gone yet.
    Provisioning(Unit),
    /// Azure failed to provision it.
    Failed(Unit),
    /// Azure failed to take it away: still there with its address, and no longer in the machine's model, so that the next write ends it.
    Dropped(Ipv4Addr, Unit),
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

impl Slot {
    /// How many addresses it carries, or is to carry.
    #[must_use]
    pub fn unit(self) -> Unit {
        let (Self::Attached(_, unit) | Self::Provisioning(unit) | Self::Failed(unit) | Self::Dropped(_, unit)) = self;
        unit
    }
}

impl View {
    /// Our IP configurations that carry an address.
    pub fn attached(&self) -> impl Iterator<Item = SlotAddress> + '_ {
        self.slots.iter().filter_map(|(&slot, state)| match state {
            Slot::Attached(address, unit) => Some(SlotAddress::of(slot, *address, *unit)),
            Slot::Provisioning(_) | Slot::Failed(_) | Slot::Dropped(..) => None,
        })
    }
    /// Blocks that Azure failed to provision.
    pub fn failed_blocks(&self) -> impl Iterator<Item = u8> + '_ {
        self.slots.iter().filter(|(_, state)| **state == Slot::Failed(Unit::Block28)).map(|(slot, _)| *slot)
    }
    /// Our IP configurations that the next write takes away, whatever else it does.
    pub fn dropped(&self) -> impl Iterator<Item = SlotAddress> + '_ {
        self.slots.iter().filter_map(|(&slot, state)| match state {
            Slot::Dropped(address, unit) => Some(SlotAddress::of(slot, *address, *unit)),
            Slot::Attached(..) | Slot::Provisioning(_) | Slot::Failed(_) => None,
        })
    }
    /// What a slot carries.
    #[must_use]
    pub fn at(&self, slot: u8) -> Option<SlotAddress> {
        match self.slots.get(&slot)? {
            Slot::Attached(address, unit) => Some(SlotAddress::of(slot, *address, *unit)),
            Slot::Provisioning(_) | Slot::Failed(_) | Slot::Dropped(..) => None,
        }
    }
    /// Whether a slot carries just this.
    #[must_use]
    pub fn shows(&self, at: SlotAddress) -> bool {
        self.at(at.slot) == Some(at)
    }
    /// How many IP configurations of ours fit beside the others. How Azure counts a block against its limit is not documented: as one of them here,
    /// which is what the limit of IP configurations says.
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
    /// What each of them is to carry.
    pub unit: Unit,
    /// Slots to remove, with the addresses they must still have.
    pub remove: BTreeSet<SlotAddress>,
    /// Slots that go if they are blocks that Azure failed to provision: as long as they stand, every write asks for them again. Nobody was told of any.
    pub failed: BTreeSet<u8>,
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
    /// Only the NIC resource has a field for it.
    #[error("an instance of a Uniform scale set takes no blocks of addresses")]
    NoBlocks,
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
    Whole { tree: Packed, etag: Option<String> },
    Instance { id: ResourceId, location: String, profile: Packed, nic: String, etag: Option<String> },
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
        Ok(Self { view, source: Arc::new(Source::Whole { tree: Packed::of(&body), etag }) })
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
            model.body.pointer("/properties/networkProfileConfiguration").ok_or_else(|| missing("networkProfileConfiguration"))?;
        let listed = nics.body.get("value").and_then(Value::as_array).ok_or_else(|| missing("networkInterfaces"))?;
        let listed = listed.iter().map(Resource::parse).collect::<Result<Vec<_>, _>>()?;
        let nic = listed.iter().find(|nic| nic.primary || listed.len() == 1).ok_or_else(|| missing("primary NIC"))?;
        let wanted = interface(profile, nic.name).ok_or_else(|| missing("configuration of its primary NIC"))?;
        let wanted = names(wanted).ok_or_else(|| missing("ipConfigurations"))?;

        let mut slots = nic.slots()?;
        let model_state = text(&model.body, "/properties/provisioningState").unwrap_or_default();
        let ended_badly = is_bad(model_state);
        // What one of them lacks is under way, or was left half done: the next write makes it what the model says, so its address is nobody's.
        let named: BTreeSet<u8> = wanted.iter().filter_map(|name| slot_of(name)).collect();
        let shown: BTreeSet<u8> = slots.keys().copied().collect();
        for &slot in named.symmetric_difference(&shown) {
            let state = match slots.get(&slot) {
                shown if !ended_badly => Slot::Provisioning(shown.map(|slot| slot.unit()).unwrap_or_default()),
                Some(Slot::Attached(address, unit)) => Slot::Dropped(*address, *unit),
                Some(Slot::Provisioning(unit) | Slot::Failed(unit) | Slot::Dropped(_, unit)) => Slot::Failed(*unit),
                None => Slot::Failed(Unit::Address),
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
        let source = Source::Instance { id, location, profile: Packed::of(profile), nic: nic.name.to_owned(), etag };
        Ok(Self { view, source: Arc::new(source) })
    }

    /// What it shows.
    #[must_use]
    pub fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// What its owner said of it: all of a NIC, of an instance its network profile.
    #[must_use]
    pub fn tree(&self) -> Value {
        let (Source::Whole { tree, .. } | Source::Instance { profile: tree, .. }) = &*self.source;
        tree.tree()
    }

    /// Builds the one write that carries a change, checked by the guard.
    ///
    /// # Errors
    /// When nothing is left to do, when the NIC no longer shows what the change was decided on, or when the guard objects.
    pub fn write(&self, change: &Change) -> Result<Write, Refusal> {
        let tree = self.tree();
        let edit = self.remaining(change, &tree)?;
        let (Source::Whole { etag, .. } | Source::Instance { etag, .. }) = &*self.source;
        if etag.is_none() {
            return Err(Refusal::NoEtag);
        }
        match &*self.source {
            Source::Whole { etag, .. } => {
                let body = whole_body(&tree, &edit).ok_or(Refusal::Guard("no ipConfigurations"))?;
                guard(&tree, &body, "/properties/ipConfigurations", &edit)?;
                Ok(Write::Nic { id: self.view.id.clone(), etag: etag.clone(), body })
            }
            Source::Instance { .. } if !edit.unit.is_address() && !edit.add.is_empty() => Err(Refusal::NoBlocks),
            Source::Instance { id, location, nic, etag, .. } => {
                let (after, pointer) = profile_body(&tree, nic, &edit).ok_or(Refusal::Guard("no ipConfigurations"))?;
                guard(&tree, &after, &pointer, &edit)?;
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
    fn remaining(&self, change: &Change, tree: &Value) -> Result<Edit, Refusal> {
        let Change { add, unit, remove, failed: spared } = change;
        let view = &self.view;
        let named = self.named(tree);
        let stands = |slot: u8| named.contains(&slot);
        let failed = |slot: &u8| match view.slots.get(slot) {
            Some(Slot::Failed(unit)) if stands(*slot) => Some(*unit),
            Some(Slot::Attached(..) | Slot::Provisioning(_) | Slot::Failed(_) | Slot::Dropped(..)) | None => None,
        };
        // A slot that Azure failed to provision is sent again as it stands, and so is a model whose removal the NIC does not show: that is what repairs it.
        let mut repairs = add.iter().any(|slot| failed(slot).is_some());
        // But for a block that there was no room for: as long as it stands, every write asks for it, and for what is asked for in its place.
        let renewed = |slot: &u8| *unit == Unit::Address && failed(slot) == Some(Unit::Block28);
        let mut left = Edit { unit: *unit, ..Edit::default() };
        left.gone = add.iter().copied().filter(renewed).collect();
        left.add = add.iter().copied().filter(|slot| !stands(*slot) || renewed(slot)).collect();
        for entry in remove {
            match view.slots.get(&entry.slot) {
                None => {}
                Some(_) if !stands(entry.slot) => repairs = true,
                Some(Slot::Attached(..)) if view.shows(*entry) => _ = left.gone.insert(entry.slot),
                Some(Slot::Attached(..) | Slot::Provisioning(_) | Slot::Failed(_) | Slot::Dropped(..)) => {
                    return Err(Refusal::AddressChanged(entry.slot));
                }
            }
        }
        if left.add.is_empty() && left.gone.is_empty() && !repairs {
            return Err(Refusal::Done);
        }
        left.gone.extend(spared.iter().filter(|slot| !add.contains(slot) && failed(slot) == Some(Unit::Block28)));
        if !left.add.is_empty() && named.len() + left.add.len() > left.gone.len() + usize::from(view.room()) {
            return Err(Refusal::Limit);
        }
        Ok(left)
    }

    /// Slots that a body built from it names before any change.
    fn named(&self, tree: &Value) -> BTreeSet<u8> {
        let list = match &*self.source {
            Source::Whole { .. } => array_at(tree, "/properties/ipConfigurations"),
            Source::Instance { nic, .. } => interface(tree, nic).and_then(|nic| array_at(nic, "/properties/ipConfigurations")),
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

#[cfg(test)]
pub(crate) mod tests;
