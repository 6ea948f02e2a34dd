//! Of reading a NIC and of building the body of a write.

use proptest::prelude::*;

use super::*;

const SUBNET: &str = "/subscriptions/s/resourceGroups/net/providers/Microsoft.Network/virtualNetworks/v/subnets/nodes";

pub(crate) fn configuration(name: &str, address: Ipv4Addr, primary: bool) -> Value {
    json!({"name": name, "etag": "W/\"x\"", "properties": {"provisioningState": "Succeeded", "privateIPAddress": address, "privateIPAllocationMethod": "Dynamic",
        "subnet": {"id": SUBNET}, "primary": primary, "privateIPAddressVersion": "IPv4",
        "applicationSecurityGroups": [{"id": "/subscriptions/s/asg"}], "loadBalancerBackendAddressPools": [{"id": "/subscriptions/s/lb"}]}})
}

fn tree(ours: &[(u8, u8)], foreign: u8) -> Value {
    let mut list = vec![configuration("ipconfig1", Ipv4Addr::new(10, 0, 0, 4), true)];
    list.extend((0..foreign).map(|n| configuration(&format!("other{n}"), Ipv4Addr::new(10, 0, 9, n), false)));
    list.extend(ours.iter().map(|&(slot, host)| configuration(&name_of(slot), Ipv4Addr::new(10, 0, 1, host), false)));
    json!({"name": "nic", "id": "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/networkInterfaces/nic", "location": "westeurope", "etag": "W/\"1\"",
        "kind": "Regular", "tags": {"a": "b"}, "properties": {"provisioningState": "Succeeded", "macAddress": "00-0D-3A-00-00-01", "primary": true,
        "allowPort25Out": true, "ipConfigurations": list, "networkSecurityGroup": {"id": "/subscriptions/s/nsg"}}})
}

fn nic(tree: &Value) -> Nic {
    Nic::whole(Document { body: tree.clone(), etag: None }).unwrap()
}

fn entry(slot: u8, host: u8) -> SlotAddress {
    SlotAddress::single(slot, Ipv4Addr::new(10, 0, 1, host))
}

#[test]
fn an_addition_copies_subnet_and_security_groups_and_no_load_balancer() {
    let before = tree(&[(1, 1)], 0);
    let write = nic(&before).write(&Change { add: [2].into(), ..Change::default() }).unwrap();
    let added = write.body().pointer("/properties/ipConfigurations/2").unwrap();
    assert_eq!(
        added,
        &json!({"name": "avn-2", "properties": {"primary": false, "subnet": {"id": SUBNET}, "privateIPAddressVersion": "IPv4",
            "privateIPAllocationMethod": "Dynamic", "applicationSecurityGroups": [{"id": "/subscriptions/s/asg"}]}})
    );
    assert_eq!(write.etag(), Some("W/\"1\""));
    assert_eq!(nic(&before).view().mac, "00:0d:3a:00:00:01");
}

#[test]
fn a_preview_says_what_the_body_adds_and_leaves_out() {
    let whole = nic(&tree(&[(1, 1), (3, 3)], 0));
    let change = Change { add: [2, 4].into(), remove: [entry(3, 3)].into(), ..Change::default() };
    let plan = whole.preview(&change).unwrap();
    let added = whole.write(&change).unwrap().body().pointer("/properties/ipConfigurations/2/properties").unwrap().to_string();
    assert_eq!(plan.request, format!("PUT {}?api-version={}", whole.view().id, crate::arm::NETWORK_API));
    assert_eq!((plan.add, plan.properties, plan.if_match), (vec!["avn-2".to_owned(), "avn-4".to_owned()], added, "W/\"1\"".to_owned()));
    assert_eq!(plan.remove, [entry(3, 3)]);

    let (model, nics) = instance_documents(&["ip1", "avn-3"], &[("ip1", 0), ("avn-3", 3)], "Succeeded");
    let plan = Nic::instance(&model, &nics).unwrap().preview(&change).unwrap();
    assert!(plan.request.contains("/virtualMachineScaleSets/ss/virtualMachines/0?") && plan.properties.contains(SUBNET), "{plan:?}");
    assert_eq!((plan.add.len(), plan.if_match.as_str()), (2, "\"1\""));
}

