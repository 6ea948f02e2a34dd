//! From a Node's provider id to its machine, its NIC and its network, as Azure tells.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use azure_vnet_crds::node::{Machine, MachineKind};
use azure_vnet_operator_core::{
    arm::{Class, Error, Read, ResourceId, Trace, Urgency},
    nic::{Nic, View},
    provider::ProviderId,
};
use ipnet::Ipv4Net;
use serde_json::Value;
use tokio::time::Instant;

use super::kinds::Node;
use crate::azure::Arm;

/// Users change networks at any time; this is how long one may go unnoticed.
const NETWORK_AGE: Duration = Duration::from_mins(5);

/// Where a machine's IP configurations are read and written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// An instance of a Uniform scale set.
    Instance(ResourceId),
    /// A NIC of its own, of a member of a Flexible scale set or of a stand-alone VM.
    Whole(ResourceId, MachineKind),
}

/// A virtual network, as far as nodes need it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Network {
    /// Its own spaces and those of connected peers.
    spaces: Vec<Ipv4Net>,
    /// Prefixes by subnet.
    subnets: Vec<(ResourceId, Vec<Ipv4Net>)>,
}

/// Asks Azure about machines and remembers networks.
pub struct Machines<A> {
    arm: Arc<A>,
    networks: Mutex<BTreeMap<String, (Instant, Arc<Network>)>>,
}

impl<A: Arm> Machines<A> {
    /// One that knows nothing yet.
    pub fn new(arm: Arc<A>) -> Self {
        Self { arm, networks: Mutex::default() }
    }

    /// Finds where a machine is written. It never changes during a machine's life.
    ///
    /// # Errors
    /// Azure's, or the description of a VM without a usable NIC.
    pub async fn target(&self, id: &ProviderId) -> Result<Target, Error> {
        match id {
            ProviderId::Uniform { instance } => Ok(Target::Instance(instance.clone())),
            ProviderId::Machine { vm } => {
                let document = self.arm.read(&Read::Machine(vm.clone()), Urgency::Fill).await?;
                let member = document.body.pointer("/properties/virtualMachineScaleSet/id").is_some_and(Value::is_string);
                let kind = if member { MachineKind::VmssFlex } else { MachineKind::Vm };
                primary_nic(&document.body).map(|nic| Target::Whole(nic, kind)).ok_or_else(|| unusable(vm, "a primary network interface"))
            }
        }
    }

    /// Reads the NIC, anew.
    ///
    /// # Errors
    /// Azure's, or that of a document which is not understood.
    pub async fn nic(&self, target: &Target, urgency: Urgency) -> Result<Nic, Error> {
        let read = match target {
            Target::Whole(nic, _) => Nic::whole(self.arm.read(&Read::Nic(nic.clone()), urgency).await?),
            Target::Instance(id) => {
                // The model first: what it wants and the NICs do not show yet counts as under way.
                let model = self.arm.read(&Read::Instance(id.clone()), urgency).await?;
                let nics = self.arm.read(&Read::InstanceNics(id.clone()), urgency).await?;
                Nic::instance(&model, &nics)
            }
        };
        read.map_err(|error| rejected(error.to_string()))
    }

    /// All that the node's object says of its machine.
    ///
    /// # Errors
    /// Azure's, or that of a network without the NIC's subnet.
    pub async fn describe(&self, node: &Node, target: &Target, view: &View) -> Result<Machine, Error> {
        let network = self.network(&view.subnet).await?;
        let prefix =
            network.prefix(&view.subnet, view.primary).ok_or_else(|| unusable(&view.subnet, "a prefix with the primary address"))?;
        Ok(Machine {
            uid: node.uid().to_owned(),
            boot_id: node.status.node_info.boot_id.clone(),
            provider_id: node.spec.provider_id.clone(),
            kind: match target {
                Target::Instance(_) => MachineKind::VmssUniform,
                Target::Whole(_, kind) => *kind,
            },
            nic_id: view.id.to_string(),
            mac: view.mac.clone(),
            subnet_id: view.subnet.to_string(),
            subnet_prefix: prefix.to_string(),
            primary_address: view.primary.to_string(),
            vnet_cidrs: network.spaces.iter().map(ToString::to_string).collect(),
        })
    }

