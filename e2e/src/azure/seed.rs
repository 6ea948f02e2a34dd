//! What the emulated cloud holds at its start: networks, machines, who may log in. It builds descriptions; the cloud makes resources of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::fabric::Mac;

/// The subscription of the lab.
pub const SUBSCRIPTION: &str = "00000000-0000-0000-0000-00000000000a";
/// Another subscription, for clouds of several.
pub const OTHER_SUBSCRIPTION: &str = "00000000-0000-0000-0000-00000000000b";
/// The directory (tenant) of the lab.
pub const TENANT: &str = "00000000-0000-0000-0000-0000000000ee";
/// Client id of the operator's own identity: workload identity and client secret.
pub const OPERATOR_CLIENT_ID: &str = "00000000-0000-0000-0000-0000000000c1";
/// Client id of the identity that is assigned to every machine (managed identity).
pub const NODE_CLIENT_ID: &str = "00000000-0000-0000-0000-0000000000c2";
/// The secret that the operator's identity also accepts.
pub const CLIENT_SECRET: &str = "not-a-secret-of-the-lab";
/// The resource group of machines and NICs.
pub const NODE_GROUP: &str = "MC_lab";
/// The resource group of the virtual network.
pub const NETWORK_GROUP: &str = "lab-net";
/// The region.
pub const LOCATION: &str = "westeurope";

/// The first state of the cloud.
#[derive(Debug, Clone)]
pub struct Seed {
    /// The subscriptions that there are.
    pub subscriptions: BTreeSet<String>,
    /// The region of all resources.
    pub location: String,
    /// Virtual networks with subnets and peerings.
    pub vnets: Vec<VnetSeed>,
    /// Machines with one NIC each.
    pub machines: Vec<MachineSeed>,
    /// Identities that get tokens.
    pub directory: Directory,
}

/// A virtual network.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VnetSeed {
    /// The subscription.
    pub subscription: String,
    /// The resource group.
    pub group: String,
    /// The name.
    pub name: String,
    /// Address prefixes.
    pub prefixes: Vec<Ipv4Net>,
    /// Subnets: name and prefix.
    pub subnets: BTreeMap<String, Ipv4Net>,
    /// Connected peerings: name, and the remote network's name (same group) or id, and prefixes.
    pub peerings: BTreeMap<String, (String, Vec<Ipv4Net>)>,
}

/// A machine and its NIC.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MachineSeed {
    /// The computer name, which is the node's name.
    pub node: String,
    /// The subscription: also that of its subnet, as Azure has it.
    pub subscription: String,
    /// The resource group.
    pub group: String,
    /// How the machine is managed.
    pub kind: MachineKind,
    /// Hardware address of its NIC.
    pub mac: Mac,
    /// Primary address; absent: the subnet's lowest free one.
    pub address: Option<Ipv4Addr>,
    /// Resource id of the subnet.
    pub subnet: String,
    /// Tags of machine and NIC.
    pub tags: BTreeMap<String, String>,
    /// Ids of application security groups on every IP configuration.
    pub application_security_groups: Vec<String>,
    /// Id of the network security group on the NIC.
    pub network_security_group: Option<String>,
    /// Ids of load balancer pools on the primary configuration.
    pub load_balancer_pools: Vec<String>,
}

/// How a machine is managed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum MachineKind {
    /// An instance of a scale set in Uniform orchestration.
    Uniform {
        /// The scale set.
        scale_set: String,
        /// The instance's number.
        instance: u32,
    },
    /// A VM that belongs to a scale set in Flexible orchestration.
    Flex {
        /// The scale set.
        scale_set: String,
        /// The VM.
        vm: String,
    },
    /// A VM of its own.
    Single {
        /// The VM.
        vm: String,
    },
}

impl MachineKind {
    /// The kind of the lab's n-th machine, from 0.
    fn in_turn(n: u32) -> Self {
        let (round, place) = (n / 3, n % 3);
        match place {
            0 => Self::Uniform { scale_set: "aks-uniform-vmss".into(), instance: round },
            1 => Self::Flex { scale_set: "aks-flex-vmss".into(), vm: format!("aks-flex-vmss_df53ee{:02x}", round.saturating_add(0x36)) },
            _ if round == 0 => Self::Single { vm: "aks-single".into() },
            _ => Self::Single { vm: format!("aks-single-{round}") },
        }
    }
}

/// Identities that get tokens.
#[derive(Debug, Clone)]
pub struct Directory {
    /// The tenant that the authority answers for.
    pub tenant: String,
    /// Identity of the operator.
    pub client_id: String,
    /// A client secret of that identity.
    pub client_secret: Option<String>,
    /// The subject of the federated credential (`system:serviceaccount:<namespace>:<name>`); absent: any.
    pub federated_subject: Option<String>,
    /// Client ids of user-assigned identities of every machine; the first is used when none is asked for, if it is the only one.
    pub machine_identities: Vec<String>,
}

