//! What plugins do, alone and at once.

use std::{
    fs,
    sync::{
        Barrier, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use azure_vnet_plugin_core::{
    attachment::PodRef,
    lease::{Cooling, Entry},
};

use super::{
    super::{Counts, Freed, HoldError, Origin, PoolError},
    *,
};

#[test]
fn st1_an_expired_rest_never_goes_to_two_racers() {
    let node = Node::with_pool(&[4]);
    let barrier = Barrier::new(8);
    let answers = Mutex::new(vec![Vec::new(); 200]);
    thread::scope(|scope| {
        for racer in 0..8 {
            let (node, barrier, answers) = (&node, &barrier, &answers);
            scope.spawn(move || {
                let store = node.store();
                for round in 0..200 {
                    let container = format!("r{racer}-{round}");
                    barrier.wait();
                    let answer = add(&store, &container);
                    barrier.wait();
                    if !matches!(answer, Err(LeaseError::Exhausted { .. })) {
                        answers.lock().unwrap()[round].push(answer.map_err(|error| error.to_string()));
                    }
                    if let Ok(Some(held)) = store.find(&attachment(&container)) {
                        let _ = held.cool();
                    }
                    barrier.wait();
                }
            });
        }
    });
    assert_eq!(answers.into_inner().unwrap(), vec![[Ok(address(4))]; 200]);
}

#[test]
fn st1_a_lock_file_that_was_replaced_is_taken_anew() {
    let node = Node::with_pool(&[4]);
    let store = node.store();
    let path = node.path("run/lock");
    let old = store.lock().unwrap();
    let is_released = AtomicBool::new(false);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let lock = store.lock().unwrap();
            assert!(is_released.load(Ordering::SeqCst), "two had the lock at once");
            drop(lock);
        });
        while descriptors_of(&path) < 2 && !waiting.is_finished() {
            thread::yield_now();
        }
        fs::remove_file(&path).unwrap();
        let new = store.lock().unwrap();
        drop(old);
        while descriptors_of(&path) < 2 && !waiting.is_finished() {
            thread::yield_now();
        }
        is_released.store(true, Ordering::SeqCst);
        drop(new);
        waiting.join().unwrap();
    });
}

/// How many of this process's open files are what the path names now.
fn descriptors_of(path: &std::path::Path) -> usize {
    let links = fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
    links.filter(|link| link == path).count()
}

#[test]
fn a_hundred_at_once_get_a_hundred_addresses() {
    let node = Node::with_pool(&(1..=100).collect::<Vec<_>>());
    let mut addresses = thread::scope(|scope| {
        let racers: Vec<_> = (0..100)
            .map(|racer| {
                scope.spawn({
                    let store = node.store();
                    move || add(&store, &format!("c{racer}")).unwrap()
                })
            })
            .collect();
        racers.into_iter().map(|racer| racer.join().unwrap()).collect::<Vec<_>>()
    });
    addresses.sort_unstable();
    assert_eq!(addresses, (1..=100).map(address).collect::<Vec<_>>());
    assert_eq!(node.store().counts().unwrap(), Counts { total: 100, leased: 100, ..Counts::default() });
}

#[test]
fn the_same_attachment_at_once_gets_one_lease() {
    let node = Node::with_pool(&[4, 5, 6, 7]);
    let addresses = thread::scope(|scope| {
        let racers: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn({
                    let store = node.store();
                    move || add(&store, "same").unwrap()
                })
            })
            .collect();
        racers.into_iter().map(|racer| racer.join().unwrap()).collect::<std::collections::BTreeSet<_>>()
    });
    assert_eq!(addresses.len(), 1);
    assert_eq!(node.store().counts().unwrap().leased, 1);
}

#[test]
fn st2_an_address_that_leaves_the_pool_while_the_kernel_is_asked_is_not_given() {
    let node = Node::with_pool(&[4, 5]);
    let keeper = node.open();
    let store = node.store();
    let mut asked = Vec::new();
    let granted = store.lease(&request("a"), &mut |candidate| {
        asked.push(candidate);
        keeper.adopt(&revision(2, &[5])).unwrap();
        KernelUse::Free
    });
    assert_eq!(granted.unwrap().held.lease().address, address(5));
    assert_eq!(asked, [4, 5].map(address));
}

