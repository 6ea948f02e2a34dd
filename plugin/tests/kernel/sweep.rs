//! Kills the plugin as each of its system calls that change something begins and ends, makes each of them fail in every way, and checks
//! that the next command mends what is left: no leak, no double, and host and pods in touch with the other node. In each mode, without an
//! agent on a store that every ADD finds lost, with addresses of both families from another plugin, and of the address plugin by itself. A
//! sample by default, of a seed that is printed (`AZURE_VNET_SWEEP_SEED` repeats it); `AZURE_VNET_SWEEP=all` strikes everywhere.

use std::{collections::BTreeMap, fs};

use serde_json::{Value, json};

use crate::fabric::{Fabric, OTHER_NODE};
use crate::node::{DEADLINE, Ended, Node, RUN, Sandbox, await_that, finish, on_a_bare_node};
use crate::services::{Service, wireserver};
use crate::setting::{Setting, addresses_of, pool};
use crate::strike::{Blow, Run, Strike, choose, report, run_of, strikes};
use crate::ways::ask;

#[test]
fn add_struck_anywhere_is_completed_by_the_same_add_or_cleaned_by_del() {
    sweep("ADD", |scene, pod, round, struck| {
        if let Some(answered) = struck.answer.filter(|ended| ended.ok) {
            scene.is_whole(pod, &answered, &struck.when);
        }
        match round % 3 {
            0 => scene.complete_then_delete(pod, &struck.when),
            1 => scene.del(pod, &struck.when),
            _ => scene.replace_then_delete(pod, &struck.when),
        }
    });
}

#[test]
fn del_struck_anywhere_is_finished_by_the_next() {
    sweep("DEL", |scene, pod, round, struck| {
        if round % 2 == 0 {
            // Another pod comes before the DEL is repeated: it gets another address, or this one after it is wholly free.
            let other = scene.node.sandbox(&format!("d{round}"), &format!("db-{round}"));
            let added = scene.add(&other, &struck.when);
            assert_ne!(added.address(), scene.neighbour.address(), "{}", struck.when);
            scene.del(pod, &struck.when);
            scene.check(&other, &added, &struck.when);
            scene.del(&other, &struck.when);
        }
        scene.del(pod, &struck.when);
    });
}

#[test]
fn check_struck_anywhere_changes_nothing() {
    sweep("CHECK", |scene, pod, _, struck| {
        let added = struck.before.unwrap();
        scene.check(pod, &added, &struck.when);
        if scene.setting.has_leases() {
            assert_eq!(scene.add(pod, &struck.when).json(), added.json(), "{}", struck.when);
        }
        scene.setting.assert_holds(scene.node, &[&scene.neighbour, &added], &struck.when);
        scene.del(pod, &struck.when);
    });
}

#[test]
fn gc_struck_anywhere_is_finished_by_the_next() {
    sweep("GC", |scene, pod, _, struck| {
        let again = scene.run(pod, "GC", None);
        assert!(again.ok, "{}: {again:?}", struck.when);
    });
}

/// What a blow left, for the test to judge.
struct Struck {
    when: String,
    before: Option<Ended>,
    answer: Option<Ended>,
}

/// A node in its setting, with a pod that must not notice what happens to others.
struct Scene<'a> {
    node: &'a Node,
    setting: Setting,
    fabric: Fabric,
    service: Service,
    bystander: Sandbox,
    neighbour: Ended,
}

/// Strikes a command on one pod after another, in every setting.
fn sweep(command: &'static str, mend: impl Fn(&Scene<'_>, &Sandbox, usize, Struck) + Copy + Send + 'static) {
    for setting in Setting::ALL {
        on_a_bare_node(move |node| Scene::new(node, setting).sweep(command, mend));
    }
}

impl<'a> Scene<'a> {
    fn new(node: &'a Node, setting: Setting) -> Self {
        let (fabric, service) = (Fabric::like_azure(node), Service::start(wireserver(&pool())));
        let mut scene =
            Self { node, setting, fabric, service, bystander: node.sandbox("bystander", "bystander-0"), neighbour: Ended::default() };
        setting.prepare(node);
        scene.neighbour = scene.add(&scene.bystander, "the bystander");
        scene
    }

    fn sweep(&self, command: &str, mend: impl Fn(&Self, &Sandbox, usize, Struck)) {
        let (whole, before) = self.prepare(command, "whole");
        let calls = self.struck(&whole, command, before.as_ref(), None).calls;
        self.del(&whole, "the whole command");
        let all = strikes(&calls);
        let setting = format!("{command}, {}", self.setting);
        let chosen = choose(&setting, &all, self.setting.sample());
        let (mut counts, mut missed) = (BTreeMap::<&str, usize>::new(), 0);
        for (round, blow) in chosen.iter().enumerate() {
            self.setting.rest(self.node);
            let (pod, before) = self.prepare(command, &format!("c{round}"));
            let when = format!("{setting} after {blow}");
            let Run { calls, ended: answer } = self.struck(&pod, command, before.as_ref(), Some(*blow));
            missed += usize::from(calls.len() <= blow.at);
            *counts.entry(outcome(*blow, answer.as_ref(), &when)).or_default() += 1;
            mend(self, &pod, round, Struck { when: when.clone(), before, answer });
            // A store that is lost is made anew by what needs addresses.
            let status = self.run(&self.bystander, "STATUS", None);
            assert!(status.ok, "{when}: {status:?}");
            self.setting.assert_holds(self.node, &[&self.neighbour], &when);
            if pod.netns.exists() {
                assert_eq!(pod.links(), [], "{when}");
                pod.drop_netns();
            }
            self.is_whole(&self.bystander, &self.neighbour, &when);
            self.fabric.host_is_connected(&when);
        }
        println!("{setting}: {} of {} blows at {} system calls: {counts:?}", chosen.len(), all.len(), calls.len());
        report(&format!("{setting}: of"), all.len(), "blows");
        for (outcome, count) in &counts {
            report(&format!("{setting}: {outcome}"), *count, "blows");
        }
        // How many calls a command makes depends on what rests in the store, so that the last may not come.
        assert!(missed * 4 <= chosen.len(), "{setting}: {missed} of {} blows did not strike", chosen.len());
    }

