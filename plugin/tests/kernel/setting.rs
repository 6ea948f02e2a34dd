//! The surroundings in which a sweep strikes commands: who gives addresses, which plugin runs, and what is there of pods that are attached.

use std::{collections::BTreeSet, fmt, fs, net::IpAddr, path::Path, time::Duration};

use azure_vnet_plugin_core::lease::Entry;
use ipnet::IpNet;
use serde_json::{Value, json};

use crate::node::{self, Ended, IPAM, Node, PLUGIN, RUN, pool_address, run};
use crate::services::Service;

const POOL: u8 = 10;
/// Where `host-local` notes its addresses.
const LOCAL: &str = "/run/host-local";

/// Where a command is struck.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// An agent's pool, and this mode.
    Agent(&'static str),
    /// No agent: the plugin learns the pool and seals the store itself.
    Alone,
    /// Addresses of both families from `host-local`, and this mode.
    Foreign(&'static str),
    /// `azure-vnet-ipam` by itself, as plugins of others run it, with an agent's pool.
    Addresses,
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agent(mode) => write!(f, "{mode}"),
            Self::Alone => f.write_str("without an agent"),
            Self::Foreign(mode) => write!(f, "{mode} with host-local of both families"),
            Self::Addresses => f.write_str("azure-vnet-ipam for another plugin"),
        }
    }
}

impl Setting {
    pub const ALL: [Self; 7] = [
        Self::Agent("transparent"),
        Self::Agent("bridge"),
        Self::Agent("tunnel"),
        Self::Alone,
        Self::Foreign("transparent"),
        Self::Foreign("tunnel"),
        Self::Addresses,
    ];

    /// How many blows a sample has of one command: programs of others start slowly.
    pub fn sample(self) -> usize {
        if self.has_leases() { 24 } else { 12 }
    }

    /// The plugin that is struck.
    pub fn plugin(self) -> &'static str {
        match self {
            Self::Agent(_) | Self::Alone | Self::Foreign(_) => PLUGIN,
            Self::Addresses => IPAM,
        }
    }

    /// Whether the plugin wires pods.
    pub fn wires(self) -> bool {
        self != Self::Addresses
    }

    /// Whether leases say what an attachment has: without, `host-local` refuses an ADD again, and a pod's newer sandbox waits for the older one's DEL.
    pub fn has_leases(self) -> bool {
        !matches!(self, Self::Foreign(_))
    }

    /// What the node has before the first command.
    pub fn prepare(self, node: &Node) {
        if let Self::Foreign(_) = self {
            run("ip", &["address", "add", "fd00::4/64", "dev", "eth0", "nodad"]);
            // The distribution's knows neither GC nor STATUS.
            let collect = format!("for file in {LOCAL}/azure/[0-9f]*; do grep -q bystander $file || rm $file; done");
            let other = format!("#!/bin/sh\ncase $CNI_COMMAND in STATUS) ;; GC) {collect} ;; *) exec /usr/lib/cni/host-local ;; esac\n");
            fs::create_dir("/run/others").unwrap();
            fs::write("/run/others/other", other).unwrap();
            run("chmod", &["+x", "/run/others/other"]);
        }
        self.rest(node);
    }

    /// Ends all rests at once, so that the pool never runs dry.
    pub fn rest(self, node: &Node) {
        match self {
            Self::Agent(_) | Self::Addresses => {
                node.adopt(&pool(), 2, Duration::ZERO);
                node.keeper().sweep().unwrap();
            }
            Self::Alone => {
                for (address, entry) in node.store().list().unwrap() {
                    if let Entry::Cooling(_) = entry {
                        fs::remove_file(format!("{RUN}/lease/{address}")).unwrap();
                    }
                }
            }
            Self::Foreign(_) => {}
        }
    }

    /// The configuration of a version.
    pub fn configuration(self, version: &str, service: &Service) -> Value {
        let mut conf = node::conf(version);
        match self {
            Self::Agent(mode) => conf["mode"] = json!(mode),
            Self::Alone => {
                let at = service.endpoint();
                // Nobody asks when nobody has to: what is learned later would meet a store that the next round has lost.
                conf["ipam"] = json!({ "type": "azure-vnet-ipam", "queryInterval": "86400", "wireserverEndpoint": at, "imdsEndpoint": at });
            }
            Self::Foreign(mode) => {
                let four = json!([{ "subnet": "10.240.0.0/16", "rangeStart": pool_address(1), "rangeEnd": pool_address(POOL),
                                    "gateway": "10.240.0.1" }]);
                let six = json!([{ "subnet": "fd00::/64", "rangeStart": "fd00::1:1", "rangeEnd": "fd00::1:ff", "gateway": "fd00::1" }]);
                conf["mode"] = json!(mode);
                conf["ipam"] = json!({ "type": "other", "dataDir": LOCAL, "ranges": [four, six],
                                       "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }] });
            }
            Self::Addresses => conf["type"] = json!("bridge"),
        }
        conf
    }

    /// Leases, links, routes, entries and rules are those of exactly these answers.
    pub fn assert_holds(self, node: &Node, attached: &[&Ended], when: &str) {
        let addresses: Vec<_> = attached.iter().map(|ended| ended.address()).collect();
        match self {
            Self::Agent(_) | Self::Alone => node.assert_holds(&addresses, when),
            Self::Foreign(mode) => {
                let all: BTreeSet<IpAddr> = attached.iter().flat_map(|ended| addresses_of(ended)).collect();
                assert_eq!(noted(), all, "host-local's {when}");
                assert_eq!(node.host_links().len(), attached.len(), "links {when}");
                let routed: BTreeSet<_> = addresses.into_iter().collect();
                assert_eq!(node.pod_routes(), routed, "routes {when}");
                let bridged = if mode == "transparent" { BTreeSet::new() } else { routed };
                assert_eq!(node.bridged(), [bridged.clone(), bridged], "entries and rules {when}");
            }
            Self::Addresses => {
                let leased: BTreeSet<_> = node.leases().into_iter().map(|lease| lease.address).collect();
                assert_eq!(leased, addresses.into_iter().collect(), "leases {when}");
                assert_eq!((node.pod_routes(), node.host_links()), (BTreeSet::new(), vec![]), "the kernel {when}");
                node.keeper().sweep().unwrap();
                assert_eq!(fs::read_dir(Path::new(RUN).join("by")).unwrap().count(), attached.len(), "index entries {when}");
            }
        }
    }
}

pub fn pool() -> Vec<std::net::Ipv4Addr> {
    (1..=POOL).map(pool_address).collect()
}

/// The addresses of an answer.
pub fn addresses_of(ended: &Ended) -> Vec<IpAddr> {
    let answer = ended.json();
    let address = |ip: &Value| ip["address"].as_str().unwrap().parse::<IpNet>().unwrap().addr();
    answer["ips"].as_array().unwrap().iter().map(address).collect()
}

/// The addresses that `host-local` has given.
fn noted() -> BTreeSet<IpAddr> {
    let folder = Path::new(LOCAL).join("azure");
    let names = fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter_map(|name| name.parse().ok()).collect()
}
