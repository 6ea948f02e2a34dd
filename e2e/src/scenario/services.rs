//! Services and ports of nodes, from inside and outside the virtual network: what kube-proxy makes of them beside our own rules.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::cluster::Answer;
use super::{Cluster, HOST_PORT, wait_for};
use crate::lab::api;

/// The peered VNET's host.
const OUTSIDER: &str = "peer";
const OUTSIDERS_ADDRESS: &str = "10.50.0.10";
const DOORS: &str = "\
apiVersion: v1
kind: Service
metadata: {name: web-everywhere}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: door-local}
spec: {type: NodePort, externalTrafficPolicy: Local, selector: {app: door}, ports: [{port: 80, targetPort: 8080}]}
";

/// Asks through every kind of door; the pods of [`super::start_pods`] stand behind them.
///
/// # Errors
/// Names the first door that does not lead where it should, or shows the wrong address.
pub fn services(cluster: &Cluster) -> Result<()> {
    cluster.apply(DOORS)?;
    let door = cluster.pods("app=door")?.into_iter().next().context("the pod behind the host port")?;
    let home = cluster.lab.node(&door.node).context("its node")?.address().to_string();
    let everywhere = node_port(cluster, "web-everywhere")?;
    let local = node_port(cluster, "door-local")?;
    let hairpin = cluster.read(&format!("{}/door-local", api::SERVICES))?["spec"]["clusterIP"].as_str().context("its address")?.to_owned();
    for node in cluster.lab.nodes() {
        let target = format!("{}:{everywhere}", node.address());
        through(&format!("NodePort of {}, from outside", node.name()), || cluster.ask_from_outside(OUTSIDER, &target))?;
        through(&format!("NodePort of {}, from a pod of {}", node.name(), door.node), || one(cluster, &door.name, &target))?;
    }
    let answer = through("externalTrafficPolicy Local", || cluster.ask_from_outside(OUTSIDER, &format!("{home}:{local}")))?;
    ensure!(answer.seen == OUTSIDERS_ADDRESS, "with externalTrafficPolicy Local the pod saw {}, not the client", answer.seen);
    for elsewhere in cluster.lab.nodes().iter().filter(|node| node.name() != door.node) {
        let answer = cluster.ask_from_outside(OUTSIDER, &format!("{}:{local}", elsewhere.address()))?;
        ensure!(answer.is_err(), "{} has no pod of the Service and answers: {answer:?}", elsewhere.name());
    }
    let answer = through("host port, from outside", || cluster.ask_from_outside(OUTSIDER, &format!("{home}:{HOST_PORT}")))?;
    ensure!(answer.own == door.address.to_string(), "the host port leads to {}", answer.own);
    let answer = through("a pod's own Service", || one(cluster, &door.name, &format!("{hairpin}:80")))?;
    ensure!(answer.own == door.address.to_string(), "the hairpin leads to {}", answer.own);
    Ok(())
}

fn node_port(cluster: &Cluster, service: &str) -> Result<u64> {
    cluster.read(&format!("{}/{service}", api::SERVICES))?["spec"]["ports"][0]["nodePort"].as_u64().context("a NodePort")
}

fn one(cluster: &Cluster, pod: &str, target: &str) -> Result<Result<Answer, String>> {
    cluster.ask(pod, &[target.to_owned()])?.into_iter().next().context("one answer")
}

/// A Service made just now may take kube-proxy a moment.
fn through(what: &str, ask: impl FnMut() -> Result<Result<Answer, String>>) -> Result<Answer> {
    wait_for(what, Duration::from_secs(20), ask)
}