    /// The network of a subnet, at most five minutes old; older if Azure does not answer.
    async fn network(&self, subnet: &ResourceId) -> Result<Arc<Network>, Error> {
        let id = subnet.parent().ok_or_else(|| unusable(subnet, "a virtual network"))?;
        let known = self.networks.lock().unwrap_or_else(PoisonError::into_inner).get(&id.key()).cloned();
        if let Some((at, network)) = &known
            && at.elapsed() < NETWORK_AGE
        {
            return Ok(Arc::clone(network));
        }
        let asked = Instant::now();
        let network = match (self.arm.read(&Read::Network(id.clone()), Urgency::Fill).await, known) {
            (Ok(document), _) => Arc::new(Network::parse(&document.body).ok_or_else(|| unusable(&id, "an address space"))?),
            (Err(error), Some((_, network))) => {
                tracing::warn!(network = %id, "using what was last read of the network: {error}");
                network
            }
            (Err(error), None) => return Err(error),
        };
        self.networks.lock().unwrap_or_else(PoisonError::into_inner).insert(id.key(), (asked, Arc::clone(&network)));
        Ok(network)
    }
}

impl Network {
    fn parse(body: &Value) -> Option<Self> {
        let mut spaces = prefixes(body.pointer("/properties/addressSpace/addressPrefixes")?);
        for peering in list(body, "/properties/virtualNetworkPeerings") {
            let connected =
                peering.pointer("/properties/peeringState").and_then(Value::as_str).is_some_and(|s| s.eq_ignore_ascii_case("Connected"));
            // As last synchronised and as of now: both may be in use.
            for space in ["remoteAddressSpace", "remoteVirtualNetworkAddressSpace"] {
                let space = peering.pointer(&format!("/properties/{space}/addressPrefixes"));
                spaces.extend(space.filter(|_| connected).map(prefixes).unwrap_or_default());
            }
        }
        spaces.sort_unstable();
        spaces.dedup();
        let subnets = list(body, "/properties/subnets").filter_map(|subnet| {
            let id = subnet.get("id")?.as_str()?.parse().ok()?;
            let one = subnet.pointer("/properties/addressPrefix").and_then(Value::as_str).and_then(|text| text.parse().ok());
            let many = subnet.pointer("/properties/addressPrefixes").map(prefixes).unwrap_or_default();
            Some((id, one.into_iter().chain(many).collect()))
        });
        Some(Self { subnets: subnets.collect(), spaces })
    }

    fn prefix(&self, subnet: &ResourceId, primary: Ipv4Addr) -> Option<Ipv4Net> {
        let (_, prefixes) = self.subnets.iter().find(|(id, _)| id == subnet)?;
        prefixes.iter().find(|prefix| prefix.contains(&primary)).copied()
    }
}

fn list<'a>(body: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    body.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

/// IPv4 prefixes; those of IPv6 are passed over.
fn prefixes(list: &Value) -> Vec<Ipv4Net> {
    list.as_array().into_iter().flatten().filter_map(|text| text.as_str()?.parse().ok()).collect()
}

fn primary_nic(vm: &Value) -> Option<ResourceId> {
    let nics: Vec<&Value> = list(vm, "/properties/networkProfile/networkInterfaces").collect();
    let primary = nics.iter().find(|nic| nics.len() == 1 || nic.pointer("/properties/primary") == Some(&Value::Bool(true)))?;
    primary.get("id")?.as_str()?.parse().ok()
}

fn unusable(id: &ResourceId, what: &str) -> Error {
    rejected(format!("{id} has no {what}"))
}

fn rejected(message: String) -> Error {
    Error { class: Class::Rejected, trace: Trace::None, status: None, code: "NotUnderstood".into(), message, request_id: None }
}

#[cfg(test)]
mod tests {
    use azure_vnet_operator_core::arm::{Document, Write};
    use serde_json::json;

    use super::*;

    const NETWORK: &str = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/v";

    #[derive(Default)]
    struct Fake {
        documents: Mutex<BTreeMap<String, Value>>,
        reads: Mutex<Vec<String>>,
    }

