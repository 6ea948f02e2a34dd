//! What was searched and found, in words.

use std::time::Instant;

use azure_vnet_crds::node::{Intent, SlotAddress};
use azure_vnet_operator_core::{decide::Send, pass::Effect};

use super::{Bounds, Found, Happens, LEADER, Leads, PLANTED, State, parts::Parts, search, side::Wait};

/// Searches within each of these bounds, and tells. Whether no rule was broken.
pub fn tell(all: &[Bounds]) -> bool {
    let broken = all.iter().filter(|bounds| {
        let begun = Instant::now();
        let Found { states, steps, landed, parts: [objects, nodes, nics, sides], violation } = search(**bounds);
        let Bounds { terms, ticks, ids, mutation: _ } = bounds;
        println!("every order with {terms} changes of leader, {ticks} minutes that pass, {ids} releases and intents");
        println!("{states:>12} states, of {objects} objects, {nodes} nodes, {nics} NICs and {sides} controllers");
        println!("{steps:>12} steps, by {landed} of which a write took effect");
        println!("{:>12.1} s", begun.elapsed().as_secs_f64());
        if let Some((violation, way)) = &violation {
            print(way);
            println!("the protocol failed: {violation}");
        }
        violation.is_some() || landed == 0
    });
    broken.count() == 0
}

/// Searches with each of the defects that are planted, and tells the shortest way to it. Whether all are found.
pub fn plant() -> bool {
    let missed = PLANTED.into_iter().filter(|bounds| {
        let Found { states, violation, .. } = search(*bounds);
        let defect = bounds.mutation.map(|mutation| format!("{mutation:?}")).unwrap_or_default();
        match &violation {
            Some((violation, way)) => {
                println!("{defect} is found in {states} states: {violation}");
                print(way);
            }
            None => println!("{defect} is not found in {states} states"),
        }
        violation.is_none()
    });
    missed.count() == 0
}

fn print(way: &[String]) {
    for (number, step) in way.iter().enumerate() {
        println!("{:>6}. {step}", number + 1);
    }
}

impl Parts<'_> {
    /// An event in words.
    pub fn words(&self, state: &State, happens: Happens) -> String {
        let waits = |number: usize| self.sides.get(state.seats[number].side).waits.clone();
        let who = |number: usize| if number == LEADER { "the leader" } else { "the one that led" };
        match happens {
            Happens::Begins { hears: true } => "the leader begins a pass on what is stored".into(),
            Happens::Begins { hears: false } => "the leader begins a pass on what it knows".into(),
            Happens::IsServed(number) => match waits(number) {
                Some(Wait::Server(effect)) => format!("{} {}", who(number), does(&effect, state.seats[number].ground_is_current)),
                Some(Wait::Turn(..) | Wait::Answer(_)) | None => format!("{} waits", who(number)),
            },
            Happens::Sends(number) => match waits(number) {
                Some(Wait::Turn(_, send)) => format!("{} comes to send {}", who(number), put(&send)),
                Some(Wait::Server(_) | Wait::Answer(_)) | None => format!("{} waits", who(number)),
            },
            Happens::TimesOut(number) => format!("{} gets no answer to what it sent", who(number)),
            Happens::Lands(flight) => format!("{} arrives", put(&self.writes.get(state.flights[flight].write).send)),
            Happens::Ends { well: true } => "the operation succeeds".into(),
            Happens::Ends { well: false } => "the operation fails".into(),
            Happens::AgentLooks { hears: true } => "the agent looks, at what is stored".into(),
            Happens::AgentLooks { hears: false } => "the agent looks, at what it knows".into(),
            Happens::AgentTells => "the agent's report is stored".into(),
            Happens::PodIsBound => "a pod is bound".into(),
            Happens::PodStarts(number, address) => format!("pod {number} gets {address}"),
            Happens::PodFinishes(number) => format!("pod {number} finishes"),
            Happens::PodEnds(number) => format!("pod {number} loses its address"),
            Happens::Leads(Leads::Restarted) => "the leader dies, starts anew and leads".into(),
            Happens::Leads(Leads::Other) => "the other leads".into(),
            Happens::TimePasses => "a minute passes".into(),
        }
    }
}

fn does(effect: &Effect, may: bool) -> String {
    let denied = if may { "" } else { ", and somebody else was quicker" };
    match effect {
        Effect::ReadObject => "reads the object".into(),
        Effect::ReadNic(_) => "reads the NIC".into(),
        Effect::WriteSpec(spec) => {
            let asked: Vec<String> = spec.release.iter().map(|one| format!("{}: {}", one.id, list(&one.addresses))).collect();
            format!("writes revision {} [{}], asks for {asked:?}{denied}", spec.revision, list(&spec.addresses))
        }
        Effect::WriteStatus(cloud, _) => format!("writes the status, {}{denied}", cloud.intent.as_ref().map_or("no intent".into(), intent)),
        Effect::Delete | Effect::Tell(_) | Effect::Send(_) => format!("{effect:?}"),
    }
}

fn intent(intent: &Intent) -> String {
    format!("intent {} +{:?} -[{}]", intent.id, intent.add, list(&intent.remove))
}

fn put(send: &Send) -> String {
    let remove: Vec<SlotAddress> = send.change.remove.iter().copied().collect();
    format!("PUT {} +{:?} -[{}]", send.intent, send.change.add, list(&remove))
}

fn list(all: &[SlotAddress]) -> String {
    all.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}
