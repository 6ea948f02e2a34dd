//! IP configurations as a body asks for them, and the rules that Azure holds them to. Pure.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use serde_json::{Map, Value};

use super::error::ArmError;
use super::nic::LIMIT;
use super::path::key;
use super::resource::Nic;

/// One IP configuration of a body.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub id: String,
    pub name: String,
    pub subnet: String,
    pub primary: bool,
    /// Static: the address asked for, of a block the first.
    pub address: Option<Ipv4Addr>,
    /// Whether it is a block of 16 addresses.
    pub block: bool,
    /// Other members of `properties`.
    pub properties: Map<String, Value>,
}

/// What makes an address a block.
pub(super) const PREFIX_LENGTH: &str = "privateIPAddressPrefixLength";

/// Members of a configuration's `properties` that are read-only or kept apart.
const APART: [&str; 4] = ["provisioningState", "privateIPAddress", "subnet", "primary"];

pub(super) fn parse(configs: Option<&Value>, nic: &str) -> Result<Vec<Wanted>, ArmError> {
    let configs = configs.and_then(Value::as_array).filter(|configs| !configs.is_empty());
    let configs = configs.ok_or_else(|| invalid(&format!("Network interface {nic} must have at least one IP configuration.")))?;
    configs.iter().map(|config| parse_one(config, nic)).collect()
}

/// Rules within one body.
pub(super) fn check_whole(wanted: &mut [Wanted], nic: &str) -> Result<(), ArmError> {
    if wanted.len() > LIMIT {
        let message = format!("The number of IP configurations on network interface {nic} exceeds the maximum allowed, {LIMIT}.");
        return Err(ArmError::network(400, "IpConfigurationCountOnNicExceeded", message));
    }
    let names: BTreeSet<String> = wanted.iter().map(|want| want.name.to_lowercase()).collect();
    if names.len() != wanted.len() {
        let message = format!("Cannot parse the request: network interface {nic} has IP configurations of the same name.");
        return Err(ArmError::network(400, "InvalidRequestFormat", "Cannot parse the request.").detail("DuplicateResourceName", message));
    }
    if let [only] = wanted {
        only.primary = true;
    }
    if wanted.iter().filter(|want| want.primary).count() != 1 {
        let message = format!("Network interface {nic} must have exactly one primary IP configuration.");
        return Err(ArmError::network(400, "NetworkInterfaceMustHaveExactlyOnePrimaryIpConfiguration", message));
    }
    let subnets: BTreeSet<String> = wanted.iter().map(|want| key(&want.subnet)).collect();
    if subnets.len() > 1 {
        let message = format!("IP configurations on network interface {nic} cannot use different subnets.");
        return Err(ArmError::network(400, "IpConfigurationsOnSameNicCannotUseDifferentSubnets", message));
    }
    let groups: BTreeSet<BTreeSet<String>> = wanted.iter().map(|want| ids(&want.properties, "applicationSecurityGroups")).collect();
    if groups.len() > 1 {
        let message = format!("All IP configurations on network interface {nic} must have the same application security groups.");
        return Err(ArmError::network(400, "ApplicationSecurityGroupsNotSameOnAllIpConfigurations", message));
    }
    let pools = wanted.iter().find(|want| !want.primary && !ids(&want.properties, "loadBalancerBackendAddressPools").is_empty());
    if let Some(want) = pools {
        let message = format!(
            "IP configuration {} is not primary: load balancing on secondary IP configurations needs feature \
             Microsoft.Network/AllowPublicIpsAndLoadBalancingOnSecondaryIpConfigsInVMScaleSet.",
            want.id
        );
        return Err(ArmError::network(400, "SubscriptionNotRegisteredForFeature", message));
    }
    Ok(())
}

