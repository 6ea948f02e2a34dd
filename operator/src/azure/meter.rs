//! What the client of Resource Manager counts.

use std::time::Duration;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use super::budget::Class;

/// Counts of one client.
#[derive(Clone, Debug)]
pub struct Meter {
    requests: Family<Request, Histogram, fn() -> Histogram>,
    waits: Family<Limiter, Histogram, fn() -> Histogram>,
    throttled: Family<Limiter, Counter>,
    level: Family<Limiter, Gauge>,
    token: Gauge,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    op: &'static str,
    code: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Limiter {
    subscription: String,
    class: &'static str,
}

impl Limiter {
    fn of(subscription: &str, class: Class) -> Self {
        Self { subscription: subscription.to_owned(), class: class.name() }
    }
}

impl Default for Meter {
    fn default() -> Self {
        let seconds: fn() -> Histogram = || Histogram::new([0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0]);
        Self {
            requests: Family::new_with_constructor(seconds),
            waits: Family::new_with_constructor(seconds),
            throttled: Family::default(),
            level: Family::default(),
            token: Gauge::default(),
        }
    }
}

impl Meter {
    /// Adds its metrics to a registry.
    pub fn register(&self, registry: &mut Registry) {
        let Self { requests, waits, throttled, level, token } = self.clone();
        registry.register("arm_request_duration_seconds", "Requests to Azure Resource Manager by HTTP status (0: no answer)", requests);
        registry.register("arm_limiter_wait_seconds", "Time that requests waited for their budget", waits);
        registry.register("arm_throttled", "Requests that Azure refused as too many", throttled);
        registry.register("arm_budget_remaining", "Requests that may be sent at once, beyond the reserve", level);
        registry.register("arm_token_life_seconds", "How long the current token still held when last used", token);
    }

    /// Counts a request; no status: no answer.
    pub fn request(&self, op: &'static str, status: Option<u16>, time: Duration) {
        let code = status.unwrap_or(0).to_string();
        self.requests.get_or_create(&Request { op, code }).observe(time.as_secs_f64());
    }

    /// Counts a wait.
    pub fn waited(&self, subscription: &str, classes: &[Class], time: Duration) {
        for class in classes {
            self.waits.get_or_create(&Limiter::of(subscription, *class)).observe(time.as_secs_f64());
        }
    }

    /// Counts a refusal.
    pub fn throttled(&self, subscription: &str, classes: &[Class]) {
        for class in classes {
            self.throttled.get_or_create(&Limiter::of(subscription, *class)).inc();
        }
    }

    /// Notes what is left.
    pub fn level(&self, subscription: &str, class: Class, tokens: u32) {
        self.level.get_or_create(&Limiter::of(subscription, class)).set(tokens.into());
    }

    /// Notes the life of the token.
    pub fn token(&self, life: Option<Duration>) {
        self.token.set(life.and_then(|life| i64::try_from(life.as_secs()).ok()).unwrap_or(0));
    }
}
