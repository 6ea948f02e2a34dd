//! `preflight`: whether a cluster is one that can be served, and what stands in the way.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use azure_vnet_crds::{
    AzureVnetNode, STARTUP_TAINT,
    config::PreflightFinding,
    node::{MachineKind, SlotAddress},
};
use serde::Serialize;
use serde_json::Value;

use super::{Cluster, Machine, condition, last_segment, name, policy, text::plural};
use crate::{declared::OUTDATED, policy::Policy, provider::ProviderId};

/// How many nodes a line names.
const NAMED: usize = 5;

/// What was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Preflight {
    /// In the order in which one would look.
    pub checks: Vec<Check>,
}

/// One thing looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    /// What it is about.
    pub name: &'static str,
    /// How it looks.
    pub verdict: Verdict,
    /// What was found, and the remedy.
    pub found: String,
}

/// How something looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// Good.
    Good,
    /// It works, but not as well as it might.
    Warning,
    /// Pods will not start.
    Bad,
}

impl Preflight {
    /// Whether nothing keeps pods from starting.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.checks.iter().all(|check| check.verdict != Verdict::Bad)
    }
}

/// Looks at a cluster.
#[must_use]
pub fn preflight(cluster: &Cluster) -> Preflight {
    let checks = [version, definitions, configs, machines, other_plugin, taint, sizing, subnets, network, rights, parts, blocks];
    Preflight { checks: checks.iter().map(|check| check(cluster)).collect() }
}

fn good(name: &'static str, found: impl Into<String>) -> Check {
    Check { name, verdict: Verdict::Good, found: found.into() }
}

fn warning(name: &'static str, found: impl Into<String>) -> Check {
    Check { name, verdict: Verdict::Warning, found: found.into() }
}

fn bad(name: &'static str, found: impl Into<String>) -> Check {
    Check { name, verdict: Verdict::Bad, found: found.into() }
}

fn version(cluster: &Cluster) -> Check {
    let name = "Kubernetes";
    let minor = cluster.version.trim_start_matches('v').split('.').nth(1);
    let minor: u32 =
        minor.map(|text| text.chars().take_while(char::is_ascii_digit).collect::<String>()).unwrap_or_default().parse().unwrap_or(0);
    match minor {
        0 => warning(name, format!("the version {:?} cannot be read: 1.31 or newer is needed", cluster.version)),
        1..31 => bad(name, format!("{}: the agents' admission policy needs 1.31 or newer; upgrade the cluster", cluster.version)),
        31.. => good(name, cluster.version.clone()),
    }
}

fn configs(cluster: &Cluster) -> Check {
    let title = "configs";
    if cluster.configs.is_empty() {
        return bad(title, "there is no AzureVnetConfig: no node is served. Apply one, or install the chart with config.create");
    }
    if let Some(error) = cluster.configs.iter().find_map(|config| Policy::of(config).err()) {
        return bad(title, error.to_string());
    }
    let mut seen: BTreeMap<(u16, String), &str> = BTreeMap::new();
    for config in &cluster.configs {
        let selector = serde_json::to_string(&config.spec.node_selector).unwrap_or_default();
        if let Some(other) = seen.insert((config.spec.priority, selector), name(&config.metadata)) {
            let found = format!(
                "{other} and {} select the same nodes with the same priority: the older counts; remove one",
                name(&config.metadata)
            );
            return warning(title, found);
        }
    }
    good(title, cluster.configs.iter().map(|config| name(&config.metadata)).collect::<Vec<_>>().join(", "))
}

fn machines(cluster: &Cluster) -> Check {
    let title = "nodes";
    let windows = cluster.machines.iter().filter(|machine| machine.os == "windows").count();
    let foreign: Vec<&str> = cluster
        .machines
        .iter()
        .filter(|machine| machine.os != "windows" && machine.provider_id.parse::<ProviderId>().is_err())
        .map(|machine| machine.name.as_str())
        .collect();
    if cluster.machines.is_empty() {
        return bad(title, "the cluster has none");
    }
    if foreign.len() + windows == cluster.machines.len() {
        return bad(
            title,
            "no Node's providerID names an Azure machine: the controller finds NICs by it, and Azure's cloud provider sets it",
        );
    }
    if !foreign.is_empty() {
        return warning(title, format!("no Azure machine by their providerID, and not served: {}", foreign.join(", ")));
    }
    match windows {
        0 => good(title, plural(cluster.machines.len(), "Azure machine")),
        _ => warning(title, format!("{} with Windows, not served", plural(windows, "node"))),
    }
}

