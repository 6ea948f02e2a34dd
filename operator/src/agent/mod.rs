//! The node agent: takes over the pool that the controller publishes, and keeps the host in the state that pods need.
//!
//! It decides nothing by itself: what is to be done is planned in `azure-vnet-operator-core` and the node store. It asks Azure for nothing but
//! the node's own metadata.

mod basis;
mod clocks;
mod commands;
mod conflist;
mod firewall;
mod follow;
mod generation;
mod host;
mod iptables;
mod keep;
pub(crate) mod kernel;
mod logs;
mod memory;
mod metadata;
pub(crate) mod metrics;
mod object;
mod options;
mod orphans;
mod plugins;
mod pods;
mod problems;
mod reporter;
pub(crate) mod restore;
mod sysctl;
#[cfg(test)]
pub(crate) mod tests;
mod unmarked;
mod witness;

use std::{collections::BTreeSet, pin::pin, time::Duration};

use anyhow::Context as _;
use azure_vnet_crds::AzureVnetNode;
use futures::StreamExt as _;
use kube::{
    Api,
    runtime::{WatchStreamExt as _, watcher},
};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::World;
use commands::Commands;
pub(crate) use host::Look;
use keep::Want;
pub(crate) use keep::{Node, Outcome, Seen};
use metadata::Metadata;
pub(crate) use object::Object;
use pods::Pods;
use reporter::Reporter;

pub(crate) use clocks::since_boot;
pub(crate) use keep::Answer;
pub use options::Options;

/// How often the host is compared with what it should be, whatever happens.
const DRIFT: Duration = Duration::from_secs(5);
/// How soon events that come together are looked at together.
const GATHER: Duration = Duration::from_millis(100);
/// Longest wait for that.
const ANSWER: Duration = Duration::from_secs(3);
/// How often the API server is asked for the node's pods while a lease has none.
const LIST: Duration = Duration::from_secs(30);

/// Runs until it is told to stop.
///
/// # Errors
/// When the node store cannot be opened, or was replaced under the agent.
pub async fn run(options: Options, world: World) -> anyhow::Result<()> {
    let (name, mut commands) = (options.node_name.clone(), Commands::follow(&options.log_dir));
    let mut node = tokio::task::spawn_blocking(move || Node::open(options)).await.context("opening the node store was broken off")??;
    let objects: Api<AzureVnetNode> = Api::all(world.kube.clone());
    let pod_api = pods::api(world.kube.clone());
    let watched = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut object_events = pin!(watcher(objects.clone(), watched).default_backoff());
    let mut pod_events = pin!(watcher(pod_api.clone(), pods::watch_config(&name)).default_backoff());
    let mut metadata = Metadata::start(&world.endpoints)?;
    let mut reporter = Reporter::new(world.kube.clone(), objects.clone(), &name);
    let metrics = metrics::Metrics::default();
    world.telemetry.register(|registry| metrics.register(registry));
    let beat = world.telemetry.beat("agent", Duration::from_mins(2));
    let (mut object, mut pods) = (None, Pods::default());
    let mut arriving = None;
    let (mut next_drift, mut next_list, mut next_pass) = (Instant::now(), Instant::now(), Instant::now());
    let mut wants = BTreeSet::new();
    info!(node = name, "keeps this node");
    loop {
        tokio::select! {
            biased;
            () = world.shutdown.wait() => return Ok(()),
            Some(event) = object_events.next() => {
                match event {
                    Ok(event) => take_object(event, &mut object, &mut arriving),
                    Err(error) => warn!(%error, "cannot watch this node's AzureVnetNode"),
                }
                next_pass = next_pass.min(Instant::now() + GATHER);
                continue;
            }
            Some(event) = pod_events.next() => {
                match event {
                    Ok(event) => if pods.take(event) { next_pass = next_pass.min(Instant::now() + GATHER); },
                    Err(error) => warn!(%error, "cannot watch this node's pods"),
                }
                continue;
            }
            () = metadata.answered() => next_pass = next_pass.min(Instant::now() + GATHER),
            () = tokio::time::sleep_until(next_pass) => {}
        }
        if Instant::now() < next_pass {
            continue;
        }
        let look = if Instant::now() >= next_drift { Look::ForDrift } else { Look::ForChanges };
        let listed = if wants.contains(&Want::Pods) && Instant::now() >= next_list {
            next_list = Instant::now() + LIST;
            list(&pod_api, &name).await
        } else {
            None
        };
        let mut reread = false;
        if wants.contains(&Want::Object)
            && let Ok(Ok(shown)) = tokio::time::timeout(ANSWER, objects.get(&name)).await
        {
            (object, reread) = (Object::read(shown), true);
        }
        let seen =
            Seen { object: object.clone(), pods: pods.all(), watched: pods.listed(), listed, answers: metadata.take(), reread, look };
        let outcome;
        (node, outcome) = pass(node, seen).await?;
        beat.ok();
        metrics.look(&mut node, &outcome);
        if look == Look::ForDrift {
            next_drift = Instant::now() + DRIFT;
            metrics.ran(&commands.take());
        }
        wants = outcome.wants;
        metadata.pace(outcome.waits_for_metadata);
        world.telemetry.set_ready(outcome.ready);
        reporter.report(outcome.report.as_ref(), object.as_ref()).await;
        reporter.announce(&outcome.cut_off, object.as_ref()).await;
        reporter.tell(&outcome.news).await;
        let due = outcome.due.map_or(DRIFT, |due| due.min(DRIFT)).max(GATHER);
        next_pass = Instant::now() + due;
    }
}

/// The API server's own word, if it comes soon: the host is not looked after meanwhile.
async fn list(api: &Api<pods::SlimPod>, node: &str) -> Option<orphans::Listed> {
    match tokio::time::timeout(ANSWER, pods::list(api, node)).await {
        Ok(Ok(listed)) => Some(listed),
        Ok(Err(error)) => {
            warn!(%error, "cannot list this node's pods");
            None
        }
        Err(_) => {
            warn!("the API server takes too long to list this node's pods");
            None
        }
    }
}

/// One look at the node, on a thread that may block.
async fn pass(mut node: Node, seen: Seen) -> anyhow::Result<(Node, Outcome)> {
    let done = tokio::task::spawn_blocking(move || node.reconcile(&seen).map(|outcome| (node, outcome)));
    Ok(done.await.context("a look at the node was broken off")??)
}

/// The watch names one object: what it shows is the node's, or there is none.
fn take_object(event: watcher::Event<AzureVnetNode>, object: &mut Option<Object>, arriving: &mut Option<Object>) {
    match event {
        watcher::Event::Init => *arriving = None,
        watcher::Event::InitApply(shown) => *arriving = Object::read(shown),
        watcher::Event::InitDone => *object = arriving.take(),
        watcher::Event::Apply(shown) => *object = Object::read(shown),
        watcher::Event::Delete(_) => *object = None,
    }
}
