//! In the place of the original plugins: by the operator, node by node and back, as docs/migrate.md says, and in place with the installer, as the
//! original itself is upgraded: cordon all nodes, install on each with its pods alive, uncordon all.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use azure_vnet_plugin_core::lease::Entry;

use super::flows::Flows;
use super::load::{self, Load};
use super::{Cluster, Pod, migrate, store, uninstall, wait_for};
use crate::build::{Architecture, checkout};
use crate::lab::{Cni, Lab, LabOptions, Node};
use crate::scenario;

/// What of addresses a node's NIC has before anybody installs this project.
const ADDRESSES: usize = 200;
/// Between two ADDs on a node: what plugins without an agent have given rests for 45 s, as do the pods' addresses, one a second.
const BEAT: Duration = Duration::from_millis(350);
/// So many ADDs more after each installation.
const ADDS: u64 = 15;
/// What the installer is asked for.
const VERSION: &str = "v9.9.9";
/// The original's state, until it is adopted.
const STATE: &str = "/run/azure-vnet.json";

/// What a machine's interfaces have, as it is told.
const WIRESERVER: &str = r"exec 8<>/dev/tcp/168.63.129.16/80
printf 'GET /machine/plugins?comp=nmagent&type=getinterfaceinfov1 HTTP/1.0\r\nHost: 168.63.129.16\r\n\r\n' >&8
cat <&8";

/// Does all of it in one lab: once from the original, and so many times more from ours to ours, then with ADD and DEL meanwhile. `tell` gets a line for
/// each step.
///
/// # Errors
/// At the first fault.
pub fn run(rounds: u32, tell: &mut dyn FnMut(&str)) -> Result<()> {
    let lab = Lab::up(&LabOptions { cni: Cni::Original, ..LabOptions::default() })?;
    let cluster = Cluster::new(&lab)?;
    give_addresses(&cluster)?;
    scenario::wait_ready(&cluster, Duration::from_mins(1))?;
    let before = migrate::start_pods(&cluster, migrate::MOVER)?;
    state_is(&cluster, false)?;
    by_the_operator(&cluster)?;
    let pods = migrate::pods(&cluster, migrate::MOVER)?;
    let elsewhere = |pods: &[Pod]| key(&pods.iter().filter(|pod| pod.node != MOVED).cloned().collect::<Vec<_>>());
    ensure!(elsewhere(&before) == elsewhere(&pods), "pods of other nodes changed: {before:?} {pods:?}");
    tell(&format!("{MOVED} changed from the original to the operator and back"));
    in_place(&cluster, &pods, rounds, tell)?;
    let said = load::said_by_kubelets(&cluster)?;
    ensure!(said.is_empty(), "{said:?}");
    lab.down()
}

/// The node that the operator takes over.
const MOVED: &str = "n2";

fn by_the_operator(cluster: &Cluster) -> Result<()> {
    scenario::install(cluster, &migrate::VALUES)?;
    scenario::configure(cluster, migrate::CONFIG)?;
    ensure!(uninstall::attached(cluster)?.is_empty(), "no node is selected yet");
    let files = migrate::take_over(cluster, MOVED)?;
    migrate::all_reach_all(cluster, &migrate::pods(cluster, migrate::MOVER)?)?;
    migrate::give_back(cluster, MOVED, &files)?;
    migrate::all_reach_all(cluster, &migrate::pods(cluster, migrate::MOVER)?)
}

fn in_place(cluster: &Cluster, originals: &[Pod], rounds: u32, tell: &mut dyn FnMut(&str)) -> Result<()> {
    let begun = Instant::now();
    let archive = cluster.lab.folder().join("dist");
    crate::dist::run(&archive, Some(VERSION), &[Architecture::of_this_machine()], None)?;
    let flows = Flows::start(cluster)?;
    install_everywhere(cluster, &archive)?;
    let mut pods = originals.to_vec();
    pods.extend(migrate::start_pods(cluster, "newer")?);
    state_is(cluster, true)?;
    migrate::all_reach_all(cluster, &pods)?;
    leases_are_of(cluster, &[&pods[..], &flows.pods()?].concat())?;
    tell(&format!(
        "{:.0} s: from the original to ours, {} bytes over connections that lasted",
        begun.elapsed().as_secs_f64(),
        flows.go_on()?
    ));
    let load = Load::every(BEAT, cluster)?;
    for round in 1..=rounds {
        install_everywhere(cluster, &archive)?;
        load.goes_on(cluster, ADDS)?;
        let (bytes, seconds) = (flows.go_on()?, begun.elapsed().as_secs_f64());
        tell(&format!("{seconds:.0} s: installed again, {round}; {bytes} bytes over connections that lasted; {}", load.counts()));
    }
    migrate::all_reach_all(cluster, &pods)?;
    ensure!(key(originals) == key(&migrate::pods(cluster, migrate::MOVER)?), "the original's pods changed: {originals:?}");
    let counts = load.finish(cluster)?;
    tell(&counts.to_string());
    load::check(&counts)?;
    flows.finish()?;
    // The original's pods go by our DEL.
    cluster.kubectl(&["delete", "daemonset", migrate::MOVER, "--cascade=foreground", "--timeout=60s"])?;
    leases_are_of(cluster, pods.get(originals.len()..).unwrap_or_default())
}

