//! What is missing and what is too much.

use std::{collections::BTreeSet, time::Duration};

use azure_vnet_crds::node::{Agent, Release, SlotAddress, Unit};

use super::{
    Asked, Event, InVain, Ready, addresses, begin, blocks, releasing, since, stamp,
    step::{Lists, Step},
};
use crate::{
    arm::Class,
    nic::{Change, Slot, View},
    size::{self, Need},
};

/// The longest that is waited before all is asked for again that was refused.
const LONGEST_REST: Duration = Duration::from_hours(6);
/// How long a full subnet counts as full.
const EXHAUSTED: Duration = Duration::from_mins(10);

/// The numbers of one node.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// On the NIC or on their way to it, without those on their way back.
    pub holding: u16,
    /// What the node should hold.
    pub target: u16,
    /// The same if it were not new.
    pub usual: u16,
    /// In use, or kept from pods.
    pub used: u16,
    /// The most it can hold.
    pub cap: u16,
    /// What an addition asks for.
    pub unit: Unit,
    /// What may go: nothing where each slot carries more than is too much.
    pub surplus: u16,
    /// From which surplus on something goes: the step of the pool, or anything as long as slots of another unit are among it.
    pub least: u16,
}

impl Sizes {
    pub fn of(step: &Step<'_>, view: &View) -> Self {
        let leaving = releasing(&step.spec.release);
        let present = || view.slots.values().filter(|state| !matches!(state, Slot::Failed(_) | Slot::Dropped(..)));
        let carried = present().fold(0_u16, |sum, state| sum.saturating_add(state.unit().size()));
        let used = step.observed.agent().map_or(0, |agent| size::used(agent, step.stored.spec.revision, addresses(&leaving)));
        let used = used.saturating_add(size::kept_from_pods(&step.stored.spec));
        let exhausted = is_exhausted(step);
        let (pool, unit) = (step.policy.pool, blocks::unit(step));
        let room = size::room(view.room(), count(present().count()), carried, unit);
        let holding = carried.saturating_sub(addresses(leaving.iter().filter(|at| view.shows(**at))));
        let need = Need { used, room, exhausted, cordoned: step.observed.node.cordoned, holding, free: step.observed.free, unit };
        let (target, usual) = pool.sizes(begin::first(step), need);
        let wanted = blocks::wanted(step);
        let units = view.attached().filter(|at| !leaving.contains(at)).map(|at| at.unit);
        let (surplus, least) = size::surplus(units, holding.saturating_sub(target), wanted, pool.step(exhausted));
        Self { holding, target, usual, used, cap: unit.whole(pool.most()).min(room), unit, surplus, least }
    }
}

/// Whether the subnet has no address left: it had none for what this node usually holds.
pub fn is_exhausted(step: &Step<'_>) -> bool {
    let full = |last: &super::Attempt| {
        is_full(last) && since(last.at, step.now) < EXHAUSTED && !begin::was_generous(step, last) && !blocks::was_denied(step, last)
    };
    step.observed.exhausted || step.observed.last.as_ref().is_some_and(full)
}

/// Whether Azure had no room in the subnet for a write.
pub fn is_full(last: &super::Attempt) -> bool {
    last.result.as_ref().is_err_and(|error| error.class == Class::SubnetFull)
}

/// Keeps since when there is a surplus, and since when no reason for calm was seen. A controller that does not know how the node fared before its
/// own first look begins the calm there (I9).
pub fn keep_time(step: &mut Step<'_>, sizes: &Sizes) {
    let now = step.now;
    let restless = sizes.holding < sizes.target || step.observed.node.cordoned;
    if restless || step.memory.restless {
        step.memory.calm_since = Some(now);
    }
    step.memory.restless = restless;
    let surplus = sizes.surplus >= sizes.least && sizes.surplus > 0 && step.observed.agent().is_some() && !step.observed.node.cordoned;
    if !surplus {
        step.cloud.surplus_since = None;
        // What is asked for is no surplus, and may be one again.
        step.memory.in_vain = step.memory.in_vain.filter(|_| !step.spec.release.is_empty());
    } else if step.cloud.surplus_since.as_ref().is_none_or(|since| since.0 > now) {
        step.cloud.surplus_since = Some(stamp(now));
    }
}

