//! How often the NIC is read where reads wait for their turn, as they do when a thousand nodes come at once.

use super::{giving::asked, taking::intended, *};

/// A read whose answer came this moment, after that many seconds.
fn read_slowly(world: &mut World, time: u64) {
    world.read();
    world.pass(time);
    world.observed.nic.as_mut().unwrap().ended = world.now;
}

#[test]
fn the_nic_of_a_new_node_is_read_once_before_its_first_write() {
    let mut world = World::new(&[]);
    read_slowly(&mut world, 60);
    world.create();
    let decision = world.decide();
    assert_eq!((decision.read, decision.send.map(|send| send.change.add.len())), (false, Some(8)), "there is nothing to publish");
}

#[test]
fn re4_the_nic_of_a_new_node_that_has_our_names_is_read_again_when_they_may_be_published() {
    let mut world = World::new(&[1]);
    read_slowly(&mut world, 60);
    world.create();
    let decision = world.decide();
    world.store(&decision);
    assert_eq!((decision.read, decision.send), (false, None), "an earlier object's intent may be open");
    world.now = world.cloud().publish_from.unwrap().0;
    world.observed.nic.as_mut().unwrap().ended = world.now;
    let decision = world.decide();
    assert_eq!((decision.read, decision.spec), (true, None), "however late its answer came");
}

#[test]
fn a_nic_that_azure_works_on_is_left_alone_for_a_while_after_a_read_that_took_long() {
    for state in [State::Moving, State::Lagging] {
        let mut world = World::filled(8, 8);
        world.azure.state = state;
        read_slowly(&mut world, 300);
        let decision = world.decide();
        assert!(!decision.read && decision.wake.is_some_and(|wake| wake >= seconds(5)), "{state:?}: {decision:?}");
    }
}

#[test]
fn a_write_under_way_is_left_alone_for_a_while_after_a_read_that_took_long() {
    let (mut world, intent) = intended();
    world.ended(intent, failure(Class::Unavailable, Trace::Unknown));
    world.azure.state = State::Moving;
    read_slowly(&mut world, 300);
    let decision = world.decide();
    assert_eq!((decision.read, decision.wake), (false, Some(seconds(30))));
}

#[test]
fn a_nic_is_not_read_for_its_own_sake_as_soon_as_it_was_read() {
    let mut world = World::filled(8, 0);
    world.settle();
    read_slowly(&mut world, 700);
    assert!(!world.decide().read);
}

#[test]
fn a_removal_does_not_wait_for_ever_for_a_read_that_takes_no_time() {
    let mut world = asked();
    world.acknowledge(&[]);
    read_slowly(&mut world, 90);
    let decision = world.decide();
    assert_eq!((decision.read, decision.send.map(|send| send.change.remove.len())), (false, Some(4)));
}
