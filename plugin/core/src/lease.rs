//! What one file of the node store says of its address: leased, cooling, quarantined, or unreadable and therefore occupied.
//! Formats and decisions only; files, locks and clocks are the shell's.

use std::{fmt, net::Ipv4Addr, time::Duration};

use crate::{
    attachment::{Attachment, AttachmentHash, IfName, Mode, NetnsPath, NetworkName, PodRef},
    boot::{BootId, BootTime},
    pool::SlotAddress,
    record::{Reader, RecordError, Writer},
};

const LEASED: &str = "leased";
const COOLING: &str = "cooling";
const QUARANTINED: &str = "quarantined";

/// State of one address that has a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A pod has it.
    Leased(Lease),
    /// A pod had it; it rests.
    Cooling(Cooling),
    /// Set aside for giving back.
    Quarantined(Quarantine),
    /// Occupied, owner unknown.
    Unreadable(Unreadable),
}

/// A pod's hold on an address, with all that DEL needs (safety rule ST10).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The address.
    pub address: Ipv4Addr,
    /// Whose it is.
    pub attachment: Attachment,
    /// The pod, where the runtime named one.
    pub pod: Option<PodRef>,
    /// The network that it was attached to.
    pub network: NetworkName,
    /// How it was wired.
    pub mode: Mode,
    /// The host's end of its link.
    pub host_link: IfName,
    /// Where its namespace was; unknown for a lease rebuilt from the kernel.
    pub netns: Option<NetnsPath>,
    /// `SO_NETNS_COOKIE` of that namespace.
    pub netns_cookie: Option<u64>,
    /// The boot it belongs to.
    pub boot: BootId,
    /// When it was given.
    pub since: BootTime,
}

/// The rest of an address after use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cooling {
    /// The address.
    pub address: Ipv4Addr,
    /// Who had it; unknown where the lease could not be read.
    pub previous: Option<AttachmentHash>,
    /// The boot that `since` counts in.
    pub boot: BootId,
    /// When the rest began.
    pub since: BootTime,
}

/// An address that is set aside for giving back; the same record is the run marker and the durable marker (safety rule ST6).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quarantine {
    /// Slot and address (safety rule RE2).
    pub slot: SlotAddress,
    /// UID of the object that asked.
    pub object_uid: String,
    /// What it asked for.
    pub release: ReleaseId,
}

/// A release: its number and the nonce of the controller that wrote it (safety rule RE1).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReleaseId {
    /// Grows within an object.
    pub id: u64,
    /// Drawn by the controller in its term.
    pub nonce: String,
}

impl fmt::Display for ReleaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.id, self.nonce)
    }
}

/// A file that says nothing. Two readings are equal only if the content is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// What is wrong with it.
    pub why: RecordError,
    /// Length and CRC-32 of the content, to tell one damage from another.
    pub fingerprint: (usize, u32),
}

impl Entry {
    /// Reads what a file at `lease/<address>` holds. Every content has a meaning: what cannot be understood is occupied.
    #[must_use]
    pub fn read(address: Ipv4Addr, bytes: &[u8]) -> Self {
        match Self::parse(bytes) {
            Ok(entry) if entry.address() == Some(address) => entry,
            Ok(_) => Self::Unreadable(Unreadable::new(RecordError::Field("address"), bytes)),
            Err(why) => Self::Unreadable(Unreadable::new(why, bytes)),
        }
    }

    /// Reads a record whose address its name does not tell.
    ///
    /// # Errors
    /// The content is no whole record of this version.
    pub fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        let reader = Reader::new(bytes)?;
        match reader.kind() {
            LEASED => Lease::fields(reader).map(Self::Leased),
            COOLING => Cooling::fields(reader).map(Self::Cooling),
            QUARANTINED => Quarantine::fields(reader).map(Self::Quarantined),
            _ => Err(RecordError::Kind(LEASED)),
        }
    }

    /// The address that the record speaks of.
    #[must_use]
    pub fn address(&self) -> Option<Ipv4Addr> {
        match self {
            Self::Leased(lease) => Some(lease.address),
            Self::Cooling(cooling) => Some(cooling.address),
            Self::Quarantined(quarantine) => Some(quarantine.slot.address),
            Self::Unreadable(_) => None,
        }
    }

    /// Whether the address may be given to a pod in place of this record: only after its rest (safety rule ST13).
    #[must_use]
    pub fn is_free(&self, boot: &BootId, now: BootTime, cool_down: Duration) -> bool {
        match self {
            Self::Cooling(cooling) => cooling.has_ended(boot, now, cool_down),
            Self::Leased(_) | Self::Quarantined(_) | Self::Unreadable(_) => false,
        }
    }

    /// Whether the record ended with the boot that it speaks of. Quarantine outlives boots, and what is unreadable might be one.
    #[must_use]
    pub fn is_void(&self, boot: &BootId) -> bool {
        match self {
            Self::Leased(lease) => lease.boot != *boot,
            Self::Cooling(cooling) => cooling.boot != *boot,
            Self::Quarantined(_) | Self::Unreadable(_) => false,
        }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leased(lease) => write!(f, "leased to {}", lease.attachment),
            Self::Cooling(_) => f.write_str("cooling"),
            Self::Quarantined(quarantine) => write!(f, "set aside by release {}", quarantine.release),
            Self::Unreadable(unreadable) => write!(f, "occupied by an unreadable record: {}", unreadable.why),
        }
    }
}

