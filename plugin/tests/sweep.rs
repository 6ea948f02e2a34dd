//! Kills the plugin as each of its system calls that change something begins and ends, makes each of them fail in every way, and checks
//! that the next command mends what is left: no leak, no double. A sample by default, of a seed that is printed (`AZURE_VNET_SWEEP_SEED`
//! repeats it); `AZURE_VNET_SWEEP=all` strikes everywhere.

#![cfg(target_arch = "x86_64")]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::unused_self,
    clippy::wildcard_enum_match_arm,
    reason = "a test stops at the first surprise, and its node is the subject of what it does"
)]

mod node;
mod strike;

use std::{collections::BTreeMap, env, net::Ipv4Addr, time::Duration};

use node::{DEADLINE, Ended, Node, Sandbox, await_that, conf, on_a_node, pool_address};
use serde_json::{Value, json};
use strike::{Blow, Strike, run, strikes};

/// How many blows a sample has of one command.
const SAMPLE: usize = 60;
const POOL: u8 = 20;

#[test]
fn add_struck_anywhere_is_completed_by_the_same_add_or_cleaned_by_del() {
    sweep("ADD", |node, pod, bystander, round, struck| {
        if let Some(answered) = struck.answer.filter(|ended| ended.ok) {
            let check = node.check(pod, &answered);
            assert!(check.ok, "{}: answered, and {check:?}", struck.when);
        }
        match round % 3 {
            0 => complete_then_delete(node, pod, bystander, &struck.when),
            1 => assert!(node.del(pod).ok, "{}", struck.when),
            _ => replace_then_delete(node, pod, &struck.when),
        }
    });
}

#[test]
fn del_struck_anywhere_is_finished_by_the_next() {
    sweep("DEL", |node, pod, bystander, round, struck| {
        if round % 2 == 0 {
            // Another pod comes before the DEL is repeated: it gets another address, or this one after it is wholly free.
            let other = node.sandbox(&format!("d{round}"), &format!("db-{round}"));
            let added = node.add(&other);
            assert_ne!(added.address(), bystander, "{}", struck.when);
            assert!(node.del(pod).ok, "{}", struck.when);
            let check = node.check(&other, &added);
            assert!(check.ok, "{}: {check:?}", struck.when);
            assert!(node.del(&other).ok, "{}", struck.when);
        }
        assert!(node.del(pod).ok, "{}", struck.when);
    });
}

#[test]
fn check_struck_anywhere_changes_nothing() {
    sweep("CHECK", |node, pod, bystander, _, struck| {
        let added = struck.before.unwrap();
        let check = node.check(pod, &added);
        assert!(check.ok, "{}: {check:?}", struck.when);
        assert_eq!(node.add(pod).json(), added.json(), "{}", struck.when);
        node.assert_holds(&[bystander, added.address()], &struck.when);
        assert!(node.del(pod).ok, "{}", struck.when);
    });
}

#[test]
fn gc_struck_anywhere_is_finished_by_the_next() {
    sweep("GC", |node, pod, _, _, struck| {
        let again = node.run(pod, "GC", &configuration("GC", struck.before.as_ref()));
        assert!(again.ok, "{}: {again:?}", struck.when);
    });
}

/// What a blow left, for the test to judge.
struct Struck {
    when: String,
    before: Option<Ended>,
    answer: Option<Ended>,
}

