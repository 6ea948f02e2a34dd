//! One controller process: its lease, its caches, what is due, and passes. Which steps a pass takes is the product's; here they only take time.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow::{Break, Continue},
    rc::Rc,
    sync::Arc,
};

use azure_vnet_crds::{AzureVnetNode, node::IntentOp};
use azure_vnet_operator_core::{
    arm::{Budget, Class, Error},
    decide::{Leader, NodeFacts, may_vanish},
    full::FullSubnets,
    pass::{Effect, End, Known, Pass, Present, Subject, newer},
    policy::{Pool, ReleasePolicy},
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::{
    check::FULL,
    fault::{Fault, Mutation},
    server::{Lease, NodeObject},
    world::{Event, Task, World},
};

/// Seconds of the product's election, in milliseconds.
const DURATION: i64 = 15_000;
const RENEW: i64 = 4_000;
const RETRY: i64 = 2_000;
const TRUST: i64 = 10_000;
/// How long one that is asked to end may take, and how far the time of day may be from its clock.
const FINISH: i64 = 20_000;
const APART: i64 = 20_000;
/// Pause after a pass that broke off.
const AGAIN: i64 = 5_000;
/// Between two looks at an object that is held.
const FAREWELL: i64 = 15_000;

/// One process.
#[derive(Debug, Default)]
pub struct Replica<'p> {
    pub alive: bool,
    pub life: u64,
    /// When it first saw all configs.
    pub watches_since: Option<i64>,
    pub identity: String,
    pub frozen_until: i64,
    /// No way to the API server.
    pub cut_off: bool,
    /// Since when it is asked to end.
    pub departing: Option<i64>,
    pub stalled_until: i64,
    /// How far its clock is off. It goes on evenly whatever the time of day does.
    pub skew: i64,
    /// How far the time of day is off, beside that.
    pub wall: i64,
    renewed: Option<i64>,
    nonce: String,
    seen: Option<(Lease, i64)>,
    nodes: BTreeMap<usize, Rc<NodeObject>>,
    pub pools: BTreeMap<usize, Arc<AzureVnetNode>>,
    known: BTreeMap<usize, Box<Known>>,
    due: BTreeMap<usize, i64>,
    running: BTreeMap<usize, Box<Running<'p>>>,
    passes: u64,
    full: RefCell<FullSubnets>,
    leaving: BTreeSet<usize>,
    /// Nodes that were seen cordoned since their last pass began.
    cordons: BTreeSet<usize>,
    gates: BTreeMap<Budget, i64>,
}

#[derive(Debug)]
struct Running<'p> {
    number: u64,
    pass: Pass<'p>,
    outset: Outset,
    node: Rc<NodeObject>,
}

/// What a pass knows when it begins, and goes by to its end.
#[derive(Clone, Copy, Debug)]
pub struct Outset {
    pub pool: Pool,
    pub release: ReleasePolicy,
    /// When the leader last had a reason for calm.
    pub restless: i64,
}

/// Whose answer something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    pub replica: usize,
    pub life: u64,
    pub name: usize,
    pub pass: u64,
}

impl Replica<'_> {
    pub fn leads(&self, now: i64) -> bool {
        self.alive && self.renewed.is_some_and(|at| now - at < TRUST)
    }

    pub fn nonce(&self, now: i64) -> Option<&str> {
        self.leads(now).then_some(self.nonce.as_str())
    }

    /// Whether it sees a node as cordoned.
    pub fn has_seen_cordon(&self, name: usize) -> bool {
        self.nodes.get(&name).is_some_and(|node| node.cordoned)
    }

    pub fn kill(&mut self) {
        *self = Self { life: self.life + 1, skew: self.skew + self.wall, ..Self::default() };
    }

    /// When requests of a kind may be sent again, if Azure asked for patience.
    pub fn closed_until(&self, kind: Budget, now: i64) -> Option<i64> {
        self.gates.get(&kind).copied().filter(|until| *until > now)
    }

    pub fn close(&mut self, kind: Budget, until: i64) {
        let gate = self.gates.entry(kind).or_default();
        *gate = until.max(*gate);
    }

    pub fn drop_pass(&mut self, name: usize) -> bool {
        self.full.get_mut().done(&name.to_string());
        self.known.remove(&name);
        self.running.remove(&name).is_some()
    }

    pub fn running(&self) -> impl Iterator<Item = usize> + '_ {
        self.running.keys().copied()
    }
}

