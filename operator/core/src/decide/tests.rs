use azure_vnet_crds::{
    AzureVnetConfig, AzureVnetConfigSpec,
    config::Mode,
    node::{Imds, Intent, IntentOp, MachineKind, ReleaseAck, Unit},
};

use super::*;
use crate::{
    arm::{Class, Error, Trace},
    nic::{Change, Slot, State, View},
    policy::Pool,
};

/// A node, its NIC, its agent and the object between them, moved by hand.
#[derive(Clone)]
pub struct World {
    pub observed: Observed,
    pub policy: Policy,
    pub now: Timestamp,
    /// What Azure has; `observed.nic` is what was read of it.
    pub azure: View,
    /// Its etag.
    pub version: u64,
    pub events: Vec<&'static str>,
}

pub fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn address(host: u8) -> std::net::Ipv4Addr {
    std::net::Ipv4Addr::new(10, 240, 1, host)
}

pub fn at(slot: u8) -> SlotAddress {
    SlotAddress::single(slot, address(slot))
}

/// The block that Azure gives a slot.
pub fn block(slot: u8) -> SlotAddress {
    SlotAddress::of(slot, std::net::Ipv4Addr::new(10, 241, slot / 16, slot % 16 * 16), Unit::Block28)
}

impl World {
    /// A node that has just joined, with these slots on its NIC.
    pub fn new(slots: &[u8]) -> Self {
        let mut config = AzureVnetConfig::new("default", AzureVnetConfigSpec::default());
        config.metadata.generation = Some(1);
        let network = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network";
        let azure = View {
            id: format!("{network}/networkInterfaces/nic").parse().unwrap(),
            mac: "00:0d:3a:00:00:01".into(),
            subnet: format!("{network}/virtualNetworks/v/subnets/nodes").parse().unwrap(),
            primary: "10.240.0.4".parse().unwrap(),
            slots: slots.iter().map(|&slot| (slot, Slot::Attached(address(slot), Unit::Address))).collect(),
            foreign: 1,
            foreign_ipv4: 1,
            state: State::Settled,
        };
        let node = NodeFacts {
            name: "n1".into(),
            uid: "node".into(),
            boot_id: "boot".into(),
            ready: Ready::True,
            cordoned: false,
            deleting: false,
            created: Timestamp::UNIX_EPOCH,
        };
        let observed = Observed {
            machine: Machine { uid: "node".into(), boot_id: "boot".into(), ..Machine::default() }.into(),
            node,
            object: None,
            nic: None,
            me: Leader { identity: "me".into(), nonce: "mine".into() },
            last: None,
            read_failure: None,
            exhausted: false,
            held: None,
            free: None,
            leaving: false,
            memory: Memory::default(),
        };
        Self {
            observed,
            policy: Policy::of(&config).unwrap(),
            now: Timestamp::from_second(1_000_000).unwrap(),
            azure,
            version: 0,
            events: vec![],
        }
    }

    /// A node whose pool is filled and whose agent reports that many in use.
    pub fn filled(slots: u8, used: u16) -> Self {
        let mut world = Self::new(&[]);
        world.create();
        for slot in 1..=slots {
            world.azure.slots.insert(slot, Slot::Attached(address(slot), Unit::Address));
        }
        let stored = world.stored();
        stored.spec.addresses = (1..=slots).map(at).collect();
        stored.spec.revision = 1;
        world.status().cloud = Some(Cloud { last_id: 1, ..Cloud::default() });
        world.observed.memory.calm_since = Some(world.now);
        world.report(used);
        world
    }

    pub fn stored(&mut self) -> &mut AzureVnetNode {
        Arc::make_mut(self.observed.object.as_mut().unwrap())
    }

    pub fn status(&mut self) -> &mut AzureVnetNodeStatus {
        self.stored().status.get_or_insert_default()
    }

    /// What a condition of the controller's says.
    pub fn condition(&self, kind: &str) -> Condition {
        status(self.observed.object.as_ref().unwrap()).conditions.iter().find(|condition| condition.type_ == kind).unwrap().clone()
    }

    pub fn spec(&self) -> &AzureVnetNodeSpec {
        &self.observed.object.as_ref().unwrap().spec
    }

    pub fn cloud(&self) -> Cloud {
        status(self.observed.object.as_ref().unwrap()).cloud.clone().unwrap_or_default()
    }

    pub fn agent(&mut self) -> &mut Agent {
        self.status().agent.as_mut().unwrap()
    }

    /// The agent adopts what is published and reports that demand.
    pub fn report(&mut self, demand: u16) {
        let revision = self.spec().revision;
        let agent = self.status().agent.get_or_insert_default();
        (agent.object_uid, agent.boot_id, agent.store_id) = ("object".into(), "boot".into(), "store".into());
        (agent.demand, agent.revision_adopted, agent.ready) = (demand, revision, true);
    }

