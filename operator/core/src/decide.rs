//! What the controller does next for one node: a value, from what was observed.

mod agree;
mod begin;
mod blocks;
mod invariants;
mod release;
mod report;
mod rest;
mod settle;
mod sizing;
mod step;
#[cfg(test)]
pub(crate) mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use azure_vnet_crds::{
    AzureVnetNode, AzureVnetNodeSpec, AzureVnetNodeStatus,
    node::{Agent, Cloud, Machine, Release, SlotAddress},
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::{arm, nic, policy::Policy, size::addresses};

pub use blocks::{Denied, Why};
pub use rest::Word;
pub use settle::may_vanish;

/// All that a decision rests on.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The Node.
    pub node: NodeFacts,
    /// Its machine and NIC.
    pub machine: Arc<Machine>,
    /// Its `AzureVnetNode`, as read last.
    pub object: Option<Arc<AzureVnetNode>>,
    /// Its NIC, as read last.
    pub nic: Option<NicRead>,
    /// Who decides.
    pub me: Leader,
    /// The last write to the NIC that this process finished.
    pub last: Option<Attempt>,
    /// The last read, if it failed.
    pub read_failure: Option<Attempt>,
    /// Whether the subnet has no address left: nodes then ask for single ones.
    pub exhausted: bool,
    /// How long this node is to wait since others of its full subnet ask first.
    pub held: Option<Duration>,
    /// Addresses left in the subnet by Azure's last count, where that is known.
    pub free: Option<u32>,
    /// Whether this controller is about to end: it opens nothing any more, and takes back removals that it has not sent.
    pub leaving: bool,
    /// From the last decision that was carried out, numbered by the last one that was made; default at first. Of one whose status was not written,
    /// [`Memory::after_spec`].
    pub memory: Memory,
}

/// What counts of a Node.
#[derive(Clone, Debug)]
pub struct NodeFacts {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// The boot id that its kubelet reported.
    pub boot_id: String,
    /// Its condition Ready.
    pub ready: Ready,
    /// Whether it takes no new pods.
    pub cordoned: bool,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// When it was made; long ago where nobody tells.
    pub created: Timestamp,
}

/// A Node's condition Ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ready {
    /// Its kubelet reports it ready.
    True,
    /// Its kubelet reports, but not ready: a new node has no CNI yet.
    False,
    /// Its kubelet is silent.
    Unknown,
}

/// A NIC and when it was read. A read may wait for its turn for minutes.
#[derive(Clone, Debug)]
pub struct NicRead {
    /// What it showed.
    pub view: Arc<nic::View>,
    /// Time at which the read began: it shows what was so later.
    pub at: Timestamp,
    /// Time at which the answer came: the pause before the next read counts from there.
    pub ended: Timestamp,
}

/// A controller that holds the lease.
#[derive(Clone, Debug)]
pub struct Leader {
    /// Unique to this process.
    pub identity: String,
    /// Drawn at random: of a pass for the term, of a decision for it alone: a release that it makes carries it (safety rule RE1).
    pub nonce: String,
}

/// A request to Azure that ended.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The intent that it was sent for; none for reads.
    pub intent: Option<u64>,
    /// When it ended.
    pub at: Timestamp,
    /// How.
    pub result: Result<(), arm::Error>,
    /// Failures in a row, this one included.
    pub failures: u32,
}

