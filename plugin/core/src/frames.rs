//! The rules for the frames of bridged pods, as values: their text is how they are known again. Nothing here touches a kernel.
//!
//! Three chains of the kernel's `nat` table for bridges are ours: network rules, pods' rules, and rules for what leaves. So is a table of IPv4, with
//! a chain for networks and one for pods, for what services lead from pod to pod.

use std::{collections::BTreeSet, fmt, net::IpAddr, net::Ipv4Addr};

use crate::{
    attachment::{Attachment, IfName},
    wiring::{FABRIC_MAC, HOST_LINK_PREFIX, Mac},
};

/// Where the frames of a network's pods go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frames {
    /// To each other directly.
    Direct,
    /// All but those to the host to the fabric, which applies its rules.
    ToFabric,
}

impl Frames {
    /// Where the frames of a pod that is there go, by its rules.
    #[must_use]
    pub fn of_pod(attachment: &Attachment, port: &IfName, observed: &[ObservedRule]) -> Self {
        let (tag, rule) = (Holder::Pod(attachment.clone()).tag(), Rule::ToFabric { port: port.clone() }.to_string());
        let to_fabric = |there: &ObservedRule| there.comment.tag == tag && there.comment.rule == rule;
        if observed.iter().any(to_fabric) { Self::ToFabric } else { Self::Direct }
    }
}

/// The hardware address that a pod got, by its rules: later plugins may have changed its link's (safety rule CM5).
#[must_use]
pub fn mac_of_pod(attachment: &Attachment, observed: &[ObservedRule]) -> Option<Mac> {
    let tag = Holder::Pod(attachment.clone()).tag();
    // What arrives for a pod gets its hardware address; what it sends, another.
    let mut arriving = observed.iter().filter(|there| there.comment.tag == tag && there.comment.rule.starts_with("-p IPv"));
    arriving.find_map(|there| there.comment.rule.split_once("--to-dst ")?.1.split(' ').next()?.parse().ok())
}

/// The addresses that the rules of pods name of whom nobody knows, but for those that the rules of `known` pods name too.
#[must_use]
pub fn left_by_strays(observed: &[ObservedRule], known: &BTreeSet<Attachment>) -> BTreeSet<IpAddr> {
    let known: BTreeSet<String> = known.iter().map(|attachment| Holder::Pod(attachment.clone()).tag()).collect();
    let of_pods = observed.iter().filter(|rule| rule.chain.is_of_pods());
    let (kept, strays): (Vec<_>, Vec<_>) = of_pods.partition(|rule| known.contains(&rule.comment.tag));
    let addresses = |rules: Vec<&ObservedRule>| rules.into_iter().filter_map(|rule| rule.comment.address).collect::<BTreeSet<_>>();
    &addresses(strays) - &addresses(kept)
}

/// Whether an address that strays had may be another pod's by now: a rule that was not `seen` names it, or one of the `bridged` pods has no rules yet,
/// of whose addresses its link tells the first only.
#[must_use]
pub fn may_be_anothers(address: IpAddr, bridged: &[Attachment], seen: &[ObservedRule], now: &[ObservedRule]) -> bool {
    let is_named = now.iter().any(|rule| rule.chain == Chain::Pods && rule.comment.address == Some(address) && !seen.contains(rule));
    let has_rules = |pod: &Attachment| {
        let tag = Holder::Pod(pod.clone()).tag();
        now.iter().any(|rule| rule.comment.tag == tag)
    };
    is_named || !bridged.iter().all(has_rules)
}

/// A chain of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Chain {
    /// The kernel's, for what arrives at a port.
    Arriving,
    /// The kernel's, for what leaves by a port.
    Leaving,
    /// Ours: rules of networks.
    Network,
    /// Ours: rules of pods. After those of networks.
    Pods,
    /// Ours: rules of networks for what leaves.
    Out,
    /// Ours, of IPv4: rules of networks for what is sent on from one pod to another under a service's address.
    Services,
    /// Ours, of IPv4: rules of pods for the same.
    PodServices,
}

impl Chain {
    /// All, with the kernel's own first.
    pub const ALL: [Self; 7] = [Self::Arriving, Self::Leaving, Self::Network, Self::Pods, Self::Out, Self::Services, Self::PodServices];

