//! Blocks of addresses, alone and beside single ones.

use super::*;
use crate::size;

/// A node with so many single addresses whose config has just begun to ask for blocks.
fn turned(singles: u8, used: u16) -> World {
    World::filled(singles, used).with_blocks()
}

/// Lets the agent adopt what is published and set aside all that it is asked to, for so many minutes.
fn live(world: &mut World, minutes: u64) {
    for _ in 0..minutes {
        world.pass(60);
        let demand = world.agent().demand;
        world.report(demand);
        let asked = world.spec().release.clone();
        world.agent().release_acks = asked
            .iter()
            .map(|release| ReleaseAck {
                id: release.id,
                nonce: release.nonce.clone(),
                quarantined: release.addresses.clone(),
                refused: vec![],
            })
            .collect();
        world.agent().counts.quarantined = size::addresses(asked.iter().flat_map(|release| &release.addresses));
        world.settle();
    }
}

/// Asks for what is missing; answers the write.
fn sent(world: &mut World) -> Send {
    for _ in 0..10 {
        let decision = world.decide();
        world.store(&decision);
        if let Some(send) = decision.send {
            return send;
        }
        if decision.read {
            world.read();
        }
    }
    panic!("nothing is sent: {:?}", world.decide());
}

#[test]
fn a_node_is_filled_by_blocks_and_its_sizes_count_addresses() {
    let mut world = World::new(&[]).with_blocks();
    world.settle();
    assert_eq!(world.spec().addresses, [block(1)]);
    assert_eq!((world.cloud().attached, world.cloud().target, world.spec().revision), (16, 16, 1));
    world.report(9);
    world.settle();
    assert_eq!(world.spec().addresses, [block(1), block(2)], "9 and 8 free are more than 16");
    assert_eq!((world.cloud().attached, world.cloud().target), (32, 32));
    world.pass(3600);
    world.settle();
    assert_eq!((world.spec().addresses.len(), world.spec().release.len()), (2, 0), "whole blocks, and nothing to spare");
}

#[test]
fn re6_the_nic_is_read_again_for_an_agent_that_does_not_offer_a_block_yet() {
    let mut world = World::new(&[]).with_blocks();
    world.settle();
    let before = world.cloud().last_read_at;
    world.report(0);
    world.agent().counts.free = 0;
    world.pass(61);
    let decision = world.decide();
    assert!(decision.read, "{decision:?}");
    world.read();
    let decision = world.decide();
    world.store(&decision);
    assert!(world.cloud().last_read_at > before, "the agent hears of it");
    world.agent().counts.free = 16;
    world.pass(61);
    assert!(!world.decide().read);
}

#[test]
fn re5_a_read_of_the_nic_that_misses_what_is_listed_is_not_told() {
    let mut world = World::new(&[]).with_blocks();
    world.settle();
    world.report(0);
    let told = world.cloud().last_read_at;
    world.azure.slots.clear();
    world.agent().counts.free = 0;
    world.pass(61);
    let send = sent(&mut world);
    assert_eq!((world.cloud().last_read_at, world.spec().lost.len()), (told.clone(), 0));
    world.pass(400);
    world.read();
    let decision = world.decide();
    world.store(&decision);
    assert_eq!(world.cloud().last_read_at, told, "nor is one that is old enough to be told for its own sake");
    world.apply(&send.change);
    world.pass(1);
    world.ended(send.intent, Ok(()));
    world.settle();
    assert_eq!(world.spec().lost, [block(1)]);
    assert!(world.cloud().last_read_at > told, "it is once that is lost");
}

