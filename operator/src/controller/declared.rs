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

    fn known(&self) -> MutexGuard<'_, Undeclared> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn describe(client: &Client) -> anyhow::Result<Value> {
    let request = http::Request::get(Undeclared::path()).body(vec![])?;
    Ok(client.request(request).await?)
}

/// Looks for ever.
pub async fn follow<A: Arm>(shell: Arc<Shell<A>>, client: Client) {
    loop {
        tokio::select! {
            () = shell.declared.refused.notified() => {}
            () = sleep(EVERY) => {}
        }
        shell.declared.look(&client).await;
    }
}
