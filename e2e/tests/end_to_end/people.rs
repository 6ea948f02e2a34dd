//! What people see and decide, in objects, events and `kubectl azure-vnet`: a plan that is too large for its subnet, a Node's own word about its
//! pool, a node that runs out of addresses, and what is in the way.

use std::time::Duration;

use azure_vnet_e2e::lab::{Lab, LabOptions, api};
use azure_vnet_e2e::scenario::{self, Checker, Cluster, differ, told};
use serde_json::json;

use super::pods;

const SOON: Duration = Duration::from_mins(1);

#[test]
fn a_plan_is_seen_before_it_is_sent_and_people_are_told_what_is_in_the_way() {
    // Of 32 addresses Azure keeps five, and the nodes have three: 24 are left.
    let lab = Lab::up(&LabOptions { subnet: "10.240.0.0/27".parse().unwrap(), ..LabOptions::default() }).unwrap();
    let cluster = Cluster::new(&lab).unwrap();
    let checker = Checker::start(&lab);
    cluster.apply(told::KUBE_PROXY).unwrap();
    for (node, own) in [("n2", r#"{"max": 999}"#), ("n3", r#"{"min": 0, "minFree": 1, "batch": 1, "max": 1}"#)] {
        cluster.kubectl(&["annotate", "node", node, &format!("azure-vnet.dev/pool-override={own}")]).unwrap();
    }
    scenario::install(&cluster, &["--set", "controller.ui.enabled=true"]).unwrap();
    let large = scenario::CONFIG.replace("  pool:\n", "  mode: Plan\n  pool:\n    min: 16\n");
    scenario::configure(&cluster, &large).unwrap();

    scenario::planned(&cluster, &[("n1", 16), ("n2", 16), ("n3", 1)], SOON).unwrap();
    cluster.apply(&pods("few", "n3", 2)).unwrap();
    let refused = told::node_event(&cluster, "n2", ["OverrideRefused", "azure-vnet.dev/pool-override"], SOON).unwrap();
    assert!(refused.contains("255"), "{refused}");
    let cidr =
        told::condition(&cluster, &format!("{}/default", api::CONFIGS), "PreflightPassed", ["False", "ClusterCIDRLeavesPodsOut"], SOON)
            .unwrap();
    assert!(cidr.contains("--cluster-cidr 10.244.0.0/16") && cidr.contains("10.240.0.0/27"), "{cidr}");
    let subnet = told::subnet(&cluster, 24, 9, SOON).unwrap();
    assert_eq!((&subnet["limit"], &subnet["nodes"], &subnet["prefixes"]), (&json!(27), &json!(3), &json!(["10.240.0.0/27"])));

    let status = told::read(&cluster, &["status"]).unwrap();
    assert_eq!(status["configs"], json!([{"name": "default", "mode": "Plan", "nodes": 3}]));
    let row = &status["subnets"][0];
    assert_eq!((&row["size"], &row["left"], &row["needs"]), (&json!(27), &json!(24), &json!(9)));
    let text = told::shown(&cluster, &["status"]).unwrap();
    assert!(text.contains("9 more") && text.contains("add a prefix to the subnet"), "{text}");
    let plan = told::read(&cluster, &["plan"]).unwrap();
    assert_eq!((&plan["attach"], &plan["writes"]), (&json!(33), &json!(3)));
    let own = told::row(&plan["nodes"], "node", "n3").unwrap();
    let why = own["why"].as_str().unwrap();
    assert!(own["target"] == 1 && why.starts_with("not sent, mode is Plan: ") && why.ends_with(", by the Node's annotation"), "{own}");
    let other = told::row(&plan["nodes"], "node", "n2").unwrap()["why"].to_string();
    assert!(other.contains("pool-override does not count"), "{other}");
    let preflight = told::shown(&cluster, &["preflight"]).unwrap();
    assert!(preflight.contains("! network") && preflight.contains("--cluster-cidr 10.244.0.0/16"), "{preflight}");

    cluster.kubectl(&["patch", "avc", "default", "--type=merge", "-p", r#"{"spec":{"pool":{"min":4}}}"#]).unwrap();
    let planned = scenario::planned(&cluster, &[("n1", 4), ("n2", 4), ("n3", 1)], SOON).unwrap();
    scenario::enforce(&cluster, &planned, SOON).unwrap();

    let one = scenario::wait_for("the pod that gets the only address", SOON, || {
        let pods = cluster.pods("app=few")?;
        Ok(if pods.len() == 1 { Ok(pods[0].clone()) } else { Err(format!("{pods:?}")) })
    })
    .unwrap();
    told::page(&cluster, "/", "n3: 1 of 1 used, ready", SOON).unwrap();
    told::page(&cluster, "/nodes/n3", &format!("avn-1 {} published", one.address), SOON).unwrap();
    let why = told::read(&cluster, &["why", &format!("default/{}", one.name)]).unwrap();
    assert_eq!(why["pod"]["address"], json!(one.address), "{why}");
    assert!(why["steps"].as_array().unwrap().iter().all(|step| step["state"] == "done"), "{why}");
    let list = cluster.read(&format!("{}?labelSelector=app=few", api::PODS)).unwrap();
    let names = list["items"].as_array().unwrap().iter().map(|pod| pod["metadata"]["name"].as_str().unwrap());
    let other = names.clone().find(|name| *name != one.name).unwrap();
    scenario::wait_for("the other pod to be told of the limit", SOON, || {
        let why = told::shown(&cluster, &["why", other])?;
        Ok(if why.contains("its node may hold no more addresses") && why.contains("pool.max") { Ok(()) } else { Err(why) })
    })
    .unwrap();
    let node = lab.node("n3").unwrap().address().to_string();
    for (destination, sees, address) in [("203.0.113.10", "node", node), ("10.50.0.10", "pod", one.address.to_string())] {
        let said = told::read(&cluster, &["explain", &one.name, destination]).unwrap();
        assert_eq!((&said["sees"], &said["seenAddress"]), (&json!(sees), &json!(address)), "{said}");
    }

    told::set_back(&cluster, "n1", SOON).unwrap();
    told::exhausted_taint(&cluster, "n3", true, SOON).unwrap();
    cluster.kubectl(&["delete", "deployment", "few", "--wait=false"]).unwrap();
    told::exhausted_taint(&cluster, "n3", false, SOON).unwrap();
    checker.finish().unwrap();
    lab.down().unwrap();
}

#[test]
fn cm4_what_differs_is_named_by_its_witnesses_and_mended_without_freeing_an_address() {
    let lab = Lab::up(&LabOptions::default()).unwrap();
    let cluster = Cluster::new(&lab).unwrap();
    scenario::install(&cluster, &[]).unwrap();
    scenario::configure(&cluster, scenario::CONFIG).unwrap();
    scenario::wait_ready(&cluster, SOON).unwrap();
    cluster.apply(&pods("one", "n1", 1)).unwrap();
    cluster.apply(&pods("two", "n2", 1)).unwrap();
    let running =
        |app: &str| scenario::wait_for("the pod", SOON, || Ok(cluster.pods(&format!("app={app}"))?.pop().ok_or_else(String::new))).unwrap();
    let (one, two) = (running("one"), running("two"));
    // Until the new addresses are shown by every word.
    differ::all_agree(&cluster, SOON * 2).unwrap();
    differ::nothing_unseen_is_clean(&cluster, "n3").unwrap();
    differ::a_forgotten_lease(&cluster, &two, SOON).unwrap();
    differ::a_route_and_a_lease(&cluster, &one, SOON * 3).unwrap();
    lab.down().unwrap();
}
