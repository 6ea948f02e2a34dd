//! From a Node's provider id to its machine, its NIC and its network, as Azure tells.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use azure_vnet_crds::{
    config::MasqueradeSpec,
    node::{Machine, MachineKind},
};
use azure_vnet_operator_core::{
    arm::{Class, Error, Read, ResourceId, Trace, Urgency},
    network::Network,
    nic::{Nic, View},
    provider::ProviderId,
};
use ipnet::Ipv4Net;
use serde_json::Value;
use tokio::time::Instant;

use super::kinds::Node;
use crate::azure::Arm;

/// Users change networks at any time; this is how long one may go unnoticed.
pub const NETWORK_AGE: Duration = Duration::from_mins(5);
/// How long one that lacks a node's subnet is taken for the truth: many nodes of a new subnet come at once, and one read serves them.
const LACKING_AGE: Duration = Duration::from_secs(15);
/// While one that is known serves, it is asked for once in this time, whoever asks and whatever comes of it.
const TURN: Duration = Duration::from_secs(30);

/// Where a machine's IP configurations are read and written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// An instance of a Uniform scale set.
    Instance(ResourceId),
    /// A NIC of its own, of a member of a Flexible scale set or of a stand-alone VM.
    Whole(ResourceId, MachineKind),
}

/// Asks Azure about machines and remembers networks.
pub struct Machines<A> {
    arm: Arc<A>,
    /// By network; by subnet where the network may not be read.
    networks: Mutex<BTreeMap<String, (Instant, Arc<Network>)>>,
    /// By network or subnet: when and why it could not be read.
    refusals: Mutex<BTreeMap<String, (Instant, Error)>>,
    /// By network or subnet: when a new copy was last asked for while the old one served.
    asked: Mutex<BTreeMap<String, Instant>>,
}

impl<A: Arm> Machines<A> {
    /// One that knows nothing yet.
    pub fn new(arm: Arc<A>) -> Self {
        Self { arm, networks: Mutex::default(), refusals: Mutex::default(), asked: Mutex::default() }
    }

    /// Finds where a machine is written. It does not change as long as the machine runs.
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

