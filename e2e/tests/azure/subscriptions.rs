//! Several subscriptions: limits, operations and references stay within each.

use std::sync::Arc;

use azure_vnet_e2e::azure::{
    NoFabric, Seed, Settings,
    seed::{OTHER_SUBSCRIPTION, SUBSCRIPTION},
};
use serde_json::json;

use crate::cloud::{Cloud, NETWORK, single};

async fn two(settings: Settings) -> Cloud {
    Cloud::with(&Seed::two_subscriptions(), settings, Arc::new(NoFabric)).await
}

fn nics(subscription: &str) -> String {
    format!("/subscriptions/{subscription}/providers/Microsoft.Network/networkInterfaces")
}

fn other_nic() -> String {
    format!("/subscriptions/{OTHER_SUBSCRIPTION}/resourceGroups/MC_other/providers/Microsoft.Network/networkInterfaces/aks-single-nic")
}

#[tokio::test]
async fn each_subscription_lists_its_own_and_an_unknown_one_is_not_found() {
    let cloud = two(Settings::instant()).await;
    for (subscription, count) in [(SUBSCRIPTION, 2), (OTHER_SUBSCRIPTION, 1)] {
        let (status, list) = cloud.get(&nics(subscription), NETWORK).await;
        assert_eq!((status, list["value"].as_array().unwrap().len()), (200, count));
        let (_, usages) =
            cloud.get(&format!("/subscriptions/{subscription}/providers/Microsoft.Network/locations/westeurope/usages"), NETWORK).await;
        assert!(usages["value"][0]["id"].as_str().unwrap().contains(subscription));
    }
    let (status, body) = cloud.get(&nics("00000000-0000-0000-0000-0000000000ff"), NETWORK).await;
    assert_eq!((status, &body["error"]["code"]), (404, &json!("SubscriptionNotFound")));
}

#[tokio::test]
async fn a_nic_finds_no_subnet_of_another_subscription() {
    let cloud = two(Settings::instant()).await;
    let (_, mut nic) = cloud.get(&other_nic(), NETWORK).await;
    nic["properties"]["ipConfigurations"][0]["properties"]["subnet"]["id"] = json!(Seed::lab_subnet());
    let (status, body) = cloud.put(&other_nic(), NETWORK, None, &nic).await;
    assert_eq!((status, &body["error"]["code"]), (400, &json!("InvalidResourceReference")));
}

#[tokio::test]
async fn an_operation_is_found_in_its_own_subscription_only() {
    let cloud = two(Settings { operation_millis: (60_000, 60_000), ..Settings::instant() }).await;
    let (_, mut nic) = cloud.get(&other_nic(), NETWORK).await;
    let subnet = nic["properties"]["ipConfigurations"][0]["properties"]["subnet"].clone();
    let addition = json!({"name": "more", "properties": {"subnet": subnet, "privateIPAllocationMethod": "Dynamic"}});
    nic["properties"]["ipConfigurations"].as_array_mut().unwrap().push(addition);
    let answer = cloud.send(reqwest::Method::PUT, &cloud.url(&other_nic(), NETWORK), None, Some(&nic)).await;
    let operation = answer.headers()["azure-asyncoperation"].to_str().unwrap().to_owned();
    assert_eq!(cloud.get_url(&operation).await.1["status"], "InProgress");
    let (status, body) = cloud.get_url(&operation.replace(OTHER_SUBSCRIPTION, SUBSCRIPTION)).await;
    assert_eq!((status, &body["error"]["code"]), (404, &json!("OperationNotFound")));
}

#[tokio::test]
async fn each_subscription_has_limits_of_its_own() {
    let cloud = two(Settings { limit_percent: Some(1), ..Settings::instant() }).await;
    let mut refused = false;
    for _ in 0..20 {
        refused |= cloud.get(&single(), NETWORK).await.0 == 429;
    }
    assert!(refused, "a hundredth of Azure's limits is two or three reads");
    assert_eq!(cloud.get(&other_nic(), NETWORK).await.0, 200);
}
