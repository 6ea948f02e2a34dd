//! Another way of wiring pods, by the config, while the pods that are there go on.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use azure_vnet_plugin_core::attachment::Mode;
use azure_vnet_plugin_core::lease::Entry;
use serde_json::Value;

use super::load::Load;
use super::{Cluster, Pod, migrate, store, wait_for};
use crate::lab::api;

const SOON: Duration = Duration::from_mins(1);
/// Long enough to be sure that ADD and DEL go on in the new mode on every node.
const ADDS: u64 = 45;

/// From transparent mode to another and back; the pods of all of it reach one another to the end, by their addresses and by Services.
///
/// # Errors
/// As [`change`].
pub fn there_and_back(cluster: &Cluster, load: &Load, mode: Mode) -> Result<()> {
    let mut sets = vec!["mode-before".to_owned()];
    migrate::start_pods(cluster, "mode-before")?;
    for mode in [mode, Mode::Transparent] {
        change(cluster, load, mode, &mut sets)?;
    }
    let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
    cluster.kubectl(&[&["delete", "service"], sets.as_slice()].concat())?;
    let delete = ["delete", "daemonset", "--cascade=foreground", "--timeout=60s"];
    cluster.kubectl(&[&delete[..], &sets].concat()).map(drop)
}

/// Changes the nodes' mode by the config, and waits until pods start in it; those of before and of now reach one another. Adds their set to `sets`.
///
/// # Errors
/// If a pod that was there lost its connectivity, or a new one has not the new mode.
fn change(cluster: &Cluster, load: &Load, mode: Mode, sets: &mut Vec<String>) -> Result<()> {
    let patch = format!(r#"{{"spec":{{"cni":{{"mode":"{}"}}}}}}"#, spelt(mode));
    cluster.kubectl(&["patch", "avc", "default", "--type=merge", "-p", &patch])?;
    wait_for("the nodes' configuration to have the new mode", SOON, || {
        let modes = cluster.lab.nodes().into_iter().map(|node| {
            let file = node.host_path("/etc/cni/net.d/10-azure-vnet.conflist").context("the node is off")?;
            let list: Value = serde_json::from_slice(&std::fs::read(file)?)?;
            Ok(list["plugins"][0]["mode"].as_str().unwrap_or_default().to_owned())
        });
        let modes: Vec<String> = modes.collect::<Result<_>>()?;
        Ok(if modes.iter().all(|there| *there == mode.to_string()) { Ok(()) } else { Err(format!("{modes:?}")) })
    })?;
    sets.push(format!("mode-{mode}"));
    let pods = migrate::start_pods(cluster, &format!("mode-{mode}"))?;
    for pod in &pods {
        let node = cluster.lab.node(&pod.node).context("no such node")?;
        let lease = store::entries(&node)?.into_iter().find(|(address, _)| *address == pod.address);
        let Some((_, Entry::Leased(lease))) = lease else { bail!("{} ({}) has no lease on {}", pod.name, pod.address, pod.node) };
        ensure!(lease.mode == mode, "{} on {} was wired in mode {}", pod.name, pod.node, lease.mode);
    }
    let sets: Vec<Vec<Pod>> = sets.iter().map(|set| migrate::pods(cluster, set)).collect::<Result<_>>()?;
    migrate::all_reach_all(cluster, &sets.concat())?;
    services_lead_within_each_node(cluster, &sets)?;
    load.goes_on(cluster, ADDS)?;
    // What a driver does not undo it would have done by now.
    migrate::all_reach_all(cluster, &sets.concat())
}

/// Each pod asks a Service of each other set, and is answered by the pod of its own node.
fn services_lead_within_each_node(cluster: &Cluster, sets: &[Vec<Pod>]) -> Result<()> {
    for (at, set) in sets.iter().enumerate() {
        let name = set.first().and_then(|pod| pod.name.rsplit_once('-')).map(|(name, _)| name).context("a set has pods")?;
        cluster.apply(&format!(
            "\
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec: {{internalTrafficPolicy: Local, selector: {{app: {name}}}, ports: [{{port: 80, targetPort: 8080}}]}}
"
        ))?;
        let service = cluster.read(&format!("{}/{name}", api::SERVICES))?;
        let target = format!("{}:80", service["spec"]["clusterIP"].as_str().context("the Service has no address")?);
        for asker in sets.iter().enumerate().filter(|(other, _)| *other != at).flat_map(|(_, set)| set) {
            let here = set.iter().find(|pod| pod.node == asker.node).context("each node has a pod of each set")?;
            wait_for(&format!("{} to be answered by {} by its Service", asker.name, here.name), SOON, || {
                let answers = cluster.ask(&asker.name, std::slice::from_ref(&target))?;
                let is_here = answers.iter().flatten().any(|answer| answer.own == here.address.to_string());
                Ok(if is_here { Ok(()) } else { Err(format!("{answers:?}")) })
            })?;
        }
    }
    Ok(())
}

/// As the config spells it.
fn spelt(mode: Mode) -> &'static str {
    match mode {
        Mode::Transparent => "Transparent",
        Mode::Bridge => "Bridge",
        Mode::Tunnel => "Tunnel",
    }
}
