//! Twelve pods, their addresses, and who reaches whom with which address.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::cluster::Answer;
use super::{Cluster, Pod, wait_for};
use crate::build::PROBE_IMAGE;
use crate::lab::api;

/// A host of the peered VNET; it sees the pod's own address.
pub const PEER: &str = "10.50.0.10:8080";
/// A host of the internet; it sees the node's address and answers no other.
pub const INTERNET: &str = "203.0.113.10:8080";
/// A port of the first node that leads to the pod `door`.
pub const HOST_PORT: u16 = 18080;

/// Starts twelve pods, a Service before them, and one pod behind a host port; waits until all run.
///
/// # Errors
/// If one does not run in time.
pub fn start_pods(cluster: &Cluster, deadline: Duration) -> Result<Vec<Pod>> {
    cluster.apply(&workload())?;
    wait_for("twelve pods and the door", deadline, || {
        let (web, door) = (cluster.pods("app=web")?, cluster.pods("app=door")?);
        Ok(if web.len() == 12 && door.len() == 1 { Ok(web) } else { Err(format!("{} of 12, {} of 1 ready", web.len(), door.len())) })
    })
}

fn workload() -> String {
    format!(
        "\
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: 12
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 0
      topologySpreadConstraints:
      - {{maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, labelSelector: {{matchLabels: {{app: web}}}}}}
      containers:
      - name: probe
        image: {PROBE_IMAGE}
        command: [/probe, serve, \"8080\"]
        env: [{{name: NODE_NAME, valueFrom: {{fieldRef: {{fieldPath: spec.nodeName}}}}}}]
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec: {{selector: {{app: web}}, ports: [{{port: 80, targetPort: 8080}}]}}
---
apiVersion: v1
kind: Pod
metadata: {{name: door, labels: {{app: door}}}}
spec:
  terminationGracePeriodSeconds: 0
  nodeSelector: {{kubernetes.io/hostname: n1}}
  containers:
  - name: probe
    image: {PROBE_IMAGE}
    command: [/probe, serve, \"8080\"]
    env: [{{name: NODE_NAME, valueFrom: {{fieldRef: {{fieldPath: spec.nodeName}}}}}}]
    ports: [{{containerPort: 8080, hostPort: {HOST_PORT}}}]
"
    )
}

/// Who reached what, and which address the far side saw.
#[derive(Debug, Default)]
pub struct Matrix {
    /// From a pod to every other pod.
    pub pods: BTreeMap<String, BTreeMap<String, Result<Answer, String>>>,
    /// From a pod to named places outside.
    pub places: BTreeMap<String, BTreeMap<&'static str, Result<Answer, String>>>,
}

/// Asks from every pod every other pod, the peered VNET, the internet, the Service and the host port.
///
/// # Errors
/// If a pod cannot be entered.
pub fn reach(cluster: &Cluster, pods: &[Pod]) -> Result<Matrix> {
    let service = cluster.read(&format!("{}/web", api::SERVICES))?;
    let service = service["spec"]["clusterIP"].as_str().context("the service has no address")?.to_owned();
    let places = [
        ("peered VNET", PEER.to_owned()),
        ("internet", INTERNET.to_owned()),
        ("Service", format!("{service}:80")),
        ("host port", format!("10.240.0.4:{HOST_PORT}")),
    ];
    let mut matrix = Matrix::default();
    for from in pods {
        let others: Vec<&Pod> = pods.iter().filter(|pod| pod.name != from.name).collect();
        let mut targets: Vec<String> = others.iter().map(|pod| format!("{}:8080", pod.address)).collect();
        targets.extend(places.iter().map(|(_, target)| target.clone()));
        let mut answers = cluster.ask(&from.name, &targets)?.into_iter();
        let row = others.iter().zip(answers.by_ref()).map(|(pod, answer)| (pod.name.clone(), answer)).collect();
        matrix.pods.insert(from.name.clone(), row);
        matrix.places.insert(from.name.clone(), places.iter().map(|(name, _)| *name).zip(answers).collect());
    }
    Ok(matrix)
}

impl Matrix {
    /// Fails unless every pod reached everything, and the far side saw what it should.
    ///
    /// # Errors
    /// Names the first pair that is wrong.
    pub fn check(&self, pods: &[Pod], node_address: impl Fn(&str) -> Ipv4Addr) -> Result<()> {
        for from in pods {
            let own = from.address.to_string();
            for (to, answer) in self.pods.get(&from.name).context("a row is missing")? {
                let answer = answer.as_ref().map_err(|why| anyhow::anyhow!("{} cannot reach {to}: {why}", from.name))?;
                ensure!(answer.seen == own, "{to} saw {} instead of {}'s own {own}", answer.seen, from.name);
            }
            for (place, answer) in self.places.get(&from.name).context("a row is missing")? {
                let answer = answer.as_ref().map_err(|why| anyhow::anyhow!("{} cannot reach the {place}: {why}", from.name))?;
                let expected = match *place {
                    "peered VNET" => Some(own.clone()),
                    "internet" => Some(node_address(&from.node).to_string()),
                    _ => None,
                };
                ensure!(
                    expected.is_none_or(|expected| answer.seen == expected),
                    "the {place} saw {} of {} ({own})",
                    answer.seen,
                    from.name
                );
            }
        }
        Ok(())
    }
}
