//! A controller process: what it knows and what it waits for, and what each answer makes of it.

use std::{
    ops::ControlFlow::{Break, Continue},
    sync::Arc,
};

use azure_vnet_crds::node::Machine;
use azure_vnet_operator_core::{
    arm::{Class, Error, Trace, Write},
    decide::{Leader, NodeFacts, Ready, Send},
    nic::Nic as Read,
    pass::{Effect, Known, Pass, Present, Subject},
};
use jiff::Timestamp;

use super::{
    TICK,
    parts::{Departed, Parts, print_text},
};
use crate::{cloud::document, controller::time};

/// One process.
#[derive(Clone, Debug)]
pub struct Side<'p> {
    pub term: u8,
    known: Known,
    pass: Option<Pass<'p>>,
    pub waits: Option<Wait>,
    /// Since the period began: no two of its reads and requests happen at the same time.
    clock: i64,
    tick: u8,
    /// When it last read the NIC, and when a request of its own last ended.
    read: i64,
    ended: i64,
    /// The NIC that it read.
    nic: Option<u32>,
}

#[derive(Clone, Debug)]
pub enum Wait {
    Server(Effect),
    /// Its turn to send has not come.
    Turn(Box<Write>, Send),
    /// For the answer to what was sent.
    Answer(u64),
}

/// What it is told, and when, and whether it leads then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Told {
    pub what: What,
    pub tick: u8,
    pub leads: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum What {
    /// To begin, with what it hears, or with what it knows.
    Begin(Option<u32>),
    Object(u32),
    /// What it knows, where it was to read the object.
    ReadOld,
    /// Its write is done, or somebody else was quicker.
    Written(Option<u32>),
    Nic(u32),
    /// How its request ended.
    Ended(How),
    /// Its request is on its way.
    Departed,
    /// It leads a term.
    Leads(u8),
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum How {
    Well,
    TimedOut,
    NotSent,
    /// The NIC is another one than was read.
    Stale,
    Failed,
}

impl How {
    fn result(self) -> Result<(), Error> {
        let error = |class, trace| Err(Error { class, trace, ..Error::not_sent("as the scope has it") });
        match self {
            Self::Well => Ok(()),
            Self::TimedOut => Err(Error::transport(Trace::Unknown, "timed out".into())),
            Self::NotSent => Err(Error::not_sent("leadership or the intent's time ended")),
            Self::Stale => error(Class::Stale, Trace::None),
            Self::Failed => error(Class::Failed, Trace::Ended),
        }
    }
}

impl Side<'_> {
    /// A process that has just begun.
    pub fn new(term: u8) -> Self {
        Self { term, known: Known::default(), pass: None, waits: None, clock: 0, tick: 0, read: 0, ended: 0, nic: None }
    }

    pub fn knows_an_object(&self) -> bool {
        self.known.object.is_some()
    }

    pub fn is_idle(&self) -> bool {
        self.pass.is_none()
    }

    /// Whether its pass is one of the term that it leads now.
    pub fn is_current(&self) -> bool {
        self.pass.as_ref().is_some_and(|pass| pass.nonce() == self.nonce())
    }

    fn nonce(&self) -> String {
        format!("term {}", self.term)
    }

    /// A moment after its last one.
    fn moment(&mut self, tick: u8) -> i64 {
        if tick != self.tick {
            (self.tick, self.clock) = (tick, 0);
        }
        self.clock += 1;
        debug_assert!(self.clock < 1000, "a period's moments lie within one second");
        self.now(tick)
    }

    fn now(&self, tick: u8) -> i64 {
        (i64::from(tick) + 2) * TICK + if tick == self.tick { self.clock } else { 0 }
    }

    /// What tells it apart. Of times it is the period that counts, and whether it read after its last request.
    fn print(&self) -> u128 {
        let Self { term, known, pass, waits, clock: _, tick: _, read, ended, nic } = self;
        let known = pass.as_ref().map_or(known, Pass::known);
        // An object's version is its number here.
        let object = known.object.as_ref().and_then(|object| object.metadata.resource_version.as_ref());
        let told = (term, object, nic, known.gist(), pass.as_ref().map(Pass::gist), waits.as_ref().map(Wait::gist), read > ended);
        print_text(&without_moments(&format!("{told:?}")))
    }
}

