//! What the agent counts.

use azure_vnet_operator_core::command_log::Command;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use super::{
    host::Kept,
    keep::{Node, Outcome},
    problems::Topic,
};

/// Of one node; cloning shares.
#[derive(Clone)]
pub struct Metrics {
    /// Attached addresses that pods do not get, since the node's metadata does not show them.
    pub withheld: Gauge,
    /// The node's addresses, by state.
    pub addresses: Family<State, Gauge>,
    /// Pods whose ADD found no free address lately.
    pub waiting: Gauge,
    /// Addresses held for pods that are gone.
    pub leaked: Gauge,
    /// Conditions of the agent's, 1 for True.
    pub conditions: Family<Type, Gauge>,
    /// What was set back, by kind.
    pub repaired: Family<Kind, Counter>,
    /// What another program keeps changing.
    pub contested: Gauge,
    /// Rules of others that decide about pods before ours.
    pub foreign_rules: Gauge,
    /// The plugin's commands, by how they ended.
    pub commands: Family<Ended, Counter>,
    /// How long they took.
    pub took: Family<Name, Histogram, fn() -> Histogram>,
}

/// State of an address.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct State {
    /// assigned, free, cooling or quarantined.
    pub state: &'static str,
}

/// A condition.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Type {
    /// Its type.
    pub condition: &'static str,
}

/// What was set back.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Kind {
    /// See [`Kept::name`].
    pub kind: &'static str,
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Ended {
    /// ADD, DEL, CHECK, GC, STATUS, VERSION or other.
    pub command: &'static str,
    /// 0, or the error's code.
    pub code: u32,
}

/// A command.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Name {
    /// As in [`Ended`].
    pub command: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        // Few: every node has them for every command.
        let seconds: fn() -> Histogram = || Histogram::new([0.001, 0.003, 0.01, 0.03, 0.1, 1.0, 10.0]);
        Self {
            withheld: Gauge::default(),
            addresses: Family::default(),
            waiting: Gauge::default(),
            leaked: Gauge::default(),
            conditions: Family::default(),
            repaired: Family::default(),
            contested: Gauge::default(),
            foreign_rules: Gauge::default(),
            commands: Family::default(),
            took: Family::new_with_constructor(seconds),
        }
    }
}

impl Metrics {
    /// Adds them to a registry.
    pub fn register(&self, registry: &mut Registry) {
        let Self { withheld, addresses, waiting, leaked, conditions, repaired, contested, foreign_rules, commands, took } = self.clone();
        registry.register(
            "withheld_addresses",
            "Attached addresses that pods do not get, since the node's metadata does not show them",
            withheld,
        );
        registry.register("node_addresses", "The node's addresses, by state", addresses);
        registry.register("waiting_adds", "Pods whose ADD found no free address within the last minute", waiting);
        registry.register("leaked_addresses", "Addresses held for pods that the API server has lacked for a minute", leaked);
        registry.register("node_condition", "The agent's conditions: 1 for True, 0 for False", conditions);
        registry.register("repaired", "What another program changed and the agent set back, by kind", repaired);
        registry.register("contested", "Things that another program keeps changing", contested);
        registry.register("foreign_rules", "Rules of other programs that decide about pods before ours do", foreign_rules);
        registry.register("cni_commands", "Commands of the plugin since the agent's start, by code: 0 for success", commands);
        registry.register("cni_duration_seconds", "How long the plugin's commands took", took);
    }

    /// Takes over what a look at the node found.
    pub fn look(&self, node: &mut Node, outcome: &Outcome) {
        self.withheld.set(number(outcome.withheld));
        self.waiting.set(number(outcome.waiting));
        self.leaked.set(number(outcome.leaked));
        self.contested.set(number(node.host.contested().len()));
        self.foreign_rules.set(number(node.host.foreign_rules()));
        for (topic, condition, _) in Topic::ALL {
            self.conditions.get_or_create(&Type { condition }).set(i64::from(node.said.none(topic)));
        }
        for kept in Kept::ALL {
            let counter = self.repaired.get_or_create(&Kind { kind: kept.name() });
            counter.inc_by(node.host.repairs.get(&kept).copied().unwrap_or_default().saturating_sub(counter.get()));
        }
        let Some(report) = &outcome.report else { return };
        let counts = &report.agent.counts;
        let states =
            [("assigned", counts.assigned), ("free", counts.free), ("cooling", counts.cooling), ("quarantined", counts.quarantined)];
        for (state, count) in states {
            self.addresses.get_or_create(&State { state }).set(count.into());
        }
    }

    /// Counts commands.
    pub fn ran(&self, commands: &[Command]) {
        for Command { name: command, code, took } in commands {
            self.commands.get_or_create(&Ended { command, code: *code }).inc();
            self.took.get_or_create(&Name { command }).observe(took.as_secs_f64());
        }
    }
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
