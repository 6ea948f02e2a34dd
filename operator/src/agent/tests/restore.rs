//! Taking everything off a node again, and what keeps from it.

use std::collections::BTreeMap;

use azure_vnet_operator_core::uninstall::Addresses;
use azure_vnet_plugin_core::unbridge::MADE;

use super::{
    super::restore::{Extent, Places, Plugins, RestoreError, restore},
    *,
};

const ALL: Extent = Extent { plugins: Plugins::Remove, addresses: Addresses::GiveBack };

fn places(machine: &Machine) -> Places {
    Places {
        proc_sys_net: machine.path("sys"),
        boot_id_file: machine.path("boot_id"),
        run_dir: machine.path("run"),
        state_dir: machine.path("state"),
        cni_bin_dir: machine.path("bin"),
        cni_conf_dir: machine.path("conf"),
        log_dir: machine.path("log"),
        netns_dir: "/run/netns".into(),
    }
}

/// Every file with its content, every rule and every route.
fn all_of(machine: &Machine) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut open = vec![machine.root.path().to_path_buf()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                found.insert(path.display().to_string(), fs::read_to_string(&path).unwrap_or_default().trim().to_owned());
            }
        }
    }
    for table in ["filter", "nat"] {
        found.insert(table.into(), run("iptables-nft", &["-t", table, "-S"]));
    }
    found.insert("routes".into(), run("ip", &["-4", "route", "show"]));
    found
}