impl Lease {
    /// Prints the record.
    #[must_use]
    pub fn print(&self) -> String {
        let Self { address, attachment, pod, network, mode, host_link, netns, netns_cookie, boot, since } = self;
        let Attachment { container, if_name } = attachment;
        Writer::new(LEASED)
            .field("address", address)
            .field("container", container)
            .field("interface", if_name)
            .optional("pod-namespace", pod.as_ref().map(|pod| &pod.namespace))
            .optional("pod-name", pod.as_ref().map(|pod| &pod.name))
            .optional("pod-uid", pod.as_ref().and_then(|pod| pod.uid.as_ref()))
            .field("network", network)
            .field("mode", mode)
            .field("link", host_link)
            .optional("netns", netns.as_ref())
            .optional("netns-cookie", *netns_cookie)
            .field("boot", boot)
            .field("since", since.as_millis())
            .finish()
    }

    fn fields(mut reader: Reader<'_>) -> Result<Self, RecordError> {
        let address = reader.field("address")?;
        let attachment = Attachment { container: reader.field("container")?, if_name: reader.field("interface")? };
        let namespace: Option<String> = reader.optional("pod-namespace")?;
        let pod = match namespace {
            Some(namespace) => Some(PodRef { namespace, name: reader.text("pod-name")?, uid: reader.optional("pod-uid")? }),
            None => None,
        };
        let lease = Self {
            address,
            attachment,
            pod,
            network: reader.field("network")?,
            mode: reader.field("mode")?,
            host_link: reader.field("link")?,
            netns: reader.optional("netns")?,
            netns_cookie: reader.optional("netns-cookie")?,
            boot: reader.field("boot")?,
            since: BootTime::from_millis(reader.field("since")?),
        };
        reader.finish().map(|()| lease)
    }
}

impl Cooling {
    /// Prints the record.
    #[must_use]
    pub fn print(&self) -> String {
        let Self { address, previous, boot, since } = self;
        Writer::new(COOLING)
            .field("address", address)
            .optional("previous", previous.as_ref())
            .field("boot", boot)
            .field("since", since.as_millis())
            .finish()
    }

    /// Whether the rest is over. A rest of another boot never is: its clock is not ours.
    #[must_use]
    pub fn has_ended(&self, boot: &BootId, now: BootTime, cool_down: Duration) -> bool {
        self.boot == *boot && now >= self.since && now.since(self.since) >= cool_down
    }

    fn fields(mut reader: Reader<'_>) -> Result<Self, RecordError> {
        let cooling = Self {
            address: reader.field("address")?,
            previous: reader.optional("previous")?,
            boot: reader.field("boot")?,
            since: BootTime::from_millis(reader.field("since")?),
        };
        reader.finish().map(|()| cooling)
    }
}

impl Quarantine {
    /// Prints the record.
    #[must_use]
    pub fn print(&self) -> String {
        let Self { slot, object_uid, release } = self;
        Writer::new(QUARANTINED)
            .field("slot", slot)
            .field("object", object_uid)
            .field("release", release.id)
            .field("nonce", &release.nonce)
            .finish()
    }

    fn fields(mut reader: Reader<'_>) -> Result<Self, RecordError> {
        let quarantine = Self {
            slot: reader.field("slot")?,
            object_uid: reader.text("object")?,
            release: ReleaseId { id: reader.field("release")?, nonce: reader.text("nonce")? },
        };
        reader.finish().map(|()| quarantine)
    }
}

