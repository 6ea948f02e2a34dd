//! The way back from bridged pods: the uplink gets all that it had, the bridge and the rules go, and the host stays connected throughout.

use std::{net::Ipv4Addr, process::Command};

use azure_vnet_plugin::{
    bridge::BridgeError,
    frames::Frames,
    netlink::{LinkBy, Netlink},
    unbridge::{self, Planned},
};
use azure_vnet_plugin_core::unbridge::{Stays, StepBack};
use serde_json::{Value, json};

use crate::fabric::{Fabric, OTHER_NODE};
use crate::node::{self, FABRIC, NODE, Node, Sandbox, on_a_node, run};

#[test]
fn the_uplink_gets_back_what_it_had_and_nothing_of_the_network_stays() {
    for mode in ["bridge", "tunnel"] {
        on_a_node(10, move |node| {
            let fabric = Fabric::like_azure(node);
            run("ip", &["route", "replace", "default", "via", &FABRIC.to_string(), "dev", "eth0", "metric", "100", "proto", "dhcp"]);
            run(
                "ip",
                &["route", "add", "168.63.129.16", "via", &FABRIC.to_string(), "dev", "eth0", "src", &NODE.to_string(), "metric", "100"],
            );
            run("ip", &["route", "add", "10.240.0.1", "dev", "eth0", "scope", "link"]);
            run("ip", &["address", "add", "10.240.0.44/16", "dev", "eth0"]);
            run("ip", &["address", "add", "fd00::4/64", "dev", "eth0", "nodad"]);
            run("ip", &["-6", "route", "add", "default", "via", "fd00::1", "dev", "eth0", "metric", "100"]);
            let before = shown();
            let pod = node.sandbox("c1", "web-0");
            assert!(node.run(&pod, "ADD", &conf(mode)).ok);
            let mut host = Netlink::open().unwrap();
            // Pods first: without them the plan is empty of refusals, and not before.
            let refused = unbridge::undo(&mut host, None).unwrap();
            assert!(matches!(refused.stay.as_slice(), [Stays::InUse { ports, .. }] if ports.len() == 1), "{refused:?}");
            assert_eq!((refused.steps, refused.rules), (vec![], 0));
            fabric.host_is_connected("after a refusal");
            assert!(node.run(&pod, "DEL", &conf(mode)).ok);
            let undone = unbridge::undo(&mut host, None).unwrap();
            assert!(undone.rules > 0 && undone.stay.is_empty(), "{undone:?}");
            fabric.host_is_connected("after the way back");
            assert_eq!(shown(), before, "{mode}");
            assert_no_network(mode);
            assert_eq!(unbridge::undo(&mut host, None).unwrap(), unbridge::Undone::default(), "a second time there is nothing to do");
            let again = node.run(&pod, "ADD", &conf(mode));
            assert!(again.ok, "{again:?}");
            fabric.expect_way(Some(&pod.netns), again.address(), Some(&fabric.other), OTHER_NODE, OTHER_NODE, "a pod after the way back");
        });
    }
}

/// Each step is one message, of which a killed process has sent all or nothing.
#[test]
fn stopped_after_any_step_the_host_is_connected_and_the_same_again_or_a_pod_completes_it() {
    for steps in 0..=2 {
        for next_is_a_pod in [false, true] {
            on_a_node(10, move |node| {
                let fabric = Fabric::like_azure(node);
                bridged_and_gone(node);
                let mut host = Netlink::open().unwrap();
                let planned = unbridge::plan(&mut host, None).unwrap();
                let [Planned { bridge, way: Ok(way) }] = planned.as_slice() else { panic!("{planned:?}") };
                assert!(matches!(way.steps.as_slice(), [StepBack::Move(_), StepBack::Delete]), "{way:?}");
                for step in way.steps.iter().take(steps) {
                    unbridge::carry_out(&mut host, bridge, way.uplink.unwrap(), step).unwrap();
                }
                let when = format!("after {steps} steps");
                fabric.host_is_connected(&when);
                if next_is_a_pod {
                    let pod = node.sandbox("next", "web-1");
                    let added = node.run(&pod, "ADD", &conf("tunnel"));
                    assert!(added.ok, "{when}: {added:?}");
                    fabric.host_is_connected(&when);
                    fabric.expect_way(Some(&pod.netns), added.address(), Some(&fabric.other), OTHER_NODE, OTHER_NODE, &when);
                } else {
                    unbridge::undo(&mut host, None).unwrap();
                    fabric.host_is_connected(&when);
                    assert_no_network(&when);
                }
            });
        }
    }
}

