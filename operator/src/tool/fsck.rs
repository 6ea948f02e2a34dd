//! `fsck`: asks the API server and, through its agent's pod, each node, and compares what they say.

mod repair;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use azure_vnet_operator_core::fsck::{self, Outcome, Pod, Report, Sources, node};
use clap::Args;
use futures::{StreamExt as _, stream};
use k8s_openapi::api::core::v1 as api;
use kube::{Api, Client, api::ListParams};
use tokio::time::sleep;

use super::{
    Exit, Shown, connect,
    exec::{PROGRAM, exec},
    observe::{self, Scope},
    tell,
};

/// Nodes that are asked at a time.
const AT_ONCE: usize = 8;
/// Before a second look at what differs: until then a pod that comes or goes has done so.
const PAUSE: Duration = Duration::from_secs(5);
/// What the agents' pods are known by.
const AGENTS: (&str, &str, &str) = ("azure-vnet", "agent", "agent");

/// Flags of `fsck`.
#[derive(Clone, Debug, Args)]
pub struct Flags {
    /// These nodes only; default: every one that has a pool, or that a config selects.
    #[arg(value_name = "NODE")]
    nodes: Vec<String>,
    /// Mend what this report (of --output json) found, what is still so, and what may be mended.
    #[arg(long, value_name = "REPORT")]
    repair: Option<PathBuf>,
    /// Where the agents run.
    #[arg(long, short, default_value = observe::SYSTEM)]
    namespace: String,
    /// Seconds that a node's answer may take.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=300), value_name = "SECONDS")]
    answer_timeout: u64,
    /// How to show it.
    #[command(flatten)]
    shown: Shown,
}

/// Runs the command.
///
/// # Errors
/// An [`Exit`]: 1 where something differs, 2 where not all could be looked at.
pub async fn run(flags: Flags) -> anyhow::Result<()> {
    let done = match &flags.repair {
        None => shown(&flags).await,
        Some(report) => mended(&flags, report).await,
    };
    let outcome = done.map_err(|error| Exit { code: 2, said: format!("{error:#}") })?;
    let exit = |code, said: &str| Err(Exit { code, said: said.to_owned() }.into());
    match outcome {
        Outcome::Clean => Ok(()),
        Outcome::Differs => exit(1, "not all agree"),
        Outcome::Incomplete => exit(2, "not everything could be looked at"),
    }
}

async fn shown(flags: &Flags) -> anyhow::Result<Outcome> {
    let (client, _) = connect(&flags.shown.access).await?;
    let report = settled(&client, flags, None, &flags.nodes).await?;
    flags.shown.output.print(&report)?;
    Ok(report.outcome())
}

async fn mended(flags: &Flags, path: &Path) -> anyhow::Result<Outcome> {
    let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let report: Report = serde_json::from_slice(&text)
        .with_context(|| format!("{} is no report of kubectl azure-vnet fsck --output json", path.display()))?;
    let (client, _) = connect(&flags.shown.access).await?;
    let repairs = repair::run(&client, flags, report).await?;
    flags.shown.output.print(&repairs)?;
    Ok(repairs.outcome())
}

/// What is found at a look, and again at a second one where it differs.
async fn settled(client: &Client, flags: &Flags, some: Option<BTreeSet<String>>, pods_of: &[String]) -> anyhow::Result<Report> {
    let first = once(client, flags, some, pods_of).await?.report;
    let suspects = first.suspects();
    if suspects.is_empty() {
        return Ok(first);
    }
    tell("looking again at what differs");
    sleep(PAUSE).await;
    Ok(first.confirmed(once(client, flags, Some(suspects), pods_of).await?.report))
}

/// All that was read at one look, and what differs.
struct Look {
    report: Report,
    nodes: BTreeMap<String, Result<node::Report, String>>,
    agents: BTreeMap<String, Agent>,
}

/// An agent's pod.
struct Agent {
    pod: String,
    uid: String,
    ready: bool,
}

/// One look at the nodes that were asked for, or at some of them. Two pods with one address are only found where the pods of both nodes are listed:
/// those of these nodes are, or all where none is named.
async fn once(client: &Client, flags: &Flags, some: Option<BTreeSet<String>>, pods_of: &[String]) -> anyhow::Result<Look> {
    let cluster = observe::cluster(client, &Scope::pools()).await?;
    let chosen = match some {
        Some(some) => some,
        None => fsck::choose(&cluster, &flags.nodes).map_err(anyhow::Error::msg)?,
    };
    let before = pods(client, pods_of).await?;
    let agents = agents(&Api::namespaced(client.clone(), &flags.namespace)).await?;
    let asked = stream::iter(chosen).map(async |node| {
        let said = ask(client, flags, agents.get(&node)).await;
        (node, said)
    });
    let nodes: BTreeMap<_, _> = asked.buffer_unordered(AT_ONCE).collect().await;
    let after = pods(client, pods_of).await?;
    let report = fsck::compare(&Sources { cluster: &cluster, pods: [&before, &after], nodes: &nodes });
    Ok(Look { report, nodes, agents })
}

