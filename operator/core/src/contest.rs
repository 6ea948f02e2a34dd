//! What another program changes again and again although the agent sets it back: said once, set back at the agent's pace for ever.

use std::{collections::BTreeMap, time::Duration};

/// Repairs of one thing that make a contest.
const ROUNDS: usize = 3;
/// How close together they are.
const WITHIN: Duration = Duration::from_mins(10);

/// When each thing was set back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contests(BTreeMap<String, Vec<Duration>>);

impl Contests {
    /// Takes note of what was set back. Answers what of it is to be told: not what is known to be contested.
    pub fn mended(&mut self, now: Duration, things: &[String]) -> Vec<String> {
        let known = self.contested(now);
        for thing in things {
            self.0.entry(thing.clone()).or_default().push(now);
        }
        things.iter().filter(|thing| !known.contains(thing)).cloned().collect()
    }

    /// What is contested.
    pub fn contested(&mut self, now: Duration) -> Vec<String> {
        for times in self.0.values_mut() {
            times.retain(|time| now < *time + WITHIN);
        }
        self.0.retain(|_, times| !times.is_empty());
        self.0.iter().filter(|(_, times)| times.len() >= ROUNDS).map(|(thing, _)| thing.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_changed_three_times_in_ten_minutes_is_contested_and_told_no_more() {
        const fn mins(minutes: u64) -> Duration {
            Duration::from_mins(minutes)
        }
        let (mut contests, thing) = (Contests::default(), ["ipv4/ip_forward".to_owned()]);
        for minute in [0, 1, 2] {
            assert_eq!(contests.mended(mins(minute), &thing), thing);
        }
        assert_eq!(contests.contested(mins(3)), thing);
        assert_eq!(contests.mended(mins(4), &thing), Vec::<String>::new());
        assert_eq!(contests.contested(mins(11)), Vec::<String>::new(), "two are left within ten minutes");
        assert_eq!(contests.mended(mins(30), &thing), thing);
        assert_eq!(contests.0.len(), 1);
    }
}
