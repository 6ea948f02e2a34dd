//! What each command does and answers, each test on a node of its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{ErrorKind, Write as _},
    net::Ipv4Addr,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use azure_vnet_plugin::netlink::{Address, Family, LinkBy};
use azure_vnet_plugin_core::{
    lease::Entry,
    request::MOST_BYTES,
    wiring::{Alias, GATEWAY, HOST_MAC},
};
use serde_json::{Value, json};

use crate::node::{Ended, FABRIC, IPAM, NODE, Node, PLUGIN, RUN, Sandbox, conf, finish, inside, on_a_node, run};
use crate::ways;

#[test]
fn an_added_pod_has_all_that_transparent_mode_is() {
    on_a_node(10, |node| {
        let pod = node.sandbox("c1", "web-0");
        let added = node.add(&pod);
        let address = added.address();
        let links = node.host_links();
        assert_eq!((links.len(), links[0].name.as_str(), links[0].mac), (1, "azv0d7763386da", Some(HOST_MAC)));
        assert!(links[0].up && links[0].carrier && links[0].proxy_arp == Some(true));
        let alias: Alias = links[0].alias.as_deref().unwrap().parse().unwrap();
        assert_eq!((alias.attachment.to_string(), alias.address), ("c1/eth0".into(), address.into()));
        let mut inner = pod.netlink();
        let eth0 = inner.link(LinkBy::Name("eth0")).unwrap().unwrap();
        assert_eq!((eth0.mtu, eth0.up), (1500, true));
        assert!(inner.link(LinkBy::Name("lo")).unwrap().unwrap().up);
        assert!(inner.addresses(Family::V4).unwrap().contains(&Address { link: eth0.index, address: address.into(), prefix_len: 16 }));
        let routes: BTreeSet<_> =
            inner.routes(Family::V4, 254).unwrap().into_iter().map(|route| (route.destination.to_string(), route.gateway)).collect();
        assert_eq!(routes, BTreeSet::from([("0.0.0.0/0".into(), Some(GATEWAY.into())), ("169.254.1.1/32".into(), None)]));
        let neighbours = inner.neighbours(Family::V4).unwrap();
        assert!(neighbours.iter().any(|n| n.address == GATEWAY && n.permanent && n.mac == Some(HOST_MAC)), "{neighbours:?}");
        let expected = json!({
            "cniVersion": "1.0.0",
            "interfaces": [
                { "name": "eth0", "mac": eth0.mac.unwrap().to_string(), "sandbox": "/run/netns/c1" },
                { "name": "azv0d7763386da", "mac": "aa:aa:aa:aa:aa:aa" },
            ],
            "ips": [{ "address": format!("{address}/16"), "gateway": "10.240.0.1", "interface": 0 }],
            "routes": [{ "dst": "0.0.0.0/0", "gw": "10.240.0.1" }],
            "dns": { "nameservers": ["168.63.129.16"] },
        });
        assert_eq!(added.json(), expected);
        node.assert_holds(&[address], "after ADD");
    });
}

#[test]
fn packets_go_from_host_and_pod_and_fabric_to_a_pod_with_its_own_address() {
    on_a_node(10, |node| {
        let (a, b) = (node.sandbox("a", "a-0"), node.sandbox("b", "b-0"));
        let (at_a, at_b) = (node.add(&a).address(), node.add(&b).address());
        for (netns, source) in [(Some(&a.netns), at_a), (None, NODE), (Some(&node.fabric), FABRIC)] {
            assert_eq!(ways::ask(netns, Some(&b.netns), at_b.into(), at_b.into()), Ok(source.into()));
        }
    });
}

#[test]
fn the_same_add_again_gives_the_same_answer() {
    on_a_node(10, |node| {
        let pod = node.sandbox("c1", "web-0");
        let (first, second) = (node.add(&pod), node.add(&pod));
        assert!(first.ok, "{first:?}");
        assert_eq!(first.json(), second.json());
        node.assert_holds(&[first.address()], "after ADD twice");
    });
}

#[test]
fn the_same_add_again_mends_what_is_missing() {
    on_a_node(10, |node| {
        let pod = node.sandbox("c1", "web-0");
        let first = node.add(&pod);
        let what: [Breakage; 6] = [remove_link, remove_host_route, remove_address, remove_default, remove_neighbour, set_down];
        for remove in what {
            remove(node, &pod, first.address());
            assert!(!node.check(&pod, &first).ok);
            let again = node.add(&pod);
            assert_eq!(again.json(), first.json());
            let check = node.check(&pod, &again);
            assert!(check.ok, "{check:?}");
        }
    });
}

