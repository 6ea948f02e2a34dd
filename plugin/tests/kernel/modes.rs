//! Bridge and tunnel mode against the real kernel: a node whose uplink leads to a fabric that behaves as Azure's.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    process::Command,
};

use azure_vnet_plugin::{
    frames::Frames,
    netlink::{Family, LinkBy, Netlink},
};
use azure_vnet_plugin_core::{attachment::Mode, frames::ObservedRule};
use serde_json::{Value, json};

use crate::fabric::{Fabric, INTERNET, OTHER_NODE};
use crate::node::{self, Ended, FABRIC, NODE, Node, Sandbox, on_a_node, run};
use crate::services::{Service, wireserver};
use crate::ways::ask;

const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 10);
const LOCAL_DNS: Ipv4Addr = Ipv4Addr::new(169, 254, 20, 10);
/// The address of the cluster's resolver.
const RESOLVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 53);

/// What of the two bridged modes is the same.
const BOTH: [&str; 2] = ["bridge", "tunnel"];

#[test]
fn a_bridged_pod_reaches_host_fabric_other_node_pods_and_internet() {
    for mode in BOTH {
        on_a_node(10, move |node| {
            let fabric = Fabric::like_azure(node);
            let (a, b) = (node.sandbox("a", "a-0"), node.sandbox("b", "b-0"));
            let (at_a, at_b) = (add(node, &a, mode).address(), add(node, &b, mode).address());
            fabric.host_is_connected("after ADD");
            for (from, source, to, at) in [
                (Some(&a.netns), at_a, Some(&b.netns), at_b),
                (Some(&a.netns), at_a, None, NODE),
                (None, NODE, Some(&a.netns), at_a),
                (Some(&a.netns), at_a, Some(&fabric.other), OTHER_NODE),
                (Some(&fabric.other), OTHER_NODE, Some(&b.netns), at_b),
            ] {
                fabric.expect_way(from, source, to, at, at, &format!("{mode}: {source} to {at}"));
            }
            masquerade();
            fabric.expect_way(Some(&a.netns), NODE, Some(&node.fabric), INTERNET, INTERNET, &format!("{mode}: to the internet"));
        });
    }
}

#[test]
fn eight_first_adds_at_once_make_one_bridge_and_the_host_stays_connected() {
    for mode in BOTH {
        for round in 0..3 {
            on_a_node(10, move |node| {
                let (fabric, when) = (Fabric::like_azure(node), format!("{mode}, round {round}"));
                let pods: Vec<_> = (0..8).map(|n| node.sandbox(&format!("c{n}"), &format!("web-{n}"))).collect();
                // All are started before the first gets its configuration.
                let children: Vec<_> = pods.iter().map(|pod| node.start(node::PLUGIN, pod, "ADD")).collect();
                let waiters = children.into_iter().map(|child| std::thread::spawn(move || node::finish(child, &conf(mode))));
                let waiters: Vec<_> = waiters.collect();
                let added: Vec<Ended> = waiters.into_iter().map(|waiter| waiter.join().unwrap()).collect();
                let addresses: Vec<_> = added.iter().map(Ended::address).collect();
                node.assert_holds(&addresses, &when);
                let bridges = Netlink::open().unwrap().links().unwrap();
                assert_eq!(bridges.iter().filter(|link| link.kind.as_deref() == Some("bridge")).count(), 1, "{when}: {bridges:?}");
                fabric.host_is_connected(&when);
                for ((pod, answer), address) in pods.iter().zip(&added).zip(&addresses) {
                    let check = node.run(pod, "CHECK", &with(conf(mode), answer.json()));
                    assert!(check.ok, "{when}: {check:?}");
                    fabric.expect_way(Some(&fabric.other), OTHER_NODE, Some(&pod.netns), *address, *address, &when);
                }
                // Each rule of the network is there once.
                let rules = Frames::open().unwrap().observe().unwrap();
                let mut texts: Vec<_> = rules.iter().map(|rule| (rule.chain, rule.comment.to_string())).collect();
                texts.sort();
                texts.dedup();
                assert_eq!(texts.len(), rules.len(), "{when}: {rules:?}");
                assert!(pods.iter().all(|pod| node.run(pod, "DEL", &conf(mode)).ok), "{when}");
                node.assert_nothing_left(&when);
                fabric.host_is_connected(&when);
            });
        }
    }
}

