//! What goes on in a cluster meanwhile: pods that come and go through every kubelet, and ADD and DEL on every node as a runtime calls them.
//! It counts, and whatever fails that must not is kept with its words.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use azure_vnet_plugin_core::lease::Entry;
use serde_json::{Value, json};

use super::{Cluster, store, wait_for};
use crate::build::PROBE_IMAGE;
use crate::lab::Node;
use crate::lab::api;

/// Between two ADDs on a node: five a second.
const BEAT: Duration = Duration::from_millis(200);
/// Attachments of a node that are there at a time.
const HELD: usize = 3;
/// How long a node counts as young: until then ADD may answer that the agent has not sealed the store yet.
const YOUNG: Duration = Duration::from_mins(1);
/// The CNI error code of "try again later".
const LATER: u64 = 11;
const PLUGIN: &str = "/opt/cni/bin/azure-vnet";

/// What was counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// ADDs of the driver that gave an address.
    pub adds: u64,
    /// DELs of the driver.
    pub dels: u64,
    /// ADDs that a node younger than a minute answered with code 11.
    pub young: u64,
    /// Commands that a node's power-off cut short.
    pub cut: u64,
    /// Pods that ran to their end.
    pub pods: u64,
    /// Everything that must not be.
    pub faults: Vec<String>,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { adds, dels, young, cut, pods, faults } = self;
        write!(
            f,
            "{pods} pods, {adds} ADD, {dels} DEL; {young} ADD on a young node answered 11, {cut} cut by a power-off; {} faults",
            faults.len()
        )
    }
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    counts: Mutex<Counts>,
    /// Who has which address, over all nodes.
    owners: Mutex<BTreeMap<Ipv4Addr, String>>,
}

/// Goes on until it is finished or dropped.
pub struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Begins on all nodes, with five ADDs a second on each.
    ///
    /// # Errors
    /// If the API server refuses the pods.
    pub fn start(cluster: &Cluster) -> Result<Self> {
        Self::every(BEAT, cluster)
    }

    /// Begins on all nodes, with so long between two ADDs of one.
    ///
    /// # Errors
    /// If the API server refuses the pods.
    pub fn every(beat: Duration, cluster: &Cluster) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let mut threads = vec![];
        for node in cluster.lab.nodes() {
            cluster.apply(&churn(node.name()))?;
            let driver = Driver { node, beat, shared: Arc::clone(&shared), boot: None, held: VecDeque::new(), number: 0 };
            threads.push(thread::spawn(move || driver.run()));
        }
        Ok(Self { shared, threads })
    }

    /// What was counted of the driver by now.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.shared.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until more pods have run to their end than by now, and so many ADDs more were answered.
    ///
    /// # Errors
    /// If that does not happen in time.
    pub fn goes_on(&self, cluster: &Cluster, adds: u64) -> Result<()> {
        let (before, ended_before) = (self.counts().adds, ended(cluster)?);
        wait_for("pods and ADDs meanwhile", Duration::from_mins(1), || {
            let done = self.counts().adds >= before + adds && ended(cluster)? > ended_before;
            Ok(if done { Ok(()) } else { Err(self.counts().to_string()) })
        })
    }

    /// Stops, takes all back, and looks for what is left.
    ///
    /// # Errors
    /// If the pods do not end.
    pub fn finish(mut self, cluster: &Cluster) -> Result<Counts> {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().map_err(|_| anyhow!("a driver panicked"))?;
        }
        let mut counts = self.counts();
        counts.pods = ended(cluster)?;
        cluster.kubectl(&["delete", "jobs", "-l", "app=churn", "--cascade=foreground", "--timeout=90s"])?;
        counts.faults.extend(said_by_kubelets(cluster)?);
        counts.faults.extend(leaked(cluster)?);
        Ok(counts)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

/// One node's driver.
struct Driver {
    node: Node,
    /// Between two ADDs.
    beat: Duration,
    shared: Arc<Shared>,
    /// The boot, and when it was first seen.
    boot: Option<(String, Instant)>,
    held: VecDeque<(String, Ipv4Addr)>,
    number: usize,
}

