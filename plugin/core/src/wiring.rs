//! How a pod is wired in transparent mode, as values: what is wanted, what was observed, the steps between, and whose a link is.
//! CHECK is "no step is left"; ADD carries the steps out; nothing here touches a kernel.

use std::{collections::BTreeSet, fmt, net::Ipv4Addr, str::FromStr};

use ipnet::Ipv4Net;
use sha1::{Digest, Sha1};

use crate::attachment::{Attachment, IfName, NameError, NetworkName, PodRef};

/// What every host link's name starts with; policy engines look for it.
pub const HOST_LINK_PREFIX: &str = "azv";
/// The pod's gateway: no one has it; the pod's neighbour table says that the host link does.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// Hardware address of every host link.
pub const HOST_MAC: Mac = Mac([0xaa; 6]);
/// Metric of the route that refuses packets to a pool address without a pod (safety rule PK1).
pub const UNREACHABLE_METRIC: u32 = 4096;

/// The interface that a Kubernetes pod has; the host link of this one is named after the pod.
const POD_INTERFACE: &str = "eth0";
const ALIAS_PREFIX: &str = "azure-vnet:";

/// A link's hardware address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = self.0.iter();
        bytes.next().map_or(Ok(()), |first| write!(f, "{first:02x}"))?;
        bytes.try_for_each(|byte| write!(f, ":{byte:02x}"))
    }
}

/// Names the host's end: `azv` and the first 11 hex digits of the SHA-1 of `<namespace>.<pod>`.
/// Without a pod, and for a pod's further interfaces, which would collide, it is that of network, container and interface.
///
/// # Errors
/// Never in practice: the name has 14 letters and digits.
pub fn host_link(network: &NetworkName, attachment: &Attachment, pod: Option<&PodRef>) -> Result<IfName, NameError> {
    let key = match pod {
        Some(pod) if attachment.if_name.as_str() == POD_INTERFACE => format!("{}.{}", pod.namespace, pod.name),
        Some(_) | None => format!("{network}{}{}", attachment.container, attachment.if_name),
    };
    let hex = hex(&Sha1::digest(key));
    format!("{HOST_LINK_PREFIX}{}", hex.get(..11).unwrap_or_default()).parse()
}

/// The device group that a host link has from its creating message on, so that it is known whose it is before it has its alias. Never 0.
#[must_use]
pub fn link_mark(attachment: &Attachment) -> u32 {
    let [a, b, c, d] = first_bytes(attachment);
    // Positive as the kernel's signed number, and never the default group.
    (u32::from_be_bytes([a, b, c, d]) >> 1) | 1
}

/// Hardware address of the pod's end: of the attachment, locally administered, so that a repeated ADD makes the same.
#[must_use]
pub fn pod_mac(attachment: &Attachment) -> Mac {
    let [a, b, c, d] = first_bytes(attachment);
    Mac([0x02, 0x61, a, b, c, d])
}

fn first_bytes(attachment: &Attachment) -> [u8; 4] {
    let mut sha1 = Sha1::new();
    sha1.update(b"link\0");
    sha1.update(attachment.to_string());
    let digest: [u8; 20] = sha1.finalize().into();
    digest.first_chunk().copied().unwrap_or_default()
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// What a host link says of itself: `azure-vnet:<container>/<interface> <address>` (safety rule CM6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alias {
    /// Whose it is.
    pub attachment: Attachment,
    /// The pod's address.
    pub address: Ipv4Addr,
}

/// An alias that is not ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no alias of ours")]
pub struct ForeignAlias(String);

impl fmt::Display for Alias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{ALIAS_PREFIX}{} {}", self.attachment, self.address)
    }
}

impl FromStr for Alias {
    type Err = ForeignAlias;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (attachment, address) = text.strip_prefix(ALIAS_PREFIX)?.split_once(' ')?;
            let (container, if_name) = attachment.split_once('/')?;
            let attachment = Attachment { container: container.parse().ok()?, if_name: if_name.parse().ok()? };
            Some(Self { attachment, address: address.parse().ok()? })
        };
        parse().ok_or_else(|| ForeignAlias(text.to_owned()))
    }
}

