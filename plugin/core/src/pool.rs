//! The addresses that a node's pods may use, the seal that says the store is whole, and which of two pools may be adopted.

use std::{collections::BTreeSet, fmt, net::Ipv4Addr, str::FromStr, time::Duration};

use ipnet::Ipv4Net;

use crate::{
    attachment::PodUid,
    boot::{BootId, StoreId},
    memory::PodAddress,
    record::{Reader, RecordError, Writer},
};

const POOL: &str = "pool";
const SEALED: &str = "sealed";
const STORE: &str = "store";

/// One IP configuration of ours: slot and address, written `slot/address`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotAddress {
    /// 1 to 255.
    pub slot: u8,
    /// Its address.
    pub address: Ipv4Addr,
}

impl fmt::Display for SlotAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.slot, self.address)
    }
}

impl FromStr for SlotAddress {
    type Err = RecordError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match slot_and_address(text.as_bytes()) {
            Some((slot, [])) => Ok(slot),
            Some(_) | None => Err(RecordError::Field("slot")),
        }
    }
}

/// Reads what is printed as `slot/a.b.c.d`, in one go, and answers what follows it: a pool has hundreds of them, and each ADD reads it.
fn slot_and_address(text: &[u8]) -> Option<(SlotAddress, &[u8])> {
    let (mut numbers, mut rest) = ([0; 5], text);
    for (value, mark) in numbers.iter_mut().zip([None, Some(b'/'), Some(b'.'), Some(b'.'), Some(b'.')]) {
        if let Some(mark) = mark {
            rest = rest.strip_prefix(&[mark])?;
        }
        (*value, rest) = number(rest)?;
    }
    let [slot, octets @ ..] = numbers;
    (slot > 0).then(|| (SlotAddress { slot, address: octets.into() }, rest))
}

/// The number up to 255 that a text begins with, without a leading zero, and the rest.
fn number(text: &[u8]) -> Option<(u8, &[u8])> {
    let digit = |byte: u8| u16::from(byte - b'0');
    let (number, rest) = match *text {
        [a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', ref rest @ ..] => (digit(a) * 100 + digit(b) * 10 + digit(c), rest),
        [a @ b'1'..=b'9', b @ b'0'..=b'9', ref rest @ ..] => (digit(a) * 10 + digit(b), rest),
        [a @ b'0'..=b'9', ref rest @ ..] => (digit(a), rest),
        _ => return None,
    };
    Some((u8::try_from(number).ok()?, rest))
}

/// Hash of what a revision says, computed by whoever adopts it (safety rule RE3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentHash(pub u64);

/// A node's pool. The same record is the `pool` that plugins read and the durable copy of what was adopted last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// The boot in which it was adopted.
    pub boot: BootId,
    /// The store that adopted it.
    pub store: StoreId,
    /// UID of the object that it comes from.
    pub object_uid: String,
    /// That object's revision.
    pub revision: u64,
    /// Hash of the revision's content.
    pub content: ContentHash,
    /// The subnet.
    pub prefix: Ipv4Net,
    /// The subnet's gateway.
    pub gateway: Ipv4Addr,
    /// How long an address rests after use.
    pub cool_down: Duration,
    /// MTU of pod links; the host's where absent.
    pub mtu: Option<u32>,
    /// In ascending order of addresses.
    addresses: Vec<SlotAddress>,
    /// What pods had before the boot that are not back yet (safety rule ST13).
    remembered: Vec<PodAddress>,
}

/// What a [`Pool`] is made of, apart from its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolFacts {
    /// See [`Pool::object_uid`].
    pub object_uid: String,
    /// See [`Pool::revision`].
    pub revision: u64,
    /// See [`Pool::content`].
    pub content: ContentHash,
    /// See [`Pool::prefix`].
    pub prefix: Ipv4Net,
    /// See [`Pool::gateway`].
    pub gateway: Ipv4Addr,
    /// See [`Pool::cool_down`].
    pub cool_down: Duration,
    /// See [`Pool::mtu`].
    pub mtu: Option<u32>,
}

