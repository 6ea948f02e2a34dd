//! Azure takes a write and does something else with it, or says something else about it.

use azure_vnet_e2e::azure::{Class as Kind, Effect, MachineKind, MachineSeed, Settings, When};
use azure_vnet_operator_core::arm::{Class, Trace};

use crate::stage::Stage;

#[tokio::test]
async fn a5_an_operation_that_ends_badly_publishes_nothing_and_is_tried_again() {
    let stage = Stage::start(Settings::instant()).await;
    let client = stage.client();
    let ends = [Effect::AsyncFailed { code: "NetworkingInternalOperationError".into() }, Effect::AsyncCanceled];
    for (node, kind) in [("n2", Kind::NetworkWrite), ("n1", Kind::ComputeWrite)] {
        let mut controller = stage.controller(node, &client).await;
        let mut count = 4;
        for end in &ends {
            stage.strike(kind, end.clone(), 1).await;
            let before = controller.writes.len();
            controller.fill(count).await;
            let (_, _, first) = &controller.writes[before];
            assert_eq!(first.as_ref().unwrap_err().trace, Trace::Ended, "{node} {end:?}");
            stage.is_sound(&controller).await;
            controller.report(u16::try_from(count).unwrap());
            count += 4;
        }
    }
}

#[tokio::test]
async fn a6_a_write_that_azure_takes_without_effect_is_sent_three_times_and_told() {
    let stage = Stage::start(Settings::instant()).await;
    let client = stage.client();
    let (mut vm, mut other) = (stage.controller("n2", &client).await, stage.controller("n3", &client).await);
    stage.strike(Kind::NetworkWrite, Effect::Ignored, 3).await;
    vm.until("told", |vm| vm.told("UpdateIgnored").is_some()).await;
    assert_eq!((vm.writes.len(), stage.accepted().await, vm.addresses().len()), (3, 0, 0));
    let told = vm.now;
    other.fill(4).await;
    vm.fill(4).await;
    assert!(vm.writes[3].0.duration_since(told).as_secs() >= 590, "{:?}", vm.writes);
    stage.is_sound(&vm).await;
}

#[tokio::test]
async fn a7_after_an_error_of_the_server_the_nic_says_what_happened() {
    let stage = Stage::start(Settings::instant()).await;
    let mut vm = stage.controller("n2", &stage.client()).await;
    vm.fill(4).await;
    let mut count = 4;
    for status in [500, 502, 503] {
        for when in [When::Before, When::After] {
            stage.strike(Kind::NetworkWrite, Effect::Error { status, code: "InternalServerError".into(), when }, 1).await;
            vm.report(u16::try_from(count).unwrap());
            count += 4;
            let (before, accepted) = (vm.writes.len(), stage.accepted().await);
            vm.fill(count).await;
            assert_eq!(vm.writes[before].2.as_ref().unwrap_err().trace, Trace::Unknown);
            assert_eq!(stage.accepted().await, accepted + 1, "{status} {when:?}: one effect, whichever of the requests had it");
            assert!(vm.writes[before..].iter().all(|(_, slots, _)| *slots == vm.writes[before].1), "the same slots");
            stage.is_sound(&vm).await;
        }
    }
}

#[tokio::test]
async fn a8_after_a_connection_that_was_cut_there_is_one_set_of_addresses() {
    let stage = Stage::start(Settings::instant()).await;
    let client = stage.client();
    for (node, kind) in [("n2", Kind::NetworkWrite), ("n1", Kind::ComputeWrite)] {
        let mut controller = stage.controller(node, &client).await;
        for (count, when) in [(4, When::Before), (8, When::After)] {
            let accepted = stage.accepted().await;
            stage.strike(kind, Effect::Cut { when }, 1).await;
            controller.fill(count).await;
            assert_eq!(stage.accepted().await, accepted + 1, "{node} {when:?}");
            assert_eq!(stage.nic(node).await.configurations.len(), count + 1);
            controller.report(u16::try_from(count).unwrap());
        }
        assert!(controller.writes.iter().any(|(_, _, result)| result.as_ref().is_err_and(|error| error.trace == Trace::Unknown)));
        stage.is_sound(&controller).await;
    }
}

#[tokio::test]
async fn a10_of_four_the_three_that_arrived_are_published_and_the_one_is_tried_again() {
    let stage = Stage::start(Settings::instant()).await;
    let mut vm = stage.controller("n2", &stage.client()).await;
    stage.strike(Kind::NetworkWrite, Effect::AsyncPartial { fail: 1 }, 1).await;
    vm.until("three published", |vm| vm.addresses().len() == 3).await;
    let three = vm.addresses();
    stage.is_sound(&vm).await;
    vm.fill(4).await;
    assert!(vm.addresses().is_superset(&three));
    stage.is_sound(&vm).await;
}

#[tokio::test]
async fn a14_an_answer_that_is_older_than_the_write_repeats_and_removes_nothing() {
    let stage = Stage::start(Settings::instant()).await;
    let mut vm = stage.controller("n2", &stage.client()).await;
    vm.fill(4).await;
    for count in [8, 12] {
        vm.report(count - 4);
        let before = vm.addresses();
        // The read before the write and the first after it.
        stage.strike(Kind::NetworkRead, Effect::Stale, 1).await;
        vm.fill(usize::from(count)).await;
        assert!(vm.addresses().is_superset(&before));
        stage.is_sound(&vm).await;
    }
    assert_eq!(stage.accepted().await, 3, "one write for each step");
    assert!(vm.told("AddressLost").is_none());
}

#[tokio::test]
async fn a15_a_list_that_ends_in_the_middle_or_never_concludes_nothing() {
    let stage = Stage::start(Settings::instant()).await;
    let mut instance = stage.controller("n1", &stage.client()).await;
    instance.fill(4).await;
    for effect in [Effect::Truncated, Effect::LoopedPage] {
        let (known, writes, failed) = (instance.addresses(), instance.writes.len(), instance.read_errors.len());
        stage.strike(Kind::NetworkRead, effect.clone(), 1).await;
        instance.sleep(3600);
        instance.pass().await;
        assert_eq!(instance.read_errors.len(), failed + 1, "{effect:?}");
        assert_eq!((&instance.addresses(), instance.writes.len()), (&known, writes), "{effect:?}");
        instance.until("read again", |it| it.cloud().last_error.is_none()).await;
    }
    stage.is_sound(&instance).await;
}

#[tokio::test]
async fn a24_an_instance_whose_nic_is_not_listed_yet_waits_quietly() {
    let stage = Stage::start(Settings { nic_list_lag_millis: 1500, ..Settings::instant() }).await;
    let kind = MachineKind::Uniform { scale_set: "aks-uniform-vmss".into(), instance: 7 };
    stage.local.admin.add_machine(MachineSeed { address: None, ..MachineSeed::lab(9, kind) }).await.unwrap();
    let mut instance = stage.controller("n9", &stage.client()).await;
    instance.pass().await;
    assert!(instance.writes.is_empty() && instance.addresses().is_empty());
    assert!(instance.read_errors.iter().all(|error| error.class != Class::Gone), "{:?}", instance.read_errors);
    instance.in_time("filled", |it| it.addresses().len() == 4).await;
    assert_eq!(stage.accepted().await, 1);
    stage.is_sound(&instance).await;
}
