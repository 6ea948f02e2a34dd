//! Kills the plugin at one system call after another, and checks that the next command mends what is left: no leak, no double.
//! A sample by default; `AZURE_VNET_SWEEP=all` stops at every system call.

#![cfg(target_arch = "x86_64")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::unused_self,
    clippy::wildcard_enum_match_arm,
    missing_docs,
    reason = "a test stops at the first surprise, and its node is the subject of what it does"
)]

mod node;

use std::{io::Write as _, net::Ipv4Addr, time::Duration};

use nix::{
    sys::{
        ptrace::{self, Options},
        signal::Signal,
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use node::{Node, PLUGIN, Sandbox, conf, on_a_node, pool_address};
use serde_json::Value;

/// System calls of x86-64 that change something outside the process, by number.
const CHANGING: [u64; 16] = [
    1,   // write
    18,  // pwrite64
    44,  // sendto
    46,  // sendmsg
    73,  // flock
    77,  // ftruncate
    82,  // rename
    83,  // mkdir
    86,  // link
    87,  // unlink
    257, // openat
    263, // unlinkat
    264, // renameat
    265, // linkat
    308, // setns
    316, // renameat2
];
const READ: u64 = 0;
/// `PTRACE_SYSCALL_INFO_ENTRY`.
const ENTRY: u8 = 1;
/// How many stops a sample has of one command at least.
const SAMPLE: usize = 30;

#[test]
fn add_killed_anywhere_is_completed_by_the_same_add_or_cleaned_by_del() {
    on_a_node(20, |node| {
        let bystander = node.sandbox("bystander", "bystander-0");
        let neighbour = node.add(&bystander);
        let mut number = 0;
        let stops = stops_of(node, "ADD", &mut || {
            number += 1;
            Case { pod: node.sandbox(&format!("probe{number}"), &format!("probe-{number}")), added: None }
        });
        println!("ADD: {} stops of {} system calls", stops.chosen.len(), stops.all);
        for (round, stop) in stops.chosen.iter().enumerate() {
            let pod = node.sandbox(&format!("c{round}"), &format!("web-{round}"));
            let when = format!("after ADD was killed at system call {stop}");
            kill_at(node, &pod, "ADD", &conf("1.0.0"), Some(*stop));
            match round % 3 {
                0 => complete_then_delete(node, &pod, neighbour.address(), &when),
                1 => assert!(node.del(&pod).ok, "{when}"),
                _ => replace_then_delete(node, &pod, &when),
            }
            node.assert_holds(&[neighbour.address()], &when);
            assert_eq!(pod.links(), [], "{when}");
            let check = node.check(&bystander, &neighbour);
            assert!(check.ok, "{when}: {check:?}");
            rest(node);
        }
    });
}

#[test]
fn del_killed_anywhere_is_finished_by_the_next() {
    on_a_node(20, |node| {
        let bystander = node.sandbox("bystander", "bystander-0");
        let neighbour = node.add(&bystander);
        let mut number = 0;
        let stops = stops_of(node, "DEL", &mut || {
            number += 1;
            let pod = node.sandbox(&format!("probe{number}"), &format!("probe-{number}"));
            let added = node.add(&pod);
            Case { pod, added: Some(added.address()) }
        });
        println!("DEL: {} stops of {} system calls", stops.chosen.len(), stops.all);
        for (round, stop) in stops.chosen.iter().enumerate() {
            let pod = node.sandbox(&format!("c{round}"), &format!("web-{round}"));
            let address = node.add(&pod).address();
            let when = format!("after DEL of {address} was killed at system call {stop}");
            kill_at(node, &pod, "DEL", &conf("1.0.0"), Some(*stop));
            if round % 2 == 0 {
                // Another pod comes before the DEL is repeated: it gets another address, or this one after it is wholly free.
                let other = node.sandbox(&format!("d{round}"), &format!("db-{round}"));
                let added = node.add(&other);
                assert_ne!(added.address(), neighbour.address(), "{when}");
                assert!(node.del(&pod).ok, "{when}");
                let check = node.check(&other, &added);
                assert!(check.ok, "{when}: {check:?}");
                assert!(node.del(&other).ok, "{when}");
            }
            assert!(node.del(&pod).ok, "{when}");
            node.assert_holds(&[neighbour.address()], &when);
            assert_eq!(pod.links(), [], "{when}");
            rest(node);
        }
    });
}

/// The same ADD again gives a whole pod, and the answer of a third is the same.
fn complete_then_delete(node: &Node, pod: &Sandbox, taken: Ipv4Addr, when: &str) {
    let added = node.add(pod);
    assert_ne!(added.address(), taken, "{when}");
    let check = node.check(pod, &added);
    assert!(check.ok, "{when}: {check:?}");
    assert_eq!(node.add(pod).json(), added.json(), "{when}");
    node.assert_holds(&[taken, added.address()], when);
    assert!(node.del(pod).ok, "{when}");
}

/// The runtime gives up on the sandbox and makes another for the same pod, whose name the first one's link has.
fn replace_then_delete(node: &Node, old: &Sandbox, when: &str) {
    let new = node.sandbox(&format!("{}-new", old.container), &old.pod);
    let added = node.add(&new);
    assert!(added.ok, "{when}: {added:?}");
    assert!(node.del(old).ok, "{when}");
    let check = node.check(&new, &added);
    assert!(check.ok, "{when}: {check:?}");
    assert!(node.del(&new).ok, "{when}");
}

/// Lets the agent end all rests at once, so that the pool never runs dry.
fn rest(node: &Node) {
    let addresses: Vec<_> = (1..=20).map(pool_address).collect();
    node.adopt(&addresses, 2, Duration::ZERO);
    node.keeper().sweep().unwrap();
}

struct Case {
    pod: Sandbox,
    added: Option<Ipv4Addr>,
}

struct Stops {
    all: usize,
    chosen: Vec<usize>,
}

/// Runs the command once to its end, and chooses where to stop the others: all changing system calls, and others spread evenly.
fn stops_of(node: &Node, command: &str, case: &mut dyn FnMut() -> Case) -> Stops {
    let Case { pod, added } = case();
    let calls = kill_at(node, &pod, command, &conf("1.0.0"), None);
    assert!(node.del(&pod).ok, "{added:?}");
    let every = std::env::var("AZURE_VNET_SWEEP").is_ok_and(|value| value == "all");
    let stride = (calls.len() / SAMPLE).max(1);
    let chosen = calls.iter().enumerate().filter(|(at, call)| every || CHANGING.contains(call) || at % stride == 0).map(|(at, _)| at);
    let chosen: Vec<_> = chosen.collect();
    assert!(chosen.len() >= SAMPLE, "{command}: {} stops", chosen.len());
    rest(node);
    Stops { all: calls.len(), chosen }
}

/// Runs a command under ptrace and kills it as it enters the `stop`th system call after its configuration was given. Without a stop it
/// runs to its end. Returns the numbers of the system calls that it made.
#[expect(clippy::zombie_processes, reason = "ptrace waits for it")]
fn kill_at(node: &Node, pod: &Sandbox, command: &str, conf: &Value, stop: Option<usize>) -> Vec<u64> {
    let mut child = node.start(PLUGIN, pod, command);
    let pid = Pid::from_raw(child.id().try_into().unwrap());
    ptrace::attach(pid).unwrap();
    // The stop of its exec may come first.
    while let WaitStatus::Stopped(_, signal) = waitpid(pid, Some(WaitPidFlag::__WALL)).unwrap() {
        if signal == Signal::SIGSTOP {
            break;
        }
        ptrace::cont(pid, None).unwrap();
    }
    ptrace::setoptions(pid, Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_EXITKILL).unwrap();
    child.stdin.take().unwrap().write_all(conf.to_string().as_bytes()).unwrap();
    let (mut calls, mut configured) = (Vec::new(), false);
    ptrace::syscall(pid, None).unwrap();
    loop {
        match waitpid(pid, Some(WaitPidFlag::__WALL)).unwrap() {
            WaitStatus::PtraceSyscall(_) => {
                let registers = ptrace::getregs(pid).unwrap();
                let entering = ptrace::syscall_info(pid).unwrap().op == ENTRY;
                if configured && entering {
                    if stop == Some(calls.len()) {
                        break;
                    }
                    calls.push(registers.orig_rax);
                }
                // Nothing is done before the configuration is read to its end: the calls from there on are the command's.
                configured |= !entering && (registers.orig_rax, registers.rdi, registers.rax) == (READ, 0, 0);
                ptrace::syscall(pid, None).unwrap();
            }
            WaitStatus::Stopped(_, signal) => ptrace::syscall(pid, signal).unwrap(),
            WaitStatus::Exited(_, status) => {
                assert!(stop.is_none(), "ended before the stop: {calls:?}");
                assert_eq!(status, 0);
                return calls;
            }
            other => panic!("{other:?}"),
        }
    }
    nix::sys::signal::kill(pid, Signal::SIGKILL).unwrap();
    while !matches!(waitpid(pid, Some(WaitPidFlag::__WALL)), Ok(WaitStatus::Signaled(..) | WaitStatus::Exited(..))) {}
    calls
}
