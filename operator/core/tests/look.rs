//! What people are shown of a cluster, word by word. `UPDATE_SNAPSHOTS=1 cargo test` writes the files anew.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test says what it expected by failing there")]

use std::{fmt::Display, fs, net::Ipv4Addr, path::PathBuf};

use azure_vnet_crds::{AzureVnetConfig, AzureVnetNode, AzureVnetSubnet};
use azure_vnet_operator_core::look::{
    Cluster, Event, ExplainError, Machine, Pod, Redaction, Service, State, Verdict, explain, node, overview, plan, preflight, redact, why,
};
use serde_json::{Value, json};

const SUBNET: &str = "/subscriptions/s/resourceGroups/net/providers/Microsoft.Network/virtualNetworks/vnet-1/subnets/snet-nodes";

fn snapshot(name: &str, shown: &impl Display) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/look").join(name);
    let shown = shown.to_string();
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        fs::write(&path, &shown).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert!(shown == expected, "{} is not what is shown now:\n{shown}", path.display());
}

fn pool(number: u8, status: &Value) -> AzureVnetNode {
    let addresses: Vec<String> = (1..=12).map(|slot| format!("{slot}/10.0.0.{}", 20 * u16::from(number) + slot)).collect();
    serde_json::from_value(json!({
        "apiVersion": "azure-vnet.dev/v1alpha1",
        "kind": "AzureVnetNode",
        "metadata": {"name": format!("aks-{number}"), "uid": format!("uid-{number}")},
        "spec": {
            "node": {
                "kind": "VmssUniform",
                "nicID": format!("/subscriptions/s/resourceGroups/mc/providers/Microsoft.Network/networkInterfaces/nic-{number}"),
                "subnetID": SUBNET, "subnetPrefix": "10.0.0.0/24", "primaryAddress": format!("10.0.0.{}", 3 + number),
                "vnetCIDRs": ["10.0.0.0/16", "10.200.0.0/16"],
            },
            "revision": 7,
            "config": {"name": "default", "generation": 2},
            "effective": {"masquerade": {"nonMasqueradeCIDRs": ["192.168.0.0/16"], "masqueradeCIDRs": ["10.0.200.0/24"]}},
            "addresses": addresses,
        },
        "status": status,
    }))
    .unwrap()
}

fn condition(kind: &str, status: &str, reason: &str, message: &str) -> Value {
    json!({"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": "2026-11-21T07:00:00Z"})
}

fn agent(counts: &Value, demand: u16) -> Value {
    json!({"revisionAdopted": 7, "demand": demand, "counts": counts, "ready": true, "version": "0.1.0"})
}

/// One node that is well, one that is full while Azure refuses, one that has just joined, one with Windows.
fn cluster() -> Cluster {
    let well = json!({
        "cloud": {"attached": 12, "target": 12, "foreign": 1, "lastReadAt": "2026-11-21T07:18:00Z"},
        "agent": agent(&json!({"assigned": 3, "cooling": 1, "free": 8}), 4),
        "conditions": [condition("Ready", "True", "Ready", "The node's pods get VNET addresses.")],
    });
    let full = json!({
        "cloud": {
            "attached": 12, "target": 24, "foreign": 1, "lastReadAt": "2026-11-21T07:19:00Z",
            "intent": {
                "id": 31, "op": "Add", "add": [13, 14, 15, 16], "leader": "controller-a",
                "createdAt": "2026-11-21T07:19:52Z", "notAfter": "2026-11-21T07:29:52Z",
            },
            "lastError": {
                "code": "SubnetIsFull", "message": "Subnet snet-nodes is full", "action": "Enlarge the subnet, or lower pool.max.",
                "at": "2026-11-21T07:15:00Z", "retryAt": "2026-11-21T07:20:10Z",
            },
        },
        "agent": agent(&json!({"assigned": 12}), 14),
        "conditions": [
            condition("Ready", "False", "SubnetIsFull", "Enlarge the subnet, or lower pool.max."),
            condition("InDeficit", "True", "SubnetIsFull", "Enlarge the subnet, or lower pool.max."),
        ],
    });
    let mut pools = vec![pool(1, &well), pool(2, &full)];
    pools[0].spec.lost = vec!["40/10.0.0.99".parse().unwrap()];
    let machine = |name: &str, os: &str, ready: &str| Machine {
        name: name.into(),
        os: os.into(),
        ready: ready.into(),
        provider_id: format!("azure:///subscriptions/s/resourceGroups/mc/providers/Microsoft.Compute/virtualMachines/{name}"),
        max_pods: 110,
        ..Machine::default()
    };
    Cluster {
        at: "2026-11-21T07:20:00Z".parse().unwrap(),
        version: "v1.33.2".into(),
        configs: vec![AzureVnetConfig::new("default", serde_json::from_value(json!({})).unwrap())],
        pools,
        subnets: vec![subnet()],
        machines: vec![
            machine("aks-1", "linux", "True"),
            machine("aks-2", "linux", "True"),
            machine("aks-3", "linux", "False"),
            machine("win-1", "windows", "True"),
        ],
        pods: vec![pod("web-0", "aks-1", Some([10, 0, 0, 21])), pod("web-1", "aks-2", None), pod("lost", "aks-1", Some([10, 0, 0, 99]))],
        services: vec![Service { namespace: "default".into(), name: "web".into(), address: Some(Ipv4Addr::new(10, 2, 0, 10)) }],
        events: vec![
            attached("aks-1", "attached 2 addresses: avn-1, avn-2 (write 7 of 2026-11-21T07:01:00Z)"),
            attached("aks-1", "attached 1 addresses: avn-11"),
            attached("aks-2", "attached 1 addresses: avn-1"),
            Event {
                at: Some("2026-11-21T07:19:50Z".parse().unwrap()),
                warning: true,
                reason: "FailedCreatePodSandBox".into(),
                message: "plugin type=\"azure-vnet\" failed (add): no address is free".into(),
                kind: "Pod".into(),
                namespace: "default".into(),
                name: "web-1".into(),
                count: 3,
            },
        ],
    }
}

