//! Getting addresses: filling, settling what is unknown, losing, coming back.

use super::*;

#[test]
fn up1_a_new_node_is_filled_before_its_agent_reports_though_it_is_not_ready() {
    let mut world = World::new(&[]);
    world.observed.node.ready = Ready::False;
    world.settle();
    assert_eq!(world.spec().addresses, (1..=8).map(at).collect::<Vec<_>>());
    assert_eq!((world.spec().revision, world.cloud().intent, world.cloud().attached), (1, None, 8));
    assert_eq!(world.events, ["AddressesAttached"]);
}

#[test]
fn up1_a_silent_and_a_leaving_node_get_nothing() {
    let world = World::new(&[]);
    let quiet = |decision: Decision| decision.spec.is_none() && decision.cloud.is_none() && decision.send.is_none() && !decision.read;
    let mut silent = world.clone();
    silent.observed.node.ready = Ready::Unknown;
    assert!(quiet(silent.decide()));
    let mut leaving = world;
    leaving.observed.node.deleting = true;
    assert!(quiet(leaving.decide()));
}

#[test]
fn up1_a_cordoned_node_is_filled_up_to_demand() {
    let mut world = World::filled(8, 10);
    world.observed.node.cordoned = true;
    world.settle();
    assert_eq!(world.azure.slots.len(), 10);
    world.report(2);
    world.pass(7200);
    world.settle();
    assert!(world.spec().release.is_empty(), "a drained node gives nothing back");
}

#[test]
fn up1_an_empty_pool_is_published_where_nothing_is_wanted() {
    let cases: [fn(&mut World); 3] =
        [|world| world.observed.node.cordoned = true, |world| world.policy.pool = Pool::Fixed(0), |world| world.azure.foreign = 256];
    for case in cases {
        let mut world = World::new(&[]);
        case(&mut world);
        world.settle();
        assert_eq!((world.spec().revision, world.spec().addresses.len(), world.cloud().intent), (1, 0, None));
        world.pass(3600);
        world.settle();
        assert_eq!(world.spec().revision, 1, "once");
    }
    for mode in [Mode::Paused, Mode::Plan] {
        let mut world = World::new(&[]);
        world.policy.mode = mode;
        world.settle();
        assert_eq!(world.spec().revision, 0, "{mode:?}: pods would find the node without addresses");
    }
}

#[test]
fn up1_an_empty_pool_is_published_in_a_full_subnet_and_after_no_other_failure() {
    let forbidden = Class::Forbidden { action: None, scope: None };
    let others = [forbidden, Class::Failed, Class::Locked, Class::Rejected, Class::Gone].map(|class| (class, 0));
    for (class, revision) in others.into_iter().chain([(Class::SubnetFull, 1)]) {
        let mut world = World::new(&[]);
        let send = loop {
            let decision = world.decide();
            world.store(&decision);
            if let Some(send) = decision.send {
                break send;
            }
            world.read();
        };
        assert_eq!(world.spec().revision, 0, "addresses are on their way");
        world.ended(send.intent, failure(class.clone(), Trace::Ended));
        for _ in 0..2 {
            world.read();
            let decision = world.decide();
            world.store(&decision);
        }
        assert_eq!((world.spec().revision, world.spec().addresses.len(), world.cloud().intent), (revision, 0, None), "{class:?}");
    }
}

#[test]
fn a_machine_that_two_reads_did_not_find_is_told_as_gone_and_left_alone() {
    let mut world = World::filled(8, 8);
    world.settle();
    world.pass(700);
    for (failures, said) in [(1, "True"), (2, "False"), (3, "False")] {
        let failed = Attempt { intent: None, at: world.now, result: failure(Class::Gone, Trace::None), failures };
        world.observed.read_failure = Some(failed);
        let decision = world.decide();
        world.store(&decision);
        assert_eq!((decision.send, world.condition("NicWritable").status.as_str()), (None, said), "{failures}");
        world.pass(60);
    }
    let condition = world.condition("NicWritable");
    assert!(condition.reason == "MachineGone" && condition.message.contains("providerID"), "{condition:?}");
    assert_eq!(world.spec().addresses.len(), 16, "only a NIC that is read can lack them");
    world.observed.read_failure = None;
    world.settle();
    assert_eq!(world.condition("NicWritable").status, "True");
}

#[test]
fn a_paused_config_writes_nothing_to_azure() {
    let mut world = World::filled(8, 8);
    world.policy.mode = Mode::Paused;
    world.settle();
    assert_eq!((world.azure.slots.len(), world.cloud().target, world.cloud().intent), (8, 16, None));
}

