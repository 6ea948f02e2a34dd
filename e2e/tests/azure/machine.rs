//! Machines, lists, and what a machine learns of itself.

use std::net::Ipv4Addr;
use std::sync::Arc;

use azure_vnet_e2e::azure::{Caller, Class, Effect, Fault, MachineKind, MachineSeed, NoFabric, Seed, Settings};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::cloud::{COMPUTE, Cloud, NETWORK, ask_from, flex, group, single, until};

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
