//! ADD and DEL, whole process, of several contestants turn by turn in one run, so that what else the machine does strikes all of them:
//! the product in each mode, beside the floor of that mode, and the reference plugins of the distribution.

mod arena;
mod contestant;
mod cost;
mod floor;

use std::path::Path;

use anyhow::Result;

use self::arena::Arena;
use self::contestant::Contestant;
use self::cost::{Cost, Footprint, Throughput};
use super::figure::{Figure, median};
use crate::build::{Cache, empty_program, progress};

/// Pods one at a time.
const ROUNDS: usize = 60;
/// Bursts of so many pods at a time; one at a time is one right after the other, with nothing in between that cools caches.
const PARALLEL: [usize; 3] = [1, 8, 32];
const BURSTS: usize = 5;
/// Leases held beside the one that is measured.
const HELD: usize = 250;

/// Measures everything with no lease held, and with many.
///
/// # Errors
/// If the kernel refuses, or a plugin fails.
pub fn measure(bin: &Path) -> Result<Vec<Figure>> {
    let empty = empty_program(&Cache::open()?)?;
    let contestants = Contestant::all(bin, &empty);
    let arenas = contestants.into_iter().map(Arena::open).collect::<Result<Vec<_>>>()?;
    let mut figures = compare(&arenas, 0)?;
    figures.extend(footprints(&arenas, 0)?);
    for arena in &arenas {
        progress(&format!("{} leases for {}", HELD, arena.name()));
        arena.hold(HELD)?;
    }
    figures.extend(compare(&arenas, HELD)?);
    figures.extend(footprints(&arenas, HELD)?);
    let sizes = arenas.iter().map(Arena::size).collect::<Result<Vec<_>>>()?;
    figures.extend(against_floor(&arenas, &sizes, "MiB", "executables"));
    Ok(figures)
}

/// All contestants against their floors.
fn compare(arenas: &[Arena], held: usize) -> Result<Vec<Figure>> {
    progress(&format!("one at a time, {held} held"));
    let mut alone: Vec<Vec<(Cost, Cost)>> = arenas.iter().map(|_| Vec::new()).collect();
    for round in 0..ROUNDS {
        for at in turns(arenas.len(), round) {
            if let (Some(arena), Some(samples)) = (arenas.get(at), alone.get_mut(at)) {
                samples.push(arena.alone()?);
            }
        }
    }
    let mut figures = one_at_a_time(arenas, &alone, held);
    for parallel in PARALLEL {
        progress(&format!("{parallel} at a time, {held} held"));
        let mut bursts: Vec<Vec<Throughput>> = arenas.iter().map(|_| Vec::new()).collect();
        for round in 0..BURSTS {
            for at in turns(arenas.len(), round) {
                if let (Some(arena), Some(samples)) = (arenas.get(at), bursts.get_mut(at)) {
                    samples.push(arena.burst(parallel)?);
                }
            }
        }
        figures.extend(many_at_a_time(arenas, &bursts, parallel, held));
    }
    Ok(figures)
}

/// Each round begins with another contestant.
fn turns(count: usize, round: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |at| (at + round) % count)
}

fn one_at_a_time(arenas: &[Arena], samples: &[Vec<(Cost, Cost)>], held: usize) -> Vec<Figure> {
    type Measure = fn(&(Cost, Cost)) -> f64;
    let measures: [(&str, &'static str, Measure); 5] = [
        ("ADD", "ms", |(add, _)| add.wall),
        ("DEL", "ms", |(_, del)| del.wall),
        ("ADD, CPU time", "ms", |(add, _)| add.cpu),
        ("DEL, CPU time", "ms", |(_, del)| del.cpu),
        ("ADD, page faults", "", |(add, _)| add.faults),
    ];
    let table = |(what, unit, measure): (&str, &'static str, Measure)| {
        let values: Vec<f64> = samples.iter().map(|samples| median(samples.iter().map(measure))).collect();
        against_floor(arenas, &values, unit, &format!("{what}, {held} held"))
    };
    measures.into_iter().flat_map(table).collect()
}

fn many_at_a_time(arenas: &[Arena], samples: &[Vec<Throughput>], parallel: usize, held: usize) -> Vec<Figure> {
    type Measure = fn(&Throughput) -> f64;
    let measures: [(&str, &'static str, Measure); 2] = [("ADD", "per s", |burst| burst.adds), ("DEL", "per s", |burst| burst.dels)];
    let table = |(what, unit, measure): (&str, &'static str, Measure)| {
        let values: Vec<f64> = samples.iter().map(|samples| median(samples.iter().map(measure))).collect();
        against_floor(arenas, &values, unit, &format!("{what}, {parallel} at a time, {held} held"))
    };
    measures.into_iter().flat_map(table).collect()
}

/// Each value beside its floor's.
fn against_floor(arenas: &[Arena], values: &[f64], unit: &'static str, what: &str) -> Vec<Figure> {
    let floor = |arena: &Arena| arenas.iter().position(|floor| floor.name() == arena.floor()).and_then(|at| values.get(at)).copied();
    let figure = |(arena, value): (&Arena, &f64)| {
        Figure::against(format!("{what}: {}", arena.name()), *value, floor(arena).unwrap_or_default(), unit)
    };
    arenas.iter().zip(values).map(figure).collect()
}

/// What does not depend on time.
fn footprints(arenas: &[Arena], held: usize) -> Result<Vec<Figure>> {
    progress(&format!("system calls and memory, {held} held"));
    let all = arenas.iter().map(Arena::footprint).collect::<Result<Vec<Footprint>>>()?;
    let [calls, peaks] = [|all: &Footprint| all.calls, |all: &Footprint| all.peak].map(|part| all.iter().map(part).collect::<Vec<f64>>());
    let mut figures = against_floor(arenas, &calls, "", &format!("ADD, system calls, {held} held"));
    figures.extend(against_floor(arenas, &peaks, "MiB", &format!("ADD, peak resident, {held} held")));
    Ok(figures)
}
