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
    let lab = Lab::up(&LabOptions::default())?;
    let cluster = Cluster::new(&lab)?;
    scenario::install(&cluster, &[])?;
    scenario::configure(&cluster, scenario::CONFIG)?;
    scenario::wait_ready(&cluster, Duration::from_mins(2))?;
    scenario::start_pods(&cluster, Duration::from_mins(2))?;
    for node in lab.nodes() {
        for line in node.exec(&["/bin/sh", "-c", "ps -C azure-vnet-operator -o rss=,args="])?.lines() {
            let (rss, arguments) = line.trim().split_once(' ').context("ps prints two columns")?;
            let part = arguments.split_whitespace().nth(1).unwrap_or_default();
            figures.push(Figure::plain(format!("resident: {part} on {}", node.name()), mebibytes(rss.parse::<u64>()? * 1024), "MiB"));
        }
    }
    lab.down()?;
    Ok(figures)
}

fn mebibytes(bytes: u64) -> f64 {
    f64::from(u32::try_from(bytes / 1024).unwrap_or(u32::MAX)) / 1024.0
}
