//! The lab itself, on the reference plugins: what the product's own end-to-end tests stand on. Needs root.

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::Running;
use azure_vnet_e2e::build::PROBE_IMAGE;
use azure_vnet_e2e::lab::{Cni, Lab, LabOptions, api, labs_of, left_of};
use azure_vnet_e2e::scenario::{Cluster, wait_for, wait_ready};
use rustix::process::{Pid, Signal, kill_process_group};

#[test]
fn three_nodes_run_pods_that_reach_each_other_and_survive_a_reboot() {
    let lab = Lab::up(&LabOptions { cni: Cni::Bridge, ..LabOptions::default() }).unwrap();
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
    let boot = |node: &str| cluster.read(&format!("{}/{node}", api::NODES)).unwrap()["status"]["nodeInfo"]["bootID"].clone();
    let before = boot("n2");
    lab.reboot("n2").unwrap();
    wait_for("the rebooted node's pod", Duration::from_secs(90), || {
        let restarted = cluster.read(&format!("{}?labelSelector=app=web&fieldSelector=spec.nodeName=n2", api::PODS))?["items"][0]["status"]
            ["containerStatuses"][0]
            .clone();
        Ok(if restarted["restartCount"] == 1 && restarted["ready"] == true { Ok(()) } else { Err(restarted["state"].to_string()) })
    })
    .unwrap();
    assert_ne!(before, boot("n2"), "a reboot is a boot of its own");
    let folder = lab.folder().to_path_buf();
    assert!(!left_of(&folder).unwrap().is_empty(), "a lab that is up can be seen");
    lab.down().unwrap();
    assert_eq!(left_of(&folder).unwrap(), Vec::<String>::new());
}

/// As Azure: one hardware address for every address of the network, and packets go to the NIC that has the address, without a question.
#[test]
fn pk6_the_fabric_answers_arp_for_every_address_and_delivers_by_the_nics_mac() {
    let lab = Lab::up(&LabOptions::default()).unwrap();
    let cluster = Cluster::new(&lab).unwrap();
    let (here, there) = (lab.node("n1").unwrap(), lab.node("n2").unwrap());
    let attached = |name: &'static str| {
        cluster.azure(async |azure| azure.foreign_add(name, "extra").await).unwrap();
        wait_for("the address to be let through", Duration::from_secs(30), || {
            let nics = cluster.azure(async |azure| azure.nics().await)?;
            let nic = nics.iter().find(|nic| nic.node.as_deref() == Some(name));
            let config = nic.and_then(|nic| nic.configurations.iter().find(|config| config.name == "extra"));
            let address = config.and_then(|config| config.address).filter(|address| nic.is_some_and(|nic| nic.attached.contains(address)));
            Ok(address.ok_or_else(|| "not yet".into()))
        })
    };
    let (own, remote) = (attached("n1").unwrap(), attached("n2").unwrap());
    let nobodys = "10.240.77.77";
    for address in [&*own.to_string(), &*remote.to_string(), &*there.address().to_string(), nobodys] {
        let said = here.exec(&["busybox", "arping", "-c", "1", "-w", "5", "-I", "eth0", address]).unwrap();
        assert!(said.contains("[12:34:56:78:9a:bc]"), "{address}: {said}");
    }
    // It neither answers ARP nor speaks for others: what arrives was sent to its NIC's own address.
    for (key, value) in [("all/arp_ignore", "8"), ("all/proxy_arp", "0"), ("eth0/proxy_arp", "0")] {
        there.exec(&["sh", "-c", &format!("echo {value} > /proc/sys/net/ipv4/conf/{key}")]).unwrap();
    }
    there.exec(&["ip", "address", "add", &format!("{remote}/32"), "dev", "lo"]).unwrap();
    here.exec(&["busybox", "ping", "-c", "1", "-W", "5", &remote.to_string()]).unwrap();
    assert!(here.exec(&["busybox", "ping", "-c", "1", "-W", "1", nobodys]).is_err(), "nobody has it");
    lab.down().unwrap();
}

/// The earliest moment at which there is something to leave behind, and one at which pods have been wired.
#[test]
fn an_interrupted_driver_exits_130_and_leaves_nothing() {
    for stage in ["pki", "nodes/n3/var/log/azure-vnet.log"] {
        let demo = xtask().arg("demo").stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0).spawn();
        let mut driver = Running(demo.unwrap());
        let folder = await_lab(&mut driver.0, stage).unwrap();
        kill_process_group(Pid::from_child(&driver.0), Signal::INT).unwrap();
        let mut said = String::new();
        std::io::Read::read_to_string(driver.0.stderr.as_mut().unwrap(), &mut said).unwrap();
        let status = driver.0.wait().unwrap();
        assert_eq!(status.code(), Some(130), "at {stage}: {said}");
        assert!(said.contains("interrupted; nothing of it is left") && !said.contains("error"), "at {stage}: {said}");
        assert_eq!(left_of(&folder).unwrap(), Vec::<String>::new(), "at {stage}");
    }
}

fn xtask() -> Command {
    Command::new(env!("CARGO_BIN_EXE_xtask"))
}

fn await_lab(driver: &mut Child, stage: &str) -> anyhow::Result<PathBuf> {
    wait_for(&format!("the driver's lab to have {stage}"), Duration::from_mins(20), || {
        anyhow::ensure!(driver.try_wait()?.is_none(), "the driver has ended");
        let found = labs_of(driver.id())?.into_iter().find(|folder| folder.join(stage).exists());
        Ok(found.ok_or_else(|| "no such lab".into()))
    })
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