#[test]
fn only_in_tunnel_mode_two_pods_of_a_node_meet_the_networks_security_rules() {
    for mode in ["transparent", "bridge", "tunnel"] {
        on_a_node(10, move |node| {
            let fabric = Fabric::like_azure(node);
            let (a, b) = (node.sandbox("a", "a-0"), node.sandbox("b", "b-0"));
            let (at_a, at_b) = (add(node, &a, mode).address(), add(node, &b, mode).address());
            fabric.expect_way(Some(&a.netns), at_a, Some(&b.netns), at_b, at_b, &format!("{mode} without a rule"));
            fabric.deny(at_a, at_b);
            let with_rule = format!("{mode} with a rule of the network against it");
            match mode {
                "tunnel" => fabric.expect_denied((&a.netns, at_a), (&b.netns, at_b), &with_rule),
                _ => fabric.expect_way(Some(&a.netns), at_a, Some(&b.netns), at_b, at_b, &with_rule),
            }
        });
    }
}

#[test]
fn pk3_services_and_local_addresses_work_for_bridged_pods() {
    for mode in BOTH {
        on_a_node(10, move |node| {
            let fabric = Fabric::like_azure(node);
            fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", "0").unwrap();
            let (a, b) = (node.sandbox("a", "a-0"), node.sandbox("b", "b-0"));
            let mut conf = conf(mode);
            conf["ipsToRouteViaHost"] = json!([LOCAL_DNS, RESOLVER]);
            let at_a = node.run(&a, "ADD", &conf).address();
            let at_b = node.run(&b, "ADD", &conf).address();
            assert_eq!(fs::read_to_string("/proc/sys/net/bridge/bridge-nf-call-iptables").unwrap().trim(), "1");
            // What node-local DNS does: a link with its address and the cluster resolver's, which no Service rule sees. For kernels without the dummy
            // driver it is a bridge without ports.
            run("ip", &["link", "add", "name", "nodelocaldns", "up", "type", "bridge"]);
            for resolver in [LOCAL_DNS, RESOLVER] {
                run("ip", &["address", "add", &format!("{resolver}/32"), "dev", "nodelocaldns"]);
                run("iptables-nft", &["-w", "-t", "raw", "-A", "PREROUTING", "-d", &resolver.to_string(), "-j", "CT", "--notrack"]);
                run("iptables-nft", &["-w", "-t", "raw", "-A", "OUTPUT", "-s", &resolver.to_string(), "-j", "CT", "--notrack"]);
                fabric.expect_way(Some(&a.netns), at_a, None, resolver, resolver, &format!("{mode}: node-local resolver"));
            }
            // What kube-proxy does for a ClusterIP.
            for (endpoint, namespace) in [(at_b, Some(&b.netns)), (NODE, None), (OTHER_NODE, Some(&fabric.other)), (at_a, Some(&a.netns))] {
                let rule = ["-p", "udp", "-d", &SERVICE.to_string(), "-j", "DNAT", "--to-destination", &endpoint.to_string()];
                let hairpin = ["POSTROUTING", "-s", &at_a.to_string(), "-d", &at_a.to_string(), "-j", "MASQUERADE"];
                run("iptables-nft", &[&["-w", "-t", "nat", "-A", "PREROUTING"], &rule[..]].concat());
                run("iptables-nft", &[&["-w", "-t", "nat", "-A"], &hairpin[..]].concat());
                let asked = ask(Some(&a.netns), namespace, SERVICE.into(), endpoint.into());
                assert!(asked.is_ok(), "{mode}: service at {endpoint}: {asked:?}");
                run("iptables-nft", &["-w", "-t", "nat", "-F", "PREROUTING"]);
                run("iptables-nft", &["-w", "-t", "nat", "-F", "POSTROUTING"]);
            }
        });
    }
}

