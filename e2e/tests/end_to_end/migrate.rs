//! From another plugin's bridge to the VNET and back, node by node; from the original plugins to ours, node by node and back, and in place.

use std::time::Duration;

use azure_vnet_e2e::lab::{Cni, Lab, LabOptions};
use azure_vnet_e2e::scenario::{self, Cluster, migrate, original, uninstall};

#[test]
fn nodes_change_from_a_bridge_with_private_addresses_to_the_vnet_one_by_one_and_back() {
    let lab = Lab::up(&LabOptions { cni: Cni::Bridge, ..LabOptions::default() }).unwrap();
    let cluster = Cluster::new(&lab).unwrap();
    scenario::wait_ready(&cluster, Duration::from_mins(1)).unwrap();
    let before = migrate::start_pods(&cluster, migrate::MOVER).unwrap();
    assert!(before.iter().all(|pod| pod.address.octets()[1] == 244), "{before:?}");
    scenario::install(&cluster, &migrate::VALUES).unwrap();
    scenario::configure(&cluster, migrate::CONFIG).unwrap();
    assert!(uninstall::attached(&cluster).unwrap().is_empty(), "no node is selected yet");

    let other = migrate::take_over(&cluster, "n2").unwrap();
    let pods = migrate::pods(&cluster, migrate::MOVER).unwrap();
    migrate::all_reach_all(&cluster, &pods).unwrap();
    migrate::take_over(&cluster, "n3").unwrap();
    let pods = migrate::pods(&cluster, migrate::MOVER).unwrap();
    migrate::all_reach_all(&cluster, &pods).unwrap();
    migrate::give_back(&cluster, "n2", &other).unwrap();
    let pods = migrate::pods(&cluster, migrate::MOVER).unwrap();
    migrate::all_reach_all(&cluster, &pods).unwrap();
    lab.down().unwrap();
}

#[test]
fn nodes_change_from_the_original_one_by_one_and_back_and_in_place_under_lasting_connections() {
    original::run(1, &mut |line| println!("{line}")).unwrap();
}