    /// All that the node's object says of its machine. Where neither network nor subnet may be read, the config's spaces that hold the primary address
    /// have to do, and the agent finds the prefix in its kernel.
    ///
    /// # Errors
    /// Azure's, or that of a network without the NIC's subnet.
    pub async fn describe(&self, node: &Node, target: &Target, view: &View, config: &MasqueradeSpec) -> Result<Machine, Error> {
        let (prefix, spaces) = if let Some(network) = self.network(&view.subnet).await? {
            let prefix = network.subnet(&view.subnet).and_then(|subnet| subnet.prefix(view.primary));
            let prefix = prefix.ok_or_else(|| unusable(&view.subnet, "a prefix with the primary address"))?;
            (prefix.to_string(), network.spaces(config.discover_peerings))
        } else {
            let known = config.non_masquerade_cidrs.iter().filter_map(|text| text.parse().ok());
            (String::new(), known.filter(|space: &Ipv4Net| space.contains(&view.primary)).collect())
        };
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
            subnet_prefix: prefix,
            primary_address: view.primary.to_string(),
            vnet_cidrs: spaces.iter().map(ToString::to_string).collect(),
        })
    }

    /// What is known of a subnet's network.
    pub fn network_of(&self, subnet: &ResourceId) -> Option<Arc<Network>> {
        let known = |id: &ResourceId| self.known(id).map(|(_, network)| network).filter(|network| network.subnet(subnet).is_some());
        subnet.parent().and_then(|network| known(&network)).or_else(|| known(subnet))
    }

    /// Why the network of a subnet cannot be read, if it cannot.
    pub fn refusal(&self, subnet: &str) -> Option<Error> {
        let network = subnet.parse::<ResourceId>().ok()?.parent()?;
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner).get(&network.key()).map(|(_, error)| error.clone())
    }

    /// The network of a subnet, at most five minutes old; older while one asks for all or Azure does not answer, younger if it lacks the subnet, which may have been made since.
    /// Where it may not be read, its subnet alone; where that may not be read either, none: a new node must not wait for a right that only its
    /// masquerading needs.
    async fn network(&self, subnet: &ResourceId) -> Result<Option<Arc<Network>>, Error> {
        let id = subnet.parent().ok_or_else(|| unusable(subnet, "a virtual network"))?;
        let whole = self.known(&id);
        let has_it = |network: &Arc<Network>| network.subnet(subnet).is_some();
        let age = |network: &Arc<Network>| if has_it(network) { NETWORK_AGE } else { LACKING_AGE };
        if let Some((_, network)) = whole.as_ref().filter(|(at, network)| at.elapsed() < age(network)) {
            return Ok(Some(Arc::clone(network)));
        }
        let whole = whole.map(|(_, network)| network).filter(has_it);
        if whole.is_some() && !self.takes_turn(&id) {
            return Ok(whole);
        }
        if self.is_refused(&id) {
            return if whole.is_some() { Ok(whole) } else { self.alone(subnet).await };
        }
        match self.arm.read(&Read::Network(id.clone()), Urgency::Fill).await {
            Ok(document) => {
                self.refusals.lock().unwrap_or_else(PoisonError::into_inner).remove(&id.key());
                let network = Network::parse(&document.body).ok_or_else(|| unusable(&id, "an address space"))?;
                Ok(Some(self.keep(&id, network)))
            }
            Err(error) => {
                tracing::warn!(network = %id, "cannot read the network: {error}. {}", error.remedy());
                let refused = self.refuse(&id, &error);
                match whole.or_else(|| self.known(subnet).filter(|_| !refused).map(|(_, alone)| alone)) {
                    Some(network) => Ok(Some(network)),
                    None if refused => self.alone(subnet).await,
                    None => Err(error),
                }
            }
        }
    }

    /// The subnet alone, for a network that may not be read.
    async fn alone(&self, id: &ResourceId) -> Result<Option<Arc<Network>>, Error> {
        let known = self.known(id);
        let fresh = known.as_ref().is_some_and(|(at, _)| at.elapsed() < NETWORK_AGE);
        let known = known.map(|(_, network)| network);
        if fresh || self.is_refused(id) || known.is_some() && !self.takes_turn(id) {
            return Ok(known);
        }
        match self.arm.read(&Read::Subnet(id.clone()), Urgency::Fill).await {
            Ok(document) => Ok(Some(self.keep(id, Network::of_subnet(id, &document.body)))),
            Err(error) if self.refuse(id, &error) || known.is_some() => Ok(known),
            Err(error) => Err(error),
        }
    }

    /// Whether it is the caller who asks for a new copy. The others go on with the old one: hundreds may find it old at once, and must not all wait.
    fn takes_turn(&self, id: &ResourceId) -> bool {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = asked.get(&id.key()).is_none_or(|at| at.elapsed() >= TURN);
        if is_due {
            asked.insert(id.key(), Instant::now());
        }
        is_due
    }

    /// Whether reading it was lately refused.
    fn is_refused(&self, id: &ResourceId) -> bool {
        let refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        refusals.get(&id.key()).is_some_and(|(at, _)| at.elapsed() < NETWORK_AGE)
    }

    /// Notes an error that asking again soon will not mend; answers whether it is one.
    fn refuse(&self, id: &ResourceId, error: &Error) -> bool {
        let refused = is_refusal(error);
        if refused {
            self.refusals.lock().unwrap_or_else(PoisonError::into_inner).insert(id.key(), (Instant::now(), error.clone()));
        }
        refused
    }

    fn known(&self, id: &ResourceId) -> Option<(Instant, Arc<Network>)> {
        self.networks.lock().unwrap_or_else(PoisonError::into_inner).get(&id.key()).cloned()
    }

    fn keep(&self, id: &ResourceId, network: Network) -> Arc<Network> {
        let network = Arc::new(network);
        self.networks.lock().unwrap_or_else(PoisonError::into_inner).insert(id.key(), (Instant::now(), Arc::clone(&network)));
        network
    }
}

/// Whether asking again soon is of no use.
pub fn is_refusal(error: &Error) -> bool {
    match &error.class {
        Class::Forbidden { .. } | Class::Locked | Class::Gone | Class::Rejected => true,
        Class::Throttled { .. }
        | Class::Busy { .. }
        | Class::Stale
        | Class::Superseded
        | Class::Unauthenticated
        | Class::SubnetFull
        | Class::Unavailable { .. }
        | Class::Failed
        | Class::NotSent => false,
    }
}

