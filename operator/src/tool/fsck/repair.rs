//! `fsck --repair`: looks at what a report found, has mended what is still so and may be, and looks again.

use std::{collections::BTreeSet, net::Ipv4Addr, slice, time::Duration};

use anyhow::{Context as _, bail, ensure};
use azure_vnet_operator_core::fsck::{Repairs, Report, Step, Work, node};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    api::{DeleteParams, Preconditions},
};
use tokio::time::{Instant, sleep};

use super::{super::exec::exec, AGENTS, Agent, Flags, Look, agents, look_command, once, settled, tell};

/// For an agent that is started anew.
const START: Duration = Duration::from_mins(2);
/// Between two looks at it.
const LOOK: Duration = Duration::from_secs(1);

/// Repairs from a report.
///
/// # Errors
/// The report does not speak of a node that is named, or the API server does not answer.
pub async fn run(client: &Client, flags: &Flags, report: Report) -> anyhow::Result<Repairs> {
    let nodes = report.to_repair(&flags.nodes).map_err(anyhow::Error::msg)?;
    let mut look = once(client, flags, Some(nodes.clone()), &[]).await?;
    let mut work = Work::new(report, &flags.nodes, look.report.clone());
    let said = |error: anyhow::Error| format!("{error:#}");
    while let Some(step) = work.step() {
        match step {
            Step::Routes { node, addresses } => {
                tell(&format!("making {} routes on {node}", addresses.len()));
                let answer = routes(client, flags, &look, &node, &addresses).await.map_err(said);
                work.routes(&node, &addresses, &answer);
            }
            Step::Look { node } => match once(client, flags, Some([node.clone()].into()), slice::from_ref(&node)).await {
                Ok(latest) => {
                    work.looked(&node, Ok(&latest.report));
                    look.agents = latest.agents;
                }
                Err(error) => work.looked(&node, Err(said(error))),
            },
            Step::Restart { node } => {
                tell(&format!("starting the agent anew on {node}"));
                work.restarted(&node, restart(client, flags, &look, &node).await.map_err(said));
            }
        }
    }
    // What was done is told also where nobody can say any more what came of it.
    let left = match settled(client, flags, Some(nodes.clone()), &[]).await {
        Ok(left) => left,
        Err(error) => Report::of_nothing(jiff::Timestamp::now(), nodes, &said(error)),
    };
    Ok(work.finished(left))
}

/// Has the node make the routes to these addresses: it looks once more, and compares with its own words.
async fn routes(client: &Client, flags: &Flags, look: &Look, name: &str, to: &BTreeSet<Ipv4Addr>) -> anyhow::Result<node::Mended> {
    let (agent, own) = (agent(look, name)?, look.nodes.get(name).and_then(|own| own.as_ref().ok()).context("the node says nothing")?);
    let request = request(own, to)?;
    let mut command = look_command();
    command.extend(["--repair-json", &request]);
    let api = Api::<Pod>::namespaced(client.clone(), &flags.namespace);
    let ended = exec(&api, &agent.pod, AGENTS.2, &command, Duration::from_secs(flags.answer_timeout)).await?;
    match (serde_json::from_str(&ended.printed), ended.failed) {
        (Ok(mended), _) => Ok(mended),
        (Err(_), Some(why)) => bail!("{why}"),
        (Err(error), None) => Err(error).context("it says what this version does not understand"),
    }
}

/// The node's own findings that these addresses lack their route, as a report.
fn request(own: &node::Report, to: &BTreeSet<Ipv4Addr>) -> anyhow::Result<String> {
    let is_meant =
        |found: &&node::Finding| found.kind == node::Kind::LinkWithoutRoute && found.address.is_some_and(|address| to.contains(&address));
    let findings = own.findings.iter().filter(is_meant).cloned().collect();
    Ok(serde_json::to_string(&node::Report { boot_id: own.boot_id.clone(), findings, ..node::Report::default() })?)
}

/// Deletes the agent's pod, the very one that was asked, and waits for the next to be ready.
async fn restart(client: &Client, flags: &Flags, look: &Look, name: &str) -> anyhow::Result<()> {
    let (agent, api) = (agent(look, name)?, Api::<Pod>::namespaced(client.clone(), &flags.namespace));
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

fn agent<'a>(look: &'a Look, node: &str) -> anyhow::Result<&'a Agent> {
    look.agents.get(node).context("no agent's pod is on the node")
}

#[cfg(test)]
mod tests {
    use std::{
        future::ready,
        io,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
    };