impl Pool {
    /// Makes a pool of this boot and store.
    #[must_use]
    pub fn new(boot: BootId, store: StoreId, facts: PoolFacts, addresses: impl IntoIterator<Item = SlotAddress>) -> Self {
        let mut addresses: Vec<_> = addresses.into_iter().collect();
        addresses.sort_by_key(|slot| (slot.address, slot.slot));
        addresses.dedup_by_key(|slot| slot.address);
        Self::of_sorted(boot, store, facts, addresses)
    }

    fn of_sorted(boot: BootId, store: StoreId, facts: PoolFacts, addresses: Vec<SlotAddress>) -> Self {
        let PoolFacts { object_uid, revision, content, prefix, gateway, cool_down, mtu } = facts;
        let cool_down = Duration::from_millis(u64::try_from(cool_down.as_millis()).unwrap_or(u64::MAX));
        Self { boot, store, object_uid, revision, content, prefix, gateway, cool_down, mtu, addresses, remembered: vec![] }
    }

    /// The same pool, in which each of these pods finds its address again as far as the pool has it (safety rule ST13).
    #[must_use]
    pub fn remembering(self, remembered: Vec<PodAddress>) -> Self {
        let remembered = remembered.into_iter().filter(|pair| self.find(pair.address).is_some()).collect();
        Self { remembered, ..self }
    }

    /// The address that a pod had before the boot.
    #[must_use]
    pub fn remembered_of(&self, pod: &PodUid) -> Option<Ipv4Addr> {
        self.remembered.iter().find(|pair| pair.pod == *pod).map(|pair| pair.address)
    }

    /// Addresses that others had before the boot: a pod without one of its own gets them last.
    pub fn remembered(&self) -> impl Iterator<Item = Ipv4Addr> + '_ {
        self.remembered.iter().map(|pair| pair.address)
    }

    /// The addresses, ascending.
    #[must_use]
    pub fn addresses(&self) -> &[SlotAddress] {
        &self.addresses
    }

    /// The address's slot.
    #[must_use]
    pub fn find(&self, address: Ipv4Addr) -> Option<SlotAddress> {
        let at = self.addresses.binary_search_by_key(&address, |slot| slot.address).ok()?;
        self.addresses.get(at).copied()
    }

    /// The same pool with only those of its addresses that are `offered` and not `withheld` (safety rule ST8).
    #[must_use]
    pub fn offering(&self, offered: &BTreeSet<Ipv4Addr>, withheld: &BTreeSet<Ipv4Addr>) -> Self {
        let keep = |slot: &&SlotAddress| offered.contains(&slot.address) && !withheld.contains(&slot.address);
        let (addresses, remembered) = (self.addresses.iter().filter(keep).copied().collect(), self.remembered.clone());
        Self { addresses, ..self.clone() }.remembering(remembered)
    }

    /// Whether this one may follow `adopted` (safety rule RE3). Another object's numbers say nothing about ours.
    ///
    /// # Errors
    /// It is older, or has the same number and another content.
    pub fn may_follow(&self, adopted: Option<&Self>) -> Result<(), Regression> {
        let Some(adopted) = adopted.filter(|adopted| adopted.object_uid == self.object_uid) else { return Ok(()) };
        let conflict = self.revision == adopted.revision && self.content != adopted.content;
        if self.revision < adopted.revision || conflict {
            return Err(Regression { adopted: adopted.revision, offered: self.revision });
        }
        Ok(())
    }

    /// Prints the record.
    #[must_use]
    pub fn print(&self) -> String {
        let Self { boot, store, object_uid, revision, content, prefix, gateway, cool_down, mtu, addresses, remembered } = self;
        let writer = Writer::new(POOL)
            .field("boot", boot)
            .field("store", store)
            .field("object", object_uid)
            .field("revision", revision)
            .field("content", format_args!("{:016x}", content.0))
            .field("prefix", prefix)
            .field("gateway", gateway)
            .field("cool-down", cool_down.as_millis())
            .optional("mtu", *mtu);
        let writer = addresses.iter().fold(writer, |writer, address| writer.field("address", address));
        remembered.iter().fold(writer, |writer, pair| writer.field("remembered", pair)).finish()
    }

    /// Reads the record.
    ///
    /// # Errors
    /// The content is no whole pool of this version.
    pub fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        let mut reader = Reader::of_kind(bytes, POOL)?;
        let boot = reader.field("boot")?;
        let store = reader.field("store")?;
        let facts = PoolFacts {
            object_uid: reader.text("object")?,
            revision: reader.field("revision")?,
            content: parse_hash(&reader.text("content")?)?,
            prefix: reader.field("prefix")?,
            gateway: reader.field("gateway")?,
            cool_down: Duration::from_millis(reader.field("cool-down")?),
            mtu: reader.optional("mtu")?,
        };
        let addresses = reader.lines("address", slot_and_address)?;
        let remembered = reader.all("remembered")?;
        reader.finish()?;
        if !addresses.is_sorted_by(|a, b| a.address < b.address) {
            return Err(RecordError::Field("address"));
        }
        Ok(Self::of_sorted(boot, store, facts, addresses).remembering(remembered))
    }
}

