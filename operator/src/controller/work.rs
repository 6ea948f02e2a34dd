//! The steps of a pass: what a decision says, in its order.

use std::{sync::Arc, time::Duration};

use azure_vnet_crds::{AzureVnetNode, node::Machine};
use azure_vnet_operator_core::{
    arm::{Class, Error, Trace, Urgency},
    decide::{Attempt, Decision, Leader, Memory, NicRead, NodeFacts, Observed, Ready, Send, Stored, decide},
    nic::{Nic, Refusal},
    policy::Policy,
    provider::ProviderId,
};
use jiff::Timestamp;
use kube::{ResourceExt as _, runtime::events::EventType};
use tracing::{debug, info, warn};

use super::{
    kinds::Node,
    machine::Target,
    metrics::WriteOutcome,
    node::{Broken, Shell},
    pools::is_conflict,
};
use crate::azure::Arm;

/// More steps than any pass needs; a decision that never ends must not spin.
const STEPS: u32 = 60;

/// What is remembered of a node from pass to pass. To lose it is safe.
#[derive(Default)]
pub struct Known {
    /// The term it was learnt in.
    pub nonce: Arc<str>,
    /// The Node's UID.
    pub uid: String,
    /// The Node's provider id.
    pub provider_id: String,
    /// The object as last written.
    pub object: Option<AzureVnetNode>,
    target: Option<Target>,
    machine: Option<Machine>,
    nic: Option<(Nic, Timestamp)>,
    last: Option<Attempt>,
    read_failure: Option<Attempt>,
    memory: Memory,
}

impl Known {
    /// Nothing is known yet of this very node in this term.
    pub fn new(nonce: Arc<str>, node: &Node) -> Self {
        Self { nonce, uid: node.uid().to_owned(), provider_id: node.spec.provider_id.clone(), ..Self::default() }
    }
}

/// One pass in the making.
pub struct Work<'a, A> {
    /// What passes share.
    pub shell: &'a Shell<A>,
    /// The Node.
    pub node: &'a Node,
    /// What its config asks for.
    pub policy: &'a Policy,
    /// Its place in Azure.
    pub provider: &'a ProviderId,
    /// What is remembered of it.
    pub known: &'a mut Known,
    /// Whether the object was read from the API server's store itself, and not written since.
    pub confirmed: bool,
}