impl Driver {
    fn run(mut self) {
        while !self.shared.stop.load(Ordering::Relaxed) {
            let next = Instant::now() + self.beat;
            self.turn();
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        while let Some((id, address)) = self.held.pop_front() {
            self.del(&id, address);
        }
    }

    fn turn(&mut self) {
        let boot = self.boot_now();
        if self.boot.as_ref().map(|(boot, _)| boot) != boot.as_ref() {
            // What a boot had is gone with it.
            let gone: Vec<Ipv4Addr> = self.held.drain(..).map(|(_, address)| address).collect();
            self.shared.owners.lock().unwrap_or_else(PoisonError::into_inner).retain(|address, _| !gone.contains(address));
            self.boot = boot.map(|boot| (boot, Instant::now()));
        }
        if self.boot.is_none() {
            return;
        }
        if self.held.len() == HELD
            && let Some((id, address)) = self.held.pop_front()
        {
            self.del(&id, address);
        }
        self.add();
    }

    fn boot_now(&self) -> Option<String> {
        std::fs::read_to_string(self.node.host_path("/proc/sys/kernel/random/boot_id")?).ok()
    }

    fn add(&mut self) {
        self.number += 1;
        let id = format!("load-{}-{}", self.node.name(), self.number);
        let Some(answer) = self.command("ADD", &id) else { return };
        let address = answer["ips"][0]["address"].as_str().and_then(|text| text.split('/').next()?.parse::<Ipv4Addr>().ok());
        let is_young = self.boot.as_ref().is_some_and(|(_, since)| since.elapsed() < YOUNG);
        let mut counts = self.shared.counts.lock().unwrap_or_else(PoisonError::into_inner);
        match address {
            Some(address) => {
                counts.adds += 1;
                let former = self.shared.owners.lock().unwrap_or_else(PoisonError::into_inner).insert(address, id.clone());
                counts.faults.extend(former.map(|former| format!("{address} was given to {former} and to {id}")));
                self.held.push_back((id, address));
            }
            None if is_young && answer["code"] == LATER => counts.young += 1,
            None => counts.faults.push(format!("ADD {id}: {answer}")),
        }
    }

    fn del(&self, id: &str, address: Ipv4Addr) {
        self.shared.owners.lock().unwrap_or_else(PoisonError::into_inner).remove(&address);
        let Some(answer) = self.command("DEL", id) else { return };
        let mut counts = self.shared.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if answer.is_null() {
            counts.dels += 1;
        } else {
            counts.faults.push(format!("DEL {id}: {answer}"));
        }
    }

    /// Calls the plugin as a runtime does. None where the node went off meanwhile: it may be up again by now, without the namespace.
    fn command(&self, command: &str, id: &str) -> Option<Value> {
        let answer = self.call(command, id);
        if self.boot_now().as_ref() != self.boot.as_ref().map(|(boot, _)| boot) {
            self.shared.counts.lock().unwrap_or_else(PoisonError::into_inner).cut += 1;
            return None;
        }
        Some(answer.unwrap_or_else(|error| json!({"error": format!("{error:#}")})))
    }

    /// In a namespace of the attachment's own, which is made before ADD and goes after DEL, as a sandbox's.
    fn call(&self, command: &str, id: &str) -> Result<Value> {
        if command == "ADD" {
            self.node.exec(&["ip", "netns", "add", id])?;
        }
        let mut plugin = self.node.enter()?;
        plugin.arg(PLUGIN).env("CNI_COMMAND", command).env("CNI_CONTAINERID", id).env("CNI_NETNS", format!("/run/netns/{id}"));
        plugin
            .env("CNI_ARGS", format!("K8S_POD_NAMESPACE=load;K8S_POD_NAME={id}"))
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", "/opt/cni/bin");
        let mut child = plugin.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        child.stdin.take().context("a piped input")?.write_all(self.configuration()?.to_string().as_bytes())?;
        let output = child.wait_with_output()?;
        let answer = match (output.status.success(), serde_json::from_slice(&output.stdout)) {
            (_, Ok(answer)) => answer,
            (true, Err(_)) if output.stdout.is_empty() => Value::Null,
            (_, Err(_)) => bail!("{} and no answer: {}", output.status, String::from_utf8_lossy(&output.stderr)),
        };
        if command == "DEL" {
            self.node.exec(&["ip", "netns", "del", id])?;
        }
        Ok(answer)
    }

    /// Of our own plugin, from the list that the runtime reads: the first.
    fn configuration(&self) -> Result<Value> {
        let folder = self.node.host_path("/etc/cni/net.d").context("the node is off")?;
        let mut lists = std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<PathBuf>>>()?;
        lists.retain(|path| path.extension().is_some_and(|extension| extension == "conflist"));
        let path = lists.into_iter().min().context("the node has no configuration")?;
        let list: Value = serde_json::from_slice(&std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?)?;
        let mut plugin = list["plugins"][0].clone();
        for field in ["cniVersion", "name"] {
            plugin[field] = list[field].clone();
        }
        Ok(plugin)
    }
}

/// How many pods have run to their end.
fn ended(cluster: &Cluster) -> Result<u64> {
    let jobs = cluster.read(&format!("{}?labelSelector=app=churn", api::JOBS))?;
    Ok(jobs["items"].as_array().into_iter().flatten().filter_map(|job| job["status"]["succeeded"].as_u64()).sum())
}

/// Two at a time that rest for a second each: about one a second.
fn churn(node: &str) -> String {
    format!(
        "\
apiVersion: batch/v1
kind: Job
metadata: {{name: churn-{node}, labels: {{app: churn}}}}
spec:
  parallelism: 2
  completions: 100000
  backoffLimit: 100000
  template:
    metadata: {{labels: {{app: churn}}}}
    spec:
      restartPolicy: Never
      terminationGracePeriodSeconds: 0
      nodeSelector: {{kubernetes.io/hostname: {node}}}
      containers:
      - {{name: probe, image: {PROBE_IMAGE}, command: [/probe, rest, \"1\"]}}
"
    )
}

/// What a node says that has just booted: its store is not sealed yet, or its pool not confirmed. The driver sees to it that no other says so.
const YOUNG_WORDS: [&str; 2] = ["is not sealed in this boot", "no address is free: of 0 in the pool"];

/// What kubelets told of sandboxes that were not made or not taken down.
pub(super) fn said_by_kubelets(cluster: &Cluster) -> Result<Vec<String>> {
    let mut found = vec![];
    for reason in ["FailedCreatePodSandBox", "FailedKillPod"] {
        let events = cluster.read(&format!("{}?fieldSelector=reason={reason}", api::ALL_EVENTS))?;
        let text = |event: &Value| event["message"].as_str().unwrap_or_default().to_owned();
        let all = events["items"].as_array().into_iter().flatten().map(text);
        let is_of_young = |text: &String| YOUNG_WORDS.iter().any(|words| text.contains(words));
        found.extend(all.filter(|text| !is_of_young(text)).map(|text| format!("{reason}: {text}")));
    }
    Ok(found)
}

/// Leases that no pod has; those of pods that end are waited for.
fn leaked(cluster: &Cluster) -> Result<Vec<String>> {
    let look = || -> Result<Vec<String>> {
        let pods = cluster.read(api::ALL_PODS)?;
        let mut found = vec![];
        for node in cluster.lab.nodes() {
            let of_node = |pod: &&Value| pod["spec"]["nodeName"] == node.name() && pod["spec"]["hostNetwork"] != true;
            let addresses: BTreeSet<&str> =
                pods["items"].as_array().into_iter().flatten().filter(of_node).filter_map(|pod| pod["status"]["podIP"].as_str()).collect();
            let leased = store::entries(&node)?.into_iter().filter(|(_, entry)| matches!(entry, Entry::Leased(_)));
            let leased = leased.filter(|(address, _)| !addresses.contains(address.to_string().as_str()));
            found.extend(leased.map(|(address, _)| format!("{address} is leased on {} and no pod has it", node.name())));
        }
        Ok(found)
    };
    let done = wait_for("all leases to have a pod", Duration::from_secs(30), || {
        let found = look()?;
        Ok(if found.is_empty() { Ok(()) } else { Err(found.join("; ")) })
    });
    done.map_or_else(|_| look(), |()| Ok(vec![]))
}

/// Fails if anything was counted that must not be.
///
/// # Errors
/// Lists it.
pub fn check(counts: &Counts) -> Result<()> {
    ensure!(counts.faults.is_empty(), "{counts}:\n  {}", counts.faults.join("\n  "));
    ensure!(counts.adds > 0 && counts.pods > 0, "nothing went on meanwhile: {counts}");
    Ok(())
}
