//! The `ipam` object of a configuration, and what else says which address an attachment is to get.

use std::{collections::BTreeSet, net::IpAddr, net::Ipv4Addr, time::Duration};

use ipnet::Ipv4Net;
use serde_json::Value;

use crate::{
    attachment::IfName,
    error::{CniError, Code},
    json::{Object, TypeError},
    source::{Wanted, endpoint::Endpoint, pace},
};

/// Settings of the node store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnIpam {
    /// `ipam.environment`.
    pub source: Source,
    /// `ipam.queryInterval`: how often the machine's own services are asked at most.
    pub query_interval: Duration,
    /// The subnet that addresses are to be of.
    pub wanted: Wanted,
    /// This address or none.
    pub requested: Option<Ipv4Addr>,
}

/// `ipam.environment`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The agent's pool and nothing else.
    Pool,
    /// The agent's pool where one is sealed in this boot, else what the machine's own services say.
    Azure(Services),
    /// The agent's pool where one is sealed in this boot, else the file of interfaces.
    File,
}

/// Where the configuration says that the machine's own services are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Services {
    /// `ipam.wireserverEndpoint`.
    pub wireserver: Option<Endpoint>,
    /// `ipam.imdsEndpoint`.
    pub imds: Option<Endpoint>,
}

impl OwnIpam {
    /// Reads the `ipam` object, and what the runtime adds to it in the `whole` configuration.
    ///
    /// # Errors
    /// A field cannot be acted on; the answer says which, and what to write.
    pub(crate) fn parse(ipam: Object<'_>, whole: Object<'_>, master: Option<IfName>) -> Result<Self, CniError> {
        let subnet = text(ipam, "subnet", "ipam.subnet", "a prefix such as 10.240.0.0/16", |text| text.parse::<Ipv4Net>().ok())?;
        if let Some(space) = ipam.text("addressSpace").map_err(wrong_type)?.filter(|space| *space != "local") {
            return Err(unsupported("ipam.addressSpace", space, "write \"local\", or leave it out"));
        }
        if let Some(mode) = ipam.text("mode").map_err(wrong_type)? {
            let remedy = "leave it out: pods get addresses of the VNET itself; an overlay of other addresses needs Azure's own add-on";
            return Err(unsupported("ipam.mode", mode, remedy));
        }
        let own = text(ipam, "ipAddress", "ipam.ipAddress", "an IPv4 address", |text| text.parse().ok())?;
        Ok(Self {
            source: source(ipam)?,
            query_interval: interval(ipam),
            wanted: Wanted { prefix: subnet, link: master },
            requested: one_of(&by_runtime(whole)?)?.or(own),
        })
    }

    /// Takes in the address that `CNI_ARGS` asks for.
    ///
    /// # Errors
    /// It is none, or another than the configuration asks for.
    pub(crate) fn asked_by_arguments(&mut self, text: &str, whole: Object<'_>) -> Result<(), CniError> {
        let mut addresses = by_runtime(whole)?;
        for part in text.split(',').filter(|part| !part.is_empty()) {
            addresses.insert(address("CNI_ARGS IP", part)?);
        }
        self.requested = one_of(&addresses)?.or(self.requested);
        Ok(())
    }
}

fn source(ipam: Object<'_>) -> Result<Source, CniError> {
    const AGENT: &str = "write \"pool\" where an agent keeps the node's pool, or leave it out";
    const KEY: &str = "ipam.environment";
    match ipam.text("environment").map_err(wrong_type)? {
        Some("pool") => Ok(Source::Pool),
        Some("mas" | "fileIpam") => Ok(Source::File),
        None | Some("azure") => {
            let endpoint =
                |key: &str| text(ipam, key, &format!("ipam.{key}"), "of the form http://address[:port]", |text| text.parse().ok());
            Ok(Source::Azure(Services { wireserver: endpoint("wireserverEndpoint")?, imds: endpoint("imdsEndpoint")? }))
        }
        Some(ipv6 @ "ipv6NodeIpam") => {
            Err(unsupported(KEY, ipv6, "pods get IPv4 addresses only: remove this ipam entry, and ipv6Mode with it"))
        }
        Some(other) => Err(unsupported(KEY, other, AGENT)),
    }
}

/// What is no positive number of seconds has always meant the default.
fn interval(ipam: Object<'_>) -> Duration {
    let seconds = match ipam.get("queryInterval") {
        Some(Value::String(text)) => text.trim().parse().ok(),
        Some(Value::Number(number)) => number.as_u64(),
        Some(Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_)) | None => None,
    };
    seconds.filter(|seconds| *seconds > 0).map_or(pace::DEFAULT_INTERVAL, Duration::from_secs)
}

/// `runtimeConfig.ips` and `args.cni.ips`, by the conventions.
fn by_runtime(whole: Object<'_>) -> Result<BTreeSet<Ipv4Addr>, CniError> {
    let mut addresses = BTreeSet::new();
    let args = whole.object("args").map_err(wrong_type)?.map(|args| args.object("cni")).transpose().map_err(wrong_type)?.flatten();
    let runtime = whole.object("runtimeConfig").map_err(wrong_type)?;
    for (key, object) in [("args.cni.ips", args), ("runtimeConfig.ips", runtime)] {
        for text in object.map(|object| object.texts("ips")).transpose().map_err(wrong_type)?.unwrap_or_default() {
            addresses.insert(address(key, &text)?);
        }
    }
    Ok(addresses)
}

/// An address, with or without the length of a prefix, as the conventions allow.
fn address(key: &str, text: &str) -> Result<Ipv4Addr, CniError> {
    match text.split_once('/').map_or(text, |(address, _)| address).trim().parse() {
        Ok(IpAddr::V4(address)) => Ok(address),
        Ok(IpAddr::V6(_)) => Err(unsupported(key, text, "pods get IPv4 addresses only")),
        Err(_) => Err(invalid(key, text, "an IPv4 address")),
    }
}

