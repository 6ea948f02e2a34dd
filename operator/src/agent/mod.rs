//! The node agent: takes over the pool that the controller publishes, and keeps the host in the state that pods need.
//!
//! It decides nothing by itself: what is to be done is planned in `azure-vnet-operator-core` and the node store. It asks Azure for nothing but
//! the node's own metadata.

mod options;

pub use options::Options;

use crate::World;

/// Runs until it is told to stop.
///
/// # Errors
/// When the node store cannot be opened, or was replaced under the agent.
pub async fn run(options: Options, world: World) -> anyhow::Result<()> {
    let _ = options;
    world.shutdown.wait().await;
    Ok(())
}
