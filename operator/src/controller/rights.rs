//! Asks Azure, now and then, what the controller's identity may do where its nodes are. What follows from the answers is decided elsewhere.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use azure_vnet_crds::node::Machine;
use azure_vnet_operator_core::{
    arm::{Class, Document, Error, Read, ResourceId, Urgency},
    rights::{Granted, Obstacle, Question, denials, group_of, joined_key, locks, of_joined, of_machine, questions},
};
use tokio::time::{Instant, sleep};
use tracing::{debug, info};

use super::node::Shell;
use crate::azure::Arm;

/// How often, as long as nothing is missing.
const EVERY: Duration = Duration::from_mins(15);
/// How often where something is: a new role takes minutes to act.
const SOON: Duration = Duration::from_mins(1);
/// Pause before the first look, and while another leads.
const LOOK: Duration = Duration::from_secs(5);

/// What was found, by what was asked.
#[derive(Default)]
pub struct Rights {
    found: BTreeMap<String, Found>,
    /// What NICs join, and when one was last seen to, by the key of those that share a question.
    joined: BTreeMap<String, BTreeMap<String, (Question, Instant)>>,
    joined_at: Option<Instant>,
}

/// An answer, and when to ask again.
struct Found {
    due: Instant,
    obstacles: Vec<Obstacle>,
}

impl Rights {
    /// What stands in the way of serving these machines.
    pub fn obstacles<'a>(&self, machines: impl Iterator<Item = &'a Machine>) -> Vec<Obstacle> {
        let keys: BTreeSet<String> = machines
            .flat_map(|machine| of_machine(machine).into_iter().map(|(key, _)| key).chain(group_of(machine).map(|group| group.key())))
            .collect();
        let joined = keys.iter().filter_map(|key| self.joined.get(key)).flat_map(BTreeMap::keys);
        let all: BTreeSet<&String> = keys.iter().chain(joined).collect();
        all.into_iter().filter_map(|key| self.found.get(key)).flat_map(|found| found.obstacles.clone()).collect()
    }

    /// NICs are away for as long as a pass has them: what none joins any more is forgotten only after a while.
    fn note_joined(&mut self, joined: Vec<(String, Vec<Question>)>) {
        let now = Instant::now();
        self.joined_at = Some(now);
        for (key, questions) in joined {
            self.joined.entry(key).or_default().extend(questions.into_iter().map(|question| (joined_key(&question), (question, now))));
        }
        for questions in self.joined.values_mut() {
            questions.retain(|_, (_, seen)| seen.elapsed() < EVERY);
        }
    }

    fn is_due(&self, key: &str) -> bool {
        self.found.get(key).is_none_or(|found| found.due <= Instant::now())
    }

    /// Notes an answer. Without one, what was found before stands, and is asked again soon.
    fn note(&mut self, key: String, answer: Result<Vec<Obstacle>, Error>) {
        let now = Instant::now();
        let found = self.found.entry(key).or_insert(Found { due: now, obstacles: vec![] });
        found.due = now + if answer.as_ref().is_ok_and(Vec::is_empty) { EVERY } else { SOON };
        let obstacles = match answer {
            Ok(obstacles) => obstacles,
            Err(error) => return debug!("what is allowed in Azure cannot be read: {error}"),
        };
        if obstacles != found.obstacles {
            for obstacle in &obstacles {
                info!(reason = obstacle.reason(), "{}", obstacle.finding().message);
            }
            found.obstacles = obstacles;
        }
    }
}

/// Looks for ever, while this process leads.
pub async fn look<A: Arm>(shell: Arc<Shell<A>>) {
    loop {
        sleep(LOOK).await;
        if shell.leadership.is_leader_now() {
            shell.look_at_rights().await;
        }
    }
}

