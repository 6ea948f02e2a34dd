//! The lead of the controllers, held for as long as nodes and NICs are worked on: a controller on a node whose kubelet is silent may run on, unseen,
//! and whoever writes to Azure has to be the only one.

use std::time::Duration;

use anyhow::bail;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tracing::warn;

use super::LOOK;
use crate::{
    Shutdown,
    controller::{
        leader::{self, Leadership},
        random,
    },
};

/// A lease that nobody renews is free after 15 s; a request or two more.
const PATIENCE: Duration = Duration::from_secs(30);
/// For giving the lease up.
const LEAVE: Duration = Duration::from_secs(5);

/// The lead, renewed until it is given up.
pub struct Lead {
    leadership: Leadership,
    resign: watch::Sender<bool>,
    election: JoinHandle<()>,
}

impl Lead {
    /// Waits until it has the lead. A controller that has ended gave it up; of one that died it is known after 15 s.
    ///
    /// # Errors
    /// If somebody else goes on holding it.
    pub async fn take(leases: Api<Lease>, name: &str, deadline: Instant) -> anyhow::Result<Self> {
        let leadership = Leadership::new(&format!("uninstall_{}", random::token()));
        let (resign, resigned) = Shutdown::manual();
        let election = tokio::spawn(leader::stand(leases.clone(), name.to_owned(), leadership.clone(), resigned));
        let lead = Self { leadership, resign, election };
        let deadline = deadline.min(Instant::now() + PATIENCE);
        while !lead.leadership.is_leader_now() {
            if Instant::now() >= deadline {
                lead.give_up().await;
                bail!(held(leases.get_opt(name).await, name));
            }
            sleep(LOOK).await;
        }
        Ok(lead)
    }

    /// Asked again right before each write.
    pub fn leadership(&self) -> &Leadership {
        &self.leadership
    }

    /// Ends the term of who is done: the lease is not renewed any more, and nobody else's before it runs out.
    pub fn leave(self) {
        self.election.abort();
    }

    /// Ends the term; the lease stays, and is nobody's.
    pub async fn give_up(self) {
        self.resign.send_replace(true);
        if timeout(LEAVE, self.election).await.is_err() {
            warn!("the lead was not given up in time");
        }
    }
}

fn held(lease: kube::Result<Option<Lease>>, name: &str) -> String {
    match lease {
        Ok(lease) => {
            let holder = lease.and_then(|lease| lease.spec?.holder_identity).filter(|holder| !holder.is_empty());
            format!(
                "{} still leads, though no controller is seen to run: it may be on a node whose kubelet is silent. End its process, or switch that \
                 machine off, then run this again. No node and no NIC was changed",
                holder.as_deref().unwrap_or("somebody")
            )
        }
        Err(error) => format!("cannot take the Lease {name}: {error}. No node and no NIC was changed"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use kube::{Client, client::Body};
    use serde_json::{Value, json};

    use super::*;

    /// An API server that has one lease; each look at it sees it changed by what is given.
    fn leases(stored: &Arc<Mutex<Value>>, renew: impl Fn(&mut Value) + Send + Sync + 'static) -> Api<Lease> {
        let (stored, renew) = (Arc::clone(stored), Arc::new(renew));
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let (stored, renew) = (Arc::clone(&stored), Arc::clone(&renew));
            async move {
                let sent = request.into_body().collect_bytes().await.unwrap();
                let mut stored = stored.lock().unwrap();
                if sent.is_empty() {
                    renew(&mut stored);
                } else {
                    *stored = serde_json::from_slice(&sent).unwrap();
                }
                Ok::<_, std::io::Error>(http::Response::new(Body::from(stored.to_string().into_bytes())))
            }
        });
        Api::namespaced(Client::new(service, "azure-vnet-system"), "azure-vnet-system")
    }

    fn held_by(holder: &str) -> Arc<Mutex<Value>> {
        let spec = json!({"holderIdentity": holder, "leaseDurationSeconds": 15, "leaseTransitions": 1});
        Arc::new(Mutex::new(json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"}, "spec": spec})))
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_mins(1)
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_dead_controller_left_is_taken_and_given_up_again() {
        let stored = held_by("controller-a");
        let lead = Lead::take(leases(&stored, |_| {}), "l", soon()).await.unwrap();
        assert!(lead.leadership().is_leader_now());
        assert_eq!(stored.lock().unwrap()["spec"]["holderIdentity"], lead.leadership().identity());
        lead.give_up().await;
        assert_eq!(stored.lock().unwrap()["spec"]["holderIdentity"], "");
    }

    #[tokio::test(start_paused = true)]
    async fn a_controller_that_works_on_unseen_is_named_and_nothing_is_begun() {
        let stored = held_by("controller-a");
        let renew = |lease: &mut Value| {
            let turn = lease["spec"]["leaseTransitions"].as_i64().unwrap_or_default();
            lease["spec"]["leaseTransitions"] = (turn + 1).into();
        };
        let error = Lead::take(leases(&stored, renew), "l", soon()).await.map(drop).unwrap_err().to_string();
        assert!(error.contains("controller-a still leads") && error.contains("kubelet is silent"), "{error}");
        assert_eq!(stored.lock().unwrap()["spec"]["holderIdentity"], "controller-a");
    }
}
