//! The lab's test tool: a static program for pods and for the hosts outside the VNET, nothing but the standard library.
//!
//! `serve [PORT]` answers each connection with one line: the node's name, the server's own address, and the peer's address as seen here.
//! `get HOST:PORT [SECONDS]` prints that line. `resolve NAME…` prints each name's addresses. `sleep` does nothing for ever, `rest SECONDS` for
//! so long.
//! `echo PORT` sends back what each connection brings. `flow HOST:PORT` keeps one connection to it for ever, and prints how many bytes came back.

use std::env;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs as _, UdpSocket};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["serve"] => serve("8080"),
        ["serve", port] => serve(port),
        ["get", targets @ ..] if !targets.is_empty() => get(targets),
        ["echo", port] => echo(port),
        ["flow", target] => flow(target),
        ["resolve", names @ ..] if !names.is_empty() => resolve(names),
        ["sleep"] | [] => loop {
            thread::park();
        },
        ["rest", seconds] => rest(seconds),
        _ => {
            let usage =
                "usage: probe serve [PORT] | get HOST:PORT… [SECONDS] | resolve NAME… | echo PORT | flow HOST:PORT | sleep | rest SECONDS";
            Err(io::Error::new(io::ErrorKind::InvalidInput, usage))
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "probe: {error}");
            ExitCode::FAILURE
        }
    }
}

fn rest(seconds: &str) -> io::Result<()> {
    let seconds = seconds.parse().map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "that is no number of seconds"))?;
    thread::sleep(Duration::from_secs(seconds));
    Ok(())
}

/// Answers on TCP, in the form of HTTP so that probes of the kubelet understand it, and on UDP with the bare line.
fn serve(port: &str) -> io::Result<()> {
    let node = env::var("NODE_NAME").or_else(|_| env::var("HOSTNAME")).unwrap_or_else(|_| "-".to_owned());
    let address = format!("0.0.0.0:{port}");
    let (listener, socket) = (TcpListener::bind(&address)?, UdpSocket::bind(&address)?);
    let name = node.clone();
    thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(format!("{name} udp {}\n", peer.ip()).as_bytes(), peer);
        }
    });
    for stream in listener.incoming() {
        // A peer that has gone before it was answered is no failure of the server.
        let Ok(stream) = stream else { continue };
        let node = node.clone();
        thread::spawn(move || answer(stream, &node));
    }
    Ok(())
}

fn answer(mut stream: TcpStream, node: &str) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let line = format!("{node} {} {}\n", stream.local_addr()?.ip(), stream.peer_addr()?.ip());
    let mut request = [0; 2048];
    let _ = stream.read(&mut request)?;
    write!(stream, "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{line}", line.len())
}

fn echo(port: &str) -> io::Result<()> {
    for stream in TcpListener::bind(format!("0.0.0.0:{port}"))?.incoming() {
        let Ok(mut stream) = stream else { continue };
        thread::spawn(move || io::copy(&mut stream.try_clone()?, &mut stream));
    }
    Ok(())
}

/// A packet's worth every tenth of a second, each waited for; a line each. What does not come back within ten seconds has been lost.
fn flow(target: &str) -> io::Result<()> {
    let mut stream = TcpStream::connect(target)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let (sent, mut back, mut total) = ([b'.'; 1000], [0; 1000], 0_u64);
    loop {
        stream.write_all(&sent)?;
        stream.read_exact(&mut back)?;
        total += 1000;
        writeln!(io::stdout(), "{total}")?;
        thread::sleep(Duration::from_millis(100));
    }
}

/// Asks each target; one line each. A last argument that is a number is the deadline in seconds, 3 if absent.
fn get(arguments: &[&str]) -> io::Result<()> {
    let (targets, seconds) = match arguments.split_last() {
        Some((last, targets)) if !targets.is_empty() && last.parse::<u64>().is_ok() => (targets, last.parse().unwrap_or(3)),
        _ => (arguments, 3),
    };
    let deadline = Duration::from_secs(seconds);
    let asked: Vec<_> =
        targets.iter().map(|target| (*target).to_owned()).map(|target| thread::spawn(move || ask(&target, deadline))).collect();
    let mut failed = None;
    for (target, answer) in targets.iter().zip(asked) {
        match answer.join().map_err(|_| io::Error::other("a thread ended early"))? {
            Ok(line) => writeln!(io::stdout(), "{}", line.trim())?,
            Err(error) => {
                writeln!(io::stdout(), "- {target} {error}")?;
                failed = Some(io::Error::new(error.kind(), format!("{target}: {error}")));
            }
        }
    }
    failed.map_or(Ok(()), Err)
}

/// Looks each name up as programs do, by the system's library and `/etc/resolv.conf`: one line each, in the order of the addresses. A name that
/// has none is said to, and is no failure.
fn resolve(names: &[&str]) -> io::Result<()> {
    for name in names {
        match (*name, 0).to_socket_addrs() {
            Ok(found) => {
                let mut addresses: Vec<_> = found.map(|address| address.ip()).collect();
                addresses.sort_unstable();
                addresses.dedup();
                let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
                writeln!(io::stdout(), "{}", addresses.join(" "))?;
            }
            Err(error) => writeln!(io::stdout(), "- {name} {error}")?,
        }
    }
    Ok(())
}

fn ask(target: &str, deadline: Duration) -> io::Result<String> {
    let addresses: Vec<SocketAddr> = target.to_socket_addrs()?.collect();
    let address = addresses.first().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no address"))?;
    let mut stream = TcpStream::connect_timeout(address, deadline)?;
    stream.set_read_timeout(Some(deadline))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let body = text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    body.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no answer"))
}
