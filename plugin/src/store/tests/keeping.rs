//! What the agent does: adopting, setting aside, starting.

use std::{collections::BTreeSet, fs};

use azure_vnet_plugin_core::attachment::PodRef;

use super::{
    super::{KeeperError, PoolError, Quarantining, Rebuilt, Restored},
    *,
};

#[test]
fn st3_pods_that_run_keep_their_addresses_when_the_store_is_lost() {
    let node = Node::with_pool(&[4, 5, 6]);
    let first = add(&node.store(), "a").unwrap();
    assert_eq!(first, address(4));
    fs::remove_dir_all(node.path("run")).unwrap();

    let keeper = node.open();
    let rebuilt = keeper.rebuild_from_kernel(&[kernel_lease(4, "a")]).unwrap();
    assert_eq!(rebuilt, [Rebuilt::Made(address(4))]);
    assert_eq!(keeper.rebuild_from_kernel(&[kernel_lease(4, "a")]).unwrap(), [Rebuilt::Known(address(4))]);
    assert!(matches!(keeper.rebuild_from_kernel(&[kernel_lease(4, "b")]).unwrap()[..], [Rebuilt::Conflict(..)]));
    assert!(matches!(keeper.rebuild_from_kernel(&[kernel_lease(5, "a")]).unwrap()[..], [Rebuilt::Conflict(..)]));
    keeper.restore_after_start(&mut free).unwrap();
    assert!(matches!(keeper.seal(SealOwner::Agent), Err(KeeperError::NoPool)));
    keeper.adopt(&revision(1, &[4, 5, 6])).unwrap();
    keeper.seal(SealOwner::Agent).unwrap();

    assert_eq!(add(&node.store(), "a").unwrap(), first);
    assert_eq!(add_all(&node.store()), [5, 6].map(address));
    delete(&node.store(), "a");
    assert!(is_cooling(&node.store(), 4));
}

#[test]
fn st3_a_sealed_store_that_lost_leases_gives_none_before_it_is_made_whole() {
    for lost in ["run/lease", "run/by"] {
        for restarts in [true, false] {
            let node = Node::with_pool(&[4, 5]);
            let store = node.store();
            assert_eq!(add(&store, "lives").unwrap(), address(4));
            let keeper = (!restarts).then(|| node.open());
            std::fs::remove_dir_all(node.path(lost)).unwrap();
            let keeper = keeper.unwrap_or_else(|| node.open());
            assert_eq!(keeper.make_folders().unwrap(), (!restarts).then(|| node.path(lost)), "a start has seen to it");
            assert!(matches!(add(&store, "b"), Err(LeaseError::Pool(PoolError::NotSealed { .. }))), "{lost}");
            assert_eq!(keeper.make_folders().unwrap(), None);
            keeper.sweep().unwrap();
            keeper.rebuild_from_kernel(&[kernel_lease(4, "lives")]).unwrap();
            keeper.seal(SealOwner::Agent).unwrap();
            assert_eq!(keeper.make_folders().unwrap(), None, "a whole one keeps its seal");
            assert_eq!(add(&store, "b").unwrap(), address(5));
            assert_eq!(add(&store, "lives").unwrap(), address(4));
        }
    }
}

#[test]
fn st3_what_cannot_be_read_is_mended_from_the_kernel() {
    let node = Node::with_pool(&[4]);
    fs::write(node.path("run/lease/10.240.0.4"), "rubbish").unwrap();
    assert_eq!(node.open().rebuild_from_kernel(&[kernel_lease(4, "a")]).unwrap(), [Rebuilt::Made(address(4))]);
    assert_eq!(add(&node.store(), "a").unwrap(), address(4));
}

#[test]
fn cm4_an_address_that_a_pod_left_is_nobodys_until_the_kernel_has_nothing_of_it_and_then_rests() {
    let node = Node::with_pool(&[4, 5]);
    let store = node.store();
    let mut given = Vec::new();
    let mut refuse = || {
        given.push(add(&store, "a").unwrap());
        false
    };
    assert!(!store.clear(address(4), &mut refuse).unwrap());
    assert_eq!(given, [address(5)]);
    assert!(matches!(store.read(address(4)).unwrap(), Some(Entry::Unreadable(_))), "it stays occupied");
    assert!(store.clear(address(4), &mut || true).unwrap());
    assert!(is_cooling(&store, 4));
}

