//! The host's name servers where systemd-resolved asks them: it knows them link by link, and only those of a link with addresses count. So
//! the bridge, which gets the uplink's addresses, gets its name servers and domains too. systemd-resolved keeps them over its own restart
//! and one of systemd-networkd, until the bridge is deleted; the uplink keeps its own, which count again once its addresses are back.

use std::{
    path::Path,
    time::{Duration, Instant},
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

/// Gives the bridge the domains and name servers of the uplink, unless it has servers. They come last: who is killed before does all of it again.
///
/// # Errors
/// systemd-resolved refuses or does not answer.
pub fn take_over(uplink: &str, bridge: &str) -> Result<(), ProgramError> {
    if !Path::new(RUNS).exists() {
        return Ok(());
    }
    let until = Instant::now() + PATIENCE;
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
