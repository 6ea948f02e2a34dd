use azure_vnet_crds::{AzureVnetNode, AzureVnetNodeSpec, config::MasqueradeMode};

use super::*;

const OWN: [u8; 4] = [0, 4, 5, 6];

fn address(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, last)
}

/// Pods a and b on n1, c on n2, d on n3.
fn probes() -> Vec<Probe> {
    let probe = |pod: &str, node: &str, last| Probe { pod: pod.into(), node: node.into(), address: Some(address(last)), absent: None };
    vec![probe("x/a", "n1", 11), probe("x/b", "n1", 12), probe("x/c", "n2", 21), probe("x/d", "n3", 31)]
}

fn cluster() -> Cluster {
    let pool = |number: u8| {
        let mut spec = AzureVnetNodeSpec::default();
        spec.node.primary_address = address(OWN[usize::from(number)]).to_string();
        spec.node.vnet_cidrs = vec!["10.0.0.0/16".into()];
        spec.effective.masquerade.mode = MasqueradeMode::VNet;
        AzureVnetNode::new(&format!("n{number}"), spec)
    };
    Cluster { pools: vec![pool(1), pool(2), pool(3)], ..Cluster::default() }
}

/// Everybody asks everybody, and the API server; `of` says what of the way comes out, where it is not what should.
fn judged(of: impl Fn(&str, &str) -> Option<Heard>) -> Connectivity {
    let probes = probes();
    let mut asked = vec![];
    for from in &probes {
        for to in probes.iter().filter(|to| to.pod != from.pod) {
            let well = Heard::Probe { name: to.pod.clone(), sees: from.address.unwrap(), micros: 90 };
            let heard = of(&from.pod, &to.pod).unwrap_or(well);
            asked.push(Asked { from: from.pod.clone(), to: Goal::Pod(to.pod.clone()), target: to.address.unwrap().to_string(), heard });
        }
        let heard = of(&from.pod, "api").unwrap_or(Heard::Something { micros: 400 });
        asked.push(Asked { from: from.pod.clone(), to: Goal::ApiServer, target: "10.96.0.1:443".into(), heard });
    }
    connectivity(&cluster(), probes, asked, vec![])
}

fn lost(is_lost: bool) -> Option<Heard> {
    is_lost.then(|| Heard::Nothing { why: "timed out".into() })
}

fn told(found: &Connectivity) -> Vec<(&str, usize)> {
    found.failures.iter().map(|failure| (failure.what.as_str(), failure.ways)).collect()
}

#[test]
fn a_cluster_that_is_well_passes_and_is_shown_as_a_matrix() {
    let found = judged(|_, _| None);
    assert!(found.passed() && found.ways.len() == 16, "{found}");
    let text = found.to_string();
    assert!(text.contains("1 a   n1       10.0.0.11  ·  ✓  ✓  ✓  ✓"), "{text}");
    assert!(text.contains("all 16 ways are open"), "{text}");
}

#[test]
fn a_pod_whose_route_is_gone_is_one_failure_and_not_seven() {
    let found = judged(|from, to| lost(from == "x/d" || to == "x/d"));
    assert_eq!(told(&found), [("x/d is cut off: it reaches nothing, and nothing reaches it: timed out", 7)]);
    assert!(!found.passed() && found.failures[0].look_at.contains("azure-vnet-operator node fsck` on n3"), "{found}");
}

#[test]
fn each_kind_of_failure_is_told_apart() {
    let deaf = judged(|_, to| lost(to == "x/c"));
    assert_eq!(told(&deaf), [("nothing reaches x/c: timed out", 3)]);
    let mute = judged(|from, _| lost(from == "x/c"));
    assert_eq!(told(&mute), [("x/c reaches nothing: timed out", 4)]);
    let within = judged(|from, to| lost([from, to] == ["x/a", "x/b"]));
    assert_eq!(told(&within), [("pods of n1 do not reach each other: timed out", 1)]);
    let between = judged(|from, to| lost((from == "x/a" || from == "x/b") && to == "x/c"));
    assert_eq!(told(&between), [("from n1 to n2 nothing comes through: timed out", 2)]);
    let place = judged(|from, to| lost(from == "x/a" && to == "api"));
    assert_eq!(told(&place), [("no answer from API server to x/a: timed out", 1)]);
}

#[test]
fn an_address_that_is_changed_on_the_way_and_one_that_two_have_are_failures() {
    let seen = |name: &str, sees| Some(Heard::Probe { name: name.into(), sees, micros: 90 });
    let translated = judged(|from, to| if [from, to] == ["x/c", "x/d"] { seen("x/d", address(5)) } else { None });
    assert_eq!(told(&translated), [("x/d saw 10.0.0.5 in place of 10.0.0.21", 1)]);
    let twice = judged(|_, to| if to == "x/d" { seen("x/e", address(11)) } else { None });
    assert_eq!(told(&twice), [("x/e answers at the address of x/d", 3)]);
    let foreign = judged(|_, to| if to == "x/d" { Some(Heard::Something { micros: 1 }) } else { None });
    assert_eq!(foreign.ways.iter().filter(|way| way.outcome == Outcome::Stranger).count(), 3);
}

#[test]
fn a_service_is_answered_by_its_own_probes_which_see_the_askers_address() {
    let ask = |name: &str, sees| {
        let heard = Heard::Probe { name: name.into(), sees, micros: 1 };
        let asked = vec![Asked { from: "x/c".into(), to: Goal::Service, target: "10.96.7.7:9480".into(), heard }];
        connectivity(&cluster(), probes(), asked, vec![]).ways[0].outcome
    };
    assert_eq!(ask("x/d", address(21)), Outcome::Reached);
    assert_eq!(ask("x/d", address(5)), Outcome::WrongSource, "the node's: kube-proxy takes the pod for one of elsewhere");
    assert_eq!(ask("x/c", address(5)), Outcome::Reached, "itself");
    assert_eq!(ask("y/z", address(21)), Outcome::Stranger);
}

#[test]
fn what_the_config_masquerades_is_to_be_seen_as_the_node() {
    let mut cluster = cluster();
    cluster.pools[1].spec.effective.masquerade.masquerade_cidrs = vec!["10.0.0.31/32".into()];
    let ask = |sees| {
        let heard = Heard::Probe { name: "x/d".into(), sees, micros: 1 };
        let asked = vec![Asked { from: "x/c".into(), to: Goal::Pod("x/d".into()), target: String::new(), heard }];
        connectivity(&cluster, probes(), asked, vec![]).passed()
    };
    assert!(ask(address(5)), "the node's own");
    assert!(!ask(address(21)), "the pod's");
}

#[test]
fn a_probe_that_did_not_start_is_a_failure_and_what_nobody_asked_does_not_pass() {
    let mut absent = probes();
    absent[3].absent = Some("no address came in 60 s".into());
    let heard = Heard::Something { micros: 1 };
    let asked = vec![Asked { from: "x/a".into(), to: Goal::Dns, target: "dns".into(), heard }];
    let found = connectivity(&cluster(), absent, asked, vec!["n4 is not Ready".into()]);
    assert!(!found.passed());
    assert_eq!(told(&found), [("x/d on n3 took no part: no address came in 60 s", 0)]);
    assert!(found.to_string().contains("note: n4 is not Ready"));
    assert!(!connectivity(&cluster(), vec![], vec![], vec![]).passed());
}