fn attached(node: &str, message: &str) -> Event {
    Event {
        at: Some("2026-11-21T07:01:09Z".parse().unwrap()),
        reason: "AddressesAttached".into(),
        message: message.into(),
        kind: "AzureVnetNode".into(),
        name: node.into(),
        count: 1,
        ..Event::default()
    }
}

fn subnet() -> AzureVnetSubnet {
    let status = json!({
        "prefixes": ["10.0.0.0/24"], "limit": 251, "used": 249, "free": 2, "ours": 24, "nodes": 2, "needs": 10, "roomForNodes": 0,
        "conditions": [condition("Low", "True", "TooSmall", "The nodes need 10 more addresses than are left: add a prefix to the subnet, or lower pool.max.")],
    });
    let kind = json!({"apiVersion": "azure-vnet.dev/v1alpha1", "kind": "AzureVnetSubnet", "metadata": {"name": "vnet-1-snet-nodes-1"}});
    let mut object = kind.as_object().unwrap().clone();
    object.extend([("spec".to_owned(), json!({"subnetID": SUBNET.to_uppercase()})), ("status".to_owned(), status)]);
    serde_json::from_value(Value::Object(object)).unwrap()
}

fn pod(name: &str, node: &str, address: Option<[u8; 4]>) -> Pod {
    Pod {
        namespace: "default".into(),
        name: name.into(),
        uid: format!("uid-of-{name}"),
        node: Some(node.into()),
        address: address.map(Ipv4Addr::from),
        phase: if address.is_some() { "Running" } else { "Pending" }.into(),
        bound: Some("2026-11-21T07:10:00Z".parse().unwrap()),
        networked: address.map(|_| "2026-11-21T07:10:01Z".parse().unwrap()),
        ..Pod::default()
    }
}

#[test]
fn the_cluster_at_a_glance() {
    snapshot("status.txt", &overview(&cluster()));
}

#[test]
fn an_empty_cluster_says_what_it_lacks() {
    snapshot("empty.txt", &overview(&Cluster::default()));
    assert!(!preflight(&Cluster::default()).passed());
}

#[test]
fn a_node_in_full() {
    snapshot("node.txt", &node(&cluster(), "aks-1").unwrap());
    snapshot("node-full.txt", &node(&cluster(), "aks-2").unwrap());
    assert!(node(&cluster(), "nobody").is_none());
    assert!(node(&cluster(), "win-1").unwrap().row.reason.contains("Windows"));
}

