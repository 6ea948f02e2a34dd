//! Tells the controller, by server-side apply of the agent's own part of the status, and only what has changed.

use std::time::Duration;

use azure_vnet_crds::{AGENT_MANAGER, AzureVnetNode, node::Agent};
use azure_vnet_operator_core::declared::Field;
use azure_vnet_plugin_core::attachment::PodRef;
use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{
    Api, Client, Resource as _,
    api::{Patch, PatchParams},
    runtime::events::{self, Event, EventType, Recorder},
};
use serde_json::json;
use tokio::time::{Instant, timeout};
use tracing::warn;

use super::{
    keep::CutOff,
    object::Object,
    problems::{News, Report},
};

/// Between two reports of mere numbers.
const PACE: Duration = Duration::from_secs(2);
/// Longest wait for the API server; the host is looked after meanwhile only if this is short.
const DEADLINE: Duration = Duration::from_secs(3);
/// Events of one look.
const MOST_NEWS: usize = 5;
/// How long a field is left out that the API server does not know: its CRDs may be brought up to date.
const UNDECLARED: Duration = Duration::from_hours(1);
/// How long the watch may take to show what was written.
const ECHO: Duration = Duration::from_secs(30);

/// What was told last.
pub struct Reporter {
    objects: Api<AzureVnetNode>,
    node: String,
    told: Option<(Agent, Vec<Condition>)>,
    told_at: Option<Instant>,
    /// When the CRDs were found older than this program.
    undeclared_at: Option<Instant>,
    events: Recorder,
}

impl Reporter {
    /// Has told nothing yet.
    #[must_use]
    pub fn new(client: Client, objects: Api<AzureVnetNode>, node: &str) -> Self {
        let events = Recorder::new(client, events::Reporter { controller: AGENT_MANAGER.into(), instance: Some(node.to_owned()) });
        Self { objects, node: node.to_owned(), told: None, told_at: None, undeclared_at: None, events }
    }

    /// Says of which pods the traffic was cut off, and why (safety rule RE7): of the node's pool, and of each pod. An event that cannot be published
    /// is lost.
    pub async fn announce(&self, cut_off: &[CutOff], object: Option<&Object>) {
        let (false, Some(object)) = (cut_off.is_empty(), object) else { return };
        let addresses = cut_off.iter().map(|cut| cut.address.to_string()).collect::<Vec<_>>().join(", ");
        let note = format!(
            "{addresses} vanished from the node's NIC while pods had them; their routes were removed. Delete these pods: they get new addresses. \
             Look in Azure's activity log for who changed the NIC."
        );
        let event =
            Event { type_: EventType::Warning, reason: "AddressLost".into(), note: Some(note), action: "CutOff".into(), secondary: None };
        let reference = ObjectReference {
            name: Some(self.node.clone()),
            uid: Some(object.uid.clone()),
            api_version: Some(AzureVnetNode::api_version(&()).into_owned()),
            kind: Some(AzureVnetNode::kind(&()).into_owned()),
            ..ObjectReference::default()
        };
        if !matches!(timeout(DEADLINE, self.events.publish(&event, &reference)).await, Ok(Ok(()))) {
            warn!(addresses, "an event was not published: addresses vanished from the NIC while pods had them");
        }
        let of_pods: Vec<_> = cut_off.iter().filter_map(of_pod).collect();
        let published = join_all(of_pods.iter().map(|(event, pod)| self.events.publish(event, pod)));
        let lost = match timeout(DEADLINE, published).await {
            Ok(results) => results.iter().filter(|result| result.is_err()).count(),
            Err(_) => of_pods.len(),
        };
        if lost > 0 {
            warn!(lost, "events of pods whose addresses vanished from the NIC were not published");
        }
    }

    /// Says what is new of the host, as events of its Node. Those that cannot be published are lost: the log has them.
    pub async fn tell(&self, news: &[News]) {
        // The node's own components name it so: `kubectl describe node` finds events by it.
        let name = Some(self.node.clone());
        let (kind, api_version) = (Some("Node".into()), Some("v1".into()));
        let reference = ObjectReference { uid: name.clone(), name, api_version, kind, ..ObjectReference::default() };
        for News { reason, note } in news.iter().take(MOST_NEWS) {
            let note = Some(note.chars().take(1024).collect());
            let event = Event { type_: EventType::Warning, reason: (*reason).into(), note, action: "Keep".into(), secondary: None };
            if !matches!(timeout(DEADLINE, self.events.publish(&event, &reference)).await, Ok(Ok(()))) {
                return;
            }
        }
    }

