//! The state files of the original plugins, `azure-vnet.json` and `azure-vnet-ipam.json`: whose pods run on a machine whose plugins were
//! replaced by these. Fields have come and gone over the years; what cannot be understood is left out.

pub mod rules;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use serde_json::{Map, Value};

use crate::{
    attachment::{Attachment, ContainerId, IfName, Mode, NetnsPath, NetworkName, PodRef},
    json::Object,
    wiring::Mac,
};

/// The interface of a record that names none: the address plugin kept container ids only.
const INTERFACE: &str = "eth0";

/// A pod of the original's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its address.
    pub address: Ipv4Addr,
    /// Container and interface.
    pub attachment: Attachment,
    /// The host's end of its link; none where another plugin made it.
    pub host_link: Option<IfName>,
    /// The pod.
    pub pod: Option<PodRef>,
    /// The network; none where only the address plugin knows of it.
    pub network: Option<NetworkName>,
    /// How it was wired.
    pub mode: Mode,
    /// The hardware address of the pod's end.
    pub mac: Option<Mac>,
    /// Its namespace.
    pub netns: Option<NetnsPath>,
}

/// Reads both files, either of which may be missing or damaged. Each address and each attachment comes once.
#[must_use]
pub fn endpoints(network: Option<&[u8]>, ipam: Option<&[u8]>) -> Vec<Endpoint> {
    let read = |bytes: Option<&[u8]>| bytes.and_then(|bytes| serde_json::from_slice::<Value>(bytes).ok()).unwrap_or_default();
    let (network, ipam) = (read(network), read(ipam));
    let containers = addresses_in_use(&ipam);
    let mut found = Vec::new();
    for_each_network(&network, &mut |id, mode, endpoint| found.extend(endpoint_of(id, mode, endpoint, &containers)));
    let known: BTreeSet<_> = found.iter().map(|endpoint| endpoint.address).collect();
    let interface = |container: &ContainerId| Some(Attachment { container: container.clone(), if_name: INTERFACE.parse().ok()? });
    let others = containers.iter().filter(|(address, _)| !known.contains(address)).filter_map(|(address, container)| {
        let attachment = interface(container)?;
        Some(Endpoint {
            address: *address,
            attachment,
            host_link: None,
            pod: None,
            network: None,
            mode: Mode::Transparent,
            mac: None,
            netns: None,
        })
    });
    let mut seen = (BTreeSet::new(), BTreeSet::new());
    found.extend(others.collect::<Vec<_>>());
    found.retain(|endpoint| seen.0.insert(endpoint.address) && seen.1.insert(endpoint.attachment.clone()));
    found
}

/// Addresses that the address plugin gave away, and to which container.
fn addresses_in_use(ipam: &Value) -> BTreeMap<Ipv4Addr, ContainerId> {
    let mut found = BTreeMap::new();
    let spaces = at(ipam, &["IPAM", "AddressSpaces"]);
    for pool in spaces.values().flat_map(|space| at(space, &["Pools"]).values()) {
        for (address, record) in at(pool, &["Addresses"]) {
            let Some(record) = Object::of(record).filter(|record| record.flag("InUse").unwrap_or_default()) else { continue };
            let container = record.text("ID").ok().flatten().and_then(|id| id.parse().ok());
            found.extend(address.parse().ok().zip(container));
        }
    }
    found
}

fn for_each_network<'a>(state: &'a Value, act: &mut dyn FnMut(&'a str, Option<&'a str>, Object<'a>)) {
    let links = at(state, &["Network", "ExternalInterfaces"]);
    for (id, network) in links.values().flat_map(|link| at(link, &["Networks"])) {
        let mode = network.get("Mode").and_then(Value::as_str);
        for endpoint in at(network, &["Endpoints"]).values().filter_map(Object::of) {
            act(id, mode, endpoint);
        }
    }
}

fn endpoint_of(network: &str, mode: Option<&str>, endpoint: Object<'_>, containers: &BTreeMap<Ipv4Addr, ContainerId>) -> Option<Endpoint> {
    let text = |key| endpoint.text(key).ok().flatten();
    let mut addresses = endpoint.list("IPAddresses").unwrap_or_default().iter();
    let address = addresses.find_map(|address| Object::of(address)?.text("IP").ok()??.parse().ok())?;
    // Files of old versions have the id's first eight characters only.
    let container = text("ContainerID").and_then(|id| id.parse().ok()).or_else(|| containers.get(&address).cloned())?;
    let pod = text("PODNameSpace").zip(text("PODName"));
    Some(Endpoint {
        address,
        attachment: Attachment { container, if_name: text("IfName").unwrap_or(INTERFACE).parse().ok()? },
        host_link: text("HostIfName").and_then(|name| name.parse().ok()),
        pod: pod.map(|(namespace, name)| PodRef { namespace: namespace.to_owned(), name: name.to_owned(), uid: None }),
        network: network.parse().ok(),
        mode: mode.and_then(|mode| mode.parse().ok()).unwrap_or(Mode::Tunnel),
        mac: text("MacAddress").and_then(mac),
        netns: text("NetworkNameSpace").and_then(|path| path.parse().ok()),
    })
}