#[test]
fn re6_what_is_held_back_for_long_does_not_keep_the_nic_from_being_read_for_the_next_block() {
    let mut world = World::new(&[]).with_blocks();
    world.settle();
    world.report(0);
    world.agent().counts.free = 15;
    let read_soon = |world: &mut World| {
        world.pass(61);
        let decision = world.decide();
        world.store(&decision);
        if decision.read {
            world.read();
        }
        decision.read
    };
    assert!(read_soon(&mut world));
    while read_soon(&mut world) {}
    world.agent().counts.free = 0;
    read_soon(&mut world);
    assert!(read_soon(&mut world), "another number");
    world.agent().counts.free = 15;
    world.policy.effective.reserved = vec!["10.241.0.16/32".into()];
    world.settle();
    world.report(0);
    world.settle();
    assert!(!read_soon(&mut world) && !read_soon(&mut world), "what is reserved is not held back");
}

#[test]
fn blocks_that_are_partly_used_are_asked_for_ever_more_seldom_until_fewer_addresses_are_in_use() {
    let mut world = World::new(&[]).with_blocks();
    world.settle();
    world.report(20);
    world.settle();
    world.report(2);
    (world.agent().counts.assigned, world.agent().counts.free) = (2, 30);
    let asked_in = |world: &mut World, minutes: u64| {
        let mut asked = 0;
        for _ in 0..minutes {
            world.pass(60);
            world.settle();
            asked += world.spec().release.len();
            world.acknowledge(&[1, 2]);
            world.settle();
        }
        asked
    };
    let (hour, days) = (asked_in(&mut world, 60), asked_in(&mut world, 3 * 24 * 60));
    assert!(hour >= 2 && days <= 40, "{hour} within an hour, {days} within three days");
    world.agent().counts.assigned = 1;
    assert!(asked_in(&mut world, 30) >= 2, "each may be idle now");
}

#[test]
fn a_block_is_given_back_as_a_whole_once_a_whole_one_is_too_much() {
    let mut world = World::new(&[]).with_blocks();
    world.settle();
    world.report(20);
    world.settle();
    world.report(0);
    live(&mut world, 60);
    assert_eq!((world.spec().addresses.clone(), world.spec().release.len()), (vec![block(1)], 0), "more than a batch of 5");
    assert_eq!(world.azure.attached().collect::<Vec<_>>(), [block(1)]);
}

#[test]
fn re2_a_block_that_azure_made_a_single_address_is_not_removed() {
    let mut world = World::new(&[]).with_blocks();
    world.settle();
    world.report(20);
    world.settle();
    world.report(0);
    while world.spec().release.is_empty() {
        world.pass(60);
        world.settle();
    }
    world.acknowledge(&[]);
    let leaving = world.spec().release[0].addresses[0];
    world.azure.slots.insert(leaving.slot, Slot::Attached(leaving.address, Unit::Address));
    world.read();
    let decision = world.decide();
    assert_eq!(decision.send, None, "what was set aside is not what the NIC has");
}

#[test]
fn slots_of_the_former_unit_stay_until_they_are_too_much_and_go_first() {
    let mut world = turned(12, 5);
    world.settle();
    assert_eq!(world.spec().addresses.len(), 13, "twelve single ones and a block");
    assert_eq!((world.cloud().attached, world.cloud().target), (28, 16));
    live(&mut world, 120);
    assert_eq!(world.spec().addresses, [block(13)], "the single ones went back");

    world.policy.unit = Unit::Address;
    world.agent().demand = 40;
    world.settle();
    assert_eq!((world.cloud().attached, world.cloud().target), (48, 48), "and single ones come beside the block");
    world.agent().demand = 0;
    live(&mut world, 240);
    assert!(!world.spec().addresses.contains(&block(13)), "the block went first");
    assert_eq!((world.cloud().attached, world.cloud().target), (8, 8));
}

#[test]
fn i11_an_open_write_is_sent_again_as_it_was_though_the_unit_changed() {
    let mut world = World::new(&[]).with_blocks();
    let send = sent(&mut world);
    assert_eq!((send.change.unit, send.change.add.len()), (Unit::Block28, 1));
    world.policy.unit = Unit::Address;
    world.pass(1);
    world.ended(send.intent, failure(Class::Unavailable { retry_after: None }, Trace::None));
    world.pass(30);
    let again = sent(&mut world);
    assert_eq!((again.intent, again.change), (send.intent, send.change));
}

