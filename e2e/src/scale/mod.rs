//! `cargo xtask bench scale`: a fleet of Nodes that are objects only, on a real API server, with simulated agents, two real controllers, and the
//! emulated Azure under its documented limits, in real time: cold fill, rest, churn, upgrade, fail-over.
//!
//! Numbers are reported and never asserted; what must hold of addresses is.

mod agents;
mod measure;
mod place;
mod run;

use std::{
    io::Write as _,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    bench::Figure,
    build::{Cache, Operator, Tools, product, progress, require_packages},
    lab::xtask,
};
pub use run::inside;

/// The boot that all nodes report.
const BOOT: &str = "boot";

/// How large a run is.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Size {
    /// Nodes: nine of ten instances of Uniform scale sets, the others VMs.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(2..=5000))]
    pub nodes: u32,
    /// Subscriptions that they are dealt out to. Azure's limits are those of a subscription: ten have ten times as much.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub subscriptions: u32,
    /// How long nodes' demand goes up and down, in seconds.
    #[arg(long, default_value_t = 60)]
    pub churn: u64,
    /// How often the leader is struck at the end: of three times it is killed twice, and cut off from the API server once.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub failovers: u32,
}

/// Runs in namespaces of its own and answers what was measured.
///
/// # Errors
/// If something cannot be built or started, or an address was given twice, lost, or never.
pub fn measure(size: Size, operator: Operator) -> Result<Vec<Figure>> {
    require_packages()?;
    let cache = Cache::open()?;
    Tools::ensure(&cache)?;
    let operator = product(&cache, operator)?.bin.join("azure-vnet-operator");
    let folder = std::env::temp_dir().join(format!("azure-vnet-scale-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    progress(&format!("{} nodes in namespaces of their own", size.nodes));
    let result = in_namespaces(size, &operator, &folder);
    if result.is_ok() {
        std::fs::remove_dir_all(&folder)?;
    }
    result.with_context(|| format!("logs are in {}", folder.display()))
}

fn in_namespaces(size: Size, operator: &Path, folder: &Path) -> Result<Vec<Figure>> {
    let mut inside = Command::new("unshare");
    inside.args(["--net", "--mount", "--pid", "--fork", "--kill-child=SIGKILL", "--mount-proc", "--propagation", "private"]);
    inside.arg(xtask()?).arg("scale-inside").arg(operator).arg(folder);
    for (flag, value) in [
        ("--nodes", u64::from(size.nodes)),
        ("--subscriptions", u64::from(size.subscriptions)),
        ("--churn", size.churn),
        ("--failovers", u64::from(size.failovers)),
    ] {
        inside.arg(flag).arg(value.to_string());
    }
    let output = inside.process_group(0).stdin(Stdio::null()).stderr(Stdio::inherit()).output().context("cannot run unshare")?;
    if !output.status.success() {
        bail!("the run failed ({})", output.status);
    }
    String::from_utf8(output.stdout)?.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

/// Arguments of the process that runs in namespaces of its own.
#[derive(Clone, Debug, clap::Args)]
pub struct InsideArguments {
    /// The operator.
    pub operator: PathBuf,
    /// Where to keep logs.
    pub folder: PathBuf,
    /// How large it is.
    #[command(flatten)]
    pub size: Size,
}

/// Prints one figure a line for the process outside.
fn print(figures: &[Figure]) -> Result<()> {
    let mut out = std::io::stdout();
    for figure in figures {
        writeln!(out, "{}", serde_json::to_string(figure)?)?;
    }
    Ok(())
}
