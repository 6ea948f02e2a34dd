//! Questions for which nobody waits: a process of its own asks them once the answer to the runtime is out, and ends with the answer. It is this plugin
//! again, run with [`ARGUMENT`] and the configuration; it says nothing to anyone, and its runtime does not know it.

use std::{
    io::{self, Write as _},
    os::unix::process::CommandExt as _,
    process::{Command, Stdio},
};

use azure_vnet_plugin_core::{
    ipam::Source,
    pool::SealOwner,
    source::pace::{Attempt, Refresh},
};

use super::{Machine, Need, SourceError};
use crate::netlink::Netlink;

/// Makes a plugin the process that asks.
pub const ARGUMENT: &str = "--learn";

/// Starts the process that asks, by a configuration.
///
/// # Errors
/// It cannot be started.
pub fn start(stdin: &[u8]) -> io::Result<()> {
    let mut command = Command::new("/proc/self/exe");
    command.arg(ARGUMENT).process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    child.stdin.take().map_or(Ok(()), |mut pipe| pipe.write_all(stdin))
}

impl Machine<'_> {
    /// Takes the question upon this process that is due and for which no ADD waits; of several processes one does. Whether it is to be asked.
    ///
    /// # Errors
    /// See [`SourceError`].
    pub fn claim(&self) -> Result<bool, SourceError> {
        let Some(query) = self.store.query()? else { return Ok(false) };
        let last = query.last_attempt();
        if self.refresh(self.store.learned()?.as_ref(), last.as_ref()) != Refresh::Later {
            return Ok(false);
        }
        let failures = last.filter(|attempt| attempt.boot == *self.store.boot()).map_or(0, |attempt| attempt.failures);
        query.note(&Attempt { boot: self.store.boot().clone(), sent: self.store.now(), failures });
        Ok(true)
    }

    /// Asks what was claimed, as patiently as where nothing is known.
    ///
    /// # Errors
    /// See [`SourceError`].
    pub fn learn(&self, host: &mut Netlink) -> Result<(), SourceError> {
        let Source::Azure(services) = self.own.source else { return Ok(()) };
        if !self.store.seal().is_ok_and(|sealed| sealed.owner == SealOwner::Plugin) {
            return Ok(());
        }
        match self.store.query()? {
            Some(query) => self.ask(host, &query, services, Need::Must),
            None => Ok(()),
        }
    }
}
