//! A fabric for tests of what a pod reaches.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    process::Command,
};

use crate::{
    node::{self, FABRIC, NODE, Node, inside, run},
    ways::{ask, heard, socket},
};

pub const INTERNET: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
pub const OTHER_NODE: Ipv4Addr = Ipv4Addr::new(10, 240, 0, 5);

/// A fabric like Azure's: it answers ARP for every address with its own hardware address, delivers by the node's, lets each node send from its own
/// addresses only, and applies rules. Beside the node there is another one, and an internet that only nodes reach.
pub struct Fabric {
    pub here: PathBuf,
    pub other: PathBuf,
}

impl Fabric {
    pub fn like_azure(node: &Node) -> Self {
        let other = node.sandbox("other-node", "none").netns;
        let (here, there) = (node.fabric.clone(), other.clone());
        fs::write("/proc/sys/net/ipv4/conf/eth0/proxy_arp", "0").unwrap();
        inside(&here, move || {
            for (name, value) in [
                ("ip_forward", "1"),
                ("conf/all/rp_filter", "0"),
                ("conf/n1/rp_filter", "0"),
                ("conf/all/send_redirects", "0"),
                ("conf/n1/send_redirects", "0"),
                ("conf/n1/proxy_arp", "1"),
                ("conf/n1/proxy_arp_pvlan", "1"),
                ("neigh/n1/proxy_delay", "0"),
            ] {
                fs::write(format!("/proc/sys/net/ipv4/{name}"), value).unwrap();
            }
            run(
                "ip",
                &[
                    "link",
                    "add",
                    "n2",
                    "address",
                    "12:34:56:78:9a:bc",
                    "type",
                    "veth",
                    "peer",
                    "name",
                    "eth0",
                    "netns",
                    there.to_str().unwrap(),
                ],
            );
            fs::write("/proc/sys/net/ipv4/conf/n2/proxy_arp", "1").unwrap();
            fs::write("/proc/sys/net/ipv4/neigh/n2/proxy_delay", "0").unwrap();
            run("ip", &["link", "set", "n2", "up"]);
            run("ip", &["route", "add", &format!("{OTHER_NODE}/32"), "dev", "n2"]);
            run("ip", &["address", "add", &format!("{INTERNET}/32"), "dev", "lo"]);
            // The node's addresses, by its hardware address: it is asked for none.
            for last in 0..=10 {
                let address = if last == 0 { NODE } else { node::pool_address(last) };
                run("ip", &["neighbour", "replace", &address.to_string(), "lladdr", "02:00:00:00:00:04", "nud", "permanent", "dev", "n1"]);
            }
            for rule in [
                format!("-A FORWARD -o n1 -i n2 ! -s {OTHER_NODE} -j DROP"),
                format!("-A INPUT -i n1 -d {INTERNET} ! -s {NODE} -j DROP"),
                "-A INPUT -i n1 ! -s 10.240.0.0/16 -j DROP".to_owned(),
                "-A FORWARD -i n1 ! -s 10.240.0.0/16 -j DROP".to_owned(),
            ] {
                run("iptables-nft", &[&["-w"][..], &rule.split(' ').collect::<Vec<_>>()].concat());
            }
        });
        inside(&other, || {
            run("ip", &["link", "set", "lo", "up"]);
            run("ip", &["address", "add", &format!("{OTHER_NODE}/16"), "dev", "eth0"]);
            run("ip", &["link", "set", "eth0", "up"]);
        });
        Self { here, other }
    }

    /// A security rule of the network.
    pub fn deny(&self, from: Ipv4Addr, to: Ipv4Addr) {
        inside(&self.here, move || {
            run("iptables-nft", &["-w", "-I", "FORWARD", "-s", &from.to_string(), "-d", &to.to_string(), "-j", "DROP"]);
        });
    }

    pub fn host_is_connected(&self, when: &str) {
        for (there, address) in [(&self.here, FABRIC), (&self.here, INTERNET), (&self.other, OTHER_NODE)] {
            self.expect_way(None, NODE, Some(there), address, address, &format!("the host's way to {address} {when}"));
            if address != INTERNET {
                self.expect_way(Some(there), address, None, NODE, NODE, &format!("the way from {address} to the host {when}"));
            }
        }
    }

    pub fn expect_way(&self, from: Option<&PathBuf>, source: Ipv4Addr, to: Option<&PathBuf>, target: Ipv4Addr, at: Ipv4Addr, what: &str) {
        assert_eq!(ask(from, to, target.into(), at.into()), Ok(IpAddr::V4(source)), "{what}");
    }

    /// What is sent meets the rule, and does not arrive.
    pub fn expect_denied(&self, (from, source): (&PathBuf, Ipv4Addr), (to, target): (&PathBuf, Ipv4Addr), what: &str) {
        let (client, server) = (socket(Some(from), (source, 0).into()), socket(Some(to), (target, 0).into()));
        let at = server.local_addr().unwrap();
        node::await_that("the rule drops what is sent", || {
            client.send_to(b"ping", at).unwrap();
            self.dropped(source, target) > 0
        });
        assert_eq!(heard(&server), None, "{what}");
    }

    /// How much the rule has dropped.
    fn dropped(&self, source: Ipv4Addr, target: Ipv4Addr) -> u64 {
        let list = || Command::new("iptables-nft").args(["-w", "-vnxL", "FORWARD"]).output().unwrap();
        let listing = String::from_utf8(inside(&self.here, list).stdout).unwrap();
        let is_rule = |line: &&str| [source, target].iter().all(|address| line.contains(&address.to_string()));
        let rule = listing.lines().find(is_rule).unwrap_or_else(|| panic!("{listing}"));
        rule.split_whitespace().next().unwrap().parse().unwrap()
    }
}
