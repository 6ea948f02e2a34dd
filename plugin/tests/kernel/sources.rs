//! Addresses without an agent: from the machine's own services and from a file, each test on a node of its own.

use std::{
    collections::BTreeSet,
    fs,
    net::Ipv4Addr,
    path::Path,
    time::{Duration, Instant},
};

use azure_vnet_plugin_core::{
    boot::BootTime,
    pool::SealOwner,
    source::{Learned, pace::Attempt},
};
use serde_json::{Value, json};

use crate::node::{
    self, DEADLINE, Ended, IPAM, Node, PLUGIN, RUN, Sandbox, await_that, boot, conf, finish, inside, on_a_bare_node, on_a_node,
    pool_address, run,
};
use crate::services::{Service, imds, wireserver};

/// The configuration of a machine without an agent.
fn alone(wireserver: &Service) -> Value {
    let mut conf = conf("1.1.0");
    conf["ipam"] = json!({ "type": "azure-vnet-ipam", "wireserverEndpoint": wireserver.endpoint(), "imdsEndpoint": wireserver.endpoint() });
    conf
}

fn addresses(last: impl IntoIterator<Item = u8>) -> Vec<Ipv4Addr> {
    last.into_iter().map(pool_address).collect()
}

/// An ADD that the service's answer reached: one that has a cache waits for a moment only, where that is old, and on a busy machine this may be too
/// short.
fn add_with_news(node: &Node, id: &str, conf: &Value) -> Ended {
    let (deadline, mut attempt) = (Instant::now() + DEADLINE, 0);
    loop {
        attempt += 1;
        let_many_intervals_pass(node);
        let pod = node.sandbox(&format!("{id}{attempt}"), id);
        let added = node.run(&pod, "ADD", conf);
        if node.store().last_attempt().unwrap().failures == 0 {
            return added;
        }
        assert!(Instant::now() < deadline, "no answer in time: {added:?}");
        assert!(node.run(&pod, "DEL", conf).ok);
    }
}

/// Makes what was learned so old that it is asked for before it is used, once nobody asks.
fn let_many_intervals_pass(node: &Node) {
    await_that("nobody asks", || node.store().query().unwrap().is_some());
    let_the_interval_pass(node);
    if let Some(learned) = node.store().learned().unwrap() {
        let old = Learned { asked: BootTime::from_millis(0), ..learned };
        fs::write(Path::new(RUN).join("pool.azure"), old.print()).unwrap();
    }
}

/// Makes the next question due, as time would.
fn let_the_interval_pass(node: &Node) {
    let asked = node.store().last_attempt().unwrap();
    let long_ago = Attempt { sent: BootTime::from_millis(0), failures: 0, ..asked };
    fs::write(Path::new(RUN).join("query"), long_ago.print()).unwrap();
}

#[test]
fn st3_without_an_agent_the_plugin_makes_the_store_and_losing_it_frees_nothing() {
    on_a_bare_node(|node| {
        let service = Service::start(wireserver(&addresses(1..=3)));
        let conf = alone(&service);
        let pod = node.sandbox("c1", "web-0");
        let added = node.run(&pod, "ADD", &conf);
        assert_eq!(added.address(), pool_address(1));
        assert_eq!(added.json()["ips"][0]["gateway"], "10.240.0.1");
        assert_eq!(node.store().seal().unwrap().owner, SealOwner::Plugin);
        let mut check = conf.clone();
        check["prevResult"] = added.json();
        assert!(node.run(&pod, "CHECK", &check).ok);
        fs::rename(RUN, "/run/lost").unwrap();
        let others: BTreeSet<_> = ["c2", "c3"].map(|id| node.run(&node.sandbox(id, id), "ADD", &conf).address()).into();
        assert_eq!(others, addresses([2, 3]).into_iter().collect());
        assert_eq!(node.run(&node.sandbox("c4", "c4"), "ADD", &conf).code(), 11);
        assert_eq!(node.run(&pod, "ADD", &conf).json(), added.json(), "the pod that ran has its lease again");
        // Its namespace was found, so that GC has both witnesses when it dies without a DEL.
        fs::rename(RUN, "/run/lost-again").unwrap();
        assert!(node.run(&node.sandbox("c5", "c5"), "STATUS", &conf).ok);
        pod.drop_netns();
        node::await_that("its link goes", || node.host_links().len() == 2);
        assert!(node.run(&node.sandbox("c6", "c6"), "GC", &conf).ok);
        assert!(!node.leases().iter().any(|lease| lease.address == added.address()));
        assert!(node.run(&pod, "DEL", &conf).ok);
        assert!(!node.leases().iter().any(|lease| lease.address == added.address()));
    });
}