/// A node that is ready without us has another network plugin.
fn other_plugin(cluster: &Cluster) -> Check {
    let title = "network plugin";
    let ours = |machine: &str| {
        let pool = cluster.pool(machine).and_then(|pool| pool.status.as_ref());
        pool.is_some_and(|status| status.agent.as_ref().is_some_and(|agent| agent.ready))
    };
    let others: Vec<&str> = cluster
        .machines
        .iter()
        .filter(|machine| machine.ready == "True" && machine.os != "windows" && !ours(&machine.name))
        .map(|machine| machine.name.as_str())
        .collect();
    match others.as_slice() {
        [] => good(title, "none but ours"),
        [first, ..] => warning(
            title,
            format!(
                "{} of {} nodes, {first} among them, are Ready though we have not made them so: another network plugin is there; on AKS create the \
                 cluster with --network-plugin none, else see docs/migrate.md",
                others.len(),
                cluster.machines.len()
            ),
        ),
    }
}

fn taint(cluster: &Cluster) -> Check {
    let title = "start-up taint";
    let keys: Vec<&str> = cluster.configs.iter().map(|config| config.spec.readiness.startup_taint.as_str()).collect();
    let key = keys.first().copied().unwrap_or(STARTUP_TAINT);
    let stuck: Vec<&str> = cluster
        .machines
        .iter()
        .filter(|machine| machine.taints.iter().any(|taint| keys.contains(&taint.as_str())))
        .filter(|machine| {
            let status = cluster.pool(&machine.name).and_then(|pool| pool.status.as_ref());
            status.and_then(|status| status.agent.as_ref()).is_some_and(|agent| agent.ready)
        })
        .map(|machine| machine.name.as_str())
        .collect();
    match stuck.as_slice() {
        [] => good(title, format!("{key}: on no node that is ready; make it a node initialization taint of every node pool")),
        stuck => warning(
            title,
            format!(
                "{key} is still on {} though the agent is ready: an ordinary node taint is put back for ever, use an initialization taint",
                stuck.join(", ")
            ),
        ),
    }
}

/// A version that does not know blocks cannot read an object that names one: whoever wants to go back to it has to see whether any does.
fn blocks(cluster: &Cluster) -> Check {
    let names_one = |pool: &&AzureVnetNode| serde_json::to_value(pool).is_ok_and(|object| names_block(&object));
    let found: Vec<&str> = cluster.pools.iter().filter(names_one).map(|pool| name(&pool.metadata)).collect();
    match found.as_slice() {
        [] => good("blocks", "no node has a /28"),
        found => {
            let named = found.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
            let more = if found.len() > NAMED { " and others" } else { "" };
            let found = plural(found.len(), "node");
            good(
                "blocks",
                format!(
                    "{found} with a /28: {named}{more}. A version without blocks cannot read them: before you go back to one, see docs/upgrade.md"
                ),
            )
        }
    }
}

