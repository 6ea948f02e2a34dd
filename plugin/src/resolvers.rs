//! The host's name servers where systemd-resolved asks them: it knows them link by link, and only those of a link with addresses count. So
//! the bridge, which gets the uplink's addresses, gets its name servers and domains too. systemd-resolved keeps them over its own restart
//! and one of systemd-networkd, until the bridge is deleted; the uplink keeps its own, which count again once its addresses are back.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use azure_vnet_plugin_core::resolvers;

use crate::program::{self, ProgramError};

/// systemd-resolved's folder, which is there while it runs.
const RUNS: &str = "/run/systemd/resolve";
const PROGRAM: &str = "resolvectl";
const DOMAINS: &str = "domain";
const SERVERS: &str = "dns";
/// How long all of it may take: less than others wait for the lock of the host's network.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a command may try that finds the network made: a service that answers does so in a moment, and the pod waits.
const BRIEFLY: Duration = Duration::from_secs(1);
/// Between two tries of such commands.
const PAUSE: Duration = Duration::from_secs(10);

/// What could not be done for a bridge's name servers when its network was made, and is left to later commands.
#[derive(Debug)]
pub struct Pending(PathBuf);

impl Pending {
    /// The note about a bridge, in a folder that ends with the boot. Touches nothing.
    #[must_use]
    pub fn of(folder: &Path, bridge: &str) -> Self {
        Self(folder.join(format!("resolvers-{bridge}")))
    }

    /// Notes that it was tried in vain. Where there is no such folder, nobody tries again.
    pub fn note(&self) {
        let _ = fs::write(&self.0, "\n");
    }

    /// Tries again what was noted, a while after the last try.
    ///
    /// # Errors
    /// systemd-resolved refuses or does not answer.
    pub fn try_again(&self, uplink: &str, bridge: &str) -> Result<(), ProgramError> {
        if !self.is_due() {
            return Ok(());
        }
        // Who comes meanwhile need not try as well.
        self.note();
        take_over_within(uplink, bridge, BRIEFLY)?;
        let _ = fs::remove_file(&self.0);
        Ok(())
    }

    fn is_due(&self) -> bool {
        let tried = fs::metadata(&self.0).and_then(|note| note.modified());
        tried.is_ok_and(|tried| SystemTime::now().duration_since(tried).map_or(true, |since| since >= PAUSE))
    }
}

/// Gives the bridge the domains and name servers of the uplink, unless it has servers. They come last: who is killed before does all of it again.
///
/// # Errors
/// systemd-resolved refuses or does not answer.
pub fn take_over(uplink: &str, bridge: &str) -> Result<(), ProgramError> {
    take_over_within(uplink, bridge, PATIENCE)
}

fn take_over_within(uplink: &str, bridge: &str, patience: Duration) -> Result<(), ProgramError> {
    if !Path::new(RUNS).exists() {
        return Ok(());
    }
    let until = Instant::now() + patience;
    let of = |property: &str, link: &str| Ok(resolvers::words(&program::run(PROGRAM, &[property, link], until)?));
    if !of(SERVERS, bridge)?.is_empty() || of(SERVERS, uplink)?.is_empty() {
        return Ok(());
    }
    for property in [DOMAINS, SERVERS] {
        let words = of(property, uplink)?;
        if !words.is_empty() {
            let arguments: Vec<&str> = [property, bridge].into_iter().chain(words.iter().map(String::as_str)).collect();
            program::run(PROGRAM, &arguments, until)?;
        }
    }
    Ok(())
}
