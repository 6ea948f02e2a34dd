//! NICs of stand-alone and Flexible machines: whole-resource PUT, reads, deletion; and what happens when a write to any NIC takes effect.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use serde_json::{Map, Value, json};

use super::answer::{Answer, Context};
use super::cloud::Cloud;
use super::error::{ArmError, put};
use super::operation::{Fate, NicBefore, Provider, Status, Work};
use super::path::{ArmPath, key};
use super::resource::{IpConfig, Nic, State, range_of};
use super::wanted::{self, Wanted, writable};

/// Members of a NIC's `properties` that callers cannot set.
const READ_ONLY: [&str; 9] = [
    "provisioningState",
    "resourceGuid",
    "ipConfigurations",
    "macAddress",
    "primary",
    "virtualMachine",
    "hostedWorkloads",
    "tapConfigurations",
    "vnetEncryptionSupported",
];

/// Azure's limit of IP configurations on a NIC, and on a machine.
pub(super) const LIMIT: usize = 256;

impl Cloud {
    pub fn get_nic(&self, path: &ArmPath, context: &Context) -> Result<Answer, ArmError> {
        let nic = self.nic(path)?;
        let view = nic.stale.clone().filter(|_| context.stale).unwrap_or_else(|| nic.view());
        let etag = view.get("etag").and_then(Value::as_str).unwrap_or_default().to_owned();
        Ok(Answer::json(200, view).header("ETag", etag))
    }

    pub fn list_nics(&self, path: &ArmPath, context: &Context) -> Answer {
        let nics = self.nics.values().filter(|nic| !nic.of_instance() && in_scope(&nic.id, path)).map(Nic::view);
        self.page(nics.collect(), path, context)
    }

    pub fn nic_configs(&self, path: &ArmPath, context: &Context) -> Result<Answer, ArmError> {
        let nic = self.nic(path)?;
        let configs = nic.configs.iter().map(|config| nic.config_view(config)).collect();
        Ok(self.page(configs, path, context))
    }

    pub fn nic_config(&self, path: &ArmPath) -> Result<Answer, ArmError> {
        let nic = self.nic(path)?;
        let config = nic.configs.iter().find(|config| config.name.eq_ignore_ascii_case(path.name(1)));
        config.map(|config| Answer::json(200, nic.config_view(config))).ok_or_else(|| ArmError::child_not_found(&path.full_id()))
    }

    pub fn delete_nic(&mut self, path: &ArmPath, context: &Context) -> Result<Answer, ArmError> {
        let Ok(nic) = self.nic(path) else { return Ok(Answer::empty(204)) };
        if let Some(machine) = &nic.machine {
            let message = format!(
                "Network Interface {} is used by existing resource {machine}. In order to delete the network interface, it must be dissociated from \
                 the resource. To learn more, see aka.ms/deletenic.",
                nic.id
            );
            return Err(ArmError::network(400, "NicInUse", message));
        }
        let location = nic.location.clone();
        self.remove_nic(&key(&path.id(1)));
        let operation = self.begin(context, Provider::Network, &location, Work::Nothing);
        Ok(self.announce(Answer::empty(202), context, &operation, true))
    }

    /// The only write there is: the whole NIC, as it shall be.
    pub fn put_nic(&mut self, path: &ArmPath, body: &Value, context: &Context) -> Result<Answer, ArmError> {
        let id = path.id(1);
        let key = key(&id);
        let location = body.get("location").and_then(Value::as_str);
        let location =
            location.ok_or_else(|| ArmError::compute(400, "LocationRequired", "The location property is required for this definition."))?;
        let properties = body.get("properties").and_then(Value::as_object).cloned().unwrap_or_default();
        let mut wanted = wanted::parse(properties.get("ipConfigurations"), &id)?;
        if let Some(nic) = self.nics.get(&key) {
            self.check_precondition(nic, context)?;
            wanted::check_change(&wanted, nic)?;
        } else if let Some(given) = &context.if_match {
            // What is not there matches no etag.
            return Err(ArmError::network_precondition(given, "", &id));
        }
        wanted::check_whole(&mut wanted, &id)?;
        wanted::check_blocks(&wanted, self.settings.prefix_blocks)?;
        self.check_subnets(&wanted, &id, context)?;
        if context.fate == Fate::Ignore {
            return self.get_nic(path, &Context::default()).map(|answer| Answer { headers: Vec::new(), ..answer });
        }
        let addresses = self.choose_addresses(&wanted, &key)?;
        let created = !self.nics.contains_key(&key);
        if created {
            self.create_nic(&id, location);
        }
        let change = Change {
            tags: body.get("tags").and_then(Value::as_object).cloned().unwrap_or_default(),
            properties: writable(properties, &READ_ONLY),
            wanted,
            addresses,
        };
        let operation = self.change_nic(&key, change, context);
        let view = self.nics.get(&key).map(Nic::view).unwrap_or_default();
        let answer = Answer::json(if created { 201 } else { 200 }, view);
        Ok(match operation {
            Some(operation) => self.announce(answer, context, &operation, false),
            None => answer,
        })
    }

