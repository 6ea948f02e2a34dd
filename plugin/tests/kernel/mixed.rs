//! Pods of different modes on one node: how they reach one another, by their addresses and by a service's.

use std::net::{IpAddr, Ipv4Addr};

use crate::{
    fabric::{Fabric, OTHER_NODE},
    modes::add,
    node::{NODE, on_a_node, run},
    ways::ask,
};

const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 10);

#[test]
fn pk3_a_routed_and_a_bridged_pod_reach_one_another_by_their_addresses_and_by_services() {
    for mode in ["bridge", "tunnel"] {
        on_a_node(10, move |node| {
            let fabric = Fabric::like_azure(node);
            // The first is there before the bridge is, the last comes after.
            let [a, b, c] = [("a", "transparent"), ("b", mode), ("c", "transparent")].map(|(name, of)| {
                let pod = node.sandbox(name, name);
                let address = add(node, &pod, of).address();
                (pod.netns, address)
            });
            for ((from, source), (to, target), seen) in [(&a, &b, NODE), (&b, &a, b.1), (&c, &b, NODE), (&b, &c, b.1)] {
                let way = format!("{mode}: {source} to {target}");
                fabric.expect_way(Some(from), *source, Some(to), *target, *target, &way);
                // What kube-proxy does for a ClusterIP.
                let rule = ["-p", "udp", "-d", &SERVICE.to_string(), "-j", "DNAT", "--to-destination", &target.to_string()];
                run("iptables-nft", &[&["-w", "-t", "nat", "-A", "PREROUTING"], &rule[..]].concat());
                let asked = ask(Some(from), Some(to), SERVICE.into(), (*target).into());
                assert_eq!(asked, Ok(IpAddr::V4(seen)), "{way} by a service");
                run("iptables-nft", &["-w", "-t", "nat", "-F", "PREROUTING"]);
            }
            // A pod of another node, which sees the pod that asks: only what answers past this node must not.
            for (from, source) in [&a, &b, &c] {
                let rule = ["-p", "udp", "-d", &SERVICE.to_string(), "-j", "DNAT", "--to-destination", &OTHER_NODE.to_string()];
                run("iptables-nft", &[&["-w", "-t", "nat", "-A", "PREROUTING"], &rule[..]].concat());
                let asked = ask(Some(from), Some(&fabric.other), SERVICE.into(), OTHER_NODE.into());
                assert_eq!(asked, Ok(IpAddr::V4(*source)), "{mode}: {source} to another node by a service");
                run("iptables-nft", &["-w", "-t", "nat", "-F", "PREROUTING"]);
            }
        });
    }
}
