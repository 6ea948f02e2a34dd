//! One pass over one node, as a machine without hands: it says what to do next, is told how that went, and decides anew until nothing is left.
//! The controller and the simulator carry out the same steps.

#[cfg(test)]
mod race;

use std::{
    collections::VecDeque,
    fmt::Debug,
    ops::ControlFlow::{self, Break, Continue},
    sync::Arc,
    time::Duration,
};

use azure_vnet_crds::{
    AzureVnetNode, AzureVnetNodeSpec,
    node::{Cloud, IntentOp, Machine},
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::{
    arm::{Class, Error, Trace, Urgency, Write},
    decide::{Attempt, Decision, Event, Leader, Memory, NicRead, NodeFacts, Observed, Planned, Send, decide},
    nic::{Nic, Refusal},
    policy::Policy,
};

/// More decisions than any pass needs; one that never ends must not spin.
const STEPS: u32 = 60;

/// What is remembered of a node from pass to pass. To lose it is safe.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// The object as last read or written.
    pub object: Option<Arc<AzureVnetNode>>,
    /// The NIC as last read.
    pub nic: Option<Nic>,
    /// Time at which that read began, and at which it ended.
    read_at: Timestamp,
    read_ended: Timestamp,
    /// The machine, as described with it.
    machine: Option<Arc<Machine>>,
    nonce: String,
    uid: String,
    provider_id: String,
    last: Option<Attempt>,
    read_failure: Option<Attempt>,
    memory: Memory,
}

/// Whom a pass is about, and who makes it.
#[derive(Clone, Debug)]
pub struct Subject<'a> {
    /// The Node.
    pub node: NodeFacts,
    /// Its provider id.
    pub provider_id: &'a str,
    /// What its config asks for.
    pub policy: &'a Policy,
    /// The controller, in the term that the pass began in.
    pub me: Leader,
}

/// What else a decision rests on, at this moment.
#[derive(Clone, Copy)]
pub struct Present<'a> {
    /// Now.
    pub now: Timestamp,
    /// The nonce of the term, if this controller leads.
    pub nonce: Option<&'a str>,
    /// Drawn at random for this moment: a release that is decided on carries it (safety rule RE1).
    pub draw: &'a str,
    /// Whether Azure lately had no address left in this subnet.
    pub exhausted: &'a dyn Fn(&str) -> bool,
    /// Whether a node that has to ask Azure for addresses of this subnet is to wait, and how long; it is told whether the node has none left. Where not,
    /// the node asks from then on until its pass ends.
    pub wait: &'a dyn Fn(&str, bool) -> Option<Duration>,
    /// How many it has left by its last count, where that is known.
    pub free: &'a dyn Fn(&str) -> Option<u32>,
    /// Whether this controller is about to end.
    pub leaving: bool,
}

/// One thing to do. All but `Delete` and `Tell` are answered by a method of [`Pass`] before the next is asked for.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Read the object from the API server's store itself (safety rule RE1): [`Pass::object_read`].
    ReadObject,
    /// Delete this very object, which belongs to another node of the name.
    Delete,
    /// Apply the whole spec; creates the object where there is none: [`Pass::written`].
    WriteSpec(Box<AzureVnetNodeSpec>),
    /// Apply all of the status that is the controller's: [`Pass::written`].
    WriteStatus(Box<Cloud>, Vec<Condition>),
    /// Tell the user.
    Tell(Vec<Event>),
    /// Send the write of a stored intent and follow it to its end: [`Pass::prepare`], [`Pass::attempted`].
    Send(Send),
    /// Read the NIC: [`Pass::nic_read`].
    ReadNic(Urgency),
}

/// How a pass ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Nothing is left to do; come again after this though nothing happens.
    Rest(Option<Duration>),
    /// Another leads now.
    Deposed,
    /// A defect.
    Endless,
}

/// A pass in the making.
#[derive(Clone, Debug)]
pub struct Pass<'a> {
    subject: Subject<'a>,
    known: Known,
    /// Whether the object was read from the API server's store itself, and not written since.
    confirmed: bool,
    steps: u32,
    todo: VecDeque<Step>,
    /// Whether the last decision led to anything.
    acted: bool,
    wake: Option<Duration>,
}

