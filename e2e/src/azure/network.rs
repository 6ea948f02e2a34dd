//! Virtual networks, subnets, peerings, usages and the availability of an address.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde_json::{Value, json};

use super::address;
use super::answer::{Answer, Context};
use super::cloud::Cloud;
use super::error::ArmError;
use super::nic::in_scope;
use super::operation::{Provider, Work};
use super::path::{ArmPath, key};
use super::resource::{State, Subnet, Vnet};
use super::wanted::writable;

impl Cloud {
    pub fn get_vnet(&self, path: &ArmPath) -> Result<Answer, ArmError> {
        let vnet = self.vnet(path)?;
        Ok(Answer::json(200, vnet.view()).header("ETag", vnet.etag.clone()))
    }

    pub fn list_vnets(&self, path: &ArmPath, context: &Context) -> Answer {
        let vnets = self.vnets.values().filter(|vnet| in_scope(&vnet.id, path)).map(Vnet::view);
        self.page(vnets.collect(), path, context)
    }

    pub fn put_vnet(&mut self, path: &ArmPath, body: &Value, context: &Context) -> Result<Answer, ArmError> {
        let id = path.id(1);
        let key = key(&id);
        if let (Some(vnet), Some(given)) = (self.vnets.get(&key), &context.if_match)
            && given != &vnet.etag
        {
            return Err(ArmError::network_precondition(given, &vnet.etag, &vnet.id));
        }
        let location = body.get("location").and_then(Value::as_str).unwrap_or(&self.location).to_owned();
        let created = !self.vnets.contains_key(&key);
        if created {
            let vnet = Vnet {
                id: id.clone(),
                guid: self.guid(),
                location: location.clone(),
                etag: self.weak_etag(),
                state: State::Updating,
                prefixes: Vec::new(),
                subnets: Vec::new(),
                peerings: Vec::new(),
            };
            self.vnets.insert(key.clone(), vnet);
        }
        let prefixes = body.pointer("/properties/addressSpace/addressPrefixes").and_then(Value::as_array);
        let prefixes = prefixes.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
        let subnets: Vec<Value> = body.pointer("/properties/subnets").and_then(Value::as_array).cloned().unwrap_or_default();
        let etag = self.weak_etag();
        if let Some(vnet) = self.vnets.get_mut(&key) {
            vnet.prefixes = prefixes;
            for subnet in subnets {
                let name = subnet.get("name").and_then(Value::as_str).unwrap_or_default();
                if vnet.subnet(name).is_none() {
                    vnet.subnets.push(new_subnet(&format!("{id}/subnets/{name}"), &subnet, etag.clone()));
                }
            }
        }
        let operation = self.begin(context, Provider::Network, &location, Work::Vnet { key: key.clone() });
        let view = self.vnets.get(&key).map(Vnet::view).unwrap_or_default();
        Ok(self.announce(Answer::json(if created { 201 } else { 200 }, view), context, &operation, false))
    }

    pub fn delete_vnet(&mut self, path: &ArmPath, context: &Context) -> Result<Answer, ArmError> {
        let vnet = self.vnet(path)?;
        let location = vnet.location.clone();
        if vnet.subnets.iter().any(|subnet| address::used(subnet, &self.ledger) > 0) {
            return Err(in_use(&vnet.id));
        }
        self.vnets.remove(&key(&path.id(1)));
        let operation = self.begin(context, Provider::Network, &location, Work::Nothing);
        Ok(self.announce(Answer::empty(202), context, &operation, true))
    }

    pub fn get_subnet(&self, path: &ArmPath) -> Result<Answer, ArmError> {
        let vnet = self.vnet(path)?;
        let subnet = vnet.subnet(path.name(1)).ok_or_else(|| ArmError::child_not_found(&path.full_id()))?;
        Ok(Answer::json(200, subnet.view()).header("ETag", subnet.etag.clone()))
    }

    pub fn list_subnets(&self, path: &ArmPath, context: &Context) -> Result<Answer, ArmError> {
        Ok(self.page(self.vnet(path)?.subnets.iter().map(Subnet::view).collect(), path, context))
    }

    pub fn put_subnet(&mut self, path: &ArmPath, body: &Value, context: &Context) -> Result<Answer, ArmError> {
        let location = self.vnet(path)?.location.clone();
        let etag = self.weak_etag();
        let vnet_key = key(&path.id(1));
        let wanted = new_subnet(&path.full_id(), body, etag);
        let mut status = 201;
        if let Some(vnet) = self.vnets.get_mut(&vnet_key) {
            if let Some(subnet) = vnet.subnets.iter_mut().find(|subnet| key(&subnet.id) == key(&wanted.id)) {
                status = 200;
                *subnet = Subnet { state: State::Succeeded, ..wanted.clone() };
            } else {
                vnet.subnets.push(wanted.clone());
            }
        }
        let operation = self.begin(context, Provider::Network, &location, Work::Vnet { key: vnet_key });
        let view = self.subnet(&wanted.id).map(Subnet::view).unwrap_or_default();
        Ok(self.announce(Answer::json(status, view), context, &operation, false))
    }

