//! Who asks Azure for addresses of a subnet that has none left: one node after the other, ever further apart, and more at once again as they get some. So a
//! full subnet takes nothing of what Azure lets us send from the nodes of others.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;

/// Pause after the first refusal; it doubles up to the second.
const PAUSES: (Duration, Duration) = (Duration::from_secs(30), Duration::from_mins(5));
/// A node that waits asks again at the latest after this.
const LOOK: Duration = Duration::from_secs(10);
/// One that has not asked for so long waits no more, and one that Azure has not answered for so long keeps nobody else from asking.
const GONE: Duration = Duration::from_mins(1);
/// How long a subnet counts as full after what was last heard of it: a grant or more room, and a refusal.
const FULL: (Duration, Duration) = (Duration::from_mins(5), Duration::from_mins(15));
/// As many at once are no restriction.
const MANY: usize = 64;

/// The subnets that Azure lately had no address left in.
#[derive(Clone, Debug, Default)]
pub struct FullSubnets(BTreeMap<String, Full>);

#[derive(Clone, Debug)]
struct Full {
    /// When it last refused, granted or got more room.
    heard_at: Timestamp,
    /// Since the last node got one.
    refusals: u32,
    /// Before this nobody asks.
    quiet_until: Timestamp,
    /// How many may ask at once.
    width: usize,
    /// Since when.
    asking: BTreeMap<String, Timestamp>,
    waiting: BTreeMap<String, Waiting>,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    starving: bool,
    since: Timestamp,
    seen: Timestamp,
}

impl FullSubnets {
    /// Whether Azure lately had no address left in a subnet.
    #[must_use]
    pub fn is_full(&self, subnet: &str, now: Timestamp) -> bool {
        self.0.get(&key(subnet)).is_some_and(|full| full.lasts(now))
    }

    /// Notes that Azure had no room in a subnet for what a node usually holds.
    pub fn refused(&mut self, subnet: &str, now: Timestamp) {
        let full = self.0.entry(key(subnet)).or_insert_with(|| Full::new(now));
        full.heard_at = now;
        full.width = 1;
        // Whoever was about to ask waits too.
        full.asking.clear();
        // Of several that asked at once the first one tells; a late one of these lengthens the pause to the least.
        if full.rest(now).is_zero() {
            full.quiet_until = later(now, PAUSES.0.saturating_mul(1 << full.refusals.min(8)).min(PAUSES.1));
            full.refusals += 1;
        } else {
            full.quiet_until = full.quiet_until.max(later(now, PAUSES.0));
        }
    }

    /// Notes that a node got addresses of a subnet: more may ask at once.
    pub fn granted(&mut self, subnet: &str, now: Timestamp) {
        let Some(full) = self.0.get_mut(&key(subnet)) else { return };
        (full.heard_at, full.refusals, full.quiet_until, full.width) = (now, 0, now, full.width * 2);
        if full.width >= MANY {
            self.0.remove(&key(subnet));
        }
    }

    /// Notes that a subnet has more room than it had.
    pub fn widened(&mut self, subnet: &str, now: Timestamp) {
        if let Some(full) = self.0.get_mut(&key(subnet)) {
            (full.heard_at, full.refusals, full.quiet_until) = (now, 0, now);
        }
    }

    /// Whether a node has to wait before it asks for addresses, and then how long until it is to ask here again. If not, it is taken to ask until
    /// [`FullSubnets::done`].
    pub fn wait(&mut self, subnet: &str, node: &str, starving: bool, now: Timestamp) -> Option<Duration> {
        self.0.retain(|_, full| full.lasts(now));
        self.0.get_mut(&key(subnet))?.wait(node, starving, now)
    }

    /// A node does not ask any more.
    pub fn done(&mut self, node: &str) {
        for full in self.0.values_mut() {
            full.asking.remove(node);
        }
    }
}

impl Full {
    fn new(now: Timestamp) -> Self {
        Self { heard_at: now, refusals: 0, quiet_until: now, width: 1, asking: BTreeMap::new(), waiting: BTreeMap::new() }
    }

    fn lasts(&self, now: Timestamp) -> bool {
        since(self.heard_at, now) < if self.refusals == 0 { FULL.0 } else { FULL.1 }
    }

    /// What is left of the pause; nothing of one that a clock which was set made longer than any.
    fn rest(&self, now: Timestamp) -> Duration {
        Some(since(now, self.quiet_until)).filter(|rest| *rest <= PAUSES.1).unwrap_or_default()
    }

    fn wait(&mut self, node: &str, starving: bool, now: Timestamp) -> Option<Duration> {
        if self.asking.contains_key(node) {
            return None;
        }
        self.asking.retain(|_, at| since(*at, now) < GONE);
        self.waiting.retain(|_, other| since(other.seen, now) < GONE);
        let since = self.waiting.get(node).map_or(now, |before| before.since);
        self.waiting.insert(node.to_owned(), Waiting { starving, since, seen: now });
        let rest = self.rest(now);
        if !rest.is_zero() {
            return Some(rest.min(LOOK));
        }
        let rank = |of: (&str, bool, Timestamp)| (!of.1, of.2, of.0.to_owned());
        let mine = rank((node, starving, since));
        let before = self.waiting.iter().filter(|(name, other)| rank((name.as_str(), other.starving, other.since)) < mine).count();
        if before + self.asking.len() >= self.width {
            return Some(LOOK);
        }
        self.waiting.remove(node);
        self.asking.insert(node.to_owned(), now);
        None
    }
}

/// The case of Azure's ids says nothing.
fn key(subnet: &str) -> String {
    subnet.to_ascii_lowercase()
}

fn since(earlier: Timestamp, now: Timestamp) -> Duration {
    now.duration_since(earlier).try_into().unwrap_or_default()
}

