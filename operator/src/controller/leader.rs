//! Leader election by a Lease. Only the leader writes; and since leadership does not fence Azure, it is asked again right before each write.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api,
    api::{ObjectMeta, PostParams},
};
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

use crate::Shutdown;

/// Others may take over when a lease was not renewed for this long.
const DURATION: Duration = Duration::from_secs(15);
const RENEW: Duration = Duration::from_secs(2);
const RETRY: Duration = Duration::from_secs(2);
/// A leader that could not renew for this long stops writing: five seconds before anybody else may start.
const TRUST: Duration = Duration::from_secs(10);

/// Whether this process leads; shared by all that write.
#[derive(Clone)]
pub struct Leadership {
    identity: Arc<str>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    renewed: Option<Instant>,
    term: Term,
    nonce: Arc<str>,
}

/// A time in which a lease had one holder: the lease's UID, and how often it had changed hands before.
pub(super) type Term = (String, i32);

impl Leadership {
    /// One that does not lead yet.
    #[must_use]
    pub fn new(identity: &str) -> Self {
        Self { identity: identity.into(), state: Arc::default() }
    }

    /// Unique to this process.
    #[must_use]
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Whether it leads at this moment: its last renewal is young enough that nobody can have taken over.
    #[must_use]
    pub fn is_leader_now(&self) -> bool {
        self.lock().renewed.is_some_and(|at| at.elapsed() < TRUST)
    }

    /// What releases of this term carry (safety rule RE1). `None` when it does not lead, which may be for a while within one term.
    #[must_use]
    pub fn nonce(&self) -> Option<Arc<str>> {
        let state = self.lock();
        state.renewed.is_some_and(|at| at.elapsed() < TRUST).then(|| Arc::clone(&state.nonce))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts or lengthens a term. Every term draws a nonce of its own. A term outlasts an API server that did not answer for a while: as long as the lease
    /// did not change hands, nobody else has led, and all that is known stays true. To begin anew is to read every NIC.
    pub(super) fn renewed(&self, asked: Instant, term: Term) -> bool {
        let mut state = self.lock();
        let new = state.renewed.is_none() || state.term != term;
        if new {
            state.nonce = super::random::token().into();
        }
        (state.renewed, state.term) = (Some(asked), term);
        new
    }

    /// Ends the term. Who still holds the lease begins another when it renews it.
    pub fn resign(&self) -> bool {
        self.lock().renewed.take().is_some()
    }

    #[cfg(test)]
    pub(super) fn leading(identity: &str) -> Self {
        let leadership = Self::new(identity);
        leadership.renewed(Instant::now(), Term::default());
        leadership
    }
}

/// Stands for election until told to resign, then gives the lease up.
pub async fn stand(api: Api<Lease>, name: String, leadership: Leadership, resigned: Shutdown) {
    let mut election = Election { api, name, leadership, seen: None, held: None };
    loop {
        // An API server that does not answer must not keep a leader from learning that its time is over.
        let pause = match timeout(TRUST / 2, election.turn()).await {
            Ok(Ok(Turn::Leads)) => RENEW,
            Ok(Ok(Turn::Waits)) => RETRY,
            Ok(Err(error)) => {
                warn!("cannot renew or take the lease: {error}");
                RETRY
            }
            Err(_) => {
                warn!("cannot renew or take the lease: the API server does not answer");
                // It was waited for long enough.
                Duration::ZERO
            }
        };
        tokio::select! {
            () = resigned.wait() => break,
            () = sleep(pause) => {}
        }
    }
    // A lease may be held without a term: who ended that one begins the next when it renews.
    election.leadership.resign();
    if timeout(Duration::from_secs(3), election.give_up()).await.is_err() {
        warn!("the lease was not given up: the API server does not answer");
    }
}

enum Turn {
    Leads,
    Waits,
}

struct Election {
    api: Api<Lease>,
    name: String,
    leadership: Leadership,
    /// The lease as it last changed, and when that was noticed by this machine's clock: clocks of machines differ.
    seen: Option<(LeaseSpec, Instant)>,
    /// The lease as this process last wrote it: it need not be read to be renewed, since a write is refused if somebody else wrote meanwhile.
    held: Option<Lease>,
}

impl Election {
    async fn turn(&mut self) -> kube::Result<Turn> {
        let asked = Instant::now();
        let stored = match self.held.take() {
            Some(held) => Some(held),
            None => self.api.get_opt(&self.name).await?,
        };
        let Some(mut lease) = stored else {
            let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
            let lease = Lease { metadata, spec: Some(taken(&LeaseSpec::default(), self.leadership.identity())) };
            let answer = self.api.create(&PostParams::default(), &lease).await;
            return self.answered(asked, answer);
        };
        let spec = lease.spec.take().unwrap_or_default();
        if !self.is_free(&spec, asked) {
            if self.leadership.resign() {
                warn!(holder = spec.holder_identity, "another controller leads now");
            }
            return Ok(Turn::Waits);
        }
        lease.spec = Some(taken(&spec, self.leadership.identity()));
        let answer = self.api.replace(&self.name, &PostParams::default(), &lease).await;
        self.answered(asked, answer)
    }