/// Strikes a command on one pod after another, beside a bystander that must not notice.
fn sweep(command: &'static str, mend: impl Fn(&Node, &Sandbox, Ipv4Addr, usize, Struck) + Send + 'static) {
    on_a_node(POOL, move |node| {
        let bystander = node.sandbox("bystander", "bystander-0");
        let neighbour = node.add(&bystander);
        let (whole, before) = prepare(node, command, "whole");
        let calls = run(node, &whole, command, &configuration(command, before.as_ref()), None).calls;
        assert!(node.del(&whole).ok);
        let all = strikes(&calls);
        let chosen = choose(command, &all);
        let mut counts = BTreeMap::<&str, usize>::new();
        for (round, blow) in chosen.iter().enumerate() {
            rest(node);
            let (pod, before) = prepare(node, command, &format!("c{round}"));
            let when = format!("{command} after {blow}");
            let answer = run(node, &pod, command, &configuration(command, before.as_ref()), Some(*blow)).ended;
            *counts.entry(outcome(*blow, answer.as_ref(), &when)).or_default() += 1;
            mend(node, &pod, neighbour.address(), round, Struck { when: when.clone(), before, answer });
            node.assert_holds(&[neighbour.address()], &when);
            if pod.netns.exists() {
                assert_eq!(pod.links(), [], "{when}");
            }
            let check = node.check(&bystander, &neighbour);
            assert!(check.ok, "{when}: {check:?}");
        }
        println!("{command}: {} of {} blows at {} system calls: {counts:?}", chosen.len(), all.len(), calls.len());
    });
}

/// A pod as the command finds it, and what its ADD answered.
fn prepare(node: &Node, command: &str, name: &str) -> (Sandbox, Option<Ended>) {
    let pod = node.sandbox(name, &format!("web-{name}"));
    if command == "ADD" {
        return (pod, None);
    }
    let added = node.add(&pod);
    assert!(added.ok, "{added:?}");
    if command == "GC" {
        pod.drop_netns();
        await_that("the link goes with its namespace", || node.host_links().len() == 1);
    }
    (pod, Some(added))
}

fn configuration(command: &str, before: Option<&Ended>) -> Value {
    let mut conf = conf(if command == "GC" { "1.1.0" } else { "1.0.0" });
    match command {
        "CHECK" => conf["prevResult"] = before.unwrap().json(),
        "GC" => conf["cni.dev/valid-attachments"] = json!([{ "containerID": "bystander", "ifname": "eth0" }]),
        _ => {}
    }
    conf
}

/// How the struck command ended; one that fails says so in the form of the specification.
fn outcome(blow: Strike, answer: Option<&Ended>, when: &str) -> &'static str {
    match (blow.blow, answer) {
        (Blow::KillBefore | Blow::KillAfter, None) => "killed",
        (Blow::Fail(_), Some(ended)) if ended.ok => "failed call, command succeeded",
        (Blow::Fail(_), Some(ended)) => {
            // Where standard output itself fails there is no one to tell.
            assert!(ended.out.is_empty() || ended.json()["code"].is_u64(), "{when}: {ended:?}");
            "failed call, command failed"
        }
        (_, Some(_)) => "ended before the blow",
        (Blow::Fail(_), None) => panic!("{when}: no end within {DEADLINE:?}"),
    }
}

/// All blows, or a sample of them.
fn choose(command: &str, all: &[Strike]) -> Vec<Strike> {
    if env::var("AZURE_VNET_SWEEP").is_ok_and(|value| value == "all") {
        return all.to_vec();
    }
    let seed = env::var("AZURE_VNET_SWEEP_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| u64::from(std::process::id()));
    println!("{command}: sample of AZURE_VNET_SWEEP_SEED={seed}");
    let mut state = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut next = |below: usize| {
        // xorshift64*, George Marsaglia and Sebastiano Vigna.
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        usize::try_from((state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % u64::try_from(below).unwrap()).unwrap()
    };
    let (kills, failures): (Vec<_>, Vec<_>) = all.iter().copied().partition(|strike| !matches!(strike.blow, Blow::Fail(_)));
    [kills, failures].iter().flat_map(|kind| (0..SAMPLE / 2).map(|_| kind[next(kind.len())]).collect::<Vec<_>>()).collect()
}

/// The same ADD again gives a whole pod, and the answer of a third is the same.
fn complete_then_delete(node: &Node, pod: &Sandbox, taken: Ipv4Addr, when: &str) {
    let added = node.add(pod);
    assert!(added.ok, "{when}: {added:?}");
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
    let addresses: Vec<_> = (1..=POOL).map(pool_address).collect();
    node.adopt(&addresses, 2, Duration::ZERO);
    node.keeper().sweep().unwrap();
}
