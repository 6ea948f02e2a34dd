//! How a pod is wired, as values: the names of its links and whose they are; beside it the plan, and what to do about a link in the way.
//! CHECK is "no step is left"; ADD carries the steps out; nothing here touches a kernel.

mod plan;
mod takeover;

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use sha1_smol::Sha1;

pub use self::{
    plan::{Bridged, HostEnd, Observed, PodEnd, Step, Way, Wiring},
    takeover::Takeover,
};
use crate::{
    attachment::{Attachment, IfName, Mode, NameError, NetworkName, PodRef},
    hex,
};

/// What every host link's name starts with; policy engines look for it.
pub const HOST_LINK_PREFIX: &str = "azv";
/// The pod's gateway: no one has it; the pod's neighbour table says that the host link does.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The same for IPv6.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0x1234, 0x5678, 0x9abc);
/// What answers for every address of a VNET: the fabric.
pub const FABRIC_MAC: Mac = Mac([0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc]);
/// Hardware address of every host link.
pub const HOST_MAC: Mac = Mac([0xaa; 6]);
/// Metric of the route that refuses packets to a pool address without a pod (safety rule PK1).
pub const UNREACHABLE_METRIC: u32 = 4096;

/// The kernel's number of whoever made such a route (`rtm_protocol`): ours are told by it from those of others. No routing daemon that iproute2's
/// `rt_protos` names has it. <https://man7.org/linux/man-pages/man7/rtnetlink.7.html>
pub const UNREACHABLE_PROTOCOL: u8 = 97;

/// The interface that a Kubernetes pod has; the host link of this one is named after the pod.
pub const POD_INTERFACE: &str = "eth0";
const ALIAS_PREFIX: &str = "azure-vnet:";

/// A link's hardware address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs = self.0.iter().flat_map(|byte| {
            let [high, low] = hex::digits(*byte);
            [':', high, low]
        });
        f.write_str(&pairs.skip(1).collect::<String>())
    }
}

impl FromStr for Mac {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || NameError::of("hardware address", text, "it has six pairs of hex digits with ':' between them");
        let mut bytes = [0; 6];
        let mut pairs = text.split([':', '-']);
        for byte in &mut bytes {
            let pair = pairs.next().filter(|pair| pair.len() == 2).ok_or_else(error)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| error())?;
        }
        // The lowest bit is that of groups, which no link is.
        if pairs.next().is_some() || bytes.first().is_none_or(|first| first & 1 == 1) { Err(error()) } else { Ok(Self(bytes)) }
    }
}

/// All addresses of the family of one.
#[must_use]
pub fn everywhere(like: IpAddr) -> IpNet {
    match like {
        IpAddr::V4(_) => Ipv4Net::default().into(),
        IpAddr::V6(_) => Ipv6Net::default().into(),
    }
}

/// The pod's gateway in transparent mode, of the family of an address.
#[must_use]
pub fn gateway(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => GATEWAY.into(),
        IpAddr::V6(_) => GATEWAY_V6.into(),
    }
}

/// Names the host's end: `azv` and the first 11 hex digits of the SHA-1 of `<namespace>.<pod>`.
/// In the other modes, without a pod, and for a pod's further interfaces, which would collide, it is that of network, container and interface.
///
/// # Errors
/// Never in practice: the name has 14 letters and digits.
pub fn host_link(mode: Mode, network: &NetworkName, attachment: &Attachment, pod: Option<&PodRef>) -> Result<IfName, NameError> {
    let key = match (mode, pod) {
        (Mode::Transparent, Some(pod)) if attachment.if_name.as_str() == POD_INTERFACE => format!("{}.{}", pod.namespace, pod.name),
        (Mode::Transparent | Mode::Bridge | Mode::Tunnel, _) => format!("{network}{}{}", attachment.container, attachment.if_name),
    };
    let hex = hex::of(&Sha1::from(key).digest().bytes());
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
    sha1.update(attachment.to_string().as_bytes());
    sha1.digest().bytes().first_chunk().copied().unwrap_or_default()
}

/// What a host link says of itself: `azure-vnet:<container>/<interface> <address>` (safety rule CM6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alias {
    /// Whose it is.
    pub attachment: Attachment,
    /// The pod's address; of two families, that of IPv4.
    pub address: IpAddr,
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

    proptest! {
        #[test]
        fn aliases_are_read_back(container in "[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}", if_name in "[a-z][a-z0-9]{0,14}", v4: u32, v6: Option<u128>) {
            let attachment = Attachment { container: container.parse().unwrap(), if_name: if_name.parse().unwrap() };
            let address = v6.map_or_else(|| IpAddr::V4(v4.into()), |v6| IpAddr::V6(v6.into()));
            let alias = Alias { attachment, address };
            prop_assert!(alias.to_string().len() <= 255);
            prop_assert_eq!(alias.to_string().parse(), Ok(alias));
        }

        #[test]
        fn no_text_breaks_the_readers(text: String) {
            let _ = text.parse::<Alias>();
            let _ = format!("{ALIAS_PREFIX}{text}").parse::<Alias>();
            let _ = text.parse::<Mac>();
        }
    }

    #[test]
    fn the_host_link_is_named_as_policy_engines_expect() {
        let network = "azure".parse().unwrap();
        let of = |mode, attachment: &Attachment, pod: Option<&PodRef>| host_link(mode, &network, attachment, pod).unwrap().to_string();
        let (transparent, web) = (Mode::Transparent, pod("web-0"));
        assert_eq!(of(transparent, &attachment("abc"), Some(&web)), "azv0d7763386da");
        let mut further = attachment("abc");
        further.if_name = "net1".parse().unwrap();
        assert_ne!(of(transparent, &further, Some(&web)), of(transparent, &attachment("abc"), Some(&web)));
        assert_ne!(of(transparent, &attachment("abc"), None), of(transparent, &attachment("abd"), None));
        // SHA-1 of network, container and interface, one after another.
        assert_eq!(of(Mode::Bridge, &attachment("abc"), Some(&web)), of(Mode::Tunnel, &attachment("abc"), None));
    }

    #[test]
    fn hardware_addresses_are_read_in_both_spellings() {
        for text in ["02:00:00:00:00:0a", "02-00-00-00-00-0A"] {
            assert_eq!(text.parse(), Ok(Mac([2, 0, 0, 0, 0, 10])));
        }
        for text in ["", "02:00:00:00:00", "02:00:00:00:00:0a:0b", "2:0:0:0:0:a", "01:00:00:00:00:00", "0g:00:00:00:00:00"] {
            assert!(text.parse::<Mac>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_owner_is_told_by_alias_then_by_mark() {
        let this = attachment("abc");
        let alias = Alias { attachment: this.clone(), address: [10, 240, 0, 9].into() }.to_string();
        let marks = |alias, group, mac| Marks { alias, group, mac };
        assert_eq!(marks(Some(&alias), 0, None).owner(&this), Owner::This);
        assert_eq!(marks(Some(&alias), 0, None).owner(&attachment("x")), Owner::Other(this.clone()));
        assert_eq!(marks(Some("mine"), link_mark(&this), Some(HOST_MAC)).owner(&this), Owner::Foreign);
        assert_eq!(marks(None, link_mark(&this), None).owner(&this), Owner::This);
        assert_eq!(marks(None, link_mark(&attachment("x")), Some(HOST_MAC)).owner(&this), Owner::Unlabelled);
        assert_eq!(marks(None, 0, Some(HOST_MAC)).owner(&this), Owner::Foreign);
    }
}
