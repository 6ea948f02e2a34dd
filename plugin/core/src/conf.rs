//! The network configuration on standard input. Keys count in any casing; unknown keys are ignored; fields of the original stay valid.

use std::{collections::BTreeSet, fmt, net::IpAddr};

use serde_json::Value;

use crate::{
    answer::{Answer, Dns},
    attachment::{Attachment, IfName, Mode, NetworkName},
    error::{CniError, Code},
    ipam::OwnIpam,
    json::{Object, TypeError},
    network::{self, NetworkConf},
    version::CniVersion,
};

/// `ipam.type` that is this project's own, and done in process.
pub const OWN_IPAM: &str = "azure-vnet-ipam";

/// Which of the two plugins reads the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `azure-vnet`: wires pods.
    Network,
    /// `azure-vnet-ipam`: leases addresses, for whichever plugin asks.
    Ipam,
}

/// `logLevel`: how much a plugin writes into its log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Failures.
    Error,
    /// What could not be done, and was no reason to fail.
    Warning,
    /// A line for every command.
    #[default]
    Info,
    /// With all variables of the command.
    Debug,
}

impl LogLevel {
    /// Reads the level of a configuration. What is no level is the default: the original took any text.
    #[must_use]
    pub fn of(stdin: &[u8]) -> Self {
        const KEY: &[u8] = b"logLevel";
        if !stdin.windows(KEY.len()).any(|part| part.eq_ignore_ascii_case(KEY)) {
            return Self::default();
        }
        let conf = serde_json::from_slice::<Value>(stdin).unwrap_or_default();
        let level = Object::of(&conf).and_then(|object| object.text("logLevel").ok().flatten());
        match level.map(str::to_ascii_lowercase).as_deref() {
            Some("error") => Self::Error,
            Some("warn" | "warning") => Self::Warning,
            Some("debug" | "trace") => Self::Debug,
            Some(_) | None => Self::Info,
        }
    }
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
            Self::Debug => "debug",
        })
    }
}

/// A configuration that ADD and CHECK can act on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetConf {
    /// The caller's version.
    pub version: CniVersion,
    /// The network's name.
    pub name: NetworkName,
    /// How pods are wired; for `azure-vnet-ipam` without meaning.
    pub mode: Mode,
    /// The host's uplink, where named.
    pub master: Option<IfName>,
    /// Addresses that the host is to route rather than the fabric; transparent mode routes all of them so.
    pub ips_to_route_via_host: Vec<IpAddr>,
    /// The bridge and what a runtime wants of the pod's link; for `azure-vnet-ipam` without meaning.
    pub network: NetworkConf,
    /// Where addresses come from.
    pub ipam: Ipam,
    /// Resolvers of the configuration.
    pub dns: Dns,
    /// What the plugins before this one, or ADD, answered.
    pub prev_result: Option<Answer>,
}

/// Where addresses come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ipam {
    /// The node store.
    Own(OwnIpam),
    /// Another plugin, by its name.
    Delegated(String),
}

/// What remains of a configuration where no field may be an error: DEL and error answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leniently {
    /// The caller's version, or the one that a configuration without a version means.
    pub version: CniVersion,
    /// `ipam.type`, where it names another plugin.
    pub delegate: Option<String>,
}

impl NetConf {
    /// Reads a configuration.
    ///
    /// # Errors
    /// A field cannot be acted on; the answer says which, and what to write.
    pub fn parse(value: &Value, role: Role) -> Result<Self, CniError> {
        let object = object(value)?;
        let version = version(object)?;
        Ok(Self {
            version,
            name: name(object)?,
            mode: match role {
                Role::Network => network::mode(object)?,
                Role::Ipam => Mode::Transparent,
            },
            master: master(object)?,
            ips_to_route_via_host: addresses(object, "ipsToRouteViaHost")?,
            network: match role {
                Role::Network => NetworkConf::parse(object)?,
                Role::Ipam => NetworkConf::default(),
            },
            ipam: ipam(object, role)?,
            dns: object.object("dns").and_then(|dns| dns.map_or(Ok(Dns::default()), Dns::parse)).map_err(wrong_type)?,
            prev_result: prev_result(object)?,
        })
    }
}

