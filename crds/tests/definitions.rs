//! What the committed definitions promise: they are those of the types, every list, map and string is bounded, every field
//! is documented, and every rule has a wrong config that it refuses.
//!
//! Whether the API server really refuses them is for the end-to-end tests, which apply the same table.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot read its own data fails")]

#[path = "../examples/generate.rs"]
#[expect(dead_code, reason = "its main belongs to the example")]
mod generate;

use std::collections::BTreeMap;

use azure_vnet_crds::{AzureVnetConfig, AzureVnetNode, AzureVnetSubnet};
use kube::CustomResourceExt as _;
use serde::Deserialize;
use serde_json::{Map, Value, json};

#[test]
fn the_committed_files_are_those_of_the_types() {
    for (path, text) in generate::generated().unwrap() {
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(committed == text, "{} is stale: run cargo run --package azure-vnet-crds --example generate", path.display());
    }
}

#[test]
fn the_written_yaml_reads_back_as_the_definition() {
    for ((_, text), crd) in
        generate::definitions().unwrap().into_iter().zip([AzureVnetConfig::crd(), AzureVnetNode::crd(), AzureVnetSubnet::crd()])
    {
        let read: Value = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(without_floats(read), without_floats(serde_json::to_value(crd).unwrap()));
    }
}

#[test]
fn every_list_map_and_string_is_bounded() {
    let mut unbounded = vec![];
    for (path, schema) in schemas() {
        let bounded = match schema.get("type").and_then(Value::as_str) {
            Some("string") => ["maxLength", "enum", "format"].iter().any(|bound| schema.contains_key(*bound)),
            Some("array") => schema.contains_key("maxItems") && schema.contains_key("x-kubernetes-list-type"),
            Some("object") => !schema.contains_key("additionalProperties") || schema.contains_key("maxProperties"),
            _ => true,
        };
        if !bounded {
            unbounded.push(path);
        }
    }
    assert_eq!(unbounded, Vec::<String>::new());
}

#[test]
fn every_field_is_documented_and_typed_as_the_api_server_knows() {
    for (path, schema) in schemas() {
        let is_field = !path.ends_with("[]") && !path.ends_with("{}");
        assert!(!is_field || schema.contains_key("description"), "{path} has no description");
        let format = schema.get("format").and_then(Value::as_str);
        assert!(matches!(format, None | Some("int32" | "int64" | "date-time")), "{path} has format {format:?}");
        let typed = ["type", "x-kubernetes-int-or-string"].iter().any(|key| schema.contains_key(*key));
        assert!(typed, "{path} has no type");
    }
}

#[test]
fn sizing_has_no_schema_default_where_the_two_ways_exclude_each_other() {
    let schemas: BTreeMap<_, _> = schemas().into_iter().collect();
    for field in ["ipAddressCount", "min", "minFree", "batch", "max", "initial"] {
        assert!(!schemas[&format!("AzureVnetConfig.spec.pool.{field}")].contains_key("default"));
    }
    let pool = &schemas["AzureVnetConfig.spec.pool"]["default"];
    assert_eq!(pool.as_object().unwrap().keys().collect::<Vec<_>>(), ["coolDown", "release", "reserved", "unit"]);
    assert_eq!(schemas["AzureVnetConfig.spec.pool.coolDown"]["default"], json!("45s"));
}

#[test]
fn sc1_a_nodes_addresses_are_one_atomic_list() {
    let schemas: BTreeMap<_, _> = schemas().into_iter().collect();
    assert_eq!(schemas["AzureVnetNode.spec.addresses"]["x-kubernetes-list-type"], json!("atomic"));
}

#[test]
fn objects_that_machines_write_have_no_defaults_and_no_rule_of_users_fields() {
    for (path, schema) in schemas() {
        assert!(
            !["AzureVnetNode.", "AzureVnetSubnet."].iter().any(|kind| path.starts_with(kind)) || !schema.contains_key("default"),
            "{path} has a default"
        );
        assert!(!path.starts_with("AzureVnetNode.spec.effective") || !schema.contains_key("x-kubernetes-validations"), "{path} has rules");
    }
}

#[test]
fn every_rule_has_a_wrong_config_or_a_wrong_change_of_a_node() {
    let configs: Vec<String> = wrong_configs().into_iter().map(|case| case.expected).collect();
    let nodes: Vec<String> = wrong_nodes().into_iter().map(|case| case.expected).collect();
    assert!(configs.len() >= 20);
    for (path, schema) in schemas() {
        let rules = schema.get("x-kubernetes-validations").and_then(Value::as_array).cloned().unwrap_or_default();
        for message in rules.iter().filter_map(|rule| rule["message"].as_str()) {
            let expected = if path.starts_with("AzureVnetNode") { &nodes } else { &configs };
            assert!(expected.iter().any(|expected| message.contains(expected)), "nothing wrong is refused at {path} with: {message}");
        }
    }
}

#[test]
fn wrong_configs_are_named_once_and_are_of_our_kind() {
    let mut names = std::collections::BTreeSet::new();
    for WrongConfig { name, expected, before, object } in wrong_configs() {
        assert!(names.insert(name.clone()), "{name} is there twice");
        assert!(!expected.is_empty(), "{name} expects nothing");
        for object in before.iter().chain([&object]) {
            assert_eq!((&object["apiVersion"], &object["kind"]), (&json!("azure-vnet.dev/v1alpha1"), &json!("AzureVnetConfig")), "{name}");
        }
    }
}

/// One row of the table of wrong configs.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrongConfig {
    name: String,
    expected: String,
    before: Option<Value>,
    object: Value,
}

/// One row of the table of wrong changes to a node's object.
#[derive(Deserialize)]
struct WrongNode {
    expected: String,
}

fn wrong_nodes() -> Vec<WrongNode> {
    serde_saphyr::from_str(include_str!("wrong-nodes.yaml")).unwrap()
}

fn wrong_configs() -> Vec<WrongConfig> {
    serde_saphyr::from_str(include_str!("wrong-configs.yaml")).unwrap()
}

/// All schemas of both kinds with their paths; `[]` stands for items, `{}` for values of a map.
fn schemas() -> Vec<(String, Map<String, Value>)> {
    let mut found = vec![];
    for crd in [AzureVnetConfig::crd(), AzureVnetNode::crd(), AzureVnetSubnet::crd()] {
        let crd = serde_json::to_value(crd).unwrap();
        let root = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        collect(crd["spec"]["names"]["kind"].as_str().unwrap(), root, &mut found);
    }
    found
}

fn collect(path: &str, schema: &Value, found: &mut Vec<(String, Map<String, Value>)>) {
    let Some(object) = schema.as_object() else { return };
    found.push((path.to_owned(), object.clone()));
    for (name, property) in object.get("properties").and_then(Value::as_object).into_iter().flatten() {
        collect(&format!("{path}.{name}"), property, found);
    }
    for (key, suffix) in [("items", "[]"), ("additionalProperties", "{}")] {
        if let Some(inner) = object.get(key) {
            collect(&format!("{path}{suffix}"), inner, found);
        }
    }
}

/// YAML writes 255.0 where JSON has 255.0 and 255 alike.
fn without_floats(value: Value) -> Value {
    match value {
        Value::Number(number) => json!(number.as_f64()),
        Value::Array(items) => items.into_iter().map(without_floats).collect(),
        Value::Object(fields) => fields.into_iter().map(|(key, value)| (key, without_floats(value))).collect(),
        other @ (Value::Null | Value::Bool(_) | Value::String(_)) => other,
    }
}
