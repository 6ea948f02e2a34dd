//! The file of interfaces that Azure Stack's tools write (`mas`, `fileIpam`).

use serde_json::Value;

use super::{Address, Interface, MacPattern, Subnet};
use crate::json::Object;

/// Why the file says nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it cannot be read: {0}")]
pub struct Unreadable(String);

/// Reads the file. Interfaces, subnets and addresses that cannot be understood are left out, duplicates count once.
///
/// # Errors
/// It is no list of interfaces.
pub fn parse(content: &[u8]) -> Result<Vec<Interface>, Unreadable> {
    let content = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content);
    let value: Value = serde_json::from_slice(content).map_err(|error| Unreadable(error.to_string()))?;
    let object = Object::of(&value).ok_or_else(|| Unreadable("it is no JSON object".to_owned()))?;
    let interfaces = object.list("Interfaces").map_err(|error| Unreadable(error.to_string()))?;
    Ok(interfaces.iter().filter_map(|value| interface(Object::of(value)?)).collect())
}

fn interface(object: Object<'_>) -> Option<Interface> {
    let mac = object.text("MacAddress").ok()??.parse::<MacPattern>().ok()?;
    let subnets = object.list("IPSubnets").ok()?.iter().filter_map(|value| subnet(Object::of(value)?));
    Some(Interface { mac, primary: object.flag("IsPrimary").unwrap_or_default(), subnets: subnets.collect() })
}

fn subnet(object: Object<'_>) -> Option<Subnet> {
    let prefix = object.text("Prefix").ok()??.parse::<ipnet::Ipv4Net>().ok()?.trunc();
    let mut addresses: Vec<Address> = Vec::new();
    for value in object.list("IPAddresses").ok()? {
        let Some(address) = Object::of(value).and_then(address) else { continue };
        if prefix.contains(&address.address) && addresses.iter().all(|other| other.address != address.address) {
            addresses.push(address);
        }
    }
    Some(Subnet { prefix, addresses })
}

fn address(object: Object<'_>) -> Option<Address> {
    Some(Address { address: object.text("Address").ok()??.parse().ok()?, primary: object.flag("IsPrimary").unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FILE: &str = r#"{"Interfaces":[{"MacAddress":"000D3A6E1825","IsPrimary":true,"IPSubnets":[
        {"Prefix":"1.0.0.0/12","IPAddresses":[{"Address":"1.0.0.4","IsPrimary":true},{"Address":"1.0.0.5","IsPrimary":false},
        {"Address":"1.0.0.5"},{"Address":"1.0.0"},{"Address":"2.0.0.5"},{"Address":"1.0.0.6"}]},{"Prefix":"nonsense","IPAddresses":[]}]},
        {"MacAddress":"?"}]}"#;

    #[test]
    fn what_can_be_used_is_read_and_the_rest_is_left_out() {
        let address = |last, primary| Address { address: [1, 0, 0, last].into(), primary };
        let subnet =
            Subnet { prefix: "1.0.0.0/12".parse().unwrap(), addresses: vec![address(4, true), address(5, false), address(6, false)] };
        assert_eq!(
            parse(FILE.as_bytes()),
            Ok(vec![Interface { mac: "000D3A6E1825".parse().unwrap(), primary: true, subnets: vec![subnet] }])
        );
        for content in ["", "[]", "{\"Interfaces\":{}}"] {
            assert!(parse(content.as_bytes()).is_err(), "{content}");
        }
    }

    proptest! {
        #[test]
        fn damaged_files_are_refused_or_read_without_a_panic(at in any::<prop::sample::Index>(), with: Vec<u8>, cut in 0..40_usize) {
            let mut bytes = FILE.as_bytes().to_vec();
            let at = at.index(bytes.len());
            bytes.splice(at..(at + cut).min(bytes.len()), with);
            let _ = parse(&bytes);
        }
    }
}
