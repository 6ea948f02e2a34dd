//! Strikes the first ADD of a bridged pod, which makes the network and moves the host's addresses, at its system calls: the host is connected
//! right after or after the next command, and nothing of the pod stays. A sample by default; `AZURE_VNET_SWEEP=all` strikes everywhere.

use nix::errno::Errno;
use serde_json::{Value, json};

use crate::fabric::{self, Fabric};
use crate::node::{self, Node, on_a_node};
use crate::strike::{Blow, Strike, choose, run, strikes};

/// How many blows a sample has in one mode.
const SAMPLE: usize = 20;
/// Numbers of system calls.
const SOCKET: u64 = 41;
const RECEIVE: u64 = 45;

#[test]
fn the_first_bridged_add_struck_anywhere_leaves_a_host_that_the_next_command_connects() {
    for mode in ["bridge", "tunnel"] {
        let (send, receive) = std::sync::mpsc::channel();
        on_a_node(3, move |node| {
            let pod = node.sandbox("whole", "web-0");
            send.send(run(node, &pod, "ADD", &conf(mode), None).calls).unwrap();
        });
        let all = strikes(&receive.recv().unwrap());
        let chosen = choose(&format!("the first ADD, {mode}"), &all, SAMPLE);
        println!("the first ADD, {mode}: {} of {} blows", chosen.len(), all.len());
        for strike in chosen {
            on_a_node(3, move |node| struck(node, mode, strike));
        }
    }
}

#[test]
fn del_needs_no_rules_for_frames_where_the_kernel_has_none() {
    on_a_node(3, |node| {
        let pod = node.sandbox("c1", "web-0");
        let calls = run(node, &pod, "DEL", &conf("transparent"), None).calls;
        let sockets: Vec<usize> = calls.iter().enumerate().filter(|(_, call)| **call == SOCKET).map(|(at, _)| at).collect();
        // The first is for links and routes, the second for rules.
        let strike = Strike { at: sockets[1], call: SOCKET, blow: Blow::Fail(Errno::EPROTONOSUPPORT) };
        let deleted = run(node, &pod, "DEL", &conf("transparent"), Some(strike)).ended.unwrap();
        assert!(deleted.ok, "{deleted:?}");
    });
}

#[test]
fn an_add_that_does_not_hear_the_kernels_answer_leaves_nothing() {
    for mode in ["transparent", "bridge", "tunnel"] {
        on_a_node(10, move |node| {
            let bystander = node.run(&node.sandbox("bystander", "web-0"), "ADD", &conf(mode)).address();
            let whole = node.sandbox("whole", "web-1");
            let calls = run(node, &whole, "ADD", &conf(mode), None).calls;
            assert!(node.run(&whole, "DEL", &conf(mode)).ok);
            let answers = calls.iter().enumerate().filter(|(_, call)| **call == RECEIVE).map(|(at, _)| at);
            for at in answers {
                let strike = Strike { at, call: RECEIVE, blow: Blow::Fail(Errno::ENOBUFS) };
                let pod = node.sandbox(&format!("c{at}"), "web-1");
                let when = format!("{mode} after {strike}");
                let struck = run(node, &pod, "ADD", &conf(mode), Some(strike)).ended.unwrap();
                assert!(!struck.ok || node.run(&pod, "DEL", &conf(mode)).ok, "{when}: {struck:?}");
                node.assert_holds(&[bystander], &when);
                assert_eq!(pod.links(), [], "{when}");
            }
        });
    }
}

fn struck(node: &Node, mode: &str, strike: Strike) {
    let fabric = Fabric::like_azure(node);
    let pod = node.sandbox("c1", "web-0");
    let when = format!("{mode}: after {strike}");
    let struck = run(node, &pod, "ADD", &conf(mode), Some(strike)).ended;
    if let Some(answered) = struck.filter(|ended| ended.ok) {
        let check = node.run(&pod, "CHECK", &with(conf(mode), answered.json()));
        assert!(check.ok, "{when}: answered, and {check:?}");
    }
    // A kill falls between two messages, and each leaves the host connected; a refused one is taken back.
    if matches!(strike.blow, Blow::KillBefore | Blow::KillAfter) {
        fabric.host_is_connected(&when);
    }
    let again = node.run(&pod, "ADD", &conf(mode));
    assert!(again.ok, "{when}: {again:?}");
    let check = node.run(&pod, "CHECK", &with(conf(mode), again.json()));
    assert!(check.ok, "{when}: {check:?}");
    fabric.host_is_connected(&when);
    fabric.expect_way(Some(&pod.netns), again.address(), Some(&fabric.other), fabric::OTHER_NODE, fabric::OTHER_NODE, &when);
    assert!(node.run(&pod, "DEL", &conf(mode)).ok, "{when}");
    node.assert_nothing_left(&when);
    assert_eq!(pod.links(), [], "{when}");
    fabric.host_is_connected(&when);
}

fn conf(mode: &str) -> Value {
    let mut conf = node::conf("1.0.0");
    conf["mode"] = json!(mode);
    conf
}

fn with(mut conf: Value, previous: Value) -> Value {
    conf["prevResult"] = previous;
    conf
}
