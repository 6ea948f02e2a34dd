//! The machine's own services for tests: one that answers every question with one text, late, with an error, or not at all.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

#[derive(Clone)]
enum Conduct {
    Answer(String, Duration),
    Refuse,
    Silence,
}

struct State {
    conduct: Conduct,
    asked: usize,
    /// Connections that get no answer stay open.
    open: Vec<TcpStream>,
}

/// A service on the node's loopback.
pub struct Service {
    at: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Service {
    pub fn start(body: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State { conduct: Conduct::Answer(body, Duration::ZERO), asked: 0, open: Vec::new() }));
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let shared = Arc::clone(&shared);
                thread::spawn(move || serve(stream.unwrap(), &shared));
            }
        });
        Self { at, state }
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.at)
    }

    /// How many questions came.
    pub fn asked(&self) -> usize {
        self.state.lock().unwrap().asked
    }

    pub fn answer(&self, body: String) {
        self.state.lock().unwrap().conduct = Conduct::Answer(body, Duration::ZERO);
    }

    pub fn delay(&self, delay: Duration) {
        if let Conduct::Answer(_, late) = &mut self.state.lock().unwrap().conduct {
            *late = delay;
        }
    }

    pub fn refuse(&self) {
        self.state.lock().unwrap().conduct = Conduct::Refuse;
    }

    pub fn fall_silent(&self) {
        self.state.lock().unwrap().conduct = Conduct::Silence;
    }

    /// Answers those who have asked and are there still, too.
    pub fn answer_at_last(&self, body: &str) {
        let mut state = self.state.lock().unwrap();
        state.conduct = Conduct::Answer(body.to_owned(), Duration::ZERO);
        state.open.drain(..).for_each(|mut stream| tell(&mut stream, "200 OK", body));
    }
}

fn serve(mut stream: TcpStream, state: &Mutex<State>) {
    let mut question = Vec::new();
    let mut part = [0; 512];
    while !question.ends_with(b"\r\n\r\n") {
        match stream.read(&mut part) {
            Ok(length) if length > 0 => question.extend_from_slice(&part[..length]),
            _ => return,
        }
    }
    let conduct = {
        let mut state = state.lock().unwrap();
        state.asked += 1;
        let conduct = state.conduct.clone();
        if let Conduct::Silence = conduct {
            return state.open.push(stream);
        }
        conduct
    };
    let (status, body) = match conduct {
        Conduct::Answer(body, delay) => {
            // A late answer is what the caller is tried with.
            thread::sleep(delay);
            ("200 OK", body)
        }
        Conduct::Refuse | Conduct::Silence => ("503 Service Unavailable", String::new()),
    };
    tell(&mut stream, status, &body);
}

fn tell(stream: &mut TcpStream, status: &str, body: &str) {
    // The caller may have gone.
    let _ = write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
}

/// The host agent's answer on a node with these addresses for pods.
pub fn wireserver(addresses: &[Ipv4Addr]) -> String {
    let list =
        addresses.iter().map(|address| format!(r#"<IPAddress Address="{address}" IsPrimary="false"/>"#)).collect::<Vec<_>>().concat();
    format!(
        r#"<Interfaces><Interface MacAddress="020000000004" IsPrimary="true"><IPSubnet Prefix="10.240.0.0/16">
        <IPAddress Address="10.240.0.4" IsPrimary="true"/>{list}</IPSubnet></Interface></Interfaces>"#
    )
}

/// The metadata service's answer on the same node.
pub fn imds(addresses: &[Ipv4Addr]) -> String {
    let all = std::iter::once(Ipv4Addr::new(10, 240, 0, 4)).chain(addresses.iter().copied());
    let list = all.map(|address| format!(r#"{{"privateIpAddress":"{address}","publicIpAddress":""}}"#)).collect::<Vec<_>>().join(",");
    format!(
        r#"{{"interface":[{{"ipv4":{{"ipAddress":[{list}],"subnet":[{{"address":"10.240.0.0","prefix":"16"}}]}},
        "ipv6":{{"ipAddress":[]}},"macAddress":"020000000004"}}]}}"#
    )
}
