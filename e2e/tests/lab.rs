//! The lab itself, on the reference plugins: what the product's own end-to-end tests stand on. Needs root.

use std::time::Duration;

use azure_vnet_e2e::build::PROBE_IMAGE;
use azure_vnet_e2e::lab::{Cni, Lab, LabOptions};
use azure_vnet_e2e::scenario::{Cluster, wait_for, wait_ready};

#[test]
fn three_nodes_run_pods_that_reach_each_other_and_survive_a_reboot() {
    let lab = Lab::up(&LabOptions { cni: Cni::Bridge, detached: false }).unwrap();
    let cluster = Cluster::new(&lab).unwrap();
    wait_ready(&cluster, Duration::from_mins(1)).unwrap();
    cluster.apply(&daemon_set()).unwrap();
    let pods = wait_for("a pod on each node", Duration::from_mins(1), || {
        let pods = cluster.pods("app=web")?;
        Ok(if pods.len() == 3 { Ok(pods) } else { Err(format!("{} of 3", pods.len())) })
    })
    .unwrap();
    let targets: Vec<String> = pods.iter().map(|pod| format!("{}:8080", pod.address)).collect();
    for pod in &pods {
        let answers = cluster.ask(&pod.name, &targets).unwrap();
        assert!(answers.iter().all(Result::is_ok), "{} reaches all: {answers:?}", pod.name);
    }
    let boot = |node: &str| cluster.json(&["get", "node", node]).unwrap()["status"]["nodeInfo"]["bootID"].clone();
    let before = boot("n2");
    lab.reboot("n2").unwrap();
    wait_for("the rebooted node's pod", Duration::from_secs(90), || {
        let restarted = cluster.json(&["get", "pods", "-l", "app=web", "--field-selector=spec.nodeName=n2"])?["items"][0]["status"]["containerStatuses"][0].clone();
        Ok(if restarted["restartCount"] == 1 && restarted["ready"] == true { Ok(()) } else { Err(restarted["state"].to_string()) })
    })
    .unwrap();
    assert_ne!(before, boot("n2"), "a reboot is a boot of its own");
    let folder = lab.folder().to_path_buf();
    lab.down().unwrap();
    assert!(!folder.exists(), "nothing of the lab is left");
}

fn daemon_set() -> String {
    format!(
        "\
apiVersion: apps/v1
kind: DaemonSet
metadata: {{name: web}}
spec:
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - {{name: probe, image: {PROBE_IMAGE}, command: [/probe, serve, \"8080\"]}}
"
    )
}
