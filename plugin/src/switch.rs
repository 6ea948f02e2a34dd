//! Switches of the kernel, in its files: read first, so that one that stands right is not written.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Where the kernel's switches of a network are, for a process that may write them there.
pub const NET: &str = "/proc/sys/net";
const CALL_IPTABLES: &str = "bridge/bridge-nf-call-iptables";
const CALL_IP6TABLES: &str = "bridge/bridge-nf-call-ip6tables";
const IPV6: &str = "/proc/sys/net/ipv6/conf";

/// A switch that could not be set.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {path}")]
pub struct SwitchError {
    /// Its file.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// Whether bridges hand packets to the rules of IPv4. `net` is where the switches are.
#[must_use]
pub fn bridges_call_iptables(net: &Path) -> bool {
    stands(&net.join(CALL_IPTABLES), "1")
}

/// Lets bridges hand packets to the rules of IPv4 and IPv6: without, services do not work (safety rule PK3). `net` is where
/// the switches are.
///
/// # Errors
/// The kernel has no such switch, or refuses.
pub fn let_bridges_call_iptables(net: &Path) -> Result<(), SwitchError> {
    set(net.join(CALL_IPTABLES), "1")?;
    set(net.join(CALL_IP6TABLES), "1")
}

/// Lets nobody tell the host through this link where to send its packets. Without IPv6 nobody can.
///
/// # Errors
/// The kernel refuses.
pub fn ignore_router_advertisements(link: &str) -> Result<(), SwitchError> {
    match set(Path::new(IPV6).join(link).join("accept_ra"), "0") {
        Err(error) if error.source.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Lets the host route IPv6. Links that learn routers from advertisements go on doing so, which a host that routes otherwise stops.
///
/// # Errors
/// The kernel has no IPv6, or refuses.
pub fn forward_ipv6() -> Result<(), SwitchError> {
    let forwarding = Path::new(IPV6).join("all/forwarding");
    if stands(&forwarding, "1") {
        return Ok(());
    }
    let links = fs::read_dir(IPV6).map_err(|source| SwitchError { path: IPV6.into(), source })?;
    for accept in links.flatten().map(|link| link.path().join("accept_ra")).filter(|accept| stands(accept, "1")) {
        set(accept, "2")?;
    }
    set(forwarding, "1")
}

fn stands(path: &Path, value: &str) -> bool {
    fs::read_to_string(path).is_ok_and(|there| there.trim() == value)
}

fn set(path: PathBuf, value: &str) -> Result<(), SwitchError> {
    if stands(&path, value) { Ok(()) } else { fs::write(&path, value).map_err(|source| SwitchError { path, source }) }
}
