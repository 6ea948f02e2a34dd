//! `fsck --repair`: looks at what a report found, has mended what is still so and may be, and looks again.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use azure_vnet_operator_core::fsck::{self, Finding, Now, Repair, Repairs, Report, node};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    api::{DeleteParams, Preconditions},
};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::{super::exec::exec, AGENTS, Agent, Flags, Look, agents, connect, look_command, once, settled, tell};

/// For an agent that is started anew.
const START: Duration = Duration::from_mins(2);
/// Between two looks at it.
const LOOK: Duration = Duration::from_secs(1);

/// Repairs from a report.
///
/// # Errors
/// The report cannot be read, or the API server does not answer.
pub async fn run(flags: &Flags, path: &Path) -> anyhow::Result<Repairs> {
    let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let report: Report = serde_json::from_slice(&text)
        .with_context(|| format!("{} is no report of kubectl azure-vnet fsck --output json", path.display()))?;
    let nodes: BTreeSet<String> =
        report.suspects().into_iter().filter(|node| flags.nodes.is_empty() || flags.nodes.contains(node)).collect();
    let (client, _) = connect(&flags.shown.access).await?;
    let now = once(&client, flags, Some(nodes.clone())).await?;
    let plan = fsck::plan(&report, &flags.nodes, &now.report);
    let mut said = BTreeMap::new();
    for (repair, mend) in [(Repair::Route, "making routes"), (Repair::RestartAgent, "starting the agent anew")] {
        for node in fsck::nodes_to_mend(&plan, repair) {
            tell(&format!("{mend} on {node}"));
            let done = match repair {
                Repair::Route => routes(&client, flags, &now, &plan, &node).await,
                Repair::RestartAgent => restart(&client, flags, &now, &node).await,
            };
            said.extend(done.err().map(|error| (node, format!("{error:#}"))));
        }
    }
    let left = settled(&client, flags, Some(nodes)).await?;
    Ok(fsck::results(&plan, &now.report, left, |node| said.get(node).cloned()))
}

/// Has the node make the routes of these findings: it looks once more, and compares with its own words.
async fn routes(client: &Client, flags: &Flags, now: &Look, plan: &[(Finding, Now)], name: &str) -> anyhow::Result<()> {
    let (agent, own) = (agent(now, name)?, now.nodes.get(name).and_then(|own| own.as_ref().ok()).context("the node says nothing")?);
    let addresses = fsck::to_mend(plan, name, Repair::Route);
    let is_meant = |found: &&node::Finding| {
        found.kind == node::Kind::LinkWithoutRoute && found.address.is_some_and(|address| addresses.contains(&address))
    };
    let findings = own.findings.iter().filter(is_meant).cloned().collect();
    let report = serde_json::to_string(&node::Report { boot_id: own.boot_id.clone(), findings, ..node::Report::default() })?;
    let mut command = look_command();
    command.extend(["--repair-json", &report]);
    let api = Api::<Pod>::namespaced(client.clone(), &flags.namespace);
    let ended = exec(&api, &agent.pod, AGENTS.2, &command, Duration::from_secs(flags.answer_timeout)).await?;
    let Some(failed) = ended.failed else { return Ok(()) };
    let refused = serde_json::from_str::<Value>(&ended.printed).ok().and_then(|mended| mended.get("refused").map(Value::to_string));
    anyhow::bail!("{}", refused.unwrap_or(failed))
}

/// Deletes the agent's pod, the very one that was asked, and waits for the next to be ready.
async fn restart(client: &Client, flags: &Flags, now: &Look, name: &str) -> anyhow::Result<()> {
    let (agent, api) = (agent(now, name)?, Api::<Pod>::namespaced(client.clone(), &flags.namespace));
    let only = Preconditions { uid: Some(agent.uid.clone()), resource_version: None };
    api.delete(&agent.pod, &DeleteParams::default().preconditions(only)).await.context("cannot delete the agent's pod")?;
    let until = Instant::now() + START;
    loop {
        let next = agents(&api).await?.remove(name).filter(|next| next.uid != agent.uid);
        if next.is_some_and(|next| next.ready) {
            return Ok(());
        }
        ensure!(Instant::now() < until, "the next agent is not ready after two minutes");
        sleep(LOOK).await;
    }
}

fn agent<'a>(now: &'a Look, node: &str) -> anyhow::Result<&'a Agent> {
    now.agents.get(node).context("no agent's pod is on the node")
}
