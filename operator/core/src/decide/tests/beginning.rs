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
fn a_node_that_was_there_before_its_controller_teaches_nothing() {
    let mut world = World::filled(24, 20);
    world.settle();
    world.pass(300);
    world.settle();
    assert_eq!(world.cloud().first_need, None, "its pods did not all come at once");
}