    /// Whether the lease is ours, nobody's, or was left alone for its whole duration while we watched.
    fn is_free(&mut self, spec: &LeaseSpec, now: Instant) -> bool {
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        if holder.is_empty() || holder == self.leadership.identity() {
            return true;
        }
        if self.seen.as_ref().is_none_or(|(seen, _)| seen != spec) {
            self.seen = Some((spec.clone(), now));
        }
        let duration = spec.lease_duration_seconds.and_then(|s| u64::try_from(s).ok()).map_or(DURATION, Duration::from_secs);
        self.seen.as_ref().is_some_and(|(_, since)| now.duration_since(*since) >= duration)
    }

    fn answered(&mut self, asked: Instant, answer: kube::Result<Lease>) -> kube::Result<Turn> {
        match answer {
            Ok(lease) => {
                let transitions = lease.spec.as_ref().and_then(|spec| spec.lease_transitions).unwrap_or_default();
                let term = (lease.metadata.uid.clone().unwrap_or_default(), transitions);
                self.held = Some(lease);
                if self.leadership.renewed(asked, term) {
                    info!(identity = self.leadership.identity(), "leads");
                }
                Ok(Turn::Leads)
            }
            Err(kube::Error::Api(status)) if status.code == 409 => {
                debug!("another controller was quicker");
                Ok(Turn::Waits)
            }
            Err(error) => Err(error),
        }
    }

    async fn give_up(&self) {
        let Ok(Some(mut lease)) = self.api.get_opt(&self.name).await else { return };
        let ours = lease.spec.as_ref().is_some_and(|spec| spec.holder_identity.as_deref() == Some(self.leadership.identity()));
        if !ours {
            return;
        }
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
        }
        match self.api.replace(&self.name, &PostParams::default(), &lease).await {
            Ok(_) => info!("gave the lease up"),
            Err(error) => warn!("the lease was not given up: {error}"),
        }
    }
}

