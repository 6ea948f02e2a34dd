//! The first minutes of a node: what it is filled with before its pods come, and what its kin learn of it.

use std::time::Duration;

use azure_vnet_crds::node::{Intent, IntentOp};

use super::{
    Attempt, Watch, since,
    sizing::{Sizes, is_full},
    status,
    step::Step,
};
use crate::{
    first_fill::{self, Fill, First},
    nic::View,
};

/// For how long its pods' need tells what the next new node needs.
const WATCH: Duration = Duration::from_mins(2);

/// What a new node is to hold; none once it is no longer new, or where its subnet had no room for that. What is learned while it is filled is for the
/// next one, also where another leader began to fill it.
pub fn first(step: &Step<'_>) -> Option<First> {
    left(step).filter(|_| !step.memory.declined)?;
    let fill = match step.memory.filled {
        None if is_unfilled(step) => Fill::Due,
        filled => Fill::Begun(filled),
    };
    Some(step.policy.first.at(fill))
}

/// Notes what became of the first fill, and when the node is to be looked at again.
pub fn keep(step: &mut Step<'_>) {
    let Some(left) = left(step) else {
        (step.memory.filled, step.memory.declined) = (None, false);
        return;
    };
    step.memory.declined |= step.observed.last.as_ref().is_some_and(|last| was_generous(step, last));
    step.wake(left);
}

/// Keeps how many a new node is first filled with, when the write for it is opened.
pub fn freeze(step: &mut Step<'_>, sizes: &Sizes) {
    if let Some(First::Learned(_)) = first(step).filter(|_| is_unfilled(step)) {
        step.memory.filled = Some(sizes.target);
    }
}

/// Whether an intent asks for more than the node would hold if it were not new.
pub fn is_generous(step: &Step<'_>, intent: &Intent, view: &View) -> bool {
    let sizes = Sizes::of(step, view);
    let usual = usize::from(sizes.usual.saturating_sub(sizes.holding).div_ceil(intent.unit.size()));
    intent.op == IntentOp::Add && first(step).is_some() && intent.add.len() > usual
}

/// Whether a write found no room in the subnet since it was generous: the same for less may go at once.
pub fn was_generous(step: &Step<'_>, last: &Attempt) -> bool {
    is_full(last) && last.intent.is_some() && last.intent == step.memory.generous
}

/// Notes in the node's object, once, the most that pods needed at once when it had just come into service. Of a node that was in service when this
/// process first looked, a former leader may have seen the beginning, and nobody knows it: it tells nothing.
pub fn watch(step: &mut Step<'_>) {
    if step.cloud.first_need.is_some() {
        return step.memory.first_need = Watch::Unseen;
    }
    let Some(agent) = step.observed.agent().filter(|agent| agent.ready) else {
        let is_before = status(step.stored).agent.as_ref().is_none_or(|agent| agent.revision_adopted == 0);
        if is_before && left(step).is_some() && step.memory.first_need == Watch::Unseen {
            step.memory.first_need = Watch::Awaited;
        }
        return;
    };
    let (begun, most) = match step.memory.first_need {
        Watch::Unseen => return,
        Watch::Awaited if left(step).is_none() => return step.memory.first_need = Watch::Unseen,
        Watch::Awaited => (step.now, 0),
        Watch::Begun { at, most } => (at, most),
    };
    let most = most.max(agent.demand);
    let rest = WATCH.saturating_sub(since(begun, step.now));
    if rest.is_zero() {
        step.memory.first_need = Watch::Unseen;
        step.cloud.first_need = Some(most);
    } else {
        step.memory.first_need = Watch::Begun { at: begun, most };
        step.wake(rest);
    }
}

/// Whether nothing was published for the node yet.
fn is_unfilled(step: &Step<'_>) -> bool {
    step.stored.spec.revision == 0
}

fn left(step: &Step<'_>) -> Option<Duration> {
    first_fill::left(step.observed.node.created, step.now)
}
