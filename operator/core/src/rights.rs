//! What the controller's identity must be allowed in Azure, and what of that it is not: by the roles that Azure lists for a resource, locks, and
//! deny assignments.

use std::collections::BTreeMap;

use azure_vnet_crds::{
    config::PreflightFinding,
    node::{Machine, MachineKind},
};
use serde_json::Value;

use crate::{arm::ResourceId, provider::ProviderId};

/// One action that is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Need {
    /// As in role definitions.
    pub action: &'static str,
    /// A built-in role that has it.
    pub role: &'static str,
    /// What goes without it.
    pub without: Without,
}

/// What goes without an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Without {
    /// No node gets an address.
    Nothing,
    /// All but something that only informs, or masquerades.
    AllBut(&'static str),
}

/// A resource, and what has to be allowed there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The resource.
    pub scope: ResourceId,
    /// The actions.
    pub needs: Vec<Need>,
}

const NETWORK: &str = "Network Contributor";
const MACHINES: &str = "Virtual Machine Contributor";

const fn vital(action: &'static str, role: &'static str) -> Need {
    Need { action, role, without: Without::Nothing }
}

const NIC: [Need; 2] =
    [vital("Microsoft.Network/networkInterfaces/read", NETWORK), vital("Microsoft.Network/networkInterfaces/write", NETWORK)];
const VM: [Need; 1] = [vital("Microsoft.Compute/virtualMachines/read", MACHINES)];
const SCALE_SET: [Need; 3] = [
    vital("Microsoft.Compute/virtualMachineScaleSets/virtualMachines/read", MACHINES),
    vital("Microsoft.Compute/virtualMachineScaleSets/virtualMachines/write", MACHINES),
    vital("Microsoft.Compute/virtualMachineScaleSets/virtualMachines/networkInterfaces/read", MACHINES),
];
const SUBNET: [Need; 1] = [vital("Microsoft.Network/virtualNetworks/subnets/join/action", NETWORK)];
const VNET: [Need; 2] = [
    Need {
        action: "Microsoft.Network/virtualNetworks/read",
        role: NETWORK,
        without: Without::AllBut("the address spaces of the network and its peers, which pods reach with their own address"),
    },
    Need {
        action: "Microsoft.Network/virtualNetworks/usages/read",
        role: NETWORK,
        without: Without::AllBut("the counts of AzureVnetSubnet"),
    },
];

/// What must be allowed for a machine, by a key that machines which ask the same share: of many NICs in a resource group one is asked for.
#[must_use]
pub fn of_machine(machine: &Machine) -> Vec<(String, Question)> {
    let mut found = vec![];
    let mut ask = |key: String, scope: ResourceId, needs: &[Need]| found.push((key, Question { scope, needs: needs.to_vec() }));
    let nic = machine.nic_id.parse::<ResourceId>().ok();
    match (machine.provider_id.parse::<ProviderId>().ok(), nic, machine.kind) {
        (Some(ProviderId::Uniform { instance }), _, _) => {
            if let Some(set) = instance.parent() {
                ask(set.key(), set, &SCALE_SET);
            }
        }
        (Some(ProviderId::Machine { vm }), Some(nic), MachineKind::VmssFlex | MachineKind::Vm | MachineKind::VmssUniform) => {
            ask(format!("nic {}", group_key(&nic)), nic, &NIC);
            ask(format!("vm {}", group_key(&vm)), vm, &VM);
        }
        (Some(ProviderId::Machine { .. }) | None, _, _) => {}
    }
    if let Ok(subnet) = machine.subnet_id.parse::<ResourceId>() {
        if let Some(network) = subnet.parent() {
            ask(network.key(), network, &VNET);
        }
        ask(subnet.key(), subnet, &SUBNET);
    }
    found
}

/// What must be allowed of the resources that a NIC's description joins: Azure checks a NIC as a whole, and what is joined already is sent back.
#[must_use]
pub fn of_joined(tree: &Value) -> Vec<Question> {
    let mut found = vec![];
    join(tree, &mut found);
    found
}

