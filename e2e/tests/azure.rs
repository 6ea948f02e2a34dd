//! The emulated Azure keeps the promises of the real one: what a client of ARM, IMDS and the wireserver may rely on, and what it must fear.
#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that meets something else than it expects shall fail"
)]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use azure_vnet_e2e::azure::seed::{CLIENT_SECRET, NETWORK_GROUP, NODE_GROUP, OPERATOR_CLIENT_ID, SUBSCRIPTION, TENANT};
use azure_vnet_e2e::azure::{
    AdminClient, Caller, Class, Command, Condition, Effect, Fabric, Fault, Local, MachineKind, MachineSeed, NicRef, NoFabric, RetryAfter,
    Seed, Settings, When,
};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const NETWORK: &str = "2025-05-01";
const COMPUTE: &str = "2025-04-01";
const INSTANCE_NICS: &str = "2018-10-01";

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
async fn arm_wants_a_token_that_lives_and_rights() {
    let cloud = Cloud::start(Settings { token_seconds: 0, ..Settings::instant() }).await;
    let (status, body) = cloud.get(&single(), NETWORK).await;
    assert_eq!((status, &body["error"]["code"]), (401, &json!("ExpiredAuthenticationToken")));
    let anonymous = cloud.http.get(cloud.url(&single(), NETWORK)).send().await.unwrap();
    assert_eq!(anonymous.status(), StatusCode::UNAUTHORIZED);
    assert!(anonymous.headers().contains_key("www-authenticate"));

    let denied = "Microsoft.Network/networkInterfaces/write".to_owned();
    let cloud = Cloud::start(Settings { denied_actions: [denied.clone()].into(), ..Settings::instant() }).await;
    let (_, nic) = cloud.get(&single(), NETWORK).await;
    let (status, body) = cloud.put(&single(), NETWORK, None, &nic).await;
    assert_eq!((status, &body["error"]["code"]), (403, &json!("AuthorizationFailed")));
    assert!(body["error"]["message"].as_str().unwrap().contains(&denied));
}

#[tokio::test]
async fn the_authority_takes_federated_tokens_and_secrets_and_refuses_others() {
    let cloud = Cloud::start(Settings::instant()).await;
    let claims = |audience: &str, expires: i64| {
        format!("e30.{}.sig", base64url(&json!({ "aud": [audience], "sub": "x", "exp": expires }).to_string()))
    };
    let fields = |assertion: &str| {
        let kind = "urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer";
        format!("client_assertion_type={kind}&client_assertion={assertion}")
    };
    let far = 4_000_000_000;
    let (status, token) = cloud.login(&fields(&claims("api://AzureADTokenExchange", far))).await;
    assert_eq!(status, 200);
    assert!(token["expires_in"].is_number());
    let (status, body) = cloud.login(&fields(&claims("https://kubernetes.default.svc", far))).await;
    assert_eq!((status, &body["error_codes"]), (401, &json!([700_212])));
    assert_eq!(cloud.login(&fields(&claims("api://AzureADTokenExchange", 1))).await.0, 401);
    assert_eq!(cloud.login("client_secret=wrong").await.1["error"], "invalid_client");
}