impl Wait {
    /// What tells it apart from others of its pass: what is sent follows from the NIC that it knows.
    fn gist(&self) -> (&str, Option<&Effect>, Option<&Send>, Option<u64>) {
        match self {
            Self::Server(effect) => ("is served", Some(effect), None, None),
            Self::Turn(_, send) => ("sends", None, Some(send), None),
            Self::Answer(intent) => ("sent", None, None, Some(*intent)),
        }
    }
}

impl<'p> Parts<'p> {
    pub fn keep_side(&mut self, side: Side<'p>) -> u32 {
        self.sides.keep(side.print(), |_| side)
    }

    /// What a process becomes when it is told something.
    pub fn side_after(&mut self, before: u32, told: Told) -> Result<u32, String> {
        if let Some(after) = self.side_steps.get(&(before, told)) {
            return Ok(*after);
        }
        let mut side = Side::clone(&self.sides.get(before));
        self.tell_side(&mut side, told)?;
        let after = self.keep_side(side);
        self.side_steps.insert((before, told), after);
        Ok(after)
    }

    fn tell_side(&self, side: &mut Side<'p>, Told { what, tick, leads }: Told) -> Result<(), String> {
        match what {
            What::Leads(term) => {
                *side = if side.is_idle() { Side::new(term) } else { Side { term, ..side.clone() } };
                return Ok(());
            }
            What::Departed => {
                if let Some(Wait::Turn(_, send)) = side.waits.take() {
                    side.waits = Some(Wait::Answer(send.intent));
                }
                return Ok(());
            }
            What::Begin(heard) => {
                let subject = self.subject(side);
                let known = side.known.take_object(&subject.me.nonce);
                let object = heard.map(|object| Arc::clone(&self.objects.get(object))).or(known);
                let object = object.unwrap_or_else(|| Arc::clone(&self.objects.get(self.first)));
                let known = std::mem::take(&mut side.known).renewed(&subject, Some(object));
                side.pass = Some(Pass::new(subject, known));
            }
            What::ReadOld => {
                side.waits = None;
                side.pass.as_mut().into_iter().for_each(|pass| pass.object_read(pass.known().object.clone()));
            }
            What::Object(object) => {
                side.waits = None;
                let object = Arc::clone(&self.objects.get(object));
                side.pass.as_mut().into_iter().for_each(|pass| pass.object_read(Some(Arc::clone(&object))));
            }
            What::Written(object) => {
                side.waits = None;
                let object = object.map(|object| Arc::clone(&self.objects.get(object)));
                side.pass.as_mut().into_iter().for_each(|pass| pass.written(object.clone()));
            }
            What::Nic(nic) => {
                side.waits = None;
                side.read = side.moment(tick);
                side.nic = Some(nic);
                let main = self.nics.get(nic).nic.documents(i64::MAX, 0).main.clone();
                let nic = Read::whole(document(main)).map_err(|error| error.to_string())?;
                let machine = Machine { uid: "node".into(), boot_id: "boot".into(), ..Machine::default() };
                let at = time(side.read);
                side.pass.as_mut().into_iter().for_each(|pass| pass.nic_read(at, Ok((nic.clone(), machine.clone())), at));
            }
            What::Ended(how) => {
                let intent = match side.waits.take() {
                    Some(Wait::Answer(intent)) => intent,
                    Some(Wait::Turn(_, send)) => send.intent,
                    other @ (Some(Wait::Server(_)) | None) => return Err(format!("nothing was sent: {other:?}")),
                };
                side.ended = side.moment(tick);
                let at = time(side.ended);
                side.pass.as_mut().into_iter().for_each(|pass| pass.attempted(intent, how.result(), at));
            }
        }
        ask(side, tick, leads);
        Ok(())
    }

