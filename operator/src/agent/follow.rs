//! The steps that follow once it is known what the node's object asks for: set aside, adopt, seal, keep the host, give pods' leases back.

use std::{collections::BTreeSet, net::Ipv4Addr, time::Duration};

use azure_vnet_crds::node::{Agent, SlotAddress, StoreCounts};
use azure_vnet_operator_core::{
    adoption::{self, Listed, Pass},
    blocks,
    demand::{self, Held},
    withheld,
};
use azure_vnet_plugin::store::{Adoption, Census, Freed, KeeperError, Quarantining};
use azure_vnet_plugin_core::{
    attachment::PodUid,
    gc::LinkWitness,
    lease::{Entry, Lease, Quarantine},
    pool::{self, SealOwner},
};
use tracing::{info, warn};

use super::{
    basis::{Basis, facts, marker, to_store},
    clocks::since_boot,
    host::{Host, Look},
    keep::{CutOff, Node, Outcome, Seen, Want},
    kernel::{Kernel, View},
    orphans::{Action, Orphans, Trace},
    problems::{News, Problem, Problems, Report, Topic, chain},
};

/// How long one look may spend on leases of pods that are gone.
const ORPHANS_AT_MOST: Duration = Duration::from_secs(15);

/// How taking over ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    /// The store is as the basis asks.
    Over,
    /// Nothing confirms the basis yet.
    AwaitsWitness,
    /// Nobody says which subnet the addresses are in.
    SubnetUnknown,
}

impl Taken {
    /// What is in the way of taking over.
    fn problem(self, mac: &str) -> Option<Problem> {
        match self {
            Self::Over => None,
            Self::AwaitsWitness => Some(Problem {
                reason: "AwaitsWitness",
                message: "waits for the API server or this node's IMDS to confirm the pool of the former boot".into(),
            }),
            Self::SubnetUnknown => Some(Problem {
                reason: "SubnetUnknown",
                message: format!(
                    "the prefix of the node's subnet is not known, and pods are not wired by guess: the controller may not read the subnet, and no route \
                     of the NIC with the MAC {mac} tells it. Let the controller's identity read it (Microsoft.Network/virtualNetworks/subnets/read), or \
                     give the NIC its subnet's route back"
                ),
            }),
        }
    }
}

