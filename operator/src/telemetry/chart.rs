//! The chart's alerts and dashboard, and the users' documents, name only metrics that there are.

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use super::Telemetry;
use crate::{
    agent::metrics as agent,
    azure::{budget::Class, meter::Meter},
    controller::metrics::{AddressState, Metrics, NodeState, Outcome, Reason, SubnetName, WriteOutcome},
};

fn is_name(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'
}

/// Every word of a text that begins as our metrics do.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !is_name(c));
    words.filter(|word| word.starts_with("azure_vnet_") || word.starts_with("process_")).map(str::to_owned).collect()
}

/// What the registries of all parts print, once each has something to print. Whoever adds a metric adds it here: the structure is taken apart.
fn exported() -> BTreeSet<String> {
    let telemetry = Telemetry::default();
    let metrics = Metrics::default();
    telemetry.register(|registry| metrics.register(registry));
    let of_agent = agent::Metrics::default();
    telemetry.register(|registry| of_agent.register(registry));
    let agent::Metrics {
        withheld: _,
        addresses: of_node,
        waiting: _,
        leaked: _,
        conditions,
        repaired,
        contested: _,
        foreign_rules: _,
        commands,
        took,
    } = of_agent;
    drop(of_node.get_or_create(&agent::State { state: "free" }));
    drop(conditions.get_or_create(&agent::Type { condition: "StoreHealthy" }));
    drop(repaired.get_or_create(&agent::Kind { kind: "rules" }));
    drop(commands.get_or_create(&agent::Ended { command: "ADD", code: 0 }));
    drop(took.get_or_create(&agent::Name { command: "ADD" }));
    let Metrics {
        leader: _,
        read_nics: _,
        passes,
        writes,
        addresses,
        lost: _,
        deficit: _,
        subnet_free,
        subnet_needs,
        subnet_eta,
        told,
        nodes,
        oldest_intent: _,
        doubles: _,
        fills: _,
    } = metrics;
    drop(nodes.get_or_create(&NodeState { state: "ready" }));
    drop(passes.get_or_create(&Outcome { outcome: "ok" }));
    drop(writes.get_or_create(&WriteOutcome { direction: "add", outcome: "ok" }));
    drop(addresses.get_or_create(&AddressState { state: "free" }));
    for family in [subnet_free, subnet_needs, subnet_eta] {
        drop(family.get_or_create(&SubnetName { subnet: "s".into() }));
    }
    drop(told.get_or_create(&Reason { reason: "Filled" }));
    let meter = Meter::default();
    telemetry.register(|registry| meter.register(registry));
    meter.request("read", None, Duration::ZERO);
    meter.waited("s", &[Class::ArmRead], Duration::ZERO);
    meter.throttled("s", &[Class::ArmRead]);
    meter.level("s", Class::ArmRead, 1);
    let text = telemetry.metrics();
    let described = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let series = |(name, kind): (&str, &str)| match kind {
        "counter" => vec![format!("{name}_total")],
        "histogram" => ["", "_bucket", "_count", "_sum"].map(|part| format!("{name}{part}")).into(),
        _ => vec![name.to_owned()],
    };
    described.flat_map(series).collect()
}

#[test]
fn alerts_dashboard_and_documents_name_only_metrics_that_there_are() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let exported = exported();
    for file in ["charts/azure-vnet/files/alerts.yaml", "charts/azure-vnet/files/dashboard.json", "docs/metrics.md"] {
        let named = named(&fs::read_to_string(root.join(file)).unwrap());
        let unknown: Vec<_> = named.difference(&exported).collect();
        assert!(!named.is_empty() && unknown.is_empty(), "{file} names {unknown:?}; there are {exported:?}");
    }
    let explained = named(&fs::read_to_string(root.join("docs/metrics.md")).unwrap());
    let left_out = |name: &&String| !["_bucket", "_count", "_sum"].iter().any(|part| name.ends_with(part)) && !explained.contains(*name);
    assert_eq!(exported.iter().filter(left_out).collect::<Vec<_>>(), Vec::<&String>::new(), "docs/metrics.md explains every metric");
}

#[test]
fn every_alert_is_explained() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let alerts = fs::read_to_string(root.join("charts/azure-vnet/files/alerts.yaml")).unwrap();
    let document = fs::read_to_string(root.join("docs/metrics.md")).unwrap();
    let names: Vec<&str> = alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(names.len() >= 12);
    assert_eq!(names.iter().filter(|name| !document.contains(*name)).collect::<Vec<_>>(), Vec::<&&str>::new());
}
