//! What bridged pods left that are gone, where no lease tells of them and no DEL will come: their rules, and the ways to their addresses.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
};

use azure_vnet_plugin_core::{
    attachment::Attachment,
    frames::{self, Chain, ObservedRule, RulePlan},
    wiring::Alias,
};

use crate::{
    bridge::Way,
    frames::Frames,
    netlink::{Link, Netlink, NetlinkError},
    store::{HoldError, Store},
};

/// The rules of pods as they were before anyone was asked which pods there are.
#[derive(Debug)]
pub struct RulesSeen {
    socket: Option<Frames>,
    rules: Vec<ObservedRule>,
}

/// Why something of such a pod is left.
#[derive(Debug, thiserror::Error)]
pub enum StraysError {
    /// The kernel refuses, or does not answer.
    #[error("cannot remove what bridged pods left")]
    Kernel(#[source] NetlinkError),
    /// The store.
    #[error("cannot send the address {address} of a bridged pod that is gone to its rest")]
    Store {
        /// The address.
        address: Ipv4Addr,
        /// Why.
        #[source]
        source: HoldError,
    },
}

impl RulesSeen {
    /// Looks at them.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub fn now() -> Result<Self, NetlinkError> {
        let mut socket = Frames::open_if_any()?;
        let rules = socket.as_mut().map_or(Ok(Vec::new()), Frames::observe)?;
        Ok(Self { socket, rules })
    }

    /// Whether no pod has rules: then there is nothing that one might have left.
    #[must_use]
    pub fn are_none(&self) -> bool {
        !self.rules.iter().any(|rule| rule.chain == Chain::Pods)
    }

    /// Removes what pods left that are not among the `known` ones: no DEL will. The ways to their addresses go first, as the rules are all that
    /// leads to them: an address of which something stays keeps its rules. A pod's link has its label before the pod has rules.
    ///
    /// # Errors
    /// See [`StraysError`].
    pub fn forget_all_but(self, known: &BTreeSet<Attachment>, store: &Store, host: &mut Netlink) -> Result<(), StraysError> {
        let Self { socket, rules } = self;
        let Some(mut socket) = socket else { return Ok(()) };
        if RulePlan::without_strays(&rules, known, &rules).is_empty() {
            return Ok(());
        }
        let linked = Linked::observe(host).map_err(StraysError::Kernel)?.addresses;
        let mut stay = BTreeSet::new();
        for address in frames::left_by_strays(&rules, known).difference(&linked) {
            if !is_cleared(*address, &rules, &mut socket, store, host)? {
                stay.insert(*address);
            }
        }
        let may_go = |rule: &ObservedRule| rule.comment.address.is_none_or(|address| !stay.contains(&address));
        let rules: Vec<ObservedRule> = rules.into_iter().filter(may_go).collect();
        socket.settle(|there| RulePlan::without_strays(&rules, known, there)).map_err(StraysError::Kernel)
    }
}

/// What pods' links tell.
#[derive(Default)]
struct Linked {
    /// The first address of each.
    addresses: BTreeSet<IpAddr>,
    /// The pods whose links are ports of a bridge.
    bridged: Vec<Attachment>,
}

impl Linked {
    fn observe(host: &mut Netlink) -> Result<Self, NetlinkError> {
        let mut all = Self::default();
        for Link { alias, controller, .. } in host.links()? {
            let Some(Alias { attachment, address }) = alias.and_then(|alias| alias.parse().ok()) else { continue };
            all.addresses.insert(address);
            all.bridged.extend(controller.map(|_| attachment));
        }
        Ok(all)
    }
}

/// Removes the way to an address unless a link names it. Whether it is gone. A pod has its link first, and makes its way only where there is none: so
/// the way that is there before links are looked at is not that of a pod which comes meanwhile, with an address of another IPAM plugin.
pub fn take_away(host: &mut Netlink, address: IpAddr, is_linked: &mut dyn FnMut(&mut Netlink) -> Result<bool, NetlinkError>) -> bool {
    let Ok(way) = Way::to(host, address) else { return false };
    matches!(is_linked(host), Ok(false)) && way.is_none_or(|way| way.remove(host).is_ok())
}

/// Takes the way to an address away that no pod has by its link or by rules, and lets the address rest. Whether nothing of the former pod's is in the
/// way of others. A pod has its link, then its ways, then its rules: looked at in this order, one of them tells of each of its addresses.
fn is_cleared(address: IpAddr, seen: &[ObservedRule], socket: &mut Frames, store: &Store, host: &mut Netlink) -> Result<bool, StraysError> {
    let mut is_anothers = |host: &mut Netlink| {
        let Linked { addresses, bridged } = Linked::observe(host)?;
        Ok(addresses.contains(&address) || frames::may_be_anothers(address, &bridged, seen, &socket.observe()?))
    };
    let mut taken = || take_away(host, address, &mut is_anothers);
    match address {
        IpAddr::V4(address) => store.clear(address, &mut taken).map_err(|source| StraysError::Store { address, source }),
        // The store has none of these: other plugins give them.
        IpAddr::V6(_) => Ok(taken()),
    }
}
