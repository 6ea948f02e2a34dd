//! Token buckets of ARM and of the providers, at Azure's documented sizes. Integers only: micro-tokens and milliseconds.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;

use super::command::RetryAfter;
use super::error::ArmError;
use super::ledger::millis;
use super::path::{ArmPath, Kind};

/// Headers to send, by name.
type Headers = Vec<(String, String)>;

const MICRO: u64 = 1_000_000;

#[derive(Debug, Default)]
pub(super) struct Limits {
    buckets: BTreeMap<String, Bucket>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    level: u64,
    at: u64,
    /// While a policy of Compute is closed, a call is refused and renews the wait.
    closed_until: u64,
}

/// A limit that a call counts against.
#[derive(Debug, Clone)]
struct Policy {
    key: String,
    name: String,
    owner: Owner,
    capacity: u64,
    per_minute: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    Arm,
    Network,
    Compute,
}

impl Limits {
    /// Takes a token of every bucket that the call counts against: headers to send, or the refusal.
    pub fn take(
        &mut self,
        path: &ArmPath,
        method: &str,
        by: &str,
        now: Duration,
        percent: Option<u64>,
    ) -> Result<Headers, (ArmError, Headers)> {
        let now = millis(now);
        let share = percent.unwrap_or(100);
        let policies = policies(path, method, by);
        for policy in &policies {
            self.refill(policy, now, share);
        }
        let refusal = policies.iter().find_map(|policy| self.wait(policy, now, share).map(|seconds| (policy, seconds)));
        if let Some((policy, seconds)) = refusal.filter(|_| percent.is_some()) {
            if let Some(bucket) = self.buckets.get_mut(&policy.key).filter(|_| policy.owner == Owner::Compute) {
                bucket.closed_until = now.saturating_add(seconds.saturating_mul(1000));
            }
            return Err((refused(policy, seconds, path, method), self.headers(&policies)));
        }
        for policy in &policies {
            if let Some(bucket) = self.buckets.get_mut(&policy.key) {
                bucket.level = bucket.level.saturating_sub(MICRO);
            }
        }
        Ok(self.headers(&policies))
    }

    fn refill(&mut self, policy: &Policy, now: u64, share: u64) {
        let full = policy.capacity.saturating_mul(MICRO / 100).saturating_mul(share).max(MICRO);
        let bucket = self.buckets.entry(policy.key.clone()).or_insert(Bucket { level: full, at: now, closed_until: 0 });
        let gained = now.saturating_sub(bucket.at).saturating_mul(policy.per_minute).saturating_mul(share) / 6;
        bucket.level = bucket.level.saturating_add(gained).min(full);
        bucket.at = now;
    }

    /// Seconds to wait for a token, if there is none.
    fn wait(&self, policy: &Policy, now: u64, share: u64) -> Option<u64> {
        let bucket = self.buckets.get(&policy.key)?;
        if bucket.level >= MICRO && bucket.closed_until <= now {
            return None;
        }
        let per_second = policy.per_minute.saturating_mul(share).saturating_mul(MICRO) / 6000;
        Some(MICRO.saturating_sub(bucket.level).div_ceil(per_second.max(1)).max(1))
    }

    fn headers(&self, policies: &[Policy]) -> Headers {
        let left = |policy: &Policy| self.buckets.get(&policy.key).map_or(0, |bucket| bucket.level / MICRO);
        let header = |policy: &Policy| match policy.owner {
            Owner::Arm => Some((format!("x-ms-ratelimit-remaining-{}", policy.name), left(policy).to_string())),
            Owner::Compute => {
                Some(("x-ms-ratelimit-remaining-resource".to_owned(), format!("Microsoft.Compute/{};{}", policy.name, left(policy))))
            }
            Owner::Network => None,
        };
        policies.iter().filter_map(header).collect()
    }
}

/// The buckets of a call, those of ARM last: a provider that refuses is heard first. Each subscription has its own.
fn policies(path: &ArmPath, method: &str, by: &str) -> Vec<Policy> {
    let mut policies = provider_policies(path, method);
    let (what, capacity, per_minute) = match method {
        "GET" => ("reads", 250, 1500),
        "DELETE" => ("deletes", 200, 600),
        _ => ("writes", 200, 600),
    };
    let arm = |scope: &str, key: String, factor: u64| Policy {
        key,
        name: format!("{scope}-{what}"),
        owner: Owner::Arm,
        capacity: capacity * factor,
        per_minute: per_minute * factor,
    };
    policies.push(arm("subscription", format!("arm/{by}/{what}"), 1));
    policies.push(arm("subscription-global", format!("arm/{what}"), 15));
    for policy in &mut policies {
        policy.key = format!("{}/{}", path.subscription.to_lowercase(), policy.key);
    }
    policies
}