#[test]
fn cm4_an_address_that_rests_is_nobodys_while_what_another_pod_left_of_it_is_taken_away_and_rests_anew() {
    let node = Node::new();
    let keeper = node.start();
    // Of pods that have come and gone since, it is free as soon as its rest has ended: at once.
    keeper.adopt(&revision(1, &[4])).unwrap();
    keeper.seal(SealOwner::Agent).unwrap();
    let store = node.store();
    add(&store, "a").unwrap();
    delete(&store, "a");
    assert!(is_cooling(&store, 4));
    for is_gone in [false, true] {
        let mut take_away = || {
            assert!(matches!(add(&store, "b"), Err(LeaseError::Exhausted { .. })), "nobody gets it meanwhile");
            is_gone
        };
        assert_eq!(store.clear(address(4), &mut take_away).unwrap(), is_gone);
    }
    assert!(is_cooling(&store, 4));
    assert_eq!(add(&store, "b").unwrap(), address(4));
}

#[test]
fn cm4_of_an_address_that_has_a_record_nothing_is_taken_away() {
    let node = Node::with_pool(&[4, 5]);
    let store = node.store();
    add(&store, "a").unwrap();
    node.open().quarantine(&marker(5, 1), &mut free).unwrap();
    let cleared = [4, 5].map(|last| store.clear(address(last), &mut || panic!("{last} is another's")).unwrap());
    assert_eq!((cleared, is_leased(&store, 4), is_quarantined(&store, 5)), ([true, false], true, true));
}

#[test]
fn st6_an_address_is_set_aside_by_two_records_or_by_none() {
    let node = Node::with_pool(&[4, 5]);
    let keeper = node.open();
    assert_eq!(keeper.quarantine(&marker(5, 1), &mut free).unwrap(), Quarantining::Done);
    assert_eq!(keeper.quarantine(&marker(5, 1), &mut free).unwrap(), Quarantining::Done);
    assert_eq!(keeper.quarantined().unwrap(), [marker(5, 1)]);
    assert_eq!(names(&node, "lib/quarantine"), ["10.240.0.5"]);
    assert_eq!(add_all(&node.store()), [address(4)]);

    let Quarantining::Refused(why) = keeper.quarantine(&marker(4, 1), &mut free).unwrap() else { panic!("a leased address was set aside") };
    assert_eq!(why, "leased to all-0/eth0");
    assert!(is_leased(&node.store(), 4));
    assert_eq!(names(&node, "lib/quarantine"), ["10.240.0.5"]);
}

#[test]
fn st6_an_address_that_the_kernel_uses_is_not_set_aside() {
    let node = Node::with_pool(&[4]);
    let keeper = node.open();
    let mut marked_first = false;
    let refused = keeper.quarantine(&marker(4, 1), &mut |of| {
        marked_first = is_quarantined(&node.store(), 4) && !node.path("lib/quarantine/10.240.0.4").exists();
        used(of)
    });
    assert_eq!(refused.unwrap(), Quarantining::Refused("the test".into()));
    assert!(marked_first, "the run marker stands before the kernel is asked, the durable one after");
    assert_eq!(node.store().list().unwrap(), []);
}

#[test]
fn st6_a_new_release_takes_the_marker_over() {
    let node = Node::with_pool(&[4]);
    let keeper = node.open();
    keeper.quarantine(&marker(4, 1), &mut free).unwrap();
    keeper.quarantine(&marker(4, 2), &mut free).unwrap();
    assert_eq!(keeper.quarantined().unwrap(), [marker(4, 2)]);
}

