//! The instance metadata service: who this machine is, which addresses its NICs have.
//! Asked from the host's network namespace, never through a proxy, and not repeated: the pace is the caller's.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use http::{Method, Request};
use ipnet::Ipv4Net;
use reqwest::Url;
use serde::{Deserialize, Deserializer};

use super::{
    endpoint::Endpoints,
    transport::{ClientError, Http, SharedTransport, TransportError},
};

/// A version that every region serves and that has all fields read here.
const VERSION: &str = "2021-02-01";
/// Time for a whole answer; a healthy service takes milliseconds.
const ANSWER: Duration = Duration::from_secs(5);

/// The service as this machine sees it.
#[derive(Clone)]
pub struct Imds {
    base: Url,
    transport: SharedTransport,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImdsError {
    /// Also what a call from a secondary address, or through masquerading gone wrong, looks like.
    #[error("the instance metadata service does not answer")]
    Unreachable(#[source] TransportError),
    /// A status other than 200.
    #[error("the instance metadata service answers {status}: {text}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// Its `error`.
        text: String,
    },
    /// Not what it should be.
    #[error("cannot read the answer of the instance metadata service: {0}")]
    Unreadable(String),
}

/// The machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Instance {
    /// What it is.
    pub compute: Compute,
    /// Its NICs.
    pub network: Network,
}

/// What the machine is. Absent values are empty, as the service has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Compute {
    /// `AzurePublicCloud`, `AzureUSGovernmentCloud`, …, in any case.
    pub az_environment: String,
    /// The region.
    pub location: String,
    /// The machine's name in Azure, which is not the node's.
    pub name: String,
    /// Resource group.
    pub resource_group_name: String,
    /// Resource id of the VM or of the scale set's instance.
    pub resource_id: String,
    /// Subscription.
    pub subscription_id: String,
    /// Unique; changes with the machine, not with its boot.
    pub vm_id: String,
    /// Scale set, if in one.
    pub vm_scale_set_name: String,
    /// Size.
    pub vm_size: String,
}

/// The machine's NICs, in no guaranteed order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Network {
    /// Each NIC.
    #[serde(rename = "interface")]
    pub interfaces: Vec<Interface>,
}

impl Network {
    /// The NIC with a MAC, written in any way.
    #[must_use]
    pub fn by_mac(&self, mac: &str) -> Option<&Interface> {
        let wanted = canonical_mac(mac)?;
        self.interfaces.iter().find(|interface| interface.mac == wanted)
    }
}

/// A NIC.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "RawInterface")]
pub struct Interface {
    /// Lower case with colons.
    pub mac: String,
    /// Its private IPv4 addresses, the primary first.
    pub addresses: Vec<Ipv4Addr>,
    /// Their subnets.
    pub subnets: Vec<Ipv4Net>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawInterface {
    mac_address: String,
    ipv4: RawIpv4,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawIpv4 {
    ip_address: Vec<RawAddress>,
    subnet: Vec<RawSubnet>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawAddress {
    private_ip_address: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawSubnet {
    address: String,
    #[serde(deserialize_with = "text")]
    prefix: String,
}

/// The service writes every number as text; others who speak its language do not.
fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Text(String),
        Number(u64),
    }
    Ok(match Either::deserialize(deserializer)? {
        Either::Text(text) => text,
        Either::Number(number) => number.to_string(),
    })
}

impl From<RawInterface> for Interface {
    /// Skips what is no address: the documents themselves print placeholders.
    fn from(RawInterface { mac_address, ipv4: RawIpv4 { ip_address, subnet } }: RawInterface) -> Self {
        let subnets = subnet.iter().filter_map(|RawSubnet { address, prefix }| format!("{address}/{prefix}").parse().ok());
        Self {
            mac: canonical_mac(&mac_address).unwrap_or(mac_address),
            addresses: ip_address.iter().filter_map(|RawAddress { private_ip_address }| private_ip_address.parse().ok()).collect(),
            subnets: subnets.collect(),
        }
    }
}

/// Lower case with colons, from any of `000D3A51C490`, `00-0D-3A-51-C4-90`, `00:0d:3a:51:c4:90`.
#[must_use]
pub fn canonical_mac(text: &str) -> Option<String> {
    let digits: String = text.chars().filter(|c| !matches!(c, ':' | '-')).collect::<String>().to_ascii_lowercase();
    if digits.len() != 12 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let pairs: Vec<String> = digits.chars().collect::<Vec<_>>().chunks(2).map(|pair| pair.iter().collect()).collect();
    Some(pairs.join(":"))
}

impl Imds {
    /// A client; nothing is asked yet.
    ///
    /// # Errors
    /// The HTTP client cannot be set up.
    pub fn new(endpoints: &Endpoints) -> Result<Self, ClientError> {
        Ok(Self { base: endpoints.imds.clone(), transport: Arc::new(Http::local()?) })
    }

    /// A client over another transport.
    #[must_use]
    pub fn with_transport(base: Url, transport: SharedTransport) -> Self {
        Self { base, transport }
    }

    /// The machine with its NICs.
    ///
    /// # Errors
    /// No answer, or an unusable one.
    pub async fn instance(&self) -> Result<Instance, ImdsError> {
        parse_instance(&self.get("/metadata/instance").await?)
    }

    /// Its NICs only.
    ///
    /// # Errors
    /// No answer, or an unusable one.
    pub async fn network(&self) -> Result<Network, ImdsError> {
        parse_network(&self.get("/metadata/instance/network").await?)
    }

    async fn get(&self, path: &str) -> Result<Vec<u8>, ImdsError> {
        let mut url = self.base.clone();
        url.set_path(path);
        url.query_pairs_mut().append_pair("api-version", VERSION).append_pair("format", "json");
        let request = Request::builder().method(Method::GET).uri(url.as_str()).header("Metadata", "true").body(Vec::new());
        let request = request.map_err(|error| ImdsError::Unreadable(error.to_string()))?;
        let answer = self.transport.send(request, ANSWER).await.map_err(ImdsError::Unreachable)?;
        if answer.status().is_success() {
            return Ok(answer.into_body());
        }
        Err(ImdsError::Refused { status: answer.status().as_u16(), text: parse_error(answer.body()) })
    }
}

/// Reads `/metadata/instance`.
///
/// # Errors
/// Not that.
pub fn parse_instance(body: &[u8]) -> Result<Instance, ImdsError> {
    parse(body)
}

/// Reads `/metadata/instance/compute`.
///
/// # Errors
/// Not that.
pub fn parse_compute(body: &[u8]) -> Result<Compute, ImdsError> {
    parse(body)
}

/// Reads `/metadata/instance/network`.
///
/// # Errors
/// Not that.
pub fn parse_network(body: &[u8]) -> Result<Network, ImdsError> {
    parse(body)
}

/// Reads what it says of a refused request.
#[must_use]
pub fn parse_error(body: &[u8]) -> String {
    let value: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let text = value.get("error").and_then(serde_json::Value::as_str).unwrap_or("no reason given");
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

fn parse<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, ImdsError> {
    serde_json::from_slice(body).map_err(|error| ImdsError::Unreadable(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn macs_in_every_spelling() {
        for text in ["000D3A51C490", "00-0D-3A-51-C4-90", "00:0d:3a:51:c4:90"] {
            assert_eq!(canonical_mac(text).as_deref(), Some("00:0d:3a:51:c4:90"));
        }
        assert_eq!(canonical_mac("*"), None);
        assert_eq!(canonical_mac("000D3A51C49é"), None);
    }
}
