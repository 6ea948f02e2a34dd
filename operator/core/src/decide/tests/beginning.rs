//! A node's first minutes: the first fill, and what others learn of it.

use super::*;
use crate::first_fill::First;

/// A node that has joined this moment, with kin that needed so many.
fn newcomer(needed: u16) -> World {
    let mut world = World::new(&[]);
    world.observed.node.created = world.now;
    world.policy.first = First::Learned(needed);
    world
}

#[test]
fn a_new_node_gets_what_its_kin_needed_in_one_write_and_gives_back_what_it_does_not_need() {
    let mut world = newcomer(30);
    world.settle();
    assert_eq!((world.spec().addresses.len(), world.events.as_slice()), (40, ["AddressesAttached"].as_slice()));
    world.report(2);
    world.pass(9 * 60);
    world.settle();
    assert_eq!((world.cloud().target, world.cloud().surplus_since), (40, None), "it is new for ten minutes");
    let wake = world.decide().wake.unwrap();
    assert!(wake <= seconds(60), "it is looked at when it no longer is: {wake:?}");
    world.pass(60);
    world.settle();
    assert_eq!(world.cloud().target, 12);
    world.pass(900);
    world.settle();
    assert_eq!(world.spec().release.iter().map(|release| release.addresses.len()).sum::<usize>(), 5, "its batch");
}

#[test]
fn a_node_is_filled_first_by_what_was_known_when_it_came() {
    let mut world = newcomer(10);
    world.settle();
    assert_eq!(world.spec().addresses.len(), 20);
    world.policy.first = First::Learned(60);
    world.pass(30);
    world.settle();
    assert_eq!(world.spec().addresses.len(), 20, "others of its pool need more meanwhile: not this one");
    world.policy.first = First::Count(31);
    world.settle();
    assert_eq!(world.spec().addresses.len(), 31, "what the user says counts at once");
}

#[test]
fn a_new_leader_fills_no_node_first_that_was_filled_before() {
    let mut world = newcomer(0);
    world.settle();
    world.policy.first = First::Learned(60);
    world.observed.memory = Memory::default();
    world.pass(60);
    world.settle();
    assert_eq!(world.spec().addresses.len(), 8);
}

#[test]
fn a_node_that_has_been_there_for_long_is_not_filled_first() {
    let mut world = World::new(&[]);
    world.policy.first = First::Learned(30);
    world.settle();
    assert_eq!(world.spec().addresses.len(), 8);
}

#[test]
fn a_new_node_takes_no_more_than_its_share_of_a_full_subnet_and_a_cordoned_one_nothing() {
    let mut full = newcomer(30);
    full.observed.exhausted = true;
    full.settle();
    let mut cordoned = newcomer(30);
    cordoned.observed.node.cordoned = true;
    cordoned.settle();
    assert_eq!((full.spec().addresses.len(), cordoned.spec().addresses.len()), (1, 0));
}

#[test]
fn the_most_that_pods_needed_in_the_first_two_minutes_of_service_is_noted_once() {
    let mut world = newcomer(0);
    world.settle();
    world.pass(200);
    world.settle();
    assert_eq!(world.cloud().first_need, None, "its agent is not ready yet");
    for (demand, after) in [(3, 0), (14, 60), (5, 40)] {
        world.report(demand);
        world.pass(after);
        world.settle();
        assert_eq!(world.cloud().first_need, None, "its agent has been ready for less than two minutes");
    }
    let wake = world.decide().wake.unwrap();
    assert!(wake <= seconds(20), "{wake:?}");
    world.pass(wake.as_secs());
    world.settle();
    assert_eq!(world.cloud().first_need, Some(14));
    world.report(70);
    world.pass(60);
    world.settle();
    assert_eq!(world.cloud().first_need, Some(14));
}

#[test]
fn a_new_node_whose_service_began_under_another_leader_teaches_nothing() {
    let mut world = newcomer(0);
    world.settle();
    world.report(3);
    world.pass(30);
    world.settle();
    world.observed.memory = Memory::default();
    for after in [1, 119, 10] {
        world.report(70);
        world.pass(after);
        world.settle();
    }
    assert_eq!(world.cloud().first_need, None, "70 pods came later");
}