    pub fn delete_subnet(&mut self, path: &ArmPath, context: &Context) -> Result<Answer, ArmError> {
        let vnet = self.vnet(path)?;
        let location = vnet.location.clone();
        if vnet.subnet(path.name(1)).is_some_and(|subnet| address::used(subnet, &self.ledger) > 0) {
            return Err(in_use(&path.full_id()));
        }
        let gone = key(&path.full_id());
        if let Some(vnet) = self.vnets.get_mut(&key(&path.id(1))) {
            vnet.subnets.retain(|subnet| key(&subnet.id) != gone);
        }
        let operation = self.begin(context, Provider::Network, &location, Work::Nothing);
        Ok(self.announce(Answer::empty(202), context, &operation, true))
    }

    /// The call that tells capacity: addresses used and usable, by subnet.
    pub fn vnet_usages(&self, path: &ArmPath, context: &Context) -> Result<Answer, ArmError> {
        let usage = |subnet: &Subnet| {
            json!({
                "id": subnet.id, "currentValue": address::used(subnet, &self.ledger), "limit": address::usable(subnet), "unit": "Count",
                "name": { "value": "SubnetSpace", "localizedValue": "Subnet size and usage" },
            })
        };
        Ok(self.page(self.vnet(path)?.subnets.iter().map(usage).collect(), path, context))
    }

    pub fn check_address(&self, path: &ArmPath, asked: Option<&str>) -> Result<Answer, ArmError> {
        let vnet = self.vnet(path)?;
        let address: Option<Ipv4Addr> = asked.and_then(|address| address.parse().ok());
        let subnet =
            address.and_then(|address| vnet.subnets.iter().find(|subnet| subnet.prefixes.iter().any(|prefix| prefix.contains(&address))));
        let (Some(address), Some(subnet)) = (address, subnet) else {
            let message = format!("IP address {} is not in the address space of {}.", asked.unwrap_or_default(), vnet.id);
            return Err(ArmError::network(400, "PrivateIPAddressNotInAnySubnet", message));
        };
        if address::check(subnet, &self.ledger, address).is_ok() {
            return Ok(Answer::json(200, json!({ "available": true, "availableIPAddresses": [] })));
        }
        let free = (1..=5).rev().find_map(|count| address::lowest(subnet, &self.ledger, count).ok()).unwrap_or_default();
        Ok(Answer::json(200, json!({ "available": false, "availableIPAddresses": free })))
    }

    pub fn list_peerings(&self, path: &ArmPath, context: &Context) -> Result<Answer, ArmError> {
        Ok(self.page(self.vnet(path)?.peerings.clone(), path, context))
    }

    pub fn get_peering(&self, path: &ArmPath) -> Result<Answer, ArmError> {
        let named =
            |peering: &&Value| peering.get("name").and_then(Value::as_str).is_some_and(|name| name.eq_ignore_ascii_case(path.name(1)));
        let peering = self.vnet(path)?.peerings.iter().find(named).cloned();
        peering.map(|peering| Answer::json(200, peering)).ok_or_else(|| ArmError::child_not_found(&path.full_id()))
    }

    /// The quotas of the region that matter here.
    pub fn region_usages(&self, path: &ArmPath, context: &Context) -> Answer {
        let usage = |name: &str, current: usize, limit: usize| {
            let id = format!("{}/providers/Microsoft.Network/locations/{}/usages/{name}", path.scope(), path.name(0));
            json!({ "id": id, "currentValue": current, "limit": limit, "unit": "Count", "name": { "value": name, "localizedValue": name } })
        };
        let here = |ids: &mut dyn Iterator<Item = &String>| ids.filter(|id| in_scope(id, path)).count();
        let items = vec![
            usage("VirtualNetworks", here(&mut self.vnets.keys()), 1000),
            usage("NetworkInterfaces", here(&mut self.nics.keys()), 65536),
            usage("SecondaryIPConfigurationsPerNetworkInterface", 0, 256),
        ];
        self.page(items, path, context)
    }

    /// Adds a prefix to a subnet.
    pub fn grow_subnet(&mut self, id: &str, prefix: Ipv4Net) -> Result<(), String> {
        let etag = self.weak_etag();
        let vnet = self.vnets.get_mut(&key(super::path::parent(id))).ok_or_else(|| format!("no subnet {id}"))?;
        let subnet = vnet.subnets.iter_mut().find(|subnet| key(&subnet.id) == key(id)).ok_or_else(|| format!("no subnet {id}"))?;
        subnet.prefixes.push(prefix);
        subnet.etag = etag;
        vnet.prefixes.push(prefix.to_string());
        Ok(())
    }

    fn vnet(&self, path: &ArmPath) -> Result<&Vnet, ArmError> {
        let missing = || ArmError::resource_not_found(&format!("Microsoft.Network/virtualNetworks/{}", path.name(0)), path.group());
        self.vnets.get(&key(&path.id(1))).ok_or_else(missing)
    }
}

fn new_subnet(id: &str, body: &Value, etag: String) -> Subnet {
    let properties = body.get("properties").and_then(Value::as_object).cloned().unwrap_or_default();
    let one = properties.get("addressPrefix").into_iter();
    let several = properties.get("addressPrefixes").and_then(Value::as_array).into_iter().flatten();
    let prefixes = one.chain(several).filter_map(Value::as_str).filter_map(|prefix| prefix.parse().ok()).collect();
    let properties = writable(properties, &["addressPrefix", "addressPrefixes", "provisioningState", "ipConfigurations"]);
    Subnet { id: id.into(), etag, state: State::Updating, prefixes, properties }
}

fn in_use(id: &str) -> ArmError {
    ArmError::network(400, "InUseSubnetCannotBeDeleted", format!("Subnet {id} is in use and cannot be deleted."))
}
