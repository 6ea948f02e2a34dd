//! A virtual network as nodes need it: what it spans, what its subnets are, and what about it will be in the way.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde_json::Value;

use crate::arm::ResourceId;

/// A virtual network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// Its own address spaces.
    pub own: Vec<Ipv4Net>,
    /// Those of connected peers.
    pub peers: Vec<Ipv4Net>,
    /// Its subnets; the nodes' own alone where the network may not be read.
    pub subnets: Vec<Subnet>,
}

/// A subnet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// Which.
    pub id: ResourceId,
    /// Its prefixes.
    pub prefixes: Vec<Ipv4Net>,
    /// The services that it is delegated to.
    pub delegations: Vec<String>,
}

/// What Kubernetes was found to use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    /// Address of the Service `kubernetes`.
    pub service: Option<Ipv4Addr>,
    /// Ranges of Services' addresses, where the cluster names them.
    pub services: Vec<Ipv4Net>,
    /// Ranges that Nodes were given for pods (`spec.podCIDRs`).
    pub pods: Vec<Ipv4Net>,
    /// What kube-proxy takes for pods (`clusterCIDR`), if it was told.
    pub cluster_cidr: Vec<Ipv4Net>,
}

/// Something about a network that is, or will be, in the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// One word.
    pub reason: &'static str,
    /// What was found, and the remedy.
    pub message: String,
}

/// Ranges that AKS keeps for itself.
const FORBIDDEN: [Ipv4Net; 4] = [
    Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16),
    Ipv4Net::new_assert(Ipv4Addr::new(172, 30, 0, 0), 16),
    Ipv4Net::new_assert(Ipv4Addr::new(172, 31, 0, 0), 16),
    Ipv4Net::new_assert(Ipv4Addr::new(192, 0, 2, 0), 24),
];

impl Network {
    /// Reads a network. `None`: it has no address space.
    #[must_use]
    pub fn parse(body: &Value) -> Option<Self> {
        let own = prefixes(body.pointer("/properties/addressSpace/addressPrefixes")?);
        let connected = |peering: &&Value| {
            let state = peering.pointer("/properties/peeringState").and_then(Value::as_str);
            state.is_some_and(|state| state.eq_ignore_ascii_case("Connected"))
        };
        // As last synchronised and as of now: both may be in use.
        let spaces = |peering: &Value| {
            let of = |space: &str| peering.pointer(&format!("/properties/{space}/addressPrefixes")).map(prefixes).unwrap_or_default();
            [of("remoteAddressSpace"), of("remoteVirtualNetworkAddressSpace")].concat()
        };
        let peers = list(body, "/properties/virtualNetworkPeerings").filter(connected).flat_map(spaces).collect();
        let subnet = |subnet: &Value| Some(Subnet::parse(subnet.get("id")?.as_str()?.parse().ok()?, subnet));
        Some(Self { own, peers, subnets: list(body, "/properties/subnets").filter_map(subnet).collect() })
    }

    /// All that a subnet alone tells of its network.
    #[must_use]
    pub fn of_subnet(id: &ResourceId, body: &Value) -> Self {
        let subnet = Subnet::parse(id.clone(), body);
        Self { own: subnet.prefixes.clone(), peers: vec![], subnets: vec![subnet] }
    }

    /// A subnet of it.
    #[must_use]
    pub fn subnet(&self, id: &ResourceId) -> Option<&Subnet> {
        self.subnets.iter().find(|subnet| subnet.id == *id)
    }

    /// The spaces in which pods keep their own address.
    #[must_use]
    pub fn spaces(&self, with_peers: bool) -> Vec<Ipv4Net> {
        let peers = self.peers.iter().filter(|_| with_peers);
        let mut spaces: Vec<Ipv4Net> = self.own.iter().chain(peers).copied().collect();
        spaces.sort_unstable();
        spaces.dedup();
        spaces
    }

