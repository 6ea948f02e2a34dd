//! Makes resources of a seed: at the start, and when the admin API adds a machine.

use serde_json::{Map, Value, json};

use super::address;
use super::cloud::Cloud;
use super::guest::tag_map;
use super::path::{key, last};
use super::resource::{Group, IpConfig, ScaleSet, Shape, State, Subnet, Vnet};
use super::seed::{MachineKind, MachineSeed, Seed, VnetSeed};

impl Cloud {
    pub fn plant(&mut self, seed: &Seed) -> Result<(), String> {
        for vnet in &seed.vnets {
            self.plant_vnet(vnet);
        }
        seed.machines.iter().try_for_each(|machine| self.plant_machine(machine))
    }

    /// Makes a machine and its NIC, up and running.
    pub fn plant_machine(&mut self, seed: &MachineSeed) -> Result<(), String> {
        let id = seed.machine_id();
        if self.machines.contains_key(&key(&id)) || self.machine_of(&seed.node).is_some() {
            return Err(format!("there is a machine {} already", seed.node));
        }
        self.plant_group(&seed.subscription, &seed.group);
        let scope = format!("/subscriptions/{}/resourceGroups/{}/providers", seed.subscription, seed.group);
        let sets = format!("{scope}/Microsoft.Compute/virtualMachineScaleSets");
        let location = self.location.clone();
        let (shape, nic_id) = match &seed.kind {
            MachineKind::Uniform { scale_set, instance } => {
                let model = vec![uniform_model(scale_set, seed)];
                self.plant_scale_set(&format!("{sets}/{scale_set}"), false, &model);
                let shape = Shape::Instance { scale_set: format!("{sets}/{scale_set}"), number: *instance, model, customised: false };
                (shape, format!("{id}/networkInterfaces/{scale_set}"))
            }
            MachineKind::Flex { scale_set, vm } => {
                self.plant_scale_set(&format!("{sets}/{scale_set}"), true, &[uniform_model(scale_set, seed)]);
                (
                    Shape::Vm { scale_set: Some(format!("{sets}/{scale_set}")) },
                    format!("{scope}/Microsoft.Network/networkInterfaces/{vm}-nic"),
                )
            }
            MachineKind::Single { vm } => (Shape::Vm { scale_set: None }, format!("{scope}/Microsoft.Network/networkInterfaces/{vm}-nic")),
        };
        self.plant_nic(&nic_id, &id, seed)?;
        let mut machine = self.new_machine(&id, &seed.node, &location, shape);
        machine.tags = tag_map(&seed.tags);
        machine.nics = vec![key(&nic_id)];
        self.machines.insert(key(&id), machine);
        Ok(())
    }

    fn plant_nic(&mut self, id: &str, machine: &str, seed: &MachineSeed) -> Result<(), String> {
        let subnet = self.subnet_for(id, &seed.subnet).ok_or_else(|| format!("no subnet {} in its subscription", seed.subnet))?;
        let address = match seed.address {
            Some(address) => address::check(subnet, &self.ledger, address).map(|()| address),
            None => address::lowest(subnet, &self.ledger, 1).and_then(|found| found.first().copied().ok_or(address::Refusal::Full)),
        };
        let address = address.map_err(|refusal| format!("{}: no address: {refusal:?}", seed.node))?;
        let location = self.location.clone();
        self.create_nic(id, &location);
        let listed_from = self.now.saturating_add(std::time::Duration::from_millis(self.settings.nic_list_lag_millis));
        let now = self.now;
        let Some(nic) = self.nics.get_mut(&key(id)) else { return Err(format!("{id} was not made")) };
        let uniform = matches!(seed.kind, MachineKind::Uniform { .. });
        nic.listed_from = if uniform { listed_from } else { now };
        nic.machine = Some(machine.into());
        nic.node = Some(seed.node.clone());
        nic.mac = Some(seed.mac);
        nic.tags = tag_map(&seed.tags);
        nic.properties = nic_properties(seed);
        let name = if uniform { "ipconfig1".to_owned() } else { "ipConfig1".to_owned() };
        nic.configs.push(IpConfig {
            name: name.clone(),
            address: Some(address),
            primary: true,
            subnet: seed.subnet.clone(),
            state: State::Updating,
            properties: config_properties(seed),
        });
        self.ledger.hold(address, id, &name, now);
        self.provision(&key(id), 0);
        Ok(())
    }

