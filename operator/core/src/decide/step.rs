//! One decision: first an open intent, then what the NIC shows, then what is missing or too much.

use std::{collections::BTreeSet, time::Duration};

use azure_vnet_crds::{
    AzureVnetNode, AzureVnetNodeSpec, AzureVnetNodeStatus,
    config::Mode,
    node::{Cloud, Intent, IntentOp, Machine, Release, SlotAddress},
};
use jiff::Timestamp;

use super::{
    Attempt, Decision, Event, Memory, NicRead, Observed, Planned, READ_EVERY, Send, addresses,
    agree::Age,
    begin, blocks, later, release, report, rest,
    settle::{self, Case, Origin, Settled},
    since,
    sizing::{self, Sizes},
    stamp, status,
};
use crate::{
    arm::{Class, Trace, Urgency},
    nic::{Change, State, View, runs},
    policy::Policy,
};

/// How long a wanted address must be missing before it is lost.
pub const MISSING: Duration = Duration::from_mins(1);
/// Between reads of a NIC that Azure works on.
const MOVING: Duration = Duration::from_secs(5);
/// The longest time between reads of one that Azure is done with though it does not show what was wanted.
const LAGGING: Duration = Duration::from_mins(5);
/// How long that lasts before it is told.
const DIFFERS: Duration = Duration::from_mins(2);
/// How often a write is sent that Azure takes without effect.
const TRIES: u32 = 3;
/// How long a NIC is left alone after that.
const IGNORED: Duration = Duration::from_mins(10);
/// How old a read may be that a removal is decided on.
const FRESH: Duration = Duration::from_mins(1);

/// What of a spec a decision changes by looking at the NIC and at the agent's answers.
#[derive(Clone, Debug, PartialEq)]
pub struct Lists {
    pub addresses: Vec<SlotAddress>,
    pub release: Vec<Release>,
    pub lost: Vec<SlotAddress>,
}

/// A decision in the making.
pub struct Step<'a> {
    pub observed: &'a Observed,
    pub stored: &'a AzureVnetNode,
    pub status: &'a AzureVnetNodeStatus,
    pub policy: &'a Policy,
    pub now: Timestamp,
    pub spec: Lists,
    pub cloud: Cloud,
    pub memory: Memory,
    pub out: Decision,
    /// Whether the time of the last read is to be written down though nothing else changed.
    pub note_read: bool,
    /// Whether the list was compared with the NIC.
    pub looked: bool,
}

impl<'a> Step<'a> {
    pub fn new(observed: &'a Observed, stored: &'a AzureVnetNode, policy: &'a Policy, now: Timestamp) -> Self {
        let status = status(stored);
        let cloud = status.cloud.clone().unwrap_or_default();
        let mut memory = observed.memory.clone();
        memory.calm_since.get_or_insert(now);
        // A cordon counts though it ends while something else is decided.
        memory.restless |= observed.node.cordoned;
        let ids = stored.spec.release.iter().map(|release| release.id).chain(cloud.intent.iter().map(|intent| intent.id));
        memory.last_id = ids.chain([cloud.last_id, memory.last_id]).max().unwrap_or_default();
        let AzureVnetNodeSpec { addresses, release, lost, .. } = &stored.spec;
        let spec = Lists { addresses: addresses.clone(), release: release.clone(), lost: lost.clone() };
        Self { observed, stored, status, policy, now, spec, cloud, memory, out: Decision::default(), note_read: false, looked: false }
    }

    pub fn decide(mut self) -> Decision {
        if let Some(last) = self.observed.last.as_ref() {
            let unknown = last.result.as_ref().is_err_and(|error| error.trace == Trace::Unknown);
            self.memory.unknown = last.intent.filter(|&id| unknown && id > self.memory.closed).or(self.memory.unknown);
        }
        begin::keep(&mut self);
        blocks::keep(&mut self);
        begin::watch(&mut self);
        match &self.observed.nic {
            Some(nic) => self.with_nic(nic),
            None => self.read(),
        }
        self.finish()
    }

