//! Asynchronous operations: begun by a write, polled by the caller, ended by time, by a newer write or by a fault.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::answer::{Answer, Context};
use super::cloud::{Cloud, Event};
use super::error::{ArmError, put};
use super::path::ArmPath;
use super::resource::{IpConfig, State};

#[derive(Debug, Clone)]
pub(super) struct Operation {
    pub id: String,
    pub subscription: String,
    pub provider: Provider,
    pub started: Duration,
    pub ended: Option<Duration>,
    pub status: Status,
    pub work: Work,
    pub fate: Fate,
    pub api_version: String,
    pub location: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Provider {
    Network,
    Compute,
    Resources,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Status {
    Running,
    Succeeded,
    Failed(ArmError),
    Canceled(ArmError),
}

/// What is to be done when an operation ends. Keys of resources.
#[derive(Debug, Clone)]
pub(super) enum Work {
    Nic { key: String, before: Box<NicBefore> },
    Instance { key: String, before: Vec<Value> },
    Machine { key: String },
    ScaleSet { key: String },
    Vnet { key: String },
    Nothing,
}

/// What a cancelled write to a NIC restores.
#[derive(Debug, Clone)]
pub(super) struct NicBefore {
    pub tags: Map<String, Value>,
    pub properties: Map<String, Value>,
    pub configs: Vec<IpConfig>,
    pub leaving: Vec<IpConfig>,
}

/// How an operation is made to end.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) enum Fate {
    #[default]
    Succeed,
    Fail(String),
    Cancel,
    /// So many of the new configurations fail.
    Partial(usize),
    /// Accepted, and nothing is done.
    Ignore,
}

impl Cloud {
    /// Begins an operation and returns its id.
    pub fn begin(&mut self, context: &Context, provider: Provider, location: &str, work: Work) -> String {
        let id = self.guid();
        let latency = context.latency.unwrap_or_else(|| self.draw_latency());
        self.schedule(self.now.saturating_add(latency), Event::Finish(id.clone()));
        let operation = Operation {
            id: id.clone(),
            subscription: context.subscription.clone(),
            provider,
            started: self.now,
            ended: None,
            status: Status::Running,
            work,
            fate: context.fate.clone(),
            api_version: context.api_version.clone(),
            location: location.into(),
        };
        self.operations.insert(id.clone(), operation);
        id
    }

    /// Adds the headers of a running operation to an answer.
    pub fn announce(&self, answer: Answer, context: &Context, operation: &str, with_location: bool) -> Answer {
        let Some(operation) = self.operations.get(operation) else { return answer };
        let answer = answer
            .header("Azure-AsyncOperation", Self::operation_uri(context, operation, "operations", ""))
            .header("Azure-AsyncNotification", "Enabled")
            .header("Retry-After", self.settings.retry_after_seconds.to_string());
        if !with_location {
            return answer;
        }
        let (kind, extra) = match operation.provider {
            Provider::Network | Provider::Resources => ("operationResults", ""),
            Provider::Compute => ("operations", "&monitor=true"),
        };
        answer.header("Location", Self::operation_uri(context, operation, kind, extra))
    }

    pub fn operation_uri(context: &Context, operation: &Operation, kind: &str, extra: &str) -> String {
        let (provider, signed) = match operation.provider {
            Provider::Network | Provider::Resources => ("Microsoft.Network", "&c=c&h=h&s=s&t=t"),
            Provider::Compute => ("Microsoft.Compute", "&p=p&c=c&h=h&s=s&t=t"),
        };
        format!(
            "{}/subscriptions/{}/providers/{provider}/locations/{}/{kind}/{}?api-version={}{signed}{extra}",
            context.base, operation.subscription, operation.location, operation.id, operation.api_version
        )
    }

    /// Ends a running operation before its time because a newer one replaces it.
    pub fn supersede(&mut self, operation: &str, error: ArmError) {
        let now = self.now;
        if let Some(operation) = self.operations.get_mut(operation).filter(|operation| operation.status == Status::Running) {
            operation.status = Status::Canceled(error);
            operation.ended = Some(now);
        }
    }

