//! The plugins against the real kernel, each test on a node of its own.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::unused_self,
    reason = "a test stops at the first surprise, and its node is the subject of what it does"
)]

mod node;
mod ways;

use std::{
    collections::BTreeSet,
    fs,
    net::{Ipv4Addr, UdpSocket},
    path::Path,
    process::Command,
    time::Duration,
};

use azure_vnet_plugin::{
    netlink::{Address, Change, Family, LinkBy, Netlink, Route},
    store::Freed,
};
use azure_vnet_plugin_core::{
    lease::Entry,
    pool::SealOwner,
    wiring::{Alias, GATEWAY, HOST_MAC},
};
use node::{FABRIC, IPAM, NODE, Node, PLUGIN, RUN, Sandbox, conf, finish, inside, on_a_node, pool_address, run};
use serde_json::{Value, json};

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
fn st3_without_a_seal_add_waits_and_status_says_so() {
    on_a_node(10, |node| {
        let pod = node.sandbox("c1", "web-0");
        assert!(node.run(&pod, "STATUS", &conf("1.1.0")).ok);
        node.keeper().unseal().unwrap();
        let added = node.add(&pod);
        assert_eq!(added.code(), 11);
        assert!(added.json()["details"].as_str().unwrap().contains("agent"), "{added:?}");
        assert_eq!(node.run(&pod, "STATUS", &conf("1.1.0")).code(), 50);
        assert_eq!(pod.links(), []);
        assert_eq!(node.host_links(), []);
        assert!(Path::new(RUN).join("want/uid-of-web-0").exists(), "UP5: the pod counts as demand");
        node.keeper().seal(SealOwner::Agent).unwrap();
        assert!(node.add(&pod).ok);
    });
}

#[test]
fn st3_losing_the_store_while_pods_run_frees_nothing() {
    on_a_node(4, |node| {
        let pod = node.sandbox("c1", "web-0");
        let address = node.add(&pod).address();
        fs::rename(RUN, "/run/lost").unwrap();
        let other = node.sandbox("c2", "web-1");
        assert_eq!(node.add(&other).code(), 11);
        // Even a store that was made anew without what runs: the kernel is the last guard (ST4).
        node.adopt(&(1..=4).map(pool_address).collect::<Vec<_>>(), 1, Duration::from_secs(30));
        for n in 0..3 {
            let pod = node.sandbox(&format!("d{n}"), &format!("db-{n}"));
            assert_ne!(node.add(&pod).address(), address);
        }
        let last = node.add(&node.sandbox("d3", "db-3"));
        assert_eq!(last.code(), 11);
        assert!(last.json()["msg"].as_str().unwrap().contains("1 used otherwise on this host"), "{last:?}");
        // DEL of the one without a lease still removes its link.
        assert!(node.del(&pod).ok);
        assert!(!node.pod_routes().contains(&address));
    });
}

#[test]
fn st4_an_address_of_the_hosts_own_is_skipped() {
    on_a_node(3, |node| {
        run("ip", &["address", "add", "10.240.1.1/16", "dev", "eth0"]);
        run("ip", &["route", "add", "10.240.1.2/32", "dev", "eth0"]);
        assert_eq!(node.add(&node.sandbox("c1", "web-0")).address(), pool_address(3));
        assert_eq!(node.add(&node.sandbox("c2", "web-1")).code(), 11);
        assert!(Path::new(RUN).join("want/uid-of-web-1").exists());
    });
}

#[test]
fn st4_a_dead_links_route_gives_way() {
    on_a_node(1, |node| {
        let stale = node.sandbox("c1", "web-0");
        let address = node.add(&stale).address();
        // The lease is lost, and the pod's end is down.
        let seen = node.store().read(address).unwrap().unwrap();
        assert_eq!(node.store().free_if(address, &seen, &mut || true).unwrap(), Freed::Cooling);
        fs::remove_file(Path::new(RUN).join("lease").join(address.to_string())).unwrap();
        let pod = node.sandbox("c2", "web-1");
        assert_eq!(node.add(&pod).code(), 11, "a living link keeps its address");
        inside(&stale.netns, || run("ip", &["link", "set", "eth0", "down"]));
        let added = node.add(&pod);
        assert_eq!(added.address(), address);
        assert!(node.check(&pod, &added).ok);
    });
}

