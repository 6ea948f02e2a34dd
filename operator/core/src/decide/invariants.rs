//! What every decision keeps to, whatever was observed: stated once more, apart from the rules that see to it, and looked at wherever assertions are, as in
//! tests and in the simulator. What a body may change is the guard's to say (I3, I12), what a node's store keeps is the store's (I1).

use std::collections::BTreeSet;

use azure_vnet_crds::node::{Intent, IntentOp};
use jiff::Timestamp;

use super::{Decision, Observed, status};
use crate::{nic::Slot, policy::Policy};

/// The rule that a decision breaks.
pub fn broken(observed: &Observed, policy: &Policy, decision: &Decision, now: Timestamp) -> Option<&'static str> {
    let open = observed.object.as_ref().and_then(|object| status(object).cloud.as_ref()?.intent.as_ref());
    let next = decision.cloud.as_ref().map_or(open, |cloud| cloud.intent.as_ref());
    let new = next.filter(|next| open.is_none_or(|open| open.id != next.id));
    let of_new = new.and_then(|new| opened(observed, policy, new));
    let sent = decision.send.as_ref();
    let rules = [
        (new.is_some() && open.is_some(), "I4: an intent is opened over an open one"),
        (sent.is_some_and(|sent| next.is_none_or(|next| next.id != sent.intent)), "I11: what is sent is not of the open intent"),
        (sent.is_some_and(|sent| sent.not_after <= now), "I6: something is sent after its end"),
        (releases_where_none_may(observed, policy, decision), "I9: addresses are asked back where none go back"),
    ];
    rules.into_iter().find(|(is_broken, _)| *is_broken).map(|(_, rule)| rule).or(of_new)
}

/// The rule that a new intent breaks.
fn opened(observed: &Observed, policy: &Policy, new: &Intent) -> Option<&'static str> {
    let adds: BTreeSet<u8> = new.add.iter().copied().collect();
    let spec = observed.object.as_ref().map(|object| &object.spec);
    let known = spec.into_iter().flat_map(|spec| spec.addresses.iter().chain(&spec.lost)).map(|at| at.slot);
    let slots = observed.nic.iter().flat_map(|nic| &nic.view.slots);
    let used = slots.clone().filter(|(_, state)| matches!(state, Slot::Attached(..) | Slot::Provisioning(_))).map(|(slot, _)| *slot);
    let there: BTreeSet<u8> = slots.map(|(slot, _)| *slot).chain(adds.iter().copied()).collect();
    let room = observed.nic.as_ref().map_or(usize::MAX, |nic| usize::from(nic.view.room()));
    let most = usize::from(new.unit.whole(policy.pool.most()));
    let rules = [
        (new.created_at.as_ref().map(|at| at.0) >= new.not_after.as_ref().map(|at| at.0), "I10: an intent has no end"),
        (known.chain(used).any(|slot| adds.contains(&slot)), "I5: an intent adds a slot that is in use"),
        (there.len() > room.max(there.len() - adds.len()), "I8: an intent adds more than the NIC may have"),
        (adds.len() * usize::from(new.unit.size()) > most, "I8: an intent adds more than the pool may have"),
        (
            new.op == IntentOp::Remove && !is_acknowledged(observed, new),
            "I2, I7: an intent removes what this node in this boot did not set aside",
        ),
    ];
    rules.into_iter().find(|(is_broken, _)| *is_broken).map(|(_, rule)| rule)
}

/// Whether all of a removal is acknowledged: by the agent of this boot, for this object. What failed half way rests on the acknowledgement of before, and is
/// in no list by then.
fn is_acknowledged(observed: &Observed, new: &Intent) -> bool {
    let Some(release) = new.release_id else { return true };
    let Some(object) = &observed.object else { return false };
    let agent = status(object).agent.as_ref();
    let agent = agent.filter(|agent| agent.boot_id == observed.node.boot_id && object.metadata.uid.as_ref() == Some(&agent.object_uid));
    let acks = agent.into_iter().flat_map(|agent| &agent.release_acks).filter(|ack| ack.id == release);
    let aside: BTreeSet<_> = acks.flat_map(|ack| &ack.quarantined).collect();
    new.remove.iter().all(|at| aside.contains(at))
}

