//! Rights, other writers, subnets and machines.

use std::collections::BTreeSet;

use azure_vnet_e2e::azure::{Class as Kind, Condition, Effect, Seed, Settings, When, seed::NETWORK_GROUP, seed::SUBSCRIPTION};
use azure_vnet_operator::azure::{Arm as _, ArmClient};
use azure_vnet_operator_core::{
    arm::{Class, Read, ResourceId, Urgency},
    decide::Ready,
    network::Network,
    policy::Pool,
    subnet::{History, Seen, Tally, status, usages},
};
use jiff::Timestamp;

use crate::{controller::Controller, stage::Stage};

const WRITE: &str = "Microsoft.Network/networkInterfaces/write";

fn network() -> ResourceId {
    format!("/subscriptions/{SUBSCRIPTION}/resourceGroups/{NETWORK_GROUP}/providers/Microsoft.Network/virtualNetworks/lab-vnet")
        .parse()
        .unwrap()
}

/// How many writes ten minutes of passes send.
async fn writes_of_ten_minutes(controller: &mut Controller) -> usize {
    let (before, end) = (controller.writes.len(), controller.now.as_second() + 600);
    while controller.now.as_second() < end {
        let wake = controller.pass().await;
        controller.sleep(wake.map_or(60, |wake| wake.as_secs().clamp(1, 60)));
    }
    controller.writes.len() - before
}

#[tokio::test]
async fn a11_a_missing_right_is_named_and_tried_seldom() {
    let denied = Settings { denied_actions: BTreeSet::from([WRITE.to_owned()]), ..Settings::instant() };
    let stage = Stage::start(denied).await;
    let mut vm = stage.controller("n2", &stage.client()).await;
    vm.pass().await;
    let Class::Forbidden { action, scope } = &vm.failure().class else { panic!("{:?}", vm.failure()) };
    assert_eq!((action.as_deref(), scope.as_deref()), (Some(WRITE), Some(stage.nic("n2").await.id.as_str())));
    assert_eq!(vm.condition("NicWritable"), ("False".into(), "PermissionMissing".into()));
    assert!(writes_of_ten_minutes(&mut vm).await <= 2, "{:?}", vm.writes);
    stage.local.admin.configure(Settings::instant()).await.unwrap();
    vm.fill(4).await;
}

#[tokio::test]
async fn a11_a_lock_a_lockdown_and_a_policy_are_known_by_name() {
    let stage = Stage::start(Settings::instant()).await;
    let client = stage.client();
    for (status, code, reason) in [
        (409, "ScopeLocked", "ScopeLocked"),
        (403, "DenyAssignmentAuthorizationFailed", "NodeResourceGroupLockdown"),
        (403, "RequestDisallowedByPolicy", "DisallowedByPolicy"),
    ] {
        let mut vm = stage.controller("n2", &client).await;
        stage.strike(Kind::NetworkWrite, Effect::Error { status, code: code.into(), when: When::Before }, 9).await;
        vm.pass().await;
        assert_eq!((vm.failure().class.clone(), vm.failure().reason()), (Class::Locked, reason));
        assert_eq!(vm.condition("NicWritable"), ("False".into(), reason.into()));
        assert!(writes_of_ten_minutes(&mut vm).await <= 2, "{code}: {:?}", vm.writes);
        stage.local.admin.clear_faults().await.unwrap();
    }
}

#[tokio::test]
async fn a13_a_machine_that_is_gone_is_read_again_and_never_made() {
    let stage = Stage::start(Settings::instant()).await;
    let mut vm = stage.controller("n2", &stage.client()).await;
    vm.fill(4).await;
    stage.local.admin.remove_machine("n2").await.unwrap();
    vm.report(4);
    let writes = writes_of_ten_minutes(&mut vm).await;
    let gone = vm.read_errors.iter().filter(|error| error.class == Class::Gone).count();
    assert!(gone >= 2, "{:?} {:?}", vm.read_errors, vm.writes);
    assert_eq!(vm.condition("NicWritable"), ("False".into(), "MachineGone".into()));
    assert!(writes <= 2 && stage.accepted().await == 1, "{:?}", vm.writes);
    assert!(stage.local.admin.nics().await.unwrap().iter().all(|nic| nic.node.as_deref() != Some("n2")));
}