impl<A: Arm> Work<'_, A> {
    /// Goes on until there is nothing left to do.
    ///
    /// # Errors
    /// What broke it off.
    pub async fn run(&mut self) -> Result<Option<Duration>, Broken> {
        if self.known.object.is_none() {
            // The cache may lag: an object that exists is never to be made anew.
            self.reread().await?;
        }
        if self.known.object.is_none() {
            self.read(Urgency::Fill).await;
        }
        for _ in 0..STEPS {
            if self.shell.leadership.nonce().as_ref() != Some(&self.known.nonce) {
                return Err(Broken::Deposed);
            }
            let decision = decide(&self.observe(), Some(self.policy), Timestamp::now());
            if self.rests_on_the_store(&decision) && !self.confirmed {
                self.reread().await?;
                continue;
            }
            let wake = decision.wake;
            if !self.carry_out(decision).await? {
                return Ok(wake);
            }
        }
        Err(Broken::Endless)
    }

    /// Whether a decision must not rest on a cache: it sends an intent again, which may have been closed since, or opens a removal (safety rule RE1).
    fn rests_on_the_store(&self, decision: &Decision) -> bool {
        let Some(send) = &decision.send else { return false };
        let stored = self.known.object.as_ref().and_then(|object| object.status.as_ref()?.cloud.as_ref()?.intent.as_ref());
        !send.change.remove.is_empty() || stored.is_some_and(|intent| intent.id == send.intent)
    }

    fn observe(&self) -> Observed {
        let node = self.node;
        let stored = self.known.object.as_ref().map(stored);
        let seen =
            self.known.machine.as_ref().or(stored.as_ref().map(|stored| &stored.spec.node).filter(|machine| machine.uid == node.uid()));
        let machine = Machine {
            uid: node.uid().to_owned(),
            boot_id: node.status.node_info.boot_id.clone(),
            provider_id: node.spec.provider_id.clone(),
            ..seen.cloned().unwrap_or_default()
        };
        Observed {
            node: facts(node),
            exhausted: self.shell.is_exhausted(&machine.subnet_id),
            machine,
            object: stored,
            nic: self.known.nic.as_ref().map(|(nic, at)| NicRead { view: nic.view().clone(), at: *at }),
            me: Leader { identity: self.shell.leadership.identity().to_owned(), nonce: self.known.nonce.to_string() },
            last: self.known.last.clone(),
            read_failure: self.known.read_failure.clone(),
            memory: self.known.memory.clone(),
        }
    }

    /// Does all that a decision says. Whether that was anything.
    async fn carry_out(&mut self, decision: Decision) -> Result<bool, Broken> {
        let Decision { delete, spec, cloud, conditions, send, read, wake: _, events, memory } = decision;
        let shell = self.shell;
        if let Some(object) = self.known.object.as_ref().filter(|_| delete) {
            info!(node = self.node.name(), "deleting the pool of another node of this name");
            shell.pools.delete(object).await?;
            // Its end makes the node due again.
            return Ok(false);
        }
        let mut acted = false;
        if let Some(spec) = spec {
            let lost = spec.lost.len().saturating_sub(self.known.object.as_ref().map_or(0, |object| object.spec.lost.len()));
            let written = shell.pools.apply_spec(self.node, self.known.object.as_ref(), &spec).await;
            let Some(changed) = self.written(written).await? else { return Ok(true) };
            shell.metrics.lost.inc_by(u64::try_from(lost).unwrap_or_default());
            acted |= changed;
        }
        if let (Some(cloud), Some(object)) = (cloud, &self.known.object) {
            let written = shell.pools.apply_status(object, &cloud, &conditions).await;
            let Some(changed) = self.written(written).await? else { return Ok(true) };
            acted |= changed;
        }
        self.known.memory = memory;
        for event in events {
            let type_ = if event.warning { EventType::Warning } else { EventType::Normal };
            match &self.known.object {
                Some(object) => shell.events.tell(object, type_, event.reason, &event.message).await,
                None => shell.events.tell(self.node, type_, event.reason, &event.message).await,
            }
        }
        if let Some(send) = &send {
            self.send(send).await;
        }
        if read {
            self.read(if send.is_some() { Urgency::ReadBack } else { Urgency::Fill }).await;
        }
        Ok(acted || send.is_some() || read)
    }

    /// Keeps an object as written, and tells whether that changed it. `None`: somebody else was quicker; it was read again.
    async fn written(&mut self, result: kube::Result<AzureVnetNode>) -> Result<Option<bool>, Broken> {
        self.confirmed = false;
        match result {
            Ok(object) => {
                let changed = self.known.object.as_ref().is_none_or(|before| before.resource_version() != object.resource_version());
                self.known.object = Some(object);
                Ok(Some(changed))
            }
            Err(error) if is_conflict(&error) => {
                debug!(node = self.node.name(), "the pool's object changed meanwhile");
                self.reread().await?;
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Reads the object from the API server's store itself (safety rule RE1).
    async fn reread(&mut self) -> Result<(), Broken> {
        self.known.object = self.shell.pools.read(self.node.name()).await?;
        self.confirmed = true;
        Ok(())
    }

    /// Sends the write of a stored intent, and follows it to its end.
    async fn send(&mut self, send: &Send) {
        let shell = self.shell;
        let Some((nic, _)) = &self.known.nic else { return };
        let result = match nic.write(&send.change) {
            Err(Refusal::Done) => Ok(()),
            Err(refusal) => Err(refused(&refusal)),
            Ok(write) => {
                let nonce = Some(Arc::clone(&self.known.nonce));
                let may_send = || shell.leadership.nonce() == nonce && Timestamp::now() < send.not_after;
                let (node, subject) = (self.node.name(), write.subject());
                info!(node, nic = %subject, add = send.change.add.len(), remove = send.change.remove.len(), intent = send.intent, "writing");
                shell.arm.write(&write, send.urgency, &may_send).await
            }
        };
        let direction = if send.change.add.is_empty() { "remove" } else { "add" };
        let outcome = result.as_ref().map_or_else(Error::reason, |()| "ok");
        shell.metrics.writes.get_or_create(&WriteOutcome { direction, outcome }).inc();
        if let Err(error) = &result
            && error.class == Class::SubnetFull
        {
            let subnet = nic.view().subnet.key();
            shell.exhaust(subnet);
        }
        self.attempted(send.intent, result);
    }

    /// Reads the NIC and describes the machine.
    async fn read(&mut self, urgency: Urgency) {
        let at = Timestamp::now();
        match self.read_nic(urgency).await {
            Ok((nic, machine)) => {
                self.known.nic = Some((nic, at));
                self.known.machine = Some(machine);
                self.known.read_failure = None;
                if self.known.last.as_ref().is_none_or(|last| last.result.is_ok()) {
                    self.shell.note(self.node.name(), None);
                }
            }
            Err(error) => {
                self.shell.note(self.node.name(), Some(&error));
                let failures = self.known.read_failure.as_ref().map_or(0, |last| last.failures).saturating_add(1);
                warn!(node = self.node.name(), reason = error.reason(), "cannot read the NIC: {error}");
                self.known.read_failure = Some(Attempt { intent: None, at: Timestamp::now(), result: Err(error), failures });
            }
        }
    }

    async fn read_nic(&mut self, urgency: Urgency) -> Result<(Nic, Machine), Error> {
        let machines = &self.shell.machines;
        let target = match &self.known.target {
            Some(target) => target.clone(),
            None => machines.target(self.provider).await?,
        };
        self.known.target = Some(target.clone());
        let nic = machines.nic(&target, urgency).await?;
        let machine = machines.describe(self.node, &target, nic.view()).await?;
        Ok((nic, machine))
    }

    fn attempted(&mut self, intent: u64, result: Result<(), Error>) {
        if let Err(error) = &result {
            warn!(node = self.node.name(), intent, reason = error.reason(), "the write failed: {error}");
        }
        self.shell.note(self.node.name(), result.as_ref().err());
        let before = self.known.last.as_ref().filter(|last| last.result.is_err()).map_or(0, |last| last.failures);
        let failures = if result.is_ok() { 0 } else { before.saturating_add(1) };
        self.known.last = Some(Attempt { intent: Some(intent), at: Timestamp::now(), result, failures });
    }
}

fn stored(object: &AzureVnetNode) -> Stored {
    Stored {
        uid: object.uid().unwrap_or_default(),
        created: object.creation_timestamp().map_or(Timestamp::UNIX_EPOCH, |at| at.0),
        deleting: object.metadata.deletion_timestamp.is_some(),
        spec: object.spec.clone(),
        status: object.status.clone().unwrap_or_default(),
    }
}

fn facts(node: &Node) -> NodeFacts {
    NodeFacts {
        name: node.name().to_owned(),
        uid: node.uid().to_owned(),
        boot_id: node.status.node_info.boot_id.clone(),
        ready: match node.condition("Ready") {
            Some("True") => Ready::True,
            Some("False") => Ready::False,
            Some(_) | None => Ready::Unknown,
        },
        cordoned: node.spec.unschedulable,
        deleting: node.metadata.deletion_timestamp.is_some(),
    }
}

/// A write that was not even sent.
fn refused(refusal: &Refusal) -> Error {
    let class = match refusal {
        Refusal::AddressChanged(_) => Class::Stale,
        Refusal::Done | Refusal::Limit | Refusal::NoEtag | Refusal::Guard(_) => Class::Rejected,
    };
    Error { class, trace: Trace::None, status: None, code: "NotWritten".into(), message: refusal.to_string(), request_id: None }
}
