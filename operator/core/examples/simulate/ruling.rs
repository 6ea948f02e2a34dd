//! What configs say for a node, and what a controller makes of it.

use std::sync::Arc;

use azure_vnet_crds::{AzureVnetNode, AzureVnetNodeSpec};
use azure_vnet_operator_core::policy::Policy;

use crate::{
    fault::{Fault, Mutation},
    world::World,
};

/// What configs say for a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ruling {
    /// One of the plan's policies.
    Valid(usize),
    /// This policy was in force before its config became invalid, at a time.
    Invalid { last: usize, since: i64 },
    /// No config selects it.
    Gone,
}

impl Ruling {
    /// What follows when a config changes: another counts, or the one that does becomes invalid or is deleted.
    pub fn then(self, policy: Option<usize>, fault: Fault, now: i64) -> Self {
        match (policy, self) {
            (Some(policy), _) => Self::Valid(policy),
            (None, Self::Valid(last)) if fault == Fault::K06ConfigInvalid => Self::Invalid { last, since: now },
            (None, Self::Invalid { .. } | Self::Gone) if fault == Fault::K06ConfigInvalid => self,
            (None, _) => Self::Gone,
        }
    }
}

/// What is kept of each policy in the objects that were written by it.
pub fn kept(policies: &[Policy]) -> Vec<Policy> {
    let written = |policy: &Policy| AzureVnetNodeSpec {
        config: policy.config.clone(),
        effective: policy.effective.clone(),
        ..AzureVnetNodeSpec::default()
    };
    policies.iter().filter_map(|policy| Policy::kept(&written(policy))).collect()
}

impl<'p> World<'p> {
    /// What a node is to be served by; none where nothing was ever in force for it.
    pub fn policy(&self, name: usize) -> Option<&'p Policy> {
        let leader = (0..self.replicas.len()).find(|replica| self.replicas[*replica].leads(self.now)).unwrap_or_default();
        self.due_policy(leader, name, self.server.objects.get(&name))
    }

    /// What a controller serves a node by, whose object it knows.
    pub fn policy_of(&self, replica: usize, name: usize, object: Option<&Arc<AzureVnetNode>>) -> Option<&'p Policy> {
        let valid = matches!(self.rulings[name], Ruling::Valid(_));
        self.due_policy(replica, name, object).filter(|_| valid || self.plan.mutation != Some(Mutation::ConfigOnly))
    }

    fn due_policy(&self, replica: usize, name: usize, object: Option<&Arc<AzureVnetNode>>) -> Option<&'p Policy> {
        let saw = |since: i64| self.replicas[replica].watches_since.is_some_and(|at| at < since);
        match self.rulings[name] {
            Ruling::Valid(policy) => self.plan.policies.get(policy),
            Ruling::Invalid { last, since } if saw(since) => self.plan.policies.get(last),
            Ruling::Invalid { .. } | Ruling::Gone => {
                let config = &object?.spec.config;
                self.plan.kept.iter().find(|kept| kept.config == *config)
            }
        }
    }
}
