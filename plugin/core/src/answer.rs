//! Results: one value, printed in the shape of the caller's version, and read back from `prevResult` or a delegated plugin in any of them.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use serde_json::{Map, Value, json};

use crate::{
    json::{Object, TypeError},
    version::CniVersion,
};

/// Where Azure's resolver is, from every virtual machine.
pub const AZURE_DNS: Ipv4Addr = Ipv4Addr::new(168, 63, 129, 16);

/// What ADD answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Links, the pod's first.
    pub interfaces: Vec<Interface>,
    /// Addresses.
    pub ips: Vec<Ip>,
    /// Routes.
    pub routes: Vec<AnswerRoute>,
    /// Resolvers.
    pub dns: Dns,
}

/// A link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its hardware address.
    pub mac: Option<String>,
    /// Its largest packet.
    pub mtu: Option<u32>,
    /// The namespace's path; none for the host's.
    pub sandbox: Option<String>,
    /// What else CNI 1.1 lets a plugin say of it: a socket's path, a device's number on the bus.
    pub more: Map<String, Value>,
}

/// An address with the length of its subnet's prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ip {
    /// Address and prefix length.
    pub address: IpNet,
    /// Index into the interfaces.
    pub interface: Option<usize>,
    /// The subnet's gateway.
    pub gateway: Option<IpAddr>,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnswerRoute {
    /// Where to.
    pub destination: IpNet,
    /// Through whom.
    pub gateway: Option<IpAddr>,
    /// What else CNI 1.1 lets a plugin say of it: packet sizes, metric, table, scope.
    pub more: Map<String, Value>,
}

/// Resolvers, as configurations and results write them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dns {
    /// Addresses of resolvers.
    pub nameservers: Vec<String>,
    /// Local domain.
    pub domain: Option<String>,
    /// Domains to try.
    pub search: Vec<String>,
    /// Options of the resolver.
    pub options: Vec<String>,
}

/// Why a text is no result that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// A field of the wrong type.
    #[error("{0}")]
    Type(String),
    /// No address.
    #[error("{0:?} is no address with a prefix length")]
    Address(String),
    /// Not a result.
    #[error("it is no JSON object")]
    NoObject,
}

impl From<TypeError> for AnswerError {
    fn from(error: TypeError) -> Self {
        Self::Type(error.to_string())
    }
}

impl Answer {
    /// What an address from a pool means to a caller: the address with its subnet, the subnet's gateway, Azure's resolver.
    #[must_use]
    pub fn of_pool(address: Ipv4Net, gateway: Ipv4Addr) -> Self {
        Self {
            interfaces: Vec::new(),
            ips: vec![Ip { address: address.into(), interface: None, gateway: Some(gateway.into()) }],
            routes: vec![AnswerRoute { destination: Ipv4Net::default().into(), gateway: Some(gateway.into()), more: Map::new() }],
            dns: Dns { nameservers: vec![AZURE_DNS.to_string()], ..Dns::default() },
        }
    }

    /// Adds the links, and says that the addresses are on the first. What plugins before this one answered stays, ahead of it, but for the
    /// resolvers. Of routes that an IPAM plugin asks for, only destination and gateway are made, hence told.
    #[must_use]
    pub fn on(self, interfaces: Vec<Interface>, previous: Option<&Self>) -> Self {
        let mut all = previous.cloned().unwrap_or_default();
        let first = all.interfaces.len();
        let Self { interfaces: _, ips, routes, dns } = self;
        all.interfaces.extend(interfaces);
        all.ips.extend(ips.into_iter().map(|ip| Ip { interface: Some(first), ..ip }));
        all.routes.extend(routes.into_iter().map(|route| AnswerRoute { more: Map::new(), ..route }));
        all.dns = dns;
        all
    }

    /// The addresses on a link in a namespace: those that the result says are there, and all of a result that says nothing of links.
    #[must_use]
    pub fn addresses_on(&self, name: &str) -> Vec<&Ip> {
        let is_there = |ip: &&Ip| match ip.interface.and_then(|at| self.interfaces.get(at)) {
            Some(interface) => interface.name == name && interface.sandbox.as_ref().is_some_and(|sandbox| !sandbox.is_empty()),
            None => ip.interface.is_none(),
        };
        self.ips.iter().filter(is_there).collect()
    }

