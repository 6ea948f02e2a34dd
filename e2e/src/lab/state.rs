//! One lab's folder and first process, and what is left of labs whose maker is gone.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::cgroup;
use crate::build::Cache;

/// The folder of one lab.
#[derive(Debug, Clone)]
pub struct State {
    folder: PathBuf,
}

impl State {
    /// Makes the folder of a new lab.
    ///
    /// # Errors
    /// If it cannot be made, or the machine has too few inotify instances.
    pub fn create(cache: &Cache) -> Result<Self> {
        enough_inotify()?;
        let folder = Self::claim(&cache.labs())?;
        for below in ["log", "nodes", "bin", "images", "home", "pki"] {
            fs::create_dir_all(folder.join(below)).with_context(|| format!("cannot make {}", folder.join(below).display()))?;
        }
        let state = Self { folder };
        let lines: Vec<String> = cgroup::folders(&state.name())?.iter().map(|folder| folder.display().to_string()).collect();
        super::run::write(state.path("cgroups"), &lines.join("\n"))?;
        Ok(state)
    }

    /// Makes a folder that no other lab has, also where tests bring up several at once. Its name says who made it.
    fn claim(labs: &Path) -> Result<PathBuf> {
        fs::create_dir_all(labs).with_context(|| format!("cannot make {}", labs.display()))?;
        let name = format!("lab-{}-{}", std::process::id(), start_time(std::process::id()).unwrap_or_default());
        for count in 1.. {
            let folder = labs.join(format!("{name}-{count}"));
            match fs::create_dir(&folder) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                made => return made.map(|()| folder).with_context(|| format!("cannot make a lab's folder in {}", labs.display())),
            }
        }
        bail!("all names of labs are taken")
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A path below it.
    #[must_use]
    pub fn path(&self, below: impl AsRef<Path>) -> PathBuf {
        self.folder.join(below)
    }

    /// The lab's cgroups.
    ///
    /// # Errors
    /// If its list cannot be read.
    pub fn cgroups(&self) -> Result<Vec<PathBuf>> {
        Ok(fs::read_to_string(self.path("cgroups"))?.lines().map(PathBuf::from).collect())
    }

    /// Notes which process is the lab's first.
    ///
    /// # Errors
    /// If the note cannot be written.
    pub fn record_init(&self, pid: u32) -> Result<()> {
        super::run::write(self.path("init"), &format!("{pid} {}", start_time(pid).unwrap_or_default()))
    }

    /// The lab's first process; 0 where none is known.
    #[must_use]
    pub fn init_pid(&self) -> u32 {
        self.init().map_or(0, |(pid, _)| pid)
    }

    fn init(&self) -> Option<(u32, u64)> {
        let text = fs::read_to_string(self.path("init")).ok()?;
        let (pid, start) = text.trim().split_once(' ')?;
        Some((pid.parse().ok()?, start.parse().ok()?))
    }