impl<'p> World<'p> {
    /// This process's clock.
    pub fn clock(&self, replica: usize) -> Timestamp {
        time(self.now + self.replicas[replica].skew)
    }

    pub fn start_replica(&mut self, replica: usize) {
        let token = self.dice.token();
        let one = &mut self.replicas[replica];
        one.kill();
        (one.alive, one.identity) = (true, format!("controller-{replica}_{token}"));
        let life = one.life;
        self.trace.note(&[10, replica as u64], || format!("controller {replica} starts"));
        let start = self.dice.time(500, 5_000);
        self.after(start, Event::Relist { replica, life });
        self.after(start + 200, Event::Elect { replica, life });
    }

    /// Stands for election, as the product does.
    pub fn elect(&mut self, replica: usize) {
        let life = self.replicas[replica].life;
        let asked = self.now;
        if self.server.down || self.replicas[replica].cut_off || self.roll(&[Fault::K09TokenRotated]).is_some() {
            return self.after(RETRY, Event::Elect { replica, life });
        }
        let now = self.now;
        let (one, lease) = (&mut self.replicas[replica], &mut self.server.lease);
        if one.seen.as_ref().is_none_or(|(seen, _)| seen != lease) {
            one.seen = Some((lease.clone(), now));
        }
        let left_alone = one.seen.as_ref().is_some_and(|(_, since)| now - since >= DURATION);
        if lease.holder.is_empty() || lease.holder == one.identity || left_alone {
            lease.holder.clone_from(&one.identity);
            lease.renewals += 1;
            let pause = self.latency();
            return self.after(pause, Event::Elected { replica, life, asked });
        }
        one.renewed = None;
        self.after(RETRY, Event::Elect { replica, life });
    }

    pub fn elected(&mut self, replica: usize, asked: i64) {
        let now = self.now;
        let token = self.dice.draw();
        let one = &mut self.replicas[replica];
        let new = one.renewed.is_none_or(|at| now - at >= TRUST);
        one.renewed = Some(asked);
        let life = one.life;
        if new {
            one.nonce = token.text();
            self.trace.note(&[11, replica as u64], || format!("controller {replica} leads"));
            self.forget_gates(replica, None);
            self.mark_all(replica);
        }
        self.after(RENEW, Event::Elect { replica, life });
    }

    /// Its caches are made anew.
    pub fn relist(&mut self, replica: usize) {
        let life = self.replicas[replica].life;
        if self.server.down || self.replicas[replica].cut_off {
            return self.after(1_000, Event::Relist { replica, life });
        }
        let now = self.now;
        let one = &mut self.replicas[replica];
        one.watches_since.get_or_insert(now);
        one.nodes = self.server.nodes.clone();
        one.cordons.extend(one.nodes.iter().filter(|(_, node)| node.cordoned).map(|(name, _)| *name));
        one.pools = self.server.objects.clone();
        self.mark_all(replica);
    }

    fn mark_all(&mut self, replica: usize) {
        let one = &self.replicas[replica];
        let names: BTreeSet<usize> = one.nodes.keys().chain(one.pools.keys()).copied().collect();
        for name in names {
            self.mark(replica, name, 0);
        }
    }

    pub fn mark(&mut self, replica: usize, name: usize, after: i64) {
        let at = self.now + after;
        let one = &mut self.replicas[replica];
        let due = one.due.entry(name).or_insert(i64::MAX);
        // One that is overdue waits for this process to lead, or for what is under way.
        if at < *due || *due <= self.now {
            *due = at.min(*due);
            let (life, pause) = (one.life, *due - self.now);
            self.after(pause, Event::Turn { replica, life });
        }
    }

