//! The host agent's answer to `getinterfaceinfov1`. Its format is not documented: read tolerantly.

use ipnet::Ipv4Net;
use quick_xml::{
    Reader,
    events::{BytesStart, Event},
};

use super::{Address, Interface, MacPattern, Subnet};

/// Path and query of the question.
pub const QUESTION: &str = "/machine/plugins?comp=nmagent&type=getinterfaceinfov1";

/// Why there is nothing to learn from an answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// An error of the agent's own.
    #[error("it answers {code}: {message}")]
    Refused {
        /// Its code.
        code: String,
        /// Its message.
        message: String,
    },
    /// Not what it should be.
    #[error("its answer cannot be read: {0}")]
    Unreadable(String),
}

/// Reads an answer. Interfaces without a hardware address, subnets without a prefix, and addresses that are none or lie outside are left out.
///
/// # Errors
/// An error of the agent's, in its XML or (under HTTP 200) in its JSON form; or none of these.
pub fn parse(body: &[u8]) -> Result<Vec<Interface>, AnswerError> {
    let text = std::str::from_utf8(body).map_err(|error| AnswerError::Unreadable(error.to_string()))?;
    let text = text.trim_start_matches('\u{feff}').trim_start();
    if let Some(error) = refusal(text) {
        return Err(error);
    }
    let mut reader = Reader::from_str(text);
    let mut found: Option<Found> = None;
    loop {
        match reader.read_event().map_err(|error| AnswerError::Unreadable(error.to_string()))? {
            Event::Eof => break,
            Event::Start(tag) | Event::Empty(tag) => element(&tag, &mut found)?,
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
    found.map(Found::finish).ok_or_else(|| AnswerError::Unreadable("there are no Interfaces in it".to_owned()))
}

/// What was read so far; `None` stands for what is left out, so that its children are, too.
#[derive(Default)]
struct Found(Vec<Option<(Interface, Vec<Option<Subnet>>)>>);

impl Found {
    fn finish(self) -> Vec<Interface> {
        let whole = |(interface, subnets): (Interface, Vec<Option<Subnet>>)| Interface {
            subnets: subnets.into_iter().flatten().collect(),
            ..interface
        };
        self.0.into_iter().flatten().map(whole).collect()
    }
}

fn element(tag: &BytesStart<'_>, found: &mut Option<Found>) -> Result<(), AnswerError> {
    match tag.local_name().as_ref() {
        "Interfaces" => *found = Some(found.take().unwrap_or_default()),
        "Interface" => {
            let mac = attribute(tag, "MacAddress")?.and_then(|text| text.parse::<MacPattern>().ok());
            let primary = truth(tag)?;
            let interface = mac.map(|mac| (Interface { mac, primary, subnets: Vec::new() }, Vec::new()));
            found.as_mut().ok_or_else(misplaced)?.0.push(interface);
        }
        "IPSubnet" => {
            let text: String = attribute(tag, "Prefix")?.unwrap_or_default().split_whitespace().collect();
            if let Some((_, subnets)) = last(found)? {
                let prefix = text.parse::<Ipv4Net>().ok();
                subnets.push(prefix.map(|prefix| Subnet { prefix: prefix.trunc(), addresses: Vec::new() }));
            }
        }
        "IPAddress" => {
            let (primary, text) = (truth(tag)?, attribute(tag, "Address")?.unwrap_or_default());
            let Some((_, subnets)) = last(found)? else { return Ok(()) };
            let Some(subnet) = subnets.last_mut().ok_or_else(misplaced)? else { return Ok(()) };
            if let Some(address) = text.trim().parse().ok().filter(|address| subnet.prefix.contains(address)) {
                subnet.addresses.push(Address { address, primary });
            }
        }
        _ => {}
    }
    Ok(())
}

type Open = Option<(Interface, Vec<Option<Subnet>>)>;

fn last(found: &mut Option<Found>) -> Result<&mut Open, AnswerError> {
    found.as_mut().and_then(|found| found.0.last_mut()).ok_or_else(misplaced)
}

fn misplaced() -> AnswerError {
    AnswerError::Unreadable("an element stands outside its parent".to_owned())
}

fn truth(tag: &BytesStart<'_>) -> Result<bool, AnswerError> {
    Ok(attribute(tag, "IsPrimary")?.is_some_and(|text| text.trim().eq_ignore_ascii_case("true")))
}

fn attribute(tag: &BytesStart<'_>, name: &str) -> Result<Option<String>, AnswerError> {
    for attribute in tag.attributes() {
        let attribute = attribute.map_err(|error| AnswerError::Unreadable(error.to_string()))?;
        if attribute.key.local_name().as_ref().eq_ignore_ascii_case(name) {
            return Ok(Some(attribute.value.into_owned()));
        }
    }
    Ok(None)
}

/// The agent's errors. Their XML is not always well-formed, so the two texts are cut out.
fn refusal(text: &str) -> Option<AnswerError> {
    if text.starts_with('{') {
        let value: serde_json::Value = serde_json::from_str(text).ok()?;
        let code = value.get("httpStatusCode")?;
        return Some(refused(code.as_str().unwrap_or(&code.to_string()), ""));
    }
    let cut = |tag: &str| {
        let (_, rest) = text.split_once(&format!("<{tag}>"))?;
        Some(rest.split_once(&format!("</{tag}>"))?.0.trim())
    };
    text.contains("<Error").then(|| refused(cut("Code").unwrap_or("an error"), cut("Message").unwrap_or_default()))
}

fn refused(code: &str, message: &str) -> AnswerError {
    let short = |text: &str| text.chars().filter(|c| !c.is_control()).take(200).collect();
    AnswerError::Refused { code: short(code), message: short(message) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    macro_rules! recorded {
        ($name:literal) => {
            include_bytes!(concat!("../../../../e2e/azure-examples/wireserver/", $name))
        };
    }

    #[test]
    fn recorded_answers_are_read() {
        let interfaces = parse(recorded!("getinterfaceinfov1-30-secondaries.xml")).unwrap();
        let [Interface { mac, primary: true, subnets }] = interfaces.as_slice() else { panic!("{interfaces:?}") };
        assert_eq!((*mac, subnets.len(), subnets[0].addresses.len()), ("000D3A51C490".parse().unwrap(), 1, 31));
        assert_eq!(subnets[0].addresses.iter().filter(|address| address.primary).count(), 1);
        let interfaces = parse(recorded!("getinterfaceinfov1-two-subnets-wildcard-mac.xml")).unwrap();
        assert_eq!((interfaces[0].mac, interfaces[0].subnets.len()), (MacPattern::Any, 2));
        assert_eq!(parse(recorded!("getinterfaceinfov1-primary-only.xml")).unwrap()[0].subnets[0].addresses.len(), 1);
        assert_eq!(parse(recorded!("getinterfaceinfov1-one-secondary.xml")).unwrap()[0].subnets[0].addresses.len(), 2);
        let error = parse(recorded!("error-internal.xml")).unwrap_err();
        assert!(matches!(&error, AnswerError::Refused { code, .. } if code == "InternalError"), "{error:?}");
        assert!(matches!(parse(recorded!("getsupportedapis.xml")), Err(AnswerError::Unreadable(_))));
    }

    #[test]
    fn what_cannot_be_used_is_left_out_alone() {
        let xml = r#"<Interfaces><Interface MacAddress="nonsense"><IPSubnet Prefix="10.9.0.0/24"><IPAddress Address="10.9.0.4"/></IPSubnet></Interface>
            <Interface MacAddress="000d3a51c490" IsPrimary="True"><IPSubnet Prefix="x"><IPAddress Address="10.8.0.4"/></IPSubnet>
            <IPSubnet Prefix="10.0.0.0 / 24"><IPAddress Address=" 10.0.0.4" IsPrimary="TRUE"/><IPAddress Address="fd00::4"/>
            <IPAddress Address="10.0.1.5"/><IPAddress Address="10.0.0.6"/></IPSubnet></Interface></Interfaces>"#;
        let address = |last, primary| Address { address: [10, 0, 0, last].into(), primary };
        let subnet = Subnet { prefix: "10.0.0.0/24".parse().unwrap(), addresses: vec![address(4, true), address(6, false)] };
        assert_eq!(
            parse(xml.as_bytes()),
            Ok(vec![Interface { mac: "000d3a51c490".parse().unwrap(), primary: true, subnets: vec![subnet] }])
        );
    }

    #[test]
    fn errors_in_every_disguise() {
        assert!(matches!(parse(br#"{"httpStatusCode":"401"}"#), Err(AnswerError::Refused { code, .. }) if code == "401"));
        for body in [b"<html></html>".as_slice(), b"", b"\xff\xfe", br#"<Interfaces><IPAddress Address="10.0.0.1"/></Interfaces>"#] {
            assert!(matches!(parse(body), Err(AnswerError::Unreadable(_))), "{body:?}");
        }
        assert_eq!(parse(b"<Interfaces/>"), Ok(vec![]));
    }

    proptest! {
        #[test]
        fn damaged_answers_are_refused_or_read_without_a_panic(at in any::<prop::sample::Index>(), with: Vec<u8>, cut in 0..40_usize) {
            let mut bytes = recorded!("getinterfaceinfov1-two-subnets-wildcard-mac.xml").to_vec();
            let at = at.index(bytes.len());
            bytes.splice(at..(at + cut).min(bytes.len()), with);
            let _ = parse(&bytes);
        }
    }
}
