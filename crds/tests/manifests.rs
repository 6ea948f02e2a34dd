//! What the chart, rendered with its defaults, promises of both workloads and of their rights. The rendered files are
//! committed; that they are those of the chart is compared where there is a helm.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot read its own data fails")]

use std::collections::BTreeSet;

use serde_json::{Value, json};

#[test]
fn the_manifest_of_the_kinds_holds_the_committed_definitions() {
    let ours: Vec<Value> = serde_saphyr::from_multiple(include_str!("../../manifests/crds.yaml")).unwrap();
    let committed = [
        include_str!("../../charts/azure-vnet/crds/azurevnetconfigs.yaml"),
        include_str!("../../charts/azure-vnet/crds/azurevnetnodes.yaml"),
        include_str!("../../charts/azure-vnet/crds/azurevnetsubnets.yaml"),
    ];
    assert_eq!(ours, committed.map(|text| serde_saphyr::from_str::<Value>(text).unwrap()));
}

#[test]
fn up2_the_controller_runs_where_nothing_else_may() {
    let controller = object("Deployment", "azure-vnet-controller");
    let tolerated = controller["spec"]["template"]["spec"]["tolerations"].as_array().unwrap();
    let keys: BTreeSet<_> = tolerated.iter().map(|toleration| toleration["key"].as_str().unwrap()).collect();
    let needed = BTreeSet::from([
        "azure-vnet.dev/agent-not-ready",
        "azure-vnet.dev/no-addresses",
        "node.kubernetes.io/not-ready",
        "node.kubernetes.io/network-unavailable",
        "node.cloudprovider.kubernetes.io/uninitialized",
        "CriticalAddonsOnly",
    ]);
    assert_eq!(keys, needed);
    assert!(tolerated.iter().all(|toleration| toleration["operator"] == "Exists" && toleration.get("effect").is_none()));
}

#[test]
fn up3_both_workloads_need_no_pod_network_and_are_not_held_up() {
    for workload in [object("Deployment", "azure-vnet-controller"), object("DaemonSet", "azure-vnet-agent")] {
        let pod = &workload["spec"]["template"]["spec"];
        assert_eq!((&pod["hostNetwork"], &pod["dnsPolicy"]), (&json!(true), &json!("Default")));
        let update = if workload["kind"] == "Deployment" { &workload["spec"]["strategy"] } else { &workload["spec"]["updateStrategy"] };
        assert_eq!(update["rollingUpdate"]["maxSurge"], 0);
    }
    assert_eq!(object("PodDisruptionBudget", "azure-vnet-controller")["spec"]["unhealthyPodEvictionPolicy"], "AlwaysAllow");
}

#[test]
fn the_controller_runs_without_any_right_on_its_node() {
    let pod = object("Deployment", "azure-vnet-controller")["spec"]["template"]["spec"].clone();
    assert_eq!(
        (&pod["securityContext"]["runAsNonRoot"], &pod["securityContext"]["seccompProfile"]["type"]),
        (&json!(true), &json!("RuntimeDefault"))
    );
    assert_eq!(
        pod["containers"][0]["securityContext"],
        json!({"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}})
    );
    assert!(pod.get("volumes").is_none());
}

#[test]
fn the_agent_has_two_capabilities_and_the_folders_that_it_needs() {
    let pod = object("DaemonSet", "azure-vnet-agent")["spec"]["template"]["spec"].clone();
    assert_eq!(pod["tolerations"], json!([{"operator": "Exists"}]));
    let agent = &pod["containers"][0]["securityContext"];
    assert_eq!(agent["capabilities"], json!({"drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"]}));
    assert_eq!((&agent["readOnlyRootFilesystem"], &agent["allowPrivilegeEscalation"]), (&json!(true), &json!(false)));
    let paths: Vec<_> = pod["volumes"].as_array().unwrap().iter().map(|volume| volume["hostPath"]["path"].as_str().unwrap()).collect();
    let expected = [
        "/run/azure-vnet",
        "/var/lib/azure-vnet",
        "/etc/cni/net.d",
        "/opt/cni/bin",
        "/run/netns",
        "/run/xtables.lock",
        "/var/log",
        "/proc/sys/net",
        "/proc/sys/kernel/random/boot_id",
    ];
    assert_eq!(paths, expected);
}

#[test]
fn install_has_no_capability_and_writes_one_folder() {
    let install = object("DaemonSet", "azure-vnet-agent")["spec"]["template"]["spec"]["initContainers"][0].clone();
    assert_eq!(install["securityContext"]["capabilities"], json!({"drop": ["ALL"]}));
    assert_eq!(install["volumeMounts"], json!([{"name": "cni-bin", "mountPath": "/host/opt/cni/bin"}]));
}

#[test]
fn an_agent_writes_nothing_but_statuses_and_events() {
    let rules = object("ClusterRole", "azure-vnet-agent")["rules"].clone();
    let writes: Vec<_> = rules
        .as_array()
        .unwrap()
        .iter()
        .filter(|rule| rule["verbs"].as_array().unwrap().iter().any(|verb| !["get", "list", "watch"].contains(&verb.as_str().unwrap())))
        .map(|rule| (rule["resources"].clone(), rule["verbs"].clone()))
        .collect();
    assert_eq!(writes, [(json!(["azurevnetnodes/status"]), json!(["patch"])), (json!(["events"]), json!(["create", "patch"]))]);
}

#[test]
fn the_manifest_names_no_image_that_could_be_pulled() {
    let invalid_for_its_capitals = "image: IMAGE_REPOSITORY:";
    let text = include_str!("../../manifests/azure-vnet.yaml");
    assert!(text.lines().filter(|line| line.trim().starts_with("image:")).all(|line| line.trim().starts_with(invalid_for_its_capitals)));
}

fn object(kind: &str, name: &str) -> Value {
    let objects: Vec<Value> = serde_saphyr::from_multiple(include_str!("../../manifests/azure-vnet.yaml")).unwrap();
    objects.into_iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == name).unwrap()
}
