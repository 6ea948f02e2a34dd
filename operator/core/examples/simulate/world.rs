//! Everything, on one clock: what is due next happens next, and nothing happens beside it.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    rc::Rc,
    sync::Arc,
};

use azure_vnet_crds::{
    AzureVnetNode, AzureVnetNodeSpec,
    node::{self, Cloud},
};
use azure_vnet_operator_core::{
    arm::{Error, Write},
    decide::Send,
    nic::State,
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};

use crate::{
    check::Book,
    cloud::{Nic, Subnet},
    controller::{Caller, Outset, Replica},
    dice::Dice,
    fault::{Fault, Mutation},
    life::Machine,
    plan::{Armed, Plan, Point, Strike, Weather},
    ruling::Ruling,
    server::Server,
    trace::Trace,
};

/// All that is.
pub struct World<'p> {
    pub plan: &'p Plan,
    pub now: i64,
    pub dice: Dice,
    pub trace: Trace,
    pub server: Server,
    pub replicas: Vec<Replica<'p>>,
    pub machines: Vec<Machine>,
    pub nics: Vec<Nic>,
    pub subnets: Vec<Subnet>,
    pub weather: Vec<Weather>,
    /// What is to happen to a leader at a point.
    pub armed: Option<Armed>,
    /// Operations that somebody follows.
    pub followed: BTreeMap<u64, (Caller, u64)>,
    /// Requests under way to Azure.
    pub flights: BTreeMap<u64, Flight>,
    pub snapshot: Option<Server>,
    pub book: Book,
    pub number: u64,
    /// What configs say for each node.
    pub rulings: Vec<Ruling>,
    pub calm: bool,
    /// Whether the controllers are of an earlier version.
    pub are_older: bool,
    agenda: Agenda,
}

/// A write on its way.
#[derive(Clone, Debug)]
pub struct Flight {
    pub caller: Caller,
    pub write: Box<Write>,
    pub send: Send,
    /// The object that its intent is recorded in.
    pub object: String,
    pub fate: Option<Fault>,
}

/// The object that a write was decided on, if there was one.
pub type Ground = Option<Box<ObjectMeta>>;

/// What a pass waits for.
#[derive(Clone, Debug)]
pub enum Task {
    ReadObject,
    /// Writes name the object that they were decided on.
    Delete(Ground),
    WriteSpec(Box<AzureVnetNodeSpec>, Ground, Outset),
    WriteStatus(Box<Cloud>, Vec<Condition>, Ground, Outset),
    ReadNic {
        began: Timestamp,
    },
    Send {
        write: Box<Write>,
        send: Send,
    },
}

/// How it went.
#[derive(Clone, Debug)]
pub enum Answer {
    Object(Option<Arc<AzureVnetNode>>),
    Written(Option<Arc<AzureVnetNode>>),
    Deleted,
    /// As the NIC was at a time.
    Nic {
        began: Timestamp,
        of: i64,
        result: Box<Result<(azure_vnet_operator_core::nic::Nic, node::Machine), Error>>,
    },
    Sent {
        intent: u64,
        result: Result<(), Error>,
    },
    Failed,
}

/// What happens.
#[derive(Debug)]
pub enum Event {
    Elect { replica: usize, life: u64 },
    Elected { replica: usize, life: u64, asked: i64 },
    Relist { replica: usize, life: u64 },
    Turn { replica: usize, life: u64 },
    LetGo { replica: usize, life: u64, name: usize, object: Arc<AzureVnetNode> },
    Task { caller: Caller, task: Task },
    Answer { caller: Caller, answer: Answer },
    Put { flight: u64 },
    OperationEnds { name: usize, operation: u64 },
    Deliver { replica: usize, life: u64, name: usize, cordoned: bool },
    DeliverToAgent { name: usize, life: u64 },
    Agent { name: usize, life: u64 },
    Poll { name: usize, life: u64 },
    Report { name: usize, life: u64, agent: Rc<node::Agent>, regressed: bool },
    StartAgent { name: usize },
    Churn { name: usize },
    Add { name: usize, pod: String },
    EndPod { name: usize, pod: String },
    ForgetPod { name: usize, pod: String },
    Kubelet { name: usize },
    Collect { name: usize },
    StartReplica { replica: usize },
    KeepTime { replica: usize, life: u64 },
    Exit { replica: usize, life: u64 },
    Strike(Strike),
    Calm,
}