    /// The watch shows the newest state of a name, and that it was cordoned at a change before.
    pub fn deliver(&mut self, replica: usize, name: usize, cordoned: bool) {
        let (one, server) = (&mut self.replicas[replica], &self.server);
        match server.nodes.get(&name) {
            Some(node) => _ = one.nodes.insert(name, Rc::clone(node)),
            None => _ = one.nodes.remove(&name),
        }
        if cordoned {
            one.cordons.insert(name);
            if one.leads(self.now) {
                self.book.restless.insert(name, self.now);
            }
        }
        match server.objects.get(&name) {
            Some(object) => _ = one.pools.insert(name, Arc::clone(object)),
            None => _ = one.pools.remove(&name),
        }
        self.mark(replica, name, 0);
    }

    /// Starts what is due.
    pub fn turn(&mut self, replica: usize) {
        if !self.replicas[replica].leads(self.now) || self.replicas[replica].departing.is_some() {
            return;
        }
        let one = &self.replicas[replica];
        let is_idle = |name: &usize| !one.running.contains_key(name) && !one.leaving.contains(name);
        let due: Vec<usize> = one.due.iter().filter(|(name, at)| **at <= self.now && is_idle(name)).map(|(name, _)| *name).collect();
        for name in due {
            self.replicas[replica].due.remove(&name);
            self.begin(replica, name);
        }
    }

    fn begin(&mut self, replica: usize, name: usize) {
        if self.are_older && self.replicas[replica].pools.get(&name).is_some_and(|object| is_newer(object)) {
            // As the product does with what it cannot read: nothing is known of it, and nothing is written.
            return self.trace.hit(Fault::O06Downgraded);
        }
        let nonce = self.replicas[replica].nonce.clone();
        let one = &mut self.replicas[replica];
        let mut known = one.known.remove(&name).unwrap_or_default();
        let cached = one.pools.get(&name).cloned();
        let (node, object) = (one.nodes.get(&name).cloned(), newer(cached, known.take_object(&nonce)));
        let Some(node) = node else {
            let pool = one.pools.get(&name).cloned();
            self.forget_gates(replica, Some(name));
            return self.farewell(replica, name, pool);
        };
        if object.as_ref().is_some_and(|object| object.metadata.deletion_timestamp.is_some()) {
            self.forget_gates(replica, Some(name));
            return self.farewell(replica, name, object);
        }
        let policy = self.policy_of(replica, name, object.as_ref().filter(|object| object.spec.node.uid == node.uid));
        let Some(policy) = policy else { return self.forget_gates(replica, Some(name)) };
        let one = &mut self.replicas[replica];
        let facts = NodeFacts {
            name: self.plan.machines[name].name.clone(),
            uid: node.uid.clone(),
            boot_id: node.boot_id.clone(),
            ready: node.ready,
            cordoned: node.cordoned,
            deleting: node.deleting,
            created: node.created,
        };
        let me = Leader { identity: one.identity.clone(), nonce };
        let subject = Subject { node: facts, provider_id: &self.plan.machines[name].provider, policy, me };
        let mut known = known.renewed(&subject, object);
        if one.cordons.remove(&name) {
            known.note_cordon();
        }
        let restless = self.book.restless.get(&name).copied().unwrap_or_default();
        let outset = Outset { pool: policy.pool, release: policy.release, restless };
        one.passes += 1;
        let number = one.passes;
        one.running.insert(name, Box::new(Running { number, pass: Pass::new(subject, known), outset, node }));
        self.go_on(replica, name);
    }

