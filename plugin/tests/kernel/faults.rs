//! Stores that are damaged or full of strangers, and commands that meet each other, each test on a node of its own.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, SystemTime},
};

use azure_vnet_plugin_core::wiring::Alias;
use serde_json::{Value, json};

use crate::node::{Ended, IPAM, PLUGIN, RUN, conf, finish, on_a_bare_node, on_a_node, pool_address, run};
use crate::services::{Service, wireserver};

/// Contents that no one wrote as they are: empty, cut off, damaged, of a later format, of someone else.
fn damages(whole: &[u8]) -> Vec<Vec<u8>> {
    let text = String::from_utf8_lossy(whole).into_owned();
    let mut flipped = whole.to_vec();
    *flipped.last_mut().unwrap() ^= 1;
    vec![
        Vec::new(),
        whole[..whole.len() / 2].to_vec(),
        flipped,
        text.replacen("azure-vnet 1 ", "azure-vnet 2 ", 1).into_bytes(),
        vec![0; 512],
        b"{\"someone\":\"else\"}".to_vec(),
    ]
}

fn store_file(name: &str) -> std::path::PathBuf {
    Path::new(RUN).join(name)
}

#[test]
fn a_damaged_lease_keeps_its_address_from_others_and_its_pod_goes_in_peace() {
    on_a_node(20, |node| {
        let whole = {
            let pod = node.sandbox("sample", "sample");
            let address = node.add(&pod).address();
            let whole = fs::read(store_file("lease").join(address.to_string())).unwrap();
            assert!(node.del(&pod).ok);
            whole
        };
        let mut taken = BTreeSet::new();
        for (number, damage) in damages(&whole).into_iter().enumerate() {
            let pod = node.sandbox(&format!("c{number}"), &format!("p{number}"));
            let address = node.add(&pod).address();
            assert!(taken.insert(address), "{address} is occupied, owner unknown");
            fs::write(store_file("lease").join(address.to_string()), damage).unwrap();
            let deleted = node.del(&pod);
            assert!(deleted.ok, "{deleted:?}");
            assert_eq!(pod.links(), [], "DEL goes by the link's label");
        }
        assert_eq!(node.run(&node.sandbox("s", "s"), "STATUS", &conf("1.1.0")).out, "");
        let nobody = node.sandbox("g", "g");
        let gc = || assert!(node.run(&nobody, "GC", &conf("1.1.0")).ok);
        gc();
        let unreadable = || node.store().counts().unwrap().unreadable;
        assert_eq!(unreadable(), taken.len(), "they have not lain there for long");
        for address in &taken {
            let long_ago = SystemTime::now() - Duration::from_mins(11);
            fs::File::open(store_file("lease").join(address.to_string())).unwrap().set_modified(long_ago).unwrap();
        }
        run("ip", &["route", "add", &taken.first().unwrap().to_string(), "dev", "eth0"]);
        gc();
        assert_eq!(unreadable(), 1, "one has a trace in the kernel");
        assert_eq!(node.store().counts().unwrap().cooling, taken.len());
    });
}

#[test]
fn a_damaged_seal_or_pool_gives_nothing_away_until_it_is_mended() {
    on_a_node(3, |node| {
        let pod = node.sandbox("c", "c");
        let added = node.add(&pod);
        assert!(added.ok);
        for name in ["sealed", "pool"] {
            let whole = fs::read(store_file(name)).unwrap();
            for (number, damage) in damages(&whole).into_iter().enumerate() {
                fs::write(store_file(name), damage).unwrap();
                assert_eq!(node.add(&node.sandbox(&format!("{name}{number}"), "p")).code(), 11, "{name} {number}");
                assert_eq!(node.run(&pod, "STATUS", &conf("1.1.0")).code(), 50);
                let check = node.check(&pod, &added);
                assert!(check.ok, "{check:?}");
            }
            fs::write(store_file(name), whole).unwrap();
        }
        let other = node.sandbox("d", "d");
        assert!(node.add(&other).ok);
        assert!(node.del(&pod).ok && node.del(&other).ok);
        node.assert_nothing_left("after all damages");
    });
}

#[test]
fn st3_without_an_agent_a_damaged_store_is_made_anew_and_no_living_pod_loses_its_address() {
    on_a_bare_node(|node| {
        let service = Service::start(wireserver(&(1..=30).map(pool_address).collect::<Vec<_>>()));
        let mut conf = conf("1.1.0");
        conf["ipam"] = json!({ "type": "azure-vnet-ipam", "wireserverEndpoint": service.endpoint(), "imdsEndpoint": service.endpoint() });
        let first = node.run(&node.sandbox("first", "first"), "ADD", &conf).address();
        let mut given = BTreeSet::from([first]);
        for name in ["sealed", "pool.azure", "lock", "query"] {
            let whole = fs::read(store_file(name)).unwrap();
            for (number, damage) in damages(&whole).into_iter().enumerate() {
                let is_later = name == "sealed" && damage.starts_with(b"azure-vnet 2 ");
                fs::write(store_file(name), damage).unwrap();
                let added = node.run(&node.sandbox(&format!("{name}{number}"), &format!("{name}{number}")), "ADD", &conf);
                if is_later {
                    assert_eq!(added.code(), 11, "a later version's seal is not replaced");
                    fs::write(store_file(name), &whole).unwrap();
                } else {
                    assert!(given.insert(added.address()), "{added:?}");
                }
            }
        }
        assert_eq!(node.leases().len(), given.len());
    });
}

