//! `cargo xtask sim`.

use anyhow::{Context as _, Result, ensure};

use crate::build::{SIMULATE, cargo};

/// Where seeds that failed stand until they pass.
const KEPT: &str = "target/failed-seeds.txt";

/// What is to be simulated.
#[derive(Debug, clap::Args)]
pub struct SimArguments {
    /// So many seeds, from 0.
    #[arg(long, default_value_t = 10_000)]
    seeds: u64,
    /// Begin no seed after that many seconds.
    #[arg(long)]
    within: Option<u64>,
    /// One seed, told in full.
    #[arg(long)]
    seed: Option<u64>,
    /// Plant a known defect (or `all` of them in turn) and see that it is caught.
    #[arg(long)]
    mutate: Option<String>,
    /// Every order of events in a small scope, and of each of several planted defects the shortest way to it.
    #[arg(long, conflicts_with_all = ["within", "seed", "mutate", "json"])]
    exhaustive: bool,
    /// One JSON object a line: name, value, unit.
    #[arg(long)]
    json: bool,
}

/// Builds the simulator and runs it.
///
/// # Errors
/// If a rule was broken, or a defect was not caught.
pub fn run(arguments: &SimArguments) -> Result<()> {
    let SimArguments { seeds, within, seed, mutate, exhaustive, json } = arguments;
    let mut simulate = cargo();
    simulate.args(SIMULATE);
    if *exhaustive {
        simulate.arg("--exhaustive");
    } else {
        simulate.args(["--seeds", &seeds.to_string(), "--keep", KEPT]);
    }
    let number = |number: &Option<u64>| number.map(|number| number.to_string());
    for (name, value) in [("--seed", number(seed)), ("--within", number(within)), ("--mutate", mutate.clone())] {
        simulate.args(value.iter().flat_map(|value| [name, value]));
    }
    simulate.args(json.then_some("--json"));
    let status = simulate.status().context("cannot run cargo")?;
    ensure!(status.success(), "the simulator found something ({status})");
    Ok(())
}
