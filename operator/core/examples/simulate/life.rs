//! Nodes and their pods: they join, boot, fall silent and go; the kubelet starts and stops pods; the agent looks after all of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    rc::Rc,
    sync::Arc,
};

use azure_vnet_crds::{AzureVnetNode, node};
use azure_vnet_operator_core::{blocks, decide::Ready, demand};

use crate::{
    agent::{self, Agent, Seen},
    controller::time,
    fault::{Fault, Mutation},
    server::NodeObject,
    store::{Disk, Store},
    world::{Event, World},
};

/// Between two questions to the node's metadata: in calm, and while an answer is waited for.
pub const CALM: i64 = 60_000;
const CLOSE: i64 = 2_000;
/// Between two reports of mere numbers, and until a report that the watch does not show is repeated.
const PACE: i64 = 2_000;
const ECHO: i64 = 30_000;
/// How long a failed ADD counts as demand.
const WANT: i64 = 60_000;

/// A machine with its node.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a thing that can fail by itself")]
pub struct Machine {
    pub on: bool,
    /// No way from it to the API server.
    pub silent: bool,
    pub boots: u64,
    pub boot_id: String,
    pub id: String,
    pub store: Store,
    pub agent: Agent,
    pub pods: BTreeMap<String, Pod>,
    pub ready: bool,
    /// How late its metadata is, and whether it answers.
    pub late: i64,
    pub mute: bool,
    /// Until when its agent may not have heard yet that metadata answers again, or no longer late.
    pub deaf_until: i64,
    pub waits: bool,
    due: Option<i64>,
    behind: bool,
    /// What its metadata or its object showed in this boot.
    pub witnessed: BTreeSet<Ipv4Addr>,
    /// The object of which that is noted.
    noted: Option<Arc<AzureVnetNode>>,
    /// When its agent began to follow everything without a break.
    pub undisturbed_since: i64,
}

/// A pod that is bound to the node.
#[derive(Clone, Debug)]
pub struct Pod {
    /// As the API server shows it.
    pub shown: demand::Pod,
    pub address: Option<Ipv4Addr>,
    pub failures: u32,
}

impl Pod {
    pub fn new(uid: &str) -> Self {
        let shown = demand::Pod { uid: uid.to_owned(), host_network: false, finished: false, terminating: false };
        Self { shown, address: None, failures: 0 }
    }
}