#[test]
fn st2_nothing_is_refused_by_a_pool_that_was_replaced_before_the_lock_was_there() {
    let node = Node::with_pool(&[4]);
    let (keeper, store) = (node.open(), node.store());
    add(&store, "a").unwrap();
    let by_name = LeaseRequest { requested: Some(address(6)), ..request("c") };
    for (revised, addresses, request) in [(2, &[4, 5][..], request("b")), (3, &[4, 5, 6][..], by_name)] {
        let offer = store.offer(&request.supply).unwrap();
        keeper.adopt(&revision(revised, addresses)).unwrap();
        let (chosen, offer) = store.choose_from(offer, &request, &BTreeMap::new()).unwrap();
        assert_eq!((chosen, offer.addresses().len()), (address(*addresses.last().unwrap()), addresses.len()));
    }
}

#[test]
fn st2_a_pool_that_is_written_over_while_the_kernel_is_asked_is_read_again() {
    let node = Node::with_pool(&[4]);
    let store = node.store();
    let leased = store.lease(&request("a"), &mut |_| {
        fs::write(node.path("run/pool"), "rubbish").unwrap();
        KernelUse::Free
    });
    assert!(matches!(leased, Err(LeaseError::Pool(PoolError::Unreadable { .. }))));
}

#[test]
fn st3_nothing_is_leased_from_a_store_that_is_not_sealed_in_this_boot() {
    let absent = Node::new();
    assert!(matches!(add(&absent.store(), "a"), Err(LeaseError::Pool(PoolError::NotSealed { .. }))));
    assert_eq!(absent.store().list().unwrap(), []);
    assert!(absent.store().find(&attachment("a")).unwrap().is_none());

    let mut node = Node::with_pool(&[4]);
    node.boot = "boot-2".into();
    assert!(matches!(add(&node.store(), "a"), Err(LeaseError::Pool(PoolError::OtherBoot { .. }))));
    assert!(matches!(node.store().pool(), Err(PoolError::OtherBoot { .. })));

    let node = Node::with_pool(&[4]);
    node.open().unseal().unwrap();
    assert!(matches!(add(&node.store(), "a"), Err(LeaseError::Pool(PoolError::NotSealed { .. }))));
    fs::write(node.path("run/sealed"), "rubbish").unwrap();
    assert!(matches!(add(&node.store(), "a"), Err(LeaseError::Pool(PoolError::Unreadable { .. }))));
}

#[test]
fn st3_a_lease_that_was_written_over_is_not_confirmed() {
    let node = Node::with_pool(&[4]);
    let (store, path) = (node.store(), node.path("run/lease/10.240.0.4"));
    let granted = store.lease(&request("a"), &mut free).unwrap();
    let record = fs::read_to_string(&path).unwrap();
    fs::write(&path, record.replace('a', "b")).unwrap();
    assert!(matches!(granted.confirm(), Err(LeaseError::Lost { .. })));
    fs::write(&path, record).unwrap();
    granted.confirm().unwrap();
}

#[test]
fn st3_a_lease_that_was_lost_while_the_pod_was_wired_is_not_confirmed() {
    let node = Node::with_pool(&[4]);
    let store = node.store();
    let granted = store.lease(&request("a"), &mut free).unwrap();
    granted.confirm().unwrap();
    fs::remove_file(node.path("run/lease/10.240.0.4")).unwrap();
    assert!(matches!(granted.confirm(), Err(LeaseError::Lost { .. })));
    let other = add(&store, "b").unwrap();
    assert_eq!(other, address(4));
    assert!(matches!(granted.confirm(), Err(LeaseError::Lost { .. })));
    granted.held.rollback().unwrap();
    assert!(is_leased(&store, 4), "what another process made is not undone");

    fs::remove_dir_all(node.path("run")).unwrap();
    let Err(LeaseError::Pool(PoolError::NotSealed { .. })) = add(&store, "c") else { panic!("a lost store leased") };
}

#[test]
fn st3_what_was_leased_before_the_seal_was_lost_is_not_confirmed() {
    let node = Node::with_pool(&[4]);
    let store = node.store();
    let granted = store.lease(&request("a"), &mut free).unwrap();
    let keeper = node.open();
    keeper.unseal().unwrap();
    assert!(matches!(granted.confirm(), Err(LeaseError::Pool(PoolError::NotSealed { .. }))));
    fs::write(node.path("run/sealed"), "rubbish").unwrap();
    assert!(matches!(granted.confirm(), Err(LeaseError::Pool(PoolError::Unreadable { .. }))));
    keeper.seal(SealOwner::Agent).unwrap();
    granted.confirm().unwrap();
}

