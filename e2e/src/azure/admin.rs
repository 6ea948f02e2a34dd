//! Carries out the commands of the admin API.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};

use super::answer::{Answer, Context, Request};
use super::cloud::{Cloud, FOREIGN};
use super::command::{Command, ConfigState, NicState, Reply};
use super::error::{ArmError, put};
use super::path::{ArmPath, key};
use super::resource::{IpConfig, Nic, Shape};

impl Cloud {
    /// `POST /` with a command, or `GET /<name of a query>`.
    pub fn admin(&mut self, request: &Request) -> Answer {
        let command = match request.method.as_str() {
            "GET" => {
                let since = request.query("since").and_then(|since| since.parse::<u64>().ok()).unwrap_or_default();
                serde_json::from_value(json!({ "command": request.path.trim_matches('/'), "since": since }))
            }
            _ => serde_json::from_slice(&request.body),
        };
        match command.map_err(|error| error.to_string()).and_then(|command| self.command(command)) {
            Ok(value) => Answer::json(200, value),
            Err(error) => Answer::json(400, json!({ "error": error })),
        }
    }

    pub fn command(&mut self, command: Command) -> Reply {
        match command {
            Command::Nics => reply(&self.nics.values().map(nic_state).collect::<Vec<_>>()),
            Command::Counters => reply(&self.journal.counters),
            Command::Writes => reply(&self.journal.writes),
            Command::Calls { since } => reply(&self.journal.calls_since(since).collect::<Vec<_>>()),
            Command::History => reply(&self.ledger.history()),
            Command::Violations => reply(&self.violations()),
            Command::Disturbances => reply(&self.journal.disturbances),
            Command::Settings => reply(&self.settings),
            Command::Configure { settings } => {
                self.settings = *settings;
                Ok(Value::Null)
            }
            Command::Inject { fault } => {
                self.faults.push(fault);
                Ok(Value::Null)
            }
            Command::Faults => reply(&self.faults),
            Command::ClearFaults => {
                self.faults.clear();
                Ok(Value::Null)
            }
            Command::ForeignDrop { node, config } => self.foreign(&node, |configs| {
                let before = configs.len();
                configs.retain(|other| name_of(other) != Some(&config));
                if configs.len() < before { Ok(()) } else { Err(format!("{node} has no configuration {config}")) }
            }),
            Command::ForeignAdd { node, config } => self.foreign(&node, |configs| {
                let addition = addition(configs, &config);
                configs.push(addition);
                Ok(())
            }),
            Command::AddMachine { machine } => self.plant_machine(&machine).map(|()| Value::Null),
            Command::RemoveMachine { node } => {
                let id = self.machine_of(&node).map(|machine| key(&machine.id)).ok_or_else(|| format!("no machine {node}"))?;
                self.remove_machine(&id);
                Ok(Value::Null)
            }
            Command::SetMachine { node, condition } => {
                let machine =
                    self.machines.values_mut().find(|machine| machine.node == node).ok_or_else(|| format!("no machine {node}"))?;
                machine.condition = condition;
                Ok(Value::Null)
            }
            Command::GrowSubnet { subnet, prefix } => {
                let prefix = prefix.parse().map_err(|error| format!("{prefix}: {error}"))?;
                self.grow_subnet(&subnet, prefix).map(|()| Value::Null)
            }
            Command::RevokeTokens => {
                self.revoke_tokens();
                Ok(Value::Null)
            }
        }
    }

    /// Broken invariants: those noticed as they happened, and those that a look at everything shows.
    fn violations(&self) -> Vec<String> {
        let mut violations = self.ledger.violations().to_vec();
        let mut holders = BTreeMap::new();
        for nic in self.nics.values() {
            for address in nic.configs.iter().chain(&nic.leaving).flat_map(IpConfig::addresses) {
                if let Some(other) = holders.insert(address, &nic.id) {
                    violations.push(format!("{address} is on {other} and on {}", nic.id));
                }
                if self.ledger.holder(address).is_none_or(|tenure| key(&tenure.nic) != key(&nic.id)) {
                    violations.push(format!("{address} is on {} and the ledger does not say so", nic.id));
                }
            }
        }
        violations
    }

    /// Has a foreign writer change the configurations of a node's first NIC, by the same way as anyone else and without `If-Match`.
    fn foreign(&mut self, node: &str, change: impl FnOnce(&mut Vec<Value>) -> Result<(), String>) -> Reply {
        let machine = self.machine_of(node).ok_or_else(|| format!("no machine {node}"))?;
        let context = Context { by: FOREIGN.into(), base: "http://admin".into(), api_version: "2025-05-01".into(), ..Context::default() };
        let broken = |_: ArmError| format!("{node}: no such path");
        let result = match &machine.shape {
            Shape::Instance { model, .. } => {
                let path = ArmPath::parse(&machine.id).ok_or_else(|| format!("{node}: no such path"))?;
                let mut model = model.clone();
                let configs =
                    model.first_mut().and_then(|nic| nic.pointer_mut("/properties/ipConfigurations")).and_then(Value::as_array_mut);
                change(configs.ok_or_else(|| format!("{node} has no configurations"))?)?;
                let body = json!({
                    "location": machine.location, "properties": { "networkProfileConfiguration": { "networkInterfaceConfigurations": model } },
                });
                self.put_instance(&path, &body, &context)
            }
            Shape::Vm { .. } => {
                let nic = machine.nics.first().and_then(|nic| self.nics.get(nic)).ok_or_else(|| format!("{node} has no NIC"))?;
                let path = ArmPath::parse(&nic.id).ok_or_else(|| broken(ArmError::child_not_found(&nic.id)))?;
                let mut body = nic.view();
                let configs = body.pointer_mut("/properties/ipConfigurations").and_then(Value::as_array_mut);
                change(configs.ok_or_else(|| format!("{node} has no configurations"))?)?;
                self.put_nic(&path, &body, &context)
            }
        };
        result.map(|_| Value::Null).map_err(|error| format!("{}: {}", error.code, error.message))
    }
}

fn nic_state(nic: &Nic) -> NicState {
    let configurations = nic.configs.iter().map(|config| ConfigState {
        name: config.name.clone(),
        address: config.address,
        block: config.is_block(),
        primary: config.primary,
        provisioning_state: config.state.name().into(),
    });
    NicState {
        id: nic.id.clone(),
        node: nic.node.clone(),
        provisioning_state: nic.state.name().into(),
        configurations: configurations.collect(),
        attached: nic.attached.clone(),
        shown: nic.shown.clone(),
    }
}

/// A secondary configuration in the subnet and with the application security groups of the first one.
fn addition(configs: &[Value], name: &str) -> Value {
    let like = configs.first().and_then(|config| config.get("properties"));
    let mut properties = json!({});
    for member in ["subnet", "applicationSecurityGroups"] {
        if let Some(value) = like.and_then(|like| like.get(member)) {
            put(&mut properties, member, value.clone());
        }
    }
    json!({ "name": name, "properties": properties })
}

fn name_of(config: &Value) -> Option<&String> {
    match config.get("name") {
        Some(Value::String(name)) => Some(name),
        _ => None,
    }
}

fn reply<T: Serialize>(value: &T) -> Reply {
    serde_json::to_value(value).map_err(|error| error.to_string())
}
