//! What is mended of a report, in which order, and what is said of it afterwards.

use std::collections::BTreeSet;

use super::{
    super::{End, Finding, Kind, Now, Outcome, Repair, Repairs, Report, Step, Work, work::ROUTES_AT_ONCE},
    *,
};

fn cut_off() -> Told {
    let mut told = Told::agreed();
    told.finds(node::Kind::LinkWithoutRoute, "azv1 is there, the route to it is not");
    told
}

fn silent() -> Told {
    let mut told = Told::agreed();
    told.nodes.insert("aks-1".into(), Err("it does not answer".into()));
    told
}

fn work(report: &Report, now: &Report) -> Work {
    Work::new(report.clone(), &[], now.clone())
}

fn steps(mut work: Work) -> Vec<Step> {
    std::iter::from_fn(|| work.step()).collect()
}

fn route_to(address: Ipv4Addr) -> Step {
    Step::Routes { node: "aks-1".into(), addresses: [address].into() }
}

fn made(address: Ipv4Addr) -> node::Mended {
    node::Mended { routes: vec![address], ..node::Mended::default() }
}

fn ends(repairs: &Repairs) -> Vec<End> {
    repairs.results.iter().map(|result| result.end).collect()
}

#[test]
fn only_what_was_reported_and_is_still_the_same_is_mended() {
    let report = cut_off().report();
    let cases: [(Change, Now); 8] = [
        (|_| (), Now::Mendable(Repair::Route)),
        (|told| told.node().findings.clear(), Now::Over),
        (|told| told.node().findings[0].what = "otherwise".into(), Now::Another(Kind::LinkWithoutRoute)),
        (|told| told.pods(vec![]), Now::Another(Kind::LeaseWithoutPod)),
        (|told| told.node().boot_id = "next".into(), Now::OtherBoot),
        (|told| drop(told.nodes.insert("aks-1".into(), Err("it does not answer".into()))), Now::Unseen),
        // Nobody compares where there is no object, or an agent that does not tell what the store holds.
        (|told| told.cluster.pools.clear(), Now::Unseen),
        (|told| told.node().facts = None, Now::Unseen),
    ];
    for (change, expected) in cases {
        let mut told = cut_off();
        change(&mut told);
        let now = told.report();
        assert_eq!(super::super::repair::of(&report.findings[0], &report, &now), expected, "{now}");
        let steps = steps(work(&report, &now));
        assert_eq!(steps, if expected == Now::Mendable(Repair::Route) { vec![route_to(WEB)] } else { vec![] });
    }
    let mut elsewhere = Work::new(report.clone(), &["aks-2".to_owned()], report.clone());
    assert_eq!((elsewhere.step(), elsewhere.finished(report).results), (None, vec![]));
}

#[test]
fn st4_no_route_is_made_to_an_address_that_may_be_anothers() {
    let report = cut_off().report();
    let cases: [(Change, Kind); 3] = [
        (
            |told| {
                let twin = Pod { node: "aks-2".into(), ..pod("twin", WEB) };
                told.pods(vec![pod("web", WEB), twin]);
            },
            Kind::TwoPods,
        ),
        (|told| told.cluster.pools.push(object("aks-2", "", &["9/10.0.0.21"])), Kind::TwoNodes),
        (|told| told.object().spec.addresses.clear(), Kind::PoolDiffers),
    ];
    for (change, graver) in cases {
        let mut told = cut_off();
        change(&mut told);
        let now = told.report();
        assert!(now.findings.iter().any(|found| found.is_same(&report.findings[0])), "its route still lacks: {now}");
        let work = work(&report, &now);
        assert_eq!(steps(work.clone()), [], "{graver:?}");
        let repairs = work.finished(now);
        assert_eq!(ends(&repairs), [End::Left]);
        assert!(repairs.results[0].says.contains(graver.remedy()), "{repairs}");
    }
    // What is wrong with another address is no reason.
    let mut told = cut_off();
    told.facts().pool.as_mut().unwrap().addresses.push("3/10.0.0.23".parse().unwrap());
    assert_eq!(steps(work(&report, &told.report())), [route_to(WEB)]);
}

#[test]
fn what_was_over_before_and_is_found_afterwards_is_not_over() {
    let report = cut_off().report();
    let afterwards = |after: &Told| {
        let mut work = work(&report, &Told::agreed().report());
        assert_eq!(work.step(), None);
        let repairs = work.finished(after.report());
        (repairs.results[0].end, repairs.to_string())
    };
    assert_eq!(afterwards(&Told::agreed()).0, End::Over);
    let (end, text) = afterwards(&cut_off());
    assert!(end == End::Left && text.contains("found again"), "{text}");
    let (end, text) = afterwards(&silent());
    assert!(end == End::Left && text.contains("could not be seen"), "{text}");
}