#[test]
fn strangers_in_the_store_are_nobody_s_business() {
    on_a_node(3, |node| {
        for name in ["lease/README", "by/README", "want/x y", "core", "lease/.new-1", ".new-1-dead"] {
            fs::write(store_file(name), "nobody's").unwrap();
        }
        // A folder under an address's name: occupied.
        fs::create_dir(store_file("lease").join(pool_address(1).to_string())).unwrap();
        // A pipe that nobody writes into is not waited for.
        run("mkfifo", &[store_file("lease").join(pool_address(2).to_string()).to_str().unwrap()]);
        let pod = node.sandbox("c", "c");
        let added = node.add(&pod);
        assert_eq!(added.address(), pool_address(3));
        assert!(node.run(&pod, "GC", &conf("1.1.0")).ok);
        assert!(node.run(&pod, "STATUS", &conf("1.1.0")).ok);
        assert!(node.check(&pod, &added).ok);
        assert!(node.del(&pod).ok);
        assert!(store_file("lease/README").exists());
        let folder = fs::File::open(store_file("lease").join(pool_address(1).to_string())).unwrap();
        folder.set_modified(SystemTime::now() - Duration::from_mins(11)).unwrap();
        let collected = node.run(&pod, "GC", &conf("1.1.0"));
        assert!(collected.ok, "what has lain there for long, too: {collected:?}");
    });
}

#[test]
fn eight_adds_of_one_container_at_once_are_one() {
    on_a_node(20, |node| {
        for round in 0..5 {
            let pod = node.sandbox(&format!("c{round}"), &format!("web-{round}"));
            let children: Vec<_> = (0..8).map(|_| node.start(PLUGIN, &pod, "ADD")).collect();
            let waiters: Vec<_> = children.into_iter().map(|child| thread::spawn(move || finish(child, &conf("1.0.0")))).collect();
            let ended: Vec<_> = waiters.into_iter().map(|waiter| waiter.join().unwrap()).collect();
            let answers: BTreeSet<String> = ended.iter().map(|ended| ended.json().to_string()).collect();
            assert!(ended.iter().all(|ended| ended.ok) && answers.len() == 1, "{ended:?}");
            node.assert_holds(&[ended[0].address()], "after eight ADDs");
            assert!(node.check(&pod, &ended[0]).ok);
            assert!(node.del(&pod).ok);
            node.assert_nothing_left("after their DEL");
        }
    });
}

#[test]
fn add_del_and_gc_in_a_storm_never_share_an_address_and_leave_nothing() {
    const WORKERS: usize = 6;
    const ROUNDS: usize = 12;
    on_a_node(8, |node| {
        let (held, is_over) = (Mutex::new(BTreeSet::new()), AtomicBool::new(false));
        // A store whose addresses come back at once: every DEL's address is the next ADD's.
        node.adopt(&(1..=8).map(pool_address).collect::<Vec<_>>(), 2, Duration::ZERO);
        let work = &|worker: usize| {
            for round in 0..ROUNDS {
                let pod = node.sandbox(&format!("w{worker}-{round}"), &format!("web-{worker}"));
                let added = node.add(&pod);
                assert!(added.ok, "{added:?}");
                let address = added.address();
                assert!(held.lock().unwrap().insert(address), "{address} has two owners");
                let check = node.check(&pod, &added);
                assert!(check.ok, "{check:?}");
                held.lock().unwrap().remove(&address);
                if round % 2 == 0 {
                    pod.drop_netns();
                }
                let deleted = node.del(&pod);
                assert!(deleted.ok, "{deleted:?}");
            }
        };
        let collect = || {
            let mut runs = 0;
            let nobody = node.sandbox("gc", "gc");
            while !is_over.load(Ordering::Relaxed) {
                let mut conf = conf("1.1.0");
                conf["cni.dev/valid-attachments"] = json!([]);
                let ended = node.run(&nobody, "GC", &conf);
                assert!(ended.ok, "{ended:?}");
                runs += 1;
            }
            runs
        };
        let runs = thread::scope(|scope| {
            let collector = scope.spawn(collect);
            let workers: Vec<_> = (0..WORKERS).map(|worker| scope.spawn(move || work(worker))).collect();
            let ended: Vec<_> = workers.into_iter().map(thread::ScopedJoinHandle::join).collect();
            is_over.store(true, Ordering::Relaxed);
            for ended in ended {
                ended.unwrap();
            }
            collector.join().unwrap()
        });
        println!("{} ADDs and DELs beside {runs} GCs", WORKERS * ROUNDS);
        node.assert_nothing_left("after the storm");
    });
}