fn key(pods: &[Pod]) -> Vec<(String, Ipv4Addr)> {
    pods.iter().map(|pod| (pod.name.clone(), pod.address)).collect()
}

/// Puts addresses on the NICs, as who sets up a machine for the original does, and waits until the machines are told of them.
fn give_addresses(cluster: &Cluster) -> Result<()> {
    for node in cluster.lab.nodes() {
        for number in 0..ADDRESSES {
            cluster.azure(async |azure| azure.foreign_add(node.name(), &format!("original-{number}")).await)?;
        }
        wait_for("the wireserver to show the addresses", Duration::from_mins(1), || {
            let shown = node.exec(&["bash", "-c", WIRESERVER])?.matches(r#"IsPrimary="false"/>"#).count();
            Ok(if shown == ADDRESSES { Ok(()) } else { Err(format!("{shown} on {}", node.name())) })
        })?;
    }
    Ok(())
}

/// The original's own upgrade: cordons all nodes, runs the installer on each, and uncordons all.
fn install_everywhere(cluster: &Cluster, archive: &Path) -> Result<()> {
    let nodes = cluster.lab.nodes();
    let all = |verb: &str| nodes.iter().try_for_each(|node| cluster.kubectl(&[verb, node.name()]).map(drop));
    all("cordon")?;
    nodes.iter().try_for_each(|node| install(node, archive))?;
    all("uncordon")
}

fn install(node: &Node, archive: &Path) -> Result<()> {
    let own = node.host_path("/srv/azure-vnet").context("the node is off")?;
    std::fs::create_dir_all(&own)?;
    for entry in std::fs::read_dir(archive)? {
        let path = entry?.path();
        std::fs::copy(&path, own.join(path.file_name().context("an archive is a file")?))?;
    }
    std::fs::copy(checkout().join("scripts/install-cni-plugin.sh"), own.join("install.sh"))?;
    node.exec(&["bash", "/srv/azure-vnet/install.sh", VERSION, "--from", "/srv/azure-vnet"]).map(drop)
}

/// Whether the original's state is on every node, or has been adopted on every one.
fn state_is(cluster: &Cluster, adopted: bool) -> Result<()> {
    for node in cluster.lab.nodes() {
        let path = |name: String| node.host_path(&name).context("the node is off");
        let (there, aside) = (path(STATE.to_owned())?.exists(), path(format!("{STATE}.adopted"))?.exists());
        ensure!((there, aside) == (!adopted, adopted), "{}: the state is there: {there}, set aside: {aside}", node.name());
    }
    Ok(())
}

/// Waits until the store of each node has a lease for each of these pods of it, and no other; no address is one of several pods.
fn leases_are_of(cluster: &Cluster, pods: &[Pod]) -> Result<()> {
    let addresses: BTreeSet<Ipv4Addr> = pods.iter().map(|pod| pod.address).collect();
    ensure!(addresses.len() == pods.len(), "an address is there twice: {pods:?}");
    // A pod without a grace period is gone at the API server before its DEL.
    wait_for("a lease for each pod and for nothing else", Duration::from_secs(30), || {
        for node in cluster.lab.nodes() {
            let of_node: BTreeSet<Ipv4Addr> = pods.iter().filter(|pod| pod.node == node.name()).map(|pod| pod.address).collect();
            let leased = store::entries(&node)?.into_iter().filter(|(_, entry)| matches!(entry, Entry::Leased(_)));
            let leased: BTreeSet<Ipv4Addr> = leased.map(|(address, _)| address).collect();
            if leased != of_node {
                return Ok(Err(format!("{}: leased {leased:?}, pods {of_node:?}", node.name())));
            }
        }
        Ok(Ok(()))
    })
}
