//! Instances of Uniform scale sets: the model is written whole or in part through Compute, the NICs follow when the operation runs and are read
//! through paths of their own.

use serde_json::{Map, Value};

use super::address;
use super::answer::{Answer, Context};
use super::cloud::Cloud;
use super::command::Condition;
use super::error::ArmError;
use super::operation::{Fate, Provider, Status, Work};
use super::path::{ArmPath, key, last};
use super::resource::{IpConfig, Machine, Nic, Shape, State};
use super::wanted::{self, Wanted, writable};

/// The versions of the paths under which the NICs of instances are read.
const NIC_VERSIONS: [&str; 2] = ["2017-03-30", "2018-10-01"];

impl Cloud {
    pub fn get_instance(&self, path: &ArmPath, context: &Context) -> Result<Answer, ArmError> {
        let machine = self.instance(path)?;
        let view = machine.stale.clone().filter(|_| context.stale).unwrap_or_else(|| machine.view(&self.nics, context.expand));
        let etag = view.get("etag").and_then(Value::as_str).unwrap_or_default().to_owned();
        Ok(Answer::json(200, view).header("ETag", etag).header("x-ms-request-charge", "1"))
    }

    pub fn list_instances(&self, path: &ArmPath, context: &Context) -> Result<Answer, ArmError> {
        self.require_scale_set(path)?;
        let views = self.instances_of(&path.id(1)).map(|machine| machine.view(&self.nics, context.expand)).collect();
        Ok(self.page(views, path, context).header("x-ms-request-charge", "1"))
    }

    pub fn instance_view(&self, path: &ArmPath) -> Result<Answer, ArmError> {
        Ok(Answer::json(200, self.instance(path)?.instance_view()).header("x-ms-request-charge", "1"))
    }

    pub fn put_instance(&mut self, path: &ArmPath, body: &Value, context: &Context) -> Result<Answer, ArmError> {
        let machine = self.instance(path)?.clone();
        if body.pointer("/properties/storageProfile").is_some() {
            self.journal.counters.storage_profiles_sent = self.journal.counters.storage_profiles_sent.saturating_add(1);
        }
        refuse_image(body, &machine, context)?;
        self.check_instance_state(&machine, context)?;
        let key = key(&path.id(2));
        let profile = body.pointer("/properties/networkProfileConfiguration/networkInterfaceConfigurations").and_then(Value::as_array);
        let wanted = profile.map(|profile| self.check_profile(profile, &machine, context)).transpose()?;
        if context.fate == Fate::Ignore {
            return Ok(Answer::json(200, machine.view(&self.nics, false)).header("ETag", machine.etag_text()));
        }
        let before = machine.view(&self.nics, false);
        let old_model = self.apply_model(&key, body, wanted.map(|()| profile.cloned().unwrap_or_default()));
        let work = Work::Instance { key: key.clone(), before: old_model };
        let operation = self.begin(context, Provider::Compute, &machine.location, work);
        if let Some(older) = &machine.operation {
            self.supersede(older, preempted());
        }
        let remember = self.remembers();
        if let Some(machine) = self.machines.get_mut(&key) {
            machine.state = State::Updating;
            machine.operation = Some(operation.clone());
            machine.stale = remember.then(|| before.clone());
        }
        self.note_instance_write(&key, &before, context);
        let view = self.machines.get(&key).map(|machine| machine.view(&self.nics, false)).unwrap_or_default();
        let etag = self.machines.get(&key).map(Machine::etag_text).unwrap_or_default();
        let answer = Answer::json(200, view).header("ETag", etag).header("x-ms-request-charge", "0");
        Ok(self.announce(answer, context, &operation, false))
    }

    /// Makes the NICs of an instance those of its model.
    pub fn finish_instance(&mut self, key: &str, before: &[Value], fate: &Fate) -> Status {
        let status = match fate {
            Fate::Cancel => {
                self.set_model(key, before.to_vec());
                Status::Canceled(preempted())
            }
            Fate::Fail(code) => Status::Failed(ArmError::compute(200, code, "The operation failed.")),
            Fate::Partial(fail) => {
                let realised = self.realise(key, *fail);
                realised.map_or_else(Status::Failed, |()| Status::Failed(internal()))
            }
            Fate::Succeed | Fate::Ignore => self.realise(key, 0).map_or_else(Status::Failed, |()| Status::Succeeded),
        };
        if let Some(machine) = self.machines.get_mut(key) {
            machine.operation = None;
            machine.state = if matches!(status, Status::Failed(_)) { State::Failed } else { State::Succeeded };
        }
        status
    }

