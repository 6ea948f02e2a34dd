//! Whether anything of a lab is left on the machine: processes, cgroups, mounts, its folder.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::plan::HIERARCHIES;
use super::state;
use crate::build::Cache;

/// The folders of the labs that a process made and that are still there.
///
/// # Errors
/// If the cache cannot be read.
pub fn labs_of(maker: u32) -> Result<Vec<PathBuf>> {
    Ok(state::all(&Cache::open()?)?.iter().filter(|state| state.is_made_by(maker)).map(|state| state.folder().to_path_buf()).collect())
}

/// What is left of a lab, a line each. It asks the kernel, not what the lab has written down.
///
/// # Errors
/// If the kernel's lists cannot be read.
pub fn left_of(folder: &Path) -> Result<Vec<String>> {
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut left = processes(&name)?;
    for hierarchy in HIERARCHIES {
        left.extend(cgroups(&Path::new("/sys/fs/cgroup").join(hierarchy), &name));
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    left.extend(mounts.lines().filter(|line| line.contains(&name)).map(|line| format!("mount {line}")));
    if folder.exists() {
        left.push(format!("folder {}", folder.display()));
    }
    Ok(left)
}

/// Those whose cgroup, command line or executable names the lab; one that ends meanwhile is not left.
fn processes(name: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for process in fs::read_dir("/proc")?.flatten().map(|entry| entry.path()) {
        let texts = ["cgroup", "cmdline"].map(|file| fs::read(process.join(file)).unwrap_or_default());
        let executable = fs::read_link(process.join("exe")).unwrap_or_default();
        let names_it = texts.iter().any(|text| String::from_utf8_lossy(text).contains(name));
        if names_it || executable.to_string_lossy().contains(name) {
            found.push(format!("process {}", process.display()));
        }
    }
    Ok(found)
}

fn cgroups(below: &Path, name: &str) -> Vec<String> {
    let folders = fs::read_dir(below).into_iter().flatten().flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let (own, others): (Vec<PathBuf>, Vec<PathBuf>) =
        folders.map(|entry| entry.path()).partition(|folder| folder.file_name().is_some_and(|last| last == name));
    let own = own.into_iter().map(|folder| format!("cgroup {}", folder.display()));
    own.chain(others.iter().flat_map(|folder| cgroups(folder, name))).collect()
}
