//! What is asked of Resource Manager: paths, versions of its APIs, and the budget that each request draws on.

use serde_json::Value;

use super::{Budget, ResourceId};

/// Version of the Network provider's API that NICs and networks are read and written with.
pub const NETWORK_API: &str = "2025-05-01";
/// Version of the Compute provider's API.
const COMPUTE_API: &str = "2025-04-01";
/// Version under which NICs of Uniform scale sets are listed; the service pins it and answers with current types.
const INSTANCE_NICS_API: &str = "2018-10-01";
/// Version of the Authorization provider's API for permissions and deny assignments.
const AUTHORIZATION_API: &str = "2022-04-01";
/// Version of the Authorization provider's API for locks.
const LOCKS_API: &str = "2020-05-01";

/// Versions to ask for in place of these, where a Resource Manager is older, as that of Azure Stack.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApiVersions {
    /// Of the Network provider.
    pub network: Option<String>,
    /// Of the Compute provider.
    pub compute: Option<String>,
}

impl ApiVersions {
    /// A path with the version that is asked for.
    #[must_use]
    pub fn of(&self, path: String) -> String {
        let (network, compute) = (self.network.as_deref(), self.compute.as_deref());
        let chosen = [(NETWORK_API, network), (COMPUTE_API, compute)];
        let parameter = |version: &str| format!("?api-version={version}");
        let other = chosen.into_iter().find_map(|(usual, other)| Some((path.strip_suffix(&parameter(usual))?, other?)));
        other.map(|(resource, version)| format!("{resource}{}", parameter(version))).unwrap_or(path)
    }
}

/// A GET.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    /// A stand-alone or Flexible NIC.
    Nic(ResourceId),
    /// A virtual machine.
    Machine(ResourceId),
    /// A scale set.
    ScaleSet(ResourceId),
    /// An instance of a Uniform scale set.
    Instance(ResourceId),
    /// All NICs of an instance of a Uniform scale set (of the instance's id); pages are joined into one `value`.
    InstanceNics(ResourceId),
    /// A virtual network.
    Network(ResourceId),
    /// A subnet alone, for those who may not read its network.
    Subnet(ResourceId),
    /// A virtual network's address usage by subnet; pages are joined into one `value`.
    Usages(ResourceId),
    /// What the caller may do with a resource; pages are joined into one `value`.
    Permissions(ResourceId),
    /// Locks that hold for a resource; pages are joined into one `value`.
    Locks(ResourceId),
    /// Deny assignments that hold for a resource; pages are joined into one `value`.
    Denials(ResourceId),
}

impl Read {
    /// Path and query of the request.
    #[must_use]
    pub fn path(&self) -> String {
        match self {
            Self::Nic(id) | Self::Network(id) | Self::Subnet(id) => format!("{id}?api-version={NETWORK_API}"),
            Self::Machine(id) | Self::ScaleSet(id) | Self::Instance(id) => format!("{id}?api-version={COMPUTE_API}"),
            Self::InstanceNics(id) => format!("{id}/networkInterfaces?api-version={INSTANCE_NICS_API}"),
            Self::Usages(id) => format!("{id}/usages?api-version={NETWORK_API}"),
            Self::Permissions(id) => format!("{id}/providers/Microsoft.Authorization/permissions?api-version={AUTHORIZATION_API}"),
            Self::Locks(id) => format!("{id}/providers/Microsoft.Authorization/locks?api-version={LOCKS_API}&$filter=atScope()"),
            Self::Denials(id) => {
                format!("{id}/providers/Microsoft.Authorization/denyAssignments?api-version={AUTHORIZATION_API}&$filter=atScope()")
            }
        }
    }
    /// The resource asked for.
    #[must_use]
    pub fn subject(&self) -> &ResourceId {
        match self {
            Self::Nic(id)
            | Self::Machine(id)
            | Self::ScaleSet(id)
            | Self::Instance(id)
            | Self::InstanceNics(id)
            | Self::Network(id)
            | Self::Subnet(id)
            | Self::Usages(id)
            | Self::Permissions(id)
            | Self::Locks(id)
            | Self::Denials(id) => id,
        }
    }
    /// The budget it draws on.
    #[must_use]
    pub fn budget(&self) -> Budget {
        match self {
            Self::Nic(_) | Self::InstanceNics(_) | Self::Network(_) | Self::Subnet(_) | Self::Usages(_) => Budget::NetworkRead,
            Self::Machine(_) | Self::ScaleSet(_) | Self::Instance(_) => Budget::ComputeRead,
            Self::Permissions(_) | Self::Locks(_) | Self::Denials(_) => Budget::Rights,
        }
    }
    /// Short name for metrics and logs.
    #[must_use]
    pub fn op(&self) -> &'static str {
        match self {
            Self::Nic(_) => "get_nic",
            Self::Machine(_) => "get_machine",
            Self::ScaleSet(_) => "get_scale_set",
            Self::Instance(_) => "get_instance",
            Self::InstanceNics(_) => "list_instance_nics",
            Self::Network(_) => "get_network",
            Self::Subnet(_) => "get_subnet",
            Self::Usages(_) => "get_usages",
            Self::Permissions(_) => "list_permissions",
            Self::Locks(_) => "list_locks",
            Self::Denials(_) => "list_deny_assignments",
        }
    }
}

