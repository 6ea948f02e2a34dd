//! What the agent says of the pool that it takes over: what is unknown, what is withheld, and what of a lost address is taken away.

use azure_vnet_plugin_core::attachment::PodRef;

use super::{super::problems::Topic, *};

#[test]
fn an_unknown_subnet_keeps_the_pool_waiting_and_says_what_to_do_and_the_nics_route_tells_it() {
    apart(|| {
        let machine = Machine::new();
        let mut object = object(1, &["1/10.0.0.5"]);
        object.spec.node.subnet_prefix.clear();
        run("ip", &["route", "del", "10.0.0.0/24", "dev", "eth0"]);
        let mut node = machine.start();
        let look = || seen(Some(&object), vec![imds("vm-1", &["10.0.0.5"])]);
        let outcome = node.reconcile(&look()).unwrap();
        let (status, reason, message) = told(&outcome, "PoolAdopted");
        assert_eq!((status.as_str(), reason.as_str()), ("False", "SubnetUnknown"));
        assert!(message.contains("subnets/read") && message.contains(MAC), "{message}");
        assert!(offered(&node).is_none() && !machine.conflist() && !outcome.ready, "nothing is wired by guess");
        run("ip", &["route", "add", "10.0.0.0/24", "dev", "eth0"]);
        until(&mut node, &look(), |node, outcome| offered(node).is_some_and(|pool| pool.len() == 1) && outcome.ready);
        assert_eq!(node.keeper.store().pool().unwrap().prefix.to_string(), "10.0.0.0/24");
        run("ip", &["link", "set", "eth0", "down"]);
        drop(node);
        let outcome = machine.start().reconcile(&look()).unwrap();
        assert_eq!(told(&outcome, "PoolAdopted").1, "Adopted", "what was once known holds while the NIC is down");
    });
}

#[test]
fn new_pods_get_the_mtu_that_the_nic_has_by_then() {
    apart(|| {
        let machine = Machine::new();
        let object = object(1, &["1/10.0.0.5"]);
        let mut node = filled(&machine, &object);
        for mtu in [1400, 1500, 1450] {
            run("ip", &["link", "set", "eth0", "mtu", &mtu.to_string()]);
            node.reconcile(&seen(Some(&object), vec![])).unwrap();
            assert_eq!((node.keeper.store().pool().unwrap().mtu, offered(&node).map(|pool| pool.len())), (Some(mtu), Some(1)));
        }
    });
}

#[test]
fn re6_an_answer_of_imds_that_lacks_our_nic_says_nothing_of_it() {
    apart(|| {
        let machine = Machine::new();
        let object = object(1, &["1/10.0.0.5", "2/10.0.0.6"]);
        let mut node = filled(&machine, &object);
        let elsewhere = Answer { shown: vec![("00:0d:3a:00:00:99".into(), vec![address("10.0.0.6")])], ..imds("vm-1", &[]) };
        for answer in [elsewhere, Answer { shown: vec![], ..imds("vm-1", &[]) }] {
            let outcome = node.reconcile(&seen(Some(&object), vec![answer])).unwrap();
            assert_eq!(offered(&node).map(|pool| pool.len()), Some(2), "neither shown nor taken back");
            assert_eq!((told(&outcome, "PoolAdopted").1.as_str(), outcome.withheld), ("Adopted", 0));
        }
    });
}

#[test]
fn re5_an_answer_of_imds_hides_nothing_while_it_is_not_known_which_nic_is_the_pools() {
    apart(|| {
        let machine = Machine::new();
        let mut object = object(1, &["1/10.0.0.5", "2/10.0.0.6"]);
        let mut node = filled(&machine, &object);
        let memory = std::fs::read(machine.path("state/agent.json")).unwrap();
        object.spec.revision = 2;
        node.reconcile(&seen(Some(&object), vec![])).unwrap();
        drop(node);
        // Killed after the pool was adopted, and before the spec was kept.
        std::fs::write(machine.path("state/agent.json"), memory).unwrap();
        let mut node = machine.start();
        node.reconcile(&seen(None, vec![imds("vm-1", &["10.0.0.5", "10.0.0.6"])])).unwrap();
        assert_eq!(offered(&node).map(|pool| pool.len()), Some(2));
    });
}

#[test]
fn re5_what_is_withheld_is_told_with_count_and_reason_once_and_ends() {
    apart(|| {
        let machine = Machine::new();
        let object = object(1, &["1/10.0.0.5", "2/10.0.0.6"]);
        let mut node = filled(&machine, &object);
        let outcome = node.reconcile(&seen(Some(&object), vec![imds("vm-1", &["10.0.0.6"])])).unwrap();
        let (status, reason, message) = told(&outcome, "PoolAdopted");
        assert_eq!((status.as_str(), reason.as_str(), outcome.withheld), ("True", "Withheld", 1));
        assert!(message.starts_with("1 attached addresses are withheld from pods: 10.0.0.5 (this node's IMDS showed them"), "{message}");
        assert_eq!(outcome.news.iter().map(|news| news.reason).collect::<Vec<_>>(), ["Withheld"]);
        let outcome = node.reconcile(&seen(Some(&object), vec![])).unwrap();
        assert_eq!((told(&outcome, "PoolAdopted").1, outcome.news), (reason, vec![]), "told once");
        let outcome = node.reconcile(&seen(Some(&object), vec![imds("vm-1", &["10.0.0.5", "10.0.0.6"])])).unwrap();
        assert_eq!((told(&outcome, "PoolAdopted").1.as_str(), outcome.withheld), ("Adopted", 0));
    });
}