/// Whose a link is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Made for this attachment.
    This,
    /// Made for another: whose alias says so.
    Other(Attachment),
    /// A pair of ours by its mark, for an attachment that only a lease can tell; its maker was stopped before the alias.
    Unlabelled,
    /// Not made by these plugins.
    Foreign,
}

/// What tells whose a link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks<'a> {
    /// Its alias.
    pub alias: Option<&'a str>,
    /// Its device group.
    pub group: u32,
    /// Its hardware address.
    pub mac: Option<Mac>,
}

impl Marks<'_> {
    /// Decides whose the link is. An alias that is not ours makes the link foreign, whatever else it shows.
    #[must_use]
    pub fn owner(self, attachment: &Attachment) -> Owner {
        match self.alias.map(str::parse::<Alias>) {
            Some(Ok(alias)) if alias.attachment == *attachment => Owner::This,
            Some(Ok(alias)) => Owner::Other(alias.attachment),
            None if self.group == link_mark(attachment) => Owner::This,
            None if self.group != 0 && self.mac == Some(HOST_MAC) => Owner::Unlabelled,
            Some(Err(_)) | None => Owner::Foreign,
        }
    }
}

/// What the wiring of one pod is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wiring {
    /// Whose it is.
    pub attachment: Attachment,
    /// Name of the host's end.
    pub host_link: IfName,
    /// The address, with the length of its subnet's prefix.
    pub address: Ipv4Net,
    /// Largest packet, at both ends.
    pub mtu: u32,
}

impl Wiring {
    /// What the host's end says of itself.
    #[must_use]
    pub fn alias(&self) -> Alias {
        Alias { attachment: self.attachment.clone(), address: self.address.addr() }
    }

    /// The steps that are left, in their order; none if the kernel shows all of it.
    #[must_use]
    pub fn plan(&self, observed: &Observed) -> Vec<Step> {
        let facts = self.facts(observed);
        Step::ALL.into_iter().filter(|step| !facts.contains(step)).collect()
    }

    /// The steps whose outcome the kernel shows. Hardware addresses and packet sizes are not compared: later plugins may set them (safety rule CM5).
    fn facts(&self, observed: &Observed) -> BTreeSet<Step> {
        let Observed { host, pod } = observed;
        let mut facts = BTreeSet::new();
        let mut fact = |step, holds| {
            if holds {
                facts.insert(step);
            }
        };
        let paired = match (host, pod) {
            (Some(host), Some(pod)) => host.owner == Owner::This && host.peer == Some(pod.index) && pod.peer == Some(host.index),
            (Some(_) | None, None) | (None, Some(_)) => false,
        };
        fact(Step::Pair, paired);
        if let (true, Some(host), Some(pod)) = (paired, host, pod) {
            fact(Step::Label, host.up && host.proxy_arp && host.alias.as_ref() == Some(&self.alias()));
            fact(Step::HostRoute, host.has_route);
            fact(Step::PodUp, pod.up);
            fact(Step::Address, pod.addresses.contains(&(self.address.addr(), self.address.prefix_len())));
            fact(Step::GatewayRoute, pod.routes.contains(&(Ipv4Net::from(GATEWAY), None)));
            fact(Step::DefaultRoute, pod.routes.contains(&(Ipv4Net::default(), Some(GATEWAY))));
            // The kernel drops all neighbours of a link whose hardware address is changed; proxy ARP answers in the entry's place.
            let changed = pod.mac != Some(pod_mac(&self.attachment));
            fact(Step::GatewayNeighbour, changed || pod.gateway_mac.is_some() && pod.gateway_mac == host.mac);
        }
        facts
    }
}

/// A pod's wiring as the kernel shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// The link of the wanted name on the host.
    pub host: Option<HostEnd>,
    /// The link of the wanted name in the pod.
    pub pod: Option<PodEnd>,
}

