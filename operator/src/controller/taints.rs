//! What the controller changes on a Node itself: its start-up taint, the mark of one without addresses, and a leftover `NetworkUnavailable`.

use std::time::Duration;

use azure_vnet_crds::{EXHAUSTED_TAINT, UNINSTALL_TAINT, node::Agent};
use azure_vnet_operator_core::{
    exhaustion::{Marking, Start},
    uninstall::closed_for,
};
use jiff::Timestamp;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

use super::kinds::{Node, taint_key};

/// Whether the agent of this very node and boot has its configuration in place.
#[must_use]
pub fn is_served(node: &Node, pool_uid: &str, node_uid: &str, agent: Option<&Agent>) -> bool {
    let boot = &node.status.node_info.boot_id;
    agent.is_some_and(|agent| agent.ready && agent.boot_id == *boot && agent.object_uid == pool_uid) && node_uid == node.uid()
}

/// What is to be patched on a node that is served.
#[derive(Clone, Debug, PartialEq)]
pub struct Repair {
    taints: Option<Value>,
    network: Option<Value>,
}

/// Plans the repair of a node that is served. `None`: all is well.
#[must_use]
pub fn plan(node: &Node, startup_taint: &str, start: Start, marking: Marking, now: Timestamp) -> Option<Repair> {
    // A node that is short of addresses is given free with the mark on it, or once it has some: no pod is to find it between the two.
    let marked = marking == Marking::Set || node.has_taint(EXHAUSTED_TAINT);
    let begins = marked || (start == Start::Supplied && !matches!(marking, Marking::Wait(_)));
    let goes = |key: &str| (key == startup_taint && begins) || (marking == Marking::Remove && key == EXHAUSTED_TAINT);
    let mark = json!({"key": EXHAUSTED_TAINT, "effect": "NoSchedule"});
    let mark = Some(&mark).filter(|_| marking == Marking::Set && !node.has_taint(EXHAUSTED_TAINT));
    let taints = changed(node, goes, mark);
    let network = (node.condition("NetworkUnavailable") == Some("True")).then(|| {
        json!({"status": {"conditions": [{"type": "NetworkUnavailable", "status": "False", "reason": "AgentReady",
            "message": "the node's agent has taken over its pool", "lastTransitionTime": now, "lastHeartbeatTime": now}]}})
    });
    (taints.is_some() || network.is_some()).then_some(Repair { taints, network })
}

/// Plans to take the mark off a node that is not served, and nothing else: its readiness is others' to tell.
#[must_use]
pub fn unmarked(node: &Node) -> Option<Repair> {
    changed(node, |key| key == EXHAUSTED_TAINT, None).map(|taints| Repair { taints: Some(taints), network: None })
}

/// What becomes of a node that an uninstallation closed to new pods.
#[derive(Clone, Debug, PartialEq)]
pub enum Closed {
    /// It is under way, for so long at most.
    For(Duration),
    /// It was killed before it opened the node again.
    Left(Repair),
}

/// Plans to open a node to pods again that a killed uninstallation left closed. `None`: none has closed it.
#[must_use]
pub fn closed(node: &Node, now: Timestamp) -> Option<Closed> {
    let value = |taint: &Value| taint.get("value").and_then(Value::as_str).map(str::to_owned);
    let taint = node.spec.taints.iter().find(|taint| taint_key(taint) == Some(UNINSTALL_TAINT))?;
    let left = closed_for(value(taint).as_deref(), now)?;
    if !left.is_zero() {
        return Some(Closed::For(left));
    }
    changed(node, |key| key == UNINSTALL_TAINT, None).map(|taints| Closed::Left(Repair { taints: Some(taints), network: None }))
}

/// The patch that takes some taints off and puts one on, if that changes anything.
fn changed(node: &Node, goes: impl Fn(&str) -> bool, mark: Option<&Value>) -> Option<Value> {
    let stays = |taint: &&Value| !taint_key(taint).is_some_and(&goes);
    let taints: Vec<&Value> = node.spec.taints.iter().filter(stays).chain(mark).collect();
    (!node.spec.taints.iter().eq(taints.iter().copied())).then(|| {
        // The version makes the patch fail if anybody changed the node meanwhile: taints are one list with many writers.
        json!({"metadata": {"resourceVersion": node.metadata.resource_version}, "spec": {"taints": taints}})
    })
}

