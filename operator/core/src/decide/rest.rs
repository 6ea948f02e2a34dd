//! How often a NIC is read for its own sake: once an hour where its machine's IMDS agrees with what is listed, at once where it does not any more, and every
//! ten minutes where it says nothing or goes on to differ.

use std::time::Duration;

use azure_vnet_crds::node::{Agent, Imds, StoreCounts};
use jiff::Timestamp;

use super::{
    NicRead, READ_EVERY, addresses, releasing, since,
    sizing::spread,
    step::{MISSING, Step},
};
use crate::size;

/// Where IMDS agrees. With what follows, 5,000 NICs are read less than a hundred times a minute.
const AGREED: Duration = Duration::from_hours(1);
/// By how much of it sooner, at most, so that the nodes of one day do not stay together.
const SPREAD: Duration = Duration::from_mins(6);

/// What the machine's IMDS says of the NIC, by the agent's word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Word {
    /// Nothing yet.
    #[default]
    Unheard,
    /// It shows what is listed, and nothing else but what others have.
    Agrees,
    /// Nothing any more.
    Silent {
        /// Since when.
        since: Timestamp,
    },
    /// It shows something else.
    Differs {
        /// How.
        by: Imds,
        /// Since when.
        since: Timestamp,
    },
}

/// How long until the NIC is read for its own sake.
pub fn left(step: &mut Step<'_>, nic: &NicRead) -> Duration {
    step.memory.word = word(step, nic);
    let (after, read) = match step.memory.word {
        Word::Agrees => (AGREED.saturating_sub(SPREAD * spread(&step.observed.node.uid) / 1000), nic.ended),
        Word::Silent { since } => (READ_EVERY, nic.ended.max(since)),
        // One that differs now in this and now in that costs a read a minute at most.
        Word::Differs { since, .. } if nic.at < since => (MISSING, nic.ended),
        Word::Unheard | Word::Differs { .. } => (READ_EVERY, nic.ended),
    };
    after.saturating_sub(since(read, step.now)).min(AGREED.saturating_sub(since(nic.ended, step.now)))
}

fn word(step: &Step<'_>, nic: &NicRead) -> Word {
    let now = step.now;
    match (imds(step), step.memory.word) {
        (Some(by), _) if by.missing == 0 && by.others == nic.view.foreign_ipv4 => Word::Agrees,
        (Some(by), known @ Word::Differs { by: known_by, .. }) if known_by == by => known,
        (Some(by), _) => Word::Differs { by, since: now },
        (None, known @ (Word::Unheard | Word::Silent { .. })) => known,
        (None, Word::Agrees | Word::Differs { .. }) => Word::Silent { since: now },
    }
}

/// What counts of it: of the revision that is stored, and while nobody waits for a read of the NIC.
fn imds(step: &Step<'_>) -> Option<Imds> {
    let agent = step.observed.agent().filter(|agent| agent.revision_adopted == step.stored.spec.revision)?;
    let waits = agent.counts.quarantined > addresses(&releasing(&step.spec.release)) || step.memory.holding_back.is_some();
    agent.imds.filter(|_| !waits && !withholds(step, agent))
}

/// Whether the agent offers pods less than is listed for them, as what came again a moment after it had gone: it waits for a read of the NIC.
fn withholds(step: &Step<'_>, agent: &Agent) -> bool {
    let StoreCounts { assigned, cooling, quarantined, free } = agent.counts;
    let known = [assigned, cooling, quarantined, free].into_iter().fold(0, u16::saturating_add);
    known < addresses(&step.stored.spec.addresses).saturating_sub(size::kept_from_pods(&step.stored.spec))
}