/// A PUT. `etag` goes into `If-Match` verbatim.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// The whole of a stand-alone or Flexible NIC.
    Nic {
        /// The NIC.
        id: ResourceId,
        /// As read.
        etag: Option<String>,
        /// What is sent.
        body: Value,
    },
    /// The network profile of an instance of a Uniform scale set.
    Instance {
        /// The instance.
        id: ResourceId,
        /// As read.
        etag: Option<String>,
        /// What is sent.
        body: Value,
    },
}

impl Write {
    /// Path and query of the request.
    #[must_use]
    pub fn path(&self) -> String {
        match self {
            Self::Nic { id, .. } => format!("{id}?api-version={NETWORK_API}"),
            Self::Instance { id, .. } => format!("{id}?api-version={COMPUTE_API}"),
        }
    }
    /// The resource written.
    #[must_use]
    pub fn subject(&self) -> &ResourceId {
        match self {
            Self::Nic { id, .. } | Self::Instance { id, .. } => id,
        }
    }
    /// Value of `If-Match`.
    #[must_use]
    pub fn etag(&self) -> Option<&str> {
        match self {
            Self::Nic { etag, .. } | Self::Instance { etag, .. } => etag.as_deref(),
        }
    }
    /// What is sent.
    #[must_use]
    pub fn body(&self) -> &Value {
        match self {
            Self::Nic { body, .. } | Self::Instance { body, .. } => body,
        }
    }
    /// The budget it draws on.
    #[must_use]
    pub fn budget(&self) -> Budget {
        match self {
            Self::Nic { .. } => Budget::NetworkWrite,
            Self::Instance { .. } => Budget::ComputeWrite,
        }
    }
    /// Short name for metrics and logs.
    #[must_use]
    pub fn op(&self) -> &'static str {
        match self {
            Self::Nic { .. } => "put_nic",
            Self::Instance { .. } => "put_instance",
        }
    }
}

/// An answer to a [`Read`].
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// The body.
    pub body: Value,
    /// The `ETag` header.
    pub etag: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_resource_manager_is_asked_in_its_own_versions_and_only_the_provider_that_is_named() {
        let id = |path: &str| -> ResourceId { format!("/subscriptions/s/resourceGroups/g/providers/{path}").parse().unwrap() };
        let (nic, vm) = (Read::Nic(id("Microsoft.Network/networkInterfaces/n")), Read::Machine(id("Microsoft.Compute/virtualMachines/v")));
        let versions = ApiVersions { network: Some("2018-11-01".into()), compute: None };
        assert!(versions.of(nic.path()).ends_with("/networkInterfaces/n?api-version=2018-11-01"));
        assert_eq!(versions.of(vm.path()), vm.path());
        let versions = ApiVersions { compute: Some("2020-06-01".into()), ..versions };
        assert!(versions.of(vm.path()).ends_with("/virtualMachines/v?api-version=2020-06-01"));
        let locks = Read::Locks(id("Microsoft.Network/networkInterfaces/n")).path();
        assert_eq!(versions.of(locks.clone()), locks);
        assert_eq!(ApiVersions::default().of(nic.path()), nic.path());
    }
}
