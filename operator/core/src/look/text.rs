//! Text for terminals: tables whose columns line up, bars, and ages.

use std::fmt;

use jiff::Timestamp;

/// A table: rows of cells under a head, which may be empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Has these columns and no row.
    #[must_use]
    pub fn new(head: &[&'static str]) -> Self {
        Self { head: head.to_vec(), rows: vec![] }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head: Vec<String> = self.head.iter().map(|name| (*name).to_owned()).collect();
        let named = (!head.is_empty()).then_some(&head);
        let lines: Vec<&Vec<String>> = named.into_iter().chain(&self.rows).collect();
        let columns = lines.iter().map(|line| line.len()).max().unwrap_or(0);
        let width = |column: usize| lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for line in lines {
            let cells = line.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}"));
            writeln!(f, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
        }
        Ok(())
    }
}

/// Shares of a whole, drawn from full to empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// Drawn full.
    pub used: u32,
    /// Drawn half.
    pub resting: u32,
    /// The whole.
    pub of: u32,
    /// Characters.
    pub width: u32,
}

impl fmt::Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { used, resting, of, width } = *self;
        // What there is at all shows, however little; and only what is full looks full.
        let cells =
            |part: u32| part.saturating_mul(width).saturating_add(of / 2).checked_div(of).unwrap_or(0).max(u32::from(part > 0 && of > 0));
        let full = cells(used).min(width);
        let half = cells(used.saturating_add(resting)).clamp(full, width) - full;
        let empty = width - full - half;
        let most_full = if used + resting < of && empty == 0 && full > 1 { full - 1 } else { full };
        for (sign, count) in [("█", most_full), ("▒", half), ("░", width - most_full - half)] {
            for _ in 0..count {
                f.write_str(sign)?;
            }
        }
        Ok(())
    }
}

/// How long ago, by the largest two units: `9m`, `3h12m`, `2d`.
#[must_use]
pub fn ago(then: Timestamp, now: Timestamp) -> String {
    let seconds = now.as_second().saturating_sub(then.as_second()).max(0);
    match (seconds / 86_400, seconds / 3_600, seconds / 60) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, minutes) if minutes < 10 => format!("{minutes}m{:02}s", seconds % 60),
        (0, 0, minutes) => format!("{minutes}m"),
        (0, hours, minutes) => format!("{hours}h{:02}m", minutes % 60),
        (days, hours, _) => format!("{days}d{:02}h", hours % 24),
    }
}

/// The time of day, and how long ago.
pub(super) fn when(at: Option<Timestamp>, now: Timestamp) -> String {
    let Some(at) = at else { return String::new() };
    let text = at.to_string();
    let clock = text.split_once('T').map_or("", |(_, clock)| clock).get(..8).unwrap_or_default();
    format!("{clock}Z, {} ago", ago(at, now))
}

/// `1 node`, `2 nodes`, `2 addresses`.
pub(super) fn plural(count: usize, one: &str) -> String {
    match (count, one.ends_with('s')) {
        (1, _) => format!("1 {one}"),
        (_, true) => format!("{count} {one}es"),
        (_, false) => format!("{count} {one}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(used: u32, resting: u32, of: u32) -> String {
        Bar { used, resting, of, width: 8 }.to_string()
    }

    #[test]
    fn a_bar_shows_what_there_is() {
        assert_eq!(bar(0, 0, 0), "░░░░░░░░");
        assert_eq!(bar(4, 2, 8), "████▒▒░░");
        assert_eq!(bar(1, 0, 1000), "█░░░░░░░", "a little shows");
        assert_eq!(bar(999, 0, 1000), "███████░", "almost full is not full");
        assert_eq!(bar(1000, 0, 1000), "████████");
        assert_eq!(bar(2000, 2000, 1000), "████████", "more than all is all");
    }

    #[test]
    fn ages_have_two_units_at_most() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let said = |seconds: i64| ago(Timestamp::from_second(1_000_000 - seconds).unwrap(), now);
        assert_eq!([0, 59, 61, 660, 3_720, 90_000].map(said), ["0s", "59s", "1m01s", "11m", "1h02m", "1d01h"]);
        assert_eq!(said(-5), "0s", "clocks differ");
    }

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["NAME", "BAR"]);
        table.row(["a".into(), "██".into()]);
        table.row(["longer".into(), String::new()]);
        assert_eq!(table.to_string(), "NAME    BAR\na       ██\nlonger\n");
    }
}
