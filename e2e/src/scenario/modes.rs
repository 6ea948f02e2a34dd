//! Another way of wiring pods, by the config, while the pods that are there go on.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use azure_vnet_plugin_core::attachment::Mode;
use azure_vnet_plugin_core::lease::Entry;
use serde_json::Value;

use super::load::Load;
use super::{Cluster, Pod, migrate, store, wait_for};

const SOON: Duration = Duration::from_mins(1);
/// Long enough to be sure that ADD and DEL go on in the new mode on every node.
const ADDS: u64 = 45;

/// From transparent mode to another and back; the pods of all of it reach one another to the end.
///
/// # Errors
/// As [`change`].
pub fn there_and_back(cluster: &Cluster, load: &Load, mode: Mode) -> Result<()> {
    let mut pods = migrate::start_pods(cluster, "mode-before")?;
    for mode in [mode, Mode::Transparent] {
        pods = change(cluster, load, mode, &pods)?;
    }
    let sets = ["mode-before".to_owned(), format!("mode-{mode}"), format!("mode-{}", Mode::Transparent)];
    let delete = ["delete", "daemonset", "--cascade=foreground", "--timeout=60s"];
    cluster.kubectl(&[&delete[..], &sets.each_ref().map(String::as_str)].concat()).map(drop)
}

/// Changes the nodes' mode by the config, and waits until pods start in it; those of before and of now reach one another. Answers `before` with the new pods.
///
/// # Errors
/// If a pod that was there lost its connectivity, or a new one has not the new mode.
fn change(cluster: &Cluster, load: &Load, mode: Mode, before: &[Pod]) -> Result<Vec<Pod>> {
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
    let pods = migrate::start_pods(cluster, &format!("mode-{mode}"))?;
    for pod in &pods {
        let node = cluster.lab.node(&pod.node).context("no such node")?;
        let lease = store::entries(&node)?.into_iter().find(|(address, _)| *address == pod.address);
        let Some((_, Entry::Leased(lease))) = lease else { bail!("{} ({}) has no lease on {}", pod.name, pod.address, pod.node) };
        ensure!(lease.mode == mode, "{} on {} was wired in mode {}", pod.name, pod.node, lease.mode);
    }
    let all = [before, &pods].concat();
    migrate::all_reach_all(cluster, &all)?;
    load.goes_on(cluster, ADDS)?;
    // What a driver does not undo it would have done by now.
    migrate::all_reach_all(cluster, &all)?;
    Ok(all)
}

/// As the config spells it.
fn spelt(mode: Mode) -> &'static str {
    match mode {
        Mode::Transparent => "Transparent",
        Mode::Bridge => "Bridge",
        Mode::Tunnel => "Tunnel",
    }
}
