//! VMs and scale sets: reads, and the writes that tests of clients need. What a machine runs is not emulated.

use serde_json::{Map, Value, json};

use super::answer::{Answer, Context};
use super::cloud::Cloud;
use super::command::Condition;
use super::error::{ArmError, put};
use super::nic::in_scope;
use super::operation::{Provider, Work};
use super::path::{ArmPath, key};
use super::resource::{Machine, ScaleSet, Shape, State, default};

impl Cloud {
    pub fn get_vm(&self, path: &ArmPath, context: &Context) -> Result<Answer, ArmError> {
        let machine = self.vm(path)?;
        Ok(Answer::json(200, machine.view(&self.nics, context.expand)).header("ETag", machine.etag_text()))
    }

    pub fn vm_view(&self, path: &ArmPath) -> Result<Answer, ArmError> {
        Ok(Answer::json(200, self.vm(path)?.instance_view()))
    }

    pub fn list_vms(&self, path: &ArmPath, context: &Context) -> Result<Answer, ArmError> {
        let member_of = context.filter.as_deref().map(scale_set_of_filter).transpose()?;
        let vms = self.machines.values().filter(|machine| in_scope(&machine.id, path)).filter(|machine| match &machine.shape {
            Shape::Vm { scale_set } => member_of.as_ref().is_none_or(|wanted| scale_set.as_ref().is_some_and(|id| key(id) == *wanted)),
            Shape::Instance { .. } => false,
        });
        Ok(self.page(vms.map(|machine| machine.view(&self.nics, context.expand)).collect(), path, context))
    }

    pub fn put_vm(&mut self, path: &ArmPath, body: &Value, context: &Context) -> Result<Answer, ArmError> {
        let id = path.id(1);
        let key = key(&id);
        if let (Some(machine), Some(given)) = (self.machines.get(&key), &context.if_match)
            && given.trim_matches('"') != machine.etag.to_string()
        {
            return Err(ArmError::compute_precondition(given, &machine.etag_text()));
        }
        let created = !self.machines.contains_key(&key);
        if created {
            self.create_vm(&id, body)?;
        } else if let Some(machine) = self.machines.get_mut(&key) {
            machine.etag = machine.etag.saturating_add(1);
            machine.state = State::Updating;
        }
        let location = self.machines.get(&key).map(|machine| machine.location.clone()).unwrap_or_default();
        let operation = self.begin(context, Provider::Compute, &location, Work::Machine { key: key.clone() });
        let (view, etag) =
            self.machines.get(&key).map(|machine| (machine.view(&self.nics, false), machine.etag_text())).unwrap_or_default();
        let answer = Answer::json(if created { 201 } else { 200 }, view).header("ETag", etag);
        Ok(if created { self.announce(answer, context, &operation, false) } else { answer })
    }

    pub fn delete_vm(&mut self, path: &ArmPath, context: &Context) -> Result<Answer, ArmError> {
        let machine = self.vm(path)?.clone();
        for key in &machine.nics {
            if let Some(nic) = self.nics.get_mut(key) {
                nic.machine = None;
                nic.node = None;
            }
        }
        self.machines.remove(&key(&machine.id));
        let operation = self.begin(context, Provider::Compute, &machine.location, Work::Nothing);
        Ok(self.announce(Answer::empty(202), context, &operation, true))
    }

    pub fn get_scale_set(&self, path: &ArmPath) -> Result<Answer, ArmError> {
        self.require_scale_set(path)?;
        let view = self.scale_sets.get(&key(&path.id(1))).map(|set| self.scale_set_view(set)).unwrap_or_default();
        let etag = view.get("etag").and_then(Value::as_str).unwrap_or_default().to_owned();
        Ok(Answer::json(200, view).header("ETag", etag))
    }

    pub fn list_scale_sets(&self, path: &ArmPath, context: &Context) -> Answer {
        let sets = self.scale_sets.values().filter(|set| in_scope(&set.id, path)).map(|set| self.scale_set_view(set));
        self.page(sets.collect(), path, context)
    }