/// Blocks are for those who asked for the preview.
pub(super) fn check_blocks(wanted: &[Wanted], registered: bool) -> Result<(), ArmError> {
    if registered || !wanted.iter().any(|want| want.block) {
        return Ok(());
    }
    let message = "Subscription is not registered for feature Microsoft.Network/AllowPrivateIpAddressPrefixOnNic.";
    Err(ArmError::network(400, "SubscriptionNotRegisteredForFeature", message))
}

/// Rules between a body and what is there: the primary configuration stays.
pub(super) fn check_change(wanted: &[Wanted], nic: &Nic) -> Result<(), ArmError> {
    let Some(primary) = nic.primary() else { return Ok(()) };
    if wanted.iter().any(|want| want.name.eq_ignore_ascii_case(&primary.name)) {
        return Ok(());
    }
    let message =
        format!("IP Configuration {} cannot be deleted. Deletion and renaming of primary IP Configuration is not supported", primary.name);
    Err(ArmError::network(400, "IpConfigDeleteNotSupported", message))
}

/// The members of an object without those named.
pub(super) fn writable(properties: Map<String, Value>, without: &[&str]) -> Map<String, Value> {
    properties.into_iter().filter(|(name, value)| !without.contains(&name.as_str()) && !value.is_null()).collect()
}

fn parse_one(config: &Value, nic: &str) -> Result<Wanted, ArmError> {
    let name = config.get("name").and_then(Value::as_str).filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| invalid("An IP configuration has no name."))?;
    let id = format!("{nic}/ipConfigurations/{name}");
    let properties = config.get("properties").and_then(Value::as_object).cloned().unwrap_or_default();
    let text = |name: &str| properties.get(name).and_then(Value::as_str);
    let subnet = properties.get("subnet").and_then(|subnet| subnet.get("id")).and_then(Value::as_str);
    let subnet = subnet.ok_or_else(|| invalid(&format!("IP configuration {id} references no subnet.")))?.to_owned();
    if text("privateIPAddressVersion").is_some_and(|version| version != "IPv4") {
        return Err(ArmError::network(400, "IPv6NotSupported", format!("IP configuration {id}: this subnet has no IPv6 prefix.")));
    }
    let block = match properties.get(PREFIX_LENGTH).filter(|length| !length.is_null()) {
        None => false,
        Some(length) if length.as_u64() == Some(28) => true,
        Some(length) => return Err(invalid(&format!("IP configuration {id}: a prefix length of {length} is not supported, only 28."))),
    };
    let address = match text("privateIPAllocationMethod") {
        Some("Static") => Some(fixed(text("privateIPAddress"), block, &id)?),
        _ => None,
    };
    let primary = properties.get("primary").and_then(Value::as_bool).unwrap_or(false);
    if block && (primary || properties.contains_key("publicIPAddress")) {
        return Err(invalid(&format!("IP configuration {id}: only a secondary one without public IP address may be a prefix.")));
    }
    Ok(Wanted { id, name: name.into(), subnet, primary, address, block, properties: writable(properties, &APART) })
}

/// The address asked for; of a block the first, on a boundary of 16.
fn fixed(address: Option<&str>, block: bool, id: &str) -> Result<Ipv4Addr, ArmError> {
    let address = address.ok_or_else(|| invalid(&format!("IP configuration {id} is static and has no private IP address.")))?;
    let invalid = || ArmError::network(400, "InvalidIPAddressFormat", format!("IP address {address} of {id} is not valid."));
    let text = if block { address.strip_suffix("/28").unwrap_or(address) } else { address };
    let first: Ipv4Addr = text.parse().map_err(|_| invalid())?;
    if block && !first.to_bits().is_multiple_of(16) { Err(invalid()) } else { Ok(first) }
}

pub(super) fn ids(properties: &Map<String, Value>, name: &str) -> BTreeSet<String> {
    let items = properties.get(name).and_then(Value::as_array).into_iter().flatten();
    items.filter_map(|item| item.get("id")).filter_map(Value::as_str).map(key).collect()
}

fn invalid(message: &str) -> ArmError {
    ArmError::network(400, "InvalidRequestFormat", message)
}