#[derive(Clone, Debug)]
enum Step {
    Do(Effect),
    Remember(Box<Memory>),
}

impl Known {
    /// The node that it speaks of.
    #[must_use]
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// Whether it speaks of this node, in this place and term. If not, nothing of it counts any more.
    #[must_use]
    pub fn is_of(&self, subject: &Subject<'_>) -> bool {
        self.uid == subject.node.uid && self.nonce == subject.me.nonce && self.provider_id == subject.provider_id
    }

    /// Whether the NIC was read in this term, and was not of another boot since.
    #[must_use]
    pub fn has_read(&self, nonce: &str) -> bool {
        self.nic.is_some() && self.nonce == nonce
    }

    /// The object as last read or written in this term. An earlier term's may be of an API server that was restored since, whose versions begin
    /// anew below it.
    pub fn take_object(&mut self, nonce: &str) -> Option<Arc<AzureVnetNode>> {
        self.object.take().filter(|_| self.nonce == nonce)
    }

    /// Whether a removal was recorded that is not over yet.
    #[must_use]
    pub fn removes(&self) -> bool {
        let cloud = self.object.as_ref().and_then(|object| object.status.as_ref()?.cloud.as_ref());
        cloud.and_then(|cloud| cloud.intent.as_ref()).is_some_and(|intent| intent.op == IntentOp::Remove)
    }

    /// The NIC, where its last read is older than that.
    #[must_use]
    pub fn read_before(&self, time: Timestamp) -> Option<&Nic> {
        self.nic.as_ref().filter(|_| self.read_ended < time)
    }

    /// Takes a newer description of the machine, whose NIC is as it was read. Whether it is another than before.
    pub fn describe(&mut self, machine: Machine) -> bool {
        let is_another = self.machine.as_deref() != Some(&machine);
        self.machine = Some(Arc::new(machine));
        is_another
    }

    /// What tells it apart, beside the object and the NIC: two of the same decide alike.
    #[must_use]
    pub fn gist(&self) -> impl Debug + '_ {
        let Self { object: _, nic: _, read_at, read_ended, machine: _, nonce, uid: _, provider_id: _, last, read_failure, memory } = self;
        (read_at, read_ended, nonce, last, read_failure, memory)
    }

    /// What counts when a pass begins, with the object as it is to be taken: the [`newer`] of two readings.
    #[must_use]
    pub fn renewed(self, subject: &Subject<'_>, object: Option<Arc<AzureVnetNode>>) -> Self {
        let known = if self.is_of(subject) { self } else { Self::default() };
        let (nonce, uid) = (subject.me.nonce.clone(), subject.node.uid.clone());
        // A machine that was off may have another NIC.
        let same_boot = known.machine.as_ref().is_none_or(|machine| machine.boot_id == subject.node.boot_id);
        let nic = known.nic.filter(|_| same_boot);
        Self { object, nic, nonce, uid, provider_id: subject.provider_id.to_owned(), ..known }
    }

    /// Notes that the node was cordoned since the last pass, be it over or not: nothing is given back for a while (I9).
    pub fn note_cordon(&mut self) {
        self.memory.restless = true;
    }
}

impl<'a> Pass<'a> {
    /// Begins. `known` is [`Known::renewed`].
    #[must_use]
    pub fn new(subject: Subject<'a>, known: Known) -> Self {
        let mut todo = VecDeque::new();
        if known.object.is_none() {
            // The cache may lag: an object that exists is never to be made anew.
            todo.push_back(Step::Do(Effect::ReadObject));
        }
        Self { subject, known, confirmed: false, steps: 0, todo, acted: true, wake: None }
    }

    /// What to do next, or how the pass ended.
    pub fn next(&mut self, present: &Present<'_>) -> ControlFlow<End, Effect> {
        loop {
            match self.todo.pop_front() {
                Some(Step::Do(effect)) => return Continue(effect),
                Some(Step::Remember(memory)) => self.known.memory = *memory,
                None if self.steps == 0 && self.known.object.is_none() && self.subject.node.is_served() => {
                    self.steps = 1;
                    return Continue(Effect::ReadNic(Urgency::Fill));
                }
                None if !self.acted => return Break(End::Rest(self.wake)),
                None if present.nonce != Some(self.subject.me.nonce.as_str()) => return Break(End::Deposed),
                None if self.steps >= STEPS => return Break(End::Endless),
                None => {
                    self.steps += 1;
                    self.plan(present);
                }
            }
        }
    }

