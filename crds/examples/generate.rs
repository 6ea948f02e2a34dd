//! Writes the definitions of the kinds to the chart. They are generated from the types, committed, and compared by a test.

use std::path::PathBuf;

use azure_vnet_crds::{AzureVnetConfig, AzureVnetNode};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for (path, text) in definitions()? {
        std::fs::write(path, text)?;
    }
    Ok(())
}

/// The files of the chart that hold the definitions, with what belongs into them.
///
/// # Errors
/// When a definition cannot be written as YAML.
pub fn definitions() -> Result<Vec<(PathBuf, String)>, Box<dyn std::error::Error>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../charts/azure-vnet/crds");
    [AzureVnetConfig::crd(), AzureVnetNode::crd()]
        .iter()
        .map(|crd| Ok((folder.join(format!("{}.yaml", crd.spec.names.plural)), yaml(crd)?)))
        .collect()
}

fn yaml(crd: &CustomResourceDefinition) -> Result<String, Box<dyn std::error::Error>> {
    let head = "# Generated from crds/src by `cargo run --package azure-vnet-crds --example generate`.\n";
    Ok(format!("{head}{}", serde_saphyr::to_string(crd)?))
}