impl Leniently {
    /// Reads what can be read.
    #[must_use]
    pub fn parse(value: &Value) -> Self {
        let object = Object::of(value);
        let text = |object: Option<Object<'_>>, key: &str| object.and_then(|object| object.text(key).ok().flatten()).map(str::to_owned);
        let ipam = object.and_then(|object| object.object("ipam").ok().flatten());
        Self {
            version: text(object, "cniVersion").and_then(|text| text.parse().ok()).unwrap_or(CniVersion::UNSTATED),
            delegate: text(ipam, "type").filter(|name| name != OWN_IPAM),
        }
    }
}

/// The configuration of STATUS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusConf {
    /// The caller's version.
    pub version: CniVersion,
    /// The network's name.
    pub name: NetworkName,
    /// How pods are wired; for `azure-vnet-ipam` without meaning.
    pub mode: Mode,
    /// Where addresses come from.
    pub ipam: Ipam,
}

impl StatusConf {
    /// Reads a configuration.
    ///
    /// # Errors
    /// As [`NetConf::parse`]: with a configuration that ADD cannot act on, no ADD can succeed.
    pub fn parse(value: &Value, role: Role) -> Result<Self, CniError> {
        let NetConf { version, name, mode, ipam, .. } = NetConf::parse(value, role)?;
        Ok(Self { version, name, mode, ipam })
    }
}

/// The configuration of GC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConf {
    /// The caller's version.
    pub version: CniVersion,
    /// The network's name.
    pub name: NetworkName,
    /// `ipam.type`, where it names another plugin.
    pub delegate: Option<String>,
    /// GC: attachments that the runtime has.
    pub valid: BTreeSet<Attachment>,
}

impl NodeConf {
    /// Reads a configuration.
    ///
    /// # Errors
    /// As [`NetConf::parse`]; an attachment that cannot be read is one, since its lease would be freed.
    pub fn parse(value: &Value) -> Result<Self, CniError> {
        let object = object(value)?;
        let delegate = object.object("ipam").map_err(wrong_type)?.map(|ipam| ipam.text("type")).transpose().map_err(wrong_type)?.flatten();
        Ok(Self {
            version: version(object)?,
            name: name(object)?,
            delegate: delegate.filter(|name| *name != OWN_IPAM).map(str::to_owned),
            valid: object.list("cni.dev/valid-attachments").map_err(wrong_type)?.iter().map(attachment).collect::<Result<_, _>>()?,
        })
    }
}

fn object(value: &Value) -> Result<Object<'_>, CniError> {
    Object::of(value).ok_or_else(|| CniError::new(Code::Decode, "the network configuration is no JSON object"))
}

fn version(object: Object<'_>) -> Result<CniVersion, CniError> {
    let Some(text) = object.text("cniVersion").map_err(wrong_type)? else { return Ok(CniVersion::UNSTATED) };
    let all = CniVersion::ALL.map(CniVersion::as_str).join(", ");
    text.parse()
        .map_err(|error| CniError::because(Code::IncompatibleVersion, &error).with_details(format!("write one of {all} as cniVersion")))
}

fn name(object: Object<'_>) -> Result<NetworkName, CniError> {
    let Some(text) = object.text("name").map_err(wrong_type)? else {
        return Err(
            CniError::new(Code::InvalidConfig, "missing network name").with_details("write a \"name\" into the network configuration")
        );
    };
    text.parse().map_err(|error| invalid("name", &error))
}

fn master(object: Object<'_>) -> Result<Option<IfName>, CniError> {
    object.text("master").map_err(wrong_type)?.map(|name| name.parse().map_err(|error| invalid("master", &error))).transpose()
}

