//! `explain`: whose address a destination sees when a pod talks to it, by which rule, and by which line of the config.

use std::{fmt, net::Ipv4Addr, str::FromStr};

use azure_vnet_crds::AzureVnetNode;
use ipnet::Ipv4Net;
use serde::Serialize;

use super::{Cluster, Pod, name};
use crate::rules::{EGRESS, GUARD, IMDS, Masquerade, WIRESERVER, parse_nets};

/// Where a pod's packet goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// An address.
    Address(Ipv4Addr),
    /// A pod, by namespace (empty: the asking pod's) and name.
    Pod(String, String),
    /// A Service, likewise.
    Service(String, String),
}

/// A destination that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no destination: give an IPv4 address, pod/NAME or svc/NAME, with a namespace as in pod/NAMESPACE/NAME")]
pub struct TargetError(String);

impl FromStr for Target {
    type Err = TargetError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        let parts: Vec<&str> = text.split('/').collect();
        match parts.as_slice() {
            ["pod", name] if !name.is_empty() => Ok(Self::Pod(String::new(), (*name).to_owned())),
            ["pod", namespace, name] => Ok(Self::Pod((*namespace).to_owned(), (*name).to_owned())),
            ["svc" | "service", name] if !name.is_empty() => Ok(Self::Service(String::new(), (*name).to_owned())),
            ["svc" | "service", namespace, name] => Ok(Self::Service((*namespace).to_owned(), (*name).to_owned())),
            _ => Err(TargetError(text.to_owned())),
        }
    }
}

/// Whose address a destination sees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// The pod: `namespace/name`.
    pub pod: String,
    /// Its node.
    pub node: String,
    /// Its address.
    pub source: Ipv4Addr,
    /// The destination.
    pub destination: Ipv4Addr,
    /// The source that the destination sees.
    pub sees: Sees,
    /// That address, where it is known.
    pub seen_address: Option<Ipv4Addr>,
    /// The rule on the node that decides.
    pub rule: String,
    /// The line of the config that makes that rule.
    pub config: String,
    /// What else one should know.
    pub notes: Vec<String>,
}

/// A source as the destination sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Sees {
    /// The pod's own address.
    Pod,
    /// The node's address.
    Node,
}

/// Why nothing can be said.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExplainError {
    /// No such object.
    #[error("there is no {kind} {namespace}/{name}")]
    Missing {
        /// Of which kind.
        kind: &'static str,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// It has no address.
    #[error("{0} has no address yet")]
    NoAddress(String),
    /// It has the node's.
    #[error("pod {0} shares its node's network: what it sends carries the node's address wherever it goes")]
    HostNetwork(String),
    /// Its node has no pool.
    #[error("node {0} is not served: its packets are not our rules' business")]
    NotServed(String),
}

/// Explains one way.
///
/// # Errors
/// See [`ExplainError`].
pub fn explain(cluster: &Cluster, namespace: &str, pod_name: &str, target: &Target) -> Result<Explanation, ExplainError> {
    let (pod, source) = find(cluster, namespace, pod_name)?;
    let full = format!("{}/{}", pod.namespace, pod.name);
    if pod.host_network {
        return Err(ExplainError::HostNetwork(full));
    }
    let node = pod.node.clone().unwrap_or_default();
    let pool = cluster.pool(&node).ok_or_else(|| ExplainError::NotServed(node.clone()))?;
    let mut notes = vec![];
    let destination = resolve(cluster, namespace, target, &mut notes)?;
    let behind = match target {
        Target::Address(_) | Target::Pod(..) => destination,
        // What a Service's address becomes before our rules look: a pod's, in the VNET as the node is.
        Target::Service(..) => pool.spec.node.primary_address.parse().unwrap_or(destination),
    };
    let Decision { sees, rule, config } = decide(pool, behind);
    warn(pool, behind, sees, &mut notes);
    let seen_address = match sees {
        Sees::Pod => Some(source),
        Sees::Node => pool.spec.node.primary_address.parse().ok(),
    };
    Ok(Explanation { pod: full, node, source, destination, sees, seen_address, rule, config, notes })
}

fn find<'a>(cluster: &'a Cluster, namespace: &str, pod_name: &str) -> Result<(&'a Pod, Ipv4Addr), ExplainError> {
    let missing = || ExplainError::Missing { kind: "pod", namespace: namespace.to_owned(), name: pod_name.to_owned() };
    let pod = cluster.pod(namespace, pod_name).ok_or_else(missing)?;
    let address = pod.address.ok_or_else(|| ExplainError::NoAddress(format!("pod {namespace}/{pod_name}")))?;
    Ok((pod, address))
}

