//! Configs and changes of nodes' objects that the API server must refuse, each with a message that says what to do.

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::Cluster;
use crate::lab::api;

/// One row of `crds/tests/wrong-configs.yaml`.
#[derive(Deserialize)]
struct Wrong {
    name: String,
    expected: String,
    #[serde(default)]
    before: Option<Value>,
    object: Value,
}

/// Offers every wrong config to the API server; answers how many it refused, each in the expected words.
///
/// # Errors
/// Names the first that is accepted, or refused in other words.
pub fn wrong_configs(cluster: &Cluster) -> Result<usize> {
    let rows: Vec<Wrong> = rows("wrong-configs.yaml")?;
    for row in &rows {
        refuse(cluster, row).with_context(|| format!("wrong config: {}", row.name))?;
    }
    Ok(rows.len())
}

/// One row of `crds/tests/wrong-nodes.yaml`.
#[derive(Deserialize)]
struct WrongNode {
    name: String,
    expected: String,
    #[serde(default)]
    subresource: Option<String>,
    patch: Value,
}

/// Offers every wrong change of a node's object to the API server; answers how many it refused, each in the expected words.
///
/// # Errors
/// Names the first that is accepted, or refused in other words.
pub fn wrong_nodes(cluster: &Cluster, node: &str) -> Result<usize> {
    let rows: Vec<WrongNode> = rows("wrong-nodes.yaml")?;
    for WrongNode { name, expected, subresource, patch } in &rows {
        let subresource = subresource.as_ref().map(|subresource| format!("--subresource={subresource}"));
        let patch = patch.to_string();
        let arguments = ["patch", "avn", node, "--type=merge", "-p", &patch].into_iter().chain(subresource.as_deref());
        let outcome = cluster.kubectl(&arguments.collect::<Vec<_>>());
        refused(outcome, expected).with_context(|| format!("wrong change of {node}'s object: {name}"))?;
    }
    Ok(rows.len())
}

fn rows<T: DeserializeOwned>(file: &str) -> Result<Vec<T>> {
    let file = crate::build::checkout().join("crds/tests").join(file);
    let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(serde_saphyr::from_str(&text)?)
}

fn refuse(cluster: &Cluster, Wrong { expected, before, object, .. }: &Wrong) -> Result<()> {
    let Some(before) = before else { return refused(cluster.create(api::CONFIGS, object), expected) };
    cluster.create(api::CONFIGS, before)?;
    let file = cluster.lab.write_file("wrong.json", &object.to_string())?;
    let outcome = cluster.kubectl(&["replace", "-f", &file.to_string_lossy()]);
    let name = object["metadata"]["name"].as_str().context("a row's object has a name")?;
    cluster.kubectl(&["delete", "avc", name])?;
    refused(outcome, expected)
}

fn refused<T>(outcome: Result<T>, expected: &str) -> Result<()> {
    match outcome {
        Ok(_) => bail!("it was accepted"),
        Err(error) if format!("{error:#}").contains(expected) => Ok(()),
        Err(error) => bail!("expected {expected:?}, the API server said: {error:#}"),
    }
}
