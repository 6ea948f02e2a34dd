//! Resource ids and the paths of ARM. Parsing only: whether a resource exists is not asked here.

use std::fmt::Write as _;

use super::command::Class;

/// A parsed request path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ArmPath {
    pub subscription: String,
    pub group: Option<String>,
    /// Names in the order of the types.
    pub names: Vec<String>,
    pub kind: Kind,
    /// The path as asked for.
    pub raw: String,
}

/// What a path points to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Group,
    GroupResult,
    Vnets,
    Vnet,
    Subnets,
    Subnet,
    VnetUsages,
    CheckAddress,
    Peerings,
    Peering,
    Nics,
    Nic,
    NicConfigs,
    NicConfig,
    RegionUsages,
    NetworkOperation,
    NetworkOperationResult,
    Vms,
    Vm,
    VmView,
    ScaleSets,
    ScaleSet,
    ScaleSetNics,
    Instances,
    Instance,
    InstanceView,
    InstanceNics,
    InstanceNic,
    InstanceNicConfigs,
    InstanceNicConfig,
    ComputeOperation,
}

impl ArmPath {
    pub fn parse(raw: &str) -> Option<Self> {
        let mut parts = raw.trim_matches('/').split('/');
        let subscription = keyword(&mut parts, "subscriptions")?;
        let mut rest: Vec<&str> = parts.collect();
        let mut group = None;
        if rest.first().is_some_and(|part| part.eq_ignore_ascii_case("resourcegroups")) {
            let tail = rest.split_off(2.min(rest.len()));
            group = Some((*rest.get(1)?).to_owned());
            rest = tail;
        }
        let path =
            |kind, names: Vec<String>| Self { subscription: subscription.clone(), group: group.clone(), names, kind, raw: raw.to_owned() };
        match rest.split_first() {
            None => group.is_some().then(|| path(Kind::Group, Vec::new())),
            Some((first, rest)) if first.eq_ignore_ascii_case("operationresults") => {
                Some(path(Kind::GroupResult, rest.iter().map(|&name| name.to_owned()).collect()))
            }
            Some((first, rest)) if first.eq_ignore_ascii_case("providers") => {
                let (provider, rest) = rest.split_first()?;
                let names = rest.iter().skip(1).step_by(2).map(|&name| name.to_owned()).collect();
                let types: Vec<String> = rest.iter().step_by(2).map(|part| part.to_lowercase()).collect();
                let item = rest.len().is_multiple_of(2);
                Some(path(kind(&provider.to_lowercase(), &types.join("/"), item)?, names))
            }
            Some(_) => None,
        }
    }

    pub fn name(&self, index: usize) -> &str {
        self.names.get(index).map_or("", String::as_str)
    }

    pub fn group(&self) -> &str {
        self.group.as_deref().unwrap_or_default()
    }

    /// The id of the group, or of the subscription where the path names no group.
    pub fn scope(&self) -> String {
        match &self.group {
            Some(group) => format!("/subscriptions/{}/resourceGroups/{group}", self.subscription),
            None => format!("/subscriptions/{}", self.subscription),
        }
    }

    /// The id in ARM's own spelling, of `depth` levels of type and name.
    pub fn id(&self, depth: usize) -> String {
        let mut id = format!("{}/providers/{}", self.scope(), self.kind.provider());
        for (kind, name) in self.kind.types().iter().zip(&self.names).take(depth) {
            // A String takes any text.
            let _ = write!(id, "/{kind}/{name}");
        }
        id
    }

    /// The id of the resource that the path names, all levels.
    pub fn full_id(&self) -> String {
        self.id(self.names.len())
    }

    pub fn class(&self, write: bool) -> Class {
        match (self.kind, write) {
            (Kind::NetworkOperation | Kind::NetworkOperationResult | Kind::ComputeOperation | Kind::GroupResult, _) => Class::Poll,
            (Kind::Group, _) => Class::Resources,
            (kind, true) if kind.is_compute() => Class::ComputeWrite,
            (kind, false) if kind.is_compute() => Class::ComputeRead,
            (_, true) => Class::NetworkWrite,
            (_, false) => Class::NetworkRead,
        }
    }

    /// The action that a role must hold.
    pub fn action(&self, method: &str) -> String {
        let verb = match method {
            "GET" => "read",
            "DELETE" => "delete",
            _ => "write",
        };
        if matches!(self.kind, Kind::Group | Kind::GroupResult) {
            return format!("Microsoft.Resources/subscriptions/resourceGroups/{verb}");
        }
        format!("{}/{}/{verb}", self.kind.provider(), self.kind.types().join("/"))
    }
}

impl Kind {
    /// Whether Microsoft.Compute serves it; NICs of instances have Compute paths and are served by Network.
    pub fn is_compute(self) -> bool {
        matches!(
            self,
            Self::Vms | Self::Vm | Self::VmView | Self::ScaleSets | Self::ScaleSet | Self::Instances | Self::Instance | Self::InstanceView
        )
    }

    pub fn is_poll(self) -> bool {
        matches!(self, Self::NetworkOperation | Self::NetworkOperationResult | Self::ComputeOperation | Self::GroupResult)
    }

    pub fn is_instance_nic(self) -> bool {
        matches!(self, Self::ScaleSetNics | Self::InstanceNics | Self::InstanceNic | Self::InstanceNicConfigs | Self::InstanceNicConfig)
    }

