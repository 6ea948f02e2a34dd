//! An instance with which Azure is done though its NIC and its model disagree.

use super::*;

/// Passes for a time, each when the last one asked for it; how often the NIC was read.
fn reads(world: &mut World, time: u64) -> u32 {
    let (end, mut reads) = (later(world.now, seconds(time)), 0);
    while world.now < end {
        let decision = world.decide();
        world.store(&decision);
        assert_eq!(decision.send, None);
        if decision.read {
            reads += 1;
            world.read();
        } else if decision.spec.is_none() && decision.cloud.is_none() {
            world.pass(decision.wake.map_or(1, |wake| wake.as_secs().max(1)));
        }
    }
    reads
}

#[test]
fn an_instance_whose_nic_and_model_disagree_for_good_is_read_ever_less_often_and_says_so() {
    let mut world = World::filled(8, 8);
    world.azure.state = State::Lagging;
    world.read();
    assert!(reads(&mut world, 20) >= 3, "most catch up in seconds");
    assert_eq!(world.condition("NicWritable").status, "True");
    let (minutes, hours) = (reads(&mut world, 600), reads(&mut world, 7200));
    assert!(minutes <= 20 && (24..=30).contains(&hours), "{minutes} in ten minutes, {hours} in two hours");
    for kind in ["NicWritable", "InDeficit"] {
        assert_eq!(world.condition(kind).reason, "ModelDiffers", "{kind}");
    }
    world.azure.state = State::Settled;
    world.read();
    world.settle();
    assert_eq!((world.condition("NicWritable").status.as_str(), world.azure.slots.len()), ("True", 16));
    world.azure.state = State::Lagging;
    world.report(16);
    world.read();
    assert!(reads(&mut world, 20) >= 3, "another time begins anew");
}