impl Node {
    pub(super) fn follow(&mut self, seen: &Seen, view: &View, basis: Basis, problems: &mut Problems, outcome: &mut Outcome) {
        let now = since_boot();
        let basis = &self.trusted(seen, basis, now);
        self.take_sightings(seen, view, basis, now);
        self.remember_sightings(problems);
        let taken = self.take_over(basis, view, now);
        let taken = problems.check(Topic::StoreHealthy, "StoreFailed", taken);
        if let Some(Problem { reason, message }) = taken.and_then(|taken| taken.problem(&basis.spec.node.mac)) {
            problems.note(Topic::PoolAdopted, reason, message);
        }
        let taken = taken == Some(Taken::Over);
        let Some(entries) = problems.check(Topic::StoreHealthy, "StoreUnreadable", self.keeper.store().list()) else { return };
        self.note_holders(&entries);
        if taken {
            self.keep_in_mind(basis, problems);
        }
        outcome.withheld = self.tell_withheld(&entries, problems, now);
        if let Some(message) = blocks::stuck(&basis.published.addresses, &self.stuck) {
            problems.remark(Topic::PoolAdopted, "KeptInUse", message);
        }
        let spec = &basis.spec;
        let addresses: BTreeSet<Ipv4Addr> = adoption::listed(spec).iter().map(|slot| slot.address).collect();
        let held: BTreeSet<Ipv4Addr> =
            entries.iter().filter(|(_, entry)| matches!(entry, Entry::Leased(_))).map(|(address, _)| *address).collect();
        // Before the rules, whose programs may take their time (safety rule RE7).
        let lost = spec.lost.iter().map(|slot| slot.address).collect();
        let cut = self.kernel.cut_off(view, &lost);
        if let Some(refusals) = cut.refusals() {
            problems.note(Topic::RulesInSync, "RoutesFailed", refusals);
        }
        let pod = |address: Ipv4Addr| leases(&entries).find(|(of, _)| *of == address).and_then(|(_, lease)| lease.pod.clone());
        outcome.cut_off = cut.off.into_iter().map(|address| CutOff { address, pod: pod(address) }).collect();
        if basis.whole {
            self.host.converge(&self.options, (&mut self.kernel, view), spec, (&addresses, &held), (seen.look, problems));
        }
        self.judge_orphans(seen, view, &entries, now);
        if seen.look == Look::ForDrift {
            let pods = seen.watched.as_ref().map(|watched| &watched.uids);
            if problems.check(Topic::StoreHealthy, "MemoryFailed", self.keeper.remember(&entries, pods)) == Some(true) {
                self.adoption = None;
            }
        }
        if taken && basis.whole && self.keeper.is_sealed() {
            self.host.place_conflist(&self.options, spec, problems);
        }
        self.host.remark(problems);
        outcome.ready = self.keeper.is_sealed() && self.host.placed();
        outcome.waits_for_metadata = self.sightings.waiting(now);
        outcome.due = self.sightings.next_due(now).map(|due| due.saturating_sub(now));
        if self.clocks.distrusted {
            outcome.wants.insert(Want::Object);
        }
        if seen.watched.as_ref().is_some_and(|watched| Orphans::wants_list(&entries, watched)) {
            outcome.wants.insert(Want::Pods);
        }
        let imds = self.word_of_imds(basis, now);
        outcome.leaked = self.orphans.lasting(now, &entries);
        let Some(wants) = problems.check(Topic::StoreHealthy, "StoreUnreadable", self.keeper.store().wants()) else { return };
        outcome.waiting = wants.len();
        let report = self.report(seen, basis, &wants, outcome.ready);
        if let Some(agent) = problems.check(Topic::StoreHealthy, "StoreUnreadable", report).flatten() {
            outcome.report = Some(Report { agent: Agent { imds, ..agent }, problems: problems.clone() });
        }
    }

    /// Says which attached addresses pods do not get although nobody set them aside. Answers how many those are.
    fn tell_withheld(&mut self, entries: &[(Ipv4Addr, Entry)], problems: &mut Problems, now: Duration) -> usize {
        let mut withheld = self.sightings.withheld(now);
        for (address, _) in entries.iter().filter(|(_, entry)| matches!(entry, Entry::Quarantined(_))) {
            withheld.remove(address);
        }
        self.withheld.look(now, &withheld);
        let lasting = self.withheld.lasting(now);
        if let Some(message) = withheld::message(&lasting) {
            problems.remark(Topic::PoolAdopted, "Withheld", message);
        }
        lasting.len()
    }

