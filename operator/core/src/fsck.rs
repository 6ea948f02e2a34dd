//! Whether all who know something of a node's addresses agree: Azure as the controller last read it, the node's object, its agent, its store, its kernel,
//! and the API server's pods. Pure, on what was read. Nothing here writes to Azure, and nothing frees an address: that takes two witnesses (safety rule
//! CM4), which the runtime and the agent have.

mod cloud;
mod compare;
pub mod node;
mod pods;
mod repair;
mod report;
#[cfg(test)]
mod tests;
mod work;

pub use compare::{Pod, Sources, choose, compare};
pub use repair::{End, Mended, Now, Repair, Repairs};
pub use report::{Finding, Kind, Looked, Outcome, Report, Source, Unseen, Witness};
pub use work::{ROUTES_AT_ONCE, Step, Work};
