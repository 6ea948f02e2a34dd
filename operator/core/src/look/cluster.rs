//! `status`: the cluster at a glance.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde::Serialize;

use super::{
    Bar, Cluster, Counts, Table, ago, condition, is_good, last_segment, name,
    node::{NodeRow, carried},
    nodes, number,
};

/// How many lines of each list the text shows; the serialised forms have all.
const SHOWN: usize = 10;

/// The cluster at a glance.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Overview {
    /// When it was read.
    pub at: Timestamp,
    /// Configs, by name.
    pub configs: Vec<ConfigRow>,
    /// Nodes by state.
    pub nodes: Tally,
    /// Addresses over all nodes.
    pub addresses: Counts,
    /// Subnets that nodes are in.
    pub subnets: Vec<SubnetRow>,
    /// Nodes, the least free first.
    pub tightest: Vec<NodeRow>,
    /// What stands in the way, with its remedy.
    pub problems: Vec<Problem>,
}

/// One config.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigRow {
    /// Its name.
    pub name: String,
    /// Enforce, Plan or Paused.
    pub mode: String,
    /// Nodes that it counts for.
    pub nodes: u32,
}

/// Nodes by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Tally {
    /// All Nodes.
    pub all: u32,
    /// With a pool that pods can use.
    pub ready: u32,
    /// With fewer addresses than they should have.
    pub short: u32,
    /// At the most that they may have.
    pub at_capacity: u32,
    /// Without a pool.
    pub not_served: u32,
}

/// One subnet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SubnetRow {
    /// Its name.
    pub name: String,
    /// Its Azure resource id.
    pub id: String,
    /// Its prefix.
    pub prefix: String,
    /// Our nodes in it.
    pub nodes: u32,
    /// Addresses of these nodes and their pods.
    pub ours: u32,
    /// What Azure lets one use of it, where that is known.
    pub size: Option<u32>,
    /// What of it is left, by Azure's count.
    pub left: Option<u32>,
    /// Addresses that its nodes lack beyond what is left.
    pub needs: u32,
    /// How many more nodes of the present average size fit.
    pub room_for_nodes: Option<u32>,
}

/// One thing that stands in the way.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// Of what: `node aks-1`.
    pub of: String,
    /// The condition and its reason.
    pub what: String,
    /// What it says, the remedy included.
    pub message: String,
    /// Since when.
    pub since: Option<Timestamp>,
}

/// Sums a cluster up.
#[must_use]
pub fn overview(cluster: &Cluster) -> Overview {
    let rows = nodes(cluster);
    let mut tightest: Vec<NodeRow> = rows.iter().filter(|row| row.config.is_some()).cloned().collect();
    tightest.sort_by_key(|row| (row.counts.free, row.name.clone()));
    Overview {
        at: cluster.at,
        configs: configs(cluster),
        nodes: tally(cluster, &rows),
        addresses: cluster.pools.iter().map(Counts::of).fold(Counts::default(), Counts::add),
        subnets: subnets(cluster),
        tightest,
        problems: problems(cluster),
    }
}

fn configs(cluster: &Cluster) -> Vec<ConfigRow> {
    let chosen: Vec<&str> =
        cluster.machines.iter().filter_map(|machine| cluster.config(machine)).map(|config| name(&config.metadata)).collect();
    let row = |config: &azure_vnet_crds::AzureVnetConfig| ConfigRow {
        name: name(&config.metadata).to_owned(),
        mode: format!("{:?}", config.spec.mode),
        nodes: number(chosen.iter().filter(|chosen| **chosen == name(&config.metadata)).count()),
    };
    cluster.configs.iter().map(row).collect()
}

fn tally(cluster: &Cluster, rows: &[NodeRow]) -> Tally {
    let is = |kind: &str| {
        let with = |pool: &&azure_vnet_crds::AzureVnetNode| {
            pool.status.as_ref().is_some_and(|status| status.conditions.iter().any(|found| found.type_ == kind && found.status == "True"))
        };
        number(cluster.pools.iter().filter(with).count())
    };
    Tally {
        all: number(cluster.machines.len()),
        ready: is("Ready"),
        short: is("InDeficit"),
        at_capacity: is("AtCapacity"),
        not_served: number(rows.iter().filter(|row| row.config.is_none()).count()),
    }
}

fn subnets(cluster: &Cluster) -> Vec<SubnetRow> {
    let mut found: BTreeMap<String, SubnetRow> = BTreeMap::new();
    for pool in cluster.pools.iter().filter(|pool| !pool.spec.node.subnet_id.is_empty()) {
        let machine = &pool.spec.node;
        let row = found
            .entry(machine.subnet_id.to_ascii_lowercase())
            .or_insert_with(|| subnet(cluster, &machine.subnet_id, &machine.subnet_prefix));
        row.nodes += 1;
        row.ours += 1 + Counts::of(pool).attached;
    }
    found.into_values().collect()
}

/// A subnet without its nodes.
fn subnet(cluster: &Cluster, id: &str, prefix: &str) -> SubnetRow {
    let known = cluster.subnet(id).and_then(|subnet| subnet.status.clone()).unwrap_or_default();
    SubnetRow {
        name: last_segment(id).to_owned(),
        id: id.to_owned(),
        prefix: if known.prefixes.is_empty() { prefix.to_owned() } else { known.prefixes.join(", ") },
        nodes: 0,
        ours: 0,
        size: cluster.size_of(id, prefix),
        left: known.free,
        needs: known.needs,
        room_for_nodes: known.room_for_nodes,
    }
}