fn resolve(cluster: &Cluster, own: &str, target: &Target, notes: &mut Vec<String>) -> Result<Ipv4Addr, ExplainError> {
    let or_own = |namespace: &String| if namespace.is_empty() { own.to_owned() } else { namespace.clone() };
    match target {
        Target::Address(address) => Ok(*address),
        Target::Pod(namespace, name) => find(cluster, &or_own(namespace), name).map(|(_, address)| address),
        Target::Service(namespace, name) => {
            let namespace = or_own(namespace);
            let found = cluster.services.iter().find(|service| service.namespace == namespace && service.name == *name);
            let service =
                found.ok_or_else(|| ExplainError::Missing { kind: "service", namespace: namespace.clone(), name: name.clone() })?;
            notes.push(
                "kube-proxy replaces a Service's address by that of one of its endpoints before our rules look; this is the answer for one \
                 in the VNET. If kube-proxy's clusterCIDR leaves pods out, it masquerades by itself, and the endpoint sees the caller's node"
                    .into(),
            );
            service.address.ok_or_else(|| ExplainError::NoAddress(format!("service {namespace}/{name}")))
        }
    }
}

/// Whose address a destination sees of a pod that the pool's node has.
pub(super) fn sees(pool: &AzureVnetNode, destination: Ipv4Addr) -> Sees {
    decide(pool, destination).sees
}

struct Decision {
    sees: Sees,
    rule: String,
    config: String,
}

/// In the order of the chain that the agent keeps.
fn decide(pool: &AzureVnetNode, destination: Ipv4Addr) -> Decision {
    let spec = &pool.spec;
    let line = |field: &str| format!("AzureVnetConfig {}, spec.masquerade.{field}", spec.config.name);
    let rule = |rule: &str| format!("{EGRESS}: {rule}");
    let (masquerade, _refused) = Masquerade::parse(&spec.effective.masquerade);
    let (to, not_to, outside) = match &masquerade {
        Masquerade::Disabled => {
            let rule = format!("no rule: {EGRESS} is empty");
            return Decision { sees: Sees::Pod, rule, config: line("mode: Disabled") };
        }
        Masquerade::Only { to, ports: _ } => (to.clone(), vec![], false),
        Masquerade::OutsideVnet { to, not_to, ports: _ } => (to.clone(), not_to.clone(), true),
    };
    if destination == WIRESERVER {
        let config = "fixed: Azure's DNS knows who asks by the address".into();
        return Decision { sees: Sees::Pod, rule: rule(&format!("-d {WIRESERVER}/32 -j RETURN")), config };
    }
    if destination == IMDS {
        let config = "fixed: the metadata service answers the machine's own address only".into();
        return Decision { sees: Sees::Node, rule: rule(&format!("-d {IMDS}/32 -j MASQUERADE")), config };
    }
    if let Some(net) = holding(&to, destination) {
        let config = line(&format!("masqueradeCIDRs: {net}"));
        return Decision { sees: Sees::Node, rule: rule(&format!("-d {net} -j MASQUERADE")), config };
    }
    if !outside {
        return Decision {
            sees: Sees::Pod,
            rule: rule("no rule matches"),
            config: line("mode: Custom, and masqueradeCIDRs does not list it"),
        };
    }
    let (mut vnet, _ipv6) = parse_nets(&spec.node.vnet_cidrs);
    if vnet.is_empty() {
        let config = "none: the VNET's address spaces are not known yet, so nothing tells inside from outside".into();
        return Decision { sees: Sees::Pod, rule: rule("no rule matches"), config };
    }
    vnet.extend(spec.node.subnet_prefix.parse::<Ipv4Net>());
    if let Some(net) = holding(&not_to, destination) {
        let config = line(&format!("nonMasqueradeCIDRs: {net}"));
        return Decision { sees: Sees::Pod, rule: rule(&format!("-d {net} -j RETURN")), config };
    }
    if let Some(net) = holding(&vnet, destination) {
        let config = format!("{}: {net} is an address space of the VNET or of a peer", line("mode: VNet"));
        return Decision { sees: Sees::Pod, rule: rule(&format!("-d {net} -j RETURN")), config };
    }
    let config = format!("{}: outside of the VNET and its peers", line("mode: VNet"));
    Decision { sees: Sees::Node, rule: rule("-j MASQUERADE"), config }
}

/// The longest prefix that holds an address.
fn holding(nets: &[Ipv4Net], address: Ipv4Addr) -> Option<Ipv4Net> {
    nets.iter().filter(|net| net.contains(&address)).max_by_key(|net| net.prefix_len()).copied()
}

