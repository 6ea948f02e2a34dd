//! `cargo xtask test`: every check in order, each with its own line, and one summary at the end.
//!
//! It decides nothing about what a test means: it runs the ordinary tools and adds up what they print.

mod space;
mod tally;

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::bench;
use crate::build::{Cache, SIMULATE, cargo, plugins, progress, require_packages};
use crate::commands::sweep::Report;
pub use tally::Tally;

/// One step: what it is called, and what cargo runs in the checkout.
struct Step {
    name: &'static str,
    command: &'static [&'static str],
    arguments: &'static [&'static str],
    plugins: Plugins,
}

/// Which plugins a step runs, if any.
enum Plugins {
    AsBuilt,
    AsShipped,
}

/// In the order that shows the cheapest mistake first. End-to-end tests mostly wait: more of them run than there are processors.
const STEPS: &[Step] = &[
    Step { name: "format", command: &["fmt"], arguments: &["--all", "--check"], plugins: Plugins::AsBuilt },
    Step {
        name: "lints",
        command: &["clippy"],
        arguments: &["--workspace", "--all-targets", "--quiet", "--", "--deny", "warnings"],
        plugins: Plugins::AsBuilt,
    },
    Step {
        name: "unit, property and kernel tests",
        command: &["test"],
        arguments: &["--no-fail-fast", "--workspace", "--exclude", "azure-vnet-e2e"],
        plugins: Plugins::AsShipped,
    },
    Step {
        name: "simulator",
        command: SIMULATE,
        arguments: &["--seeds", "10000", "--keep", "target/failed-seeds.txt"],
        plugins: Plugins::AsBuilt,
    },
    Step { name: "planted defects", command: SIMULATE, arguments: &["--mutate", "all", "--seeds", "300"], plugins: Plugins::AsBuilt },
    Step { name: "every order in a small scope", command: SIMULATE, arguments: &["--scope", "1", "0", "3"], plugins: Plugins::AsBuilt },
    Step {
        name: "emulated Azure, chart, end to end",
        command: &["test"],
        arguments: &["--no-fail-fast", "--package", "azure-vnet-e2e", "--", "--test-threads=6"],
        plugins: Plugins::AsBuilt,
    },
];

/// The variable that tells kernel tests to run the plugins as they ship.
pub(crate) fn shipped_plugins() -> Result<(&'static str, PathBuf)> {
    Ok(("AZURE_VNET_PLUGINS", plugins(&Cache::open()?)?))
}

/// Runs everything, prints the summary and how often the sweeps struck, and fails if anything did.
///
/// # Errors
/// If a step fails or cannot be started.
pub fn run() -> Result<()> {
    require_packages()?;
    space::require_space(&Cache::open()?)?;
    let report = Report::new()?;
    let mut outcomes = Vec::new();
    for step in STEPS {
        progress(step.name);
        outcomes.push(run_step(step, &report)?);
    }
    progress("what the sweeps struck, and the seeds that repeat them (AZURE_VNET_SWEEP_SEED)");
    bench::print(&report.figures()?, false)?;
    summarize(&outcomes)
}

struct Outcome {
    name: &'static str,
    tally: Tally,
    succeeded: bool,
    took: Duration,
}

fn run_step(step: &Step, report: &Report) -> Result<Outcome> {
    let begun = Instant::now();
    let (tally, succeeded) = follow(step, report)?;
    Ok(Outcome { name: step.name, tally, succeeded, took: begun.elapsed() })
}

/// Runs one step, passing its output on line by line while counting what the test harness says.
fn follow(step: &Step, report: &Report) -> Result<(Tally, bool)> {
    let mut command = cargo();
    command.args(step.command).args(step.arguments).stdout(Stdio::piped());
    match step.plugins {
        Plugins::AsBuilt => {}
        Plugins::AsShipped => _ = command.envs([shipped_plugins()?]).env(Report::VARIABLE, report.0.path()),
    }
    let mut child = command.spawn().context("cannot run cargo")?;
    let output = child.stdout.take().context("a child with a piped output has one")?;
    let mut tally = Tally::default();
    for line in BufReader::new(output).lines() {
        let line = line?;
        tally.count(&line);
        writeln!(std::io::stdout(), "{line}")?;
    }
    Ok((tally, child.wait()?.success()))
}

/// The last line is the plain one that test reports are recognised by; a failed step that runs no tests counts as one failure.
fn summarize(outcomes: &[Outcome]) -> Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "\nsummary")?;
    let mut total = Tally::default();
    for Outcome { name, tally, succeeded, took } in outcomes {
        let verdict = if *succeeded { "ok" } else { "FAILED" };
        writeln!(out, "  {verdict:<6} {name:<36} {:>5} passed {:>3} failed {:>6.1} s", tally.passed, tally.failed, took.as_secs_f64())?;
        total.passed += tally.passed + u64::from(*succeeded && tally.is_empty());
        total.failed += tally.failed + u64::from(!*succeeded && tally.failed == 0);
    }
    writeln!(out, "\n{} passed, {} failed", total.passed, total.failed)?;
    if total.failed > 0 {
        bail!("{} checks failed; their output stands above", total.failed);
    }
    Ok(())
}
