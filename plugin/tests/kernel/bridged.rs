//! Bridged pods and what is not theirs: another's route, entry or address, and a host that cannot have them.

use std::{collections::BTreeSet, fs, net::IpAddr, path::Path};

use azure_vnet_plugin::{
    netlink::{Family, LinkBy, Netlink},
    store::Freed,
    strays,
};
use azure_vnet_plugin_core::lease::Entry;
use serde_json::json;

use crate::modes::{add, conf, with};
use crate::node::{Ended, FABRIC, RUN, Sandbox, await_that, on_a_bare_node, on_a_node, pool_address, run};
use crate::services::{Service, wireserver};

#[test]
fn cm2_del_of_a_bridged_pod_leaves_another_bridges_route_to_its_address() {
    on_a_node(10, |node| {
        let pod = node.sandbox("c1", "web-0");
        let address = add(node, &pod, "bridge").address();
        run("ip", &["link", "add", "br0", "up", "type", "bridge"]);
        run("ip", &["route", "replace", &format!("{address}/32"), "dev", "br0"]);
        run("ip", &["neighbour", "add", &address.to_string(), "lladdr", "02:00:00:00:00:77", "dev", "br0", "nud", "permanent"]);
        assert!(node.run(&pod, "DEL", &conf("bridge")).ok);
        let bridge = Netlink::open().unwrap().link(LinkBy::Name("br0")).unwrap().unwrap().index;
        let neighbours = Netlink::open().unwrap().neighbours(Family::V4).unwrap();
        assert!(node.pod_routes().contains(&address));
        let of_address = neighbours.iter().filter(|entry| entry.address == IpAddr::V4(address));
        assert_eq!(of_address.map(|entry| entry.link).collect::<Vec<_>>(), [bridge]);
    });
}

#[test]
fn cm2_del_of_a_bridged_pod_whose_route_was_taken_away_leaves_nothing_of_it() {
    for mode in ["bridge", "tunnel"] {
        on_a_node(10, move |node| {
            let (pod, other) = (node.sandbox("c1", "web-0"), node.sandbox("c2", "web-1"));
            let [address, others] = [&pod, &other].map(|pod| add(node, pod, mode).address());
            let uplink = Netlink::open().unwrap().link(LinkBy::Name("eth0")).unwrap().unwrap().index;
            run("ip", &["route", "del", &format!("{address}/32"), "dev", &format!("azure{uplink}")]);
            assert!(node.run(&pod, "DEL", &conf(mode)).ok);
            node.assert_holds(&[others], mode);
        });
    }
}

#[test]
fn the_host_keeps_its_largest_packet_whatever_its_pods_have() {
    on_a_node(10, |node| {
        drop(add(node, &node.sandbox("c1", "web-0"), "bridge"));
        let uplink = Netlink::open().unwrap().link(LinkBy::Name("eth0")).unwrap().unwrap();
        let bridge = format!("azure{}", uplink.index);
        let mtu = || Netlink::open().unwrap().link(LinkBy::Name(&bridge)).unwrap().unwrap().mtu;
        assert_eq!(mtu(), uplink.mtu);
        run("ip", &["link", "add", "name", "port", "mtu", "1400", "type", "veth", "peer", "name", "pod"]);
        run("ip", &["link", "set", "port", "master", &bridge]);
        assert_eq!(mtu(), uplink.mtu, "beside a port with less");
        run("ip", &["link", "set", "eth0", "mtu", "9000"]);
        drop(add(node, &node.sandbox("c2", "web-1"), "bridge"));
        assert_eq!(mtu(), 9000, "the uplink's is another");
    });
}

#[test]
fn cm4_what_pods_left_whose_leases_were_lost_goes_when_the_store_is_made_anew_and_their_addresses_rest() {
    on_a_bare_node(|node| {
        let addresses: Vec<_> = (1..=4).map(pool_address).collect();
        let service = Service::start(wireserver(&addresses));
        let mut conf = conf("tunnel");
        conf["ipam"] = json!({ "type": "azure-vnet-ipam", "wireserverEndpoint": service.endpoint(), "imdsEndpoint": service.endpoint() });
        let add = |pod: &Sandbox| node.run(pod, "ADD", &conf);
        let pods = ["c1", "c2", "c3"].map(|id| node.sandbox(id, id));
        let added = pods.each_ref().map(add);
        assert_eq!(added.each_ref().map(Ended::address).as_slice(), &addresses[..3]);
        // Two end with the store, and their DEL never comes.
        fs::remove_dir_all(RUN).unwrap();
        pods[..2].iter().for_each(Sandbox::drop_netns);
        await_that("links go with their namespaces", || node.host_links().len() == 1);
        let three: BTreeSet<_> = addresses[..3].iter().copied().collect();
        assert_eq!((node.bridged(), node.pod_routes()), ([three.clone(), three.clone()], three), "all of it outlives the links");
        assert_eq!(add(&node.sandbox("c4", "c4")).address(), addresses[3], "the others rest");
        let living = [addresses[2], addresses[3]];
        node.assert_holds(&living, "of the living alone");
        for address in &addresses[..2] {
            assert!(matches!(node.store().read(*address).unwrap(), Some(Entry::Cooling(_))), "{address}");
        }
        let check = node.run(&pods[2], "CHECK", &with(conf.clone(), added[2].json()));
        assert!(check.ok, "{check:?}");
        // One comes all the same.
        assert!(node.run(&pods[0], "DEL", &conf).ok);
        node.assert_holds(&living, "after a late DEL");
    });
}

