//! The lab of azure-vnet: an emulated Azure, real Kubernetes, and what runs in them.

pub mod azure;
pub mod bench;
pub mod build;
pub mod commands;
pub mod conformance;
pub mod demo;
pub mod dist;
pub mod lab;
pub mod scale;
pub mod scenario;
pub mod suite;
