//! In the place of the original plugins in bridge and tunnel mode: its pods, its bridge and its rules, as it left them.

use std::{
    fs,
    net::Ipv4Addr,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::fabric::{Fabric, OTHER_NODE};
use crate::modes::traces;
use crate::node::{FABRIC, NODE, Sandbox, conf, inside, on_a_bare_node, pool_address, run};
use crate::services::{Service, wireserver};

const UPLINK_MAC: &str = "02:00:00:00:00:04";
const FABRIC_MAC: &str = "12:34:56:78:9a:bc";
const POD_MAC: &str = "02:00:00:00:01:02";
const DEADLINE: Duration = Duration::from_secs(30);

#[test]
fn bridged_pods_of_the_original_go_on_among_ours_and_nothing_is_there_twice() {
    for (was, becomes) in [("bridge", "bridge"), ("tunnel", "tunnel"), ("tunnel", "transparent")] {
        on_a_bare_node(move |node| {
            let what = format!("{was} becomes {becomes}");
            let fabric = Fabric::like_azure(node);
            let (old, kept, gone) = (node.sandbox("3f813b02aa", "old-0"), pool_address(2), pool_address(1));
            original_leaves(was, &old, kept, gone);
            fabric.host_is_connected("before");
            fabric.expect_way(Some(&old.netns), kept, Some(&fabric.other), OTHER_NODE, OTHER_NODE, "the original's pod before");

            let service = Service::start(wireserver(&[gone, kept, pool_address(3)]));
            let conf = alone(&service, becomes);
            let new = node.sandbox("new", "new-0");
            let added = node.run(&new, "ADD", &conf);
            assert_eq!(added.address(), gone, "{what}: the address of a pod that is gone");
            assert_eq!(originals_rules(), Vec::<String>::new(), "{what}");
            assert_eq!(jumps(), 2, "{what}: each of ours once");
            fabric.host_is_connected(&what);
            for (netns, address) in [(&old.netns, kept), (&new.netns, gone)] {
                fabric.expect_way(Some(netns), address, Some(&fabric.other), OTHER_NODE, OTHER_NODE, &format!("{what}: from {address}"));
                fabric.expect_way(Some(&fabric.other), OTHER_NODE, Some(netns), address, address, &format!("{what}: to {address}"));
                fabric.expect_way(Some(netns), address, None, NODE, NODE, &format!("{what}: {address} to the host"));
                fabric.expect_way(None, NODE, Some(netns), address, address, &format!("{what}: the host to {address}"));
            }
            fabric.expect_way(Some(&old.netns), kept, Some(&new.netns), gone, gone, &format!("{what}: between them"));
            // DEL knows all of the original's pod, whatever the configuration of the day says.
            assert!(node.run(&old, "DEL", &conf).ok, "{what}");
            assert_eq!((old.links(), traces_of(kept)), (vec![], vec![]), "{what}");
            assert!(node.run(&new, "DEL", &conf).ok, "{what}");
            assert_eq!((traces_of(gone), node.host_links()), (vec![], vec![]), "{what}");
            fabric.host_is_connected(&what);
        });
    }
}

/// The runtime has the original's answer to its DEL, and will not ask again: a lease of that pod would never end.
#[test]
fn a_pod_that_the_original_is_just_taking_down_gets_no_lease() {
    on_a_bare_node(|node| {
        let _fabric = Fabric::like_azure(node);
        let old = node.sandbox("3f813b02aa", "old-0");
        original_leaves("bridge", &old, pool_address(2), pool_address(1));
        fs::create_dir_all("/run/azure-vnet").unwrap();
        let path = Path::new("/run/azure-vnet/azure-vnet.lock");
        let lock = fs::File::create(path).unwrap();
        lock.lock().unwrap();
        let service = Service::start(wireserver(&[pool_address(3)]));
        let (new, conf) = (node.sandbox("new", "new-0"), alone(&service, "bridge"));
        std::thread::scope(|scope| {
            let adds = scope.spawn(|| node.run(&new, "ADD", &conf));
            let begun = Instant::now();
            while !is_open_in_a_plugin(path) {
                assert!(begun.elapsed() < DEADLINE, "ADD does not look whether a command of the original is under way");
                std::thread::yield_now();
            }
            run("ip", &["link", "del", "azv3f813b0"]);
            fs::write("/run/azure-vnet.json", "{\"Network\": {\"ExternalInterfaces\": {}}}").unwrap();
            drop(lock);
            assert!(adds.join().unwrap().ok);
        });
        let leases: Vec<_> = fs::read_dir("/run/azure-vnet/lease").unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(leases, [pool_address(3).to_string().as_str()]);
    });
}

/// Whether a plugin has the file open.
fn is_open_in_a_plugin(path: &Path) -> bool {
    let is_plugin = |process: &Path| fs::read_link(process.join("exe")).is_ok_and(|program| program.ends_with("azure-vnet"));
    let plugins = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path()).filter(|process| is_plugin(process));
    let files = plugins.filter_map(|process| fs::read_dir(process.join("fd")).ok()).flatten().flatten();
    files.filter_map(|file| fs::read_link(file.path()).ok()).any(|target| target == path)
}