    pub fn list_instance_nics(&self, path: &ArmPath, context: &Context) -> Result<Answer, ArmError> {
        check_nic_version(context)?;
        self.require_scale_set(path)?;
        let prefix = if path.names.len() > 1 { path.id(2) } else { path.id(1) };
        let nics: Vec<Value> = self.nics.values().filter(|nic| self.is_listed(nic, &prefix)).map(|nic| shown(nic, context)).collect();
        if nics.is_empty() && self.instances_of(&path.id(1)).next().is_none() {
            let kind = format!("Microsoft.Compute/virtualMachineScaleSets/{}", path.name(0));
            return Err(ArmError::resource_not_found(&kind, path.group()));
        }
        Ok(self.page(nics, path, context))
    }

    pub fn get_instance_nic(&self, path: &ArmPath, context: &Context) -> Result<Answer, ArmError> {
        check_nic_version(context)?;
        let nic = self.instance_nic(path)?;
        Ok(Answer::json(200, shown(nic, context)).header("ETag", nic.etag.clone()))
    }

    pub fn instance_nic_configs(&self, path: &ArmPath, context: &Context) -> Result<Answer, ArmError> {
        check_nic_version(context)?;
        let nic = self.instance_nic(path)?;
        Ok(self.page(nic.configs.iter().map(|config| nic.config_view(config)).collect(), path, context))
    }

    pub fn instance_nic_config(&self, path: &ArmPath, context: &Context) -> Result<Answer, ArmError> {
        check_nic_version(context)?;
        let nic = self.instance_nic(path)?;
        let config = nic.configs.iter().find(|config| config.name.eq_ignore_ascii_case(path.name(3)));
        config.map(|config| Answer::json(200, nic.config_view(config))).ok_or_else(|| ArmError::child_not_found(&path.full_id()))
    }

