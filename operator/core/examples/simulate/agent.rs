//! The agent of one node: the product's rules of adoption, over the model of its store, in the order of the product's agent.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use azure_vnet_crds::{
    AzureVnetNode, AzureVnetNodeSpec,
    node::{self, Imds, IntentOp, SlotAddress, StoreCounts},
};
use azure_vnet_operator_core::{
    adoption::{self, Before, Held, Judgement, Listed, Pass, Probation, Sightings, Source, ToldRead},
    blocks, demand,
    witness::Witness,
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::{
    fault::Mutation,
    life::Pod,
    store::{Adopted, Killed, Store},
};

/// One process.
#[derive(Clone, Debug, Default)]
pub struct Agent {
    pub alive: bool,
    /// Which process it is: what was meant for an earlier one is void.
    pub life: u64,
    /// The node's object, as the watch shows it.
    pub object: Option<Arc<AzureVnetNode>>,
    pub told: Option<(Rc<node::Agent>, bool)>,
    pub told_at: i64,
    sightings: Sightings,
    witness: Witness,
    probation: Probation<Timestamp>,
    refused: BTreeSet<(u64, SlotAddress)>,
    restored: bool,
    last: Option<(Adopted, BTreeSet<Ipv4Addr>, BTreeSet<SlotAddress>)>,
    /// What the object says, so that it is taken apart once.
    read: Option<(Arc<AzureVnetNode>, Rc<Basis>)>,
    /// A look that is not worth repeating.
    quiet: Option<Quiet>,
}

/// A look that changed nothing and waits for nothing: another one at the same finds the same, and one at other pods and leases only counts them.
#[derive(Clone, Debug)]
struct Quiet {
    basis: Rc<Basis>,
    touched: u64,
    pods: u64,
    shown: Option<Rc<BTreeSet<Ipv4Addr>>>,
    until: i64,
    /// Whether metadata says nothing.
    silent: bool,
    outcome: Outcome,
}

/// What has been observed outside.
#[derive(Clone, Debug)]
pub struct Seen<'a> {
    pub now: i64,
    pub boot_id: &'a str,
    pub machine: &'a str,
    pub pods: &'a BTreeMap<String, Pod>,
    /// What IMDS shows, if it was asked and answered.
    pub shown: Option<Rc<BTreeSet<Ipv4Addr>>>,
    /// And what it shows besides, that is not ours.
    pub beside: Rc<BTreeSet<Ipv4Addr>>,
    /// Whether the agent is of a version that does not tell of it.
    pub older: bool,
    pub mutation: Option<Mutation>,
    /// Looks at everything each time, to see that nothing is overlooked.
    pub thorough: bool,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// What to tell, and whether the object is behind what was adopted.
    pub report: Option<(Rc<node::Agent>, bool)>,
    pub ready: bool,
    pub waits_for_metadata: bool,
    pub due: Option<i64>,
    pub withdrawn: Vec<SlotAddress>,
}

#[derive(Debug)]
struct Basis {
    uid: String,
    /// With each address by itself.
    spec: Rc<AzureVnetNodeSpec>,
    /// With blocks as such.
    published: Rc<AzureVnetNodeSpec>,
    removing: Vec<SlotAddress>,
    last_read: Option<Timestamp>,
    listed: Listed,
    leaving: bool,
    content: u64,
    /// What pods may be given at all.
    all: Rc<BTreeSet<SlotAddress>>,
    addresses: BTreeSet<Ipv4Addr>,
}

impl Agent {
    /// A new process: it knows what lies on disk.
    pub fn start(&mut self, object: Option<Arc<AzureVnetNode>>) {
        *self = Self { alive: true, life: self.life + 1, object, ..Self::default() };
    }

    /// Whether addresses that are set aside, and have rested, await a later NIC read than one of this moment.
    pub fn awaits_later_than(&self, moment: Timestamp) -> bool {
        let listed: BTreeSet<SlotAddress> = self.object.iter().flat_map(|object| blocks::each(&object.spec.addresses)).collect();
        let settled_by = |last_read| {
            // At time zero no rest is over: only those count that await a read.
            let pass = Pass { now: Duration::ZERO, period: Duration::from_hours(1), last_read: Some(last_read) };
            self.probation.clone().pass(&listed, pass).len()
        };
        settled_by(moment) < settled_by(Timestamp::MAX)
    }