    /// The agent sets aside what it is asked to, but for these slots.
    pub fn acknowledge(&mut self, refused: &[u8]) {
        let release = self.spec().release.clone();
        let revision = self.spec().revision;
        let agent = self.agent();
        agent.revision_adopted = revision;
        agent.release_acks = release
            .into_iter()
            .map(|release| {
                let (refused, quarantined): (Vec<_>, Vec<_>) = release.addresses.into_iter().partition(|at| refused.contains(&at.slot));
                agent.counts.quarantined = u16::try_from(quarantined.len()).unwrap();
                ReleaseAck { id: release.id, nonce: release.nonce, quarantined, refused }
            })
            .collect();
    }

    pub fn pass(&mut self, time: u64) {
        self.now = later(self.now, seconds(time));
    }

    pub fn read(&mut self) {
        self.pass(1);
        self.observed.nic = Some(NicRead { view: self.azure.clone().into(), at: self.now, ended: self.now });
    }

    pub fn decide(&self) -> Decision {
        decide(&self.observed, &self.policy, self.now)
    }

    /// The API server takes what was decided.
    pub fn store(&mut self, decision: &Decision) {
        self.events.extend(decision.events.iter().map(|event| event.reason));
        self.observed.memory = decision.memory.clone();
        if let Some(spec) = &decision.spec {
            let created = self.now;
            self.observed.object.get_or_insert_with(|| {
                let mut object = AzureVnetNode::new("n1", AzureVnetNodeSpec::default());
                (object.metadata.uid, object.metadata.creation_timestamp) = (Some("object".into()), Some(Time(created)));
                Arc::new(object)
            });
            let stored = self.stored();
            assert!(spec.revision >= stored.spec.revision);
            stored.spec = spec.clone();
        }
        if let Some(cloud) = &decision.cloud {
            let stored = self.status();
            let both = stored.cloud.as_ref().and_then(|old| Some((old.intent.as_ref()?, cloud.intent.as_ref()?)));
            assert!(both.is_none_or(|(old, new)| old == new), "i4: one intent at a time");
            stored.cloud = Some(cloud.clone());
            stored.conditions = decision.conditions.clone();
        }
    }

    /// A machine of a kind that takes blocks, whose config asks for them.
    pub fn with_blocks(mut self) -> Self {
        Arc::make_mut(&mut self.observed.machine).kind = MachineKind::Vm;
        self.policy.unit = Unit::Block28;
        self
    }

    pub fn create(&mut self) {
        let decision = self.decide();
        self.store(&decision);
    }

    /// Azure does what it was sent.
    pub fn apply(&mut self, change: &Change) {
        self.version += 1;
        for at in &change.remove {
            let there = [Slot::Attached(at.address, at.unit), Slot::Dropped(at.address, at.unit)];
            assert!(self.azure.slots.get(&at.slot).is_some_and(|slot| there.contains(slot)), "re2: only what was set aside goes");
            self.azure.slots.remove(&at.slot);
        }
        self.azure.slots.retain(|slot, _| !change.failed.contains(slot));
        for &slot in &change.add {
            let made = match change.unit {
                Unit::Address => Slot::Attached(address(slot), Unit::Address),
                Unit::Block28 => Slot::Attached(block(slot).address, Unit::Block28),
            };
            let standing = self.azure.slots.entry(slot).or_insert(made);
            if matches!(standing, Slot::Failed(_)) {
                *standing = made;
            }
        }
    }

    pub fn ended(&mut self, intent: u64, result: Result<(), Error>) {
        let failures = u32::from(result.is_err());
        self.observed.last = Some(Attempt { intent: Some(intent), at: self.now, result, failures });
    }

    /// Goes on until nothing is left to do at this moment.
    pub fn settle(&mut self) {
        for _ in 0..20 {
            let decision = self.decide();
            self.store(&decision);
            if let Some(send) = &decision.send {
                assert!(self.now < send.not_after, "i6: nothing is sent late");
                assert_eq!(self.cloud().intent.map(|intent| intent.id), Some(send.intent), "stored before it is sent");
                self.apply(&send.change.clone());
                self.ended(send.intent, Ok(()));
                self.pass(1);
            } else if decision.read {
                self.read();
            } else if decision.spec.is_none() && decision.cloud.is_none() {
                return;
            }
        }
        panic!("no rest: {:?}", self.decide());
    }
}

pub fn failure(class: Class, trace: Trace) -> Result<(), Error> {
    Err(Error { class, trace, status: None, code: "X".into(), message: "x".into(), request_id: None })
}

mod beginning;
mod blocks;
mod giving;
mod lagging;
mod reading;
mod taking;