#[test]
fn re7_a_lost_address_of_a_bridged_pod_loses_its_route_and_others_keep_theirs() {
    apart(|| {
        let machine = Machine::new();
        let mut object = object(1, &["1/10.0.0.5", "2/10.0.0.6"]);
        let mut node = machine.start();
        node.reconcile(&seen(Some(&object), vec![])).unwrap();
        run("ip", &["link", "add", "azure0", "type", "bridge"]);
        run("ip", &["link", "set", "azure0", "up"]);
        for (link, peer, of) in [("azv00000000001", "pod1", "c1/eth0 10.0.0.5"), ("azv00000000002", "pod2", "c2/eth0 10.0.0.6")] {
            run("ip", &["link", "add", link, "type", "veth", "peer", "name", peer]);
            run("ip", &["link", "set", peer, "up"]);
            run("ip", &["link", "set", link, "master", "azure0", "up", "alias", &format!("azure-vnet:{of}")]);
        }
        // Whoever made the lost one's: a routing daemon, say.
        for (to, protocol) in [("10.0.0.5/32", "boot"), ("10.0.0.6/32", "static"), ("10.0.0.77/32", "boot")] {
            run("ip", &["route", "add", to, "dev", "azure0", "proto", protocol]);
        }
        // One that leads elsewhere is no pod's.
        run("ip", &["route", "add", "10.0.0.6/32", "dev", "eth0", "metric", "50"]);
        object.spec.revision = 2;
        object.spec.addresses = all(&["1/10.0.0.5"]);
        object.spec.lost = all(&["2/10.0.0.6", "3/10.0.0.77"]);
        let outcome = node.reconcile(&seen(Some(&object), vec![])).unwrap();
        assert_eq!(outcome.cut_off.iter().map(|cut| cut.address).collect::<Vec<_>>(), [address("10.0.0.6")]);
        let left = run("ip", &["route", "show", "dev", "azure0"]);
        let left: Vec<&str> = left.lines().filter_map(|line| line.split(' ').next()).collect();
        assert_eq!(left, ["10.0.0.5", "10.0.0.77"], "of our pods' routes only, and only of the lost address");
        assert!(run("ip", &["route", "show", "dev", "eth0"]).contains("10.0.0.6"), "and only through pods' links and bridges");
        assert_eq!(condition(&outcome, Topic::RulesInSync), None);
    });
}

#[test]
fn re5_the_controller_is_told_what_imds_shows_no_more_and_nothing_while_imds_says_nothing() {
    let said = |outcome: &Outcome| outcome.report.as_ref().unwrap().agent.imds.map(|imds| (imds.missing, imds.others));
    apart(move || {
        let machine = Machine::new();
        let mut object = object(1, &["1/10.0.0.5", "2/10.0.0.6", "3/10.0.0.7"]);
        let mut node = machine.start();
        let all = ["10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.7", "10.0.0.9"];
        assert_eq!(said(&node.reconcile(&seen(Some(&object), vec![])).unwrap()), None);
        assert_eq!(said(&node.reconcile(&seen(Some(&object), vec![imds("vm-1", &all)])).unwrap()), Some((0, 2)), "its own and another's");
        let elsewhere = Answer { shown: vec![("00:0d:3a:00:00:99".into(), vec![])], ..imds("vm-1", &[]) };
        assert_eq!(said(&node.reconcile(&seen(Some(&object), vec![elsewhere])).unwrap()), Some((0, 2)), "that was not of this NIC");
        let two = ["10.0.0.4", "10.0.0.6", "10.0.0.9"];
        assert_eq!(said(&node.reconcile(&seen(Some(&object), vec![imds("vm-1", &two)])).unwrap()), Some((2, 2)));
        object.removing = super::all(&["3/10.0.0.7"]);
        assert_eq!(said(&node.reconcile(&seen(Some(&object), vec![])).unwrap()), Some((1, 2)), "what leaves is not missed");
        assert_eq!(node.reconcile(&seen(None, vec![])).unwrap().report.map(|report| report.agent.imds), None);
    });
}

#[test]
fn re7_the_pod_whose_address_was_lost_is_known_by_its_lease() {
    apart(|| {
        let machine = Machine::new();
        let mut object = object(1, &["1/10.0.0.5"]);
        let mut node = filled(&machine, &object);
        assert_eq!(lease_for(&node, "c1", Some("u1")), address("10.0.0.5"));
        run("ip", &["link", "add", "azv00000000001", "type", "veth", "peer", "name", "pod"]);
        run("ip", &["link", "set", "azv00000000001", "up", "alias", "azure-vnet:c1/eth0 10.0.0.5"]);
        run("ip", &["route", "add", "10.0.0.5/32", "dev", "azv00000000001"]);
        (object.spec.revision, object.spec.addresses, object.spec.lost) = (2, vec![], all(&["1/10.0.0.5"]));
        let outcome = node.reconcile(&seen(Some(&object), vec![])).unwrap();
        let pod = PodRef { namespace: "default".into(), name: "c1".into(), uid: Some("u1".parse().unwrap()) };
        assert_eq!(outcome.cut_off, [CutOff { address: address("10.0.0.5"), pod: Some(pod) }]);
    });
}
