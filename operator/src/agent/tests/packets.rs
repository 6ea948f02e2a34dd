//! What the rules do to packets: a pod, its node, and beyond the node's NIC a namespace that is the VNET and the internet in one.

use std::{
    fs::File,
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use azure_vnet_crds::config::MasqueradeMode;
use nix::sched::setns;

use super::*;

const NODE: &str = "10.0.0.4";
const POD: &str = "10.0.0.5";
const PEER: &str = "10.0.9.1";
const ON_PREMISES: &str = "10.50.0.1";
const INTERNET: &str = "203.0.113.1";
const WIRESERVER: &str = "168.63.129.16";
const IMDS: &str = "169.254.169.254";
/// The host agent's ports, and one that is nobody's.
const HOST_AGENT: [u16; 3] = [80, 32526, 8080];
/// How long something that is dropped is waited for.
const PATIENCE: Duration = Duration::from_millis(500);

/// Runs in a network namespace of this test's.
fn within<T: Send + 'static>(name: &'static str, act: impl FnOnce() -> T + Send + 'static) -> T {
    let inside = move || {
        setns(File::open(format!("/run/netns/{name}")).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
        act()
    };
    std::thread::spawn(inside).join().unwrap()
}

fn ip(netns: &str, arguments: &str) {
    let all: Vec<&str> = ["-n", netns].into_iter().filter(|_| !netns.is_empty()).chain(arguments.split(' ')).collect();
    run("ip", &all);
}

/// The agent's own tests have a NIC whose other end is `fabric`.
fn wire() {
    for netns in ["pod", "outside"] {
        run("ip", &["netns", "add", netns]);
        ip(netns, "link set lo up");
    }
    ip("", "link set fabric netns outside");
    for address in [PEER, ON_PREMISES, INTERNET, WIRESERVER, IMDS] {
        ip("outside", &format!("address add {address}/32 dev lo"));
    }
    ip("outside", "address add 10.0.0.1/24 dev fabric");
    ip("outside", "link set fabric up");
    ip("outside", &format!("route add {POD}/32 via {NODE}"));
    ip("", "route add default via 10.0.0.1");
    ip("", "link add azv00000000001 type veth peer name eth0 netns pod");
    run("ip", &["link", "set", "azv00000000001", "alias", &format!("azure-vnet:c1/eth0 {POD}")]);
    ip("", "link set azv00000000001 up");
    fs::write("/proc/sys/net/ipv4/conf/azv00000000001/proxy_arp", "1").unwrap();
    ip("", &format!("route add {POD}/32 dev azv00000000001"));
    ip("pod", &format!("address add {POD}/32 dev eth0"));
    ip("pod", "link set eth0 up");
    ip("pod", "route add 169.254.1.1 dev eth0 scope link");
    ip("pod", "route add default via 169.254.1.1");
}

/// The same with the pod on a bridge that the NIC is a port of: its frames pass the host's rules only where bridges call iptables.
fn wire_bridged() {
    for netns in ["pod", "outside"] {
        run("ip", &["netns", "add", netns]);
        ip(netns, "link set lo up");
    }
    ip("", "link set fabric netns outside");
    ip("outside", &format!("address add {WIRESERVER}/32 dev lo"));
    ip("outside", "address add 10.0.0.1/24 dev fabric");
    ip("outside", "link set fabric up");
    run("ip", &["link", "add", "azure0", "address", MAC, "type", "bridge"]);
    ip("", "address del 10.0.0.4/24 dev eth0");
    ip("", "link set eth0 master azure0");
    ip("", "link set azure0 up");
    ip("", "address add 10.0.0.4/24 dev azure0");
    ip("", "route add default via 10.0.0.1");
    ip("", "link add azv00000000001 type veth peer name eth0 netns pod");
    ip("", "link set azv00000000001 up master azure0");
    fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", "1").unwrap();
    ip("pod", &format!("address add {POD}/24 dev eth0"));
    ip("pod", "link set eth0 up");
    ip("pod", "route add default via 10.0.0.1");
}

/// Listens where the platform's host agent does, and on one port more.
fn host_agent() -> [TcpListener; 3] {
    within("outside", || HOST_AGENT.map(|port| TcpListener::bind(("0.0.0.0", port)).unwrap()))
}

/// Whom a destination sees when the pod sends to it.
fn seen_by(outside: &UdpSocket, to: &str) -> Option<IpAddr> {
    let to = SocketAddr::new(to.parse().unwrap(), 53);
    within("pod", move || UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"x", to).unwrap());
    outside.recv_from(&mut [0; 8]).ok().map(|(_, from)| from.ip())
}

fn connects(to: &str, port: u16) -> bool {
    let to = SocketAddr::new(to.parse().unwrap(), port);
    let connect = move || TcpStream::connect_timeout(&to, PATIENCE).and_then(|stream| stream.shutdown(Shutdown::Both)).is_ok();
    within("pod", connect)
}