#[test]
fn the_uplink_keeps_all_that_it_had_on_the_bridge() {
    on_a_node(10, |node| {
        let fabric = Fabric::like_azure(node);
        run("ip", &["route", "replace", "default", "via", &FABRIC.to_string(), "dev", "eth0", "metric", "100", "proto", "dhcp"]);
        run("ip", &["route", "add", "168.63.129.16", "via", &FABRIC.to_string(), "dev", "eth0", "src", &NODE.to_string(), "metric", "100"]);
        run("ip", &["route", "add", "10.99.0.0/16", "via", &FABRIC.to_string(), "dev", "eth0", "table", "77"]);
        run("ip", &["address", "add", "10.240.0.44/16", "dev", "eth0"]);
        run("ip", &["address", "add", "fd00::4/64", "dev", "eth0", "nodad"]);
        run("ip", &["-6", "route", "add", "default", "via", "fd00::1", "dev", "eth0", "metric", "100"]);
        let shown = |link: &str| {
            let of = |arguments: &[&str]| {
                let out = Command::new("ip").args(arguments).args(["dev", link]).output().unwrap();
                let mut lines: Vec<String> = String::from_utf8(out.stdout).unwrap().lines().map(|line| line.trim().to_owned()).collect();
                lines.retain(|line| !line.contains("fe80") && !line.contains("multicast") && !line.is_empty());
                lines.sort();
                lines
            };
            [of(&["-4", "route", "show", "table", "main"]), of(&["-4", "route", "show", "table", "77"]), of(&["-6", "route", "show"])]
        };
        let before = shown("eth0");
        let mac = Netlink::open().unwrap().link(LinkBy::Name("eth0")).unwrap().unwrap().mac;
        let pod = node.sandbox("c1", "web-0");
        let address = add(node, &pod, "bridge").address();
        let mut host = Netlink::open().unwrap();
        let eth0 = host.link(LinkBy::Name("eth0")).unwrap().unwrap();
        let bridge = host.link(LinkBy::Name(&format!("azure{}", eth0.index))).unwrap().unwrap();
        assert_eq!((eth0.controller, bridge.mac, eth0.hairpin), (Some(bridge.index), mac, true));
        let mut after = shown(&bridge.name);
        after[0].retain(|line| !line.starts_with(&address.to_string()));
        assert_eq!(after, before.map(|lines| lines.into_iter().map(|line| line.replace(" linkdown", "")).collect::<Vec<_>>()));
        assert!(shown("eth0").iter().all(Vec::is_empty), "{:?}", shown("eth0"));
        let addresses = host.addresses(Family::V4).unwrap().into_iter().chain(host.addresses(Family::V6).unwrap());
        let mut on_bridge: Vec<String> =
            addresses.filter(|a| a.link == bridge.index).map(|a| a.address.to_string()).filter(|text| !text.starts_with("fe80")).collect();
        on_bridge.sort();
        assert_eq!(on_bridge, ["10.240.0.4", "10.240.0.44", "fd00::4"]);
        fabric.host_is_connected("after the move");
        assert!(node.run(&pod, "DEL", &conf("bridge")).ok);
        assert!(host.link(LinkBy::Name(&bridge.name)).unwrap().is_some(), "DEL never undoes the network");
        fabric.host_is_connected("after DEL");
    });
}

#[test]
fn a_bridge_that_is_there_is_taken_as_it_is_and_a_named_one_too() {
    on_a_node(10, |node| {
        let fabric = Fabric::like_azure(node);
        let pod = node.sandbox("c1", "web-0");
        let mut named = conf("bridge");
        (named["bridge"], named["master"]) = (json!("azure0"), json!("eth0"));
        assert!(node.run(&pod, "ADD", &named).ok);
        // What a lost state and another configuration lead to: the addresses are on the bridge, which is no uplink.
        for (number, other) in [conf("bridge"), conf("tunnel"), named.clone()].into_iter().enumerate() {
            let next = node.sandbox(&format!("other{number}"), "web-1");
            let added = node.run(&next, "ADD", &other);
            assert!(added.ok, "{added:?}");
            assert!(node.run(&next, "DEL", &other).ok);
        }
        run("ip", &["link", "set", "azure0", "alias", "someone's"]);
        let next = node.sandbox("c9", "web-9");
        assert!(add(node, &next, "bridge").ok);
        let bridges = Netlink::open().unwrap().links().unwrap().into_iter().filter(|link| link.kind.as_deref() == Some("bridge"));
        assert_eq!(bridges.map(|bridge| bridge.name).collect::<Vec<_>>(), ["azure0"]);
        fabric.host_is_connected("after all of them");
        let mut wrong = conf("bridge");
        wrong["master"] = json!("eth7");
        let refused = node.run(&node.sandbox("c8", "web-8"), "ADD", &wrong);
        assert_eq!(refused.code(), 7, "{refused:?}");
        fabric.host_is_connected("after a wrong master");
    });
}