fn warn(pool: &AzureVnetNode, destination: Ipv4Addr, sees: Sees, notes: &mut Vec<String>) {
    let spec = &pool.spec;
    if destination == WIRESERVER {
        notes.push(format!("{GUARD} drops TCP ports 80 and 32526 of it, the host agent's; DNS on port 53 passes"));
    }
    if spec.addresses.iter().any(|at| at.contains(destination)) {
        notes.push(format!("the destination is a pod of the same node, {}: the packet does not leave it", name(&pool.metadata)));
    }
    let (mut inside, _) = parse_nets(&spec.node.vnet_cidrs);
    inside.extend(spec.node.subnet_prefix.parse::<Ipv4Net>());
    let private = destination.is_private() || destination.is_link_local() || destination == WIRESERVER;
    if sees == Sees::Pod && holding(&inside, destination).is_none() && !private {
        notes.push(
            "the internet: Azure translates only addresses that are its NIC's to public ones; a pod's own is one of these only with a \
                    NAT gateway or an outbound rule that covers it"
                .into(),
        );
    }
    if sees == Sees::Pod && destination != WIRESERVER {
        notes.push("security rules and routes apply to the pod's address as to a machine's".into());
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (who, snat) = match self.sees {
            Sees::Pod => ("the pod's own address", "not translated"),
            Sees::Node => ("the node's address", "translated (SNAT)"),
        };
        let seen = self.seen_address.map(|address| format!(", {address}")).unwrap_or_default();
        writeln!(f, "{} ({}, on {}) → {}", self.pod, self.source, self.node, self.destination)?;
        writeln!(f, "  sees    {who}{seen}: {snat}")?;
        writeln!(f, "  rule    {}", self.rule)?;
        writeln!(f, "  because {}", self.config)?;
        for note in &self.notes {
            writeln!(f, "  note    {note}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use azure_vnet_crds::{AzureVnetNodeSpec, config::MasqueradeMode};
    use proptest::prelude::*;

    use super::*;
    use crate::rules::{Forward, Policy, Table, desire};

    /// What the rules say, by walking the chain that the agent would install.
    fn by_the_rules(spec: &AzureVnetNodeSpec, destination: Ipv4Addr) -> Sees {
        let (mut vnet, _) = parse_nets(&spec.node.vnet_cidrs);
        if !vnet.is_empty() {
            vnet.extend(spec.node.subnet_prefix.parse::<Ipv4Net>());
        }
        let (masquerade, _) = Masquerade::parse(&spec.effective.masquerade);
        let pool = BTreeSet::from([Ipv4Addr::new(10, 0, 0, 9)]);
        let chains = desire(&Policy { pool, vnet, masquerade, forward: Forward::Leave });
        for rule in chains.get(Table::Nat, EGRESS).unwrap_or_default() {
            let net: Ipv4Net = rule.strip_prefix("-d ").map_or("0.0.0.0/0", |rest| rest.split(' ').next().unwrap()).parse().unwrap();
            if net.contains(&destination) {
                return if rule.contains("-j MASQUERADE") { Sees::Node } else { Sees::Pod };
            }
        }
        Sees::Pod
    }

    fn nets() -> impl Strategy<Value = Vec<String>> {
        proptest::collection::vec((0_u8..4, 0_u8..4, 8_u8..=32), 0..4).prop_map(|all| {
            all.into_iter().map(|(a, b, length)| Ipv4Net::new(Ipv4Addr::new(10, a, b, 0), length).unwrap().trunc().to_string()).collect()
        })
    }

    fn destination() -> impl Strategy<Value = Ipv4Addr> {
        prop_oneof![
            (0_u8..4, 0_u8..4, 0_u8..4).prop_map(|(a, b, c)| Ipv4Addr::new(10, a, b, c)),
            Just(WIRESERVER),
            Just(IMDS),
            Just(Ipv4Addr::new(1, 1, 1, 1)),
        ]
    }

    proptest! {
        #[test]
        fn an_explanation_says_what_the_installed_rules_do(
            to in nets(), not_to in nets(), vnet in nets(), mode in 0_u8..3, destination in destination(),
        ) {
            let mut spec = AzureVnetNodeSpec::default();
            spec.node.vnet_cidrs = vnet;
            spec.node.subnet_prefix = "10.0.0.0/24".into();
            spec.effective.masquerade.mode = [MasqueradeMode::VNet, MasqueradeMode::Custom, MasqueradeMode::Disabled][usize::from(mode)];
            spec.effective.masquerade.masquerade_cidrs = to;
            spec.effective.masquerade.non_masquerade_cidrs = not_to;
            let pool = AzureVnetNode::new("n", spec.clone());
            prop_assert_eq!(decide(&pool, destination).sees, by_the_rules(&spec, destination));
        }
    }

    #[test]
    fn destinations_are_addresses_pods_or_services() {
        assert_eq!("10.0.0.9".parse(), Ok(Target::Address(Ipv4Addr::new(10, 0, 0, 9))));
        assert_eq!("pod/web".parse(), Ok(Target::Pod(String::new(), "web".into())));
        assert_eq!("svc/kube-system/dns".parse(), Ok(Target::Service("kube-system".into(), "dns".into())));
        for text in ["", "example.com", "pod/", "node/a", "a/b/c/d", "fd00::1"] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
    }
}
