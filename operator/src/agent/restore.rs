//! Takes everything of ours off a node again: what the agent keeps there, the plugins, and what both wrote down.
//!
//! It runs where no agent runs any more, and does nothing while a pod has an address: its DEL needs plugin and configuration (safety rule UP4).

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
};

use azure_vnet_operator_core::{
    conflist,
    rules::{self, Program},
    sysctl::Forwarding,
    uninstall::Addresses,
};
use azure_vnet_plugin::{
    bridge::BridgeError,
    store::{FileError, Keeper, KeeperError, Store},
    unbridge::Undone,
};
use azure_vnet_plugin_core::{boot::BootId, lease::Entry, unbridge::Stays};
use rustix::io::Errno;
use tracing::info;

use super::{
    iptables::{self, Iptables, IptablesError, LIMIT},
    kernel::{Kernel, KernelError},
    logs,
    memory::Memory,
    sysctl::{self, SysctlError},
    unmarked::Former,
};
use crate::{child::Limit, install::OURS};

/// Both that a node may have.
const PROGRAMS: [(Program, &str); 2] = [(Program::Nft, "iptables-nft"), (Program::Legacy, "iptables-legacy")];

/// Where on a node what lies.
#[derive(Clone, Debug, clap::Args)]
pub struct Places {
    /// The node's /proc/sys/net, writable
    #[arg(long, default_value = "/proc/sys/net", env = "AZURE_VNET_PROC_SYS_NET")]
    pub proc_sys_net: PathBuf,
    /// The node's boot id
    #[arg(long, default_value = "/proc/sys/kernel/random/boot_id", env = "AZURE_VNET_BOOT_ID_FILE")]
    pub boot_id_file: PathBuf,
    /// The node store
    #[arg(long, default_value = "/run/azure-vnet", env = "AZURE_VNET_RUN_DIR")]
    pub run_dir: PathBuf,
    /// What survives a reboot
    #[arg(long, default_value = "/var/lib/azure-vnet", env = "AZURE_VNET_STATE_DIR")]
    pub state_dir: PathBuf,
    /// The node's plugin folder
    #[arg(long, default_value = "/opt/cni/bin", env = "AZURE_VNET_CNI_BIN_DIR")]
    pub cni_bin_dir: PathBuf,
    /// The folder that the container runtime reads its network configuration from
    #[arg(long, default_value = "/etc/cni/net.d", env = "AZURE_VNET_CNI_CONF_DIR")]
    pub cni_conf_dir: PathBuf,
    /// Folder of the plugins' logs
    #[arg(long, default_value = "/var/log", env = "AZURE_VNET_LOG_DIR")]
    pub log_dir: PathBuf,
    /// The node's folder of network namespaces
    #[arg(long, default_value = "/run/netns", env = "AZURE_VNET_NETNS_DIR")]
    pub netns_dir: PathBuf,
}