#[test]
fn st6_a_run_marker_alone_is_completed_or_dropped_at_the_start() {
    type Kernel = fn(Ipv4Addr) -> KernelUse;
    let cases: [(Kernel, Restored); 2] = [
        (free, Restored { quarantined: vec![marker(4, 1)], ..Restored::default() }),
        (used, Restored { refused: vec![marker(4, 1)], ..Restored::default() }),
    ];
    for (mut kernel, expected) in cases {
        let node = Node::with_pool(&[4]);
        let keeper = node.open();
        keeper.adopt(&holding(revision(2, &[4]), &[marker(4, 1)])).unwrap();
        assert!(is_quarantined(&node.store(), 4));
        assert_eq!(keeper.quarantined().unwrap(), [], "one record is no acknowledgement");
        assert_eq!(keeper.restore_after_start(&mut kernel).unwrap(), expected);
        assert_eq!(keeper.quarantined().unwrap(), expected.quarantined);
        assert_eq!(is_quarantined(&node.store(), 4), !expected.quarantined.is_empty());
    }
}

#[test]
fn st6_a_durable_marker_is_linked_again_after_a_boot() {
    let mut node = Node::with_pool(&[4, 5]);
    node.open().quarantine(&marker(4, 1), &mut free).unwrap();
    node.reboot();
    let keeper = node.open();
    keeper.sweep().unwrap();
    keeper.rebuild_from_kernel(&[]).unwrap();
    assert_eq!(keeper.quarantined().unwrap(), []);
    assert_eq!(keeper.restore_after_start(&mut free).unwrap().quarantined, [marker(4, 1)]);
    keeper.adopt(&revision(1, &[4, 5])).unwrap();
    keeper.seal(SealOwner::Agent).unwrap();
    assert_eq!(add_all(&node.store()), [address(5)]);
}

#[test]
fn st6_a_durable_marker_that_meets_a_lease_goes() {
    let node = Node::with_pool(&[4]);
    let keeper = node.open();
    keeper.quarantine(&marker(4, 1), &mut free).unwrap();
    fs::remove_dir_all(node.path("run")).unwrap();
    drop(keeper);
    let keeper = node.open();
    keeper.rebuild_from_kernel(&[kernel_lease(4, "a")]).unwrap();
    assert_eq!(keeper.restore_after_start(&mut free).unwrap(), Restored { refused: vec![marker(4, 1)], ..Restored::default() });
    assert_eq!(names(&node, "lib/quarantine"), [""; 0]);
    assert!(is_leased(&node.store(), 4));
}

#[test]
fn st6_a_damaged_marker_keeps_its_address_from_pods_and_is_not_acknowledged() {
    let mut node = Node::with_pool(&[4, 5]);
    node.open().quarantine(&marker(4, 1), &mut free).unwrap();
    fs::write(node.path("lib/quarantine/10.240.0.4"), "").unwrap();
    node.reboot();
    let keeper = node.open();
    assert_eq!(keeper.restore_after_start(&mut free).unwrap().unreadable, [address(4)]);
    keeper.adopt(&revision(1, &[4, 5])).unwrap();
    keeper.seal(SealOwner::Agent).unwrap();
    assert_eq!(add_all(&node.store()), [address(5)]);
    assert_eq!(keeper.quarantined().unwrap(), []);
    assert_eq!(keeper.set_aside().unwrap(), BTreeSet::from([slot(4)]), "so that its probation can end");
    keeper.withdraw(slot(4)).unwrap();
    keeper.adopt(&revision(1, &[4, 5])).unwrap();
    assert_eq!(add(&node.store(), "a").unwrap(), address(4));
}

#[test]
fn st7_a_damaged_marker_goes_when_its_address_leaves() {
    let mut node = Node::with_pool(&[4, 5]);
    node.open().quarantine(&marker(4, 1), &mut free).unwrap();
    fs::write(node.path("lib/quarantine/10.240.0.4"), "").unwrap();
    node.reboot();
    let keeper = node.open();
    keeper.restore_after_start(&mut free).unwrap();
    keeper.adopt(&revision(2, &[5])).unwrap();
    assert_eq!((names(&node, "lib/quarantine"), keeper.set_aside().unwrap()), (vec![], BTreeSet::new()));
    assert_eq!(keeper.adopt(&revision(3, &[4, 5])).unwrap().addresses(), [slot(4), slot(5)], "what comes back is a new one");
}