    /// Applies an accepted write; returns the operation that carries it out, or none when all is done.
    fn change_nic(&mut self, key: &str, change: Change, context: &Context) -> Option<String> {
        let etag = self.weak_etag();
        let operation = self.nics.get(key).and_then(|nic| nic.operation.clone());
        let nic = self.nics.get(key)?;
        let (id, location, machine) = (nic.id.clone(), nic.location.clone(), nic.machine.clone());
        let before = Box::new(NicBefore {
            tags: nic.tags.clone(),
            properties: nic.properties.clone(),
            configs: nic.configs.clone(),
            leaving: nic.leaving.clone(),
        });
        let view = nic.view();
        let remember = self.remembers();
        let (added, removed) = self.merge(key, change);
        let nic = self.nics.get_mut(key)?;
        let unchanged = nic.state == State::Succeeded
            && nic.tags == before.tags
            && nic.properties == before.properties
            && nic.configs == before.configs;
        if unchanged {
            return None;
        }
        nic.stale = remember.then(|| view.clone());
        nic.etag = etag;
        let node = nic.node.clone();
        self.journal.wrote(self.now, &id, node, &context.by, added, removed);
        if let Some(view_after) = self.nics.get(key).map(Nic::view).filter(|_| !before.configs.is_empty()) {
            self.journal.disturbed(&id, &context.by, &view, &view_after);
        }
        if machine.is_none() {
            self.finish_nic(key, &before, &Fate::Succeed);
            return None;
        }
        let begun = self.begin(context, Provider::Network, &location, Work::Nic { key: key.into(), before });
        if let Some(older) = operation {
            self.supersede(&older, superseded(&older, &begun));
        }
        let nic = self.nics.get_mut(key)?;
        nic.state = State::Updating;
        nic.operation = Some(begun.clone());
        for config in nic.configs.iter_mut().filter(|config| config.state == State::Failed) {
            config.state = State::Updating;
        }
        Some(begun)
    }

    /// Turns the NIC's configurations into those wanted; returns the names added and dropped.
    fn merge(&mut self, key: &str, change: Change) -> (Vec<String>, Vec<String>) {
        let Change { tags, properties, wanted, mut addresses } = change;
        let now = self.now;
        let Some(nic) = self.nics.get_mut(key) else { return (Vec::new(), Vec::new()) };
        let mut old = std::mem::take(&mut nic.configs);
        let mut added = Vec::new();
        for want in wanted {
            let Wanted { name, properties, subnet, primary, address: fixed, block, .. } = want;
            let kept = old.iter().position(|config| config.name.eq_ignore_ascii_case(&name)).map(|index| old.remove(index));
            let config = match kept {
                Some(config) if config.is_block() == block && fixed.is_none_or(|fixed| config.address == Some(fixed)) => {
                    IpConfig { primary, subnet, properties, ..config }
                }
                kept => {
                    let address = fixed.or_else(|| addresses.pop());
                    nic.leaving.extend(kept);
                    for address in address.into_iter().flat_map(|first| range_of(first, block)) {
                        self.ledger.hold(address, &nic.id, &name, now);
                    }
                    added.push(name.clone());
                    IpConfig { name, address, primary, subnet, state: State::Updating, properties }
                }
            };
            nic.configs.push(config);
        }
        let removed = old.iter().map(|config| config.name.clone()).collect();
        nic.leaving.extend(old);
        nic.tags = tags;
        nic.properties = properties;
        (added, removed)
    }

