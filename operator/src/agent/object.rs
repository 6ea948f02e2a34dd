//! The node's own object, as far as the agent reads it.

use azure_vnet_crds::{
    AzureVnetNode, AzureVnetNodeSpec,
    node::{Agent, IntentOp, SlotAddress},
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

/// What an `AzureVnetNode` says to its agent.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// Its UID.
    pub uid: String,
    /// What the controller published.
    pub spec: AzureVnetNodeSpec,
    /// Whether it is being deleted.
    pub leaving: bool,
    /// What an open intent removes from the NIC.
    pub removing: Vec<SlotAddress>,
    /// When the controller last read the NIC.
    pub last_read: Option<Timestamp>,
    /// What the API server has of our last report.
    pub agent: Option<Agent>,
    /// As they stand.
    pub conditions: Vec<Condition>,
}

impl Object {
    /// Reads it. One without a UID is none: the API server always gives one.
    #[must_use]
    pub fn read(object: AzureVnetNode) -> Option<Self> {
        let status = object.status.unwrap_or_default();
        let cloud = status.cloud.unwrap_or_default();
        let removing = cloud.intent.filter(|intent| intent.op == IntentOp::Remove).map(|intent| intent.remove).unwrap_or_default();
        Some(Self {
            uid: object.metadata.uid?,
            spec: object.spec,
            leaving: object.metadata.deletion_timestamp.is_some(),
            removing,
            last_read: cloud.last_read_at.map(|time| time.0),
            agent: status.agent,
            conditions: status.conditions,
        })
    }
}
