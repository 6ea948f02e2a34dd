//! Azure's error bodies, and the class that each belongs to.

use std::time::Duration;

use serde_json::Value;

use super::Class;

/// Azure's error: codes from the outermost to the innermost, with their messages.
pub(super) struct Envelope(Vec<(String, String)>);

impl Envelope {
    pub(super) fn parse(body: &[u8]) -> Self {
        Self::of(&serde_json::from_slice(body).unwrap_or(Value::Null))
    }
    pub(super) fn of(value: &Value) -> Self {
        // Published Compute throttle bodies lack the `error` wrapper.
        let error = value.get("error").filter(|e| e.is_object()).unwrap_or(value);
        let details = error.get("details").and_then(Value::as_array).into_iter().flatten();
        let entries = std::iter::once(error).chain(details).filter_map(|entry| {
            let text = |key| entry.get(key).and_then(Value::as_str).map(str::to_owned);
            Some((text("code")?, text("message").unwrap_or_default()))
        });
        Self(entries.collect())
    }
    fn has(&self, code: &str) -> bool {
        self.0.iter().any(|(c, _)| c.eq_ignore_ascii_case(code))
    }
    fn says(&self, words: &str) -> bool {
        self.0.iter().any(|(_, message)| message.to_ascii_lowercase().contains(words))
    }
    fn quoted_after(&self, words: &str) -> Option<String> {
        self.0.iter().find_map(|(_, message)| {
            let (_, rest) = message.split_once(words)?;
            Some(rest.split_once('\'')?.0.to_owned())
        })
    }
    /// The code that says most, with its message: details are more telling than their generic heads.
    pub(super) fn telling(&self, status: u16) -> (String, String) {
        let generic = ["RetryableError", "Canceled", "PreconditionFailed", "OperationNotAllowed"];
        let mut entries = self.0.iter();
        let head = entries.next();
        let detail = entries.next();
        let chosen = match (head, detail) {
            (Some(head), Some(detail)) if generic.iter().any(|g| head.0.eq_ignore_ascii_case(g)) => Some(detail),
            (head, _) => head,
        };
        chosen.map_or_else(|| (format!("Http{status}"), "no explanation in the answer".to_owned()), Clone::clone)
    }
}

pub(super) fn class_of_answer(status: u16, retry_after: Option<Duration>, error: &Envelope) -> Class {
    match status {
        401 => Class::Unauthenticated,
        403 if error.has("AuthorizationFailed") || error.has("LinkedAuthorizationFailed") => Class::Forbidden {
            action: error.quoted_after("perform action(s) '").or_else(|| error.quoted_after("perform action '")),
            scope: error.quoted_after("over scope '").or_else(|| error.quoted_after("linked scope(s) '")),
        },
        403 => Class::Locked,
        404 => Class::Gone,
        409 if error.has("ScopeLocked") => Class::Locked,
        412 => Class::Stale,
        _ if is_subnet_full(error) => Class::SubnetFull,
        _ if error.says("marked for deletion") || error.says("not an active virtual machine scale set vm") => Class::Gone,
        429 if error.has("RetryableError") || error.has("ReferencedResourceNotProvisioned") => {
            Class::Busy { retry_after: retry_after.or_else(|| seconds_named(error)) }
        }
        429 => Class::Throttled { retry_after: retry_after.or_else(|| seconds_named(error)) },
        _ if error.has("ReferencedResourceNotProvisioned") || error.has("NicReservedForAnotherVm") => Class::Busy { retry_after },
        409 if is_superseded(error) => Class::Superseded,
        409 => Class::Busy { retry_after },
        408 | 500..=599 => Class::Unavailable { retry_after },
        _ => Class::Rejected,
    }
}

pub(super) fn class_of_operation(canceled: bool, error: &Envelope) -> Class {
    if is_subnet_full(error) {
        return Class::SubnetFull;
    }
    if canceled || is_superseded(error) {
        return Class::Superseded;
    }
    if error.says("marked for deletion") {
        return Class::Gone;
    }
    if error.has("RetryableError") || error.has("ReferencedResourceNotProvisioned") || error.has("AnotherOperationInProgress") {
        return Class::Busy { retry_after: seconds_named(error) };
    }
    Class::Failed
}

fn is_subnet_full(error: &Envelope) -> bool {
    error.has("SubnetIsFull") || error.says("does not have enough capacity for")
}

fn is_superseded(error: &Envelope) -> bool {
    error.has("OperationPreempted")
        || error.has("CanceledAndSupersededDueToAnotherOperation")
        || error.says("preempted by a more recent operation")
}

/// The wait that only the message names: "try again after '6' seconds", "can be retried in 12 seconds".
fn seconds_named(error: &Envelope) -> Option<Duration> {
    error.0.iter().find_map(|(_, message)| {
        let (_, rest) = message.split_once("again after ").or_else(|| message.split_once("retried in "))?;
        let digits: String = rest.trim_start_matches('\'').chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok().map(Duration::from_secs)
    })
}
