use crate::{
    fault::Mutation,
    report::{first_violation, once_failed, run, run_thoroughly},
    trace::Trace,
};

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