#[test]
fn st7_an_address_that_leaves_the_revision_leaves_pool_and_markers() {
    let node = Node::with_pool(&[4, 5]);
    let keeper = node.open();
    keeper.adopt(&holding(revision(2, &[4, 5]), &[marker(5, 1)])).unwrap();
    keeper.quarantine(&marker(5, 1), &mut free).unwrap();
    let offer = keeper.adopt(&revision(3, &[4])).unwrap();
    assert_eq!(offer.addresses(), [slot(4)]);
    assert_eq!(keeper.adopted().unwrap().unwrap().addresses(), [slot(4)]);
    assert_eq!((names(&node, "run/lease"), names(&node, "lib/quarantine")), (vec![], vec![]));
}

#[test]
fn st7_a_withdrawn_address_is_offered_again() {
    let node = Node::with_pool(&[4]);
    let keeper = node.open();
    keeper.adopt(&holding(revision(2, &[4]), &[marker(4, 1)])).unwrap();
    keeper.quarantine(&marker(4, 1), &mut free).unwrap();
    assert_eq!(keeper.adopt(&revision(3, &[4])).unwrap().addresses(), [], "until it is withdrawn");
    keeper.withdraw(slot(4)).unwrap();
    assert_eq!(keeper.adopt(&revision(3, &[4])).unwrap().addresses(), [slot(4)]);
    assert_eq!(add(&node.store(), "a").unwrap(), address(4));
}

#[test]
fn st8_held_addresses_are_marked_before_the_pool_is_in_place_and_not_in_it() {
    let node = Node::new();
    let keeper = node.start();
    let offer = keeper.adopt(&holding(revision(1, &[4, 5, 6]), &[marker(5, 1)])).unwrap();
    assert_eq!(offer.addresses(), [slot(4), slot(6)]);
    assert!(is_quarantined(&node.store(), 5));
    keeper.seal(SealOwner::Agent).unwrap();
    assert_eq!(add_all(&node.store()), [4, 6].map(address));
    assert_eq!(node.store().counts().unwrap().quarantined, 1);
}

#[test]
fn st9_the_store_s_id_stays_and_changes_with_the_disk() {
    let mut node = Node::with_pool(&[4]);
    let id = node.open().id().clone();
    node.reboot();
    assert_eq!(*node.open().id(), id);
    fs::write(node.path("lib/pool"), "damaged").unwrap();
    let keeper = node.open();
    let second = keeper.id().clone();
    assert_ne!(second, id, "what a damaged store promised is void");
    assert_eq!(keeper.adopted().unwrap(), None);
    drop(keeper);
    fs::remove_dir_all(node.path("lib")).unwrap();
    let third = node.start();
    assert_ne!(*third.id(), second);
}

#[test]
fn st9_a_pool_of_another_store_does_not_count() {
    let node = Node::with_pool(&[4]);
    fs::remove_dir_all(node.path("lib")).unwrap();
    let keeper = node.start();
    assert!(!keeper.is_sealed());
    assert!(matches!(keeper.seal(SealOwner::Agent), Err(KeeperError::NoPool)));
    keeper.adopt(&revision(1, &[4])).unwrap();
    assert!(add(&node.store(), "a").is_err());
    keeper.seal(SealOwner::Agent).unwrap();
    add(&node.store(), "a").unwrap();
}

#[test]
fn st11_leases_outlive_a_new_object_in_the_same_boot() {
    let node = Node::with_pool(&[4, 5]);
    add(&node.store(), "a").unwrap();
    let mut other = revision(1, &[4, 5]);
    other.facts.object_uid = "uid-2".into();
    node.open().adopt(&other).unwrap();
    assert!(is_leased(&node.store(), 4));
    assert_eq!(node.store().pool().unwrap().object_uid, "uid-2");
}

