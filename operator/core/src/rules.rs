//! The node's iptables rules as values: what our own chains should hold, and the one restore transaction that gets there.
//!
//! It knows the text that `iptables -S` prints and `iptables-restore` reads, and runs neither. Nothing outside the chains
//! named here is ever named in a plan, but for the jumps into them.
//!
//! Pool addresses are matched as the fewest exact prefixes that hold them and nothing else: `FORWARD` sees every packet, an
//! ipset needs a binary that the node may lack, and an interface match (`azv+`) would also accept forged sources.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::Ipv4Addr,
};

use azure_vnet_crds::config::{MasqueradeMode, MasqueradeSpec};
use ipnet::Ipv4Net;

/// Chain of `nat` that picks the pool's packets.
pub const MASQ: &str = "AZURE-VNET-MASQ";
/// Chain of `nat` that decides by destination.
pub const EGRESS: &str = "AZURE-VNET-EGRESS";
/// Chain of `filter` that accepts forwarded pod traffic.
pub const FORWARD: &str = "AZURE-VNET-FORWARD";
/// Chain of `filter` that keeps pods off the host agent's ports of the wireserver.
pub const GUARD: &str = "AZURE-VNET-GUARD";
/// Azure's wireserver, which is also DNS for pods and the source of load balancer probes.
pub const WIRESERVER: Ipv4Addr = Ipv4Addr::new(168, 63, 129, 16);
/// Azure's instance metadata service, which answers a machine's primary address only.
pub const IMDS: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

/// What the rules depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Every address that a pod may have as its source.
    pub pool: BTreeSet<Ipv4Addr>,
    /// Address spaces of the VNET and its peers.
    pub vnet: Vec<Ipv4Net>,
    /// Which destinations see the node's address.
    pub masquerade: Masquerade,
    /// Whether forwarded pod traffic is accepted.
    pub forward: Forward,
}

/// Which destinations see the node's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Masquerade {
    /// None.
    Disabled,
    /// Those listed, and IMDS.
    Only {
        /// Destinations that see the node's address.
        to: Vec<Ipv4Net>,
        /// How source ports are chosen.
        ports: Ports,
    },
    /// All outside the VNET.
    OutsideVnet {
        /// Destinations that see the node's address even inside the VNET.
        to: Vec<Ipv4Net>,
        /// Further destinations that see the pod's address.
        not_to: Vec<Ipv4Net>,
        /// How source ports are chosen.
        ports: Ports,
    },
}

/// How a masqueraded connection's source port is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ports {
    /// Kept where possible.
    Kept,
    /// At random, which avoids lost packets when many connections race for one port.
    Random,
}

/// Whether forwarded pod traffic is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forward {
    /// In our own chain.
    Accept,
    /// Left to others.
    Leave,
}

impl Masquerade {
    /// Reads the users' words; what is no IPv4 prefix comes back beside it.
    #[must_use]
    pub fn parse(spec: &MasqueradeSpec) -> (Self, Vec<String>) {
        let MasqueradeSpec { mode, non_masquerade_cidrs, masquerade_cidrs, random_fully, backend: _, discover_peerings: _ } = spec;
        let (to, mut refused) = parse_nets(masquerade_cidrs);
        let (not_to, refused_not_to) = parse_nets(non_masquerade_cidrs);
        refused.extend(refused_not_to);
        let ports = if *random_fully { Ports::Random } else { Ports::Kept };
        let parsed = match mode {
            MasqueradeMode::Disabled => Self::Disabled,
            MasqueradeMode::Custom => Self::Only { to, ports },
            MasqueradeMode::VNet => Self::OutsideVnet { to, not_to, ports },
        };
        (parsed, refused)
    }
}

/// Parses prefixes; what is none comes back as the second list.
#[must_use]
pub fn parse_nets(texts: &[String]) -> (Vec<Ipv4Net>, Vec<String>) {
    let (mut nets, mut refused) = (vec![], vec![]);
    for text in texts {
        match text.parse::<Ipv4Net>() {
            Ok(net) => nets.push(net.trunc()),
            Err(_) => refused.push(text.clone()),
        }
    }
    (nets, refused)
}

