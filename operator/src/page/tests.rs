use azure_vnet_crds::{AzureVnetConfig, AzureVnetNode, AzureVnetSubnet};
use azure_vnet_operator_core::look::{Cluster, Event, Machine};
use serde_json::json;

use super::{Look, node, overview};
use crate::azure::Level;

const SUBNET: &str = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/v/subnets/pods";

fn pool(name: &str, used: u16, ready: bool) -> AzureVnetNode {
    let status = if ready { ("True", "Ready") } else { ("False", "NicUnwritable") };
    serde_json::from_value(json!({
        "apiVersion": "azure-vnet.dev/v1alpha1", "kind": "AzureVnetNode", "metadata": {"name": name},
        "spec": {
            "config": {"name": "default"}, "node": {"kind": "VM", "subnetID": SUBNET, "subnetPrefix": "10.240.0.0/24", "nicID": "/nic"}, "revision": 3,
            "effective": {"pool": {"max": 12}},
            "addresses": ["1/10.240.0.10", "2/10.240.0.11", "3/10.240.0.12"],
            "release": [{"id": 7, "nonce": "n", "addresses": ["3/10.240.0.12"]}],
            "lost": ["9/10.240.0.19"],
        },
        "status": {
            "cloud": {"attached": 8, "target": 8, "intent": {"id": 8, "op": "Add", "add": [4, 5]}},
            "agent": {"counts": {"assigned": used, "free": 8 - used}},
            "conditions": [{"type": "Ready", "status": status.0, "reason": status.1, "message": "<b>why</b>", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
        },
    }))
    .unwrap()
}

fn look() -> Look {
    let config = json!({"apiVersion": "azure-vnet.dev/v1alpha1", "kind": "AzureVnetConfig", "metadata": {"name": "default"}, "spec": {}});
    let subnet = json!({
        "apiVersion": "azure-vnet.dev/v1alpha1", "kind": "AzureVnetSubnet", "metadata": {"name": "pods"}, "spec": {"subnetID": SUBNET},
        "status": {"limit": 251, "free": 200, "roomForNodes": 20, "needs": 3, "burnPerHour": 5, "exhaustedAt": "2026-01-03T12:00:00Z"},
    });
    let machine = |name: &str| Machine { name: name.into(), os: "linux".into(), ready: "True".into(), ..Machine::default() };
    let event = Event {
        reason: "Filled".into(),
        message: "8 addresses & no more".into(),
        kind: "AzureVnetNode".into(),
        name: "n1".into(),
        ..Event::default()
    };
    let cluster = Cluster {
        at: "2026-01-02T00:00:00Z".parse().unwrap(),
        configs: vec![serde_json::from_value::<AzureVnetConfig>(config).unwrap()],
        pools: vec![pool("n1", 4, true), pool("n2", 8, false)],
        subnets: vec![serde_json::from_value::<AzureVnetSubnet>(subnet).unwrap()],
        machines: ["n1", "n2", "n3"].map(machine).into(),
        events: vec![event],
        ..Cluster::default()
    };
    Look {
        cluster,
        budgets: vec![Level { subscription: "s".into(), class: "arm_read", left: 120, burst: 150, closed: None }],
        leads: true,
        replica: "controller-a".into(),
    }
}

#[test]
fn every_picture_says_in_text_what_it_shows() {
    let page = overview(&look());
    for said in [
        "subnet pods: 18 ours, 33 of others, 200 left",
        "n1: 4 of 8 used, ready",
        "n2: 8 of 8 used, NicUnwritable",
        "n3: 0 of 0 used",
        "arm_read: 120 left, 30 spent",
        "16 addresses of all nodes: 12 used, 4 free",
        "empty in 1d12h",
        "needs 3 addresses more",
        "8 addresses &amp; no more",
        "controller-a leads",
    ] {
        assert!(page.contains(said), "{said} is not in {page}");
    }
    assert_eq!(page.matches("<svg").count(), page.matches("role=\"img\"").count());
}

#[test]
fn a_page_has_no_script_and_nothing_from_elsewhere() {
    let look = look();
    for page in [overview(&look), node(&look, "n1").unwrap()] {
        for sign in ["<script", "http:", "https:", "@import", "url(", "<img", "<link", "onclick", "<b>why"] {
            assert!(!page.contains(sign), "{sign} in {page}");
        }
        assert!(page.contains("prefers-color-scheme") || page.contains("light-dark("), "a dark mode");
    }
}

#[test]
fn a_nodes_page_shows_each_slot_and_what_becomes_of_it() {
    let page = node(&look(), "n1").unwrap();
    for said in [
        "avn-1 10.240.0.10 published",
        "avn-3 10.240.0.12 leaving",
        "avn-4  coming",
        "avn-9 10.240.0.19 lost",
        "avn-12  empty",
        "write 8: 2 added, 0 removed",
        "&lt;b&gt;why&lt;/b&gt;",
    ] {
        assert!(page.contains(said), "{said} is not in {page}");
    }
    assert!(!page.contains("avn-13"), "it may have no more than twelve");
    assert!(node(&look(), "elsewhere").is_none());
}

#[test]
fn a_cluster_without_anything_says_what_to_do() {
    let page = overview(&Look::default());
    assert!(page.contains("There is no AzureVnetConfig") && page.contains("The replica that leads"), "{page}");
}
