//! The instance metadata service's answer about the machine's interfaces: the second opinion where the host agent has none.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde_json::Value;

use super::{Address, Interface, MacPattern, Subnet};
use crate::json::Object;

/// Path and query of the question; the version is one that every region serves.
pub const QUESTION: &str = "/metadata/instance/network?api-version=2021-02-01&format=json";

/// Why there is nothing to learn from an answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its answer cannot be read: {0}")]
pub struct Unreadable(String);

/// Reads an answer. An interface's first address is the machine's own; what is no address is left out.
///
/// # Errors
/// It is none.
pub fn parse(body: &[u8]) -> Result<Vec<Interface>, Unreadable> {
    let value: Value = serde_json::from_slice(body).map_err(|error| Unreadable(error.to_string()))?;
    let interfaces = Object::of(&value).and_then(|network| network.list("interface").ok());
    let interfaces = interfaces.ok_or_else(|| Unreadable("there is no list of interfaces in it".to_owned()))?;
    let numbered = interfaces.iter().enumerate();
    Ok(numbered.filter_map(|(at, value)| interface(Object::of(value)?, at == 0)).collect())
}

fn interface(object: Object<'_>, primary: bool) -> Option<Interface> {
    let mac = object.text("macAddress").ok()??.parse::<MacPattern>().ok()?;
    let ipv4 = object.object("ipv4").ok()??;
    let addresses: Vec<Ipv4Addr> = texts(ipv4, "ipAddress", |entry| entry.text("privateIpAddress").ok()??.parse().ok());
    let prefixes: Vec<Ipv4Net> = texts(ipv4, "subnet", |entry| {
        let length = entry.get("prefix")?;
        let length = length.as_str().map_or_else(|| length.to_string(), str::to_owned);
        format!("{}/{length}", entry.text("address").ok()??).parse().ok()
    });
    let subnet = |prefix: &Ipv4Net| {
        let inside = addresses.iter().enumerate().filter(|(_, address)| prefix.contains(*address));
        Subnet { prefix: prefix.trunc(), addresses: inside.map(|(at, address)| Address { address: *address, primary: at == 0 }).collect() }
    };
    Some(Interface { mac, primary, subnets: prefixes.iter().map(subnet).collect() })
}

fn texts<T>(object: Object<'_>, key: &str, read: impl Fn(Object<'_>) -> Option<T>) -> Vec<T> {
    object.list(key).unwrap_or_default().iter().filter_map(|value| read(Object::of(value)?)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn recorded_answers_are_read() {
        let interfaces = parse(include_bytes!("../../../../e2e/azure-examples/imds/network-from-docs.json")).unwrap();
        let own = Address { address: [10, 1, 0, 4].into(), primary: true };
        let subnet = Subnet { prefix: "10.1.0.0/24".parse().unwrap(), addresses: vec![own] };
        assert_eq!(interfaces, [Interface { mac: "000D3AF806EC".parse().unwrap(), primary: true, subnets: vec![subnet] }]);
    }

    #[test]
    fn the_first_address_is_the_machines_own() {
        let body =
            br#"{"interface":[{"macAddress":"000D3AF806EC","ipv4":{"ipAddress":[{"privateIpAddress":"10.1.0.4"},{"privateIpAddress":"X.X"},
            {"privateIpAddress":"10.1.0.9"}],"subnet":[{"address":"10.1.0.0","prefix":24}]}},{"macAddress":"?"}]}"#;
        let interfaces = parse(body).unwrap();
        let addresses: Vec<_> = interfaces[0].subnets[0].addresses.iter().map(|address| (address.address, address.primary)).collect();
        assert_eq!((interfaces.len(), addresses), (1, vec![([10, 1, 0, 4].into(), true), ([10, 1, 0, 9].into(), false)]));
        for body in [b"".as_slice(), b"[]", b"{\"interface\":1}", b"<html>"] {
            assert!(parse(body).is_err(), "{body:?}");
        }
    }

    proptest! {
        #[test]
        fn damaged_answers_are_refused_or_read_without_a_panic(at in any::<prop::sample::Index>(), with: Vec<u8>, cut in 0..40_usize) {
            let mut bytes = include_bytes!("../../../../e2e/azure-examples/imds/network-from-docs.json").to_vec();
            let at = at.index(bytes.len());
            bytes.splice(at..(at + cut).min(bytes.len()), with);
            let _ = parse(&bytes);
        }
    }
}