#[test]
fn re2_a_slot_with_another_address_is_not_removed() {
    let nic = nic(&tree(&[(9, 7)], 0));
    assert_eq!(nic.write(&Change { remove: [entry(9, 8)].into(), ..Change::default() }), Err(Refusal::AddressChanged(9)));
    assert!(nic.write(&Change { remove: [entry(9, 7)].into(), ..Change::default() }).is_ok());
}

#[test]
fn repeating_a_write_whose_effect_shows_is_refused() {
    let nic = nic(&tree(&[(1, 1)], 0));
    assert_eq!(nic.write(&Change { add: [1].into(), remove: [entry(4, 4)].into(), ..Change::default() }), Err(Refusal::Done));
}

#[test]
fn i8_a_nic_that_has_too_many_may_be_given_fewer() {
    let nic = nic(&tree(&[(1, 1), (2, 2), (3, 3)], 255));
    assert!(nic.write(&Change { remove: [entry(1, 1)].into(), ..Change::default() }).is_ok(), "{:?}", nic.view());
}

#[test]
fn i8_the_two_hundred_and_fifty_seventh_is_refused() {
    let ours: Vec<(u8, u8)> = (1..=200).map(|n| (n, n)).collect();
    let nic = nic(&tree(&ours, 54));
    assert_eq!(nic.view().room(), 201);
    assert!(nic.write(&Change { add: [201].into(), ..Change::default() }).is_ok());
    assert_eq!(nic.write(&Change { add: [201, 202].into(), ..Change::default() }), Err(Refusal::Limit));
}

#[test]
fn a_shape_that_is_not_understood_is_never_written() {
    let mut primary_is_ours = tree(&[(1, 1)], 0);
    *primary_is_ours.pointer_mut("/properties/ipConfigurations/1/properties/primary").unwrap() = json!(true);
    let mut block = tree(&[(1, 1)], 0);
    *block.pointer_mut("/properties/ipConfigurations/1/properties/privateIPAddress").unwrap() = json!("10.0.1.16/27");
    let mut twice = tree(&[(1, 1)], 0);
    *twice.pointer_mut("/properties/ipConfigurations/1/name").unwrap() = json!("IPConfig1");
    for body in
        [primary_is_ours, block, twice, json!({}), json!({"id": "/subscriptions/s", "name": "n", "properties": {"ipConfigurations": [{}]}})]
    {
        assert!(Nic::whole(Document { body, etag: None }).is_err());
    }
}

#[test]
fn the_machines_own_address_is_taken_as_it_is_written() {
    let mut tree = tree(&[], 0);
    tree["properties"]["ipConfigurations"][0]["properties"]["privateIPAddressPrefixLength"] = json!(28);
    assert_eq!(nic(&tree).view().primary, Ipv4Addr::new(10, 0, 0, 4));
}

#[test]
fn names_with_our_prefix_that_are_no_slot_are_foreign() {
    assert_eq!(
        ["avn-1", "avn-255", "avn-0", "avn-256", "avn-01", "AVN-1", "avn-", "x"].map(slot_of),
        [Some(1), Some(255), None, None, None, None, None, None]
    );
}