impl<A: Arm> Shell<A> {
    /// Asks what was not asked yet, or long ago.
    pub(super) async fn look_at_rights(&self) {
        let pools = self.caches.pools.state();
        let machines = || pools.iter().map(|pool| &pool.spec.node);
        let joined = self.joined(machines());
        let questions: BTreeMap<String, Question> = questions(machines()).into_iter().chain(joined).collect();
        let groups: BTreeMap<String, ResourceId> = machines().filter_map(group_of).map(|group| (group.key(), group)).collect();
        self.with_rights(|rights| rights.found.retain(|key, _| questions.contains_key(key) || groups.contains_key(key)));
        for (key, question) in questions {
            if self.is_due(&key) {
                let answer = self.missing(&question).await;
                self.with_rights(|rights| rights.note(key, answer));
            }
        }
        for (key, group) in groups {
            if self.is_due(&key) {
                let answer = self.barred(&group).await;
                self.with_rights(|rights| rights.note(key, answer));
            }
        }
    }

    /// What the NICs that were read join.
    fn joined<'a>(&self, machines: impl Iterator<Item = &'a Machine>) -> BTreeMap<String, Question> {
        let fresh = |at: Option<Instant>| at.is_some_and(|at| at.elapsed() < SOON);
        if !self.with_rights(|rights| fresh(rights.joined_at)) {
            let keys: BTreeMap<&str, String> =
                machines.filter_map(|machine| Some((machine.uid.as_str(), of_machine(machine).into_iter().next()?.0))).collect();
            let joined = self.nics(|uid, nic| Some((keys.get(uid)?.clone(), of_joined(&nic.tree()))));
            self.with_rights(|rights| rights.note_joined(joined));
        }
        self.with_rights(|rights| rights.joined.values().flatten().map(|(key, (question, _))| (key.clone(), question.clone())).collect())
    }

    fn is_due(&self, key: &str) -> bool {
        self.with_rights(|rights| rights.is_due(key))
    }

    /// What of the roles is missing. Where Azure does not tell, the first request that is refused does.
    async fn missing(&self, question: &Question) -> Result<Vec<Obstacle>, Error> {
        let scope = &question.scope;
        let answer = told(self.arm.read(&Read::Permissions(scope.clone()), Urgency::Background).await)?;
        let missing = answer.and_then(|document| Granted::parse(&document.body)).map(|granted| granted.missing(question));
        Ok(missing.unwrap_or_default().into_iter().map(|need| Obstacle::Missing { scope: scope.clone(), need }).collect())
    }

    /// Locks and deny assignments of a resource group; to see them takes rights that few controllers have.
    async fn barred(&self, group: &ResourceId) -> Result<Vec<Obstacle>, Error> {
        let locked = told(self.arm.read(&Read::Locks(group.clone()), Urgency::Background).await)?.map(|document| locks(&document.body));
        let denied = told(self.arm.read(&Read::Denials(group.clone()), Urgency::Background).await)?.map(|document| denials(&document.body));
        Ok([locked, denied].into_iter().flatten().flatten().collect())
    }
}

/// What Azure tells; none where this identity may not know.
fn told(answer: Result<Document, Error>) -> Result<Option<Document>, Error> {
    match answer {
        Err(error) if matches!(error.class, Class::Forbidden { .. }) => Ok(None),
        answer => answer.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_hides_nothing_that_was_found_and_vouches_for_nothing() {
        let lock = Obstacle::Locked { scope: "/subscriptions/s".into(), name: "keep".into() };
        let mut rights = Rights::default();
        let outage = || Err(Error::from_answer(503, None, b""));
        let soon = |rights: &Rights, key: &str| rights.found[key].due <= Instant::now() + SOON;
        rights.note("new".into(), outage());
        assert!(soon(&rights, "new"));
        rights.note("group".into(), Ok(vec![lock.clone()]));
        rights.note("group".into(), outage());
        assert_eq!(rights.found["group"].obstacles, [lock]);
        assert!(soon(&rights, "group"));
        rights.note("group".into(), Ok(vec![]));
        assert!(rights.found["group"].obstacles.is_empty() && !soon(&rights, "group"));
    }
}