fn ipam(object: Object<'_>, role: Role) -> Result<Ipam, CniError> {
    let ipam = object.object("ipam").map_err(wrong_type)?;
    let kind = ipam.map(|ipam| ipam.text("type")).transpose().map_err(wrong_type)?.flatten();
    match (role, ipam, kind) {
        (Role::Ipam, Some(ipam), _) | (Role::Network, Some(ipam), Some(OWN_IPAM)) => {
            OwnIpam::parse(ipam, object, master(object)?).map(Ipam::Own)
        }
        (Role::Network, _, Some(other)) => Ok(Ipam::Delegated(other.to_owned())),
        (Role::Network | Role::Ipam, _, None) | (Role::Ipam, None, Some(_)) => {
            Err(CniError::new(Code::InvalidConfig, "the network configuration names no IPAM plugin")
                .with_details(format!("write \"ipam\": {{\"type\": \"{OWN_IPAM}\"}}")))
        }
    }
}

fn addresses(object: Object<'_>, key: &str) -> Result<Vec<IpAddr>, CniError> {
    object.texts(key).map_err(wrong_type)?.iter().map(|text| address(key, text)).collect()
}

fn address(key: &str, text: &str) -> Result<IpAddr, CniError> {
    text.parse().map_err(|_| invalid_text(key, text, "an address"))
}

fn prev_result(object: Object<'_>) -> Result<Option<Answer>, CniError> {
    let parse = |value| Answer::parse(value).map_err(|error| invalid("prevResult", &error));
    object.get("prevResult").map(parse).transpose()
}

fn attachment(value: &Value) -> Result<Attachment, CniError> {
    const KEY: &str = "cni.dev/valid-attachments";
    let object = Object::of(value).ok_or_else(|| invalid_text(KEY, &value.to_string(), "a list of objects"))?;
    let text = |key| object.text(key).map_err(wrong_type).map(Option::unwrap_or_default);
    Ok(Attachment {
        container: text("containerID")?.parse().map_err(|error| invalid(KEY, &error))?,
        if_name: text("ifname")?.parse().map_err(|error| invalid(KEY, &error))?,
    })
}

#[expect(clippy::needless_pass_by_value, reason = "so that it reads as map_err(wrong_type)")]
fn wrong_type(error: TypeError) -> CniError {
    CniError::because(Code::InvalidConfig, &error)
}

fn invalid(key: &str, error: &dyn std::error::Error) -> CniError {
    CniError::new(Code::InvalidConfig, format!("{key}: {error}"))
}

