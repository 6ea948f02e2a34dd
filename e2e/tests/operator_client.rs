//! The operator's own Azure clients against the emulated Azure, over loopback and TLS.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that meets something else than it expects shall fail")]

use std::{io::Write as _, net::Ipv4Addr, sync::Arc, time::Duration};

use azure_vnet_crds::node::{Machine, MachineKind};
use azure_vnet_e2e::azure::{
    Class as EmulatedClass, Effect, Fault, Local, NoFabric, RetryAfter, Seed, Settings, When,
    rights::{Lock, Lockdown, Role},
    seed::{CLIENT_SECRET, NETWORK_GROUP, NODE_GROUP, OPERATOR_CLIENT_ID, SUBSCRIPTION, TENANT},
};
use azure_vnet_operator::azure::{
    Arm as _, ArmClient, ArmOptions, CredentialOptions, EndpointOptions, Endpoints, Secret, imds::Imds, wireserver::Wireserver,
};
use azure_vnet_operator_core::{
    arm::{Class, Read, ResourceId, Trace, Urgency, Write},
    rights,
};
use azure_vnet_plugin_core::source;
use serde_json::{Value, json};
use tokio::net::TcpListener;

#[tokio::test]
async fn a_nic_is_read_written_and_its_operation_followed() {
    let cloud = Cloud::start(Settings::default()).await;
    let arm = cloud.arm(&secret());
    cloud.add(&arm, &["avn-1", "avn-2"]).await;
    let nic = arm.read(&Read::Nic(nic()), Urgency::ReadBack).await.unwrap();
    let configs = nic.body["properties"]["ipConfigurations"].as_array().unwrap().clone();
    let names: Vec<_> = configs.iter().map(|config| config["name"].as_str().unwrap()).collect();
    assert_eq!(names[1..], ["avn-1", "avn-2"]);
    assert!(configs.iter().all(|config| config["properties"]["provisioningState"] == "Succeeded"));
    assert_eq!(cloud.local.admin.writes().await.unwrap().len(), 1);
    assert_eq!(cloud.local.admin.disturbances().await.unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn a_uniform_instance_is_written_with_its_network_profile_alone() {
    let cloud = Cloud::start(Settings::default()).await;
    let arm = cloud.arm(&CredentialOptions::default());
    let read = arm.read(&Read::Instance(instance()), Urgency::Fill).await.unwrap();
    let mut profile = read.body["properties"]["networkProfileConfiguration"].clone();
    let configs = profile["networkInterfaceConfigurations"][0]["properties"]["ipConfigurations"].as_array_mut().unwrap();
    let subnet = configs[0]["properties"]["subnet"].clone();
    configs.push(json!({"name": "avn-1", "properties": {"subnet": subnet, "primary": false, "privateIPAddressVersion": "IPv4"}}));
    let body = json!({"location": read.body["location"], "properties": {"networkProfileConfiguration": profile}});
    let write = Write::Instance { id: instance(), etag: read.etag.clone(), body };
    arm.write(&write, Urgency::Fill, &|| true).await.unwrap();
    let nics = arm.read(&Read::InstanceNics(instance()), Urgency::ReadBack).await.unwrap();
    let configs = nics.body["value"][0]["properties"]["ipConfigurations"].as_array().unwrap().clone();
    assert_eq!((configs.len(), &configs[1]["name"]), (2, &json!("avn-1")));
    assert!(configs[1]["properties"]["privateIPAddress"].as_str().unwrap().parse::<Ipv4Addr>().is_ok());
    let error = arm.write(&write, Urgency::Fill, &|| true).await.unwrap_err();
    assert_eq!((error.class, error.trace), (Class::Stale, Trace::None));
}

#[tokio::test]
async fn the_network_and_its_usages_are_read_whole() {
    let cloud = Cloud::start(Settings { page_size: 1, ..Settings::default() }).await;
    let arm = cloud.arm(&secret());
    let network: ResourceId = id(NETWORK_GROUP, "Microsoft.Network/virtualNetworks/lab-vnet");
    let read = arm.read(&Read::Network(network.clone()), Urgency::Background).await.unwrap();
    assert_eq!(read.body["properties"]["addressSpace"]["addressPrefixes"], json!(["10.240.0.0/16"]));
    let subnets = read.body["properties"]["subnets"].as_array().unwrap().len();
    let usages = arm.read(&Read::Usages(network), Urgency::Background).await.unwrap();
    assert_eq!(usages.body["value"].as_array().unwrap().len(), subnets);
}

#[tokio::test]
async fn each_kind_of_identity_is_accepted() {
    let cloud = Cloud::start(Settings::default()).await;
    let mut token = tempfile::NamedTempFile::new().unwrap();
    token.write_all(service_account_token().as_bytes()).unwrap();
    let workload = CredentialOptions { federated_token_file: Some(token.path().to_owned()), ..application() };
    for options in [CredentialOptions::default(), workload, secret()] {
        cloud.arm(&options).read(&Read::Nic(nic()), Urgency::Fill).await.unwrap();
    }
    let wrong = CredentialOptions { client_secret: Some(Secret::new("wrong")), ..application() };
    let error = cloud.arm(&wrong).read(&Read::Nic(nic()), Urgency::Fill).await.unwrap_err();
    assert_eq!(error.class, Class::Unauthenticated);
    let arm = cloud.arm(&secret());
    arm.read(&Read::Nic(nic()), Urgency::Fill).await.unwrap();
    cloud.local.admin.revoke_tokens().await.unwrap();
    arm.read(&Read::Nic(nic()), Urgency::Fill).await.unwrap();
}

#[tokio::test]
async fn what_goes_wrong_says_whether_it_may_have_acted() {
    let cloud = Cloud::start(Settings::default()).await;
    let arm = cloud.arm(&secret());
    let unchanged = async || {
        let read = arm.read(&Read::Nic(nic()), Urgency::Fill).await.unwrap();
        Write::Nic { id: nic(), etag: read.etag, body: read.body }
    };
    let cases = [
        (Effect::PreconditionFailed, Class::Stale, Trace::None),
        (Effect::AnotherOperation, Class::Busy { retry_after: None }, Trace::None),
        (
            Effect::Error { status: 500, code: "InternalServerError".into(), when: When::Before },
            Class::Unavailable { retry_after: None },
            Trace::Unknown,
        ),
        (Effect::Cut { when: When::Before }, Class::Unavailable { retry_after: None }, Trace::Unknown),
        (Effect::AsyncFailed { code: "InternalServerError".into() }, Class::Failed, Trace::Ended),
        (Effect::AsyncCanceled, Class::Superseded, Trace::Ended),
        (Effect::Throttle { retry_after: RetryAfter::Seconds(1) }, throttled(1), Trace::None),
    ];
    for (effect, class, trace) in cases {
        let (text, write) = (format!("{effect:?}"), unchanged().await);
        cloud.strike(effect).await;
        let error = arm.write(&write, Urgency::Fill, &|| true).await.unwrap_err();
        assert_eq!((error.class, error.trace), (class, trace), "{text}");
    }
    let write = unchanged().await;
    cloud.strike(Effect::Lock).await;
    let error = arm.write(&write, Urgency::Fill, &|| true).await.unwrap_err();
    assert!(matches!(error.class, Class::Busy { .. }), "{error:?}");
    arm.write(&write, Urgency::Fill, &|| true).await.unwrap();
}

#[tokio::test]
async fn the_machine_shows_what_was_attached() {
    let cloud = Cloud::start(Settings::instant()).await;
    cloud.add(&cloud.arm(&secret()), &["avn-1"]).await;
    let address: Ipv4Addr = {
        let read = cloud.arm(&secret()).read(&Read::Nic(nic()), Urgency::ReadBack).await.unwrap();
        read.body["properties"]["ipConfigurations"][1]["properties"]["privateIPAddress"].as_str().unwrap().parse().unwrap()
    };
    let (imds, wireserver) = (Imds::new(&cloud.endpoints).unwrap(), Wireserver::new(&cloud.endpoints).unwrap());
    let shown = async {
        loop {
            let network = imds.network().await.unwrap();
            let nic = network.by_mac("00:0d:3a:00:00:03").unwrap().addresses.contains(&address);
            let interfaces = wireserver.interfaces().await.unwrap();
            let host = interfaces[0].subnets[0].addresses.iter().any(|shown| shown.address == address && !shown.primary);
            if nic && host {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), shown).await.unwrap();
    assert_eq!(imds.instance().await.unwrap().compute.name, "aks-single");
    // The plugins ask the same services by themselves where there is no agent.
    let (imds, wireserver) = (cloud.endpoints.imds.clone(), cloud.endpoints.wireserver.clone());
    let shown = tokio::task::spawn_blocking(move || {
        let ask = |url: reqwest::Url, question| {
            let endpoint = url.as_str().parse().unwrap();
            azure_vnet_plugin::source::get(endpoint, question, Duration::from_secs(30)).unwrap()
        };
        let host = source::wireserver::parse(&ask(wireserver, source::wireserver::QUESTION)).unwrap();
        let metadata = source::imds::parse(&ask(imds, source::imds::QUESTION)).unwrap();
        [host, metadata].map(|interfaces| interfaces[0].subnets[0].addresses.iter().any(|shown| shown.address == address && !shown.primary))
    });
    assert_eq!(shown.await.unwrap(), [true, true]);
}

/// Roles with the actions that `docs/install.md` lists, but for one.
fn documented_roles(without: &str) -> Vec<Role> {
    let document = include_str!("../../docs/install.md");
    let role = document.split("role.json <<END").nth(1).unwrap().split("END").next().unwrap().replace("$SUBSCRIPTION", "s");
    let role: Value = serde_json::from_str(&role).unwrap();
    let actions: Vec<String> = role["Actions"].as_array().unwrap().iter().map(|action| action.as_str().unwrap().to_owned()).collect();
    let actions: Vec<String> = actions.into_iter().filter(|action| action != without).collect();
    let scopes = [
        format!("/subscriptions/{SUBSCRIPTION}/resourceGroups/{NODE_GROUP}"),
        id(NETWORK_GROUP, "Microsoft.Network/virtualNetworks/lab-vnet").to_string(),
    ];
    scopes.into_iter().map(|scope| Role { scope, actions: actions.clone(), not_actions: vec![] }).collect()
}

/// What of the rights on two machines, their network and what they join is missing, as the controller asks for it.
async fn missing(arm: &ArmClient) -> Vec<(String, &'static str)> {
    let machine = |machine: &ResourceId, nic: &str| Machine {
        provider_id: format!("azure://{machine}"),
        nic_id: id(NODE_GROUP, nic).to_string(),
        subnet_id: Seed::lab_subnet(),
        kind: MachineKind::Vm,
        ..Machine::default()
    };
    let vm = id(NODE_GROUP, "Microsoft.Compute/virtualMachines/aks-single");
    let machines = [machine(&instance(), "x/y/z"), machine(&vm, "Microsoft.Network/networkInterfaces/aks-single-nic")];
    let tree = arm.read(&Read::Nic(nic()), Urgency::Background).await.unwrap().body;
    let mut found = vec![];
    for question in rights::questions(machines.iter()).into_values().chain(rights::of_joined(&tree)) {
        let answer = arm.read(&Read::Permissions(question.scope.clone()), Urgency::Background).await.unwrap();
        let granted = rights::Granted::parse(&answer.body).unwrap();
        found.extend(granted.missing(&question).into_iter().map(|need| (question.scope.name().to_owned(), need.action)));
    }
    found
}

#[tokio::test]
async fn the_documented_role_is_enough_and_each_action_that_it_lacks_is_named() {
    let cloud = Cloud::start(Settings { roles: documented_roles(""), ..Settings::instant() }).await;
    let arm = cloud.arm(&secret());
    assert_eq!(missing(&arm).await, []);
    cloud.add(&arm, &["avn-1"]).await;
    let cases = [
        ("Microsoft.Network/networkInterfaces/write", "aks-single-nic"),
        ("Microsoft.Compute/virtualMachineScaleSets/virtualMachines/write", "aks-uniform-vmss"),
        ("Microsoft.Network/virtualNetworks/subnets/join/action", "nodes"),
        ("Microsoft.Network/virtualNetworks/usages/read", "lab-vnet"),
        ("Microsoft.Network/networkSecurityGroups/join/action", "aks-agentpool-nsg"),
        ("Microsoft.Network/loadBalancers/backendAddressPools/join/action", "aksOutboundBackendPool"),
        ("Microsoft.Network/applicationSecurityGroups/joinIpConfiguration/action", "aks-asg"),
    ];
    for (action, scope) in cases {
        cloud.local.admin.configure(Settings { roles: documented_roles(action), ..Settings::instant() }).await.unwrap();
        let found = missing(&arm).await;
        assert!(!found.is_empty() && found.iter().all(|missing| *missing == (scope.to_owned(), action)), "{action}: {found:?}");
    }
    cloud
        .local
        .admin
        .configure(Settings { roles: documented_roles("Microsoft.Authorization/permissions/read"), ..Settings::instant() })
        .await
        .unwrap();
    let error = arm.read(&Read::Permissions(nic()), Urgency::Background).await.unwrap_err();
    assert!(matches!(error.class, Class::Forbidden { .. }), "Azure does not tell: {error}");
}

#[tokio::test]
async fn locks_and_the_lockdown_of_the_node_resource_group_are_seen_before_and_when_they_refuse() {
    let group = format!("/subscriptions/{SUBSCRIPTION}/resourceGroups/{NODE_GROUP}");
    let lock = |level: &str| Lock { scope: group.clone(), name: "keep".into(), level: level.into() };
    let cloud = Cloud::start(Settings { locks: vec![lock("CanNotDelete")], ..Settings::instant() }).await;
    let arm = cloud.arm(&secret());
    let seen = async || {
        let locks = arm.read(&Read::Locks(group.parse().unwrap()), Urgency::Background).await.unwrap();
        let denials = arm.read(&Read::Denials(group.parse().unwrap()), Urgency::Background).await.unwrap();
        let all = rights::locks(&locks.body).into_iter().chain(rights::denials(&denials.body));
        all.map(|obstacle| (obstacle.reason(), obstacle.finding().scope)).collect::<Vec<_>>()
    };
    let refused = async || {
        let read = arm.read(&Read::Nic(nic()), Urgency::Fill).await.unwrap();
        let write = Write::Nic { id: nic(), etag: read.etag, body: read.body };
        arm.write(&write, Urgency::Fill, &|| true).await.map_err(|error| error.reason())
    };
    assert_eq!((seen().await, refused().await), (vec![], Ok(())), "a lock against deletion is not in the way");
    cloud.local.admin.configure(Settings { locks: vec![lock("ReadOnly")], ..Settings::instant() }).await.unwrap();
    assert_eq!((seen().await, refused().await), (vec![("ScopeLocked", group.clone())], Err("ScopeLocked")));
    let lockdowns = vec![Lockdown { scope: group.clone(), name: "node resource group".into() }];
    cloud.local.admin.configure(Settings { lockdowns, ..Settings::instant() }).await.unwrap();
    assert_eq!((seen().await, refused().await), (vec![("NodeResourceGroupLockdown", group.clone())], Err("NodeResourceGroupLockdown")));
}

struct Cloud {
    local: Local,
    endpoints: Endpoints,
    _ca: tempfile::NamedTempFile,
}

impl Cloud {
    /// The lab's cloud; Resource Manager speaks TLS as in the lab.
    async fn start(settings: Settings) -> Self {
        // Another test of this process may have installed it.
        let _ = install_ring();
        let local = Local::start(&Seed::lab(), settings, Arc::new(NoFabric)).await.unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let arm = format!("https://127.0.0.1:{}", listener.local_addr().unwrap().port());
        local.azure.serve_arm_tls(listener, &["127.0.0.1"]).unwrap();
        let mut ca = tempfile::NamedTempFile::new().unwrap();
        ca.write_all(local.azure.ca_pem().as_bytes()).unwrap();
        let options = EndpointOptions {
            arm: Some(arm.clone()),
            authority: Some(arm),
            imds: Some(local.imds("n3").await.unwrap()),
            wireserver: Some(local.wireserver("n3").await.unwrap()),
            ca_file: Some(ca.path().to_owned()),
            ..EndpointOptions::default()
        };
        Self { endpoints: options.resolve(None).unwrap(), local, _ca: ca }
    }

    fn arm(&self, identity: &CredentialOptions) -> ArmClient {
        ArmClient::new(&self.endpoints, identity.credential().unwrap(), &ArmOptions::default()).unwrap()
    }

    async fn add(&self, arm: &ArmClient, names: &[&str]) {
        let mut read = arm.read(&Read::Nic(nic()), Urgency::Fill).await.unwrap();
        let configs = read.body["properties"]["ipConfigurations"].as_array_mut().unwrap();
        let model = configs[0]["properties"].clone();
        let pick = |name: &str| model.get(name).cloned().unwrap_or(Value::Null);
        configs.extend(names.iter().map(|name| {
            let groups = pick("applicationSecurityGroups");
            json!({"name": name, "properties": {"subnet": pick("subnet"), "applicationSecurityGroups": groups, "privateIPAllocationMethod": "Dynamic"}})
        }));
        let write = Write::Nic { id: nic(), etag: read.etag, body: read.body };
        arm.write(&write, Urgency::Fill, &|| true).await.unwrap();
    }

    async fn strike(&self, effect: Effect) {
        let fault = Fault { class: Some(EmulatedClass::NetworkWrite), path: None, times: 1, effect };
        self.local.admin.inject(fault).await.unwrap();
    }
}

fn throttled(seconds: u64) -> Class {
    Class::Throttled { retry_after: Some(Duration::from_secs(seconds)) }
}

fn id(group: &str, rest: &str) -> ResourceId {
    format!("/subscriptions/{SUBSCRIPTION}/resourceGroups/{group}/providers/{rest}").parse().unwrap()
}

fn nic() -> ResourceId {
    id(NODE_GROUP, "Microsoft.Network/networkInterfaces/aks-single-nic")
}

fn instance() -> ResourceId {
    id(NODE_GROUP, "Microsoft.Compute/virtualMachineScaleSets/aks-uniform-vmss/virtualMachines/0")
}

fn application() -> CredentialOptions {
    CredentialOptions { client_id: Some(OPERATOR_CLIENT_ID.into()), tenant_id: Some(TENANT.into()), ..CredentialOptions::default() }
}

fn secret() -> CredentialOptions {
    CredentialOptions { client_secret: Some(Secret::new(CLIENT_SECRET)), ..application() }
}

/// A token as the kubelet projects it; its signature is not looked at.
fn service_account_token() -> String {
    let claims = json!({"aud": ["api://AzureADTokenExchange"], "exp": 4_102_444_800_u64, "iss": "https://issuer", "sub": "system:serviceaccount:azure-vnet-system:controller"});
    format!("{}.{}.x", base64url(r#"{"alg":"RS256"}"#), base64url(&claims.to_string()))
}

fn base64url(text: &str) -> String {
    let alphabet: Vec<char> = ('A'..='Z').chain('a'..='z').chain('0'..='9').chain(['-', '_']).collect();
    let bits = text.bytes().map(|byte| format!("{byte:08b}")).collect::<Vec<_>>().concat();
    let digit = |chunk: &[u8]| {
        let chunk = std::str::from_utf8(chunk).unwrap();
        alphabet[usize::from_str_radix(&format!("{chunk:0<6}"), 2).unwrap()]
    };
    bits.as_bytes().chunks(6).map(digit).collect()
}

fn install_ring() -> Result<(), Arc<tokio_rustls::rustls::crypto::CryptoProvider>> {
    tokio_rustls::rustls::crypto::ring::default_provider().install_default()
}