    pub fn put_scale_set(&mut self, path: &ArmPath, body: &Value, context: &Context) -> Result<Answer, ArmError> {
        let id = path.id(1);
        let key = key(&id);
        if let (Some(set), Some(given)) = (self.scale_sets.get(&key), &context.if_match)
            && given.trim_matches('"') != set.etag.to_string()
        {
            return Err(ArmError::compute_precondition(given, &format!("\"{}\"", set.etag)));
        }
        let created = !self.scale_sets.contains_key(&key);
        if created {
            self.create_scale_set(&id, body)?;
        } else if let Some(set) = self.scale_sets.get_mut(&key) {
            set.state = State::Updating;
        }
        let location = self.scale_sets.get(&key).map(|set| set.location.clone()).unwrap_or_default();
        let operation = self.begin(context, Provider::Compute, &location, Work::ScaleSet { key: key.clone() });
        let view = self.scale_sets.get(&key).map(|set| self.scale_set_view(set)).unwrap_or_default();
        let etag = view.get("etag").and_then(Value::as_str).unwrap_or_default().to_owned();
        let answer = Answer::json(if created { 201 } else { 200 }, view).header("ETag", etag).header("x-ms-request-charge", "1");
        Ok(self.announce(answer, context, &operation, false))
    }

    pub fn delete_scale_set(&mut self, path: &ArmPath, context: &Context) -> Result<Answer, ArmError> {
        self.require_scale_set(path)?;
        let instances: Vec<String> = self.instances_of(&path.id(1)).map(|machine| key(&machine.id)).collect();
        for instance in instances {
            self.remove_machine(&instance);
        }
        let location = self.scale_sets.remove(&key(&path.id(1))).map(|set| set.location).unwrap_or_default();
        let operation = self.begin(context, Provider::Compute, &location, Work::Nothing);
        Ok(self.announce(Answer::empty(202), context, &operation, true).header("x-ms-request-charge", "0"))
    }

    pub fn delete_instance(&mut self, path: &ArmPath, context: &Context) -> Result<Answer, ArmError> {
        let machine = key(&path.id(2));
        let location = self.machines.get(&machine).map(|machine| machine.location.clone());
        let location = location.ok_or_else(|| ArmError::compute(404, "InstanceIdNotFound", "The instance was not found."))?;
        self.remove_machine(&machine);
        let operation = self.begin(context, Provider::Compute, &location, Work::Nothing);
        Ok(self.announce(Answer::empty(202), context, &operation, true).header("x-ms-request-charge", "1"))
    }

    /// Deletes a machine and its NICs at once.
    pub fn remove_machine(&mut self, key: &str) {
        for nic in self.machines.remove(key).map(|machine| machine.nics).unwrap_or_default() {
            self.remove_nic(&nic);
        }
    }

    pub fn new_machine(&mut self, id: &str, node: &str, location: &str, shape: Shape) -> Machine {
        Machine {
            id: id.into(),
            node: node.into(),
            location: location.into(),
            vm_id: self.guid(),
            tags: Map::new(),
            etag: 1,
            state: State::Succeeded,
            condition: Condition::Running,
            operation: None,
            nics: Vec::new(),
            size: "Standard_D2s_v3".into(),
            shape,
            stale: None,
        }
    }

    fn create_vm(&mut self, id: &str, body: &Value) -> Result<(), ArmError> {
        let node = body.pointer("/properties/osProfile/computerName").and_then(Value::as_str).unwrap_or_default();
        let scale_set = body.pointer("/properties/virtualMachineScaleSet/id").and_then(Value::as_str).map(str::to_owned);
        let location = location_of(body, &self.location).to_owned();
        let mut machine = self.new_machine(id, node, &location, Shape::Vm { scale_set });
        machine.state = State::Creating;
        let nics = body.pointer("/properties/networkProfile/networkInterfaces").and_then(Value::as_array).into_iter().flatten();
        for nic in nics.filter_map(|nic| nic.get("id")).filter_map(Value::as_str) {
            let missing = || ArmError::compute(404, "NotFound", format!("Resource {nic} was not found."));
            let found = self.nics.get_mut(&key(nic)).ok_or_else(missing)?;
            found.machine = Some(id.into());
            found.node = Some(machine.node.clone());
            machine.nics.push(key(nic));
        }
        self.machines.insert(key(id), machine);
        Ok(())
    }