impl World<'_> {
    /// A machine is made and joins.
    pub fn join(&mut self, name: usize, foreign: usize) {
        let id = format!("vm-{}", self.next_number());
        let disk = Disk { id: self.dice.token(), number: self.next_number(), ..Disk::default() };
        let subnet = self.nics[name].subnet;
        self.nics[name].create(&mut self.subnets[subnet], foreign, self.now);
        let life = self.machines[name].agent.life + 1;
        self.machines[name] = Machine { id, late: self.dice.time(500, 4_000), ..Machine::default() };
        self.machines[name].store.disk = disk;
        self.machines[name].agent.life = life;
        self.book.joined(name, self.now);
        self.trace.note(&[30, name as u64], || format!("n{name}: joins"));
        self.boot(name, 0);
        let pause = self.dice.time(1_000, 30_000);
        self.after(pause, Event::Churn { name });
    }

    /// A machine comes up.
    pub fn boot(&mut self, name: usize, life: u64) {
        let machine = &mut self.machines[name];
        if life != 0 && machine.agent.life != life || !self.nics[name].exists {
            return;
        }
        machine.boots += 1;
        machine.boot_id = format!("{}-boot-{}", machine.id, machine.boots);
        (machine.on, machine.ready) = (true, false);
        machine.store.boot();
        (machine.witnessed, machine.noted) = (BTreeSet::new(), None);
        self.nics[name].running = true;
        if !self.server.nodes.contains_key(&name) {
            let (uid, created) = (self.server.new_uid("node"), time(self.now));
            let node = NodeObject { uid, boot_id: String::new(), ready: Ready::False, cordoned: false, deleting: false, created };
            self.server.nodes.insert(name, Rc::new(node));
        }
        let pods: Vec<String> = self.machines[name].pods.keys().cloned().collect();
        for pod in pods {
            if let Some(pod) = self.machines[name].pods.get_mut(&pod) {
                pod.address = None;
            }
            let pause = self.dice.time(1_000, 15_000);
            self.after(pause, Event::Add { name, pod });
        }
        self.after(500, Event::Kubelet { name });
        let pause = self.dice.time(2_000, 15_000);
        self.after(pause, Event::StartAgent { name });
        self.trace.note(&[31, name as u64], || format!("n{name}: boots"));
    }

    /// Power off: what only lives in memory is gone at the next boot.
    pub fn power_off(&mut self, name: usize) {
        let machine = &mut self.machines[name];
        machine.on = false;
        machine.agent.kill();
        machine.store.boot();
        for pod in machine.pods.values_mut() {
            pod.address = None;
        }
        self.after(40_000, Event::Kubelet { name });
    }

    pub fn start_agent(&mut self, name: usize) {
        let machine = &mut self.machines[name];
        if !machine.on || machine.agent.alive {
            return;
        }
        let reachable = !self.server.down && !machine.silent;
        machine.agent.start(self.server.objects.get(&name).filter(|_| reachable).cloned());
        machine.behind = !reachable;
        (machine.due, machine.undisturbed_since, machine.store.fuse) = (None, self.now, None);
        let life = machine.agent.life;
        self.trace.note(&[32, name as u64], || format!("n{name}: its agent starts"));
        self.wake_agent(name, 100);
        self.after(300, Event::Poll { name, life });
    }

    /// Kills the agent; it is started again after a while.
    pub fn kill_agent(&mut self, name: usize, pause: i64) {
        if self.machines[name].agent.alive {
            self.machines[name].agent.kill();
            self.after(pause, Event::StartAgent { name });
        }
    }

    pub fn wake_agent(&mut self, name: usize, pause: i64) {
        let at = self.now + pause;
        let machine = &mut self.machines[name];
        if machine.agent.alive && machine.due.is_none_or(|due| at < due || due < self.now) {
            machine.due = Some(at);
            let life = machine.agent.life;
            self.after(pause, Event::Agent { name, life });
        }
    }

    pub fn deliver_to_agent(&mut self, name: usize, life: u64) {
        let machine = &mut self.machines[name];
        if self.server.down || machine.silent {
            machine.behind = true;
            return;
        }
        if machine.agent.life == life && machine.agent.alive {
            machine.agent.object = self.server.objects.get(&name).cloned();
            self.wake_agent(name, 100);
        }
    }

    /// The way to the API server is open again.
    pub fn catch_up(&mut self, name: usize) {
        if std::mem::take(&mut self.machines[name].behind) {
            let life = self.machines[name].agent.life;
            self.deliver_to_agent(name, life);
        }
        self.kubelet(name);
    }

    pub fn agent(&mut self, name: usize, life: u64, poll: bool) {
        let machine = &mut self.machines[name];
        if machine.agent.life != life || !machine.agent.alive || (!poll && machine.due != Some(self.now)) {
            return;
        }
        if !poll {
            machine.due = None;
        }
        let (late, mute) = (machine.late, machine.mute);
        let shown = (poll && !mute).then(|| self.nics[name].shown(self.now, late));
        let hides_blocks = self.nics[name].hides_blocks();
        let machine = &mut self.machines[name];
        // Where it tells of the first address of a block, that stands for all.
        let confirmed = shown.as_ref().map(|shown| if hides_blocks { &shown.told } else { &shown.there });
        machine.witnessed.extend(confirmed.into_iter().flat_map(|confirmed| confirmed.iter()));
        let (shown, beside) = shown.map(|shown| (shown.told, shown.beside)).unzip();
        let is_noted = |object: &&Arc<AzureVnetNode>| machine.noted.as_ref().is_some_and(|noted| Arc::ptr_eq(noted, object));
        if let Some(object) = machine.agent.object.as_ref().filter(|object| !is_noted(object)) {
            machine.witnessed.extend(blocks::each(&object.spec.addresses).iter().map(|at| at.address));
            machine.noted = Some(Arc::clone(object));
        }
        let seen = Seen {
            now: self.now,
            boot_id: &machine.boot_id,
            machine: &machine.id,
            pods: &machine.pods,
            shown,
            beside: beside.unwrap_or_default(),
            older: self.plan.is_older(name),
            mutation: self.plan.mutation,
            thorough: self.plan.thorough,
        };
        let Ok(outcome) = machine.agent.reconcile(&mut machine.store, &seen) else {
            machine.store.fuse = None;
            self.trace.hit(Fault::N01AgentKilledMidway);
            let pause = self.dice.time(1_000, 30_000);
            return self.kill_agent(name, pause);
        };
        (machine.waits, machine.ready) = (outcome.waits_for_metadata, outcome.ready);
        if poll {
            let pause = if outcome.waits_for_metadata { CLOSE } else { CALM };
            self.after(pause, Event::Poll { name, life });
        }
        self.check_withdrawn(name, &outcome.withdrawn);
        self.check_adoption(name);
        if let Some(due) = outcome.due {
            self.wake_agent(name, (due - self.now).max(100));
        }
        self.kubelet(name);
        if let Some((report, regressed)) = outcome.report {
            self.tell(name, report, regressed);
        }
    }

    /// Tells, if there is something new; numbers alone wait for their turn.
    fn tell(&mut self, name: usize, report: Rc<node::Agent>, regressed: bool) {
        let agent = &mut self.machines[name].agent;
        let forgotten = self.now - agent.told_at > ECHO
            && agent.object.as_ref().and_then(|object| object.status.as_ref()?.agent.as_ref()) != agent.told.as_ref().map(|told| &*told.0);
        if agent.told.as_ref().is_some_and(|(told, behind)| *told == report && *behind == regressed) && !forgotten {
            return;
        }
        let urgent = agent.told.as_ref().is_none_or(|(told, behind)| {
            *behind != regressed
                || told.release_acks != report.release_acks
                || told.ready != report.ready
                || told.revision_adopted != report.revision_adopted
                || told.object_uid != report.object_uid
        });
        if !urgent && self.now - agent.told_at < PACE {
            let pause = agent.told_at + PACE - self.now;
            return self.wake_agent(name, pause);
        }
        agent.told_at = self.now;
        let (life, pause) = (agent.life, self.latency());
        self.after(pause, Event::Report { name, life, agent: report, regressed });
    }

    pub fn report(&mut self, name: usize, life: u64, report: Rc<node::Agent>, regressed: bool) {
        if self.machines[name].silent || self.machines[name].agent.life != life || self.roll(&[Fault::K05KindsRefused]).is_some() {
            return;
        }
        if self.server.apply_agent(name, &report, agent::adopted(regressed)).is_ok() {
            let told = (report, regressed);
            self.trace.note(&[33, name as u64, told.0.revision_adopted, u64::from(told.0.demand)], || {
                format!(
                    "n{name}: reports revision {} demand {} {:?} acks {:?}",
                    told.0.revision_adopted, told.0.demand, told.0.counts, told.0.release_acks
                )
            });
            self.machines[name].agent.told = Some(told);
            self.book.reported.insert(name, self.machines[name].store.disk.number);
            self.changed(name);
        }
    }

    /// The kubelet tells how the node is.
    pub fn kubelet(&mut self, name: usize) {
        let machine = &self.machines[name];
        let Some(node) = self.server.nodes.get(&name).filter(|_| !self.server.down) else { return };
        let ready = match (machine.on && !machine.silent, machine.ready) {
            (false, _) => Ready::Unknown,
            (true, true) => Ready::True,
            (true, false) => Ready::False,
        };
        if node.ready != ready || (machine.on && node.boot_id != machine.boot_id) {
            let boot_id = if machine.on { machine.boot_id.clone() } else { node.boot_id.clone() };
            self.server.nodes.insert(name, Rc::new(NodeObject { boot_id, ready, ..(**node).clone() }));
            self.server.next_version();
            self.trace.note(&[34, name as u64], || format!("n{name}: {ready:?}"));
            self.changed(name);
        }
    }

    /// New pods come, one or a burst.
    pub fn churn(&mut self, name: usize) {
        if self.calm || !self.nics[name].exists {
            return;
        }
        let schedulable = self.server.nodes.get(&name).is_some_and(|node| !node.cordoned && node.ready == Ready::True);
        if schedulable {
            let burst = if self.dice.chance(120) { 2 + self.dice.below(8) } else { 1 };
            for _ in 0..burst.min(24_usize.saturating_sub(self.machines[name].pods.len())) {
                let (start, job) = (self.dice.time(50, 500), self.dice.chance(150));
                let lives = if job { self.dice.time(5_000, 60_000) } else { self.dice.time(60_000, 2_400_000) };
                self.bind(name, start, lives);
            }
            self.wake_agent(name, 100);
        }
        let pause = self.dice.time(self.plan.churn / 4, self.plan.churn * 2);
        self.after(pause, Event::Churn { name });
    }

    /// Pods come together and go together, so that whole blocks are needed, and then none of their addresses.
    pub fn burst(&mut self, name: usize, many: usize) {
        if self.calm || self.server.nodes.get(&name).is_none_or(|node| node.cordoned || node.ready != Ready::True) {
            return;
        }
        for _ in 0..many {
            let (start, lives) = (self.dice.time(50, 5_000), self.dice.time(90_000, 180_000));
            self.bind(name, start, lives);
        }
        self.wake_agent(name, 100);
    }

    fn bind(&mut self, name: usize, start: i64, lives: i64) {
        let pod = format!("pod-{}", self.next_number());
        self.machines[name].pods.insert(pod.clone(), Pod::new(&pod));
        self.after(start, Event::Add { name, pod: pod.clone() });
        self.after(lives, Event::EndPod { name, pod });
    }

    /// The runtime calls ADD.
    pub fn add(&mut self, name: usize, pod: &str) {
        let machine = &mut self.machines[name];
        let Some(bound) = machine.pods.get(pod).filter(|_| machine.on) else { return };
        if bound.address.is_some() || bound.shown.finished || bound.shown.terminating {
            return;
        }
        let careless = self.plan.mutation == Some(Mutation::NoCooling);
        let dice = &mut self.dice;
        let address = machine.store.add(pod, self.now, |free| dice.pick(free), careless);
        let Some(bound) = machine.pods.get_mut(pod) else { return };
        let Some(address) = address else {
            bound.failures += 1;
            machine.store.want(pod, Some(self.now + WANT));
            let pause = self.dice.time(3_000, 12_000);
            self.after(pause, Event::Add { name, pod: pod.to_owned() });
            return self.wake_agent(name, 100);
        };
        bound.address = Some(address);
        machine.store.want(pod, None);
        self.trace.note(&[35, name as u64, u64::from(address.to_bits())], || format!("n{name}: {pod} has {address}"));
        self.check_grant(name, address);
        self.wake_agent(name, 100);
    }

    /// A pod ends: a job stays in the list, any other goes.
    pub fn end_pod(&mut self, name: usize, pod: &str) {
        if self.calm {
            return;
        }
        let Some(bound) = self.machines[name].pods.get_mut(pod) else { return };
        bound.shown.terminating = true;
        let job = self.dice.chance(150);
        if job {
            self.trace.hit(Fault::K14JobsFinish);
            if let Some(bound) = self.machines[name].pods.get_mut(pod) {
                (bound.shown.terminating, bound.shown.finished) = (false, true);
            }
        }
        self.delete_sandbox(name, pod);
        let pause = if job { self.dice.time(60_000, 900_000) } else { self.dice.time(200, 3_000) };
        self.after(pause, Event::ForgetPod { name, pod: pod.to_owned() });
    }

    fn delete_sandbox(&mut self, name: usize, pod: &str) {
        let machine = &mut self.machines[name];
        if let Some(address) = machine.store.delete(pod, self.now) {
            self.trace.note(&[36, name as u64, u64::from(address.to_bits())], || format!("n{name}: {pod} gives {address} up"));
            self.book.rested.insert(address, (name, self.now));
            let rest = machine.store.cool_down;
            if let Some(bound) = machine.pods.get_mut(pod) {
                bound.address = None;
            }
            self.wake_agent(name, 100);
            let life = self.machines[name].agent.life;
            self.after(rest + 5_000, Event::DeliverToAgent { name, life });
        }
    }

    pub fn forget_pod(&mut self, name: usize, pod: &str) {
        self.delete_sandbox(name, pod);
        self.machines[name].pods.remove(pod);
        self.wake_agent(name, 100);
    }

    /// The garbage collector: an object whose Node is gone goes.
    pub fn collect(&mut self, name: usize) {
        if self.server.down {
            return self.after(10_000, Event::Collect { name });
        }
        let Some(object) = self.server.objects.get(&name) else { return };
        let owner = self.server.nodes.get(&name).map(|node| node.uid.clone()).unwrap_or_default();
        if object.spec.node.uid != owner && object.metadata.deletion_timestamp.is_none() {
            let at = time(self.now);
            self.server.delete(name, at);
            self.changed(name);
        }
    }
}
