//! The steps of a pass, carried out: one call for each.

use std::{
    future::pending,
    ops::ControlFlow::{Break, Continue},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use azure_vnet_crds::{
    AzureVnetNode, AzureVnetNodeSpec,
    config::MasqueradeSpec,
    node::{IntentOp, Machine},
};
use azure_vnet_operator_core::{
    arm::{Class, Error, Urgency},
    decide::{Event, Leader, NodeFacts, Ready, Send},
    declared::Field,
    nic::Nic,
    pass::{self, Effect, End, Pass, Present, Subject},
    policy::Policy,
    provider::ProviderId,
    size,
};
use jiff::Timestamp;
use kube::runtime::events::EventType;
use tracing::{debug, info, warn};

use super::{
    kinds::Node,
    machine::{NETWORK_AGE, Target},
    metrics::{Reason, WriteOutcome},
    node::{Broken, Shell},
    pools::is_conflict,
};
use crate::azure::Arm;

/// What is remembered of a node from pass to pass. To lose it is safe.
#[derive(Default)]
pub struct Known {
    /// What decisions rest on.
    pub of_pass: pass::Known,
    /// Where its machine is written, of the same node, boot and term.
    pub target: Option<Target>,
    /// The boot in which that was found out: a machine that is off may be given another NIC.
    pub boot: String,
    /// Since when the mark of a node without addresses is wrong.
    pub mark_wrong_since: Option<Timestamp>,
}

/// One pass in the making.
pub struct Work<'a, A> {
    /// What passes share.
    pub shell: &'a Shell<A>,
    /// The Node.
    pub node: &'a Node,
    /// Its place in Azure.
    pub provider: &'a ProviderId,
    /// Where its machine is written, once known.
    pub target: Option<Target>,
    /// What the config says of networks.
    pub masquerade: &'a MasqueradeSpec,
}

