//! Decisions of the controller and the agent, as functions of what was observed: no input, no output, no clock.
pub mod adoption;
pub mod arm;
pub mod conflist;
pub mod contest;
pub mod decide;
pub mod demand;
pub mod exhaustion;
pub mod look;
pub mod network;
pub mod nic;
pub mod pass;
pub mod policy;
pub mod provider;
pub mod rules;
pub mod size;
pub mod subnet;
pub mod sysctl;
