//! Placeholder.
pub mod conflist;
pub mod rules;
pub mod sysctl;
