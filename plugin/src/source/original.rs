//! Takes over the pods of the original plugins on a machine whose plugins were replaced by these: their state files are believed where the
//! kernel agrees, and their links get the label that ours have, so that DEL and a later rebuild know them.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use azure_vnet_plugin_core::{
    attachment::{Mode, NetworkName},
    boot::BootTime,
    original::{self, Endpoint},
    wiring::Alias,
};

use super::original_network;
use crate::{
    lock,
    netlink::{Change, LinkBy, LinkIndex, Netlink, NetlinkError},
    store::KernelLease,
};

/// By this much the clocks of the files and of the boot may differ.
const TOLERANCE: Duration = Duration::from_mins(1);

/// How long a command of the original is waited for.
const UNDER_WAY: Duration = Duration::from_secs(10);

/// Where the original keeps its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateFiles {
    /// `azure-vnet.json`.
    pub network: PathBuf,
    /// `azure-vnet-ipam.json`.
    pub ipam: PathBuf,
    /// Each of its commands has the flock on this from its beginning to its end.
    pub lock: PathBuf,
}

impl StateFiles {
    /// The leases of the pods that the files tell of and the kernel shows. Their links are labelled, and their
    /// network is made ours.
    pub(super) fn leases(&self, host: &mut Netlink, network: &NetworkName, now: BootTime) -> Result<Vec<KernelLease>, NetlinkError> {
        let endpoints = original::endpoints(of_this_boot(&self.network, now).as_deref(), of_this_boot(&self.ipam, now).as_deref());
        let is_bridged = |endpoint: &Endpoint| endpoint.mode != Mode::Transparent && endpoint.host_link.is_some();
        let has_bridged = endpoints.iter().any(is_bridged);
        let mut there = Vec::new();
        for endpoint in endpoints {
            if is_there(&endpoint, host)? {
                there.push(endpoint);
            }
        }
        if has_bridged {
            original_network::take_over(host, &there.iter().filter(|endpoint| is_bridged(endpoint)).cloned().collect::<Vec<_>>());
        }
        Ok(there.into_iter().filter_map(|endpoint| lease(endpoint, network)).collect())
    }

    /// Waits until no command of the original is under way, and lets none begin until the answer is dropped: what it is taking down must not be taken over,
    /// nor what it is setting up be missed. Nothing where it has no state to take over, or is too old to have this lock.
    pub(super) fn at_rest(&self) -> io::Result<Option<File>> {
        if !self.network.exists() {
            return Ok(None);
        }
        let lock = match File::options().read(true).write(true).open(&self.lock) {
            Ok(lock) => lock,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        if lock::wait_for(&lock, UNDER_WAY)? { Ok(Some(lock)) } else { Err(io::ErrorKind::TimedOut.into()) }
    }

    /// Sets the files aside: from here on the store knows, and they would tell of pods that are gone.
    pub(super) fn set_aside(&self) {
        for path in [&self.network, &self.ipam] {
            let mut aside = path.clone().into_os_string();
            aside.push(".adopted");
            // Where it cannot be moved it is read again after the store was lost, against the kernel as now.
            let _ = fs::rename(path, aside);
        }
    }
}

/// The content of a file, unless a former boot wrote it.
fn of_this_boot(path: &Path, now: BootTime) -> Option<Vec<u8>> {
    let written = fs::metadata(path).ok()?.modified().ok()?;
    let booted = SystemTime::now().checked_sub(Duration::from_millis(now.as_millis()) + TOLERANCE)?;
    if written < booted { None } else { fs::read(path).ok() }
}

/// Whether the pod's link is there and no one else's; it gets its label. Of a link that another plugin made nothing is known: its record counts.
fn is_there(endpoint: &Endpoint, host: &mut Netlink) -> Result<bool, NetlinkError> {
    let Some(name) = &endpoint.host_link else { return Ok(true) };
    let Some(link) = host.link(LinkBy::Name(name.as_str()))? else { return Ok(false) };
    let alias = Alias { attachment: endpoint.attachment.clone(), address: endpoint.address.into() }.to_string();
    match link.alias {
        Some(there) => Ok(there == alias),
        None => host.change(label(endpoint.mode, link.index, &alias)).map(|()| true),
    }
}

/// Only where the host routes does the link answer ARP for others.
fn label(mode: Mode, link: LinkIndex, alias: &str) -> Change<'_> {
    match mode {
        Mode::Transparent => Change::Label { link, alias },
        Mode::Bridge | Mode::Tunnel => Change::SetAlias { link, alias },
    }
}

fn lease(endpoint: Endpoint, network: &NetworkName) -> Option<KernelLease> {
    let Endpoint { address, attachment, host_link, pod, network: own, mode, netns, mac: _ } = endpoint;
    let network = own.unwrap_or_else(|| network.clone());
    let host_link = match host_link {
        Some(name) => name,
        None => azure_vnet_plugin_core::wiring::host_link(mode, &network, &attachment, pod.as_ref()).ok()?,
    };
    Some(KernelLease { address, attachment, host_link, pod, network, mode, netns })
}
