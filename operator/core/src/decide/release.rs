//! Giving addresses back: which requests still stand, and which are acknowledged (safety rules RE1, RE2, ST9).

use std::{collections::BTreeSet, time::Duration};

use azure_vnet_crds::node::{Agent, Release, ReleaseAck, SlotAddress};
use jiff::Timestamp;

use super::{
    Asked, Event, Memory, NicRead, Observed, READ_EVERY, addresses, later, releasing, since,
    step::{MISSING, Step},
};
use crate::nic::View;

/// What the agent is late by in hearing that a release was called off.
const HEARD: Duration = Duration::from_secs(15);

impl Step<'_> {
    pub fn judge_releases(&mut self, view: &View) {
        self.memory.refused.extend(refused(self.observed, &self.spec.release, &self.memory));
        let deadline = self.policy.release.deadline;
        let made_after = self.now.checked_sub(deadline).unwrap_or(Timestamp::MIN);
        for (id, at) in unanswered(self.observed, &self.spec.release, &self.memory) {
            if at > made_after {
                self.wake(deadline.saturating_sub(since(at, self.now)));
                continue;
            }
            self.memory.unanswered = true;
            self.cloud.surplus_since = None;
            let message = format!(
                "the agent has not answered release {id} within {} s: it is called off, and its addresses stay. Look at the agent's pod on this node",
                deadline.as_secs()
            );
            self.out.events.push(Event { reason: "ReleaseUnanswered", message, warning: true });
        }
        if self.observed.agent().is_some_and(|agent| agent.revision_adopted >= self.stored.spec.revision) && self.spec.release.is_empty() {
            self.memory.unanswered = false;
        }
        self.spec.release = judge(self.observed, &self.spec.release, view, &self.memory, made_after);
        let live: BTreeSet<u64> = self.spec.release.iter().map(|release| release.id).collect();
        self.memory.releases.retain(|id, _| live.contains(id));
    }

    /// What the agent has set aside and nobody asks for any more goes back to pods after the probation and one read of the NIC, which it must hear of
    /// (safety rule RE8).
    pub fn end_probation(&mut self, nic: &NicRead) {
        let leaving = addresses(&releasing(&self.spec.release));
        let aside = |agent: &Agent| agent.revision_adopted >= self.stored.spec.revision && agent.counts.quarantined > leaving;
        if !self.observed.agent().is_some_and(aside) {
            self.memory.aside_since = None;
            return;
        }
        let begun = *self.memory.aside_since.get_or_insert(self.now);
        let over = later(begun, Duration::from_secs(self.policy.effective.probation_seconds) + HEARD);
        if self.now < over {
            self.wake(since(self.now, over));
        } else if since(over, self.now) < READ_EVERY {
            self.note_read = nic.at >= over;
            self.read_at_pace(if nic.at < over { MISSING } else { since(nic.ended, self.now) }, MISSING);
        }
    }
}

/// The releases that still stand, without what the agent refused and what the NIC shows otherwise. One of another term, of another store or of an id that
/// was closed does not stand; nor does one that the agent left unanswered for too long (I10).
fn judge(observed: &Observed, releases: &[Release], view: &View, memory: &Memory, made_after: Timestamp) -> Vec<Release> {
    let rest = |release: &Release| {
        let mut release = release.clone();
        if let Some(ack) = ack(observed, &release) {
            let same = |at: &SlotAddress| view.shows(*at);
            release.addresses.retain(|at| !ack.refused.contains(at) && (same(at) || !ack.quarantined.contains(at)));
        }
        release
    };
    let in_time =
        |release: &&Release| ack(observed, release).is_some() || asked(release, memory).is_some_and(|asked| asked.at > made_after);
    let standing = releases.iter().filter(|release| stands(observed, release, memory)).filter(in_time);
    standing.map(rest).filter(|release| !release.addresses.is_empty()).collect()
}

/// Releases of this term that the agent has not answered, and when they were made.
fn unanswered(observed: &Observed, releases: &[Release], memory: &Memory) -> Vec<(u64, Timestamp)> {
    let open = releases.iter().filter(|release| stands(observed, release, memory) && ack(observed, release).is_none());
    open.filter_map(|release| Some((release.id, asked(release, memory)?.at))).collect()
}

/// What the agent refused to set aside.
fn refused(observed: &Observed, releases: &[Release], memory: &Memory) -> BTreeSet<SlotAddress> {
    let standing = releases.iter().filter(|release| stands(observed, release, memory));
    standing.filter_map(|release| ack(observed, release)).flat_map(|ack| ack.refused.iter().copied()).collect()
}

fn stands(observed: &Observed, release: &Release, memory: &Memory) -> bool {
    asked(release, memory).is_some_and(|asked| observed.agent().is_none_or(|agent| agent.store_id == asked.store))
}

/// How this controller asked for a release in this term, if it did.
fn asked<'a>(release: &Release, memory: &'a Memory) -> Option<&'a Asked> {
    memory.releases.get(&release.id).filter(|asked| asked.nonce == release.nonce)
}

/// The first release that the agent set aside in whole, as the NIC shows it.
pub fn acknowledged(observed: &Observed, releases: &[Release], view: &View) -> Option<(u64, Vec<SlotAddress>)> {
    let whole = |release: &&Release| {
        let asked: BTreeSet<_> = release.addresses.iter().collect();
        let done: BTreeSet<_> = ack(observed, release).into_iter().flat_map(|ack| &ack.quarantined).collect();
        asked.is_subset(&done) && asked.iter().all(|at| view.shows(**at))
    };
    releases.iter().find(whole).map(|release| (release.id, release.addresses.clone()))
}

/// The agent's answer to a release: of this object and boot.
fn ack<'a>(observed: &'a Observed, release: &Release) -> Option<&'a ReleaseAck> {
    let agent = observed.agent()?;
    agent.release_acks.iter().find(|ack| ack.id == release.id && ack.nonce == release.nonce)
}
