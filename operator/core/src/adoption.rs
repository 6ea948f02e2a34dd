//! What the agent takes over from its `AzureVnetNode`, and which of its addresses pods may have: pure rules over what the object says,
//! what the node's own metadata shows, and what time it is (since boot).

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    time::Duration,
};

use azure_vnet_crds::{
    AzureVnetNodeSpec,
    node::{Release, ReleaseAck, SlotAddress},
};
use ipnet::Ipv4Net;
use jiff::Timestamp;

use crate::withheld::Why;

/// How long after it was listed an address is offered although the node's metadata has not shown it (safety rule RE6).
pub const SILENCE: Duration = Duration::from_mins(1);
/// From metadata showing an address to traffic that arrives (safety rule RE6).
pub const SETTLE: Duration = Duration::from_secs(2);

/// What has been taken over, as it lies on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adopted {
    /// The highest revision.
    pub revision: u64,
    /// Its [`content`].
    pub content: u64,
}

/// Hash of the part of a spec that a revision number stands for: the same in every version of this program (FNV-1a over a text).
#[must_use]
pub fn content(spec: &AzureVnetNodeSpec) -> u64 {
    let mut hash = Hash(0xcbf2_9ce4_8422_2325);
    hash.take("addresses ");
    hash.take_all(&spec.addresses);
    hash.take("\nlost ");
    hash.take_all(&spec.lost);
    for release in &spec.release {
        for part in ["\nrelease ", &release.id.to_string(), " ", &release.nonce, " "] {
            hash.take(part);
        }
        hash.take_all(&release.addresses);
    }
    hash.0
}

/// Of a text that is never put together.
struct Hash(u64);

impl Hash {
    fn take(&mut self, text: &str) {
        self.0 = text.bytes().fold(self.0, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    }

    /// In the order of their texts, each once.
    fn take_all(&mut self, addresses: &[SlotAddress]) {
        let mut texts: Vec<Text> = addresses.iter().copied().map(Text::of).collect();
        texts.sort_unstable();
        texts.dedup();
        for (number, text) in texts.iter().enumerate() {
            if number > 0 {
                self.take(",");
            }
            self.take(text.as_str());
        }
    }
}

/// An address with its slot as a text, without an allocation of its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Text([u8; Self::LONGEST]);

impl Text {
    /// `255/255.255.255.240/28`, and the rest is 0, which is less than any character.
    const LONGEST: usize = 22;

    fn of(at: SlotAddress) -> Self {
        let mut text = [0; Self::LONGEST];
        let octets = at.address.octets();
        let numbers = [at.slot].into_iter().chain(octets).zip([b'/', b'.', b'.', b'.', 0]);
        let suffix: &[u8] = if at.unit.is_address() { &[] } else { b"/28" };
        let digits = numbers.flat_map(|(number, end)| {
            let (hundreds, tens) = (number / 100, number / 10 % 10);
            let shown = [(hundreds > 0, hundreds), (number >= 10, tens), (true, number % 10)];
            shown.into_iter().filter(|(shown, _)| *shown).map(|(_, digit)| b'0' + digit).chain([end])
        });
        for (place, digit) in text.iter_mut().zip(digits.filter(|digit| *digit != 0).chain(suffix.iter().copied())) {
            *place = digit;
        }
        Self(text)
    }

    fn as_str(&self) -> &str {
        let end = self.0.iter().position(|byte| *byte == 0).unwrap_or(Self::LONGEST);
        self.0.get(..end).and_then(|text| std::str::from_utf8(text).ok()).unwrap_or_default()
    }
}

impl Adopted {
    /// What a spec offers to be taken over.
    #[must_use]
    pub fn of(spec: &AzureVnetNodeSpec) -> Self {
        Self { revision: spec.revision, content: content(spec) }
    }
}

/// Whether a spec may be taken over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// It is newer.
    Adopt,
    /// It is what was taken over.
    Unchanged,
    /// It is not to be believed (safety rule RE3).
    Regressed(Regression),
}

/// How a spec fell behind what was taken over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Regression {
    /// Its revision is lower.
    #[error("the object is at revision {offered}, this node has adopted {adopted}: the API server's data is older than the node")]
    Lower {
        /// What was taken over.
        adopted: u64,
        /// What the object says.
        offered: u64,
    },
    /// Its revision is the same, its content is not.
    #[error("the object's revision {revision} lists other addresses than the revision {revision} that this node has adopted")]
    OtherContent {
        /// The number.
        revision: u64,
    },
}

/// Judges what a spec offers against what was taken over, whatever object either came from (safety rule RE3).
#[must_use]
pub fn judge(adopted: Option<&Adopted>, offered: &Adopted) -> Judgement {
    let Some(adopted) = adopted else { return Judgement::Adopt };
    match offered.revision.cmp(&adopted.revision) {
        std::cmp::Ordering::Greater => Judgement::Adopt,
        std::cmp::Ordering::Less => Judgement::Regressed(Regression::Lower { adopted: adopted.revision, offered: offered.revision }),
        std::cmp::Ordering::Equal if offered.content == adopted.content => Judgement::Unchanged,
        std::cmp::Ordering::Equal => Judgement::Regressed(Regression::OtherContent { revision: offered.revision }),
    }
}

/// Who on the node says which addresses its NIC has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The instance metadata service.
    Imds,
    /// The wireserver.
    Wireserver,
}

