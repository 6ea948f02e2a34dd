//! NICs: writes, operations, and what is held against a body.

use std::sync::Arc;

use azure_vnet_e2e::azure::{NoFabric, Seed, Settings};
use reqwest::Method;
use serde_json::{Value, json};

use crate::cloud::{COMPUTE, Cloud, NETWORK, Recorder, address, flex, group, names, push, shown, single, uniform, until, vnet};

#[tokio::test]
async fn a_put_without_an_entry_drops_it_and_frees_its_address() {
    let cloud = Cloud::start(Settings::instant()).await;
    let added = cloud.add_configs(&single(), &["avn-1", "avn-2"]).await;
    let first = address(&added, "avn-1");
    let dropped = cloud.edit_nic(&single(), |configs| configs.retain(|config| config["name"] != "avn-1")).await;
    assert_eq!(names(&dropped), ["ipConfig1", "avn-2"]);
    let next = cloud.add_configs(&flex(), &["avn-7"]).await;
    assert_eq!(address(&next, "avn-7"), first, "the next to ask gets what was freed last");
    let history = cloud.local.admin.history().await.unwrap();
    let tenures: Vec<_> = history.iter().filter(|tenure| tenure.address.to_string() == first).collect();
    assert_eq!(tenures.len(), 2);
    assert!(tenures[0].to_millis.is_some() && tenures[1].to_millis.is_none());
    assert_eq!(cloud.local.admin.violations().await.unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn a_stale_etag_is_refused_with_412() {
    let cloud = Cloud::start(Settings::instant()).await;
    let (status, nic) = cloud.get(&single(), NETWORK).await;
    assert_eq!(status, 200);
    cloud.add_configs(&single(), &["avn-1"]).await;
    let (status, body) = cloud.put(&single(), NETWORK, nic["etag"].as_str(), &nic).await;
    assert_eq!((status, &body["error"]["code"]), (412, &json!("PreconditionFailed")));
    assert_eq!(body["error"]["details"][0]["code"], "PreconditionFailedEtagMismatch");

    let (_, instance) = cloud.get(&uniform(), COMPUTE).await;
    assert_eq!(instance["etag"], "\"1\"");
    let (status, body) = cloud.put(&uniform(), COMPUTE, Some("\"7\""), &json!({ "tags": { "a": "b" } })).await;
    assert_eq!(status, 412);
    assert_eq!(body["error"]["message"], "Etag provided in if-match header \"7\" does not match etag \"1\" of resource.");
}

#[tokio::test]
async fn an_operation_runs_ends_and_only_then_the_address_carries_traffic_and_shows() {
    let fabric = Arc::new(Recorder::default());
    let settings = Settings { operation_millis: (300, 300), fabric_lag_millis: 100, guest_lag_millis: 150, ..Settings::default() };
    let cloud = Cloud::with(&Seed::lab(), settings, fabric.clone()).await;
    let imds = cloud.local.imds("n3").await.unwrap();
    let (_, mut nic) = cloud.get(&single(), NETWORK).await;
    push(&mut nic, "avn-1");
    let answer = cloud.send(Method::PUT, &cloud.url(&single(), NETWORK), nic["etag"].as_str(), Some(&nic)).await;
    let operation = answer.headers()["azure-asyncoperation"].to_str().unwrap().to_owned();
    assert_eq!(answer.headers()["retry-after"], "1");
    let nic: Value = answer.json().await.unwrap();
    assert_eq!(nic["properties"]["provisioningState"], "Updating");
    let fresh = address(&nic, "avn-1").parse().unwrap();
    assert_eq!(cloud.get_url(&operation).await.1, json!({ "status": "InProgress" }));
    assert!(!fabric.has("n3", fresh) && !shown(&cloud, &imds).await.contains(&fresh));
    until("the operation succeeds", async || cloud.get_url(&operation).await.1 == json!({ "status": "Succeeded" })).await;
    until("the fabric lets it through", async || fabric.has("n3", fresh)).await;
    until("IMDS shows it", async || shown(&cloud, &imds).await.contains(&fresh)).await;
    let (_, settled) = cloud.get(&single(), NETWORK).await;
    assert_eq!(settled["properties"]["provisioningState"], "Succeeded");
    assert_ne!(settled["etag"], nic["etag"], "the end of an operation changes the etag");
}

#[tokio::test]
async fn a_full_subnet_refuses_a_nic_at_once_and_an_instance_by_its_operation() {
    let mut seed = Seed::lab();
    // A /29 has three usable addresses, and the three nodes have them.
    seed.vnets[0].subnets.insert("nodes".into(), "10.240.0.0/29".parse().unwrap());
    let cloud = Cloud::with(&seed, Settings::instant(), Arc::new(NoFabric)).await;
    let (_, mut nic) = cloud.get(&single(), NETWORK).await;
    push(&mut nic, "avn-1");
    push(&mut nic, "avn-2");
    let (status, body) = cloud.put(&single(), NETWORK, None, &nic).await;
    assert_eq!((status, &body["error"]["code"]), (400, &json!("SubnetIsFull")));
    let message = body["error"]["message"].as_str().unwrap();
    assert!(message.ends_with("with address prefix 10.240.0.0/29 does not have enough capacity for 2 IP addresses."), "{message}");

    let operation = cloud.add_to_instance(&["avn-1"]).await;
    until("the operation fails", async || {
        let (status, body) = cloud.get_url(&operation).await;
        status == 200 && body["status"] == "Failed" && body["error"]["code"] == "SubnetIsFull"
    })
    .await;
    let (_, instance) = cloud.get(&uniform(), COMPUTE).await;
    assert_eq!(instance["properties"]["provisioningState"], "Failed");
    let (_, usages) = cloud.get(&format!("{}/usages", vnet()), NETWORK).await;
    assert_eq!((&usages["value"][0]["currentValue"], &usages["value"][0]["limit"]), (&json!(3), &json!(3)));

    cloud.local.admin.grow_subnet(&Seed::lab_subnet(), "10.240.1.0/24").await.unwrap();
    let grown = cloud.add_configs(&single(), &["avn-1"]).await;
    assert_eq!(address(&grown, "avn-1"), "10.240.1.4");
}

#[tokio::test]
async fn a_nic_keeps_unknown_members_and_a_lost_one_is_noted() {
    let cloud = Cloud::start(Settings::instant()).await;
    let unknown = |nic: &mut Value| nic["properties"]["futureSetting"] = json!({ "a": [1, 2] });
    let (_, mut nic) = cloud.get(&single(), NETWORK).await;
    unknown(&mut nic);
    cloud.put(&single(), NETWORK, None, &nic).await;
    let (_, read) = cloud.get(&single(), NETWORK).await;
    assert_eq!(read["properties"]["futureSetting"], json!({ "a": [1, 2] }));
    let noted = cloud.local.admin.disturbances().await.unwrap().len();
    cloud.add_configs(&single(), &["avn-1"]).await;
    assert_eq!(cloud.local.admin.disturbances().await.unwrap().len(), noted, "own slots disturb nobody");
    let mut poor = read.clone();
    poor["properties"].as_object_mut().unwrap().remove("networkSecurityGroup");
    cloud.put(&single(), NETWORK, None, &poor).await;
    assert_eq!(cloud.local.admin.disturbances().await.unwrap().len(), noted + 1);
}

#[tokio::test]
async fn a_nic_is_held_to_azures_rules() {
    let cloud = Cloud::start(Settings::instant()).await;
    let (_, nic) = cloud.get(&single(), NETWORK).await;
    let refused = async |change: &dyn Fn(&mut Value)| {
        let mut body = nic.clone();
        change(&mut body);
        let (status, answer) = cloud.put(&single(), NETWORK, None, &body).await;
        (status, answer["error"]["code"].as_str().unwrap_or_default().to_owned())
    };
    let code = |code: &str| (400, code.to_owned());
    let configs = "/properties/ipConfigurations";
    assert_eq!(refused(&|nic| nic["properties"]["ipConfigurations"][0]["name"] = json!("other")).await, code("IpConfigDeleteNotSupported"));
    assert_eq!(refused(&|nic| *nic.pointer_mut(configs).unwrap() = json!([])).await, code("InvalidRequestFormat"));
    let many = |nic: &mut Value| (1..=256).for_each(|slot| push(nic, &format!("avn-{slot}")));
    assert_eq!(refused(&many).await, code("IpConfigurationCountOnNicExceeded"));
    let other_subnet = |nic: &mut Value| {
        push(nic, "avn-1");
        let subnet = format!("{}/subnets/hosts", vnet().replace("lab-vnet", "peer-vnet"));
        nic["properties"]["ipConfigurations"][1]["properties"]["subnet"]["id"] = json!(subnet);
    };
    assert_eq!(refused(&other_subnet).await, code("IpConfigurationsOnSameNicCannotUseDifferentSubnets"));
    let no_security_group = |nic: &mut Value| {
        push(nic, "avn-1");
        nic["properties"]["ipConfigurations"][1]["properties"].as_object_mut().unwrap().remove("applicationSecurityGroups");
    };
    assert_eq!(refused(&no_security_group).await, code("ApplicationSecurityGroupsNotSameOnAllIpConfigurations"));
    let taken = |nic: &mut Value| {
        push(nic, "avn-1");
        nic["properties"]["ipConfigurations"][1]["properties"]["privateIPAllocationMethod"] = json!("Static");
        nic["properties"]["ipConfigurations"][1]["properties"]["privateIPAddress"] = json!("10.240.0.4");
    };
    assert_eq!(refused(&taken).await, code("PrivateIPAddressIsAllocated"));
    let (_, free) = cloud.get(&format!("{}/CheckIPAddressAvailability?ipAddress=10.240.0.4", vnet()), NETWORK).await;
    assert_eq!(free["availableIPAddresses"][0], "10.240.0.7");
}

#[tokio::test]
async fn ten_nics_that_grow_and_shrink_at_once_never_share_an_address() {
    let fabric = Arc::new(Recorder::default());
    let settings = Settings { operation_millis: (0, 5), fabric_lag_millis: 1, guest_lag_millis: 2, ..Settings::instant() };
    let cloud = Arc::new(Cloud::with(&Seed::fleet(0, 10), settings, fabric.clone()).await);
    let writers = tokio::task::LocalSet::new();
    for machine in 0..10 {
        let cloud = cloud.clone();
        writers.spawn_local(async move {
            let nic = format!("{}/networkInterfaces/aks-single-{machine}-nic", group("Microsoft.Network"));
            for round in 0..10 {
                cloud.add_configs(&nic, &[&format!("avn-{round}"), &format!("avn-{}", round + 100)]).await;
                cloud.edit_nic(&nic, |configs| configs.retain(|config| config["name"] != format!("avn-{round}"))).await;
            }
        });
    }
    writers.await;
    assert_eq!(cloud.local.admin.writes().await.unwrap().len(), 200);
    assert_eq!(cloud.local.admin.violations().await.unwrap(), Vec::<String>::new());
    until("the fabric has what ARM has", async || {
        let nics = cloud.local.admin.nics().await.unwrap();
        nics.iter().all(|nic| nic.configurations.iter().all(|config| fabric.has(nic.node.as_deref().unwrap(), config.address.unwrap())))
    })
    .await;
    assert_eq!(fabric.doubles(), 0);
}