#[test]
fn cm5_check_tells_what_is_missing_and_ignores_what_others_may_change() {
    on_a_node(10, |node| {
        let pod = node.sandbox("c1", "web-0");
        let cases: [(Breakage, &str); 6] = [
            (remove_link, "the pair of links"),
            (remove_host_route, "the host's route to the pod"),
            (remove_address, "the pod's address"),
            (remove_default, "the pod's default route"),
            (remove_neighbour, "the pod's entry for its gateway"),
            (set_down, "the pod's link being up"),
        ];
        for (remove, part) in cases {
            let added = node.add(&pod);
            assert!(node.check(&pod, &added).ok);
            remove(node, &pod, added.address());
            let check = node.check(&pod, &added);
            assert!(!check.ok && check.json()["msg"].as_str().unwrap().contains(part), "{part}: {check:?}");
            assert!(node.del(&pod).ok);
        }
        let added = node.add(&pod);
        inside(&pod.netns, || run("ip", &["link", "set", "eth0", "mtu", "1400", "address", "02:00:00:00:00:99"]));
        assert!(node.check(&pod, &added).ok);
        // Another mode in the file of the day does not matter to a pod that is there.
        let mut other = conf("1.0.0");
        other["prevResult"] = added.json();
        other["name"] = json!("renamed");
        assert!(node.run(&pod, "CHECK", &other).ok);
        fs::rename(RUN, "/run/lost").unwrap();
        let check = node.check(&pod, &added);
        assert!(check.ok, "with the store lost: {check:?}");
    });
}

#[test]
fn a_deleted_pod_leaves_nothing_however_often_and_late() {
    on_a_node(10, |node| {
        let pod = node.sandbox("c1", "web-0");
        node.add(&pod);
        for _ in 0..2 {
            let deleted = node.del(&pod);
            assert!(deleted.ok && deleted.out.is_empty(), "{deleted:?}");
            node.assert_nothing_left("after DEL");
            assert_eq!(pod.links(), []);
        }
        let address = node.add(&pod).address();
        pod.drop_netns();
        assert!(node.del(&pod).ok);
        assert!(node.del(&pod).ok);
        node.assert_nothing_left("after DEL without a namespace");
        assert!(matches!(node.store().read(address).unwrap(), Some(Entry::Cooling(_))), "an address rests after use");
    });
}

#[test]
fn st10_del_uses_the_lease_and_not_the_configuration_of_the_day() {
    on_a_node(10, |node| {
        let pod = node.sandbox("c1", "web-0");
        node.add(&pod);
        let odd = json!({ "cniVersion": "99", "name": "other", "mode": "tunnel", "ipam": { "type": 7 } });
        let deleted = node.run(&pod, "DEL", &odd);
        assert!(deleted.ok, "{deleted:?}");
        node.assert_nothing_left("after DEL");
    });
}

#[test]
fn every_version_gets_its_own_shape() {
    on_a_node(10, |node| {
        for version in ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
            let pod = node.sandbox(&format!("c-{version}"), &format!("p-{version}"));
            let added = node.run(&pod, "ADD", &conf(version));
            assert!(added.ok, "{added:?}");
            let answer = added.json();
            assert_eq!(answer["cniVersion"], version);
            match version {
                "0.1.0" | "0.2.0" => assert!(answer["ip4"]["ip"].is_string() && answer["ips"].is_null(), "{answer}"),
                "0.3.0" | "0.3.1" | "0.4.0" => assert_eq!(answer["ips"][0]["version"], "4"),
                _ => assert!(answer["ips"][0]["version"].is_null() && answer["ips"][0]["address"].is_string(), "{answer}"),
            }
            assert_eq!(answer["interfaces"][0]["mtu"].is_number(), version == "1.1.0");
            assert!(node.run(&pod, "DEL", &conf(version)).ok);
        }
        let old = node.sandbox("old", "old");
        let ended = node.run(&old, "ADD", &conf("0.9.0"));
        assert_eq!((ended.code(), ended.json()["cniVersion"].as_str()), (1, Some("0.2.0")));
    });
}

#[test]
fn version_and_usage_need_no_node() {
    let output = Command::new(PLUGIN).arg("--version").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.split_whitespace().collect::<Vec<_>>(), ["Azure", "CNI", "Version", env!("CARGO_PKG_VERSION")]);
    let output = Command::new(PLUGIN).env_remove("CNI_COMMAND").stdin(std::process::Stdio::null()).output().unwrap();
    assert!(output.status.success() && output.stdout.is_empty());
    assert!(String::from_utf8(output.stderr).unwrap().contains("CNI_COMMAND"));
    for plugin in [PLUGIN, IPAM] {
        let output = Command::new(plugin).env("CNI_COMMAND", "VERSION").stdin(std::process::Stdio::null()).output().unwrap();
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        let expected =
            json!({ "cniVersion": "1.1.0", "supportedVersions": ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] });
        assert_eq!(answer, expected);
    }
}