    fn subject(&self, side: &Side<'_>) -> Subject<'p> {
        let me = Leader { identity: "controller".into(), nonce: side.nonce() };
        let (name, uid, boot_id) = ("n".into(), "node".into(), "boot".into());
        let node = NodeFacts { name, uid, boot_id, ready: Ready::True, cordoned: false, deleting: false, created: Timestamp::UNIX_EPOCH };
        Subject { node, provider_id: "azure:///", policy: self.policy, me }
    }

    /// What a controller sends.
    pub fn depart(&mut self, side: u32, write: &Write, send: &Send) -> u32 {
        if let Some(known) = self.departed.get(&side) {
            return *known;
        }
        let number =
            self.writes.keep(super::parts::print((write, send)), |_| Departed { write: Box::new(write.clone()), send: send.clone() });
        self.departed.insert(side, number);
        number
    }
}

/// Asks a pass what to do, until it has to wait.
fn ask(side: &mut Side<'_>, tick: u8, leads: bool) {
    let (now, nonce) = (time(side.now(tick)), side.nonce());
    while let Some(pass) = &mut side.pass {
        let present = Present {
            now,
            nonce: leads.then_some(&nonce),
            draw: &nonce,
            exhausted: &|_| false,
            wait: &|_, _| None,
            free: &|_| None,
            leaving: false,
        };
        match pass.next(&present) {
            Break(_) => {
                let known = side.pass.take().map(Pass::into_known).unwrap_or_default();
                // What is known counts for one term, and no term comes again.
                if leads {
                    side.known = known;
                } else {
                    *side = Side::new(side.term);
                }
            }
            Continue(Effect::Tell(_)) => {}
            Continue(Effect::Send(send)) => match pass.prepare(&send) {
                Err(result) => {
                    side.ended = side.read.max(side.ended) + 1;
                    pass.attempted(send.intent, result, time(side.ended));
                }
                Ok(write) => {
                    side.waits = Some(Wait::Turn(Box::new(write), send));
                    return;
                }
            },
            Continue(effect) => {
                side.waits = Some(Wait::Server(effect));
                return;
            }
        }
    }
}

/// A text in which times are whole periods.
fn without_moments(text: &str) -> String {
    const HOUR: &str = "2027-01-15T08:";
    let mut bare = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(|c: char| c.is_ascii_digit()) {
        let (before, from) = rest.split_at(at);
        bare.push_str(before);
        let digits = |text: &str| text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let length = if let Some(end) = from.strip_prefix(HOUR).and_then(|time| time.find('Z')) {
            let time = &from[HOUR.len()..HOUR.len() + end];
            let number = |at: usize| time.get(at..at + 2).and_then(|text| text.parse::<i64>().ok()).unwrap_or_default();
            bare.push_str("period ");
            bare.push_str(&((number(0) * 60 + number(3)) * 1000 / TICK).to_string());
            HOUR.len() + end + 1
        } else {
            let whole = digits(from);
            let fraction = from[whole..].strip_prefix('.').map_or(0, digits);
            let is_span = fraction > 0 && from[whole + 1 + fraction..].starts_with('s');
            // A pause until it is worth looking again: every pause is tried.
            bare.push_str(if is_span { "a pause" } else { &from[..whole] });
            if is_span { whole + fraction + 2 } else { whole }
        };
        rest = &from[length..];
    }
    bare.push_str(rest);
    bare
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_times_the_period_counts() {
        let one = without_moments("at 2027-01-15T08:02:02.003Z for 58.997s of 7");
        assert_eq!(one, without_moments("at 2027-01-15T08:02:02.01Z for 58.9s of 7"), "a moment later");
        assert_ne!(one, without_moments("at 2027-01-15T08:03:03.003Z for 58.997s of 7"), "a period later");
        assert_ne!(without_moments("slot 3 10.0.0.3"), without_moments("slot 3 10.0.0.4"));
    }
}