    fn with_nic(&mut self, nic: &NicRead) {
        let lags = nic.view.state == State::Lagging;
        self.memory.lagging = lags.then(|| self.memory.lagging.unwrap_or(nic.at));
        if let Some(intent) = self.cloud.intent.clone() {
            return self.settle(&intent, nic);
        }
        let age = since(nic.ended, self.now);
        let left = rest::left(self, nic);
        if left.is_zero() || self.observed.last.as_ref().is_some_and(|last| last.intent.is_some() && last.at >= nic.at) {
            return self.read();
        }
        self.wake(left.min(READ_EVERY));
        match nic.view.state {
            State::Settled => {}
            State::Moving => return self.read_at_pace(age, MOVING),
            // Most catch up in seconds; what does not waits for somebody to see to it.
            State::Lagging => return self.read_at_pace(age, (self.lag() / 4).clamp(MOVING, LAGGING)),
        }
        let from = self.publish_from(&nic.view);
        if self.now < from {
            return self.wake(since(self.now, from));
        }
        // A NIC without our names has nothing to publish, and what is added rests on its being so still (I12).
        if nic.at < from && !nic.view.slots.is_empty() {
            return self.read();
        }
        self.take_over(nic, Age::Unknown);
        self.judge_releases(&nic.view);
        self.size(nic);
        self.end_probation(nic);
        blocks::read_again(self, nic);
    }

    fn lag(&self) -> Duration {
        self.memory.lagging.map_or(Duration::ZERO, |begun| since(begun, self.now))
    }

    /// Whether nothing that is under way explains that the NIC is not what the machine's model says.
    pub fn differs(&self) -> bool {
        self.cloud.intent.is_none() && self.lag() >= DIFFERS
    }

    /// Reads the NIC, unless Azure asked for patience or the last read failed a moment ago.
    pub fn read(&mut self) {
        let throttled = |last: &&Attempt| last.result.as_ref().is_err_and(|error| matches!(error.class, Class::Throttled { .. }));
        let hindrances = self.observed.read_failure.iter().chain(self.observed.last.iter().filter(throttled));
        match hindrances.filter_map(|last| self.rest(last)).max() {
            Some(rest) => self.wake(rest),
            None => self.out.read = true,
        }
    }

    pub fn read_at_pace(&mut self, age: Duration, pace: Duration) {
        if age < pace { self.wake(pace.saturating_sub(age)) } else { self.read() }
    }

    pub fn wake(&mut self, after: Duration) {
        let after = after.max(Duration::from_secs(1));
        self.out.wake = Some(self.out.wake.map_or(after, |wake| wake.min(after)));
    }

    /// What is left of the rest after a failed write.
    fn back_off(&self) -> Option<Duration> {
        let ignored = self.memory.ignored.and_then(|at| IGNORED.checked_sub(since(at, self.now))).filter(|rest| !rest.is_zero());
        let last = self.observed.last.as_ref().filter(|last| !begin::was_generous(self, last) && !blocks::was_denied(self, last));
        ignored.max(last.and_then(|last| self.rest(last)))
    }

    fn rest(&self, last: &Attempt) -> Option<Duration> {
        let error = last.result.as_ref().err()?;
        let rest = settle::back_off(error, last.failures).checked_sub(since(last.at, self.now))?;
        (!rest.is_zero()).then_some(rest)
    }

    fn settle(&mut self, intent: &Intent, nic: &NicRead) {
        let case = Case {
            intent,
            view: &nic.view,
            read_at: nic.at,
            read_ended: nic.ended,
            origin: self.origin(intent),
            seen: self.seen(intent),
            unknown: self.memory.unknown == Some(intent.id),
            last: self.observed.last.as_ref().filter(|last| last.intent == Some(intent.id)),
            grace: self.policy.grace,
            leaving: self.observed.leaving,
            now: self.now,
        };
        let arrived = intent.op == IntentOp::Add && nic.view.state == State::Settled && case.is_read_since();
        let (settled, not_after) = (case.settle(), case.ended());
        if arrived && !matches!(settled, Settled::Close { .. }) {
            self.publish_arrived(intent, &nic.view);
        }
        match settled {
            Settled::Read => self.read(),
            Settled::Wait(rest) => self.wake(rest),
            Settled::Send if self.is_ignored(intent) => {
                self.memory.ignored = Some(self.now);
                self.close(intent, false, nic);
            }
            // The next leader's to send.
            Settled::Send if self.observed.leaving => {}
            Settled::Send if self.is_held(intent.op) => self.hold(),
            Settled::Send if self.may_write() => self.out.send = Some(self.send(intent, &nic.view, not_after)),
            Settled::Send => {
                self.plan(settle::change(intent));
                self.wake(Duration::from_mins(1));
            }
            Settled::Close { complete } => self.close(intent, complete, nic),
        }
    }

    /// When this controller saw an intent first.
    fn seen(&mut self, intent: &Intent) -> Timestamp {
        let (_, seen) = *self.memory.seen.insert(self.memory.seen.filter(|(id, _)| *id == intent.id).unwrap_or((intent.id, self.now)));
        seen
    }

