//! A repair under way: what is to be done next, one step after the other, and what came of each finding. Does nothing itself.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::Ipv4Addr,
};

use super::{
    node,
    repair::{Done, Mended, Now, Repair, Repairs, end, of},
    report::{Finding, Report, plain},
};

/// Routes that a node is asked for at a time: what it is asked for stands in a URL, which is shorter than 64 KiB.
pub const ROUTES_AT_ONCE: usize = 50;

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Have a node make the routes to these addresses; then [`Work::routes`].
    Routes {
        /// Which one.
        node: String,
        /// At most [`ROUTES_AT_ONCE`].
        addresses: BTreeSet<Ipv4Addr>,
    },
    /// Look at a node once more, before its agent is deleted; then [`Work::looked`].
    Look {
        /// Which one.
        node: String,
    },
    /// Start the agent of the node that was just looked at anew, and wait for it; then [`Work::restarted`].
    Restart {
        /// Which one.
        node: String,
    },
}

/// A repair under way.
#[derive(Clone, Debug)]
pub struct Work {
    report: Report,
    before: Report,
    items: Vec<Item>,
    todo: VecDeque<Step>,
}

/// One finding of the report.
#[derive(Clone, Debug)]
struct Item {
    found: Finding,
    now: Now,
    done: Done,
}

impl Item {
    fn is_to(&self, node: &str, repair: Repair) -> bool {
        self.found.node == node && self.now == Now::Mendable(repair)
    }
}

impl Work {
    /// Plans the repair of what a report found on these nodes, or on all if none is named, by what a look finds `now`. Routes come first; then agents are
    /// started anew one after another.
    #[must_use]
    pub fn new(report: Report, nodes: &[String], now: Report) -> Self {
        let chosen = report.findings.iter().filter(|found| nodes.is_empty() || nodes.contains(&found.node));
        let items: Vec<Item> =
            chosen.map(|found| Item { found: found.clone(), now: of(found, &report, &now), done: Done::Nothing }).collect();
        let (mut routes, mut agents) = (BTreeMap::<&str, Vec<Ipv4Addr>>::new(), BTreeSet::new());
        for Item { found, now, .. } in &items {
            match now {
                Now::Mendable(Repair::Route) => routes.entry(&found.node).or_default().extend(found.address),
                Now::Mendable(Repair::RestartAgent) => drop(agents.insert(found.node.clone())),
                Now::Others | Now::Another(_) | Now::Over | Now::OtherBoot | Now::Unseen => {}
            }
        }
        let mut todo = VecDeque::new();
        for (node, addresses) in &routes {
            let some = |addresses: &[Ipv4Addr]| Step::Routes { node: (*node).to_owned(), addresses: addresses.iter().copied().collect() };
            todo.extend(addresses.chunks(ROUTES_AT_ONCE).map(some));
        }
        todo.extend(agents.into_iter().map(|node| Step::Look { node }));
        Self { report, before: now, items, todo }
    }

    /// What to do next; none once all is done.
    pub fn step(&mut self) -> Option<Step> {
        self.todo.pop_front()
    }

    /// Notes what a node answered when it was asked for these routes, or why it did not.
    pub fn routes(&mut self, node: &str, asked: &BTreeSet<Ipv4Addr>, answer: &Result<node::Mended, String>) {
        for item in self.items.iter_mut().filter(|item| item.is_to(node, Repair::Route)) {
            let Some(address) = item.found.address.filter(|address| asked.contains(address)) else { continue };
            item.done = match answer {
                Ok(mended) if mended.routes.contains(&address) => Done::All,
                Ok(mended) => mended.refusal(address).map_or(Done::Nothing, |why| Done::Failed(plain(why))),
                Err(why) => Done::Failed(plain(why)),
            };
        }
    }

    /// Notes what a look at a node shows, right before its agent is started anew, or why there is none. What is over is left alone.
    pub fn looked(&mut self, node: &str, now: Result<&Report, String>) {
        let now = match now {
            Ok(now) => now,
            Err(why) => return self.stop(node, &why),
        };
        for item in self.items.iter_mut().filter(|item| item.is_to(node, Repair::RestartAgent)) {
            item.now = of(&item.found, &self.report, now);
        }
        if self.items.iter().any(|item| item.is_to(node, Repair::RestartAgent)) {
            self.todo.push_front(Step::Restart { node: node.to_owned() });
        }
    }

    /// Notes that a node's agent is there again, or why it is not: then no further one is deleted.
    pub fn restarted(&mut self, node: &str, ended: Result<(), String>) {
        if let Err(why) = ended {
            return self.stop(node, &why);
        }
        for item in self.items.iter_mut().filter(|item| item.is_to(node, Repair::RestartAgent)) {
            item.done = Done::All;
        }
    }

    /// What keeps one agent from coming back may keep all.
    fn stop(&mut self, failed: &str, why: &str) {
        let others: BTreeSet<String> = self.todo.drain(..).map(Step::into_node).collect();
        for item in self.items.iter_mut().filter(|item| item.now == Now::Mendable(Repair::RestartAgent)) {
            if item.found.node == failed {
                item.done = Done::Failed(plain(why));
            } else if others.contains(&item.found.node) {
                item.done = Done::Failed(format!("not tried, after what went wrong on {failed}"));
            }
        }
    }

    /// What came of each finding, by a look afterwards.
    #[must_use]
    pub fn finished(self, left: Report) -> Repairs {
        let Self { report: _, before, items, todo: _ } = self;
        let result = |Item { found, now, done }| {
            let (end, says) = end(found.kind, now, done, of(&found, &before, &left));
            let Finding { node, kind, address, who, .. } = found;
            Mended { node, kind, address, who, end, says }
        };
        let results = items.into_iter().map(result).collect();
        Repairs { at: left.at, results, left }
    }
}

impl Step {
    fn into_node(self) -> String {
        match self {
            Self::Routes { node, .. } | Self::Look { node } | Self::Restart { node } => node,
        }
    }
}