#[test]
fn st3_a_sealed_store_that_lost_leases_is_made_whole_where_there_is_no_agent_and_else_says_who_does() {
    for folder in ["lease", "by"] {
        on_a_bare_node(move |node| {
            let service = Service::start(wireserver(&addresses(1..=3)));
            let conf = alone(&service);
            let (first, pod) = (node.sandbox("a", "a"), node.sandbox("b", "b"));
            let mut given = vec![node.run(&first, "ADD", &conf).address()];
            let lose = || fs::remove_dir_all(Path::new(RUN).join(folder)).unwrap();
            lose();
            given.push(node.run(&pod, "ADD", &conf).address());
            node.assert_holds(&given, "the pod that lives has its lease again");
            lose();
            assert!(node.run(&pod, "STATUS", &conf).ok);
            assert_eq!(node.run(&first, "ADD", &conf).address(), given[0], "and is found by it");
            node.assert_holds(&given, folder);
            node.adopt(&[pool_address(9)], 1, Duration::ZERO);
            lose();
            let third = node.sandbox("c", "c");
            for (command, code) in [("ADD", 11), ("STATUS", 50)] {
                let refused = node.run(&third, command, &conf);
                assert_eq!(refused.code(), code, "{refused:?}");
                let said = ["msg", "details"].map(|part| refused.json()[part].as_str().unwrap().to_owned());
                assert!(
                    said[0].contains("is sealed, and part of it is missing") && said[0].contains(&format!("{RUN}/{folder}")),
                    "{said:?}"
                );
                assert!(said[1].starts_with("the azure-vnet agent of this node"), "{said:?}");
            }
            assert!(!Path::new(RUN).join(folder).exists(), "the agent's store is the agent's to mend");
        });
    }
}

#[test]
fn st5_many_at_once_ask_once() {
    on_a_bare_node(|node| {
        let service = Service::start(wireserver(&addresses(1..=40)));
        service.delay(Duration::from_millis(200));
        let conf = alone(&service);
        let pods: Vec<_> = (0..40).map(|n| node.sandbox(&format!("c{n}"), &format!("web-{n}"))).collect();
        let children: Vec<_> = pods.iter().map(|pod| node.start(PLUGIN, pod, "ADD")).collect();
        let waiters = children.into_iter().map(|child| {
            let conf = conf.clone();
            std::thread::spawn(move || finish(child, &conf))
        });
        let waiters: Vec<_> = waiters.collect();
        let given: BTreeSet<_> = waiters.into_iter().map(|waiter| waiter.join().unwrap().address()).collect();
        assert_eq!((given.len(), service.asked()), (40, 1));
    });
}

#[test]
fn st5_while_the_cache_serves_a_silent_service_fails_nobody() {
    on_a_bare_node(|node| {
        let service = Service::start(wireserver(&addresses(1..=9)));
        let conf = alone(&service);
        let add = |id: &str| node.run(&node.sandbox(id, id), "ADD", &conf);
        assert!(add("a").ok);
        service.fall_silent();
        assert!(add("b").ok);
        assert_eq!(service.asked(), 1, "the cache is young");
        let_the_interval_pass(node);
        assert!(add("c").ok);
        await_that("the service hears the question", || service.asked() > 1);
        let attempt = node.store().last_attempt().unwrap();
        assert_eq!(attempt.failures, 1);
        assert!(add("d").ok);
        assert_eq!(node.store().last_attempt().unwrap(), attempt, "the next question has to wait");
        service.answer(wireserver(&addresses(5..=9)));
        assert_eq!(add_with_news(node, "e", &conf).address(), pool_address(5));
        assert_eq!(node.store().last_attempt().unwrap().failures, 0);
    });
}