/// An iptables table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// `nat`.
    Nat,
    /// `filter`.
    Filter,
}

impl Table {
    /// All that we touch.
    pub const ALL: [Self; 2] = [Self::Nat, Self::Filter];

    /// Its name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nat => "nat",
            Self::Filter => "filter",
        }
    }

    /// Our chains in it.
    #[must_use]
    pub const fn chains(self) -> &'static [&'static str] {
        match self {
            Self::Nat => &[MASQ, EGRESS],
            Self::Filter => &[GUARD, FORWARD],
        }
    }

    /// The kernel's chain that jumps to ours.
    #[must_use]
    pub const fn base(self) -> &'static str {
        match self {
            Self::Nat => "POSTROUTING",
            Self::Filter => "FORWARD",
        }
    }

    /// Our chains that the base chain jumps to. The guard stands first, since a rule that accepts before it (kube-proxy accepts what it
    /// marked) would open the wireserver; the others stand last and leave room for everybody else's.
    const fn jumps(self) -> &'static [(&'static str, Place)] {
        match self {
            Self::Nat => &[(MASQ, Place::Last)],
            Self::Filter => &[(GUARD, Place::First), (FORWARD, Place::Last)],
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    First,
    Last,
}

/// Chains by table and name, each a list of rules as `iptables -S` prints them, without `-A <chain>`. A chain that does not exist is not in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chains(BTreeMap<(Table, String), Vec<String>>);

impl Chains {
    /// Records what `iptables -S <chain>` printed.
    pub fn record(&mut self, table: Table, chain: &str, printed: &str) {
        let prefix = format!("-A {chain} ");
        let rules = printed.lines().filter_map(|line| line.trim_end().strip_prefix(&prefix)).map(str::to_owned).collect();
        self.0.insert((table, chain.to_owned()), rules);
    }

    /// Records what `iptables-save` printed of a table, as far as it is ours or jumps to ours.
    pub fn record_table(&mut self, table: Table, saved: &str) {
        for chain in std::iter::once(&table.base()).chain(table.chains()) {
            let declared = format!(":{chain} ");
            if saved.lines().any(|line| line.starts_with(&declared)) {
                self.record(table, chain, saved);
            }
        }
    }

    /// The rules of a chain, `None` when there is no such chain.
    #[must_use]
    pub fn get(&self, table: Table, chain: &str) -> Option<&[String]> {
        self.0.get(&(table, chain.to_owned())).map(Vec::as_slice)
    }

    fn set(&mut self, table: Table, chain: &str, rules: Vec<String>) {
        self.0.insert((table, chain.to_owned()), rules);
    }
}

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
    chains.set(Table::Filter, GUARD, vec![format!("-d {WIRESERVER}/32 -p tcp -m multiport --dports 80,32526 -j DROP")]);
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

/// One `iptables-restore --noflush` transaction; empty when nothing differs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What the restore program reads.
    pub restore: String,
    /// What differs, for people: `nat/AZURE-VNET-MASQ`.
    pub differs: Vec<String>,
}

impl Plan {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.restore.is_empty()
    }
}

/// Plans from what is there to what should be. Only tables that differ are written; each is one commit of the kernel, so no packet sees half of it.
#[must_use]
pub fn plan(observed: &Chains, desired: &Chains) -> Plan {
    let mut plan = Plan::default();
    for table in Table::ALL {
        let changed = changed(table, observed, desired);
        let jumps = jumps(table, observed);
        if changed.is_empty() && jumps.is_empty() {
            continue;
        }
        plan.differs.extend(changed.iter().map(|(chain, _)| format!("{}/{chain}", table.name())));
        if !jumps.is_empty() {
            plan.differs.push(format!("{}/{}", table.name(), table.base()));
        }
        write_table(&mut plan.restore, table, &changed, &jumps);
    }
    plan
}

