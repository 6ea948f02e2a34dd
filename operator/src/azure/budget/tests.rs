use super::*;

const NIC: &[Class] = &[Class::ArmWrite, Class::NetworkWrite];
const INSTANCE: &[Class] = &[Class::ArmWrite, Class::ComputeWrite];
const READ: &[Class] = &[Class::ArmRead, Class::NetworkRead];

fn charge(classes: &'static [Class]) -> Charge {
    Charge { classes, machine: None, urgency: Urgency::Fill }
}

fn admit(budget: &mut Budget, charge: &Charge, now: Instant) -> Admission {
    let ticket = budget.enter(charge);
    let admission = budget.admit(&ticket, charge, now);
    budget.leave(&ticket);
    admission
}

/// How many of endless requests pass within a time.
fn passed(budget: &mut Budget, charge: &Charge, start: Instant, time: Duration) -> u32 {
    let mut now = start;
    let mut count = 0;
    loop {
        match admit(budget, charge, now) {
            Admission::Go => count += 1,
            Admission::Closed(at) | Admission::Silent(at) | Admission::Queue(at) => now = at,
        }
        if now >= start + time {
            return count;
        }
    }
}

#[test]
fn five_minutes_of_nic_writes_stay_under_azures_limit_and_leave_the_reserve() {
    let start = Instant::now();
    for (percent, most) in [(0, 1000), (40, 600), (90, 100)] {
        let count = passed(&mut Budget::new(percent), &charge(NIC), start, Duration::from_mins(5));
        assert!(count <= most && count > most - most / 50, "{percent} %: {count}");
    }
}

#[test]
fn one_machine_gets_its_own_few_writes() {
    let start = Instant::now();
    let mut budget = Budget::new(0);
    let one = Charge { machine: Some(Machine::Write("a".into())), ..charge(INSTANCE) };
    assert_eq!(passed(&mut budget, &one, start, Duration::from_mins(1)), 12 + 3);
    let other = Charge { machine: Some(Machine::Write("b".into())), ..charge(INSTANCE) };
    assert_eq!(admit(&mut budget, &other, start + Duration::from_mins(1)), Admission::Go);
}

#[test]
fn retry_after_closes_the_class_to_the_second_and_no_other() {
    let now = Instant::now();
    let mut budget = Budget::new(40);
    let throttled = Outcome::Throttled { retry_after: Some(Duration::from_mins(20)), reach: Reach::Provider };
    budget.learn(&charge(NIC), throttled, &Remaining::default(), now);
    let gate = now + Duration::from_mins(20);
    assert_eq!(admit(&mut budget, &charge(NIC), now), Admission::Closed(gate));
    assert_eq!(admit(&mut budget, &charge(NIC), gate.checked_sub(Duration::from_nanos(1)).unwrap()), Admission::Closed(gate));
    assert_eq!(admit(&mut budget, &charge(READ), now), Admission::Go, "a3: reads go on");
    assert_eq!(admit(&mut budget, &charge(INSTANCE), now), Admission::Go);
    assert_eq!(admit(&mut budget, &charge(NIC), gate), Admission::Go);
    assert!(matches!(admit(&mut budget, &charge(NIC), gate), Admission::Queue(_)), "it begins empty");
}

#[test]
fn a_subscription_wide_throttle_closes_every_provider() {
    let now = Instant::now();
    let mut budget = Budget::new(0);
    let throttled = Outcome::Throttled { retry_after: Some(Duration::from_secs(6)), reach: Reach::Subscription };
    budget.learn(&charge(NIC), throttled, &Remaining::default(), now);
    assert!(matches!(admit(&mut budget, &charge(INSTANCE), now), Admission::Closed(_)));
    assert_eq!(admit(&mut budget, &charge(READ), now), Admission::Go);
}

#[test]
fn without_a_header_the_wait_doubles_to_five_minutes_and_an_answer_ends_that() {
    let mut now = Instant::now();
    let mut budget = Budget::new(0);
    let mut waits = vec![];
    for _ in 0..9 {
        let outcome = Outcome::Throttled { retry_after: None, reach: Reach::Provider };
        budget.learn(&charge(NIC), outcome, &Remaining::default(), now);
        let Admission::Closed(until) = admit(&mut budget, &charge(NIC), now) else { panic!("open") };
        waits.push((until - now).as_secs());
        now = until;
    }
    assert_eq!(waits, [5, 10, 20, 40, 80, 160, 300, 300, 300]);
    budget.learn(&charge(NIC), Outcome::Answered, &Remaining::default(), now);
    budget.learn(&charge(NIC), Outcome::Throttled { retry_after: None, reach: Reach::Provider }, &Remaining::default(), now);
    assert_eq!(admit(&mut budget, &charge(NIC), now), Admission::Closed(now + Duration::from_secs(5)));
}