/// Asks the agent to set aside what has been too much for long enough.
pub fn release_when_due(step: &mut Step<'_>, sizes: &Sizes, view: &View) {
    let policy = step.policy.release;
    let Some(begun) = step.cloud.surplus_since.as_ref().map(|at| at.0) else { return };
    let Some(agent) = step.observed.agent() else { return };
    let calm = step.observed.node.ready == Ready::True && agent.revision_adopted >= step.stored.spec.revision;
    if !policy.enabled || !calm {
        return;
    }
    let patience = patience(step, agent);
    let jitter = policy.after * u32::from(policy.jitter_percent) / 100 * spread(&step.observed.node.uid) / 1000;
    let calm_since = step.memory.calm_since.unwrap_or(step.now);
    let rest = (patience + jitter).saturating_sub(since(begun, step.now)).max(policy.calm.saturating_sub(since(calm_since, step.now)));
    if !rest.is_zero() {
        return step.wake(rest);
    }
    if !has_idle(step, agent) {
        // To ask would be in vain; its next report makes the node due.
        return;
    }
    let candidates = candidates(step, sizes, view);
    if !step.may_write() {
        return step.plan(Change { remove: candidates.into_iter().collect(), ..Change::default() });
    }
    if candidates.is_empty() {
        // All of them are in use: they are asked for again when the surplus has lasted once more.
        step.memory.refused.clear();
        let rounds = step.memory.in_vain.map_or(0, |known| known.rounds);
        step.memory.in_vain = Some(InVain { rounds: rounds.saturating_add(1), used: in_use(agent) });
        step.cloud.surplus_since = Some(stamp(step.now));
        return;
    }
    let store = agent.store_id.clone();
    let id = step.next_id();
    let nonce = step.observed.me.nonce.clone();
    step.memory.releases.insert(id, Asked { nonce: nonce.clone(), store, at: step.now });
    let message = format!("asking the agent to set {} idle addresses aside", addresses(&candidates));
    step.out.events.push(Event { reason: "ReleaseRequested", message, warning: false });
    step.spec.release.push(Release { id, nonce, addresses: candidates });
}

/// How long a surplus has to last: twice as long after each round in vain, as long as nothing can have become idle since. A single address that is idle shows in
/// the agent's counts; that all of a block are does not.
fn patience(step: &mut Step<'_>, agent: &Agent) -> Duration {
    let used = in_use(agent);
    step.memory.in_vain = step.memory.in_vain.filter(|known| used >= known.used).map(|known| InVain { used, ..known });
    let rounds = step.memory.in_vain.map_or(0, |known| known.rounds.saturating_sub(1));
    step.policy.release.after.saturating_mul(2_u32.saturating_pow(rounds)).min(LONGEST_REST.max(step.policy.release.after))
}

fn in_use(agent: &Agent) -> u16 {
    agent.counts.assigned.saturating_add(agent.counts.cooling)
}

/// What to ask for: nothing that the agent refused lately.
fn candidates(step: &Step<'_>, sizes: &Sizes, view: &View) -> Vec<SlotAddress> {
    let is_candidate = |at: &&SlotAddress| view.shows(**at) && !step.memory.refused.contains(at);
    let all = step.spec.addresses.iter().filter(is_candidate).copied().collect();
    size::candidates(all, blocks::wanted(step), sizes.surplus, step.policy.release.batch)
}

/// Whether the agent knows of an address that it could set aside: one that is listed, and neither leased nor set aside already.
fn has_idle(step: &Step<'_>, agent: &Agent) -> bool {
    let counts = &agent.counts;
    let leased = usize::from(counts.assigned).saturating_sub(agent.lost_in_use.len());
    let withheld = usize::from(addresses(&step.spec.addresses)) > leased.saturating_add(counts.quarantined.into());
    counts.free > 0 || counts.cooling > 0 || withheld
}

/// Slots for what is missing: those that Azure failed to provision or to take away, then the lowest that neither the NIC nor the object knows (I5). Where
/// single addresses are asked for, all of the blocks that it failed to provision: as long as they stand, every write asks for them too.
pub fn slots(spec: &Lists, view: &View, sizes: &Sizes) -> Vec<u8> {
    let wanted = usize::from(sizes.target.saturating_sub(sizes.holding).div_ceil(sizes.unit.size()));
    let known: BTreeSet<u8> = spec.addresses.iter().chain(&spec.lost).map(|at| at.slot).collect();
    let failed = |(slot, state): &(&u8, &Slot)| matches!(state, Slot::Failed(_) | Slot::Dropped(..)) && !known.contains(*slot);
    let other = |state: &Slot| sizes.unit.is_address() && *state == Slot::Failed(Unit::Block28);
    let (others, alike): (Vec<_>, Vec<_>) = view.slots.iter().filter(failed).partition(|(_, state)| other(state));
    let room = usize::from(view.room()).saturating_sub(view.slots.len());
    let free = (1..=u8::MAX).filter(|slot| !view.slots.contains_key(slot) && !known.contains(slot)).take(room);
    let all = others.iter().chain(&alike).map(|(slot, _)| **slot).chain(free);
    let mut slots: Vec<u8> = all.take(wanted.max(others.len())).collect();
    slots.sort_unstable();
    slots
}

/// A node's place in the spread, 0 to 999: the same every time.
pub fn spread(uid: &str) -> u32 {
    uid.bytes().fold(0x811c_9dc5, |hash: u32, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)) % 1000
}

fn count(n: usize) -> u16 {
    u16::try_from(n).unwrap_or(u16::MAX)
}