fn instance_documents(model: &[&str], shown: &[(&str, u8)], state: &str) -> (Document, Document) {
    let id = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/virtualMachineScaleSets/ss/virtualMachines/0";
    let list: Vec<Value> = model
        .iter()
        .map(|name| json!({"name": name, "properties": {"subnet": {"id": SUBNET}, "privateIPAddressVersion": "IPv4"}}))
        .collect();
    let model = json!({"id": id, "name": "ss_0", "location": "westeurope", "etag": "\"1\"", "properties": {"provisioningState": state, "storageProfile": {"imageReference": {"id": "x"}},
        "networkProfileConfiguration": {"networkInterfaceConfigurations": [{"name": "nic1", "properties": {"primary": true, "ipConfigurations": list}}]}}});
    let shown: Vec<Value> = shown.iter().map(|&(name, host)| configuration(name, Ipv4Addr::new(10, 0, 1, host), host == 0)).collect();
    let nics = json!({"value": [{"name": "nic1", "id": format!("{id}/networkInterfaces/nic1"), "properties": {"provisioningState": "Succeeded", "primary": true, "macAddress": "00-0D", "ipConfigurations": shown}}]});
    (Document { body: model, etag: None }, Document { body: nics, etag: None })
}

#[test]
fn an_instance_is_written_with_its_network_profile_only() {
    let (model, nics) = instance_documents(&["ip1", "avn-3"], &[("ip1", 0), ("avn-3", 3)], "Succeeded");
    let nic = Nic::instance(&model, &nics).unwrap();
    let write = nic.write(&Change { add: [1, 2].into(), remove: [entry(3, 3)].into(), ..Change::default() }).unwrap();
    let Write::Instance { etag, body, .. } = &write else { panic!("an instance is written through itself") };
    assert_eq!(etag.as_deref(), Some("\"1\""));
    assert_eq!(body.as_object().unwrap().keys().collect::<Vec<_>>(), ["location", "properties"]);
    assert_eq!(body["properties"].as_object().unwrap().keys().collect::<Vec<_>>(), ["networkProfileConfiguration"]);
    let list =
        body.pointer("/properties/networkProfileConfiguration/networkInterfaceConfigurations/0/properties/ipConfigurations").unwrap();
    let names: Vec<_> = list.as_array().unwrap().iter().map(|e| e["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["ip1", "avn-1", "avn-2"]);
    assert_eq!(list[1]["properties"].get("privateIPAllocationMethod"), None);
}

#[test]
fn an_instance_whose_nic_lags_its_model_is_not_settled() {
    let state = |model: &[&str], shown: &[(&str, u8)], provisioning| {
        let (model, nics) = instance_documents(model, shown, provisioning);
        let nic = Nic::instance(&model, &nics).unwrap();
        (nic.view().state, nic.view().slots.clone())
    };
    assert_eq!(state(&["ip1", "avn-1"], &[("ip1", 0)], "Succeeded"), (State::Lagging, [(1, Slot::Provisioning(Unit::Address))].into()));
    assert_eq!(state(&["ip1", "avn-1"], &[("ip1", 0)], "Updating").0, State::Moving);
    assert_eq!(state(&["ip1", "avn-1"], &[("ip1", 0)], "Failed"), (State::Settled, [(1, Slot::Failed(Unit::Address))].into()));
    assert_eq!(state(&["ip1"], &[("ip1", 0), ("avn-1", 1)], "Succeeded").0, State::Lagging);
    assert_eq!(state(&["ip1"], &[("ip1", 0)], "Succeeded").0, State::Settled);
}

#[test]
fn what_was_cancelled_is_over() {
    for word in ["Canceled", "Cancelled", "canceled"] {
        let mut whole = tree(&[(1, 1)], 0);
        *whole.pointer_mut("/properties/provisioningState").unwrap() = json!(word);
        *whole.pointer_mut("/properties/ipConfigurations/1/properties/provisioningState").unwrap() = json!(word);
        let whole = nic(&whole);
        assert_eq!((whole.view().state, whole.view().slots.clone()), (State::Settled, [(1, Slot::Failed(Unit::Address))].into()));
        assert!(whole.write(&Change { add: [1].into(), ..Change::default() }).is_ok(), "to send it again repairs it");
        let (model, nics) = instance_documents(&["ip1", "avn-1"], &[("ip1", 0)], word);
        let instance = Nic::instance(&model, &nics).unwrap();
        assert_eq!((instance.view().state, instance.view().slots.clone()), (State::Settled, [(1, Slot::Failed(Unit::Address))].into()));
    }
}

#[test]
fn a_removal_that_failed_half_way_leaves_nothing_that_pods_may_use() {
    let (model, nics) = instance_documents(&["ip1", "avn-3"], &[("ip1", 0), ("avn-3", 3), ("avn-9", 9)], "Failed");
    let nic = Nic::instance(&model, &nics).unwrap();
    assert_eq!((nic.view().state, nic.view().attached().collect()), (State::Settled, vec![entry(3, 3)]));
    assert_eq!(nic.view().dropped().collect::<Vec<_>>(), [entry(9, 9)]);
    let names = |change: &Change| {
        let write = nic.write(change).unwrap();
        let profile = write.body().pointer("/properties/networkProfileConfiguration").unwrap();
        names(interface(profile, "nic1").unwrap()).unwrap().into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(names(&Change { remove: [entry(9, 9)].into(), ..Change::default() }), ["avn-3", "ip1"], "the same again finishes it");
    assert_eq!(names(&Change { add: [4].into(), ..Change::default() }), ["avn-3", "avn-4", "ip1"]);
    assert_eq!(names(&Change { add: [9].into(), ..Change::default() }), ["avn-3", "avn-9", "ip1"], "the slot may be asked for anew");
}

#[test]
fn what_others_have_of_ipv6_takes_room_and_is_nothing_that_imds_is_compared_by() {
    let mut tree = tree(&[(1, 1)], 1);
    let mut sixth = configuration("ipv6", Ipv4Addr::UNSPECIFIED, false);
    sixth["properties"]["privateIPAddress"] = json!("fd00::4");
    sixth["properties"]["privateIPAddressVersion"] = json!("IPv6");
    tree.pointer_mut("/properties/ipConfigurations").unwrap().as_array_mut().unwrap().push(sixth);
    let nic = nic(&tree);
    assert_eq!((nic.view().foreign, nic.view().foreign_ipv4, nic.view().room()), (3, 2, 253));
}

#[test]
fn published_examples_are_read() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../e2e/azure-examples/arm/");
    let body = |name: &str| {
        let text = std::fs::read_to_string(format!("{folder}{name}")).unwrap();
        serde_json::from_str::<Value>(&text).unwrap().pointer("/responses/200/body").unwrap().clone()
    };
    let nic = Nic::whole(Document { body: body("NetworkInterfaceGet.2025-05-01.json"), etag: None }).unwrap();
    assert_eq!((nic.view().foreign, nic.view().mac.as_str()), (2, "00:0d:3a:1b:c7:21"));
    let mut model = body("GetVirtualMachineScaleSetVMWithUserData.2021-07-01.json");
    let text = model.to_string().replace(['{', '}'], "|").contains("subscription-id");
    assert!(text, "the example's placeholders are not ids");
    model = serde_json::from_str(&model.to_string().replace("{subscription-id}", "s").replace("{vmss-name}", "ss")).unwrap();
    let mut nics = body("VmssVmNetworkInterfaceList.2021-05-01.json");
    *nics.pointer_mut("/value/0/name").unwrap() = json!("vmsstestnetconfig5415");
    let nic = Nic::instance(&Document { body: model, etag: None }, &Document { body: nics, etag: None }).unwrap();
    assert_eq!(nic.view().primary, Ipv4Addr::new(10, 0, 0, 5));
}

/// The NIC with a block in its first slot, written in any way.
fn with_block(address: &str, length: &Value) -> Value {
    let mut tree = tree(&[(1, 1)], 0);
    let properties = tree.pointer_mut("/properties/ipConfigurations/1/properties").unwrap();
    properties["privateIPAddress"] = json!(address);
    properties["privateIPAddressPrefixLength"] = length.clone();
    tree
}

#[test]
fn a_block_is_read_however_azure_writes_it() {
    let block: SlotAddress = "1/10.0.1.16/28".parse().unwrap();
    for (address, length) in
        [("10.0.1.16/28", json!(28)), ("10.0.1.16/28", json!(null)), ("10.0.1.16", json!(28)), ("10.0.1.21/28", json!(28))]
    {
        assert_eq!(nic(&with_block(address, &length)).view().attached().collect::<Vec<_>>(), [block], "{address} {length}");
    }
    let single = ["10.0.1.16", "10.0.1.16/32"].map(|address| nic(&with_block(address, &json!(32))).view().at(1).unwrap().to_string());
    assert_eq!(single, ["1/10.0.1.16", "1/10.0.1.16"]);
    for (address, length) in
        [("10.0.1.16/28", json!(32)), ("10.0.1.16", json!(27)), ("10.0.1.16/29", json!(null)), ("10.0.1.16", json!("x"))]
    {
        assert!(Nic::whole(Document { body: with_block(address, &length), etag: None }).is_err(), "{address} {length}");
    }
}

#[test]
fn a_block_is_asked_for_by_the_length_of_its_prefix_and_on_whole_nics_only() {
    let change = Change { add: [2].into(), unit: Unit::Block28, ..Change::default() };
    let write = nic(&tree(&[(1, 1)], 0)).write(&change).unwrap();
    let added = write.body().pointer("/properties/ipConfigurations/2/properties").unwrap();
    assert_eq!((&added["privateIPAddressPrefixLength"], &added["privateIPAllocationMethod"]), (&json!(28), &json!("Dynamic")));
    let (model, nics) = instance_documents(&["ip1", "avn-3"], &[("ip1", 0), ("avn-3", 3)], "Succeeded");
    let instance = Nic::instance(&model, &nics).unwrap();
    assert_eq!(instance.write(&change), Err(Refusal::NoBlocks));
    assert!(instance.write(&Change { add: [2].into(), ..Change::default() }).is_ok());
}

#[test]
fn re2_a_block_is_removed_only_where_the_nic_shows_this_very_block() {
    let remove = |text: &str| Change { remove: [text.parse().unwrap()].into(), ..Change::default() };
    let nic = nic(&with_block("10.0.1.16/28", &json!(28)));
    assert!(nic.write(&remove("1/10.0.1.16/28")).is_ok());
    assert_eq!(nic.write(&remove("1/10.0.1.16")), Err(Refusal::AddressChanged(1)));
    assert_eq!(nic.write(&remove("1/10.0.1.32/28")), Err(Refusal::AddressChanged(1)));
}

#[test]
fn a_block_that_failed_is_made_anew_as_a_single_address_and_sent_again_as_a_block() {
    let mut tree = with_block("10.0.1.16/28", &json!(28));
    tree["properties"]["ipConfigurations"][1]["properties"]["provisioningState"] = json!("Failed");
    let failed = nic(&tree);
    let add = |unit| Change { add: [1].into(), unit, ..Change::default() };
    assert_eq!(failed.write(&add(Unit::Block28)).unwrap().body(), &tree, "to send it again repairs it");
    let write = failed.write(&add(Unit::Address)).unwrap();
    let properties = &write.body()["properties"]["ipConfigurations"][1]["properties"];
    assert_eq!((properties.get("privateIPAddressPrefixLength"), properties.get("privateIPAddress")), (None, None));
    assert_eq!(write.body()["properties"]["ipConfigurations"].as_array().unwrap().len(), 2);
}

#[test]
fn a_block_that_failed_is_in_no_body_that_is_not_to_make_it() {
    let mut tree = with_block("10.0.1.16/28", &json!(28));
    let list = tree["properties"]["ipConfigurations"].as_array_mut().unwrap();
    list.extend([configuration("avn-2", Ipv4Addr::new(10, 0, 1, 2), false), configuration("avn-3", Ipv4Addr::new(10, 0, 1, 3), false)]);
    for failed in [1, 3] {
        list[failed]["properties"]["provisioningState"] = json!("Failed");
    }
    let nic = nic(&tree);
    let change = Change { remove: [entry(2, 2)].into(), failed: [1, 3].into(), ..Change::default() };
    let named = |change: &Change| Some(nic.write(change).ok()?.body()["properties"]["ipConfigurations"].as_array()?.len());
    assert_eq!(named(&change), Some(2), "what is left are the machine's own and the single address, which is repaired");
    assert_eq!(named(&Change { failed: [].into(), ..change.clone() }), Some(3));
    assert_eq!(named(&Change { remove: [].into(), ..change }), None, "that alone is worth no write");
    let add = Change { add: [1, 4].into(), unit: Unit::Block28, failed: [1].into(), ..Change::default() };
    assert_eq!(named(&add), Some(5), "what is asked for stands");
}

#[derive(Clone, Copy, Debug)]
enum Fate {
    Kept,
    Removed,
    Added,
    Absent,
}

proptest! {
    /// I2, I3: whatever is asked, a body that passes differs from what was read in the asked slots only, and applying it yields exactly that.
    #[test]
    fn i2_i3_a_body_differs_only_in_the_slots_of_the_change(
        fates in proptest::collection::btree_map(1u8..=255, prop_oneof![Just(Fate::Kept), Just(Fate::Removed), Just(Fate::Added), Just(Fate::Absent)], 0..60),
        foreign in 0u8..20,
    ) {
        let of = |wanted: &[u8]| fates.iter().filter(|(_, f)| wanted.contains(&match f { Fate::Kept => 0, Fate::Removed => 1, Fate::Added => 2, Fate::Absent => 3 })).map(|(&s, _)| s).collect::<Vec<u8>>();
        let before = tree(&of(&[0, 1]).iter().map(|&s| (s, s)).collect::<Vec<_>>(), foreign);
        let change = Change { add: of(&[2]).into_iter().collect(), remove: of(&[1]).iter().map(|&s| entry(s, s)).collect(), ..Change::default() };
        match nic(&before).write(&change) {
            Err(refusal) => prop_assert!(refusal == Refusal::Done && change == Change::default()),
            Ok(write) => {
                let after = nic(write.body());
                let mut expected = of(&[0, 2]);
                expected.sort_unstable();
                prop_assert_eq!(after.view().slots.keys().copied().collect::<Vec<_>>(), expected);
                prop_assert_eq!(after.view().foreign, u16::from(foreign) + 1);
                let mut strangers = (before.clone(), write.body().clone());
                for tree in [&mut strangers.0, &mut strangers.1] {
                    tree.pointer_mut("/properties/ipConfigurations").unwrap().as_array_mut().unwrap().retain(|e| slot_of(e["name"].as_str().unwrap()).is_none());
                }
                prop_assert_eq!(strangers.0, strangers.1);
            }
        }
    }

    /// I3: the guard notices any single edit of what is not ours.
    #[test]
    fn i3_the_guard_notices_every_foreign_edit(edit in 0usize..8) {
        let before = tree(&[(1, 1), (2, 2)], 2);
        let mut after = before.clone();
        let list = "/properties/ipConfigurations";
        match edit {
            0 => *after.pointer_mut("/tags/a").unwrap() = json!("c"),
            1 => { after.pointer_mut("/properties").unwrap().as_object_mut().unwrap().remove("networkSecurityGroup"); }
            2 => { after.pointer_mut(list).unwrap().as_array_mut().unwrap().remove(0); }
            3 => { after.pointer_mut(list).unwrap().as_array_mut().unwrap().remove(1); }
            4 => { after.pointer_mut(list).unwrap().as_array_mut().unwrap().remove(3); }
            5 => *after.pointer_mut(&format!("{list}/0/properties/privateIPAddress")).unwrap() = json!("10.0.0.9"),
            6 => after.pointer_mut(list).unwrap().as_array_mut().unwrap().push(configuration("avn-9", Ipv4Addr::LOCALHOST, false)),
            _ => *after.pointer_mut(&format!("{list}/0/properties/primary")).unwrap() = json!(false),
        }
        prop_assert!(guard(&before, &after, list, &Edit::default()).is_err());
        prop_assert!(guard(&before, &before, list, &Edit::default()).is_ok());
    }
}
