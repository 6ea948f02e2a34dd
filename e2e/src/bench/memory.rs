//! Resident memory of the long-running parts in a lab at rest, and what ships.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::figure::Figure;
use crate::lab::{Lab, LabOptions};
use crate::scenario::{self, Cluster};

/// Brings up a lab with twelve pods, and reads.
///
/// # Errors
/// If the lab does not come up, or a process cannot be read.
pub fn measure(bin: &Path) -> Result<Vec<Figure>> {
    let mut figures = vec![];
    for name in ["azure-vnet", "azure-vnet-ipam"] {
        let bytes = fs::metadata(bin.join(name))?.len();
        figures.push(Figure::plain(format!("size of {name}, static"), mebibytes(bytes), "MiB"));
    }
    let lab = Lab::up(&LabOptions { shipped: true, ..LabOptions::default() })?;
    let cluster = Cluster::new(&lab)?;
    scenario::install(&cluster, &[])?;
    scenario::configure(&cluster, scenario::CONFIG)?;
    scenario::wait_ready(&cluster, Duration::from_mins(2))?;
    scenario::start_pods(&cluster, Duration::from_mins(2))?;
    for node in lab.nodes() {
        for line in node.exec(&["/bin/sh", "-c", "ps -C azure-vnet-operator -o pid=,args="])?.lines() {
            let (pid, arguments) = line.trim().split_once(' ').context("ps prints two columns")?;
            let part = arguments.split_whitespace().nth(1).unwrap_or_default();
            let status = node.exec(&["cat", &format!("/proc/{pid}/status")])?;
            for (field, what) in [("VmRSS:", "resident"), ("RssAnon:", "of it not shared with others")] {
                figures.push(Figure::plain(format!("{what}: {part} on {}", node.name()), mebibytes(bytes(&status, field)?), "MiB"));
            }
        }
    }
    lab.down()?;
    Ok(figures)
}

/// A field of a process's status, which the kernel gives in kibibytes.
fn bytes(status: &str, field: &str) -> Result<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field)).with_context(|| format!("a process's status has {field}"))?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

fn mebibytes(bytes: u64) -> f64 {
    f64::from(u32::try_from(bytes / 1024).unwrap_or(u32::MAX)) / 1024.0
}
