//! Requests and answers as values: what the HTTP server hands to the cloud and gets back.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use serde_json::Value;

use super::operation::Fate;

/// A request, read whole.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub method: String,
    /// The path without query, percent-decoded.
    pub path: String,
    /// Path and query as sent.
    pub target: String,
    pub query: Vec<(String, String)>,
    /// Lower-case names.
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
    pub peer: IpAddr,
    /// `https` or `http`.
    pub scheme: &'static str,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    pub fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Splits `a=b&c=d` and decodes it.
    pub fn parse_query(text: &str) -> Vec<(String, String)> {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        pairs
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .map(|(name, value)| (decode(name, true), decode(value, true)))
            .collect()
    }

    pub fn parse_path(text: &str) -> String {
        decode(text, false)
    }
}

/// What a call brings along for those who carry it out.
#[derive(Debug, Clone, Default)]
pub(super) struct Context {
    /// The client id of the token.
    pub by: String,
    /// That of the path.
    pub subscription: String,
    pub if_match: Option<String>,
    /// Scheme and host that the caller used: what links start with.
    pub base: String,
    pub api_version: String,
    /// Only the `$filter` of lists.
    pub filter: Option<String>,
    pub skip: usize,
    pub expand: bool,
    pub fate: Fate,
    pub latency: Option<Duration>,
    /// Answer reads with the state before the last write.
    pub stale: bool,
}

/// An answer.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Body,
    /// The code of an error, for the log.
    pub code: Option<String>,
    pub delivery: Delivery,
}

#[derive(Debug, Clone)]
pub(super) enum Body {
    None,
    Json(Value),
    Text { content_type: &'static str, text: String },
}

/// How an answer travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delivery {
    AtOnce,
    After(Duration),
    /// The connection is cut without a byte.
    Cut,
    /// Nothing is ever said.
    Hang,
    /// The connection is cut in the middle of the body.
    Truncated,
}

impl Answer {
    pub fn json(status: u16, body: Value) -> Self {
        Self { body: Body::Json(body), ..Self::empty(status) }
    }

    pub fn text(status: u16, content_type: &'static str, text: impl Into<String>) -> Self {
        Self { body: Body::Text { content_type, text: text.into() }, ..Self::empty(status) }
    }

    pub fn empty(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Body::None, code: None, delivery: Delivery::AtOnce }
    }

    pub fn silent(delivery: Delivery) -> Self {
        Self { delivery, ..Self::empty(0) }
    }

    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }
}

fn decode(text: &str, plus: bool) -> String {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' if plus => decoded.push(b' '),
            b'%' => {
                let digits: Vec<u8> = bytes.by_ref().take(2).collect();
                let code = std::str::from_utf8(&digits).ok().and_then(|digits| u8::from_str_radix(digits, 16).ok());
                decoded.push(code.unwrap_or(b'%'));
            }
            other => decoded.push(other),
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}