/// A record that nobody understands is no reason to take its pod's way.
#[test]
fn a_pod_of_the_original_that_no_record_tells_of_keeps_its_way() {
    on_a_bare_node(|node| {
        let fabric = Fabric::like_azure(node);
        let (old, kept) = (node.sandbox("3f813b02aa", "old-0"), pool_address(2));
        original_leaves("bridge", &old, kept, pool_address(1));
        let mut state: Value = serde_json::from_slice(&fs::read("/run/azure-vnet.json").unwrap()).unwrap();
        let endpoints = &mut state["Network"]["ExternalInterfaces"]["eth0"]["Networks"]["azure"]["Endpoints"];
        endpoints["00000000-eth0"] =
            json!({ "HostIfName": "azv0000000", "ContainerID": "00000000aa", "IPAddresses": [{ "IP": "10.240.1.1" }] });
        endpoints["3f813b02-eth0"].as_object_mut().unwrap().remove("ContainerID");
        fs::write("/run/azure-vnet.json", state.to_string()).unwrap();
        let before = originals_rules();
        let service = Service::start(wireserver(&[pool_address(3)]));
        let new = node.sandbox("new", "new-0");
        assert!(node.run(&new, "ADD", &alone(&service, "bridge")).ok);
        assert_eq!(originals_rules(), before);
        fabric.expect_way(Some(&fabric.other), OTHER_NODE, Some(&old.netns), kept, kept, "to the pod that no record tells of");
        fabric.expect_way(Some(&old.netns), kept, Some(&fabric.other), OTHER_NODE, OTHER_NODE, "from it");
        fabric.expect_way(Some(&fabric.other), OTHER_NODE, Some(&new.netns), pool_address(3), pool_address(3), "to the new one");
    });
}

/// The legacy back end has tables of its own, in which its rules go on after ours.
#[test]
fn the_originals_rules_go_from_the_legacy_back_end_too() {
    on_a_bare_node(|node| {
        let _fabric = Fabric::like_azure(node);
        let old = node.sandbox("3f813b02aa", "old-0");
        original_leaves("bridge", &old, pool_address(2), pool_address(1));
        // This kernel may have no such tables: what is tried is what the program is told.
        fs::create_dir_all("/run/programs").unwrap();
        let listing = "Bridge chain: PREROUTING, entries: 2, policy: ACCEPT\n\
                       -p IPv4 -i eth0 --ip-dst 10.240.1.1 -j dnat --to-dst 2:0:0:0:1:1 --dnat-target ACCEPT\n-j DROP";
        let script = format!("#!/bin/sh\necho \"$@\" >> /run/programs/calls\ncase \"$*\" in *-L*) echo '{listing}';; esac\n");
        fs::write("/run/programs/ebtables-legacy", script).unwrap();
        run("chmod", &["+x", "/run/programs/ebtables-legacy"]);
        run("mount", &["-t", "tmpfs", "tmpfs", "/sys/module"]);
        fs::create_dir("/sys/module/ebtable_nat").unwrap();
        let service = Service::start(wireserver(&[pool_address(1), pool_address(2)]));
        let added = node.run_with(&node.sandbox("new", "new-0"), "ADD", &alone(&service, "bridge"), "/run/programs:/usr/sbin:/usr/bin");
        assert!(added.ok, "{added:?}");
        let calls = fs::read_to_string("/run/programs/calls").unwrap();
        let deleted = "-t nat -D PREROUTING -p IPv4 -i eth0 --ip-dst 10.240.1.1 -j dnat --to-dst 2:0:0:0:1:1 --dnat-target ACCEPT";
        assert_eq!(calls.lines().collect::<Vec<_>>(), ["-t nat -L --Lmac2", deleted]);
    });
}

