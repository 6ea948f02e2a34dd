//! What goes on when parts of the product are gone, and after a reboot.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use azure_vnet_plugin_core::lease::Entry;
use serde_json::Value;

use super::{Cluster, store, wait_for};
use crate::build::PROBE_IMAGE;
use crate::lab::Node;
use crate::lab::api;

/// Takes the controller and all agents away; a pod still starts and another stops; then brings them back.
///
/// # Errors
/// If a pod does not start or stop, or the parts do not come back.
pub fn start_and_stop_without_daemons(cluster: &Cluster) -> Result<()> {
    cluster.kubectl(&["-n", "kube-system", "scale", "deployment", "azure-vnet-controller", "--replicas=0"])?;
    select_agents(cluster, r#"{"azure-vnet.dev/no-such-node":"true"}"#)?;
    wait_for("controller and agents to be gone", Duration::from_mins(1), || {
        let pods = cluster.read(&format!("{}?labelSelector=app.kubernetes.io/name=azure-vnet", api::SYSTEM_PODS))?;
        let left = pods["items"].as_array().map_or(0, Vec::len);
        Ok(if left == 0 { Ok(()) } else { Err(format!("{left} pods left")) })
    })?;
    let stops = cluster.pods("app=web")?.into_iter().next().context("a pod to stop")?;
    cluster.apply(&lone_pod("orphan"))?;
    wait_for("a pod to start with all daemons gone", Duration::from_mins(1), || {
        Ok(if cluster.pods("app=orphan")?.len() == 1 { Ok(()) } else { Err("not ready".into()) })
    })?;
    cluster.kubectl(&["delete", "pod", &stops.name, "--wait=true", "--timeout=60s"])?;
    cluster.kubectl(&["delete", "pod", "orphan", "--wait=true", "--timeout=60s"])?;
    select_agents(cluster, r#"{"azure-vnet.dev/no-such-node":null}"#)?;
    cluster.kubectl(&["-n", "kube-system", "scale", "deployment", "azure-vnet-controller", "--replicas=2"])?;
    cluster.rolled_out()?;
    Ok(())
}

fn select_agents(cluster: &Cluster, selector: &str) -> Result<String> {
    let patch = format!(r#"{{"spec":{{"template":{{"spec":{{"nodeSelector":{selector}}}}}}}}}"#);
    cluster.kubectl(&["-n", "kube-system", "patch", "daemonset", "azure-vnet-agent", "--type=merge", "-p", &patch])
}

fn lone_pod(name: &str) -> String {
    format!(
        "\
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {{name: probe, image: {PROBE_IMAGE}, command: [/probe, sleep]}}
"
    )
}

/// Reboots a node and waits until its pods run again; no lease of the former boot may be left.
///
/// # Errors
/// If the pods do not come back, or a former lease is still there.
pub fn reboot(cluster: &Cluster, node: &Node, deadline: Duration) -> Result<()> {
    let on_node = format!("{}?labelSelector=app=web&fieldSelector=spec.nodeName={}", api::PODS, node.name());
    let restarts = || -> Result<BTreeMap<String, u64>> {
        let pods = cluster.read(&on_node)?;
        Ok(pods["items"].as_array().into_iter().flatten().filter_map(restarts).collect())
    };
    let (before, former) = (restarts()?, lease_keys(node)?);
    ensure!(!before.is_empty() && former.len() >= before.len(), "the node has pods with leases before its reboot");
    cluster.lab.reboot(node.name())?;
    wait_for("the rebooted node's pods", deadline, || {
        let now = lease_keys(node).unwrap_or_default();
        let after = restarts()?;
        let ran = before.iter().filter(|(pod, count)| after.get(*pod).is_some_and(|now| now > count)).count();
        let back = ran == before.len() && now.len() >= ran && now.is_disjoint(&former);
        Ok(if back { Ok(()) } else { Err(format!("{ran} of {} run again, {} leases", before.len(), now.len())) })
    })
}

/// How often a pod whose container is ready was started again.
fn restarts(pod: &Value) -> Option<(String, u64)> {
    let container = &pod["status"]["containerStatuses"][0];
    let name = pod["metadata"]["name"].as_str()?.to_owned();
    (container["ready"] == true).then_some((name, container["restartCount"].as_u64()?))
}

/// Container and interface of every lease in a node's store.
fn lease_keys(node: &Node) -> Result<BTreeSet<String>> {
    let entries = store::entries(node)?.into_iter();
    Ok(entries.filter_map(|(_, entry)| if let Entry::Leased(lease) = entry { Some(lease.attachment.to_string()) } else { None }).collect())
}
