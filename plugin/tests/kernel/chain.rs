//! Our plugins among those of the CNI project, from `/usr/lib/cni`: before and after ours in a chain, as its IPAM, and over ours.

use std::{
    io::Write as _,
    net::IpAddr,
    path::Path,
    process::{Command, Stdio},
};

use serde_json::{Value, json};

use crate::fabric::{self, Fabric};
use crate::node::{self, Ended, IPAM, NODE, PLUGIN, Sandbox, inside, on_a_node, program, run};
use crate::ways;

const OTHERS: &str = "/usr/lib/cni";

#[test]
fn the_originals_conflist_works_with_the_plugins_that_it_chains() {
    on_a_node(10, |node| {
        let pod = node.sandbox("c1", "web-0");
        let list = json!({ "cniVersion": "0.4.0", "name": "azure", "plugins": [
            { "type": "azure-vnet", "mode": "transparent", "ipsToRouteViaHost": ["169.254.20.10"], "ipam": { "type": "azure-vnet-ipam" } },
            { "type": "tuning", "sysctl": { "net.ipv4.conf.eth0.log_martians": "1" }, "mac": "02:00:00:00:00:99" },
            { "type": "bandwidth", "capabilities": { "bandwidth": true } },
            { "type": "portmap", "capabilities": { "portMappings": true }, "snat": true },
        ]});
        let runtime = json!({ "portMappings": [{ "hostPort": 8053, "containerPort": 7000, "protocol": "udp" }],
                              "bandwidth": { "ingressRate": 80_000_000, "ingressBurst": 8_000_000 } });
        let result = add_list(&list, &runtime, &pod);
        let names: Vec<_> = result["interfaces"].as_array().unwrap().iter().map(|link| link["name"].as_str().unwrap()).collect();
        assert_eq!(names[..2], ["eth0", "azv0d7763386da"]);
        let address: ipnet::IpNet = result["ips"][0]["address"].as_str().unwrap().parse().unwrap();
        // The port of the host leads to the pod.
        let server = ways::socket(Some(&pod.netns), (address.addr(), 7000).into());
        let asked = ways::ask_server(Some(&node.fabric), &server, (NODE, 8053).into());
        assert!(asked.is_ok(), "{asked:?}");
        check_and_delete(&list, &runtime, &pod, &result);
        node.assert_nothing_left("after DEL of the chain");
    });
}

#[test]
fn files_of_every_generation_of_the_original_work_unchanged() {
    let generations = [
        json!({ "cniVersion": "0.2.0", "name": "azure", "type": "azure-vnet", "mode": "bridge", "bridge": "azure0", "ipam": { "type": "azure-vnet-ipam" } }),
        json!({ "cniVersion": "0.3.0", "name": "azure", "type": "azure-vnet", "mode": "bridge", "bridge": "azure0", "ipam": { "type": "azure-vnet-ipam" } }),
        json!({ "cniVersion": "0.3.0", "name": "azure", "type": "azure-vnet", "mode": "transparent", "ipsToRouteViaHost": ["169.254.20.10"],
                "ipam": { "type": "azure-vnet-ipam" } }),
        // Without a mode, as a file that somebody wrote by hand.
        json!({ "name": "azure", "type": "azure-vnet", "ipam": { "type": "azure-vnet-ipam" } }),
    ];
    on_a_node(10, move |node| {
        let fabric = Fabric::like_azure(node);
        // Transparent first: from the bridge there is no way back but a reboot.
        for (number, conf) in generations.iter().enumerate().rev() {
            let pod = node.sandbox(&format!("c{number}"), "web-0");
            let added = start("azure-vnet", &pod, "ADD", conf);
            assert!(added.ok, "{conf}: {added:?}");
            let answer = added.json();
            let text = answer["ip4"]["ip"].as_str().or(answer["ips"][0]["address"].as_str()).unwrap();
            assert_eq!(answer["ip4"].is_object(), number % 3 == 0, "{answer}");
            let address: ipnet::Ipv4Net = text.parse().unwrap();
            fabric.expect_way(
                Some(&pod.netns),
                address.addr(),
                Some(&fabric.other),
                fabric::OTHER_NODE,
                fabric::OTHER_NODE,
                &conf.to_string(),
            );
            assert!(start("azure-vnet", &pod, "DEL", conf).ok);
            node.assert_nothing_left(&conf.to_string());
        }
    });
}

