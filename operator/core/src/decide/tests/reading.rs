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
    world.ended(intent, failure(Class::Unavailable { retry_after: None }, Trace::Unknown));
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

/// A node at rest whose NIC was just read, and whose machine's IMDS agrees.
fn witnessed(slots: u8, quarantined: u16) -> World {
    let mut world = World::filled(slots, 0);
    world.agent().counts.quarantined = quarantined;
    world.agent().imds = Some(Imds { missing: 0, others: 1 });
    world.agent().counts.free = world.spec().addresses.len().try_into().unwrap();
    world.settle();
    world
}

/// In how many seconds the NIC is read for its own sake, in steps of ten.
fn read_after(mut world: World) -> u64 {
    let begun = world.now;
    loop {
        let decision = world.decide();
        world.store(&decision);
        if decision.read {
            return since(begun, world.now).as_secs();
        }
        assert!(decision.wake.is_some_and(|wake| wake <= seconds(600)), "a network may change without its NICs: {decision:?}");
        world.pass(10);
    }
}

#[test]
fn a_nic_that_its_machines_imds_agrees_with_is_read_once_an_hour_and_any_other_every_ten_minutes() {
    let hour = read_after(witnessed(8, 0));
    assert!((3240..=3600).contains(&hour), "{hour}");
    let mut silent = witnessed(8, 0);
    silent.agent().imds = None;
    assert_eq!(read_after(silent), 600, "an agent of an earlier version says nothing");
    let mut withheld = witnessed(8, 0);
    withheld.agent().counts.free -= 1;
    assert_eq!(read_after(withheld), 600, "what is listed and not offered waits for a read");
    let mut other_boot = witnessed(8, 0);
    other_boot.agent().boot_id = "another".into();
    assert_eq!(read_after(other_boot), 600);
}

#[test]
fn re5_what_imds_shows_no_more_has_the_nic_read_at_once_and_then_every_ten_minutes_while_it_lasts() {
    for other in [Imds { missing: 1, others: 1 }, Imds { missing: 0, others: 2 }] {
        let mut world = witnessed(8, 0);
        world.pass(1200);
        assert!(!world.decide().read);
        world.agent().imds = Some(other);
        assert_eq!(read_after(world.clone()), 0);
        world.read();
        world.settle();
        assert_eq!(read_after(world.clone()), 600, "Azure says otherwise, and IMDS may be old");
        world.pass(10);
        world.agent().imds = Some(Imds { missing: 3, others: 1 });
        assert_eq!(read_after(world), 50, "a word that changes all the time costs a read a minute");
    }
}

#[test]
fn what_others_have_on_the_nic_is_no_difference_once_it_was_read() {
    let mut world = witnessed(8, 0);
    // One of them of IPv6, which the agent does not look for.
    (world.azure.foreign, world.azure.foreign_ipv4) = (4, 3);
    world.agent().imds = Some(Imds { missing: 0, others: 3 });
    world.pass(120);
    assert_eq!(read_after(world.clone()), 0);
    world.read();
    world.settle();
    assert!(read_after(world) >= 3240);
}

#[test]
fn where_imds_falls_silent_the_ten_minutes_begin_then_and_the_hour_stands() {
    let mut world = witnessed(8, 0);
    world.pass(1200);
    let decision = world.decide();
    world.store(&decision);
    world.agent().imds = None;
    let mut early = world.clone();
    assert_eq!(read_after(early.clone()), 600, "until then it agreed");
    for _ in 0..20 {
        early.agent().imds = Some(Imds { missing: 0, others: 1 });
        let decision = early.decide();
        early.store(&decision);
        early.pass(60);
        early.agent().imds = None;
        let decision = early.decide();
        early.store(&decision);
        early.pass(60);
    }
    assert_eq!(read_after(early), 0, "now silent and now not, and an hour is over");
}

#[test]
fn re8_while_somebody_waits_for_a_read_an_agreeing_imds_does_not_delay_it() {
    let mut world = witnessed(12, 4);
    // Those that it asked for itself are over.
    world.observed.memory.aside_since = Some(Timestamp::UNIX_EPOCH);
    assert_eq!(read_after(world), 600);
}

#[test]
fn sc1_five_thousand_nics_at_rest_are_read_less_than_a_hundred_times_a_minute() {
    let an_hour: f64 = (0..5000_u32)
        .map(|number| {
            let uid = format!("{number:08x}-5f3a-4c1e-9d27-{:012x}", number.wrapping_mul(0x9e37_79b1));
            60.0 / (3600.0 - 360.0 * f64::from(crate::decide::sizing::spread(&uid)) / 1000.0)
        })
        .sum();
    assert!((83.0..95.0).contains(&an_hour), "{an_hour} a minute");
}