/// Carries a repair out.
///
/// # Errors
/// The API server's; a conflict means that the node has changed.
pub async fn apply(api: &Api<Node>, name: &str, repair: Repair) -> kube::Result<()> {
    let params = PatchParams { field_manager: Some(azure_vnet_crds::CONTROLLER_MANAGER.into()), ..PatchParams::default() };
    if let Some(patch) = repair.taints {
        api.patch(name, &params, &Patch::Merge(patch)).await?;
    }
    if let Some(patch) = repair.network {
        api.patch_status(name, &params, &Patch::Strategic(patch)).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(taints: &Value, network: &str) -> Node {
        let conditions = json!([{"type": "NetworkUnavailable", "status": network}]);
        serde_json::from_value(json!({"metadata": {"name": "n", "uid": "u", "resourceVersion": "7"}, "spec": {"taints": taints},
            "status": {"conditions": conditions, "nodeInfo": {"bootID": "b"}}}))
        .unwrap()
    }

    #[test]
    fn only_the_start_up_taint_goes_and_only_if_the_node_is_as_read() {
        let other = json!({"key": "other", "effect": "NoSchedule", "value": "x"});
        let taints = json!([{"key": "a/not-ready", "effect": "NoExecute"}, other]);
        let repair = plan(&node(&taints, "False"), "a/not-ready", Start::Supplied, Marking::Keep, Timestamp::UNIX_EPOCH).unwrap();
        let expected = json!({"metadata": {"resourceVersion": "7"}, "spec": {"taints": [other]}});
        assert_eq!(repair, Repair { taints: Some(expected), network: None });
        let wait = Marking::Wait(std::time::Duration::from_secs(1));
        assert_eq!(plan(&node(&json!([other]), "False"), "a/not-ready", Start::Short, wait, Timestamp::UNIX_EPOCH), None);
        let network = plan(&node(&json!([]), "True"), "a/not-ready", Start::Short, Marking::Keep, Timestamp::UNIX_EPOCH).unwrap().network;
        assert!(network.is_some());
    }

    #[test]
    fn up5_the_mark_of_a_node_without_addresses_is_set_once_and_taken_off_alone() {
        let other = json!({"key": "other", "effect": "NoSchedule"});
        let mark = json!({"key": "azure-vnet.dev/no-addresses", "effect": "NoSchedule"});
        let planned = |taints: Value, marking| {
            plan(&node(&taints, "False"), "a/not-ready", Start::Short, marking, Timestamp::UNIX_EPOCH)
                .map(|repair| repair.taints.unwrap()["spec"]["taints"].clone())
        };
        assert_eq!(planned(json!([other]), Marking::Set), Some(json!([other, mark])));
        assert_eq!(planned(json!([other, mark]), Marking::Set), None);
        assert_eq!(planned(json!([mark, other]), Marking::Remove), Some(json!([other])));
        assert_eq!(planned(json!([mark, other]), Marking::Keep), None);
    }

    #[test]
    fn up5_a_node_that_begins_without_addresses_keeps_the_start_up_taint_until_it_is_marked() {
        let startup = json!({"key": "a/not-ready", "effect": "NoSchedule"});
        let mark = json!({"key": "azure-vnet.dev/no-addresses", "effect": "NoSchedule"});
        let planned = |taints: Value, start, marking| {
            plan(&node(&taints, "False"), "a/not-ready", start, marking, Timestamp::UNIX_EPOCH)
                .map(|repair| repair.taints.unwrap()["spec"]["taints"].clone())
        };
        let wait = Marking::Wait(std::time::Duration::from_secs(1));
        assert_eq!(planned(json!([startup]), Start::Short, wait), None);
        assert_eq!(planned(json!([startup]), Start::Short, Marking::Keep), None, "a new leader does not know yet that the subnet is full");
        assert_eq!(planned(json!([startup]), Start::Supplied, wait), None, "it holds all it may, and gave all away");
        assert_eq!(planned(json!([startup]), Start::Short, Marking::Set), Some(json!([mark])));
        assert_eq!(planned(json!([startup]), Start::Supplied, Marking::Keep), Some(json!([])), "it has some again");
        assert_eq!(
            planned(json!([startup, mark]), Start::Short, wait),
            Some(json!([mark])),
            "the mark is to go, and keeps pods off until then"
        );
    }

    #[test]
    fn a_node_that_is_not_served_loses_the_mark_and_nothing_is_said_of_its_network() {
        let other = json!({"key": "other", "effect": "NoSchedule"});
        let marked = node(&json!([other, {"key": "azure-vnet.dev/no-addresses", "effect": "NoSchedule"}]), "True");
        let repair = unmarked(&marked).unwrap();
        assert_eq!((&repair.taints.unwrap()["spec"]["taints"], repair.network), (&json!([other]), None));
        assert_eq!(unmarked(&node(&json!([other]), "True")), None);
    }

    #[test]
    fn a_node_that_a_killed_uninstallation_left_closed_is_opened_once_its_time_is_over() {
        let other = json!({"key": "other", "effect": "NoSchedule"});
        let with = |value: Value| node(&json!([other, {"key": UNINSTALL_TAINT, "value": value, "effect": "NoSchedule"}]), "False");
        let at = |second| Timestamp::from_second(second).unwrap();
        assert_eq!(closed(&with(json!("1000")), at(1000)), Some(Closed::For(Duration::from_mins(5))));
        let Some(Closed::Left(repair)) = closed(&with(json!("1000")), at(1300)) else { panic!("it stays closed") };
        assert_eq!(repair.taints.unwrap()["spec"]["taints"], json!([other]));
        for node in [with(json!("by hand")), with(Value::Null), node(&json!([other]), "False")] {
            assert_eq!(closed(&node, at(9_999_999_999)), None);
        }
    }

    #[test]
    fn an_agent_of_another_boot_or_object_does_not_serve_the_node() {
        let node = node(&json!([]), "False");
        let agent = Agent { ready: true, boot_id: "b".into(), object_uid: "o".into(), ..Agent::default() };
        assert!(is_served(&node, "o", "u", Some(&agent)));
        assert!(
            !is_served(&node, "o2", "u", Some(&agent)) && !is_served(&node, "o", "u2", Some(&agent)) && !is_served(&node, "o", "u", None)
        );
        assert!(!is_served(&node, "o", "u", Some(&Agent { boot_id: "a".into(), ..agent.clone() })));
        assert!(!is_served(&node, "o", "u", Some(&Agent { ready: false, ..agent })));
    }
}