#[test]
fn cm4_a_pod_that_comes_while_what_another_left_is_taken_away_keeps_its_way() {
    on_a_node(10, |node| {
        drop(add(node, &node.sandbox("c1", "web-0"), "bridge"));
        let pod = node.sandbox("c2", "web-1");
        let mut host = Netlink::open().unwrap();
        let address = pool_address(2);
        // Links were read before it had one.
        let mut is_linked = |_: &mut Netlink| {
            assert_eq!(add(node, &pod, "bridge").address(), address);
            Ok(false)
        };
        assert!(strays::take_away(&mut host, address.into(), &mut is_linked), "there was nothing to take away");
        node.assert_holds(&[pool_address(1), address], "after the look for what others left");
    });
}

#[test]
fn a_repeated_add_that_gets_another_address_leaves_none_of_the_first() {
    for mode in ["transparent", "bridge", "tunnel"] {
        on_a_node(10, move |node| {
            let pod = node.sandbox("c1", "web-0");
            let first = add(node, &pod, mode).address();
            // The lease is lost, and the store sealed without it.
            let seen = node.store().read(first).unwrap().unwrap();
            assert_eq!(node.store().free_if(first, &seen, &mut || true).unwrap(), Freed::Cooling);
            fs::remove_file(Path::new(RUN).join("lease").join(first.to_string())).unwrap();
            let added = add(node, &pod, mode);
            let second = added.address();
            assert_ne!(first, second, "{mode}");
            let link = pod.links()[0].index;
            let addresses = pod.netlink().addresses(Family::V4).unwrap().into_iter().filter(|address| address.link == link);
            assert_eq!(addresses.map(|address| address.address).collect::<Vec<_>>(), [IpAddr::V4(second)], "{mode}");
            let check = node.run(&pod, "CHECK", &with(conf(mode), added.json()));
            assert!(check.ok, "{mode}: {check:?}");
            node.assert_holds(&[second], mode);
        });
    }
}

#[test]
fn cm2_a_late_del_of_a_bridged_pod_leaves_the_way_to_the_pod_that_has_its_address_now() {
    for mode in ["bridge", "tunnel"] {
        on_a_node(1, move |node| {
            let former = node.sandbox("c1", "web-0");
            let address = add(node, &former, mode).address();
            // Its lease is lost, and so is its link; its rules and the bridge's entry stay.
            let seen = node.store().read(address).unwrap().unwrap();
            assert_eq!(node.store().free_if(address, &seen, &mut || true).unwrap(), Freed::Cooling);
            fs::remove_file(Path::new(RUN).join("lease").join(address.to_string())).unwrap();
            let Entry::Leased(lease) = seen else { panic!("{seen:?}") };
            run("ip", &["link", "del", lease.host_link.as_str()]);
            let pod = node.sandbox("c2", "web-1");
            let added = add(node, &pod, mode);
            assert_eq!(added.address(), address, "{mode}");
            assert!(node.run(&former, "DEL", &conf(mode)).ok);
            let check = node.run(&pod, "CHECK", &with(conf(mode), added.json()));
            assert!(check.ok, "{mode}: {check:?}");
            node.assert_holds(&[address], mode);
            assert!(node.run(&pod, "DEL", &conf(mode)).ok);
            assert_eq!(node.pod_routes(), BTreeSet::new(), "{mode}");
        });
    }
}

#[test]
fn st4_the_neighbour_of_a_bridged_pod_is_exclusive_as_its_route_is() {
    on_a_node(10, |node| {
        let pod = node.sandbox("c1", "web-0");
        let holder = add(node, &pod, "bridge");
        let address = holder.address();
        // An IPAM plugin that asks no kernel gives the same address.
        fs::create_dir("/run/others").unwrap();
        let given = json!({ "cniVersion": "1.0.0", "ips": [{ "address": format!("{address}/16"), "gateway": FABRIC }] });
        fs::write("/run/others/other", format!("#!/bin/sh\n[ $CNI_COMMAND != ADD ] || echo '{given}'\n")).unwrap();
        run("chmod", &["+x", "/run/others/other"]);
        let mut delegated = conf("bridge");
        delegated["ipam"] = json!({ "type": "other" });
        let second = node.run(&node.sandbox("c2", "web-1"), "ADD", &delegated);
        assert!(!second.ok && second.json()["msg"].as_str().unwrap().contains("in use"), "{second:?}");
        let check = node.run(&pod, "CHECK", &with(conf("bridge"), holder.json()));
        assert!(check.ok, "{check:?}");
        node.assert_holds(&[address], "after a second pod was given its address");
    });
}

#[test]
fn pk3_a_host_whose_bridges_cannot_call_iptables_is_left_as_it_is() {
    on_a_node(3, |node| {
        // What a kernel without br_netfilter shows: no folder of bridges' switches.
        run("mount", &["--bind", "/proc/sys/net/core", "/proc/sys/net"]);
        let refused = node.run(&node.sandbox("c1", "web-0"), "ADD", &conf("bridge"));
        assert!(!refused.ok && refused.json()["msg"].as_str().unwrap().contains("br_netfilter"), "{refused:?}");
        let mut host = Netlink::open().unwrap();
        assert_eq!(host.link(LinkBy::Name("eth0")).unwrap().unwrap().controller, None);
        assert!(host.links().unwrap().iter().all(|link| link.kind.as_deref() != Some("bridge")));
        node.assert_nothing_left("without br_netfilter");
    });
}
