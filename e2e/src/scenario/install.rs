//! Installing the chart and applying an `AzureVnetConfig`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use super::{Cluster, wait_for};
use crate::build::OPERATOR_IMAGE;
use crate::lab::api;

/// The config that the demo and the tests use: the defaults, with periods short enough to watch.
pub const CONFIG: &str = "\
apiVersion: azure-vnet.dev/v1alpha1
kind: AzureVnetConfig
metadata:
  name: default
spec:
  pool:
    minFree: 4
    batch: 4
    max: 100
    coolDown: 10s
    release: {after: 70s, batch: 16, jitterPercent: 0, calm: 20s, probation: 30s}
  masquerade:
    nonMasqueradeCIDRs: [10.50.0.0/16]
";

/// Waits until every node says that it has no network yet, and answers each one's words.
///
/// # Errors
/// If a node does not say so in time.
pub fn without_network(cluster: &Cluster, deadline: Duration) -> Result<BTreeMap<String, String>> {
    wait_for("every node to say that it has no network yet", deadline, || {
        let nodes = cluster.read(api::NODES)?;
        let items = nodes["items"].as_array().cloned().unwrap_or_default();
        let reasons: BTreeMap<String, String> = items.iter().filter_map(not_ready_reason).collect();
        let all = reasons.len() == cluster.lab.nodes().len() && reasons.values().all(|why| why.contains("cni plugin not initialized"));
        Ok(if all { Ok(reasons) } else { Err(format!("{reasons:?}")) })
    })
}

fn not_ready_reason(node: &Value) -> Option<(String, String)> {
    let ready = condition(node, "Ready")?;
    let name = node["metadata"]["name"].as_str()?.to_owned();
    (ready["status"] != "True").then(|| (name, ready["message"].as_str().unwrap_or_default().to_owned()))
}

fn condition<'a>(node: &'a Value, kind: &str) -> Option<&'a Value> {
    node["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)
}

/// Installs this version's chart with `helm`, as a user does who signs in with the machine's managed identity.
///
/// # Errors
/// If `helm` fails.
pub fn install(cluster: &Cluster, extra: &[&str]) -> Result<String> {
    install_chart(cluster, &chart(), extra)
}

/// Installs a chart so.
///
/// # Errors
/// If `helm` fails.
pub fn install_chart(cluster: &Cluster, chart: &Path, extra: &[&str]) -> Result<String> {
    let ca = cluster.lab.azure_ca_file();
    let ca = format!("--from-file=ca.crt={}", ca.display());
    cluster.kubectl(&["-n", "kube-system", "create", "configmap", "azure-ca", &ca])?;
    helm(cluster, "install", chart, extra)
}

/// Upgrades what is installed to this version: definitions first, then the chart with the user's values, as docs/upgrade.md says.
///
/// # Errors
/// If `kubectl` or `helm` fails.
pub fn upgrade(cluster: &Cluster, extra: &[&str]) -> Result<String> {
    cluster.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", &chart().join("crds").to_string_lossy()])?;
    helm(cluster, "upgrade", &chart(), extra)
}

fn chart() -> PathBuf {
    crate::build::checkout().join("charts/azure-vnet")
}

fn helm(cluster: &Cluster, command: &str, chart: &Path, extra: &[&str]) -> Result<String> {
    let values = cluster.lab.write_file("values.json", &values().to_string())?;
    let (values, chart) = (values.to_string_lossy(), chart.to_string_lossy());
    let arguments = [command, "azure-vnet", &*chart, "--namespace", "kube-system", "--values", &*values];
    cluster.lab.helm(&[&arguments[..], extra].concat())
}

fn values() -> Value {
    let (repository, tag) = OPERATOR_IMAGE.rsplit_once(':').unwrap_or((OPERATOR_IMAGE, ""));
    json!({
        "image": {"repository": repository, "tag": tag},
        "kubernetesApi": {"host": "10.250.0.10", "port": 6443},
        "azure": {
            "credential": {"managedIdentity": {"clientId": crate::azure::seed::NODE_CLIENT_ID}},
            "endpoints": {"resourceManager": "https://10.250.0.20", "authorityHost": "https://10.250.0.20"},
            "ca": {"configMapName": "azure-ca"},
        },
        "config": {"create": false},
        "log": {"format": "text", "level": "info"},
    })
}

/// Applies an `AzureVnetConfig`.
///
/// # Errors
/// If the API server refuses it.
pub fn configure(cluster: &Cluster, config: &str) -> Result<String> {
    cluster.apply(config)
}

/// Waits until every node is Ready and free of taints.
///
/// # Errors
/// If that takes longer than the deadline.
pub fn wait_ready(cluster: &Cluster, deadline: Duration) -> Result<()> {
    wait_for("all nodes Ready without taints", deadline, || {
        let nodes = cluster.read(api::NODES)?;
        let items = nodes["items"].as_array().cloned().unwrap_or_default();
        let waiting: Vec<String> = items.iter().filter_map(unready).collect();
        Ok(if waiting.is_empty() && !items.is_empty() { Ok(()) } else { Err(waiting.join("; ")) })
    })
}

fn unready(node: &Value) -> Option<String> {
    let name = node["metadata"]["name"].as_str().unwrap_or_default();
    if let Some((_, why)) = not_ready_reason(node) {
        return Some(format!("{name} is not ready: {why}"));
    }
    let taints = node["spec"]["taints"].as_array().filter(|taints| !taints.is_empty())?;
    Some(format!("{name} has taints {}", Value::from(taints.clone())))
}