#[test]
fn an_uplink_out_of_its_bridge_goes_back_into_it_with_an_add_that_would_name_another() {
    on_a_node(10, |node| {
        let fabric = Fabric::like_azure(node);
        let (pod, mut named) = (node.sandbox("c1", "web-0"), conf("bridge"));
        named["bridge"] = json!("azure0");
        let address = node.run(&pod, "ADD", &named).address();
        let mut later = named;
        later["bridge"] = json!("later");
        for (number, conf) in [conf("bridge"), later].iter().enumerate() {
            // What systemd-networkd does when it is started anew.
            run("ip", &["link", "set", "eth0", "nomaster"]);
            run("ip", &["address", "add", &format!("{NODE}/16"), "dev", "eth0"]);
            run("ip", &["route", "append", "default", "via", &FABRIC.to_string(), "dev", "eth0", "metric", "100"]);
            let next = node.sandbox(&format!("next{number}"), "web-1");
            let added = node.run(&next, "ADD", conf);
            assert!(added.ok, "{added:?}");
            let links = Netlink::open().unwrap().links().unwrap();
            let bridges: Vec<_> = links.iter().filter(|link| link.kind.as_deref() == Some("bridge")).collect();
            assert_eq!(bridges.iter().map(|bridge| bridge.name.as_str()).collect::<Vec<_>>(), ["azure0"]);
            let eth0 = links.iter().find(|link| link.name == "eth0").unwrap();
            assert_eq!(eth0.controller, Some(bridges[0].index));
            fabric.host_is_connected("after the uplink's return");
            fabric.expect_way(Some(&pod.netns), address, Some(&fabric.here), FABRIC, FABRIC, "the way of the pod that was there");
        }
    });
}

#[test]
fn a_bridged_pod_is_checked_mended_and_deleted_without_a_trace() {
    for mode in BOTH {
        on_a_node(10, move |node| {
            let _fabric = Fabric::like_azure(node);
            let pod = node.sandbox("c1", "web-0");
            let added = add(node, &pod, mode);
            let address = added.address();
            let host_link = added.json()["interfaces"][1]["name"].as_str().unwrap().to_owned();
            let check = |what: &str| {
                let mut conf = conf(mode);
                conf["prevResult"] = added.json();
                (node.run(&pod, "CHECK", &conf), what.to_owned())
            };
            let (whole, _) = check("");
            assert!(whole.ok, "{mode}: {whole:?}");
            let bridge = format!("azure{}", Netlink::open().unwrap().link(LinkBy::Name("eth0")).unwrap().unwrap().index);
            let text = address.to_string();
            let breakages: Vec<(Vec<&str>, &str)> = vec![
                (vec!["link", "set", &host_link, "nomaster"], "on a bridge"),
                (vec!["link", "set", &host_link, "type", "bridge_slave", "hairpin", "off"], "the host link's place on the bridge"),
                (vec!["route", "del", &text, "dev", &bridge], "the host's route to the pod"),
                (vec!["neighbour", "del", &text, "dev", &bridge], "the bridge's entry for the pod"),
            ];
            for (breakage, part) in breakages {
                run("ip", &breakage);
                let (broken, _) = check(part);
                assert!(!broken.ok && broken.json()["msg"].as_str().unwrap().contains(part), "{mode}: {part}: {broken:?}");
                assert_eq!(add(node, &pod, mode).json(), added.json());
                let (mended, _) = check(part);
                assert!(mended.ok, "{mode}: {part}: {mended:?}");
            }
            run("ebtables-nft", &["-t", "nat", "-F", "AZURE-VNET-PODS"]);
            let (broken, _) = check("rules");
            assert!(broken.json()["msg"].as_str().unwrap().contains("the rules for the pod's frames"), "{broken:?}");
            assert_eq!(add(node, &pod, mode).json(), added.json());
            for _ in 0..2 {
                assert!(node.run(&pod, "DEL", &conf(mode)).ok);
                assert_eq!(traces(address), Vec::<String>::new(), "{mode}");
            }
            node.assert_nothing_left(mode);
        });
    }
}