#[test]
fn several_networks_and_interfaces_of_one_pod_do_not_collide() {
    on_a_node(10, |node| {
        let _fabric = Fabric::like_azure(node);
        let pod = node.sandbox("c1", "web-0");
        let conf = |name: &str, mode: &str| {
            json!({ "cniVersion": "1.0.0", "name": name, "type": "azure-vnet", "mode": mode,
                                                    "ipam": { "type": "azure-vnet-ipam" } })
        };
        let attached =
            [("eth0", "azure", "transparent"), ("net1", "more", "transparent"), ("net2", "flat", "bridge"), ("net3", "through", "tunnel")];
        let mut answers = Vec::new();
        for (interface, name, mode) in attached {
            let mut conf = conf(name, mode);
            let added = start_on(interface, "azure-vnet", &pod, "ADD", &conf);
            assert!(added.ok, "{interface}: {added:?}");
            conf["prevResult"] = added.json();
            let checked = start_on(interface, "azure-vnet", &pod, "CHECK", &conf);
            assert!(checked.ok, "{interface}: {checked:?}");
            answers.push(added.address());
        }
        answers.sort();
        answers.dedup();
        assert_eq!((answers.len(), node.leases().len()), (4, 4));
        for (interface, name, mode) in attached.iter().rev() {
            assert!(start_on(interface, "azure-vnet", &pod, "DEL", &conf(name, mode)).ok);
        }
        node.assert_nothing_left("after DEL of all");
    });
}

