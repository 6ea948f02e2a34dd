//! What operators do to a cluster while its pods go on: other versions of the product, nodes that are drained and rebooted, controllers that die.

use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use azure_vnet_plugin_core::attachment::Mode;
use serde_json::Value;

use super::flows::Flows;
use super::killer::Killer;
use super::load::{self, Load};
use super::{Checker, Cluster, Pod, modes, wait_for, wait_ready};
use crate::build::{Cache, EARLIER_IMAGE, EARLIER_MARK, earlier};
use crate::lab::api;
use crate::lab::{Lab, LabOptions};
use crate::scenario;

/// What a pool holds at least at first, and after this version and the earlier one were told of more: a driver's addresses rest, five a second for ten seconds.
const SIZES: [u64; 3] = [96, 112, 128];

fn config(min: u64) -> String {
    format!(
        "\
apiVersion: azure-vnet.dev/v1alpha1
kind: AzureVnetConfig
metadata:
  name: default
spec:
  pool:
    min: {min}
    minFree: 8
    batch: 16
    max: 160
    coolDown: 10s
    release: {{after: 10m, batch: 16, jitterPercent: 0, calm: 20s, probation: 30s}}
  masquerade:
    nonMasqueradeCIDRs: [10.50.0.0/16]
"
    )
}

/// Installs the version before this one, with its own chart and definitions.
fn install_earlier(cluster: &Cluster) -> Result<()> {
    let earlier = earlier(&Cache::open()?)?;
    let (_, tag) = EARLIER_IMAGE.rsplit_once(':').context("an image has a tag")?;
    scenario::install_chart(cluster, &earlier.chart, &["--set", &format!("image.tag={tag}")])?;
    obeyed(cluster, SIZES[0])?;
    wait_ready(cluster, Duration::from_mins(2))?;
    plugins_are(cluster, true)
}

/// From the earlier version to this one.
///
/// # Errors
/// If the nodes do not get this version's plugins in time, or it does not do what it is told.
fn upgrade(cluster: &Cluster) -> Result<()> {
    scenario::upgrade(cluster, &[])?;
    cluster.rolled_out()?;
    plugins_are(cluster, false)?;
    obeyed(cluster, SIZES[1])
}

/// Back to the earlier version; the definitions stay those of this one.
///
/// # Errors
/// If the nodes do not get its plugins in time, or it cannot live with what this version has written.
fn roll_back(cluster: &Cluster) -> Result<()> {
    cluster.lab.helm(&["rollback", "azure-vnet", "--namespace", "kube-system"])?;
    cluster.rolled_out()?;
    plugins_are(cluster, true)?;
    obeyed(cluster, SIZES[2])
}

/// Asks for pools of another size, and waits until the controller has taken note and every agent has as much.
fn obeyed(cluster: &Cluster, min: u64) -> Result<()> {
    scenario::configure(cluster, &config(min))?;
    wait_for("pools of the size that is asked for", Duration::from_mins(2), || {
        let config = cluster.read(&format!("{}/default", api::CONFIGS))?;
        let (asked, seen) = (&config["metadata"]["generation"], &config["status"]["observedGeneration"]);
        let pools = cluster.read(api::VNET_NODES)?;
        let adopted = |pool: &Value| -> u64 {
            pool["status"]["agent"]["counts"].as_object().into_iter().flatten().filter_map(|(_, count)| count.as_u64()).sum()
        };
        let sizes: Vec<u64> = pools["items"].as_array().into_iter().flatten().map(adopted).collect();
        let done = asked == seen && sizes.len() == cluster.lab.nodes().len() && sizes.iter().all(|size| *size >= min);
        Ok(if done { Ok(()) } else { Err(format!("generation {asked}, seen {seen}; {sizes:?} of {min}")) })
    })
}

/// Whether every node has the plugins of the earlier version, or those of this one.
///
/// # Errors
/// Names the node that has others.
pub fn plugins_are(cluster: &Cluster, earlier: bool) -> Result<()> {
    for node in cluster.lab.nodes() {
        for name in ["azure-vnet", "azure-vnet-ipam"] {
            let path = node.host_path(&format!("/opt/cni/bin/{name}")).context("the node is off")?;
            let is_earlier = std::fs::read(&path).with_context(|| format!("{} lacks {name}", node.name()))?.ends_with(EARLIER_MARK);
            ensure!(is_earlier == earlier, "{name} on {} is of the other version", node.name());
        }
    }
    Ok(())
}

