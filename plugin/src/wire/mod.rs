//! Carries out the wiring of one pod, in two sends to the host's kernel and one to the pod's, for a bridged pod in three to the host's and one
//! for its rules; observes it; takes it back.

mod observe;
mod pair;
mod steps;

use std::{collections::BTreeSet, net::IpAddr};

use azure_vnet_plugin_core::{
    attachment::{Attachment, PodRef},
    frames::RulePlan,
    wiring::{Marks, Owner, Step, Takeover, Way, Wiring},
};
use ipnet::IpNet;

pub use self::observe::observe;
use self::{
    pair::create_pair,
    steps::{host_route, make_host, make_pod, make_rules, near_link, pod_address, pod_route},
};
use crate::{
    bridge,
    frames::Frames,
    netlink::{Change, Errno, Link, LinkIndex, Netlink, NetlinkError},
    netns::{Netns, NetnsError},
};

/// Why a pod is not wired.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The kernel could not be asked.
    #[error("cannot observe the wiring of {link}")]
    Observe {
        /// The host's end.
        link: String,
        /// Why.
        #[source]
        source: NetlinkError,
    },
    /// A step failed.
    #[error("cannot make {step} ({link})")]
    Make {
        /// The step.
        step: Step,
        /// The host's end.
        link: String,
        /// The kernel's reason.
        #[source]
        source: Errno,
    },
    /// The pod has an interface of that name.
    #[error("interface {name} exists in the pod's namespace already")]
    PodLinkExists {
        /// Its name.
        name: String,
    },
    /// The link's name is taken.
    #[error("{0}")]
    Refused(String),
    /// Someone uses the address (safety rule ST4).
    #[error("address {address} is in use: {by}")]
    AddressInUse {
        /// The address.
        address: IpAddr,
        /// By what.
        by: String,
    },
    /// The rules for a bridged pod's frames.
    #[error("cannot make the rules for the frames of {link}")]
    Rules {
        /// The host's end.
        link: String,
        /// Why.
        #[source]
        source: NetlinkError,
    },
    /// IPv6 is off in the pod and cannot be turned on.
    #[error("cannot turn IPv6 on")]
    Ipv6(#[source] NetnsError),
    /// Taken back, but not wholly.
    #[error("cannot take back what was made: {left}")]
    Undo {
        /// What is left.
        left: String,
        /// Why it was to be taken back.
        #[source]
        source: Box<WireError>,
    },
}

/// Sockets of both sides, and the pod's namespace.
#[derive(Debug)]
pub struct Sides<'a> {
    /// The host.
    pub host: &'a mut Netlink,
    /// The pod.
    pub pod: &'a mut Netlink,
    /// The pod's namespace.
    pub netns: &'a Netns,
    /// Rules for frames, where the pod is bridged.
    pub frames: Option<FrameSide<'a>>,
}

/// The host's rules for frames.
#[derive(Debug)]
pub struct FrameSide<'a> {
    /// The socket to them.
    pub socket: &'a mut Frames,
    /// Whether the attachment had its address before, so that some of them may be there.
    pub may_be_there: bool,
}

/// What one run made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// The steps, in order.
    pub steps: Vec<Step>,
    host: LinkIndex,
    pod: LinkIndex,
}

/// The pod and lease of the attachment that a link in the way belongs to.
pub type Holder = (Attachment, Option<PodRef>);

/// Makes what is missing of a wiring. On failure everything that this call made is taken back.
///
/// # Errors
/// See [`WireError`].
pub fn make(
    sides: &mut Sides<'_>,
    wiring: &Wiring,
    pod: Option<&PodRef>,
    holder: impl Fn(&Owner) -> Option<Holder>,
) -> Result<Made, WireError> {
    let (made, missing) = match create_pair(sides, wiring)? {
        Some(made) => (made, all_but_the_pair(wiring)),
        None => settle_clash(sides, wiring, pod, &holder)?,
    };
    complete(sides, wiring, made, &missing)
}

/// Takes back what a run made.
///
/// # Errors
/// Something is left; the cause that is passed becomes the source.
pub fn undo(sides: &mut Sides<'_>, wiring: &Wiring, made: &Made, cause: WireError) -> WireError {
    let (mut left, mut entries) = (Vec::new(), BTreeSet::new());
    for step in Step::to_undo(&made.steps) {
        let (socket, change) = match step {
            Step::Pair => (&mut *sides.host, Change::DeleteLink(made.host)),
            Step::Port => (&mut *sides.host, Change::SetController { link: made.host, controller: 0 }),
            // It leads DEL to the entry that stays.
            Step::HostRoute(address) if entries.contains(&address) => continue,
            Step::HostRoute(address) => (&mut *sides.host, Change::DeleteRoute(host_route(wiring, made.host, address))),
            Step::HostNeighbour(address) => (&mut *sides.host, Change::DeleteNeighbour { link: near_link(wiring, made.host), address }),
            Step::Rules => {
                left.extend(forget_rules(sides, &wiring.attachment).err().map(|error| azure_vnet_plugin_core::error::chain(&error)));
                continue;
            }
            Step::Address(address) => (&mut *sides.pod, Change::DeleteAddress(pod_address(address, made.pod))),
            Step::PodRoute(to, via) => (&mut *sides.pod, Change::DeleteRoute(pod_route(wiring, to, via, made.pod))),
            Step::PodNeighbour(address, _) => (&mut *sides.pod, Change::DeleteNeighbour { link: made.pod, address }),
            Step::Label | Step::PodUp => continue,
        };
        match socket.change(change) {
            Ok(()) => {}
            Err(error) if error.errno().is_some_and(is_gone) => {}
            Err(error) => {
                left.push(azure_vnet_plugin_core::error::chain(&error));
                if let Step::HostNeighbour(address) = step {
                    entries.insert(address);
                }
            }
        }
    }
    // With its pair goes all that the pod has on the bridge, also what was made while the kernel's answer was lost.
    if let (Way::Bridged(_), true) = (&wiring.way, made.steps.contains(&Step::Pair)) {
        let addresses: Vec<IpAddr> = wiring.addresses.iter().map(IpNet::addr).collect();
        let forgotten = bridge::forget_pod(sides.host, &wiring.attachment, &addresses);
        left.extend(forgotten.err().map(|error| azure_vnet_plugin_core::error::chain(&error)));
    }
    if left.is_empty() { cause } else { WireError::Undo { left: left.join("; "), source: Box::new(cause) } }
}