#[test]
fn a28_what_others_use_up_slows_us_before_the_reserve() {
    let now = Instant::now();
    let mut budget = Budget::new(40);
    let write = charge(NIC);
    let left = |count| Remaining { arm: Some(count), policies: vec![] };
    assert_eq!(budget.level(Class::ArmWrite, now), 120);
    budget.learn(&write, Outcome::Answered, &left(199), now);
    assert_eq!(budget.level(Class::ArmWrite, now), 119);
    budget.learn(&write, Outcome::Answered, &left(90), now);
    assert_eq!(budget.level(Class::ArmWrite, now), 10);
    budget.learn(&write, Outcome::Answered, &left(80), now);
    let interval = Duration::from_mins(1) / 360;
    let Admission::Queue(at) = admit(&mut budget, &write, now) else { panic!("not queued") };
    assert_eq!((at - now).as_micros(), (interval * 4).as_micros());
    // The roomier header of an old subscription changes nothing.
    let mut fresh = Budget::new(40);
    fresh.learn(&write, Outcome::Answered, &left(11_999), now);
    assert_eq!(fresh.level(Class::ArmWrite, now), 120);
}

#[test]
fn provider_policies_cap_class_and_machine() {
    let now = Instant::now();
    let mut budget = Budget::new(0);
    let write = Charge { machine: Some(Machine::Write("a".into())), ..charge(INSTANCE) };
    assert_eq!(admit(&mut budget, &write, now), Admission::Go);
    let policies = |own, all| Remaining { arm: None, policies: vec![("p/own".into(), own), ("p/all".into(), all)] };
    budget.learn(&write, Outcome::Answered, &policies(1, 50), now);
    assert_eq!(budget.level(Class::ComputeWrite, now), 50);
    assert_eq!(admit(&mut budget, &write, now), Admission::Go);
    assert!(matches!(admit(&mut budget, &write, now), Admission::Queue(_)));
}

#[test]
fn the_urgent_go_first_and_equals_in_order() {
    let now = Instant::now();
    let mut budget = Budget::new(90);
    let fill = charge(NIC);
    while admit(&mut budget, &fill, now) == Admission::Go {}
    let starving = Charge { urgency: Urgency::Starving, ..charge(NIC) };
    let (first, second, late) = (budget.enter(&fill), budget.enter(&fill), budget.enter(&starving));
    let Admission::Queue(at) = budget.admit(&late, &starving, now) else { panic!("a token") };
    assert!(matches!(budget.admit(&first, &fill, at), Admission::Queue(_)));
    assert_eq!(budget.admit(&late, &starving, at), Admission::Go);
    budget.leave(&late);
    let Admission::Queue(at) = budget.admit(&first, &fill, at) else { panic!("a token") };
    assert!(matches!(budget.admit(&second, &fill, at), Admission::Queue(_)));
    assert_eq!(budget.admit(&first, &fill, at), Admission::Go);
}

#[test]
fn a_silent_endpoint_is_probed_one_at_a_time() {
    let now = Instant::now();
    let mut budget = Budget::new(0);
    for _ in 0..5 {
        assert_eq!(admit(&mut budget, &charge(READ), now), Admission::Go);
        budget.learn(&charge(READ), Outcome::Unavailable { retry_after: None }, &Remaining::default(), now);
    }
    let Admission::Silent(probe) = admit(&mut budget, &charge(NIC), now) else { panic!("open") };
    assert_eq!((probe - now).as_secs(), 5);
    assert_eq!(admit(&mut budget, &charge(READ), probe), Admission::Go);
    assert!(matches!(admit(&mut budget, &charge(READ), probe), Admission::Silent(_)), "one probe");
    assert!(budget.is_silent());
    budget.learn(&charge(READ), Outcome::Answered, &Remaining::default(), probe);
    assert_eq!(admit(&mut budget, &charge(READ), probe), Admission::Go);
    assert!(!budget.is_silent());

    let asked = Outcome::Unavailable { retry_after: Some(Duration::from_mins(5)) };
    for _ in 0..4 {
        budget.learn(&charge(READ), asked, &Remaining::default(), probe);
        assert_eq!(admit(&mut budget, &charge(READ), probe), Admission::Go, "one failing resource holds up no other");
    }
    budget.learn(&charge(READ), asked, &Remaining::default(), probe);
    assert_eq!(admit(&mut budget, &charge(READ), probe), Admission::Silent(probe + Duration::from_mins(5)));
}

#[test]
fn the_longest_wait_that_a_silent_endpoint_named_holds_up_to_an_hour() {
    let now = Instant::now();
    let minute = Duration::from_mins(1);
    let unavailable = |retry_after| Outcome::Unavailable { retry_after };
    let mut budget = Budget::new(0);
    for _ in 0..5 {
        budget.learn(&charge(READ), unavailable(Some(5 * minute)), &Remaining::default(), now);
    }
    for shorter in [None, Some(minute)] {
        budget.learn(&charge(READ), unavailable(shorter), &Remaining::default(), now);
        assert_eq!(admit(&mut budget, &charge(READ), now), Admission::Silent(now + 5 * minute), "{shorter:?} of one that was on its way");
    }
    budget.learn(&charge(READ), unavailable(Some(Duration::from_secs(u64::MAX))), &Remaining::default(), now);
    assert_eq!(admit(&mut budget, &charge(READ), now), Admission::Silent(now + 60 * minute), "no header silences for ever");

    let probe = now + 60 * minute;
    assert_eq!(admit(&mut budget, &charge(READ), probe), Admission::Go);
    budget.learn(&charge(READ), unavailable(Some(Duration::ZERO)), &Remaining::default(), probe + minute / 60);
    assert_eq!(
        admit(&mut budget, &charge(READ), probe + minute),
        Admission::Silent(probe + minute + minute / 60),
        "the probe's own wait is over"
    );
}