#[test]
fn cm2_del_touches_only_what_its_own_lease_or_alias_names() {
    on_a_node(10, |node| {
        let pod = node.sandbox("c1", "web-0");
        let added = node.add(&pod);
        // The same pod's name, another container, and the prevResult of the first: nothing of the first is touched.
        let stranger = Sandbox { container: "stranger".into(), ..pod.clone() };
        let mut with_result = conf("1.0.0");
        with_result["prevResult"] = added.json();
        assert!(node.run(&stranger, "DEL", &with_result).ok);
        let check = node.check(&pod, &added);
        assert!(check.ok, "{check:?}");
        node.assert_holds(&[added.address()], "after a stranger's DEL");
        // A link under the lease's name whose alias names another stays.
        let mut host = Netlink::open().unwrap();
        let link = host.link(LinkBy::Name("azv0d7763386da")).unwrap().unwrap();
        host.change(Change::Label { link: link.index, alias: "azure-vnet:someone/eth0 10.240.1.99" }).unwrap();
        assert!(node.del(&pod).ok);
        assert!(host.link(LinkBy::Index(link.index)).unwrap().is_some());
        assert_eq!(node.leases(), []);
    });
}

#[test]
fn cm3_a_newer_sandbox_takes_the_name_over_and_the_late_del_touches_nothing_of_it() {
    on_a_node(10, |node| {
        let (old, new) = (node.sandbox("old", "web-0"), node.sandbox("new", "web-0"));
        let before = node.add(&old).address();
        let added = node.add(&new);
        let after = added.address();
        assert_ne!(before, after);
        assert_eq!(old.links(), [], "the old sandbox is cut off");
        assert!(node.check(&new, &added).ok);
        assert!(node.del(&old).ok);
        assert!(node.check(&new, &added).ok);
        node.assert_holds(&[after], "after the late DEL");
    });
}

#[test]
fn cm3_a_link_of_anyone_else_is_not_taken() {
    on_a_node(10, |node| {
        run("ip", &["link", "add", "azv0d7763386da", "type", "bridge"]);
        let pod = node.sandbox("c1", "web-0");
        let added = node.add(&pod);
        assert!(!added.ok && added.json()["msg"].as_str().unwrap().contains("azv0d7763386da"), "{added:?}");
        assert_eq!((node.leases(), pod.links()), (vec![], vec![]));
        assert!(node.del(&pod).ok);
        assert_eq!(node.host_links().len(), 1, "the foreign link stays");
        run("ip", &["link", "delete", "azv0d7763386da"]);
        // One of ours whose lease cannot be seen stays, too.
        let (lost, newer) = (node.sandbox("lost", "web-0"), node.sandbox("newer", "web-0"));
        let address = node.add(&lost).address();
        let seen = node.store().read(address).unwrap().unwrap();
        node.store().free_if(address, &seen, &mut || true).unwrap();
        assert!(!node.add(&newer).ok);
        assert_eq!(lost.links().len(), 1);
    });
}

#[test]
fn cm4_gc_frees_only_with_two_witnesses() {
    on_a_node(10, |node| {
        let pods: Vec<_> = ["listed", "alive", "moved", "gone", "linked"].iter().map(|name| node.sandbox(name, name)).collect();
        let addresses: Vec<_> = pods.iter().map(|pod| node.add(pod).address()).collect();
        let [_, _, moved, gone, linked] = &pods[..] else { panic!() };
        // Its namespace was replaced, and with the old one its link went.
        moved.drop_netns();
        gone.drop_netns();
        node::await_that("links go with their namespaces", || node.host_links().len() == 3);
        let moved = node.sandbox("moved", "moved");
        // The path is gone, and the namespace is kept by something else: its link stays.
        let pin = fs::File::open(&linked.netns).unwrap();
        linked.drop_netns();
        let gc = |valid: Value| {
            let mut conf = conf("1.1.0");
            conf["cni.dev/valid-attachments"] = valid;
            let ended = node.run(&moved, "GC", &conf);
            assert!(ended.ok, "{ended:?}");
            node.leases().into_iter().map(|lease| lease.address).collect::<BTreeSet<_>>()
        };
        let all = json!(["listed", "alive", "moved", "gone", "linked"].map(|id| json!({ "containerID": id, "ifname": "eth0" })));
        assert_eq!(gc(all), addresses.iter().copied().collect(), "one witness is not enough");
        let left = gc(json!([{ "containerID": "listed", "ifname": "eth0" }]));
        assert_eq!(left, BTreeSet::from([addresses[0], addresses[1], addresses[4]]));
        drop(pin);
        node::await_that("the link goes with its namespace", || node.host_links().len() == 2);
        assert_eq!(gc(json!([])), BTreeSet::from([addresses[0], addresses[1]]), "a namespace that is there keeps its lease");
        let mut other = conf("1.1.0");
        other["name"] = json!("other");
        assert!(node.run(&moved, "GC", &other).ok);
        assert_eq!(node.leases().len(), 2, "the list of another network is not this one's");
    });
}