/// All pods, or those of some nodes.
async fn pods(client: &Client, nodes: &[String]) -> anyhow::Result<Vec<Pod>> {
    let api = Api::<api::Pod>::all(client.clone());
    let of_node = |node: &String| ListParams::default().fields(&format!("spec.nodeName={node}"));
    let lists = if nodes.is_empty() { vec![ListParams::default()] } else { nodes.iter().map(of_node).collect() };
    let mut found = vec![];
    for list in lists {
        found.extend(observe::all(&api, list).await.context("cannot list pods")?.into_iter().map(pod));
    }
    Ok(found)
}

fn pod(pod: api::Pod) -> Pod {
    let (metadata, spec, status) = (pod.metadata, pod.spec.unwrap_or_default(), pod.status.unwrap_or_default());
    // The runtime knows a static pod by the hash of its file; what the API server shows is a mirror of it.
    let mirrored = metadata.annotations.as_ref().and_then(|all| all.get("kubernetes.io/config.mirror")).cloned();
    Pod {
        uid: mirrored.or(metadata.uid).unwrap_or_default(),
        namespace: metadata.namespace.unwrap_or_default(),
        name: metadata.name.unwrap_or_default(),
        node: spec.node_name.unwrap_or_default(),
        address: status.pod_ip.and_then(|address| address.parse().ok()),
        host_network: spec.host_network.unwrap_or_default(),
        finished: matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")),
        terminating: metadata.deletion_timestamp.is_some(),
    }
}

/// Each node's agent.
async fn agents(api: &Api<api::Pod>) -> anyhow::Result<BTreeMap<String, Agent>> {
    let (name, component, _) = AGENTS;
    let ours = ListParams::default().labels(&format!("app.kubernetes.io/name={name},app.kubernetes.io/component={component}"));
    let found = observe::all(api, ours).await.context("cannot list the agents' pods")?;
    let there = found.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
    Ok(there.filter_map(agent).collect())
}

fn agent(pod: api::Pod) -> Option<(String, Agent)> {
    let conditions = pod.status.and_then(|status| status.conditions).unwrap_or_default();
    let ready = conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    Some((pod.spec?.node_name?, Agent { pod: pod.metadata.name?, uid: pod.metadata.uid?, ready }))
}

fn look_command() -> Vec<&'static str> {
    vec![PROGRAM, "node", "fsck", "--output", "json", "--boot-id-file", "/host/boot_id"]
}

/// What a node says of itself, or why it says nothing.
async fn ask(client: &Client, flags: &Flags, agent: Option<&Agent>) -> Result<node::Report, String> {
    let Some(Agent { pod, .. }) = agent else { return Err(format!("no agent's pod is on it in namespace {}", flags.namespace)) };
    let api = Api::<api::Pod>::namespaced(client.clone(), &flags.namespace);
    let ended = exec(&api, pod, AGENTS.2, &look_command(), Duration::from_secs(flags.answer_timeout)).await;
    let ended = ended.map_err(|error| format!("its agent's pod {pod} cannot be entered: {error:#}"))?;
    answer(&ended.printed, ended.failed)
}

/// A node that found something says so, and fails.
fn answer(printed: &str, failed: Option<String>) -> Result<node::Report, String> {
    match (serde_json::from_str(printed), failed) {
        (Ok(report), _) => Ok(report),
        (Err(_), Some(why)) => Err(format!("it could not look: {why}")),
        (Err(error), None) => Err(format!("it says what this version does not understand ({error}): use the version that its agent has")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_is_known_as_its_lease_knows_it() {
        let value = json!({
            "metadata": {"name": "web", "namespace": "shop", "uid": "mirror", "annotations": {"kubernetes.io/config.mirror": "hash"}},
            "spec": {"nodeName": "aks-1", "hostNetwork": false, "containers": []},
            "status": {"phase": "Running", "podIP": "10.0.0.21"},
        });
        let found = pod(serde_json::from_value(value).unwrap());
        assert_eq!((found.uid.as_str(), found.full_name().as_str(), found.node.as_str()), ("hash", "shop/web", "aks-1"));
        assert!(!found.finished && !found.terminating && found.address == Some([10, 0, 0, 21].into()));
    }

    #[test]
    fn a_node_that_found_something_has_answered_and_one_that_could_not_look_says_why() {
        let report = node::Report { boot_id: "b".into(), ..node::Report::default() };
        let printed = serde_json::to_string(&report).unwrap();
        assert_eq!(answer(&printed, Some("exit code 1".into())), Ok(report));
        assert!(answer("", Some("exit code 1 cannot read the store".into())).unwrap_err().contains("cannot read the store"));
        assert!(answer("{", None).unwrap_err().contains("version"));
    }
}