#[test]
fn a_plan_says_what_would_be_sent_and_nothing_is() {
    let mut world = World::filled(8, 8);
    world.policy.mode = Mode::Plan;
    world.settle();
    let decision = world.decide();
    let change = Change { add: (9..=16).collect(), ..Change::default() };
    assert_eq!((decision.planned, decision.send, world.cloud().intent), (Planned::Change(change), None, None));
    assert_eq!(world.azure.slots.len(), 8);
    let deficit = |world: &World| world.condition("InDeficit").reason;
    assert_eq!(deficit(&world), "Planned");

    world.report(0);
    world.settle();
    assert_eq!(world.decide().planned, Planned::Nothing);
    let mut world = World::filled(12, 0);
    world.policy.mode = Mode::Plan;
    world.settle();
    world.pass(3600);
    world.settle();
    let change = Change { remove: (9..=12).map(at).collect(), ..Change::default() };
    assert_eq!((world.decide().planned, world.spec().release.len()), (Planned::Change(change), 0), "the agent is not asked");
}

#[test]
fn i6_an_intent_that_was_dated_ahead_of_the_clock_lives_no_longer_than_it_says() {
    let ahead = |op| {
        let mut world = World::filled(12, 8);
        let begun = later(world.now, seconds(3600));
        let (add, remove) = if op == IntentOp::Add { (vec![13, 14], vec![]) } else { (vec![], vec![at(11), at(12)]) };
        let intent = Intent {
            id: 7,
            op,
            add,
            remove,
            created_at: Some(stamp(begun)),
            not_after: Some(stamp(later(begun, seconds(600)))),
            ..Intent::default()
        };
        world.status().cloud.get_or_insert_default().intent = Some(intent);
        world
    };
    let mut world = ahead(IntentOp::Add);
    world.settle();
    assert_eq!((world.cloud().intent, world.azure.slots.len()), (None, 16), "it is sent again at once, and what is missing beside it");
    // A removal may have been carried out long ago, and is waited out.
    let mut world = ahead(IntentOp::Remove);
    let begun = world.now;
    while world.cloud().intent.is_some() {
        world.read();
        let decision = world.decide();
        assert_eq!(decision.send, None);
        world.store(&decision);
        world.pass(30);
    }
    let lasted = since(begun, world.now);
    assert!(lasted >= seconds(960) && lasted < seconds(1100), "{lasted:?}");
}

#[test]
fn i5_an_addition_takes_the_lowest_slots_that_nothing_knows() {
    let mut world = World::filled(8, 4);
    world.azure.slots.insert(10, Slot::Provisioning(Unit::Address));
    world.stored().spec.lost = vec![at(9)];
    world.agent().lost_in_use = vec![at(9)];
    world.read();
    let decision = world.decide();
    let intent = decision.cloud.unwrap().intent.unwrap();
    assert_eq!((intent.op, intent.add), (IntentOp::Add, vec![11, 12, 13]));
    world.azure.slots.insert(12, Slot::Failed(Unit::Address));
    world.read();
    assert_eq!(world.decide().cloud.unwrap().intent.unwrap().add, [11, 12, 13].to_vec(), "what failed is repaired");
}

#[test]
fn i8_an_addition_stays_within_what_fits() {
    let mut world = World::filled(8, 200);
    world.azure.foreign = 250;
    world.settle();
    assert_eq!(world.azure.slots.len(), 8, "foreign ones left no room");
    world.azure.foreign = 240;
    world.read();
    world.settle();
    assert_eq!(world.azure.slots.len(), 16);
    let full = |kind: &str| world.condition(kind).status;
    assert_eq!((full("AtCapacity"), full("InDeficit")), ("True".into(), "False".into()));
}

/// A world in which this controller's intent is stored, and nothing was sent.
pub fn intended() -> (World, u64) {
    let mut world = World::filled(8, 8);
    world.read();
    let decision = world.decide();
    world.store(&decision);
    (world, decision.send.unwrap().intent)
}

#[test]
fn i4_i11_while_an_intent_is_open_only_the_same_is_sent_again() {
    let (mut world, intent) = intended();
    let first = world.cloud().intent.unwrap();
    world.pass(5);
    world.ended(intent, failure(Class::Unavailable { retry_after: None }, Trace::Unknown));
    world.report(40);
    assert!(world.decide().read, "the read is older than the request");
    world.read();
    assert_eq!(world.decide().send, None, "not at once");
    world.pass(10);
    let send = world.decide().send.unwrap();
    assert_eq!((send.intent, send.change.add.into_iter().collect::<Vec<_>>()), (intent, first.add));
}

