//! Many seeds, on all processors, and what they showed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    thread::available_parallelism,
    time::{Duration, Instant},
};

use crate::{
    fault::{Fault, Mutation, Rule},
    plan::Plan,
    trace::Trace,
    world::World,
};

/// What came of one seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub hash: u64,
    pub hits: BTreeMap<Fault, u64>,
    pub looks: BTreeMap<Rule, u64>,
    pub violation: Option<String>,
}

/// What came of many.
#[derive(Debug)]
pub struct Report {
    seeds: u64,
    hits: BTreeMap<Fault, u64>,
    looks: BTreeMap<Rule, u64>,
    failed: Vec<u64>,
    hash: u64,
}

/// Of so many seeds one is run once more, with agents that look at everything each time: it must come to the same.
const THOROUGH: u64 = 50;

/// Runs one seed. The product's own assertions count as rules.
pub fn run(seed: u64, mutation: Option<Mutation>, trace: &Trace) -> Outcome {
    simulate(&Plan::new(seed, mutation), trace)
}

/// Runs one seed without the short cut that agents take where nothing changed but their pods.
pub fn run_thoroughly(seed: u64) -> Outcome {
    let mut plan = Plan::new(seed, None);
    plan.thorough = true;
    simulate(&plan, &Trace::default())
}

fn simulate(plan: &Plan, trace: &Trace) -> Outcome {
    let ended = catch_unwind(AssertUnwindSafe(|| World::new(plan, trace.clone()).run()));
    let panicked = ended.is_err().then(|| "an assertion failed; its message stands above".to_owned());
    Outcome { hash: trace.hash(), hits: trace.hits(), looks: trace.looks(), violation: trace.violation().or(panicked) }
}

/// Tells one seed in full.
pub fn tell(seed: u64) -> bool {
    let trace = Trace::telling();
    let outcome = run(seed, None, &trace);
    for line in trace.lines() {
        println!("{line}");
    }
    println!("hash {:016x}", outcome.hash);
    if let Some(violation) = &outcome.violation {
        println!("seed {seed} failed: {violation}");
    }
    outcome.violation.is_none()
}

/// The first seed that shows a planted defect.
pub fn first_violation(mutation: Mutation, seeds: u64) -> Option<(u64, String)> {
    (0..seeds).find_map(|seed| Some((seed, run(seed, Some(mutation), &Trace::default()).violation?)))
}

/// Plants each of these defects, each on a processor of its own, and tells in a table which rule catches it by which seed. Whether all are caught.
pub fn plant(mutations: &[Mutation], seeds: u64) -> bool {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut mine = BTreeMap::new();
        while let Some(&mutation) = mutations.get(next.fetch_add(1, Ordering::Relaxed)) {
            mine.insert(mutation, first_violation(mutation, seeds));
        }
        mine
    };
    let found: BTreeMap<Mutation, Option<(u64, String)>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..available_parallelism().map_or(1, usize::from)).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap_or_default()).collect()
    });
    println!("{:<24} {:>6}  broken rule", "planted defect", "seed");
    for (mutation, caught) in &found {
        match caught {
            Some((seed, violation)) => {
                let (short, _) = violation.split_at(violation.floor_char_boundary(100));
                println!("{:<24} {seed:>6}  {short}", format!("{mutation:?}"));
            }
            None => println!("{:<24} {:>6}  none by {seeds} seeds", format!("{mutation:?}"), "-"),
        }
    }
    !found.is_empty() && found.len() == mutations.len() && found.values().all(Option::is_some)
}

/// Seeds that once failed; each stays.
pub fn once_failed() -> impl Iterator<Item = u64> {
    seeds_in(include_str!("once-failed.txt"))
}

/// The first word of each line that begins with a seed.
fn seeds_in(text: &str) -> impl Iterator<Item = u64> {
    text.lines().filter_map(|line| line.split_whitespace().next()?.parse().ok())
}