#[tokio::test]
async fn faults_strike_the_calls_they_are_meant_for() {
    let cloud = Cloud::start(Settings::instant()).await;
    let inject = async |class, effect| cloud.local.admin.inject(Fault::next(class, effect)).await.unwrap();
    let single = single();
    let (_, nic) = cloud.get(&single, NETWORK).await;
    let with = |name: &str| {
        let mut nic = nic.clone();
        push(&mut nic, name);
        nic
    };
    inject(Class::NetworkWrite, Effect::Throttle { retry_after: RetryAfter::Date(30) }).await;
    let answer = cloud.send(Method::PUT, &cloud.url(&single, NETWORK), None, Some(&nic)).await;
    assert_eq!(answer.status(), 429);
    assert!(answer.headers()["retry-after"].to_str().unwrap().ends_with(" GMT"));

    inject(Class::NetworkWrite, Effect::Lock).await;
    assert_eq!(cloud.put(&single, NETWORK, None, &nic).await.1["error"]["details"][0]["code"], "RetryableErrorDueToAnotherOperation");

    inject(Class::NetworkWrite, Effect::Cut { when: When::Before }).await;
    assert!(cloud.try_put(&single, &with("avn-1")).await.is_err());
    assert_eq!(names(&cloud.get(&single, NETWORK).await.1), ["ipConfig1"]);
    inject(Class::NetworkWrite, Effect::Cut { when: When::After }).await;
    assert!(cloud.try_put(&single, &with("avn-1")).await.is_err());
    assert_eq!(names(&cloud.get(&single, NETWORK).await.1), ["ipConfig1", "avn-1"]);

    inject(Class::NetworkRead, Effect::Stale).await;
    assert_eq!(names(&cloud.get(&single, NETWORK).await.1), ["ipConfig1"]);
    inject(Class::NetworkWrite, Effect::Ignored).await;
    assert_eq!(cloud.put(&single, NETWORK, None, &with("avn-9")).await.0, 200);
    assert_eq!(names(&cloud.get(&single, NETWORK).await.1), ["ipConfig1", "avn-1"]);
    inject(Class::NetworkWrite, Effect::Error { status: 500, code: "InternalServerError".into(), when: When::After }).await;
    assert_eq!(cloud.put(&single, NETWORK, None, &with("avn-2")).await.0, 500);
    assert_eq!(names(&cloud.get(&single, NETWORK).await.1), ["ipConfig1", "avn-2"]);
    inject(Class::NetworkRead, Effect::Truncated).await;
    assert!(cloud.send(Method::GET, &cloud.url(&single, NETWORK), None, None).await.json::<Value>().await.is_err());
    assert_eq!(cloud.local.admin.faults().await.unwrap(), Vec::new());
}

