use crate::{
    fault::Mutation,
    report::{first_violation, once_failed, run, run_thoroughly},
    scope::{Bounds, search},
    trace::Trace,
};

/// What a build without optimization gets through in seconds.
const SHORT: Bounds = Bounds { terms: 0, ticks: 0, ids: 2, mutation: None };

#[test]
fn some_seeds_break_no_rule() {
    for seed in once_failed().chain(0..6) {
        assert_eq!(run(seed, None, &Trace::default()).violation, None, "seed {seed}");
    }
}

#[test]
fn a_seed_run_twice_is_the_same_to_the_byte() {
    let tell = |seed| {
        let trace = Trace::telling();
        (run(seed, None, &trace), trace.lines())
    };
    assert_eq!(tell(3), tell(3));
    assert_ne!(tell(3).0.hash, tell(4).0.hash);
}

#[test]
fn agents_overlook_nothing_by_looking_only_at_what_changed() {
    for seed in 0..2 {
        assert_eq!(run(seed, None, &Trace::default()), run_thoroughly(seed), "seed {seed}");
    }
}

#[test]
fn i4_a_write_that_was_not_recorded_is_caught() {
    assert!(first_violation(Mutation::IntentNotStored, 3).is_some());
}

#[test]
fn i11_no_order_of_events_in_a_small_scope_breaks_a_rule() {
    let found = search(SHORT);
    assert_eq!((found.violation, found.landed > 0), (None, true));
}

#[test]
fn re1_what_is_acknowledged_and_not_set_aside_is_found_in_a_small_scope() {
    assert!(search(Bounds { mutation: Some(Mutation::AcknowledgedAtOnce), ..SHORT }).violation.is_some());
}