#[test]
fn each_command_leaves_one_line_in_the_log() {
    on_a_node(2, |node| {
        let pod = node.sandbox("c1", "web-0");
        node.add(&pod);
        node.del(&pod);
        let log = fs::read_to_string("/var/log/azure-vnet.log").unwrap();
        let commands: Vec<_> = log.lines().map(|line| line.split(' ').find(|field| field.starts_with("command=")).unwrap()).collect();
        assert_eq!(commands, ["command=ADD", "command=DEL"], "{log}");
    });
}

#[test]
fn status_that_finds_all_well_writes_nothing() {
    on_a_node(2, |node| {
        let pod = node.sandbox("c1", "web-0");
        assert!(node.add(&pod).ok);
        let before = files();
        for plugin in [PLUGIN, IPAM] {
            let status = finish(node.start(plugin, &pod, "STATUS"), &conf("1.1.0"));
            assert!(status.ok, "{status:?}");
        }
        assert_eq!(files(), before);
        let mut debug = conf("1.1.0");
        debug["logLevel"] = json!("debug");
        assert!(node.run(&pod, "STATUS", &debug).ok);
        fs::remove_file(Path::new(RUN).join("sealed")).unwrap();
        assert_eq!(node.run(&pod, "STATUS", &conf("1.1.0")).code(), 50);
        let log = fs::read_to_string("/var/log/azure-vnet.log").unwrap();
        let said: Vec<_> = log.lines().filter(|line| line.contains(" command=STATUS ")).collect();
        assert!(said.len() == 2 && said[0].contains(" level=debug ") && said[1].contains(" level=error "), "{log}");
    });
}

/// All that the plugins might write to: file, length, and when it or what it is in was changed.
fn files() -> BTreeMap<PathBuf, (u64, u64, i64, i64)> {
    let mut all = BTreeMap::new();
    let mut folders: Vec<PathBuf> = [RUN, "/var/lib", "/var/log"].map(PathBuf::from).into();
    while let Some(path) = folders.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        if meta.is_dir() {
            folders.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        all.insert(path, (meta.ino(), meta.len(), meta.ctime(), meta.ctime_nsec()));
    }
    all
}

#[test]
fn a_configuration_that_does_not_end_is_refused_and_not_kept() {
    /// Of what has no end, this much is offered.
    const OFFERED: usize = 64 << 20;
    on_a_node(2, |node| {
        let pod = node.sandbox("c1", "web-0");
        for command in ["ADD", "CHECK", "DEL", "GC", "STATUS"] {
            let mut child = node.start(PLUGIN, &pod, command);
            let mut stdin = child.stdin.take().unwrap();
            // What comes first would do by itself.
            stdin.write_all(conf("1.1.0").to_string().as_bytes()).unwrap();
            let (mut taken, blank) = (0, vec![b' '; 1 << 16]);
            while taken < OFFERED {
                match stdin.write(&blank) {
                    Ok(length) => taken += length,
                    Err(error) if error.kind() == ErrorKind::BrokenPipe => break,
                    Err(error) => panic!("{error}"),
                }
            }
            drop(stdin);
            let ended: Ended = child.wait_with_output().unwrap().into();
            assert!(ended.code() == 6 && ended.json()["msg"].as_str().unwrap().contains("longer than 1024 KiB"), "{command}: {ended:?}");
            // What the plugin read, one read more, and what is in the pipe.
            assert!((MOST_BYTES..MOST_BYTES + (1 << 18)).contains(&taken), "{command} took {taken} bytes");
        }
        node.assert_nothing_left("after configurations that do not end");
    });
}

/// Breaks one thing of a pod's wiring.
type Breakage = fn(&Node, &Sandbox, Ipv4Addr);

fn remove_link(_: &Node, _: &Sandbox, _: Ipv4Addr) {
    run("ip", &["link", "delete", "azv0d7763386da"]);
}

fn remove_host_route(_: &Node, _: &Sandbox, address: Ipv4Addr) {
    run("ip", &["route", "delete", &address.to_string()]);
}

fn remove_address(_: &Node, pod: &Sandbox, address: Ipv4Addr) {
    inside(&pod.netns, move || run("ip", &["address", "delete", &format!("{address}/16"), "dev", "eth0"]));
}

fn remove_default(_: &Node, pod: &Sandbox, _: Ipv4Addr) {
    inside(&pod.netns, || run("ip", &["route", "delete", "default"]));
}

fn remove_neighbour(_: &Node, pod: &Sandbox, _: Ipv4Addr) {
    inside(&pod.netns, || run("ip", &["neighbour", "delete", "169.254.1.1", "dev", "eth0"]));
}

fn set_down(_: &Node, pod: &Sandbox, _: Ipv4Addr) {
    inside(&pod.netns, || run("ip", &["link", "set", "eth0", "down"]));
}