/// The key under which joined resources share a question: of the public addresses in a resource group, and of a load balancer's rules, each of one
/// node, one is asked for.
#[must_use]
pub fn joined_key(question: &Question) -> String {
    let asks = |kind: &str| question.needs.iter().any(|need| need.action.starts_with(kind));
    match question.scope.parent() {
        _ if asks("Microsoft.Network/publicIPAddresses/") => format!("public {}", group_key(&question.scope)),
        Some(balancer) if asks("Microsoft.Network/loadBalancers/inboundNat") => format!("rules {}", balancer.key()),
        Some(_) | None => question.scope.key(),
    }
}

fn join(tree: &Value, found: &mut Vec<Question>) {
    match tree {
        Value::Array(items) => items.iter().for_each(|item| join(item, found)),
        Value::Object(members) => {
            for (name, member) in members {
                match JOINS.iter().find(|(of, _)| of == name) {
                    Some((_, need)) => found.extend(ids(member).map(|scope| Question { scope, needs: vec![*need] })),
                    None => join(member, found),
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn ids(member: &Value) -> impl Iterator<Item = ResourceId> + '_ {
    let one = std::slice::from_ref(member);
    let items = member.as_array().map_or(one, Vec::as_slice).iter();
    items.filter_map(|item| item.get("id")?.as_str()?.parse().ok())
}

const JOINS: [(&str, Need); 7] = [
    ("networkSecurityGroup", vital("Microsoft.Network/networkSecurityGroups/join/action", NETWORK)),
    ("loadBalancerBackendAddressPools", vital("Microsoft.Network/loadBalancers/backendAddressPools/join/action", NETWORK)),
    ("applicationSecurityGroups", vital("Microsoft.Network/applicationSecurityGroups/joinIpConfiguration/action", NETWORK)),
    ("publicIPAddress", vital("Microsoft.Network/publicIPAddresses/join/action", NETWORK)),
    ("loadBalancerInboundNatRules", vital("Microsoft.Network/loadBalancers/inboundNatRules/join/action", NETWORK)),
    ("loadBalancerInboundNatPools", vital("Microsoft.Network/loadBalancers/inboundNatPools/join/action", NETWORK)),
    ("applicationGatewayBackendAddressPools", vital("Microsoft.Network/applicationGateways/backendAddressPools/join/action", NETWORK)),
];

/// The resource group whose locks and deny assignments hold for a machine's NIC.
#[must_use]
pub fn group_of(machine: &Machine) -> Option<ResourceId> {
    group(&machine.nic_id.parse().ok()?)
}

fn group(id: &ResourceId) -> Option<ResourceId> {
    let (subscription, group) = (id.segment("subscriptions")?, id.segment("resourceGroups")?);
    format!("/subscriptions/{subscription}/resourceGroups/{group}").parse().ok()
}

fn group_key(id: &ResourceId) -> String {
    group(id).map_or_else(|| id.key(), |group| group.key())
}

/// What Azure lists as allowed for the caller at a resource: one entry for each of its roles there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Granted(Vec<Entry>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Entry {
    actions: Vec<String>,
    not_actions: Vec<String>,
}

impl Granted {
    /// Reads the answer to a question for permissions. `None`: it is none.
    #[must_use]
    pub fn parse(body: &Value) -> Option<Self> {
        let list = |entry: &Value, name: &str| {
            let texts = entry.get(name).and_then(Value::as_array).into_iter().flatten();
            texts.filter_map(Value::as_str).map(str::to_ascii_lowercase).collect()
        };
        let entries = body.get("value")?.as_array()?.iter();
        Some(Self(entries.map(|entry| Entry { actions: list(entry, "actions"), not_actions: list(entry, "notActions") }).collect()))
    }

    /// Whether an action is allowed: by one role, which does not take it back. What one role excepts another may give.
    #[must_use]
    pub fn allows(&self, action: &str) -> bool {
        let action = action.to_ascii_lowercase();
        let any = |patterns: &[String]| patterns.iter().any(|pattern| matches(pattern, &action));
        self.0.iter().any(|entry| any(&entry.actions) && !any(&entry.not_actions))
    }

    /// What of a question is not allowed.
    #[must_use]
    pub fn missing(&self, question: &Question) -> Vec<Need> {
        question.needs.iter().filter(|need| !self.allows(need.action)).copied().collect()
    }
}

/// Whether a pattern, in which `*` stands for any text, matches; both in lower case.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(text) = text.strip_prefix(head) else { return false };
    (0..=text.len()).filter_map(|at| text.get(at..)).any(|tail| matches(rest, tail))
}

/// What stands in the way at one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// A role is missing.
    Missing {
        /// Where.
        scope: ResourceId,
        /// What.
        need: Need,
    },
    /// A lock that refuses writes.
    Locked {
        /// What is locked.
        scope: String,
        /// The lock.
        name: String,
    },
    /// A deny assignment: the lockdown of AKS's node resource group is one.
    Denied {
        /// Where.
        scope: String,
        /// Its name.
        name: String,
    },
}

impl Obstacle {
    /// One word.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "PermissionMissing",
            Self::Locked { .. } => "ScopeLocked",
            Self::Denied { .. } => "NodeResourceGroupLockdown",
        }
    }

    /// Whether no address can be attached while it stands. Of a deny assignment only a write can tell: it may spare the controller's identity.
    #[must_use]
    pub fn is_vital(&self) -> bool {
        match self {
            Self::Missing { need, .. } => need.without == Without::Nothing,
            Self::Locked { .. } => true,
            Self::Denied { .. } => false,
        }
    }

    /// As a config's status says it.
    #[must_use]
    pub fn finding(&self) -> PreflightFinding {
        let reason = self.reason().to_owned();
        let finding = |message: String, action: &str, scope: &str, role: &str| PreflightFinding {
            reason: reason.clone(),
            message,
            action: action.to_owned(),
            scope: scope.to_owned(),
            role: role.to_owned(),
        };
        match self {
            Self::Missing { scope, need: Need { action, role, without } } => {
                let without = match without {
                    Without::Nothing => "no address is attached without it".to_owned(),
                    Without::AllBut(what) => format!("without it the controller does not know {what}"),
                };
                let message = format!("Grant the controller's identity {action} on {scope} ({role} has it): {without}");
                finding(message, action, scope.as_str(), role)
            }
            Self::Locked { scope, name } => {
                finding(format!("The read-only lock {name} on {scope} refuses every write to a NIC: remove it"), "", scope, "")
            }
            Self::Denied { scope, name } => {
                let remedy = "set the cluster's --nrg-lockdown-restriction-level to Unrestricted, which AKS Automatic does not allow";
                finding(
                    format!(
                        "The deny assignment {name:?} on {scope} refuses writes to NICs, unless it spares the controller's identity. If it is AKS's node resource group lockdown, {remedy}"
                    ),
                    "",
                    scope,
                    "",
                )
            }
        }
    }
}

