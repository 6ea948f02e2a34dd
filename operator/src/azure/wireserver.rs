//! The host agent ("wireserver"): the addresses of this machine's NICs, sooner than anybody else knows.
//! Asked as root, from the host's namespace and primary address, never through a proxy. Its format is not documented: read tolerantly.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use http::{Method, Request};
use ipnet::Ipv4Net;
use quick_xml::{Reader, events::BytesStart, events::Event};
use reqwest::Url;

use super::{
    endpoint::Endpoints,
    imds::canonical_mac,
    transport::{ClientError, Http, SharedTransport, TransportError},
};

const ANSWER: Duration = Duration::from_secs(5);

/// The host agent as this machine sees it.
#[derive(Clone)]
pub struct Wireserver {
    base: Url,
    transport: SharedTransport,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireserverError {
    /// Also what a call as another user than root looks like.
    #[error("the host agent does not answer")]
    Unreachable(#[source] TransportError),
    /// A status other than 200, or one of its own under 200.
    #[error("the host agent answers {code}: {message}")]
    Refused {
        /// Its code.
        code: String,
        /// Its message.
        message: String,
    },
    /// Not what it should be.
    #[error("cannot read the answer of the host agent: {0}")]
    Unreadable(String),
}

/// A NIC.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Lower case with colons; none where the agent writes a wildcard.
    pub mac: Option<String>,
    /// Whether it is the machine's primary NIC.
    pub primary: bool,
    /// Its subnets.
    pub subnets: Vec<Subnet>,
}

/// A subnet of a NIC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// Its prefix.
    pub prefix: Ipv4Net,
    /// The NIC's addresses in it.
    pub addresses: Vec<Address>,
}

/// An address of a NIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The address.
    pub address: Ipv4Addr,
    /// Whether it is the node's own.
    pub primary: bool,
}

impl Wireserver {
    /// A client; nothing is asked yet.
    ///
    /// # Errors
    /// The HTTP client cannot be set up.
    pub fn new(endpoints: &Endpoints) -> Result<Self, ClientError> {
        Ok(Self { base: endpoints.wireserver.clone(), transport: Arc::new(Http::local()?) })
    }

    /// A client over another transport.
    #[must_use]
    pub fn with_transport(base: Url, transport: SharedTransport) -> Self {
        Self { base, transport }
    }

    /// The machine's NICs.
    ///
    /// # Errors
    /// No answer, or an unusable one.
    pub async fn interfaces(&self) -> Result<Vec<Interface>, WireserverError> {
        let mut url = self.base.clone();
        url.set_path("/machine/plugins");
        url.query_pairs_mut().append_pair("comp", "nmagent").append_pair("type", "getinterfaceinfov1");
        let request = Request::builder().method(Method::GET).uri(url.as_str()).body(Vec::new());
        let request = request.map_err(|error| WireserverError::Unreadable(error.to_string()))?;
        let answer = self.transport.send(request, ANSWER).await.map_err(WireserverError::Unreachable)?;
        if !answer.status().is_success() {
            return Err(refusal(answer.body()).unwrap_or_else(|| refused(answer.status().as_str(), "")));
        }
        parse(answer.body())
    }
}

/// Reads an answer to `getinterfaceinfov1`.
///
/// # Errors
/// An error of the agent's, in its XML or (under HTTP 200) in its JSON form; or none of these.
pub fn parse(body: &[u8]) -> Result<Vec<Interface>, WireserverError> {
    let text = std::str::from_utf8(body).map_err(|error| WireserverError::Unreadable(error.to_string()))?;
    let text = text.trim_start_matches('\u{feff}').trim_start();
    if let Some(error) = refusal(text.as_bytes()) {
        return Err(error);
    }
    let mut reader = Reader::from_str(text);
    let mut interfaces: Option<Vec<Interface>> = None;
    loop {
        match reader.read_event().map_err(|error| WireserverError::Unreadable(error.to_string()))? {
            Event::Eof => break,
            Event::Start(tag) | Event::Empty(tag) => element(&tag, &mut interfaces)?,
            Event::End(_)
            | Event::Text(_)
            | Event::CData(_)
            | Event::Comment(_)
            | Event::Decl(_)
            | Event::PI(_)
            | Event::DocType(_)
            | Event::GeneralRef(_) => {}
        }
    }
    interfaces.ok_or_else(|| WireserverError::Unreadable("no Interfaces in it".to_owned()))
}

