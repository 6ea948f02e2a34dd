//! What our own chains should hold.

use std::{collections::BTreeSet, net::Ipv4Addr};

use ipnet::Ipv4Net;

use super::{Chains, EGRESS, FORWARD, Forward, GUARD, IMDS, MASQ, Masquerade, Policy, Ports, Table, WIRESERVER};

/// What our own chains should hold.
#[must_use]
pub fn desire(policy: &Policy) -> Chains {
    let Policy { pool, vnet, masquerade, forward } = policy;
    let blocks = aggregate(pool);
    let mut chains = Chains::default();
    let egress = egress(vnet, masquerade);
    let picked = if egress.is_empty() { vec![] } else { blocks.iter().map(|net| format!("-s {net} -j {EGRESS}")).collect() };
    chains.set(Table::Nat, MASQ, picked);
    chains.set(Table::Nat, EGRESS, egress);
    chains.set(Table::Mangle, GUARD, vec![format!("-d {WIRESERVER}/32 -p tcp -m multiport --dports 80,32526 -j DROP")]);
    chains.set(Table::Filter, FORWARD, accepted(&blocks, *forward));
    chains
}

/// The fewest prefixes that hold exactly these addresses.
#[must_use]
pub fn aggregate(pool: &BTreeSet<Ipv4Addr>) -> Vec<Ipv4Net> {
    let mut nets = Ipv4Net::aggregate(&pool.iter().copied().map(Ipv4Net::from).collect());
    nets.sort();
    nets
}

/// By destination: RETURN or MASQUERADE and nothing else (an ACCEPT would skip kube-proxy's own rules).
fn egress(vnet: &[Ipv4Net], masquerade: &Masquerade) -> Vec<String> {
    let (to, keep, rest, ports) = match masquerade {
        Masquerade::Disabled => return vec![],
        Masquerade::Only { to, ports } => (to, vec![], Rest::Pod, ports),
        // With no known address space nothing tells inside from outside: traffic inside the VNET must not lose its source.
        Masquerade::OutsideVnet { to, ports, .. } if vnet.is_empty() => (to, vec![], Rest::Pod, ports),
        Masquerade::OutsideVnet { to, not_to, ports } => (to, vnet.iter().chain(not_to).copied().collect(), Rest::Node, ports),
    };
    let keep: BTreeSet<Ipv4Net> = keep.into_iter().collect();
    let random = match ports {
        Ports::Kept => "",
        Ports::Random => " --random-fully",
    };
    // DNS of the wireserver knows the asker by its address; IMDS answers the primary address only.
    let mut rules = vec![format!("-d {WIRESERVER}/32 -j RETURN"), format!("-d {IMDS}/32 -j MASQUERADE{random}")];
    rules.extend(to.iter().map(|net| format!("{}-j MASQUERADE{random}", destination(*net))));
    rules.extend(keep.iter().map(|net| format!("{}-j RETURN", destination(*net))));
    match rest {
        Rest::Pod => {}
        Rest::Node => rules.push(format!("-j MASQUERADE{random}")),
    }
    rules
}

/// Whose address all other destinations see.
enum Rest {
    Pod,
    Node,
}

fn destination(net: Ipv4Net) -> String {
    if net.prefix_len() == 0 { String::new() } else { format!("-d {net} ") }
}

/// Connections under way first, by the pods' own links: the addresses are compared once a connection.
fn accepted(blocks: &[Ipv4Net], forward: Forward) -> Vec<String> {
    match forward {
        Forward::Leave => vec![],
        Forward::Accept if blocks.is_empty() => vec![],
        Forward::Accept => {
            let under_way = ["-i", "-o"].map(|side| format!("{side} azv+ -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"));
            let from = blocks.iter().map(|net| format!("-s {net} -j ACCEPT"));
            let to = blocks.iter().map(|net| format!("-d {net} -j ACCEPT"));
            under_way.into_iter().chain(from).chain(to).collect()
        }
    }
}