/// Read-only locks of a list. One against deletion alone is not in the way: nothing of ours is a deletion to Azure.
#[must_use]
pub fn locks(body: &Value) -> Vec<Obstacle> {
    let entries = body.get("value").and_then(Value::as_array).into_iter().flatten();
    let read_only = entries.filter(|lock| {
        lock.pointer("/properties/level").and_then(Value::as_str).is_some_and(|level| level.eq_ignore_ascii_case("ReadOnly"))
    });
    read_only
        .map(|lock| {
            let id = lock.get("id").and_then(Value::as_str).unwrap_or_default();
            let scope = id.to_ascii_lowercase().find("/providers/microsoft.authorization/").and_then(|end| id.get(..end)).unwrap_or(id);
            Obstacle::Locked { scope: scope.to_owned(), name: text(lock, "/name") }
        })
        .collect()
}

/// Deny assignments of a list that forbid what is needed, whoever they are for: whom they spare only Azure can tell, and so does the first write.
#[must_use]
pub fn denials(body: &Value) -> Vec<Obstacle> {
    let entries = body.get("value").and_then(Value::as_array).into_iter().flatten();
    let denies = |entry: &&Value| {
        let permissions = entry.pointer("/properties/permissions").cloned().unwrap_or_default();
        let denied = Granted::parse(&serde_json::json!({ "value": permissions })).unwrap_or_default();
        NIC.iter().chain(&SCALE_SET).any(|need| need.action.ends_with("/write") && denied.allows(need.action))
    };
    let obstacle =
        |entry: &Value| Obstacle::Denied { scope: text(entry, "/properties/scope"), name: text(entry, "/properties/denyAssignmentName") };
    entries.filter(denies).map(obstacle).collect()
}

