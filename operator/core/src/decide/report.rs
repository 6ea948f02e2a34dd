//! What the object's status says.

use std::{borrow::Cow, time::Duration};

use azure_vnet_crds::{
    config::Mode,
    node::{Cloud, CloudError},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::{Attempt, addresses, blocks, later, settle, since, sizing::Sizes, stamp, step::Step};
use crate::arm::{Class, Error};

/// How often a read that changed nothing is written down.
const NOTE_READS: Duration = Duration::from_mins(5);
/// Of an instance that Azure is done with.
const DIFFERS: (&str, &str) = (
    "ModelDiffers",
    "Azure is done with the machine, and its NIC has not the IP configurations of its model: nothing is written until they agree. Find who else \
     writes the instance or its scale set; an update of the instance from its own model, or a reimage, ends it.",
);
/// Of a node in a full subnet that has not asked itself.
const HELD: (&str, &str) = (
    "SubnetExhausted",
    "Azure has no address left in the node's subnet, whose nodes ask for some one after the other. Enlarge the subnet (add a prefix), remove unused NICs \
     from it, or lower pool.max and pool.minFree.",
);
/// The most characters of a condition's message.
const MESSAGE: usize = 32_768;
/// Conditions that the controller owns.
const OURS: [&str; 5] = ["Ready", "InDeficit", "AtCapacity", "NicWritable", "AgentAlive"];

/// A condition as it is now: its status, reason and message.
type Said = (bool, &'static str, Cow<'static, str>);
/// All of the controller's in their order: as it is now, and as it is stored. Without the former the latter stays.
type Found<'a> = Vec<(&'static str, Option<Said>, Option<&'a Condition>)>;

/// Completes `cloud` and the conditions, and asks to write them if they differ from what is stored.
pub fn write(step: &mut Step<'_>) {
    let sizes = step.observed.nic.as_ref().map(|nic| {
        step.cloud.attached = addresses(&nic.view.attached().collect::<Vec<_>>());
        step.cloud.foreign = nic.view.foreign;
        let sizes = Sizes::of(step, &nic.view);
        step.cloud.target = sizes.target;
        sizes
    });
    step.cloud.last_id = step.cloud.last_id.max(step.memory.last_id);
    let writes = step.observed.last.as_ref();
    // Single addresses are asked for in place of blocks.
    let standing = writes.filter(|last| !blocks::was_denied(step, last));
    let failed = step.observed.read_failure.as_ref().or(standing).and_then(|last| Some((last, last.result.as_ref().err()?)));
    match failed {
        Some((last, error)) => step.cloud.last_error = Some(cloud_error(last, error)),
        None if writes.is_some() || sizes.is_some_and(|sizes| sizes.holding >= sizes.target) => step.cloud.last_error = None,
        None => {}
    }
    let error = gone(step.observed.read_failure.as_ref()).or(standing.and_then(|last| last.result.as_ref().err()));
    let found = conditions(step, sizes.as_ref(), error);
    let none = Cloud::default();
    let stored = step.status.cloud.as_ref().unwrap_or(&none);
    let same = step.status.cloud.is_some() && step.cloud == *stored && is_stored(step, &found);
    let noted = stored.last_read_at.as_ref().map(|at| at.0);
    // Agents take it for a word on all that is listed (safety rules RE5, RE6, RE8).
    let read = step.observed.nic.as_ref().filter(|nic| step.missing(&nic.view).is_empty()).map(|nic| nic.at);
    // A stamp from ahead of the clock would hide every read until the clock is there.
    let stale = read.is_some_and(|read| noted.is_none_or(|noted| noted > read || since(noted, read) >= NOTE_READS));
    // It is noted in whole seconds: one of the same second would be written again and again.
    let to_note = step.note_read && read.is_some_and(|read| noted.is_none_or(|noted| stamp(read).0 > noted));
    if !same || stale || to_note {
        step.cloud.last_read_at = read.map(stamp).or(stored.last_read_at.clone());
        step.out.cloud = Some(step.cloud.clone());
    }
    if step.out.cloud.is_some() || step.policy.mode == Mode::Plan || stored.plan.is_some() {
        let now = |(kind, said, old): (&str, Option<Said>, Option<&Condition>)| match said {
            Some(said) => Some(condition(kind, &said, old, step)),
            None => old.cloned(),
        };
        step.out.conditions = found.into_iter().filter_map(now).collect();
    }
}

/// Whether the conditions are stored as they are now.
fn is_stored(step: &Step<'_>, found: &Found<'_>) -> bool {
    let is_same = |said: &Option<Said>, old: &Condition| {
        said.as_ref().is_none_or(|(status, reason, message)| {
            old.status == word(*status)
                && old.reason == *reason
                && old.message == *cut(message, MESSAGE)
                && old.observed_generation.is_none()
        })
    };
    let mut stored = step.status.conditions.iter().filter(|condition| OURS.contains(&condition.type_.as_str()));
    let mut now = found.iter().filter(|(_, said, old)| said.is_some() || old.is_some());
    stored.all(|old| now.next().is_some_and(|(kind, said, _)| *kind == old.type_ && is_same(said, old))) && now.next().is_none()
}

fn word(status: bool) -> &'static str {
    if status { "True" } else { "False" }
}

/// That the machine or its NIC is gone, once two reads in a row have said so: Azure's answers may be of a moment ago.
fn gone(read: Option<&Attempt>) -> Option<&Error> {
    let error = read.filter(|read| read.failures >= 2)?.result.as_ref().err()?;
    (error.class == Class::Gone).then_some(error)
}

