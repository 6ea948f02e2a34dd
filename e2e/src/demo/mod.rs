//! `cargo xtask demo`: the main job on this machine, from nodes without a network to pods that give their addresses back.

mod table;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::lab::{Lab, LabOptions};
use crate::scenario::{self, Checker, Cluster, Pod};

/// Runs the demo; the lab is taken down at the end unless `keep` says otherwise.
///
/// # Errors
/// If any step does not do what it shows.
pub fn run(keep: bool) -> Result<()> {
    let story = Story { begun: Instant::now() };
    story.step("bringing up an emulated Azure and a real Kubernetes of three nodes (the first time, building its parts takes minutes)")?;
    let lab = Lab::up(&LabOptions { detached: keep, ..LabOptions::default() })?;
    let told = tell(&story, &lab);
    if keep {
        story.step("the lab stays up: `cargo xtask lab kubectl get pods -o wide`, `cargo xtask lab down`")?;
        return told;
    }
    lab.down()?;
    told?;
    story.step("the lab is gone and nothing of it is left")
}

fn tell(story: &Story, lab: &Lab) -> Result<()> {
    let cluster = Cluster::new(lab)?;
    let checker = Checker::start(lab);
    before_install(story, &cluster)?;
    story.step("helm install azure-vnet, then an AzureVnetConfig")?;
    scenario::install(&cluster, &[])?;
    scenario::configure(&cluster, scenario::CONFIG)?;
    scenario::wait_ready(&cluster, Duration::from_mins(2))?;
    story.print(&cluster.kubectl(&["get", "nodes", "-o", "wide"])?)?;
    story.step("twelve pods on three nodes: one of a Uniform scale set, one of a Flexible one, one stand-alone VM")?;
    let pods = scenario::start_pods(&cluster, Duration::from_mins(2))?;
    addresses(story, &cluster, &pods)?;
    story.step("who reaches whom, and which address the far side sees")?;
    let matrix = scenario::reach(&cluster, &pods)?;
    story.print(&table::reachability(&pods, &matrix))?;
    matrix.check(&pods, |node| node_address(lab, node))?;
    story.print(&cluster.kubectl(&["get", "avc,avn"])?)?;
    story.step("60 pods more on one node at once")?;
    let burst = scenario::burst(&cluster, "n3", 60, Duration::from_mins(4))?;
    story.print(&table::burst(&burst))?;
    story.step("they go; after 70 s of surplus addresses go back to the subnet")?;
    let handshake = scenario::give_back(&cluster, "n3", Duration::from_mins(4))?;
    story.print(&table::handshake(&handshake))?;
    story.print(&cluster.kubectl(&["get", "avc,avn"])?)?;
    let looks = checker.finish()?;
    story.step(&format!(
        "no address was in two places, and nothing foreign was changed on a NIC, in {looks} looks at Azure and all node stores"
    ))
}

fn before_install(story: &Story, cluster: &Cluster) -> Result<()> {
    for (node, why) in scenario::without_network(cluster, Duration::from_mins(1))? {
        story.print(&format!("{node} NotReady: {why}"))?;
    }
    Ok(())
}

/// Every pod's address must be an IP configuration of ours on its own node's NIC.
fn addresses(story: &Story, cluster: &Cluster, pods: &[Pod]) -> Result<()> {
    let nics = cluster.azure(async |azure| azure.nics().await)?;
    let mut rows = BTreeMap::new();
    for pod in pods {
        let nic = nics.iter().find(|nic| nic.node.as_deref() == Some(&pod.node)).context("a node has no NIC")?;
        let config = nic.configurations.iter().find(|config| config.address == Some(pod.address));
        let config = config.with_context(|| format!("{} has {}, which is not on {}'s NIC", pod.name, pod.address, pod.node))?;
        rows.insert((pod.node.clone(), pod.address), (pod.name.clone(), format!("{} {}", nic.id, config.name)));
    }
    story.print(&table::addresses(&rows))
}

fn node_address(lab: &Lab, node: &str) -> Ipv4Addr {
    lab.node(node).map_or(Ipv4Addr::UNSPECIFIED, |node| node.address())
}

/// Prints what happens, with the time since the start.
struct Story {
    begun: Instant,
}

impl Story {
    fn step(&self, text: &str) -> Result<()> {
        Ok(writeln!(std::io::stdout(), "\n[{:>5.1} s] {text}", self.begun.elapsed().as_secs_f64())?)
    }

    #[expect(clippy::unused_self, reason = "one way to print")]
    fn print(&self, text: &str) -> Result<()> {
        for line in text.lines() {
            writeln!(std::io::stdout(), "    {line}")?;
        }
        Ok(())
    }
}
