//! A Node's provider id, and what to ask Azure for.

use std::str::FromStr;

use crate::arm::ResourceId;

/// A machine in Azure. Which NIC it has, and whether a machine belongs to a scale set, only Azure knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProviderId {
    /// An instance of a Uniform scale set.
    Uniform {
        /// `…/virtualMachineScaleSets/<set>/virtualMachines/<number>`.
        instance: ResourceId,
    },
    /// A stand-alone machine or a member of a Flexible scale set.
    Machine {
        /// `…/virtualMachines/<name>`.
        vm: ResourceId,
    },
}

/// A Node that is none of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unmanaged {
    /// The cloud provider has not set it yet.
    #[error("the Node has no providerID yet: it is managed once the cloud provider has set it")]
    Empty,
    /// Another cloud's, or none that is known.
    #[error("providerID {0:?} names no Azure virtual machine: such a node is not managed")]
    Other(String),
}

impl FromStr for ProviderId {
    type Err = Unmanaged;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(Unmanaged::Empty);
        }
        parse(text).ok_or_else(|| Unmanaged::Other(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<ProviderId> {
    let (scheme, id) = text.split_at_checked("azure://".len())?;
    let id: ResourceId = scheme.eq_ignore_ascii_case("azure://").then_some(id)?.parse().ok()?;
    let key = id.key();
    let parts: Vec<&str> = key.trim_start_matches('/').split('/').collect();
    match parts.as_slice() {
        [
            "subscriptions",
            _,
            "resourcegroups",
            _,
            "providers",
            "microsoft.compute",
            "virtualmachinescalesets",
            _,
            "virtualmachines",
            number,
        ] if number.bytes().all(|b| b.is_ascii_digit()) => Some(ProviderId::Uniform { instance: id }),
        ["subscriptions", _, "resourcegroups", _, "providers", "microsoft.compute", "virtualmachines", _] => {
            Some(ProviderId::Machine { vm: id })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn provider_ids_are_read_in_any_casing() {
        let uniform =
            "azure:///subscriptions/s/resourceGroups/mc_lab/providers/Microsoft.Compute/virtualMachineScaleSets/aks-vmss/virtualMachines/0";
        let id: ProviderId = uniform.parse().unwrap();
        let lower: ProviderId = uniform.to_ascii_lowercase().parse().unwrap();
        assert_eq!(id, lower);
        assert!(matches!(id, ProviderId::Uniform { instance } if instance.name() == "0"));
        let vm = "azure:///subscriptions/s/resourcegroups/mc_lab/providers/Microsoft.Compute/virtualMachines/aks-single";
        assert!(matches!(vm.parse(), Ok(ProviderId::Machine { vm }) if vm.name() == "aks-single"));
    }

    #[test]
    fn other_clouds_are_not_managed() {
        assert_eq!("".parse::<ProviderId>(), Err(Unmanaged::Empty));
        let bad = [
            "aws:///zone/i-1",
            "kind://docker/kind/kind-control-plane",
            "azure://",
            "azure:///subscriptions/s/resourceGroups/g/providers/Microsoft.Network/networkInterfaces/n",
            "azure:///subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/virtualMachineScaleSets/a/virtualMachines/x",
            "azure:///subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/virtualMachines/..",
        ];
        for text in bad {
            assert!(text.parse::<ProviderId>().unwrap_err().to_string().contains("not managed"), "{text}");
        }
    }
}