fn cloud_error(last: &Attempt, error: &Error) -> CloudError {
    CloudError {
        code: cut(&error.code, 256).into_owned(),
        message: cut(&error.to_string(), 4096).into_owned(),
        action: cut(&error.remedy(), 1024).into_owned(),
        at: Some(stamp(last.at)),
        retry_at: Some(stamp(later(last.at, settle::back_off(error, last.failures)))),
    }
}

/// A text of at most that many characters.
fn cut(text: &str, most: usize) -> Cow<'_, str> {
    if text.len() <= most { text.into() } else { text.chars().take(most).collect() }
}

fn conditions<'a>(step: &Step<'a>, sizes: Option<&Sizes>, error: Option<&Error>) -> Found<'a> {
    let blocked = error.filter(|error| match &error.class {
        Class::Forbidden { .. } | Class::Locked | Class::Unauthenticated | Class::SubnetFull | Class::Rejected | Class::Gone => true,
        Class::Throttled { .. }
        | Class::Busy { .. }
        | Class::Stale
        | Class::Superseded
        | Class::Unavailable { .. }
        | Class::Failed
        | Class::NotSent => false,
    });
    let writable = match blocked {
        Some(error) => (false, error.reason(), error.remedy()),
        None if step.differs() => (false, DIFFERS.0, DIFFERS.1.into()),
        None => match blocks::hindrance(step) {
            Some(why) => (true, why.reason(), why.message().into()),
            None => (true, "Writable", "Azure takes writes to the NIC.".into()),
        },
    };
    let said = [
        Some(ready(step, sizes, blocked)),
        sizes.map(|sizes| deficit(step, sizes, error)),
        sizes.map(capacity),
        Some(writable),
        Some(alive(step)),
    ];
    let stored = |kind: &str| step.status.conditions.iter().find(|condition| condition.type_ == kind);
    OURS.into_iter().zip(said).map(|(kind, said)| (kind, said, stored(kind))).collect()
}

fn condition(kind: &str, (status, reason, message): &Said, old: Option<&Condition>, step: &Step<'_>) -> Condition {
    let (status, reason) = (word(*status), *reason);
    let since = old.filter(|old| old.status == status).map(|old| old.last_transition_time.clone());
    Condition {
        type_: kind.into(),
        status: status.into(),
        reason: reason.into(),
        message: cut(message, MESSAGE).into_owned(),
        last_transition_time: since.unwrap_or(stamp(step.now)),
        observed_generation: None,
    }
}

fn ready(step: &Step<'_>, sizes: Option<&Sizes>, blocked: Option<&Error>) -> Said {
    let Some(agent) = step.observed.agent() else {
        return (false, "AgentSilent", "The node's agent has not reported for this boot: see its pod's log.".into());
    };
    let starved = sizes.is_some_and(|sizes| sizes.holding < sizes.target) && agent.counts.free == 0;
    match blocked.filter(|_| starved) {
        Some(error) => (false, error.reason(), error.remedy()),
        None if starved && step.observed.held.is_some() => (false, HELD.0, HELD.1.into()),
        None if !agent.ready => {
            (false, "AgentNotReady", "The agent has not put the CNI configuration in place yet: see its conditions.".into())
        }
        None => (true, "Ready", "The node's pods get VNET addresses.".into()),
    }
}

fn alive(step: &Step<'_>) -> Said {
    match step.observed.agent() {
        None => (false, "NoReport", "The node's agent has not reported for this boot: see its pod on the node.".into()),
        Some(_) if step.memory.unanswered => {
            let remedy = "The agent did not answer when it was asked to set idle addresses aside: see its pod on the node.";
            (false, "ReleaseUnanswered", remedy.into())
        }
        Some(_) => (true, "Reports", "The node's agent reports.".into()),
    }
}

fn deficit(step: &Step<'_>, sizes: &Sizes, error: Option<&Error>) -> Said {
    if sizes.holding >= sizes.target {
        return (false, "Filled", "The node holds what it should.".into());
    }
    if let Some(from) = step.cloud.publish_from.as_ref().filter(|from| step.stored.spec.revision == 0 && from.0 > step.now) {
        let message = format!("An object before this one may have left a write under way: nothing is published before {}.", from.0);
        return (true, "AwaitsEarlierWrites", message.into());
    }
    match (step.policy.mode, error) {
        (Mode::Plan, _) => (true, "Planned", "The config's mode is Plan: status.cloud.plan shows what Enforce would send.".into()),
        (Mode::Paused, _) => (true, "Paused", "The config's mode is Paused: set it to Enforce for more addresses.".into()),
        (Mode::Enforce, Some(error)) => (true, error.reason(), error.remedy()),
        (Mode::Enforce, None) if step.observed.held.is_some() => (true, HELD.0, HELD.1.into()),
        (Mode::Enforce, None) if step.differs() => (true, DIFFERS.0, DIFFERS.1.into()),
        (Mode::Enforce, None) => (true, "Filling", "More addresses are on their way.".into()),
    }
}

fn capacity(sizes: &Sizes) -> Said {
    if sizes.cap > 0 && sizes.used < sizes.cap {
        return (false, "Below", "The node can hold more addresses.".into());
    }
    let remedy = "The node needs all addresses that it may hold: raise pool.max (a NIC carries at most 255), or place fewer pods on it.";
    (true, "AtCapacity", remedy.into())
}