/// Cordons, drains, reboots and uncordons each node, one after another.
///
/// # Errors
/// If one does not come back in time.
fn renew_nodes(cluster: &Cluster) -> Result<()> {
    for node in cluster.lab.nodes() {
        let name = node.name();
        cluster.drain(name, &[])?;
        let boot = boot_of(cluster, name)?;
        cluster.lab.reboot(name)?;
        wait_for("the booted node to be ready", Duration::from_secs(90), || {
            let object = cluster.read(&format!("{}/{name}", api::NODES))?;
            let ready =
                object["status"]["conditions"].as_array().into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True");
            let is_another = object["status"]["nodeInfo"]["bootID"] != boot;
            Ok(if ready && is_another { Ok(()) } else { Err(format!("ready: {ready}, another boot: {is_another}")) })
        })?;
        cluster.kubectl(&["uncordon", name])?;
    }
    wait_ready(cluster, Duration::from_mins(1))
}

fn boot_of(cluster: &Cluster, node: &str) -> Result<Value> {
    Ok(cluster.read(&format!("{}/{node}", api::NODES))?["status"]["nodeInfo"]["bootID"].clone())
}

/// Does all of it in one lab, so many rounds of it: an upgrade, a change to bridge mode and back (to tunnel mode in every second round), all nodes renewed, and
/// a rollback, while the controller that leads is killed every minute, and with everything that is counted. `tell` gets a line for each step.
///
/// # Errors
/// At the first fault.
pub fn run(rounds: u32, tell: &mut dyn FnMut(&str)) -> Result<()> {
    let lab = Lab::up(&LabOptions { earlier: true, ..LabOptions::default() })?;
    let cluster = Cluster::new(&lab)?;
    let checker = Checker::start(&lab);
    install_earlier(&cluster)?;
    let load = Load::start(&cluster)?;
    let blows = thread::scope(|scope| {
        let killer = Killer::start(scope, &lab);
        for number in 1..=rounds {
            let begun = Instant::now();
            round(&cluster, &load, number, &mut |what| {
                let (seconds, counts, blows) = (begun.elapsed().as_secs_f64(), load.counts(), killer.blows());
                tell(&format!("round {number}, {seconds:.0} s: {what}; {counts}; {blows}"));
            })?;
        }
        killer.finish()
    })?;
    let counts = load.finish(&cluster)?;
    tell(&format!("{counts}; {blows}"));
    load::check(&counts)?;
    let looks = checker.finish()?;
    tell(&format!("in {looks} looks at Azure and all stores no address was in two places"));
    lab.down()
}

fn round(cluster: &Cluster, load: &Load, number: u32, step: &mut dyn FnMut(&str)) -> Result<()> {
    let bytes = undisturbed(cluster, || {
        upgrade(cluster)?;
        step("upgraded");
        let mode = if number % 2 == 1 { Mode::Bridge } else { Mode::Tunnel };
        modes::there_and_back(cluster, load, mode)?;
        step(&format!("changed to {mode} mode and back"));
        Ok(())
    })?;
    step(&format!("{bytes} bytes over connections that lasted"));
    renew_nodes(cluster)?;
    step("drained and rebooted each node");
    let bytes = undisturbed(cluster, || roll_back(cluster))?;
    step(&format!("rolled back; {bytes} bytes over connections that lasted"));
    Ok(())
}

/// Does what restarts no pod and breaks no connection, and answers how many bytes came back over those meanwhile.
fn undisturbed(cluster: &Cluster, what: impl FnOnce() -> Result<()>) -> Result<u64> {
    let key = |pods: Vec<Pod>| -> Vec<(String, Ipv4Addr)> { pods.into_iter().map(|pod| (pod.name, pod.address)).collect() };
    let before = key(scenario::start_pods(cluster, Duration::from_mins(2))?);
    let flows = Flows::start(cluster)?;
    what()?;
    let bytes = flows.finish()?;
    let after = key(cluster.pods("app=web")?);
    ensure!(before == after, "pods changed: {before:?} {after:?}");
    Ok(bytes)
}