    /// Whether the lab's first process still is the one that was noted.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.init().is_some_and(|(pid, start)| start_time(pid) == Some(start))
    }

    /// Ends the lab's first process, and with it every other.
    ///
    /// # Errors
    /// If it does not end.
    pub fn end(&self) -> Result<()> {
        let Some((pid, _)) = self.init().filter(|_| self.is_alive()) else { return Ok(()) };
        kill(pid)?;
        await_end(pid)
    }

    /// Removes cgroups and folder, and makes sure that they and all mounts below are gone.
    ///
    /// # Errors
    /// Names what is left.
    pub fn clean(&self) -> Result<()> {
        for folder in self.cgroups().unwrap_or_default() {
            cgroup::remove(&folder)?;
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let folder = self.folder.to_string_lossy();
        ensure!(!mounts.contains(&*folder), "a mount below {folder} is left");
        // Another lab that comes up removes what an ended one left, and may be at it: something is gone then, and not all of it yet.
        while let Err(error) = fs::remove_dir_all(&self.folder) {
            if error.kind() != ErrorKind::NotFound {
                return Err(error).with_context(|| format!("cannot remove {folder}"));
            }
            if !self.folder.exists() {
                break;
            }
        }
        Ok(())
    }

    /// The folder's last part, which also names the lab's cgroups.
    #[must_use]
    pub fn name(&self) -> String {
        self.folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    fn is_orphan(&self) -> bool {
        !self.is_alive() && self.maker().is_none_or(|(pid, start)| start_time(pid) != Some(start))
    }

    /// Whether a process that lives made this lab.
    #[must_use]
    pub fn is_made_by(&self, process: u32) -> bool {
        self.maker().is_some_and(|(pid, start)| pid == process && start_time(pid) == Some(start))
    }

    /// The process that made a lab is in its name: its number and when it started.
    fn maker(&self) -> Option<(u32, u64)> {
        let name = self.name();
        let mut parts = name.split('-').skip(1);
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    }
}

/// Removes what is left of labs whose maker and first process are gone.
///
/// # Errors
/// If something cannot be removed.
pub fn sweep(cache: &Cache) -> Result<()> {
    for state in all(cache)?.into_iter().filter(State::is_orphan) {
        state.clean()?;
    }
    Ok(())
}

/// Ends and removes the labs that this process made.
///
/// # Errors
/// If something of them is left.
pub fn end_own(cache: &Cache) -> Result<()> {
    for state in all(cache)?.into_iter().filter(|state| state.is_made_by(std::process::id())) {
        state.end()?;
        state.clean()?;
    }
    Ok(())
}

/// Every lab whose folder is there, oldest first.
///
/// # Errors
/// If the folder of labs cannot be read.
pub fn all(cache: &Cache) -> Result<Vec<State>> {
    let folder = cache.labs();
    if !folder.exists() {
        return Ok(vec![]);
    }
    let mut states: Vec<State> = fs::read_dir(folder)?.flatten().map(|entry| State { folder: entry.path() }).collect();
    states.sort_by_key(|state| state.folder.metadata().and_then(|meta| meta.modified()).ok());
    Ok(states)
}

/// Kills a process.
///
/// # Errors
/// If the kernel refuses for another reason than that it is gone.
pub fn kill(pid: u32) -> Result<()> {
    let target = rustix::process::Pid::from_raw(i32::try_from(pid)?).context("process 0 is none")?;
    match rustix::process::kill_process(target, rustix::process::Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot end process {pid}")),
    }
}

/// Waits until a process is gone or a zombie.
///
/// # Errors
/// If it takes too long.
pub fn await_end(pid: u32) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(15);
    while start_time(pid).is_some() {
        if Instant::now() >= deadline {
            bail!("process {pid} does not end");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// When a living process started, in clock ticks; none for a zombie.
fn start_time(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    let alive = fields.next()? != "Z";
    let started = fields.nth(18)?.parse().ok()?;
    alive.then_some(started)
}

/// The only child of a process.
#[must_use]
pub fn only_child(pid: u32) -> Option<u32> {
    fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?.split_whitespace().next()?.parse().ok()
}

/// Links a file into a lab's folder, or copies it where they lie on different file systems.
///
/// # Errors
/// If neither works.
pub fn link(from: &Path, to: &Path) -> Result<()> {
    if fs::hard_link(from, to).is_err() {
        fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
    }
    Ok(())
}

/// This program, which is also the lab's and the nodes' first process. Tests find it beside themselves.
///
/// # Errors
/// If it was not built.
pub fn xtask() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let folders = own.ancestors().skip(1).take(2);
    let found = folders.map(|folder| folder.join("xtask")).find(|path| path.exists());
    found.with_context(|| format!("xtask is not beside {}: build it with `cargo build -p azure-vnet-e2e`", own.display()))
}

/// A lab of three nodes takes up to 40 inotify instances, and two run at once in tests.
fn enough_inotify() -> Result<()> {
    let limit: u32 = fs::read_to_string("/proc/sys/fs/inotify/max_user_instances")?.trim().parse()?;
    ensure!(limit >= 96, "fs.inotify.max_user_instances is {limit}; two labs need 96: sysctl -w fs.inotify.max_user_instances=512");
    Ok(())
}