#[test]
fn a_leader_that_leaves_sends_no_addition_again() {
    let (mut world, intent) = intended();
    world.ended(intent, failure(Class::NotSent, Trace::None));
    world.observed.leaving = true;
    for _ in 0..10 {
        world.read();
        let decision = world.decide();
        world.store(&decision);
        assert_eq!((decision.send, world.cloud().intent.map(|open| open.id)), (None, Some(intent)), "it is its successor's");
        world.pass(5);
    }
}

#[test]
fn i6_nothing_is_sent_after_the_end_and_an_unknown_outcome_gets_its_grace() {
    let (mut world, intent) = intended();
    world.ended(intent, failure(Class::Unavailable { retry_after: None }, Trace::Unknown));
    let decision = {
        world.read();
        world.decide()
    };
    world.store(&decision);
    // A later refusal says nothing about the first request.
    world.ended(intent, failure(Class::Rejected, Trace::None));
    world.pass(601);
    world.read();
    let decision = world.decide();
    assert_eq!((decision.send.clone(), decision.cloud.and_then(|cloud| cloud.intent).is_none_or(|open| open.id == intent)), (None, true));
    world.pass(360);
    assert!(world.decide().read);
    world.read();
    assert_eq!(world.decide().cloud.unwrap().intent, None);
}

/// The leader that recorded an addition died, and nothing is known of its request.
fn inherited() -> World {
    let (mut world, _) = intended();
    world.observed.me = Leader { identity: "other".into(), nonce: "other".into() };
    world.observed.memory = Memory::default();
    world.observed.nic = None;
    world
}

#[test]
fn i11_a_successor_reads_and_sends_an_open_addition_again_at_once() {
    let mut world = inherited();
    let open = world.cloud().intent.unwrap();
    assert!(world.decide().read, "nothing is decided on another's read");
    world.read();
    let decision = world.decide();
    let send = decision.send.clone().unwrap();
    assert_eq!((send.intent, send.change, send.not_after), (open.id, settle::change(&open), open.not_after.unwrap().0));
    assert!(decision.cloud.is_none_or(|cloud| cloud.intent.is_some_and(|intent| intent.id == open.id)), "the record stays as it is");
    world.settle();
    assert_eq!((world.azure.slots.len(), world.spec().addresses.len(), world.cloud().intent), (16, 16, None));
}

#[test]
fn i6_an_earlier_leaders_intent_is_not_given_up_before_its_grace_is_over() {
    let mut world = inherited();
    let open = world.cloud().intent.unwrap();
    let end = later(open.not_after.clone().unwrap().0, world.policy.grace);
    while world.now < end.checked_sub(seconds(70)).unwrap() {
        world.pass(60);
        world.read();
        let decision = world.decide();
        assert_eq!(decision.spec, None);
        assert!(decision.cloud.as_ref().is_none_or(|cloud| cloud.intent.as_ref().is_some_and(|intent| intent.id == open.id)));
        world.store(&decision);
        if let Some(send) = decision.send {
            assert_eq!((send.intent, world.now < send.not_after), (open.id, true));
            // What becomes of this request says nothing about the other one.
            world.ended(send.intent, failure(Class::SubnetFull, Trace::Ended));
        }
    }
    world.now = end;
    world.settle();
    assert_ne!(world.cloud().intent, Some(open));
}

#[test]
fn i6_what_an_earlier_leader_did_is_published_once_azure_is_done() {
    let mut shown = inherited();
    let change = settle::change(&shown.cloud().intent.unwrap());
    shown.apply(&change);
    shown.azure.state = State::Moving;
    shown.read();
    let decision = shown.decide();
    assert_eq!((decision.spec, decision.send), (None, None), "Azure is not done");
    shown.azure.state = State::Settled;
    shown.pass(30);
    shown.settle();
    assert_eq!((shown.spec().addresses.len(), shown.cloud().intent), (16, None));
}

#[test]
fn re1_an_intent_that_was_closed_never_acts_again() {
    let (mut world, intent) = intended();
    let before = world.observed.object.clone();
    world.ended(intent, failure(Class::Rejected, Trace::None));
    world.read();
    let decision = world.decide();
    world.store(&decision);
    assert_eq!(world.cloud().intent, None);
    world.observed.object = before;
    world.read();
    assert_eq!(world.decide().send, None);
}