    /// Withdraws, adopts, seals, sets aside: in the order of safety rules ST6 to ST8.
    fn take_over(&mut self, basis: &Basis, view: &View, now: Duration) -> Result<Taken, KeeperError> {
        let quarantined = self.quarantined()?;
        let pass = Pass { now, period: Duration::from_secs(basis.spec.effective.probation_seconds), last_read: basis.last_read };
        let held = adoption::Held { quarantined: &quarantined, set_aside: &self.all_set_aside()? };
        let plan = adoption::releases(&basis.spec, &basis.removing, held, &self.refused, (&mut self.probation, pass));
        if basis.listed == Listed::ByObject {
            for slot in &plan.withdraw {
                self.keeper.withdraw(to_store(*slot))?;
                self.adoption = None;
                info!(%slot, "back in use");
            }
        }
        if basis.listed == Listed::ByObject {
            self.hold_back(&plan.quarantine)?;
        }
        let listed = adoption::listed(&basis.spec);
        let mut offer = adoption::offer(&basis.spec, &listed, &basis.removing, &self.sightings, now);
        let held_back = blocks::held_back(&basis.spec.release, &self.refused);
        offer.set_aside.retain(|at| !held_back.contains(at) || basis.removing.contains(at));
        let before = || self.keeper.adopted().ok().flatten().map(|pool| pool.prefix);
        let Some(facts) = facts(basis, view, before) else { return Ok(Taken::SubnetUnknown) };
        let adoption = Adoption {
            facts,
            addresses: listed.into_iter().map(to_store).collect(),
            offered: offer.offered.iter().map(|slot| slot.address).collect(),
            hold: offer.set_aside.iter().map(|slot| marker(basis, *slot)).collect(),
        };
        if basis.listed == Listed::OnDiskOnly && !self.keeper.is_sealed() && adoption.offered.is_empty() {
            // After a boot nothing counts before the object was read again, or this node's IMDS confirmed something (safety rule RE5).
            return Ok(Taken::AwaitsWitness);
        }
        if self.adoption.as_ref() != Some(&adoption) || !self.keeper.is_sealed() {
            let pool = self.keeper.adopt(&adoption)?;
            info!(revision = pool.revision, listed = adoption.addresses.len(), offered = pool.addresses().len(), "adopted the pool");
            self.adoption = Some(adoption);
        }
        if !self.keeper.is_sealed() {
            self.keeper.seal(SealOwner::Agent)?;
        }
        if basis.listed == Listed::ByObject {
            self.set_all_aside(basis, &plan.quarantine)?;
            self.refused.retain(|(id, _)| basis.spec.release.iter().any(|release| release.id == *id));
        }
        self.keeper.sweep()?;
        Ok(Taken::Over)
    }

    /// Refuses blocks of which a pod has, or just had, an address, before anything of them is set aside.
    fn hold_back(&mut self, asked: &[(u64, SlotAddress)]) -> Result<(), KeeperError> {
        if asked.is_empty() {
            return Ok(());
        }
        let entries = self.keeper.store().list()?.into_iter().filter(|(_, entry)| !matches!(entry, Entry::Quarantined(_)));
        self.refused.extend(blocks::in_use(asked, &entries.map(|(address, _)| address).collect()));
        Ok(())
    }

    /// Sets aside what is asked for; nothing more of a block once any of it is refused.
    fn set_all_aside(&mut self, basis: &Basis, asked: &[(u64, SlotAddress)]) -> Result<(), KeeperError> {
        for (release, slot) in asked {
            if !self.refused.iter().any(|(id, refused)| id == release && refused.slot == slot.slot) {
                self.set_aside(basis, *release, *slot)?;
            }
        }
        let listed = adoption::listed(&basis.spec);
        self.stuck.retain(|slot, _| basis.spec.addresses.contains(slot) && !listed.contains(slot));
        Ok(())
    }

    fn set_aside(&mut self, basis: &Basis, release: u64, slot: SlotAddress) -> Result<(), KeeperError> {
        let kernel = &mut self.kernel;
        let named = basis.spec.release.iter().filter(|of| of.id == release).flat_map(|of| &of.addresses);
        let whole = named.filter(|at| at.slot == slot.slot).map(|at| to_store(*at)).collect();
        match self.keeper.quarantine_of(&marker(basis, slot), &whole, &mut |address| kernel.in_use(address))? {
            Quarantining::Done => {
                info!(%slot, release, "set aside");
                self.stuck.remove(&slot);
            }
            Quarantining::Refused(why) => {
                info!(%slot, release, why, "stays in use");
                self.refused.insert((release, slot));
                self.stuck.insert(slot, why);
            }
        }
        Ok(())
    }

    /// With either record: what a withdrawal has to take back.
    fn all_set_aside(&self) -> Result<BTreeSet<SlotAddress>, KeeperError> {
        Ok(self.keeper.set_aside()?.into_iter().map(|slot| SlotAddress::single(slot.slot, slot.address)).collect())
    }