#[test]
fn the_watch_goes_on_where_a_leader_comes_before_the_node_is_in_service() {
    let mut world = newcomer(0);
    world.settle();
    world.observed.memory = Memory::default();
    world.pass(30);
    world.settle();
    for after in [0, 120] {
        world.report(7);
        world.pass(after);
        world.settle();
    }
    assert_eq!(world.cloud().first_need, Some(7));
}

#[test]
fn a_node_that_was_there_before_its_controller_teaches_nothing() {
    let mut world = World::filled(24, 20);
    world.settle();
    world.pass(300);
    world.settle();
    assert_eq!(world.cloud().first_need, None, "its pods did not all come at once");
}

/// Goes on until nothing is left to do, in a subnet that has room for so many: what was sent, and whether it was generous.
fn settle_in(world: &mut World, room: usize) -> Vec<(usize, bool)> {
    let mut sent = vec![];
    for _ in 0..20 {
        let decision = world.decide();
        world.store(&decision);
        if let Some(send) = &decision.send {
            sent.push((send.change.add.len(), send.generous));
            if send.change.add.len() <= room {
                world.apply(&send.change.clone());
                world.ended(send.intent, Ok(()));
            } else {
                world.ended(send.intent, failure(Class::SubnetFull, Trace::None));
            }
            world.pass(1);
        } else if decision.read {
            world.read();
        } else if decision.spec.is_none() && decision.cloud.is_none() {
            return sent;
        }
    }
    panic!("no rest: {sent:?}");
}

#[test]
fn a_first_fill_that_does_not_fit_is_followed_at_once_by_one_of_the_usual_size() {
    for first in [First::Learned(30), First::Count(40)] {
        let mut world = newcomer(0);
        world.policy.first = first;
        let begun = world.now;
        assert_eq!(settle_in(&mut world, 30), [(40, true), (8, false)], "{first:?}");
        assert!(since(begun, world.now) < seconds(10), "no rest in between");
        assert_eq!((world.spec().addresses.len(), world.condition("InDeficit").reason), (8, "Filled".to_owned()));
        world.pass(300);
        assert_eq!(settle_in(&mut world, 30), [], "it is not tried again");
    }
}

#[test]
fn a_subnet_without_room_for_the_usual_size_is_full() {
    let mut world = newcomer(30);
    assert_eq!(settle_in(&mut world, 5), [(40, true), (8, false)]);
    assert_eq!((world.spec().addresses.len(), world.condition("InDeficit").reason), (0, "SubnetExhausted".to_owned()));
    assert_eq!(world.cloud().target, 1);
    (world.observed.exhausted, world.now) = (true, later(world.now, seconds(60)));
    assert_eq!(settle_in(&mut world, 5), [(1, false)]);
}

#[test]
fn a_first_fill_leaves_others_half_of_what_the_subnet_has() {
    let mut world = newcomer(30);
    world.observed.free = Some(30);
    assert_eq!(settle_in(&mut world, 30), [(19, true)]);
    world.pass(60);
    assert_eq!(settle_in(&mut world, 30), [], "it is filled once, though the count is an old one");
}

#[test]
fn what_kin_needed_is_looked_up_when_the_first_write_is_opened() {
    let mut world = newcomer(0);
    let decision = world.decide();
    world.store(&decision);
    let decision = world.decide();
    assert!(decision.read, "{decision:?}");
    world.store(&decision);
    world.policy.first = First::Learned(30);
    world.read();
    assert_eq!(settle_in(&mut world, 255), [(40, true)], "its labels came late");
}

#[test]
fn the_next_leader_does_not_fill_a_new_node_again() {
    let mut world = newcomer(10);
    world.settle();
    world.observed.memory = Memory::default();
    world.policy.first = First::Learned(60);
    world.settle();
    assert_eq!((world.spec().addresses.len(), world.cloud().attached), (20, 20));
}