/// What the original leaves on a node: its bridge with the host's addresses, a pod, the rules of this and of one that went, and its state.
fn original_leaves(mode: &str, pod: &Sandbox, address: Ipv4Addr, gone: Ipv4Addr) {
    let netns = pod.netns.file_name().unwrap().to_str().unwrap().to_owned();
    for command in [
        "link add azure0 type bridge".to_owned(),
        format!("link set azure0 address {UPLINK_MAC}"),
        "link set azure0 up".to_owned(),
        format!("address del {NODE}/16 dev eth0"),
        "link set eth0 master azure0".to_owned(),
        "link set eth0 type bridge_slave hairpin on".to_owned(),
        format!("address add {NODE}/16 dev azure0"),
        format!("route replace default via {FABRIC} dev azure0"),
        format!("link add azv3f813b0 type veth peer name eth0 address {POD_MAC} netns {netns}"),
        "link set azv3f813b0 master azure0 up".to_owned(),
        "link set azv3f813b0 type bridge_slave hairpin on".to_owned(),
    ] {
        run("ip", &command.split(' ').collect::<Vec<_>>());
    }
    inside(&pod.netns, move || {
        for command in ["link set eth0 up", &format!("address add {address}/16 dev eth0"), &format!("route add default via {FABRIC}")] {
            run("ip", &command.split(' ').collect::<Vec<_>>());
        }
    });
    fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", "1").unwrap();
    let mut rules = vec![
        format!("POSTROUTING -s unicast -o eth0 -j snat --to-src {UPLINK_MAC} --snat-arp --snat-target ACCEPT"),
        format!("PREROUTING -p ARP --arp-op Request --arp-ip-dst {NODE} -j arpreply --arpreply-mac {UPLINK_MAC} --arpreply-target DROP"),
        "PREROUTING -p ARP -i eth0 --arp-op Reply -j dnat --to-dst ff:ff:ff:ff:ff:ff --dnat-target ACCEPT".to_owned(),
    ];
    if mode == "tunnel" {
        rules.push(format!("PREROUTING -i az+ -j dnat --to-dst {FABRIC_MAC} --dnat-target ACCEPT"));
    }
    for (address, mac) in [(address, POD_MAC), (gone, "02:00:00:00:01:01")] {
        let answer = if mode == "tunnel" { FABRIC_MAC } else { mac };
        rules.push(format!("PREROUTING -p ARP --arp-op Request --arp-ip-dst {address} -j arpreply --arpreply-mac {answer}"));
        rules.push(format!("PREROUTING -p IPv4 -i eth0 --ip-dst {address} -j dnat --to-dst {mac} --dnat-target ACCEPT"));
        if mode == "bridge" {
            run("ip", &["neighbour", "replace", &address.to_string(), "lladdr", mac, "nud", "permanent", "dev", "azure0"]);
        }
    }
    // The last are twice there: a network that was made again.
    rules.extend(rules.last().cloned());
    for rule in rules {
        run("ebtables-nft", &[&["-t", "nat", "-A"][..], &rule.split(' ').collect::<Vec<_>>()].concat());
    }
    let endpoint = json!({ "IfName": "eth0", "HostIfName": "azv3f813b0", "MacAddress": "AgAAAAEC", "ContainerID": "3f813b02aa",
                           "IPAddresses": [{ "IP": address.to_string(), "Mask": "//8AAA==" }], "PODName": "old-0", "PODNameSpace": "default",
                           "NetworkNameSpace": pod.netns });
    let networks = json!({ "azure": { "Id": "azure", "Mode": mode, "Endpoints": { "3f813b02-eth0": endpoint } } });
    let links = json!({ "eth0": { "Name": "eth0", "Networks": networks, "BridgeName": "azure0" } });
    fs::write("/var/run/azure-vnet.json", json!({ "Network": { "ExternalInterfaces": links } }).to_string()).unwrap();
    assert!(Path::new("/run/azure-vnet.json").exists());
}

fn alone(service: &Service, mode: &str) -> Value {
    let mut conf = conf("1.0.0");
    conf["mode"] = json!(mode);
    conf["ipam"] = json!({ "type": "azure-vnet-ipam", "wireserverEndpoint": service.endpoint(), "imdsEndpoint": service.endpoint() });
    conf
}

/// Rules in the kernel's own chains but for the jumps to ours.
fn originals_rules() -> Vec<String> {
    kernels_rules().into_iter().filter(|rule| !rule.contains("-j AZURE-VNET")).collect()
}

fn jumps() -> usize {
    kernels_rules().iter().filter(|rule| rule.starts_with("PREROUTING") && rule.contains("-j AZURE-VNET")).count()
}

fn kernels_rules() -> Vec<String> {
    let rules_of = |chain: &str| {
        let out = Command::new("ebtables-nft").args(["-t", "nat", "-L", chain]).output().unwrap();
        let listing = String::from_utf8(out.stdout).unwrap();
        listing.lines().filter(|line| line.starts_with('-')).map(|line| format!("{chain} {line}")).collect::<Vec<_>>()
    };
    [rules_of("PREROUTING"), rules_of("POSTROUTING")].concat()
}

/// Routes, entries and rules of an address.
fn traces_of(address: Ipv4Addr) -> Vec<String> {
    traces(address).into_iter().filter(|trace| trace.contains(&address.to_string())).collect()
}
