//! What the documents name exists: links with their anchors, commands, chart values, fields of a config, and files.
#![expect(clippy::unwrap_used, reason = "a test says what it expected by failing there")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use azure_vnet_e2e::build::checkout;
use azure_vnet_operator::{cli, tool};
use clap::CommandFactory as _;
use serde_json::Value;

fn documents() -> Vec<(PathBuf, String)> {
    let root = checkout();
    let named = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"].map(|name| root.join(name));
    let docs = fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> = named.into_iter().chain(docs).filter(|path| path.extension().is_some_and(|end| end == "md")).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

/// The anchor of a heading, as Git hosts make it.
fn anchor(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().to_lowercase();
    kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_')).map(|c| if c == ' ' { '-' } else { c }).collect()
}

fn links(text: &str) -> Vec<&str> {
    text.split("](").skip(1).filter_map(|rest| rest.split(')').next()).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut wrong = vec![];
    for (path, text) in documents() {
        for link in links(&text).into_iter().filter(|link| !link.contains("://")) {
            let (file, fragment) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { path.clone() } else { path.parent().unwrap().join(file) };
            let has = |text: String| text.lines().any(|line| line.starts_with('#') && anchor(line) == fragment);
            let found = target.exists() && (fragment.is_empty() || fs::read_to_string(&target).is_ok_and(has));
            if !found {
                wrong.push(format!("{}: {link}", path.display()));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

/// What stands in single backticks.
fn code(text: &str) -> Vec<String> {
    let plain: Vec<&str> = text.split("```").step_by(2).collect();
    plain.iter().flat_map(|part| part.split('`').skip(1).step_by(2)).map(str::to_owned).collect()
}

#[test]
fn every_chart_value_and_every_field_exists() {
    let schema: Value =
        serde_json::from_str(&fs::read_to_string(checkout().join("charts/azure-vnet/values.schema.json")).unwrap()).unwrap();
    let fields = fs::read_to_string(checkout().join("docs/fields.md")).unwrap();
    let fields: BTreeSet<String> = code(&fields).into_iter().collect();
    let mut wrong = vec![];
    for (path, text) in documents() {
        for name in code(&text) {
            let first = name.split('.').next().unwrap_or_default();
            let is_path = name.contains('.')
                && name.rsplit('.').next() != Some("conf")
                && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '.')
                && !name.ends_with('.');
            let known = match first {
                "pool" | "masquerade" | "host" | "cni" | "arm" | "readiness" => fields.contains(&format!("spec.{name}")),
                "image" | "azure" | "config" | "controller" | "agent" | "monitoring" | "kubernetesApi" | "global" | "uninstall" => {
                    is_value(&schema, &schema, &name)
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
fn is_value(root: &Value, schema: &Value, path: &str) -> bool {
    let schema = match schema.get("$ref").and_then(Value::as_str) {
        Some(reference) => root.pointer(reference.trim_start_matches('#')).unwrap_or(&Value::Null),
        None => schema,
    };
    let (first, rest) = path.split_once('.').unwrap_or((path, ""));
    match schema.get("properties").and_then(|properties| properties.get(first)) {
        Some(inner) => rest.is_empty() || is_value(root, inner, rest),
        None => schema.get("properties").is_none(),
    }
}

#[test]
fn every_command_exists() {
    let (kubectl, operator) = (tool::Cli::command(), cli::Cli::command());
    let mut wrong = vec![];
    for (path, text) in documents() {
        for line in text.lines() {
            for (called, command) in [("kubectl azure-vnet ", &kubectl), ("azure-vnet-operator ", &operator)] {
                for rest in line.split(called).skip(1) {
                    let words: Vec<&str> = rest.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-')).take(2).collect();
                    if !is_command(command, &words, rest) {
                        wrong.push(format!("{}: {called}{}", path.display(), words.join(" ")));
                    }
                }
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

/// A word after a command that has further ones must be one of them; a sentence that goes on is none.
fn is_command(command: &clap::Command, words: &[&str], rest: &str) -> bool {
    let [first, others @ ..] = words else { return true };
    if first.is_empty() || first.starts_with('-') || !rest.starts_with(|c: char| c.is_ascii_lowercase()) {
        return true;
    }
    match command.find_subcommand(first) {
        Some(inner) if inner.has_subcommands() => is_command(inner, others, rest.get(first.len() + 1..).unwrap_or_default()),
        Some(_) => true,
        None => false,
    }
}

#[test]
fn every_script_that_is_named_exists() {
    for (path, text) in documents() {
        for word in text.split(|c: char| c.is_whitespace() || c == '`' || c == '(' || c == ')') {
            if word.starts_with("scripts/") && word.len() > "scripts/".len() {
                assert!(Path::new(&checkout()).join(word.trim_end_matches(['.', ',', ':'])).exists(), "{}: {word}", path.display());
            }
        }
    }
}
