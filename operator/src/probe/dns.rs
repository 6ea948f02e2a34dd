//! One question to a name server over UDP: enough to know that it answers, and that it knows the name.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    time::Duration,
};

/// How often a datagram that may get lost is sent.
const TRIES: u32 = 2;
/// Of a question: names are unique enough, and one socket asks one.
const ID: [u8; 2] = [0x41, 0x56];

/// What a pod knows of its name servers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolver {
    /// In their order.
    pub servers: Vec<IpAddr>,
    /// Where names are looked for.
    pub search: Vec<String>,
}

impl Resolver {
    /// Reads `resolv.conf`.
    pub fn parse(text: &str) -> Self {
        let mut found = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => found.servers.extend(words.next().and_then(|word| word.parse::<IpAddr>().ok())),
                Some("search") => found.search = words.map(str::to_owned).collect(),
                _ => {}
            }
        }
        found
    }

    /// A name as it is asked for: one that ends in a dot as it is, another as the cluster's, of which the search list tells the domain.
    pub fn full(&self, name: &str) -> String {
        if let Some(absolute) = name.strip_suffix('.') {
            return absolute.to_owned();
        }
        let of_services = self.search.iter().find(|domain| domain.starts_with("svc."));
        format!("{name}.{}", of_services.map_or("svc.cluster.local", |domain| domain.trim_end_matches('.')))
    }
}

/// Asks for a name's IPv4 addresses.
pub fn query(server: SocketAddr, name: &str, deadline: Duration) -> io::Result<()> {
    let any = if server.is_ipv4() { SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)) } else { SocketAddr::from(([0_u16; 8], 0)) };
    let socket = UdpSocket::bind(any)?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(deadline / TRIES))?;
    let question = question(name)?;
    let (mut buffer, mut last) = ([0_u8; 1500], io::Error::from(io::ErrorKind::TimedOut));
    for _ in 0..TRIES {
        socket.send(&question)?;
        match socket.recv(&mut buffer) {
            Ok(length) => return verdict(name, buffer.get(..length).unwrap_or_default()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn question(name: &str) -> io::Result<Vec<u8>> {
    // Recursion desired; one question.
    let mut packet = [&ID[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]].concat();
    for label in name.split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..64).contains(length));
        packet.push(length.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("{name} is no name")))?);
        packet.extend(label.as_bytes());
    }
    // The root; type A, class IN.
    packet.extend([0, 0, 1, 0, 1]);
    Ok(packet)
}

fn verdict(name: &str, answer: &[u8]) -> io::Result<()> {
    let (id, rest) = (answer.get(..2), answer.get(2..8));
    let (Some(id), Some([flags, code, _, _, high, low])) = (id, rest) else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "what answers is no name server"));
    };
    if id != ID || flags & 0x80 == 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "what answers is no name server"));
    }
    match (code & 0xf, u16::from_be_bytes([*high, *low])) {
        (0, 1..) => Ok(()),
        (0, 0) => Err(io::Error::other(format!("it knows no address of {name}"))),
        (2, _) => Err(io::Error::other(format!("it fails on {name} (SERVFAIL)"))),
        (3, _) => Err(io::Error::other(format!("it does not know {name} (NXDOMAIN)"))),
        (5, _) => Err(io::Error::other(format!("it refuses {name}"))),
        (code, _) => Err(io::Error::other(format!("it answers {name} with code {code}"))),
    }
}