fn one_of(addresses: &BTreeSet<Ipv4Addr>) -> Result<Option<Ipv4Addr>, CniError> {
    if addresses.len() > 1 {
        let list = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        return Err(CniError::new(Code::InvalidConfig, format!("several addresses are asked for: {list}"))
            .with_details("ask for one, in one of runtimeConfig.ips, args.cni.ips and the IP of CNI_ARGS"));
    }
    Ok(addresses.first().copied())
}

fn text<T>(object: Object<'_>, key: &str, name: &str, expected: &str, parse: impl Fn(&str) -> Option<T>) -> Result<Option<T>, CniError> {
    let Some(text) = object.text(key).map_err(wrong_type)? else { return Ok(None) };
    parse(text).map(Some).ok_or_else(|| invalid(name, text, expected))
}

#[expect(clippy::needless_pass_by_value, reason = "so that it reads as map_err(wrong_type)")]
fn wrong_type(error: TypeError) -> CniError {
    CniError::because(Code::InvalidConfig, &error)
}

fn invalid(key: &str, text: &str, expected: &str) -> CniError {
    CniError::new(Code::InvalidConfig, format!("{key}: {text:?} is not {expected}"))
}

fn unsupported(key: &str, value: &str, remedy: &str) -> CniError {
    CniError::new(Code::UnsupportedField, format!("{key}: {value:?} is not supported")).with_details(remedy)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(ipam: &Value, whole: &Value) -> Result<OwnIpam, CniError> {
        OwnIpam::parse(Object::of(ipam).unwrap(), Object::of(whole).unwrap(), None)
    }

    #[test]
    fn every_source_of_the_original_is_known_or_refused_by_name() {
        let source = |name: &str| parse(&json!({ "environment": name }), &json!({})).map(|own| own.source);
        assert_eq!(source("pool"), Ok(Source::Pool));
        for name in ["", "azure"] {
            assert_eq!(source(name), Ok(Source::Azure(Services::default())));
        }
        for name in ["mas", "fileIpam"] {
            assert_eq!(source(name), Ok(Source::File));
        }
        for name in ["ipv6NodeIpam", "null", "aws"] {
            let error = source(name).unwrap_err();
            assert!(error.code == Code::UnsupportedField && error.msg.contains(name) && !error.details.is_empty(), "{error:?}");
        }
        let error = parse(&json!({ "addressSpace": "global" }), &json!({})).unwrap_err();
        assert!(error.msg.contains("addressSpace"), "{error:?}");
    }

    #[test]
    fn an_overlay_of_other_addresses_is_refused_by_name() {
        for mode in ["overlay", "v4overlay", "dualStackOverlay"] {
            let error = parse(&json!({ "mode": mode }), &json!({})).unwrap_err();
            assert_eq!((error.code, error.msg), (Code::UnsupportedField, format!("ipam.mode: {mode:?} is not supported")));
            assert!(error.details.contains("leave it out"), "{}", error.details);
        }
        assert!(parse(&json!({ "mode": "" }), &json!({})).is_ok(), "as the original's default is written");
    }

    #[test]
    fn an_interval_is_a_positive_number_of_seconds_or_the_default() {
        let interval = |value: Value| parse(&json!({ "queryInterval": value }), &json!({})).unwrap().query_interval.as_secs();
        assert_eq!([json!("30"), json!(7), json!("x"), json!("0"), json!(-1), Value::Null].map(interval), [30, 7, 10, 10, 10, 10]);
    }

    #[test]
    fn endpoints_are_the_configurations() {
        let own = parse(&json!({ "wireserverEndpoint": "http://127.0.0.1:81" }), &json!({})).unwrap();
        assert_eq!(own.source, Source::Azure(Services { wireserver: "http://127.0.0.1:81".parse().ok(), imds: None }));
        assert!(parse(&json!({ "imdsEndpoint": "https://x" }), &json!({})).unwrap_err().msg.contains("ipam.imdsEndpoint"));
    }

    #[test]
    fn what_the_runtime_asks_for_comes_before_what_the_file_says() {
        let ipam = json!({ "ipAddress": "10.0.0.5" });
        let requested = |whole: Value, arguments: Option<&str>| {
            let mut own = parse(&ipam, &whole)?;
            arguments.map_or(Ok(()), |text| own.asked_by_arguments(text, Object::of(&whole).unwrap()))?;
            Ok(own.requested.map(|address| address.to_string()).unwrap_or_default())
        };
        let message = |result: Result<String, CniError>| result.unwrap_err().msg;
        assert_eq!(requested(json!({}), None), Ok("10.0.0.5".into()));
        assert_eq!(requested(json!({ "runtimeConfig": { "ips": ["10.0.0.6/16"] } }), None), Ok("10.0.0.6".into()));
        assert_eq!(requested(json!({ "args": { "cni": { "ips": ["10.0.0.7"] } } }), None), Ok("10.0.0.7".into()));
        assert_eq!(requested(json!({}), Some("10.0.0.8")), Ok("10.0.0.8".into()));
        assert_eq!(requested(json!({ "runtimeConfig": { "ips": ["10.0.0.8"] } }), Some("10.0.0.8/24")), Ok("10.0.0.8".into()));
        assert!(message(requested(json!({ "runtimeConfig": { "ips": ["10.0.0.8"] } }), Some("10.0.0.9"))).contains("several"));
        assert!(message(requested(json!({ "runtimeConfig": { "ips": ["fd00::1"] } }), None)).contains("fd00::1"));
        assert!(message(requested(json!({}), Some("x"))).contains("CNI_ARGS IP"));
    }
}
