//! Azure asks to wait, is slow, or is not there.

use std::time::{Duration, Instant};

use azure_vnet_e2e::azure::{Class as Kind, Effect, RetryAfter, Settings, When, seed::SUBSCRIPTION};
use azure_vnet_operator::azure::Arm as _;
use azure_vnet_operator_core::arm::{Class, Read, Trace, Urgency};
use jiff::Timestamp;

use crate::{
    controller::Place,
    stage::{Stage, id},
};

fn network_read() -> Read {
    Read::Nic(id("Microsoft.Network/networkInterfaces/aks-single-0-nic").parse().unwrap())
}

#[tokio::test]
async fn a1_a_wait_that_azure_names_is_kept_by_all_writes_of_the_class() {
    let stage = Stage::start(Settings::instant()).await;
    let client = stage.client();
    let (mut one, mut other) = (stage.controller("n2", &client).await, stage.controller("n3", &client).await);
    stage.strike(Kind::NetworkWrite, Effect::Throttle { retry_after: RetryAfter::Seconds(2) }, 1).await;
    one.pass().await;
    assert_eq!(one.failure().class, Class::Throttled { retry_after: Some(Duration::from_secs(2)) });
    other.fill(4).await;
    let puts = stage.calls(Kind::NetworkWrite, "PUT").await;
    assert!(puts[1].at_millis >= puts[0].at_millis + 2000, "{puts:?}");
    one.fill(4).await;

    let long = Effect::Throttle { retry_after: RetryAfter::Date(1200) };
    stage.strike(Kind::NetworkWrite, long, 1).await;
    one.report(4);
    one.pass().await;
    let Class::Throttled { retry_after: Some(wait) } = one.failure().class else { panic!("{:?}", one.failure()) };
    assert!((1198..=1201).contains(&wait.as_secs()), "a date is as good: {wait:?}");
    let before = stage.calls(Kind::NetworkWrite, "PUT").await.len();
    other.report(4);
    other.pass().await;
    assert!(matches!(other.failure().class, Class::Throttled { retry_after: Some(wait) } if wait > Duration::from_secs(1190)));
    assert_eq!(stage.calls(Kind::NetworkWrite, "PUT").await.len(), before, "a long wait is told at once, and nothing is sent");
    assert_eq!(other.condition("InDeficit"), ("True".into(), "Throttled".into()));
}

#[tokio::test]
async fn a2_without_a_time_the_class_waits_five_seconds() {
    let stage = Stage::start(Settings::instant()).await;
    let client = stage.client();
    let (mut one, mut other) = (stage.controller("n2", &client).await, stage.controller("n3", &client).await);
    stage.strike(Kind::NetworkWrite, Effect::Throttle { retry_after: RetryAfter::Absent }, 1).await;
    one.pass().await;
    assert!(matches!(one.failure().class, Class::Throttled { retry_after: None }));
    other.fill(4).await;
    let puts = stage.calls(Kind::NetworkWrite, "PUT").await;
    assert!(puts[1].at_millis >= puts[0].at_millis + 5000, "{puts:?}");
}

#[tokio::test]
async fn a3_while_writes_wait_reads_and_the_other_provider_go_on() {
    let stage = Stage::start(Settings::instant()).await;
    let client = stage.client();
    let (mut vm, mut instance) = (stage.controller("n2", &client).await, stage.controller("n1", &client).await);
    vm.fill(4).await;
    vm.report(4);
    stage.strike(Kind::NetworkWrite, Effect::Throttle { retry_after: RetryAfter::Seconds(1200) }, 1).await;
    vm.pass().await;
    assert!(vm.read(Urgency::ReadBack).await.is_ok());
    assert_eq!(vm.addresses().len(), 4, "pods go on with what there is");
    instance.fill(4).await;
    stage.is_sound(&vm).await;
}

#[tokio::test]
async fn a4_another_operation_is_waited_for_and_the_same_slots_are_sent_again() {
    let stage = Stage::start(Settings::instant()).await;
    let mut vm = stage.controller("n2", &stage.client()).await;
    stage.strike(Kind::NetworkWrite, Effect::AnotherOperation, 1).await;
    vm.fill(4).await;
    let [(first, slots, _), (second, again, _)] = &vm.writes[..] else { panic!("{:?}", vm.writes) };
    assert!(second.duration_since(*first).as_secs() >= 5, "{:?}", vm.writes);
    assert_eq!(slots, again);
    assert_eq!(
        stage.calls(Kind::NetworkRead, "GET").await.iter().filter(|call| call.path.contains("aks-single-0-nic")).count(),
        3,
        "read anew between"
    );
    stage.is_sound(&vm).await;
}