    /// Its name in the table.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Arriving => "PREROUTING",
            Self::Leaving => "POSTROUTING",
            Self::Network => "AZURE-VNET",
            Self::Pods => "AZURE-VNET-PODS",
            Self::Out => "AZURE-VNET-OUT",
            Self::Services => "services",
            Self::PodServices => "services-pods",
        }
    }

    /// Whether others have rules in it too.
    #[must_use]
    pub fn is_the_kernels(self) -> bool {
        match self {
            Self::Arriving | Self::Leaving => true,
            Self::Network | Self::Pods | Self::Out | Self::Services | Self::PodServices => false,
        }
    }

    /// Whether its rules are those of pods: as many as there are pods.
    #[must_use]
    pub fn is_of_pods(self) -> bool {
        match self {
            Self::Pods | Self::PodServices => true,
            Self::Arriving | Self::Leaving | Self::Network | Self::Out | Self::Services => false,
        }
    }

    /// Whether new rules go before those that are there. Of two for one address the newer counts, and what others left in the kernel's own
    /// chains (the plugins before these, say) must not come first.
    #[must_use]
    pub fn newest_first(self) -> bool {
        match self {
            Self::Arriving | Self::Leaving | Self::Pods => true,
            Self::Network | Self::Out | Self::Services | Self::PodServices => false,
        }
    }
}

/// What a rule looks at and does; printed as `ebtables` writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Goes on in a chain of ours.
    Jump(Chain),
    /// ARP for this address, from a pod or from anywhere, is answered with this hardware address.
    AnswerArp {
        /// Whether only pods are answered.
        pods_only: bool,
        /// The address.
        address: Ipv4Addr,
        /// What is answered.
        mac: Mac,
    },
    /// ARP replies from the uplink go to all ports: the pods asked under the uplink's hardware address.
    SpreadArpReplies {
        /// The uplink.
        uplink: IfName,
    },
    /// Packets of pods to this address are the host's.
    ToHost {
        /// The address.
        address: IpAddr,
    },
    /// Packets from the uplink to this address get the pod's hardware address.
    ToPod {
        /// The uplink.
        uplink: IfName,
        /// The address.
        address: IpAddr,
        /// The pod's.
        mac: Mac,
    },
    /// Whatever a pod sends to one receiver goes to the fabric. What it asks all, the host may answer.
    ToFabric {
        /// The pod's port.
        port: IfName,
    },
    /// What a service's address led from a pod to a pod comes from the host: else the answer would go to the fabric, under an address that is
    /// not the pod's (safety rule PK3).
    MasqueradeServices,
    /// What a service's address led from a pod that the host routes for to this bridged one comes from the host: else the answer would leave by the
    /// uplink, under an address that is not the pod's (safety rule PK3).
    MasqueradeRouted {
        /// The bridged pod's address.
        address: Ipv4Addr,
    },
    /// What leaves by the uplink has its hardware address, also within ARP.
    FromUplink {
        /// The uplink.
        uplink: IfName,
        /// Its hardware address.
        mac: Mac,
    },
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Jump(chain) => write!(f, "-j {}", chain.as_str()),
            Self::AnswerArp { pods_only, address, mac } => {
                let from = if *pods_only { "-i az+ " } else { "" };
                write!(f, "-p ARP {from}--arp-op Request --arp-ip-dst {address} -j arpreply --arpreply-mac {mac} --arpreply-target DROP")
            }
            Self::SpreadArpReplies { uplink } => {
                write!(f, "-p ARP -i {uplink} --arp-op Reply -j dnat --to-dst ff:ff:ff:ff:ff:ff --dnat-target ACCEPT")
            }
            Self::ToHost { address: IpAddr::V4(address) } => {
                write!(f, "-p IPv4 -i az+ --ip-dst {address} -j redirect --redirect-target ACCEPT")
            }
            Self::ToHost { address: IpAddr::V6(address) } => {
                write!(f, "-p IPv6 -i az+ --ip6-dst {address} -j redirect --redirect-target ACCEPT")
            }
            Self::ToPod { uplink, address: IpAddr::V4(address), mac } => {
                write!(f, "-p IPv4 -i {uplink} --ip-dst {address} -j dnat --to-dst {mac} --dnat-target ACCEPT")
            }
            Self::ToPod { uplink, address: IpAddr::V6(address), mac } => {
                write!(f, "-p IPv6 -i {uplink} --ip6-dst {address} -j dnat --to-dst {mac} --dnat-target ACCEPT")
            }
            Self::ToFabric { port } => write!(f, "-d Unicast -i {port} -j dnat --to-dst {FABRIC_MAC} --dnat-target ACCEPT"),
            Self::MasqueradeServices => {
                f.write_str("-m conntrack --ctstate DNAT -m physdev --physdev-is-bridged --physdev-in az+ --physdev-out az+ -j MASQUERADE")
            }
            Self::MasqueradeRouted { address } => {
                write!(f, "-m conntrack --ctstate DNAT -i {HOST_LINK_PREFIX}+ -d {address} -j MASQUERADE")
            }
            Self::FromUplink { uplink, mac } => {
                write!(f, "-s Unicast -o {uplink} -j snat --to-src {mac} --snat-arp --snat-target ACCEPT")
            }
        }
    }
}