    /// Lets the object of a node that is gone go (safety rule RE4).
    fn farewell(&mut self, replica: usize, name: usize, object: Option<Arc<AzureVnetNode>>) {
        let Some((object, deleted)) = object.and_then(|object| Some((Arc::clone(&object), object.metadata.deletion_timestamp.as_ref()?.0)))
        else {
            return;
        };
        let grace = self.policy(name).map_or(std::time::Duration::from_mins(6), |policy| policy.grace);
        let cloud = object.status.as_ref().and_then(|status| status.cloud.as_ref());
        if !may_vanish(cloud, deleted, grace, self.clock(replica)) && self.plan.mutation != Some(Mutation::NoFinalizer) {
            return self.mark(replica, name, FAREWELL);
        }
        self.replicas[replica].leaving.insert(name);
        let (life, pause) = (self.replicas[replica].life, self.latency());
        self.after(pause, Event::LetGo { replica, life, name, object });
    }

    pub fn let_go(&mut self, replica: usize, name: usize, object: &AzureVnetNode) {
        self.replicas[replica].leaving.remove(&name);
        self.check_vanishing(name, object);
        if let Some(intent) = object.status.as_ref().and_then(|status| status.cloud.as_ref()?.intent.as_ref()) {
            self.note_end(replica, name, intent);
        }
        let cut_off = self.replicas[replica].cut_off;
        let done = if cut_off { Err(crate::server::Denied::Failed) } else { self.server.let_go(name, &object.metadata) };
        match done {
            Ok(()) => {
                self.trace.note(&[12, name as u64], || format!("n{name}: its object is gone"));
                self.changed(name);
            }
            Err(crate::server::Denied::Failed) => self.mark(replica, name, AGAIN),
            Err(crate::server::Denied::Conflict) => {}
        }
        self.mark_again(replica, name);
    }

    /// Asks the running pass what to do next, and begins it.
    pub fn go_on(&mut self, replica: usize, name: usize) {
        loop {
            let (now, draw) = (self.clock(replica), self.dice.token());
            let one = &mut self.replicas[replica];
            let leaving = one.departing.is_some();
            let leads = one.renewed.is_some_and(|at| self.now - at < TRUST);
            let Some(running) = one.running.get_mut(&name) else { return };
            let (full, real, node) = (&one.full, time(self.now), name.to_string());
            let exhausted = |subnet: &str| full.borrow().is_full(subnet, real);
            let careless = self.plan.mutation == Some(Mutation::AsksFullSubnets);
            let wait = |subnet: &str, starving| full.borrow_mut().wait(subnet, &node, starving, real).filter(|_| !careless);
            let nonce = leads.then_some(one.nonce.as_str());
            let present = Present { now, nonce, draw: &draw, exhausted: &exhausted, wait: &wait, free: &|_| None, leaving };
            match running.pass.next(&present) {
                Break(end) => return self.end(replica, name, end),
                Continue(effect) => {
                    if self.carry_out(replica, name, effect) {
                        return;
                    }
                }
            }
        }
    }

    fn end(&mut self, replica: usize, name: usize, end: End) {
        self.replicas[replica].full.get_mut().done(&name.to_string());
        if let Some(running) = self.replicas[replica].running.remove(&name) {
            self.replicas[replica].known.insert(name, Box::new(running.pass.into_known()));
        }
        match end {
            End::Rest(Some(wake)) => self.mark(replica, name, i64::try_from(wake.as_millis()).unwrap_or(AGAIN)),
            End::Rest(None) => {}
            End::Deposed => self.trace.note(&[13], || format!("n{name}: controller {replica} was deposed during a pass")),
            End::Endless => self.trace.violated(|| format!("n{name}: a pass does not come to an end")),
        }
        self.mark_again(replica, name);
        self.exit_if_idle(replica);
    }

    /// A change during a pass makes the node due again.
    fn mark_again(&mut self, replica: usize, name: usize) {
        if let Some(at) = self.replicas[replica].due.get(&name).copied() {
            let life = self.replicas[replica].life;
            self.after((at - self.now).max(0), Event::Turn { replica, life });
        }
    }

