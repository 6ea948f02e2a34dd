use azure_vnet_crds::{
    AzureVnetConfig, AzureVnetConfigSpec, AzureVnetNodeStatus,
    node::{Agent, ReleaseAck},
};
use serde_json::json;

use super::*;
use crate::{arm::Document, decide::Ready};

/// A node whose agent answers a release between the two writes of the pass that asks for it.
struct Race {
    object: AzureVnetNode,
    now: Timestamp,
    conflicts: u32,
    told: Vec<&'static str>,
}

impl Race {
    fn new() -> Self {
        let mut object = AzureVnetNode::new("n", AzureVnetNodeSpec::default());
        object.metadata.uid = Some("object".into());
        object.metadata.resource_version = Some("1".into());
        object.spec.revision = 1;
        object.spec.addresses = (1..=12).map(|slot| format!("{slot}/10.0.0.{slot}").parse().unwrap()).collect();
        let agent = Agent { object_uid: "object".into(), boot_id: "boot".into(), revision_adopted: 1, ready: true, ..Agent::default() };
        object.status = Some(AzureVnetNodeStatus { agent: Some(agent), ..AzureVnetNodeStatus::default() });
        Self { object, now: Timestamp::from_second(1_000_000).unwrap(), conflicts: 0, told: vec![] }
    }

    fn touch(&mut self) {
        let version = &mut self.object.metadata.resource_version;
        *version = version.take().map(|text| (text.parse::<u64>().unwrap() + 1).to_string());
    }

    /// The agent sets aside what it is asked to.
    fn acknowledge(&mut self) {
        let acks = self.object.spec.release.iter().map(|release| ReleaseAck {
            id: release.id,
            nonce: release.nonce.clone(),
            quarantined: release.addresses.clone(),
            refused: vec![],
        });
        let acks: Vec<ReleaseAck> = acks.collect();
        let agent = self.object.status.as_mut().unwrap().agent.as_mut().unwrap();
        (agent.revision_adopted, agent.release_acks) = (self.object.spec.revision, acks);
        self.touch();
    }

    /// One pass, whose writes of a new release's status come too late. What is known then.
    fn pass(&mut self, subject: &Subject<'_>, known: Known, writes: &mut Vec<Send>) -> Known {
        let mut pass = Pass::new(subject.clone(), known.renewed(subject, Some(Arc::new(self.object.clone()))));
        loop {
            let present = Present {
                now: self.now,
                nonce: Some("term"),
                draw: "drawn",
                exhausted: &|_| false,
                wait: &|_, _| None,
                free: &|_| None,
                leaving: false,
            };
            let effect = match pass.next(&present) {
                Continue(effect) => effect,
                Break(End::Rest(_)) => return pass.into_known(),
                Break(end) => panic!("{end:?}"),
            };
            match effect {
                Effect::ReadObject => pass.object_read(Some(Arc::new(self.object.clone()))),
                Effect::WriteSpec(spec) => {
                    let asks = spec.release.len() > self.object.spec.release.len();
                    self.object.spec = *spec;
                    self.touch();
                    pass.written(Some(Arc::new(self.object.clone())));
                    if asks {
                        self.acknowledge();
                    }
                }
                Effect::WriteStatus(..) if pass.known().object.as_ref().unwrap().metadata != self.object.metadata => {
                    self.conflicts += 1;
                    pass.written(None);
                }
                Effect::WriteStatus(cloud, conditions) => {
                    let status = self.object.status.as_mut().unwrap();
                    (status.cloud, status.conditions) = (Some(*cloud), conditions);
                    self.touch();
                    pass.written(Some(Arc::new(self.object.clone())));
                }
                Effect::ReadNic(_) => pass.nic_read(self.now, Ok(nic()), self.now),
                Effect::Send(send) => {
                    writes.push(send);
                    return pass.into_known();
                }
                Effect::Tell(events) => self.told.extend(events.iter().map(|event| event.reason)),
                Effect::Delete => panic!("nothing is to be deleted"),
            }
            self.now = self.now.saturating_add(Duration::from_millis(10)).unwrap();
        }
    }
}

fn nic() -> (Nic, Machine) {
    let configuration = |name: String, address: String| {
        json!({"name": name, "properties": {"provisioningState": "Succeeded", "privateIPAddress": address, "primary": address == "10.0.0.254",
            "subnet": {"id": "/subscriptions/s/subnets/x"}}})
    };
    let ours = (1..=12).map(|slot| configuration(format!("avn-{slot}"), format!("10.0.0.{slot}")));
    let list: Vec<_> = [configuration("ipconfig1".into(), "10.0.0.254".into())].into_iter().chain(ours).collect();
    let body = json!({"name": "nic", "id": "/subscriptions/s/nic", "etag": "W/\"1\"",
        "properties": {"provisioningState": "Succeeded", "ipConfigurations": list}});
    (Nic::whole(Document { body, etag: None }).unwrap(), Machine { uid: "node".into(), ..Machine::default() })
}

#[test]
fn re1_a_release_stands_though_the_agent_answers_it_before_the_status_is_written() {
    let mut config = AzureVnetConfig::new("default", AzureVnetConfigSpec::default());
    config.metadata.generation = Some(1);
    let policy = Policy::of(&config).unwrap();
    let (ready, created) = (Ready::True, jiff::Timestamp::UNIX_EPOCH);
    let node = NodeFacts { name: "n".into(), uid: "node".into(), boot_id: "boot".into(), ready, cordoned: false, deleting: false, created };
    let me = Leader { identity: "me".into(), nonce: "term".into() };
    let subject = Subject { node, provider_id: "azure:///x", policy: &policy, me };
    let (mut race, mut writes) = (Race::new(), vec![]);
    let known = race.pass(&subject, Known::default(), &mut writes);
    race.acknowledge();
    race.now = race.now.saturating_add(Duration::from_hours(1)).unwrap();
    race.pass(&subject, known, &mut writes);
    assert_eq!(race.conflicts, 1, "the agent was quicker");
    assert_eq!(race.told, ["ReleaseRequested"], "what the spec says is told though the status comes too late");
    assert_eq!(writes.iter().map(|send| send.change.remove.len()).collect::<Vec<_>>(), [4], "what is set aside goes");
}
