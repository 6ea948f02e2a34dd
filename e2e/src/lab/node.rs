//! One node, from outside.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::plan::Machine;
use super::run;
use super::state::{self, State};

/// One node of a lab.
#[derive(Debug, Clone)]
pub struct Node {
    state: State,
    name: String,
    address: Ipv4Addr,
}

impl Node {
    pub(super) fn new(state: &State, machine: &Machine) -> Self {
        Self { state: state.clone(), name: machine.name.clone(), address: machine.address }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its own address.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Runs a program in the node and returns what it printed.
    ///
    /// # Errors
    /// If the node is off or the program fails.
    pub fn exec(&self, arguments: &[&str]) -> Result<String> {
        run::finish(self.enter()?.args(arguments))
    }

    /// A command in all of the node's namespaces.
    ///
    /// # Errors
    /// If the node is off.
    pub fn enter(&self) -> Result<Command> {
        let pid = self.pid().with_context(|| format!("{} is off", self.name))?;
        let mut command = Command::new("nsenter");
        command
            .arg("-t")
            .arg(pid.to_string())
            .args(["-a", "--"])
            .env("PATH", "/kube/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", "/root");
        Ok(command)
    }

    /// A file of the node as this process can open it; none while the node is off.
    #[must_use]
    pub fn host_path(&self, path: &str) -> Option<PathBuf> {
        Some(PathBuf::from(format!("/proc/{}/root", self.pid()?)).join(path.trim_start_matches('/')))
    }

    /// Kills the node's process that was started with these first words, as a crash does.
    ///
    /// # Errors
    /// If there is not exactly one such process.
    pub fn kill(&self, words: &[&str]) -> Result<()> {
        let place = format!("{}/{}/", self.state.name(), self.name);
        let begins = words.iter().flat_map(|word| [word.as_bytes(), b"\0"].concat()).collect::<Vec<u8>>();
        let all = std::fs::read_dir("/proc")?.flatten().filter_map(|entry| entry.file_name().to_string_lossy().parse::<u32>().ok());
        let read = |pid: u32, file: &str| std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let own =
            all.filter(|pid| String::from_utf8_lossy(&read(*pid, "cgroup")).contains(&place) && read(*pid, "cmdline").starts_with(&begins));
        match own.collect::<Vec<_>>()[..] {
            [pid] => state::kill(pid),
            ref found => bail!("{} has {} processes {words:?}, not one", self.name, found.len()),
        }
    }

    /// The node's first process: in the node's cgroup, and number 1 of a pid namespace two below this one.
    fn pid(&self) -> Option<u32> {
        let hierarchy = self.state.cgroups().ok()?.into_iter().find(|folder| folder.starts_with("/sys/fs/cgroup/pids"))?;
        let members = std::fs::read_to_string(hierarchy.join(&self.name).join("cgroup.procs")).ok()?;
        members.lines().filter_map(|pid| pid.parse().ok()).find(|pid| is_first_of_node(*pid))
    }

    pub(super) fn power_off(&self) -> Result<()> {
        let Some(pid) = self.pid() else { return Ok(()) };
        state::kill(pid)?;
        state::await_end(pid)?;
        Ok(())
    }
}

fn is_first_of_node(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    numbers.is_some_and(|numbers| matches!(numbers.split_whitespace().collect::<Vec<_>>()[..], [_, _, "1"]))
}