#[test]
fn a_stopped_holder_of_the_lock_makes_add_try_again_later() {
    on_a_node(3, |node| {
        let pod = node.sandbox("c", "c");
        let lock = fs::File::open(store_file("lock")).unwrap_or_else(|_| fs::File::create(store_file("lock")).unwrap());
        lock.lock().unwrap();
        let added = node.add(&pod);
        assert!(added.code() == 11 && added.json()["msg"].as_str().unwrap().contains("locked"), "{added:?}");
        lock.unlock().unwrap();
        assert!(node.add(&pod).ok);
    });
}

#[test]
fn a_stopped_holder_of_the_networks_lock_makes_a_bridged_add_try_again_later() {
    on_a_node(3, |node| {
        let namespace = fs::File::open("/proc/thread-self/ns/net").unwrap();
        namespace.lock().unwrap();
        let (pod, mut conf) = (node.sandbox("c", "c"), conf("1.0.0"));
        conf["mode"] = json!("bridge");
        let added = node.run(&pod, "ADD", &conf);
        assert!(added.code() == 11 && added.json()["msg"].as_str().unwrap().contains("locked"), "{added:?}");
        node.assert_nothing_left("after waiting");
        namespace.unlock().unwrap();
        assert!(node.run(&pod, "ADD", &conf).ok);
    });
}

#[test]
fn an_add_that_nobody_hears_leaves_nothing() {
    on_a_node(3, |node| {
        fs::create_dir("/run/others").unwrap();
        let given = json!({ "cniVersion": "1.0.0", "ips": [{ "address": "10.88.0.5/24", "gateway": "10.88.0.1" }] });
        fs::write("/run/others/other", format!("#!/bin/sh\n[ $CNI_COMMAND != ADD ] || echo '{given}'\n")).unwrap();
        run("chmod", &["+x", "/run/others/other"]);
        let delegated = json!({ "cniVersion": "1.0.0", "name": "azure", "mode": "transparent", "ipam": { "type": "other" } });
        for (plugin, conf) in [(PLUGIN, conf("1.0.0")), (IPAM, conf("1.0.0")), (PLUGIN, delegated)] {
            let pod = node.sandbox("c", "c");
            let mut child = node.start(plugin, &pod, "ADD");
            drop(child.stdout.take());
            let ended = finish(child, &conf);
            assert!(!ended.ok, "{plugin}: {ended:?}");
            node.assert_nothing_left(plugin);
            assert_eq!(pod.links(), [], "{plugin}");
            pod.drop_netns();
        }
    });
}

#[test]
fn cm6_the_link_says_whose_it_is_and_the_log_is_one_write_after_the_answer() {
    on_a_node(3, |node| {
        let log = "/var/log/azure-vnet.log";
        // A pipe that nobody reads: whoever writes into it waits.
        run("mkfifo", &[log]);
        let pod = node.sandbox("c1", "web-0");
        let mut child = node.start(PLUGIN, &pod, "ADD");
        child.stdin.take().unwrap().write_all(conf("1.0.0").to_string().as_bytes()).unwrap();
        let mut answer = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut answer).unwrap();
        let answer: Value = serde_json::from_str(&answer).unwrap();
        let mut written = [0; 4096];
        let length = fs::File::open(log).unwrap().read(&mut written).unwrap();
        let line = String::from_utf8(written[..length].to_vec()).unwrap();
        assert!(line.ends_with('\n') && line.matches('\n').count() == 1, "one write is one line: {line:?}");
        let address = answer["ips"][0]["address"].as_str().unwrap().trim_end_matches("/16").to_owned();
        for part in ["command=ADD", "container=c1", &format!("address={address}"), "outcome=ok", "ms="] {
            assert!(line.contains(part), "{part}: {line}");
        }
        assert!(child.wait().unwrap().success());
        let alias: Alias = node.host_links()[0].alias.as_deref().unwrap().parse().unwrap();
        assert_eq!((alias.attachment.to_string(), alias.address), ("c1/eth0".to_owned(), address.parse::<std::net::IpAddr>().unwrap()));
    });
}

#[test]
fn the_log_has_the_level_of_the_configuration() {
    on_a_node(3, |node| {
        let lines = || fs::read_to_string("/var/log/azure-vnet.log").unwrap_or_default().lines().count();
        let at_level = |id: &str, level: &str, command: &str| -> Ended {
            let mut conf = conf("1.0.0");
            conf["logLevel"] = json!(level);
            let pod = node.sandbox(id, id);
            node.run(&pod, command, &conf)
        };
        assert!(at_level("a", "error", "ADD").ok);
        assert_eq!(lines(), 0);
        assert!(!at_level("b", "error", "CHECK").ok);
        assert_eq!(lines(), 1);
        assert!(at_level("c", "debug", "ADD").ok);
        let log = fs::read_to_string("/var/log/azure-vnet.log").unwrap();
        assert!(log.lines().nth(1).unwrap().contains("K8S_POD_NAME=c"), "{log}");
    });
}