#[test]
fn st5_while_the_cache_serves_no_add_waits_for_a_slow_service_whose_answer_the_next_one_has() {
    on_a_bare_node(|node| {
        let service = Service::start(wireserver(&addresses(1..=9)));
        let conf = alone(&service);
        let add = |id: &str| node.run(&node.sandbox(id, id), "ADD", &conf);
        assert_eq!(add("a").address(), pool_address(1));
        let has_news = || node.store().learned().unwrap().unwrap().addresses().contains(&pool_address(101));
        // On a busy machine who asks may be gone before the answer comes; then there is another question.
        for round in ["b", "c", "d", "e", "f"] {
            service.fall_silent();
            let_the_interval_pass(node);
            let asked = service.asked();
            let added = add(round);
            assert!(added.ok, "while the question has no answer: {added:?}");
            await_that("the question is asked", || service.asked() > asked);
            // The ADD has ended, and who asks is there still.
            service.answer_at_last(&wireserver(&addresses(101..=109)));
            await_that("nobody asks any more", || node.store().query().unwrap().is_some());
            if has_news() {
                break;
            }
        }
        assert!(has_news(), "what was asked for when nobody waited is learned");
        assert_eq!(add("last").address(), pool_address(101));
    });
}

#[test]
fn st5_what_was_learned_long_ago_is_asked_for_first() {
    on_a_bare_node(|node| {
        let service = Service::start(wireserver(&addresses(1..=2)));
        let conf = alone(&service);
        assert_eq!(node.run(&node.sandbox("a", "a"), "ADD", &conf).address(), pool_address(1));
        service.answer(wireserver(&addresses([1, 7])));
        assert_eq!(add_with_news(node, "b", &conf).address(), pool_address(7), "the other is not this machine's any more");
    });
}

#[test]
fn st5_another_process_that_asks_is_not_waited_for() {
    on_a_bare_node(|node| {
        let service = Service::start(wireserver(&addresses(1..=9)));
        let conf = alone(&service);
        assert!(node.run(&node.sandbox("a", "a"), "ADD", &conf).ok);
        let_the_interval_pass(node);
        let _query = node.store().query().unwrap().unwrap();
        assert!(node.run(&node.sandbox("b", "b"), "ADD", &conf).ok);
        assert_eq!(service.asked(), 1);
    });
}

#[test]
fn st5_an_agents_seal_ends_what_was_learned() {
    on_a_bare_node(|node| {
        let service = Service::start(wireserver(&addresses(1..=2)));
        let conf = alone(&service);
        let first = node.run(&node.sandbox("a", "a"), "ADD", &conf).address();
        node.adopt(&addresses([1, 7]), 1, Duration::from_secs(30));
        assert_eq!(node.leases().len(), 1, "the lease stays");
        assert_eq!(node.run(&node.sandbox("b", "b"), "ADD", &conf).address(), pool_address(7));
        assert_eq!(node.run(&node.sandbox("c", "c"), "ADD", &conf).code(), 11, "{first} is leased");
        assert_eq!(service.asked(), 1);
    });
}

#[test]
fn the_agents_pool_means_no_other() {
    on_a_bare_node(|node| {
        let service = Service::start(wireserver(&addresses(1..=2)));
        assert!(node.run(&node.sandbox("a", "a"), "ADD", &alone(&service)).ok);
        let pod = node.sandbox("b", "b");
        assert_eq!(node.run(&pod, "ADD", &conf("1.1.0")).code(), 11);
        assert_eq!(node.run(&pod, "STATUS", &conf("1.1.0")).code(), 50);
    });
    on_a_node(1, |node| {
        let service = Service::start(wireserver(&addresses(5..=6)));
        assert_eq!(node.run(&node.sandbox("a", "a"), "ADD", &alone(&service)).address(), pool_address(1));
        assert_eq!(service.asked(), 0);
    });
}

