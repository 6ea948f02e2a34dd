//! The lab of azure-vnet: an emulated Azure, real Kubernetes, and what runs in them.

pub mod azure;
