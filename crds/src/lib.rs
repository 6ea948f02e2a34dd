//! The API of azure-vnet as pure types: what users write, what the controller and the agents tell one another.
//! It holds no behaviour beyond parsing; validation that users meet lives in the schema (CEL), so that the API server
//! refuses a bad object with a message that says what to do.

pub mod config;
pub mod node;
mod schema;
mod slot;
pub mod subnet;

pub use config::{AzureVnetConfig, AzureVnetConfigSpec, AzureVnetConfigStatus};
pub use node::{AzureVnetNode, AzureVnetNodeSpec, AzureVnetNodeStatus};
pub use subnet::{AzureVnetSubnet, AzureVnetSubnetSpec, AzureVnetSubnetStatus};

/// The API group of all kinds.
pub const GROUP: &str = "azure-vnet.dev";
/// The only served version.
pub const VERSION: &str = "v1alpha1";
/// Server-side apply field manager of the controller.
pub const CONTROLLER_MANAGER: &str = "azure-vnet-controller";
/// Server-side apply field manager of the agents.
pub const AGENT_MANAGER: &str = "azure-vnet-agent";
/// Taint that keeps pods off a node until its agent is ready; the controller removes it.
pub const STARTUP_TAINT: &str = "azure-vnet.dev/agent-not-ready";
/// Taint that keeps pods off a node that has no address left and can get none; the controller sets and removes it.
pub const EXHAUSTED_TAINT: &str = "azure-vnet.dev/no-addresses";
/// Taint that keeps pods off nodes while the product is taken out of the cluster; its value says until when at most, in seconds of Unix time.
pub const UNINSTALL_TAINT: &str = "azure-vnet.dev/uninstalling";
/// Annotation of a Node whose JSON object replaces fields of the config's `pool`: `min`, `minFree`, `batch`, `max`, `ipAddressCount`.
pub const POOL_OVERRIDE: &str = "azure-vnet.dev/pool-override";
/// Annotation of a Node that is to be left alone: `true`.
pub const UNMANAGED: &str = "azure-vnet.dev/unmanaged";
/// Finalizer that keeps an `AzureVnetNode` while a write to its NIC may still land (safety rule RE4).
pub const FINALIZER: &str = "azure-vnet.dev/nic";