fn later(at: Timestamp, by: Duration) -> Timestamp {
    at.saturating_add(by).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nodes of one subnet with so many addresses left, each of which wants one.
    struct Crowd {
        full: FullSubnets,
        free: usize,
        /// When each node comes again.
        due: BTreeMap<usize, u64>,
        /// When somebody asked, and whether it got one.
        asked: Vec<(u64, bool)>,
    }

    impl Crowd {
        fn new(nodes: usize, free: usize) -> Self {
            Self { full: FullSubnets::default(), free, due: (0..nodes).map(|node| (node, 0)).collect(), asked: vec![] }
        }

        /// Azure's answer takes this many seconds.
        const ANSWER: u64 = 5;

        fn run(&mut self, from: u64, to: u64) {
            let mut answers: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
            for second in from..to {
                for node in answers.remove(&second).unwrap_or_default() {
                    self.answer(node, second);
                }
                let due: Vec<usize> = self.due.iter().filter(|(_, at)| **at == second).map(|(node, _)| *node).collect();
                for node in due {
                    match self.full.wait("S", &node.to_string(), node % 2 == 0, at(second)) {
                        Some(rest) => _ = self.due.insert(node, second + rest.as_secs().max(1)),
                        None => answers.entry(second + Self::ANSWER).or_default().push(node),
                    }
                }
            }
        }

        fn answer(&mut self, node: usize, second: u64) {
            let got = self.free > 0;
            self.asked.push((second, got));
            if got {
                self.free -= 1;
                self.due.remove(&node);
                self.full.granted("s", at(second));
            } else {
                self.full.refused("s", at(second));
                self.due.insert(node, second + 30);
            }
            self.full.done(&node.to_string());
        }
    }

    fn at(second: u64) -> Timestamp {
        Timestamp::from_second(1_000_000 + i64::try_from(second).unwrap()).unwrap()
    }

    #[test]
    fn a18_of_hundreds_of_nodes_in_a_full_subnet_one_asks_at_a_time_and_ever_less_often() {
        let mut crowd = Crowd::new(400, 0);
        crowd.full.refused("s", at(0));
        crowd.run(0, 3600);
        let times: Vec<u64> = crowd.asked.iter().map(|(second, _)| *second).collect();
        assert!(times.len() <= 16 && times.len() >= 10, "{times:?}");
        assert!(times.windows(2).all(|pair| pair[1] - pair[0] >= 30) && times[9] - times[8] >= 300, "{times:?}");
        assert!(crowd.full.is_full("S", at(3600)) && !crowd.full.is_full("other", at(3600)));
    }

    #[test]
    fn where_there_is_room_again_all_get_some_and_soon_many_ask_at_once() {
        let mut crowd = Crowd::new(400, 0);
        crowd.full.refused("s", at(0));
        crowd.run(0, 1000);
        let (last, _) = *crowd.asked.last().unwrap();
        let room = last + 295;
        crowd.run(1000, room);
        crowd.asked.clear();
        crowd.free = 400;
        crowd.full.widened("s", at(room));
        crowd.run(room, room + 200);
        assert_eq!((crowd.due.len(), crowd.free), (0, 0), "{:?}", crowd.asked);
        let early = crowd.asked.iter().filter(|(second, _)| *second < room + 3 * Crowd::ANSWER).count();
        assert!((1..=3).contains(&early), "one, then two, then eight at once: {:?}", crowd.asked);
        assert!(!crowd.full.is_full("s", at(room + 200)));
    }

    #[test]
    fn a18_a_grant_or_room_long_after_a_refusal_lets_few_ask_at_once_and_not_all_that_wait() {
        for (widened, few) in [(false, 2), (true, 1)] {
            let mut full = FullSubnets::default();
            for refusal in 0..6 {
                full.refused("s", at(300 * refusal));
            }
            if widened {
                full.widened("s", at(1801));
            } else {
                full.granted("s", at(1801));
            }
            let asking = (0..50).filter(|node: &usize| full.wait("s", &node.to_string(), true, at(1802)).is_none()).count();
            assert_eq!(asking, few, "widened: {widened}");
            assert!(full.is_full("s", at(2100)) && !full.is_full("s", at(2102)), "widened: {widened}");
        }
    }

    #[test]
    fn whoever_starves_asks_before_others_and_the_longest_first() {
        let mut full = FullSubnets::default();
        full.refused("s", at(0));
        for (node, starving, second) in [("early", false, 1), ("starving", true, 2), ("also", true, 3)] {
            assert_eq!(full.wait("s", node, starving, at(second)), Some(LOOK));
        }
        assert_eq!(full.wait("s", "early", false, at(30)), Some(LOOK));
        assert_eq!(full.wait("s", "also", true, at(31)), Some(LOOK));
        assert_eq!(full.wait("s", "starving", true, at(32)), None);
        assert_eq!(full.wait("s", "starving", true, at(33)), None, "it asks already");
        assert_eq!(full.wait("s", "also", true, at(34)), Some(LOOK), "one at a time");
        full.done("starving");
        assert_eq!(full.wait("s", "also", true, at(35)), None);
    }

    #[test]
    fn one_whose_write_hangs_keeps_the_others_waiting_for_a_minute_only() {
        let mut full = FullSubnets::default();
        full.refused("s", at(0));
        assert_eq!(full.wait("s", "hangs", true, at(30)), None);
        assert_eq!(full.wait("s", "next", true, at(89)), Some(LOOK));
        assert_eq!(full.wait("s", "next", true, at(90)), None);
    }

    #[test]
    fn a_clock_that_was_set_back_stops_nobody() {
        let mut full = FullSubnets::default();
        full.refused("s", at(7200));
        assert_eq!(full.wait("s", "n", true, at(0)), None);
    }
}
