//! Where the kernel or a folder does not answer, nothing is concluded from its silence: no address of a living container is given, or freed.

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use nix::errno::Errno;
use serde_json::{Value, json};

use crate::node::{IPAM, PLUGIN, RUN, Sandbox, conf, finish, inside, on_a_bare_node, on_a_node, pool_address, run};
use crate::strike::{Blow, Strike, run_of};

/// The system calls of x86-64 by which something is looked at: open, socket, sendto, recvfrom, recvmsg, getdents64, openat, setns.
const LOOKING: [u64; 8] = [2, 41, 44, 45, 47, 217, 257, SETNS];
const SEND: u64 = 44;
const SETNS: u64 = 308;

#[test]
fn st3_who_cannot_look_into_a_namespace_seals_no_store() {
    on_a_bare_node(|node| {
        let (conf, pods) = (alone(4), ["c1", "c2", "c3"].map(|id| node.sandbox(id, id)));
        let add = |pod: &Sandbox, strike| {
            fs::remove_dir_all(RUN).or_else(|error| if Path::new(RUN).exists() { Err(error) } else { Ok(()) }).unwrap();
            run_of(node, IPAM, pod, "ADD", &conf, strike)
        };
        let address = add(&pods[0], None).ended.unwrap().address();
        // What a bridge plugin does: the host has neither a route nor a label for it.
        inside(&pods[0].netns, move || run("ip", &["address", "add", &format!("{address}/16"), "dev", "lo"]));
        let mut sealed = 0;
        for strike in blind(&add(&pods[1], None).calls) {
            let struck = add(&pods[1], Some(strike)).ended.unwrap();
            if struck.ok {
                sealed += 1;
                assert_ne!(struck.address(), address, "with {strike}");
            }
            let next = finish(node.start(IPAM, &pods[2], "ADD"), &conf);
            assert_ne!(next.address(), address, "after {strike}: {struck:?}");
        }
        assert!(sealed > 0, "what is not needed may fail");
    });
}

#[test]
fn cm4_who_cannot_look_into_a_namespace_frees_nothing() {
    on_a_bare_node(|node| {
        let (conf, pod) = (alone(4), node.sandbox("c1", "c1"));
        let ipam = |pod: &Sandbox, command| finish(node.start(IPAM, pod, command), &conf);
        let address = ipam(&pod, "ADD").address();
        inside(&pod.netns, move || run("ip", &["address", "add", &format!("{address}/16"), "dev", "lo"]));
        fs::remove_dir_all(RUN).unwrap();
        let others: BTreeSet<_> = ["c2", "c3"].map(|id| ipam(&node.sandbox(id, id), "ADD").address()).into();
        let record = Path::new(RUN).join("lease").join(address.to_string());
        fs::File::open(record).unwrap().set_modified(std::time::SystemTime::now() - Duration::from_mins(11)).unwrap();
        for strike in blind(&run_of(node, IPAM, &pod, "GC", &conf, None).calls) {
            let struck = run_of(node, IPAM, &pod, "GC", &conf, Some(strike)).ended.unwrap();
            assert_eq!(node.store().counts().unwrap().unreadable, 1, "after {strike}: {struck:?}");
            let listed = node.store().list().unwrap().into_iter().map(|(address, _)| address).filter(|there| *there != address);
            assert_eq!(listed.collect::<BTreeSet<_>>(), others, "after {strike}: {struck:?}");
        }
    });
}

#[test]
fn who_cannot_read_what_is_promised_back_offers_nothing() {
    on_a_bare_node(|node| {
        let promised = pool_address(1);
        fs::create_dir_all("/var/lib/azure-vnet/quarantine").unwrap();
        fs::write(format!("/var/lib/azure-vnet/quarantine/{promised}"), "whatever it says").unwrap();
        let (conf, pods) = (alone(3), ["c1", "c2"].map(|id| node.sandbox(id, id)));
        let calls = run_of(node, IPAM, &pods[0], "ADD", &conf, None).calls;
        for strike in blind(&calls) {
            fs::remove_dir_all(RUN).unwrap();
            let struck = run_of(node, IPAM, &pods[0], "ADD", &conf, Some(strike)).ended.unwrap();
            assert!(!struck.ok || struck.address() != promised, "with {strike}");
            assert_ne!(finish(node.start(IPAM, &pods[1], "ADD"), &conf).address(), promised, "after {strike}: {struck:?}");
        }
    });
}

#[test]
fn st4_a_kernel_that_does_not_answer_is_no_full_pool() {
    on_a_node(3, |node| {
        let pod = node.sandbox("c1", "web-0");
        let silent = Strike { at: 0, call: SEND, blow: Blow::FailFrom(Errno::ENOBUFS) };
        let struck = run_of(node, PLUGIN, &pod, "ADD", &conf("1.0.0"), Some(silent)).ended.unwrap();
        assert!(struck.code() == 11 && struck.out.contains("does not say whether 10.240.1.1 is in use"), "{struck:?}");
        assert!(!Path::new(RUN).join("want/uid-of-web-0").exists(), "more addresses would not help");
        assert_eq!(node.add(&pod).address(), pool_address(1), "it keeps its place");
    });
}

/// Each look of a run fails, once or from then on.
fn blind(calls: &[u64]) -> Vec<Strike> {
    let looks = calls.iter().copied().enumerate().filter(|(_, call)| LOOKING.contains(call));
    let blows = |call| match call {
        SETNS => vec![Blow::Fail(Errno::ENOMEM), Blow::FailFrom(Errno::ENOMEM)],
        _ => vec![Blow::Fail(Errno::ENOMEM)],
    };
    looks.flat_map(|(at, call)| blows(call).into_iter().map(move |blow| Strike { at, call, blow })).collect()
}

/// Learns the addresses from a file: of a service's answer the pieces, and so the system calls, would be another number each time.
fn alone(pool: u8) -> Value {
    run("mount", &["-t", "tmpfs", "tmpfs", "/etc"]);
    fs::create_dir("/etc/kubernetes").unwrap();
    let addresses: Vec<_> = (1..=pool).map(|n| json!({ "Address": pool_address(n), "IsPrimary": false })).collect();
    let subnets = json!([{ "Prefix": "10.240.0.0/16", "IPAddresses": addresses }]);
    let file = json!({ "Interfaces": [{ "MacAddress": "020000000004", "IsPrimary": true, "IPSubnets": subnets }] });
    fs::write("/etc/kubernetes/interfaces.json", file.to_string()).unwrap();
    let mut conf = conf("1.1.0");
    conf["ipam"] = json!({ "type": "azure-vnet-ipam", "environment": "mas" });
    conf
}
