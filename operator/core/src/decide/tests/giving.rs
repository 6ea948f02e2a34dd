//! Giving addresses back.

use super::*;

/// A node that was asked to set four of twelve addresses aside.
pub fn asked() -> World {
    let mut world = World::filled(12, 0);
    world.settle();
    world.pass(3600);
    world.settle();
    assert_eq!(world.spec().release.len(), 1);
    world
}

#[test]
fn re1_what_is_idle_for_long_enough_is_set_aside_and_then_goes() {
    let mut world = World::filled(12, 0);
    world.settle();
    world.pass(590);
    world.settle();
    assert!(world.spec().release.is_empty(), "not before its time");
    world.pass(200);
    world.settle();
    let release = world.spec().release.clone();
    assert_eq!(release[0].addresses, [9, 10, 11, 12].map(at));
    assert_eq!((release[0].nonce.as_str(), world.spec().addresses.len(), world.azure.slots.len()), ("mine", 12, 12));
    world.acknowledge(&[]);
    world.settle();
    assert_eq!((world.azure.slots.len(), &world.spec().release, world.cloud().intent), (8, &vec![], None));
    assert_eq!((world.spec().addresses.len(), world.cloud().last_id), (8, release[0].id + 1));
    world.report(0);
    world.agent().counts.quarantined = 0;
    world.pass(7200);
    world.settle();
    assert_eq!(world.azure.slots.len(), 8);
    assert_eq!(world.events, ["ReleaseRequested", "AddressesReleased"]);
}

#[test]
fn a_node_whose_addresses_are_all_in_use_is_not_asked_for_any() {
    let mut world = World::filled(12, 0);
    // Finished pods need none, and still have theirs.
    world.agent().counts.assigned = 12;
    world.settle();
    world.pass(3600);
    world.settle();
    assert_eq!((world.spec().release.len(), &world.events), (0, &vec![]), "none could be set aside");
    world.agent().counts.assigned = 11;
    world.agent().counts.cooling = 1;
    world.settle();
    assert_eq!(world.spec().release.len(), 1, "at once, since it has been too much for long enough");
}

#[test]
fn re1_an_acknowledgement_counts_only_with_everything_that_it_must_repeat() {
    let mut good = asked();
    good.acknowledge(&[]);
    good.read();
    assert_eq!(good.decide().cloud.unwrap().intent.unwrap().op, IntentOp::Remove);
    let spoils: [fn(&mut World); 6] = [
        |world| world.agent().release_acks[0].nonce = "other".into(),
        |world| world.agent().release_acks[0].id += 1,
        |world| world.agent().object_uid = "earlier".into(),
        |world| world.agent().boot_id = "earlier".into(),
        |world| world.observed.node.boot_id = "later".into(),
        |world| _ = world.agent().release_acks[0].quarantined.pop(),
    ];
    for (n, spoil) in spoils.iter().enumerate() {
        let mut world = good.clone();
        spoil(&mut world);
        world.settle();
        assert_eq!((world.azure.slots.len(), world.cloud().intent), (12, None), "spoil {n}");
    }
}

#[test]
fn st9_another_store_voids_the_release() {
    let mut world = asked();
    world.acknowledge(&[]);
    world.agent().store_id = "new".into();
    world.settle();
    assert_eq!((world.azure.slots.len(), world.spec().release.len(), world.spec().addresses.len()), (12, 0, 12));
}

#[test]
fn re1_a_release_of_another_term_or_of_a_closed_id_is_withdrawn() {
    let mut successor = asked();
    successor.acknowledge(&[]);
    let mut restored = successor.clone();
    successor.observed.me = Leader { identity: "other".into(), nonce: "other".into() };
    successor.observed.memory = Memory::default();
    successor.settle();
    assert_eq!((successor.azure.slots.len(), successor.spec().release.len()), (12, 0));

    // The same leader, and the API server returns to a state in which a finished release looks acknowledged.
    let before = restored.observed.object.clone();
    restored.settle();
    assert_eq!(restored.azure.slots.len(), 8);
    restored.agent().revision_adopted += 1;
    let adopted = restored.agent().revision_adopted;
    restored.observed.object = before;
    restored.agent().revision_adopted = adopted;
    restored.agent().demand = 4;
    restored.observed.last = None;
    restored.pass(60);
    restored.settle();
    assert!(restored.spec().release.is_empty() && restored.spec().revision > adopted);
    assert!(restored.events.iter().filter(|event| **event == "AddressesReleased").count() == 1);
}