fn primary_nic(vm: &Value) -> Option<ResourceId> {
    let nics = vm.pointer("/properties/networkProfile/networkInterfaces").and_then(Value::as_array)?;
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
    use std::net::Ipv4Addr;

    use azure_vnet_operator_core::arm::{Document, Write};
    use serde_json::json;

    use super::*;

    const NETWORK: &str = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/v";

    #[derive(Default)]
    struct Fake {
        /// Whether nothing is answered at all.
        away: std::sync::atomic::AtomicBool,
        documents: Mutex<BTreeMap<String, Value>>,
        reads: Mutex<Vec<String>>,
    }

    impl Arm for Fake {
        async fn read(&self, read: &Read, _: Urgency) -> Result<Document, Error> {
            let path = read.path();
            self.reads.lock().unwrap().push(read.op().into());
            if self.away.load(std::sync::atomic::Ordering::Relaxed) {
                return Err(Error::from_answer(503, None, b"{}"));
            }
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
            foreign_ipv4: 1,
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
        let machine = machines.describe(&node, &target, &view(), &MasqueradeSpec::default()).await.unwrap();
        assert_eq!(machine.vnet_cidrs, ["10.50.0.0/16", "10.51.0.0/16", "10.240.0.0/16"]);
        assert_eq!((machine.subnet_prefix.as_str(), machine.kind), ("10.240.0.0/17", MachineKind::Vm));
        let alone = MasqueradeSpec { discover_peerings: false, ..MasqueradeSpec::default() };
        assert_eq!(machines.describe(&node, &target, &view(), &alone).await.unwrap().vnet_cidrs, ["10.240.0.0/16"]);
        machines.describe(&node, &target, &view(), &MasqueradeSpec::default()).await.unwrap();
        assert_eq!(machines.arm.reads.lock().unwrap().len(), 1);
        machines.arm.documents.lock().unwrap().clear();
        tokio::time::advance(NETWORK_AGE).await;
        assert_eq!(
            machines.describe(&node, &target, &view(), &MasqueradeSpec::default()).await.unwrap(),
            machine,
            "refused meanwhile: what was known stays"
        );
        assert_eq!(machines.arm.reads.lock().unwrap().len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_subnet_that_was_made_just_now_is_found_and_many_nodes_in_one_that_is_none_ask_rarely() {
        let target = Target::Whole("/subscriptions/s/nic".parse().unwrap(), MachineKind::Vm);
        let (node, masquerade) = (Node::default(), MasqueradeSpec::default());
        let new = View { subnet: format!("{NETWORK}/subnets/new").parse().unwrap(), primary: Ipv4Addr::new(10, 240, 200, 4), ..view() };
        let machines = machines(&[(NETWORK, network())]);
        machines.describe(&node, &target, &view(), &masquerade).await.unwrap();
        tokio::time::advance(LACKING_AGE).await;
        let mut grown = network();
        let subnet = json!({"id": new.subnet.to_string(), "properties": {"addressPrefix": "10.240.200.0/24"}});
        grown["properties"]["subnets"].as_array_mut().unwrap().push(subnet);
        machines.arm.documents.lock().unwrap().insert(NETWORK.into(), grown);
        assert_eq!(machines.describe(&node, &target, &new, &masquerade).await.unwrap().subnet_prefix, "10.240.200.0/24");
        assert!(machines.network_of(&new.subnet).is_some());
        assert_eq!(machines.arm.reads.lock().unwrap().len(), 2);
        let nowhere = View { subnet: format!("{NETWORK}/subnets/nowhere").parse().unwrap(), ..view() };
        for _ in 0..100 {
            assert_eq!(machines.describe(&node, &target, &nowhere, &masquerade).await.unwrap_err().class, Class::Rejected);
        }
        assert_eq!(machines.arm.reads.lock().unwrap().len(), 2, "what was read just now is the truth");
    }

    #[tokio::test(start_paused = true)]
    async fn another_subnet_of_a_network_that_may_not_be_read_is_asked_for_itself() {
        let target = Target::Whole("/subscriptions/s/nic".parse().unwrap(), MachineKind::Vm);
        let (node, masquerade) = (Node::default(), MasqueradeSpec::default());
        let subnet = |name: &str| format!("{NETWORK}/subnets/{name}");
        let (nodes, new) = (subnet("nodes"), subnet("new"));
        let body = |prefix: &str| json!({"properties": {"addressPrefix": prefix}});
        let machines = machines(&[(&nodes, body("10.240.0.0/20")), (&new, body("10.241.0.0/20"))]);
        for (id, prefix) in [(&nodes, "10.240.0.0/20"), (&new, "10.241.0.0/20"), (&new, "10.241.0.0/20")] {
            let primary = prefix.split('/').next().unwrap().parse().unwrap();
            let view = View { subnet: id.parse().unwrap(), primary, ..view() };
            assert_eq!(machines.describe(&node, &target, &view, &masquerade).await.unwrap().subnet_prefix, prefix);
        }
        assert_eq!(*machines.arm.reads.lock().unwrap(), ["get_network", "get_subnet", "get_subnet"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_subnet_that_is_known_alone_serves_while_azure_does_not_answer() {
        let subnet = format!("{NETWORK}/subnets/nodes");
        let target = Target::Whole("/subscriptions/s/nic".parse().unwrap(), MachineKind::Vm);
        let (node, masquerade) = (Node::default(), MasqueradeSpec::default());
        let machines = machines(&[(&subnet, json!({"properties": {"addressPrefix": "10.240.0.0/20"}}))]);
        let machine = machines.describe(&node, &target, &view(), &masquerade).await.unwrap();
        machines.arm.away.store(true, std::sync::atomic::Ordering::Relaxed);
        tokio::time::advance(NETWORK_AGE).await;
        machines.arm.reads.lock().unwrap().clear();
        assert_eq!(machines.describe(&node, &target, &view(), &masquerade).await, Ok(machine));
        assert_eq!(*machines.arm.reads.lock().unwrap(), ["get_network"], "who does not answer one request is not sent another");
    }

    #[tokio::test(start_paused = true)]
    async fn one_asks_for_a_network_that_is_old_and_all_others_go_on_with_what_is_known() {
        let machines = machines(&[(NETWORK, network())]);
        let target = Target::Whole("/subscriptions/s/nic".parse().unwrap(), MachineKind::Vm);
        let (node, masquerade) = (Node::default(), MasqueradeSpec::default());
        let machine = machines.describe(&node, &target, &view(), &masquerade).await.unwrap();
        machines.arm.away.store(true, std::sync::atomic::Ordering::Relaxed);
        tokio::time::advance(NETWORK_AGE).await;
        machines.arm.reads.lock().unwrap().clear();
        for round in 1..=3 {
            for _ in 0..100 {
                assert_eq!(machines.describe(&node, &target, &view(), &masquerade).await.as_ref(), Ok(&machine));
            }
            assert_eq!(machines.arm.reads.lock().unwrap().len(), round);
            tokio::time::advance(TURN).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_network_that_may_not_be_read_holds_no_node_back() {
        let subnet = format!("{NETWORK}/subnets/nodes");
        let target = Target::Whole("/subscriptions/s/nic".parse().unwrap(), MachineKind::Vm);
        let known =
            MasqueradeSpec { non_masquerade_cidrs: vec!["10.240.0.0/14".into(), "10.99.0.0/16".into()], ..MasqueradeSpec::default() };
        let node = Node::default();
        let one = machines(&[(&subnet, json!({"properties": {"addressPrefix": "10.240.0.0/20"}}))]);
        let machine = one.describe(&node, &target, &view(), &known).await.unwrap();
        assert_eq!(
            (machine.subnet_prefix.as_str(), machine.vnet_cidrs.as_slice()),
            ("10.240.0.0/20", ["10.240.0.0/20".to_owned()].as_slice())
        );
        assert!(matches!(one.refusal(&subnet).unwrap().class, Class::Forbidden { .. }));
        one.describe(&node, &target, &view(), &known).await.unwrap();
        assert_eq!(*one.arm.reads.lock().unwrap(), ["get_network", "get_subnet"], "not asked again at once");
        one.arm.documents.lock().unwrap().insert(NETWORK.into(), network());
        tokio::time::advance(NETWORK_AGE).await;
        assert_eq!(one.describe(&node, &target, &view(), &known).await.unwrap().vnet_cidrs.len(), 3);
        assert_eq!(one.refusal(&subnet), None);

        let refused = machines(&[]);
        let machine = refused.describe(&node, &target, &view(), &known).await.unwrap();
        assert_eq!((machine.subnet_prefix.as_str(), machine.vnet_cidrs.as_slice()), ("", ["10.240.0.0/14".to_owned()].as_slice()));
    }
}
