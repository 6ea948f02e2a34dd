//! Blocks of addresses, as the NIC resource takes them.

use azure_vnet_crds::node::Unit;
use azure_vnet_e2e::azure::{Seed, Settings};

use crate::{controller::Controller, stage::Stage};

fn registered() -> Settings {
    Settings { prefix_blocks: true, ..Settings::instant() }
}

/// The controller of a virtual machine whose config asks for blocks.
async fn asking(stage: &Stage) -> Controller {
    let mut controller = stage.controller("n2", &stage.client()).await;
    controller.policy.unit = Unit::Block28;
    controller
}

fn units(controller: &Controller) -> (usize, usize) {
    let all: Vec<Unit> = controller.object.iter().flat_map(|object| &object.spec.addresses).map(|at| at.unit).collect();
    let blocks = all.iter().filter(|unit| **unit == Unit::Block28).count();
    (blocks, all.len() - blocks)
}

#[tokio::test]
async fn blocks_are_attached_beside_what_is_there_and_single_addresses_beside_blocks() {
    let stage = Stage::start(registered()).await;
    let mut it = stage.controller("n2", &stage.client()).await;
    it.fill(4).await;
    it.policy.unit = Unit::Block28;
    it.report(20);
    it.until("three more", |it| units(it) == (2, 4) && it.cloud().intent.is_none()).await;
    assert_eq!((it.cloud().attached, it.cloud().target), (36, 32));
    it.policy.unit = Unit::Address;
    it.report(36);
    it.until("single ones again", |it| units(it) == (2, 8) && it.cloud().intent.is_none()).await;
    assert_eq!((it.cloud().attached, it.cloud().target), (40, 40));
    stage.is_sound(&it).await;
    let held = stage.local.admin.history().await.unwrap().into_iter().filter(|tenure| tenure.config.starts_with("avn-"));
    assert_eq!(held.count(), 40, "all sixteen of each block are this NIC's");
}

#[tokio::test]
async fn a_subscription_without_the_preview_gets_single_addresses_and_the_reason() {
    let stage = Stage::start(Settings::instant()).await;
    let mut it = asking(&stage).await;
    it.fill(4).await;
    assert_eq!(units(&it), (0, 4));
    assert!(it.told("BlocksRefused").unwrap().contains("SubscriptionNotRegisteredForFeature"));
    assert_eq!(it.condition("NicWritable"), ("True".into(), "BlocksRefused".into()));
    it.report(1);
    it.fill(8).await;
    let refused = it.writes.iter().filter(|(_, _, result)| result.is_err()).count();
    assert_eq!(refused, 1, "it is not asked again for an hour");
    stage.is_sound(&it).await;
}

#[tokio::test]
async fn a_subnet_without_an_aligned_block_gives_single_addresses_and_is_told_to_be_fragmented() {
    // The first of its two /28 has the addresses that Azure keeps, the second its last one.
    let seed = Seed::fleet(1, 2).with_subnet("10.240.0.0/27".parse().unwrap());
    let stage = Stage::with(&seed, registered()).await;
    let mut it = asking(&stage).await;
    it.fill(4).await;
    assert_eq!(units(&it), (0, 4));
    assert!(it.told("SubnetFragmented").is_some() && !it.exhausted);
    assert_eq!(it.condition("InDeficit").0, "False");
    stage.is_sound(&it).await;
}

#[tokio::test]
async fn an_instance_of_a_uniform_scale_set_is_never_asked_for_a_block() {
    let stage = Stage::start(registered()).await;
    let mut it = stage.controller("n1", &stage.client()).await;
    it.policy.unit = Unit::Block28;
    it.fill(4).await;
    assert_eq!((units(&it), it.condition("NicWritable").1), ((0, 4), "BlocksUnsupported".into()));
    assert!(it.writes.iter().all(|(_, _, result)| result.is_ok()));
    stage.is_sound(&it).await;
}