#[test]
fn re2_what_is_refused_or_no_longer_the_same_stays() {
    let mut world = asked();
    world.acknowledge(&[11]);
    world.azure.slots.insert(10, Slot::Attached("10.240.9.9".parse().unwrap(), Unit::Address));
    world.pass(61);
    world.settle();
    // 10 is not the address that was set aside: it stays; 11 is in use.
    assert_eq!(world.azure.slots.keys().copied().collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6, 7, 8, 10, 11]);
    assert!(world.spec().release.is_empty());
}

#[test]
fn re8_a_release_is_withdrawn_when_demand_returns_unless_its_removal_is_under_way() {
    let mut world = asked();
    world.report(1);
    let revision = world.spec().revision;
    world.settle();
    assert_eq!((world.spec().release.len(), world.spec().addresses.len(), world.spec().revision), (0, 12, revision + 1));

    let mut world = asked();
    world.acknowledge(&[]);
    world.read();
    let decision = world.decide();
    world.store(&decision);
    world.agent().demand = 40;
    let decision = world.decide();
    assert!(decision.spec.is_none(), "an intent is open");
}

#[test]
fn re1_each_release_has_a_nonce_of_its_own() {
    let mut world = asked();
    let first = world.spec().release[0].nonce.clone();
    world.observed.me.nonce = "drawn later".into();
    world.report(1);
    world.settle();
    assert!(world.spec().release.is_empty());
    world.report(0);
    world.pass(7200);
    world.settle();
    world.pass(900);
    world.settle();
    let second = world.spec().release[0].clone();
    assert_eq!((first.as_str(), second.nonce.as_str()), ("mine", "drawn later"));
    world.acknowledge(&[]);
    world.agent().release_acks[0].nonce = first;
    world.settle();
    assert_eq!(world.azure.slots.len(), 12, "an answer with the nonce of an earlier release");
    world.observed.me.nonce = "drawn last".into();
    world.acknowledge(&[]);
    world.settle();
    assert_eq!(world.azure.slots.len(), 8);
}

#[test]
fn i10_a_release_that_is_not_answered_is_called_off_and_told() {
    let mut world = asked();
    world.policy.release.deadline = seconds(300);
    world.pass(290);
    let wake = world.decide().wake.unwrap();
    assert!(wake <= seconds(11), "{wake:?}");
    assert_eq!(world.spec().release.len(), 1);
    world.pass(10);
    world.settle();
    assert_eq!((world.spec().release.len(), world.spec().addresses.len(), world.azure.slots.len()), (0, 12, 12));
    assert!(world.events.contains(&"ReleaseUnanswered"));
    let alive = |world: &World| {
        let condition = world.condition("AgentAlive");
        (condition.status.clone(), condition.reason.clone())
    };
    assert_eq!(alive(&world), ("False".into(), "ReleaseUnanswered".into()));
    // An answer that comes too late acts no more.
    world.acknowledge(&[]);
    world.settle();
    assert_eq!((world.azure.slots.len(), alive(&world).0.as_str()), (12, "True"));
}

#[test]
fn re8_what_rests_with_the_agent_gets_its_read_when_the_probation_is_over() {
    let mut world = asked();
    world.acknowledge(&[]);
    world.agent().demand = 4;
    world.settle();
    assert!(world.spec().release.is_empty() && world.azure.slots.len() == 12);
    world.report(4);
    world.settle();
    let noted = |world: &World| world.cloud().last_read_at.unwrap().0;
    let (begun, before) = (world.now, noted(&world));
    world.pass(550);
    world.settle();
    let resting = noted(&world);
    assert!(resting <= world.now && since(begun, world.now) < seconds(600));
    let wake = world.decide().wake.unwrap();
    assert!(wake <= seconds(80), "{wake:?}");
    world.pass(70);
    world.settle();
    assert!(noted(&world) >= later(begun, seconds(600)), "{before} {}", noted(&world));
    world.observed.nic.as_mut().unwrap().at += jiff::SignedDuration::from_millis(300);
    let decision = world.decide();
    world.store(&decision);
    assert_eq!(world.decide().cloud, None, "sc1: a read between two whole seconds is noted once");
    let told = noted(&world);
    // It does not go on for ever: the agent has heard.
    world.agent().counts.quarantined = 0;
    world.pass(120);
    world.settle();
    assert_eq!(noted(&world), told);
}