    pub fn instances_of<'a>(&'a self, scale_set: &str) -> impl Iterator<Item = &'a Machine> + use<'a> {
        let prefix = format!("{}/virtualmachines/", key(scale_set));
        self.machines.range(prefix.clone()..).take_while(move |(key, _)| key.starts_with(&prefix)).map(|(_, machine)| machine)
    }

    /// Adds what the model lacks in the NICs and drops what it no longer has; the last `fail` of the new configurations are left out.
    pub fn realise(&mut self, key: &str, fail: usize) -> Result<(), ArmError> {
        let Some(machine) = self.machines.get(key) else { return Err(gone()) };
        let Shape::Instance { model, .. } = &machine.shape else { return Ok(()) };
        for (nic_key, profile) in machine.nics.clone().into_iter().zip(model.clone()) {
            self.realise_nic(&nic_key, &profile, fail)?;
        }
        Ok(())
    }

    fn realise_nic(&mut self, nic_key: &str, profile: &Value, fail: usize) -> Result<(), ArmError> {
        let Some(nic) = self.nics.get(nic_key) else { return Err(gone()) };
        let id = nic.id.clone();
        let properties = profile.get("properties").and_then(Value::as_object).cloned().unwrap_or_default();
        let mut wanted = wanted::parse(properties.get("ipConfigurations"), &id)?;
        wanted::check_whole(&mut wanted, &id)?;
        let known = |name: &str| nic.configs.iter().any(|config| config.name.eq_ignore_ascii_case(name));
        let fresh = wanted.iter().filter(|want| !known(&want.name)).count();
        let Some(subnet) = wanted.first().and_then(|want| self.subnet(&want.subnet)) else { return Err(gone()) };
        let full = |_| ArmError::subnet_is_full(&subnet.id, &subnet.prefix_text(), fresh);
        let mut addresses = address::lowest(subnet, &self.ledger, fresh).map_err(full)?;
        addresses.truncate(fresh.saturating_sub(fail));
        let mut addresses = addresses.into_iter();
        let now = self.now;
        let remember = self.remembers();
        let Some(nic) = self.nics.get_mut(nic_key) else { return Err(gone()) };
        nic.stale = remember.then(|| nic.view());
        let mut old = std::mem::take(&mut nic.configs);
        for Wanted { name, subnet, primary, properties, .. } in wanted {
            let kept = old.iter().position(|config| config.name.eq_ignore_ascii_case(&name)).map(|index| old.remove(index));
            if let Some(config) = kept {
                nic.configs.push(IpConfig { primary, subnet, properties, ..config });
            } else if let Some(address) = addresses.next() {
                self.ledger.hold(address, &id, &name, now);
                nic.configs.push(IpConfig { name, address: Some(address), primary, subnet, state: State::Updating, properties });
            }
        }
        nic.leaving.extend(old);
        nic.properties = writable(properties, &["ipConfigurations", "primary"]);
        self.provision(nic_key, 0);
        self.drop_leaving(nic_key);
        self.end_nic(nic_key, State::Succeeded);
        Ok(())
    }

    /// Writes tags and, if given, the network profile; returns the model that was there.
    fn apply_model(&mut self, key: &str, body: &Value, profile: Option<Vec<Value>>) -> Vec<Value> {
        let Some(machine) = self.machines.get_mut(key) else { return Vec::new() };
        if let Some(tags) = body.get("tags").and_then(Value::as_object) {
            machine.tags.clone_from(tags);
        }
        let Shape::Instance { model, customised, .. } = &mut machine.shape else { return Vec::new() };
        let before = model.clone();
        if let Some(profile) = profile {
            *model = profile;
            *customised = true;
            machine.etag = machine.etag.saturating_add(1);
        }
        before
    }

    fn set_model(&mut self, key: &str, to: Vec<Value>) {
        if let Some(machine) = self.machines.get_mut(key) {
            machine.etag = machine.etag.saturating_add(1);
            if let Shape::Instance { model, .. } = &mut machine.shape {
                *model = to;
            }
        }
    }

    fn note_instance_write(&mut self, key: &str, before: &Value, context: &Context) {
        let Some(machine) = self.machines.get(key) else { return };
        let after = machine.view(&self.nics, false);
        let (old, new) = (config_names(before), config_names(&after));
        let added = new.iter().filter(|name| !old.contains(name)).cloned().collect();
        let removed = old.iter().filter(|name| !new.contains(name)).cloned().collect();
        let nic = machine.nics.first().and_then(|key| self.nics.get(key)).map_or_else(|| machine.id.clone(), |nic| nic.id.clone());
        let (id, node) = (machine.id.clone(), machine.node.clone());
        self.journal.wrote(self.now, &nic, Some(node), &context.by, added, removed);
        self.journal.disturbed(&id, &context.by, before, &after);
    }

    fn check_profile(&self, profile: &[Value], machine: &Machine, context: &Context) -> Result<(), ArmError> {
        if profile.len() != machine.nics.len() {
            let message = format!("The network profile of {} must have {} network interfaces.", machine.id, machine.nics.len());
            return Err(ArmError::compute(400, "InvalidParameter", message));
        }
        for (nic_key, config) in machine.nics.iter().zip(profile) {
            let Some(nic) = self.nics.get(nic_key) else { return Err(gone()) };
            if config.get("name").and_then(Value::as_str).is_none_or(|name| !name.eq_ignore_ascii_case(last(&nic.id))) {
                let message = format!("Network interface configuration {} cannot be removed or renamed.", last(&nic.id));
                return Err(ArmError::compute(400, "InvalidParameter", message));
            }
            refuse_unknown(config)?;
            let mut wanted = wanted::parse(config.pointer("/properties/ipConfigurations"), &nic.id)?;
            wanted::check_change(&wanted, nic)?;
            wanted::check_whole(&mut wanted, &nic.id)?;
            self.check_subnets(&wanted, &nic.id, context)?;
        }
        Ok(())
    }

    fn check_instance_state(&self, machine: &Machine, context: &Context) -> Result<(), ArmError> {
        if machine.condition == Condition::Deleting {
            let name = machine.id.rsplit('/').nth(2).unwrap_or_default();
            let message = format!(
                "Operation 'Put on Virtual Machine Scale Set VM Instance' is not allowed on Virtual Machine Scale Set {name} VM instance {} since it is \
                 marked for deletion. You can only retry the Delete operation (or wait for an ongoing one to complete).",
                last(&machine.id)
            );
            return Err(ArmError::compute(409, "OperationNotAllowed", message));
        }
        let Some(given) = &context.if_match else { return Ok(()) };
        if given != "*" && given.trim_matches('"') != machine.etag.to_string() {
            return Err(ArmError::compute_precondition(given, &machine.etag_text()));
        }
        let running = machine
            .operation
            .as_ref()
            .is_some_and(|id| self.operations.get(id).is_some_and(|operation| operation.status == Status::Running));
        if running {
            return Err(ArmError::compute(409, "Conflict", "The request failed due to conflict with a concurrent request."));
        }
        Ok(())
    }

    fn instance(&self, path: &ArmPath) -> Result<&Machine, ArmError> {
        self.require_scale_set(path)?;
        if path.name(1).parse::<u32>().is_err() {
            let error = ArmError::compute(400, "InvalidParameter", "Virtual Machine Scale Set VM instanceId must be a number.");
            return Err(ArmError { target: Some("instanceId".into()), ..error });
        }
        let message = || format!("The provided instanceId {} is not an active Virtual Machine Scale Set VM instanceId.", path.name(1));
        self.machines.get(&key(&path.id(2))).ok_or_else(|| ArmError::compute(404, "InstanceIdNotFound", message()))
    }

    fn instance_nic(&self, path: &ArmPath) -> Result<&Nic, ArmError> {
        self.instance(path)?;
        let nic = self.nics.get(&key(&path.id(3))).filter(|nic| nic.listed_from <= self.now);
        nic.ok_or_else(|| ArmError::child_not_found(&path.id(3)))
    }

    fn is_listed(&self, nic: &Nic, prefix: &str) -> bool {
        nic.of_instance() && nic.listed_from <= self.now && key(&nic.id).starts_with(&format!("{}/", key(prefix)))
    }

    pub fn require_scale_set(&self, path: &ArmPath) -> Result<(), ArmError> {
        let known = self.scale_sets.contains_key(&key(&path.id(1)));
        let kind = format!("Microsoft.Compute/virtualMachineScaleSets/{}", path.name(0));
        if known { Ok(()) } else { Err(ArmError::resource_not_found(&kind, path.group())) }
    }
}