    /// The answer to [`Effect::ReadObject`].
    pub fn object_read(&mut self, object: Option<Arc<AzureVnetNode>>) {
        self.known.object = object;
        self.confirmed = true;
    }

    /// The answer to a write of the object. `None`: somebody else was quicker; what was left to do is dropped.
    pub fn written(&mut self, object: Option<Arc<AzureVnetNode>>) {
        self.confirmed = false;
        self.acted |= object.as_ref().is_none_or(|object| {
            self.known.object.as_ref().is_none_or(|before| before.metadata.resource_version != object.metadata.resource_version)
        });
        match object {
            Some(object) => self.known.object = Some(object),
            None => self.todo = [Step::Do(Effect::ReadObject)].into(),
        }
    }

    /// The answer to [`Effect::ReadNic`], which began at a time and came at another.
    pub fn nic_read(&mut self, began: Timestamp, result: Result<(Nic, Machine), Error>, now: Timestamp) {
        match result {
            Ok((nic, machine)) => {
                self.known.nic = Some(nic);
                self.known.read_at = began;
                self.known.read_ended = now;
                self.known.machine = Some(Arc::new(machine));
                self.known.read_failure = None;
            }
            Err(error) => {
                // Others tell nothing of whether it is gone.
                let is_gone = |error: &Error| error.class == Class::Gone;
                let alike = |last: &&Attempt| last.result.as_ref().is_err_and(|last| is_gone(last) == is_gone(&error));
                let failures = self.known.read_failure.as_ref().filter(alike).map_or(0, |last| last.failures).saturating_add(1);
                self.known.read_failure = Some(Attempt { intent: None, at: now, result: Err(error), failures });
            }
        }
    }

    /// The request that [`Effect::Send`] stands for, built from the NIC as last read.
    ///
    /// # Errors
    /// With how it ended, where there is nothing to send.
    pub fn prepare(&self, send: &Send) -> Result<Write, Result<(), Error>> {
        let Some(nic) = &self.known.nic else { return Err(Err(Error::not_sent("the NIC was not read"))) };
        nic.write(&send.change).map_err(|refusal| match refusal {
            Refusal::Done => Ok(()),
            refusal @ (Refusal::AddressChanged(_) | Refusal::Limit | Refusal::NoBlocks | Refusal::NoEtag | Refusal::Guard(_)) => {
                Err(refused(&refusal))
            }
        })
    }

    /// The answer to [`Effect::Send`].
    pub fn attempted(&mut self, intent: u64, result: Result<(), Error>, now: Timestamp) {
        let before = self.known.last.as_ref().filter(|last| last.result.is_err()).map_or(0, |last| last.failures);
        let failures = if result.is_ok() { 0 } else { before.saturating_add(1) };
        self.known.last = Some(Attempt { intent: Some(intent), at: now, result, failures });
    }

    /// What is known so far.
    #[must_use]
    pub fn known(&self) -> &Known {
        &self.known
    }