#[test]
fn a_fragmented_subnet_gives_single_addresses_at_once_and_is_told() {
    let mut world = World::new(&[]).with_blocks();
    let send = sent(&mut world);
    assert!(send.generous, "no room for a block tells nothing of single addresses");
    world.pass(1);
    world.ended(send.intent, failure(Class::SubnetFull, Trace::None));
    let next = sent(&mut world);
    assert_eq!((next.change.unit, next.change.add.len()), (Unit::Address, 8), "with all that is usual: the subnet is not full");
    assert_eq!(world.cloud().last_error, None, "nothing is in the way of single addresses");
    world.apply(&next.change);
    world.pass(1);
    world.ended(next.intent, Ok(()));
    world.settle();
    assert_eq!(world.spec().addresses.len(), 8);
    assert!(world.events.contains(&"SubnetFragmented"));
    let said = world.condition("NicWritable");
    assert_eq!((said.status.as_str(), said.reason.as_str()), ("True", "SubnetFragmented"));
    assert!(said.message.contains("pool.unit"), "{}", said.message);
    world.report(0);
    world.pass(3700);
    world.settle();
    assert!(world.spec().addresses.contains(&block(9)), "an hour later a block is tried again: {:?}", world.spec().addresses);
    assert_eq!(world.condition("NicWritable").reason, "Writable");
}

#[test]
fn blocks_that_azure_refuses_are_named_and_a_full_subnet_is_full_for_single_addresses_only() {
    let mut world = World::new(&[]).with_blocks();
    let send = sent(&mut world);
    world.pass(1);
    world.ended(send.intent, failure(Class::Rejected, Trace::None));
    let next = sent(&mut world);
    assert_eq!(next.change.unit, Unit::Address);
    world.pass(1);
    world.ended(next.intent, failure(Class::SubnetFull, Trace::None));
    world.read();
    let decision = world.decide();
    world.store(&decision);
    assert_eq!(world.condition("NicWritable").reason, "SubnetExhausted", "now it is");
    assert!(world.events.contains(&"BlocksRefused"));
}

#[test]
fn blocks_that_azure_takes_for_single_addresses_are_told_and_not_asked_for_again_and_again() {
    let mut world = World::new(&[]).with_blocks();
    let send = sent(&mut world);
    assert_eq!((send.change.unit, send.change.add.len()), (Unit::Block28, 1));
    world.apply(&Change { unit: Unit::Address, ..send.change });
    world.pass(1);
    world.ended(send.intent, Ok(()));
    world.settle();
    assert_eq!(world.spec().addresses, (1..=8).map(at).collect::<Vec<_>>(), "the others are single ones too");
    assert!(world.events.contains(&"BlocksIgnored"));
    let said = world.condition("NicWritable");
    assert_eq!((said.status.as_str(), said.reason.as_str()), ("True", "BlocksIgnored"));
    assert!(said.message.contains("pool.unit"), "{}", said.message);
    world.report(0);
    world.pass(12 * 3600);
    world.settle();
    assert_eq!(world.spec().addresses.len(), 8);
    world.pass(13 * 3600);
    world.settle();
    assert!(world.spec().addresses.contains(&block(9)), "a day later a block is tried again: {:?}", world.spec().addresses);
}

#[test]
fn nothing_is_told_of_blocks_that_are_asked_for_no_more() {
    let mut world = World::new(&[]).with_blocks();
    let send = sent(&mut world);
    world.policy.unit = Unit::Address;
    world.pass(1);
    world.ended(send.intent, failure(Class::Rejected, Trace::None));
    for _ in 0..3 {
        world.read();
        let decision = world.decide();
        world.store(&decision);
        assert!(!world.events.contains(&"BlocksRefused"), "{:?}", world.events);
    }
}