    use azure_vnet_operator_core::fsck::{End, Kind, Outcome, ROUTES_AT_ONCE};
    use clap::Parser;
    use kube::{api::AttachParams, client::Body, core::Request};
    use serde_json::{Value, json};

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        flags: Flags,
    }

    fn flags(nodes: &[&str]) -> Flags {
        Line::parse_from(["fsck"].iter().chain(nodes)).flags
    }

    /// An API server that has two nodes, with a pod each, and both pods have one address. No agent is there.
    fn cluster() -> Client {
        let service = tower::service_fn(async |request: http::Request<Body>| {
            let body = Body::from(answer(&request.uri().to_string()).to_string().into_bytes());
            Ok::<_, io::Error>(http::Response::new(body))
        });
        Client::new(service, "default")
    }

    /// The same, which is gone after it has listed its Nodes once.
    fn short_lived_cluster() -> Client {
        let looks = Arc::new(AtomicUsize::new(0));
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let uri = request.uri().to_string();
            let look = looks.fetch_add(usize::from(uri.starts_with("/api/v1/nodes")), Ordering::Relaxed);
            let is_gone = look >= 1 && uri.starts_with("/api/v1/nodes");
            let body = Body::from(answer(&uri).to_string().into_bytes());
            ready(if is_gone { Err(io::Error::other("it is gone")) } else { Ok(http::Response::new(body)) })
        });
        Client::new(service, "default")
    }

    fn answer(uri: &str) -> Value {
        if uri == "/version" {
            let names = ["major", "minor", "gitVersion", "gitCommit", "gitTreeState", "buildDate", "goVersion", "compiler", "platform"];
            return names.into_iter().map(|name| (name.to_owned(), json!("1"))).collect();
        }
        let pod = |name: &str, node: &str| {
            json!({"metadata": {"name": name, "namespace": "shop", "uid": name}, "spec": {"nodeName": node, "containers": []},
                "status": {"phase": "Running", "podIP": "10.0.0.21"}})
        };
        let is_of = |node: &str| !uri.contains("fieldSelector") || uri.contains(&format!("nodeName%3D{node}&"));
        let items: Vec<Value> = match uri.split('?').next() {
            Some("/api/v1/nodes") => ["n1", "n2"].map(|name| json!({"metadata": {"name": name, "uid": name}})).into(),
            Some("/api/v1/pods") => {
                [("web", "n1"), ("twin", "n2")].into_iter().filter(|(_, node)| is_of(node)).map(|(name, node)| pod(name, node)).collect()
            }
            _ => vec![],
        };
        json!({"metadata": {}, "items": items})
    }

    async fn reported(nodes: &[&str]) -> Report {
        let both = ["n1", "n2"].map(ToOwned::to_owned);
        settled(&cluster(), &flags(nodes), Some(both.into()), &[]).await.unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_repair_of_one_node_sees_the_pod_of_the_other_with_the_same_address() {
        let report = reported(&[]).await;
        assert_eq!(report.findings.iter().map(|found| found.kind).collect::<Vec<_>>(), [Kind::TwoPods, Kind::TwoPods]);
        let repairs = run(&cluster(), &flags(&["n1"]), report).await.unwrap();
        assert_eq!(repairs.results.iter().map(|result| (result.node.as_str(), result.end)).collect::<Vec<_>>(), [("n1", End::Left)]);
        assert_eq!((repairs.left.findings.len(), repairs.outcome()), (1, Outcome::Differs), "{repairs}");
        assert!(repairs.results[0].says.contains("delete both pods"), "{repairs}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_repair_did_not_look_at_is_never_clean() {
        let mut report = reported(&[]).await;
        let unknown = run(&cluster(), &flags(&["n1", "n3"]), report.clone()).await.unwrap_err();
        assert!(unknown.to_string().contains("n3"), "{unknown}");
        report.findings.clear();
        report.nodes.retain(|looked| looked.node == "n2");
        report.unseen.retain(|unseen| unseen.node == "n2");
        let repairs = run(&cluster(), &flags(&[]), report.clone()).await.unwrap();
        assert!(repairs.left.nodes.len() == 1 && repairs.outcome() != Outcome::Clean, "{repairs}");
        report.unseen.clear();
        assert_eq!(run(&cluster(), &flags(&[]), report).await.unwrap().outcome(), Outcome::Incomplete, "there was nothing to look at");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_done_is_told_where_nobody_can_say_what_came_of_it() {
        let report = reported(&[]).await;
        let repairs = run(&short_lived_cluster(), &flags(&[]), report).await.unwrap();
        assert_eq!(repairs.results.iter().map(|result| result.end).collect::<Vec<_>>(), [End::Left, End::Left]);
        assert_eq!((repairs.left.unseen.len(), repairs.outcome()), (2, Outcome::Incomplete), "{repairs}");
        assert!(repairs.to_string().contains("it is gone"), "{repairs}");
    }

    #[test]
    fn what_a_node_is_asked_for_fits_into_a_url() {
        let all = (0..=249).map(|last| Ipv4Addr::new(10, 200, 100, last));
        let finding = |address: Ipv4Addr| node::Finding {
            kind: node::Kind::LinkWithoutRoute,
            address: Some(address),
            attachment: format!("{:0>128}/{:0>15}", "c", "eth"),
            what: "azv0d7763386da is there, the route to it is not".into(),
        };
        let own = node::Report { boot_id: "b".repeat(36), findings: all.clone().map(finding).collect(), ..node::Report::default() };
        let is_taken = |some: usize| {
            let request = request(&own, &all.clone().take(some).collect()).unwrap();
            let mut command = look_command();
            command.extend(["--repair-json", &request]);
            Request::new("/api/v1/namespaces/kube-system/pods").exec("azure-vnet-agent", command, &AttachParams::default()).is_ok()
        };
        assert!(is_taken(ROUTES_AT_ONCE) && !is_taken(250));
    }
}