/// The image belongs to Microsoft's subscription: sending it back asks for rights there.
fn refuse_image(body: &Value, machine: &Machine, context: &Context) -> Result<(), ArmError> {
    let Some(image) = body.pointer("/properties/storageProfile/imageReference").filter(|image| !image.is_null()) else { return Ok(()) };
    let linked = image.get("id").and_then(Value::as_str).unwrap_or("the image");
    Err(ArmError::linked_forbidden(&context.by, "Microsoft.Compute/galleries/images/versions/read", &machine.id, linked))
}

/// A scale set's IP configuration has no address and no prefix length of its own; Compute refuses members that it does not know.
fn refuse_unknown(config: &Value) -> Result<(), ArmError> {
    let configs = config.pointer("/properties/ipConfigurations").and_then(Value::as_array).into_iter().flatten();
    let mut properties = configs.filter_map(|config| config.get("properties")).filter_map(Value::as_object);
    let unknown = ["privateIPAddress", "privateIPAllocationMethod", "privateIPAddressPrefixLength", "provisioningState"];
    let named = |properties: &Map<String, Value>| unknown.into_iter().find(|name| properties.contains_key(*name));
    match properties.find_map(named) {
        Some(name) => {
            let message = format!("Could not find member '{name}' on object of type 'VirtualMachineScaleSetIPConfigurationProperties'.");
            let error = ArmError::compute(400, "InvalidParameter", message);
            Err(ArmError { target: Some(name.into()), ..error })
        }
        None => Ok(()),
    }
}

fn check_nic_version(context: &Context) -> Result<(), ArmError> {
    if NIC_VERSIONS.contains(&context.api_version.as_str()) {
        return Ok(());
    }
    let message = format!(
        "No registered resource provider found for location '' and API version '{}' for type 'virtualMachineScaleSets/networkInterfaces'. The \
         supported api-versions are '{}'.",
        context.api_version,
        NIC_VERSIONS.join(", ")
    );
    Err(ArmError::gateway(400, "NoRegisteredProviderFound", message))
}

fn shown(nic: &Nic, context: &Context) -> Value {
    nic.stale.clone().filter(|_| context.stale).unwrap_or_else(|| nic.view())
}

fn config_names(view: &Value) -> Vec<String> {
    let configs = view.pointer("/properties/networkProfileConfiguration/networkInterfaceConfigurations").and_then(Value::as_array);
    let nics =
        configs.into_iter().flatten().filter_map(|nic| nic.pointer("/properties/ipConfigurations")).filter_map(Value::as_array).flatten();
    nics.filter_map(|config| config.get("name")).filter_map(Value::as_str).map(str::to_owned).collect()
}

fn preempted() -> ArmError {
    ArmError::compute(200, "OperationPreempted", "Operation execution has been preempted by a more recent operation.")
}

fn internal() -> ArmError {
    ArmError::compute(
        200,
        "NetworkingInternalOperationError",
        "An unexpected error occured while processing the network profile of the VM.",
    )
}

fn gone() -> ArmError {
    ArmError::compute(200, "NotFound", "The resource is gone.")
}
