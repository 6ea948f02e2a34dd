//! The main job: pods get VNET addresses that the controller put on their node's NIC.

use std::time::Duration;

use azure_vnet_e2e::lab::{KubeProxy, Lab, LabOptions};
use azure_vnet_e2e::scenario::{self, Checker, Cluster, Rights};

#[test]
fn pods_get_vnet_addresses_through_all_that_happens_to_a_cluster() {
    let lab = Lab::up(&LabOptions::default()).unwrap();
    let cluster = Cluster::new(&lab).unwrap();
    let checker = Checker::start(&lab);
    scenario::without_network(&cluster, Duration::from_mins(1)).unwrap();

    scenario::install(&cluster, &[]).unwrap();
    let refused = scenario::wrong_configs(&cluster).unwrap();
    assert!(refused >= 20, "{refused} wrong configs were tried");
    scenario::configure(&cluster, &scenario::CONFIG.replace("after: 70s", "after: 30s")).unwrap();
    scenario::wait_ready(&cluster, Duration::from_mins(2)).unwrap();
    assert_ne!(scenario::wrong_nodes(&cluster, "n1").unwrap(), 0);

    let pods = scenario::start_pods(&cluster, Duration::from_mins(2)).unwrap();
    let nics = cluster.azure(async |azure| azure.nics().await).unwrap();
    for pod in &pods {
        let nic = nics.iter().find(|nic| nic.node.as_deref() == Some(&pod.node)).unwrap();
        assert!(nic.configurations.iter().any(|config| config.address == Some(pod.address)), "{pod:?} is on its node's NIC");
    }
    let matrix = scenario::reach(&cluster, &pods).unwrap();
    matrix.check(&pods, |node| lab.node(node).unwrap().address()).unwrap();

    scenario::services(&cluster).unwrap();

    scenario::start_and_stop_without_daemons(&cluster).unwrap();
    scenario::reboot(&cluster, &lab.node("n2").unwrap(), Duration::from_mins(2)).unwrap();

    let burst = scenario::burst(&cluster, "n3", 40, Duration::from_mins(4)).unwrap();
    assert!(burst.writes.len() <= 4, "a burst is few writes: {:?}", burst.writes);
    let handshake = scenario::give_back(&cluster, "n3", Duration::from_mins(4)).unwrap();
    assert!(handshake.attached.1 < handshake.attached.0, "{handshake:?}");
    scenario::told::set_back(&cluster, "n1", Duration::from_mins(1)).unwrap();
    only_what_is_needed_is_allowed(&scenario::rights(&cluster).unwrap());

    checker.finish().unwrap();
    lab.down().unwrap();
}

/// Rights that this job need not use, and why they are given.
const SELDOM: &[(&str, &str, &str, &str)] = &[
    (
        "controller",
        "create",
        "azurevnetnodes.azure-vnet.dev",
        "the log calls the first apply of an object a patch; it takes this right too",
    ),
    ("controller", "create", "azurevnetsubnets.azure-vnet.dev", "as above"),
    ("controller", "delete", "azurevnetnodes.azure-vnet.dev", "only of a node that was made anew under its name"),
    ("controller", "delete", "azurevnetsubnets.azure-vnet.dev", "only once no node is in a subnet any more"),
    ("controller", "patch", "nodes/status", "only where a former plugin left NetworkUnavailable"),
    ("controller", "patch", "events.events.k8s.io", "only where the same event happens again"),
    ("agent", "patch", "events.events.k8s.io", "only where the same event happens again"),
    ("agent", "get", "azurevnetnodes.azure-vnet.dev", "only where the clocks jumped: the watch's copy is no witness then"),
];

fn only_what_is_needed_is_allowed(rights: &Rights) {
    assert!(rights.used.len() > 15, "the audit log knows the product's accounts: {:?}", rights.used);
    assert!(rights.refused.is_empty(), "what the roles should allow: {:#?}", rights.refused);
    let is_seldom = |deed: &(&str, &str, &str)| SELDOM.iter().any(|(part, verb, resource, _)| (*part, *verb, *resource) == *deed);
    let idle: Vec<_> = rights.idle().into_iter().filter(|deed| !is_seldom(deed)).collect();
    assert!(idle.is_empty(), "what the roles allow for nothing: {idle:#?}");
}

#[test]
fn st6_what_is_set_aside_stays_so_over_a_reboot_until_azure_has_it_back() {
    let lab = Lab::up(&LabOptions::default()).unwrap();
    let cluster = Cluster::new(&lab).unwrap();
    let checker = Checker::start(&lab);
    scenario::install(&cluster, &[]).unwrap();
    scenario::configure(&cluster, &scenario::config_of_a_small_node()).unwrap();
    scenario::wait_ready(&cluster, Duration::from_mins(2)).unwrap();
    let seen = scenario::reboot_with_addresses_set_aside(&cluster, &["n3", "n2"], Duration::from_mins(4)).unwrap();
    println!("{} addresses were set aside, and in no look of {} did a pod have one", seen.addresses.len(), seen.looks);
    checker.finish().unwrap();
    lab.down().unwrap();
}

/// As AKS runs kube-proxy unless told otherwise: with iptables, and with pod addresses that are not the pods' (safety rule PK5).
#[test]
fn pk5_services_work_beside_kube_proxy_in_iptables_mode_with_a_foreign_cluster_cidr() {
    let options = LabOptions { kube_proxy: KubeProxy::Iptables, cluster_cidr: "10.244.0.0/16".parse().unwrap(), ..LabOptions::default() };
    let lab = Lab::up(&options).unwrap();
    let cluster = Cluster::new(&lab).unwrap();
    let checker = Checker::start(&lab);
    scenario::install(&cluster, &[]).unwrap();
    scenario::configure(&cluster, scenario::CONFIG).unwrap();
    scenario::wait_ready(&cluster, Duration::from_mins(2)).unwrap();
    let pods = scenario::start_pods(&cluster, Duration::from_mins(2)).unwrap();
    scenario::reach(&cluster, &pods).unwrap().check(&pods, |node| lab.node(node).unwrap().address()).unwrap();
    scenario::services(&cluster).unwrap();
    let door = pods.iter().find(|pod| pod.node == "n3").unwrap();
    let seen = scenario::blocks::there_and_back(&cluster, ("n2", "n1"), door, Duration::from_mins(4)).unwrap();
    println!("{} pods had addresses of the blocks {:?}, of which {:?} are left", seen.pods, seen.came, seen.left);
    scenario::names(&cluster, &pods).unwrap();
    scenario::names_by_a_cache(&cluster, &pods, &lab.node("n2").unwrap()).unwrap();
    checker.finish().unwrap();
    lab.down().unwrap();
}