#[tokio::test]
async fn a16_what_another_writer_dropped_is_lost_after_two_reads_and_made_up_for() {
    let stage = Stage::start(Settings::instant()).await;
    let mut vm = stage.controller("n2", &stage.client()).await;
    vm.fill(4).await;
    let before = vm.addresses();
    stage.local.admin.foreign_drop("n2", "avn-2").await.unwrap();
    let reads = stage.calls(Kind::NetworkRead, "GET").await.len();
    vm.sleep(600);
    vm.report(0);
    vm.until("told", |vm| vm.told("AddressLost").is_some()).await;
    assert!(vm.told("AddressLost").unwrap().contains("slot 2"), "{:?}", vm.events);
    assert!(stage.calls(Kind::NetworkRead, "GET").await.len() >= reads + 2);
    vm.report(0);
    vm.fill(4).await;
    // Azure may give the free one again.
    assert!(vm.addresses().len() == 4 && vm.addresses().intersection(&before).count() >= 3);
    stage.is_sound(&vm).await;
}

#[tokio::test]
async fn a17_what_another_writer_adds_is_counted_and_left_alone() {
    let stage = Stage::start(Settings::instant()).await;
    let client = stage.client();
    for node in ["n1", "n2"] {
        let mut controller = stage.controller(node, &client).await;
        controller.fill(4).await;
        stage.local.admin.foreign_add(node, "theirs").await.unwrap();
        controller.sleep(600);
        controller.report(4);
        controller.fill(8).await;
        assert_eq!(controller.cloud().foreign, 2, "{node}: the machine's own and theirs");
        assert!(stage.nic(node).await.configurations.iter().any(|config| config.name == "theirs"));
        stage.is_sound(&controller).await;
    }
}

#[tokio::test]
async fn a18_in_a_full_subnet_nodes_ask_for_single_addresses_and_seldom() {
    // Eight are left beside three machines.
    let stage = Stage::with(&Seed::fleet(1, 2).with_subnet("10.240.0.0/28".parse().unwrap()), Settings::instant()).await;
    let mut vm = stage.controller("n2", &stage.client()).await;
    vm.policy.pool = Pool::Floating { min: 0, min_free: 16, batch: 16, max: 110 };
    vm.pass().await;
    assert_eq!((vm.failure().class.clone(), vm.exhausted), (Class::SubnetFull, true));
    vm.fill(1).await;
    vm.report(7);
    vm.fill(8).await;
    vm.report(8);
    assert!(writes_of_ten_minutes(&mut vm).await <= 5, "{:?}", vm.writes);
    assert_eq!((vm.addresses().len(), vm.condition("InDeficit").1.as_str()), (8, "SubnetExhausted"));
    stage.is_sound(&vm).await;
}

async fn reason_of_subnet(client: &ArmClient, refused: bool) -> String {
    let document = client.read(&Read::Usages(network()), Urgency::Background).await.unwrap();
    let usage = usages(&document.body)[&Seed::lab_subnet().to_ascii_lowercase()];
    let seen = Seen { prefixes: vec![], tally: Tally::default(), usage: Ok(usage), history: &History::default(), refused };
    let said = status(&seen, &azure_vnet_crds::AzureVnetSubnetStatus::default(), Timestamp::UNIX_EPOCH);
    said.conditions.into_iter().find(|condition| condition.type_ == "Exhausted").unwrap().reason
}

#[tokio::test]
async fn a19_a_subnet_that_is_full_though_azure_counts_some_left_is_told_so() {
    let stage = Stage::start(Settings::instant()).await;
    let client = stage.client();
    let mut vm = stage.controller("n2", &client).await;
    stage.strike(Kind::NetworkWrite, Effect::Error { status: 400, code: "SubnetIsFull".into(), when: When::Before }, 1).await;
    vm.pass().await;
    assert!(vm.exhausted);
    assert_eq!(reason_of_subnet(&client, vm.exhausted).await, "SubnetAccountingMismatch");
    vm.fill(1).await;
    assert_eq!(reason_of_subnet(&client, false).await, "AddressesLeft");
}