    /// What about one of its subnets, with nodes in it, is in the way.
    #[must_use]
    pub fn findings(&self, id: &ResourceId, cluster: &Cluster) -> Vec<Finding> {
        let Some(subnet) = self.subnet(id) else { return vec![] };
        let name = id.name();
        let mut found = vec![];
        let mut find = |reason, message| found.push(Finding { reason, message });
        if !subnet.delegations.is_empty() {
            let to = subnet.delegations.join(", ");
            find(
                "SubnetDelegated",
                format!("subnet {name} is delegated to {to}: Azure puts no machines' addresses into it; use another subnet for nodes"),
            );
        }
        if let Some((prefix, range)) = overlap(&subnet.prefixes, &FORBIDDEN) {
            find("RangeReserved", format!("subnet {name} has {prefix}, and AKS keeps {range} for itself: use another range for nodes"));
        }
        let (spaces, remedy) = (
            self.spaces(true),
            "hosts there that share an address with a Service are out of pods' reach; create the cluster with another service range",
        );
        let service = cluster.service.and_then(|service| Some((service, spaces.iter().find(|space| space.contains(&service))?)));
        if let Some((range, space)) = overlap(&cluster.services, &spaces) {
            find("ServiceRangeOverlaps", format!("the Services' range {range} and {space} of the VNET or of a peer overlap: {remedy}"));
        } else if let Some((service, space)) = service {
            find("ServiceRangeOverlaps", format!("Service addresses, as {service}, lie in {space} of the VNET or of a peer: {remedy}"));
        }
        if let Some((range, space)) = overlap(&cluster.pods, &spaces) {
            let remedy = "whatever routes such ranges takes packets from hosts there; create the cluster with another pod range, or have the \
                          controller manager give none (--allocate-node-cidrs=false)";
            find("PodRangeOverlaps", format!("a Node's podCIDR {range} and {space} of the VNET or of a peer overlap: {remedy}"));
        }
        let left_out = subnet.prefixes.iter().find(|prefix| !cluster.cluster_cidr.iter().any(|cidr| cidr.contains(*prefix)));
        if let Some(prefix) = left_out.filter(|_| !cluster.cluster_cidr.is_empty()) {
            let cidr: Vec<String> = cluster.cluster_cidr.iter().map(ToString::to_string).collect();
            let remedy = format!("run it without --cluster-cidr (clusterCIDR), or with one that covers {prefix}");
            let message = format!(
                "kube-proxy's --cluster-cidr {} leaves the pods in subnet {name} out: Services see the caller's node instead of the pod; {remedy}",
                cidr.join(",")
            );
            find("ClusterCIDRLeavesPodsOut", message);
        }
        found
    }
}

impl Subnet {
    fn parse(id: ResourceId, body: &Value) -> Self {
        let one = body.pointer("/properties/addressPrefix").and_then(Value::as_str).and_then(|text| text.parse().ok());
        let many = body.pointer("/properties/addressPrefixes").map(prefixes).unwrap_or_default();
        let service = |delegation: &Value| delegation.pointer("/properties/serviceName").and_then(Value::as_str).map(str::to_owned);
        let delegations = list(body, "/properties/delegations").filter_map(service).collect();
        Self { id, prefixes: one.into_iter().chain(many).collect(), delegations }
    }

    /// What is in the way where all pools in it together, with their nodes' own addresses, need so many.
    #[must_use]
    pub fn too_small(&self, need: u32) -> Option<Finding> {
        let size: u32 = self.prefixes.iter().map(|prefix| usable(*prefix)).fold(0, u32::saturating_add);
        (size > 0 && need > size).then(|| Finding {
            reason: "SubnetTooSmall",
            message: format!(
                "if every node filled its pool, subnet {} would need {need} addresses and has {size}: enlarge it, use more subnets, or lower pool.max",
                self.id.name()
            ),
        })
    }

    /// Its prefix that an address lies in.
    #[must_use]
    pub fn prefix(&self, address: Ipv4Addr) -> Option<Ipv4Net> {
        self.prefixes.iter().find(|prefix| prefix.contains(&address)).copied()
    }
}

impl Cluster {
    /// What kube-proxy was told to take for pods: by its arguments, or by its configuration as text.
    #[must_use]
    pub fn cluster_cidr<'a>(arguments: impl IntoIterator<Item = &'a str>, configuration: Option<&str>) -> Vec<Ipv4Net> {
        let mut arguments = arguments.into_iter();
        let mut found = None;
        while let Some(argument) = arguments.next() {
            match argument.strip_prefix("--cluster-cidr") {
                Some("") => found = arguments.next().map(str::to_owned),
                Some(value) => found = value.strip_prefix('=').map(str::to_owned).or(found),
                None => {}
            }
        }
        let line = |text: &str| {
            text.lines().find_map(|line| line.trim().strip_prefix("clusterCIDR:").map(|value| value.trim().trim_matches('"').to_owned()))
        };
        let text = found.or_else(|| configuration.and_then(line)).unwrap_or_default();
        text.split(',').filter_map(|part| part.trim().parse().ok()).collect()
    }
}

/// How many addresses of a prefix one may use: Azure keeps the first four and the last.
#[must_use]
pub fn usable(prefix: Ipv4Net) -> u32 {
    2_u32.checked_pow(u32::from(32 - prefix.prefix_len())).unwrap_or(u32::MAX).saturating_sub(5)
}

fn overlap(ours: &[Ipv4Net], theirs: &[Ipv4Net]) -> Option<(Ipv4Net, Ipv4Net)> {
    let pairs = ours.iter().flat_map(|one| theirs.iter().map(move |other| (*one, *other)));
    pairs.into_iter().find(|(one, other)| one.contains(other) || other.contains(one))
}

fn list<'a>(body: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    body.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