/// Takes one element in. Addresses that are none of ours (IPv6, say) are left out, and with them what they stand in.
fn element(tag: &BytesStart<'_>, interfaces: &mut Option<Vec<Interface>>) -> Result<(), WireserverError> {
    match tag.local_name().as_ref() {
        "Interfaces" => *interfaces = Some(interfaces.take().unwrap_or_default()),
        "Interface" => {
            let interface =
                Interface { mac: attribute(tag, "MacAddress")?.as_deref().and_then(canonical_mac), primary: truth(tag)?, subnets: vec![] };
            interfaces.as_mut().ok_or_else(misplaced)?.push(interface);
        }
        "IPSubnet" => {
            let text: String = attribute(tag, "Prefix")?.unwrap_or_default().split_whitespace().collect();
            let prefix = text.parse::<Ipv4Net>().unwrap_or_default().trunc();
            last(interfaces)?.subnets.push(Subnet { prefix, addresses: vec![] });
        }
        "IPAddress" => {
            let primary = truth(tag)?;
            let text = attribute(tag, "Address")?.unwrap_or_default();
            let subnet = last(interfaces)?.subnets.last_mut().ok_or_else(misplaced)?;
            if let Ok(address) = text.trim().parse() {
                subnet.addresses.push(Address { address, primary });
            }
        }
        _ => {}
    }
    Ok(())
}

fn last(interfaces: &mut Option<Vec<Interface>>) -> Result<&mut Interface, WireserverError> {
    interfaces.as_mut().and_then(|list| list.last_mut()).ok_or_else(misplaced)
}

fn misplaced() -> WireserverError {
    WireserverError::Unreadable("an element stands outside its parent".to_owned())
}

fn truth(tag: &BytesStart<'_>) -> Result<bool, WireserverError> {
    Ok(attribute(tag, "IsPrimary")?.is_some_and(|text| text.trim().eq_ignore_ascii_case("true")))
}

fn attribute(tag: &BytesStart<'_>, name: &str) -> Result<Option<String>, WireserverError> {
    let unreadable = |error: &dyn std::error::Error| WireserverError::Unreadable(error.to_string());
    for attribute in tag.attributes() {
        let attribute = attribute.map_err(|error| unreadable(&error))?;
        if attribute.key.local_name().as_ref().eq_ignore_ascii_case(name) {
            return Ok(Some(attribute.value.into_owned()));
        }
    }
    Ok(None)
}

/// The agent's errors. Their XML is not always well-formed, so the two texts are cut out.
fn refusal(body: &[u8]) -> Option<WireserverError> {
    let text = std::str::from_utf8(body).ok()?;
    if text.trim_start().starts_with('{') {
        let value: serde_json::Value = serde_json::from_slice(body).ok()?;
        let code = value.get("httpStatusCode")?;
        return Some(refused(code.as_str().unwrap_or(&code.to_string()), ""));
    }
    let cut = |tag: &str| {
        let (_, rest) = text.split_once(&format!("<{tag}>"))?;
        Some(rest.split_once(&format!("</{tag}>"))?.0.trim())
    };
    text.contains("<Error").then(|| refused(cut("Code").unwrap_or("an error"), cut("Message").unwrap_or_default()))
}

fn refused(code: &str, message: &str) -> WireserverError {
    let short = |text: &str| text.chars().filter(|c| !c.is_control()).take(200).collect();
    WireserverError::Refused { code: short(code), message: short(message) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spaces_and_case_do_not_matter() {
        let xml = r#"<Interfaces><Interface MacAddress="000d3a51c490" IsPrimary="True"><IPSubnet Prefix="10.0.0.0 / 24">
            <IPAddress Address=" 10.0.0.4" IsPrimary="TRUE"/><IPAddress Address="fd00::4" IsPrimary="false"/></IPSubnet></Interface></Interfaces>"#;
        let subnet = Subnet {
            prefix: "10.0.0.0/24".parse().unwrap(),
            addresses: vec![Address { address: "10.0.0.4".parse().unwrap(), primary: true }],
        };
        let interface = Interface { mac: Some("00:0d:3a:51:c4:90".into()), primary: true, subnets: vec![subnet] };
        assert_eq!(parse(xml.as_bytes()), Ok(vec![interface]));
    }

    #[test]
    fn errors_in_every_disguise() {
        assert!(matches!(parse(br#"{"httpStatusCode":"401"}"#), Err(WireserverError::Refused { code, .. }) if code == "401"));
        assert!(matches!(parse(b"<html></html>"), Err(WireserverError::Unreadable(_))));
        assert!(matches!(parse(b""), Err(WireserverError::Unreadable(_))));
        assert!(matches!(parse(b"\xff\xfe"), Err(WireserverError::Unreadable(_))));
        assert!(matches!(parse(br#"<Interfaces><IPAddress Address="10.0.0.1"/></Interfaces>"#), Err(WireserverError::Unreadable(_))));
        assert_eq!(parse(b"<Interfaces/>"), Ok(vec![]));
    }
}