#[tokio::test]
async fn a20_a_subnet_that_grows_is_used_at_once() {
    let stage = Stage::with(&Seed::fleet(1, 2).with_subnet("10.240.0.0/28".parse().unwrap()), Settings::instant()).await;
    let client = stage.client();
    let mut vm = stage.controller("n2", &client).await;
    vm.policy.pool = Pool::Floating { min: 0, min_free: 8, batch: 8, max: 110 };
    vm.fill(8).await;
    vm.report(8);
    vm.pass().await;
    assert!(vm.exhausted);
    stage.local.admin.grow_subnet(&Seed::lab_subnet(), "10.240.1.0/24").await.unwrap();
    let document = client.read(&Read::Network(network()), Urgency::Background).await.unwrap();
    let seen = Network::parse(&document.body).unwrap();
    let prefixes: Vec<String> =
        seen.subnet(&Seed::lab_subnet().parse().unwrap()).unwrap().prefixes.iter().map(ToString::to_string).collect();
    assert_eq!(prefixes, ["10.240.0.0/28", "10.240.1.0/24"]);
    vm.exhausted = false;
    vm.fill(16).await;
    assert!(vm.addresses().iter().any(|address| address.starts_with("10.240.1.")));
    stage.is_sound(&vm).await;
}

#[tokio::test]
async fn a21_a_nic_holds_256_whoever_put_them_there() {
    let stage = Stage::start(Settings::instant()).await;
    let client = stage.client();
    for node in ["n1", "n2"] {
        stage.local.admin.foreign_add(node, "theirs").await.unwrap();
        let mut controller = stage.controller(node, &client).await;
        controller.policy.pool = Pool::Fixed(255);
        controller.fill(254).await;
        controller.report(255);
        let writes = controller.writes.len();
        controller.sleep(600);
        controller.until("full", |it| it.condition("AtCapacity").0 == "True").await;
        assert_eq!(writes_of_ten_minutes(&mut controller).await, 0);
        assert_eq!((stage.nic(node).await.configurations.len(), controller.writes.len()), (256, writes), "{node}");
        stage.is_sound(&controller).await;
    }
}

#[tokio::test]
async fn a22_groups_pools_tags_and_settings_of_others_go_back_as_they_came() {
    let stage = Stage::with(&Seed::lab(), Settings::instant()).await;
    let client = stage.client();
    for node in ["n1", "n2", "n3"] {
        let mut controller = stage.controller(node, &client).await;
        controller.fill(4).await;
        controller.report(4);
        controller.fill(8).await;
        stage.is_sound(&controller).await;
    }
    assert_eq!(stage.local.admin.counters().await.unwrap().storage_profiles_sent, 0);
}

#[tokio::test]
async fn a23_a_machine_that_is_off_silent_or_being_deleted_is_not_written() {
    let stage = Stage::start(Settings::instant()).await;
    let client = stage.client();
    let mut silent = stage.controller("n3", &client).await;
    silent.fill(4).await;
    silent.report(4);
    stage.local.admin.set_machine("n3", Condition::Deallocated).await.unwrap();
    silent.ready = Ready::Unknown;
    assert_eq!(writes_of_ten_minutes(&mut silent).await, 0);
    stage.local.admin.set_machine("n3", Condition::Running).await.unwrap();
    silent.ready = Ready::True;
    silent.fill(8).await;

    let mut leaving = stage.controller("n1", &client).await;
    leaving.fill(4).await;
    stage.local.admin.set_machine("n1", Condition::Deleting).await.unwrap();
    leaving.report(4);
    assert!(writes_of_ten_minutes(&mut leaving).await <= 5, "{:?}", leaving.writes);
    assert_eq!(leaving.failure().class, Class::Gone);
    assert_eq!(leaving.addresses().len(), 4);
}