#[tokio::test]
async fn a9_a_long_operation_is_written_once_and_holds_up_no_other_node() {
    let stage = Stage::start(Settings::instant()).await;
    let client = stage.client();
    let (mut slow, mut other) = (stage.controller("n2", &client).await, stage.controller("n3", &client).await);
    stage.strike(Kind::NetworkWrite, Effect::SlowOperation { millis: 4000 }, 1).await;
    let begun = Instant::now();
    let slowly = async {
        slow.fill(4).await;
        begun.elapsed()
    };
    let quickly = async {
        tokio::time::timeout(Duration::from_secs(30), async {
            while stage.accepted().await == 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
        .unwrap();
        other.fill(4).await;
        begun.elapsed()
    };
    let (slowly, quickly) = tokio::join!(slowly, quickly);
    assert!(slowly >= Duration::from_secs(4) && quickly < slowly, "{slowly:?} {quickly:?}");
    assert_eq!((slow.writes.len(), stage.accepted().await), (1, 2));
}

#[tokio::test]
async fn a12_a_refused_token_is_replaced_and_without_any_the_pool_stays() {
    let stage = Stage::start(Settings::instant()).await;
    let mut vm = stage.controller("n2", &stage.client()).await;
    vm.fill(4).await;
    stage.local.admin.revoke_tokens().await.unwrap();
    vm.report(4);
    vm.fill(8).await;
    stage.local.admin.revoke_tokens().await.unwrap();
    stage.strike(Kind::Authority, Effect::Error { status: 401, code: "invalid_client".into(), when: When::Before }, 3).await;
    vm.report(8);
    vm.sleep(3600);
    vm.pass().await;
    assert_eq!(vm.read_errors.last().map(|error| error.class.clone()), Some(Class::Unauthenticated));
    assert_eq!(vm.addresses().len(), 8);
    vm.in_time("with another token", |vm| vm.addresses().len() == 12).await;
    stage.is_sound(&vm).await;
}

#[tokio::test]
async fn a25_where_azure_answers_nobody_one_probe_goes_at_a_time() {
    let stage = Stage::start(Settings::instant()).await;
    let client = stage.client();
    stage.strike(Kind::NetworkRead, Effect::Error { status: 503, code: "ServiceUnavailable".into(), when: When::Before }, 5).await;
    let read = network_read();
    for _ in 0..5 {
        assert_eq!(client.read(&read, Urgency::Fill).await.unwrap_err().class, Class::Unavailable { retry_after: None });
    }
    assert!(client.is_silent(SUBSCRIPTION) && !client.is_silent("another"));
    client.read(&read, Urgency::Fill).await.unwrap();
    assert!(!client.is_silent(SUBSCRIPTION));
    let calls = stage.calls(Kind::NetworkRead, "GET").await;
    assert_eq!(calls.len(), 6);
    assert!(calls[5].at_millis >= calls[4].at_millis + 4900, "{calls:?}");
}

#[tokio::test]
async fn a7_a_wait_that_a_failing_answer_names_is_kept_in_both_forms() {
    let stage = Stage::start(Settings::instant()).await;
    let client = stage.client();
    for (node, form) in [("n2", RetryAfter::Seconds(600)), ("n3", RetryAfter::Date(600))] {
        let mut vm = stage.controller(node, &client).await;
        stage.strike(Kind::NetworkWrite, Effect::Down { retry_after: form }, 1).await;
        vm.pass().await;
        let Class::Unavailable { retry_after: Some(wait) } = vm.failure().class else { panic!("{:?}", vm.failure()) };
        assert!((599..=600).contains(&wait.as_secs()), "{form:?}: {wait:?}");
        vm.fill(4).await;
        let [(first, ..), (second, ..)] = &vm.writes[..] else { panic!("{:?}", vm.writes) };
        assert!(second.duration_since(*first) >= wait.try_into().unwrap(), "{:?}", vm.writes);
        stage.is_sound(&vm).await;
    }
}

#[tokio::test]
async fn a7_polls_wait_as_a_failing_answer_asks() {
    let stage = Stage::start(Settings::instant()).await;
    let mut vm = stage.controller("n2", &stage.client()).await;
    stage.strike(Kind::Poll, Effect::Down { retry_after: RetryAfter::Seconds(2) }, 1).await;
    vm.fill(4).await;
    let polls = stage.calls(Kind::Poll, "GET").await;
    assert!(polls.len() >= 2 && polls[1].at_millis >= polls[0].at_millis + 2000, "{polls:?}");
    assert_eq!(vm.writes.len(), 1);
}

#[tokio::test]
async fn a26_a_clock_that_is_an_hour_off_changes_nothing() {
    let stage = Stage::start(Settings::instant()).await;
    let client = stage.client();
    for (node, ahead) in [("n2", 3600), ("n3", -3600)] {
        let mut vm = stage.controller(node, &client).await;
        vm.now = Timestamp::from_second(Timestamp::now().as_second() + ahead).unwrap();
        vm.fill(4).await;
        assert_eq!(vm.writes.len(), 1);
        stage.is_sound(&vm).await;
    }
}

#[tokio::test]
async fn a27_no_name_no_server_and_no_trust_are_told_apart_from_an_unknown_outcome() {
    let stage = Stage::start(Settings::instant()).await;
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = nobody.local_addr().unwrap().port();
    drop(nobody);
    let other = Stage::start(Settings::instant()).await;
    let strange = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = strange.local_addr().unwrap().port();
    other.local.azure.serve_arm_tls(strange, &["127.0.0.1"]).unwrap();
    for arm in ["https://resource-manager.invalid".to_owned(), format!("http://127.0.0.1:{closed}"), format!("https://127.0.0.1:{port}")] {
        let mut vm = stage.controller("n2", &stage.client_at(&arm)).await;
        vm.pass().await;
        let error = vm.read_errors.last().unwrap();
        assert_eq!((&error.class, error.trace), (&Class::Unavailable { retry_after: None }, Trace::None), "{arm}: {error}");
        vm.arm = stage.client();
        vm.place = Place::Nic(stage.nic("n2").await.id.parse().unwrap());
        vm.until("served once the way is open", |vm| vm.addresses().len() >= 4).await;
    }
}

#[tokio::test]
async fn a28_what_others_use_up_slows_this_client_before_azure_has_to() {
    // Others have used 60 % of each budget, which is what this client leaves them.
    let stage = Stage::start(Settings { limit_percent: Some(40), ..Settings::instant() }).await;
    let client = stage.client();
    let begun = Instant::now();
    for _ in 0..8 {
        client.read(&network_read(), Urgency::Fill).await.unwrap();
    }
    assert!(begun.elapsed() > Duration::from_secs(1), "{:?}", begun.elapsed());
    assert!(stage.local.admin.counters().await.unwrap().throttled.is_empty());
}