fn changed<'a>(table: Table, observed: &Chains, desired: &'a Chains) -> Vec<(&'static str, &'a [String])> {
    let wanted = table.chains().iter().filter_map(|chain| desired.get(table, chain).map(|rules| (*chain, rules)));
    wanted.filter(|(chain, rules)| observed.get(table, chain) != Some(*rules)).collect()
}

/// Makes each jump stand exactly once. Its place is chosen when it is made and not fought over later.
fn jumps(table: Table, observed: &Chains) -> Vec<String> {
    let present = observed.get(table, table.base()).unwrap_or_default();
    let mut lines = vec![];
    for (chain, place) in table.jumps() {
        let jump = format!("-j {chain}");
        match (present.iter().filter(|rule| **rule == jump).count(), place) {
            (0, Place::First) => lines.push(format!("-I {} 1 {jump}", table.base())),
            (0, Place::Last) => lines.push(format!("-A {} {jump}", table.base())),
            (count, _) => lines.extend(std::iter::repeat_n(format!("-D {} {jump}", table.base()), count.saturating_sub(1))),
        }
    }
    lines
}

/// Rules of others that come before ours and decide about pods' packets in their place. They stay: whose they are is not for us to know.
#[must_use]
pub fn foreign(observed: &Chains, pool: &BTreeSet<Ipv4Addr>) -> Vec<String> {
    let decides = |table: Table, rule: &Foreign<'_>| match table {
        Table::Nat => matches!(rule.target, "MASQUERADE" | "SNAT" | "NETMAP" | "ACCEPT" | "IP-MASQ-AGENT"),
        Table::Filter => matches!(rule.target, "DROP" | "REJECT"),
    };
    let mut found = vec![];
    for table in Table::ALL {
        let ours = match table {
            Table::Nat => format!("-j {MASQ}"),
            Table::Filter => format!("-j {FORWARD}"),
        };
        let before = observed.get(table, table.base()).unwrap_or_default().iter().take_while(|rule| **rule != ours);
        let decisive = before.filter(|text| Foreign::read(text).is_some_and(|rule| decides(table, &rule) && rule.concerns(pool)));
        found.extend(decisive.map(|rule| format!("{}/{}: {rule}", table.name(), table.base())));
    }
    found
}

/// What matters of another's rule.
struct Foreign<'a> {
    target: &'a str,
    source: Option<Ipv4Net>,
    destination: Option<Ipv4Net>,
}

impl<'a> Foreign<'a> {
    /// Reads a rule; `None` for one that asks for more than addresses, as a mark or a state: whom it means cannot be told.
    fn read(rule: &'a str) -> Option<Self> {
        let words: Vec<&str> = rule.split(' ').collect();
        let is_narrow = words.windows(2).any(|pair| matches!(pair, ["-m", "mark" | "conntrack" | "state" | "set" | "addrtype"]));
        let value = |flag: &str| {
            let at = words.iter().position(|word| *word == flag)?;
            let is_negated = at.checked_sub(1).and_then(|at| words.get(at)).is_some_and(|word| *word == "!");
            words.get(at + 1).copied().filter(|_| !is_negated)
        };
        let net = |flag: &str| value(flag).and_then(|text| text.parse().ok());
        let target = value("-j").filter(|_| !is_narrow)?;
        Some(Self { target, source: net("-s"), destination: net("-d") })
    }

    /// Whether it is about pods: rules for a single other destination are somebody's intention.
    fn concerns(&self, pool: &BTreeSet<Ipv4Addr>) -> bool {
        let holds = |net: &Option<Ipv4Net>| net.is_none_or(|net| pool.iter().any(|address| net.contains(address)));
        holds(&self.source) && holds(&self.destination)
    }
}