#[test]
fn the_rules_are_what_ebtables_shows() {
    on_a_node(10, |node| {
        let pod = node.sandbox("c1", "web-0");
        let added = add(node, &pod, "tunnel");
        let (address, link) = (added.address(), added.json()["interfaces"][1]["name"].as_str().unwrap().to_owned());
        let mac = added.json()["interfaces"][0]["mac"].as_str().unwrap().to_owned();
        let out = Command::new("ebtables-nft").args(["-t", "nat", "-L"]).output().unwrap();
        let listing = String::from_utf8(out.stdout).unwrap();
        // ebtables leaves out targets that are its defaults.
        for rule in [
            "-j AZURE-VNET".to_owned(),
            "-j AZURE-VNET-PODS".to_owned(),
            "-j AZURE-VNET-OUT".to_owned(),
            "-p ARP --arp-op Request --arp-ip-dst 10.240.0.4 -j arpreply --arpreply-mac 02:00:00:00:00:04".to_owned(),
            "-p ARP -i eth0 --arp-op Reply -j dnat --to-dst ff:ff:ff:ff:ff:ff --dnat-target ACCEPT".to_owned(),
            "-p IPv4 -i az+ --ip-dst 10.240.0.4 -j redirect".to_owned(),
            format!("-p ARP -i az+ --arp-op Request --arp-ip-dst {address} -j arpreply --arpreply-mac 12:34:56:78:9a:bc"),
            format!("-p IPv4 -i eth0 --ip-dst {address} -j dnat --to-dst {mac} --dnat-target ACCEPT"),
            format!("-d Unicast -i {link} -j dnat --to-dst 12:34:56:78:9a:bc --dnat-target ACCEPT"),
            "-s Unicast -o eth0 -j snat --to-src 02:00:00:00:00:04 --snat-arp --snat-target ACCEPT".to_owned(),
        ] {
            assert!(listing.lines().any(|line| line.trim_end() == rule), "{rule}\n{listing}");
        }
        let before = listing.lines().count();
        assert!(add(node, &node.sandbox("c2", "web-1"), "tunnel").ok);
        let out = Command::new("ebtables-nft").args(["-t", "nat", "-L"]).output().unwrap();
        assert_eq!(String::from_utf8(out.stdout).unwrap().lines().count(), before + 3, "a second pod adds its own rules and no others");
    });
}

#[test]
fn cm4_gc_leaves_nothing_of_a_bridged_pod_that_went_without_a_del() {
    for mode in BOTH {
        on_a_node(10, move |node| {
            let _fabric = Fabric::like_azure(node);
            let (pod, other) = (node.sandbox("c1", "web-0"), node.sandbox("c2", "web-1"));
            let (address, kept) = (add(node, &pod, mode).address(), add(node, &other, mode));
            let before = traces(kept.address());
            pod.drop_netns();
            node::await_that("the link goes with its namespace", || node.host_links().len() == 1);
            let mut gc = node::conf("1.1.0");
            gc["cni.dev/valid-attachments"] = json!([{ "containerID": "c2", "ifname": "eth0" }]);
            let ended = node.run(&other, "GC", &gc);
            assert!(ended.ok, "{mode}: {ended:?}");
            let of_pod: Vec<_> = traces(address).into_iter().filter(|trace| trace.contains(&address.to_string())).collect();
            assert_eq!((of_pod, traces(kept.address()).len()), (vec![], before.len() - rules_of(mode)), "{mode}");
            let check = node.run(&other, "CHECK", &with(conf(mode), kept.json()));
            assert!(check.ok, "{mode}: {check:?}");
        });
    }
}

