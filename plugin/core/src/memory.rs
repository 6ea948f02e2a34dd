//! Which pod had which address: kept over a boot, after which the kubelet starts the same pods again (safety rule ST13).
//! A hint: it gives nobody an address and takes none away.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::Ipv4Addr,
    str::FromStr,
};

use crate::{
    attachment::PodUid,
    boot::BootId,
    lease::Entry,
    record::{Reader, RecordError, Writer},
};

const REMEMBERED: &str = "remembered";

/// A pod's address, written `pod/address`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodAddress {
    /// The pod.
    pub pod: PodUid,
    /// What it had.
    pub address: Ipv4Addr,
}

impl fmt::Display for PodAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.pod, self.address)
    }
}

impl FromStr for PodAddress {
    type Err = RecordError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (pod, address) = text.split_once('/').ok_or(RecordError::Field("pod"))?;
        let (Ok(pod), Ok(address)) = (pod.parse(), address.parse()) else { return Err(RecordError::Field("pod")) };
        Ok(Self { pod, address })
    }
}

/// What pods have, and what those of the former boot had that are not back yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remembered {
    boot: BootId,
    present: BTreeMap<Ipv4Addr, PodUid>,
    former: BTreeMap<Ipv4Addr, PodUid>,
}

impl Remembered {
    /// Nothing yet, in this boot.
    #[must_use]
    pub fn none(boot: BootId) -> Self {
        Self { boot, present: BTreeMap::new(), former: BTreeMap::new() }
    }

    /// The same after a start: what pods had in another boot is former.
    #[must_use]
    pub fn in_boot(self, boot: BootId) -> Self {
        if self.boot == boot {
            return self;
        }
        let mut former = self.former;
        former.extend(self.present);
        Self { boot, present: BTreeMap::new(), former }
    }

    /// The same after a look at the leases. A former pod that is back, or that the node has no more (once its pods are known), is forgotten,
    /// and so is an address that another pod has.
    #[must_use]
    pub fn looked(&self, entries: &[(Ipv4Addr, Entry)], pods: Option<&BTreeSet<String>>) -> Self {
        let mut leased = BTreeSet::new();
        let mut present = BTreeMap::new();
        for (address, entry) in entries {
            let Entry::Leased(lease) = entry else { continue };
            leased.insert(*address);
            present.extend(lease.pod.as_ref().and_then(|pod| pod.uid.clone()).map(|uid| (*address, uid)));
        }
        let back: BTreeSet<&PodUid> = present.values().collect();
        let waits = |address: &Ipv4Addr, pod: &PodUid| {
            !leased.contains(address) && !back.contains(pod) && pods.is_none_or(|pods| pods.contains(pod.as_str()))
        };
        let former = self.former.iter().filter(|(address, pod)| waits(address, pod)).map(|(address, pod)| (*address, pod.clone()));
        Self { boot: self.boot.clone(), former: former.collect(), present }
    }

    /// The addresses of the former boot's pods that are not back yet.
    #[must_use]
    pub fn former(&self) -> Vec<PodAddress> {
        pairs(&self.former).collect()
    }

    /// Prints the record.
    #[must_use]
    pub fn print(&self) -> String {
        let Self { boot, present, former } = self;
        let writer = Writer::new(REMEMBERED).field("boot", boot);
        let writer = pairs(present).fold(writer, |writer, pair| writer.field("present", pair));
        pairs(former).fold(writer, |writer, pair| writer.field("former", pair)).finish()
    }

    /// Reads the record.
    ///
    /// # Errors
    /// The content is no whole record of this version.
    pub fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        let mut reader = Reader::of_kind(bytes, REMEMBERED)?;
        let boot = reader.field("boot")?;
        let map = |pairs: Vec<PodAddress>| pairs.into_iter().map(|PodAddress { pod, address }| (address, pod)).collect();
        let remembered = Self { boot, present: map(reader.all("present")?), former: map(reader.all("former")?) };
        reader.finish().map(|()| remembered)
    }
}

fn pairs(map: &BTreeMap<Ipv4Addr, PodUid>) -> impl Iterator<Item = PodAddress> + '_ {
    map.iter().map(|(address, pod)| PodAddress { pod: pod.clone(), address: *address })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        attachment::{Attachment, Mode, PodRef},
        boot::BootTime,
        lease::Lease,
    };

    fn address(last: u8) -> Ipv4Addr {
        [10, 240, 0, last].into()
    }

    fn leased(last: u8, uid: &str) -> (Ipv4Addr, Entry) {
        let lease = Lease {
            address: address(last),
            attachment: Attachment { container: "c".parse().unwrap(), if_name: "eth0".parse().unwrap() },
            pod: Some(PodRef { namespace: "ns".into(), name: "pod".into(), uid: Some(uid.parse().unwrap()) }),
            network: "azure".parse().unwrap(),
            mode: Mode::Transparent,
            host_link: "azv0".parse().unwrap(),
            netns: None,
            netns_cookie: None,
            boot: "b".parse().unwrap(),
            since: BootTime::from_millis(1),
        };
        (address(last), Entry::Leased(lease))
    }

    fn former(remembered: &Remembered) -> Vec<String> {
        remembered.former().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn st13_after_a_boot_pods_that_are_not_back_are_waited_for_while_the_node_has_them() {
        let first = Remembered::none("b1".parse().unwrap()).looked(&[leased(4, "a"), leased(5, "b"), leased(6, "c")], None);
        assert!(former(&first).is_empty());
        let second = first.in_boot("b2".parse().unwrap());
        assert_eq!(former(&second), ["a/10.240.0.4", "b/10.240.0.5", "c/10.240.0.6"]);
        let back = second.looked(&[leased(4, "a"), leased(9, "b")], None);
        assert_eq!(former(&back), ["c/10.240.0.6"], "one is back with its address, one with another");
        assert_eq!(former(&back.clone().in_boot("b3".parse().unwrap())), ["a/10.240.0.4", "c/10.240.0.6", "b/10.240.0.9"]);
        assert_eq!(former(&back.looked(&[leased(6, "d")], None)), Vec::<String>::new(), "another pod has the address");
        assert_eq!(former(&back.looked(&[], Some(&["c".to_owned()].into()))), ["c/10.240.0.6"]);
        assert_eq!(former(&back.looked(&[], Some(&BTreeSet::new()))), Vec::<String>::new(), "the node has the pod no more");
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(present in proptest::collection::btree_map(any::<u8>(), "[a-z0-9]{1,36}", 0..9), reboot: bool) {
            let entries: Vec<_> = present.iter().map(|(last, uid)| leased(*last, uid)).collect();
            let remembered = Remembered::none("b1".parse().unwrap()).looked(&entries, None);
            let remembered = if reboot { remembered.in_boot("b2".parse().unwrap()) } else { remembered };
            prop_assert_eq!(Remembered::parse(remembered.print().as_bytes()), Ok(remembered));
        }

        #[test]
        fn random_bytes_are_no_record(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            prop_assert!(Remembered::parse(&bytes).is_err());
        }
    }
}
