//! Looks at which fields the CRDs in the cluster declare: at the start, now and then, and when the API server refuses a write for one. What follows from
//! it is decided elsewhere.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use azure_vnet_operator_core::{
    declared::{Field, Undeclared},
    network::Finding,
};
use kube::Client;
use serde_json::Value;
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};
use tracing::{debug, warn};

use super::node::Shell;
use crate::azure::Arm;

/// How often.
const EVERY: Duration = Duration::from_mins(5);
/// No look follows another sooner: a field that cannot be left out is refused again and again.
const PACE: Duration = Duration::from_secs(30);
/// For one answer.
const ANSWER: Duration = Duration::from_secs(10);

/// What was found.
#[derive(Default)]
pub struct Declared {
    known: Mutex<Undeclared>,
    refused: Notify,
}

impl Declared {
    /// Whether a field is to be left out.
    pub fn lacks(&self, field: Field) -> bool {
        self.known().lacks(field)
    }

    /// For people.
    pub fn finding(&self) -> Option<Finding> {
        self.known().finding()
    }

    /// Notes what the API server refused a write for.
    pub fn note(&self, error: &kube::Error) {
        if let kube::Error::Api(status) = error
            && self.known().refused(&status.message)
        {
            self.refused.notify_one();
        }
    }

    /// Looks once. What cannot be read is as it was.
    pub async fn look(&self, client: &Client) {
        let description = match timeout(ANSWER, describe(client)).await {
            Ok(Ok(description)) => description,
            Ok(Err(error)) => return debug!("the API server does not describe its kinds: {error:#}"),
            Err(_) => return debug!("the API server does not describe its kinds in time"),
        };
        let mut known = self.known();
        let (before, now) = (known.finding(), known.by(&description));
        *known = now;
        if let Some(found) = known.finding().filter(|found| before.as_ref() != Some(found)) {
            warn!("{}", found.message);
        }
    }

    /// Returns, after a look, when it is time for the next one: soon after a refusal, or when what was found is old.
    async fn due(&self) {
        sleep(PACE).await;
        tokio::select! {
            biased;
            () = self.refused.notified() => {}
            () = sleep(EVERY.saturating_sub(PACE)) => {}
        }
    }

    fn known(&self) -> MutexGuard<'_, Undeclared> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn describe(client: &Client) -> anyhow::Result<Value> {
    let request = http::Request::get(Undeclared::path()).body(vec![])?;
    Ok(client.request(request).await?)
}

/// Looks until the process is asked to end.
pub async fn follow<A: Arm>(shell: Arc<Shell<A>>, client: Client) {
    loop {
        let look = async {
            shell.declared.due().await;
            shell.declared.look(&client).await;
        };
        tokio::select! {
            biased;
            () = shell.leaving.wait() => return,
            () = look => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn refusals_without_end_are_looked_into_twice_a_minute() {
        let declared = Declared::default();
        let begun = Instant::now();
        let refuse = async {
            loop {
                declared.refused.notify_one();
                sleep(Duration::from_secs(1)).await;
            }
        };
        let looks = async {
            for _ in 0..10 {
                declared.due().await;
            }
            begun.elapsed()
        };
        let took: Duration = tokio::select! {
            took = looks => took,
            () = refuse => Duration::ZERO,
        };
        assert_eq!(took, Duration::from_mins(5));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_after_a_while_is_looked_into_at_once() {
        let declared = Declared::default();
        let begun = Instant::now();
        let refuse = async {
            sleep(Duration::from_secs(100)).await;
            declared.refused.notify_one();
        };
        tokio::join!(declared.due(), refuse);
        assert_eq!(begun.elapsed().as_secs(), 100);
        declared.due().await;
        assert_eq!(begun.elapsed().as_secs(), 400, "without one, now and then");
    }
}