#[test]
fn a_pod_is_followed_to_its_address_or_to_what_it_waits_for() {
    let cluster = cluster();
    snapshot("why.txt", &why(&cluster, "default", "web-0").unwrap());
    snapshot("why-waiting.txt", &why(&cluster, "default", "web-1").unwrap());
    snapshot("why-lost.txt", &why(&cluster, "default", "lost").unwrap());
    let change = |change: &dyn Fn(&mut Cluster)| {
        let mut changed = cluster.clone();
        change(&mut changed);
        why(&changed, "default", "web-0").unwrap()
    };
    let over = change(&|cluster| cluster.pods[0].phase = "Succeeded".into());
    assert_eq!((over.verdict.as_str(), over.steps.len()), ("it has run to its end; 10.0.0.21, which it had, rests or is another pod's", 2));
    let unknown = change(&|cluster| cluster.pools[0].status.as_mut().unwrap().agent.as_mut().unwrap().counts.assigned = 0);
    let young = change(&|cluster| {
        cluster.pools[0].status.as_mut().unwrap().agent.as_mut().unwrap().counts.assigned = 0;
        cluster.pods[0].networked = Some(cluster.at);
    });
    assert!(young.steps.iter().all(|step| step.state == State::Done), "the count follows: {young:?}");
    assert!(unknown.steps.iter().any(|step| step.state == State::Stuck && step.what.contains("counts no lease")), "{unknown:?}");
    assert!(why(&cluster, "default", "nobody").unwrap_err().to_string().contains("--namespace"));
}

#[test]
fn every_way_names_its_rule_and_its_line_of_the_config() {
    let cluster = cluster();
    let said = |target: &str| explain(&cluster, "default", "web-0", &target.parse().unwrap()).unwrap().to_string();
    let targets = ["1.1.1.1", "10.200.0.7", "10.0.200.9", "192.168.1.1", "168.63.129.16", "169.254.169.254", "pod/lost", "svc/web"];
    snapshot("explain.txt", &targets.map(said).join("\n"));
    let error = explain(&cluster, "default", "web-1", &"1.1.1.1".parse().unwrap()).unwrap_err();
    assert!(matches!(error, ExplainError::NoAddress(_)));
}

#[test]
fn a_plan_says_what_would_be_done() {
    let mut cluster = cluster();
    snapshot("plan.txt", &plan(&cluster));
    cluster.configs[0].spec.pool.min = Some(40);
    snapshot("plan-larger.txt", &plan(&cluster));
    cluster.configs[0].spec.mode = azure_vnet_crds::config::Mode::Paused;
    assert_eq!(plan(&cluster).writes, 0);
}

#[test]
fn a_plan_gives_whole_blocks_back_or_none() {
    let mut cluster = cluster();
    let idle = |cluster: &mut Cluster, addresses: &[&str], attached: u16| {
        let pool = &mut cluster.pools[0];
        pool.spec.addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        pool.status.as_mut().unwrap().cloud.as_mut().unwrap().attached = attached;
        let row = plan(cluster).nodes.remove(0);
        (row.holds - row.target, row.change, row.why)
    };
    let (over, change, why) = idle(&mut cluster, &["1/10.0.0.16/28"], 16);
    assert_eq!((over, change, why.as_str()), (4, 0, "as it should be"), "it stays as a whole");
    let (over, change, _) = idle(&mut cluster, &["1/10.0.0.16/28", "2/10.0.0.32/28", "3/10.0.0.9"], 33);
    assert_eq!((over, change), (21, -16), "and is more than a batch");
}

#[test]
fn a_plan_has_what_new_nodes_are_filled_with_beforehand() {
    let mut cluster = cluster();
    let status = json!({"learned": [{"pool": "a", "nodes": 9, "needed": 30}]});
    cluster.configs[0].status = Some(serde_json::from_value(status).unwrap());
    for machine in &mut cluster.machines {
        machine.labels = [("agentpool".to_owned(), "a".to_owned())].into();
        machine.created = Some("2026-11-21T07:15:00Z".parse().unwrap());
    }
    let targets = |cluster: &Cluster| plan(cluster).nodes.iter().map(|row| row.target).collect::<Vec<_>>();
    let rows = plan(&cluster).nodes;
    assert_eq!(targets(&cluster), [12, 15, 40, 0], "the first two were filled before");
    assert!(rows[2].why.ends_with(", with what a new node is filled with beforehand"), "{}", rows[2].why);
    cluster.configs[0].spec.pool.initial = Some(azure_vnet_crds::config::Initial::Count(20));
    assert_eq!(targets(&cluster), [13, 15, 20, 0], "of a subnet with two addresses left, one is for others; one that is full has none");
    cluster.at = "2026-11-21T07:25:00Z".parse().unwrap();
    assert_eq!(targets(&cluster), [12, 15, 8, 0], "they are no longer new");
}

