//! Takes the product out of a cluster, as the chart's hook before it is uninstalled: first everything stops that could write, then every node is
//! restored, and only then addresses go back. It can be broken off at any point and begun again.

mod cluster;
mod lead;
mod nics;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, bail, ensure};
use azure_vnet_crds::AzureVnetNode;
use azure_vnet_operator_core::uninstall::{self as plan, Addresses, Occupied, Progress};
use clap::ValueEnum;
use futures::{StreamExt as _, stream};
use kube::{Client, ResourceExt as _};
use tokio::time::Instant;
use tracing::{info, warn};

use self::{
    cluster::{Cluster, Taints},
    lead::Lead,
    nics::{Given, Nics},
};
use crate::{azure::Arm, controller::leader::Leadership};

/// How many NICs are written at once.
const PARALLEL: usize = 16;
/// How long writes of the controller that are under way may take to end by themselves.
const SETTLE: Duration = Duration::from_mins(1);
/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);

/// What is to become of it all.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// What becomes of the addresses on the NICs
    #[arg(long, value_enum, default_value_t = AddressesFlag::GiveBack)]
    pub addresses: AddressesFlag,
    /// What is done about nodes whose pods have addresses
    #[arg(long, value_enum, default_value_t = OccupiedFlag::Refuse)]
    pub nodes_with_pods: OccupiedFlag,
    /// Namespace of the product
    #[arg(long, env = "POD_NAMESPACE", default_value = "azure-vnet-system")]
    pub namespace: String,
    /// The controller's Deployment
    #[arg(long, default_value = "azure-vnet-controller")]
    pub controller: String,
    /// The agents' `DaemonSet`
    #[arg(long, default_value = "azure-vnet-agent")]
    pub agent: String,
    /// Name of the leader's lease
    #[arg(long, default_value = "azure-vnet-controller")]
    pub lease_name: String,
    /// The start-up taint, which nobody takes off any more
    #[arg(long, default_value = azure_vnet_crds::STARTUP_TAINT)]
    pub startup_taint: String,
    /// The `DaemonSet` that restores the nodes, as JSON
    #[arg(long, value_name = "FILE")]
    pub restorer: PathBuf,
    /// Seconds for all of it
    #[arg(long, default_value_t = 270)]
    pub patience: u64,
}

/// See [`Addresses`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AddressesFlag {
    /// They go back to the subnet
    #[value(name = "GiveBack")]
    GiveBack,
    /// They stay on the NICs
    #[value(name = "Keep")]
    Keep,
}

/// See [`Occupied`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OccupiedFlag {
    /// Nothing is begun while there is one
    #[value(name = "Refuse")]
    Refuse,
    /// They are left as they are
    #[value(name = "Leave")]
    Leave,
}

impl From<AddressesFlag> for Addresses {
    fn from(flag: AddressesFlag) -> Self {
        match flag {
            AddressesFlag::GiveBack => Self::GiveBack,
            AddressesFlag::Keep => Self::Keep,
        }
    }
}

impl From<OccupiedFlag> for Occupied {
    fn from(flag: OccupiedFlag) -> Self {
        match flag {
            OccupiedFlag::Refuse => Self::Refuse,
            OccupiedFlag::Leave => Self::Leave,
        }
    }
}

/// Takes the product out.
///
/// # Errors
/// What stood in the way; nodes that are not done with keep their objects and addresses, and the next run goes on with them.
pub async fn run<A: Arm>(options: &Options, client: &Client, arm: Arc<A>) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(options.patience);
    let cluster = Cluster::new(options, client);
    refuse_if_held(options, &cluster).await?;
    let closed = match cluster.close().await {
        Ok(()) => refuse_if_held(options, &cluster).await,
        Err(error) => Err(error),
    };
    let alone = match closed {
        Ok(()) => stop_controller(options, &cluster, deadline).await,
        Err(error) => Err(error),
    };
    let (result, taints) = match alone {
        // A restored node has no CNI configuration, which keeps pods off; one that was left goes on.
        Ok(lead) => (take_out(options, &cluster, arm, lead, deadline).await, Taints::None),
        Err(error) => (Err(error), Taints::AsBefore),
    };
    let opened = cluster.open(taints).await;
    if let Err(error) = &opened {
        warn!(error = format!("{error:#}"), "taints stay on nodes");
    }
    result.and(opened)
}

/// The second time the nodes are closed to new pods, so that what is seen stays so.
async fn refuse_if_held(options: &Options, cluster: &Cluster) -> anyhow::Result<()> {
    let (pods, pools) = (cluster.pods().await?, cluster.pools().await?);
    let holders = plan::holders(&pods, &pools);
    match (holders.as_slice(), options.nodes_with_pods.into()) {
        ([], _) => {}
        (holders, Occupied::Leave) => warn!("their nodes stay as they are: {}", plan::in_the_way(holders)),
        (holders, Occupied::Refuse) => bail!(
            "{}. Nothing was changed. Drain the nodes first, or leave them as they are with uninstall.nodesWithPods: Leave",
            plan::in_the_way(holders)
        ),
    }
    Ok(())
}

