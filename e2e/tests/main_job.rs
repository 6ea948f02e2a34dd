//! The main job, on real Kubernetes: pods get VNET addresses that the controller put on their node's NIC. Needs root.

use std::time::Duration;

use azure_vnet_e2e::lab::{Lab, LabOptions};
use azure_vnet_e2e::scenario::{self, Checker, Cluster};

#[test]
fn pods_get_vnet_addresses_through_all_that_happens_to_a_cluster() {
    let lab = Lab::up(&LabOptions::default()).unwrap();
    let cluster = Cluster::new(&lab).unwrap();
    let checker = Checker::start(&lab);
    assert!(scenario::not_ready_reasons(&cluster).unwrap().values().all(|why| why.contains("cni plugin not initialized")));

    scenario::install(&cluster, &[]).unwrap();
    let refused = scenario::wrong_configs(&cluster).unwrap();
    assert!(refused >= 20, "{refused} wrong configs were tried");
    scenario::configure(&cluster, scenario::CONFIG).unwrap();
    scenario::wait_ready(&cluster, Duration::from_mins(2)).unwrap();

    let pods = scenario::start_pods(&cluster, Duration::from_mins(2)).unwrap();
    let nics = cluster.azure(async |azure| azure.nics().await).unwrap();
    for pod in &pods {
        let nic = nics.iter().find(|nic| nic.node.as_deref() == Some(&pod.node)).unwrap();
        assert!(nic.configurations.iter().any(|config| config.address == Some(pod.address)), "{pod:?} is on its node's NIC");
    }
    let matrix = scenario::reach(&cluster, &pods).unwrap();
    matrix.check(&pods, |node| lab.node(node).unwrap().address()).unwrap();

    scenario::start_and_stop_without_daemons(&cluster).unwrap();
    scenario::reboot(&cluster, &lab.node("n2").unwrap(), Duration::from_mins(2)).unwrap();

    let burst = scenario::burst(&cluster, "n3", 40, Duration::from_mins(4)).unwrap();
    assert!(burst.writes.len() <= 4, "a burst is few writes: {:?}", burst.writes);
    let handshake = scenario::give_back(&cluster, "n3", Duration::from_mins(4)).unwrap();
    assert!(handshake.attached.1 < handshake.attached.0, "{handshake:?}");

    checker.finish().unwrap();
    lab.down().unwrap();
}