    fn origin(&self, intent: &Intent) -> Origin {
        match self.memory.opened {
            _ if intent.id <= self.memory.closed => Origin::Closed,
            opened if opened == intent.id => Origin::This,
            _ => Origin::Earlier,
        }
    }

    pub fn may_write(&self) -> bool {
        self.policy.mode == Mode::Enforce
    }

    /// Whether Azure took this very write several times, and the NIC shows nothing of it.
    fn is_ignored(&self, intent: &Intent) -> bool {
        let succeeded = self.observed.last.as_ref().is_some_and(|last| last.intent == Some(intent.id) && last.result.is_ok());
        let known = self.origin(intent) == Origin::This && self.memory.unknown != Some(intent.id);
        succeeded && self.memory.sends >= TRIES && known
    }

    /// Whether others of this node's full subnet are to ask first.
    fn is_held(&self, op: IntentOp) -> bool {
        op == IntentOp::Add && self.observed.held.is_some()
    }

    fn hold(&mut self) {
        if let Some(rest) = self.observed.held {
            self.wake(rest);
        }
    }

    /// Notes what would be sent.
    pub fn plan(&mut self, change: Change) {
        self.out.planned = Planned::Change(if change == Change::default() { change } else { self.sparing(change) });
    }

    /// The same without blocks that Azure failed to provision and that no list has: the body of a write would ask for them again.
    fn sparing(&self, change: Change) -> Change {
        let known: BTreeSet<u8> = self.spec.addresses.iter().chain(&self.spec.lost).map(|at| at.slot).collect();
        let blocks = self.observed.nic.iter().flat_map(|nic| nic.view.failed_blocks());
        let failed = blocks.filter(|slot| !known.contains(slot) && !change.add.contains(slot)).collect();
        Change { failed, ..change }
    }

    fn send(&mut self, intent: &Intent, view: &View, not_after: Timestamp) -> Send {
        self.memory.sends += 1;
        let starving = self.observed.agent().is_some_and(|agent| agent.counts.free == 0) || view.attached().next().is_none();
        let urgency = match intent.op {
            IntentOp::Remove => Urgency::Release,
            IntentOp::Add if starving => Urgency::Starving,
            IntentOp::Add => Urgency::Fill,
        };
        let generous = begin::is_generous(self, intent, view);
        self.memory.generous = Some(intent.id).filter(|_| generous).or(self.memory.generous);
        let blocks = intent.op == IntentOp::Add && !intent.unit.is_address();
        self.memory.asked_for_blocks = Some(intent.id).filter(|_| blocks).or(self.memory.asked_for_blocks);
        Send { intent: intent.id, change: self.sparing(settle::change(intent)), not_after, urgency, generous: generous || blocks }
    }

    /// Publishes what the NIC shows and closes the intent, in one decision: `spec` is written first, so a crash between repeats it.
    fn close(&mut self, intent: &Intent, complete: bool, nic: &NicRead) {
        let ignored = !complete && self.is_ignored(intent);
        match intent.op {
            IntentOp::Add => self.memory.calm_since = Some(self.now),
            IntentOp::Remove => {
                let gone = |at: &SlotAddress| !nic.view.shows(*at);
                let gone: BTreeSet<SlotAddress> = intent.remove.iter().copied().filter(gone).collect();
                self.spec.addresses.retain(|at| !gone.contains(at));
                self.spec.lost.retain(|at| !gone.contains(at));
                self.memory.removed.extend(gone.iter().map(|at| (*at, self.now)));
                for release in &mut self.spec.release {
                    release.addresses.retain(|at| !gone.contains(at));
                }
                if complete {
                    self.spec.release.retain(|release| !release.addresses.is_empty());
                } else {
                    // A closed release never acts again: what is left of it rests with the agent (safety rule RE8).
                    self.spec.release.retain(|release| Some(release.id) != intent.release_id);
                    self.cloud.surplus_since = None;
                    self.memory.calm_since = Some(self.now);
                }
            }
        }
        blocks::read_back(self, intent, &nic.view);
        if nic.view.state == State::Settled {
            let age = if complete && intent.op == IntentOp::Add { Age::AfterWrite } else { Age::Unknown };
            self.take_over(nic, age);
        }
        self.cloud.intent = None;
        self.memory.closed = self.memory.closed.max(intent.id);
        self.memory.unknown = None;
        let (added, removed) = (intent.add.len() * usize::from(intent.unit.size()), addresses(&intent.remove));
        let (reason, warning, verb) = match (intent.op, complete) {
            (IntentOp::Add, true) => ("AddressesAttached", false, format!("attached {added} addresses: {}", names(intent))),
            (IntentOp::Remove, true) => ("AddressesReleased", false, format!("gave {removed} addresses back")),
            (IntentOp::Add, false) => ("AttachFailed", true, format!("could not attach {added} addresses")),
            (IntentOp::Remove, false) => ("ReleaseFailed", true, format!("could not give {removed} addresses back")),
        };
        if self.observed.leaving && intent.op == IntentOp::Remove && !complete {
            // It is taken back, and its successor begins anew.
            return;
        }
        let last = self.observed.last.as_ref().filter(|last| last.intent == Some(intent.id) && !complete);
        let error = last.and_then(|last| last.result.as_ref().err());
        let message = error.map_or_else(|| verb.clone(), |error| format!("{verb}: {error}. {}", error.remedy()));
        if ignored {
            let message = format!(
                "{message}: Azure took the write {TRIES} times without effect. Find who else writes to this NIC or scale set instance."
            );
            self.out.events.push(Event { reason: "UpdateIgnored", message, warning: true });
            return;
        }
        self.out.events.push(Event { reason, message, warning });
    }