/// Plans towards nothing of ours: for the back end that the node does not use, and for uninstalling.
#[must_use]
pub fn withdraw(observed: &Chains) -> Plan {
    let mut plan = Plan::default();
    for table in Table::ALL {
        let present = observed.get(table, table.base()).unwrap_or_default();
        let ours = |rule: &&String| table.jumps().iter().any(|(chain, _)| **rule == format!("-j {chain}"));
        let mut lines: Vec<String> = present.iter().filter(ours).map(|rule| format!("-D {} {rule}", table.base())).collect();
        let chains: Vec<_> = table.chains().iter().filter(|chain| observed.get(table, chain).is_some()).copied().collect();
        lines.extend(chains.iter().map(|chain| format!("-X {chain}")));
        if lines.is_empty() {
            continue;
        }
        plan.differs.extend(chains.iter().map(|chain| format!("{}/{chain}", table.name())));
        let emptied: Vec<_> = chains.iter().map(|chain| (*chain, &[][..])).collect();
        write_table(&mut plan.restore, table, &emptied, &lines);
    }
    plan
}

/// Rules of others that hide what is forwarded behind the node: as Docker and whoever shares a way out make them. kube-proxy's are not among
/// them, which stand in chains of its own and are there on every node.
#[must_use]
pub fn hidden_by_others(observed: &Chains) -> Vec<String> {
    let hides = |rule: &&String| ["-j MASQUERADE", "-j SNAT"].iter().any(|target| rule.contains(target));
    let rules = observed.get(Table::Nat, Table::Nat.base()).unwrap_or_default().iter().filter(hides);
    rules.map(|rule| format!("{} {rule}", Table::Nat.base())).collect()
}