#[test]
fn a_block_that_azure_failed_to_make_does_not_stand_in_the_way_of_single_addresses() {
    let mut world = World::new(&[]).with_blocks();
    let send = sent(&mut world);
    world.azure.slots.insert(1, Slot::Failed(Unit::Block28));
    world.pass(1);
    world.ended(send.intent, failure(Class::SubnetFull, Trace::Ended));
    let next = sent(&mut world);
    assert_eq!((next.change.unit, next.change.add.contains(&1)), (Unit::Address, true), "its slot is asked for anew");
    world.apply(&next.change);
    world.pass(1);
    world.ended(next.intent, Ok(()));
    world.settle();
    assert_eq!(world.spec().addresses, (1..=8).map(at).collect::<Vec<_>>());
}

#[test]
fn a_block_that_azure_failed_to_make_is_not_asked_for_with_what_is_given_back() {
    let mut world = World::filled(12, 0);
    world.azure.slots.insert(40, Slot::Failed(Unit::Block28));
    world.azure.slots.insert(41, Slot::Failed(Unit::Address));
    while world.spec().release.is_empty() {
        world.pass(60);
        world.settle();
    }
    world.acknowledge(&[]);
    let change = sent(&mut world).change;
    assert!(!change.remove.is_empty());
    assert_eq!(change.failed, [40].into());
    let listed = SlotAddress::of(40, block(40).address, Unit::Block28);
    world.stored().spec.addresses.push(listed);
    world.read();
    assert_eq!(sent(&mut world).change.failed, [].into(), "what pods may have is theirs");
}

#[test]
fn i8_single_addresses_that_azure_failed_to_make_are_no_blocks_to_come() {
    let mut world = turned(8, 4);
    for slot in 9..=28 {
        world.azure.slots.insert(slot, Slot::Failed(Unit::Address));
    }
    world.read();
    assert_eq!(sent(&mut world).change.add.len(), 1, "what one block is worth, and not twenty");
}

#[test]
fn an_instance_of_a_uniform_scale_set_gets_single_addresses_and_its_object_says_why() {
    let mut world = World::new(&[]).with_blocks();
    Arc::make_mut(&mut world.observed.machine).kind = MachineKind::VmssUniform;
    world.settle();
    assert_eq!(world.spec().addresses.len(), 8);
    assert_eq!(world.condition("NicWritable").reason, "BlocksUnsupported");
}

#[test]
fn i8_blocks_count_as_ip_configurations_and_the_room_in_addresses() {
    let mut world = World::new(&[]).with_blocks();
    world.policy.pool = Pool::Floating { min: 255, min_free: 1, batch: 1, max: 255 };
    world.azure.foreign = 254;
    world.settle();
    assert_eq!((world.spec().addresses.clone(), world.cloud().attached), (vec![block(1), block(2)], 32), "two IP configurations are left");
    assert_eq!(world.cloud().target, 32);
}

#[test]
fn of_a_lost_block_only_what_pods_hold_stays_lost_and_the_rest_comes_back_with_the_next() {
    let mut world = World::new(&[]).with_blocks();
    world.settle();
    world.report(8);
    world.azure.slots.remove(&1);
    let again = SlotAddress::of(2, block(1).address, Unit::Block28);
    world.azure.slots.insert(2, Slot::Attached(again.address, Unit::Block28));
    let held: Vec<SlotAddress> = block(1).each().take(3).collect();
    world.agent().lost_in_use.clone_from(&held);
    live(&mut world, 30);
    assert_eq!(world.spec().lost, held);
    assert!(world.spec().addresses.contains(&again), "{:?}", world.spec().addresses);
    world.azure.slots = [(1, Slot::Attached(block(1).address, Unit::Block28))].into();
    live(&mut world, 30);
    assert_eq!(world.spec().lost, [], "the block is back in its slot");
}