    impl Arm for Fake {
        async fn read(&self, read: &Read, _: Urgency) -> Result<Document, Error> {
            let path = read.path();
            self.reads.lock().unwrap().push(read.op().into());
            let body = self.documents.lock().unwrap().get(path.split('?').next().unwrap()).cloned();
            body.map(|body| Document { body, etag: None })
                .ok_or_else(|| Error::from_answer(403, None, br#"{"error": {"code": "AuthorizationFailed", "message": "no"}}"#))
        }
        async fn write(&self, _: &Write, _: Urgency, _: &(dyn Fn() -> bool + Send + Sync)) -> Result<(), Error> {
            unreachable!("describing writes nothing")
        }
    }

    fn machines(documents: &[(&str, Value)]) -> Machines<Fake> {
        let documents = documents.iter().map(|(id, body)| ((*id).to_owned(), body.clone())).collect();
        Machines::new(Arc::new(Fake { documents: Mutex::new(documents), ..Fake::default() }))
    }

    fn network() -> Value {
        let peering = |state: &str, old: &str, new: &str| {
            json!({"properties": {"peeringState": state, "remoteAddressSpace": {"addressPrefixes": [old]},
                "remoteVirtualNetworkAddressSpace": {"addressPrefixes": [new]}}})
        };
        json!({"properties": {"addressSpace": {"addressPrefixes": ["10.240.0.0/16", "fd00::/48"]},
            "subnets": [{"id": format!("{NETWORK}/subnets/Nodes"), "properties": {"addressPrefixes": ["10.240.128.0/17", "10.240.0.0/17"]}}],
            "virtualNetworkPeerings": [peering("Connected", "10.50.0.0/16", "10.51.0.0/16"), peering("Disconnected", "10.60.0.0/16", "10.60.0.0/16")]}})
    }

    fn view() -> View {
        View {
            id: "/subscriptions/s/nic".parse().unwrap(),
            mac: "00:0d:3a:00:00:01".into(),
            subnet: format!("{NETWORK}/subnets/nodes").parse().unwrap(),
            primary: Ipv4Addr::new(10, 240, 0, 4),
            slots: BTreeMap::new(),
            foreign: 1,
            state: azure_vnet_operator_core::nic::State::Settled,
        }
    }

    fn vm(flex: bool) -> Value {
        let nic = |name: &str, primary: bool| json!({"id": format!("/subscriptions/s/{name}"), "properties": {"primary": primary}});
        let mut vm = json!({"properties": {"networkProfile": {"networkInterfaces": [nic("a", false), nic("b", true)]}}});
        if flex {
            vm["properties"]["virtualMachineScaleSet"] = json!({"id": "/subscriptions/s/flex"});
        }
        vm
    }

    #[tokio::test]
    async fn a_vm_leads_to_its_primary_nic_and_a_uniform_instance_to_itself() {
        let machine = |vm: &str| ProviderId::Machine { vm: vm.parse().unwrap() };
        let machines =
            machines(&[("/subscriptions/s/vm", vm(false)), ("/subscriptions/s/flexible", vm(true)), ("/subscriptions/s/bare", json!({}))]);
        let nic: ResourceId = "/subscriptions/s/b".parse().unwrap();
        assert_eq!(machines.target(&machine("/subscriptions/s/vm")).await, Ok(Target::Whole(nic.clone(), MachineKind::Vm)));
        assert_eq!(machines.target(&machine("/subscriptions/s/flexible")).await, Ok(Target::Whole(nic, MachineKind::VmssFlex)));
        assert_eq!(machines.target(&machine("/subscriptions/s/bare")).await.unwrap_err().class, Class::Rejected);
        assert!(matches!(machines.target(&machine("/subscriptions/s/none")).await.unwrap_err().class, Class::Forbidden { .. }));
        let instance: ResourceId = "/subscriptions/s/0".parse().unwrap();
        assert_eq!(machines.target(&ProviderId::Uniform { instance: instance.clone() }).await, Ok(Target::Instance(instance)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_network_is_read_once_in_five_minutes_and_counts_connected_peers_only() {
        let machines = machines(&[(NETWORK, network())]);
        let target = Target::Whole("/subscriptions/s/nic".parse().unwrap(), MachineKind::Vm);
        let node = Node::default();
        let machine = machines.describe(&node, &target, &view()).await.unwrap();
        assert_eq!(machine.vnet_cidrs, ["10.50.0.0/16", "10.51.0.0/16", "10.240.0.0/16"]);
        assert_eq!((machine.subnet_prefix.as_str(), machine.kind), ("10.240.0.0/17", MachineKind::Vm));
        machines.describe(&node, &target, &view()).await.unwrap();
        assert_eq!(machines.arm.reads.lock().unwrap().len(), 1);
        machines.arm.documents.lock().unwrap().clear();
        tokio::time::advance(NETWORK_AGE).await;
        assert_eq!(machines.describe(&node, &target, &view()).await.unwrap(), machine, "refused meanwhile: what was known stays");
        assert_eq!(machines.arm.reads.lock().unwrap().len(), 2);
    }
}
