//! Nodes as far as the controller reads them: a typed Node is fifteen times as large (safety rule SC1).

use std::borrow::Cow;

use azure_vnet_crds::{AzureVnetNode, POOL_OVERRIDE, UNMANAGED};
use kube::{Resource, api::ObjectMeta, core::ClusterResourceScope};
use serde::{Deserialize, Serialize};

/// A Node.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Node {
    /// Name, UID, labels, times.
    pub metadata: ObjectMeta,
    /// As wanted.
    #[serde(default)]
    pub spec: NodeSpec,
    /// As reported.
    #[serde(default)]
    pub status: NodeStatus,
}

/// What is wanted of a node.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeSpec {
    /// The cloud provider's id.
    #[serde(rename = "providerID")]
    pub provider_id: String,
    /// Cordoned.
    pub unschedulable: bool,
    /// Taints, whole: a patch of them must send back what was there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub taints: Vec<serde_json::Value>,
    /// Ranges that it was given for pods.
    #[serde(rename = "podCIDRs", skip_serializing_if = "Vec::is_empty")]
    pub pod_cidrs: Vec<String>,
}

/// What a node reports.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeStatus {
    /// Ready and `NetworkUnavailable`; others are dropped on arrival.
    pub conditions: Vec<NodeCondition>,
    /// The boot.
    pub node_info: NodeInfo,
}

/// One condition of a node.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct NodeCondition {
    /// Which.
    #[serde(rename = "type")]
    pub type_: String,
    /// True, False or Unknown.
    pub status: String,
}

/// What the kubelet says of the running system.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeInfo {
    /// The boot.
    #[serde(rename = "bootID")]
    pub boot_id: String,
    /// linux or windows.
    pub operating_system: String,
}

impl Resource for Node {
    type DynamicType = ();
    type Scope = ClusterResourceScope;
    fn kind((): &()) -> Cow<'_, str> {
        "Node".into()
    }
    fn group((): &()) -> Cow<'_, str> {
        "".into()
    }
    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }
    fn plural((): &()) -> Cow<'_, str> {
        "nodes".into()
    }
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl Node {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    /// Its UID.
    #[must_use]
    pub fn uid(&self) -> &str {
        self.metadata.uid.as_deref().unwrap_or_default()
    }

    /// The status of a condition.
    #[must_use]
    pub fn condition(&self, type_: &str) -> Option<&str> {
        self.status.conditions.iter().find(|condition| condition.type_ == type_).map(|condition| condition.status.as_str())
    }

    /// The value of an annotation; of those that are read.
    #[must_use]
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.metadata.annotations.as_ref()?.get(key).map(String::as_str)
    }

    /// Whether it has a taint of that key.
    #[must_use]
    pub fn has_taint(&self, key: &str) -> bool {
        self.spec.taints.iter().any(|taint| taint_key(taint) == Some(key))
    }

    /// Drops what is not read, so that the cache stays small.
    pub fn trim(&mut self) {
        let ours = self.metadata.annotations.take().map(|mut all| {
            all.retain(|key, _| [POOL_OVERRIDE, UNMANAGED].contains(&key.as_str()));
            all
        });
        trim(&mut self.metadata);
        self.metadata.annotations = ours.filter(|ours| !ours.is_empty());
        self.status.conditions.retain(|condition| ["Ready", "NetworkUnavailable"].contains(&condition.type_.as_str()));
    }
}

/// The key of a taint.
#[must_use]
pub fn taint_key(taint: &serde_json::Value) -> Option<&str> {
    taint.get("key").and_then(serde_json::Value::as_str)
}

/// Drops what nobody here reads of an object's metadata.
pub fn trim(metadata: &mut ObjectMeta) {
    metadata.managed_fields = None;
    metadata.annotations = None;
}

/// Whether the finalizer is set.
#[must_use]
pub fn is_held(object: &AzureVnetNode) -> bool {
    object.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == azure_vnet_crds::FINALIZER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sc1_a_node_keeps_its_taints_whole_and_little_else() {
        let text = r#"{"metadata": {"name": "n", "uid": "u", "annotations": {"a": "b", "azure-vnet.dev/unmanaged": "true"}, "managedFields": []},
            "spec": {"providerID": "azure:///x", "taints": [{"key": "k", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"}], "podCIDR": "x"},
            "status": {"conditions": [{"type": "Ready", "status": "Unknown"}, {"type": "DiskPressure", "status": "False"}],
            "nodeInfo": {"bootID": "b", "operatingSystem": "linux", "kernelVersion": "6"}}}"#;
        let mut node: Node = serde_json::from_str(text).unwrap();
        node.trim();
        assert_eq!((node.name(), node.uid(), node.condition("Ready"), node.condition("DiskPressure")), ("n", "u", Some("Unknown"), None));
        assert_eq!((node.annotation(UNMANAGED), node.annotation("a")), (Some("true"), None));
        assert!(node.has_taint("k") && node.spec.taints[0].get("timeAdded").is_some() && !node.spec.unschedulable);
    }
}