#[test]
fn a_definite_failure_is_closed_and_a_full_subnet_asked_for_single_addresses() {
    let (mut world, intent) = intended();
    world.pass(1);
    world.ended(intent, failure(Class::SubnetFull, Trace::Ended));
    world.read();
    let decision = world.decide();
    assert_eq!(decision.cloud.clone().unwrap().intent, None);
    world.store(&decision);
    let decision = world.decide();
    assert_eq!(decision.send, None, "not at once");
    world.store(&decision);
    let writable = world.condition("NicWritable");
    assert_eq!((writable.status.as_str(), writable.reason.as_str()), ("False", "SubnetExhausted"));
    world.pass(31);
    world.read();
    assert_eq!(world.decide().send.unwrap().change.add, BTreeSet::from([9]));
}

#[test]
fn a_vanished_address_is_lost_after_a_second_look_a_minute_later() {
    let mut world = World::filled(9, 0);
    world.settle();
    world.azure.slots.remove(&3);
    world.pass(600);
    world.settle();
    assert!(world.spec().addresses.contains(&at(3)) && world.spec().lost.is_empty());
    world.pass(61);
    world.settle();
    assert_eq!(world.spec().lost, [at(3)]);
    assert!(world.events.contains(&"AddressLost"));
    assert!(!world.spec().addresses.contains(&at(3)));
    world.report(0);
    world.settle();
    assert!(world.spec().lost.is_empty(), "no pod can hold it");
}

#[test]
fn a_vanished_address_is_lost_at_once_where_this_controller_wrote_to_the_nic_since() {
    let mut world = World::filled(8, 0);
    world.settle();
    world.azure.slots.remove(&3);
    world.pass(600);
    world.settle();
    assert_eq!((world.spec().lost.as_slice(), world.spec().addresses.len()), ([at(3)].as_slice(), 8));
    assert!(world.spec().addresses.contains(&at(9)), "it was replaced, in another slot");
}

#[test]
fn a14_an_answer_from_before_the_last_write_takes_nothing_away() {
    let mut world = World::filled(8, 8);
    let before = world.azure.clone();
    world.settle();
    assert_eq!(world.spec().addresses.len(), 16);
    // The next one is old.
    let after = std::mem::replace(&mut world.azure, before);
    world.pass(20);
    world.read();
    let decision = world.decide();
    world.store(&decision);
    assert_eq!((world.spec().addresses.len(), world.spec().lost.len()), (16, 0));
    if let Some(send) = decision.send {
        world.ended(send.intent, failure(Class::Stale, Trace::None));
    }
    world.azure = after;
    world.settle();
    assert_eq!(world.spec().addresses[..16], (1..=16).map(at).collect::<Vec<_>>());
    assert!(world.spec().lost.is_empty() && !world.events.contains(&"AddressLost"));
}

#[test]
fn re4_an_object_made_for_a_nic_with_our_names_publishes_nothing_before_any_intent_and_its_grace_are_over() {
    let mut world = World::new(&[1, 2, 3]);
    // Of the object before this one, this controller knows that ids were used.
    world.observed.memory.last_id = 7;
    world.settle();
    assert!(world.cloud().last_id >= 7);
    for _ in 0..15 {
        world.pass(60);
        world.settle();
        assert_eq!((world.spec().addresses.len(), world.spec().revision, world.cloud().intent), (0, 0, None));
    }
    let deficit = world.condition("InDeficit");
    assert_eq!(deficit.reason, "AwaitsEarlierWrites");
    world.pass(60);
    let decision = world.decide();
    assert!(decision.read && decision.spec.is_none(), "the read is from before");
    world.settle();
    assert_eq!(world.spec().addresses.len(), 8);
    world.report(0);
    world.agent().demand = 0;
    world.settle();
    assert!(world.spec().release.is_empty());
}

#[test]
fn re4_a_nic_without_our_names_is_filled_at_once_and_published() {
    let mut world = World::new(&[]);
    world.observed.memory.last_id = 7;
    world.settle();
    assert_eq!((world.spec().addresses.len(), world.spec().revision), (8, 1));
}

#[test]
fn a10_what_arrived_is_published_while_the_rest_is_tried_again() {
    let (mut world, intent) = intended();
    for slot in 9..=11 {
        world.azure.slots.insert(slot, Slot::Attached(address(slot), Unit::Address));
    }
    world.azure.slots.insert(12, Slot::Failed(Unit::Address));
    world.pass(1);
    world.ended(intent, failure(Class::Unavailable { retry_after: None }, Trace::Unknown));
    world.read();
    let decision = world.decide();
    world.store(&decision);
    assert_eq!((world.spec().addresses.len(), world.cloud().intent.map(|open| open.id)), (11, Some(intent)));
    world.pass(30);
    world.azure.state = State::Moving;
    world.azure.slots.insert(13, Slot::Attached(address(13), Unit::Address));
    world.read();
    assert_eq!(world.decide().spec, None, "Azure is not done");
}