/// Why a node is not restored. What was done stays done: the next attempt goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// Pods have addresses.
    #[error("pods of this node still have addresses, and nothing was changed: {0}. Drain the node, or delete these pods, first")]
    Held(String),
    /// One came while the store was being closed.
    #[error("a pod came meanwhile: {0}. No other will; delete it, and try again")]
    Came(String),
    /// A configuration of the user's own would go on giving the machine's addresses to pods.
    #[error(
        "{} stays, and with it the runtime would give pods addresses that are to go back to the subnet; nothing was changed. Remove it, or keep the \
         addresses: uninstall.addresses: Keep, or --addresses=Keep here", .0.display()
    )]
    Served(PathBuf),
    /// The leases cannot be read.
    #[error("cannot read which addresses are leased")]
    Leases(#[source] FileError),
    /// The boot id cannot be read.
    #[error("cannot read the node's boot id from {}", .path.display())]
    BootId {
        /// Where it should be.
        path: PathBuf,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The store cannot be closed.
    #[error("cannot close the node store")]
    Store(#[source] KeeperError),
    /// Links and routes.
    #[error("the kernel's routes are not restored")]
    Kernel(#[source] KernelError),
    /// The network of bridged pods.
    #[error("the network of bridged pods is not taken back")]
    Bridge(#[source] BridgeError),
    /// Rules.
    #[error("the rules of {program} are not restored")]
    Rules {
        /// Of which.
        program: &'static str,
        /// Why.
        source: IptablesError,
    },
    /// Settings.
    #[error("the kernel's settings are not restored")]
    Sysctl(#[source] SysctlError),
    /// A file.
    #[error("cannot remove {}", .path.display())]
    Remove {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What becomes of the plugins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plugins {
    /// They go, unless another configuration names them.
    Remove,
    /// Somebody else brought them.
    Leave,
}

/// What is to be taken off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The plugins.
    pub plugins: Plugins,
    /// What becomes of the machine's addresses afterwards.
    pub addresses: Addresses,
}

/// Takes everything off. Answers what was there, a word or two each; nothing where nothing was.
///
/// # Errors
/// See [`RestoreError`].
pub fn restore(places: &Places, extent: Extent) -> Result<Vec<String>, RestoreError> {
    match extent.addresses {
        Addresses::GiveBack => refuse_if_served(places)?,
        Addresses::Keep => {}
    }
    let mut kernel = Kernel::open().map_err(RestoreError::Kernel)?;
    let held = holders(&mut kernel, places)?;
    if !held.is_empty() {
        return Err(RestoreError::Held(held.join(", ")));
    }
    let mut done = vec![];
    // From here on no ADD succeeds, so that what is looked at now stays so.
    done.extend(close(places)?);
    let held = holders(&mut kernel, places)?;
    if !held.is_empty() {
        return Err(RestoreError::Came(held.join(", ")));
    }
    done.extend(remove_conflists(places)?);
    done.extend(unbridge(&mut kernel)?);
    for (program, name) in PROGRAMS {
        done.extend(
            withdraw(program).map_err(|source| RestoreError::Rules { program: name, source })?.then(|| format!("chains of {name}")),
        );
    }
    let routes = remove_routes(&mut kernel, places)?;
    done.extend((routes > 0).then(|| format!("{routes} unreachable routes")));
    let forwarding = forwarding(&mut kernel)?;
    done.extend(sysctl::restore(&places.proc_sys_net, &places.run_dir, forwarding).map_err(RestoreError::Sysctl)?);
    match extent.plugins {
        Plugins::Remove => done.extend(remove_plugins(places)?),
        Plugins::Leave => {}
    }
    for log in logs::all(&places.log_dir) {
        done.extend(remove(log)?);
    }
    done.extend(remove_folder(&places.run_dir)?);
    done.extend(remove_folder(&places.state_dir)?);
    info!(removed = done.join(", "), "this node is as it was");
    Ok(done)
}

/// The kernel's word: our links, and of each lease without one whether another plugin wired its pod. A bridge of ours that has to stay is in
/// use as well.
fn holders(kernel: &mut Kernel, places: &Places) -> Result<Vec<String>, RestoreError> {
    let view = kernel.view().map_err(RestoreError::Kernel)?;
    let name = |pod: &super::kernel::PodLink| -> (IpAddr, String) { (pod.alias.address, pod.name.to_string()) };
    let mut all: Vec<_> = view.pods.iter().map(name).collect();
    all.sort();
    let others = leases(places)?.into_iter().filter(|(address, _)| !all.iter().any(|(linked, _)| linked == address));
    let others = others
        .filter_map(|(address, entry)| kernel.sign_of_pod(address, &entry, &places.netns_dir).map(|why| format!("{address} ({why})")));
    let others: Vec<String> = others.collect();
    let pods = all.into_iter().map(|(address, link)| format!("{address} ({link})")).chain(others);
    let bridges = kernel.bridges_that_stay().map_err(RestoreError::Bridge)?;
    Ok(pods.chain(bridges.iter().filter(|stays| is_in_the_way(stays)).map(ToString::to_string)).collect())
}

fn is_in_the_way(stays: &Stays) -> bool {
    match stays {
        Stays::InUse { .. } | Stays::NoUplink(_) => true,
        Stays::NotOurs(_) => false,
    }
}

/// What bridge and tunnel mode made of the host's network. A bridge that was there before stays.
fn unbridge(kernel: &mut Kernel) -> Result<Vec<String>, RestoreError> {
    let Undone { steps, stay, rules } = kernel.undo_bridges().map_err(RestoreError::Bridge)?;
    if let Some(stays) = stay.iter().find(|stays| is_in_the_way(stays)) {
        return Err(RestoreError::Came(stays.to_string()));
    }
    let steps = steps.into_iter().map(|(bridge, step)| format!("{bridge}: {step}"));
    Ok(steps.chain((rules > 0).then(|| format!("{rules} rules for frames"))).collect())
}

/// What this boot's store says of addresses that are not free.
fn leases(places: &Places) -> Result<Vec<(Ipv4Addr, Entry)>, RestoreError> {
    if !places.run_dir.join("lease").exists() {
        return Ok(vec![]);
    }
    let boot = boot(places)?;
    let mut entries = Store::at(&places.run_dir, boot.clone()).list().map_err(RestoreError::Leases)?;
    entries.retain(|(_, entry)| !matches!(entry, Entry::Leased(lease) if lease.boot != boot));
    Ok(entries)
}

fn boot(places: &Places) -> Result<BootId, RestoreError> {
    let failed = |source| RestoreError::BootId { path: places.boot_id_file.clone(), source };
    let text = fs::read_to_string(&places.boot_id_file).map_err(|error| failed(error.into()))?;
    text.parse().map_err(|error: <BootId as std::str::FromStr>::Err| failed(error.into()))
}

/// Without an agent's seal the plugins learn addresses themselves, as such a configuration asks.
fn refuse_if_served(places: &Places) -> Result<(), RestoreError> {
    let serves = |path: &Path, text: &str| {
        path.file_name().and_then(std::ffi::OsStr::to_str).is_some_and(|name| conflist::serves_without_agent(name, text))
    };
    let found = configurations(places).into_iter().find(|(path, text)| serves(path, text));
    found.map_or(Ok(()), |(path, _)| Err(RestoreError::Served(path)))
}

fn close(places: &Places) -> Result<Option<String>, RestoreError> {
    let Places { run_dir, state_dir, .. } = places;
    if !run_dir.join("sealed").exists() {
        return Ok(None);
    }
    let keeper = Keeper::open(run_dir, state_dir, boot(places)?).map_err(RestoreError::Store)?;
    keeper.unseal().map_err(RestoreError::Store)?;
    Ok(Some("the store's seal".into()))
}

/// Those that an agent wrote, under whatever name.
fn remove_conflists(places: &Places) -> Result<Vec<String>, RestoreError> {
    let mut removed = vec![];
    for (path, text) in configurations(places) {
        if conflist::is_written_by_agent(&text) {
            removed.extend(remove(path)?);
        }
    }
    Ok(removed)
}

fn configurations(places: &Places) -> Vec<(PathBuf, String)> {
    let files = fs::read_dir(&places.cni_conf_dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<_> = files.filter_map(|path| fs::read_to_string(&path).ok().map(|text| (path, text))).collect();
    files.sort();
    files
}

/// A configuration of the user's own goes on working with them.
fn remove_plugins(places: &Places) -> Result<Vec<String>, RestoreError> {
    if let Some((path, _)) = configurations(places).iter().find(|(_, text)| conflist::names_ours(text)) {
        info!(file = %path.display(), "the plugins stay: this configuration names them");
        return Ok(vec![]);
    }
    let removed = OURS.iter().map(|name| remove(places.cni_bin_dir.join(name))).collect::<Result<Vec<_>, _>>()?;
    Ok(removed.into_iter().flatten().collect())
}

/// Those to unleased addresses, also of versions that did not mark theirs. Answers how many there were.
fn remove_routes(kernel: &mut Kernel, places: &Places) -> Result<usize, RestoreError> {
    let store = if places.run_dir.exists() { Some(Store::at(&places.run_dir, boot(places)?)) } else { None };
    let former = Former::find(Memory::load(&places.state_dir).as_ref(), store.as_ref()).map_err(RestoreError::Leases)?;
    let view = kernel.view().map_err(RestoreError::Kernel)?;
    kernel.claim_unreachable(&view, &former).map_err(RestoreError::Kernel)?;
    let view = kernel.view().map_err(RestoreError::Kernel)?;
    kernel.converge_unreachable(&view, &[].into()).map_err(RestoreError::Kernel)
}

/// Whether others need packets forwarded, now that nothing of ours does: what they have is looked for, since none of them says so.
fn forwarding(kernel: &mut Kernel) -> Result<Forwarding, RestoreError> {
    let mut others = kernel.bridges_of_networks().map_err(RestoreError::Kernel)?;
    for (program, name) in PROGRAMS {
        let iptables = Iptables::new(program);
        if iptables.has_tables() {
            let chains = iptables.observe(Limit::of(LIMIT)).map_err(|source| RestoreError::Rules { program: name, source })?;
            others.extend(rules::hidden_by_others(&chains));
        }
    }
    if others.is_empty() {
        return Ok(Forwarding::Unneeded);
    }
    info!(others = others.join(", "), "ip_forward stays as it is: others need it");
    Ok(Forwarding::NeededByOthers)
}

/// Whether there were any.
fn withdraw(program: Program) -> Result<bool, IptablesError> {
    let iptables = Iptables::new(program);
    if !iptables.has_tables() {
        return Ok(false);
    }
    iptables::withdraw(&iptables, Limit::of(LIMIT))
}

fn remove(path: PathBuf) -> Result<Option<String>, RestoreError> {
    match fs::remove_file(&path) {
        Ok(()) => Ok(Some(path.display().to_string())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(RestoreError::Remove { path, source }),
    }
}

/// A folder that is a mount of its own is emptied: in a container what it is mounted in is read-only.
fn remove_folder(path: &Path) -> Result<Option<String>, RestoreError> {
    let failed = |source| RestoreError::Remove { path: path.to_owned(), source };
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries.collect::<io::Result<Vec<_>>>().map_err(failed)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    for entry in &entries {
        let is_folder = entry.file_type().map_err(failed)?.is_dir();
        if is_folder { fs::remove_dir_all(entry.path()) } else { fs::remove_file(entry.path()) }.map_err(failed)?;
    }
    match fs::remove_dir(path) {
        Ok(()) => Ok(Some(path.display().to_string())),
        Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::BUSY | Errno::ROFS)) => {
            Ok((!entries.is_empty()).then(|| format!("what was in {}", path.display())))
        }
        Err(source) => Err(failed(source)),
    }
}