    /// Tells, if there is something new; numbers alone wait for their turn, acknowledgements and readiness do not.
    pub async fn report(&mut self, report: Option<&Report>, object: Option<&Object>) {
        let (Some(report), Some(object)) = (report, object) else { return };
        // The API server keeps whole seconds.
        let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default();
        let present = self.told.as_ref().map_or(&object.conditions, |(_, conditions)| conditions);
        let undeclared = self.undeclared_at.is_some_and(|at| at.elapsed() < UNDECLARED);
        let agent = Agent { imds: report.agent.imds.filter(|_| !undeclared), ..report.agent.clone() };
        let new = (agent, report.conditions(present, &Time(now)));
        let known = self.told.as_ref() == Some(&new) && !self.is_forgotten(object);
        if known || (self.is_early() && !self.is_urgent(&new)) {
            return;
        }
        let body = json!({
            "apiVersion": "azure-vnet.dev/v1alpha1",
            "kind": "AzureVnetNode",
            "metadata": {"name": self.node},
            "status": {"agent": new.0, "conditions": new.1},
        });
        let parameters = PatchParams::apply(AGENT_MANAGER).force();
        let patch = Patch::Apply(&body);
        let sent = timeout(DEADLINE, self.objects.patch_status(&self.node, &parameters, &patch)).await;
        self.told_at = Some(Instant::now());
        match sent {
            Ok(Ok(_)) => self.told = Some(new),
            Ok(Err(kube::Error::Api(status))) if Field::Imds.is_refused(&status.message) => {
                warn!("the CRDs in the cluster are older than this agent: what IMDS says of the NIC is left out");
                self.undeclared_at = Some(Instant::now());
            }
            Ok(Err(error)) => warn!(%error, "cannot write this node's status"),
            Err(_) => warn!("the API server takes too long to write this node's status"),
        }
    }

    /// The API server has something else than it was told, and has had the time to show it: an older state of it came back.
    fn is_forgotten(&self, object: &Object) -> bool {
        let told = self.told.as_ref().map(|(agent, _)| agent);
        self.told_at.is_some_and(|at| at.elapsed() > ECHO) && object.agent.as_ref() != told
    }

    fn is_early(&self) -> bool {
        self.told_at.is_some_and(|at| at.elapsed() < PACE)
    }

    fn is_urgent(&self, (agent, conditions): &(Agent, Vec<Condition>)) -> bool {
        let Some((told, told_conditions)) = &self.told else { return true };
        let same = told.release_acks == agent.release_acks
            && told.lost_in_use == agent.lost_in_use
            && told.ready == agent.ready
            && told.revision_adopted == agent.revision_adopted
            && told.object_uid == agent.object_uid
            && told_conditions == conditions;
        !same
    }
}

/// What a pod's own users are told of its address that vanished.
fn of_pod(CutOff { address, pod }: &CutOff) -> Option<(Event, ObjectReference)> {
    let PodRef { namespace, name, uid } = pod.as_ref()?;
    let note = format!(
        "{address} vanished from the node's NIC, so no packet reaches this pod any more. Delete it: what takes its place gets another address. Who \
         looks after the cluster finds in Azure's activity log who changed the NIC."
    );
    let event =
        Event { type_: EventType::Warning, reason: "AddressLost".into(), note: Some(note), action: "CutOff".into(), secondary: None };
    let reference = ObjectReference {
        namespace: Some(namespace.clone()),
        name: Some(name.clone()),
        uid: uid.as_ref().map(ToString::to_string),
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        ..ObjectReference::default()
    };
    Some((event, reference))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn re7_the_pod_itself_is_told_and_only_where_its_lease_names_it() {
        let pod = PodRef { namespace: "shop".into(), name: "web-0".into(), uid: Some("u1".parse().unwrap()) };
        let (event, of) = of_pod(&CutOff { address: [10, 0, 0, 6].into(), pod: Some(pod) }).unwrap();
        assert_eq!((event.reason.as_str(), event.note.is_some_and(|note| note.contains("10.0.0.6"))), ("AddressLost", true));
        let named = [of.kind, of.namespace, of.name, of.uid].map(Option::unwrap);
        assert_eq!(named, ["Pod", "shop", "web-0", "u1"]);
        assert!(of_pod(&CutOff { address: [10, 0, 0, 6].into(), pod: None }).is_none());
    }
}