#[test]
fn i2_a_removal_that_ends_without_effect_leaves_its_addresses_listed_and_its_release_closed() {
    let mut world = asked();
    world.acknowledge(&[]);
    world.read();
    let decision = world.decide();
    world.store(&decision);
    world.ended(decision.send.unwrap().intent, failure(Class::Forbidden { action: None, scope: None }, Trace::None));
    world.read();
    let decision = world.decide();
    world.store(&decision);
    assert_eq!((world.spec().release.len(), world.spec().addresses.len(), world.cloud().intent), (0, 12, None));
    assert!(world.events.contains(&"ReleaseFailed"));
}

#[test]
fn i2_a_removal_that_failed_half_way_leaves_none_of_its_addresses_listed() {
    let mut world = asked();
    world.acknowledge(&[]);
    world.read();
    let decision = world.decide();
    world.store(&decision);
    world.ended(decision.send.unwrap().intent, failure(Class::Failed, Trace::Ended));
    // The model names them no more, though the NIC shows them still.
    world.azure.slots.extend((9..=12).map(|slot| (slot, Slot::Dropped(at(slot).address, Unit::Address))));
    world.read();
    let decision = world.decide();
    world.store(&decision);
    assert_eq!((world.spec().release.len(), world.spec().addresses.len(), world.cloud().intent), (0, 8, None));
    assert!(world.events.contains(&"ReleaseFailed"));
    // Nothing but a write ends it, once the agent knows them for gone.
    world.pass(10);
    world.settle();
    assert_eq!((world.azure.slots.len(), world.cloud().intent), (12, None), "the agent has not heard");
    world.report(0);
    world.agent().counts.quarantined = 0;
    let wake = world.decide().wake.unwrap();
    assert!(wake <= seconds(15), "{wake:?}");
    world.pass(15);
    world.settle();
    assert_eq!((world.azure.slots.len(), world.spec().addresses.len(), world.cloud().intent), (8, 8, None));
    assert_eq!(world.events.last(), Some(&"AddressesReleased"));
}

#[test]
fn i2_nothing_is_written_while_a_write_would_end_a_removal_that_nobody_was_asked_about() {
    let mut world = World::filled(12, 4);
    world.settle();
    // Somebody else took it out of the model, and Azure failed to follow.
    world.azure.slots.insert(3, Slot::Dropped(at(3).address, Unit::Address));
    world.report(8);
    world.pass(700);
    world.read();
    let decision = world.decide();
    world.store(&decision);
    assert_eq!((decision.send, world.spec().addresses.len()), (None, 12), "the node needs more, and gets nothing");
    world.pass(61);
    world.settle();
    assert!(world.events.contains(&"AddressLost"), "it is given up first");
    assert!(world.azure.attached().count() >= 16);
}

#[test]
fn a_leader_that_leaves_takes_back_the_removal_that_it_has_not_sent() {
    let mut world = asked();
    world.acknowledge(&[]);
    world.read();
    let decision = world.decide();
    world.observed.leaving = true;
    assert!(world.decide().send.is_none() && world.decide().cloud.is_none_or(|cloud| cloud.intent.is_none()), "nothing is begun");
    world.store(&decision);
    let mut queued = world.clone();
    queued.ended(decision.send.clone().unwrap().intent, failure(Class::NotSent, Trace::None));
    for mut unsent in [world.clone(), queued] {
        unsent.settle();
        assert_eq!((unsent.cloud().intent, unsent.azure.slots.len()), (None, 12));
        assert!(unsent.spec().release.is_empty(), "its successor asks anew");
    }
    let mut lost = world.clone();
    lost.ended(decision.send.unwrap().intent, failure(Class::Unavailable { retry_after: None }, Trace::Unknown));
    let mut earlier = world;
    earlier.observed.memory = Memory::default();
    for mut may_land in [lost, earlier] {
        may_land.read();
        let decision = may_land.decide();
        may_land.store(&decision);
        assert!(may_land.cloud().intent.is_some());
    }
}

