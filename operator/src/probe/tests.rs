use std::net::UdpSocket;

use super::*;

const SOON: Duration = Duration::from_secs(5);

fn served(name: &str) -> (String, thread::JoinHandle<anyhow::Result<()>>, u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let name = name.to_owned();
    (address.to_string(), thread::spawn(move || serve(&listener, &name, "word", Duration::from_mins(1))), address.port())
}

#[test]
fn a_probe_tells_its_name_and_whom_it_sees_until_it_hears_its_word() {
    let (address, serving, port) = served("x/a");
    let heard = ask(vec![Target::Probe(address.clone()), Target::Tcp(address)], SOON);
    let [Heard::Probe { name, sees, .. }, Heard::Something { .. }] = heard.as_slice() else { panic!("{heard:?}") };
    assert_eq!((name.as_str(), *sees), ("x/a", Ipv4Addr::LOCALHOST));
    end(port, "another").unwrap();
    assert!(matches!(ask(vec![Target::Probe(format!("127.0.0.1:{port}"))], SOON)[0], Heard::Probe { .. }), "it is still there");
    end(port, "word").unwrap();
    serving.join().unwrap().unwrap();
}

#[test]
fn a_probe_ends_by_itself() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    serve(&listener, "x/a", "word", Duration::ZERO).unwrap();
}

#[test]
fn what_is_no_probe_and_what_does_not_answer_are_told_apart() {
    let other = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = other.local_addr().unwrap().to_string();
    thread::spawn(move || other.incoming().flatten().for_each(|mut stream| stream.write_all(b"HTTP/1.0 400 Bad\r\n\xff\n").unwrap()));
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().to_string();
    let heard = ask(vec![Target::Probe(address), Target::Probe(closed), Target::Tcp("nowhere.invalid:1".into())], SOON);
    assert!(matches!(heard[0], Heard::Something { .. }), "{heard:?}");
    assert_eq!(heard[1], Heard::Nothing { why: "connection refused".into() });
    assert!(matches!(heard[2], Heard::Nothing { .. }), "{heard:?}");
}

#[test]
fn a_name_that_no_pod_has_is_not_believed() {
    for name in ["x/\u{1b}[31ma", "x/a\u{7}", "X/a", "x/ä"] {
        let (address, _serving, port) = served(name);
        assert!(matches!(ask(vec![Target::Probe(address)], SOON)[0], Heard::Something { .. }), "{name:?}");
        end(port, "word").unwrap();
    }
}

/// Answers one question with these flags and so many addresses.
fn name_server(code: u8, addresses: u8) -> SocketAddr {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 512];
        let (length, peer) = socket.recv_from(&mut buffer).unwrap();
        let asked_right = buffer[12..length] == *b"\x0akubernetes\x07default\x03svc\x03lab\x01x\x00\x00\x01\x00\x01";
        let answer = [buffer[0], buffer[1], 0x81, 0x80 | if asked_right { code } else { 1 }, 0, 1, 0, addresses, 0, 0, 0, 0];
        socket.send_to(&answer, peer).unwrap();
    });
    address
}

#[test]
fn a_name_server_is_asked_for_the_clusters_name_and_its_answer_is_understood() {
    let resolver = dns::Resolver::parse("search a.svc.lab.x svc.lab.x lab.x\nnameserver 10.96.0.10\noptions ndots:5\nnameserver fd00::1\n");
    assert_eq!(resolver.servers, ["10.96.0.10".parse::<IpAddr>().unwrap(), "fd00::1".parse().unwrap()]);
    assert_eq!(dns::Resolver::default().full("kubernetes.default"), "kubernetes.default.svc.cluster.local");
    assert_eq!(resolver.full("example.com."), "example.com");
    let name = resolver.full("kubernetes.default");
    assert_eq!(name, "kubernetes.default.svc.lab.x");
    dns::query(name_server(0, 1), &name, SOON).unwrap();
    let said = |code, addresses| dns::query(name_server(code, addresses), &name, SOON).unwrap_err().to_string();
    assert!(said(3, 0).contains("NXDOMAIN") && said(2, 0).contains("SERVFAIL") && said(0, 0).contains("no address"));
    assert!(dns::query(name_server(0, 1), "a..b", SOON).is_err(), "no name");
}