    fn quarantined(&self) -> Result<BTreeSet<SlotAddress>, KeeperError> {
        let slot = |marker: Quarantine| SlotAddress::single(marker.slot.slot, marker.slot.address);
        Ok(self.keeper.quarantined()?.into_iter().map(slot).collect())
    }

    /// Remembers who has which address: when it rests, its record does not say it any more.
    fn note_holders(&mut self, entries: &[(Ipv4Addr, Entry)]) {
        let there: BTreeSet<Ipv4Addr> = entries.iter().map(|(address, _)| *address).collect();
        self.holders.retain(|address, _| there.contains(address));
        self.holders.extend(leases(entries).filter_map(|(address, lease)| Some((address, pod_of(lease)?))));
    }

    fn judge_orphans(&mut self, seen: &Seen, view: &View, entries: &[(Ipv4Addr, Entry)], now: Duration) {
        let begun = since_boot();
        let Some(listed) = &seen.listed else { return };
        let kernel = &mut self.kernel;
        let mut trace = |address: Ipv4Addr, entry: &Entry| {
            let (netns, link) = kernel.trace(view, address, entry);
            Trace { netns, link }
        };
        for action in self.orphans.judge(now, entries, listed, &mut trace) {
            // Each may wait for a command that holds its lease; what is left is judged again by the next list.
            if since_boot() > begun + ORPHANS_AT_MOST {
                break;
            }
            let kernel = &mut self.kernel;
            match action {
                Action::Free(address, entry) => {
                    match self.keeper.store().free_if(address, &entry, &mut || is_gone(kernel, address, &entry) && kernel.forget(&entry)) {
                        Ok(Freed::Cooling) => info!(%address, "freed the lease of a pod that is gone"),
                        Ok(Freed::Changed) => {}
                        Err(error) => warn!(%address, error = %chain(&error), "cannot free the lease of a pod that is gone"),
                    }
                }
                Action::RemoveLink(address, lease) => match self.kernel.delete_link(view, &lease) {
                    Ok(()) => info!(%address, link = %lease.host_link, "removed the link of a pod that is gone"),
                    Err(error) => warn!(%address, error = %chain(&error), "cannot remove the link of a pod that is gone"),
                },
            }
        }
    }

    /// What the controller is told; nothing before the object and the node's pods are known.
    fn report(&self, seen: &Seen, basis: &Basis, wants: &[PodUid], ready: bool) -> Result<Option<Agent>, KeeperError> {
        let (Some(object), Some(pods)) = (&seen.object, &seen.pods) else { return Ok(None) };
        let store = self.keeper.store();
        let Census { entries, counts, resting } = store.census()?;
        let leased: Vec<Option<String>> = leases(&entries).map(|(_, lease)| pod_of(lease)).collect();
        let held = Held {
            leases: leased.iter().map(Option::as_deref).collect(),
            resting: resting.iter().map(|address| self.holders.get(address).map(String::as_str)).collect(),
            want: wants.iter().map(PodUid::as_str).collect(),
        };
        let count = |number: usize| u16::try_from(number).unwrap_or(u16::MAX);
        let adopted = self.keeper.adopted()?;
        let held_by_pod =
            |at: &SlotAddress| entries.iter().any(|(address, entry)| *address == at.address && matches!(entry, Entry::Leased(_)));
        let acks = match basis.listed {
            Listed::ByObject => adoption::acks(&basis.published, &self.quarantined()?, &self.refused),
            Listed::OnDiskOnly => vec![],
        };
        Ok(Some(Agent {
            object_uid: object.uid.clone(),
            boot_id: self.boot.to_string(),
            store_id: self.keeper.id().to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            revision_adopted: adopted.as_ref().map_or(0, |pool| pool.revision),
            demand: demand::demand(pods, &held),
            counts: StoreCounts {
                assigned: count(counts.leased),
                cooling: count(counts.cooling),
                quarantined: count(set_aside(&entries, adopted.as_ref())),
                free: count(counts.free),
            },
            lost_in_use: basis.spec.lost.iter().filter(|at| held_by_pod(at)).copied().collect(),
            release_acks: acks,
            ready,
            imds: None,
        }))
    }

