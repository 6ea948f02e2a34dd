//! Every operation, stopped or failing at each of its changes to the file system in turn, with and without a power cut, and what is found after.

use std::{collections::BTreeSet, io};

use azure_vnet_plugin_core::{
    boot::BootTime,
    source::{Learned, Origin},
};

use super::{
    super::{
        KeeperError, PoolError, Quarantining,
        files::faults::{self, Fault},
    },
    *,
};

const FAULTS: [Fault; 3] = [Fault::Kill, Fault::Error(io::ErrorKind::StorageFull), Fault::Error(io::ErrorKind::Other)];

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It dies, or gives up.
    Process,
    /// The machine does: tmpfs is empty, unsynced changes are lost.
    Power,
}

/// Runs `act` with each of its changes struck by each fault, and `check` after it; `check` learns what `act` answered.
fn sweep<T>(ends: &[End], prepare: impl Fn() -> Node, act: impl Fn(&Node) -> T, check: impl Fn(&mut Node, T, End)) {
    for fault in FAULTS {
        for &end in ends {
            for at in 1.. {
                let mut node = prepare();
                faults::strike(at, fault);
                for folder in ["lib", "lib/quarantine"] {
                    faults::follow(&node.path(folder));
                }
                let answer = act(&node);
                let has_struck = faults::end();
                if end == End::Power {
                    faults::cut_power();
                    node.reboot();
                }
                check(&mut node, answer, end);
                if !has_struck {
                    assert!(faults::steps() > 0, "nothing was tried");
                    break;
                }
                assert!(at < 100, "no end");
            }
        }
    }
}

#[test]
fn cm1_an_add_that_is_stopped_anywhere_leaves_nothing_that_del_does_not_mend() {
    let prepare = || Node::with_pool(&[4, 5]);
    let act = |node: &Node| {
        let store = node.store();
        store.lease(&request("a"), &mut free).is_ok_and(|granted| granted.confirm().is_ok())
    };
    sweep(&[End::Process], prepare, act, |node, is_answered, _| {
        let store = node.store();
        assert!(!is_answered || store.find(&attachment("a")).unwrap().is_some());
        let leased = store.counts().unwrap().leased;
        assert!(leased <= 1);
        delete(&store, "a");
        assert_eq!(store.counts().unwrap().leased, 0, "DEL finds every lease");
        assert_eq!(names(node, "run/by"), [""; 0], "and every index without one");
        add(&store, "a").unwrap();
        add(&store, "b").unwrap();
        assert_eq!(store.counts().unwrap().leased, 2);
        node.open().sweep().unwrap();
        assert_eq!(names(node, "run"), ["by", "lease", "lock", "pool", "sealed", "want"]);
        assert_eq!(names(node, "run/by").len(), 2);
    });
}

#[test]
fn st1_an_add_over_an_ended_rest_that_is_stopped_anywhere_has_one_owner_or_none() {
    let prepare = || {
        let node = Node::with_pool(&[4]);
        add(&node.store(), "old").unwrap();
        delete(&node.store(), "old");
        node
    };
    sweep(
        &[End::Process],
        prepare,
        |node| add(&node.store(), "a").is_ok(),
        |node, is_answered, _| {
            let store = node.store();
            assert!(store.find(&attachment("old")).unwrap().is_none());
            assert!(!is_answered || store.find(&attachment("a")).unwrap().is_some());
            delete(&store, "a");
            assert_eq!(add(&store, "b").unwrap(), address(4));
        },
    );
}

#[test]
fn an_add_that_fails_undoes_itself() {
    let fault = Fault::Error(io::ErrorKind::StorageFull);
    for at in 1..20 {
        let node = Node::with_pool(&[4]);
        faults::strike(at, fault);
        let result = add(&node.store(), "a");
        if !faults::end() {
            return;
        }
        if result.is_err() {
            assert!(matches!(result, Err(LeaseError::Full(_))), "{result:?}");
            assert_eq!(node.store().list().unwrap(), []);
            assert_eq!(names(&node, "run/by"), [""; 0]);
            assert_eq!(names(&node, "run"), ["by", "lease", "lock", "pool", "sealed", "want"]);
        }
    }
    panic!("no end");
}

#[test]
fn a_del_that_is_stopped_anywhere_neither_loses_nor_frees_the_address() {
    let prepare = || {
        let node = Node::new();
        let keeper = node.start();
        keeper.adopt(&resting(revision(1, &[4]), Duration::from_hours(1))).unwrap();
        keeper.seal(SealOwner::Agent).unwrap();
        add(&node.store(), "a").unwrap();
        node
    };
    let act = |node: &Node| node.store().find(&attachment("a")).unwrap().unwrap().cool().is_ok();
    sweep(&[End::Process], prepare, act, |node, is_done, _| {
        let store = node.store();
        assert!(is_cooling(&store, 4) || (!is_done && is_leased(&store, 4)));
        assert!(matches!(add(&store, "b"), Err(LeaseError::Exhausted { .. })), "it never skips its rest");
        delete(&store, "a");
        assert!(is_cooling(&store, 4));
        assert!(store.find(&attachment("a")).unwrap().is_none());
    });
}

