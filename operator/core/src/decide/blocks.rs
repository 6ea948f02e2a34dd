//! Blocks of addresses: whether the next addition asks for them, and what speaks against it. Slots of either unit stand side by side on a NIC; what is
//! added goes by the config of the day, and what was added before it goes back like any surplus.

use std::time::Duration;

use azure_vnet_crds::node::{Agent, Intent, IntentOp, MachineKind, StoreCounts, Unit};
use jiff::Timestamp;

use super::{
    Attempt, Event, HoldingBack, NicRead, READ_EVERY, addresses, since,
    sizing::is_exhausted,
    step::{MISSING, Step},
};
use crate::{
    arm::Class,
    nic::{Slot, View},
    size,
};

/// For how long single addresses are asked for once Azure gave no block.
const REST: Duration = Duration::from_hours(1);
/// The same where it gave a single address in place of one: to ask again costs the node one more.
const IGNORED: Duration = Duration::from_hours(24);

/// That Azure gave no block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    /// When it said so.
    pub at: Timestamp,
    /// Why.
    pub why: Why,
}

/// Why a node gets single addresses though its config asks for blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// The model of a Uniform scale set's instance has no field for them.
    Kind,
    /// No aligned /28 of the subnet is free.
    Fragmented,
    /// Azure refuses them, by this code.
    Refused(String),
    /// Azure takes them for single addresses.
    Ignored,
}

impl Why {
    /// One word.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Kind => "BlocksUnsupported",
            Self::Fragmented => "SubnetFragmented",
            Self::Refused(_) => "BlocksRefused",
            Self::Ignored => "BlocksIgnored",
        }
    }

    /// A sentence with the remedy.
    #[must_use]
    pub fn message(&self) -> String {
        match self {
            Self::Kind => {
                "Instances of Uniform scale sets take no /28 blocks: the node gets single addresses. Use a Flexible scale set or \
                           stand-alone machines for blocks, or set pool.unit to Address for such nodes."
                    .into()
            }
            Self::Fragmented => "The subnet has no aligned /28 free: the node gets single addresses for an hour. Give nodes with blocks a \
                                 subnet, or a prefix of it, in which nothing else takes single addresses, or set pool.unit to Address."
                .into(),
            Self::Refused(code) => format!(
                "Azure refuses /28 blocks ({code}): the node gets single addresses for an hour. Blocks are a preview in Azure: register the \
                 subscription for it, or set pool.unit to Address."
            ),
            Self::Ignored => "Azure was asked for a /28 block, and the NIC shows a single address in its place: the node gets single addresses \
                              for a day. The Resource Manager of this cloud or Azure Stack may be too old for blocks, or the NIC of a kind that \
                              takes none: set pool.unit to Address for such nodes."
                .into(),
        }
    }

    /// For how long no block is asked for.
    fn rest(&self) -> Duration {
        match self {
            Self::Kind | Self::Fragmented | Self::Refused(_) => REST,
            Self::Ignored => IGNORED,
        }
    }
}

/// What the next addition asks for. A full subnet may have single addresses left.
pub fn unit(step: &Step<'_>) -> Unit {
    if hindrance(step).is_some() || is_exhausted(step) { Unit::Address } else { wanted(step) }
}

/// What the node's pool is to consist of in the end.
pub fn wanted(step: &Step<'_>) -> Unit {
    step.policy.unit_on(step.observed.machine.kind)
}

/// Why the node does not get the blocks that its config asks for.
pub fn hindrance(step: &Step<'_>) -> Option<Why> {
    match (step.policy.unit, step.observed.machine.kind) {
        (Unit::Address, _) | (Unit::Block28, MachineKind::Unknown) => None,
        (Unit::Block28, MachineKind::VmssUniform) => Some(Why::Kind),
        (Unit::Block28, MachineKind::VmssFlex | MachineKind::Vm) => step.memory.denied.as_ref().map(|denied| denied.why.clone()),
    }
}