    fn create_scale_set(&mut self, id: &str, body: &Value) -> Result<(), ArmError> {
        let flexible = body.pointer("/properties/orchestrationMode").and_then(Value::as_str) == Some("Flexible");
        let mut profile = body.pointer("/properties/virtualMachineProfile").cloned().unwrap_or_else(|| json!({}));
        if let Some(os) = profile.get_mut("osProfile").and_then(Value::as_object_mut) {
            os.remove("adminPassword");
        }
        let capacity = body.pointer("/sku/capacity").and_then(Value::as_u64).unwrap_or_default();
        let prefix = profile.pointer("/osProfile/computerNamePrefix").and_then(Value::as_str).unwrap_or("vm").to_owned();
        put(&mut profile, "timeCreated", json!("2026-01-01T00:00:00.000Z"));
        let model = profile.pointer_mut("/networkProfile/networkInterfaceConfigurations").and_then(Value::as_array_mut);
        let model = model.map(|nics| complete(nics)).unwrap_or_default();
        let location = location_of(body, &self.location).to_owned();
        let set = ScaleSet {
            id: id.into(),
            location: location.clone(),
            flexible,
            etag: 1,
            state: State::Creating,
            size: body.pointer("/sku/name").and_then(Value::as_str).unwrap_or("Standard_D2s_v3").into(),
            profile,
            guid: self.guid(),
        };
        self.scale_sets.insert(key(id), set);
        for number in 0..u32::try_from(capacity).unwrap_or_default() {
            self.create_instance(id, number, &format!("{prefix}{number:06}"), &location, &model)?;
        }
        Ok(())
    }

    /// Makes an instance and its NICs of a model; NICs get their addresses at once.
    pub fn create_instance(&mut self, scale_set: &str, number: u32, node: &str, location: &str, model: &[Value]) -> Result<(), ArmError> {
        let id = format!("{scale_set}/virtualMachines/{number}");
        let shape = Shape::Instance { scale_set: scale_set.into(), number, model: model.to_vec(), customised: false };
        let mut machine = self.new_machine(&id, node, location, shape);
        let listed_from = self.now.saturating_add(std::time::Duration::from_millis(self.settings.nic_list_lag_millis));
        for config in model {
            let name = config.get("name").and_then(Value::as_str).unwrap_or_default();
            let nic_id = format!("{id}/networkInterfaces/{name}");
            self.create_nic(&nic_id, location);
            if let Some(nic) = self.nics.get_mut(&key(&nic_id)) {
                nic.machine = Some(id.clone());
                nic.node = Some(node.to_owned());
                nic.listed_from = listed_from;
            }
            machine.nics.push(key(&nic_id));
        }
        let instance = key(&id);
        self.machines.insert(instance.clone(), machine);
        self.realise(&instance, 0)
    }

    fn scale_set_view(&self, set: &ScaleSet) -> Value {
        let capacity = if set.flexible { self.members_of(&set.id) } else { self.instances_of(&set.id).count() };
        let mut view = set.view(capacity);
        if let Some(properties) = view.get_mut("properties") {
            put(properties, "virtualMachineProfile", set.profile.clone());
        }
        view
    }

    fn members_of(&self, scale_set: &str) -> usize {
        let member = |machine: &&Machine| matches!(&machine.shape, Shape::Vm { scale_set: Some(id) } if key(id) == key(scale_set));
        self.machines.values().filter(member).count()
    }

    fn vm(&self, path: &ArmPath) -> Result<&Machine, ArmError> {
        let missing = || ArmError::resource_not_found(&format!("Microsoft.Compute/virtualMachines/{}", path.name(0)), path.group());
        self.machines.get(&key(&path.id(1))).ok_or_else(missing)
    }
}

/// Fills in what a network profile leaves out, as Azure shows it.
fn complete(nics: &mut [Value]) -> Vec<Value> {
    for nic in nics.iter_mut() {
        for config in nic.pointer_mut("/properties/ipConfigurations").and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(properties) = config.get_mut("properties") {
                default(properties, "privateIPAddressVersion", json!("IPv4"));
            }
        }
        if let Some(properties) = nic.get_mut("properties") {
            default(properties, "enableAcceleratedNetworking", json!(false));
            default(properties, "disableTcpStateTracking", json!(false));
            default(properties, "dnsSettings", json!({ "dnsServers": [] }));
        }
    }
    nics.to_vec()
}

fn location_of<'a>(body: &'a Value, default: &'a str) -> &'a str {
    body.get("location").and_then(Value::as_str).unwrap_or(default)
}

/// `'virtualMachineScaleSet/id' eq '<id>'`, the one filter of the list of VMs.
fn scale_set_of_filter(filter: &str) -> Result<String, ArmError> {
    let words: Vec<&str> = filter.split_whitespace().collect();
    match words.as_slice() {
        [field, "eq", id] if field.trim_matches('\'').eq_ignore_ascii_case("virtualMachineScaleSet/id") => Ok(key(id.trim_matches('\''))),
        _ => Err(ArmError::compute(400, "InvalidParameter", format!("The filter {filter} is not supported."))),
    }
}
