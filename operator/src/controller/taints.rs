//! What the controller changes on a Node itself: its start-up taint, and a leftover `NetworkUnavailable`.

use azure_vnet_crds::node::Agent;
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
pub fn plan(node: &Node, startup_taint: &str, now: Timestamp) -> Option<Repair> {
    let taints = node.has_taint(startup_taint).then(|| {
        let rest: Vec<&Value> = node.spec.taints.iter().filter(|taint| taint_key(taint) != Some(startup_taint)).collect();
        // The version makes the patch fail if anybody changed the node meanwhile: taints are one list with many writers.
        json!({"metadata": {"resourceVersion": node.metadata.resource_version}, "spec": {"taints": rest}})
    });
    let network = (node.condition("NetworkUnavailable") == Some("True")).then(|| {
        json!({"status": {"conditions": [{"type": "NetworkUnavailable", "status": "False", "reason": "AgentReady",
            "message": "the node's agent has taken over its pool", "lastTransitionTime": now, "lastHeartbeatTime": now}]}})
    });
    (taints.is_some() || network.is_some()).then_some(Repair { taints, network })
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
        let repair = plan(&node(&taints, "False"), "a/not-ready", Timestamp::UNIX_EPOCH).unwrap();
        let expected = json!({"metadata": {"resourceVersion": "7"}, "spec": {"taints": [other]}});
        assert_eq!(repair, Repair { taints: Some(expected), network: None });
        assert_eq!(plan(&node(&json!([other]), "False"), "a/not-ready", Timestamp::UNIX_EPOCH), None);
        assert!(plan(&node(&json!([]), "True"), "a/not-ready", Timestamp::UNIX_EPOCH).unwrap().network.is_some());
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
