//! The controller.

use std::sync::Arc;

use crate::{World, azure::Arm};

/// Leadership and pace.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Leadership")]
pub struct Options {
    /// Identity among the replicas; default: a random one.
    #[arg(long, env = "POD_NAME")]
    pub identity: Option<String>,
    /// Namespace of the lease.
    #[arg(long, env = "POD_NAMESPACE", default_value = "azure-vnet-system")]
    pub namespace: String,
    /// Name of the lease.
    #[arg(long, default_value = "azure-vnet-controller")]
    pub lease_name: String,
    /// Nodes worked on at once.
    #[arg(long, default_value_t = 64)]
    pub parallel: usize,
}

/// Runs until the process is asked to end.
///
/// # Errors
/// What ended it.
pub async fn run<A: Arm>(_options: Options, world: World, _arm: Arc<A>) -> anyhow::Result<()> {
    world.shutdown.wait().await;
    Ok(())
}