#[test]
fn what_the_last_of_all_looks_finds_again_is_not_repaired() {
    let report = cut_off().report();
    let mut work = work(&report, &report);
    work.step();
    work.routes("aks-1", &[WEB].into(), &Ok(made(WEB)));
    let mut first = Told::agreed();
    first.cloud("attached", json!(3));
    let repairs = work.finished(first.report().confirmed(report));
    assert_eq!((ends(&repairs), repairs.outcome()), (vec![End::Failed], Outcome::Incomplete), "{repairs}");
}

#[test]
fn a_word_that_is_missing_hides_only_what_would_be_seen_by_it() {
    let mut stale = Told::agreed();
    stale.cloud("lastReadAt", json!("2026-11-21T06:59:00Z"));
    let report = cut_off().report();
    assert_eq!(super::super::repair::of(&report.findings[0], &report, &stale.report()), Now::Over, "Azure does not know of routes");
    let mut differs = Told::agreed();
    differs.cloud("attached", json!(3));
    let report = differs.report();
    stale.cloud("lastReadAt", Value::Null);
    assert_eq!(super::super::repair::of(&report.findings[0], &report, &stale.report()), Now::Unseen);
}

#[test]
fn cm4_no_repair_frees_an_address() {
    let mut told = Told::agreed();
    told.pods(vec![]);
    let report = told.report();
    let mut work = work(&report, &report);
    assert_eq!(work.step(), None, "the agent has the second witness");
    assert_eq!(ends(&work.finished(report)), [End::Left]);
}

/// What comes of a route that the node answered so, by a look afterwards.
fn ended(answer: &Result<node::Mended, String>, after: &Told) -> (End, String) {
    let report = cut_off().report();
    let mut work = work(&report, &report);
    assert_eq!(work.step(), Some(route_to(WEB)));
    work.routes("aks-1", &[WEB].into(), answer);
    let repairs = work.finished(after.report());
    (repairs.results[0].end, repairs.to_string())
}

#[test]
fn repaired_is_what_was_mended_and_a_look_afterwards_does_not_find() {
    assert_eq!(ended(&Ok(made(WEB)), &Told::agreed()).0, End::Repaired);
    let (end, text) = ended(&Err("refused".into()), &cut_off());
    assert!(end == End::Failed && text.contains("still found: refused"), "{text}");
    assert_eq!(ended(&Ok(made(WEB)), &silent()).0, End::Failed, "nobody has seen that it is over");
    for hide in [|told: &mut Told| told.cluster.pools.clear(), |told: &mut Told| told.node().facts = None] {
        let mut hidden = Told::agreed();
        hide(&mut hidden);
        assert_eq!(ended(&Ok(made(WEB)), &hidden).0, End::Failed, "nobody has compared whether it is over");
    }
    let mut lost = cut_off();
    lost.pods(vec![]);
    assert_eq!(ended(&Ok(made(WEB)), &lost).0, End::Failed, "something else is wrong there now");
    let mut booted = Told::agreed();
    booted.node().boot_id = "next".into();
    assert_eq!(ended(&Ok(made(WEB)), &booted).0, End::Failed, "that was the boot");
}

#[test]
fn what_the_node_refused_is_not_repaired_though_it_is_over() {
    let refused = node::Refused { address: Some(WEB), why: "used by \u{1b}[2Jeth0".into() };
    let (end, text) = ended(&Ok(node::Mended { refused: vec![refused], ..node::Mended::default() }), &Told::agreed());
    assert!(end == End::Failed && text.contains("used by \u{fffd}[2Jeth0"), "{text}");
    assert_eq!(ended(&Ok(node::Mended::default()), &Told::agreed()).0, End::Over, "the node had nothing to mend any more");
    assert_eq!(ended(&Ok(made(FREE)), &cut_off()).0, End::Failed, "another's route");
}

#[test]
fn no_word_of_a_node_reaches_the_terminal_as_it_is() {
    let evil = || "\u{1b}[2Jall is well\n".to_owned();
    let report = forgotten(&["aks-1"]);
    let mut unseen = work(&report, &report);
    assert_eq!(unseen.step(), Some(look("aks-1")));
    let mut unready = unseen.clone();
    unseen.looked("aks-1", Err(evil()));
    unready.looked("aks-1", Ok(&report));
    assert_eq!(unready.step(), Some(Step::Restart { node: "aks-1".into() }));
    unready.restarted("aks-1", Err(evil()));
    let told = [ended(&Err(evil()), &cut_off()).1, unseen.finished(report.clone()).to_string(), unready.finished(report).to_string()];
    for text in told {
        assert!(!text.contains('\u{1b}') && text.contains("\u{fffd}[2Jall is well\u{fffd}"), "{text:?}");
    }
}

#[test]
fn a_repair_that_failed_is_never_clean() {
    let report = cut_off().report();
    let failed = work(&report, &report);
    let mut work = failed.clone();
    work.routes("aks-1", &[WEB].into(), &Err("no".into()));
    let repairs = work.finished(Told::agreed().report());
    assert_eq!((repairs.left.outcome(), repairs.outcome()), (Outcome::Clean, Outcome::Differs));
    assert_eq!(failed.finished(silent().report()).outcome(), Outcome::Incomplete);
}

