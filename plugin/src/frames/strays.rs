//! Rules of bridged pods that are gone, where no lease tells of them and no DEL will come.

use std::collections::BTreeSet;

use azure_vnet_plugin_core::{
    attachment::Attachment,
    frames::{ObservedRule, RulePlan},
};

use super::Frames;
use crate::netlink::NetlinkError;

/// The rules of pods as they were before anyone was asked which pods there are.
#[derive(Debug)]
pub struct RulesSeen {
    socket: Option<Frames>,
    rules: Vec<ObservedRule>,
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

    /// Removes those of pods that are not among the `known` ones: no DEL will. A pod's link has its label before the pod has rules.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn forget_all_but(self, known: &BTreeSet<Attachment>) -> Result<(), NetlinkError> {
        let Self { socket, rules } = self;
        match socket {
            Some(mut socket) if !RulePlan::without_strays(&rules, known, &rules).is_empty() => {
                socket.settle(|there| RulePlan::without_strays(&rules, known, there))
            }
            Some(_) | None => Ok(()),
        }
    }
}