/// Whether a release is new though the config has none.
fn releases_where_none_may(observed: &Observed, policy: &Policy, decision: &Decision) -> bool {
    let stored = observed.object.iter().flat_map(|object| &object.spec.release);
    let known: BTreeSet<u64> = stored.map(|release| release.id).collect();
    let new = decision.spec.iter().flat_map(|spec| &spec.release).any(|release| !known.contains(&release.id));
    new && !policy.release.enabled
}

#[cfg(test)]
mod tests {
    use azure_vnet_crds::node::ReleaseAck;

    use super::*;
    use crate::decide::{
        Send,
        tests::{World, at},
    };

    /// The rule that a decision breaks which opens this intent and sends it.
    fn of(world: &World, intent: Intent) -> Option<&'static str> {
        let time = |seconds: i64| super::super::stamp(world.now + jiff::SignedDuration::from_secs(seconds));
        let intent = Intent { created_at: Some(time(0)), not_after: intent.not_after.or(Some(time(60))), ..intent };
        let change = crate::decide::settle::change(&intent);
        let not_after = intent.not_after.clone().unwrap().0;
        let send = Send { intent: intent.id, change, not_after, urgency: crate::arm::Urgency::Fill, generous: false };
        let mut cloud = world.cloud();
        cloud.intent = Some(intent);
        let decision = Decision { cloud: Some(cloud), send: Some(send), ..Decision::default() };
        broken(&world.observed, &world.policy, &decision, world.now)
    }

    fn add(slots: &[u8]) -> Intent {
        Intent { id: 9, op: IntentOp::Add, add: slots.to_vec(), ..Intent::default() }
    }

    #[test]
    fn a_decision_that_breaks_a_rule_is_known_by_it() {
        let mut world = World::filled(4, 1);
        world.read();
        assert_eq!(of(&world, add(&[5, 6])), None);
        assert_eq!(of(&world, add(&[4])).unwrap(), "I5: an intent adds a slot that is in use");
        assert_eq!(of(&world, add(&(5..=200).collect::<Vec<_>>())).unwrap(), "I8: an intent adds more than the pool may have");
        let ended = Intent { not_after: Some(super::super::stamp(world.now)), ..add(&[5]) };
        assert_eq!(of(&world, ended).unwrap(), "I6: something is sent after its end");
        let mut other = world.clone();
        other.status().cloud.get_or_insert_default().intent = Some(Intent { id: 8, ..add(&[5]) });
        assert_eq!(of(&other, add(&[5])).unwrap(), "I4: an intent is opened over an open one");
        let unsent = Decision { send: None, ..crate::decide::decide(&world.observed, &world.policy, world.now) };
        assert_eq!(broken(&world.observed, &world.policy, &unsent, world.now), None);
    }

    #[test]
    fn i7_a_removal_rests_on_the_word_of_this_boot_and_object() {
        let mut world = World::filled(4, 1);
        world.read();
        let removal = || Intent { id: 9, op: IntentOp::Remove, remove: vec![at(4)], release_id: Some(7), ..Intent::default() };
        let unheard = Some("I2, I7: an intent removes what this node in this boot did not set aside");
        assert_eq!(of(&world, removal()), unheard);
        world.agent().release_acks = vec![ReleaseAck { id: 7, quarantined: vec![at(4)], ..ReleaseAck::default() }];
        assert_eq!(of(&world, removal()), None);
        let mut rebooted = world.clone();
        rebooted.observed.node.boot_id = "next".into();
        assert_eq!(of(&rebooted, removal()), unheard);
        world.agent().object_uid = "another".into();
        assert_eq!(of(&world, removal()), unheard);
    }
}
