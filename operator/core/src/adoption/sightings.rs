//! What the node's metadata has shown of the listed addresses, and so when pods may have them (safety rules RE5, RE6).

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    time::Duration,
};

use jiff::Timestamp;

use crate::withheld::Why;

/// How long after it was listed an address is offered although the node's metadata has not shown it (safety rule RE6).
pub const SILENCE: Duration = Duration::from_mins(1);
/// From metadata showing an address to traffic that arrives (safety rule RE6).
pub const SETTLE: Duration = Duration::from_secs(2);

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

/// Whether the NIC was read since a block was listed, or since it was withheld.
#[derive(Clone, Debug, PartialEq, Eq)]
enum BlockRead {
    /// So many times more: others than the one that is known, if one is.
    Awaited { known: Option<ToldRead>, more: u8 },
    /// It was, and the block was there.
    Since,
}

/// Reads that are to be told before a block that IMDS showed and shows no more is believed again: the first may have begun before that.
const AFTER_HIDING: u8 = 2;

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
    /// Listed by themselves when all of that was noted: it says nothing of a block that has them by now.
    pub singles: Cow<'a, BTreeSet<Ipv4Addr>>,
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
    /// Takes note of what is listed, once [`Self::list_blocks`] has said what of it is of blocks.
    pub fn list(&mut self, now: Duration, by: Listed, listed: &BTreeSet<Ipv4Addr>, before: &Before<'_>) {
        self.of.retain(|address, _| listed.contains(address));
        self.by_imds.retain(|address| listed.contains(address));
        for address in listed {
            let known = self.of.get(address);
            if known == Some(&Sighting::Hidden) && self.of_blocks.get(address) == Some(&BlockRead::Since) {
                self.by_imds.remove(address);
                self.of.insert(*address, Sighting::Listed { since: now });
                continue;
            }
            if known.is_some_and(|sighting| *sighting != Sighting::Unconfirmed) {
                continue;
            }
            let alike = !self.of_blocks.contains_key(address) || !before.singles.contains(address);
            let was = |known: &BTreeSet<Ipv4Addr>| alike && known.contains(address);
            if known.is_none() && was(&before.shown) {
                self.by_imds.insert(*address);
            }
            let first = match by {
                _ if was(&before.hidden) => Sighting::Hidden,
                _ if was(&before.offered) => Sighting::Known,
                Listed::ByObject if was(&before.former) && was(&before.shown) => Sighting::Known,
                Listed::ByObject => Sighting::Listed { since: now },
                Listed::OnDiskOnly => Sighting::Unconfirmed,
            };
            self.of.insert(*address, first);
            if let Some(read) = self.of_blocks.get_mut(address).filter(|_| first == Sighting::Hidden) {
                *read = BlockRead::after_hiding(self.told.as_ref());
            }
        }
    }

    /// Says which of the addresses that are about to be listed are of blocks, and which read of the NIC the object tells of, if it is the object that lists
    /// them. What was known of an address by itself says nothing of a block that has come to have it, nor the other way round.
    ///
    /// It is not documented whether IMDS shows blocks at all. That it lacks one which it has not shown is the silence of safety rule RE6, and not a word
    /// against it, once the controller has read the NIC again and still lists it; before that, the object may speak of a machine of the same name that is
    /// gone. One that it has shown and shows no more is withheld at once (safety rule RE5), until the controller has read the NIC since and still lists it:
    /// what was shown may have been a single address, in an answer from before the block.
    pub fn list_blocks(&mut self, of_blocks: &BTreeSet<Ipv4Addr>, told: Option<ToldRead>) {
        let Self { of, by_imds, of_blocks: known, told: last } = self;
        for address in known.keys().filter(|address| !of_blocks.contains(address)) {
            of.remove(address);
        }
        known.retain(|address, _| of_blocks.contains(address));
        let former = told.as_ref().map(|told| last.clone().filter(|last| last.object == told.object).unwrap_or_else(|| told.clone()));
        for address in of_blocks {
            let read = known.entry(*address).or_insert_with(|| {
                of.remove(address);
                by_imds.remove(address);
                BlockRead::Awaited { known: None, more: 1 }
            });
            if let (Some(former), Some(told)) = (&former, &told) {
                read.hear(former, told);
            }
        }
        *last = told.or_else(|| last.take());
    }

    /// Takes note of one source's answer.
    pub fn witness(&mut self, now: Duration, source: Source, shown: &BTreeSet<Ipv4Addr>) {
        let told = self.told.as_ref();
        for (address, sighting) in &mut self.of {
            let block = self.of_blocks.get_mut(address);
            let said = match (shown.contains(address), source) {
                (true, _) => Shows::It,
                (false, Source::Imds) if self.by_imds.contains(address) => Shows::ItNoMore,
                (false, _) if block.as_deref() == Some(&BlockRead::Since) => continue,
                (false, _) => Shows::ItNot,
            };
            if let Some(read) = block.filter(|_| said == Shows::ItNoMore && *sighting != Sighting::Hidden) {
                *read = BlockRead::after_hiding(told);
                *sighting = Sighting::Hidden;
                continue;
            }
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

impl BlockRead {
    /// A block was withheld when this read was the last that was told.
    fn after_hiding(told: Option<&ToldRead>) -> Self {
        Self::Awaited { known: told.cloned(), more: AFTER_HIDING }
    }

    /// The object tells of a read; `former` is what was known of that before, of this very object.
    fn hear(&mut self, former: &ToldRead, told: &ToldRead) {
        let Self::Awaited { known, more } = self else { return };
        let last = known.take().filter(|known| known.object == told.object).unwrap_or_else(|| former.clone());
        *self = match *more {
            more if told.at.is_none() || told.at == last.at => Self::Awaited { known: Some(last), more },
            0 | 1 => Self::Since,
            more => Self::Awaited { known: Some(told.clone()), more: more - 1 },
        };
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::adoption::fixture::{addresses, at, offered, secs};

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

    fn all_of(text: &str) -> BTreeSet<Ipv4Addr> {
        at(text).each().map(|at| at.address).collect()
    }

    /// Looks at a list that says no more than these addresses of blocks, as of a read at this second.
    fn look(sightings: &mut Sightings, seconds: u64, of_blocks: &BTreeSet<Ipv4Addr>, singles: &[&str], before: &Before<'_>) {
        sightings.list_blocks(of_blocks, Some(told("object", i64::try_from(seconds).unwrap())));
        let listed = of_blocks.iter().copied().chain(addresses(singles)).collect();
        sightings.list(secs(seconds), Listed::ByObject, &listed, before);
    }

    fn count(sightings: &Sightings, seconds: u64, of: &BTreeSet<Ipv4Addr>) -> usize {
        of.iter().filter(|address| sightings.offerable(secs(seconds), **address)).count()
    }

    #[test]
    fn re6_a_block_that_imds_has_not_shown_waits_for_a_minute_of_silence_only() {
        let (block, more) = (all_of("2/10.0.0.16/28"), all_of("3/10.0.0.32/28"));
        let both = block.union(&more).copied().collect();
        let mut sightings = Sightings::default();
        look(&mut sightings, 0, &block, &["10.0.0.1"], &Before::default());
        sightings.witness(secs(0), Source::Imds, &addresses(&[]));
        look(&mut sightings, 20, &block, &["10.0.0.1"], &Before::default());
        sightings.witness(secs(50), Source::Imds, &addresses(&[]));
        let seen = [61, 62].map(|at| (count(&sightings, at, &block), sightings.offerable(secs(at), "10.0.0.1".parse().unwrap())));
        assert_eq!(seen, [(0, false), (16, false)], "the single address that it lacks waits for it");
        sightings.witness(secs(70), Source::Imds, &block);
        look(&mut sightings, 90, &both, &[], &Before::default());
        sightings.witness(secs(130), Source::Imds, &block);
        assert_eq!((count(&sightings, 151, &more), count(&sightings, 152, &more)), (0, 16), "whether or not it shows others");
    }

    #[test]
    fn re5_a_block_that_imds_showed_and_shows_no_more_is_withheld_until_the_nic_was_read_since() {
        let block = all_of("2/10.0.0.16/28");
        let mut sightings = Sightings::default();
        look(&mut sightings, 0, &block, &[], &Before::default());
        sightings.witness(secs(1), Source::Imds, &block);
        assert_eq!(count(&sightings, 3, &block), 16);
        sightings.witness(secs(60), Source::Imds, &addresses(&["10.0.0.4"]));
        assert_eq!((count(&sightings, 60, &block), sightings.hidden().count()), (0, 16));
        look(&mut sightings, 70, &block, &[], &Before::default());
        sightings.witness(secs(80), Source::Imds, &addresses(&["10.0.0.4"]));
        assert_eq!(count(&sightings, 1000, &block), 0, "that read may have begun before");
        let mut restarted = Sightings::default();
        let before = Before { hidden: Cow::Borrowed(&block), shown: Cow::Borrowed(&block), ..offered(&block) };
        look(&mut restarted, 85, &block, &[], &before);
        look(&mut restarted, 130, &block, &[], &before);
        assert_eq!(count(&restarted, 1000, &block), 0, "as after a restart");
        look(&mut sightings, 130, &block, &[], &Before::default());
        sightings.witness(secs(140), Source::Imds, &addresses(&["10.0.0.4"]));
        assert_eq!((count(&sightings, 191, &block), count(&sightings, 192, &block)), (0, 16));
        sightings.witness(secs(200), Source::Imds, &block);
        sightings.witness(secs(210), Source::Imds, &addresses(&["10.0.0.4"]));
        assert_eq!(count(&sightings, 9000, &block), 0, "as often as it is shown");
    }

    #[test]
    fn re6_what_imds_showed_of_an_address_by_itself_says_nothing_of_a_block_that_has_come_to_have_it() {
        let (block, single) = (all_of("2/10.0.0.16/28"), addresses(&["10.0.0.20"]));
        let lives_on = |mut sightings: Sightings, before: &Before<'_>| {
            for second in [100, 160] {
                look(&mut sightings, second, &block, &[], before);
                sightings.witness(secs(second), Source::Imds, &addresses(&["10.0.0.4"]));
            }
            assert_eq!(sightings.shown().count(), 0);
            let more = all_of("3/10.0.0.32/28");
            look(&mut sightings, 200, &block.union(&more).copied().collect(), &[], before);
            sightings.witness(secs(201), Source::Imds, &addresses(&["10.0.0.4"]));
            (count(&sightings, 161, &block), count(&sightings, 162, &block), count(&sightings, 262, &more))
        };
        let mut shown = Sightings::default();
        look(&mut shown, 0, &BTreeSet::new(), &["10.0.0.20"], &Before::default());
        shown.witness(secs(1), Source::Imds, &single);
        assert_eq!(lives_on(shown.clone(), &Before::default()), (0, 16, 16));
        shown.witness(secs(2), Source::Imds, &addresses(&["10.0.0.4"]));
        assert_eq!(lives_on(shown, &Before::default()), (0, 16, 16), "nor what it took back");
        let noted = Before { shown: Cow::Borrowed(&single), singles: Cow::Borrowed(&single), ..offered(&single) };
        assert_eq!(lives_on(Sightings::default(), &noted), (0, 16, 16), "nor what was noted before a restart");
        let hidden = Before { hidden: Cow::Borrowed(&single), ..noted };
        assert_eq!(lives_on(Sightings::default(), &hidden), (0, 16, 16));
    }

    #[test]
    fn re6_one_answer_from_before_a_block_does_not_withhold_it_for_ever() {
        let block = all_of("2/10.0.0.16/28");
        let mut sightings = Sightings::default();
        look(&mut sightings, 0, &block, &[], &Before::default());
        // The first address was on the NIC by itself.
        sightings.witness(secs(1), Source::Imds, &block);
        for second in [60, 120, 180] {
            sightings.witness(secs(second), Source::Imds, &addresses(&["10.0.0.4"]));
            look(&mut sightings, second, &block, &[], &Before::default());
        }
        sightings.witness(secs(240), Source::Imds, &addresses(&["10.0.0.4"]));
        assert_eq!((count(&sightings, 181, &block), count(&sightings, 242, &block)), (0, 16));
    }

    fn told(object: &str, second: i64) -> ToldRead {
        ToldRead { object: object.into(), at: Some(Timestamp::from_second(second).unwrap()) }
    }

    #[test]
    fn re6_a_block_that_imds_lacks_waits_until_the_nic_was_read_since_it_was_listed() {
        let block = all_of("2/10.0.0.16/28");
        let offered = |looks: &[Option<ToldRead>]| {
            let mut sightings = Sightings::default();
            for told in looks {
                sightings.list_blocks(&block, told.clone());
                sightings.list(secs(0), Listed::ByObject, &block, &Before::default());
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
            sightings.list_blocks(&block, Some(told("its own", 20)));
            sightings.list(secs(0), Listed::ByObject, &block, &Before::default());
            sightings.witness(secs(50), Source::Imds, &addresses(&["10.0.0.4"]));
            sightings.offerable(secs(100), "10.0.0.16".parse().unwrap())
        };
        assert!(listed_later(Some(told("its own", 10))) && !listed_later(None), "what was read before it was listed counts");
        assert!(listed_later(Some(ToldRead { object: "its own".into(), at: None })));
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