/// A rule of a pod, and the pod's address that it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodRule {
    /// The address.
    pub address: IpAddr,
    /// The rule.
    pub rule: Rule,
}

impl PodRule {
    /// The rules of a pod.
    #[must_use]
    pub fn desire(frames: Frames, port: &IfName, uplink: &IfName, mac: Mac, addresses: impl Iterator<Item = IpAddr> + Clone) -> Vec<Self> {
        let answer = match frames {
            Frames::Direct => mac,
            Frames::ToFabric => FABRIC_MAC,
        };
        let mut rules = Vec::new();
        for address in addresses.clone() {
            if let IpAddr::V4(v4) = address {
                rules.push(Self { address, rule: Rule::AnswerArp { pods_only: true, address: v4, mac: answer } });
            }
            rules.push(Self { address, rule: Rule::ToPod { uplink: uplink.clone(), address, mac } });
            if let IpAddr::V4(v4) = address {
                rules.push(Self { address, rule: Rule::MasqueradeRouted { address: v4 } });
            }
        }
        if let (Frames::ToFabric, Some(address)) = (frames, addresses.into_iter().next()) {
            rules.push(Self { address, rule: Rule::ToFabric { port: port.clone() } });
        }
        rules
    }

    fn chain(&self) -> Chain {
        if let Rule::MasqueradeRouted { .. } = self.rule { Chain::PodServices } else { Chain::Pods }
    }
}

/// Whose a rule is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Holder {
    /// The rules that lead to our chains.
    Table,
    /// A network's, by its bridge.
    Network(IfName),
    /// What a configuration asks of a bridge beyond its network: several may share the bridge, and none knows of the others.
    Asked(IfName),
    /// A pod's.
    Pod(Attachment),
}

impl Holder {
    /// As it stands in a rule's comment.
    #[must_use]
    pub fn tag(&self) -> String {
        match self {
            Self::Table => "table".to_owned(),
            Self::Network(bridge) => format!("network-{bridge}"),
            Self::Asked(bridge) => format!("asked-{bridge}"),
            // Comments are short, and container ids are long.
            Self::Pod(attachment) => attachment.hash().to_string().chars().take(20).collect(),
        }
    }
}

/// What a rule's comment says: whose it is, for which address, and the rule itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comment {
    /// [`Holder::tag`].
    pub tag: String,
    /// The pod's address.
    pub address: Option<IpAddr>,
    /// The rule's text.
    pub rule: String,
}

const COMMENT_PREFIX: &str = "azure-vnet ";

impl Comment {
    /// Reads a comment; none if it is not ours.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.strip_prefix(COMMENT_PREFIX)?.splitn(3, ' ');
        let (tag, address, rule) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Self { tag: tag.to_owned(), address: address.parse().ok(), rule: rule.to_owned() })
    }
}

impl fmt::Display for Comment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self.address.map_or_else(|| "-".to_owned(), |address| address.to_string());
        write!(f, "{COMMENT_PREFIX}{} {address} {}", self.tag, self.rule)
    }
}

/// A rule of ours as the kernel shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedRule {
    /// Its chain.
    pub chain: Chain,
    /// The kernel's number of it.
    pub handle: u64,
    /// Its comment.
    pub comment: Comment,
}

/// A rule to be added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRule {
    /// Where to.
    pub chain: Chain,
    /// Its comment.
    pub comment: Comment,
    /// What it does.
    pub rule: Rule,
}

/// Changes of rules, to be made together or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RulePlan {
    /// Rules to delete, by chain and number.
    pub delete: Vec<(Chain, u64)>,
    /// Rules to append, in order.
    pub add: Vec<NewRule>,
}

