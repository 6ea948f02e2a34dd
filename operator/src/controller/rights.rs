//! Asks Azure, now and then, what the controller's identity may do where its nodes are. What follows from the answers is decided elsewhere.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use azure_vnet_crds::node::Machine;
use azure_vnet_operator_core::{
    arm::{Error, Read, ResourceId, Urgency},
    rights::{Granted, Obstacle, Question, denials, group_of, locks, of_joined, of_machine, questions},
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
    found: BTreeMap<String, (Instant, Vec<Obstacle>)>,
    /// What NICs join, by the key of those that share a question.
    joined: BTreeMap<String, BTreeMap<String, Question>>,
    joined_at: Option<Instant>,
}

impl Rights {
    /// What stands in the way of serving these machines.
    pub fn obstacles<'a>(&self, machines: impl Iterator<Item = &'a Machine>) -> Vec<Obstacle> {
        let keys: BTreeSet<String> = machines
            .flat_map(|machine| of_machine(machine).into_iter().map(|(key, _)| key).chain(group_of(machine).map(|group| group.key())))
            .collect();
        let joined = keys.iter().filter_map(|key| self.joined.get(key)).flat_map(BTreeMap::keys);
        let all: BTreeSet<&String> = keys.iter().chain(joined).collect();
        all.into_iter().filter_map(|key| self.found.get(key)).flat_map(|(_, obstacles)| obstacles.clone()).collect()
    }

    fn note_joined(&mut self, joined: Vec<(String, Vec<Question>)>) {
        self.joined_at = Some(Instant::now());
        for (key, questions) in joined {
            self.joined.entry(key).or_default().extend(questions.into_iter().map(|question| (question.scope.key(), question)));
        }
    }

    fn is_due(&self, key: &str) -> bool {
        self.found.get(key).is_none_or(|(at, found)| at.elapsed() >= if found.is_empty() { EVERY } else { SOON })
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
        for (key, question) in questions(machines()).into_iter().chain(joined) {
            if self.is_due(&key) {
                let found = self.missing(&question).await;
                self.note_obstacles(key, found);
            }
        }
        let groups: BTreeMap<String, ResourceId> = machines().filter_map(group_of).map(|group| (group.key(), group)).collect();
        for (key, group) in groups {
            if self.is_due(&key) {
                let found = self.barred(&group).await;
                self.note_obstacles(key, found);
            }
        }
    }

    /// What the NICs that were read join.
    fn joined<'a>(&self, machines: impl Iterator<Item = &'a Machine>) -> BTreeMap<String, Question> {
        let fresh = |at: Option<Instant>| at.is_some_and(|at| at.elapsed() < SOON);
        if !self.with_rights(|rights| fresh(rights.joined_at)) {
            let keys: BTreeMap<&str, String> =
                machines.filter_map(|machine| Some((machine.uid.as_str(), of_machine(machine).into_iter().next()?.0))).collect();
            let joined = self.nics(|uid, nic| Some((keys.get(uid)?.clone(), of_joined(nic.tree()))));
            self.with_rights(|rights| rights.note_joined(joined));
        }
        self.with_rights(|rights| rights.joined.values().flatten().map(|(key, question)| (key.clone(), question.clone())).collect())
    }

    fn is_due(&self, key: &str) -> bool {
        self.with_rights(|rights| rights.is_due(key))
    }

    fn note_obstacles(&self, key: String, found: Vec<Obstacle>) {
        for obstacle in &found {
            info!(reason = obstacle.reason(), "{}", obstacle.finding().message);
        }
        self.with_rights(|rights| rights.found.insert(key, (Instant::now(), found)));
    }

    /// What of the roles is missing. Where Azure does not tell, the first request that is refused does.
    async fn missing(&self, question: &Question) -> Vec<Obstacle> {
        let scope = &question.scope;
        let answer = self.arm.read(&Read::Permissions(scope.clone()), Urgency::Background).await;
        let granted = known(answer.map(|document| Granted::parse(&document.body))).flatten();
        let missing = granted.map(|granted| granted.missing(question)).unwrap_or_default();
        missing.into_iter().map(|need| Obstacle::Missing { scope: scope.clone(), need }).collect()
    }

    /// Locks and deny assignments of a resource group; to see them takes rights that few controllers have.
    async fn barred(&self, group: &ResourceId) -> Vec<Obstacle> {
        let locked = known(self.arm.read(&Read::Locks(group.clone()), Urgency::Background).await).map(|document| locks(&document.body));
        let denied = known(self.arm.read(&Read::Denials(group.clone()), Urgency::Background).await).map(|document| denials(&document.body));
        [locked, denied].into_iter().flatten().flatten().collect()
    }
}

fn known<T>(answer: Result<T, Error>) -> Option<T> {
    answer.inspect_err(|error| debug!("what is allowed in Azure cannot be read: {error}")).ok()
}