    /// What it remembers, as far as it counts.
    pub fn gist(&self) -> impl std::fmt::Debug + '_ {
        (&self.told, &self.sightings, &self.witness, &self.probation, &self.refused, self.restored, &self.last)
    }

    pub fn kill(&mut self) {
        self.alive = false;
        self.life += 1;
    }

    /// One look at everything.
    pub fn reconcile(&mut self, store: &mut Store, seen: &Seen<'_>) -> Result<Outcome, Killed> {
        let mut outcome = Outcome::default();
        if !self.restored || !store.run.sealed {
            self.last = None;
            store.sweep(seen.now);
            store.restore(seen.now)?;
            self.restored = true;
        }
        let (basis, regressed) = self.basis(store, seen);
        let Some(basis) = basis else { return Ok(outcome) };
        let (pods, now) = (crowd(seen.pods), boot_time(seen.now));
        if let (Some(shown), Some(quiet)) = (&seen.shown, &self.quiet)
            && quiet.shown.as_ref().is_some_and(|before| Rc::ptr_eq(before, shown))
        {
            self.witness.repeated(now);
        }
        let silent = self.witness.is_silent(now);
        let speaks_again = silent && seen.shown.is_some() && !seen.older;
        if self.quiet.as_ref().is_some_and(|quiet| quiet.holds(store, seen, &basis) && quiet.silent == silent && !speaks_again)
            && let Some(mut quiet) = self.quiet.take()
        {
            if quiet.touched != store.touched || quiet.pods != pods || seen.now >= quiet.until {
                store.sweep(seen.now);
                (quiet.touched, quiet.pods, quiet.until) = (store.touched, pods, store.next_end());
                let imds = |report: &node::Agent| report.imds;
                let anew = |(told, regressed): (Rc<node::Agent>, bool)| {
                    let report = node::Agent { imds: imds(&told), ..self.report(store, seen, &basis) };
                    (Rc::new(report), regressed)
                };
                quiet.outcome.report = quiet.outcome.report.map(anew);
            }
            let outcome = quiet.outcome.clone();
            self.quiet = Some(quiet);
            return Ok(outcome);
        }
        self.take_sightings(store, seen, &basis);
        let taken = self.take_over(store, seen, &basis, &mut outcome)?;
        if taken && basis.listed == Listed::ByObject {
            store.disk.spec = Some(Rc::clone(&basis.published));
        }
        outcome.ready = store.run.sealed;
        outcome.waits_for_metadata = self.sightings.waiting(now);
        outcome.due = self.sightings.next_due(now).map(|due| i64::try_from(due.as_millis()).unwrap_or_default());
        let blind = seen.mutation == Some(Mutation::NothingMissed);
        let imds = self.word_of_imds(&basis, now).map(|imds| if blind { Imds { missing: 0, ..imds } } else { imds });
        let report = || node::Agent { imds, ..self.report(store, seen, &basis) };
        outcome.report = self.object.is_some().then(|| (Rc::new(report()), regressed));
        self.quiet = self.is_quiet(store, &basis, &outcome, now).then(|| {
            let shown = seen.shown.clone().or_else(|| self.quiet.take()?.shown);
            let silent = self.witness.is_silent(now);
            Quiet { basis, touched: store.touched, pods, shown, until: store.next_end(), silent, outcome: outcome.clone() }
        });
        Ok(outcome)
    }

    fn is_quiet(&self, store: &Store, basis: &Basis, outcome: &Outcome, now: Duration) -> bool {
        let waits = outcome.waits_for_metadata || outcome.due.is_some() || !outcome.withdrawn.is_empty();
        let idle = store.set_aside().is_empty() && basis.spec.release.is_empty() && self.sightings.withheld(now).is_empty();
        basis.listed == Listed::ByObject && outcome.ready && !waits && idle && self.witness.is_steady(now)
    }

    fn word_of_imds(&mut self, basis: &Basis, now: Duration) -> Option<Imds> {
        let stays = |at: &SlotAddress| !basis.removing.contains(at);
        let listed = blocks::each(&basis.published.addresses).into_iter().filter(stays).map(|at| at.address).collect();
        let hidden = self.sightings.hidden().collect();
        (basis.listed == Listed::ByObject).then(|| self.witness.compare(now, &listed, &hidden)).flatten()
    }

    fn basis(&mut self, store: &Store, seen: &Seen<'_>) -> (Option<Rc<Basis>>, bool) {
        let adopted = store.disk.adopted.as_ref();
        let kept = || adopted.map(|adopted| Rc::new(kept(store, adopted)));
        let Some(object) = self.object.as_ref().filter(|object| object.spec.revision > 0) else { return (kept(), false) };
        let known = self.read.as_ref().filter(|(of, _)| Arc::ptr_eq(of, object)).map(|(_, basis)| Rc::clone(basis));
        let same = || self.read.as_ref().filter(|(_, basis)| basis.is_of(object)).map(|(_, basis)| Rc::clone(basis));
        let read = known.or_else(same).unwrap_or_else(|| Rc::new(by_object(object)));
        self.read = Some((Arc::clone(object), Rc::clone(&read)));
        let last = adopted.map(|adopted| adoption::Adopted { revision: adopted.revision, content: adopted.content });
        match adoption::judge(last.as_ref(), &adoption::Adopted { revision: read.spec.revision, content: read.content }) {
            Judgement::Adopt | Judgement::Unchanged => (Some(read), false),
            Judgement::Regressed(_) if seen.mutation == Some(Mutation::AdoptsOlder) => (Some(read), false),
            Judgement::Regressed(_) => (kept(), true),
        }
    }

    fn take_sightings(&mut self, store: &mut Store, seen: &Seen<'_>, basis: &Basis) {
        let now = boot_time(seen.now);
        let careless = seen.mutation == Some(Mutation::OfferedAfterBoot);
        let adopted = || {
            let adopted = store.disk.adopted.iter().flat_map(|adopted| adopted.addresses.iter());
            Cow::Owned(adopted.map(|at| at.address).collect())
        };
        let told = (basis.listed == Listed::ByObject).then(|| ToldRead { object: basis.uid.clone(), at: basis.last_read });
        self.sightings.list_blocks(&blocks::of_blocks(&basis.published.addresses), told);
        let noted = Before {
            shown: Cow::Borrowed(&store.disk.shown),
            hidden: Cow::Borrowed(&store.disk.hidden),
            singles: Cow::Owned(store.disk.spec.as_ref().map(|spec| blocks::singles(&spec.addresses)).unwrap_or_default()),
            ..Before::default()
        };
        let before = match (&store.run.pool, basis.listed) {
            (Some(pool), _) => Before { offered: Cow::Borrowed(pool), ..noted },
            (None, _) if careless => Before { offered: adopted(), ..noted },
            (None, Listed::ByObject) => Before { former: adopted(), ..noted },
            (None, Listed::OnDiskOnly) => noted,
        };
        self.sightings.list(now, basis.listed, &basis.addresses, &before);
        if basis.leaving {
            self.sightings.doubt();
        }
        let same = store.disk.machine.is_empty() || store.disk.machine == seen.machine;
        if let Some(shown) = seen.shown.as_ref().filter(|_| same || basis.listed == Listed::ByObject) {
            store.disk.machine.clear();
            store.disk.machine.push_str(seen.machine);
            let blocks = basis.published.addresses.iter().any(|at| !at.unit.is_address());
            let shown =
                if blocks { Cow::Owned(blocks::shown(&basis.published.addresses, (**shown).clone())) } else { Cow::Borrowed(&**shown) };
            self.sightings.witness(now, Source::Imds, &shown);
            if !seen.older {
                self.witness.answered(now, shown.union(&seen.beside).copied().collect());
            }
        }
        if !self.sightings.shown().eq(store.disk.shown.iter().copied()) {
            store.disk.shown = self.sightings.shown().collect();
        }
        if !self.sightings.hidden().eq(store.disk.hidden.iter().copied()) {
            store.disk.hidden = self.sightings.hidden().collect();
        }
    }

    /// Withdraws, adopts, seals, sets aside: in the order of safety rules ST6 to ST8.
    fn take_over(&mut self, store: &mut Store, seen: &Seen<'_>, basis: &Basis, outcome: &mut Outcome) -> Result<bool, Killed> {
        let now = boot_time(seen.now);
        let hasty = seen.mutation == Some(Mutation::NoProbation);
        let period = Duration::from_secs(if hasty { 0 } else { basis.spec.effective.probation_seconds });
        let pass = Pass { now, period, last_read: basis.last_read };
        let (quarantined, set_aside) = (store.quarantined(), store.set_aside());
        let held = Held { quarantined: &quarantined, set_aside: &set_aside };
        let mut plan = adoption::releases(&basis.spec, &basis.removing, held, &self.refused, (&mut self.probation, pass));
        if hasty {
            let leaving: BTreeSet<SlotAddress> = basis.spec.release.iter().flat_map(|release| release.addresses.clone()).collect();
            plan.withdraw = set_aside.iter().filter(|at| !leaving.contains(at) && basis.spec.addresses.contains(at)).copied().collect();
        }
        if basis.listed == Listed::ByObject {
            for at in &plan.withdraw {
                store.withdraw(*at)?;
                outcome.withdrawn.push(*at);
                self.last = None;
            }
        }
        if basis.listed == Listed::ByObject && seen.mutation != Some(Mutation::AcknowledgedInPart) {
            self.refused.extend(blocks::in_use(&plan.quarantine, &store.recorded()));
        }
        let mut offer = adoption::offer(&basis.spec, &basis.all, &basis.removing, &self.sightings, now);
        let held_back = blocks::held_back(&basis.spec.release, &self.refused);
        offer.set_aside.retain(|at| !held_back.contains(at) || basis.removing.contains(at));
        let mut offered: BTreeSet<Ipv4Addr> = offer.offered.iter().map(|at| at.address).collect();
        let at_once =
            seen.mutation == Some(Mutation::OfferedAtOnce) || seen.mutation == Some(Mutation::OfferedAfterBoot) && !store.run.sealed;
        if at_once {
            offered = basis.all.difference(&offer.set_aside).map(|at| at.address).collect();
        }
        if basis.listed == Listed::OnDiskOnly && !store.run.sealed && offered.is_empty() {
            return Ok(false);
        }
        let adopted =
            Adopted { uid: basis.uid.clone(), revision: basis.spec.revision, content: basis.content, addresses: Rc::clone(&basis.all) };
        let last = (adopted, offered, offer.set_aside);
        if self.last.as_ref() != Some(&last) || !store.run.sealed {
            store.adopt(&last.0, &last.1, &last.2, seen.now)?;
            self.last = Some(last);
        }
        store.run.sealed = true;
        store.cool_down = i64::try_from(basis.spec.effective.cool_down_seconds).unwrap_or_default() * 1000;
        store.step()?;
        if basis.listed == Listed::ByObject && seen.mutation != Some(Mutation::AcknowledgedAtOnce) {
            for (release, at) in &plan.quarantine {
                if self.refused.iter().any(|(id, refused)| id == release && refused.slot == at.slot) {
                    continue;
                }
                if !store.quarantine(*at, seen.now, seen.mutation == Some(Mutation::SetsAsideInUse))? {
                    self.refused.insert((*release, *at));
                }
            }
            self.refused.retain(|(id, _)| basis.spec.release.iter().any(|release| release.id == *id));
        }
        store.sweep(seen.now);
        Ok(true)
    }

    fn report(&self, store: &Store, seen: &Seen<'_>, basis: &Basis) -> node::Agent {
        let held = demand::Held {
            leases: store.leased().map(|pod| Some(pod.as_str())).collect(),
            resting: vec![None; store.cooling()],
            want: store.run.wants.keys().map(String::as_str).collect(),
        };
        let acks = match basis.listed {
            Listed::ByObject if seen.mutation == Some(Mutation::AcknowledgedAtOnce) => {
                let asked = basis.spec.release.iter().flat_map(|release| release.addresses.iter().copied());
                adoption::acks(&basis.published, &asked.collect(), &self.refused)
            }
            Listed::ByObject if seen.mutation == Some(Mutation::AcknowledgedInPart) => {
                let aside = store.quarantined();
                let touched = |at: &&SlotAddress| at.each().any(|at| aside.contains(&at));
                let asked = basis.published.release.iter().flat_map(|release| &release.addresses);
                adoption::acks(&basis.published, &asked.filter(touched).flat_map(|at| at.each()).collect(), &self.refused)
            }
            Listed::ByObject => adoption::acks(&basis.published, &store.quarantined(), &self.refused),
            Listed::OnDiskOnly => vec![],
        };
        let untold = seen.mutation == Some(Mutation::LostInUseUntold);
        let count = |number: usize| u16::try_from(number).unwrap_or(u16::MAX);
        let lists = |at: &&SlotAddress| store.disk.adopted.as_ref().is_some_and(|adopted| adopted.addresses.contains(at));
        node::Agent {
            object_uid: self.object.as_ref().and_then(|object| object.metadata.uid.clone()).unwrap_or_default(),
            boot_id: seen.boot_id.to_owned(),
            store_id: store.disk.id.clone(),
            version: String::new(),
            revision_adopted: store.disk.adopted.as_ref().map_or(0, |adopted| adopted.revision),
            demand: demand::demand(&seen.pods.values().map(|pod| &pod.shown).collect::<Vec<_>>(), &held),
            counts: StoreCounts {
                assigned: count(held.leases.len()),
                cooling: count(held.resting.len()),
                quarantined: count(store.quarantined().iter().filter(lists).count()),
                free: count(store.free()),
            },
            release_acks: acks,
            lost_in_use: basis.spec.lost.iter().filter(|at| store.leases(at.address) && !untold).copied().collect(),
            ready: store.run.sealed,
            imds: None,
        }
    }
}