    /// What tells it apart, beside what is known and what it decided so far: two of the same go on alike.
    #[must_use]
    pub fn gist(&self) -> impl Debug + '_ {
        let Self { subject, known: _, confirmed, steps: _, todo, acted, wake: _ } = self;
        (&subject.me, confirmed, todo, acted)
    }

    /// What is known when it ends, however it does.
    #[must_use]
    pub fn into_known(self) -> Known {
        self.known
    }

    /// The term that the pass began in.
    #[must_use]
    pub fn nonce(&self) -> &str {
        &self.subject.me.nonce
    }

    /// Whether the last request that was sent succeeded, or none was.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.known.last.as_ref().is_none_or(|last| last.result.is_ok())
    }

    fn plan(&mut self, present: &Present<'_>) {
        let mut observed = self.observe(present);
        let mut decision = decide(&observed, self.subject.policy, present.now);
        let asks = decision.send.as_ref().filter(|send| !send.change.add.is_empty());
        if let Some(rest) = asks.and_then(|send| (present.wait)(&observed.machine.subnet_id, send.urgency == Urgency::Starving)) {
            observed.held = Some(rest);
            decision = decide(&observed, self.subject.policy, present.now);
        }
        if !self.confirmed && self.rests_on_the_store(&decision) {
            self.todo.push_back(Step::Do(Effect::ReadObject));
            return;
        }
        let Decision { delete, spec, cloud, conditions, send, planned, read, wake, events, memory } = decision;
        let cloud = self.with_plan(cloud, &planned);
        self.known.memory.number(&memory);
        self.acted = false;
        self.wake = wake;
        if delete && self.known.object.is_some() {
            // Its end makes the node due again.
            return self.todo.push_back(Step::Do(Effect::Delete));
        }
        let there = self.known.object.is_some() || spec.is_some();
        let mut tell = (!events.is_empty()).then_some(Step::Do(Effect::Tell(events)));
        if let Some(spec) = spec {
            self.todo.push_back(Step::Do(Effect::WriteSpec(Box::new(spec))));
            self.todo.push_back(Step::Remember(Box::new(self.known.memory.after_spec(&memory))));
            // What the spec carries is not decided again where the write of the status fails.
            self.todo.extend(tell.take());
        }
        self.todo.extend(cloud.filter(|_| there).map(|cloud| Step::Do(Effect::WriteStatus(Box::new(cloud), conditions))));
        self.todo.push_back(Step::Remember(Box::new(memory)));
        self.todo.extend(tell);
        self.acted |= send.is_some() || read;
        let urgency = if send.is_some() { Urgency::ReadBack } else { Urgency::Fill };
        self.todo.extend(send.map(|send| Step::Do(Effect::Send(send))));
        self.todo.extend(read.then_some(Step::Do(Effect::ReadNic(urgency))));
    }

    /// The status to write, with what mode Plan would send; none if nothing differs.
    fn with_plan(&self, cloud: Option<Cloud>, planned: &Planned) -> Option<Cloud> {
        let stored = self.known.object.as_ref().and_then(|object| object.status.as_ref()?.cloud.as_ref());
        let said = stored.and_then(|cloud| cloud.plan.clone());
        let plan = match planned {
            Planned::Open => said.clone(),
            Planned::Nothing => None,
            Planned::Change(change) => self.known.nic.as_ref().and_then(|nic| nic.preview(change).ok()),
        };
        let cloud = cloud.or_else(|| stored.filter(|_| plan != said).cloned())?;
        Some(Cloud { plan, ..cloud })
    }

    /// Whether a decision must not rest on a cache: it sends an intent again, which may have been closed since, or opens a removal (safety rule RE1).
    fn rests_on_the_store(&self, decision: &Decision) -> bool {
        let Some(send) = &decision.send else { return false };
        let stored = self.known.object.as_ref().and_then(|object| object.status.as_ref()?.cloud.as_ref()?.intent.as_ref());
        !send.change.remove.is_empty() || stored.is_some_and(|intent| intent.id == send.intent)
    }

    fn observe(&self, present: &Present<'_>) -> Observed {
        let Subject { node, provider_id, policy: _, me } = &self.subject;
        let known = &self.known;
        let current =
            |machine: &&Machine| machine.uid == node.uid && machine.boot_id == node.boot_id && machine.provider_id == *provider_id;
        let read = known.machine.as_ref().filter(|machine| current(&&***machine));
        let seen = || {
            let stored = known.object.as_ref().map(|stored| &stored.spec.node).filter(|machine| machine.uid == node.uid);
            known.machine.as_deref().or(stored).cloned().unwrap_or_default()
        };
        let named = || Machine { uid: node.uid.clone(), boot_id: node.boot_id.clone(), provider_id: (*provider_id).to_owned(), ..seen() };
        let machine = read.map_or_else(|| Arc::new(named()), Arc::clone);
        Observed {
            node: node.clone(),
            exhausted: (present.exhausted)(&machine.subnet_id),
            held: None,
            free: (present.free)(&machine.subnet_id),
            leaving: present.leaving,
            machine,
            object: known.object.clone(),
            nic: known.nic.as_ref().map(|nic| NicRead { view: Arc::clone(nic.view()), at: known.read_at, ended: known.read_ended }),
            me: Leader { identity: me.identity.clone(), nonce: present.draw.to_owned() },
            last: known.last.clone(),
            read_failure: known.read_failure.clone(),
            memory: known.memory.clone(),
        }
    }
}