#[test]
fn st12_a_foreign_boot_id_is_occupied_until_the_kernel_shows_no_link() {
    let mut node = Node::with_pool(&[4, 5]);
    add(&node.store(), "a").unwrap();
    add(&node.store(), "b").unwrap();
    node.boot = "boot-2".into();
    let keeper = node.open();
    keeper.sweep().unwrap();
    assert!(is_leased(&node.store(), 4) && is_leased(&node.store(), 5));
    let rebuilt = keeper.rebuild_from_kernel(&[kernel_lease(4, "a")]).unwrap();
    assert_eq!(rebuilt, [Rebuilt::Made(address(4)), Rebuilt::Void(address(5))]);
    keeper.restore_after_start(&mut free).unwrap();
    keeper.adopt(&revision(1, &[4, 5])).unwrap();
    keeper.seal(SealOwner::Agent).unwrap();
    assert_eq!(add_all(&node.store()), [address(5)]);
}

#[test]
fn st12_a_folder_that_was_replaced_is_noticed() {
    let node = Node::with_pool(&[4]);
    let keeper = node.open();
    keeper.health().unwrap();
    fs::rename(node.path("run"), node.path("moved")).unwrap();
    assert!(matches!(keeper.health(), Err(KeeperError::Replaced { .. })));
    fs::create_dir(node.path("run")).unwrap();
    assert!(matches!(keeper.health(), Err(KeeperError::Replaced { .. })));
    assert!(matches!(keeper.seal(SealOwner::Agent), Err(KeeperError::Replaced { .. })));
}

#[test]
fn re2_a_release_that_names_another_address_for_the_slot_is_refused() {
    let node = Node::with_pool(&[4]);
    let foreign = Quarantine { slot: SlotAddress { slot: 4, address: address(9) }, ..marker(4, 1) };
    assert!(matches!(node.open().quarantine(&foreign, &mut free).unwrap(), Quarantining::Refused(_)));
    assert_eq!(node.store().list().unwrap(), []);
}

#[test]
fn re2_each_address_of_a_slot_with_several_is_set_aside_and_none_that_it_lacks() {
    let node = Node::with_pool(&[4]);
    let slot = |last: u8| SlotAddress { slot: 4, address: address(last) };
    let block = Adoption { addresses: (4..=6).map(slot).collect(), ..revision(5, &[4]) };
    let keeper = node.open();
    keeper.adopt(&block).unwrap();
    let aside = |last: u8| keeper.quarantine(&Quarantine { slot: slot(last), ..marker(4, 1) }, &mut free).unwrap();
    assert_eq!([4, 5, 6].map(aside), [Quarantining::Done, Quarantining::Done, Quarantining::Done]);
    assert!(matches!(aside(9), Quarantining::Refused(_)));
    assert_eq!(keeper.quarantined().unwrap().len(), 3);
}

#[test]
fn re2_what_the_pool_lacks_of_a_slot_is_set_aside_with_the_rest_unless_it_has_what_the_release_does_not_name() {
    let node = Node::with_pool(&[4]);
    let slot = |last: u8| SlotAddress { slot: 4, address: address(last) };
    let keeper = node.open();
    keeper.adopt(&Adoption { addresses: [4, 6].map(slot).into(), ..revision(5, &[4]) }).unwrap();
    let aside = |named: &[u8]| {
        let whole = named.iter().copied().map(slot).collect();
        keeper.quarantine_of(&Quarantine { slot: slot(5), ..marker(4, 1) }, &whole, &mut free).unwrap()
    };
    assert!(matches!(aside(&[4, 5]), Quarantining::Refused(_)), "the pool has 10.240.0.6 there too");
    assert_eq!(aside(&[4, 5, 6]), Quarantining::Done);
    assert_eq!(keeper.quarantined().unwrap(), [Quarantine { slot: slot(5), ..marker(4, 1) }]);
}

#[test]
fn re3_an_older_revision_is_not_adopted_even_after_a_boot() {
    let mut node = Node::with_pool(&[4]);
    node.open().adopt(&revision(5, &[4, 5])).unwrap();
    node.reboot();
    let keeper = node.start();
    assert!(matches!(keeper.adopt(&revision(4, &[4, 5])), Err(KeeperError::Regressed(_))));
    assert!(matches!(keeper.adopt(&revision(5, &[4])), Err(KeeperError::Regressed(_))));
    keeper.adopt(&revision(5, &[4, 5])).unwrap();
}