/// What the node's metadata has shown of each listed address in this boot, and what IMDS has shown in any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sightings {
    of: BTreeMap<Ipv4Addr, Sighting>,
    by_imds: BTreeSet<Ipv4Addr>,
    of_blocks: BTreeMap<Ipv4Addr, BlockRead>,
    told: Option<ToldRead>,
}

/// What an object tells of the controller's last read of the NIC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToldRead {
    /// UID of the object.
    pub object: String,
    /// When the read was; none if there was none yet.
    pub at: Option<Timestamp>,
}

/// Whether the NIC was read since a block was listed.
#[derive(Clone, Debug, PartialEq, Eq)]
enum BlockRead {
    /// Not since this one was told.
    Not(ToldRead),
    /// It was, and the block was there.
    Since,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sighting {
    /// In the object, not shown yet.
    Listed { since: Duration },
    /// Offered before: in this boot, or shown by IMDS in a former one with the object read again in this one.
    Known,
    /// Shown.
    Shown { since: Duration },
    /// IMDS showed it and does not any more (safety rule RE5).
    Hidden,
    /// Known from a former boot only: nothing but IMDS confirms it (safety rule RE5).
    Unconfirmed,
}

/// What was known of addresses before they were first looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Before<'a> {
    /// Offered in this boot: they need not be shown before they are offered again.
    pub offered: Cow<'a, BTreeSet<Ipv4Addr>>,
    /// Listed when the former boot's pool was adopted: no news of this boot, but only what was also shown is known to carry traffic
    /// (safety rule RE6).
    pub former: Cow<'a, BTreeSet<Ipv4Addr>>,
    /// Shown by IMDS in any boot.
    pub shown: Cow<'a, BTreeSet<Ipv4Addr>>,
    /// Hidden by IMDS: only IMDS brings them back, whatever was restarted meanwhile (safety rule RE5).
    pub hidden: Cow<'a, BTreeSet<Ipv4Addr>>,
}

/// How far the list of addresses is to be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listed {
    /// The object was read in this boot and adopted.
    ByObject,
    /// It lies on disk, and the object could not be read or not be believed.
    OnDiskOnly,
}

impl Sightings {
    /// Takes note of what is listed.
    pub fn list(&mut self, now: Duration, by: Listed, listed: &BTreeSet<Ipv4Addr>, before: &Before<'_>) {
        self.of.retain(|address, _| listed.contains(address));
        self.by_imds.retain(|address| listed.contains(address));
        for address in listed {
            let known = self.of.get(address);
            if known.is_some_and(|sighting| *sighting != Sighting::Unconfirmed) {
                continue;
            }
            if known.is_none() && before.shown.contains(address) {
                self.by_imds.insert(*address);
            }
            let first = match by {
                _ if before.hidden.contains(address) => Sighting::Hidden,
                _ if before.offered.contains(address) => Sighting::Known,
                Listed::ByObject if before.former.contains(address) && before.shown.contains(address) => Sighting::Known,
                Listed::ByObject => Sighting::Listed { since: now },
                Listed::OnDiskOnly => Sighting::Unconfirmed,
            };
            self.of.insert(*address, first);
        }
    }

    /// Says which of the listed addresses are of blocks, and which read of the NIC the object tells of, if it is the object that lists them. It is not
    /// documented whether IMDS shows blocks at all: as long as it has shown none, that it lacks one is the silence of safety rule RE6, and not a word
    /// against it, once the controller has read the NIC again and still lists it. Before that, the object may speak of a machine of the same name that is
    /// gone.
    pub fn list_blocks(&mut self, of_blocks: &BTreeSet<Ipv4Addr>, told: Option<ToldRead>) {
        self.of_blocks.retain(|address, _| of_blocks.contains(address));
        if let Some(told) = told {
            let former = self.told.take().filter(|former| former.object == told.object).unwrap_or_else(|| told.clone());
            for address in of_blocks {
                let read = self.of_blocks.entry(*address).or_insert_with(|| BlockRead::Not(former.clone()));
                let BlockRead::Not(known) = read else { continue };
                if known.object != told.object {
                    known.clone_from(&former);
                }
                if told.at.is_some() && known.at != told.at {
                    *read = BlockRead::Since;
                }
            }
            self.told = Some(told);
        }
    }

    /// Takes note of one source's answer.
    pub fn witness(&mut self, now: Duration, source: Source, shown: &BTreeSet<Ipv4Addr>) {
        let knows_blocks = self.of_blocks.keys().any(|address| self.by_imds.contains(address) || shown.contains(address));
        for (address, sighting) in &mut self.of {
            if !knows_blocks && self.of_blocks.get(address) == Some(&BlockRead::Since) {
                continue;
            }
            let said = match (shown.contains(address), source) {
                (true, _) => Shows::It,
                (false, Source::Imds) if self.by_imds.contains(address) => Shows::ItNoMore,
                (false, _) => Shows::ItNot,
            };
            *sighting = next(*sighting, now, source, said);
            if source == Source::Imds && said == Shows::It {
                self.by_imds.insert(*address);
            }
        }
    }

    /// The object is being deleted: it may speak of a machine of the same name that is gone. What it lists and no metadata has shown is confirmed by
    /// nothing but IMDS, however long that is silent (safety rules RE5, RE6).
    pub fn doubt(&mut self) {
        for sighting in self.of.values_mut().filter(|sighting| matches!(sighting, Sighting::Listed { .. })) {
            *sighting = Sighting::Unconfirmed;
        }
    }

