//! `AzureVnetSubnet`: how full a subnet of the nodes is, and for how long what is left will do. The controller writes it, nobody reads it but people.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema;

/// A subnet that nodes have their addresses from.
#[expect(clippy::duplicated_attributes, reason = "several columns have the same priority")]
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[kube(group = "azure-vnet.dev", version = "v1alpha1", kind = "AzureVnetSubnet", plural = "azurevnetsubnets", shortname = "avs")]
#[kube(doc = "How full a subnet of the nodes is, and for how long what is left will do. The controller writes it.")]
#[kube(status = "AzureVnetSubnetStatus", derive = "Default", derive = "PartialEq", category = "azure-vnet")]
#[kube(printcolumn(name = "Free", type_ = "integer", json_path = ".status.free"))]
#[kube(printcolumn(name = "Used%", type_ = "integer", json_path = ".status.usedPercent"))]
#[kube(printcolumn(name = "Needs", type_ = "integer", json_path = ".status.needs"))]
#[kube(printcolumn(name = "Nodes", type_ = "integer", json_path = ".status.nodes"))]
#[kube(printcolumn(name = "Room", type_ = "integer", json_path = ".status.roomForNodes"))]
#[kube(printcolumn(name = "Empty", type_ = "date", json_path = ".status.exhaustedAt"))]
#[kube(printcolumn(name = "Ours", type_ = "integer", json_path = ".status.ours", priority = "1"))]
#[kube(printcolumn(name = "Foreign", type_ = "integer", json_path = ".status.foreign", priority = "1"))]
#[kube(printcolumn(name = "Subnet", type_ = "string", json_path = ".spec.subnetID", priority = "1"))]
#[kube(printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"))]
#[schemars(transform = schema::written_by_machines)]
#[serde(rename_all = "camelCase", default)]
pub struct AzureVnetSubnetSpec {
    /// Azure resource id.
    #[serde(rename = "subnetID")]
    #[schemars(length(max = 512))]
    pub subnet_id: String,
}

/// How full a subnet is.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = schema::written_by_machines)]
pub struct AzureVnetSubnetStatus {
    /// Its prefixes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 43)), extend("x-kubernetes-list-type" = "atomic"))]
    pub prefixes: Vec<String>,
    /// Addresses that it has for machines, without the five that Azure keeps of each prefix.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Addresses in use, by Azure's count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used: Option<u32>,
    /// Addresses left, by Azure's count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub free: Option<u32>,
    /// Share in use, in percent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used_percent: Option<u32>,
    /// Addresses that this cluster's nodes hold for pods.
    pub ours: u32,
    /// Addresses in use that are neither for pods nor a node's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub foreign: Option<u32>,
    /// Nodes in it.
    pub nodes: u32,
    /// Addresses missing to the nodes' targets beyond what is left.
    pub needs: u32,
    /// How many more nodes of the present average size fit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub room_for_nodes: Option<u32>,
    /// Addresses by which use grows in an hour, over the last hour.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burn_per_hour: Option<i32>,
    /// When nothing is left if use goes on growing so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exhausted_at: Option<Time>,
    /// Exhausted, Low, `UsageKnown`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}