    /// The JSON in a version's shape.
    #[must_use]
    pub fn print(&self, version: CniVersion) -> Value {
        let Self { interfaces, ips, routes, dns } = self;
        let routes: Vec<Value> = routes.iter().map(|route| route.print(version)).collect();
        let mut answer = Map::from_iter([("cniVersion".to_owned(), Value::from(version.as_str())), ("dns".to_owned(), dns.print())]);
        if version.has_interfaces() {
            if !interfaces.is_empty() {
                answer.insert("interfaces".to_owned(), interfaces.iter().map(|interface| interface.print(version)).collect());
            }
            answer.insert("ips".to_owned(), ips.iter().map(|ip| ip.print(version)).collect());
            answer.insert("routes".to_owned(), Value::from(routes));
        } else {
            for (key, is_v4) in [("ip4", true), ("ip6", false)] {
                let Some(ip) = ips.iter().find(|ip| ip.address.addr().is_ipv4() == is_v4) else { continue };
                let routes = self.routes.iter().filter(|route| route.destination.addr().is_ipv4() == is_v4);
                let mut of_family =
                    json!({ "ip": ip.address.to_string(), "routes": routes.map(|route| route.print(version)).collect::<Vec<_>>() });
                set(&mut of_family, "gateway", ip.gateway.map(|gateway| gateway.to_string()));
                answer.insert(key.to_owned(), of_family);
            }
        }
        Value::Object(answer)
    }

    /// Reads a result of any version.
    ///
    /// # Errors
    /// It is none.
    pub fn parse(value: &Value) -> Result<Self, AnswerError> {
        let object = Object::of(value).ok_or(AnswerError::NoObject)?;
        let mut answer = Self { dns: object.object("dns")?.map(Dns::parse).transpose()?.unwrap_or_default(), ..Self::default() };
        let mut routes = object.list("routes")?.to_vec();
        for key in ["ip4", "ip6"] {
            if let Some(of_family) = object.object(key)? {
                answer.ips.push(Ip::parse(of_family, "ip")?);
                routes.extend_from_slice(of_family.list("routes")?);
            }
        }
        let inner = |value| Object::of(value).ok_or(AnswerError::NoObject);
        for value in object.list("interfaces")? {
            answer.interfaces.push(Interface::parse(inner(value)?)?);
        }
        for value in object.list("ips")? {
            answer.ips.push(Ip::parse(inner(value)?, "address")?);
        }
        for value in &routes {
            answer.routes.push(AnswerRoute::parse(inner(value)?)?);
        }
        Ok(answer)
    }
}

impl Interface {
    fn print(&self, version: CniVersion) -> Value {
        let Self { name, mac, mtu, sandbox, more } = self;
        let mut interface = rest(more, version);
        set(&mut interface, "name", Some(name.clone()));
        set(&mut interface, "mac", mac.clone());
        set(&mut interface, "sandbox", sandbox.clone());
        if version.has_gc_and_status() {
            set(&mut interface, "mtu", *mtu);
        }
        interface
    }

    fn parse(object: Object<'_>) -> Result<Self, AnswerError> {
        let text = |key| object.text(key).map(|text| text.map(str::to_owned));
        Ok(Self {
            name: text("name")?.unwrap_or_default(),
            mac: text("mac")?,
            mtu: object.get("mtu").and_then(Value::as_u64).and_then(|mtu| mtu.try_into().ok()),
            sandbox: text("sandbox")?,
            more: object.without(&["name", "mac", "mtu", "sandbox"]),
        })
    }
}

impl Ip {
    fn print(&self, version: CniVersion) -> Value {
        let Self { address, interface, gateway } = self;
        let mut ip = json!({ "address": address.to_string() });
        set(&mut ip, "interface", *interface);
        set(&mut ip, "gateway", gateway.map(|gateway| gateway.to_string()));
        if version.has_ip_family() {
            set(&mut ip, "version", Some(if address.addr().is_ipv4() { "4" } else { "6" }));
        }
        ip
    }

    fn parse(object: Object<'_>, key: &str) -> Result<Self, AnswerError> {
        let interface = object.get("interface").and_then(Value::as_u64).and_then(|index| index.try_into().ok());
        Ok(Self { address: network(object.text(key)?.unwrap_or_default())?, interface, gateway: gateway(object, "gateway")? })
    }
}

impl AnswerRoute {
    fn print(&self, version: CniVersion) -> Value {
        let Self { destination, gateway, more } = self;
        let mut route = rest(more, version);
        set(&mut route, "dst", Some(destination.to_string()));
        set(&mut route, "gw", gateway.map(|gateway| gateway.to_string()));
        route
    }

