//! One node with one pod on which all agree, and what is said once one of them differs.

use std::{collections::BTreeMap, net::Ipv4Addr};

use azure_vnet_crds::AzureVnetNode;
use serde_json::{Value, json};

mod repair;

use super::{
    Finding, Kind, Outcome, Pod, Report, Source, Sources, choose, compare,
    node::{self, Facts, Link, PodName, Record, State},
};
use crate::look::{Cluster, Machine};

const WEB: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 21);
const FREE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 22);

/// All words, which a test changes.
struct Told {
    cluster: Cluster,
    before: Vec<Pod>,
    after: Vec<Pod>,
    nodes: BTreeMap<String, Result<node::Report, String>>,
}

impl Told {
    /// Everybody agrees: aks-1 has two addresses, of which default/web has one.
    fn agreed() -> Self {
        let machine = Machine { name: "aks-1".into(), uid: "node-1".into(), ..Machine::default() };
        let cluster = Cluster {
            at: "2026-11-21T07:20:00Z".parse().unwrap(),
            pools: vec![object("aks-1", "node-1", &["1/10.0.0.21", "2/10.0.0.22"])],
            machines: vec![machine],
            ..Cluster::default()
        };
        let pods = vec![pod("web", WEB)];
        Self { cluster, before: pods.clone(), after: pods, nodes: [("aks-1".to_owned(), Ok(own_word()))].into() }
    }

    fn report(&self) -> Report {
        compare(&Sources { cluster: &self.cluster, pods: [&self.before, &self.after], nodes: &self.nodes })
    }

    fn pods(&mut self, pods: Vec<Pod>) {
        (self.before, self.after) = (pods.clone(), pods);
    }

    fn object(&mut self) -> &mut AzureVnetNode {
        &mut self.cluster.pools[0]
    }

    fn node(&mut self) -> &mut node::Report {
        self.nodes.get_mut("aks-1").unwrap().as_mut().unwrap()
    }

    fn facts(&mut self) -> &mut Facts {
        self.node().facts.as_mut().unwrap()
    }

    fn finds(&mut self, kind: node::Kind, what: &str) {
        self.node().findings = vec![node::Finding { kind, address: Some(WEB), attachment: "c/eth0".into(), what: what.into() }];
    }
}

fn object(name: &str, uid: &str, addresses: &[&str]) -> AzureVnetNode {
    serde_json::from_value(json!({
        "apiVersion": "azure-vnet.dev/v1alpha1", "kind": "AzureVnetNode", "metadata": {"name": name, "uid": format!("object-of-{name}")},
        "spec": {
            "node": {"uid": uid, "nicID": "/subscriptions/s/x/nic-1", "subnetPrefix": "10.0.0.0/24"},
            "revision": 7, "config": {"name": "default", "generation": 1}, "addresses": addresses,
        },
        "status": {
            "cloud": {"attached": addresses.len(), "lastReadAt": "2026-11-21T07:18:00Z"},
            "agent": {"objectUID": format!("object-of-{name}"), "bootID": "boot", "storeID": "store", "revisionAdopted": 7},
        },
    }))
    .unwrap()
}

fn own_word() -> node::Report {
    let name = PodName { namespace: "default".into(), name: "web".into(), uid: Some("uid-of-web".into()) };
    let facts = Facts {
        store_id: Some("store".into()),
        pool: Some(node::Pool {
            object_uid: "object-of-aks-1".into(),
            revision: 7,
            addresses: vec!["1/10.0.0.21".parse().unwrap(), "2/10.0.0.22".parse().unwrap()],
        }),
        records: vec![Record { address: WEB, state: State::Leased, pod: Some(name) }],
        links: vec![Link { name: "azv1".into(), address: WEB, attachment: "c/eth0".into() }],
    };
    let at = Some("2026-11-21T07:20:01Z".parse().unwrap());
    node::Report { boot_id: "boot".into(), at, records: 1, links: 1, findings: vec![], facts: Some(facts) }
}

