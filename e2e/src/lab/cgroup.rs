//! The lab's places in the machine's cgroup v1 hierarchies, below the place of whoever makes it, so that what bounds that bounds the lab.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::plan::HIERARCHIES;
use super::run::write;

/// The folder of lab `name` in each hierarchy, in the order of [`HIERARCHIES`].
///
/// # Errors
/// If this process's own place cannot be read.
pub fn folders(name: &str) -> Result<Vec<PathBuf>> {
    let own = fs::read_to_string("/proc/self/cgroup").context("cannot read /proc/self/cgroup")?;
    HIERARCHIES.iter().map(|hierarchy| folder(&own, hierarchy, name)).collect()
}

fn folder(own: &str, hierarchy: &str, name: &str) -> Result<PathBuf> {
    let wanted = if hierarchy == "systemd" { "name=systemd" } else { hierarchy };
    let place = own.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        controllers.split(',').any(|controller| controller == wanted).then(|| path.trim_matches('/').to_owned())
    });
    let place = place.with_context(|| format!("this machine has no cgroup v1 hierarchy {hierarchy}, which the lab's nodes need"))?;
    Ok(Path::new("/sys/fs/cgroup").join(hierarchy).join(place).join(name))
}

/// An empty cpuset takes no process: copies processors and memory nodes of the hierarchy's root.
///
/// # Errors
/// If they cannot be copied.
pub fn copy_cpuset(root: &Path, folder: &Path) -> Result<()> {
    for name in ["cpuset.cpus", "cpuset.mems"] {
        let value = fs::read_to_string(root.join(name)).with_context(|| format!("cannot read {}", root.join(name).display()))?;
        write(folder.join(name), value.trim())?;
    }
    Ok(())
}

/// Removes a folder with all below it, once the processes that were in it have gone.
///
/// # Errors
/// If something is left after a while.
pub fn remove(folder: &Path) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while folder.exists() {
        remove_once(folder);
        if Instant::now() >= deadline && folder.exists() {
            bail!("{} is still in use", folder.display());
        }
        if folder.exists() {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    Ok(())
}

fn remove_once(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_once(&entry.path());
        }
    }
    let _ = fs::remove_dir(folder);
}