    fn parse(object: Object<'_>) -> Result<Self, AnswerError> {
        Ok(Self {
            destination: network(object.text("dst")?.unwrap_or_default())?,
            gateway: gateway(object, "gw")?,
            more: object.without(&["dst", "gw"]),
        })
    }
}

impl Dns {
    fn print(&self) -> Value {
        let Self { nameservers, domain, search, options } = self;
        let mut dns = json!({});
        let list = |list: &Vec<String>| (!list.is_empty()).then(|| list.clone());
        set(&mut dns, "nameservers", list(nameservers));
        set(&mut dns, "domain", domain.clone());
        set(&mut dns, "search", list(search));
        set(&mut dns, "options", list(options));
        dns
    }

    pub(crate) fn parse(object: Object<'_>) -> Result<Self, TypeError> {
        Ok(Self {
            nameservers: object.texts("nameservers")?,
            domain: object.text("domain")?.map(str::to_owned),
            search: object.texts("search")?,
            options: object.texts("options")?,
        })
    }
}

/// What versions before 1.1 have no words for.
fn rest(more: &Map<String, Value>, version: CniVersion) -> Value {
    Value::Object(if version.has_gc_and_status() { more.clone() } else { Map::new() })
}

fn set(object: &mut Value, key: &str, value: Option<impl Into<Value>>) {
    if let (Some(object), Some(value)) = (object.as_object_mut(), value) {
        object.insert(key.to_owned(), value.into());
    }
}

fn network(text: &str) -> Result<IpNet, AnswerError> {
    text.parse().map_err(|_| AnswerError::Address(text.to_owned()))
}