#[test]
fn a_new_address_is_found_when_none_is_free_and_a_removed_one_is_not_given() {
    on_a_bare_node(|node| {
        let service = Service::start(wireserver(&addresses(1..=1)));
        let conf = alone(&service);
        let add = |id: &str| node.run(&node.sandbox(id, id), "ADD", &conf);
        assert_eq!(add("a").address(), pool_address(1));
        service.answer(wireserver(&addresses(1..=3)));
        assert_eq!(add("too-soon").code(), 11, "asked a moment ago");
        assert_eq!(service.asked(), 1);
        assert_eq!(add_with_news(node, "b", &conf).address(), pool_address(2));
        service.answer(wireserver(&addresses([1, 2, 4])));
        assert_eq!(add_with_news(node, "c", &conf).address(), pool_address(4));
        service.answer(wireserver(&addresses(1..=9)));
        let mut by_name = conf.clone();
        by_name["runtimeConfig"] = json!({ "ips": ["10.240.1.9"] });
        assert_eq!(add_with_news(node, "d", &by_name).address(), pool_address(9), "asked for by name");
        service.answer("<Interfaces/>".into());
        assert_eq!(add_with_news(node, "e", &conf).code(), 11, "the machine has no address for pods at the moment");
    });
}

#[test]
fn the_metadata_service_answers_where_the_host_agent_does_not() {
    on_a_bare_node(|node| {
        let (silent, second) = (Service::start(String::new()), Service::start(imds(&addresses(1..=2))));
        silent.refuse();
        let mut conf = alone(&silent);
        conf["ipam"]["imdsEndpoint"] = json!(second.endpoint());
        assert_eq!(node.run(&node.sandbox("a", "a"), "ADD", &conf).address(), pool_address(1));
        second.refuse();
        let_the_interval_pass(node);
        assert_eq!(node.run(&node.sandbox("b", "b"), "ADD", &conf).address(), pool_address(2));
    });
}

#[test]
fn where_nothing_is_known_add_and_status_say_so_and_why() {
    on_a_bare_node(|node| {
        let service = Service::start(String::new());
        service.refuse();
        let conf = alone(&service);
        let pod = node.sandbox("a", "a");
        let added = node.run(&pod, "ADD", &conf);
        assert!(added.code() == 11 && added.json()["msg"].as_str().unwrap().contains("503"), "{added:?}");
        assert_eq!(node.run(&pod, "STATUS", &conf).code(), 50);
        assert!(node.run(&pod, "DEL", &conf).ok);
        service.answer(wireserver(&addresses(1..=1)));
        assert!(node.run(&pod, "STATUS", &conf).ok);
        assert!(node.run(&pod, "ADD", &conf).ok);
        let asked = service.asked();
        assert!(node.run(&pod, "STATUS", &conf).ok, "an empty pool is no reason to fail");
        assert_eq!(service.asked(), asked);
    });
}

#[test]
fn subnets_and_addresses_are_those_that_are_asked_for() {
    on_a_bare_node(|node| {
        run("ip", &["link", "add", "eth1", "address", "02:00:00:00:00:05", "type", "veth", "peer", "name", "far1"]);
        let second = r#"<Interface MacAddress="020000000005" IsPrimary="false"><IPSubnet Prefix="10.9.0.0/24">
            <IPAddress Address="10.9.0.4" IsPrimary="true"/><IPAddress Address="10.9.0.5" IsPrimary="false"/></IPSubnet></Interface></Interfaces>"#;
        let service = Service::start(wireserver(&addresses(1..=5)).replace("</Interfaces>", second));
        let mut number = 0;
        let mut add = |change: Value| {
            let mut conf = alone(&service);
            for (key, value) in change.as_object().unwrap() {
                match key.as_str() {
                    "subnet" | "ipAddress" => conf["ipam"][key] = value.clone(),
                    _ => conf[key] = value.clone(),
                }
            }
            number += 1;
            finish(node.start(IPAM, &node.sandbox(&format!("c{number}"), "web"), "ADD"), &conf)
        };
        let text = |ended: Ended| ended.address().to_string();
        assert_eq!(text(add(json!({ "master": "eth1" }))), "10.9.0.5");
        assert_eq!(add(json!({ "subnet": "10.9.0.0/24" })).code(), 11, "none is left there");
        assert_eq!(text(add(json!({ "subnet": "10.240.0.0/16" }))), "10.240.1.1");
        assert_eq!(text(add(json!({ "master": "eth0", "ipAddress": "10.240.1.3" }))), "10.240.1.3");
        assert_eq!(text(add(json!({ "master": "eth0", "runtimeConfig": { "ips": ["10.240.1.4/16"] } }))), "10.240.1.4");
        assert_eq!(text(add(json!({ "master": "eth0", "args": { "cni": { "ips": ["10.240.1.5"] } } }))), "10.240.1.5");
        assert_eq!(add(json!({ "master": "eth0", "ipAddress": "10.240.1.3" })).code(), 11, "it is leased");
        assert_eq!(add(json!({ "master": "eth0", "ipAddress": "10.240.9.9" })).code(), 7, "it is not there");
        let refused = add(json!({ "subnet": "10.77.0.0/24" }));
        assert!(refused.code() == 7 && refused.json()["msg"].as_str().unwrap().contains("10.240.0.0/16 of eth0"), "{refused:?}");
    });
}