#[test]
fn the_nodes_own_word_about_its_pool_counts_and_one_that_keeps_the_controller_off_is_not_served() {
    let mut cluster = cluster();
    cluster.machines[0].pool_override = Some(r#"{"min": 20}"#.into());
    cluster.machines[1].pool_override = Some(r#"{"max": 999}"#.into());
    cluster.machines[2].unmanaged = true;
    let plans = plan(&cluster);
    let rows: Vec<(u16, &str)> = plans.nodes.iter().map(|row| (row.target, row.why.as_str())).collect();
    assert_eq!(rows[0], (20, "attaches at once, in one write, by the Node's annotation"));
    assert!(rows[1].0 == 15 && rows[1].1.contains("pool-override does not count: a NIC carries"), "{rows:?}");
    assert!(rows[2].0 == 0 && rows[2].1.contains("azure-vnet.dev/unmanaged"), "{rows:?}");
    cluster.configs[0].spec.mode = azure_vnet_crds::config::Mode::Plan;
    assert!(plan(&cluster).nodes[0].why.starts_with("not sent, mode is Plan: "));
    let few = preflight(&cluster).checks.into_iter().find(|check| check.name == "pods per node").unwrap();
    assert_eq!(few.verdict, Verdict::Good);
    cluster.machines[0].pool_override = Some(r#"{"ipAddressCount": 31}"#.into());
    let few = preflight(&cluster).checks.into_iter().find(|check| check.name == "pods per node").unwrap();
    assert!(few.verdict == Verdict::Warning && few.found.contains("at most 30 addresses"), "{few:?}");
}

#[test]
fn what_the_controller_found_about_the_network_is_in_the_preflight() {
    let mut cluster = cluster();
    let status = json!({"preflight": [{"reason": "SubnetDelegated", "message": "subnet a is delegated"}]});
    cluster.configs[0].status = Some(serde_json::from_value(status).unwrap());
    let found = preflight(&cluster).checks.into_iter().find(|check| check.name == "network").unwrap();
    assert_eq!((found.verdict, found.found.as_str()), (Verdict::Warning, "subnet a is delegated"));
    let status = json!({"preflight": [{"reason": "CrdsOutdated", "message": "they lack x"}]});
    cluster.configs[0].status = Some(serde_json::from_value(status).unwrap());
    let checks = preflight(&cluster).checks;
    let found = checks.iter().find(|check| check.name == "CRDs").unwrap();
    assert_eq!((found.verdict, found.found.as_str()), (Verdict::Warning, "they lack x"));
    assert!(checks.iter().all(|check| check.name != "network" || check.verdict == Verdict::Good || !check.found.contains("they lack")));
}

#[test]
fn a_preflight_says_what_stands_in_the_way() {
    let mut cluster = cluster();
    snapshot("preflight.txt", &preflight(&cluster));
    assert!(preflight(&cluster).passed());
    cluster.pools[0].spec.addresses.push("200/10.0.0.240/28".parse().unwrap());
    let checks = preflight(&cluster).checks;
    let blocks = checks.iter().find(|check| check.name == "blocks").unwrap();
    assert!(blocks.found.starts_with("1 node with a /28: aks-1."), "{}", blocks.found);
    cluster.version = "v1.30.1".into();
    let checks = preflight(&cluster).checks;
    assert_eq!(checks[0].verdict, Verdict::Bad);
}

#[test]
fn every_view_can_be_serialised_and_redacted() {
    let cluster = cluster();
    let views = [
        serde_json::to_value(overview(&cluster)).unwrap(),
        serde_json::to_value(node(&cluster, "aks-2").unwrap()).unwrap(),
        serde_json::to_value(why(&cluster, "default", "web-1").unwrap()).unwrap(),
        serde_json::to_value(plan(&cluster)).unwrap(),
        serde_json::to_value(preflight(&cluster)).unwrap(),
    ];
    assert!(views.iter().all(Value::is_object));
    let bundle = redact(serde_json::to_value(&cluster.pools).unwrap(), &mut Redaction::default()).to_string();
    assert!(!bundle.contains("/subscriptions/s/") && bundle.contains("nic-1"), "{bundle}");
}
