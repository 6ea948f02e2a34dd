//! Two real controllers, of which the leader dies or is cut off in the middle of a write to a NIC.

use std::time::Duration;

use azure_vnet_e2e::lab::{Lab, LabOptions};
use azure_vnet_e2e::scenario::{self, Blow, Checker, Cluster, Moment};

#[test]
fn another_leader_finishes_what_one_began_and_no_address_is_lost_or_given_twice() {
    let lab = Lab::up(&LabOptions::default()).unwrap();
    let cluster = Cluster::new(&lab).unwrap();
    let checker = Checker::start(&lab);
    scenario::install(&cluster, &[]).unwrap();
    scenario::configure(&cluster, scenario::CONFIG).unwrap();
    scenario::wait_ready(&cluster, Duration::from_mins(2)).unwrap();
    let rounds = [
        ("n1", Blow::Kill, Moment::InFlight),
        ("n2", Blow::Cut, Moment::InFlight),
        ("n3", Blow::Kill, Moment::Unsent),
        ("n1", Blow::Cut, Moment::Unsent),
        ("n3", Blow::Kill, Moment::InFlight),
    ];
    for (round, (node, blow, moment)) in rounds.into_iter().enumerate() {
        let seen = scenario::failover(&cluster, round, node, blow, moment).unwrap();
        println!("{blow:?} {moment:?} on {node}: {seen:.1?}");
    }
    checker.finish().unwrap();
    lab.down().unwrap();
}