    /// Whether pods may have this address.
    #[must_use]
    pub fn offerable(&self, now: Duration, address: Ipv4Addr) -> bool {
        self.of.get(&address).and_then(|sighting| due(*sighting)).is_some_and(|due| due <= now)
    }

    /// When the next address becomes offerable by time alone.
    #[must_use]
    pub fn next_due(&self, now: Duration) -> Option<Duration> {
        self.of.values().filter_map(|sighting| due(*sighting)).filter(|due| *due > now).min()
    }

    /// Whether an answer of the metadata is being waited for.
    #[must_use]
    pub fn waiting(&self, now: Duration) -> bool {
        let waits = |sighting: &Sighting| match sighting {
            Sighting::Listed { since } => *since + SILENCE > now,
            Sighting::Unconfirmed => true,
            Sighting::Known | Sighting::Shown { .. } | Sighting::Hidden => false,
        };
        self.of.values().any(waits)
    }

    /// Addresses that pods do not get at this moment though no answer of the metadata is about to bring them.
    #[must_use]
    pub fn withheld(&self, now: Duration) -> BTreeMap<Ipv4Addr, Why> {
        let why = |sighting: Sighting| match sighting {
            Sighting::Listed { .. } => Some(Why::NotShown),
            Sighting::Hidden => Some(Why::TakenBack),
            Sighting::Unconfirmed => Some(Why::Unconfirmed),
            Sighting::Known | Sighting::Shown { .. } => None,
        };
        let withheld = self.of.iter().filter(|(address, _)| !self.offerable(now, **address));
        withheld.filter_map(|(address, sighting)| Some((*address, why(*sighting)?))).collect()
    }

    /// Addresses that IMDS showed and shows no more.
    pub fn hidden(&self) -> impl Iterator<Item = Ipv4Addr> + '_ {
        self.of.iter().filter(|(_, sighting)| **sighting == Sighting::Hidden).map(|(address, _)| *address)
    }

    /// Addresses that IMDS has shown, in this boot or before: what a restart has to find again.
    pub fn shown(&self) -> impl Iterator<Item = Ipv4Addr> + '_ {
        self.by_imds.iter().copied()
    }
}

/// What an answer says of one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shows {
    It,
    /// That proves nothing: an answer may be older than the address.
    ItNot,
    /// IMDS had shown it.
    ItNoMore,
}

fn next(sighting: Sighting, now: Duration, source: Source, shows: Shows) -> Sighting {
    let imds = source == Source::Imds;
    match (sighting, shows) {
        (Sighting::Listed { .. }, Shows::It) => Sighting::Shown { since: now },
        (Sighting::Hidden | Sighting::Unconfirmed, Shows::It) if imds => Sighting::Shown { since: now },
        (Sighting::Known, Shows::It) => Sighting::Shown { since: Duration::ZERO },
        (Sighting::Shown { .. } | Sighting::Known | Sighting::Unconfirmed, Shows::ItNoMore) => Sighting::Hidden,
        // IMDS speaks and does not have it yet: the minute of safety rule RE6 is one of silence.
        (Sighting::Listed { .. }, Shows::ItNot | Shows::ItNoMore) if imds => Sighting::Listed { since: now },
        (Sighting::Listed { .. } | Sighting::Known | Sighting::Shown { .. } | Sighting::Hidden | Sighting::Unconfirmed, _) => sighting,
    }
}

fn due(sighting: Sighting) -> Option<Duration> {
    match sighting {
        Sighting::Listed { since } => Some(since + SILENCE + SETTLE),
        Sighting::Known => Some(Duration::ZERO),
        Sighting::Shown { since } => Some(since + SETTLE),
        Sighting::Hidden | Sighting::Unconfirmed => None,
    }
}

/// Which of a node's addresses pods may have, and which they may not although they are listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// For pods.
    pub offered: BTreeSet<SlotAddress>,
    /// To be set aside before anything is offered: in a release or in an open removal (safety rule ST8).
    pub set_aside: BTreeSet<SlotAddress>,
}

/// Every address that the spec gives to this node's pods at all: not lost, not reserved, not the node's own.
#[must_use]
pub fn listed(spec: &AzureVnetNodeSpec) -> BTreeSet<SlotAddress> {
    let reserved: Vec<Ipv4Net> = spec.effective.reserved.iter().filter_map(|net| net.parse().ok()).collect();
    let primary: Option<Ipv4Addr> = spec.node.primary_address.parse().ok();
    let usable = |at: &&SlotAddress| {
        !spec.lost.iter().any(|lost| lost.address == at.address)
            && !reserved.iter().any(|net| net.contains(&at.address))
            && primary != Some(at.address)
    };
    spec.addresses.iter().filter(usable).copied().collect()
}

/// Decides what of the [`listed`] is offered. `removing` is what an open intent removes. A release or removal excludes what shares its slot or its address,
/// since either may be what is meant (safety rules ST8, RE2).
#[must_use]
pub fn offer(
    spec: &AzureVnetNodeSpec,
    listed: &BTreeSet<SlotAddress>,
    removing: &[SlotAddress],
    sightings: &Sightings,
    now: Duration,
) -> Offer {
    let leaving: BTreeSet<SlotAddress> = spec.release.iter().flat_map(|release| &release.addresses).chain(removing).copied().collect();
    let leaves = |at: &SlotAddress| leaving.iter().any(|leaving| leaving.slot == at.slot || leaving.address == at.address);
    let stays = listed.iter().copied().filter(|at| !leaves(at));
    let offered = stays.filter(|at| sightings.offerable(now, at.address)).collect();
    // What pods do not get anyway is set aside with the rest of its block.
    Offer { offered, set_aside: spec.addresses.iter().copied().filter(leaves).collect() }
}