    /// The pass breaks off: the API server's fault.
    pub fn break_off(&mut self, caller: Caller) {
        self.replicas[caller.replica].full.get_mut().done(&caller.name.to_string());
        if let Some(running) = self.replicas[caller.replica].running.remove(&caller.name) {
            self.replicas[caller.replica].known.insert(caller.name, Box::new(running.pass.into_known()));
        }
        self.mark(caller.replica, caller.name, AGAIN);
        self.exit_if_idle(caller.replica);
    }

    /// Begins an effect. Whether its answer is to be waited for.
    fn carry_out(&mut self, replica: usize, name: usize, effect: Effect) -> bool {
        let (life, now) = (self.replicas[replica].life, self.clock(replica));
        let Some(running) = self.replicas[replica].running.get_mut(&name) else { return true };
        let caller = Caller { replica, life, name, pass: running.number };
        let ground = || running.pass.known().object.as_ref().map(|object| Box::new(object.metadata.clone()));
        let task = match effect {
            Effect::Tell(_) => return false,
            Effect::ReadObject => Task::ReadObject,
            Effect::Delete => Task::Delete(ground()),
            Effect::WriteSpec(spec) => Task::WriteSpec(spec, ground(), running.outset),
            Effect::WriteStatus(cloud, conditions) => Task::WriteStatus(cloud, conditions, ground(), running.outset),
            Effect::ReadNic(_) => Task::ReadNic { began: now },
            Effect::Send(send) => match running.pass.prepare(&send) {
                Err(result) => {
                    running.pass.attempted(send.intent, result, now);
                    return false;
                }
                Ok(write) => Task::Send { write: Box::new(write), send },
            },
        };
        self.issue(caller, task);
        true
    }