impl Default for Directory {
    fn default() -> Self {
        Self {
            tenant: TENANT.into(),
            client_id: OPERATOR_CLIENT_ID.into(),
            client_secret: Some(CLIENT_SECRET.into()),
            federated_subject: None,
            machine_identities: vec![NODE_CLIENT_ID.into()],
        }
    }
}

impl Seed {
    /// Returns a cloud without resources.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            subscriptions: BTreeSet::from([SUBSCRIPTION.to_owned()]),
            location: LOCATION.into(),
            vnets: Vec::new(),
            machines: Vec::new(),
            directory: Directory::default(),
        }
    }

    /// Returns the lab's virtual network, peered with another, without machines.
    #[must_use]
    pub fn network() -> Self {
        let vnet = |name: &str, net: Ipv4Net, subnets, peer: &str, peer_net| VnetSeed {
            subscription: SUBSCRIPTION.into(),
            group: NETWORK_GROUP.into(),
            name: name.into(),
            prefixes: vec![net],
            subnets,
            peerings: BTreeMap::from([(format!("to-{peer}"), (peer.to_owned(), vec![peer_net]))]),
        };
        let here = net([10, 240, 0, 0], 16);
        let there = net([10, 50, 0, 0], 16);
        let vnets = vec![
            vnet("lab-vnet", here, BTreeMap::from([("nodes".to_owned(), here)]), "peer-vnet", there),
            vnet("peer-vnet", there, BTreeMap::from([("hosts".to_owned(), there)]), "lab-vnet", here),
        ];
        Self { vnets, ..Self::empty() }
    }

    /// Returns the lab: an instance of a Uniform scale set, a member of a Flexible one and a stand-alone VM.
    #[must_use]
    pub fn lab() -> Self {
        Self::lab_of(3)
    }

    /// Returns it with another prefix for the lab's subnet.
    #[must_use]
    pub fn with_subnet(mut self, prefix: Ipv4Net) -> Self {
        for nodes in self.vnets.iter_mut().filter_map(|vnet| vnet.subnets.get_mut("nodes")) {
            *nodes = prefix;
        }
        self
    }

    /// Returns the lab with so many machines, of the three kinds in turn; those that stand alone are in an application security group.
    #[must_use]
    pub fn lab_of(count: u8) -> Self {
        let group = format!("/subscriptions/{SUBSCRIPTION}/resourceGroups/{NODE_GROUP}");
        let mut seed = Self::network();
        seed.machines = (0..u32::from(count)).map(|n| MachineSeed::lab(n.saturating_add(1), MachineKind::in_turn(n))).collect();
        for single in seed.machines.iter_mut().filter(|machine| matches!(machine.kind, MachineKind::Single { .. })) {
            single.application_security_groups = vec![format!("{group}/providers/Microsoft.Network/applicationSecurityGroups/aks-asg")];
        }
        seed
    }

    /// Returns the lab's network with `uniform` instances of one scale set and `single` VMs, named `n1` and so on.
    #[must_use]
    pub fn fleet(uniform: u32, single: u32) -> Self {
        let instances = (0..uniform).map(|instance| MachineKind::Uniform { scale_set: "aks-uniform-vmss".into(), instance });
        let vms = (0..single).map(|n| MachineKind::Single { vm: format!("aks-single-{n}") });
        let mut seed = Self::network();
        seed.machines = (1u32..).zip(instances.chain(vms)).map(|(n, kind)| MachineSeed::lab(n, kind)).collect();
        seed
    }

    /// Returns the same machines dealt out to so many subscriptions, the first of which stays the lab's; each other one has a network of its own.
    #[must_use]
    pub fn spread(mut self, subscriptions: u32) -> Self {
        let others: Vec<VnetSeed> = (1..subscriptions).map(VnetSeed::of_another).collect();
        let machines = std::mem::take(&mut self.machines).into_iter().zip((0..subscriptions).cycle());
        let moved = machines.map(|(machine, at)| match usize::try_from(at).ok().and_then(|at| others.get(at.checked_sub(1)?)) {
            Some(network) => machine.moved(&network.subscription, NODE_GROUP, &network.subnet_id("nodes")),
            None => machine,
        });
        self.machines = moved.collect();
        self.subscriptions.extend(others.iter().map(|network| network.subscription.clone()));
        self.vnets.extend(others);
        self
    }

    /// Returns the lab and, in another subscription and other groups, a peered network with two more machines: `n4`, an instance, and `n5`, a VM.
    #[must_use]
    pub fn two_subscriptions() -> Self {
        let mut seed = Self::lab();
        let there = net([10, 60, 0, 0], 16);
        let vnet = "/providers/Microsoft.Network/virtualNetworks/lab-vnet";
        let lab = format!("/subscriptions/{SUBSCRIPTION}/resourceGroups/{NETWORK_GROUP}{vnet}");
        let network = VnetSeed {
            subscription: OTHER_SUBSCRIPTION.into(),
            group: "other-net".into(),
            name: "lab-vnet".into(),
            prefixes: vec![there],
            subnets: BTreeMap::from([("nodes".to_owned(), there)]),
            peerings: BTreeMap::from([("to-lab".to_owned(), (lab, vec![net([10, 240, 0, 0], 16)]))]),
        };
        let subnet = format!("/subscriptions/{OTHER_SUBSCRIPTION}/resourceGroups/{}{vnet}/subnets/nodes", network.group);
        let kinds =
            [MachineKind::Uniform { scale_set: "aks-uniform-vmss".into(), instance: 0 }, MachineKind::Single { vm: "aks-single".into() }];
        seed.machines.extend((4..).zip(kinds).map(|(n, kind)| MachineSeed::lab(n, kind).moved(OTHER_SUBSCRIPTION, "MC_other", &subnet)));
        seed.subscriptions.insert(OTHER_SUBSCRIPTION.into());
        seed.vnets.push(network);
        seed
    }

    /// Returns the id of the lab's subnet.
    #[must_use]
    pub fn lab_subnet() -> String {
        format!(
            "/subscriptions/{SUBSCRIPTION}/resourceGroups/{NETWORK_GROUP}/providers/Microsoft.Network/virtualNetworks/lab-vnet/subnets/nodes"
        )
    }
}