    /// Lets an accepted write take effect, or fail.
    pub fn finish_nic(&mut self, key: &str, before: &NicBefore, fate: &Fate) -> Status {
        match fate {
            Fate::Cancel => return self.cancel_nic(key, before),
            Fate::Fail(code) => {
                self.provision(key, usize::MAX);
                self.end_nic(key, State::Failed);
                return Status::Failed(ArmError::network(200, code, "The operation failed."));
            }
            Fate::Partial(fail) => {
                self.provision(key, *fail);
                self.drop_leaving(key);
                self.end_nic(key, State::Failed);
                return Status::Failed(ArmError::network(200, "NetworkingInternalOperationError", "An unexpected error occurred."));
            }
            Fate::Succeed | Fate::Ignore => {}
        }
        self.provision(key, 0);
        self.drop_leaving(key);
        self.end_nic(key, State::Succeeded);
        Status::Succeeded
    }

    /// Provisions configurations that are being updated; the last `fail` of them fail instead.
    pub fn provision(&mut self, key: &str, fail: usize) {
        let Some(nic) = self.nics.get_mut(key) else { return };
        let fresh: Vec<&mut IpConfig> = nic.configs.iter_mut().filter(|config| config.state != State::Succeeded).collect();
        let succeed = fresh.len().saturating_sub(fail);
        let mut addresses = Vec::new();
        for (index, config) in fresh.into_iter().enumerate() {
            config.state = if index < succeed { State::Succeeded } else { State::Failed };
            if index < succeed {
                addresses.extend(config.addresses());
            }
        }
        if nic.machine.is_some() {
            for address in addresses {
                self.bring_up(key, address);
            }
        }
    }

    /// Frees the addresses of dropped configurations; the next to ask may get them.
    pub fn drop_leaving(&mut self, key: &str) {
        let Some(nic) = self.nics.get_mut(key) else { return };
        let reference = nic.fabric_ref();
        let gone: Vec<Ipv4Addr> = std::mem::take(&mut nic.leaving).iter().flat_map(IpConfig::addresses).collect();
        for address in gone {
            self.take_down(key, reference.clone(), address);
            self.ledger.release(address, self.now);
        }
    }

    /// Deletes a NIC at once, and frees all its addresses.
    pub fn remove_nic(&mut self, key: &str) {
        if let Some(nic) = self.nics.get_mut(key) {
            let reference = nic.fabric_ref();
            let configs = std::mem::take(&mut nic.configs);
            nic.leaving.extend(configs);
            let gone: Vec<Ipv4Addr> = std::mem::take(&mut nic.leaving).iter().flat_map(IpConfig::addresses).collect();
            for address in gone {
                self.take_down(key, reference.clone(), address);
                self.ledger.release(address, self.now);
            }
        }
        self.nics.remove(key);
    }

    /// Whether resources keep how they looked before the last write: not in a fleet, where that would fill the memory.
    pub fn remembers(&self) -> bool {
        self.nics.len() <= 100
    }

    pub fn create_nic(&mut self, id: &str, location: &str) {
        let nic = Nic {
            id: id.into(),
            guid: self.guid(),
            location: location.into(),
            tags: Map::new(),
            properties: Map::new(),
            configs: Vec::new(),
            leaving: Vec::new(),
            machine: None,
            node: None,
            mac: None,
            etag: self.weak_etag(),
            state: State::Succeeded,
            operation: None,
            attached: Vec::new(),
            shown: Vec::new(),
            listed_from: self.now,
            stale: None,
        };
        self.nics.insert(key(id), nic);
    }

    pub fn check_subnets(&self, wanted: &[Wanted], nic: &str, context: &Context) -> Result<(), ArmError> {
        for want in wanted {
            let Some(subnet) = self.subnet_for(nic, &want.subnet) else {
                let message = format!(
                    "Resource {} referenced by resource {nic} was not found. Please make sure that the referenced resource exists, and that both \
                     resources are in the same region.",
                    want.subnet
                );
                return Err(ArmError::network(400, "InvalidResourceReference", message));
            };
            let join = "Microsoft.Network/virtualNetworks/subnets/join/action";
            if !self.is_allowed(join, &subnet.id) {
                return Err(ArmError::linked_forbidden(&context.by, join, nic, &subnet.id));
            }
            for (member, action) in JOINS {
                if let Some(id) = wanted::ids(&want.properties, member).iter().find(|id| !self.is_allowed(action, id)) {
                    return Err(ArmError::linked_forbidden(&context.by, action, nic, id));
                }
            }
        }
        Ok(())
    }