#[test]
fn a_leader_that_leaves_takes_back_what_left_no_trace_without_another_look() {
    let mut world = asked();
    world.acknowledge(&[]);
    world.read();
    let decision = world.decide();
    world.store(&decision);
    let intent = decision.send.unwrap().intent;
    world.observed.leaving = true;
    world.pass(1);
    let mut throttled = world.clone();
    throttled.ended(intent, failure(Class::Throttled { retry_after: Some(seconds(600)) }, Trace::None));
    let mut unreadable = world.clone();
    let failed =
        Attempt { intent: None, at: world.now, result: failure(Class::Unavailable { retry_after: None }, Trace::None), failures: 3 };
    unreadable.observed.read_failure = Some(failed);
    for (mut world, what) in [(throttled, "throttled"), (unreadable, "unreadable")] {
        // An older write's failure is not this one's.
        let events = world.events.len();
        let decision = world.decide();
        assert!(!decision.read && decision.send.is_none(), "{what}");
        world.store(&decision);
        assert_eq!((world.cloud().intent, world.spec().release.len(), world.spec().addresses.len()), (None, 0, 12), "{what}");
        assert_eq!(world.events.len(), events, "{what}: nothing failed");
    }
    world.ended(intent, failure(Class::Failed, Trace::Ended));
    assert!(world.decide().read, "what did leave one has to be looked at");
}

#[test]
fn what_is_said_of_a_removal_quotes_no_other_writes_failure() {
    let mut world = bereft();
    world.observed.last = Some(Attempt { intent: Some(0), at: world.now, result: failure(Class::Rejected, Trace::None), failures: 1 });
    world.pass(1200);
    let told = loop {
        let decision = world.decide();
        world.store(&decision);
        if let Some(event) = decision.events.first() {
            break event.clone();
        }
        world.read();
    };
    assert_eq!((told.reason, told.message.as_str()), ("ReleaseFailed", "could not give 4 addresses back"));
}

/// The leader that recorded a removal died; what its agent says still holds.
fn bereft() -> World {
    let mut world = asked();
    world.acknowledge(&[]);
    world.read();
    let decision = world.decide();
    world.store(&decision);
    world.observed.me = Leader { identity: "other".into(), nonce: "other".into() };
    world.observed.memory = Memory::default();
    world
}

#[test]
fn re1_an_earlier_terms_removal_is_not_repeated_and_ends_by_what_the_nic_shows() {
    let mut world = bereft();
    for _ in 0..15 {
        world.pass(60);
        world.read();
        assert_eq!(world.decide().send, None, "its addresses may be pods' again");
    }
    world.pass(60);
    world.settle();
    assert_eq!((world.azure.slots.len(), world.cloud().intent), (12, None));

    let mut world = bereft();
    let removed = settle::change(world.cloud().intent.as_ref().unwrap());
    world.apply(&removed);
    world.settle();
    assert_eq!((world.azure.slots.len(), world.spec().addresses.len(), world.cloud().intent), (8, 8, None), "it had landed");
}

#[test]
fn re6_a_removed_address_that_comes_back_at_once_is_read_again_soon_and_published() {
    let mut world = asked();
    let gone = world.stored().spec.release[0].addresses.clone();
    world.acknowledge(&[]);
    world.settle();
    assert_eq!(world.spec().addresses.len(), 8);
    world.pass(5);
    for at in &gone {
        world.azure.slots.insert(at.slot, Slot::Attached(at.address, at.unit));
    }
    world.read();
    let decision = world.decide();
    assert!(decision.read || decision.wake.is_some_and(|wake| wake <= seconds(61)), "{decision:?}");
    world.store(&decision);
    world.pass(61);
    world.settle();
    assert_eq!(world.spec().addresses.len(), 12);
}