fn text(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// Questions of many machines, each once.
#[must_use]
pub fn questions<'a>(machines: impl Iterator<Item = &'a Machine>) -> BTreeMap<String, Question> {
    let mut found = BTreeMap::new();
    for (key, question) in machines.flat_map(of_machine) {
        found.entry(key).or_insert(question);
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const GROUP: &str = "/subscriptions/s/resourceGroups/MC_a";

    fn machine(provider: &str, nic: &str) -> Machine {
        Machine {
            provider_id: format!("azure://{GROUP}/providers/Microsoft.Compute/{provider}"),
            nic_id: format!("{GROUP}/providers/Microsoft.Network/networkInterfaces/{nic}"),
            subnet_id: "/subscriptions/s/resourceGroups/net/providers/Microsoft.Network/virtualNetworks/v/subnets/nodes".into(),
            kind: MachineKind::Vm,
            ..Machine::default()
        }
    }

    fn granted(entries: &Value) -> Granted {
        Granted::parse(&json!({ "value": entries })).unwrap()
    }

    #[test]
    fn public_addresses_of_a_group_share_a_question_and_other_resources_do_not() {
        let ask = |resource: &str, need: usize| {
            let scope = format!("{GROUP}/providers/Microsoft.Network/{resource}").parse().unwrap();
            joined_key(&Question { scope, needs: vec![JOINS[need].1] })
        };
        assert_eq!(ask("publicIPAddresses/a", 3), ask("publicIPAddresses/b", 3));
        let rule = |name: &str| ask(&format!("loadBalancers/{name}"), 4);
        assert_eq!(rule("l/inboundNatRules/a"), rule("l/inboundNatRules/b"), "each machine has rules of its own");
        assert_ne!(rule("l/inboundNatRules/a"), rule("m/inboundNatRules/a"));
        assert_ne!(rule("l/inboundNatRules/a"), ask("loadBalancers/l/backendAddressPools/a", 1));
        assert_ne!(ask("networkSecurityGroups/a", 0), ask("networkSecurityGroups/b", 0));
    }

    #[test]
    fn wildcards_stand_for_any_text_and_case_does_not_count() {
        let all = [
            ("*", true),
            ("Microsoft.Network/*", true),
            ("microsoft.network/NETWORKINTERFACES/write", true),
            ("*/write", true),
            ("Microsoft.*/networkInterfaces/*", true),
            ("Microsoft.Network/networkInterfaces/*/write", false),
            ("*/read", false),
            ("Microsoft.Network/networkInterfaces", false),
            ("Microsoft.Network/networkInterfaces/writer", false),
            ("", false),
        ];
        for (pattern, expected) in all {
            let granted = granted(&json!([{"actions": [pattern]}]));
            assert_eq!(granted.allows("Microsoft.Network/networkInterfaces/write"), expected, "{pattern}");
        }
    }

    #[test]
    fn what_a_role_excepts_another_may_give() {
        let contributor = json!({"actions": ["*"], "notActions": ["Microsoft.Network/networkInterfaces/write"]});
        let write = NIC[1].action;
        assert!(!granted(&json!([contributor])).allows(write));
        assert!(granted(&json!([contributor, {"actions": ["Microsoft.Network/networkInterfaces/*"]}])).allows(write));
        assert!(!granted(&json!([])).allows(write));
        assert_eq!(Granted::parse(&json!({"error": {}})), None);
    }

    #[test]
    fn of_many_machines_each_group_scale_set_and_subnet_is_asked_for_once() {
        let uniform = |set: &str, n: u32| machine(&format!("virtualMachineScaleSets/{set}/virtualMachines/{n}"), "x");
        let machines =
            [uniform("a", 0), uniform("a", 1), uniform("b", 0), machine("virtualMachines/v1", "n1"), machine("virtualMachines/v2", "n2")];
        let asked = questions(machines.iter());
        let scopes: Vec<&str> = asked.values().map(|question| question.scope.name()).collect();
        assert_eq!(scopes, ["a", "b", "v", "nodes", "n1", "v1"]);
    }

    #[test]
    fn what_a_nic_joins_is_asked_for_where_it_is() {
        let id = |rest: &str| json!({"id": format!("{GROUP}/providers/Microsoft.Network/{rest}")});
        let tree = json!({"properties": {"networkSecurityGroup": id("networkSecurityGroups/g"), "ipConfigurations": [
            {"properties": {"subnet": id("virtualNetworks/v/subnets/s"), "loadBalancerBackendAddressPools": [id("loadBalancers/l/backendAddressPools/p")]}}]}});
        let asked: Vec<(String, &str)> =
            of_joined(&tree).iter().map(|question| (question.scope.name().to_owned(), question.needs[0].action)).collect();
        assert_eq!(asked, [("p".into(), JOINS[1].1.action), ("g".into(), JOINS[0].1.action)]);
    }

    #[test]
    fn rules_and_gateways_that_a_nic_or_an_instances_model_joins_are_asked_for() {
        let id = |rest: &str| json!([{"id": format!("{GROUP}/providers/Microsoft.Network/{rest}")}]);
        let nic = json!({"ipConfigurations": [{"properties": {"loadBalancerInboundNatRules": id("loadBalancers/l/inboundNatRules/r"),
            "applicationGatewayBackendAddressPools": id("applicationGateways/a/backendAddressPools/p")}}]});
        let model = json!([{"loadBalancerInboundNatPools": id("loadBalancers/l/inboundNatPools/n")}]);
        let asked = |tree: &Value| of_joined(tree).iter().map(|question| question.needs[0].action).collect::<Vec<_>>();
        assert_eq!(
            (asked(&nic), asked(&model)),
            (
                vec![
                    "Microsoft.Network/applicationGateways/backendAddressPools/join/action",
                    "Microsoft.Network/loadBalancers/inboundNatRules/join/action"
                ],
                vec!["Microsoft.Network/loadBalancers/inboundNatPools/join/action"]
            )
        );
    }

    #[test]
    fn what_is_missing_names_action_scope_and_role() {
        let machine = machine("virtualMachines/v", "n");
        let asked = questions([&machine].into_iter());
        let reader = granted(&json!([{"actions": ["*/read"]}]));
        let missing: Vec<Obstacle> = asked
            .values()
            .flat_map(|question| reader.missing(question).into_iter().map(|need| Obstacle::Missing { scope: question.scope.clone(), need }))
            .collect();
        let findings: Vec<PreflightFinding> = missing.iter().map(Obstacle::finding).collect();
        let said: Vec<(&str, &str)> = findings.iter().map(|found| (found.action.as_str(), found.role.as_str())).collect();
        assert_eq!(said, [(SUBNET[0].action, NETWORK), (NIC[1].action, NETWORK)]);
        assert!(findings[1].message.contains(&format!("{} on {}", NIC[1].action, machine.nic_id)), "{}", findings[1].message);
        assert!(missing.iter().all(Obstacle::is_vital));
        let blind = granted(&json!([{"actions": ["*"], "notActions": ["Microsoft.Network/virtualNetworks/read"]}]));
        let network = asked.values().find(|question| question.needs == VNET).unwrap();
        let need = blind.missing(network)[0];
        assert!(!Obstacle::Missing { scope: network.scope.clone(), need }.is_vital(), "nodes get addresses all the same");
    }

    #[test]
    fn a_read_only_lock_is_in_the_way_and_one_against_deletion_is_not() {
        let lock = |name: &str, level: &str| json!({"name": name, "id": format!("{GROUP}/providers/Microsoft.Authorization/locks/{name}"), "properties": {"level": level}});
        let found = locks(&json!({"value": [lock("keep", "CanNotDelete"), lock("freeze", "ReadOnly")]}));
        assert_eq!(found, [Obstacle::Locked { scope: GROUP.into(), name: "freeze".into() }]);
        assert_eq!(group_of(&machine("virtualMachines/v", "n")), Some(GROUP.parse().unwrap()));
    }

    #[test]
    fn a_deny_assignment_counts_if_it_forbids_writes_to_nics() {
        let deny = |name: &str, actions: &[&str], not: &[&str]| json!({"properties": {"denyAssignmentName": name, "scope": GROUP, "permissions": [{"actions": actions, "notActions": not}]}});
        let lockdown = deny("lockdown", &["*"], &["*/read"]);
        let list = json!({"value": [lockdown, deny("other", &["Microsoft.Storage/*"], &[]), deny("spared", &["*"], &["Microsoft.Network/*", "Microsoft.Compute/*"])]});
        let found = denials(&list);
        assert_eq!(found, [Obstacle::Denied { scope: GROUP.into(), name: "lockdown".into() }]);
        assert_eq!((found[0].reason(), found[0].is_vital()), ("NodeResourceGroupLockdown", false));
    }
}