impl RulePlan {
    /// Whether nothing is to be done.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.delete.is_empty() && self.add.is_empty()
    }

    /// Makes the holder's rules those that are wanted, in their order; wanting none is its removal. Rules of other pods for the same addresses
    /// are leftovers: an address has one pod.
    #[must_use]
    pub fn towards(holder: &Holder, wanted: &[(Chain, Option<IpAddr>, Rule)], observed: &[ObservedRule]) -> Self {
        let tag = holder.tag();
        let add: Vec<NewRule> = new_rules(&tag, wanted).collect();
        let addresses: BTreeSet<IpAddr> = wanted.iter().filter_map(|(_, address, _)| *address).collect();
        let number = |rule: &&ObservedRule| (rule.chain, rule.handle);
        let stale =
            |rule: &&ObservedRule| rule.comment.tag != tag && rule.comment.address.is_some_and(|address| addresses.contains(&address));
        let mut delete: Vec<_> = observed.iter().filter(stale).map(|rule| number(&rule)).collect();
        let own: Vec<&ObservedRule> = observed.iter().filter(|rule| rule.comment.tag == tag).collect();
        let same_in = |chain: Chain| {
            let there = own.iter().filter(|rule| rule.chain == chain).map(|rule| &rule.comment);
            there.eq(add.iter().filter(|rule| rule.chain == chain).map(|rule| &rule.comment))
        };
        if Chain::ALL.into_iter().all(same_in) {
            return Self { delete, add: Vec::new() };
        }
        delete.extend(own.iter().map(number));
        Self { delete, add }
    }

    /// Adds what is lacking of the holder's rules, and takes none away: others may have asked for those.
    #[must_use]
    pub fn including(holder: &Holder, wanted: &[(Chain, Option<IpAddr>, Rule)], observed: &[ObservedRule]) -> Self {
        let tag = holder.tag();
        let is_there = |new: &NewRule| observed.iter().any(|rule| rule.chain == new.chain && rule.comment == new.comment);
        let mut add: Vec<NewRule> = Vec::new();
        for new in new_rules(&tag, wanted) {
            if !is_there(&new) && !add.contains(&new) {
                add.push(new);
            }
        }
        Self { delete: Vec::new(), add }
    }

    /// Removes those of pods of which nobody knows: of `observed`, which were seen before anyone was asked whom he knows, what is still there.
    #[must_use]
    pub fn without_strays(observed: &[ObservedRule], known: &BTreeSet<Attachment>, there: &[ObservedRule]) -> Self {
        let known: BTreeSet<String> = known.iter().map(|attachment| Holder::Pod(attachment.clone()).tag()).collect();
        let is_stray = |rule: &&ObservedRule| rule.chain.is_of_pods() && !known.contains(&rule.comment.tag) && observed.contains(rule);
        Self { delete: there.iter().filter(is_stray).map(|rule| (rule.chain, rule.handle)).collect(), add: Vec::new() }
    }

    /// Whether a pod has the rules that are wanted. What a former pod left for the same addresses comes after them, and counts for nothing.
    #[must_use]
    pub fn is_met(attachment: &Attachment, wanted: &[PodRule], observed: &[ObservedRule]) -> bool {
        Self::of_pod(attachment, wanted, observed).add.is_empty()
    }

    /// Makes a pod's rules those that are wanted.
    #[must_use]
    pub fn of_pod(attachment: &Attachment, wanted: &[PodRule], observed: &[ObservedRule]) -> Self {
        let wanted: Vec<_> = wanted.iter().map(|rule| (rule.chain(), Some(rule.address), rule.rule.clone())).collect();
        Self::towards(&Holder::Pod(attachment.clone()), &wanted, observed)
    }
}