fn parse_hash(text: &str) -> Result<ContentHash, RecordError> {
    u64::from_str_radix(text, 16).map(ContentHash).map_err(|_| RecordError::Field("content"))
}

/// A revision that must not be adopted (safety rule RE3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "revision {offered} cannot follow revision {adopted}, which was adopted already: it is older, or says something else under the same number"
)]
pub struct Regression {
    /// The highest one adopted.
    pub adopted: u64,
    /// The one that was offered.
    pub offered: u64,
}

/// Who made a store whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SealOwner {
    /// The node's agent, or standalone.
    Agent,
    /// A plugin whose configuration names no agent's pool.
    Plugin,
}

impl fmt::Display for SealOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Agent => "agent",
            Self::Plugin => "plugin",
        })
    }
}

impl FromStr for SealOwner {
    type Err = RecordError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "agent" => Ok(Self::Agent),
            "plugin" => Ok(Self::Plugin),
            _ => Err(RecordError::Field("owner")),
        }
    }
}

/// Says that the store is whole in this boot (safety rule ST3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// The store.
    pub store: StoreId,
    /// The boot.
    pub boot: BootId,
    /// Who sealed it.
    pub owner: SealOwner,
}

impl Sealed {
    /// Prints the record.
    #[must_use]
    pub fn print(&self) -> String {
        let Self { store, boot, owner } = self;
        Writer::new(SEALED).field("store", store).field("boot", boot).field("owner", owner).finish()
    }

    /// Reads the record.
    ///
    /// # Errors
    /// The content is no whole seal of this version.
    pub fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        let mut reader = Reader::of_kind(bytes, SEALED)?;
        let sealed = Self { store: reader.field("store")?, boot: reader.field("boot")?, owner: reader.field("owner")? };
        reader.finish().map(|()| sealed)
    }
}

/// The durable folder's own record (safety rule ST9).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreRecord {
    /// The store's id.
    pub store: StoreId,
}

impl StoreRecord {
    /// Prints the record.
    #[must_use]
    pub fn print(&self) -> String {
        Writer::new(STORE).field("store", &self.store).finish()
    }

    /// Reads the record.
    ///
    /// # Errors
    /// The content is no whole record of this version.
    pub fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        let mut reader = Reader::of_kind(bytes, STORE)?;
        let record = Self { store: reader.field("store")? };
        reader.finish().map(|()| record)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn facts(object_uid: &str, revision: u64, content: u64) -> PoolFacts {
        PoolFacts {
            object_uid: object_uid.into(),
            revision,
            content: ContentHash(content),
            prefix: "10.240.0.0/16".parse().unwrap(),
            gateway: [10, 240, 0, 1].into(),
            cool_down: Duration::from_secs(45),
            mtu: Some(1500),
        }
    }

    fn pool(facts: PoolFacts, addresses: &[u8]) -> Pool {
        let slots = addresses.iter().map(|&at| SlotAddress { slot: at, address: [10, 240, 0, at].into() });
        Pool::new("b1".parse().unwrap(), "s1".parse().unwrap(), facts, slots)
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(uid: String, revision: u64, content: u64, addresses in proptest::collection::vec(1..=u8::MAX, 0..255)) {
            let pool = pool(facts(&uid, revision, content), &addresses);
            prop_assert_eq!(Pool::parse(pool.print().as_bytes()), Ok(pool));
        }

        #[test]
        fn random_bytes_are_no_pool(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            prop_assert!(Pool::parse(&bytes).is_err());
            prop_assert!(Sealed::parse(&bytes).is_err());
            prop_assert!(StoreRecord::parse(&bytes).is_err());
        }
    }