#[test]
fn pk1_a_living_pods_route_wins_over_the_refusal_of_its_address() {
    on_a_node(3, |node| {
        node.refuse_unleased((1..=3).map(pool_address));
        let mut host = Netlink::open().unwrap();
        let pod = node.sandbox("c1", "web-0");
        let added = node.add(&pod);
        assert!(node.check(&pod, &added).ok);
        node.assert_holds(&[added.address()], "beside refusals");
        let refused = |host: &mut Netlink| {
            let routes = host.routes(Family::V4, 254).unwrap().into_iter();
            routes.filter(|route| *route == Route::unreachable(node::v4(route.destination.addr()).unwrap(), 4096)).count()
        };
        assert_eq!(refused(&mut host), 3);
        assert!(node.del(&pod).ok);
        assert_eq!(refused(&mut host), 3);
        let error = UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"x", (added.address(), 9)).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::HostUnreachable);
    });
}

#[test]
fn a_failed_add_leaves_nothing() {
    on_a_node(10, |node| {
        let pod = node.sandbox("c1", "web-0");
        // The pod's name is taken.
        inside(&pod.netns, || run("ip", &["link", "add", "eth0", "type", "bridge"]));
        let added = node.add(&pod);
        assert!(!added.ok && added.json()["msg"].as_str().unwrap().contains("eth0 exists"), "{added:?}");
        node.assert_nothing_left("after a name clash in the pod");
        inside(&pod.netns, || run("ip", &["link", "delete", "eth0"]));
        // A step in the pod is refused: its default route is there already.
        inside(&pod.netns, || {
            run("ip", &["link", "add", "x0", "type", "bridge"]);
            run("ip", &["link", "set", "x0", "up"]);
            run("ip", &["route", "add", "default", "dev", "x0"]);
        });
        let added = node.add(&pod);
        assert!(!added.ok && added.json()["msg"].as_str().unwrap().contains("default route"), "{added:?}");
        node.assert_nothing_left("after a refused step");
        assert_eq!(pod.links().len(), 1);
        // The namespace is none.
        pod.drop_netns();
        assert_eq!(node.add(&pod).code(), 4);
        fs::write(&pod.netns, "").unwrap();
        assert_eq!(node.add(&pod).code(), 4);
        let own = Sandbox { netns: "/proc/thread-self/ns/net".into(), ..pod.clone() };
        assert_eq!(node.add(&own).code(), 4);
        node.assert_nothing_left("after bad namespaces");
    });
}

#[test]
fn a_namespace_that_vanishes_in_the_middle_leaves_nothing() {
    on_a_node(30, |node| {
        let (mut failed, rounds) = (0, 20_u32);
        for round in 0..rounds {
            let pod = node.sandbox(&format!("c{round}"), &format!("web-{round}"));
            let child = node.start(PLUGIN, &pod, "ADD");
            let (pod, ended) = std::thread::scope(|scope| {
                let ending = scope.spawn(move || finish(child, &conf("1.0.0")));
                // A different moment each round.
                for _ in 0..round * 20 {
                    std::thread::yield_now();
                }
                pod.drop_netns();
                (pod, ending.join().unwrap())
            });
            // Whichever was first: what ADD made goes with its DEL, and what it refused is not there.
            if !ended.ok {
                failed += 1;
                assert_eq!(node.leases(), []);
            }
            assert!(node.del(&pod).ok);
            node.assert_nothing_left("after the namespace vanished");
        }
        println!("ADD was refused in {failed} of {rounds} rounds");
    });
}