/// What is to happen, by its time and then in the order in which it was said. Events lie still, and only their places are sorted.
#[derive(Debug, Default)]
struct Agenda {
    due: BinaryHeap<Reverse<(i64, u64, usize)>>,
    places: Vec<Option<Event>>,
    free: Vec<usize>,
    said: u64,
}

impl Agenda {
    fn push(&mut self, at: i64, event: Event) {
        self.said += 1;
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            self.places.len() - 1
        });
        self.places[place] = Some(event);
        self.due.push(Reverse((at, self.said, place)));
    }

    fn pop(&mut self) -> Option<(i64, Event)> {
        let Reverse((at, _, place)) = self.due.pop()?;
        self.free.push(place);
        Some((at, self.places[place].take()?))
    }
}

impl<'p> World<'p> {
    pub fn new(plan: &'p Plan, trace: Trace) -> Self {
        let mut world = Self {
            plan,
            now: 0,
            dice: Dice::new(plan.seed ^ 0x5eed),
            trace,
            server: Server::new(plan.mutation == Some(Mutation::UnconditionalWrites)),
            replicas: (0..2).map(|_| Replica::default()).collect(),
            machines: plan.machines.iter().map(|_| Machine::default()).collect(),
            nics: plan.nics(),
            subnets: plan.subnets(),
            weather: vec![],
            armed: None,
            followed: BTreeMap::new(),
            flights: BTreeMap::new(),
            snapshot: None,
            book: Book::default(),
            number: 0,
            rulings: plan.machines.iter().map(|_| Ruling::Valid(0)).collect(),
            calm: false,
            are_older: false,
            agenda: Agenda::default(),
        };
        for replica in 0..world.replicas.len() {
            world.start_replica(replica);
        }
        for (at, strike) in &plan.strikes {
            world.after(*at, Event::Strike(strike.clone()));
        }
        world.after(plan.calm_from, Event::Calm);
        world
    }

    /// Lets it run to the end, or to the first broken rule.
    pub fn run(&mut self) {
        while let Some((at, event)) = self.agenda.pop() {
            if at > self.plan.end || self.trace.is_violated() {
                break;
            }
            self.now = at;
            self.trace.clock(at);
            self.happen(event);
        }
        self.now = self.plan.end;
        if !self.trace.is_violated() {
            self.check_rest();
        }
    }

    pub fn after(&mut self, pause: i64, event: Event) {
        self.agenda.push(self.now + pause.max(0), event);
    }

    /// A usual pause between two machines.
    pub fn latency(&mut self) -> i64 {
        self.dice.time(2, 60)
    }

