//! Ways of packets between namespaces: one side asks until it is answered. Packets may be lost while links come up, and a call that a signal
//! interrupts is no lost packet.

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    path::PathBuf,
    time::{Duration, Instant},
};

use crate::node::{DEADLINE, inside};

/// After so long without an answer it is asked again.
const PATIENCE: Duration = Duration::from_millis(100);

/// A socket in a namespace, the host's by default.
pub fn socket(netns: Option<&PathBuf>, at: SocketAddr) -> UdpSocket {
    let open = move || UdpSocket::bind(at).unwrap_or_else(|error| panic!("{at}: {error}"));
    let socket = match netns {
        Some(netns) => inside(netns, open),
        None => open(),
    };
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Asks `target` from one namespace, where what is asked listens `at` an address in another; from where it saw the question come.
pub fn ask(from: Option<&PathBuf>, to: Option<&PathBuf>, target: IpAddr, at: IpAddr) -> Result<IpAddr, String> {
    // A port of its own each time: a child of another test, forked and not yet run, may have the last one's socket still.
    let server = socket(to, SocketAddr::from((at, 0)));
    let port = server.local_addr().unwrap().port();
    ask_server(from, &server, SocketAddr::from((target, port)))
}

/// The same, of a socket that listens.
pub fn ask_server(from: Option<&PathBuf>, server: &UdpSocket, target: SocketAddr) -> Result<IpAddr, String> {
    let any = if target.is_ipv4() { IpAddr::from(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() };
    let client = socket(from, SocketAddr::from((any, 0)));
    let deadline = Instant::now() + DEADLINE;
    let mut last = "no question arrived".to_owned();
    while Instant::now() < deadline {
        if let Err(error) = client.send_to(b"ping", target) {
            last = format!("cannot ask: {error}");
        }
        let Some(asker) = heard(server) else { continue };
        if let Err(error) = server.send_to(b"pong", asker) {
            last = format!("cannot answer: {error}");
            continue;
        }
        match heard(&client) {
            Some(answerer) if answerer == target => return Ok(asker.ip()),
            Some(answerer) => return Err(format!("{answerer} answered, not {target}")),
            None => last = format!("the answer to {asker} was lost"),
        }
    }
    Err(format!("{target} was asked for {DEADLINE:?}: {last}"))
}

/// From whom something came in time.
pub fn heard(socket: &UdpSocket) -> Option<SocketAddr> {
    loop {
        match socket.recv_from(&mut [0; 16]) {
            Ok((_, from)) => return Some(from),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return None,
            Err(error) => panic!("{error}"),
        }
    }
}
