//! What is read of the running parts: memory and processor of a process, and the time between two happenings.

use std::{
    collections::BTreeMap,
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::{agents::Pool, place::Place};
use crate::{
    azure::{
        Command,
        command::{Counters, NicState, Write},
    },
    bench::Figure,
};

/// A process at a moment.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Resident memory, in KiB.
    resident: u64,
    /// Processor time so far, in ticks of a hundredth of a second.
    ticks: u64,
    at: Instant,
}

impl Usage {
    /// Reads it.
    ///
    /// # Errors
    /// If the process is gone.
    pub fn of(pid: u32) -> Result<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("a process has resident memory")?;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let fields: Vec<&str> = stat.rsplit_once(')').context("a process has a name")?.1.split_whitespace().collect();
        let ticks = [11, 12].iter().map(|at| fields.get(*at).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0)).sum();
        Ok(Self { resident: resident.trim().trim_end_matches(" kB").parse()?, ticks, at: Instant::now() })
    }

    /// The same moment of a process that had not begun yet.
    pub fn of_another(self) -> Self {
        Self { resident: 0, ticks: 0, ..self }
    }

    /// Memory now, and processors used since an earlier look.
    pub fn figures(&self, phase: &str, earlier: &Self) -> Vec<Figure> {
        let cores = seconds(Duration::from_millis((self.ticks - earlier.ticks) * 10)) / seconds(self.at - earlier.at).max(0.01);
        vec![
            Figure::plain(format!("{phase}: resident memory of the leader"), number(self.resident) / 1024.0, "MiB"),
            Figure::plain(format!("{phase}: processors used by the leader"), cores, "cores"),
        ]
    }
}

/// What the emulated Azure has counted so far.
///
/// # Errors
/// If it does not say.
pub fn counters(place: &Place) -> Result<Counters> {
    ask(place, Command::Counters)
}

/// Writes to NICs that it accepted.
///
/// # Errors
/// As [`counters`].
pub fn writes(place: &Place) -> Result<Vec<Write>> {
    ask(place, Command::Writes)
}

/// All NICs.
///
/// # Errors
/// As [`counters`].
pub fn nics(place: &Place) -> Result<Vec<NicState>> {
    ask(place, Command::Nics)
}

/// Broken invariants, and what of others was changed.
///
/// # Errors
/// As [`counters`].
pub fn complaints(place: &Place) -> Result<Vec<String>> {
    let all: [Vec<String>; 2] = [ask(place, Command::Violations)?, ask(place, Command::Disturbances)?];
    Ok(all.concat())
}

fn ask<T: serde::de::DeserializeOwned>(place: &Place, command: Command) -> Result<T> {
    let answer: Value = place.azure.command(command).map_err(anyhow::Error::msg)?;
    Ok(serde_json::from_value(answer)?)
}

/// Requests by class between two counts.
pub fn requests(phase: &str, before: &Counters, after: &Counters) -> Vec<Figure> {
    let since =
        |of: &BTreeMap<_, u64>, was: &BTreeMap<_, u64>, class| of.get(class).copied().unwrap_or(0) - was.get(class).copied().unwrap_or(0);
    let all: u64 = after.calls.keys().map(|class| since(&after.calls, &before.calls, class)).sum();
    let mut figures = vec![Figure::plain(format!("{phase}: requests to Azure"), number(all), "")];
    for class in after.calls.keys() {
        let made = since(&after.calls, &before.calls, class);
        if made > 0 {
            figures.push(Figure::plain(format!("{phase}: of these {class:?}"), number(made), ""));
        }
        let throttled = since(&after.throttled, &before.throttled, class);
        if throttled > 0 {
            figures.push(Figure::plain(format!("{phase}: refused as too many {class:?}"), number(throttled), ""));
        }
    }
    figures
}

/// Time from a report of higher demand until the write that answers it reached Azure, for each node that asked since.
pub fn latencies(place: &Place, pools: &BTreeMap<String, Pool>, writes: &[Write], since: Instant) -> Vec<Duration> {
    let asked = pools.iter().filter_map(|(name, pool)| Some((name, pool.asked.filter(|at| *at >= since)?)));
    let answered = |(name, at): (&String, Instant)| {
        let arrived = writes.iter().filter(|write| write.node.as_ref() == Some(name) && !write.added.is_empty());
        // The write may arrive while the report's own answer is still on its way.
        let slack = Duration::from_secs(2);
        let arrived =
            arrived.map(|write| place.azure_began + Duration::from_millis(write.at_millis)).find(|arrived| *arrived + slack >= at)?;
        Some(arrived.saturating_duration_since(at))
    };
    let mut found: Vec<Duration> = asked.filter_map(answered).collect();
    found.sort();
    found
}

/// The time that a share of them does not exceed.
pub fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(at).copied().unwrap_or_default()
}

/// Seconds, as a figure has them.
pub fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}

/// A count, as a figure has it.
pub fn number(count: u64) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

/// The sum of a metric over all labels that its name does not hold; it may hold the first ones.
pub fn total(text: &str, metric: &str) -> u64 {
    let of_it = |line: &&str| line.strip_prefix(metric).is_some_and(|rest| rest.starts_with([' ', '{', ',']));
    text.lines().filter(of_it).filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_added_up_over_the_labels_that_are_not_named() {
        let text = "# TYPE passes counter\npasses_total{outcome=\"ok\"} 30\npasses_total{outcome=\"failed\"} 2\nread_nics 5\nread_nics_x 7\nputs{op=\"a\",code=\"200\"} 3\nputs{op=\"a\",code=\"412\"} 1\nputs{op=\"b\",code=\"200\"} 9\n# EOF\n";
        let found =
            ["passes_total", "passes_total{outcome=\"ok\"}", "read_nics", "none", "puts{op=\"a\""].map(|metric| total(text, metric));
        assert_eq!(found, [32, 30, 5, 0, 4]);
    }
}
