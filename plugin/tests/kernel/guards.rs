//! What keeps an address from being given twice, lost, or dead: commands that meet what they must not touch, or fail in the middle.

use std::{collections::BTreeSet, fs, net::UdpSocket, path::Path, time::Duration};

use azure_vnet_plugin::{
    netlink::{Change, Family, LinkBy, Netlink, Route},
    store::Freed,
};
use azure_vnet_plugin_core::pool::SealOwner;
use serde_json::{Value, json};

use crate::node::{self, PLUGIN, RUN, Sandbox, conf, finish, inside, on_a_node, pool_address, run};

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
        let named = format!("1 used otherwise on this host ({address} is routed to c1/eth0 through ");
        assert!(last.json()["msg"].as_str().unwrap().contains(&named), "{last:?}");
        // DEL of the one without a lease still removes its link.
        assert!(node.del(&pod).ok);
        assert!(!node.pod_routes().contains(&address));
    });
}

#[test]
fn st4_an_address_of_the_hosts_own_is_skipped() {
    on_a_node(4, |node| {
        run("ip", &["address", "add", "10.240.1.1/16", "dev", "eth0"]);
        run("ip", &["route", "add", "10.240.1.2/32", "dev", "eth0"]);
        // A bridge that is not of these plugins, without a port that could tell whose the address is.
        run("ip", &["link", "add", "br0", "up", "type", "bridge"]);
        run("ip", &["route", "add", "10.240.1.3/32", "dev", "br0"]);
        assert_eq!(node.add(&node.sandbox("c1", "web-0")).address(), pool_address(4));
        let log = fs::read_to_string("/var/log/azure-vnet.log").unwrap();
        assert!(log.contains("level=warning") && log.contains("not given: 10.240.1.1 is the host's own, 10.240.1.2 is routed"), "{log}");
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
fn st4_an_address_whose_packets_a_route_refuses_is_another_ones() {
    on_a_node(6, |node| {
        // To a look-up each looks like an address without a route.
        for (kind, n) in [("unreachable", 1), ("blackhole", 2), ("prohibit", 3), ("throw", 4)] {
            run("ip", &["route", "add", kind, &format!("{}/32", pool_address(n))]);
        }
        for (id, mode, n) in [("c1", "transparent", 5), ("c2", "bridge", 6)] {
            let (pod, mut conf) = (node.sandbox(id, id), conf("1.0.0"));
            conf["mode"] = json!(mode);
            let added = node.run(&pod, "ADD", &conf);
            assert_eq!(added.address(), pool_address(n), "{mode}");
            conf["prevResult"] = added.json();
            let check = node.run(&pod, "CHECK", &conf);
            assert!(check.ok, "{mode}: {check:?}");
        }
        let log = fs::read_to_string("/var/log/azure-vnet.log").unwrap();
        assert!(log.contains("not given: 10.240.1.1 has a route of its own, 10.240.1.2 has"), "{log}");
        let last = node.add(&node.sandbox("c3", "web-3"));
        let named = "4 used otherwise on this host (10.240.1.1 has a route of its own, 10.240.1.2 has a route of its own, \
                     10.240.1.3 has a route of its own, and 1 more)";
        assert!(last.code() == 11 && last.json()["msg"].as_str().unwrap().ends_with(named), "{last:?}");
        assert!(Path::new(RUN).join("want/uid-of-web-3").exists());
        assert_eq!(node.leases().len(), 2);
    });
}

#[test]
fn st4_a_dead_links_route_gives_way_whoever_made_it() {
    for protocol in ["static", "kernel", "bird"] {
        on_a_node(1, move |node| {
            run("ip", &["link", "add", "dead0", "type", "veth", "peer", "name", "dead1"]);
            run("ip", &["link", "set", "dead1", "up"]);
            run("ip", &["link", "set", "dead0", "alias", "azure-vnet:gone/eth0 10.240.1.1", "up"]);
            run("ip", &["route", "add", "10.240.1.1/32", "dev", "dead0", "proto", protocol]);
            let (pod, address) = (node.sandbox("c1", "web-0"), pool_address(1));
            assert_eq!(node.add(&pod).code(), 11, "a living link keeps its address");
            run("ip", &["link", "set", "dead1", "down"]);
            let added = node.add(&pod);
            assert_eq!(added.address(), address, "{protocol}");
            assert!(node.check(&pod, &added).ok);
        });
    }
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

#[cfg(target_arch = "x86_64")]
#[test]
fn a_namespace_that_vanishes_in_the_middle_leaves_nothing() {
    use crate::strike;

    on_a_node(250, |node| {
        let sample = node.sandbox("sample", "sample");
        let calls = strike::run(node, &sample, "ADD", &conf("1.0.0"), None).calls.len();
        assert!(node.del(&sample).ok);
        let mut refused = 0;
        for at in 1..=calls {
            let pod = node.sandbox(&format!("c{at}"), &format!("web-{at}"));
            let mut vanish = |call| {
                if call == at {
                    pod.drop_netns();
                }
            };
            let ended = strike::run_beside(node, &pod, "ADD", &conf("1.0.0"), &mut vanish).ended.unwrap();
            if !ended.ok {
                refused += 1;
                assert_eq!(node.leases(), [], "at call {at}: {ended:?}");
            }
            assert!(node.del(&pod).ok, "at call {at}");
            node.assert_nothing_left("after the namespace vanished");
        }
        assert!((1..calls).contains(&refused), "ADD was refused in {refused} of {calls} rounds");
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
