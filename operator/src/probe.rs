//! `probe`: what runs in a pod for `kubectl azure-vnet connectivity`: it tells who asks by which address they came, and asks others.
//!
//! A thread a question, no privilege, no file but the pod's resolver configuration. Whoever connects learns the pod's name and their own address,
//! nothing else; and it ends by itself.

mod dns;

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs as _},
    str::FromStr,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use azure_vnet_operator_core::look::Heard;
use clap::Subcommand;

/// What a probe's answer begins with.
const GREETING: &str = "azure-vnet-probe";
/// For one thread, which holds a few buffers.
const STACK: usize = 128 << 10;
/// Of an answer and of a request.
const MOST: u64 = 512;

/// What a probe does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Answers until its time is over, or it is told to end.
    Serve {
        /// TCP port.
        #[arg(long)]
        port: u16,
        /// What it calls itself.
        #[arg(long)]
        name: String,
        /// Ends by itself after so many seconds.
        #[arg(long, default_value_t = 600)]
        seconds: u64,
        /// The word that ends it, said from its own pod.
        #[arg(long)]
        token: String,
    },
    /// Asks each target, and prints what was heard as a JSON object a line, in their order.
    Ask {
        /// Seconds for each.
        #[arg(long, default_value_t = 3)]
        timeout: u64,
        /// `probe=HOST:PORT`, `tcp=HOST:PORT` or `dns=NAME`.
        targets: Vec<Target>,
    },
    /// Tells the probe of this pod to end.
    End {
        /// Its port.
        #[arg(long)]
        port: u16,
        /// Its word.
        #[arg(long)]
        token: String,
    },
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Another probe.
    Probe(String),
    /// Whatever takes a connection.
    Tcp(String),
    /// A name, of the pod's name servers; one without a dot at its end is the cluster's, below `svc`.
    Dns(String),
}

impl FromStr for Target {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('=') {
            Some(("probe", to)) => Ok(Self::Probe(to.to_owned())),
            Some(("tcp", to)) => Ok(Self::Tcp(to.to_owned())),
            Some(("dns", name)) => Ok(Self::Dns(name.to_owned())),
            _ => Err(format!("{text:?} is none of probe=HOST:PORT, tcp=HOST:PORT, dns=NAME")),
        }
    }
}

/// Runs one command.
///
/// # Errors
/// The port cannot be had, or nothing can be printed.
pub fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Serve { port, name, seconds, token } => {
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).with_context(|| format!("cannot listen on port {port}"))?;
            serve(&listener, &name, &token, Duration::from_secs(seconds))
        }
        Command::Ask { timeout, targets } => {
            for heard in ask(targets, Duration::from_secs(timeout)) {
                writeln!(io::stdout(), "{}", serde_json::to_string(&heard)?).context("cannot write to standard output")?;
            }
            Ok(())
        }
        Command::End { port, token } => end(port, &token).with_context(|| format!("no probe on port {port}")),
    }
}

/// Returns when it is told to end, or its time is over.
fn serve(listener: &TcpListener, name: &str, token: &str, life: Duration) -> anyhow::Result<()> {
    let (told, ended) = mpsc::channel();
    let (name, token) = (name.to_owned(), token.to_owned());
    let listener = listener.try_clone().context("cannot listen twice")?;
    spawn(move || {
        for stream in listener.incoming().flatten() {
            let (name, token, told) = (name.clone(), token.clone(), told.clone());
            // A peer that is gone before it was answered is no failure of the probe.
            let _ = spawn(move || {
                if greet(stream, &name).is_ok_and(|said| said == format!("end {token}")) {
                    let _ = told.send(());
                }
            });
        }
    })?;
    match ended.recv_timeout(life) {
        Ok(()) | Err(mpsc::RecvTimeoutError::Timeout) => Ok(()),
        Err(mpsc::RecvTimeoutError::Disconnected) => anyhow::bail!("the listening thread has ended"),
    }
}

fn spawn(work: impl FnOnce() + Send + 'static) -> anyhow::Result<()> {
    thread::Builder::new().stack_size(STACK).spawn(work).map(drop).context("cannot start a thread")
}

/// Says who it is and whom it sees; what the peer then says counts only from this machine.
fn greet(mut stream: TcpStream, name: &str) -> io::Result<String> {
    let peer = stream.peer_addr()?.ip().to_canonical();
    let patience = Some(Duration::from_secs(2));
    stream.set_read_timeout(patience)?;
    stream.set_write_timeout(patience)?;
    stream.write_all(format!("{GREETING} {name} {peer}\n").as_bytes())?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut said = String::new();
    BufReader::new(stream.take(MOST)).read_line(&mut said)?;
    Ok(if peer.is_loopback() { said.trim().to_owned() } else { String::new() })
}

