//! The release and leadership protocol in a small scope, exhaustively: two controllers, one node with three slots and two pods. The controllers' passes
//! and the agent's rules are the product's own.
//!
//! These are steps, and are tried in every order: the leader begins a pass, on what it knows or on what is stored; a request to the API server or a read
//! of the NIC is answered; the turn to send comes; a write arrives; its operation succeeds or fails; its answer is lost; the agent looks, at what it heard
//! of or at what is stored; its report is stored; a pod is bound, gets any address that it may, finishes, loses it; the lead goes to the other, or to a
//! process in place of the one that dies; a minute passes. How often the lead changes, how often time passes and how many releases and intents are
//! begun is bounded. Reads that fail, agents that die, boots, foreign writers and clocks that differ are the seeds' part, as is progress.
//!
//! A state is a handful of numbers. Each part of it (a process, the node, the NIC, the stored object) is kept once for all states in which it is the
//! same, and what an event makes of a part is worked out once. States are the same that no rule and no decision can tell apart: times count by the
//! period that they lie in, which is longer than any that the scope's config names, and within one only the order of a process's own reads and requests;
//! versions and etags count by whether they are current; a deposed controller counts only while it may still write. What a new process has in its cache is
//! of the beginning or of this moment.

mod parts;
mod side;
mod step;
mod tell;

use std::{collections::HashSet, rc::Rc};

use azure_vnet_crds::{AzureVnetConfig, AzureVnetConfigSpec};
use azure_vnet_operator_core::policy::Policy;

use self::parts::Parts;
pub use self::tell::{plant, tell};
use crate::fault::Mutation;

/// What passes at once when time does: more than any period of the scope's config.
const TICK: i64 = 61_000;
const NODE: usize = 0;
/// Places of a state's processes.
const LEADER: usize = 0;
const OTHER: usize = 1;

/// How far the search goes.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Terms that follow the first: each is of either process, which may have been started anew.
    pub terms: u8,
    /// How often time passes.
    pub ticks: u8,
    /// Releases and intents that are begun.
    pub ids: u64,
    /// A defect, planted to see that it is found.
    pub mutation: Option<Mutation>,
}

/// As much as a minute is enough for: more releases and intents where time stands still, and fewer where it passes.
pub const WHOLE: [Bounds; 2] = [Bounds::of(1, 0, 3), Bounds::of(1, 1, 2)];

/// Defects that are found, each within as little as shows it.
pub const PLANTED: [Bounds; 4] = [
    Bounds::planted(Mutation::AcknowledgedAtOnce, 0, 0, 2),
    Bounds::planted(Mutation::SetsAsideInUse, 0, 0, 2),
    Bounds::planted(Mutation::IntentNotStored, 0, 0, 2),
    Bounds::planted(Mutation::UnconditionalWrites, 1, 0, 2),
];

impl Bounds {
    pub const fn of(terms: u8, ticks: u8, ids: u64) -> Self {
        Self { terms, ticks, ids, mutation: None }
    }

    const fn planted(mutation: Mutation, terms: u8, ticks: u8, ids: u64) -> Self {
        Self { mutation: Some(mutation), ..Self::of(terms, ticks, ids) }
    }
}

/// What the search found.
#[derive(Debug, Default)]
pub struct Found {
    pub states: usize,
    pub steps: usize,
    /// Writes that took effect.
    pub landed: usize,
    /// How many different objects, nodes, NICs and controllers they are made of.
    pub parts: [usize; 4],
    pub violation: Option<(String, Vec<String>)>,
}

/// A controller process as others see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Seat {
    side: u32,
    /// Whether the object and the NIC are still what it read or wrote last.
    ground_is_current: bool,
    nic_is_current: bool,
}

/// A write under way, the last tick at which it may arrive, and whether the NIC is still as it was read for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Flight {
    write: u32,
    until: u8,
    is_current: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    tick: u8,
    terms: u8,
    object: u32,
    node: u32,
    nic: u32,
    /// Who leads, and the other.
    seats: [Seat; 2],
    flights: Vec<Flight>,
    /// The intent of the operation that is under way.
    operation: Option<u64>,
}

/// What can happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Happens {
    /// The leader begins a pass, on what it heard before or on what is stored at this moment.
    Begins {
        hears: bool,
    },
    IsServed(usize),
    Sends(usize),
    TimesOut(usize),
    Lands(usize),
    Ends {
        well: bool,
    },
    AgentLooks {
        hears: bool,
    },
    AgentTells,
    PodIsBound,
    PodStarts(usize, std::net::Ipv4Addr),
    /// It is over, and has its address still.
    PodFinishes(usize),
    PodEnds(usize),
    /// Another term begins.
    Leads(Leads),
    TimePasses,
}

/// Who leads the next term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leads {
    /// A process that is started in place of the one that led, which dies.
    Restarted,
    /// The other, while the one that led goes on.
    Other,
}

/// Visits every state within bounds, the nearest first.
pub fn search(bounds: Bounds) -> Found {
    let policy = policy();
    let (mut parts, first) = Parts::new(&policy, bounds);
    let mut found = Found::default();
    // Each state and the one from which it was come by first.
    let mut order: Vec<(Rc<State>, usize)> = vec![(Rc::new(first), 0)];
    let mut seen: HashSet<Rc<State>> = order.iter().map(|(state, _)| Rc::clone(state)).collect();
    let mut at = 0;
    while let Some((state, _)) = order.get(at) {
        let state = Rc::clone(state);
        for happens in parts.possible(&state) {
            found.steps += 1;
            match parts.go(&state, happens, &mut found.landed) {
                Ok(next) if seen.contains(&next) => {}
                Ok(next) => {
                    let next = Rc::new(next);
                    seen.insert(Rc::clone(&next));
                    order.push((next, at));
                }
                Err(violation) => {
                    found.violation = Some((violation, way(&mut parts, &order, at, happens)));
                    return Found { states: order.len(), parts: parts.count(), ..found };
                }
            }
        }
        at += 1;
    }
    Found { states: order.len(), parts: parts.count(), ..found }
}

/// What happened from the first state on, in words.
fn way(parts: &mut Parts<'_>, order: &[(Rc<State>, usize)], last: usize, happens: Happens) -> Vec<String> {
    let mut told = vec![parts.words(&order[last].0, happens)];
    let mut at = last;
    while at > 0 {
        let (state, before) = &order[at];
        let from = &order[*before].0;
        let possible = parts.possible(from);
        let leads_here = |happens: &Happens| parts.go(from, *happens, &mut 0).is_ok_and(|next| next == **state);
        if let Some(happens) = possible.into_iter().find(leads_here) {
            told.push(parts.words(from, happens));
        }
        at = *before;
    }
    told.reverse();
    told
}

/// At most three addresses, and no period longer than a tick.
fn policy() -> Policy {
    let mut config = AzureVnetConfig::new("default", AzureVnetConfigSpec::default());
    config.metadata.generation = Some(1);
    let pool = &mut config.spec.pool;
    (pool.min_free, pool.batch, pool.max, pool.cool_down) = (Some(1), Some(1), Some(3), Some("0s".into()));
    (pool.release.after, pool.release.calm, pool.release.probation) = ("0s".into(), "0s".into(), "60s".into());
    (config.spec.arm.intent_ttl, config.spec.arm.grace) = ("60s".into(), "60s".into());
    Policy::of(&config).unwrap_or_else(|_| unreachable!("its durations are such"))
}
