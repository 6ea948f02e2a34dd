//! What a plugin learned of the machine's addresses, as the file `pool.azure` holds it (safety rule ST5), and the pool that a request gets of it.

use std::{collections::BTreeSet, fmt, net::Ipv4Addr, str::FromStr, time::Duration};

use ipnet::Ipv4Net;

use super::{HostLink, Interface, link_of};
use crate::{
    attachment::IfName,
    boot::{BootId, BootTime, StoreId},
    pool::{ContentHash, Pool, PoolFacts, SlotAddress},
    record::{Reader, RecordError, Writer},
};

const LEARNED: &str = "learned";
/// How long an address of a learned pool rests after use.
const COOL_DOWN: Duration = Duration::from_secs(45);

/// Who told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// The host agent.
    Wireserver,
    /// The instance metadata service.
    Imds,
    /// The file of interfaces.
    File,
}

/// The addresses for pods, by what one question answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Learned {
    /// In which boot.
    pub boot: BootId,
    /// Who told.
    pub origin: Origin,
    /// When the question was sent (safety rule ST5).
    pub asked: BootTime,
    /// The subnets, the one that is used without a wish first.
    pub subnets: Vec<LearnedSubnet>,
}

/// A subnet of one of the machine's links.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LearnedSubnet {
    /// The link.
    pub link: IfName,
    /// Whether the link is the machine's primary one.
    pub primary: bool,
    /// The prefix.
    pub prefix: Ipv4Net,
    /// Addresses for pods, ascending.
    pub addresses: Vec<Ipv4Addr>,
}

/// Which subnet a configuration wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// `ipam.subnet`.
    pub prefix: Option<Ipv4Net>,
    /// `master`.
    pub link: Option<IfName>,
}

impl Learned {
    /// Takes what can be used of an answer: interfaces that are links of this machine, and of these the addresses that are not the machine's own.
    #[must_use]
    pub fn of(interfaces: &[Interface], links: &[HostLink], origin: Origin, boot: BootId, asked: BootTime) -> Self {
        let mut subnets: Vec<LearnedSubnet> = Vec::new();
        for interface in interfaces {
            let Some(link) = link_of(interface.mac, links) else { continue };
            for subnet in &interface.subnets {
                let addresses: BTreeSet<_> =
                    subnet.addresses.iter().filter(|address| !address.primary).map(|address| address.address).collect();
                subnets.push(LearnedSubnet {
                    link: link.name.clone(),
                    primary: interface.primary,
                    prefix: subnet.prefix,
                    addresses: addresses.into_iter().collect(),
                });
            }
        }
        // The original's order made definite: secondary interfaces first, then the subnet with more addresses.
        subnets.sort_by_key(|subnet| (subnet.addresses.is_empty(), subnet.primary, usize::MAX - subnet.addresses.len(), subnet.prefix));
        Self { boot, origin, asked, subnets }
    }

    /// Leaves addresses out that are not for pods.
    pub fn withhold(&mut self, addresses: &BTreeSet<Ipv4Addr>) {
        for subnet in &mut self.subnets {
            subnet.addresses.retain(|address| !addresses.contains(address));
        }
    }

    /// Whether both list the same.
    #[must_use]
    pub fn agrees(&self, other: &Self) -> bool {
        self.boot == other.boot && self.origin == other.origin && self.subnets == other.subnets
    }

    /// The subnet that a configuration means.
    #[must_use]
    pub fn subnet(&self, wanted: &Wanted) -> Option<&LearnedSubnet> {
        let fits = |subnet: &&LearnedSubnet| {
            wanted.link.as_ref().is_none_or(|link| *link == subnet.link)
                && wanted.prefix.is_none_or(|prefix| prefix.trunc() == subnet.prefix.trunc())
        };
        self.subnets.iter().find(fits)
    }