fn end(port: u16, token: &str) -> io::Result<()> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
    stream.write_all(format!("end {token}\n").as_bytes())?;
    // To the end: what closes with words unread takes its own back.
    stream.take(MOST).read_to_end(&mut vec![]).map(drop)
}

/// Asks all at once.
fn ask(targets: Vec<Target>, deadline: Duration) -> Vec<Heard> {
    let asked: Vec<_> = targets
        .into_iter()
        .map(|target| {
            let (tell, told) = mpsc::channel();
            // A name that nobody resolves keeps its thread; the process does not wait for it.
            let _ = spawn(move || {
                let _ = tell.send(ask_one(&target, deadline));
            });
            told
        })
        .collect();
    let until = Instant::now() + deadline + Duration::from_secs(1);
    let timed_out = |_| Heard::Nothing { why: "timed out".into() };
    asked.into_iter().map(|told| told.recv_timeout(until.saturating_duration_since(Instant::now())).unwrap_or_else(timed_out)).collect()
}

fn ask_one(target: &Target, deadline: Duration) -> Heard {
    let begun = Instant::now();
    let micros = || u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
    let heard = match target {
        Target::Probe(to) => probe(to, deadline).map(|known| match known {
            Some((name, sees)) => Heard::Probe { name, sees, micros: micros() },
            None => Heard::Something { micros: micros() },
        }),
        Target::Tcp(to) => connect(to, deadline).map(|_stream| Heard::Something { micros: micros() }),
        Target::Dns(name) => resolve(name, deadline).map(|()| Heard::Something { micros: micros() }),
    };
    heard.unwrap_or_else(|error| Heard::Nothing { why: in_words(&error) })
}

/// Without numbers of the operating system, and the same for both ways in which a deadline shows.
fn in_words(error: &io::Error) -> String {
    let known = [
        (io::ErrorKind::TimedOut, "timed out"),
        (io::ErrorKind::WouldBlock, "timed out"),
        (io::ErrorKind::ConnectionRefused, "connection refused"),
        (io::ErrorKind::ConnectionReset, "connection reset"),
        (io::ErrorKind::HostUnreachable, "host unreachable"),
        (io::ErrorKind::NetworkUnreachable, "network unreachable"),
    ];
    known.iter().find(|(kind, _)| *kind == error.kind()).map_or_else(|| error.to_string(), |(_, words)| (*words).to_owned())
}

fn connect(to: &str, deadline: Duration) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{to} has no address"));
    for address in to.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, deadline) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Whether it may be `namespace/name`: what a stranger sends is shown on a terminal.
fn is_pod(text: &str) -> bool {
    text.len() <= 317 && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'/'))
}

/// What a probe says; none where something else answers.
fn probe(to: &str, deadline: Duration) -> io::Result<Option<(String, Ipv4Addr)>> {
    let stream = connect(to, deadline)?;
    stream.set_read_timeout(Some(deadline))?;
    let mut line = String::new();
    match BufReader::new(stream.take(MOST)).read_line(&mut line) {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => return Ok(None),
        read => read?,
    };
    let words: Vec<&str> = line.split_whitespace().collect();
    Ok(match words.as_slice() {
        [GREETING, name, sees] if is_pod(name) => match sees.parse() {
            Ok(IpAddr::V4(sees)) => Some(((*name).to_owned(), sees)),
            Ok(IpAddr::V6(_)) | Err(_) => None,
        },
        _ => None,
    })
}

fn resolve(name: &str, deadline: Duration) -> io::Result<()> {
    let resolver = dns::Resolver::parse(&fs::read_to_string("/etc/resolv.conf")?);
    let full = resolver.full(name);
    if resolver.servers.is_empty() {
        return Err(io::Error::other("the pod has no name server"));
    }
    let mut last = None;
    for server in &resolver.servers {
        match dns::query(SocketAddr::new(*server, 53), &full, deadline) {
            Ok(()) => return Ok(()),
            Err(error) => last = Some(io::Error::new(error.kind(), format!("{server}: {}", in_words(&error)))),
        }
    }
    Err(last.unwrap_or_else(|| io::Error::other("no name server was asked")))
}

#[cfg(test)]
mod tests;