/// What is to be done about addresses that are set aside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReleasePlan {
    /// To set aside, with the release's id.
    pub quarantine: Vec<(u64, SlotAddress)>,
    /// To give back to pods: listed as ordinary, and their probation is over.
    pub withdraw: Vec<SlotAddress>,
}

/// Addresses that are set aside although the object lists them as ordinary (safety rule RE8).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Probation<Read>(BTreeMap<SlotAddress, Stage<Read>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage<Read> {
    /// A late write may still land.
    Resting { since: Duration },
    /// A NIC read later than the one named here settles it; an older one may come back with the API server's state.
    AwaitingRead { after: Read },
}

/// What [`Probation::pass`] looks at.
#[derive(Clone, Copy, Debug)]
pub struct Pass<Read> {
    /// Now.
    pub now: Duration,
    /// How long a probation lasts.
    pub period: Duration,
    /// When the controller last read the NIC, by its own word.
    pub last_read: Option<Read>,
}

impl<Read: Copy + Ord> Probation<Read> {
    /// Moves every address that is set aside and ordinary one step on; yields those whose probation is over.
    pub fn pass(&mut self, ordinary: &BTreeSet<SlotAddress>, pass: Pass<Read>) -> Vec<SlotAddress> {
        self.0.retain(|at, _| ordinary.contains(at));
        let mut over = vec![];
        for at in ordinary {
            let stage = self.0.entry(*at).or_insert(Stage::Resting { since: pass.now });
            match *stage {
                Stage::Resting { since } if since + pass.period <= pass.now => {
                    if let Some(after) = pass.last_read {
                        *stage = Stage::AwaitingRead { after };
                    }
                }
                Stage::AwaitingRead { after } if pass.last_read.is_some_and(|last| last > after) => over.push(*at),
                Stage::Resting { .. } | Stage::AwaitingRead { .. } => {}
            }
        }
        over
    }
}

/// What the node has set aside.
#[derive(Clone, Copy, Debug)]
pub struct Held<'a> {
    /// With both records: what may be acknowledged.
    pub quarantined: &'a BTreeSet<SlotAddress>,
    /// With either record: what pods do not get.
    pub set_aside: &'a BTreeSet<SlotAddress>,
}

/// Decides what becomes of addresses that are, or are asked to be, set aside; those that left the list are forgotten by adopting it. `refused` are those that a pod held when they were asked for:
/// the answer to a release does not change afterwards.
#[must_use]
pub fn releases<Read: Copy + Ord>(
    spec: &AzureVnetNodeSpec,
    removing: &[SlotAddress],
    held: Held<'_>,
    refused: &BTreeSet<(u64, SlotAddress)>,
    probation: (&mut Probation<Read>, Pass<Read>),
) -> ReleasePlan {
    let Held { quarantined, set_aside } = held;
    let (probation, pass) = probation;
    if spec.release.is_empty() && set_aside.is_empty() {
        probation.0.clear();
        return ReleasePlan::default();
    }
    let asked: Vec<(u64, SlotAddress)> =
        spec.release.iter().flat_map(|release| release.addresses.iter().map(|at| (release.id, *at))).collect();
    let leaving: BTreeSet<SlotAddress> = asked.iter().map(|(_, at)| *at).chain(removing.iter().copied()).collect();
    let listed: BTreeSet<SlotAddress> = spec.addresses.iter().copied().collect();
    let ordinary = set_aside.iter().filter(|at| !leaving.contains(at) && listed.contains(at)).copied().collect();
    ReleasePlan {
        quarantine: asked
            .into_iter()
            .filter(|(id, at)| listed.contains(at) && !quarantined.contains(at) && !is_refused(refused, *id, *at))
            .collect(),
        withdraw: probation.pass(&ordinary, pass),
    }
}

/// Whether a slot is not to be set aside for a release: of a block nothing is, once any of it was refused.
fn is_refused(refused: &BTreeSet<(u64, SlotAddress)>, id: u64, at: SlotAddress) -> bool {
    refused.iter().any(|(of, known)| *of == id && known.slot == at.slot)
}