/// The newer of two readings of one object. The API server's versions are ordered numbers; where they are not, the cache is taken.
#[must_use]
pub fn newer(cached: Option<Arc<AzureVnetNode>>, written: Option<Arc<AzureVnetNode>>) -> Option<Arc<AzureVnetNode>> {
    let version = |object: &Arc<AzureVnetNode>| object.metadata.resource_version.as_ref().and_then(|version| version.parse::<u64>().ok());
    match (cached, written) {
        (Some(cached), Some(written)) if cached.metadata.uid == written.metadata.uid && version(&written) > version(&cached) => {
            Some(written)
        }
        (cached, _) => cached,
    }
}

/// A write that was not even sent.
fn refused(refusal: &Refusal) -> Error {
    let class = match refusal {
        Refusal::AddressChanged(_) => Class::Stale,
        Refusal::Done | Refusal::Limit | Refusal::NoBlocks | Refusal::NoEtag | Refusal::Guard(_) => Class::Rejected,
    };
    Error { class, trace: Trace::None, status: None, code: "NotWritten".into(), message: refusal.to_string(), request_id: None }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        arm::Document,
        decide::tests::{World, at, seconds},
        nic::{name_of, tests::configuration},
    };

    /// A node whose agent has set aside what it was asked to.
    fn acknowledged() -> World {
        let mut world = World::filled(12, 0);
        world.settle();
        world.pass(3600);
        world.settle();
        world.acknowledge(&[]);
        world
    }

    fn nic(world: &World) -> Nic {
        let mut list = vec![configuration("ipconfig1", world.azure.primary, true)];
        list.extend(world.azure.attached().map(|at| configuration(&name_of(at.slot), at.address, false)));
        let body = json!({"name": "nic", "id": world.azure.id.to_string(), "etag": "W/\"1\"", "properties": {"provisioningState": "Succeeded",
            "macAddress": world.azure.mac, "primary": true, "ipConfigurations": list}});
        Nic::whole(Document { body, etag: None }).unwrap()
    }

    fn object(world: &World) -> AzureVnetNode {
        let mut object = AzureVnetNode::clone(world.observed.object.as_ref().unwrap());
        object.metadata.resource_version = Some("1".into());
        object
    }

    fn subject(world: &World) -> Subject<'_> {
        Subject { node: world.observed.node.clone(), provider_id: "", policy: &world.policy, me: world.observed.me.clone() }
    }

    /// A controller that leads, to whom no subnet is full.
    fn leading(now: Timestamp) -> Present<'static> {
        Present { now, nonce: Some("mine"), draw: "mine", exhausted: &|_| false, wait: &|_, _| None, free: &|_| None, leaving: false }
    }

    /// Goes on to the first write of the status or the first request, with everything read as it is.
    fn go(pass: &mut Pass<'_>, world: &mut World, object: &AzureVnetNode) -> ControlFlow<End, Effect> {
        loop {
            world.pass(1);
            let present = leading(world.now);
            match pass.next(&present) {
                Continue(Effect::ReadObject) => pass.object_read(Some(Arc::new(object.clone()))),
                Continue(Effect::ReadNic(_)) => {
                    let began = world.now;
                    world.pass(1);
                    pass.nic_read(began, Ok((nic(world), Machine::clone(&world.observed.machine))), world.now);
                }
                Continue(Effect::Tell(_)) => {}
                next @ (Continue(Effect::Delete | Effect::WriteSpec(_) | Effect::WriteStatus(..) | Effect::Send(_)) | Break(_)) => {
                    return next;
                }
            }
        }
    }

    #[test]
    fn i4_a_removal_whose_record_was_stored_though_its_answer_was_lost_is_sent() {
        let mut world = acknowledged();
        let before = world.clone();
        let subject = subject(&before);
        let mut object = object(&world);
        let known = Known { memory: world.observed.memory.clone(), nonce: "mine".into(), uid: "node".into(), ..Known::default() };
        let mut pass = Pass::new(subject.clone(), known.renewed(&subject, Some(Arc::new(object.clone()))));
        let Continue(Effect::WriteStatus(cloud, _)) = go(&mut pass, &mut world, &object) else { panic!("the intent is recorded first") };
        assert_eq!(cloud.intent.as_ref().map(|intent| intent.op), Some(IntentOp::Remove));
        object.status.as_mut().unwrap().cloud = Some(*cloud);
        object.metadata.resource_version = Some("2".into());

        let known = pass.into_known();
        let mut pass = Pass::new(subject.clone(), known.renewed(&subject, Some(Arc::new(object.clone()))));
        let Continue(Effect::Send(send)) = go(&mut pass, &mut world, &object) else { panic!("the removal is this controller's own") };
        assert_eq!(send.change.remove, (9..=12).map(at).collect());
        assert!(world.now < send.not_after && send.not_after <= world.now + seconds(600));
    }

    #[test]
    fn i9_a_cordon_that_was_over_before_the_pass_began_counts() {
        let mut world = World::filled(12, 0);
        world.settle();
        world.pass(3600);
        let (mut quiet, before, object) = (world.clone(), world.clone(), object(&world));
        let subject = subject(&before);
        let known = Known { memory: world.observed.memory.clone(), nonce: "mine".into(), uid: "node".into(), ..Known::default() };
        let known = known.renewed(&subject, Some(Arc::new(object.clone())));
        let mut pass = Pass::new(subject.clone(), known.clone());
        assert!(matches!(go(&mut pass, &mut quiet, &object), Continue(Effect::WriteSpec(spec)) if !spec.release.is_empty()));
        let mut cordoned = known;
        cordoned.note_cordon();
        let mut pass = Pass::new(subject, cordoned);
        assert!(!matches!(go(&mut pass, &mut world, &object), Continue(Effect::WriteSpec(_))), "it was cordoned a moment ago");
    }

    #[test]
    fn what_was_read_of_a_nic_counts_for_one_boot_of_its_machine() {
        let world = acknowledged();
        let mut subject = subject(&world);
        let machine = Machine { boot_id: "boot".into(), ..Machine::default() };
        let known =
            Known { nic: Some(nic(&world)), machine: Some(machine.into()), nonce: "mine".into(), uid: "node".into(), ..Known::default() };
        assert!(known.clone().renewed(&subject, None).nic.is_some());
        subject.node.boot_id = "next boot".into();
        assert!(known.renewed(&subject, None).nic.is_none(), "a machine that was off may have another");
    }

    #[test]
    fn up1_nothing_is_asked_of_azure_for_a_node_whose_kubelet_is_silent() {
        let mut world = World::new(&[]);
        let first = |world: &mut World| {
            let before = world.clone();
            let subject = subject(&before);
            let mut pass = Pass::new(subject.clone(), Known::default().renewed(&subject, None));
            let present = leading(world.now);
            assert_eq!(pass.next(&present), Continue(Effect::ReadObject));
            pass.object_read(None);
            pass.next(&present)
        };
        assert_eq!(first(&mut world), Continue(Effect::ReadNic(Urgency::Fill)));
        world.observed.node.ready = crate::decide::Ready::Unknown;
        assert_eq!(first(&mut world), Break(End::Rest(Some(seconds(300)))));
    }

    #[test]
    fn re1_an_object_of_an_earlier_term_does_not_outdo_what_a_restored_api_server_holds() {
        let version = |text: &str| {
            let mut object = AzureVnetNode::new("n1", AzureVnetNodeSpec::default());
            (object.metadata.uid, object.metadata.resource_version) = (Some("object".into()), Some(text.into()));
            Arc::new(object)
        };
        let known = || Known { object: Some(version("9")), nonce: "first".into(), ..Known::default() };
        let begun = |nonce: &str| newer(Some(version("5")), known().take_object(nonce)).unwrap().metadata.resource_version.clone().unwrap();
        assert_eq!((begun("first").as_str(), begun("second").as_str()), ("9", "5"));
    }
}
