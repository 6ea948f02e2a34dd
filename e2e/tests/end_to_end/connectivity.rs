//! `kubectl azure-vnet connectivity` on a running cluster: with all ways open, with some that are not, and broken off.

use std::time::Duration;

use azure_vnet_e2e::lab::{Lab, LabOptions};
use azure_vnet_e2e::scenario::{self, Checker, Cluster, connected};

use super::pods;

const SOON: Duration = Duration::from_mins(1);

#[test]
fn connectivity_finds_what_is_cut_off_and_leaves_nothing_behind() {
    let lab = Lab::up(&LabOptions::default()).unwrap();
    let cluster = Cluster::new(&lab).unwrap();
    let checker = Checker::start(&lab);
    scenario::install(&cluster, &[]).unwrap();
    scenario::configure(&cluster, scenario::CONFIG).unwrap();
    cluster.apply(&pods("one", "n3", 1)).unwrap();
    cluster.apply(&pods("other", "n2", 1)).unwrap();
    let other = scenario::wait_for("pods on two nodes", SOON, || {
        let pods = cluster.pods("app in (one,other)")?;
        let other = pods.iter().find(|pod| pod.node == "n2").cloned();
        Ok(if pods.len() == 2 { other.ok_or_else(String::new) } else { Err(format!("{pods:?}")) })
    })
    .unwrap();

    connected::all_reached(&cluster, &["n1", "n2"], &["10.50.0.10:8080", "203.0.113.10:8080"]).unwrap();
    connected::faults_are_found(&cluster, "app in (one,other)", &other).unwrap();
    connected::broken_off(&cluster, "n1", SOON).unwrap();
    checker.finish().unwrap();
    lab.down().unwrap();
}
