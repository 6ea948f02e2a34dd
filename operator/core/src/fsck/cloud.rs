//! What Azure, controller and agent say of a node, against each other and against the node's own word.

use std::time::Duration;

use azure_vnet_crds::node::SlotAddress;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::{
    compare::{Seen, Side},
    report::{Finding, Kind, Source, Unseen},
};
use crate::{look::last_segment, size::addresses};

/// A NIC is read every ten minutes at least, and a read that changed nothing noted every five; what is older says nothing of this moment.
const OLD: Duration = Duration::from_mins(20);
/// The same where the node's IMDS speaks: as long as that agrees, the NIC is read once an hour.
const OLD_AGREED: Duration = Duration::from_mins(75);
/// Beyond its end and the config's grace a write is closed at the controller's next look.
const NEXT_LOOK: Duration = Duration::from_mins(5);

/// What Azure or the API server say nothing of.
pub fn unseen(side: &Side<'_>) -> Vec<Unseen> {
    let unseen = |source, why: String| Unseen { node: side.name.to_owned(), source, why };
    let mut all = vec![];
    let old = if side.agent.imds.is_some() { OLD_AGREED } else { OLD };
    match side.cloud.last_read_at.as_ref().map(|at| at.0) {
        None => all.push(unseen(Source::Azure, "the controller has not read the NIC yet".into())),
        Some(read) if since(read, side.at) > old => {
            all.push(unseen(Source::Azure, format!("the controller last read the NIC at {read}: see whether one leads")));
        }
        Some(_) => {}
    }
    if side.machine.is_none() {
        all.push(unseen(Source::ApiServer, "there is no such Node any more".into()));
    }
    all
}

/// What differs.
pub fn findings(side: &Side<'_>) -> Vec<Finding> {
    let of_objects = [other_machine(side), azure_differs(side), write_overdue(side)];
    let of_conditions = [told(side, "Withheld", Kind::Withheld), told(side, "RevisionRegressed", Kind::Regressed)];
    let of_node = side.node.map(|seen| node(side, seen)).unwrap_or_default();
    of_objects.into_iter().chain(of_conditions).flatten().chain(of_node).collect()
}

fn since(then: Timestamp, now: Timestamp) -> Duration {
    now.duration_since(then).try_into().unwrap_or_default()
}

fn other_machine(side: &Side<'_>) -> Option<Finding> {
    let (object, node) = (&side.object.spec.node.uid, &side.machine?.uid);
    let differs = !object.is_empty() && !node.is_empty() && object != node;
    differs.then(|| {
        let what = format!("the object is of the Node with UID {object}, the Node's is {node}");
        side.finding(Kind::OtherMachine, None, "", what).says(Source::Controller, Some(side.at), format!("UID {object}")).says(
            Source::ApiServer,
            Some(side.at),
            format!("UID {node}"),
        )
    })
}

/// Only where nothing is under way: an open write, or a NIC that is not published yet, explains it.
fn azure_differs(side: &Side<'_>) -> Option<Finding> {
    let (cloud, spec) = (&side.cloud, &side.object.spec);
    let waits = cloud.publish_from.as_ref().is_some_and(|from| from.0 > side.at);
    let read = cloud.last_read_at.as_ref().map(|at| at.0)?;
    let listed = addresses(&spec.addresses);
    let differs = cloud.attached != listed;
    (differs && spec.revision > 0 && cloud.intent.is_none() && !waits).then(|| {
        let attached = cloud.attached;
        let what = format!("the NIC has {attached} addresses on IP configurations of ours, the object lists {listed}");
        side.finding(Kind::AzureDiffers, None, last_segment(&spec.node.nic_id), what)
            .says(Source::Azure, Some(read), format!("{attached}"))
            .says(Source::Controller, Some(side.at), format!("{listed}, revision {}", spec.revision))
    })
}

fn write_overdue(side: &Side<'_>) -> Option<Finding> {
    let intent = side.cloud.intent.as_ref()?;
    let end = intent.not_after.as_ref()?.0;
    (since(end, side.at) > side.grace + NEXT_LOOK).then(|| {
        let what = format!("write {} of {} is open, and nothing is sent for it after {end}", intent.id, intent.leader);
        side.finding(Kind::WriteOverdue, None, "", what).says(Source::Controller, Some(side.at), format!("write {} is open", intent.id))
    })
}

/// What the agent tells by a condition's reason.
fn told(side: &Side<'_>, reason: &str, kind: Kind) -> Option<Finding> {
    let conditions = side.object.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let Condition { message, last_transition_time, .. } = conditions.iter().find(|condition| condition.reason == reason)?;
    Some(side.finding(kind, None, "", message.clone()).says(Source::Agent, Some(last_transition_time.0), reason))
}

fn node(side: &Side<'_>, seen: Seen<'_>) -> Vec<Finding> {
    let mut found = vec![];
    found.extend(other_report(side, seen));
    found.extend(revision_behind(side, seen));
    found.extend(pool_differs(side, seen));
    found
}

fn other_report(side: &Side<'_>, seen: Seen<'_>) -> Option<Finding> {
    let Seen { report, facts } = seen;
    let agent = &side.agent;
    side.object.status.as_ref()?.agent.as_ref()?;
    let store = facts.store_id.as_deref().unwrap_or(&agent.store_id);
    let differs = [
        ("boot", agent.boot_id.as_str(), report.boot_id.as_str()),
        ("store", agent.store_id.as_str(), store),
        ("object", agent.object_uid.as_str(), side.uid()),
    ];
    let (of, said, is) = differs.into_iter().find(|(_, said, is)| said != is)?;
    let what = format!("the agent's report is of {of} {said:?}, and this is {is:?}");
    let by = if of == "object" { Source::ApiServer } else { Source::Store };
    Some(side.finding(Kind::OtherReport, None, "", what).says(Source::Agent, None, format!("{of} {said:?}")).says(
        by,
        report.at,
        format!("{of} {is:?}"),
    ))
}

fn revision_behind(side: &Side<'_>, seen: Seen<'_>) -> Option<Finding> {
    let pool = seen.facts.pool.as_ref().filter(|pool| pool.object_uid == side.uid())?;
    let published = side.object.spec.revision;
    (pool.revision < published).then(|| {
        let what = format!("the store has revision {}, the object {published}", pool.revision);
        side.finding(Kind::RevisionBehind, None, "", what).says(Source::Controller, Some(side.at), format!("revision {published}")).says(
            Source::Store,
            seen.report.at,
            format!("revision {}", pool.revision),
        )
    })
}

/// Under one revision both say the same, but for what the agent withholds.
fn pool_differs(side: &Side<'_>, seen: Seen<'_>) -> Vec<Finding> {
    let spec = &side.object.spec;
    let Some(pool) = seen.facts.pool.as_ref().filter(|pool| pool.object_uid == side.uid() && pool.revision == spec.revision) else {
        return vec![];
    };
    let is_listed = |at: &SlotAddress| spec.addresses.iter().any(|listed| listed.slot == at.slot && listed.contains(at.address));
    let surplus = pool.addresses.iter().filter(|at| !is_listed(at) || side.lost(at.address));
    let finding = |at: &SlotAddress| {
        let says = if side.lost(at.address) { "lists it as lost" } else { "does not list it in this slot" };
        side.finding(Kind::PoolDiffers, Some(at.address), format!("slot {}", at.slot), format!("the store offers it, the object {says}"))
            .says(Source::Controller, Some(side.at), format!("{says}, revision {}", spec.revision))
            .says(Source::Store, seen.report.at, format!("offers {at}, revision {}", pool.revision))
    };
    surplus.map(finding).collect()
}