#[tokio::test]
async fn failed_and_cancelled_operations_leave_what_azure_leaves() {
    let cloud = Cloud::start(Settings::instant()).await;
    let single = single();
    let inject = async |effect| cloud.local.admin.inject(Fault::next(Class::NetworkWrite, effect)).await.unwrap();
    let states = async || {
        let (_, nic) = cloud.get(&single, NETWORK).await;
        let configs = nic["properties"]["ipConfigurations"].as_array().unwrap().clone();
        configs.iter().map(|config| config["properties"]["provisioningState"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    inject(Effect::AsyncPartial { fail: 1 }).await;
    cloud.add_configs(&single, &["avn-1", "avn-2"]).await;
    assert_eq!(states().await, ["Succeeded", "Succeeded", "Failed"]);
    cloud.edit_nic(&single, |_| ()).await;
    assert_eq!(states().await, ["Succeeded"; 3], "a PUT of the unchanged NIC repairs it");
    inject(Effect::AsyncCanceled).await;
    cloud.edit_nic(&single, |configs| configs.retain(|config| config["name"] == "ipConfig1")).await;
    assert_eq!(states().await, ["Succeeded"; 3]);
    inject(Effect::AsyncFailed { code: "InternalServerError".into() }).await;
    cloud.add_configs(&single, &["avn-3"]).await;
    assert_eq!(states().await.last().unwrap(), "Failed");
    let nics = cloud.local.admin.nics().await.unwrap();
    let own = nics.iter().find(|nic| nic.node.as_deref() == Some("n3")).unwrap();
    assert_eq!((own.configurations.len(), own.attached.len()), (4, 3), "what failed carries no traffic");
    assert_eq!(cloud.local.admin.violations().await.unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn a_foreign_writer_drops_and_adds_on_every_kind_of_machine() {
    let cloud = Cloud::start(Settings::instant()).await;
    for (node, primary) in [("n1", "ipconfig1"), ("n2", "ipConfig1"), ("n3", "ipConfig1")] {
        cloud.local.admin.foreign_add(node, "theirs").await.unwrap();
        until("the configuration is there", async || cloud.local.admin.addresses(node).await.unwrap().len() == 2).await;
        cloud.local.admin.foreign_drop(node, "theirs").await.unwrap();
        until("the configuration is gone", async || cloud.local.admin.addresses(node).await.unwrap().len() == 1).await;
        assert!(cloud.local.admin.foreign_drop(node, primary).await.is_err());
    }
    let writes = cloud.local.admin.writes().await.unwrap();
    assert_eq!(writes.len(), 6);
    assert_eq!(
        (writes[0].added.as_slice(), writes[1].removed.as_slice()),
        (["theirs".to_owned()].as_slice(), ["theirs".to_owned()].as_slice())
    );
}

#[tokio::test]
async fn machines_come_and_go_and_lists_have_pages() {
    let cloud = Cloud::with(&Seed::fleet(3, 4), Settings { page_size: 3, ..Settings::instant() }, Arc::new(NoFabric)).await;
    let (_, first) = cloud.get(&format!("{}/networkInterfaces", group("Microsoft.Network")), NETWORK).await;
    assert_eq!(first["value"].as_array().unwrap().len(), 3);
    let (_, second) = cloud.get_url(first["nextLink"].as_str().unwrap()).await;
    assert_eq!((second["value"].as_array().unwrap().len(), second.get("nextLink")), (1, None));
    cloud.local.admin.inject(Fault::next(Class::NetworkRead, Effect::LoopedPage)).await.unwrap();
    let (_, looped) = cloud.get_url(first["nextLink"].as_str().unwrap()).await;
    assert_eq!(looped["nextLink"], first["nextLink"]);

    let instances = format!("{}/virtualMachineScaleSets/aks-uniform-vmss/virtualMachines", group("Microsoft.Compute"));
    assert_eq!(cloud.get(&instances, COMPUTE).await.1["value"].as_array().unwrap().len(), 3);
    let mut machine = MachineSeed::lab(50, MachineKind::Uniform { scale_set: "aks-uniform-vmss".into(), instance: 40 });
    machine.address = None;
    cloud.local.admin.add_machine(machine).await.unwrap();
    assert_eq!(cloud.local.admin.addresses("n50").await.unwrap(), ["10.240.0.11".parse::<Ipv4Addr>().unwrap()]);
    cloud.local.admin.remove_machine("n1").await.unwrap();
    assert_eq!(cloud.get(&format!("{instances}/0"), COMPUTE).await.1["error"]["code"], "InstanceIdNotFound");
}

#[tokio::test]
async fn a_flexible_member_is_found_by_its_scale_set() {
    let cloud = Cloud::start(Settings::instant()).await;
    let set = format!("{}/virtualMachineScaleSets/aks-flex-vmss", group("Microsoft.Compute"));
    assert_eq!(cloud.get(&set, COMPUTE).await.1["properties"]["orchestrationMode"], "Flexible");
    let filter = format!("'virtualMachineScaleSet/id' eq '{set}'").replace(' ', "%20");
    let (_, list) = cloud.get(&format!("{}/virtualMachines?$filter={filter}", group("Microsoft.Compute")), COMPUTE).await;
    let vms = list["value"].as_array().unwrap();
    assert_eq!(vms.len(), 1);
    let nic = vms[0]["properties"]["networkProfile"]["networkInterfaces"][0]["id"].as_str().unwrap();
    assert_eq!(cloud.get(nic, NETWORK).await.1["properties"]["virtualMachine"]["id"], vms[0]["id"]);
}

#[tokio::test]
async fn imds_keeps_its_rules() {
    let cloud = Cloud::start(Settings { imds_per_second: None, ..Settings::instant() }).await;
    let imds = cloud.local.imds("n1").await.unwrap();
    let ask = async |path: &str| {
        let answer = cloud.http.get(format!("{imds}{path}")).header("Metadata", "true").send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let bare = cloud.http.get(format!("{imds}/metadata/instance?api-version=2021-02-01")).send().await.unwrap();
    assert_eq!(bare.status(), StatusCode::BAD_REQUEST);
    let (status, body) = ask("/metadata/instance").await;
    assert_eq!(status, 400);
    assert!(body.contains("newest-versions"));
    let leaf = "/metadata/instance/network/interface/0/macAddress?api-version=2021-02-01&format=text";
    assert_eq!(ask(leaf).await, (200, "000D3A000001".into()));
    let (_, compute) = ask("/metadata/instance/compute?api-version=2021-02-01").await;
    let compute: Value = serde_json::from_str(&compute).unwrap();
    assert_eq!((&compute["name"], &compute["osProfile"]["computerName"]), (&json!("aks-uniform-vmss_0"), &json!("n1")));
    assert!(compute["resourceId"].as_str().unwrap().ends_with("/virtualMachineScaleSets/aks-uniform-vmss/virtualMachines/0"));
    assert_eq!(ask("/metadata/nothing?api-version=2021-02-01").await.0, 404);

    let (status, token) = ask("/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://management.azure.com/").await;
    let token: Value = serde_json::from_str(&token).unwrap();
    assert_eq!(status, 200);
    assert!(token["expires_on"].is_string());
    let nic = cloud.http.get(cloud.url(&single(), NETWORK)).bearer_auth(token["access_token"].as_str().unwrap()).send().await.unwrap();
    assert_eq!(nic.status(), StatusCode::OK);
}

#[tokio::test]
async fn the_guest_services_know_their_caller_by_its_primary_address() {
    let mut seed = Seed::lab();
    let subnet = "127.1.0.0/16".parse().unwrap();
    seed.vnets[0].subnets.insert("nodes".into(), subnet);
    for (index, machine) in (4u8..).zip(&mut seed.machines) {
        machine.address = Some(Ipv4Addr::new(127, 1, 0, index));
    }
    let settings = Settings { refuse_secondary_callers: true, ..Settings::instant() };
    let cloud = Cloud::with(&seed, settings, Arc::new(NoFabric)).await;
    cloud.add_configs(&flex(), &["avn-1"]).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    cloud.local.azure.serve_wireserver(listener, Caller::Source);
    let info = async |from: &str| ask_from(from, at, "/machine/plugins?comp=nmagent&type=getinterfaceinfov1").await;
    let xml = info("127.1.0.5").await;
    assert!(xml.contains("MacAddress=\"000D3A000002\" IsPrimary=\"true\"") && xml.contains("Prefix=\"127.1.0.0/16\""), "{xml}");
    assert!(xml.contains("Address=\"127.1.0.5\" IsPrimary=\"true\"") && xml.contains("Address=\"127.1.0.7\" IsPrimary=\"false\""), "{xml}");
    assert!(info("127.1.0.4").await.contains("000D3A000001"));
    assert_eq!(info("127.1.0.7").await, "", "a secondary address is not answered");
}

#[tokio::test]
async fn arm_speaks_tls_with_a_certificate_of_its_own_authority() {
    let cloud = Cloud::start(Settings::instant()).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    cloud.local.azure.serve_arm_tls(listener, &["127.0.0.1", "arm.lab"]).unwrap();
    let ca = reqwest::Certificate::from_pem(cloud.local.azure.ca_pem().as_bytes()).unwrap();
    let http = reqwest::Client::builder().tls_certs_only([ca]).build().unwrap();
    let answer = http.get(format!("https://127.0.0.1:{port}{}?api-version={NETWORK}", single())).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    assert!(cloud.http.get(format!("https://127.0.0.1:{port}/")).send().await.is_err(), "others do not trust it");
}

#[tokio::test]
async fn the_admin_api_answers_on_a_unix_socket_and_in_the_browser() {
    let cloud = Cloud::start(Settings::instant()).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("azure.sock");
    cloud.local.azure.serve_admin_unix(tokio::net::UnixListener::bind(&path).unwrap());
    let admin = AdminClient::unix(&path);
    assert_eq!(admin.nics().await.unwrap().len(), 3);
    assert!(admin.remove_machine("n9").await.unwrap_err().to_string().contains("no machine n9"));
    assert_eq!(admin.command(&Command::Violations).await.unwrap(), json!([]));
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

/// A cloud, a client that is logged in, and short forms of what the tests do.
struct Cloud {
    local: Local,
    http: reqwest::Client,
    token: String,
}

impl Cloud {
    async fn start(settings: Settings) -> Self {
        Self::with(&Seed::lab(), settings, Arc::new(NoFabric)).await
    }

    async fn with(seed: &Seed, settings: Settings, fabric: Arc<dyn Fabric>) -> Self {
        let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
        let local = Local::start(seed, settings, fabric).await.unwrap();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let mut cloud = Self { local, http, token: String::new() };
        let (status, token) = cloud.login(&format!("client_secret={CLIENT_SECRET}")).await;
        assert_eq!(status, 200, "{token}");
        token["access_token"].as_str().unwrap().clone_into(&mut cloud.token);
        cloud
    }

    async fn login(&self, fields: &str) -> (u16, Value) {
        let scope = "https%3A%2F%2Fmanagement.azure.com%2F.default";
        let form = format!("client_id={OPERATOR_CLIENT_ID}&grant_type=client_credentials&scope={scope}&{fields}");
        let url = format!("{}/{TENANT}/oauth2/v2.0/token", self.local.arm);
        let answer = self.http.post(url).header("Content-Type", "application/x-www-form-urlencoded").body(form).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    fn url(&self, path: &str, version: &str) -> String {
        let separator = if path.contains('?') { '&' } else { '?' };
        format!("{}{path}{separator}api-version={version}", self.local.arm)
    }

    async fn send(&self, method: Method, url: &str, if_match: Option<&str>, body: Option<&Value>) -> reqwest::Response {
        self.try_send(method, url, if_match, body).await.unwrap()
    }

    async fn try_send(
        &self,
        method: Method,
        url: &str,
        if_match: Option<&str>,
        body: Option<&Value>,
    ) -> reqwest::Result<reqwest::Response> {
        let mut request = self.http.request(method, url).bearer_auth(&self.token);
        if let Some(etag) = if_match {
            request = request.header("If-Match", etag);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        request.send().await
    }

    async fn try_put(&self, path: &str, body: &Value) -> reqwest::Result<reqwest::Response> {
        self.try_send(Method::PUT, &self.url(path, NETWORK), None, Some(body)).await
    }

    async fn get(&self, path: &str, version: &str) -> (u16, Value) {
        self.get_url(&self.url(path, version)).await
    }

    async fn get_url(&self, url: &str) -> (u16, Value) {
        let answer = self.send(Method::GET, url, None, None).await;
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    async fn put(&self, path: &str, version: &str, if_match: Option<&str>, body: &Value) -> (u16, Value) {
        let answer = self.send(Method::PUT, &self.url(path, version), if_match, Some(body)).await;
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    /// Changes a NIC's configurations, waits until the operation ended, and reads it again.
    async fn edit_nic(&self, nic: &str, change: impl FnOnce(&mut Vec<Value>)) -> Value {
        let (_, mut body) = self.get(nic, NETWORK).await;
        change(body["properties"]["ipConfigurations"].as_array_mut().unwrap());
        let (status, answer) = self.put(nic, NETWORK, body["etag"].as_str(), &body).await;
        assert!(status == 200, "{answer}");
        until("the NIC settles", async || self.get(nic, NETWORK).await.1["properties"]["provisioningState"] != "Updating").await;
        self.get(nic, NETWORK).await.1
    }

    async fn add_configs(&self, nic: &str, names: &[&str]) -> Value {
        self.edit_nic(nic, |configs| {
            for name in names {
                let addition = addition(&configs[0], name);
                configs.push(addition);
            }
        })
        .await
    }

    /// Adds configurations to the Uniform instance; returns the operation's URL.
    async fn add_to_instance(&self, names: &[&str]) -> String {
        let (_, instance) = self.get(&uniform(), COMPUTE).await;
        let mut profile = instance["properties"]["networkProfileConfiguration"].clone();
        let configs = profile["networkInterfaceConfigurations"][0]["properties"]["ipConfigurations"].as_array_mut().unwrap();
        let subnet = configs[0]["properties"]["subnet"].clone();
        configs.extend(
            names.iter().map(|name| json!({ "name": name, "properties": { "subnet": subnet, "privateIPAddressVersion": "IPv4" } })),
        );
        let body = json!({ "location": instance["location"], "properties": { "networkProfileConfiguration": profile } });
        let answer = self.send(Method::PUT, &self.url(&uniform(), COMPUTE), instance["etag"].as_str(), Some(&body)).await;
        assert_eq!(answer.status(), StatusCode::OK);
        answer.headers()["azure-asyncoperation"].to_str().unwrap().to_owned()
    }
}

/// A fabric that remembers what it was told.
#[derive(Default)]
struct Recorder {
    attached: Mutex<Vec<(String, Ipv4Addr)>>,
    doubles: Mutex<usize>,
}

impl Recorder {
    fn has(&self, node: &str, address: Ipv4Addr) -> bool {
        self.attached.lock().unwrap().contains(&(node.to_owned(), address))
    }

    fn doubles(&self) -> usize {
        *self.doubles.lock().unwrap()
    }
}

impl Fabric for Recorder {
    fn attach(&self, nic: &NicRef, address: Ipv4Addr) {
        let mut attached = self.attached.lock().unwrap();
        if attached.iter().any(|(_, other)| *other == address) {
            *self.doubles.lock().unwrap() += 1;
        }
        attached.push((nic.node.clone(), address));
    }

    fn detach(&self, nic: &NicRef, address: Ipv4Addr) {
        self.attached.lock().unwrap().retain(|attached| *attached != (nic.node.clone(), address));
    }
}

/// Waits for a condition, at most ten seconds.
async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait).await.expect(what);
}

async fn shown(cloud: &Cloud, imds: &str) -> Vec<Ipv4Addr> {
    let url = format!("{imds}/metadata/instance/network?api-version=2021-02-01");
    let network: Value = cloud.http.get(url).header("Metadata", "true").send().await.unwrap().json().await.unwrap();
    let addresses = network["interface"][0]["ipv4"]["ipAddress"].as_array().unwrap();
    addresses.iter().map(|address| address["privateIpAddress"].as_str().unwrap().parse().unwrap()).collect()
}

/// A GET from a source address of loopback; empty if the connection is closed.
async fn ask_from(source: &str, to: SocketAddr, path: &str) -> String {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(source.parse().unwrap(), 0)).unwrap();
    let mut stream = socket.connect(to).await.unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: w\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).await;
    answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()
}

fn push(nic: &mut Value, name: &str) {
    let configs = nic["properties"]["ipConfigurations"].as_array_mut().unwrap();
    let addition = addition(&configs[0], name);
    configs.push(addition);
}

/// A secondary configuration like the primary one: its subnet and its application security groups.
fn addition(primary: &Value, name: &str) -> Value {
    let mut addition = json!({
        "name": name, "properties": { "subnet": primary["properties"]["subnet"], "privateIPAllocationMethod": "Dynamic" },
    });
    if let Some(groups) = primary["properties"].get("applicationSecurityGroups") {
        addition["properties"]["applicationSecurityGroups"] = groups.clone();
    }
    addition
}

fn names(nic: &Value) -> Vec<String> {
    let configs = nic["properties"]["ipConfigurations"].as_array().unwrap();
    configs.iter().map(|config| config["name"].as_str().unwrap().to_owned()).collect()
}

fn address(nic: &Value, name: &str) -> String {
    let configs = nic["properties"]["ipConfigurations"].as_array().unwrap();
    let config = configs.iter().find(|config| config["name"] == name).unwrap();
    config["properties"]["privateIPAddress"].as_str().unwrap().to_owned()
}

fn group(provider: &str) -> String {
    format!("/subscriptions/{SUBSCRIPTION}/resourceGroups/{NODE_GROUP}/providers/{provider}")
}

fn single() -> String {
    format!("{}/networkInterfaces/aks-single-nic", group("Microsoft.Network"))
}

fn flex() -> String {
    format!("{}/networkInterfaces/aks-flex-vmss_df53ee36-nic", group("Microsoft.Network"))
}

fn vnet() -> String {
    format!("/subscriptions/{SUBSCRIPTION}/resourceGroups/{NETWORK_GROUP}/providers/Microsoft.Network/virtualNetworks/lab-vnet")
}

fn uniform() -> String {
    format!("{}/virtualMachineScaleSets/aks-uniform-vmss/virtualMachines/0", group("Microsoft.Compute"))
}

fn base64url(text: &str) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let bits = text.bytes().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)).collect::<Vec<u8>>();
    let sextets = bits.chunks(6).map(|chunk| chunk.iter().chain([0; 6].iter()).take(6).fold(0, |value, bit| value << 1 | bit));
    sextets.map(|value| char::from(ALPHABET[usize::from(value)])).collect()
}