impl<A: Arm> Work<'_, A> {
    /// Goes on until there is nothing left to do.
    ///
    /// # Errors
    /// What broke it off.
    pub async fn run(&mut self, pass: &mut Pass<'_>) -> Result<Option<Duration>, Broken> {
        loop {
            let nonce = self.shell.leadership.nonce();
            let exhausted = |subnet: &str| self.shell.is_exhausted(subnet);
            let free = |subnet: &str| self.shell.free(subnet);
            let wait = |subnet: &str, starving: bool| self.shell.wait(subnet, self.node.name(), starving);
            let next = pass.next(&Present {
                now: self.shell.clock.now(),
                nonce: nonce.as_deref(),
                draw: &super::random::token(),
                exhausted: &exhausted,
                wait: &wait,
                free: &free,
                leaving: self.shell.leaving.is_set(),
            });
            match next {
                Continue(effect) => self.carry_out(effect, pass).await?,
                Break(End::Rest(wake)) => return Ok(wake),
                Break(End::Deposed) => return Err(Broken::Deposed),
                Break(End::Endless) => return Err(Broken::Endless),
            }
        }
    }

    async fn carry_out(&mut self, effect: Effect, pass: &mut Pass<'_>) -> Result<(), Broken> {
        let pools = &self.shell.pools;
        let object = pass.known().object.as_deref();
        match effect {
            Effect::ReadObject => pass.object_read(pools.read(self.node.name()).await?.map(Arc::new)),
            Effect::Delete => {
                info!(node = self.node.name(), "deleting the pool of another node of this name");
                if let Some(object) = object {
                    pools.delete(object).await?;
                }
            }
            Effect::WriteSpec(spec) => {
                let lost = size::addresses(&spec.lost).saturating_sub(object.map_or(0, |object| size::addresses(&object.spec.lost)));
                let written = self.written(pools.apply_spec(self.node, object, &spec).await)?;
                self.shell.metrics.lost.inc_by(if written.is_some() { u64::from(lost) } else { 0 });
                if let (Some(_), Some(time)) = (&written, object.and_then(|object| filled(object, &spec, self.shell.clock.now()))) {
                    self.shell.metrics.fills.observe(time.as_secs_f64());
                }
                pass.written(written.map(Arc::new));
            }
            Effect::WriteStatus(cloud, conditions) => {
                let Some(object) = object else { return Ok(()) };
                let mut cloud = cloud;
                if self.shell.declared.lacks(Field::FirstNeed) {
                    cloud.first_need = None;
                }
                let written = self.written(pools.apply_status(object, &cloud, &conditions).await)?;
                pass.written(written.map(Arc::new));
            }
            Effect::Tell(events) => self.tell(object, events).await,
            Effect::Send(send) => self.send(&send, pass).await,
            Effect::ReadNic(urgency) => self.read(urgency, pass).await,
        }
        Ok(())
    }

    /// An object as written; `None` if somebody else was quicker.
    fn written(&self, result: kube::Result<AzureVnetNode>) -> Result<Option<AzureVnetNode>, Broken> {
        match result {
            Ok(object) => Ok(Some(object)),
            Err(error) if is_conflict(&error) => {
                debug!(node = self.node.name(), "the pool's object changed meanwhile");
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn tell(&self, object: Option<&AzureVnetNode>, events: Vec<Event>) {
        for event in events {
            self.shell.metrics.told.get_or_create(&Reason { reason: event.reason }).inc();
            let type_ = if event.warning { EventType::Warning } else { EventType::Normal };
            match object {
                Some(object) => self.shell.events.tell(object, type_, event.reason, &event.message).await,
                None => self.shell.events.tell(self.node, type_, event.reason, &event.message).await,
            }
        }
    }

    /// Sends the write of a stored intent, and follows it to its end.
    async fn send(&self, send: &Send, pass: &mut Pass<'_>) {
        let shell = self.shell;
        let result = match pass.prepare(send) {
            Err(result) => result,
            Ok(write) => {
                let nonce = shell.leadership.nonce().filter(|nonce| **nonce == *pass.nonce());
                let left = AtomicBool::new(false);
                let may_send = || {
                    let may = !shell.leaving.is_set()
                        && nonce.is_some()
                        && shell.leadership.nonce() == nonce
                        && shell.clock.is_before(send.not_after);
                    left.fetch_or(may, Ordering::Relaxed);
                    may
                };
                // Its place in the queue may come minutes later; once bytes may have left, only its end tells.
                let unsent = async {
                    shell.leaving.wait().await;
                    if left.load(Ordering::Relaxed) {
                        pending::<()>().await;
                    }
                };
                let (node, subject) = (self.node.name(), write.subject());
                info!(node, nic = %subject, add = send.change.add.len(), remove = send.change.remove.len(), intent = send.intent, "writing");
                tokio::select! {
                    biased;
                    result = shell.arm.write(&write, send.urgency, &may_send) => result,
                    () = unsent => Err(Error::not_sent("this controller ends before its turn")),
                }
            }
        };
        let direction = if send.change.add.is_empty() { "remove" } else { "add" };
        let outcome = result.as_ref().map_or_else(Error::reason, |()| "ok");
        shell.metrics.writes.get_or_create(&WriteOutcome { direction, outcome }).inc();
        if let Some(nic) = &pass.known().nic {
            shell.note_room(nic.view().subnet.as_str(), send, result.as_ref().copied());
        }
        if let Err(error) = &result {
            warn!(node = self.node.name(), intent = send.intent, reason = error.reason(), "the write failed: {error}");
        }
        shell.note(self.node.name(), result.as_ref().err());
        pass.attempted(send.intent, result, shell.clock.now());
    }

    /// Reads the NIC and describes the machine.
    async fn read(&mut self, urgency: Urgency, pass: &mut Pass<'_>) {
        let began = self.shell.clock.now();
        let result = self.read_nic(urgency).await;
        match &result {
            Ok(_) if pass.is_well() => self.shell.note(self.node.name(), None),
            Ok(_) => {}
            Err(error) => {
                self.shell.note(self.node.name(), Some(error));
                warn!(node = self.node.name(), reason = error.reason(), "cannot read the NIC: {error}");
            }
        }
        pass.nic_read(began, result, self.shell.clock.now());
    }

    async fn read_nic(&mut self, urgency: Urgency) -> Result<(Nic, Machine), Error> {
        let machines = &self.shell.machines;
        let target = match self.target.take() {
            Some(target) => target,
            None => machines.target(self.provider).await?,
        };
        let result = self.read_target(&target, urgency).await;
        // A NIC that is gone may have made room for another.
        self.target = Some(target).filter(|_| !result.as_ref().is_err_and(|error| error.class == Class::Gone));
        result
    }

    /// Networks get prefixes and peers, of which a NIC that is seldom read tells nothing. That costs one request to Azure for all nodes of a network. Whether
    /// there is something new to publish.
    pub async fn describe_anew(&self, known: &mut pass::Known) -> bool {
        let before = self.shell.clock.now().saturating_sub(NETWORK_AGE).unwrap_or(Timestamp::MIN);
        let (Some(target), Some(nic)) = (&self.target, known.read_before(before)) else { return false };
        match self.shell.machines.describe(self.node, target, nic.view(), self.masquerade).await {
            Ok(machine) => known.describe(machine),
            Err(error) => {
                debug!(node = self.node.name(), "cannot describe the machine anew: {error}");
                false
            }
        }
    }

    async fn read_target(&self, target: &Target, urgency: Urgency) -> Result<(Nic, Machine), Error> {
        let machines = &self.shell.machines;
        let nic = machines.nic(target, urgency).await?;
        let machine = machines.describe(self.node, target, nic.view(), self.masquerade).await?;
        Ok((nic, machine))
    }
}

/// How long it took to get what a spec publishes beyond the stored one: since the write that is under way was announced.
fn filled(stored: &AzureVnetNode, spec: &AzureVnetNodeSpec, now: Timestamp) -> Option<Duration> {
    let intent = stored.status.as_ref()?.cloud.as_ref()?.intent.as_ref().filter(|intent| intent.op == IntentOp::Add)?;
    let more = spec.addresses.iter().any(|at| intent.add.contains(&at.slot) && !stored.spec.addresses.contains(at));
    let begun = intent.created_at.as_ref().filter(|_| more)?;
    Duration::try_from(now.duration_since(begun.0)).ok()
}

/// Whom a pass is about, and who makes it.
pub fn subject<'a>(node: &'a Node, policy: &'a Policy, identity: &str, nonce: &str) -> Subject<'a> {
    let me = Leader { identity: identity.to_owned(), nonce: nonce.to_owned() };
    Subject { node: facts(node), provider_id: &node.spec.provider_id, policy, me }
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
        created: node.metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |at| at.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fill_is_timed_from_its_announcement_and_only_when_it_publishes_something() {
        let mut stored = AzureVnetNode::new("n", AzureVnetNodeSpec::default());
        let status = |op: &str| serde_json::json!({"cloud": {"intent": {"op": op, "add": [1, 2], "createdAt": "2026-01-01T00:00:00Z"}}});
        stored.status = Some(serde_json::from_value(status("Add")).unwrap());
        let now = "2026-01-01T00:00:12Z".parse().unwrap();
        let full = AzureVnetNodeSpec { addresses: vec!["1/10.0.0.5".parse().unwrap()], ..AzureVnetNodeSpec::default() };
        assert_eq!(filled(&stored, &full, now), Some(Duration::from_secs(12)));
        assert_eq!(filled(&stored, &stored.spec, now), None);
        stored.status = Some(serde_json::from_value(status("Remove")).unwrap());
        assert_eq!(filled(&stored, &full, now), None);
    }
}
