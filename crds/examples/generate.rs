//! Writes what follows from the types: the definitions of the kinds, what the chart's values' schema says of a config, and the users' list of its
//! fields. The files are committed, and compared by a test.

use std::path::PathBuf;

use azure_vnet_crds::{AzureVnetConfig, AzureVnetNode, AzureVnetSubnet};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt as _;
use serde_json::{Map, Value, json};

type Error = Box<dyn std::error::Error>;

fn main() -> Result<(), Error> {
    for (path, text) in generated()? {
        std::fs::write(path, text)?;
    }
    Ok(())
}

/// The generated files with what belongs into them.
///
/// # Errors
/// When the schema of the chart's values cannot be read, or something cannot be written as YAML.
pub fn generated() -> Result<Vec<(PathBuf, String)>, Error> {
    let mut files = definitions()?;
    files.push(values_schema()?);
    files.push(reference()?);
    Ok(files)
}

/// The files that hold the definitions.
///
/// # Errors
/// When a definition cannot be written as YAML.
pub fn definitions() -> Result<Vec<(PathBuf, String)>, Error> {
    [AzureVnetConfig::crd(), AzureVnetNode::crd(), AzureVnetSubnet::crd()]
        .iter()
        .map(|crd| Ok((chart().join(format!("crds/{}.yaml", crd.spec.names.plural)), yaml(crd)?)))
        .collect()
}

fn yaml(crd: &CustomResourceDefinition) -> Result<String, Error> {
    let head = "# Generated from crds/src by `cargo run --package azure-vnet-crds --example generate`.\n";
    Ok(format!("{head}{}", serde_saphyr::to_string(&sorted(serde_json::to_value(crd)?))?))
}

/// The schema of the chart's values, as it stands but for the config's part: helm then refuses a misspelt field, which the
/// API server would drop.
fn values_schema() -> Result<(PathBuf, String), Error> {
    let path = chart().join("values.schema.json");
    let mut schema: Value = serde_json::from_str(&std::fs::read_to_string(&path)?)?;
    let crd = serde_json::to_value(AzureVnetConfig::crd())?;
    let spec = crd.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec").ok_or("the definition has no spec")?;
    let slot = schema.pointer_mut("/$defs").ok_or("the values' schema has no $defs")?;
    *slot = json!({"AzureVnetConfigSpec": closed(spec)});
    Ok((path, serde_json::to_string_pretty(&sorted(schema))? + "\n"))
}

/// What helm understands of a structural schema, closed for unknown fields.
fn closed(schema: &Value) -> Value {
    let Some(schema) = schema.as_object() else { return schema.clone() };
    let mut kept: Map<_, _> = schema
        .iter()
        .filter(|(key, _)| !key.starts_with("x-kubernetes-") && !["default", "format", "nullable"].contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    if schema.contains_key("x-kubernetes-int-or-string") {
        kept.insert("type".into(), json!(["integer", "string"]));
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = kept.get_mut(key) {
            *inner = closed(inner);
        }
    }
    if let Some(properties) = kept.get_mut("properties").and_then(Value::as_object_mut) {
        properties.values_mut().for_each(|property| *property = closed(property));
        if !schema.contains_key("x-kubernetes-preserve-unknown-fields") {
            kept.insert("additionalProperties".into(), false.into());
        }
    }
    Value::Object(kept)
}

/// Every field of a config, for users.
fn reference() -> Result<(PathBuf, String), Error> {
    let crd = serde_json::to_value(AzureVnetConfig::crd())?;
    let spec = crd.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec").ok_or("the definition has no spec")?;
    let mut text = "# Every field of an AzureVnetConfig\n\nGenerated from the types by `cargo xtask generate`. [configuration.md](configuration.md) says \
                    how they work together.\n\n| field | type | default | meaning |\n| --- | --- | --- | --- |\n"
        .to_owned();
    describe("spec", spec, &mut text);
    Ok((chart().join("../../docs/fields.md"), text))
}

fn describe(path: &str, schema: &Value, text: &mut String) {
    let kind = match (schema.get("enum").and_then(Value::as_array), schema.get("type").and_then(Value::as_str)) {
        (Some(words), _) => words.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "),
        (None, Some("array")) => "list".to_owned(),
        (None, None) if schema.get("x-kubernetes-int-or-string").is_some() => "integer or string".to_owned(),
        (None, kind) => kind.unwrap_or("any").to_owned(),
    };
    let default = schema.get("default").filter(|default| !default.is_object());
    let default = default.map(|default| default.as_str().map_or_else(|| default.to_string(), str::to_owned));
    let default = default.filter(|text| !text.is_empty() && text != "[]").map(|text| format!("`{text}`")).unwrap_or_default();
    let meaning = schema.get("description").and_then(Value::as_str).unwrap_or_default().replace('\n', " ").replace('|', "\\|");
    text.extend(["| `", path, "` | ", &kind, " | ", &default, " | ", &meaning, " |\n"]);
    let mut fields: Vec<_> = schema.get("properties").and_then(Value::as_object).into_iter().flatten().collect();
    fields.sort_by_key(|(name, _)| name.as_str());
    // The parts of a label selector are Kubernetes' own.
    for (name, inner) in fields.into_iter().filter(|_| !path.ends_with("nodeSelector")) {
        describe(&format!("{path}.{name}"), inner, text);
    }
}

/// The same with all keys in order, whatever order the crate `serde_json` was built to keep.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.into_iter().map(|(key, value)| (key, sorted(value))).collect();
            fields.sort_by(|(a, _), (b, _)| a.cmp(b));
            Value::Object(fields.into_iter().collect())
        }
        Value::Array(items) => items.into_iter().map(sorted).collect(),
        other @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) => other,
    }
}

fn chart() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../charts/azure-vnet")
}