#[test]
fn a_lost_address_is_forgotten_once_no_pod_holds_it_however_many_others_are_in_use() {
    let mut world = World::filled(16, 5);
    world.stored().spec.lost = vec![at(17), at(18)];
    world.agent().counts.assigned = 5;
    world.agent().lost_in_use = vec![at(18)];
    world.agent().revision_adopted = 0;
    world.settle();
    assert_eq!(world.spec().lost, [at(17), at(18)], "the agent does not know yet that they are lost");
    world.report(5);
    world.settle();
    assert_eq!(world.spec().lost, [at(18)]);
}

#[test]
fn re3_an_older_state_is_answered_above_what_the_node_adopted_and_after_a_read() {
    let mut world = World::filled(9, 0);
    world.agent().revision_adopted = 40;
    world.azure.slots.remove(&9);
    let decision = world.decide();
    assert!(decision.read && decision.spec.is_none());
    world.settle();
    assert_eq!((world.spec().revision, &world.spec().lost), (41, &vec![at(9)]));
    world.report(0);
    world.settle();
}

#[test]
fn re4_the_finalizer_stays_while_a_write_may_land() {
    let (world, _) = intended();
    let cloud = world.cloud();
    let grace = world.policy.grace;
    let vanishes = |cloud: &Cloud, after| may_vanish(Some(cloud), world.now, grace, later(world.now, seconds(after)));
    assert!(may_vanish(None, world.now, grace, world.now) && vanishes(&Cloud::default(), 0));
    assert!(!vanishes(&cloud, 959) && vanishes(&cloud, 960));
    let mut ahead = cloud;
    let intent = ahead.intent.as_mut().unwrap();
    for at in [&mut intent.created_at, &mut intent.not_after] {
        *at = at.as_ref().map(|at| stamp(later(at.0, seconds(3600))));
    }
    assert!(!vanishes(&ahead, 959) && vanishes(&ahead, 960), "the clock of who opened it was ahead");
}

#[test]
fn another_nodes_object_is_deleted() {
    let mut world = World::filled(8, 0);
    world.stored().spec.node.uid = "earlier".into();
    assert!(world.decide().delete);
}

#[test]
fn at_rest_nothing_is_written() {
    let mut world = World::filled(8, 0);
    world.settle();
    let written = world.cloud().last_read_at;
    for _ in 0..4 {
        world.pass(60);
        let decision = world.decide();
        assert_eq!((decision.spec, decision.cloud, decision.send, decision.read), (None, None, None, false));
        assert!(decision.wake.is_some());
    }
    world.pass(600);
    world.settle();
    assert_ne!(world.cloud().last_read_at, written, "the agent waits for reads (safety rule RE8)");
    assert_eq!(world.cloud().last_read_at.map(|at: Time| at.0), Some(world.now));
}

#[test]
fn re8_a_stamp_from_ahead_of_the_clock_is_put_right() {
    let mut world = World::filled(8, 0);
    world.settle();
    world.status().cloud.as_mut().unwrap().last_read_at = Some(stamp(later(world.now, seconds(3600))));
    world.settle();
    assert!(world.cloud().last_read_at.unwrap().0 <= world.now);
}

#[test]
fn a_write_that_azure_takes_and_ignores_is_not_repeated_for_ever() {
    let mut world = World::filled(4, 10);
    let (start, mut sends) = (world.now, 0);
    while since(start, world.now) < seconds(3600) {
        let decision = world.decide();
        world.store(&decision);
        if let Some(send) = &decision.send {
            sends += 1;
            world.ended(send.intent, Ok(()));
            world.pass(1);
        } else if decision.read {
            world.read();
        } else if decision.spec.is_none() && decision.cloud.is_none() {
            world.now = later(world.now, decision.wake.unwrap_or(seconds(60)));
        }
    }
    assert!(world.events.contains(&"UpdateIgnored"));
    assert!((3..=18).contains(&sends), "three in ten minutes at most: {sends}");
}

#[test]
fn addresses_that_pods_never_get_do_not_count_as_free() {
    let mut world = World::filled(16, 6);
    world.settle();
    assert_eq!(world.azure.slots.len(), 16, "six in use and eight free are enough");
    world.policy.effective.reserved = (1..=10).map(|slot| format!("{}/32", at(slot).address)).collect();
    world.settle();
    // Of sixteen, six are left for pods, and six are in use.
    assert_eq!(world.azure.slots.len(), 24);
    assert_eq!(world.condition("InDeficit").status, "False");
}