#[test]
fn i9_nothing_goes_within_the_calm_after_a_shortage_a_cordon_or_the_first_fill() {
    let mut world = World::filled(12, 0);
    world.policy.release.calm = seconds(7200);
    world.settle();
    world.pass(3600);
    world.settle();
    assert!(world.spec().release.is_empty(), "it is new");
    world.observed.node.cordoned = true;
    world.pass(7200);
    world.settle();
    world.observed.node.cordoned = false;
    world.settle();
    world.pass(5000);
    world.settle();
    assert!(world.spec().release.is_empty(), "it was cordoned");
    world.pass(3000);
    world.settle();
    assert_eq!(world.spec().release.len(), 1);
}

#[test]
fn i9_the_calm_begins_when_a_cordon_ends_however_soon_after_it_began() {
    let mut world = World::filled(12, 0);
    world.pass(7200);
    world.observed.node.cordoned = true;
    world.settle();
    world.pass(200);
    world.observed.node.cordoned = false;
    world.settle();
    world.pass(500);
    world.settle();
    assert!(world.spec().release.is_empty(), "500 s after the cordon");
}

#[test]
fn i9_a_leader_that_did_not_see_how_the_node_fared_begins_the_calm_at_its_first_look() {
    let mut world = World::filled(12, 0);
    world.pass(7200);
    world.settle();
    // Between two leaders, or while no config selects the node, a cordon came and went.
    world.observed.memory = Memory::default();
    world.settle();
    world.pass(500);
    world.settle();
    assert!(world.spec().release.is_empty(), "500 s after its first look");
    world.pass(200);
    world.settle();
    assert_eq!(world.spec().release.len(), 1);
}

#[test]
fn i9_a_cordon_counts_though_it_came_and_went_while_the_node_was_silent_or_a_write_was_open() {
    for silent in [true, false] {
        let mut world = World::filled(12, 0);
        world.settle();
        if silent {
            world.observed.node.ready = Ready::Unknown;
        } else {
            world.status().cloud.get_or_insert_default().intent = Some(azure_vnet_crds::node::Intent { id: 9, ..Default::default() });
        }
        world.observed.node.cordoned = true;
        world.pass(7200);
        let decision = world.decide();
        world.observed.memory = decision.memory;
        world.observed.node.cordoned = false;
        world.observed.node.ready = Ready::True;
        world.status().cloud.get_or_insert_default().intent = None;
        world.settle();
        world.pass(500);
        world.settle();
        assert!(world.spec().release.is_empty(), "silent: {silent}");
    }
}

/// What can happen between two decisions.
#[derive(Clone, Copy, Debug)]
enum Happens {
    Adopts,
    Refuses,
    Demands(u16),
    Reboots,
    Time(u64),
    LeaderDies,
    LateWriteLands,
}

/// What becomes of a write.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Succeeds,
    IsCut { lands: bool },
    IsRefused,
    DiesWithItsLeader,
}

/// A generator of choices that is the same for the same seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    fn happens(&mut self) -> Happens {
        match self.roll(12) {
            0..=2 => Happens::Adopts,
            3 => Happens::Refuses,
            4 => Happens::Demands(u16::try_from(self.roll(20)).unwrap()),
            5 => Happens::Reboots,
            6 => Happens::Time(700 + self.roll(900)),
            7 => Happens::Time(1 + self.roll(30)),
            8 => Happens::LeaderDies,
            9 => Happens::LateWriteLands,
            _ => Happens::Time(5),
        }
    }

    fn fate(&mut self) -> Fate {
        match self.roll(6) {
            0..=1 => Fate::IsCut { lands: self.roll(2) == 0 },
            2 => Fate::IsRefused,
            3 => Fate::DiesWithItsLeader,
            _ => Fate::Succeeds,
        }
    }
}

/// A toy agent that sets aside what it is asked to and knows what pods hold.
#[derive(Default)]
struct Toy {
    held: BTreeSet<SlotAddress>,
    aside: BTreeSet<SlotAddress>,
    /// A request whose answer was cut off, until when it may land, and the version that it is conditional on.
    late: Option<(Timestamp, Change, u64)>,
    landed: u32,
    terms: u32,
}

