//! The host's name servers where systemd-resolved asks them: it knows them link by link, and only those of a link with addresses count. So
//! the bridge, which gets the uplink's addresses, gets its name servers and domains too. systemd-resolved keeps them over its own restart
//! and one of systemd-networkd, until the bridge is deleted; the uplink keeps its own, which count again once its addresses are back.

use std::{
    io,
    os::fd::AsFd as _,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use azure_vnet_plugin_core::resolvers;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};

/// systemd-resolved's folder, which is there while it runs.
const RUNS: &str = "/run/systemd/resolve";
const PROGRAM: &str = "resolvectl";
const DOMAINS: &str = "domain";
const SERVERS: &str = "dns";
/// How long all of it may take: less than others wait for the lock of the host's network.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why the bridge lacks the uplink's name servers.
#[derive(Debug, thiserror::Error)]
pub enum ResolversError {
    /// The program cannot be run.
    #[error("cannot run {PROGRAM}")]
    Run(#[source] io::Error),
    /// It fails.
    #[error("{PROGRAM} {arguments} failed: {said}")]
    Failed {
        /// What it was to do.
        arguments: String,
        /// What it said.
        said: String,
    },
    /// It does not end.
    #[error("{PROGRAM} does not answer within {} s", PATIENCE.as_secs())]
    Silent,
}

/// Gives the bridge the domains and name servers of the uplink, unless it has servers. They come last: who is killed before does all of it again.
///
/// # Errors
/// systemd-resolved refuses or does not answer.
pub fn take_over(uplink: &str, bridge: &str) -> Result<(), ResolversError> {
    if !Path::new(RUNS).exists() {
        return Ok(());
    }
    let until = Instant::now() + PATIENCE;
    let of = |property: &str, link: &str| Ok(resolvers::words(&ask(&[property, link], until)?));
    if !of(SERVERS, bridge)?.is_empty() || of(SERVERS, uplink)?.is_empty() {
        return Ok(());
    }
    for property in [DOMAINS, SERVERS] {
        let words = of(property, uplink)?;
        if !words.is_empty() {
            let arguments: Vec<&str> = [property, bridge].into_iter().chain(words.iter().map(String::as_str)).collect();
            ask(&arguments, until)?;
        }
    }
    Ok(())
}

fn ask(arguments: &[&str], until: Instant) -> Result<String, ResolversError> {
    let mut command = Command::new(PROGRAM);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(ResolversError::Run)?;
    // What it says is less than a pipe holds.
    if !ends(&child, until).map_err(ResolversError::Run)? {
        let _ = child.kill();
        let _ = child.wait();
        return Err(ResolversError::Silent);
    }
    let output = child.wait_with_output().map_err(ResolversError::Run)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(ResolversError::Failed { arguments: arguments.join(" "), said: String::from_utf8_lossy(&output.stderr).trim().to_owned() })
}

/// Whether a child ends in time.
fn ends(child: &Child, until: Instant) -> io::Result<bool> {
    let process = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    loop {
        let left = Timespec::try_from(until.saturating_duration_since(Instant::now())).map_err(io::Error::other)?;
        match poll(&mut [PollFd::from_borrowed_fd(process.as_fd(), PollFlags::IN)], Some(&left)) {
            Err(rustix::io::Errno::INTR) => {}
            ended => return Ok(ended? > 0),
        }
    }
}
