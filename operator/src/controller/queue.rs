//! Which nodes are due. One pass a node at a time; a change during a pass makes the node due again.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::{sync::Notify, time::Instant};

/// Names with the time they are due, shared by watchers and passes.
#[derive(Default)]
pub struct Queue {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    due: BTreeMap<String, Instant>,
    running: BTreeSet<String>,
}

impl Queue {
    /// Makes a name due now.
    pub fn mark(&self, name: &str) {
        self.mark_at(name, Instant::now());
    }

    /// Makes a name due at a time, or earlier if it was.
    pub fn mark_at(&self, name: &str, at: Instant) {
        let mut state = self.lock();
        let due = state.due.entry(name.to_owned()).or_insert(at);
        *due = at.min(*due);
        drop(state);
        self.changed.notify_one();
    }

    /// Takes a name that is due and not in work; or tells when the next one will be.
    pub fn take(&self, now: Instant) -> Result<String, Option<Instant>> {
        let mut state = self.lock();
        let idle = state.due.iter().filter(|(name, _)| !state.running.contains(*name));
        let Some((name, at)) = idle.min_by_key(|(_, at)| **at).map(|(name, at)| (name.clone(), *at)) else {
            return Err(None);
        };
        if at > now {
            return Err(Some(at));
        }
        state.due.remove(&name);
        state.running.insert(name.clone());
        Ok(name)
    }

    /// Takes a name whether it is due or not, unless it is in work.
    pub fn claim(&self, name: &str) -> bool {
        self.lock().running.insert(name.to_owned())
    }

    /// Says that a name's pass is over.
    pub fn done(&self, name: &str) {
        self.lock().running.remove(name);
        self.changed.notify_one();
    }

    /// Returns after a change.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_name_in_work_is_not_taken_twice_and_a_change_meanwhile_is_not_lost() {
        let queue = Queue::default();
        let now = Instant::now();
        queue.mark("a");
        assert_eq!(queue.take(now), Ok("a".into()));
        queue.mark("a");
        assert_eq!(queue.take(now), Err(None));
        queue.done("a");
        assert_eq!(queue.take(now), Ok("a".into()));
        queue.done("a");
        let later = now + Duration::from_secs(5);
        queue.mark_at("a", later);
        queue.mark_at("a", later + Duration::from_secs(5));
        assert_eq!(queue.take(now), Err(Some(later)));
        assert_eq!(queue.take(later), Ok("a".into()));
        assert!(!queue.claim("a"));
        queue.done("a");
        assert!(queue.claim("a") && queue.claim("b"));
    }
}