    fn check_precondition(&self, nic: &Nic, context: &Context) -> Result<(), ArmError> {
        let Some(given) = &context.if_match else { return Ok(()) };
        if given != "*" && given != &nic.etag {
            return Err(ArmError::network_precondition(given, &nic.etag, &nic.id));
        }
        match nic.operation.as_ref().and_then(|id| self.operations.get(id)) {
            Some(operation) => Err(ArmError::another_operation(&Self::operation_uri(context, operation, "operations", ""))),
            None => Ok(()),
        }
    }

    fn cancel_nic(&mut self, key: &str, before: &NicBefore) -> Status {
        let NicBefore { tags, properties, configs, leaving } = before.clone();
        let kept: BTreeSet<Ipv4Addr> = configs.iter().chain(&leaving).flat_map(IpConfig::addresses).collect();
        let now = self.now;
        if let Some(nic) = self.nics.get_mut(key) {
            for address in nic.configs.iter().chain(&nic.leaving).flat_map(IpConfig::addresses).filter(|address| !kept.contains(address)) {
                self.ledger.release(address, now);
            }
            nic.tags = tags;
            nic.properties = properties;
            nic.configs = configs;
            nic.leaving = leaving;
        }
        self.end_nic(key, State::Succeeded);
        Status::Canceled(ArmError::network(200, "Canceled", "Operation was canceled."))
    }

    pub fn end_nic(&mut self, key: &str, state: State) {
        let etag = self.weak_etag();
        if let Some(nic) = self.nics.get_mut(key) {
            nic.state = state;
            nic.operation = None;
            nic.etag = etag;
        }
    }

    fn nic(&self, path: &ArmPath) -> Result<&Nic, ArmError> {
        let missing = || ArmError::resource_not_found(&format!("Microsoft.Network/networkInterfaces/{}", path.name(0)), path.group());
        self.nics.get(&key(&path.id(1))).ok_or_else(missing)
    }

    /// One page of a list, with a link to the next.
    pub fn page(&self, items: Vec<Value>, path: &ArmPath, context: &Context) -> Answer {
        let size = self.settings.page_size.max(1);
        let end = context.skip.saturating_add(size);
        let more = items.len() > end;
        let page: Vec<Value> = items.into_iter().skip(context.skip).take(size).collect();
        let mut body = json!({ "value": page });
        if more {
            let filter = context.filter.as_deref().map(|filter| format!("&$filter={}", filter.replace(' ', "%20"))).unwrap_or_default();
            let link = format!("{}{}?api-version={}{filter}&$skiptoken={end}", context.base, path.raw, context.api_version);
            put(&mut body, "nextLink", json!(link));
        }
        Answer::json(200, body)
    }
}

/// What a configuration joins, and the action that it takes.
const JOINS: [(&str, &str); 5] = [
    ("applicationSecurityGroups", "Microsoft.Network/applicationSecurityGroups/joinIpConfiguration/action"),
    ("loadBalancerBackendAddressPools", "Microsoft.Network/loadBalancers/backendAddressPools/join/action"),
    ("loadBalancerInboundNatRules", "Microsoft.Network/loadBalancers/inboundNatRules/join/action"),
    ("loadBalancerInboundNatPools", "Microsoft.Network/loadBalancers/inboundNatPools/join/action"),
    ("applicationGatewayBackendAddressPools", "Microsoft.Network/applicationGateways/backendAddressPools/join/action"),
];

/// A write, checked and with its addresses chosen.
struct Change {
    tags: Map<String, Value>,
    properties: Map<String, Value>,
    wanted: Vec<Wanted>,
    addresses: Vec<Ipv4Addr>,
}

pub(super) fn in_scope(id: &str, path: &ArmPath) -> bool {
    key(id).starts_with(&format!("{}/", key(&path.scope())))
}

fn superseded(older: &str, newer: &str) -> ArmError {
    ArmError::network(200, "Canceled", "Operation was canceled.").detail(
        "CanceledAndSupersededDueToAnotherOperation",
        format!("Operation PutNicOperation ({older}) was canceled and superseded by operation PutNicOperation ({newer})."),
    )
}