impl Report {
    /// Runs the seeds that once failed, those that failed last time, and the first so many; begins none after the time is over.
    pub fn of(seeds: u64, within: Option<Duration>, kept: Option<&Path>) -> Self {
        let begun = Instant::now();
        let in_time = || within.is_none_or(|within| begun.elapsed() < within);
        let kept = kept.and_then(|file| fs::read_to_string(file).ok()).unwrap_or_default();
        let first: BTreeSet<u64> = once_failed().chain(seeds_in(&kept)).collect();
        let all: Vec<u64> = first.iter().copied().chain((0..seeds).filter(|seed| !first.contains(seed))).collect();
        let next = AtomicUsize::new(0);
        let work = || {
            let mut mine = vec![];
            while let Some(&seed) = all.get(next.fetch_add(1, Ordering::Relaxed)).filter(|_| in_time()) {
                let mut outcome = run(seed, None, &Trace::default());
                if seed % THOROUGH == 0 && run_thoroughly(seed) != outcome {
                    outcome.violation =
                        Some("agents overlook something: where they look at everything each time, it goes otherwise".into());
                }
                if let Some(violation) = &outcome.violation {
                    println!("seed {seed} failed: {violation}");
                }
                mine.push((seed, outcome));
            }
            mine
        };
        let threads = available_parallelism().map_or(1, usize::from);
        let mut outcomes: Vec<(u64, Outcome)> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            workers.into_iter().flat_map(|worker| worker.join().unwrap_or_default()).collect()
        });
        outcomes.sort_by_key(|(seed, _)| *seed);
        let mut report = Self {
            seeds: outcomes.len().try_into().unwrap_or_default(),
            hits: BTreeMap::new(),
            looks: BTreeMap::new(),
            failed: vec![],
            hash: 0,
        };
        for (seed, Outcome { hash, hits, looks, violation }) in outcomes {
            report.hash = report.hash.rotate_left(1) ^ hash;
            for (fault, count) in hits {
                *report.hits.entry(fault).or_default() += count;
            }
            for (rule, count) in looks {
                *report.looks.entry(rule).or_default() += count;
            }
            report.failed.extend(violation.map(|_| seed));
        }
        report
    }

    /// Whether no seed failed, every fault struck, and every rule had something to speak of; with fewer seeds than the tests run, one may not.
    pub fn is_good(&self) -> bool {
        let all =
            Fault::ALL.iter().all(|fault| self.hits.contains_key(fault)) && Rule::ALL.iter().all(|rule| self.looks.contains_key(rule));
        self.failed.is_empty() && (all || self.seeds < 500)
    }

    /// Writes down the seeds that failed, so that they are run first next time; if none did, nothing is left to run.
    pub fn keep(&self, file: &Path) -> io::Result<()> {
        let lines: Vec<String> = self.failed.iter().map(u64::to_string).collect();
        if lines.is_empty() {
            return fs::remove_file(file).or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) });
        }
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(file, lines.join("\n"))
    }

    pub fn print(&self, json: bool) {
        let line = |name: &str, value: &str, unit: &str| {
            if json {
                println!(r#"{{"name":"{name}","value":{value},"unit":"{unit}"}}"#);
            } else {
                println!("{name:<28} {value:>10} {unit}");
            }
        };
        for fault in Fault::ALL {
            line(&format!("{fault:?}"), &self.hits.get(&fault).copied().unwrap_or_default().to_string(), "hits");
        }
        for rule in Rule::ALL {
            line(&format!("rule {rule:?}"), &self.looks.get(&rule).copied().unwrap_or_default().to_string(), "looks");
        }
        for seed in self.failed.iter().filter(|_| json) {
            line("failed seed", &seed.to_string(), "seed");
        }
        line("seeds", &self.seeds.to_string(), "seeds");
        line("failed", &self.failed.len().to_string(), "seeds");
        line("trace", &format!(r#""{:016x}""#, self.hash), "hash");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_that_failed_are_kept_and_run_first_until_they_pass() {
        let folder = std::env::temp_dir().join(format!("azure-vnet-seeds-{}", std::process::id()));
        let file = folder.join("failed.txt");
        let mut report = Report::of(0, Some(Duration::ZERO), Some(&file));
        report.keep(&file).unwrap();
        report.failed = vec![7, 9];
        report.keep(&file).unwrap();
        assert_eq!(seeds_in(&fs::read_to_string(&file).unwrap()).collect::<Vec<_>>(), [7, 9]);
        report.failed.clear();
        report.keep(&file).unwrap();
        assert!(!file.exists());
        fs::remove_dir(folder).unwrap();
    }
}