fn new_rules(tag: &str, wanted: &[(Chain, Option<IpAddr>, Rule)]) -> impl Iterator<Item = NewRule> {
    wanted.iter().map(move |(chain, address, rule)| {
        let comment = Comment { tag: tag.to_owned(), address: *address, rule: rule.to_string() };
        NewRule { chain: *chain, comment, rule: rule.clone() }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_twice_is_added_once() {
        let rule = (Chain::Network, None, Rule::ToHost { address: [169, 254, 20, 10].into() });
        let holder = Holder::Asked("azure0".parse().unwrap());
        let plan = RulePlan::including(&holder, &[rule.clone(), rule], &[]);
        assert_eq!(plan.add.len(), 1, "{plan:?}");
        assert!(RulePlan::including(&holder, &[], &after(Vec::new(), &plan)).is_empty());
    }

    fn attachment(container: &str) -> Attachment {
        Attachment { container: container.parse().unwrap(), if_name: "eth0".parse().unwrap() }
    }

    fn rules(address: &str) -> Vec<PodRule> {
        let (port, uplink, mac) = ("azv1".parse().unwrap(), "eth0".parse().unwrap(), Mac([2, 0x61, 0, 0, 0, 1]));
        PodRule::desire(Frames::ToFabric, &port, &uplink, mac, [address.parse().unwrap()].into_iter())
    }

    /// What the kernel shows after a plan.
    fn after(mut observed: Vec<ObservedRule>, plan: &RulePlan) -> Vec<ObservedRule> {
        observed.retain(|rule| !plan.delete.contains(&(rule.chain, rule.handle)));
        let next = observed.iter().map(|rule| rule.handle).max().unwrap_or_default() + 1;
        let new = (next..).zip(&plan.add).map(|(handle, new)| ObservedRule {
            chain: new.chain,
            handle,
            comment: Comment::parse(&new.comment.to_string()).unwrap(),
        });
        let (first, last): (Vec<_>, Vec<_>) = new.partition(|rule| rule.chain.newest_first());
        first.into_iter().chain(observed).chain(last).collect()
    }

    #[test]
    fn a_pods_rules_are_made_once_kept_and_taken_away() {
        let (a, b) = (attachment("a"), attachment("b"));
        let with_a = after(Vec::new(), &RulePlan::of_pod(&a, &rules("10.240.1.1"), &[]));
        let both = after(with_a.clone(), &RulePlan::of_pod(&b, &rules("10.240.1.2"), &with_a));
        assert_eq!((with_a.len(), both.len()), (4, 8));
        assert!(RulePlan::of_pod(&a, &rules("10.240.1.1"), &both).is_empty());
        assert_eq!(after(both.clone(), &RulePlan::of_pod(&b, &[], &both)), with_a);
        let mut damaged = both;
        damaged.remove(5);
        let mended = after(damaged.clone(), &RulePlan::of_pod(&a, &rules("10.240.1.1"), &damaged));
        assert!(RulePlan::of_pod(&a, &rules("10.240.1.1"), &mended).is_empty() && mended.len() == 8);
    }

    #[test]
    fn rules_of_a_former_pod_for_the_same_address_go() {
        let old = after(Vec::new(), &RulePlan::of_pod(&attachment("old"), &rules("10.240.1.1"), &[]));
        let new = after(old.clone(), &RulePlan::of_pod(&attachment("new"), &rules("10.240.1.1"), &old));
        assert_eq!(new.len(), 4);
        assert!(new.iter().all(|rule| rule.comment.tag == Holder::Pod(attachment("new")).tag()));
    }

    #[test]
    fn rules_of_pods_that_nobody_knows_go_and_those_that_came_meanwhile_stay() {
        let [known, stray, new] = ["known", "stray", "new"].map(attachment);
        let network = (Chain::Network, None, Rule::ToHost { address: [10, 240, 0, 4].into() });
        let mut seen = after(Vec::new(), &RulePlan::including(&Holder::Network("azure0".parse().unwrap()), &[network], &[]));
        seen = after(seen.clone(), &RulePlan::of_pod(&known, &rules("10.240.1.1"), &seen));
        let kept = seen.clone();
        seen = after(seen.clone(), &RulePlan::of_pod(&stray, &rules("10.240.1.2"), &seen));
        let there = after(seen.clone(), &RulePlan::of_pod(&new, &rules("10.240.1.3"), &seen));
        let plan = RulePlan::without_strays(&seen, &BTreeSet::from([known]), &there);
        let left = after(there, &plan);
        assert_eq!(left.len(), kept.len() + 4);
        assert!(left.iter().all(|rule| kept.contains(rule) || rule.comment.tag == Holder::Pod(new.clone()).tag()));
    }

    #[test]
    fn addresses_that_pods_left_are_those_of_no_pod_that_is_known() {
        let [known, stray, former] = ["known", "stray", "former"].map(attachment);
        let pods = [(&stray, "10.240.1.2"), (&former, "10.240.1.1"), (&known, "10.240.1.1")];
        // As ADD makes them: without a look at those of others.
        let seen = pods.iter().fold(Vec::new(), |seen, (pod, address)| after(seen, &RulePlan::of_pod(pod, &rules(address), &[])));
        let left = |known: &[&Attachment]| left_by_strays(&seen, &known.iter().copied().cloned().collect());
        let [one, two] = ["10.240.1.1", "10.240.1.2"].map(|address| address.parse().unwrap());
        assert_eq!(left(&[&known]), BTreeSet::from([two]));
        assert_eq!(left(&[]), BTreeSet::from([one, two]));
        assert_eq!(left(&[&known, &stray]), BTreeSet::new());
    }

    #[test]
    fn an_address_that_a_pod_left_may_be_that_of_one_that_came_since_or_is_coming() {
        let [stray, new] = ["stray", "new"].map(attachment);
        let seen = after(Vec::new(), &RulePlan::of_pod(&stray, &rules("10.240.1.1"), &[]));
        let [one, two] = ["10.240.1.1", "10.240.1.2"].map(|address| address.parse().unwrap());
        assert!(!may_be_anothers(one, &[], &seen, &seen));
        assert!(may_be_anothers(one, std::slice::from_ref(&new), &seen, &seen), "it has its link, and no rules yet");
        let of_another = after(seen.clone(), &RulePlan::of_pod(&new, &rules("10.240.1.2"), &[]));
        assert!(!may_be_anothers(one, std::slice::from_ref(&new), &seen, &of_another) && may_be_anothers(two, &[], &seen, &of_another));
        let of_this = after(seen.clone(), &RulePlan::of_pod(&new, &rules("10.240.1.1"), &[]));
        assert!(may_be_anothers(one, &[new], &seen, &of_this));
    }

    #[test]
    fn what_a_former_pod_left_is_no_lack_of_the_newer() {
        let (old, new) = (attachment("old"), attachment("new"));
        let left = after(Vec::new(), &RulePlan::of_pod(&old, &rules("10.240.1.1"), &[]));
        // As ADD makes them: without a look at those of others.
        let both = after(left, &RulePlan::of_pod(&new, &rules("10.240.1.1"), &[]));
        assert!(both[..3].iter().all(|rule| rule.comment.tag == Holder::Pod(new.clone()).tag()), "{both:?}");
        assert!(RulePlan::is_met(&new, &rules("10.240.1.1"), &both));
        assert!(!RulePlan::is_met(&new, &rules("10.240.1.1"), &both[1..]));
    }

    #[test]
    fn the_rules_tell_of_which_mode_a_pod_is() {
        let (pod, port) = (attachment("a"), "azv1".parse().unwrap());
        let tunnel = after(Vec::new(), &RulePlan::of_pod(&pod, &rules("10.240.1.1"), &[]));
        let addresses = ["10.240.1.1".parse().unwrap()].into_iter();
        let direct = PodRule::desire(Frames::Direct, &port, &"eth0".parse().unwrap(), FABRIC_MAC, addresses);
        let bridge = after(Vec::new(), &RulePlan::of_pod(&pod, &direct, &[]));
        let of = |pod: &Attachment, rules: &[ObservedRule]| Frames::of_pod(pod, &port, rules);
        assert_eq!([of(&pod, &tunnel), of(&pod, &bridge), of(&pod, &[])], [Frames::ToFabric, Frames::Direct, Frames::Direct]);
        assert_eq!(of(&attachment("b"), &tunnel), Frames::Direct, "it is another's");
    }

    #[test]
    fn the_rules_tell_a_pods_hardware_address_of_either_family() {
        let (pod, mac) = (attachment("a"), Mac([2, 0x61, 0, 0, 0, 1]));
        for address in ["10.240.1.1", "2001:db8::1"] {
            let there = after(Vec::new(), &RulePlan::of_pod(&pod, &rules(address), &[]));
            assert_eq!((mac_of_pod(&pod, &there), mac_of_pod(&attachment("b"), &there)), (Some(mac), None), "{address}");
        }
        assert_eq!(mac_of_pod(&pod, &[]), None);
    }

    #[test]
    fn comments_fit_and_others_are_not_ours() {
        let uplink: IfName = "fifteen-letters".parse().unwrap();
        let longest = Rule::ToPod { uplink, address: "2001:db8:1111:2222:3333:4444:5555:6666".parse().unwrap(), mac: FABRIC_MAC };
        let plan = RulePlan::towards(
            &Holder::Pod(attachment("a")),
            &[(Chain::Pods, "2001:db8:1111:2222:3333:4444:5555:6666".parse().ok(), longest)],
            &[],
        );
        assert!(plan.add[0].comment.to_string().len() < 255);
        assert_eq!(Comment::parse("someone's"), None);
    }
}
