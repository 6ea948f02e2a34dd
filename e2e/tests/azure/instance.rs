//! Instances of scale sets in Uniform orchestration.

use azure_vnet_e2e::azure::{Class, Condition, Settings};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::cloud::{COMPUTE, Cloud, INSTANCE_NICS, NETWORK, address, group, names, push, single, uniform, until};

#[tokio::test]
async fn a_uniform_instance_takes_a_partial_body_and_azure_picks_the_addresses() {
    let cloud = Cloud::start(Settings::instant()).await;
    let (_, before) = cloud.get(&uniform(), COMPUTE).await;
    let operation = cloud.add_to_instance(&["avn-1", "avn-2"]).await;
    until("the operation succeeds", async || cloud.get_url(&operation).await.1["status"] == "Succeeded").await;
    let (_, after) = cloud.get(&uniform(), COMPUTE).await;
    assert_eq!(after["properties"]["modelDefinitionApplied"], "VirtualMachine");
    assert_eq!(after["etag"], "\"2\"");
    assert_eq!(after["properties"]["storageProfile"], before["properties"]["storageProfile"], "what was not sent stays");
    let nics = format!("{}/networkInterfaces", uniform());
    assert_eq!(cloud.get(&nics, NETWORK).await.1["error"]["code"], "NoRegisteredProviderFound");
    let (status, list) = cloud.get(&nics, INSTANCE_NICS).await;
    assert_eq!((status, names(&list["value"][0])), (200, vec!["ipconfig1".into(), "avn-1".into(), "avn-2".into()]));
    assert_eq!(address(&list["value"][0], "avn-1"), "10.240.0.7");
    let (_, stand_alone) = cloud.get(&format!("{}/networkInterfaces", group("Microsoft.Network")), NETWORK).await;
    assert_eq!(stand_alone["value"].as_array().unwrap().len(), 2, "the list of the group knows no NIC of an instance");
    assert_eq!(cloud.local.admin.disturbances().await.unwrap(), Vec::<String>::new());

    let (status, body) = cloud.put(&uniform(), COMPUTE, None, &after).await;
    assert_eq!((status, &body["error"]["code"]), (403, &json!("LinkedAuthorizationFailed")), "the image is Microsoft's");
    assert_eq!(cloud.local.admin.counters().await.unwrap().storage_profiles_sent, 1);
}

#[tokio::test]
async fn an_instance_refuses_what_a_scale_set_does_not_know() {
    let cloud = Cloud::start(Settings::instant()).await;
    let (_, instance) = cloud.get(&uniform(), COMPUTE).await;
    let profile = |change: &dyn Fn(&mut Vec<Value>)| {
        let mut profile = instance["properties"]["networkProfileConfiguration"].clone();
        change(profile["networkInterfaceConfigurations"][0]["properties"]["ipConfigurations"].as_array_mut().unwrap());
        json!({ "location": "westeurope", "properties": { "networkProfileConfiguration": profile } })
    };
    let fixed = profile(&|configs| configs[0]["properties"]["privateIPAddress"] = json!("10.240.0.4"));
    assert_eq!(cloud.put(&uniform(), COMPUTE, None, &fixed).await.1["error"]["target"], "privateIPAddress");
    let renamed = profile(&|configs| configs[0]["name"] = json!("other"));
    assert_eq!(cloud.put(&uniform(), COMPUTE, None, &renamed).await.1["error"]["code"], "IpConfigDeleteNotSupported");
    cloud.local.admin.set_machine("n1", Condition::Deleting).await.unwrap();
    let (status, body) = cloud.put(&uniform(), COMPUTE, None, &profile(&|_| ())).await;
    assert_eq!((status, &body["error"]["code"]), (409, &json!("OperationNotAllowed")));
}

#[tokio::test]
async fn twelve_writes_fill_the_bucket_of_an_instance() {
    let cloud = Cloud::start(Settings { limit_percent: Some(100), ..Settings::instant() }).await;
    let tags = json!({ "tags": { "a": "b" } });
    for _ in 0..12 {
        assert_eq!(cloud.put(&uniform(), COMPUTE, None, &tags).await.0, 200);
    }
    let answer = cloud.send(Method::PUT, &cloud.url(&uniform(), COMPUTE), None, Some(&tags)).await;
    assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(answer.headers()["retry-after"], "15", "four a minute");
    let policies: Vec<_> =
        answer.headers().get_all("x-ms-ratelimit-remaining-resource").iter().map(|value| value.to_str().unwrap().to_owned()).collect();
    assert_eq!(policies[0], "Microsoft.Compute/UpdateVMScaleSetVMResource;0");
    let body: Value = answer.json().await.unwrap();
    assert_eq!((&body["code"], &body["details"][0]["code"]), (&json!("OperationNotAllowed"), &json!("TooManyRequests")));
    assert_eq!(cloud.get(&uniform(), COMPUTE).await.0, 200, "reads have buckets of their own");
    assert_eq!(cloud.local.admin.counters().await.unwrap().throttled[&Class::ComputeWrite], 1);
}

#[tokio::test]
async fn a_newer_put_cancels_the_older_and_with_a_matching_etag_meets_a_conflict() {
    let cloud = Cloud::start(Settings { operation_millis: (60_000, 60_000), ..Settings::default() }).await;
    let (_, mut nic) = cloud.get(&single(), NETWORK).await;
    push(&mut nic, "avn-1");
    let first = cloud.send(Method::PUT, &cloud.url(&single(), NETWORK), None, Some(&nic)).await;
    let operation = first.headers()["azure-asyncoperation"].to_str().unwrap().to_owned();
    let updating: Value = first.json().await.unwrap();
    let (status, body) = cloud.put(&single(), NETWORK, updating["etag"].as_str(), &updating).await;
    assert_eq!((status, &body["error"]["code"]), (409, &json!("AnotherOperationInProgress")));
    push(&mut nic, "avn-2");
    assert_eq!(cloud.put(&single(), NETWORK, None, &nic).await.0, 200);
    let (status, poll) = cloud.get_url(&operation).await;
    assert_eq!((status, &poll["status"]), (200, &json!("Canceled")));
    assert_eq!(poll["error"]["details"][0]["code"], "CanceledAndSupersededDueToAnotherOperation");
}
