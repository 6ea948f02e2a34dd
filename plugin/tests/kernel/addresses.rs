//! Our address plugin under others, and others' under ours.

use std::{fs, net::Ipv4Addr, process::Command};

use serde_json::{Value, json};

use crate::node::{IPAM, PLUGIN, conf, finish, on_a_node, run};

#[test]
fn the_address_plugin_serves_any_other() {
    on_a_node(10, |node| {
        let pod = node.sandbox("c1", "web-0");
        let conf =
            json!({ "cniVersion": "1.0.0", "name": "lan", "type": "ipvlan", "ipam": { "type": "azure-vnet-ipam", "environment": "pool" } });
        let ipam = |command: &str| finish(node.start(IPAM, &pod, command), &conf);
        let added = ipam("ADD");
        let address = added.address();
        let expected = json!({ "cniVersion": "1.0.0", "ips": [{ "address": format!("{address}/16"), "gateway": "10.240.0.1" }],
                               "routes": [{ "dst": "0.0.0.0/0", "gw": "10.240.0.1" }], "dns": { "nameservers": ["168.63.129.16"] } });
        assert_eq!(added.json(), expected);
        assert_eq!(ipam("ADD").json(), expected);
        assert!(ipam("CHECK").ok);
        assert!(ipam("DEL").ok);
        assert!(ipam("DEL").ok);
        assert_eq!(ipam("CHECK").code(), 3);
        node.assert_nothing_left("after DEL");
    });
}

#[test]
fn another_address_plugin_is_run_as_the_specification_says() {
    on_a_node(1, |node| {
        let pod = node.sandbox("c1", "web-0");
        fs::create_dir_all("/run/bin").unwrap();
        let script = "#!/bin/sh\nread -r conf; echo \"$CNI_COMMAND $conf\" >> /run/bin/calls\n\
                      case $CNI_COMMAND in ADD) [ -e /run/bin/fail ] && { echo '{\"code\":42,\"msg\":\"address not found\"}'; exit 1; }\n\
                      echo '{\"cniVersion\":\"1.0.0\",\"ips\":[{\"address\":\"10.88.0.5/24\",\"gateway\":\"10.88.0.1\"}]}';; esac\n";
        fs::write("/run/bin/other", script).unwrap();
        run("chmod", &["+x", "/run/bin/other"]);
        let mut conf = conf("1.0.0");
        conf["ipam"] = json!({ "type": "other", "private": { "field": 1 } });
        let with_path = |command: &str, conf: &Value| {
            let output = Command::new("env")
                .env_clear()
                .args([
                    format!("CNI_COMMAND={command}").as_str(),
                    "CNI_CONTAINERID=c1",
                    "CNI_NETNS=/run/netns/c1",
                    "CNI_IFNAME=eth0",
                    "CNI_PATH=/nowhere:/run/bin",
                    "CNI_ARGS=K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0",
                    "PATH=/bin:/usr/bin",
                    PLUGIN,
                ])
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .stderr(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            finish(output, conf)
        };
        let added = with_path("ADD", &conf);
        assert_eq!(added.address(), Ipv4Addr::new(10, 88, 0, 5));
        conf["prevResult"] = added.json();
        let check = with_path("CHECK", &conf);
        assert!(check.ok, "{check:?}");
        let deleted = with_path("DEL", &conf);
        assert!(deleted.ok, "{deleted:?}");
        assert_eq!((node.host_links(), pod.links()), (vec![], vec![]));
        let calls = fs::read_to_string("/run/bin/calls").unwrap();
        assert_eq!(calls.lines().map(|call| call.split(' ').next().unwrap()).collect::<Vec<_>>(), ["ADD", "CHECK", "DEL"]);
        assert!(calls.lines().all(|call| call.contains("\"private\":{\"field\":1}")), "{calls}");
        fs::write("/run/bin/fail", "").unwrap();
        assert_eq!(with_path("ADD", &conf).code(), 42);
    });
}

#[test]
fn an_add_again_that_nobody_hears_gives_no_address_of_a_wired_pod_back() {
    on_a_node(1, |node| {
        let (pod, conf) = (node.sandbox("c1", "web-0"), noted_plugin());
        let added = node.run(&pod, "ADD", &conf);
        assert!(added.ok, "{added:?}");
        let mut child = node.start(PLUGIN, &pod, "ADD");
        drop(child.stdout.take());
        assert!(!finish(child, &conf).ok);
        assert_eq!((calls().as_str(), pod.links().len()), ("ADD ADD", 1), "what the first ADD made stays, and so does its address");
        let check = node.run(&pod, "CHECK", &with_result(&conf, &added.json()));
        assert!(check.ok, "{check:?}");
        assert!(node.run(&pod, "DEL", &conf).ok);
        assert_eq!((calls().as_str(), pod.links()), ("ADD ADD CHECK DEL", vec![]));
    });
}

#[cfg(target_arch = "x86_64")]
#[test]
fn cm2_an_address_of_another_plugin_is_not_given_back_while_something_of_the_wiring_stays() {
    use nix::errno::Errno;

    use crate::strike::{Blow, Strike, run_unheard};

    const SEND: [u64; 2] = [44, 46];
    on_a_node(1, |node| {
        let (pod, conf) = (node.sandbox("c1", "web-0"), noted_plugin());
        let whole = run_unheard(node, &pod, "ADD", &conf, None);
        assert_eq!((calls().as_str(), pod.links()), ("ADD DEL", vec![]), "all is taken back");
        let sends = whole.calls.iter().enumerate().filter(|(_, call)| SEND.contains(call));
        let strikes = sends.map(|(at, call)| Strike { at, call: *call, blow: Blow::Fail(Errno::ENOBUFS) });
        let mut stayed = 0;
        for strike in strikes {
            fs::write(CALLS, "").unwrap();
            run_unheard(node, &pod, "ADD", &conf, Some(strike));
            let stays = !pod.links().is_empty();
            assert!(!stays || calls() == "ADD", "{strike}: {}", calls());
            stayed += usize::from(stays);
            assert!(node.run(&pod, "DEL", &conf).ok);
            assert_eq!(pod.links(), [], "{strike}");
            assert!(calls().ends_with("DEL"), "{strike}: the runtime's DEL gives it back");
        }
        assert!(stayed > 0, "none of the blows met the way back");
    });
}

const CALLS: &str = "/run/others/calls";

/// A configuration with an address plugin that notes how it was called.
fn noted_plugin() -> Value {
    fs::create_dir_all("/run/others").unwrap();
    let given = json!({ "cniVersion": "1.0.0", "ips": [{ "address": "10.88.0.5/24", "gateway": "10.88.0.1" }] });
    let script = format!("#!/bin/sh\necho $CNI_COMMAND >> {CALLS}\n[ $CNI_COMMAND != ADD ] || echo '{given}'\n");
    fs::write("/run/others/noted", script).unwrap();
    run("chmod", &["+x", "/run/others/noted"]);
    fs::write(CALLS, "").unwrap();
    let mut conf = conf("1.0.0");
    conf["ipam"] = json!({ "type": "noted" });
    conf
}

fn calls() -> String {
    fs::read_to_string(CALLS).unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
}

fn with_result(conf: &Value, result: &Value) -> Value {
    let mut conf = conf.clone();
    conf["prevResult"] = result.clone();
    conf
}
