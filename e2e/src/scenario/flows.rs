//! Connections between pods of different nodes that are made once and must last, whatever is done to the cluster meanwhile.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::{Cluster, Pod, wait_for};
use crate::build::PROBE_IMAGE;
use crate::lab::api;

const SOON: Duration = Duration::from_mins(1);
const PORT: u16 = 8081;

/// One connection from each node to the next.
pub struct Flows<'a> {
    cluster: &'a Cluster<'a>,
    count: usize,
}

impl<'a> Flows<'a> {
    /// Starts the pods, and waits until bytes came back over every connection.
    ///
    /// # Errors
    /// If that does not happen in time.
    pub fn start(cluster: &'a Cluster<'a>) -> Result<Self> {
        let nodes = cluster.lab.nodes();
        for node in &nodes {
            cluster.apply(&pod(&format!("echo-{}", node.name()), node.name(), "echo", &["echo", &PORT.to_string()]))?;
        }
        let servers = pods(cluster, "echo", nodes.len())?;
        for (node, server) in nodes.iter().zip(servers.iter().cycle().skip(1)) {
            let target = format!("{}:{PORT}", server.address);
            cluster.apply(&pod(&format!("flow-{}", node.name()), node.name(), "flow", &["flow", &target]))?;
        }
        pods(cluster, "flow", nodes.len())?;
        let flows = Self { cluster, count: nodes.len() };
        flows.go_on()?;
        Ok(flows)
    }

    /// Waits until more bytes have come back over every connection than by now.
    ///
    /// # Errors
    /// If a connection broke, or none came in time.
    pub fn go_on(&self) -> Result<u64> {
        let before = self.bytes()?;
        wait_for("bytes over every connection", SOON, || {
            let now = self.bytes()?;
            let all = now.len() == self.count && before.iter().zip(&now).all(|(before, now)| now > before);
            Ok(if all { Ok(now.iter().sum()) } else { Err(format!("{before:?}, then {now:?}")) })
        })
    }

    /// All pods of the connections.
    ///
    /// # Errors
    /// If the API server does not answer.
    pub fn pods(&self) -> Result<Vec<Pod>> {
        self.cluster.pods("app%20in%20(echo,flow)")
    }

    /// The same for the last time; answers how many bytes came back in all.
    ///
    /// # Errors
    /// If a connection broke.
    pub fn finish(self) -> Result<u64> {
        let total = self.go_on()?;
        self.cluster.kubectl(&["delete", "pods", "-l", "app in (echo, flow)", "--timeout=60s"])?;
        Ok(total)
    }

    /// What each client counts.
    fn bytes(&self) -> Result<Vec<u64>> {
        let list = self.cluster.read(&format!("{}?labelSelector=app=flow", api::PODS))?;
        list["items"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|pod| self.bytes_of(pod["metadata"]["name"].as_str().unwrap_or_default()))
            .collect()
    }

    fn bytes_of(&self, client: &str) -> Result<u64> {
        let said = self.cluster.kubectl(&["logs", client, "--tail=1"])?;
        let last = said.trim();
        ensure!(!last.contains("probe:"), "the connection of {client} broke: {last}");
        last.parse().or_else(|error| if last.is_empty() { Ok(0) } else { Err(error).with_context(|| format!("{client} said {last}")) })
    }
}

fn pods(cluster: &Cluster, app: &str, count: usize) -> Result<Vec<Pod>> {
    wait_for("the pods of the connections", SOON, || {
        let pods = cluster.pods(&format!("app={app}"))?;
        Ok(if pods.len() == count { Ok(pods) } else { Err(format!("{} of {count}", pods.len())) })
    })
}

fn pod(name: &str, node: &str, app: &str, arguments: &[&str]) -> String {
    let command = [&["/probe"], arguments].concat().join("\", \"");
    format!(
        "\
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {app}}}}}
spec:
  nodeName: {node}
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  containers:
  - {{name: probe, image: {PROBE_IMAGE}, command: [\"{command}\"]}}
"
    )
}