    /// Feeds an answer to the pass that waits for it.
    pub fn answer(&mut self, caller: Caller, feed: impl FnOnce(&mut Pass<'p>, Timestamp)) {
        let now = self.clock(caller.replica);
        let one = &mut self.replicas[caller.replica];
        if one.life != caller.life {
            return;
        }
        let Some(running) = one.running.get_mut(&caller.name).filter(|running| running.number == caller.pass) else { return };
        feed(&mut running.pass, now);
        self.go_on(caller.replica, caller.name);
    }

    pub fn is_waiting(&self, caller: Caller) -> bool {
        let one = &self.replicas[caller.replica];
        one.life == caller.life && one.running.get(&caller.name).is_some_and(|running| running.number == caller.pass)
    }

    /// The object that a pass rests on, and the Node as it saw it.
    pub fn ground(&self, caller: Caller) -> Option<(Option<ObjectMeta>, Rc<NodeObject>)> {
        let one = &self.replicas[caller.replica];
        let running = one.running.get(&caller.name).filter(|running| one.life == caller.life && running.number == caller.pass)?;
        Some((running.pass.known().object.as_ref().map(|object| object.metadata.clone()), Rc::clone(&running.node)))
    }

    /// Whether a request may still be sent: the lease and the time are looked at right before.
    pub fn may_send(&self, caller: Caller, not_after: Timestamp) -> bool {
        if self.plan.mutation == Some(Mutation::SendsAnyway) {
            return true;
        }
        let one = &self.replicas[caller.replica];
        let Some(running) = one.running.get(&caller.name).filter(|_| one.departing.is_none()) else { return false };
        let time_of_day = time(self.now + one.skew + one.wall);
        one.nonce(self.now) == Some(running.pass.nonce()) && self.clock(caller.replica).max(time_of_day) < not_after
    }

    /// Notes what the end of a write tells about the room in a node's subnet.
    pub fn note_room(&mut self, caller: Caller, intent: u64, result: Result<(), &Error>) {
        let object = self.server.objects.get(&caller.name);
        let open = object.and_then(|object| object.status.as_ref()?.cloud.as_ref()?.intent.as_ref()).filter(|open| open.id == intent);
        let adds = open.is_none_or(|open| open.op == IntentOp::Add);
        // That there is no room for a block tells nothing of single addresses.
        let of_blocks = open.is_some_and(|open| !open.unit.is_address());
        let (number, now) = (self.nics[caller.name].subnet, time(self.now));
        let subnet = format!("{}/subnets/{number}", crate::cloud::NETWORK);
        let one = &mut self.replicas[caller.replica];
        let (full, refusal) = (one.full.get_mut(), (caller.replica, caller.life, number));
        match result {
            Ok(()) if adds => full.granted(&subnet, now),
            Ok(()) => full.widened(&subnet, now),
            Err(error) if error.class == Class::SubnetFull && adds && !of_blocks => {
                full.refused(&subnet, now);
                if self.book.refusals.get(&refusal).is_none_or(|(at, _)| self.now >= at + FULL) {
                    self.book.refusals.insert(refusal, (self.now, one.passes));
                }
            }
            Err(_) => {}
        }
        if result.is_ok() {
            self.book.refusals.remove(&refusal);
        }
    }

    /// Moves the time of day where a process runs.
    pub fn jump(&mut self, replica: usize, by: i64) {
        self.replicas[replica].wall += by;
        let (life, pause) = (self.replicas[replica].life, self.dice.time(1, 1_000));
        self.after(pause, Event::KeepTime { replica, life });
    }

    /// Goes by the time of day, in a new term, where the two have come apart.
    pub fn keep_time(&mut self, replica: usize) {
        let one = &mut self.replicas[replica];
        if one.wall.abs() > APART {
            one.renewed = None;
            (one.skew, one.wall) = (one.skew + one.wall, 0);
            self.trace.note(&[14, replica as u64], || format!("controller {replica} sets its clock"));
        }
    }

    /// The leader is asked to end: it begins nothing, and sees what is under way to its end.
    pub fn leave(&mut self) {
        let Some(replica) = (0..self.replicas.len()).find(|replica| self.replicas[*replica].leads(self.now)) else { return };
        self.trace.hit(Fault::O08Leaves);
        let one = &mut self.replicas[replica];
        one.departing = Some(self.now);
        let removing = one.known.iter().filter(|(_, known)| known.removes()).map(|(name, _)| *name);
        let removing: Vec<usize> = removing.filter(|name| !one.running.contains_key(name)).collect();
        let life = one.life;
        for name in removing {
            self.begin(replica, name);
        }
        self.after(FINISH, Event::Exit { replica, life });
        self.exit_if_idle(replica);
    }

    fn exit_if_idle(&mut self, replica: usize) {
        let one = &self.replicas[replica];
        if one.departing.is_some() && one.running.is_empty() {
            let life = one.life;
            self.after(1, Event::Exit { replica, life });
        }
    }

    /// It gives the lease up and ends; another process is started in its place.
    pub fn exit(&mut self, replica: usize) {
        let reachable = !self.server.down && !self.replicas[replica].cut_off;
        let lease = &mut self.server.lease;
        if reachable && lease.holder == self.replicas[replica].identity {
            lease.holder.clear();
            lease.renewals += 1;
        }
        self.replicas[replica].kill();
        let pause = self.dice.time(500, 10_000);
        self.after(pause, Event::StartReplica { replica });
    }
}

/// Whether an earlier version does not understand an object: it lists a block, or an open intent is of some later kind.
fn is_newer(object: &AzureVnetNode) -> bool {
    let intent = object.status.as_ref().and_then(|status| status.cloud.as_ref()?.intent.as_ref());
    let later = intent.is_some_and(|intent| intent.id.is_multiple_of(3) || !intent.unit.is_address());
    later || object.spec.addresses.iter().chain(&object.spec.lost).any(|at| !at.unit.is_address())
}

/// A time of day.
pub fn time(at: i64) -> Timestamp {
    let base = Timestamp::from_second(1_800_000_000).unwrap_or(Timestamp::UNIX_EPOCH);
    base.saturating_add(SignedDuration::from_millis(at)).unwrap_or(base)
}