/// From then on nobody writes but this.
async fn stop_controller(options: &Options, cluster: &Cluster, deadline: Instant) -> anyhow::Result<Lead> {
    settle(cluster, deadline.min(Instant::now() + SETTLE)).await?;
    cluster.stop_controller(deadline).await?;
    Lead::take(cluster.leases(), &options.lease_name, deadline).await
}

async fn take_out<A: Arm>(options: &Options, cluster: &Cluster, arm: Arc<A>, lead: Lead, deadline: Instant) -> anyhow::Result<()> {
    let left = take_nodes_out(options, cluster, arm, lead.leadership(), deadline).await;
    let left = match left {
        Ok((nodes, left)) if left.is_empty() => {
            // Up to the end, so that no controller that nobody sees begins anew before its rights are gone.
            lead.leave();
            cluster.remove_rest().await?;
            info!(nodes, addresses = ?options.addresses, "nothing of the product is left on the nodes");
            return Ok(());
        }
        left => {
            lead.give_up().await;
            left?.1
        }
    };
    ensure!(Occupied::from(options.nodes_with_pods) == Occupied::Leave, "nodes that are not done with: {}", left.join("; "));
    warn!("nodes that were left as they are: {}", left.join("; "));
    Ok(())
}

/// Restores the nodes, and gives back what they had. Answers how many there are, and why some are not done with.
async fn take_nodes_out<A: Arm>(
    options: &Options,
    cluster: &Cluster,
    arm: Arc<A>,
    leadership: &Leadership,
    deadline: Instant,
) -> anyhow::Result<(usize, Vec<String>)> {
    cluster.stop_agents(deadline).await?;
    let pools = cluster.pools().await?;
    let mut progress = restore(cluster, &pools, deadline).await?;
    // No ADD has succeeded since a node was restored, so that what is seen now stays so.
    plan::keep(&mut progress, &plan::holders(&cluster.pods().await?, &pools));
    let nics = Nics::new(arm, leadership.clone(), cluster.places().await?, cluster.grace().await?, deadline);
    let farewell = stream::iter(&pools).map(|pool| farewell(options, cluster, &nics, pool, &progress));
    let left = farewell.buffer_unordered(PARALLEL).filter_map(|left| async { left }).collect().await;
    cluster.remove_restorer().await?;
    Ok((pools.len(), left))
}

/// The controller ends what it has begun; what it does not end is waited for later, per node.
async fn settle(cluster: &Cluster, deadline: Instant) -> anyhow::Result<()> {
    let is_writing = |pool: &AzureVnetNode| {
        let cloud = pool.status.as_ref().and_then(|status| status.cloud.as_ref());
        cloud.is_some_and(|cloud| cloud.intent.is_some())
    };
    while Instant::now() < deadline && cluster.has_controller().await? && cluster.pools().await?.iter().any(is_writing) {
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

async fn restore(cluster: &Cluster, pools: &[AzureVnetNode], deadline: Instant) -> anyhow::Result<BTreeMap<String, Progress>> {
    cluster.stop_restorer(deadline).await?;
    cluster.apply_restorer().await?;
    loop {
        let progress = plan::progress(pools, &cluster.kubelets().await?, &cluster.restorers().await?);
        let waits = progress.values().filter(|progress| matches!(progress, Progress::Waits(_))).count();
        // What is left of the time is for the NICs.
        if waits == 0 || Instant::now() + SETTLE >= deadline {
            return Ok(progress);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Gives a node's addresses back and lets its object go. Answers why not.
async fn farewell<A: Arm>(
    options: &Options,
    cluster: &Cluster,
    nics: &Nics<A>,
    pool: &AzureVnetNode,
    progress: &BTreeMap<String, Progress>,
) -> Option<String> {
    let name = pool.name_any();
    let left = |why: String| Some(format!("{name}: {why}"));
    if let Some(why) = plan::stays(progress.get(&name)) {
        return left(why);
    }
    match options.addresses.into() {
        Addresses::GiveBack => match given_back(cluster, nics, pool).await {
            Ok(count) => info!(node = name, count, "its addresses are back in the subnet"),
            Err(why) => return left(format!("its addresses are not given back: {why:#}")),
        },
        Addresses::Keep => info!(node = name, "its addresses stay on its NIC"),
    }
    cluster
        .forget(pool)
        .await
        .with_context(|| format!("cannot remove the AzureVnetNode {name}"))
        .err()
        .and_then(|why| left(format!("{why:#}")))
}

/// A machine that Azure does not know has taken its NIC with it only if its node is gone too.
async fn given_back<A: Arm>(cluster: &Cluster, nics: &Nics<A>, pool: &AzureVnetNode) -> anyhow::Result<usize> {
    match nics.give_back(pool).await? {
        Given::Back(count) => Ok(count),
        Given::NoNic(why) if cluster.has_node(&pool.name_any()).await? => bail!(
            "Azure does not know its machine, but the Node is there: {why}. Where the machine is gone, delete the Node; else see to the rights of \
             the identity, or to spec.providerID; then run this again"
        ),
        Given::NoNic(_) => Ok(0),
    }
}
