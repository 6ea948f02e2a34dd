//! Budgets by subscription: Azure counts the requests in each on its own, so that one that is throttled holds no other up. Pure, as budgets are.

use std::{collections::BTreeMap, time::Instant};

use azure_vnet_operator_core::arm::Urgency;

use super::budget::{Budget, Charge, Class, Level, Outcome, Reach, Remaining};

/// The budgets of one identity.
#[derive(Debug)]
pub struct Subscriptions {
    reserve_percent: u8,
    budgets: BTreeMap<String, Budget>,
    /// The last refusals of the whole tenant, by what they were about: a subscription that is asked later waits for them too.
    tenant: BTreeMap<&'static [Class], Refusal>,
}

/// One refusal.
#[derive(Clone, Copy, Debug)]
struct Refusal {
    outcome: Outcome,
    urgency: Urgency,
    at: Instant,
}

impl Refusal {
    /// As far as Azure said.
    fn ends(&self) -> Instant {
        match self.outcome {
            Outcome::Throttled { retry_after, .. } => self.at + retry_after.unwrap_or_default(),
            Outcome::Answered | Outcome::Unavailable { .. } => self.at,
        }
    }
}

impl Subscriptions {
    /// Of no subscription yet, with a share of each that is left to others.
    #[must_use]
    pub fn new(reserve_percent: u8) -> Self {
        Self { reserve_percent, budgets: BTreeMap::new(), tenant: BTreeMap::new() }
    }

    /// Changes the share that is left to others.
    pub fn set_reserve(&mut self, percent: u8) {
        self.reserve_percent = percent;
        self.budgets.values_mut().for_each(|budget| budget.set_reserve(percent));
    }

    /// The budget of a subscription; where none was asked for yet, full but for what Azure refuses the whole tenant.
    pub fn of(&mut self, subscription: &str) -> &mut Budget {
        self.budgets.entry(subscription.to_owned()).or_insert_with(|| {
            let mut budget = Budget::new(self.reserve_percent);
            for (&classes, &Refusal { outcome, urgency, at }) in &self.tenant {
                budget.learn(&Charge { classes, machine: None, urgency }, outcome, &Remaining::default(), at);
            }
            budget
        })
    }

    /// Learns from how a request in a subscription ended.
    pub fn learn(&mut self, subscription: &str, charge: &Charge, outcome: Outcome, remaining: &Remaining, now: Instant) {
        self.of(subscription).learn(charge, outcome, remaining, now);
        if matches!(outcome, Outcome::Throttled { reach: Reach::Tenant, .. }) {
            let others = self.budgets.iter_mut().filter(|(other, _)| *other != subscription);
            others.for_each(|(_, budget)| budget.learn(charge, outcome, &Remaining::default(), now));
            let refusal = Refusal { outcome, urgency: charge.urgency, at: now };
            let known = self.tenant.entry(charge.classes).or_insert(refusal);
            if known.ends() < refusal.ends() {
                *known = refusal;
            }
        }
    }

    /// Whether Azure has stopped to answer what is about a subscription.
    #[must_use]
    pub fn is_silent(&self, subscription: &str) -> bool {
        self.budgets.get(subscription).is_some_and(Budget::is_silent)
    }

    /// Every class of every subscription, as people see it.
    #[must_use]
    pub fn levels(&self, now: Instant) -> Vec<Level> {
        self.budgets.iter().flat_map(|(subscription, budget)| budget.levels(subscription, now)).collect()
    }
}

/// The subscription of a path of Resource Manager, in lower case; empty for one without.
#[must_use]
pub fn of_path(path: &str) -> String {
    let mut parts = path.split(['/', '?']).skip(1);
    let named = parts.next().is_some_and(|word| word.eq_ignore_ascii_case("subscriptions"));
    parts.next().filter(|_| named).unwrap_or_default().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::azure::budget::Admission;

    const WRITE: Charge = Charge { classes: &[Class::ArmWrite, Class::NetworkWrite], machine: None, urgency: Urgency::Fill };

    fn admit(all: &mut Subscriptions, subscription: &str, now: Instant) -> Admission {
        let budget = all.of(subscription);
        let ticket = budget.enter(&WRITE);
        let admission = budget.admit(&ticket, &WRITE, now);
        budget.leave(&ticket);
        admission
    }

    fn throttled(reach: Reach) -> Outcome {
        Outcome::Throttled { retry_after: Some(Duration::from_mins(20)), reach }
    }

    #[test]
    fn each_subscription_has_a_whole_budget() {
        let now = Instant::now();
        let mut all = Subscriptions::new(40);
        let passed =
            |all: &mut Subscriptions, subscription| (0..1000).take_while(|_| admit(all, subscription, now) == Admission::Go).count();
        assert_eq!((passed(&mut all, "a"), passed(&mut all, "b"), passed(&mut all, "a")), (60, 60, 0));
        all.set_reserve(90);
        assert_eq!(all.of("new").level(Class::ArmWrite, now), 20, "a tenth of Azure's burst");
    }

    #[test]
    fn one_that_is_throttled_holds_no_other_up_unless_the_tenant_is() {
        let now = Instant::now();
        for (reach, other) in [(Reach::Provider, true), (Reach::Subscription, true), (Reach::Tenant, false)] {
            let mut all = Subscriptions::new(40);
            assert_eq!(admit(&mut all, "b", now), Admission::Go);
            all.learn("a", &WRITE, throttled(reach), &Remaining::default(), now);
            assert!(matches!(admit(&mut all, "a", now), Admission::Closed(_)), "{reach:?}");
            assert_eq!(admit(&mut all, "b", now) == Admission::Go, other, "{reach:?}");
        }
    }

    #[test]
    fn a_tenant_that_is_throttled_holds_up_a_subscription_that_is_asked_later() {
        let now = Instant::now();
        for (reach, other) in [(Reach::Provider, true), (Reach::Subscription, true), (Reach::Tenant, false)] {
            let mut all = Subscriptions::new(40);
            all.learn("a", &WRITE, throttled(reach), &Remaining::default(), now);
            assert_eq!(admit(&mut all, "new", now) == Admission::Go, other, "{reach:?}");
        }
        let mut all = Subscriptions::new(40);
        all.learn("a", &WRITE, throttled(Reach::Tenant), &Remaining::default(), now);
        assert_eq!(admit(&mut all, "new", now + Duration::from_mins(21)), Admission::Go, "it has ended");
        let shorter = Outcome::Throttled { retry_after: Some(Duration::from_secs(5)), reach: Reach::Tenant };
        let mut all = Subscriptions::new(40);
        for outcome in [throttled(Reach::Tenant), shorter] {
            all.learn("a", &WRITE, outcome, &Remaining::default(), now);
        }
        assert!(matches!(admit(&mut all, "new", now + Duration::from_mins(1)), Admission::Closed(_)), "the longer one counts");
    }

    #[test]
    fn a_path_names_its_subscription_in_any_spelling() {
        for path in ["/subscriptions/AB/resourceGroups/g", "/SUBSCRIPTIONS/ab?api-version=1", "/subscriptions/Ab"] {
            assert_eq!(of_path(path), "ab", "{path}");
        }
        assert_eq!((of_path("/tenants/x"), of_path("/")), (String::new(), String::new()));
    }
}
