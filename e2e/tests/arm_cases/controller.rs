//! One node's controller: the product's passes and its client of Resource Manager, with an object store of a few lines and a clock that is moved by
//! hand. Requests take real time, waits between passes take none.

use std::{cell::RefCell, collections::BTreeSet, ops::ControlFlow, sync::Arc, time::Duration};

use azure_vnet_crds::{
    AzureVnetConfig, AzureVnetConfigSpec, AzureVnetNode,
    config::PoolSpec,
    node::{Agent, Cloud, Machine, MachineKind},
};
use azure_vnet_operator::azure::{Arm as _, ArmClient};
use azure_vnet_operator_core::{
    arm::{Class, Error, Read, ResourceId, Urgency},
    decide::{Event, Leader, NodeFacts, Ready, Send},
    full::FullSubnets,
    nic::Nic,
    pass::{Effect, End, Known, Pass, Present, Subject},
    policy::Policy,
};
use jiff::Timestamp;

/// Where a node's IP configurations are read and written.
#[derive(Clone)]
pub enum Place {
    Nic(ResourceId),
    Instance(ResourceId),
}

pub struct Controller {
    pub name: String,
    pub place: Place,
    pub policy: Policy,
    pub arm: ArmClient,
    pub now: Timestamp,
    pub ready: Ready,
    pub exhausted: bool,
    full: RefCell<FullSubnets>,
    pub object: Option<AzureVnetNode>,
    /// When each write was sent, which slots it was to add, and how it ended.
    pub writes: Vec<(Timestamp, BTreeSet<u8>, Result<(), Error>)>,
    /// How the reads that failed ended.
    pub read_errors: Vec<Error>,
    pub events: Vec<Event>,
    known: Known,
}

impl Controller {
    /// One that keeps four addresses free, in steps of four.
    pub fn new(name: &str, place: Place, arm: ArmClient) -> Self {
        let pool = PoolSpec { min_free: Some(4), batch: Some(4), ..PoolSpec::default() };
        let mut config = AzureVnetConfig::new("default", AzureVnetConfigSpec { pool, ..AzureVnetConfigSpec::default() });
        config.metadata.generation = Some(1);
        Self {
            name: name.into(),
            place,
            policy: Policy::of(&config).unwrap(),
            arm,
            now: Timestamp::from_second(1_800_000_000).unwrap(),
            ready: Ready::True,
            exhausted: false,
            full: RefCell::default(),
            object: None,
            writes: vec![],
            read_errors: vec![],
            events: vec![],
            known: Known::default(),
        }
    }

    /// One pass to its end; when to come again.
    pub async fn pass(&mut self) -> Option<Duration> {
        let policy = self.policy.clone();
        let node = NodeFacts {
            name: self.name.clone(),
            uid: "node".into(),
            boot_id: "boot".into(),
            ready: self.ready,
            cordoned: false,
            deleting: false,
            created: Timestamp::UNIX_EPOCH,
        };
        let me = Leader { identity: "me".into(), nonce: "term".into() };
        let subject = Subject { node, provider_id: "azure:///", policy: &policy, me };
        let known = std::mem::take(&mut self.known);
        let mut pass = Pass::new(subject.clone(), known.renewed(&subject, self.stored()));
        let wake = loop {
            self.sleep(1);
            let exhausted = self.exhausted;
            let exhausted = |_: &str| exhausted;
            let now = self.now;
            let wait = |_: &str, starving| self.full.borrow_mut().wait("subnet", "node", starving, now);
            let present = Present {
                now: self.now,
                nonce: Some("term"),
                draw: "draw",
                exhausted: &exhausted,
                wait: &wait,
                free: &|_| None,
                leaving: false,
            };
            match pass.next(&present) {
                ControlFlow::Continue(effect) => self.carry_out(effect, &mut pass).await,
                ControlFlow::Break(End::Rest(wake)) => break wake,
                ControlFlow::Break(end) => panic!("{end:?}"),
            }
        };
        self.full.get_mut().done("node");
        self.known = pass.into_known();
        wake
    }

    /// Passes, each when the last one asked for it, until it is so.
    pub async fn until(&mut self, what: &str, so: impl Fn(&Self) -> bool) {
        for _ in 0..60 {
            let wake = self.pass().await;
            if so(self) {
                return;
            }
            self.sleep(wake.map_or(60, |wake| wake.as_secs().max(1)));
        }
        panic!("never {what}: {:?} {:?} {:?}", self.cloud(), self.writes, self.events);
    }

    /// Passes until the pool is as large as wanted and nothing is open.
    pub async fn fill(&mut self, count: usize) {
        self.until(&format!("{count} addresses"), |it| it.addresses().len() == count && it.cloud().intent.is_none()).await;
    }

    /// Passes in real time until it is so: what the client itself waits for takes as long as it takes.
    pub async fn in_time(&mut self, what: &str, so: impl Fn(&Self) -> bool) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(45);
        while tokio::time::Instant::now() < deadline {
            self.pass().await;
            if so(self) {
                return;
            }
            self.sleep(600);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        panic!("not in time {what}: {:?} {:?} {:?}", self.cloud(), self.writes, self.events);
    }