    /// The subnet that an address lies in.
    #[must_use]
    pub fn subnet_of(&self, address: Ipv4Addr) -> Option<&LearnedSubnet> {
        self.subnets.iter().find(|subnet| subnet.prefix.contains(&address))
    }

    /// All addresses of all subnets.
    #[must_use]
    pub fn addresses(&self) -> BTreeSet<Ipv4Addr> {
        self.subnets.iter().flat_map(|subnet| &subnet.addresses).copied().collect()
    }

    /// A subnet as a pool.
    #[must_use]
    pub fn pool(&self, subnet: &LearnedSubnet, store: StoreId) -> Pool {
        let facts = PoolFacts {
            object_uid: String::new(),
            revision: self.asked.as_millis(),
            content: ContentHash(0),
            prefix: subnet.prefix,
            gateway: subnet.gateway(),
            cool_down: COOL_DOWN,
            mtu: None,
        };
        // Slots mean nothing outside an agent's pool.
        let slots = subnet.addresses.iter().map(|address| SlotAddress { slot: u8::MAX, address: *address });
        Pool::new(self.boot.clone(), store, facts, slots)
    }

    /// Prints the record.
    #[must_use]
    pub fn print(&self) -> String {
        let Self { boot, origin, asked, subnets } = self;
        let writer = Writer::new(LEARNED).field("boot", boot).field("origin", origin).field("asked", asked.as_millis());
        subnets.iter().fold(writer, |writer, subnet| writer.field("subnet", subnet)).finish()
    }

    /// Reads the record.
    ///
    /// # Errors
    /// The content is no whole record of this version.
    pub fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        let mut reader = Reader::of_kind(bytes, LEARNED)?;
        let learned = Self {
            boot: reader.field("boot")?,
            origin: reader.field("origin")?,
            asked: BootTime::from_millis(reader.field("asked")?),
            subnets: reader.all("subnet")?,
        };
        reader.finish().map(|()| learned)
    }
}

impl LearnedSubnet {
    /// The subnet's gateway: its first host.
    #[must_use]
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.prefix.network().to_bits().saturating_add(1))
    }
}

impl fmt::Display for LearnedSubnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { link, primary, prefix, addresses } = self;
        write!(f, "{link} {} {prefix} ", if *primary { "primary" } else { "secondary" })?;
        let mut between = "";
        for address in addresses {
            write!(f, "{between}{address}")?;
            between = ",";
        }
        Ok(())
    }
}

impl FromStr for LearnedSubnet {
    type Err = RecordError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let mut words = text.split(' ');
            let link = words.next()?.parse().ok()?;
            let primary = match words.next()? {
                "primary" => true,
                "secondary" => false,
                _ => return None,
            };
            let prefix = words.next()?.parse().ok()?;
            let list = words.next()?.split(',').filter(|address| !address.is_empty());
            let addresses: Vec<Ipv4Addr> = list.map(str::parse).collect::<Result<_, _>>().ok()?;
            (words.next().is_none() && addresses.is_sorted_by(|a, b| a < b)).then_some(Self { link, primary, prefix, addresses })
        };
        parse().ok_or(RecordError::Field("subnet"))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Wireserver => "wireserver",
            Self::Imds => "imds",
            Self::File => "file",
        })
    }
}