/// The lease as held by us from now on.
fn taken(spec: &LeaseSpec, identity: &str) -> LeaseSpec {
    let now = Some(MicroTime(Timestamp::now()));
    let ours = spec.holder_identity.as_deref() == Some(identity);
    LeaseSpec {
        holder_identity: Some(identity.to_owned()),
        lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
        acquire_time: if ours { spec.acquire_time.clone() } else { now.clone() },
        renew_time: now,
        lease_transitions: Some(spec.lease_transitions.unwrap_or_default().saturating_add(i32::from(!ours))),
        ..spec.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: &str) -> LeaseSpec {
        LeaseSpec { lease_duration_seconds: Some(15), ..taken(&LeaseSpec::default(), holder) }
    }

    fn election() -> Election {
        let service = tower::service_fn(async |_: http::Request<kube::client::Body>| {
            Ok::<_, std::io::Error>(http::Response::new(kube::client::Body::empty()))
        });
        let client = kube::Client::new(service, "default");
        Election { api: Api::default_namespaced(client), name: "l".into(), leadership: Leadership::new("me"), seen: None, held: None }
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_cannot_renew_stops_before_anybody_may_follow() {
        let leadership = Leadership::leading("me");
        let first = leadership.nonce().unwrap();
        tokio::time::advance(TRUST.checked_sub(Duration::from_millis(1)).unwrap()).await;
        assert!(leadership.is_leader_now());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!leadership.is_leader_now() && leadership.nonce().is_none());
        leadership.renewed(Instant::now(), Term::default());
        assert_eq!(leadership.nonce().unwrap(), first, "the lease was nobody else's meanwhile: it is the same term");
        leadership.renewed(Instant::now(), (String::new(), 2));
        assert_ne!(leadership.nonce().unwrap(), first, "re1: somebody else led; another term, another nonce");
        leadership.renewed(Instant::now(), Term::default());
        let again = leadership.nonce().unwrap();
        leadership.resign();
        leadership.renewed(Instant::now(), Term::default());
        assert_ne!(leadership.nonce().unwrap(), again, "re1: it was ended");
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_is_held_is_renewed_by_one_request_and_given_up_at_the_end_also_without_a_term() {
        let stored = Arc::new(Mutex::new(String::new()));
        let methods = Arc::new(Mutex::new(Vec::new()));
        let (server, seen) = (Arc::clone(&stored), Arc::clone(&methods));
        let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            let server = Arc::clone(&server);
            seen.lock().unwrap().push(request.method().to_string());
            async move {
                let sent = request.into_body().collect_bytes().await.unwrap();
                let mut stored = server.lock().unwrap();
                if !sent.is_empty() {
                    *stored = String::from_utf8(sent.to_vec()).unwrap();
                }
                let status = if stored.is_empty() { 404 } else { 200 };
                let none = r#"{"kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound", "message": "no"}"#;
                let body = if stored.is_empty() { none.to_owned() } else { stored.clone() };
                Ok::<_, std::io::Error>(http::Response::builder().status(status).body(kube::client::Body::from(body.into_bytes())).unwrap())
            }
        });
        let api = Api::default_namespaced(kube::Client::new(service, "default"));
        let leadership = Leadership::new("me");
        let (resign, resigned) = Shutdown::manual();
        let election = tokio::spawn(stand(api, "l".into(), leadership.clone(), resigned));
        while !leadership.is_leader_now() {
            tokio::task::yield_now().await;
        }
        sleep(RENEW * 3 + RENEW / 2).await;
        assert_eq!(*methods.lock().unwrap(), ["GET", "POST", "PUT", "PUT", "PUT"]);
        leadership.resign();
        resign.send_replace(true);
        election.await.unwrap();
        let lease: Lease = serde_json::from_str(&stored.lock().unwrap()).unwrap();
        assert_eq!(lease.spec.unwrap().holder_identity.as_deref(), Some(""));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_taken_only_after_it_was_watched_to_be_left_alone() {
        let mut election = election();
        let spec = lease("other");
        assert!(!election.is_free(&spec, Instant::now()), "however old its time of renewal looks");
        tokio::time::advance(Duration::from_secs(14)).await;
        assert!(!election.is_free(&spec, Instant::now()));
        let renewed = lease("other");
        assert!(!election.is_free(&LeaseSpec { lease_transitions: Some(9), ..renewed.clone() }, Instant::now()));
        tokio::time::advance(DURATION).await;
        assert!(election.is_free(&LeaseSpec { lease_transitions: Some(9), ..renewed }, Instant::now()));
        assert!(election.is_free(&lease(""), Instant::now()) && election.is_free(&lease("me"), Instant::now()));
    }
}
