//! What the suite's runner wrote of a run.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Deserialize;

/// A run.
#[derive(Debug)]
pub struct Report(Vec<Spec>);

/// A spec that was begun, or could not be.
#[derive(Debug, PartialEq, Eq)]
pub struct Spec {
    /// Its full name.
    pub name: String,
    /// Whether it did what it should.
    pub passed: bool,
    /// Why not.
    pub message: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Written {
    spec_reports: Vec<WrittenSpec>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct WrittenSpec {
    container_hierarchy_texts: Option<Vec<String>>,
    leaf_node_type: String,
    leaf_node_text: String,
    state: String,
    #[serde(default)]
    failure: Option<Failure>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Failure {
    message: String,
}

impl Report {
    /// Reads the runner's JSON.
    ///
    /// # Errors
    /// If there is none.
    pub fn read(file: &Path) -> Result<Self> {
        let text = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        Self::parse(&text).with_context(|| format!("{} is no report", file.display()))
    }

    fn parse(text: &[u8]) -> Result<Self> {
        let suites: Vec<Written> = serde_json::from_slice(text)?;
        Ok(Self(suites.into_iter().flat_map(|suite| suite.spec_reports).filter_map(WrittenSpec::spec).collect()))
    }

    /// Those that did what they should.
    pub fn passed(&self) -> impl Iterator<Item = &Spec> {
        self.0.iter().filter(|spec| spec.passed)
    }

    /// Those that did not.
    pub fn failed(&self) -> impl Iterator<Item = &Spec> {
        self.0.iter().filter(|spec| !spec.passed)
    }

    /// Those of `names` that were not begun: also a spec that skips itself on this cluster is none that passes.
    #[must_use]
    pub fn missing<'a>(&self, names: &'a [String]) -> Vec<&'a str> {
        let begun: BTreeSet<&str> = self.0.iter().map(|spec| spec.name.as_str()).collect();
        names.iter().map(String::as_str).filter(|name| !begun.contains(name)).collect()
    }
}

impl WrittenSpec {
    /// Of the suite's own set-up and clean-up only failures count.
    fn spec(self) -> Option<Spec> {
        let Self { container_hierarchy_texts, leaf_node_type, leaf_node_text, state, failure } = self;
        let passed = state == "passed";
        let counts = if leaf_node_type == "It" { !matches!(state.as_str(), "skipped" | "pending") } else { !passed };
        let mut words = container_hierarchy_texts.unwrap_or_default();
        words.push(if leaf_node_text.is_empty() { leaf_node_type } else { leaf_node_text });
        counts.then(|| Spec {
            name: words.join(" ").trim_end().to_owned(),
            passed,
            message: failure.map(|failure| failure.message).unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITTEN: &str = r#"[{"SuiteDescription": "e2e", "SpecReports": [
        {"ContainerHierarchyTexts": null, "LeafNodeType": "SynchronizedBeforeSuite", "LeafNodeText": "", "State": "passed"},
        {"ContainerHierarchyTexts": ["[sig-network] DNS"], "LeafNodeType": "It", "LeafNodeText": "resolves", "State": "passed"},
        {"ContainerHierarchyTexts": ["[sig-network] DNS"], "LeafNodeType": "It", "LeafNodeText": "is elsewhere", "State": "skipped"},
        {"ContainerHierarchyTexts": ["[sig-network] Services"], "LeafNodeType": "It", "LeafNodeText": "serve", "State": "timedout",
         "Failure": {"Message": "A suite timeout occurred"}}]}]"#;

    #[test]
    fn a_spec_that_skipped_itself_is_missing_and_one_that_timed_out_has_failed() {
        let report = Report::parse(WRITTEN.as_bytes()).unwrap();
        assert_eq!(report.passed().map(|spec| spec.name.as_str()).collect::<Vec<_>>(), ["[sig-network] DNS resolves"]);
        let failed: Vec<_> = report.failed().map(|spec| (spec.name.as_str(), spec.message.as_str())).collect();
        assert_eq!(failed, [("[sig-network] Services serve", "A suite timeout occurred")]);
        let names = ["[sig-network] DNS resolves", "[sig-network] DNS is elsewhere"].map(str::to_owned);
        assert_eq!(report.missing(&names), ["[sig-network] DNS is elsewhere"]);
    }

    #[test]
    fn a_suite_that_cannot_be_set_up_has_failed() {
        let text = WRITTEN.replacen("\"passed\"", "\"failed\"", 1);
        assert_eq!(Report::parse(text.as_bytes()).unwrap().failed().count(), 2);
    }
}
