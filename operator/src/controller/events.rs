//! Kubernetes Events: what happened to a node's pool, and what to do about it.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use azure_vnet_operator_core::look;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client, Resource,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use tokio::time::Instant;
use tracing::debug;

/// The same event of the same object is told once in this time.
const QUIET: Duration = Duration::from_mins(10);
/// How many events are kept for the status page.
const KEPT: usize = 200;
/// The API server's limit of a note.
const NOTE: usize = 1024;

/// Publishes events, each of them seldom.
pub struct Events {
    recorder: Recorder,
    told: Mutex<BTreeMap<(String, String, String), Instant>>,
    recent: Mutex<VecDeque<look::Event>>,
}

impl Events {
    /// Publishes in the name of one replica.
    pub fn new(client: Client, identity: &str) -> Self {
        let reporter = Reporter { controller: azure_vnet_crds::CONTROLLER_MANAGER.into(), instance: Some(identity.to_owned()) };
        Self { recorder: Recorder::new(client, reporter), told: Mutex::default(), recent: Mutex::default() }
    }

    /// Tells of a cluster-scoped object. An event that cannot be published is lost: it must not delay what it speaks of.
    pub async fn tell<K: Resource<DynamicType = ()>>(&self, object: &K, type_: EventType, reason: &str, message: &str) {
        let reference = object.object_ref(&());
        if !self.is_news(&reference, reason, message) {
            return;
        }
        self.keep(&reference, type_ == EventType::Warning, reason, message);
        let note = message.char_indices().take_while(|(at, c)| at + c.len_utf8() <= NOTE).map(|(_, c)| c).collect();
        let event = Event { type_, reason: reason.to_owned(), note: Some(note), action: "Reconcile".into(), secondary: None };
        let publish = self.recorder.publish(&event, &reference);
        match tokio::time::timeout(Duration::from_secs(5), publish).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(reason, "an event was not published: {error}"),
            Err(_) => debug!(reason, "an event was not published in time"),
        }
    }

    /// What was told last, oldest first.
    pub fn recent(&self) -> Vec<look::Event> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    fn keep(&self, of: &ObjectReference, warning: bool, reason: &str, message: &str) {
        let event = look::Event {
            at: Some(Timestamp::now()),
            warning,
            reason: reason.to_owned(),
            message: message.to_owned(),
            kind: of.kind.clone().unwrap_or_default(),
            namespace: String::new(),
            name: of.name.clone().unwrap_or_default(),
            count: 1,
        };
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() == KEPT {
            recent.pop_front();
        }
        recent.push_back(event);
    }

    fn is_news(&self, reference: &ObjectReference, reason: &str, message: &str) -> bool {
        let key = (reference.uid.clone().unwrap_or_default(), reason.to_owned(), message.to_owned());
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|_, at| at.elapsed() < QUIET);
        if told.contains_key(&key) {
            return false;
        }
        told.insert(key, Instant::now());
        true
    }
}