/// The host's end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostEnd {
    /// Its number.
    pub index: u32,
    /// Whose it is.
    pub owner: Owner,
    /// Its alias, if ours.
    pub alias: Option<Alias>,
    /// Number of its peer.
    pub peer: Option<u32>,
    /// Its hardware address.
    pub mac: Option<Mac>,
    /// Whether it is up.
    pub up: bool,
    /// Whether it answers ARP for others.
    pub proxy_arp: bool,
    /// Whether the pod's address is routed through it.
    pub has_route: bool,
}

/// The pod's end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodEnd {
    /// Its number.
    pub index: u32,
    /// Number of its peer.
    pub peer: Option<u32>,
    /// Its hardware address.
    pub mac: Option<Mac>,
    /// Whether it is up.
    pub up: bool,
    /// Its addresses and their prefix lengths.
    pub addresses: BTreeSet<(Ipv4Addr, u8)>,
    /// Routes through it.
    pub routes: BTreeSet<(Ipv4Net, Option<Ipv4Addr>)>,
    /// The gateway's hardware address, where entered for good.
    pub gateway_mac: Option<Mac>,
}

/// One step of the wiring; what it makes is taken back by its inverse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// The pair of links, its far end in the pod, its near end up.
    Pair,
    /// The near end's alias and proxy ARP.
    Label,
    /// The host's route to the pod, added exclusively: the last guard against an address that is in use (safety rule ST4).
    HostRoute,
    /// The far end, up.
    PodUp,
    /// The pod's address.
    Address,
    /// The way to the gateway.
    GatewayRoute,
    /// The way to all else.
    DefaultRoute,
    /// The gateway's hardware address.
    GatewayNeighbour,
}

impl Step {
    /// All, in the order in which they are made.
    pub const ALL: [Self; 8] = [
        Self::Pair,
        Self::Label,
        Self::HostRoute,
        Self::PodUp,
        Self::Address,
        Self::GatewayRoute,
        Self::DefaultRoute,
        Self::GatewayNeighbour,
    ];

    /// What takes the step back.
    #[must_use]
    pub fn inverse(self) -> Inverse {
        match self {
            Self::Pair => Inverse::DeletePair,
            // A link of ours that is labelled and up without the rest carries nothing and is in no one's way.
            Self::Label | Self::PodUp => Inverse::Nothing,
            Self::HostRoute => Inverse::DeleteHostRoute,
            Self::Address => Inverse::DeleteAddress,
            Self::GatewayRoute => Inverse::DeleteGatewayRoute,
            Self::DefaultRoute => Inverse::DeleteDefaultRoute,
            Self::GatewayNeighbour => Inverse::DeleteGatewayNeighbour,
        }
    }

    /// What takes a list of steps back, last first; with the pair all else goes.
    #[must_use]
    pub fn inverses(steps: &[Self]) -> Vec<Inverse> {
        if steps.contains(&Self::Pair) {
            return vec![Inverse::DeletePair];
        }
        steps.iter().rev().map(|step| step.inverse()).filter(|inverse| *inverse != Inverse::Nothing).collect()
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pair => "the pair of links",
            Self::Label => "the host link's alias and proxy ARP",
            Self::HostRoute => "the host's route to the pod",
            Self::PodUp => "the pod's link being up",
            Self::Address => "the pod's address",
            Self::GatewayRoute => "the pod's route to its gateway",
            Self::DefaultRoute => "the pod's default route",
            Self::GatewayNeighbour => "the pod's entry for its gateway",
        })
    }
}

/// What takes a step back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Inverse {
    /// Deletes both ends, and with them all that is on them.
    DeletePair,
    /// Deletes the host's route.
    DeleteHostRoute,
    /// Deletes the pod's address.
    DeleteAddress,
    /// Deletes the way to the gateway.
    DeleteGatewayRoute,
    /// Deletes the default route.
    DeleteDefaultRoute,
    /// Deletes the gateway's hardware address.
    DeleteGatewayNeighbour,
    /// Leaves it.
    Nothing,
}