impl Quiet {
    fn holds(&self, store: &Store, seen: &Seen<'_>, basis: &Rc<Basis>) -> bool {
        let shown = match (&self.shown, &seen.shown) {
            (_, None) => true,
            (Some(before), Some(now)) => Rc::ptr_eq(before, now),
            (None, Some(_)) => false,
        };
        Rc::ptr_eq(&self.basis, basis) && shown && store.fuse.is_none() && store.run.sealed && !seen.thorough
    }
}

impl Basis {
    /// Whether an object says just this.
    fn is_of(&self, object: &AzureVnetNode) -> bool {
        let cloud = object.status.as_ref().and_then(|status| status.cloud.as_ref());
        let intent = cloud.and_then(|cloud| cloud.intent.as_ref()).filter(|intent| intent.op == IntentOp::Remove);
        self.listed == Listed::ByObject
            && object.metadata.uid.as_ref() == Some(&self.uid)
            && object.metadata.deletion_timestamp.is_some() == self.leaving
            && self.removing == blocks::each(intent.map(|intent| intent.remove.as_slice()).unwrap_or_default())
            && self.last_read == cloud.and_then(|cloud| cloud.last_read_at.as_ref()).map(|at| at.0)
            && *self.published == object.spec
    }
}

/// Of all that counts of the pods.
fn crowd(pods: &BTreeMap<String, Pod>) -> u64 {
    let take = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let one = |hash, pod: &demand::Pod| {
        let state = 1 + u8::from(pod.finished) + 2 * u8::from(pod.terminating);
        take(pod.uid.bytes().fold(hash, take), state)
    };
    pods.values().map(|pod| &pod.shown).fold(0xcbf2_9ce4_8422_2325, one)
}

