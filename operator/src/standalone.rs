//! A machine without Kubernetes: does what installer and agent do on a node, with the machine's own metadata in the controller's place.
//!
//! It is the agent's node, brought to a spec that the core crate makes of configuration and metadata: the one writer of the pool (safety rule
//! ST5), in the same order: quarantine, pool, seal, rules, and the CNI configuration last.

use std::{net::Ipv4Addr, path::PathBuf, time::Duration};

use anyhow::Context as _;
use azure_vnet_crds::AzureVnetNodeSpec;
use azure_vnet_operator_core::{
    adoption::Source,
    standalone::{self, Absences, Config, Nic, UID},
    uninstall::Addresses,
};
use azure_vnet_plugin_core::source::{Interface, MacPattern};
use jiff::Timestamp;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::{
    Shutdown,
    agent::{
        self, Answer, Look, Node, Object, Outcome, Seen,
        restore::{Extent, Places, Plugins, RestoreError, restore},
    },
    azure::{Endpoints, imds::Imds, wireserver::Wireserver},
    install,
    telemetry::Telemetry,
};

/// Between two questions once all is in place.
const CALM: Duration = Duration::from_secs(30);
/// Between two questions until then.
const CLOSE: Duration = Duration::from_secs(1);
/// Between two looks at the host.
const DRIFT: Duration = Duration::from_secs(5);

/// Serves a machine without Kubernetes.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The configuration: YAML or JSON; docs/standalone.md has every field
    #[arg(long, value_name = "FILE", env = "AZURE_VNET_CONFIG")]
    pub config: PathBuf,
    /// The machine's /proc/sys/net
    #[arg(long, default_value = "/proc/sys/net", env = "AZURE_VNET_PROC_SYS_NET")]
    pub proc_sys_net: PathBuf,
    /// The machine's boot id
    #[arg(long, default_value = "/proc/sys/kernel/random/boot_id", env = "AZURE_VNET_BOOT_ID_FILE")]
    pub boot_id_file: PathBuf,
    /// The node store
    #[arg(long, default_value = "/run/azure-vnet", env = "AZURE_VNET_RUN_DIR")]
    pub run_dir: PathBuf,
    /// What survives a reboot
    #[arg(long, default_value = "/var/lib/azure-vnet", env = "AZURE_VNET_STATE_DIR")]
    pub state_dir: PathBuf,
    /// The folder of CNI configurations
    #[arg(long, default_value = "/etc/cni/net.d", env = "AZURE_VNET_CNI_CONF_DIR")]
    pub cni_conf_dir: PathBuf,
    /// Folder of the plugins' logs, which are rotated
    #[arg(long, default_value = "/var/log", env = "AZURE_VNET_LOG_DIR")]
    pub log_dir: PathBuf,
    /// Take everything off the machine again, and end: pool, rules, settings, configurations, and the plugins if they were installed
    #[arg(long)]
    pub remove: bool,
}

/// Runs until it is told to stop.
///
/// # Errors
/// When the configuration cannot be used, the plugins cannot be installed, or the node store cannot be opened.
pub async fn run(options: Options, endpoints: Endpoints, telemetry: Telemetry, shutdown: Shutdown) -> anyhow::Result<()> {
    let config = read(&options)?;
    let plugins = config.plugins.clone();
    if options.remove {
        return Ok(remove(options, plugins)?);
    }
    let from = Some(plugins.from).filter(|from| !from.as_os_str().is_empty());
    if let Some(from) = from.clone() {
        install::run(&install::Options { from, to: plugins.to.clone() })?;
    }
    let folders = folders(options, plugins.to, from);
    let node = tokio::task::spawn_blocking(move || Node::open(folders)).await.context("opening the node store was broken off")??;
    let (imds, wireserver) = (Imds::new(&endpoints)?, Wireserver::new(&endpoints)?);
    let beat = telemetry.beat("standalone", Duration::from_mins(2));
    let mut machine = Machine { spec: node.last_spec()?, told: false, config, absences: Absences::default(), node };
    let (mut next_question, mut next_drift, mut placed) = (Instant::now(), Instant::now(), false);
    info!(addresses = machine.spec.addresses.len(), "serves this machine");
    loop {
        let mut answers = vec![];
        if Instant::now() >= next_question {
            answers = ask(&wireserver, &imds, &mut machine).await;
            next_question = Instant::now() + if placed { CALM } else { CLOSE };
        }
        let look = if Instant::now() >= next_drift { Look::ForDrift } else { Look::ForChanges };
        if look == Look::ForDrift {
            next_drift = Instant::now() + DRIFT;
        }
        let outcome;
        (machine, outcome) = pass(machine, answers, look).await?;
        if outcome.ready && !placed {
            info!("containers can be attached");
        }
        placed = outcome.ready;
        telemetry.set_ready(outcome.ready);
        beat.ok();
        let due = outcome.due.map_or(next_drift, |due| next_drift.min(Instant::now() + due));
        let next = due.min(next_question).max(Instant::now() + Duration::from_millis(100));
        tokio::select! {
            biased;
            () = shutdown.wait() => return Ok(()),
            () = tokio::time::sleep_until(next) => {}
        }
    }
}

/// The addresses stay on the NIC: who put them there may take them off now.
fn remove(options: Options, plugins: standalone::Plugins) -> Result<(), RestoreError> {
    let installed = if plugins.from.as_os_str().is_empty() { Plugins::Leave } else { Plugins::Remove };
    let extent = Extent { plugins: installed, addresses: Addresses::Keep };
    let Options { config: _, remove: _, proc_sys_net, boot_id_file, run_dir, state_dir, cni_conf_dir, log_dir } = options;
    let netns_dir = PathBuf::from("/run/netns");
    let places = Places { proc_sys_net, boot_id_file, run_dir, state_dir, cni_bin_dir: plugins.to, cni_conf_dir, log_dir, netns_dir };
    restore(&places, extent).map(drop)
}

