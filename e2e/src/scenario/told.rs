//! What a cluster tells its people: conditions, events, taints, counts of subnets, and `kubectl azure-vnet`.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::failover::Leader;
use super::{Cluster, wait_for};
use crate::lab::api;

/// A `ConfigMap` as AKS keeps it for kube-proxy, with pods' addresses that are not the nodes' subnet's.
pub const KUBE_PROXY: &str = r"
apiVersion: v1
kind: ConfigMap
metadata: {name: kube-proxy, namespace: kube-system}
data:
  config.conf: |
    apiVersion: kubeproxy.config.k8s.io/v1alpha1
    kind: KubeProxyConfiguration
    clusterCIDR: 10.244.0.0/16
    mode: iptables
";

/// Waits until a condition of the object at a path has this status and reason; answers its message.
///
/// # Errors
/// If it has not in time.
pub fn condition(cluster: &Cluster, path: &str, kind: &str, expected: [&str; 2], deadline: Duration) -> Result<String> {
    wait_for(&format!("{kind} of {path} to be {}", expected.join(" ")), deadline, || {
        let found = cluster.read(path)?;
        let conditions = found["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let Some(found) = conditions.into_iter().find(|condition| condition["type"] == kind) else { return Ok(Err("none".into())) };
        let same = found["status"] == expected[0] && found["reason"] == expected[1];
        Ok(if same { Ok(found["message"].as_str().unwrap_or_default().to_owned()) } else { Err(found.to_string()) })
    })
}

/// Waits for an event of a Node that has this word; answers what it says.
///
/// # Errors
/// If there is none in time.
pub fn node_event(cluster: &Cluster, node: &str, [reason, word]: [&str; 2], deadline: Duration) -> Result<String> {
    let of = format!("{}?fieldSelector=involvedObject.kind=Node,involvedObject.name={node},reason={reason}", api::ALL_EVENTS);
    wait_for(&format!("an event {reason} of {node}"), deadline, || {
        let events = cluster.read(&of)?;
        let said: Vec<&str> = events["items"].as_array().into_iter().flatten().filter_map(|event| event["message"].as_str()).collect();
        let found = said.iter().find(|said| said.contains(word)).map(|said| (*said).to_owned());
        Ok(found.ok_or_else(|| format!("{said:?}")))
    })
}

/// Waits until a Node has, or has no more, the mark of one without addresses.
///
/// # Errors
/// If it does not come, or go, in time.
pub fn exhausted_taint(cluster: &Cluster, node: &str, is_there: bool, deadline: Duration) -> Result<()> {
    wait_for(&format!("the mark of {node} to {}", if is_there { "come" } else { "go" }), deadline, || {
        let taints = cluster.read(&format!("{}/{node}", api::NODES))?["spec"]["taints"].as_array().cloned().unwrap_or_default();
        let marked = taints.iter().any(|taint| taint["key"] == "azure-vnet.dev/no-addresses" && taint["effect"] == "NoSchedule");
        Ok(if marked == is_there { Ok(()) } else { Err(format!("{taints:?}")) })
    })
}

/// Waits until the only subnet's object says what is left of it and how much is missing; answers its status.
///
/// # Errors
/// If it does not in time.
pub fn subnet(cluster: &Cluster, free: u64, needs: u64, deadline: Duration) -> Result<Value> {
    wait_for(&format!("the subnet to have {free} and to need {needs} more"), deadline, || {
        let list = cluster.read(api::SUBNETS)?;
        let status = list["items"][0]["status"].clone();
        Ok(if status["free"] == free && status["needs"] == needs { Ok(status) } else { Err(status.to_string()) })
    })
}

/// Waits until the leader's status page says something; it is read on the loopback address of its node.
///
/// # Errors
/// If it does not in time.
pub fn page(cluster: &Cluster, path: &str, expected: &str, deadline: Duration) -> Result<()> {
    let leader = Leader::of(cluster)?;
    wait_for(&format!("the page {path} to say {expected:?}"), deadline, || {
        let page = leader.node.exec(&["busybox", "wget", "-q", "-O", "-", &format!("http://127.0.0.1:9404{path}")])?;
        Ok(if page.contains(expected) { Ok(()) } else { Err(page) })
    })
}

/// What `kubectl azure-vnet …` prints, as people see it.
///
/// # Errors
/// If it fails.
pub fn shown(cluster: &Cluster, arguments: &[&str]) -> Result<String> {
    cluster.kubectl(&[&["azure-vnet"], arguments].concat())
}

/// What `kubectl azure-vnet … -o json` prints, as programs read it.
///
/// # Errors
/// If it fails or prints no JSON.
pub fn read(cluster: &Cluster, arguments: &[&str]) -> Result<Value> {
    let text = cluster.kubectl(&[&["azure-vnet"], arguments, &["-o", "json"]].concat())?;
    serde_json::from_str(&text).with_context(|| format!("kubectl azure-vnet {} printed no JSON: {text}", arguments.join(" ")))
}

/// One row of a list, by what is in a field.
///
/// # Errors
/// If there is none.
pub fn row<'a>(list: &'a Value, field: &str, value: &str) -> Result<&'a Value> {
    let rows = list.as_array().with_context(|| format!("{list} is no list"))?;
    rows.iter().find(|row| row[field] == value).with_context(|| format!("no {field} {value} in {list}"))
}

/// Changes a setting of a node's kernel as another program would, and waits until it is set back and an event has told of it.
///
/// # Errors
/// If either does not happen in time.
pub fn set_back(cluster: &Cluster, node: &str, deadline: Duration) -> Result<()> {
    const SETTING: &str = "/proc/sys/net/ipv4/ip_forward";
    let machine = cluster.lab.node(node).context("the node")?;
    machine.exec(&["sh", "-c", &format!("echo 0 > {SETTING}")])?;
    wait_for("ip_forward to be set back", deadline, || {
        let now = machine.exec(&["cat", SETTING])?;
        Ok(if now.trim() == "1" { Ok(()) } else { Err(now) })
    })?;
    node_event(cluster, node, ["Mended", "ip_forward"], deadline).map(|_| ())
}