/// Whether Azure gave no block since it was asked for one: for single addresses it may be asked at once.
pub fn was_denied(step: &Step<'_>, last: &Attempt) -> bool {
    last.intent.is_some() && last.intent == step.memory.asked_for_blocks && why(last).is_some()
}

/// Notes that Azure gave no block, and forgets it after a while, or once none is asked for.
pub fn keep(step: &mut Step<'_>) {
    if step.policy.unit != Unit::Block28 {
        step.memory.denied = None;
        return;
    }
    let last = step.observed.last.as_ref().filter(|last| was_denied(step, last));
    let denied = last.and_then(|last| Some(Denied { at: last.at, why: why(last)? }));
    if let Some(denied) = denied.filter(|denied| step.memory.denied.as_ref().is_none_or(|known| known.at < denied.at)) {
        deny(step, denied);
    }
    let Some((begun, rest)) = step.memory.denied.as_ref().map(|denied| (denied.at, denied.why.rest())) else { return };
    match rest.checked_sub(since(begun, step.now)) {
        Some(rest) if !rest.is_zero() => step.wake(rest),
        Some(_) | None => step.memory.denied = None,
    }
}

/// Notes that an addition that asked for blocks brought single addresses: Azure does not know the field, or does not answer with it.
pub fn read_back(step: &mut Step<'_>, intent: &Intent, view: &View) {
    let is_single = |slot: &u8| matches!(view.slots.get(slot), Some(Slot::Attached(_, Unit::Address)));
    let asked = step.policy.unit == Unit::Block28 && intent.op == IntentOp::Add && intent.unit == Unit::Block28;
    if asked && intent.add.iter().any(is_single) {
        deny(step, Denied { at: step.now, why: Why::Ignored });
    }
}

fn deny(step: &mut Step<'_>, denied: Denied) {
    step.out.events.push(Event { reason: denied.why.reason(), message: denied.why.message(), warning: true });
    step.memory.denied = Some(denied);
}

/// Reads the NIC again, and lets the agent hear of it, while that offers less than it has adopted: a block that metadata does not show waits for such a
/// read (safety rule RE6).
pub fn read_again(step: &mut Step<'_>, nic: &NicRead) {
    let has_blocks = step.spec.addresses.iter().any(|at| !at.unit.is_address());
    let (revision, offered_at_most) = (step.stored.spec.revision, addresses(&step.spec.addresses));
    let holds_back = |agent: &Agent| {
        let StoreCounts { assigned, cooling, quarantined, free } = agent.counts;
        let all = [assigned, cooling, quarantined, free].into_iter().fold(0_u16, u16::saturating_add);
        let many = offered_at_most.saturating_sub(size::kept_from_pods(&step.stored.spec)).saturating_sub(all);
        (agent.revision_adopted >= revision && many > 0).then_some(many)
    };
    let Some(many) = step.observed.agent().and_then(holds_back).filter(|_| has_blocks) else {
        step.memory.holding_back = None;
        return;
    };
    let known = step.memory.holding_back.filter(|known| (known.revision, known.many) == (revision, many));
    let begun = step.memory.holding_back.insert(known.unwrap_or(HoldingBack { since: step.now, revision, many })).since;
    if since(begun, step.now) < READ_EVERY {
        step.note_read |= nic.at > begun;
        step.read_at_pace(since(nic.ended, step.now), MISSING);
    }
}

fn why(last: &Attempt) -> Option<Why> {
    let error = last.result.as_ref().err()?;
    match &error.class {
        Class::SubnetFull => Some(Why::Fragmented),
        Class::Rejected => Some(Why::Refused(error.code.clone())),
        // What stands on the NIC and fails again and again would hold up all that comes after it.
        Class::Failed if last.failures > 1 => Some(Why::Refused(error.code.clone())),
        Class::Throttled { .. }
        | Class::Busy { .. }
        | Class::Stale
        | Class::Superseded
        | Class::Gone
        | Class::Forbidden { .. }
        | Class::Locked
        | Class::Unauthenticated
        | Class::Unavailable { .. }
        | Class::Failed
        | Class::NotSent => None,
    }
}