/// The condition that goes with a report.
pub fn adopted(regressed: bool) -> Condition {
    Condition {
        type_: "PoolAdopted".into(),
        status: if regressed { "False" } else { "True" }.into(),
        reason: if regressed { "RevisionRegressed" } else { "Adopted" }.into(),
        message: String::new(),
        last_transition_time: k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::UNIX_EPOCH),
        observed_generation: None,
    }
}

/// The simulated nodes' boot-time clock: it runs on over boots, which no rule minds.
fn boot_time(now: i64) -> Duration {
    Duration::from_millis(u64::try_from(now).unwrap_or_default())
}

fn by_object(object: &AzureVnetNode) -> Basis {
    let cloud = object.status.as_ref().and_then(|status| status.cloud.as_ref());
    let removing = cloud.and_then(|cloud| cloud.intent.as_ref()).filter(|intent| intent.op == IntentOp::Remove);
    let published = Rc::new(object.spec.clone());
    let spec = apart(&published);
    let all = adoption::listed(&spec);
    Basis {
        addresses: all.iter().map(|at| at.address).collect(),
        all: Rc::new(all),
        uid: object.metadata.uid.clone().unwrap_or_default(),
        content: adoption::content(&object.spec),
        spec,
        published,
        removing: removing.map(|intent| blocks::each(&intent.remove)).unwrap_or_default(),
        last_read: cloud.and_then(|cloud| cloud.last_read_at.as_ref()).map(|at| at.0),
        listed: Listed::ByObject,
        leaving: object.metadata.deletion_timestamp.is_some(),
    }
}