/// A chain's declaration empties it under `--noflush`; every other chain stays as it is.
fn write_table(out: &mut String, table: Table, chains: &[(&str, &[String])], lines: &[String]) {
    let written = (|| {
        writeln!(out, "*{}", table.name())?;
        for (chain, _) in chains {
            writeln!(out, ":{chain} - [0:0]")?;
        }
        for (chain, rules) in chains {
            for rule in *rules {
                writeln!(out, "-A {chain} {rule}")?;
            }
        }
        for line in lines {
            writeln!(out, "{line}")?;
        }
        writeln!(out, "COMMIT")
    })();
    debug_assert!(written.is_ok(), "writing to a string does not fail");
}

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
    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    fn policy(pool: &[&str]) -> Policy {
        Policy {
            pool: pool.iter().map(|address| address.parse().unwrap()).collect(),
            vnet: vec![net("10.240.0.0/16"), net("10.50.0.0/16")],
            masquerade: Masquerade::OutsideVnet {
                to: vec![net("10.50.9.0/24")],
                not_to: vec![net("192.168.0.0/16")],
                ports: Ports::Random,
            },
            forward: Forward::Accept,
        }
    }

    /// What the kernel holds after a transaction, as far as our plans go.
    fn apply(before: &Chains, plan: &Plan) -> Chains {
        let mut after = before.clone();
        let mut table = Table::Nat;
        for line in plan.restore.lines() {
            let mut words = line.splitn(3, ' ');
            match (words.next().unwrap(), words.next(), words.next()) {
                ("*nat", ..) => table = Table::Nat,
                ("*filter", ..) => table = Table::Filter,
                ("COMMIT", ..) => {}
                ("-A", Some(chain), Some(rule)) => after.0.get_mut(&(table, chain.into())).unwrap().push(rule.into()),
                ("-I", Some(chain), Some(rule)) => {
                    after.0.get_mut(&(table, chain.into())).unwrap().insert(0, rule.strip_prefix("1 ").unwrap().into());
                }
                ("-D", Some(chain), Some(rule)) => {
                    let rules = after.0.get_mut(&(table, chain.into())).unwrap();
                    let at = rules.iter().position(|present| present == rule).unwrap();
                    rules.remove(at);
                }
                ("-X", Some(chain), None) => assert_eq!(after.0.remove(&(table, chain.into())), Some(vec![])),
                (declared, ..) => after.set(table, declared.strip_prefix(':').unwrap(), vec![]),
            }
        }
        after
    }

    fn kernel(rules: &[String]) -> Chains {
        let mut chains = Chains::default();
        for table in Table::ALL {
            chains.set(table, table.base(), rules.to_vec());
        }
        chains
    }

    #[test]
    fn only_rules_that_stand_in_the_kernels_own_chain_hide_what_others_forward() {
        let mut observed = Chains::default();
        let saved = "*nat\n:POSTROUTING ACCEPT [0:0]\n:KUBE-POSTROUTING - [0:0]\n-A POSTROUTING -j KUBE-POSTROUTING\n\
                     -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE\n-A POSTROUTING -o eth1 -j SNAT --to-source 192.0.2.1\n\
                     -A KUBE-POSTROUTING -j MASQUERADE --random-fully\nCOMMIT\n";
        observed.record_table(Table::Nat, saved);
        assert_eq!(
            hidden_by_others(&observed),
            ["POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE", "POSTROUTING -o eth1 -j SNAT --to-source 192.0.2.1"]
        );
    }

    #[test]
    fn the_first_transaction_reads_like_this() {
        let plan = plan(&kernel(&["-j KUBE-X".into()]), &desire(&policy(&["10.240.0.8", "10.240.0.9", "10.240.0.12"])));
        let expected = "*nat
:AZURE-VNET-MASQ - [0:0]
:AZURE-VNET-EGRESS - [0:0]
-A AZURE-VNET-MASQ -s 10.240.0.8/31 -j AZURE-VNET-EGRESS
-A AZURE-VNET-MASQ -s 10.240.0.12/32 -j AZURE-VNET-EGRESS
-A AZURE-VNET-EGRESS -d 168.63.129.16/32 -j RETURN
-A AZURE-VNET-EGRESS -d 169.254.169.254/32 -j MASQUERADE --random-fully
-A AZURE-VNET-EGRESS -d 10.50.9.0/24 -j MASQUERADE --random-fully
-A AZURE-VNET-EGRESS -d 10.50.0.0/16 -j RETURN
-A AZURE-VNET-EGRESS -d 10.240.0.0/16 -j RETURN
-A AZURE-VNET-EGRESS -d 192.168.0.0/16 -j RETURN
-A AZURE-VNET-EGRESS -j MASQUERADE --random-fully
-A POSTROUTING -j AZURE-VNET-MASQ
COMMIT
*filter
:AZURE-VNET-GUARD - [0:0]
:AZURE-VNET-FORWARD - [0:0]
-A AZURE-VNET-GUARD -d 168.63.129.16/32 -p tcp -m multiport --dports 80,32526 -j DROP
-A AZURE-VNET-FORWARD -i azv+ -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A AZURE-VNET-FORWARD -o azv+ -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A AZURE-VNET-FORWARD -s 10.240.0.8/31 -j ACCEPT
-A AZURE-VNET-FORWARD -s 10.240.0.12/32 -j ACCEPT
-A AZURE-VNET-FORWARD -d 10.240.0.8/31 -j ACCEPT
-A AZURE-VNET-FORWARD -d 10.240.0.12/32 -j ACCEPT
-I FORWARD 1 -j AZURE-VNET-GUARD
-A FORWARD -j AZURE-VNET-FORWARD
COMMIT
";
        assert_eq!(plan.restore, expected);
    }

    #[test]
    fn pk4_the_guard_stands_first_and_the_accepting_jump_last() {
        let desired = desire(&policy(&["10.240.0.8"]));
        let before = kernel(&["-j KUBE-FORWARD".into()]);
        let after = apply(&before, &plan(&before, &desired));
        assert_eq!(after.get(Table::Filter, "FORWARD").unwrap(), ["-j AZURE-VNET-GUARD", "-j KUBE-FORWARD", "-j AZURE-VNET-FORWARD"]);
    }

    #[test]
    fn sc2_of_a_table_only_our_chains_and_those_that_jump_to_them_are_kept() {
        let mut chains = Chains::default();
        let saved = "*nat\n:POSTROUTING ACCEPT [9:7]\n:KUBE-SVC - [0:0]\n:AZURE-VNET-EGRESS - [0:0]\n-A POSTROUTING -j KUBE-POSTROUTING
-A POSTROUTING -j AZURE-VNET-MASQ\n-A KUBE-SVC -j RETURN\nCOMMIT\n";
        chains.record_table(Table::Nat, saved);
        assert_eq!(chains.get(Table::Nat, "POSTROUTING").unwrap(), ["-j KUBE-POSTROUTING", "-j AZURE-VNET-MASQ"]);
        assert_eq!((chains.get(Table::Nat, EGRESS), chains.get(Table::Nat, MASQ)), (Some(&[][..]), None));
        assert_eq!(chains.0.len(), 2);
    }

    #[test]
    fn a_doubled_jump_is_made_single() {
        let desired = desire(&policy(&["10.240.0.8"]));
        let before = kernel(&["-j AZURE-VNET-MASQ".into(), "-j AZURE-VNET-MASQ".into()]);
        let after = apply(&before, &plan(&before, &desired));
        assert_eq!(after.get(Table::Nat, "POSTROUTING").unwrap(), ["-j AZURE-VNET-MASQ"]);
    }

    #[test]
    fn without_a_known_address_space_nothing_but_what_is_listed_is_masqueraded() {
        let policy = Policy { vnet: vec![], ..policy(&["10.240.0.8"]) };
        let chains = desire(&policy);
        let rules = chains.get(Table::Nat, EGRESS).unwrap();
        assert!(rules.iter().all(|rule| rule.starts_with("-d ")), "{rules:?}");
    }

    #[test]
    fn others_rules_that_decide_about_pods_before_ours_are_named() {
        let mut chains = Chains::default();
        let nat = [
            "-m comment --comment x -j KUBE-POSTROUTING",
            "-s 172.17.0.0/16 ! -o docker0 -j MASQUERADE",
            "! -d 10.0.0.0/8 -m comment --comment kubenet -j MASQUERADE",
            "-m mark --mark 0x4000/0x4000 -j MASQUERADE",
            "-d 192.0.2.1/32 -j ACCEPT",
            "-s 10.240.0.0/16 -j SNAT --to-source 10.0.0.4",
            "-j AZURE-VNET-MASQ",
            "-j MASQUERADE",
        ];
        chains.set(Table::Nat, "POSTROUTING", nat.map(str::to_owned).to_vec());
        chains.set(
            Table::Filter,
            "FORWARD",
            vec!["-d 168.63.129.16/32 -j DROP".into(), "-j REJECT".into(), "-j AZURE-VNET-FORWARD".into()],
        );
        let expected = [
            "nat/POSTROUTING: ! -d 10.0.0.0/8 -m comment --comment kubenet -j MASQUERADE",
            "nat/POSTROUTING: -s 10.240.0.0/16 -j SNAT --to-source 10.0.0.4",
            "filter/FORWARD: -j REJECT",
        ];
        assert_eq!(foreign(&chains, &policy(&["10.240.0.8"]).pool), expected);
        assert_eq!(foreign(&chains, &BTreeSet::new()), [expected[0], expected[2]]);
    }

    #[test]
    fn disabled_masquerading_leaves_empty_chains() {
        let chains = desire(&Policy { masquerade: Masquerade::Disabled, ..policy(&["10.240.0.8"]) });
        assert_eq!((chains.get(Table::Nat, MASQ), chains.get(Table::Nat, EGRESS)), (Some(&[][..]), Some(&[][..])));
    }

    #[test]
    fn the_users_prefixes_are_read_and_what_is_none_is_named() {
        let spec = MasqueradeSpec { non_masquerade_cidrs: vec!["10.1.2.3/8".into(), "fd00::/8".into()], ..MasqueradeSpec::default() };
        let (parsed, refused) = Masquerade::parse(&spec);
        assert_eq!(parsed, Masquerade::OutsideVnet { to: vec![], not_to: vec![net("10.0.0.0/8")], ports: Ports::Random });
        assert_eq!(refused, ["fd00::/8"]);
    }

    #[test]
    fn the_kubelets_mark_counts_more_than_rules() {
        let marked = evidence("*mangle\n:KUBE-KUBELET-CANARY - [0:0]\nCOMMIT\n");
        let many = evidence("*nat\n-A POSTROUTING -j X\n-A POSTROUTING -j AZURE-VNET-MASQ\nCOMMIT\n");
        assert_eq!(many, Evidence { kubelet: false, rules: 1 });
        assert_eq!(choose(many, marked), Some(Program::Legacy));
        assert_eq!(choose(many, Evidence::default()), Some(Program::Nft));
        assert_eq!(choose(Evidence::default(), Evidence::default()), None);
    }

    fn any_policy() -> impl Strategy<Value = Policy> {
        let address = any::<u8>().prop_map(|low| Ipv4Addr::new(10, 240, 0, low));
        let nets = || proptest::collection::vec((any::<u32>(), 0_u8..=32), 0..3);
        let nets =
            move || nets().prop_map(|nets| nets.into_iter().map(|(bits, len)| Ipv4Net::new(bits.into(), len).unwrap().trunc()).collect());
        let ports = prop_oneof![Just(Ports::Kept), Just(Ports::Random)];
        let masquerade = (nets(), nets(), ports, 0..3).prop_map(|(to, not_to, ports, kind)| match kind {
            0 => Masquerade::Disabled,
            1 => Masquerade::Only { to, ports },
            _ => Masquerade::OutsideVnet { to, not_to, ports },
        });
        let forward = prop_oneof![Just(Forward::Accept), Just(Forward::Leave)];
        (proptest::collection::btree_set(address, 0..40), nets(), masquerade, forward)
            .prop_map(|(pool, vnet, masquerade, forward)| Policy { pool, vnet, masquerade, forward })
    }

    proptest! {
        #[test]
        fn applying_reaches_the_desired_state_and_planning_again_is_empty(
            first in any_policy(), second in any_policy(), foreign in proptest::collection::vec("-j [A-Z]{3,8}", 0..4)
        ) {
            let (first, second) = (desire(&first), desire(&second));
            let start = kernel(&foreign);
            let middle = apply(&start, &plan(&start, &first));
            let end = apply(&middle, &plan(&middle, &second));
            prop_assert!(plan(&end, &second).is_empty());
            for table in Table::ALL {
                let kept: Vec<_> = end.get(table, table.base()).unwrap().iter().filter(|rule| !rule.contains("AZURE-VNET")).cloned().collect();
                prop_assert_eq!(&kept, &foreign);
            }
            prop_assert_eq!(apply(&end, &withdraw(&end)), start);
        }

        #[test]
        fn pk5_the_nat_chains_only_return_or_masquerade_and_only_for_the_pool(policy in any_policy()) {
            let chains = desire(&policy);
            for rule in chains.get(Table::Nat, EGRESS).unwrap() {
                let target = rule.rsplit("-j ").next().unwrap();
                prop_assert!(target == "RETURN" || target.starts_with("MASQUERADE"), "{}", rule);
            }
            for rule in chains.get(Table::Nat, MASQ).unwrap() {
                let source: Ipv4Net = rule.strip_prefix("-s ").unwrap().split(' ').next().unwrap().parse().unwrap();
                prop_assert!(source.hosts().all(|address| policy.pool.contains(&address)));
            }
        }

        #[test]
        fn prefixes_hold_exactly_the_pool(pool in proptest::collection::btree_set(any::<u8>().prop_map(|low| Ipv4Addr::new(10, 0, 0, low)), 0..256)) {
            let held: BTreeSet<Ipv4Addr> = aggregate(&pool).into_iter().flat_map(|net| {
                (u32::from(net.network())..=u32::from(net.broadcast())).map(Ipv4Addr::from)
            }).collect();
            prop_assert_eq!(held, pool);
        }
    }
}