fn read(options: &Options) -> anyhow::Result<Config> {
    let path = options.config.display();
    let text = std::fs::read_to_string(&options.config).with_context(|| format!("cannot read {path}"))?;
    let value = if text.trim().is_empty() {
        serde_json::Value::Null
    } else {
        serde_saphyr::from_str(&text).with_context(|| format!("{path} is no YAML"))?
    };
    Config::read(&value).with_context(|| format!("cannot use {path}"))
}

fn folders(options: Options, cni_bin_dir: PathBuf, install_from: Option<PathBuf>) -> agent::Options {
    let Options { config: _, remove: _, proc_sys_net, boot_id_file, run_dir, state_dir, cni_conf_dir, log_dir } = options;
    agent::Options {
        node_name: UID.into(),
        proc_sys_net,
        boot_id_file,
        run_dir,
        state_dir,
        cni_bin_dir,
        install_from,
        cni_conf_dir,
        log_dir,
    }
}

/// The machine and what it was last told.
struct Machine {
    node: Node,
    config: Config,
    spec: AzureVnetNodeSpec,
    absences: Absences,
    /// Whether its metadata spoke in this run: until then, what lies on disk has to be confirmed (safety rule RE5).
    told: bool,
}

/// The wireserver's word, which is soonest; else that of IMDS.
async fn ask(wireserver: &Wireserver, imds: &Imds, machine: &mut Machine) -> Vec<Answer> {
    let asked = agent::since_boot();
    let (by_wire, by_imds) = tokio::join!(wireserver.interfaces(), imds.instance());
    let mut answers = vec![];
    let mut found: Option<Vec<Nic>> = None;
    if let Ok(instance) = &by_imds {
        let nics: Vec<Nic> = instance.network.interfaces.iter().map(of_imds).collect();
        answers.push(answer(Source::Imds, asked, Some(instance.compute.vm_id.clone()), &nics));
        found = Some(nics);
    }
    match (&by_wire, &by_imds) {
        (Ok(interfaces), _) => {
            let mut interfaces: Vec<_> = interfaces.iter().collect();
            interfaces.sort_by_key(|interface| !interface.primary);
            let by_imds = found.unwrap_or_default();
            let nics: Vec<Nic> = interfaces.into_iter().map(|interface| named(of_wireserver(interface), &by_imds)).collect();
            answers.push(answer(Source::Wireserver, asked, None, &nics));
            found = Some(nics);
        }
        (Err(wire), Err(imds)) => warn!(%wire, %imds, "neither wireserver nor IMDS answers: the pool stays as it is"),
        (Err(_), Ok(_)) => {}
    }
    let Some(nics) = found else { return answers };
    if let Some(nic) = standalone::choose(&machine.config, &nics) {
        machine.spec = standalone::spec(&machine.config, &machine.spec, nic, &mut machine.absences);
        machine.told = true;
    } else {
        warn!(nic = machine.config.nic, "the machine's metadata shows no such NIC");
    }
    answers
}

fn of_wireserver(interface: &Interface) -> Nic {
    let subnet = interface.subnets.first();
    let all = || interface.subnets.iter().flat_map(|subnet| &subnet.addresses);
    Nic {
        mac: match interface.mac {
            MacPattern::Is(mac) => Some(mac.to_string()),
            MacPattern::Any => None,
        },
        prefix: subnet.map(|subnet| subnet.prefix),
        primary: all().find(|address| address.primary).map(|address| address.address),
        secondary: all().filter(|address| !address.primary).map(|address| address.address).collect(),
    }
}

/// The wireserver may leave a NIC's MAC open; IMDS knows it by the machine's address.
fn named(nic: Nic, by_imds: &[Nic]) -> Nic {
    let same = by_imds.iter().find(|other| other.primary == nic.primary);
    Nic { mac: nic.mac.or_else(|| same?.mac.clone()), ..nic }
}

/// IMDS lists the machine's own address first.
fn of_imds(interface: &crate::azure::imds::Interface) -> Nic {
    let mut addresses = interface.addresses.iter().copied();
    Nic {
        mac: Some(interface.mac.clone()),
        prefix: interface.subnets.first().copied(),
        primary: addresses.next(),
        secondary: addresses.collect(),
    }
}

fn answer(source: Source, asked: Duration, vm_id: Option<String>, nics: &[Nic]) -> Answer {
    let all = |nic: &Nic| -> Vec<Ipv4Addr> { nic.primary.into_iter().chain(nic.secondary.iter().copied()).collect() };
    let shown = nics.iter().map(|nic| (nic.mac.clone().unwrap_or_else(|| "*".to_owned()), all(nic))).collect();
    Answer { source, asked, vm_id, shown }
}

async fn pass(mut machine: Machine, answers: Vec<Answer>, look: Look) -> anyhow::Result<(Machine, Outcome)> {
    let object = machine.told.then(|| Object {
        uid: UID.into(),
        spec: machine.spec.clone(),
        leaving: false,
        removing: vec![],
        last_read: Timestamp::from_second(Timestamp::now().as_second()).ok(),
        agent: None,
        conditions: vec![],
    });
    let seen = Seen { object, pods: None, watched: None, listed: None, reread: !answers.is_empty(), answers, look };
    let done = tokio::task::spawn_blocking(move || machine.node.reconcile(&seen).map(|outcome| (machine, outcome)));
    Ok(done.await.context("a look at the machine was broken off")??)
}