/// Whether anything of an object is a block, or asks for one.
fn names_block(part: &Value) -> bool {
    match part {
        Value::String(text) => text == "Block28" || text.parse::<SlotAddress>().is_ok_and(|at| !at.unit.is_address()),
        Value::Array(items) => items.iter().any(names_block),
        Value::Object(members) => members.values().any(names_block),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// The most addresses that a node's pods can have.
fn most(cluster: &Cluster, machine: &Machine) -> Option<u16> {
    let (policy, _) = policy(cluster.config(machine)?, machine).ok()?;
    let kind = cluster.pool(&machine.name).map_or(MachineKind::Unknown, |pool| pool.spec.node.kind);
    Some(policy.unit_on(kind).whole(policy.pool.most()))
}

fn sizing(cluster: &Cluster) -> Check {
    let title = "pods per node";
    let tight = cluster.machines.iter().find_map(|machine| {
        let (config, most) = (cluster.config(machine)?, most(cluster, machine)?);
        (machine.max_pods > most).then(|| (machine, name(&config.metadata), most))
    });
    match tight {
        None => good(title, "the kubelets' limit is never above the pool's"),
        Some((machine, config, most)) => warning(
            title,
            format!(
                "{} takes {} pods and its pool at most {most} addresses (config {config}): pods beyond wait. Raise pool.max (255 at most), or lower \
                 the kubelet's maxPods; pods on the host's network need none",
                machine.name, machine.max_pods
            ),
        ),
    }
}

fn subnets(cluster: &Cluster) -> Check {
    let title = "subnets";
    let mut needs: BTreeMap<(&str, &str), u32> = BTreeMap::new();
    for pool in &cluster.pools {
        let node = &pool.spec.node;
        if node.subnet_id.is_empty() {
            continue;
        }
        let most = cluster.machine(name(&pool.metadata)).and_then(|machine| most(cluster, machine));
        *needs.entry((&node.subnet_id, &node.subnet_prefix)).or_default() += 1 + most.map_or(0, u32::from);
    }
    let worst =
        needs.iter().find_map(|((id, prefix), need)| Some((id, prefix, need, cluster.size_of(id, prefix).filter(|size| need > size)?)));
    match (worst, needs.is_empty()) {
        (Some((id, prefix, need, size)), _) => warning(
            title,
            format!(
                "if every node filled its pool, {} ({prefix}) would need {need} addresses and has {size}: enlarge it, use more subnets, or lower pool.max",
                last_segment(id),
            ),
        ),
        (None, true) => good(title, "not known before the first node is served"),
        (None, false) => good(title, "large enough for every node's whole pool"),
    }
}

/// The CRDs, as the controller sees them: which fields it writes depends on its version and not on that of whoever looks.
fn definitions(cluster: &Cluster) -> Check {
    told("CRDs", cluster, "the controller misses nothing in them", |found| found.reason == OUTDATED)
}

/// What the controller found about the nodes' network.
fn network(cluster: &Cluster) -> Check {
    told("network", cluster, "nothing about it is in the way", |found| found.scope.is_empty() && found.reason != OUTDATED)
}

/// What the controller found of one sort, or that it has not looked yet.
fn told(title: &'static str, cluster: &Cluster, well: &str, sort: impl Fn(&PreflightFinding) -> bool) -> Check {
    let found = findings(cluster, sort);
    let mut status = cluster.configs.iter().filter_map(|config| config.status.as_ref());
    let looked = status.any(|status| condition(&status.conditions, "PreflightPassed").is_some());
    match (found.is_empty(), looked) {
        (false, _) => warning(title, found),
        (true, true) => good(title, well),
        (true, false) => good(title, "not known before the controller has looked"),
    }
}

/// What the controller found of one sort, in the words of its configs' status: each once.
fn findings(cluster: &Cluster, sort: impl Fn(&PreflightFinding) -> bool) -> String {
    let all = cluster.configs.iter().filter_map(|config| config.status.as_ref()).flat_map(|status| &status.preflight);
    let found: BTreeSet<&str> = all.filter(|found| sort(found)).map(|found| found.message.as_str()).collect();
    found.into_iter().collect::<Vec<_>>().join(". ")
}

fn rights(cluster: &Cluster) -> Check {
    let title = "rights in Azure";
    let of = |kind: &str| {
        let status = cluster.configs.iter().filter_map(|config| config.status.as_ref());
        status.filter_map(|status| condition(&status.conditions, kind)).find(|found| found.status == "False").cloned()
    };
    let refused = of("CredentialsValid").or_else(|| of("PermissionsOk"));
    let mut writable = cluster.pools.iter().filter_map(|pool| condition(&pool.status.as_ref()?.conditions, "NicWritable"));
    let refused = refused.or_else(|| writable.find(|found| found.status == "False").cloned());
    let minor = findings(cluster, |found| !found.scope.is_empty());
    match refused {
        Some(found) => bad(title, format!("{}: {}", found.reason, found.message)),
        None if !minor.is_empty() => warning(title, minor),
        None if cluster.pools.iter().any(|pool| pool.spec.revision > 0) => good(title, "Azure takes the controller's writes"),
        None => good(title, "not known before the controller has written"),
    }
}

fn parts(cluster: &Cluster) -> Check {
    let title = "controller and agents";
    let of = |component: &str| {
        let labelled = |pod: &&super::Pod| {
            pod.labels.get("app.kubernetes.io/component").map(String::as_str) == Some(component)
                && pod.labels.get("app.kubernetes.io/name").map(String::as_str) == Some("azure-vnet")
        };
        let all: Vec<&super::Pod> = cluster.pods.iter().filter(labelled).collect();
        (all.iter().filter(|pod| pod.phase == "Running").count(), all.len())
    };
    let ((controllers, wanted), (agents, nodes)) = (of("controller"), of("agent"));
    let found = format!("{controllers} of {wanted} controllers and {agents} of {nodes} agents run");
    match (wanted, controllers) {
        (0, _) => warning(title, "not installed yet, or with other labels than the chart's"),
        (_, 0) => bad(title, format!("{found}: kubectl describe the pods; each controller needs a node with its metrics port free")),
        _ if agents < nodes || controllers < wanted => warning(title, found),
        _ => good(title, found),
    }
}

impl fmt::Display for Preflight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for check in &self.checks {
            let sign = match check.verdict {
                Verdict::Good => '✓',
                Verdict::Warning => '!',
                Verdict::Bad => '✗',
            };
            writeln!(f, "{sign} {:<22} {}", check.name, check.found)?;
        }
        Ok(())
    }
}
