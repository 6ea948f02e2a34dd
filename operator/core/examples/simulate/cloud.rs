//! Resource Manager and the NICs behind it: whole-resource writes on an etag, operations that take time, reads that may be old, and subnets that
//! hand out first what was freed last.

use std::{
    cell::OnceCell,
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::Ipv4Addr,
    rc::Rc,
};

use azure_vnet_crds::node::{SlotAddress, Unit};
use azure_vnet_operator_core::{
    arm::{Document, Write},
    nic::{name_of, slot_of},
};
use serde_json::{Value, json};

use crate::dice::Dice;

/// How far back old answers reach, in milliseconds.
const HISTORY: i64 = 120_000;
pub const NETWORK: &str = "/subscriptions/s/resourceGroups/net/providers/Microsoft.Network/virtualNetworks/v";

/// A subnet: free addresses, the last freed on top. What is freed last goes first, but for what chance has taken elsewhere.
#[derive(Clone, Debug)]
pub struct Subnet {
    pub free: Vec<Ipv4Addr>,
    pub dice: Option<Dice>,
}

/// One IP configuration of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    Good(Ipv4Addr),
    Updating(Option<Ipv4Addr>),
    Failed,
}

/// How an accepted operation will end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Well,
    Partly,
    Fails,
    FullSubnet,
    Superseded,
}

#[derive(Clone, Debug)]
pub struct Operation {
    pub id: u64,
    pub end: End,
    add: BTreeSet<u8>,
    remove: BTreeMap<u8, Ipv4Addr>,
}

/// A machine's NIC.
#[derive(Clone, Debug)]
pub struct Nic {
    pub id: String,
    pub instance: Option<String>,
    pub mac: String,
    pub subnet: usize,
    pub primary: Ipv4Addr,
    pub foreign: Vec<(String, Ipv4Addr)>,
    pub entries: BTreeMap<u8, Entry>,
    /// Those of them that carry, or carried, a block.
    blocks: BTreeSet<u8>,
    /// What the model of an instance wants.
    wanted: BTreeSet<u8>,
    pub operation: Option<Operation>,
    pub exists: bool,
    pub running: bool,
    etag: u64,
    failed: bool,
    /// When the last operation ended.
    pub done_at: i64,
    past: VecDeque<Past>,
    shown: VecDeque<(i64, Shown)>,
    shows: Shows,
    pub takes: Takes,
}

/// What a NIC was like since some time; printed when somebody reads it.
#[derive(Clone, Debug)]
struct Past {
    since: i64,
    primary: Ipv4Addr,
    foreign: Vec<(String, Ipv4Addr)>,
    entries: BTreeMap<u8, Entry>,
    blocks: BTreeSet<u8>,
    wanted: BTreeSet<u8>,
    state: &'static str,
    etag: u64,
    printed: OnceCell<Rc<Documents>>,
}

/// What a GET answers: the NIC, or the instance and the list of its NICs.
#[derive(Clone, Debug)]
pub struct Documents {
    pub main: Value,
    pub nics: Value,
    pub etag: u64,
    /// As the product reads it, where one answer is all that it reads.
    pub read: OnceCell<azure_vnet_operator_core::nic::Nic>,
}

/// What a write would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effect {
    pub add: BTreeSet<u8>,
    /// Those of them that are to carry blocks.
    pub blocks: BTreeSet<u8>,
    pub remove: BTreeMap<u8, Option<Ipv4Addr>>,
}

/// What was on a NIC at a time.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    /// What carries traffic.
    pub there: Rc<BTreeSet<Ipv4Addr>>,
    /// What metadata tells of it.
    pub told: Rc<BTreeSet<Ipv4Addr>>,
    /// What it tells besides: the machine's own address and those of others. A machine made anew has another NIC, and is never mistaken by these.
    pub beside: Rc<BTreeSet<Ipv4Addr>>,
}

/// What metadata shows of blocks: nobody says which it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shows {
    /// Each address.
    Each,
    /// The first address.
    First,
    /// Nothing.
    NoBlock,
}

/// What becomes of blocks that are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    Blocks,
    /// It does not know the field, and gives single addresses.
    Singles,
    /// It refuses the write.
    None,
}

