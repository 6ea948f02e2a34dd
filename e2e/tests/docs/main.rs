//! What the documents name exists: links with their anchors, commands, chart values, fields of a config, and files.
#![expect(clippy::unwrap_used, reason = "a test says what it expected by failing there")]

mod commands;
mod fields;

use std::fs;
use std::path::{Path, PathBuf};

use azure_vnet_e2e::build::checkout;

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

/// The blocks of code: their language, and what they hold.
fn blocks(text: &str) -> Vec<(&str, &str)> {
    text.split("```").skip(1).step_by(2).filter_map(|block| block.split_once('\n')).collect()
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
