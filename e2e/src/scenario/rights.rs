//! What the product's accounts may do by the chart's roles, what they did, and what was refused to them, by the API server's audit log.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead as _, BufReader};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::Cluster;

/// One thing that an account may do, or did: verb, resource (with its subresource and API group).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deed {
    /// `controller` or `agent`.
    pub part: String,
    /// As in a role.
    pub verb: String,
    /// `azurevnetnodes/status.azure-vnet.dev`.
    pub resource: String,
}

/// All of it.
#[derive(Debug, Default)]
pub struct Rights {
    /// By the roles.
    pub granted: BTreeSet<Deed>,
    /// By the log.
    pub used: BTreeSet<Deed>,
    /// What was answered 403: request and answer.
    pub refused: BTreeSet<String>,
}

/// Reads roles and log.
///
/// # Errors
/// If either cannot be read.
pub fn rights(cluster: &Cluster) -> Result<Rights> {
    let mut rights = Rights::default();
    for kind in ["clusterroles", "namespaces/kube-system/roles"] {
        let roles = format!("/apis/rbac.authorization.k8s.io/v1/{kind}?labelSelector=app.kubernetes.io/name=azure-vnet");
        let roles = cluster.read(&roles)?;
        for role in roles["items"].as_array().into_iter().flatten() {
            let part = role["metadata"]["labels"]["app.kubernetes.io/component"].as_str().context("a role names its part")?;
            for rule in role["rules"].as_array().into_iter().flatten() {
                rights.granted.extend(granted(part, rule));
            }
        }
    }
    let path = cluster.lab.audit_log();
    let log = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    for line in BufReader::new(log).lines() {
        // The last line may be half written.
        let Ok(event) = serde_json::from_str::<Value>(&line?) else { continue };
        rights.take(&event);
    }
    Ok(rights)
}

fn granted(part: &str, rule: &Value) -> Vec<Deed> {
    let texts = |field: &str| -> Vec<String> {
        rule[field].as_array().into_iter().flatten().filter_map(|text| text.as_str().map(str::to_owned)).collect()
    };
    let (groups, resources, verbs) = (texts("apiGroups"), texts("resources"), texts("verbs"));
    let resources = resources.iter().flat_map(|resource| groups.iter().map(move |group| full_name(resource, group)));
    resources
        .flat_map(|resource| verbs.iter().map(move |verb| Deed { part: part.into(), verb: verb.clone(), resource: resource.clone() }))
        .collect()
}

fn full_name(resource: &str, group: &str) -> String {
    if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") }
}

impl Rights {
    fn take(&mut self, event: &Value) {
        let part = event["user"]["username"].as_str().unwrap_or_default().rsplit("azure-vnet-").next().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let verb = text(&event["verb"]);
        if event["responseStatus"]["code"] == 403 {
            self.refused.insert(format!("{part}: {verb} {}: {}", text(&event["requestURI"]), text(&event["responseStatus"]["message"])));
        }
        let object = &event["objectRef"];
        let Some(resource) = object["resource"].as_str() else { return };
        let whole = match object["subresource"].as_str() {
            Some(part) => format!("{resource}/{part}"),
            None => resource.to_owned(),
        };
        let resource = full_name(&whole, &text(&object["apiGroup"]));
        self.used.insert(Deed { part: part.to_owned(), verb, resource });
    }

    /// What is granted and was never used.
    #[must_use]
    pub fn idle(&self) -> BTreeSet<(&str, &str, &str)> {
        self.granted.difference(&self.used).map(|deed| (&*deed.part, &*deed.verb, &*deed.resource)).collect()
    }
}
