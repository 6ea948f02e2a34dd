//! The shell of the operator: Kubernetes, Azure and the host. What to do is decided in `azure-vnet-operator-core`.

pub mod agent;
pub mod azure;
mod child;
pub mod cli;
pub mod controller;
pub mod install;
pub mod kubernetes;
pub mod page;
pub mod probe;
pub mod standalone;
pub mod telemetry;
pub mod tool;
pub mod uninstall;
mod world;

pub use world::{Shutdown, World};