#[test]
fn st4_an_address_that_the_kernel_uses_is_skipped_and_the_kernel_is_asked_outside_the_lock() {
    let node = Node::with_pool(&[4, 5, 6]);
    let store = node.store();
    let mut asked = Vec::new();
    let granted = store.lease(&request("a"), &mut |candidate| {
        drop(store.lock().unwrap());
        asked.push(candidate);
        if candidate == address(6) { KernelUse::Free } else { KernelUse::Used("the host".into()) }
    });
    assert_eq!(granted.unwrap().held.lease().address, address(6));
    assert_eq!(asked, [4, 5, 6].map(address));

    let exhausted = store.lease(&request("b"), &mut used).unwrap_err();
    assert!(exhausted.to_string().ends_with("2 used otherwise on this host (the test, the test)"), "{exhausted}");
    let LeaseError::Exhausted { counts, in_use } = exhausted else { panic!("{exhausted:?}") };
    assert_eq!((counts.total, counts.leased, counts.free, in_use.len()), (3, 1, 2, 2));
}

#[test]
fn an_address_found_in_use_while_wiring_is_avoided() {
    let node = Node::with_pool(&[4, 5]);
    let store = node.store();
    let Granted { held, .. } = store.lease(&request("a"), &mut free).unwrap();
    let first = held.lease().address;
    held.rollback().unwrap();
    let again = LeaseRequest { avoid: [(first, "a bridge has it".to_owned())].into(), ..request("a") };
    assert_ne!(store.lease(&again, &mut free).unwrap().held.lease().address, first);
    assert_eq!(store.counts().unwrap().leased, 1);
}

#[test]
fn st10_leases_are_keyed_by_container_and_interface() {
    let node = Node::with_pool(&[4, 5]);
    let store = node.store();
    let mut second = request("a");
    second.attachment.if_name = "net1".parse().unwrap();
    let first = add(&store, "a").unwrap();
    let other = store.lease(&second, &mut free).unwrap().held.lease().address;
    assert_ne!(first, other);
    let Granted { held, .. } = store.lease(&LeaseRequest { network: "renamed".parse().unwrap(), ..request("a") }, &mut free).unwrap();
    assert_eq!((held.lease().address, held.origin()), (first, Origin::Found));
    assert_eq!(held.lease().network.as_str(), "azure", "the lease says how it was wired, not the configuration of the day");
}

#[test]
fn a_requested_address_is_given_or_refused() {
    let node = Node::with_pool(&[4, 5]);
    let store = node.store();
    let asking = |container, last| LeaseRequest { requested: Some(address(last)), ..request(container) };
    assert_eq!(store.lease(&asking("a", 5), &mut free).unwrap().held.lease().address, address(5));
    assert!(matches!(store.lease(&asking("b", 5), &mut free), Err(LeaseError::RequestedTaken { .. })));
    assert!(matches!(store.lease(&asking("b", 9), &mut free), Err(LeaseError::RequestedForeign { .. })));
    assert!(matches!(store.lease(&asking("a", 4), &mut free), Err(LeaseError::RequestedOther { .. })));
    assert!(matches!(store.lease(&asking("b", 4), &mut used), Err(LeaseError::RequestedTaken { .. })));
    assert_eq!(store.counts().unwrap().leased, 1);
}

#[test]
fn st13_a_rest_is_not_shortened_when_addresses_are_short() {
    let node = Node::new();
    let keeper = node.start();
    keeper.adopt(&resting(revision(1, &[4]), Duration::from_hours(1))).unwrap();
    keeper.seal(SealOwner::Agent).unwrap();
    let store = node.store();
    add(&store, "a").unwrap();
    delete(&store, "a");
    assert!(is_cooling(&store, 4));
    assert!(matches!(add(&store, "b"), Err(LeaseError::Exhausted { counts: Counts { cooling: 1, free: 0, .. }, .. })));
    keeper.sweep().unwrap();
    assert!(is_cooling(&store, 4));
}

#[test]
fn st14_the_next_address_is_one_that_nobody_had() {
    let node = Node::with_pool(&[4, 5, 6]);
    let store = node.store();
    let given: Vec<_> = (0..4)
        .map(|round| {
            let given = add(&store, &format!("c{round}")).unwrap();
            delete(&store, &format!("c{round}"));
            given
        })
        .collect();
    assert_eq!(given, [4, 5, 6, 4].map(address));
}