impl Unreadable {
    /// Describes a content that is no record.
    #[must_use]
    pub fn new(why: RecordError, bytes: &[u8]) -> Self {
        Self { why, fingerprint: (bytes.len(), crc32fast::hash(bytes)) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn leases() -> impl Strategy<Value = Lease> {
        let attachment = ("[a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}", "[a-z0-9.@-]{1,15}")
            .prop_filter_map("no link's name", |(container, if_name)| {
                Some(Attachment { container: container.parse().ok()?, if_name: if_name.parse().ok()? })
            });
        let pod = (any::<String>(), any::<String>(), proptest::option::of("[a-f0-9-]{0,36}")).prop_map(|(namespace, name, uid)| PodRef {
            namespace,
            name,
            uid: uid.and_then(|uid| uid.parse().ok()),
        });
        let netns = proptest::option::of("[^\\x00]{1,200}").prop_map(|path| path.and_then(|path| path.parse().ok()));
        let mode = prop_oneof![Just(Mode::Transparent), Just(Mode::Bridge), Just(Mode::Tunnel)];
        let numbers = (any::<u32>(), any::<Option<u64>>(), any::<u64>());
        (attachment, proptest::option::of(pod), mode, netns, numbers).prop_map(
            |(attachment, pod, mode, netns, (address, netns_cookie, since))| Lease {
                address: address.into(),
                attachment,
                pod,
                network: "azure".parse().unwrap(),
                mode,
                host_link: "azv0123456789a".parse().unwrap(),
                netns,
                netns_cookie,
                boot: "3f2a8c1e-9f11-4d0e-8e42-111111111111".parse().unwrap(),
                since: BootTime::from_millis(since),
            },
        )
    }

    fn rests() -> impl Strategy<Value = Cooling> {
        (any::<u32>(), proptest::option::of(leases()), any::<u64>()).prop_map(|(address, previous, since)| Cooling {
            address: address.into(),
            previous: previous.map(|lease| lease.attachment.hash()),
            boot: "boot-1".parse().unwrap(),
            since: BootTime::from_millis(since),
        })
    }

    fn markers() -> impl Strategy<Value = Quarantine> {
        (1..=u8::MAX, any::<u32>(), any::<String>(), any::<u64>(), any::<String>()).prop_map(|(slot, address, object_uid, id, nonce)| {
            Quarantine { slot: SlotAddress { slot, address: address.into() }, object_uid, release: ReleaseId { id, nonce } }
        })
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(lease in leases(), rest in rests(), marker in markers()) {
            prop_assert_eq!(Entry::parse(lease.print().as_bytes()), Ok(Entry::Leased(lease.clone())));
            prop_assert_eq!(Entry::parse(rest.print().as_bytes()), Ok(Entry::Cooling(rest.clone())));
            prop_assert_eq!(Entry::parse(marker.print().as_bytes()), Ok(Entry::Quarantined(marker.clone())));
        }

        #[test]
        fn random_bytes_are_occupied(bytes in proptest::collection::vec(any::<u8>(), 0..600), address: u32) {
            prop_assert!(matches!(Entry::read(address.into(), &bytes), Entry::Unreadable(_)));
        }

        #[test]
        fn a_damaged_record_is_occupied(lease in leases(), at in any::<prop::sample::Index>(), flip in 1..=u8::MAX, cut: bool) {
            let mut bytes = lease.print().into_bytes();
            let at = at.index(bytes.len());
            if cut { bytes.truncate(at) } else { bytes[at] ^= flip }
            let entry = Entry::read(lease.address, &bytes);
            prop_assert!(matches!(entry, Entry::Unreadable(_)), "{entry:?}");
        }
    }

    #[test]
    fn a_record_of_another_address_is_occupied() {
        let marker = Quarantine {
            slot: "3/10.0.0.3".parse().unwrap(),
            object_uid: String::new(),
            release: ReleaseId { id: 1, nonce: String::new() },
        };
        assert!(matches!(Entry::read("10.0.0.4".parse().unwrap(), marker.print().as_bytes()), Entry::Unreadable(_)));
    }

    #[test]
    fn a_record_of_a_later_format_is_occupied() {
        let text = "azure-vnet 2 leased 00000000\n";
        assert_eq!(Entry::parse(text.as_bytes()), Err(RecordError::Version(2)));
    }

    #[test]
    fn a_lease_fits_one_small_file() {
        let uid = "a".repeat(36);
        let lease = Lease {
            address: "255.255.255.255".parse().unwrap(),
            attachment: Attachment { container: "f".repeat(64).parse().unwrap(), if_name: "eth0".parse().unwrap() },
            pod: Some(PodRef { namespace: "kube-system".into(), name: "n".repeat(63), uid: Some(uid.parse().unwrap()) }),
            network: "azure".parse().unwrap(),
            mode: Mode::Transparent,
            host_link: "azv0123456789a".parse().unwrap(),
            netns: Some(format!("/var/run/netns/cni-{uid}").parse().unwrap()),
            netns_cookie: Some(u64::MAX),
            boot: uid.parse().unwrap(),
            since: BootTime::from_millis(u64::MAX),
        };
        assert!(lease.print().len() <= 512, "{}", lease.print().len());
    }

    #[test]
    fn st13_a_rest_ends_by_the_clock_of_its_own_boot_only() {
        let rest =
            Cooling { address: [10, 0, 0, 4].into(), previous: None, boot: "b1".parse().unwrap(), since: BootTime::from_millis(1000) };
        let ends = |boot: &str, now| rest.has_ended(&boot.parse().unwrap(), BootTime::from_millis(now), Duration::from_secs(30));
        assert!(!ends("b1", 30_999));
        assert!(ends("b1", 31_000));
        assert!(!ends("b2", 31_000));
        assert!(
            !rest.has_ended(&"b1".parse().unwrap(), BootTime::from_millis(999), Duration::ZERO),
            "a time before it began proves a restored clock"
        );
    }
}
