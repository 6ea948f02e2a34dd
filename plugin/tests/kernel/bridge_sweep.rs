//! Strikes the first ADD of a bridged pod, which makes the network and moves the host's addresses, at its system calls: the host is connected
//! right after or after the next command, and nothing of the pod stays. A sample by default; `AZURE_VNET_SWEEP=all` strikes everywhere.

use std::collections::BTreeSet;

use azure_vnet_plugin_core::wiring::Alias;
use nix::errno::Errno;
use serde_json::{Value, json};

use crate::fabric::{self, Fabric};
use crate::node::{self, Node, on_a_node};
use crate::strike::{Blow, Strike, choose, report, run, strikes};

/// How many blows a sample has in one mode.
const SAMPLE: usize = 20;
/// Numbers of system calls.
const SOCKET: u64 = 41;
const SEND: u64 = 44;
const RECEIVE: u64 = 45;

#[test]
fn the_first_bridged_add_struck_anywhere_leaves_a_host_that_the_next_command_connects() {
    for mode in ["bridge", "tunnel"] {
        let all = strikes(&calls_of(move |node| run(node, &node.sandbox("whole", "web-0"), "ADD", &conf(mode), None).calls));
        let chosen = choose(&format!("the first ADD, {mode}"), &all, SAMPLE);
        println!("the first ADD, {mode}: {} of {} blows", chosen.len(), all.len());
        report(&format!("the first ADD, {mode}: of"), all.len(), "blows");
        report(&format!("the first ADD, {mode}: struck"), chosen.len(), "blows");
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
        // The first is for links and routes, the second for rules.
        let strike = Strike { at: places(&calls, SOCKET)[1], call: SOCKET, blow: Blow::Fail(Errno::EPROTONOSUPPORT) };
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
            for at in places(&calls, RECEIVE) {
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

#[test]
fn an_add_that_does_not_hear_of_the_pair_it_took_over_leaves_none() {
    // An older container of the same pod has the name of the host's link.
    let scene = |node: &Node| {
        let (old, new) = (node.sandbox("old", "web-1"), node.sandbox("new", "web-1"));
        assert!(node.add(&old).ok);
        (old, new)
    };
    let calls = calls_of(move |node| run(node, &scene(node).1, "ADD", &conf("transparent"), None).calls);
    for at in places(&calls, RECEIVE) {
        on_a_node(3, move |node| {
            let (old, new) = scene(node);
            let strike = Strike { at, call: RECEIVE, blow: Blow::Fail(Errno::ENOBUFS) };
            let struck = run(node, &new, "ADD", &conf("transparent"), Some(strike)).ended.unwrap();
            assert!(!struck.ok || node.del(&new).ok, "{strike}: {struck:?}");
            assert_eq!(new.links(), [], "{strike}: {struck:?}");
            assert!(node.del(&old).ok);
            node.assert_nothing_left(&strike.to_string());
        });
    }
}

#[test]
fn cm2_an_add_that_cannot_take_back_what_it_made_keeps_its_lease() {
    // The last step is refused: the pod has a default route already.
    let scene = |node: &Node| {
        let pod = node.sandbox("c1", "web-0");
        node::inside(&pod.netns, || {
            node::run("ip", &["link", "add", "x0", "up", "type", "bridge"]);
            node::run("ip", &["route", "add", "default", "dev", "x0"]);
        });
        pod
    };
    for mode in ["transparent", "bridge", "tunnel"] {
        let calls = calls_of(move |node| {
            let whole = run(node, &scene(node), "ADD", &conf(mode), None);
            assert!(!whole.ended.unwrap().ok);
            node.assert_nothing_left(mode);
            whole.calls
        });
        let kept = places(&calls, SEND).into_iter().map(|at| {
            let (send, receive) = std::sync::mpsc::channel();
            on_a_node(3, move |node| {
                let strike = Strike { at, call: SEND, blow: Blow::Fail(Errno::ENOBUFS) };
                let (when, pod) = (format!("{mode} after {strike}"), scene(node));
                let struck = run(node, &pod, "ADD", &conf(mode), Some(strike)).ended.unwrap();
                assert!(!struck.ok, "{when}");
                let leased: BTreeSet<_> = node.leases().into_iter().map(|lease| lease.address).collect();
                let labels = node.host_links().into_iter().filter_map(|link| link.alias?.parse::<Alias>().ok());
                let labels = labels.filter_map(|alias| node::v4(alias.address)).collect();
                let [entries, rules] = node.bridged();
                for there in [node.pod_routes(), entries, rules, labels] {
                    assert!(there.is_subset(&leased), "{when}: {there:?} without leases: {struck:?}");
                }
                assert!(node.run(&pod, "DEL", &conf(mode)).ok, "{when}");
                node.assert_nothing_left(&when);
                send.send(leased.len()).unwrap();
            });
            receive.recv().unwrap()
        });
        assert!(kept.sum::<usize>() > 0, "{mode}: no blow kept ADD from taking something back");
    }
}

#[test]
fn cm2_del_keeps_the_lease_when_a_step_of_the_kernels_fails() {
    for mode in ["transparent", "bridge", "tunnel"] {
        on_a_node(40, move |node| {
            let add = |name: &str| {
                let pod = node.sandbox(name, name);
                let address = node.run(&pod, "ADD", &conf(mode)).address();
                (pod, address)
            };
            let calls = run(node, &add("whole").0, "DEL", &conf(mode), None).calls;
            let sends = places(&calls, SEND);
            assert!(sends.len() > 1, "{mode}: {calls:?}");
            for at in sends {
                let strike = Strike { at, call: SEND, blow: Blow::Fail(Errno::ENOBUFS) };
                let (when, (pod, address)) = (format!("{mode} after {strike}"), add(&format!("c{at}")));
                let struck = run(node, &pod, "DEL", &conf(mode), Some(strike)).ended.unwrap();
                assert_eq!(struck.code(), 11, "{when}");
                // Runtimes take such words for success.
                assert!(!struck.out.contains("not found"), "{when}: {struck:?}");
                assert_eq!(node.leases().iter().map(|lease| lease.address).collect::<Vec<_>>(), [address], "{when}");
                assert!(node.run(&pod, "DEL", &conf(mode)).ok, "{when}");
                node.assert_nothing_left(&when);
            }
        });
    }
}

/// The system calls of a run on a node of its own.
fn calls_of(run: impl FnOnce(&Node) -> Vec<u64> + Send + 'static) -> Vec<u64> {
    let (send, receive) = std::sync::mpsc::channel();
    on_a_node(3, move |node| send.send(run(node)).unwrap());
    receive.recv().unwrap()
}

/// Where a run made a system call.
fn places(calls: &[u64], call: u64) -> Vec<usize> {
    calls.iter().enumerate().filter(|(_, made)| **made == call).map(|(at, _)| at).collect()
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