    #[test]
    fn st13_a_pod_finds_its_address_again_in_the_printed_pool() {
        let had = |pod: &str, last| PodAddress { pod: pod.parse().unwrap(), address: [10, 240, 0, last].into() };
        let pool = pool(facts("u", 1, 1), &[4, 5, 6]).remembering(vec![had("a", 4), had("b", 5), had("c", 9)]);
        let offer = pool.offering(&[4, 6].map(|last| [10, 240, 0, last].into()).into(), &BTreeSet::new());
        let read = Pool::parse(offer.print().as_bytes()).unwrap();
        let of = |pod: &str| read.remembered_of(&pod.parse().unwrap());
        assert_eq!([of("a"), of("b"), of("c")], [Some([10, 240, 0, 4].into()), None, None]);
        assert_eq!(read, offer);
    }

    #[test]
    fn the_seal_and_the_store_s_id_are_read_back() {
        for owner in [SealOwner::Agent, SealOwner::Plugin] {
            let sealed = Sealed { store: StoreId::from_random([7; 16]), boot: "b1".parse().unwrap(), owner };
            assert_eq!(Sealed::parse(sealed.print().as_bytes()), Ok(sealed));
        }
        let record = StoreRecord { store: StoreId::from_random([255; 16]) };
        assert_eq!(StoreRecord::parse(record.print().as_bytes()), Ok(record));
    }

    #[test]
    fn re3_nothing_older_and_nothing_else_of_the_same_number_follows() {
        let adopted = pool(facts("u1", 7, 70), &[4]);
        let follow = |uid, revision, content| pool(facts(uid, revision, content), &[4]).may_follow(Some(&adopted)).is_ok();
        assert!(follow("u1", 7, 70));
        assert!(follow("u1", 8, 71));
        assert!(!follow("u1", 6, 70));
        assert!(!follow("u1", 7, 71));
        assert!(follow("u2", 1, 1), "another object's numbers are its own");
    }

    #[test]
    fn st8_what_is_withheld_is_not_offered() {
        let pool = pool(facts("u1", 1, 1), &[4, 5, 6]);
        let set = |of: &[u8]| of.iter().map(|&at| Ipv4Addr::from([10, 240, 0, at])).collect::<BTreeSet<_>>();
        let offer = pool.offering(&set(&[4, 5, 9]), &set(&[5]));
        assert_eq!(offer.addresses().iter().map(|slot| slot.address).collect::<BTreeSet<_>>(), set(&[4]));
    }

    proptest! {
        #[test]
        fn a_slots_address_is_read_as_the_standard_library_reads_it(slot in "[1-9][0-9]{0,2}", address in "[0-9]{1,3}(\\.[0-9]{1,3}){2,4}") {
            let expected = slot.parse().ok().zip(address.parse::<Ipv4Addr>().ok()).map(|(slot, address)| SlotAddress { slot, address });
            prop_assert_eq!(format!("{slot}/{address}").parse().ok(), expected);
        }

        #[test]
        fn what_is_no_slot_and_address_is_none(text in "[0-9./+ x-]{0,20}") {
            if let Ok(slot) = text.parse::<SlotAddress>() {
                prop_assert_eq!(slot.to_string(), text);
            }
        }
    }

    #[test]
    fn a_slot_is_one_to_255() {
        for text in ["0/10.0.0.1", "256/10.0.0.1", "10.0.0.1", "1/", "/10.0.0.1", "1/10.0.0", "1/10.0.0.1.2", "1/10.0.0.1/24", "1/10..0.1"]
        {
            assert!(text.parse::<SlotAddress>().is_err(), "{text}");
        }
        assert_eq!("255/10.0.0.1".parse(), Ok(SlotAddress { slot: 255, address: [10, 0, 0, 1].into() }));
    }
}