fn pod(name: &str, address: Ipv4Addr) -> Pod {
    Pod {
        namespace: "default".into(),
        name: name.into(),
        uid: format!("uid-of-{name}"),
        node: "aks-1".into(),
        address: Some(address),
        ..Pod::default()
    }
}

fn kinds(report: &Report) -> Vec<(Kind, Option<Ipv4Addr>, &str)> {
    report.findings.iter().map(|found| (found.kind, found.address, found.who.as_str())).collect()
}

fn sources(found: &Finding) -> Vec<Source> {
    found.witnesses.iter().map(|witness| witness.source).collect()
}

/// A change of one word.
type Change = fn(&mut Told);
/// What is found for it, and who is cited.
type Case = (Change, (Kind, Option<Ipv4Addr>, &'static str), &'static [Source]);

#[test]
fn all_that_agrees_is_clean() {
    let report = Told::agreed().report();
    assert_eq!((report.findings, report.unseen), (vec![], vec![]));
    assert_eq!(Told::agreed().report().outcome(), Outcome::Clean);
}

#[test]
fn each_difference_is_named_with_its_witnesses() {
    use Source::{Agent, ApiServer, Azure, Controller, Kernel, Store};
    let cases: [Case; 18] = [
        (|told| told.pods(vec![pod("web", WEB), pod("twin", WEB)]), (Kind::TwoPods, Some(WEB), "default/twin"), &[ApiServer]),
        (
            |told| told.cluster.pools.push(object("aks-2", "", &["9/10.0.0.22"])),
            (Kind::TwoNodes, Some(FREE), "slot 2 of aks-1"),
            &[Controller],
        ),
        (
            |told| told.pods(vec![pod("web", WEB), pod("new", FREE)]),
            (Kind::PodWithoutLease, Some(FREE), "default/new"),
            &[ApiServer, Store],
        ),
        (
            |told| {
                told.pods(vec![pod("new", WEB)]);
                told.known_by_name("web");
            },
            (Kind::TwoOwners, Some(WEB), "default/new"),
            &[ApiServer, Store],
        ),
        (|told| told.pods(vec![]), (Kind::LeaseWithoutPod, Some(WEB), "default/web"), &[Store, ApiServer, Kernel]),
        (
            |told| told.finds(node::Kind::LeaseWithoutLink, "link azv1 is gone"),
            (Kind::LeaseWithoutLink, Some(WEB), "default/web"),
            &[Store, Kernel],
        ),
        (|told| told.finds(node::Kind::LinkWithoutRoute, "no route"), (Kind::LinkWithoutRoute, Some(WEB), "default/web"), &[Store, Kernel]),
        (
            |told| told.finds(node::Kind::BridgedWithoutRoute, "no bridge"),
            (Kind::BridgedWithoutRoute, Some(WEB), "default/web"),
            &[Store, Kernel],
        ),
        (
            |told| {
                told.finds(node::Kind::LinkWithoutLease, "no lease");
                told.facts().records.clear();
            },
            (Kind::LinkWithoutLease, Some(WEB), "default/web"),
            &[Store, Kernel],
        ),
        (
            |told| told.pods(vec![pod("web", WEB), pod("far", Ipv4Addr::new(10, 0, 0, 99))]),
            (Kind::NoAddressOfNode, Some(Ipv4Addr::new(10, 0, 0, 99)), "default/far"),
            &[ApiServer, Controller],
        ),
        (
            |told| {
                told.object().spec.addresses.remove(0);
                told.object().spec.lost = vec!["1/10.0.0.21".parse().unwrap()];
                told.facts().pool.as_mut().unwrap().addresses.remove(0);
                told.cloud("attached", json!(1));
                told.finds(node::Kind::LinkWithoutRoute, "cut off");
            },
            (Kind::LostInUse, Some(WEB), "default/web"),
            &[ApiServer, Controller],
        ),
        (
            |told| told.facts().pool.as_mut().unwrap().addresses.push("3/10.0.0.23".parse().unwrap()),
            (Kind::PoolDiffers, Some(Ipv4Addr::new(10, 0, 0, 23)), "slot 3"),
            &[Controller, Store],
        ),
        (|told| told.facts().pool.as_mut().unwrap().revision = 6, (Kind::RevisionBehind, None, ""), &[Controller, Store]),
        (|told| told.node().boot_id = "next".into(), (Kind::OtherReport, None, ""), &[Agent, Store]),
        (|told| told.cluster.machines[0].uid = "node-2".into(), (Kind::OtherMachine, None, ""), &[Controller, ApiServer]),
        (|told| told.cloud("attached", json!(3)), (Kind::AzureDiffers, None, "nic-1"), &[Azure, Controller]),
        (
            |told| told.cloud("intent", json!({"id": 4, "leader": "a", "notAfter": "2026-11-21T07:08:00Z"})),
            (Kind::WriteOverdue, None, ""),
            &[Controller],
        ),
        (
            |told| {
                let condition = json!({"type": "PoolAdopted", "status": "True", "reason": "Withheld", "message": "10.0.0.22",
                    "lastTransitionTime": "2026-11-21T07:00:00Z"});
                told.object().status.as_mut().unwrap().conditions = vec![serde_json::from_value(condition).unwrap()];
            },
            (Kind::Withheld, None, ""),
            &[Agent],
        ),
    ];
    for (change, expected, cited) in cases {
        let mut told = Told::agreed();
        change(&mut told);
        let report = told.report();
        let first = report.findings.first().unwrap_or_else(|| panic!("{expected:?} is not found"));
        assert_eq!(kinds(&report).first(), Some(&expected), "{report}");
        assert_eq!(sources(first), cited, "{report}");
        assert!(report.findings.len() == 1 || matches!(expected.0, Kind::TwoPods), "one difference is told once: {report}");
        assert_eq!(report.outcome(), Outcome::Differs);
    }
}

impl Told {
    /// The API server has the pod, with another address than its lease.
    fn known_by_name(&mut self, name: &str) {
        for pods in [&mut self.before, &mut self.after] {
            pods.push(Pod { address: None, ..pod(name, WEB) });
        }
    }

    fn cloud(&mut self, field: &str, value: Value) {
        let status = self.object().status.as_mut().unwrap();
        let mut cloud = serde_json::to_value(&status.cloud).unwrap();
        cloud[field] = value;
        status.cloud = serde_json::from_value(cloud).unwrap();
    }
}

#[test]
fn every_node_that_has_a_pool_or_should_have_one_is_looked_at() {
    let mut cluster = Told::agreed().cluster;
    let config = azure_vnet_crds::AzureVnetConfig::new("default", serde_json::from_value(json!({})).unwrap());
    cluster.configs.push(config);
    let machine = |name: &str, provider_id: &str| Machine { name: name.into(), provider_id: provider_id.into(), ..Machine::default() };
    let new = "azure:///subscriptions/s/resourceGroups/mc/providers/Microsoft.Compute/virtualMachines/new";
    cluster.machines.extend([machine("new", new), machine("virtual", "")]);
    assert_eq!(choose(&cluster, &[]), Ok(["aks-1".to_owned(), "new".to_owned()].into()));
    assert_eq!(choose(&cluster, &["virtual".to_owned()]), Ok(["virtual".to_owned()].into()));
    assert!(choose(&cluster, &["nobody".to_owned()]).unwrap_err().contains("nobody"));
}

#[test]
fn what_explains_itself_is_no_difference() {
    let cases: [Change; 8] = [
        // A pod that came, or went, between the two lists.
        |told| told.before.push(pod("new", FREE)),
        |told| told.after.push(pod("new", FREE)),
        |told| told.after.clear(),
        |told| told.pods(vec![pod("web", WEB), Pod { terminating: true, ..pod("old", FREE) }]),
        |told| told.pods(vec![pod("web", WEB), Pod { host_network: true, ..pod("agent", Ipv4Addr::new(10, 0, 0, 4)) }]),
        // An address outside of the subnet: another plugin's.
        |told| told.pods(vec![pod("web", WEB), pod("other", Ipv4Addr::new(10, 244, 0, 7))]),
        // A write is under way.
        |told| {
            told.cloud("attached", json!(3));
            told.cloud("intent", json!({"id": 4, "leader": "a", "notAfter": "2026-11-21T07:21:00Z"}));
        },
        // The object changed after it was read.
        |told| told.facts().pool.as_mut().unwrap().revision = 8,
    ];
    for (number, change) in cases.into_iter().enumerate() {
        let mut told = Told::agreed();
        change(&mut told);
        assert_eq!(kinds(&told.report()), [], "case {number}");
    }
}

#[test]
fn what_was_not_seen_is_never_clean() {
    let cases: [(Change, &[Source]); 6] = [
        (|told| drop(told.nodes.insert("aks-1".into(), Err("no agent runs on it".into()))), &[Source::Store, Source::Kernel]),
        (|told| told.node().facts = None, &[Source::Store]),
        (|told| told.cluster.pools.clear(), &[Source::Controller]),
        (|told| told.cloud("lastReadAt", json!("2026-11-21T06:59:00Z")), &[Source::Azure]),
        (|told| told.cloud("lastReadAt", Value::Null), &[Source::Azure]),
        (|told| told.object().status.as_mut().unwrap().agent = None, &[Source::Agent]),
    ];
    for (change, expected) in cases {
        let mut told = Told::agreed();
        change(&mut told);
        let report = told.report();
        assert_eq!(report.unseen.iter().map(|unseen| unseen.source).collect::<Vec<_>>(), expected, "{report}");
        assert_eq!((report.findings.len(), report.outcome()), (0, Outcome::Incomplete), "{report}");
        assert!(report.to_string().contains("could not be asked") && !report.to_string().contains('✓'), "{report}");
    }
}

#[test]
fn a_nic_whose_machines_imds_speaks_is_read_once_an_hour_and_that_is_late_enough() {
    for (read, expected) in [("2026-11-21T06:10:00Z", Outcome::Clean), ("2026-11-21T06:00:00Z", Outcome::Incomplete)] {
        let mut told = Told::agreed();
        told.cloud("lastReadAt", json!(read));
        told.object().status.as_mut().unwrap().agent.as_mut().unwrap().imds = Some(azure_vnet_crds::node::Imds::default());
        assert_eq!(told.report().outcome(), expected, "{read}");
    }
}

#[test]
fn a_report_of_no_node_is_never_clean() {
    let report = Report::default();
    assert_eq!((report.outcome(), report.to_string().as_str()), (Outcome::Incomplete, "? no node was looked at\n"));
}

#[test]
fn a_node_cannot_speak_to_the_terminal() {
    let mut told = Told::agreed();
    told.finds(node::Kind::LinkWithoutRoute, "\u{1b}[2Jall is well\n");
    let mut silent = Told::agreed();
    silent.nodes.insert("aks-1".into(), Err("\u{1b}[2J".into()));
    for report in [told.report(), silent.report()] {
        assert!(!report.to_string().contains('\u{1b}') && report.to_string().contains("\u{fffd}[2J"), "{report:?}");
    }
}

#[test]
fn only_what_a_second_look_finds_as_well_is_told() {
    let mut first = Told::agreed();
    first.pods(vec![]);
    first.facts().pool.as_mut().unwrap().revision = 6;
    let first = first.report();
    assert_eq!((first.findings.len(), first.suspects()), (2, ["aks-1".to_owned()].into()));
    let mut second = Told::agreed();
    second.pods(vec![]);
    // What is new then may be over the next moment.
    second.cloud("attached", json!(3));
    assert_eq!(second.report().findings.len(), 2);
    let lasting = first.clone().confirmed(second.report());
    assert_eq!(kinds(&lasting), [(Kind::LeaseWithoutPod, Some(WEB), "default/web")]);
    assert_eq!((lasting.once[0].kind, lasting.outcome()), (Kind::AzureDiffers, Outcome::Differs));
    assert_eq!(first.clone().confirmed(Told::agreed().report()).outcome(), Outcome::Clean);
    let mut unseen = Told::agreed();
    unseen.nodes.insert("aks-1".into(), Err("it does not answer".into()));
    assert_eq!(first.confirmed(unseen.report()).outcome(), Outcome::Incomplete);
}

#[test]
fn what_the_second_look_alone_finds_is_never_clean() {
    let mut first = Told::agreed();
    first.facts().pool.as_mut().unwrap().revision = 6;
    let mut second = Told::agreed();
    second.pods(vec![pod("web", WEB), pod("new", FREE)]);
    let report = first.report().confirmed(second.report());
    assert_eq!((kinds(&report), report.outcome()), (vec![], Outcome::Incomplete), "{report}");
    let text = report.to_string();
    assert!(
        text.contains("? aks-1: PodWithoutLease 10.0.0.22 of default/new: found at the second look alone") && !text.contains('✓'),
        "{text}"
    );
    assert_eq!(report.to_repair(&[]), Ok(["aks-1".to_owned()].into()));
    let read: Report = serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
    assert_eq!(read, report);
}

#[test]
fn what_is_said_otherwise_at_a_second_look_is_still_found() {
    let mut first = Told::agreed();
    first.cloud("attached", json!(3));
    first.finds(node::Kind::LeaseWithoutLink, "its namespace is there");
    let mut second = Told::agreed();
    second.cloud("attached", json!(4));
    second.finds(node::Kind::LeaseWithoutLink, "its namespace is gone");
    let expected = [(Kind::LeaseWithoutLink, Some(WEB), "default/web"), (Kind::AzureDiffers, None, "nic-1")];
    let lasting = first.report().confirmed(second.report());
    assert_eq!(kinds(&lasting), expected);
    assert!(lasting.findings[0].what.contains("gone") && lasting.findings[1].what.contains('4'), "the second look's words: {lasting}");
    // The pod is deleted between the looks: its lease is in question at both.
    second.pods(vec![]);
    let lasting = first.report().confirmed(second.report());
    assert_eq!(kinds(&lasting), [(Kind::LeaseWithoutPod, Some(WEB), "default/web"), expected[1]]);
}

#[test]
fn what_either_look_could_not_see_stays_unseen() {
    let sources = |report: &Report| report.unseen.iter().map(|unseen| unseen.source).collect::<Vec<_>>();
    let mut differs = Told::agreed();
    differs.cloud("attached", json!(3));
    let seen = differs.report();
    let silent = |why: &str| {
        let mut silent = Told::agreed();
        silent.cloud("attached", json!(3));
        silent.nodes.insert("aks-1".into(), Err(why.into()));
        silent.report()
    };
    for lasting in [silent("no answer").confirmed(seen.clone()), seen.confirmed(silent("no answer"))] {
        assert_eq!((kinds(&lasting).len(), sources(&lasting)), (1, vec![Source::Store, Source::Kernel]), "{lasting}");
    }
    assert_eq!(silent("no answer").confirmed(Told::agreed().report()).outcome(), Outcome::Incomplete);
    let lasting = silent("no answer").confirmed(silent("broken pipe"));
    assert_eq!(lasting.unseen, silent("broken pipe").unseen, "told once, and in the second look's words");
}

#[test]
fn a_report_is_read_back_as_it_was_written() {
    let mut told = Told::agreed();
    told.pods(vec![]);
    told.cloud("lastReadAt", Value::Null);
    let report = told.report();
    let text = serde_json::to_string(&report).unwrap();
    assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
    for expected in [r#""kind":"leaseWithoutPod""#, r#""source":"store""#, r#""bootID":"boot""#] {
        assert!(text.contains(expected), "{text}");
    }
    let shown = report.to_string();
    for expected in
        ["aks-1: LeaseWithoutPod 10.0.0.21 of default/web", "the API server says: no pod default/web", "remedy: nothing: the agent frees"]
    {
        assert!(shown.contains(expected), "{shown}");
    }
}