#[test]
fn everything_of_ours_goes_and_everything_else_stays() {
    apart(|| {
        let machine = Machine::new();
        fs::write(machine.path("conf/20-other.conflist"), r#"{"name": "other", "plugins": [{"type": "bridge"}]}"#).unwrap();
        fs::write(machine.path("bin/bridge"), "theirs").unwrap();
        run("iptables-nft", &["-A", "FORWARD", "-d", "192.0.2.1", "-j", "ACCEPT"]);
        run("iptables-nft", &["-t", "nat", "-A", "POSTROUTING", "-d", "192.0.2.1", "-j", "ACCEPT"]);
        let mut before = all_of(&machine);
        let node = filled(&machine, &object(1, &["1/10.0.0.5", "2/10.0.0.6"]));
        for log in ["azure-vnet.log", "azure-vnet.log.1", "azure-vnet-ipam.log", "kubelet.log"] {
            fs::write(machine.path("log").join(log), "line").unwrap();
        }
        assert!(machine.conflist() && run("ip", &["route"]).contains("unreachable 10.0.0.5"));
        // As a version that marked none left them: of the pool last adopted, and of one before.
        run("ip", &["route", "replace", "unreachable", "10.0.0.6/32", "metric", "4096"]);
        run("ip", &["route", "replace", "unreachable", "10.0.0.9/32", "metric", "4096"]);
        fs::remove_file(machine.path("run/routes-marked")).unwrap();
        drop(node);
        let done = restore(&places(&machine), ALL).unwrap();
        assert!(done.iter().any(|what| what.contains("10-azure-vnet.conflist")), "{done:?}");
        before.insert(machine.path("log/kubelet.log").display().to_string(), "line".into());
        before.retain(|path, _| !path.ends_with("bin/azure-vnet") && !path.ends_with("bin/azure-vnet-ipam"));
        assert_eq!(all_of(&machine), before);
        assert!(!machine.path("run").exists() && !machine.path("state").exists());
        assert_eq!(restore(&places(&machine), ALL).unwrap(), Vec::<String>::new(), "the second time there is nothing to do");
    });
}

#[test]
fn up4_nothing_is_taken_off_while_a_pod_has_an_address() {
    apart(|| {
        let machine = Machine::new();
        let node = filled(&machine, &object(1, &["1/10.0.0.5", "2/10.0.0.6"]));
        run("ip", &["link", "add", "azv00000000001", "type", "veth", "peer", "name", "pod"]);
        run("ip", &["link", "set", "azv00000000001", "alias", "azure-vnet:c1/eth0 10.0.0.5"]);
        drop(node);
        let before = all_of(&machine);
        let error = restore(&places(&machine), ALL).unwrap_err();
        assert!(matches!(&error, RestoreError::Held(who) if who.contains("10.0.0.5 (azv00000000001)")), "{error}");
        assert_eq!(all_of(&machine), before);
        run("ip", &["link", "del", "azv00000000001"]);
        restore(&places(&machine), ALL).unwrap();
        assert!(!machine.conflist());
    });
}

#[test]
fn up4_a_lease_keeps_the_node_while_the_kernel_shows_a_pod_that_another_plugin_wired() {
    apart(|| {
        let machine = Machine::new();
        let node = filled(&machine, &object(1, &["1/10.0.0.5"]));
        assert_eq!(lease(&node, "c1"), address("10.0.0.5"));
        drop(node);
        let refused = |words: &str| {
            let before = all_of(&machine);
            let error = restore(&places(&machine), ALL).unwrap_err();
            assert!(matches!(&error, RestoreError::Held(who) if who.contains("10.0.0.5 (") && who.contains(words)), "{error}");
            assert_eq!(all_of(&machine), before);
        };
        refused("cannot be seen");
        // As `bridge` leaves it: a link without alias, no route of its own.
        run("ip", &["netns", "add", "a"]);
        refused("network namespace is there");
        run("ip", &["netns", "del", "a"]);
        // As `ptp` leaves it, in a namespace that is not in the folder any more.
        run("ip", &["link", "add", "veth1", "type", "veth", "peer", "name", "pod"]);
        run("ip", &["link", "set", "veth1", "up"]);
        run("ip", &["link", "set", "pod", "up"]);
        run("ip", &["route", "add", "10.0.0.5/32", "dev", "veth1"]);
        refused("routed through veth1");
        run("ip", &["link", "del", "veth1"]);
        restore(&places(&machine), ALL).unwrap();
        assert!(!machine.path("run").exists());
    });
}

#[test]
fn up4_nothing_is_taken_off_while_a_configuration_of_the_users_own_would_give_addresses_that_go_back() {
    apart(|| {
        let machine = Machine::new();
        drop(filled(&machine, &object(1, &["1/10.0.0.5"])));
        let own = r#"{"name": "azure", "plugins": [{"type": "azure-vnet", "ipam": {"type": "azure-vnet-ipam", "environment": "azure"}}]}"#;
        fs::write(machine.path("conf/10-azure.conflist"), own).unwrap();
        let before = all_of(&machine);
        let error = restore(&places(&machine), ALL).unwrap_err();
        assert!(matches!(&error, RestoreError::Served(path) if path.ends_with("10-azure.conflist")), "{error}");
        assert_eq!(all_of(&machine), before);
        fs::remove_file(machine.path("conf/10-azure.conflist")).unwrap();
        restore(&places(&machine), ALL).unwrap();
    });
}

#[test]
fn plugins_stay_where_a_configuration_of_the_users_own_names_them() {
    apart(|| {
        let machine = Machine::new();
        let node = filled(&machine, &object(1, &["1/10.0.0.5"]));
        drop(node);
        let own = r#"{"name": "azure", "plugins": [{"type": "azure-vnet", "ipam": {"type": "azure-vnet-ipam"}}]}"#;
        fs::write(machine.path("conf/10-azure.conflist"), own).unwrap();
        restore(&places(&machine), Extent { addresses: Addresses::Keep, ..ALL }).unwrap();
        assert!(machine.path("bin/azure-vnet").exists() && machine.path("conf/10-azure.conflist").exists() && !machine.conflist());
    });
}

#[test]
fn the_uplink_of_bridged_pods_gets_its_address_back_and_a_bridge_of_others_stays() {
    apart(|| {
        let machine = Machine::new();
        let node = filled(&machine, &object(1, &["1/10.0.0.5", "2/10.0.0.6"]));
        drop(node);
        run("ip", &["link", "add", "br0", "type", "bridge"]);
        run("ip", &["link", "set", "br0", "up", "alias", "azure-vnet:bridge eth9"]);
        run("ip", &["link", "add", "azure2", "type", "bridge"]);
        // The mark of a bridge that these plugins made.
        let made = MADE.to_string();
        run("ip", &["link", "set", "azure2", "up", "alias", "azure-vnet:bridge eth0", "group", &made]);
        run("ip", &["address", "del", "10.0.0.4/24", "dev", "eth0"]);
        run("ip", &["link", "set", "eth0", "master", "azure2"]);
        run("ip", &["address", "add", "10.0.0.4/24", "dev", "azure2"]);
        run("ip", &["link", "add", "azv1", "type", "veth", "peer", "name", "azv1p"]);
        run("ip", &["link", "set", "azv1", "master", "azure2"]);
        let error = restore(&places(&machine), ALL).unwrap_err();
        assert!(matches!(&error, RestoreError::Held(who) if who == "bridge azure2 has pods: azv1"), "{error}");
        assert!(machine.conflist());
        run("ip", &["link", "del", "azv1"]);
        let done = restore(&places(&machine), ALL).unwrap();
        assert!(done.iter().any(|what| what.starts_with("azure2: ")), "{done:?}");
        let links = run("ip", &["-brief", "link"]);
        assert!(!links.contains("azure2") && links.contains("br0"), "{links}");
        assert!(run("ip", &["address", "show", "dev", "eth0"]).contains("10.0.0.4/24"));
    });
}

#[test]
fn forwarding_stays_where_others_need_it_since() {
    let restored = |others: fn()| {
        apart(move || {
            let machine = Machine::new();
            drop(filled(&machine, &object(1, &["1/10.0.0.5"])));
            let read = |name: &str| fs::read_to_string(machine.path("sys/ipv4").join(name)).unwrap().trim().to_owned();
            assert_eq!([read("ip_forward"), read("conf/eth0/rp_filter")], ["1", "1"]);
            others();
            restore(&places(&machine), ALL).unwrap();
            assert_eq!([read("ip_forward"), read("conf/eth0/rp_filter")], ["1", "0"]);
        });
    };
    // As Docker has them; and a way out that is shared with others.
    restored(|| {
        run("ip", &["link", "add", "docker0", "type", "bridge"]);
        run("ip", &["address", "add", "172.17.0.1/16", "dev", "docker0"]);
    });
    restored(|| _ = run("iptables-nft", &["-t", "nat", "-A", "POSTROUTING", "-s", "192.168.7.0/24", "-j", "MASQUERADE"]));
}

#[test]
fn a_bridge_that_the_host_itself_goes_out_by_needs_no_forwarding() {
    apart(|| {
        let machine = Machine::new();
        drop(filled(&machine, &object(1, &["1/10.0.0.5"])));
        run("ip", &["link", "add", "br0", "up", "type", "bridge"]);
        run("ip", &["address", "add", "192.168.7.2/24", "dev", "br0"]);
        run("ip", &["route", "add", "default", "via", "192.168.7.1", "dev", "br0"]);
        restore(&places(&machine), ALL).unwrap();
        assert_eq!(fs::read_to_string(machine.path("sys/ipv4/ip_forward")).unwrap().trim(), "0");
    });
}

#[test]
fn folders_that_are_mounts_are_emptied() {
    apart(|| {
        let machine = Machine::new();
        for folder in ["run", "state"] {
            mount(Some("place"), &machine.path(folder), Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        }
        drop(filled(&machine, &object(1, &["1/10.0.0.5"])));
        let done = restore(&places(&machine), ALL).unwrap();
        assert!(done.iter().any(|what| what.starts_with("what was in ")), "{done:?}");
        for folder in ["run", "state"] {
            assert_eq!(fs::read_dir(machine.path(folder)).unwrap().count(), 0);
        }
        assert_eq!(restore(&places(&machine), ALL).unwrap(), Vec::<String>::new());
    });
}