impl Toy {
    /// Adopts the object: sets aside what is asked for and free, and lets pods have what is offered.
    fn adopt(&mut self, world: &mut World, refuse: bool) {
        let spec = world.spec().clone();
        let removing: BTreeSet<_> = world.cloud().intent.into_iter().flat_map(|intent| intent.remove).collect();
        let asked = releasing(&spec.release);
        self.held.retain(|at| spec.addresses.contains(at));
        self.aside.retain(|at| asked.contains(at) || removing.contains(at));
        if refuse {
            self.held.extend(asked.iter().filter(|at| !self.aside.contains(at)).take(1));
        }
        self.aside.extend(asked.iter().filter(|at| !self.held.contains(at) && spec.addresses.contains(at)));
        world.report(world.agent_demand());
        let demand = usize::from(world.agent_demand());
        let (aside, held) = (self.aside.clone(), &mut self.held);
        while held.len() > demand {
            held.pop_last();
        }
        let free: Vec<_> =
            spec.addresses.iter().filter(|at| !held.contains(at) && !aside.contains(at) && !asked.contains(at)).copied().collect();
        held.extend(free.into_iter().take(demand.saturating_sub(held.len())));
        let held = held.clone();
        let agent = world.agent();
        agent.counts.quarantined = u16::try_from(aside.len()).unwrap();
        let answered = |release: azure_vnet_crds::node::Release| {
            let (quarantined, refused) = release.addresses.into_iter().partition(|at| aside.contains(at) && !held.contains(at));
            ReleaseAck { id: release.id, nonce: release.nonce, quarantined, refused }
        };
        agent.release_acks = spec.release.into_iter().map(answered).collect();
    }

    /// Another leader takes over.
    fn succeed(&mut self, world: &mut World) {
        self.terms += 1;
        let name = format!("leader{}", self.terms);
        world.observed.me = Leader { identity: name.clone(), nonce: name };
        (world.observed.memory, world.observed.last) = (Memory::default(), None);
    }

    /// Azure changes the NIC: nothing that a pod holds may go.
    fn azure(&self, world: &mut World, change: &Change) {
        let still = change.remove.iter().filter(|at| world.azure.shows(**at)).copied().collect();
        let change = Change { remove: still, ..change.clone() };
        for at in &change.remove {
            assert!(!self.held.contains(at), "{at} is in use");
            assert!(self.aside.contains(at), "{at} is not set aside");
        }
        world.apply(&change);
    }
}

impl World {
    fn agent_demand(&self) -> u16 {
        self.observed.object.as_ref().and_then(|stored| status(stored).agent.as_ref()).map_or(0, |agent| agent.demand)
    }
}

#[test]
fn i2_no_interleaving_takes_an_address_from_a_pod_and_all_come_to_rest() {
    let landed: u32 = (0..500).map(|seed| interleave(seed, false)).sum();
    assert!(landed > 20, "late writes are part of it: {landed}");
}

#[test]
fn i2_changes_of_the_unit_take_no_address_from_a_pod_and_lock_no_node_up() {
    let landed: u32 = (0..1000).map(|seed| interleave(seed, true)).sum();
    assert!(landed > 20, "late writes are part of it: {landed}");
}

fn interleave(seed: u64, changing: bool) -> u32 {
    let mut dice = Dice(seed);
    let mut world = World::filled(16, 6);
    if changing {
        world = world.with_blocks();
    }
    let mut toy = Toy::default();
    toy.adopt(&mut world, false);
    for _ in 0..60 {
        if changing && dice.roll(6) == 0 {
            world.policy.unit = if world.policy.unit == Unit::Address { Unit::Block28 } else { Unit::Address };
        }
        match dice.happens() {
            Happens::Adopts => toy.adopt(&mut world, false),
            Happens::Refuses => toy.adopt(&mut world, true),
            Happens::Demands(demand) => world.agent().demand = demand,
            Happens::Reboots => {
                world.observed.node.boot_id = format!("boot{}", dice.roll(2));
                toy.held.clear();
            }
            Happens::Time(time) => world.pass(time),
            Happens::LeaderDies => toy.succeed(&mut world),
            Happens::LateWriteLands => late(&mut toy, &mut world),
        }
        go(&mut world, &mut toy, dice.fate());
    }
    // Left alone, everything comes to rest.
    toy.late = None;
    for _ in 0..40 {
        world.pass(300);
        world.observed.node.boot_id = "boot".into();
        toy.adopt(&mut world, false);
        go(&mut world, &mut toy, Fate::Succeeds);
    }
    assert_eq!(world.cloud().intent, None, "seed {seed}");
    assert!(world.cloud().attached >= world.cloud().target, "seed {seed}");
    assert_eq!(world.azure.attached().collect::<Vec<_>>(), world.spec().addresses, "seed {seed}");
    toy.landed
}