#[expect(clippy::wildcard_enum_match_arm, reason = "what is not Compute is Network")]
fn provider_policies(path: &ArmPath, method: &str) -> Vec<Policy> {
    let read = method == "GET";
    match path.kind {
        Kind::Group | Kind::GroupResult => Vec::new(),
        Kind::ComputeOperation => compute("GetOperation", path.name(1), (15, 45), (5000, 15_000)),
        Kind::Instance | Kind::InstanceView if read => compute("GetVMScaleSetVM", &path.id(2), (12, 36), (2000, 6000)),
        Kind::Instance if method == "DELETE" => compute("DeleteVMScaleSetVM", &path.id(2), (4, 12), (500, 1500)),
        Kind::Instance | Kind::InstanceView => compute("UpdateVMScaleSetVM", &path.id(2), (4, 12), (500, 1500)),
        Kind::ScaleSet if read => compute("GetVMScaleSet", &path.id(1), (12, 36), (800, 2400)),
        Kind::ScaleSet => compute("UpdateVMScaleSet", &path.id(1), (4, 12), (500, 1500)),
        Kind::ScaleSets | Kind::Instances => compute("ListVMScaleSet", &path.id(1), (10, 30), (360, 1080)),
        Kind::Vm | Kind::VmView if read => compute("GetVM", &path.id(1), (12, 36), (8000, 24_000)),
        Kind::Vm | Kind::VmView => compute("UpdateVM", &path.id(1), (4, 12), (500, 1500)),
        Kind::Vms => compute("ListVM", "", (300, 900), (300, 900)),
        _ if path.kind.is_poll() || read => vec![network("reads", 10_000, 2000)],
        _ => vec![network("writes", 1000, 200)],
    }
}

/// Per resource and per subscription: refill a minute and bucket.
fn compute(name: &str, resource: &str, own: (u64, u64), subscription: (u64, u64)) -> Vec<Policy> {
    let policy = |key: String, suffix: &str, (per_minute, capacity)| Policy {
        key,
        name: format!("{name}{suffix}"),
        owner: Owner::Compute,
        capacity,
        per_minute,
    };
    vec![
        policy(format!("compute/{name}/{}", resource.to_lowercase()), "Resource", own),
        policy(format!("compute/{name}"), "SubscriptionMaximum", subscription),
    ]
}

fn network(what: &str, capacity: u64, per_minute: u64) -> Policy {
    Policy { key: format!("network/{what}"), name: what.into(), owner: Owner::Network, capacity, per_minute }
}

/// 429 in the shape of whoever refuses.
fn refused(policy: &Policy, seconds: u64, path: &ArmPath, method: &str) -> ArmError {
    match policy.owner {
        Owner::Arm => arm_refusal(path, method, RetryAfter::Seconds(seconds)),
        Owner::Network => network_refusal(RetryAfter::Seconds(seconds)),
        Owner::Compute => compute_refusal(&policy.name, policy.capacity, RetryAfter::Seconds(seconds)),
    }
}

/// The refusal of a provider that a fault asks for.
pub(super) fn refusal_of(path: &ArmPath, method: &str, retry_after: RetryAfter) -> ArmError {
    match provider_policies(path, method).first() {
        Some(policy) if policy.owner == Owner::Compute => compute_refusal(&policy.name, policy.capacity, retry_after),
        Some(_) => network_refusal(retry_after),
        None => arm_refusal(path, method, retry_after),
    }
}

fn arm_refusal(path: &ArmPath, method: &str, retry_after: RetryAfter) -> ArmError {
    let action = path.action(method);
    let kind = action.rsplit_once('/').map_or(action.as_str(), |(kind, _)| kind).to_uppercase();
    let seconds = match retry_after {
        RetryAfter::Seconds(seconds) | RetryAfter::Date(seconds) => seconds,
        RetryAfter::Absent => 0,
    };
    let message = format!(
        "Number of requests for subscription '{}' and operation '{method}/SUBSCRIPTIONS/RESOURCEGROUPS/PROVIDERS/{kind}' exceeded the backend \
         storage limit. Please try again after '{seconds}' seconds.",
        path.subscription
    );
    ArmError::compute(429, "SubscriptionRequestsThrottled", message).retry_after(retry_after)
}

fn network_refusal(retry_after: RetryAfter) -> ArmError {
    ArmError::network(
        429,
        "TooManyRequests",
        "The number of requests of the subscription in this region exceeds the limit of Microsoft.Network.",
    )
    .retry_after(retry_after)
}

/// Compute's body has no `error` around it.
fn compute_refusal(policy: &str, allowed: u64, retry_after: RetryAfter) -> ArmError {
    let inner = json!({ "operationGroup": policy, "allowedRequestCount": allowed, "measuredRequestCount": allowed.saturating_add(1) });
    let message = "The server rejected the request because too many requests have been received for this subscription.";
    let error = ArmError::compute(429, "OperationNotAllowed", message).detail("TooManyRequests", inner.to_string());
    ArmError { bare: true, ..error }.retry_after(retry_after)
}