#[test]
fn what_plugins_before_ours_answered_stays() {
    on_a_node(10, |node| {
        let pod = node.sandbox("c1", "web-0");
        let list = json!({ "cniVersion": "1.0.0", "name": "azure", "plugins": [
            { "type": "loopback" },
            { "type": "azure-vnet", "mode": "transparent", "ipam": { "type": "azure-vnet-ipam" } },
            { "type": "tuning", "sysctl": { "net.ipv4.conf.eth0.log_martians": "1" } },
        ]});
        let result = add_list(&list, &Value::Null, &pod);
        let names: Vec<_> = result["interfaces"].as_array().unwrap().iter().map(|link| link["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["lo", "eth0", "azv0d7763386da"]);
        let ours: Vec<_> = result["ips"].as_array().unwrap().iter().filter(|ip| ip["interface"] == 1).collect();
        assert!(ours.len() == 1 && result["ips"][0]["address"] == "127.0.0.1/8", "{result}");
        check_and_delete(&list, &Value::Null, &pod, &result);
        node.assert_nothing_left("after DEL of the chain");
    });
}

#[test]
fn addresses_of_both_families_from_other_plugins_are_wired_and_checked() {
    for mode in ["transparent", "bridge", "tunnel"] {
        on_a_node(10, move |node| {
            let _fabric = Fabric::like_azure(node);
            run("ip", &["address", "add", "fd00::4/64", "dev", "eth0", "nodad"]);
            // What the host answers for its pods, and a gateway that pods find.
            let of_host: [IpAddr; 2] = ["169.254.20.10".parse().unwrap(), "fd00:20::10".parse().unwrap()];
            for address in of_host {
                run("ip", &["address", "add", &address.to_string(), "dev", "lo"]);
            }
            inside(&node.fabric, || run("ip", &["address", "add", "fd00::1/64", "dev", "n1", "nodad"]));
            let local = json!({ "type": "host-local", "dataDir": "/run/host-local", "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }], "ranges": [
                [{ "subnet": "10.240.0.0/16", "rangeStart": "10.240.1.1", "rangeEnd": "10.240.1.9", "gateway": "10.240.0.1" }],
                [{ "subnet": "fd00::/64", "gateway": "fd00::1" }],
            ]});
            let fixed = json!({ "type": "static", "addresses": [
                { "address": "10.240.1.9/16", "gateway": "10.240.0.1" }, { "address": "fd00::99/64", "gateway": "fd00::1" },
            ], "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }] });
            let mut previous = Vec::new();
            for (container, ipam) in [("c1", &local), ("c2", &fixed)] {
                let pod = node.sandbox(container, container);
                let mut conf = json!({ "cniVersion": "1.0.0", "name": "both", "type": "azure-vnet", "mode": mode, "ipsToRouteViaHost": of_host,
                                       "ipam": ipam });
                let added = start("azure-vnet", &pod, "ADD", &conf);
                assert!(added.ok, "{mode}: {added:?}");
                conf["prevResult"] = added.json();
                let checked = start("azure-vnet", &pod, "CHECK", &conf);
                assert!(checked.ok, "{mode}: {checked:?}");
                for ip in added.json()["ips"].as_array().unwrap() {
                    let address: ipnet::IpNet = ip["address"].as_str().unwrap().parse().unwrap();
                    let asked = ways::ask(None, Some(&pod.netns), address.addr(), address.addr());
                    assert!(asked.is_ok(), "{mode}: {asked:?}");
                }
                for address in of_host {
                    let asked = ways::ask(Some(&pod.netns), None, address, address);
                    assert!(asked.is_ok(), "{mode}: {asked:?}");
                }
                previous.push((pod, conf));
            }
            let (pod, conf) = &previous[0];
            inside(&pod.netns, || run("ip", &["-6", "route", "del", "default"]));
            let checked = start("azure-vnet", pod, "CHECK", conf);
            assert!(!checked.ok && checked.json()["msg"].as_str().unwrap().contains("default route"), "{mode}: {checked:?}");
            for (pod, conf) in &previous {
                for _ in 0..2 {
                    let deleted = start("azure-vnet", pod, "DEL", conf);
                    assert!(deleted.ok, "{mode}: {deleted:?}");
                }
                assert_eq!(pod.links(), [], "{mode}");
            }
            assert!(node.host_links().is_empty() && node.pod_routes().is_empty(), "{mode}");
        });
    }
}

#[test]
fn st4_an_add_again_takes_no_route_of_its_own_pod_for_anothers() {
    on_a_node(10, |node| {
        run("ip", &["address", "add", "fd00::4/64", "dev", "eth0", "nodad"]);
        let fixed = json!({ "type": "static", "addresses": [
            { "address": "10.240.1.9/16", "gateway": "10.240.0.1" }, { "address": "fd00::99/64", "gateway": "fd00::1" },
        ]});
        let conf = json!({ "cniVersion": "1.0.0", "name": "both", "type": "azure-vnet", "mode": "transparent", "ipam": fixed });
        let pod = node.sandbox("c1", "web-0");
        let added = start("azure-vnet", &pod, "ADD", &conf);
        assert!(added.ok, "{added:?}");
        // One of its routes is lost, and a dead link's stands in its place; the other is there.
        run("ip", &["link", "add", "dead0", "type", "veth", "peer", "name", "dead1"]);
        run("ip", &["link", "set", "dead0", "alias", "azure-vnet:gone/eth0 10.240.1.9", "up"]);
        run("ip", &["route", "replace", "10.240.1.9/32", "dev", "dead0"]);
        let again = start("azure-vnet", &pod, "ADD", &conf);
        assert!(again.ok, "{again:?}");
        let mut with_result = conf.clone();
        with_result["prevResult"] = again.json();
        let checked = start("azure-vnet", &pod, "CHECK", &with_result);
        assert!(checked.ok, "{checked:?}");
        assert!(start("azure-vnet", &pod, "DEL", &conf).ok);
    });
}

#[test]
fn the_address_plugin_serves_other_interface_plugins() {
    for plugin in ["bridge", "ptp"] {
        on_a_node(10, move |node| {
            let conf =
                json!({ "cniVersion": "1.0.0", "name": "lan", "type": plugin, "bridge": "lan0", "ipam": { "type": "azure-vnet-ipam" } });
            let (a, b) = (node.sandbox("a", "a-0"), node.sandbox("b", "b-0"));
            let first = start(plugin, &a, "ADD", &conf);
            let mut checked = conf.clone();
            checked["prevResult"] = first.json();
            let check = start(plugin, &a, "CHECK", &checked);
            assert!(check.ok, "{plugin}: {check:?}");
            assert_ne!(first.address(), start(plugin, &b, "ADD", &conf).address(), "{plugin}");
            // DEL has neither the result of ADD nor, of one pod, its namespace.
            b.drop_netns();
            let without = Sandbox { netns: "".into(), ..b };
            for pod in [&a, &without, &a] {
                let deleted = start(plugin, pod, "DEL", &conf);
                assert!(deleted.ok, "{plugin}: {deleted:?}");
            }
            assert!(node.leases().is_empty(), "{plugin}");
        });
    }
}

#[test]
fn a_runtime_chooses_hardware_address_and_resolvers() {
    on_a_node(10, |node| {
        let pod = node.sandbox("c1", "web-0");
        let mut conf = node::conf("1.0.0");
        conf["runtimeConfig"] =
            json!({ "mac": "02:00:00:00:00:77", "dns": { "servers": ["10.0.0.10"], "searches": ["svc"], "options": ["ndots:5"] } });
        let added = start("azure-vnet", &pod, "ADD", &conf);
        assert_eq!(added.json()["interfaces"][0]["mac"], "02:00:00:00:00:77");
        assert_eq!(added.json()["dns"], json!({ "nameservers": ["10.0.0.10"], "search": ["svc"], "options": ["ndots:5"] }));
        assert_eq!(pod.links()[0].mac.unwrap().to_string(), "02:00:00:00:00:77");
        conf["prevResult"] = added.json();
        assert!(start("azure-vnet", &pod, "CHECK", &conf).ok);
    });
}

#[test]
fn cm5_check_knows_a_hardware_address_that_the_configuration_of_the_day_does_not_name() {
    on_a_node(10, |node| {
        for mode in ["transparent", "bridge", "tunnel"] {
            let (pod, mut conf) = (node.sandbox(mode, mode), node::conf("1.0.0"));
            conf["mode"] = json!(mode);
            conf["runtimeConfig"] = json!({ "mac": "02:00:00:00:00:77" });
            let added = start("azure-vnet", &pod, "ADD", &conf);
            conf["prevResult"] = added.json();
            for runtime in [json!({}), json!({ "mac": "02:00:00:00:00:78" })] {
                conf["runtimeConfig"] = runtime;
                let check = start("azure-vnet", &pod, "CHECK", &conf);
                assert!(check.ok, "{mode}: {check:?}");
            }
            node::inside(&pod.netns, || run("ip", &["link", "set", "eth0", "address", "02:00:00:00:00:79"]));
            let check = start("azure-vnet", &pod, "CHECK", &conf);
            assert!(check.ok, "a later plugin may change it, {mode}: {check:?}");
            assert!(start("azure-vnet", &pod, "DEL", &conf).ok);
        }
    });
}

/// Runs the ADDs of a chain, as a runtime does.
fn add_list(list: &Value, runtime: &Value, pod: &Sandbox) -> Value {
    let mut result = None;
    for plugin in list["plugins"].as_array().unwrap() {
        let added = start(plugin["type"].as_str().unwrap(), pod, "ADD", &conf_of(list, plugin, runtime, result.as_ref()));
        assert!(added.ok, "{plugin}: {added:?}");
        result = Some(added.json());
    }
    result.unwrap()
}

fn check_and_delete(list: &Value, runtime: &Value, pod: &Sandbox, result: &Value) {
    let plugins = || list["plugins"].as_array().unwrap().iter();
    let run = |plugin: &Value, command: &str| {
        let ended = start(plugin["type"].as_str().unwrap(), pod, command, &conf_of(list, plugin, runtime, Some(result)));
        assert!(ended.ok, "{command}: {plugin}: {ended:?}");
    };
    // The portmap of Debian 12 asks at CHECK for IPv6 rules also where there is no such address.
    plugins().filter(|plugin| plugin["type"] != "portmap").for_each(|plugin| run(plugin, "CHECK"));
    plugins().rev().for_each(|plugin| run(plugin, "DEL"));
}

fn conf_of(list: &Value, plugin: &Value, runtime: &Value, previous: Option<&Value>) -> Value {
    let mut conf = plugin.clone();
    for key in ["cniVersion", "name"] {
        conf[key] = list[key].clone();
    }
    if let Some(capabilities) = plugin["capabilities"].as_object() {
        conf["runtimeConfig"] = capabilities.keys().map(|key| (key.clone(), runtime[key].clone())).collect();
    }
    if let Some(previous) = previous {
        conf["prevResult"] = previous.clone();
    }
    conf
}

/// Runs a plugin, ours or another's, with both folders to find IPAM plugins in.
pub fn start(name: &str, pod: &Sandbox, command: &str, conf: &Value) -> Ended {
    start_on("eth0", name, pod, command, conf)
}

fn start_on(interface: &str, name: &str, pod: &Sandbox, command: &str, conf: &Value) -> Ended {
    let path = match name {
        "azure-vnet" => program(PLUGIN),
        "azure-vnet-ipam" => program(IPAM),
        other => Path::new(OTHERS).join(other),
    };
    let folder = program(PLUGIN).parent().unwrap().to_owned();
    let mut child = Command::new(path)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", &pod.container)
        .env("CNI_NETNS", &pod.netns)
        .env("CNI_IFNAME", interface)
        .env("CNI_PATH", format!("{}:{OTHERS}", folder.display()))
        .env("CNI_ARGS", format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={}", pod.pod))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(conf.to_string().as_bytes()).unwrap();
    child.wait_with_output().unwrap().into()
}