impl Subnet {
    pub fn take(&mut self) -> Option<Ipv4Addr> {
        let many = self.free.len();
        let elsewhere = self.dice.as_mut().filter(|_| many > 0).and_then(|dice| dice.chance(200).then(|| dice.below(many)));
        elsewhere.map(|place| self.free.remove(place)).or_else(|| self.free.pop())
    }

    /// The first address of what it gives: a block is aligned, and all of it was free.
    fn give(&mut self, unit: Unit) -> Option<Ipv4Addr> {
        match unit {
            Unit::Address => self.take(),
            Unit::Block28 => {
                let blocks = self.blocks();
                let last_freed = || self.free.iter().rev().map(|address| unit.first(*address)).find(|first| blocks.contains(first));
                let first = match &mut self.dice {
                    Some(dice) => {
                        if dice.chance(500) {
                            dice.pick(&blocks)?
                        } else {
                            last_freed()?
                        }
                    }
                    None => *blocks.first()?,
                };
                self.free.retain(|address| unit.first(*address) != first);
                Some(first)
            }
        }
    }

    /// Whether it has room for all that a write adds.
    pub fn holds(&self, blocks: usize, singles: usize) -> bool {
        self.free.len() >= blocks * 16 + singles && (blocks == 0 || self.blocks().len() >= blocks)
    }

    fn blocks(&self) -> Vec<Ipv4Addr> {
        let mut free: BTreeMap<Ipv4Addr, u32> = BTreeMap::new();
        for address in &self.free {
            *free.entry(Unit::Block28.first(*address)).or_default() += 1;
        }
        free.into_iter().filter(|(_, count)| *count == 16).map(|(first, _)| first).collect()
    }
}

impl Nic {
    pub fn new(id: &str, instance: Option<&str>, number: usize, subnet: usize) -> Self {
        Self {
            id: id.to_owned(),
            instance: instance.map(str::to_owned),
            mac: format!("00:0d:3a:00:00:{number:02x}"),
            subnet,
            primary: Ipv4Addr::UNSPECIFIED,
            foreign: vec![],
            entries: BTreeMap::new(),
            blocks: BTreeSet::new(),
            wanted: BTreeSet::new(),
            operation: None,
            exists: false,
            running: true,
            etag: 0,
            failed: false,
            done_at: 0,
            past: VecDeque::new(),
            shown: VecDeque::new(),
            shows: Shows::Each,
            takes: Takes::Blocks,
        }
    }

    /// The same, of which metadata shows blocks in this way, and which takes them so.
    pub fn with_blocks(self, shows: Shows, takes: Takes) -> Self {
        Self { shows, takes, ..self }
    }

    /// Whether nothing but Resource Manager tells of its blocks.
    pub fn hides_blocks(&self) -> bool {
        self.shows == Shows::NoBlock
    }

    fn is_told(&self, slot: u8, address: Ipv4Addr) -> bool {
        let unit = self.unit(slot);
        match self.shows {
            Shows::Each => true,
            Shows::First => unit.first(address) == address,
            Shows::NoBlock => unit == Unit::Address,
        }
    }

    /// A machine is made, or made anew under the same name.
    pub fn create(&mut self, subnet: &mut Subnet, foreign: usize, now: i64) {
        self.primary = subnet.take().unwrap_or(Ipv4Addr::UNSPECIFIED);
        self.foreign = (0..foreign).filter_map(|n| Some((format!("other{n}"), subnet.take()?))).collect();
        (self.entries, self.wanted, self.operation) = (BTreeMap::new(), BTreeSet::new(), None);
        self.blocks.clear();
        (self.exists, self.running, self.failed) = (true, true, false);
        self.past.clear();
        self.shown.clear();
        self.touch(now);
    }

    /// A machine is deleted: all of its addresses are free.
    pub fn delete(&mut self, subnet: &mut Subnet, now: i64) {
        let leaving = self.operation.iter().flat_map(|operation| operation.remove.iter().map(|(slot, address)| (*slot, *address)));
        let held = self.entries.iter().filter_map(|(slot, entry)| Some((*slot, entry.address()?)));
        let ours: BTreeSet<Ipv4Addr> = held.chain(leaving).flat_map(|(slot, address)| self.each(slot, address)).collect();
        subnet.free.extend(self.foreign.drain(..).map(|(_, address)| address));
        subnet.free.extend(ours);
        subnet.free.push(self.primary);
        (self.entries, self.wanted, self.operation) = (BTreeMap::new(), BTreeSet::new(), None);
        self.blocks.clear();
        self.exists = false;
        self.touch(now);
    }

