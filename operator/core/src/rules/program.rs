//! Which of the two iptables the node uses.

/// The iptables of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// Over `nf_tables`.
    Nft,
    /// The legacy kernel interface.
    Legacy,
}

/// What speaks for one of the two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// The kubelet's own mark (chain `KUBE-IPTABLES-HINT` or `KUBE-KUBELET-CANARY` in `mangle`).
    pub kubelet: bool,
    /// Rules in chains of others.
    pub rules: usize,
}

/// The program that the node uses: where the kubelet left its mark, else where more rules of others are. `None` while nothing tells.
#[must_use]
pub fn choose(nft: Evidence, legacy: Evidence) -> Option<Program> {
    match (nft.kubelet, legacy.kubelet) {
        (true, false) => Some(Program::Nft),
        (false, true) => Some(Program::Legacy),
        _ => match nft.rules.cmp(&legacy.rules) {
            std::cmp::Ordering::Greater => Some(Program::Nft),
            std::cmp::Ordering::Less => Some(Program::Legacy),
            std::cmp::Ordering::Equal => None,
        },
    }
}

/// Reads what a save program printed.
#[must_use]
pub fn evidence(saved: &str) -> Evidence {
    let kubelet = saved.lines().any(|line| line.starts_with(":KUBE-IPTABLES-HINT ") || line.starts_with(":KUBE-KUBELET-CANARY "));
    let rules = saved.lines().filter(|line| line.starts_with("-A ") && !line.contains("AZURE-VNET-")).count();
    Evidence { kubelet, rules }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kubelets_mark_counts_more_than_rules() {
        let marked = evidence("*mangle\n:KUBE-KUBELET-CANARY - [0:0]\nCOMMIT\n");
        let many = evidence("*nat\n-A POSTROUTING -j X\n-A POSTROUTING -j AZURE-VNET-MASQ\nCOMMIT\n");
        assert_eq!(many, Evidence { kubelet: false, rules: 1 });
        assert_eq!(choose(many, marked), Some(Program::Legacy));
        assert_eq!(choose(many, Evidence::default()), Some(Program::Nft));
        assert_eq!(choose(Evidence::default(), Evidence::default()), None);
    }
}