#[test]
fn a_full_pool_of_250_is_given_away_at_once_and_comes_back() {
    on_a_node(250, |node| {
        let pods: Vec<_> = (0..250).map(|n| node.sandbox(&format!("c{n}"), &format!("web-{n}"))).collect();
        let all = |command: &'static str| {
            let children: Vec<_> = pods.iter().map(|pod| node.start(PLUGIN, pod, command)).collect();
            // All are started before the first gets its configuration.
            let waiters: Vec<_> = children.into_iter().map(|child| std::thread::spawn(move || finish(child, &conf("1.0.0")))).collect();
            waiters.into_iter().map(|waiter| waiter.join().unwrap()).collect::<Vec<_>>()
        };
        let addresses: BTreeSet<_> = all("ADD").iter().map(node::Ended::address).collect();
        assert_eq!(addresses.len(), 250);
        node.assert_holds(&addresses.iter().copied().collect::<Vec<_>>(), "after 250 ADDs");
        assert_eq!(node.add(&node.sandbox("c250", "web-250")).code(), 11);
        assert!(all("DEL").iter().all(|ended| ended.ok));
        node.assert_nothing_left("after 250 DELs");
    });
}

#[test]
fn the_address_plugin_serves_any_other() {
    on_a_node(10, |node| {
        let pod = node.sandbox("c1", "web-0");
        let conf =
            json!({ "cniVersion": "1.0.0", "name": "lan", "type": "ipvlan", "ipam": { "type": "azure-vnet-ipam", "environment": "pool" } });
        let ipam = |command: &str| finish(node.start(IPAM, &pod, command), &conf);
        let added = ipam("ADD");
        let address = added.address();
        let expected = json!({ "cniVersion": "1.0.0", "ips": [{ "address": format!("{address}/16"), "gateway": "10.240.0.1" }],
                               "routes": [{ "dst": "0.0.0.0/0", "gw": "10.240.0.1" }], "dns": { "nameservers": ["168.63.129.16"] } });
        assert_eq!(added.json(), expected);
        assert_eq!(ipam("ADD").json(), expected);
        assert!(ipam("CHECK").ok);
        assert!(ipam("DEL").ok);
        assert!(ipam("DEL").ok);
        assert_eq!(ipam("CHECK").code(), 3);
        node.assert_nothing_left("after DEL");
    });
}

#[test]
fn another_address_plugin_is_run_as_the_specification_says() {
    on_a_node(1, |node| {
        let pod = node.sandbox("c1", "web-0");
        fs::create_dir_all("/run/bin").unwrap();
        let script = "#!/bin/sh\nread -r conf; echo \"$CNI_COMMAND $conf\" >> /run/bin/calls\n\
                      case $CNI_COMMAND in ADD) [ -e /run/bin/fail ] && { echo '{\"code\":42,\"msg\":\"address not found\"}'; exit 1; }\n\
                      echo '{\"cniVersion\":\"1.0.0\",\"ips\":[{\"address\":\"10.88.0.5/24\",\"gateway\":\"10.88.0.1\"}]}';; esac\n";
        fs::write("/run/bin/other", script).unwrap();
        run("chmod", &["+x", "/run/bin/other"]);
        let mut conf = conf("1.0.0");
        conf["ipam"] = json!({ "type": "other", "private": { "field": 1 } });
        let with_path = |command: &str, conf: &Value| {
            let output = Command::new("env")
                .env_clear()
                .args([
                    format!("CNI_COMMAND={command}").as_str(),
                    "CNI_CONTAINERID=c1",
                    "CNI_NETNS=/run/netns/c1",
                    "CNI_IFNAME=eth0",
                    "CNI_PATH=/nowhere:/run/bin",
                    "CNI_ARGS=K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0",
                    "PATH=/bin:/usr/bin",
                    PLUGIN,
                ])
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .stderr(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            finish(output, conf)
        };
        let added = with_path("ADD", &conf);
        assert_eq!(added.address(), Ipv4Addr::new(10, 88, 0, 5));
        conf["prevResult"] = added.json();
        let check = with_path("CHECK", &conf);
        assert!(check.ok, "{check:?}");
        let deleted = with_path("DEL", &conf);
        assert!(deleted.ok, "{deleted:?}");
        assert_eq!((node.host_links(), pod.links()), (vec![], vec![]));
        let calls = fs::read_to_string("/run/bin/calls").unwrap();
        assert_eq!(calls.lines().map(|call| call.split(' ').next().unwrap()).collect::<Vec<_>>(), ["ADD", "CHECK", "DEL"]);
        assert!(calls.lines().all(|call| call.contains("\"private\":{\"field\":1}")), "{calls}");
        fs::write("/run/bin/fail", "").unwrap();
        assert_eq!(with_path("ADD", &conf).code(), 42);
    });
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