#[test]
fn a_rest_is_written_over_the_lease_where_the_file_system_is_full() {
    let node = Node::with_pool(&[4]);
    let store = node.store();
    add(&store, "a").unwrap();
    let held = store.find(&attachment("a")).unwrap().unwrap();
    faults::strike(1, Fault::Error(io::ErrorKind::StorageFull));
    held.cool().unwrap();
    assert!(faults::end());
    assert!(is_cooling(&store, 4));
    assert_eq!(names(&node, "run/by"), [""; 0]);
}

#[test]
fn st6_setting_aside_that_is_stopped_anywhere_is_acknowledged_only_with_both_records() {
    let prepare = || Node::with_pool(&[4, 5]);
    let act = |node: &Node| matches!(opened(node).and_then(|keeper| keeper.quarantine(&marker(4, 1), &mut free)), Ok(Quarantining::Done));
    sweep(&[End::Process, End::Power], prepare, act, |node, is_acknowledged, end| {
        if end == End::Process {
            assert_eq!(node.open().quarantined().unwrap().len(), usize::from(node.path("lib/quarantine/10.240.0.4").exists()));
        }
        let keeper = node.start();
        let quarantined = keeper.quarantined().unwrap();
        assert!(!is_acknowledged || quarantined == [marker(4, 1)], "an acknowledged address stays set aside");
        keeper.adopt(&revision(1, &[4, 5])).unwrap();
        keeper.seal(SealOwner::Agent).unwrap();
        let free = if quarantined.is_empty() { vec![address(4), address(5)] } else { vec![address(5)] };
        assert_eq!(add_all(&node.store()), free, "an address is set aside or offered, never both");
        assert_eq!(node.path("lib/quarantine/10.240.0.4").exists(), !quarantined.is_empty());
    });
}

#[test]
fn st6_setting_aside_that_fails_is_done_by_repeating_it() {
    let prepare = || Node::with_pool(&[4]);
    sweep(
        &[End::Process],
        prepare,
        |node| _ = opened(node).and_then(|keeper| keeper.quarantine(&marker(4, 1), &mut free)),
        |node, (), _| {
            assert_eq!(node.open().quarantine(&marker(4, 1), &mut free).unwrap(), Quarantining::Done);
            assert_eq!(node.open().quarantined().unwrap(), [marker(4, 1)]);
        },
    );
}

#[test]
fn st7_withdrawing_that_is_stopped_anywhere_never_leaves_a_pod_beside_a_durable_marker() {
    let prepare = || {
        let node = Node::with_pool(&[4]);
        node.open().quarantine(&marker(4, 1), &mut free).unwrap();
        node
    };
    sweep(
        &[End::Process, End::Power],
        prepare,
        |node| opened(node).and_then(|keeper| keeper.withdraw(slot(4))).is_ok(),
        |node, is_withdrawn, end| {
            if end == End::Process {
                let is_given = add(&node.store(), "early").is_ok();
                assert!(!is_given || !node.path("lib/quarantine/10.240.0.4").exists());
                delete(&node.store(), "early");
            }
            let keeper = node.start();
            assert!(!is_withdrawn || keeper.quarantined().unwrap().is_empty());
            keeper.withdraw(slot(4)).unwrap();
            keeper.adopt(&revision(1, &[4])).unwrap();
            keeper.seal(SealOwner::Agent).unwrap();
            assert_eq!(add_all(&node.store()), [address(4)]);
        },
    );
}

#[test]
fn st7_shrinking_that_is_stopped_anywhere_never_gives_an_address_that_left() {
    let prepare = || {
        let node = Node::with_pool(&[4, 5]);
        let keeper = node.open();
        keeper.adopt(&holding(revision(2, &[4, 5]), &[marker(5, 1)])).unwrap();
        keeper.quarantine(&marker(5, 1), &mut free).unwrap();
        drop(keeper);
        node
    };
    sweep(
        &[End::Process, End::Power],
        prepare,
        |node| opened(node).and_then(|keeper| keeper.adopt(&revision(3, &[4]))).is_ok(),
        |node, is_adopted, end| {
            if end == End::Process {
                let given = add_all(&node.store());
                assert_eq!(given, [address(4)], "plugins go on while the agent is down");
                (0..given.len()).for_each(|at| delete(&node.store(), &format!("all-{at}")));
            }
            let keeper = node.start();
            let adopted = keeper.adopted().unwrap().unwrap();
            assert!(!is_adopted || adopted.revision == 3);
            if adopted.revision == 2 {
                assert_eq!(keeper.quarantined().unwrap(), [marker(5, 1)], "a marker outlives the pool that lists its address");
            }
            keeper.adopt(&revision(3, &[4])).unwrap();
            keeper.seal(SealOwner::Agent).unwrap();
            assert_eq!(add_all(&node.store()), [address(4)]);
            assert_eq!(names(node, "lib/quarantine").into_iter().filter(|name| !name.starts_with(".new-")).count(), 0);
        },
    );
}