fn late(toy: &mut Toy, world: &mut World) {
    if let Some((until, change, built_from)) = toy.late.take()
        && world.now < until
        && world.version == built_from
    {
        assert!(world.cloud().intent.is_some(), "nothing else is begun while a write may land");
        toy.landed += 1;
        toy.azure(world, &change);
    }
}

/// Decides and does until nothing is left; the first write to Azure goes as told.
fn go(world: &mut World, toy: &mut Toy, mut fate: Fate) {
    for _ in 0..12 {
        let decision = world.decide();
        let again = decision.spec.is_some() || decision.cloud.is_some();
        world.store(&decision);
        if let Some(send) = &decision.send {
            match std::mem::replace(&mut fate, Fate::Succeeds) {
                Fate::Succeeds => {
                    toy.azure(world, &send.change);
                    world.ended(send.intent, Ok(()));
                }
                Fate::IsCut { lands } => {
                    world.ended(send.intent, failure(Class::Unavailable { retry_after: None }, Trace::Unknown));
                    if lands {
                        toy.azure(world, &send.change);
                    } else {
                        toy.late = Some((later(send.not_after, world.policy.grace), send.change.clone(), world.version));
                    }
                }
                Fate::IsRefused => world.ended(send.intent, failure(Class::Rejected, Trace::None)),
                Fate::DiesWithItsLeader => {
                    toy.late = Some((later(send.not_after, world.policy.grace), send.change.clone(), world.version));
                    return toy.succeed(world);
                }
            }
        } else if decision.read {
            world.read();
        } else if !again {
            return;
        }
    }
}

#[test]
fn addresses_in_use_do_not_keep_others_from_going_back() {
    let mut world = World::filled(40, 10);
    world.policy.release.jitter_percent = 0;
    let in_use: Vec<u8> = (31..=40).collect();
    for _ in 0..400 {
        world.pass(10);
        world.report(10);
        world.settle();
        world.acknowledge(&in_use);
        world.settle();
        world.agent().counts.quarantined = 0;
    }
    let asked = world.events.iter().filter(|event| **event == "ReleaseRequested").count();
    assert_eq!(world.azure.slots.len(), 20, "down to the target");
    assert!(in_use.iter().all(|slot| world.azure.slots.contains_key(slot)));
    assert!(asked < 20, "asked {asked} times");
}

#[test]
fn when_all_is_in_use_the_agent_is_asked_again_only_after_the_whole_period() {
    let mut world = World::filled(40, 10);
    world.policy.release.jitter_percent = 0;
    let all: Vec<u8> = (1..=40).collect();
    for _ in 0..400 {
        world.pass(10);
        world.report(10);
        world.settle();
        world.acknowledge(&all);
        world.settle();
    }
    let asked = world.events.iter().filter(|event| **event == "ReleaseRequested").count();
    assert!(asked <= 8 * 7, "8 releases cover all, at most once in ten minutes: {asked}");
}

#[test]
fn a_stale_read_does_not_bring_back_what_was_removed() {
    let mut world = World::filled(40, 10);
    world.policy.release.jitter_percent = 0;
    let before = world.azure.clone();
    while world.azure.slots.len() == 40 {
        world.pass(10);
        world.report(10);
        world.settle();
        world.acknowledge(&[]);
        world.settle();
    }
    let gone: Vec<SlotAddress> = before.attached().filter(|at| world.azure.at(at.slot).is_none()).collect();
    assert!(gone.iter().all(|at| !world.spec().addresses.contains(at)));
    world.pass(5);
    world.observed.nic = Some(NicRead { view: before.into(), at: world.now, ended: world.now });
    let decision = world.decide();
    world.store(&decision);
    assert!(gone.iter().all(|at| !world.spec().addresses.contains(at)));
}