fn invalid_text(key: &str, text: &str, expected: &str) -> CniError {
    CniError::new(Code::InvalidConfig, format!("{key}: {text:?} is not {expected}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::ipam::{Services, Source};

    fn transparent() -> Value {
        json!({ "cniVersion": "1.0.0", "name": "azure", "mode": "transparent", "ipam": { "type": "azure-vnet-ipam", "environment": "pool" } })
    }

    fn with(key: &str, value: Value) -> Value {
        let mut conf = transparent();
        conf.as_object_mut().unwrap().insert(key.to_owned(), value);
        conf
    }

    fn error(conf: &Value) -> (u32, String) {
        let error = NetConf::parse(conf, Role::Network).unwrap_err();
        (error.code.number(), format!("{} | {}", error.msg, error.details))
    }

    #[test]
    fn keys_count_in_any_casing_and_the_exact_one_wins() {
        let conf = json!({ "CNIVersion": "0.3.0", "NAME": "no", "name": "azure", "Mode": "transparent", "IPAM": { "TYPE": "azure-vnet-ipam" },
                           "IPsToRouteViaHost": ["169.254.20.10", "fd00:20::10"], "DNS": { "Nameservers": ["10.0.0.10"] } });
        let conf = NetConf::parse(&conf, Role::Network).unwrap();
        assert_eq!((conf.version, conf.name.as_str(), conf.mode), (CniVersion::V0_3_0, "azure", Mode::Transparent));
        let Ipam::Own(own) = conf.ipam else { panic!("{:?}", conf.ipam) };
        assert_eq!(own.source, Source::Azure(Services::default()));
        assert_eq!((conf.ips_to_route_via_host.len(), conf.dns.nameservers.len()), (2, 1));
    }

    #[test]
    fn wrong_fields_are_named() {
        for (conf, code, part) in [
            (json!([]), 6, "no JSON object"),
            (with("cniVersion", json!("9.9.9")), 1, "9.9.9"),
            (with("name", Value::Null), 7, "missing network name"),
            (with("name", json!("a/b")), 7, "a/b"),
            (with("mode", json!(1)), 7, "\"mode\" is a number"),
            (with("ipam", json!({})), 7, "azure-vnet-ipam"),
            (with("ipam", json!({ "type": "azure-vnet-ipam", "environment": "ipv6NodeIpam" })), 2, "ipv6NodeIpam"),
            (with("ipam", json!({ "type": "azure-vnet-ipam", "ipAddress": "10.0.0" })), 7, "10.0.0"),
            (with("multiTenancy", json!(true)), 2, "multiTenancy"),
            (with("ipsToRouteViaHost", json!(["fd00::/64"])), 7, "ipsToRouteViaHost"),
            (with("prevResult", json!({ "ips": [{ "address": "x" }] })), 7, "prevResult"),
        ] {
            let (found, text) = error(&conf);
            assert!(found == code && text.contains(part), "{found} {text}");
        }
    }

    #[test]
    fn a_log_level_that_is_none_is_the_default() {
        let level = |conf: &str| LogLevel::of(conf.as_bytes());
        assert_eq!(level(r#"{"logLevel":"error"}"#), LogLevel::Error);
        assert_eq!(level(r#"{"logLevel":"warn"}"#), LogLevel::Warning);
        assert_eq!(level(r#"{"LOGLEVEL":"Debug"}"#), LogLevel::Debug);
        for conf in ["{}", r#"{"logLevel":7}"#, r#"{"logLevel":"loud"}"#, "logLevel"] {
            assert_eq!(level(conf), LogLevel::Info, "{conf}");
        }
    }

    #[test]
    fn another_ipam_plugin_is_delegated_to() {
        let conf = NetConf::parse(&with("ipam", json!({ "type": "host-local" })), Role::Network).unwrap();
        assert_eq!(conf.ipam, Ipam::Delegated("host-local".into()));
    }

    #[test]
    fn the_address_plugin_takes_any_plugins_configuration() {
        let conf = json!({ "cniVersion": "1.0.0", "name": "lan", "type": "ipvlan", "mode": "l2", "ipam": { "type": "azure-vnet-ipam" } });
        assert!(NetConf::parse(&conf, Role::Ipam).is_ok());
    }

    #[test]
    fn st10_at_del_no_field_is_an_error() {
        for conf in [json!(1), json!({ "cniVersion": 3, "ipam": 4, "mode": {} }), json!({ "cniVersion": "7" })] {
            assert_eq!(Leniently::parse(&conf), Leniently { version: CniVersion::UNSTATED, delegate: None });
        }
        assert_eq!(Leniently::parse(&json!({ "ipam": { "type": "host-local" } })).delegate, Some("host-local".into()));
    }

    #[test]
    fn a_valid_attachment_that_cannot_be_read_stops_gc() {
        let conf = |id: Value| json!({ "cniVersion": "1.1.0", "name": "azure", "cni.dev/valid-attachments": [{ "containerID": id, "ifname": "eth0" }] });
        assert_eq!(NodeConf::parse(&conf(json!("a"))).unwrap().valid.len(), 1);
        assert!(NodeConf::parse(&conf(json!("../a"))).is_err());
        assert!(NodeConf::parse(&conf(Value::Null)).is_err());
    }
}