    /// Says once what stands in the way or is worth knowing, and once when it does no more. Before the node is ready for the first time the
    /// conditions tell enough: every start has its waits.
    pub(super) fn finish(&mut self, seen: &Seen, problems: Problems) -> Vec<News> {
        let mut news = std::mem::take(&mut self.host.news);
        for (topic, problem) in problems.beyond(&self.said) {
            warn!(?topic, reason = problem.reason, "{}", problem.message);
            if self.host.placed() {
                news.push(News { reason: problem.reason, note: problem.message.clone() });
            }
        }
        for (topic, _) in self.said.iter().filter(|(topic, _)| problems.none(*topic)) {
            info!(?topic, "in order again");
        }
        self.said = problems;
        if seen.look == Look::ForDrift {
            Host::tidy(&self.options);
        }
        news
    }
}

/// The leases of a store.
fn leases(entries: &[(Ipv4Addr, Entry)]) -> impl Iterator<Item = (Ipv4Addr, &Lease)> {
    entries.iter().filter_map(|(address, entry)| if let Entry::Leased(lease) = entry { Some((*address, lease)) } else { None })
}

/// The pod of a lease that names one, by UID.
fn pod_of(lease: &Lease) -> Option<String> {
    lease.pod.as_ref().and_then(|pod| pod.uid.as_ref()).map(ToString::to_string)
}

/// Whether the kernel shows no link of an entry at this moment; what it does not answer is no.
fn is_gone(kernel: &mut Kernel, address: Ipv4Addr, entry: &Entry) -> bool {
    kernel.view().is_ok_and(|view| kernel.trace(&view, address, entry).1 == LinkWitness::Gone)
}

/// How many addresses of the adopted revision are set aside: revision and number belong together, and a marker may outlive its address for a moment.
fn set_aside(entries: &[(Ipv4Addr, Entry)], adopted: Option<&pool::Pool>) -> usize {
    let lists = |marker: &Quarantine| adopted.is_some_and(|pool| pool.find(marker.slot.address) == Some(marker.slot));
    entries.iter().filter(|(_, entry)| matches!(entry, Entry::Quarantined(marker) if lists(marker))).count()
}

#[cfg(test)]
mod tests {
    use azure_vnet_plugin_core::{
        lease::ReleaseId,
        pool::{ContentHash, PoolFacts},
    };
    use ipnet::Ipv4Net;

    use super::*;

    #[test]
    fn a_marker_that_outlives_its_address_does_not_count_as_set_aside() {
        let facts = PoolFacts {
            object_uid: "u".into(),
            revision: 2,
            content: ContentHash(1),
            prefix: Ipv4Net::default(),
            gateway: Ipv4Addr::UNSPECIFIED,
            cool_down: Duration::ZERO,
            mtu: None,
        };
        let slot = |text: &str| text.parse::<pool::SlotAddress>().unwrap();
        let adopted = pool::Pool::new("b".parse().unwrap(), "s".parse().unwrap(), facts, [slot("1/10.0.0.5"), slot("2/10.0.0.6")]);
        let marker = |text| {
            let release = ReleaseId { id: 1, nonce: "n".into() };
            (slot(text).address, Entry::Quarantined(Quarantine { slot: slot(text), object_uid: "u".into(), release }))
        };
        let entries = [marker("1/10.0.0.5"), marker("9/10.0.0.6"), marker("3/10.0.0.7")];
        assert_eq!(set_aside(&entries, Some(&adopted)), 1);
    }
}