impl VnetSeed {
    /// The network of the n-th subscription beside the lab's.
    fn of_another(n: u32) -> Self {
        let prefix = net([10, u8::try_from(n).unwrap_or(u8::MAX), 0, 0], 16);
        Self {
            subscription: format!("00000000-0000-0000-0001-{n:012x}"),
            group: NETWORK_GROUP.into(),
            name: "lab-vnet".into(),
            prefixes: vec![prefix],
            subnets: BTreeMap::from([("nodes".to_owned(), prefix)]),
            peerings: BTreeMap::new(),
        }
    }

    fn subnet_id(&self, subnet: &str) -> String {
        let Self { subscription, group, name, .. } = self;
        format!("/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.Network/virtualNetworks/{name}/subnets/{subnet}")
    }
}

impl MachineSeed {
    /// Returns node `n<number>` of the lab: tagged, behind a network security group and a load balancer; the address is 10.240.0.0 + 3 + number.
    #[must_use]
    pub fn lab(number: u32, kind: MachineKind) -> Self {
        let network = format!("/subscriptions/{SUBSCRIPTION}/resourceGroups/{NODE_GROUP}/providers/Microsoft.Network");
        let [_, high, middle, low] = number.to_be_bytes();
        Self {
            node: format!("n{number}"),
            subscription: SUBSCRIPTION.into(),
            group: NODE_GROUP.into(),
            kind,
            mac: Mac([0x00, 0x0d, 0x3a, high, middle, low]),
            address: Some(Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 240, 0, 3)).saturating_add(number))),
            subnet: Seed::lab_subnet(),
            tags: BTreeMap::from([("aks-managed-poolName".to_owned(), "lab".to_owned()), ("cost-centre".to_owned(), "42".to_owned())]),
            application_security_groups: Vec::new(),
            network_security_group: Some(format!("{network}/networkSecurityGroups/aks-agentpool-nsg")),
            load_balancer_pools: vec![format!("{network}/loadBalancers/kubernetes/backendAddressPools/aksOutboundBackendPool")],
        }
    }

    /// Returns the same machine elsewhere, with all that it refers to; its address is the subnet's lowest free one.
    #[must_use]
    pub fn moved(self, subscription: &str, group: &str, subnet: &str) -> Self {
        let from = format!("/subscriptions/{}/resourceGroups/{}/", self.subscription, self.group);
        let to = format!("/subscriptions/{subscription}/resourceGroups/{group}/");
        let moved = |ids: Vec<String>| ids.into_iter().map(|id| id.replace(&from, &to)).collect();
        Self {
            subscription: subscription.into(),
            group: group.into(),
            subnet: subnet.into(),
            address: None,
            application_security_groups: moved(self.application_security_groups),
            network_security_group: self.network_security_group.map(|id| id.replace(&from, &to)),
            load_balancer_pools: moved(self.load_balancer_pools),
            ..self
        }
    }

    /// Returns the resource id of the machine.
    #[must_use]
    pub fn machine_id(&self) -> String {
        let compute = format!("/subscriptions/{}/resourceGroups/{}/providers/Microsoft.Compute", self.subscription, self.group);
        match &self.kind {
            MachineKind::Uniform { scale_set, instance } => {
                format!("{compute}/virtualMachineScaleSets/{scale_set}/virtualMachines/{instance}")
            }
            MachineKind::Flex { vm, .. } | MachineKind::Single { vm } => format!("{compute}/virtualMachines/{vm}"),
        }
    }

    /// Returns what the cloud provider writes into the node's `spec.providerID`: subscription and group lower-cased.
    #[must_use]
    pub fn provider_id(&self) -> String {
        let lowered = Self { subscription: self.subscription.to_lowercase(), group: self.group.to_lowercase(), ..self.clone() };
        format!("azure://{}", lowered.machine_id())
    }
}

/// Returns the network; a prefix length beyond 32 counts as 32.
fn net(octets: [u8; 4], prefix: u8) -> Ipv4Net {
    Ipv4Net::new(Ipv4Addr::from(octets), prefix).unwrap_or_default()
}