    fn provider(self) -> &'static str {
        if self.is_compute() || self.is_instance_nic() || self == Self::ComputeOperation {
            "Microsoft.Compute"
        } else {
            "Microsoft.Network"
        }
    }

    fn types(self) -> &'static [&'static str] {
        match self {
            Self::Group | Self::GroupResult => &[],
            Self::Vnets | Self::Vnet => &["virtualNetworks"],
            Self::Subnets | Self::Subnet => &["virtualNetworks", "subnets"],
            Self::VnetUsages => &["virtualNetworks", "usages"],
            Self::CheckAddress => &["virtualNetworks", "CheckIPAddressAvailability"],
            Self::Peerings | Self::Peering => &["virtualNetworks", "virtualNetworkPeerings"],
            Self::Nics | Self::Nic => &["networkInterfaces"],
            Self::NicConfigs | Self::NicConfig => &["networkInterfaces", "ipConfigurations"],
            Self::RegionUsages => &["locations", "usages"],
            Self::NetworkOperation | Self::ComputeOperation => &["locations", "operations"],
            Self::NetworkOperationResult => &["locations", "operationResults"],
            Self::Vms | Self::Vm => &["virtualMachines"],
            Self::VmView => &["virtualMachines", "instanceView"],
            Self::ScaleSets | Self::ScaleSet => &["virtualMachineScaleSets"],
            Self::ScaleSetNics => &["virtualMachineScaleSets", "networkInterfaces"],
            Self::Instances | Self::Instance => &["virtualMachineScaleSets", "virtualMachines"],
            Self::InstanceView => &["virtualMachineScaleSets", "virtualMachines", "instanceView"],
            Self::InstanceNics | Self::InstanceNic => &["virtualMachineScaleSets", "virtualMachines", "networkInterfaces"],
            Self::InstanceNicConfigs | Self::InstanceNicConfig => {
                &["virtualMachineScaleSets", "virtualMachines", "networkInterfaces", "ipConfigurations"]
            }
        }
    }
}

fn kind(provider: &str, types: &str, item: bool) -> Option<Kind> {
    Some(match (provider, types, item) {
        ("microsoft.network", "virtualnetworks", false) => Kind::Vnets,
        ("microsoft.network", "virtualnetworks", true) => Kind::Vnet,
        ("microsoft.network", "virtualnetworks/subnets", false) => Kind::Subnets,
        ("microsoft.network", "virtualnetworks/subnets", true) => Kind::Subnet,
        ("microsoft.network", "virtualnetworks/usages", false) => Kind::VnetUsages,
        ("microsoft.network", "virtualnetworks/checkipaddressavailability", false) => Kind::CheckAddress,
        ("microsoft.network", "virtualnetworks/virtualnetworkpeerings", false) => Kind::Peerings,
        ("microsoft.network", "virtualnetworks/virtualnetworkpeerings", true) => Kind::Peering,
        ("microsoft.network", "networkinterfaces", false) => Kind::Nics,
        ("microsoft.network", "networkinterfaces", true) => Kind::Nic,
        ("microsoft.network", "networkinterfaces/ipconfigurations", false) => Kind::NicConfigs,
        ("microsoft.network", "networkinterfaces/ipconfigurations", true) => Kind::NicConfig,
        ("microsoft.network", "locations/usages", false) => Kind::RegionUsages,
        ("microsoft.network", "locations/operations", true) => Kind::NetworkOperation,
        ("microsoft.network", "locations/operationresults", true) => Kind::NetworkOperationResult,
        ("microsoft.compute", "virtualmachines", false) => Kind::Vms,
        ("microsoft.compute", "virtualmachines", true) => Kind::Vm,
        ("microsoft.compute", "virtualmachines/instanceview", false) => Kind::VmView,
        ("microsoft.compute", "virtualmachinescalesets", false) => Kind::ScaleSets,
        ("microsoft.compute", "virtualmachinescalesets", true) => Kind::ScaleSet,
        ("microsoft.compute", "virtualmachinescalesets/networkinterfaces", false) => Kind::ScaleSetNics,
        ("microsoft.compute", "virtualmachinescalesets/virtualmachines", false) => Kind::Instances,
        ("microsoft.compute", "virtualmachinescalesets/virtualmachines", true) => Kind::Instance,
        ("microsoft.compute", "virtualmachinescalesets/virtualmachines/instanceview", false) => Kind::InstanceView,
        ("microsoft.compute", "virtualmachinescalesets/virtualmachines/networkinterfaces", false) => Kind::InstanceNics,
        ("microsoft.compute", "virtualmachinescalesets/virtualmachines/networkinterfaces", true) => Kind::InstanceNic,
        ("microsoft.compute", "virtualmachinescalesets/virtualmachines/networkinterfaces/ipconfigurations", false) => {
            Kind::InstanceNicConfigs
        }
        ("microsoft.compute", "virtualmachinescalesets/virtualmachines/networkinterfaces/ipconfigurations", true) => {
            Kind::InstanceNicConfig
        }
        ("microsoft.compute", "locations/operations", true) => Kind::ComputeOperation,
        _ => return None,
    })
}

/// Ids compare case-insensitively: the key of a resource.
pub(super) fn key(id: &str) -> String {
    id.trim_end_matches('/').to_lowercase()
}

/// The subscription of a resource id.
pub(super) fn subscription_of(id: &str) -> &str {
    id.split('/').nth(2).unwrap_or_default()
}

/// The parent of a resource id: without its last type and name.
pub(super) fn parent(id: &str) -> &str {
    id.rsplitn(3, '/').nth(2).unwrap_or_default()
}

/// The last name of a resource id.
pub(super) fn last(id: &str) -> &str {
    id.rsplit('/').next().unwrap_or_default()
}

fn keyword<'a>(parts: &mut impl Iterator<Item = &'a str>, word: &str) -> Option<String> {
    parts.next().filter(|part| part.eq_ignore_ascii_case(word))?;
    parts.next().map(str::to_owned)
}
