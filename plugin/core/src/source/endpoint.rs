//! Where a service of the machine's own is: plain HTTP at an address, since plugins know neither names nor certificates.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddrV4},
    str::FromStr,
};

use crate::attachment::NameError;

/// `http://<address>[:<port>]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint(SocketAddrV4);

impl Endpoint {
    /// The instance metadata service of every machine.
    pub const IMDS: Self = Self(SocketAddrV4::new(Ipv4Addr::new(169, 254, 169, 254), 80));
    /// The host agent of every machine.
    pub const WIRESERVER: Self = Self(SocketAddrV4::new(Ipv4Addr::new(168, 63, 129, 16), 80));

    /// Address and port.
    #[must_use]
    pub fn socket(self) -> SocketAddrV4 {
        self.0
    }
}

impl FromStr for Endpoint {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let authority = text.strip_prefix("http://").map(|rest| rest.strip_suffix('/').unwrap_or(rest));
        let parse = |authority: &str| {
            let address = || authority.parse().ok().map(|address| SocketAddrV4::new(address, 80));
            authority.parse().ok().or_else(address)
        };
        let error =
            || NameError::of("endpoint", text, "it is http:// with an IPv4 address and an optional port, as in http://127.0.0.1:8080");
        authority.and_then(parse).map(Self).ok_or_else(error)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.port() {
            80 => write!(f, "{}", self.0.ip()),
            _ => write!(f, "{}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_an_address_and_perhaps_a_port() {
        let endpoint = |text: &str| text.parse::<Endpoint>().map(|endpoint| endpoint.to_string()).ok();
        assert_eq!(endpoint("http://168.63.129.16").as_deref(), Some("168.63.129.16"));
        assert_eq!(endpoint("http://127.0.0.1:8080/").as_deref(), Some("127.0.0.1:8080"));
        for text in ["", "127.0.0.1", "https://127.0.0.1", "http://name", "http://127.0.0.1/path", "http://127.0.0.1:x", "http://[::1]:80"]
        {
            assert_eq!(endpoint(text), None, "{text}");
        }
    }
}