#[test]
fn st14_the_address_longest_free_is_given_whoever_rested_in_between() {
    let node = Node::with_pool(&(1..=20).collect::<Vec<_>>());
    let store = node.store();
    assert_eq!(add_all(&store).len(), 20);
    let mut released = Vec::new();
    for last in [7, 3, 15, 1, 9] {
        let Some(Entry::Leased(lease)) = store.read(address(last)).unwrap() else { panic!("not leased") };
        store.find(&lease.attachment).unwrap().unwrap().cool().unwrap();
        released.push(address(last));
    }
    // One that another process lost half-way comes first again; one that is asked for by name leaves the order.
    let half = store.lease(&request("half"), &mut free).unwrap().held;
    assert_eq!(half.lease().address, released[0]);
    half.rollback().unwrap();
    let named = LeaseRequest { requested: Some(address(15)), ..request("named") };
    assert_eq!(store.lease(&named, &mut free).unwrap().held.lease().address, address(15));
    let again: Vec<_> = (0..4).map(|n| add(&store, &format!("again-{n}")).unwrap()).collect();
    assert_eq!(again, [7, 3, 1, 9].map(address));
}

#[test]
fn st14_a_damaged_queue_or_index_is_only_a_hint_lost() {
    let node = Node::with_pool(&[4, 5]);
    let store = node.store();
    fs::write(node.path("run/lock"), "rubbish that is no address").unwrap();
    add(&store, "a").unwrap();
    fs::remove_file(store.index_path_of(&attachment("a"))).unwrap();
    assert!(store.find(&attachment("a")).unwrap().is_none());
    assert_eq!(node.open().sweep().unwrap().indexed, 1);
    assert!(store.find(&attachment("a")).unwrap().is_some());
}

#[test]
fn cm1_del_and_gc_wait_until_add_has_answered() {
    let node = Node::with_pool(&[4]);
    let store = node.store();
    let impatient = Store { patience: Duration::ZERO, ..node.store() };
    let granted = store.lease(&request("a"), &mut free).unwrap();
    let seen = store.read(address(4)).unwrap().unwrap();
    assert!(matches!(impatient.find(&attachment("a")), Err(HoldError::Busy { .. })));
    assert!(matches!(impatient.free_if(address(4), &seen, &mut || true), Err(HoldError::Busy { .. })));
    assert!(
        matches!(impatient.lease(&request("a"), &mut free), Err(LeaseError::Busy { .. })),
        "a second ADD of the same attachment waits too"
    );

    let has_answered = AtomicBool::new(false);
    thread::scope(|scope| {
        let deleting = scope.spawn(|| {
            let held = store.find(&attachment("a")).unwrap().unwrap();
            assert!(has_answered.load(Ordering::SeqCst), "DEL took a lease that ADD held");
            held.cool().unwrap()
        });
        granted.confirm().unwrap();
        has_answered.store(true, Ordering::SeqCst);
        drop(granted);
        assert_eq!(deleting.join().unwrap(), Freed::Cooling);
    });
    assert!(is_cooling(&store, 4));
    assert_eq!(names(&node, "run/by"), [""; 0]);
}

#[test]
fn a_stopped_holder_of_the_lock_does_not_stop_others_for_ever() {
    let node = Node::with_pool(&[4]);
    let _stopped = node.store().lock().unwrap();
    let impatient = Store { patience: Duration::from_millis(1), ..node.store() };
    assert!(matches!(impatient.lease(&request("a"), &mut free), Err(LeaseError::Busy { .. })));
}

#[test]
fn cm1_rollback_undoes_only_what_this_process_made() {
    let node = Node::with_pool(&[4]);
    let store = node.store();
    add(&store, "a").unwrap();
    let Granted { held, .. } = store.lease(&request("a"), &mut free).unwrap();
    held.rollback().unwrap();
    assert!(is_leased(&store, 4));
    delete(&store, "a");
    store.lease(&request("b"), &mut free).unwrap().held.rollback().unwrap();
    assert_eq!(store.list().unwrap(), [], "the address of an ADD that failed is free at once");
    assert_eq!(names(&node, "run/by"), [""; 0]);
}