/// Six bytes in base64, which are eight characters.
fn mac(text: &str) -> Option<Mac> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |byte: u8| DIGITS.iter().position(|digit| *digit == byte).and_then(|digit| u64::try_from(digit).ok());
    let number = text.bytes().try_fold(0, |number: u64, byte| Some((number << 6) | digit(byte)?))?;
    let [0, 0, bytes @ ..] = number.to_be_bytes() else { return None };
    (text.len() == 8).then_some(Mac(bytes))
}

/// The object at the end of a path; an empty one where the path leads nowhere.
fn at<'a>(value: &'a Value, path: &[&str]) -> &'a Map<String, Value> {
    static NOTHING: std::sync::OnceLock<Map<String, Value>> = std::sync::OnceLock::new();
    let end = path.iter().try_fold(value, |value, key| value.get(key));
    end.and_then(Value::as_object).unwrap_or_else(|| NOTHING.get_or_init(Map::new))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NETWORK: &str = r#"{"Network":{"Version":"v1.6.0","TimeStamp":"2024-01-01T00:00:00.0Z","CnsClient":null,"ExternalInterfaces":{"eth0":{
        "Name":"eth0","Networks":{"azure":{"Id":"azure","Mode":"transparent","VlanId":0,"Endpoints":{
        "3f813b02-eth0":{"Id":"3f813b02-eth0","SandboxKey":"","IfName":"eth0","HostIfName":"azv0d7763386da","MacAddress":"ssbUkyfm",
        "IPAddresses":[{"IP":"10.240.0.9","Mask":"//8AAA=="}],"Gateways":["0.0.0.0"],"NetworkNameSpace":"/var/run/netns/cni-1",
        "ContainerID":"3f813b02aa","PODName":"web-0","PODNameSpace":"default","SecondaryInterfaces":{},"NICType":"InfraNIC"},
        "44444444-eth0":{"IfName":"eth0","HostIfName":"azv4444444","IPAddresses":[{"IP":"10.240.0.10"}]},
        "55555555-eth0":{"IfName":"eth0","HostIfName":"azv5555555","IPAddresses":[{"IP":"10.240.0.11"}]},
        "no address":{"ContainerID":"x"},"no object":7}}},"Subnets":["10.240.0.0/16"],"BridgeName":""}}}}"#;
    const IPAM: &str = r#"{"IPAM":{"Version":"v1.6.0","AddressSpaces":{"local":{"Id":"local","Scope":0,"Pools":{
        "10.240.0.0/16":{"Id":"10.240.0.0/16","IfName":"eth0","Addresses":{
        "10.240.0.9":{"ID":"3f813b02aa","Addr":"10.240.0.9","InUse":true},"10.240.0.10":{"ID":"44444444bb","InUse":true},
        "10.240.0.12":{"ID":"","Addr":"10.240.0.12","InUse":false},"10.240.0.13":{"ID":"77777777","InUse":true},
        "10.240.0.14":{"ID":"88888888","InUse":false}},"RefCount":1}}}}}}"#;

    fn attachment(container: &str) -> Attachment {
        Attachment { container: container.parse().unwrap(), if_name: "eth0".parse().unwrap() }
    }

    #[test]
    fn both_files_together_tell_of_every_pod() {
        let found = endpoints(Some(NETWORK.as_bytes()), Some(IPAM.as_bytes()));
        let first = Endpoint {
            address: [10, 240, 0, 9].into(),
            attachment: attachment("3f813b02aa"),
            host_link: "azv0d7763386da".parse().ok(),
            pod: Some(PodRef { namespace: "default".into(), name: "web-0".into(), uid: None }),
            network: "azure".parse().ok(),
            mode: Mode::Transparent,
            mac: Some(Mac([0xb2, 0xc6, 0xd4, 0x93, 0x27, 0xe6])),
            netns: "/var/run/netns/cni-1".parse().ok(),
        };
        assert_eq!(found[0], first);
        let rest: Vec<_> =
            found[1..].iter().map(|found| (found.address.octets()[3], found.attachment.clone(), found.host_link.is_some())).collect();
        assert_eq!(rest, [(10, attachment("44444444bb"), true), (13, attachment("77777777"), false)]);
    }

    #[test]
    fn what_is_no_hardware_address_is_none() {
        assert_eq!(mac("AA06bhgl"), Some(Mac([0x00, 0x0d, 0x3a, 0x6e, 0x18, 0x25])));
        for none in ["", "AA06bhg", "AA06bhgl=", "AA06bhg=", "AA06bhglAAAAAAAA"] {
            assert_eq!(mac(none), None, "{none:?}");
        }
    }

    #[test]
    fn either_file_may_be_missing_or_damaged() {
        assert_eq!(endpoints(None, None), []);
        assert_eq!(endpoints(Some(b"\0\0\0"), Some(b"")), []);
        assert_eq!(endpoints(Some(NETWORK.as_bytes()), None).len(), 1);
        assert_eq!(endpoints(None, Some(IPAM.as_bytes())).len(), 3);
    }

    proptest! {
        #[test]
        fn damaged_files_never_panic(at in any::<prop::sample::Index>(), with: Vec<u8>, cut in 0..40_usize) {
            let mut bytes = NETWORK.as_bytes().to_vec();
            let at = at.index(bytes.len());
            bytes.splice(at..(at + cut).min(bytes.len()), with);
            let _ = endpoints(Some(&bytes), Some(IPAM.as_bytes()));
        }
    }
}
