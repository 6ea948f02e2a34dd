//! Makes the list of addresses agree with what the NIC shows.

use std::collections::BTreeSet;

use azure_vnet_crds::node::{Intent, SlotAddress, Unit};

use super::{
    Event, NicRead, since,
    step::{MISSING, Step},
};
use crate::nic::{Slot, View};

/// How old an answer may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Age {
    /// It may be older than the last write.
    Unknown,
    /// It shows the effect of the last write.
    AfterWrite,
}

impl Step<'_> {
    /// Publishes what of an addition is there, while the rest of it is not (A10).
    pub fn publish_arrived(&mut self, intent: &Intent, view: &View) {
        let there = intent.add.iter().filter_map(|&slot| view.at(slot));
        let new: Vec<SlotAddress> =
            there.filter(|at| !is_known(&self.spec.addresses, *at) && !self.memory.removed.contains_key(at)).collect();
        self.spec.lost.retain(|lost| !new.iter().any(|at| at.covers(*lost)));
        self.spec.addresses.extend(new);
        self.spec.addresses.sort();
    }

    /// Makes the list agree with the NIC: takes in what is attached, and gives up what is missing for long enough.
    pub fn take_over(&mut self, nic: &NicRead, age: Age) {
        self.looked = true;
        let attached: BTreeSet<SlotAddress> = nic.view.attached().collect();
        let missing = self.missing(&nic.view);
        self.memory.missing.retain(|at, _| missing.contains(at));
        let sure = age == Age::AfterWrite || self.regressed();
        let mut lost = vec![];
        for at in missing {
            let first = *self.memory.missing.entry(at).or_insert(nic.at);
            if sure || since(first, nic.at) >= MISSING {
                lost.push(at);
            } else if since(first, self.now) >= MISSING {
                self.read();
            } else {
                self.wake(MISSING.saturating_sub(since(first, self.now)));
            }
        }
        self.give_up(&lost);
        // What was just removed comes back only if a later read shows it still: a single answer may be old.
        self.memory.removed.retain(|_, at| since(*at, nic.at) < MISSING);
        let removed = self.memory.removed.clone();
        let (new, back): (Vec<SlotAddress>, Vec<SlotAddress>) =
            attached.into_iter().filter(|at| !is_known(&self.spec.addresses, *at)).partition(|at| !removed.contains_key(at));
        if !back.is_empty() {
            self.read_at_pace(since(nic.ended, self.now), MISSING);
        }
        self.spec.lost.retain(|lost| !new.iter().any(|at| at.covers(*lost)));
        self.spec.addresses.extend(new);
        self.spec.addresses.sort();
        self.forget_lost();
    }

    /// What is listed and not on the NIC. What the machine's model has dropped goes with the next write: pods must not rest on it.
    pub fn missing(&self, view: &View) -> BTreeSet<SlotAddress> {
        let on_its_way = |at: &SlotAddress| matches!(view.slots.get(&at.slot), Some(Slot::Provisioning(_) | Slot::Failed(_)));
        self.spec.addresses.iter().copied().filter(|at| !view.shows(*at) && !on_its_way(at)).collect()
    }

    fn give_up(&mut self, lost: &[SlotAddress]) {
        for at in lost {
            self.memory.missing.remove(at);
            let message = format!(
                "slot {} with {} vanished from the NIC; pods that hold it carry no traffic: delete them, and find who else writes to the NIC",
                at.slot,
                carried(*at)
            );
            self.out.events.push(Event { reason: "AddressLost", message, warning: true });
        }
        self.spec.addresses.retain(|at| !lost.contains(at));
        self.spec.lost.extend(lost);
        self.spec.lost.sort();
        self.spec.lost.dedup();
        for release in &mut self.spec.release {
            release.addresses.retain(|at| !lost.contains(at));
        }
        self.spec.release.retain(|release| !release.addresses.is_empty());
    }

    /// A lost address is remembered until the agent, which knows that it is lost, says that no pod holds it: of a block each by itself, since Azure may give
    /// the others to this node anew.
    fn forget_lost(&mut self) {
        let Some(agent) = self.observed.agent().filter(|agent| agent.revision_adopted >= self.stored.spec.revision) else { return };
        let stored = &self.stored.spec.lost;
        let (known, newer): (Vec<SlotAddress>, Vec<SlotAddress>) = self.spec.lost.iter().partition(|at| stored.contains(at));
        let held = agent.lost_in_use.iter().filter(|held| known.iter().any(|at| at.covers(**held)));
        self.spec.lost = newer.into_iter().chain(held.copied()).collect();
        self.spec.lost.sort();
        self.spec.lost.dedup();
    }
}

/// What a slot carries, for people.
fn carried(at: SlotAddress) -> String {
    match at.unit {
        Unit::Address => format!("address {}", at.address),
        Unit::Block28 => format!("block {}/28", at.address),
    }
}

fn is_known(list: &[SlotAddress], at: SlotAddress) -> bool {
    list.iter().any(|known| known.slot == at.slot || known.meets(at))
}
