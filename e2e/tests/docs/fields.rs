//! Fields of our kinds and values of the chart in the documents, also in their blocks of YAML.

use std::{collections::BTreeSet, fs};

use azure_vnet_e2e::build::checkout;
use azure_vnet_operator_core::standalone;
use serde_json::Value;

use super::{blocks, code, documents};

/// Fields of the kinds of Kubernetes that documents name as such.
const OF_KUBERNETES: [&str; 3] = ["spec.nodeName", "spec.podCIDRs", "spec.providerID"];

fn read(path: &str) -> String {
    fs::read_to_string(checkout().join(path)).unwrap()
}

fn values_schema() -> Value {
    serde_json::from_str(&read("charts/azure-vnet/values.schema.json")).unwrap()
}

/// The schemas of our kinds.
fn kinds() -> Vec<Value> {
    let of = |plural: &str| {
        let definition: Value = serde_saphyr::from_str(&read(&format!("charts/azure-vnet/crds/{plural}.yaml"))).unwrap();
        definition.pointer("/spec/versions/0/schema/openAPIV3Schema").unwrap().clone()
    };
    ["azurevnetconfigs", "azurevnetnodes", "azurevnetsubnets"].map(of).into()
}

#[test]
fn every_chart_value_and_every_field_exists() {
    let (values, kinds) = (values_schema(), kinds());
    let fields: BTreeSet<String> = code(&read("docs/fields.md")).into_iter().collect();
    let mut wrong = vec![];
    for (path, text) in documents() {
        for name in code(&text) {
            let first = name.split('.').next().unwrap_or_default();
            let is_path = name.contains('.')
                && name.rsplit('.').next() != Some("conf")
                && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '.')
                && !name.ends_with('.');
            let known = match first {
                "spec" | "status" => kinds.iter().any(|kind| has(kind, kind, &name)) || OF_KUBERNETES.contains(&name.as_str()),
                "pool" | "masquerade" | "host" | "cni" | "arm" | "readiness" => fields.contains(&format!("spec.{name}")),
                "image" | "azure" | "config" | "controller" | "agent" | "monitoring" | "kubernetesApi" | "global" | "uninstall" | "log" => {
                    has(&values, &values, &name)
                }
                _ => true,
            };
            if is_path && !known {
                wrong.push(format!("{}: {name}", path.display()));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

/// Whether a path leads through a schema; below a map of the user's own, any name does.
fn has(root: &Value, schema: &Value, path: &str) -> bool {
    let schema = followed(root, schema);
    let (first, rest) = path.split_once('.').unwrap_or((path, ""));
    let inner = schema.get("properties").and_then(|properties| properties.get(first));
    match inner.map(|inner| followed(root, inner)) {
        Some(inner) => rest.is_empty() || has(root, inner.get("items").unwrap_or(inner), rest),
        None => {
            schema.get("properties").is_none()
                && (schema.get("additionalProperties").is_some() || schema.get("type").is_none_or(|kind| kind == "object"))
        }
    }
}

fn followed<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    match schema.get("$ref").and_then(Value::as_str) {
        Some(reference) => root.pointer(reference.trim_start_matches('#')).unwrap_or(&Value::Null),
        None => schema,
    }
}

/// The paths of all that a document says, without what is in lists of scalars.
fn paths(value: &Value, at: &str, found: &mut Vec<String>) {
    let below = |name: &str| if at.is_empty() { name.to_owned() } else { format!("{at}.{name}") };
    match value {
        Value::Object(fields) if !fields.is_empty() => fields.iter().for_each(|(name, inner)| paths(inner, &below(name), found)),
        Value::Array(items) if items.iter().any(Value::is_object) => items.iter().for_each(|item| paths(item, at, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => {
            found.push(at.to_owned());
        }
    }
}

#[test]
fn every_block_of_yaml_says_only_what_there_is() {
    let (mut wrong, mut seen) = (vec![], 0);
    for (path, text) in documents() {
        for (_, block) in blocks(&text).into_iter().filter(|(language, _)| *language == "yaml") {
            seen += 1;
            wrong.extend(faults(block).into_iter().map(|fault| format!("{}: {fault}", path.display())));
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
    assert!(seen >= 5, "only {seen} blocks were found");
}

/// What a block says that is nowhere: of one of our kinds, of the chart's values, of a config alone, or of a machine without Kubernetes.
fn faults(block: &str) -> Vec<String> {
    let block: Value = match serde_saphyr::from_str(block) {
        Ok(block) => block,
        Err(error) => return vec![error.to_string()],
    };
    let (values, kinds) = (values_schema(), kinds());
    let mut said = vec![];
    paths(&block, "", &mut said);
    let missing = |root: &Value, schema: &Value| said.iter().filter(|path| !has(root, schema, path)).cloned().collect::<Vec<_>>();
    if block.get("kind").is_some() {
        let of_kind = |path: &&String| path.starts_with("spec.") || path.starts_with("status.");
        return said.iter().filter(of_kind).filter(|path| !kinds.iter().any(|kind| has(kind, kind, path))).cloned().collect();
    }
    if standalone::Config::read(&block).is_ok() {
        return vec![];
    }
    let spec = kinds.first().and_then(|kind| kind.pointer("/properties/spec")).unwrap();
    let (of_chart, of_config) = (missing(&values, &values), missing(spec, spec));
    if of_chart.len() <= of_config.len() { of_chart } else { of_config }
}

#[test]
fn every_value_that_helm_is_given_exists() {
    let values = values_schema();
    let (mut wrong, mut seen) = (vec![], 0);
    for (path, text) in documents() {
        let lines = blocks(&text).into_iter().map(|(_, block)| block.replace("\\\n", " ")).chain(code(&text));
        for line in lines {
            for set in line.split("--set ").skip(1).filter_map(|rest| rest.split_whitespace().next()) {
                for name in set.split(',').filter_map(|pair| pair.split('=').next()) {
                    seen += 1;
                    if !has(&values, &values, name) {
                        wrong.push(format!("{}: {name}", path.display()));
                    }
                }
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
    assert!(seen >= 2, "only {seen} values were found");
}

#[test]
fn what_is_misspelt_is_found() {
    let (values, kinds) = (values_schema(), kinds());
    let is_field = |path: &str| kinds.iter().any(|kind| has(kind, kind, path));
    assert!(is_field("spec.pool.minFree") && is_field("status.cloud.intent.createdAt") && is_field("status.preflight.message"));
    assert!(!is_field("spec.pool.minFre") && !is_field("status.cloud.intnt") && !is_field("spec.mode.x"));
    assert!(has(&values, &values, "controller.podLabels.mine") && !has(&values, &values, "controller.replcas"));
    assert_eq!(faults("kind: AzureVnetConfig\nspec: {pool: {minn: 1}}"), ["spec.pool.minn"]);
    assert_eq!(faults("controller: {replcas: 1}"), ["controller.replcas"]);
    assert_eq!(faults("azure: {credential: {workloadIdentity: {clientId: …, tenantId: …}}}"), Vec::<String>::new());
}
