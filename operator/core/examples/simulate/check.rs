//! The rules, looked at whenever something happens that could break one.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use azure_vnet_crds::{
    AzureVnetNode,
    node::{Agent, Intent, IntentOp, SlotAddress},
};
use azure_vnet_operator_core::{
    adoption,
    arm::{Error, Write},
    blocks,
    decide::{Ready, Send},
    policy::Pool,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::{
    cloud::Effect,
    controller::{Caller, Outset, time},
    fault::Rule,
    rest::Want,
    server::NodeObject,
    world::{Flight, World},
};

/// How long after a foreign writer's deed a node may still offer what is gone, if nothing else goes wrong.
const NOTICED: i64 = 240_000;
/// How long after it a controller has read the NIC at last, whatever Azure has under way.
const READ_AT_LAST: i64 = 1_800_000;
/// How long a request to the API server may be under way.
const REQUEST: i64 = 32_000;
/// How long nobody asks a full subnet.
pub const FULL: i64 = 30_000;
/// Clocks and roundings.
const SLACK: i64 = 2_000;

/// What the rules remember.
#[derive(Debug, Default)]
pub struct Book {
    /// Since when an address rests, and where.
    pub rested: BTreeMap<Ipv4Addr, (usize, i64)>,
    /// What foreign writers took away.
    pub dropped: BTreeMap<Ipv4Addr, Loss>,
    pub cordoned: BTreeMap<usize, i64>,
    /// When a node last joined or was uncordoned.
    pub restless: BTreeMap<usize, i64>,
    /// When a node last lost its memory or disk.
    pub reset_at: BTreeMap<usize, i64>,
    /// When a spec was last stored.
    pub published: BTreeMap<usize, i64>,
    /// When an older state of the API server came back.
    pub restored: Option<i64>,
    /// When a node was last asked to give back.
    pub asked: BTreeMap<usize, i64>,
    /// When a node's agent last saw that a release or a removal was under way.
    pub giving: BTreeMap<usize, i64>,
    gates: BTreeMap<(usize, u64, usize), i64>,
    /// The disk that a node's agent last spoke for, and the one that it spoke for when a release was asked for.
    pub reported: BTreeMap<usize, u64>,
    asked_of: BTreeMap<(usize, u64), u64>,
    /// When intents were opened.
    pub opened: BTreeMap<(usize, u64), i64>,
    /// Intents that were closed while a write of theirs might land, by one whose clock was ahead of who opened them.
    early: BTreeSet<(usize, u64)>,
    /// When a process heard that a subnet is full, and how many passes it had begun by then; unless there was room since. Of several that asked at once
    /// the first one tells.
    pub refusals: BTreeMap<(usize, u64, usize), (i64, u64)>,
    /// What each node was to get or to give when the storms were over.
    pub wants: BTreeMap<usize, Want>,
    adopted: BTreeMap<String, u64>,
    aside: BTreeMap<(usize, SlotAddress), i64>,
}

/// An address that a foreign writer took away.
#[derive(Clone, Copy, Debug)]
pub struct Loss {
    pub name: usize,
    pub at: i64,
    /// Whether it was of a block.
    pub of_block: bool,
    /// The controller that sees the NIC settled without it, and since when; nobody after a read that failed: what is missing is lost only once it was missing
    /// twice.
    pub read: Option<(usize, u64, i64)>,
}

impl Book {
    /// A pass could not look at a NIC.
    pub fn looked_in_vain(&mut self, name: usize) {
        self.dropped.values_mut().filter(|loss| loss.name == name).for_each(|loss| loss.read = None);
    }

    /// A pass that may publish looked at a NIC that Azure was done with, as it was at a time.
    pub fn looked(&mut self, caller: Caller, of: i64, now: i64) {
        let term = (caller.replica, caller.life);
        for loss in self.dropped.values_mut().filter(|loss| loss.name == caller.name && loss.at <= of) {
            let known = loss.read.filter(|(replica, life, _)| (*replica, *life) == term);
            loss.read = known.or(Some((term.0, term.1, now)));
        }
    }

    pub fn joined(&mut self, name: usize, now: i64) {
        self.restless.insert(name, now);
        self.reset_at.insert(name, now);
        self.cordoned.remove(&name);
        self.gates.retain(|(_, _, of), _| *of != name);
        self.asked_of.retain(|(of, _), _| *of != name);
        self.aside.retain(|(of, _), _| *of != name);
    }
}

impl World<'_> {
    /// A pod gets an address: nobody else has it, it carries traffic, it has rested, and it is not set aside.
    pub fn check_grant(&mut self, name: usize, address: Ipv4Addr) {
        let (now, cool_down) = (self.now, self.machines[name].store.cool_down);
        let dropped = self.book.dropped.get(&address).copied();
        let others = self.names().filter(|other| *other != name && self.machines[*other].store.kernel.contains_key(&address)).count();
        if others > 0 && dropped.is_none() {
            self.trace.violated(|| format!("double: n{name} gives {address} to a pod, and another node's pod has it"));
        }
        let fabric = self.machines[name].late.min(4_000);
        if !self.nics[name].shown(now, fabric).there.contains(&address) && !self.is_excused(name, dropped) {
            self.trace.violated(|| format!("RE6: n{name} gives {address} to a pod, and it carries no traffic"));
        }
        let reset = self.book.reset_at.get(&name).copied().unwrap_or_default();
        let rested = self.book.rested.get(&address).filter(|(of, at)| *of == name && *at > reset);
        if rested.is_some_and(|(_, at)| now - at < cool_down) {
            self.trace.violated(|| format!("ST13: n{name} gives {address} to a pod before it has rested"));
        }
        if !self.machines[name].witnessed.contains(&address) {
            self.trace.violated(|| format!("RE5: n{name} gives {address} to a pod, and nobody confirmed it in this boot"));
        }
        if self.machines[name].store.disk.markers.contains_key(&address) {
            self.trace.violated(|| format!("ST6: n{name} gives {address} to a pod, and it is set aside"));
        }
    }

    /// Whether a node could not know yet that a foreign writer took an address away.
    fn is_excused(&self, name: usize, dropped: Option<Loss>) -> bool {
        let machine = &self.machines[name];
        let slow = machine.mute || machine.late > 4_000 || !machine.agent.alive || self.now < machine.deaf_until;
        let lately = |at: i64, within: i64| self.now - at.max(machine.undisturbed_since) < within;
        // Of a block that metadata does not show only a controller knows, by its reads of the NIC.
        let hidden = |loss: &Loss| loss.of_block && self.nics[loss.name].hides_blocks();
        // While Azure works on the NIC nothing is decided.
        let nic = |loss: &Loss| &self.nics[loss.name];
        let known = |loss: &Loss| loss.read.filter(|_| nic(loss).operation.is_none()).map(|(_, _, at)| at.max(nic(loss).done_at));
        let unread = |loss: &Loss| lately(loss.at, READ_AT_LAST) && known(loss).is_none_or(|at| lately(at, NOTICED));
        dropped.is_some_and(|loss| slow || lately(loss.at, NOTICED) || hidden(&loss) && unread(&loss))
    }

    /// A write leaves: it is the leader's, on a condition, recorded before, in time, and not against Azure's word.
    pub fn check_departure(&mut self, caller: Caller, write: &Write, send: &Send, object: &str, node: &NodeObject) {
        let (name, trace) = (caller.name, self.trace.clone());
        let replica = &self.replicas[caller.replica];
        if write.etag().is_none() {
            trace.violated(|| format!("I12: n{name}: PUT {} has no If-Match", send.intent));
        }
        if !self.server.intents.contains(&(object.to_owned(), send.intent)) {
            trace.violated(|| format!("I4: n{name}: PUT {} is sent and was never recorded", send.intent));
        }
        if !replica.leads(self.now) {
            trace.violated(|| format!("I6: n{name}: PUT {} is sent by one who does not lead", send.intent));
        }
        if replica.skew == 0 && time(self.now - SLACK) > send.not_after {
            trace.violated(|| format!("I6: n{name}: PUT {} is sent after its end", send.intent));
        }
        let refusal = self.book.refusals.get(&(caller.replica, caller.life, self.nics[name].subnet));
        let is_rash = |(at, passes): &(i64, u64)| caller.pass > *passes && self.now + SLACK < at + FULL;
        if !send.change.add.is_empty() && refusal.is_some_and(is_rash) {
            trace.violated(|| format!("A18: n{name}: PUT {} asks a subnet that was full a moment ago", send.intent));
        }
        if node.ready == Ready::Unknown || node.deleting {
            trace.violated(|| format!("UP1: n{name}: PUT {} for a node that gets nothing", send.intent));
        }
    }

    /// A pass wants to write: not before the time that Azure named to it.
    pub fn check_patience(&mut self, caller: Caller, send: &Send) {
        let gate = self.book.gates.get(&(caller.replica, caller.life, caller.name)).copied();
        if gate.is_some_and(|gate| self.now + SLACK < gate) && self.replicas[caller.replica].skew == 0 {
            self.trace.violated(|| format!("A1: n{}: PUT {} is sent before Azure allows it", caller.name, send.intent));
        }
    }

    /// What a controller remembers of a node is gone, and with it what Azure said there: the client's own gate is left.
    pub fn forget_gates(&mut self, replica: usize, of: Option<usize>) {
        self.book.gates.retain(|(one, _, name), _| *one != replica || of.is_some_and(|of| of != *name));
    }

    /// Azure asks for patience.
    pub fn gate(&mut self, caller: Caller, error: &Error) {
        if let Some(rest) = error.retry_after() {
            let until = self.now + i64::try_from(rest.as_millis()).unwrap_or_default();
            self.book.gates.insert((caller.replica, caller.life, caller.name), until);
        }
    }

    /// A write takes effect: only what was intended, and what goes is set aside on the node.
    pub fn check_landing(&mut self, flight: &Flight, effect: &Effect) {
        let (name, trace, id) = (flight.caller.name, self.trace.clone(), flight.send.intent);
        let change = &flight.send.change;
        if !effect.add.is_subset(&change.add) {
            trace.violated(|| format!("I4: n{name}: PUT {id} adds {:?}, not {:?}", effect.add, change.add));
        }
        let machine = &self.machines[name];
        for (slot, address) in &effect.remove {
            let Some(address) = *address else { continue };
            let at = self.nics[name].carried(*slot, address);
            if !change.remove.contains(&at) {
                trace.violated(|| format!("RE2: n{name}: PUT {id} removes {at}, which it does not name"));
            }
            // A new disk has offered nothing yet, and learns of this from the object that it adopts first.
            let aside =
                at.each().all(|at| machine.store.disk.markers.get(&at.address) == Some(&at)) || machine.store.disk.adopted.is_none();
            let quarantined = machine.store.quarantined();
            let running = !machine.on || !machine.store.run.sealed || at.each().all(|at| quarantined.contains(&at));
            if !aside || !running {
                trace.violated(|| format!("I2: n{name}: PUT {id} removes {at}, which is not set aside"));
            }
        }
        let present = self.nics[name].entries.len() + effect.add.len() + self.nics[name].foreign.len() + 1;
        if !effect.add.is_empty() && present > 256 + effect.remove.len() {
            trace.violated(|| format!("I8: n{name}: {present} IP configurations"));
        }
        let stored = self.server.objects.get(&name);
        let intent = stored.and_then(|object| object.status.as_ref()?.cloud.as_ref()?.intent.as_ref());
        let open = intent.is_some_and(|intent| intent.id == id)
            && stored.and_then(|object| object.metadata.uid.as_deref()) == Some(&flight.object);
        // That such a write lands after all does no harm: an addition is of the same slots over the same rest, and what a removal names still rests on the
        // node, which is looked at above.
        let early = self.book.early.contains(&(name, id));
        if !open && !early && self.book.restored.is_none() {
            trace.violated(|| format!("I11: n{name}: PUT {id} takes effect, and its intent is closed"));
        }
    }

    /// Addresses leave a NIC: no pod has them.
    pub fn check_gone(&mut self, name: usize, gone: &[Ipv4Addr]) {
        for address in gone {
            if self.machines[name].store.kernel.contains_key(address) {
                self.trace.violated(|| format!("released in use: n{name} loses {address}, which a pod has"));
            }
        }
    }

    /// A write is taken: nobody wrote since what it was decided on (safety rule RE1).
    pub fn check_ground(&mut self, caller: Caller, before: Option<&AzureVnetNode>, ground: Option<&ObjectMeta>) {
        let version = |metadata: &ObjectMeta| metadata.resource_version.clone();
        let (before, ground) = (before.and_then(|before| version(&before.metadata)), ground.and_then(version));
        if ground.is_some() && before != ground {
            self.trace.violated(|| format!("RE1: n{}: decided on version {ground:?}, and written over {before:?}", caller.name));
        }
    }

    /// A write is taken: it says something new (safety rule SC1).
    pub fn check_news(&mut self, name: usize, before: Option<&AzureVnetNode>, after: &AzureVnetNode) {
        self.trace.looked(Rule::Sc1);
        if before.is_some_and(|before| before.metadata.resource_version == after.metadata.resource_version) {
            self.trace.violated(|| format!("SC1: n{name}: what is stored is written again"));
        }
    }

    /// What is lost is remembered as long as a pod has it: its agent cuts that off (safety rule RE7).
    fn check_forgotten(&mut self, name: usize, before: &AzureVnetNode, after: &AzureVnetNode) {
        let machine = &self.machines[name];
        let is_same = self.server.nodes.get(&name).is_some_and(|node| node.uid == before.spec.node.uid);
        let (kept, listed) = (blocks::each(&after.spec.lost), blocks::each(&after.spec.addresses));
        let is_known = |at: &SlotAddress| kept.iter().chain(&listed).any(|known| known.address == at.address);
        for at in blocks::each(&before.spec.lost).into_iter().filter(|at| is_same && !is_known(at)) {
            self.trace.looked(Rule::Re7);
            if machine.on && machine.store.leases(at.address) {
                self.trace.violated(|| format!("RE7: n{name}: that {at} is lost is forgotten, and a pod has it"));
            }
        }
    }

    /// Releases leave what pods need: those that have an address, rest, or wait for one (safety rule UP5).
    fn check_need(&mut self, name: usize, outset: Outset, before: &AzureVnetNode, after: &AzureVnetNode) {
        let ids: BTreeSet<u64> = before.spec.release.iter().map(|release| release.id).collect();
        let is_new = after.spec.release.iter().any(|release| !ids.contains(&release.id));
        let Some(agent) = before.status.as_ref().and_then(|status| status.agent.as_ref()).filter(|_| is_new) else { return };
        self.trace.looked(Rule::Up5);
        let leaving: Vec<SlotAddress> = after.spec.release.iter().flat_map(|release| release.addresses.iter().copied()).collect();
        let left = blocks::each(&after.spec.addresses).len().saturating_sub(blocks::each(&leaving).len());
        let (Pool::Fixed(most) | Pool::Floating { max: most, .. }) = outset.pool;
        let room = 255_usize.saturating_sub(self.nics[name].foreign.len());
        if left < usize::from(agent.demand.min(most)).min(room) {
            self.trace.violated(|| format!("UP5: n{name}: {leaving:?} is asked back, {left} are left, and its pods need {}", agent.demand));
        }
    }

    /// A spec is stored.
    pub fn check_spec(&mut self, caller: Caller, outset: Outset, before: Option<&AzureVnetNode>, after: &AzureVnetNode) {
        let (trace, spec, name) = (self.trace.clone(), &after.spec, caller.name);
        let slots: BTreeSet<u8> = spec.addresses.iter().map(|at| at.slot).collect();
        let each = blocks::each(&spec.addresses);
        let addresses: BTreeSet<Ipv4Addr> = each.iter().map(|at| at.address).collect();
        if slots.len() != spec.addresses.len() || addresses.len() != each.len() {
            trace.violated(|| format!("RE2: n{name}: a slot or an address is listed twice: {:?}", spec.addresses));
        }
        self.book.published.insert(name, self.now);
        let Some(before) = before else { return };
        self.check_forgotten(name, before, after);
        self.check_need(name, outset, before, after);
        let before = &before.spec;
        if spec.revision <= before.revision && adoption::content(before) != adoption::content(spec) {
            trace.violated(|| format!("RE3: n{name}: other content in revision {}", spec.revision));
        }
        let ids: BTreeSet<u64> = before.release.iter().map(|release| release.id).collect();
        for release in spec.release.iter().filter(|release| !ids.contains(&release.id)) {
            self.check_new_release(caller, outset, release.id, release.addresses.len());
        }
        for at in spec.lost.iter().filter(|at| !before.lost.contains(at)) {
            if self.nics[name].kept().any(|(slot, address)| slot == at.slot && address == at.address) {
                trace.violated(|| format!("lost: n{name}: {at} is given up, and the NIC has it"));
            }
        }
    }

    /// A release is asked for (I9).
    fn check_new_release(&mut self, caller: Caller, outset: Outset, id: u64, many: usize) {
        let name = caller.name;
        self.book.asked.insert(name, self.now);
        self.book.asked_of.insert((name, id), self.book.reported.get(&name).copied().unwrap_or_default());
        self.check_leaving(caller, "release", id);
        if !outset.release.enabled {
            self.trace.violated(|| format!("K8: n{name}: release {id} is asked for, and no config says when"));
        }
        if self.book.restored.is_some() {
            return;
        }
        let calm = i64::try_from(outset.release.calm.as_millis()).unwrap_or_default();
        let restless = outset.restless;
        let skew = self.replicas.iter().map(|replica| replica.skew.abs()).max().unwrap_or_default();
        if self.now + SLACK + skew < restless + calm {
            self.trace
                .violated(|| format!("I9: n{name}: release {id} {} s after it joined or was uncordoned", (self.now - restless) / 1000));
        }
        if many > usize::from(outset.release.batch) {
            self.trace.violated(|| format!("I9: n{name}: release {id} names {many} addresses"));
        }
    }

    /// One that is asked to end begins nothing.
    fn check_leaving(&mut self, caller: Caller, what: &str, id: u64) {
        let one = self.replicas.get(caller.replica).filter(|one| one.life == caller.life);
        if one.and_then(|one| one.departing).is_some_and(|since| self.now - since > REQUEST) {
            self.trace.violated(|| format!("leaving: n{}: {what} {id} is begun by one that is asked to end", caller.name));
        }
    }

    /// An intent is closed. Whether its writes may still land is a question of clocks, which who closes it cannot know to differ.
    pub fn note_end(&mut self, replica: usize, name: usize, intent: &Intent) {
        let (Some(created), Some(end)) = (&intent.created_at, &intent.not_after) else { return };
        let Some(opened) = self.book.opened.get(&(name, intent.id)).copied() else { return };
        let millis = |duration: std::time::Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        let lives = end.0.as_millisecond() - created.0.as_millisecond();
        let grace = self.policy(name).map_or(0, |policy| millis(policy.grace));
        let behind = opened - (created.0.as_millisecond() - time(0).as_millisecond());
        if self.now < opened + lives + grace && self.replicas[replica].skew + behind > REQUEST {
            self.book.early.insert((name, intent.id));
        }
    }

    /// A status is stored: what a new intent may name.
    pub fn check_status(&mut self, caller: Caller, outset: Outset, before: Option<&AzureVnetNode>, after: &AzureVnetNode) {
        let (trace, name) = (self.trace.clone(), caller.name);
        let intent = |object: &AzureVnetNode| object.status.as_ref().and_then(|status| status.cloud.as_ref()?.intent.clone());
        let old = before.and_then(intent);
        if let Some(old) = old.as_ref().filter(|old| intent(after).is_none_or(|new| new.id != old.id)) {
            self.note_end(caller.replica, name, old);
        }
        let Some(new) = intent(after).filter(|new| old.as_ref() != Some(new)) else { return };
        if let Some(old) = &old {
            trace.violated(|| format!("I4: n{name}: intent {} replaces the open intent {}", new.id, old.id));
        }
        if new.not_after <= new.created_at {
            trace.violated(|| format!("I10: n{name}: intent {} has no end", new.id));
        }
        let known = after.spec.addresses.iter().chain(&after.spec.lost);
        let known: BTreeSet<u8> = known.map(|at| at.slot).collect();
        if new.add.iter().any(|slot| known.contains(slot)) {
            trace.violated(|| format!("I5: n{name}: intent {} adds {:?}, some of which are known", new.id, new.add));
        }
        let (Pool::Fixed(most) | Pool::Floating { max: most, .. }) = outset.pool;
        let (added, most) = (new.add.len() * usize::from(new.unit.size()), usize::from(new.unit.whole(most)));
        if new.op == IntentOp::Add && added > most {
            trace.violated(|| format!("I8: n{name}: intent {} adds {added} of at most {most}", new.id));
        }
        if old.as_ref().is_none_or(|old| old.id != new.id) {
            self.check_leaving(caller, "intent", new.id);
            self.check_want(name, &new);
            self.book.opened.insert((name, new.id), self.now);
        }
        self.check_word(name, &new, before);
        let asked_of = new.release_id.and_then(|release| self.book.asked_of.get(&(name, release)).copied());
        if asked_of.is_some_and(|disk| self.book.reported.get(&name) != Some(&disk)) {
            trace.violated(|| format!("ST9: n{name}: intent {} rests on the word of another disk", new.id));
        }
        let reset = self.book.reset_at.get(&name).copied().unwrap_or_default();
        for at in &new.remove {
            let store = &self.machines[name].store;
            let lists = |at: SlotAddress| store.disk.adopted.as_ref().is_some_and(|adopted| adopted.addresses.contains(&at));
            let unlisted = store.disk.adopted.is_some() && !at.each().any(lists);
            let marked = at.each().all(|at| store.disk.markers.get(&at.address) == Some(&at));
            let aside = marked || (new.release_id.is_none() && unlisted);
            if !aside && self.now - reset > 60_000 {
                trace.violated(|| format!("RE1: n{name}: intent {} removes {at}, which is not set aside", new.id));
            }
        }
        self.check_cordoned(name, after, &new);
    }

    /// A removal that was asked for rests on the word of this object's agent, in the boot that the object speaks of (I7).
    fn check_word(&mut self, name: usize, new: &Intent, before: Option<&AzureVnetNode>) {
        let Some(before) = before.filter(|_| new.release_id.is_some()) else { return };
        self.trace.looked(Rule::I7);
        let agent = before.status.as_ref().and_then(|status| status.agent.as_ref());
        let speaks = |agent: &Agent| before.metadata.uid.as_ref() == Some(&agent.object_uid) && agent.boot_id == before.spec.node.boot_id;
        if !agent.is_some_and(speaks) {
            self.trace.violated(|| format!("I7: n{name}: intent {} rests on the word of another boot or object", new.id));
        }
    }

    /// Who has an address has the one record of it (I1).
    fn check_records(&mut self, name: usize) {
        let machine = &self.machines[name];
        if !machine.on || machine.store.kernel.is_empty() {
            return;
        }
        self.trace.looked(Rule::I1);
        if let Some((address, pod)) = machine.store.kernel.iter().find(|(address, pod)| !machine.store.is_of(**address, pod)) {
            self.trace.violated(|| format!("I1: n{name}: {pod} has {address}, and the record of it is not its own"));
        }
    }

    /// A cordoned node gets what its pods need (safety rule UP1).
    fn check_cordoned(&mut self, name: usize, object: &AzureVnetNode, intent: &Intent) {
        let unit = usize::from(intent.unit.size());
        let added = intent.add.len() * unit;
        let since = self.book.cordoned.get(&name).copied();
        let long =
            since.is_some_and(|since| self.now - since > 120_000) && self.replicas.iter().all(|one| one.stalled_until < self.now - 60_000);
        let Some(agent) = object.status.as_ref().and_then(|status| status.agent.as_ref()).filter(|_| long && added > 0) else { return };
        let attached = self.nics[name].good().count();
        if attached + added > usize::from(agent.demand + agent.counts.quarantined) + unit - 1 {
            self.trace.violated(|| format!("UP1: n{name} is cordoned, has {attached} and gets {added} for {} pods", agent.demand));
        }
    }

    /// An object goes: no write of its intents may land any more (safety rule RE4).
    pub fn check_vanishing(&mut self, name: usize, object: &AzureVnetNode) {
        let Some(intent) = object.status.as_ref().and_then(|status| status.cloud.as_ref()?.intent.as_ref()) else { return };
        let (Some(begun), Some(end)) = (&intent.created_at, &intent.not_after) else { return };
        // It lives as long as it says, from when it was really opened.
        let opened = self.book.opened.get(&(name, intent.id)).copied().map_or(begun.0, time);
        let end = end.0.min(opened.saturating_add(end.0.duration_since(begun.0)).unwrap_or(end.0));
        let grace = self.policy(name).map_or(std::time::Duration::ZERO, |policy| policy.grace);
        let skew = self.replicas.iter().map(|replica| replica.skew.abs()).max().unwrap_or_default();
        if end.saturating_add(grace).unwrap_or(end) > time(self.now + SLACK + skew) {
            self.trace.violated(|| format!("RE4: n{name}: its object goes while a write may land"));
        }
    }

    /// An agent looked: its revision never falls (safety rule RE3).
    pub fn check_adoption(&mut self, name: usize) {
        self.check_records(name);
        let store = &self.machines[name].store;
        if let Some(adopted) = &store.disk.adopted {
            let highest = self.book.adopted.entry(store.disk.id.clone()).or_default();
            if adopted.revision < *highest {
                let (offered, highest) = (adopted.revision, *highest);
                self.trace.violated(|| format!("RE3: n{name} adopts revision {offered} after {highest}"));
            }
            *highest = adopted.revision.max(*highest);
        }
        let gives = |object: &AzureVnetNode| {
            let intent = object.status.as_ref().and_then(|status| status.cloud.as_ref()?.intent.as_ref());
            !object.spec.release.is_empty() || intent.is_some_and(|intent| !intent.remove.is_empty())
        };
        if self.machines[name].agent.object.as_ref().is_some_and(|object| gives(object)) {
            self.book.giving.insert(name, self.now);
        }
        let aside = store.set_aside();
        self.book.aside.retain(|(of, at), _| *of != name || aside.contains(at));
        for at in aside {
            self.book.aside.entry((name, at)).or_insert(self.now);
        }
    }

    /// Addresses come back into use: their probation is over, and no removal is on its way (safety rule RE8).
    pub fn check_withdrawn(&mut self, name: usize, withdrawn: &[SlotAddress]) {
        let probation = self.machines[name].agent.object.as_ref().map_or(0, |object| object.spec.effective.probation_seconds);
        let probation = i64::try_from(probation).unwrap_or_default() * 1000;
        for at in withdrawn {
            let since = self.book.aside.remove(&(name, *at)).unwrap_or(self.now);
            if self.now - since + SLACK < probation {
                self.trace.violated(|| format!("RE8: n{name}: {at} comes back after {} s", (self.now - since) / 1000));
            }
            let etag = self.nics[name].etag().to_string();
            let late = |flight: &Flight| {
                flight.caller.name == name
                    && flight.send.change.remove.iter().any(|leaving| leaving.slot == at.slot && leaving.contains(at.address))
                    && flight.write.etag().is_some_and(|of| of.trim_start_matches("W/").trim_matches('"') == etag)
            };
            if self.flights.values().any(late) {
                self.trace.violated(|| format!("RE8: n{name}: {at} comes back while its removal may land"));
            }
        }
    }
}
