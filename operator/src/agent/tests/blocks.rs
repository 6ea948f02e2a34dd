//! Blocks of addresses: pods get each of the sixteen, and all of them go back together.

use super::*;

const BLOCK: &str = "3/10.0.0.16/28";

/// A node with a single address and a block, of which IMDS has shown the first address only.
fn filled_by_block(machine: &Machine, object: &Object) -> Node {
    let mut node = machine.start();
    let shown = seen(Some(object), vec![imds("vm-1", &["10.0.0.5", "10.0.0.16"])]);
    until(&mut node, &shown, |node, _| offered(node).is_some_and(|pool| pool.len() == 17));
    node
}

fn asking_for_all(object: &Object) -> Object {
    let mut object = object.clone();
    object.spec.revision += 1;
    object.spec.release = vec![Release { id: 9, nonce: "abc".into(), addresses: object.spec.addresses.clone() }];
    object
}

#[test]
fn st6_a_block_is_acknowledged_once_all_of_it_is_set_aside_and_again_after_a_reboot() {
    apart(|| {
        let machine = Machine::new();
        let object = object(1, &["1/10.0.0.5", BLOCK]);
        let mut node = filled_by_block(&machine, &object);
        let asking = asking_for_all(&object);
        let agent = node.reconcile(&seen(Some(&asking), vec![])).unwrap().report.unwrap().agent;
        assert_eq!(agent.release_acks[0].quarantined, asking.spec.addresses);
        assert_eq!((agent.counts.quarantined, agent.counts.free), (17, 0));
        assert_eq!(fs::read_dir(machine.path("state/quarantine")).unwrap().count(), 17);
        drop(node);
        machine.boot("second");
        let agent = machine.start().reconcile(&seen(Some(&asking), vec![])).unwrap().report.unwrap().agent;
        assert_eq!(agent.release_acks[0].quarantined, asking.spec.addresses);
    });
}

#[test]
fn st8_of_a_block_of_which_a_pod_has_an_address_nothing_is_set_aside() {
    apart(|| {
        let machine = Machine::new();
        let object = object(1, &["1/10.0.0.5", BLOCK]);
        let mut node = filled_by_block(&machine, &object);
        let held = ["c1", "c2"].map(|container| lease(&node, container));
        let in_block = held.iter().find(|address| all(&[BLOCK])[0].contains(**address)).unwrap();
        let asking = asking_for_all(&object);
        let agent = node.reconcile(&seen(Some(&asking), vec![])).unwrap().report.unwrap().agent;
        assert!(agent.release_acks[0].refused.contains(&all(&[BLOCK])[0]), "{in_block}: {:?}", agent.release_acks);
        assert_eq!(offered(&node), Some(vec![]), "nothing of a release is offered");
        let mut called_off = object.clone();
        called_off.spec.revision = 3;
        let agent = node.reconcile(&seen(Some(&called_off), vec![])).unwrap().report.unwrap().agent;
        assert!(offered(&node).unwrap().len() >= 16, "the fifteen others come back at once: {agent:?}");
    });
}

#[test]
fn re2_a_block_of_which_one_address_is_reserved_goes_back_as_a_whole_unless_the_host_has_that_one() {
    apart(|| {
        let machine = Machine::new();
        let mut object = object(1, &["1/10.0.0.5", BLOCK]);
        object.spec.effective.reserved = vec!["10.0.0.20/32".into()];
        let mut node = machine.start();
        let shown = seen(Some(&object), vec![imds("vm-1", &["10.0.0.5", "10.0.0.16"])]);
        until(&mut node, &shown, |node, _| offered(node).is_some_and(|pool| pool.len() == 16));
        run("ip", &["address", "add", "10.0.0.20/32", "dev", "lo"]);
        let mut asking = asking_for_all(&object);
        let refused = node.reconcile(&seen(Some(&asking), vec![])).unwrap().report.unwrap();
        assert_eq!(
            (&refused.agent.release_acks[0].quarantined, &refused.agent.release_acks[0].refused),
            (&all(&["1/10.0.0.5"]), &all(&[BLOCK]))
        );
        let told = |report: &super::super::problems::Report| report.conditions(&[], &Time(jiff::Timestamp::UNIX_EPOCH))[0].message.clone();
        assert!(told(&refused).contains("3/10.0.0.16/28 because of 10.0.0.20"), "{}", told(&refused));
        run("ip", &["address", "del", "10.0.0.20/32", "dev", "lo"]);
        asking.spec.revision += 1;
        asking.spec.release[0].id += 1;
        for revision in [asking.spec.revision, asking.spec.revision + 1] {
            asking.spec.revision = revision;
            let acknowledged = |outcome: &Outcome| outcome.report.as_ref().is_some_and(|report| !report.agent.release_acks.is_empty());
            let aside = until(&mut node, &seen(Some(&asking), vec![]), |_, outcome| acknowledged(outcome)).report.unwrap();
            assert_eq!(aside.agent.release_acks[0].quarantined, asking.spec.addresses);
            assert_eq!((told(&aside), fs::read_dir(machine.path("state/quarantine")).unwrap().count()), (String::new(), 17));
        }
    });
}

#[test]
fn pk1_each_address_of_a_block_is_unreachable_and_re7_of_a_lost_block_those_that_pods_have_are_told() {
    apart(|| {
        let machine = Machine::new();
        let mut object = object(1, &[BLOCK]);
        let mut node = machine.start();
        let shown = seen(Some(&object), vec![imds("vm-1", &["10.0.0.16"])]);
        until(&mut node, &shown, |node, _| offered(node).is_some_and(|pool| pool.len() == 16));
        assert_eq!(run("ip", &["route", "show", "type", "unreachable"]).lines().count(), 16);
        let held = lease(&node, "c1");
        object.spec.revision = 2;
        object.spec.lost = std::mem::take(&mut object.spec.addresses);
        let agent = node.reconcile(&seen(Some(&object), vec![])).unwrap().report.unwrap().agent;
        assert_eq!((agent.lost_in_use, agent.counts.free), (all(&[&format!("3/{held}")]), 0));
    });
}

#[test]
fn re3_what_was_adopted_with_blocks_is_unchanged_after_a_restart() {
    apart(|| {
        let machine = Machine::new();
        let object = object(4, &["1/10.0.0.5", BLOCK]);
        drop(filled_by_block(&machine, &object));
        let mut node = machine.start();
        let outcome = node.reconcile(&seen(Some(&object), vec![])).unwrap();
        assert_eq!(condition(&outcome, super::super::problems::Topic::PoolAdopted), None);
        drop(node);
        machine.boot("second");
        let mut node = machine.start();
        until(&mut node, &seen(None, vec![imds("vm-1", &["10.0.0.16"])]), |node, _| offered(node).is_some_and(|pool| pool.len() == 16));
        assert!(machine.conflist(), "what it remembers is the spec with its block");
    });
}