fn problems(cluster: &Cluster) -> Vec<Problem> {
    let of_configs = cluster.configs.iter().flat_map(|config| {
        let conditions = config.status.iter().flat_map(|status| &status.conditions);
        conditions.map(move |found| ("config", name(&config.metadata), found))
    });
    let of_nodes = cluster.pools.iter().flat_map(|pool| {
        let conditions = pool.status.iter().flat_map(|status| &status.conditions);
        // A shortage that keeps the node from being ready is told as that.
        let unready = pool.status.iter().find_map(|status| condition(&status.conditions, "Ready")).filter(|ready| !is_good(ready));
        let told = move |found: &&Condition| found.type_ == "Ready" || unready.is_none_or(|ready| ready.reason != found.reason);
        conditions.filter(told).map(move |found| ("node", name(&pool.metadata), found))
    });
    let of_subnets = cluster.subnets.iter().flat_map(|subnet| {
        let conditions = subnet.status.iter().flat_map(|status| &status.conditions);
        conditions.map(|found| ("subnet", last_segment(&subnet.spec.subnet_id), found))
    });
    // A pool that is growing is at work, not in trouble.
    let bad = of_configs.chain(of_nodes).chain(of_subnets).filter(|(_, _, found)| !is_good(found) && found.reason != "Filling");
    let mut problems: Vec<Problem> = bad
        .map(|(kind, name, found)| Problem {
            of: format!("{kind} {name}"),
            what: format!("{} {}", found.type_, found.reason),
            message: found.message.clone(),
            since: Some(found.last_transition_time.0),
        })
        .collect();
    for pool in cluster.pools.iter().filter(|pool| !pool.spec.lost.is_empty()) {
        let lost: Vec<String> = pool.spec.lost.iter().map(|at| carried(*at)).collect();
        problems.push(Problem {
            of: format!("node {}", name(&pool.metadata)),
            what: "Lost addresses".into(),
            message: format!("{} vanished from the NIC: delete the pods that have them, and find out who changed the NIC", lost.join(", ")),
            since: None,
        });
    }
    problems.sort();
    problems
}

impl fmt::Display for Overview {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let configs: Vec<String> = self.configs.iter().map(|row| format!("{} ({}, {} nodes)", row.name, row.mode, row.nodes)).collect();
        let configs = if configs.is_empty() { "none: no node is served until there is one".into() } else { configs.join(", ") };
        let Tally { all, ready, short, at_capacity, not_served } = self.nodes;
        let Counts { attached, target, used, free, cooling, leaving, lost } = self.addresses;
        writeln!(f, "configs    {configs}")?;
        writeln!(f, "nodes      {all}: {ready} ready, {short} short of addresses, {at_capacity} at capacity, {not_served} not served")?;
        writeln!(f, "addresses  {}", Bar { used, resting: cooling + leaving, of: attached, width: 40 })?;
        writeln!(
            f,
            "           {attached} attached (target {target}): {used} used, {cooling} resting, {leaving} leaving, {free} free, {lost} lost"
        )?;
        if !self.subnets.is_empty() {
            let mut table = Table::new(&["SUBNET", "PREFIX", "NODES", "OURS", "OF", "LEFT", "NEEDS", ""]);
            for row in self.subnets.iter().take(SHOWN) {
                let used = row.left.zip(row.size).map_or(row.ours, |(left, size)| size.saturating_sub(left)).max(row.ours);
                let bar = Bar { used: row.ours, resting: used - row.ours, of: row.size.unwrap_or(used), width: 20 };
                let known = |number: Option<u32>| number.map_or_else(|| "?".to_owned(), |number| number.to_string());
                table.row([
                    row.name.clone(),
                    row.prefix.clone(),
                    row.nodes.to_string(),
                    row.ours.to_string(),
                    known(row.size),
                    known(row.left),
                    if row.needs == 0 { "-".to_owned() } else { format!("{} more", row.needs) },
                    bar.to_string(),
                ]);
            }
            write!(f, "\n{table}{}", more(self.subnets.len()))?;
        }
        if !self.tightest.is_empty() {
            write!(f, "\n{}{}", super::node::table(self.tightest.iter().take(SHOWN)), more(self.tightest.len()))?;
        }
        let mut told = BTreeSet::new();
        for problem in &self.problems {
            if told.len() == SHOWN {
                break;
            }
            if told.insert((&problem.what, &problem.message)) {
                let alike = self.problems.iter().filter(|other| other.what == problem.what && other.message == problem.message).count();
                let others = if alike > 1 { format!(" and {} more", alike - 1) } else { String::new() };
                let since = problem.since.map(|since| format!(" for {}", ago(since, self.at))).unwrap_or_default();
                write!(f, "\n✗ {}{others}: {}{since}\n  {}\n", problem.of, problem.what, problem.message)?;
            }
        }
        if self.problems.is_empty() && !self.configs.is_empty() {
            writeln!(f, "\n✓ nothing stands in the way")?;
        }
        Ok(())
    }
}

fn more(all: usize) -> String {
    if all > SHOWN { format!("… and {} more\n", all - SHOWN) } else { String::new() }
}
