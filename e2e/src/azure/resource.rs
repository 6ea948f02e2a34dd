//! The resources of the emulated cloud as plain data, and how ARM shows them. It changes nothing.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::Ipv4Net;
use serde_json::{Map, Value, json};

use super::command::Condition;
use super::error::put;
use super::fabric::{Mac, NicRef};
use super::path::last;
use super::wanted::PREFIX_LENGTH;

/// `provisioningState`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Succeeded,
    Creating,
    Updating,
    Failed,
}

impl State {
    pub fn name(self) -> &'static str {
        match self {
            Self::Succeeded => "Succeeded",
            Self::Creating => "Creating",
            Self::Updating => "Updating",
            Self::Failed => "Failed",
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Group {
    pub id: String,
    pub location: String,
}

#[derive(Debug, Clone)]
pub(super) struct Vnet {
    pub id: String,
    pub guid: String,
    pub location: String,
    pub etag: String,
    pub state: State,
    pub prefixes: Vec<String>,
    pub subnets: Vec<Subnet>,
    pub peerings: Vec<Value>,
}

#[derive(Debug, Clone)]
pub(super) struct Subnet {
    pub id: String,
    pub etag: String,
    pub state: State,
    pub prefixes: Vec<Ipv4Net>,
    /// Writable members besides the prefixes, as sent.
    pub properties: Map<String, Value>,
}

/// A NIC: stand-alone, or of a scale set instance.
#[derive(Debug, Clone)]
pub(super) struct Nic {
    pub id: String,
    pub guid: String,
    pub location: String,
    pub tags: Map<String, Value>,
    /// Writable and unknown members of `properties` besides the IP configurations, as sent.
    pub properties: Map<String, Value>,
    pub configs: Vec<IpConfig>,
    /// Dropped, and held until the operation that drops them ends.
    pub leaving: Vec<IpConfig>,
    /// Id of the machine, in its own spelling.
    pub machine: Option<String>,
    pub node: Option<String>,
    pub mac: Option<Mac>,
    pub etag: String,
    pub state: State,
    /// The running operation.
    pub operation: Option<String>,
    /// Addresses that the fabric lets through.
    pub attached: Vec<Ipv4Addr>,
    /// Addresses that the guest sees.
    pub shown: Vec<Ipv4Addr>,
    /// From when lists show it.
    pub listed_from: Duration,
    /// How it looked before the last write.
    pub stale: Option<Value>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct IpConfig {
    pub name: String,
    /// Of a block the first.
    pub address: Option<Ipv4Addr>,
    pub primary: bool,
    /// Id of the subnet as it was sent.
    pub subnet: String,
    pub state: State,
    /// Other writable and unknown members of `properties`, as sent.
    pub properties: Map<String, Value>,
}

/// A VM or an instance of a Uniform scale set.
#[derive(Debug, Clone)]
pub(super) struct Machine {
    pub id: String,
    pub node: String,
    pub location: String,
    pub vm_id: String,
    pub tags: Map<String, Value>,
    pub etag: u64,
    pub state: State,
    pub condition: Condition,
    pub operation: Option<String>,
    /// Keys of NICs, the primary first.
    pub nics: Vec<String>,
    pub size: String,
    pub shape: Shape,
    pub stale: Option<Value>,
}

#[derive(Debug, Clone)]
pub(super) enum Shape {
    Vm {
        /// Id of the Flexible scale set.
        scale_set: Option<String>,
    },
    Instance {
        /// Id of the Uniform scale set.
        scale_set: String,
        number: u32,
        /// `networkInterfaceConfigurations` as last sent.
        model: Vec<Value>,
        customised: bool,
    },
}

#[derive(Debug, Clone)]
pub(super) struct ScaleSet {
    pub id: String,
    pub location: String,
    pub flexible: bool,
    pub etag: u64,
    pub state: State,
    pub size: String,
    /// `virtualMachineProfile`, without secrets.
    pub profile: Value,
    pub guid: String,
}

impl IpConfig {
    /// Whether it carries 16 addresses.
    pub fn is_block(&self) -> bool {
        self.properties.contains_key(PREFIX_LENGTH)
    }

    /// All addresses that it carries.
    pub fn addresses(&self) -> Vec<Ipv4Addr> {
        self.address.into_iter().flat_map(|first| range_of(first, self.is_block())).collect()
    }
}

/// The addresses of one configuration, by its first.
pub(super) fn range_of(first: Ipv4Addr, block: bool) -> impl Iterator<Item = Ipv4Addr> {
    (0..if block { 16 } else { 1 }).map(move |number| Ipv4Addr::from(u32::from(first).saturating_add(number)))
}

impl Vnet {
    pub fn view(&self) -> Value {
        json!({
            "name": last(&self.id), "id": self.id, "etag": self.etag, "type": "Microsoft.Network/virtualNetworks", "location": self.location,
            "properties": {
                "provisioningState": self.state.name(), "resourceGuid": self.guid,
                "addressSpace": { "addressPrefixes": self.prefixes },
                "privateEndpointVNetPolicies": "Disabled",
                "subnets": self.subnets.iter().map(Subnet::view).collect::<Vec<_>>(),
                "virtualNetworkPeerings": self.peerings, "enableDdosProtection": false,
            },
        })
    }

    pub fn subnet(&self, name: &str) -> Option<&Subnet> {
        self.subnets.iter().find(|subnet| last(&subnet.id).eq_ignore_ascii_case(name))
    }
}

impl Subnet {
    pub fn view(&self) -> Value {
        let mut properties = Value::Object(self.properties.clone());
        put(&mut properties, "provisioningState", json!(self.state.name()));
        match self.prefixes.as_slice() {
            [one] => put(&mut properties, "addressPrefix", json!(one)),
            several => put(&mut properties, "addressPrefixes", json!(several)),
        }
        for (name, value) in [
            ("delegations", json!([])),
            ("privateEndpointNetworkPolicies", json!("Disabled")),
            ("privateLinkServiceNetworkPolicies", json!("Enabled")),
        ] {
            default(&mut properties, name, value);
        }
        json!({ "name": last(&self.id), "id": self.id, "etag": self.etag, "properties": properties, "type": "Microsoft.Network/virtualNetworks/subnets" })
    }

    pub fn prefix_text(&self) -> String {
        self.prefixes.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    }
}

impl Nic {
    pub fn view(&self) -> Value {
        let mut properties = Value::Object(self.properties.clone());
        put(&mut properties, "provisioningState", json!(self.state.name()));
        put(&mut properties, "resourceGuid", json!(self.guid));
        put(&mut properties, "ipConfigurations", Value::Array(self.configs.iter().map(|config| self.config_view(config)).collect()));
        if let Some(mac) = self.mac {
            put(&mut properties, "macAddress", json!(mac.dashed()));
        }
        if let Some(machine) = &self.machine {
            put(&mut properties, "primary", json!(true));
            put(&mut properties, "virtualMachine", json!({ "id": machine }));
        }
        let suffix = "ddt4dufrjkwe5jziofpp4obvua.bx.internal.cloudapp.net";
        for (name, value) in [
            ("dnsSettings", json!({ "dnsServers": [], "appliedDnsServers": [], "internalDomainNameSuffix": suffix })),
            ("enableAcceleratedNetworking", json!(false)),
            ("vnetEncryptionSupported", json!(false)),
            ("enableIPForwarding", json!(false)),
            ("disableTcpStateTracking", json!(false)),
            ("hostedWorkloads", json!([])),
            ("tapConfigurations", json!([])),
            ("nicType", json!("Standard")),
            ("allowPort25Out", json!(true)),
            ("defaultOutboundConnectivityEnabled", json!(false)),
            ("auxiliaryMode", json!("None")),
            ("auxiliarySku", json!("None")),
        ] {
            default(&mut properties, name, value);
        }
        let mut view = json!({ "name": last(&self.id), "id": self.id, "etag": self.etag, "properties": properties });
        if !self.of_instance() {
            put(&mut view, "type", json!("Microsoft.Network/networkInterfaces"));
            put(&mut view, "location", json!(self.location));
            put(&mut view, "kind", json!("Regular"));
            if !self.tags.is_empty() {
                put(&mut view, "tags", Value::Object(self.tags.clone()));
            }
        }
        view
    }

    pub fn config_view(&self, config: &IpConfig) -> Value {
        let mut properties = Value::Object(config.properties.clone());
        put(&mut properties, "provisioningState", json!(config.state.name()));
        if let Some(address) = config.address {
            let text = if config.is_block() { format!("{address}/28") } else { address.to_string() };
            put(&mut properties, "privateIPAddress", json!(text));
        }
        put(&mut properties, "subnet", json!({ "id": config.subnet }));
        put(&mut properties, "primary", json!(config.primary));
        default(&mut properties, "privateIPAllocationMethod", json!("Dynamic"));
        default(&mut properties, "privateIPAddressVersion", json!("IPv4"));
        json!({
            "name": config.name, "id": format!("{}/ipConfigurations/{}", self.id, config.name), "etag": self.etag,
            "type": "Microsoft.Network/networkInterfaces/ipConfigurations", "properties": properties,
        })
    }

    pub fn of_instance(&self) -> bool {
        self.id.to_lowercase().contains("/virtualmachinescalesets/")
    }

    pub fn primary(&self) -> Option<&IpConfig> {
        self.configs.iter().find(|config| config.primary)
    }

    /// The NIC for the fabric; none as long as no machine has it.
    pub fn fabric_ref(&self) -> Option<NicRef> {
        Some(NicRef { id: self.id.clone(), node: self.node.clone()?, mac: self.mac?, primary: self.primary()?.address? })
    }
}

impl Machine {
    pub fn view(&self, nics: &BTreeMap<String, Nic>, expand: bool) -> Value {
        let ids: Vec<Value> = self.nics.iter().filter_map(|key| nics.get(key)).map(|nic| self.nic_reference(nic)).collect();
        let mut properties = json!({
            "provisioningState": self.state.name(), "hardwareProfile": { "vmSize": self.size }, "vmId": self.vm_id,
            "storageProfile": storage_profile(),
            "osProfile": {
                "computerName": self.node, "adminUsername": "azureuser", "secrets": [], "allowExtensionOperations": true,
                "requireGuestProvisionSignal": true,
                "linuxConfiguration": { "disablePasswordAuthentication": true, "provisionVMAgent": true },
            },
            "networkProfile": { "networkInterfaces": ids }, "timeCreated": "2026-01-01T00:00:00.000Z",
        });
        if expand {
            put(&mut properties, "instanceView", self.instance_view());
        }
        let mut view =
            json!({ "name": last(&self.id), "id": self.id, "type": "Microsoft.Compute/virtualMachines", "location": self.location });
        match &self.shape {
            Shape::Vm { scale_set } => {
                if let Some(id) = scale_set {
                    put(&mut properties, "virtualMachineScaleSet", json!({ "id": id }));
                }
            }
            Shape::Instance { scale_set, number, model, customised } => {
                put(&mut properties, "latestModelApplied", json!(true));
                put(
                    &mut properties,
                    "modelDefinitionApplied",
                    json!(if *customised { "VirtualMachine" } else { "VirtualMachineScaleSet" }),
                );
                put(&mut properties, "networkProfileConfiguration", json!({ "networkInterfaceConfigurations": model }));
                put(&mut properties, "resilientVMDeletionStatus", json!("Disabled"));
                put(&mut view, "name", json!(format!("{}_{number}", last(scale_set))));
                put(&mut view, "type", json!("Microsoft.Compute/virtualMachineScaleSets/virtualMachines"));
                put(&mut view, "instanceId", json!(number.to_string()));
                put(&mut view, "sku", json!({ "name": self.size, "tier": "Standard" }));
            }
        }
        put(&mut view, "properties", properties);
        put(&mut view, "etag", json!(self.etag_text()));
        if !self.tags.is_empty() {
            put(&mut view, "tags", Value::Object(self.tags.clone()));
        }
        view
    }

    pub fn etag_text(&self) -> String {
        format!("\"{}\"", self.etag)
    }

    pub fn instance_view(&self) -> Value {
        let power = match self.condition {
            Condition::Running => ("PowerState/running", "VM running"),
            Condition::Deallocated => ("PowerState/deallocated", "VM deallocated"),
            Condition::Deleting => ("PowerState/stopping", "VM stopping"),
        };
        let provisioning = match self.condition {
            Condition::Running | Condition::Deallocated => ("ProvisioningState/succeeded", "Provisioning succeeded"),
            Condition::Deleting => ("ProvisioningState/deleting", "Deleting"),
        };
        let status = |(code, text)| json!({ "code": code, "level": "Info", "displayStatus": text });
        json!({
            "platformUpdateDomain": 0, "platformFaultDomain": 0, "computerName": self.node, "hyperVGeneration": "V2",
            "statuses": [status(provisioning), status(power)],
        })
    }

    fn nic_reference(&self, nic: &Nic) -> Value {
        match self.shape {
            Shape::Vm { .. } => json!({ "id": nic.id, "properties": { "primary": true } }),
            Shape::Instance { .. } => json!({ "id": nic.id }),
        }
    }
}

impl ScaleSet {
    pub fn view(&self, capacity: usize) -> Value {
        let mode = if self.flexible { "Flexible" } else { "Uniform" };
        json!({
            "name": last(&self.id), "id": self.id, "type": "Microsoft.Compute/virtualMachineScaleSets", "location": self.location,
            "sku": { "name": self.size, "tier": "Standard", "capacity": capacity }, "etag": format!("\"{}\"", self.etag),
            "properties": {
                "singlePlacementGroup": !self.flexible, "orchestrationMode": mode, "upgradePolicy": { "mode": "Manual" },
                "virtualMachineProfile": self.profile, "provisioningState": self.state.name(), "overprovision": false,
                "doNotRunExtensionsOnOverprovisionedVMs": false, "uniqueId": self.guid, "platformFaultDomainCount": 5,
                "timeCreated": "2026-01-01T00:00:00.000Z",
            },
        })
    }
}

/// An AKS node's: the image lives in a subscription of Microsoft, so sending it back is refused.
pub(super) fn storage_profile() -> Value {
    let image = "/subscriptions/109a5e88-712a-48ae-9078-9ca8b3c81345/resourceGroups/AKS-Ubuntu/providers/Microsoft.Compute/galleries/AKSUbuntu/images/2404containerd/versions/202601.01.0";
    json!({
        "imageReference": { "id": image }, "dataDisks": [],
        "osDisk": { "osType": "Linux", "createOption": "FromImage", "caching": "ReadOnly", "diskSizeGB": 128 },
    })
}

/// Sets a member that is missing.
pub(super) fn default(object: &mut Value, name: &str, value: Value) {
    if let Some(members) = object.as_object_mut() {
        members.entry(name.to_owned()).or_insert(value);
    }
}
