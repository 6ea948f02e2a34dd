//! Placeholder.
pub mod arm;
pub mod conflist;
pub mod rules;
pub mod sysctl;
pub mod adoption;
pub mod demand;
