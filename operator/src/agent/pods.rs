//! The node's own pods, decoded to the few fields that matter.

use std::collections::BTreeMap;

use azure_vnet_operator_core::demand::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{
    Api, Client,
    api::{ApiResource, ListParams, Object},
    runtime::watcher,
};
use serde::{Deserialize, Serialize};

use super::orphans::Listed;

/// A pod, cut down.
pub type SlimPod = Object<Spec, Status>;

/// See the pod's own `spec`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Spec {
    /// Whether it shares the node's network.
    pub host_network: bool,
}

/// See the pod's own `status`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    /// `Succeeded` and `Failed` are the ends.
    pub phase: String,
}

/// Reads pods.
#[must_use]
pub fn api(client: Client) -> Api<SlimPod> {
    Api::all_with(client, &ApiResource::erase::<k8s_openapi::api::core::v1::Pod>(&()))
}

fn on_node(node: &str) -> String {
    format!("spec.nodeName={node}")
}

/// What to watch.
#[must_use]
pub fn watch_config(node: &str) -> watcher::Config {
    watcher::Config::default().fields(&on_node(node))
}

/// Asks the API server itself, past every cache.
///
/// # Errors
/// When it does not answer.
pub async fn list(api: &Api<SlimPod>, node: &str) -> Result<Listed, kube::Error> {
    let pods = api.list(&ListParams::default().fields(&on_node(node))).await?;
    Ok(Listed {
        uids: pods.items.iter().filter_map(|pod| uid(&pod.metadata)).collect(),
        names: pods.items.iter().filter_map(|pod| Some((pod.metadata.namespace.clone()?, pod.metadata.name.clone()?))).collect(),
    })
}

/// The node's pods as the watch shows them. `None` until it has shown all once.
#[derive(Debug, Default)]
pub struct Pods {
    shown: Option<BTreeMap<String, Named>>,
    arriving: BTreeMap<String, Named>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Named {
    namespace: String,
    name: String,
    pod: Pod,
}

impl Pods {
    /// Takes an event in. Answers whether anything changed.
    pub fn take(&mut self, event: watcher::Event<SlimPod>) -> bool {
        match event {
            watcher::Event::Init => self.arriving.clear(),
            watcher::Event::InitApply(pod) => drop(slim(pod).map(|(uid, pod)| self.arriving.insert(uid, pod))),
            watcher::Event::InitDone => {
                let all = Some(std::mem::take(&mut self.arriving));
                let changed = self.shown != all;
                self.shown = all;
                return changed;
            }
            watcher::Event::Apply(pod) => {
                let shown = self.shown.get_or_insert_default();
                return slim(pod).is_some_and(|(uid, pod)| shown.insert(uid, pod.clone()) != Some(pod));
            }
            watcher::Event::Delete(pod) => {
                let shown = self.shown.get_or_insert_default();
                return uid(&pod.metadata).is_some_and(|uid| shown.remove(&uid).is_some());
            }
        }
        false
    }

    /// All of them, for the count of demand.
    #[must_use]
    pub fn all(&self) -> Option<Vec<Pod>> {
        self.shown.as_ref().map(|shown| shown.values().map(|named| named.pod.clone()).collect())
    }

    /// All that a lease may know them by.
    #[must_use]
    pub fn listed(&self) -> Option<Listed> {
        let shown = self.shown.as_ref()?;
        Some(Listed {
            uids: shown.keys().cloned().collect(),
            names: shown.values().map(|named| (named.namespace.clone(), named.name.clone())).collect(),
        })
    }
}

/// The UID that the runtime knows a pod by. A static pod's is the hash of its file; the API server shows a mirror of it under another one.
fn uid(metadata: &ObjectMeta) -> Option<String> {
    let mirrored = metadata.annotations.as_ref().and_then(|annotations| annotations.get("kubernetes.io/config.mirror"));
    mirrored.or(metadata.uid.as_ref()).cloned()
}

fn slim(pod: SlimPod) -> Option<(String, Named)> {
    let uid = uid(&pod.metadata)?;
    let finished = pod.status.is_some_and(|status| matches!(status.phase.as_str(), "Succeeded" | "Failed"));
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let named = Named {
        namespace: pod.metadata.namespace.unwrap_or_default(),
        name: pod.metadata.name.unwrap_or_default(),
        pod: Pod { uid: uid.clone(), host_network: pod.spec.host_network, finished, terminating },
    };
    Some((uid, named))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cm4_a_static_pod_is_known_by_the_uid_that_its_lease_names() {
        let mut metadata = ObjectMeta { uid: Some("mirror".into()), ..ObjectMeta::default() };
        assert_eq!(uid(&metadata).as_deref(), Some("mirror"));
        metadata.annotations = Some(BTreeMap::from([("kubernetes.io/config.mirror".to_owned(), "hash-of-the-file".to_owned())]));
        assert_eq!(uid(&metadata).as_deref(), Some("hash-of-the-file"));
    }
}