/// What one process remembers of a node from decision to decision. To lose it is safe.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Since which read addresses that pods may use are missing on the NIC.
    pub missing: BTreeMap<SlotAddress, Timestamp>,
    /// Releases of this term that still count.
    pub releases: BTreeMap<u64, Asked>,
    /// Whether the agent left the last release unanswered.
    pub unanswered: bool,
    /// Since when the agent is known to have set addresses aside that nobody asks for any more (safety rule RE8).
    pub aside_since: Option<Timestamp>,
    /// What the machine's IMDS last said of the NIC.
    pub word: Word,
    /// That the agent is known to offer less than it has adopted, where some of that are blocks (safety rule RE6).
    pub holding_back: Option<HoldingBack>,
    /// That the agent refused all that it was asked to set aside.
    pub in_vain: Option<InVain>,
    /// The intent that was opened last.
    pub opened: u64,
    /// The open intent, and when it was seen first.
    pub seen: Option<(u64, Timestamp)>,
    /// An intent of which a request may still land.
    pub unknown: Option<u64>,
    /// The highest id seen: ids never return, not even with a restored API server (safety rule RE1).
    pub last_id: u64,
    /// The highest intent that was closed.
    pub closed: u64,
    /// What the agent refused to set aside since all was last asked for: others come first.
    pub refused: BTreeSet<SlotAddress>,
    /// What was removed, and when the NIC showed it gone: an older answer may still turn up.
    pub removed: BTreeMap<SlotAddress, Timestamp>,
    /// Since when nothing spoke against giving back, as far as this process saw.
    pub calm_since: Option<Timestamp>,
    /// Whether the node was short of addresses, cordoned or out of sight when it was last looked at.
    pub restless: bool,
    /// How often the open intent was sent.
    pub sends: u32,
    /// When Azure was last found to take writes without effect.
    pub ignored: Option<Timestamp>,
    /// Since which read the NIC and the machine's model have disagreed though Azure is done.
    pub lagging: Option<Timestamp>,
    /// How many this new node was to hold when the first write for it was opened: by what was learned it is filled once.
    pub filled: Option<u16>,
    /// The last intent that asked for more than the node would hold if it were not new.
    pub generous: Option<u64>,
    /// Whether the subnet had no room for that.
    pub declined: bool,
    /// How far the watch of a new node's need has come.
    pub first_need: Watch,
    /// The last intent that asked for blocks.
    pub asked_for_blocks: Option<u64>,
    /// That Azure lately gave none.
    pub denied: Option<Denied>,
}

/// An agent that offers less than it has adopted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HoldingBack {
    /// Since when it is known to hold back just as many of just this revision.
    pub since: Timestamp,
    /// The revision.
    pub revision: u64,
    /// How many.
    pub many: u16,
}

/// Rounds of releases in which each slot that is too much was refused, as a pod has it or something of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InVain {
    /// How many in a row.
    pub rounds: u32,
    /// The most addresses that were in use, or rested, since the first: only where fewer are, something may have become idle.
    pub used: u16,
}

/// The watch of what the pods of a new node need when it comes into service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Watch {
    /// Its beginning was not seen, or it has ended.
    #[default]
    Unseen,
    /// The node was seen before it came into service.
    Awaited,
    /// It has come into service.
    Begun {
        /// When.
        at: Timestamp,
        /// The most that its pods needed at once since.
        most: u16,
    },
}

impl Memory {
    /// Takes from a decision, before any of it is written, which ids it gave: where the answer to the write is lost, an intent that is found stored
    /// later is known as this process's own, and unsent.
    pub fn number(&mut self, decided: &Self) {
        if self.opened != decided.opened {
            (self.opened, self.sends) = (decided.opened, 0);
        }
        self.last_id = decided.last_id;
    }

    /// What holds once a decision's spec is written, before its status is: of an intent nothing, and of all else everything. An agent that answers the
    /// spec at once makes the write of the status fail, and a release that nobody remembers would not stand.
    #[must_use]
    pub fn after_spec(&self, decided: &Self) -> Self {
        let Self { opened, seen, unknown, closed, sends, ignored, .. } = *self;
        Self { opened, seen, unknown, closed, sends, ignored, ..decided.clone() }
    }
}

/// A release as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Drawn for it alone (safety rule RE1).
    pub nonce: String,
    /// The agent's store at that time (safety rule ST9).
    pub store: String,
    /// When.
    pub at: Timestamp,
}

/// What to do, in this order: [`Memory::number`], `delete`, write `spec`, keep [`Memory::after_spec`], write `cloud`, keep `memory`, `send`, `read`,
/// wait `wake`; `events` are told once the first of the writes is done. After any write, send or read: decide again. A write that fails drops what is
/// left.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    /// The object belongs to another Node of this name: delete it.
    pub delete: bool,
    /// The whole spec to apply; creates the object where there is none.
    pub spec: Option<AzureVnetNodeSpec>,
    /// The whole `status.cloud` to apply.
    pub cloud: Option<Cloud>,
    /// All conditions of the controller, where they are to be applied: together with `cloud`, which is there whenever one of them changed, or with
    /// what mode Plan would send.
    pub conditions: Vec<Condition>,
    /// What to send, once `cloud` is stored.
    pub send: Option<Send>,
    /// What would be sent if the mode were not Plan.
    pub planned: Planned,
    /// The NIC is to be read now.
    pub read: bool,
    /// When to decide again though nothing happens.
    pub wake: Option<Duration>,
    /// What to tell the user.
    pub events: Vec<Event>,
    /// For the next decision.
    pub memory: Memory,
}

