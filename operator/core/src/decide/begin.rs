//! The first minutes of a node: what it is filled with before its pods come, and what its kin learn of it.

use std::time::Duration;

use super::{since, step::Step};
use crate::first_fill::First;

/// How long a node counts as new.
const NEW: Duration = Duration::from_mins(10);
/// For how long its pods' need tells what the next new node needs.
const WATCH: Duration = Duration::from_mins(2);

/// What a new node is to hold; none once it is no longer new.
pub fn first(step: &Step<'_>) -> Option<First> {
    let learned = |first| step.memory.learned.map_or(first, First::Learned);
    left(step).map(|_| match step.policy.first {
        First::Count(count) => First::Count(count),
        first @ First::Learned(_) => learned(first),
    })
}

/// Keeps what a new node is first sized by: what others need meanwhile is for the next one, and to a controller that comes later it is no new one.
pub fn keep(step: &mut Step<'_>) {
    let Some(left) = left(step) else {
        step.memory.learned = None;
        return;
    };
    if let First::Learned(needed) = step.policy.first {
        let untouched = step.stored.spec.revision == 0;
        step.memory.learned.get_or_insert(if untouched { needed } else { 0 });
    }
    step.wake(left);
}

/// Notes in the node's object, once, the most that pods needed at once when it had just come into service.
pub fn watch(step: &mut Step<'_>) {
    let due = step.cloud.first_need.is_none() && (left(step).is_some() || step.memory.first_need.is_some());
    let Some(agent) = step.observed.agent().filter(|agent| due && agent.ready) else { return };
    let (begun, most) = step.memory.first_need.unwrap_or((step.now, 0));
    let most = most.max(agent.demand);
    let rest = WATCH.saturating_sub(since(begun, step.now));
    if rest.is_zero() {
        step.memory.first_need = None;
        step.cloud.first_need = Some(most);
    } else {
        step.memory.first_need = Some((begun, most));
        step.wake(rest);
    }
}

/// For how long the node goes on being new.
fn left(step: &Step<'_>) -> Option<Duration> {
    NEW.checked_sub(since(step.observed.node.created, step.now)).filter(|left| !left.is_zero())
}