/// Most have no blocks.
fn apart(published: &Rc<AzureVnetNodeSpec>) -> Rc<AzureVnetNodeSpec> {
    let is_apart = published.addresses.iter().chain(&published.lost).all(|at| at.unit.is_address());
    if is_apart { Rc::clone(published) } else { Rc::new(blocks::apart(AzureVnetNodeSpec::clone(published))) }
}

fn kept(store: &Store, adopted: &Adopted) -> Basis {
    let same = |spec: &&Rc<AzureVnetNodeSpec>| spec.revision == adopted.revision && adoption::content(spec) == adopted.content;
    let bare = || {
        let addresses = adopted.addresses.iter().copied().collect();
        let mut spec = AzureVnetNodeSpec { revision: adopted.revision, addresses, ..AzureVnetNodeSpec::default() };
        spec.effective.cool_down_seconds = u64::try_from(store.cool_down / 1000).unwrap_or_default();
        Rc::new(spec)
    };
    let published = store.disk.spec.as_ref().filter(same).map_or_else(bare, Rc::clone);
    let spec = apart(&published);
    let all = adoption::listed(&spec);
    Basis {
        addresses: all.iter().map(|at| at.address).collect(),
        all: Rc::new(all),
        uid: adopted.uid.clone(),
        spec,
        published,
        removing: vec![],
        last_read: None,
        listed: Listed::OnDiskOnly,
        leaving: false,
        content: adopted.content,
    }
}