#[test]
fn a_file_of_interfaces_serves_without_any_service() {
    on_a_bare_node(|node| {
        run("mount", &["-t", "tmpfs", "tmpfs", "/etc"]);
        fs::create_dir("/etc/kubernetes").unwrap();
        let mut conf = conf("1.1.0");
        conf["ipam"] = json!({ "type": "azure-vnet-ipam", "environment": "mas" });
        let add = |id: &str| node.run(&node.sandbox(id, id), "ADD", &conf);
        let missing = add("too-soon");
        assert!(missing.code() == 5 && missing.json()["msg"].as_str().unwrap().contains("/etc/kubernetes/interfaces.json"), "{missing:?}");
        let write = |last: &[u8]| {
            let list: Vec<_> =
                addresses(last.iter().copied()).iter().map(|address| json!({ "Address": address, "IsPrimary": false })).collect();
            let subnets = json!([{ "Prefix": "10.240.0.0/16", "IPAddresses": list }]);
            let file = json!({ "Interfaces": [{ "MacAddress": "020000000004", "IsPrimary": true, "IPSubnets": subnets }] });
            fs::write("/etc/kubernetes/interfaces.json", file.to_string()).unwrap();
        };
        write(&[1]);
        assert_eq!(add("a").address(), pool_address(1));
        write(&[1, 2]);
        assert_eq!(add("b").address(), pool_address(2));
        assert_eq!(add("c").code(), 11);
    });
}

#[test]
fn what_an_agent_promised_to_give_back_is_not_given() {
    on_a_bare_node(|node| {
        fs::create_dir_all("/var/lib/azure-vnet/quarantine").unwrap();
        fs::write("/var/lib/azure-vnet/quarantine/10.240.1.1", "whatever it says").unwrap();
        let service = Service::start(wireserver(&addresses(1..=2)));
        assert_eq!(node.run(&node.sandbox("a", "a"), "ADD", &alone(&service)).address(), pool_address(2));
    });
}

#[test]
fn endpoints_may_come_from_the_environment() {
    on_a_bare_node(|node| {
        let service = Service::start(wireserver(&addresses(1..=1)));
        let Sandbox { container, netns, .. } = node.sandbox("a", "a");
        let mut conf = conf("0.3.0");
        conf["ipam"] = json!({ "type": "azure-vnet-ipam", "environment": "azure" });
        let run = |endpoint: &str| {
            let child = std::process::Command::new(PLUGIN)
                .env_clear()
                .envs([("CNI_COMMAND", "ADD"), ("CNI_CONTAINERID", &container), ("CNI_IFNAME", "eth0"), ("CNI_PATH", "/")])
                .env("CNI_NETNS", &netns)
                .env("AZURE_WIRESERVER_ENDPOINT", endpoint)
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .stderr(std::process::Stdio::piped())
                .spawn();
            finish(child.unwrap(), &conf)
        };
        let refused = run("https://wireserver");
        assert!(refused.code() == 4 && refused.json()["msg"].as_str().unwrap().contains("AZURE_WIRESERVER_ENDPOINT"), "{refused:?}");
        // Without a pod's name, too.
        assert_eq!(run(&service.endpoint()).address(), pool_address(1));
        assert_eq!(node.store().learned().unwrap().unwrap().boot, boot());
    });
}

