//! Keeps our iptables chains in the back end that the node uses, and looks at them only when something may have changed.

use azure_vnet_crds::config::Backend;
use azure_vnet_operator_core::rules::{self, Chains, Policy, Program};
use tracing::{info, warn};

use super::{
    generation,
    iptables::{self, Iptables, IptablesError, LIMIT, Looked, Settled},
};
use crate::child::Limit;

/// What is known of the back end.
#[derive(Debug, Default)]
pub struct Firewall {
    chosen: Option<Chosen>,
    /// What was in place when the rules of the kernel had this generation.
    seen: Option<(u32, Chains)>,
    /// Rules of others that decide about pods before ours.
    pub foreign: Vec<String>,
}

#[derive(Debug)]
struct Chosen {
    iptables: Iptables,
    setting: Backend,
    settled: Settled,
}

impl Firewall {
    /// Brings the rules to what the policy asks for. Answers what differed.
    ///
    /// # Errors
    /// When iptables fails.
    pub fn converge(&mut self, setting: Backend, policy: &Policy) -> Result<Vec<String>, IptablesError> {
        let limit = Limit::of(LIMIT);
        let iptables = self.choose(setting, limit)?;
        let desired = rules::desire(policy);
        // Read before looking: a change in between is seen the next time.
        let generation = match iptables.program() {
            Program::Nft => generation::current().ok().flatten(),
            Program::Legacy => None,
        };
        if self.seen.as_ref().is_some_and(|(seen, chains)| Some(*seen) == generation && *chains == desired) {
            return Ok(vec![]);
        }
        let Looked { differed, chains } = iptables::converge(&iptables, &desired, limit)?;
        self.foreign = rules::foreign(&chains, &policy.pool);
        self.seen = generation.map(|generation| (generation, desired));
        Ok(differed)
    }

    /// Decides which back end; until something tells, decides anew each time.
    fn choose(&mut self, setting: Backend, limit: Limit) -> Result<Iptables, IptablesError> {
        if let Some(Chosen { iptables, setting: chosen_by, settled: Settled::Yes }) = &self.chosen
            && *chosen_by == setting
        {
            return Ok(iptables.clone());
        }
        let (iptables, settled) = iptables::choose(setting, limit)?;
        if self.chosen.as_ref().is_none_or(|chosen| chosen.iptables != iptables) {
            info!(program = ?iptables.program(), ?settled, "iptables back end");
            self.seen = None;
            // Its own time: what the looks left of the other would not always do, and this is done once.
            leave_other(&iptables, Limit::of(LIMIT));
        }
        self.chosen = Some(Chosen { iptables: iptables.clone(), setting, settled });
        Ok(iptables)
    }
}

/// Takes our chains out of the back end that the node does not use: rules in both would masquerade twice.
fn leave_other(chosen: &Iptables, limit: Limit) {
    let other = match chosen.program() {
        Program::Nft => Iptables::new(Program::Legacy),
        Program::Legacy => Iptables::new(Program::Nft),
    };
    if other.has_tables()
        && let Err(error) = iptables::withdraw(&other, limit)
    {
        warn!(error = %super::problems::chain(&error), program = ?other.program(), "our rules may remain in the back end that the node does not use");
    }
}