/// What may be acknowledged: releases of which every address is durably set aside, or was refused. A release that names something else than the
/// list does (safety rule RE2) is refused for that address. `spec` is as it was published: of a block each address has to be set aside.
#[must_use]
pub fn acks(spec: &AzureVnetNodeSpec, quarantined: &BTreeSet<SlotAddress>, refused: &BTreeSet<(u64, SlotAddress)>) -> Vec<ReleaseAck> {
    let judge = |release: &Release| {
        let (done, rest): (Vec<_>, Vec<_>) =
            release.addresses.iter().copied().partition(|at| at.each().all(|at| quarantined.contains(&at)));
        let is_refused = |at: &SlotAddress| at.each().any(|at| refused.contains(&(release.id, at)));
        let settled = rest.iter().all(|at| is_refused(at) || !spec.addresses.contains(at));
        settled.then(|| ReleaseAck { id: release.id, nonce: release.nonce.clone(), quarantined: done, refused: rest })
    };
    spec.release.iter().filter_map(judge).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> SlotAddress {
        text.parse().unwrap()
    }

    fn all(texts: &[&str]) -> Vec<SlotAddress> {
        texts.iter().map(|text| at(text)).collect()
    }

    fn addresses(texts: &[&str]) -> BTreeSet<Ipv4Addr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn spec(revision: u64, texts: &[&str]) -> AzureVnetNodeSpec {
        AzureVnetNodeSpec { revision, addresses: all(texts), ..AzureVnetNodeSpec::default() }
    }

    fn release(id: u64, texts: &[&str]) -> Release {
        Release { id, nonce: format!("n{id}"), addresses: all(texts) }
    }

    fn offered(addresses: &BTreeSet<Ipv4Addr>) -> Before<'_> {
        Before { offered: Cow::Borrowed(addresses), ..Before::default() }
    }

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn re3_neither_a_lower_revision_nor_other_content_of_the_same_is_adopted() {
        let of = |revision, texts: &[&str]| Adopted::of(&spec(revision, texts));
        let adopted = of(7, &["1/10.0.0.1"]);
        assert_eq!(judge(None, &of(0, &[])), Judgement::Adopt);
        assert_eq!(judge(Some(&adopted), &of(8, &[])), Judgement::Adopt);
        assert_eq!(judge(Some(&adopted), &of(7, &["1/10.0.0.1"])), Judgement::Unchanged);
        assert_eq!(judge(Some(&adopted), &of(7, &["1/10.0.0.2"])), Judgement::Regressed(Regression::OtherContent { revision: 7 }));
        let lower = Judgement::Regressed(Regression::Lower { adopted: 7, offered: 6 });
        assert_eq!(judge(Some(&adopted), &of(6, &["1/10.0.0.1"])), lower);
    }

    #[test]
    fn re6_what_an_object_lists_that_is_being_deleted_is_offered_only_where_imds_shows_it() {
        let listed = addresses(&["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
        let mut sightings = Sightings::default();
        let look = |sightings: &mut Sightings, seconds: u64| {
            sightings.list(secs(seconds), Listed::ByObject, &listed, &offered(&addresses(&["10.0.0.3"])));
            sightings.doubt();
        };
        look(&mut sightings, 0);
        sightings.witness(secs(1), Source::Imds, &addresses(&["10.0.0.2"]));
        look(&mut sightings, 600);
        let offered = listed.iter().filter(|address| sightings.offerable(secs(900), **address)).copied().collect::<BTreeSet<_>>();
        assert_eq!(offered, addresses(&["10.0.0.2", "10.0.0.3"]), "what was shown, and what was offered before");
        assert!(sightings.waiting(secs(900)), "IMDS is asked again");
        sightings.list(secs(901), Listed::ByObject, &listed, &Before::default());
        assert!(sightings.offerable(secs(963), "10.0.0.1".parse().unwrap()), "the next object counts as any does");
    }

    #[test]
    fn re6_as_long_as_imds_has_shown_no_block_its_silence_on_one_holds_nothing_up() {
        let block = at("2/10.0.0.16/28");
        let all_of = |at: SlotAddress| at.each().map(|at| at.address).collect::<BTreeSet<_>>();
        let listed: BTreeSet<Ipv4Addr> = all_of(block).into_iter().chain(addresses(&["10.0.0.1"])).collect();
        let offered =
            |sightings: &Sightings, seconds| listed.iter().filter(|address| sightings.offerable(secs(seconds), **address)).count();
        let mut mute = Sightings::default();
        mute.list(secs(0), Listed::ByObject, &listed, &Before::default());
        mute.list_blocks(&all_of(block), Some(told("object", 10)));
        mute.witness(secs(0), Source::Imds, &addresses(&[]));
        mute.list_blocks(&all_of(block), Some(told("object", 20)));
        mute.witness(secs(50), Source::Imds, &addresses(&[]));
        assert_eq!((offered(&mute, 61), offered(&mute, 62)), (0, 16), "after a minute of silence, and not the address that it lacks");
        let mut knowing = mute.clone();
        knowing.witness(secs(70), Source::Imds, &all_of(block));
        let more = at("3/10.0.0.32/28");
        let both: BTreeSet<Ipv4Addr> = all_of(block).into_iter().chain(all_of(more)).collect();
        knowing.list(secs(80), Listed::ByObject, &both, &Before::default());
        knowing.list_blocks(&both, Some(told("object", 90)));
        knowing.witness(secs(130), Source::Imds, &all_of(block));
        assert!(!knowing.offerable(secs(142), more.address), "it shows blocks, and not this one yet");
        knowing.witness(secs(150), Source::Imds, &addresses(&[]));
        assert!(!knowing.offerable(secs(200), block.address), "re5: what it showed and shows no more is withheld");
    }

    fn told(object: &str, second: i64) -> ToldRead {
        ToldRead { object: object.into(), at: Some(Timestamp::from_second(second).unwrap()) }
    }

    #[test]
    fn re6_a_block_that_imds_lacks_waits_until_the_nic_was_read_since_it_was_listed() {
        let block: BTreeSet<Ipv4Addr> = at("2/10.0.0.16/28").each().map(|at| at.address).collect();
        let offered = |looks: &[Option<ToldRead>]| {
            let mut sightings = Sightings::default();
            for told in looks {
                sightings.list(secs(0), Listed::ByObject, &block, &Before::default());
                sightings.list_blocks(&block, told.clone());
            }
            sightings.witness(secs(50), Source::Imds, &addresses(&["10.0.0.4"]));
            block.iter().filter(|address| sightings.offerable(secs(100), **address)).count()
        };
        assert_eq!(offered(&[Some(told("former", 10))]), 0, "the object may be a former machine's");
        assert_eq!(offered(&[Some(told("former", 10)), None, Some(told("former", 10))]), 0);
        assert_eq!(offered(&[Some(told("former", 10)), Some(told("its own", 20))]), 0);
        assert_eq!(offered(&[Some(told("its own", 10)), Some(told("its own", 20))]), 16);
        let replaced = [Some(told("former", 10)), None, Some(told("its own", 20)), Some(told("its own", 30))];
        assert_eq!(offered(&replaced), 16, "the next object may list the same block");
        let listed_later = |first: Option<ToldRead>| {
            let mut sightings = Sightings::default();
            sightings.list_blocks(&BTreeSet::new(), first);
            sightings.list(secs(0), Listed::ByObject, &block, &Before::default());
            sightings.list_blocks(&block, Some(told("its own", 20)));
            sightings.witness(secs(50), Source::Imds, &addresses(&["10.0.0.4"]));
            sightings.offerable(secs(100), "10.0.0.16".parse().unwrap())
        };
        assert!(listed_later(Some(told("its own", 10))) && !listed_later(None), "what was read before it was listed counts");
        assert!(listed_later(Some(ToldRead { object: "its own".into(), at: None })));
    }

    #[test]
    fn re3_content_is_the_same_number_in_every_version() {
        let numbers = ["10/10.0.0.10", "2/255.255.255.255", "2/10.0.0.2", "2/10.0.0.2", "255/255.255.255.255"];
        let full = AzureVnetNodeSpec { lost: all(&["7/10.0.0.7"]), release: vec![release(3, &["2/10.0.0.2"])], ..spec(1, &numbers) };
        let text = "addresses 10/10.0.0.10,2/10.0.0.2,2/255.255.255.255,255/255.255.255.255\nlost 7/10.0.0.7\nrelease 3 n3 2/10.0.0.2";
        let fnv = |text: &str| {
            text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
        };
        assert_eq!(content(&full), fnv(text));
        assert_eq!(content(&AzureVnetNodeSpec::default()), fnv("addresses \nlost "));
        assert_eq!(content(&spec(1, &["255/255.255.255.240/28", "2/10.0.0.2"])), fnv("addresses 2/10.0.0.2,255/255.255.255.240/28\nlost "));
    }

    #[test]
    fn re3_content_is_addresses_releases_and_losses_and_not_their_order() {
        let one = AzureVnetNodeSpec { release: vec![release(3, &["2/10.0.0.2"])], ..spec(1, &["1/10.0.0.1", "2/10.0.0.2"]) };
        let other = AzureVnetNodeSpec { revision: 9, addresses: all(&["2/10.0.0.2", "1/10.0.0.1"]), ..one.clone() };
        assert_eq!(content(&one), content(&other));
        assert_ne!(content(&one), content(&AzureVnetNodeSpec { release: vec![release(4, &["2/10.0.0.2"])], ..one.clone() }));
        assert_ne!(content(&one), content(&AzureVnetNodeSpec { lost: all(&["1/10.0.0.1"]), ..one.clone() }));
    }

    #[test]
    fn re6_a_new_address_waits_to_be_shown_and_then_two_seconds() {
        let mut sightings = Sightings::default();
        let address = "10.0.0.1".parse().unwrap();
        sightings.list(secs(100), Listed::ByObject, &addresses(&["10.0.0.1"]), &Before::default());
        sightings.witness(secs(101), Source::Imds, &BTreeSet::new());
        assert!(!sightings.offerable(secs(102), address) && sightings.waiting(secs(102)));
        sightings.witness(secs(103), Source::Wireserver, &addresses(&["10.0.0.1"]));
        assert_eq!(sightings.next_due(secs(103)), Some(secs(105)));
        assert!(!sightings.offerable(secs(104), address) && !sightings.waiting(secs(104)));
        assert!(sightings.offerable(secs(105), address));
    }

    #[test]
    fn re6_silent_metadata_delays_a_minute() {
        let mut sightings = Sightings::default();
        let address = "10.0.0.1".parse().unwrap();
        sightings.list(secs(100), Listed::ByObject, &addresses(&["10.0.0.1"]), &Before::default());
        assert!(!sightings.offerable(secs(161), address) && sightings.withheld(secs(161)).len() == 1);
        assert!(sightings.offerable(secs(162), address));
        assert!(sightings.withheld(secs(162)).is_empty(), "pods have it");
    }

    #[test]
    fn re5_what_imds_showed_and_shows_no_more_is_withheld_until_it_shows_it_again() {
        let mut sightings = Sightings::default();
        let address = "10.0.0.1".parse().unwrap();
        let listed = addresses(&["10.0.0.1"]);
        sightings.list(secs(0), Listed::ByObject, &listed, &offered(&listed));
        assert!(sightings.offerable(secs(0), address), "it was offered before");
        sightings.witness(secs(1), Source::Imds, &BTreeSet::new());
        assert!(sightings.offerable(secs(1), address), "never shown proves nothing");
        sightings.witness(secs(2), Source::Imds, &listed);
        sightings.witness(secs(3), Source::Wireserver, &BTreeSet::new());
        assert!(sightings.offerable(secs(3), address), "only IMDS withholds");
        sightings.witness(secs(4), Source::Imds, &BTreeSet::new());
        assert!(!sightings.offerable(secs(400), address));
        assert_eq!(sightings.hidden().collect::<Vec<_>>(), [address]);
        sightings.witness(secs(401), Source::Wireserver, &listed);
        assert!(!sightings.offerable(secs(800), address));
        sightings.witness(secs(800), Source::Imds, &listed);
        assert!(sightings.offerable(secs(802), address));
    }

    #[test]
    fn re5_what_was_hidden_before_a_restart_stays_so_until_imds_shows_it() {
        let (address, listed) = ("10.0.0.1".parse().unwrap(), addresses(&["10.0.0.1"]));
        for by in [Listed::ByObject, Listed::OnDiskOnly] {
            let mut sightings = Sightings::default();
            sightings.list(secs(0), by, &listed, &Before { hidden: Cow::Borrowed(&listed), ..offered(&listed) });
            sightings.witness(secs(1), Source::Wireserver, &listed);
            sightings.witness(secs(2), Source::Imds, &BTreeSet::new());
            sightings.list(secs(3), Listed::ByObject, &listed, &offered(&listed));
            assert!(!sightings.offerable(secs(4000), address), "{by:?}");
            sightings.witness(secs(4000), Source::Imds, &listed);
            assert!(sightings.offerable(secs(4002), address), "{by:?}");
        }
    }

    #[test]
    fn re5_after_a_boot_what_lies_on_disk_waits_for_imds_or_for_the_object() {
        let listed = addresses(&["10.0.0.1", "10.0.0.2"]);
        let (one, two) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let mut sightings = Sightings::default();
        sightings.list(secs(0), Listed::OnDiskOnly, &listed, &Before::default());
        sightings.witness(secs(1), Source::Wireserver, &listed);
        assert!(!sightings.offerable(secs(1000), one) && sightings.waiting(secs(1000)));
        sightings.witness(secs(1000), Source::Imds, &addresses(&["10.0.0.1"]));
        assert!(sightings.offerable(secs(1002), one) && !sightings.offerable(secs(1002), two));
        let before = Before { former: Cow::Borrowed(&listed), shown: Cow::Borrowed(&listed), ..Before::default() };
        sightings.list(secs(1003), Listed::ByObject, &listed, &before);
        assert!(sightings.offerable(secs(1003), two), "the object was read again");
    }

    #[test]
    fn re5_what_imds_showed_in_a_former_boot_and_denies_in_this_one_is_withheld() {
        let (address, listed) = ("10.0.0.1".parse().unwrap(), addresses(&["10.0.0.1"]));
        let before = Before { former: Cow::Borrowed(&listed), shown: Cow::Borrowed(&listed), ..Before::default() };
        for by in [Listed::ByObject, Listed::OnDiskOnly] {
            let mut sightings = Sightings::default();
            sightings.list(secs(0), by, &listed, &before);
            assert_eq!(sightings.offerable(secs(0), address), by == Listed::ByObject);
            sightings.witness(secs(1), Source::Imds, &BTreeSet::new());
            sightings.list(secs(2), Listed::ByObject, &listed, &before);
            assert!(!sightings.offerable(secs(4000), address), "{by:?}");
            assert_eq!(sightings.hidden().collect::<Vec<_>>(), [address]);
        }
    }

    #[test]
    fn re6_what_was_never_shown_is_still_new_after_a_boot() {
        let (one, two) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let listed = addresses(&["10.0.0.1", "10.0.0.2"]);
        let before = Before { former: Cow::Borrowed(&listed), shown: Cow::Owned(addresses(&["10.0.0.2"])), ..Before::default() };
        for denied in [false, true] {
            let mut sightings = Sightings::default();
            // The API server is away at first: only the disk speaks, and IMDS or nobody answers.
            sightings.list(secs(0), Listed::OnDiskOnly, &listed, &before);
            if denied {
                sightings.witness(secs(1), Source::Imds, &addresses(&["10.0.0.2"]));
            }
            sightings.list(secs(600), Listed::ByObject, &listed, &before);
            assert!(sightings.offerable(secs(600), two) && !sightings.offerable(secs(600), one));
            sightings.witness(secs(650), Source::Imds, &addresses(&["10.0.0.2"]));
            assert!(!sightings.offerable(secs(700), one), "IMDS speaks, and not of it");
            sightings.witness(secs(700), Source::Imds, &listed);
            assert!(sightings.offerable(secs(702), one));
        }
    }

    #[test]
    fn what_imds_showed_is_remembered_as_long_as_it_is_listed() {
        let (listed, one) = (addresses(&["10.0.0.1", "10.0.0.2"]), addresses(&["10.0.0.1"]));
        let mut sightings = Sightings::default();
        sightings.list(
            secs(0),
            Listed::ByObject,
            &listed,
            &Before { shown: Cow::Owned(addresses(&["10.0.0.2", "10.0.0.3"])), ..Before::default() },
        );
        sightings.witness(secs(1), Source::Wireserver, &listed);
        assert_eq!(sightings.shown().collect::<BTreeSet<_>>(), addresses(&["10.0.0.2"]));
        sightings.witness(secs(2), Source::Imds, &listed);
        assert_eq!(sightings.shown().collect::<BTreeSet<_>>(), listed);
        sightings.list(secs(3), Listed::ByObject, &one, &Before::default());
        assert_eq!(sightings.shown().collect::<BTreeSet<_>>(), one);
    }

    #[test]
    fn st8_nothing_that_leaves_is_offered_by_slot_or_by_address() {
        let mut spec = spec(1, &["1/10.0.0.1", "2/10.0.0.2", "3/10.0.0.3", "4/10.0.0.4", "5/10.0.0.5", "6/10.0.0.6", "7/10.0.0.7"]);
        spec.release = vec![release(1, &["2/10.0.0.2"]), release(2, &["3/10.0.0.9", "7/10.0.0.7"])];
        spec.lost = all(&["5/10.0.0.5"]);
        spec.effective.reserved = vec!["10.0.0.6/32".into(), "10.0.0.7/32".into()];
        let known: BTreeSet<_> = spec.addresses.iter().map(|at| at.address).collect();
        let mut sightings = Sightings::default();
        sightings.list(secs(0), Listed::ByObject, &known, &offered(&known));
        let offer = offer(&spec, &listed(&spec), &all(&["9/10.0.0.4"]), &sightings, secs(0));
        assert_eq!(offer.offered, all(&["1/10.0.0.1"]).into_iter().collect());
        assert_eq!(offer.set_aside, all(&["2/10.0.0.2", "3/10.0.0.3", "4/10.0.0.4", "7/10.0.0.7"]).into_iter().collect());
    }

    fn pass(now: u64, last_read: u64) -> Pass<u64> {
        Pass { now: secs(now), period: secs(600), last_read: Some(last_read) }
    }

    #[test]
    fn re8_a_withdrawn_address_rests_and_then_waits_for_a_read() {
        let spec = spec(2, &["1/10.0.0.1"]);
        let held = all(&["1/10.0.0.1"]).into_iter().collect();
        let mut probation = Probation::default();
        let mut withdrawn = |now, read| {
            releases(
                &spec,
                &[],
                Held { quarantined: &BTreeSet::new(), set_aside: &held },
                &BTreeSet::new(),
                (&mut probation, pass(now, read)),
            )
            .withdraw
        };
        assert_eq!(withdrawn(0, 1), []);
        assert_eq!(withdrawn(599, 2), []);
        assert_eq!(withdrawn(600, 3), [], "that read may be older than the end of the probation");
        assert_eq!(withdrawn(700, 3), []);
        assert_eq!(withdrawn(700, 2), [], "an older state of the object came back");
        assert_eq!(withdrawn(701, 4), all(&["1/10.0.0.1"]));
    }

    #[test]
    fn a_release_is_asked_for_once() {
        let mut spec = spec(2, &["1/10.0.0.1", "2/10.0.0.2", "3/10.0.0.3"]);
        spec.release = vec![release(5, &["1/10.0.0.1", "2/10.0.0.2", "3/10.0.0.3"])];
        let quarantined = all(&["1/10.0.0.1", "9/10.0.0.9", "8/10.0.0.8"]).into_iter().collect();
        let refused = BTreeSet::from([(5, at("2/10.0.0.2"))]);
        let plan = releases(
            &spec,
            &all(&["8/10.0.0.8"]),
            Held { quarantined: &quarantined, set_aside: &quarantined },
            &refused,
            (&mut Probation::default(), pass(0, 0)),
        );
        let expected = ReleasePlan { quarantine: vec![(5, at("3/10.0.0.3"))], withdraw: vec![] };
        assert_eq!(plan, expected);
    }

    #[test]
    fn re2_an_ack_names_what_is_set_aside_and_waits_until_all_is_settled() {
        let mut spec = spec(2, &["1/10.0.0.1", "2/10.0.0.2"]);
        spec.release = vec![release(5, &["1/10.0.0.1", "2/10.0.0.2", "2/10.0.0.9"])];
        let quarantined = all(&["1/10.0.0.1"]).into_iter().collect();
        assert_eq!(acks(&spec, &quarantined, &BTreeSet::new()), []);
        let acked = acks(&spec, &quarantined, &BTreeSet::from([(5, at("2/10.0.0.2"))]));
        let refused = all(&["2/10.0.0.2", "2/10.0.0.9"]);
        assert_eq!(acked, [ReleaseAck { id: 5, nonce: "n5".into(), quarantined: all(&["1/10.0.0.1"]), refused }]);
    }

    proptest! {
        #[test]
        fn an_address_is_never_offered_sooner_than_shown_or_silent(
            events in proptest::collection::vec((0_u64..5, any::<bool>(), any::<bool>()), 0..60)
        ) {
            let listed = addresses(&["10.0.0.1"]);
            let address = "10.0.0.1".parse().unwrap();
            let mut sightings = Sightings::default();
            sightings.list(secs(0), Listed::ByObject, &listed, &Before::default());
            let (mut now, mut imds, mut first_shown) = (0, None, None);
            for (step, is_imds, shown) in events {
                now += step;
                let source = if is_imds { Source::Imds } else { Source::Wireserver };
                sightings.witness(secs(now), source, if shown { &listed } else { const { &BTreeSet::new() } });
                if shown {
                    first_shown = first_shown.or(Some(now));
                }
                if is_imds && (shown || imds == Some(true)) {
                    imds = Some(shown);
                }
                let earliest = first_shown.map_or(62, |shown| shown + 2);
                if sightings.offerable(secs(now), address) {
                    prop_assert!(now >= earliest);
                    prop_assert!(imds != Some(false));
                }
            }
        }
    }
}