#[test]
fn cm4_a_lease_is_freed_only_if_it_is_the_one_that_was_judged() {
    let node = Node::with_pool(&[4]);
    let store = node.store();
    add(&store, "a").unwrap();
    let judged = store.read(address(4)).unwrap().unwrap();
    delete(&store, "a");
    add(&store, "b").unwrap();
    let mut ask = || panic!("what is asked may end what the address's new holder has in the kernel");
    assert_eq!(store.free_if(address(4), &judged, &mut ask).unwrap(), Freed::Changed);
    assert!(is_leased(&store, 4));
    let judged = store.read(address(4)).unwrap().unwrap();
    assert_eq!(store.free_if(address(4), &judged, &mut || false).unwrap(), Freed::Changed, "the kernel shows it again");
    assert_eq!(store.free_if(address(4), &judged, &mut || true).unwrap(), Freed::Cooling);
    assert!(is_cooling(&store, 4));
    assert!(store.find(&attachment("b")).unwrap().is_none());
}

#[test]
fn an_unreadable_record_is_occupied_until_it_is_freed_as_such() {
    let node = Node::with_pool(&[4]);
    let store = node.store();
    for content in [&b""[..], b"rubbish", &[0xff; 4000]] {
        fs::write(node.path("run/lease/10.240.0.4"), content).unwrap();
        assert!(matches!(add(&store, "a"), Err(LeaseError::Exhausted { counts: Counts { unreadable: 1, .. }, .. })));
        let seen = store.read(address(4)).unwrap().unwrap();
        fs::write(node.path("run/lease/10.240.0.4"), "other rubbish").unwrap();
        assert_eq!(store.free_if(address(4), &seen, &mut || true).unwrap(), Freed::Changed);
        let seen = store.read(address(4)).unwrap().unwrap();
        assert_eq!(store.free_if(address(4), &seen, &mut || true).unwrap(), Freed::Cooling);
        assert_eq!(add(&store, "a").unwrap(), address(4));
        delete(&store, "a");
    }
}

#[test]
fn up5_a_pod_without_an_address_is_wanted_until_it_has_one() {
    let node = Node::with_pool(&[4]);
    let store = node.store();
    let (waiting, served) = ("pod-1".parse().unwrap(), "pod-2".parse().unwrap());
    store.want(&waiting).unwrap();
    store.want(&served).unwrap();
    let pod = PodRef { namespace: "ns".into(), name: "p".into(), uid: Some(served) };
    store.lease(&LeaseRequest { pod: Some(pod), ..request("a") }, &mut free).unwrap();
    fs::write(node.path("run/want/pod-3"), "another-boot 5").unwrap();
    assert_eq!(store.wants().unwrap(), [waiting]);
    node.open().sweep().unwrap();
    assert_eq!(names(&node, "run/want"), ["pod-1", "pod-2"]);
}

#[test]
fn up5_a_rest_that_has_ended_counts_as_free() {
    let node = Node::with_pool(&[4, 5]);
    let store = node.store();
    add(&store, "a").unwrap();
    delete(&store, "a");
    assert_eq!(store.counts().unwrap(), Counts { total: 2, free: 2, ..Counts::default() });
    assert_eq!(node.open().sweep().unwrap().cooled, 1);
    assert_eq!(store.list().unwrap(), []);
}

#[test]
fn a_rest_says_who_had_the_address() {
    let node = Node::with_pool(&[4]);
    let store = node.store();
    add(&store, "a").unwrap();
    delete(&store, "a");
    let Some(Entry::Cooling(Cooling { previous, .. })) = store.read(address(4)).unwrap() else { panic!("not cooling") };
    assert_eq!(previous, Some(attachment("a").hash()));
}

#[test]
fn st12_a_store_of_a_former_boot_is_made_anew_by_the_plugin() {
    let mut node = Node::new();
    let nobody = std::collections::BTreeSet::new();
    node.store().seal_without_agent(&[kernel_lease(4, "lives"), kernel_lease(5, "dies")], &nobody).unwrap();
    node.boot.push('1');
    let store = node.store();
    assert!(matches!(store.seal(), Err(PoolError::OtherBoot { .. })));
    store.seal_without_agent(&[kernel_lease(4, "lives")], &nobody).unwrap();
    assert!(store.seal().is_ok());
    assert_eq!(store.list().unwrap().into_iter().map(|(at, _)| at).collect::<Vec<_>>(), [address(4)]);
    assert_eq!(store.find(&attachment("lives")).unwrap().unwrap().lease().boot, *store.boot());
    store.sweep_without_agent().unwrap();
    assert_eq!(names(&node, "run/by").len(), 1);
}