/// Whose a link is.
#[must_use]
pub fn owner(link: &Link, attachment: &Attachment) -> Owner {
    Marks { alias: link.alias.as_deref(), group: link.group, mac: link.mac }.owner(attachment)
}

/// A link of the wanted name is there: completes it, replaces it, or refuses.
fn settle_clash(
    sides: &mut Sides<'_>,
    wiring: &Wiring,
    pod: Option<&PodRef>,
    holder: &impl Fn(&Owner) -> Option<Holder>,
) -> Result<(Made, Vec<Step>), WireError> {
    let rules_failed = |source| WireError::Rules { link: wiring.host_link.to_string(), source };
    let rules = sides.frames.as_mut().map_or(Ok(Vec::new()), |frames| frames.socket.observe()).map_err(rules_failed)?;
    let observed = observe(sides.host, Some(sides.pod), &rules, wiring)?;
    let lease = observed.host.as_ref().and_then(|host| holder(&host.owner));
    let lease = lease.as_ref().map(|(attachment, pod)| (attachment, pod.as_ref()));
    match (Takeover::decide(&observed, pod, lease, wiring), &observed.host) {
        (Takeover::Refuse(why), _) => Err(WireError::Refused(why)),
        (Takeover::Complete, Some(host)) => {
            let pod = observed.pod.as_ref().map(|pod| pod.index).unwrap_or_default();
            Ok((Made { steps: Vec::new(), host: host.index, pod }, wiring.plan(&observed)))
        }
        (Takeover::Renew | Takeover::TakeOver | Takeover::Complete, host) => {
            if let Some(host) = host {
                let failed = |source| WireError::Observe { link: wiring.host_link.to_string(), source };
                // What a bridge has of another address does not go with the link. It goes first: without the link the address may be
                // taken for free, and be another's by then.
                let _rules = match (&wiring.way, &host.alias) {
                    (Way::Bridged(_), Some(alias)) => {
                        Some(bridge::forget_pod(sides.host, &wiring.attachment, &[alias.address]).map_err(failed)?)
                    }
                    (Way::Bridged(_) | Way::Routed, _) => None,
                };
                delete(sides.host, host.index).map_err(failed)?;
            }
            let made = create_pair(sides, wiring)?
                .ok_or_else(|| WireError::Refused(format!("link {} was made anew by another process", wiring.host_link)))?;
            Ok((made, all_but_the_pair(wiring)))
        }
    }
}

/// Deletes a link; one that is gone is no error.
///
/// # Errors
/// The kernel refuses.
pub fn delete(host: &mut Netlink, link: LinkIndex) -> Result<(), NetlinkError> {
    match host.change(Change::DeleteLink(link)) {
        Err(error) if error.errno().is_some_and(is_gone) => Ok(()),
        result => result,
    }
}

fn all_but_the_pair(wiring: &Wiring) -> Vec<Step> {
    wiring.steps().into_iter().filter(|step| *step != Step::Pair).collect()
}

fn complete(sides: &mut Sides<'_>, wiring: &Wiring, mut made: Made, missing: &[Step]) -> Result<Made, WireError> {
    let result = make_host(sides.host, wiring, &mut made, missing)
        .and_then(|()| make_rules(sides, wiring, &mut made, missing))
        .and_then(|()| make_pod(sides, wiring, &mut made, missing));
    match result {
        Ok(()) => Ok(made),
        // What this thread would look for it would look for in the pod.
        Err(cause @ WireError::Ipv6(NetnsError::Astray { .. })) => {
            Err(WireError::Undo { left: "all of it".to_owned(), source: Box::new(cause) })
        }
        Err(cause) => Err(undo(sides, wiring, &made, cause)),
    }
}

fn forget_rules(sides: &mut Sides<'_>, attachment: &Attachment) -> Result<(), NetlinkError> {
    match &mut sides.frames {
        Some(frames) => frames.socket.settle(|seen| RulePlan::of_pod(attachment, &[], seen)),
        None => Ok(()),
    }
}

/// What the kernel answers about what is no longer there.
fn is_gone(errno: Errno) -> bool {
    matches!(errno, Errno::NODEV | Errno::NXIO | Errno::SRCH | Errno::NOENT | Errno::ADDRNOTAVAIL)
}