impl FromStr for Origin {
    type Err = RecordError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "wireserver" => Ok(Self::Wireserver),
            "imds" => Ok(Self::Imds),
            "file" => Ok(Self::File),
            _ => Err(RecordError::Field("origin")),
        }
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.prefix, &self.link) {
            (Some(prefix), Some(link)) => write!(f, "subnet {prefix} of {link}"),
            (Some(prefix), None) => write!(f, "subnet {prefix}"),
            (None, Some(link)) => write!(f, "subnet of {link}"),
            (None, None) => f.write_str("subnet"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        source::{Address, MacPattern, Subnet},
        wiring::Mac,
    };

    fn links() -> Vec<HostLink> {
        let link =
            |index, name: &str, last| HostLink { index, name: name.parse().unwrap(), mac: Mac([2, 0, 0, 0, 0, last]), controller: None };
        vec![link(2, "eth0", 1), link(3, "eth1", 2)]
    }

    fn interface(last: u8, primary: bool, prefix: &str, addresses: &[u8]) -> Interface {
        let prefix: Ipv4Net = prefix.parse().unwrap();
        let [a, b, ..] = prefix.network().octets();
        let addresses = addresses.iter().map(|&at| Address { address: [a, b, 0, at].into(), primary: at == 4 });
        let subnets = vec![Subnet { prefix, addresses: addresses.collect() }];
        Interface { mac: MacPattern::Is(Mac([2, 0, 0, 0, 0, last])), primary, subnets }
    }

    fn learned(interfaces: &[Interface]) -> Learned {
        Learned::of(interfaces, &links(), Origin::Wireserver, "b1".parse().unwrap(), BootTime::from_millis(7))
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(subnets in proptest::collection::vec(proptest::collection::vec(1..=u8::MAX, 0..60), 0..4)) {
            let interfaces: Vec<_> = subnets.iter().map(|addresses| interface(1, true, "10.1.0.0/16", addresses)).collect();
            let learned = learned(&interfaces);
            prop_assert_eq!(Learned::parse(learned.print().as_bytes()), Ok(learned));
        }

        #[test]
        fn random_bytes_are_nothing_learned(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            prop_assert!(Learned::parse(&bytes).is_err());
        }
    }

    #[test]
    fn the_machines_own_addresses_and_links_of_others_are_left_out() {
        let learned = learned(&[interface(1, true, "10.1.0.0/16", &[4, 6, 5]), interface(9, false, "10.9.0.0/16", &[5])]);
        let subnet = LearnedSubnet {
            link: "eth0".parse().unwrap(),
            primary: true,
            prefix: "10.1.0.0/16".parse().unwrap(),
            addresses: vec![[10, 1, 0, 5].into(), [10, 1, 0, 6].into()],
        };
        assert_eq!(learned.subnets.first(), Some(&subnet));
        assert_eq!(learned.subnets.len(), 1);
        let pool = learned.pool(&subnet, "s".parse().unwrap());
        assert_eq!((pool.gateway, pool.addresses().len()), ([10, 1, 0, 1].into(), 2));
    }

    #[test]
    fn a_subnet_is_found_by_what_the_configuration_names() {
        let interfaces = [
            interface(1, true, "10.1.0.0/16", &[4, 5, 6]),
            interface(2, false, "10.2.0.0/16", &[4, 5]),
            interface(2, false, "10.3.0.0/16", &[4]),
        ];
        let learned = learned(&interfaces);
        let subnet = |prefix: Option<&str>, link: Option<&str>| {
            let wanted = Wanted { prefix: prefix.map(|text| text.parse().unwrap()), link: link.map(|text| text.parse().unwrap()) };
            learned.subnet(&wanted).map(|subnet| subnet.prefix.to_string())
        };
        assert_eq!(subnet(None, None).as_deref(), Some("10.2.0.0/16"), "a secondary interface that has addresses");
        assert_eq!(subnet(None, Some("eth0")).as_deref(), Some("10.1.0.0/16"));
        assert_eq!(subnet(Some("10.1.7.7/16"), None).as_deref(), Some("10.1.0.0/16"));
        assert_eq!(subnet(Some("10.3.0.0/16"), Some("eth1")).as_deref(), Some("10.3.0.0/16"));
        assert_eq!(subnet(Some("10.3.0.0/16"), Some("eth0")), None);
        assert_eq!(subnet(Some("10.0.0.0/8"), None), None);
        assert_eq!(learned.subnet_of([10, 1, 0, 99].into()).map(|subnet| subnet.link.as_str()), Some("eth0"));
        assert_eq!(learned.addresses().len(), 3);
    }
}