/// What mode Plan would send.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Planned {
    /// Not decided: what was said last stands.
    #[default]
    Open,
    /// Nothing.
    Nothing,
    /// This.
    Change(nic::Change),
}

/// A write to the NIC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Send {
    /// Its intent: goes into [`Attempt::intent`].
    pub intent: u64,
    /// What it does.
    pub change: nic::Change,
    /// Nothing is sent after this.
    pub not_after: Timestamp,
    /// Its place in the queue.
    pub urgency: arm::Urgency,
    /// Whether it asks for more than the node would hold if it were not new, or for blocks: that there is no room for it does not tell that the subnet is
    /// full.
    pub generous: bool,
}

/// A Kubernetes Event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// One word.
    pub reason: &'static str,
    /// A sentence, with the remedy if one is needed.
    pub message: String,
    /// Whether it is a warning.
    pub warning: bool,
}

/// How old a NIC read may be before it is repeated for its own sake, where nobody else looks at the NIC; and how often a node is looked at without a read.
const READ_EVERY: Duration = Duration::from_mins(10);
/// How often a node that may get nothing is looked at.
const IDLE: Duration = Duration::from_mins(5);

/// Decides. `policy` is what the node's config asks for.
#[must_use]
pub fn decide(observed: &Observed, policy: &Policy, now: Timestamp) -> Decision {
    let decision = decided(observed, policy, now);
    debug_assert_eq!(invariants::broken(observed, policy, &decision, now), None, "{decision:?}");
    decision
}

fn decided(observed: &Observed, policy: &Policy, now: Timestamp) -> Decision {
    // What happens to it meanwhile is not looked at.
    let idle = || Decision { memory: Memory { restless: true, ..observed.memory.clone() }, wake: Some(IDLE), ..Decision::default() };
    if !observed.node.is_served() {
        return idle();
    }
    let Some(stored) = &observed.object else { return create(observed, policy) };
    if stored.metadata.deletion_timestamp.is_some() {
        return idle();
    }
    if !stored.spec.node.uid.is_empty() && stored.spec.node.uid != observed.node.uid {
        return Decision { delete: true, ..idle() };
    }
    step::Step::new(observed, stored, policy, now).decide()
}

/// A new object publishes nothing yet (safety rules RE3, RE4): revision 0 is below all that an agent adopted.
fn create(observed: &Observed, policy: &Policy) -> Decision {
    let spec = AzureVnetNodeSpec {
        node: Machine::clone(&observed.machine),
        config: policy.config.clone(),
        effective: policy.effective.clone(),
        ..AzureVnetNodeSpec::default()
    };
    Decision { spec: Some(spec), memory: Memory { last_id: observed.memory.last_id, ..Memory::default() }, ..Decision::default() }
}

impl NodeFacts {
    /// Whether it may get anything (safety rule UP1).
    #[must_use]
    pub fn is_served(&self) -> bool {
        !self.deleting && self.ready != Ready::Unknown
    }
}

impl Observed {
    /// The agent's report, if it speaks of this object and this boot.
    fn agent(&self) -> Option<&Agent> {
        let stored = self.object.as_ref()?;
        let uid = stored.metadata.uid.as_deref().unwrap_or_default();
        status(stored).agent.as_ref().filter(|agent| agent.object_uid == uid && agent.boot_id == self.node.boot_id)
    }
}

/// What an object's status says; nothing if it has none.
fn status(object: &AzureVnetNode) -> &AzureVnetNodeStatus {
    static NONE: AzureVnetNodeStatus = AzureVnetNodeStatus { cloud: None, agent: None, conditions: vec![] };
    object.status.as_ref().unwrap_or(&NONE)
}

/// Time between two instants, none if the later one is the earlier.
fn since(earlier: Timestamp, now: Timestamp) -> Duration {
    now.duration_since(earlier).try_into().unwrap_or_default()
}

/// An instant later, at most the end of time.
fn later(at: Timestamp, by: Duration) -> Timestamp {
    at.saturating_add(by).unwrap_or(Timestamp::MAX)
}

/// An instant as it is stored: in whole seconds, so that what is read back equals what was written.
fn stamp(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}

/// What the spec asks to set aside.
fn releasing(releases: &[Release]) -> BTreeSet<SlotAddress> {
    releases.iter().flat_map(|release| release.addresses.iter().copied()).collect()
}