    /// A pod as the command finds it, and what its ADD answered.
    fn prepare(&self, command: &str, name: &str) -> (Sandbox, Option<Ended>) {
        let pod = self.node.sandbox(name, &format!("web-{name}"));
        if command == "ADD" {
            if self.setting == Setting::Alone {
                fs::remove_dir_all(RUN).unwrap();
            }
            return (pod, None);
        }
        let added = self.add(&pod, "before the command");
        if command == "GC" {
            pod.drop_netns();
            await_that("the link goes with its namespace", || self.node.host_links().len() == usize::from(self.setting.wires()));
        }
        (pod, Some(added))
    }

    fn configuration(&self, command: &str, before: Option<&Ended>) -> Value {
        let version = if matches!(command, "GC" | "STATUS") { "1.1.0" } else { "1.0.0" };
        let mut conf = self.setting.configuration(version, &self.service);
        match command {
            "CHECK" => conf["prevResult"] = before.unwrap().json(),
            "GC" => conf["cni.dev/valid-attachments"] = json!([{ "containerID": "bystander", "ifname": "eth0" }]),
            _ => {}
        }
        conf
    }

    fn run(&self, pod: &Sandbox, command: &str, before: Option<&Ended>) -> Ended {
        finish(self.node.start(self.setting.plugin(), pod, command), &self.configuration(command, before))
    }

    fn struck(&self, pod: &Sandbox, command: &str, before: Option<&Ended>, strike: Option<Strike>) -> Run {
        run_of(self.node, self.setting.plugin(), pod, command, &self.configuration(command, before), strike)
    }

    fn add(&self, pod: &Sandbox, when: &str) -> Ended {
        let added = self.run(pod, "ADD", None);
        assert!(added.ok, "{when}: {added:?}");
        added
    }

    fn del(&self, pod: &Sandbox, when: &str) {
        let deleted = self.run(pod, "DEL", None);
        assert!(deleted.ok, "{when}: {deleted:?}");
    }

    fn check(&self, pod: &Sandbox, added: &Ended, when: &str) {
        let checked = self.run(pod, "CHECK", Some(added));
        assert!(checked.ok, "{when}: {checked:?}");
    }

    /// A pod has all that its ADD answered, and the other node reaches it.
    fn is_whole(&self, pod: &Sandbox, added: &Ended, when: &str) {
        self.check(pod, added, when);
        if !self.setting.wires() {
            return;
        }
        for address in addresses_of(added) {
            assert!(ask(None, Some(&pod.netns), address, address).is_ok(), "{when}: the host's way to {address}");
        }
        self.fabric.expect_way(Some(&self.fabric.other), OTHER_NODE, Some(&pod.netns), added.address(), added.address(), when);
    }

    /// The same ADD again gives a whole pod, and the answer of a third is the same.
    fn complete_then_delete(&self, pod: &Sandbox, when: &str) {
        if !self.setting.has_leases() {
            self.del(pod, when);
        }
        let added = self.add(pod, when);
        assert_ne!(added.address(), self.neighbour.address(), "{when}");
        self.is_whole(pod, &added, when);
        if self.setting.has_leases() {
            assert_eq!(self.add(pod, when).json(), added.json(), "{when}");
        }
        self.setting.assert_holds(self.node, &[&self.neighbour, &added], when);
        self.del(pod, when);
    }

    /// The runtime gives up on the sandbox and makes another for the same pod, whose name the first one's link has.
    fn replace_then_delete(&self, old: &Sandbox, when: &str) {
        let new = self.node.sandbox(&format!("{}-new", old.container), &old.pod);
        if !self.setting.has_leases() {
            self.del(old, when);
        }
        let added = self.add(&new, when);
        self.del(old, when);
        self.is_whole(&new, &added, when);
        self.del(&new, when);
    }
}

/// How the struck command ended; one that fails says so in the form of the specification.
fn outcome(blow: Strike, answer: Option<&Ended>, when: &str) -> &'static str {
    match (blow.blow, answer) {
        (Blow::KillBefore | Blow::KillAfter, None) => "killed",
        (Blow::Fail(_) | Blow::FailFrom(_), Some(ended)) if ended.ok => "failed call, command succeeded",
        (Blow::Fail(_) | Blow::FailFrom(_), Some(ended)) => {
            // Where standard output itself fails there is no one to tell.
            assert!(ended.out.is_empty() || ended.json()["code"].is_u64(), "{when}: {ended:?}");
            "failed call, command failed"
        }
        (_, Some(_)) => "ended before the blow",
        (Blow::Fail(_) | Blow::FailFrom(_), None) => panic!("{when}: no end within {DEADLINE:?}"),
    }
}