    /// Ends an operation whose time has come.
    pub fn finish(&mut self, id: &str) {
        let Some(operation) = self.operations.get(id).filter(|operation| operation.status == Status::Running).cloned() else {
            return;
        };
        let status = match &operation.work {
            Work::Nic { key, before } => self.finish_nic(key, before, &operation.fate),
            Work::Instance { key, before } => self.finish_instance(key, before, &operation.fate),
            Work::Machine { key } => self.settle_machine(key),
            Work::ScaleSet { key } => self.settle_scale_set(key),
            Work::Vnet { key } => self.settle_vnet(key),
            Work::Nothing => Status::Succeeded,
        };
        let now = self.now;
        if let Some(operation) = self.operations.get_mut(id) {
            operation.status = status;
            operation.ended = Some(now);
        }
    }

    pub fn poll(&self, path: &ArmPath, provider: Provider) -> Result<Answer, ArmError> {
        let id = path.name(1);
        let operation = self.operation(path, id)?;
        if operation.provider != provider {
            return Err(no_operation(id));
        }
        let (name, error) = match &operation.status {
            Status::Running => ("InProgress", None),
            Status::Succeeded => ("Succeeded", None),
            Status::Failed(error) => ("Failed", Some(error)),
            Status::Canceled(error) => ("Canceled", Some(error)),
        };
        let mut body = json!({ "status": name });
        if provider == Provider::Compute {
            put(&mut body, "startTime", json!(self.timestamp(operation.started)));
            put(&mut body, "name", json!(operation.id));
            if let Some(ended) = operation.ended {
                put(&mut body, "endTime", json!(self.timestamp(ended)));
            }
        }
        if let Some(error) = error {
            put(&mut body, "error", error.inner());
        }
        let answer = Answer::json(200, body);
        Ok(if operation.status == Status::Running {
            answer.header("Retry-After", self.settings.retry_after_seconds.to_string())
        } else {
            answer
        })
    }

    /// The `Location` form: 202 while it runs, then 200 without a body.
    pub fn poll_result(&self, path: &ArmPath, id: &str, context: &Context) -> Result<Answer, ArmError> {
        let operation = self.operation(path, id)?;
        match &operation.status {
            Status::Running => Ok(self.announce(Answer::empty(202), context, id, true)),
            Status::Succeeded => Ok(Answer::empty(200)),
            Status::Failed(error) | Status::Canceled(error) => Err(error.clone()),
        }
    }

    /// An operation of the path's own subscription.
    fn operation(&self, path: &ArmPath, id: &str) -> Result<&Operation, ArmError> {
        let here = |operation: &&Operation| operation.subscription.eq_ignore_ascii_case(&path.subscription);
        self.operations.get(id).filter(here).ok_or_else(|| no_operation(id))
    }

    fn settle_machine(&mut self, key: &str) -> Status {
        if let Some(machine) = self.machines.get_mut(key) {
            machine.operation = None;
            if machine.state == State::Creating {
                machine.etag = machine.etag.saturating_add(1);
            }
            machine.state = State::Succeeded;
        }
        Status::Succeeded
    }

    fn settle_scale_set(&mut self, key: &str) -> Status {
        if let Some(scale_set) = self.scale_sets.get_mut(key) {
            scale_set.state = State::Succeeded;
        }
        Status::Succeeded
    }

    fn settle_vnet(&mut self, key: &str) -> Status {
        let etag = self.weak_etag();
        if let Some(vnet) = self.vnets.get_mut(key) {
            vnet.state = State::Succeeded;
            for subnet in vnet.subnets.iter_mut().filter(|subnet| subnet.state != State::Succeeded) {
                subnet.state = State::Succeeded;
                subnet.etag.clone_from(&etag);
            }
            vnet.etag = etag;
        }
        Status::Succeeded
    }
}

fn no_operation(id: &str) -> ArmError {
    ArmError::compute(404, "OperationNotFound", format!("The operation '{id}' was not found."))
}
