//! Pods whose addresses other IPAM plugins give: nothing of ours has a lease of them, and the kernel alone tells.

use std::{collections::BTreeSet, fs, net::Ipv4Addr};

use azure_vnet_plugin::{netlink::Netlink, strays::RulesSeen};
use azure_vnet_plugin_core::attachment::Attachment;
use serde_json::{Value, json};

use crate::fabric::Fabric;
use crate::node::{RUN, Sandbox, await_that, inside, on_a_node, run};
use crate::{chain::start, ways};

fn conf(mode: &str, addresses: &[(&str, &str)]) -> Value {
    let addresses: Vec<Value> = addresses.iter().map(|(address, gateway)| json!({ "address": address, "gateway": gateway })).collect();
    json!({ "cniVersion": "1.0.0", "name": "foreign", "type": "azure-vnet", "mode": mode, "ipam": { "type": "static", "addresses": addresses } })
}

fn checked(pod: &Sandbox, mut conf: Value, result: &Value) {
    conf["prevResult"] = result.clone();
    let checked = start("azure-vnet", pod, "CHECK", &conf);
    assert!(checked.ok, "{conf}: {checked:?}");
}

#[test]
fn several_addresses_of_one_family_without_routes_are_wired_and_checked() {
    let other = ("10.240.1.8/16", "10.240.0.1");
    for second in [("10.240.1.9/16", "10.240.0.1"), ("10.241.1.9/16", "10.241.0.1")] {
        for mode in ["transparent", "bridge", "tunnel"] {
            on_a_node(3, move |node| {
                let _fabric = Fabric::like_azure(node);
                let (pod, conf) = (node.sandbox("c1", "web-0"), conf(mode, &[other, second]));
                let added = start("azure-vnet", &pod, "ADD", &conf);
                assert!(added.ok, "{mode}, {second:?}: {added:?}");
                checked(&pod, conf.clone(), &added.json());
                for ip in added.json()["ips"].as_array().unwrap() {
                    let address: ipnet::IpNet = ip["address"].as_str().unwrap().parse().unwrap();
                    let asked = ways::ask(None, Some(&pod.netns), address.addr(), address.addr());
                    assert!(asked.is_ok(), "{mode}, {second:?}: {asked:?}");
                }
                assert!(start("azure-vnet", &pod, "DEL", &conf).ok);
                assert!(node.pod_routes().is_empty() && node.host_links().is_empty(), "{mode}, {second:?}");
            });
        }
    }
}

#[test]
fn cm5_a_pod_is_checked_as_it_was_wired_whatever_mode_is_configured_now() {
    let modes = ["transparent", "bridge", "tunnel"];
    for before in modes {
        on_a_node(3, move |node| {
            let _fabric = Fabric::like_azure(node);
            let address = [("10.240.1.8/16", "10.240.0.1")];
            let pod = node.sandbox("c1", "web-0");
            let added = start("azure-vnet", &pod, "ADD", &conf(before, &address));
            assert!(added.ok, "{before}: {added:?}");
            for now in modes {
                checked(&pod, conf(now, &address), &added.json());
            }
            inside(&pod.netns, || run("ip", &["route", "del", "default"]));
            let mut conf = conf(modes[(modes.iter().position(|mode| *mode == before).unwrap() + 1) % 3], &address);
            conf["prevResult"] = added.json();
            let lacks = start("azure-vnet", &pod, "CHECK", &conf);
            assert!(!lacks.ok && lacks.json()["msg"].as_str().unwrap().contains("default route"), "{before}: {lacks:?}");
        });
    }
}

#[test]
fn cm4_a_pod_whose_second_address_another_left_keeps_its_way_while_that_is_taken_away() {
    for mode in ["bridge", "tunnel"] {
        on_a_node(3, move |node| {
            let _fabric = Fabric::like_azure(node);
            let (first, second) = (("10.240.1.8/16", "10.240.0.1"), ("10.240.1.7/16", "10.240.0.1"));
            let (gone, new) = (node.sandbox("gone", "web-0"), node.sandbox("new", "web-1"));
            assert!(start("azure-vnet", &gone, "ADD", &conf(mode, &[second])).ok);
            gone.drop_netns();
            await_that("the link goes with its namespace", || node.host_links().is_empty());
            // Its DEL comes late, after the rules were looked at, and another pod right after it.
            let seen = RulesSeen::now().unwrap();
            assert!(start("azure-vnet", &gone, "DEL", &conf(mode, &[second])).ok);
            let added = start("azure-vnet", &new, "ADD", &conf(mode, &[first, second]));
            assert!(added.ok, "{mode}: {added:?}");
            let known = [Attachment { container: "new".parse().unwrap(), if_name: "eth0".parse().unwrap() }].into();
            seen.forget_all_but(&known, &node.store(), &mut Netlink::open().unwrap()).unwrap();
            checked(&new, conf(mode, &[first, second]), &added.json());
            for address in ["10.240.1.7", "10.240.1.8"].map(|address| address.parse().unwrap()) {
                assert!(ways::ask(None, Some(&new.netns), address, address).is_ok(), "{mode}: {address}");
            }
        });
    }
}

#[test]
fn gc_takes_away_what_bridged_pods_left_whose_namespaces_went_without_a_del() {
    for (mode, has_store) in [("bridge", true), ("bridge", false), ("tunnel", true)] {
        on_a_node(3, move |node| {
            let _fabric = Fabric::like_azure(node);
            if !has_store {
                fs::remove_dir_all(RUN).unwrap();
            }
            let conf = |last: u8| conf(mode, &[(format!("10.240.1.{last}/16").as_str(), "10.240.0.1")]);
            let (gone, there, unlisted) =
                (node.sandbox("gone", "web-0"), node.sandbox("there", "web-1"), node.sandbox("unlisted", "web-2"));
            for (pod, last) in [(&gone, 7), (&there, 8), (&unlisted, 9)] {
                let added = start("azure-vnet", pod, "ADD", &conf(last));
                assert!(added.ok, "{mode}: {added:?}");
            }
            gone.drop_netns();
            await_that("the link goes with its namespace", || node.host_links().len() == 2);
            let all = |lasts: &[u8]| lasts.iter().map(|last| Ipv4Addr::new(10, 240, 1, *last)).collect::<BTreeSet<_>>();
            assert_eq!((node.pod_routes(), node.bridged()), (all(&[7, 8, 9]), [all(&[7, 8, 9]), all(&[7, 8, 9])]), "{mode}");
            // One that knows GC, which the distribution's do not.
            fs::create_dir("/run/others").unwrap();
            fs::write("/run/others/other", "#!/bin/sh\n").unwrap();
            run("chmod", &["+x", "/run/others/other"]);
            let gc = json!({ "cniVersion": "1.1.0", "name": "foreign", "type": "azure-vnet", "mode": mode, "ipam": { "type": "other" },
                             "cni.dev/valid-attachments": [{ "containerID": "there", "ifname": "eth0" }] });
            let collected = node.run(&there, "GC", &gc);
            assert!(collected.ok, "{mode}: {collected:?}");
            // A pod that has its link needs a second witness.
            assert_eq!((node.pod_routes(), node.bridged()), (all(&[8, 9]), [all(&[8, 9]), all(&[8, 9])]), "{mode}");
            let asked = ways::ask(None, Some(&there.netns), "10.240.1.8".parse().unwrap(), "10.240.1.8".parse().unwrap());
            assert!(asked.is_ok(), "{mode}: {asked:?}");
        });
    }
}
