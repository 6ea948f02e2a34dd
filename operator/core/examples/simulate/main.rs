//! The simulator: controllers, agents, their stores, Resource Manager and the API server on one virtual clock, all of chance from a seed. The
//! controller's passes, its decisions and the agent's rules are the product's own; the rest is a model of what surrounds them.
#![expect(
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::wildcard_enum_match_arm,
    clippy::print_stdout,
    reason = "it is a test: an index out of range is a defect that it may end with, and its report goes to stdout"
)]

mod agent;
mod check;
mod cloud;
mod controller;
mod dice;
mod fault;
mod life;
mod plan;
mod report;
mod request;
mod rest;
mod ruling;
mod scope;
mod server;
mod store;
mod strike;
#[cfg(test)]
mod tests;
mod trace;
mod world;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use crate::{fault::Mutation, report::Report};

/// Most of a run is small trees that are built and dropped.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str = "usage: simulate [--seeds N] [--within SECONDS] [--seed S] [--mutate NAME|all] [--keep FILE] [--json]\n\
                     \x20      simulate --exhaustive\n\
                     \x20      simulate --scope LEADERS MINUTES INTENTS";

/// What is asked for.
#[derive(Debug, Default)]
struct Arguments {
    seeds: Option<u64>,
    /// No seed is begun after that.
    within: Option<Duration>,
    seed: Option<u64>,
    mutate: Option<String>,
    /// Where seeds that failed stand until they pass.
    keep: Option<PathBuf>,
    exhaustive: bool,
    scope: Option<scope::Bounds>,
    json: bool,
}

fn main() -> ExitCode {
    let Some(arguments) = Arguments::parse(std::env::args().skip(1)) else {
        println!("{USAGE}");
        return ExitCode::from(2);
    };
    let well = match (&arguments.mutate, arguments.seed) {
        _ if arguments.exhaustive => scope::tell(&scope::WHOLE) && scope::plant(),
        _ if arguments.scope.is_some() => scope::tell(arguments.scope.as_slice()),
        (Some(name), _) => mutate(name, arguments.seeds.unwrap_or(2_000)),
        (None, Some(seed)) => report::tell(seed),
        (None, None) => {
            let keep = arguments.keep.as_deref();
            let report = Report::of(arguments.seeds.unwrap_or(10_000), arguments.within, keep);
            report.print(arguments.json);
            let kept = keep.is_none_or(|file| report.keep(file).inspect_err(|error| println!("{}: {error}", file.display())).is_ok());
            report.is_good() && kept
        }
    };
    if well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Plants a defect, or each of them, and sees that some seed shows it.
fn mutate(name: &str, seeds: u64) -> bool {
    let chosen: Vec<Mutation> = Mutation::ALL.into_iter().filter(|one| name == "all" || format!("{one:?}") == name).collect();
    report::plant(&chosen, seeds)
}

impl Arguments {
    fn parse(mut words: impl Iterator<Item = String>) -> Option<Self> {
        let mut parsed = Self::default();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--seeds" => parsed.seeds = Some(words.next()?.parse().ok()?),
                "--within" => parsed.within = Some(Duration::from_secs(words.next()?.parse().ok()?)),
                "--seed" => parsed.seed = Some(words.next()?.parse().ok()?),
                "--mutate" => parsed.mutate = Some(words.next()?),
                "--keep" => parsed.keep = Some(words.next()?.into()),
                "--exhaustive" => parsed.exhaustive = true,
                "--scope" => {
                    let mut number = || words.next()?.parse::<u8>().ok();
                    parsed.scope = Some(scope::Bounds::of(number()?, number()?, number()?.into()));
                }
                "--json" => parsed.json = true,
                _ => return None,
            }
        }
        Some(parsed)
    }
}
