//! What stands in the way, by the condition that tells of it.

use std::{collections::BTreeMap, error::Error};

use azure_vnet_crds::node::Agent;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// A condition of the agent's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Topic {
    /// The object's revision was taken over.
    PoolAdopted,
    /// The node store is whole.
    StoreHealthy,
    /// Rules, routes and sysctls are as they should be.
    RulesInSync,
    /// The CNI configuration is in place.
    ConflistInPlace,
}

impl Topic {
    /// Every topic, with its condition's type and what that says when all is well.
    pub const ALL: [(Self, &'static str, &'static str); 4] = [
        (Self::PoolAdopted, "PoolAdopted", "Adopted"),
        (Self::StoreHealthy, "StoreHealthy", "Whole"),
        (Self::RulesInSync, "RulesInSync", "InSync"),
        (Self::ConflistInPlace, "ConflistInPlace", "Written"),
    ];
}

/// One thing that stands in the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// One word, for programs.
    pub reason: &'static str,
    /// For people, with what to do.
    pub message: String,
}

/// The first problem of each topic, and what is to be known of topics that are in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems {
    broken: BTreeMap<Topic, Problem>,
    remarks: BTreeMap<Topic, Problem>,
}

/// Something that people who look after the node should hear once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// One word, for programs.
    pub reason: &'static str,
    /// For people, with what to do.
    pub note: String,
}

impl Problems {
    /// Notes a failure; what failed first is what the reader should look at first.
    pub fn note(&mut self, topic: Topic, reason: &'static str, message: String) {
        self.broken.entry(topic).or_insert(Problem { reason, message });
    }

    /// Notes what does not stand in the way, and is worth knowing.
    pub fn remark(&mut self, topic: Topic, reason: &'static str, message: String) {
        self.remarks.entry(topic).or_insert(Problem { reason, message });
    }

    /// Notes the failure of a step, and goes on.
    pub fn check<T, E: Error>(&mut self, topic: Topic, reason: &'static str, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.note(topic, reason, chain(&error))).ok()
    }

    /// Whether nothing stands in the way of a topic.
    #[must_use]
    pub fn none(&self, topic: Topic) -> bool {
        !self.broken.contains_key(&topic)
    }

    /// All that stand in the way.
    pub fn iter(&self) -> impl Iterator<Item = (Topic, &Problem)> {
        self.broken.iter().map(|(topic, problem)| (*topic, problem))
    }

    /// What was noted or remarked here and not there.
    pub fn beyond<'a>(&'a self, there: &'a Self) -> impl Iterator<Item = (Topic, &'a Problem)> {
        let known = |topic: &Topic, problem: &Problem| [&there.broken, &there.remarks].iter().any(|map| map.get(topic) == Some(problem));
        let all = self.broken.iter().chain(&self.remarks);
        all.filter(move |(topic, problem)| !known(topic, problem)).map(|(topic, problem)| (*topic, problem))
    }
}

/// An error and all that led to it.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// What the agent has to say.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// `status.agent`.
    pub agent: Agent,
    /// What stands in the way.
    pub problems: Problems,
}

impl Report {
    /// The agent's conditions; a time stays while the status does.
    #[must_use]
    pub fn conditions(&self, present: &[Condition], now: &Time) -> Vec<Condition> {
        let condition = |(topic, kind, good): (Topic, &str, &str)| {
            let Problems { broken, remarks } = &self.problems;
            let cut = |message: &str| message.chars().take(1024).collect();
            let (status, reason, message) = match (broken.get(&topic), remarks.get(&topic)) {
                (Some(Problem { reason, message }), _) => ("False", *reason, cut(message)),
                (None, Some(Problem { reason, message })) => ("True", *reason, cut(message)),
                (None, None) => ("True", good, String::new()),
            };
            let same = present.iter().find(|present| present.type_ == kind && present.status == status);
            let last_transition_time = same.map_or_else(|| now.clone(), |present| present.last_transition_time.clone());
            Condition {
                type_: kind.into(),
                status: status.into(),
                reason: reason.into(),
                message,
                last_transition_time,
                observed_generation: None,
            }
        };
        Topic::ALL.into_iter().map(condition).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(problems: Problems) -> Report {
        Report { agent: Agent::default(), problems }
    }

    #[test]
    fn a_condition_keeps_its_time_while_its_status_stays() {
        let (early, late) = (Time(jiff::Timestamp::UNIX_EPOCH), Time(jiff::Timestamp::MAX));
        let mut broken = Problems::default();
        broken.note(Topic::RulesInSync, "IptablesFailed", "first".into());
        broken.note(Topic::RulesInSync, "IptablesFailed", "second".into());
        let first = report(broken).conditions(&[], &early);
        let rules = first.iter().find(|condition| condition.type_ == "RulesInSync").unwrap();
        assert_eq!((rules.status.as_str(), rules.message.as_str()), ("False", "first"));
        let second = report(Problems::default()).conditions(&first, &late);
        let times: Vec<_> = second.iter().map(|condition| condition.last_transition_time == late).collect();
        assert_eq!(times, [false, false, true, false]);
    }
}