    /// How the last write ended.
    pub fn failure(&self) -> &Error {
        self.writes.last().unwrap().2.as_ref().unwrap_err()
    }

    pub fn sleep(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    /// The node's agent has adopted what is published, and its pods need so many.
    pub fn report(&mut self, demand: u16) {
        let object = self.object.as_mut().unwrap();
        let (uid, revision) = (object.metadata.uid.clone().unwrap(), object.spec.revision);
        let agent = Agent {
            object_uid: uid,
            boot_id: "boot".into(),
            store_id: "store".into(),
            demand,
            revision_adopted: revision,
            ready: true,
            ..Agent::default()
        };
        object.status.get_or_insert_default().agent = Some(agent);
        object.metadata.resource_version = Some(next(object.metadata.resource_version.as_deref()));
    }

    pub fn addresses(&self) -> BTreeSet<String> {
        self.object.iter().flat_map(|object| &object.spec.addresses).map(|at| at.address.to_string()).collect()
    }

    pub fn cloud(&self) -> Cloud {
        self.object.as_ref().and_then(|object| object.status.as_ref()?.cloud.clone()).unwrap_or_default()
    }

    /// Status and reason of a condition.
    pub fn condition(&self, kind: &str) -> (String, String) {
        let conditions = self.object.iter().filter_map(|object| object.status.as_ref()).flat_map(|status| &status.conditions);
        let found = conditions.into_iter().find(|condition| condition.type_ == kind).unwrap();
        (found.status.clone(), found.reason.clone())
    }

    pub fn told(&self, reason: &str) -> Option<&str> {
        self.events.iter().find(|event| event.reason == reason).map(|event| event.message.as_str())
    }

    /// Reads the NIC as a pass does.
    pub async fn read(&self, urgency: Urgency) -> Result<Nic, Error> {
        let nic = match &self.place {
            Place::Nic(id) => Nic::whole(self.arm.read(&Read::Nic(id.clone()), urgency).await?),
            Place::Instance(id) => {
                let model = self.arm.read(&Read::Instance(id.clone()), urgency).await?;
                let nics = self.arm.read(&Read::InstanceNics(id.clone()), urgency).await?;
                Nic::instance(&model, &nics)
            }
        };
        nic.map_err(|error| Error::not_sent(&error.to_string()))
    }

    fn note_room(&mut self, send: &Send, error: Option<&Error>) {
        let full = self.full.get_mut();
        match error {
            None if send.change.add.is_empty() => full.widened("subnet", self.now),
            None => full.granted("subnet", self.now),
            Some(error) if error.class == Class::SubnetFull && !send.generous => {
                full.refused("subnet", self.now);
                self.exhausted = true;
            }
            Some(_) => {}
        }
    }

    fn stored(&self) -> Option<Arc<AzureVnetNode>> {
        self.object.clone().map(Arc::new)
    }

    async fn carry_out(&mut self, effect: Effect, pass: &mut Pass<'_>) {
        match effect {
            Effect::ReadObject => pass.object_read(self.stored()),
            Effect::Delete => panic!("no other node has this name"),
            Effect::WriteSpec(spec) => {
                let version = self.version();
                let object = self.object.get_or_insert_with(|| AzureVnetNode::new("node", (*spec).clone()));
                object.metadata.uid = Some("object".into());
                object.metadata.resource_version = Some(version);
                object.spec = *spec;
                pass.written(self.stored());
            }
            Effect::WriteStatus(cloud, conditions) => {
                let version = self.version();
                let object = self.object.as_mut().unwrap();
                object.metadata.resource_version = Some(version);
                let status = object.status.get_or_insert_default();
                (status.cloud, status.conditions) = (Some(*cloud), conditions);
                pass.written(self.stored());
            }
            Effect::Tell(events) => self.events.extend(events),
            Effect::Send(send) => {
                assert_eq!(self.cloud().intent.map(|intent| intent.id), Some(send.intent), "an intent is stored before it is sent");
                let result = match pass.prepare(&send) {
                    Ok(write) => self.arm.write(&write, send.urgency, &|| true).await,
                    Err(result) => result,
                };
                self.note_room(&send, result.as_ref().err());
                self.writes.push((self.now, send.change.add, result.clone()));
                self.sleep(1);
                pass.attempted(send.intent, result, self.now);
            }
            Effect::ReadNic(urgency) => {
                let began = self.now;
                let read = self.read(urgency).await;
                self.read_errors.extend(read.as_ref().err().cloned());
                let kind = match self.place {
                    Place::Nic(_) => MachineKind::Vm,
                    Place::Instance(_) => MachineKind::VmssUniform,
                };
                let machine = |nic: &Nic| Machine {
                    kind,
                    uid: "node".into(),
                    boot_id: "boot".into(),
                    subnet_id: nic.view().subnet.to_string(),
                    ..Machine::default()
                };
                self.sleep(1);
                pass.nic_read(began, read.map(|nic| (nic.clone(), machine(&nic))), self.now);
            }
        }
    }

    fn version(&self) -> String {
        next(self.object.as_ref().and_then(|object| object.metadata.resource_version.as_deref()))
    }
}

fn next(version: Option<&str>) -> String {
    let number: u64 = version.map_or(0, |version| version.parse().unwrap());
    (number + 1).to_string()
}