#[test]
fn st3_a_bridged_pod_stays_what_it_is_when_the_store_is_made_anew_under_another_mode() {
    for (mode, lease, another) in
        [("bridge", Mode::Bridge, "transparent"), ("tunnel", Mode::Tunnel, "transparent"), ("tunnel", Mode::Tunnel, "bridge")]
    {
        on_a_node(10, move |node| {
            let _fabric = Fabric::like_azure(node);
            let service = Service::start(wireserver(&[node::pool_address(1), node::pool_address(2)]));
            let pod = node.sandbox("c1", "web-0");
            let added = add(node, &pod, mode);
            fs::rename(node::RUN, "/run/lost").unwrap();
            let mut other = conf(another);
            other["ipam"] =
                json!({ "type": "azure-vnet-ipam", "wireserverEndpoint": service.endpoint(), "imdsEndpoint": service.endpoint() });
            let newer = node.sandbox("c2", "web-1");
            assert!(node.run(&newer, "ADD", &other).ok);
            assert!(node.leases().iter().any(|there| there.address == added.address() && there.mode == lease), "{mode}");
            let check = node.run(&pod, "CHECK", &with(other.clone(), added.json()));
            assert!(check.ok, "{mode}: {check:?}");
            assert!(node.run(&pod, "DEL", &other).ok && node.run(&newer, "DEL", &other).ok);
            assert_eq!(traces(added.address()), Vec::<String>::new(), "{mode}");
        });
    }
}

#[test]
fn what_one_mode_asks_of_the_bridge_stays_when_pods_of_the_other_come() {
    on_a_node(10, |node| {
        let fabric = Fabric::like_azure(node);
        let (a, b) = (node.sandbox("a", "a-0"), node.sandbox("b", "b-0"));
        let mut tunnel = conf("tunnel");
        tunnel["ipsToRouteViaHost"] = json!([LOCAL_DNS]);
        let at_a = node.run(&a, "ADD", &tunnel).address();
        let at_b = node.run(&b, "ADD", &tunnel).address();
        run("ip", &["address", "add", &format!("{LOCAL_DNS}/32"), "dev", "lo"]);
        let rule = ["-p", "udp", "-d", &SERVICE.to_string(), "-j", "DNAT", "--to-destination", &at_b.to_string()];
        run("iptables-nft", &[&["-w", "-t", "nat", "-A", "PREROUTING"], &rule[..]].concat());
        assert!(add(node, &node.sandbox("c", "c-0"), "bridge").ok);
        assert_eq!(ask(Some(&a.netns), Some(&b.netns), SERVICE.into(), at_b.into()), Ok(NODE.into()), "a service between pods of one node");
        fabric.expect_way(Some(&a.netns), at_a, None, LOCAL_DNS, LOCAL_DNS, "node-local resolver");
        let before = Frames::open().unwrap().observe().unwrap();
        assert!(node.run(&node.sandbox("d", "d-0"), "ADD", &tunnel).ok);
        let after = Frames::open().unwrap().observe().unwrap();
        let old = |rules: &[ObservedRule]| rules.iter().filter(|rule| before.contains(rule)).count();
        assert_eq!((old(&after), after.len()), (before.len(), before.len() + rules_of("tunnel")), "nothing is made anew");
    });
}

/// How many rules a pod has.
fn rules_of(mode: &str) -> usize {
    if mode == "tunnel" { 4 } else { 3 }
}

pub fn with(mut conf: Value, previous: Value) -> Value {
    conf["prevResult"] = previous;
    conf
}

/// What the agent does on a node.
fn masquerade() {
    run("iptables-nft", &["-w", "-t", "nat", "-A", "POSTROUTING", "-s", "10.240.1.0/24", "!", "-d", "10.240.0.0/16", "-j", "MASQUERADE"]);
}

pub fn conf(mode: &str) -> Value {
    let mut conf = node::conf("1.0.0");
    conf["mode"] = json!(mode);
    conf
}

pub fn add(node: &Node, pod: &Sandbox, mode: &str) -> Ended {
    let added = node.run(pod, "ADD", &conf(mode));
    assert!(added.ok, "{mode}: {added:?}");
    added
}

/// Routes, neighbours and rules of an address.
pub fn traces(address: Ipv4Addr) -> Vec<String> {
    let mut host = Netlink::open().unwrap();
    let address = IpAddr::V4(address);
    let routes =
        host.routes(Family::V4, 254).unwrap().into_iter().filter(|route| route.destination.addr() == address).map(|r| format!("{r:?}"));
    let mut all: Vec<String> = routes.collect();
    all.extend(host.neighbours(Family::V4).unwrap().into_iter().filter(|n| n.address == address && n.permanent).map(|n| format!("{n:?}")));
    let rules = Frames::open().unwrap().observe().unwrap();
    all.extend(rules.into_iter().filter(|rule| rule.chain.is_of_pods()).map(|rule| format!("{rule:?}")));
    assert!(Path::new("/run/azure-vnet").exists());
    all
}