#[test]
fn whom_a_destination_sees_is_what_the_mode_and_the_lists_say_and_pk4_the_host_agent_is_closed_to_pods() {
    for backend in [Backend::Nft, Backend::Legacy] {
        apart(move || {
            wire();
            let machine = Machine::new();
            let mut object = object(1, &["1/10.0.0.5"]);
            object.spec.effective.masquerade.backend = backend;
            let mut node = machine.start_with(|options| options.proc_sys_net = "/proc/sys/net".into());
            let outside = within("outside", || UdpSocket::bind("0.0.0.0:53").unwrap());
            outside.set_read_timeout(Some(PATIENCE * 10)).unwrap();
            let lists = (vec!["10.0.9.0/24".to_owned()], vec!["10.50.0.0/16".to_owned()]);
            let no_lists = (vec![], vec![]);
            // What PEER, ON_PREMISES and INTERNET see; the wireserver always sees the pod, and IMDS the node unless nothing is masqueraded.
            let cases = [
                (MasqueradeMode::VNet, &no_lists, [POD, NODE, NODE], NODE),
                (MasqueradeMode::VNet, &lists, [NODE, POD, NODE], NODE),
                (MasqueradeMode::Custom, &no_lists, [POD, POD, POD], NODE),
                (MasqueradeMode::Custom, &lists, [NODE, POD, POD], NODE),
                (MasqueradeMode::Disabled, &lists, [POD, POD, POD], POD),
            ];
            for (mode, (to, not_to), [peer, on_premises, internet], metadata) in cases {
                let spec = &mut object.spec.effective.masquerade;
                (spec.mode, spec.masquerade_cidrs, spec.non_masquerade_cidrs) = (mode, to.clone(), not_to.clone());
                until(&mut node, &seen(Some(&object), vec![imds("vm-1", &[POD])]), |node, outcome| {
                    offered(node).is_some_and(|pool| pool.len() == 1) && told(outcome, "RulesInSync").1 == "InSync"
                });
                let expected = [(PEER, peer), (ON_PREMISES, on_premises), (INTERNET, internet), (WIRESERVER, POD), (IMDS, metadata)];
                for (destination, source) in expected {
                    assert_eq!(seen_by(&outside, destination), source.parse().ok(), "{backend:?} {mode:?} {to:?}: {destination}");
                }
            }
            let _listeners = host_agent();
            assert_eq!(HOST_AGENT.map(|port| connects(WIRESERVER, port)), [false, false, true]);
            assert!(connects(INTERNET, 80), "only the wireserver's are closed");
        });
    }
}

/// The same, for a network that was made a moment ago: its links take their time.
fn opens(to: &str, port: u16) -> bool {
    let deadline = std::time::Instant::now() + PATIENCE * 20;
    std::iter::repeat_with(|| connects(to, port)).take_while(|_| std::time::Instant::now() < deadline).any(|connected| connected)
}

/// Policy engines accept on top of `filter`'s chain, and come after us.
#[test]
fn pk4_what_others_accept_before_us_does_not_open_the_host_agent_to_pods() {
    let backends = [(Backend::Nft, "iptables-nft"), (Backend::Legacy, "iptables-legacy")];
    let wirings: [(&str, fn()); 2] = [("transparent", wire), ("bridge", wire_bridged)];
    for ((backend, program), (mode, wire)) in backends.into_iter().flat_map(|backend| wirings.map(|wiring| (backend, wiring))) {
        apart(move || {
            wire();
            let machine = Machine::new();
            let mut object = object(1, &["1/10.0.0.5"]);
            object.spec.effective.masquerade.backend = backend;
            let mut node = machine.start_with(|options| options.proc_sys_net = "/proc/sys/net".into());
            let _listeners = host_agent();
            fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
            assert!(HOST_AGENT.iter().all(|port| opens(WIRESERVER, *port)), "{backend:?} {mode}: nothing is closed by itself");
            let looked = seen(Some(&object), vec![imds("vm-1", &[POD])]);
            until(&mut node, &looked, |_, outcome| told(outcome, "RulesInSync").1 == "InSync");
            run(program, &["-t", "filter", "-I", "FORWARD", "-j", "ACCEPT"]);
            let outcome = node.reconcile(&looked).unwrap();
            assert!(opens(WIRESERVER, 8080), "{backend:?} {mode}");
            assert_eq!([80, 32526].map(|port| connects(WIRESERVER, port)), [false; 2], "{backend:?} {mode}");
            assert_eq!(told(&outcome, "RulesInSync").1, "InSync", "{backend:?} {mode}: an ACCEPT there is nobody's harm");
            assert!(run(program, &["-t", "filter", "-S", "FORWARD"]).contains("-A FORWARD -j ACCEPT"));
        });
    }
}