#[test]
fn a_pod_that_comes_after_the_plan_keeps_its_bridge() {
    on_a_node(10, |node| {
        let fabric = Fabric::like_azure(node);
        bridged_and_gone(node);
        let mut host = Netlink::open().unwrap();
        let planned = unbridge::plan(&mut host, None).unwrap();
        let [Planned { bridge, way: Ok(way) }] = planned.as_slice() else { panic!("{planned:?}") };
        let pod = node.sandbox("late", "web-1");
        let address = node.run(&pod, "ADD", &conf("tunnel")).address();
        for step in &way.steps {
            let result = unbridge::carry_out(&mut host, bridge, way.uplink.unwrap(), step);
            match step {
                StepBack::Delete => assert!(matches!(result, Err(BridgeError::Stays(Stays::InUse { .. }))), "{result:?}"),
                StepBack::Move(_) | StepBack::SetUp => result.unwrap(),
            }
        }
        assert!(node.run(&node.sandbox("next", "web-2"), "ADD", &conf("tunnel")).ok, "it puts the uplink in again");
        fabric.host_is_connected("after a pod that came late");
        fabric.expect_way(Some(&pod.netns), address, Some(&fabric.other), OTHER_NODE, OTHER_NODE, "the pod that came late");
    });
}

#[test]
fn what_a_pod_left_goes_with_the_bridge_and_its_route_is_not_the_uplinks() {
    on_a_node(10, |node| {
        let fabric = Fabric::like_azure(node);
        let pod = node.sandbox("c1", "web-0");
        let address: Ipv4Addr = node.run(&pod, "ADD", &conf("bridge")).address();
        pod.drop_netns();
        node::await_that("the pod's link goes", || node.host_links().is_empty());
        let mut host = Netlink::open().unwrap();
        let undone = unbridge::undo(&mut host, None).unwrap();
        assert!(undone.stay.is_empty(), "{undone:?}");
        let out = Command::new("ip").args(["route", "show", &address.to_string()]).output().unwrap();
        assert_eq!(String::from_utf8(out.stdout).unwrap(), "");
        assert_no_network("after a pod without a DEL");
        fabric.host_is_connected("after a pod without a DEL");
    });
}

#[test]
fn a_bridge_of_another_program_is_taken_away_only_when_it_is_named() {
    on_a_node(10, |node| {
        let fabric = Fabric::like_azure(node);
        // As the original plugins leave it: their bridge has the host's addresses.
        run("ip", &["link", "add", "azure0", "address", "02:00:00:00:00:04", "type", "bridge"]);
        run("ip", &["link", "set", "azure0", "up"]);
        run("ip", &["address", "del", &format!("{NODE}/16"), "dev", "eth0"]);
        run("ip", &["link", "set", "eth0", "master", "azure0"]);
        run("ip", &["address", "add", &format!("{NODE}/16"), "dev", "azure0"]);
        run("ip", &["route", "replace", "default", "via", &FABRIC.to_string(), "dev", "azure0"]);
        let pod = node.sandbox("c1", "web-0");
        assert!(node.run(&pod, "ADD", &conf("bridge")).ok);
        assert!(node.run(&pod, "DEL", &conf("bridge")).ok);
        let mut host = Netlink::open().unwrap();
        let stays = unbridge::undo(&mut host, None).unwrap().stay;
        assert_eq!(stays, [Stays::NotOurs("azure0".into())]);
        fabric.host_is_connected("while the bridge stays");
        let undone = unbridge::undo(&mut host, Some(&"azure0".parse().unwrap())).unwrap();
        assert!(undone.stay.is_empty() && undone.steps.len() == 2, "{undone:?}");
        fabric.host_is_connected("after the bridge was named");
        assert_no_network("after the bridge was named");
    });
}

fn bridged_and_gone(node: &Node) {
    let pod: Sandbox = node.sandbox("c1", "web-0");
    for command in ["ADD", "DEL"] {
        let ended = node.run(&pod, command, &conf("tunnel"));
        assert!(ended.ok, "{ended:?}");
    }
}

fn assert_no_network(when: &str) {
    let mut host = Netlink::open().unwrap();
    let bridges = host.links().unwrap().into_iter().filter(|link| link.kind.as_deref() == Some("bridge"));
    assert_eq!(bridges.map(|bridge| bridge.name).collect::<Vec<_>>(), Vec::<String>::new(), "{when}");
    assert_eq!(host.link(LinkBy::Name("eth0")).unwrap().unwrap().controller, None, "{when}");
    assert_eq!(Frames::open().unwrap().observe().unwrap(), [], "{when}");
    let out = Command::new("nft").args(["list", "ruleset"]).output().unwrap();
    let rules = String::from_utf8(out.stdout).unwrap();
    assert!(!rules.contains("AZURE-VNET") && !rules.contains("azure-vnet"), "{when}: {rules}");
}

/// Addresses and routes of the uplink.
fn shown() -> Vec<Vec<String>> {
    let commands: [&[&str]; 4] = [
        &["-4", "address", "show", "dev", "eth0"],
        &["-6", "address", "show", "dev", "eth0", "scope", "global"],
        &["-4", "route", "show", "dev", "eth0"],
        &["-6", "route", "show", "dev", "eth0"],
    ];
    let lines = |arguments: &[&str]| {
        let out = Command::new("ip").args(["-o"]).args(arguments).output().unwrap();
        let text = String::from_utf8(out.stdout).unwrap().replace('\\', "");
        let mut lines: Vec<String> = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        lines.retain(|line| !line.contains("fe80") && !line.contains("multicast"));
        lines.sort();
        lines
    };
    commands.into_iter().map(lines).collect()
}

fn conf(mode: &str) -> Value {
    let mut conf = node::conf("1.0.0");
    conf["mode"] = json!(mode);
    conf
}