/// IPv4 prefixes; those of IPv6 are passed over.
fn prefixes(list: &Value) -> Vec<Ipv4Net> {
    list.as_array().into_iter().flatten().filter_map(|text| text.as_str()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ID: &str = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/v/subnets/nodes";

    fn network(prefix: &str, delegations: &Value) -> Network {
        let peering = json!({"properties": {"peeringState": "Connected", "remoteAddressSpace": {"addressPrefixes": ["10.50.0.0/16"]}}});
        Network::parse(&json!({"properties": {"addressSpace": {"addressPrefixes": [prefix]}, "virtualNetworkPeerings": [peering],
            "subnets": [{"id": ID, "properties": {"addressPrefix": prefix, "delegations": delegations}}]}}))
        .unwrap()
    }

    fn reasons(network: &Network, cluster: &Cluster) -> Vec<&'static str> {
        network.findings(&ID.parse().unwrap(), cluster).iter().map(|finding| finding.reason).collect()
    }

    fn cluster(service: &str, cidr: &[&str]) -> Cluster {
        let cluster_cidr = cidr.iter().map(|cidr| cidr.parse().unwrap()).collect();
        Cluster { service: service.parse().ok(), cluster_cidr, ..Cluster::default() }
    }

    #[test]
    fn a_network_in_good_order_has_no_findings() {
        let network = network("10.240.0.0/16", &json!([]));
        assert_eq!(reasons(&network, &Cluster::default()), [""; 0]);
        assert_eq!(reasons(&network, &cluster("10.0.0.1", &["10.0.0.0/8"])), [""; 0]);
        assert_eq!((network.spaces(true).len(), network.spaces(false).len()), (2, 1));
    }

    #[test]
    fn what_is_in_the_way_is_named() {
        let delegated = network("10.240.0.0/16", &json!([{"properties": {"serviceName": "Microsoft.Web/serverFarms"}}]));
        assert_eq!(reasons(&delegated, &Cluster::default()), ["SubnetDelegated"]);
        assert_eq!(reasons(&network("172.30.4.0/22", &json!([])), &Cluster::default()), ["RangeReserved"]);
        assert_eq!(reasons(&network("172.16.0.0/12", &json!([])), &Cluster::default()), ["RangeReserved"]);
        let good = network("10.240.0.0/16", &json!([]));
        assert_eq!(reasons(&good, &cluster("10.240.3.1", &[])), ["ServiceRangeOverlaps"]);
        assert_eq!(reasons(&good, &cluster("10.50.0.1", &[])), ["ServiceRangeOverlaps"], "of a peer");
    }

    #[test]
    fn whole_ranges_of_services_and_pods_are_compared() {
        let network = network("10.240.0.0/16", &json!([]));
        let range = |range: &str| vec![range.parse().unwrap()];
        let services = |of: &str| Cluster { services: range(of), ..cluster("10.0.0.1", &[]) };
        assert_eq!(reasons(&network, &services("10.128.0.0/9")), ["ServiceRangeOverlaps"], "though its first address lies elsewhere");
        assert_eq!(reasons(&network, &services("10.0.0.0/16")), [""; 0]);
        let pods = |of: &str| Cluster { pods: range(of), ..Cluster::default() };
        assert_eq!(reasons(&network, &pods("10.240.7.0/24")), ["PodRangeOverlaps"]);
        assert_eq!(reasons(&network, &pods("10.50.7.0/24")), ["PodRangeOverlaps"], "of a peer");
        assert_eq!(reasons(&network, &pods("10.244.7.0/24")), [""; 0]);
    }

    #[test]
    fn a_subnet_that_all_pools_together_would_overfill_is_named() {
        let network = network("10.240.0.0/24", &json!([]));
        let subnet = network.subnet(&ID.parse().unwrap()).unwrap();
        assert_eq!(subnet.too_small(251), None, "Azure keeps five");
        let found = subnet.too_small(252).unwrap();
        assert!(found.reason == "SubnetTooSmall" && found.message.contains("need 252 addresses and has 251"), "{found:?}");
    }

    #[test]
    fn pk5_a_cluster_cidr_that_leaves_the_pods_out_is_named_with_its_flag() {
        let network = network("10.240.0.0/16", &json!([]));
        let found = network.findings(&ID.parse().unwrap(), &cluster("", &["10.244.0.0/16"]));
        assert!(found[0].reason == "ClusterCIDRLeavesPodsOut" && found[0].message.contains("--cluster-cidr 10.244.0.0/16"), "{found:?}");
        let parsed = |arguments: &[&str], configuration| Cluster::cluster_cidr(arguments.iter().copied(), configuration);
        let cidr: Vec<Ipv4Net> = vec!["10.244.0.0/16".parse().unwrap()];
        assert_eq!(parsed(&["kube-proxy", "--cluster-cidr=10.244.0.0/16"], None), cidr);
        assert_eq!(parsed(&["--v=2", "--cluster-cidr", "10.244.0.0/16,fd00::/64"], None), cidr);
        assert_eq!(parsed(&["--config=/x"], Some("mode: iptables\nclusterCIDR: \"10.244.0.0/16\"\n")), cidr);
        assert_eq!(parsed(&["--config=/x"], Some("clusterCIDR: \"\"\n")), []);
    }
}
