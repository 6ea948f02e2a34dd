//! What must hold once the storms are over: what is begun comes to its end, every pod runs, and every pool is as it should be.

use std::{collections::BTreeSet, net::Ipv4Addr};

use azure_vnet_crds::{
    config::Mode,
    node::{Intent, SlotAddress, Unit},
};
use azure_vnet_operator_core::{blocks, policy::Pool};

use crate::{controller::time, world::World};

/// By when a probation that is over is seen to be over: the next time the NIC is read, which an idle node's is every ten minutes.
const READ: i64 = 660_000;
/// How long an intent is open where nothing goes wrong.
const OPEN: i64 = 60_000;
/// How often the same may be begun in a row once the storms are over: a controller or an agent may still be held up.
const AGAIN: u32 = 2;
/// How many additions a node whose pods become fewer may need.
const ADDITIONS: u32 = 10;
/// By when pods may have what is published: metadata has shown it by then, or the NIC was read again.
const OFFERED: i64 = 300_000;
/// How long an agent takes to adopt what is published.
const ADOPTED: i64 = 10_000;

/// What a node's last intent of the calm asked for, how many in a row asked for just that, and how many asked for more addresses.
#[derive(Debug, Default)]
pub struct Want {
    add: Vec<u8>,
    unit: Unit,
    remove: Vec<SlotAddress>,
    times: u32,
    adds: u32,
}

impl Want {
    /// Takes note of one more intent.
    fn note(&mut self, intent: &Intent) {
        let same = self.add == intent.add && self.unit == intent.unit && self.remove == intent.remove;
        let times = if same { self.times + 1 } else { 1 };
        let adds = self.adds + u32::from(!intent.add.is_empty());
        *self = Self { add: intent.add.clone(), unit: intent.unit, remove: intent.remove.clone(), times, adds };
    }

    /// Whether they lead nowhere.
    fn is_endless(&self) -> bool {
        self.times > AGAIN || self.adds > ADDITIONS
    }
}