    fn plant_scale_set(&mut self, id: &str, flexible: bool, model: &[Value]) {
        if self.scale_sets.contains_key(&key(id)) {
            return;
        }
        let set = ScaleSet {
            id: id.into(),
            location: self.location.clone(),
            flexible,
            etag: 1,
            state: State::Succeeded,
            size: "Standard_D2s_v3".into(),
            profile: json!({
                "osProfile": { "computerNamePrefix": last(id), "adminUsername": "azureuser" }, "timeCreated": "2026-01-01T00:00:00.000Z",
                "networkProfile": { "networkInterfaceConfigurations": model },
            }),
            guid: self.guid(),
        };
        self.scale_sets.insert(key(id), set);
    }

    fn plant_vnet(&mut self, seed: &VnetSeed) {
        self.plant_group(&seed.subscription, &seed.group);
        let scope =
            format!("/subscriptions/{}/resourceGroups/{}/providers/Microsoft.Network/virtualNetworks", seed.subscription, seed.group);
        let id = format!("{scope}/{}", seed.name);
        let subnets = seed.subnets.iter().map(|(name, prefix)| Subnet {
            id: format!("{id}/subnets/{name}"),
            etag: format!("W/\"{name}\""),
            state: State::Succeeded,
            prefixes: vec![*prefix],
            properties: Map::new(),
        });
        let peerings = seed.peerings.iter().map(|(name, (remote, prefixes))| {
            json!({
                "id": format!("{id}/virtualNetworkPeerings/{name}"), "name": name, "etag": "W/\"peering\"",
                "type": "Microsoft.Network/virtualNetworks/virtualNetworkPeerings",
                "properties": {
                    "provisioningState": "Succeeded", "peeringState": "Connected", "peeringSyncLevel": "FullyInSync",
                    "remoteVirtualNetwork": { "id": if remote.starts_with('/') { remote.clone() } else { format!("{scope}/{remote}") } },
                    "allowVirtualNetworkAccess": true, "allowForwardedTraffic": true, "allowGatewayTransit": false, "useRemoteGateways": false,
                    "remoteAddressSpace": { "addressPrefixes": prefixes }, "remoteVirtualNetworkAddressSpace": { "addressPrefixes": prefixes },
                },
            })
        });
        let vnet = Vnet {
            id: id.clone(),
            guid: self.guid(),
            location: self.location.clone(),
            etag: self.weak_etag(),
            state: State::Succeeded,
            prefixes: seed.prefixes.iter().map(ToString::to_string).collect(),
            subnets: subnets.collect(),
            peerings: peerings.collect(),
        };
        self.vnets.insert(key(&id), vnet);
    }

    fn plant_group(&mut self, subscription: &str, name: &str) {
        self.subscriptions.insert(subscription.to_lowercase());
        let id = format!("/subscriptions/{subscription}/resourceGroups/{name}");
        let location = self.location.clone();
        self.groups.entry(key(&id)).or_insert(Group { id, location });
    }
}

impl Group {
    pub fn view(&self) -> Value {
        json!({
            "id": self.id, "name": last(&self.id), "type": "Microsoft.Resources/resourceGroups", "location": self.location,
            "properties": { "provisioningState": "Succeeded" },
        })
    }
}

/// The model of an instance as a scale set of AKS makes it.
fn uniform_model(scale_set: &str, seed: &MachineSeed) -> Value {
    let mut properties = config_properties(seed);
    properties.insert("subnet".into(), json!({ "id": seed.subnet }));
    properties.insert("primary".into(), json!(true));
    properties.insert("privateIPAddressVersion".into(), json!("IPv4"));
    let mut nic = nic_properties(seed);
    nic.insert("primary".into(), json!(true));
    nic.insert("disableTcpStateTracking".into(), json!(false));
    nic.insert("dnsSettings".into(), json!({ "dnsServers": [] }));
    nic.insert("ipConfigurations".into(), json!([{ "name": "ipconfig1", "properties": properties }]));
    json!({ "name": scale_set, "properties": nic })
}

fn nic_properties(seed: &MachineSeed) -> Map<String, Value> {
    let mut properties = Map::new();
    properties.insert("enableAcceleratedNetworking".into(), json!(true));
    properties.insert("enableIPForwarding".into(), json!(false));
    if let Some(group) = &seed.network_security_group {
        properties.insert("networkSecurityGroup".into(), json!({ "id": group }));
    }
    properties
}

fn config_properties(seed: &MachineSeed) -> Map<String, Value> {
    let ids = |ids: &[String]| json!(ids.iter().map(|id| json!({ "id": id })).collect::<Vec<_>>());
    let mut properties = Map::new();
    if !seed.application_security_groups.is_empty() {
        properties.insert("applicationSecurityGroups".into(), ids(&seed.application_security_groups));
    }
    if !seed.load_balancer_pools.is_empty() {
        properties.insert("loadBalancerBackendAddressPools".into(), ids(&seed.load_balancer_pools));
    }
    properties
}
