//! From the API server's kinds to what is looked at of them.

use azure_vnet_crds::{POOL_OVERRIDE, UNMANAGED};
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{self as api, NodeCondition, PodCondition},
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::{Event, Machine, Pod, Service};

fn at(time: Option<&Time>) -> Option<Timestamp> {
    time.map(|time| time.0)
}

impl From<api::Node> for Machine {
    fn from(node: api::Node) -> Self {
        let (spec, status) = (node.spec.unwrap_or_default(), node.status.unwrap_or_default());
        let info = status.node_info.unwrap_or_default();
        let ready: NodeCondition =
            status.conditions.unwrap_or_default().into_iter().find(|condition| condition.type_ == "Ready").unwrap_or_default();
        let annotation = |key: &str| node.metadata.annotations.as_ref().and_then(|all| all.get(key)).cloned();
        let max_pods = status.allocatable.and_then(|all| all.get("pods")?.0.parse().ok());
        Self {
            pool_override: annotation(POOL_OVERRIDE),
            unmanaged: annotation(UNMANAGED).as_deref() == Some("true"),
            created: at(node.metadata.creation_timestamp.as_ref()),
            name: node.metadata.name.unwrap_or_default(),
            uid: node.metadata.uid.unwrap_or_default(),
            labels: node.metadata.labels.unwrap_or_default(),
            provider_id: spec.provider_id.unwrap_or_default(),
            os: info.operating_system,
            ready: ready.status,
            ready_message: ready.message.unwrap_or_default(),
            cordoned: spec.unschedulable.unwrap_or_default(),
            taints: spec.taints.unwrap_or_default().into_iter().map(|taint| taint.key).collect(),
            max_pods: max_pods.unwrap_or_default(),
            kubelet: info.kubelet_version,
            runtime: info.container_runtime_version,
        }
    }
}

impl From<api::Pod> for Pod {
    fn from(pod: api::Pod) -> Self {
        let (spec, status) = (pod.spec.unwrap_or_default(), pod.status.unwrap_or_default());
        let conditions = status.conditions.unwrap_or_default();
        let condition = |kind: &str| conditions.iter().find(|condition| condition.type_ == kind && condition.status == "True");
        let since = |kind: &str| condition(kind).and_then(|found: &PodCondition| at(found.last_transition_time.as_ref()));
        Self {
            created: at(pod.metadata.creation_timestamp.as_ref()),
            terminating: pod.metadata.deletion_timestamp.is_some(),
            namespace: pod.metadata.namespace.unwrap_or_default(),
            name: pod.metadata.name.unwrap_or_default(),
            uid: pod.metadata.uid.unwrap_or_default(),
            labels: pod.metadata.labels.unwrap_or_default(),
            node: spec.node_name,
            address: status.pod_ip.and_then(|address| address.parse().ok()),
            host_network: spec.host_network.unwrap_or_default(),
            phase: status.phase.unwrap_or_default(),
            ready: condition("Ready").is_some(),
            bound: since("PodScheduled"),
            networked: since("PodReadyToStartContainers"),
        }
    }
}

impl From<api::Service> for Service {
    fn from(service: api::Service) -> Self {
        Self {
            namespace: service.metadata.namespace.unwrap_or_default(),
            name: service.metadata.name.unwrap_or_default(),
            address: service.spec.and_then(|spec| spec.cluster_ip?.parse().ok()),
        }
    }
}

impl From<api::Event> for Event {
    fn from(event: api::Event) -> Self {
        let latest = event.series.as_ref().and_then(|series| series.last_observed_time.as_ref()).or(event.event_time.as_ref());
        Self {
            at: at(event.last_timestamp.as_ref()).or(latest.map(|time| time.0)).or(at(event.first_timestamp.as_ref())),
            warning: event.type_.as_deref() == Some("Warning"),
            reason: event.reason.unwrap_or_default(),
            message: event.message.unwrap_or_default(),
            kind: event.involved_object.kind.unwrap_or_default(),
            namespace: event.involved_object.namespace.unwrap_or_default(),
            name: event.involved_object.name.unwrap_or_default(),
            count: event.series.and_then(|series| series.count).or(event.count).unwrap_or(1),
        }
    }
}