impl World<'_> {
    /// Once the storms are over, what is begun comes to its end: nothing is begun over and over.
    pub fn check_want(&mut self, name: usize, intent: &Intent) {
        let room = match intent.unit {
            Unit::Address => self.subnets[self.nics[name].subnet].holds(0, intent.add.len()),
            Unit::Block28 => self.subnets[self.nics[name].subnet].holds(intent.add.len(), 0),
        };
        if !self.calm || !room {
            return;
        }
        let want = self.book.wants.entry(name).or_default();
        want.note(intent);
        if want.is_endless() {
            let (times, adds) = (want.times, want.adds);
            self.trace
                .violated(|| format!("progress: n{name}: intent {} is the {times}th for the same, and one of {adds} additions", intent.id));
        }
    }

    /// Once the storms are over: every pod runs, every pool is as it should be, and nothing is left open.
    pub fn check_rest(&mut self) {
        for name in self.names() {
            let trouble = self.unrest(name);
            if let Some(trouble) = trouble {
                self.trace.violated(|| format!("progress: n{name}: {trouble}"));
            }
        }
    }

    fn unrest(&self, name: usize) -> Option<String> {
        let machine = &self.machines[name];
        let Some(object) = self.server.objects.get(&name) else {
            return (self.server.nodes.contains_key(&name) && self.policy(name).is_some()).then(|| "it has no object".to_owned());
        };
        if !self.server.nodes.contains_key(&name) {
            return Some("its object outlives it".into());
        }
        let cloud = object.status.as_ref().and_then(|status| status.cloud.as_ref())?;
        let spec = &object.spec;
        if let Some(intent) = &cloud.intent {
            let lately = self.book.opened.get(&(name, intent.id)).is_some_and(|at| self.now - at < OPEN);
            return (!lately).then(|| format!("intent {} is open", intent.id));
        }
        let adopted = machine.store.disk.adopted.as_ref().map_or(0, |adopted| adopted.revision);
        let lately = self.book.published.get(&name).is_some_and(|at| self.now - at < ADOPTED);
        if adopted != spec.revision && !lately {
            return Some(format!("revision {adopted} is adopted, {} is published", spec.revision));
        }
        let listed: BTreeSet<(u8, Ipv4Addr)> = blocks::each(&spec.addresses).iter().map(|at| (at.slot, at.address)).collect();
        let good: BTreeSet<(u8, Ipv4Addr)> = self.nics[name].good().collect();
        if listed != good {
            return Some(format!("the object lists {listed:?}, the NIC has {good:?}"));
        }
        if let Some(trouble) = self.withheld(name, &listed) {
            return Some(trouble);
        }
        let policy = self.policy(name).filter(|policy| policy.mode == Mode::Enforce)?;
        let (holding, target) = (good.len(), usize::from(cloud.target));
        if holding < target && !self.subnets[self.nics[name].subnet].free.is_empty() {
            return Some(format!("it holds {holding} of {target}"));
        }
        let demand = usize::from(object.status.as_ref()?.agent.as_ref()?.demand);
        let most = match policy.pool {
            Pool::Fixed(most) | Pool::Floating { max: most, .. } => usize::from(most),
        };
        let most = most.min(255 - self.nics[name].foreign.len());
        if target < demand.min(most) {
            return Some(format!("its pods need {demand}, and it is to hold {target}"));
        }
        let starving = machine.pods.values().filter(|pod| pod.address.is_none() && !pod.shown.finished).count();
        if starving > 0 && demand <= most.min(target) && !self.subnets[self.nics[name].subnet].free.is_empty() {
            return Some(format!("{starving} pods wait for an address"));
        }
        let step = usize::from(policy.pool.step(false));
        // A block that Azure once did not give may come an hour later, beside what took its place.
        let since = cloud.surplus_since.as_ref().is_some_and(|since| since.0 > time(self.now - 1_800_000));
        let lately = since || self.book.asked.get(&name).is_some_and(|at| self.now - at < 1_800_000);
        let (quarantined, over) = (machine.store.quarantined(), holding.saturating_sub(target));
        let is_idle = |at: SlotAddress| !machine.store.leases(at.address) && !quarantined.contains(&at);
        let idle = spec.addresses.iter().any(|at| usize::from(at.unit.size()) <= over && at.each().all(is_idle));
        if policy.release.enabled && holding >= target + step && idle && spec.release.is_empty() && !lately {
            return Some(format!("it holds {holding}, {target} would do, and gives nothing back"));
        }
        let aside = machine.store.set_aside().len();
        let probation = i64::try_from(spec.effective.probation_seconds).unwrap_or_default() * 1000;
        let rests = self.book.giving.get(&name).is_some_and(|at| self.now - at < probation + READ);
        // A leader whose clock was ahead has dated a read that no other is later than before that time has come.
        let dated_ahead = machine.agent.awaits_later_than(time(self.now - READ));
        if spec.release.is_empty() && aside > 0 && !rests && !dated_ahead {
            return Some(format!("{aside} addresses stay set aside"));
        }
        None
    }
    /// Pods may have what is on the NIC, but for what goes back.
    fn withheld(&self, name: usize, listed: &BTreeSet<(u8, Ipv4Addr)>) -> Option<String> {
        let machine = &self.machines[name];
        let spec = &self.server.objects.get(&name)?.spec;
        let since = self.book.published.get(&name).copied().unwrap_or_default().max(machine.undisturbed_since);
        let pool =
            machine.store.run.pool.as_ref().filter(|_| machine.agent.alive && spec.release.is_empty() && self.now - since > OFFERED)?;
        // What was lost and came again is withheld as long as a pod of before has it.
        let lost = blocks::each(&spec.lost);
        let aside: BTreeSet<Ipv4Addr> = machine.store.set_aside().iter().chain(&lost).map(|at| at.address).collect();
        let withheld: Vec<Ipv4Addr> =
            listed.iter().map(|(_, address)| *address).filter(|address| !pool.contains(address) && !aside.contains(address)).collect();
        (!withheld.is_empty()).then(|| format!("it withholds {withheld:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_again_and_again_is_endless_and_so_is_to_and_fro() {
        let intent = |add: &[u8]| Intent { add: add.to_vec(), ..Intent::default() };
        let endless = |intents: &[Intent]| {
            let mut want = Want::default();
            for intent in intents {
                want.note(intent);
            }
            want.is_endless()
        };
        assert!(!endless(&[intent(&[1]), intent(&[1]), intent(&[1, 2]), intent(&[1])]));
        assert!(endless(&[intent(&[1]), intent(&[1]), intent(&[1])]));
        let to_and_fro: Vec<Intent> = (0..22).map(|n| intent(if n % 2 == 0 { &[1] } else { &[] })).collect();
        assert!(endless(&to_and_fro));
    }
}