    pub fn next_number(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    /// An object or a Node changed: all who watch it will see.
    pub fn changed(&mut self, name: usize) {
        let cordoned = self.server.nodes.get(&name).is_some_and(|node| node.cordoned);
        for replica in 0..self.replicas.len() {
            let pause = self.latency() + (self.replicas[replica].stalled_until - self.now).max(0);
            let life = self.replicas[replica].life;
            self.after(pause, Event::Deliver { replica, life, name, cordoned });
        }
        let (pause, life) = (self.latency(), self.machines[name].agent.life);
        self.after(pause, Event::DeliverToAgent { name, life });
    }

    fn happen(&mut self, event: Event) {
        let replica = match &event {
            Event::Elect { replica, life }
            | Event::Elected { replica, life, .. }
            | Event::Relist { replica, life }
            | Event::Turn { replica, life }
            | Event::LetGo { replica, life, .. }
            | Event::KeepTime { replica, life }
            | Event::Exit { replica, life }
            | Event::Deliver { replica, life, .. } => Some((*replica, *life)),
            Event::Answer { caller, .. } => Some((caller.replica, caller.life)),
            _ => None,
        };
        if let Some((replica, life)) = replica {
            if self.replicas[replica].life != life || !self.replicas[replica].alive {
                return;
            }
            let frozen = self.replicas[replica].frozen_until;
            if frozen > self.now {
                return self.after(frozen - self.now, event);
            }
        }
        match event {
            Event::Elect { replica, .. } => self.elect(replica),
            Event::Elected { replica, asked, .. } => self.elected(replica, asked),
            Event::Relist { replica, .. } => self.relist(replica),
            Event::Turn { replica, .. } => self.turn(replica),
            Event::LetGo { replica, name, object, .. } => self.let_go(replica, name, &object),
            Event::Deliver { replica, life, name, cordoned } => {
                let one = &self.replicas[replica];
                if self.server.down || one.cut_off || one.stalled_until > self.now {
                    let pause = 1_000.max(one.stalled_until - self.now);
                    return self.after(pause, Event::Deliver { replica, life, name, cordoned });
                }
                self.deliver(replica, name, cordoned);
            }
            Event::Task { caller, task } => self.task(caller, task),
            Event::Answer { caller, answer } => self.take_answer(caller, answer),
            Event::Put { flight } => self.put(flight),
            Event::OperationEnds { name, operation } => self.operation_ends(name, operation),
            Event::DeliverToAgent { name, life } => self.deliver_to_agent(name, life),
            Event::Agent { name, life } => self.agent(name, life, false),
            Event::Poll { name, life } => self.agent(name, life, true),
            Event::Report { name, life, agent, regressed } => self.report(name, life, agent, regressed),
            Event::StartAgent { name } => self.start_agent(name),
            Event::Churn { name } => self.churn(name),
            Event::Add { name, pod } => self.add(name, &pod),
            Event::EndPod { name, pod } => self.end_pod(name, &pod),
            Event::ForgetPod { name, pod } => self.forget_pod(name, &pod),
            Event::Kubelet { name } => self.kubelet(name),
            Event::Collect { name } => self.collect(name),
            Event::StartReplica { replica } => self.start_replica(replica),
            Event::KeepTime { replica, .. } => self.keep_time(replica),
            Event::Exit { replica, .. } => self.exit(replica),
            Event::Strike(strike) => self.strike(strike),
            Event::Calm => self.cease(),
        }
    }

    fn take_answer(&mut self, caller: Caller, answer: Answer) {
        match answer {
            Answer::Object(object) => self.answer(caller, |pass, _| pass.object_read(object)),
            Answer::Written(object) => self.answer(caller, |pass, _| pass.written(object)),
            Answer::Deleted => self.answer(caller, |_, _| {}),
            Answer::Nic { began, of, result } => {
                // Of an object made anew nothing is published before writes of the former one have ended (safety rule RE4).
                let publishes = self.server.objects.get(&caller.name).is_some_and(|object| object.spec.revision > 0);
                if result.is_err() {
                    self.book.looked_in_vain(caller.name);
                } else if publishes && (*result).as_ref().is_ok_and(|(nic, _)| nic.view().state == State::Settled) {
                    self.book.looked(caller, of, self.now);
                }
                self.answer(caller, |pass, now| pass.nic_read(began, *result, now));
            }
            Answer::Sent { intent, result } => {
                self.note_room(caller, intent, result.as_ref().copied());
                if let Err(error) = &result {
                    self.gate(caller, error);
                }
                self.answer(caller, |pass, now| pass.attempted(intent, result, now));
            }
            Answer::Failed => {
                if self.is_waiting(caller) {
                    self.break_off(caller);
                }
            }
        }
    }

    pub fn issue(&mut self, caller: Caller, task: Task) {
        // Where others use Azure's limits up, the client holds its requests back.
        let asks_azure = matches!(task, Task::Send { .. } | Task::ReadNic { .. });
        let held_back = if asks_azure && self.roll(&[Fault::A28OthersUseUp]).is_some() { self.dice.time(1_000, 25_000) } else { 0 };
        if let Task::Send { write, send } = task {
            self.check_patience(caller, &send);
            if held_back > 0 {
                return self.after(held_back, Event::Task { caller, task: Task::Send { write, send } });
            }
            return self.depart(caller, write, send);
        }
        let late = !matches!(task, Task::ReadNic { .. }) && self.roll(&[Fault::K17RequestLate]).is_some();
        let pause = self.latency() + held_back + if late { self.dice.time(1_000, 30_000) } else { 0 };
        self.after(pause, Event::Task { caller, task });
    }

    /// A leader comes to a point at which something may befall it.
    pub fn reach(&mut self, point: Point, caller: Caller) {
        let one = &mut self.replicas[caller.replica];
        let Some(armed) = self.armed.filter(|armed| armed.point == point && one.alive && one.life == caller.life) else { return };
        self.armed = None;
        match armed.freeze {
            Some(pause) => {
                one.frozen_until = self.now + pause;
                self.trace.hit(Fault::O02FrozenMidway);
            }
            None => self.kill(caller.replica, point.fault()),
        }
    }

    pub fn reply(&mut self, caller: Caller, pause: i64, answer: Answer) {
        self.after(pause, Event::Answer { caller, answer });
    }

    /// Names with a machine.
    pub fn names(&self) -> std::ops::Range<usize> {
        0..self.plan.machines.len()
    }
}