/// What to do about a link that has the name of a pair that is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Takeover {
    /// It is this attachment's: complete it.
    Complete,
    /// It is this attachment's, and its far end is not where it should be: make it anew.
    Renew,
    /// It is an older container's of the same pod: delete it (safety rule CM3).
    TakeOver,
    /// Leave it, and say why.
    Refuse(String),
}

impl Takeover {
    /// Decides about the link. `lease` is what the store says of the attachment that the link is of, if it is another's.
    #[must_use]
    pub fn decide(observed: &Observed, pod: Option<&PodRef>, lease: Option<(&Attachment, Option<&PodRef>)>, wiring: &Wiring) -> Self {
        let Some(host) = &observed.host else { return Self::Renew };
        let name = &wiring.host_link;
        match &host.owner {
            Owner::This if wiring.plan(observed).contains(&Step::Pair) => Self::Renew,
            Owner::This => Self::Complete,
            Owner::Foreign => Self::Refuse(format!("link {name} exists and was not made by azure-vnet")),
            Owner::Other(_) | Owner::Unlabelled => match (lease, pod) {
                (Some((holder, Some(theirs))), Some(ours))
                    if holder.container != wiring.attachment.container
                        && theirs.namespace == ours.namespace
                        && theirs.name == ours.name =>
                {
                    Self::TakeOver
                }
                (Some((holder, _)), _) => Self::Refuse(format!("link {name} belongs to container {}", holder.container)),
                (None, _) => Self::Refuse(format!("link {name} belongs to a container without a lease")),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn attachment(container: &str) -> Attachment {
        Attachment { container: container.parse().unwrap(), if_name: "eth0".parse().unwrap() }
    }

    fn pod(name: &str) -> PodRef {
        PodRef { namespace: "default".into(), name: name.into(), uid: None }
    }

    fn wiring() -> Wiring {
        let network = "azure".parse().unwrap();
        let attachment = attachment("abc");
        let host_link = host_link(&network, &attachment, Some(&pod("web-0"))).unwrap();
        Wiring { attachment, host_link, address: "10.240.0.9/16".parse().unwrap(), mtu: 1500 }
    }

    /// What the kernel shows after these steps.
    fn after(steps: &BTreeSet<Step>, wiring: &Wiring) -> Observed {
        if !steps.contains(&Step::Pair) {
            return Observed::default();
        }
        let has = |step| steps.contains(&step);
        let host = HostEnd {
            index: 7,
            owner: Owner::This,
            alias: has(Step::Label).then(|| wiring.alias()),
            peer: Some(2),
            mac: Some(HOST_MAC),
            up: true,
            proxy_arp: has(Step::Label),
            has_route: has(Step::HostRoute),
        };
        let mut pod = PodEnd { index: 2, peer: Some(7), mac: Some(pod_mac(&wiring.attachment)), up: has(Step::PodUp), ..PodEnd::default() };
        pod.addresses.extend(has(Step::Address).then(|| (wiring.address.addr(), 16)));
        pod.routes.extend(has(Step::GatewayRoute).then(|| (Ipv4Net::from(GATEWAY), None)));
        pod.routes.extend(has(Step::DefaultRoute).then(|| (Ipv4Net::default(), Some(GATEWAY))));
        pod.gateway_mac = has(Step::GatewayNeighbour).then_some(HOST_MAC);
        Observed { host: Some(host), pod: Some(pod) }
    }

    proptest! {
        #[test]
        fn the_plan_completes_whatever_was_made_and_then_is_empty(made in proptest::collection::btree_set(proptest::sample::select(Step::ALL.to_vec()), 0..8)) {
            let wiring = wiring();
            let plan = wiring.plan(&after(&made, &wiring));
            let whole: BTreeSet<Step> = if made.contains(&Step::Pair) { made.iter().copied().chain(plan).collect() } else { plan.into_iter().collect() };
            prop_assert_eq!(whole.len(), Step::ALL.len());
            prop_assert!(wiring.plan(&after(&whole, &wiring)).is_empty());
        }

        #[test]
        fn aliases_are_read_back(container in "[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}", if_name in "[a-z][a-z0-9]{0,14}", address: u32) {
            let attachment = Attachment { container: container.parse().unwrap(), if_name: if_name.parse().unwrap() };
            let alias = Alias { attachment, address: address.into() };
            prop_assert!(alias.to_string().len() <= 255);
            prop_assert_eq!(alias.to_string().parse(), Ok(alias));
        }

        #[test]
        fn no_text_breaks_the_reader_of_aliases(text: String) {
            let _ = text.parse::<Alias>();
            let _ = format!("{ALIAS_PREFIX}{text}").parse::<Alias>();
        }
    }

    #[test]
    fn the_host_link_is_named_as_policy_engines_expect() {
        assert_eq!(wiring().host_link.as_str(), "azv0d7763386da");
        let network = "azure".parse().unwrap();
        let mut further = attachment("abc");
        further.if_name = "net1".parse().unwrap();
        assert_ne!(host_link(&network, &further, Some(&pod("web-0"))), host_link(&network, &attachment("abc"), Some(&pod("web-0"))));
        assert_ne!(host_link(&network, &attachment("abc"), None), host_link(&network, &attachment("abd"), None));
    }

    #[test]
    fn an_owner_is_told_by_alias_then_by_mark() {
        let this = attachment("abc");
        let alias = wiring().alias().to_string();
        let marks = |alias, group, mac| Marks { alias, group, mac };
        assert_eq!(marks(Some(&alias), 0, None).owner(&this), Owner::This);
        assert_eq!(marks(Some(&alias), 0, None).owner(&attachment("x")), Owner::Other(this.clone()));
        assert_eq!(marks(Some("mine"), link_mark(&this), Some(HOST_MAC)).owner(&this), Owner::Foreign);
        assert_eq!(marks(None, link_mark(&this), None).owner(&this), Owner::This);
        assert_eq!(marks(None, link_mark(&attachment("x")), Some(HOST_MAC)).owner(&this), Owner::Unlabelled);
        assert_eq!(marks(None, 0, Some(HOST_MAC)).owner(&this), Owner::Foreign);
    }

    #[test]
    fn cm3_only_an_older_container_of_the_same_pod_gives_way() {
        let wiring = wiring();
        let mut observed = after(&Step::ALL.into_iter().collect(), &wiring);
        let decide = |observed: &Observed, lease| Takeover::decide(observed, Some(&pod("web-0")), lease, &wiring);
        assert_eq!(decide(&observed, None), Takeover::Complete);
        observed.pod = None;
        assert_eq!(decide(&observed, None), Takeover::Renew);
        let (old, web, other) = (attachment("old"), pod("web-0"), pod("web-1"));
        if let Some(host) = &mut observed.host {
            host.owner = Owner::Other(old.clone());
        }
        assert_eq!(decide(&observed, Some((&old, Some(&web)))), Takeover::TakeOver);
        for lease in [None, Some((&old, None)), Some((&old, Some(&other)))] {
            assert!(matches!(decide(&observed, lease), Takeover::Refuse(_)));
        }
        if let Some(host) = &mut observed.host {
            host.owner = Owner::Foreign;
        }
        assert!(matches!(decide(&observed, Some((&old, Some(&web)))), Takeover::Refuse(_)));
    }

    #[test]
    fn steps_are_taken_back_last_first_and_the_pair_takes_all() {
        assert_eq!(Step::inverses(&[Step::Label, Step::HostRoute, Step::Address]), [Inverse::DeleteAddress, Inverse::DeleteHostRoute]);
        assert_eq!(Step::inverses(&Step::ALL), [Inverse::DeletePair]);
    }
}
