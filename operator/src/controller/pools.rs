//! Writes of `AzureVnetNode` objects, each on the condition that nobody else wrote since.

use azure_vnet_crds::{AzureVnetNode, AzureVnetNodeSpec, CONTROLLER_MANAGER, FINALIZER, node::Cloud};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{
    Api, Client, Resource as _, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use serde_json::{Value, json};

use super::kinds::{Node, trim};

/// The pools of all nodes.
#[derive(Clone)]
pub struct Pools {
    api: Api<AzureVnetNode>,
}

impl Pools {
    /// Through a client.
    pub fn new(client: Client) -> Self {
        Self { api: Api::all(client) }
    }

    /// Reads one from the API server's store itself, not from a cache of it (safety rule RE1).
    ///
    /// # Errors
    /// The API server's.
    pub async fn read(&self, name: &str) -> kube::Result<Option<AzureVnetNode>> {
        Ok(self.api.get_opt(name).await?.map(trimmed))
    }

    /// Applies the whole spec, and creates the object where there is none.
    ///
    /// # Errors
    /// The API server's; a conflict if `stored` is not the newest.
    pub async fn apply_spec(&self, node: &Node, stored: Option<&AzureVnetNode>, spec: &AzureVnetNodeSpec) -> kube::Result<AzureVnetNode> {
        let owner = json!({"apiVersion": "v1", "kind": "Node", "name": node.name(), "uid": node.uid()});
        let mut patch = envelope(node.name(), stored);
        if let Some(metadata) = patch.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.insert("finalizers".into(), json!([FINALIZER]));
            metadata.insert("ownerReferences".into(), json!([owner]));
        }
        if let Some(patch) = patch.as_object_mut() {
            patch.insert("spec".into(), serde_json::to_value(spec).map_err(kube::Error::SerdeError)?);
        }
        self.api.patch(node.name(), &params(), &Patch::Apply(patch)).await.map(trimmed)
    }

    /// Applies all of the status that is the controller's.
    ///
    /// # Errors
    /// The API server's; a conflict if `stored` is not the newest.
    pub async fn apply_status(&self, stored: &AzureVnetNode, cloud: &Cloud, conditions: &[Condition]) -> kube::Result<AzureVnetNode> {
        let name = stored.name_any();
        let mut patch = envelope(&name, Some(stored));
        if let Some(patch) = patch.as_object_mut() {
            patch.insert("status".into(), json!({"cloud": cloud, "conditions": conditions}));
        }
        self.api.patch_status(&name, &params(), &Patch::Apply(patch)).await.map(trimmed)
    }

    /// Deletes this very object.
    ///
    /// # Errors
    /// The API server's.
    pub async fn delete(&self, stored: &AzureVnetNode) -> kube::Result<()> {
        let preconditions = Preconditions { uid: stored.uid(), resource_version: stored.resource_version() };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        self.api.delete(&stored.name_any(), &params).await.map(drop)
    }

    /// Lets an object that is being deleted go.
    ///
    /// # Errors
    /// The API server's; a conflict if `stored` is not the newest.
    pub async fn release(&self, stored: &AzureVnetNode) -> kube::Result<()> {
        let rest: Vec<&String> = stored.finalizers().iter().filter(|finalizer| *finalizer != FINALIZER).collect();
        let patch = json!({"metadata": {"resourceVersion": stored.resource_version(), "finalizers": rest}});
        let params = PatchParams { field_manager: Some(CONTROLLER_MANAGER.into()), ..PatchParams::default() };
        self.api.patch(&stored.name_any(), &params, &Patch::Merge(patch)).await.map(drop)
    }
}

/// What is kept of an answer for as long as the node lives: who manages which field is most of it.
fn trimmed(mut pool: AzureVnetNode) -> AzureVnetNode {
    trim(&mut pool.metadata);
    pool
}

fn params() -> PatchParams {
    PatchParams::apply(CONTROLLER_MANAGER).force()
}

/// Kind and name; and the version that must still be the newest.
fn envelope(name: &str, stored: Option<&AzureVnetNode>) -> Value {
    let mut metadata = json!({"name": name});
    if let (Some(metadata), Some(stored)) = (metadata.as_object_mut(), stored) {
        metadata.insert("resourceVersion".into(), json!(stored.resource_version()));
        // With the uid a patch never makes a new object out of one that is gone.
        metadata.insert("uid".into(), json!(stored.uid()));
    }
    json!({"apiVersion": AzureVnetNode::api_version(&()), "kind": AzureVnetNode::kind(&()), "metadata": metadata})
}

/// Whether an error means that somebody else wrote first, or deleted.
#[must_use]
pub fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if [404, 409].contains(&status.code))
}