#[test]
fn st8_growing_that_is_stopped_anywhere_never_gives_a_held_address() {
    let prepare = || Node::with_pool(&[4, 5]);
    let grown = holding(revision(2, &[4, 5, 6]), &[marker(6, 1)]);
    let act = |node: &Node| opened(node).and_then(|keeper| keeper.adopt(&grown)).is_ok();
    sweep(&[End::Process, End::Power], prepare, act, |node, is_adopted, end| {
        if end == End::Process {
            assert_eq!(add_all(&node.store()), [4, 5].map(address));
        } else {
            let keeper = node.start();
            let adopted = keeper.adopted().unwrap().unwrap();
            assert!(!is_adopted || adopted.revision == 2);
        }
    });
}

#[test]
fn st3_a_start_on_a_store_that_lost_its_leases_and_is_stopped_anywhere_leaves_none_that_gives_their_addresses() {
    let prepare = || {
        let node = Node::with_pool(&[4, 5]);
        add(&node.store(), "lives").unwrap();
        std::fs::remove_dir_all(node.path("run/lease")).unwrap();
        node
    };
    sweep(
        &[End::Process],
        prepare,
        |node| drop(opened(node)),
        |node, (), _| {
            let given = add(&node.store(), "b");
            assert!(
                matches!(given, Err(LeaseError::Pool(PoolError::NotSealed { .. } | PoolError::Incomplete { .. }))),
                "nobody knows who lives: {given:?}"
            );
        },
    );
}

#[test]
fn st3_a_start_that_is_stopped_anywhere_is_done_by_the_next() {
    let prepare = || {
        let mut node = Node::with_pool(&[4, 5, 6]);
        node.open().quarantine(&marker(6, 1), &mut free).unwrap();
        node.reboot();
        std::fs::create_dir(node.path("run")).unwrap();
        node
    };
    let start = |node: &Node| {
        let keeper = opened(node)?;
        keeper.sweep()?;
        keeper.rebuild_from_kernel(&[kernel_lease(4, "a")])?;
        keeper.restore_after_start(&mut free)?;
        keeper.adopt(&revision(1, &[4, 5, 6]))?;
        keeper.seal(SealOwner::Agent)
    };
    sweep(
        &[End::Process],
        prepare,
        |node| start(node).is_ok(),
        |node, _, _| {
            let given = add(&node.store(), "early").ok();
            assert!(given.is_none_or(|given| given == address(5)), "sealed means whole");
            delete(&node.store(), "early");
            start(node).unwrap();
            assert_eq!(add(&node.store(), "a").unwrap(), address(4));
            assert_eq!(add_all(&node.store()), [address(5)]);
        },
    );
}

fn opened(node: &Node) -> Result<Keeper, KeeperError> {
    Keeper::open(&node.path("run"), &node.path("lib"), node.boot.parse().unwrap())
}

#[test]
fn st3_a_seal_without_an_agent_that_is_stopped_anywhere_is_made_by_the_next() {
    let links = [kernel_lease(4, "lives")];
    sweep(
        &[End::Process],
        without_agent,
        |node| node.store().seal_without_agent(&links, &[address(9)].into()).is_ok(),
        |node, is_sealed, _| {
            let store = node.store();
            assert!(!is_sealed || store.seal().is_ok());
            assert_eq!(store.seal_without_agent(&links, &[address(9)].into()).unwrap(), SealOwner::Plugin);
            assert!(is_leased(&store, 4), "who lives has its lease");
            assert!(matches!(store.read(address(9)).unwrap(), Some(Entry::Unreadable(_))));
            assert_eq!(store.find(&attachment("lives")).unwrap().unwrap().lease().address, address(4));
            store.sweep_without_agent().unwrap();
            assert_eq!(names(node, "run"), ["by", "lease", "lock", "sealed", "want"]);
        },
    );
}

#[test]
fn st5_what_is_learned_is_there_wholly_or_as_it_was() {
    let learned =
        |at| Learned { boot: "boot-1".parse().unwrap(), origin: Origin::Wireserver, asked: BootTime::from_millis(at), subnets: Vec::new() };
    let prepare = || {
        let node = without_agent();
        node.store().seal_without_agent(&[], &BTreeSet::new()).unwrap();
        node.store().learn(&learned(5)).unwrap();
        node
    };
    sweep(
        &[End::Process],
        prepare,
        |node| node.store().learn(&learned(7)).is_ok(),
        |node, is_kept, _| {
            let now = node.store().learned().unwrap().unwrap();
            assert!(now == learned(7) || (now == learned(5) && !is_kept), "{now:?}");
            node.store().learn(&learned(6)).unwrap();
            assert_ne!(node.store().learned().unwrap().unwrap().asked.as_millis(), 5);
            node.store().learn(&learned(8)).unwrap();
            node.store().learn(&learned(6)).unwrap();
            assert_eq!(node.store().learned().unwrap(), Some(learned(8)), "a later question's answer stays");
        },
    );
}

/// A node whose durable folder no one has ever used.
fn without_agent() -> Node {
    let node = Node::new();
    std::fs::create_dir_all(node.path("lib/quarantine")).unwrap();
    node
}
