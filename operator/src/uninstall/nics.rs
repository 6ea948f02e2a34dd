//! Gives the addresses of a restored node back: nobody else writes its NIC, and nothing uses them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Context as _, anyhow, bail};
use azure_vnet_crds::AzureVnetNode;
use azure_vnet_operator_core::{
    arm::{Class, Error, Urgency},
    decide::may_vanish,
    nic::Refusal,
    provider::ProviderId,
    uninstall::giving_back,
};
use jiff::Timestamp;
use kube::ResourceExt as _;
use tokio::time::{Instant, sleep};
use tracing::warn;

use crate::{
    azure::Arm,
    controller::{leader::Leadership, machine::Machines},
};

/// Between two looks at a NIC on which Azure still works.
const LOOK: Duration = Duration::from_secs(2);
/// How often in a row a machine has to be missing, as for the controller.
const MISSES: u8 = 2;

/// The NICs of the nodes.
pub struct Nics<A> {
    arm: Arc<A>,
    machines: Machines<A>,
    /// Asked right before each write: nobody else may write meanwhile.
    leadership: Leadership,
    /// Provider ids by node.
    places: BTreeMap<String, String>,
    /// How long after its end a write of the controller may still land.
    grace: Duration,
    deadline: Instant,
}

impl<A: Arm> Nics<A> {
    /// Nothing is asked yet.
    pub fn new(arm: Arc<A>, leadership: Leadership, places: BTreeMap<String, String>, grace: Duration, deadline: Instant) -> Self {
        Self { machines: Machines::new(Arc::clone(&arm)), arm, leadership, places, grace, deadline }
    }

    /// Removes all IP configurations of ours from a node's NIC and sees them gone.
    ///
    /// # Errors
    /// Azure's, or that a write of the controller may still land.
    pub async fn give_back(&self, pool: &AzureVnetNode) -> anyhow::Result<Given> {
        self.await_last_write(pool).await?;
        let Some(place) = place_of(pool, &self.places) else { return Ok(Given::Back(0)) };
        let provider: ProviderId = place.parse()?;
        let (mut count, mut missed) = (0, 0);
        loop {
            let outcome = self.remove(&provider).await;
            missed = if is_gone(&outcome) { missed + 1 } else { 0 };
            match outcome {
                Ok(Left::Nothing) => return Ok(Given::Back(count)),
                Ok(Left::Some(removed)) => count += removed,
                // One answer may be wrong for a moment.
                Err(Failure::Azure(error)) if error.class == Class::Gone && missed >= MISSES => return Ok(Given::NoNic(error.to_string())),
                Err(Failure::Azure(error)) if error.class == Class::Gone => sleep(LOOK).await,
                Err(Failure::Azure(error)) => self.pause(&error).await?,
                Err(Failure::Refused(why)) => bail!(why),
            }
            if Instant::now() >= self.deadline {
                bail!("Azure was not done in time");
            }
        }
    }

    /// A request of a controller that died may land until its intent has ended, and its grace has passed (safety rule RE4).
    async fn await_last_write(&self, pool: &AzureVnetNode) -> anyhow::Result<()> {
        let cloud = pool.status.as_ref().and_then(|status| status.cloud.as_ref());
        // Without a mark of its deletion it ends here and now: the controllers are gone.
        let began = Timestamp::now();
        let deleted = pool.metadata.deletion_timestamp.as_ref().map_or(began, |time| time.0);
        while !may_vanish(cloud, deleted, self.grace, Timestamp::now()) {
            if Instant::now() >= self.deadline {
                bail!("a write to its NIC that was begun may still land: run this again in some minutes");
            }
            sleep(LOOK).await;
        }
        Ok(())
    }

    /// One look, and one write where there is something to remove.
    async fn remove(&self, provider: &ProviderId) -> Result<Left, Failure> {
        let target = self.machines.target(provider).await?;
        let nic = self.machines.nic(&target, Urgency::Release).await?;
        let Some(change) = giving_back(nic.view()) else { return Ok(Left::Nothing) };
        let count = change.remove.len();
        let write = match nic.write(&change) {
            Ok(write) => write,
            // What is left is on its way out.
            Err(Refusal::Done) => {
                sleep(LOOK).await;
                return Ok(Left::Some(0));
            }
            Err(other) => return Err(Failure::Refused(anyhow!(other).context("the NIC is not as it should be"))),
        };
        let may = || Instant::now() < self.deadline && self.leadership.is_leader_now();
        self.arm.write(&write, Urgency::Release, &may).await?;
        Ok(Left::Some(count))
    }

    async fn pause(&self, error: &Error) -> anyhow::Result<()> {
        let lasts = match error.class {
            Class::Throttled { .. }
            | Class::Busy { .. }
            | Class::Stale
            | Class::Superseded
            | Class::Unavailable { .. }
            | Class::NotSent
            | Class::Failed => false,
            Class::Gone | Class::Forbidden { .. } | Class::Locked | Class::Unauthenticated | Class::SubnetFull | Class::Rejected => true,
        };
        if lasts {
            return Err(anyhow!(error.clone()).context(error.remedy()));
        }
        warn!(%error, "trying again");
        let pause = error.retry_after().unwrap_or(LOOK).max(LOOK);
        let left = self.deadline.checked_duration_since(Instant::now()).context("Azure was not done in time")?;
        sleep(pause.min(left)).await;
        Ok(())
    }
}

/// What became of a node's addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Given {
    /// So many went back, and none is left.
    Back(usize),
    /// Azure says, in these words, that there is no such machine. It says so too where the identity has lost sight of one.
    NoNic(String),
}

fn is_gone(outcome: &Result<Left, Failure>) -> bool {
    matches!(outcome, Err(Failure::Azure(Error { class: Class::Gone, .. })))
}

/// Where a node's machine is. That of a Node that is gone may still be there, with its addresses; it is left alone where another Node runs on it, or
/// where nobody ever knew it.
fn place_of<'a>(pool: &'a AzureVnetNode, places: &'a BTreeMap<String, String>) -> Option<&'a str> {
    let known = pool.spec.node.provider_id.as_str();
    let is_free = !known.is_empty() && !places.values().any(|place| place.eq_ignore_ascii_case(known));
    places.get(&pool.name_any()).map(String::as_str).or(is_free.then_some(known))
}

/// What a NIC had before a write.
enum Left {
    Nothing,
    Some(usize),
}

enum Failure {
    Azure(Error),
    Refused(anyhow::Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Azure(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_of_a_node_that_is_gone_is_known_by_its_object() {
        let mut pool = AzureVnetNode::new("n1", azure_vnet_crds::AzureVnetNodeSpec::default());
        let of = |places: &[(&str, &str)]| places.iter().map(|(node, place)| ((*node).to_owned(), (*place).to_owned())).collect();
        assert_eq!(place_of(&pool, &of(&[])), None);
        pool.spec.node.provider_id = "azure:///vm/1".into();
        assert_eq!(place_of(&pool, &of(&[("n1", "azure:///vm/2")])), Some("azure:///vm/2"));
        assert_eq!(place_of(&pool, &of(&[("n2", "azure:///vm/2")])), Some("azure:///vm/1"));
        assert_eq!(place_of(&pool, &of(&[("n2", "azure:///VM/1")])), None, "another Node runs on it");
    }
}
