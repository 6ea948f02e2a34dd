//! What the kernel's word does to a lease that is being made, and the loss of the store in the middle.

use std::fs;

use super::{super::PoolError, *};

#[test]
fn st4_a_kernel_that_does_not_answer_gives_nothing_and_takes_nothing_from_the_pool() {
    let node = Node::with_pool(&[4, 5, 6]);
    let store = node.store();
    let mut asked = Vec::new();
    let mut silent = |address: Ipv4Addr| {
        asked.push(address);
        KernelUse::Unknown("no buffer space".into())
    };
    let error = store.lease(&request("a"), &mut silent).unwrap_err();
    assert_eq!(error.to_string(), "the kernel does not say whether 10.240.0.4 is in use: no buffer space");
    assert!(!error.is_demand() && !error.may_be_news());
    let by_name = LeaseRequest { requested: Some(address(5)), ..request("b") };
    assert!(matches!(store.lease(&by_name, &mut silent), Err(LeaseError::Kernel { .. })));
    assert_eq!(asked, [address(4), address(5)], "one question is enough");
    assert_eq!(["c", "d", "e"].map(|container| add(&store, container).unwrap()), [5, 4, 6].map(address));
}

#[test]
fn st4_what_is_skipped_is_told() {
    let node = Node::with_pool(&[4, 5, 6]);
    let store = node.store();
    let mut kernel =
        |there: Ipv4Addr| if there == address(6) { KernelUse::Free } else { KernelUse::Used(format!("{there} is the host's own")) };
    let granted = store.lease(&request("a"), &mut kernel).unwrap();
    assert_eq!(granted.held.lease().address, address(6));
    assert_eq!(granted.skipped, ["10.240.0.4 is the host's own", "10.240.0.5 is the host's own"]);
    drop(granted);
    assert!(store.lease(&request("a"), &mut kernel).unwrap().skipped.is_empty(), "who has an address is not given another");
}

#[test]
fn st3_a_store_that_vanishes_while_the_kernel_is_asked_gives_nothing_until_it_is_sealed_anew() {
    for (lost, is_sealed) in [("run", false), ("run/by", true), ("run/lease", true)] {
        let node = Node::with_pool(&[4]);
        let mut vanish = |_: Ipv4Addr| {
            fs::rename(node.path(lost), node.path("lost")).unwrap();
            KernelUse::Free
        };
        let store = node.store();
        let granted = store.lease(&request("a"), &mut vanish);
        let Err(LeaseError::Pool(error)) = &granted else { panic!("{lost}: {granted:?}") };
        let is_told = if is_sealed { matches!(error, PoolError::Incomplete { .. }) } else { matches!(error, PoolError::NotSealed { .. }) };
        assert!(is_told, "{lost}: {error:?}");
    }
}

#[test]
fn st2_the_pool_is_read_without_the_lock() {
    let node = Node::with_pool(&[4]);
    let store = node.store();
    fs::remove_file(node.path("run/sealed")).unwrap();
    let _lock = store.lock().unwrap();
    let granted = store.lease(&request("a"), &mut free);
    assert!(matches!(granted, Err(LeaseError::Pool(PoolError::NotSealed { .. }))), "it waits for no lock: {granted:?}");
}