    /// Before this nothing is published: where the NIC had our names when this object was made, an intent of an object before it may be open that
    /// nobody remembers (safety rule RE4).
    fn publish_from(&mut self, view: &View) -> Timestamp {
        if self.stored.spec.revision > 0 {
            return Timestamp::MIN;
        }
        let rest = if view.slots.is_empty() { Duration::ZERO } else { self.policy.intent_ttl + self.policy.grace };
        self.cloud.publish_from.get_or_insert(stamp(later(self.created(), rest))).0
    }

    fn created(&self) -> Timestamp {
        self.stored.metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |at| at.0)
    }

    /// Whether the node adopted more than the object says (safety rule RE3): an older state of the API server came back.
    pub fn regressed(&self) -> bool {
        let Some(agent) = &self.status.agent else { return false };
        let refuses = self.status.conditions.iter().any(|condition| condition.reason == "RevisionRegressed" && condition.status == "False");
        agent.revision_adopted > self.stored.spec.revision || (refuses && agent.revision_adopted == self.stored.spec.revision)
    }

    fn size(&mut self, nic: &NicRead) {
        let sizes = Sizes::of(self, &nic.view);
        sizing::keep_time(self, &sizes);
        if self.published_differs() || self.observed.leaving {
            return;
        }
        self.out.planned = Planned::Nothing;
        let listed = |at: &SlotAddress| self.spec.addresses.contains(at);
        if nic.view.dropped().any(|at| listed(&at)) {
            // Any write would take it from its pod; it is lost in a minute, or the model names it again.
            return;
        }
        let busy = !self.spec.release.is_empty();
        if sizes.holding < sizes.target && busy {
            // Demand is back: what was to go stays (it rests with the agent, safety rule RE8).
            self.spec.release.clear();
            self.memory.releases.clear();
        } else if sizes.holding < sizes.target {
            self.add(&sizes, &nic.view);
        } else if let Some(acknowledged) = release::acknowledged(self.observed, &self.spec.release, &nic.view) {
            let (release, addresses) = acknowledged;
            self.remove(Some(release), addresses, nic);
        } else if let Some(rest) = self.half_removed(&nic.view) {
            self.remove(None, rest, nic);
        } else if !busy {
            sizing::release_when_due(self, &sizes, &nic.view);
        }
    }

    /// Whether the agent is to be told something first. Intents are opened only on what is stored.
    fn published_differs(&self) -> bool {
        self.content_differs() || self.regressed()
    }

    fn content_differs(&self) -> bool {
        let (new, old) = (&self.spec, &self.stored.spec);
        (&new.addresses, &new.release, &new.lost) != (&old.addresses, &old.release, &old.lost)
    }

    /// Whether the machine or the config is another than is stored.
    fn setting_differs(&self) -> bool {
        let (stored, policy) = (&self.stored.spec, self.policy);
        (&stored.node, &stored.config, &stored.effective) != (&*self.observed.machine, &policy.config, &policy.effective)
    }

    fn spec_of(&self, revision: u64) -> AzureVnetNodeSpec {
        let Lists { addresses, release, lost } = self.spec.clone();
        let (node, config, effective) = (Machine::clone(&self.observed.machine), self.policy.config.clone(), self.policy.effective.clone());
        AzureVnetNodeSpec { node, revision, config, effective, addresses, release, lost }
    }

    /// Whether a new node has nothing to wait for: an empty pool is one too, without which its agent would never start to serve it (safety rule UP1).
    /// One that lacks addresses begins so only in a full subnet, which is marked on it, or, where the config has conditions only, told by them. Whatever
    /// else is in the way, pods had better stay off until it has some. In mode Plan nothing begins.
    fn begins_empty(&self) -> bool {
        let new = self.stored.spec.revision == 0 && self.cloud.intent.is_none() && self.policy.mode != Mode::Plan && !self.observed.leaving;
        let content = |nic: &NicRead| {
            let sizes = Sizes::of(self, &nic.view);
            sizes.holding >= sizes.target
        };
        new && (self.observed.nic.as_ref().is_some_and(content) || (self.may_write() && sizing::is_exhausted(self)))
    }

    fn add(&mut self, sizes: &Sizes, view: &View) {
        let (slots, unit) = (sizing::slots(&self.spec, view, sizes), sizes.unit);
        if !self.may_write() {
            return self.plan(Change { add: slots.into_iter().collect(), unit, ..Change::default() });
        }
        if let Some(rest) = self.back_off() {
            return self.wake(rest);
        }
        if self.is_held(IntentOp::Add) {
            return self.hold();
        }
        if !slots.is_empty() {
            begin::freeze(self, sizes);
            self.open(Intent { op: IntentOp::Add, add: slots, unit, ..Intent::default() }, view);
        }
    }

    /// What a removal left on the NIC when it failed half way. The model has dropped it, no pod can have it, and nothing but a write ends it.
    fn half_removed(&self, view: &View) -> Option<Vec<SlotAddress>> {
        let heard = self.observed.agent().is_some_and(|agent| agent.revision_adopted >= self.stored.spec.revision);
        let rest: Vec<SlotAddress> = view.dropped().filter(|at| !self.spec.lost.contains(at)).collect();
        (heard && !rest.is_empty()).then_some(rest)
    }

    /// Opens a removal on a fresh look at the NIC: of what is set aside (safety rule RE1), or the rest of one that failed half way.
    fn remove(&mut self, release_id: Option<u64>, remove: Vec<SlotAddress>, nic: &NicRead) {
        if !self.may_write() {
            return self.plan(Change { remove: remove.into_iter().collect(), ..Change::default() });
        }
        if let Some(rest) = self.back_off() {
            return self.wake(rest);
        }
        if since(nic.ended, self.now) > FRESH {
            return self.read();
        }
        self.open(Intent { op: IntentOp::Remove, remove, release_id, ..Intent::default() }, &nic.view);
    }

    fn open(&mut self, intent: Intent, view: &View) {
        self.memory.sends = 0;
        self.memory.opened = self.next_id();
        let not_after = stamp(later(self.now, self.policy.intent_ttl));
        let intent = Intent {
            id: self.memory.opened,
            leader: self.observed.me.identity.clone(),
            created_at: Some(stamp(self.now)),
            not_after: Some(not_after.clone()),
            ..intent
        };
        self.out.send = Some(self.send(&intent, view, not_after.0));
        self.cloud.intent = Some(intent);
    }

    pub fn next_id(&mut self) -> u64 {
        self.memory.last_id += 1;
        self.cloud.last_id = self.memory.last_id;
        self.memory.last_id
    }

    /// Writes only what differs.
    fn finish(mut self) -> Decision {
        let reported = self.status.agent.as_ref().map_or(0, |agent| agent.revision_adopted);
        let stored = &self.stored.spec;
        let differs = self.content_differs() || self.setting_differs();
        let content = self.content_differs() || (self.looked && (self.regressed() || self.begins_empty()));
        let raised = content || (differs && stored.revision > 0);
        if differs || raised {
            let revision = if raised { stored.revision.max(reported) + 1 } else { stored.revision };
            self.out.spec = Some(self.spec_of(revision));
            self.out.wake = None;
        }
        report::write(&mut self);
        if self.policy.mode != Mode::Plan || self.out.planned == Planned::Change(Change::default()) {
            self.out.planned = Planned::Nothing;
        }
        self.out.memory = self.memory;
        self.out
    }
}

/// The IP configurations of a write that adds some, and which write that was: who asks how a pod came to its address looks for these.
fn names(intent: &Intent) -> String {
    let since = intent.created_at.as_ref().map(|at| format!(" of {}", at.0)).unwrap_or_default();
    format!("{} (write {}{since})", runs(&intent.add), intent.id)
}
