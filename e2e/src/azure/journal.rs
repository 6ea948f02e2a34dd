//! What was asked of the cloud and by whom: the call log, counters, writes, and changes of what was not the writer's. Kept in memory, bounded.

use std::collections::VecDeque;
use std::time::Duration;

use serde_json::Value;

use super::answer::Request;
use super::command::{Call, Class, Counters, Write};
use super::ledger::millis;

/// Calls that are remembered.
const CALLS: usize = 200_000;
/// The prefix of the operator's own configurations.
const OWN: &str = "avn-";

#[derive(Debug, Default)]
pub(super) struct Journal {
    pub counters: Counters,
    pub writes: Vec<Write>,
    pub disturbances: Vec<String>,
    calls: VecDeque<Call>,
    seq: u64,
}

impl Journal {
    pub fn called(&mut self, now: Duration, class: Class, request: &Request, by: String, status: u16, code: Option<String>) {
        let counters = &mut self.counters;
        count(&mut counters.calls, class);
        match status {
            429 => count(&mut counters.throttled, class),
            400.. | 0 => count(&mut counters.errors, class),
            _ => {}
        }
        if self.calls.len() == CALLS {
            self.calls.pop_front();
        }
        self.calls.push_back(Call {
            seq: self.seq,
            at_millis: millis(now),
            class,
            method: request.method.clone(),
            path: request.target.clone(),
            by,
            if_match: request.header("if-match").map(str::to_owned),
            status,
            code,
        });
        self.seq = self.seq.saturating_add(1);
    }

    pub fn wrote(&mut self, now: Duration, nic: &str, node: Option<String>, by: &str, added: Vec<String>, removed: Vec<String>) {
        let writes = self.counters.writes.entry(nic.to_owned()).or_default();
        *writes = writes.saturating_add(1);
        self.writes.push(Write { at_millis: millis(now), nic: nic.into(), node, by: by.into(), added, removed });
    }

    /// Notes members that a write changed although they belong to nobody's slots.
    pub fn disturbed(&mut self, resource: &str, by: &str, before: &Value, after: &Value) {
        if by == super::cloud::FOREIGN {
            return;
        }
        let (before, after) = (foreign(before), foreign(after));
        if before != after {
            self.disturbances.push(format!("{by} changed {resource}: {before} became {after}"));
        }
    }

    pub fn calls_since(&self, seq: u64) -> impl Iterator<Item = &Call> {
        self.calls.iter().filter(move |call| call.seq >= seq)
    }
}

fn count(counters: &mut std::collections::BTreeMap<Class, u64>, class: Class) {
    let counter = counters.entry(class).or_default();
    *counter = counter.saturating_add(1);
}

/// The document without what a write of slots changes: states, etags, our configurations.
fn foreign(document: &Value) -> Value {
    match document {
        Value::Object(members) => {
            let kept = members.iter().filter(|(name, _)| !matches!(name.as_str(), "etag" | "provisioningState" | "modelDefinitionApplied"));
            Value::Object(kept.map(|(name, value)| (name.clone(), foreign(value))).collect())
        }
        Value::Array(items) => {
            let own = |item: &&Value| item.get("name").and_then(Value::as_str).is_some_and(|name| name.starts_with(OWN));
            Value::Array(items.iter().filter(|item| !own(item)).map(foreign).collect())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => document.clone(),
    }
}
