//! Nodes, subnets and networks in several subscriptions and resource groups, with one client.

use azure_vnet_e2e::azure::{
    Class as Kind, Effect, Fault, RetryAfter, Seed, Settings,
    seed::{OTHER_SUBSCRIPTION, SUBSCRIPTION},
};
use azure_vnet_operator::azure::Arm as _;
use azure_vnet_operator_core::{
    arm::{Class, Error, Read, ResourceId, Trace, Urgency},
    network::Network,
    subnet::usages,
};

use crate::stage::Stage;

#[tokio::test]
async fn nodes_in_two_subscriptions_are_filled_from_their_own_subnets() {
    let stage = Stage::with(&Seed::two_subscriptions(), Settings::instant()).await;
    let client = stage.client();
    for (node, subscription, space) in [
        ("n1", SUBSCRIPTION, "10.240."),
        ("n3", SUBSCRIPTION, "10.240."),
        ("n4", OTHER_SUBSCRIPTION, "10.60."),
        ("n5", OTHER_SUBSCRIPTION, "10.60."),
    ] {
        let mut controller = stage.controller(node, &client).await;
        controller.fill(4).await;
        assert!(controller.addresses().iter().all(|address| address.starts_with(space)), "{node}: {:?}", controller.addresses());
        assert!(stage.nic(node).await.id.contains(subscription));
        stage.is_sound(&controller).await;
    }
    let vnet: ResourceId = other_network().parse().unwrap();
    let subnet: ResourceId = format!("{vnet}/subnets/nodes").parse().unwrap();
    let network = Network::parse(&client.read(&Read::Network(vnet.clone()), Urgency::Fill).await.unwrap().body).unwrap();
    let spaces: Vec<String> = network.spaces(true).iter().map(ToString::to_string).collect();
    assert_eq!(spaces, ["10.60.0.0/16", "10.240.0.0/16"], "its own and the peered one of the other subscription");
    let counts = usages(&client.read(&Read::Usages(vnet), Urgency::Fill).await.unwrap().body);
    assert_eq!(counts[&subnet.key()].used, 2 + 8, "two nodes with four addresses each: those of the other subscription are counted there");
}

#[tokio::test]
async fn a1_a_wait_in_one_subscription_holds_no_other_up() {
    let stage = Stage::with(&Seed::two_subscriptions(), Settings::instant()).await;
    let client = stage.client();
    let effect = Effect::Throttle { retry_after: RetryAfter::Seconds(1200) };
    let path = Some(format!("/subscriptions/{SUBSCRIPTION}/"));
    stage.local.admin.inject(Fault { class: Some(Kind::NetworkWrite), path, times: 1, effect }).await.unwrap();
    for node in ["n3", "n2"] {
        let mut waiting = stage.controller(node, &client).await;
        waiting.pass().await;
        assert!(matches!(waiting.failure().class, Class::Throttled { retry_after: Some(_) }), "{node}: {:?}", waiting.writes);
    }
    assert_eq!(stage.calls(Kind::NetworkWrite, "PUT").await.len(), 1, "the other node of the subscription waits without asking");
    let mut other = stage.controller("n5", &client).await;
    other.fill(4).await;
    assert_eq!(other.writes.len(), 1, "at once");
    let closed = |subscription: &str| {
        let levels = client.levels().into_iter().filter(|level| level.subscription == subscription && level.closed.is_some());
        levels.map(|level| level.class).collect::<Vec<_>>()
    };
    assert_eq!((closed(SUBSCRIPTION), closed(OTHER_SUBSCRIPTION)), (vec!["network_write"], vec![]));
}

#[tokio::test]
async fn a_subscription_that_nobody_knows_is_an_error_of_its_own_nodes_only() {
    let stage = Stage::with(&Seed::two_subscriptions(), Settings::instant()).await;
    let client = stage.client();
    let id = stage.nic("n3").await.id.replace(SUBSCRIPTION, "00000000-0000-0000-0000-0000000000ff");
    let error: Error = client.read(&Read::Nic(id.parse().unwrap()), Urgency::Fill).await.unwrap_err();
    assert_eq!((error.code.as_str(), error.status, error.trace), ("SubscriptionNotFound", Some(404), Trace::None));
    stage.controller("n5", &client).await.fill(4).await;
}

fn other_network() -> String {
    format!("/subscriptions/{OTHER_SUBSCRIPTION}/resourceGroups/other-net/providers/Microsoft.Network/virtualNetworks/lab-vnet")
}