#[test]
fn a_node_is_asked_for_some_routes_at_a_time_and_for_each_once() {
    let mut report = cut_off().report();
    let route = report.findings[0].clone();
    let all: BTreeSet<Ipv4Addr> = (0..=249).map(|last| Ipv4Addr::new(10, 0, 1, last)).collect();
    report.findings = all.iter().map(|address| Finding { address: Some(*address), ..route.clone() }).collect();
    let (mut asked, mut work) = (vec![], work(&report, &report));
    while let Some(Step::Routes { node, addresses }) = work.step() {
        assert!(addresses.len() <= ROUTES_AT_ONCE && !addresses.is_empty());
        let answer = node::Mended { routes: addresses.iter().copied().collect(), ..node::Mended::default() };
        work.routes(&node, &addresses, &Ok(answer));
        asked.extend(addresses);
    }
    assert_eq!((asked.len(), asked.into_iter().collect::<BTreeSet<_>>()), (250, all));
    assert!(ends(&work.finished(Told::agreed().report())).iter().all(|end| *end == End::Repaired));
}

/// A report of nodes whose stores have each forgotten a lease.
fn forgotten(nodes: &[&str]) -> Report {
    let mut told = Told::agreed();
    told.finds(node::Kind::LinkWithoutLease, "azv1 has it, the store has no lease");
    told.facts().records.clear();
    let one = told.report();
    let of = |node: &&str| {
        let (mut looked, mut found) = (one.nodes[0].clone(), one.findings[0].clone());
        (looked.node, found.node) = ((*node).to_owned(), (*node).to_owned());
        (looked, found)
    };
    let (nodes, findings) = nodes.iter().map(of).unzip();
    Report { nodes, findings, ..one }
}

fn look(node: &str) -> Step {
    Step::Look { node: node.into() }
}

fn restart(node: &str) -> Step {
    Step::Restart { node: node.into() }
}

#[test]
fn an_agent_is_started_anew_only_while_a_look_right_before_it_finds_the_same() {
    let report = forgotten(&["aks-1", "aks-2"]);
    let mut work = work(&report, &report);
    assert_eq!(work.step(), Some(look("aks-1")));
    // Its agent came back by itself meanwhile.
    let over = Report { findings: vec![], ..forgotten(&["aks-1"]) };
    work.looked("aks-1", Ok(&over));
    assert_eq!(work.step(), Some(look("aks-2")));
    work.looked("aks-2", Ok(&forgotten(&["aks-2"])));
    assert_eq!(work.step(), Some(restart("aks-2")));
    work.restarted("aks-2", Ok(()));
    assert_eq!(work.step(), None);
    let left = Report { findings: vec![], ..report };
    assert_eq!(ends(&work.finished(left)), [End::Over, End::Repaired]);
}

#[test]
fn no_further_agent_is_deleted_once_one_did_not_come_back() {
    let report = forgotten(&["aks-1", "aks-2", "aks-3"]);
    let mut work = work(&report, &report);
    work.step();
    work.looked("aks-1", Ok(&report));
    assert_eq!(work.step(), Some(restart("aks-1")));
    let mut unseen = work.clone();
    work.restarted("aks-1", Ok(()));
    assert_eq!(work.step(), Some(look("aks-2")));
    work.looked("aks-2", Ok(&report));
    assert_eq!(work.step(), Some(restart("aks-2")));
    work.restarted("aks-2", Err("it is not ready".into()));
    assert_eq!(work.step(), None, "aks-3 keeps its agent");
    let repairs = work.finished(Report { findings: forgotten(&["aks-3"]).findings, ..report });
    let says: Vec<&str> = repairs.results.iter().map(|result| result.says.as_str()).collect();
    assert_eq!(ends(&repairs), [End::Repaired, End::Failed, End::Failed]);
    assert!(says[1].contains("it is not ready") && says[2].contains("not tried, after what went wrong on aks-2"), "{says:?}");
    // Nor after a look that was not answered.
    unseen.restarted("aks-1", Ok(()));
    unseen.step();
    unseen.looked("aks-2", Err("the API server does not answer".into()));
    assert_eq!(unseen.step(), None);
}

#[test]
fn a_repair_looks_at_all_that_its_report_found_or_did_not_see_and_at_no_other_name() {
    let mut report = forgotten(&["aks-1", "aks-2"]);
    assert_eq!(report.to_repair(&[]), Ok(["aks-1".to_owned(), "aks-2".to_owned()].into()));
    assert_eq!(report.to_repair(&["aks-2".to_owned()]), Ok(["aks-2".to_owned()].into()));
    assert!(report.to_repair(&["aks-2".to_owned(), "ask-1".to_owned()]).unwrap_err().contains("ask-1"));
    report.findings.clear();
    assert_eq!(report.to_repair(&[]), Ok([].into()), "it was clean");
    assert_eq!(silent().report().to_repair(&[]), Ok(["aks-1".to_owned()].into()));
}