    /// Each address that carries traffic, with its slot.
    pub fn good(&self) -> impl Iterator<Item = (u8, Ipv4Addr)> + '_ {
        let good =
            self.entries.iter().filter_map(|(slot, entry)| if let Entry::Good(address) = entry { Some((*slot, *address)) } else { None });
        good.flat_map(|(slot, address)| self.each(slot, address).map(move |address| (slot, address)))
    }

    /// What a slot carries, by its first address.
    pub fn carried(&self, slot: u8, address: Ipv4Addr) -> SlotAddress {
        SlotAddress::of(slot, address, self.unit(slot))
    }

    fn unit(&self, slot: u8) -> Unit {
        if self.blocks.contains(&slot) { Unit::Block28 } else { Unit::Address }
    }

    fn each(&self, slot: u8, address: Ipv4Addr) -> impl Iterator<Item = Ipv4Addr> + use<> {
        self.carried(slot, address).each().map(|at| at.address)
    }

    /// What carries traffic, and goes on to: the next write takes away what the model of an instance does not name.
    pub fn kept(&self) -> impl Iterator<Item = (u8, Ipv4Addr)> + '_ {
        self.good().filter(|(slot, _)| self.instance.is_none() || self.wanted.contains(slot))
    }

    /// What the node's metadata shows, so many milliseconds late.
    pub fn shown(&self, now: i64, late: i64) -> Shown {
        let at = self.shown.iter().rev().find(|(at, _)| *at <= now - late).or(self.shown.front());
        at.map(|(_, shown)| shown.clone()).unwrap_or_default()
    }

    /// What a GET answers, as it was so many milliseconds ago.
    pub fn documents(&self, now: i64, ago: i64) -> Rc<Documents> {
        let found = self.past.iter().rev().find(|past| past.since <= now - ago).or(self.past.front());
        found.map_or_else(|| Rc::new(self.print(&self.present(now))), |past| self.printed(past))
    }

    fn printed(&self, past: &Past) -> Rc<Documents> {
        Rc::clone(past.printed.get_or_init(|| Rc::new(self.print(past))))
    }

    fn present(&self, now: i64) -> Past {
        let state = match (&self.operation, self.failed) {
            (Some(_), _) => "Updating",
            (None, true) => "Failed",
            (None, false) => "Succeeded",
        };
        let (foreign, entries, wanted) = (self.foreign.clone(), self.entries.clone(), self.wanted.clone());
        Past {
            since: now,
            primary: self.primary,
            foreign,
            entries,
            blocks: self.blocks.clone(),
            wanted,
            state,
            etag: self.etag,
            printed: OnceCell::new(),
        }
    }

    /// Something changed.
    pub fn touch(&mut self, now: i64) {
        self.etag += 1;
        let there: Rc<BTreeSet<Ipv4Addr>> = Rc::new(self.good().map(|(_, address)| address).collect());
        let told = || self.good().filter(|(slot, address)| self.is_told(*slot, *address)).map(|(_, address)| address).collect();
        let told = if self.blocks.is_empty() { Rc::clone(&there) } else { Rc::new(told()) };
        let beside = Rc::new(self.foreign.iter().map(|(_, address)| *address).chain([self.primary]).collect());
        self.shown.push_back((now, Shown { there, told, beside }));
        while self.shown.len() > 2 && self.shown.get(1).is_some_and(|(at, _)| *at < now - 20 * HISTORY) {
            self.shown.pop_front();
        }
        while self.past.len() > 1 && self.past.get(1).is_some_and(|past| past.since < now - HISTORY) {
            self.past.pop_front();
        }
        // Old answers need the time from which they were true.
        let present = self.present(now);
        self.past.push_back(present);
    }

    /// Forgets what it was like: no answer is old, and whether an etag is current is known without it.
    pub fn forget(&mut self) {
        self.etag = 0;
        self.past.clear();
        self.shown.clear();
        self.touch(0);
    }

    /// All that counts of it then.
    pub fn gist(&self) -> impl std::fmt::Debug + '_ {
        (&self.entries, &self.blocks, &self.wanted, &self.operation, self.failed)
    }

    pub fn etag(&self) -> u64 {
        self.etag
    }

    /// Slots that a write would name, by its body; or how the body touches what is not ours (I2, I3).
    pub fn effect(&self, write: &Write) -> Result<Effect, &'static str> {
        let before = self.documents(i64::MAX, 0);
        let (old, new, pointer) = match write {
            Write::Nic { body, .. } => (&before.main, body, "/properties/ipConfigurations"),
            Write::Instance { body, .. } => (
                before.main.pointer("/properties/networkProfileConfiguration").ok_or("the model has no profile")?,
                body.pointer("/properties/networkProfileConfiguration").ok_or("the body has no profile")?,
                "/networkInterfaceConfigurations/0/properties/ipConfigurations",
            ),
        };
        let path: Vec<&str> = pointer.split('/').skip(1).collect();
        if !same_beside(old, new, &path) {
            return Err("a field beside the ipConfigurations differs");
        }
        let (Some(old), Some(new)) = (entries_at(old, pointer), entries_at(new, pointer)) else { return Err("no ipConfigurations") };
        let slot = |entry: &Value| entry.get("name").and_then(Value::as_str).and_then(slot_of);
        if !old.iter().filter(|entry| slot(entry).is_none()).eq(new.iter().filter(|entry| slot(entry).is_none())) {
            return Err("a foreign ipConfiguration differs");
        }
        let (old, new): (BTreeMap<u8, &Value>, BTreeMap<u8, &Value>) =
            [old, new].map(|list| list.iter().filter_map(|entry| Some((slot(entry)?, entry))).collect()).into();
        let differs = |slot: &u8| old.get(slot).is_some_and(|entry| new.get(slot).is_some_and(|other| other != entry));
        // One that Azure failed to make may be made anew as a single address.
        let is_renewed = |slot: &u8| self.blocks.contains(slot) && self.entries.get(slot) == Some(&Entry::Failed) && differs(slot);
        if old.keys().any(|slot| differs(slot) && !is_renewed(slot)) {
            return Err("an ipConfiguration that stays differs");
        }
        let address = |slot: &u8| self.entries.get(slot).and_then(|entry| entry.address());
        let is_block = |entry: &Value| entry.pointer("/properties/privateIPAddressPrefixLength") == Some(&json!(28));
        let add: BTreeSet<u8> = new.keys().filter(|slot| !old.contains_key(slot) || is_renewed(slot)).copied().collect();
        Ok(Effect {
            blocks: add.iter().filter(|slot| new.get(slot).is_some_and(|entry| is_block(entry))).copied().collect(),
            add,
            remove: old.keys().filter(|slot| !new.contains_key(slot)).map(|slot| (*slot, address(slot))).collect(),
        })
    }

    /// Accepts a write. Answers the addresses that no longer carry traffic. `subnet` is asked for as many as are added.
    pub fn accept(&mut self, subnet: &mut Subnet, effect: &Effect, operation: (u64, End), now: i64) -> Vec<Ipv4Addr> {
        let (id, end) = operation;
        let remove: BTreeMap<u8, Ipv4Addr> = effect.remove.iter().filter_map(|(slot, address)| Some((*slot, (*address)?))).collect();
        if self.instance.is_some() {
            self.wanted.extend(&effect.add);
            self.wanted.retain(|slot| !effect.remove.contains_key(slot));
        } else if end != End::Superseded {
            for slot in &effect.add {
                self.blocks.remove(slot);
                self.blocks.extend(effect.blocks.get(slot).filter(|_| self.takes == Takes::Blocks));
                let address = (end != End::FullSubnet).then(|| subnet.give(self.unit(*slot))).flatten();
                self.entries.insert(*slot, Entry::Updating(address));
            }
            self.entries.retain(|slot, _| !effect.remove.contains_key(slot));
        }
        // A slot that failed is repaired by any write that keeps it.
        let whole = self.instance.is_none();
        let failed: Vec<u8> = self.entries.iter().filter(|(_, entry)| whole && **entry == Entry::Failed).map(|(slot, _)| *slot).collect();
        for slot in failed {
            self.entries.insert(slot, Entry::Updating(subnet.give(self.unit(slot))));
        }
        let goes = whole && end != End::Superseded;
        let gone = remove.iter().filter(|_| goes).flat_map(|(slot, address)| self.each(*slot, *address)).collect();
        self.operation = Some(Operation { id, end, add: effect.add.clone(), remove });
        self.touch(now);
        gone
    }

    /// An operation ends. Answers the addresses that no longer carry traffic.
    pub fn finish(&mut self, subnet: &mut Subnet, now: i64) -> Vec<Ipv4Addr> {
        let Some(Operation { end, add, remove, .. }) = self.operation.take() else { return vec![] };
        self.done_at = now;
        let gone = if self.instance.is_some() {
            self.finish_instance(subnet, end, &add, &remove)
        } else {
            self.finish_whole(subnet, end, &remove);
            self.blocks.retain(|slot| self.entries.contains_key(slot));
            vec![]
        };
        self.touch(now);
        gone
    }

    fn finish_whole(&mut self, subnet: &mut Subnet, end: End, remove: &BTreeMap<u8, Ipv4Addr>) {
        self.failed = matches!(end, End::Partly | End::Fails);
        let mut spare = matches!(end, End::Partly | End::Fails);
        for (slot, entry) in &mut self.entries {
            let Entry::Updating(address) = *entry else { continue };
            let unit = if self.blocks.contains(slot) { Unit::Block28 } else { Unit::Address };
            *entry = match address {
                Some(address) if spare => {
                    subnet.free.extend(SlotAddress::of(*slot, address, unit).each().map(|at| at.address));
                    // Partly: the first of them fails; else all of them.
                    spare = end == End::Fails;
                    Entry::Failed
                }
                Some(address) => Entry::Good(address),
                None => subnet.give(unit).map_or(Entry::Failed, Entry::Good),
            };
        }
        let leaving: Vec<Ipv4Addr> = remove.iter().flat_map(|(slot, address)| self.each(*slot, *address)).collect();
        match end {
            // Nothing was done to them.
            End::Superseded => {}
            // Rolled back.
            End::Fails => self.entries.extend(remove.iter().map(|(slot, address)| (*slot, Entry::Good(*address)))),
            End::Well | End::Partly | End::FullSubnet => subnet.free.extend(leaving),
        }
    }

    /// The model names what was asked for, however it ended; only one that was superseded is as it was.
    fn finish_instance(&mut self, subnet: &mut Subnet, end: End, add: &BTreeSet<u8>, remove: &BTreeMap<u8, Ipv4Addr>) -> Vec<Ipv4Addr> {
        let failed_before = std::mem::replace(&mut self.failed, end != End::Well);
        match end {
            End::Superseded => {
                self.wanted.retain(|slot| !add.contains(slot));
                self.wanted.extend(remove.keys());
                self.failed = failed_before;
                return vec![];
            }
            // Nothing of it was done.
            End::Fails => return vec![],
            End::Well | End::Partly | End::FullSubnet => {}
        }
        // Partly: the first of each is left as it was.
        let mut left = end == End::Partly;
        let leaving: Vec<u8> = self.entries.keys().filter(|slot| !self.wanted.contains(slot)).copied().collect();
        let gone = leaving.into_iter().filter(|_| !std::mem::take(&mut left)).filter_map(|slot| self.entries.remove(&slot)?.address());
        let gone: Vec<Ipv4Addr> = gone.collect();
        subnet.free.extend(&gone);
        let mut spare = end == End::Partly;
        for slot in self.wanted.clone() {
            let entry = self.entries.entry(slot).or_insert(Entry::Failed);
            if matches!(entry, Entry::Failed | Entry::Updating(_)) && end != End::FullSubnet && !std::mem::take(&mut spare) {
                *entry = subnet.take().map_or(Entry::Failed, Entry::Good);
            }
        }
        gone
    }

    /// A foreign writer makes one of ours anew, with another address.
    pub fn swap_slot(&mut self, slot: u8, subnet: &mut Subnet, now: i64) -> Option<Ipv4Addr> {
        if self.blocks.contains(&slot) {
            return None;
        }
        let old = self.entries.get(&slot)?.address()?;
        let new = subnet.take()?;
        self.entries.insert(slot, Entry::Good(new));
        subnet.free.insert(0, old);
        self.touch(now);
        Some(old)
    }

    /// A foreign writer takes one of ours away.
    pub fn drop_slot(&mut self, slot: u8, subnet: &mut Subnet, now: i64) -> Vec<Ipv4Addr> {
        let address = self.entries.remove(&slot).and_then(Entry::address);
        let gone: Vec<Ipv4Addr> = address.into_iter().flat_map(|address| self.each(slot, address)).collect();
        self.wanted.remove(&slot);
        self.blocks.remove(&slot);
        subnet.free.extend(&gone);
        self.touch(now);
        gone
    }

    fn print(&self, past: &Past) -> Documents {
        let subnet = format!("{NETWORK}/subnets/{}", self.subnet);
        let wanted = |name: &str, primary: bool| {
            json!({"name": name, "properties": {"subnet": {"id": subnet}, "primary": primary, "privateIPAddressVersion": "IPv4",
                "applicationSecurityGroups": [{"id": "/subscriptions/s/asg"}]}})
        };
        let configuration = |name: &str, address: Option<Ipv4Addr>, state: &str, primary: bool| {
            let mut entry = wanted(name, primary);
            if let Some(properties) = entry.get_mut("properties").and_then(Value::as_object_mut) {
                properties.insert("provisioningState".into(), json!(state));
                properties.extend(address.map(|address| ("privateIPAddress".to_owned(), json!(address))));
            }
            entry
        };
        let mut list = vec![configuration("ipconfig1", Some(past.primary), "Succeeded", true)];
        list.extend(past.foreign.iter().map(|(name, address)| configuration(name, Some(*address), "Succeeded", false)));
        list.extend(past.entries.iter().map(|(slot, entry)| {
            let (address, state) = match entry {
                Entry::Good(address) => (Some(*address), "Succeeded"),
                Entry::Updating(address) => (*address, "Updating"),
                Entry::Failed => (None, "Failed"),
            };
            let mut entry = configuration(&name_of(*slot), address, state, false);
            if let Some(properties) = entry.get_mut("properties").and_then(Value::as_object_mut).filter(|_| past.blocks.contains(slot)) {
                properties.insert("privateIPAddressPrefixLength".into(), json!(28));
                properties.extend(address.map(|address| ("privateIPAddress".to_owned(), json!(format!("{address}/28")))));
            }
            entry
        }));
        let Past { state, etag, .. } = past;
        let Some(instance) = &self.instance else {
            let mut main = json!({"name": "nic", "id": self.id, "location": "here", "etag": format!("W/\"{etag}\""), "tags": {"kept": "yes"},
                "properties": {"provisioningState": state, "macAddress": self.mac, "primary": true, "enableAcceleratedNetworking": true,
                "networkSecurityGroup": {"id": "/subscriptions/s/nsg"}, "ipConfigurations": null}});
            fill(&mut main, "/properties/ipConfigurations", list);
            return Documents { main, nics: Value::Null, etag: *etag, read: OnceCell::new() };
        };
        let mut model = vec![wanted("ipconfig1", true)];
        model.extend(past.foreign.iter().map(|(name, _)| wanted(name, false)));
        model.extend(past.wanted.iter().map(|slot| wanted(&name_of(*slot), false)));
        let mut main = json!({"id": instance, "name": "instance", "location": "here", "etag": format!("\"{etag}\""),
            "properties": {"provisioningState": state, "networkProfileConfiguration": {"networkInterfaceConfigurations": [
            {"name": "nic", "properties": {"primary": true, "enableAcceleratedNetworking": true, "ipConfigurations": null}}]}}});
        fill(&mut main, "/properties/networkProfileConfiguration/networkInterfaceConfigurations/0/properties/ipConfigurations", model);
        let mut nics = json!({"value": [{"name": "nic", "id": self.id, "properties": {"provisioningState": "Succeeded", "macAddress": self.mac,
            "primary": true, "ipConfigurations": null}}]});
        fill(&mut nics, "/value/0/properties/ipConfigurations", list);
        Documents { main, nics, etag: *etag, read: OnceCell::new() }
    }
}

impl Entry {
    pub fn address(self) -> Option<Ipv4Addr> {
        match self {
            Self::Good(address) | Self::Updating(Some(address)) => Some(address),
            Self::Updating(None) | Self::Failed => None,
        }
    }
}

/// Puts a list where there is none yet; it is moved and not copied.
fn fill(tree: &mut Value, pointer: &str, list: Vec<Value>) {
    if let Some(place) = tree.pointer_mut(pointer) {
        *place = Value::Array(list);
    }
}

fn entries_at<'a>(tree: &'a Value, pointer: &str) -> Option<&'a Vec<Value>> {
    tree.pointer(pointer).and_then(Value::as_array)
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

/// A body as an answer carries it.
pub fn document(body: Value) -> Document {
    Document { body, etag: None }
}
