//! The host's names in bridge and tunnel mode, with systemd-networkd and systemd-resolved as Debian has them and the plugins as they ship.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::unused_self,
    reason = "a test says what it expected by failing there, and its host is the subject of what it does"
)]

mod host;

use std::fs;

use host::Service;

#[test]
fn the_hosts_names_are_found_over_the_bridge_and_after_it() {
    host::on_a_host(|host| {
        host.expect_name("at first");
        host.succeed("ADD", "a", "tunnel");
        host.expect_name("after the first pod");
        assert_eq!(host.servers("eth0"), host.servers(&host.bridge()));
        assert_eq!(host.ctl("domain", "eth0"), host.ctl("domain", &host.bridge()));
        host.succeed("ADD", "b", "tunnel");
        assert!(!host.log().contains("warning"), "{}", host.log());
        host.restart(Service::Resolved);
        host.expect_name("after a restart of systemd-resolved");
        // networkd takes the uplink out of the bridge, and the next pod puts it in again.
        host.restart(Service::Networkd);
        host.await_that("systemd-networkd has the address on the uplink again", || host.shows("eth0", host::NODE));
        host.succeed("ADD", "c", "tunnel");
        host.await_that("the bridge has the address", || !host.shows("eth0", host::NODE));
        host.expect_name("after a restart of systemd-networkd");
        host.keep_uplink();
        host.restart(Service::Networkd);
        let ports = host::ip(&["-brief", "link", "show", "master", &host.bridge()]);
        assert!(ports.contains("eth0"), "KeepMaster keeps the uplink in: {ports}");
        host.expect_name("after a restart of systemd-networkd that keeps the uplink in");
        for pod in ["a", "b", "c"] {
            host.succeed("DEL", pod, "tunnel");
        }
        host.undo_network();
        host.expect_name("after the way back");
        host.succeed("ADD", "a", "bridge");
        host.expect_name("of a second bridge");
    });
}

#[test]
fn a_command_that_was_killed_before_leaves_it_to_the_next_and_servers_that_are_there_stay() {
    host::on_a_host(|host| {
        let bridge = format!("azure{}", fs::read_to_string("/sys/class/net/eth0/ifindex").unwrap().trim());
        let make_bridge = || {
            host::ip(&["link", "add", &bridge, "address", host::MAC, "type", "bridge"]);
            host::ip(&["link", "set", &bridge, "up"]);
        };
        // As it is when a first command is killed right after it made the bridge, and after it moved the addresses.
        for moved in [false, true] {
            make_bridge();
            if moved {
                host::ip(&["address", "add", &format!("{}/16", host::NODE), "dev", &bridge]);
                host::ip(&["link", "set", "eth0", "master", &bridge]);
                host::ip(&["address", "delete", &format!("{}/16", host::NODE), "dev", "eth0"]);
            }
            host.succeed_once_networkd_rests("a", "bridge");
            host.expect_name(&format!("of a bridge that was there, addresses moved: {moved}"));
            host.succeed("DEL", "a", "bridge");
            host.undo_network();
            host.expect_name("after the way back");
        }
        make_bridge();
        // It now and then never hears of a bridge that is made right after another went. It does of any change to it, as an ADD brings several.
        host.await_that("systemd-resolved knows the bridge", || {
            host.try_ctl(&["dns", &bridge, "10.240.0.2"]) || {
                host::ip(&["link", "set", &bridge, "down"]);
                host::ip(&["link", "set", &bridge, "up"]);
                false
            }
        });
        host.succeed_once_networkd_rests("a", "bridge");
        assert_eq!(host.servers(&bridge), ["10.240.0.2"]);
    });
}

#[test]
fn a_silent_service_costs_no_pod_and_leaves_a_warning() {
    host::on_a_host(|host| {
        host.stop(Service::Resolved);
        host.succeed("ADD", "a", "bridge");
        host.go_on(Service::Resolved);
        let log = host.log();
        assert!(log.contains(" level=warning ") && log.contains("resolvectl does not answer in time"), "{log}");
        host.succeed("ADD", "b", "bridge");
        assert_eq!(host.log().matches("warning=").count(), 1, "not each pod tries again: {}", host.log());
        assert_eq!(host.servers(&host.bridge()), [""; 0]);
        host.forget_the_last_try();
        host.succeed("ADD", "c", "bridge");
        assert_eq!(host.servers("eth0"), host.servers(&host.bridge()), "a later pod does");
        host.expect_name("once systemd-resolved answers");
        assert_eq!(host.log().matches("warning=").count(), 1, "{}", host.log());
    });
}