#[test]
fn pods_of_the_original_keep_their_addresses_and_their_del_works() {
    on_a_bare_node(|node| {
        let service = Service::start(wireserver(&addresses(1..=4)));
        let conf = alone(&service);
        // As the original leaves a pod: a pair without a label, a host route, two files.
        let old = node.sandbox("3f813b02aa", "web-0");
        run("ip", &["link", "add", "azvold", "type", "veth", "peer", "name", "eth0", "netns", "3f813b02aa"]);
        run("ip", &["link", "set", "azvold", "up"]);
        inside(&old.netns, || run("ip", &["link", "set", "eth0", "up"]));
        run("ip", &["route", "add", "10.240.1.2/32", "dev", "azvold"]);
        let endpoint = |container: &str, link: &str, address: &str| {
            json!({ "IfName": "eth0", "HostIfName": link, "IPAddresses": [{ "IP": address, "Mask": "//8AAA==" }], "ContainerID": container,
                    "PODName": "web-0", "PODNameSpace": "default", "NetworkNameSpace": format!("/run/netns/{container}") })
        };
        let endpoints =
            json!({ "3f813b02-eth0": endpoint("3f813b02aa", "azvold", "10.240.1.2"), "gone": endpoint("gone", "azvgone", "10.240.1.4") });
        let links = json!({ "eth0": { "Networks": { "azure": { "Mode": "transparent", "Endpoints": endpoints } } } });
        fs::write("/var/run/azure-vnet.json", json!({ "Network": { "ExternalInterfaces": links } }).to_string()).unwrap();
        let pools = json!({ "10.240.0.0/16": { "Addresses": { "10.240.1.3": { "ID": "onlyipam", "InUse": true } } } });
        let ipam = json!({ "IPAM": { "AddressSpaces": { "local": { "Pools": pools } } } });
        fs::write("/var/run/azure-vnet-ipam.json", ipam.to_string()).unwrap();

        let new: BTreeSet<_> = ["n1", "n2"].map(|id| node.run(&node.sandbox(id, id), "ADD", &conf).address()).into();
        assert_eq!(new, addresses([1, 4]).into_iter().collect());
        assert_eq!(node.run(&node.sandbox("n3", "n3"), "ADD", &conf).code(), 11);
        let lease = node.leases().into_iter().find(|lease| lease.address == pool_address(2)).unwrap();
        assert_eq!((lease.attachment.container.as_str(), lease.host_link.as_str()), ("3f813b02aa", "azvold"));
        assert!(!Path::new("/var/run/azure-vnet.json").exists());
        // The label that the link got serves when the store is lost.
        fs::rename(RUN, "/run/lost").unwrap();
        assert!(node.run(&node.sandbox("n4", "n4"), "ADD", &conf).ok);
        assert!(node.run(&old, "DEL", &conf).ok);
        assert_eq!((old.links(), node.pod_routes().contains(&pool_address(2))), (vec![], false));
        assert!(!node.leases().iter().any(|lease| lease.address == pool_address(2)));
    });
}

#[test]
fn st3_a_container_of_another_plugin_keeps_its_address_when_the_store_is_lost() {
    on_a_bare_node(|node| {
        let service = Service::start(wireserver(&addresses(1..=3)));
        let conf = alone(&service);
        let ipam = |pod: &Sandbox, command: &str| finish(node.start(IPAM, pod, command), &conf);
        let pod = node.sandbox("c1", "web-0");
        let address = ipam(&pod, "ADD").address();
        // What a bridge plugin does: the host has neither a route nor a label for it.
        inside(&pod.netns, move || run("ip", &["address", "add", &format!("{address}/16"), "dev", "lo"]));
        fs::rename(RUN, "/run/lost").unwrap();
        let others: BTreeSet<_> = ["c2", "c3"].map(|id| ipam(&node.sandbox(id, id), "ADD").address()).into();
        assert!(!others.contains(&address), "{address} is in use");
        assert_eq!(ipam(&node.sandbox("c4", "c4"), "ADD").code(), 11);
        let gc = || assert!(finish(node.start(IPAM, &pod, "GC"), &conf).ok);
        let unreadable = || node.store().counts().unwrap().unreadable;
        let file = Path::new(RUN).join("lease").join(address.to_string());
        fs::File::open(file).unwrap().set_modified(std::time::SystemTime::now() - Duration::from_mins(11)).unwrap();
        gc();
        assert_eq!(unreadable(), 1);
        assert!(ipam(&pod, "DEL").ok);
        pod.drop_netns();
        gc();
        assert_eq!(unreadable(), 0);
    });
}
