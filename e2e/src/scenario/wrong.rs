//! Configs that the API server must refuse, each with a message that says what to do.

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use serde_json::Value;

use super::Cluster;

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
    let file = crate::build::checkout().join("crds/tests/wrong-configs.yaml");
    let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let rows: Vec<Wrong> = serde_saphyr::from_str(&text)?;
    for row in &rows {
        refuse(cluster, row).with_context(|| format!("wrong config: {}", row.name))?;
    }
    Ok(rows.len())
}

fn refuse(cluster: &Cluster, Wrong { expected, before, object, .. }: &Wrong) -> Result<()> {
    let verb = match before {
        Some(before) => {
            let file = cluster.lab.write_file("before.json", &before.to_string())?;
            cluster.kubectl(&["create", "-f", &file.to_string_lossy()])?;
            "replace"
        }
        None => "create",
    };
    let file = cluster.lab.write_file("wrong.json", &object.to_string())?;
    let outcome = cluster.kubectl(&[verb, "-f", &file.to_string_lossy()]);
    if before.is_some() {
        let name = object["metadata"]["name"].as_str().context("a row's object has a name")?;
        cluster.kubectl(&["delete", "avc", name])?;
    }
    match outcome {
        Ok(_) => bail!("it was accepted"),
        Err(error) if format!("{error:#}").contains(expected.as_str()) => Ok(()),
        Err(error) => bail!("expected {expected:?}, the API server said: {error:#}"),
    }
}