#[test]
fn up1_an_empty_pool_counts_as_adopted() {
    let node = Node::with_pool(&[]);
    assert!(node.open().is_sealed());
    assert_eq!(node.store().pool().unwrap().addresses(), []);
    assert!(matches!(add(&node.store(), "a"), Err(LeaseError::Exhausted { .. })));
}

#[test]
fn no_lease_of_a_former_boot_is_left_on_a_disk_that_keeps_run() {
    let mut node = Node::with_pool(&[4, 5]);
    add(&node.store(), "a").unwrap();
    add(&node.store(), "b").unwrap();
    delete(&node.store(), "b");
    node.boot = "boot-2".into();
    let keeper = node.start();
    keeper.adopt(&revision(1, &[4, 5])).unwrap();
    keeper.seal(SealOwner::Agent).unwrap();
    keeper.sweep().unwrap();
    assert_eq!(node.store().list().unwrap(), []);
    assert_eq!(names(&node, "run/by"), [""; 0]);
}

#[test]
fn two_agents_do_not_keep_one_store() {
    let node = Node::new();
    let _first = node.open();
    let second = Keeper::open(&node.path("run"), &node.path("lib"), "boot-1".parse().unwrap());
    assert!(matches!(second, Err(KeeperError::Kept { .. })));
}

fn pod(store: &Store, container: &str, uid: Option<&str>) -> Result<Ipv4Addr, LeaseError> {
    let named = uid.map(|uid| PodRef { namespace: "ns".into(), name: container.into(), uid: Some(uid.parse().unwrap()) });
    let granted = store.lease(&LeaseRequest { pod: named, ..request(container) }, &mut free)?;
    Ok(granted.held.lease().address)
}

#[test]
fn st13_after_a_boot_the_same_pod_gets_the_same_address_first_and_others_go_last() {
    let mut node = Node::with_pool(&[4, 5, 6, 7]);
    let before = ["a", "b"].map(|uid| pod(&node.store(), &format!("{uid}1"), Some(uid)).unwrap());
    let mut keeper = node.open();
    assert!(!keeper.remember(&keeper.store().list().unwrap(), None).unwrap(), "nobody is waited for in the same boot");
    drop(keeper);
    node.reboot();
    let mut keeper = node.start();
    keeper.adopt(&revision(1, &[4, 5, 6, 7])).unwrap();
    keeper.seal(SealOwner::Agent).unwrap();
    let store = node.store();
    let new = ["c", "d"].map(|uid| pod(&store, &format!("{uid}2"), Some(uid)).unwrap());
    assert!(new.iter().all(|address| !before.contains(address)), "{new:?} of others than {before:?}");
    assert_eq!(pod(&store, "b2", Some("b")).unwrap(), before[1]);
    assert_eq!(pod(&store, "e2", None).unwrap(), before[0], "better the last than none");
    assert!(matches!(pod(&store, "a2", Some("a")), Err(LeaseError::Exhausted { .. })), "a living pod keeps what it got");
    assert!(keeper.remember(&store.list().unwrap(), None).unwrap());
    assert_eq!(keeper.adopt(&revision(1, &[4, 5, 6, 7])).unwrap().remembered().count(), 0);
}

#[test]
fn st13_a_pod_that_the_node_has_no_more_is_not_waited_for() {
    let mut node = Node::with_pool(&[4, 5]);
    pod(&node.store(), "a1", Some("a")).unwrap();
    let mut keeper = node.open();
    keeper.remember(&keeper.store().list().unwrap(), None).unwrap();
    drop(keeper);
    node.reboot();
    let mut keeper = node.start();
    assert_eq!(keeper.adopt(&revision(1, &[4, 5])).unwrap().remembered().count(), 1);
    assert!(keeper.remember(&[], Some(&BTreeSet::new())).unwrap());
    assert_eq!(keeper.adopt(&revision(1, &[4, 5])).unwrap().remembered().count(), 0);
}
