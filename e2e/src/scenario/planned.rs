//! What is only thought of: mode `Plan` shows in the objects what `Enforce` would send, and sends nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::{Cluster, wait_for};
use crate::lab::api;

/// What each node's object says would be sent: names of IP configurations, by node.
pub type Planned = BTreeMap<String, Vec<String>>;

/// Waits until every node's object shows a request that would give it as many addresses as `counts` says; nothing may have been sent.
///
/// # Errors
/// If the objects do not show that in time, or Azure was written to.
pub fn planned(cluster: &Cluster, counts: &[(&str, usize)], deadline: Duration) -> Result<Planned> {
    let found = wait_for("the plans of all nodes", deadline, || {
        let plans = plans(cluster)?;
        let found: Vec<(&str, usize)> = plans.iter().map(|(node, plan)| (node.as_str(), names(plan).len())).collect();
        Ok(if found == counts { Ok(plans) } else { Err(format!("{found:?}")) })
    })?;
    for (node, plan) in &found {
        let (request, etag) = (plan["request"].as_str().unwrap_or_default(), plan["ifMatch"].as_str().unwrap_or_default());
        ensure!(request.starts_with("PUT /subscriptions/") && request.contains("api-version="), "{node}: {request}");
        ensure!(!etag.is_empty(), "{node}: a request without a condition");
    }
    let total: usize = counts.iter().map(|(_, count)| count).sum();
    let expected = json!({"nodes": counts.len(), "add": total});
    wait_for("the config's count of plans", deadline, || {
        let plan = cluster.read(&format!("{}/default", api::CONFIGS))?["status"]["plan"].clone();
        let same = ["nodes", "add"].iter().all(|key| plan[key] == expected[key]);
        Ok(if same { Ok(()) } else { Err(format!("{plan} is not {expected}")) })
    })?;
    let writes = cluster.azure(async |azure| azure.writes().await)?;
    ensure!(writes.is_empty(), "nothing is sent while the mode is Plan: {writes:?}");
    Ok(found.iter().map(|(node, plan)| (node.clone(), names(plan))).collect())
}

/// Sets the mode to `Enforce`, and waits until Azure has taken just what was planned.
///
/// # Errors
/// If Azure took something else, or nothing in time.
pub fn enforce(cluster: &Cluster, planned: &Planned, deadline: Duration) -> Result<()> {
    cluster.kubectl(&["patch", "avc", "default", "--type=merge", "-p", r#"{"spec":{"mode":"Enforce"}}"#])?;
    let sent = wait_for("a write to each NIC", deadline, || {
        let writes = cluster.azure(async |azure| azure.writes().await)?;
        let sent: Planned = writes.iter().filter_map(|write| Some((write.node.clone()?, write.added.clone()))).collect();
        Ok(if writes.len() >= planned.len() { Ok(sent) } else { Err(format!("{writes:?}")) })
    })?;
    ensure!(sent == *planned, "planned was {planned:?}, sent {sent:?}");
    Ok(())
}

fn plans(cluster: &Cluster) -> Result<BTreeMap<String, Value>> {
    let list = cluster.read(api::VNET_NODES)?;
    let items = list["items"].as_array().context("a list has items")?;
    let plan = |item: &Value| {
        let plan = item["status"]["cloud"]["plan"].clone();
        plan.is_object().then_some(())?;
        Some((item["metadata"]["name"].as_str()?.to_owned(), plan))
    };
    Ok(items.iter().filter_map(plan).collect())
}

fn names(plan: &Value) -> Vec<String> {
    plan["add"].as_array().into_iter().flatten().filter_map(|name| name.as_str().map(str::to_owned)).collect()
}