fn gateway(object: Object<'_>, key: &str) -> Result<Option<IpAddr>, AnswerError> {
    let read = |text: &str| text.parse().map_err(|_| AnswerError::Address(text.to_owned()));
    object.text(key)?.map(read).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer() -> Answer {
        let host =
            Interface { name: "azv0d7763386da".into(), mac: Some("aa:aa:aa:aa:aa:aa".into()), mtu: Some(1500), ..Interface::default() };
        let pod =
            Interface { name: "eth0".into(), mac: Some("02:00:00:00:00:01".into()), sandbox: Some("/run/netns/a".into()), ..host.clone() };
        Answer::of_pool("10.240.0.9/16".parse().unwrap(), Ipv4Addr::new(10, 240, 0, 1)).on(vec![pod, host], None)
    }

    #[test]
    fn each_version_gets_its_own_shape() {
        let old = r#"{"cniVersion":"0.2.0","dns":{"nameservers":["168.63.129.16"]},"ip4":{"gateway":"10.240.0.1","ip":"10.240.0.9/16","routes":[{"dst":"0.0.0.0/0","gw":"10.240.0.1"}]}}"#;
        let middle = r#"{"cniVersion":"0.4.0","dns":{"nameservers":["168.63.129.16"]},"interfaces":[{"mac":"02:00:00:00:00:01","name":"eth0","sandbox":"/run/netns/a"},{"mac":"aa:aa:aa:aa:aa:aa","name":"azv0d7763386da"}],"ips":[{"address":"10.240.0.9/16","gateway":"10.240.0.1","interface":0,"version":"4"}],"routes":[{"dst":"0.0.0.0/0","gw":"10.240.0.1"}]}"#;
        let new = r#"{"cniVersion":"1.0.0","dns":{"nameservers":["168.63.129.16"]},"interfaces":[{"mac":"02:00:00:00:00:01","name":"eth0","sandbox":"/run/netns/a"},{"mac":"aa:aa:aa:aa:aa:aa","name":"azv0d7763386da"}],"ips":[{"address":"10.240.0.9/16","gateway":"10.240.0.1","interface":0}],"routes":[{"dst":"0.0.0.0/0","gw":"10.240.0.1"}]}"#;
        let newest = r#"{"cniVersion":"1.1.0","dns":{"nameservers":["168.63.129.16"]},"interfaces":[{"mac":"02:00:00:00:00:01","mtu":1500,"name":"eth0","sandbox":"/run/netns/a"},{"mac":"aa:aa:aa:aa:aa:aa","mtu":1500,"name":"azv0d7763386da"}],"ips":[{"address":"10.240.0.9/16","gateway":"10.240.0.1","interface":0}],"routes":[{"dst":"0.0.0.0/0","gw":"10.240.0.1"}]}"#;
        for version in CniVersion::ALL {
            let snapshot = match version {
                CniVersion::V0_1_0 | CniVersion::V0_2_0 => old.replace("0.2.0", version.as_str()),
                CniVersion::V0_3_0 | CniVersion::V0_3_1 | CniVersion::V0_4_0 => middle.replace("0.4.0", version.as_str()),
                CniVersion::V1_0_0 => new.to_owned(),
                CniVersion::V1_1_0 => newest.to_owned(),
            };
            assert_eq!(answer().print(version).to_string(), snapshot);
        }
    }

    #[test]
    fn what_is_printed_is_read_back() {
        for version in CniVersion::ALL {
            let read = Answer::parse(&answer().print(version)).unwrap();
            let mut expected = answer();
            if !version.has_interfaces() {
                expected.interfaces.clear();
                expected.ips[0].interface = None;
            }
            if !version.has_gc_and_status() {
                expected.interfaces.iter_mut().for_each(|interface| interface.mtu = None);
            }
            assert_eq!(read, expected, "{version}");
        }
    }

    #[test]
    fn both_families_are_printed_and_read_back() {
        let mut both = answer();
        both.ips.push(Ip { address: "fd00::9/64".parse().unwrap(), interface: Some(0), gateway: Some("fd00::1".parse().unwrap()) });
        both.routes.push(AnswerRoute { destination: "::/0".parse().unwrap(), gateway: Some("fd00::1".parse().unwrap()), more: Map::new() });
        for version in CniVersion::ALL {
            let printed = both.print(version);
            if version.has_ip_family() {
                assert_eq!(printed["ips"][1]["version"], "6");
            }
            let read = Answer::parse(&printed).unwrap();
            let addresses: Vec<_> = read.ips.iter().map(|ip| (ip.address, ip.gateway)).collect();
            assert_eq!(addresses, both.ips.iter().map(|ip| (ip.address, ip.gateway)).collect::<Vec<_>>(), "{version}");
            assert_eq!(read.routes, both.routes, "{version}");
        }
    }

    #[test]
    fn what_cni_1_1_says_beyond_stays_of_plugins_before_and_is_told_to_no_older_caller() {
        let socket = json!({ "name": "vhost0", "socketPath": "/run/vhost0", "pciID": "0000:00:1f.6" });
        let route = json!({ "dst": "10.9.0.0/16", "mtu": 1400, "priority": 7, "table": 9, "scope": 253 });
        let before = Answer::parse(&json!({ "interfaces": [&socket], "routes": [&route] })).unwrap();
        let mut given = Answer::of_pool("10.240.0.9/16".parse().unwrap(), Ipv4Addr::new(10, 240, 0, 1));
        given.routes[0].more = Map::from_iter([("mtu".to_owned(), json!(1400))]);
        let after = given.on(vec![Interface { name: "eth0".into(), ..Interface::default() }], Some(&before));
        let newest = after.print(CniVersion::V1_1_0);
        assert_eq!((&newest["interfaces"][0], &newest["routes"][0]), (&socket, &route));
        assert_eq!(newest["routes"][1], json!({ "dst": "0.0.0.0/0", "gw": "10.240.0.1" }), "it is not made");
        let older = after.print(CniVersion::V1_0_0);
        assert_eq!((&older["interfaces"][0], &older["routes"][0]), (&json!({ "name": "vhost0" }), &json!({ "dst": "10.9.0.0/16" })));
    }

    #[test]
    fn what_plugins_before_answered_stays() {
        let lo = Interface { name: "lo".into(), sandbox: Some("/run/netns/a".into()), ..Interface::default() };
        let local = Ip { address: "127.0.0.1/8".parse().unwrap(), interface: Some(0), gateway: None };
        let before = Answer { interfaces: vec![lo.clone()], ips: vec![local.clone()], ..Answer::default() };
        let pod = Interface { name: "eth0".into(), sandbox: Some("/run/netns/a".into()), ..Interface::default() };
        let after = Answer::of_pool("10.240.0.9/16".parse().unwrap(), Ipv4Addr::new(10, 240, 0, 1)).on(vec![pod], Some(&before));
        assert_eq!((after.interfaces.len(), after.ips.len(), &after.interfaces[0], &after.ips[0]), (2, 2, &lo, &local));
        assert_eq!(after.addresses_on("eth0").iter().map(|ip| ip.address.to_string()).collect::<Vec<_>>(), ["10.240.0.9/16"]);
        assert_eq!(after.addresses_on("eth1"), Vec::<&Ip>::new());
    }
}
