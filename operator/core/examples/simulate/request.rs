//! Requests on their way, and what can happen to them there.

use std::{rc::Rc, sync::Arc, time::Duration};

use azure_vnet_crds::{
    AzureVnetNode, AzureVnetNodeSpec,
    node::{self, Cloud, Intent, MachineKind, SlotAddress},
};
use azure_vnet_operator_core::{
    arm::{Budget, Class, Error, Trace, Write},
    decide::Send,
    nic::{Nic, name_of},
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use serde_json::{Value, json};

use crate::{
    cloud::{Documents, End, NETWORK, Takes, document},
    controller::{Caller, Outset, time},
    fault::{Fault, Mutation},
    plan::Point,
    server::Denied,
    world::{Answer, Event, Flight, Ground, Task, World},
};

/// How long the client waits for an answer, and for an operation.
const ANSWER: i64 = 60_000;
const OPERATION: i64 = 600_000;
/// How long it waits at a gate before it gives up.
const LONGEST_GATE: i64 = 30_000;

impl World<'_> {
    /// A request to the API server, or a read of Azure, arrives.
    pub fn task(&mut self, caller: Caller, task: Task) {
        let pause = self.latency();
        let name = caller.name;
        let refused = match task {
            Task::WriteSpec(..) | Task::WriteStatus(..) => self.roll(&[Fault::K05KindsRefused, Fault::K09TokenRotated]).is_some(),
            Task::ReadObject | Task::Delete(_) => self.roll(&[Fault::K09TokenRotated]).is_some(),
            Task::ReadNic { .. } | Task::Send { .. } => false,
        };
        let reachable = !self.server.down && !self.replicas[caller.replica].cut_off && !refused;
        let answer = match task {
            Task::ReadNic { began } => return self.read_nic(caller, began),
            Task::Send { write, send } => return self.depart(caller, write, send),
            _ if !reachable => Answer::Failed,
            Task::ReadObject if self.plan.mutation == Some(Mutation::ReadsItsCache) => {
                Answer::Object(self.replicas[caller.replica].pools.get(&name).cloned())
            }
            Task::ReadObject => {
                let stored = self.server.objects.get(&name).cloned();
                if let Some(stored) = stored.as_ref().filter(|_| self.plan.mutation == Some(Mutation::WritesAgain)) {
                    self.write_again(name, stored);
                }
                Answer::Object(stored)
            }
            Task::Delete(ground) => {
                let at = time(self.now);
                if ground.is_some_and(|metadata| self.is_current(name, &metadata)) {
                    self.server.delete(name, at);
                    self.changed(name);
                }
                Answer::Deleted
            }
            Task::WriteSpec(spec, ground, outset) => self.write_spec(caller, *spec, &ground, outset),
            Task::WriteStatus(cloud, conditions, ground, outset) => self.write_status(caller, *cloud, conditions, (&ground, outset)),
        };
        if let Answer::Written(None) = &answer {
            self.trace.hit(Fault::K04Conflict);
        }
        let lost = reachable && self.roll(&[Fault::N08AnswerLost]).is_some();
        self.reply(caller, pause, if lost { Answer::Failed } else { answer });
    }

    fn write_again(&mut self, name: usize, stored: &Arc<AzureVnetNode>) {
        let written = self.server.apply_spec(name, Some(&stored.metadata), stored.spec.clone(), time(self.now));
        if let Ok(after) = written {
            self.check_news(name, Some(stored), &after);
        }
    }

    fn is_current(&self, name: usize, metadata: &ObjectMeta) -> bool {
        self.server.objects.get(&name).is_some_and(|stored| stored.metadata.resource_version == metadata.resource_version)
    }

    fn write_spec(&mut self, caller: Caller, spec: AzureVnetNodeSpec, ground: &Ground, outset: Outset) -> Answer {
        let (name, at) = (caller.name, time(self.now));
        let before = self.server.objects.get(&name).cloned();
        match self.server.apply_spec(name, ground.as_deref(), spec, at) {
            Ok(object) => {
                self.trace.note(&[20, name as u64, object.spec.revision], || {
                    let list = |list: &[node::SlotAddress]| list.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
                    let asked: Vec<String> =
                        object.spec.release.iter().map(|one| format!("{}: {}", one.id, list(&one.addresses))).collect();
                    let (addresses, gone) = (list(&object.spec.addresses), list(&object.spec.lost));
                    format!("n{name}: spec {} [{addresses}] release {asked:?} lost [{gone}] by {}", object.spec.revision, caller.replica)
                });
                self.check_ground(caller, before.as_deref(), ground.as_deref());
                // One that is made by two at once was in neither's view.
                self.check_news(name, before.as_deref().filter(|_| ground.is_some()), &object);
                self.check_spec(caller, outset, before.as_deref(), &object);
                self.changed(name);
                if open_intent(&object).is_some() {
                    self.reach(Point::Published, caller);
                }
                Answer::Written(Some(object))
            }
            Err(Denied::Conflict) => Answer::Written(None),
            Err(Denied::Failed) => Answer::Failed,
        }
    }

    fn write_status(
        &mut self,
        caller: Caller,
        mut cloud: Cloud,
        conditions: Vec<Condition>,
        (ground, outset): (&Ground, Outset),
    ) -> Answer {
        let Some(ground) = ground else { return Answer::Failed };
        let name = caller.name;
        let before = self.server.objects.get(&name).cloned();
        let planted = self.plan.mutation == Some(Mutation::IntentNotStored);
        let told = cloud.clone();
        if planted {
            cloud.intent = None;
        }
        match self.server.apply_cloud(name, ground, cloud, conditions) {
            Ok(mut object) => {
                let intent = open_intent(&object).cloned();
                self.trace.note(&[21, name as u64, intent.as_ref().map_or(0, |intent| intent.id)], || {
                    let intent =
                        intent.as_ref().map(|intent| format!("{} {:?} +{:?} -{:?}", intent.id, intent.op, intent.add, intent.remove));
                    format!("n{name}: status, intent {intent:?} by {}", caller.replica)
                });
                self.check_ground(caller, before.as_deref(), Some(ground));
                self.check_news(name, before.as_deref(), &object);
                self.check_status(caller, outset, before.as_deref(), &object);
                if intent.is_some_and(|intent| before.as_deref().and_then(open_intent).is_none_or(|before| before.id != intent.id)) {
                    self.reach(Point::Recorded, caller);
                }
                if before.is_none_or(|before| before.metadata.resource_version != object.metadata.resource_version) {
                    self.changed(name);
                }
                if planted && let Some(status) = &mut Arc::make_mut(&mut object).status {
                    status.cloud = Some(told);
                }
                Answer::Written(Some(object))
            }
            Err(Denied::Conflict) => Answer::Written(None),
            Err(Denied::Failed) => Answer::Failed,
        }
    }

    fn read_nic(&mut self, caller: Caller, began: Timestamp) {
        let name = caller.name;
        let kind = if self.nics[name].instance.is_some() { Budget::ComputeRead } else { Budget::NetworkRead };
        if let Some(until) = self.replicas[caller.replica].closed_until(kind, self.now) {
            if until - self.now <= LONGEST_GATE {
                return self.after(until - self.now, Event::Task { caller, task: Task::ReadNic { began } });
            }
            let result = Box::new(Err(gated(until - self.now)));
            return self.reply(caller, 1, Answer::Nic { began, of: self.now, result });
        }
        let fate = self.roll(&[
            Fault::A01ThrottledWithTime,
            Fault::A02ThrottledWithoutTime,
            Fault::A07ErrorBeforeEffect,
            Fault::A11Forbidden,
            Fault::A12Unauthenticated,
            Fault::A13Gone,
            Fault::A14StaleRead,
            Fault::A15UnknownShape,
            Fault::A25Outage,
            Fault::A27NoConnection,
            Fault::K16CredentialsChanged,
        ]);
        let ago = if fate == Some(Fault::A14StaleRead) { self.dice.time(1_000, 60_000) } else { 0 };
        let result = match fate.and_then(|fate| self.error(fate)) {
            Some(error) => Err(error),
            None if !self.nics[name].exists => Err(gone()),
            None => self.parse(caller, ago, fate == Some(Fault::A15UnknownShape)),
        };
        let pause = self.dice.time(20, 400);
        self.heed(caller, kind, result.as_ref().err());
        if let Ok((nic, _)) = &result {
            let late = nic.view().state == azure_vnet_operator_core::nic::State::Lagging;
            if late {
                self.trace.hit(Fault::A24NicLagsModel);
            }
        }
        self.trace.note(&[22, name as u64, u64::from(result.is_ok())], || {
            let shown = result.as_ref().map(|(nic, _)| (nic.view().state, nic.view().slots.clone())).map_err(|error| error.code.clone());
            format!("n{name}: NIC {shown:?} for {}", caller.replica)
        });
        self.reply(caller, pause, Answer::Nic { began, of: self.now - ago, result: Box::new(result) });
        if self.server.objects.get(&name).is_some_and(|object| open_intent(object).is_some()) {
            self.reach(Point::ReadBack, caller);
        }
    }

    fn parse(&mut self, caller: Caller, ago: i64, broken: bool) -> Result<(Nic, node::Machine), Error> {
        let name = caller.name;
        let instance = self.nics[name].instance.is_some();
        // The model is read first, the NICs after it.
        let older = ago + if instance && self.dice.chance(100) { 3_000 } else { 0 };
        let main = self.nics[name].documents(self.now, older);
        let rest = if instance { self.nics[name].documents(self.now, ago) } else { Rc::clone(&main) };
        let early = self.plan.mutation == Some(Mutation::PublishedAtOnce);
        let blind = self.plan.mutation == Some(Mutation::SlotAlone);
        let print = |value: &Value, documents: &Documents| {
            let mut value = value.clone();
            if early {
                hasten(&mut value);
            }
            if blind && let Some(object) = self.server.objects.get(&name) {
                object.spec.addresses.iter().for_each(|at| pretend(&mut value, *at));
            }
            if broken && let Some(properties) = value.get_mut("properties").and_then(Value::as_object_mut) {
                properties.remove("ipConfigurations");
                properties.remove("networkProfileConfiguration");
            }
            debug_assert!(documents.etag > 0);
            document(value)
        };
        let plain = !early && !blind && !broken && Rc::ptr_eq(&main, &rest);
        let nic = match main.read.get().filter(|_| plain) {
            Some(nic) => Ok(nic.clone()),
            None if instance => Nic::instance(&print(&main.main, &main), &print(&rest.nics, &rest)),
            None => Nic::whole(print(&main.main, &main)),
        };
        if let Some(nic) = nic.as_ref().ok().filter(|_| plain) {
            main.read.get_or_init(|| nic.clone());
        }
        let nic = nic.map_err(|error| {
            Error::from_answer(400, None, json!({"error": {"code": "NotUnderstood", "message": error.to_string()}}).to_string().as_bytes())
        })?;
        let Some((_, node)) = self.ground(caller) else { return Err(Error::not_sent("the pass is over")) };
        let ids = &self.plan.machines[name];
        let view = nic.view();
        let machine = node::Machine {
            uid: node.uid.clone(),
            boot_id: node.boot_id.clone(),
            provider_id: ids.provider.clone(),
            kind: if ids.uniform { MachineKind::VmssUniform } else { MachineKind::Vm },
            nic_id: view.id.to_string(),
            mac: view.mac.clone(),
            subnet_id: view.subnet.to_string(),
            subnet_prefix: "10.0.0.0/8".into(),
            primary_address: view.primary.to_string(),
            vnet_cidrs: vec!["10.0.0.0/8".into()],
        };
        debug_assert!(machine.subnet_id.starts_with(NETWORK));
        Ok((nic, machine))
    }

    /// The client closes a gate when Azure asks for patience: for all requests that draw on the same budget.
    fn heed(&mut self, caller: Caller, kind: Budget, error: Option<&Error>) {
        let Some(Error { class: Class::Throttled { retry_after }, status: Some(_), .. }) = error else { return };
        let until = self.now + retry_after.map_or(5_000, |rest| i64::try_from(rest.as_millis()).unwrap_or_default());
        if self.replicas[caller.replica].life == caller.life {
            self.replicas[caller.replica].close(kind, until);
        }
    }

    /// A write leaves the controller, once its client lets it.
    pub fn depart(&mut self, caller: Caller, mut write: Box<Write>, send: Send) {
        let kind = write.budget();
        if let Some(until) = self.replicas[caller.replica].closed_until(kind, self.now) {
            if until - self.now <= LONGEST_GATE {
                return self.after(until - self.now, Event::Task { caller, task: Task::Send { write, send } });
            }
            let result = Err(gated(until - self.now));
            return self.reply(caller, 1, Answer::Sent { intent: send.intent, result });
        }
        let may = self.may_send(caller, send.not_after);
        let Some((object, node)) = self.ground(caller).filter(|_| may) else {
            let pause = self.latency();
            let result = Err(Error::not_sent("leadership or the intent's time ended"));
            return self.reply(caller, pause, Answer::Sent { intent: send.intent, result });
        };
        if self.plan.mutation == Some(Mutation::ForeignDropped) {
            drop_foreign(&mut write);
        }
        let object = object.and_then(|metadata| metadata.uid).unwrap_or_default();
        self.check_departure(caller, &write, &send, &object, &node);
        let fate = self.roll(&[
            Fault::A01ThrottledWithTime,
            Fault::A02ThrottledWithoutTime,
            Fault::A03ThrottledWrites,
            Fault::A04AnotherOperation,
            Fault::A05OperationFails,
            Fault::A05OperationSuperseded,
            Fault::A06Ignored,
            Fault::A07ErrorBeforeEffect,
            Fault::A07ErrorAfterEffect,
            Fault::A08ConnectionCut,
            Fault::A09OperationTakesTenMinutes,
            Fault::A10PartialSuccess,
            Fault::A11Forbidden,
            Fault::A11Locked,
            Fault::A12Unauthenticated,
            Fault::A19SubnetFullUntrue,
            Fault::A25Outage,
            Fault::A27NoConnection,
            Fault::K16CredentialsChanged,
            Fault::O04LateWrite,
        ]);
        self.trace.note(&[23, caller.name as u64, send.intent], || {
            format!(
                "n{}: PUT {} +{:?} -{:?} by {} on {:?}",
                caller.name,
                send.intent,
                send.change.add,
                send.change.remove,
                caller.replica,
                write.etag()
            )
        });
        let id = self.next_number();
        let mut pause = self.dice.time(20, 500);
        if fate == Some(Fault::O04LateWrite) {
            // As long as a request may sit on its way after its client gave it up.
            let grace = self.policy(caller.name).map_or(60_000, |policy| i64::try_from(policy.grace.as_millis()).unwrap_or_default());
            pause = self.dice.time(ANSWER / 2, grace.clamp(ANSWER, 5 * ANSWER));
            self.reply(
                caller,
                ANSWER,
                Answer::Sent { intent: send.intent, result: Err(Error::transport(Trace::Unknown, "timed out".into())) },
            );
        }
        self.flights.insert(id, Flight { caller, write, send, object, fate });
        self.after(pause, Event::Put { flight: id });
        self.reach(Point::Departed, caller);
    }

    /// A write arrives.
    pub fn put(&mut self, flight: u64) {
        let Some(flight) = self.flights.remove(&flight) else { return };
        let (name, caller, intent) = (flight.caller.name, flight.caller, flight.send.intent);
        let early = [Fault::A06Ignored, Fault::A14StaleRead, Fault::A09OperationTakesTenMinutes, Fault::O04LateWrite];
        let refused = flight.fate.filter(|fate| !early.contains(fate)).and_then(|fate| self.error(fate));
        let after_effect = matches!(flight.fate, Some(Fault::A07ErrorAfterEffect | Fault::A08ConnectionCut));
        let outcome = match refused {
            Some(error) if !after_effect => Err(error),
            _ => self.land(&flight),
        };
        match outcome {
            Err(error) => {
                self.trace.note(&[24, name as u64, intent], || format!("n{name}: PUT {intent} refused: {}", error.code));
                self.heed(caller, flight.write.budget(), Some(&error));
                let pause = self.latency();
                self.reply(caller, pause, Answer::Sent { intent, result: Err(error) });
            }
            Ok(()) if flight.fate == Some(Fault::A08ConnectionCut) => {
                let pause = self.dice.time(100, ANSWER);
                self.reply(caller, pause, Answer::Sent { intent, result: Err(Error::transport(Trace::Unknown, "cut off".into())) });
            }
            Ok(()) if after_effect => {
                let pause = self.latency();
                self.reply(caller, pause, Answer::Sent { intent, result: Err(Error::from_answer(500, None, b"")) });
            }
            Ok(()) if flight.fate == Some(Fault::A06Ignored) => {
                let pause = self.dice.time(1_000, 10_000);
                self.reply(caller, pause, Answer::Sent { intent, result: Ok(()) });
            }
            Ok(()) => {}
        }
    }

    /// Resource Manager takes a write.
    fn land(&mut self, flight: &Flight) -> Result<(), Error> {
        let name = flight.caller.name;
        if !self.nics[name].exists {
            return Err(gone());
        }
        if !self.nics[name].running {
            self.trace.hit(Fault::A23Deallocated);
            return Err(refusal(409, "OperationNotAllowed", "the machine is deallocated"));
        }
        if self.nics[name].operation.is_some() {
            return Err(refusal(409, "AnotherOperationInProgress", "Another operation is in progress"));
        }
        let etag = if self.nics[name].instance.is_some() {
            format!("\"{}\"", self.nics[name].etag())
        } else {
            format!("W/\"{}\"", self.nics[name].etag())
        };
        if flight.write.etag() != Some(&etag) && self.plan.mutation != Some(Mutation::EtagIgnored) {
            return Err(refusal(412, "PreconditionFailed", "the etag differs"));
        }
        let effect = match self.nics[name].effect(&flight.write) {
            Ok(effect) => effect,
            Err(why) => {
                self.trace.violated(|| format!("I3: n{name}: PUT {}: {why}", flight.send.intent));
                return Err(refusal(400, "InvalidRequest", why));
            }
        };
        self.trace.hit(Fault::A22TagsAndGroups);
        if flight.fate == Some(Fault::A06Ignored) {
            return Ok(());
        }
        let whole = self.nics[name].instance.is_none();
        match self.nics[name].takes {
            Takes::None if !effect.blocks.is_empty() => {
                self.trace.hit(Fault::A30BlocksRefused);
                return Err(refusal(400, "SubscriptionNotRegisteredForFeature", "no blocks"));
            }
            Takes::Singles if !effect.blocks.is_empty() => self.trace.hit(Fault::A31BlocksIgnored),
            _ => {}
        }
        let subnet = self.nics[name].subnet;
        let full = !self.subnets[subnet].holds(effect.blocks.len(), effect.add.len() - effect.blocks.len());
        if full {
            let fragmented = !effect.blocks.is_empty() && self.subnets[subnet].holds(0, effect.add.len());
            self.trace.hit(if fragmented { Fault::A18SubnetFragmented } else { Fault::A18SubnetFull });
            if whole {
                return Err(refusal(400, "SubnetIsFull", "the subnet is full"));
            }
        }
        self.check_landing(flight, &effect);
        let end = match flight.fate {
            _ if full => End::FullSubnet,
            _ if self.plan.mutation == Some(Mutation::RemovalsFail) && !effect.remove.is_empty() => End::Fails,
            Some(Fault::A05OperationFails) => End::Fails,
            Some(Fault::A05OperationSuperseded) => End::Superseded,
            Some(Fault::A10PartialSuccess) => End::Partly,
            _ => End::Well,
        };
        let id = self.next_number();
        let gone = self.nics[name].accept(&mut self.subnets[subnet], &effect, (id, end), self.now);
        self.trace.note(&[25, name as u64, flight.send.intent, self.nics[name].etag()], || {
            format!("n{name}: PUT {} accepted, ends {end:?}", flight.send.intent)
        });
        self.check_gone(name, &gone);
        let slow = flight.fate == Some(Fault::A09OperationTakesTenMinutes);
        let takes = if slow { self.dice.time(540_000, 660_000) } else { self.dice.time(2_000, 15_000) };
        self.after(takes, Event::OperationEnds { name, operation: id });
        let tells = !matches!(flight.fate, Some(Fault::O04LateWrite | Fault::A08ConnectionCut | Fault::A07ErrorAfterEffect));
        if tells {
            if takes > OPERATION {
                let result = Err(Error::transport(Trace::Unknown, "the operation has not ended in time".into()));
                self.reply(flight.caller, OPERATION, Answer::Sent { intent: flight.send.intent, result });
            } else {
                self.followed.insert(id, (flight.caller, flight.send.intent));
            }
        }
        self.reach(Point::Accepted, flight.caller);
        Ok(())
    }

    pub fn operation_ends(&mut self, name: usize, operation: u64) {
        let end = self.nics[name].operation.as_ref().filter(|one| one.id == operation).map(|one| one.end);
        if end.is_some() {
            let subnet = self.nics[name].subnet;
            let gone = self.nics[name].finish(&mut self.subnets[subnet], self.now);
            self.check_gone(name, &gone);
            self.trace.note(&[26, name as u64, operation], || format!("n{name}: operation ended {end:?}: {:?}", self.nics[name].entries));
        }
        let Some((caller, intent)) = self.followed.remove(&operation) else { return };
        let result = match end {
            Some(End::Well) => Ok(()),
            Some(End::Partly | End::Fails) => Err(ended("Failed", "InternalServerError")),
            Some(End::FullSubnet) => Err(ended("Failed", "SubnetIsFull")),
            Some(End::Superseded) => Err(ended("Canceled", "CanceledAndSupersededDueToAnotherOperation")),
            None => Err(gone()),
        };
        let pause = self.dice.time(100, 5_000);
        self.reply(caller, pause, Answer::Sent { intent, result });
        self.reach(Point::Ended, caller);
    }

    /// Whether one of these faults strikes.
    pub fn roll(&mut self, of: &[Fault]) -> Option<Fault> {
        let mut struck = None;
        for weather in &self.weather {
            if of.contains(&weather.fault) && weather.until > self.now && struck.is_none() && self.dice.chance(weather.per_mille) {
                struck = Some(weather.fault);
            }
        }
        if let Some(fault) = struck {
            self.trace.hit(fault);
        }
        struck
    }

    fn error(&mut self, fault: Fault) -> Option<Error> {
        let times = [Some(30), Some(90), Some(1200)];
        let retry = self.dice.pick(&times).flatten().map(Duration::from_secs);
        let throttled = |retry| Some(Error::from_answer(429, retry, br#"{"error":{"code":"TooManyRequests","message":"too many"}}"#));
        match fault {
            Fault::A01ThrottledWithTime | Fault::A03ThrottledWrites => throttled(retry),
            Fault::A02ThrottledWithoutTime => throttled(None),
            Fault::A04AnotherOperation => Some(refusal(409, "AnotherOperationInProgress", "Another operation is in progress")),
            Fault::A07ErrorBeforeEffect | Fault::A07ErrorAfterEffect => Some(Error::from_answer(500, None, b"")),
            Fault::A08ConnectionCut => Some(Error::transport(Trace::Unknown, "cut off".into())),
            Fault::A11Forbidden => {
                Some(refusal(403, "AuthorizationFailed", "does not have authorization to perform action 'x/write' over scope 'y'"))
            }
            Fault::A11Locked => Some(refusal(409, "ScopeLocked", "a lock")),
            Fault::A12Unauthenticated | Fault::K16CredentialsChanged => Some(Error::from_answer(401, None, b"")),
            Fault::A13Gone => Some(gone()),
            Fault::A19SubnetFullUntrue => Some(refusal(400, "SubnetIsFull", "the subnet is full")),
            Fault::A25Outage => Some(Error::from_answer(503, None, b"")),
            Fault::A27NoConnection => Some(Error::transport(Trace::None, "no connection".into())),
            _ => None,
        }
    }
}

fn open_intent(object: &AzureVnetNode) -> Option<&Intent> {
    object.status.as_ref()?.cloud.as_ref()?.intent.as_ref()
}

fn refusal(status: u16, code: &str, message: &str) -> Error {
    Error::from_answer(status, None, json!({"error": {"code": code, "message": message}}).to_string().as_bytes())
}

fn gated(rest: i64) -> Error {
    Error::gated(Duration::from_millis(u64::try_from(rest).unwrap_or_default()))
}

fn gone() -> Error {
    refusal(404, "ResourceNotFound", "it is not there")
}

fn ended(status: &str, code: &str) -> Error {
    let body = json!({"status": status, "error": {"code": code, "message": "x"}}).to_string();
    match azure_vnet_operator_core::arm::Operation::parse(body.as_bytes()) {
        azure_vnet_operator_core::arm::Operation::Ended(error) => error,
        _ => Error::not_sent("unreachable"),
    }
}

/// Azure seems done before it is.
fn hasten(value: &mut Value) {
    match value {
        Value::Object(map) => map.values_mut().for_each(hasten),
        Value::Array(list) => list.iter_mut().for_each(hasten),
        Value::String(text) if text == "Updating" => *text = "Succeeded".into(),
        _ => {}
    }
}

/// The slot seems to have the address that is listed.
fn pretend(value: &mut Value, at: SlotAddress) {
    match value {
        Value::Object(map) if map.get("name").and_then(Value::as_str) == Some(&name_of(at.slot)) => {
            if let Some(address) = map.get_mut("properties").and_then(|properties| properties.get_mut("privateIPAddress")) {
                *address = json!(at.address);
            }
        }
        Value::Object(map) => map.values_mut().for_each(|value| pretend(value, at)),
        Value::Array(list) => list.iter_mut().for_each(|value| pretend(value, at)),
        _ => {}
    }
}

fn drop_foreign(write: &mut Write) {
    let (Write::Nic { body, .. } | Write::Instance { body, .. }) = write;
    let pointers = [
        "/properties/ipConfigurations",
        "/properties/networkProfileConfiguration/networkInterfaceConfigurations/0/properties/ipConfigurations",
    ];
    for pointer in pointers {
        if let Some(list) = body.pointer_mut(pointer).and_then(Value::as_array_mut) {
            list.retain(|entry| entry.get("name").and_then(Value::as_str) != Some("other0"));
        }
    }
}
